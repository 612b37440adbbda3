"""The settings of dehazing: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch. Yu et al. 2023 (DehazeDDPM) have the two stages;
the weights of the losses are those of its successor PPDM, unless a preset has others.
"""

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Any, Literal

from minidiff.data.config import Haze
from minidiff.ddpm.config import MOST_TIMESTEPS, DiffusionConfig
from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.nearness import Quality
from minidiff.networks.configs import MOST_PIXELS, GUNetConfig, UNetConfig, check_size
from minidiff.records import LARGEST_FLOAT, LARGEST_INT, demand, demand_range, record
from minidiff.training.config import RunConfig, Start, TrainRequest, check_same, read_as

DEHAZE = "dehaze"  # the model that comes with the package
ANSWER, STAGES = "dehazed.png", "stages"  # the result if nobody says where, and a folder of its run
HAZE = "haze"  # the set of pairs to train on unless another is named


@record
class GuessLoss:
    """How the errors of stage 1 are weighed against the error of J, which counts 1. All are mean absolute errors."""

    transmission: float = 0.01  # of T, and of A, where they are known
    haze: float = 0.05  # of the hazy picture that J, T and A give by the haze model

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_FLOAT, "transmission", "haze")


CONDITION = 4  # channels beside x_t: J and T


@record
class Refinement:
    """Stage 2: a network that goes from noise, or from a noisy J, to the clear picture, and sees J and T on the way."""

    network: UNetConfig  # takes x_t, J and T, and predicts what a DDPM's network does
    diffusion: DiffusionConfig
    error: Literal["l1", "l2"] = "l2"  # what is averaged: absolute errors (SR3, DehazeDDPM) or their squares (DDPM)
    fourier: float = 0.0  # how much errors in the magnitudes of the Fourier transform of the predicted x0 count
    shift: str = "none"  # how J shifts the process: one of SHIFTS
    crop: int = 64  # pixels a side that the network is trained on; stage 1 has seen the whole picture
    crops: int = 4  # of each picture of a batch
    guess_size: int = 64  # pixels a side of the squares that stage 1 has learnt from; runs made before this key had 64
    first: Start | None = None  # the stage 1 that it was trained behind, whose weights the run carries

    def __post_init__(self) -> None:
        channels = self.network.in_channels - CONDITION
        check_same("network.out_channels", self.network.out_channels, channels, "network.in_channels less J and T")
        demand_range(self, 0, LARGEST_FLOAT, "fourier")
        demand_range(self, 1, MOST_PIXELS, "crop", "guess_size")
        demand_range(self, 1, 1024, "crops")
        check_size(self.crop, self.network.stride, "`crop`")
        demand(self.diffusion.process == "ddpm", "diffusion.schedule", self.diffusion.schedule, "one of ddpm's")


@record
class DehazeConfig(RunConfig):
    """The config.json of a dehaze run."""

    _: KW_ONLY
    kind: Literal["dehaze"] = "dehaze"
    stage: Literal[1, 2] = 1
    haze: Haze  # what is drawn for a picture; pairs of files have their own
    guess: GUNetConfig  # the network of stage 1
    guess_loss: GuessLoss
    refinement: Refinement | None = None  # of a run of stage 2
    sample_every: int | None = None  # steps between pictures; None: the default
    measure_every: int | None = None  # steps between measurements; None: the default

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stage == 2) != (self.refinement is not None):
            raise UserError(f"`stage` is {self.stage}, and `refinement` says otherwise. Bring back the file.")
        if self.refinement is not None and self.refinement.crop > self.data.image_size:
            raise UserError(f"`crop` {self.refinement.crop} is larger than the pairs, {self.data.image_size}.")

    @property
    def guess_size(self) -> int:
        """Return how many pixels a side the squares have from which stage 1 has learnt."""
        return self.data.image_size if self.refinement is None else self.refinement.guess_size


def read_dehaze(stored: dict[str, Any], where: object) -> DehazeConfig:
    """Read the config.json of a dehaze run. Raises UserError, see `read_as`."""
    return read_as(DehazeConfig, stored, where)


@record
class DehazeRequest(TrainRequest):
    """The options of `minidiff train dehaze`. None: the preset decides."""

    dataset: str = HAZE  # one of HAZY_SETS
    stage: Literal[1, 2] = 1
    transmission_weight: float | None = None  # of stage 1: see `GuessLoss`
    haze_weight: float | None = None
    stage_1: str | Path | None = None  # of stage 2: the run that guesses J and T
    crop: int | None = None  # of stage 2, as the next two: see `Refinement`
    fourier_weight: float | None = None
    prediction: str | None = None  # see `DiffusionConfig`
    shift: str | None = None  # of stage 2: see `Refinement`
    sample_every: int | None = None  # steps between pictures; None: a quarter of the steps, at most 5000
    measure_every: int | None = None  # steps between measurements of PSNR; None: a tenth, at least 200
    accumulate: int | None = None  # slices that a batch is cut into, to fit the memory
    compile: bool | None = None  # torch.compile; None: on a GPU, in long runs
    muon: bool | None = None  # whether Muon moves the weights inside the network, in place of AdamW


# --- to use one -------------------------------------------------------------------------------------------------------


STEPS = 1  # of stage 2, unless said otherwise: see docs/dehaze.md
AUTO: Literal["auto"] = "auto"  # for start_t: the timestep that is as noisy as J
START_T = 50  # where `DehazeRun.refine`, which sees no hazy picture, begins


@record
class ClearRequest:
    """The options of `minidiff dehaze` that decide what a result is."""

    _: KW_ONLY
    strength: float = 1.0  # how much of the haze goes, from 0 to 1
    steps: int = STEPS  # calls of stage 2's network; 0: stage 1 alone
    # Where the chain begins, from a noisy J; "auto": where there is as much noise as in J; None: in pure noise.
    start_t: int | Literal["auto"] | None = AUTO
    seed: int = 0  # of the noise
    reference: str | None = None  # the clear picture, to measure PSNR and SSIM against
    dump_stages: bool = False  # write J, T and A as pictures into the run folder
    max_pixels: int = MAX_PIXELS  # refuse a picture that declares more

    def __post_init__(self) -> None:
        demand_range(self, 0, 1, "strength")
        demand_range(self, 0, MOST_TIMESTEPS, "steps")
        if self.start_t != AUTO:
            demand_range(self, 0, MOST_TIMESTEPS, "start_t")
        demand_range(self, 0, LARGEST_INT, "seed")
        demand_range(self, 1, LARGEST_INT, "max_pixels")


@record
class ClearConfig:
    """The config.json of a run that dehazes pictures."""

    minidiff: str  # the version that began it
    kind: Literal["clear"]
    sources: tuple[str, ...]  # pictures, and folders of them
    model: str  # the name of the model, or its folder
    weights: str  # by which the model is known again: see `fingerprint`
    out: str  # the picture to write, or the folder for several
    request: ClearRequest


@record
class Cleared:
    """How one picture was dehazed: a file of results/."""

    transmission: float  # the mean of T
    airlight: tuple[int, int, int]  # of 255
    seconds: float
    start_t: int | None = None  # where the chain of stage 2 began; None: in pure noise, or nowhere
    quality: dict[str, Quality] | None = None  # of the hazy picture, of J and of the result; needs a reference
    faults: tuple[str, ...] = ()  # what looks wrong: see doubts
    notes: tuple[str, ...] = ()  # what the result could not keep of the picture

    def in_words(self) -> str:
        """Say in a line what was done to the picture."""
        light = ", ".join(map(str, self.airlight))
        figures = []
        for which, found in (self.quality or {}).items():
            near = "equals the reference" if found.psnr is None else f"{found.psnr:.2f} dB"
            figures.append(f"{which} {near}" + ("" if found.ssim is None else f", SSIM {found.ssim:.3f}"))
        more = f"; {'; '.join(figures)}" * bool(figures)
        more += f"; stage 2 from t = {self.start_t}" * (self.start_t is not None)
        through = f"{100 * self.transmission:.0f}% of the light comes through"
        return f"{through}, airlight {light}; {self.seconds:.1f} s{more}"
