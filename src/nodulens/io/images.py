"""MetaImage, NIfTI and NRRD: volumes in, volumes and masks out, through SimpleITK."""

# mypy: allow-untyped-calls
# SimpleITK is typed in part only.

from __future__ import annotations

import gzip
import hashlib
import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Mask, Source, Volume
from nodulens.errors import BadGeometry, BadOption, BadValues, UnreadableFile
from nodulens.io import nifti
from nodulens.io.atomic import whole_file
from nodulens.io.values import check_hounsfield, outside_to_air

READERS = {"metaimage": "MetaImageIO", "nrrd": "NrrdImageIO"}
SUFFIXES = {
    "metaimage": (".mhd", ".mha"),
    "nifti": (".nii", ".nii.gz"),
    "nrrd": (".nrrd", ".nhdr"),
}
# Deflate cannot do better than 1032 to 1.
MAX_DEFLATE = 1032
HEADER_BYTES = 64 * 1024
SPACING_MM = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class Header:
    """What an image file says before its voxels are read.

    Attributes:
        format: "metaimage", "nifti" or "nrrd".
        geometry: of the volume as read: z rises along the slice normal.
        z_reversed: the stored array runs the other way along z.
        files: the header and the files that hold voxels.
        warnings: what could matter.
    """

    format: str
    geometry: Geometry
    z_reversed: bool
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def sniff(path: Path) -> str | None:
    """ "metaimage", "nifti", "nrrd", or None, by content alone."""
    with nifti.unpacking(path) as file:
        head = file.read(4096)
    if nifti.is_nifti(head):
        return "nifti"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if b"\nElementType" in head and b"NDims" in head and head.lstrip()[:1].isalpha():
        return "metaimage"
    return None


def read_header(path: Path, format: str) -> Header:
    """Read where the voxels lie, and check that the files can hold them, before anything is allocated.

    Raises:
        UnreadableFile: wrong suffix, damaged header, missing or short voxel file, colour.
        BadGeometry: not three-dimensional, a single slice, sheared, or impossible spacing.
    """
    suffixes = SUFFIXES[format]
    if not path.name.lower().endswith(suffixes):
        raise UnreadableFile(f"{path} holds {format}, which its suffix hides; rename it to end in {suffixes[0]}.")
    files = (path, *_voxel_files(path, format))
    facts = _nifti_facts(path) if format == "nifti" else _itk_facts(path, format)
    listed = " × ".join(map(str, facts.size))
    if len(facts.size) < 3 or any(n != 1 for n in facts.size[3:]):
        raise BadGeometry(f"{path} is {listed} voxels; a CT has three dimensions. Give one volume.")
    if min(facts.size[:3]) < 2:
        raise BadGeometry(f"{path} is {listed} voxels, a single slice; give the whole scan.")
    _check_bytes(path, files, math.prod(facts.size) * facts.voxel_bytes)
    geometry, z_reversed = _geometry(path, facts)
    warning = "The header does not say how the patient lies: left and right may be exchanged."
    return Header(format, geometry, z_reversed, files, () if facts.placed else (warning,))


def read_image(path: Path, format: str) -> Volume:
    """Read a CT in Hounsfield units.

    Raises:
        UnreadableFile, BadGeometry: as :func:`read_header`, and truncated or damaged voxels.
        BadValues: NaN, or numbers that cannot be HU.
    """
    header = read_header(path, format)
    stored = _voxels(path, header)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        bad = int(stored.size - np.isfinite(stored).sum())
        raise BadValues(f"{path}: {bad} voxels are NaN or infinite; a CT has a number everywhere. Export it again.")
    check_hounsfield(stored, path.name)
    fits = stored.dtype.kind in "iu" and stored.min() >= -32768 and stored.max() <= 32767
    hu = stored.astype(np.int16) if fits else stored.astype(np.float32)
    outside_to_air(hu)
    source = Source(
        format=format, input_sha256=_sha256(header.files), z_reversed=header.z_reversed, warnings=header.warnings
    )
    return Volume(hu, header.geometry, source)


def read_mask(path: str | Path) -> Mask:
    """Read labels from MetaImage, NIfTI or NRRD; each value v > 0 is named "label v".

    Raises:
        UnreadableFile, BadGeometry: as :func:`read_header`.
        BadValues: values that are not whole, below 0 or above 65535.
    """
    path = Path(path)
    format = sniff(path) if path.is_file() else None
    if format is None:
        raise UnreadableFile(f"{path} is no MetaImage, NIfTI or NRRD file; a mask is read from one of these.")
    header = read_header(path, format)
    stored = _voxels(path, header)
    # NaN and infinities fail the comparison as well.
    if not bool(((stored >= 0) & (stored <= 65535)).all()) or np.any(stored != np.floor(stored)):
        raise BadValues(f"{path}: a mask holds whole numbers from 0 to 65535; give the mask, not the scan.")
    labels = stored.astype(np.uint8) if stored.max() <= 255 else stored.astype(np.uint16)
    return Mask(labels, header.geometry, {int(v): f"label {v}" for v in np.unique(labels) if v})


def write_mask(mask: Mask, path: str | Path, *, z_reversed: bool = False) -> None:
    """Write labels as NIfTI (.nii or .nii.gz), whole or not at all.

    Args:
        mask: on the grid of the volume as read.
        path: the file; replaced if it exists.
        z_reversed: store the slices the other way round, as the input did (``source.z_reversed``), so
            that the arrays match voxel by voxel. The place in the patient is the same either way.

    Raises:
        BadOption: another suffix.
        NotFound: the folder is not there.
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
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing_zyx[::-1])
    image.SetOrigin(geometry.origin_lps)
    image.SetDirection(geometry.direction[:, ::-1].ravel().tolist())
    with whole_file(path) as part, tempfile.TemporaryDirectory(prefix="nodulens-") as folder:
        plain = Path(folder) / "image.nii"
        sitk.WriteImage(image, str(plain))
        data = plain.read_bytes()
        # Level 1 is several times faster than the writer's own and hardly larger; no time stamp, so
        # that equal masks make equal files.
        part.write_bytes(gzip.compress(data, 1, mtime=0) if path.name.lower().endswith(".gz") else data)


@dataclass(frozen=True, eq=False)
class _Facts:
    """A header as stored: x before y before z, columns of ``axes`` are LPS mm from voxel to voxel."""

    size: tuple[int, ...]
    axes: NDArray[np.float64]
    origin: tuple[float, float, float]
    voxel_bytes: int
    placed: bool


def _nifti_facts(path: Path) -> _Facts:
    header = nifti.read_header(path)
    x, y, z = header.affine[:, 3].tolist()
    return _Facts(header.size, header.affine[:, :3], (x, y, z), header.dtype.itemsize, header.placed)


def _itk_facts(path: Path, format: str) -> _Facts:
    reader = _reader(path, format)
    with _quiet(), _named(path):
        reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise UnreadableFile(f"{path} has {reader.GetNumberOfComponents()} values a voxel; a CT has one.")
    size = reader.GetSize()
    # A picture of two dimensions is refused by its size; here it only must not break the arithmetic.
    n = min(len(size), 3)
    axes, origin = np.eye(3), np.zeros(3)
    axes[:n, :n] = np.reshape(reader.GetDirection(), (len(size), len(size)))[:n, :n] * reader.GetSpacing()[:n]
    origin[:n] = reader.GetOrigin()[:n]
    voxel_bytes = int(sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent())
    return _Facts(size, axes, (origin[0], origin[1], origin[2]), voxel_bytes, True)


def _geometry(path: Path, facts: _Facts) -> tuple[Geometry, bool]:
    """The grid with z rising along the slice normal, and whether the stored array runs against it."""
    spacing = np.linalg.norm(facts.axes, axis=0)
    if not np.all((spacing >= SPACING_MM[0]) & (spacing <= SPACING_MM[1])):
        listed = " × ".join(f"{s:g}" for s in spacing)
        raise BadGeometry(f"{path}: voxels of {listed} mm are impossible for a CT; is the unit not millimetres?")
    direction = facts.axes / spacing
    # Nearest rotation: headers hold single precision.
    left, _, right = np.linalg.svd(direction)
    if np.abs(left @ right - direction).max() > 1e-3:
        raise BadGeometry(
            f"{path}: the image axes are not at right angles to one another; resample it to an upright grid."
        )
    x, y, z = facts.size[:3]
    geometry = Geometry((z, y, x), (spacing[2], spacing[1], spacing[0]), facts.origin, (left @ right)[:, ::-1])
    if np.linalg.det(direction) > 0:
        return geometry, False
    return geometry.transposed((0, 1, 2), (True, False, False)), True


def _voxels(path: Path, header: Header) -> NDArray[Any]:
    """The stored numbers (z, y, x), z rising along the slice normal."""
    if header.format == "nifti":
        array = nifti.read_voxels(path, nifti.read_header(path))
    else:
        reader = _reader(path, header.format)
        with _quiet(), _named(path):
            array = sitk.GetArrayFromImage(reader.Execute()).reshape(header.geometry.shape)
    return np.ascontiguousarray(array[::-1]) if header.z_reversed else array


def _reader(path: Path, format: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[format])
    reader.SetFileName(str(path))
    return reader


@contextmanager
def _quiet() -> Iterator[None]:
    """ITK writes warnings to the terminal past Python; what matters arrives as an exception."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn ITK's many-lined errors into one that names the file."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("): ")[-1].strip()
        if "orthonormal" in str(error) or "direction" in str(error).lower():
            raise BadGeometry(
                f"{path}: the image axes are not at right angles to one another; resample it to an upright grid."
            ) from error
        raise UnreadableFile(f"{path} is truncated or damaged ({reason}); copy or export it again.") from error


def _voxel_files(path: Path, format: str) -> tuple[Path, ...]:
    """The files beside a header that hold its voxels; empty where they are in the same file.

    Raises:
        UnreadableFile: one is missing or lies elsewhere: a header from a stranger must not open any file.
    """
    with path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    keys = {"metaimage": "elementdatafile", "nrrd": "datafile"}
    named, following = "", []
    for i, line in enumerate(lines := text.splitlines()):
        key, _, value = line.partition("=" if format == "metaimage" else ":")
        if key.replace(" ", "").lower() == keys.get(format):
            named, following = value.strip().lstrip("="), lines[i + 1 :]
            break
        if format == "nrrd" and not line.strip():
            break
    if not named or named.upper() == "LOCAL":
        return ()
    words = named.split()
    if words[0].upper() == "LIST":
        names: Iterable[str] = (line.strip() for line in following if line.strip())
    elif re.fullmatch(r"[^%]*%0?\d?d[^%]*", words[0]) and all(w.isdigit() for w in words[1:4]) and len(words) > 2:
        first, last, step = (int(w) for w in [*words[1:4], "1"][:3])
        names = (words[0] % n for n in range(first, last + 1, max(step, 1)))
    else:
        names = (named,)
    found = []
    for name in names:
        if ".." in Path(name).parts or Path(name).is_absolute() or PureWindowsPath(name).drive:
            raise UnreadableFile(f"{path} points at {name!r}; its voxels must lie in the same folder.")
        if not (path.parent / name).is_file():
            raise UnreadableFile(f"{path} needs {name!r} beside it, which is not there; copy both files.")
        found.append(path.parent / name)
    return tuple(found)


def _check_bytes(path: Path, files: tuple[Path, ...], promised: int) -> None:
    """Refuse a header that promises more than its files can hold, before memory is asked for."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    words = head.lower().replace(b" ", b"")
    packed = head[:2] == nifti.GZIP_MAGIC or b"compresseddata=true" in words
    packed = packed or (words.startswith(b"nrrd") and b"encoding:raw" not in words)
    held = sum(file.stat().st_size for file in files)
    if promised > held * (MAX_DEFLATE if packed else 1):
        raise UnreadableFile(
            f"{path}: the header promises {promised / 2**20:,.2f} MiB of voxels, the file holds {held / 2**20:,.2f}; "
            "it is truncated or its header is wrong. Copy or export it again."
        )


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
