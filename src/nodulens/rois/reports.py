"""DICOM structured reports after TID 1500: every measurement group as a region.

A group names a segment of a SEG, which is looked for beside the report, or has regions of its own: in the patient
(SCOORD3D), or on images of the scan (SCOORD). A closed line has an inside; points, and the ends of a diameter, are
places. A point with a diameter is the ball round it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from nodulens.core.geometry import Float
from nodulens.core.text import printable
from nodulens.core.volume import Study
from nodulens.errors import BadGeometry, NotFound, UnreadableFile
from nodulens.io.deidentify import Identity
from nodulens.io.dicom_header import Header, Wanted, text
from nodulens.rois import codes
from nodulens.rois.codes import Code, code_of, meaning_of
from nodulens.rois.contours import Contour, Contours, finite
from nodulens.rois.faults import damage_named
from nodulens.rois.grid import Drawn, Grid
from nodulens.rois.roi import Evaluated, Measured, Roi, RoiFile

SOP_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
WANTED = Wanted.more("ContentSequence", "ValueType", "ConceptNameCodeSequence", budget=256 * 2**20)
DEEPEST = 12
"""Levels of content that are followed: TID 1500 has six."""
ROUND = 72
"""Corners of a circle or ellipse."""
FLAT = 0.05
"""Share of its length by which a line may rise in an axial plane."""
TOUCHING = 1e-3
"""Ends of a closed line, in mm or pixels, lie in one place."""


@dataclass(frozen=True, eq=False)
class Graphic:
    """A figure of a report.

    Attributes:
        kind: such as "POLYLINE".
        places: (n, 3) LPS mm; or (n, 2) column and row on an image, of which the first pixel's corner is 0, 0.
        image: UID of that image, and the number of its frame; None in the patient.
    """

    kind: str
    places: Float
    image: tuple[str, int | None] | None

    @property
    def closed(self) -> bool:
        """Whether it has an inside."""
        if self.kind in ("CIRCLE", "ELLIPSE", "POLYGON"):
            return True
        apart = np.abs(self.places[0] - self.places[-1]).max() if len(self.places) else math.inf
        return self.kind == "POLYLINE" and len(self.places) > 3 and bool(apart <= TOUCHING)

    def lps(self, study: Study | None) -> Float:
        """Its corners, (n, 3) LPS mm; of a round figure on the circumference.

        Raises:
            BadGeometry: it lies on an image that is not among those of the scan.
        """
        places = _circumference(self.kind, self.places)
        if self.image is None:
            return places
        uid, frame = self.image
        images = study.images if study is not None else ()
        found = [one for one in images if one.sop_instance_uid == uid and one.frame in (None, frame or 1)]
        if study is None or not found:
            raise BadGeometry(
                f"A region of the report lies on image {printable(uid)}, which is not of this scan; give the scan."
            )
        across, down = np.array(study.cosines).reshape(2, 3)
        rows, columns = study.spacing
        x, y = (places - 0.5).T
        return np.asarray(found[0].position_lps) + np.outer(x * columns, across) + np.outer(y * rows, down)


@dataclass(frozen=True, eq=False)
class Graphics:
    """The figures of a measurement group.

    Attributes:
        figures: at least one.
        diameter_mm: that the group states; None: none.
        name: of the region, for messages.
    """

    figures: tuple[Graphic, ...]
    diameter_mm: float | None
    name: str

    @property
    def outlined(self) -> bool:
        """See :class:`nodulens.rois.roi.Shape`."""
        return any(figure.closed for figure in self.figures)

    def on(self, grid: Grid) -> Drawn | None:
        """See :class:`nodulens.rois.roi.Shape`."""
        closed = tuple(Contour(figure.lps(grid.study)) for figure in self.figures if figure.closed)
        return Contours(closed, np.empty((0, 3)), self.name).on(grid)

    def points(self, grid: Grid) -> Float:
        """See :class:`nodulens.rois.roi.Shape`."""
        found = np.concatenate([figure.lps(grid.study) for figure in self.figures])
        if len(found) == 1 and self.diameter_mm:
            return found + np.array([[-1.0], [1.0]]) * self.diameter_mm / 2
        if len(found) == 2:
            return _round_ends(found)
        return found


Segments = Callable[[str], RoiFile]
"""From the SOP instance UID of a SEG to its regions; raises NotFound."""


def reports_of(header: Header, segments: Segments) -> RoiFile:
    """The measurement groups of an SR that say where they are.

    Args:
        header: read as :data:`WANTED` says.
        segments: finds a segmentation that the report refers to.

    Raises:
        UnreadableFile: a damaged report, one after another template, or a segment that its segmentation has not.
        NotFound: it refers to a segmentation that is not there, or no group says where it is.
    """
    with damage_named(header.path, "the report"):
        return _reports(header, segments)


def _reports(header: Header, segments: Segments) -> RoiFile:
    path = header.path
    groups = [item for item in _items(header.data) if _name(item) == codes.GROUP]
    if not groups:
        raise UnreadableFile(f"{path} is a report without measurement groups: it is not after template TID 1500.")
    segmented = {_tracking_uid(group) for group in groups if _segment(group) is not None} - {""}
    # a figure of what a segment shows whole is no region of its own
    groups = [group for group in groups if _segment(group) is not None or _tracking_uid(group) not in segmented]
    identity = Identity.of(header.patient)
    rois, nowhere = [], 0
    for number, group in enumerate(groups, start=1):
        found = _group(number, group, segments, path)
        rois += [] if found is None else [replace(found, private=identity.occurs_in(found.name))]
        nowhere += found is None
    if not rois:
        raise NotFound(f"{path}: none of its {len(groups)} measurement groups says where it is.")
    note = f"{path.name}: {nowhere} of {len(groups)} measurement groups do not say where they are."
    named = [segment for group in groups if (segment := _segment(group)) is not None]
    grid = segments(named[0][0]).grid if named else None
    patient = text(header.data.get("PatientID"))
    return RoiFile(path, "DICOM SR", tuple(rois), patient, grid, (note,) if nowhere else ())


def _group(number: int, group: Dataset, segments: Segments, path: Path) -> Roi | None:
    """A group as a region; None where it does not say where it is."""
    items = _children(group)
    uid = _tracking_uid(group)
    measured = tuple(one for item in items if (one := _measured(item)) is not None)
    region = _referenced(group, uid, segments, path) or _drawn(group, measured, path)
    if region is None:
        return None
    name = next((text(item.get("TextValue")) for item in items if _name(item) == codes.TRACKING_ID), "")
    evaluated = tuple(stated for item in items if (stated := _evaluated(item)) is not None)
    return replace(region, number=number, name=name, tracking_uid=uid, measured=measured, evaluated=evaluated)


def _tracking_uid(group: Dataset) -> str:
    """By which groups and segments name the same finding; empty without one."""
    return next((text(item.get("UID")) for item in _children(group) if _name(item) == codes.TRACKING_UID), "")


def _referenced(group: Dataset, tracking_uid: str, segments: Segments, path: Path) -> Roi | None:
    """The segment that a group names; None where it names none."""
    segment = _segment(group)
    if segment is None:
        return None
    uid, number = segment
    file = segments(uid)
    found = [roi for roi in file.rois if roi.number == number]
    if not found:
        raise UnreadableFile(f"{path} refers to segment {number} of {file.path.name}, which has none of that number.")
    if tracking_uid and found[0].tracking_uid not in ("", tracking_uid):
        raise UnreadableFile(
            f"{path} and {file.path.name} do not belong together: segment {number} has another tracking UID there."
        )
    return found[0]


def _drawn(group: Dataset, measured: Sequence[Measured], path: Path) -> Roi | None:
    """The figures of a group as a region; None where it has none."""
    below = list(_items(group))
    figures = tuple(figure for item in below if (figure := _figure(item)) is not None)
    if not figures:
        return None
    frames = {text(item.get("ReferencedFrameOfReferenceUID")) for item in below} - {""}
    if len(frames) > 1:
        raise UnreadableFile(f"{path}: a measurement group has regions of {len(frames)} frames of reference.")
    diameter = next((m.value for m in measured if m.code in codes.DIAMETERS and m.unit == "mm" and m.value > 0), None)
    finding = next((item.ConceptCodeSequence[0] for item in below if _name(item) == codes.FINDING), Dataset())
    shape = Graphics(figures, diameter, "of the report")
    frame = frames.pop() if frames else None
    body = code_of(finding) in codes.LUNG
    return Roi(0, "", shape, meaning_of(finding), finding=not body, frame_of_reference_uid=frame)


def _segment(group: Dataset) -> tuple[str, int] | None:
    """UID of the segmentation and number of the segment that a group names."""
    for item in _children(group):
        if _name(item) in (codes.SEGMENT, codes.SEGMENT_FRAME) and item.get("ReferencedSOPSequence"):
            named = item.ReferencedSOPSequence[0]
            number = named.get("ReferencedSegmentNumber")
            if number is not None:
                first = number[0] if isinstance(number, Sequence) and not isinstance(number, str) else number
                return text(named.ReferencedSOPInstanceUID), int(first)
    return None


def _figure(item: Dataset) -> Graphic | None:
    """A figure of a report, with the image that it was selected from."""
    kind = text(item.get("ValueType"))
    if kind not in ("SCOORD", "SCOORD3D"):
        return None
    width = 3 if kind == "SCOORD3D" else 2
    places = finite(item.get("GraphicData") or (), "GraphicData").reshape(-1, width)
    if not len(places):
        return None
    image = None
    if width == 2:
        sources = [one.ReferencedSOPSequence[0] for one in _children(item) if one.get("ReferencedSOPSequence")]
        if not sources:
            raise ValueError("a region on an image does not name the image")
        frame = sources[0].get("ReferencedFrameNumber")
        image = text(sources[0].ReferencedSOPInstanceUID), None if frame is None else int(frame)
    return Graphic(text(item.get("GraphicType")).upper(), places, image)


def _round_ends(ends: Float) -> Float:
    """The corners of the box round a circle of which a line is the diameter; flat where the line is axial."""
    length = float(np.linalg.norm(ends[1] - ends[0]))
    axial = abs(float(ends[1, 2] - ends[0, 2])) < FLAT * length
    half = np.array([1.0, 1.0, 0.0 if axial else 1.0]) * length / 2
    return np.asarray(ends.mean(axis=0) + np.array([[-1.0], [1.0]]) * half)


def _circumference(kind: str, places: Float) -> Float:
    """Corners of a round figure; the places of any other."""
    turn = np.linspace(0, 2 * np.pi, ROUND, endpoint=False)[:, None]
    if kind == "CIRCLE" and len(places) == 2 and places.shape[1] == 2:  # middle, and a point on it
        radius = float(np.linalg.norm(places[1] - places[0]))
        return np.asarray(places[0] + radius * np.concatenate([np.cos(turn), np.sin(turn)], axis=1))
    if kind == "ELLIPSE" and len(places) == 4:  # ends of the major and of the minor axis
        middle = places.mean(axis=0)
        return np.asarray(
            middle + np.cos(turn) * (places[1] - places[0]) / 2 + np.sin(turn) * (places[3] - places[2]) / 2
        )
    return places


def _evaluated(item: Dataset) -> Evaluated | None:
    if item.get("ValueType") != "CODE" or not item.get("ConceptCodeSequence"):
        return None
    value = item.ConceptCodeSequence[0]
    return Evaluated(_name(item), _words(item), code_of(value), meaning_of(value))


def _measured(item: Dataset) -> Measured | None:
    if item.get("ValueType") != "NUM" or not item.get("MeasuredValueSequence"):
        return None
    value = item.MeasuredValueSequence[0]
    unit = (value.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
    number = float(value.NumericValue)
    if not math.isfinite(number):
        raise ValueError("a measurement is no finite number")
    return Measured(_name(item), _words(item), number, code_of(unit)[0])


def _items(data: Dataset, depth: int = 0) -> Iterator[Dataset]:
    """All content below an item, in the order of the report."""
    if depth > DEEPEST:
        raise ValueError("its content is nested beyond measure")
    for item in _children(data):
        yield item
        yield from _items(item, depth + 1)


def _children(item: Dataset) -> Sequence[Dataset]:
    return item.get("ContentSequence") or ()


def _name(item: Dataset) -> Code:
    return code_of((item.get("ConceptNameCodeSequence") or [Dataset()])[0])


def _words(item: Dataset) -> str:
    return meaning_of((item.get("ConceptNameCodeSequence") or [Dataset()])[0])
