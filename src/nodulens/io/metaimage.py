"""MetaImage headers (.mha, .mhd), parsed strictly.

Source: the MetaIO documentation of the Insight Toolkit. What is refused by name: voxels as text, element types that
are no single number, an intensity function and other units than millimetres (which ITK leaves out of account).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

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

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
DATA = "ElementDataFile"
# Several names for one thing; a header may hold one of them.
MSB = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
ORIGIN = ("Offset", "Position", "Origin")
DIRECTION = ("TransformMatrix", "Rotation", "Orientation")
KNOWN = {
    DATA, *MSB, *ORIGIN, *DIRECTION, "ObjectType", "NDims", "DimSize", "ElementType", "ElementNumberOfChannels",
    "ElementSpacing", "ElementSize", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize",
    "DistanceUnits", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset",
}  # fmt: skip
FIRST_KEY = re.compile(rb"\s*(ObjectType|NDims)[ \t]*[=:]")
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def is_metaimage(head: bytes) -> bool:
    """Whether a file's first 4 KiB begin a MetaImage header."""
    return bool(FIRST_KEY.match(head) or (b"\nElementType" in head and b"NDims" in head and head[:1].isalpha()))


def read_header(path: Path) -> Stored:
    """Read the header, and find the files that hold the voxels.

    Raises:
        UnreadableFile: damaged, ambiguous, of a kind that is not read, or its voxel file is missing or elsewhere.
        BadGeometry: spacing is missing, or geometry is not a finite number.
    """
    fields, end, following = _fields(path)
    axes_count = integers(path, "NDims", text_field(path, fields, "NDims"), 1)[0]
    if not 1 <= axes_count <= MAX_AXES:
        raise UnreadableFile(f"{path} has a damaged header (NDims = {axes_count}); a volume has three dimensions.")
    size = check_size(path, integers(path, "DimSize", text_field(path, fields, "DimSize"), axes_count))
    kind = text_field(path, fields, "ElementType")
    channels = integers(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), 1)[0]
    if channels != 1:
        raise UnreadableFile(f"{path} has {channels} values a voxel; a CT has one.")
    if kind not in TYPES:
        raise UnreadableFile(f"{path}: voxels of type {kind!r} are not read; write one number a voxel, as MET_SHORT.")
    _refuse_others(path, fields)
    order = ">" if _flag(path, fields, MSB) else "<"
    axes, origin, warnings = _grid(path, fields, axes_count)
    packed = _flag(path, fields, ("CompressedData",))
    value = fields[DATA]
    local = value.upper() == "LOCAL"
    parts = (Part(path, end),) if local else voxel_files(path, value, following, size)
    stored = Stored(
        size=size,
        axes=axes,
        origin=origin,
        dtype=np.dtype(order + TYPES[kind]),
        parts=parts,
        packing="zlib" if packed else None,
        warnings=warnings,
    )
    return _after_skipping(path, fields, stored, local)


def _fields(path: Path) -> tuple[dict[str, str], int, list[str]]:
    """The fields up to that of the voxel file, the offset behind it, and the lines that follow where it is a list."""
    with open_regular(path) as file:
        data = file.read(HEADER_BYTES)
    fields: dict[str, str] = {}
    end, number = 0, 0
    while DATA not in fields:
        stop = data.find(b"\n", end)
        stop = len(data) if stop < 0 else stop
        if stop == len(data) and (end >= stop or len(data) == HEADER_BYTES):
            raise UnreadableFile(
                f"{path} has no {DATA} in the first {HEADER_BYTES // 1024} KiB; a MetaImage header ends with it."
            )
        number += 1
        line = text_lines(path, data[end:stop], number)[0]
        end = stop + 1
        if not line.strip():
            continue
        key, separator, value = (word.strip() for word in line.partition("="))
        if not separator:
            raise UnreadableFile(f"{path}: line {number} of the header, {line[:80]!r}, is not of the form key = value.")
        if key in KNOWN:  # others are comments, which may repeat
            add_field(path, fields, key, value)
    if fields[DATA].split()[:1] != ["LIST"]:
        return fields, end, []
    if len(data) == HEADER_BYTES:
        raise UnreadableFile(f"{path}: the list of voxel files is longer than {HEADER_BYTES // 1024} KiB.")
    return fields, end, text_lines(path, data[end:], number + 1)


def _one_of(path: Path, fields: dict[str, str], keys: tuple[str, ...]) -> str | None:
    """The value of a field that has several names."""
    values = {fields[key] for key in keys if key in fields}
    if len(values) > 1:
        raise UnreadableFile(f"{path}: the header holds {' and '.join(k for k in keys if k in fields)}, which differ.")
    return values.pop() if values else None


def _flag(path: Path, fields: dict[str, str], keys: tuple[str, ...], default: bool = False) -> bool:
    text = _one_of(path, fields, keys)
    if text is None:
        return default
    if text.lower() not in TRUTH:
        raise UnreadableFile(f"{path}: {keys[0]} = {text[:80]!r} in the header is neither True nor False.")
    return TRUTH[text.lower()]


def _refuse_others(path: Path, fields: dict[str, str]) -> None:
    if fields.get("ObjectType", "Image") != "Image":
        raise UnreadableFile(f"{path} holds a MetaIO object of type {fields['ObjectType'][:80]!r}, not an image.")
    if not _flag(path, fields, ("BinaryData",), True):
        raise UnreadableFile(f"{path} holds its voxels as text, which is not read; write it in binary.")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise UnreadableFile(f"{path} is in {fields['DistanceUnits'][:80]!r}, not mm; write it in millimetres.")
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and floats(path, key, fields[key], 1)[0] != neutral:
            raise UnreadableFile(f"{path}: {key} is not applied; write the voxels in Hounsfield units.")


def _grid(path: Path, fields: dict[str, str], n: int) -> Placed:
    """Axes and origin of the first three dimensions, and what the header leaves open."""
    key = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    if key not in fields:
        raise BadGeometry(f"{path}: the header holds no voxel spacing (ElementSpacing, in mm); export it with that.")
    spacing, m = spacings(path, key, fields[key], n), min(n, 3)
    direction, origin = np.eye(3), np.zeros(3)
    warnings = []
    if (text := _one_of(path, fields, DIRECTION)) is None:
        warnings.append(NOT_PLACED)
    else:
        # The header lists the direction of the first axis, then that of the second.
        direction[:m, :m] = np.reshape(floats(path, DIRECTION[0], text, n * n), (n, n)).T[:m, :m]
    if (text := _one_of(path, fields, ORIGIN)) is None:
        warnings.append(NO_ORIGIN)
    else:
        origin[:m] = floats(path, ORIGIN[0], text, n)[:m]
    return direction * spacing, (origin[0], origin[1], origin[2]), tuple(warnings)


def _after_skipping(path: Path, fields: dict[str, str], stored: Stored, local: bool) -> Stored:
    """The header with its parts behind what ``HeaderSize`` leaves out; −1 says that the voxels end the file.

    Raises:
        UnreadableFile: a ``HeaderSize`` or ``CompressedDataSize`` that the files do not have.
    """
    skip = integers(path, "HeaderSize", fields.get("HeaderSize", "0"), 1)[0]
    parts = stored.parts
    if skip and (local or stored.packing or skip < -1):
        raise UnreadableFile(f"{path}: HeaderSize = {skip} is read with voxels in a file of their own, not packed.")
    if skip:
        parts = skipping(parts, skip, stored.promised)
    if stored.packing and "CompressedDataSize" in fields:
        size = integers(path, "CompressedDataSize", fields["CompressedDataSize"], 1)[0]
        actual = sum(part.path.stat().st_size - part.start for part in parts)
        if size != actual:
            raise UnreadableFile(
                f"{path}: its packed voxels are {size:,} bytes by the header and {actual:,} in the file; it is "
                "truncated or damaged. Copy or export it again."
            )
    return replace(stored, parts=parts)
