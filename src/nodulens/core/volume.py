"""Voxels with their place: a CT in Hounsfield units, and label masks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.errors import BadGeometry, BadValues

AIR_HU = -1000


@dataclass(frozen=True)
class SliceRef:
    """Which stored image a slice came from."""

    sop_instance_uid: str
    instance_number: int | None


@dataclass(frozen=True)
class Patient:
    """The patient's identity, which is written only with ``--identify``."""

    name: str
    patient_id: str
    birth_date: str


@dataclass(frozen=True)
class StoredImage:
    """An image of a DICOM series, or a frame of one, as objects that are derived from it refer to it.

    Attributes:
        sop_class_uid, sop_instance_uid: of the instance.
        frame: number of the frame, from 1, in a multi-frame instance; None in one of a single image.
        position_lps: LPS mm (x, y, z) of the centre of the first pixel.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    position_lps: tuple[float, float, float]


@dataclass(frozen=True)
class Study:
    """What a DICOM series says of its patient, its study and its images, for objects that belong to that study.

    It says who was scanned, and goes into such objects alone: no report has it.

    Attributes:
        elements: DICOM keyword and value of what describes patient and study; an empty value is unknown.
        images: those that the volume was made of, rising along the slice normal.
        size: rows and columns of each.
        cosines: direction of rising column index, then of rising row index, LPS (x, y, z) each.
        spacing: mm between rows, between columns.
    """

    elements: tuple[tuple[str, str], ...]
    images: tuple[StoredImage, ...] = ()
    size: tuple[int, int] = (0, 0)
    cosines: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()


@dataclass(frozen=True)
class Source:
    """The origin of a volume; everything a report says about the scan.

    Attributes:
        format: "dicom", "metaimage", "nifti", "nrrd" or "array".
        input_sha256: hash of the file where the format has no series UID.
        slices: one per slice, in the order of the volume; empty where the format has none.
        z_reversed: the stored array runs against the slice normal, so index z there is n − 1 − z here.
        study: what objects derived from a DICOM series take over from it.
        warnings: what was noticed and put right, or could matter.
    """

    format: str = "array"
    series_uid: str | None = None
    study_uid: str | None = None
    frame_of_reference_uid: str | None = None
    input_sha256: str | None = None
    description: str = ""
    manufacturer: str = ""
    kernel: str | None = None
    slice_thickness_mm: float | None = None
    contrast: bool | None = None
    slices: tuple[SliceRef, ...] = ()
    z_reversed: bool = False
    patient: Patient | None = field(default=None, repr=False)
    study: Study | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT.

    Args:
        hu: (z, y, x) float32 or int16 Hounsfield units; made read-only.
        geometry: its grid; z rises along the slice normal (the axes are right-handed in the order x, y, z).
        source: where it came from.

    Raises:
        BadGeometry: the array's shape is not the geometry's.
        BadValues: NaN or infinite values, or another number type.
    """

    hu: NDArray[np.float32] | NDArray[np.int16]
    geometry: Geometry
    source: Source = Source()

    def __post_init__(self) -> None:
        if self.hu.dtype not in (np.dtype(np.float32), np.dtype(np.int16)):
            raise BadValues(f"A volume holds float32 or int16 Hounsfield units, got {self.hu.dtype}.")
        if tuple(self.hu.shape) != self.geometry.shape:
            raise BadGeometry(f"The array is {self.hu.shape}, its geometry says {self.geometry.shape}.")
        if bad := count_not_finite(self.hu):
            raise BadValues(f"{bad} voxels are NaN or infinite; a CT has a number everywhere. Export it again.")
        view = self.hu.view()
        view.setflags(write=False)
        object.__setattr__(self, "hu", view)

    def crop(self, box: Box, fill: float = AIR_HU) -> Volume:
        """The voxels of a box; outside the volume they are ``fill`` HU."""
        return replace(self, hu=crop_array(self.hu, box, fill), geometry=self.geometry.crop(box))


@dataclass(frozen=True, eq=False)
class Mask:
    """Labels on a grid.

    Args:
        labels: (z, y, x) uint8 (uint16 where nodules are many); 0 is background. Made read-only.
        geometry: its grid.
        names: label value → name, for every value that may occur but 0.

    Raises:
        BadGeometry: the array's shape is not the geometry's.
        BadValues: another number type.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    geometry: Geometry
    names: dict[int, str]

    def __post_init__(self) -> None:
        if self.labels.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise BadValues(f"A mask holds uint8 or uint16 labels, got {self.labels.dtype}.")
        if tuple(self.labels.shape) != self.geometry.shape:
            raise BadGeometry(f"The array is {self.labels.shape}, its geometry says {self.geometry.shape}.")
        view = self.labels.view()
        view.setflags(write=False)
        object.__setattr__(self, "labels", view)

    def value(self, name: str) -> int:
        """The label of a name.

        Raises:
            KeyError: no label of that name.
        """
        values = [value for value, known in self.names.items() if known == name]
        if not values:
            raise KeyError(f"No label {name!r}; there are {sorted(self.names.values())}.")
        return values[0]

    def of(self, name: str) -> NDArray[np.bool_]:
        """True where the named label is.

        Raises:
            KeyError: no label of that name.
        """
        return np.asarray(self.labels == self.value(name))


def count_not_finite(array: NDArray[Any]) -> int:
    """How many values of an array (z, y, x) are NaN or infinite, counted slice by slice."""
    return sum(int(np.count_nonzero(~np.isfinite(image))) for image in array) if array.dtype.kind == "f" else 0


def crop_array(array: NDArray, box: Box, fill: float = 0) -> NDArray:  # type: ignore[type-arg]
    """``array[box]``, padded with ``fill`` where the box reaches beyond the array (z, y, x)."""
    out = np.full(box.shape, fill, dtype=array.dtype)
    lo = [max(a, 0) for a in box.start]
    hi = [min(b, n) for b, n in zip(box.stop, array.shape, strict=True)]
    if all(b > a for a, b in zip(lo, hi, strict=True)):
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(lo, hi, box.start, strict=True))
        out[inside] = array[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
    return out
