"""Damaged files of every kind end commands in one line, soon, and in little memory. See fuzzing."""

from pathlib import Path

import fuzzing
import pytest

CASES = 12  # of each kind and command


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzzing.make_workspace(tmp_path_factory.mktemp("fuzzing") / "workspace")


@pytest.mark.slow
def test_every_command_ends_well_on_whole_files(workspace: Path) -> None:
    """Without it the cases could all end in the same line, which has nothing to do with the damage."""
    for name, kind in fuzzing.KINDS.items():
        for command in kind.commands:
            outcome = fuzzing.tried(fuzzing.Case(name, (workspace / kind.file).read_bytes(), command), workspace)
            finished = "is finished: its answer is" in outcome.output  # which a resume says of whole files
            assert outcome.code == 0 or finished, f"{command}: {outcome.output}"
            assert not outcome.faults(), f"{command}: {outcome.faults()}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_a_damaged_file_ends_a_command_in_one_line(kind: str, workspace: Path) -> None:
    """Breaks when a reader believes a file: a traceback, a wait without end, or memory that the file only declares."""
    outcomes = fuzzing.count(kind, CASES, 0, workspace)
    bad = [outcome for outcome in outcomes if outcome.faults()]
    assert not bad, "\n".join(f"{each.arguments} {each.faults()} {each.code}\n{each.output[-800:]}" for each in bad)
    if kind not in fuzzing.PICTURES and not kind.endswith("metrics"):  # bad pictures and lines are left out
        assert any(outcome.code for outcome in outcomes)  # not every case was harmless
