"""From two sides to a number that can be trusted: compare, put into words, and say what is doubtful.

check_wanted() refuses what cannot come out before the work; compare() computes the metrics; doubts() lists what could
make them mislead. Rests on extraction (images that went through the network), frechet and metrics (the mathematics).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from minidiff._version import __version__
from minidiff.errors import UserError
from minidiff.images.faults import FAULT_CAUSES
from minidiff.metrics import precision_recall as metrics
from minidiff.metrics.extraction import Side, check_stored, identity
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.fid_infinity import fid_infinity
from minidiff.metrics.frechet import frechet_distance
from minidiff.metrics.inception_score import inception_score
from minidiff.metrics.kid import kid
from minidiff.metrics.sources import Source, Stored

METRICS = ("fid", "kid", "is", "prec-recall", "fid-inf")
TITLES = {"fid": "FID", "fid-inf": "FID∞", "kid": "KID", "is": "IS", "precision": "precision", "recall": "recall"}
OF_OTHERS = {"fid": "FD", "fid-inf": "FD∞", "kid": "KD"}  # what these are called in another network than Inception
UNBIASED = 10_000  # images from which on the bias of FID is usually small beside what one compares

# --- from statistics to numbers -----------------------------------------------------------------------------------


def title(name: str, network: FeatureNetwork) -> str:
    """What a number of `compare` may be called: FID is one network's; in another it is another distance."""
    if network.name != "inception":
        return f"{OF_OTHERS.get(name, TITLES[name])}({network.name})"
    notes = [f"{network.dims} features"] * (network.dims != 2048)
    notes += ["unpublished weights"] * (not network.published)
    return TITLES[name] + (f" ({', '.join(notes)})" if notes else "")


NEEDED = {"fid": 2, "kid": 2, "is": 10, "prec-recall": 4, "fid-inf": 20}  # images of a side


def check_wanted(wanted: Iterable[str], sides: Sequence[Source | Stored], network: FeatureNetwork) -> None:
    """Raises UserError for a metric that these sides or this network cannot give, before the long work."""
    for side in sides:
        if isinstance(side, Stored):
            check_stored(side, network)
    for metric in wanted:
        for label, side in zip("AB", sides, strict=False):
            of_both = metric in ("kid", "prec-recall") or (label == "A" and metric != "fid")
            if isinstance(side, Stored) and of_both:
                raise UserError(
                    f"{metric} needs the images of {label}, and {side.name} has their statistics only. Give the images."
                )
            of_one = label == "B" and metric == "is"
            if isinstance(side, Source) and side.count < NEEDED[metric] and not of_one:
                raise UserError(
                    f"{label} has {side.count} image{'s' * (side.count != 1)}, and {metric} needs {NEEDED[metric]} at "
                    "least. Give more."
                )
        if metric == "is" and network.name == "inception" and network.dims != 2048:
            raise UserError(f"is needs the whole network, not its first {network.dims} features. Leave out --dims.")


def compare(
    a: Side,
    b: Side,
    network: FeatureNetwork,
    wanted: Iterable[str] = ("fid",),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The wanted metrics, named as in TITLES: a number, or an `Estimate`. A is the samples, B the reference.

    on_progress: for those that take long, called with the metric, how many of its pieces are done, and of how many.
    """
    found: dict[str, Any] = {}

    def progress(metric: str) -> Callable[[int, int], None] | None:
        return partial(on_progress, metric) if on_progress else None

    if "fid" in wanted:
        found["fid"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if "fid-inf" in wanted:
        reference = b.features if len(b.features) else (b.mean, b.covariance)
        found["fid-inf"] = fid_infinity(a.features, reference, progress=progress(title("fid-inf", network)))
    if "kid" in wanted:
        size = min(1000, len(a.features), len(b.features))  # unbiased at any size; 1000 is what others take
        found["kid"] = kid(a.features, b.features, subset_size=size, progress=progress(title("kid", network)))
    if "is" in wanted:
        found["is"] = inception_score(a.logits)
    if "prec-recall" in wanted:
        both = metrics.precision_recall(a.features, b.features, progress=progress("precision and recall"))
        found["precision"], found["recall"] = both
    return found


def described(network: FeatureNetwork) -> str:
    """A feature network in words."""
    kind = "published weights" if network.published else "not the published network" * (network.name == "inception")
    told = ", ".join(filter(None, [f"{network.source}", kind, f"SHA-256 {network.sha256[:8]}"]))
    return f"{network.name} ({told}), {network.dims} features, mode {network.mode}"


def told(side: Side) -> str:
    """A side in words: what it is, how many images, what was changed."""
    count = f"{side.count:,} images" if side.count else "an unknown number of images"
    return f"{side.name}: " + "; ".join([f"{count} {side.size}".strip(), *side.changes])


def worded(value: Any) -> str:
    """A number, or an estimate with what is known of its error."""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = f"{value.value:.6g}"
    if value.se is not None:
        text += f" ± {value.se:.2g} (standard error)"
    if value.low is not None:
        text += f" (95% interval {value.low:.6g} to {value.high:.6g})"
    return text


def report(a: Side, b: Side, network: FeatureNetwork, found: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Everything that is needed to know later what was computed, for JSON."""
    sides = {
        label: {"name": side.name, "images": side.count, "size": side.size or None, "changes": side.changes}
        for label, side in (("a", a), ("b", b))
    }
    values = {
        name: {"title": title(name, network)}
        | ({"value": value} if isinstance(value, float) else {k: v for k, v in asdict(value).items() if v is not None})
        for name, value in found.items()
    }
    about = identity(network) | {"source": network.source, "published": network.published}
    return {"minidiff": __version__, "metrics": values, **sides, "features": about, "warnings": warnings}


# --- what could mislead -------------------------------------------------------------------------------------------


def doubts(a: Side, b: Side, network: FeatureNetwork, wanted: Iterable[str] = ("fid",)) -> list[str]:
    """Why the numbers may not mean what they seem to, a line each; empty when nothing is known against them."""
    found: list[str] = []
    name = title("fid", network)
    counted = [(label, side.count) for label, side in (("A", a), ("B", b)) if side.count is not None]
    if "fid" in wanted:
        fewest = max(network.dims + 1, 2)  # as many images leave the covariance of d features without an inverse
        singular = [f"{label} has {count:,} images" for label, count in counted if count < fewest]
        biased = [f"{label} has {count:,} images" for label, count in counted if fewest <= count < UNBIASED]
        if singular:
            found.append(
                f"{' and '.join(singular)} for {network.dims:,} features: the covariance is singular, and {name} says "
                f"more about that number than about the images. Use {UNBIASED:,}, or `--metrics kid`."
            )
        if biased:
            enough = all(count >= enough_for_a_line(a, b, network) for _, count in counted)
            others = "kid,fid-inf" if enough else "kid"
            found.append(
                f"{' and '.join(biased)}: below {UNBIASED:,} or so {name} is biased upwards. `--metrics {others}` "
                f"{'are' if enough else 'is'} not."
            )
        if a.count != b.count and len(counted) == 2:
            found.append(
                f"A has {a.count:,} images and B {b.count:,}. The bias of {name} depends on both: compare it with "
                "others of the same two numbers only."
            )
    if "fid-inf" in wanted:
        few = [f"{label} has {count:,}" for label, count in counted if count < enough_for_a_line(a, b, network)]
        if few:
            found.append(
                f"{title('fid-inf', network)} follows a line in 1/N that begins at some "
                f"{enough_for_a_line(a, b, network):,} images of {network.dims:,} features, and {' and '.join(few)}: "
                "it comes out too low, and its interval too narrow."
            )
        if not len(b.features):
            found.append(
                f"B is statistics: {title('fid-inf', network)} takes them for the truth, and removes the bias of the "
                "images of A alone."
            )
    found += faults_of("A", a) + faults_of("B", b)
    if {a.held, b.held} == {"[0, 1]", "[-1, 1]"}:
        found.append(
            f"A holds floats in {a.held} and B in {b.held}; each was read by its own range. If both came out of the "
            "same program, one of them is not what it seems: look at them."
        )
    if a.size and b.size and a.size != b.size:
        found.append(f"A is {a.size} and B {b.size}: what was enlarged more is smoother, and that alone is a distance.")
    if a.same is not None and a.same == b.same:
        found.append("A and B are the same images: what remains is rounding.")
    if network.name == "inception" and not network.published:
        found.append("these are not the published weights: no other paper's or package's FID compares.")
    return found


def enough_for_a_line(a: Side, b: Side, network: FeatureNetwork) -> int:
    """From how many images on the bias of FID is a line in 1/N: measured, see docs/metrics.md."""
    return (2 if a.count == b.count and len(b.features) else 4) * network.dims


def faults_of(label: str, side: Side) -> list[str]:
    """What is statistically wrong with the images of one side."""
    found = [
        f"{100 * count / side.looked_at:.0f}% of the {side.looked_at:,} images looked at in {label} are {what}. "
        f"Likely causes: {FAULT_CAUSES[what]}."
        for what, count in side.faulty.items()
        if side.looked_at and count >= 0.1 * side.looked_at
    ]
    if side.looked_at and side.high <= 1:
        found.append(f"no value in {label} is above 1 of 255: floats in [0, 1] were cut to bytes. Save them times 255.")
    elif side.looked_at and (side.low >= 120 or side.high <= 135):
        found.append(
            f"the values of {label} go from {side.low} to {side.high} of 255, half of the range: floats in [0, 1] and "
            "[-1, 1] have been taken for each other."
        )
    return found
