"""`minidiff evaluate`: whether a conditional model draws what it is asked for, as a classifier sees it."""

from contextlib import nullcontext
from pathlib import Path

import click
from tqdm import tqdm

from minidiff.cli.choices import own_steps
from minidiff.cli.types import Device, Name, Number, Place, say, typed, warn
from minidiff.ddpm import run as pipeline
from minidiff.ddpm.request import FROM_NOISE
from minidiff.diffusion.guidance import GUIDANCE_SCALE
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.evaluation import evaluate
from minidiff.evaluation import pictures as evaluate_pictures
from minidiff.evaluation.evaluator import Evaluator, open_evaluator
from minidiff.files import locked
from minidiff.images.faults import problems
from minidiff.runtime import distributed

OF_RUNS = ("labels_file", "per_class", "guidance", "sampler", "steps", "seeds", "seed", "batch_size")
OF_DATA = ("num", "data_dir", "image_size")


@click.command("evaluate")
@click.argument("source", metavar="RUN")
@click.option(
    "--classifier",
    type=Place(),
    required=True,
    help="What looks at the pictures: a classifier run of the same labels, or a checkpoint of the lab's evaluator.",
)
@click.option(
    "--labels-file",
    type=Place(),
    multiple=True,
    help="What to draw: JSON, a list of lists of labels, as iCLEVR's test.json; may be given several times. With the "
    "labels of the embedded data set also `test` and `new_test`, its own lists.",
)
@click.option(
    "--per-class",
    type=click.IntRange(min=1),
    default=evaluate.PER_CLASS,
    show_default=True,
    help="Without a labels file, of a run with one class an image: images of each.",
)
@click.option("--guidance", type=Number(0), help=f"Guidance scale. Default: {GUIDANCE_SCALE:g}.")
@click.option("--sampler", type=Name("sampler", SAMPLERS), default=FROM_NOISE, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help=f"Calls of the network. Default: {own_steps()}.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How often each list is drawn.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first of the seeds.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images at a time, a process."
)
@click.option("-n", "--num", type=click.IntRange(min=1), help="Of a dataset:NAME at most so many. Default: all.")
@click.option("--data-dir", type=Place(), help="Where the data set of a dataset:NAME lies.")
@click.option("--image-size", type=click.IntRange(8, 1024), help="Of a dataset:NAME. Default: the classifier's.")
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--out", type=Place(), help="The folder for all of it, new or to go on with. Default: a new one under runs/."
)
@click.pass_context
def command(
    ctx: click.Context, source: str, classifier: str, labels_file: tuple[str, ...], per_class: int,
    guidance: float | None, sampler: str, steps: int | None, seeds: int, seed: int, batch_size: int, num: int | None,
    data_dir: str | None, image_size: int | None, device: str, out: str | None,
) -> None:  # fmt: skip
    """Have RUN, a conditional model, draw lists of labels, and a classifier say what it sees.

    The score is the 2023 lab's: the share of the labels asked for that are among the classifier's k highest outputs,
    where k were asked for. RUN can be dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]] too: real images, which tell what the
    classifier is worth.

    \b
    minidiff evaluate runs/ddpm-shapes-1 --classifier runs/classifier-shapes-1
    minidiff evaluate runs/ddpm-iclevr-1 --classifier checkpoint.pth --labels-file test.json --labels-file new_test.json
    minidiff evaluate dataset:shapes:test --classifier runs/classifier-shapes-1
    """
    data = source.startswith("dataset:")
    wrong = [name for name in (OF_RUNS if data else OF_DATA) if typed(ctx, name)]
    if wrong:
        kind = f"a run, and {source} is a data set" if data else f"a dataset:NAME, and {source} is none"
        raise click.UsageError(f"--{wrong[0].replace('_', '-')} is for {kind}. Leave it out.", ctx)
    place = distributed.local_device(device)
    with distributed.process_group(place):
        evaluator = open_evaluator(classifier, place)
        kind = "one of them an image" if evaluator.one_hot else "each yes or no"
        say(f"looks     {evaluator.source}: {len(evaluator.names)} labels, {kind}, {evaluator.size}x{evaluator.size}")
        if data:
            looked = evaluate.look_at_data(evaluator, source, num, data_dir, image_size)
            if distributed.is_main():
                of_data(evaluator, looked, out)
            return
        run = pipeline.load_ddpm(source, device=place)
        names = evaluate.names_of(run, evaluator)
        if names != run.label_names:
            warn(f"{source} does not name its labels; they are taken to be the classifier's, in its order.")
        lists = evaluate.open_lists(run, names, labels_file, per_class)
        chain = evaluate.settings(run, sampler=sampler, steps=steps, guidance_scale=guidance)
        drawn = evaluate.describe_run(run, chain)
        name = Path(source).resolve().name
        made = distributed.main_first(lambda: evaluate.open_folder(out, name, evaluator, drawn))
        folder = Path(distributed.from_main(made or ""))
        numbers = range(seed, seed + seeds)
        size, calls = drawn["image_size"], drawn["sampling"]["calls"]
        how = f"{sampler}, {calls} calls, guidance {chain['guidance_scale']:g}, {size}x{size}"
        say(f"draws     {sum(map(len, lists.values()))} conditions from {seeds} seed{'s' * (seeds > 1)}; {how}")
        say_resized(evaluator, size)
        say(f"folder    {folder} (if stopped, go on with --out {folder})")
        with locked(folder) if distributed.is_main() else nullcontext():
            todo = evaluate.missing(folder, lists, size, numbers)
            batches = sum(len(list(distributed.shares(len(lists[name]), batch_size))) for name, _ in todo)
            bar = tqdm(total=batches * calls, unit="call", disable=not distributed.is_main(), dynamic_ncols=True)
            with bar:
                for name, number in todo:
                    bar.set_description(f"{name}, seed {number}", refresh=False)
                    path = evaluate.samples_path(folder, name, number)
                    evaluate.draw_samples(
                        run, path, lists[name], number, batch_size=batch_size, on_step=lambda _: bar.update(), **chain
                    )
            if distributed.is_main():
                report(folder, [
                    evaluate.look(evaluator, folder, name, labels, size, names) for name, labels in lists.items()
                ])  # fmt: skip


def of_data(evaluator: Evaluator, looked: evaluate.Looked, out: str | None) -> None:
    """The classifier itself, on images whose labels are known."""
    _, count, size = looked.images.shape[:3]
    shown = {"data": {"name": looked.name, "images": count, "image_size": size}}
    folder = evaluate.open_folder(out, looked.name, evaluator, shown)
    say(f"shown     {looked.name}: {count:,} images, {size}x{size}")
    say_resized(evaluator, size)
    say(f"folder    {folder}")
    report(folder, [looked])


def say_resized(evaluator: Evaluator, size: int) -> None:
    if size != evaluator.size:
        say(f"resized   for the classifier, from {size}x{size} to {evaluator.size}x{evaluator.size}")


def report(folder: Path, every: list[evaluate.Looked]) -> None:
    """The figures as a table and in result.json, and the pictures."""
    found = {looked.name: evaluate.summarise(looked) for looked in every}
    evaluate.write_result(folder, found)
    for line in evaluate.table(found):
        say(line)
    for looked in every:
        page, failures = (folder / kind / f"{looked.name}.png" for kind in (evaluate.PICTURES, evaluate.FAILURES))
        evaluate_pictures.draw_grid(page, looked)
        say(f"written   {page}: what was asked for, and what is seen")
        count = evaluate_pictures.draw_failures(failures, looked)
        if count:
            say(f"written   {failures}: not exactly as asked, {count} of {looked.logits[..., 0].numel()}")
        for problem in problems(looked.images.reshape(-1, *looked.images.shape[2:])):
            warn(f"{looked.name}: {problem}")
    say(f"written   {folder / evaluate.RESULT}: all figures")
