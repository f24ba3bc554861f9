"""The JSON of a report.

Its layout is a stable interface, fully described by ``report.schema.json`` beside this module. An incompatible change
needs another :data:`SCHEMA`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields

from nodulens.core.nodule import Box, Nodule, Position
from nodulens.io.records import Arrangement, Format, Row, decode, encode, from_plain
from nodulens.report.record import Report

SCHEMA = "nodulens-report/2"
_ROW_OF_NUMBERS = re.compile(r"\[\n\s*([-+.\deE]+(?:,\s+[-+.\deE]+)*)\s*\]")
_BOX = tuple[tuple[int, int, int], tuple[int, int, int]]


def to_json(report: Report) -> str:
    """The report as indented JSON with a final newline; keys in a fixed order.

    Raises:
        NodulensError: a number is NaN or infinite, which JSON cannot represent; the message says which.
    """
    # a JSON string has no raw newline, so text is never changed
    return _ROW_OF_NUMBERS.sub(lambda row: "[" + " ".join(row[1].split()) + "]", encode(report, FORM))


def from_json(text: str) -> Report:
    """Read a report from :func:`to_json`, equal to the original; masks and heat maps are None.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    return decode(Report, text, FORM)


def fingerprint(report: Report) -> str:
    """SHA-256 of :func:`to_json`, that is of ``report.json``; a review refers to it."""
    return hashlib.sha256(to_json(report).encode()).hexdigest()


def _flat(row: Row) -> Row:
    """A nodule as one flat object, its box and position under the names of the schema."""
    row = dict(row)
    box, position = row.pop("box"), row.pop("position")
    return {"id": row.pop("id"), "box_zyx": [box["start"], box["stop"]], **position, **row}


def _nested(row: Row, where: str) -> Row:
    """The flat object of a nodule with ``box`` and ``position`` nested again."""
    row = {"hilum_to_edge_estimate": None, **row}  # reports of before do not have it
    position = {f.name: row.pop(f.name) for f in fields(Position) if f.name in row}
    box = from_plain(_BOX, row.pop("box_zyx", None), f"{where}.box_zyx", FORM)
    return {**row, "position": position, "box": dict(zip([f.name for f in fields(Box)], box, strict=True))}


FORM = Format(SCHEMA, "report", indent=2, arranged={Nodule: Arrangement(_flat, _nested)})
