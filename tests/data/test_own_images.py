"""Images from a script: every form gives the same bytes, and what is no set of images is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

import minidiff
from minidiff.data.own_images import own_images
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.files import crop_resize

GREY = np.random.default_rng(0).integers(0, 256, (10, 12, 12), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
CLASSES = np.arange(10) % 3


class Pairs(Dataset[Any]):
    """What torchvision gives without a transform: pairs of a picture and a number, and the names of the classes."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.classes = images, ["cat", "dog", "owl"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(CLASSES[index])


FORMS: dict[str, Any] = {
    "bytes": COLOUR,
    "bytes, channels first": COLOUR.transpose(0, 3, 1, 2),
    "a tensor of bytes": torch.from_numpy(COLOUR),
    "a float tensor": to_float(COLOUR),
    "float64, channels last": to_float(COLOUR).permute(0, 2, 3, 1).numpy().astype(np.float64),
    "half precision": to_float(COLOUR).half(),
    "a list of arrays": list(COLOUR),
    "a list of pictures": [Image.fromarray(image) for image in COLOUR],
    "a Dataset of tensors": TensorDataset(to_float(COLOUR)),
    "a Dataset of pairs": Pairs(COLOUR),
    "an ImageData": own_images(COLOUR),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_bytes(form: str) -> None:
    """Fails when floats are cut off instead of rounded, or the axes of an array are taken for others."""
    data = own_images(FORMS[form])
    assert data.images.dtype == np.uint8 and not data.flip
    np.testing.assert_array_equal(data.images, COLOUR)
    assert data.label_names == (["cat", "dog", "owl"] if form == "a Dataset of pairs" else [])


@pytest.mark.parametrize("images", [GREY, GREY[..., None], to_float(GREY[..., None])[:, 0], Pairs(GREY)])
def test_grey_images_stay_grey(images: Any) -> None:
    np.testing.assert_array_equal(own_images(images).images, GREY[..., None])


def test_labels_are_numbers_or_zeros_and_ones() -> None:
    """The same rows from both, from a tensor, and from the pairs of a Dataset."""
    rows = np.eye(3, dtype=np.uint8)[CLASSES]
    for labels in (CLASSES, torch.from_numpy(CLASSES), list(CLASSES), rows, torch.from_numpy(rows).float(), rows > 0):
        data = own_images(COLOUR, labels)
        np.testing.assert_array_equal(data.labels, rows)
        assert data.label_names == ["0", "1", "2"]
    data = own_images(TensorDataset(to_float(COLOUR), torch.from_numpy(CLASSES)), label_names=["a", "b", "c", "d"])
    np.testing.assert_array_equal(data.labels[:, :3], rows)
    assert data.label_names == ["a", "b", "c", "d"] and not data.labels[:, 3].any()


def test_sizes() -> None:
    """28 becomes 32 by zeros; anything else is a resize of the middle square, and only if a size is asked for."""
    digits = np.full((2, 28, 28), 9, np.uint8)
    padded = own_images(digits, image_size=32).images
    assert padded.shape == (2, 32, 32, 1) and padded.sum() == 2 * 9 * 28 * 28
    assert own_images(digits).images.shape == (2, 28, 28, 1)
    wide = np.random.default_rng(2).integers(0, 256, (2, 12, 20, 3), dtype=np.uint8)
    expected = np.stack([crop_resize(image, 8) for image in wide])
    np.testing.assert_array_equal(own_images(wide, image_size=8).images, expected)
    several = [Image.fromarray(wide[0]), Image.fromarray(COLOUR[0])]
    assert own_images(several, image_size=8).images.shape == (2, 8, 8, 3)


def test_the_range_is_that_of_all_images(tmp_path: Path) -> None:
    """A bright first image alone would lie in [0, 1]. Fails when the size is taken from an image with its range."""
    images = to_float(COLOUR)
    images[0] = images[0].abs()
    job = minidiff.plan_training("ddpm", images, steps=1, batch_size=4, out=tmp_path / "run")
    np.testing.assert_array_equal(job.data.images, own_images(images).images)
    for form in (images.bfloat16(), [image.bfloat16() for image in images]):  # 8 bits of each number: 1 step of 255
        off = own_images(form).images.astype(int) - own_images(images).images
        assert abs(off).max() <= 1


BROKEN = to_float(COLOUR)
BROKEN[7, 0, 3, 3] = float("nan")
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "[0, 1]": (to_float(COLOUR) / 2 + 0.5, {}, r"lie in \[0, 1\].*images \* 2 - 1"),
    "[0, 255]": (COLOUR.astype(np.float32), {}, r"lie in \[0, 255\].*127.5"),
    "a Dataset in [0, 1]": (TensorDataset(to_float(COLOUR) / 2 + 0.5), {}, r"lie in \[0, 1\]"),
    "no range": (to_float(COLOUR) * 3, {}, "from -3 to 3.*in none of"),
    "nan": (BROKEN, {}, "image 7 .*nan"),
    "nan in a Dataset": (TensorDataset(BROKEN), {}, "image 7 .*nan"),
    "numbers": (COLOUR.astype(np.int64), {}, r"int64. Write images.astype\('uint8'\)"),
    "truth values": (COLOUR > 99, {}, "type bool. Give uint8"),
    "alpha": (np.zeros((2, 9, 9, 4), np.uint8), {}, r"\[2, 9, 9, 4\].*alpha"),
    "one image": (COLOUR[0, ..., 0], {}, r"shape \[16, 16\]. Give uint8 \[N,H,W\]"),
    "none": (COLOUR[:0], {}, "there are none"),
    "one number": (np.array(5), {}, r"shape \[\]. Give uint8"),
    "sparse": (to_float(COLOUR).to_sparse(), {}, "no array can be made of a Tensor"),
    "a dict": ({"images": COLOUR}, {}, "from a dict. Give uint8"),
    "an empty list": ([], {}, "list of images is empty"),
    "not square": (np.zeros((2, 12, 20), np.uint8), {}, "12x20 and must be square. Give `image_size`, such as 12"),
    "too small": (np.zeros((2, 4, 4), np.uint8), {}, "at least 8 pixels"),
    "a huge size": (COLOUR, {"image_size": 4000}, "`image_size` 4000 is outside"),
    "a number": (5, {}, "no images can be read from a int"),
    "a generator": ((image for image in COLOUR), {}, "Read it into a list"),
    "dicts": ([{"image": COLOUR[0]}], {}, "item 0 is a dict. Give images, or pairs"),
    "several sizes": ([COLOUR[0], GREY[0, ..., None].repeat(3, 2)], {}, "image 1 is 12x12x3.*`image_size`"),
    "grey among colour": ([COLOUR[0], COLOUR[1, ..., :1]], {}, "all grey or all colour"),
    "16 bits": ([Image.fromarray(GREY[0].astype(np.uint16))], {}, "mode I;16"),
    "labels of some": ([(COLOUR[0], 1), COLOUR[1]], {}, "item 1 has no label"),
    "labels too few": (COLOUR, {"labels": CLASSES[:9]}, "9 labels for 10 images"),
    "labels below 0": (COLOUR, {"labels": CLASSES - 1}, "label -1 is no number of a class"),
    "labels as text": (COLOUR, {"labels": ["cat"] * 10}, "type <U3"),
    "labels of several lengths": (COLOUR, {"labels": [[1], [1, 0]] * 5}, "no array can be made of a list"),
    "labels not 0 or 1": (COLOUR, {"labels": np.full((10, 2), 2)}, "not all 0 or 1"),
    "too many classes": (COLOUR, {"labels": CLASSES * 10**9}, "at most 1000"),
    "too few names": (COLOUR, {"labels": CLASSES, "label_names": ["a"]}, "1 `label_names` for 3 labels"),
    "names twice": (COLOUR, {"labels": CLASSES, "label_names": ["a", "b", "a"]}, "'a' twice"),
    "names alone": (COLOUR, {"label_names": ["a"]}, "needs `labels`"),
    "labels twice": (Pairs(COLOUR), {"labels": CLASSES}, "labels of their own"),
    "labels of a data set": ("shapes", {"labels": CLASSES}, "a data set or a folder has its own"),
    "a place for an array": (COLOUR, {"data_dir": "x"}, "here are the images themselves"),
    "an unknown set": ("shape", {}, "Did you mean 'shapes'"),
    "no such path": (Path("not/there"), {}, "does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_set_of_images_is_refused(case: str) -> None:
    """In one line, which says what is there and what to give instead."""
    images, options, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        minidiff.load_data(images, **options)
    assert "\n" not in str(caught.value)


def test_a_file_of_images(tmp_path: Path) -> None:
    """A .npy file by its path, with the labels beside it if it is called images.npy; damaged ones in one line."""
    np.save(tmp_path / "images.npy", COLOUR)
    np.save(tmp_path / "labels.npy", CLASSES)
    for place in (tmp_path / "images.npy", str(tmp_path / "images.npy")):
        data = minidiff.load_data(place)
        np.testing.assert_array_equal(data.images, COLOUR)
        assert data.name == "array" and data.label_names == ["0", "1", "2"]
    assert minidiff.load_data("array", data_dir=tmp_path, image_size=8).images.shape == (10, 8, 8, 3)
    whole = (tmp_path / "images.npy").read_bytes()
    for damaged in (whole[:-1], whole[:50], b"", whole.replace(b"(10, 16", b"(99, 16"), b"PK\3\4" + whole):
        (tmp_path / "bad.npy").write_bytes(damaged)
        with pytest.raises(UserError, match="bad.npy"):
            minidiff.load_data(tmp_path / "bad.npy")
    with pytest.raises(UserError, match=r"numpy.load\(.*\)\['arr_0'\]"):
        np.savez(tmp_path / "several.npz", COLOUR)
        minidiff.load_data(tmp_path / "several.npz")
    np.save(tmp_path / "labels.npy", CLASSES[:4])
    with pytest.raises(UserError, match=r"labels.npy: there are 4 labels for 10 images"):
        minidiff.load_data(tmp_path / "images.npy")
