"""`minidiff dip ...`: fit an untrained network to one picture, and stop before it has learnt the noise."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from minidiff.cli.choices import TABLES, choice, table
from minidiff.cli.commands import Group, max_pixels, refuse_options, section, typed
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Name, Number, Place, Whole
from minidiff.dip.config import ANSWER, OFF, FitConfig, FitRequest, FitResult
from minidiff.errors import UserError
from minidiff.runs.shipped import PHOTOS

if TYPE_CHECKING:
    from minidiff.dip.folder import FolderJob
    from minidiff.dip.job import DipJob, FitProgress

DEFAULTS = FitRequest()
EARLY_STOP = Name("early stop", lambda: [*table("early stop"), OFF], (*TABLES["early stop"][1], OFF))
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# What a fit takes; `minidiff restore` begins with a fit, and takes the same.
FIT_OPTIONS = [
    section("Network"),
    click.option("--net", type=choice("net"), default=DEFAULTS.net, show_default=True, help="The network to fit."),
    click.option("--layers", type=Whole(min=2), help="Layers of cnn. Default: 4."),
    click.option("--channels", type=Whole(min=1), help="Inner channels. Default: 128; conv2 64."),
    click.option("--kernel-size", type=Whole(min=1), help="Kernel size of cnn, odd. Default: 3."),
    click.option("--scales", type=Whole(1, 8), help="Scales of hourglass. Default: 5, fewer if small."),
    click.option("--weights", type=Name("weights", ("imagenet",)), help="Encoder of resnet18. Default: untrained."),
    section("Fit"),
    click.option(
        "--steps", type=Whole(min=1), default=DEFAULTS.steps, show_default=True, help="Most steps of the fit."
    ),
    click.option(
        "--lr", type=Number(0, 1, min_open=True), default=DEFAULTS.lr, show_default=True, help="Adam's learning rate."
    ),
    click.option("--input", type=choice("input"), help="The network's input. Default: noise; conv2, cnn: image."),
    click.option(
        "--jitter", type=Number(0), default=DEFAULTS.jitter, show_default="1/30",
        help="Add this much new noise to the input in every step.",
    ),
    click.option(
        "--average", type=Number(0, 1, max_open=True), default=DEFAULTS.average, show_default=True,
        help="Average the outputs with this weight of the past; the average is the answer. 0: no averaging.",
    ),
    section("When to stop"),
    click.option(
        "--early-stop", type=EARLY_STOP, default=DEFAULTS.early_stop, show_default=True,
        help="Which statistic decides when to stop. off: run all steps and take the last output.",
    ),
    click.option(
        "--patience", type=Whole(min=1),
        help="Stop after this many steps without a new minimum. Default: 1000, fewer for small pictures.",
    ),
    click.option(
        "--window", type=Whole(2, 10_000), help="How many outputs the early stop window sees. Default: 100."
    ),
    section("Output"),
    click.option(
        "--save-every", type=Whole(min=1), default=DEFAULTS.save_every, show_default=True,
        help="Steps between saved outputs.",
    ),
    section("Picture"),
    max_pixels,
    click.option("--reference", type=Place(), metavar="IMAGE", help="The clean picture, to measure PSNR and SSIM."),
    section("Computing"),
    click.option(
        "--seed", type=Whole(min=0), default=DEFAULTS.seed, show_default=True, help="The random seed."
    ),
    click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option(
        "--compile/--no-compile", default=DEFAULTS.compile, help="Use torch.compile; takes minutes first. Default: no."
    ),
]  # fmt: skip


def fit_options(command: Decorated) -> Decorated:
    """Put the options of a fit above a command."""
    for option in reversed(FIT_OPTIONS):
        command = option(command)
    return command


@click.group(cls=Group)
def dip() -> None:
    """Deep image prior: one picture, one untrained network.

    \b
    minidiff dip fit photo.png
    minidiff sample --start-t 100 --init dip.png
    """


@dip.command()
@click.argument("image", type=Place(), required=False)
@section("Picture")
@click.option(
    "--task", type=choice("task"), default=DEFAULTS.task, show_default=True, help="What is wrong with the picture."
)
@click.option(
    "--mask", type=Place(), metavar="IMAGE", help="For inpaint: white where the picture is known, black in the holes."
)
@click.option("--factor", type=Whole(min=2), help="For super-resolve: how many times larger. Default: 4.")
@click.option(
    "--size",
    type=Whole(8, 4096),
    help="Cut out the largest centre square, and shrink (or enlarge) it to this many pixels a side. Default: the whole "
    "picture as it is.",
)
@click.option(
    "--noise-sigma",
    type=Number(0, 255),
    default=DEFAULTS.noise_sigma,
    help="Add noise of this deviation, of 255, to a clean picture.",
)
@fit_options
@section("Output")
@click.option("--out", type=Place(), help="The run folder. Default: the next free runs/dip-IMAGE-N, and ./dip.png.")
@click.option(
    "--resume",
    type=Place(),
    metavar="RUN",
    help="Go on with this run folder, as if it had never stopped; with --steps also after its last step.",
)
@click.option(
    "--force", is_flag=True, help="Replace ./dip.png. Without it an existing one is kept: then dip-2.png, ..."
)
@click.pass_context
def fit(
    ctx: click.Context, /, image: str | None, out: str | None, resume: str | None, force: bool, device: str,
    **asked: Any,
) -> None:  # fmt: skip
    """Fit a network to IMAGE, or to every picture of a folder.

    The answer is the output from just before the network starts to fit the noise. Transparent parts become white,
    16-bit pictures become 8-bit, and a picture is turned upright as its EXIF data say.

    \b
    minidiff dip fit photo.png
    minidiff dip fit clean.png --noise-sigma 25 --size 256
    minidiff dip fit holes.png --task inpaint --mask known.png
    minidiff dip fit --resume runs/dip-photo-1 --steps 5000
    """
    from minidiff.dip import fit_picture, folder, recipe, run

    job: DipJob | FolderJob
    if resume is not None and image is None:
        refuse_options(ctx, {"resume", "device", "force", "steps"})
        job = fit_picture.open_fit(resume, device, asked["steps"] if typed(ctx, "steps") else None)
    elif image is None or resume is not None:
        raise click.UsageError("give an IMAGE to fit, or --resume RUN to go on with one.", ctx)
    elif Path(image).is_dir():
        job = folder.FolderJob(Path(image), FitRequest(**asked), device, out)
    else:
        job = recipe.begin(image, FitRequest(**asked), device, out, deliver=out is None)
    if not isinstance(job, folder.FolderJob):
        remark(job.describe())
    if image is not None:
        say_what_knows(image, FitRequest(**asked))
    if isinstance(job, folder.FolderJob):
        return fit_folder(job)

    remark(begun(job))
    with resumable("dip fit", job.start()), FitBar() as bar:
        fitted = fit_picture.run_fit(job, bar.step)
    say(f"done      {conclusion(fitted.result)}")
    advise_more(fitted.problems, "dip fit", fitted.folder, job.config.fit.steps)
    answer = run.deliver(fitted.answer, Path(ANSWER), force) if job.config.deliver else fitted.answer
    warn_of_another(answer, ANSWER, job.config.deliver)
    say(f"written   {answer}; look at {fitted.folder / 'sheet.png'} and {fitted.folder / 'curves.png'}")
    say_next(answer)


def fit_folder(job: "FolderJob") -> None:
    """Fit every picture of a folder. The pictures that could not be fitted are named at the end."""
    from minidiff.dip.fit_picture import run_folder_fit

    verb = "resuming " if job.folder is not None else "run      "
    remark(f"{verb} {job.start()}: {len(job.files())} images")
    with resumable("dip fit", job.start()), FitBar() as bar:

        def on_end(result: FitResult) -> None:
            bar.close()
            say(f"done      {conclusion(result)}")

        fitted = run_folder_fit(job, lambda one: remark(f"{one.describe()}\n{begun(one)}"), bar.step, on_end)
    for failure in fitted.failures:
        warn(failure)
    advise_more(fitted.problems, "dip fit", fitted.folder, job.request.steps)
    say(f"written   {fitted.answers}")
    if fitted.failures:
        raise UserError(f"{len(fitted.failures)} of the pictures could not be fitted; see above.")
    say_next(fitted.folder)


def say_what_knows(source: str, request: FitRequest) -> None:
    """Say that no network trained on data takes part in a fit, and which command asks one to do the same in seconds."""
    if request.weights is not None:  # an encoder trained on ImageNet does
        return
    shown, scale = shlex.quote(source), request.factor or FitConfig.factor
    more = {"denoise": "", "inpaint": f" --task inpaint --mask {shlex.quote(str(request.mask))}"}
    if scale in (2, 4):
        more["super-resolve"] = f" --task upscale --scale {scale}"
    line = "prior     no network trained on data is in play"
    if request.task in more:
        line += f"; `minidiff restore {shown}{more[request.task]}` asks one that knows photographs, in seconds"
    remark(line)


def say_next(init: Path) -> None:
    """Print the command that starts a chain from an answer, with a model of the user's own if there is one.

    That is the newest that draws without labels; a tenth of its timesteps keeps what is in the picture.
    """
    from minidiff.ddpm.config import read_ddpm
    from minidiff.runs.folder import CONFIG, list_runs, read_config

    for run in list_runs(kind="ddpm"):
        try:
            config = read_ddpm(read_config(run), run / CONFIG)
        except UserError:  # a damaged one
            continue
        if not config.network.label_dim or (config.labels and config.labels.dropout):
            start_t, model = min(100, config.diffusion.timesteps // 10), str(run)
            break
    else:
        start_t, model = 100, PHOTOS
    remark(f"next      minidiff sample {shlex.quote(model)} --start-t {start_t} --init {shlex.quote(str(init))}")


# --- what is printed on the way -------------------------------------------------------------------------------------


def begun(job: "DipJob") -> str:
    """Make the run folder, and say where it is; of a resumed fit, at which step it goes on."""
    resuming = job.folder is not None
    if not resuming:
        return f"run       {job.start()}"
    again = "" if job.fitter.step else ", because it has no saved state"
    return f"resuming  {job.start()} at step {job.fitter.step:,}{again}"


def advise_more(problems: Sequence[str], command: str, folder: Path, steps: int) -> None:
    """Warn of a fit that used up its steps too soon, and say how to go on."""
    more = FitRequest.steps if steps < FitRequest.steps else 2 * steps
    for problem in problems:
        warn(f"{problem} Go on with: minidiff {command} --resume {shlex.quote(str(folder))} --steps {more}")


def warn_of_another(answer: Path, usual: str, delivered: bool) -> None:
    """Warn if the answer has another name than usual, because a file of that name was there already."""
    if delivered and answer.name != usual:
        warn(f"{usual} was there before and is kept (--force would replace it). The new answer is {answer}.")


def conclusion(result: FitResult) -> str:
    """Say how a fit ended."""
    how = "stopped early at" if result.stopped else "ran to"
    line = f"{how} step {result.steps:,}, the answer is from step {result.best_step:,}"
    if result.psnr is not None:
        before = "" if result.psnr_target is None else f", the target had {result.psnr_target:.2f}"
        line += f"; PSNR {result.psnr:.2f} dB{before}"
    return line


@contextmanager
def resumable(command: str, folder: Path) -> Iterator[None]:
    """Add to the message of an interruption how to go on."""
    from minidiff.training.journal import Interrupted

    try:
        yield
    except Interrupted as stopped:
        again = f"minidiff {command} --resume {shlex.quote(str(folder))}"
        raise Interrupted(f"{stopped} Resume with: {again}", stopped.exit_code) from None


class FitBar:
    """A progress bar on standard error, for one fit after another."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __enter__(self) -> "FitBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, progress: "FitProgress") -> None:
        """Move on by one step, and show the loss where it was measured."""
        from minidiff.runtime.progress import progress_bar

        if self.bar is None:
            self.bar = progress_bar(progress.total, unit="step", initial=progress.step - 1, leave=True)
        self.bar.update()
        if progress.record is not None:
            best = f", best so far {progress.best_step}" if progress.best_step else ""
            self.bar.set_postfix_str(f"loss {progress.record['loss']:.5f}{best}")

    def close(self) -> None:
        """Leave the bar as it is; the next step begins another."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
