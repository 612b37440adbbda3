"""minidiff: diffusion models in plain PyTorch, to read and to use.

The public names. They are imported when they are first used, so that `import minidiff` and `minidiff --help` do not
wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minidiff.classifier import ResNet18 as ResNet18
    from minidiff.conditional import guided as guided
    from minidiff.conditional import multi_hot as multi_hot
    from minidiff.corruptions import CORRUPTIONS as CORRUPTIONS
    from minidiff.corruptions import corrupt as corrupt
    from minidiff.data import DATASETS as DATASETS
    from minidiff.data import ImageData as ImageData
    from minidiff.data import load_data as load_data
    from minidiff.diffusion import diffusion_loss as diffusion_loss
    from minidiff.diffusion import q_posterior as q_posterior
    from minidiff.diffusion import q_sample as q_sample
    from minidiff.dip import EARLY_STOPS as EARLY_STOPS
    from minidiff.dip import FitConfig as FitConfig
    from minidiff.dip import FitStep as FitStep
    from minidiff.dip import Fitter as Fitter
    from minidiff.dip import MovingVariance as MovingVariance
    from minidiff.dip import WindowVariance as WindowVariance
    from minidiff.dip import fit as fit
    from minidiff.dip_nets import DIP_NETS as DIP_NETS
    from minidiff.errors import UserError as UserError
    from minidiff.evaluator import open_evaluator as open_evaluator
    from minidiff.features import FeatureNetwork as FeatureNetwork
    from minidiff.frechet import FeatureStatistics as FeatureStatistics
    from minidiff.frechet import frechet_distance as frechet_distance
    from minidiff.gan_run import GanRun as GanRun
    from minidiff.inception import Inception as Inception
    from minidiff.metrics import fid_infinity as fid_infinity
    from minidiff.metrics import inception_score as inception_score
    from minidiff.metrics import kid as kid
    from minidiff.metrics import precision_recall as precision_recall
    from minidiff.noise_level import noise_sigma as noise_sigma
    from minidiff.noise_level import start_from as start_from
    from minidiff.noise_level import timestep_for as timestep_for
    from minidiff.pipeline import Run as Run
    from minidiff.pipeline import load as load
    from minidiff.quality import psnr as psnr
    from minidiff.quality import ssim as ssim
    from minidiff.samplers import SAMPLERS as SAMPLERS
    from minidiff.samplers import Step as Step
    from minidiff.schedules import SCHEDULES as SCHEDULES
    from minidiff.schedules import Schedule as Schedule
    from minidiff.train import TrainConfig as TrainConfig
    from minidiff.train import Trainer as Trainer
    from minidiff.unet import UNet as UNet

PUBLIC = {
    "CORRUPTIONS": "corruptions",
    "DATASETS": "data",
    "DIP_NETS": "dip_nets",
    "EARLY_STOPS": "dip",
    "FeatureNetwork": "features",
    "FeatureStatistics": "frechet",
    "FitConfig": "dip",
    "FitStep": "dip",
    "Fitter": "dip",
    "GanRun": "gan_run",
    "ImageData": "data",
    "Inception": "inception",
    "MovingVariance": "dip",
    "ResNet18": "classifier",
    "Run": "pipeline",
    "SAMPLERS": "samplers",
    "SCHEDULES": "schedules",
    "Schedule": "schedules",
    "Step": "samplers",
    "TrainConfig": "train",
    "Trainer": "train",
    "UNet": "unet",
    "UserError": "errors",
    "WindowVariance": "dip",
    "corrupt": "corruptions",
    "diffusion_loss": "diffusion",
    "fid_infinity": "metrics",
    "fit": "dip",
    "frechet_distance": "frechet",
    "guided": "conditional",
    "inception_score": "metrics",
    "kid": "metrics",
    "load": "pipeline",
    "load_data": "data",
    "multi_hot": "conditional",
    "noise_sigma": "noise_level",
    "open_evaluator": "evaluator",
    "precision_recall": "metrics",
    "psnr": "quality",
    "q_posterior": "diffusion",
    "q_sample": "diffusion",
    "ssim": "quality",
    "start_from": "noise_level",
    "timestep_for": "noise_level",
}

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'minidiff' has no attribute '{name}'")
    return getattr(import_module(f"minidiff.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
