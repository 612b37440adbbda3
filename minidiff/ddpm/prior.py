"""A prior in a DDPM: what its network makes of a noisy image takes part in the training, or in the drawing.

Rests on priors (a network that takes noise from the images of a data set) and diffusion.shifted. docs/priors.md has the
mathematics of the three uses:

target    the DDPM learns the outputs of the prior, in place of the images
start     the DDPM learns the images; its chains start at t < T, from outputs of the prior with the noise of t
residual  the network sees an output of the prior beside x_t, and the process is shifted by it

Zhang et al. 2023 (ShiftDDPMs); Lee et al. 2022 (PriorGrad); Pandey et al. 2022 (DiffuseVAE).
"""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from minidiff.ddpm.config import DdpmRequest, PriorUse, UsedPrior
from minidiff.diffusion.guidance import Conditional
from minidiff.diffusion.predictions import Model
from minidiff.diffusion.schedules import Process, Schedule
from minidiff.diffusion.shifted import SHIFTS, Shifted
from minidiff.errors import UserError, listed, lookup
from minidiff.files import write_json
from minidiff.networks.weights import fingerprint
from minidiff.priors.loss import noisy
from minidiff.priors.run import PriorRun, load_prior
from minidiff.records import to_json
from minidiff.rng import Draws
from minidiff.runs.folder import CONFIG, save_model
from minidiff.training.config import given
from minidiff.training.job import start_of

FOLDER = "prior"  # inside a run folder: a copy of its prior, itself a run folder
# The images of a batch, the network and random numbers -> the images that it learns, and what it is called as.
InTraining = Callable[[Tensor, Model, Draws], tuple[Tensor, Model]]


def seeing(network: Conditional | Model, u: Tensor, schedule: Process, shift: str) -> Model:
    """Make of a network that takes x_t and u one that takes x_t alone, as losses and samplers want it.

    network: (float [N,2C,H,W], t) -> prediction [N,C,H,W]. u: outputs of the prior, float [N,C,H,W] in [-1,1].
    shift: how u shifts the process, one of SHIFTS. The network is shown x_t + k_t u and, beside it, u.
    """
    assert isinstance(schedule, Schedule), "the config of such a run was checked"

    def call(x: Tensor, t: Tensor) -> Tensor:
        return network(torch.cat([x, u.to(x.dtype)], dim=1), t)

    return Shifted(schedule, u, shift).unshifted(call)


def in_training(prior: PriorRun, used: UsedPrior, schedule: Process) -> InTraining | None:
    """Return what a use of a prior changes in a step of the training; None for `start`, which changes nothing.

    The prior sees each image with fresh noise. These are the last random numbers of a step, so timesteps and noise are
    those of a training without a prior.
    """
    if used.use == "start":
        return None

    def change(x0: Tensor, network: Model, draws: Draws) -> tuple[Tensor, Model]:
        u = prior.clean(noisy(x0, prior.config.noise, draws.randn(*x0.shape[1:])))
        return (u, network) if used.use == "target" else (x0, seeing(network, u, schedule, used.shift))

    return change


# --- the prior of a run -----------------------------------------------------------------------------------------------


def keep_prior(folder: Path, prior: PriorRun) -> None:
    """Put a copy of a prior into a new run folder, so that the run needs no other."""
    (folder / FOLDER).mkdir()
    save_model(folder / FOLDER, prior.model.state_dict())
    write_json(folder / FOLDER / CONFIG, to_json(prior.config))


def open_prior(used: UsedPrior, folder: Path | None, device: str | torch.device = "cpu") -> PriorRun:
    """Open the prior of a run: its copy in the run folder, or, before there is one, the prior's own folder.

    Raises UserError if it is not there, or is another one than the run began with.
    """
    place = str(folder / FOLDER) if folder is not None and (folder / FOLDER).exists() else used.run.place
    prior = load_prior(place, device=device)
    if fingerprint(prior.model.state_dict()) != used.run.weights:
        raise UserError(
            f"{place} has other weights than the prior that this run began with. Bring them back, or start a new run."
        )
    return prior


# --- to plan a training with one --------------------------------------------------------------------------------------

NOT_BESIDE = ("trained_below", "file_noise", "grey")  # of a run that finishes pictures, and draws none


def plan_prior(request: DdpmRequest, told: bool, before: str | None) -> PriorRun | None:
    """Open the prior that a request names; None if it names none.

    told: whether the network is told labels. before: what a prior is used for in the run to begin with.

    Raises UserError for a use that does not go with the rest of the request.
    """
    use = request.prior_use
    if request.prior is None and use is not None:
        raise UserError("`prior_use` needs `prior`. `minidiff train dip-prior` makes one: name its folder.")
    if request.prior is not None and use is None:
        raise UserError(f"`prior` needs `prior_use`, what it is for: {listed(get_args(PriorUse), 'or')}.")
    if request.prior_shift is not None and use != "residual":
        raise UserError("`prior_shift` belongs to the `prior_use` residual. Leave it out.")
    if request.init is not None and "residual" in (use, before) and use != before:
        sees = "sees" if before == "residual" else "does not see"
        raise UserError(f"the network of {request.init} {sees} a prior beside x_t. Begin with a run of the same use.")
    if request.prior is None:
        return None
    lookup("shift", request.prior_shift or UsedPrior.shift, SHIFTS)
    for name in given(request, NOT_BESIDE):
        raise UserError(f"`{name}` is for a run that finishes pictures. With a `prior` it draws them: leave one out.")
    if use != "target" and told:
        raise UserError(
            "labels and a `prior` exclude each other: its output shows an image of some label, and another one may be "
            "asked for. Leave out `conditional`, or take the `prior_use` target."
        )
    if use == "residual" and request.network is not None:
        raise UserError("the `prior_use` residual needs the U-Net of a preset, so `network` is one too many.")
    return load_prior(request.prior)


def used_prior(request: DdpmRequest, prior: PriorRun) -> UsedPrior:
    """Return what config.json says of the prior of a planned training, see `plan_prior`."""
    assert request.prior is not None and request.prior_use is not None
    run = start_of(request.prior, prior.model.state_dict())
    return UsedPrior(run, request.prior_use, request.prior_shift or UsedPrior.shift)


def check_side(prior: PriorRun, size: int) -> None:
    """Raise UserError if a prior was trained on images of another size."""
    if prior.shape[1] != size:
        side = prior.shape[1]
        raise UserError(f"{prior.folder} knows images of {side}x{side}, and these are {size}x{size}. "
                        f"Take an `image_size` of {side}, or another prior.")  # fmt: skip


def check_channels(prior: PriorRun, channels: int) -> None:
    """Raise UserError if a prior was trained on grey images and these are in colour, or the other way round."""
    if prior.shape[0] != channels:
        kinds = {1: "in grey", 3: "in colour"}
        raise UserError(f"{prior.folder} knows images {kinds[prior.shape[0]]}, and these are {kinds[channels]}. "
                        "Train a prior on them.")  # fmt: skip
