"""What `minidiff sample` does, from a script: images from any trained model into a grid, an array or a folder.

Rests on load and on the kinds of drawing. `plan` opens everything, and its Order says what will be drawn and draws it;
`sample` does both.

drawn = minidiff.sample("runs/ddpm-shapes-1", num=64, out="grid.png")
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minidiff.data.conditions import labels_in_words
from minidiff.ddpm.chains import enter, resolve
from minidiff.ddpm.request import FROM_INIT, FROM_NOISE, ChainOptions, SampleRequest
from minidiff.ddpm.run import Run
from minidiff.diffusion.levels import OWNERS
from minidiff.diffusion.noise_level import HARDLY_ANY, Start
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import counted, lookup, printable
from minidiff.gan.run import GanRun
from minidiff.images.files import IMAGE_SUFFIXES, free_name
from minidiff.pretrained.inits import doubts, read_inits, say_sizes
from minidiff.pretrained.load import KINDS, load
from minidiff.pretrained.noises import plan_noises
from minidiff.pretrained.order import Drawn, Order, journey
from minidiff.pretrained.pictures import ChainPictures, DirectPictures, InitRows
from minidiff.pretrained.request import NOISES, DrawRequest
from minidiff.pretrained.side_by_side import SideBySide, check_owners
from minidiff.priors.run import PriorRun
from minidiff.records import takes
from minidiff.runs import folder as checkpoint
from minidiff.runs.shipped import PHOTOS
from minidiff.runtime import distributed


@takes(DrawRequest)
def sample(request: DrawRequest) -> Drawn:
    """Draw images from a trained model into a file: all that `minidiff sample` does, see `DrawRequest`.

    Returns what was written, the first images, and what looks wrong. Raises UserError.
    """
    order = plan(request)
    total, done = order.total, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if request.on_progress is not None:
            request.on_progress(done, total)

    drawn = order.draw(advance, lambda line: None)
    return drawn._replace(problems=[*order.warnings, *drawn.problems], lines=order.lines)


def plan(request: DrawRequest) -> Order:
    """Open the model and all that it starts from, and decide what is drawn. Raises UserError."""
    order = open_order(request)
    distributed.main_first(order.check)
    return order


def open_order(request: DrawRequest) -> Order:
    """Do what `plan` does, without a look at the target."""
    lines: list[str] = []
    asked = next((name for name in (*NOISES, "compare") if getattr(request, name) is not None), "sample")
    target = Path(request.out or free_name(Path(f"{'sample' if asked == 'noise' else asked}.png")))
    precision = request.precision or ("fp32" if asked in NOISES else None)  # a way back needs every bit

    def open_run(folder: str | Path) -> Run | GanRun | PriorRun:
        return load(folder, request.weights, request.device, precision)

    if request.run is None and request.init is not None and not checkpoint.list_runs(kind="ddpm"):
        run = open_run(PHOTOS)
        lines.append(f"model     {PHOTOS}, which comes with minidiff; there is no run of yours")
    elif request.run is None:
        folder, run = checkpoint.open_newest("ddpm" if request.of_chains() else KINDS, open_run)
        lines.append(f"run       {folder} (the newest)")
    else:
        run = open_run(request.run)
    if not isinstance(run, Run):
        for option in request.of_chains():
            run.refuse(f"`{option}`")
        num = 16 if request.num is None else request.num
        how = f"each in one call of the {run.config.kind} generator"
        if isinstance(run, PriorRun):
            how = f"which {run.config.net} makes of training images with fresh noise"
        lines.append(f"sampling  {counted(num, 'image')}, {how}, seed {request.seed}")
        return DirectPictures(target, request.force, lines, [], run, num, request.seed, request.batch_size)
    return plan_chains(request, run, target, lines)


def plan_chains(request: DrawRequest, run: Run, target: Path, lines: list[str]) -> Order:
    """Decide what is drawn by reverse chains. lines: the messages so far. Raises UserError."""
    warnings = []
    if source := run.config.source:  # a checkpoint from elsewhere
        lines += [f"note      {fact}" for fact in source.weights]
        warnings += [f"{note}." for note in source.notes]
    if any(getattr(request, name) is not None for name in NOISES):
        order = plan_noises(request, run, target, lines)
        order.warnings[:0] = warnings
        return order
    conditions = run.conditions(request.labels, request.labels_file)
    run.labels.check(conditions or None, request.guidance_scale)
    if request.labels_file is not None:
        lines.append(f"list      {run.labels.say_list(request.labels_file)}: {counted(len(conditions), 'condition')}")
    lines += say_labels(run, conditions, request.guidance_scale)
    captions = [labels_in_words(one, run.label_names, "\n") for one in conditions]
    if request.compare:
        check_owners(request, [name for name, _ in request.compare])
    init, names = None, list[str]()
    if request.init is not None:
        inits = read_inits(run, request.init, request.init_steps, request.num, request.max_pixels)
        init, names = inits.images, inits.names
        lines.append(f"init      {request.init}: {say_sizes(inits.sizes, None if run.any_size else run.shape[1])}")
        warnings += doubts(run, request.init, inits)
    elif request.start_t is not None and not (run.prior_use == "start" and request.use_prior):
        warnings.append("`start_t` without `init` starts from pure noise, which is what x looks like at T-1 only.")
    wanted = len(conditions) if request.labels_file is not None else 8 if request.compare else 16
    num = (wanted if init is None else len(init)) if request.num is None else request.num
    samplers = request.compare or [(sampler_of(request), request.steps)]
    asked = [
        SampleRequest(
            num, sampler=name, steps=steps, init=init, labels=conditions or None, **options_for(request, name)
        )
        for name, steps in samplers
    ]
    first, starts = enter(run, asked[0])
    if starts:
        lines += say_starts(names, starts)
        if max(start.sigma for start in starts) < HARDLY_ANY:
            warnings.append(
                "hardly any noise was found, so the chain changes little. To repaint a smooth image, try `start_t` 100."
            )
    decided = [resolve(run, replace(each, start_t=first.start_t, init_mode=first.init_mode)) for each in asked]
    if request.compare:
        return SideBySide(target, request.force, lines, warnings, run, decided, captions)
    lines += say_prior(run, request)
    (only,) = decided
    lines.append(f"sampling  {counted(num, 'image')}, {only.sampler}, {journey(run, only)}")
    if request.init_steps and target.suffix.lower() in IMAGE_SUFFIXES:
        columns = request.progressive or 8
        return InitRows(target, request.force, lines, warnings, run, only, captions, request.init_steps, columns)
    return ChainPictures(target, request.force, lines, warnings, run, only, captions, request.progressive)


def sampler_of(request: DrawRequest) -> str:
    """Choose the sampler if none is named: the one that an option belongs to, or the one that suits the start."""
    owner = next((owner for option, owner in OWNERS.items() if getattr(request, option) is not None), None)
    return request.sampler or owner or (FROM_NOISE if request.init is None else FROM_INIT)


def options_for(request: DrawRequest, sampler: str) -> dict[str, Any]:
    """Pick the options of a chain, except for its steps. In a comparison, pick only the ones that this sampler has."""
    named = [each.name for each in fields(ChainOptions) if each.name != "steps"]
    if request.compare:
        options = lookup("sampler", sampler, SAMPLERS).plan.options
        named = [name for name in named if name not in OWNERS or name in options]
    return {name: getattr(request, name) for name in named}


def say_prior(run: Run, request: DrawRequest) -> list[str]:
    """Say what a prior does in these chains; nothing if it does nothing."""
    if run.prior is None or run.prior_use == "target" or not request.use_prior or request.init is not None:
        return []
    does = "chains start from" if run.prior_use == "start" else "the network sees"
    return [f"prior     {does} what {run.prior.config.net} makes of training images with fresh noise"]


def say_labels(run: Run, conditions: Sequence[Sequence[int]], guidance_scale: float | None) -> list[str]:
    """Say which labels are drawn; nothing for a run without labels."""
    if conditions:
        first = "; ".join(labels_in_words(one, run.label_names) for one in conditions[:3])
        more = f" and {len(conditions) - 3} more" * (len(conditions) > 3)
        return [f"labels    {printable(first)}{more}; guidance {run.labels.guidance(guidance_scale):g}"]
    if run.label_names:
        return [f"labels    none, so anything; `labels` asks for something, such as '{run.label_names[0]}'"]
    return []


def say_starts(names: Sequence[str], starts: Sequence[Start]) -> list[str]:
    """Say which noise was found in each init, and the timestep it leads to; for more than eight, only the range."""
    told = [
        f"{name}: noise {sigma:.3f} ({127.5 * sigma:.1f} of 255), so t = {t}"
        for name, (t, sigma, _) in zip(names[:8], starts, strict=False)
    ]
    if len(starts) > 8:
        t, sigma = [start.t for start in starts[7:]], [start.sigma for start in starts[7:]]
        told[7:] = [f"and {len(t)} more: noise {min(sigma):.3f} to {max(sigma):.3f}, so t = {min(t)} to {max(t)}"]
    return [f"start     {line}" for line in told]
