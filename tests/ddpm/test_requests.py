"""What can be asked of a run: checked where it is made, decided once, and the same from a script."""

import inspect
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import minidiff
from minidiff import cli, load
from minidiff.ddpm.chains import chains_of, resolve
from minidiff.ddpm.config import DdpmConfig
from minidiff.ddpm.request import ChainOptions, SampleRequest, Sampling
from minidiff.diffusion.noise_level import start_from
from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.pretrained.request import DrawRequest

INIT = torch.zeros(2, 3, 16, 16)

BAD = {
    "an unknown sampler": ({"sampler": "dim"}, "Did you mean 'ddim'"),
    "an unknown spacing": ({"spacing": "kara"}, "unknown spacing 'kara'"),
    "an unknown init mode": ({"init_mode": "asis"}, "unknown init mode 'asis'"),
    "an option of another sampler": ({"sampler": "ddpm", "eta": 0.5}, "`eta` belongs to the sampler ddim, not ddpm"),
    "eta": ({"eta": 1.5}, r"`eta` 1.5 is outside \[0, 1\]"),
    "guidance": ({"guidance_scale": -1.0}, "`guidance_scale` -1.0 is not a number from 0"),
    "guidance nan": ({"guidance_scale": float("nan")}, "`guidance_scale` is nan"),
    "a seed": ({"seed": -1}, "`seed` -1 must be 0 or more"),
    "a batch of nothing": ({"batch_size": 0}, "`batch_size` 0 1 or more"),
    "a word for a timestep": ({"start_t": "soon"}, "unknown `start_t` 'soon'"),
    "auto without an init": ({"start_t": "auto"}, "`start_t` auto needs `init`"),
    "an init without a start": ({"init": INIT}, "needs `start_t`"),
    "too few timesteps": ({"init": INIT, "start_t": [3]}, "1 timesteps for 2 inits"),
    "timesteps of no init": ({"start_t": [3, 4]}, "2 timesteps for 0 inits"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_request_is_checked_where_it_is_made(what: str) -> None:
    """In one line, before there is a run. Fails when a check is left to the sampler, deep in the chain."""
    asked, words = BAD[what]
    with pytest.raises(UserError, match=words) as caught:
        SampleRequest(4, **asked)
    assert "\n" not in str(caught.value)


def test_an_editor_is_told_every_option() -> None:
    """The signatures of `Run.sample` and `minidiff.sample` name each field. Fails for a function of **options."""
    names = {each.name for each in fields(ChainOptions)}
    for function in (minidiff.Run.sample, minidiff.Run.draw, minidiff.sample):
        given = inspect.signature(function).parameters
        assert names < set(given), function
        assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in given.values())


def test_what_is_left_open_is_decided_once(trained: Path) -> None:
    """The variance is the run's, `auto` becomes the timesteps of the noise, which is only scaled; and it stays so."""
    run = load(trained)
    assert isinstance(run, minidiff.Run) and isinstance(run.config, DdpmConfig)
    run.config = replace(run.config, diffusion=replace(run.config.diffusion, variance="fixed_large"))
    assert resolve(run, Sampling(sampler="ddpm")).variance == "fixed_large"
    assert resolve(run, Sampling(sampler="ddpm", variance="fixed_small")).variance == "fixed_small"
    assert resolve(run, Sampling()).variance is None

    init = 0.3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    decided = resolve(run, Sampling(init=init, start_t="auto", steps=9))
    assert decided.start_t == tuple(start_from(run.schedule, image[None]).t for image in init)
    assert decided.init_mode == "scale" and resolve(run, decided) == decided
    assert resolve(run, Sampling(init=init, start_t=5)).init_mode == "noise"
    assert resolve(run, Sampling(init=init, start_t="auto", init_mode="as-is")).init_mode == "as-is"


def test_chains_say_what_they_draw(trained: Path) -> None:
    """Five samples of three inits, in batches of two: which samples, from where, with how many calls."""
    request = Sampling(init=torch.rand(3, 3, 16, 16), start_t=[3, 30, 3], steps=20, batch_size=2)
    chains = list(chains_of(load(trained), range(10, 15), request))
    found = [(chain.rows, chain.indices, chain.start_t, chain.steps, len(chain.timesteps)) for chain in chains]
    # init k mod 3: samples 10, 13 start from the second, at t = 30; 20 calls do not fit below t = 3.
    assert found == [([0, 3], [10, 13], 30, 20, 20), ([1, 2], [11, 12], 3, 4, 4), ([4], [14], 3, 4, 4)]
    assert request.init is not None
    init: list[Tensor | None] = [chain.init for chain in chains]
    assert torch.equal(torch.stack([request.init[1], request.init[1]]), init[0] if init[0] is not None else INIT)


def test_a_script_draws_what_the_command_draws(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, with the same files; and progress comes to its end."""
    monkeypatch.chdir(tmp_path)
    write_image(Path("init.png"), np.full((16, 16, 3), 90, np.uint8))
    seen: list[tuple[int, int]] = []
    asked = {"num": 3, "start_t": 20, "steps": 4, "seed": 2, "progressive": 3}
    drawn = minidiff.sample(
        trained, init="init.png", out="a.npz", on_progress=lambda done, total: seen.append((done, total)), **asked
    )
    assert seen[-1] == (4, 4) and len(seen) == 4 and len(drawn.written) == 2
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    assert cli.run(["sample", str(trained), "--init", "init.png", *words, "--device", "cpu", "--out", "b.npz"]) == 0
    one, two = (np.load(f"{name}.npz")["images"] for name in "ab")
    assert np.array_equal(one, two) and np.array_equal(drawn.shown, one)
    assert Path("a-progressive.png").read_bytes() == Path("b-progressive.png").read_bytes()


def test_what_only_a_chain_has_is_named() -> None:
    """So that a GAN can refuse it. Fails when a new option is forgotten, or a shared one counted."""
    assert DrawRequest("run", num=3, seed=4, out="a.png", batch_size=2, device="cuda").of_chains() == []
    assert DrawRequest("run", steps=3, clip=False, compare=None, labels=["x"]).of_chains() == [
        "steps",
        "clip",
        "labels",
    ]
