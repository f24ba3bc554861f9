"""The airways that are not lung: trachea and large bronchi."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.ops.components import components, touching

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Spacing = tuple[float, float, float]


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
    pixel_mm2 = spacing[1] * spacing[2]
    hollow = air & (low < -850)
    columns = np.flatnonzero(air.any(axis=(0, 1)))
    if not len(columns):
        return np.zeros_like(air)
    middle, reach = (columns[0] + columns[-1]) / 2, 0.22 * (columns[-1] - columns[0] + 1)
    spots = np.zeros_like(air)
    margin = 45 / spacing[2]
    start, stop = max(0, int(middle - reach - margin)), int(middle + reach + margin) + 1
    for z, plane in enumerate(hollow[:, :, start:stop]):
        parts = components(plane, 4)
        for i in range(len(parts)):
            area = parts.sizes[i] * pixel_mm2
            if area < 50:
                break
            (ys, xs), x = parts.slices[i], parts.centroids_zyx[i, 1] + start
            height, width = (ys.stop - ys.start) * spacing[1], (xs.stop - xs.start) * spacing[2]
            round_enough = area > 0.5 * height * width and max(height, width) < 2.5 * min(height, width)
            if area < 900 and round_enough and abs(x - middle) < reach:
                spot = parts.labels[ys, xs] == i + 1
                columns_of = slice(xs.start + start, xs.stop + start)
                if np.median(low[z, ys, columns_of][spot]) < -900:
                    spots[z, ys, columns_of] |= spot
    stacks = components(spots)
    filling = air.sum(axis=(1, 2)).cumsum()
    upper = int(np.searchsorted(filling, 0.6 * filling[-1]))  # gut is as hollow and as round, but low
    heights = [(where[0].stop - where[0].start) * spacing[0] * (where[0].stop > upper) for where in stacks.slices]
    if not heights or max(heights) < 20:
        return np.zeros_like(air)
    return stacks.part(int(np.argmax(heights)) + 1)
