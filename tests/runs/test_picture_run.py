"""Pictures in, pictures out: where the answers may go."""

from pathlib import Path

import numpy as np
import pytest

from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.runs.picture_run import places_of


def test_a_picture_is_not_its_own_answer(tmp_path: Path) -> None:
    """Also with force: work that is stopped and goes on would take the answer for the picture."""
    picture = tmp_path / "photo.png"
    write_image(picture, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="is the picture itself"):
        places_of([picture], picture, "clear.png").check(True, "clear.png")
    other = tmp_path / "other.png"
    write_image(other, np.zeros((8, 8, 3), np.uint8))
    places_of([picture], other, "clear.png").check(True, "clear.png")
