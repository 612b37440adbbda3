"""The settings of a deep image prior: what a user can ask for, and what config.json and result.json hold.

Rests on records, and needs no torch: so help texts and `minidiff info` are quick.
`FitRequest` is what a user asks for. `DipConfig` is what became of it for one picture, with nothing left open.
"""

from typing import Any, Literal

from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.networks.configs import MOST_CHANNELS, MOST_PIXELS
from minidiff.records import LARGEST_INT, demand_range, from_json, record, to_json

ANSWER, TARGET, RESULT = "dip.png", "target.png", "result.json"  # files of a run folder
STEPS, IMAGES, ANSWERS = "steps", "images", "dip"  # folders of a run folder
MOST_STEPS = 10**9  # of a fit, which takes years
OFF = "off"  # in place of the name of an early stop: run all steps


@record
class FitConfig:
    """How a network is fitted to an image. The defaults are the published ones for denoising."""

    steps: int = 3000
    lr: float = 0.01
    task: str = "denoise"  # one of TASKS
    factor: int = 4  # for super-resolve: how many times larger than the target the result is
    input_kind: str = "noise"  # one of INPUTS
    jitter: float = 1 / 30  # deviation of the noise added to the input, anew in every step
    average: float = 0.99  # weight of the past in the averaged output; 0 for no averaging
    seed: int = 0  # of input and jitter; the initial weights are the network's own
    compile: bool = False  # use torch.compile, which takes a minute first and needs a C compiler

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"`steps` is {self.steps}. Take at least 1.")
        if not self.lr > 0:  # NaN, too
            raise UserError(f"`lr` is {self.lr}. Take a learning rate above 0, such as 0.01.")
        if not self.jitter >= 0:
            raise UserError(f"`jitter` is {self.jitter}. Take 0 or more.")
        if not 0 <= self.average < 1:
            raise UserError(f"`average`, the weight of the past, is {self.average}, outside [0, 1). Take 0.99, or 0.")
        if self.task == "super-resolve" and self.factor < 2:
            raise UserError(f"a `factor` of {self.factor} enlarges nothing. Take 2 or more.")
        demand_range(self, 1, MOST_STEPS, "steps")
        demand_range(self, 1, MOST_PIXELS, "factor")
        demand_range(self, 0, LARGEST_INT, "seed")

    @property
    def enlargement(self) -> int:
        """Say how many times larger than the target the result is."""
        return self.factor if self.task == "super-resolve" else 1


MOST_SCALES = 13  # halvings of MOST_PIXELS


@record
class NetConfig:
    """Which network is fitted, and its settings. None leaves a setting at the network's own default."""

    name: str = "hourglass"  # one of DIP_NETS
    layers: int | None = None
    channels: int | None = None
    kernel_size: int | None = None
    scales: int | None = None
    weights: str | None = None  # "imagenet" for a pretrained encoder
    in_channels: int = 32
    out_channels: int = 3

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_CHANNELS, "channels", "in_channels", "out_channels")
        demand_range(self, 1, 1000, "layers", "kernel_size")
        demand_range(self, 1, MOST_SCALES, "scales")

    def settings(self) -> dict[str, Any]:
        """Return the arguments to build the network with: every field that is set, except the name."""
        return {key: value for key, value in present(self).items() if key != "name"}


@record
class StopConfig:
    """Which early stop watches a fit, and its settings."""

    name: str  # one of EARLY_STOPS
    patience: int  # steps without a new minimum
    window: int | None = None  # how many outputs the early stop `window` looks at
    downscale: int | None = None  # it watches outputs averaged over this many pixels a side

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_STEPS, "patience", "window")
        demand_range(self, 1, MOST_PIXELS, "downscale")

    def settings(self) -> dict[str, Any]:
        """Return the arguments to build the early stop with: every field that is set, except the name."""
        return {key: value for key, value in present(self).items() if key != "name"}


@record
class FitRequest:
    """The options of a fit. None stands for the value that suits the picture and the network."""

    task: str = FitConfig.task  # what is wrong with the picture; one of TASKS
    mask: str | None = None  # for inpaint: an image file, white where the picture is known
    factor: int | None = None  # for super-resolve: how many times larger; by default 4
    size: int | None = None  # cut out the centre square at this many pixels; None takes the whole picture
    max_pixels: int = MAX_PIXELS  # refuse a picture that declares more
    noise_sigma: float = 0.0  # add noise of this deviation, of 255, to a clean picture
    net: str = NetConfig.name  # one of DIP_NETS
    layers: int | None = None  # of cnn
    channels: int | None = None  # inside conv2, cnn or hourglass
    kernel_size: int | None = None  # of cnn
    scales: int | None = None  # of hourglass; by default 5, and fewer for a small picture
    weights: str | None = None  # of resnet18: "imagenet"
    steps: int = FitConfig.steps
    lr: float = FitConfig.lr
    input: str | None = None  # one of INPUTS; by default noise, and the picture itself for conv2 and cnn
    jitter: float = FitConfig.jitter
    average: float = FitConfig.average
    early_stop: str = "window"  # one of EARLY_STOPS, or "off"
    patience: int | None = None  # by default 1000, and less for a small picture
    window: int | None = None  # of the early stop window; by default 100
    save_every: int = 10  # steps between saved outputs
    reference: str | None = None  # an image file: the clean picture, to measure PSNR and SSIM against
    seed: int = FitConfig.seed
    compile: bool = FitConfig.compile

    def __post_init__(self) -> None:
        if self.mask and self.task != "inpaint":
            raise UserError("`mask` belongs to `task` inpaint. Leave it out, or ask for that task.")
        if self.task == "inpaint" and not self.mask:
            raise UserError("`task` inpaint needs `mask`, an image that is white where the picture is known.")
        if self.factor and self.task != "super-resolve":
            raise UserError("`factor` belongs to `task` super-resolve. Leave it out, or ask for that task.")
        if self.early_stop == OFF and (self.window or self.patience):
            raise UserError("`window` and `patience` belong to early stopping, which is off. Leave them out.")
        if self.size is not None and self.size < 8:
            raise UserError(f"`size` is {self.size}. Take 8 pixels or more.")
        if not 0 <= self.noise_sigma <= 255:
            raise UserError(f"`noise_sigma` is {self.noise_sigma}. Take a deviation from 0 to 255.")
        if self.save_every < 1:
            raise UserError(f"`save_every` is {self.save_every}. Take 1 step or more.")
        demand_range(self, 1, LARGEST_INT, "max_pixels")
        self.fit_config("noise")  # which checks the rest

    def fit_config(self, input_kind: str) -> FitConfig:
        """Put together how the network is fitted, once its input is known."""
        return FitConfig(
            steps=self.steps,
            lr=self.lr,
            task=self.task,
            factor=FitConfig.factor if self.factor is None else self.factor,
            input_kind=input_kind,
            jitter=self.jitter,
            average=self.average,
            seed=self.seed,
            compile=self.compile,
        )


@record
class DipConfig:
    """The config.json of a fit of one picture: all that is needed to begin it again."""

    minidiff: str  # the version that began the fit
    kind: Literal["dip"]
    image: str
    size: int | None
    mask: str | None
    reference: str | None
    noise_sigma: float
    net: NetConfig
    fit: FitConfig
    early_stop: StopConfig | None
    save_every: int
    digest: str  # of the target and its mask, to notice when the picture has changed
    deliver: bool = False  # whether the answer also goes to the folder the command was called in
    max_pixels: int = MAX_PIXELS  # of its pictures

    def __post_init__(self) -> None:
        demand_range(self, 8, MOST_PIXELS, "size")
        demand_range(self, 1, LARGEST_INT, "max_pixels")
        demand_range(self, 0, 255, "noise_sigma")
        demand_range(self, 1, MOST_STEPS, "save_every")


@record
class DipFolderConfig:
    """The config.json of the fits of all pictures of a folder."""

    minidiff: str
    kind: Literal["dip"]
    images: str  # the folder
    options: FitRequest


@record
class FitResult:
    """The result.json of a fit. PSNR and SSIM need a reference."""

    steps: int  # how many were taken
    best_step: int  # the step whose averaged output is the answer
    stopped: bool  # by the early stop, before the last step
    psnr: float | None = None  # of the answer, in dB
    ssim: float | None = None
    psnr_target: float | None = None  # of the target: where the fit began
    ssim_target: float | None = None

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_STEPS, "steps")
        demand_range(self, 0, self.steps, "best_step")


def read_any_fit(stored: dict[str, Any], where: object) -> DipConfig | DipFolderConfig:
    """Read the config.json of a fit, of one picture or of all pictures of a folder. Raises UserError."""
    return from_json(DipFolderConfig, stored, where) if "images" in stored else from_json(DipConfig, stored, where)


def present(value: object) -> dict[str, Any]:
    """Turn a record into JSON, without what is None."""
    return {key: entry for key, entry in to_json(value).items() if entry is not None}
