"""The names that help shows are those of the tables."""

import pytest

from minidiff.cli.choices import GUIDANCE_SCALE, TABLES, table
from minidiff.diffusion import guidance


@pytest.mark.parametrize("kind", TABLES)
def test_help_names_what_the_table_holds(kind: str) -> None:
    """Fails when an entry is added to a table and not to the help, or the other way round."""
    assert table(kind) == list(TABLES[kind][1])


def test_help_tells_the_true_guidance_scale() -> None:
    """Fails when the default changes and help does not."""
    assert guidance.GUIDANCE_SCALE == GUIDANCE_SCALE
