"""From options to a fit that can start, and from a run folder to one that goes on.

Rests on dip and dip_nets for the parts, and on dip_job for what they become. Pictures are read here, network and early
stop suited to their size, and what is wrong, or too large for the memory, refused before anything is written.

job = plan("photo.png", torch.device("cpu"), {"noise_sigma": 25})
print(job.describe()); job.start(); result = job.run()
"""

import hashlib
import inspect
import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff._version import __version__
from minidiff.dip.fit import EARLY_STOPS, FitConfig, Fitter
from minidiff.dip.job import DipJob
from minidiff.errors import UserError, lookup
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, read_image
from minidiff.networks.dip import DIP_NETS, DipNet
from minidiff.rng import Draws, seed_from
from minidiff.runs import folder as checkpoint

WINDOW_BYTES = 128 << 20  # what the early stop's window may hold; larger pictures are watched at a lower resolution
WEIGHTS, NOISE = 2, 3  # what a seed is for, beside those of `dip`


def plan(image: str | Path, device: torch.device, options: dict[str, Any]) -> DipJob:
    """A new fit of one picture. All that can be wrong is found here, before anything is written. Raises UserError.

    options: any of net, size, mask, reference, noise_sigma (of 255), early_stop (a name of EARLY_STOPS, or "off"),
    window, patience, save_every, out; the fields of FitConfig but for input_kind, which is `input`; the settings of
    the network: layers, channels, kernel_size, scales, weights.
    """
    if options.get("out") is not None:
        checkpoint.check_free(Path(options["out"]))
    place = {name: os.path.abspath(options[name]) for name in ("mask", "reference") if options.get(name)}
    fit = {field.name: options[field.name] for field in fields(FitConfig) if field.name in options}
    config: dict[str, Any] = {
        "minidiff": __version__,
        "kind": "dip",
        "image": os.path.abspath(image),
        "size": options.get("size"),
        "mask": place.get("mask"),
        "reference": place.get("reference"),
        "noise_sigma": options.get("noise_sigma", 0.0),
        "net": {"name": options.get("net", "hourglass")},
        "fit": fit,
        "early_stop": None,
        "save_every": options.get("save_every", 10),
    }
    if config["mask"] and fit.get("task") != "inpaint":
        raise UserError("--mask belongs to --task inpaint. Leave it out, or ask for that task.")
    if fit.get("task") == "inpaint" and not config["mask"]:
        raise UserError("--task inpaint needs --mask, an image that is white where the picture is known.")
    if fit.get("factor") and fit.get("task") != "super-resolve":
        raise UserError("--factor belongs to --task super-resolve. Leave it out, or ask for that task.")
    target = read_picture(config["image"], config["size"])
    channels = colours(target)
    config["net"] |= net_settings(config["net"]["name"], options, min(target.shape[:2]) * enlargement(fit))
    # A network without a bottleneck learns nothing from noise: its output sees a few pixels of it (docs/dip.md).
    local = config["net"]["name"] in ("conv2", "cnn")
    fit["input_kind"] = options.get("input") or ("image" if local else "noise")
    config["net"] |= {"in_channels": channels if fit["input_kind"] == "image" else 32, "out_channels": channels}
    config["fit"] = asdict(FitConfig(**fit))
    name = options.get("early_stop", "window")
    if name != "off":
        height, width = (side * enlargement(fit) for side in target.shape[:2])
        config["early_stop"] = stop_settings(name, options, (height, width, channels))
    elif options.get("window") or options.get("patience"):
        raise UserError("--window and --patience belong to early stopping, which is off. Leave them out.")
    job = assemble(config, device, options.get("out"))
    config["digest"] = digest(job)
    return job


def resume(folder: str | Path, device: torch.device) -> DipJob:
    """The fit of a run folder, at its last state. UserError when it is none, is damaged, or its pictures changed."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="dip")
    try:
        job = assemble(config, device, folder)
        known = config["digest"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a dip run has ({error}).") from None
    if digest(job) != known:
        raise UserError(
            f"{config['image']}, or its mask, is not what {folder} began with. Bring it back, or start anew."
        )
    job.folder = folder
    state = checkpoint.read_state(folder)
    if state is not None:
        job.fitter.load_state_dict(state["fitter"], str(folder / checkpoint.STATE))
        if job.stopper is not None:
            moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state["stopper"].items()}
            job.stopper.load_state_dict(moved)
    return job


def assemble(config: dict[str, Any], device: torch.device, out: str | Path | None) -> DipJob:
    """Pictures, network, fitter and early stop as the config describes them."""
    size, fit = config["size"], FitConfig(**config["fit"])
    clean = read_picture(config["image"], size)
    channels = colours(clean)
    target = add_noise(clean, config["noise_sigma"], fit.seed) if config["noise_sigma"] else clean
    height, width = (side * enlargement(config["fit"]) for side in target.shape[:2])

    mask = None
    if config["mask"]:
        mask = np.where(read_picture(config["mask"], size)[..., :1] > 127, 255, 0).astype(np.uint8)
        if mask.all():
            raise UserError(
                f"{config['mask']} is white everywhere, so there is nothing to fill in. Make the holes black."
            )
        if mask.shape[:2] != target.shape[:2]:
            raise UserError(
                f"{config['mask']} is {sides(mask)}, {config['image']} {sides(target)}. Give one of its size."
            )
    reference = clean if config["noise_sigma"] and (height, width) == clean.shape[:2] else None
    if config["reference"]:
        reference = read_picture(config["reference"], None if size is None else size * enlargement(config["fit"]))
        if reference.shape[:2] != (height, width):
            raise UserError(
                f"{config['reference']} is {sides(reference)}, the result {width}x{height}. Give one of that size."
            )

    net_config = dict(config["net"])
    build = lookup("net", net_config.pop("name"), DIP_NETS)
    torch.manual_seed(seed_from(fit.seed, WEIGHTS))
    net = build(**net_config)
    net.padding(min(height, width))  # raises if the picture is too small for the network
    check_memory(net, (height, width), enlargement(config["fit"]), device, config["image"])
    known = None if mask is None else (torch.from_numpy(mask).permute(2, 0, 1)[None] > 0).float()
    fitter = Fitter(net, to_float(target[None, :, :, :channels]), fit, known, device)
    stop = dict(config["early_stop"] or {})
    stopper = lookup("early stop", stop.pop("name"), EARLY_STOPS)(**stop) if stop else None
    return DipJob(config, fitter, stopper, target, mask, reference, out)


def net_settings(name: str, options: dict[str, Any], side: int) -> dict[str, Any]:
    """The settings of the network that were given, and for the hourglass as many scales as `side` has room for."""
    takes = inspect.signature(lookup("net", name, DIP_NETS)).parameters
    given = {
        key: options[key] for key in ("layers", "channels", "kernel_size", "scales", "weights") if options.get(key)
    }
    for key in given:
        if key not in takes:
            owners = [other for other, build in DIP_NETS.items() if key in inspect.signature(build).parameters]
            option = key.replace("_", "-")
            raise UserError(f"--{option} belongs to {' and '.join(owners)}, not {name}. Leave it out, or change --net.")
    if "scales" in takes and "scales" not in given:
        # Five as published, fewer for a thumbnail: the coarsest level keeps four pixels.
        given["scales"] = max(1, min(5, int(math.log2(max(side, 2))) - 2))
    return given


def stop_settings(name: str, options: dict[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    """The early stop of this name for an image of `shape` (height, width, channels).

    Its patience is the published 1000 from 250 pixels a side, below that 4 for each pixel. The noise of a thumbnail is
    learnt so soon that within 1000 steps the statistic would fall again, below the minimum that counts (docs/dip.md).
    A window has its length, and the resolution it has room for.
    """
    takes = inspect.signature(lookup("early stop", name, EARLY_STOPS)).parameters
    patience = max(100, min(takes["patience"].default, 4 * min(shape[:2])))
    settings: dict[str, Any] = {"name": name, "patience": options.get("patience") or patience}
    if "window" in takes:
        settings["window"] = options.get("window") or takes["window"].default
        downscale = math.ceil(math.sqrt(4 * settings["window"] * math.prod(shape) / WINDOW_BYTES))
        settings["downscale"] = min(downscale, *shape[:2])
    elif options.get("window"):
        raise UserError(f"--window belongs to --early-stop window, not {name}. Leave it out.")
    return settings


def enlargement(fit: dict[str, Any]) -> int:
    """How many times larger than the target the result is."""
    return fit.get("factor", FitConfig.factor) if fit.get("task") == "super-resolve" else 1


# --- pictures in --------------------------------------------------------------------------------------------------


def read_picture(path: str | Path, size: int | None) -> Pixels:
    """uint8 [H,W,3], whole, or its centred square at `size`."""
    pixels = read_image(path)
    return pixels if size is None else crop_resize(pixels, size)


def colours(pixels: Pixels) -> int:
    """1 for a picture that is grey all over, so that its one channel is not fitted three times; else 3."""
    return 1 if bool((pixels == pixels[..., :1]).all()) else 3


def add_noise(pixels: Pixels, sigma: float, seed: int) -> Pixels:
    """uint8 [H,W,3] with Gaussian noise of deviation `sigma` of 255, rounded and clipped as a file holds it."""
    clean = to_float(pixels[None, :, :, : colours(pixels)])
    noise = Draws(seed_from(seed, NOISE), 1, slice(None)).randn(*clean.shape[1:])
    return to_uint8(clean + sigma / 127.5 * noise)[0]


def sides(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def digest(job: DipJob) -> str:
    """To know the target and its mask again."""
    return hashlib.sha256(job.target.tobytes() + (b"" if job.mask is None else job.mask.tobytes())).hexdigest()[:16]


# --- memory -------------------------------------------------------------------------------------------------------


def check_memory(net: DipNet, size: tuple[int, int], enlarge: int, device: torch.device, name: str) -> None:
    """A UserError when a fit of this size would end with the process being killed: say so now, and what would do.

    What is suggested is a target of 512 pixels a side at most, for the time it takes; size is that of the result.
    """
    free, height, width = free_memory(device), *size
    a_pixel = bytes_a_pixel(net)
    if free is None or a_pixel * height * width < 0.9 * free:
        return
    fits = min(512, int(math.sqrt(0.7 * free / a_pixel)) // 32 * 32 // enlarge)
    raise UserError(
        f"{name} at {width}x{height} needs some {a_pixel * height * width / 1e9:.0f} GB, {free / 1e9:.0f} GB are free. "
        f"Try --size {max(8, fits)}, which cuts out the centre, or fewer --channels."
    )


def bytes_a_pixel(net: DipNet) -> float:
    """What one step takes for every pixel: all that autograd saves, seen at a small size, and as much again to work.

    Measured from 256 to 512 pixels a side it is 1.7 times what autograd saves for hourglass, 2.3 for cnn.
    """
    side = max(64, 2 * net.stride)
    held: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in net.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}  # the running means move
    z = torch.zeros(1, net.in_channels, side, side)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = torch.func.functional_call(net, buffers, (z,))
    del output
    return 2 * sum(held.values()) / side**2


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None
