"""Images to features: the three conventions of resizing against their makers, and weights good and bad."""

import hashlib
import io
import os
import urllib.error
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import peers
import pytest
import torch
from PIL import Image

from minidiff.errors import UserError
from minidiff.images.convert import Pixels
from minidiff.metrics import inception_weights
from minidiff.metrics.features import inception_features
from minidiff.metrics.inception_weights import FIDELITY_FILE, PUBLISHED_FILE, PUBLISHED_SHA256, find_weights
from minidiff.metrics.resizing import MODES, network_input
from minidiff.runtime.precision import full_precision

SIZES = [(299, 299), (32, 32), (64, 48), (500, 333), (301, 90), (2, 3)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.weights_file(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def pictures() -> dict[str, Pixels]:
    """Two of each size, and 28x28 grey ones repeated to RGB."""
    found = {f"{h}x{w}": peers.pictures(2, h, w, seed=h) for h, w in SIZES}
    return found | {"grey": peers.pictures(2, 28, 28)[..., :1].repeat(3, axis=3)}


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of any feature, in units of the features' mean size."""
    return ((ours - theirs).abs().max() / theirs.abs().mean()).item()


# --- against the peers --------------------------------------------------------------------------------------------


def test_pytorch_fid_mode(weights: Path, pictures: dict[str, Pixels]) -> None:
    """Within 1e-4 for every size (seen: 1e-5). With another mode's resizing: 0.005 to 0.3; its scaling alone: 0.003."""
    ours, theirs = inception_features(weights=weights), peers.pytorch_fid_network(weights)
    for size, images in pictures.items():
        one = images[:1]
        assert distance(ours.compute(one)[0], peers.pytorch_fid_features(theirs, one)[0]) < 1e-4, size


def test_torch_fidelity_mode(weights: Path, pictures: dict[str, Pixels]) -> None:
    """Features and the logits of the Inception Score, within 1e-4 for every size."""
    ours = inception_features(mode="torch-fidelity", weights=weights)
    theirs = peers.torch_fidelity_network(weights, "2048", "logits_unbiased")
    for size, images in pictures.items():
        computed, logits = ours.compute(images[:1])
        assert logits is not None
        for mine, other in zip((computed, logits), peers.torch_fidelity_features(theirs, images[:1]), strict=True):
            assert distance(mine, other) < 1e-4, size


def test_smaller_dims(weights: Path, pictures: dict[str, Pixels]) -> None:
    """Both peers' conventions at the other depths; no logits there."""
    images, dims = pictures["64x48"][:1], (64, 192, 768)
    found = {
        "pytorch-fid": peers.pytorch_fid_features(peers.pytorch_fid_network(weights, *dims), images),
        "torch-fidelity": peers.torch_fidelity_features(peers.torch_fidelity_network(weights, *map(str, dims)), images),
    }
    for mode, expected in found.items():
        for d, theirs in zip(dims, expected, strict=True):
            computed, logits = inception_features(d, mode, weights).compute(images)
            assert logits is None and computed.shape == (1, d) and computed.dtype == torch.float32
            assert distance(computed, theirs) < 1e-4, (mode, d)


def test_clean_mode_is_pillow(pictures: dict[str, Pixels]) -> None:
    """Each channel as a floating-point picture of Pillow's, bicubic, clipped: within 5e-5 of 255 (float32: 6e-3)."""
    cases = {**pictures, "300x298": peers.pictures(1, 300, 298), "1000x40": peers.pictures(1, 1000, 40)}
    clipped = 0
    for size, images in cases.items():
        ours = network_input(images, "clean").permute(0, 2, 3, 1).numpy() * 128 + 128
        for image, mine in zip(images, ours, strict=True):
            channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
            resized = np.stack([np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in channels], 2)
            clipped += int(((resized < 0) | (resized > 255)).sum())
            assert np.abs(mine - resized.clip(0, 255)).max() < 5e-5, size
    assert clipped > 1000


@pytest.mark.parametrize(
    ("mode", "black", "white"), [("pytorch-fid", -1, 1), ("torch-fidelity", -1, 127 / 128), ("clean", -1, 127 / 128)]
)
def test_black_and_white(mode: str, black: float, white: float) -> None:
    both = np.zeros((2, 40, 50, 3), np.uint8)
    both[1] = 255
    dark, light = network_input(both, mode)
    assert dark.shape == (3, 299, 299)
    assert torch.allclose(dark, torch.tensor(float(black))) and torch.allclose(light, torch.tensor(float(white)))


@pytest.mark.parametrize("mode", MODES)
def test_images_of_mixed_sizes(pictures: dict[str, Pixels], mode: str) -> None:
    """A list of any sizes: each as if it were alone, in its place; the layout is channels_last either way."""
    mixed = [pictures[size][row] for row in (0, 1) for size in ("64x48", "299x299", "grey", "301x90")]
    together = network_input(mixed, mode)
    for image, row in zip(mixed, together, strict=True):
        assert torch.equal(row, network_input([image], mode)[0])
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert network_input(pictures["64x48"], mode).is_contiguous(memory_format=torch.channels_last)


def test_wrong_images() -> None:
    for wrong in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 1), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="images are uint8"):
            network_input(wrong, "clean")
    with pytest.raises(UserError, match="unknown mode 'clear'. Did you mean 'clean'"):
        network_input(np.zeros((1, 8, 8, 3), np.uint8), "clear")


# --- the network as a whole ---------------------------------------------------------------------------------------


def test_what_is_said_of_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode, dims, file and hash; published only with the published hash."""
    network = inception_features(192, "clean", weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (network.name, network.mode, network.dims, network.source) == ("inception", "clean", 192, str(weights))
    assert network.sha256 == sha256 and not network.published
    monkeypatch.setattr(inception_weights, "PUBLISHED_SHA256", sha256)
    assert inception_features(weights=weights).published
    with pytest.raises(UserError, match="`dims` is 100.* Choose from 64, 192, 768, 2048."):
        inception_features(100, weights=weights)


def test_full_precision() -> None:
    """Within, neither TF32 nor bfloat16, whichever switch was used; afterwards all is as before."""
    layer, x = torch.nn.Linear(64, 64), torch.randn(8, 64)
    exact = layer(x)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with full_precision():
                assert torch.equal(layer(x), exact)
                if hasattr(torch.backends.cudnn, "conv"):
                    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
                    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                else:
                    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            assert layer(x).dtype == torch.bfloat16
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees(weights: Path, pictures: dict[str, Pixels]) -> None:
    """Within 1e-4; TF32 would give 1e-3 and more."""
    for mode in MODES:
        on_cpu = inception_features(mode=mode, weights=weights).compute(pictures["64x48"])[0]
        on_gpu = inception_features(mode=mode, weights=weights, device="cuda").compute(pictures["64x48"])[0]
        assert on_gpu.device.type == "cpu" and distance(on_gpu, on_cpu) < 1e-4


# --- weights good and bad -----------------------------------------------------------------------------------------


@pytest.fixture()
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty cache folder and an empty folder of torch hub's, and no network."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    answer(monkeypatch, urllib.error.URLError("Name or service not known"))
    return tmp_path / "cache", tmp_path / "hub" / "checkpoints"


def answer(monkeypatch: pytest.MonkeyPatch, what: bytes | Exception) -> None:
    """Let the server answer so."""

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url.endswith(PUBLISHED_FILE) and timeout <= 60
        if isinstance(what, Exception):
            raise what
        return io.BytesIO(what)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message and "{" not in message
    return message


def test_no_weights_and_no_network(places: tuple[Path, Path]) -> None:
    """Which file to put where; no folder or fragment stays in the cache."""
    with pytest.raises(UserError) as error:
        inception_features()
    message = one_line(error)
    assert "Name or service not known" in message and "96 MB" in message and "name the file with `weights`" in message
    assert PUBLISHED_FILE in message and f"{places[0]}," in message and "https://github.com/mseitzer" in message
    assert list(places[0].rglob("*")) == []


def test_downloaded_whole_or_not_at_all(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The full hash is checked before the file takes its name."""
    content = b"weights" * 1000
    for wrong in (content[:-1], b"<html>", IncompleteRead(b""), TimeoutError("timed out"), OSError(28, "No space")):
        answer(monkeypatch, wrong)
        with pytest.raises(UserError) as error:
            find_weights()
        assert "cannot be downloaded" in one_line(error)
        if isinstance(wrong, bytes):
            assert f"sent {len(wrong):,} bytes" in one_line(error)
        assert list(places[0].rglob("*")) == []
    monkeypatch.setattr(inception_weights, "PUBLISHED_SHA256", hashlib.sha256(content).hexdigest())
    answer(monkeypatch, content)
    assert find_weights() == places[0] / PUBLISHED_FILE
    assert (places[0] / PUBLISHED_FILE).read_bytes() == content
    answer(monkeypatch, AssertionError("asked twice"))
    assert find_weights() == places[0] / PUBLISHED_FILE


@pytest.mark.parametrize("name", [PUBLISHED_FILE, FIDELITY_FILE])
def test_the_peers_weights_are_found(places: tuple[Path, Path], name: str) -> None:
    """What pytorch-fid or torch-fidelity fetched lies in torch hub's folder; our own cache comes first."""
    for folder in reversed(places):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        assert find_weights() == folder / name


def test_found_weights_must_be_the_published(places: tuple[Path, Path], weights: Path) -> None:
    """A download of another program's, cut short, is not taken for the network of FID; named by the user it is used."""
    places[0].mkdir()
    os.link(weights, places[0] / PUBLISHED_FILE)
    with pytest.raises(UserError, match="is not the published file: .* Remove it") as error:
        inception_features()
    one_line(error)


def test_weights_that_do_not_fit(tmp_path: Path, weights: Path) -> None:
    """Cut short, of something else, of another network, missing or a folder: a line that names the file."""
    good = torch.load(weights, weights_only=True)
    wrong: dict[str, object] = {
        "cut.pth": weights.read_bytes()[:1_000_000],
        "text.pth": b"not weights",
        "empty.pth": b"",
        "list.pth": [torch.zeros(3)],
        "numbers.pth": {"step": 3},
        "few.pth": {name: good[name] for name in list(good)[:50]},
        "more.pth": good | {"AuxLogits.fc.weight": torch.zeros(3)},
        "classes.pth": good | {"fc.weight": torch.zeros(1000, 2048)},
    }
    said = {
        "cut.pth": "cannot be read as weights", "text.pth": "cannot be read as weights",
        "empty.pth": "cannot be read as weights", "list.pth": "not a table of tensors",
        "numbers.pth": "not a table of tensors",
        "few.pth": "is missing; .* and 427 more. Nothing was loaded; `weights`",
        "more.pth": "AuxLogits.fc.weight is not of this network",
        "classes.pth": r"fc.weight is \[1000, 2048\], not \[1008, 2048\]",
        "absent.pth": "No such file", "": "is a folder",
    }  # fmt: skip
    for name, pattern in said.items():
        path = tmp_path / name
        if isinstance(content := wrong.get(name), bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UserError, match=pattern) as error:
            inception_features(weights=path)
        assert str(path) in one_line(error)


def test_counters_may_be_left_out(tmp_path: Path, weights: Path, pictures: dict[str, Pixels]) -> None:
    """num_batches_tracked has no part in the features, and some files come without."""
    bare = {n: t for n, t in torch.load(weights, weights_only=True).items() if not n.endswith("num_batches_tracked")}
    assert len(bare) == 472
    torch.save(bare, tmp_path / "bare.pth")
    computed = inception_features(64, weights=tmp_path / "bare.pth").compute(pictures["grey"])[0]
    assert torch.equal(computed, inception_features(64, weights=weights).compute(pictures["grey"])[0])


def test_the_published_hash_is_the_files() -> None:
    """The file's name ends with how its hash begins."""
    assert len(PUBLISHED_SHA256) == 64 and Path(PUBLISHED_FILE).stem.endswith(PUBLISHED_SHA256[:8])
