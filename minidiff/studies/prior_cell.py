"""One cell of a study of priors, in a process of its own: train, and measure samples of every few steps.

python -m minidiff.studies.prior_cell STUDY fashion-mnist.identity.start-conv2+1 cpu

A DDPM keeps its averaged weights at each step that is measured, in at/. So chains of another kind can be drawn with
them later: `start` trains as the plain DDPM does, to the bit, and draws with its weights. When a cell is done they go;
those of the plain DDPM stay. A cell can be stopped at any moment and resumed. The training is an ordinary run; a
measurement is written when it is whole, and result.json comes last. Rests on cell (the process, and what all cells do)
and prior_draw (the samples).
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minidiff.arrays import open_npy
from minidiff.data.datasets import ImageData, splits_of
from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.config import DdpmRequest
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.convert import Pixels
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import grid, label_rows
from minidiff.metrics import extraction
from minidiff.metrics.extraction import MeasuredSet
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import open_statistics
from minidiff.priors import job as prior_job
from minidiff.priors.config import DipPriorRequest
from minidiff.records import to_json
from minidiff.runs.folder import MODEL, save_model
from minidiff.runs.log import read_metrics, seconds_of_steps
from minidiff.runtime import cpu
from minidiff.studies import cell as cells
from minidiff.studies.config import data_of, model_of, seed_of
from minidiff.studies.measuring import distances, evenly, extract_all, rows_source
from minidiff.studies.models import data_options
from minidiff.studies.prior_config import ALONE, PLAIN, PriorStudy, parts_of, sibling
from minidiff.studies.prior_draw import AT, drawn_by, parameters_of
from minidiff.studies.prior_figures import Measurement, read_measured, spread, write_measured
from minidiff.studies.reference import SHOWN as GRID_SHOWN
from minidiff.studies.reference import digest_of, load_images, network_of, prepare
from minidiff.studies.results import CellResult, Figure, read_result
from minidiff.studies.study import CELLS, DATA, FEATURES, GRID, RESULT, RUN, SAMPLES, STATISTICS, folder_of
from minidiff.training.job import Job

STRIPS, STRIP, SHOWN = "strips", "strips.png", 10  # a row of samples for each step, and all rows; samples of a row
FID = "fid"  # a folder for what is measured in Inception, too
FLOOR = "floor.json"  # diversity and nearest of real images


def run_prior_cell(study: PriorStudy, folder: Path, cell: str, device: torch.device) -> None:
    """Run a cell to its end. Finished parts are not repeated."""
    for needed in study.needs(cell):
        if not isinstance(read_result(folder, needed), CellResult):
            raise UserError(f"{cell} draws with {needed}, which is not done.")
    place = folder_of(folder, cell)
    if study.source_of(cell) == cell:
        train(study, folder, cell, device)
    data, rulers = load_images(study, data_of(cell)), open_rulers(study, folder, cell, device)
    measure_real(study, folder, cell, rulers[0], device)
    began, measured = time.perf_counter(), read_measured(place)
    points = points_kept(study, folder, cell)
    main = study.main_of(cell)
    for step, share in points:
        there = any((one.step, one.share) == (step, share) for one in measured)
        if there and ((step, share) != main or (place / SAMPLES).exists()):
            continue
        drawn = drawn_by(study, folder, cell, data, (step, share), device)
        figures = {name: figure for ruler in rulers for name, figure in ruler.measure(drawn.images, device).items()}
        if (step, share) == main:
            cells.store_samples(place / SAMPLES, drawn.images, study.num, study.image_size)
            write_image(place / GRID, grid(drawn.images[:GRID_SHOWN]))
        if share == main[1]:
            show(place, step, drawn.images)
        one = Measurement(
            step, share, drawn.calls, drawn.prior_calls, seconds_until(study, folder, cell, step),
            drawn.seconds / study.num, figures,
        )  # fmt: skip
        measured = sorted([*(m for m in measured if (m.step, m.share) != (step, share)), one], key=by_step)
        write_measured(place, measured)
    last = next(one for one in measured if (one.step, one.share) == main)
    with np.load(place / SAMPLES) as stored:
        warnings = cells.suspicions(stored["images"], data.rgb(evenly(len(data), cells.COMPARED)))
    result = CellResult(
        {name: figure for name, figure in last.metrics.items() if name.endswith("id")},
        cell=cell,
        dataset=study.datasets[0],
        corruption="identity",
        model=model_of(cell),
        severity=study.severity,
        seed=seed_of(study, cell),
        num=study.num,
        steps=study.steps[model_of(cell)],
        parameters=parameters_of(study, folder, cell),
        seconds={
            "train": cells.training_seconds(place / RUN) if study.source_of(cell) == cell else 0.0,
            "sample": round(last.sample_seconds * study.num, 3),
            "measure": round(time.perf_counter() - began, 3),
        },
        warnings=tuple(warnings),
    )
    write_json(place / RESULT, to_json(result))
    if not study.lends(cell):
        shutil.rmtree(place / AT, ignore_errors=True)


def points_kept(study: PriorStudy, folder: Path, cell: str) -> list[tuple[int, float]]:
    """List the measurements of a cell that can be made: all of them, or those of the last step alone.

    A DDPM of a study that was begun before the control `residual-wrong` has kept no weights of the steps before.
    """
    points, source = study.points_of(cell), study.source_of(cell)
    if source == cell or (folder / CELLS / source / AT).exists():
        return points
    cells.remark(f"{source} kept the weights of its last step alone, so {cell} is measured there")
    return [(step, share) for step, share in points if step == study.moments[-1]]


def by_step(one: Measurement) -> tuple[int, float]:
    """Sort measurements by step, then by calls."""
    return one.step, one.share


# --- the training -----------------------------------------------------------------------------------------------------


def train(study: PriorStudy, folder: Path, cell: str, device: torch.device) -> None:
    """Begin the training of a cell, or resume it, and keep the weights of each step that will be measured."""
    place = folder_of(folder, cell)
    kind: type[Job[Any]] = prior_job.DipPriorJob if parts_of(cell)[0] == ALONE else ddpm_job.DdpmJob
    moments = [] if kind is prior_job.DipPriorJob else study.moments
    there = (place / RUN / MODEL).exists() and read_done(place, study.steps[model_of(cell)])
    if there and all((place / AT / str(step) / MODEL).exists() for step in moments):
        return
    digest = digest_of(folder, data_of(cell))
    job = cells.begin(kind, lambda: plan(study, folder, cell, device), cell, place / RUN, device, digest)

    def keep(step: int) -> None:
        if step in moments:
            (place / AT / str(step)).mkdir(parents=True, exist_ok=True)
            save_model(place / AT / str(step), job.trainer.ema.state_dict())

    with cells.telling_how_to_go_on(job, place / RUN, job.kind):
        keep(job.trainer.step)  # a kill may have come between its checkpoint and these weights
        for record in job.steps():
            keep(record.step)


def read_done(place: Path, steps: int) -> bool:
    """Say whether the training of a cell has reached its last step."""
    records = read_metrics(place / RUN)
    return bool(records) and records[-1]["step"] >= steps


def plan(study: PriorStudy, folder: Path, cell: str, device: torch.device) -> Job[Any]:
    """Plan the training of a cell: the preset for this device, with the study's data and steps, and the cell's seed."""
    use, net = parts_of(cell)
    options = data_options(study, cell) | {
        "seed": seed_of(study, cell), "out": folder_of(folder, cell) / RUN, "device": str(device),
        "steps": study.steps[model_of(cell)],
    }  # fmt: skip
    if use == ALONE:
        return prior_job.plan(DipPriorRequest(**options, net=net, noise=study.noise))
    if use != PLAIN:
        options |= {"prior": folder / CELLS / sibling(cell, f"{ALONE}-{net}") / RUN, "prior_use": use}
    return ddpm_job.plan(DdpmRequest(**options, save_every=study.measure_every))


def seconds_until(study: PriorStudy, folder: Path, cell: str, step: int) -> float:
    """Return how long the training of a cell took up to a step, with the whole training of the prior it needs."""
    use, _ = parts_of(cell)
    total = sum(
        cells.training_seconds(folder / CELLS / needed / RUN) for needed in study.needs(cell) if ALONE in needed
    )
    run = folder / CELLS / study.source_of(cell) / RUN
    if use == ALONE:
        return cells.training_seconds(run)
    return total + seconds_of_steps(read_metrics(run, upto=step), cells.batch_size_of(run))


# --- the measurement --------------------------------------------------------------------------------------------------


class Ruler:
    """A feature network with what it makes of the real images. prefix: of the names of what it measures."""

    def __init__(self, network: FeatureNetwork, shared: Path, prefix: str = "") -> None:
        self.network, self.prefix = network, prefix
        self.real: MeasuredSet = extraction.from_stored(open_statistics(str(shared / STATISTICS)), network)
        self.kept: NDArray[np.float32] = open_npy(shared / FEATURES).whole()

    def measure(self, images: Pixels, device: torch.device) -> dict[str, Figure]:
        """Return the distances of uint8 [n,H,W,3] to the real images; the first ruler adds diversity and nearest."""
        height, width = images.shape[1:3]
        source = ImageSource("samples", len(images), f"{height}x{width}",
                             lambda size: (images[at : at + size] for at in range(0, len(images), size)))  # fmt: skip
        made = extract_all("samples measured", source, self.network, device)
        found = distances(made, self.real, self.kept, self.network)
        if not self.prefix:
            found |= spread(made.features[:], self.kept)
        return {self.prefix + name: figure for name, figure in found.items()}


def open_rulers(study: PriorStudy, folder: Path, cell: str, device: torch.device) -> list[Ruler]:
    """Open the feature network of a study, and Inception where it is asked for, too."""
    found = [Ruler(network_of(study, device), folder / DATA / data_of(cell))]
    if study.fid:
        found.append(Ruler(network_of(study.in_inception(), device), folder / FID / DATA / data_of(cell), "inception_"))
    return found


def measure_real(study: PriorStudy, folder: Path, cell: str, ruler: Ruler, device: torch.device) -> None:
    """Measure diversity and nearest of as many images of the test split, once: what perfect samples would have."""
    path = folder / DATA / data_of(cell) / FLOOR
    if path.exists() or "test" not in splits_of(study.datasets[0], study.folder_of(study.datasets[0])):
        return
    test: ImageData = load_images(study, data_of(cell), "test")
    source = rows_source("test images", test, evenly(len(test), study.num))
    unseen = extract_all("test images", source, ruler.network, device)
    write_json(path, {name: to_json(figure) for name, figure in spread(unseen.features[:], ruler.kept).items()})


def prepare_all(study: PriorStudy, folder: Path, name: str, device: torch.device) -> None:
    """Prepare the real images. In Inception they come first: the study's own features say that all is done."""
    if study.fid:
        prepare(study.in_inception(), folder / FID, name, device)
    prepare(study, folder, name, device)


def show(place: Path, step: int, images: Pixels) -> None:
    """Keep a row of the first samples of a step, and lay out the rows of all steps so far, one below the other."""
    (place / STRIPS).mkdir(exist_ok=True)
    write_image(place / STRIPS / f"{step:07d}.png", grid(images[:SHOWN], SHOWN, pad=1))
    paths = sorted((place / STRIPS).glob("*.png"))
    rows = np.concatenate([read_image(path) for path in paths])
    write_image(place / STRIP, label_rows(rows, [f"{int(path.stem):,}" for path in paths]))


def main(arguments: list[str]) -> int:
    """Run a cell, or prepare the real images: see `cell.main`."""
    return cells.main(arguments, run_prior_cell, prepare_all)


if __name__ == "__main__":
    cpu.tune()
    cells.stop_with_the_parent()
    sys.exit(main(sys.argv[1:]))
