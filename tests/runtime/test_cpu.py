"""The settings of a process before it computes: each in a process of its own, since they cannot be taken back."""

import os
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc"
)

# Ten blocks of 64 MiB, one after another, each written to: how many page faults, after the first.
FAULTS = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(2**26)
before = faults()
for _ in range(10):
    bytearray(2**26)
print(faults() - before)
"""


def run(code: str, **environment: str) -> str:
    """What Python prints, in an environment without settings of the allocator and of OpenMP but those given."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=ours | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@glibc
@pytest.mark.parametrize("call", ["from minidiff.runtime.cpu import tune; tune(); tune()",
                                  "from minidiff.cli import run; run(['--help'])"])  # fmt: skip
def test_freed_memory_is_used_again(call: str) -> None:
    """Without the call every block is fetched anew, page by page: 163,840 faults, or 320 where pages are huge."""
    assert int(run(f"{call}\n{FAULTS}")) < int(run(FAULTS)) / 8


@glibc
@pytest.mark.parametrize(
    "name, value", [("MALLOC_MMAP_MAX_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.tcache_max=64")]
)
def test_the_users_own_allocator_settings_win(name: str, value: str) -> None:
    tuned = int(run(f"from minidiff.runtime.cpu import tune; tune()\n{FAULTS}", **{name: value}))
    assert tuned > int(run(FAULTS, **{name: value})) / 2


@glibc
def test_large_blocks_in_threads() -> None:
    """A thread's own heap holds no more than 64 MiB: larger blocks must come from elsewhere, and be given back."""
    code = """
import threading
from minidiff.runtime.cpu import tune
tune()
sizes = []
def work():
    for _ in range(5):
        sizes.append(len(bytearray(300 * 2**20)))
for _ in range(2):  # one after the other, so that the peak does not hang on who is faster
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
assert sizes == [300 * 2**20] * 10
# Not ru_maxrss: at first that is the memory of the process that started this one.
print([int(line.split()[1]) // 2**10 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
    assert int(run(code)) < 1000  # MiB: one block at a time; all ten would be 3000


@pytest.mark.parametrize(
    "environment, count",
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_how_threads_wait(environment: dict[str, str], count: str) -> None:
    code = "import os; from minidiff.runtime.cpu import tune; tune(); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(code, **environment) == count
