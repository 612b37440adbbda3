"""`minidiff restore`: a deep image prior, and the end of a DDPM's reverse chain, on one noisy picture."""

from pathlib import Path
from typing import Any

import click

from minidiff.cli.choices import choice
from minidiff.cli.dip import FitBar, advise_more, conclusion, fit_options, resumable, warn_of_another
from minidiff.cli.types import (
    Command,
    Number,
    Place,
    Timestep,
    own_network,
    refuse_options,
    remark,
    say,
    section,
    typed,
    warn,
)
from minidiff.dip.config import FitRequest
from minidiff.errors import counted
from minidiff.restoration.config import ANSWER, RestoreRequest, RestoreResult

DEFAULTS = RestoreRequest()


@click.command(cls=Command)
@click.argument("image", type=Place(), required=False)
@section("Reverse chain")
@click.option("--model", type=Place(), metavar="RUN", help="The trained DDPM. Default: the newest run under runs/.")
@click.option(
    "--mix",
    type=Number(0, 1),
    default=DEFAULTS.mix,
    show_default=True,
    help="How much of the picture itself goes into the chain; the rest is the fit's answer.",
)
@click.option(
    "--start-t",
    type=Timestep(),
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
@own_network()
@section("Picture")
@click.option(
    "--noise-sigma",
    type=Number(0, 255),
    default=DEFAULTS.fit.noise_sigma,
    help="Add noise of this deviation, of 255, to a clean picture.",
)
@fit_options
@section("Output")
@click.option("--out", type=Place(), help="The run folder. Default: runs/restore-IMAGE-N, and ./restored.png.")
@click.option(
    "--resume",
    type=Place(),
    metavar="RUN",
    help="Go on with this run folder; with --steps its fit goes on after its last step.",
)
@click.option("--force", is_flag=True, help="Replace ./restored.png. Without it an existing one is kept.")
@click.pass_context
def restore(
    ctx: click.Context, /, image: str | None, model: str | None, start_t: int | str, init_mode: str, mix: float,
    sampler: str, out: str | None, resume: str | None, force: bool, device: str, **asked: Any,
) -> None:  # fmt: skip
    """Clean IMAGE: fit a deep image prior to it, and finish with the reverse chain of a trained DDPM.

    The picture is cut to its centre square, at the size the model was trained for. The model pulls every picture
    towards its training data, so pick one trained on similar pictures.

    \b
    minidiff restore photo.png --model runs/ddpm-folder-1
    minidiff restore clean.png --noise-sigma 25
    """
    from minidiff.ddpm.run import load_ddpm
    from minidiff.dip.run import deliver
    from minidiff.restoration import restore as restoration
    from minidiff.runs.folder import open_newest

    if resume is not None and image is None:
        refuse_options(ctx, {"resume", "device", "force", "steps"})
        job = restoration.reopen(resume, device, asked["steps"] if typed(ctx, "steps") else None)
    elif image is None or resume is not None:
        raise click.UsageError("give an IMAGE to restore, or --resume RUN to go on with one.", ctx)
    else:
        if model is None:
            model = str(open_newest("ddpm", load_ddpm)[0])
            remark(f"model     {model} (the newest)")
        request = RestoreRequest(mix, start_t, init_mode, sampler, FitRequest(**asked))  # type: ignore[arg-type]
        job = restoration.begin(image, model, request, device, out, deliver=out is None)
    resuming = job.folder is not None
    remark(f"{job.describe()}\n{'resuming ' if resuming else 'run      '} {job.start()}")
    for warning in job.warnings:
        warn(warning)
    with resumable("restore", job.start()), FitBar() as bar:
        fitted = job.run_fit(bar.step)
    if fitted is not None:
        remark(f"fitted    {conclusion(fitted)}")
        advise_more(job.doubts(fitted), "restore", job.start(), job.config.fit.steps)
    result = job.run_chain()
    tell(result)
    answer = job.start() / ANSWER
    if job.config.deliver:
        answer = deliver(answer, Path(ANSWER), force)
    warn_of_another(answer, ANSWER, job.config.deliver)
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
