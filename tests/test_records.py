"""Records go to JSON and back unchanged, and what is wrong in a file is one line that names key and value."""

import inspect
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from minidiff.errors import UserError
from minidiff.records import from_json, record, takes, to_json


@record
class Inner:
    lr: float = 1e-3
    steps: int = 3
    decay: Literal["constant", "cosine"] = "constant"
    channels: tuple[int, ...] = (1, 2)
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps {self.steps} must be 1 or more.")


@record
class Outer:
    kind: str
    inner: Inner = Inner()
    place: dict[str, str] | None = None


def test_there_and_back() -> None:
    for value in (Outer("a"), Outer("b", Inner(0.5, 7, "cosine", (), 1.0), {"x": "y"})):
        assert from_json(Outer, to_json(value), "config.json") == value
    assert to_json(Outer("a"))["inner"]["channels"] == [1, 2]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"kind": "a", "inner": {"lr": "fast"}}, """"inner.lr" is 'fast', and should be a valid number"""),
        ({"kind": "a", "inner": {"steps": True}}, '"inner.steps" is True'),
        ({"kind": "a", "inner": {"steps": 1.5}}, '"inner.steps" is 1.5'),
        ({"kind": "a", "inner": {"steps": 0}}, "steps 0 must be 1 or more"),
        ({"kind": "a", "inner": {"lr": float("nan")}}, '"inner.lr" is nan'),
        ({"kind": "a", "inner": {"decay": "linear"}}, "'constant' or 'cosine'"),
        ({"kind": "a", "inner": {"channels": [1, "two"]}}, """"inner.channels.1" is 'two'"""),
        ({"kind": "a", "inner": {"channels": "12"}}, '"inner.channels" is'),
        ({"kind": "a", "inner": None}, '"inner" is None'),
        ({"kind": "a", "inner": {"rate": 1}}, '"inner.rate" is not a key'),
        ({"kind": "a", "more": 1}, '"more" is not a key'),
        ({}, '"kind" is missing'),
        ({"kind": None}, '"kind" is None'),
    ],
)
def test_what_is_wrong_is_named(stored: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        from_json(Outer, stored, "config.json")
    assert str(error.value).startswith("config.json: ") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_deep_nesting_is_one_line() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"kind": deep}
    with pytest.raises(UserError, match=r"config\.json"):
        from_json(Outer, deep, "config.json")


def test_a_function_takes_the_fields_of_a_record() -> None:
    @takes(Inner)
    def alone(inner: Inner) -> Inner:
        return inner

    class Owner:
        @takes(Inner)
        def after_self(self, inner: Inner) -> tuple["Owner", Inner]:
            return self, inner

    owner = Owner()
    assert alone(0.5, steps=7) == Inner(0.5, 7)
    assert owner.after_self(steps=7) == (owner, Inner(steps=7))
    assert list(inspect.signature(owner.after_self).parameters) == ["lr", "steps", "decay", "channels", "clip"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        alone(rate=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": "3"}, "`steps` is '3'. Use a whole number."),
        ({"steps": True}, "`steps` is True. Use a whole number."),
        ({"steps": 1.5}, "`steps` is 1.5. Use a whole number."),
        ({"lr": "fast"}, "`lr` is 'fast'. Use a number."),
        ({"clip": "1"}, "`clip` is '1'. Use a number or None."),
    ],
)
def test_a_script_is_told_of_a_wrong_type(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        Inner(**wrong)
    assert str(error.value) == said
    assert Inner(lr=1, clip=None, steps=np.int64(4)).steps == 4


def test_a_record_can_be_read_like_a_dict() -> None:
    assert Outer("a", Inner(steps=7))["inner"]["steps"] == 7  # type: ignore[index]


def test_a_path_may_be_given_for_a_text() -> None:
    assert Outer(Path("a") / "b").kind == str(Path("a") / "b")  # type: ignore[arg-type]
    assert to_json(Outer(kind=Path("c")))["kind"] == "c"  # type: ignore[arg-type]
