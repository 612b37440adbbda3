"""The weights in a folder of diffusers: one file or several shards, in full or as a variant such as fp16.

`diffusion_pytorch_model.safetensors` is the plain name. A variant adds a word to it, `.fp16.`. Shards add their number,
`-00001-of-00002`, and have an index beside them, a JSON file that says which tensor is in which shard.
Rests on tensor_files.
"""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from minidiff.errors import UserError, shown
from minidiff.files import read_json
from minidiff.interop.layers import few
from minidiff.interop.tensor_files import TENSOR_FILES, read_tensor_file

AGAIN = "Download it again."
KINDS = ("safetensors", "bin")  # the first is preferred
WHOLE = re.compile(r"diffusion_pytorch_model(?:\.(\w+))?\.(safetensors|bin)")
SHARD = re.compile(r"diffusion_pytorch_model(?:\.(\w+))?-\d{5}-of-\d{5}\.(safetensors|bin)")
INDEX = re.compile(r"diffusion_pytorch_model\.(safetensors|bin)\.index(?:\.(\w+))?\.json")


class Stored(NamedTuple):
    """Weights as they were found."""

    place: Path  # the file, or the index of the shards
    tensors: dict[str, Tensor]
    notes: list[str]  # what is unusual about them, in words


def read_weights(folder: Path) -> Stored:
    """Read the weights in a folder. Raises UserError if there are none, several to choose from, or damaged ones.

    The plain ones come before variants, and safetensors before .bin.
    """
    place, variant = find_weights(folder)
    tensors, count = (read_shards(place), len(shards_beside(place))) if INDEX.fullmatch(place.name) else (
        read_tensor_file(place), 1)  # fmt: skip
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()
                    if isinstance(tensor, Tensor) and tensor.is_floating_point()} - {"float32"})  # fmt: skip
    parts = [f"the variant {variant}"] * bool(variant) + [f"in {count} shards"] * (count > 1)
    parts += [f"stored as {' and '.join(types)} and computed with as float32"] * bool(types)
    return Stored(place, tensors, [f"its weights are {', '.join(parts)}"] if parts else [])


def find_weights(folder: Path) -> tuple[Path, str]:
    """Find the file of weights, or the index of their shards, and the variant or "". Raises UserError."""
    found: dict[tuple[str, str], list[Path]] = {}  # by variant and kind of file
    for path in sorted(folder.glob("diffusion_pytorch_model*")):
        if whole := WHOLE.fullmatch(path.name):
            found.setdefault((whole[1] or "", whole[2]), []).append(path)
        elif index := INDEX.fullmatch(path.name):
            found.setdefault((index[2] or "", index[1]), []).append(path)
    variants = sorted({variant for variant, _ in found})
    if not variants:
        others = sorted(shown(path.name) for path in folder.glob("diffusion_pytorch_model*"))
        why = f"; {few(others)} without an index cannot be read" if others else ""
        raise UserError(f"{folder} has no weights ({' or '.join(TENSOR_FILES)}{why}). {AGAIN}")
    if "" not in variants and len(variants) > 1:
        raise UserError(
            f"{folder} has no plain weights, but the variants {' and '.join(variants)}. Leave one of them there."
        )
    variant = variants[0]  # "" comes first
    paths = next(found[variant, kind] for kind in KINDS if (variant, kind) in found)
    if len(paths) > 1:
        both = " and ".join(path.name for path in paths)
        raise UserError(f"{folder} has its weights twice, whole and in shards: {both}. Leave one of them there.")
    return paths[0], variant


def shards_beside(index: Path) -> set[str]:
    """List the names of the shards that lie beside an index: those of its variant and kind of file."""
    its = INDEX.fullmatch(index.name)
    found = {path.name: SHARD.fullmatch(path.name) for path in index.parent.glob("diffusion_pytorch_model*")}
    return {name for name, shard in found.items() if its and shard and (shard[1], shard[2]) == (its[2], its[1])}


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read all shards of an index. Raises UserError unless index and shards agree, tensor by tensor.

    A shard is a file beside its index: no other name is opened.
    """
    table = read_json(index, AGAIN).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{index} has no weight_map, which says which tensor is in which shard. {AGAIN}")
    named, there = set(table.values()), shards_beside(index)
    if outside := sorted(name for name in named if not SHARD.fullmatch(name)):
        raise UserError(f"{index} names {few(map(shown, outside))}, which is not the name of a shard. {AGAIN}")
    if missing := sorted(named - there):
        raise UserError(f"{index} names {few(missing)}, which is missing. {AGAIN}")
    if more := sorted(there - named):
        raise UserError(f"{index} does not name {few(more)}. Leave only the shards that belong together.")
    tensors: dict[str, Tensor] = {}
    wrong: list[str] = []
    for file in sorted(named):
        part = read_tensor_file(index.parent / file)
        wanted = {name for name, place in table.items() if place == file}
        wrong += [f"{name} is not in {file}" for name in sorted(wanted - part.keys())]
        wrong += [f"{shown(name)} in {file} is not in the index" for name in sorted(part.keys() - wanted)]
        tensors |= part
    if wrong:
        raise UserError(f"{index} does not fit its shards: {few(wrong, '; ')}. {AGAIN}")
    return tensors
