"""From a request to a fit that can start, and from a run folder to one that goes on.

Rests on dip.fit and networks.dip for the parts, and on dip.job for what they become. Here the pictures are read, and
network and early stop are suited to their size. Whatever is wrong is found before anything is written.

job = begin("photo.png", FitRequest(noise_sigma=25))
print(job.describe()); result = job.run()
"""

import hashlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from minidiff._version import __version__
from minidiff.dip.config import OFF, RESULT, DipConfig, FitRequest, FitResult, NetConfig, StopConfig
from minidiff.dip.early_stop import EARLY_STOPS
from minidiff.dip.fit import NET_STREAM, NOISE_STREAM, Fitter
from minidiff.dip.job import DipJob
from minidiff.dip.memory import check_memory, check_window
from minidiff.errors import UserError, listed, lookup
from minidiff.files import hold, read_json
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import image_shape, read_fitted, read_image
from minidiff.networks.dip import DIP_NETS
from minidiff.records import from_json
from minidiff.rng import Draws, seed_from
from minidiff.runs import folder as run_folder

WINDOW_BYTES = 128 << 20  # what the early stop's window may hold; larger pictures are watched at a lower resolution
LOCAL = ("conv2", "cnn")  # without a bottleneck: they learn nothing from noise, of which they see a few pixels

Device = torch.device | str


def begin(
    image: str | Path,
    request: FitRequest,
    device: Device = "cpu",
    out: str | Path | None = None,
    deliver: bool = False,
) -> DipJob:
    """Prepare a new fit of one picture. Whatever can be wrong raises UserError here, before anything is written.

    out: the run folder to make; None takes the next free one under runs/. deliver: noted in the
    config, for the command line.
    """
    if out is not None:
        run_folder.check_free(Path(out))
    config = settle(os.path.abspath(image), request, deliver)
    job = build(config, device, out)
    job.config = replace(config, digest=digest_of(job.target, job.mask))
    return job


def reopen(folder: str | Path, device: Device = "cpu", steps: int | None = None) -> DipJob:
    """Open the fit of a run folder at its last state. Raises UserError if it is damaged, or its pictures changed.

    steps: a new number of steps; then all comes out as if it had been asked for at first. Without a saved state the fit
    begins again. The folder is held from now on until the fit has run.
    """
    folder = Path(folder)
    read_dip(folder)  # before the lock, which is a file, is laid into it
    with hold(folder) as held:
        job = read_job(folder, device, steps)
        job.held = held.pop_all()
    return job


def read_job(folder: Path, device: Device, steps: int | None) -> DipJob:
    """Read all that a run folder holds of a fit, and prepare to go on with it: see `reopen`."""
    config = read_dip(folder)
    if steps is not None:
        config = replace(config, fit=replace(config.fit, steps=steps))
    job = build(config, device, folder)
    if digest_of(job.target, job.mask) != config.digest:
        raise UserError(
            f"{config.image}, or its mask, is not what {folder} began with. Bring it back, or start a new run."
        )
    job.folder = folder
    state = run_folder.read_state(folder)
    if state is not None:
        job.load_state_dict(state, str(folder / run_folder.STATE))
    if job.fitter.step >= config.fit.steps:
        raise UserError(f"{folder} has taken {job.fitter.step:,} steps already. Give more `steps` than that.")
    return job


def read_dip(folder: Path) -> DipConfig:
    """Read the config.json of the fit of one picture. Raises UserError."""
    return from_json(DipConfig, run_folder.read_config(folder, kind="dip"), folder / run_folder.CONFIG)


def finished(folder: Path, steps: int) -> FitResult | None:
    """Read the result of a fit; None if it has none yet, or if it can go on because it has taken fewer than `steps`.

    A fit that was stopped early is finished, whatever the number of steps. One whose state is of an earlier step than
    its result is not: a kill came between the two, and what is left of the fit is done again.
    """
    if not (folder / RESULT).exists():
        return None
    result = from_json(FitResult, read_json(folder / RESULT), folder / RESULT)
    if result.stopped:
        return result
    state = run_folder.read_state(folder)
    behind = state is not None and state["step"] < result.steps
    return None if behind or result.steps < steps else result


# --- from a request to a config -----------------------------------------------------------------------------------


def settle(image: str, request: FitRequest, deliver: bool = False) -> DipConfig:
    """Decide everything that the request leaves open, to suit the picture; only the digest is not known yet."""
    target = read_picture(image, request.size, request.max_pixels)
    channels = colours(target)
    fit = request.fit_config(request.input or ("image" if request.net in LOCAL else "noise"))
    height, width = (side * fit.enlargement for side in target.shape[:2])
    stopping = request.early_stop != OFF
    return DipConfig(
        minidiff=__version__,
        kind="dip",
        image=image,
        size=request.size,
        mask=os.path.abspath(request.mask) if request.mask else None,
        reference=os.path.abspath(request.reference) if request.reference else None,
        noise_sigma=request.noise_sigma,
        net=net_config(request, min(height, width), channels if fit.input_kind == "image" else 32, channels),
        fit=fit,
        early_stop=stop_config(request, (height, width, channels)) if stopping else None,
        save_every=request.save_every,
        digest="",
        deliver=deliver,
        max_pixels=request.max_pixels,
    )


def net_config(request: FitRequest, side: int, in_channels: int, out_channels: int) -> NetConfig:
    """Choose the settings of the network. An hourglass gets as many scales as `side` has room for, unless asked."""
    config = NetConfig(
        request.net,
        request.layers,
        request.channels,
        request.kernel_size,
        request.scales,
        request.weights,
        in_channels,
        out_channels,
    )
    if "scales" in taken("net", config, DIP_NETS) and config.scales is None:
        # Five as published, fewer for a thumbnail: the coarsest level keeps four pixels.
        return replace(config, scales=max(1, min(5, int(math.log2(max(side, 2))) - 2)))
    return config


def taken(what: str, config: NetConfig | StopConfig, builders: Mapping[str, Callable[..., object]]) -> list[str]:
    """List the settings that a network or an early stop takes. Raises UserError if the config has one for others."""
    takes = list(inspect.signature(lookup(what, config.name, builders)).parameters)
    for key in config.settings():
        if key not in takes:
            owners = [other for other, build in builders.items() if key in inspect.signature(build).parameters]
            name = what.replace(" ", "_")
            raise UserError(
                f"`{key}` belongs to {listed(owners)}, not {config.name}. Leave it out, or change `{name}`."
            )
    return takes


def stop_config(request: FitRequest, shape: tuple[int, int, int]) -> StopConfig:
    """Choose the settings of the early stop, for an image of `shape` (height, width, channels).

    The patience is the published 1000 from 250 pixels a side, and below that 4 for each pixel. A small picture's noise
    is learnt so soon that within 1000 steps the statistic would fall again, below the minimum that counts
    (docs/dip.md). A window watches the outputs at the resolution for which there is room.
    """
    name = request.early_stop
    takes = inspect.signature(lookup("early stop", name, EARLY_STOPS)).parameters
    suited = max(100, min(takes["patience"].default, 4 * min(shape[:2])))
    config = StopConfig(name, request.patience or suited)
    if "window" in takes:
        window = request.window or int(takes["window"].default)
        downscale = math.ceil(math.sqrt(4 * window * math.prod(shape) / WINDOW_BYTES))
        return replace(config, window=window, downscale=min(downscale, *shape[:2]))
    if request.window:
        raise UserError(f"`window` belongs to `early_stop` window, not {name}. Leave it out.")
    return config


# --- from a config to a fit ---------------------------------------------------------------------------------------


def build(config: DipConfig, device: Device, out: str | Path | None) -> DipJob:
    """Read the pictures, and build network, fitter and early stop as the config describes them."""
    fit, enlargement = config.fit, config.fit.enlargement
    clean = read_picture(config.image, config.size, config.max_pixels)
    channels = colours(clean)
    target = add_noise(clean, config.noise_sigma, fit.seed) if config.noise_sigma else clean
    mask = None if config.mask is None else read_mask(config.mask, config, target)
    size = (target.shape[0] * enlargement, target.shape[1] * enlargement)

    torch.manual_seed(seed_from(fit.seed, NET_STREAM))
    taken("net", config.net, DIP_NETS)  # a config.json may have been changed by hand
    if config.net.out_channels != channels:
        raise UserError(
            f"the network of the config makes {config.net.out_channels} channels, {config.image} has {channels}."
        )
    net = DIP_NETS[config.net.name](**config.net.settings())
    net.padding(min(size))  # raises if the picture is too small for the network
    reference = read_reference(config, clean, size)
    check_memory(net, size, enlargement, torch.device(device), config.image)
    known = None if mask is None else (torch.from_numpy(mask).permute(2, 0, 1)[None] > 0).float()
    fitter = Fitter(net, to_float(target[None, :, :, :channels]), fit, known, device)
    stop = config.early_stop
    if stop:
        taken("early stop", stop, EARLY_STOPS)
    stopper = EARLY_STOPS[stop.name](**stop.settings()) if stop else None
    check_window(stop, size, channels, torch.device(device))
    job = DipJob(config, fitter, stopper, target, mask, reference, out)
    original = image_shape(config.image, config.max_pixels)
    job.original = None if original in (target.shape[:2], target.shape[1::-1]) else original  # it may have been turned
    return job


def read_picture(path: str | Path, size: int | None, max_pixels: int) -> Pixels:
    """Read uint8 [H,W,3]: the whole picture, or its centred square at `size`."""
    if size is None:
        return read_image(path, max_pixels=max_pixels)
    return read_fitted(path, size, max_pixels=max_pixels)[0]


def read_mask(path: str, config: DipConfig, target: Pixels) -> Pixels:
    """Read a mask, uint8 [H,W,1]: 255 where the target is known, 0 in the holes. Raises UserError."""
    mask = np.where(read_picture(path, config.size, config.max_pixels)[..., :1] > 127, 255, 0).astype(np.uint8)
    if mask.all():
        raise UserError(f"{path} is white everywhere, so there are no holes to fill. Make the holes black.")
    if mask.shape[:2] != target.shape[:2]:
        raise UserError(f"{path} is {sides(mask)}, {config.image} is {sides(target)}. Give a mask of that size.")
    return mask


def read_reference(config: DipConfig, clean: Pixels, size: tuple[int, int]) -> Pixels | None:
    """Read the clean picture, uint8 [H,W,3], if there is one. Raises UserError unless it has `size` (height, width).

    Without a reference of its own, a picture to which noise was added is its own reference.
    """
    if config.reference is None:
        return clean if config.noise_sigma and size == clean.shape[:2] else None
    cut = None if config.size is None else config.size * config.fit.enlargement
    reference = read_picture(config.reference, cut, config.max_pixels)
    if reference.shape[:2] != size:
        raise UserError(
            f"{config.reference} is {sides(reference)}, the result {size[1]}x{size[0]}. Give a reference of that size."
        )
    return reference


def colours(pixels: Pixels) -> int:
    """Count the channels to fit: 1 for a picture that is grey all over, else 3."""
    return 1 if bool((pixels == pixels[..., :1]).all()) else 3


def add_noise(pixels: Pixels, sigma: float, seed: int) -> Pixels:
    """Add Gaussian noise of deviation `sigma`, of 255, to uint8 [H,W,3]; rounded and clipped, as a file holds it."""
    clean = to_float(pixels[None, :, :, : colours(pixels)])
    noise = Draws(seed_from(seed, NOISE_STREAM), 1, slice(None)).randn(*clean.shape[1:])
    noisy: Pixels = to_uint8(clean + sigma / 127.5 * noise)[0]
    return noisy


def sides(pixels: Pixels) -> str:
    """Give width and height in words: 20x24."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def digest_of(target: Pixels, mask: Pixels | None) -> str:
    """Hash the pixels, to notice when picture or mask have changed."""
    return hashlib.sha256(target.tobytes() + (b"" if mask is None else mask.tobytes())).hexdigest()[:16]
