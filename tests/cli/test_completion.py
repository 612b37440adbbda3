"""The Tab key and the help: what a shell is offered, and examples that can be typed as they stand."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from minidiff import cli
from minidiff.cli.completion import SHELLS
from minidiff.runs.shipped import shipped


def leaves(command: click.Command, words: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, f"{words} {name}".strip())
    else:
        yield words, command


COMMANDS = dict(leaves(cli.cli))


def offered(*words: str) -> list[str]:
    """What the shell is offered for the last of these words."""
    shell = ShellComplete(cli.cli, {}, "minidiff", "_MINIDIFF_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "among"),
    [
        (("sa",), ["sample"]),
        (("train", "d"), ["ddpm", "dcgan", "dehaze", "dip-prior"]),
        (("sample", "--comp"), ["--compare"]),
        (("sample", "--sampler", "dd"), ["ddpm", "ddim"]),
        (("sample", "--compare", "ddpm,he"), ["ddpm,heun"]),
        (("fid", "--metrics", "fid,k"), ["fid,kid"]),
        (("sample", "--device", "c"), ["cpu", "cuda"]),
        (("models", "ph"), ["photos"]),
        (("fid", "a", "b", "--features", "fash"), ["fashion-mnist-classifier"]),
        (("restore", "--model", "ph"), ["photos"]),
    ],
)
def test_names_are_completed(words: tuple[str, ...], among: list[str]) -> None:
    """Exactly these, in whatever order."""
    assert sorted(offered(*words)) == sorted(among)


def test_runs_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under runs/ and the package's own; else files."""
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.json").write_text('{"kind": "ddpm"}')
    assert offered("sample", "runs/") == offered("info", "r") == ["runs/mine"]
    assert offered("report", "") == ["runs/mine", *shipped()]
    shell = ShellComplete(cli.cli, {}, "minidiff", "_MINIDIFF_COMPLETE")
    assert [item.type for item in shell.get_completions(["sample"], "../a")] == ["file"]


def test_completing_is_quick() -> None:
    """A key must not wait for torch."""
    code = (
        "import sys; from minidiff import cli; from click.shell_completion import ShellComplete;"
        "shell = ShellComplete(cli.cli, {}, 'minidiff', 'X');"
        "[shell.get_completions(*each) for each in ((['sample'], ''), (['sample', '--sampler'], ''), ([], 's'))];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_the_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert f"_MINIDIFF_COMPLETE={shell}_complete" in said and "minidiff" in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_bash_completes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a real shell: the script is read, and its function called as bash does on Tab."""
    assert cli.run(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "minidiff").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m minidiff "$@"\n')
    (tmp_path / "minidiff").chmod(0o755)
    typed = "COMP_WORDS=(minidiff mod); COMP_CWORD=1; _minidiff_completion minidiff; echo ${COMPREPLY[@]}"
    root = Path(cli.__file__).parents[2]
    done = subprocess.run(
        ["bash", "-c", f"export PATH={shlex.quote(str(tmp_path))}:$PATH PYTHONPATH={shlex.quote(str(root))}\n"
         f"complete() {{ :; }}; compopt() {{ :; }}\n{script}\n{typed}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "models", done.stderr


# --- the help -----------------------------------------------------------------------------------------------------

EXAMPLE = re.compile(r"^ *(?:torchrun \S+ -m )?(minidiff .*?)(?: {2,}.*| >.*)?$", re.MULTILINE)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_the_examples_of_the_help_can_be_typed(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has one, and the command line takes each as it stands. Nothing is run.

    Fails for an option that is called otherwise by now, and for a name that is in no table.
    """
    monkeypatch.chdir(tmp_path)
    examples = EXAMPLE.findall(COMMANDS[words].help or "")
    assert any(example.startswith(f"minidiff {words}") for example in examples)
    for example in examples:
        command: click.Command = cli.cli
        context, rest = click.Context(command), shlex.split(example)[1:]
        while isinstance(command, click.Group):
            below = command.get_command(context, rest[0])
            assert below is not None, example
            command, rest = below, rest[1:]
        command.make_context(example, rest)


def test_the_help_groups_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert len(re.findall(rf"^  {name} ", said, re.MULTILINE)) == 1
    titles = re.findall(r"^(\w[^\n]*):$", said, re.MULTILINE)
    assert titles == ["Options", *cli.GROUPS] and sum(map(len, cli.GROUPS.values())) == len(cli.COMMANDS)
