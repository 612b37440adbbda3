"""Pictures in, pictures out: they are worked on one after another, and a run folder explains the answers.

Rests on folder and images. `minidiff restore` and `minidiff dehaze` differ in what they do to a picture. Here is what
they share: which pictures there are, where each answer goes, what is done already, and that one bad picture does not
stop the others.

    config.json    the pictures, the model, the options, where the answers go
    results/       a file for each picture: what was found in it. It is written last, so what has one is done
    sheets/        each picture before and after

Every file is written whole or not at all, the answer before its result. So after `kill -9` a picture is done, or it is
worked on again, and resuming ends with the files of a work that was never stopped.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from minidiff.diffusion.chain import Step
from minidiff.errors import UserError
from minidiff.files import locked, read_json, sweep, working_place, write_errors, write_json
from minidiff.images import sink
from minidiff.images.files import IMAGE_SUFFIXES, free_name, image_files, image_shape
from minidiff.images.show import png_file
from minidiff.records import from_json, to_json
from minidiff.runs.folder import RESULTS, SHEETS, create_run

Result = TypeVar("Result")  # the record of what was found in a picture
OnStep = Callable[[Step], object]
OnEnd = Callable[[Path, Result], object]


# --- where everything lies ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Which pictures there are, and where the answer of each goes."""

    sources: tuple[Path, ...]  # pictures, and folders of them
    out: Path  # the answer to one picture, or the folder for several

    @cached_property
    def several(self) -> bool:
        """Whether `out` is a folder. It is for every folder of pictures, even if it holds a single one."""
        return len(self.sources) > 1 or self.sources[0].is_dir()

    @cached_property
    def files(self) -> list[Path]:
        """The pictures; those of a folder by name. One that is named twice is there once. Raises UserError."""
        files = [file for source in self.sources for file in (image_files(source) if source.is_dir() else [source])]
        return list({os.path.abspath(file): file for file in reversed(files)}.values())[::-1]

    @cached_property
    def stems(self) -> Counter[str]:
        """How many pictures have each name, apart from the suffix."""
        return Counter(file.stem for file in self.files)

    def png_of(self, file: Path) -> str:
        """Name the files that are made of a picture: a.png for a.jpg, or a.jpg.png if there is an a.tif, too."""
        return f"{file.stem if self.stems[file.stem] == 1 else file.name}.png"

    def answer_of(self, file: Path) -> Path:
        """Name the file that the answer of a picture goes to."""
        return self.out / self.png_of(file) if self.several else self.out

    def result_of(self, home: Path, file: Path) -> Path:
        """Name the file that says what was found in a picture. home: the run folder."""
        return home / RESULTS / f"{file.name}.json"

    def is_done(self, home: Path, file: Path) -> bool:
        """Tell whether a picture was worked on, and its answer is still there."""
        return self.result_of(home, file).exists() and self.answer_of(file).exists()

    def check(self, force: bool, usual: str) -> None:
        """Raise UserError unless the answers may go to `out`: a picture's name for one, another folder for several.

        force: replace what is there. usual: the name of an answer if nobody says.
        """
        out = self.out
        if self.several:
            if out.is_dir() and any(out.samefile(home) for home in {file.parent for file in self.files}):
                raise UserError(f"`out` {out} is the folder of the pictures themselves. Give another.")
            if out.suffix.lower() in (*IMAGE_SUFFIXES, ".npz"):
                raise UserError(f"`out` {out} is one picture, and there are several. Give a folder.")
            self.check_names()
        elif out.is_dir():
            raise UserError(f"`out` {out} is a folder, and there is one picture. Try {out / usual}.")
        elif out.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"`out` {out} has no image suffix. Try {out}.png; the run folder is `run`.")
        elif out.exists() and self.sources[0].exists() and out.samefile(self.sources[0]):
            raise UserError(f"`out` {out} is the picture itself. Give another name.")
        sink.check_target(out, force)
        check_writable(out if out.is_dir() else out.parent)

    def check_names(self) -> None:
        """Raise UserError if two pictures would be written to one file."""
        taken: dict[str, Path] = {}
        for file in self.files:
            other = taken.setdefault(self.png_of(file), file)
            if other != file:
                raise UserError(
                    f"{other} and {file} would both become {self.answer_of(file)}. Rename one of them, or take them "
                    "one after the other."
                )

    def check_unfinished(self, home: Path) -> None:
        """Raise UserError if every picture is done. home: the run folder."""
        if all(self.is_done(home, file) for file in self.files):
            raise UserError(f"{home} is finished: see {self.out}.")

    def first_shape(self, max_pixels: int) -> tuple[int, int]:
        """Return height and width of the first picture that can be read.

        Raises UserError if none can, or if a picture or folder is not there that was named.
        """
        for source in self.sources:
            if not source.exists():
                raise UserError(f"{source}: no such image file.")
        for file in self.files[:-1]:
            with suppress(UserError):
                return image_shape(file, max_pixels)
        return image_shape(self.files[-1], max_pixels)


def check_writable(folder: Path) -> None:
    """Raise UserError unless a file can be made in a folder, or in the one where it would be made. It tries."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    probe = working_place(there / "probe")
    with write_errors(folder):
        probe.touch()
        probe.unlink()


def places_of(sources: Sequence[str | Path], out: str | Path | None, usual: str) -> Places:
    """Find the pictures, and choose where the answers go if nobody says: the first free one of `usual`, usual-2, ...

    usual: the name of an answer, such as restored.png; without the suffix, of the folder for several.
    """
    places = Places(tuple(map(Path, sources)), Path(usual if out is None else out))
    if out is not None:
        return places
    return Places(places.sources, free_name(places.out.with_suffix("") if places.several else places.out))


# --- the work -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worked(Generic[Result]):
    """Pictures that were worked on."""

    folder: Path  # the run folder
    answers: dict[str, Path]  # by the names of the pictures
    results: dict[str, Result]
    failures: Sequence[str] = ()  # a line for each picture that could not be worked on

    def _repr_png_(self) -> bytes | None:
        return png_file(next(iter(self.answers.values()))) if len(self.answers) == 1 else None


@dataclass(kw_only=True)
class PictureJob(ABC, Generic[Result]):
    """Pictures, what is to be done to them, and the run folder if there is one already."""

    name: ClassVar[str]  # of run folders, before the name of the picture

    places: Places
    config: object  # the record that config.json holds
    result: type[Result]  # the record that a file of results/ holds
    run: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one
    warnings: list[str] = field(default_factory=list)

    @abstractmethod
    def describe(self) -> str:
        """Describe the pictures and the model in two lines."""

    @abstractmethod
    def work_on(self, home: Path, file: Path, on_step: OnStep | None) -> Result:
        """Work on one picture, and write its answer. home: the run folder, which shows and explains it."""

    def start(self) -> Path:
        """Make the run folder, unless the run is being resumed. Returns the folder."""
        if self.folder is None:
            name = f"{self.name}-{Path(os.path.abspath(self.places.sources[0])).stem}"
            self.folder = create_run(self.run, name, to_json(self.config), pictures=SHEETS, option="run")
        return self.folder

    def work(self, on_step: OnStep | None = None, on_end: OnEnd[Result] | None = None) -> Worked[Result]:
        """Work on every picture that is not done yet. A bad one does not stop the others.

        on_step is called after each call of the network, on_end after each picture, and for those that were done
        before. Raises the fault itself for a single picture.
        """
        home, places = self.start(), self.places
        results: dict[str, Result] = {}
        failures = []
        with locked(home):
            sweep(home)
            for file in places.files:
                place = places.result_of(home, file)
                try:
                    if places.is_done(home, file):
                        results[file.name] = from_json(self.result, read_json(place), place)
                    else:
                        results[file.name] = self.work_on(home, file, on_step)
                        place.parent.mkdir(exist_ok=True)
                        write_json(place, to_json(results[file.name]))
                except UserError as error:
                    if not places.several:
                        raise
                    failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
                    continue
                if on_end is not None:
                    on_end(file, results[file.name])
        answers = {file.name: places.answer_of(file) for file in places.files if file.name in results}
        return Worked(home, answers, results, failures)
