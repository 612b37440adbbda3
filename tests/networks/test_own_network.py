"""Networks of one's own: trained, resumed and drawn from like a UNet; and never run because a folder says so."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.networks.own import NETWORKS, as_unet
from minidiff.runs.folder import read_tensors

CODE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, width, labels=0):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.tied = self.last.weight
        self.label = nn.Linear(labels, width) if labels else None

    def forward(self, x, t, labels=None):
        h = self.first(x) + t.view(-1, 1, 1, 1) / 50
        if self.label is not None:
            h = h + self.label(labels)[:, :, None, None]
        return self.last(torch.tanh(h))

class Flat(Tiny):
    def forward(self, x, t):
        return x.mean(dim=1)

def number(width):
    return width
"""
OPTIONS: dict[str, Any] = {"preset": "tiny", "sample_every": 60, "steps": 4, "batch_size": 4, "device": "cpu"}


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of a user: his network in a file, and nothing of it imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)  # pictures take most of the time
    monkeypatch.setattr("minidiff.ddpm.previews.COLUMNS", 1)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    (tmp_path / "my_module.py").write_text(CODE)
    (tmp_path / "half_written.py").write_text("def (")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget()


def forget() -> None:
    """Be as another process: nobody has named the network there."""
    NETWORKS.clear()
    sys.modules.pop("my_module", None)


def test_it_trains_into_a_run_that_opens_again(
    photos: Path, tiny_preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit when resumed, by the command line too, with labels; and only after its code has been named."""
    own: dict[str, Any] = {"network": "my_module:Tiny", "network_arguments": {"width": 4, "labels": 2}, **OPTIONS}
    images = minidiff.load_data(photos, image_size=16).images
    own |= {"labels": [0, 1] * 12, "conditional": True}
    whole = minidiff.train("ddpm", images, out="whole", **own)
    minidiff.train("ddpm", images, out="half", **own | {"steps": 2})
    expected = torch.cat([batch for batch in whole.sample(2, steps=2, labels=[[1]])])
    forget()
    with pytest.raises(UserError, match="my_module:Tiny.*a run may not choose.*use_network"):
        minidiff.load("whole")
    assert "my_module" not in sys.modules
    named = "--network my_module:Tiny --device cpu"
    assert cli.run(["sample", "whole", "--labels", "1", "--num", "1", "--device", "cpu", "--out", "no.png"]) == 1
    assert cli.run(f"sample whole --labels 1 --num 1 --steps 2 {named} --out grid.png".split()) == 0
    assert cli.run(f"train ddpm --resume half --steps 4 {named}".split()) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next"))
    assert "sample half" in told and told.endswith("--network my_module:Tiny")
    assert cli.run(["info", "whole"]) == 0
    again = minidiff.load("whole")
    assert torch.equal(torch.cat([batch for batch in again.sample(2, steps=2, labels=[[1]])]), expected)
    found = read_tensors(Path("half/model.safetensors"))
    assert all(torch.equal(tensor, found[name]) for name, tensor in again.model.state_dict().items())
    assert next(again.sample(2, steps=2, labels=[[0], [1]], guidance_scale=3.0)).isfinite().all()
    with pytest.raises(UserError, match="my_module:Tiny, for which diffusers has no layers"):
        minidiff.export_run("whole", "theirs")
    stored = json.loads(Path("whole/config.json").read_text())
    for network in (2.5, [], "module", None):  # whatever lies there is judged before it is believed
        Path("whole/config.json").write_text(json.dumps(stored | {"network": network}))
        with pytest.raises(UserError, match=r"whole/config\.json: .*network"):
            minidiff.export_run("whole", "theirs")


def test_a_folder_cannot_choose_code(trained: Path, tmp_path: Path) -> None:
    """Neither a module that lies there, nor one of Python's own, nor an attribute of what has been named."""
    config = read_json(trained / "config.json")
    Path("evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    for module in ("evil:Net", "os:system", "torch.nn:Identity", "my_module:Flat", "my_module:Tiny.forward"):
        minidiff.use_network("my_module:Tiny")
        network = {"module": module, "arguments": {}, "image_size": 16, "in_channels": 3, "label_dim": 0}
        (tmp_path / "bad").mkdir(exist_ok=True)
        write_json(tmp_path / "bad" / "config.json", config | {"network": network})
        (tmp_path / "bad" / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match=module):
            minidiff.load("bad")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "network, said",
    [
        ({"module": 5}, '"network.module" is 5'),
        ({"image_size": 0}, "image_size.* is 0"),
        ({"in_channels": 1}, "in_channels.* is 1"),
        ({"width": 3}, '"network.width" is not a key'),
    ],
)
def test_a_damaged_config_names_the_key(network: dict[str, Any], said: str, trained: Path, tmp_path: Path) -> None:
    """Of the kind of network that is meant: not the keys that a UNet would need."""
    config = read_json(trained / "config.json")
    own = {"module": "my_module:Tiny", "arguments": {}, "image_size": 16, "in_channels": 3, "label_dim": 0}
    (tmp_path / "bad").mkdir()
    write_json(tmp_path / "bad" / "config.json", config | {"network": own | network})
    with pytest.raises(UserError, match=said):
        minidiff.load("bad")


@pytest.mark.parametrize(
    "network, arguments, said",
    [
        ("my_module:Tiny", {}, "cannot be made with {}: .*width"),
        ("my_module:Tiny", {"width": 4, "labels": 2}, r"cannot be called with x \[2, 3, 16, 16\]"),
        ("my_module:Flat", {"width": 4}, r"makes \[2, 16, 16\] of x \[2, 3, 16, 16\]"),
        ("my_module:number", {"width": 4}, "made a int, not a torch.nn.Module"),
        ("my_module:Tinny", {}, "has no Tinny"),
        ("my_modul:Tiny", {}, "no module my_modul"),
        ("half_written:Tiny", {}, "half_written, which .* cannot be imported .SyntaxError"),
        ("my_module:Tiny", {"width": -4}, "cannot be made with {'width': -4}: .*Error"),
        ("Tiny", {}, "Write module and class as in my_module:MyUNet"),
        ("my_module:torch", {}, "must be a class"),
        ("my_module:Tiny", {"width": nn.Linear}, "which JSON cannot hold"),
        (None, {"width": 4}, "`network_arguments` needs `network`"),
        (lambda: nn.Identity(), {}, "no other program can import"),
    ],
)
def test_what_is_no_network(network: Any, arguments: dict[str, Any], said: str, photos: Path, tiny_preset: str) -> None:
    with pytest.raises(UserError, match=said):
        minidiff.plan_training("ddpm", photos, network=network, network_arguments=arguments, **OPTIONS)


def test_labels_that_are_not_told_are_zeros() -> None:
    """So a network of one's own needs no second argument for them: fails when rows of `keep` are exchanged."""
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x

    x, t, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.eye(2)
    called = as_unet(network, 2)
    called(x, t), called(x, t, labels), called(x, t, labels, torch.tensor([True, False]))
    assert [each.tolist() for each in seen] == [[[0, 0], [0, 0]], [[1, 0], [0, 1]], [[1, 0], [0, 0]]]
