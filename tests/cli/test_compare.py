"""`minidiff sample --compare`: the same noise through several samplers, in one labelled picture."""

from pathlib import Path

import numpy as np
import pytest

from minidiff import cli
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import grid, label_rows
from minidiff.pretrained.load import load


def test_rows_are_the_samplers_and_columns_the_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row is what `minidiff sample` draws with that sampler and those calls."""
    out = tmp_path / "compare.png"
    words = ["sample", str(trained), "--compare", "ddpm:50,ddim:5,ddim", "-n", "3", "--seed", "2", "--out", str(out)]
    assert cli.run(words) == 0
    said = capsys.readouterr().out
    run = load(trained)
    rows = []
    for options in ({"sampler": "ddpm", "steps": 50}, {"sampler": "ddim", "steps": 5}, {"sampler": "ddim"}):
        (images,) = run.sample(3, seed=2, **options)
        rows.append(np.rint((images.clamp(-1, 1) + 1).numpy() * 127.5).astype(np.uint8).transpose(0, 2, 3, 1))
        calls = len(run.timesteps(**options))
        assert f"s an image, {calls} call" in said
    expected = grid(np.concatenate(rows), columns=3)
    drawn = read_image(out)
    assert drawn.shape[0] == expected.shape[0]
    assert np.abs(drawn[:, -expected.shape[1] :].astype(int) - expected).max() <= 1
    margin = drawn[:, : -expected.shape[1]]
    for band in np.array_split(margin, 3):  # every row has its label
        assert (band < 128).any()


def test_every_init_from_its_own_timestep(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `auto` the chains start from different t; options of one sampler go to its rows alone."""
    for k, sigma in enumerate((20, 90)):
        image = np.random.default_rng(k).normal(128, sigma, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        write_image(tmp_path / "inits" / f"{k}.png", image)
    words = ["sample", str(trained), "--compare", "ddim:4,dpm++:4", "--init", str(tmp_path / "inits"), "--eta", "1"]
    assert cli.run([*words, "--start-t", "auto", "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    assert said.count("from 2 different t") == 2
    words = ["sample", str(trained), "--compare", "dpm++:4", "--eta", "1", "--out", str(tmp_path / "b.png")]
    assert cli.run(words) == 1
    assert "--eta belongs to the sampler ddim, and it is not compared" in capsys.readouterr().err


def test_labels_stand_beside_their_rows() -> None:
    """An empty label leaves its band white; the picture itself is not touched."""
    picture = np.arange(90 * 40 * 3, dtype=np.uint32).reshape(90, 40, 3).astype(np.uint8)
    labelled = label_rows(picture, ["ddim", "", "dpm++\n20 calls"])
    assert np.array_equal(labelled[:, -40:], picture)
    dark = [(band < 128).any() for band in np.array_split(labelled[:, :-40], 3)]
    assert dark == [True, False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "ddim:5,ddmp:5"], "Did you mean 'ddpm'"),
        (["--compare", "ddim:x"], "'ddim:x': give a whole number"),
        (["--compare", "ddim:0"], "give a whole number, 1 or more"),
        (["--compare", "ddim:51"], "51 steps do not fit"),
        (["--compare", "ddim:5", "--steps", "4"], "Leave out --steps"),
        (["--compare", "ddim:5", "--sampler", "ddpm"], "Leave out --sampler"),
        (["--compare", "ddim:5", "--out", "a.npz"], "draws one picture"),
    ],
)
def test_what_cannot_be_compared(
    words: list[str], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sample", str(trained), *words]) in (1, 2)
    said = capsys.readouterr()
    assert message in said.err and len(said.err.strip().splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []
