"""Look whether this machine can do what the package asks of it: what `minidiff doctor` does, from a script.

    for finding in minidiff.doctor():
        print(finding)

Rests on the checks beside it. What needs torch or a GPU is asked in processes of their own (apart).
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from minidiff.health.apart import NoAnswer, NoTime, ask
from minidiff.health.driver import Driver, judge_driver
from minidiff.health.findings import FAULT, OK, WARNING, Finding, said
from minidiff.health.machine import Look, check_cudnn, check_memory, check_threads, mend_of_gpu
from minidiff.health.software import (
    check_extras,
    check_packages,
    check_python,
    check_torch,
    installed,
    read_needed,
    torch_of_torchvision,
)
from minidiff.records import from_json

SECONDS = 240.0  # for an answer: from a slow disk torch alone can take a minute
SECONDS_COMPILING = 300.0  # usually 5 to 60
BUSY = "If the machine is busy, try again when it is not."

OnBegin = Callable[[str], object]  # told what is looked at next, since some of it takes minutes


def doctor(on_begin: OnBegin | None = None) -> Iterator[Finding]:
    """Look at everything, and yield a `Finding` for each thing. A check that fails itself is a fault, never an error.

    on_begin: called with the name of what is looked at next.
    """
    tell = on_begin or (lambda name: None)
    needed = read_needed()
    found = installed([each.name for each in needed])
    yield from guarded("Python", lambda: [check_python()])
    yield from guarded("packages", lambda: [check_packages(needed, found)])
    yield from guarded("extras", lambda: [check_extras(needed, found)])
    tell("torch")
    look = None
    try:
        look = from_json(Look, ask("torch", limit=SECONDS), "what was seen of torch")
    except Exception as error:
        mend = (
            "Install it anew, in a fresh environment: pip install torch torchvision. What needs it was not looked at."
        )
        yield Finding("torch", FAULT, f"import torch: {told(error)}", mend)
    if look is not None:
        yield from with_torch(look, tell)


def with_torch(look: Look, tell: OnBegin) -> Iterator[Finding]:
    """Look at all that needs torch."""
    vision = installed(["torchvision"]).get("torchvision")
    yield from guarded("torch", lambda: check_torch(look.torch, vision, torch_of_torchvision(), look.vision_error))
    tell("CUDA driver")
    yield from guarded("CUDA driver", lambda: [check_driver(look)])
    yield from guarded("cuDNN", lambda: [check_cudnn(look)])
    for name, device in devices(look):
        tell(name)
        yield from guarded(name, partial(check_device, name, device, look))
    yield from guarded("memory", lambda: check_memory(look))
    yield from guarded("threads", lambda: [check_threads(look)])
    tell("torch.compile")
    yield from guarded("torch.compile", lambda: [check_compile(look)])
    for name in ("caches", "models"):
        tell(name)
        yield from guarded(name, partial(asked, name))


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds. If it fails itself, that is a fault, and the next check goes on."""
    try:
        yield from check()
    except Exception as error:
        if isinstance(error, NoTime):
            yield Finding(name, WARNING, str(error), BUSY)
            return
        mend = "This should not be. Please report it, with all that the doctor says."
        yield Finding(name, FAULT, f"the check failed: {told(error)}", mend)


def told(error: Exception) -> str:
    """Write an error in a line. What a process of its own said comes as it is."""
    return str(error) if isinstance(error, NoAnswer) else said(error)


def asked(question: str) -> list[Finding]:
    """Ask for findings in a process of its own."""
    return [from_json(Finding, each, "a finding") for each in ask(question, limit=SECONDS)]


def check_driver(look: Look) -> Finding:
    """Look at the driver, and judge whether it fits this torch."""
    driver = from_json(Driver, ask("driver", limit=SECONDS), "what was seen of the driver")
    other = f"AMD's ROCm {look.hip}" if look.hip else "Apple's GPU" if look.mps else ""
    return judge_driver(driver, look.torch, look.cuda, len(look.gpus), other, look.cuda_error)


def devices(look: Look) -> list[tuple[str, str]]:
    """Name what torch can compute on, for people and for torch."""
    gpus = [(f"GPU {number}", f"cuda:{number}") for number in range(len(look.gpus))]
    return [("CPU", "cpu"), *gpus, *[("GPU", "mps")] * look.mps]


def check_device(name: str, device: str, look: Look) -> Iterator[Finding]:
    """Compute on a device, and compare with what is right."""
    model = f"{look.gpus[int(device[5:])].name}: " if device.startswith("cuda:") else ""
    try:
        yield Finding(name, OK, model + ask("device", device, limit=SECONDS))
    except NoAnswer as error:
        if isinstance(error, NoTime) and device == "cpu":
            raise
        if device.startswith("cuda:"):
            mend = mend_of_gpu(str(error), look.gpus[int(device[5:])], look)
        elif device == "mps":
            mend = "Compute on the CPU: `device` cpu."
        else:
            mend = "Install torch anew. If its process was ended by SIGILL, this processor is too old for it."
        yield Finding(name, FAULT, f"{model}{error}", mend)


def check_compile(look: Look) -> Finding:
    """Let torch.compile work on a small function. Trainings on a GPU use it where it can work."""
    name, uses = "torch.compile", "long trainings on a GPU go faster with it" if look.gpus else "only a GPU needs it"
    if look.mps:
        return Finding(name, OK, "not used on Apple's GPU")
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")):
        return Finding(
            name, WARNING, f"there is no C++ compiler; {uses}", "sudo apt install g++, or what your system has."
        )
    if look.gpus and not look.can_compile:
        return Finding(
            name, WARNING, f"triton or a C compiler is missing; {uses}", "pip install triton; sudo apt install gcc"
        )
    with tempfile.TemporaryDirectory() as folder:  # what an earlier compiler has left must not hide that there is none
        places = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder}
        try:
            seen = ask("compile", "cuda" if look.gpus else "cpu", limit=SECONDS_COMPILING, environment=places)
            return Finding(name, OK, f"{seen}; {uses}")
        except NoAnswer as error:
            mend = "Train with `compile` False." + f" {BUSY}" * isinstance(error, NoTime)
            if "Python.h" in str(error):
                mend = f"Install the headers of Python: sudo apt install python3-dev. Else: {mend}"
            return Finding(name, FAULT if look.gpus else WARNING, f"{error}; {uses}", mend)
