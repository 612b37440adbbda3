"""What there is to choose from: trained runs, the models of the package, and fits of deep image priors.

Rests on runs and on the kinds of configs. No weights are read, so a list takes no time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minidiff.ddpm.config import read_ddpm
from minidiff.dehaze.config import DEHAZE
from minidiff.diffusion.levels import PLANS
from minidiff.dip.config import STEPS, DipConfig
from minidiff.dip.run import read_fit
from minidiff.errors import UserError
from minidiff.gan.config import GAMES
from minidiff.runs.folder import CONFIG, list_runs, read_config
from minidiff.runs.shipped import find_run, shipped


@dataclass(frozen=True)
class About:
    """What the page must know of a model to ask the right questions."""

    chain: bool = True  # whether it goes down a reverse chain, and has timesteps
    most_t: int = 999  # the last timestep that a chain can start from
    whole: bool = True  # whether it knows all timesteps, and can draw from pure noise
    labels: tuple[str, ...] = ()
    one_hot: bool = False  # whether each image has exactly one label
    free: bool = True  # whether it also draws without labels

    @property
    def guided(self) -> bool:
        """Whether guidance makes a difference: labels, and a model that can do without them."""
        return bool(self.labels) and self.free


def about(place: str) -> About:
    """Read what the page must know of a model. place: a run folder, or a name of the package. Raises UserError."""
    folder = Path(find_run(place))
    stored = read_config(folder, kind=("ddpm", *GAMES))
    if stored["kind"] in GAMES:
        return About(chain=False)
    config = read_ddpm(stored, folder / CONFIG)
    below = config.diffusion.trained_below
    most_t = (config.diffusion.timesteps if below is None else below) - 1
    if config.labels is None:  # an imported run has numbers for labels
        labels = tuple(map(str, range(config.network.label_dim)))
        one_hot = config.source is not None and config.source.one_hot
        return About(True, most_t, below is None, labels, one_hot, free=not labels)
    known = config.labels
    return About(True, most_t, below is None, tuple(known.names), known.one_hot, known.dropout > 0)


def drawing_models() -> list[str]:
    """List the models that draw from noise, the newest run first."""
    return those(("ddpm", *GAMES), lambda known: known.whole)


def starting_models() -> list[str]:
    """List the models whose chain can start from a picture."""
    return those(("ddpm",), lambda known: known.chain)


def restoring_models() -> list[str]:
    """List the models that take noise off a picture: first the ones of the package, which know photographs."""
    models = those(("ddpm",), lambda known: known.free or not known.labels)
    return sorted(models, key=lambda place: place not in shipped())


def dehazing_models() -> list[str]:
    """List the models that take haze off: first the one of the package."""
    return [*([DEHAZE] if DEHAZE in shipped() else []), *map(str, list_runs(kind=DEHAZE))]


def those(kinds: tuple[str, ...], wanted: Callable[[About], bool]) -> list[str]:
    """List runs and models of the package of some kinds, if they are wanted. What cannot be read is left out."""
    found = []
    for place in [*map(str, list_runs(kind=kinds)), *shipped()]:
        try:
            if wanted(about(place)):
                found.append(place)
        except UserError:  # a damaged run, or a model of another kind
            continue
    return found


def default_calls(sampler: str, most_t: int, start_t: int | None = None) -> int:
    """Return how many calls a sampler makes unless told otherwise, of a model with this last timestep.

    A chain that starts lower has fewer in proportion, but 5, if there are as many timesteps below its start.
    """
    if start_t is None:
        return min(PLANS[sampler].steps or most_t + 1, most_t + 1)
    whole = PLANS[sampler].steps or most_t + 1
    return min(start_t + 1, max(5, round(whole * (start_t + 1) / (most_t + 1))))


def prior_runs() -> list[str]:
    """List the fits of one picture that kept some of their steps, the newest first."""
    return [str(folder) for folder in list_runs() if kept_steps(folder)]


def kept_steps(folder: str | Path) -> list[int]:
    """List the steps of a fit whose output was kept, ascending; none for another kind of run."""
    try:
        if read_config(folder)["kind"] != "dip" or not isinstance(read_fit(Path(folder)), DipConfig):
            return []
    except UserError:
        return []
    return sorted(int(file.stem) for file in Path(folder, STEPS).glob("*.png") if file.stem.isdecimal())


def nearest_step(folder: str | Path, step: float) -> int:
    """Return the kept step of a fit that is nearest to a place of the slider. Raises UserError if none is kept."""
    steps = kept_steps(folder)
    if not steps:
        raise UserError(f"{folder} has kept no steps to start from. `minidiff dip fit` makes a run that does.")
    return min(steps, key=lambda kept: abs(kept - step))
