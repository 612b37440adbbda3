"""Chapter 6, JPEG files: rounding is noise. What a file still tells of a picture, as a measurement.

Rests on measurements. A JPEG file holds no pixels. The picture is turned into one channel of light, Y, and two of
colour, which are often made coarser; each is cut into blocks of 8x8, and a block into frequencies (its DCT). Every
number is divided by a step, large for high frequencies, and rounded. All but the rounding is linear, and the same for
every unit of blocks, so A is one small matrix. The rounding is noise, uniform over a step q: its variance is q^2 / 12.

ITU-T T.81, 1992 (JPEG); Kawar et al. 2022 (JPEG artifact correction using DDRM); Ahmed et al. 1974 (DCT).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion.measurements import Measurement

BLOCK = 8  # pixels: the side of a block
HALF = 127.5  # grey values: what 1 is, of pixels in [-1,1]
FEW = 5  # numbers other than 0: with fewer a frequency says nothing of the spectrum
FLAT, STEEP = -0.5, -2.0  # powers of the frequency: the largest that is believed, and one where nothing can be fitted
YCBCR = (  # JFIF 1.02: light, blueness and redness of red, green and blue
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


@dataclass(frozen=True)
class Coding:
    """A channel of a JPEG file. What is written: round(DCT of a block / steps).

    steps: float64 [8,8], of pixels in 0 to 255. A step of 0 stands for a channel that is known exactly.
    down, across: its blocks in a unit. In the file's units of several channels a channel with fewer blocks is coarser:
    each of its pixels is the mean of some of the picture's.
    """

    steps: Tensor
    down: int = 1
    across: int = 1


@dataclass(frozen=True)
class Rounded:
    """A JPEG file as a measurement, in which every number is divided by the deviation of its own noise.

    So y = A x0 + n with n of variance 1, which is what `Evidence` asks for, with a sigma_y of 1.
    """

    measurement: Measurement
    y: Tensor  # [1,units,numbers of a unit]
    reach: Tensor  # [numbers of a unit]: how far from y the picture's number can be
    error: float  # deviation of the rounding in pixels of [-1,1], as `rounding_noise` has it
    height: int  # of the images: whole units
    width: int

    def to(self, device: torch.device | str) -> "Rounded":
        """Return the same with its tensors on a device."""
        return replace(self, y=self.y.to(device), reach=self.reach.to(device))

    def fitted(self, x: Tensor) -> Tensor:
        """Change images [N,3,H,W] as little as needed to be pictures that this file may have been made of.

        Their numbers, where they lie beyond what rounds to the file's, are brought to the edge.
        """
        A = self.measurement
        z = A.forward(x)
        nearest = torch.maximum(torch.minimum(z, self.y + self.reach), self.y - self.reach)
        return x + A.transpose(A.solve(nearest - z, 1.0, 0.0))


def rounded(numbers: Sequence[Tensor], codings: Sequence[Coding], ycbcr: bool = True) -> Rounded:
    """Describe a JPEG file of three channels by what is written: int [rows,columns,8,8] for each channel.

    ycbcr: whether the channels are Y, Cb and Cr; else they are red, green and blue. The images are of whole units:
    8 rows high times the largest `down` and the units of a column, and as wide.
    """
    matrix, steps = unit_matrix(codings, ycbcr), unit_steps(codings)
    down, across = numbers[0].shape[0] // codings[0].down, numbers[0].shape[1] // codings[0].across
    y = torch.cat([
        in_units(written * coding.steps + level_shift(channel, ycbcr), coding, down, across)
        for channel, (written, coding) in enumerate(zip(numbers, codings, strict=True))
    ], dim=1) / HALF  # fmt: skip
    turn = torch.linalg.inv(colours(ycbcr)).square().mean(0)  # from variances of channels to that of red, green, blue
    lost = torch.stack([rounding_noise(*each).mean() for each in zip(numbers, codings, strict=True)])
    error = (turn @ lost).sqrt().item() / HALF
    # Pixels were rounded to whole numbers, too, before or after the colours were turned: variance 1 / 12 more.
    deviation = ((steps**2 + 1) / 12).sqrt() / HALF
    reach = (steps + 1) / 2 / HALF
    tall, wide = (BLOCK * max(sizes) for sizes in zip(*((each.down, each.across) for each in codings), strict=True))
    measurement = by_units(matrix / deviation[:, None], down, across, tall, wide)
    y, reach = (y / deviation).float()[None], (reach / deviation).float()
    return Rounded(measurement, y, reach, error, down * tall, across * wide)


def by_units(matrix: Tensor, down: int, across: int, tall: int, wide: int) -> Measurement:
    """Measure every unit of tall x wide pixels by the same matrix, float64 [numbers,3 tall wide].

    Images [N,3,down tall,across wide] become [N,units,numbers]. A A^T is small: its eigenvectors solve the equation.
    """
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    values = values.clamp(min=values[-1] * 1e-12)

    def forward(x: Tensor) -> Tensor:
        units = x.reshape(len(x), 3, down, tall, across, wide).permute(0, 2, 4, 1, 3, 5)
        return units.reshape(len(x), down * across, -1) @ matrix.T.to(x)

    def transpose(y: Tensor) -> Tensor:
        units = (y @ matrix.to(y)).view(len(y), down, across, 3, tall, wide)
        x: Tensor = units.permute(0, 3, 1, 4, 2, 5).reshape(len(y), 3, down * tall, across * wide)
        return x

    def solve(w: Tensor, r: float, sigma_y: float) -> Tensor:
        Q = vectors.to(w)
        solved: Tensor = w @ Q / (r**2 * values.to(w) + sigma_y**2) @ Q.T
        return solved

    return Measurement(forward, transpose, solve)


def unit_matrix(codings: Sequence[Coding], ycbcr: bool = True) -> Tensor:
    """Write what happens to a unit, up to the rounding, as a matrix, float64 [numbers,3 tall wide].

    Its rows: channel after channel, block after block, frequency after frequency. It has the columns of the pixels of
    red, then green, then blue, and is found by what it makes of each of them alone.
    """
    most_down, most_across = max(each.down for each in codings), max(each.across for each in codings)
    tall, wide = BLOCK * most_down, BLOCK * most_across
    pixels = torch.eye(3 * tall * wide, dtype=torch.float64).view(-1, 3, tall, wide)
    channels = torch.einsum("cd,ndhw->nchw", colours(ycbcr), pixels)
    C, parts = cosines(), []
    for channel, coding in enumerate(codings):
        coarse = F.avg_pool2d(channels[:, channel : channel + 1],
                              (most_down // coding.down, most_across // coding.across))  # fmt: skip
        blocks = coarse.view(-1, coding.down, BLOCK, coding.across, BLOCK).transpose(2, 3)
        parts.append((C @ blocks @ C.T).flatten(1))
    return torch.cat(parts, dim=1).T


def colours(ycbcr: bool) -> Tensor:
    """Give the matrix from red, green and blue to the channels of the file, float64 [3,3]."""
    return torch.tensor(YCBCR, dtype=torch.float64) if ycbcr else torch.eye(3, dtype=torch.float64)


def cosines() -> Tensor:
    """Make the matrix of the orthonormal DCT of 8 numbers, float64 [8,8] (Ahmed et al. 1974; T.81, A.3.3)."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    C = math.sqrt(2 / BLOCK) * torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * BLOCK))
    C[0] /= math.sqrt(2)
    return C


def unit_steps(codings: Sequence[Coding]) -> Tensor:
    """Give the step of every number of a unit, float64 [numbers]."""
    return torch.cat([each.steps.flatten().repeat(each.down * each.across) for each in codings])


def level_shift(channel: int, ycbcr: bool) -> Tensor:
    """Give what makes the numbers those of pixels around 127.5, which is 0 here: JPEG takes 128 from every pixel.

    float64 [8,8]; 0 for the channels of colour, whose middle is 128 in the file.
    """
    shift = torch.zeros(BLOCK, BLOCK, dtype=torch.float64)
    if channel == 0 or not ycbcr:
        shift[0, 0] = BLOCK * (128 - HALF)
    return shift


def in_units(blocks: Tensor, coding: Coding, down: int, across: int) -> Tensor:
    """Sort the blocks of a channel, [rows,columns,8,8], by units: [units,blocks of a unit x 64]."""
    return blocks.view(down, coding.down, across, coding.across, -1).transpose(1, 2).reshape(down * across, -1)


def rounding_noise(numbers: Tensor, coding: Coding) -> Tensor:
    """Estimate the variance of what rounding took from each frequency of a channel, float64 [8,8], of 0 to 255.

    numbers: int [rows,columns,8,8]. It is q^2 / 12 where the numbers are spread over many steps, and much less where a
    step is so large that all of them became 0. There the picture's numbers are taken for Laplacian (Lam & Goodman 2000)
    of a scale b that falls with a power of the frequency, as spectra of photographs do. The power is fitted to the
    frequencies that are not all 0, by the share of numbers that are: P(|number| > q/2) = exp(-q / 2b).
    """
    q, count = coding.steps.flatten().clamp(min=1e-9), numbers.shape[0] * numbers.shape[1]
    k = torch.arange(BLOCK, dtype=torch.float64)
    frequency = torch.hypot(k[:, None], k).flatten().clamp(min=0.5)
    kept = (numbers != 0).double().mean((0, 1)).flatten()
    b = -q / 2 / kept.clamp(0.5 / count, 1 - 0.5 / count).log()
    told = kept * count >= FEW
    told[0] = False  # the DC is no Laplacian
    if told.sum() >= 3:
        slope, height = line_through(frequency[told].log(), b[told].log(), weight=kept[told])
    else:  # flat: no more than the lowest frequency could have without being seen
        slope, height = torch.tensor(STEEP, dtype=torch.float64), b[1].log()
    b = height.exp() * frequency ** slope.clamp(max=FLAT)
    kept, half = torch.exp(-q / 2 / b), q / 2
    inside = (2 * b**2 - kept * (half**2 + 2 * half * b + 2 * b**2)) / (1 - kept)  # variance of what became 0
    variance = torch.minimum((1 - kept) * inside + kept * q**2 / 12, q**2 / 12)
    variance[0] = q[0] ** 2 / 12
    return variance.view(BLOCK, BLOCK)


def line_through(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit y = slope x + height by least squares, with weights for the squares."""
    weight = weight / weight.sum()
    x_mean, y_mean = (weight * x).sum(), (weight * y).sum()
    slope = (weight * (x - x_mean) * (y - y_mean)).sum() / (weight * (x - x_mean) ** 2).sum().clamp(min=1e-9)
    return slope, y_mean - slope * x_mean
