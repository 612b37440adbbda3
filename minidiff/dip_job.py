"""Fit a deep image prior to a picture in a run folder of its own, or take a fit up again. What `minidiff dip fit` does.

    config.json       the picture, the network, the fit
    target.png        what is fitted: the picture, with the noise added to it
    steps/000010.png  what the network gave, every `save_every` steps
    dip.png           the answer: the averaged output of the chosen step
    curves.png        loss, PSNR to a reference, the stopping statistic; sheet.png: target, input, current, best
    metrics.jsonl     one record every `save_every` steps
    result.json       once the fit is done; until then state.pt, all that resuming needs

A fit of a folder of pictures holds such a run folder for each, under images/, and all the answers in dip/.
"""

import hashlib
import inspect
import math
import os
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minidiff import __version__, checkpoint
from minidiff.dip import EARLY_STOPS, EarlyStop, FitConfig, FitStep, Fitter
from minidiff.dip_nets import DIP_NETS, DipNet
from minidiff.dip_pictures import draw_fit, draw_sheet
from minidiff.errors import UserError, lookup
from minidiff.images import Pixels, crop_resize, free_name, image_files, read_image, to_float, to_uint8, write_image
from minidiff.journal import Interrupted, stop_signals
from minidiff.quality import psnr, ssim
from minidiff.rng import Draws, seed_from

ANSWER, TARGET, RESULT, STEPS, IMAGES, ANSWERS = "dip.png", "target.png", "result.json", "steps", "images", "dip"
SAVE_SECONDS = 60.0  # between two states: a kill costs a minute at most, the writing a percent at most
WINDOW_BYTES = 128 << 20  # what the early stop's window may hold; larger pictures are watched at a lower resolution
WEIGHTS, NOISE = 2, 3  # what a seed is for, beside those of `dip`


@dataclass
class DipJob:
    """One picture, ready to be fitted: `start`, `run`, and what to say before and after."""

    config: dict[str, Any]
    fitter: Fitter
    stopper: EarlyStop | None
    target: Pixels  # [H,W,3]
    mask: Pixels | None  # [H,W,1]: 255 where the target is known, 0 in the holes
    reference: Pixels | None  # [H,W,3] of the answer's size
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one
    resume: str = ""  # the command that goes on when this fit is interrupted; by default its own

    def describe(self) -> str:
        """Three lines: the picture, the network, the fit."""
        config, fit, stop = self.config, self.fitter.config, self.config["early_stop"]
        height, width, _ = self.target.shape
        noise = f", with noise of {config['noise_sigma']:g}/255" if config["noise_sigma"] else ""
        shape = self.fitter.input.shape
        given = f"{shape[1]} channels of noise" if fit.input_kind == "noise" else "the picture itself"
        settings = "".join(
            f", {name.replace('_', ' ')} {value}" for name, value in config["net"].items() if name not in UNTOLD
        )
        parameters = sum(parameter.numel() for parameter in self.fitter.net.parameters())
        ending = "no early stop"
        if stop:
            coarse = f" at 1/{stop['downscale']} of the size" if stop.get("downscale", 1) > 1 else ""
            ending = f"stops {stop['patience']:,} steps after the {stop['name']} variance{coarse} was lowest"
            if stop.get("window", 0) > fit.steps:
                ending = f"no early stop, whose window of {stop['window']} steps would not fill"
        task = fit.task + (f" x{fit.factor}" if fit.task == "super-resolve" else "")
        return (
            f"image     {config['image']}: {width}x{height}, {COLOURS[self.fitter.known.shape[1]]}{noise}\n"
            f"network   {config['net']['name']}, {parameters:,} parameters{settings}; its input {given}\n"
            f"fit       {task}, at most {fit.steps:,} steps, lr {fit.lr:g}, on {self.fitter.device}, "
            f"seed {fit.seed}; {ending}"
        )

    def start(self) -> str:
        """Make the run folder, unless the fit is being resumed; returns a line that names it."""
        if self.folder is not None:
            return f"resuming  {self.folder} at step {self.fitter.step:,}"
        name = f"dip-{Path(self.config['image']).stem}"
        self.folder = checkpoint.create_run(self.out, name, self.config, pictures=STEPS)
        return f"run       {self.folder}"

    def run(self) -> dict[str, Any]:
        """Fit until the early stop or the last step, write the answer, and return what result.json holds.

        Raises journal.Interrupted after Ctrl-C or SIGTERM, having saved; UserError on a loss that is not a number.
        """
        assert self.folder is not None, "start() first"
        config, fitter, folder = self.config, self.fitter, self.folder
        total, saved = fitter.config.steps, time.monotonic()
        with (
            checkpoint.locked(folder),
            stop_signals() as signals,
            tqdm(total=total, initial=fitter.step, unit="step", dynamic_ncols=True, smoothing=0.05) as bar,
        ):
            write_image(folder / TARGET, self.target)
            checkpoint.write_metrics(folder, checkpoint.read_metrics(folder, upto=fitter.step))
            step: FitStep | None = None
            for step in fitter.steps():
                statistic, stop = self.stopper.update(step.output, step.averaged) if self.stopper else (None, False)
                bar.update()
                last = stop or step.step == total
                if step.step % config["save_every"] == 0 or last:
                    record = self.measure(step, statistic)
                    if not math.isfinite(record["loss"]):
                        raise UserError(
                            f"the loss became {record['loss']} by step {step.step}. "
                            "Start anew with a third of the --lr, and the usual --jitter."
                        )
                    checkpoint.append_metrics(folder, record)
                    write_image(step_file(folder, step.step), to_uint8(step.output)[0])
                    best = f", best so far {self.stopper.best_step}" if self.stopper and self.stopper.best_step else ""
                    bar.set_postfix_str(f"loss {record['loss']:.5f}{best}")
                if last:
                    break
                if signals or time.monotonic() - saved > SAVE_SECONDS:
                    self.save(step)
                    saved = time.monotonic()
                if signals:
                    number = signal.Signals(signals[0])
                    command = self.resume or f"minidiff dip fit --resume {shlex.quote(str(folder))}"
                    raise Interrupted(
                        f"Stopped by {number.name} at step {step.step}; saved. Resume with: {command}", 128 + number
                    )
            assert step is not None, "a finished fit is not run again"
            return self.finish(step, stop)

    def measure(self, step: FitStep, statistic: float | None) -> dict[str, Any]:
        """The record of a step; PSNR and SSIM of the raw output and of the averaged one where there is a reference."""
        record = {"step": step.step, "loss": step.loss.item(), "statistic": statistic}
        if self.reference is not None:
            for suffix, image in (("", step.output), ("_average", step.averaged)):
                record |= {name + suffix: value for name, value in quality(to_uint8(image)[0], self.reference).items()}
        return record

    def save(self, step: FitStep) -> None:
        """All that resuming needs, and pictures of how it stands."""
        assert self.folder is not None
        stopper = self.stopper.state_dict() if self.stopper else None
        state = {"step": self.fitter.step, "fitter": self.fitter.state_dict(), "stopper": stopper}
        checkpoint.save_state(self.folder, state)
        self.draw(step)

    def draw(self, step: FitStep) -> None:
        """curves.png and sheet.png."""
        assert self.folder is not None
        best, best_step = self.answer(step)
        draw_fit(self.folder, checkpoint.read_metrics(self.folder), best_step)
        panels = {
            "target": self.target,
            "input": to_uint8(input_picture(self.fitter.input))[0],
            f"current: step {step.step:,}": to_uint8(step.output)[0],
            f"best: step {best_step:,}, averaged" if self.fitter.config.average else f"best: step {best_step:,}": best,
        }
        draw_sheet(self.folder / "sheet.png", panels, self.reference)

    def answer(self, step: FitStep) -> tuple[Pixels, int]:
        """What the fit has come to, uint8 [H,W,3], and the step it is of: the early stop's, or without one the last.

        Of an inpainting the known pixels are the target's own, unless it was made noisy.
        """
        best, best_step = step.averaged, step.step
        if self.stopper is not None and self.stopper.best is not None:
            best, best_step = self.stopper.best, self.stopper.best_step
        pixels = to_uint8(best)[0]
        if self.mask is not None and not self.config["noise_sigma"]:
            pixels = np.where(self.mask > 0, self.target, pixels)
        return pixels, best_step

    def finish(self, step: FitStep, stopped: bool) -> dict[str, Any]:
        """The answer and its pictures, then result.json, and only then is the state let go."""
        assert self.folder is not None
        pixels, best_step = self.answer(step)
        write_image(self.folder / ANSWER, pixels)
        self.draw(step)
        result: dict[str, Any] = {"steps": step.step, "best_step": best_step, "stopped": stopped}
        if self.reference is not None:
            result |= quality(pixels, self.reference)
            if self.target.shape == self.reference.shape:
                before = quality(self.target, self.reference)
                result |= {f"{name}_target": value for name, value in before.items()}
        checkpoint.write_json(self.folder / RESULT, result)
        (self.folder / checkpoint.STATE).unlink(missing_ok=True)
        return result


UNTOLD = {"name", "in_channels", "out_channels"}  # of a network's settings: said elsewhere in the description
COLOURS = {1: "grey", 3: "colour"}


def quality(pixels: Pixels, reference: Pixels) -> dict[str, float]:
    """PSNR, unless the two are equal, and SSIM, unless they are smaller than its window."""
    found = {}
    if not np.array_equal(pixels, reference):
        found["psnr"] = psnr(pixels, reference)
    if min(pixels.shape[:2]) >= 11:
        found["ssim"] = ssim(pixels, reference)
    return found


def conclusion(result: dict[str, Any]) -> str:
    """A line about a finished fit."""
    how = "stopped early at" if result["stopped"] else "ran to"
    line = f"{how} step {result['steps']:,}, the answer is that of step {result['best_step']:,}"
    if "psnr" in result:
        before = f", the target's {result['psnr_target']:.2f}" if "psnr_target" in result else ""
        line += f"; PSNR {result['psnr']:.2f} dB{before}"
    return line


# --- from options to a job, and from a run folder -----------------------------------------------------------------


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


def input_picture(z: Tensor) -> Tensor:
    """The network's input [1,C,H,W] to look at, float [1,1 or 3,H,W]: its first channels, stretched to [-1, 1]."""
    shown = z[:, : 3 if z.shape[1] >= 3 else 1]
    low, high = shown.amin(), shown.amax()
    return 2 * (shown - low) / (high - low).clamp(min=1e-12) - 1


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


# --- a folder of pictures -----------------------------------------------------------------------------------------


@dataclass
class FolderJob:
    """The pictures of a folder, fitted one after another, each as if it were alone."""

    source: Path
    options: dict[str, Any]
    device: torch.device
    folder: Path | None = None  # the run folder, once there is one

    def start(self) -> str:
        files = image_files(self.source)
        if self.folder is not None:
            return f"resuming  {self.folder}: {len(files)} images"
        for name in ("mask", "reference"):
            if self.options.get(name):
                raise UserError(f"--{name} belongs to one picture, {self.source} is a folder. Fit its pictures singly.")
        self.check(files)
        options = {name: value for name, value in self.options.items() if name != "out"}
        config = {
            "minidiff": __version__, "kind": "dip", "images": os.path.abspath(self.source), "options": options,
        }  # fmt: skip
        name = f"dip-{self.source.resolve().name}"
        self.folder = checkpoint.create_run(self.options.get("out"), name, config, pictures=ANSWERS)
        return f"run       {self.folder}: {len(files)} images"

    def check(self, files: list[Path]) -> None:
        """What is wrong with the options shows in every picture, and is raised before anything is made."""
        first: UserError | None = None
        for file in files:
            try:
                plan(file, self.device, self.options)
                return
            except UserError as error:
                first = first or error
        raise first or UserError(f"{self.source} holds no pictures.")

    def run(self, say: Callable[[str], None]) -> list[str]:
        """Fit all that are not fitted yet; returns one line for each that could not be. Raises journal.Interrupted."""
        assert self.folder is not None, "start() first"
        failures = []
        for file in image_files(self.source):
            home = self.folder / IMAGES / file.name
            try:
                if not (home / RESULT).exists():
                    job = self.job(file, home)
                    say(f"{job.describe()}\n{job.start()}")
                    say(f"done      {conclusion(job.run())}")
                answer = self.folder / ANSWERS / f"{file.name}.png"
                if not answer.exists():
                    write_image(answer, read_image(home / ANSWER))
            except UserError as error:
                failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
        return failures

    def job(self, file: Path, home: Path) -> DipJob:
        """The fit of one picture: new, or where it was left."""
        if (home / checkpoint.CONFIG).exists():
            job = resume(home, self.device)
        else:
            job = plan(file, self.device, self.options | {"out": home})
        job.resume = f"minidiff dip fit --resume {shlex.quote(str(self.folder))}"
        return job


def resume_folder(folder: Path, config: dict[str, Any], device: torch.device) -> FolderJob:
    """The fit of a folder of pictures, with what its run folder says."""
    try:
        return FolderJob(Path(config["images"]), config["options"], device, folder)
    except KeyError as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a dip run has ({error}).") from None


# --- what a fit has left for others -------------------------------------------------------------------------------


def is_dip_run(folder: str | Path) -> bool:
    """Whether this is the run folder of a fit, whole or of a folder of pictures."""
    folder = Path(folder)
    return (folder / checkpoint.CONFIG).is_file() and checkpoint.read_config(folder)["kind"] == "dip"


def chosen_images(folder: str | Path) -> list[Path]:
    """The answers of a fit: its dip.png, or those of all its pictures. Raises UserError while there is none."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="dip")
    several = "images" in config
    found = sorted((folder / ANSWERS).glob("*.png")) if several else [folder / ANSWER]
    if not found or not found[0].exists():
        raise UserError(f"{folder} is not finished. Go on with `minidiff dip fit --resume {shlex.quote(str(folder))}`.")
    return found


def saved_step(folder: str | Path, step: int) -> Path:
    """The file of a fit's output at a step. Raises UserError, naming the nearest there are, when it was not saved."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="dip")
    if "images" in config:
        raise UserError(f"{folder} holds the fits of several pictures. Name one of those under {folder / IMAGES}.")
    path = step_file(folder, step)
    if path.exists():
        return path
    steps = sorted(int(file.stem) for file in (folder / STEPS).glob("*.png") if file.stem.isdigit())
    near = sorted(sorted(steps, key=lambda there: abs(there - step))[:2])
    known = f"The nearest are {' and '.join(map(str, near))}." if near else "It has saved none yet."
    raise UserError(f"{folder} has not saved step {step}. {known}")


def step_file(folder: Path, step: int) -> Path:
    return folder / STEPS / f"{step:06d}.png"


def deliver(answer: Path, target: Path, replace: bool) -> Path:
    """Copy an answer to `target`, or beside it when that is there and is not to be replaced; returns where it is."""
    target = target if replace else free_name(target)
    write_image(target, read_image(answer))
    return target
