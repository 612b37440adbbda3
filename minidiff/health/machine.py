"""What was seen of the machine, and whether its memory, its threads and its cuDNN do for minidiff.

`look` fills the records. Needs no torch.
"""

import os
from collections.abc import Iterator

from minidiff.files import size_in_words
from minidiff.health.findings import FAULT, OK, WARNING, Finding
from minidiff.records import record

LITTLE = 2 << 30  # bytes of free memory; a process with torch takes 0.5 GB, and the CPU preset trains in 1 GB


@record
class Gpu:
    """A GPU that torch finds."""

    name: str
    capability: str  # such as 9.0
    free: int  # bytes
    total: int


@record
class Look:
    """What was seen."""

    torch: str  # its version
    cuda: str | None  # which torch was built for
    hip: str | None  # likewise, of AMD
    mps: bool  # whether torch computes on Apple's GPU
    made_for: tuple[str, ...]  # the GPUs that torch has programs for, such as sm_90
    cudnn: int | None  # its version
    cudnn_error: str
    vision_error: str  # of torchvision
    cuda_error: str  # why the GPUs cannot be used; empty where they can, or where there is none
    gpus: tuple[Gpu, ...]
    threads: int
    cores: float  # that this process may use
    load: float  # cores that are in use already
    free: int | None  # bytes of memory
    total: int | None
    can_compile: bool  # whether trainings on a GPU compile


def check_memory(look: Look) -> Iterator[Finding]:
    """Judge the memory of the host and of every GPU."""
    if look.free is not None:
        of = f" of {size_in_words(look.total)}" if look.total else ""
        seen = f"{size_in_words(look.free)}{of} are free"
        mend = "Close other programs, or give the container more. Else take smaller batches."
        yield judge("memory", seen, look.free, mend)
    for number, gpu in enumerate(look.gpus):
        seen = f"{size_in_words(gpu.free)} of {size_in_words(gpu.total)} are free on {gpu.name}"
        mend = "`nvidia-smi` lists the programs that hold the rest. End them, or choose another GPU."
        yield judge(f"memory GPU {number}", seen, gpu.free, mend)


def judge(name: str, seen: str, free: int, mend: str) -> Finding:
    return Finding(name, OK, seen) if free >= LITTLE else Finding(name, WARNING, seen, mend)


def check_threads(look: Look) -> Finding:
    """Judge how many threads torch computes with, for the cores that it may use."""
    cores, threads = look.cores, look.threads
    seen = f"torch computes with {threads} on {cores:g} core{'s' * (cores != 1)}"
    given = os.environ.get("OMP_NUM_THREADS")
    if given:
        seen += f" (OMP_NUM_THREADS is {given})"
    most = max(1, int(cores))
    if threads > max(1.0, cores):
        mend = f"export OMP_NUM_THREADS={most}: more threads than cores wait for each other."
        return Finding("threads", WARNING, seen, mend)
    if 2 * threads < most:  # half is right where two run on a core
        mend = "unset OMP_NUM_THREADS" if given else f"export OMP_NUM_THREADS={most}"
        return Finding(
            "threads", WARNING, f"{seen}, so most of them rest", f"{mend}, unless other work needs the cores."
        )
    if look.load > cores + 1:
        seen += f"; other programs want {look.load:.1f} of them at this moment"
        return Finding("threads", WARNING, seen, "Wait for them, or end them: a training beside them is slower.")
    return Finding("threads", OK, seen)


def check_cudnn(look: Look) -> Finding:
    """Judge cuDNN, which computes convolutions on NVIDIA's GPUs."""
    if look.cudnn_error:
        mend = "Another cuDNN is found before torch's own. Take the folder with libcudnn out of LD_LIBRARY_PATH."
        return Finding("cuDNN", FAULT, look.cudnn_error, mend)
    if look.cudnn is None:
        if look.gpus and look.cuda:
            return Finding(
                "cuDNN", WARNING, "torch finds none, so convolutions are slow", "Install torch anew, by pip."
            )
        return Finding("cuDNN", OK, "not needed: this torch is built without CUDA")
    scale = (10_000, 100) if look.cudnn >= 90_000 else (1_000, 100)  # of its first and second number
    parts = look.cudnn // scale[0], look.cudnn % scale[0] // scale[1], look.cudnn % scale[1]
    version = ".".join(map(str, parts))
    return Finding("cuDNN", OK, version + ("" if look.gpus else ", of no use without a GPU"))


def mend_of_gpu(said: str, gpu: Gpu, look: Look) -> str:
    """Advise about a trial on a GPU that failed. said: its error."""
    if "no kernel image" in said:
        mine, known = gpu.capability, ", ".join(look.made_for)
        return (
            f"This torch has no programs for this GPU (compute capability {mine}; it has {known}). If the GPU is old, "
            "install a torch that is built for CUDA 12.6; if it is new, the newest torch."
        )
    if "unsupported toolchain" in said:
        return "The driver is too old for this torch. Update it, or take a torch that is built for the driver's CUDA."
    if "out of memory" in said:
        return "`nvidia-smi` lists the programs that hold its memory. End them, or choose another GPU."
    if "CUDNN" in said.upper():
        return "Look for another cuDNN in LD_LIBRARY_PATH, and whether the memory of the GPU is full."
    return "Start the computer again. If it stays, look into `nvidia-smi` and `sudo dmesg` for the GPU."
