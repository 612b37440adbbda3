"""Labels and guidance: against models whose answer is known, and a run that learns to do what it is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training
from torch import Tensor

from minidiff import cli
from minidiff.data import conditions as conditional
from minidiff.data import shapes
from minidiff.data.conditions import labels_in_words, multi_hot, parse_condition, read_conditions
from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.config import DdpmRequest, DiffusionConfig
from minidiff.ddpm.labels import LabelSet
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.diffusion.guidance import guided
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import SCHEDULES
from minidiff.errors import UserError, suggestion
from minidiff.files import write_json
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import captioned, first_lines, grid, label_rows, name_columns
from minidiff.networks.unet import UNet
from minidiff.pretrained.load import load
from minidiff.rng import Draws
from minidiff.runs.folder import read_config

NAMES = ["dark", "light"]


# --- guidance ---------------------------------------------------------------------------------------------------------


class Points:
    """The exact network of data that are points: an image is labels @ where, and `nowhere` if labels are not told."""

    def __init__(self, nowhere: float = 0.0) -> None:
        self.where = torch.tensor([[0.25, -0.5], [0.5, 0.125]])  # [labels, pixels]
        self.nowhere, self.batches = nowhere, list[int]()
        self.schedule = SCHEDULES["cosine"](50)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        self.batches.append(len(x))
        told = torch.zeros(len(x), dtype=torch.bool) if labels is None else torch.ones(len(x), dtype=torch.bool)
        told = told if keep is None else told & keep
        labels = torch.zeros(len(x), 2) if labels is None else labels
        x0 = torch.where(told[:, None], labels @ self.where, torch.full((len(x), 2), self.nowhere))[:, :, None, None]
        alpha_bar = self.schedule.alphas_cumprod[t].float()[:, None, None, None]
        return (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "dpm++sde", "unipc"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_goes_as_far_past_the_unconditional_point_as_asked(sampler: str, scale: float) -> None:
    """With eps linear in x0, a chain ends at nowhere + scale * (there - nowhere), exactly."""
    model, labels = Points(nowhere=0.125), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    x = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    *_, last = SAMPLERS[sampler](guided(model, labels, scale), model.schedule, x, clip=False, prediction="eps")
    there = labels @ model.where
    assert torch.allclose(last.x[:, :, 0, 0], 0.125 + scale * (there - 0.125), atol=1e-4)


def test_both_predictions_come_out_of_one_call() -> None:
    model, labels = Points(), torch.eye(2)
    x, t = torch.randn(2, 2, 1, 1), torch.tensor([3, 40])
    guided(model, labels, 3.0)(x, t)
    guided(model, labels, 1.0)(x, t)  # nothing to guide away from: no second half
    assert model.batches == [4, 2]


def network(labels: int = 3) -> UNet:
    torch.manual_seed(0)
    model = UNet(16, channels=(8, 16), attention=(False, True), norm_groups=4, layers_per_block=1, label_dim=labels)
    for parameter in model.parameters():  # the first weights answer 0 to everything
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
def test_a_row_that_is_not_kept_is_unconditional() -> None:
    """Not the same as a row without any label, which adds the layer's bias."""
    model, x, t = network(), torch.randn(3, 3, 16, 16), torch.tensor([1, 20, 40])
    labels, keep = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0]]), torch.tensor([True, False, True])
    out, told, untold = model(x, t, labels, keep), model(x, t, labels), model(x, t)
    assert torch.allclose(out[[0, 2]], told[[0, 2]], atol=1e-6) and torch.allclose(out[1], untold[1], atol=1e-6)
    for row in range(3):
        assert (told[row] - untold[row]).abs().max() > 1e-3


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_dropout_is_the_share_of_images_whose_labels_are_not_told(dropout: float) -> None:
    schedule, seen = SCHEDULES["linear"](4), dict[str, Tensor]()
    labels = torch.arange(4000 * 2).reshape(4000, 2).float()

    def model(x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        assert labels is not None and keep is not None
        seen.update(labels=labels, keep=keep, t=t)
        return x

    loss = ddpm_loss(schedule, DiffusionConfig(), torch.device("cpu"), dropout)
    loss(model, torch.zeros(4000, 1, 1, 1), labels, Draws(1, 4000, slice(None)))  # type: ignore[arg-type]
    share = 1 - seen["keep"].float().mean().item()
    assert abs(share - dropout) < 4.5 * np.sqrt(dropout * (1 - dropout) / 4000) + 1e-9
    assert torch.equal(seen["labels"], labels)
    assert sorted(set(seen["t"].tolist())) == [0, 1, 2, 3]  # the last timestep too


def test_an_unconditional_training_draws_the_numbers_it_always_drew() -> None:
    """So that the runs of before go on to the bit."""
    seen = []

    def model(x: Tensor, t: Tensor, **labels: Tensor) -> Tensor:
        seen.append((x, t, sorted(labels)))
        return x

    for dropout in (None, 0.5):
        loss = ddpm_loss(SCHEDULES["linear"](10), DiffusionConfig(), torch.device("cpu"), dropout)
        loss(model, torch.zeros(8, 1, 2, 2), torch.zeros(8, 2), Draws(1, 8, slice(None)))  # type: ignore[arg-type]
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert [names for _, _, names in seen] == [[], ["keep", "labels"]]


def test_one_image_in_ten_is_not_told_of(told: Path, tiny_preset: str) -> None:
    """The default of Ho & Salimans, and of the docs."""
    request = DdpmRequest(dataset="folder", data_dir=told.parent / "data", preset=tiny_preset, conditional=True)
    labels = ddpm_job.plan(request).config.labels
    assert labels is not None and labels.dropout == 0.1


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was told which of 40 flat pictures are dark and which light, for 150 steps."""
    home = tmp_path_factory.mktemp("told")
    for number in range(40):
        light = number % 2
        level = (200 if light else 55) + number - 20
        write_image(home / "data" / NAMES[light] / f"{number:02d}.png", np.full((16, 16, 3), level, np.uint8))
    from conftest import tiny

    from minidiff.ddpm.presets import DDPM_PRESETS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        more = ["--conditional", "--label-dropout", "0.2", "--steps", "150", "--batch-size", "16", "--lr", "3e-3"]
        more += [
            "--ema-decay",
            "0.9",
            "--prediction",
            "v",
            "--sample-every",
            "75",
            "--precision",
            "fp32",
            "--out",
            str(home / "run"),
        ]
        assert cli.run(tiny_training(home / "data", *more)) == 0
    return home / "run"


def test_a_run_draws_what_it_is_told(told: Path) -> None:
    """Dark for "dark", light for "light", sample k for condition k mod M; both kinds when it is told nothing."""
    run = load(told)
    labels = multi_hot(run.conditions(["light", "dark"]), 2)
    (images,) = run.sample(8, labels=labels, steps=10)
    level = images.mean(dim=(1, 2, 3))
    assert (level[::2] > 0.3).all() and (level[1::2] < -0.3).all(), level
    (alone,) = run.sample(8, labels=labels[:1], guidance_scale=1.0, steps=10)
    assert (alone.mean(dim=(1, 2, 3)) > 0.3).all()
    (free,) = run.sample(16, steps=10)
    level = free.mean(dim=(1, 2, 3))
    assert (level > 0.2).any() and (level < -0.2).any(), level


def test_sde_spaces_its_calls_evenly_with_labels_and_without(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It draws more of what is asked for so (docs/results.md); unless another spacing is asked for."""
    run = load(told)
    even, karras = (
        ", ".join(map(str, run.timesteps("dpm++sde", spacing=spacing)[:3])) for spacing in ("trailing", "karras")
    )
    assert even != karras
    for option, said in (
        ([], even),
        (["--labels", "light"], even),
        (["--labels", "light", "--spacing", "karras"], karras),
    ):
        assert cli.run(["sample", str(told), "--num", "2", "--out", str(tmp_path / "a.png"), "--force", *option]) == 0
        assert f"t = {said}, ..." in capsys.readouterr().out


def test_conditions_are_taken_as_they_are_given(told: Path) -> None:
    """What `conditions` gives, `sample` takes, as it takes multi-hot rows; what is neither is one line."""
    run = load(told)
    (rows,) = run.sample(4, labels=multi_hot([[1], [0]], 2), steps=2)
    (same,) = run.sample(4, labels=run.conditions(["light", "dark"]), steps=2)
    assert torch.equal(rows, same)
    assert run.conditions("light") == run.conditions(["light"]) == [[1]]
    for wrong, message in (
        (torch.zeros(0, 2), "have no rows"),
        ([], "have no rows"),
        (torch.zeros(2, 3), r"the labels have the shape \[2, 3\], and this run takes \[M,2\]"),
        (torch.zeros(2), r"the labels have the shape \[2\], and this run"),
        ([[1], [-1]], r"\[-1\] are no numbers of labels, which are 0 to 1 here"),
        ([[2]], r"\[2\] are no numbers of labels"),
        (["light"], "'light' are no numbers of labels.*run.conditions"),
    ):
        with pytest.raises(UserError, match=message):
            list(run.sample(2, labels=wrong, steps=2))


def test_a_sample_does_not_depend_on_the_batch(told: Path) -> None:
    run = load(told)
    labels = torch.eye(2)
    together = torch.cat(list(run.sample(5, labels=labels, steps=4)))
    apart = torch.cat(list(run.sample(5, labels=labels, steps=4, batch_size=2)))
    assert torch.allclose(together, apart, atol=1e-5)


def test_the_run_explains_itself(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(told)
    assert config["labels"]["names"] == NAMES and config["labels"]["one_hot"] and config["labels"]["dropout"] == 0.2
    assert config["network"]["label_dim"] == 2 and load(told).label_names == NAMES
    assert cli.run(["info", str(told)]) == 0
    assert "2, one an image: dark, light; not told of 20% of the images" in capsys.readouterr().out
    picture = read_image(told / "samples" / "0000150.png")  # a row for each class, six of each, named in the margin
    dark, light = (half[:, -380:].mean() for half in np.array_split(picture, 2))
    assert dark < light - 50 and picture.shape[1] > 6 * 66 + 2


def test_other_labels_are_noticed_on_resume(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(told, run)
    config = read_config(run)
    write_json(run / "config.json", config | {"labels": config["labels"] | {"fingerprint": "0" * 16}})
    assert cli.run(["train", "ddpm", "--resume", str(run)]) == 1
    assert "are not the ones that" in capsys.readouterr().err


def test_fid_samples_the_labels_of_the_training_images(told: Path) -> None:
    """Half and half, unguided; what is said of it says so."""
    from minidiff.ddpm.samples import of_run

    source = of_run("it", load(told), 10, steps=10)
    images = np.concatenate(list(source.batches(4)))
    assert ((images.mean(axis=(1, 2, 3)) > 128) == (np.arange(10) >= 5)).all()  # the folder's order: dark, then light
    assert any("labels of its training images" in change for change in source.changes)


def test_spread_is_even() -> None:
    labels = np.eye(3, dtype=np.uint8).repeat(4, axis=0)
    assert conditional.evenly_spread(labels, 3).argmax(1).tolist() == [0, 1, 2]
    assert conditional.evenly_spread(labels, 30).sum(0).tolist() == [12, 10, 8]  # over and over, from the first
    assert conditional.evenly_spread(labels, 24).sum(0).tolist() == [8, 8, 8]


# --- the command ------------------------------------------------------------------------------------------------------


def test_sample_with_labels(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conditions take turns; a picture has their names below, the strip beside."""
    few = ["sample", str(told), "--labels", "light", "--labels", "dark", "--steps", "8", "-n", "4", "--guidance", "1.5"]
    assert cli.run([*few, "--progressive", "2", "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    assert "light; dark; guidance 1.5" in said
    assert cli.run([*few, "--out", str(tmp_path / "a.npz")]) == 0
    images = np.load(tmp_path / "a.npz")["images"]
    assert ((images.mean(axis=(1, 2, 3)) > 128) == [True, False, True, False]).all()
    run = load(told)
    chain = {"guidance_scale": 1.5, "sampler": "dpm++sde", "steps": 8, "spacing": "trailing"}
    (same,) = run.sample(4, labels=multi_hot([[1], [0]], 2), **chain)
    assert np.abs((same.permute(0, 2, 3, 1).clamp(-1, 1).numpy() + 1) * 127.5 - images).max() <= 0.51
    assert np.array_equal(read_image(tmp_path / "a.png"), captioned(images, ["light", "dark"] * 2, 2))
    seen = run.moments(range(4), 2, labels=[[1], [0]], **chain)
    strip = label_rows(grid(seen.strip(), 2), ["light", "dark"] * 2)  # a name beside the two rows of its image
    strip = name_columns(strip, [f"t = {t}" for t in seen.t[0]], left=strip.shape[1] - 2 * 66 - 2)
    assert np.array_equal(read_image(tmp_path / "a-progressive.png"), strip)
    levels = seen.image.mean(axis=(1, 2, 3))
    assert ((levels > 128) == [True, False, True, False]).all()


def test_one_condition_has_its_words_too(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below each picture of a square grid; and of ten images the strip shows eight, and says so."""
    few = ["sample", str(told), "--labels", "Light", "--steps", "2"]
    assert cli.run([*few, "-n", "10", "--progressive", "2", "--out", str(tmp_path / "a.png")]) == 0
    assert "x_t and the predicted x0, of the first 8 of 10 images" in capsys.readouterr().out
    assert cli.run([*few, "-n", "10", "--out", str(tmp_path / "a.npz")]) == 0
    images = np.load(tmp_path / "a.npz")["images"]
    assert np.array_equal(read_image(tmp_path / "a.png"), captioned(images, ["light"] * 10))


def test_samplers_are_compared_with_the_words_below(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each sampler, in each the same conditions in turn."""
    words = ["--labels", "light", "--labels", "dark", "-n", "3", "--out", str(tmp_path / "a.png")]
    assert cli.run(["sample", str(told), "--compare", "ddim:2,dpm++:2", *words]) == 0
    assert "labels    light; dark; guidance 2\n" in capsys.readouterr().out
    run, rows = load(told), []
    for sampler in ("ddim", "dpm++"):
        (images,) = run.sample(3, labels=[[1], [0]], sampler=sampler, steps=2)
        rows.append(((images.permute(0, 2, 3, 1).clamp(-1, 1).numpy() + 1) * 127.5).round().astype(np.uint8))
    expected = captioned(np.concatenate(rows), ["light", "dark", "light"] * 2, 3)
    drawn = read_image(tmp_path / "a.png")[:, -expected.shape[1] :]
    assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_rows_from_an_init_are_named(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid of --init-steps: a row for each, and beside it what it was drawn for."""
    files = [told.parent / "data" / name / f"{number:02d}.png" for number, name in enumerate(NAMES)]
    monkeypatch.setattr("minidiff.pretrained.inits.init_files", lambda init, steps: files)
    words = ["--init", "dip", "--init-steps", "3,5", "--start-t", "20", "--steps", "2", "--progressive", "2"]
    words = ["sample", str(told), *words, "--labels", "light", "--labels", "dark"]
    assert cli.run([*words, "--out", str(tmp_path / "a.png")]) == 0
    drawn = read_image(tmp_path / "a.png")
    plain = drawn[-2 * 66 - 2 :, -4 * 66 - 2 :]
    named = label_rows(plain, ["step 3\nlight", "step 5\ndark"])
    headings = ["init", "t = 20", "t = 9", "image"]
    assert np.array_equal(drawn, name_columns(named, headings, left=named.shape[1] - plain.shape[1]))


def test_a_labels_file_is_a_picture_of_each(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "want.json").write_text('[["light"], ["dark"], ["Light"]]')
    (told.parent / "data" / "mine.json").write_text('[["dark"]]')
    words = ["sample", str(told), "--labels-file", "mine", "--steps", "2"]
    assert cli.run([*words, "--out", str(tmp_path / "one.png")]) == 0
    assert f"list      {told.parent / 'data' / 'mine.json'}: 1 condition\n" in capsys.readouterr().out
    assert read_image(tmp_path / "one.png").shape == (16, 16, 3)
    words = ["sample", str(told), "--labels-file", str(tmp_path / "want.json"), "--steps", "8"]
    assert cli.run([*words, "--out", str(tmp_path / "a.npz")]) == 0
    levels = np.load(tmp_path / "a.npz")["images"].mean(axis=(1, 2, 3))
    assert ((levels > 128) == [True, False, True]).all()
    assert cli.run(["sample", str(told), "--steps", "2", "-n", "2", "--out", str(tmp_path / "b.png")]) == 0
    assert "labels    none, so anything" in capsys.readouterr().out


BAD = {
    "unknown": (["--labels", "lihgt"], 1, "unknown label 'lihgt'. Did you mean 'light'?"),
    "empty": (["--labels", "light,,dark"], 1, "'light,,dark' has an empty label"),
    "no words": (["--labels", ""], 1, "'' names no label. Write names with commas between, such as 'dark'"),
    "two of one": (["--labels", "light, dark"], 1, "an image of this run has one label, but 'dark, light' are 2"),
    "both": (["--labels", "light", "--labels-file", "a.json"], 2, "both say what to draw"),
    "guidance alone": (["--guidance", "2"], 1, "--guidance needs --labels"),
    "negative": (["--labels", "light", "--guidance", "-1"], 2, "--guidance"),
    "both, one empty": (["--labels", "light", "--labels-file", ""], 2, "both say what to draw"),
    "no name": (["--labels-file", ""], 1, "the name of the labels file is empty. Give one"),
    "no file": (["--labels-file", "none.json"], 1, "cannot read the labels file none.json: No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_orders_are_one_line(
    name: str, told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sample", str(told), *words]) == code
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("Error: ") and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_be_asked(
    told: Path, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_preset: str
) -> None:
    """One without labels; one that was always told them; and trainings that cannot be conditional."""
    assert cli.run(["sample", str(trained), "--labels", "light"]) == 1
    assert "was trained without labels" in capsys.readouterr().err
    always = tmp_path / "always"
    data = told.parent / "data"
    assert cli.run(tiny_training(data, "--conditional", "--label-dropout", "0", "--out", str(always))) == 0
    capsys.readouterr()
    out = ["--steps", "1", "--out", str(tmp_path / "x.png")]
    assert cli.run(["sample", str(always), *out]) == 1
    assert "draws nothing without labels. Give --labels, one of dark, light" in capsys.readouterr().err
    assert cli.run(["sample", str(always), "--labels", "dark", "--guidance", "2", *out]) == 1
    assert "was never trained without labels" in capsys.readouterr().err
    assert cli.run(["sample", str(always), "--labels", "dark", *out]) == 0
    assert "guidance 1" in capsys.readouterr().out
    assert cli.run(tiny_training(photos, "--conditional", "--out", str(tmp_path / "no"))) == 1
    assert "folder has no labels" in capsys.readouterr().err
    assert cli.run(tiny_training(data, "--label-dropout", "0.1", "--out", str(tmp_path / "no"))) == 1
    assert "--label-dropout needs --conditional" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


# --- conditions in words ----------------------------------------------------------------------------------------------


def test_words_to_numbers_and_back() -> None:
    assert parse_condition("yellow cylinder ,  Blue  Cube", shapes.NAMES) == [2, 23]
    assert labels_in_words([2, 23], shapes.NAMES) == "blue cube, yellow cylinder"
    labels = multi_hot([[2, 23], [0]], 24)
    assert labels.dtype == torch.float32 and labels.sum().item() == 3 and labels[0, 2] == labels[0, 23] == 1
    assert conditional.condition_of(labels[0]) == [2, 23]


def test_every_name_can_be_asked_for() -> None:
    """As it is; in any case and with any spaces where no other name is meant; with a comma in it, alone."""
    names = ["red cube", "Red cube", "a, b", " b  c ", "Blue", "d"]
    for number, name in enumerate(names):
        assert parse_condition(name, names) == [number]
        assert conditional.numbered([name], names) == [number]
    assert parse_condition(" Red cube , BLUE,b c", names) == [1, 3, 4]
    assert parse_condition("A,  b", names) == [2]
    assert conditional.numbered(["blue ", " D"], names) == [4, 5]
    with pytest.raises(UserError, match="'RED cube' may be 'red cube' or 'Red cube'. Write it exactly"):
        parse_condition("RED cube", names)
    with pytest.raises(UserError, match="'Blue' is asked for twice"):
        parse_condition("Blue, d, blue", names)
    assert labels_in_words([0, 2], names, "\n") == "red cube\na, b"


def test_of_many_names_a_message_lists_twenty() -> None:
    known = [f"class {number}" for number in range(100)]
    said = suggestion("Class 077", known)
    assert said.startswith("Did you mean 'class 77'? Known: class 0, ") and said.endswith(", class 19 and 80 more.")
    assert suggestion("x", known[:20]).endswith(", class 19.")


@pytest.mark.parametrize("split", ["test", "new_test"])
def test_the_conditions_of_the_embedded_set_need_no_file(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as `minidiff data export` writes; a file of that name comes first; and other labels have none."""
    monkeypatch.chdir(tmp_path)
    built_in = read_conditions(split, shapes.NAMES)
    assert cli.run(["data", "export", "shapes", "out", "--num", "1"]) == 0
    assert read_conditions(tmp_path / "out" / f"{split}.json", shapes.NAMES) == built_in and len(built_in) == 32
    assert all(shapes.held_out(condition) == (split == "new_test") for condition in built_in)
    Path(split).write_text('[["red cube"]]')
    assert read_conditions(split, shapes.NAMES) == [[1]]
    Path(split).unlink()
    with pytest.raises(UserError, match="cannot read the labels file"):
        read_conditions(split, NAMES)


WRONG = {
    "no JSON": ("{", "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "a table": ('{"a.png": ["dark"]}', "is JSON, but not a list of lists"),
    "flat": ('["dark", "light"]', "is JSON, but not a list of lists"),
    "nothing": ("[]", "lists nothing"),
    "numbers": ("[[0, 1]]", "condition 1: [0, 1] is not a list of names"),
    "empty": ('[["dark"], []]', "condition 2 is empty"),
    "unknown": ('[["dark"], ["lite"]]', "condition 2: unknown label 'lite'. Did you mean 'light'?"),
    "twice": ('[["dark", "Dark"]]', "condition 1: 'dark' is asked for twice"),
    "two lines": ('[["a\\nb"]]', r"condition 1: unknown label 'a\nb'. Known: dark, light."),
    "escape": ('[["\\u001b[31mred"]]', r"unknown label '\x1b[31mred'. Known"),
    "no character": ('[["\\ud800"]]', r"unknown label '\ud800'. Known"),
    "long": (json.dumps([["x" * 5000]]), "xxx.... Known: dark, light."),
    "long list": (json.dumps([[1] * 5000]), "1... is not a list of names"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_files_are_one_line(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    path = tmp_path / "want.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_conditions(path, NAMES)
    said = str(caught.value)
    assert message in said and str(path) in said and said.isprintable() and len(said) < len(str(path)) + 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_no_harm(encoding: str, tmp_path: Path) -> None:
    """Some editors write one."""
    (tmp_path / "want.json").write_text('[["d\u00fcster"]]', encoding=encoding)
    assert read_conditions(tmp_path / "want.json", ["light", "d\u00fcster"]) == [[1]]


def test_captions_stand_below_their_images() -> None:
    """The pictures are enlarged whole and otherwise untouched; an empty caption leaves its cell white."""
    images = np.arange(3 * 32 * 32 * 3, dtype=np.uint32).reshape(3, 32, 32, 3).astype(np.uint8) // 2
    drawn = captioned(images, ["cyan sphere\nyellow cylinder", "", "a"], columns=3)
    width = drawn.shape[1] // 3
    for number in range(3):
        cell = drawn[:, number * width : (number + 1) * width]
        large = images[number].repeat(3, axis=0).repeat(3, axis=1)
        assert any(np.array_equal(cell[2:98, left : left + 96], large) for left in range(cell.shape[1] - 95))
        assert (cell[98:] < 128).any() == (number != 1)


@pytest.mark.parametrize("count", [3, 5, 10, 24])
def test_many_labels_stay_beside_their_row(count: int) -> None:
    """None runs into the next row, whatever stands there; all are there, as far as they can be read."""
    picture = np.zeros((3 * 66, 40, 3), np.uint8)
    many = "\n".join(["cylinder"] * count)
    drawn = label_rows(picture, [many, "", many])[:, :-40]
    first, middle, last = (band < 160 for band in np.array_split(drawn, 3))
    assert not middle.any() and first.any() and last.any()
    lines = first.any(axis=(1, 2)).astype(int)
    assert (np.diff(lines, prepend=0) == 1).sum() == min(count, 5)
    assert not lines[0] and not lines[-1]


def test_a_text_that_is_cut_says_so() -> None:
    assert first_lines("a\nb\nc", 3) == "a\nb\nc"
    assert first_lines("a\nb\nc\nd", 3) == "a\nb\nand 2 more"


def test_a_list_in_the_data_folder_of_a_run_comes_before_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name with and without .json. A file here comes first, a folder of that name does not."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "iclevr"
    data.mkdir()
    (data / "test.json").write_text('[["gray cube"]]')
    run = LabelSet(tmp_path / "run", shapes.NAMES, data_dir=data)
    Path("test").mkdir()
    for name in ("test", "test.json"):
        assert run.conditions(file=name) == [[0]] and run.say_list(name) == str(data / "test.json")
    assert len(run.conditions(file="new_test")) == 32
    assert run.say_list("new_test") == f"new_test, the list of minidiff's own shapes; {data} has no new_test.json"
    Path("test.json").write_text('[["red cube"]]')
    assert run.conditions(file="test.json") == [[1]] and run.say_list("test.json") == "test.json"
    assert LabelSet(tmp_path, shapes.NAMES).say_list("test") == "test, the list of minidiff's own shapes"


def test_json_of_an_export_is_read_back(tmp_path: Path) -> None:
    lists = [[shapes.NAMES[label] for label in condition] for condition in shapes.conditions("test")]
    (tmp_path / "t.json").write_text(json.dumps(lists))
    assert read_conditions(tmp_path / "t.json", shapes.NAMES) == shapes.conditions("test")
