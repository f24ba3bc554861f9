"""Slices of an external framework's data set: names, pixels and ground truth, and whether it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadOption
from nodulens.io.atomic import whole_file
from nodulens.stages.slices import Field
from nodulens.train.tasks.protocol import Rows
from nodulens.train.tasks.slice_material import Material

CHUNK = 64
"""Number of slices read at a time."""


def case(material: Material, row: int) -> str:
    """The name of a slice: patient and row."""
    return f"{material.patients[row]}_{row:06d}"


def cases(material: Material, rows: Rows) -> list[str]:
    """The names of slices."""
    return [case(material, row) for row in rows]


def views(material: Material, field: Field, rows: Rows) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
    """The name of every row, its input slice (size, size) 0…1, and its masks (foreground classes, size, size)."""
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        yield from zip(cases(material, some), *material.examples(field, some), strict=True)


def is_written(path: Path, description: dict[str, Any]) -> bool:
    """Whether a data set is complete: its description is written last.

    Raises:
        BadOption: the folder holds another data set.
    """
    if not path.exists():
        return False
    # the frameworks' own formats, so no record of ours
    if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(description)):
        raise BadOption(f"{path.parent} holds a data set of other slices or settings; name another folder.")
    return True


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
