"""The settings of a DDPM: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch. Ho et al. 2020 (DDPM); the other papers are
cited beside the functions that the names choose.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from minidiff.data.config import Labels
from minidiff.errors import UserError
from minidiff.networks.configs import DiTConfig, OwnNetwork, UNetConfig
from minidiff.records import LARGEST_FLOAT, demand, demand_range, record
from minidiff.training.config import MOST_STEPS, RunConfig, Start, TrainRequest, check_same, read_as

if TYPE_CHECKING:
    from torch.nn import Module

TimestepSampling = Literal["uniform", "stratified", "logit-normal", "log-normal"]
ProcessName = Literal["ddpm", "flow", "edm"]
PriorUse = Literal["target", "start", "residual"]
MOST_TIMESTEPS = 1_000_000  # the numbers of the schedule take 40 bytes each, and samplers go through all of them
LABEL_DROPOUT = 0.1  # Ho & Salimans 2022, section 4.1


@record
class DiffusionConfig:
    """The noise schedule, and what the network learns to predict. The defaults are the DDPM paper's."""

    schedule: str = "linear"  # one of SCHEDULES, or "betas", or "flow" or "edm": see `diffusion.continuous`
    timesteps: int = 1000  # T
    beta_start: float | None = None  # of linear and scaled_linear; None for both: 1e-4 and 0.02, times 1000 / T
    beta_end: float | None = None
    prediction: str = "eps"  # what the network predicts: one of PREDICTIONS
    min_snr_gamma: float | None = None  # weighs the loss (Hang et al. 2023); None: all timesteps alike
    timestep_sampling: TimestepSampling = "uniform"  # how a batch gets its timesteps, see `ddpm_loss`
    trained_below: int | None = None  # only timesteps below this one are trained, and can be drawn from; None: all
    # The share of images whose noise is as in a file, where pixels are cut to [0,255] and rounded: `noise_in_file`.
    file_noise: float = 0.0
    grey: float = 0.0  # the share of images shown in grey, with the noise of a grey picture: the same in all channels
    zero_terminal_snr: bool = False  # the schedule ends in pure noise (Lin et al. 2024)
    variance: str = "fixed_small"  # of the reverse steps of the sampler ddpm: one of VARIANCES
    betas: tuple[float, ...] | None = None  # all T, of a schedule that has no name; see `save_run`
    shift: float = 1.0  # of flow: above 1, all timesteps are noisier, as large images need (Esser et al. 2024)

    @property
    def process(self) -> ProcessName:
        """The notation of the schedule: DDPM's, flow matching's or EDM's."""
        return self.schedule if self.schedule in ("flow", "edm") else "ddpm"  # type: ignore[return-value]

    def describe(self) -> str:
        """Say in a line which process is learnt, and by which prediction."""
        name = {"flow": "flow matching", "edm": "EDM's sigmas"}.get(self.schedule, f"{self.schedule} schedule")
        shift = f", shift {self.shift:g}" * (self.shift != 1)
        return f"{name}, T = {self.timesteps}{shift}, predicts {self.prediction}"

    def __post_init__(self) -> None:
        """Raise UserError for numbers out of range; the names are looked up where the schedule is built."""
        demand(2 <= self.timesteps <= MOST_TIMESTEPS, "timesteps", self.timesteps, f"2 to {MOST_TIMESTEPS:,}")
        for name in ("beta_start", "beta_end"):
            value = getattr(self, name)
            demand(value is None or 0 < value <= 1, name, value, "a number above 0 and up to 1, or None")
        count = None if self.betas is None else len(self.betas)
        if count != (self.timesteps if self.schedule == "betas" else None):
            raise UserError(f"`betas` are {count}, and the schedule {self.schedule} has {self.timesteps} timesteps.")
        chosen, known = self.timestep_sampling, get_args(TimestepSampling)
        demand(chosen in known, "timestep_sampling", chosen, " or ".join(known))
        for name, process in (("logit-normal", "flow"), ("log-normal", "edm")):
            if chosen == name and self.process != process:
                raise UserError(f"`timestep_sampling` {name} belongs to the process {process}, not {self.process}.")
        demand(0 < self.shift <= LARGEST_FLOAT, "shift", self.shift, "a number above 0")
        if self.shift != 1 and self.process != "flow":
            raise UserError(f"`shift` belongs to the process flow, not {self.process}. Leave it out.")
        if self.process != "ddpm":
            for name in ("beta_start", "beta_end", "zero_terminal_snr"):
                if getattr(self, name):
                    raise UserError(f"`{name}` belongs to the process ddpm, not {self.process}. Leave it out.")
        below = self.trained_below
        demand(below is None or 1 <= below <= self.timesteps, "trained_below", below, f"1 to {self.timesteps}, or None")
        demand_range(self, 0, 1, "file_noise", "grey")
        gamma = self.min_snr_gamma
        demand(gamma is None or gamma > 0, "min_snr_gamma", gamma, "a number above 0 (5 is usual), or None")


# What a training of each process takes unless it is told otherwise; a ddpm takes what its preset says.
PROCESSES: dict[str, DiffusionConfig] = {
    "flow": DiffusionConfig(schedule="flow", prediction="velocity", timestep_sampling="logit-normal"),  # SD3
    "edm": DiffusionConfig(schedule="edm", prediction="F", timestep_sampling="log-normal"),  # EDM, table 1
}


@record
class ToldLabels(Labels):
    """The labels that a conditional network gets in training, and how often they are left out."""

    dropout: float = LABEL_DROPOUT  # the share of images whose labels are not told, for guidance

    def __post_init__(self) -> None:
        super().__post_init__()
        demand_range(self, 0, 1, "dropout")


@record
class UsedPrior:
    """The prior of a run, and what it is used for: see `ddpm.prior`."""

    run: Start  # the dip-prior run that it was, whose copy the run folder holds
    use: PriorUse
    shift: str = "data"  # of residual: how the prior's outputs shift the process, one of SHIFTS


@record
class FidConfig:
    """How FID to the training images is measured during a training."""

    every: int  # steps
    samples: int = 10_000
    sampler: str = "ddim"  # one of SAMPLERS
    steps: int | None = 50  # of the sampler; None: its own default
    features: str = "inception"  # the network to measure in: Inception, or the run folder of a classifier
    weights: str | None = None  # Inception's weights; None: from the cache, or downloaded
    network: dict[str, Any] | None = None  # tells it from any other, see `extraction.identity`

    def __post_init__(self) -> None:
        demand(1 <= self.every <= MOST_STEPS, "fid_every", self.every, "1 or more")
        demand(2 <= self.samples <= MOST_STEPS, "fid_samples", self.samples, "2 or more")
        demand(self.steps is None or 1 <= self.steps <= MOST_STEPS, "fid_steps", self.steps, "1 or more")


@record
class Origin:
    """Where an imported run comes from."""

    format: str  # such as diffusers; of a network that was trained by hand "a script", see `save_run`
    place: str
    notes: tuple[str, ...] = ()  # what is different from how its own library samples it
    weights: tuple[str, ...] = ()  # what is unusual about the weights that were read, or which of several they are
    one_hot: bool = False  # whether its labels are a table, of which an image takes one row


@record
class DdpmConfig(RunConfig):
    """The config.json of a ddpm run."""

    _: KW_ONLY
    kind: Literal["ddpm"] = "ddpm"
    labels: ToldLabels | None = None  # None: it was trained without
    network: UNetConfig | DiTConfig | OwnNetwork
    diffusion: DiffusionConfig
    sample_every: int | None = None  # steps between grids of samples; None: the default
    fid: FidConfig | None = None  # None: it is not measured
    source: Origin | None = None  # None: it was trained here
    prior: UsedPrior | None = None  # None: it has none

    def __post_init__(self) -> None:
        """Raise UserError for a run that was neither trained here nor imported, and for parts that do not fit."""
        super().__post_init__()
        demand(self.training is not None or self.source is not None, "training", None, "an object, as it was written")
        network, channels = self.network, self.data.channels
        if self.prior is not None and self.prior.use == "residual":
            if self.diffusion.process != "ddpm":
                raise UserError(f"the prior use residual belongs to the process ddpm, not {self.diffusion.process}.")
            check_same("network.in_channels", network.in_channels, 2 * channels, "data.channels, twice for the prior")
        else:
            check_same("network.in_channels", network.in_channels, channels, "data.channels")
        if not isinstance(network, OwnNetwork):
            check_same("network.out_channels", network.out_channels, channels, "data.channels")
            network.check_size(self.data.image_size, "`data.image_size`")
        if self.labels is not None:
            check_same("network.label_dim", network.label_dim, len(self.labels.names), "the number of labels.names")


def read_ddpm(stored: dict[str, Any], where: object) -> DdpmConfig:
    """Read the config.json of a ddpm run. Raises UserError, see `read_as`."""
    return read_as(DdpmConfig, stored, where)


@record
class DdpmRequest(TrainRequest):
    """The options of `minidiff train ddpm`. None: the preset decides."""

    network: "str | Callable[..., Module] | None" = None  # unet, dit, or your own: my_module:MyUNet. None: the preset's
    network_arguments: dict[str, Any] | None = None  # of that class, by keyword; of unet and dit, what the preset has
    prior: str | Path | None = None  # a dip-prior run
    prior_use: PriorUse | None = None  # what for: see `ddpm.prior`
    prior_shift: str | None = None  # of residual: one of SHIFTS; None: data
    conditional: bool = False  # tell the network the labels, to draw for them later
    label_dropout: float | None = None  # the share of images whose labels are not told; None: LABEL_DROPOUT
    process: ProcessName | None = None  # what is trained: see `PROCESSES`; None: ddpm, or that of the run in `init`
    schedule: str | None = None  # of ddpm, one of SCHEDULES; this and the next eleven: see `DiffusionConfig`
    timesteps: int | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    prediction: str | None = None
    min_snr_gamma: float | None = None
    timestep_sampling: TimestepSampling | None = None
    trained_below: int | None = None
    file_noise: float | None = None
    grey: float | None = None
    zero_terminal_snr: bool | None = None
    shift: float | None = None
    sample_every: int | None = None  # steps between grids of samples; None: a quarter of the steps, at most 5000
    fid_every: int | None = None  # steps between measurements of FID to the training images; None: not measured
    fid_samples: int | None = None  # this and the next four: see `FidConfig`
    fid_sampler: str | None = None
    fid_steps: int | None = None
    fid_features: str | None = None
    fid_weights: str | Path | None = None
    accumulate: int | None = None  # slices that a batch is cut into, to fit the memory
    compile: bool | None = None  # torch.compile; None: on a GPU, in long runs
    muon: bool | None = None  # whether Muon moves the weights inside the network, in place of AdamW
