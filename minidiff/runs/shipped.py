"""The trained models that come with the package, by name: `minidiff.load("photos")` needs no download.

Each is a run folder with config.json and weights in half precision, below `minidiff/models/`. docs/models.md says how
each was trained, on which data, and how good it is.
"""

from pathlib import Path

from minidiff.runs.folder import CONFIG

MODELS = Path(__file__).parents[1] / "models"
PHOTOS = "photos"  # of photographs, at any size


def shipped() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG}"))


def find_run(place: str | Path) -> str | Path:
    """Return the folder of a model that comes with the package, if `place` is its name; otherwise the place as it is.

    A run folder of that name comes first, but no other folder does: `photos` is the model also where your pictures lie
    in a folder called photos.
    """
    folder = MODELS / place
    is_name = isinstance(place, str) and (folder / CONFIG).is_file() and folder.parent == MODELS
    return folder if is_name and not (Path(place) / CONFIG).is_file() else place
