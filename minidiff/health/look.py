"""What a process sees that has imported torch: versions, GPUs, threads and memory.

It is asked for in a process of its own, as to import a damaged torch can end a process.
"""

import os
import warnings
from pathlib import Path

import torch

from minidiff.health.findings import said
from minidiff.health.machine import Gpu, Look
from minidiff.runtime.memory import free_memory
from minidiff.runtime.precision import can_compile


def look() -> Look:
    """Look at everything."""
    cudnn, cudnn_error = None, ""
    try:
        cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    except Exception as error:  # another cuDNN than torch was built for
        cudnn_error = said(error)
    gpus, cuda_error = look_at_gpus()
    limit = memory_limit()
    free = free_memory(torch.device("cpu"))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return Look(
        torch=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip,
        mps=torch.backends.mps.is_available(), made_for=tuple(torch.cuda.get_arch_list()),
        cudnn=cudnn, cudnn_error=cudnn_error, vision_error=error_of_torchvision(), cuda_error=cuda_error, gpus=gpus,
        threads=torch.get_num_threads(), cores=usable_cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        free=smallest(free, limit and limit[1]), total=smallest(pages, limit and limit[0]),
        can_compile=can_compile(),
    )  # fmt: skip


def error_of_torchvision() -> str:
    """Import torchvision and call one of its compiled functions. Return what went wrong, or nothing."""
    try:
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        return ""
    except Exception as error:  # whatever two packages that do not fit each other come upon
        return said(error)


def look_at_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Describe every GPU, or say why torch cannot use them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old driver: the error says the same
        try:
            if torch.version.cuda is None and torch.version.hip is None:
                return (), ""
            if not torch.cuda.device_count():
                return (), ""
            torch.cuda.init()
            return tuple(map(gpu, range(torch.cuda.device_count()))), ""
        except Exception as error:  # whatever a broken driver answers
            return (), said(error)


def gpu(number: int) -> Gpu:
    """Describe one GPU."""
    free, total = torch.cuda.mem_get_info(number)
    capability = ".".join(map(str, torch.cuda.get_device_capability(number)))
    return Gpu(torch.cuda.get_device_name(number), capability, int(free), int(total))


def smallest(*numbers: int | None) -> int | None:
    """Return the smallest of the numbers that are known."""
    return min((number for number in numbers if number is not None), default=None)


# --- what a container is allowed --------------------------------------------------------------------------------------

GROUP = Path("/sys/fs/cgroup")  # control groups of Linux, version 2


def usable_cores(group: Path = GROUP) -> float:
    """Return how many cores this process may use: those it is bound to, or its share of time if that is less."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no group, or one without a limit
        return cores


def memory_limit(group: Path = GROUP) -> tuple[int, int] | None:
    """Return the bytes that a control group may use, and how many of them are free; None: it has no limit.

    Files that the system has read and can forget at once count as free.
    """
    try:
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        forgotten = int((group / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
        return most, max(0, most - used + forgotten)
    except (OSError, ValueError, IndexError):
        return None
