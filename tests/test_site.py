"""The site: links lead to the code they name, commands are ones that there are, figures come from scripts."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import torch
from peers import pictures

import minidiff
from minidiff import cli
from minidiff.images.files import image_shape, write_image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
SLOW = {"train", "compare", "compare-priors", "evaluate", "fid", "dip"}  # commands that a test only parses
PAGES = sorted([*TOP, *DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md")])


def module(path: Path) -> ModuleType:
    """Import a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


source_links = module(DOCS / "_ext" / "source_links.py")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_the_code_they_name(page: Path) -> None:
    """Fails when a function that a page links to is renamed, or moves, or its line loses the equation's number."""
    assert source_links.broken(page) == []


@pytest.mark.parametrize(
    "text, line",
    [
        ("`mix`", "def mix(x):"),
        ("`mix`, eq. 4", "    return 2 * x  # eq. 4, left"),
        ("`Box.size`", "    size: int = 3"),
        ("`Box.half`", "    @property"),
        ('`TABLE["b"]`', '    "b": 2,'),
    ],
)
def test_a_link_means_a_line(tmp_path: Path, text: str, line: str) -> None:
    """Of `eq. 4` not the line of eq. 40; of a property its decorator, where it begins."""
    code = tmp_path / "code.py"
    code.write_text(
        "def mix(x):\n    x = x + 1  # eq. 40\n    return 2 * x  # eq. 4, left\n\n\n"
        "class Box:\n    size: int = 3\n\n    @property\n    def half(self):\n        return self.size / 2\n\n\n"
        'TABLE = {\n    "a": 1,\n    "b": 2,\n}\n'
    )
    span = source_links.lines_meant(code, text)
    assert code.read_text().splitlines()[span.first - 1] == line


@pytest.mark.parametrize("text", ["`blend`", "`mix`, eq. 5", "`mix.x`", "`mix` and more", '`TABLE["c"]`'])
def test_a_link_to_nothing_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "code.py").write_text('def mix(x):\n    return 2 * x  # eq. 4\n\n\nTABLE = {"a": 1}\n')
    page = tmp_path / "page.md"
    page.write_text(f"See [{text}](code.py).\n\n```\n[`anything`](code.py) in a block\n```\n")
    assert len(source_links.broken(page)) == 1


def test_every_page_has_its_place_on_the_site() -> None:
    """The landing page lists each page once; what it lists is there."""
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", (DOCS / "index.md").read_text(), re.MULTILINE)
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"index.md"}
    assert sorted(listed) == sorted(pages)


def test_the_api_page_lists_every_public_name() -> None:
    """Once each, by the folder that it comes from."""
    text = (DOCS / "api.md").read_text()
    items = re.findall(r"^- \[`(\w+)`\]\(\.\./minidiff/([\w/]+)\.py\)$", text, re.MULTILINE)
    folders = {name: path.split("/")[0] for name, path in items}
    assert len(items) == len(folders) and folders == {
        name: place.split(".")[0] for name, place in minidiff.PUBLIC.items()
    }


# --- commands --------------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's blocks, as words, without what explains them, two spaces or more to the right."""
    found = []
    for block in re.findall(r"```(?:sh|bash)?\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s*\\\s+", " ", line)
            told = re.match(r"(?:torchrun \S+ -m )?minidiff (.*?)(?:\s{2,}(?!-).*|\s+# .*)?$", line)
            if told:
                found.append(shlex.split(told[1]))
    return found


def parsed(words: list[str]) -> None:
    """Hold a command line to the real one. Raises click.UsageError for what it would refuse."""
    command: click.Command = cli.cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        words = words[1:] if words[0] in ("--quiet", "--verbose") else words
        name, *words = words
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no command {name}")
        command, context = found, click.Context(found, parent=context, info_name=name)
    given, _, _ = command.make_parser(context).parse_args(args=list(words))
    numbers = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
    for option in command.params:
        values = given.get(option.name or "")
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and isinstance(option.type, numbers):
                option.type.convert(value, option, context)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_ones_that_there_are(page: Path) -> None:
    """Every option is one of the command, has its value, and a value that is a choice or a number is a possible one."""
    for words in commands(page):
        try:
            parsed(words)
        except click.UsageError as error:
            pytest.fail(f"minidiff {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("line", ["sample --nun 3", "sample --num many", "sample --num", "draw", "train ddpm --preset"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(line.split())


@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorials/*.md")), ids=named)
def test_quick_commands_of_tutorials_run_as_printed(
    page: Path, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a run and pictures of the names that the page uses, so that nothing has to be trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("ddpm-shapes-1", "photos-32"):
        (tmp_path / "runs" / name).symlink_to(trained)
    (tmp_path / "photos").symlink_to(photos)
    (picture,) = pictures(1, 64, 64)
    write_image("photo.png", picture)
    write_image("photo.jpg", picture)
    assert commands(page)
    for words in commands(page):
        if words[0] not in SLOW and "STUDY" not in words:
            assert cli.run(words) == 0, shlex.join(words)


# --- figures ---------------------------------------------------------------------------------------------------------


def figure(name: str) -> ModuleType:
    pytest.importorskip("skimage")
    return module(DOCS / "figures" / f"{name}.py")


def test_schedules_figure(tmp_path: Path) -> None:
    figure("schedules").main(tmp_path / "out.png", size=8)
    height, width = image_shape(tmp_path / "out.png")
    assert width > 6 * 8 and height > 3 * 8


def test_wrong_start_figure(tmp_path: Path) -> None:
    """The start that has the picture's noise is the best of those that add none; one far above loses the picture."""
    found = figure("wrong_start").main(tmp_path / "out.png", size=48, calls=1)
    assert max(found["scale"]) == found["scale"][1] > found["scale"][-1] + 3
    assert found["noise"][-1] < found["noise"][0]
    assert (tmp_path / "out.png").exists()


def test_overfit_figure(tmp_path: Path) -> None:
    """Nearest to the clean picture before the end, and to the noisy one at the end: the noise is fitted last."""
    found = figure("overfit").main(tmp_path / "out.png", size=24, steps=300, channels=32, scales=1)
    clean, noisy = (np.convolve(found[name], np.ones(20) / 20, "valid") for name in ("clean", "noisy"))
    best = int(clean.argmax())
    assert clean[best] > clean[-1] + 0.5
    assert noisy[-1] > noisy[best] + 0.5
    assert (tmp_path / "out.png").exists()


def test_fid_bias_figure(tmp_path: Path) -> None:
    """FD of few images is far above the truth, as c/n; FD-infinity is around it. The two sides share no image."""
    found = module(DOCS / "figures" / "fid_bias.py").main(
        tmp_path / "out.png",
        clean=torch.randn(800, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        damaged=0.5 + torch.randn(800, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        counts=(25, 100, 400),
        repeats=12,
        groups=5,
    )
    for name, truth in (("real", 0.0), ("known", 8 * 0.5**2)):
        pair = found[name]
        assert abs(pair["truth"] - truth) < 0.5  # of the moments of 800 rows
        excess = pair["fd"].mean(1) - pair["truth"]
        assert 3 < excess[0] / excess[1] < 7 and excess[0] > 1
        error = pair["fd_inf"].std(1) / 12**0.5
        assert (abs(pair["fd_inf"].mean(1) - pair["truth"])[1:] < 4 * error[1:]).all()
    assert (tmp_path / "out.png").exists()


def test_attention_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawn weights are those that the layer uses: with them, by hand, comes out what the layer gives."""
    found = figure("attention")
    network = minidiff.UNet(8, channels=(8, 8), layers_per_block=1, attention=(False, True), norm_groups=4)
    seen = {}
    for name, layer in network.named_modules():
        if isinstance(layer, found.Attention):
            torch.nn.init.normal_(layer.out.weight)  # 0 in a fresh network
            torch.nn.init.normal_(layer.query.weight, std=2.0)
            layer.register_forward_hook(
                lambda layer, given, out, name=name: seen.update({name: (layer, given[0], out)})
            )
    maps = found.attention_maps(network, torch.randn(1, 3, 8, 8), 5)
    assert len(maps) == len(seen) == 4
    for name, (layer, x, out) in seen.items():
        value = layer.value(layer.norm(x)[0].permute(1, 2, 0))  # [H,W,C]
        answers = layer.out(torch.einsum("hwij,ijc->hwc", maps[name], value))
        assert torch.allclose(x[0] + answers.permute(2, 0, 1), out[0], atol=1e-5)
        assert maps[name].amax() > 0.2  # the weights differ

    shares = found.main(tmp_path / "out.png", steps=1, scenes=2)
    assert (
        0.5 < shares["area"]["floor"] < 0.95 and abs(shares["up.1.attention"]["floor"] - shares["area"]["floor"]) < 0.1
    )
    assert (tmp_path / "out.png").exists()


def test_attention_figure_knows_what_a_pixel_shows() -> None:
    """Pixels of one solid have its colour more than the floor has; those of the floor are grey."""
    found = figure("attention")
    picture = found.shapes.draw(0, 32, split="test").reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    colourful = picture.max(axis=2) - picture.min(axis=2)
    shown = found.solids_of(0)
    assert set(np.unique(shown)) == {found.EDGE, found.FLOOR, 0, 1, 2}  # three solids
    assert colourful[shown == found.FLOOR].max() < colourful[shown >= 0].min()
