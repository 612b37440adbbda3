"""What a JPEG file says before it is turned into pixels: whole numbers, the quantised DCT coefficients of its blocks.

Rests on files and budget. Pillow gives pixels alone, in which the numbers cannot be found again: colours were enlarged,
values cut at black and white, and the blocks at the border are not whole.

ITU-T T.81, 1992 (JPEG: markers in annex B, Huffman codes in F, progressive files in G).
"""

import math
import re
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags

from minidiff.errors import UserError
from minidiff.images.budget import DECODING, MAX_PIXELS
from minidiff.images.files import opened

BLOCK = 8  # pixels: the side of a block
FORMATS = ("JPEG", "MPO")  # as Pillow names them; an MPO begins with a JPEG
COEFFICIENT = 6  # bytes of memory for a coefficient while it is read: a number of two bytes, and its copies
CODE = 16  # bits: the longest Huffman code
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2  # the kinds of frames that are read
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ZIGZAG = sorted(range(64), key=lambda n: (n // 8 + n % 8, n % 8 if (n // 8 + n % 8) % 2 == 0 else n // 8))
END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # of a scan: a marker that is no restart
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")

Code = list[tuple[int, int]]  # for the next 16 bits: the length of the code that they begin with, and its symbol


@dataclass(frozen=True, eq=False)
class Plane:
    """A channel of a JPEG file.

    numbers: int16 [rows,columns,8,8], for each block the quantised coefficients; frequencies rise downwards and to the
    right. steps: float64 [8,8], what a 1 means: the orthonormal DCT of pixels is about numbers * steps.
    down, across: blocks of this channel in a unit of the file; a channel with fewer than another is that much coarser.
    """

    numbers: npt.NDArray[np.int16]
    steps: npt.NDArray[np.float64]
    down: int
    across: int


@dataclass(frozen=True, eq=False)
class JpegFile:
    """The planes of a JPEG file: Y; Y, Cb, Cr; or red, green, blue.

    height, width: of the pixels that are shown, before they are turned as `orientation`, 1 to 8 (EXIF), says.
    """

    planes: tuple[Plane, ...]
    height: int
    width: int
    colours: str  # "grey", "YCbCr" or "RGB"
    orientation: int = 1


def read_jpeg(path: str | Path, max_pixels: int = MAX_PIXELS) -> JpegFile:
    """Read the numbers of a JPEG file, baseline or progressive, in grey or colour. A million take a second or two.

    Raises UserError for another format, for the rare kinds of JPEG (CMYK, 12 bits, arithmetic codes, lossless), and for
    a file that is damaged or cut short.
    """
    with ExitStack() as held:
        with opened(path, max_pixels) as file:
            if file.format not in FORMATS:
                raise UserError(
                    f"{path} is a {file.format} file, which does not say how it was compressed. Give the JPEG file, or "
                    "denoise it with a `noise` of 10 to 20, by how bad it is."
                )
            orientation = int(file.getexif().get(ExifTags.Base.Orientation, 1))
            shape = (file.height, file.width)
            held.enter_context(DECODING.take(3 * COEFFICIENT * file.width * file.height))
        reader = Reader(Path(path).read_bytes(), path, shape)
        try:
            reader.read()
        except (IndexError, KeyError, ValueError, OverflowError) as error:  # numbers that no encoder writes
            if isinstance(error, UserError):
                raise
            raise reader.damaged() from None
        return reader.result(orientation if orientation in range(1, 9) else 1)


# --- the file -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Channel:
    """A channel while it is read: its numbers one after another, 64 for each block, in the order of the file."""

    name: int
    across: int
    down: int
    table: int
    rows: int = 0  # blocks that are stored, up to whole units
    columns: int = 0
    shown_rows: int = 0  # blocks of which a part is shown: all that scans of this channel alone have
    shown_columns: int = 0
    numbers: "array[int]" = field(default_factory=lambda: array("h"))
    steps: tuple[int, ...] = ()  # as they were when its first scan came


class Reader:
    """Goes through the segments of a JPEG file."""

    def __init__(self, data: bytes, path: str | Path, shape: tuple[int, int]) -> None:
        """shape: height and width, as they were judged."""
        self.data, self.path, self.shape = data, path, shape
        self.steps: dict[int, tuple[int, ...]] = {}
        self.codes: dict[int, Code] = {}  # by class and number, as in the file: 0x00 to 0x03 for DC, 0x10 for AC
        self.channels: list[Channel] = []
        self.height = self.width = self.restart = 0
        self.progressive = False
        self.transform: int | None = None  # Adobe's word on the colours: 0 for none
        self.jfif = False

    def damaged(self) -> UserError:
        return UserError(f"{self.path} is damaged or cut short, so its blocks cannot be read. Give the original file.")

    def rare(self, kind: str) -> UserError:
        return UserError(
            f"{self.path} is a JPEG {kind}, which cannot be restored as one. Convert it to PNG, and denoise it."
        )

    def read(self) -> None:
        """Read all segments up to the end of the (first) picture."""
        at = 2
        while True:
            marker = re.compile(rb"\xff+[^\x00\xff]").search(self.data, at)
            if marker is None:
                if self.channels and all(channel.steps for channel in self.channels):
                    return  # the end is not marked, but nothing is missing
                raise self.damaged()
            kind = self.data[marker.end() - 1]
            if kind == 0xD9:
                return
            if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers without content
                at = marker.end()
                continue
            length = int.from_bytes(self.data[marker.end() : marker.end() + 2], "big")
            content = self.data[marker.end() + 2 : marker.end() + length]
            at = marker.end() + length
            if kind == 0xDA:
                end = END.search(self.data, at)
                self.read_scan(content, self.data[at : end.start() if end else len(self.data)])
                at = end.start() if end else len(self.data)
            else:
                self.read_segment(kind, content)

    def read_segment(self, kind: int, content: bytes) -> None:
        """Read a segment other than a scan."""
        if kind == 0xDB:
            self.read_steps(content)
        elif kind == 0xC4:
            self.read_codes(content)
        elif kind in FRAMES:
            self.read_frame(kind, content)
        elif kind == 0xDD:
            self.restart = int.from_bytes(content[:2], "big")
        elif kind == 0xE0 and content.startswith(b"JFIF"):
            self.jfif = True
        elif kind == 0xEE and content.startswith(b"Adobe"):
            self.transform = content[11]

    def read_steps(self, content: bytes) -> None:
        """Read quantisation tables (B.2.4.1)."""
        while content:
            wide, number = content[0] >> 4, content[0] & 15
            size = 64 * (2 if wide else 1)
            values = np.frombuffer(content[1 : 1 + size], ">u2" if wide else "u1")
            if len(values) != 64:
                raise self.damaged()
            self.steps[number] = tuple(map(int, values))
            content = content[1 + size :]

    def read_codes(self, content: bytes) -> None:
        """Read Huffman tables: how many codes have 1 to 16 bits, then their symbols in order (B.2.4.2, C.2)."""
        while content:
            counts = content[1:17]
            symbols = iter(content[17 : 17 + sum(counts)])
            code: Code = []
            for length, count in enumerate(counts, start=1):
                for _, symbol in zip(range(count), symbols, strict=False):
                    code += [(length, symbol)] * (1 << (CODE - length))
            self.codes[content[0]] = code  # shorter than 2^16: the codes of ones alone are not used
            content = content[17 + sum(counts) :]

    def read_frame(self, kind: int, content: bytes) -> None:
        """Read the sizes, and what channels there are (B.2.2)."""
        if kind not in (BASELINE, EXTENDED, PROGRESSIVE):
            raise self.rare("of a rare kind (lossless, hierarchical or with arithmetic codes)")
        if content[0] != 8:
            raise self.rare(f"of {content[0]} bits")
        self.progressive = kind == PROGRESSIVE
        self.height, self.width = (int.from_bytes(content[k : k + 2], "big") for k in (1, 3))
        if (self.height, self.width) != self.shape:
            raise self.damaged()
        rows = [content[6 + 3 * k : 9 + 3 * k] for k in range(content[5])]
        self.channels = [Channel(row[0], row[1] >> 4, row[1] & 15, row[2]) for row in rows]
        if len(rows) not in (1, 3):
            raise self.rare("in CMYK" if len(rows) == 4 else f"of {len(rows)} channels")
        if len(rows) == 1:  # a unit is a block then, whatever the file says (A.2.2)
            self.channels[0].across = self.channels[0].down = 1
        widest, highest = max(each.across for each in self.channels), max(each.down for each in self.channels)
        units_across, units_down = math.ceil(self.width / (BLOCK * widest)), math.ceil(self.height / (BLOCK * highest))
        for each in self.channels:
            if widest % each.across or highest % each.down:
                raise self.rare("whose channels have sizes that do not divide each other")
            each.rows, each.columns = units_down * each.down, units_across * each.across
            each.shown_rows = math.ceil(math.ceil(self.height * each.down / highest) / BLOCK)
            each.shown_columns = math.ceil(math.ceil(self.width * each.across / widest) / BLOCK)
            each.numbers = array("h", bytes(2 * 64 * each.rows * each.columns))

    def read_scan(self, content: bytes, coded: bytes) -> None:
        """Read a scan: some channels, in a progressive file some coefficients or some of their bits (B.2.3)."""
        count = content[0]
        named = {channel.name: channel for channel in self.channels}
        first, last, approximation = content[1 + 2 * count : 4 + 2 * count]
        scan = Scan([], [], [], first, last, approximation)
        for name, codes in zip(content[1 : 1 + 2 * count : 2], content[2 : 2 + 2 * count : 2], strict=True):
            channel = named[name]
            channel.steps = channel.steps or self.steps[channel.table]
            scan.channels.append(channel)
            scan.dc.append(self.codes.get(codes >> 4, []))
            scan.ac.append(self.codes.get(0x10 | codes & 15, []))
        decode = scan.block_reader(self.progressive)
        places = scan.places()
        for part in RESTART.split(coded):
            bits = Bits(part.replace(b"\xff\x00", b"\xff"))
            scan.begin_again()
            for number, unit in enumerate(places, start=1):
                for which, place in unit:
                    decode(bits, which, place)
                if bits.at > bits.end:
                    raise self.damaged()
                if number == self.restart:
                    break
        if next(places, None) is not None:
            raise self.damaged()

    def result(self, orientation: int) -> JpegFile:
        """Put the numbers of each block where their frequencies are."""
        if not self.channels or not all(channel.steps for channel in self.channels):
            raise self.damaged()
        order = np.argsort(ZIGZAG)
        planes = tuple(
            Plane(
                np.frombuffer(each.numbers, np.int16)
                .reshape(each.rows, each.columns, 64)[..., order]
                .reshape(each.rows, each.columns, BLOCK, BLOCK),
                np.array(each.steps, np.float64)[order].reshape(BLOCK, BLOCK),
                each.down,
                each.across,
            )
            for each in self.channels
        )
        names = bytes(each.name for each in self.channels)
        plain = self.transform == 0 or (self.transform is None and not self.jfif and names == b"RGB")
        colours = "grey" if len(planes) == 1 else "RGB" if plain else "YCbCr"
        return JpegFile(planes, self.height, self.width, colours, orientation)


# --- a scan ---------------------------------------------------------------------------------------------------------


class Bits:
    """The bits of a part of a scan, in which codes of Huffman and numbers follow each other."""

    def __init__(self, data: bytes) -> None:
        padded = np.frombuffer(data + bytes(CODE), np.uint8).astype(np.uint32)
        words = padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]
        self.words = array("I", words.tobytes())  # the 32 bits that begin with each byte
        self.at, self.end = 0, 8 * len(data)

    def symbol(self, code: Code) -> int:
        """Read a Huffman code."""
        at = self.at
        length, symbol = code[self.words[at >> 3] >> (16 - (at & 7)) & 0xFFFF]
        self.at = at + length
        return symbol

    def number(self, size: int) -> int:
        """Read an unsigned number of up to 16 bits."""
        at = self.at
        self.at = at + size
        return self.words[at >> 3] >> (32 - size - (at & 7)) & ((1 << size) - 1)

    def signed(self, size: int) -> int:
        """Read a number whose first bit says its sign: 0 for negative (F.2.2.1)."""
        value = self.number(size)
        return value if not size or value >> (size - 1) else value - (1 << size) + 1


@dataclass(eq=False)
class Scan:
    """A scan of some channels: the coefficients `first` to `last` in zigzag order.

    approximation: in a progressive file, 16 times the bit that was read of them before (0 for none), plus the lowest
    bit that this scan brings.
    """

    channels: list[Channel]
    dc: list[Code]
    ac: list[Code]
    first: int
    last: int
    approximation: int

    def begin_again(self) -> None:
        """Forget what went before, at the start and after each restart."""
        self.before = [0] * len(self.channels)  # the last DC of each channel
        self.empty = 0  # blocks to come without new coefficients

    def places(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the units of the scan: for each of their blocks the channel's number and where its coefficients begin.

        A channel alone goes block by block through what is shown; several go together through units (A.2).
        """
        if len(self.channels) == 1:
            (only,) = self.channels
            for row in range(only.shown_rows):
                for column in range(only.shown_columns):
                    yield [(0, 64 * (row * only.columns + column))]
            return
        one = self.channels[0]
        for row in range(one.rows // one.down):
            for column in range(one.columns // one.across):
                yield [
                    (k, 64 * ((row * each.down + i) * each.columns + column * each.across + j))
                    for k, each in enumerate(self.channels)
                    for i in range(each.down)
                    for j in range(each.across)
                ]

    def block_reader(self, progressive: bool):  # type: ignore[no-untyped-def]
        """Choose how the blocks of this scan are read: (bits, number of the channel, place) -> None."""
        if not progressive:
            return self.read_whole
        self.bit = 1 << (self.approximation & 15)
        again = self.approximation >> 4 > 0
        if self.first == 0:
            return self.refine_dc if again else self.read_dc
        return self.refine_ac if again else self.read_ac

    def read_whole(self, bits: Bits, which: int, place: int) -> None:
        """Read a block of a baseline file (F.2.2)."""
        numbers, ac = self.channels[which].numbers, self.ac[which]
        self.before[which] += bits.signed(bits.symbol(self.dc[which]))
        numbers[place] = self.before[which]
        k = 1
        while k < 64:
            symbol = bits.symbol(ac)
            size = symbol & 15
            if size:
                k += symbol >> 4
                numbers[place + k] = bits.signed(size)
                k += 1
            elif symbol == 0xF0:  # sixteen zeros
                k += 16
            else:
                break
        if k > 64:
            raise ValueError("a block of more than 64 numbers")

    def read_dc(self, bits: Bits, which: int, place: int) -> None:
        """Read the first bits of a DC (G.1.2.1)."""
        self.before[which] += bits.signed(bits.symbol(self.dc[which]))
        self.channels[which].numbers[place] = self.before[which] * self.bit

    def refine_dc(self, bits: Bits, which: int, place: int) -> None:
        """Read one more bit of a DC."""
        if bits.number(1):
            self.channels[which].numbers[place] |= self.bit

    def read_ac(self, bits: Bits, which: int, place: int) -> None:
        """Read the first bits of some AC coefficients (G.1.2.2)."""
        if self.empty:
            self.empty -= 1
            return
        numbers, ac, k = self.channels[0].numbers, self.ac[0], self.first
        while k <= self.last:
            symbol = bits.symbol(ac)
            run, size = symbol >> 4, symbol & 15
            if size:
                k += run
                numbers[place + k] = bits.signed(size) * self.bit
                k += 1
            elif run == 15:
                k += 16
            else:
                self.empty = (1 << run) + bits.number(run) - 1
                break

    def refine_ac(self, bits: Bits, which: int, place: int) -> None:
        """Read one more bit of some AC coefficients: those that are known already, and new ones (G.1.2.3)."""
        numbers, k, bit = self.channels[0].numbers, self.first, self.bit

        def refine(at: int) -> None:
            if bits.number(1) and not abs(numbers[at]) & bit:
                numbers[at] += bit if numbers[at] > 0 else -bit

        while k <= self.last and not self.empty:
            symbol = bits.symbol(self.ac[0])
            run, new = symbol >> 4, 0
            if symbol & 15:
                new = bit if bits.number(1) else -bit
            elif run < 15:
                self.empty = (1 << run) + bits.number(run)
                break
            while k <= self.last:
                if numbers[place + k]:
                    refine(place + k)
                elif run:
                    run -= 1
                else:
                    break
                k += 1
            if new:
                numbers[place + k] = new
            k += 1
        if self.empty:
            for at in range(place + k, place + self.last + 1):
                if numbers[at]:
                    refine(at)
            self.empty -= 1
