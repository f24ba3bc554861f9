"""The JSON of a report.

Its layout is a promise to other programs, and ``report.schema.json`` beside this module says it in full. A change that
could break one of them needs another :data:`SCHEMA`.
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
        NodulensError: a number is NaN or infinite, which JSON cannot hold; the message says which.
    """
    # A JSON string holds no raw newline, so no text is touched.
    return _ROW_OF_NUMBERS.sub(lambda row: "[" + " ".join(row[1].split()) + "]", encode(report, FORM))


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote, equal to the one it was given; masks and heat maps are None.

    Raises:
        UnreadableFile: not JSON, another schema, or a key that is unknown, missing or of the wrong type.
    """
    return decode(Report, text, FORM)


def fingerprint(report: Report) -> str:
    """The sha256 of :func:`to_json`: what ``report.json`` hashes to, and what a review refers to."""
    return hashlib.sha256(to_json(report).encode()).hexdigest()


def _flat(row: Row) -> Row:
    """A nodule as one flat object, its box and position under the names that the promise lists."""
    row = dict(row)
    box, position = row.pop("box"), row.pop("position")
    return {"id": row.pop("id"), "box_zyx": [box["start"], box["stop"]], **position, **row}


def _nested(row: Row, where: str) -> Row:
    """The flat object of a nodule with ``box`` and ``position`` gathered again."""
    row = dict(row)
    position = {f.name: row.pop(f.name) for f in fields(Position) if f.name in row}
    box = from_plain(_BOX, row.pop("box_zyx", None), f"{where}.box_zyx", FORM)
    return {**row, "position": position, "box": dict(zip([f.name for f in fields(Box)], box, strict=True))}


FORM = Format(SCHEMA, "report", indent=2, arranged={Nodule: Arrangement(_flat, _nested)})
