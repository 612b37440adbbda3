"""`minidiff sample`: images from a trained model, into a grid, a folder or an array."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from minidiff import checkpoint, distributed, pipeline
from minidiff.chain import PLANS
from minidiff.cli.types import Counted, Device, Name, Number, Place, Steps, Timestep, say, typed, warn
from minidiff.conditional import GUIDANCE_SCALE, in_words
from minidiff.errors import UserError
from minidiff.faults import problems
from minidiff.gan_run import GanRun
from minidiff.images import (
    IMAGE_SUFFIXES,
    captioned,
    free_name,
    grid,
    image_files,
    label_rows,
    read_images,
    to_float,
    to_uint8,
    write_image,
)
from minidiff.noise_level import start_from
from minidiff.pipeline import INIT_MODES, OWNERS
from minidiff.samplers import SAMPLERS, VARIANCES
from minidiff.schedules import SPACINGS
from minidiff.sink import ImageSink

FROM_NOISE, FROM_INIT = "dpm++sde", "ddim"  # docs/results.md: of the samplers; of the start timesteps, made with ddim


OF_ANY = {"run", "num", "seed", "weights", "batch_size", "precision", "device", "out", "force"}  # kind of run


def own_steps() -> str:
    """How many calls each sampler makes if it is not told, in words."""
    return ", ".join(f"{name} {plan.steps or 'every timestep'}" for name, plan in PLANS.items())


@click.command()
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
    help="How skipped timesteps are spread. Default: the sampler's own (docs/samplers.md).",
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
    minidiff sample runs/ddpm-shapes-2 --labels-file test.json --progressive 8
    minidiff sample --start-t 100 --init runs/dip-photo-1 --init-steps 30,250,460
    torchrun --nproc_per_node=8 -m minidiff sample -n 50000 --out samples.npz
    """
    start_t, threshold = chain["start_t"], chain.pop("threshold")
    if threshold is not None:
        if not chain["clip"]:
            raise click.UsageError("--threshold and --no-clip exclude each other. Leave one of them out.", ctx)
        chain["clip"] = threshold
    if init is not None and start_t is None:
        raise click.UsageError("--init needs --start-t, the timestep to start from. Try --start-t 100, or auto.", ctx)
    if init is None and (init_steps or start_t == "auto"):
        option = "--init-steps" if init_steps else "--start-t auto"
        raise click.UsageError(f"{option} needs --init, what to start from. Try --init dip.png.", ctx)
    if init is None and chain["init_mode"]:
        raise click.UsageError("--init-mode needs --init, what to start from. Try --init dip.png.", ctx)
    if init_steps and num not in (None, len(init_steps)):
        raise click.UsageError(f"--init-steps draws {len(init_steps)}, an image for each. Leave out --num.", ctx)
    said = [name for name in ("sampler", "steps", "progressive", "init_steps") if typed(ctx, name)]
    if compare and said:
        wrong = said[0].replace("_", "-")
        raise click.UsageError(f"--compare says which samplers and how many calls. Leave out --{wrong}.", ctx)
    if labels and labels_file is not None:
        raise click.UsageError("--labels and --labels-file both say what to draw. Leave one of them out.", ctx)
    if run is None:
        run = str(checkpoint.newest_run("ddpm" if of_chains(ctx) else pipeline.KINDS))
        say(f"run       {run} (the newest)")
    place = distributed.local_device(device)
    with distributed.process_group(place):
        model = pipeline.load(run, weights, place, precision)
        if isinstance(model, GanRun):
            for option in of_chains(ctx):
                model.refuse(option)
            target = Path(out) if out else free_name(Path("sample.png"))
            from_noise(model, num or 16, chain["seed"], batch_size, target, force)
            return
        for note in model.config.get("source", {}).get("notes", []):  # of a checkpoint from elsewhere
            warn(f"{note}.")
        conditions = model.conditions(labels, labels_file)
        captions = [in_words(one, model.label_names, "\n") for one in conditions]
        if conditions:
            chain["labels"] = conditions  # sample k is drawn for the one k mod M
        model.check_labels(chain.get("labels"), chain["guidance_scale"])
        if conditions:
            first = "; ".join(in_words(one, model.label_names) for one in conditions[:3])
            more = f" and {len(conditions) - 3} more" * (len(conditions) > 3)
            say(f"labels    {first}{more}; guidance {model.guidance(chain['guidance_scale']):g}")
        elif model.label_names:
            say(f"labels    none, so anything; --labels asks for something, such as '{model.label_names[0]}'")
        if compare:  # each with its own
            options = {name: value for name, value in chain.items() if value is not None}
        else:
            owner = next((owner for option, owner in OWNERS.items() if chain[option] is not None), None)
            chain["sampler"] = chain["sampler"] or owner or (FROM_NOISE if init is None else FROM_INIT)
            options = model.options(**chain)
        options["batch_size"] = batch_size
        if init is not None:
            options |= starts(model, init, init_steps, num, options)
        elif start_t is not None:
            warn("--start-t without --init starts from pure noise, which is what x looks like at T-1 only.")
        if num is None:
            wanted = len(conditions) if labels_file is not None else 8 if compare else 16
            num = len(options["init"]) if init is not None else wanted
        if compare:
            target = Path(out) if out else free_name(Path("compare.png"))
            side_by_side(model, compare, num, options, captions, target, force)
            return
        say(f"sampling  {num} image{'s' * (num != 1)}, {options['sampler']}, {journey(model, num, options)}")
        target = Path(out) if out else free_name(Path("sample.png"))
        rows = init_steps if target.suffix.lower() in IMAGE_SUFFIXES else None  # of the grid with --init-steps
        strip = target.with_name(f"{target.stem}-progressive.png") if progressive and not rows else None
        if strip and strip.exists() and not force:
            raise UserError(f"{strip} exists. Give another --out, or --force to replace it.")
        sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))
        mine = [range(num)] if rows else distributed.shares(num, batch_size)
        calls = sum(model.calls(indices, **options) for indices in mine)
        bar = tqdm(total=calls, unit="call", disable=sink is None, dynamic_ncols=True)
        if sink is None:
            for _ in () if rows else model.sample(num, **options):  # the main process gets this one's share, and writes
                pass
            return
        with bar, sink:
            if rows:
                seen = model.moments(range(num), progressive or 8, on_step=lambda _: bar.update(), **options)
                sink.write(seen.image)
                picture = grid(seen.table(to_uint8(options["init"])), columns=len(seen.t[0]) + 2)
                if captions:
                    picture = label_rows(picture, in_turn(captions, num))
                write_image(target, picture)
                written = f"{target}: {legend(rows, seen.t)}"
            else:
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


def of_chains(ctx: click.Context) -> list[str]:
    """Those of the options given that are of a reverse chain, so of a ddpm run."""
    return [
        "/".join([*param.opts, *param.secondary_opts])
        for param in ctx.command.params
        if param.name and param.name not in OF_ANY and typed(ctx, param.name)
    ]


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


def in_turn(captions: Sequence[str], count: int) -> list[str]:
    """The captions of images 0 .. count-1, for which the conditions take turns."""
    return [captions[k % len(captions)] for k in range(count)]


def side_by_side(
    model: pipeline.Run, choices: list[tuple[str, int | None]], num: int, options: dict[str, Any],
    captions: Sequence[str], target: Path, force: bool,
) -> None:  # fmt: skip
    """The same noise through several samplers into one picture: a row for each, with its calls and seconds an image.

    captions: of the conditions, if there are any; the images have them below.
    """
    if target.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--compare draws one picture, and {target} is none. Give --out a .png.")
    for option, owner in OWNERS.items():
        if option in options and owner not in [name for name, _ in choices]:
            raise UserError(f"--{option} belongs to the sampler {owner}, and it is not compared. Leave it out.")
    chains = []
    for name, steps in choices:
        given = {key: value for key, value in options.items() if OWNERS.get(key, name) == name}
        chains.append(model.options(**given | {"sampler": name, "steps": steps}))
    shares = list(distributed.shares(num, options["batch_size"]))
    calls = [model.calls(mine, **chain) for chain in chains for mine in shares]  # raises before the long work
    sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))  # refuses what cannot be written
    model.draw([0], **chains[0] | {"steps": 1})  # the first call of a network is slower than the others
    rows, labels = [], []
    bar = tqdm(total=sum(calls), unit="call", disable=sink is None, dynamic_ncols=True)
    with bar, sink or nullcontext():
        for (name, _), chain in zip(choices, chains, strict=True):
            begin = time.perf_counter()
            rows += [to_uint8(images) for images in model.sample(num, on_step=lambda _: bar.update(), **chain)]
            each = (time.perf_counter() - begin) / num
            told = journey(model, num, chain)
            labels.append(f"{name}\n{told.partition(',')[0]}\n{each:.2g} s each")
            bar.clear()
            say(f"{name:9} {each:.3g} s an image, {told}")
    if sink is not None:
        images = np.concatenate(rows)
        below = in_turn(captions, num) * len(choices) if captions else []
        picture = captioned(images, below, num) if captions else grid(images, columns=num)
        write_image(target, label_rows(picture, labels))
        say(f"written   {target}: a row for each sampler, a column for each image")


def starts(
    model: pipeline.Run, init: str, steps: list[int] | None, num: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    """What --init adds to the options: the images, and with `auto` the timestep of each. Says what it found."""
    files = init_files(init, steps)[:num]
    images = to_float(read_images(files, model.shape[1], model.shape[0]))
    size = f"{model.shape[2]}x{model.shape[1]}"
    say(f"init      {init}: {len(images)} at {size}, cut to the centre where not square")
    if options["start_t"] != "auto":
        return {"init": images}
    names = [f"step {step}" for step in steps] if steps else [file.name for file in files]
    found = [start_from(model.schedule, image[None])[:2] for image in images]
    told = [
        f"{name}: noise {sigma:.3f} ({127.5 * sigma:.1f} of 255), so t = {t}"
        for name, (t, sigma) in zip(names[:8], found, strict=False)
    ]
    if len(found) > 8:
        t, sigma = zip(*found[7:], strict=True)
        told[7:] = [f"and {len(t)} more: noise {min(sigma):.3f} to {max(sigma):.3f}, so t = {min(t)} to {max(t)}"]
    for line in told:
        say(f"start     {line}")
    if max(sigma for _, sigma in found) < 3 / 127.5:  # what clean photographs seem to have: up to 2.8 of 255 at 32x32
        warn("hardly any noise was found, so the chain changes little. To repaint a smooth image, try --start-t 100.")
    return {"init": images, "start_t": [t for t, _ in found], "init_mode": options.get("init_mode", "scale")}


def init_files(init: str, steps: list[int] | None) -> list[Path]:
    """The files --init names: an image, those of a folder, or of a DIP run its answers or its output at these steps."""
    folder = Path(init)
    if (folder / checkpoint.CONFIG).is_file():
        from minidiff import dip_job

        if dip_job.is_dip_run(folder):
            return [dip_job.saved_step(folder, step) for step in steps] if steps else dip_job.chosen_images(folder)
        kind = checkpoint.read_config(folder)["kind"]
        raise UserError(f"{init} is a {kind} run, and no image to start from. Give an image, a folder, or a dip run.")
    if steps:
        raise UserError(f"--init-steps needs a dip run as --init, {init} is none. `minidiff dip fit` makes one.")
    return image_files(folder) if folder.is_dir() else [folder]


def journey(model: pipeline.Run, num: int, options: dict[str, Any]) -> str:
    """How the chains go, in words."""
    timesteps = {chain["start_t"]: model.timesteps(**chain) for _, chain in model.chains(range(num), **options)}
    if len(timesteps) > 1:
        return f"from {len(timesteps)} different t, one chain after another"
    (only,) = timesteps.values()
    return f"{len(only)} call{'s' * (len(only) != 1)}, t = {shortened(only)}"


def legend(steps: list[int], timesteps: list[list[int]]) -> str:
    """What the rows and columns of the grid are."""
    if all(t == timesteps[0] for t in timesteps):
        return (
            f"a row for each of the steps {', '.join(map(str, steps))}\n"
            f"columns   the init, x_t at t = {', '.join(map(str, timesteps[0]))}, the image"
        )
    rows = [f"row       step {step}, t = {', '.join(map(str, t))}" for step, t in zip(steps, timesteps, strict=True)]
    return "\n".join(["a row for each step; columns: the init, x_t at the t below, the image", *rows])


def shortened(timesteps: list[int]) -> str:
    """999, 979, 959, ..., 19: enough of the list to see the start, the stride and the end."""
    words = [str(t) for t in timesteps]
    return ", ".join(words if len(words) <= 5 else [*words[:3], "...", words[-1]])
