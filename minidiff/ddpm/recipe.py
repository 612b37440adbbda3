"""From a ddpm run's config.json to its parts: the network, the schedule, and the loss they are trained by.

Rests on unet, dit, schedules, diffusion and train. Ho et al. 2020 (DDPM); Ho & Salimans 2022 (labels left out).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from minidiff.ddpm.config import DdpmConfig, DiffusionConfig
from minidiff.ddpm.prior import InTraining
from minidiff.diffusion.continuous import Continuous, edm, exact, facing, flow, log_normal, logit_normal
from minidiff.diffusion.guidance import Conditional
from minidiff.diffusion.predictions import Model, check_prediction
from minidiff.diffusion.process import diffusion_loss, noise_in_file
from minidiff.diffusion.schedules import SCHEDULES, Process, Schedule
from minidiff.errors import UserError, lookup
from minidiff.networks.configs import DiTConfig, OwnNetwork, UNetConfig
from minidiff.networks.dit import DiT
from minidiff.networks.own import as_unet, build_own
from minidiff.networks.unet import UNet
from minidiff.rng import Draws
from minidiff.training.loop import Loss


def build_network(config: DdpmConfig) -> nn.Module:
    """Build the network of a config, with its first weights.

    Raises UserError for a network of one's own that the user has not named, see `build_own`.
    """
    network = config.network
    if isinstance(network, OwnNetwork):
        model = build_own(network)
    elif network.in_channels == config.data.channels:
        model = build_plain(network)
    else:
        model = build_seeing(network, config.data.channels)
    model.prediction = config.diffusion.prediction  # type: ignore[assignment]
    return model


def build_plain(network: UNetConfig | DiTConfig) -> UNet | DiT:
    """Build a network of the package: the one whose arguments these are."""
    return UNet(**vars(network)) if isinstance(network, UNetConfig) else DiT(**vars(network))


def build_seeing(network: UNetConfig | DiTConfig, channels: int) -> UNet | DiT:
    """Build a network that sees more channels beside the first ones, and begins as the same network without them.

    The weights of what it sees beside x_t are 0 at first, as in a block's last layer: see `unet.initialise`. They are
    the columns that its first layer has more than that of the plain network.
    """
    plain, seeing = build_plain(replace(network, in_channels=channels)), build_plain(network)
    weights = plain.state_dict()
    for name, seen in seeing.state_dict().items():
        if seen.shape != weights[name].shape:
            first, weights[name] = weights[name], torch.zeros_like(seen)
            weights[name][:, : first.shape[1]] = first
    seeing.load_state_dict(weights)
    return seeing


def conditional(network: UNetConfig | DiTConfig | OwnNetwork, model: nn.Module) -> Conditional:
    """Return what takes (x_t, t, labels, keep): a network of the package itself, or one of one's own, so called."""
    return as_unet(model, network.label_dim) if isinstance(network, OwnNetwork) else model


def build_process(diffusion: DiffusionConfig) -> Process:
    """Build the noise schedule of any process. Raises UserError, see `build_schedule`."""
    if diffusion.process == "flow":
        return flow(diffusion.timesteps, diffusion.shift)
    return edm(diffusion.timesteps) if diffusion.process == "edm" else build_schedule(diffusion)


def build_schedule(diffusion: DiffusionConfig) -> Schedule:
    """Build a ddpm's noise schedule. Raises UserError for an unknown name, and for betas that it does not take."""
    name, ends = diffusion.schedule, {"beta_start": diffusion.beta_start, "beta_end": diffusion.beta_end}
    given = {end: beta for end, beta in ends.items() if beta is not None}
    if given and name not in ("linear", "scaled_linear"):
        raise UserError(f"`{next(iter(given))}` belongs to the linear schedule, not {name}. Leave it out.")
    if diffusion.betas is not None:
        schedule = Schedule.from_betas(diffusion.betas)
    else:
        schedule = lookup("schedule", name, SCHEDULES)(diffusion.timesteps, **given)
    return schedule.zero_terminal_snr() if diffusion.zero_terminal_snr else schedule


def ddpm_loss(
    schedule: Process,
    diffusion: DiffusionConfig,
    device: torch.device,
    dropout: float | None = None,
    call: Callable[[nn.Module], Conditional] = lambda model: model,
    prior: InTraining | None = None,
) -> Loss:
    """Make the closure that `Trainer` calls: what a DDPM minimises (Ho et al. 2020, algorithm 1).

    diffusion: what the network predicts, how the loss is weighed, and how timesteps and noise are drawn, see
    `draw_timesteps`. `trained_below`, `file_noise` and `grey`: see `DiffusionConfig`.
    dropout: the chance that the labels of an image are left out (Ho & Salimans 2022, algorithm 1); None for a network
    without labels. call: how a network is called with labels, see `conditional`.
    prior: what a prior changes, see `prior.in_training`.
    Raises UserError for eps under zero terminal SNR, from which no image can be predicted at T-1.
    """
    check_prediction(schedule, diffusion.prediction)
    schedule = schedule.to(device)

    def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t = draw_timesteps(schedule, diffusion, draws)
        noise = draws.randn(*x0.shape[1:])
        network: Model = facing(model, schedule)
        if dropout is not None:
            keep = draws.rand() >= dropout
            network = partial(facing(call(model), schedule), labels=labels, keep=keep)
        if diffusion.grey:
            grey = draws.rand(1, 1, 1) < diffusion.grey
            x0 = torch.where(grey, x0.mean(dim=1, keepdim=True), x0)
            noise = torch.where(grey, noise[:, :1], noise)
        if diffusion.file_noise:
            stored = draws.rand(1, 1, 1) < diffusion.file_noise
            noise = torch.where(stored, noise_in_file(schedule, x0, t, noise), noise)
        if prior is not None:
            x0, network = prior(x0, network, draws)
        return diffusion_loss(network, schedule, x0, t, noise, diffusion.prediction, diffusion.min_snr_gamma).mean()

    return loss


def draw_timesteps(schedule: Process, diffusion: DiffusionConfig, draws: Draws) -> Tensor:
    """Draw the timestep of each image: [N], whole numbers of a `Schedule`, and real ones of flow and edm.

    "uniform" draws each by itself. "stratified" draws one from each of N equal parts for a batch of N (Kingma et al.
    2021, appendix I.1): each timestep is as likely as before, but no batch has mostly small or mostly large ones.
    "logit-normal", of flow, is dense half way, and "log-normal", of edm, where the image takes shape.
    """
    how, below = diffusion.timestep_sampling, diffusion.trained_below or schedule.T
    if isinstance(schedule, Continuous) and how in ("logit-normal", "log-normal"):
        t = (logit_normal if how == "logit-normal" else log_normal)(schedule, draws.randn())
        return t.clamp(max=below - 1)
    t = draws.stratified(below) if how == "stratified" else draws.randint(below)  # 0 .. below - 1, both included
    if isinstance(schedule, Continuous):
        return exact(t) - exact(draws.rand())  # in (t - 1, t], so all of (-1, below - 1]
    return t
