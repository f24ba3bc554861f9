"""What an analysis found and how it came about: a value, and its JSON.

The layout of the JSON is a promise to other programs (``templates/report.schema.json`` says it in
full). A change that could break one of them needs another :data:`SCHEMA`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from nodulens.core.nodule import Box, Nodule, Position
from nodulens.core.volume import Mask, Patient, Volume
from nodulens.errors import NodulensError, UnreadableFile
from nodulens.io.deidentify import released

SCHEMA = "nodulens-report/1"


@dataclass(frozen=True)
class WeightRef:
    """Which model file took part."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SizeSensitivity:
    """How many known nodules of ``lo_mm <= diameter < hi_mm`` were found in patients not trained on."""

    lo_mm: float
    hi_mm: float
    found: int
    total: int


@dataclass(frozen=True)
class LungVolumes:
    """Air and tissue inside the lung masks, millilitres."""

    left_ml: float
    right_ml: float


@dataclass(frozen=True)
class ScanSummary:
    """What the scan is like; nothing that says who was scanned.

    Attributes:
        format: "dicom", "metaimage", "nifti", "nrrd" or "array".
        slices: how many.
        spacing_zyx: millimetres between voxel centres (z, y, x).
        slice_thickness_mm, kernel, contrast: None where the format does not say.
        manufacturer, description: empty where the format does not say.
    """

    format: str
    slices: int
    spacing_zyx: tuple[float, float, float]
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    contrast: bool | None = None
    manufacturer: str = ""
    description: str = ""

    @classmethod
    def of(cls, ct: Volume) -> ScanSummary:
        """The summary of a volume, free texts as :func:`nodulens.io.deidentify.released` lets them through."""
        source = released(ct.source)
        return cls(
            format=source.format,
            slices=ct.geometry.shape[0],
            spacing_zyx=ct.geometry.spacing_zyx,
            slice_thickness_mm=source.slice_thickness_mm,
            kernel=source.kernel,
            contrast=source.contrast,
            manufacturer=source.manufacturer,
            description=source.description,
        )


@dataclass(frozen=True)
class Report:
    """Everything that one analysis found, with its provenance.

    Attributes:
        software: name and version.
        recipe: name of the method.
        weights: the model files that took part.
        series_uid: of the CT; None where the format has none, then ``input_sha256`` is set.
        input_sha256: hash of the input file where there is no series UID.
        scan: what the scan is like.
        case: a pseudonym, as given by the user.
        patient: who was scanned; None unless identification was asked for.
        warnings: what makes the whole result less sure, sentences.
        timing_s: seconds per stage, and ``total``.
        lungs: volumes of the lung masks.
        threshold: the detector score from which a finding is reported.
        nodules: the findings; ids are unique and are the label values of ``nodules.nii.gz``.
        prompted: a person pointed at the nodules; nothing was searched for.
        sensitivity: measured by nodule size at ``threshold``; empty where not measured.
        interval_meaning: a sentence: how ``Risk.interval`` is made and how often it covers.
        lung_mask: on the grid of the volume as read; not in the JSON, not compared.

    Raises:
        NodulensError: nodule ids that are not unique or below 1, or timing without ``total``.
    """

    software: str
    recipe: str
    weights: tuple[WeightRef, ...]
    series_uid: str | None
    input_sha256: str | None
    scan: ScanSummary
    case: str | None
    patient: Patient | None
    warnings: tuple[str, ...]
    timing_s: dict[str, float]
    lungs: LungVolumes
    threshold: float
    nodules: tuple[Nodule, ...]
    prompted: bool = False
    sensitivity: tuple[SizeSensitivity, ...] = ()
    interval_meaning: str = ""
    lung_mask: Mask | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        ids = [nodule.id for nodule in self.nodules]
        if len(set(ids)) < len(ids) or min(ids, default=1) < 1:
            raise NodulensError(f"Nodule ids must be unique and start at 1, got {ids}.")
        if "total" not in self.timing_s:
            raise NodulensError("The timing of a report needs the key 'total'.")


def to_json(report: Report) -> str:
    """The report as indented JSON with a final newline; keys in a fixed order.

    Raises:
        NodulensError: a number is NaN or infinite, which JSON cannot hold; the message says which.
    """
    document = {"schema": SCHEMA, **_stored(report)}
    try:
        text = json.dumps(document, default=_plain, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        rough = json.loads(json.dumps(document, default=_plain))
        raise NodulensError(f"Not a finite number in the report: {', '.join(_not_finite(rough))}.") from None
    # Rows of numbers on one line. A JSON string holds no raw newline, so no text is touched.
    rows = re.compile(r"\[\n\s*([-+.\deE]+(?:,\s+[-+.\deE]+)*)\s*\]")
    return rows.sub(lambda row: "[" + " ".join(row[1].split()) + "]", text) + "\n"


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote, equal to the one it was given; masks and heat maps are None.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableFile(f"Not a report: no JSON at line {error.lineno}, column {error.colno}.") from error
    except (ValueError, RecursionError) as error:  # digits by the thousand, lists within lists
        raise UnreadableFile("Not a report: its JSON is beyond measure.") from error
    schema = document.pop("schema", None) if type(document) is dict else None
    if schema != SCHEMA:
        raise UnreadableFile(f"Not a report this version reads: schema {schema!r}, expected {SCHEMA!r}.")
    report: Report = _decode(Report, document, "report")
    return report


def fingerprint(report: Report) -> str:
    """sha256 of :func:`to_json`: what ``report.json`` hashes to, and what a review refers to."""
    return hashlib.sha256(to_json(report).encode()).hexdigest()


def _stored(record: Any) -> dict[str, Any]:
    """Field → value of a dataclass, without the fields that are not compared (arrays)."""
    return {f.name: getattr(record, f.name) for f in fields(record) if f.compare}


def _plain(value: Any) -> Any:
    """What :mod:`json` does not know: our records and numpy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no place in a report.")
    row = _stored(value)
    if isinstance(value, Nodule):
        # One flat row a finding, under the names that the promise lists.
        box, position = row.pop("box"), row.pop("position")
        row = {"id": row.pop("id"), "box_zyx": (box.start, box.stop), **_stored(position), **row}
    return row


def _not_finite(value: Any, where: str = "report") -> Iterator[str]:
    """Paths of the NaN and infinite numbers in a document."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _not_finite(child, f"{where}.{key}")


_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,), bool: (bool,), int: (int,), float: (int, float), NoneType: (NoneType,)
}  # fmt: skip


def _decode(kind: Any, value: Any, where: str) -> Any:
    """JSON → a value of an annotated type. Strict: what does not fit is an error that names its place."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _JSON_TYPES:
        _require(type(value) in _JSON_TYPES[kind], where, kind.__name__, value)
        if kind is float:
            _require(abs(value) <= sys.float_info.max, where, "a finite number", value)
        return kind(value) if value is not None else None
    if origin is Literal:
        _require(value in args, where, " or ".join(map(repr, args)), value)
        return value
    if origin in (Union, UnionType):  # only "X | None" occurs
        return None if value is None else _decode(args[0], value, where)
    if origin is tuple:
        _require(type(value) is list, where, "a list", value)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        _require(len(value) == len(kinds), where, f"{len(kinds)} values", value)
        return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    _require(type(value) is dict, where, "an object", value)
    if origin is dict:
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _record(kind, _nested(value, where) if kind is Nodule else value, where)


def _record(kind: Any, value: dict[str, Any], where: str) -> Any:
    """A dataclass from an object with exactly its stored fields."""
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.compare]
    unknown, missing = sorted(set(value) - set(known)), [name for name in known if name not in value]
    if unknown or missing:
        raise UnreadableFile(f"Not a valid report: {where} has unknown keys {unknown} and lacks {missing}.")
    return kind(**{name: _decode(hints[name], value[name], f"{where}.{name}") for name in known})


def _nested(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The flat row of a nodule with ``box`` and ``position`` gathered again."""
    row = dict(row)
    position = {f.name: row.pop(f.name) for f in fields(Position) if f.name in row}
    box = _decode(tuple[tuple[int, int, int], tuple[int, int, int]], row.pop("box_zyx", None), f"{where}.box_zyx")
    return {**row, "position": position, "box": dict(zip([f.name for f in fields(Box)], map(list, box), strict=True))}


def _require(fits: bool, where: str, expected: str, value: Any) -> None:
    if not fits:
        raise UnreadableFile(f"Not a valid report: {where} should be {expected}, is {json.dumps(value)[:60]}.")
