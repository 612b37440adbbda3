"""Was it drawn as asked? Pictures for lists of labels, looked at by a classifier, and scored as in the 2023 course lab.

Rests on pipeline (which draws), conditional (what to draw), evaluator (which looks) and job (data sets, to examine the
examiner). Everything is kept in a folder of its own:

    config.json                what draws and what looks, with all settings
    samples/test-0.npz         the pictures of seed 0 for the list `test`: images uint8 [M,H,W,3], labels uint8 [M,L]
    pictures/test.png          one for each condition, with what was asked and what the classifier sees
    failures/test.png          those that were not told exactly as asked
    result.json                all figures

Pictures that are there are not drawn again, so an evaluation that was stopped goes on where it was, and one of more
seeds or lists adds to it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from minidiff._version import __version__
from minidiff.classifier.loss import accuracy, exact, highest
from minidiff.data.conditions import multi_hot, read_conditions
from minidiff.data.datasets import read_place, splits_of
from minidiff.ddpm.run import Run
from minidiff.diffusion.samplers import Step
from minidiff.errors import UserError, one_line
from minidiff.evaluation.evaluator import Evaluator
from minidiff.files import write_atomically, write_json
from minidiff.images.convert import Pixels, to_uint8
from minidiff.runs import folder as checkpoint
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision
from minidiff.training.data import load_together

KIND, RESULT, SAMPLES, PICTURES, FAILURES = "evaluate", "result.json", "samples", "pictures", "failures"
PER_CLASS = 10  # images of each class, where a run is asked for one class at a time


@dataclass
class Looked:
    """What a classifier says of the pictures of one list of M conditions, drawn from S seeds."""

    name: str  # of the list
    labels: Tensor  # [M,L], zeros and ones: what was asked
    images: Pixels  # uint8 [S,M,H,W,3]
    logits: Tensor  # float32 [S,M,L], in the order of the names
    seeds: list[int]
    names: list[str]  # of the L labels
    one_hot: bool  # whether the classifier's outputs compete


# --- what to draw -----------------------------------------------------------------------------------------------------


def names_of(run: Run, evaluator: Evaluator) -> list[str]:
    """The labels a run can be asked for, which must be the classifier's; an imported run, which does not know their
    names, has the classifier's in its order. Raises UserError."""
    if not run.label_names:
        raise UserError(f"{run.folder} was trained without labels, so nothing can be asked of it. Train --conditional.")
    if run.config.labels is None and len(run.label_names) == len(evaluator.names):
        return evaluator.names
    evaluator.columns(run.label_names)
    return run.label_names


def open_lists(run: Run, names: Sequence[str], places: Sequence[str], per_class: int = PER_CLASS) -> dict[str, Tensor]:
    """What to ask a run for: list -> multi-hot float32 [M,L].

    places: labels files, see `read_conditions`; each is called as its file without the suffix. Without any: of a run
    that draws one class at a time, every class `per_class` times; of one that draws the embedded set, its two lists.
    Raises UserError.
    """
    if not places and run.config.labels and run.config.labels.one_hot:
        classes = [[number] for number in range(len(names)) for _ in range(per_class)]
        return {"classes": multi_hot(classes, len(names))}
    if not places and run.config.data.name != "shapes":
        raise UserError(f"what should {run.folder} draw? Name a labels file: --labels-file test.json.")
    lists: dict[str, Tensor] = {}
    for place in places or ("test", "new_test"):
        name = Path(place).stem
        if name in lists:
            raise UserError(f"two of the labels files are called {name}. Rename one of them.")
        known = run.label_names == names  # unlike those of an imported run
        lists[name] = multi_hot(run.conditions(file=place) if known else read_conditions(place, names), len(names))
    return lists


# --- drawing, and keeping what is drawn -------------------------------------------------------------------------------


def settings(run: Run, **given: Any) -> dict[str, Any]:
    """What the pictures depend on, but for the seed and the labels: for `Run.sample`, and to be kept in config.json.

    given: sampler, steps, guidance_scale and other options of a chain; None is the default. Raises UserError.
    """
    options = run.options(labels=torch.zeros(1, len(run.label_names)), **given)
    del options["labels"]
    return options | {"guidance_scale": run.labels.guidance(options.get("guidance_scale"))}


def describe_run(run: Run, options: dict[str, Any]) -> dict[str, Any]:
    """For config.json: which weights draw, and how."""
    digest = hashlib.sha256()
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    wide = mixed_precision(run.precision, next(run.model.parameters()).device) is nullcontext
    return {
        "run": str(run.folder.resolve()),
        "weights": digest.hexdigest(),
        "image_size": run.shape[1],
        "sampling": options | {"calls": len(run.timesteps(**options)), "precision": "fp32" if wide else "bf16"},
    }


def open_folder(out: str | Path | None, name: str, evaluator: Evaluator, drawn: dict[str, Any]) -> Path:
    """The folder of an evaluation: a new one, runs/evaluate-NAME-1, -2, ... unless `out` names it; or `out` as it is,
    where it is an evaluation of the same pictures by the same classifier. Raises UserError.

    drawn: what the pictures depend on, for config.json.
    """
    seen = {"place": evaluator.source, "sha256": evaluator.sha256, "image_size": evaluator.size}
    config = {"minidiff": __version__, "kind": KIND, **drawn, "classifier": seen}
    if out is None or not (Path(out) / checkpoint.CONFIG).exists():
        return checkpoint.create_run(out, f"{KIND}-{name}", config, pictures=PICTURES)
    there = checkpoint.read_config(out)
    if there["kind"] != KIND:
        raise UserError(f"{out} is a {there['kind']} run. Give another --out.")
    for what in ("weights", "data", "sampling"):
        if there.get(what) != drawn.get(what):
            mine, theirs = difference(drawn.get(what), there.get(what))
            raise UserError(f"{out} is an evaluation with other {what}: {theirs}, not {mine}. Give another --out.")
    other = there.get("classifier")
    if not isinstance(other, dict) or other.get("sha256") != evaluator.sha256:
        raise UserError(f"{out} is an evaluation by another classifier than {evaluator.source}. Give another --out.")
    return Path(out)


def difference(mine: Any, theirs: Any) -> tuple[str, str]:
    """Two settings in words, reduced to what differs in them."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return str(mine)[:20], str(theirs)[:20]
    keys = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    return tuple(", ".join(f"{key} {side.get(key)}" for key in keys) for side in (mine, theirs))  # type: ignore[return-value]


def samples_path(folder: Path, name: str, seed: int) -> Path:
    return folder / SAMPLES / f"{name}-{seed}.npz"


def drawn_seeds(folder: Path, name: str) -> list[int]:
    """The seeds whose samples of a list are there, ascending."""
    pattern = re.compile(re.escape(name) + r"-(0|[1-9]\d*)\.npz")
    found = [pattern.fullmatch(path.name) for path in (folder / SAMPLES).glob("*.npz")]
    return sorted(int(match[1]) for match in found if match)


def missing(folder: Path, lists: dict[str, Tensor], size: int, seeds: Iterable[int]) -> list[tuple[str, int]]:
    """What is not drawn yet: lists and seeds. Raises UserError where samples of other labels or another size, or
    damaged ones, lie there. Under torchrun the main process looks, for all."""

    def absent() -> list[tuple[str, int]]:
        there = {name: drawn_seeds(folder, name) for name in lists}
        for name in lists:
            for seed in there[name]:
                read_samples(samples_path(folder, name, seed), lists[name], size)
        return [(name, seed) for name in lists for seed in seeds if seed not in there[name]]

    return distributed.from_main(distributed.main_first(absent)) or []


def draw_samples(
    run: Run,
    path: Path,
    labels: Tensor,
    seed: int,
    *,
    batch_size: int = 64,
    on_step: Callable[[Step], None] | None = None,
    **options: Any,
) -> None:
    """Samples 0 .. M-1 of a seed, one for each row of labels [M,L], into a file. Under torchrun the processes share
    them, and the main one writes. on_step, options: see `Run.sample`."""
    drawn = run.sample(len(labels), labels=labels, seed=seed, batch_size=batch_size, on_step=on_step, **options)
    images = np.concatenate([to_uint8(batch) for batch in drawn])
    asked = labels.to(torch.uint8).numpy()

    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, images=images, labels=asked))

    distributed.main_first(write)


def read_samples(path: Path, labels: Tensor, size: int) -> Pixels:
    """The images of such a file, uint8 [M,size,size,3]. Raises UserError, also when they were drawn for other labels
    than labels [M,L]."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:  # np.load leaves a bad file open
            images, asked = stored["images"], stored["labels"]
        if (images.dtype, asked.dtype, images.shape) != (np.uint8, np.uint8, (len(asked), size, size, 3)):
            raise ValueError(f"images {images.dtype} {list(images.shape)}, where {size}x{size} in colour belong")
    except Exception as error:  # whatever bytes are there: zip and array fail on them in many ways
        raise UserError(f"{path} is damaged ({one_line(error)}). Remove it, and it is drawn anew.") from None
    if asked.shape != tuple(labels.shape) or (asked != labels.numpy()).any():
        raise UserError(f"{path} was drawn for other labels than the list has now. Give another --out.")
    return images


# --- looking ----------------------------------------------------------------------------------------------------------


def look(
    evaluator: Evaluator, folder: Path, name: str, labels: Tensor, size: int, names: Sequence[str]
) -> Looked:  # fmt: skip
    """What the classifier says of the samples of a list, of all seeds that are there. Raises UserError."""
    columns, seeds = evaluator.columns(names), drawn_seeds(folder, name)
    images = np.stack([read_samples(samples_path(folder, name, seed), labels, size) for seed in seeds])
    logits = torch.stack([evaluator.logits(of_seed)[:, columns] for of_seed in images])
    return Looked(name, labels, images, logits, seeds, list(names), evaluator.one_hot)


def look_at_data(
    evaluator: Evaluator, place: str, num: int | None = None, data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> Looked:  # fmt: skip
    """What the classifier says of real images, held against their own labels: what it is worth, and where it is blind.

    place: `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`; the test split, where there is one, when none is named. num: at
    most so many, spread evenly. image_size: by default the classifier's. Raises UserError.
    """
    name, split, corruption = read_place(place)
    which = split or ("test" if "test" in splits_of(name, data_dir) else "train")
    data = load_together(name, split=which, data_dir=data_dir, image_size=image_size or evaluator.size, **corruption)
    if not data.label_names:
        raise UserError(f"{name} has no labels to hold the classifier against.")
    columns = evaluator.columns(data.label_names)
    chosen = np.linspace(0, len(data) - 1, min(len(data), num or len(data))).astype(int)
    labels = torch.from_numpy(data.labels[chosen])
    if not labels.any():
        raise UserError(f"none of the {len(labels)} images of {name}:{which} has a label: nothing to score.")
    images = data.rgb(chosen)
    logits = evaluator.logits(images)[:, columns]
    called = "-".join(filter(None, (name, which, data.corruption)))
    return Looked(called, labels, images[None], logits[None], [0], data.label_names, evaluator.one_hot)


# --- the figures ------------------------------------------------------------------------------------------------------


def score(logits: Tensor, labels: Tensor) -> float:
    """The lab's: of all labels that were asked for, in all images, the share that is among the k highest outputs of
    their image. logits, labels [n,L].

    So an image with three labels counts thrice; in `classifier.accuracy` every image counts alike.
    """
    asked = labels.bool()
    return int((highest(logits, asked) & asked).sum()) / int(asked.sum())


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """The mean of shares over seeds; where there are two or more, with its standard error and Student's 95% interval,
    of which nothing lies outside of [0,1]."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean, "each": [*values]}
    se = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(student.ppf(0.975, len(values) - 1)) * se
    return {"value": mean, "se": se, "low": max(0.0, mean - reach), "high": min(1.0, mean + reach), "each": [*values]}


def summarise(looked: Looked) -> dict[str, Any]:
    """All figures of a list, for result.json. Without `exact` where the outputs compete: there it is the score."""
    of_seed = looked.logits
    count, size = of_seed.shape[:2]
    logits, labels = of_seed.flatten(0, 1), looked.labels.bool().repeat(count, 1)  # [S*M,L]
    among = highest(logits, labels)
    found: dict[str, Any] = {
        "conditions": size,
        "seeds": looked.seeds,
        "score": over_seeds([score(each, looked.labels) for each in of_seed]),
        "per_image": over_seeds([accuracy(each, looked.labels) for each in of_seed]),
    }
    if not looked.one_hot:
        found["exact"] = over_seeds([exact(each, looked.labels) for each in of_seed])
    found["by_count"] = {}
    for k in sorted(set(labels.sum(dim=1).tolist()) - {0}):
        rows = labels.sum(dim=1) == k
        of_k = {"images": int(rows.sum()), "score": score(logits[rows], labels[rows])}
        found["by_count"][str(k)] = of_k if looked.one_hot else of_k | {"exact": exact(logits[rows], labels[rows])}
    asked, right = labels.sum(dim=0), (among & labels).sum(dim=0)
    found["by_label"] = {
        name: {"asked": int(asked[k]), "score": int(right[k]) / int(asked[k])}
        for k, name in enumerate(looked.names) if asked[k]
    }  # fmt: skip
    yes = among if looked.one_hot else logits > 0
    return found | {"confusions": confusions(looked.names, labels, among, yes)}


def confusions(names: Sequence[str], labels: Tensor, among: Tensor, yes: Tensor) -> list[dict[str, Any]]:
    """What is taken for what, the most frequent first: a label that was asked for and missed, and the one that stood
    among the k highest in its place; None where that one is not seen either, as in an empty picture. Where an image has
    several of both each pair counts in part.

    labels, among, yes: bool [n,L]; yes: what is seen.
    """
    missed, instead = labels & ~among, among & ~labels  # equally many, in every image
    nothing = (instead & ~yes).sum(dim=1, keepdim=True)
    shares = torch.cat([instead & yes, nothing], dim=1) / instead.sum(dim=1, keepdim=True).clamp(min=1)
    times = missed.double().T @ shares.double()  # [L,L+1]
    pairs = sorted(times.nonzero().tolist(), key=lambda pair: -times[pair[0], pair[1]].item())
    seen = [*names, None]
    return [{"asked": names[a], "seen": seen[b], "times": round(times[a, b].item(), 3)} for a, b in pairs]


def write_result(folder: Path, found: dict[str, dict[str, Any]]) -> None:
    """result.json: the settings, and the figures of every list; those of lists looked at before stay."""
    config = checkpoint.read_config(folder, kind=KIND)
    try:
        before = json.loads((folder / RESULT).read_text())["lists"]
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    before = before if isinstance(before, dict) else {}
    about = {key: value for key, value in config.items() if key != "kind"}
    write_json(folder / RESULT, about | {"lists": before | found})


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """The figures of lists in words: a line for each, and one for what went wrong most often."""
    counts = sorted({k for of_list in found.values() for k in of_list["by_count"]}, key=int)
    counts = counts if len(counts) > 1 else []
    width = max(9, *map(len, found))
    lines = [f"{'list':{width}} images  {'score':29}exact   {'   '.join(f'of {k:2}' for k in counts)}".rstrip()]
    for name, of_list in found.items():
        score, images = of_list["score"], of_list["conditions"] * len(of_list["seeds"])
        interval = f"(95%: {score['low']:.3f} to {score['high']:.3f})" if "low" in score else ""
        exactly = f"{of_list['exact']['value']:.3f}" if "exact" in of_list else "    -"
        shares = [of_list["by_count"].get(k) for k in counts]
        each = "   ".join(f"{share['score']:.3f}" if share else "    -" for share in shares)
        lines.append(f"{name:{width}} {images:6}  {score['value']:.3f} {interval:22} {exactly}   {each}".rstrip())
    for name, of_list in found.items():
        worst = [
            f"{pair['asked']} as {pair['seen'] or 'nothing'} {pair['times']:g}" for pair in of_list["confusions"][:4]
        ]
        if worst:
            lines.append(f"taken     in {name}: {', '.join(worst)}")
    return lines
