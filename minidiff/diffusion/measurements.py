"""Chapter 6, measurements: what a damaged picture still tells of the clean one, y = A x0 + sigma_y n.

Rests on errors. Missing pixels, a small picture and a blurred one are each a linear map A of the clean picture x0.
Wang et al. 2023 (DDNM: these A); Wiener 1949 (deblurring); Hestenes & Stiefel 1952 (conjugate gradients).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import UserError

Operator = Callable[[Tensor], Tensor]

PRECISE = 1e-5  # conjugate gradients end when the residual is this share of the right side; float32 rounds at 1e-7
PATIENCE = 200  # or after so many steps


@dataclass(frozen=True)
class Measurement:
    """A linear map A of images [N,C,H,W], with its transpose and the equation that a sampler has to solve."""

    forward: Operator  # A: images to what is measured of them
    transpose: Operator  # A^T: back to images; <A x, y> = <x, A^T y>
    solve: Callable[[Tensor, float, float], Tensor]  # (w, r, sigma_y) -> (r^2 A A^T + sigma_y^2 I)^-1 w


def orthogonal(forward: Operator, transpose: Operator, gain: float = 1.0) -> Measurement:
    """Make a measurement with A A^T = gain * I. Then the equation is a division by one number."""
    return Measurement(forward, transpose, lambda w, r, sigma_y: w / (gain * r**2 + sigma_y**2))


def identity() -> Measurement:
    """Measure every pixel: denoising."""
    return orthogonal(lambda x: x, lambda y: y)


def mask(known: Tensor) -> Measurement:
    """Measure the pixels where `known` is 1: inpainting. What stands in y where it is 0 plays no part.

    known: 1 or 0, of a shape that broadcasts to [N,C,H,W]. y has the shape of the image, and A y is y on its range.
    """
    return orthogonal(lambda x: known.to(x) * x, lambda y: known.to(y) * y)


def pooling(k: int) -> Measurement:
    """Measure the mean of every k x k pixels: upscaling. [N,C,H,W] becomes [N,C,H/k,W/k].

    A pixel of y is a mean of k^2 pixels, so A A^T = I / k^2. Raises UserError if H or W does not divide by k.
    """

    def forward(x: Tensor) -> Tensor:
        if x.shape[-2] % k or x.shape[-1] % k:
            raise UserError(f"an image of {list(x.shape[-2:])} does not divide into blocks of {k}x{k}. Crop it first.")
        return F.avg_pool2d(x, k)

    return orthogonal(
        forward, lambda y: y.repeat_interleave(k, dim=-2).repeat_interleave(k, dim=-1) / k**2, gain=1 / k**2
    )


def blur(kernel: Tensor, height: int, width: int, known: Tensor | None = None) -> Measurement:
    """Measure a blurred image: deblurring. A is the convolution with `kernel`, around the edges (circular).

    kernel: [h,w], both odd, with its origin in the middle: how a bright point looks. [N,C,height,width] keeps its
    shape. A circular blur is a product in Fourier space, so the equation is solved there, frequency by frequency; this
    is Wiener's filter.

    known: 1 where the blurred picture is known, 0 elsewhere, [height,width]. No photograph is circular, and its border
    pixels have taken light from outside the frame. So let x0 be larger than the photograph: by half the kernel on
    every side, with `known` 0 on this rim (`rim`). Nothing is then assumed about what is outside; the network has to
    guess it, and the caller cuts it off. The equation has no closed form then: conjugate gradients solve it, led by
    the circular solution, in some ten steps.

    Raises UserError for an even kernel, one larger than the image, and, when solving, for sigma_y = 0: a blur takes
    some frequencies away altogether.
    """
    rows, columns = kernel.shape
    if rows % 2 == 0 or columns % 2 == 0:
        raise UserError(f"a kernel of {rows}x{columns} has no middle pixel. Take odd sizes.")
    if rows > height or columns > width:
        raise UserError(f"a kernel of {rows}x{columns} is larger than the image of {height}x{width}. Take a smaller.")
    spread = torch.zeros(height, width, dtype=torch.float64)
    spread[:rows, :columns] = kernel.double().cpu()
    transfer = torch.fft.rfft2(spread.roll((-(rows // 2), -(columns // 2)), dims=(0, 1)))  # H: A at every frequency
    power = transfer.abs().square()

    def filtered(x: Tensor, by: Tensor) -> Tensor:
        by = by.to(x.device, torch.complex128 if x.dtype == torch.float64 else torch.complex64)
        result: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * by, s=(height, width))
        return result

    def seen(x: Tensor) -> Tensor:
        return x if known is None else x * known.to(x)

    def solve(w: Tensor, r: float, sigma_y: float) -> Tensor:
        if sigma_y <= 0:
            raise UserError(
                "deblurring needs a `sigma_y` above 0. A file of 8 bits has 0.0023 from its rounding alone."
            )
        wiener = 1 / (r**2 * power + sigma_y**2)
        if known is None:
            return filtered(w, wiener)
        return conjugate_gradients(
            lambda v: r**2 * seen(filtered(seen(v), power)) + sigma_y**2 * v,
            seen(w),
            nearly=lambda v: seen(filtered(v, wiener)),
        )

    return Measurement(lambda x: seen(filtered(x, transfer)), lambda y: filtered(seen(y), transfer.conj()), solve)


def rim(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Give `known` [height,width] for `blur`: 1 but on a rim of `rows` and `columns`, half the kernel's sizes."""
    known = torch.zeros(height, width)
    known[rows : height - rows, columns : width - columns] = 1
    return known


def gaussian_kernel(sigma: float) -> Tensor:
    """Make the kernel of a Gaussian blur, float64 [h,h], with the sum 1. It ends at 3 sigma."""
    offsets = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def first_guess(measurement: Measurement, y: Tensor, sigma_y: float, step: float = 0.1) -> Tensor:
    """Find the smoothest image that explains y: where a reverse chain may start, once noise is added.

    It is the x that makes ||A x - y||^2 / sigma_y^2 + ||neighbours' differences of x||^2 / step^2 least (Tikhonov): the
    mean of the posterior if neighbours differed by independent Gaussians of deviation `step`, whose spectrum falls with
    frequency^2 as that of photographs. It fills holes as a soap film does, interpolates small pictures, sharpens
    blurred ones.

    y: as A gives it. sigma_y below 0.01 counts as 0.01. Returns an image [N,C,H,W], whose error is best measured on
    images that were damaged in the same way.
    """
    weight = (max(sigma_y, 0.01) / step) ** 2
    right = measurement.transpose(y)
    return conjugate_gradients(
        lambda x: measurement.transpose(measurement.forward(x)) + weight * roughness(x), right, nearly=lambda x: x
    )


def roughness(x: Tensor) -> Tensor:
    """Apply D^T D, where D takes the differences of neighbours in an image [N,C,H,W]: minus the discrete Laplacian."""
    result = torch.zeros_like(x)
    for dim in (-1, -2):
        size = x.shape[dim]
        difference = x.narrow(dim, 1, size - 1) - x.narrow(dim, 0, size - 1)
        result.narrow(dim, 1, size - 1).add_(difference)
        result.narrow(dim, 0, size - 1).sub_(difference)
    return result


def conjugate_gradients(apply: Operator, right: Tensor, nearly: Operator) -> Tensor:
    """Solve apply(x) = right for every image of a batch [N,C,H,W]; `apply` is symmetric and positive.

    nearly: an inverse of `apply` that is about right (a preconditioner), symmetric and positive as well.
    Hestenes & Stiefel 1952; an image's answer does not depend on its batch beyond PRECISE.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))

    tiny = torch.finfo(right.dtype).tiny
    x = torch.zeros_like(right)
    residual = right
    direction = z = nearly(residual)
    slope = dot(residual, z)
    enough = PRECISE**2 * dot(right, right)
    for _ in range(PATIENCE):
        if bool((dot(residual, residual) <= enough).all()):
            break
        image = apply(direction)
        length = slope / dot(direction, image).clamp(min=tiny)
        x = x + length * direction
        residual = residual - length * image
        z = nearly(residual)
        slope, before = dot(residual, z), slope
        direction = z + slope / before.clamp(min=tiny) * direction
    return x
