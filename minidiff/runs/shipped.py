"""The trained models that come with the package, by name: `minidiff.load("photos")` needs no download.

Each is a run folder below `minidiff/models/`, with config.json, weights in half precision, and about.json, which says
what no config does: what the model is for, where its data come from, and how good it is. docs/models.md has the rest.
"""

from pathlib import Path

from minidiff.errors import UserError, suggestion
from minidiff.files import read_json
from minidiff.records import from_json, record
from minidiff.runs.folder import CONFIG
from minidiff.runs.folder import MODELS as MODELS

PHOTOS = "photos"  # of photographs, at any size
ABOUT = "about.json"
CLASSIFIER = "-classifier"  # at the end of the name of a classifier, whose data set has a model that draws, too
OTHERS = ("model_index.json", "unet/config.json")  # in a folder of diffusers


@record
class About:
    """What a model is, for people: the about.json of its folder."""

    purpose: str  # what it is for, in a line
    example: str  # a command that uses it
    data: str  # what it was trained on
    licence: str  # of these data
    made: tuple[str, ...]  # how it was trained, a line each
    figures: tuple[str, ...]  # how good it is, a line each


def shipped() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG}"))


def read_about(name: str) -> About:
    """Read what a model is. Raises UserError if no model of that name comes with the package."""
    if name not in shipped():
        raise UserError(f"no model '{name}' comes with minidiff. {suggestion(name, shipped())}")
    place = MODELS / name / ABOUT
    return from_json(About, read_json(place), place)


def find_run(place: str | Path, classifier: bool = False) -> str | Path:
    """Return the folder of a model that comes with the package, if `place` is its name; otherwise the place as it is.

    A run folder of that name comes first, or one of diffusers, but no other folder does: `photos` is the model also
    where your pictures lie in a folder called photos.

    classifier: whether a classifier is wanted. A name can stand for two models, as for one that draws clothes and one
    that tells them apart. The second is called NAME-classifier. Who wants a classifier gets it by NAME, too; all others
    get it by NAME only where there is no model that draws.
    """
    if not isinstance(place, str) or is_run(Path(place)):
        return place
    both = (place + CLASSIFIER, place)
    for name in both if classifier else both[::-1]:
        folder = MODELS / name
        if folder.parent == MODELS and (folder / CONFIG).is_file():
            return folder
    return place


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run, or a model of diffusers."""
    return any((folder / name).is_file() for name in (CONFIG, *OTHERS))


def is_name(place: str | Path, classifier: bool = False) -> bool:
    """Tell whether a place is the name of a model that comes with the package, and nothing else is there."""
    return not Path(place).expanduser().exists() and find_run(place, classifier) != place
