"""A stream of images arrives whole, in order, in any of three forms, and nothing of anyone else's is lost for it."""

import os
from pathlib import Path

import numpy as np
import pytest

from minidiff.errors import UserError
from minidiff.images.files import read_image, read_images
from minidiff.images.sink import ImageSink


class TestSink:
    images = np.stack([np.full((8, 8, 3), k, np.uint8) for k in range(6)])

    def test_array(self, tmp_path: Path) -> None:
        with ImageSink(tmp_path / "all.npz") as sink:
            sink.write(self.images[:4])
            sink.write(self.images[4:])
            assert sink.finish() == f"6 images: {tmp_path / 'all.npz'}"
        with np.load(tmp_path / "all.npz") as archive:
            assert archive["images"].dtype == np.uint8 and (archive["images"] == self.images).all()
        assert os.listdir(tmp_path) == ["all.npz"]

    def test_folder(self, tmp_path: Path) -> None:
        with ImageSink(tmp_path / "all") as sink:
            sink.write(self.images)
            sink.finish()
        assert sorted(os.listdir(tmp_path / "all"))[:2] == ["000000.png", "000001.png"]
        assert (read_images(tmp_path / "all", 8) == self.images).all()

    def test_grid_says_how_many_it_shows(self, tmp_path: Path) -> None:
        with ImageSink(tmp_path / "all.png") as sink:
            for _ in range(50):
                sink.write(self.images)
            assert sink.finish().startswith("300 images") and len(sink.shown) == 256

    def test_one_image_is_a_plain_picture(self, tmp_path: Path) -> None:
        with ImageSink(tmp_path / "one.png") as sink:
            sink.write(self.images[3:4])
            assert sink.finish() == f"1 image of 8x8: {tmp_path / 'one.png'}"
        assert np.array_equal(read_image(tmp_path / "one.png"), self.images[3])

    @pytest.mark.parametrize("name", ["all.npz", "all.png", "all"])
    def test_nothing_is_overwritten_and_nothing_left_behind(self, tmp_path: Path, name: str) -> None:
        target = tmp_path / name
        if target.suffix:
            target.write_text("mine")
        else:
            target.mkdir()
            (target / "mine").touch()
        with pytest.raises(UserError, match="exists. Give another `out`, or `force`"):
            ImageSink(target)
        if not target.suffix:
            with pytest.raises(UserError, match="holds more than samples"):
                ImageSink(target, overwrite=True)
            return
        with pytest.raises(KeyboardInterrupt), ImageSink(target, overwrite=True) as sink:
            sink.write(self.images)
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == [name]
        assert target.read_text() == "mine"

    def test_what_a_kill_left_is_cleared(self, tmp_path: Path) -> None:
        """kill -9 in the middle of writing leaves working files in a folder: ours, and not in the way of --force."""
        target = tmp_path / "all"
        target.mkdir()
        for name in ("000000.png", ".000001.png.tmp4711", ".000002.png.tmp-a-host-4711", ".all.raw.tmp-a-host-9"):
            (target / name).touch()
        with ImageSink(target, overwrite=True) as sink:
            sink.write(self.images[:1])
            sink.finish()
        assert os.listdir(target) == ["000000.png"]
        (target / ".000001.png.tmp-of-mine").touch()
        with pytest.raises(UserError, match="holds more than samples"):
            ImageSink(target, overwrite=True)

    def test_an_interrupt_while_an_image_is_written_leaves_no_part_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt), ImageSink(tmp_path / "all") as sink:
            sink.write(self.images)
        assert os.listdir(tmp_path / "all") == []

    def test_a_folder_is_not_a_mixture(self, tmp_path: Path) -> None:
        """Two images over five: the last three of the earlier sampling are gone."""
        for count in (5, 2):
            with ImageSink(tmp_path / "all", overwrite=True) as sink:
                sink.write(self.images[:count])
                sink.finish()
        assert sorted(os.listdir(tmp_path / "all")) == ["000000.png", "000001.png"]

    def test_unknown_and_unwritable_places(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="Give a .png, a .npz, or a folder"):
            ImageSink(tmp_path / "all.txt")
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot write|is a file"):
            ImageSink(tmp_path / "file" / "all.png")
