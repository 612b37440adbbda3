"""Two settings for a process that computes on a CPU: how its threads wait, and whether it keeps freed memory.

Rests on nothing, not even on torch: it is called before torch is loaded.
GNU libgomp manual, GOMP_SPINCOUNT; glibc manual, "Malloc Tunable Parameters".
"""

import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def tune() -> None:
    """Make both settings for this process. A second call changes nothing, and the user's own settings stay.

    The first is read when torch is loaded, and child processes inherit it. The second works at any time. The command
    line calls this. A script that fits or trains on a CPU may call it as well, before it imports torch.
    """
    # OpenMP threads wait for each other by spinning. Where another program wants a core too, they then spin most of the
    # time away: training ran at a tenth of its speed beside one busy process. Short spins cost some 4% when alone.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")

    # glibc gives large freed blocks back to the system at once (each of more than 32 MiB, and what lies free at the end
    # of the heap), and the next step's block of that size comes back page by page, each page a fault and a clearing.
    # Without that a DIP step at 256x256 took 20% less processor time with the hourglass, 10% less with the CNN, and a
    # training step of the CPU preset 2 to 3% less. The peak memory was up to 16% higher, and stayed where it was.
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    if sys.platform.startswith("linux"):
        try:
            from ctypes import CDLL

            mallopt = CDLL(None).mallopt
        except (ImportError, OSError, AttributeError):
            return  # another C library than glibc
        mallopt(M_MMAP_MAX, 0)  # no mappings: large blocks come from the heap like small ones
        mallopt(M_TRIM_THRESHOLD, -1)  # the largest there is: the heap never shrinks
