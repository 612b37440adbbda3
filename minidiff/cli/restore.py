"""`minidiff restore`: a deep image prior, and the end of a DDPM's reverse chain, on one noisy picture."""

from pathlib import Path
from typing import Any

import click

from minidiff.cli.dip import fit_options
from minidiff.cli.types import Name, Number, Place, Timestep, refuse_options, warn
from minidiff.ddpm.inits import INIT_MODES
from minidiff.diffusion.samplers import SAMPLERS


@click.command()
@click.argument("image", type=Place(), required=False)
@click.option("--model", type=Place(), metavar="RUN", help="The trained DDPM. Default: the newest run under runs/.")
@click.option(
    "--mix",
    type=Number(0, 1),
    default=0.75,
    show_default=True,
    help="How much of the picture itself goes into the chain; the rest is the fit's answer.",
)
@click.option(
    "--start-t",
    type=Timestep(),
    default="auto",
    show_default=True,
    help="First timestep of the reverse chain; auto: that which has the picture's noise.",
)
@click.option(
    "--init-mode",
    type=Name("init mode", INIT_MODES),
    default="scale",
    show_default=True,
    help="scale: what enters has the noise of start-t; noise: it is clean, and gets that noise; as-is: it is x_t.",
)
@click.option("--sampler", type=Name("sampler", SAMPLERS), default="ddim", show_default=True, help="The reverse chain.")
@click.option("--noise-sigma", type=Number(0, 255), help="Add noise of this deviation, of 255, to a clean picture.")
@fit_options
@click.option("--out", type=Place(), help="The run folder. Default: runs/restore-IMAGE-N, and ./restored.png.")
@click.option("--resume", type=Place(), metavar="RUN", help="Go on with this run folder.")
@click.option("--force", is_flag=True, help="Replace ./restored.png; else one that is there is kept.")
@click.pass_context
def restore(
    ctx: click.Context, image: str | None, model: str | None, start_t: int | str, init_mode: str, mix: float,
    sampler: str, out: str | None, resume: str | None, force: bool, device: str, **options: Any,
) -> None:  # fmt: skip
    """Clean IMAGE: fit a deep image prior to it, and end with the reverse chain of a trained DDPM.

    The picture is cut to its centre square, at the size the model was trained for. It makes everything like the
    pictures it knows, so it should know such.

    \b
    minidiff restore photo.png --model runs/ddpm-folder-1
    minidiff restore clean.png --noise-sigma 25
    """
    import torch

    from minidiff.dip import job as dip_job
    from minidiff.restoration import restore as job_of
    from minidiff.runs import folder as checkpoint

    place = torch.device(device)
    if (image is None) == (resume is None):
        raise click.UsageError("give an IMAGE to restore, or --resume RUN to go on with one.", ctx)
    if resume is not None:
        refuse_options(ctx, {"resume", "device", "force"})
        job = job_of.resume(resume, place)
    else:
        if model is None:
            model = str(checkpoint.newest_run("ddpm"))
            click.echo(f"model     {model} (the newest)")
        fit = {name: value for name, value in options.items() if value is not None}
        chain = {"start_t": start_t, "init_mode": init_mode, "sampler": sampler, "seed": options["seed"]}
        job = job_of.plan(str(image), model, place, fit, chain, mix, out)
        job.config["deliver"] = out is None
    click.echo(job.describe())
    click.echo(job.start())
    fitted = job.run_fit()
    if fitted is not None:
        click.echo(f"fitted    {dip_job.conclusion(fitted)}")
    result = job.run_chain()
    click.echo(f"start     noise {result['noise']:.1f} of 255 in the picture, chain from t = {result['start_t']}, "
               f"{len(result['timesteps'])} calls")  # fmt: skip
    measured = result.get("quality", {})
    for name, value in measured.items():
        figures = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}"}
        click.echo(f"{'':9} {name}: " + ", ".join(figures[key].format(number) for key, number in value.items()))
    if measured and measured["restored"].get("psnr", 1e9) < measured["deep image prior"].get("psnr", 1e9):
        warn(
            "the fit alone is nearer to the reference: the model may not know such pictures. Its answer is dip/dip.png."
        )
    assert job.folder is not None
    answer = job.folder / job_of.ANSWER
    if job.config.get("deliver"):
        answer = dip_job.deliver(answer, Path(job_of.ANSWER), force)
    click.echo(f"written   {answer}; look at {job.folder / 'comparison.png'}")
