"""The names of the models that come with the package: what they mean, which commands take them, and what is refused."""

import os
import shlex
from pathlib import Path

import click
import pytest
import torch

import minidiff
from minidiff import UserError, cli
from minidiff.classifier.run import load_classifier
from minidiff.evaluation.evaluator import open_evaluator
from minidiff.images.files import write_image
from minidiff.metrics.features import choose
from minidiff.pretrained.sources import open_place
from minidiff.reports.models import list_models, model_named
from minidiff.runs.folder import read_config
from minidiff.runs.shipped import MODELS, find_run, is_name, read_about, shipped

CLOTHES = "fashion-mnist-classifier"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for models: of shapes one that draws and one that judges, of clothes one that judges."""
    home = tmp_path / "package"
    for name in ("shapes", "shapes-classifier", "clothes-classifier"):
        (home / name).mkdir(parents=True)
        (home / name / "config.json").write_text('{"kind": "ddpm"}')
    monkeypatch.setattr("minidiff.runs.shipped.MODELS", home)
    return home


def test_a_name_means_the_model_that_is_wanted(names: Path) -> None:
    """Fails when the classifier is found for a command that draws, or the other way round."""
    assert find_run("shapes") == names / "shapes"
    assert find_run("shapes", classifier=True) == names / "shapes-classifier"
    for whole in ("shapes-classifier", "clothes-classifier"):
        assert find_run(whole) == find_run(whole, classifier=True) == names / whole
    assert find_run("clothes") == find_run("clothes", classifier=True) == names / "clothes-classifier"
    assert find_run("hats") == "hats" and find_run("../package/shapes") == "../package/shapes"


@pytest.mark.parametrize("file", ["config.json", "model_index.json", "unet/config.json"])
def test_a_run_or_an_export_of_that_name_comes_first(names: Path, file: str) -> None:
    """`minidiff export RUN shapes` makes a folder called shapes; it must be what `minidiff sample shapes` opens."""
    Path("shapes").mkdir()
    assert find_run("shapes") == names / "shapes" and not is_name("shapes")
    Path("shapes", file).parent.mkdir(exist_ok=True)
    Path("shapes", file).write_text("{}")
    assert find_run("shapes") == find_run("shapes", classifier=True) == "shapes"


# --- what a model says of itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_a_model_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its about.json is whole, its example names a command that there is, and the page of models names it."""
    about = read_about(name)
    assert about.purpose and about.data and about.licence and about.made and about.figures
    words = shlex.split(about.example)
    assert words[0] == "minidiff" and cli.cli.get_command(click.Context(cli.cli), words[1]) is not None
    assert cli.run(["models", name]) == 0
    said = capsys.readouterr().out
    assert about.purpose in said and all(figure in said for figure in about.figures)
    assert f"## {name}" in (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models"]) == 0
    said = capsys.readouterr().out
    for model in list_models():
        assert model.name in said and model.about.purpose in said
        assert model.size == (MODELS / model.name / "model.safetensors").stat().st_size
    assert model_named("fashion-mnist").name in ("fashion-mnist", CLOTHES)
    assert cli.run(["models", "photo"]) == 1
    assert "Did you mean 'photos'?" in capsys.readouterr().err


def test_photos_has_as_many_parameters_as_it_says() -> None:
    """The header of its file is read, not its network."""
    count = sum(parameter.numel() for parameter in minidiff.load("photos").model.parameters())
    assert model_named("photos").parameters.startswith(f"{count:,} ")


# --- commands that take a name --------------------------------------------------------------------------------------


def test_the_classifier_is_a_feature_network_and_an_evaluator() -> None:
    """By its short name and by its whole one; its digest is that of its file, and not that of the run it came from."""
    networks = [choose(name) for name in ("fashion-mnist", CLOTHES)]
    assert networks[0].identity == networks[1].identity
    other = load_classifier(Path(__file__).parents[2] / "benchmarks" / "race" / "classifier")
    assert networks[0].sha256 != other.sha256
    whole, half = (each.state_dict() for each in (other.model, load_classifier(CLOTHES).model))
    assert all(torch.allclose(whole[name].float(), half[name].float(), rtol=1e-3, atol=1e-6) for name in whole)
    judge = open_evaluator("fashion-mnist")
    assert "trouser" in judge.names and judge.knowledge.accuracy == pytest.approx(0.9325)


def test_a_folder_of_pictures_is_measured_and_not_the_model() -> None:
    """`minidiff fid photos B` with pictures in ./photos. Without them it is the model, which draws none from noise."""
    for number in range(2):
        write_image(f"photos/{number}.png", torch.zeros(8, 8, 3, dtype=torch.uint8).numpy())
    assert open_place("photos").count == 2
    os.rename("photos", "others")
    with pytest.raises(UserError, match="only finishes pictures"):
        open_place("photos")


def test_a_page_about_a_model_is_not_written_into_the_package() -> None:
    before = {path.name for path in (MODELS / "photos").iterdir()}
    page = minidiff.report("photos")
    assert page == Path("photos.html") and "photos" in page.read_text()
    assert {path.name for path in (MODELS / "photos").iterdir()} == before


def test_a_page_about_a_model_replaces_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos.html").write_text("mine")
    assert cli.run(["report", "photos"]) == 1 and Path("photos.html").read_text() == "mine"
    assert "photos.html exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sample dehaze", "dehaze, which comes with minidiff, is a dehaze run"),
        (f"sample {CLOTHES}", f"{CLOTHES}, which comes with minidiff, is a classifier run"),
        ("sample photos", "below 250"),
        ("restore a.png --model dehaze", "dehaze, which comes with minidiff"),
        ("dehaze photos a.png", "photos, which comes with minidiff"),
        (f"evaluate {CLOTHES} --classifier fashion-mnist", f"{CLOTHES}, which comes with minidiff"),
        ("evaluate dataset:shapes --classifier photos", "photos, which comes with minidiff, is a ddpm run"),
        (
            "fid dataset:shapes dataset:shapes:test --features photos",
            "photos, which comes with minidiff, is a ddpm run",
        ),
        ("fid photos dataset:shapes --features fashion-mnist", "photos only finishes pictures"),
        ("fid dehaze dataset:shapes --features fashion-mnist", "dehaze, which comes with minidiff"),
        ("export dehaze out", "dehaze, which comes with minidiff"),
        ("import photos", "photos comes with minidiff"),
        ("train ddpm --resume photos", "--init photos"),
        ("train ddpm --init dehaze --dataset shapes", "dehaze, which comes with minidiff"),
        ("info photo", "minidiff models"),
    ],
)
def test_a_name_that_makes_no_sense_is_an_error_in_a_line(
    line: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the model as it was typed, never a folder of the package."""
    write_image("a.png", torch.zeros(16, 16, 3, dtype=torch.uint8).numpy())
    assert cli.run(line.split()) in (1, 2)
    said = capsys.readouterr().err
    assert named in said and str(MODELS) not in said
    assert [line for line in said.splitlines() if line.startswith("Error: ")] == said.splitlines()[-1:]
    assert set(os.listdir()) == {"a.png"}


def test_a_model_can_be_exported_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    """`export` knew folders alone. This network has norms that diffusers lacks, so it is refused for that."""
    assert cli.run(["info", "fashion-mnist"]) == 0 and read_config(find_run("fashion-mnist"))["kind"] in (
        capsys.readouterr().out
    )
    cli.run(["export", "photos", "out"])
    assert "does not exist" not in capsys.readouterr().err
