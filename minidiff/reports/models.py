"""The models that come with the package, for people: what each is for, how large, how it was made, and how good it is.

Rests on shipped and on describe, and needs no torch.
"""

from minidiff.errors import printable
from minidiff.files import size_in_words
from minidiff.records import record
from minidiff.reports.describe_training import parameters
from minidiff.runs.folder import MODEL, read_config
from minidiff.runs.shipped import CLASSIFIER, MODELS, About, read_about, shipped


@record
class ShippedModel:
    """A model that comes with the package."""

    name: str
    kind: str  # of its run: ddpm, classifier, dehaze
    folder: str
    parameters: str  # how many, in how many tensors
    size: int  # bytes of its weights
    about: About

    def __str__(self) -> str:
        lines = {
            "name": f"{self.name} ({self.kind})", "for": self.about.purpose, "try": self.about.example,
            "parameters": self.parameters, "weights": f"{size_in_words(self.size)}, in half precision",
            "data": self.about.data, "licence": self.about.licence, "made": "\n".join(self.about.made),
            "figures": "\n".join(self.about.figures), "names": names(self.name), "folder": self.folder,
        }  # fmt: skip
        return "\n".join(
            f"{title if number == 0 else '':11} {printable(line)}"
            for title, text in lines.items()
            for number, line in enumerate(text.split("\n"))
        )


def names(name: str) -> str:
    """Say by which names a model is found."""
    short = name.removesuffix(CLASSIFIER)
    if short == name:
        return name
    return f"{name}; {short} where a classifier is wanted" + " or no other is there" * (short not in shipped())


def list_models() -> list[ShippedModel]:
    """List the models that come with the package. Raises UserError if one lacks a file."""
    return [model_named(name) for name in shipped()]


def model_named(name: str) -> ShippedModel:
    """Describe one of them. The name of a classifier may be short: see `find_run`. Raises UserError."""
    name = next((each for each in (name, name + CLASSIFIER) if each in shipped()), name)
    about, folder = read_about(name), MODELS / name
    weights = folder / MODEL
    kind = read_config(folder)["kind"]
    return ShippedModel(name, kind, str(folder), parameters(weights), weights.stat().st_size, about)
