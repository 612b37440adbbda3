"""Haze taken off in two stages: what lies behind it is guessed, and a chain that sees the guess mends it.

A hazy picture is I = J T + A (1 - T): the clear picture J, of whose light the share T comes through, and the airlight A
in its place. Stage 1, a small network, guesses J, T and A of I. Where little light came through, the noise of I grew as
1/T. Stage 2 is a DDPM that is shown J and T. Its chain need not begin in pure noise: J is nearly right, so it begins at
the timestep that is as noisy as J, and one call is enough. `minidiff dehaze photo.jpg` does this with your photograph.

    python examples/dehaze.py                # seconds on a CPU; writes dehaze.png
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import minidiff
from minidiff.data.config import Haze
from minidiff.data.hazy_sets import hazy_pairs
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import table

HAZE = Haze(beta=(0.8, 1.0), airlight=(0.8, 0.9), damage=1)  # with noise and the traces of JPEG, as in a file


def main(
    which: Sequence[int] = (0, 1, 2), size: int = 256, steps: int = 1, out: str | Path = "dehaze.png"
) -> dict[str, list[float]]:
    """Clear pictures whose truth is known, in `steps` calls of stage 2. Returns the PSNR in dB of I, J and the end."""
    run = minidiff.load_dehaze("dehaze")
    pairs = hazy_pairs("hazy-landscapes", size, split="test", haze=HAZE)
    found: dict[str, list[float]] = {"hazy": [], "stage 1": [], "stage 2": []}
    images, captions = [], []
    for number in which:
        pair = pairs[number]
        guess = run.guess(pair.hazy)  # stage 1: J, T and A
        start = run.start_for(pair.hazy, guess.clear, steps)
        end = run.refine(guess, steps=steps, start_t=start)  # stage 2: from the noisy J to the clear picture
        truth = to_uint8(pair.clear)[0]
        light = (2 * guess.transmission - 1).expand_as(guess.clear)  # T as a grey picture: white is clear air
        pictures = {"hazy": pair.hazy, "T": light, "stage 1": guess.clear, "stage 2": end, "truth": pair.clear}
        captions.append(
            [f"T, {guess.transmission.mean():.2f} in the mean" if name == "T" else name for name in pictures]
        )
        for column, (name, picture) in enumerate(pictures.items()):
            images.append(to_uint8(picture.clamp(-1, 1))[0])
            if name in found:
                found[name].append(minidiff.psnr(images[-1], truth))
                captions[-1][column] = f"{name}: {found[name][-1]:.1f} dB"
        captions[-1][3] += f", from t = {start}"
    for name, values in found.items():
        print(f"{name:8} {np.mean(values):.2f} dB")
    write_image(out, table(np.stack(images), captions, [""] * len(which)))
    return found


if __name__ == "__main__":
    main()
