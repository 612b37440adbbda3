"""Chapter 5, the labels of a run: in words, and as the network takes them.

Rests on data.conditions (words to numbers) and guidance. Ho & Salimans 2022 (classifier-free guidance).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from minidiff.data.conditions import (
    condition_of,
    labels_in_words,
    multi_hot,
    parse_condition,
    read_conditions,
    say_list,
)
from minidiff.ddpm.request import Labels
from minidiff.diffusion.guidance import GUIDANCE_SCALE
from minidiff.errors import UserError


@dataclass(frozen=True)
class LabelSet:
    """The labels of a run. A run without names takes no labels."""

    run: Path  # whose labels they are, for messages
    names: list[str]
    one_hot: bool = False  # whether every image has exactly one
    named: bool = True  # whether the names are known; an imported run has numbers instead
    dropout: float = 0.0  # the share of training images that came without; at 0 the run cannot draw without them
    data_dir: Path | None = None  # the folder of the training images, where labels files are looked for, too

    def conditions(self, texts: str | Sequence[str] = (), file: str | Path | None = None) -> list[list[int]]:
        """Find the label numbers of each text, such as "blue cube, yellow cylinder", and of each line of a labels file.

        file: see `find_list`, which also looks into the run's data folder. Raises UserError.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not self.names and (texts or file is not None):
            raise UserError(self.takes_none())
        found = [parse_condition(text, self.names) for text in texts]
        found += read_conditions(file, self.names, self.data_dir) if file is not None else []
        self.check_single(found)
        return found

    def check_single(self, conditions: Sequence[Sequence[int]]) -> None:
        """Raise UserError if an image of this run has one label, and a condition asks for several or for none."""
        for one in conditions if self.one_hot else ():
            if len(one) > 1:
                raise UserError(
                    f"an image of this run has one label, but '{labels_in_words(one, self.names)}' are {len(one)}. "
                    "To draw images of each, ask for one label at a time."
                )
            if not one:
                raise UserError(f"an image of this run has one label, and here it has none. Give one of {self.few()}.")

    def few(self) -> str:
        """List the labels for a message: all, or the first and how many there are."""
        if not self.named:
            return f"the numbers 0 to {len(self.names) - 1}"
        more = f", ... ({len(self.names)} in all)" if len(self.names) > 12 else ""
        return ", ".join(self.names[:12]) + more

    def say_list(self, file: str | Path) -> str:
        """Say which list a labels file is: its path, or the package's own list."""
        return say_list(file, self.names, self.data_dir)

    def check(self, labels: "Labels | None", guidance_scale: float | None) -> None:
        """Raise UserError for labels the run does not take, for missing labels, and for guidance it cannot do."""
        if labels is None:
            if guidance_scale is not None:
                raise UserError("`guidance_scale` needs `labels`, and there are none. Give labels, or leave it out.")
            if self.names and not self.dropout:
                many = "one" if self.one_hot else "any"
                raise UserError(f"{self.run} draws nothing without labels. Give `labels`, {many} of {self.few()}.")
            return
        if not self.names:
            raise UserError(self.takes_none())
        if not len(labels):
            raise UserError("the labels have no rows. Leave them out, or give at least one row.")
        if isinstance(labels, Tensor) and labels.shape[1:] != (len(self.names),):
            raise UserError(
                f"the labels have the shape {list(labels.shape)}, and this run takes [M,{len(self.names)}]."
            )
        if isinstance(labels, Tensor):
            labels = [condition_of(row) for row in labels[(labels != 0).sum(dim=1) != 1][:1]]  # the first wrong one
        known = range(len(self.names))  # a number that no label has is for `multi_hot` to refuse
        self.check_single([one for one in labels if all(number in known for number in one)])
        if guidance_scale not in (None, 1) and not self.dropout:
            why = "was never trained without labels"
            if not self.named and self.one_hot:  # one of them may have been trained as no class: nothing says which
                why = "has a table of classes, and nothing says that one of them means no class"
            elif not self.named:
                why = "comes from a library where it draws nothing without labels"
            raise UserError(f"{self.run} {why}, so guidance has nothing to compare with. Leave out `guidance_scale`.")

    def takes_none(self) -> str:
        """Say that the run was trained without labels."""
        return f"{self.run} was trained without labels. Leave them out, or train a conditional run."

    def multi_hot(self, labels: "Labels") -> Tensor:
        """Write labels as rows of zeros and ones: float32 [M,L]. Raises UserError for a number that no label has."""
        return labels if isinstance(labels, Tensor) else multi_hot(labels, len(self.names))

    def guidance(self, scale: float | None = None) -> float:
        """Choose the default guidance scale: 1 for a run that never learnt to draw without labels."""
        if scale is not None:
            return scale
        return GUIDANCE_SCALE if self.dropout else 1.0
