"""How near a picture is to the true one, as a run folder holds it.

Rests on records alone, so that a run is described without torch; what measures is in quality.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from minidiff.records import record

if TYPE_CHECKING:
    from minidiff.images.convert import Pixels


@record
class Quality:
    """How near a picture is to the clean one."""

    psnr: float | None = None  # in dB; None for two equal pictures
    ssim: float | None = None  # None for pictures smaller than its window


def nearness(pixels: "Pixels", reference: "Pixels") -> dict[str, float]:
    """Measure PSNR, unless the two are equal, and SSIM, unless a side is smaller than its window."""
    import numpy as np

    from minidiff.images.quality import psnr, ssim

    found = {}
    if not np.array_equal(pixels, reference):
        found["psnr"] = psnr(pixels, reference)
    if min(pixels.shape[:2]) >= 11:
        found["ssim"] = ssim(pixels, reference)
    return found


def qualities(shown: "Mapping[str, Pixels]", reference: "Pixels | None") -> dict[str, Quality] | None:
    """Measure how near each of some pictures is to the clean one, by name. None if there is no clean one."""
    if reference is None:
        return None
    return {name: Quality(**nearness(pixels, reference)) for name, pixels in shown.items()}
