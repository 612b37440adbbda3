"""Find what looks wrong with the training of a GAN, from its samples and from its metrics.

Rests on diversity and images.faults. Goodfellow 2016 (NIPS tutorial on GANs), section 5.1; Arjovsky et al. 2017 (WGAN).
"""

from typing import Any

import numpy as np

from minidiff.gan.diversity import TOO_ALIKE
from minidiff.gan.presets import GAN_PRESETS
from minidiff.images.convert import Pixels
from minidiff.images.faults import problems

Records = list[dict[str, Any]]  # of metrics.jsonl

# A generator learns little from a discriminator that recognises this share of both real and made images, in the mean
# over the latest fifth of what was logged.
RECOGNISES_ALL = 0.995

# A critic has gone flat when its estimate is below this share of its largest. One that had died was at 0.005, one that
# still learned at 0.15.
FLAT = 0.05


def suspicions(kind: str, records: Records, step: int, images: Pixels) -> list[str]:
    """Say what looks wrong after a step, from its samples, uint8 [n,H,W,3], and from the metrics.

    kind: one of GANS. records: the metrics up to this step. Every training looks wrong at first: see `is_young`.
    """
    looked = [f"samples at step {step}: {problem}" for problem in problems(images)]
    return looked + collapse(records, kind) + unequal(records, kind)


def is_young(kind: str, preset: str | None, steps: int, step: int) -> bool:
    """Return whether a run goes on after this step and has done less than a tenth of its preset's steps.

    Every GAN begins with grey noise, all alike, and with a discriminator that recognises it.
    """
    known = GAN_PRESETS[kind].get(preset or "")
    return step < steps and known is not None and step < known.training.steps / 10


def collapse(records: Records, kind: str) -> list[str]:
    """Warn when the samples that were measured last are too alike. kind: one of GANS."""
    latest = next((record for record in reversed(records) if record.get("diversity") is not None), None)
    if latest is None or latest["diversity"] >= TOO_ALIKE:
        return []
    return [
        f"the samples at step {latest['step']} are too alike: their diversity is {latest['diversity']:.2f}, and 1 for "
        "the data. If it does not rise, the generator has collapsed: start again with another `seed`"
        + ("." if kind == "wgan-gp" else ", or try wgan-gp.")
    ]


def unequal(records: Records, kind: str) -> list[str]:
    """Warn when one of the two networks can learn nothing more from the other. kind: of any run."""
    return one_sided(records) + flat(records, kind)


def one_sided(records: Records) -> list[str]:
    """Warn when a discriminator has recognised nearly all images for the latest fifth of what was logged.

    This is for a dcgan only: a critic's scores have no accuracy.
    """
    both = [(r.get("accuracy_real"), r.get("accuracy_fake")) for r in records]
    recognised = [min(real, fake) for real, fake in both if real is not None and fake is not None]
    latest = recognised[-max(5, len(recognised) // 5) :]
    if len(latest) < 5 or np.mean(latest) < RECOGNISES_ALL:
        return []
    return [
        f"the discriminator has recognised {100 * np.mean(latest):.1f}% of images for a long time, so the generator "
        "gets little signal. Lower the learning rate `lr`, add data, or try wgan-gp."
    ]


def flat(records: Records, kind: str) -> list[str]:
    """Warn when the estimate of a wgan's critic has been nearly 0 for the latest fifth of what was logged.

    It must also be smaller than its own spread. Clipped weights bound the critic's slope only from above, so its output
    can stop varying. The penalty of wgan-gp keeps the slope near 1.
    """
    if kind != "wgan":
        return []
    estimates = np.array([record["wasserstein"] for record in records if record.get("wasserstein") is not None])
    latest = estimates[-max(5, len(estimates) // 5) :]
    if len(latest) < 5 or abs(latest.mean()) > latest.std():
        return []
    share = np.abs(latest).mean() / max(np.abs(estimates).max(), 1e-30)
    if share >= FLAT:
        return []
    return [
        f"the critic's estimate has fallen to {100 * share:.1f}% of its largest value, less than its own spread. "
        "Unless the "
        "samples are as good as the data, the critic's output hardly varies, and the generator gets no direction. "
        "Lower the learning rate `lr`, raise `clip`, or try wgan-gp."
    ]
