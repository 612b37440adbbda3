"""From two measured sets to numbers: which metrics can be had, their values, and what each may be called.

check_wanted() refuses, before the long work, what cannot come out; compute_metrics() computes. What could make a number
mislead is the chapter `doubts`. Rests on extraction (images after the network) and on the metrics.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from minidiff.errors import UserError
from minidiff.metrics.config import METRICS as METRICS
from minidiff.metrics.estimates import Estimate, Progress
from minidiff.metrics.extraction import MeasuredSet, check_stored, needs_statistics
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.fid_infinity import fid_infinity
from minidiff.metrics.frechet import frechet_distance
from minidiff.metrics.inception_score import inception_score
from minidiff.metrics.kid import kid
from minidiff.metrics.precision_recall import precision_recall
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import StoredStatistics

TITLES = {"fid": "FID", "fid-inf": "FID∞", "kid": "KID", "is": "IS", "precision": "precision", "recall": "recall"}
OF_OTHERS = {"fid": "FD", "fid-inf": "FD∞", "kid": "KD"}  # their names in another network than Inception
NEEDED = {"fid": 2, "kid": 2, "is": 10, "prec-recall": 4, "fid-inf": 20}  # the fewest images of a side
KID_SUBSET = 1000  # images; KID is unbiased at any size, and other packages take this one

Values = dict[str, float | Estimate]  # by a name of TITLES


def title(name: str, network: FeatureNetwork) -> str:
    """Return what a number may be called. FID belongs to one network; in another network it is another distance."""
    if network.name != "inception":
        return f"{OF_OTHERS.get(name, TITLES[name])}({network.name})"
    notes = [f"{network.dims} features"] * (network.dims != 2048)
    notes += ["unpublished weights"] * (not network.published)
    return TITLES[name] + (f" ({', '.join(notes)})" if notes else "")


def check_wanted(
    wanted: Iterable[str], sides: Sequence[ImageSource | StoredStatistics], network: FeatureNetwork
) -> None:
    """Raise UserError for a metric that these sides or this network cannot give, before the long work."""
    for side in sides:
        stored = side if isinstance(side, StoredStatistics) else side.statistics
        if stored is not None and (stored is side or needs_statistics(wanted)):
            check_stored(stored, network)
    for metric in wanted:
        for label, side in zip("AB", sides, strict=False):
            needs_images = metric in ("kid", "prec-recall") or (label == "A" and metric != "fid")
            if isinstance(side, StoredStatistics) and needs_images:
                raise UserError(
                    f"{metric} needs the images of {label}, and {side.name} holds only their statistics. "
                    "Give the images."
                )
            asks_nothing = label == "B" and metric == "is"
            if isinstance(side, ImageSource) and side.statistics is not None:
                asks_nothing |= metric == "fid" or (label == "B" and metric == "fid-inf")
            if isinstance(side, ImageSource) and not asks_nothing:
                check_count(label, side.count, [metric])
        if metric == "is" and network.name == "inception" and network.dims != 2048:
            raise UserError(f"is needs the whole network, not its first {network.dims} features. Leave out `dims`.")


def check_count(label: str, count: int | None, wanted: Iterable[str]) -> None:
    """Raise UserError if a side has too few images for a metric. None: how many there are is not known."""
    for metric in wanted:
        if count is not None and count < NEEDED[metric]:
            few = f"{count} image{'s' * (count != 1)}"
            raise UserError(f"{label} has {few}, and {metric} needs at least {NEEDED[metric]}. Give more.")


def compute_metrics(
    a: MeasuredSet,
    b: MeasuredSet,
    network: FeatureNetwork,
    wanted: Iterable[str] = ("fid",),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Values:
    """Compute the wanted metrics, named as in TITLES. A is the samples, and B is the reference.

    on_progress: called during the long ones with the metric's title, the pieces that are done, and how many there are.
    """
    found: Values = {}

    def progress(title: str) -> Progress | None:
        return partial(on_progress, title) if on_progress else None

    if "fid" in wanted:
        found["fid"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if "fid-inf" in wanted:
        reference = (b.mean, b.covariance) if b.stored or not len(b.features) else b.features
        found["fid-inf"] = fid_infinity(a.features, reference, progress=progress(title("fid-inf", network)))
    if "kid" in wanted:
        size = min(KID_SUBSET, len(a.features), len(b.features))
        found["kid"] = kid(a.features, b.features, subset_size=size, progress=progress(title("kid", network)))
    if "is" in wanted:
        found["is"] = inception_score(a.logits)
    if "prec-recall" in wanted:
        both = precision_recall(a.features, b.features, progress=progress("precision and recall"))
        found["precision"], found["recall"] = both
    return found


# --- in words -----------------------------------------------------------------------------------------------------


def describe_network(network: FeatureNetwork) -> str:
    """Say in a line which feature network this is."""
    kind = "published weights" if network.published else "not the published network" * (network.name == "inception")
    origin = ", ".join(
        filter(None, [f"{network.source}", kind, str(network.knowledge or ""), f"SHA-256 {network.sha256[:8]}"])
    )
    return f"{network.name} ({origin}), {network.dims} features, mode {network.mode}"


def describe_set(measured: MeasuredSet) -> str:
    """Say in a line what a side is, how many images it has, and what was done to them."""
    count = f"{measured.count:,} images" if measured.count else "an unknown number of images"
    unused = f"; not used: {', '.join(measured.unused)}" * bool(measured.unused)
    arrays = f" ({measured.arrays}{unused})" * bool(measured.arrays)
    return f"{measured.name}{arrays}: " + "; ".join([f"{count} {measured.size}".strip(), *measured.changes])


def describe_value(value: float | Estimate) -> str:
    """Write a number; of an estimate also its error and its interval."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value.value:.6g} ± {value.se:.2g} (standard error) (95% interval {value.low:.6g} to {value.high:.6g})"
