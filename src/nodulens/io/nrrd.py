"""NRRD headers (.nrrd, .nhdr), parsed strictly.

Source: the definition of the format, teem.sourceforge.net/nrrd/format.html. What is refused by name: encodings other
than raw and gzip, blocks, a space with a time axis, other units than millimetres, and skipped lines.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadGeometry, UnreadableFile
from nodulens.io.files import open_regular
from nodulens.io.stored import (
    HEADER_BYTES,
    MAX_AXES,
    NO_ORIGIN,
    NOT_PLACED,
    Part,
    Placed,
    Stored,
    add_field,
    check_size,
    floats,
    integers,
    skipping,
    spacings,
    text_field,
    text_lines,
    voxel_files,
)

MAGIC = b"NRRD000"
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {"raw": None, "gzip": "gzip", "gz": "gzip"}
ENDIANS = {"little": "<", "big": ">"}
# To LPS, by the full name or its letters.
SPACES = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
# Three dimensions that are not related to the patient.
PLACELESS_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
SPATIAL_KINDS = ("domain", "space", "???", "none")
MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???")
# The fields of the definition by their names without blanks; each may occur once, and others are errors.
FIELDS = {
    "dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max", "oldmin", "oldmax", "datafile",
    "lineskip", "byteskip", "number", "sampleunits", "sizes", "spacings", "thicknesses", "axismins", "axismaxs",
    "centers", "centerings", "labels", "units", "kinds", "space", "spacedimension", "spaceunits", "spaceorigin",
    "spacedirections", "measurementframe",
}  # fmt: skip
_VECTOR = re.compile(r"none|\(([^()]*)\)", re.IGNORECASE)


def is_nrrd(head: bytes) -> bool:
    """Whether a file's first bytes are those of NRRD."""
    return head.startswith(MAGIC)


def read_header(path: Path) -> Stored:
    """Read the header, and find the files that hold the voxels.

    Raises:
        UnreadableFile: damaged, ambiguous, of a kind that is not read, or its voxel file is missing or elsewhere.
        BadGeometry: spacing is missing, or geometry is not a finite number.
    """
    fields, end, following = _fields(path)
    count = integers(path, "dimension", text_field(path, fields, "dimension"), 1)[0]
    if not 1 <= count <= MAX_AXES:
        raise UnreadableFile(f"{path} has a damaged header (dimension {count}); a volume has three.")
    size = check_size(path, integers(path, "sizes", text_field(path, fields, "sizes"), count))
    name = text_field(path, fields, "type").lower()
    kind = next((code for code, names in TYPES.items() if name in names), None)
    if kind is None:
        raise UnreadableFile(f"{path}: voxels of type {name!r} are not read; write one number a voxel, as short.")
    encoding = text_field(path, fields, "encoding").lower()
    if encoding not in ENCODINGS:
        raise UnreadableFile(f"{path}: the encoding {encoding!r} is not read; write it as gzip or raw.")
    endian = fields.get("endian", "little" if kind.endswith("1") else "").lower()
    if endian not in ENDIANS:
        raise UnreadableFile(f"{path}: the header does not say endian: little or big; export it again.")
    spatial = _spatial(path, fields, size)
    axes, origin, warnings = _grid(path, fields, spatial, count)
    parts = voxel_files(path, fields["datafile"], following, size) if "datafile" in fields else (Part(path, end),)
    # Without the axes that are none of space, each of one voxel.
    size = tuple(size[axis] for axis in spatial)
    dtype, packing = np.dtype(ENDIANS[endian] + kind), ENCODINGS[encoding]
    parts = _after_skipping(path, fields, parts, packing, int(np.prod(size, dtype=object)) * dtype.itemsize)
    return Stored(size, axes, origin, dtype, parts, packing, warnings=warnings)


def _fields(path: Path) -> tuple[dict[str, str], int, list[str]]:
    """The fields, the offset behind the header, and the lines that follow where voxel files are listed there."""
    with open_regular(path) as file:
        data = file.read(HEADER_BYTES)
    stop = re.search(rb"\n\r?\n", data)
    if stop is None and len(data) == HEADER_BYTES:
        raise UnreadableFile(f"{path}: the NRRD header does not end within {HEADER_BYTES // 1024} KiB.")
    lines = text_lines(path, data[: stop.start()] if stop else data)
    if not re.fullmatch("NRRD000[1-5]", lines[0]):
        raise UnreadableFile(f"{path} begins with {lines[0][:80]!r}, which is no version of NRRD that is read.")
    fields: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("#") or not line.strip():
            continue
        key, separator, value = line.partition(":")
        if value.startswith("="):  # a custom key and value
            continue
        key = key.replace(" ", "").lower()
        if not separator or key not in FIELDS:
            raise UnreadableFile(f"{path}: line {number} of the header, {line[:80]!r}, is no field of NRRD.")
        add_field(path, fields, key, value.strip())
        if key == "datafile" and value.split()[:1] == ["LIST"]:
            return fields, 0, lines[number:]
    if stop is None and "datafile" not in fields:
        raise UnreadableFile(f"{path} ends within its NRRD header; it is truncated. Copy or export it again.")
    return fields, stop.end() if stop else len(data), []


def _spatial(path: Path, fields: dict[str, str], size: tuple[int, ...]) -> list[int]:
    """The axes that are of space: all but those of another kind, which must be of one voxel."""
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(size)
    if len(kinds) != len(size):
        raise UnreadableFile(f"{path}: {len(kinds)} kinds for {len(size)} axes in the header; export it again.")
    others = [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL_KINDS]
    for axis in others:
        if size[axis] != 1:
            raise UnreadableFile(f"{path} has {size[axis]} values a voxel (kind {kinds[axis]!r}); a CT has one.")
    return [axis for axis in range(len(size)) if axis not in others]


def _grid(path: Path, fields: dict[str, str], spatial: list[int], count: int) -> Placed:
    """Axes and origin of the first three axes of space in LPS mm, and what the header leaves open."""
    for key in ("units", "spaceunits"):
        units = re.findall(r'"([^"]*)"', fields.get(key, ""))
        if any(unit.lower() not in MILLIMETRES for unit in units):
            raise BadGeometry(f"{path} is in {fields[key][:80]}, not mm; write it in millimetres.")
    space = fields.get("space", "").lower()
    if space and space not in SPACES and space not in PLACELESS_SPACES:
        raise BadGeometry(f"{path}: the space {space[:80]!r} is not read; write it as left-posterior-superior.")
    axes, origin, warnings = np.eye(3), np.zeros(3), []
    if space not in SPACES:
        warnings.append(NOT_PLACED)
    if "spacedirections" in fields:
        axes = _directions(path, fields["spacedirections"], spatial, count)
    elif "spacings" in fields:
        words = fields["spacings"].split()
        if len(words) != count:
            raise BadGeometry(f"{path}: {len(words)} spacings for {count} axes in the header; export it again.")
        wanted = [words[axis] for axis in spatial[:3]]
        axes = np.diag(spacings(path, "spacings", " ".join(wanted), len(wanted)))
    else:
        raise BadGeometry(f"{path}: the header holds no voxel spacing (space directions, in mm); export it with that.")
    if "spaceorigin" in fields:
        origin[:] = _vectors(path, "space origin", fields["spaceorigin"], 1)[0]
    else:
        warnings.append(NO_ORIGIN)
    signs = np.array(SPACES.get(space, (1.0, 1.0, 1.0)))
    x, y, z = (signs * origin).tolist()
    return signs[:, None] * axes, (x, y, z), tuple(warnings)


def _directions(path: Path, text: str, spatial: list[int], count: int) -> NDArray[np.float64]:
    axes = np.eye(3)
    vectors = _vectors(path, "space directions", text, count)
    for column, axis in enumerate(spatial[:3]):
        if np.isnan(vectors[axis]).any():
            raise BadGeometry(f"{path}: space directions = {text[:80]!r} leave the spacing of axis {axis + 1} open.")
        axes[:, column] = vectors[axis]
    return axes


def _vectors(path: Path, key: str, text: str, count: int) -> NDArray[np.float64]:
    """Vectors of three numbers in brackets, one a row; a row of NaN where the header says "none"."""
    found = list(_VECTOR.finditer(text))
    if len(found) != count or _VECTOR.sub("", text).strip():
        raise BadGeometry(f"{path}: {key} = {text[:80]!r} in the header, not {count} of the form (x,y,z).")
    rows = np.full((count, 3), np.nan)
    for row, match in enumerate(found):
        if match[1] is not None:
            rows[row] = floats(path, key, match[1].replace(",", " "), 3)
    if key == "space origin" and np.isnan(rows).any():
        raise BadGeometry(f"{path}: the space origin is {text[:80]!r}, no point; export it again.")
    return rows


def _after_skipping(
    path: Path, fields: dict[str, str], parts: tuple[Part, ...], packing: str | None, promised: int
) -> tuple[Part, ...]:
    """The parts behind what ``byte skip`` leaves out; −1 says that the voxels end the file."""
    if integers(path, "line skip", fields.get("lineskip", "0"), 1) != (0,):
        raise UnreadableFile(f"{path}: skipped lines are not read; write the voxels without any before them.")
    skip = integers(path, "byte skip", fields.get("byteskip", "0"), 1)[0]
    if skip == 0:
        return parts
    if packing or skip < -1:
        raise UnreadableFile(f"{path}: a byte skip of {skip} is not read with this encoding; write it without.")
    return skipping(parts, skip, promised)
