"""Restore more than noise: fill holes, enlarge, sharpen. A reverse chain is led by what the picture still tells.

Rests on ddpm.run, ddpm.guess_errors and diffusion.posterior; the mathematics is in docs/restoration.md. Every task is a
measurement y = A x0 + sigma_y n. The chain starts from the smoothest picture that explains y, with enough noise added
to drown its faults, and at each level the network's guess is corrected by y.

Wang et al. 2023 (DDNM); Zhu et al. 2023 (DiffPIR); Zhang et al. 2025 (DAPS).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from minidiff.ddpm.drawing import device_of
from minidiff.ddpm.guess_errors import doubt_of
from minidiff.ddpm.moments import Film
from minidiff.ddpm.run import Run
from minidiff.diffusion.chain import Step
from minidiff.diffusion.measurements import Measurement, blur, first_guess, gaussian_kernel, mask, pooling, rim
from minidiff.diffusion.noise_level import noise_sigma, timestep_for
from minidiff.diffusion.posterior import POSTERIOR_PLAN, Evidence, sample_posterior
from minidiff.diffusion.process import q_sample
from minidiff.errors import UserError
from minidiff.images.blind import outliers
from minidiff.images.files import image_shape
from minidiff.images.pictures import read_picture
from minidiff.restoration.config import AUTO, GAUSSIAN, FinishRequest
from minidiff.rng import randn, sample_generators

ROUNDING = 2 / 255 / math.sqrt(12)  # deviation in [-1,1] of the rounding to 8 bits
START = {"upscale": 0.25, "deblur": 0.12}  # the sigma at which a chain starts: see `start_of`
LARGEST_KERNEL = 1023  # pixels a side: a larger picture was meant as something else
HOLES = 0.2  # the same for a hole one pixel deep
# How much of what the measurement leaves open is drawn. In a hole nothing was measured, and the mean is a smear. Of a
# small picture every part was measured; taking the mean is nearer to the truth, and not much smoother.
SPREAD = {"inpaint": 1.0, "upscale": 0.0, "deblur": 1.0}

OnStep = Callable[[Step], object]


@dataclass(frozen=True)
class Damaged:
    """A damaged picture as a measurement of the clean one.

    y: as `measurement` gives it, [1,C,H,W]. border: rows and columns around the answer that are not part of it.
    known: for inpainting, 1 where the picture is known.
    """

    task: str
    measurement: Measurement
    y: Tensor
    border: tuple[int, int] = (0, 0)
    known: Tensor | None = None


def damaged(picture: Tensor, request: FinishRequest) -> Damaged:
    """Describe a picture [1,C,H,W] in [-1,1] by its task, with the mask or the kernel of the request read.

    Raises UserError for a mask of another size, a kernel of even sizes, or one larger than the picture.
    """
    height, width = picture.shape[-2:]
    if request.task == "inpaint":
        assert request.mask is not None
        if request.mask == AUTO:
            known = unlike_salt(picture)
        else:
            known = read_mask(request.mask, height, width, request.max_pixels).to(picture)
        measurement = mask(known)
        return Damaged("inpaint", measurement, measurement.forward(picture), known=known)
    if request.task == "upscale":
        return Damaged("upscale", pooling(request.enlargement), picture)
    assert request.task == "deblur" and request.kernel is not None
    kernel = read_kernel(request.kernel, request.max_pixels)
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise UserError(
            f"`kernel` {request.kernel} is {kernel.shape[1]}x{kernel.shape[0]}, larger than the picture of "
            f"{width}x{height}. Take a smaller one."
        )
    rows, columns = (side // 2 for side in kernel.shape)
    height, width = height + 2 * rows, width + 2 * columns
    known = rim(height, width, rows, columns)
    y = F.pad(picture, (columns, columns, rows, rows))
    return Damaged("deblur", blur(kernel, height, width, known), y, border=(rows, columns))


def enter(run: Run, sigma: float) -> int:
    """Find the timestep at which a picture with noise of deviation `sigma`, in [-1,1], enters the chain of a run.

    For noise beyond what the run was trained on it is the highest timestep it knows.
    """
    t = timestep_for(run.schedule, sigma)
    return t if run.trained_below is None else min(t, run.trained_below - 1)


def start_of(given: Damaged) -> float:
    """Return the sigma, of images in [-1,1], at which a chain starts: enough noise to drown the faults of its start.

    In a hole these faults grow with the way to what is known. Neighbours in a photograph differ by about 0.1, like the
    steps of a random walk that is known at both ends; d pixels from either, its line is off by 0.1 sqrt(d / 2). Noise
    of three times this size is 0.2 sqrt(d), for the pixel that is farthest from all known ones.
    """
    if given.known is None:
        return START[given.task]
    return HOLES * math.sqrt(distance_transform_edt(given.known.cpu().numpy() == 0).max())


def explain(
    run: Run,
    given: Damaged,
    sigma_y: float,
    calls: int,
    seed: int = 0,
    on_step: OnStep | None = None,
    film: Film | None = None,
) -> tuple[Tensor, list[int]]:
    """Find a clean picture that explains a damaged one. Returns it, [1,C,H,W] in [-1,1], and the timesteps.

    sigma_y: the deviation of the noise in y, of images in [-1,1]; blurred pictures need it above 0. calls: of the
    network, at most one for each timestep. on_step: called after every call. film: is shown every call, without the
    border.
    """
    start_t = enter(run, start_of(given))
    calls = min(calls, start_t + 1)
    y = given.y.to(device_of(run))
    noise = sample_generators(seed, [0])
    start = first_guess(given.measurement, y, sigma_y)
    x = q_sample(run.schedule, start, torch.tensor([start_t], device=y.device), randn(start.shape, noise, like=start))
    evidence = Evidence(given.measurement, y, sigma_y, doubt_of(run))
    timesteps = POSTERIOR_PLAN.calls(run.schedule, calls, start_t)
    if film is not None:
        film.start(run.schedule, timesteps, inside(x, given.border))
    for step in sample_posterior(run.denoiser(), run.schedule, x, evidence, start_t=start_t, steps=calls,
                                 generator=noise, spread=SPREAD[given.task]):  # fmt: skip
        x = step.x
        if film is not None:
            film.see(Step(step.t, inside(step.x, given.border), inside(step.x0, given.border)))
        if on_step is not None:
            on_step(step)
    return inside(x, given.border).clamp(-1, 1).cpu(), timesteps


def inside(x: Tensor, border: tuple[int, int]) -> Tensor:
    """Cut off rows and columns around an image [N,C,H,W], `border` on each side."""
    rows, columns = border
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]


def noise_of(request: FinishRequest) -> float:
    """Return sigma_y, in [-1,1], for a task other than denoise: the rounding of a file, unless more was told."""
    return ROUNDING if request.noise == AUTO else max(ROUNDING, float(request.noise) / 127.5)


# --- what comes with the picture ------------------------------------------------------------------------------------


def unlike_salt(picture: Tensor) -> Tensor:
    """Make a mask of a picture [1,C,H,W], [H,W]: 0 at salt and pepper. Raises UserError if there is none."""
    hit = outliers(picture, noise_sigma(picture))
    if not bool(hit.any()):
        raise UserError(
            "no pixel is black or white, unlike those around it, so a `mask` of auto has no hole. Draw one."
        )
    return (~hit).to(picture)


def read_mask(path: str, height: int, width: int, max_pixels: int) -> Tensor:
    """Read a mask, [height,width]: 1 where it is white and the picture is known, 0 in the holes. Raises UserError."""
    rows, columns = image_shape(path, max_pixels)
    if {rows, columns} == {height, width}:  # else it is not read, as it may be huge; it may lie on its side in the file
        white = read_picture(path, max_pixels).as_float().mean(0) > 0
        rows, columns = white.shape
    if (rows, columns) != (height, width):
        raise UserError(f"{path} is {columns}x{rows}, and the picture {width}x{height}. Give a mask of that size.")
    if bool(white.all()):
        raise UserError(f"{path} is white everywhere, so there are no holes to fill. Make the holes black.")
    if not bool(white.any()):
        raise UserError(f"{path} is black everywhere, so nothing is known. Make it white where the picture is known.")
    return white.float()


def read_kernel(kernel: str, max_pixels: int) -> Tensor:
    """Read how a bright point looks, float64 [h,w] with the sum 1: a picture's grey values, or gaussian:SIGMA."""
    if kernel.startswith(GAUSSIAN):
        return gaussian_kernel(float(kernel.removeprefix(GAUSSIAN)))
    rows, columns = image_shape(kernel, max_pixels)
    if max(rows, columns) > LARGEST_KERNEL:
        raise UserError(
            f"{kernel} is {columns}x{rows}, and a kernel has {LARGEST_KERNEL} pixels a side at most. Is it the picture?"
        )
    values = (read_picture(kernel, max_pixels).as_float().double().mean(0) + 1) / 2
    rows, columns = values.shape
    if rows % 2 == 0 or columns % 2 == 0:
        raise UserError(f"{kernel} is {columns}x{rows}, and has no middle pixel. Give a kernel of odd sizes.")
    if values.sum() < 1e-6:
        raise UserError(f"{kernel} is black everywhere. Give a picture of how a bright point looks.")
    return values / values.sum()


def check_files(request: FinishRequest, shape: tuple[int, int] | None) -> None:
    """Raise UserError for a mask or a kernel that cannot be used, if `shape` is known: height, width of the picture."""
    if request.kernel is not None and not request.kernel.startswith(GAUSSIAN) and not Path(request.kernel).is_file():
        raise UserError(f"{request.kernel}: no such image file. Give a picture of the kernel, or gaussian:SIGMA.")
    if shape is not None and request.task != "denoise" and request.mask != AUTO:
        damaged(torch.zeros(1, 1, *shape), request)
