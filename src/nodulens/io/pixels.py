"""Stored values of planes: their length is checked before memory is allocated, and codecs run in other processes."""

from __future__ import annotations

import math
import struct
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from nodulens.errors import UnreadableFile
from nodulens.io.codestream import codestream_size
from nodulens.io.decoders import DecodingError, EncodedFrame, decode
from nodulens.io.dicom_header import line
from nodulens.io.dicom_stream import DicomStream, opened
from nodulens.io.plane import PixelLayout, Plane

# Images decoded ahead.
AHEAD = 8
# The largest matrix of a CT is 2048; a codec takes some ten times what it returns.
MAX_COMPRESSED_PIXELS = 8192 * 8192
BITS = (8, 16, 32)
FRAGMENTS_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
"""The item that closes the fragments of compressed pixels; what may follow is short."""
TAIL_BYTES = 4096
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

Image = NDArray[Any]
"""(rows, columns) of integers, as stored."""


def check_pixels(planes: Sequence[Plane]) -> None:
    """Refuse images with fewer bytes than their header promises.

    Raises:
        UnreadableFile: no pixels, fewer than promised, or of a kind that no CT has.
    """
    for plane in planes:
        layout = plane.pixels
        if layout is None:
            raise _damaged(plane.path, "there are none")
        if layout.bits_allocated not in BITS or not 1 <= layout.bits_stored <= layout.bits_allocated:
            raise _damaged(plane.path, f"{layout.bits_stored} of {layout.bits_allocated} bits hold a value")
        if plane.frame is not None and plane.frame >= layout.frames:
            raise _damaged(plane.path, f"frame {plane.frame + 1} of {layout.frames} is needed")
        if not _compressed(layout):
            needed = math.prod(plane.size) * layout.bits_allocated // 8 * layout.frames
            actual = min(layout.length or 0, layout.held)
            if actual < needed or min(plane.size) < 1:
                raise _damaged(plane.path, f"{actual:,} of {needed:,} bytes")
        elif layout.length is not None:
            raise _damaged(plane.path, "they are said to be compressed, but do not come in fragments")
        elif not 1 <= math.prod(plane.size) <= MAX_COMPRESSED_PIXELS:
            raise _damaged(plane.path, f"{plane.size[0]} × {plane.size[1]} compressed pixels are announced")


def check_ends(planes: Sequence[Plane]) -> None:
    """Refuse files that end before their pixels do; of compressed ones the fragments must be closed.

    Raises:
        UnreadableFile: as :func:`check_pixels`, or a file was cut within its fragments.
    """
    check_pixels(planes)
    for plane in planes:
        if plane.pixels is not None and _compressed(plane.pixels):
            with plane.path.open("rb") as file:
                file.seek(max(0, plane.path.stat().st_size - TAIL_BYTES))
                if FRAGMENTS_END not in file.read():
                    raise _damaged(plane.path, "the fragments do not end: the file was cut short")


def stored_images(planes: Sequence[Plane]) -> Iterator[Image]:
    """The stored values of planes in turn; compressed ones are decoded ahead, in other processes.

    Raises:
        UnreadableFile: as :func:`check_pixels`, or one cannot be decoded, or a file has gone.
    """
    check_pixels(planes)
    pending: deque[tuple[Plane, Future[Image]]] = deque()
    try:
        for plane, future in _begun(planes):
            pending.append((plane, future))
            if len(pending) > AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        for _, future in pending:
            future.cancel()


def _begun(planes: Sequence[Plane]) -> Iterator[tuple[Plane, Future[Image]]]:
    """Each plane with what will hold its image; a file is opened once for frames that follow one another."""
    for path, same_file in groupby(planes, lambda plane: plane.path):
        try:
            with ExitStack() as files:
                stream: DicomStream | None = None
                for plane in same_file:
                    assert plane.pixels is not None
                    stream = stream or files.enter_context(opened(path, plane.pixels.deflated_at, sys.maxsize))
                    yield plane, _begin(stream, plane, plane.pixels)
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read ({line(error)}); copy it again.") from error


def _begin(stream: DicomStream, plane: Plane, layout: PixelLayout) -> Future[Image]:
    if not _compressed(layout):
        done: Future[Image] = Future()
        done.set_result(_native(stream, plane, layout))
        return done
    return decode(
        EncodedFrame(
            layout.syntax,
            _codestream(stream, plane, layout),
            plane.size,
            layout.bits_allocated,
            layout.bits_stored,
            layout.signed,
            layout.photometric,
        )
    )


def _finished(plane: Plane, future: Future[Image]) -> Image:
    try:
        image = future.result()
    except DecodingError as error:
        raise _damaged(plane.path, line(error)) from error
    if image.shape != plane.size:
        raise _damaged(plane.path, f"{plane.size} pixels announced, {image.shape} found")
    return image


def _native(stream: DicomStream, plane: Plane, layout: PixelLayout) -> Image:
    """An uncompressed image: read in this process, as only numpy handles its bytes."""
    count = math.prod(plane.size) * layout.bits_allocated // 8
    stream.seek(layout.at + count * (plane.frame or 0))
    data = stream.read(count)
    if len(data) < count:
        raise _damaged(plane.path, f"{len(data):,} of {count:,} bytes")
    # What was deflated is explicit and little-endian once it is unpacked.
    syntax = ExplicitVRLittleEndian if layout.deflated_at is not None else UID(layout.syntax)
    options: dict[str, Any] = {
        "rows": plane.size[0],
        "columns": plane.size[1],
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "pixel_keyword": "PixelData",
        "pixel_vr": layout.vr,
    }
    try:
        image: Image
        # An image of an odd number of bytes is padded to an even one.
        image, _ = get_decoder(syntax).as_array(data + bytes(count % 2), index=0, raw=True, **options)
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise _damaged(plane.path, line(error)) from error
    return image


def _codestream(stream: DicomStream, plane: Plane, layout: PixelLayout) -> bytes:
    """The bytes of one compressed image, from as many fragments as it has, checked for the size it announces."""
    stream.seek(layout.at)
    try:
        data: bytes = get_frame(
            stream, plane.frame or 0, extended_offsets=layout.offsets, number_of_frames=layout.frames
        )
        if stream.short:
            raise ValueError("the file ends within its fragments")
        size = codestream_size(layout.syntax, data)
    except (LookupError, StopIteration, TypeError, ValueError, struct.error) as error:
        raise _damaged(plane.path, line(error)) from error
    if size and size != (*plane.size, 1):
        raise _damaged(
            plane.path,
            f"{plane.size[0]} × {plane.size[1]} pixels are announced, and {size.rows} × {size.columns} of "
            f"{size.components} values compressed",
        )
    return data


def _compressed(layout: PixelLayout) -> bool:
    return layout.syntax not in NATIVE


def _damaged(path: Path, reason: str) -> UnreadableFile:
    return UnreadableFile(f"{path}: the pixel data are truncated or damaged ({reason}); copy or export it again.")
