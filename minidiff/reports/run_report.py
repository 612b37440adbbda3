"""The page of one run of any kind: its progress, its result, its pictures, curves and settings.

Rests on describe (what a run folder says about itself), page and charts. It computes nothing anew, so it takes a second
or two, and a run that is still in training can be looked at.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidiff.dehaze.config import Cleared
from minidiff.dip.config import FitResult
from minidiff.errors import UserError
from minidiff.evaluation.result import read_lists
from minidiff.files import read_json
from minidiff.gan.config import GAMES
from minidiff.gan.suspicions import is_young, suspicions
from minidiff.images.faults import problems
from minidiff.images.files import read_image
from minidiff.images.grid import cut
from minidiff.images.nearness import Quality
from minidiff.records import from_json, to_json
from minidiff.reports import describe, page
from minidiff.reports.charts import panels
from minidiff.restoration.config import STRIP, STRIPS, Finished, RestoreResult
from minidiff.runs.folder import RESULTS, SHEETS, read_config
from minidiff.runs.log import name_of_loss, read_metrics, seconds_of_steps

REPORT, RESULT = "report.html", "result.json"
EARLIER = 6  # pictures of earlier steps that are shown
MANY = 48  # pictures of a folder that are shown
ROWS = 12  # of the most frequent confusions
MEANING = {"diversity": "diversity; 1: as varied as the data"}  # of a figure whose name does not say it

Config = Mapping[str, Any]  # config.json
Sections = dict[str, page.Blocks]


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run as it stands: RUN/report.html, unless `out` names another place. Raises UserError."""
    folder = Path(folder)
    return run_page(folder).write(Path(out) if out else folder / REPORT)


def run_page(folder: Path) -> page.Page:
    """Make the page of a run folder. Raises UserError if it is not one."""
    config = read_config(folder)
    about = describe.about(folder, config)
    try:
        figures, sections = KINDS.get(config["kind"], training)(folder, config)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} lacks what a {config['kind']} run has ({error}).") from None
    lead = next((about[name] for name in ("data", "image", "images", "pictures", "shown") if name in about), "")
    tiles = page.Facts(figures, tiles=True)
    head: page.Blocks = [page.Text(lead, "lead"), tiles] if lead else [tiles]
    parts = [page.Facts(pairs, title) for title, pairs in settings(config).items() if pairs]
    sections |= {"About": [page.Facts(about)], "Settings": parts}
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.name != REPORT]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(path.stat().st_mtime for path in files)))
    return page.Page(folder.resolve().name, f"{config['kind']} run", head, sections, f"The run last wrote {when}.")


def settings(config: Config) -> dict[str, dict[str, str]]:
    """Return all of config.json in words, by its parts."""
    parts = {"run": {key: value for key, value in config.items() if not isinstance(value, dict)}}
    parts |= {key: value for key, value in config.items() if isinstance(value, dict)}
    return {
        name.replace("_", " "): {key.replace("_", " "): page.in_words(value) for key, value in part.items()}
        for name, part in parts.items()
    }


# --- a training of any kind ---------------------------------------------------------------------------------------


def training(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show a training: its last pictures, some earlier ones, and all curves."""
    draws = config["kind"] != "classifier"  # a classifier shows its mistakes, and only the last count
    records = read_metrics(folder)
    pictures = sorted((folder / "samples").glob("*.png"))
    steps = sorted({path.stem[:7] for path in pictures})
    last = [path for path in pictures if path.stem.startswith(tuple(steps[-1:]))]
    earlier = some([path for path in pictures if path.stem in steps[:-1]], EARLIER) if draws else []
    room = page.room_for(len(last) + len(earlier))
    sections: Sections = {"Warnings": []}
    if config["kind"] in {*GAMES, "ddpm"} and records and last and not config.get("labels"):  # a grid without names
        sections["Warnings"] = warnings(config, records, last[0])
    whole = album(last[::-1], room, "large" if draws else "one")
    sections["Pictures"] = [*whole, *album(earlier, room, "small", "Earlier")]
    sections["Learning curves"] = curves(records)
    return progress(config, records), sections


def warnings(config: Config, records: list[dict[str, Any]], grid: Path) -> page.Blocks:
    """Say what looks wrong with the last grid of a model, and with the metrics of a GAN.

    Of a grid that cannot be read, the page says so in its place.
    """
    try:
        images = cut(read_image(grid), config["network"]["image_size"])
    except UserError:
        return []
    step = int(grid.stem)
    if config["kind"] in GAMES:
        young = is_young(config["kind"], config.get("preset"), config["training"]["steps"], step)
        said = [] if young else suspicions(config["kind"], records, step, images)
    else:
        said = [f"samples at step {step}: {problem}" for problem in problems(images)]
    return [page.Items([("", line) for line in said])] if said else []


def progress(config: Config, records: list[dict[str, Any]]) -> dict[str, str]:
    """Say how far a training is, its last loss, what was measured last, and how long its steps took."""
    found: dict[str, str] = {}
    about = config.get("training") or {}
    if records and about.get("steps"):
        found["steps"] = f"{page.number(records[-1]['step'])} of {page.number(about['steps'])}"
    losses = [record for record in records if "loss" in record]
    if losses:
        found[f"last {name_of_loss(losses[-1])}"] = page.number(losses[-1]["loss"])
    for record in records:
        if "loss" not in record:
            names = {key: key.replace("_", " ") for key in record if key != "step"}
            measured = {key: name for key, name in names.items() if record[key] is not None}
            found |= {MEANING.get(name, name): page.number(record[key]) for key, name in measured.items()}
    if spent := seconds_of_steps(losses, about.get("batch_size", 0)):
        found["spent on steps"] = page.duration(spent)
    return found


# --- a deep image prior, and a restoration ------------------------------------------------------------------------


def fit(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show the fit of a picture, or all fits of a folder."""
    if "images" in config:
        answers = sorted((folder / "dip").glob("*.png"))
        shown = some(answers, MANY)
        rest = f", {len(shown)} of them shown" if len(shown) < len(answers) else ""
        pictures = [page.picture(path, path.stem, page.room_for(len(shown))) for path in shown]
        return {f"pictures fitted{rest}": page.number(len(answers))}, {"Pictures": [page.Album(pictures, "small")]}
    result, records = result_of(folder), read_metrics(folder)
    found = {"PSNR in dB": result.get("psnr"), "PSNR of the target": result.get("psnr_target"),
             "SSIM": result.get("ssim"), "chosen step": result.get("best_step")}  # fmt: skip
    done = f"{page.number(records[-1]['step'])} of {page.number(config['fit']['steps'])}" if records else ""
    figures = {"steps": done} if done else {}
    figures |= {name: page.number(value) for name, value in found.items() if value is not None}
    steps, whole = some(sorted((folder / "steps").glob("*.png")), EARLIER), first_of(folder, "sheet.png", "dip.png")
    room = page.room_for(len(whole) + len(steps))
    sheet = [page.picture(path, "target, input, last and best", room) for path in whole]
    both = [*[page.Album(sheet, "one")] * bool(sheet), *album(steps, room, "small", "On the way")]
    return figures, {"Pictures": both, "Curves": curves(records, result)}


def restoration(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show a fit, and the end of a chain after it."""
    result, inner = read_json(folder / RESULT, missing={}), folder / "dip"
    if result:
        from_json(RestoreResult, result, folder / RESULT)
    figures = {"timestep it starts from": result.get("start_t"), "noise, of 255": result.get("noise")}
    told = {name: page.number(float(f"{value:.3g}")) for name, value in figures.items() if value is not None}
    quality = [
        [name, *(page.number(found[key]) if key in found else "-" for key in ("psnr", "ssim"))]
        for name, found in (result.get("quality") or {}).items()
    ]
    caption = "the picture, the fit's answer, what the chain made of it"
    shown = [
        page.picture(path, caption, page.room_for(1)) for path in first_of(folder, "comparison.png", "restored.png")
    ]
    strips = first_of(folder, STRIP)
    return {"restoration": describe.restore_progress(folder)} | told, {
        "Results": page.simple_table(["", "PSNR in dB", "SSIM"], quality, "lrr"),
        "Pictures": [
            *[page.Album(shown, "one")] * bool(shown),
            *album(strips, page.room_for(len(strips)), "one", "Along the chain"),
        ],
        "Curves of the fit": curves(read_metrics(inner), result_of(inner)),
    }


def finished(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show the pictures that a model finished: what was found in each, before and after, and the way there."""
    places = sorted((folder / RESULTS).glob("*.json"))
    found = {path.stem: from_json(Finished, read_json(path), path) for path in places}
    lines = []
    for name, each in found.items():
        quality = (each.quality or {}).get("restored", Quality())
        near = [page.number(value) if value is not None else "-" for value in (quality.psnr, quality.ssim)]
        told = (float(f"{each.noise:.3g}"), each.start_t, len(each.timesteps), each.seconds)
        lines.append([name, *map(page.number, told), *near])
    head = ["", "noise, of 255", "starts at t", "calls", "seconds", "PSNR in dB", "SSIM"]
    sheets, strips = (some(sorted((folder / name).glob("*.png")), EARLIER) for name in (SHEETS, STRIPS))
    room = page.room_for(len(sheets) + len(strips))
    return {"pictures finished": page.number(len(found))}, {
        "Results": page.simple_table(head, lines[:MANY], "lrrrrrr"),
        "Pictures": [*album(sheets, room, "one"), *album(strips, room, "one", "Along the chain")],
    }


def cleared(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show the pictures that were dehazed: what was found in each, and the stages from the haze to the result."""
    places = sorted((folder / RESULTS).glob("*.json"))
    found = {path.stem: from_json(Cleared, read_json(path), path) for path in places}
    lines = []
    for name, each in found.items():
        quality = (each.quality or {}).get("result", Quality())
        near = [page.number(value) if value is not None else "-" for value in (quality.psnr, quality.ssim)]
        light = ", ".join(map(str, each.airlight))
        lines.append([name, page.number(each.transmission), light, page.number(each.seconds), *near])
    head = ["", "light that comes through", "airlight", "seconds", "PSNR in dB", "SSIM"]
    sheets = some(sorted((folder / SHEETS).glob("*.png")), EARLIER)
    return {"pictures dehazed": page.number(len(found))}, {
        "Results": page.simple_table(head, lines[:MANY], "lrrrrr"),
        "Pictures": album(sheets, page.room_for(len(sheets)), "one"),
    }


def result_of(folder: Path) -> Mapping[str, Any]:
    """Read the result.json of a fit; nothing if it is not finished. Raises UserError for a damaged one."""
    stored = read_json(folder / RESULT, missing={})
    return to_json(from_json(FitResult, stored, folder / RESULT)) if stored else {}


# --- an evaluation ------------------------------------------------------------------------------------------------


def evaluation(folder: Path, config: Config) -> tuple[dict[str, str], Sections]:
    """Show the scores of an evaluation, and what the classifier sees in the pictures."""
    lists: dict[str, Any] = {**read_lists(folder)}
    paths = [*sorted((folder / "pictures").glob("*.png")), *sorted((folder / "failures").glob("*.png"))]
    pictures = [page.picture(path, f"{path.parent.name}: {path.stem}", page.room_for(len(paths))) for path in paths]
    scores = [
        score(f"{name}: {what.replace('_', ' ')}", found[what], found["conditions"] * len(found["seeds"]))
        for name, found in lists.items()
        for what in ("score", "per_image", "exact")
        if found.get(what) is not None
    ]
    seen: list[page.Block] = []
    for name, found in lists.items():
        pairs = [
            [pair["asked"], pair["seen"] or "nothing", page.number(pair["times"])]
            for pair in found.get("confusions", [])
        ]
        seen += page.simple_table(["asked for", "seen", "times"], pairs[:ROWS], "llr", name)
    return {f"score, {name}": f"{found['score']['value']:.3f}" for name, found in lists.items()}, {
        "Results": [page.Table(["", "images", "share", "95% interval", ""], scores, "lrrll")] * bool(scores),
        "Pictures": [page.Album(pictures, "one")] * bool(pictures),
        "By label": by_label(lists),
        "What is taken for what": seen,
    }


def score(name: str, found: Mapping[str, Any], images: int) -> page.Row:
    """Make a row for one score with its interval."""
    reach = f"{found['low']:.3f} to {found['high']:.3f}" if "low" in found else "-"
    place = page.bar(found["value"], found.get("low"), found.get("high"), (0, 1))
    return page.Row(
        [
            page.Cell(name),
            page.Cell(page.number(images)),
            page.Cell(f"{found['value']:.3f}"),
            page.Cell(reach),
            page.Cell(bar=place),
        ]
    )


def by_label(lists: Mapping[str, Any]) -> page.Blocks:
    """Make a table of the score of every label, the lowest first, with a column for each list."""
    columns = {name: found.get("by_label", {}) for name, found in lists.items()}
    labels = dict.fromkeys(label for of in columns.values() for label in of)
    names = sorted(labels, key=lambda label: min(of[label]["score"] for of in columns.values() if label in of))
    lines = [[label, *(f"{of[label]['score']:.3f}" if label in of else "-" for of in columns.values())]
             for label in names]  # fmt: skip
    return page.simple_table(["", *columns], lines, "l" + "r" * len(columns))


# --- what they share ----------------------------------------------------------------------------------------------


def album(paths: Sequence[Path], room: int, look: str, title: str = "") -> page.Blocks:
    """Show pictures of steps under a title; nothing if there are none."""
    shown = [page.picture(path, called(path), room) for path in paths]
    return [*[page.Text(title, tag="h3")] * bool(title), page.Album(shown, look)] if shown else []


def curves(records: list[dict[str, Any]], result: Mapping[str, Any] | None = None) -> page.Blocks:
    """Draw all curves of a record, and mark the step that a fit has chosen."""
    best = (result or {}).get("best_step")
    drawn = panels(records, mark=(best, f"chosen: step {best:,}") if best else None)
    return [page.Charts({"": drawn}, wide=True)] if drawn else []


def some(paths: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` of the paths, evenly spread, the first and the last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(place * (len(paths) - 1) / (most - 1))] for place in range(most)]


def first_of(folder: Path, *names: str) -> list[Path]:
    """Return the first of these files that exists, in a list; an empty list if none does."""
    return [folder / name for name in names if (folder / name).exists()][:1]


def called(path: Path) -> str:
    """Name a picture in words: 0005000-confusion is step 5,000, confusion."""
    step, _, what = path.stem.partition("-")
    name = f"step {int(step):,}" if step.isdigit() else step.replace("_", " ")
    return f"{name}, {what}" if what else name


Kind = Callable[[Path, Config], tuple[dict[str, str], Sections]]
KINDS: dict[str, Kind] = {  # any other is a training
    "dip": fit, "restore": restoration, "finish": finished, "clear": cleared, "evaluate": evaluation,
}  # fmt: skip
