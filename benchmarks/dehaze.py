"""How near does each way of taking haze off come to the clear picture, where that is known?

The pictures are never trained on: the five photographs that `photos` holds out, with plausible depth; landscapes of the
split `test`, with exact depth; scikit-image's stereo picture, with measured depth. Each is put behind haze drawn by
default_rng([number of the set, of the picture, of the haze]), rounded to 8 bits as in a file, and has no other damage.
`mixed` are pairs of 256x256 of the split `test` of `haze`, with all the damage of the training. `clear` are the
photographs without any haze, which should stay as they are.
Prints Markdown: mean PSNR and SSIM, and the processor time of a picture.

    python benchmarks/dehaze.py                           # the ranges of the training
    python benchmarks/dehaze.py --dense                   # dense haze
    python benchmarks/dehaze.py --airlight 0.7 1          # haze by day, which is as bright as the sky
    python benchmarks/dehaze.py --sheet dehaze.png        # and some of the pictures side by side
    python benchmarks/dehaze.py --run runs/dehaze-haze-2 --steps 1,5,20,100 --start-t 300   # stage 2 in so many steps

A contender is a function from a hazy picture to a clear one, uint8 [H,W,3]: see `methods`. "The true T and A" are not
one: that row inverts the equation with the truth, and shows what eight bits and the floor of T cost. GMSD and
`detail` see texture: see tasks.py.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
import torch
from tasks import detail, gmsd

from minidiff.data import landscapes
from minidiff.data.config import DENSE, Haze
from minidiff.data.depth import plausible
from minidiff.data.haze import FARTHEST, Floats, HazyPair, add_haze, invert
from minidiff.data.hazy_sets import hazy_pairs, stereo
from minidiff.data.image_data import LoadRequest
from minidiff.data.photo_store import SCALES
from minidiff.data.photos import open_photographs
from minidiff.dehaze.config import ClearRequest
from minidiff.dehaze.pictures import clear_away
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import grid, name_columns
from minidiff.images.quality import psnr, ssim
from minidiff.runtime import cpu

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import dark_channel

Method = Callable[[Pixels], Pixels]
TRUTH = "the true T and A"
HALF = SCALES.index(0.5)  # photographs of 450 pixels on the shorter side
SIZE = 256  # of landscapes


class Case(NamedTuple):
    """A hazy picture as a file has it, uint8 [H,W,3], and the truth."""

    hazy: Pixels
    clear: Pixels
    pair: HazyPair


def photographs(haze: int) -> Iterator[tuple[Pixels, Floats]]:
    """The photographs that are held out, with another plausible depth for each haze."""
    every, _ = open_photographs(LoadRequest("photos", "test", 0, None, "skip"))
    for number, picture in enumerate(every.of(range(HALF, len(every), len(SCALES)))):
        picture = np.array(picture)  # a copy that can be written to, as torch wants
        yield picture, FARTHEST * plausible(picture, np.random.default_rng([3, number, haze]))


def drawn(haze: int) -> Iterator[tuple[Pixels, Floats]]:
    """Five landscapes, others for each haze."""
    for number in range(5):
        picture, depth = landscapes.draw(SIZE, np.random.default_rng([4, number, haze]))
        yield picture, (FARTHEST * np.minimum(depth / 30, 1)).astype(np.float32)


def measured(haze: int) -> Iterator[tuple[Pixels, Floats]]:
    """The stereo picture."""
    yield stereo()


SETS = {"photographs": photographs, "landscapes": drawn, "stereo": measured}
MIXED, OF_EACH = "mixed", 6  # pairs, for each haze
CLEAR, NONE = "clear", Haze(beta=(0, 0), damage=0)


def cases(name: str, haze: Haze, hazes: int) -> list[Case]:
    """Put the pictures of a set behind `hazes` hazes each."""
    found = []
    if name == MIXED:
        pairs = hazy_pairs("haze", SIZE, split="test")
        for pair in map(pairs.pair, range(OF_EACH * hazes)):
            found.append(Case(to_uint8(pair.hazy)[0], to_uint8(pair.clear)[0], pair))
        return found
    if name == CLEAR:
        name, haze, hazes = "photographs", NONE, 1
    for turn in range(hazes):
        for number, (picture, depth) in enumerate(SETS[name](turn)):
            random = np.random.default_rng([list(SETS).index(name), number, turn])
            pair = add_haze(picture, depth, haze, random)
            found.append(Case(to_uint8(pair.hazy)[0], picture, pair))
    return found


def inverted(case: Case) -> Pixels:
    """Take the haze off with the transmission and the airlight that it was made with."""
    assert case.pair.transmission is not None and case.pair.airlight is not None
    return to_uint8(invert(to_float(case.hazy[None]), case.pair.transmission, case.pair.airlight))[0]


def methods(run: DehazeRun | None, steps: list[int], starts: list[str]) -> dict[str, Method]:
    """Return the contenders by name. Stage 2 is one for each number of steps and each start."""
    found: dict[str, Method] = {"as it is": lambda hazy: hazy, "dark channel": dark_channel.dehaze}
    if run is None:
        return found
    found["stage 1"] = cleared(run, ClearRequest(steps=0))
    if run.config.stage == 2:
        for word in starts:
            start: int | Literal["auto"] | None = None if word == "noise" else "auto" if word == "auto" else int(word)
            for count in steps:
                found[f"stage 2, {count} from t = {word}"] = cleared(run, ClearRequest(steps=count, start_t=start))
    return found


def cleared(run: DehazeRun, request: ClearRequest) -> Method:
    """Dehaze as the command does."""

    def dehaze(hazy: Pixels) -> Pixels:
        guess, refined, _ = clear_away(run, to_float(hazy[None]), request)
        return to_uint8(guess.clear if refined is None else refined)[0]

    return dehaze


MEASURES: dict[str, Callable[[Pixels, Pixels], float]] = {"PSNR": psnr, "SSIM": ssim, "GMSD": gmsd, "detail": detail}


@click.command()
@click.option("--sets", default=",".join([*SETS, MIXED, CLEAR]), show_default=True)
@click.option("--hazes", type=click.IntRange(min=1), default=4, show_default=True, help="How many for each picture.")
@click.option("--dense", is_flag=True, help="Dense haze.")
@click.option("--airlight", type=click.FloatRange(0, 1), nargs=2, help="The range of its brightness.")
@click.option("--run", "place", help="A dehaze run, or the name of a model that comes with the package.")
@click.option("--steps", default=str(ClearRequest().steps), show_default=True, help="Of stage 2, with commas between.")
@click.option(
    "--start-t",
    default=str(ClearRequest().start_t),
    show_default=True,
    help="Of stage 2, with commas between; auto and noise are some, too.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Where the pictures of the first haze go.")
def main(
    sets: str, hazes: int, dense: bool, airlight: tuple[float, float] | None, place: str | None, steps: str,
    start_t: str, threads: int, sheet: Path | None,
) -> None:  # fmt: skip
    cpu.tune()
    torch.set_num_threads(threads)
    haze = replace(DENSE if dense else Haze(), damage=0)
    if airlight:
        haze = replace(haze, airlight=airlight)
    run = load_dehaze(place, precision="fp32") if place else None
    contenders = methods(run, [int(word) for word in steps.split(",")], start_t.split(","))
    print("| pictures | method | PSNR, dB | lowest | SSIM | GMSD | detail, dB | s |\n" + "| --- " * 8 + "|")
    shown = []
    for name in sets.split(","):
        given = cases(name, haze, hazes)
        answers: dict[str, list[Pixels]] = {}
        for method, dehaze in [*contenders.items(), (TRUTH, None)]:
            if name == CLEAR and method in ("as it is", TRUTH):  # they are the truth
                answers[method] = [case.hazy for case in given]
                continue
            began = time.process_time()
            answers[method] = [inverted(case) if dehaze is None else dehaze(case.hazy) for case in given]
            took = (time.process_time() - began) / len(given)
            pairs = [(answer, case.clear) for answer, case in zip(answers[method], given, strict=True)]
            found = {measure: [function(*pair) for pair in pairs] for measure, function in MEASURES.items()}
            means = {measure: np.mean(values) for measure, values in found.items()}
            print(
                f"| {name}, {len(given)} | {method} | {means['PSNR']:.2f} | {min(found['PSNR']):.2f} | "
                f"{means['SSIM']:.3f} | {means['GMSD']:.3f} | {means['detail']:.1f} | {took:.2f} |",
                flush=True,
            )
        for number in range(min(3, len(given))):
            row = [*(answers[method][number] for method in answers), given[number].clear]
            shown += [crop_resize(picture, SIZE) for picture in row]
    if sheet:
        columns = [*contenders, TRUTH, "clear"]
        write_image(sheet, name_columns(grid(np.stack(shown), len(columns)), columns))


if __name__ == "__main__":
    main()
