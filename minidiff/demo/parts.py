"""What several tabs of the page share: fields, and how a job is watched, stopped and put into words.

Rests on Gradio, jobs and models. All work waits in one queue, so one job runs at a time.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gradio as gr

from minidiff.demo import models
from minidiff.demo.jobs import Jobs, Stop, Stopped, View
from minidiff.demo.photos import by_name
from minidiff.diffusion.guidance import GUIDANCE_SCALE
from minidiff.errors import UserError, one_line, printable
from minidiff.images.convert import Pixels
from minidiff.images.files import IMAGE_SUFFIXES, read_shrunk

PAUSE = 0.3  # seconds between two pictures of a job: to send one takes some time, too
PREVIEW = 320  # pixels of the shorter side of a picture that was chosen

STYLE = """
.said pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; margin: 0; }
.said p { margin: 0.4rem 0 0; overflow-wrap: anywhere; }
.said .error { color: #b91c1c; font-weight: 600; }
.said .warning { color: #92400e; }
.dark .said .error { color: #fca5a5; }
.dark .said .warning { color: #fcd34d; }
.said progress { width: 100%; accent-color: #6366f1; }
.under .image-frame { padding-top: 2.2rem; }
@media (max-width: 480px) { .tab-container button { padding: 0 0.45rem; } }
"""
# The bar of progress is our own, as Gradio's is drawn over pictures that are there already.
WORK: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "work", "show_progress": "hidden"}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden"}


class Settings(NamedTuple):
    """What holds for the whole page."""

    device: str
    max_pixels: int  # larger pictures are shrunk
    folder: Path  # for files of jobs, which are removed after each


# --- fields --------------------------------------------------------------------------------------------------------


def label_fields() -> list[Any]:
    """Make the fields for labels: words for images with several, names for images with one; and the guidance."""
    return [
        gr.Textbox(label="Labels", lines=2, placeholder="blue cube, red sphere", visible=False,
                   info="what each image shows; several lines take turns; none: anything"),
        gr.Dropdown([], label="Classes", multiselect=True, visible=False, info="several take turns; none: any"),
        gr.Slider(0, 10, value=GUIDANCE_SCALE, step=0.1, label="Guidance", visible=False,
                  info="1 as trained; more follows the labels more closely"),
    ]  # fmt: skip


def ask_labels(known: models.About) -> list[Any]:
    """Show the fields of `label_fields` that make sense for a model."""
    some = ", ".join(known.labels[:: max(1, len(known.labels) // 2)][:2])
    return [
        gr.Textbox(visible=bool(known.labels) and not known.one_hot, placeholder=some, value=""),
        gr.Dropdown(list(known.labels), value=[], visible=known.one_hot),
        gr.Slider(visible=known.guided),
    ]


def labels_of(model: str, words: str, classes: list[str]) -> str:
    """Return the conditions that were asked for, one a line."""
    known = known_of(model)
    return "\n".join(classes or []) if known.one_hot else (words or "") if known.labels else ""


def scale_for(model: str, guidance: float) -> float | None:
    """Return the guidance for a model that can be guided; else None."""
    return guidance if known_of(model).guided else None


def known_of(model: str | None) -> models.About:
    """Return what is known of a model; of none, or of one that cannot be read, what most are like."""
    try:
        return models.About() if model is None else models.about(model)
    except UserError:  # which is said when it is used
        return models.About()


def seed_field() -> gr.Number:
    return gr.Number(0, precision=0, minimum=0, label="Seed", info="the same seed gives the same images")


def picture_field(label: str) -> gr.Image:
    """Make the field for a picture, which is not there before there is one. The label stands above it, not on it."""
    return gr.Image(
        label=label, interactive=False, format="png", buttons=["download", "fullscreen"], visible=False,
        elem_classes="under",
    )  # fmt: skip


def upload_fields() -> tuple[gr.File, gr.Image]:
    """Make the field for a file, which comes as it is, and one that shows it."""
    file = gr.File(label="Your picture", file_types=list(IMAGE_SUFFIXES), height=120)
    return file, gr.Image(label="Preview", interactive=False, height=180, format="png", buttons=[])


def answer_fields(about_strip: str) -> list[Any]:
    """Make the fields for text, before and after, the answer to take away, and the strip."""
    return [
        gr.HTML(elem_classes="said"),
        gr.ImageSlider(label="Before and after", interactive=False, format="png", max_height=640),
        gr.DownloadButton("Save the answer", visible=False),
        picture_field(about_strip),
    ]


def buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """Make the button that begins, and the one that stops."""
    with gr.Row():
        return gr.Button(name, variant="primary"), gr.Button("Stop", variant="stop")


def choices(found: list[str]) -> gr.Dropdown:
    """Offer what was found, and choose the first."""
    return gr.Dropdown(found, value=found[0] if found else None)


# --- events --------------------------------------------------------------------------------------------------------


def visitor_of(request: gr.Request) -> str:
    """Return the name of a visit: of one page in one browser."""
    return str(request.session_hash)


def given(file: str | None) -> Path:
    """Return the uploaded file. Raises UserError if there is none."""
    if file is None:
        raise UserError("there is no picture yet. Choose one above.")
    return Path(file)


def look(file: str | None) -> tuple[Pixels | None, str]:
    """Show a file that was chosen, or say why it cannot be read."""
    if file is None:
        return None, ""
    try:
        with by_name(Path(file).parent):
            return read_shrunk(file, PREVIEW), ""
    except UserError as error:
        return None, fault(error)


def can_stop(halt: gr.Button, event: Any, jobs: Jobs, said: gr.HTML) -> None:
    """Let a button stop a visitor's job, or take it out of the queue."""

    def stop(request: gr.Request) -> str:
        jobs.stop(visitor_of(request))
        return "<p>Stopped.</p>"

    halt.click(stop, None, said, cancels=[event], **AT_ONCE)


def watch(jobs: Jobs, request: gr.Request, make: Callable[[Stop], Iterator[View]]) -> Iterator[tuple[str, View, bool]]:
    """Run a job. Yields what to say, what to see, and whether this is the end. An error is a line to read."""
    view, began, last = View(0, 1), time.monotonic(), 0.0
    try:
        with jobs.one(visitor_of(request)) as stop, closing(make(stop)) as views:  # type: ignore[type-var]
            for view in views:
                if time.monotonic() - last > PAUSE:
                    last = time.monotonic()
                    yield progress(view, last - began), view, False
        yield words(view), view, True
    except Stopped:
        yield "<p>Stopped.</p>", view, False
    except UserError as error:
        yield fault(error), View(0, 1), True
    except Exception as error:
        traceback.print_exc()
        yield fault(f"{one_line(error)}. The terminal shows where."), View(0, 1), True


def watch_photo(
    jobs: Jobs, settings: Settings, request: gr.Request, make: Callable[[Path, Stop], Iterator[View]]
) -> Iterator[tuple[Any, ...]]:
    """Run a job on a photograph, for the fields of `answer_fields`. Its files are removed when it is done."""
    with TemporaryDirectory(dir=settings.folder, ignore_cleanup_errors=True) as folder:
        for text, view, over in watch(jobs, request, lambda stop: make(Path(folder), stop)):
            both = None if view.before is None or view.picture is None else (view.before, view.picture)
            file = gr.DownloadButton(value=None if view.file is None else str(view.file), visible=bool(view.file))
            yield text, both if both or over else gr.skip(), file if over else gr.skip(), shown(view.strip, over)


def shown(picture: Pixels | None, over: bool) -> Any:
    """Show a picture. Where there is none, leave the one before until the job is over, then take it away."""
    return gr.skip() if picture is None and not over else gr.Image(value=picture, visible=picture is not None)


def progress(view: View, seconds: float) -> str:
    """Draw a bar of the calls of the network so far; of a single call nothing is known before its end."""
    known = f'value="{view.done}" max="{view.total}"' if view.done else ""
    return f"<progress {known}></progress><p>call {min(view.done + 1, view.total)} of {view.total}, {seconds:.0f} s</p>"


def words(view: View) -> str:
    """Set what was done in lines, and below what looks wrong."""
    lines = "\n".join(escape(printable(line)) for line in view.lines)
    return f"<pre>{lines}</pre>" + "".join(
        f'<p class="warning">Warning: {escape(printable(line))}</p>' for line in view.warnings
    )


def fault(error: object) -> str:
    """Set an error as a line."""
    return f'<p class="error" role="alert">Error: {escape(printable(str(error)))}</p>'
