"""config.json: what runs made before hold still opens; what is wrong in one is a line, in every command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minidiff import cli
from minidiff.classifier.config import read_classifier
from minidiff.ddpm.config import FidConfig, read_ddpm
from minidiff.dehaze.config import read_dehaze
from minidiff.errors import UserError
from minidiff.gan.config import GAMES, GanConfig, read_gan
from minidiff.networks.configs import UNetConfig
from minidiff.priors.config import read_dip_prior
from minidiff.records import to_json
from minidiff.training.config import RunConfig

# As version 0.1.0 wrote them, before there were records: keys that belong to one case alone were left out.
TRAINING = {
    "steps": 12, "batch_size": 8, "lr": 0.001, "warmup": 2, "decay": "cosine", "weight_decay": 0.0, "grad_clip": 1.0,
    "ema_decay": 0.995, "accumulate": 1, "precision": "auto", "compile": None, "seed": 0,
}  # fmt: skip
DATA = {
    "name": "shapes", "data_dir": None, "image_size": 16, "on_bad": "skip", "channels": 3, "images": 12000,
    "fingerprint": "76150bb1d63cd6b8",
}  # fmt: skip
LABELS = {"names": ["gray cube", "red cube"], "one_hot": False, "fingerprint": "59d7f45201e7e48f"}
UNET = {
    "image_size": 16, "in_channels": 3, "out_channels": 3, "channels": [32, 64, 96], "layers_per_block": 1,
    "attention": [False, False, True], "mid_attention": True, "head_dim": None, "dropout": 0.0, "norm_groups": 8,
    "norm_eps": 1e-06, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "label_dim": 2,
    "scale_shift": True,
}  # fmt: skip
DIFFUSION = {
    "schedule": "cosine", "timesteps": 1000, "beta_start": None, "beta_end": None, "prediction": "v",
    "min_snr_gamma": None, "zero_terminal_snr": False, "variance": "fixed_small",
}  # fmt: skip
START = {"minidiff": "0.1.0", "preset": "cpu", "save_every": None}
DDPM: dict[str, Any] = START | {
    "kind": "ddpm", "data": DATA | {"corruption": "fog", "severity": 2}, "labels": LABELS | {"dropout": 0.1},
    "network": UNET, "diffusion": DIFFUSION, "training": TRAINING, "sample_every": None,
    "fid": {"every": 3, "samples": 8, "sampler": "ddim", "steps": 2, "features": "/runs/classifier", "weights": None},
}  # fmt: skip
IMPORTED: dict[str, Any] = {
    "minidiff": "0.1.0", "kind": "ddpm", "data": {"name": "owner/name", "image_size": 16, "channels": 3},
    "network": UNET, "diffusion": DIFFUSION, "training": {},
    "source": {"format": "diffusers", "place": "owner/name", "notes": ["its scheduler thresholds"]},
}  # fmt: skip
GAN: dict[str, Any] = START | {
    "kind": "dcgan", "data": DATA, "network": {"latent_dim": 100, "width": 4, "image_size": 16, "channels": 3},
    "gan": {"norm": "batch", "critic_steps": 1, "optimizer": "adam", "betas": [0.5, 0.999]},
    "training": TRAINING | {"grad_clip": None}, "sample_every": None,
}  # fmt: skip
CLASSIFIER: dict[str, Any] = START | {
    "kind": "classifier", "data": DATA, "labels": LABELS, "network": {"classes": 2, "channels": 3, "width": 4},
    "shift": 1, "training": TRAINING, "measure_every": None,
}  # fmt: skip
DEHAZE: dict[str, Any] = START | {
    "kind": "dehaze", "data": DATA, "stage": 1, "haze": {
        "beta": [0.3, 1.5], "airlight": [0.25, 1.0], "colour": 0.025, "gamma": [0.2, 1.8], "damage": 0.5,
    },
    "guess": {"channels": [4, 6], "blocks": [1, 1], "kernel": 3}, "guess_loss": {"transmission": 0.01, "haze": 0.05},
    "training": TRAINING, "sample_every": None, "measure_every": None,
}  # fmt: skip
DIP_PRIOR: dict[str, Any] = START | {
    "kind": "dip-prior", "data": DATA, "net": "conv2", "noise": 0.2, "training": TRAINING, "sample_every": None,
    "measure_every": None,
}  # fmt: skip

Reader = Callable[[dict[str, Any], object], RunConfig]
KINDS: dict[str, tuple[dict[str, Any], Reader]] = {
    "ddpm": (DDPM, read_ddpm),
    "imported": (IMPORTED, read_ddpm),
    "dcgan": (GAN, read_gan),
    "classifier": (CLASSIFIER, read_classifier),
    "dehaze": (DEHAZE, read_dehaze),
    "dip-prior": (DIP_PRIOR, read_dip_prior),
}


@pytest.mark.quick
@pytest.mark.parametrize("kind", KINDS)
def test_the_config_of_a_run_made_before_opens(kind: str) -> None:
    """Every value is kept, and what is written now is read back as the same."""
    stored, read = KINDS[kind]
    config = read(stored, "config.json")
    assert read(to_json(config), "config.json") == config

    def holds(old: Any, new: Any) -> bool:
        if isinstance(old, dict):
            return all(holds(value, new[key]) for key, value in old.items())
        return bool(old == new)

    assert holds(stored | {"training": stored["training"] or None}, to_json(config))


@pytest.mark.quick
def test_what_earlier_versions_left_out_has_its_meaning() -> None:
    clean = read_gan(GAN, "")
    assert isinstance(clean, GanConfig) and clean.data.corruption == "identity" and clean.gan == GAMES["dcgan"]
    imported = read_ddpm(IMPORTED, "")
    assert imported.training is imported.labels is imported.fid is None and imported.source is not None
    old = read_ddpm(DDPM | {"network": {key: value for key, value in UNET.items() if key != "scale_shift"}}, "").network
    assert isinstance(old, UNetConfig) and old.scale_shift is False and old.norm == "group"
    measured = read_ddpm(DDPM, "").fid
    assert measured == FidConfig(3, samples=8, steps=2, features="/runs/classifier") and measured.network is None


def changed(stored: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The config with the value at a path such as "training.lr"; "gone" removes the key."""
    stored = json.loads(json.dumps(stored))
    *parts, last = path.split(".")
    inner = stored
    for part in parts:
        inner = inner[part]
    inner[last] = value
    if value == "gone":
        del inner[last]
    return stored


WRONG = [
    ("ddpm", "diffusion.schedule", None, '"diffusion.schedule" is None, and should be a valid string'),
    ("ddpm", "labels", 3, '"labels" is 3, and should be an object'),
    ("ddpm", "diffusion.prediction", -1, '"diffusion.prediction" is -1, and should be a valid string'),
    ("ddpm", "training.lr", "fast", "\"training.lr\" is 'fast', and should be a valid number"),
    ("ddpm", "training.steps", True, '"training.steps" is True, and should be a valid integer'),
    ("ddpm", "training.decay", "linear", "\"training.decay\" is 'linear', and should be 'constant' or 'cosine'"),
    ("ddpm", "training.lr", -1.0, 'in "training", "lr" is -1.0. Use a rate above 0'),
    ("ddpm", "training.lr", "gone", '"training.lr" is missing'),
    ("ddpm", "diffusion.timesteps", "gone", '"diffusion.timesteps" is missing'),
    ("ddpm", "network.channels", "gone", '"network.channels" is missing'),
    ("ddpm", "network.channels", [8, "x"], "\"network.channels.1\" is 'x'"),
    ("ddpm", "network.image_size", 0, 'in "network", "image_size" is 0'),
    ("ddpm", "network.depth", 3, '"network.depth" is not a key of this version'),
    ("ddpm", "network", "gone", '"network" is missing'),
    ("ddpm", "training", {}, '"training.steps" is missing'),
    ("ddpm", "training", None, '"training" is None'),
    ("ddpm", "fid.every", 0, 'in "fid", "fid_every" is 0'),
    ("dcgan", "network.image_size", 0, 'in "network", "image_size" is 0'),
    ("dcgan", "gan.optimizer", "sgd", "\"gan.optimizer\" is 'sgd', and should be 'adam' or 'rmsprop'"),
    ("dcgan", "gan.betas", "gone", 'in "gan", "betas" is None'),
    ("dcgan", "gan.critic_steps", "gone", '"gan.critic_steps" is missing'),
    ("dip-prior", "noise", 0.0, '"noise" is 0.0. Use a deviation above 0'),
    ("dip-prior", "net", 3, '"net" is 3, and should be a valid string'),
    ("classifier", "data", True, '"data" is True, and should be an object'),
    ("classifier", "labels", None, '"labels" is None, and should be an object'),
    ("classifier", "data.channels", 2, 'in "data", "channels" is 2'),
    ("classifier", "shift", "gone", '"shift" is missing'),
]


@pytest.mark.quick
@pytest.mark.parametrize("kind, path, value, said", WRONG, ids=lambda part: str(part)[:30])
def test_what_is_wrong_is_one_line(kind: str, path: str, value: object, said: str) -> None:
    """It names the file, the key, the value and what was expected."""
    stored, read = KINDS[kind]
    with pytest.raises(UserError) as error:
        read(changed(stored, path, value), "runs/a/config.json")
    line = str(error.value)
    assert line.startswith("runs/a/config.json: ") and said in line and "\n" not in line


@pytest.mark.parametrize("kind", ["ddpm", "dcgan", "classifier"])
@pytest.mark.parametrize("command", ["info {}", "sample {}", "train {kind} --resume {}", "report {}", "fid {} {}"])
def test_every_command_says_it_in_a_line(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command ends in a traceback, and none writes anything."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for path, value in (("data", True), ("training", 3), ("network.width", []), ("network", "gone")):
        Path("run/config.json").write_text(json.dumps(changed(KINDS[kind][0], path, value)))
        before = sorted(tmp_path.rglob("*"))
        code = cli.run(command.format("run", "run", kind=kind).split())
        printed = capsys.readouterr()
        assert code == 1 and "Traceback" not in printed.err, (path, printed)
        assert len([line for line in printed.err.splitlines() if line.startswith("Error: ")]) == 1
        assert sorted(tmp_path.rglob("*")) == before
