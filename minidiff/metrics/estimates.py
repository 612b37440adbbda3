"""A number measured on finitely many images, with its error: what several metrics return.

Rests on nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

NORMAL_95 = 1.959964  # standard deviations about the mean that hold 95% of a normal distribution

Progress = Callable[[int, int], None]  # called with the pieces of the work that are done, and with how many there are


@dataclass(frozen=True)
class Estimate:
    """A number measured on a finite set of images, and how far infinitely many images could be from it."""

    value: float
    se: float  # standard error: the spread of `value` over repetitions with fresh images
    low: float  # of the 95% interval
    high: float
    std: float | None = None  # the spread that torch-fidelity prints beside the value; it is not the error of the value
