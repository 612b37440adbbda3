"""Make the model `dehaze` that comes with the package from a run of stage 2: both stages, in half precision.

python benchmarks/ship_dehaze.py runs/dehaze-haze-2

The weights of stage 1 change by the rounding, so the digest by which stage 2 knows them is written anew. The script
measures by how much an answer changes.
"""

import json
from pathlib import Path

import click

from minidiff.dehaze.config import DEHAZE
from minidiff.dehaze.pairs import held_out
from minidiff.dehaze.run import load_dehaze
from minidiff.files import size_in_words
from minidiff.networks.weights import fingerprint
from minidiff.runs.folder import CONFIG, MODEL, read_tensors, save_model
from minidiff.runs.shipped import MODELS


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(run: Path) -> None:
    """Write minidiff/models/dehaze."""
    folder = MODELS / DEHAZE
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.half() for key, tensor in read_tensors(run / MODEL).items()}
    save_model(folder, tensors)
    config = json.loads((run / CONFIG).read_text())
    first = {key.removeprefix("first."): each.float() for key, each in tensors.items() if key.startswith("first.")}
    known = config["refinement"]["first"]
    config["refinement"]["first"] = {"place": Path(known["place"]).name, "weights": fingerprint(first)}
    if config["init"]:  # the run that it began with, by its name: its place is on this machine alone
        config["init"]["place"] = Path(config["init"]["place"]).name
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    whole, halved = (load_dehaze(place, precision="fp32") for place in (run, folder))
    _, pair = held_out(whole.config.data, whole.config.haze, 4)
    answers = [each.refine(each.guess(pair.hazy)) for each in (whole, halved)]
    size, difference = size_in_words((folder / MODEL).stat().st_size), 127.5 * (answers[0] - answers[1]).abs().max()
    print(f"{folder}: {size}; its answers differ by at most {difference:.2g} of 255")


if __name__ == "__main__":
    main()
