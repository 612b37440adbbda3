"""The NVIDIA driver of this machine, and whether it can run the CUDA that torch was built for.

A driver is made for one version of CUDA. It runs every older one, and every newer one with the same first number
(NVIDIA, "CUDA Compatibility"). Without such a driver torch finds no GPU, and computes on the CPU without a word.
Needs no torch.
"""

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from minidiff.errors import counted
from minidiff.health.findings import FAULT, OK, WARNING, Finding
from minidiff.records import record

NAME = "CUDA driver"
LEAST = {11: 450, 12: 525, 13: 580}  # the driver that the first number of CUDA needs: NVIDIA, "CUDA Compatibility"
INDEX = {11: "cu118", 12: "cu126"}  # of pytorch.org: a torch that a driver for this CUDA can run
OLD = {11: "==2.7.* torchvision==0.22.*"}  # the last torch that there was for it

REASONS = {  # CUresult of cuda.h, with what helps
    3: ("the driver is not initialised", "Start the computer again."),
    34: (
        "the libcuda that is found first is a stub, for building programs alone",
        "Take the folder `stubs` out of LD_LIBRARY_PATH.",
    ),
    802: ("the system is not ready (the fabric manager does not run)", "sudo systemctl start nvidia-fabricmanager"),
    803: (
        "the driver's library and its kernel module are of two versions, as after an update",
        "Start the computer again. In a container, start the container again.",
    ),
    804: (
        "a forward-compatibility library is loaded, which this GPU does not support",
        "Take the folder `compat` of CUDA out of LD_LIBRARY_PATH.",
    ),
    999: (
        "the driver fails, as it often does after the computer was asleep",
        "sudo rmmod nvidia_uvm; sudo modprobe nvidia_uvm. If that does not help, start the computer again.",
    ),
}


@record
class Driver:
    """What there is of a driver."""

    cuda: int | None = None  # the version of CUDA it is for: 1000 * first + 10 * second; None: there is no library
    answer: int | None = None  # of cuInit: 0 is good, 100 is no GPU
    version: str | None = None  # of the kernel module, such as 550.54.15
    cards: int = 0  # NVIDIA's on the bus, with a driver or without
    hidden: str | None = None  # CUDA_VISIBLE_DEVICES, if it is set


def look_at_driver() -> Driver:
    """Look for the driver, its version and its GPUs, without torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = Driver(version=version_of_module(), cards=cards(), hidden=hidden)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int(0)
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return found
        return Driver(number.value, library.cuInit(0), found.version, found.cards, hidden)
    except (OSError, AttributeError):
        return found


def version_of_module(place: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Read the version of the kernel module, on Linux."""
    with suppress(OSError):
        found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", place.read_text())
        return found[1] if found else None
    return None


def cards(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """Count the NVIDIA cards that compute or show pictures, on Linux."""
    count = 0
    for device in bus.glob("*"):
        with suppress(OSError):
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
            count += vendor == "0x10de" and kind.startswith("0x03")
    return count


# --- the judgement ------------------------------------------------------------------------------------------------


def judge_driver(
    driver: Driver, torch: str, built_for: str | None, gpus: int, other: str = "", error: str = ""
) -> Finding:
    """Say whether driver and torch fit each other.

    torch: its version. built_for: its CUDA, such as "12.6"; None: it is built without. gpus: how many it finds. other:
    what else it computes on, such as Apple's GPU. error: what torch says when it tries to use the GPUs.
    """
    if driver.cuda is None:
        return judge_absence(driver, built_for, other)
    first, second = driver.cuda // 1000, driver.cuda % 1000 // 10
    name = f"the driver {driver.version}" if driver.version else "the driver"
    runs = f"{name} runs CUDA up to {first}.{second}"
    if built_for is None:
        if other:
            return Finding(NAME, OK, f"{runs}; torch {torch} is for {other}")
        seen = f"{runs}, but torch {torch} is built for the CPU alone, so the GPU is not used"
        return Finding(NAME, WARNING, seen, f"Install a torch that has CUDA: {reinstall(first)}")
    built = tuple(map(int, built_for.split(".")))
    if built[0] > first:
        least = f"to {LEAST[built[0]]} or newer" if built[0] in LEAST else "to one for it"
        seen = f"{runs}, but torch {torch} is built for CUDA {built_for}: torch cannot use the GPU with this driver"
        mend = f"Update the driver {least} (an administrator must do that)."
        if first in INDEX:
            mend += f" Or keep it, and install a torch that is built for CUDA {first}: {reinstall(first)}"
        return Finding(NAME, FAULT, seen, mend)
    fits = f"{runs}, and torch {torch} is built for {built_for}: they fit"
    if driver.answer == 100 or (driver.answer == 0 and driver.hidden is not None and not gpus):
        return judge_no_gpu(driver, runs)
    if driver.answer:
        said, mend = REASONS.get(driver.answer, (f"it answers with the error {driver.answer}", "Install it anew."))
        return Finding(NAME, FAULT, f"{fits}. But {said}", mend)
    if not gpus:
        said = error or "torch finds no GPU"
        return Finding(
            NAME, FAULT, f"{fits}. But {said}", f"Start the computer again; else replace torch: {reinstall(first)}"
        )
    return Finding(NAME, OK, fits)


def judge_absence(driver: Driver, built_for: str | None, other: str) -> Finding:
    """Say what it means that there is no driver."""
    if other:
        return Finding(NAME, OK, f"not needed: torch computes on {other}")
    if driver.cards or driver.version:
        there = counted(driver.cards, "NVIDIA card") if driver.cards else "a kernel module"
        seen = f"there is {there}, but no driver library (libcuda), so all is computed on the CPU"
        mend = "Install the driver: `sudo ubuntu-drivers install` on Ubuntu, else nvidia.com/drivers. "
        return Finding(NAME, WARNING, seen, mend + "In a container, start it with its GPUs: docker run --gpus all.")
    built = f"; torch is built for CUDA {built_for}, which does no harm" if built_for else ""
    return Finding(NAME, OK, f"no NVIDIA GPU here, so all is computed on the CPU{built}")


def judge_no_gpu(driver: Driver, runs: str) -> Finding:
    """Say why a sound driver shows no GPU."""
    if driver.hidden is not None:
        seen = f"{runs}, but CUDA_VISIBLE_DEVICES is '{driver.hidden}' and hides every GPU"
        return Finding(NAME, WARNING, seen, "unset CUDA_VISIBLE_DEVICES")
    mend = "Look whether `nvidia-smi` lists it. In a container, start it with its GPUs: docker run --gpus all."
    return Finding(NAME, WARNING, f"{runs}, but it finds no GPU, so all is computed on the CPU", mend)


def reinstall(first: int) -> str:
    """Write the commands that replace torch. first: the first number of a driver's CUDA."""
    index = f" --index-url https://download.pytorch.org/whl/{INDEX[first]}" if first in INDEX else ""
    packages = f"torch{OLD[first]}" if first in OLD else "torch torchvision"
    return f"`pip uninstall -y torch torchvision && pip install {packages}{index}`"
