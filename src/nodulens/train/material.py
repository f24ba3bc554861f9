"""The real training material: nodule stacks, cubes, candidate patches, backgrounds.

Every record carries its patient, so that :mod:`nodulens.data.folds` can keep patients apart. HU come back from the
8-bit files by the formula of each file; coordinates, calibration codes and stack lengths stay out of every input.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.ratings import Ratings
from nodulens.errors import NotFound

UNIT_PER_STEP = 8 / 1400
"""One step of the 8-bit stacks, cubes and backgrounds (HU = 8 · value − 1000) on the networks' 0…1 scale."""


def _load(path: Path) -> dict[str, NDArray]:  # type: ignore[type-arg]
    if not path.exists():
        raise NotFound(f"{path} is not there: --data must name the folder that holds lidc/, luna16/ and background/.")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


class Stacks:
    """2,074 nodules as axial slices at native pixel size; those without any outline are left out."""

    def __init__(self, data: Path) -> None:
        raw = _load(data / "lidc" / "lidc_nodule_stacks.npz")
        self.image: NDArray[np.uint8] = raw["hu_u8"]
        self.bits: NDArray[np.uint8] = raw["reader_bits"]
        self.patients: list[str] = [str(p) for p in raw["patient_id"]]
        self.pixel_mm: NDArray[np.float32] = raw["pixel_spacing_mm"]
        self.slice_mm: NDArray[np.float32] = raw["slice_spacing_mm"]
        self.ratings = Ratings(np.minimum(raw["readers"], 4), raw["ratings"])
        self.calibration: NDArray[np.uint8] = raw["slice_calibration"]
        order = np.lexsort((raw["slice_z_mm"], raw["slice_nodule"]))
        owner = raw["slice_nodule"][order]
        self.rows = [order[owner == n] for n in range(len(self.patients))]
        drawn = np.array([self.bits[r].any() for r in self.rows])
        self.nodules: NDArray[np.int_] = np.flatnonzero(drawn & ~np.isin(self.patients, list(EVALUATION_PATIENTS)))

    def share(self, nodule: int) -> NDArray[np.float32]:
        """(slices, 96, 96): share of the readers whose outline holds each pixel."""
        return reader_share(self.bits[self.rows[nodule]], int(self.ratings.readers[nodule]))


class Cubes:
    """104 nodules as 51³ voxels of 1 mm with the tissue all around, evaluation patients left out."""

    def __init__(self, data: Path) -> None:
        raw = _load(data / "lidc" / "lidc_cubes_51mm.npz")
        keep = ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        self.image: NDArray[np.uint8] = raw["hu_u8"][keep]
        self.bits: NDArray[np.uint8] = raw["reader_bits"][keep]
        self.other: NDArray[np.bool_] = raw["other_nodule"][keep]
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.ratings = Ratings(raw["readers"][keep], raw["ratings"][keep])

    def share(self, nodule: int) -> NDArray[np.float32]:
        """(51, 51, 51): share of the readers whose mask holds each voxel."""
        return reader_share(self.bits[nodule], int(self.ratings.readers[nodule]))


class Patches:
    """LUNA16 candidates as axial 64 × 64 patches.

    Negatives inside a finding that LUNA16 excludes are left out, and so are the evaluation patients. ``weight`` is 1
    for a negative and one over the number of patches of its nodule for a positive.
    """

    def __init__(self, data: Path) -> None:
        raw = _load(data / "luna16" / "luna16_axial_patches_64.npz")
        centres, series = raw["world_xyz_mm"], raw["series_uid"]
        positive = raw["nodule_diameter_mm"] > 0
        inside = _nearest_finding(data / "luna16" / "annotations_excluded.csv", series, centres)
        keep = (positive | (inside < 0)) & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        nodule = _nearest_finding(data / "luna16" / "annotations.csv", series, centres)
        self.unit: NDArray[np.uint8] = raw["hu_u8"][keep]
        self.label: NDArray[np.bool_] = positive[keep]
        self.diameter_mm: NDArray[np.float32] = raw["nodule_diameter_mm"][keep]
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.nodule: NDArray[np.int_] = np.where(self.label, nodule[keep], -1)
        alone = -2 - np.arange(len(self.nodule))  # a negative is a group of its own
        groups = np.where(self.nodule >= 0, self.nodule, alone)
        _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
        self.weight: NDArray[np.float64] = 1.0 / count[group]

    UNIT_PER_STEP = 5.49 / 1400


class Background:
    """The three nodule-free lungs, as the files hold them."""

    PATIENTS = ("LIDC-IDRI-0293", "LIDC-IDRI-0295", "LIDC-IDRI-0306")
    PLEURAL_MASS: ClassVar = {"LIDC-IDRI-0295": ((-92.0, 45.0, -207.0), 35.0)}
    """Patient → LPS centre and radius in mm of a finding that is not annotated: no negatives from there."""


def reader_share(bits: NDArray[np.uint8], readers: int) -> NDArray[np.float32]:
    """Reader bits, any shape → share of ``readers`` whose mask holds each voxel."""
    count = sum(((bits >> j) & 1).astype(np.float32) for j in range(4))
    return np.asarray(count / readers, dtype=np.float32)


def _nearest_finding(path: Path, series: NDArray, centres: NDArray) -> NDArray[np.int_]:  # type: ignore[type-arg]
    """(N,) row of the finding of a LUNA16 table in which each centre lies, or −1. A diameter of −1 counts as 10 mm."""
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [(r["seriesuid"], [float(r[f"coord{a}"]) for a in "XYZ"], float(r["diameter_mm"])) for r in table]
    by_series: dict[str, list[int]] = {}
    for number, (uid, _, _) in enumerate(rows):
        by_series.setdefault(uid, []).append(number)
    out = np.full(len(series), -1)
    for i, (uid, centre) in enumerate(zip(series, centres, strict=True)):
        near = [(float(np.linalg.norm(np.subtract(rows[k][1], centre))), k) for k in by_series.get(str(uid), [])]
        hits = [(d, k) for d, k in near if d <= (rows[k][2] if rows[k][2] > 0 else 10.0) / 2 + 0.5]
        if hits:
            out[i] = min(hits)[1]
    return out
