"""Feature networks: what a distance between two sets of images is measured in.

Rests on inception (the network of FID), images and downloads.
Heusel et al. 2017 (FID); Parmar et al. 2022 (how much the resizing alone changes it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from minidiff.images import Pixels


@dataclass(frozen=True)
class FeatureNetwork:
    """Images in, features out, and all that has to be said of how.

    compute: images, uint8 [n,H,W,3] or a list of uint8 [H,W,3] of any sizes, to features float32 [n,dims] and
    logits float32 [n,classes] (None where the network has none), both on the CPU.
    """

    name: str  # inception, or classifier
    mode: str  # the convention of resizing and normalising: a name of MODES, or `classifier`
    dims: int  # features of an image
    source: str  # the file or run folder of the weights
    sha256: str  # of the file of the weights
    published: bool  # whether these are the weights that published figures are measured with
    compute: Callable[[Pixels | Sequence[Pixels]], tuple[Tensor, Tensor | None]]
