"""From loose image planes to one regular stack: order, gaps, duplicates, tilt.

All of it is arithmetic on what the headers say; no pixel is read here. Planes come sorted by their
position along the slice normal, which is row direction × column direction, so that the axes of the
stack are right-handed when seen x, y, z.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.volume import AIR_HU, SliceRef
from nodulens.errors import BadGeometry, BadOption

Gaps = Literal["error", "interpolate"]
Float = NDArray[np.float64]

SAME_PLACE_MM = 0.01
# Scanners round positions to 0.1 mm or so: 0.625 mm apart is stored as 0.6, 0.6, 0.7 …
ROUNDING_MM = 0.1
ROUNDING_SHARE = 0.1
MAX_BRIDGED_MM = 15.0
MAX_TILT_DEG = 30.0


@dataclass(frozen=True)
class Plane:
    """What the header says about one stored image, or one frame of a multi-frame file.

    Attributes:
        path: the file.
        frame: index in a multi-frame file, else None.
        ref: SOP instance UID, and the instance number (the frame number, from 1, in a multi-frame file).
        size: rows, columns.
        position: LPS mm (x, y, z) of the centre of the first pixel; None where the header has none.
        cosines: direction of rising column index, then of rising row index, LPS (x, y, z) each.
        spacing: mm between rows, between columns.
        thickness_mm: nominal.
        rescale: slope and intercept; None where the header has none.
        padding: the stored values that mean "not seen", as a range with both ends; None without.
        aside: why it is no slice of a scan ("localizer", "picture"); empty for slices.
    """

    path: Path
    frame: int | None
    ref: SliceRef
    size: tuple[int, int]
    position: tuple[float, ...] | None
    cosines: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness_mm: float | None
    rescale: tuple[float, float] | None
    padding: tuple[int, int] | None = None
    aside: str = ""


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
    """Put planes of one series in order and find the grid they lie on.

    Args:
        planes: of one series, in any order.
        gaps: what to do about missing slices and uneven spacing: refuse, or fill linearly.

    Raises:
        BadGeometry: a single plane, no positions, mixed sizes, orientations or pixel spacings, missing
            slices, uneven spacing, slices shifted sideways, or a tilt over 30 degrees.
        BadOption: another value of ``gaps``.
    """
    if gaps not in ("error", "interpolate"):
        raise BadOption(f'gaps must be "error" or "interpolate", got {gaps!r}.')
    across, down, spacing = _common(planes)
    normal = np.cross(across, down)
    points = np.array([plane.position for plane in planes], dtype=np.float64)
    if not np.isfinite(points).all():
        raise BadGeometry("An image position is not a finite number; export the series again.")
    order = np.argsort(points @ normal, kind="stable")
    heights = (points @ normal)[order]
    firsts = np.flatnonzero(np.r_[True, np.diff(heights) > SAME_PLACE_MM])
    places = tuple(tuple(planes[int(i)] for i in group) for group in np.split(order, firsts[1:]))
    heights, points = heights[firsts], points[order][firsts]
    if len(places) == 1:
        raise BadGeometry(f"All {len(planes)} images lie in one place; a scan needs slices along the body.")

    step, below, share, warnings = _grid(heights, gaps)
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
    if np.any(slope):
        warnings.append(f"The gantry was tilted by {tilt:.1f} degrees; slices were moved into an upright grid.")
    return Stack(places, below, share, shift - lowest, geometry, tilt, tuple(warnings))


def assemble(stack: Stack, slices: NDArray[np.float32] | NDArray[np.int16]) -> NDArray[np.float32] | NDArray[np.int16]:
    """The voxels of the grid from one decoded image per place.

    Args:
        stack: as arranged.
        slices: (places, rows, columns) HU.

    Returns:
        (z, y, x) of ``stack.geometry.shape``, of the same number type; ``slices`` itself where nothing
        was missing or tilted.
    """
    if stack.share.any() or len(stack.below) != len(slices):
        full = slices[stack.below]
        for z in np.flatnonzero(stack.share).tolist():
            low, w = stack.below[z], stack.share[z]
            full[z] = _as(full.dtype, slices[low] * np.float32(1 - w) + slices[low + 1] * np.float32(w))
        slices = full
    if not stack.shift.any():
        return slices
    upright = np.full(stack.geometry.shape, AIR_HU, dtype=slices.dtype)
    _, rows, columns = upright.shape
    for image, (y, x), out in zip(slices, stack.shift, upright, strict=True):
        out[:] = _as(upright.dtype, _moved(_moved(image.astype(np.float32), y, rows).T, x, columns).T)
    return upright


def _as(dtype: np.dtype[np.float32] | np.dtype[np.int16], values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(values) if dtype == np.int16 else values


def _moved(image: NDArray[np.float32], by: float, rows: int) -> NDArray[np.float32]:
    """The image moved down by ``by`` ≥ 0 rows, linearly interpolated, on ``rows`` rows of air."""
    whole = int(by)
    part = np.float32(by - whole)
    out = np.full((rows + 1, image.shape[1]), AIR_HU, dtype=np.float32)
    out[whole : whole + len(image)] = image
    return (out * (1 - part) + np.roll(out, 1, axis=0) * part)[:rows]


def _common(planes: Sequence[Plane]) -> tuple[Float, Float, tuple[float, float]]:
    """Directions of rising column and row index, and pixel spacing, which all planes must share."""
    if len(planes) == 1:
        path = planes[0].path
        raise BadGeometry(f"{path.name} is a single slice; give the folder with the whole series ({path.parent}?).")
    bare = [p for p in planes if p.position is None or p.cosines is None or p.spacing is None]
    if bare:
        raise BadGeometry(
            f"{len(bare)} of {len(planes)} images, first {bare[0].path.name}, do not say where they lie (position, "
            "orientation or pixel spacing missing); export the original slices."
        )
    sizes = Counter(p.size for p in planes)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {rows} × {columns}" for (rows, columns), n in sizes.most_common())
        raise BadGeometry(f"The series mixes image sizes: {listed}; export one reconstruction only.")
    cosines = np.array([p.cosines for p in planes], dtype=np.float64)
    spacings = np.array([p.spacing for p in planes], dtype=np.float64)
    if not (spacings > 0).all():
        raise BadGeometry(f"Pixel spacing must be positive and finite, got {spacings.min():g} mm; export it again.")
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        kinds = Counter(orientation(c) for c in cosines)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        raise BadGeometry(f"The series mixes orientations ({listed} images); export one reconstruction only.")
    if np.abs(spacings / spacings[0] - 1).max() > 1e-3:
        low, high = spacings.min(), spacings.max()
        raise BadGeometry(f"The series mixes pixel spacings, {low:g} to {high:g} mm; export one reconstruction only.")
    across, down = cosines[0, :3], cosines[0, 3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(across @ down) > 1e-2:
        raise BadGeometry(f"The image orientation {cosines[0].tolist()} is not two unit vectors at right angles.")
    across = across / lengths[0]
    down = down - across * (across @ down)
    return across, down / np.linalg.norm(down), (float(spacings[0, 0]), float(spacings[0, 1]))


def _grid(heights: Float, gaps: Gaps) -> tuple[float, NDArray[np.intp], Float, list[str]]:
    """Slice spacing, and for each slice of the regular grid its place or the two it lies between."""
    steps = np.diff(heights)
    typical = float(np.median(steps))
    tolerance = max(ROUNDING_MM, ROUNDING_SHARE * typical)
    counts = np.maximum(np.rint(steps / typical), 1).astype(int)
    index = np.r_[0, np.cumsum(counts)]
    step = float(heights[-1] - heights[0]) / int(index[-1])
    even = bool(np.abs(heights - heights[0] - index * step).max() <= tolerance)
    if even and index[-1] + 1 == len(heights):
        return step, np.arange(len(heights)), np.zeros(len(heights)), []

    places = [f"{a:.2f} and {b:.2f}" for a, b in zip(heights[:-1][counts > 1], heights[1:][counts > 1], strict=True)]
    where = " and ".join(places[:3]) + (f" and {len(places) - 3} places more" if len(places) > 3 else "")
    what = (
        f"{index[-1] + 1 - len(heights)} of {index[-1] + 1} slices missing between z {where} mm"
        if even
        else f"The slices lie unevenly, {steps.min():.2f} to {steps.max():.2f} mm apart"
    ).replace("-", "−")
    if gaps == "error":
        raise BadGeometry(f'{what}; export the whole series, or pass gaps="interpolate".')
    if steps.max() > MAX_BRIDGED_MM:
        raise BadGeometry(
            f"{what}; a hole of {steps.max():.0f} mm is too wide to fill (limit {MAX_BRIDGED_MM:.0f} mm). "
            "Export the whole series."
        )
    if even:
        at = np.interp(np.arange(index[-1] + 1), index, np.arange(len(heights)))
    else:
        step = typical
        # The small excess keeps the last slice where rounding would lose it.
        targets = heights[0] + step * np.arange(int((heights[-1] - heights[0]) / step + 1e-6) + 1)
        at = np.interp(targets, heights, np.arange(len(heights)))
        at = np.where(np.abs(at - np.rint(at)) < 1e-6, np.rint(at), at)
    below = np.minimum(at.astype(np.intp), len(heights) - 1)
    share = at - below
    return step, below, share, [f"{what}; {np.count_nonzero(share)} slices were interpolated from their neighbours."]


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


def orientation(cosines: Sequence[float] | Float) -> str:
    """ "axial", "coronal", "sagittal" or "oblique", from row and column direction (six numbers, LPS)."""
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())] if normal.max() > 0.95 else "oblique"
