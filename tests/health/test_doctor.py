"""The doctor finds what was broken on purpose, says how to mend it, and does not fall ill itself.

Nothing here needs torch: what a process of its own would answer is given.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minidiff import cli
from minidiff.health import apart, doctor, software
from minidiff.health.apart import NoAnswer, NoTime
from minidiff.health.driver import Driver, cards, judge_driver, version_of_module
from minidiff.health.findings import Finding, without_paths
from minidiff.health.machine import Gpu, Look, check_cudnn, check_memory, check_threads
from minidiff.health.software import Needed, check_extras, check_packages, check_python, check_torch, satisfies

GB = 10**9
SOUND = Look(
    torch="2.14.1+cu130", cuda="13.0", hip=None, mps=False, made_for=("sm_75", "sm_90"), cudnn=92400, cudnn_error="",
    vision_error="", cuda_error="", gpus=(Gpu("NVIDIA H200", "9.0", 140 * GB, 150 * GB),), threads=8, cores=16.0,
    load=0.1, free=60 * GB, total=64 * GB, can_compile=True,
)  # fmt: skip
SOUND_VERSIONS = {"torchvision": "0.29.1", "gradio": "6.1"}  # others need no more than a lowest version
DRIVER = Driver(cuda=13000, answer=0, version="580.65.06", cards=1)


@pytest.fixture()
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What processes answer, by question: those of a sound machine with a GPU. An exception is raised."""
    given: dict[str, Any] = {
        "torch": vars(SOUND), "driver": vars(DRIVER), "device": "right", "compile": "compiles",
        "caches": [vars(Finding("data cache", "ok", "there"))],
        "models": [vars(Finding("model photos", "ok", "there"))],
    }  # fmt: skip

    def ask(question: str, *about: str, limit: float, environment: dict[str, str] | None = None) -> Any:
        answer = given.get(" ".join([question, *about]), given[question])
        if isinstance(answer, Exception):
            raise answer
        return json.loads(json.dumps(answer, default=vars))

    monkeypatch.setattr(doctor, "ask", ask)
    monkeypatch.setattr(doctor, "torch_of_torchvision", lambda: "==2.14.1")
    monkeypatch.setattr(doctor, "installed", lambda names: dict.fromkeys(names, "99") | SOUND_VERSIONS)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return given


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.doctor()}


def wrong() -> dict[str, str]:
    return {finding.name: finding.state for finding in doctor.doctor() if finding.state != "ok"}


# --- the whole ----------------------------------------------------------------------------------------------------


def test_a_sound_machine_has_no_fault(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert not wrong()
    assert cli.run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found()) + 1 and all(line.startswith("ok ") for line in lines[:-1])


def test_a_fault_has_its_mend_and_the_exit_code(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    answers["driver"] = vars(replace(DRIVER, cuda=12040, version="550.54.15"))
    assert cli.run(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "mend: Update the driver to 580 or newer" in said and "CUDA driver" in said.splitlines()[-1]
    answers["driver"] = vars(DRIVER)
    answers["caches"] = [vars(Finding("data cache", "warning", "full", "Make room."))]
    assert cli.run(["doctor"]) == 0  # a warning is no fault


def test_json_holds_all_and_nothing_else_is_printed(
    answers: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["compile"] = NoTime("no answer")
    assert cli.run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == 1 and len(report["findings"]) == len(found())
    (fault,) = (each for each in report["findings"] if each["state"] == "fault")
    assert fault["name"] == "torch.compile" and "--no-compile" in fault["mend"]


def test_no_check_ends_the_others(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check in turn raises; there is a fault for it, and the last line is still the models'."""
    names = list(found())
    for name in (
        "check_python", "check_packages", "check_extras", "check_torch", "check_driver", "check_cudnn", "check_device",
        "check_memory", "check_threads", "check_compile",
    ):  # fmt: skip

        def broken(*given: Any) -> Any:
            raise ZeroDivisionError("as a test")

        with monkeypatch.context() as patch:
            patch.setattr(doctor, name, broken)
            findings = list(doctor.doctor())
        assert findings[-1].name == names[-1], name
        assert any(each.state == "fault" and "ZeroDivisionError: as a test" in each.seen for each in findings), name


def test_without_torch_the_rest_is_not_looked_at(answers: dict[str, Any]) -> None:
    answers["torch"] = NoAnswer("it was ended by SIGSEGV")
    findings = found()
    assert findings["torch"].state == "fault" and "SIGSEGV" in findings["torch"].seen
    assert list(findings) == ["Python", "packages", "extras", "torch"]


def test_a_crash_is_a_fault_and_a_busy_machine_is_not(answers: dict[str, Any]) -> None:
    """A GPU that hangs is one, though."""
    answers |= {"device cpu": NoTime("no answer in 9 seconds"), "caches": NoTime("no answer in 9 seconds")}
    assert wrong() == {"CPU": "warning", "caches": "warning"}
    answers |= {"device cuda:0": NoTime("no answer in 9 seconds"), "models": NoAnswer("it was ended by SIGSEGV")}
    assert wrong() == {"CPU": "warning", "caches": "warning", "GPU 0": "fault", "models": "fault"}


# --- a process of its own -----------------------------------------------------------------------------------------

CRASH = "import ctypes; ctypes.string_at(0)"
ANSWER = "print('noise'); print(\"minidiff's answer: {}\")"


@pytest.fixture()
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the process be a program of the test's own."""

    def become(code: str) -> None:
        (tmp_path / "stand_in.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(apart, "QUESTIONS", "stand_in")

    return become


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_process_that_crashes_is_an_error_in_a_line(process: Any) -> None:
    process(CRASH)
    with pytest.raises(NoAnswer, match="SIGSEGV"):
        apart.ask("torch", limit=60)
    process("import sys; sys.exit('/home/somebody/lab/libcudnn.so.9: cannot open shared object file')")
    with pytest.raises(NoAnswer, match=r"exit code 1: \.\.\./libcudnn.so.9: cannot open"):
        apart.ask("torch", limit=60)


def test_an_answer_comes_among_other_lines(process: Any) -> None:
    process(ANSWER.format('{\\"answer\\": [1, 2]}'))
    assert apart.ask("torch", limit=60) == [1, 2]
    process(ANSWER.format('{\\"error\\": \\"as a test\\"}'))
    with pytest.raises(NoAnswer, match="^as a test$"):
        apart.ask("torch", limit=60)


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_process_that_hangs_is_ended_with_its_children(process: Any, tmp_path: Path) -> None:
    """As a compiler that waits for ever. Fails when only the process itself is killed: its child goes on writing."""
    beat = tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('.'); time.sleep(0.05)"
    process(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    with pytest.raises(NoTime, match="no answer in"):
        while not beat.exists():  # on a busy machine the child may not have come to life
            apart.ask("compile", limit=2)
        apart.ask("compile", limit=2)
    time.sleep(0.5)
    length = beat.stat().st_size
    time.sleep(0.5)
    assert beat.stat().st_size == length


def test_the_driver_is_looked_at_without_torch() -> None:
    """So that it is told where torch cannot even be imported."""
    code = "import sys; from minidiff.health import questions; questions.driver(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys; import minidiff.health.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- driver and torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "built_for", "gpus", "state", "parts"),
    [
        ({"cuda": 12040, "version": "550.54.15"}, "13.0", 0, "fault", ["550.54.15", "12.4", "13.0", "580", "cu126"]),
        ({"cuda": 11040, "version": None}, "12.6", 0, "fault", ["11.4", "12.6", "525", "cu118", "torch==2.7"]),
        ({"cuda": 10020}, "12.6", 0, "fault", ["10.2", "525"]),
        ({"cuda": 12020}, "12.6", 1, "ok", []),  # the same first number: they fit
        ({"cuda": 13000}, "12.6", 1, "ok", []),
        ({"cuda": 13000}, "13.0", 0, "fault", ["no GPU"]),
        ({"cuda": 12040}, None, 0, "warning", ["CPU alone", "cu126"]),
        ({"answer": 803}, "13.0", 0, "fault", ["two versions", "Start the computer again"]),
        ({"answer": 999}, "13.0", 0, "fault", ["nvidia_uvm"]),
        ({"answer": 46}, "13.0", 0, "fault", ["46"]),
        ({"answer": 100, "hidden": ""}, "13.0", 0, "warning", ["CUDA_VISIBLE_DEVICES is ''"]),
        ({"answer": 0, "hidden": "7"}, "13.0", 0, "warning", ["CUDA_VISIBLE_DEVICES is '7'"]),
        ({"answer": 100}, "13.0", 0, "warning", ["nvidia-smi"]),
        ({"cuda": None, "version": None}, "13.0", 0, "warning", ["1 NVIDIA card"]),
        ({"cuda": None, "version": None, "cards": 0}, "13.0", 0, "ok", ["CPU"]),
        ({"cuda": None, "version": None, "cards": 0}, None, 0, "ok", ["CPU"]),
    ],
)  # fmt: skip
def test_driver_against_runtime(
    driver: dict[str, Any], built_for: str | None, gpus: int, state: str, parts: list[str]
) -> None:
    """The numbers of a mismatch and what to do are in the line. Fails when 12.2 is held to be too old for 12.6."""
    finding = judge_driver(replace(DRIVER, **driver), "2.14.1", built_for, gpus)
    assert finding.state == state and bool(finding.mend) == (state != "ok")
    for part in parts:
        assert part in str(finding)


def test_versions_of_the_driver_are_read(tmp_path: Path) -> None:
    """As the two kinds of kernel module write them, and what is on the bus."""
    text = tmp_path / "version"
    text.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert version_of_module(text) == "550.54.15"
    text.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n")
    assert version_of_module(text) == "580.95.05"
    assert version_of_module(tmp_path / "nothing") is None
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        (tmp_path / "bus" / name).mkdir(parents=True)
        (tmp_path / "bus" / name / "vendor").write_text(vendor + "\n")
        (tmp_path / "bus" / name / "class").write_text(kind + "\n")
    assert cards(tmp_path / "bus") == 1 and cards(tmp_path / "nothing") == 0  # b is the card's sound


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("CUDA error: no kernel image is available for execution", "compute capability 9.0"),
        ("CUDA out of memory. Tried to allocate", "nvidia-smi"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "LD_LIBRARY_PATH"),
        ("it was ended by SIGSEGV", "dmesg"),
    ],
)
def test_a_gpu_that_fails_is_a_fault_with_its_name(said: str, part: str, answers: dict[str, Any]) -> None:
    answers["device cuda:0"] = NoAnswer(said)
    finding = found()["GPU 0"]
    assert finding.state == "fault" and "NVIDIA H200" in finding.seen and said in finding.seen and part in finding.mend


# --- packages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.6.0", ">=2.6,!=2.13.0", True), ("2.13.0+cpu", ">=2.6,!=2.13.0", False), ("2.5.1", ">=2.6", False),
        ("2.13.1", "!=2.13.0", True), ("0.17.9", "==0.17.*", True), ("0.18.0", "==0.17.*", False),
        ("1.0", ">=1.0.0", True), ("2.10", ">=2.9", True), ("2024.8.30", ">=2024.8.10", True), ("3.0rc1", "<3", False),
        ("1.4.5", "~=1.4.2", True), ("1.5", "~=1.4.2", False), ("7", "", True),
    ],
)  # fmt: skip
def test_versions_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) == fits


@pytest.mark.parametrize(
    ("torchvision", "built_with", "error", "state"),
    [
        ("0.29.1", "==2.14.1", "", "ok"),
        ("0.29.0", "==2.14.0", "", "ok"),  # the third number is for repairs
        ("0.21.0", "==2.6.0", "", "fault"),
        ("0.21.0", "", "", "fault"),  # one that does not say
        ("0.29.1", "", "", "ok"),
        ("0.29.1", "==2.14.1", "RuntimeError: operator torchvision::nms does not exist", "fault"),  # cpu and cuda
        (None, "", "", "fault"),
    ],
)
def test_torchvision_belongs_to_torch(torchvision: str | None, built_with: str, error: str, state: str) -> None:
    finding = list(check_torch("2.14.1+cu130", torchvision, built_with, error))[-1]
    assert finding.name == "torchvision" and finding.state == state
    assert state == "ok" or ("0.29" in finding.mend and error in finding.seen)


def test_a_wrong_torchvision_on_the_way(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "torch_of_torchvision", lambda: "==2.6.0")
    assert wrong() == {"torchvision": "fault"}


def test_packages_and_extras() -> None:
    needed = software.read_needed(
        ["torch!=2.13.0,>=2.6", "click>=8.2", 'lpips>=0.1.4; extra == "lpips"', 'ruff==0.17.*; extra == "dev"']
    )
    assert needed[2] == Needed("lpips", ">=0.1.4", "lpips")
    assert check_packages(needed, {"torch": "2.14.1", "click": "8.2"}).state == "ok"
    old = check_packages(needed, {"torch": "2.14.1", "click": "7.0"})
    assert old.state == "fault" and old.mend == "pip install 'click>=8.2'"
    assert check_packages(needed, {"torch": "2.14.1"}).state == "fault"
    assert check_packages([], {}).state == "warning"
    assert "lpips" in check_extras(needed, {}).seen.partition("not: ")[2] and "dev" not in check_extras(needed, {}).seen
    assert check_extras(needed, {"lpips": "0.1.4"}).state == "ok"
    assert check_extras(needed, {"lpips": "0.1.3"}).state == "warning"


def test_python() -> None:
    states = [check_python(version, 64).state for version in ((3, 9, 1), (3, 10, 0), (3, 13, 5), (3, 14, 0))]
    assert states == ["fault", "ok", "ok", "warning"] and check_python((3, 12, 0), 32).state == "fault"


# --- the machine --------------------------------------------------------------------------------------------------


def test_memory_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    full = replace(SOUND, free=GB, gpus=(replace(SOUND.gpus[0], free=GB),))
    assert [finding.state for finding in check_memory(SOUND)] == ["ok", "ok"]
    assert [finding.state for finding in check_memory(full)] == ["warning", "warning"]
    for threads, cores, load, state in (
        (8, 16, 0, "ok"), (16, 16, 0, "ok"), (16, 2.5, 0, "warning"), (1, 16, 0, "warning"), (1, 1, 0, "ok"),
        (1, 0.5, 0, "ok"), (8, 16, 20, "warning"),
    ):  # fmt: skip
        finding = check_threads(replace(SOUND, threads=threads, cores=float(cores), load=float(load)))
        assert finding.state == state, finding
    assert "OMP_NUM_THREADS=2" in check_threads(replace(SOUND, threads=16, cores=2.5)).mend


def test_cudnn() -> None:
    assert "9.24.0" in check_cudnn(SOUND).seen and "8.9.2" in check_cudnn(replace(SOUND, cudnn=8902)).seen
    error = "RuntimeError: cuDNN version incompatibility"
    other = check_cudnn(replace(SOUND, cudnn=None, cudnn_error=error))
    assert other.state == "fault" and error in other.seen and "LD_LIBRARY_PATH" in other.mend
    assert check_cudnn(replace(SOUND, cudnn=None)).state == "warning"
    assert check_cudnn(replace(SOUND, cudnn=None, cuda=None, gpus=())).state == "ok"


def test_compiling(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is a fault where trainings would compile, and a warning where they would not."""
    answers["compile"] = NoTime("no answer in 300 seconds")
    assert wrong() == {"torch.compile": "fault"}
    answers["torch"] = vars(replace(SOUND, gpus=(), cuda=None, cudnn=None))
    answers["driver"] = vars(Driver())
    assert wrong() == {"torch.compile": "warning"}
    answers["compile"] = NoAnswer("fatal error: Python.h: No such file")
    assert "python3-dev" in found()["torch.compile"].mend
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "compiler" in found()["torch.compile"].seen
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    answers |= {"compile": "compiles", "torch": vars(replace(SOUND, can_compile=False)), "driver": vars(DRIVER)}
    assert wrong() == {"torch.compile": "warning"}  # trainings go without it


def test_messages_name_no_folder() -> None:
    """A report may be public. An address of the web stays whole."""
    assert without_paths("cannot open /home/ann/my-lab/lib/libcudnn.so.9: no") == "cannot open .../libcudnn.so.9: no"
    assert without_paths(r"in C:\Users\Ann\site\a.py, line 3") == r"in .../a.py, line 3"
    url = "see https://download.pytorch.org/whl/cu126 and 1/2 of it"
    assert without_paths(url) == url
