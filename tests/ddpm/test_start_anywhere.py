"""The reverse chain from any image: what x_t is made of an init, a timestep for each, and several steps of a fit."""

import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fits import fit_config, folder_config
from PIL import Image
from processes import finish, minidiff
from torch import Tensor, nn

from minidiff import cli, load
from minidiff.ddpm.inits import INIT_MODES
from minidiff.ddpm.run import Run
from minidiff.diffusion.noise_level import start_from, timestep_for
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.samplers import Step
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize, read_image, write_image
from minidiff.pretrained.request import DrawRequest
from minidiff.pretrained.sampling import plan
from minidiff.runtime.distributed import shares


class KnownImages(nn.Module):
    """The exact denoiser of data that is one of a few images [K,C,H,W], each as likely: their mean, given x_t."""

    prediction = "x0"

    def __init__(self, images: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.images, self.schedule = nn.Parameter(images), schedule

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = self.schedule.at(t, like=x)
        distance = (x[:, None] - level.alpha_bar.sqrt()[:, None] * self.images).pow(2).sum(dim=(2, 3, 4))
        share = (-distance / (2 * level.var[:, :, 0, 0])).softmax(dim=1)
        return torch.einsum("nk,kchw->nchw", share, self.images)


def run_of(images: Tensor, schedule: Schedule) -> Run:
    """A run whose network is perfect."""
    data = SimpleNamespace(channels=images.shape[1], image_size=images.shape[-1])
    network, diffusion = SimpleNamespace(label_dim=0), SimpleNamespace(trained_below=None, variance="fixed_small")
    config = SimpleNamespace(data=data, network=network, diffusion=diffusion, labels=None, source=None, prior=None)
    return Run(Path("perfect"), config, KnownImages(images, schedule), schedule, "fp32")  # type: ignore[arg-type]


def photos_of(*names: str) -> Tensor:
    """Photographs of scikit-image: float [K,3,48,48]."""
    data = pytest.importorskip("skimage.data")
    return torch.cat([to_float(crop_resize(getattr(data, name)(), 48)[None].copy()) for name in names])


def noisy(x0: Tensor, schedule: Schedule, t: int, seed: int = 0) -> Tensor:
    """x0 [1,C,H,W] with the noise of x_t, at its own scale: x_t / sqrt(alpha_bar)."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    return q_sample(schedule, x0, torch.tensor([t]), noise) / math.sqrt(schedule.alphas_cumprod[t])


# --- the three modes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_t", [3, 20, 49])
@pytest.mark.parametrize("mode", ["noise", "scale"])
def test_the_chain_has_the_forward_marginals_from_its_first_x(mode: str, start_t: int) -> None:
    """An init that fits its mode (clean, or x_t / sqrt(alpha_bar) for `scale`), and data of one known image: at the
    start and after every step, (x_s - sqrt(alpha_bar_s) x0) / sqrt(1 - alpha_bar_s) is standard normal, to 4.5 sigma.
    From t = 20 the mean is 22 sigma off and the variance 90 when `scale` takes alpha_bar without the root; 60 and 610
    when it does not scale; the variance is 107 when it adds noise as `noise` does, 22 at the root of t - 1."""
    schedule, count = Schedule.linear(50), 1500
    x0 = torch.linspace(-0.9, 0.9, 16).reshape(1, 1, 4, 4)
    run = run_of(x0, schedule)
    init = x0.expand(count, -1, -1, -1)
    if mode == "scale":
        init = torch.cat([noisy(x0, schedule, start_t, seed) for seed in range(count)])
    options = {"sampler": "ddpm", "start_t": start_t, "init": init, "init_mode": mode}
    chain = [step.x for step in run.chain(list(range(count)), **options)]
    assert len(chain) == start_t + 1 and (chain[-1] - x0).abs().max() < 1e-4
    x = [run.start(list(range(count)), **options)[0], *chain[:-1]]
    for s, x_s in zip(range(start_t, -1, -1), x, strict=True):
        alpha_bar = schedule.alphas_cumprod[s].item()
        z = (x_s - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)
        slope = (z * x0).sum() / x0.square().sum().sqrt() / math.sqrt(count)  # what is wrong goes along x0
        variance = (z.square().mean() - 1) * math.sqrt(z.numel() / 2)
        assert abs(slope) < 4.5 and abs(variance) < 4.5, (s, slope, variance)


def test_what_each_mode_makes_of_an_init(trained: Path) -> None:
    """`scale` and `as-is` to the bit; all three leave the chain's further noise the same."""
    run, init = load(trained), torch.rand(3, 3, 16, 16) * 2 - 1
    made = {mode: run.start([4, 5, 6], start_t=30, init=init, init_mode=mode, seed=1) for mode in INIT_MODES}
    alpha_bar = run.schedule.alphas_cumprod[30]
    pure, _ = run.start([4, 5, 6], start_t=30, seed=1)
    assert torch.equal(made["as-is"][0], init)
    assert torch.equal(made["scale"][0], alpha_bar.sqrt().float() * init)
    assert torch.allclose(made["noise"][0], alpha_bar.sqrt() * init + (1 - alpha_bar).sqrt() * pure, atol=1e-6)
    states = [[generator.get_state() for generator in generators] for _, generators in made.values()]
    assert all(torch.equal(a, b) for other in states[1:] for a, b in zip(states[0], other, strict=True))


# --- auto ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [{"sampler": "ddpm"}, {"sampler": "ddim", "steps": 20}])
def test_auto_finds_each_images_timestep_and_its_clean_image(sampler: dict[str, object]) -> None:
    """Photographs with the noise of known timesteps, a network that knows them among others: every chain begins within
    10 of 1000 of the truth (2 seen), and ends in the right photograph. From T-1 wrong ones come out."""
    schedule, clean = Schedule.linear(), photos_of("astronaut", "chelsea", "coffee", "rocket")
    run, truth = run_of(clean, schedule), [30, 100, 250, 450]
    init = torch.cat([noisy(clean[k : k + 1], schedule, t, seed=k) for k, t in enumerate(truth)])
    seen: list[Step] = []
    (images,) = run.sample(4, init=init, start_t="auto", on_step=seen.append, **sampler)
    first = [step.t for before, step in zip([None, *seen], seen, strict=False) if before is None or step.t > before.t]
    assert len(first) == 4 and max(abs(t - true) for t, true in zip(first, truth, strict=True)) <= 10, first
    assert first == [start_from(schedule, image[None]).t for image in init]
    assert (images - clean).abs().max() < 0.01
    (scrambled,) = run.sample(4, init=init, start_t=999, **sampler)
    assert (scrambled - clean).abs().max() > 0.5


def test_auto_scales_unless_told_otherwise(trained: Path) -> None:
    run, init = load(trained), 0.3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (auto,) = run.sample(2, init=init, start_t="auto")
    times = [start_from(run.schedule, image[None]).t for image in init]
    for mode, same in (("scale", True), ("noise", False), ("as-is", False)):
        (told,) = run.sample(2, init=init, start_t="auto", init_mode=mode)
        assert torch.equal(told, auto) == same
        (listed,) = run.sample(2, init=init, start_t=times, init_mode=mode)
        assert torch.equal(listed, told)


@pytest.mark.parametrize("sampler", [{"sampler": "ddpm"}, {"sampler": "ddim", "steps": 9, "eta": 1.0}])
def test_a_sample_depends_neither_on_the_batch_nor_on_the_others(trained: Path, sampler: dict[str, object]) -> None:
    """Seven samples of three inits, whose timesteps differ: in batches of 7, 2 and 1, and each by itself."""
    run, timesteps = load(trained), [12, 40, 12]
    init = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    options = {"init": init, "start_t": timesteps, "init_mode": "noise", "seed": 3, **sampler}
    alone = torch.cat(
        [
            list(run.chain([k], **options | {"init": init[k % 3][None], "start_t": timesteps[k % 3]}))[-1].x
            for k in range(7)
        ]
    )
    for size in (7, 2, 1):
        calls: list[Step] = []
        batches = list(run.sample(7, batch_size=size, on_step=calls.append, **options))
        assert [len(batch) for batch in batches] == [min(size, 7 - first) for first in range(0, 7, size)]
        assert (torch.cat(batches) - alone).abs().max() < 2e-4
        # Those that share a timestep share a chain; the total for a progress bar is known before.
        assert len(calls) == sum(run.calls(mine, batch_size=size, **options) for mine in shares(7, size))
        a_chain = {t: len(run.timesteps(start_t=t, **sampler)) for t in timesteps}
        assert len(calls) == {7: sum(a_chain.values()), 1: 5 * a_chain[12] + 2 * a_chain[40]}.get(size, len(calls))


def test_steps_are_cut_to_what_an_estimated_timestep_leaves(trained: Path) -> None:
    """Nobody can know it beforehand; with a timestep that was given it stays an error."""
    run, init = load(trained), torch.zeros(2, 3, 16, 16)
    assert run.calls([0, 1], init=init, start_t=[3, 30], steps=20) == 4 + 20
    with pytest.raises(UserError, match="20 steps do not fit in 4"):
        list(run.sample(2, init=init, start_t=3, steps=20))


def test_what_auto_cannot_start_from(trained: Path) -> None:
    run = load(trained)
    with pytest.raises(UserError, match="auto needs `init`"):
        next(run.sample(2, start_t="auto"))
    with pytest.raises(ValueError, match="2 timesteps for 1 inits"):
        next(run.sample(2, start_t=[3, 4], init=torch.zeros(1, 3, 16, 16)))
    with pytest.raises(UserError, match="unknown `start_t` 'soon'"):
        next(run.sample(2, start_t="soon", init=torch.zeros(1, 3, 16, 16)))
    with pytest.raises(UserError, match="needs `start_t`"):
        next(run.sample(2, init=torch.zeros(1, 3, 16, 16)))


def test_an_init_of_another_size_is_refused(trained: Path) -> None:
    with pytest.raises(UserError, match=r"an init .*\[3, 8, 8\].*this run's images .*\[3, 16, 16\]"):
        list(load(trained).sample(1, init=torch.zeros(1, 3, 8, 8), start_t=5))


@pytest.mark.slow
def test_two_processes_share_inits_of_different_timesteps(trained: Path, photos: Path, tmp_path: Path) -> None:
    """Under torchrun, 5 of the photos with noise from none to much, batches of 2: what one process draws."""
    for number, path in enumerate(sorted(photos.glob("*.png"))[:5]):
        picture = to_float(read_image(path)[None])
        torch.manual_seed(number)
        write_image(tmp_path / "inits" / path.name, to_uint8(picture + 0.15 * number * torch.randn_like(picture))[0])
    output = {}
    for processes in (1, 2):
        options = f"sample {trained} --device cpu --start-t auto --init inits --batch-size 2 --out {processes}.npz"
        output[processes] = finish(minidiff(processes, options, tmp_path))
    one, two = (np.load(tmp_path / f"{processes}.npz")["images"].astype(int) for processes in (1, 2))
    assert one.shape == two.shape == (5, 16, 16, 3)
    assert np.abs(one - two).max() <= 1
    assert output[2].count("start     ") == 5  # said by the main process alone


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture()
def dip_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of a fit, as far as sampling looks into it: outputs that lose their noise, and the answer."""
    monkeypatch.chdir(tmp_path)
    clean = to_float(read_image(sorted(photos.glob("*.png"))[3])[None])
    folder = Path("runs/dip-photo-1")
    for step, sigma in ((10, 0.6), (20, 0.3), (30, 0.1)):
        torch.manual_seed(step)
        write_image(folder / f"steps/{step:06d}.png", to_uint8(clean + sigma * torch.randn_like(clean))[0])
    write_image(folder / "dip.png", to_uint8(clean)[0])
    (folder / "config.json").write_text(json.dumps(fit_config()))
    return folder


def cells(path: str, columns: int) -> np.ndarray:
    """The 16x16 pictures of a grid of theirs, without the names above and beside it: uint8 [rows,columns,16,16,3]."""
    picture = np.asarray(Image.open(path))
    rows = (picture.shape[0] - 2) // 66
    picture = picture[-66 * rows - 2 :, -66 * columns - 2 :]
    return picture[2:, 2:].reshape(rows, 66, columns, 66, 3)[:, :64:4, :, :64:4].transpose(0, 2, 1, 3, 4)


def test_several_steps_of_a_fit_in_one_grid(trained: Path, dip_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each step: the saved picture itself, x_t at four moments, and the image that other outputs hold."""
    options = ["sample", str(trained), "--start-t", "20", "--init", str(dip_run), "--init-steps", "30,10"]
    assert cli.run([*options, "--progressive", "4"]) == 0
    said = capsys.readouterr()
    assert "a row for each of the steps 30, 10" in said.out and "21 of 21" in said.err
    assert "columns   the init, x_t at t = 20, 12, 6, 0, the image" in said.out
    assert not list(Path().glob("*progressive*"))
    table = cells("sample.png", 6)
    assert len(table) == 2
    for row, step in enumerate((30, 10)):
        assert (table[row, 0] == read_image(dip_run / f"steps/{step:06d}.png")).all()

    # `noise` is the default: x_20 has that of the schedule. as-is, x_20 is the init.
    run = load(trained)
    init = to_float(np.stack([read_image(dip_run / f"steps/{step:06d}.png") for step in (30, 10)]))
    x, _ = run.start([0, 1], start_t=20, init=init)
    assert (table[:, 1] == to_uint8(x)).all()
    assert cli.run([*options, "--init-mode", "as-is", "--out", "as-is.png"]) == 0
    as_is = cells("as-is.png", 10)
    assert (as_is[:, 0] == as_is[:, 1]).all() and (as_is[:, 0] == table[:, 0]).all()

    for out in ("all.npz", "all"):
        assert cli.run([*options, "--out", out, "--batch-size", "1"]) == 0
    images = np.load("all.npz")["images"].astype(int)
    assert np.abs(images - table[:, -1]).max() <= 1
    assert (np.load("all.npz")["images"][1] == read_image("all/000001.png")).all()
    assert cli.run([*options, "--out", "one.png", "--batch-size", "1", "--progressive", "4"]) == 0
    assert np.abs(cells("one.png", 6).astype(int) - table).max() <= 1


def test_steps_of_a_fit_each_from_its_own_timestep(
    trained: Path, dip_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The noisier the step, the later it starts; in the row of a short chain some columns repeat."""
    options = ["sample", str(trained), "--start-t", "auto", "--init", str(dip_run), "--init-steps", "10,20,30"]
    assert cli.run([*options, "--progressive", "4", "--out", "g.png"]) == 0
    said, drawn = capsys.readouterr()
    assert "hardly any noise" not in drawn
    found = re.findall(r"start     step (\d+): noise ([\d.]+) \(([\d.]+) of 255\), so t = (\d+)", said)
    assert [int(step) for step, *_ in found] == [10, 20, 30]
    run = load(trained)
    for _, sigma, of_255, t in found:
        assert float(of_255) == pytest.approx(127.5 * float(sigma), abs=0.12)
        assert abs(timestep_for(run.schedule, float(sigma)) - int(t)) <= 1
    timesteps = [int(t) for *_, t in found]
    assert timesteps == sorted(timesteps, reverse=True) and len(set(timesteps)) == 3
    assert "3 images, ddim, from 3 different t, one chain after another" in said
    for step, *_, t in found:
        assert f"row       step {step}, t = {t}, " in said
    picture = np.asarray(Image.open("g.png"))  # each 96 pixels high and 104 wide, with its t below
    assert (picture.shape[0] - 2) % 3 == 0
    table = picture[2:, -6 * 104 :].reshape(3, -1, 6, 104, 3)[:, :96:6, :, 3:99:6].transpose(0, 2, 1, 3, 4)
    scaled = math.sqrt(run.schedule.alphas_cumprod[timesteps[0]]) * to_float(table[:1, 0].copy())
    assert (table[:1, 1] == to_uint8(scaled)).all()
    assert cli.run([*options, "--out", "g.npz"]) == 0
    for bar in (drawn, capsys.readouterr().err):  # its end is right
        done, total = map(int, re.findall(r"%, (\d+) of (\d+), ", bar)[-1])
        assert done == total == sum(t + 1 for t in timesteps)
    assert np.abs(np.load("g.npz")["images"].astype(int) - table[:, -1]).max() <= 1


def test_the_answer_of_a_fit_and_those_of_a_folder(
    trained: Path, dip_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder as --init is its dip.png; that of several pictures, all of dip/. A smooth one has no noise: said."""
    for init in (str(dip_run), str(dip_run / "dip.png")):
        assert cli.run(["sample", str(trained), "--start-t", "5", "--init", init, "--out", f"{len(init)}.npz"]) == 0
    first, second = (np.load(path)["images"] for path in sorted(Path().glob("*.npz")))
    assert (first == second).all() and len(first) == 1
    several = Path("runs/dip-several-1")
    for path in sorted(photos.glob("*.png"))[:11]:
        write_image(several / "dip" / path.name, read_image(path))
    (several / "config.json").write_text(json.dumps(folder_config()))
    capsys.readouterr()
    assert cli.run(["sample", str(trained), "--start-t", "auto", "--init", str(several)]) == 0
    said = capsys.readouterr()
    assert "init      runs/dip-several-1: 11 of " in said.out
    assert said.out.count("start     ") == 8 and "start     and 4 more: noise 0.0" in said.out
    assert "start     00.png: noise 0.0" in said.out
    assert "hardly any noise was found" in said.err


def test_only_the_inits_that_are_used_are_read(trained: Path, photos: Path, tmp_path: Path) -> None:
    """--num 3 of 24 measures three."""
    from minidiff.pretrained import inits

    counted: list[int] = []

    def count(files: list[Path], *sizes: int) -> np.ndarray:
        counted.append(len(files))
        return np.stack([read_image(file) for file in files])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(inits, "read_images", count)
        assert cli.run(["sample", str(trained), "--start-t", "auto", "--init", str(photos), "--num", "3"]) == 0
    assert counted == [3]


def test_what_becomes_of_an_init_is_said_beforehand(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From what size to what; that detail is lost; what the model knows; and the image comes out plain, in its size."""
    monkeypatch.chdir(tmp_path)
    inits = {"large.png": (48, 40), "small.png": (9, 8), "own.png": (16, 16)}
    for name, size in inits.items():
        write_image(Path("all", name), np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    told = {
        "all/large.png": "40x48, cut to the centre and shrunk to the model's 16x16",
        "all/small.png": "8x9, cut to the centre and enlarged to the model's 16x16",
        "all/own.png": "16x16, the model's own size",
        "all": "3 of 8x9 to 40x48, cut to the centre, shrunk and enlarged to the model's 16x16",
    }
    for init, line in told.items():
        assert (
            cli.run(["sample", str(trained), "--start-t", "9", "--init", init, "--out", f"{Path(init).stem}.png"]) == 0
        )
        said = capsys.readouterr()
        assert f"init      {init}: {line}\n" in said.out
        lossy = f"{'large.png of all' if init == 'all' else init} has 40x48 pixels, and the model draws 16x16"
        assert (lossy in said.err) == ("large" in init or init == "all")
        assert (f"trained on the images of {photos}, and" in said.err) == (lossy in said.err)
    for init in ("large", "small", "own"):
        assert read_image(f"{init}.png").shape == (16, 16, 3)


def test_an_older_answer_of_a_fit_is_warned_of(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next line of the README after a second fit in the same folder; with the newer one nothing is said."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("dip.png", "dip-2.png")):
        write_image(name, np.full((16, 16, 3), 50 * number + 90, np.uint8))
        os.utime(name, (1000 + number, 1000 + number))
    for name, warned in (("dip.png", True), ("dip-2.png", False)):
        assert cli.run(["sample", str(trained), "--start-t", "5", "--init", name]) == 0
        assert ("Warning: dip-2.png is newer than dip.png" in capsys.readouterr().err) == warned


def test_what_lies_at_the_target_is_said_before_anything_is_drawn(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is planned, before any bar is shown; also for a place in which nothing can be made."""
    monkeypatch.chdir(tmp_path)
    for name in ("s.npz", "s.png", "t-progressive.png", "c.png"):
        Path(name).write_text("mine")
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("s.npz", {}, "s.npz exists"),
        ("s.png", {}, "s.png exists"),
        ("c.png", {"compare": [("ddim", 2)]}, "c.png exists"),
        ("t.npz", {"progressive": 3}, "t-progressive.png exists"),
        ("s.png/a", {}, "s.png is a file"),
    ]
    for out, more, said in refused:
        with pytest.raises(UserError, match=said):
            plan(DrawRequest(trained, out=out, **more))
    plan(DrawRequest(trained, out="s.npz", force=True))
    assert sorted(os.listdir()) == ["c.png", "s.npz", "s.png", "t-progressive.png"]
