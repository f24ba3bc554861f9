"""Sizes in the headers of compressed images, read before a codec allocates memory for them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

# JPEG 2000 starts with SOC and SIZ, in a JP2 file behind a few boxes.
JPEG_2000_START = b"\xff\x4f\xff\x51"
JP2_BYTES = 4096
HTJ2K_PREFIX = "1.2.840.10008.1.2.4.20"
JPEG_START = b"\xff\xd8"
# Frame headers: SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 of JPEG-LS.
JPEG_FRAMES = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)
JPEG_LONE = (0x01, *range(0xD0, 0xD8))
JPEG_SCAN = 0xDA
RLE_HEADER_BYTES = 64


class CodestreamSize(NamedTuple):
    """Rows, columns and values a pixel."""

    rows: int
    columns: int
    components: int


def codestream_size(syntax: str, data: bytes) -> CodestreamSize | None:
    """The size that a compressed image announces; None where its format names none.

    Args:
        syntax: UID of the transfer syntax.
        data: the codestream.

    Raises:
        ValueError: it does not begin as its format does.
    """
    try:
        if syntax in JPEG2000TransferSyntaxes or syntax.startswith(HTJ2K_PREFIX):
            return _jpeg_2000(data)
        if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
            return _jpeg(data)
        if syntax == RLELossless:
            _check_rle(data)
    except (struct.error, IndexError) as error:
        raise ValueError("the compressed image ends within its header") from error
    return None


def _jpeg_2000(data: bytes) -> CodestreamSize:
    at = data.find(JPEG_2000_START, 0, JP2_BYTES)
    if at < 0:
        raise ValueError("the compressed image is no JPEG 2000")
    width, height, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    return CodestreamSize(height - top, width - left, components)


def _jpeg(data: bytes) -> CodestreamSize:
    if not data.startswith(JPEG_START):
        raise ValueError("the compressed image is no JPEG")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {at} of the compressed image")
        while data[at] == 0xFF:  # any number of them may come before a marker
            at += 1
        marker = data[at]
        at += 1
        if marker in JPEG_FRAMES:
            return CodestreamSize(*struct.unpack_from(">HHB", data, at + 3))
        if marker == JPEG_SCAN:
            raise ValueError("the compressed image has no frame header")
        if marker not in JPEG_LONE:
            at += struct.unpack_from(">H", data, at)[0]


def _check_rle(data: bytes) -> None:
    """Segments must follow one another inside the data."""
    count, *starts = struct.unpack_from("<16I", data)
    starts = starts[:count]
    rising = all(a < b for a, b in zip(starts, [*starts[1:], len(data)], strict=True))
    if not 1 <= count <= 15 or starts[0] < RLE_HEADER_BYTES or not rising:
        raise ValueError("the header of the run-length encoded image is damaged")
