"""metrics.jsonl: what a kill or an editor leaves in it is skipped, with a word, and never a traceback."""

import json
from pathlib import Path

import pytest

from minidiff.errors import TOLD, UserError
from minidiff.runs import log
from minidiff.runs.curves import draw_curves
from minidiff.runs.log import read_metrics, seconds_of_steps

pytestmark = pytest.mark.quick

GOOD = [{"step": step, "loss": 1.5, "lr": 0.1, "images_per_second": 8.0} for step in (1, 2)]
WRONG = [
    b'{"step": 2, "loss": NaN}', b'{"step": 2, "loss": 1e999}', b'{"step": 2, "loss": true}', b'{"step": "2"}',
    b'{"step": 2, "loss": null}', b'{"step": 2.5, "loss": 1}', b'{"step": -1, "loss": 1}', b'{"step": true}',
    b'{"step": 2, "loss": [1]}', b'{"step": 2, "loss": 1, "$x_{": 1}', b'{"step": 2, "": 1}', b"[1]", b"3",
    b"", b"\xff",
    b"[" * 5000, b"{" + b" " * 20_000 + b"}", b'{"step": 1%s}' % (b"0" * 5000), b'{"step": 0, "loss": 1}',
]  # fmt: skip


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:24].decode(errors="replace"))
def test_a_line_that_is_no_record_is_left_out_with_a_word(
    line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Breaks when a value of a wrong type passes: the curves and `minidiff info` would fail on it."""
    good = [json.dumps(record).encode() for record in GOOD]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]) + b"\n")
    assert read_metrics(tmp_path) == GOOD and read_metrics(tmp_path, upto=1) == GOOD[:1]
    said = capsys.readouterr().err
    assert said.startswith(f"Warning: {tmp_path}/metrics.jsonl: line 2 is not") and said.count("\n") == 1
    TOLD.clear()


def test_a_last_line_that_a_kill_cut_is_left_out_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(json.dumps(record) + "\n" for record in GOOD)
    for cut in ("", '{"step": 3, "lo', "{" + " " * 30_000):
        (tmp_path / "metrics.jsonl").write_text(text + cut)
        assert read_metrics(tmp_path) == GOOD and not capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text(text.rstrip("\n"))  # as an editor leaves it: all of the line is there
    assert read_metrics(tmp_path) == GOOD
    monkeypatch.setattr(log, "LARGEST_LOG", 10)
    with pytest.raises(UserError, match="which no training writes"):
        read_metrics(tmp_path)


def test_records_without_some_values_are_drawn_and_summed(tmp_path: Path) -> None:
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "lr": None, "grad_norm": None},
               {"step": 2, "accuracy": None}, {"step": 3, "loss": 1e38, "images_per_second": 1e-300}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_metrics(tmp_path) == records and seconds_of_steps(records, 8) == 0
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000
