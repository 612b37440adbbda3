"""The training of a DDPM, planned and run in its folder: what `minidiff train ddpm` does. Rests on job and pipeline.

job = plan(torch.device("cpu"), {"dataset": "shapes", "steps": 500})
job.start(); job.run(); print(job.conclusion())
"""

import os
import shlex
import sys
from typing import Any

import torch
from tqdm import tqdm

from minidiff._version import __version__
from minidiff.data.conditions import examples, in_words, multi_hot
from minidiff.ddpm.recipe import build, build_schedule, ddpm_loss
from minidiff.ddpm.run import Run
from minidiff.ddpm.samples import of_run
from minidiff.diffusion.guidance import DROPOUT
from minidiff.diffusion.predictions import check_prediction
from minidiff.errors import UserError, lookup
from minidiff.images.convert import to_uint8
from minidiff.images.faults import problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid, label_rows
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction, features
from minidiff.metrics.doubts import doubts
from minidiff.metrics.sources import dataset_source
from minidiff.networks.unet import check_size
from minidiff.records import to_json
from minidiff.runtime import distributed
from minidiff.training.config import TrainConfig
from minidiff.training.job import Job, check_labels, check_out, describe_labels, open_data, training_config
from minidiff.training.loop import Trainer
from minidiff.training.presets import DIFFUSION, FID, PRESETS, default_preset

PREVIEW_IMAGES = 36
PREVIEW_ROWS, PREVIEW_COLUMNS = 6, 6  # of a conditional run: conditions, and images of each
PLACES = ("features", "weights")  # of the `fid` in a config: paths, which may change when something is moved


class DdpmJob(Job):
    """The training of a U-Net to predict the noise of a schedule."""

    kind = "ddpm"
    doubted = False  # whether what could mislead about FID has been said

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        model, self.schedule = build(self.config)
        diffusion, self.fid, self.labels = self.config["diffusion"], self.config.get("fid"), self.config.get("labels")
        self.reference: extraction.MeasuredSet | None = None  # what samples are held against, see `run`
        if self.fid:  # now, so that weights that are not there are missed before the training
            self.measure_every = self.fid["every"]
            self.feature_network = self.choose_features(device)
        dropout = self.labels["dropout"] if self.labels else None
        loss = ddpm_loss(self.schedule, diffusion["prediction"], diffusion["min_snr_gamma"], device, dropout)
        return Trainer(model, loss, self.data, training, device)

    def choose_features(self, device: torch.device) -> features.FeatureNetwork:
        """The network to measure in: for a run that is resumed the same as before, wherever it now lies."""
        assert self.fid is not None
        mend = "Where it lies now goes to --fid-features or --fid-weights; --fid-every 0 measures no more."
        try:
            network = features.choose(self.fid["features"], weights=self.fid["weights"], device=device)
        except UserError as error:
            raise UserError(f"{error} {mend}" if "network" in self.fid else str(error)) from None
        known = to_json(network.identity)
        if self.fid.setdefault("network", known) != known:
            raise UserError(
                f"{network.source} is another feature network than this run was measured in (its weights have the "
                f"SHA-256 {known['weights'][:8]}..., not {self.fid['network']['weights'][:8]}...). {mend}"
            )
        return network

    @staticmethod
    def changed(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        fid = config.get("fid")
        if fid is None and options.get("fid_every"):
            raise UserError("this run's first steps were not measured. Measure it from outside: `minidiff fid`.")
        if fid is None or options.get("fid_every") == 0:
            return config | {"fid": None}
        places = {name: absolute(options[f"fid_{name}"]) for name in PLACES if f"fid_{name}" in options}
        return config | {"fid": fid | {"every": options.get("fid_every", fid["every"])} | places}

    def describe_network(self) -> str:
        diffusion, channels = self.config["diffusion"], self.config["network"]["channels"]
        network = (
            f"UNet {self.parameters}, channels {channels}; "
            f"{diffusion['schedule']} schedule, T = {diffusion['timesteps']}, predicts {diffusion['prediction']}"
        )
        if self.labels:
            names, share = self.labels["names"], 100 * self.labels["dropout"]
            network += f"\nlabels    {len(names)}: {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
            network += f"; not told of {share:g}% of the images"
        return f"{network}\nmeasured  {self.describe_fid()}" if self.fid else network

    def describe_fid(self) -> str:
        """What is measured during the training, in a line."""
        assert self.fid is not None
        name, network = measure.title("fid", self.feature_network), self.feature_network.source
        samples = f"{self.fid['samples']:,} samples ({self.fid['sampler']}, {self.fid['steps'] or 'all'} steps)"
        return f"{name} every {self.fid['every']:,} steps: {samples} and all training images, in {network}"

    def averaged(self) -> Run:
        """The EMA weights of this moment, to sample from."""
        assert self.folder is not None
        precision = self.trainer.config.precision
        return Run(self.folder, self.config, self.trainer.ema, self.schedule, precision)  # type: ignore[arg-type]

    def run(self) -> None:
        """Train to the last step; first, if FID is to be measured, the statistics of the training images."""
        if self.fid:
            source = dataset_source(self.data.place, self.data)
            with self.progress("training images", len(self.data)) as bar:
                self.reference = extraction.measure_set(source, self.feature_network, on_images=bar.update)
        super().run()

    def measure(self, step: int) -> dict[str, float]:
        """FID, or FD(classifier), of samples of the EMA weights, always from the same noise, to the training images."""
        assert self.fid is not None and self.reference is not None
        source = of_run(f"step {step}", self.averaged(), self.fid["samples"], seed=self.config["training"]["seed"],
                        sampler=self.fid["sampler"], steps=self.fid["steps"], data=self.data)  # fmt: skip
        at_once = max(1, self.trainer.slice_size)
        with self.progress("samples", source.count) as bar:
            side = extraction.extract(source, self.feature_network, batch_size=at_once, on_images=bar.update)
        if distributed.is_main() and not self.doubted:
            for doubt in doubts(side, self.reference, self.feature_network):
                tqdm.write(f"Warning: {doubt}", file=sys.stderr)
        self.doubted = True
        value = measure.compute_metrics(side, self.reference, self.feature_network)["fid"]
        assert isinstance(value, float)
        return {measure.title("fid", self.feature_network): value}

    def progress(self, what: str, count: int) -> tqdm:
        """A bar for the images that go through the feature network."""
        what = f"{measure.title('fid', self.feature_network)}: {what}"
        return tqdm(total=count, desc=what, unit="image", leave=False, disable=not distributed.is_main())

    def preview(self, step: int) -> list[str]:
        """A grid, always from the same noise; of a conditional run a row for each of a few conditions, named."""
        assert self.folder is not None
        run, rows = self.averaged(), self.conditions()
        options: dict[str, Any] = {"seed": self.config["training"]["seed"]}
        count = len(rows) * PREVIEW_COLUMNS or PREVIEW_IMAGES
        if rows:
            options["labels"] = multi_hot(rows, len(run.label_names)).repeat_interleave(PREVIEW_COLUMNS, dim=0)
        at_once = max(1, self.trainer.slice_size)  # no more at a time than training itself has room for
        images = to_uint8(run.draw(range(count), batch_size=at_once, **options))
        picture = grid(images, PREVIEW_COLUMNS if rows else None)
        if rows:
            picture = label_rows(picture, [in_words(row, run.label_names, "\n") for row in rows])
        write_image(self.picture(step), picture)
        return [f"samples at step {step}: {problem}" for problem in problems(images)]

    def conditions(self) -> list[list[int]]:
        """What the rows of the preview show."""
        return examples(self.data.labels, PREVIEW_ROWS) if self.labels else []

    def conclusion(self) -> str:
        order = "--num 64"
        if self.labels:
            order = f"--labels {shlex.quote(in_words(self.conditions()[-1], self.labels['names']))}"
        return (
            f"done      look at {self.picture(self.trainer.config.steps)} and {self.folder}/curves.png\n"
            f"next      minidiff sample {shlex.quote(str(self.folder))} {order} --progressive 10 --out grid.png"
        )


def plan(device: torch.device, options: dict[str, Any]) -> DdpmJob:
    """A new training out of a preset and the options that override it.

    options: any of dataset, data_dir, image_size, on_bad, corruption, severity, preset, conditional, label_dropout,
    save_every, sample_every, out; the fields of TrainConfig; the keys of presets.DIFFUSION, with `timesteps` and so on;
    fid_every, and with it fid_samples and the other keys of FID. Raises UserError.
    """
    if "label_dropout" in options and not options.get("conditional"):
        raise UserError("--label-dropout needs --conditional, a network that is told the labels. Add it.")
    name = options.get("preset") or default_preset(device.type)
    preset = lookup("preset", name, PRESETS)
    size = options.get("image_size", preset.image_size)
    diffusion = DIFFUSION | preset.diffusion
    if options.get("schedule", diffusion["schedule"]) != diffusion["schedule"]:
        diffusion |= {"beta_start": None, "beta_end": None}  # the preset's range was that of its own schedule
    diffusion |= {k: v for k, v in options.items() if k in DIFFUSION}
    # All that can be wrong with the options is found before the data are read, or downloaded.
    check_prediction(build_schedule(diffusion), diffusion["prediction"])
    check_size(size, 2 ** (len(preset.network["channels"]) - 1), "--image-size")
    check_out(options)
    data, description = open_data(options, size)
    network = preset.network | {"image_size": size, "in_channels": description["channels"]}
    labels = None
    if options.get("conditional"):
        check_labels(data, "--conditional")
        labels = describe_labels(data) | {"dropout": options.get("label_dropout", DROPOUT)}
        network |= {"label_dim": len(data.label_names)}
    config = {
        "minidiff": __version__,
        "kind": DdpmJob.kind,
        "preset": name,
        "data": description,
        "labels": labels,
        "network": network,
        "diffusion": diffusion,
        "training": training_config(preset, options),
        "save_every": options.get("save_every"),
        "sample_every": options.get("sample_every"),
        "fid": plan_fid(options),
    }
    return DdpmJob(config, data, device, options.get("out"))


def plan_fid(options: dict[str, Any]) -> dict[str, Any] | None:
    """What config.json says of FID during the training; None when it is not measured."""
    given = {name: options[f"fid_{name}"] for name in FID if options.get(f"fid_{name}") is not None}
    if not options.get("fid_every"):
        if given:
            raise UserError(f"--fid-{next(iter(given))} needs --fid-every, how often to measure. Try --fid-every 3000.")
        return None
    fid = {"every": options["fid_every"], **FID}
    if given.get("sampler", "ddim") != "ddim":
        fid["steps"] = None  # a chain's own default: with ddpm every timestep
    fid |= given
    return fid | {name: absolute(fid[name]) for name in PLACES}


def absolute(place: str | None) -> str | None:
    """A path that holds wherever a run is resumed from."""
    return place if place in (None, "inception") else os.path.abspath(os.path.expanduser(place))
