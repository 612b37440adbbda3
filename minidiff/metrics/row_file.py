"""Rows of numbers in a temporary file: what some metrics need of every image, without the memory.

Rests on torch and numpy.
"""

import tempfile
from typing import IO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minidiff.errors import UserError


class RowFile:
    """Keeps rows of float32 in a file without a name, and reads them by a slice or by an array of row numbers.

    The file is not mapped into memory: mapped pages would count as this process's memory, and grow with the images.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.shape = (0, 0)

    def append(self, rows: Tensor) -> None:
        """Append rows [n,width]. Raise UserError if the disk is full."""
        self.shape = (self.shape[0] + len(rows), rows.shape[1])
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="minidiff-")  # noqa: SIM115
                finalize(self, self.file.close)  # the file lives as long as this object
            self.file.write(rows.float().contiguous().numpy().tobytes())
            self.file.flush()  # here, where a full disk is told
        except OSError as error:
            raise UserError(
                f"cannot store features in {tempfile.gettempdir()}: {error.strerror}. Set TMPDIR to a folder with "
                "room, or measure only fid (`metrics`), which needs no features of single images."
            ) from None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(chosen, slice):
            first, last, _ = chosen.indices(len(self))
            return self.read(first, max(0, last - first))
        found = np.empty((len(chosen), self.shape[1]), np.float32)
        for place, row in enumerate(chosen.tolist()):
            found[place] = self.read(row, 1)
        return found

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Read `count` rows from row `first` on."""
        width = 4 * self.shape[1]  # bytes
        assert self.file is not None
        self.file.seek(first * width)
        content = self.file.read(count * width)
        if len(content) < count * width:
            raise UserError(f"the features stored in {tempfile.gettempdir()} are gone. Measure again.")
        return np.frombuffer(content, np.float32).reshape(count, self.shape[1])
