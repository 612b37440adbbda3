"""`minidiff sample`: images from a trained model, into a grid, a folder or an array."""

from pathlib import Path
from typing import Any

import click

from minidiff.cli.types import Device, Name, Number, Place, say, warn
from minidiff.errors import UserError
from minidiff.pipeline import INIT_MODES
from minidiff.samplers import SAMPLERS, VARIANCES
from minidiff.schedules import SPACINGS


@click.command()
@click.argument("run", required=False)
@click.option("-n", "--num", type=click.IntRange(min=1), help="How many images. Default: 16, or one for each init.")
@click.option("--sampler", type=Name("sampler", SAMPLERS), default="ddim", show_default=True, help="The reverse chain.")
@click.option("--steps", type=click.IntRange(min=1), help="Network calls. Default: ddim 50, ddpm every timestep.")
@click.option("--eta", type=Number(0, 1), help="Noise of ddim: 0 none, 1 that of ddpm. Default: 0.")
@click.option(
    "--variance", type=Name("variance", VARIANCES), help="Noise of ddpm. Default: what the run was trained for."
)
@click.option(
    "--spacing",
    type=Name("spacing", SPACINGS),
    default="trailing",
    show_default=True,
    help="How skipped timesteps are spread.",
)
@click.option("--start-t", type=click.IntRange(min=0), help="First timestep of the reverse chain. Default: T-1.")
@click.option("--init", type=Place(), help="An image, or a folder of them, to start from at --start-t.")
@click.option(
    "--init-mode",
    type=Name("init mode", INIT_MODES),
    default="noise",
    show_default=True,
    help="noise: bring the init to the noise level of start-t; as-is: it is x_t already.",
)
@click.option("--clip/--no-clip", default=True, show_default=True, help="Hold the predicted image in [-1, 1].")
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
    ctx: click.Context, run: str | None, num: int | None, init: str | None, weights: str, batch_size: int,
    progressive: int | None, precision: str | None, device: str, out: str | None, force: bool, **chain: Any,
) -> None:  # fmt: skip
    """Draw images from a trained model: RUN, or the newest run under runs/.

    \b
    minidiff sample runs/ddpm-shapes-1 --num 64 --out grid.png
    minidiff sample --num 50000 --batch-size 500 --out samples.npz
    minidiff sample --start-t 100 --init dip.png
    torchrun --nproc_per_node=8 -m minidiff sample -n 50000 --out samples.npz
    """
    from tqdm import tqdm

    from minidiff import checkpoint, distributed, pipeline
    from minidiff.images import ImageSink, free_name, grid, problems, read_images, to_float, to_uint8, write_image

    if init is not None and chain["start_t"] is None:
        raise click.UsageError("--init needs --start-t, the timestep to start from. Try --start-t 100.", ctx)
    if run is None:
        run = str(checkpoint.newest_run("ddpm"))
        say(f"run       {run} (the newest)")
    place = distributed.local_device(device)
    with distributed.process_group(place):
        model = pipeline.load(run, weights, place, precision)
        options = model.options(**chain)
        starts = None
        if init is not None:
            starts = to_float(read_images(init, model.shape[1], model.shape[0]))
            size = f"{model.shape[1]}x{model.shape[2]}"
            say(f"init      {init}: {len(starts)} at {size}, cut to the centre where not square")
        elif chain["start_t"] is not None:
            warn("--start-t without --init starts from pure noise, which is what x looks like at T-1 only.")
        num = num or (16 if starts is None else len(starts))
        timesteps = model.timesteps(**options)
        say(f"sampling  {num} images, {chain['sampler']}, {len(timesteps)} calls, t = {shortened(timesteps)}")
        target = Path(out) if out else free_name(Path("sample.png"))
        strip = target.with_name(f"{target.stem}-progressive.png")
        if progressive and strip.exists() and not force:
            raise UserError(f"{strip} exists. Give another --out, or --force to replace it.")
        sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))
        rounds = -(-num // (batch_size * distributed.world_size()))
        bar = tqdm(total=len(timesteps) * rounds, unit="call", disable=sink is None, dynamic_ncols=True)
        batches = model.sample(num, batch_size=batch_size, init=starts, on_step=lambda _: bar.update(), **options)
        if sink is None:
            for _ in batches:  # this process's share goes to the main one, which writes
                pass
            return
        with bar, sink:
            for images in batches:
                sink.write(to_uint8(images))
            written = sink.finish()
        say(f"written   {written}")
        if progressive:
            some = list(range(min(num, 8)))
            first = None if starts is None else starts[[index % len(starts) for index in some]]
            columns = min(progressive, len(timesteps))
            write_image(strip, grid(model.progressive(some, columns, init=first, **options), columns))
            say(f"written   {strip}: two rows an image, x_t and the predicted x0")
        for problem in problems(sink.shown):
            warn(problem)


def shortened(timesteps: list[int]) -> str:
    """999, 979, 959, ..., 19: enough of the list to see the start, the stride and the end."""
    words = [str(t) for t in timesteps]
    return ", ".join(words if len(words) <= 5 else [*words[:3], "...", words[-1]])
