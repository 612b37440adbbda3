"""What could make a distance mislead: too few images, wrong value ranges, noise in place of pictures, and more.

Rests on compare (what the numbers are called) and extraction (what was seen of the images). docs/metrics.md has the
measurements behind the limits.
"""

from collections.abc import Iterable

from minidiff.images.faults import FAULT_CAUSES
from minidiff.metrics.compare import title
from minidiff.metrics.extraction import MeasuredSet
from minidiff.metrics.features import FeatureNetwork

UNBIASED = 10_000  # images from which on the bias of FID is usually small beside the differences of interest


def doubts(a: MeasuredSet, b: MeasuredSet, network: FeatureNetwork, wanted: Iterable[str] = ("fid",)) -> list[str]:
    """List why the numbers may not mean what they seem to, a line for each reason."""
    found: list[str] = []
    name = title("fid", network)
    counted = [(label, side.count) for label, side in (("A", a), ("B", b)) if side.count is not None]
    if "fid" in wanted:
        fewest = max(network.dims + 1, 2)  # with d images or fewer, the covariance of d features has no inverse
        singular = [f"{label} has {count:,} images" for label, count in counted if count < fewest]
        biased = [f"{label} has {count:,}" for label, count in counted if fewest <= count < UNBIASED]
        if singular:
            found.append(
                f"{' and '.join(singular)} for {network.dims:,} features: the covariance is singular, and {name} says "
                f"more about that number than about the images. Use {UNBIASED:,} images, or {title('kid', network)}."
            )
        if biased:
            enough = all(count >= enough_for_a_line(a, b, network) for _, count in counted)
            others = [title(metric, network) for metric in (["kid", "fid-inf"] if enough else ["kid"])]
            found.append(
                f"{' and '.join(biased)}: below about {UNBIASED:,} images {name} is biased upwards. "
                f"{' and '.join(others)} {'are' if enough else 'is'} not."
            )
        if a.count != b.count and len(counted) == 2:
            found.append(
                f"A has {a.count:,} images and B has {b.count:,}. The bias of {name} depends on both numbers, so "
                "compare it only with distances between as many."
            )
    if "fid-inf" in wanted:
        few = [f"{label} has {count:,}" for label, count in counted if count < enough_for_a_line(a, b, network)]
        if few:
            found.append(
                f"{title('fid-inf', network)} follows a line in 1/N that begins at about "
                f"{enough_for_a_line(a, b, network):,} images of {network.dims:,} features, and {' and '.join(few)}: "
                "it comes out too low, and its interval too narrow."
            )
        if b.stored or not len(b.features):
            found.append(
                f"B has statistics out of a file. {title('fid-inf', network)} takes them as exact, and removes only "
                "the bias "
                "that comes from the images of A."
            )
    found += faults_of("A", a) + faults_of("B", b)
    for label, side in (("A", a), ("B", b)):
        if network.knowledge is not None and side.data not in (None, network.knowledge.data):
            found.append(
                f"{label} is of {side.data}, and {network.source} was trained on {network.knowledge.data}: its "
                "features need not tell such images apart. Train a classifier on them."
            )
    if {a.held, b.held} == {"[0, 1]", "[-1, 1]"}:
        found.append(
            f"A holds floats in {a.held} and B in {b.held}, and each was read by its own range. If the same program "
            "wrote both, one of them is not what it seems. Look at them."
        )
    if a.size and b.size and a.size != b.size:
        found.append(
            f"A is {a.size} and B is {b.size}. Images that are enlarged more are smoother, and this alone makes a "
            "distance."
        )
    if a.same is not None and a.same == b.same:
        found.append("A and B are the same images, so the distance is only rounding.")
    if network.name == "inception" and not network.published:
        found.append("these are not the published weights, so no number of a paper or of another package compares.")
    return found


def enough_for_a_line(a: MeasuredSet, b: MeasuredSet, network: FeatureNetwork) -> int:
    """Return the number of images from which on the bias of FID is a line in 1/N, as measured in docs/metrics.md."""
    paired = a.count == b.count and len(b.features) and not b.stored
    return (2 if paired else 4) * network.dims


def faults_of(label: str, side: MeasuredSet) -> list[str]:
    """List what is statistically wrong with the images of one side."""
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
            f"the values of {label} go from {side.low} to {side.high} of 255, which is half of the range. "
            "Probably floats in "
            "[0, 1] and floats in [-1, 1] were mixed up."
        )
    return found
