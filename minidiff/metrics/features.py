"""Feature networks: what a distance between two sets of images is measured in.

Rests on inception (the network of FID), classifier, images, decoded (the cache folder) and checkpoint.
Heusel et al. 2017 (FID); Parmar et al. 2022 (how much the resizing alone changes it).
"""

import hashlib
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from minidiff.classifier.run import load_classifier
from minidiff.data.cache import cache_dir
from minidiff.data.downloads import reason_of
from minidiff.errors import UserError, lookup, one_line
from minidiff.files import replacing, sha256_of
from minidiff.images.convert import Pixels, to_float
from minidiff.networks.inception import DIMS, IMAGE_SIZE, Inception
from minidiff.networks.weights import load_exactly
from minidiff.runtime import distributed
from minidiff.runtime.precision import full_precision


@dataclass(frozen=True)
class FeatureNetwork:
    """Images in, features out, and all that has to be said of how.

    compute: images, uint8 [n,H,W,3] or a list of uint8 [H,W,3] of any sizes, to features float32 [n,dims] and
    logits float32 [n,classes] (None where the network has none), both on the CPU.
    """

    name: str  # inception, or classifier
    mode: str  # the convention of resizing and normalising: a name of MODES, or `classifier`
    dims: int  # features of an image
    source: str  # the file or run folder of the weights
    sha256: str  # of the file of the weights
    published: bool  # whether these are the weights that published figures are measured with
    compute: Callable[[Pixels | Sequence[Pixels]], tuple[Tensor, Tensor | None]]


# --- from an image to the network's input: three conventions ------------------------------------------------------
#
# Each takes uint8 [n,3,H,W], on any device, and gives float32 [n,3,299,299] from -1 to about 1.


def as_pytorch_fid(images: Tensor) -> Tensor:
    """Bilinear, without antialiasing; black is -1 and white is 1."""
    return F.interpolate(images.float() / 255, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear") * 2 - 1


def as_torch_fidelity(images: Tensor) -> Tensor:
    """Bilinear as TensorFlow 1 had it: output pixel i lies at i * H / 299 of the input, not half a pixel further in.

    So a picture that is enlarged moves up and to the left. White is 127/128.
    """
    x = images.float()
    for axis in (3, 2):
        low, high, weight = tensorflow_positions(images.shape[axis], images.device)
        weight = weight if axis == 3 else weight[:, None]
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
    return (x - 128) / 128


def tensorflow_positions(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of 299 output pixels along one axis: the two neighbours in the input, and the share of the second."""
    position = torch.arange(IMAGE_SIZE, device=device) * torch.tensor(size / IMAGE_SIZE, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(size - 1), position - low


def as_clean_fid(images: Tensor) -> Tensor:
    """Pillow's bicubic, antialiased, of each channel as floating point, clipped to 0..255. White is 127/128.

    In float64, because Pillow computes its weights so: the two then agree to 3e-5 of 255, in float32 to 6e-3.
    """
    size = (IMAGE_SIZE, IMAGE_SIZE)
    x = F.interpolate(images.double(), size, mode="bicubic", antialias=True).clamp_(0, 255)
    return ((x - 128) / 128).float()


MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "pytorch-fid": as_pytorch_fid,
    "torch-fidelity": as_torch_fidelity,
    "clean": as_clean_fid,
}


def network_input(images: Pixels | Sequence[Pixels], mode: str, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [n,H,W,3], or a list of uint8 [H,W,3] of any sizes -> float32 [n,3,299,299], as this mode of MODES does.

    Images of one size are resized together. channels_last, the layout that images come in.
    """
    convert = lookup("mode", mode, MODES)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images are uint8 [H,W,3], not {image.dtype} {list(image.shape)}")
        rows_of.setdefault(image.shape, []).append(row)
    shape = (len(images), 3, IMAGE_SIZE, IMAGE_SIZE)
    inputs = torch.empty(shape, device=device, memory_format=torch.channels_last)
    for rows in rows_of.values():
        same = torch.from_numpy(np.stack([images[row] for row in rows])).to(device).permute(0, 3, 1, 2)
        if len(rows_of) == 1:
            return convert(same).contiguous(memory_format=torch.channels_last)
        inputs[rows] = convert(same)
    return inputs


# --- the weights of FID -------------------------------------------------------------------------------------------

PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PUBLISHED_BYTES = 95_628_359
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
SAME_BYTES = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name for the same file
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"


def find_weights() -> Path:
    """The published weights on this machine: in the cache folder, or where pytorch-fid and torch-fidelity put them.

    Downloaded to the cache folder if they are nowhere. Raises UserError when they cannot be.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (cache_dir(), hub):
        for name in (WEIGHTS, SAME_BYTES):
            if (folder / name).is_file():
                return folder / name
    path = cache_dir() / WEIGHTS
    try:
        download_weights(path)
    except (OSError, HTTPException, ValueError) as error:  # no net, no server, no room, or not these bytes
        raise UserError(
            f"no FID weights here, and no download ({reason_of(error)}). Put {WEIGHTS} (96 MB, from {URL}) in "
            f"{cache_dir()}, or pass --weights PATH."
        ) from None
    return path


def download_weights(path: Path) -> None:
    """Fetch URL to `path`, whole and with the published hash, or leave nothing there.

    Raises OSError, HTTPException or ValueError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, silence = hashlib.sha256(), 20  # seconds: a firewall must not look like a slow server
    bar = tqdm(total=PUBLISHED_BYTES, desc="downloading the FID weights", unit="B", unit_scale=True, leave=False,
               delay=1, disable=None)  # fmt: skip
    with bar, urllib.request.urlopen(URL, timeout=silence) as answer, replacing(path) as file:
        while block := answer.read(1 << 20):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
        if digest.hexdigest() != PUBLISHED_SHA256:
            raise ValueError(f"the server sent {bar.n:,} bytes with the SHA-256 {digest.hexdigest()[:8]}...")


def load_inception(weights: Path | None = None) -> tuple[Inception, Path, str]:
    """The network with its weights, folded; where they came from; their SHA-256. Raises UserError.

    weights: any file that fits exactly. Without it, the published ones, and their hash must be right.
    """
    path = weights or find_weights()
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}. Check --weights.") from None
    if weights is None and sha256 != PUBLISHED_SHA256:
        raise UserError(
            f"{path} is not the published file: {path.stat().st_size:,} bytes with the SHA-256 {sha256[:8]}..., not "
            f"{PUBLISHED_BYTES:,} with {PUBLISHED_SHA256[:8]}.... Remove it to download it anew, or use it as it is "
            f"with --weights {path}."
        )
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise ValueError("no table of tensors")
    except Exception as error:  # whatever bytes are there: the restricted unpickler fails on them in many ways
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights ({one_line(error)}). It may be cut "
            f"short; {WEIGHTS} has {PUBLISHED_BYTES:,} bytes."
        ) from None
    network = Inception()
    counters = {name: own for name, own in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_exactly(network, counters | tensors, path, f"--weights takes a file like {WEIGHTS}")
    return network.fold(), path, sha256


# --- the network --------------------------------------------------------------------------------------------------


def inception_features(
    dims: int = 2048, mode: str = "pytorch-fid", weights: Path | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """The network of FID as a feature network.

    dims: 64, 192, 768 or 2048, where it ends. mode: a name of MODES. weights: a file that fits exactly; without it the
    published ones, searched for and downloaded. The logits are without bias, as the Inception Score takes them, and
    only there at 2048. Raises UserError.
    """
    lookup("mode", mode, MODES)
    if dims not in DIMS:
        raise UserError(
            f"--dims {dims} is not a place where Inception has features. Known: {', '.join(map(str, DIMS))}."
        )
    network, path, sha256 = load_inception(weights)
    network.to(device)
    resizing = "cpu" if torch.device(device).type == "mps" else device  # Apple's GPUs have no float64

    @torch.no_grad()
    def compute(images: Pixels | Sequence[Pixels]) -> tuple[Tensor, Tensor | None]:
        with full_precision():
            features = network(network_input(images, mode, resizing).to(device), dims)
            logits = network.logits(features, bias=False).cpu() if dims == 2048 else None
        return features.cpu(), logits

    return FeatureNetwork("inception", mode, dims, str(path), sha256, sha256 == PUBLISHED_SHA256, compute)


# --- a classifier in its place ------------------------------------------------------------------------------------


def classifier_features(folder: str | Path, device: torch.device | str = "cpu") -> FeatureNetwork:
    """What the last layer of a trained classifier sees, for data that ImageNet knows nothing of. Raises UserError."""
    config, network, sha256 = load_classifier(folder, device)
    channels, size = config["data"]["channels"], config["data"]["image_size"]

    @torch.no_grad()
    def compute(images: Pixels | Sequence[Pixels]) -> tuple[Tensor, Tensor | None]:
        with full_precision():
            features = network.features(as_trained(images, channels, size).to(device))
            return features.cpu(), network.fc(features).cpu()

    return FeatureNetwork("classifier", "classifier", network.fc.in_features, str(folder), sha256, False, compute)


def as_trained(images: Pixels | Sequence[Pixels], channels: int, size: int) -> Tensor:
    """uint8 [n,H,W,3] or a list of uint8 [H,W,3] -> float32 [n,channels,size,size] in [-1,1], as a classifier had them.

    Grey by the weights of ITU-R BT.601. Where the size is another: bicubic, antialiased; but from 28 to 32 a black
    margin, since so it is with MNIST's likes in data.py.
    """
    inputs = [torch.empty(0, channels, size, size)]  # under torchrun a process may have no image of the last batch
    sizes = {image.shape for image in images}
    for group in [images] if len(sizes) == 1 else [[image] for image in images]:
        x = to_float(np.array(group))  # a copy: what comes out of a file may be read-only
        if channels == 1:
            x = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        if x.shape[2:] == (28, 28) and size == 32:
            x = F.pad(x, (2, 2, 2, 2), value=-1)
        elif x.shape[2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
        inputs.append(x)
    return torch.cat(inputs).contiguous(memory_format=torch.channels_last)


def choose(
    name: str,
    *,
    weights: str | Path | None = None,
    dims: int | None = None,
    mode: str | None = None,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """`inception`, with the options of `inception_features`, or the run folder of a classifier. Raises UserError.

    Under torchrun the main process comes first: what has to be downloaded is so once.
    """
    if name != "inception":
        given = {"weights": weights, "dims": dims, "mode": mode}
        if wrong := next((option for option, value in given.items() if value is not None), None):
            raise UserError(f"--{wrong} is Inception's, and the features are those of {name}. Leave one of them out.")
        if not Path(name).expanduser().exists():
            raise UserError(f"the features {name} are neither inception nor a run. `minidiff info` lists the runs.")
        return classifier_features(name, device)
    if weights is None:
        distributed.main_first(find_weights)
    return inception_features(dims or 2048, mode or "pytorch-fid", Path(weights) if weights else None, device)
