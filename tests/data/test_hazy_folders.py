"""Folders of hazy pictures and their clear partners, as NH-HAZE, Dense-Haze and RESIDE name them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.data.hazy_folders import PairFolder, open_folder
from minidiff.data.hazy_sets import hazy_pairs
from minidiff.data.image_data import LoadRequest
from minidiff.errors import UserError


def write(path: Path, number: int, height: int = 24, width: int = 30) -> None:
    """A picture of one grey level, its number, with a darker left half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), number, np.uint8)
    pixels[:, : width // 2] = number // 2
    Image.fromarray(pixels).save(path, quality=95)


def opened(root: Path, split: str = "all", on_bad: str = "skip", size: int = 16) -> PairFolder:
    return open_folder(LoadRequest("hazy-pairs", split, size, root, on_bad))


def names(folder: PairFolder, root: Path) -> list[tuple[str, str]]:
    return [(str(hazy.relative_to(root)), str(clear.relative_to(root))) for hazy, clear in folder.files]


LAYOUTS = {
    "NH-HAZE": [("01_hazy.png", "01_GT.png"), ("02_hazy.png", "02_GT.png")],
    "Dense-Haze": [("hazy/01_hazy.png", "GT/01_GT.png"), ("hazy/02_hazy.png", "GT/02_GT.png")],
    "O-HAZE": [("hazy/01_outdoor_hazy.jpg", "GT/01_outdoor_GT.jpg")],
    "ITS": [
        ("hazy/1400_1.png", "clear/1400.png"),
        ("hazy/1400_10.png", "clear/1400.png"),
        ("hazy/14_1.png", "clear/14.png"),
    ],
    "SOTS outdoor": [("hazy/0001_0.8_0.2.jpg", "clear/0001.png"), ("hazy/0010_0.95_0.16.jpg", "clear/0010.png")],
    "Haze4K": [("hazy/1_0.89_1.56.png", "clear/1.png"), ("hazy/2_0.93_1.66.png", "clear/2.png")],
    "more underscores": [("hazy/a_b_1.png", "clear/a_b.png"), ("hazy/a_1.png", "clear/a.png")],
    "the same names": [("haze/a_b.png", "gt/a_b.png"), ("haze/a.png", "gt/a.png")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_found_by_the_names_of_the_published_sets(layout: str, tmp_path: Path) -> None:
    """Fails when the name is not cut at its last underscore first, and when the case of GT matters."""
    for hazy, clear in LAYOUTS[layout]:
        write(tmp_path / hazy, 200)
        write(tmp_path / clear, 100)
    folder = opened(tmp_path)
    assert sorted(names(folder, tmp_path)) == sorted(LAYOUTS[layout])
    assert folder.notes == []


def test_a_tenth_of_the_clear_pictures_is_held_out_with_all_its_hazes(tmp_path: Path) -> None:
    """The last two of twenty, each under three hazes: no clear picture is in both splits.

    Fails when pairs are held out one by one.
    """
    for number in range(20):
        write(tmp_path / "clear" / f"{number:04d}.png", number)
        for haze in range(3):
            write(tmp_path / "hazy" / f"{number:04d}_{haze}.png", 100 + number)
    train, test = opened(tmp_path, "train"), opened(tmp_path, "test")
    assert len(train.files) == 54
    assert sorted({clear.name for _, clear in test.files}) == ["0018.png", "0019.png"]
    assert {clear for _, clear in train.files} & {clear for _, clear in test.files} == set()


def test_of_the_55_of_nh_haze_the_last_five_are_held_out(tmp_path: Path) -> None:
    for number in range(1, 56):
        write(tmp_path / f"{number:02d}_hazy.png", 3)
        write(tmp_path / f"{number:02d}_GT.png", 4)
    assert [hazy.name for hazy, _ in opened(tmp_path, "test").files] == [f"{n}_hazy.png" for n in range(51, 56)]


def test_a_crop_shows_the_same_place_of_both_pictures(tmp_path: Path) -> None:
    """The edge between the halves is in the same column. Fails when one of them is cut or mirrored alone."""
    write(tmp_path / "1_hazy.png", 200, 60, 80)
    write(tmp_path / "1_GT.png", 100, 60, 80)
    pairs = hazy_pairs("hazy-pairs", 16, data_dir=tmp_path, split="all")
    batch = pairs[:40]
    assert batch.hazy.shape == (40, 3, 16, 16) and batch.transmission is batch.airlight is batch.depth is None
    steps = [(part[:, 0].diff(dim=2)).flatten(1) for part in (batch.hazy, batch.clear)]
    seen = steps[0].abs().amax(1) > 0.1
    assert seen.sum() > 5 and torch.equal(steps[0].abs().argmax(1)[seen], steps[1].abs().argmax(1)[seen])
    signs = steps[0].sum(1)[seen].sign()
    assert (signs > 0).any() and (signs < 0).any()  # mirrored, and not
    assert torch.equal(pairs[7].hazy, hazy_pairs("hazy-pairs", 16, data_dir=tmp_path, split="all")[7].hazy)


def test_the_border_of_resides_indoor_pictures_is_cut_off(tmp_path: Path) -> None:
    """Ten pixels on each side of the clear picture. Fails when it is scaled, or cut at one corner."""
    clear = np.zeros((44, 50, 3), np.uint8)
    clear[10:34, 10:40] = 77
    write(tmp_path / "hazy" / "1_1.png", 200)
    (tmp_path / "clear").mkdir()
    Image.fromarray(clear).save(tmp_path / "clear" / "1.png")
    whole = opened(tmp_path).whole(0)
    assert whole.clear.shape == whole.hazy.shape == (1, 3, 24, 30)
    assert torch.allclose(whole.clear, torch.tensor(2 * 77 / 255 - 1))


def faulty(tmp_path: Path) -> Path:
    write(tmp_path / "hazy" / "1.png", 1)
    write(tmp_path / "clear" / "1.png", 1)
    return tmp_path


def test_faults_are_noted_or_end_it(tmp_path: Path) -> None:
    """Each in one line that names the file. Fails when one of the checks is left out."""
    root = faulty(tmp_path)
    write(root / "hazy" / "2.png", 1)
    write(root / "hazy" / "3.png", 1)
    write(root / "clear" / "3.png", 1, 24, 31)
    write(root / "clear" / "4.png", 1)
    folder = opened(root)
    assert len(folder.files) == 1 and len(folder.notes) == 1
    for part in (
        "3 faults",
        "hazy/2.png has no clear partner",
        "3.png is 30x24",
        "31x24",
        "1 clear picture has no hazy",
    ):
        assert part in folder.notes[0]
    with pytest.raises(UserError, match=r"hazy/2\.png has no clear partner"):
        opened(root, on_bad="stop")


def test_folders_without_pairs_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "no")
    with pytest.raises(UserError, match="holds no hazy pictures"):
        opened(tmp_path)
    write(tmp_path / "hazy" / "1.png", 1)
    with pytest.raises(UserError, match="holds no clear pictures"):
        opened(tmp_path)
    write(tmp_path / "GT" / "2.png", 1)
    with pytest.raises(UserError, match=r"no pair .* hazy/1\.png has no clear partner"):
        opened(tmp_path)
    write(tmp_path / "GT" / "1.png", 1)
    with pytest.raises(UserError, match="none is held out"):
        opened(tmp_path, "test")
    with pytest.raises(UserError, match=r"1\.png is smaller than 25x25"):
        opened(tmp_path, size=25)
    with pytest.raises(UserError, match="needs `data_dir`"):
        hazy_pairs("hazy-pairs")


def test_a_file_that_is_no_picture_is_left_out(tmp_path: Path) -> None:
    root = faulty(tmp_path)
    write(root / "clear" / "2.png", 1)
    (root / "hazy" / "2.png").write_text("no picture")
    folder = opened(root)
    assert len(folder.files) == 1 and "2.png is not a readable image" in folder.notes[0]
