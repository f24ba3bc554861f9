"""Frozen dataclasses as JSON and back, strictly: what does not fit its annotation is an error that names its place."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nodulens.errors import NodulensError, UnreadableFile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,), bool: (bool,), int: (int,), float: (int, float), NoneType: (NoneType,)
}  # fmt: skip


def encode(record: DataclassInstance, schema: str) -> str:
    """A record as indented JSON under the key ``schema``, with a final newline.

    Raises:
        NodulensError: a number is NaN or infinite, which JSON cannot hold; the message says which.
    """
    document = {"schema": schema, **asdict(record)}
    try:
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        where = ", ".join(_not_finite(json.loads(json.dumps(document)), schema))
        raise NodulensError(f"Not a finite number: {where}. Give None for what is undefined.") from None


def decode(kind: type[Record], text: str, schema: str) -> Record:
    """The record that :func:`encode` wrote, equal to the one it was given.

    Args:
        kind: a dataclass whose fields are plain values, records, tuples, dicts by name, and unions of these.
        text: JSON.
        schema: the one that is read; a file of another is refused.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing, twice there or of the wrong type.
    """
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UnreadableFile(
            f"Not of schema {schema}: no JSON at line {error.lineno}, column {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:  # digits by the thousand, lists within lists
        raise UnreadableFile(f"Not of schema {schema}: its JSON is beyond measure.") from error
    found = document.pop("schema", None) if type(document) is dict else None
    if found != schema:
        raise UnreadableFile(f"Not of a schema this version reads: {found!r}, expected {schema!r}.")
    record: Record = _value(kind, document, schema)
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise UnreadableFile(f"A key stands twice among {', '.join(key for key, _ in pairs)[:80]}.")
    return row


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Paths of the NaN and infinite numbers in a document."""
    if type(value) is float and not math.isfinite(value):
        yield where
    children = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, child in children:
        yield from _not_finite(child, f"{where}.{key}")


def _value(kind: Any, value: Any, where: str) -> Any:
    """JSON → a value of an annotated type."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        _require(type(value) in _PLAIN[kind], where, kind.__name__, value)
        if kind is float:
            _require(abs(value) <= sys.float_info.max, where, "a finite number", value)
        return kind(value) if value is not None else None
    if origin is Literal:
        _require(value in args, where, " or ".join(map(repr, args)), value)
        return value
    if origin in (Union, UnionType):
        # The plain member it is; or the one member that is not plain.
        plain = [one for one in args if one in _PLAIN and type(value) in _PLAIN[one]]
        others = [one for one in args if one not in _PLAIN]
        _require(bool(plain or others), where, " or ".join(one.__name__ for one in args), value)
        return _value((plain or others)[0], value, where)
    if origin is tuple:
        _require(type(value) is list, where, "a list", value)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        _require(len(value) == len(kinds), where, f"{len(kinds)} values", value)
        return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    _require(type(value) is dict, where, "an object", value)
    if origin is dict:
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    hints, known = get_type_hints(kind), [f.name for f in fields(kind)]
    unknown, missing = sorted(set(value) - set(known)), [name for name in known if name not in value]
    if unknown or missing:
        raise UnreadableFile(f"{where} has unknown keys {unknown} and lacks {missing}.")
    found = {name: _value(hints[name], value[name], f"{where}.{name}") for name in known}
    try:
        return kind(**found)
    except NodulensError as error:  # what the record itself refuses
        raise UnreadableFile(f"{where}: {error}") from error


def _require(fits: bool, where: str, expected: str, value: Any) -> None:
    if not fits:
        raise UnreadableFile(f"{where} should be {expected}, is {json.dumps(value)[:60]}.")
