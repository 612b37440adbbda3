"""Every corruption at every severity, on a digit, on clothing and on a colour photograph, in one picture to look at.

The digit is drawn, as MNIST has them: white on black, 20 of 28 pixels high. Clothing is FashionMNIST's, and the
photograph scikit-image's cat, at 64x64. Writes docs/pictures/corruptions.png, or --out.
"""

from pathlib import Path

import click
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from minidiff import load_data
from minidiff.data.corrupted import all_of
from minidiff.images.convert import Pixels
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import grid, label_rows

CELL = 56  # pixels a side


def digit(text: str, size: int = 28) -> Pixels:
    """uint8 [size,size,1]."""
    font = ImageFont.load_default(200)
    large = Image.new("L", (280, 280))
    ImageDraw.Draw(large).text((140, 140), text, 255, font, anchor="mm", stroke_width=6)
    large = large.rotate(-8, Image.Resampling.BICUBIC)
    letter = large.crop(large.getbbox())
    letter.thumbnail((200, 200))
    sheet = Image.new("L", (280, 280))
    sheet.paste(letter, ((280 - letter.width) // 2, (280 - letter.height) // 2))
    return np.array(sheet.resize((size, size), Image.Resampling.LANCZOS))[..., None]


def shown(images: Pixels) -> Pixels:
    """uint8 [N,CELL,CELL,3]: small ones enlarged pixel by pixel, others smoothly."""
    if CELL % images.shape[1] == 0:
        return images.repeat(CELL // images.shape[1], axis=1).repeat(CELL // images.shape[1], axis=2)
    return np.stack([crop_resize(image, CELL) for image in images])


@click.command()
@click.option("--out", default=Path(__file__).parents[1] / "docs/pictures/corruptions.png", type=Path)
def main(out: Path) -> None:
    """Draw the picture."""
    clothes = load_data("fashion-mnist", split="test", image_size=28).images[0]
    photograph = crop_resize(skimage.data.chelsea()[:, 50:350], 64)
    rows = []
    for number, image in enumerate((digit("5"), clothes, photograph)):
        images, names = all_of(image, number, seed=0)
        cells = shown(images)
        rows.append(cells.reshape(len(names), -1, *cells.shape[1:]))
    together = np.concatenate(rows, axis=1)
    write_image(out, label_rows(grid(together.reshape(-1, *together.shape[2:]), columns=together.shape[1]), names))


if __name__ == "__main__":
    main()
