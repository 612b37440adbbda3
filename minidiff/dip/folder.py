"""The fits of all pictures of a folder, one after another: what `minidiff dip fit` does with a folder.

Rests on dip_plan and dip_job; each picture has the run folder it would have alone, under images/, and its answer in
dip/ as well. One that cannot be fitted does not stop the others.
"""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minidiff._version import __version__
from minidiff.dip.job import ANSWER, ANSWERS, IMAGES, RESULT, DipJob, conclusion
from minidiff.dip.plan import plan, resume
from minidiff.errors import UserError
from minidiff.images.files import image_files, read_image, write_image
from minidiff.runs import folder as checkpoint


@dataclass
class FolderJob:
    """The pictures of a folder, fitted one after another, each as if it were alone."""

    source: Path
    options: dict[str, Any]
    device: torch.device
    folder: Path | None = None  # the run folder, once there is one

    def start(self) -> str:
        files = image_files(self.source)
        if self.folder is not None:
            return f"resuming  {self.folder}: {len(files)} images"
        for name in ("mask", "reference"):
            if self.options.get(name):
                raise UserError(f"--{name} belongs to one picture, {self.source} is a folder. Fit its pictures singly.")
        self.check(files)
        options = {name: value for name, value in self.options.items() if name != "out"}
        config = {
            "minidiff": __version__, "kind": "dip", "images": os.path.abspath(self.source), "options": options,
        }  # fmt: skip
        name = f"dip-{self.source.resolve().name}"
        self.folder = checkpoint.create_run(self.options.get("out"), name, config, pictures=ANSWERS)
        return f"run       {self.folder}: {len(files)} images"

    def check(self, files: list[Path]) -> None:
        """What is wrong with the options shows in every picture, and is raised before anything is made."""
        first: UserError | None = None
        for file in files:
            try:
                plan(file, self.device, self.options)
                return
            except UserError as error:
                first = first or error
        raise first or UserError(f"{self.source} holds no pictures.")

    def run(self, say: Callable[[str], None]) -> list[str]:
        """Fit all that are not fitted yet; returns one line for each that could not be. Raises journal.Interrupted."""
        assert self.folder is not None, "start() first"
        failures = []
        for file in image_files(self.source):
            home = self.folder / IMAGES / file.name
            try:
                if not (home / RESULT).exists():
                    job = self.job(file, home)
                    say(f"{job.describe()}\n{job.start()}")
                    say(f"done      {conclusion(job.run())}")
                answer = self.folder / ANSWERS / f"{file.name}.png"
                if not answer.exists():
                    write_image(answer, read_image(home / ANSWER))
            except UserError as error:
                failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
        return failures

    def job(self, file: Path, home: Path) -> DipJob:
        """The fit of one picture: new, or where it was left."""
        if (home / checkpoint.CONFIG).exists():
            job = resume(home, self.device)
        else:
            job = plan(file, self.device, self.options | {"out": home})
        job.resume = f"minidiff dip fit --resume {shlex.quote(str(self.folder))}"
        return job


def resume_folder(folder: Path, config: dict[str, Any], device: torch.device) -> FolderJob:
    """The fit of a folder of pictures, with what its run folder says."""
    try:
        return FolderJob(Path(config["images"]), config["options"], device, folder)
    except KeyError as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a dip run has ({error}).") from None
