"""The command line's help is quick and in sections, its errors name flags, and it can say less or more."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import minidiff
from minidiff import cli
from minidiff.cli.commands import Command
from minidiff.cli.messages import warn
from minidiff.errors import UserError
from minidiff.runtime.details import set_verbosity
from minidiff.runtime.verbosity import VARIABLE

PACKAGE = Path(minidiff.__file__).parent
SLOW = {"torch", "torchvision", "numpy", "matplotlib", "PIL", "scipy", "safetensors", "pydantic"}


def leaves(command: click.Command, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by the words that call it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, f"{words} {name}".strip())
    else:
        yield words, command


COMMANDS = dict(leaves(cli.cli))


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """For each command, what its --help imports that takes long. One process forks for each of them."""
    code = f"""
import os, sys
from minidiff import cli
for words in {sorted(COMMANDS)!r}:
    sys.stdout.flush()
    if os.fork() == 0:
        sys.stdout = open(os.devnull, "w")
        code = cli.run([*words.split(), "--help"])
        sys.stdout = sys.__stdout__
        print(code, words, *sorted({SLOW!r} & set(sys.modules)), sep=",", flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert all(row[0] == "0" for row in rows), done.stderr
    return {words: set(modules) for _, words, *modules in rows}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_help_is_quick(words: str, imported: dict[str, set[str]]) -> None:
    """torch alone takes two seconds. Fails when a module of the command line imports it, or a table that does."""
    assert not imported[words]


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_translates_arguments(words: str) -> None:
    """Fails for a command that is made without cls=Command, whose errors would show arguments instead of flags."""
    assert isinstance(COMMANDS[words], Command)


MANY = 12  # options that can be read without sections


def own_options(command: click.Command) -> list[click.Option]:
    options = [param for param in command.params if isinstance(param, click.Option)]
    return [option for option in options if option.expose_value or option.name == "network"]


def first_flag(option: click.Option) -> str:
    """The flag that help names first, but for a short one such as -n."""
    return next(flag for flag in option.opts if flag.startswith("--"))


@pytest.mark.parametrize("words", [words for words in sorted(COMMANDS) if len(own_options(COMMANDS[words])) > MANY])
def test_long_help_has_sections(words: str) -> None:
    """Every option stands once, in a section, and no section is empty or comes twice.

    Fails when `section` marks the options above it, when a new option comes before the first section, and when
    `format_options` begins a new section for each option. `--help` alone belongs to no section.
    """
    said = COMMANDS[words].get_help(click.Context(COMMANDS[words], info_name=words))
    parts = re.split(r"^(\w[^\n]*):\n", said, flags=re.MULTILINE)[1:]
    titles, rows = parts[::2], [re.findall(r"^  (?:-\w, )?(--[\w-]+)", part, re.MULTILINE) for part in parts[1::2]]
    assert all(rows) and len(set(titles)) == len(titles) > 3
    assert titles[-1] == "Other" and "Options" not in titles
    known = {first_flag(option): vars(option)["section"] for option in own_options(COMMANDS[words])}
    found = {flag: title for title, flags in zip(titles[:-1], rows[:-1], strict=True) for flag in flags}
    assert found == known and sum(map(len, rows[:-1])) == len(known)


def test_train_ddpm_groups_its_options() -> None:
    said = COMMANDS["train ddpm"].get_help(click.Context(COMMANDS["train ddpm"]))
    flags = ["--dataset", "--preset", "--schedule", "--lr", "--fid-every", "--out"]
    titles = ["Data", "Network", "Diffusion", "Training", "Pictures and measurements", "Output"]
    at = [said.index(f"\n{title}:\n") for title in titles]
    assert at == sorted(at)
    for flag, begin, end in zip(flags, at, [*at[1:], len(said)], strict=True):
        assert f"\n  {flag} " in said[begin:end]


@pytest.mark.parametrize(
    "words, wrong",
    [
        ("sample -n x", "'x' is not a valid whole number"),
        ("train ddpm --lr 0,1", "'0,1' is not a valid number"),
        ("info a b", "extra argument (b). See"),
    ],
)
def test_wrong_usage_is_a_plain_sentence(words: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails with click's own classes: "'x' is not a valid integer range"."""
    assert cli.run(words.split()) == 2
    assert wrong in capsys.readouterr().err


# --- arguments become flags -------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.option("--start-t", type=int)
@click.option("--clip/--no-clip")
@click.option("-n", "--num", type=int)
def command(**_: object) -> None:
    warn("`num` is small")
    raise UserError("an init needs `start_t`; see `minidiff info`, `clip`, `num` and `other`")


def test_arguments_become_flags() -> None:
    found = CliRunner().invoke(command, [])
    assert isinstance(found.exception, UserError)
    assert str(found.exception) == "an init needs --start-t; see `minidiff info`, --clip, --num and `other`"
    assert "Warning: --num is small" in found.output


def test_an_error_of_the_package_shows_the_flag(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real one: an init without the timestep to start from."""
    assert cli.run(["sample", str(trained), "--init", str(trained / "curves.png"), "--device", "cpu"]) != 0
    said = capsys.readouterr().err
    assert "--start-t" in said and "start_t" not in said


# --- flags stand in minidiff/cli alone --------------------------------------------------------------------------------

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

# These print whole commands to type next, as in `minidiff sample RUN --num 64`; style sheets have variables like flags.
COMMANDS_IN = {
    "classifier/job.py",
    "ddpm/job.py",
    "dip/run.py",
    "gan/job.py",
    "health/driver.py",
    "reports/prior_report.py",
    "reports/study_report.py",
    "studies/cell.py",
    "training/job.py",
}
STYLE_SHEETS = {"reports/style.py", "reports/charts.py"}


def flags_in(path: Path) -> list[str]:
    """The flags that the strings of a file name: messages and docstrings, not comments."""
    constants = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return [flag for node in constants if isinstance(node.value, str) for flag in FLAG.findall(node.value)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_flags_are_named_in_the_command_line_only(path: Path) -> None:
    """A script has no flags: outside of cli/ a message names the argument, in backticks."""
    name = path.relative_to(PACKAGE).as_posix()
    if not name.startswith("cli/") and name not in COMMANDS_IN | STYLE_SHEETS:
        assert not flags_in(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sampel", "Did you mean 'sample'?"),
        ("train gan", "Did you mean 'wgan'?"),
        ("train foo", "Known: classifier, dcgan"),
        ("data lst", "Did you mean 'list'?"),
        ("dip fitt", "Did you mean 'fit'?"),
    ],
)
def test_an_unknown_command_has_its_neighbours_named(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In every group; click alone names none where no name is near."""
    assert cli.run(words.split()) == 2
    assert said in capsys.readouterr().err


# --- how much is said -------------------------------------------------------------------------------------------------

GROUPS = [cli.cli, *(cli.cli.get_command(click.Context(cli.cli), name) for name in ("train", "dip", "data"))]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    set_verbosity("normal")


@pytest.mark.parametrize("command", [*COMMANDS.values(), *GROUPS], ids=lambda command: str(command.name))
def test_every_command_can_be_quiet_or_verbose(command: click.Command) -> None:
    flags = {flag for param in command.params for flag in param.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= flags


def said_by(trained: Path, capsys: pytest.CaptureFixture[str], before: str = "", after: str = "") -> tuple[str, str]:
    """What `minidiff sample` prints on its two streams."""
    words = ["sample", str(trained), "--num", "1", "--steps", "2", "--sampler", "ddim", "--device", "cpu", "--force"]
    assert cli.run([*before.split(), *words, "--out", "one.png", *after.split()]) == 0
    assert VARIABLE not in os.environ or os.environ[VARIABLE] == "normal"
    return capsys.readouterr()


def test_quiet_prints_the_result_alone(own_folder: None, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also the place of the flag does not matter, and the next command is as loud as ever.

    Fails when the level outlives the command, when a group forgets the flag, and when a warning is silenced: the model
    was trained for six steps, and draws noise.
    """
    usual, bar = said_by(trained, capsys)
    assert len(usual.splitlines()) > 1 and "100%" in bar
    for before, after in (("--quiet", ""), ("", "-q")):
        out, err = said_by(trained, capsys, before, after)
        assert out.splitlines() == [line for line in usual.splitlines() if line.startswith("written")]
        assert err and all(line.startswith("Warning: ") for line in err.splitlines())
    assert said_by(trained, capsys)[0] == usual


def test_verbose_tells_what_was_read(own_folder: None, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The results stay as they are; the details are on standard error."""
    usual = said_by(trained, capsys)[0]
    out, err = said_by(trained, capsys, after="-v")
    assert out == usual
    for part in ("torch ", "computing on cpu", f"read {trained / 'model.safetensors'} (", "minidiff sample took"):
        assert part in err


@pytest.mark.parametrize("flags, traced", [([], False), (["-v"], True), (["-q"], False)])
def test_an_error_shows_its_place_on_demand(
    flags: list[str], traced: bool, own_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["info", "nothing-here", *flags]) == 1
    said = capsys.readouterr().err
    assert ("Traceback" in said) == traced
    assert said.splitlines()[-1].startswith("Error: nothing-here")


@pytest.mark.parametrize("words", [["-q", "info", "-v"], ["info", "--verbose", "--quiet"]])
def test_quiet_and_verbose_exclude_each_other(
    words: list[str], own_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(words) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_environment_decides_for_all_commands(
    own_folder: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study's processes hear of --quiet in this way. A wrong value is an error, and a flag goes before the value."""
    monkeypatch.setenv(VARIABLE, "verbose")
    assert cli.run(["info"]) == 0 and "torch " in capsys.readouterr().err
    assert cli.run(["info", "-q"]) == 0 and os.environ[VARIABLE] == "verbose"
    capsys.readouterr()
    monkeypatch.setenv(VARIABLE, "loud")
    assert cli.run(["info"]) == 1
    assert "loud" in capsys.readouterr().err
