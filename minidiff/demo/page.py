"""The page: which components there are, and which function each button calls. Nothing is computed here.

Rests on Gradio, on parts (what several tabs share), and on drawing, photos and models, which do the work.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from minidiff.ddpm.request import FROM_NOISE
from minidiff.dehaze.config import STEPS
from minidiff.demo import drawing, models, photos
from minidiff.demo.jobs import Jobs, Stop, View
from minidiff.demo.parts import (
    AT_ONCE,
    WORK,
    Settings,
    answer_fields,
    ask_labels,
    buttons,
    can_stop,
    choices,
    given,
    known_of,
    label_fields,
    labels_of,
    look,
    picture_field,
    scale_for,
    seed_field,
    shown,
    upload_fields,
    visitor_of,
    watch,
    watch_photo,
)
from minidiff.demo.photos import AUTO
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.dip.run import saved_step
from minidiff.images.convert import Pixels
from minidiff.images.files import read_image

OWN = "my own picture"  # to start from, in place of a fit


def build(jobs: Jobs, settings: Settings) -> gr.Blocks:
    """Lay out the page."""
    # Files that Gradio keeps of a visit are removed after half an hour; it looks every five minutes.
    page: gr.Blocks
    with gr.Blocks(title="minidiff", analytics_enabled=False, delete_cache=(300, 1800), fill_width=False) as page:
        gr.Markdown("# minidiff\nDiffusion models at work, on this machine. Nothing leaves it, and nothing is kept.")
        with gr.Tab("Draw"):
            draw_tab(page, jobs, settings)
        with gr.Tab("Restore"):
            restore_tab(page, jobs, settings)
        with gr.Tab("Dehaze"):
            dehaze_tab(page, jobs, settings)
        with gr.Tab("Start anywhere"):
            start_tab(page, jobs, settings)

        def leave(request: gr.Request) -> None:
            jobs.stop(visitor_of(request))

        page.unload(leave)
    page.queue(max_size=20)  # jobs that wait; more are told to come back
    return page


# --- the tabs ------------------------------------------------------------------------------------------------------


def draw_tab(page: gr.Blocks, jobs: Jobs, settings: Settings) -> None:
    """Draw from noise."""
    gr.Markdown("A trained model makes images out of noise. Choose how it walks down its reverse chain.")
    nothing = gr.Markdown(
        "There is no model yet that draws. Train one, which takes about five minutes on a CPU, and load this page "
        "again:\n\n    minidiff train ddpm",
        visible=False,
    )
    with gr.Row() as there:
        with gr.Column(scale=1, min_width=300):
            model = gr.Dropdown([], label="Model")
            asked = label_fields()
            sampler = gr.Dropdown(list(SAMPLERS), value=FROM_NOISE, label="Sampler")
            calls = gr.Slider(1, 1000, step=1, label="Calls of the network")
            num = gr.Slider(1, drawing.MOST, value=16, step=1, label="How many")
            seed = seed_field()
            go, halt = buttons("Draw")
        with gr.Column(scale=2, min_width=300):
            said = gr.HTML(elem_classes="said")
            picture = picture_field("Images")
            strip = picture_field("The chain: x_t, and x0 as predicted")

    def draw(
        model: str, words: str, classes: list[str], guidance: float, sampler: str, calls: float, num: float,
        seed: float, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        def job(stop: Stop) -> Iterator[View]:
            chosen = labels_of(model, words, classes)
            return drawing.draw(
                model, labels=chosen, guidance=scale_for(model, guidance), sampler=sampler, calls=int(calls),
                num=int(num), seed=int(seed or 0), device=settings.device, stop=stop,
            )  # fmt: skip

        for text, view, over in watch(jobs, request, job):
            yield text, shown(view.picture, over), shown(view.strip, over)

    def ask(model: str | None, sampler: str) -> list[Any]:
        known = known_of(model)
        most = known.most_t + 1
        return [
            *ask_labels(known),
            gr.Dropdown(visible=known.chain),
            gr.Slider(maximum=most, value=models.default_calls(sampler, known.most_t), visible=known.chain),
        ]

    def load() -> list[Any]:
        found = models.drawing_models()
        first = found[0] if found else None
        return [choices(found), gr.Row(visible=bool(found)), gr.Markdown(visible=not found), *ask(first, FROM_NOISE)]

    fields = [*asked, sampler, calls]
    page.load(load, None, [model, there, nothing, *fields], **AT_ONCE)
    model.input(ask, [model, sampler], fields, **AT_ONCE)
    sampler.input(
        lambda model, sampler: models.default_calls(sampler, known_of(model).most_t), [model, sampler], calls, **AT_ONCE
    )
    event = go.click(draw, [model, *asked, sampler, calls, num, seed], [said, picture, strip], **WORK)
    can_stop(halt, event, jobs, said)


def restore_tab(page: gr.Blocks, jobs: Jobs, settings: Settings) -> None:
    """Take the noise off a photograph."""
    gr.Markdown("A photograph without its noise. The noise is measured, and the model goes down its chain from there.")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            file, preview = upload_fields()
            model = gr.Dropdown([], label="Model")
            how = gr.Radio(["measured", "told"], value="measured", label="Noise")
            noise = gr.Slider(
                0, 100, value=25, step=0.5, label="Deviation of the noise, of 255", info="5 is little, 25 is much",
                visible=False,
            )  # fmt: skip
            calls = gr.Slider(
                1, 50, value=1, step=1, label="Calls of the network", info="1: nearest to the truth; more: texture"
            )
            go, halt = buttons("Restore")
        with gr.Column(scale=2, min_width=300):
            answers = answer_fields("The chain: x_t, and x0 as predicted")

    def restore(
        file: str | None, model: str, how: str, noise: float, calls: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        def job(folder: Path, stop: Stop) -> Iterator[View]:
            told = AUTO if how == "measured" else noise
            return photos.restore(
                given(file), folder, model=model, noise=told, calls=int(calls),
                max_pixels=settings.max_pixels, device=settings.device, stop=stop,
            )  # fmt: skip

        yield from watch_photo(jobs, settings, request, job)

    page.load(lambda: choices(models.restoring_models()), None, model, **AT_ONCE)
    how.change(lambda how: gr.Slider(visible=how == "told"), how, noise, **AT_ONCE)
    file.change(look, file, [preview, answers[0]], **AT_ONCE)
    can_stop(halt, go.click(restore, [file, model, how, noise, calls], answers, **WORK), jobs, answers[0])


def dehaze_tab(page: gr.Blocks, jobs: Jobs, settings: Settings) -> None:
    """Take the haze off a photograph."""
    gr.Markdown("A photograph without its haze: a guess by physics and a network, then a chain that begins there.")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            file, preview = upload_fields()
            model = gr.Dropdown([], label="Model")
            strength = gr.Slider(0, 1, value=1, step=0.05, label="Strength", info="at 0 all of the haze stays")
            steps = gr.Slider(
                0, 20, value=STEPS, step=1, label="Steps of stage 2",
                info="0: stage 1 alone, which is quick; more draw more texture, which need not be true",
            )  # fmt: skip
            go, halt = buttons("Dehaze")
        with gr.Column(scale=2, min_width=300):
            answers = answer_fields("Haze, light T, its colour A, and the stages")

    def dehaze(
        file: str | None, model: str, strength: float, steps: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        def job(folder: Path, stop: Stop) -> Iterator[View]:
            return photos.dehaze(
                given(file), folder, model=model, strength=strength, steps=int(steps),
                max_pixels=settings.max_pixels, device=settings.device, stop=stop,
            )  # fmt: skip

        yield from watch_photo(jobs, settings, request, job)

    page.load(lambda: choices(models.dehazing_models()), None, model, **AT_ONCE)
    file.change(look, file, [preview, answers[0]], **AT_ONCE)
    can_stop(halt, go.click(dehaze, [file, model, strength, steps], answers, **WORK), jobs, answers[0])


def start_tab(page: gr.Blocks, jobs: Jobs, settings: Settings) -> None:
    """Start a chain anywhere."""
    gr.Markdown(
        "A chain need not begin in pure noise. A picture gets the noise of a timestep, and the model takes it away: "
        "the higher the start, the more is drawn anew. Move the slider, and the chain runs again."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            source = gr.Dropdown([OWN], value=OWN, label="Start from", info="`minidiff dip fit` adds its runs here")
            file, preview = upload_fields()
            step = gr.Slider(0, 1, step=1, label="Step of the prior", info="the nearest kept one", visible=False)
            model = gr.Dropdown([], label="Model")
            start_t = gr.Slider(0, 999, value=100, step=1, label="Start at timestep")
            asked = label_fields()
            seed = seed_field()
            go, halt = buttons("Start")
        with gr.Column(scale=2, min_width=300):
            answers = answer_fields("The chain: x_t, and x0 as predicted")

    def start(
        source: str, file: str | None, step: float, model: str, start_t: float, words: str, classes: list[str],
        guidance: float, seed: float, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        def job(folder: Path, stop: Stop) -> Iterator[View]:
            return drawing.start(
                model, given(file) if source == OWN else Path(source), folder, start_t=int(start_t), step=step,
                labels=labels_of(model, words, classes), guidance=scale_for(model, guidance), seed=int(seed or 0),
                max_pixels=settings.max_pixels, device=settings.device, stop=stop,
            )  # fmt: skip

        yield from watch_photo(jobs, settings, request, job)

    def ask(model: str | None) -> list[Any]:
        known = known_of(model)
        return [gr.Slider(maximum=known.most_t, value=known.most_t // 3), *ask_labels(known)]

    def choose(source: str) -> list[Any]:
        """Show the picture of a fit in place of the field for one's own."""
        if source == OWN:
            return [gr.File(visible=True), gr.Slider(visible=False), None]
        kept = models.kept_steps(source)
        slider = gr.Slider(minimum=kept[0], maximum=kept[-1], value=kept[-1], visible=len(kept) > 1)
        return [gr.File(visible=False), slider, picture_of(source, kept[-1])]

    def picture_of(source: str, step: float) -> Pixels | None:
        return None if source == OWN else read_image(saved_step(source, models.nearest_step(source, step)))

    def load() -> list[Any]:
        found = models.starting_models()
        return [gr.Dropdown([OWN, *models.prior_runs()], value=OWN), choices(found), *ask(found[0])]

    fields = [start_t, *asked]
    page.load(load, None, [source, model, *fields], **AT_ONCE)
    model.input(ask, model, fields, **AT_ONCE)
    source.input(choose, source, [file, step, preview], **AT_ONCE)
    file.change(look, file, [preview, answers[0]], **AT_ONCE)
    step.change(picture_of, [source, step], preview, **AT_ONCE)
    inputs = [source, file, step, model, start_t, *asked, seed]
    event = gr.on([go.click, start_t.release, step.release], start, inputs, answers, trigger_mode="always_last", **WORK)
    can_stop(halt, event, jobs, answers[0])
