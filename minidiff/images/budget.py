"""How much memory pictures from elsewhere may take while they are decoded: each of them, and all threads together.

Rests on nothing but Python, so that records can name the default without waiting for Pillow. A file of half a megabyte
can hold a hundred million pixels. Its header says how many, so it is judged before anything is decoded.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MAX_PIXELS = 178_956_970  # of a picture, unless the user allows more; this is the limit at which Pillow refuses, too
LARGE = 1 << 26  # pixels; a larger picture that will be shrunk is decoded reduced, which smaller ones never are
ROOM = 1 << 30  # bytes that all threads together may decode into at a time; a picture that needs more is alone
A_PIXEL = 8  # bytes of a pixel while it is decoded: Pillow's four, and as many for what is made of them
TRIMMED = 1 << 28  # bytes; after a picture that took more, what it took is given back to the system


def trim() -> None:
    """Give freed memory back to the system; where there is no such call, do nothing.

    Linux's C library keeps it for the thread that had it, so threads that decode in turns would each hold a picture.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Budget:
    """An amount of memory that threads share. Who wants more than is left waits until others have given theirs back."""

    def __init__(self, room: int) -> None:
        self.room = self.free = room
        self.changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold this much while the block runs. A block that wants more than there is gets all of it."""
        amount = min(amount, self.room)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= amount)
            self.free -= amount
        try:
            yield
        finally:
            if amount > TRIMMED:
                trim()
            with self.changed:
                self.free += amount
                self.changed.notify_all()


DECODING = Budget(ROOM)
