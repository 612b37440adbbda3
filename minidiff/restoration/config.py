"""The settings of a restoration: what a user can ask for, and what config.json and the results hold.

Rests on records and dip.config, and needs no torch. There are two kinds: `finish.py` lets a model of photographs finish
any number of pictures, and `restore.py` fits a deep image prior to one picture before.
"""

from dataclasses import KW_ONLY
from typing import Literal

from minidiff.ddpm.config import MOST_TIMESTEPS
from minidiff.dip.config import FitRequest
from minidiff.errors import UserError, counted
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.nearness import Quality
from minidiff.records import LARGEST_INT, demand, demand_range, record
from minidiff.runs.shipped import PHOTOS

ANSWER, RESULT, FIT = "restored.png", "result.json", "dip"  # files of a run folder, and the folder of the fit
STRIP = "strip.png"  # of a run with a fit: what its chain looked like on the way
AUTO = "auto"  # for start_t: the timestep that has the picture's noise


MODEL = PHOTOS  # unless another is named
CALLS = {"denoise": 1, "inpaint": 20, "upscale": 20, "deblur": 20, "jpeg": 1}  # of the network, unless said otherwise
BELONGS = {"mask": "inpaint", "scale": "upscale", "kernel": "deblur"}  # options of one task
GAUSSIAN = "gaussian:"  # before the deviation, in pixels, of a blur that is Gaussian
STRIPS = "strips"  # a folder of a run that finishes pictures, beside RESULTS and SHEETS


@record
class FinishRequest:
    """The options of `minidiff restore` for pictures that a model finishes, without a deep image prior."""

    _: KW_ONLY
    task: Literal["denoise", "inpaint", "upscale", "deblur", "jpeg"] = "denoise"  # what is wrong with the picture
    noise: float | Literal["auto"] = "auto"  # the deviation of the noise, of 255; "auto": see `minidiff restore --help`
    calls: int | None = None  # of the network, for each picture; None: see CALLS. For noise 1 is the mean, more draw
    mask: str | None = None  # for inpaint: an image file, white where the picture is known; auto: salt and pepper
    scale: Literal[2, 4] | None = None  # for upscale: how many times larger; by default 4
    kernel: str | None = None  # for deblur: an image file of how a bright point looks, or gaussian:SIGMA
    seed: int = 0
    reference: str | None = None  # the clean picture, to measure PSNR and SSIM against
    max_pixels: int = MAX_PIXELS  # refuse a picture that declares more

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_TIMESTEPS, "calls")
        demand_range(self, 0, LARGEST_INT, "seed")
        demand_range(self, 1, LARGEST_INT, "max_pixels")
        demand(self.noise == AUTO or 0 <= float(self.noise) <= 255, "noise", self.noise, "0 to 255, or auto")
        for name, task in BELONGS.items():
            if getattr(self, name) is not None and self.task != task:
                raise UserError(f"`{name}` belongs to `task` {task}. Leave it out, or ask for that task.")
        if self.task == "inpaint" and self.mask is None:
            raise UserError("`task` inpaint needs `mask`, an image that is white where the picture is known.")
        if self.task == "deblur" and self.kernel is None:
            raise UserError("`task` deblur needs `kernel`, an image of how a bright point looks, or gaussian:SIGMA.")
        if self.kernel is not None and self.kernel.startswith(GAUSSIAN):
            demand(is_width(self.kernel.removeprefix(GAUSSIAN)), "kernel", self.kernel, "gaussian:0.3 to gaussian:50")

    @property
    def calls_of_network(self) -> int:
        """Return how often the network is called for a picture."""
        return CALLS[self.task] if self.calls is None else self.calls

    @property
    def enlargement(self) -> int:
        """Return how many times larger than the picture its answer is."""
        return (self.scale or 4) if self.task == "upscale" else 1


def is_width(text: str) -> bool:
    """Tell whether a text is the deviation of a Gaussian blur, in pixels, that makes sense."""
    try:
        return 0.3 <= float(text) <= 50
    except ValueError:
        return False


@record
class FinishConfig:
    """The config.json of a run that finishes pictures."""

    minidiff: str  # the version that began it
    kind: Literal["finish"]
    source: str  # a picture, or a folder of them
    model: str  # the name of the model, or its folder
    out: str  # the picture to write, or the folder for several
    request: FinishRequest
    weights: str | None = None  # by which the model is known again: see `fingerprint`; None: of an earlier version


@record
class ChainConfig:
    """The reverse chain that ends a restoration."""

    start_t: int | Literal["auto"] = "auto"  # the first timestep; "auto" has as much noise as the picture
    init_mode: str = "scale"  # how the picture is brought to x_t; one of INIT_MODES
    sampler: str = "ddim"  # one of SAMPLERS
    seed: int = 0
    variance: str | None = None  # of the sampler ddpm: the one that the model was trained for
    spacing: str | None = None  # how skipped timesteps are spread; None: as the sampler usually does

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_INT, "seed")
        if self.start_t != AUTO:
            demand_range(self, 0, MOST_TIMESTEPS, "start_t")


@record
class RestoreRequest:
    """The options of a restoration. The fit has the model's size, unless the model takes any."""

    mix: float = 0.75  # how much of the picture itself goes into the chain; the rest is the fit's answer
    start_t: int | Literal["auto"] = ChainConfig.start_t
    init_mode: str = ChainConfig.init_mode
    sampler: str = ChainConfig.sampler
    fit: FitRequest = FitRequest()

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise UserError(f"`mix` is {self.mix}. Take a share from 0 to 1.")
        if self.fit.task != "denoise":
            raise UserError(f"a restoration removes noise, so its `task` is denoise, not {self.fit.task}.")


@record
class RestoreConfig:
    """The config.json of a restoration."""

    minidiff: str  # the version that began it
    kind: Literal["restore"]
    image: str
    model: str  # the run folder, or checkpoint, of the DDPM
    reference: str | None
    noise_sigma: float
    fit: FitRequest
    mix: float
    chain: ChainConfig
    deliver: bool = False  # whether the answer also goes to `out`
    out: str = ANSWER
    weights: str | None = None  # of the model: see `FinishConfig`

    def __post_init__(self) -> None:
        demand_range(self, 0, 255, "noise_sigma")
        demand_range(self, 0, 1, "mix")


@record
class Finished:
    """How one picture was finished: a file of results/."""

    noise: float  # the deviation found in the picture, told, or assumed, of 255
    start_t: int  # where the chain began
    timesteps: tuple[int, ...]  # the timesteps at which the network was called
    seconds: float
    quality: dict[str, Quality] | None = None  # of the picture and of the answer; needs a reference
    faults: tuple[str, ...] = ()  # what is wrong with the picture that denoising does not mend
    notes: tuple[str, ...] = ()  # what the answer could not keep of the picture

    def __post_init__(self) -> None:
        demand_range(self, 0, MOST_TIMESTEPS, "start_t")

    def in_words(self) -> str:
        """Say in a line what was done to the picture."""
        figures = []
        for which, found in (self.quality or {}).items():
            figures.append(f"{which} " + ("equals the reference" if found.psnr is None else f"{found.psnr:.2f} dB"))
        calls = counted(len(self.timesteps), "call")
        more = f"; {', '.join(figures)}" if figures else ""
        return f"noise {self.noise:.1f} of 255, from t = {self.start_t}, {calls}, {self.seconds:.1f} s{more}"


@record
class RestoreResult:
    """The result.json of a restoration."""

    noise: float  # the deviation found in the picture, of 255
    start_t: int  # where the chain began
    timesteps: tuple[int, ...]  # the timesteps at which the network was called
    quality: dict[str, Quality] | None = None  # of the picture, of the fit's answer, and restored; needs a reference

    def __post_init__(self) -> None:
        demand_range(self, 0, MOST_TIMESTEPS, "start_t")
