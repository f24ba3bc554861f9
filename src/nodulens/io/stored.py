"""The header of an image file in a form common to all formats, and reading its voxels.

The headers of MetaImage, NRRD and NIfTI are each read by one strict parser of our own, and the voxels by numpy: a
second parser with another reading of a header could read other voxels than were checked, or another file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadGeometry, UnreadableFile
from nodulens.io.files import beside, open_regular
from nodulens.io.unfold import check, fill, pieces

HEADER_BYTES = 64 * 1024
"""Longer text headers are refused: the longest that writers make, with a DICOM header in comments, are a tenth."""
MAX_AXES = 7
"""As many as NIfTI has; axes beyond the third must be of one voxel."""
MAX_SIDE = 65_535
"""Voxels along an axis: what DICOM's 16 bits can say."""
MAX_VOXEL_BYTES = 8 * 2**30
"""1,024 × 1,024 voxels in 2,000 slices of 32 bits, the largest scan there is."""
# Deflate compresses at most 1032 to 1, almost reached by an empty mask; a scan is packed two- to threefold.
MAX_DEFLATE = 1032
DEFLATE_FREE_BYTES = 2**30
"""What may unfold from a file of any size: a mask of 512 × 512 × 2,000 voxels of 16 bits. Beyond it:"""
MAX_RATIO = 100
MAX_RESCALE = 1e6
"""Slopes and intercepts beyond this, in HU, belong to no scanner."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,10}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?")
_PATTERN = re.compile(r"[^%]*%0?[1-9]?d[^%]*")


@dataclass(frozen=True)
class Part:
    """A file, or the end of one, that holds voxels.

    Attributes:
        path: of the file, links resolved where a header named it.
        start: offset of its first byte that counts.
    """

    path: Path
    start: int = 0


@dataclass(frozen=True, eq=False)
class Stored:
    """A header as stored: x before y before z.

    Attributes:
        size: voxels along x, y, z and further axes; between 1 and 7 of them.
        axes: 3 × 3; column k is the way from voxel to voxel along stored axis k, LPS mm.
        origin: LPS mm of the first voxel's centre.
        dtype: of the stored numbers, in their byte order.
        parts: the files that hold the voxels, equal shares in this order.
        packing: "gzip", "zlib", or None.
        skip: unpacked bytes of each part before its first voxel.
        scale: slope and intercept; (1, 0) where there is none.
        warnings: what the header leaves open.
    """

    size: tuple[int, ...]
    axes: NDArray[np.float64]
    origin: tuple[float, float, float]
    dtype: np.dtype[Any]
    parts: tuple[Part, ...]
    packing: str | None = None
    skip: int = 0
    scale: tuple[float, float] = (1.0, 0.0)
    warnings: tuple[str, ...] = ()

    @property
    def promised(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.size) * self.dtype.itemsize


Placed = tuple[NDArray[np.float64], tuple[float, float, float], tuple[str, ...]]
"""Axes (3 × 3) and origin, LPS mm, and what a header leaves open about them."""
NOT_PLACED = "The header does not say how the patient lies: left and right may be exchanged."
NO_ORIGIN = "The header does not say where the volume lies: positions in mm count from its first voxel."


def check_bytes(path: Path, stored: Stored) -> None:
    """Refuse a header that promises more than its files or memory can hold, before memory is allocated.

    Raises:
        UnreadableFile: it does.
    """
    actual = sum(max(0, part.path.stat().st_size - part.start) for part in stored.parts)
    promised = stored.promised
    listed = f"the header promises {promised / 2**20:,.2f} MiB of voxels, the file holds {actual / 2**20:,.2f}"
    if promised > actual * (MAX_DEFLATE if stored.packing else 1):
        raise UnreadableFile(f"{path}: {listed}; it is truncated or its header is wrong. Copy or export it again.")
    if promised > MAX_VOXEL_BYTES or (promised > DEFLATE_FREE_BYTES and promised > actual * MAX_RATIO):
        raise UnreadableFile(
            f"{path}: {listed}; no scan is so large (limit {MAX_VOXEL_BYTES / 2**30:g} GiB) or can be packed so small "
            f"(limit {MAX_RATIO} to 1 beyond {DEFLATE_FREE_BYTES / 2**30:g} GiB). Export it again."
        )
    if stored.packing is None and promised < actual:
        raise UnreadableFile(
            f"{path}: its voxels are {promised:,} bytes by the header and {actual:,} in the file; the header is wrong. "
            "Export it again."
        )


def check_voxels(stored: Stored) -> None:
    """Read through what holds the voxels, and keep nothing: packed streams to their checksum, others by their length.

    Raises:
        UnreadableFile: truncated, damaged, or longer than the header promises.
    """
    share = stored.promised // len(stored.parts)
    for part in stored.parts:
        with open_regular(part.path) as file:
            file.seek(part.start)
            check(part.path, file, share, stored.packing, stored.skip)


def read_voxels(path: Path, stored: Stored) -> NDArray[Any]:
    """The stored numbers (z, y, x) in this machine's byte order, rescaled where the header says so.

    Raises:
        UnreadableFile: truncated, damaged, longer than the header promises, or too large for memory.
    """
    try:
        array = np.empty(math.prod(stored.size), stored.dtype)
    except MemoryError as error:
        size = f"{stored.promised / 2**30:.1f} GiB"
        raise UnreadableFile(f"{path} needs {size} of memory, which there is not; use a larger machine.") from error
    room = _bytes_of(array)
    share = len(room) // len(stored.parts)
    for i, part in enumerate(stored.parts):
        with open_regular(part.path) as file:
            file.seek(part.start)
            fill(part.path, file, room[i * share : (i + 1) * share], stored.packing, stored.skip)
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder())
    array = array.reshape(stored.size[2::-1])
    if stored.scale == (1.0, 0.0):
        return array
    slope, intercept = stored.scale
    # What overflows is refused as infinite by whoever takes the numbers for HU.
    out = np.empty(array.shape, np.result_type(array, np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        for image, scaled in zip(array, out, strict=True):
            np.multiply(image, np.float32(slope), out=scaled)
            scaled += np.float32(intercept)
    return out


def stored_slices(stored: Stored) -> Iterator[NDArray[Any]]:
    """The stored numbers slice by slice (y, x), in the file's byte order, not rescaled; no volume is held.

    Args:
        stored: of three axes.

    Raises:
        UnreadableFile: truncated, damaged, or longer than the header promises.
    """
    width, height = stored.size[:2]
    room, share = bytearray(), stored.promised // len(stored.parts)
    length = width * height * stored.dtype.itemsize
    for part in stored.parts:
        with open_regular(part.path) as file:
            file.seek(part.start)
            for piece in pieces(part.path, file, share, stored.packing, stored.skip):
                room += piece
                while len(room) >= length:
                    yield np.frombuffer(bytes(room[:length]), stored.dtype).reshape(height, width)
                    del room[:length]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array as bytes, not copied."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def text_field(path: Path, fields: dict[str, str], key: str) -> str:
    """The value of a field that a text header must have.

    Raises:
        UnreadableFile: it has not.
    """
    if key not in fields:
        raise UnreadableFile(f"{path}: the header does not say {key!r}; export it again.")
    return fields[key]


def add_field(path: Path, fields: dict[str, str], key: str, value: str) -> None:
    """Add a field of a text header.

    Raises:
        UnreadableFile: the header has it already.
    """
    if key in fields:
        raise UnreadableFile(f"{path}: the header says {key!r} twice; keep one.")
    fields[key] = value


def spacings(path: Path, key: str, text: str, count: int) -> NDArray[np.float64]:
    """(3,) spacing in mm along x, y and z from a header field with ``count`` of them; 1 for a missing axis.

    Raises:
        BadGeometry: other than ``count`` finite numbers, or one is not positive.
    """
    out = np.ones(3)
    used = min(count, 3)
    out[:used] = floats(path, key, text, count)[:used]
    if np.any(out <= 0):
        raise BadGeometry(f"{path}: {key} = {text[:80]!r}; a voxel spacing is above 0 mm.")
    return out


def skipping(parts: tuple[Part, ...], skip: int, promised: int) -> tuple[Part, ...]:
    """The voxel files without what a detached header skips.

    Args:
        skip: bytes at the start of each file; −1: all but the voxels at its end.
        promised: bytes of all voxels.
    """
    share = promised // len(parts)
    return tuple(
        Part(part.path, part.start + skip if skip >= 0 else max(part.start, part.path.stat().st_size - share))
        for part in parts
    )


def text_lines(path: Path, data: bytes, first: int = 1) -> list[str]:
    """The lines of a text header, each ended by a line feed alone or after a carriage return.

    Args:
        path: for messages.
        data: the header, or some lines of it.
        first: number of the first line.

    Raises:
        UnreadableFile: other control characters, which readers understand in different ways.
    """
    lines = []
    for number, raw in enumerate(data.split(b"\n"), start=first):
        line = raw.removesuffix(b"\r")
        if any((byte < 32 and byte != 9) or byte == 127 for byte in line):
            raise UnreadableFile(f"{path}: line {number} of the header holds a control character; export it again.")
        lines.append(line.decode("utf-8", "surrogateescape"))
    return lines


def integers(path: Path, key: str, text: str, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers of a header field, separated by blanks.

    Raises:
        UnreadableFile: something else, or another count than is wanted.
    """
    words = text.split()
    if not words or not all(_WHOLE.fullmatch(word) for word in words) or count not in (None, len(words)):
        raise UnreadableFile(f"{path}: {key} = {text[:80]!r} in the header is no {_wanted(count, 'whole number')}.")
    return tuple(int(word) for word in words)


def floats(path: Path, key: str, text: str, count: int) -> tuple[float, ...]:
    """Decimal numbers of a header field, separated by blanks; NaN and infinity are none.

    Raises:
        BadGeometry: something else, or another count than is wanted: such fields hold geometry.
    """
    words = text.split()
    values = tuple(float(word) for word in words if _NUMBER.fullmatch(word))
    if not len(values) == len(words) == count or not all(math.isfinite(value) for value in values):
        raise BadGeometry(f"{path}: {key} = {text[:80]!r} in the header is no {_wanted(count, 'finite number')}.")
    return values


def check_size(path: Path, size: tuple[int, ...]) -> tuple[int, ...]:
    """The size, where every axis has a possible one.

    Raises:
        UnreadableFile: it has not.
    """
    if not 1 <= len(size) <= MAX_AXES or not all(1 <= n <= MAX_SIDE for n in size):
        listed = " × ".join(map(str, size[: MAX_AXES + 1]))
        raise UnreadableFile(f"{path} has a damaged header (dimensions {listed}); a volume has three. Export it again.")
    return size


def voxel_files(header: Path, value: str, following: list[str], size: tuple[int, ...]) -> tuple[Part, ...]:
    """The files that a detached header names: one, a list in the lines that follow, or a numbered pattern.

    Args:
        header: path of the header.
        value: of its field; "NAME", "LIST", "LIST 2", or "NAME%03d.raw FIRST LAST STEP".
        following: lines of the header after that field.
        size: of the volume; of several files each holds one slice.

    Raises:
        UnreadableFile: as :func:`nodulens.io.files.beside`, and another number of files than slices.
    """
    words = value.split()
    numbers = words[1:]
    listed = words[:1] == ["LIST"] and (not numbers or numbers == [str(len(size) - 1)])
    if listed:
        names = [line.strip() for line in following if line.strip()]
        count = len(names)
    elif words and _PATTERN.fullmatch(words[0]) and len(numbers) in (2, 3):
        first, last, step = (*integers(header, "data file", " ".join(numbers)), 1)[:3]
        span = range(first, last + 1, step) if 0 <= first <= last and step > 0 else range(0)
        count = len(span)
        names = [words[0] % n for n in span[: size[-1]]]
    else:
        return (Part(beside(header, value)),)
    if count != size[-1]:
        raise UnreadableFile(f"{header} lists {count} voxel files for {size[-1]} slices; one a slice is read.")
    return tuple(Part(beside(header, name)) for name in names)


def _wanted(count: int | None, what: str) -> str:
    return f"list of {what}s" if count is None else what if count == 1 else f"list of {count} {what}s"
