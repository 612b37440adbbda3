"""What the tabs of the page do, without the page: each is compared with the call of the package that it rests on."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training
from fits import fit_config, smooth
from torch import nn

import minidiff
from minidiff import cli
from minidiff.demo import drawing, models
from minidiff.demo.jobs import Jobs, Stopped, View, stepwise, stoppable
from minidiff.demo.photos import AUTO, Taken, dehaze, restore, take_in
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import captioned, grid


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def noisy(own_folder: Path) -> Path:
    """A picture of 24x20 pixels with noise of deviation 25, in a folder of its own, as an upload has."""
    noise = 25 * np.random.default_rng(0).standard_normal((24, 20, 3))
    write_image("up/noisy.png", (smooth() + noise).clip(0, 255).astype(np.uint8))
    return own_folder / "up" / "noisy.png"


def last_of(views: Iterator[View]) -> tuple[list[View], View]:
    """All but the last view of a job, and the last."""
    *way, end = views
    return way, end


# --- draw -------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_what_the_run_samples(trained: Path) -> None:
    """A view for each call, then the images of `Run.sample`. Fails for another seed, or for x0 in the end."""
    options = {"sampler": "dpm++sde", "seed": 3}
    way, end = last_of(drawing.draw(str(trained), num=5, calls=4, **options))
    images = to_uint8(torch.cat(list(minidiff.load(trained).sample(5, steps=4, **options))))
    assert end.picture is not None and np.array_equal(end.picture, grid(images))
    assert [view.done for view in way] == [1, 2, 3] and end.done == end.total == 4
    for view in way:  # the predicted images, which are others at each call
        assert view.picture is not None and view.picture.shape == end.picture.shape
        assert not np.array_equal(view.picture, end.picture)
    assert end.strip is not None and any("4 calls" in line for line in end.lines)
    assert any("noise" in line for line in end.warnings)  # the model was trained for six steps


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that draws two kinds of pictures, whose images have one label each."""
    home = tmp_path_factory.mktemp("classes")
    for number in range(8):
        image = np.full((16, 16, 3), 30 * number, np.uint8)
        write_image(home / "in" / ("dark", "light")[number % 2] / f"{number}.png", image)
    with pytest.MonkeyPatch.context() as patch:
        from conftest import DDPM_PRESETS, tiny

        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        assert cli.run(tiny_training(home / "in", "--conditional", "--steps", "2", "--out", str(home / "run"))) == 0
    return home / "run"


def test_labels_are_drawn_as_the_command_reads_them(classes: Path) -> None:
    """A condition a line; they take turns. Fails when the guidance is dropped."""
    known = models.about(str(classes))
    assert known.labels == ("dark", "light") and known.one_hot and known.guided
    _, end = last_of(drawing.draw(str(classes), labels="dark\n\n light \n", guidance=3.0, num=3, calls=2, seed=1))
    run = minidiff.load(classes)
    expected = to_uint8(torch.cat(list(run.sample(3, labels=run.conditions(["dark", "light"]), guidance_scale=3.0,
                                                  steps=2, sampler="dpm++sde", seed=1))))  # fmt: skip
    assert end.picture is not None and np.array_equal(end.picture, captioned(expected, ["dark", "light", "dark"]))
    assert any("dark; light; guidance 3" in line for line in end.lines)
    last_of(drawing.draw(str(classes), guidance=3.0, num=1, calls=1))  # none, so anything, and nothing to guide
    with pytest.raises(UserError, match="'drak'.*dark"):
        last_of(drawing.draw(str(classes), labels="drak", num=1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"labels": "cube"}, "without labels"), ({"num": 65}, "1 to 64"), ({"sampler": "none"}, "unknown sampler")],
    ids=str,
)
def test_wrong_wishes_are_one_line(wrong: dict[str, object], said: str, trained: Path) -> None:
    with pytest.raises(UserError, match=said):
        last_of(drawing.draw(str(trained), **wrong))  # type: ignore[arg-type]


def test_a_gan_draws_at_once(photos: Path) -> None:
    small = "--image-size 16 --device cpu --width 4 --latent-dim 8 --steps 1 --batch-size 4 --sample-every 9 --out gan"
    assert cli.run(["train", "dcgan", "--dataset", "folder", "--data-dir", str(photos), *small.split()]) == 0
    way, end = last_of(drawing.draw("gan", num=4, seed=2))
    images = to_uint8(torch.cat(list(minidiff.load("gan").sample(4, seed=2))))  # type: ignore[arg-type]
    assert end.picture is not None and np.array_equal(end.picture, grid(images)) and not way and end.strip is None


# --- start anywhere ---------------------------------------------------------------------------------------------------


def test_a_chain_starts_from_a_picture(trained: Path, own_folder: Path) -> None:
    """The result is that of the run from the same picture and timestep; before it stands the picture."""
    write_image("up/photo.png", smooth(16, 16))
    photo = own_folder / "up/photo.png"
    way, end = last_of(drawing.start(str(trained), photo, own_folder, start_t=20, calls=3, seed=5))
    x = to_float(smooth(16, 16)[None])
    (image,) = minidiff.load(trained).sample(1, init=x, start_t=20, steps=3, sampler="ddim", seed=5)
    assert end.picture is not None and np.array_equal(end.picture, to_uint8(image)[0])
    assert end.before is not None and np.array_equal(end.before, smooth(16, 16)) and end.strip is not None
    assert len(way) == 2 and any("photo.png" in line and "up" not in line for line in end.lines)
    _, near = last_of(drawing.start(str(trained), photo, own_folder, start_t=0))
    assert near.total == 1


@pytest.fixture()
def fit(own_folder: Path) -> Path:
    """The run folder of a fit that has kept its steps 10, 20 and 40."""
    folder = own_folder / "runs" / "dip-photo-1"
    for step in (10, 20, 40):
        write_image(folder / "steps" / f"{step:06d}.png", np.full((16, 16, 3), step, np.uint8))
    write_json(folder / "config.json", fit_config())
    return folder


def test_a_chain_starts_from_a_kept_step_of_a_prior(fit: Path, trained: Path, own_folder: Path) -> None:
    """Of the nearest one. Fails when the answer of the fit is taken, or the last step."""
    assert models.prior_runs() == [str(fit.relative_to(own_folder))] and models.kept_steps(fit) == [10, 20, 40]
    for step, kept in ((0, 10), (16, 20), (29, 20), (99, 40)):
        _, end = last_of(drawing.start(str(trained), fit, own_folder, start_t=5, step=step, calls=1))
        assert end.before is not None and (end.before == kept).all() and f"step      {kept}" in end.lines[0]
    assert models.kept_steps(trained) == []
    with pytest.raises(UserError, match="kept no steps"):
        last_of(drawing.start(str(trained), trained, own_folder, start_t=5))


def test_calls_in_proportion() -> None:
    assert [models.default_calls("ddim", 999, t) for t in (999, 499, 19, 2, 0)] == [50, 25, 5, 3, 1]
    assert models.default_calls("ddpm", 49) == 50 and models.default_calls("ddim", 19) == 20


# --- restore and dehaze -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [AUTO, 20.0])
def test_a_picture_is_restored_as_by_the_command(
    noise: float | str, finisher: Path, noisy: Path, own_folder: Path
) -> None:
    """To the bit, with what the command prints. Fails when the noise that was told does not arrive."""
    _, end = last_of(restore(noisy, own_folder, model=str(finisher), noise=noise, calls=2))
    alone = minidiff.restore(noisy, model=finisher, noise=noise, calls=2, out="alone.png", run="alone")  # type: ignore[arg-type]
    assert end.file == own_folder / "noisy-restored.png" and end.picture is not None and end.before is not None
    assert np.array_equal(read_image(end.file), read_image("alone.png"))
    assert np.array_equal(end.picture, read_image("alone.png")) and np.array_equal(end.before, read_image(noisy))
    (result,) = alone.results.values()
    assert f"noisy.png: noise {result.noise:.1f} of 255, from t = {result.start_t}, 2 calls" in end.lines[-1]
    assert end.warnings == result.faults and end.strip is not None and end.done == end.total == 2


def test_a_model_of_one_size_shows_the_square_it_worked_on(trained: Path, noisy: Path, own_folder: Path) -> None:
    _, end = last_of(restore(noisy, own_folder, model=str(trained)))
    assert end.picture is not None and end.before is not None and end.picture.shape == end.before.shape == (16, 16, 3)
    assert any("16x16" in line for line in end.warnings)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 2), (0.25, 0)])
def test_haze_goes_as_by_the_command(
    strength: float, steps: int, dehazers: Path, noisy: Path, own_folder: Path
) -> None:
    model = str(dehazers / "second")
    _, end = last_of(dehaze(noisy, own_folder, model=model, strength=strength, steps=steps))
    alone = minidiff.clear_haze(noisy, model, strength=strength, steps=steps, out="alone.png", run="alone")
    assert end.picture is not None and np.array_equal(end.picture, read_image("alone.png"))
    (result,) = alone.results.values()
    assert f"{100 * result.transmission:.0f}% of the light comes through" in end.lines[-1]
    assert end.strip is not None and end.file == own_folder / "noisy-clear.png"


def test_a_large_picture_is_shrunk_with_a_line(noisy: Path, finisher: Path, own_folder: Path) -> None:
    """24x20 has 480 pixels. Fails when it is cut, and when the line is lost on the way."""
    assert take_in(noisy, own_folder, 480) == Taken(noisy, ())
    taken = take_in(noisy, own_folder, 479)
    height, width = read_image(taken.file).shape[:2]
    assert (height, width) == (23, 19) and "20x24 to 19x23" in taken.lines[0]
    _, end = last_of(restore(noisy, own_folder, model=str(finisher), max_pixels=300))
    assert end.picture is not None and end.picture.shape[0] * end.picture.shape[1] <= 300
    assert any(line.startswith("shrunk") for line in end.lines)


def test_a_broken_file_is_one_line_that_names_it_alone(trained: Path, own_folder: Path) -> None:
    """The visitor of a page has never seen the folder of uploads."""
    (own_folder / "up").mkdir()
    bad = own_folder / "up" / "bad.png"
    bad.write_bytes(b"no picture")
    for views in (
        restore(bad, own_folder, model=str(trained)),
        dehaze(bad, own_folder),
        drawing.start(str(trained), bad, own_folder, start_t=5),
    ):
        with pytest.raises(UserError, match="^bad.png is not a readable image"):
            last_of(views)


# --- what there is to choose from -------------------------------------------------------------------------------------


def test_the_models_to_choose_from(trained: Path, finisher: Path, dehazers: Path, fit: Path, own_folder: Path) -> None:
    """A model that finishes pictures draws none; a damaged run hides no other; one of the package is always there."""
    for name, place in (("one", trained), ("two", finisher), ("three", dehazers / "second")):
        (own_folder / "runs" / name).symlink_to(place)
    (own_folder / "runs" / "bad").mkdir()
    (own_folder / "runs" / "bad" / "config.json").write_text('{"kind": "ddpm"}')
    (own_folder / "runs" / "bad" / "model.safetensors").touch()
    drawn = models.drawing_models()
    assert "runs/one" in drawn and not {"runs/two", "runs/bad", "photos", "dehaze"} & set(drawn)
    assert {"runs/one", "runs/two", "photos"} <= set(models.starting_models())
    assert models.about("runs/two").most_t == 39 and models.about("runs/one").most_t == 49
    restoring = models.restoring_models()
    assert {"runs/one", "runs/two"} <= set(restoring) and restoring.index("photos") < restoring.index("runs/two")
    assert models.dehazing_models() == ["dehaze", "runs/three"]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_stops_within_a_call(trained: Path) -> None:
    """At the next layer: the second call does not end. Fails when only the views are counted."""
    wanted = threading.Event()
    views = drawing.draw(str(trained), num=1, calls=4, stop=wanted.is_set)
    assert next(views).done == 1
    wanted.set()
    with pytest.raises(Stopped):
        next(views)


def test_nothing_stays_hooked_on_a_model() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    asked: list[int] = []
    with stoppable(model, lambda: bool(asked.append(1))):
        model(torch.zeros(1, 1))
    assert len(asked) == 3  # the model and its two layers
    model(torch.zeros(1, 1))
    assert len(asked) == 3


def test_a_function_that_calls_back_becomes_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its answer, its error, and an end as soon as nobody looks."""
    monkeypatch.setattr("minidiff.demo.jobs.TICK", 0.01)
    model, go_on, ended = nn.Linear(1, 1), threading.Event(), threading.Event()

    def work(on_step):  # type: ignore[no-untyped-def]
        on_step(None)
        go_on.wait(10)
        return "answer"

    views = stepwise(work, 3, model, lambda: False)
    seen = next(views)
    while seen.done == 0:
        seen = next(views)
    assert (seen.done, seen.total) == (1, 3)
    go_on.set()
    with pytest.raises(StopIteration) as end:
        while True:
            next(views)
    assert end.value.value == "answer"

    def fails(on_step):  # type: ignore[no-untyped-def]
        raise UserError("it fails.")

    with pytest.raises(UserError, match="it fails"):
        list(stepwise(fails, 1, model, lambda: False))

    def endless(on_step):  # type: ignore[no-untyped-def]
        try:
            while True:
                model(torch.zeros(1, 1))
        finally:
            ended.set()

    views = stepwise(endless, 1, model, lambda: False)
    next(views)
    views.close()
    assert ended.wait(10)


def test_a_visitor_stops_his_own_jobs_alone() -> None:
    jobs = Jobs()
    with jobs.one("a") as a, jobs.one("b") as b:
        jobs.stop("a")
        assert a() and not b()
        jobs.stop()
        assert b()
    with jobs.one("a") as again:
        assert not again()
    jobs.wait(0)
    assert not jobs.running
