"""Chapter 3, the denoiser: a network as the samplers see it, which guesses x0 and eps from x_t.

Rests on predictions. What the network predicts and how its guess is clipped is settled here, once for all samplers.
Saharia et al. 2022 (Imagen: dynamic thresholding).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.diffusion.levels import Level
from minidiff.diffusion.predictions import PREDICTIONS, Model, Prediction
from minidiff.errors import UserError

Denoise = Callable[[Tensor, Level], tuple[Tensor, Tensor]]  # denoise(x_t [N,C,H,W], level) -> x0 and eps, [N,C,H,W]


def denoiser(model: Model, kind: Prediction, clip: bool | float = True, keep_eps: bool = False) -> Denoise:
    """Turn a network into a function that calls it once and returns its x0 and eps.

    kind: what the network predicts. clip: see `clipped`; False leaves x0 as it is.
    If clipping changes x0, eps is computed again, so that the two still make x_t. keep_eps keeps the network's
    own eps: diffusers' default (`use_clipped_model_output=False`).
    Both results are new tensors, even if the model returns the same memory every time. UserError for a wrong clip.
    """
    if not isinstance(clip, bool) and not 0 < clip < 1:
        raise UserError(f"clip {clip} is not a quantile. Take one between 0 and 1, such as 0.995, or True, or False.")

    def denoise(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        t = torch.full((len(x),), level.t, device=x.device)
        output = model(x, t).to(x.dtype, copy=True)
        x0 = kind.x0(x, output, level.signal, level.noise)
        if clip is False:
            return x0, kind.eps(x, output, level.signal, level.noise)
        x0 = clipped(x0, clip)
        if keep_eps:
            return x0, kind.eps(x, output, level.signal, level.noise)
        return x0, PREDICTIONS["x0"].eps(x, x0, level.signal, level.noise)

    return denoise


def clipped(x0: Tensor, clip: bool | float) -> Tensor:
    """Hold x0 [N,C,H,W] in [-1,1].

    clip: True cuts off what is beyond. A number in (0, 1) is a quantile, such as 0.995: if this quantile s of an
    image's absolute values is above 1, the image is cut at s and divided by s. Fewer pixels then end up at the very
    edge (dynamic thresholding: Saharia et al. 2022, section 2.3).
    """
    if clip is True:
        return x0.clamp(-1, 1)
    sizes = x0.abs().flatten(1).double()  # torch knows no quantile in bfloat16
    s = torch.stack([size.quantile(clip) for size in sizes]).clamp(min=1)  # one by one: quantile takes 16M numbers
    s = s.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    return x0.clamp(-s, s) / s
