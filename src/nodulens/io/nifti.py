"""Reading NIfTI-1 and NIfTI-2 single files, packed or not.

ITK's reader turns NaN into 0 (water), takes what a truncated file lacks as zeros and writes to the
terminal; a scan deserves better, and the format is small. Source: nifti1.h and nifti2.h of the NIfTI
Data Format Working Group.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import UnreadableFile

GZIP_MAGIC = b"\x1f\x8b"
MAGICS = (b"n+1\0", b"n+2\0", b"ni1\0", b"ni2\0")
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
COLOURS = (128, 2304)
# Metres and micrometres in millimetres, by the low three bits of xyzt_units.
UNIT_MM = {1: 1000.0, 3: 0.001}
MAX_REST = 16 * 2**20
# Field → struct format and offset, by the size of the header.
LAYOUTS: dict[int, dict[str, tuple[str, int]]] = {
    348: {
        "dim": ("8h", 40),
        "datatype": ("h", 70),
        "pixdim": ("8f", 76),
        "offset": ("f", 108),
        "scale": ("2f", 112),
        "units": ("B", 123),
        "codes": ("2h", 252),
        "quaternion": ("6f", 256),
        "rows": ("12f", 280),
    },
    540: {
        "dim": ("8q", 16),
        "datatype": ("h", 12),
        "pixdim": ("8d", 104),
        "offset": ("q", 168),
        "scale": ("2d", 176),
        "units": ("i", 500),
        "codes": ("2i", 344),
        "quaternion": ("6d", 352),
        "rows": ("12d", 400),
    },
}


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI file says before its voxels.

    Attributes:
        size: voxels along x, y, z and further axes.
        affine: 3 × 4, index (x, y, z, 1) → LPS mm.
        placed: whether the file says how the patient lies; else the axes are taken to be LAS-wise.
        dtype: of the stored numbers, in their byte order.
        start: offset of the first voxel in the unpacked file.
        scale: slope and intercept; (1, 0) where there is none.
    """

    size: tuple[int, ...]
    affine: NDArray[np.float64]
    placed: bool
    dtype: np.dtype[Any]
    start: int
    scale: tuple[float, float]


def is_nifti(head: bytes) -> bool:
    """Whether a file's first 348 unpacked bytes are a NIfTI header."""
    return head[344:348] in MAGICS or head[4:8] in MAGICS


@contextmanager
def unpacking(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked on the way where it is gzipped, whatever its name says.

    Raises:
        UnreadableFile: the block met a truncated or damaged file.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == GZIP_MAGIC
            plain.seek(0)
            # GzipFile is a file of bytes in all but its declared type.
            file: Any = gzip.GzipFile(fileobj=plain) if packed else plain
            yield file
    except (OSError, EOFError, zlib.error, struct.error, OverflowError) as error:
        raise UnreadableFile(f"{path} is truncated or damaged ({error}); copy or export it again.") from error


def read_header(path: Path) -> NiftiHeader:
    """Read the header.

    Raises:
        UnreadableFile: damaged, colour, or its voxels are in another file (.hdr and .img).
    """
    with unpacking(path) as file:
        head = file.read(540)
        sizes = [(order, struct.unpack_from(order + "i", head)[0]) for order in "<>"]
        order, size = next(((o, s) for o, s in sizes if s in LAYOUTS), ("", 0))
        if not size:
            raise UnreadableFile(f"{path} has a damaged NIfTI header; copy or export it again.")
        # A NIfTI-1 file of a few voxels is shorter than a NIfTI-2 header.
        field = {key: struct.unpack_from(order + form, head, at) for key, (form, at) in LAYOUTS[size].items()}
    if head[344:346] == b"ni" or head[4:6] == b"ni":
        raise UnreadableFile(f"{path} keeps its voxels in an .img file; convert the pair to one .nii file.")
    code = field["datatype"][0]
    if code in COLOURS:
        raise UnreadableFile(f"{path} is in colour, with 3 values a voxel or more; a CT has one.")
    if code not in TYPES:
        raise UnreadableFile(f"{path} holds NIfTI data type {code}, not one number a voxel; export it again.")
    axes = field["dim"][0]
    if not 1 <= axes <= 7 or any(n < 1 for n in field["dim"][1 : 1 + axes]):
        raise UnreadableFile(f"{path} has a damaged NIfTI header (dimensions {field['dim']}); export it again.")
    slope, intercept = field["scale"]
    scaled = slope != 0 and np.isfinite(slope) and np.isfinite(intercept)
    return NiftiHeader(
        size=field["dim"][1 : 1 + axes],
        affine=_affine(field),
        placed=any(code > 0 for code in field["codes"]),
        dtype=np.dtype(order + TYPES[code]),
        start=int(field["offset"][0]),
        scale=(float(slope), float(intercept)) if scaled else (1.0, 0.0),
    )


def read_voxels(path: Path, header: NiftiHeader) -> NDArray[Any]:
    """The numbers of a NIfTI file (z, y, x), as stored, or float32 where the header rescales them.

    Raises:
        UnreadableFile: truncated or damaged.
    """
    x, y, z = header.size[:3]
    wanted = x * y * z * header.dtype.itemsize
    with unpacking(path) as file:
        file.seek(header.start)
        data = file.read(wanted)
        # At the end gzip compares its checksum; extensions may stand before it, but not a flood.
        file.read(MAX_REST)
    if len(data) < wanted:
        raise UnreadableFile(f"{path} is truncated: {len(data)} of {wanted} bytes; copy or export it again.")
    array: NDArray[Any] = np.frombuffer(data, header.dtype, x * y * z).reshape(z, y, x)
    array = array.astype(header.dtype.newbyteorder("="), copy=False)
    slope, intercept = header.scale
    return array if header.scale == (1.0, 0.0) else array * np.float32(slope) + np.float32(intercept)


def _affine(field: dict[str, tuple[Any, ...]]) -> NDArray[np.float64]:
    """Index (x, y, z, 1) → LPS mm: the sform, or the qform, or pixel sizes alone."""
    by_quaternion, by_rows = field["codes"]
    pixdim = np.asarray(field["pixdim"], dtype=np.float64)
    if by_rows > 0:
        affine = np.asarray(field["rows"], dtype=np.float64).reshape(3, 4)
    elif by_quaternion > 0:
        b, c, d = field["quaternion"][:3]
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        turn[:, 2] *= -1 if pixdim[0] < 0 else 1
        affine = np.column_stack([turn * np.abs(pixdim[1:4]), field["quaternion"][3:]])
    else:
        affine = np.column_stack([np.diag(np.abs(pixdim[1:4])), np.zeros(3)])
    # RAS → LPS.
    return np.diag([-1.0, -1.0, 1.0]) @ affine * UNIT_MM.get(field["units"][0] & 7, 1.0)
