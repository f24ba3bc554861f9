"""An RT Structure Set: the lungs and every nodule as contours in the planes of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from nodulens.dicom_objects.segmentation import Segment
from nodulens.dicom_objects.study import MAKER, Context, date_of, equip, time_of
from nodulens.report.pictures import contours
from nodulens.report.record import Report

SERIES_NUMBER = 9804
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management: what the standard has every structure set name its study by."""
COLOURS = {"lung": [90, 160, 255], "nodule": [255, 165, 60]}
Float = NDArray[np.float64]


def structure_set(segments: Sequence[Segment], report: Report, context: Context) -> Dataset:
    """The RTSTRUCT of segments.

    Args:
        segments: at least one.
        report: says how the nodules came about.
        context: of the scan.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid(None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "RTSTRUCT", generate_uid(None), SERIES_NUMBER
    made.InstanceNumber, made.OperatorsName = 1, None
    made.StructureSetLabel, made.StructureSetName = "LUNG_NODULES", "Lungs and lung nodules"
    made.StructureSetDate, made.StructureSetTime = date_of(context.made), time_of(context.made)
    made.FrameOfReferenceUID = context.ct.source.frame_of_reference_uid
    made.ReferencedFrameOfReferenceSequence = Items([_referenced(context)])
    numbered = list(enumerate(segments, start=1))
    made.StructureSetROISequence = Items([_region(n, s, report, context) for n, s in numbered])
    made.ROIContourSequence = Items([_contours(n, s, context) for n, s in numbered])
    made.RTROIObservationsSequence = Items([_observation(n, s) for n, s in numbered])
    made.ApprovalStatus = "UNAPPROVED"
    equip(made, context, "nodulens: lungs and nodules (contours)")
    made.InstanceCreationDate, made.InstanceCreationTime = date_of(context.made), time_of(context.made)
    return made


def _referenced(context: Context) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = context.ct.source.series_uid
    series.ContourImageSequence = Items(context.instances())
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_MANAGEMENT, context.ct.source.study_uid
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID = context.ct.source.frame_of_reference_uid
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _region(number: int, segment: Segment, report: Report, context: Context) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = number, segment.label
    item.ReferencedFrameOfReferenceUID = context.ct.source.frame_of_reference_uid
    by_hand = segment.nodule is not None and report.prompted
    item.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if by_hand else "AUTOMATIC"
    item.ROIGenerationDescription = f"{report.software} {report.recipe}"[:64]
    return item


def _contours(number: int, segment: Segment, context: Context) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = COLOURS["lung" if segment.nodule is None else "nodule"]
    found = []
    for index, bits in segment.masks:
        image = context.images[index]
        for curve in closed_curves(unpacked(bits, context)):
            points = context.point(image, curve)
            contour = Dataset()
            contour.ContourImageSequence = Items(context.references([image]))
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            # hundreds of thousands of numbers: pydicom takes a minute to check as many
            numbers = [f"{value:.4f}" for value in points.ravel().tolist()]
            contour["ContourData"] = DataElement(0x30060050, "DS", numbers, already_converted=True)
            found.append(contour)
    item.ContourSequence = Items(found)
    return item


def _observation(number: int, segment: Segment) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType = "ORGAN" if segment.nodule is None else None
    item.ROIInterpreter = MAKER
    return item


def unpacked(bits: NDArray[np.uint8], context: Context) -> NDArray[np.uint8]:
    """The mask (rows, columns) on an image, 0 and 1, of its packed bits in a :class:`Segment`."""
    rows, columns = context.study.size
    return np.unpackbits(bits, count=rows * columns, bitorder="little").reshape(rows, columns)


def closed_curves(mask: NDArray[np.uint8]) -> Iterator[Float]:
    """The outlines of a mask, half-way between pixels inside and outside; a hole is joined to the outline round it.

    Args:
        mask: (rows, columns), 0 and 1.

    Yields:
        (n, 2) column and row of the corners; 0 is the middle of the first pixel. The standard has no contour of a hole:
        it is reached and left by the same line (PS3.3, C.8.8.6.3).
    """
    corner = np.argwhere(mask).min(axis=0)[::-1]
    low, high = corner, np.argwhere(mask).max(axis=0)[::-1] + 1
    part = mask[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    curves = [curve - 0.5 for curve in contours(part)]
    areas = [area(curve) for curve in curves]
    outer = [curve for curve, area in zip(curves, areas, strict=True) if area > 0]
    whole, sizes = list(outer), [area for area in areas if area > 0]
    for hole in (curve for curve, area in zip(curves, areas, strict=True) if area < 0):
        around = min((k for k, curve in enumerate(whole) if contains(curve, hole[0])), key=sizes.__getitem__)
        outer[around] = _joined(outer[around], hole)
    for curve in outer:
        yield _corners(curve) + low


def contains(curve: Float, point: Float) -> bool:
    """Whether a point lies inside a closed curve (n, 2)."""
    x, y = curve.T
    u, v = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > point[1]) != (v > point[1])
    at = x[crosses] + (point[1] - y[crosses]) / (v[crosses] - y[crosses]) * (u[crosses] - x[crosses])
    return bool(np.count_nonzero(at > point[0]) % 2)


def _corners(curve: Float) -> Float:
    """A curve without the points on the straight line between their neighbours."""
    before, after = curve - np.roll(curve, 1, axis=0), np.roll(curve, -1, axis=0) - curve
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    back = (before * after).sum(axis=1) < 0  # at the end of a line to a hole
    return np.asarray(curve[turns | back])


def area(curve: Float) -> float:
    """What a closed curve (n, 2) holds, negative where it turns the other way, as a hole does."""
    x, y = curve.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _joined(outer: Float, hole: Float) -> Float:
    """An outline that goes to a hole by the shortest way, round it, and back."""
    apart = ((outer[:, None] - hole[None]) ** 2).sum(axis=-1)
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    return np.concatenate([outer[: i + 1], np.roll(hole, -int(j), axis=0), hole[[j]], outer[i:]])
