"""DICOM scans of noise, reports of balls in them, and structured reports put together item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

import dicom_files
import made_reports
from dicom_files import save, slices
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.report.record import Report, ScanSummary

SHAPE = (12, 41, 47)
"""An odd number of pixels: frames do not end where bytes do."""
BALLS = ((0.5, 0.5, 0.5, 6.3), (0.4, 0.3, 0.7, 4.1))
"""Middle of a nodule as shares of the volume (z, y, x), and its radius in mm."""
STUDY = {
    "StudyDate": "20240131",
    "StudyTime": "101112",
    "StudyID": "S-77",
    "AccessionNumber": "ACC-4711",
    "ReferringPhysicianName": "Meier^Änne",
    "StudyDescription": "CT THORAX MEIER",
    "PatientSex": "F",
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "Müller^Jörg",
}


def noise() -> np.ndarray:
    """HU that differ from slice to slice."""
    return np.random.default_rng(0).integers(-900, 100, SHAPE).astype(np.int16)


def turned(seed: int) -> tuple[float, ...]:
    """Image axes in any direction."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return tuple(np.round(np.r_[axes[:, 0], axes[:, 1]], 6).tolist())


def plain(folder: Path, **changes: object) -> Path:
    return save(folder / "ct", slices(noise(), **{**STUDY, **changes}))


def balls(geometry: Geometry) -> list[tuple[np.ndarray, float]]:
    """LPS middle and radius of each nodule."""
    return [(geometry.to_lps(np.multiply(b[:3], np.subtract(geometry.shape, 1))), b[3]) for b in BALLS]


def reported(ct: Volume) -> Report:
    """A report of two lungs and the balls."""
    index = np.stack(np.meshgrid(*map(np.arange, ct.geometry.shape), indexing="ij"), axis=-1)
    points = ct.geometry.to_lps(index)
    like = made_reports.report(made_reports.scan(), 2)
    nodules = []
    for known, (middle, radius) in zip(like.nodules, balls(ct.geometry), strict=True):
        whole = ((points - middle) ** 2).sum(axis=-1) < radius**2
        box = Box.of_mask(whole)
        place = replace(known.position, central_slice=round((box.start[0] + box.stop[0] - 1) / 2))
        centre = ct.geometry.to_lps(np.argwhere(whole)).mean(axis=0)
        measured = replace(known.measurements, volume_mm3=4 / 3 * np.pi * radius**3)
        nodules.append(
            replace(
                known,
                box=box,
                mask=whole[box.slices],
                heat=None,
                position=place,
                centre_lps=tuple(centre.tolist()),
                measurements=measured,
            )
        )
    labels = np.zeros(ct.geometry.shape, np.uint8)
    labels[1:-1, 5:-5, 4:20], labels[1:-1, 5:-5, 25:-4] = 1, 2
    labels[4, 15:18, 8:11] = 0  # a hole
    lungs = Mask(labels, ct.geometry, {1: "left lung", 2: "right lung"})
    return replace(like, nodules=tuple(nodules), lung_mask=lungs, scan=ScanSummary.of(ct))


# ---- structured reports


def saved(data: Dataset, path: Path) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def item_of(kind: str, name: tuple[str, str, str], **values: object) -> Dataset:
    out, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = name
    out.ValueType, out.ConceptNameCodeSequence = kind, Items([code])
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return out


def coded(value: str, scheme: str, meaning: str) -> Items:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Items([code])


def number_of(name: tuple[str, str, str], value: float, unit: str = "mm") -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = str(value), coded(unit, "UCUM", unit)
    return item_of("NUM", name, MeasuredValueSequence=Items([measured]))


def sr_of(*groups: Sequence[Dataset]) -> Dataset:
    """A report of measurement groups, each of content items."""
    made = dicom_files.slices()[0]
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(made, keyword)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    made.Modality = "SR"
    parts = [
        item_of("CONTAINER", ("125007", "DCM", "Measurement Group"), ContentSequence=Items(group)) for group in groups
    ]
    whole = item_of("CONTAINER", ("126010", "DCM", "Imaging Measurements"), ContentSequence=Items(parts))
    made.ValueType, made.ContentSequence = "CONTAINER", Items([whole])
    return made


def figure(kind: str, places: np.ndarray, image: tuple[str, int | None] | None = None, frame: str = "") -> Dataset:
    out = item_of("SCOORD3D" if image is None else "SCOORD", ("111030", "DCM", "Image Region"))
    out.GraphicType, out.GraphicData = kind, np.asarray(places, dtype=np.float32).ravel().tolist()
    if image is None:
        out.ReferencedFrameOfReferenceUID = frame
        return out
    source, named = Dataset(), Dataset()
    named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", image[0]
    source.ValueType, source.RelationshipType, source.ReferencedSOPSequence = "IMAGE", "SELECTED FROM", Items([named])
    out.ContentSequence = Items([source])
    return out
