"""Two processes under torchrun do what one does: the same weights from the same global batch, the same samples."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import finish, minidiff

from minidiff.errors import UserError
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics
from minidiff.runtime.distributed import card_towards, local_device

CAN_ISOLATE = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.mark.slow
def test_two_processes_train_and_sample_as_one(photos: Path, tmp_path: Path) -> None:
    """The same global batch of 8, as 8 and as 2 x 2 x 2 (processes, accumulation slices): the losses and weights agree
    to rounding. Fails when processes draw the same noise, see the same images, leave the same labels untold, or
    gradients are not averaged. Then 5 samples by two processes, of which the second gets fewer, equal those of one."""
    for number, photo in enumerate(sorted(photos.glob("*.png"))):
        kind = tmp_path / "data" / ("odd" if number % 2 else "even")
        kind.mkdir(parents=True, exist_ok=True)
        (kind / photo.name).symlink_to(photo)
    train = "train ddpm --device cpu --dataset folder --data-dir data --image-size 16 --steps 4 --batch-size 8"
    train += " --conditional --label-dropout 0.4"
    one = finish(minidiff(1, f"{train} --out one", tmp_path))
    two = finish(minidiff(2, f"{train} --accumulate 2 --out two", tmp_path))
    assert "over 2 processes" in two and "processes" not in one
    assert two.count("done      look at") == 1  # only the main process speaks

    weights = [checkpoint.read_tensors(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    difference = max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0])
    assert difference < 1e-4, difference
    losses = [[r["loss"] for r in read_metrics(tmp_path / run)] for run in ("one", "two")]
    assert np.allclose(*losses, rtol=1e-4), losses
    assert len(losses[1]) == 4

    for processes in (1, 2):
        options = f"sample one --device cpu -n 5 --steps 5 --batch-size 3 --out {processes}.npz"
        finish(minidiff(processes, f"{options} --labels even --labels odd", tmp_path))
    images = [np.load(tmp_path / f"{processes}.npz")["images"].astype(int) for processes in (1, 2)]
    assert images[0].shape == images[1].shape == (5, 16, 16, 3)
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.slow
def test_two_processes_move_alike_by_muon(photos: Path, tmp_path: Path) -> None:
    """Each process orthogonalises the same averaged gradients. Fails when a process moves by its own gradients alone.
    Muon lifts what rounding leaves in weak directions, so the weights agree less closely than AdamW's."""
    train = f"train ddpm --muon --device cpu --dataset folder --data-dir {photos} --image-size 16 --steps 4"
    for processes, name in ((1, "one"), (2, "two")):
        finish(minidiff(processes, f"{train} --batch-size 8 --out {name}", tmp_path))
    losses = [[r["loss"] for r in read_metrics(tmp_path / run)] for run in ("one", "two")]
    assert np.allclose(*losses, rtol=1e-3), losses
    states = [checkpoint.read_state(tmp_path / run) for run in ("one", "two")]
    assert states[0] is not None and states[1] is not None
    for number, kept in states[0]["muon"]["state"].items():
        other = states[1]["muon"]["state"][number]["momentum"]
        assert (kept["momentum"] - other).norm() <= 0.02 * kept["momentum"].norm(), number


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces with a cable between: they stand for two hosts, 10.99.0.1 and 10.99.0.2."""
    names = [f"minidiff-{os.getpid()}-{number}" for number in (1, 2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable1", "netns", names[0], "type", "veth", "peer", "name", "cable2", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", f"cable{number}")
            for card in ("lo", f"cable{number}"):
                ip("-n", name, "link", "set", card, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def on_hosts(hosts: list[str], arguments: str, folders: list[Path]) -> list[str]:
    """Run minidiff with one process on each host, each in a folder of its own. Returns what they print."""
    running = []
    for number, (host, folder) in enumerate(zip(hosts, folders, strict=True)):
        folder.mkdir(exist_ok=True)
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={number}", "--nproc_per_node=1",
                    "--master_addr=10.99.0.1", "--master_port=29555"]  # fmt: skip
        running.append(subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, *torchrun, "-m", "minidiff", *arguments.split()],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MINIDIFF_CACHE": str(folder / "cache")},
        ))  # fmt: skip
    try:
        return [finish(process) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_ISOLATE, reason="network namespaces need Linux, root and the command ip")
def test_two_hosts_train_as_one(photos: Path, tmp_path: Path, hosts: list[str]) -> None:
    """Two hosts that share no folder, and whose own name means 127.0.0.1, as on many machines. The first has the run.
    Fails when gloo is left to take the address of that name; the other host is not heard there."""
    train = f"train ddpm --device cpu --dataset folder --data-dir {photos} --image-size 16 --steps 4 --batch-size 8"
    finish(minidiff(1, f"{train} --out one", tmp_path))
    said = on_hosts(hosts, f"{train} --out two", [tmp_path / "first", tmp_path / "second"])
    assert "over 2 processes" in said[0] and "done" not in said[1]
    assert not (tmp_path / "second/two").exists()
    weights = [checkpoint.read_tensors(tmp_path / run / "model.safetensors") for run in ("one", "first/two")]
    difference = max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0])
    assert difference < 1e-3, difference
    losses = [[r["loss"] for r in read_metrics(tmp_path / run)] for run in ("one", "first/two")]
    assert len(losses[0]) == 4 and np.allclose(*losses, rtol=1e-3), losses


@pytest.mark.slow
def test_an_interrupt_stops_all_processes_and_saves(photos: Path, tmp_path: Path) -> None:
    """SIGTERM to torchrun, as a cluster sends it: all processes agree on the step to stop after; one saves."""
    train = f"train ddpm --device cpu --dataset folder --data-dir {photos} --image-size 16 --steps 5000 --batch-size 4"
    process = minidiff(2, f"{train} --save-every 5000 --out run", tmp_path)
    for _ in range(3000):
        if read_metrics(tmp_path / "run"):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "minidiff train ddpm --resume run" in output, output
    state = checkpoint.read_state(tmp_path / "run")
    assert state is not None and state["step"] >= 1
    assert all(torch.isfinite(tensor).all() for tensor in state["ema"].values())


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_network_card_that_leads_to_a_host() -> None:
    """To itself it is the loopback; to a name that nobody has, none."""
    assert card_towards("127.0.0.1") == "lo"
    assert card_towards("nobody.invalid") is None


def test_a_device_that_torch_does_not_know_is_named() -> None:
    """From a script, where no command has looked at it first."""
    with pytest.raises(UserError, match="unknown `device` 'tpu'"):
        local_device("tpu")
