"""minidiff: diffusion models in plain PyTorch, to read and to use.

These are the public names. Each is imported when it is first used, so `import minidiff` and the command line's help do
not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minidiff._version import __version__ as __version__

if TYPE_CHECKING:
    from minidiff.data.conditions import multi_hot as multi_hot
    from minidiff.data.corruptions import CORRUPTIONS as CORRUPTIONS
    from minidiff.data.corruptions import corrupt as corrupt
    from minidiff.data.datasets import DATASETS as DATASETS
    from minidiff.data.datasets import ImageData as ImageData
    from minidiff.data.datasets import load_data as load_data
    from minidiff.ddpm.run import Run as Run
    from minidiff.dehaze.pictures import clear_haze as clear_haze
    from minidiff.dehaze.run import load_dehaze as load_dehaze
    from minidiff.demo.serve import serve_demo as serve_demo
    from minidiff.diffusion.chain import Step as Step
    from minidiff.diffusion.guidance import guided as guided
    from minidiff.diffusion.noise_level import noise_sigma as noise_sigma
    from minidiff.diffusion.noise_level import start_from as start_from
    from minidiff.diffusion.noise_level import timestep_for as timestep_for
    from minidiff.diffusion.process import diffusion_loss as diffusion_loss
    from minidiff.diffusion.process import q_posterior as q_posterior
    from minidiff.diffusion.process import q_sample as q_sample
    from minidiff.diffusion.samplers import SAMPLERS as SAMPLERS
    from minidiff.diffusion.schedules import SCHEDULES as SCHEDULES
    from minidiff.diffusion.schedules import Schedule as Schedule
    from minidiff.dip.config import FitConfig as FitConfig
    from minidiff.dip.early_stop import EARLY_STOPS as EARLY_STOPS
    from minidiff.dip.early_stop import MovingVariance as MovingVariance
    from minidiff.dip.early_stop import WindowVariance as WindowVariance
    from minidiff.dip.fit import FitStep as FitStep
    from minidiff.dip.fit import Fitter as Fitter
    from minidiff.dip.fit import fit as fit
    from minidiff.dip.fit_picture import fit_folder as fit_folder
    from minidiff.dip.fit_picture import fit_picture as fit_picture
    from minidiff.dip.fit_picture import resume_fit as resume_fit
    from minidiff.errors import UserError as UserError
    from minidiff.evaluation.evaluate import evaluate as evaluate
    from minidiff.evaluation.evaluator import open_evaluator as open_evaluator
    from minidiff.gan.run import GanRun as GanRun
    from minidiff.health.doctor import doctor as doctor
    from minidiff.images.quality import psnr as psnr
    from minidiff.images.quality import ssim as ssim
    from minidiff.images.show import show as show
    from minidiff.metrics.config import MeasureRequest as MeasureRequest
    from minidiff.metrics.features import FeatureNetwork as FeatureNetwork
    from minidiff.metrics.fid_infinity import fid_infinity as fid_infinity
    from minidiff.metrics.frechet import FeatureStatistics as FeatureStatistics
    from minidiff.metrics.frechet import frechet_distance as frechet_distance
    from minidiff.metrics.inception_score import inception_score as inception_score
    from minidiff.metrics.kid import kid as kid
    from minidiff.metrics.precision_recall import precision_recall as precision_recall
    from minidiff.networks.dip import DIP_NETS as DIP_NETS
    from minidiff.networks.dit import DiT as DiT
    from minidiff.networks.inception import Inception as Inception
    from minidiff.networks.own import NETWORKS as NETWORKS
    from minidiff.networks.own import use_network as use_network
    from minidiff.networks.resnet import ResNet18 as ResNet18
    from minidiff.networks.unet import UNet as UNet
    from minidiff.pretrained.distance import Distance as Distance
    from minidiff.pretrained.distance import distance as distance
    from minidiff.pretrained.exchange import export_run as export_run
    from minidiff.pretrained.exchange import import_run as import_run
    from minidiff.pretrained.likelihood import likelihood as likelihood
    from minidiff.pretrained.load import load as load
    from minidiff.pretrained.sampling import sample as sample
    from minidiff.pretrained.save import save_run as save_run
    from minidiff.pretrained.train import plan_training as plan_training
    from minidiff.pretrained.train import resume as resume
    from minidiff.pretrained.train import train as train
    from minidiff.reports.models import list_models as list_models
    from minidiff.reports.report import report as report
    from minidiff.restoration.finish import restore as restore
    from minidiff.restoration.with_dip import restore_with_dip as restore_with_dip
    from minidiff.restoration.with_dip import resume_restore as resume_restore
    from minidiff.runtime.details import set_verbosity as set_verbosity
    from minidiff.studies.compare import compare as compare
    from minidiff.studies.compare_priors import compare_priors as compare_priors
    from minidiff.studies.config import StudyRequest as StudyRequest
    from minidiff.training.config import TrainConfig as TrainConfig
    from minidiff.training.loop import Trainer as Trainer

PUBLIC = {
    "CORRUPTIONS": "data.corruptions",
    "DATASETS": "data.datasets",
    "DIP_NETS": "networks.dip",
    "DiT": "networks.dit",
    "Distance": "pretrained.distance",
    "EARLY_STOPS": "dip.early_stop",
    "FeatureNetwork": "metrics.features",
    "FeatureStatistics": "metrics.frechet",
    "FitConfig": "dip.config",
    "FitStep": "dip.fit",
    "Fitter": "dip.fit",
    "GanRun": "gan.run",
    "ImageData": "data.datasets",
    "Inception": "networks.inception",
    "MeasureRequest": "metrics.config",
    "MovingVariance": "dip.early_stop",
    "NETWORKS": "networks.own",
    "ResNet18": "networks.resnet",
    "Run": "ddpm.run",
    "SAMPLERS": "diffusion.samplers",
    "SCHEDULES": "diffusion.schedules",
    "Schedule": "diffusion.schedules",
    "Step": "diffusion.chain",
    "StudyRequest": "studies.config",
    "TrainConfig": "training.config",
    "Trainer": "training.loop",
    "UNet": "networks.unet",
    "UserError": "errors",
    "WindowVariance": "dip.early_stop",
    "clear_haze": "dehaze.pictures",
    "compare": "studies.compare",
    "compare_priors": "studies.compare_priors",
    "corrupt": "data.corruptions",
    "diffusion_loss": "diffusion.process",
    "distance": "pretrained.distance",
    "doctor": "health.doctor",
    "evaluate": "evaluation.evaluate",
    "export_run": "pretrained.exchange",
    "fid_infinity": "metrics.fid_infinity",
    "fit": "dip.fit",
    "fit_folder": "dip.fit_picture",
    "fit_picture": "dip.fit_picture",
    "frechet_distance": "metrics.frechet",
    "guided": "diffusion.guidance",
    "import_run": "pretrained.exchange",
    "inception_score": "metrics.inception_score",
    "kid": "metrics.kid",
    "likelihood": "pretrained.likelihood",
    "list_models": "reports.models",
    "load": "pretrained.load",
    "load_data": "data.datasets",
    "load_dehaze": "dehaze.run",
    "multi_hot": "data.conditions",
    "noise_sigma": "diffusion.noise_level",
    "open_evaluator": "evaluation.evaluator",
    "precision_recall": "metrics.precision_recall",
    "psnr": "images.quality",
    "plan_training": "pretrained.train",
    "q_posterior": "diffusion.process",
    "q_sample": "diffusion.process",
    "report": "reports.report",
    "restore": "restoration.finish",
    "restore_with_dip": "restoration.with_dip",
    "resume_fit": "dip.fit_picture",
    "resume_restore": "restoration.with_dip",
    "save_run": "pretrained.save",
    "sample": "pretrained.sampling",
    "serve_demo": "demo.serve",
    "resume": "pretrained.train",
    "set_verbosity": "runtime.details",
    "show": "images.show",
    "ssim": "images.quality",
    "start_from": "diffusion.noise_level",
    "train": "pretrained.train",
    "use_network": "networks.own",
    "timestep_for": "diffusion.noise_level",
}

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'minidiff' has no attribute '{name}'")
    return getattr(import_module(f"minidiff.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
