"""Frozen dataclasses as JSON and back, strictly: what does not fit its annotation is an error that names its place.

Own code rather than pydantic or msgspec: the records are plain dataclasses that also hold arrays, their JSON must keep
its bytes, and NaN, repeated keys and numbers beyond float64 are refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from nodulens.errors import NodulensError, UnreadableFile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

Row = dict[str, Any]
"""Field → plain value of one record: the content of a JSON object."""
Columns = Mapping[str, Sequence[Any]]
"""Name of a column → one value a record: how JSON keeps many records of one kind."""
UNIONS = (Union, UnionType)
_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,), bool: (bool,), int: (int,), float: (int, float), NoneType: (NoneType,)
}  # fmt: skip


@dataclass(frozen=True)
class Arrangement:
    """The JSON object of a dataclass whose keys are not its fields.

    Attributes:
        write: fields → the object's keys.
        read: the object's keys, and its path → fields. Raises UnreadableFile.
    """

    write: Callable[[Row], Row] = dict
    read: Callable[[Row, str], Row] = lambda row, where: row


def omitting(*names: str) -> Arrangement:
    """Fields that are omitted from the object if they are None."""
    return Arrangement(
        write=lambda row: {key: value for key, value in row.items() if value is not None or key not in names},
        read=lambda row, where: {**dict.fromkeys(names), **row},
    )


@dataclass(frozen=True)
class Format:
    """How records of one schema are laid out as JSON.

    Attributes:
        schema: value of the key ``schema``; a file of another is refused. None for files without that key.
        name: of such a record in messages, and root of its paths: "report" in ``report.nodules[0]``.
        indent: spaces for each level.
        escaped: letters beyond ASCII are written as ``\\uXXXX``.
        defaults: a missing key is read as the default of its field; otherwise every key must be there.
        arranged: the dataclasses with another arrangement.
    """

    schema: str | None
    name: str
    indent: int = 1
    escaped: bool = False
    defaults: bool = False
    arranged: Mapping[type, Arrangement] = field(default_factory=dict)


def inlined(*names: str) -> Arrangement:
    """Fields whose keys are merged into the object, in their place; none for None. Such an object cannot be read."""

    def write(row: Row) -> Row:
        out: Row = {}
        for key, value in row.items():
            out |= (value or {}) if key in names else {key: value}
        return out

    return Arrangement(write)


def encode(record: DataclassInstance, form: Format) -> str:
    """A record as indented JSON under the key ``schema``, with a final newline.

    Fields that are not compared (arrays) are left out. numpy's numbers are written as numbers.

    Raises:
        NodulensError: a number is NaN or infinite, which JSON cannot hold; the message says which.
    """
    head = {} if form.schema is None else {"schema": form.schema}
    document = head | to_plain(record, form.arranged)
    try:
        return json.dumps(document, indent=form.indent, ensure_ascii=form.escaped, allow_nan=False) + "\n"
    except ValueError:
        where = ", ".join(_not_finite(document, form.name))
        raise NodulensError(f"Not a finite number: {where}. Give None for what is undefined.") from None


def decode(kind: type[Record], text: str, form: Format) -> Record:
    """The record from the text of :func:`encode`, equal to the original.

    Args:
        kind: a dataclass whose fields are plain values, records, tuples, mappings by name, and unions of these.
        text: JSON.
        form: as it was written.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing, repeated or of the wrong type.
    """
    try:
        document = _parsed(text)
        found = document.pop("schema", None) if type(document) is dict else None
        if found != form.schema:
            raise UnreadableFile(f"schema {found!r}, expected {form.schema!r}.")
        record: Record = from_plain(kind, document, form.name, form)
    except UnreadableFile as error:
        raise UnreadableFile(f"Not a valid {form.name}: {error}") from error
    return record


def to_plain(value: Any, arranged: Mapping[type, Arrangement] | None = None) -> Any:
    """A value as plain JSON types: records become dicts, tuples lists, numpy's numbers Python's."""
    if is_dataclass(value):
        row = {f.name: to_plain(getattr(value, f.name), arranged) for f in fields(value) if f.compare}
        own = (arranged or {}).get(type(value))
        return own.write(row) if own else row
    if isinstance(value, Mapping):
        return {key: to_plain(item, arranged) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, arranged) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_plain(kind: Any, value: Any, where: str, form: Format) -> Any:
    """Plain JSON types → a value of an annotated type.

    Args:
        kind: the annotation: a plain type, a dataclass, Literal, a tuple, a mapping by name, or a union of these, of
            which one member at most may be other than plain; or Any, which is not checked.
        value: as :mod:`json` reads it.
        where: path of the value, for messages.
        form: for which dataclasses keys may be missing or arranged otherwise.

    Raises:
        UnreadableFile: it does not fit; the message has its path, the expected type and the value.
    """
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _plain(kind, value, where)
    if origin is Literal:
        return value if value in args else _refuse(where, wording(kind), value)
    if origin in UNIONS:
        # The plain member of its type; or the one member that is not plain.
        members = [one for one in args if one in _PLAIN and type(value) in _PLAIN[one]]
        members += [one for one in args if one not in _PLAIN]
        return from_plain(members[0], value, where, form) if members else _refuse(where, wording(kind), value)
    if origin is tuple:
        return _sequence(args, value, where, form)
    if type(value) is not dict:
        _refuse(where, wording(kind), value)
    if origin in (dict, Mapping):
        return {key: from_plain(args[1], item, f"{where}.{key}", form) for key, item in value.items()}
    return _record(kind, value, where, form)


def columns_of(kind: type[Record], records: Sequence[Record]) -> dict[str, list[Any]]:
    """Records of one kind as columns, in the order of its fields."""
    return {field.name: [getattr(record, field.name) for record in records] for field in fields(kind)}


def records_of(kind: type[Record], columns: Columns) -> tuple[Record, ...]:
    """Records from columns; columns that are no field are ignored."""
    names = [field.name for field in fields(kind)]
    return tuple(kind(**dict(zip(names, row, strict=True))) for row in zip(*(columns[n] for n in names), strict=True))


def wording(kind: Any) -> str:
    """An annotated type in terms of JSON: "int or null", "'left' or 'right'", "a list", "an object"."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) in UNIONS:
        return " or ".join(map(wording, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list"
    return "null" if kind is NoneType else str(kind.__name__) if kind in _PLAIN else "an object"


def _plain(kind: Any, value: Any, where: str) -> Any:
    """An int is a valid float, but a bool is neither."""
    if type(value) not in _PLAIN[kind]:
        _refuse(where, wording(kind), value)
    try:
        return None if value is None else kind(value)
    except OverflowError:
        _refuse(where, "a number below 1e308", value)


def _sequence(kinds: tuple[Any, ...], value: Any, where: str, form: Format) -> tuple[Any, ...]:
    """A tuple from a list, or from a tuple, as in a record that was not encoded."""
    if type(value) not in (list, tuple):
        _refuse(where, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        _refuse(where, f"{len(kinds)} values", value)
    pairs = zip(kinds, value, strict=True)
    return tuple(from_plain(kind, item, f"{where}[{i}]", form) for i, (kind, item) in enumerate(pairs))


def _record(kind: Any, row: Row, where: str, form: Format) -> Any:
    """A dataclass from an object with exactly the fields that are stored."""
    own = form.arranged.get(kind)
    if own:
        row = own.read(row, where)
    stored = [f for f in fields(kind) if f.compare]
    needed = [f.name for f in stored if not (form.defaults and _has_default(f))]
    unknown, missing = sorted(row.keys() - {f.name for f in stored}), [name for name in needed if name not in row]
    if unknown or missing:
        raise UnreadableFile(f"{where} has unknown keys {unknown} and lacks {missing}.")
    hints = get_type_hints(kind)
    there = [f.name for f in stored if f.name in row]
    found = {name: from_plain(hints[name], row[name], f"{where}.{name}", form) for name in there}
    try:
        return kind(**found)
    except NodulensError as error:  # refused by the record itself
        raise UnreadableFile(f"{where}: {error}") from error


def _has_default(one: Any) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def _refuse(where: str, expected: str, value: Any) -> NoReturn:
    raise UnreadableFile(f"{where} should be {expected}, is {json.dumps(value, default=repr)[:60]}.")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise UnreadableFile(f"no JSON at line {error.lineno}, column {error.colno}.") from error
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise UnreadableFile("its JSON is nested too deeply, or holds a number of too many digits.") from error


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        raise UnreadableFile(f"A key stands twice: {', '.join(twice)[:80]}.")
    return row


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise UnreadableFile(f"{text[:40]} is no finite number.")


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Paths of the NaN and infinite numbers in a document."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    children = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, child in children:
        yield from _not_finite(child, f"{where}.{key}")
