"""Who races in minutes.py: each package's own network, recipe and sampler, as it publishes them for small images.

A learner takes training steps, and draws images with what it has learned so far. Everything that is a package's own
comes out of that package: network, noise, loss, weights of the loss, average of the weights, sampler. Two things are
the same for all, and help those who lack them: images in memory, and `minidiff.runtime.cpu.tune`.

Nobody mirrors images, unless the data set allows it. All four recipes of others do; but a mirrored shoe is no shoe of
FashionMNIST, nor is light from the right one of `shapes`, so they would only lose by it.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import minidiff
from minidiff import load_data
from minidiff.data.datasets import ImageData
from minidiff.ddpm.config import DdpmRequest, DiffusionConfig
from minidiff.ddpm.job import plan
from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.networks.configs import UNetConfig
from minidiff.records import to_json
from minidiff.runs.folder import save_model
from minidiff.training.config import TrainConfig

AT_ONCE = 100  # images to a batch when others sample
# Calls of DDIM, as many as our sampler makes. After five minutes 50 were no better: FD 124.4 instead of 124.8
# (diffusers, 300 images), 130.6 instead of 114.4 (hf-course, 200 images).
FEW_CALLS = 20
SLICE = 128  # images that go through a network of others at once; a larger batch is cut, which changes no gradient


@dataclass(frozen=True)
class Setting:
    """What a contender is to learn, and how fast."""

    data: str
    size: int  # pixels a side
    seed: int
    rate: float | None  # of learning; None: it is part of the preset
    batch: int  # images a step
    steps: int  # where a schedule of the rate ends; others can go on for ever


class Learner(Protocol):
    """A contender in training."""

    sampler: str  # in words
    calls: int  # of the network, for a batch of images

    def step(self) -> None: ...

    def draw(self, num: int, seed: int, calls: int | None = None) -> Pixels:
        """Draw images, uint8 [N,H,W,3], with the weights to sample from. calls: another number than `calls`."""
        ...

    @property
    def network(self) -> nn.Module: ...


@dataclass(frozen=True)
class Contender:
    """A package, and a recipe that it publishes.

    rate, batch: the published ones; None: they belong to one of our presets, which is not tuned. other_batch: a batch
    to try where the published one leaves hardly any steps in a few minutes of one thread.
    """

    name: str
    title: str
    colour: str
    recipe: str  # in words
    make: Callable[[Setting], Learner] = field(repr=False)
    rate: float | None = None
    batch: int = 32
    other_batch: int | None = None
    scheduled: bool = False  # whether the rate follows a schedule, so that each length needs a run of its own
    needs: tuple[tuple[str, str], ...] = ()  # modules, and the packages that they are in

    @property
    def ours(self) -> bool:
        return self.rate is None

    @property
    def batches(self) -> list[int]:
        """List the batches that it races with."""
        return [self.batch] if self.other_batch is None else [self.batch, self.other_batch]

    @property
    def missing(self) -> list[str]:
        """List the packages that have to be installed."""
        return [package for module, package in self.needs if find_spec(module) is None]

    @property
    def version(self) -> str:
        """Tell one recipe from another under the same name: our preset of today changes from time to time.

        What has its default value is left out, so that an option which the package gains later changes nothing.
        """
        preset = OF_OURS.get(self.name)
        said = {key: besides_defaults(value) for key, value in vars(preset()).items() if key in SAYS} if preset else {}
        text = json.dumps(said) if said else ""
        return hashlib.sha256((self.recipe + text).encode()).hexdigest()[:8]


def besides_defaults(record: Any) -> Any:
    """Return the values of a record that are not its defaults; what is no record, as it is."""
    if not is_dataclass(record) or isinstance(record, type):
        return record
    usual = {each.name for each in fields(record) if each.default == getattr(record, each.name)}
    return {key: value for key, value in to_json(record).items() if key not in usual}


# --- minidiff -----------------------------------------------------------------------------------------------------

# The preset `cpu` and the default sampler of version 0.1, written out: they stay as they are here, whatever changes.
FROZEN = DdpmPreset(
    "the preset cpu of minidiff 0.1",
    image_size=32,
    network=UNetConfig(
        channels=(32, 64, 96), layers_per_block=1, attention=(False, False, True), norm_groups=8, scale_shift=True
    ),
    diffusion=DiffusionConfig(schedule="cosine", prediction="v"),
    training=TrainConfig(
        steps=600, batch_size=32, lr=1e-3, warmup=100, decay="cosine", ema_decay=0.995, precision="fp32"
    ),
)
FROZEN_SAMPLER = {"sampler": "dpm++sde", "steps": 20, "spacing": "karras"}


def in_float32() -> DdpmPreset:
    """Return today's preset as a processor without AMX trains it. With AMX it trains in bf16."""
    preset = DDPM_PRESETS["cpu"]
    return replace(preset, training=replace(preset.training, precision="fp32"))


OF_OURS: dict[str, Callable[[], DdpmPreset]] = {
    "minidiff": lambda: DDPM_PRESETS["cpu"],
    "minidiff-fp32": in_float32,
    "minidiff-0.1": lambda: FROZEN,
}
SAYS = ("network", "diffusion", "training")  # the fields of a preset that matter


class Ours:
    """`minidiff train ddpm --preset cpu` without a run folder, then `minidiff sample`."""

    def __init__(self, setting: Setting, preset: DdpmPreset | None, sampling: dict[str, Any]) -> None:
        request = DdpmRequest(setting.data, image_size=setting.size, preset="cpu", steps=setting.steps,
                              seed=setting.seed, device="cpu")  # fmt: skip
        job = plan(request)
        if preset is not None:
            network = replace(preset.network, image_size=setting.size, in_channels=job.config.network.in_channels,
                              out_channels=job.config.network.in_channels)  # fmt: skip
            warmup = min(preset.training.warmup, setting.steps // 6)
            training = replace(preset.training, steps=setting.steps, warmup=warmup, seed=setting.seed)
            config = replace(job.config, network=network, diffusion=preset.diffusion, training=training)
            job = type(job)(config, job.data, torch.device("cpu"))
        self.job, self.sampling = job, sampling
        self.steps = job.trainer.steps()
        self.sampler, self.calls = "", 0  # `draw` finds out

    @property
    def network(self) -> nn.Module:
        return self.job.trainer.model

    def step(self) -> None:
        next(self.steps)

    def draw(self, num: int, seed: int, calls: int | None = None) -> Pixels:
        """Write the weights into a run folder, and draw from it as a user does."""
        with tempfile.TemporaryDirectory() as place:
            folder, target = Path(place) / "run", Path(place) / "samples.npz"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(to_json(self.job.config)))
            save_model(folder, self.job.trainer.ema.state_dict())
            options = self.sampling | ({"steps": calls} if calls else {})
            drawn = minidiff.sample(folder, num=num, seed=seed, out=target, **options)
            with np.load(target) as arrays:
                images: Pixels = arrays["images"]
        said = next(line for line in drawn.lines if line.startswith("sampling"))
        found = re.search(r"images?, (.+), (\d+) calls?", said)
        assert found is not None, said
        self.sampler, self.calls = found[1], int(found[2])
        return images


# --- what the learners of others share ----------------------------------------------------------------------------


def stream(data: ImageData, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield batches, float [n,C,H,W] in [-1,1], epoch after epoch in a new order: what a DataLoader that shuffles does.

    Half the images are mirrored, if the data set allows it.
    """
    images = np.asarray(data.images)
    random = np.random.default_rng(seed)
    left = np.empty(0, np.int64)
    while True:
        while len(left) < batch:
            left = np.concatenate([left, random.permutation(len(images))])
        rows, left = left[:batch], left[batch:]
        x = to_float(np.ascontiguousarray(images[rows]))
        if data.flip:
            x = torch.where(torch.from_numpy(random.random(batch) < 0.5)[:, None, None, None], x.flip(3), x)
        yield x


class Peer:
    """A learner of another package: its data, its seed, and samples in batches."""

    sampler = ""
    calls = 0

    def __init__(self, setting: Setting) -> None:
        data = load_data(setting.data, image_size=setting.size)
        self.setting, self.channels = setting, data.images.shape[3]
        torch.manual_seed(setting.seed)
        self.batches = stream(data, setting.batch, setting.seed)

    def sample(self, count: int, calls: int) -> Tensor:
        """Draw float [n,C,H,W] in [-1,1], with the weights to sample from."""
        raise NotImplementedError

    def averaged(self) -> AbstractContextManager[Any]:
        """Put the weights to sample from into the network, while the context lasts."""
        return nullcontext()

    def draw(self, num: int, seed: int, calls: int | None = None) -> Pixels:
        """Draw in batches. The random numbers of the training are left as they were."""
        with torch.random.fork_rng(devices=[]), torch.no_grad(), self.averaged():
            torch.manual_seed(seed + 1_000_000)
            counts = [min(AT_ONCE, num - first) for first in range(0, num, AT_ONCE)]
            return np.concatenate([to_uint8(self.sample(count, calls or self.calls)) for count in counts])


# --- denoising-diffusion-pytorch ----------------------------------------------------------------------------------


class Lucidrains(Peer):
    """The network of the README, `GaussianDiffusion` with its defaults (pred_v, sigmoid schedule), `Trainer`'s loop.

    Trainer itself wants a folder of image files and writes into another, so `step` does what Trainer.train does with
    its defaults: batch 16, no accumulation, Adam(1e-4, betas 0.9 and 0.99), gradients cut to norm 1, ema_pytorch's EMA
    of 0.995 every 10 steps. (The example in the README sets 32, 2 and 8e-5 for pictures of 128x128.)
    """

    sampler, calls = "DDIM (sampling_timesteps)", FEW_CALLS
    dim = 64

    def __init__(self, setting: Setting) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet, denoising_diffusion_pytorch
        from ema_pytorch import EMA

        super().__init__(setting)
        denoising_diffusion_pytorch.tqdm = lambda steps, **_: steps  # no bar for each batch of samples
        network = Unet(dim=self.dim, dim_mults=(1, 2, 4, 8), channels=self.channels, flash_attn=True)
        self.diffusion = GaussianDiffusion(
            network, image_size=setting.size, timesteps=1000, sampling_timesteps=self.calls
        )
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=setting.rate, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=10)

    @property
    def network(self) -> nn.Module:
        return self.diffusion.model

    def step(self) -> None:
        self.diffusion.train()
        x = next(self.batches).add(1).div(2)  # in [0,1]: `GaussianDiffusion` brings it to [-1,1]
        for part in x.split(SLICE):
            (self.diffusion(part) * (len(part) / len(x))).backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def sample(self, count: int, calls: int) -> Tensor:
        diffusion = self.ema.ema_model.eval()
        diffusion.sampling_timesteps = calls
        diffusion.is_ddim_sampling = calls < diffusion.num_timesteps
        return diffusion.sample(batch_size=count).mul(2).sub(1)


class LucidrainsNarrow(Lucidrains):
    """The same at half the width, which no page of the package asks for.

    The README's network is meant for 128x128 and takes 0.07 s an image; with 0.03 s it may learn more in few minutes.
    """

    dim = 32


# --- diffusers ----------------------------------------------------------------------------------------------------


class Diffusers(Peer):
    """A `UNet2DModel` that learns to predict the noise of a `DDPMScheduler`; DDIMPipeline draws."""

    sampler, calls = "DDIMPipeline", FEW_CALLS
    schedule = "linear"
    clip: float | None = None  # of the norm of the gradient

    def __init__(self, setting: Setting) -> None:
        from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler

        super().__init__(setting)
        self.unet = self.build()
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule=self.schedule)
        self.optimizer = self.optimize()
        self.pipeline = DDIMPipeline(self.unet, DDIMScheduler.from_config(self.noise.config))
        self.pipeline.set_progress_bar_config(disable=True)

    def build(self) -> Any:
        raise NotImplementedError

    def optimize(self) -> torch.optim.Optimizer:
        raise NotImplementedError

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.unet
        return network

    def step(self) -> None:
        self.unet.train()
        whole = next(self.batches)
        for x in whole.split(SLICE):
            noise = torch.randn(x.shape)
            t = torch.randint(0, self.noise.config.num_train_timesteps, (len(x),))
            predicted = self.unet(self.noise.add_noise(x, noise, t), t, return_dict=False)[0]
            (F.mse_loss(predicted, noise) * (len(x) / len(whole))).backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.unet.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sample(self, count: int, calls: int) -> Tensor:
        self.unet.eval()
        images = self.pipeline(batch_size=count, num_inference_steps=calls, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2).mul(2).sub(1)


class Course(Diffusers):
    """Unit 1 of Hugging Face's diffusion course, its first notebook, whose pictures are 32x32.

    AdamW at a constant 4e-4, batch 64, schedule squaredcos_cap_v2, no average of the weights, no cut of the gradients.
    """

    schedule = "squaredcos_cap_v2"

    def build(self) -> Any:
        from diffusers import UNet2DModel

        return UNet2DModel(
            sample_size=self.setting.size, in_channels=self.channels, out_channels=self.channels, layers_per_block=2,
            block_out_channels=(64, 128, 128, 256),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def optimize(self) -> torch.optim.Optimizer:
        assert self.setting.rate is not None
        return torch.optim.AdamW(self.unet.parameters(), lr=self.setting.rate)


class Script(Diffusers):
    """diffusers' examples/unconditional_image_generation/train_unconditional.py, at the size of our frozen preset.

    Its defaults: linear schedule, AdamW(1e-4, betas 0.95 and 0.999, weight decay 1e-6), batch 16, gradients cut to norm
    1, half a cosine to 0, EMAModel(0.9999, warm-up with power 3/4). Its warm-up of 500 steps would be all of a short
    run, so it is cut to a sixth of the steps, as ours is.
    """

    clip = 1.0

    def __init__(self, setting: Setting) -> None:
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        super().__init__(setting)
        warmup = min(500, setting.steps // 6)
        self.rates = get_scheduler("cosine", self.optimizer, num_warmup_steps=warmup, num_training_steps=setting.steps)
        self.ema = EMAModel(self.unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)

    def build(self) -> Any:
        from diffusers import UNet2DModel

        network = FROZEN.network
        down = ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in network.attention]
        up = ["AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(network.attention)]
        return UNet2DModel(
            sample_size=self.setting.size, in_channels=self.channels, out_channels=self.channels,
            layers_per_block=network.layers_per_block, block_out_channels=network.channels,
            norm_num_groups=network.norm_groups, down_block_types=down, up_block_types=up,
        )  # fmt: skip

    def optimize(self) -> torch.optim.Optimizer:
        assert self.setting.rate is not None
        return torch.optim.AdamW(self.unet.parameters(), lr=self.setting.rate, betas=(0.95, 0.999), weight_decay=1e-6)

    def step(self) -> None:
        super().step()
        self.rates.step()
        self.ema.step(self.unet.parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.unet.parameters())


# --- smalldiffusion -----------------------------------------------------------------------------------------------


class Small(Peer):
    """The FashionMNIST examples of smalldiffusion: its loss and samples, AdamW, torch_ema.

    `step` is the body of its training_loop, in slices: its batch of 1024 does not fit into 24 GB otherwise.
    """

    sampler, calls = "samples(gam=1.6)", 20
    decay = 0.99

    def __init__(self, setting: Setting) -> None:
        from torch_ema import ExponentialMovingAverage

        super().__init__(setting)
        self.model, self.schedule = self.build()
        assert setting.rate is not None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=setting.rate)
        self.ema = ExponentialMovingAverage(self.model.parameters(), decay=self.decay)

    def build(self) -> tuple[Any, Any]:
        raise NotImplementedError

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.model
        return network

    def step(self) -> None:
        from smalldiffusion.diffusion import generate_train_sample

        self.model.train()
        self.optimizer.zero_grad()
        whole = next(self.batches)
        for part in whole.split(SLICE):
            x0, sigma, eps, _ = generate_train_sample(part, self.schedule)
            (type(self.model).get_loss(self.model, x0, sigma, eps) * (len(part) / len(whole))).backward()
        self.optimizer.step()
        self.ema.update()

    def averaged(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.ema.average_parameters()
        return context

    def sample(self, count: int, calls: int) -> Tensor:
        from smalldiffusion import samples

        *_, x0 = samples(self.model, self.schedule.sample_sigmas(calls), gam=1.6, batchsize=count)
        return x0.clamp(-1, 1)


class SmallDiT(Small):
    """examples/fashion_mnist_dit.py: ScheduleDDPM, AdamW(1e-3), batch 1024, EMA 0.99.

    Patches of 4 at 64x64 keep the number of tokens, and so the time of a step.
    """

    def build(self) -> tuple[Any, Any]:
        from smalldiffusion import DiT, ScheduleDDPM

        size = self.setting.size
        model = DiT(
            in_dim=size, channels=self.channels, patch_size=size // 16, depth=6, head_dim=32, num_heads=6, mlp_ratio=4.0
        )
        return model, ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)


class SmallUNet(Small):
    """examples/fashion_mnist_unet.py: ScheduleLogLinear from 0.01 to 20, AdamW(7e-4), batch 1024, EMA 0.999.

    The example has 28x28 pixels, and attention at 14; here it is at 16.
    """

    decay = 0.999

    def build(self) -> tuple[Any, Any]:
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet

        size, channels = self.setting.size, self.channels
        model = Scaled(Unet)(size, channels, channels, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(16,))
        return model, ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)


# --- all of them --------------------------------------------------------------------------------------------------

DIFFUSERS = (("diffusers", "diffusers"),)
SMALL = (("smalldiffusion", "smalldiffusion"), ("torch_ema", "torch-ema"))
CONTENDERS = {
    each.name: each
    for each in (
        Contender("minidiff", "minidiff", "#d62728", "the preset cpu of today",
                  lambda setting: Ours(setting, None, {}), batch=DDPM_PRESETS["cpu"].training.batch_size,
                  scheduled=True),
        Contender("minidiff-fp32", "minidiff in float32", "#e377c2", "the preset cpu of today, without bf16",
                  lambda setting: Ours(setting, in_float32(), {}), batch=DDPM_PRESETS["cpu"].training.batch_size,
                  scheduled=True),
        Contender("minidiff-0.1", "minidiff 0.1", "#ff9896", "the preset cpu of version 0.1",
                  lambda setting: Ours(setting, FROZEN, FROZEN_SAMPLER), scheduled=True),
        Contender("lucidrains", "lucidrains", "#1f77b4",
                  "denoising-diffusion-pytorch: Unet(64, (1, 2, 4, 8)), GaussianDiffusion, Trainer's settings",
                  Lucidrains, rate=1e-4, batch=16,
                  needs=(("denoising_diffusion_pytorch", "denoising-diffusion-pytorch"),)),
        Contender("lucidrains-32", "lucidrains, dim 32", "#17becf",
                  "denoising-diffusion-pytorch at half the width: Unet(32, (1, 2, 4, 8)), else the same",
                  LucidrainsNarrow, rate=1e-4, batch=16,
                  needs=(("denoising_diffusion_pytorch", "denoising-diffusion-pytorch"),)),
        Contender("hf-course", "HF course", "#ff7f0e",
                  "diffusers: UNet2DModel and settings of unit 1 of the Hugging Face diffusion course",
                  Course, rate=4e-4, batch=64, needs=DIFFUSERS),
        Contender("diffusers", "diffusers", "#9467bd",
                  "diffusers: UNet2DModel of the size of minidiff 0.1, settings of train_unconditional.py",
                  Script, rate=1e-4, batch=16, scheduled=True, needs=DIFFUSERS),
        Contender("smalldiffusion-dit", "smalldiffusion DiT", "#2ca02c", "examples/fashion_mnist_dit.py",
                  SmallDiT, rate=1e-3, batch=1024, other_batch=64, needs=SMALL),
        Contender("smalldiffusion-unet", "smalldiffusion U-Net", "#8c564b", "examples/fashion_mnist_unet.py",
                  SmallUNet, rate=7e-4, batch=1024, other_batch=64, needs=SMALL),
    )
}  # fmt: skip
