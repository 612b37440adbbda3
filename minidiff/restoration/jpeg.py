"""Take out of a JPEG file what its compression did: blocks, rings around edges, wrong colours.

Rests on images.jpeg, diffusion.jpeg and diffusion.posterior; the mathematics is in docs/restoration.md. The rounding of
a file is noise whose size the file tells. So the chain starts at the timestep with this noise, from the picture as it
is, and each guess is corrected by the numbers in the file. Last, the answer is brought to where it would be rounded to
the same numbers: it never contradicts the file.

Kawar et al. 2022 (JPEG artifact correction using DDRM); Zhang et al. 2025 (DAPS).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.ddpm.drawing import device_of
from minidiff.ddpm.guess_errors import doubt_of
from minidiff.ddpm.moments import Film
from minidiff.ddpm.run import Run
from minidiff.diffusion.chain import Step
from minidiff.diffusion.jpeg import Coding, Rounded, rounded
from minidiff.diffusion.posterior import POSTERIOR_PLAN, Evidence, sample_posterior
from minidiff.images.jpeg import JpegFile
from minidiff.restoration.tasks import enter
from minidiff.rng import sample_generators

OnStep = Callable[[Step], object]

# By EXIF's orientation: whether rows and columns of the file change places, and then what is turned round. Both ways.
TURNS = {1: (False, []), 2: (False, [3]), 3: (False, [2, 3]), 4: (False, [2]),
         5: (True, []), 6: (True, [3]), 7: (True, [2, 3]), 8: (True, [2])}  # fmt: skip


def clean_file(
    run: Run, file: JpegFile, picture: Tensor, noise: float | None = None, calls: int = 1, seed: int = 0,
    on_step: OnStep | None = None, film: Film | None = None,
) -> tuple[Tensor, list[int], float]:  # fmt: skip
    """Restore a JPEG file. Returns the answer, [1,3,H,W] in [-1,1], the timesteps, and the deviation of the noise.

    picture: its pixels, [1,3,H,W] in [-1,1], upright. noise: the deviation of what the rounding did to them, which
    decides how much is changed; None: as the file tells. calls: 1 is the mean, more give texture. on_step: called after
    every call. film: is shown every call, upright.
    """
    told = measured(file).to(device_of(run))
    sigma = told.error if noise is None else noise
    start_t = enter(run, sigma)
    calls = min(calls, start_t + 1)
    (level,) = run.schedule.levels([start_t])
    x = level.signal * on_units(lying(picture, file.orientation), told).to(device_of(run))
    timesteps = POSTERIOR_PLAN.calls(run.schedule, calls, start_t)
    if film is not None:
        film.start(run.schedule, timesteps, cropped(x, file))
    evidence = Evidence(told.measurement, told.y, 1.0, doubt_of(run))
    for step in sample_posterior(run.denoiser(), run.schedule, x, evidence, start_t=start_t, steps=calls,
                                 generator=sample_generators(seed, [0])):  # fmt: skip
        x = step.x
        if film is not None:
            film.see(Step(step.t, cropped(step.x, file), cropped(step.x0, file)))
        if on_step is not None:
            on_step(step)
    return cropped(told.fitted(x), file).clamp(-1, 1).cpu(), timesteps, sigma


def measured(file: JpegFile) -> Rounded:
    """Describe a JPEG file as a measurement. A grey one says also that there is no colour."""
    numbers = [torch.from_numpy(plane.numbers.copy()) for plane in file.planes]
    codings = [Coding(torch.from_numpy(plane.steps), plane.down, plane.across) for plane in file.planes]
    if file.colours == "grey":
        numbers += [torch.zeros_like(numbers[0])] * 2
        codings += [Coding(torch.zeros(8, 8, dtype=torch.float64))] * 2
    return rounded(numbers, codings, ycbcr=file.colours != "RGB")


def on_units(x: Tensor, told: Rounded) -> Tensor:
    """Continue an image [1,3,H,W] to whole units by its last row and column, as programs do that write JPEG files."""
    return F.pad(x, (0, told.width - x.shape[3], 0, told.height - x.shape[2]), mode="replicate")


def cropped(x: Tensor, file: JpegFile) -> Tensor:
    """Cut an image [N,C,H,W] of whole units to the size of the file, and turn it to how it is seen."""
    return upright(x[..., : file.height, : file.width], file.orientation)


def upright(x: Tensor, orientation: int) -> Tensor:
    """Turn an image [N,C,H,W] from how it lies in the file to how it is seen."""
    swapped, flipped = TURNS[orientation]
    return (x.transpose(2, 3) if swapped else x).flip(flipped)


def lying(x: Tensor, orientation: int) -> Tensor:
    """Turn an image [N,C,H,W] back to how it lies in the file."""
    swapped, flipped = TURNS[orientation]
    x = x.flip(flipped)
    return x.transpose(2, 3) if swapped else x
