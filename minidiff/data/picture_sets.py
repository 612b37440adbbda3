"""Sets of image files: a folder of your own, CelebA, iCLEVR.

Rests on cache (decode once) and iclevr (the tables of labels).
Liu et al. 2015 (CelebA), El-Nouby et al. 2019 (iCLEVR).
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from minidiff.data import iclevr
from minidiff.data.cache import Files, cache_dir, image_paths, threads
from minidiff.data.downloads import download, read_attributes
from minidiff.data.image_data import ImageData, LoadRequest, one_hot
from minidiff.errors import UserError
from minidiff.images.files import IMAGE_SUFFIXES

MAX_FOLDER_LABELS = 1000  # more sub-folders are not classes


def load_folder(request: LoadRequest) -> ImageData:
    """Load any tree of images. Its first-level sub-folders are the labels, if there are two or more."""
    if request.data_dir is None:
        raise UserError("the data set 'folder' needs `data_dir`, the folder with your images.")
    root, paths = images_below(request.data_dir)
    place = f"folder-{request.image_size}-{name_of_place(root)}"
    files = Files(place, root, paths, request.image_size, request.on_bad, max_pixels=request.max_pixels).load(threads())
    kinds = [named(paths[i].split(os.sep)[0]) if os.sep in paths[i] else "" for i in files.kept]
    names, notes = sorted(set(kinds) - {""}), list(files.notes)
    if len(names) > MAX_FOLDER_LABELS:
        notes.append(f"{len(names)} sub-folders are too many for labels (at most {MAX_FOLDER_LABELS})")
    if len(set(kinds)) < 2 or len(names) > MAX_FOLDER_LABELS:
        names = []
    number = {name: i for i, name in enumerate(names)}
    labels = one_hot([number.get(kind, -1) for kind in kinds], len(names))
    return ImageData(request.name, files.images, labels, names, flip=True, notes=notes)


def images_below(data_dir: Path) -> tuple[Path, list[str]]:
    """Return the absolute path of a folder, and the image files below it. Raises UserError if there are none."""
    root = Path(os.path.abspath(data_dir))
    if not root.is_dir():
        raise UserError(f"`data_dir` {data_dir} {'is a file, not a folder' if root.exists() else 'does not exist'}.")
    paths = image_paths(root)
    if not paths:
        raise UserError(f"{data_dir} holds no image files ({' '.join(IMAGE_SUFFIXES)}).")
    return root, paths


def name_of_place(root: Path) -> str:
    """Return a short name for a folder, for the names of files in the cache."""
    return hashlib.sha256(str(root).encode()).hexdigest()[:12]


def named(folder: str) -> str:
    """Return the label that a sub-folder stands for. Bytes that are not characters, unknown to JSON, become `?`."""
    return folder.encode(errors="replace").decode()


CELEBA_FIRST = {"train": 1, "valid": 162_771, "test": 182_638}  # list_eval_partition.txt of the authors, in short
CELEBA_COUNT = {"train": 162_770, "valid": 19_867, "test": 19_962}


def celeba_root(data_dir: Path | None) -> Path | None:
    """Find the folder that holds the faces."""
    root = data_dir or cache_dir()
    return next((folder for folder in (root / "celeba", root) if (folder / "img_align_celeba").is_dir()), None)


def load_celeba(request: LoadRequest) -> ImageData:
    """Load the aligned and cropped faces, 178x218. Their 40 attributes are the labels, if the file is there."""
    if celeba_root(request.data_dir) is None:
        files = "the folder img_align_celeba (unzipped) and list_attr_celeba.txt"
        download(request.name, "CelebA", request.root / "celeba", f"{files} into {request.root / 'celeba'}")
    root = celeba_root(request.data_dir) or request.root
    pictures = root / "img_align_celeba"
    first = CELEBA_FIRST[request.split]
    names = {f"{number:06d}.jpg" for number in range(first, first + CELEBA_COUNT[request.split])}
    paths = sorted(name for name in os.listdir(pictures) if name in names)
    if not paths:
        raise UserError(f"{pictures} holds none of {min(names)} to {max(names)}. Unzip it again.")
    place = f"celeba-{request.split}-{request.image_size}"
    loaded = Files(place, pictures, paths, request.image_size, request.on_bad, max_pixels=request.max_pixels).load(
        threads()
    )
    kept, notes = [paths[i] for i in loaded.kept], list(loaded.notes)
    if len(paths) < len(names):
        notes.append(f"{len(names) - len(paths)} of the {len(names)} images of this split are not in {pictures}")
    listed = root / "list_attr_celeba.txt"
    if listed.is_file():
        labels, attributes = read_attributes(listed, kept)
    else:
        labels, attributes = np.zeros((len(kept), 0), np.uint8), []
        notes.append(f"without labels: {listed} does not exist")
    return ImageData(request.name, loaded.images, labels, attributes, flip=True, notes=notes)


def load_iclevr(request: LoadRequest) -> ImageData:
    """Load iCLEVR's scenes, or what `minidiff data export` writes; see `iclevr.py` for the files.

    The 320x240 images are squeezed into a square, because the labels include solids outside the centre square. The
    lamps have fixed sides, so the images must not be mirrored.
    """
    if request.data_dir is None:
        raise UserError("the data set 'iclevr' needs `data_dir`, the folder with objects.json, train.json and images.")
    root = Path(os.path.abspath(request.data_dir))
    names = iclevr.read_names(root)
    listed = iclevr.read_listing(root, request.split, names)
    folder, paths, notes = iclevr.find_images(root, iclevr.listing(request.split), list(listed), request.on_bad)
    place = f"iclevr-{request.split}-{request.image_size}-{name_of_place(root)}"
    files = Files(place, folder, paths, request.image_size, request.on_bad, True, request.max_pixels).load(threads())
    labels = np.zeros((len(files.kept), len(names)), np.uint8)
    for row, kept in enumerate(files.kept):
        labels[row, listed[paths[kept]]] = 1
    return ImageData(request.name, files.images, labels, names, flip=False, notes=notes + files.notes)
