"""NIfTI-1 and NIfTI-2 in single files, packed or not: the header, parsed strictly, and writing.

Our own rather than nibabel's, which serves analysis of files one trusts: it takes header bytes for voxels where
vox_offset is 0, fails on an infinite one, leaves bytes behind the voxels and the checksum of gzip unread, and
takes NaN for a place. ITK's reader turns NaN into 0 (water) and what a truncated file lacks into zeros. Source:
nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.errors import BadGeometry, UnreadableFile
from nodulens.io.files import open_regular
from nodulens.io.stored import MAX_RESCALE, NOT_PLACED, Part, Stored, check_size
from nodulens.io.unfold import GZIP_MAGIC, beginning

MAGICS = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
PAIR_MAGICS = {348: b"ni1\0", 540: b"ni2\0\r\n\x1a\n"}
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
COLOURS = (128, 2304)
# Metres, millimetres and micrometres in millimetres, by the low three bits of xyzt_units; 0 says nothing.
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
CODES = range(6)
"""What qform_code and sform_code may be: nothing, scanner, aligned, Talairach, MNI 152, other template."""
MAX_EXTENSIONS = 16 * 2**20
"""Bytes between header and voxels: extensions hold a DICOM header or a page of XML."""
MIN_SLOPE = 1e-9
"""The least that a 32-bit number is scaled by to reach ±1 HU."""
FORMS_ALIKE_MM = 1.0
# Field → struct format and offset, by the size of the header.
LAYOUTS: dict[int, dict[str, tuple[str, int]]] = {
    348: {
        "magic": ("4s", 344),
        "dim": ("8h", 40),
        "datatype": ("2h", 70),
        "pixdim": ("8f", 76),
        "offset": ("f", 108),
        "scale": ("2f", 112),
        "units": ("B", 123),
        "codes": ("2h", 252),
        "quaternion": ("6f", 256),
        "rows": ("12f", 280),
    },
    540: {
        "magic": ("8s", 4),
        "dim": ("8q", 16),
        "datatype": ("2h", 12),
        "pixdim": ("8d", 104),
        "offset": ("q", 168),
        "scale": ("2d", 176),
        "units": ("i", 500),
        "codes": ("2i", 344),
        "quaternion": ("6d", 352),
        "rows": ("12d", 400),
    },
}


def is_nifti(head: bytes) -> bool:
    """Whether a file's first 348 unpacked bytes are a NIfTI header."""
    magics = [magic[:4] for magic in (*MAGICS.values(), *PAIR_MAGICS.values())]
    return head[344:348] in magics or head[4:8] in magics


def head_of(path: Path, count: int) -> bytes:
    """The first bytes of a file, unpacked where it is gzipped; none where the packed stream is damaged at once."""
    with open_regular(path) as file:
        head = file.read(count)
        if not head.startswith(GZIP_MAGIC):
            return head
        file.seek(0)
        return beginning(file, count)


def read_header(path: Path) -> Stored:
    """Read the header.

    Raises:
        UnreadableFile: damaged, colour, or its voxels are in another file (.hdr and .img).
        BadGeometry: geometry is not a finite number.
    """
    head = head_of(path, 540)
    field, order, size = _fields(path, head)
    code, bits = field["datatype"]
    if code in COLOURS:
        raise UnreadableFile(f"{path} is in colour, with 3 values a voxel or more; a CT has one.")
    if code not in TYPES:
        raise UnreadableFile(f"{path} holds NIfTI data type {code}, not one number a voxel; export it again.")
    dtype = np.dtype(order + TYPES[code])
    if bits not in (0, 8 * dtype.itemsize):
        raise UnreadableFile(f"{path} has a damaged NIfTI header: data type {code} in {bits} bits; export it again.")
    axes = field["dim"][0]
    if not 1 <= axes <= 7:
        raise UnreadableFile(f"{path} has a damaged NIfTI header ({axes} dimensions); export it again.")
    start = _start(path, field["offset"][0], size + 4)
    affine, warnings = _affine(path, field)
    x, y, z = affine[:, 3].tolist()
    with open_regular(path) as file:
        packed = file.read(2) == GZIP_MAGIC
    return Stored(
        size=check_size(path, field["dim"][1 : 1 + axes]),
        axes=affine[:, :3],
        origin=(x, y, z),
        dtype=dtype,
        parts=(Part(path, 0 if packed else start),),
        packing="gzip" if packed else None,
        skip=start if packed else 0,
        scale=_scale(path, *field["scale"]),
        warnings=warnings,
    )


def encode(array: NDArray[Any], geometry: Geometry, *, packed: bool) -> Iterator[bytes]:
    """A NIfTI-1 file, slice by slice.

    Args:
        array: (z, y, x) uint8, uint16, int16 or float32.
        geometry: its grid.
        packed: gzip it, without a time stamp, so that equal arrays make equal files.

    Raises:
        BadGeometry: an axis longer than the format's 16 bits hold.
    """
    if max(array.shape) > 32_767:
        raise BadGeometry(f"A volume of {array.shape} voxels (z, y, x) is too long for NIfTI, which ends at 32,767.")
    slices = (image.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for image in array)
    parts = chain([_header(array, geometry)], slices)
    return _gzipped(parts) if packed else parts


def _gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    # Level 1 is several times faster than the default and hardly larger.
    engine = zlib.compressobj(1, zlib.DEFLATED, 31)
    yield from map(engine.compress, parts)
    yield engine.flush()


def _fields(path: Path, head: bytes) -> tuple[dict[str, tuple[Any, ...]], str, int]:
    """The fields, the byte order and the size of the header."""
    # A NIfTI-1 file of a few voxels is shorter than a NIfTI-2 header.
    sizes = [(order, struct.unpack_from(order + "i", head)[0]) for order in "<>" if len(head) >= 348]
    order, size = next(((o, s) for o, s in sizes if s in LAYOUTS and len(head) >= s), ("", 0))
    if not head:
        raise UnreadableFile(f"{path} is truncated or damaged; copy or export it again.")
    if not size:
        raise UnreadableFile(f"{path} has a damaged NIfTI header; copy or export it again.")
    field = {key: struct.unpack_from(order + form, head, at) for key, (form, at) in LAYOUTS[size].items()}
    magic = field["magic"][0]
    if magic == PAIR_MAGICS[size]:
        raise UnreadableFile(f"{path} keeps its voxels in an .img file; convert the pair to one .nii file.")
    if magic != MAGICS[size]:
        raise UnreadableFile(f"{path} has a damaged NIfTI header (magic {magic!r}); copy or export it again.")
    return field, order, size


def _start(path: Path, offset: float, least: int) -> int:
    """Offset of the first voxel in the unpacked file."""
    # Written so that NaN fails as well.
    if not least <= offset <= least + MAX_EXTENSIONS or offset != int(offset):
        raise UnreadableFile(
            f"{path} has a damaged NIfTI header: vox_offset is {offset:g}, the voxels of a single file begin at "
            f"{least} or later. Export it again."
        )
    return int(offset)


def _scale(path: Path, slope: float, intercept: float) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 says that there are none, and so do two that are not set (NaN)."""
    if slope == 0 or (math.isnan(slope) and math.isnan(intercept)):
        return 1.0, 0.0
    if not (MIN_SLOPE <= abs(slope) <= MAX_RESCALE and abs(intercept) <= MAX_RESCALE):
        raise UnreadableFile(
            f"{path} has a damaged NIfTI header: an impossible rescale, scl_slope {slope:g} and scl_inter "
            f"{intercept:g}. Export it again."
        )
    return float(slope), float(intercept)


def _affine(path: Path, field: dict[str, tuple[Any, ...]]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Index (x, y, z, 1) → LPS mm, 3 × 4: the sform, or the qform, or pixel sizes alone; and what is left open."""
    by_quaternion, by_rows = field["codes"]
    if by_quaternion not in CODES or by_rows not in CODES:
        raise BadGeometry(
            f"{path} has a damaged NIfTI header: qform_code {by_quaternion} and sform_code {by_rows}, of which each "
            "is between 0 and 5. Export it again."
        )
    unit = field["units"][0] & 7
    if unit not in UNIT_MM:
        raise BadGeometry(f"{path} has a damaged NIfTI header: {unit} is no unit of length. Export it again.")
    warnings: tuple[str, ...] = ()
    if by_rows:
        affine = np.asarray(field["rows"], dtype=np.float64).reshape(3, 4)
        if by_quaternion and _apart(affine, _quaternion_affine(path, field), field["dim"]):
            warnings = ("The header places the volume twice and not alike (qform and sform); the sform was taken.",)
    elif by_quaternion:
        affine = _quaternion_affine(path, field)
    else:
        affine = np.column_stack([np.diag(np.abs(field["pixdim"][1:4])), np.zeros(3)])
        warnings = (NOT_PLACED,)
    if not np.isfinite(affine).all():
        raise BadGeometry(f"{path} has a damaged NIfTI header: a place that is not a finite number. Export it again.")
    # RAS → LPS.
    return np.diag([-1.0, -1.0, 1.0]) @ affine * UNIT_MM[unit], warnings


def _apart(one: NDArray[np.float64], other: NDArray[np.float64], dim: tuple[int, ...]) -> bool:
    """Whether two affines put a corner of the grid into places that differ."""
    corners = np.array([[x, y, z, 1] for x in (0, dim[1]) for y in (0, dim[2]) for z in (0, dim[3])], dtype=float)
    with np.errstate(invalid="ignore", over="ignore"):
        return not bool((np.abs(corners @ (one - other).T) <= FORMS_ALIKE_MM).all())


def _quaternion_affine(path: Path, field: dict[str, tuple[Any, ...]]) -> NDArray[np.float64]:
    """The qform, RAS."""
    pixdim = np.asarray(field["pixdim"], dtype=np.float64)
    b, c, d = field["quaternion"][:3]
    length = b * b + c * c + d * d
    # Headers hold single precision.
    if not length <= 1 + 1e-3 or pixdim[0] not in (-1, 0, 1):
        raise BadGeometry(
            f"{path} has a damaged NIfTI header: the quaternion ({b:g}, {c:g}, {d:g}), pixdim[0] {pixdim[0]:g} is no "
            "rotation. Export it again."
        )
    a = math.sqrt(max(0.0, 1 - length))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    turn[:, 2] *= -1 if pixdim[0] < 0 else 1
    with np.errstate(invalid="ignore"):  # 0 of infinity
        return np.column_stack([turn * np.abs(pixdim[1:4]), field["quaternion"][3:]])


def _quaternion(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last three numbers of a rotation's unit quaternion, the first of which is not negative.

    The eigenvector of Bar-Itzhack's matrix: sound for half turns too, and no scipy.spatial, slow to import.
    """
    rows = [
        [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
        [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
        [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], 0],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
    ]
    vector = np.linalg.eigh(np.array(rows))[1][:, -1]  # of the lower triangle
    sign = next((np.sign(v) for v in (vector[3], *vector[:3]) if abs(v) > 1e-9), 1.0)
    return np.asarray(vector[:3] * sign + 0.0)


def _header(array: NDArray[Any], geometry: Geometry) -> bytes:
    """The 352 bytes before the voxels, with both qform and sform for readers that know one."""
    spacing = geometry.spacing_zyx[::-1]
    # LPS → RAS.
    direction = np.diag([-1.0, -1.0, 1.0]) @ geometry.direction[:, ::-1]
    origin = np.array([-1.0, -1.0, 1.0]) * geometry.origin_lps
    handed = 1.0 if np.linalg.det(direction) > 0 else -1.0
    quaternion = _quaternion(direction * np.array([1.0, 1.0, handed]))
    code = next(code for code, name in TYPES.items() if np.dtype(name) == array.dtype)
    size = (3, *array.shape[::-1], 1, 1, 1, 1)
    values = {
        "magic": MAGICS[348],
        "dim": size,
        "datatype": (code, 8 * array.dtype.itemsize),
        "pixdim": (handed, *spacing, 0, 0, 0, 0),
        "offset": 352,
        "scale": (1, 0),
        "units": 10,  # millimetres and seconds
        "codes": (1, 1),  # scanner coordinates
        "quaternion": (*quaternion, *origin),
        "rows": np.column_stack([direction * spacing, origin]).ravel(),
    }
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    head[38:39] = b"r"  # what ANALYZE readers ask for
    for key, value in values.items():
        form, at = LAYOUTS[348][key]
        struct.pack_into("<" + form, head, at, *np.atleast_1d(np.asarray(value, dtype=object)))
    return bytes(head)
