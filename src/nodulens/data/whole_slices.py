"""Whole axial slices of LIDC-IDRI or LUNA16, as :mod:`nodulens.data.prepare` writes them, a file for each scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nodulens.data.dataset import Item, Sample
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.material import CROP_STEPS
from nodulens.errors import NotFound, UnreadableFile
from nodulens.io.records import Format, decode

SCANS, MANIFEST = "scans", "prepared.json"
"""Folder of the scans' files that :mod:`nodulens.data.prepare` writes, and the record of the last complete run."""
FORM = Format("nodulens-prepared/1", "record of prepared scans")


@dataclass(frozen=True)
class PreparedScans:
    """The record of a complete run of ``nodulens data prepare``.

    Attributes:
        rows: "stacks", "cubes", "patches" and "slices" → number of nodules, cubes, patches and whole slices.
        failed: series UID → error.
        scans: series UID → fingerprint, in the name of the scan's file.
    """

    rows: dict[str, int]
    failed: dict[str, str]
    scans: dict[str, str]


def read_prepared(path: Path) -> PreparedScans:
    """Read :data:`MANIFEST`.

    Raises:
        FileNotFoundError: it does not exist.
        UnreadableFile: it is not valid.
    """
    try:
        return decode(PreparedScans, path.read_text("utf-8"), FORM)
    except (UnicodeDecodeError, UnreadableFile) as error:
        raise UnreadableFile(f"{path} cannot be read: {error} Run nodulens data prepare again.") from error


@dataclass(frozen=True)
class ScanFacts:
    """What figures of slices are related to; NaN where it is unknown. Never an input.

    Attributes:
        spacing_mm, thickness_mm: from slice to slice of the scan, and nominal thickness of each.
        lungs_ml: volume of both lungs.
    """

    spacing_mm: float = math.nan
    thickness_mm: float = math.nan
    lungs_ml: float = math.nan


UNKNOWN = ScanFacts()


@dataclass(frozen=True, eq=False)
class SlicedScan:
    """Whole axial slices of one scan, from low to high; their pixels are read on demand.

    Attributes:
        path: of the file.
        series_uid, patient: of the scan.
        spacing_zyx: mm; of the scan's slices, of which these are some.
        facts: files that were prepared before these were kept have the spacing alone.
        shape: (y, x) of a slice.
        middle: (n,) whether it has the largest cross-section of the lungs.
        central: (n,) whether it has the largest cross-section of a nodule.
        nodule_px, airway_px: (n,) number of pixels.
        airways_known: whether the lungs are of LUNA16's masks, which include the airways.
    """

    path: Path
    series_uid: str
    patient: str
    spacing_zyx: tuple[float, float, float]
    facts: ScanFacts
    shape: tuple[int, int]
    middle: NDArray[np.bool_]
    central: NDArray[np.bool_]
    nodule_px: NDArray[np.int32]
    airway_px: NDArray[np.int32]
    airways_known: bool

    def read(self, rows: NDArray[np.int_]) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.bool_]]:
        """Some of its slices.

        Returns:
            (len(rows), y, x) each: HU; lungs, 1 left, 2 right and 3 airways if known; and nodules by the consensus of
            half of the readers. Rows rise towards posterior, columns towards left.
        """
        with np.load(self.path, allow_pickle=False) as archive:
            steps, lungs, nodule = (archive[f"slices.{name}"][rows] for name in ("hu_u8", "lungs", "nodule"))
        return CROP_STEPS.hu(steps).astype(np.int16), lungs, nodule


class WholeSlices:
    """Whole axial slices of LIDC-IDRI or LUNA16, made by :mod:`nodulens.data.prepare`.

    As a :class:`nodulens.data.dataset.Dataset` an item is a slice, keyed by series UID and its number there, its
    stratum "nodule" or "no nodule".

    Attributes:
        scans: in order of series UID; empty if the folder has none.

    Raises:
        NotFound: preparation was interrupted, or a file is missing.
        UnreadableFile: the record of the run is damaged.
    """

    name: ClassVar[str] = "whole slices"

    def __init__(self, data: Path) -> None:
        found = (_sliced(path, uid) for uid, path in _prepared(data).items())
        self.scans = tuple(scan for scan in found if scan is not None and scan.patient not in EVALUATION_PATIENTS)

    def items(self) -> tuple[Item, ...]:
        """One item for each slice; nothing is read."""
        return tuple(
            Item(f"{scan.series_uid}/{n}", scan.patient, "nodule" if px else "no nodule")
            for scan in self.scans
            for n, px in enumerate(scan.nodule_px)
        )

    def load(self, item: Item) -> Sample:
        """A slice in HU, (1, y, x), with the nodules on it."""
        uid, _, number = item.key.partition("/")
        (scan,) = (scan for scan in self.scans if scan.series_uid == uid)
        hu, _, nodule = scan.read(np.array([int(number)]))
        return Sample(item, hu.astype(np.float32), "hu", scan.spacing_zyx, mask=nodule)


def _prepared(data: Path) -> dict[str, Path]:
    """Series UID → file of every scan of the last complete run of ``nodulens data prepare``; empty without files."""
    manifest = data / MANIFEST
    if not any((data / SCANS).glob("*.npz")):
        return {}
    if not manifest.is_file():
        raise NotFound(
            f"{data} holds {SCANS}/ and no {MANIFEST}: preparing was stopped. Run nodulens data prepare again to "
            "resume it."
        )
    scans = read_prepared(manifest).scans
    return {uid: data / SCANS / f"{uid}.{fingerprint}.npz" for uid, fingerprint in sorted(scans.items())}


def _sliced(path: Path, uid: str) -> SlicedScan | None:
    """The whole slices of a scan's file; None without any.

    Raises:
        NotFound: the file is missing.
    """
    if not path.is_file():
        raise NotFound(f"{path} is gone, and {MANIFEST} names it: run nodulens data prepare again.")
    names = ("patient_id", "slice_spacing_mm", "pixel_spacing_mm", "shape_px", "airways_known")
    with np.load(path, allow_pickle=False) as archive:
        if "slices.patient_id" not in archive or not len(archive["slices.patient_id"]):
            return None
        patient, slice_mm, pixel_mm, shape, known = (archive[f"slices.{name}"][0] for name in names)
        middle, central, nodule_px, airway_px = (
            archive[f"slices.{name}"] for name in ("middle", "central", "nodule_px", "airway_px")
        )
        thickness, volume = (
            float(archive[f"slices.{name}"][0]) if f"slices.{name}" in archive else math.nan
            for name in ("slice_thickness_mm", "lungs_ml")
        )
    return SlicedScan(
        path,
        uid,
        str(patient),
        (float(slice_mm), float(pixel_mm[0]), float(pixel_mm[1])),
        ScanFacts(float(slice_mm), thickness, volume),
        (int(shape[0]), int(shape[1])),
        middle,
        central,
        nodule_px,
        airway_px,
        bool(known),
    )
