"""Import what the commands import, once: every case of `fuzzing` is a fork of the process that has read this."""

import importlib
import os
import pkgutil

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a config may ask to compile: nothing that a fork can do, or 10 s suffice for

import hypothesis  # noqa: F401
import torch
import torch._dynamo  # which torch imports at its first use, and every case would again: nine tenths of its time
from PIL import Image

import minidiff

torch.set_num_threads(1)
for module in pkgutil.walk_packages(minidiff.__path__, "minidiff."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
Image.init()
