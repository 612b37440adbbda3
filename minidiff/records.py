"""Records: what a user asks for, as a typed thing that is stored as JSON and read back by the same class.

A record is a frozen dataclass whose fields are plain: numbers, texts, truth values, None, tuples and dicts of them, and
other records. Its `__post_init__` checks what a type cannot say, such as a range, and raises UserError.
`to_json` and `from_json` are the only way to a file and back. Nothing here needs torch.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, overload

from typing_extensions import dataclass_transform

from minidiff.errors import UserError, listed, shown

Record = TypeVar("Record")
Record_co = TypeVar("Record_co", covariant=True)
First = TypeVar("First")
Second = TypeVar("Second")
Third = TypeVar("Third")
Result = TypeVar("Result")
P = ParamSpec("P")  # the fields of a record


@dataclass_transform(frozen_default=True)
def record(cls: type[Record]) -> type[Record]:
    """Make a class a record: `dataclass(frozen=True)`, of which `from_json` refuses unknown keys and NaN.

    It raises UserError for a number, a text or a path of the wrong type, also when a script makes it. It can be read
    like a dict, too: `config["data"]["name"]` is what scripts wrote before there were records.
    """
    setattr(cls, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010
    setattr(cls, "__getitem__", lambda self, name: getattr(self, name))  # noqa: B010
    made = dataclass(frozen=True)(cls)
    init, parameters = made.__init__, list(signature(made).parameters)
    expected = {each.name: each.type for each in fields(made)}  # type: ignore[arg-type]

    @wraps(init)
    def checked(self: Any, *given: Any, **named: Any) -> None:
        values = [checked_type(name, value, expected.get(name)) for name, value in zip(parameters, given, strict=False)]
        more = {name: checked_type(name, value, expected.get(name)) for name, value in named.items()}
        init(self, *values, *given[len(values) :], **more)

    setattr(made, "__init__", checked)  # noqa: B010
    return made


# What may be given for a field of a plain type, and how to say it. A truth value is no number here.
PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (Integral, "True or False"),  # 1 and 0, too
    str: (str, "a text"),
    Path: (PathLike, "a path"),
    NoneType: (NoneType, "None"),
}
LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, 1e38  # what torch can hold as int64, and as float32
LONGEST = 100_000  # characters of a text: no name, path or message is longer


def checked_type(name: str, value: object, expected: object) -> object:
    """Return the value for a field, as a plain type: a path as text where the field is a text, a list as a tuple.

    Raises UserError for a value that is of none of the types which the field allows, and for a number or a text beyond
    the limits above. A field of another type, such as a function or a tensor, takes any value.
    """
    kinds = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    if not all(is_checked(kind) for kind in kinds):
        return value
    if isinstance(value, PathLike) and str in kinds and Path not in kinds:
        value = fspath(value)
    for kind in sorted(kinds, key=lambda kind: kind is bool and not isinstance(value, bool)):
        if fits(value, kind):
            return plain(name, value, kind)
    told = listed([word for kind in kinds for word in in_words(kind)], "or")
    raise UserError(f"`{name}` is {shown(value)}. Use {told}.")


def is_checked(kind: object) -> bool:
    """Tell whether values of this type are checked when a script makes a record."""
    return kind in PLAIN or get_origin(kind) in (Literal, tuple, dict) or is_dataclass(kind)


def fits(value: object, kind: Any) -> bool:
    """Tell whether a value is of a field's type, regardless of what is inside a tuple or a dict."""
    if get_origin(kind) is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if get_origin(kind) is dict:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, Integral) and value in (0, 1)  # True is an Integral, too
    return isinstance(value, PLAIN[kind][0] if kind in PLAIN else kind) and not isinstance(value, bool)


def in_words(kind: Any) -> list[str]:
    """Say what may be given for a field of this type."""
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    if get_origin(kind) is tuple:
        return ["a list"]
    if get_origin(kind) is dict:
        return ["a dict"]
    return [PLAIN[kind][1] if kind in PLAIN else f"a {kind.__name__}"]


def plain(name: str, value: Any, kind: Any) -> object:
    """Return a value that fits a type, as what JSON can hold, with what is inside it checked. Raises UserError."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        each = inner[:1] * len(value) if inner[1:] == (...,) else inner
        demand(len(each) == len(value), name, value, f"{len(each)} values")
        return tuple(checked_type(name, entry, kind) for entry, kind in zip(value, each, strict=True))
    if get_origin(kind) is dict:
        of_key, of_value = get_args(kind)
        return {checked_type(name, key, of_key): checked_type(name, entry, of_value) for key, entry in value.items()}
    if kind is bool:
        return bool(value)
    if isinstance(value, Real):
        value = int(value) if isinstance(value, Integral) else float(value)  # numpy's are no numbers to JSON
    demand_limits(name, value)
    return value


def demand_limits(name: str, value: object) -> None:
    """Raise UserError for a number or a text that is larger than any that has a meaning here."""
    if isinstance(value, int):
        demand(abs(value) <= LARGEST_INT, name, value, "a number below 10^18")
    elif isinstance(value, float):
        demand(abs(value) <= LARGEST_FLOAT, name, value, "a finite number below 10^38")
    elif isinstance(value, str):
        demand(len(value) <= LONGEST and "\0" not in value, name, value, "a shorter text, without the character 0")


def demand(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise UserError unless the check of a field holds. expected: what to use instead, for the message."""
    if not holds:
        raise UserError(f"`{name}` is {shown(value)}. Use {expected}.")


def demand_range(record: object, low: float, high: float, *names: str) -> None:
    """Raise UserError unless each of these fields is None, or lies from low to high, both included."""
    for name in names:
        value = getattr(record, name)
        demand(value is None or low <= value <= high, name, value, f"a number from {low:,} to {high:,}")


def to_json(value: object) -> dict[str, Any]:
    """Turn a record into JSON's types: dicts with every field by its name, and lists for tuples."""
    stored: dict[str, Any] = json.loads(json.dumps(asdict(value), allow_nan=False))  # type: ignore[call-overload]
    return stored


def from_json(cls: type[Record], stored: Mapping[str, Any], where: object) -> Record:
    """Make the record that `stored` holds, and check it. where: the file, for the message.

    Raises UserError for a value of a wrong type, a key that is missing or unknown, and what the record itself refuses.
    The line names the key, the value and what was expected.
    """
    from pydantic import TypeAdapter, ValidationError  # only where something is read: it takes 80 ms

    try:
        check_limits(stored)
        text = json.dumps(stored)
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {in_one_line(nearest(error.errors())[0])}") from None
    except UserError as error:
        raise UserError(f"{where}: {as_keys(str(error))}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where} is no {cls.__name__} ({error}).") from None


def check_limits(stored: object, key: str = "") -> None:
    """Raise UserError, which names the key, for a number or a text in a JSON value that is beyond the limits."""
    if isinstance(stored, Mapping):
        for name, value in stored.items():
            demand_limits("a key", name)
            check_limits(value, f"{key}.{name}" if key else name)
    elif isinstance(stored, list | tuple):
        for place, value in enumerate(stored):
            check_limits(value, f"{key}.{place}")
    elif not isinstance(stored, float) or math.isfinite(stored):  # pydantic refuses NaN, and knows what was expected
        demand_limits(key, stored)


def as_keys(message: str) -> str:
    """Name what is in backticks as a key of a file, in quotes, in place of an argument."""
    return message.replace("`", '"')


def nearest(wrong: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the errors of the records that a value does not mean, where it may be one of several.

    pydantic tries every record and puts its name into the place of an error. The one with the fewest errors is meant.
    """

    def member(each: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return where the name of a record comes in a place, and that name. Keys of files begin in lower case."""
        return next(((*each["loc"][:at], name) for at, name in enumerate(each["loc"]) if str(name)[:1].isupper()), ())

    first = member(wrong[0])
    if not first:
        return list(wrong)
    of_each: dict[Any, list[Mapping[str, Any]]] = {}
    for each in wrong:
        if member(each)[:-1] == first[:-1]:
            of_each.setdefault(member(each), []).append(each)
    meant = min(of_each.values(), key=len)
    at = len(first) - 1
    return [{**each, "loc": (*each["loc"][:at], *each["loc"][at + 1 :])} for each in meant]


def in_one_line(wrong: Mapping[str, Any]) -> str:
    """Say one of pydantic's errors as a sentence: "training.lr" is 'fast', and should be a valid number."""
    key = quoted(".".join(str(part) for part in wrong["loc"]))
    if wrong["type"] == "value_error":  # a record's own check, which does not know where the record lies
        said = as_keys(str(wrong["ctx"]["error"]))
        return f"in {key}, {said}" if wrong["loc"] else said
    if wrong["type"] == "missing":
        return f"{key} is missing."
    if wrong["type"] == "unexpected_keyword_argument":
        return f"{key} is not a key of this version. Remove it, or use the version that wrote the file."
    expected = wrong["msg"].removeprefix("Input ").replace("should be", "and should be", 1)
    return f"{key} is {shown(wrong['input'])}, {expected}."


def quoted(key: str) -> str:
    """Write a key in quotes, short and in one line, whatever characters it has."""
    text = json.dumps(key, ensure_ascii=not key.isprintable())
    return text if len(text) <= 80 else text[:76] + '..."'


# --- the fields of a record as the keywords of a function ----------------------------------------------------------


class Taking(Protocol[P, Record_co]):
    """What `takes` returns: a decorator for a function of a record, with up to three arguments before it."""

    @overload
    def __call__(self, function: Callable[[Record_co], Result], /) -> Callable[P, Result]: ...
    @overload
    def __call__(
        self, function: Callable[[First, Record_co], Result], /
    ) -> Callable[Concatenate[First, P], Result]: ...
    @overload
    def __call__(
        self, function: Callable[[First, Second, Record_co], Result], /
    ) -> Callable[Concatenate[First, Second, P], Result]: ...
    @overload
    def __call__(
        self, function: Callable[[First, Second, Third, Record_co], Result], /
    ) -> Callable[Concatenate[First, Second, Third, P], Result]: ...


def takes(cls: Callable[P, Record]) -> Taking[P, Record]:
    """Let a function whose last argument is a record be called with the record's fields instead.

    So the fields are named once, in the record, and an editor still completes them:

        @takes(SampleRequest)
        def sample(run: Run, request: SampleRequest) -> Iterator[Tensor]: ...

        sample(run, 64, steps=20)  # request is SampleRequest(64, steps=20)
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(signature(function).parameters.values())
        before = len(parameters) - 1

        @wraps(function)
        def call(*given: Any, **fields: Any) -> Any:
            return function(*given[:before], cls(*given[before:], **fields))

        own = list(signature(cls).parameters.values())
        call.__signature__ = signature(function).replace(parameters=parameters[:before] + own)  # type: ignore[attr-defined]
        return call

    return decorate
