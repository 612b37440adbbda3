"""The figures of an evaluation: the score of the 2023 course lab, and others that show what it misses.

Rests on classifier.loss (which outputs are the highest) and looking.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from minidiff.classifier.loss import accuracy, exact, highest
from minidiff.evaluation.looking import Looked
from minidiff.evaluation.result import Confusion, Estimate, ListFigures


def score(logits: Tensor, labels: Tensor) -> float:
    """Compute the lab's score of logits [n,L] for labels [n,L], zeros and ones.

    If k labels were asked for in an image, the k highest outputs are taken. The score is the share of all labels that
    were asked for, in all images, that are among these outputs. An image with three labels counts three times; in
    `classifier.loss.accuracy` every image counts once.
    """
    asked = labels.bool()
    return int((highest(logits, asked) & asked).sum()) / int(asked.sum())


def over_seeds(values: Sequence[float]) -> Estimate:
    """Average shares over seeds; with two or more, add the standard error and Student's 95% interval, cut to [0,1]."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean, "each": [*values]}
    se = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(student.ppf(0.975, len(values) - 1)) * se
    return {"value": mean, "se": se, "low": max(0.0, mean - reach), "high": min(1.0, mean + reach), "each": [*values]}


def summarise(looked: Looked) -> ListFigures:
    """Compute all figures of a list. If the outputs compete there is no `exact`, because it would equal the score."""
    of_seed = looked.logits
    count, size = of_seed.shape[:2]
    logits, labels = of_seed.flatten(0, 1), looked.labels.bool().repeat(count, 1)  # [S*M,L]
    among = highest(logits, labels)
    found: ListFigures = {
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
    found["confusions"] = confusions(looked.names, labels, among, yes)
    return found


def confusions(names: Sequence[str], labels: Tensor, among: Tensor, yes: Tensor) -> list[Confusion]:
    """Count what is taken for what, the most frequent first.

    A pair is a label that was asked for and missed, and the label among the k highest in its place. The second is None
    if its output says no, as in an empty picture. If an image has several of both, each pair counts in part.

    labels: what was asked; among: the k highest; yes: what is seen. All are bool [n,L].
    """
    missed, instead = labels & ~among, among & ~labels  # equally many, in every image
    nothing = (instead & ~yes).sum(dim=1, keepdim=True)
    shares = torch.cat([instead & yes, nothing], dim=1) / instead.sum(dim=1, keepdim=True).clamp(min=1)
    times = missed.double().T @ shares.double()  # [L,L+1]
    pairs = sorted(times.nonzero().tolist(), key=lambda pair: -times[pair[0], pair[1]].item())
    seen = [*names, None]
    return [{"asked": names[a], "seen": seen[b], "times": round(times[a, b].item(), 3)} for a, b in pairs]


def table(found: Mapping[str, ListFigures]) -> list[str]:
    """Write the figures of lists as a table, with a line for the mistakes that were made most often."""
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
