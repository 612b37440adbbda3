"""The settings of a study of priors: what a user can ask for, and what study.json holds. Needs no torch.

The study asks whether a prior helps a DDPM. It compares the plain DDPM with every use of every prior, and with
controls; docs/priors.md explains them. A cell is one of these models with one seed, and is measured every few steps:

    plain             the DDPM without a prior
    prior-NET         the prior alone, without a DDPM: what it makes of noisy training images
    target-NET        a DDPM that learns the prior's outputs
    start-NET         chains of the plain DDPM, from the prior's outputs at a t below T
    residual-NET      a DDPM that sees the prior's outputs
    start-mean        controls: the same chains from the mean image,
    start-blurred     from blurred training images,
    start-wrong       and from the first prior's outputs for pictures of which no training image is like;
    residual-wrong    the DDPM that sees the first prior, shown these outputs

Rests on config, the records of every study.
"""

from dataclasses import KW_ONLY, replace
from typing import ClassVar, Literal

from minidiff.errors import UserError
from minidiff.records import demand, record
from minidiff.studies.config import MOST_SEEDS, Planned, data_of, model_of

NETS, USES, SEEDS = ("conv2", "resnet18"), ("target", "start", "residual"), 3  # of a new study
CONTROLS = ("mean", "blurred", "wrong")  # to start chains from, in place of a prior's outputs
PLAIN, ALONE = "plain", "prior"  # a DDPM without a prior; a prior without a DDPM
SHOWN_WRONG = "residual-wrong"  # the control of the DDPM that sees a prior
MEASUREMENTS = 10  # over the training, unless the user says how often
SAMPLER, CALLS = "dpm++sde", 20  # of every chain from noise, as in other studies
SHARES = (0.25, 0.5, 0.75, 1.0)  # of these calls, at the last step; a start has such a share of the timesteps, too
MAIN = {"start": 0.5}  # the share at every measurement; without an entry all calls


@record
class PriorRequest:
    """The options of a study of priors. None stands for the value of the study there, or the default of a new one."""

    dataset: str | None = None  # a name of DATASETS; a new study needs it
    nets: tuple[str, ...] | None = None  # of the priors: names of DIP_NETS
    uses: tuple[str, ...] | None = None  # of the priors in a DDPM: some of USES
    steps: int | None = None  # of every DDPM; None: the preset's
    prior_steps: int | None = None  # of every prior; None: the preset's
    noise: float | None = None  # the deviation of the noise that a prior takes off
    measure_every: int | None = None  # steps between measurements; None: a tenth of the steps
    num: int | None = None  # samples of each measurement
    seed: int | None = None  # the first seed
    seeds: int | None = None  # how many: every cell is repeated with each of them
    image_size: int | None = None  # height and width, in pixels
    features: str | None = None  # the feature network: `inception`, or the run folder of a classifier
    fid: bool | None = None  # with a classifier's features: measure in Inception, too
    data_dir: str | None = None  # where the files of the data set lie
    device: str | None = None  # whose presets to take, and where to run: cpu, cuda, mps

    def __post_init__(self) -> None:
        for name in ("nets", "uses"):
            if isinstance(value := getattr(self, name), str):
                raise UserError(f"`{name}` is a list of names, not the text '{value}'. Write ('{value}',).")
        for name in ("steps", "prior_steps", "measure_every"):
            value = getattr(self, name)
            demand(value is None or value >= 1, name, value, "1 or more")
        demand(self.seeds is None or 1 <= self.seeds <= MOST_SEEDS, "seeds", self.seeds, f"1 to {MOST_SEEDS}")


@record
class PriorStudy(Planned):
    """A study of priors as study.json holds it. Its `models` are those that the top of this file lists."""

    _: KW_ONLY
    kind: Literal["priors"] = "priors"
    nets: tuple[str, ...]
    uses: tuple[str, ...]
    noise: float
    measure_every: int
    fid: bool = False

    process: ClassVar[str] = "minidiff.studies.prior_cell"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = models_of(self.nets, self.uses)
        older = tuple(model for model in known if model != SHOWN_WRONG)  # of a study that was begun before this control
        if self.models not in (known, older):
            raise UserError("`models` are not those of the nets and uses of the study.")
        if not all(self.steps.get(model, 0) > 0 for model in self.models):
            raise UserError("`steps` lacks a number for some of the models.")
        demand(self.measure_every >= 1, "measure_every", self.measure_every, "1 or more")

    def in_inception(self) -> "PriorStudy":
        """Return the study as if its features were Inception's."""
        return replace(self, features="inception", network=None)

    def needs(self, cell: str) -> tuple[str, ...]:
        """Return the cells of the same seed whose training a cell uses."""
        use, net = parts_of(cell)
        source = self.source_of(cell)
        needed = [] if source == cell else [model_of(source)]
        if use not in (PLAIN, ALONE) and net not in ("mean", "blurred"):
            needed.append(f"{ALONE}-{self.nets[0] if net == 'wrong' else net}")
        return tuple(sibling(cell, model) for model in needed)

    def source_of(self, cell: str) -> str:
        """Return the cell of the same seed whose DDPM a cell draws with: its own, or one that another cell trains."""
        if model_of(cell) == SHOWN_WRONG:
            return sibling(cell, f"residual-{self.nets[0]}")
        return sibling(cell, PLAIN) if parts_of(cell)[0] == "start" else cell

    def lends(self, cell: str) -> bool:
        """Say whether other cells draw with the weights of this one, now or when the study has grown."""
        return parts_of(cell)[0] == PLAIN or any(self.source_of(other) == cell != other for other in self.cells)

    @property
    def moments(self) -> list[int]:
        """List the steps at which every DDPM is measured."""
        last = self.steps[PLAIN]
        return [*range(self.measure_every, last, self.measure_every), last]

    def main_of(self, cell: str) -> tuple[int, float]:
        """Return the measurement that a cell's result has: the last step, and the usual share of the calls."""
        use, _ = parts_of(cell)
        return (0, 1.0) if use == ALONE else (self.moments[-1], MAIN.get(use, 1.0))

    def points_of(self, cell: str) -> list[tuple[int, float]]:
        """List the measurements of a cell: after how many steps, and with which share of the calls."""
        use, _ = parts_of(cell)
        last, main = self.main_of(cell)
        if use == ALONE:
            return [(last, main)]
        more = [(last, share) for share in SHARES if share != main and not (use == "start" and share == 1)]
        return [*((step, main) for step in self.moments), *more]


def models_of(nets: tuple[str, ...], uses: tuple[str, ...]) -> tuple[str, ...]:
    """List the models of a study. Those that others draw with come first."""
    controls = {"start": CONTROLS, "residual": ("wrong",)}
    used = [f"{use}-{net}" for use in USES if use in uses for net in (*nets, *controls.get(use, ()))]
    return (PLAIN, *(f"{ALONE}-{net}" for net in nets), *used)


def parts_of(cell: str) -> tuple[str, str]:
    """Return the use and the prior of a cell: ("start", "conv2"); of the plain DDPM ("plain", "")."""
    use, _, net = model_of(cell).partition("-")
    return use, net


def sibling(cell: str, model: str) -> str:
    """Return the cell of another model with the same seed."""
    _, plus, repeat = cell.rpartition(".")[2].partition("+")
    return f"{data_of(cell)}.{model}{plus}{repeat}"
