"""Make one of the models that come with the package from a run: its config, its averaged weights in half precision.

python benchmarks/ship_model.py runs/ddpm-photos-1 photos

The numbers of half precision have 11 bits, so an image changes by far less than one of 255 levels; the script measures
by how much, on a crop of noise. It also measures how far the guesses of the model are off, on the photographs that were
held out of its training, and stores that beside it, for `minidiff restore --task`.
"""

import json
from pathlib import Path

import click
import torch

import minidiff
from minidiff.data.photos import load_photographs
from minidiff.ddpm.guess_errors import measure_guess_errors, write_guess_errors
from minidiff.files import size_in_words
from minidiff.images.convert import to_float
from minidiff.runs.folder import CONFIG, MODEL, read_tensors, save_model
from minidiff.runs.shipped import MODELS


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
def main(run: Path, name: str) -> None:
    """Write minidiff/models/NAME."""
    folder = MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, {key: tensor.half() for key, tensor in read_tensors(run / MODEL).items()})
    config = json.loads((run / CONFIG).read_text())
    if config["init"]:  # the run that it began with, by its name: its place is on this machine alone
        config["init"]["place"] = Path(config["init"]["place"]).name
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    whole, halved = (minidiff.load(place, precision="fp32") for place in (run, folder))
    x = torch.randn(1, *whole.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (each.denoiser()(x, torch.tensor([100])) for each in (whole, halved))
    size, difference = size_in_words((folder / MODEL).stat().st_size), (first - second).abs().max()
    print(f"{folder}: {size}; its output differs by at most {difference:.2g}, of deviation {first.std():.2g}")
    found = measure_guess_errors(minidiff.load(folder), held_out_crops())
    write_guess_errors(folder, found)
    print(f"its guesses are off by {found.errors[0]:.2g} to {found.errors[-1]:.2g}")


def held_out_crops(side: int = 256) -> list[torch.Tensor]:
    """Cut the centre out of each photograph that no training has seen: [1,3,side,side] in [-1,1] each."""
    crops = []
    for photograph in load_photographs(split="test"):
        top, left = ((length - side) // 2 for length in photograph.shape[:2])
        crops.append(to_float(photograph[top : top + side, left : left + side].copy()[None]))
    return crops


if __name__ == "__main__":
    main()
