"""The page of a run or of a study, whichever a folder is.

Rests on run_report and study_report.
"""

from pathlib import Path

from minidiff.errors import UserError
from minidiff.reports import run_report, study_report
from minidiff.runs.folder import list_runs, skip
from minidiff.runs.shipped import find_run
from minidiff.studies.study import STUDY


def report(folder: str | Path | None = None, out: str | Path | None = None, *, force: bool = False) -> Path:
    """Write a page about a run or a study, in one file that needs no server, and return its path.

    folder: the run or the study; by default the newest run under runs/. out: the page, by default report.html in the
    folder, which is written anew each time; for a model that comes with the package, NAME.html in the current folder.
    force: replace `out` if it exists. Raises UserError.
    """
    if folder is not None and (found := find_run(str(folder))) != str(folder):
        folder = Path(found)
        out = Path(f"{folder.name}.html") if out is None else out
    if out is not None and Path(out).exists() and not force:
        raise UserError(f"{out} exists. Give another `out`, or `force` to replace it.")
    if folder is not None:
        write = study_report.write if (Path(folder) / STUDY).exists() else run_report.write
        return write(folder, out)
    runs = list_runs()
    if not runs:
        raise UserError("there are no runs under runs/ yet. Name a folder, or start with: minidiff train ddpm")
    for run in runs[:-1]:
        try:
            return run_report.write(run, out)
        except UserError as error:  # a damaged run must not hide the others
            skip(error)
    return run_report.write(runs[-1], out)
