"""Weights as diffusers and its training scripts leave them: averages, variants, shards; and folders of lucidrains'."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.training_utils import EMAModel
from diffusers_folders import SMALL, edit, peer, save
from safetensors.torch import load_file, save_file

from minidiff import cli, load
from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.interop.checkpoints import open_checkpoint
from minidiff.interop.weight_files import read_weights

PLAIN = "diffusion_pytorch_model.safetensors"
INDEX = f"{PLAIN}.index.json"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def network() -> diffusers.UNet2DModel:
    return peer(SMALL | {"layers_per_block": 1})


def holds(place: Path, network: torch.nn.Module, atol: float = 0) -> tuple[str, ...]:
    """Assert that a folder opens with the weights of this network; return what is said of them."""
    found = open_checkpoint(place)
    ours, theirs = found.tensors["conv_in.weight"], network.state_dict()["conv_in.weight"].float()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    run = load(place)
    assert run.config.source is not None
    return run.config.source.weights


# ---- averages ----


def averaged(network: diffusers.UNet2DModel, place: Path) -> diffusers.UNet2DModel:
    """Let the peer's EMAModel write `place`; return the network that it wrote."""
    average = EMAModel(network.parameters(), decay=0.99, model_cls=diffusers.UNet2DModel, model_config=network.config)
    with torch.no_grad():
        average.shadow_params = [parameter + 1 for parameter in average.shadow_params]
    average.save_pretrained(place)
    return diffusers.UNet2DModel.from_pretrained(place)


def test_a_training_script_s_folders_open(network, tmp_path):
    """OUT/checkpoint-500/unet and unet_ema, and OUT/scheduler, as train_unconditional.py writes them.

    Fails when a key of EMAModel is unknown, when the scheduler is not looked for above, or the wrong one is opened.
    """
    out = save(network, tmp_path / "out")
    other = averaged(network, out / "checkpoint-500" / "unet_ema")
    (said,) = holds(out / "checkpoint-500" / "unet_ema", other)
    assert "average over a training (decay 0.99, step 0)" in said
    (said,) = holds(out / "checkpoint-500", other)  # it is the only one there
    network.save_pretrained(out / "checkpoint-500" / "unet")
    assert holds(out / "checkpoint-500" / "unet", network) == ()
    (said,) = holds(out / "checkpoint-500", network)  # as the peer's pipeline does
    assert "unet_ema/, the averaged weights, beside unet/, which is used" in said
    with pytest.raises(UserError, match="the key gamma"):
        edit(out / "checkpoint-500" / "unet_ema" / "config.json", gamma=1)
        load(out / "checkpoint-500" / "unet_ema")


# ---- variants ----


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [("fp16", torch.float16), pytest.param("bf16", torch.bfloat16, marks=pytest.mark.slow),
     pytest.param("non_ema", None, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_variant_opens_where_it_is_alone(variant, dtype, network, tmp_path, capsys):
    """As save_pretrained writes it. Beside the plain weights it is left aside, as the peer does."""
    half = peer(SMALL | {"layers_per_block": 1}).to(dtype or torch.float32)
    save(half, tmp_path / "half", flat=True)
    (tmp_path / "half" / PLAIN).unlink()
    half.save_pretrained(tmp_path / "half", variant=variant)
    (said,) = holds(tmp_path / "half", half)
    assert f"the variant {variant}" in said and (dtype is None or f"stored as {str(dtype)[6:]}" in said)
    assert cli.run(["import", str(tmp_path / "half"), "run"]) == 0
    assert f"note      its weights are the variant {variant}" in capsys.readouterr().out
    network.save_pretrained(tmp_path / "half")
    assert holds(tmp_path / "half", network) == ()


def test_of_several_variants_none_is_chosen(network, tmp_path):
    folder = save(network, tmp_path / "two", flat=True)
    (folder / PLAIN).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(folder / "diffusion_pytorch_model.fp16.safetensors", folder / "diffusion_pytorch_model.ema.safetensors")
    with pytest.raises(UserError, match="the variants ema and fp16. Leave one"):
        load(folder)


def test_half_precision_under_the_plain_name_is_said(tmp_path):
    half = peer(SMALL).half()
    (said,) = holds(save(half, tmp_path / "half", flat=True), half)
    assert said == "its weights are stored as float16 and computed with as float32"


# ---- shards ----


@pytest.fixture()
def shards(network, tmp_path: Path) -> Path:
    """The network in several shards, written by the peer."""
    save(network, tmp_path / "sharded", flat=True)
    (tmp_path / "sharded" / PLAIN).unlink()
    network.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*-of-*"))) > 1
    return tmp_path / "sharded"


def test_shards_open(shards, network):
    """Every tensor, by safetensors, by .bin, and as a variant."""
    count = len(list(shards.glob("*-of-*")))
    assert holds(shards, network) == (f"its weights are in {count} shards",)
    stored = read_weights(shards)
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in network.state_dict().items())
    for options, said in (({"safe_serialization": False}, "in"), ({"variant": "fp16"}, "the variant fp16, in")):
        for path in shards.glob("diffusion*"):
            path.unlink()
        network.save_pretrained(shards, max_shard_size="300KB", **options)
        assert len(list(shards.glob("*.index*.json"))) == 1
        assert holds(shards, network) == (f"its weights are {said} {count} shards",)


def edit_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def first(folder: Path) -> Path:
    return min(folder.glob("*-00001-of-*"))


def grow(folder: Path) -> None:
    save_file(load_file(first(folder)) | {"more": torch.ones(1)}, first(folder))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is missing": (lambda folder: first(folder).unlink(), "names diffusion.*00001-of.*, which is missing"),
    "one shard more": (
        lambda folder: shutil.copy(first(folder), folder / "diffusion_pytorch_model-00009-of-00009.safetensors"),
        "does not name diffusion_pytorch_model-00009-of-00009.safetensors. Leave only",
    ),
    "outside": (
        edit_index(lambda table: table.update(x="../secret-00001-of-00002.safetensors")),
        "names '../secret-00001-of-00002.safetensors', which is not the name of a shard",
    ),
    "absolute": (edit_index(lambda table: table.update(x="/etc/passwd")), "'/etc/passwd', which is not the name"),
    "control codes": (edit_index(lambda table: table.update(x="\x1b[31m")), r"names '\\x1b\[31m', which is not"),
    "a number": (edit_index(lambda table: table.update(x=3)), "has no weight_map"),
    "no table": (lambda folder: (folder / INDEX).write_text('{"weight_map": []}'), "has no weight_map"),
    "cut": (lambda folder: (folder / INDEX).write_text('{"weight'), "is no JSON"),
    "a tensor elsewhere": (
        edit_index(lambda table: table.update({"conv_in.bias": max(table.values())})),
        "conv_in.bias is not in diffusion_pytorch_model-",
    ),
    "a tensor more": (grow, "'more' in diffusion_pytorch_model-00001-of-.* is not in the index"),
    "no index": (lambda folder: (folder / INDEX).unlink(), "without an index cannot be read"),
    "twice": (lambda folder: save_file({"x": torch.ones(1)}, folder / PLAIN), "twice, whole and in shards"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_shards_that_do_not_fit_are_one_line(name, shards, capsys):
    damage, message = DAMAGE[name]
    damage(shards)
    with pytest.raises(UserError, match=message):
        load(shards)
    assert cli.run(["sample", str(shards), "--out", "x.png"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not Path("x.png").exists()


# ---- denoising-diffusion-pytorch ----


@pytest.mark.parametrize(
    "command",
    ["import results run", "sample results", "info results", "fid results results", "export results out",
     "fid results/model-2.pt results", "restore results/sample-1.png --model results"],
)  # fmt: skip
def test_a_folder_of_results_gets_the_message_of_its_files(command, capsys):
    """The newest of them, by number, though pictures lie beside it; wherever a folder can be given."""
    shapes = {"init_conv.weight": (8, 3, 7, 7), "time_mlp.1.weight": (32, 8), "final_conv.weight": (3, 8, 1, 1),
              "downs.0.0.block1.proj.weight": (8, 8, 3, 3)}  # fmt: skip
    model = {f"model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    Path("results").mkdir()
    for number in (2, 10):
        torch.save({"step": 1000 * number, "model": model, "opt": {}, "scaler": None}, f"results/model-{number}.pt")
    write_image("results/sample-1.png", torch.zeros(16, 16, 3, dtype=torch.uint8).numpy())
    assert cli.run(command.split()) == 1
    said = capsys.readouterr().err
    file, steps = ("model-2.pt", "2,000") if "model-2" in command else ("model-10.pt", "10,000")
    assert f"results/{file} is of denoising-diffusion-pytorch (dim 8, mults , {steps} steps)" in said
    assert said.count("\n") == 1


def test_pictures_beside_other_weights_are_still_pictures(capsys):
    """A file that is only called like theirs does not keep anybody from measuring the pictures."""
    Path("pictures").mkdir()
    torch.save({"w": torch.zeros(1)}, "pictures/model-1.pt")
    assert cli.run(["fid", "pictures", "pictures"]) == 1
    assert "denoising" not in capsys.readouterr().err


def test_info_of_a_checkpoint_says_which_commands_take_it(network, tmp_path, capsys):
    save(network, tmp_path / "theirs")
    for place in ("theirs", "theirs/unet"):
        assert cli.run(["info", place]) == 1
        assert f"{place} is a checkpoint of diffusers" in capsys.readouterr().err
