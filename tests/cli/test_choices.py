"""The names that help shows are those of the tables."""

import pytest

from minidiff.cli.choices import TABLES, table


@pytest.mark.parametrize("kind", TABLES)
def test_help_names_what_the_table_holds(kind: str) -> None:
    """Fails when an entry is added to a table and not to the help, or the other way round."""
    assert table(kind) == list(TABLES[kind][1])
