"""The training of a DDPM, planned and run in its folder: what `minidiff train ddpm` does.

Rests on training.job and ddpm.run. Ho et al. 2020 (DDPM); Heusel et al. 2017 (FID).

job = plan(DdpmRequest(dataset="shapes", steps=500))
job.start(); job.run(); print(job.conclusion())
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.data.conditions import examples
from minidiff.ddpm import previews
from minidiff.ddpm.config import (
    LABEL_DROPOUT,
    PROCESSES,
    DdpmConfig,
    DdpmRequest,
    DiffusionConfig,
    FidConfig,
    PriorUse,
    ToldLabels,
    read_ddpm,
)
from minidiff.ddpm.guess_errors import GUESS_ERRORS, measure_run
from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
from minidiff.ddpm.prior import (
    check_channels,
    check_side,
    in_training,
    keep_prior,
    open_prior,
    plan_prior,
    used_prior,
)
from minidiff.ddpm.recipe import build_network, build_process, conditional, ddpm_loss
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.ddpm.samples import of_run
from minidiff.diffusion.predictions import check_prediction
from minidiff.errors import UserError, listed, lookup, printable, shown
from minidiff.images.faults import problems
from minidiff.images.files import write_image
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction, features
from minidiff.metrics.doubts import doubts
from minidiff.metrics.sources import dataset_source
from minidiff.networks.configs import BUILT_IN, DiTConfig, OwnNetwork, UNetConfig
from minidiff.networks.own import build_own, plain_arguments, try_network, use_network
from minidiff.records import from_json, to_json
from minidiff.runs.shipped import is_name
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.runtime.progress import progress_bar
from minidiff.training.config import ResumeRequest, TrainConfig, given
from minidiff.training.data import check_labels, labels_of, open_data, size_for
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.loop import Trainer
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs
from minidiff.training.step import TrainStep

Network = UNetConfig | DiTConfig | OwnNetwork

SAID: dict[PriorUse, str] = {
    "target": "its outputs are learnt in place of the images, for comparison only",
    "start": "its outputs are what chains start from",
    "residual": "the network sees its outputs, and they shift the process",
}


class DdpmJob(Job[DdpmConfig]):
    """The training of a network to predict the noise of a schedule."""

    kind = "ddpm"
    may_change = ("sample_every", "fid_every", "fid_features", "fid_weights")
    doubted = False  # whether what could mislead about FID has been said

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> DdpmConfig:
        return read_ddpm(stored, where)

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        self.schedule = build_process(self.config.diffusion)
        if isinstance(self.config.network, OwnNetwork):  # which may not know the device that has shapes alone
            model = build_network(self.config)
        else:
            model = build_to_train(lambda: build_network(self.config), device)
        self.labels = self.config.labels
        self.reference: extraction.MeasuredSet | None = None  # the training images, to compare samples with: see `run`
        if self.fid:  # now, so that weights that are not there are missed before the training
            self.feature_network = self.choose_features(self.fid, device)
        dropout = self.labels.dropout if self.labels else None
        call, used, change = partial(conditional, self.config.network), self.config.prior, None
        self.prior = open_prior(used, self.folder, device) if used else None
        if self.prior and used:
            change = in_training(self.prior, used, self.schedule.to(device))
        loss = ddpm_loss(self.schedule, self.config.diffusion, device, dropout, call, change)
        return Trainer(model, loss, self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        return load_ddpm(place).model.state_dict()

    def fill_folder(self, folder: Path) -> None:
        super().fill_folder(folder)
        if self.prior is not None:
            keep_prior(folder, self.prior)

    @property
    def fid(self) -> FidConfig | None:
        """How FID is measured; None if it is not measured."""
        return self.config.fid

    def choose_features(self, fid: FidConfig, device: torch.device) -> features.FeatureNetwork:
        """Open the network to measure in. A resumed run needs the same network as before, but it may have moved."""
        mend = "Where it lies now goes to `fid_features` or `fid_weights`; a `fid_every` of 0 measures no more."
        try:
            network = features.choose(fid.features, weights=fid.weights, device=device)
        except UserError as error:
            said = str(error).replace("`weights`", "`fid_weights`")  # so a training calls them
            raise UserError(f"{said} {mend}" if fid.network else said) from None
        known = to_json(network.identity)
        if fid.network not in (None, known):
            raise UserError(
                f"{network.source} is another feature network than this run was measured in (its weights have the "
                f"SHA-256 {known['weights'][:8]}..., not {fid.network['weights'][:8]}...). {mend}"
            )
        self.config = replace(self.config, fid=replace(fid, network=known))
        return network

    @classmethod
    def changed(cls, config: DdpmConfig, request: ResumeRequest) -> DdpmConfig:
        if config.fid is None:
            if request.fid_every:
                raise UserError(
                    "the first steps of this run were not measured, so `fid_every` cannot be added now. "
                    "Use `minidiff fid`."
                )
            return config
        if request.fid_every == 0:
            return replace(config, fid=None)
        fid = config.fid
        return replace(
            config,
            fid=replace(
                fid,
                every=request.fid_every or fid.every,
                features=absolute(request.fid_features) or fid.features,
                weights=absolute(request.fid_weights) or fid.weights,
            ),
        )

    def describe_network(self) -> str:
        diffusion, network = self.config.diffusion, self.config.network
        if isinstance(network, OwnNetwork):
            said = f"{network.module} {self.parameters}"
        elif isinstance(network, DiTConfig):
            said = f"DiT {self.parameters}, {network.depth} blocks of width {network.width}, patch {network.patch}"
        else:
            said = f"UNet {self.parameters}, channels {list(network.channels)}"
        said += f"; {diffusion.describe()}"
        if self.labels:
            names, share = self.labels.names, 100 * self.labels.dropout
            said += f"\nlabels    {len(names)}: {printable(', '.join(names[:6]))}{', ...' * (len(names) > 6)}"
            said += f"; not told of {share:g}% of the images"
        if self.prior and self.config.prior:
            used, prior = self.config.prior, self.prior.config
            said += f"\nprior     {prior.net} of {used.run.place}, noise {prior.noise:g}: {SAID[used.use]}"
            said += f" ({used.shift})" * (used.use == "residual")
        return f"{said}\nmeasured  {self.describe_fid(self.fid)}" if self.fid else said

    def describe_fid(self, fid: FidConfig) -> str:
        """Describe what is measured during the training, in a line."""
        name, network = measure.title("fid", self.feature_network), self.feature_network.source
        samples = f"{fid.samples:,} samples ({fid.sampler}, {fid.steps or 'all'} steps)"
        knows = f" ({self.feature_network.knowledge})" if self.feature_network.knowledge else ""
        return f"{name} every {fid.every:,} steps: {samples} and all training images, in {network}{knows}"

    def averaged(self) -> Run:
        """Return the EMA weights of this moment, to sample from."""
        precision = self.training.precision
        folder = self.folder or Path()
        return Run(folder, self.config, self.trainer.ema, self.schedule, precision, self.prior, self.data)

    def work(self) -> Iterator[TrainStep]:
        """Train to the last step. If FID is measured, compute the statistics of the training images before it."""
        if self.fid:
            source = dataset_source(self.data.place, self.data, self.config.data.called)
            with self.progress("training images", len(self.data)) as bar:
                self.reference = extraction.measure_set(source, self.feature_network, on_images=bar.update)
        if self.trainer.step < self.training.steps:
            distributed.main_first(self.forget_guess_errors)
        yield from super().work()
        distributed.main_first(self.measure_guess_errors)

    def forget_guess_errors(self) -> None:
        """Remove what was measured of earlier weights."""
        assert self.folder is not None
        (self.folder / GUESS_ERRORS).unlink(missing_ok=True)

    def measure_guess_errors(self) -> None:
        """Measure how far the guesses are off, for the tasks of `restore`, unless that was done or is of no use there.

        If a kill comes before, the run has it done when it is resumed, at its last step.
        """
        run = self.averaged()
        told = bool(run.labels.names) and run.label_dropout == 0
        seen = run.prior_use == "residual"  # a network that also sees a prior finishes no picture
        if run.any_size and not told and not seen and not (run.folder / GUESS_ERRORS).exists():
            measure_run(run, self.data)

    def measure(self, step: int) -> dict[str, float]:
        """Measure FID, or FD(classifier), of samples of the EMA weights, drawn from the same noise every time."""
        assert self.fid is not None and self.reference is not None
        source = of_run(f"step {step}", self.averaged(), self.fid.samples, seed=self.training.seed,
                        sampler=self.fid.sampler, steps=self.fid.steps, data=self.data)  # fmt: skip
        at_once = max(1, self.trainer.slice_size)
        with self.progress("samples", source.count) as bar:
            side = extraction.extract(source, self.feature_network, batch_size=at_once, on_images=bar.update)
        if distributed.is_main() and not self.doubted:
            for doubt in doubts(side, self.reference, self.feature_network):
                self.warn(doubt)
        self.doubted = True
        value = measure.compute_metrics(side, self.reference, self.feature_network)["fid"]
        assert isinstance(value, float)
        return {measure.title("fid", self.feature_network): value}

    def progress(self, what: str, count: int) -> Any:
        """Show a bar for the images that go through the feature network."""
        what = f"{measure.title('fid', self.feature_network)}: {what}"
        return progress_bar(count, what, unit="image")

    @property
    def preview_passes(self) -> int:
        return previews.count_passes(self.averaged(), self.conditions())

    def measure_interval(self, steps: int) -> int | None:
        return self.fid.every if self.fid else None

    @property
    def measure_passes(self) -> int:
        return self.fid.samples * self.averaged().calls([0]) if self.fid else 0

    def preview(self, step: int) -> list[str]:
        """Draw a sheet: samples, or finished images of a run that is trained for small noise only."""
        assert self.folder is not None
        run, seed = self.averaged(), self.training.seed
        at_once = max(1, self.trainer.slice_size)  # no more at a time than training itself has room for
        if run.trained_below is None:
            picture, images = previews.draw_samples(run, self.conditions(), seed, at_once)
        else:
            picture, images = previews.draw_finished(run, self.data, seed, at_once)
        write_image(self.picture(step), picture)
        return [f"samples at step {step}: {problem}" for problem in problems(images)]

    def conditions(self) -> list[list[int]]:
        """Return what the rows of the preview show; nothing for a run without labels."""
        return examples(self.data.labels, previews.ROWS) if self.labels else []

    def conclusion(self) -> str:
        return f"done      look at {self.picture(self.training.steps)} and {self.folder}/curves.png"


def plan(request: DdpmRequest) -> DdpmJob:
    """Plan a new training from a preset, or from the run that it begins with, and replace what the request sets.

    Raises UserError.
    """
    # All that can be wrong with the request is found before the data are read, or downloaded.
    if request.network_arguments is not None and request.network is None:
        raise UserError("`network_arguments` needs `network`, the class that they are for. Name it.")
    asked = request.network if isinstance(request.network, str) and request.network in BUILT_IN else None
    own = use_network(request.network) if request.network is not None and asked is None else None
    start = load_ddpm(request.init) if request.init is not None else None
    told = request.conditional or bool(start and start.config.network.label_dim)
    if request.label_dropout is not None and not told:
        raise UserError("`label_dropout` needs `conditional`, a network that gets the labels. Add it.")
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    preset = lookup("preset", name, DDPM_PRESETS)
    prior = plan_prior(request, told, start.prior_use if start else None)
    size = size_for(request, start.config.network.image_size if start else preset.image_size)
    if prior:
        check_side(prior, size)
    diffusion = diffusion_config(start.config.diffusion if start else preset.diffusion, request)
    check_prediction(build_process(diffusion), diffusion.prediction)
    base = base_network(name, preset, asked, start.config.network if start else None, request)
    if own is None and not isinstance(base, OwnNetwork):
        base.check_size(size, "`image_size`")
    fid, training = fid_config(request), training_config(preset.training, request)
    if fid and diffusion.trained_below is not None:
        raise UserError("`fid_every` measures samples from noise, and a run with `trained_below` draws none. "
                        "Leave one of them out.")  # fmt: skip
    check_out(request.out)
    data, described = open_data(request, size)
    training = with_epochs(training, preset.training, request, len(data))
    labels = None
    if told:
        check_labels(data, "`conditional`")
        usual = start.label_dropout if start and start.config.labels else LABEL_DROPOUT
        dropout = usual if request.label_dropout is None else request.label_dropout
        labels = ToldLabels(**vars(labels_of(data)), dropout=dropout)
    if start:
        check_start(start, request, described.channels, labels)
    if prior:
        check_channels(prior, described.channels)
    label_dim = len(labels.names) if labels else 0
    config = DdpmConfig(
        preset=name,
        init=start_of(request.init, start.model.state_dict()) if start and request.init else None,
        data=described,
        labels=labels,
        network=network_for(request, base, own, size, described.channels, label_dim),
        prior=used_prior(request, prior) if prior else None,
        diffusion=diffusion,
        training=training,
        save_every=request.save_every,
        sample_every=request.sample_every,
        fid=fid,
    )
    return fit_minutes(DdpmJob(config, data, device, request.out), preset.training, request)


def base_network(
    name: str, preset: DdpmPreset, asked: str | None, start: Network | None, request: DdpmRequest
) -> Network:
    """Choose the network to fit to the images: that of the run to begin with, or the preset's U-Net or DiT.

    name: of the preset. asked: unet or dit; None: as the run to begin with has it, else a U-Net. Raises UserError.
    """
    known = next((each for each, kind in BUILT_IN.items() if isinstance(start, kind)), None)
    if start is not None and asked not in (None, known):
        raise UserError(f"the network of {request.init} is no {asked}, so its weights are lost on one. Leave it out.")
    if start is not None and (request.preset is None or known is None):
        base = start
    elif (asked or known) == "dit":
        if preset.dit is None:
            have = listed([each for each, one in DDPM_PRESETS.items() if one.dit], "or")
            raise UserError(f"the preset {name} has no DiT. Take {have}, or its U-Net.")
        base = preset.dit
    else:
        base = preset.network
    if asked is None or not request.network_arguments:
        return base
    for key in ("image_size", "in_channels", "out_channels", "label_dim", "kind"):
        if key in request.network_arguments:
            raise UserError(f"`network_arguments` has {key}, which follows from the images and labels. Leave it out.")
    return from_json(type(base), to_json(base) | plain_arguments(request.network_arguments), "`network_arguments`")


def network_for(
    request: DdpmRequest, base: Network, own: str | None, size: int, channels: int, label_dim: int
) -> Network:
    """Fit a network to the images and their labels.

    base: the preset's network, or that of the run to begin with. own: the class that the user names in its place.
    Raises UserError for a network of one's own that cannot be made or called.
    """
    if own is None and not isinstance(base, OwnNetwork):
        seen = 2 * channels if request.prior_use == "residual" else channels  # x_t, and beside it the prior's output
        return replace(base, image_size=size, in_channels=seen, out_channels=channels, label_dim=label_dim)
    arguments, module = request.network_arguments, own
    if isinstance(base, OwnNetwork) and own in (None, base.module):
        arguments, module = base.arguments if arguments is None else arguments, base.module
    assert module is not None
    network = OwnNetwork(module, plain_arguments(arguments), size, channels, label_dim)
    try_network(build_own(network), network)
    return network


def check_start(start: Run, request: DdpmRequest, channels: int, labels: ToldLabels | None) -> None:
    """Raise UserError where the weights that a training begins with would be of no use to it."""
    known, place = start.config, request.init
    for name in ("process", "prediction", "timesteps"):
        asked, was = getattr(request, name), getattr(known.diffusion, name)
        if asked not in (None, was):
            raise UserError(f"{place} was trained with the `{name}` {was}, so its weights are lost on {asked}.")
    if known.data.channels != channels:
        kinds = {1: "grey", 3: "colour"}
        theirs = kinds.get(known.data.channels, f"{known.data.channels} channels")
        raise UserError(f"{place} draws images in {theirs}, and these are {kinds[channels]}. Convert them first.")
    count = len(labels.names) if labels else 0
    if known.network.label_dim != count:
        raise UserError(
            f"{place} was trained with {known.network.label_dim or 'no'} labels, and here are {count or 'none'}. "
            "Begin with a run of the same labels."
        )
    if known.labels and labels and known.labels.names != labels.names:
        other = next(pair for pair in zip(known.labels.names, labels.names, strict=True) if pair[0] != pair[1])
        raise UserError(f"{place} knows the label {shown(other[0])} where these images have {shown(other[1])}.")


def diffusion_config(preset: DiffusionConfig, request: DdpmRequest) -> DiffusionConfig:
    """Replace in a preset's diffusion, or in what is usual for the process that is asked for, what a request sets.

    preset: of the run to begin with, if there is one. Raises UserError for a schedule of another process.
    """
    process = request.process or preset.process
    if process != "ddpm" and request.schedule is not None:
        raise UserError(f"`schedule` belongs to the process ddpm, and {process} has one of its own. Leave it out.")
    if process != preset.process and process in PROCESSES:
        preset = replace(PROCESSES[process], timesteps=preset.timesteps)
    if request.schedule not in (None, preset.schedule):
        preset = replace(preset, beta_start=None, beta_end=None)  # that range was made for another schedule
    return replace(preset, **given(request, vars(preset)))


def fid_config(request: DdpmRequest) -> FidConfig | None:
    """Return how FID is measured during the training; None when it is not."""
    asked = given(request, ("fid_samples", "fid_sampler", "fid_steps", "fid_features", "fid_weights"))
    if not request.fid_every:
        if asked:
            raise UserError(f"`{next(iter(asked))}` needs `fid_every`, which says how often to measure. Try 3000.")
        return None
    fid = FidConfig(request.fid_every)
    if request.fid_sampler not in (None, fid.sampler):
        fid = replace(fid, steps=None)  # that sampler's own default: with ddpm every timestep
    fid = replace(fid, **{name.removeprefix("fid_"): value for name, value in asked.items()})
    return replace(fid, features=absolute(fid.features) or fid.features, weights=absolute(fid.weights))


def absolute(place: str | Path | None) -> str | None:
    """Make a path absolute, so that a run can be resumed from any folder. A name is no path, and stays."""
    if place is None or place == "inception" or is_name(place, classifier=True):
        return place if place is None else str(place)
    return os.path.abspath(os.path.expanduser(place))
