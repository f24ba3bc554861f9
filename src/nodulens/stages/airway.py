"""The airways that are not lung: trachea and large bronchi."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.ops.components import components, touching

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Spacing = tuple[float, float, float]

IN_SLICE = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3])
"""The four neighbours of a voxel in its slice, for parts of each slice by itself."""


def airway_lumen(low: HU, air: Bool, spacing: Spacing) -> Bool:
    """Lumen of trachea and large bronchi; empty where no trachea is seen.

    Grown from the trachea at the highest threshold that does not yet leak into the lungs.
    """
    seed = _trachea(low, air, spacing)
    if not seed.any():
        return seed
    voxel_ml = float(np.prod(spacing)) / 1000
    box = Box.of_mask(seed)
    reach = tuple(int(mm / s) for mm, s in zip((90.0, 55.0, 75.0), spacing, strict=True))
    near = box.grown((reach[0], reach[1], reach[2])).clipped(low.shape).slices
    seed_near, low_near = seed[near], low[near]
    allowed = np.count_nonzero(seed) * voxel_ml + 45
    out = seed.copy()
    for threshold in (-800, -840, -870, -900, -920, -940, -960):
        grown = touching((low_near < threshold) & air[near] | seed_near, seed_near)
        if np.count_nonzero(grown) * voxel_ml <= allowed:
            out[near] = grown
            break
    return out


def _trachea(low: HU, air: Bool, spacing: Spacing) -> Bool:
    """The tallest stack of round, empty spots near the middle that reaches into the upper lungs."""
    from scipy.ndimage import find_objects, label

    columns = np.flatnonzero(air.any(axis=(0, 1)))
    if not len(columns):
        return np.zeros_like(air)
    middle, reach = (columns[0] + columns[-1]) / 2, 0.22 * (columns[-1] - columns[0] + 1)
    margin = 45 / spacing[2]
    near = slice(max(0, int(middle - reach - margin)), int(middle + reach + margin) + 1)
    hu = low[:, :, near]
    hollow = air[:, :, near] & (hu < -850)
    labels, _ = label(hollow, IN_SLICE)
    areas, boxes = np.bincount(labels[hollow]) * spacing[1] * spacing[2], find_objects(labels)
    spots = np.zeros_like(hollow)
    for number in np.flatnonzero((areas >= 50) & (areas < 900)):
        where = boxes[number - 1]
        spot = labels[where] == number
        _, height, width = np.multiply(spot.shape, spacing)
        round_enough = areas[number] > 0.5 * height * width and max(height, width) < 2.5 * min(height, width)
        x = near.start + where[2].start + np.nonzero(spot)[2].mean()
        if round_enough and abs(x - middle) < reach and np.median(hu[where][spot]) < -900:
            spots[where] |= spot
    stacks = components(spots)
    filling = air.sum(axis=(1, 2)).cumsum()
    upper = int(np.searchsorted(filling, 0.6 * filling[-1]))  # gut is as hollow and as round, but low
    heights = [(where[0].stop - where[0].start) * spacing[0] * (where[0].stop > upper) for where in stacks.slices]
    out = np.zeros_like(air)
    if heights and max(heights) >= 20:
        out[:, :, near] = stacks.part(int(np.argmax(heights)) + 1)
    return out
