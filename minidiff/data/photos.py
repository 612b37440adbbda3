"""The data set `photos`: random crops of real photographs, from Debian's packages of wallpapers or a folder of yours.

Rests on photo_store (decode once) and crops (an array of crops). The photographs of scikit-image are not among these:
they are what restorations are measured on.
"""

from pathlib import Path

import numpy as np

from minidiff.data.corrupted import seed_of
from minidiff.data.crops import Crops
from minidiff.data.image_data import ImageData, LoadRequest
from minidiff.data.photo_store import SCALES, SHORTER, Photographs, PhotoStore
from minidiff.data.picture_sets import images_below, name_of_place
from minidiff.errors import UserError, lookup
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels

COUNTS = {"train": 100_000, "test": 4_000}  # crops, which are an epoch
SHARE = Path("/usr/share")  # where the packages lie

# The photographs among the wallpapers; the rest is drawn. docs/data.md has their authors and licences.
PACKAGES = {
    "mate-backgrounds": [
        f"backgrounds/mate/nature/{name}.jpg"
        for name in (
            "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm",
            "TwoWings", "Wood", "YellowFlower",
        )
    ],
    "lomiri-wallpapers-16.04": [
        f"backgrounds/{name}.jpg"
        for name in (
            "aitzgorri_by_Aitzol_Berasategi", "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly",
            "free_by_Peter_Nerlich", "friends_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich",
            "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi", "Picture_0B_by_freespace",
            "Picture_1A_by_freespace", "seeding_by_Clements_Engelhardt", "sunset_by_Aitzol_Berasategi",
            "Wine_by_Jakkub_Mede",
        )
    ],
    "lomiri-wallpapers-20.04": ["backgrounds/Kleiber_by_Lukas_Baubkus.jpg"],
    "plasma-workspace-wallpapers": [
        f"wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
            "OneStandsOut", "Path", "summer_1am",
        )
    ],
}  # fmt: skip
HELD_OUT = {  # leaves, lines before the sky, dogs at a house, a mountain, bokeh: the split `test`
    "backgrounds/mate/nature/RainDrops.jpg",
    "backgrounds/Bridge_by_Sander_Klootwijk.jpg",
    "backgrounds/friends_by_Aitzol_Berasategi.jpg",
    "backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg",
    "wallpapers/FallenLeaf/contents/images/2560x1600.jpg",
}


def load_photos(request: LoadRequest) -> ImageData:
    """Load crops of photographs, of the size asked for. They have no labels.

    Half of the crops are mirrored already. Training may still mirror them: so a crop is not the same in every epoch.
    """
    size, copies = request.image_size, len(SCALES)
    photographs, notes = open_photographs(request)
    shorter = [min(photograph.shape[:2]) for photograph in photographs]
    fitting = [number for number, side in enumerate(shorter) if side >= size]
    if not fitting:
        raise UserError(
            f"no crop of {size}x{size} fits into the photographs, whose shorter sides have at most {max(shorter)} "
            f"pixels. Take an `image_size` of at most {max(shorter)}."
        )
    if small := sum(side < size for side in shorter[::copies]):
        notes.append(f"{small} of {len(shorter) // copies} photographs are smaller than {size}x{size} and are left out")
    crops = Crops(photographs.of(fitting), size, COUNTS[request.split], seed_of(request.split))
    labels = np.zeros((len(crops), 0), np.uint8)
    return ImageData(request.name, crops, labels, [], flip=True, notes=notes)


def load_photographs(
    data_dir: str | Path | None = None, split: str = "train", on_bad: str = "skip", max_pixels: int = MAX_PIXELS
) -> list[Pixels]:
    """Load whole photographs: uint8 [H,W,3] each, read-only, with at most 900 pixels on the shorter side.

    data_dir: a folder of photographs, which has the one split `train`; by default they are those of Debian's packages.
    Raises UserError.
    """
    folder = Path(data_dir).expanduser() if data_dir else None
    return list(open_photographs(LoadRequest("photos", split, SHORTER, folder, on_bad, max_pixels))[0])[:: len(SCALES)]


def open_photographs(request: LoadRequest) -> tuple[Photographs, list[str]]:
    """Open the photographs of a split, the copies of each one after the other, and note what is missing."""
    lookup("split of photos", request.split, COUNTS)
    if request.data_dir is None:
        root, (names, notes) = SHARE, in_packages()
        wanted = {name for name in names if (name in HELD_OUT) == (request.split == "test")}
        place = "photos"
    else:
        if request.split != "train":
            raise UserError("a folder of photographs has the one split 'train'. Give another folder as `data_dir`.")
        (root, names), notes = images_below(request.data_dir), []
        wanted, place = {*names}, f"photos-{name_of_place(root)}"
    store = PhotoStore(place, root, names, request.on_bad, request.max_pixels).load()
    notes += store.notes
    rows = [row for row, number in enumerate(store.kept) if names[number] in wanted]
    if not rows:
        raise UserError(f"no photograph of the split '{request.split}' can be read: {'; '.join(notes)}.")
    return store.photographs.of([len(SCALES) * row + copy for row in rows for copy in range(len(SCALES))]), notes


def in_packages() -> tuple[list[str], list[str]]:
    """Find the photographs of Debian's packages below SHARE, and note what is not there. Raises UserError for none."""
    every = [name for names in PACKAGES.values() for name in names]
    found = [name for name in every if (SHARE / name).is_file()]
    lacking = [package for package, names in PACKAGES.items() if not {*names} <= {*found}]
    install = f"apt install {' '.join(lacking)}"
    if not found:
        raise UserError(
            f"the photographs are not on this machine. On Debian: {install}. Elsewhere, give a folder of photographs "
            "as `data_dir`."
        )
    absent = len(every) - len(found)
    return found, [f"{absent} of {len(every)} photographs are not on this machine: {install}"] if absent else []


def present(data_dir: Path | None) -> bool:
    """Tell whether there are photographs."""
    if data_dir is not None:
        return data_dir.is_dir()
    return any((SHARE / name).is_file() for names in PACKAGES.values() for name in names)
