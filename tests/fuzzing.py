"""Damaged files, tried on the commands that read them.

Every case changes one file of a small, whole workspace, and runs one command on it in a process of its own. The command
may succeed, or end with exit code 1 or 2 and one line that begins with `Error:`. A traceback, more than 10 s or more
than 1 GB is a fault. `tests/test_fuzz.py` runs some hundred cases of every kind. This prints the counts:

    python tests/fuzzing.py --cases 500 --seed 1 --kinds npy,ddpm --keep faults

Every kind of damage is drawn by hypothesis, so a seed gives the same cases again.
"""

import argparse
import copy
import gzip
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

SECONDS, MEMORY = 10, 10**9  # what a command may take
FAULTS = ("traceback", "hang", "memory", "lines", "code", "control")
GRACE = 4  # times SECONDS and MEMORY: then the process is killed
WAIT = 300  # seconds of the clock: then, too. A busy machine gives a process a tenth of them
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fuzzing_preload"])


# --- one case -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a command did. seconds: of processor time, which other work on the machine does not change; if it was
    killed for waiting, of the clock. peak: bytes of memory at most, all of torch included."""

    arguments: tuple[str, ...]
    code: int | None  # None: it was killed after GRACE or WAIT
    output: str
    seconds: float
    peak: int

    def faults(self) -> list[str]:
        """Name what is wrong with it: some of FAULTS.

        lines: an error that is not one line; code: an exit code that has no meaning here; control: a character that
        could command a terminal.
        """
        errors = [line for line in re.split("[\r\n]", self.output) if line.startswith(("Error:", "Usage:"))]
        ended = self.code is not None
        found = {
            "traceback": "Traceback (most recent call last)" in self.output,
            "hang": self.seconds > SECONDS or (not ended and self.peak <= MEMORY * GRACE),
            "memory": self.peak > MEMORY,
            "code": ended and self.code not in (0, 1, 2),
            "lines": self.code in (1, 2) and len(errors) != 1,
            "control": bool(re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", self.output)),
        }
        return [name for name, holds in found.items() if holds]


def status(pid: int | str, name: str) -> int:
    """Return one of the memory figures of a process, in bytes; 0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else 0


def spent(pid: int | str) -> float:
    """Return the seconds of processor time that a process has taken; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child(arguments: list[str], folder: str, output: str, answer: Any) -> None:
    """Run a command in this process, which is a fork, and send back the most memory and the time that it took."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    os.chdir(folder)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    from minidiff.cli import main

    try:
        main(arguments)
    finally:
        answer.send((status("self", "VmHWM"), sum(os.times()[:4])))


def ready() -> None:
    """End with 0 in a fork of a process that has read fuzzing_preload, else with 1."""
    sys.exit("fuzzing_preload" not in sys.modules)


@cache
def warm_up() -> None:
    """Start the process whose forks the cases are. What it imports takes longer than any case.

    Until Python 3.13 it looks for modules in PYTHONPATH alone, and goes on without a word when it finds none.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent), before]))
    try:
        process = FORKS.Process(target=ready)
        process.start()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    process.join()
    assert process.exitcode == 0, "the fork server could not import fuzzing_preload"


def attempt(arguments: list[str], folder: Path) -> Outcome:
    """Run `minidiff ARGUMENTS` in a folder, and watch over it."""
    warm_up()
    output = folder / ".output"
    here, there = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=child, args=(arguments, str(folder), str(output), there))
    since, peak = time.perf_counter(), 0
    process.start()
    there.close()
    while process.is_alive():
        process.join(0.05)
        peak = max(peak, status(process.pid or 0, "VmRSS"))
        used, gone = spent(process.pid or 0), time.perf_counter() - since
        if used > SECONDS * GRACE or gone > WAIT or peak > MEMORY * GRACE:
            process.kill()
            process.join()
            return Outcome(tuple(arguments), None, read(output), gone if gone > WAIT else used, peak)
    most, seconds = 0, 0.0
    with suppress(EOFError):  # it was killed by a signal
        most, seconds = here.recv() if here.poll() else (0, 0.0)
    return Outcome(tuple(arguments), process.exitcode, read(output), seconds, max(peak, most))


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


# --- mutations ----------------------------------------------------------------------------------------------------


@st.composite
def bytes_of(draw: Any, whole: bytes) -> bytes:
    """Cut, flip, overwrite, insert or repeat some of the bytes of a file. The first kilobyte is hit more often."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        most = len(data) if draw(st.booleans()) else min(len(data), 1024)
        at = draw(st.integers(0, max(0, most - 1)))
        what = draw(st.sampled_from(["flip", "cut", "write", "insert", "repeat", "number"]))
        if what == "cut":
            del data[at : at + draw(st.sampled_from([1, 4, 64, len(whole)]))]
        elif what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "write":
            data[at : at + 4] = draw(st.binary(min_size=4, max_size=4))
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif what == "repeat":
            data[at:at] = data[at : at + 64] * draw(st.sampled_from([1, 2, 100]))
        else:
            form = draw(st.sampled_from(["<I", ">I", "<Q", "<H", ">H"]))
            number = draw(st.sampled_from([0, 1, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**60]))
            data[at : at + struct.calcsize(form)] = struct.pack(form, number % 256 ** struct.calcsize(form))
    return bytes(data)


ODD = [
    None, True, False, 0, 1, -1, 3, 0.5, -0.5, 1e300, 10**30, 2**31, 2**63, "", "x", "a\x1b[31m\nb", "é" * 1000,
    [], [0], [1, "x"], [[]], [10**9] * 4, {}, {"a": 1}, {"": None}, "NaN", "../../x", "cuda", list(range(3000)),
]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000]


def paths_in(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the places in a JSON value: keys and indices."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [so_far, *(place for key, inner in items[:40] for place in paths_in(inner, (*so_far, key)))]


@st.composite
def json_of(draw: Any, whole: bytes) -> bytes:
    """Replace, remove, rename or double some values of a JSON file; now and then damage its bytes instead."""
    if draw(st.integers(0, 7)) == 0:
        return draw(bytes_of(whole))
    value = json.loads(whole)
    mark = "@@raw@@"
    raw = None
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(paths_in(value)))
        what = draw(st.sampled_from(["replace"] * 6 + ["remove", "rename", "raw", "double"]))
        new: Any = copy.deepcopy(draw(st.sampled_from(ODD)))  # the next damage may change it
        if what == "raw":
            raw, new = draw(st.sampled_from(RAW)), mark
        if not place:
            if what in ("replace", "raw"):
                value = new
            continue
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        last = place[-1]
        if what in ("replace", "raw"):
            parent[last] = new
        elif what == "remove":
            del parent[last]
        elif what == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "x", "é\x1b[1m", "__class__", "kind"]))] = parent.pop(last)
        elif isinstance(parent, list):
            parent.append(parent[last])
    text = json.dumps(value)
    return (text.replace(json.dumps(mark), raw) if raw else text).encode()


@st.composite
def lines_of(draw: Any, whole: bytes) -> bytes:
    """Damage one line of a file of JSON lines, or swap, double and drop lines."""
    lines = whole.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(["json", "json", "json", "drop", "double", "swap", "bytes"]))
    if what == "bytes":
        return draw(bytes_of(whole))
    if what == "json":
        lines[at] = draw(json_of(lines[at])).replace(b"\n", b" ")
    elif what == "drop":
        del lines[at]
    elif what == "double":
        lines.insert(at, lines[at])
    else:
        lines[0], lines[at] = lines[at], lines[0]
    return b"\n".join(lines) + b"\n"


@st.composite
def header_of(draw: Any, whole: bytes) -> bytes:
    """Lie in the header of a .npy file: its shape, type and order."""
    start = 10 + struct.unpack("<H", whole[8:10])[0]
    number = st.sampled_from([-1, 0, 1, 2, 3, 4, 16, 40, 2048, 10**5, 10**9, 10**12, 2**62, 2**64, True, None, 2.5])
    shape = tuple(draw(st.lists(number, max_size=6)))
    kind = draw(
        st.sampled_from(["|u1", "<f4", "<f8", ">f8", "|O", "<c16", "<U4", "|V8", "<M8[s]", "|S3", "<i8", "|b1"])
    )
    order = draw(st.sampled_from([False, False, True, 3]))
    text = repr({"descr": kind, "fortran_order": order, "shape": shape})
    if draw(st.integers(0, 5)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + whole[start:]


@st.composite
def idx_of(draw: Any, whole: bytes) -> bytes:
    """Damage an IDX file: the gzip file around it, or what it holds, its header first."""
    if draw(st.booleans()):
        return draw(bytes_of(whole))
    content = bytearray(gzip.decompress(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, 15))
        content[at] = draw(st.sampled_from([0, 1, 3, 8, 9, 28, 127, 255]))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return gzip.compress(bytes(content), draw(st.sampled_from([0, 1])))


@st.composite
def npy_of(draw: Any, whole: bytes) -> bytes:
    return draw(header_of(whole) if draw(st.booleans()) else bytes_of(whole))


@st.composite
def npz_of(draw: Any, whole: bytes) -> bytes:
    """Damage the members of a .npz file, their names and number, or the bytes of the archive."""
    if draw(st.integers(0, 2)) == 0:
        return draw(bytes_of(whole))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    what = draw(st.sampled_from(["member", "member", "rename", "drop", "add", "other"]))
    if what == "member":
        members[name] = draw(npy_of(members[name]))
    elif what == "rename":
        members[draw(st.sampled_from(["x.npy", "arr_0.npy", "mu.npy", "sigma.npy", "\x1b[1m.npy", "a/b", "/"]))] = (
            members.pop(name)
        )
    elif what == "drop":
        del members[name]
    else:
        members[draw(st.sampled_from(["arr_0.npy", "arr_1.npy", "mu.npy", "sigma.npy", "readme.txt"]))] = members[name]
    made = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = made.getvalue()
    return draw(bytes_of(data)) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def safetensors_of(draw: Any, whole: bytes) -> bytes:
    """Lie in the header of a safetensors file, or damage its bytes, its numbers included."""
    size = struct.unpack("<Q", whole[:8])[0]
    header, body = whole[8 : 8 + size], bytearray(whole[8 + size :])
    what = draw(st.sampled_from(["header", "header", "length", "bytes", "numbers"]))
    if what == "bytes":
        return draw(bytes_of(whole))
    if what == "header":
        header = draw(json_of(header))
        if draw(st.booleans()):
            kinds = [b"F8_E4M3", b"F8_E5M2", b"C64", b"I64", b"BOOL", b"F16", b"BF16", b"F64", b"X"]
            header = header.replace(b"F32", draw(st.sampled_from(kinds)), draw(st.sampled_from([1, -1])))
    if what == "numbers":
        at = draw(st.integers(0, len(body) // 4 - 1)) * 4
        body[at : at + 4] = struct.pack("<f", draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38])))
    lengths = [len(header)] * 4 + [0, 1, len(header) + 1, 2**32, 2**60, 2**63]
    return struct.pack("<Q", draw(st.sampled_from(lengths)) if what == "length" else len(header)) + header + bytes(body)


@st.composite
def torch_of(draw: Any, whole: bytes) -> bytes:
    """Damage what torch.save wrote: its bytes, or the values that it holds."""
    import torch

    if draw(st.booleans()):
        return draw(bytes_of(whole))
    value = torch.load(io.BytesIO(whole), weights_only=True)
    odd = [*ODD, torch.tensor(float("nan")), torch.zeros(3), torch.zeros(2, 2, dtype=torch.complex64), torch.zeros(0)]
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(paths_in(value)))
        new = copy.deepcopy(draw(st.sampled_from(odd)))
        if not place:
            value = new
            break
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.integers(0, 3)) == 0:
            del parent[place[-1]]
        else:
            parent[place[-1]] = new
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


# Where a small picture that Pillow has written declares its width and height, and how: offset, format, what follows.
DECLARED = {"png": (16, ">II"), "gif": (6, "<HH"), "bmp": (18, "<ii")}


@st.composite
def picture_of(draw: Any, whole: bytes) -> bytes:
    """Damage a picture as any file, or let its header declare another size, or give it the bytes of another format."""
    form = "png" if whole[:4] == b"\x89PNG" else "gif" if whole[:3] == b"GIF" else "bmp" if whole[:2] == b"BM" else ""
    how = draw(st.sampled_from(["bytes", "bytes", "size", "other"]))
    if how == "size" and form:
        at, packing = DECLARED[form]
        # A GIF's first frame need not fill it, so its size is believed: one that a gigabyte has room for.
        side = st.sampled_from([0, 1, 15, 300, 9_000 if form == "gif" else 13_300, 20_000, 65_535])
        data = bytearray(whole)
        struct.pack_into(packing, data, at, draw(side), draw(side))
        if form == "png":  # the header is checked by a sum
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        return bytes(data)
    if how == "size" and whole[:2] == b"P6":
        wide, high = draw(st.integers(-1, 10**6)), draw(st.integers(0, 10**6))
        return b"P6 %d %d 255\n" % (wide, high) + whole[-100:]
    if how == "other":
        size = draw(st.sampled_from([(16, 16), (1, 1), (3000, 1), (4000, 4000)]))
        mode = draw(st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"]))
        made = io.BytesIO()
        Image.new(mode, size).save(made, draw(st.sampled_from(["PNG", "TIFF"])) if mode != "CMYK" else "TIFF")
        return made.getvalue()
    damaged: bytes = draw(bytes_of(whole))
    return damaged


# --- kinds of files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of file: which of the workspace's files is damaged, how, and which commands read it."""

    file: str
    mutate: Callable[[bytes], st.SearchStrategy[bytes]]
    commands: tuple[str, ...]


EVALUATE = "evaluate runs/labelled --classifier runs/classifier --seeds 1 --steps 2 --out e --device cpu"
FEATURES = "--features runs/classifier --device cpu"
OF_DDPM = (
    "info runs/ddpm", "info", "sample runs/ddpm --num 2 --steps 2 --out s.png", "report runs/ddpm",
    "train ddpm --resume runs/ddpm --steps 3 --device cpu", f"fid runs/ddpm images.npz --num 4 --steps 2 {FEATURES}",
    "export runs/ddpm exported", "sample --num 1 --steps 2 --out s.png",
    "restore photo.png --with-dip --model runs/ddpm --steps 2", "restore photo.png --model runs/ddpm",
)  # fmt: skip
OF_GAN = (
    "info runs/gan", "sample runs/gan --num 2 --out s.png", "train dcgan --resume runs/gan --steps 3 --device cpu",
    "report runs/gan", f"fid runs/gan images.npz --num 4 {FEATURES}",
)  # fmt: skip
OF_CLASSIFIER = (
    "info runs/classifier", "report runs/classifier", f"fid images.npz folder {FEATURES}",
    "train classifier --resume runs/classifier --steps 3 --device cpu",
    EVALUATE,
)  # fmt: skip
OF_FIT = (
    "info runs/fit", "dip fit --resume runs/half", "report runs/fit",
    "sample runs/ddpm --init runs/fit --start-t 10 --steps 2 --out s.png",
)  # fmt: skip
OF_STUDY = ("report study", "compare --out study")
OF_PEER = (
    "sample peer --num 1 --steps 2 --out s.png",
    "import peer imported",
    f"fid peer images.npz --num 4 --steps 2 {FEATURES}",
)
OF_PICTURE = (
    f"fid folder images.npz {FEATURES}", "dip fit folder/0.{0} --steps 1 --out f --device cpu",
    "data preview folder --data-dir folder --image-size 16 --out p.png",
    "sample runs/ddpm --init folder/0.{0} --start-t 10 --steps 2 --out s.png",
    "train ddpm --dataset folder --data-dir folder --image-size 16 --steps 1 --device cpu --dry-run",
    "restore folder/0.{0} --model photos --out r.png --device cpu",
    "restore photo.png --model photos --task inpaint --mask folder/0.{0} --calls 1 --out r.png --device cpu",
)  # fmt: skip
OF_ARRAY = (f"fid {{0}} folder {FEATURES}", f"fid folder {{0}} {FEATURES}", f"fid {{0}} {{0}} --metrics kid {FEATURES}")


def on(commands: tuple[str, ...], place: str) -> tuple[str, ...]:
    return tuple(command.replace("{0}", place) for command in commands)


OF_ADM = (
    f"fid folder {{0}} --metrics fid,kid {FEATURES}", f"fid {{0}}:arr_0 folder {FEATURES}",
    f"fid {{0}} folder --metrics fid,prec-recall {FEATURES}", f"fid folder {{0}}:mu {FEATURES}",
)  # fmt: skip
OF_SET = "train ddpm --dataset array --data-dir images.npy --image-size 16 --steps 1 --device cpu --dry-run"
OF_FITS = (
    "info runs/fits", "dip fit --resume runs/fits", "report runs/fits",
    "sample runs/ddpm --init runs/fits --start-t 10 --steps 2 --out s.png",
)  # fmt: skip
OF_RESTORED = ("info runs/restored", "info", "report runs/restored", "restore --resume runs/restored")
OF_FINISHED = ("info runs/finished", "report runs/finished", "restore --resume runs/finished")
OF_EVALUATION = ("info e", "report e", EVALUATE)
OF_SAMPLES = (
    "evaluate runs/labelled --classifier runs/classifier --seeds 1 --steps 2 --out e --device cpu",
    "report e",
)
OF_IDX = f"fid dataset:fashion-mnist:test folder --data-dir fashion {FEATURES}"
PICTURES = ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm")

KINDS = {
    "npy": Kind("images.npy", npy_of, (*on(OF_ARRAY, "images.npy"), OF_SET)),
    "npz": Kind("images.npz", npz_of, on(OF_ARRAY, "images.npz")),
    "statistics": Kind("statistics.npz", npz_of, on(OF_ARRAY[:2], "statistics.npz")),
    "adm": Kind("adm.npz", npz_of, on(OF_ADM, "adm.npz")),
    "own-statistics": Kind("own.npz", npz_of, on(OF_ARRAY[:2], "own.npz")),
    "samples": Kind("e/samples/test-0.npz", npz_of, OF_SAMPLES),
    "idx": Kind("fashion/t10k-images-idx3-ubyte.gz", idx_of, (OF_IDX,)),
    "idx-labels": Kind("fashion/t10k-labels-idx1-ubyte.gz", idx_of, (OF_IDX,)),
    **{form: Kind(f"folder/0.{form}", picture_of, on(OF_PICTURE, form)) for form in PICTURES},
    "ddpm-config": Kind("runs/ddpm/config.json", json_of, OF_DDPM),
    "gan-config": Kind("runs/gan/config.json", json_of, OF_GAN),
    "classifier-config": Kind("runs/classifier/config.json", json_of, OF_CLASSIFIER),
    "fit-config": Kind("runs/fit/config.json", json_of, OF_FIT),
    "fit-result": Kind("runs/fit/result.json", json_of, OF_FIT),
    "half-config": Kind("runs/half/config.json", json_of, (OF_FIT[1], "info runs/half", "report runs/half")),
    "half-metrics": Kind("runs/half/metrics.jsonl", lines_of, (OF_FIT[1], "report runs/half")),
    "half-state": Kind("runs/half/state.pt", torch_of, (OF_FIT[1],)),
    "metrics": Kind("runs/ddpm/metrics.jsonl", lines_of, (OF_DDPM[0], OF_DDPM[3], OF_DDPM[4])),
    "state": Kind("runs/ddpm/state.pt", torch_of, (OF_DDPM[4],)),
    "gan-state": Kind("runs/gan/state.pt", torch_of, (OF_GAN[2],)),
    "weights": Kind("runs/ddpm/model.safetensors", safetensors_of, OF_DDPM),
    "classifier-weights": Kind("runs/classifier/model.safetensors", safetensors_of, OF_CLASSIFIER),
    "study": Kind("study/study.json", json_of, OF_STUDY),
    "study-result": Kind("study/cells/shapes.identity.dcgan/result.json", json_of, OF_STUDY),
    "gan-metrics": Kind("runs/gan/metrics.jsonl", lines_of, (OF_GAN[0], *OF_GAN[2:4])),
    "classifier-metrics": Kind("runs/classifier/metrics.jsonl", lines_of, (*OF_CLASSIFIER[:2], OF_CLASSIFIER[3])),
    "fits-config": Kind("runs/fits/config.json", json_of, OF_FITS),
    "restore-config": Kind("runs/restored/config.json", json_of, OF_RESTORED),
    "restore-result": Kind("runs/restored/result.json", json_of, OF_RESTORED),
    "finish-config": Kind("runs/finished/config.json", json_of, OF_FINISHED),
    "finish-result": Kind("runs/finished/results/1.png.json", json_of, OF_FINISHED),
    "evaluate-config": Kind("e/config.json", json_of, OF_EVALUATION),
    "evaluate-result": Kind("e/result.json", json_of, OF_EVALUATION),
    "labels-file": Kind("labels.json", json_of, (f"{EVALUATE} --labels-file labels.json",)),
    "peer-index": Kind("peer/model_index.json", json_of, OF_PEER),
    "peer-config": Kind("peer/unet/config.json", json_of, OF_PEER),
    "peer-scheduler": Kind("peer/scheduler/scheduler_config.json", json_of, OF_PEER),
    "peer-weights": Kind("peer/unet/diffusion_pytorch_model.safetensors", safetensors_of, OF_PEER),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    content: bytes
    command: str


@st.composite
def cases(draw: Any, name: str, workspace: Path) -> Case:
    """Draw a case of a kind: the damaged content of its file, and a command."""
    kind = KINDS[name]
    return Case(name, draw(kind.mutate((workspace / kind.file).read_bytes())), draw(st.sampled_from(kind.commands)))


def tried(case: Case, workspace: Path, keep: Path | None = None) -> Outcome:
    """Run a case on a copy of the workspace. keep: a folder for the damaged files that show a fault."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "w"
        shutil.copytree(workspace, folder)
        (folder / KINDS[case.kind].file).write_bytes(case.content)
        outcome = attempt(case.command.split(), folder)
    if keep is not None and outcome.faults():
        keep.mkdir(parents=True, exist_ok=True)
        number = len(list(keep.glob(f"{case.kind}-*.txt")))
        (keep / f"{case.kind}-{number}.bin").write_bytes(case.content)
        text = (
            f"{case.command}\n{outcome.faults()} code {outcome.code} {outcome.seconds:.1f} s {outcome.peak >> 20} MB\n"
        )
        (keep / f"{case.kind}-{number}.txt").write_text(text + outcome.output[-6000:])
    return outcome


def count(name: str, number: int, start: int, workspace: Path, keep: Path | None = None) -> list[Outcome]:
    """Try `number` cases of a kind, drawn from a seed."""
    outcomes = []

    @seed(start)
    @settings(
        max_examples=number, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases(name, workspace))
    def try_one(case: Case) -> None:
        outcomes.append(tried(case, workspace, keep))

    try_one()
    return outcomes


# --- the workspace ------------------------------------------------------------------------------------------------


def make_workspace(folder: Path) -> Path:
    """Make one small, whole example of every kind of file."""
    import minidiff
    from minidiff.ddpm.config import DiffusionConfig
    from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
    from minidiff.networks.configs import UNetConfig
    from minidiff.training.config import TrainConfig
    from minidiff.training.journal import Interrupted

    network = UNetConfig(channels=(8, 16), layers_per_block=1, attention=(False, True), norm_groups=4, image_size=16)
    training = TrainConfig(steps=2, batch_size=4)
    DDPM_PRESETS["fuzz"] = DdpmPreset("fuzzing", 16, network, training, DiffusionConfig(timesteps=50))
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
        np.save("images.npy", images)
        np.savez("images.npz", images=images)
        spread = np.cov(rng.standard_normal((200, 64)), rowvar=False)
        np.savez("statistics.npz", mu=np.zeros(64), sigma=spread)
        many = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
        np.savez("adm.npz", mu=np.zeros(64), sigma=spread, mu_s=np.zeros(8), sigma_s=np.eye(8), arr_0=many)
        Path("folder").mkdir()
        for form in PICTURES:
            for index in range(2):
                Image.fromarray(images[index]).save(f"folder/{index}.{form}")
        Image.fromarray(images[0]).save("photo.png")
        Path("fashion").mkdir()
        for path in Path("/usr/share/datasets/fashion-mnist").glob("t10k*"):
            shutil.copy(path, "fashion")
        common: dict[str, Any] = {"dataset": "shapes", "image_size": 16, "steps": 2, "device": "cpu", "batch_size": 4}
        minidiff.train("ddpm", out="runs/ddpm", preset="fuzz", **common)
        minidiff.train("ddpm", out="runs/labelled", preset="fuzz", conditional=True, **common)
        minidiff.train("dcgan", out="runs/gan", width=8, **common)
        minidiff.train("classifier", out="runs/classifier", width=8, **common)
        study = minidiff.compare(
            "study", datasets=("shapes",), models=("dcgan",), num=40, image_size=16, steps=2,
            features="runs/classifier", device="cpu",
        )  # fmt: skip
        assert not [event.text for event in study if "error" in event.state]
        fit: dict[str, Any] = {"net": "conv2", "channels": 8, "steps": 3, "save_every": 1, "device": "cpu"}
        minidiff.fit_picture("photo.png", out="runs/fit", **fit)
        with suppress(Interrupted):
            interrupt = partial(signal.raise_signal, signal.SIGTERM)
            minidiff.fit_picture("photo.png", out="runs/half", on_step=lambda progress: interrupt(), **fit)
        Path("two").mkdir()
        for index in range(2):
            Image.fromarray(images[index]).save(f"two/{index}.png")
        minidiff.fit_folder("two", out="runs/fits", **fit)
        minidiff.restore_with_dip("photo.png", "runs/ddpm", out="runs/restored", start_t=5, **fit)
        done = minidiff.restore("two", "photos", out="finished", run="runs/finished", calls=2)
        done.answers["0.png"].unlink()  # so that there is something left to do
        config = Path("runs/finished/config.json")  # each case has its own copy of the workspace, so no whole paths
        config.write_text(json.dumps(json.loads(config.read_text()) | {"source": "two", "out": "finished"}))
        minidiff.export_run("runs/ddpm", "peer")
        minidiff.evaluate("runs/labelled", "runs/classifier", seeds=1, steps=2, out="e", device="cpu")
        pair = minidiff.distance("images.npz", "folder", features="runs/classifier", device="cpu")
        pair.save_statistics(Path("own.npz"))
        Path("labels.json").write_text(json.dumps([["red cube"], ["blue sphere", "green cylinder"]]))
    finally:
        os.chdir(before)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="beginnings of names, with commas")
    parser.add_argument("--workspace", type=Path, help="made if it is not there")
    parser.add_argument("--keep", type=Path, help="a folder for what shows a fault")
    options = parser.parse_args()
    workspace = options.workspace or Path(tempfile.mkdtemp()) / "workspace"
    if not workspace.exists():
        make_workspace(workspace)
    heads = ["cases", "exit 0", *FAULTS, "slowest", "most MB"]
    print(f"{'kind':20}" + "".join(f"{head:>10}" for head in heads), flush=True)
    for name in KINDS:
        if not name.startswith(tuple(options.kinds.split(","))):
            continue
        outcomes = count(name, options.cases, options.seed, workspace, options.keep)
        sums = [sum(fault in each.faults() for each in outcomes) for fault in FAULTS]
        fine = sum(each.code == 0 for each in outcomes)
        slowest, most = max(each.seconds for each in outcomes), max(each.peak for each in outcomes) >> 20
        numbers = [len(outcomes), fine, *sums, f"{slowest:.1f}", most]
        print(f"{name:20}" + "".join(f"{number:>10}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
