"""Run folders: whole or not at all, loaded exactly or not at all."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minidiff.errors import UserError
from minidiff.files import write_atomically
from minidiff.networks.weights import load_exactly
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import append_metrics, read_metrics, write_metrics


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def half(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from minidiff.errors import UserError
from minidiff.runs import folder as checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
small, large = {"w": torch.zeros(10)}, {"w": torch.zeros(1_000_000)}
checkpoint.save_state(folder, {"step": 1, **small}), checkpoint.save_model(folder, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for save in (checkpoint.save_state, checkpoint.save_model):
    try:
        save(folder, large)
        sys.exit("nothing was raised")
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    """The limit on the size of a file makes every write past 1 MB fail, as a full disk does."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("cannot write") for line in lines), done.stdout
    state = checkpoint.read_state(tmp_path)
    assert state is not None and len(state["w"]) == 10
    assert len(checkpoint.read_tensors(tmp_path / "model.safetensors")["w"]) == 10
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "state.pt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_weights_must_fit_exactly() -> None:
    """Missing, foreign and misshapen tensors are each named, and nothing is copied."""
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    good = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    for broken, message in (
        ({"weight": good["weight"]}, "bias is missing"),
        (good | {"more": torch.zeros(1)}, "more is not of this network"),
        (good | {"weight": torch.zeros(2, 3)}, r"weight is \[2, 3\], not \[3, 2\]"),
    ):
        with pytest.raises(UserError, match=message):
            load_exactly(layer, broken, "file")
        assert torch.equal(layer.weight, before)
    load_exactly(layer, good, "file")
    assert torch.equal(layer.weight, good["weight"])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Evil()}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="state.pt is damaged"):
        checkpoint.read_state(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    assert checkpoint.read_state(tmp_path) is None
    for content in (b"", b"text", b"PK\x03\x04 cut"):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(UserError, match="state.pt is damaged"):
            checkpoint.read_state(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors is damaged"):
            checkpoint.read_tensors(tmp_path / "model.safetensors")
    checkpoint.save_model(tmp_path, {"w": torch.zeros(1000)})
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_tensors(tmp_path / "model.safetensors")


def test_configs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.read_config(tmp_path / "no")
    with pytest.raises(UserError, match="is not a run folder"):
        checkpoint.read_config(tmp_path)
    for text, message in (
        ("{", "is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not a JSON object"),
        ("{}", "not written by"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            checkpoint.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "gan"}')
    with pytest.raises(UserError, match="is a gan run; this command needs a ddpm run"):
        checkpoint.read_config(tmp_path, kind="ddpm")
    with pytest.raises(UserError, match="is a file, not a run folder"):
        checkpoint.read_config(tmp_path / "config.json")


def test_the_newest_fitting_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ddpm run with weights"):
        checkpoint.open_newest("ddpm", str, tmp_path)
    for age, (name, kind) in enumerate([("new-gan", "gan"), ("b", "ddpm"), ("a", "ddpm"), ("unsaved", "ddpm")]):
        folder = checkpoint.create_run(tmp_path / name, "", {"kind": kind})
        if name != "unsaved":
            (folder / "model.safetensors").touch()
            os.utime(folder / "model.safetensors", (1e9 - age, 1e9 - age))
    assert checkpoint.open_newest("ddpm", str, tmp_path)[0].name == "b"
    assert len(checkpoint.list_runs(tmp_path)) == 4


def test_run_folders_are_numbered_and_never_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint.create_run(None, "x", {"kind": "ddpm"}) == Path("runs/x-1")
    assert checkpoint.create_run(None, "x", {"kind": "ddpm"}) == Path("runs/x-2")
    with pytest.raises(UserError, match="not empty. Go on with it by `resume` runs/x-1"):
        checkpoint.create_run("runs/x-1", "x", {"kind": "ddpm"})
    Path("file").touch()
    with pytest.raises(UserError, match="file is a file, so file/run cannot be a folder"):
        checkpoint.create_run("file/run", "x", {"kind": "ddpm"})


def test_metrics_forgive_a_line_cut_short(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    for step in (10, 20, 30):
        append_metrics(tmp_path, {"step": step, "loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [10, 20, 30]
    write_metrics(tmp_path, read_metrics(tmp_path, upto=20))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20]
