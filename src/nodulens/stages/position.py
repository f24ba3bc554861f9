"""Position of a nodule: side, zone, estimates of the lobe and of how far from the hilum, and its central slice.

All of it is geometry. Fissures and the hilum are not segmented: the lobe comes from flat mean fissures in a frame that
spans the lung from apex to base and from front to back, the hilum from its mean place there, and both are therefore
named estimates. If the scan ends inside the lungs, what holds for every possible extent of the lung is given, and
"unknown" otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box, Position, Side
from nodulens.core.volume import Mask, Volume, crop_array
from nodulens.stages.lungs import cut_off_ends

# Mean fissures in a lung's own frame: height 0 at the base, 1 at the apex; depth 0 in front, 1 at the back.
# The oblique fissures climb from the front of the base to about the fourth thoracic vertebra behind, the
# horizontal one is level. Their heights are fitted to the three backgrounds of the training data, so that the lobes
# have the shares of that lung's volume that 32 healthy supine adults have: 49 % (right lower), 17 % (right middle) and
# 50 % (left lower) (Yamada et al. 2020, doi:10.1159/000507265).
OBLIQUE_FRONT, OBLIQUE_BACK = 0.10, 0.87
HORIZONTAL_RIGHT = 0.57

HILUM: dict[Side, tuple[float, float, float]] = {"left": (0.54, 0.57, 0.29), "right": (0.59, 0.55, 0.29)}
"""The mean place of the hilum in a lung's own frame: height from base to apex, depth from front to back, and the share
of its width from the middle of the body. That of the large airways beside lung in the three nodule-free scans
(``benchmarks/hilum.py`` finds it, and says how far off it is in others)."""

NEAR_MM = 5.0
HEIGHTS_MM = (180.0, 340.0)
"""What a lung that the scan shows in part may measure from base to apex."""


def locate(volume: Volume, box: Box, mask: NDArray[np.bool_], lungs: Mask) -> Position:
    """Locate a nodule in the lungs.

    Args:
        volume: canonical CT: axes rise towards superior, posterior, left.
        box: around the nodule, indices (z, y, x) of ``volume``, inside it.
        mask: bool (z, y, x) of ``box.shape``, not empty.
        lungs: "left lung" and "right lung" on the grid of ``volume``.

    Returns:
        The position; ``central_slice`` is an index of ``volume``, and the instance that of ``source.slices`` if the
        slices are known.
    """
    side = side_of(box, lungs)
    centre = np.argwhere(mask).mean(axis=0) + box.start
    places = [_in_lung(centre, extent) for extent in _extents(lungs, side)]
    zones = {_zone(height) for height, _ in places}
    lobes = {lobe_at(side, height, depth) for height, depth in places}
    central = box.start[0] + central_slice(mask)
    slices = volume.source.slices
    stored = slices[central] if len(slices) == volume.geometry.shape[0] else None
    origin = hilum(lung_extent(lungs, side), side)
    return Position(
        side=side,
        zone=zones.pop() if len(zones) == 1 else "unknown",
        lobe_estimate=f"{side} {lobes.pop()} lobe" if len(lobes) == 1 else "unknown",
        central_slice=central,
        instance_number=stored.instance_number if stored else None,
        sop_instance_uid=stored.sop_instance_uid if stored else None,
        hilum_to_edge_estimate=None if any(cut_off_ends(lungs, side)) else hilum_to_edge(lungs, side, origin, centre),
    )


def central_slice(mask: NDArray[np.bool_]) -> int:
    """Index z of the slice where a mask (z, y, x) has most voxels; the first of equals."""
    return int(mask.sum(axis=(1, 2)).argmax())


def side_of(box: Box, lungs: Mask) -> Side:
    """The lung that fills most of the box and its surroundings; away from both, the side of their midline."""
    spacing = lungs.geometry.spacing_zyx
    near = crop_array(lungs.labels, box.grown([int(np.ceil(NEAR_MM / s)) for s in spacing]))
    counts = {name: int((near == value).sum()) for value, name in lungs.names.items()}
    if counts["left lung"] != counts["right lung"]:
        return "left" if counts["left lung"] > counts["right lung"] else "right"
    columns = np.flatnonzero(lungs.labels[::4, ::4].any(axis=(0, 1)))
    middle = columns.mean() if columns.size else (lungs.labels.shape[2] - 1) / 2
    return "left" if box.centre_zyx[2] > middle else "right"


def lobe_at(side: Side, height: float, depth: float) -> Literal["upper", "middle", "lower"]:
    """The lobe at a position in a lung's own frame.

    Args:
        side: which lung.
        height: 0 at the base, 1 at the apex.
        depth: 0 at the front, 1 at the back.
    """
    if height < OBLIQUE_FRONT + depth * (OBLIQUE_BACK - OBLIQUE_FRONT):
        return "lower"
    return "middle" if side == "right" and height < HORIZONTAL_RIGHT else "upper"


def lung_extent(lungs: Mask, side: Side) -> NDArray[np.intp]:
    """The frame of a lung: (first, last) index of it along z, y and x; the whole axes where it is absent."""
    value = lungs.value(f"{side} lung")
    lung = lungs.labels[:, ::4, ::4] == value  # three millimetres are precise enough for a lung's extent
    lines = (np.flatnonzero(lung.any(axis=axes)) * step for axes, step in (((1, 2), 1), ((0, 2), 4), ((0, 1), 4)))
    return np.array([(k[0], k[-1]) if k.size else (0, n - 1) for k, n in zip(lines, lungs.labels.shape, strict=True)])


def hilum(extent: NDArray[np.intp], side: Side) -> NDArray[np.float64]:
    """Index (z, y, x) of the estimated hilum in a lung of this :func:`lung_extent`."""
    height, depth, width = HILUM[side]
    first, last = extent.T
    share = np.array([height, depth, width if side == "left" else 1 - width])  # x rises to the left
    return np.asarray(first + share * (last - first), dtype=np.float64)


def hilum_to_edge(lungs: Mask, side: Side, origin: NDArray[np.float64], place: NDArray[np.float64]) -> float | None:
    """How far a place is on the way from the hilum, through it, to the last voxel of that lung.

    Args:
        lungs: "left lung" and "right lung".
        side: which of them.
        origin: index (z, y, x) of the hilum.
        place: index (z, y, x).

    Returns:
        0…1; 1 where there is no lung beyond, None where there is none on the way at all.
    """
    spacing, shape = np.asarray(lungs.geometry.spacing_zyx), lungs.geometry.shape
    way = (place - origin) * spacing
    length = float(np.linalg.norm(way))
    steps = np.arange(1.0, float(np.linalg.norm(shape * spacing)))  # a millimetre each
    line = np.rint(origin + np.outer(steps, way / max(length, 1e-6)) / spacing).astype(int)
    within = ((line >= 0) & (line < shape)).all(axis=1)
    lung = lungs.labels[tuple(line[within].T)] == lungs.value(f"{side} lung")
    return min(1.0, length / float(steps[within][lung][-1])) if lung.any() else None


def share_along(extent: NDArray[np.intp] | NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Position 0…1 of indices ``place``, any shape, along one row of :func:`lung_extent`."""
    low, high = extent
    return np.asarray(np.clip((place - low) / max(high - low, 1), 0, 1))


def _zone(height: float) -> Literal["upper", "middle", "lower"]:
    return "upper" if height > 2 / 3 else "middle" if height > 1 / 3 else "lower"


def _extents(lungs: Mask, side: Side) -> Iterator[NDArray[np.float64]]:
    """What the whole lung may extend over, as :func:`lung_extent`: one where the scan shows both its ends."""
    extent = lung_extent(lungs, side).astype(np.float64)
    bottom, top = cut_off_ends(lungs, side)
    if not (bottom or top):
        yield extent
        return
    (low, high), spacing = extent[0], lungs.geometry.spacing_zyx[0]
    seen = high - low
    for height_mm in HEIGHTS_MM:
        beyond = max(0.0, height_mm / spacing - seen)
        for below in (0.0, beyond) if bottom and top else (beyond if bottom else 0.0,):
            whole = extent.copy()
            whole[0] = low - below, high + beyond - below
            yield whole


def _in_lung(centre: NDArray[np.float64], extent: NDArray[np.float64]) -> tuple[float, float]:
    """An index (z, y, x) as (height, depth) in the lung's frame, each clipped to 0…1."""
    height, depth = (float(share_along(e, c)) for e, c in zip(extent[:2], centre[:2], strict=True))
    return height, depth
