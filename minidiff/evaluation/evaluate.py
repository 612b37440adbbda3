"""Does a model draw what you ask for? A classifier looks at its pictures, and the score is the 2023 course lab's.

Rests on drawing (conditions and their pictures), looking (what the classifier sees), figures and pictures. Everything
is kept in a folder, see config.py. Pictures that exist are not drawn again, so an evaluation that was stopped goes on
where it was, and more seeds or lists add to it.

found = minidiff.evaluate("runs/ddpm-shapes-1", "runs/classifier-shapes-1", labels_files=["test"])
print(found.lists["test"]["score"]["value"])
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from minidiff._version import __version__
from minidiff.data.datasets import DATASETS
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.errors import UserError, counted
from minidiff.evaluation import pictures
from minidiff.evaluation.config import (
    FAILURES,
    KIND,
    PICTURES,
    RESULT,
    EvaluateConfig,
    EvaluateRequest,
    LookedBy,
    Progress,
    ShownImages,
    read_config,
)
from minidiff.evaluation.drawing import (
    draw_samples,
    fingerprint,
    missing,
    names_of,
    open_lists,
    samples_path,
    say_lists,
    settings_for,
)
from minidiff.evaluation.evaluator import Evaluator, open_evaluator
from minidiff.evaluation.figures import summarise
from minidiff.evaluation.looking import LabelledImages, Looked, look, look_at_images, open_images
from minidiff.evaluation.result import ListFigures, write_result
from minidiff.files import locked
from minidiff.images.faults import problems
from minidiff.records import takes
from minidiff.runs import folder as run_folder
from minidiff.runtime import distributed


class Evaluated(NamedTuple):
    """The result of an evaluation. Under torchrun only the main process has it, because only that process looks."""

    folder: Path
    lists: Mapping[str, ListFigures]  # the figures of each list
    written: list[str]  # each file, in words
    problems: list[str]  # what looks wrong with the pictures, in words
    lines: Sequence[str] = ()  # what was looked at, by what, and which lists were drawn, in words


@takes(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> Evaluated:
    """Let a model draw lists of labels, and let a classifier look at the pictures: all that `minidiff evaluate` does.

    Raises UserError.
    """
    evaluation = plan(request)
    found = evaluation.run(request.on_progress or (lambda done, total, what: None))
    return found._replace(lines=evaluation.lines)


@dataclass
class Evaluation:
    """An evaluation that is ready to run: the model or the images, the classifier and the folder are open."""

    request: EvaluateRequest
    evaluator: Evaluator
    config: EvaluateConfig
    folder: Path
    lines: list[str]  # all this in words
    warnings: list[str]
    names: list[str]  # of the labels
    asked: Mapping[str, Tensor]  # list -> multi-hot [M,L]; nothing where real images are looked at
    model: Run | None = None  # what draws
    real: LabelledImages | None = None  # real images, in place of a model

    def run(self, on_progress: Progress) -> Evaluated:
        """Draw the missing pictures, look at all pictures, and write the result."""
        if self.model is not None:
            with locked(self.folder) if distributed.is_main() else nullcontext():
                self.draw(self.model, on_progress)
                return self.report(self.look()) if distributed.is_main() else self.nothing()
        return self.report(self.look()) if distributed.is_main() else self.nothing()

    def draw(self, model: Run, on_progress: Progress) -> None:
        """Draw the lists and seeds that have no pictures yet."""
        request, settings = self.request, self.config.sampling
        assert settings is not None
        seeds = range(request.seed, request.seed + request.seeds)
        todo = missing(self.folder, self.asked, self.config.size, seeds)
        batches = sum(len(list(distributed.shares(len(self.asked[name]), request.batch_size))) for name, _ in todo)
        done = 0
        for name, seed in todo:
            what = f"{name}, seed {seed}"

            def on_step(_: object, what: str = what) -> None:
                nonlocal done
                done += 1
                on_progress(done, batches * settings.calls, what)

            path = samples_path(self.folder, name, seed)
            draw_samples(model, path, self.asked[name], seed, settings, request.batch_size, on_step)

    def look(self) -> list[Looked]:
        """Look at every list."""
        if self.real is not None:
            return [look_at_images(self.evaluator, self.real)]
        return [
            look(self.evaluator, self.folder, name, labels, self.config.size, self.names)
            for name, labels in self.asked.items()
        ]

    def report(self, every: Sequence[Looked]) -> Evaluated:
        """Write the figures into result.json, and draw the pages of pictures."""
        found = {looked.name: summarise(looked) for looked in every}
        write_result(self.folder, found)
        written, faults = [], []
        for looked in every:
            page, failures = (self.folder / kind / f"{looked.name}.png" for kind in (PICTURES, FAILURES))
            pictures.draw_grid(page, looked)
            written.append(f"{page}: what was asked for, and what is seen")
            if count := pictures.draw_failures(failures, looked):
                written.append(f"{failures}: not exactly as asked, {count} of {looked.logits[..., 0].numel()}")
            pixels = looked.images.reshape(-1, *looked.images.shape[2:])
            faults += [f"{looked.name}: {problem}" for problem in problems(pixels)]
        return Evaluated(self.folder, found, [*written, f"{self.folder / RESULT}: all figures"], faults)

    def nothing(self) -> Evaluated:
        return Evaluated(self.folder, {}, [], [])


def plan(request: EvaluateRequest) -> Evaluation:
    """Open the model or the images, the classifier and the folder. Raises UserError."""
    evaluator = open_evaluator(request.classifier, request.device)
    looks = LookedBy(evaluator.source, evaluator.sha256, evaluator.size, str(evaluator.knowledge))
    kind = "one of them an image" if evaluator.one_hot else "each yes or no"
    size = f"{evaluator.size}x{evaluator.size}"
    lines = [f"looks     {evaluator.source}: {len(evaluator.names)} labels, {kind}, {size}; {evaluator.knowledge}"]
    if request.of_data:
        return plan_images(request, evaluator, looks, lines)
    model = load_ddpm(request.source, device=request.device)
    names = names_of(model, evaluator)
    warnings = []
    if names != model.label_names:
        warnings.append(
            f"{request.source} does not name its labels; they are taken to be the classifier's, in its order."
        )
    if model.config.data.name in DATASETS:
        warnings += other_data(evaluator, request.source, model.config.data.called)
    lists = open_lists(model, names, request.labels_files, request.per_class)
    settings = settings_for(model, request.sampler, request.steps, request.guidance_scale)
    config = EvaluateConfig(
        __version__, KIND, looks, str(model.folder.resolve()), fingerprint(model), model.shape[1], settings
    )
    folder = open_folder(request.out, Path(request.source).resolve().name, config)
    how = f"{settings.sampler}, {settings.calls} calls, guidance {settings.guidance_scale:g}"
    conditions = counted(sum(map(len, lists.values())), "condition")
    drawn = f"{conditions} from {counted(request.seeds, 'seed')}; {how}, {config.size}x{config.size}"
    lines += say_lists(model, names, request.labels_files, lists)
    lines += [f"draws     {drawn}", *say_resized(evaluator, config.size)]
    lines.append(f"folder    {folder} (if stopped, go on with `out` {folder})")
    return Evaluation(request, evaluator, config, folder, lines, warnings, names, lists, model=model)


def plan_images(request: EvaluateRequest, evaluator: Evaluator, looks: LookedBy, lines: list[str]) -> Evaluation:
    """Open real images, to examine the classifier itself. lines: the messages so far. Raises UserError."""
    real = open_images(evaluator, request.source, request.num, request.data_dir, request.image_size)
    count, size, _, _ = real.images.shape
    config = EvaluateConfig(__version__, KIND, looks, data=ShownImages(real.name, count, size))
    folder = open_folder(request.out, real.name, config)
    lines += [f"shown     {real.name}: {count:,} images, {size}x{size}", *say_resized(evaluator, size)]
    lines.append(f"folder    {folder}")
    warnings = other_data(evaluator, request.source, real.data)
    return Evaluation(request, evaluator, config, folder, lines, warnings, real.names, {}, real=real)


def other_data(evaluator: Evaluator, source: str, data: str) -> list[str]:
    """Warn if the pictures are of another data set than the classifier was trained on."""
    if data == evaluator.knowledge.data:
        return []
    return [
        f"{source} is of {data}, and {evaluator.source} was trained on {evaluator.knowledge.data}: what it sees in "
        "such pictures is less sure. Its score for real images of that data set says how sure."
    ]


def say_resized(evaluator: Evaluator, size: int) -> list[str]:
    """Say that pictures are resized for the classifier, if they are."""
    if size == evaluator.size:
        return []
    return [f"resized   for the classifier, from {size}x{size} to {evaluator.size}x{evaluator.size}"]


# --- the folder -------------------------------------------------------------------------------------------------------


def open_folder(out: str | Path | None, name: str, config: EvaluateConfig) -> Path:
    """Open the folder of an evaluation: a new one, or an evaluation of the same pictures by the same classifier.

    out: the folder; None takes the next free one of runs/evaluate-NAME-1, -2, ... Under torchrun the main process makes
    it. Raises UserError.
    """

    def make() -> Path:
        if out is None or not (Path(out) / run_folder.CONFIG).exists():
            return run_folder.create_run(out, f"{KIND}-{name}", config.stored(), pictures=PICTURES)
        check_same(Path(out), config)
        return Path(out)

    return Path(distributed.from_main(distributed.main_first(make) or ""))


def check_same(out: Path, config: EvaluateConfig) -> None:
    """Raise UserError unless `out` is an evaluation with this config, whichever version wrote it."""
    kind = run_folder.read_config(out)["kind"]
    if kind != KIND:
        raise UserError(f"{out} is a {kind} run. Give another `out`.")
    before = read_config(out)
    mine, theirs = config.stored(), before.stored()
    for what in ("weights", "data", "sampling"):
        if mine.get(what) != theirs.get(what):
            new, old = difference(mine.get(what), theirs.get(what))
            raise UserError(f"{out} is an evaluation with other {what}: {old}, not {new}. Give another `out`.")
    if before.classifier.sha256 != config.classifier.sha256:
        place = config.classifier.place
        raise UserError(f"{out} is an evaluation by another classifier than {place}. Give another `out`.")


def difference(mine: object, theirs: object) -> tuple[str, str]:
    """Reduce two settings to the parts that differ."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return str(mine)[:20], str(theirs)[:20]
    keys = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    new, old = (", ".join(f"{key} {side.get(key)}" for key in keys) for side in (mine, theirs))
    return new, old
