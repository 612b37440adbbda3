"""Fit all pictures of a folder, one after another.

Rests on dip.recipe and dip.job. Each picture has the run folder it would have alone, under images/, and its answer in
dip/ as well. One that cannot be fitted does not stop the others.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minidiff._version import __version__
from minidiff.dip.config import ANSWER, ANSWERS, IMAGES, DipFolderConfig, FitRequest, FitResult
from minidiff.dip.job import DipJob, OnStep
from minidiff.dip.recipe import begin, finished, reopen
from minidiff.errors import UserError
from minidiff.files import locked, sweep, write_json
from minidiff.images.files import image_files, read_image, write_image
from minidiff.records import from_json, to_json
from minidiff.runs import folder as run_folder

OnStart = Callable[[DipJob], None]
OnEnd = Callable[[FitResult], None]


@dataclass
class FolderJob:
    """The pictures of a folder, each to be fitted as if it were alone."""

    source: Path
    request: FitRequest
    device: torch.device | str = "cpu"
    out: str | Path | None = None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one

    def files(self) -> list[Path]:
        """List the pictures of the folder."""
        return image_files(self.source)

    def start(self) -> Path:
        """Make the run folder, unless the fits are being resumed. Returns the folder."""
        if self.folder is None:
            for name, given in (("mask", self.request.mask), ("reference", self.request.reference)):
                if given:
                    raise UserError(
                        f"`{name}` belongs to one picture, and {self.source} is a folder. Fit its pictures one by one."
                    )
            self.check()
            config = DipFolderConfig(__version__, "dip", os.path.abspath(self.source), self.request)
            name = f"dip-{self.source.resolve().name}"
            self.folder = run_folder.create_run(self.out, name, to_json(config), pictures=ANSWERS)
        return self.folder

    def store_steps(self) -> None:
        """Write a new number of steps into config.json, if one was asked for."""
        assert self.folder is not None
        stored = read_folder(self.folder)
        if stored.options != self.request:
            write_json(self.folder / run_folder.CONFIG, to_json(replace(stored, options=self.request)))

    def check(self) -> None:
        """Raise what is wrong with the request before anything is made: it would be wrong for every picture."""
        first: UserError | None = None
        if self.out is not None:
            run_folder.check_free(Path(self.out))
        for file in self.files():
            try:
                begin(file, self.request, self.device)
                return
            except UserError as error:
                first = first or error
        raise first or UserError(f"{self.source} holds no pictures.")

    def run(
        self, on_start: OnStart | None = None, on_step: OnStep | None = None, on_end: OnEnd | None = None
    ) -> tuple[dict[str, FitResult], list[str]]:
        """Fit every picture that is not fitted yet. Raises Interrupted after Ctrl-C, SIGTERM or SIGHUP, having saved.

        on_start is called with the job of each picture before it starts, on_step after each of its steps, on_end with
        its result.
        Returns the result of each picture by its file name, and one line for each that could not be fitted.
        """
        home = self.start()
        with locked(home):
            sweep(home)
            self.store_steps()
            return self.fit_all(home, on_start, on_step, on_end)

    def fit_all(
        self, home: Path, on_start: OnStart | None, on_step: OnStep | None, on_end: OnEnd | None
    ) -> tuple[dict[str, FitResult], list[str]]:
        """Fit every picture in the run folder, which this process holds: see `run`."""
        results, failures = {}, []
        for file in self.files():
            folder = home / IMAGES / file.name
            try:
                steps, answer = self.request.steps, home / ANSWERS / f"{file.name}.png"
                result = finished(folder, steps)
                if result is None:
                    begun = (folder / run_folder.CONFIG).exists()
                    job = (
                        reopen(folder, self.device, steps) if begun else begin(file, self.request, self.device, folder)
                    )
                    job.keep_state = False  # of a hundred pictures they would take gigabytes
                    if on_start is not None:
                        on_start(job)
                    result = job.run(on_step)
                    if on_end is not None:
                        on_end(result)
                (folder / run_folder.STATE).unlink(missing_ok=True)  # a kill may have come before that
                pixels = read_image(folder / ANSWER)
                if not answer.exists() or not np.array_equal(pixels, read_image(answer)):
                    write_image(answer, pixels)
                results[file.name] = result
            except UserError as error:
                failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
        return results, failures


def reopen_folder(folder: Path, device: torch.device | str = "cpu", steps: int | None = None) -> FolderJob:
    """Open the run folder of the fits of several pictures. Raises UserError.

    steps: a new number of steps. The pictures that were not stopped early are fitted again, from the start. Raises
    UserError if one of them has taken more.
    """
    config = read_folder(folder)
    options = config.options if steps is None else replace(config.options, steps=steps)
    for place in (folder / IMAGES).glob("*"):
        result = finished(place, 0)
        if result and not result.stopped and result.steps > options.steps:
            raise UserError(f"{place} has taken {result.steps:,} steps already. Give more `steps` than that.")
    return FolderJob(Path(config.images), options, device, folder=folder)


def read_folder(folder: Path) -> DipFolderConfig:
    """Read the config.json of the fits of several pictures. Raises UserError."""
    return from_json(DipFolderConfig, run_folder.read_config(folder, kind="dip"), folder / run_folder.CONFIG)
