"""minidiff in processes of its own, under torchrun where there are several."""

import os
import subprocess
import sys
from pathlib import Path


def minidiff(processes: int, arguments: str, folder: Path) -> "subprocess.Popen[str]":
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "minidiff", *arguments.split()],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output
