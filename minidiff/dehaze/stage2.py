"""Stage 2: a DDPM that sees J and T beside x_t, and goes down its chain to a clear picture.

Rests on stage 1 and on diffusion. The network has learnt what stage 1 gets wrong: it draws from the pictures that may
lie behind the haze, given what stage 1 makes of it. The chain begins in pure noise, or in the middle, from a noisy J.

Yu et al. 2023 (DehazeDDPM); Saharia et al. 2022 (SR3), from whom they have the network that sees more than x_t.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from minidiff.data.packed_pairs import unpack
from minidiff.dehaze.config import Refinement
from minidiff.dehaze.stage1 import guess_large, working_size
from minidiff.diffusion.chain import Step
from minidiff.diffusion.noise_level import SMALLEST, noise_sigma, timestep_for
from minidiff.diffusion.predictions import check_prediction
from minidiff.diffusion.process import predict_x0, q_sample, target
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.shifted import Shifted
from minidiff.images.blind import STEP, block_step
from minidiff.networks.configs import GUNetConfig, UNetConfig
from minidiff.networks.gunet import Clearing, GUNet
from minidiff.networks.unet import UNet
from minidiff.rng import Draws, Noise, randn
from minidiff.training.loop import Loss

Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, J and T [N,7,H,W]; t [N]) -> prediction [N,3,H,W]


class TwoStages(nn.Module):
    """The networks of both stages. Stage 1 is frozen, and its weights are kept with stage 2's.

    So a run of stage 2 needs no other run, and can be given no other stage 1 than the one that it was trained behind.
    """

    def __init__(self, guess: GUNetConfig, refine: UNetConfig) -> None:
        super().__init__()
        self.first = GUNet(**vars(guess)).requires_grad_(False)
        self.second = UNet(**vars(refine))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict by stage 2: x [N,7,H,W], which is x_t, J and T; t int64 [N] -> [N,3,H,W]."""
        prediction: Tensor = self.second(x, t)
        return prediction

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights that the optimizer Muon may move: see `UNet.hidden_weights`."""
        return self.second.hidden_weights()


def condition_of(guess: Clearing) -> Tensor:
    """Put J and T into the channels that stage 2 sees beside x_t: float [N,4,H,W] in [-1,1]."""
    return torch.cat([guess.clear.clamp(-1, 1), 2 * guess.transmission - 1], dim=1)


def with_condition(network: Network, condition: Tensor, schedule: Schedule, shift: str) -> Network:
    """Make of a network that takes x_t, J and T, one that takes x_t alone, as the loss and the samplers want it.

    condition: J and T, see `condition_of`. shift: how J shifts the process, one of SHIFTS. As the network sees J, too,
    it could make one process of the other: a shift can only make learning easier.
    """

    def call(x: Tensor, t: Tensor) -> Tensor:
        return network(torch.cat([x, condition], dim=1), t)

    return Shifted(schedule, condition[:, :-1], shift).unshifted(call)


# --- to learn ---------------------------------------------------------------------------------------------------------


def refine_loss(first: nn.Module, schedule: Schedule, settings: Refinement, device: torch.device) -> Loss:
    """Make the closure that `Trainer` calls: what a DDPM minimises, given what stage 1 guesses.

    first: stage 1, which looks at the whole picture, made small as it will be in use (`guess_large`): so J has the
    faults that stage 2 is to mend. Then crops of the picture, of J and of T go to stage 2.
    With `fourier`, errors in the magnitudes of the Fourier transform of the predicted x0 count, too: they see texture
    wherever it lies (Yu et al. 2023, section 3.3).
    """
    diffusion, kind = settings.diffusion, settings.diffusion.prediction
    check_prediction(schedule, kind)
    schedule, below = schedule.to(device), diffusion.trained_below or schedule.T

    def loss(model: nn.Module, packed: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        pair = unpack(packed)
        with torch.no_grad():
            guess = guess_large(first, pair.hazy, working_size(settings.guess_size))
        whole = torch.cat([pair.clear, condition_of(guess)], dim=1)
        x0, condition = random_crops(whole, settings.crop, settings.crops, draws).split((3, 4), dim=1)
        drawn = draws.stratified if diffusion.timestep_sampling == "stratified" else draws.randint
        t = torch.cat([drawn(below) for _ in range(settings.crops)])
        noise = torch.cat([draws.randn(*x0.shape[1:]) for _ in range(settings.crops)])
        x_t = q_sample(schedule, x0, t, noise)
        network = with_condition(model, condition, schedule, settings.shift)
        output = network(x_t, t).to(x0.dtype)
        error = output - target(schedule, x0, t, noise, kind)
        total: Tensor = error.abs().mean() if settings.error == "l1" else error.square().mean()
        if settings.fourier:
            found = predict_x0(schedule, x_t, t, output, kind).clamp(-1, 1)  # as the samplers do
            total = total + settings.fourier * (magnitudes(found) - magnitudes(x0)).abs().mean()
        return total

    return loss


def random_crops(whole: Tensor, side: int, count: int, draws: Draws) -> Tensor:
    """Cut `count` random squares out of each picture, [N,C,H,W] -> [count N,C,side,side]: first one of each."""
    pictures = torch.arange(len(whole), device=whole.device)[:, None, None]
    along = torch.arange(side, device=whole.device)
    cut = []
    for _ in range(count):
        rows, columns = (draws.randint(length - side + 1)[:, None] + along for length in whole.shape[2:])  # [N,side]
        cut.append(whole[pictures, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2))
    return torch.cat(cut).contiguous(memory_format=torch.channels_last)


def magnitudes(x: Tensor) -> Tensor:
    """Return the magnitudes of the Fourier transform of each channel, so scaled that noise keeps its deviation."""
    spectrum: Tensor = torch.fft.rfft2(x, norm="ortho")
    return spectrum.abs()


# --- where to begin ---------------------------------------------------------------------------------------------------

BLOCKS = 12 / 127.5  # of [-1,1]: the noise that the blocks of a JPEG count as


def start_for(schedule: Schedule, hazy: Tensor, clear: Tensor) -> int:
    """Find the timestep that is as noisy as J, where a chain begins unless the user says otherwise.

    hazy, clear: I and J of one picture, float [1,3,H,W] in [-1,1]. The noise is measured in J, as it has grown where
    the haze was taken off. The blocks of a JPEG are no white noise and are not measured; so where I has them, J counts
    as if it had BLOCKS. A chain that begins higher takes texture for noise; one that begins lower leaves noise behind.
    """
    if min(hazy.shape[2:]) < SMALLEST:
        return 0
    found = noise_sigma(clear)
    return timestep_for(schedule, max(found, BLOCKS) if block_step(hazy) > STEP else found)


# --- to draw ----------------------------------------------------------------------------------------------------------


def walk(
    network: Network,
    schedule: Schedule,
    guess: Clearing,
    *,
    prediction: str,
    shift: str = "none",
    steps: int,
    start_t: int | None = None,
    sampler: str = "ddim",
    noise: Noise = None,
) -> Iterator[Step]:
    """Go down the chain to a clear picture; yields after every call of the network. The last x is the picture.

    guess: of stage 1, of the size of the picture. shift: as in the training. start_t: the timestep at which the noisy J
    is, and with which the chain begins; None: it begins in pure noise. noise: None, a generator, or one each.
    """
    condition = condition_of(guess)
    x = randn(guess.clear.shape, noise, like=guess.clear)
    if start_t is not None:
        t = torch.full((len(x),), start_t, device=x.device)
        x = q_sample(schedule, guess.clear.clamp(-1, 1), t, x)

    seen = with_condition(network, condition, schedule, shift)
    yield from SAMPLERS[sampler](
        seen, schedule, x, steps=steps, start_t=start_t, prediction=prediction, generator=noise
    )
