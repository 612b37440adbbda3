"""One way to write a file, whatever happens in the middle of it; one way to hold a folder."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidiff.errors import UserError, printable, printable_lines
from minidiff.files import (
    LOCK,
    is_empty,
    is_working_name,
    locked,
    read_any_json,
    read_json,
    read_text_bytes,
    regular,
    replacing,
    replacing_folder,
    size_in_words,
    working_place,
    write_atomically,
    write_json,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from minidiff.files import locked, replacing, replacing_folder
folder = Path(sys.argv[1])
with locked(folder), replacing(folder / "file") as file, replacing_folder(folder / "inner") as inner:
    file.write(b"ne")
    file.flush()
    (inner / "part").touch()
    print("ready", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def other(folder: Path, how: str) -> "subprocess.Popen[bytes]":
    """A process in the middle of writing FOLDER/file and FOLDER/inner, which holds FOLDER; `kill` ends it there."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    if how == "kill":
        process.communicate(timeout=60)
    return process


def test_what_a_kill_leaves_goes_with_the_next_write(tmp_path: Path) -> None:
    """The old file stays; a file and a folder half written are removed by whoever writes them next, and not before."""
    (tmp_path / "file").write_bytes(b"old")
    assert other(tmp_path, "kill").returncode == -9
    left = [name for name in os.listdir(tmp_path) if is_working_name(name)]
    assert len(left) == 2 and (tmp_path / "file").read_bytes() == b"old"
    write_json(tmp_path / "another", 1)
    assert set(left) < set(os.listdir(tmp_path))
    write_json(tmp_path / "file", 1)
    with replacing_folder(tmp_path / "inner") as inner:
        (inner / "whole").touch()
    assert sorted(os.listdir(tmp_path)) == [LOCK, "another", "file", "inner"]
    assert os.listdir(tmp_path / "inner") == ["whole"]


def test_the_working_file_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    """And so does one of another computer, until it has been silent for a day."""
    process = other(tmp_path, "wait")
    try:
        far = tmp_path / ".file.tmp-far.example-1"
        far.touch()
        write_json(tmp_path / "file", 1)
        assert len([name for name in os.listdir(tmp_path) if is_working_name(name)]) == 3
        os.utime(far, (time.time() - 90_000,) * 2)
        write_json(tmp_path / "file", 1)
        assert not far.exists()
    finally:
        process.communicate(timeout=60)
    assert (tmp_path / "file").read_bytes() == b"ne" and not list(tmp_path.glob(".*tmp*"))


def test_a_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    """The lock ends with its process, by whatever end; its file counts for nothing."""
    for how in ("wait", "kill"):
        process = other(tmp_path, how)
        if how == "wait":
            with pytest.raises(UserError, match=f"^another process is at work in {tmp_path}\\. Wait"), locked(tmp_path):
                pass
            process.communicate(timeout=60)
        with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
            pass
    with pytest.raises(UserError, match="cannot lock"), locked(tmp_path / "nowhere"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_and_working_files_are_not_contents(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_empty(tmp_path)
    working_place(tmp_path / "file").touch()
    assert is_empty(tmp_path)
    (tmp_path / ".file.tmp-of-mine").touch()
    assert not is_empty(tmp_path)


@pytest.mark.parametrize("flush", [True, False])
def test_an_end_in_the_middle_leaves_what_was_there(tmp_path: Path, flush: bool) -> None:
    path = tmp_path / "[a]*"  # a name that `glob` must not take for a pattern
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path, flush) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "folder") as folder:
        (folder / "part").touch()
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["[a]*"]
    with pytest.raises(OSError), replacing_folder(path):  # what is there is never replaced by a folder
        pass
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["[a]*"]


def test_what_stops_a_write_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write .*/file/a: Not a directory\. What .* unharmed\. Choose"):
        write_json(tmp_path / "file" / "a", 1)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"a: No space left on device\. What .* unharmed\. Make room, then try again"):
        write_atomically(tmp_path / "a", full)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist. Mend it."),
        (b"{", "is no JSON (Expecting"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "nested too deeply. Mend it."),
        (b"[1]", "holds [1], not a JSON object. Mend it."),
    ],
)
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, "Mend it.")
    assert str(error.value).startswith(str(path)) and said in str(error.value) and "\n" not in str(error.value)


def test_json_is_read_whatever_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"ä": 1}', encoding="utf-8-sig")
    (tmp_path / "b").write_text("[2]", encoding="utf-16")
    assert read_json(tmp_path / "a") == {"ä": 1} and read_any_json(tmp_path / "b") == [2]
    assert read_json(tmp_path / "c", missing={}) == {}


# --- what comes from elsewhere ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="Windows has no pipes among its files")
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe, a socket, a device or a folder is refused at once; a link counts as what it leads to.

    Fails, by waiting for ever, when `regular` lets a pipe pass.
    """
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert regular(tmp_path / "link") == tmp_path / "link" and regular(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    refused = {"pipe": "pipe", "link to a pipe": "pipe", "socket": "socket", "/dev/zero": "device", ".": "folder"}
    for name, kind in refused.items():
        with pytest.raises(UserError, match=f"a {kind}, not a file"):
            read_any_json(tmp_path / name)


def test_a_text_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    """Fails when the size of the file is not asked for first: the file here has 1 TB, of nothing."""
    with open(tmp_path / "long.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="MB"):
        read_any_json(tmp_path / "long.json")
    (tmp_path / "short.txt").write_bytes(b"abc")
    assert read_text_bytes(tmp_path / "short.txt", 3) == b"abc"
    with pytest.raises(UserError):
        read_text_bytes(tmp_path / "short.txt", 2)


def test_a_terminal_gets_no_codes_to_obey() -> None:
    """Every character that a terminal obeys is shown by its number, and words of any language are left alone.

    Fails when C1, the marks of direction or the separators of lines are forgotten.
    """
    obeyed = [*map(chr, range(32)), *map(chr, range(127, 160)), *"\u2028\u2029\u202e\u2066\u200f\ufeff\udcff"]
    for character in obeyed:
        assert printable(f"a{character}b").isprintable(), ascii(character)
    assert printable("a\x1b[31m\n\u202eb\udcff") == r"a\x1b[31m\n\u202eb\xff"
    plain = "Größe, 写真, résumé\u0301, क्ष, \U0001f469\u200d\U0001f52c, a\u202fm"
    assert printable(plain) == plain
    assert printable_lines("a\x07\nb") == "a\\x07\nb"
    assert str(UserError("one\ntwo\x1b")) == r"one\ntwo\x1b"


@pytest.mark.parametrize(
    "count, words",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1234, "1.2 kB"), (99_949, "99.9 kB"), (123_456_789, "123 MB"),
     (1_500_000_000, "1.5 GB"), (12e12, "12,000 GB")],
)  # fmt: skip
def test_sizes_have_the_unit_that_suits_them(count: float, words: str) -> None:
    """A settings file of a kilobyte is not 0.0 MB. Fails for one unit for all, and for units of 1024 bytes."""
    assert size_in_words(count) == words
