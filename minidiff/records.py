"""Records: what a user asks for, as a typed thing that is stored as JSON and read back by the same class.

A record is a frozen dataclass whose fields are plain: numbers, texts, truth values, None, tuples and dicts of them, and
other records. Its `__post_init__` checks what a type cannot say, such as a range, and raises UserError.
`to_json` and `from_json` are the only way to a file and back. Nothing here needs torch.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, overload

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
    str: (str, "a text"),
    Path: (PathLike, "a path"),
    NoneType: (NoneType, "None"),
}


def checked_type(name: str, value: object, expected: object) -> object:
    """Return the value for a field, with a path as text where the field is a text.

    Raises UserError for a value that is of none of the plain types which the field allows. Other fields take any value.
    """
    kinds = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    if not all(kind in PLAIN for kind in kinds):
        return value
    if isinstance(value, PathLike) and str in kinds and Path not in kinds:
        return fspath(value)
    if not isinstance(value, tuple(PLAIN[kind][0] for kind in kinds)) or isinstance(value, bool):
        demand(False, name, value, listed([PLAIN[kind][1] for kind in kinds], "or"))
    return value


def demand(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise UserError unless the check of a field holds. expected: what to use instead, for the message."""
    if not holds:
        raise UserError(f"`{name}` is {shown(value)}. Use {expected}.")


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
        text = json.dumps(stored)
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {in_one_line(error.errors()[0])}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where} is no {cls.__name__} ({error}).") from None


def in_one_line(wrong: Mapping[str, Any]) -> str:
    """Say one of pydantic's errors as a sentence: "training.lr" is 'fast', and should be a valid number."""
    key = '"' + ".".join(map(str, wrong["loc"])) + '"'
    if wrong["type"] == "value_error":  # a record's own check, which does not know where the record lies
        said = str(wrong["ctx"]["error"]).replace("`", '"')  # here they are keys of a file, not arguments
        return f"in {key}, {said}" if wrong["loc"] else said
    if wrong["type"] == "missing":
        return f"{key} is missing."
    if wrong["type"] == "unexpected_keyword_argument":
        return f"{key} is not a key of this version. Remove it, or use the version that wrote the file."
    expected = wrong["msg"].removeprefix("Input ").replace("should be", "and should be", 1)
    return f"{key} is {shown(wrong['input'])}, {expected}."


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
