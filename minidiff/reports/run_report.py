"""The page of a single run, of whatever kind: how far it is, what came of it, its pictures, curves and settings.

Rests on report (what a run folder says of itself), page and charts. Nothing is computed anew, so it takes a second, and
a run that is still being trained can be looked at.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidiff.errors import UserError
from minidiff.files import read_json
from minidiff.gan.config import GAMES, read_gan
from minidiff.gan.job import suspicions
from minidiff.images.faults import problems
from minidiff.images.files import read_image
from minidiff.images.grid import cut
from minidiff.reports import describe as report
from minidiff.reports.charts import interval, panels
from minidiff.reports.page import (
    Html,
    album,
    duration,
    element,
    facts,
    figure,
    joined,
    number,
    page,
    room_for,
    table,
    tiles,
    worded,
    write_page,
)
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, seconds_of_steps

REPORT, RESULT = "report.html", "result.json"
EARLIER = 6  # pictures of earlier steps that are shown
MANY = 48  # pictures of a folder that are shown
ROWS = 12  # of the most frequent confusions

Sections = list[tuple[str, Html]]


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """The page of a run as it stands, RUN/report.html unless `out` names another place. Raises UserError."""
    folder = Path(folder)
    return write_page(Path(out) if out else folder / REPORT, run_page(folder))


def run_page(folder: Path) -> Html:
    """The page of a run folder. Raises UserError where it is none."""
    config = checkpoint.read_config(folder)
    about = report.about(folder, config)
    try:
        figures, sections = KINDS.get(config["kind"], training)(folder, config)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} lacks what a {config['kind']} run has ({error}).") from None
    lead = next((about[name] for name in ("data", "image", "images", "shown") if name in about), "")
    head = (element("p", lead, class_="lead") if lead else Html("")) + tiles(figures)
    sections = [*sections, ("About", facts(about)), ("Settings", settings(config))]
    newest = max(
        path.stat().st_mtime
        for path in folder.iterdir()
        if path.is_file() and path.name[0] != "." and path.name != REPORT
    )
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(newest))
    return page(folder.resolve().name, f"{config['kind']} run", head, sections, f"The run last wrote {when}.")


def settings(config: dict[str, Any]) -> Html:
    """All of config.json."""
    single = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = {"run": single} | {key: value for key, value in config.items() if isinstance(value, dict)}
    parts = [element("div", element("h3", name.replace("_", " ")), facts(spelt(group)))
             for name, group in groups.items() if group]  # fmt: skip
    return element("div", *parts, class_="columns")


def spelt(values: dict[str, Any]) -> dict[str, str]:
    """Names and values of a part of config.json, in words; what is not set is left out."""
    return {key.replace("_", " "): worded(value) for key, value in values.items()}


# --- a training, of any kind --------------------------------------------------------------------------------------


def training(folder: Path, config: dict[str, Any]) -> tuple[dict[str, str], Sections]:
    """A run of steps, of which there are pictures."""
    drawn = config["kind"] != "classifier"  # what a classifier shows are its mistakes, of which the last count
    records = read_metrics(folder)
    pictures = sorted((folder / "samples").glob("*.png"))
    steps = sorted({path.stem[:7] for path in pictures})
    last = [path for path in pictures if path.stem.startswith(tuple(steps[-1:]))]
    earlier = spread([path for path in pictures if path.stem in steps[:-1]], EARLIER) if drawn else []
    room = room_for(len(last) + len(earlier))
    body = album([figure(path, called(path), room) for path in reversed(last)], "large" if drawn else "one")
    if earlier:
        body += element("h3", "Earlier") + album([figure(path, called(path), room) for path in earlier], "small")
    charts = panels(records)
    curves = element("div", *charts, class_="charts two") if charts else Html("")
    sections = [("Pictures", body), ("Learning curves", curves)]
    if config["kind"] in {*GAMES, "ddpm"} and records and last and not config.get("labels"):  # a grid without names
        sections.insert(0, ("Warnings", warnings(config, records, last[0])))
    return progress(folder, config, records), sections


def warnings(config: dict[str, Any], records: list[dict[str, Any]], picture: Path) -> Html:
    """What looks wrong with the last grid of a model, and with the metrics of a GAN; nothing where the grid cannot be
    read, which the page says in its place."""
    try:
        images = cut(read_image(picture), config["network"]["image_size"])
    except UserError:
        return Html("")
    if config["kind"] in GAMES:
        said = suspicions(read_gan(config, picture.parent.parent / "config.json"), records, int(picture.stem), images)
    else:
        said = [f"samples at step {int(picture.stem)}: {problem}" for problem in problems(images)]
    return element("ul", *(element("li", line) for line in said)) if said else Html("")


def progress(folder: Path, config: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, str]:
    """How far it is, the last loss, what was measured last, and the time that the steps took."""
    found: dict[str, str] = {}
    steps = (config.get("training") or {}).get("steps")
    if records and steps:
        found["steps"] = f"{number(records[-1]['step'])} of {number(steps)}"
    losses = [record for record in records if "loss" in record]
    if losses:
        found["last loss"] = number(losses[-1]["loss"])
    for record in records:
        if "loss" not in record:
            measured = {key.replace("_", " "): number(value) for key, value in record.items() if key != "step"}
            found |= {MEANING.get(key, key): value for key, value in measured.items()}
    if spent := seconds_of_steps(losses, (config.get("training") or {}).get("batch_size", 0)):
        found["spent on steps"] = duration(spent)
    return found


MEANING = {"diversity": "diversity; 1: as varied as the data"}  # of a figure that does not say it by its name


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(place * (len(paths) - 1) / (most - 1))] for place in range(most)]


def called(path: Path) -> str:
    """A picture's name in words: 0005000-confusion is step 5,000, confusion."""
    step, _, what = path.stem.partition("-")
    name = f"step {int(step):,}" if step.isdigit() else step.replace("_", " ")
    return f"{name}, {what}" if what else name


# --- a deep image prior, and a restoration ------------------------------------------------------------------------


def fit(folder: Path, config: dict[str, Any]) -> tuple[dict[str, str], Sections]:
    """The fit of a picture, or of all in a folder."""
    if "images" in config:
        answers = sorted((folder / "dip").glob("*.png"))
        shown = spread(answers, MANY)
        room = room_for(len(shown))
        cut = f", {len(shown)} of them shown" if len(shown) < len(answers) else ""
        pictures = album([figure(path, path.stem, room) for path in shown], "small")
        return {f"pictures fitted{cut}": number(len(answers))}, [("Pictures", pictures)]
    result, records = read_result(folder), read_metrics(folder)
    found = {"PSNR in dB": result.get("psnr"), "PSNR of the target": result.get("psnr_target"),
             "SSIM": result.get("ssim"), "chosen step": result.get("best_step")}  # fmt: skip
    figures = {"steps": f"{number(records[-1]['step'])} of {number(config['fit']['steps'])}"} if records else {}
    figures |= {name: number(value) for name, value in found.items() if value is not None}
    steps = spread(sorted((folder / "steps").glob("*.png")), EARLIER)
    whole = [folder / name for name in ("sheet.png", "dip.png") if (folder / name).exists()][:1]
    room = room_for(len(whole) + len(steps))
    body = album([figure(path, "target, input, last and best", room) for path in whole], "one")
    if steps:
        body += element("h3", "On the way") + album([figure(path, called(path), room) for path in steps], "small")
    return figures, [("Pictures", body), ("Curves", fit_curves(records, result))]


def fit_curves(records: list[dict[str, Any]], result: dict[str, Any]) -> Html:
    best = result.get("best_step")
    charts = panels(records, mark=(best, f"chosen: step {best:,}") if best else None)
    return element("div", *charts, class_="charts two") if charts else Html("")


def restoration(folder: Path, config: dict[str, Any]) -> tuple[dict[str, str], Sections]:
    """A fit, and the end of a chain after it."""
    result = read_result(folder)
    done = {"restoration": report.restore_progress(folder)}
    figures = {"timestep it starts from": result.get("start_t"), "noise, of 255": result.get("noise")}
    quality = result.get("quality") or {}
    lines = [[name, *(number(found[key]) if key in found else "-" for key in ("psnr", "ssim"))]
             for name, found in quality.items()]  # fmt: skip
    results = table(["", "PSNR in dB", "SSIM"], lines, "lrr") if lines else Html("")
    whole = [folder / name for name in ("comparison.png", "restored.png") if (folder / name).exists()][:1]
    pictures = album([figure(path, "the picture, the fit's answer, what the chain made of it", room_for(1))
                      for path in whole], "one")  # fmt: skip
    inner = folder / "dip"
    curves = fit_curves(read_metrics(inner), read_result(inner))
    told = {name: number(float(f"{value:.3g}")) for name, value in figures.items() if value is not None}
    return done | told, [("Results", results), ("Pictures", pictures), ("Curves of the fit", curves)]


def read_result(folder: Path) -> dict[str, Any]:
    """result.json; nothing where there is none yet. Raises UserError where it is damaged."""
    return read_json(folder / RESULT) if (folder / RESULT).exists() else {}


# --- an evaluation ------------------------------------------------------------------------------------------------


def evaluation(folder: Path, config: dict[str, Any]) -> tuple[dict[str, str], Sections]:
    """What a classifier sees in pictures that were drawn to order."""
    lists: dict[str, Any] = read_result(folder).get("lists") or {}
    figures = {f"score, {name}": f"{found['score']['value']:.3f}" for name, found in lists.items()}
    scores = []
    for name, found in lists.items():
        for what in ("score", "per_image", "exact"):
            if (value := found.get(what)) is not None:
                reach = f"{value['low']:.3f} to {value['high']:.3f}" if "low" in value else "-"
                bar = interval(value["value"], value.get("low"), value.get("high"), (0, 1))
                images = number(found["conditions"] * len(found["seeds"]))
                scores.append([f"{name}: {what.replace('_', ' ')}", images, f"{value['value']:.3f}", reach, bar])
    results = table(["", "images", "share", "95% interval", ""], scores, "lrrll") if scores else Html("")
    paths = [*sorted((folder / "pictures").glob("*.png")), *sorted((folder / "failures").glob("*.png"))]
    room = room_for(len(paths))
    pictures = album([figure(path, f"{path.parent.name}: {path.stem}", room) for path in paths], "one")
    return figures, [("Results", results), ("Pictures", pictures), ("By label", by_label(lists)),
                     ("What is taken for what", confusions(lists))]  # fmt: skip


def by_label(lists: dict[str, Any]) -> Html:
    """The score of every label, a column for each list; the lowest first."""
    columns = {name: found["by_label"] for name, found in lists.items()}
    labels = dict.fromkeys(label for of in columns.values() for label in of)
    names = sorted(labels, key=lambda label: min(of[label]["score"] for of in columns.values() if label in of))
    lines = [
        [label, *(f"{of[label]['score']:.3f}" if label in of else "-" for of in columns.values())] for label in names
    ]
    return table(["", *columns], lines, "l" + "r" * len(columns)) if lines else Html("")


def confusions(lists: dict[str, Any]) -> Html:
    """What is asked for and what is seen instead, the most frequent first."""
    parts = []
    for name, found in lists.items():
        lines = [[pair["asked"], pair["seen"] or "nothing", number(pair["times"])] for pair in found["confusions"]]
        if lines:
            parts.append(table(["asked for", "seen", "times"], lines[:ROWS], "llr", name))
    return joined(parts)


Kind = Callable[[Path, dict[str, Any]], tuple[dict[str, str], Sections]]
KINDS: dict[str, Kind] = {"dip": fit, "restore": restoration, "evaluate": evaluation}  # any other is a training
