"""DICOM Segmentation: every segment as a region.

A frame is a mask in one plane. Frames in the planes of the scan, as far apart as its slices, are put on these slices,
in whatever order they are stored, and slices without a frame are empty. Others make a grid of their own, of which each
voxel of the scan takes the nearest. Of fractional segments that is inside which reaches half of the largest value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from nodulens.core.geometry import Float, Geometry
from nodulens.core.nodule import Box
from nodulens.errors import BadGeometry, UnreadableFile
from nodulens.io.deidentify import Identity
from nodulens.io.dicom_header import Header, Wanted, group_value, groups_of, line, text
from nodulens.io.dicom_planes import planes_of
from nodulens.io.dicom_stream import opened
from nodulens.io.pixels import NATIVE, check_pixels, stored_images
from nodulens.io.plane import Plane
from nodulens.rois.codes import ANATOMY, code_of, meaning_of
from nodulens.rois.faults import damage_named
from nodulens.rois.grid import Drawn, Grid, joined
from nodulens.rois.masks import Cut, reach
from nodulens.rois.roi import Roi, RoiFile

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
}
WANTED = Wanted.more(
    "SegmentSequence",
    "SegmentationType",
    "SegmentsOverlap",
    "MaximumFractionalValue",
    "SpacingBetweenSlices",
    budget=512 * 2**20,
)
"""The functional groups of ten thousand frames."""
MOST_PIXELS = 2**26
"""Of a frame."""
ON_A_SLICE, ALIKE = 0.05, 0.02
"""Shares of the distance of slices: so far off one is a plane in it, and so much may the distances differ."""
PARALLEL = 1e-3
IRREGULAR = 0.1
"""Share of the distance of planes that one may lie off its place in a grid."""
IN_LINE = 0.01
"""Share of a pixel by which planes of a grid may be moved against one another."""


@dataclass(frozen=True, eq=False)
class Frames:
    """A segment: masks in planes.

    Attributes:
        planes: of its frames.
        value: of its pixels where frames hold several segments; None: each pixel says how much of it is inside.
        full: what a pixel that is wholly inside holds.
        spacing_mm: from plane to plane of the file; None of one plane of unknown thickness.
    """

    planes: tuple[Plane, ...]
    value: int | None
    full: int
    spacing_mm: float | None

    @property
    def outlined(self) -> bool:
        """It has an inside."""
        return True

    def on(self, grid: Grid) -> Drawn | None:
        """See :class:`nodulens.rois.roi.Shape`."""
        parts = self._parts
        if not parts:
            return None
        first = parts[0].geometry
        if any(np.abs(part.geometry.direction - first.direction).max() > PARALLEL for part in parts):
            raise BadGeometry(f"{self.planes[0].path}: the frames of a segment are not parallel; export it again.")
        if self._on_slices(grid.geometry, parts):
            return joined([drawn for part in parts if (drawn := _on_slice(part, grid)) is not None])
        return _stacked(parts, self.spacing_mm or grid.geometry.spacing_zyx[0], self.planes[0].path).on(grid)

    def points(self, grid: Grid) -> Float:
        """None: it has an inside."""
        return np.empty((0, 3))

    def _on_slices(self, target: Geometry, parts: Sequence[Cut]) -> bool:
        if np.abs(parts[0].geometry.direction - target.direction).max() > PARALLEL:
            return False
        step = target.spacing_zyx[0]
        if self.spacing_mm is not None and abs(self.spacing_mm - step) > ALIKE * step:
            return False
        heights = target.to_index([part.geometry.origin_lps for part in parts])[:, 0]
        return bool((np.abs(heights - np.rint(heights)) <= ON_A_SLICE).all())

    @cached_property
    def _parts(self) -> tuple[Cut, ...]:
        """What is inside on each frame that has anything, cropped."""
        found = []
        for plane, image in zip(self.planes, _images(self.planes), strict=True):
            inside = image == self.value if self.value is not None else image >= self.full / 2
            if inside.any():
                whole = inside[None]
                box = Box.of_mask(whole)
                frame = _geometry(plane, self.spacing_mm)
                found.append(Cut(frame.crop(box), np.ascontiguousarray(whole[box.slices])))
        return tuple(found)


def segments_of(header: Header) -> RoiFile:
    """The segments of a SEG.

    Args:
        header: read as :data:`WANTED` says.

    Raises:
        UnreadableFile: a damaged header, no segments, truncated or compressed pixels that cannot be read.
        BadGeometry: frames without a place in the patient.
    """
    with damage_named(header.path, "the segmentation's header"):
        return _segments(header)


def _segments(header: Header) -> RoiFile:
    data, path = header.data, header.path
    items = list(data.get("SegmentSequence") or [])
    planes = tuple(planes_of(header))
    if not items or not planes:
        raise UnreadableFile(f"{path} is a segmentation without {'frames' if items else 'segments'}; export it again.")
    for plane in planes:
        if plane.position is None or plane.cosines is None or plane.spacing is None:
            raise BadGeometry(f"{path}: a frame has no place in the patient; export the segmentation with positions.")
        if not 1 <= math.prod(plane.size) <= MOST_PIXELS:
            raise UnreadableFile(f"{path}: frames of {plane.size[0]} × {plane.size[1]} pixels are none of a CT.")
        _geometry(plane, 1.0)
    _check_pixels(header, planes)
    kind = text(data.get("SegmentationType")).upper()
    labelled = kind == "LABELMAP" or header.sop_class.endswith("66.7")
    fractional = kind == "FRACTIONAL"
    full = int(data.get("MaximumFractionalValue") or 255) if fractional else 1
    own = [_segment_of(data, frame) for frame in range(len(planes))] if not labelled else []
    numbers = [int(item.SegmentNumber) for item in items]
    strange = sorted(set(own) - set(numbers))
    if strange or len(set(numbers)) < len(numbers):
        what = (
            f"frames of segment {strange[0]}, which it does not describe" if strange else "two segments of one number"
        )
        raise UnreadableFile(f"{path} has {what}; export it again.")
    spacing = _distance(planes, group_value(groups_of(data, 0), "PixelMeasuresSequence", "SpacingBetweenSlices"))
    identity = Identity.of(header.patient)
    rois = []
    for number, item in zip(numbers, items, strict=True):
        if labelled and number == 0:
            continue  # of a label map it is the background
        frames = planes if labelled else tuple(p for p, n in zip(planes, own, strict=True) if n == number)
        shape = Frames(frames, number if labelled else None, full, spacing)
        roi = _roi(number, item, shape, text(data.get("FrameOfReferenceUID")) or None)
        rois.append(replace(roi, private=identity.occurs_in(roi.name)))
    notes = (f"{path.name}: of fractional segments that is inside which reaches half of the largest value.",)
    return RoiFile(
        path,
        "DICOM SEG",
        tuple(rois),
        patient=text(data.get("PatientID")),
        grid=_grid(planes, spacing, rois[0].frame_of_reference_uid),
        notes=notes if fractional else (),
    )


def _roi(number: int, item: Dataset, shape: Frames, frame_uid: str | None) -> Roi:
    category = (item.get("SegmentedPropertyCategoryCodeSequence") or [Dataset()])[0]
    kind = (item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
    return Roi(
        number,
        text(item.get("SegmentLabel")),
        shape,
        kind=meaning_of(kind),
        finding=code_of(category) not in ANATOMY,
        tracking_uid=text(item.get("TrackingUID")),
        frame_of_reference_uid=frame_uid,
    )


def _segment_of(data: Dataset, frame: int) -> int:
    number = group_value(groups_of(data, frame), "SegmentIdentificationSequence", "ReferencedSegmentNumber")
    if number is None:
        raise ValueError(f"frame {frame + 1} does not say of which segment it is")
    return int(number)


# ---------------------------------------------------------------- places


def _geometry(plane: Plane, spacing_mm: float | None) -> Geometry:
    """The grid of one frame.

    Raises:
        BadGeometry: its axes are not at right angles, or its numbers are impossible.
    """
    assert plane.position is not None and plane.cosines is not None and plane.spacing is not None
    across, down = np.array(plane.cosines, dtype=np.float64).reshape(2, 3)
    direction = np.stack([np.cross(across, down), down, across], axis=1)
    thick = spacing_mm or plane.thickness_mm or 1.0
    try:
        return Geometry((1, *plane.size), (thick, *plane.spacing), plane.position, direction)  # type: ignore[arg-type]
    except BadGeometry as error:
        raise BadGeometry(f"{plane.path}: a frame has an impossible place ({error}); export it again.") from error


def _distance(planes: Sequence[Plane], stated: object) -> float | None:
    """From plane to plane in mm: as stated, if planes lie at multiples of it, else the smallest that occurs."""
    heights = np.unique(np.round(_heights(planes), 4))
    gaps = np.diff(heights)
    gaps = gaps[gaps > 1e-3]
    if stated is not None and float(str(stated)) > 0:
        own = float(str(stated))
        if not gaps.size or (np.abs(gaps / own - np.rint(gaps / own)) <= IRREGULAR).all():
            return own
    return float(gaps.min()) if gaps.size else planes[0].thickness_mm


def _heights(planes: Sequence[Plane]) -> Float:
    """(n,) mm along the normal of the first plane."""
    across, down = np.array(planes[0].cosines, dtype=np.float64).reshape(2, 3)
    return np.array([plane.position for plane in planes], dtype=np.float64) @ np.cross(across, down)


def _grid(planes: Sequence[Plane], spacing_mm: float | None, frame_uid: str | None) -> Grid:
    """The lattice of the lowest frame."""
    lowest = planes[int(_heights(planes).argmin())]
    return Grid(_geometry(lowest, spacing_mm), frame_uid)


def _on_slice(part: Cut, grid: Grid) -> Drawn | None:
    """A frame on the slice that it lies in, by the nearest pixel."""
    place = grid.geometry.to_index(part.geometry.origin_lps)
    z = round(float(place[0]))
    low, high = reach(part.geometry, grid.geometry)
    box = grid.within((z, *low[1:]), (z, *high[1:]))
    if box is None:
        return None
    index = []
    for axis in (1, 2):
        step = grid.geometry.spacing_zyx[axis] / part.geometry.spacing_zyx[axis]
        at = (np.arange(box.start[axis], box.stop[axis]) - place[axis]) * step
        index.append(np.floor(at + 0.5 + 1e-6).astype(int))
    rows, columns = index
    _, height, width = part.mask.shape
    inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    image = part.mask[0].take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip") & inside
    return Drawn.cropped(box, image[None])


def _stacked(parts: Sequence[Cut], spacing_mm: float, path: Path) -> Cut:
    """Frames of one grid as a volume.

    Raises:
        BadGeometry: they are of no regular grid.
    """
    first = parts[0].geometry
    lattice = Geometry((1, 1, 1), (spacing_mm, *first.spacing_zyx[1:]), first.origin_lps, first.direction)
    places = lattice.to_index([part.geometry.origin_lps for part in parts])
    whole = np.rint(places)
    off = np.abs(places - whole).max(axis=0)
    alike = all(np.allclose(part.geometry.spacing_zyx[1:], first.spacing_zyx[1:], rtol=1e-4) for part in parts)
    if not alike or off[0] > IRREGULAR or off[1:].max() > IN_LINE:
        raise BadGeometry(
            f"{path}: the frames of a segment make no regular grid, and are not in the slices of the scan; "
            "put it on the scan's grid first."
        )
    boxes = [Box.between(place, place + part.mask.shape) for place, part in zip(whole.astype(int), parts, strict=True)]
    drawn = joined([Drawn(box, part.mask) for box, part in zip(boxes, parts, strict=True)])
    assert drawn is not None, "there are parts"
    return Cut(lattice.crop(drawn.box), drawn.mask)


# ---------------------------------------------------------------- pixels


def _check_pixels(header: Header, planes: Sequence[Plane]) -> None:
    """Refuse what the file does not hold.

    Raises:
        UnreadableFile: as said.
    """
    layout = planes[0].pixels
    if layout is None or layout.bits_allocated != 1:
        check_pixels(planes)
        return
    if layout.syntax not in NATIVE:
        raise UnreadableFile(f"{header.path}: its bits are compressed, which is not read; export it uncompressed.")
    needed = -(-math.prod(planes[0].size) * layout.frames // 8)
    actual = min(layout.length or 0, layout.held)
    if actual < needed:
        raise UnreadableFile(
            f"{header.path}: the pixel data are truncated ({actual:,} of {needed:,} bytes); copy or export it again."
        )


def _images(planes: Sequence[Plane]) -> Iterator[NDArray[np.integer]]:
    """The pixels of frames (rows, columns) in turn.

    Raises:
        UnreadableFile: they cannot be read.
    """
    layout = planes[0].pixels if planes else None
    if layout is None or layout.bits_allocated != 1:
        yield from stored_images(planes)
        return
    count = math.prod(planes[0].size)
    path = planes[0].path
    try:
        with opened(path, layout.deflated_at, budget=2**62) as stream:
            for plane in planes:
                first = (plane.frame or 0) * count
                stream.seek(layout.at + first // 8)
                packed = np.frombuffer(stream.read(-(-(first % 8 + count) // 8)), dtype=np.uint8)
                bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + count]
                if len(bits) < count:
                    raise UnreadableFile(f"{path}: the pixel data are truncated; copy or export it again.")
                yield bits.reshape(plane.size)
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read ({line(error)}); copy it again.") from error
