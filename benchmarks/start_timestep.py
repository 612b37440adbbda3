"""Where should the reverse chain start on the output of a deep image prior?

Test images get noise, an hourglass is fitted to each, and outputs of several steps of the fit are handed to a trained
DDPM at several timesteps, in every init mode. Writes into a folder: results.json (PSNR and SSIM to the clean images for
every combination, and for some rules that choose the timestep themselves), a plot, and a grid of pictures. Every fit
and chain is kept there, so an interrupted study goes on, and one with more timesteps computes only those.
"""

import hashlib
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import minidiff
from minidiff.data.datasets import DATASETS, load_data
from minidiff.ddpm.inits import INIT_MODES
from minidiff.ddpm.run import Run
from minidiff.diffusion.noise_level import noise_sigma, timestep_for
from minidiff.dip.config import FitConfig
from minidiff.dip.early_stop import WindowVariance
from minidiff.dip.fit import fit
from minidiff.errors import UserError
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.quality import psnr, ssim
from minidiff.networks.dip import Hourglass
from minidiff.rng import seed_from
from minidiff.runtime.progress import progress_bar

# What `minidiff dip fit` takes for 32x32, but 32 channels in place of 128, for the time it takes.
NET: dict[str, Any] = {"scales": 3, "channels": 32}
FIT: dict[str, Any] = {"lr": 0.01, "average": 0.99}
STOP: dict[str, Any] = {"window": 100, "patience": 128}
NOISE_SEED, NET_SEED = 0, 1  # what a seed is for
NOISY = "noisy"  # as an init: the noisy image itself, without a DIP
STOPPED = "stop"  # as a DIP step: the averaged output at the minimum of the early stop's statistic
CHECKED = [(STOPPED, "noise"), (NOISY, "scale")]  # inits and modes for which the whole DDPM chain is tried too

Figures = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def keep(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in the file, made and written there if it is not yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **make())  # type: ignore[arg-type]
        temporary.replace(path)
    with np.load(path) as file:
        return dict(file)


# --- the fits -----------------------------------------------------------------------------------------------------


def spoil(clean: Pixels, sigma: int) -> Pixels:
    """uint8 [N,H,W,C] with noise of `sigma` of 255, rounded and clipped as in a file. Image k has its own seed."""
    noisy = []
    for index, image in enumerate(to_float(clean)):
        generator = torch.Generator().manual_seed(seed_from(NOISE_SEED, index))
        noisy.append(image + sigma / 127.5 * torch.randn(image.shape, generator=generator))
    return pixels(torch.stack(noisy), like=clean)


def pixels(images: Tensor, like: Pixels) -> Pixels:
    """float [N,C,H,W] -> uint8 [N,H,W,C]: grey stays one channel."""
    return to_uint8(images)[..., : like.shape[3]]


def fit_one(noisy: Pixels, index: int, dip_steps: Sequence[int]) -> Arrays:
    """A DIP fit of uint8 [1,H,W,C]: its raw outputs, uint8 [H,W,C], at every step asked for, and at the stop.

    The fit runs on to the last of the steps; the early stop only notes when it would have ended it. Under `stop` is the
    averaged output, under `raw` the raw one of the same step, `step` and `loss` are of it too.
    """
    target = to_float(noisy)
    torch.manual_seed(seed_from(NET_SEED, index))
    net = Hourglass(out_channels=target.shape[1], **NET)
    stopper, stopped, loss = WindowVariance(**STOP), False, 0.0
    kept: Arrays = {}
    for step in fit(net, target, FitConfig(steps=max(*dip_steps, STOP["window"]), seed=index, **FIT)):
        if step.step in dip_steps:
            kept[str(step.step)] = pixels(step.output, like=noisy)[0]
        if not stopped:
            _, stopped = stopper.update(step.output, answer=torch.cat([step.averaged, step.output]))
            loss = step.loss.item() if stopper.best_step == step.step else loss
    assert stopper.best is not None
    kept[STOPPED], kept["raw"] = pixels(stopper.best, like=noisy)
    return kept | {"step": np.array(stopper.best_step), "loss": np.array(loss)}


@dataclass
class Case:
    """All images at one level of noise, and their fits. Pictures are uint8 [N,H,W,C]."""

    sigma: int  # of 255
    clean: Pixels
    noisy: Pixels
    fits: list[Arrays]

    def init(self, name: str) -> Pixels:
        """The noisy images, or what the fits gave at a step."""
        return self.noisy if name == NOISY else np.stack([kept[name] for kept in self.fits])

    def figures(self, images: Pixels) -> Figures:
        """How near these are to the clean ones: the mean, its standard error, and the mean gain on the DIP alone."""
        decibels, similar = self.psnrs(images), [ssim(*pair) for pair in zip(images, self.clean, strict=True)]
        gains = [here - alone for here, alone in zip(decibels, self.psnrs(self.init(STOPPED)), strict=True)]
        columns = {"psnr": decibels, "ssim": similar, "gain": gains}
        return {key: mean(column) for key, column in columns.items()} | {
            f"{key}_error": error(column) for key, column in columns.items()
        }

    def psnrs(self, images: Pixels) -> list[float]:
        return [psnr(*pair) for pair in zip(images, self.clean, strict=True)]


def mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 4)


def error(values: Sequence[float]) -> float:
    """The standard error of the mean; 0 of a single value."""
    return round(statistics.stdev(values) / math.sqrt(len(values)), 4) if len(values) > 1 else 0.0


# --- rules for the first timestep ---------------------------------------------------------------------------------

Choice = tuple[Pixels, list[float], str]  # init images, the noise level to start each at, init mode


def measured(images: Pixels) -> list[float]:
    """The noise estimated in each image, as a deviation in [-1, 1]."""
    return [noise_sigma(to_float(image[None])) for image in images]


def mix(dip: float, mode: str, level: float) -> Callable[[Case], Choice]:
    """`dip` parts of the DIP output and the rest noisy image, started at `level` times the noisy image's noise."""

    def choose(case: Case) -> Choice:
        mixed = dip * to_float(case.init(STOPPED)) + (1 - dip) * to_float(case.noisy)
        return pixels(mixed, like=case.noisy), [level * sigma for sigma in measured(case.noisy)], mode

    return choose


def distance(a: Pixels, b: Pixels) -> list[float]:
    """The root mean square difference of each image of a from that of b, in [-1, 1]."""
    return (to_float(a) - to_float(b)).square().mean(dim=(1, 2, 3)).sqrt().tolist()


def drift(case: Case) -> list[float]:
    """How far the raw output at the stop lies from the averaged one: what the average took away, and left in part."""
    return distance(case.init("raw"), case.init(STOPPED))


def excess(case: Case) -> list[float]:
    """sqrt(loss - sigma^2): the fit's own error, if it had learnt none of the noise."""
    noise = measured(case.noisy)
    return [math.sqrt(max(float(kept["loss"]) - s**2, 0.0)) for kept, s in zip(case.fits, noise, strict=True)]


RULES: dict[str, Callable[[Case], Choice]] = {
    "DIP, scale, auto": lambda case: (case.init(STOPPED), measured(case.init(STOPPED)), "scale"),
    "DIP, scale, drift of the outputs": lambda case: (case.init(STOPPED), drift(case), "scale"),
    "DIP, scale, 1/2 of the image's": mix(1, "scale", 1 / 2),
    "DIP, scale, 3/4 of the image's": mix(1, "scale", 3 / 4),
    "DIP, scale, all of the image's": mix(1, "scale", 1),
    "DIP, noise, drift of the outputs": lambda case: (case.init(STOPPED), drift(case), "noise"),
    "DIP, noise, excess of the loss": lambda case: (case.init(STOPPED), excess(case), "noise"),
    "DIP, noise, 1/4 of the image's": mix(1, "noise", 1 / 4),
    "DIP, noise, 1/2 of the image's": mix(1, "noise", 1 / 2),
    "DIP, noise, all of the image's": mix(1, "noise", 1),
    "3/4 DIP + 1/4 noisy, scale, 1/4 of auto": mix(3 / 4, "scale", 1 / 4),
    "1/2 DIP + 1/2 noisy, scale, 1/2 of auto": mix(1 / 2, "scale", 1 / 2),
    "1/2 DIP + 1/2 noisy, scale, 3/4 of auto": mix(1 / 2, "scale", 3 / 4),
    "1/2 DIP + 1/2 noisy, scale, auto": mix(1 / 2, "scale", 1),
    "1/4 DIP + 3/4 noisy, scale, 3/4 of auto": mix(1 / 4, "scale", 3 / 4),
    "1/4 DIP + 3/4 noisy, scale, auto": mix(1 / 4, "scale", 1),
    "noisy image, scale, auto (no DIP)": mix(0, "scale", 1),
    "noisy image, scale, 5/4 of auto (no DIP)": mix(0, "scale", 5 / 4),
    "noisy image, scale, distance from the DIP": lambda case: (
        case.noisy, distance(case.noisy, case.init(STOPPED)), "scale"
    ),
}  # fmt: skip


# --- the chains ---------------------------------------------------------------------------------------------------


def reverse(run: Run, init: Pixels, start_t: Sequence[int], mode: str, calls: int, sampler: str = "ddim") -> Arrays:
    """The reverse chain of every image from its own timestep, those of equal timestep as one batch.

    Returns uint8 [N,H,W,C]: `image`, where the chain ends, and `once`, the image predicted by its first call.
    """
    ended, once = np.empty_like(init), np.empty_like(init)
    for t in sorted(set(start_t)):
        rows = [row for row, own in enumerate(start_t) if own == t]
        steps = None if sampler == "ddpm" else min(calls, t + 1)
        asked = {"sampler": sampler, "start_t": t, "steps": steps}
        chain = list(run.chain(rows, init=to_float(init[rows]), init_mode=mode, **asked))
        ended[rows], once[rows] = pixels(chain[-1].x, like=init), pixels(chain[0].x0, like=init)
    return {"image": ended, "once": once}


@dataclass
class Study:
    """The trained run, and which combinations to try."""

    run: Run
    folder: Path
    dip_steps: list[int]
    start_t: list[int]
    modes: list[str]
    calls: int
    ddpm_t: list[int]

    @property
    def inits(self) -> list[str]:
        return [*map(str, self.dip_steps), STOPPED, NOISY]

    def combinations(self) -> list[tuple[str, str, int, str]]:
        """Init, mode, start_t and sampler of every chain."""
        tried = [(init, mode, t, "ddim") for init in self.inits for mode in self.modes for t in self.start_t]
        return tried + [(init, mode, t, "ddpm") for init, mode in CHECKED for t in self.ddpm_t]

    def noise_level(self, t: int) -> float:
        """The noise in x_t over its signal: what x_t / sqrt(alpha_bar_t) has in it."""
        alpha_bar = self.run.schedule.alphas_cumprod[t].item()
        return math.sqrt((1 - alpha_bar) / alpha_bar)

    def chain(self, case: Case, init: str, mode: str, t: int, sampler: str = "ddim") -> Arrays:
        """All images from the same timestep: see `reverse`."""
        images = case.init(init)
        name = f"{case.sigma}-{init}-{mode}-{t}" + (f"-{sampler}" if sampler != "ddim" else "")
        return keep(
            self.folder / "chains" / f"{name}.npz",
            lambda: reverse(self.run, images, [t] * len(images), mode, self.calls, sampler),
        )

    def measure(self, case: Case, tick: Callable[[], Any]) -> Figures:
        """Every combination at this level of noise: PSNR, SSIM, their errors, and what the rules make of it."""
        alone = {}
        for name in self.inits:
            sigmas = measured(case.init(name))
            auto = mean([timestep_for(self.run.schedule, sigma) for sigma in sigmas])
            alone[name] = case.figures(case.init(name)) | {"measured_sigma": mean(sigmas), "auto_t": auto}
        alone[STOPPED]["steps"] = [int(kept["step"]) for kept in case.fits]
        chains = []
        for init, mode, t, sampler in self.combinations():
            result = self.chain(case, init, mode, t, sampler)
            found = case.figures(result["image"]) | {"psnr_once": case.figures(result["once"])["psnr"]}
            chains.append({"init": init, "mode": mode, "start_t": t, "sampler": sampler} | found)
            tick()
        return {"sigma": case.sigma, "alone": alone, "chains": chains, "rules": self.try_rules(case)}

    def try_rules(self, case: Case) -> Figures:
        """What each rule makes of the images."""
        results = {}
        for name, rule in RULES.items():
            init, sigmas, mode = rule(case)
            t = [timestep_for(self.run.schedule, sigma) for sigma in sigmas]
            key = hashlib.sha256(name.encode()).hexdigest()[:12]
            found = keep(
                self.folder / "rules" / f"{case.sigma}-{key}.npz",
                lambda init=init, t=t, mode=mode: reverse(self.run, init, t, mode, self.calls),  # type: ignore[misc]
            )
            results[name] = case.figures(found["image"]) | {"once": case.figures(found["once"]), "start_t": t}
        return results


# --- the command --------------------------------------------------------------------------------------------------


def numbers(_: click.Context, option: click.Parameter, value: str) -> list[int]:
    """ "25,50" -> [25, 50]; `last` is kept as -1."""
    try:
        found = [-1 if part.strip() == "last" else int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of whole numbers. Try {option.default}.") from None
    return sorted(set(found))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), default=12, show_default=True, help="How many test images.")
@click.option("--noise-sigma", default="25,50", show_default=True, callback=numbers, help="Of 255.")
@click.option(
    "--dip-steps",
    default="30,100,250,500,1000",
    show_default=True,
    callback=numbers,
    help="The raw outputs of these steps are tried, and the early stop's choice.",
)
@click.option(
    "--start-t",
    default="0,5,10,25,50,75,100,150,200,300,500,700,last",
    show_default=True,
    callback=numbers,
    help="Timesteps; last is T-1.",
)
@click.option("--modes", default="noise,scale,as-is", show_default=True, help="Init modes.")
@click.option("--calls", type=click.IntRange(min=1), default=20, show_default=True, help="Calls of a DDIM chain.")
@click.option(
    "--ddpm-t",
    default="25,50,100,150,200",
    show_default=True,
    callback=numbers,
    help="Timesteps at which the whole DDPM chain is tried too.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is found.")
def main(
    run: Path, images: int, noise_sigma: list[int], dip_steps: list[int], start_t: list[int], modes: str, calls: int,
    ddpm_t: list[int], out: Path,
) -> None:  # fmt: skip
    """Start the reverse chain of a trained ddpm RUN on DIP outputs, at many timesteps.

    \b
    python benchmarks/start_timestep.py runs/ddpm-fashion-mnist-1 --out start
    """
    from start_timestep_pictures import draw_grid, draw_plot, table

    try:
        trained = minidiff.load(run)
        study = plan(trained, out, dip_steps, start_t, modes.split(","), calls, ddpm_t)
        weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
        settings = {"weights": weights, "images": images, "dip_steps": dip_steps, "calls": calls,
                    "net": NET, "fit": FIT, "stop": STOP}  # fmt: skip
        same_study(out / "settings.json", settings)
        clean = unseen(trained, images)
        cases, results = [], []
        total = len(noise_sigma) * (len(clean) + len(study.combinations()))
        with progress_bar(total, unit="fits and chains", leave=True) as bar:
            for sigma in noise_sigma:
                noisy, fits = spoil(clean, sigma), []
                for index in range(len(clean)):
                    fits.append(
                        keep(
                            out / "fits" / f"{sigma}-{index:03d}.npz",
                            lambda noisy=noisy, index=index: fit_one(noisy[[index]], index, dip_steps),  # type: ignore
                        )
                    )
                    bar.update()
                cases.append(Case(sigma, clean, noisy, fits))
                results.append(study.measure(cases[-1], bar.update))
    except UserError as failure:
        raise click.ClickException(str(failure)) from None
    levels = {t: round(study.noise_level(t), 4) for t in study.start_t}
    about = {"data": trained.config.data.name, "trained_steps": trained.config.training.steps}
    record = about | {"settings": settings, "modes": study.modes, "sigma_t": levels, "noise": results}
    (out / "results.json").write_text(json.dumps(record, indent=1))
    draw_plot(study, results, out / "start-timestep.png")
    draw_grid(study, cases[-1], 0, out / "start-timestep-grid.png")
    click.echo("\n".join(table(study, result) for result in results))


def plan(
    run: Run, out: Path, dip_steps: list[int], start_t: list[int], modes: list[str], calls: int, ddpm_t: list[int]
) -> Study:
    """The study asked for, with T-1 put in. Raises UserError."""
    last = run.schedule.T - 1
    ts = sorted({last if t == -1 else t for t in start_t})
    if unknown := set(modes) - set(INIT_MODES):
        raise UserError(f"unknown init mode {', '.join(unknown)}. Known: {', '.join(INIT_MODES)}.")
    if ts[0] < 0 or ts[-1] > last:
        raise UserError(f"start_t runs from {ts[0]} to {ts[-1]}, the timesteps of this run from 0 to {last}.")
    if dip_steps[0] < 1:
        raise UserError(f"a DIP has no output at step {dip_steps[0]}. Its steps count from 1.")
    return Study(run, out, dip_steps, ts, modes, calls, [t for t in ddpm_t if 0 <= t <= last])


def unseen(run: Run, count: int) -> Pixels:
    """The first images of the test split, which the run has not seen; of data without one, of the training split."""
    spec = run.config.data.spec()
    split = "test" if "test" in DATASETS[spec.name].splits else "train"
    loaded = load_data(spec.name, data_dir=spec.data_dir, image_size=spec.image_size, split=split)
    return np.array(loaded.images[:count])


def same_study(path: Path, settings: Figures) -> None:
    """Note the settings; UserError if the folder holds results of others."""
    if path.exists():
        there = json.loads(path.read_text())
        if different := [name for name in settings if there.get(name) != settings[name]]:
            raise UserError(f"{path.parent} holds a study with other {', '.join(different)}. Give another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1))


if __name__ == "__main__":
    main()
