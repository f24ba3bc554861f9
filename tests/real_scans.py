"""The four whole scans, each analyzed once for all tests, and what is known of them."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

import nodulens as nl
from nodulens.data.folders import boxes_of_voc

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
Finding = tuple[NDArray[np.float64], float]
"""LPS centre (x, y, z) and radius, mm."""


@lru_cache(maxsize=len(SCANS))
def analysed(shared: Path, name: str) -> tuple[nl.Volume, nl.Report]:
    """A scan as read, and what the shipped models find in it at the default threshold."""
    ct = nl.read(shared / "ct" / name)
    return ct, nl.analyze(ct)


def findings(shared: Path, table: str, series_uid: str) -> list[Finding]:
    """A series' rows of ``luna16/<table>.csv``; one without a diameter (−1) counts as 10 mm, as in LUNA16."""
    with (shared / "luna16" / f"{table}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seriesuid"] == series_uid]
    out = []
    for row in rows:
        diameter = float(row["diameter_mm"])
        centre = np.array([float(row["coordX"]), float(row["coordY"]), float(row["coordZ"])])
        out.append((centre, (diameter if diameter > 0 else 10.0) / 2))
    return out


def mass(shared: Path, ct: nl.Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and highest LPS corner of the radiologist's boxes round the mass of Lung_Dx-A0001.

    Some of the boxes were drawn on another series of the patient: those are left out.
    """
    place = {ref.sop_instance_uid: z for z, ref in enumerate(ct.source.slices)}
    corners = []
    for path in (p for p in (shared / "ct" / "Lung_Dx-A0001-boxes").glob("*.xml") if p.stem in place):
        for box in boxes_of_voc(path):  # from face to face of the voxels
            (_, y0, x0), (_, y1, x1) = box.start, box.stop
            corners += [(place[path.stem], y - 0.5, x - 0.5) for y, x in ((y0, x0), (y1, x1))]
    points = ct.geometry.to_lps(corners)
    return points.min(axis=0), points.max(axis=0)


@lru_cache(maxsize=1)
def readers(shared: Path) -> NDArray[np.bool_]:
    """(4, z, y, x): the outlines of the four readers of LIDC-IDRI-0001, on the scan as read, from DICOM SEG."""
    ct, _ = analysed(shared, "LIDC-IDRI-0001")
    return np.stack(list(segmentations(shared, ct).values()))


def segmentations(shared: Path, ct: nl.Volume) -> dict[str, NDArray[np.bool_]]:
    """TCIA's DICOM SEG of LIDC-IDRI-0001: id of the annotation → (z, y, x) on its CT, frames by the image they name."""
    place = {ref.sop_instance_uid: z for z, ref in enumerate(ct.source.slices)}
    found = {}
    for path in sorted((shared / "lidc" / "tcia_seg_sr").glob("SEG_*.dcm")):
        seg = pydicom.dcmread(path)
        mask = np.zeros(ct.geometry.shape, dtype=bool)
        for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
            uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            mask[place[uid]] |= frame > 0
        found[seg.SegmentSequence[0].SegmentLabel.rpartition("Annotation ")[2]] = mask
    return found


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def on_grid(ct: nl.Volume, nodule: nl.Nodule) -> NDArray[np.bool_]:
    """A nodule's mask on the whole grid of a scan."""
    out = np.zeros(ct.geometry.shape, dtype=bool)
    assert nodule.mask is not None
    out[nodule.box.slices] = nodule.mask
    return out
