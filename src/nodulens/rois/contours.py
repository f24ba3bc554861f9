"""Closed contours in planes, as of an RT Structure Set, filled pixel by pixel.

A pixel is inside where its middle is, by the rule of even and odd, which also leaves out holes that a contour reaches
and leaves by one line. Of several contours in a plane, one that lies wholly inside what the larger ones fill is a hole,
one outside an island, and one that overlaps them in part is added. Slices of the scan take the nearest plane of
contours, as far as half of the distance of these planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from nodulens.core.geometry import Float, Geometry
from nodulens.core.nodule import Box
from nodulens.errors import BadGeometry, NotFound, UnreadableFile
from nodulens.io.deidentify import Identity
from nodulens.io.dicom_header import Header, Wanted, text
from nodulens.rois.faults import damage_named
from nodulens.rois.grid import Bool, Drawn, Grid
from nodulens.rois.roi import Roi, RoiFile

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
WANTED = Wanted.more(
    "StructureSetROISequence",
    "ROIContourSequence",
    "RTROIObservationsSequence",
    "ReferencedFrameOfReferenceSequence",
    budget=512 * 2**20,
)
BODY = ("ORGAN", "EXTERNAL", "SUPPORT", "FIXATION", "BOLUS", "AVOIDANCE", "CONTROL")
"""Interpreted types that are no finding."""
CLOSED, EXCLUSIVE = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"), "CLOSEDPLANAR_XOR"
OUT_OF_PLANE = 0.25
"""Slices by which a contour may lie off one plane."""
TIE = 1e-3
SAME_PLANE = 0.05
"""Slices between contours of one plane."""


@dataclass(frozen=True, eq=False)
class Contour:
    """One contour.

    Attributes:
        lps: (n, 3) mm (x, y, z).
        exclusive: what it has in common with others of its kind is outside.
    """

    lps: Float
    exclusive: bool = False


@dataclass(frozen=True, eq=False)
class Contours:
    """Closed contours of a region, or places alone.

    Attributes:
        closed: contours that have an inside.
        open: (n, 3) LPS mm of points, and of lines that are not closed.
        name: number of the region, for messages.
    """

    closed: tuple[Contour, ...]
    open: Float
    name: str

    @property
    def outlined(self) -> bool:
        """See :class:`nodulens.rois.roi.Shape`."""
        return bool(self.closed)

    def on(self, grid: Grid) -> Drawn | None:
        """See :class:`nodulens.rois.roi.Shape`."""
        planes = self._planes(grid.geometry)
        if not planes:
            return None
        corners = np.concatenate([curve.lps for _, curves in planes for curve in curves])
        heights = np.array([height for height, _ in planes])
        apart = float(np.diff(heights).min()) if len(heights) > 1 else 1.0
        low, high = corners.min(axis=0), corners.max(axis=0)
        box = grid.within((heights[0] - apart / 2, *low[1:]), (heights[-1] + apart / 2, *high[1:]))
        if box is None:
            return None
        out = np.zeros(box.shape, dtype=bool)
        filled: dict[int, Bool] = {}
        for z in range(box.start[0], box.stop[0]):
            # of planes as far below as above it takes the upper one, and a slice just above all planes none
            off = np.abs(heights - z - TIE)
            nearest = int(off.argmin())
            if off[nearest] <= apart / 2:
                if nearest not in filled:
                    filled = {nearest: plane_of(planes[nearest][1], box)}
                out[z - box.start[0]] = filled[nearest]
        return Drawn.cropped(box, out)

    def points(self, grid: Grid) -> Float:
        """See :class:`nodulens.rois.roi.Shape`."""
        return np.concatenate([*(curve.lps for curve in self.closed), self.open])

    def _planes(self, geometry: Geometry) -> list[tuple[float, list[Contour]]]:
        """The contours of each plane in indices of a grid, (n, 3) z, y, x, rising."""
        found = []
        for curve in self.closed:
            index = geometry.to_index(curve.lps)
            height = float(np.median(index[:, 0]))
            if np.abs(index[:, 0] - height).max() > OUT_OF_PLANE:
                raise BadGeometry(
                    f"The contours of region {self.name} do not lie in the slices of the scan: they were drawn on "
                    "another orientation. Export a segmentation on the scan's grid instead."
                )
            found.append((height, Contour(index, curve.exclusive)))
        found.sort(key=lambda one: one[0])
        planes: list[tuple[float, list[Contour]]] = []
        for height, curve in found:
            if planes and height - planes[-1][0] <= SAME_PLANE:
                planes[-1][1].append(curve)
            else:
                planes.append((height, [curve]))
        return planes


def plane_of(curves: Sequence[Contour], box: Box) -> Bool:
    """The inside of the contours of one plane, (y, x) of a box; contours are (n, 3) indices z, y, x."""
    masks = [filled(curve.lps[:, 1:] - box.start[1:], box.shape[1:]) for curve in curves]
    out = np.zeros(box.shape[1:], dtype=bool)
    order = sorted(range(len(curves)), key=lambda k: -int(np.count_nonzero(masks[k])))
    for number, k in enumerate(order):
        mask = masks[k]
        if any(np.array_equal(curves[k].lps, curves[j].lps) for j in order[:number]):
            continue  # drawn twice
        if curves[k].exclusive or not (mask & ~out).any():
            out ^= mask
        else:
            out |= mask
    return out


def filled(curve: Float, shape: tuple[int, ...]) -> Bool:
    """Pixels whose middle a closed curve goes round an odd number of times.

    Args:
        curve: (n, 2) row and column of its corners; 0 is the middle of the first pixel.
        shape: rows and columns of the result.
    """
    rows, columns = shape
    y, x = curve[:, 0], curve[:, 1]
    after_y, after_x = np.roll(y, -1), np.roll(x, -1)
    # a row crosses an edge from its upper end, included, to its lower one, so that one through a corner counts once
    first = np.clip(np.ceil(np.minimum(y, after_y)), 0, rows).astype(int)
    last = np.clip(np.ceil(np.maximum(y, after_y)), 0, rows).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(y)), count)
    row = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    at = x[edge] + (row - y[edge]) / (after_y[edge] - y[edge]) * (after_x[edge] - x[edge])
    column = np.clip(np.floor(at) + 1, 0, columns).astype(int)
    turns = np.zeros((rows, columns + 1), dtype=np.int32)
    np.add.at(turns, (row, column), 1)
    return np.asarray(turns[:, :-1].cumsum(axis=1) % 2 == 1)


# ---------------------------------------------------------------- the file


def structures_of(header: Header) -> RoiFile:
    """The ROIs of an RTSTRUCT that have contours.

    Args:
        header: read as :data:`WANTED` says.

    Raises:
        UnreadableFile: a damaged header, or contours that are no points.
        NotFound: no ROI has a contour.
    """
    with damage_named(header.path, "the structure set"):
        return _structures(header)


def _structures(header: Header) -> RoiFile:
    data = header.data
    drawn = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence") or []}
    kinds = {
        int(item.ReferencedROINumber): text(item.get("RTROIInterpretedType")).upper()
        for item in data.get("RTROIObservationsSequence") or []
    }
    rois, empty = [], []
    for item in data.get("StructureSetROISequence") or []:
        number, name = int(item.ROINumber), text(item.get("ROIName"))
        closed, points = _contours(drawn[number]) if number in drawn else ((), np.empty((0, 3)))
        if not closed and not len(points):
            empty.append(str(number))
            continue
        kind = kinds.get(number, "")
        frame = text(item.get("ReferencedFrameOfReferenceUID")) or None
        private = Identity.of(header.patient).occurs_in(name)
        shape = Contours(closed, points, str(number))
        rois.append(Roi(number, name, shape, kind, kind not in BODY, private, frame_of_reference_uid=frame))
    if not rois:
        raise NotFound(f"{header.path} is a structure set without contours; export it with them.")
    if len({roi.number for roi in rois}) < len(rois):
        raise UnreadableFile(f"{header.path} has two ROIs of one number; export it again.")
    notes = (f"{header.path.name}: without contours are the ROIs {', '.join(empty[:5])}.",) if empty else ()
    return RoiFile(header.path, "DICOM RTSTRUCT", tuple(rois), patient=text(data.get("PatientID")), notes=notes)


def _contours(item: Dataset) -> tuple[tuple[Contour, ...], Float]:
    """Closed contours of a ROI, and the points of all others."""
    closed, points = [], [np.empty((0, 3))]
    for contour in item.get("ContourSequence") or []:
        lps = numbers_of(contour, "ContourData").reshape(-1, 3)
        kind = text(contour.get("ContourGeometricType")).upper()
        if kind in CLOSED and len(lps) > 2:
            closed.append(Contour(lps, kind == EXCLUSIVE))
        elif len(lps):
            points.append(lps)
    return tuple(closed), np.concatenate(points)


def numbers_of(data: Dataset, keyword: str) -> Float:
    """The numbers of a long list in text, read at once: pydicom checks each of a hundred thousand.

    Raises:
        ValueError: one is no finite number.
    """
    if keyword not in data:
        return np.empty(0)
    raw = data.get_item(keyword).value
    values = raw.decode("ascii").strip(" \0").split("\\") if isinstance(raw, bytes) else raw
    return finite([value for value in values if value != ""], keyword)


def finite(values: Sequence[object], name: str) -> Float:
    """Numbers of a header as an array.

    Raises:
        ValueError: one is no finite number.
    """
    numbers = np.array([float(str(value)) for value in values], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return numbers
