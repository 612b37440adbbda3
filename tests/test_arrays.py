"""Arrays from elsewhere: what a header or a zip directory declares is compared with what is there."""

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minidiff import arrays
from minidiff.arrays import open_npy, open_npz, read_npz
from minidiff.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def npy(header: str | bytes, body: bytes = bytes(3072), version: bytes = b"\x01\x00") -> bytes:
    """An .npy file with any text for its header."""
    line = header if isinstance(header, bytes) else header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(line)) + line + body


def declaring(shape: str, dtype: str = "'|u1'", fortran: str = "False") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGED = {  # what is wrong with a .npy file: the file
    "empty": b"",
    "no array": b"hello",
    "magic alone": b"\x93NUMPY",
    "length cut": b"\x93NUMPY\x01\x00\x10",
    "header cut": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 16, 16, 3"),
    "header of nothing": npy(""),
    "header of zeros": npy(bytes(100)),
    "header of bytes": npy(bytes(range(128, 256))),
    "header too long": npy(declaring("(4, 16, 16, 3)") + " " * 20_000, version=b"\x02\x00"),
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(3000),
    "deep header": npy("[" * 5000),
    "another version": npy(declaring("(4, 16, 16, 3)"), version=b"\x07\x00"),
    "a list": npy("[1, 2]\n"),
    "no shape": npy("{'descr': '|u1', 'fortran_order': False}\n"),
    "negative": npy(declaring("(4, -16, 16, 3)")),
    "negative, of nothing": npy(declaring("(0, -1)"), b""),
    "two negative": npy(declaring("(4, -16, -16, 3)")),
    "a fraction": npy(declaring("(4.0, 16, 16, 3)")),
    "a number for a shape": npy(declaring("3072")),
    "huge": npy(declaring("(1000000000000, 16, 16, 3)", "'<f4'")),
    "absurd": npy(declaring(f"(1{'0' * 4000}, 16, 16, 3)")),
    "absurd, in hexadecimal": npy(declaring(f"(0x{'f' * 8000}, 16, 16, 3)")),
    "many dimensions": npy(declaring("(" + "1," * 3000 + "3072)")),
    "too few bytes": saved(IMAGES)[:-1],
    "too many bytes": saved(IMAGES) + b"0",
    "two arrays": saved(IMAGES) + saved(IMAGES),
    "unknown type": npy(declaring("(4, 16, 16, 3)", "'|q9'")),
    "a number for a type": npy(declaring("(4, 16, 16, 3)", "7")),
    "an odd type": npy(declaring("(4, 16, 16, 3)", "[(), 3]")),
    "a huge type": npy(declaring("(4,)", "[('a', '<f4', (1000000000000,))]")),
    "a type of types": npy(declaring("(4,)", "[" * 100 + "('a', '<f4')" + "]" * 100)),
    "a zip archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_npy_is_one_line_at_once(content: bytes, tmp_path: Path) -> None:
    """Whatever is in it. Fails when numpy's own errors come through, or when a size is believed."""
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="a.npy") as caught:
        open_npy(tmp_path / "a.npy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))


NOT_NUMBERS = {  # they are no damage to the file, but nothing reads their values
    "objects": saved(np.array([{}, {}], dtype=object)),
    "structured": saved(np.zeros(4, [("a", "<f4"), ("b", "<i2")])),
    "void": saved(np.zeros(4, "V3")),
    "dates": saved(np.zeros(4, "M8[D]")),
    "bytes": saved(np.array([b"ab", b"c"])),
}


@pytest.mark.parametrize("content", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_values_that_are_no_numbers_are_not_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="Save it as an array of numbers"):
        open_npy(tmp_path / "a.npy").whole()


@pytest.mark.parametrize("array", [IMAGES, np.asfortranarray(IMAGES), np.array("text"), np.zeros((0, 3)), np.eye(3)])
def test_a_sound_array_is_read_as_numpy_reads_it(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", named=array, other=1)
    for found in (open_npy(tmp_path / "a.npy"), open_npz(tmp_path / "a.npz")["named"]):
        read = found.whole()
        assert read.dtype == array.dtype and read.shape == array.shape and (read == array).all()
        assert read.size == 0 or read.flags.writeable
    assert read_npz(tmp_path / "a.npz", "other")[0] == 1


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return bytearray(file.getvalue())


def changed(at: int, value: bytes, local: int | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A .npz whose zip directory, and whose local header if `local` is given, has other bytes at an offset."""
    data = zipped([("images.npy", saved(IMAGES))], method)
    directory = data.find(b"PK\x01\x02")
    data[directory + at : directory + at + len(value)] = value
    if local is not None:
        data[local : local + len(value)] = value
    return bytes(data)


def flipped(place: Callable[[int], int]) -> bytes:
    data = zipped([("images.npy", saved(IMAGES))])
    data[place(len(data))] ^= 255
    return bytes(data)


BAD_ZIPS = {  # what is wrong with a .npz file: the file
    "empty": b"",
    "no zip": b"hello",
    "a .npy": saved(IMAGES),
    "cut": bytes(zipped([("images.npy", saved(IMAGES))])[:-30]),
    "cut in front": bytes(zipped([("images.npy", saved(IMAGES))])[40:]),
    "damaged": flipped(lambda size: size // 2),
    "unknown compression": changed(10, b"\x63\x00", 8),
    "lzma": bytes(zipped([("images.npy", saved(IMAGES))], zipfile.ZIP_LZMA)),
    "encrypted": changed(8, b"\x01\x00", 6),
    "newer version": changed(6, b"\xff\x00", 4),
    "a size beyond the file": changed(20, b"\xff\xff\xff\x7f"),
    "more than deflate can pack": changed(24, b"\xff\xff\xff\x7f"),
    "a larger size": changed(24, struct.pack("<I", len(saved(IMAGES)) + 100)),
    "a smaller size": changed(24, struct.pack("<I", len(saved(IMAGES)) - 100)),
    "another checksum": changed(16, b"abcd", method=zipfile.ZIP_STORED),
    "another name": changed(46, b"imagse.npy"),
    "a wrong offset": changed(42, b"\x10\x00\x00\x00"),
    "a member that is no array": bytes(zipped([("images.npy", b"hello")])),
    "a damaged header": bytes(zipped([("images.npy", DAMAGED["header cut"])])),
    "a huge header": bytes(zipped([("images.npy", DAMAGED["huge"])])),
    "a header alone": bytes(zipped([("images.npy", npy(declaring("(100000, 64, 64, 3)"), b""))])),
    "many arrays": bytes(zipped([(f"{i}.npy", b"") for i in range(arrays.MEMBERS + 1)])),
}


@pytest.mark.parametrize("content", BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_a_damaged_npz_is_one_line_at_once(content: bytes, tmp_path: Path) -> None:
    """Found at the opening, or at the latest when its values are read."""
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz") as caught:
        read_npz(tmp_path / "a.npz", "images")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))


def test_the_reason_is_named(tmp_path: Path) -> None:
    """Where zipfile would only say that something is wrong."""
    for what, said in (("encrypted", "images is encrypted"), ("many arrays", "Save the images as one")):
        (tmp_path / "a.npz").write_bytes(BAD_ZIPS[what])
        with pytest.raises(UserError, match=said):
            open_npz(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(NOT_NUMBERS["objects"])
    with pytest.raises(UserError, match="Python objects"):
        open_npy(tmp_path / "a.npy").whole()


def test_more_than_deflate_can_pack_is_refused_though_header_and_directory_agree(tmp_path: Path) -> None:
    """Both declare 12 MB, in a member of some hundred bytes. Fails when only the two are compared."""
    start = npy(declaring("(1000, 64, 64, 3)"), b"")
    data = zipped([("images.npy", start + bytes(1000))])
    directory = data.find(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", len(start) + 1000 * 64 * 64 * 3)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(UserError, match="cannot be in the"):
        open_npz(tmp_path / "a.npz")


def test_a_large_file_is_not_read_to_be_opened(tmp_path: Path) -> None:
    """3 GB, of which the disk holds a block. Fails when more than the header is read."""
    with open(tmp_path / "a.npy", "wb") as file:
        start = npy(declaring("(1048576, 32, 32, 3)"), b"")
        file.write(start)
        file.truncate(len(start) + 1048576 * 32 * 32 * 3)
    tracemalloc.start()
    array = open_npy(tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.shape == (1048576, 32, 32, 3) and peak < 1 << 20
    assert next(array.read([slice(1048575, 1048576)])).shape == (1, 32, 32, 3)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of them a program reads depends on the program."""
    (tmp_path / "a.npz").write_bytes(zipped([("images.npy", saved(IMAGES)), ("images.npy", saved(IMAGES + 1))]))
    with pytest.raises(UserError, match="two arrays called images"):
        open_npz(tmp_path / "a.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, a thousand of them to a byte, under an honest header: 300 GB would lie in a file of 300 MB."""
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((200, 32, 32, 3), np.uint8))
    assert open_npz(tmp_path / "a.npz")["images"].shape == (200, 32, 32, 3)  # 600 kB are no bomb
    monkeypatch.setattr(arrays, "BOMB", 1 << 18)
    with pytest.raises(UserError, match="as good as empty"):
        open_npz(tmp_path / "a.npz")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(UserError, match="not a file"):
        open_npy(tmp_path / "a.npy")


# --- what is read of a sound one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_rows_are_read_where_they_are_asked_for(packed: bool, tmp_path: Path) -> None:
    """From the middle, in pieces, beyond the end; of a .npy file and of one in a .npz."""
    parts = [slice(1, 2), slice(2, 4), slice(9, 12)]
    if packed:
        np.savez_compressed(tmp_path / "a.npz", images=IMAGES)
        array = open_npz(tmp_path / "a.npz")["images"]
    else:
        np.save(tmp_path / "a.npy", IMAGES)
        array = open_npy(tmp_path / "a.npy")
    found = list(array.read(parts))
    assert [len(rows) for rows in found] == [1, 2, 0] and (np.concatenate(found) == IMAGES[1:]).all()
    assert array.described == "uint8 [4, 16, 16, 3]" and array.size == 3072


def test_the_other_order_is_read_whole_and_mapped_but_not_in_rows(tmp_path: Path) -> None:
    """Fortran's. Of a single dimension there is one order only, whatever the header says."""
    turned = np.asfortranarray(IMAGES)
    np.save(tmp_path / "a.npy", turned)
    array = open_npy(tmp_path / "a.npy")
    assert (array.whole() == IMAGES).all() and (array.mapped() == IMAGES).all()
    with pytest.raises(UserError, match="Fortran order"):
        next(array.read([slice(0, 1)]))
    (tmp_path / "b.npy").write_bytes(npy(declaring("(3,)", fortran="True"), b"abc"))
    assert next(open_npy(tmp_path / "b.npy").read([slice(1, 3)])).tolist() == [98, 99]


def test_limits_are_reached_but_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many arrays, and as many bytes, as are allowed."""
    np.savez(tmp_path / "a.npz", a=IMAGES, b=IMAGES[0])
    monkeypatch.setattr(arrays, "MEMBERS", 2)
    found = open_npz(tmp_path / "a.npz")
    assert list(found) == ["a", "b"] and found["a"].whole(3072).shape == IMAGES.shape
    with pytest.raises(UserError, match="larger than it can be"):
        found["a"].whole(3071)
    assert [array.shape for array in read_npz(tmp_path / "a.npz", "b", "a")] == [(16, 16, 3), (4, 16, 16, 3)]
    monkeypatch.setattr(arrays, "MEMBERS", 1)
    with pytest.raises(UserError, match="2 arrays. Save the images as one"):
        open_npz(tmp_path / "a.npz")


def test_a_file_that_shrinks_while_it_is_read_is_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    array = open_npy(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", array.start + 2000)
    with pytest.raises(UserError, match="cut short"):
        list(array.read([slice(0, 2), slice(2, 4)]))
    with pytest.raises(UserError, match="cut short"):
        array.whole()
