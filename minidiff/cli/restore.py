"""`minidiff restore`: damaged pictures made whole, by a model of photographs, or with a deep image prior before it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.choices import choice
from minidiff.cli.commands import Command, own_network, refuse_options, section, typed
from minidiff.cli.dip import FitBar, advise_more, conclusion, fit_options, resumable, warn_of_another
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.picture_run import answer_options, go_through
from minidiff.cli.types import NOISE, TIMESTEP, Number, Place, Whole, complete_run
from minidiff.dip.config import FitRequest
from minidiff.errors import counted
from minidiff.restoration.config import (
    ANSWER,
    BELONGS,
    CALLS,
    MODEL,
    FinishRequest,
    RestoreRequest,
    RestoreResult,
)

if TYPE_CHECKING:
    from minidiff.restoration.with_dip import RestoreJob

DEFAULTS, FINISH = RestoreRequest(), FinishRequest()


@click.command(cls=Command)
@click.argument("source", type=Place(), required=False, metavar="PICTURE")
@section("Model")
@click.option(
    "--model",
    type=Place(),
    metavar="RUN",
    shell_complete=complete_run,
    default=MODEL,
    show_default=True,
    help="A trained DDPM: a run folder, or the model that comes with minidiff.",
)
@click.option(
    "--noise",
    type=NOISE,
    default=FINISH.noise,
    show_default=True,
    help="Deviation of the noise in the picture, of 255. auto: find it to denoise and for jpeg, none for other tasks.",
)
@click.option(
    "--calls",
    type=Whole(min=1),
    default=FINISH.calls,
    help="Calls of the network. For noise 1 is nearest to the truth, more give texture; else more are better. "
    "Default: 1 or 20, by task.",
)
@own_network()
@section("Task")
@click.option(
    "--task",
    type=click.Choice(list(CALLS)),
    default=FINISH.task,
    show_default=True,
    help="What is wrong with the picture: noise, holes, too few pixels, blur, or what JPEG does.",
)
@click.option(
    "--mask",
    type=Place(),
    metavar="IMAGE|auto",
    help="For inpaint: white where the picture is known, black in the holes. auto: salt and pepper are the holes.",
)
@click.option("--scale", type=Whole(min=2), help="For upscale: how many times larger, 2 or 4. Default: 4.")
@click.option(
    "--kernel",
    type=Place(),
    metavar="IMAGE|gaussian:SIGMA",
    help="For deblur: how a bright point looks, with odd sides, or the deviation of a Gaussian in pixels.",
)
@section("With a deep image prior")
@click.option(
    "--with-dip",
    is_flag=True,
    help="Fit a deep image prior to the picture first. It takes minutes; the next options are for it.",
)
@click.option(
    "--mix",
    type=Number(0, 1),
    default=DEFAULTS.mix,
    show_default=True,
    help="How much of the picture itself goes into the chain; the rest is the fit's answer.",
)
@click.option(
    "--start-t",
    type=TIMESTEP,
    default=DEFAULTS.start_t,
    show_default=True,
    help="First timestep of the reverse chain. auto: the timestep that has as much noise as the picture.",
)
@click.option(
    "--init-mode",
    type=choice("init mode"),
    default=DEFAULTS.init_mode,
    show_default=True,
    help="scale: the picture has the noise of start-t; noise: it is clean, so add that noise; as-is: it is x_t.",
)
@click.option(
    "--sampler", type=choice("sampler"), default=DEFAULTS.sampler, show_default=True, help="Runs the reverse chain."
)
@click.option(
    "--noise-sigma",
    type=Number(0, 255),
    default=DEFAULTS.fit.noise_sigma,
    help="Add noise of this deviation, of 255, to a clean picture.",
)
@click.option(
    "--size",
    type=Whole(8, 4096),
    help="Cut out the centre square, and shrink it to this many pixels a side. Default: the whole picture, or the "
    "model's own size if it draws one alone.",
)
@fit_options
@section("Output")
@answer_options(ANSWER, "restore")
@click.option(
    "--resume",
    type=Place(),
    metavar="RUN",
    help="Go on with this run folder; with --steps a fit goes on after its last step.",
)
@click.pass_context
def restore(ctx: click.Context, /, source: str | None, resume: str | None, with_dip: bool, **asked: Any) -> None:
    """Restore PICTURE, or every picture of a folder, with a model of photographs.

    The noise is measured, and the model goes down its reverse chain from there. --task inpaint fills holes, upscale
    enlarges, deblur sharpens, and jpeg takes the blocks and rings out of a JPEG file. With --with-dip a deep image
    prior is fitted to the picture first, and the model finishes the work. A model that draws one size alone cuts the
    picture to its centre square.

    \b
    minidiff restore photo.png
    minidiff restore photo.png --calls 10 --out sharper.png
    minidiff restore holiday/ --out clean/
    minidiff restore photo.png --task inpaint --mask mask.png
    minidiff restore photo.png --task inpaint --mask auto
    minidiff restore photo.png --task upscale --scale 4
    minidiff restore photo.png --task deblur --kernel gaussian:1.5
    minidiff restore photo.jpg --task jpeg
    minidiff restore photo.png --with-dip --model runs/ddpm-folder-1
    """
    from minidiff.runs.folder import read_config

    if (resume is None and source is None) or (resume is not None and source is not None):
        raise click.UsageError("give a PICTURE to restore, or --resume RUN to go on with one.", ctx)
    if resume is not None:
        kind = read_config(resume, kind=("finish", "restore"))["kind"]
        refuse_options(ctx, {"resume", "device", "force", *(["steps"] if kind == "restore" else [])})
        return go_on_with_dip(ctx, resume, **asked) if kind == "restore" else go_on_finishing(resume, **asked)
    assert source is not None
    refuse_others(ctx, with_dip)
    if with_dip:
        begin_with_dip(source, **asked)
    else:
        begin_finishing(source, **asked)


def refuse_others(ctx: click.Context, with_dip: bool) -> None:
    """Raise a usage error for an option of the way that is not taken: with a deep image prior, or without."""
    shared = {
        "source",
        "resume",
        "with_dip",
        "model",
        "reference",
        "max_pixels",
        "seed",
        "device",
        "out",
        "run",
        "force",
    }
    alone = {"noise", "calls", "task", *BELONGS}
    for name in ctx.params:
        if typed(ctx, name) and name not in shared and with_dip == (name in alone):
            option = "--" + name.replace("_", "-")
            mend = "Leave one of them out." if with_dip else "Add it, or leave this out."
            needs = "does not go with" if with_dip else "needs"
            raise click.UsageError(f"{option} {needs} --with-dip. {mend}", ctx)


# --- a model of photographs alone -----------------------------------------------------------------------------------


def begin_finishing(
    source: str, model: str, task: str, noise: float | str, calls: int | None, mask: str | None, scale: int | None,
    kernel: str | None, seed: int, reference: str | None, max_pixels: int, out: str | None, run: str | None,
    force: bool, device: str, **_: Any,
) -> None:  # fmt: skip
    """Restore a picture, or those of a folder."""
    from minidiff.restoration import finish

    request = FinishRequest(task=task, noise=noise, calls=calls, mask=mask, scale=scale, kernel=kernel, seed=seed,  # type: ignore[arg-type]
                            reference=reference, max_pixels=max_pixels)  # fmt: skip
    go_through(finish.begin(source, model, request, out, run, force, device), "restore", "restored")


def go_on_finishing(folder: str, device: str, **_: Any) -> None:
    """Restore the pictures that are left."""
    from minidiff.restoration import finish

    go_through(finish.reopen(folder, device), "restore", "restored")


# --- with a deep image prior ----------------------------------------------------------------------------------------


def begin_with_dip(
    source: str, model: str, mix: float, start_t: int | str, init_mode: str, sampler: str, out: str | None,
    run: str | None, force: bool, device: str, noise: float | str, calls: int | None, task: str, mask: str | None,
    scale: int | None, kernel: str | None, **asked: Any,
) -> None:  # fmt: skip
    """Fit a deep image prior to a picture, and finish with a chain."""
    from minidiff.restoration import with_dip
    from minidiff.runs.folder import check_free

    if run is not None:
        check_free(Path(run), "run")  # for the package it is `out`

    request = RestoreRequest(mix, start_t, init_mode, sampler, FitRequest(**asked))  # type: ignore[arg-type]
    run_with_dip(with_dip.begin(source, model, request, device, run, out or ANSWER), force)


def go_on_with_dip(ctx: click.Context, folder: str, device: str, force: bool, **asked: Any) -> None:
    """Go on with a fit and its chain."""
    from minidiff.restoration import with_dip

    run_with_dip(with_dip.reopen(folder, device, asked["steps"] if typed(ctx, "steps") else None), force)


def run_with_dip(job: "RestoreJob", force: bool) -> None:
    """Run the fit with a bar, then the chain, and bring the answer to where it was asked for."""
    from minidiff.dip.run import deliver

    resuming = job.folder is not None
    remark(f"{job.describe()}\n{'resuming ' if resuming else 'run      '} {job.start()}")
    for warning in job.warnings:
        warn(warning)
    with resumable("restore", job.start()), FitBar() as bar:
        fitted = job.run_fit(bar.step)
    if fitted is not None:
        remark(f"fitted    {conclusion(fitted)}")
        advise_more(job.doubts(fitted), "restore", job.start(), job.config.fit.steps)
    tell(job.run_chain())
    answer = job.start() / ANSWER
    if job.config.deliver:
        answer = deliver(answer, Path(job.config.out), force)
    warn_of_another(answer, Path(job.config.out).name, job.config.deliver)
    say(f"written   {answer}; look at {job.start() / 'comparison.png'}")


def tell(result: RestoreResult) -> None:
    """Say where the chain started, and how near each picture is to the reference."""
    say(
        f"start     noise {result.noise:.1f} of 255 in the picture, chain from t = {result.start_t}, "
        f"{counted(len(result.timesteps), 'call')}"
    )
    for name, found in (result.quality or {}).items():
        figures = [] if found.psnr is None else [f"PSNR {found.psnr:.2f} dB"]
        figures += [] if found.ssim is None else [f"SSIM {found.ssim:.3f}"]
        say(f"{'':9} {name}: {', '.join(figures) or 'equals the reference'}")
    if result.quality:
        fit_alone, restored = result.quality["deep image prior"].psnr, result.quality["restored"].psnr
        if fit_alone is not None and restored is not None and restored < fit_alone:
            warn(
                "the fit alone is nearer to the reference, so the model may not know such pictures. "
                "The fit's answer is dip/dip.png."
            )
