"""MetaImage, NIfTI and NRRD: volumes in, volumes and masks out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.text import file_name
from nodulens.core.volume import Mask, Source, Volume, count_not_finite
from nodulens.errors import BadGeometry, BadOption, BadValues, NodulensError, UnreadableFile, input_errors
from nodulens.io import metaimage, nifti, nrrd
from nodulens.io.atomic import whole_file
from nodulens.io.files import open_regular
from nodulens.io.stored import Stored, check_bytes, check_voxels, read_voxels, stored_slices
from nodulens.io.values import check_hounsfield, outside_to_air

SUFFIXES = {
    "metaimage": (".mhd", ".mha"),
    "nifti": (".nii", ".nii.gz"),
    "nrrd": (".nrrd", ".nhdr"),
}
PARSERS: dict[str, Callable[[Path], Stored]] = {
    "metaimage": metaimage.read_header,
    "nifti": nifti.read_header,
    "nrrd": nrrd.read_header,
}
SPACING_MM = (0.05, 20.0)
"""No CT has smaller voxels than micro-CT's or thicker slices than the first scanners'."""
SNIFFED_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Header:
    """What an image file says before its voxels are read.

    Attributes:
        format: "metaimage", "nifti" or "nrrd".
        geometry: of the volume as read: z rises along the slice normal.
        z_reversed: the stored array runs the other way along z.
        stored: the header as in the file.
    """

    format: str
    geometry: Geometry
    z_reversed: bool
    stored: Stored

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could matter."""
        return self.stored.warnings


def sniff(path: Path) -> str | None:
    """ "metaimage", "nifti", "nrrd", or None, by content alone; a damaged gzip file is NIfTI if its name says so.

    Raises:
        NotFound, UnreadableFile: no regular file, or one that may not be read.
    """
    head = nifti.head_of(path, SNIFFED_BYTES)
    if nifti.is_nifti(head) or (not head and path.name.lower().endswith(".nii.gz")):
        return "nifti"
    if nrrd.is_nrrd(head):
        return "nrrd"
    return "metaimage" if metaimage.is_metaimage(head) else None


def read_header(path: Path, format: str) -> Header:
    """Read the header, and check that the files can contain the voxels, before anything is allocated.

    Raises:
        UnreadableFile: wrong suffix, damaged header, missing or short voxel file, colour.
        BadGeometry: not three-dimensional, a single slice, sheared, or impossible spacing.
    """
    suffixes = SUFFIXES[format]
    if not path.name.lower().endswith(suffixes):
        raise UnreadableFile(f"{path} holds {format}, which its suffix hides; rename it to end in {suffixes[0]}.")
    stored = PARSERS[format](path)
    listed = " × ".join(map(str, stored.size))
    if len(stored.size) < 3 or any(n != 1 for n in stored.size[3:]):
        raise BadGeometry(f"{path} is {listed} voxels; a CT has three dimensions. Give one volume.")
    if min(stored.size[:3]) < 2:
        raise BadGeometry(f"{path} is {listed} voxels, a single slice; give the whole scan.")
    check_bytes(path, stored)
    geometry, z_reversed = _geometry(path, stored)
    return Header(format, geometry, z_reversed, stored)


def check_image(path: Path, format: str) -> Header:
    """The header of a file whose voxels are there, read through and not kept; their values are not looked at.

    Raises:
        UnreadableFile, BadGeometry: as :func:`read_header`, and truncated or damaged voxels.
    """
    header = read_header(path, format)
    check_voxels(header.stored)
    return header


def read_image(path: Path, format: str) -> Volume:
    """Read a CT in Hounsfield units.

    Raises:
        UnreadableFile, BadGeometry: as :func:`read_header`, and truncated or damaged voxels.
        BadValues: NaN, or numbers that cannot be HU.
    """
    header = read_header(path, format)
    stored = _voxels(path, header)
    if bad := count_not_finite(stored):
        raise BadValues(f"{path}: {bad} voxels are NaN or infinite; a CT has a number everywhere. Export it again.")
    odd = check_hounsfield(stored, file_name(path), header.geometry.spacing_zyx)
    fits = stored.dtype.kind in "iu" and stored.min() >= -32768 and stored.max() <= 32767
    hu: NDArray[Any] = stored.astype(np.int16 if fits else np.float32, copy=False)
    outside_to_air(hu)
    source = Source(
        format=format,
        input_sha256=_sha256(path, header.stored),
        z_reversed=header.z_reversed,
        warnings=header.warnings + odd,
    )
    return Volume(hu, header.geometry, source)


@input_errors()
def read_mask(path: str | Path) -> Mask:
    """Read labels from MetaImage, NIfTI or NRRD; each value v > 0 is named "label v".

    Raises:
        NotFound: there is no such file.
        UnreadableFile, BadGeometry: as :func:`read_header`.
        BadValues: values that are not whole, below 0 or above 65535.
    """
    path = Path(path)
    format = sniff(path)
    if format is None:
        raise UnreadableFile(f"{path} is no MetaImage, NIfTI or NRRD file; a mask is read from one of these.")
    header = read_header(path, format)
    stored = _voxels(path, header)
    whole = stored.dtype.kind in "iu" or np.array_equal(stored, np.floor(stored))
    # NaN and infinities fail the comparisons as well.
    if not (whole and stored.min() >= 0 and stored.max() <= 65535):
        raise BadValues(f"{path}: a mask holds whole numbers from 0 to 65535; give the mask, not the scan.")
    labels = stored.astype(np.uint8) if stored.max() <= 255 else stored.astype(np.uint16)
    return Mask(labels, header.geometry, {int(v): f"label {v}" for v in np.unique(labels) if v})


def write_mask(mask: Mask, path: str | Path, *, z_reversed: bool = False) -> None:
    """Write labels as NIfTI (.nii or .nii.gz), whole or not at all, and read them back before the file appears.

    Args:
        mask: on the grid of the volume as read.
        path: the file; replaced if it exists.
        z_reversed: store the slices the other way round, as the input did (``source.z_reversed``), so
            that the arrays match voxel by voxel. The place in the patient is the same either way.

    Raises:
        BadOption: another suffix, or the file cannot be written, as on a full disk.
        NotFound: the folder is not there.
        UnreadableFile: the file differs from what was written: the disk is damaged.
    """
    _write(mask.labels, mask.geometry, Path(path), z_reversed)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a CT as NIfTI in HU, like :func:`write_mask`, with the slices as its source stored them."""
    _write(volume.hu, volume.geometry, Path(path), volume.source.z_reversed)


def _write(array: NDArray[Any], geometry: Geometry, path: Path, z_reversed: bool) -> None:
    if not path.name.lower().endswith(SUFFIXES["nifti"]):
        raise BadOption(f"{path.name}: volumes and masks are written as NIfTI; give a name ending in .nii.gz.")
    if z_reversed:
        array, geometry = array[::-1], geometry.transposed((0, 1, 2), (True, False, False))
    with whole_file(path) as part:
        with part.open("wb") as file:
            file.writelines(nifti.encode(array, geometry, packed=path.name.lower().endswith(".gz")))
        _check_written(part, path, array)


def _check_written(part: Path, path: Path, array: NDArray[Any]) -> None:
    """Read a file back before it takes its name."""
    try:
        stored = nifti.read_header(part)
        check_bytes(part, stored)
        same = (stored.size[2::-1], stored.scale) == (array.shape, (1.0, 0.0))
        same = same and all(map(np.array_equal, stored_slices(stored), array))  # to the end of the file, if they are
    except NodulensError as error:
        raise UnreadableFile(f"{path} could not be read back after writing ({error}); is the disk damaged?") from error
    if not same:
        raise UnreadableFile(f"{path} does not hold what was written into it; is the disk damaged?")


def _geometry(path: Path, stored: Stored) -> tuple[Geometry, bool]:
    """The grid with z rising along the slice normal, and whether the stored array runs against it."""
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(stored.axes, axis=0)
    # Written so that NaN fails as well.
    if not np.all((spacing >= SPACING_MM[0]) & (spacing <= SPACING_MM[1])):
        listed = " × ".join(f"{s:g}" for s in spacing)
        raise BadGeometry(f"{path}: voxels of {listed} mm are impossible for a CT; is the unit not millimetres?")
    direction = stored.axes / spacing
    # Nearest rotation: headers hold single precision.
    left, _, right = np.linalg.svd(direction)
    if np.abs(left @ right - direction).max() > 1e-3:
        raise BadGeometry(
            f"{path}: the image axes are not at right angles to one another; resample it to an upright grid."
        )
    x, y, z = stored.size[:3]
    try:
        geometry = Geometry((z, y, x), (spacing[2], spacing[1], spacing[0]), stored.origin, (left @ right)[:, ::-1])
    except BadGeometry as error:
        raise BadGeometry(f"{path}: {error} Export it again.") from error
    if np.linalg.det(direction) > 0:
        return geometry, False
    return geometry.transposed((0, 1, 2), (True, False, False)), True


def _voxels(path: Path, header: Header) -> NDArray[Any]:
    """The stored numbers (z, y, x), z rising along the slice normal."""
    array = read_voxels(path, header.stored)
    if header.z_reversed:
        for z in range(len(array) // 2):  # in place: two copies of a long scan may not fit
            array[[z, ~z]] = array[[~z, z]]
    return array


def _sha256(path: Path, stored: Stored) -> str:
    """The sha256 of the header and the files with the voxels, as on disk."""
    digest = hashlib.sha256()
    for file_path in (path, *(part.path for part in stored.parts if part.path != path)):
        with open_regular(file_path) as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
