"""From loose image planes to one regular stack: order, gaps, duplicates, tilt.

All of it is arithmetic on what the headers say; no pixel is read here. Planes come sorted by their
position along the slice normal, which is row direction × column direction, so that the axes of the
stack are right-handed in the order x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.volume import AIR_HU
from nodulens.errors import BadGeometry, BadOption
from nodulens.io.alignment import common_grid
from nodulens.io.plane import Plane
from nodulens.io.spacing import ROUNDING_MM, Gaps, regular_grid

Float = NDArray[np.float64]
Voxels = NDArray[np.float32] | NDArray[np.int16]

SAME_PLACE_MM = 0.01
MAX_TILT_DEG = 30.0
# Fields end at 850 mm across, scans at two metres along the body.
MAX_ACROSS_MM = 1000.0
MAX_ALONG_MM = 2500.0
# 2,000 slices of 1024 × 1024; 4 GiB.
MAX_VOXELS = 2**31


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in order, and how they become a regular grid.

    Attributes:
        places: the planes at each position, rising along the normal; more than one are duplicates.
        below: (n,) for each slice of the grid, the place at or below it.
        share: (n,) how far it lies towards the next place, 0…1; 0 where it is a place.
        shift: (n, 2) sideways move of each slice, in pixels along rows' and columns' index (y, x).
        geometry: of the grid, sheared upright and grown sideways where the gantry was tilted.
        tilt_deg: angle between the normal and the line through the slices.
        warnings: what was put right.
    """

    places: tuple[tuple[Plane, ...], ...]
    below: NDArray[np.intp]
    share: Float
    shift: Float
    geometry: Geometry
    tilt_deg: float
    warnings: tuple[str, ...]


def arrange(planes: Sequence[Plane], gaps: Gaps = "error") -> Stack:
    """Put planes of one series in order and find their grid.

    Args:
        planes: of one series, in any order.
        gaps: what to do about missing slices and uneven spacing: refuse, or fill linearly.

    Raises:
        BadGeometry: a single plane, no or impossible positions, missing slices, uneven spacing, slices shifted
            sideways, a tilt over 30 degrees, or a grid larger than any scan.
        MixedSeries: mixed sizes, orientations or pixel spacings.
        BadOption: another value of ``gaps``.
    """
    if gaps not in ("error", "interpolate"):
        raise BadOption(f'gaps must be "error" or "interpolate", got {gaps!r}.')
    across, down, spacing = common_grid(planes)
    normal = np.cross(across, down)
    points = np.array([plane.position for plane in planes], dtype=np.float64)
    order = np.argsort(points @ normal, kind="stable")
    heights = (points @ normal)[order]
    firsts = np.flatnonzero(np.r_[True, np.diff(heights) > SAME_PLACE_MM])
    places = tuple(tuple(planes[int(i)] for i in group) for group in np.split(order, firsts[1:]))
    heights, points = heights[firsts], points[order][firsts]
    if len(places) == 1:
        raise BadGeometry(f"All {len(planes)} images lie in one place; a scan needs slices along the body.")

    step, below, share, warnings = regular_grid(heights, gaps)
    slope, tilt = _tilt(heights, points @ np.column_stack([down, across]), min(spacing))
    shift = np.outer(np.arange(len(below)) * step, slope / spacing)
    lowest = np.floor(shift.min(axis=0) + 1e-9)
    rows, columns = planes[0].size
    grown = np.ceil(np.ptp(shift, axis=0) - 1e-9).astype(int) if np.any(slope) else np.zeros(2, dtype=int)
    origin = points[0] + down * lowest[0] * spacing[0] + across * lowest[1] * spacing[1]
    geometry = Geometry(
        (len(below), rows + int(grown[0]), columns + int(grown[1])),
        (step, spacing[0], spacing[1]),
        (origin[0], origin[1], origin[2]),
        np.column_stack([normal, down, across]),
    )
    _check_extent(geometry)
    if np.any(slope):
        warnings.append(f"The gantry was tilted by {tilt:.1f} degrees; slices were moved into an upright grid.")
    return Stack(places, below, share, shift - lowest, geometry, tilt, tuple(warnings))


def room_for(stack: Stack, *, whole: bool) -> Voxels:
    """Memory, not yet set, that holds first one decoded image per place (:func:`decoded`) and then the grid of them.

    Args:
        stack: as arranged.
        whole: whether all HU are whole numbers, of 16 bits.
    """
    _, rows, columns = stack.geometry.shape
    shape = (_lead(stack) + len(stack.places), rows, columns)
    return np.empty(shape, dtype=np.int16) if whole else np.empty(shape, dtype=np.float32)


def decoded(stack: Stack, room: Voxels) -> Voxels:
    """Where in its room the decoded images belong, a view: (places, rows, columns)."""
    rows, columns = stack.places[0][0].size
    return room[_lead(stack) :, :rows, :columns]


def assemble(stack: Stack, room: Voxels) -> Voxels:
    """The voxels of the grid from one decoded image per place, made in place: two copies of a long scan may not fit.

    Args:
        stack: as arranged.
        room: as :func:`room_for` gives it, with HU where :func:`decoded` says.

    Returns:
        (z, y, x) of ``stack.geometry.shape``, in the memory of the room.
    """
    images, tilted = decoded(stack, room), stack.shift.any()
    _, rows, columns = room.shape
    if not tilted and not stack.share.any() and np.array_equal(stack.below, np.arange(len(images))):
        return room
    for z, (low, w, (y, x)) in enumerate(zip(stack.below.tolist(), stack.share.tolist(), stack.shift, strict=True)):
        image = images[low]
        if w:
            image = _as(room.dtype, image * np.float32(1 - w) + images[low + 1] * np.float32(w))
        if tilted:
            image = _as(room.dtype, _moved(_moved(image.astype(np.float32), y, rows).T, x, columns).T)
        room[z] = image
    return room[: len(stack.below)]


def _lead(stack: Stack) -> int:
    """How many slices the images lie behind the grid that is made of them from its first slice on, so that none is
    written over while it is needed."""
    return int(np.max(np.arange(len(stack.below)) - stack.below))


def _check_extent(geometry: Geometry) -> None:
    """Refuse a grid that is larger than any scan, before memory is allocated."""
    extent = np.multiply(geometry.shape, geometry.spacing_zyx)
    limit = np.where(np.abs(geometry.direction[2]) > 0.5, MAX_ALONG_MM, MAX_ACROSS_MM)
    size = " × ".join(f"{n:,}" for n in geometry.shape)
    if np.any(extent > limit):
        raise BadGeometry(
            f"{size} voxels of this spacing are {extent[0]:,.0f} × {extent[1]:,.0f} × {extent[2]:,.0f} mm (z, y, x); "
            f"a scan has {MAX_ACROSS_MM:,.0f} mm across and {MAX_ALONG_MM:,.0f} mm along the body at most. Export it "
            "again."
        )
    if math.prod(geometry.shape) > MAX_VOXELS:
        raise BadGeometry(f"{size} voxels (z, y, x) are more than any scan has ({MAX_VOXELS:,}); export it again.")


def _as(dtype: np.dtype[np.float32] | np.dtype[np.int16], values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(values) if dtype == np.int16 else values


def _moved(image: NDArray[np.float32], by: float, rows: int) -> NDArray[np.float32]:
    """The image moved down by ``by`` ≥ 0 rows, linearly interpolated, on ``rows`` rows of air."""
    whole = int(by)
    part = np.float32(by - whole)
    out = np.full((rows + 1, image.shape[1]), AIR_HU, dtype=np.float32)
    out[whole : whole + len(image)] = image
    return (out * (1 - part) + np.roll(out, 1, axis=0) * part)[:rows]


def _tilt(heights: Float, sideways: Float, pixel: float) -> tuple[Float, float]:
    """Sideways mm (y, x) per mm of height, zero where it stays within half a pixel; and its angle."""
    height = heights - heights[0]
    moved = sideways - sideways[0]
    slope = (height @ moved) / (height @ height)
    astray = float(np.abs(moved - np.outer(height, slope)).max())
    if astray > max(pixel / 2, ROUNDING_MM):
        raise BadGeometry(
            f"The slices are shifted sideways against one another by up to {astray:.1f} mm; they are not one stack. "
            "Export one reconstruction only."
        )
    angle = float(np.degrees(np.arctan(np.hypot(*slope))))
    if np.abs(slope * height[-1]).max() <= pixel / 2:
        return np.zeros(2), 0.0
    if angle > MAX_TILT_DEG:
        raise BadGeometry(f"A gantry tilt of {angle:.0f} degrees is beyond {MAX_TILT_DEG:.0f}; use another series.")
    return slope, angle
