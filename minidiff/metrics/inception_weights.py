"""The weights of FID's network: found on this machine or downloaded, checked, and loaded.

Rests on inception (the network) and on the cache folder. Heusel et al. 2017.
"""

import hashlib
import logging
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from minidiff.data.cache import cache_dir
from minidiff.data.downloads import reason_of
from minidiff.errors import UserError, one_line
from minidiff.files import replacing, sha256_of
from minidiff.networks.inception import Inception
from minidiff.networks.weights import load_exactly, read_saved
from minidiff.runtime.progress import progress_bar

LOG = logging.getLogger(__name__)

PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PUBLISHED_BYTES = 95_628_359
PUBLISHED_FILE = "pt_inception-2015-12-05-6726825d.pth"
FIDELITY_FILE = "weights-inception-2015-12-05-6726825d.pth"  # the same bytes, under the name of torch-fidelity
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{PUBLISHED_FILE}"


def find_weights(instead: str = "name the file with `weights`") -> Path:
    """Find the published weights: in the cache folder, or where pytorch-fid and torch-fidelity put them.

    If they are in neither place, download them to the cache folder. Raise UserError if that fails.
    instead: what else the user can do, for the message.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (cache_dir(), hub):
        for name in (PUBLISHED_FILE, FIDELITY_FILE):
            if (folder / name).is_file():
                return folder / name
    path = cache_dir() / PUBLISHED_FILE
    try:
        download_weights(path)
    except (OSError, HTTPException, ValueError) as error:  # no net, no server, no room, or not these bytes
        raise UserError(
            f"the FID weights are not on this machine and cannot be downloaded ({reason_of(error)}). "
            f"Put {PUBLISHED_FILE} (96 MB, from {URL}) in {cache_dir()}, or {instead}."
        ) from None
    return path


def download_weights(path: Path) -> None:
    """Download URL to `path`. Leave nothing there unless it is whole and has the published hash.

    Raise OSError, HTTPException or ValueError.
    """
    LOG.info(f"fetching {URL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, received, silence = hashlib.sha256(), 0, 20  # seconds without an answer, as behind a firewall
    bar = progress_bar(PUBLISHED_BYTES, "downloading the FID weights", unit="B", scaled=True, delay=1)
    with bar, urllib.request.urlopen(URL, timeout=silence) as answer, replacing(path) as file:
        while block := answer.read(1 << 20):
            file.write(block)
            digest.update(block)
            received += len(block)
            bar.update(len(block))
        if digest.hexdigest() != PUBLISHED_SHA256:
            raise ValueError(f"the server sent {received:,} bytes with the SHA-256 {digest.hexdigest()[:8]}...")


def load_inception(weights: Path | None = None) -> tuple[Inception, Path, str]:
    """Return Inception with its weights, folded; the file of the weights; and its SHA-256.

    weights: any file that fits exactly; None: the published file, whose hash must be right. Raise UserError.
    """
    path = weights or find_weights()
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}. Check `weights`.") from None
    if weights is None and sha256 != PUBLISHED_SHA256:
        raise UserError(
            f"{path} is not the published file: {path.stat().st_size:,} bytes with the SHA-256 {sha256[:8]}..., not "
            f"{PUBLISHED_BYTES:,} with {PUBLISHED_SHA256[:8]}.... Remove it to download it again, or name it with "
            "`weights` to use it as it is."
        )
    try:
        tensors = read_saved(path)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise ValueError("it is not a table of tensors")
    except Exception as error:  # on arbitrary bytes the restricted unpickler fails in many ways
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights ({one_line(error)}). It may be cut "
            f"short: {PUBLISHED_FILE} has {PUBLISHED_BYTES:,} bytes."
        ) from None
    network = Inception()
    counters = {name: own for name, own in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_exactly(network, counters | tensors, path, f"`weights` takes a file like {PUBLISHED_FILE}")
    LOG.info(f"read the weights of Inception from {path}")
    return network.fold(), path, sha256
