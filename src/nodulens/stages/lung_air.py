"""Which air inside the body is lung, and of which side; which is gas of the pleura, the stomach, the bowel.

Density does not tell: an emphysematous lung is as empty as a pneumothorax. Structure does: wherever there is lung
there are vessels, and gas is the same everywhere. A phantom's lungs, which hold nothing but gas, count where nothing
else in the scan can be lung.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.errors import NoLungs
from nodulens.ops.components import components, dilated, distance_mm, eroded, opened
from nodulens.stages.thorax import EDGE_HU

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]

GAS_HU = -955
"""Mean of gas, once smoothed, lies below. Emptier lung is told from it by its structure."""
STRUCTURE_HU = 32
"""Standard deviation over boxes of a centimetre: its median is 54 or more over the lungs of seven scans, also where one
is made 200 HU emptier, and below 25 over gas of stomach, bowel and pleura."""
STRUCTURE_MM = 5.0
"""Half the side of that box."""
DENSER_HU = 95.0
"""A lung is at least so much denser than gas that lies beside it, or the two are not told apart."""
LEAST_GAS_ML = 10.0
"""Smaller pockets of gas beside a lung are left to it."""
AMONG_LUNG = 0.8
"""A pocket with a larger share of its surface on lung is a bulla: lung."""
LEAST_PART_ML = 15.0
"""Smaller pockets of air are left out, unless closing takes them in."""
LARGE_PART_ML = 150.0
"""From here on structure decides; smaller parts must be about as dense as the largest."""
UNIFORM_ML = 300.0
"""Least size of a lung without structure."""
LEAST_ML = 60.0
"""Less aerated lung than this in the whole scan is none."""
APART_MM = 60.0
"""The centroids of two lungs lie farther apart than this from left to right; those of two lobes do not."""


def lung_parts(air: Bool, low: HU, grid: Geometry) -> list[Bool]:
    """Parts of the air that are lung, the largest first.

    Args:
        air: bool (z, y, x), air inside the body, airways out.
        low: HU on the same grid of about 2 mm.
        grid: that grid.

    Raises:
        NoLungs: there are none.
    """
    voxel_ml = grid.voxel_mm3 / 1000
    parts = components(air)
    lungs: list[Bool] = []
    uniform: list[int] = []
    floor, tall, deep = float(GAS_HU), slice(0, air.shape[0]), slice(0, air.shape[1])
    for i in range(len(parts)):
        ml = parts.sizes[i] * voxel_ml
        if ml < LEAST_PART_ML:
            break
        where, (z, y, _) = parts.slices[i], parts.centroids_zyx[i]
        part = parts.labels[where] == i + 1
        inner = eroded(part, 1.5 * max(grid.spacing_zyx[1:]), grid.spacing_zyx)
        density = float(np.median(low[where][inner])) if inner.any() else -np.inf
        if not (tall.start <= z < tall.stop and deep.start <= y < deep.stop):
            continue
        if density < floor and (ml < LARGE_PART_ML or not _structured(low[where], inner, grid.spacing_zyx)):
            if ml >= UNIFORM_ML:
                uniform.append(i + 1)
            continue
        if not lungs:
            floor, tall, deep = max(floor, density - 50), where[0], where[1]
        lungs.append(parts.part(i + 1))
    found = sum(np.count_nonzero(part) for part in lungs) * voxel_ml
    if found < LEAST_ML and uniform:
        return [parts.part(number) for number in uniform]
    if found < LEAST_ML:
        raise NoLungs(
            f"No lungs in this scan: {found:.0f} ml of air-filled tissue, {LEAST_ML:.0f} ml is the least for a chest. "
            "Choose a series of the chest, in Hounsfield units."
        )
    return lungs


def _structured(low: HU, inner: Bool, spacing: Spacing) -> bool:
    """Whether what is inside a part of the air varies as lung does."""
    return bool(inner.any()) and float(np.median(_means_and_deviations(low, spacing)[1][inner])) > STRUCTURE_HU


def _means_and_deviations(low: HU, spacing: Spacing) -> tuple[HU, HU]:
    """Over boxes of about a centimetre, values outside those of lung clipped."""
    from scipy.ndimage import uniform_filter

    size = [2 * round(STRUCTURE_MM / s) + 1 for s in spacing]
    clipped = np.clip(low, -1024, -600)
    mean = uniform_filter(clipped, size)
    square = uniform_filter(clipped * clipped, size)
    return mean, np.sqrt(np.maximum(square - mean * mean, 0))


def gas_beside_lungs(labels: Labels, low: HU, spacing: Spacing) -> Bool:
    """Pockets of gas joined to a lung that are none of it: pneumothorax, stomach, bowel.

    Args:
        labels: uint8 (z, y, x), 1 left lung, 2 right lung, such pockets included.
        low: HU on the same grid of about 2 mm.
        spacing: millimetres (z, y, x).

    Returns:
        bool (z, y, x). Nothing of a lung that is itself as empty as gas, nor of one that is the same everywhere.
    """
    out = np.zeros(labels.shape, dtype=bool)
    if not labels.any():
        return out
    where = Box.of_mask(labels > 0).slices
    sides, hu = labels[where], low[where]
    mean, deviation = _means_and_deviations(hu, spacing)
    least = LEAST_GAS_ML * 1000 / float(np.prod(spacing))
    for side in (1, 2):
        lung = sides == side
        cores = opened(lung & (mean < GAS_HU) & (deviation < STRUCTURE_HU), 3.0, spacing)
        if np.count_nonzero(cores) < least / 4:
            continue
        rest = lung & ~dilated(cores, 2 * STRUCTURE_MM, spacing)
        if not rest.any() or np.median(hu[rest]) < np.median(hu[cores]) + DENSER_HU:
            continue
        near = dilated(cores, STRUCTURE_MM + max(spacing), spacing)
        pockets = components(opened(near & lung & ((hu < GAS_HU + 10) | cores), 2.5, spacing))
        for number in range(1, len(pockets) + 1):
            if pockets.sizes[number - 1] < least:
                break
            pocket = pockets.part(number)
            rim = dilated(pocket, 1.5 * max(spacing), spacing) & ~pocket
            if np.count_nonzero(rim & lung) < AMONG_LUNG * np.count_nonzero(rim):
                out[where] |= pocket
    return out


def sides(parts: list[Bool], low: HU, spacing: Spacing) -> Labels:
    """Left 1, right 2: uint8 (z, y, x) from the parts of the lungs, the largest first."""
    if len(parts) == 1 or np.count_nonzero(parts[1]) < 0.15 * np.count_nonzero(parts[0]):
        parts = [*_halves(parts[0], low, spacing), *parts[1:]]
    places = [_mean_x(part) for part in parts]
    if len(parts) > 1 and abs(places[0] - places[1]) * spacing[2] > APART_MM:
        middle = (places[0] + places[1]) / 2
    else:
        columns = (low > 250).sum(axis=(0, 1)).cumsum()
        middle = float(np.searchsorted(columns, columns[-1] / 2)) if columns[-1] else (low.shape[2] - 1) / 2
    labels = np.zeros(low.shape, dtype=np.uint8)
    for part, place in zip(parts, places, strict=True):
        labels[part] = 1 if place > middle else 2
    return labels


def _halves(part: Bool, low: HU, spacing: Spacing) -> list[Bool]:
    """Two lungs that touch, taken apart along the thinnest, densest sheet; one lung as it is."""
    import SimpleITK as sitk

    where = Box.of_mask(part).slices
    lung, hu = part[where], low[where]
    depth = distance_mm(lung, spacing)
    for threshold, radius in ((-700, 2.0), (-750, 4.0), (EDGE_HU, 6.0), (EDGE_HU, 9.0), (EDGE_HU, 13.0)):
        cores = components((depth > radius) & (hu < threshold))
        if len(cores) < 2 or cores.sizes[1] < 0.15 * cores.sizes[0]:
            continue
        if abs(cores.centroids_zyx[0, 2] - cores.centroids_zyx[1, 2]) * spacing[2] < APART_MM:
            continue
        height = np.where(lung, 120 - 8 * np.minimum(depth, 15) + np.clip(hu + 900, 0, 500) / 4, 255)
        seeds = np.where(cores.labels <= 2, cores.labels, 0)
        flood = sitk.MorphologicalWatershedFromMarkers(
            sitk.GetImageFromArray(height.astype(np.uint8)), sitk.GetImageFromArray(seeds.astype(np.uint8)), False
        )
        flooded = np.where(lung, sitk.GetArrayViewFromImage(flood), 0)
        halves = [np.zeros_like(part), np.zeros_like(part)]
        for number, half in enumerate(halves, start=1):
            half[where] = flooded == number
        return halves
    return [part]


def _mean_x(mask: Bool) -> float:
    line = mask.sum(axis=(0, 1))
    return float(line @ np.arange(len(line)) / line.sum())
