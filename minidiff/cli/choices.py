"""What can be chosen by name on the command line: where each table is, and its names for the help.

A table stands beside its functions. Most of them need torch, and torch takes a second to import. Help must not wait for
that, so the names are repeated here, and a test compares them with the tables. A name that a user types is looked up in
the table itself, so an entry that a user registers works, too.
"""

from importlib import import_module

from minidiff.cli.types import Name
from minidiff.diffusion.levels import PLANS

TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sampler": ("diffusion.samplers:SAMPLERS", ("ddpm", "ddim", "dpm++", "dpm++sde", "heun", "unipc")),
    "schedule": ("diffusion.schedules:SCHEDULES", ("linear", "scaled_linear", "cosine")),
    "spacing": ("diffusion.spacings:SPACINGS", ("leading", "trailing", "linspace", "quadratic", "karras", "logsnr")),
    "variance": ("diffusion.samplers:VARIANCES", ("fixed_small", "fixed_large")),
    "shift": ("diffusion.shifted:SHIFTS", ("none", "prior", "data", "quadratic", "constant")),
    "prediction": ("diffusion.predictions:PREDICTIONS", ("eps", "x0", "v", "velocity", "F")),
    "init mode": ("ddpm.inits:INIT_MODES", ("noise", "scale", "as-is")),
    "data set": (
        "data.datasets:DATASETS",
        ("shapes", "mnist", "fashion-mnist", "cifar10", "cifar100", "celeba", "iclevr", "photos", "folder", "array"),
    ),
    "set of hazy pictures": (
        "data.hazy_sets:HAZY_SETS",
        ("haze", "hazy-photos", "hazy-landscapes", "hazy-shapes", "hazy-stereo", "hazy-pairs"),
    ),
    "corruption": (
        "data.corruptions:CORRUPTIONS",
        (
            "identity",
            "shot_noise",
            "impulse_noise",
            "glass_blur",
            "motion_blur",
            "shear",
            "scale",
            "rotate",
            "brightness",
            "translate",
            "stripe",
            "fog",
            "spatter",
            "dotted_line",
            "zigzag",
            "canny_edges",
        ),
    ),
    "net": ("networks.dip:DIP_NETS", ("conv2", "cnn", "resnet18", "hourglass")),
    "task": ("dip.fit:TASKS", ("denoise", "inpaint", "super-resolve")),
    "input": ("dip.fit:INPUTS", ("noise", "image")),
    "early stop": ("dip.early_stop:EARLY_STOPS", ("window", "moving")),
    "model": ("studies.models:MODELS", ("dcgan", "wgan", "wgan-gp", "ddpm")),
    "metric": ("metrics.config:METRICS", ("fid", "kid", "is", "prec-recall", "fid-inf")),
    "mode": ("metrics.resizing:MODES", ("pytorch-fid", "torch-fidelity", "clean")),
}


def choice(kind: str, *more: str) -> Name:
    """Make the parameter type that takes one name out of the table of this kind, or out of more tables."""
    kinds = (kind, *more)
    shown = [name for each in kinds for name in TABLES[each][1]]
    return Name(kind, lambda: [name for each in kinds for name in table(each)], shown)


def table(kind: str) -> list[str]:
    """List the names of a table as they are now. Imports the module that holds it."""
    module, name = TABLES[kind][0].split(":")
    return list(getattr(import_module(f"minidiff.{module}"), name))


GUIDANCE_SCALE = 2.0  # what help says of guidance.GUIDANCE_SCALE; the same test holds it to the truth


def own_steps() -> str:
    """Say how many calls each sampler makes by default."""
    return ", ".join(f"{name} {plan.steps or 'every timestep'}" for name, plan in PLANS.items())
