"""What reaches the terminal: no control codes of others, and the right advice when the memory does not suffice."""

import os
import re
from pathlib import Path

import click
import pytest
from PIL import Image

from minidiff import cli
from minidiff.cli import commands
from minidiff.errors import NoMemory

CODES = "\x1b[31m\x1b]0;NAME\x07\u202e\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_texts_of_the_commands_are_cleaned() -> None:
    """Only `echo`, `warn`, `fail` and JSON may call click.echo, since these alone leave no control codes."""
    folder = Path(commands.__file__).parent
    calls = [
        line.strip() for path in folder.glob("*.py") for line in path.read_text().splitlines() if "click.echo(" in line
    ]
    assert calls
    cleaned = re.compile(r"click\.echo\(.*printable|click\.echo\(json\.dumps|error\.format_message\(\)\)")
    assert [line for line in calls if not cleaned.search(line)] == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_names_with_control_codes_are_shown_harmlessly_and_work(capfd: pytest.CaptureFixture[str]) -> None:
    """Pictures and labels under such names are read; errors, warnings and lines show the codes by number.

    Fails when one of UserError, `warn` or `echo` prints what it gets.
    """
    for label in ("one", "two" + CODES):
        Path("data", label).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(Path("data", label, f"a{CODES}.png"))
    Path("data", "one", f"bad{CODES}.png").write_bytes(b"x")
    assert cli.run(["data", "preview", "folder", "--data-dir", "data", "--image-size", "16", "--out", "grid.png"]) == 0
    said = capfd.readouterr()
    shown = r"\x1b[31m\x1b]0;NAME\x07\u202e\n"
    assert f"two{shown}" in said.out and f"bad{shown}.png" in said.err
    assert cli.run(["data", "preview", "folder", "--data-dir", "data", "--on-bad", "stop", "--out", "b.png"]) == 1
    assert cli.run(["dip", "fit", f"data/one/bad{CODES}.png"]) == 1
    assert cli.run([f"in{CODES}fo"]) == 2
    fails = capfd.readouterr().err
    assert fails.count("\n") == 3 and fails.count(shown) >= 3
    for text in (said.out, said.err, fails):
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_the_advice_for_a_lack_of_memory_belongs_to_the_command(error: Exception) -> None:
    """Fails when a command without --batch-size advises half of it, or another error is taken for a lack of memory."""
    advised = {}
    for name in ("batch_size", "size", "out"):
        option = click.Option([f"--{name.replace('_', '-')}"])

        def work(**_: object) -> None:
            raise error

        with pytest.raises(Exception, match="memory") as caught:
            commands.Command("work", params=[option], callback=work).main([], standalone_mode=False)
        advised[name] = str(caught.value)
    assert "half the --batch-size" in advised["batch_size"] and "--batch-size" not in advised["size"]
    assert "a smaller --size" in advised["size"] and "--" not in advised["out"]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_labels_file_without_an_end_is_refused() -> None:
    """/dev/zero once filled the memory, and the advice was to halve the batch size."""
    from minidiff.data.conditions import read_conditions
    from minidiff.errors import UserError

    with pytest.raises(UserError, match="device") as caught:
        read_conditions("/dev/zero", ["a"])
    assert not isinstance(caught.value, NoMemory)
