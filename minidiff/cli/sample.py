"""`minidiff sample`: images from a trained model, into a grid, a folder or an array."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from minidiff.cli.inits import starts
from minidiff.cli.side_by_side import in_turn, journey, side_by_side
from minidiff.cli.types import Command, Counted, Device, Name, Number, Place, Steps, Timestep, say, typed, warn
from minidiff.data.conditions import in_words
from minidiff.ddpm import run as pipeline
from minidiff.ddpm.chains import LABELS_SPACING
from minidiff.ddpm.inits import INIT_MODES
from minidiff.diffusion.guidance import GUIDANCE_SCALE
from minidiff.diffusion.levels import OWNERS, PLANS
from minidiff.diffusion.samplers import SAMPLERS, VARIANCES
from minidiff.diffusion.spacings import SPACINGS
from minidiff.errors import UserError
from minidiff.gan.run import GanRun
from minidiff.images.convert import to_uint8
from minidiff.images.faults import problems
from minidiff.images.files import IMAGE_SUFFIXES, free_name, write_image
from minidiff.images.grid import captioned, grid, label_rows
from minidiff.images.sink import ImageSink
from minidiff.pretrained.load import KINDS, load
from minidiff.runs import folder as checkpoint
from minidiff.runtime import distributed

FROM_NOISE, FROM_INIT = "dpm++sde", "ddim"  # docs/results.md: of the samplers; of the start timesteps, made with ddim
OF_ANY = {"run", "num", "seed", "weights", "batch_size", "precision", "device", "out", "force"}  # kind of run


def own_steps() -> str:
    """How many calls each sampler makes if it is not told, in words."""
    return ", ".join(f"{name} {plan.steps or 'every timestep'}" for name, plan in PLANS.items())


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option("-n", "--num", type=click.IntRange(min=1), help="How many images. Default: 16, or one for each init.")
@click.option(
    "--sampler",
    type=Name("sampler", SAMPLERS),
    help=f"The reverse chain. Default: {FROM_NOISE}; with --init {FROM_INIT} (docs/results.md).",
)
@click.option("--steps", type=click.IntRange(min=1), help=f"Calls of the network. Default: {own_steps()}.")
@click.option("--eta", type=Number(0, 1), help="Noise of ddim: 0 none, 1 that of ddpm. Default: 0.")
@click.option(
    "--variance", type=Name("variance", VARIANCES), help="Noise of ddpm. Default: what the run was trained for."
)
@click.option(
    "--spacing",
    type=Name("spacing", SPACINGS),
    help=f"How skipped timesteps are spread. Default: the sampler's own; of dpm++sde with labels {LABELS_SPACING} "
    "(docs/samplers.md).",
)
@click.option(
    "--start-t", type=Timestep(), help="First timestep of the chain; auto: that of the noise in --init. Default: T-1."
)
@click.option("--init", type=Place(), help="An image, a folder of them, or a DIP run, to start from at --start-t.")
@click.option(
    "--init-mode",
    type=Name("init mode", INIT_MODES),
    help="noise: add the noise of start-t to the init; scale: it has that noise, only scale it to x_t; "
    "as-is: it is x_t. Default: noise; with --start-t auto scale.",
)
@click.option(
    "--init-steps",
    type=Steps(),
    help="Of the DIP run at --init these saved steps. A picture at --out then has a row for each: "
    "the init, x_t at --progressive moments (8 if not given), the image.",
)
@click.option(
    "--labels",
    multiple=True,
    metavar="NAME,NAME,...",
    help="What to draw, of a conditional run, such as 'blue cube, yellow cylinder'. Give it again for more conditions: "
    "they take turns.",
)
@click.option(
    "--labels-file",
    metavar="FILE",
    help="What to draw: JSON, a list of lists of names. For the shapes test and new_test are there.",
)
@click.option(
    "--guidance",
    "guidance_scale",
    type=Number(0),
    help=f"How closely to keep to the labels: 1 as trained, more is closer, less varied. Default: {GUIDANCE_SCALE:g}.",
)
@click.option("--clip/--no-clip", default=True, show_default=True, help="Hold the predicted image in [-1, 1].")
@click.option(
    "--threshold",
    type=Number(0, 1, min_open=True, max_open=True),
    help="Instead of cutting off: scale by this quantile of the predicted image, such as 0.995, where it is beyond 1.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Image k of a seed is always the same."
)
@click.option(
    "--weights",
    type=Name("weights", ("ema", "raw")),
    default="ema",
    show_default=True,
    help="The averaged weights, or those being trained.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images at a time, a process."
)
@click.option(
    "--progressive",
    type=click.IntRange(min=2),
    metavar="N",
    help="Also draw x_t and the predicted x0 of up to 8 images at N moments of the chain.",
)
@click.option(
    "--compare",
    type=Counted("sampler", SAMPLERS),
    help="Several samplers, each with its calls: the same noise through all of them, a row each, with times.",
)
@click.option("--precision", type=Name("precision", ("auto", "fp32", "bf16")), help="Default: as the run was trained.")
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--out",
    type=Place(),
    help="A grid (.png), an array (.npz, uint8 [N,H,W,3]), or a folder. "
    "Default: sample.png, kept if it is there: then sample-2.png, ...",
)
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.pass_context
def sample(
    ctx: click.Context, run: str | None, num: int | None, init: str | None, init_steps: list[int] | None, weights: str,
    labels: tuple[str, ...], labels_file: str | None, batch_size: int, progressive: int | None,
    compare: list[tuple[str, int | None]] | None, precision: str | None, device: str, out: str | None, force: bool,
    **chain: Any,
) -> None:  # fmt: skip
    """Draw images from a trained model: RUN, a DDPM or a GAN, or the newest run under runs/.

    \b
    minidiff sample runs/ddpm-shapes-1 --num 64 --out grid.png
    minidiff sample --num 50000 --batch-size 500 --out samples.npz
    minidiff sample runs/dcgan-shapes-1 --num 64 --seed 1 --out grid.png
    minidiff sample --compare ddpm:1000,ddim:50,dpm++:20 --num 8 --out compare.png
    minidiff sample --start-t 100 --init dip.png
    minidiff sample --start-t auto --init noisy.png
    minidiff sample runs/ddpm-shapes-2 --labels "blue cube, yellow cylinder" --guidance 2
    minidiff sample runs/ddpm-shapes-2 --labels-file test --progressive 8
    minidiff sample --start-t 100 --init runs/dip-photo-1 --init-steps 30,250,460
    torchrun --nproc_per_node=8 -m minidiff sample -n 50000 --out samples.npz
    """
    refuse_contradictions(ctx)
    if (threshold := chain.pop("threshold")) is not None:
        chain["clip"] = threshold
    target = Path(out) if out else free_name(Path("compare.png" if compare else "sample.png"))
    place = distributed.local_device(device)
    with distributed.process_group(place):
        if run is None:
            run = str(checkpoint.newest_run("ddpm" if of_chains(ctx) else KINDS))
            say(f"run       {run} (the newest)")
        model = load(run, weights, place, precision)
        if isinstance(model, GanRun):
            for option in of_chains(ctx):
                model.refuse(option)
            from_noise(model, num or 16, chain["seed"], batch_size, target, force)
            return
        for note in model.config.get("source", {}).get("notes", []):  # of a checkpoint from elsewhere
            warn(f"{note}.")
        conditions = asked_for(model, labels, labels_file, chain["guidance_scale"])
        captions = [in_words(one, model.label_names, "\n") for one in conditions]
        if conditions:
            chain["labels"] = conditions  # sample k is drawn for the one k mod M
        if compare:  # each with its own
            options = {name: value for name, value in chain.items() if value is not None}
        else:
            owner = next((owner for option, owner in OWNERS.items() if chain.get(option) is not None), None)
            chain["sampler"] = chain["sampler"] or owner or (FROM_NOISE if init is None else FROM_INIT)
            options = model.options(**chain)
        options["batch_size"] = batch_size
        if init is not None:
            options |= starts(model, init, init_steps, num, options)
        elif chain["start_t"] is not None:
            warn("--start-t without --init starts from pure noise, which is what x looks like at T-1 only.")
        if num is None:
            wanted = len(conditions) if labels_file is not None else 8 if compare else 16
            num = len(options["init"]) if init is not None else wanted
        if compare:
            side_by_side(model, compare, num, options, captions, target, force)
            return
        say(f"sampling  {num} image{'s' * (num != 1)}, {options['sampler']}, {journey(model, num, options)}")
        if init_steps and target.suffix.lower() in IMAGE_SUFFIXES:
            draw_rows(model, init_steps, progressive or 8, options, captions, target, force)
        else:
            draw(model, num, progressive, options, captions, target, force)


def refuse_contradictions(ctx: click.Context) -> None:
    """Raises UsageError for options that exclude or need each other."""
    given = ctx.params
    if given["threshold"] is not None and not given["clip"]:
        raise click.UsageError("--threshold and --no-clip exclude each other. Leave one of them out.", ctx)
    if given["init"] is not None and given["start_t"] is None:
        raise click.UsageError("--init needs --start-t, the timestep to start from. Try --start-t 100, or auto.", ctx)
    of_an_init = {"init_steps": "--init-steps", "init_mode": "--init-mode"}
    alone = [option for name, option in of_an_init.items() if given[name]]
    alone += ["--start-t auto"] if given["start_t"] == "auto" else []
    if given["init"] is None and alone:
        raise click.UsageError(f"{alone[0]} needs --init, what to start from. Try --init dip.png.", ctx)
    if given["init_steps"] and given["num"] not in (None, len(given["init_steps"])):
        count = len(given["init_steps"])
        raise click.UsageError(f"--init-steps draws {count}, an image for each. Leave out --num.", ctx)
    said = [name for name in ("sampler", "steps", "progressive", "init_steps") if typed(ctx, name)]
    if given["compare"] and said:
        wrong = said[0].replace("_", "-")
        raise click.UsageError(f"--compare says which samplers and how many calls. Leave out --{wrong}.", ctx)
    if given["labels"] and given["labels_file"] is not None:
        raise click.UsageError("--labels and --labels-file both say what to draw. Leave one of them out.", ctx)


def of_chains(ctx: click.Context) -> list[str]:
    """Those of the options given that are of a reverse chain, so of a ddpm run."""
    return [
        "/".join([*param.opts, *param.secondary_opts])
        for param in ctx.command.params
        if param.name and param.name not in OF_ANY and typed(ctx, param.name)
    ]


def asked_for(
    model: pipeline.Run, labels: Sequence[str], labels_file: str | None, guidance_scale: float | None
) -> list[list[int]]:
    """The conditions of --labels or --labels-file, checked and said; empty where nothing is asked for."""
    conditions = model.conditions(labels, labels_file)
    model.labels.check(conditions or None, guidance_scale)
    if conditions:
        first = "; ".join(in_words(one, model.label_names) for one in conditions[:3])
        more = f" and {len(conditions) - 3} more" * (len(conditions) > 3)
        say(f"labels    {first}{more}; guidance {model.labels.guidance(guidance_scale):g}")
    elif model.label_names:
        say(f"labels    none, so anything; --labels asks for something, such as '{model.label_names[0]}'")
    return conditions


def from_noise(run: GanRun, num: int, seed: int, batch_size: int, target: Path, force: bool) -> None:
    """The images of a GAN: a call of its generator for each batch."""
    say(f"sampling  {num} image{'s' * (num != 1)}, each in one call of the {run.config['kind']} generator, seed {seed}")
    sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))
    batches = run.sample(num, seed=seed, batch_size=batch_size)
    if sink is None:
        for _ in batches:  # the main process gets this one's share, and writes
            pass
        return
    with tqdm(total=num, unit="image", dynamic_ncols=True) as bar, sink:
        for images in batches:
            sink.write(to_uint8(images))
            bar.update(len(images))
        written = sink.finish()
    say(f"written   {written}")
    for problem in problems(sink.shown):
        warn(problem)


def draw(
    model: pipeline.Run, num: int, progressive: int | None, options: dict[str, Any], captions: Sequence[str],
    target: Path, force: bool,
) -> None:  # fmt: skip
    """The images of so many chains, to `target`; with `progressive` a strip of the way of the first ones beside it."""
    strip = target.with_name(f"{target.stem}-progressive.png") if progressive else None

    def open_sink() -> ImageSink:
        if strip and strip.exists() and not force:
            raise UserError(f"{strip} exists. Give another --out, or --force to replace it.")
        return ImageSink(target, overwrite=force)

    sink = distributed.main_first(open_sink)
    if sink is None:
        for _ in model.sample(num, **options):  # the main process gets this one's share, and writes
            pass
        return
    calls = sum(model.calls(mine, **options) for mine in distributed.shares(num, options["batch_size"]))
    with tqdm(total=calls, unit="call", dynamic_ncols=True) as bar, sink:
        for images in model.sample(num, on_step=lambda _: bar.update(), **options):
            sink.write(to_uint8(images))
        written = sink.finish()
        if captions and target.suffix.lower() in IMAGE_SUFFIXES:
            columns = min(len(captions), 8) if len(captions) > 1 else None
            write_image(target, captioned(sink.shown, in_turn(captions, len(sink.shown)), columns))
    say(f"written   {written}")
    if strip and progressive:
        seen = model.moments(range(min(num, 8)), progressive, **options)
        picture = grid(seen.strip(), columns=len(seen.t[0]))
        if captions:
            picture = label_rows(picture, in_turn(captions, len(seen.t)))  # a name beside the two rows of its image
        write_image(strip, picture)
        cut = f", of the first {len(seen.t)} of {num} images" * (len(seen.t) < num)
        say(f"written   {strip}: two rows an image, x_t and the predicted x0{cut}")
    for problem in problems(sink.shown):
        warn(problem)


def draw_rows(
    model: pipeline.Run, steps: list[int], columns: int, options: dict[str, Any], captions: Sequence[str],
    target: Path, force: bool,
) -> None:  # fmt: skip
    """A picture with a row for each saved step of a DIP run: the init, x_t at `columns` moments, the image."""
    sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))
    if sink is None:
        return  # the main process draws them all
    of_all = range(len(steps))
    with tqdm(total=model.calls(of_all, **options), unit="call", dynamic_ncols=True) as bar, sink:
        seen = model.moments(of_all, columns, on_step=lambda _: bar.update(), **options)
        sink.write(seen.image)
        picture = grid(seen.table(to_uint8(options["init"])), columns=len(seen.t[0]) + 2)
        if captions:
            picture = label_rows(picture, in_turn(captions, len(steps)))
        write_image(target, picture)
    say(f"written   {target}: {legend(steps, seen.t)}")
    for problem in problems(sink.shown):
        warn(problem)


def legend(steps: list[int], timesteps: list[list[int]]) -> str:
    """What the rows and columns of the grid are."""
    if all(t == timesteps[0] for t in timesteps):
        return (
            f"a row for each of the steps {', '.join(map(str, steps))}\n"
            f"columns   the init, x_t at t = {', '.join(map(str, timesteps[0]))}, the image"
        )
    rows = [f"row       step {step}, t = {', '.join(map(str, t))}" for step, t in zip(steps, timesteps, strict=True)]
    return "\n".join(["a row for each step; columns: the init, x_t at the t below, the image", *rows])
