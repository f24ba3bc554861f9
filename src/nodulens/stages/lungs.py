"""Where the lungs are: left and right, airways out, what grows on the pleura in.

Found on a grid of about 2 mm, where a ball of a centimetre is cheap and noise is averaged away; only
the edge is drawn at full size. The steps are those of any radiologist's eye: air that is not round the
body, not in the windpipe and not in the gut; two halves; dents in the surface belong to the lung.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import NoLungs
from nodulens.ops.blocks import block_means
from nodulens.ops.components import closed, components, dilated, distance_mm, filled, opened, touching
from nodulens.ops.resample import resample_array

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]

NAMES = {1: "left lung", 2: "right lung"}

GRID_MM = 2.1
"""Voxel size to work at, roughly: whole voxels are put together."""
COARSE_MM = 3.5
"""The same, for balls of several centimetres."""
EDGE_HU = -400
"""Half-way between lung and soft tissue."""
PULL = 0.4
"""How far, in voxels of the working grid, full-size detail may move the edge."""
GAS_HU = -955
"""Median of gut, stomach and pneumothorax lies below, of lung, even emphysematous, above."""
LEAST_PART_ML = 15.0
"""Smaller pockets of air are left out, unless closing takes them in."""
LEAST_ML = 60.0
"""Less aerated lung than this in the whole scan is none."""
APART_MM = 60.0
"""The centroids of two lungs lie farther apart than this from left to right; those of two lobes do not."""
CLOSING_MM = 12.0
"""Radius of the ball that cannot enter a dent that is filled anywhere on the lung."""
MASS_MM = 50.0
"""Dents narrower than this are filled at the chest wall and searched everywhere; a ball of 40 mm on the
pleura leaves one of about that."""
CUT_MM2 = 300.0
"""Lung on the outermost slice: less is the tip of an apex or of a sinus, and nothing is missing."""


def segment_lungs(volume: Volume) -> Mask:
    """Left and right lung of a chest CT.

    Vessels, nodules and dents of the surface are inside (24 mm wide anywhere, 50 mm at the side and the
    back, where they are masses on the chest wall), windpipe and main bronchi outside.

    Args:
        volume: in canonical orientation: z, y, x rise towards superior, posterior, left.

    Returns:
        uint8 labels on the volume's grid, named "left lung" (1) and "right lung" (2). A lung
        without air is absent.

    Raises:
        NoLungs: less than 60 ml of aerated lung in the scan.
    """
    low, grid = _reduced(volume)
    spacing = grid.spacing_zyx
    air = (low < EDGE_HU) & _within_body(low, spacing)
    airway = _airway(low, air, spacing)
    lung = air & ~dilated(airway, 2.5, spacing) if airway.any() else air
    labels = _sides(_aerated(lung, low, grid), low, spacing)
    labels = _closed_sides(labels, grid)
    if airway.any():
        trunk = opened(airway, 3.5, spacing)
        labels[dilated(trunk, 2.0, spacing)] = 0
    return Mask(_refined(labels, low, grid, volume), volume.geometry, NAMES)


def search_region(lungs: Mask, margin_mm: float = 3.0) -> Bool:
    """Where a nodule's middle may lie: the lungs, dents that a mass of 40 mm leaves in them, and a margin.

    Args:
        lungs: as :func:`segment_lungs` gives them.
        margin_mm: how far into chest wall, diaphragm and mediastinum to look.

    Returns:
        bool (z, y, x) on the mask's grid. Most of the mediastinum is outside.
    """

    def widened(labels: Labels, spacing: Spacing) -> Bool:
        return dilated(_dents_filled(labels == 1, spacing) | _dents_filled(labels == 2, spacing), margin_mm, spacing)

    labels = np.asarray(lungs.labels, dtype=np.uint8)
    return _coarsely(widened, labels, lungs.geometry) | (labels > 0)


def lung_volumes_ml(lungs: Mask) -> dict[str, float]:
    """``{"left_ml": …, "right_ml": …}``: volume inside each mask, tissue included."""
    voxel_ml = lungs.geometry.voxel_mm3 / 1000
    return {f"{side}_ml": np.count_nonzero(lungs.of(f"{side} lung")) * voxel_ml for side in ("left", "right")}


def cut_off_ends(lungs: Mask) -> tuple[bool, bool]:
    """Whether the scan ends inside the lungs: (at the first slice, at the last slice), inferior first."""
    pixel_mm2 = lungs.geometry.spacing_zyx[1] * lungs.geometry.spacing_zyx[2]
    first, last = (np.count_nonzero(lungs.labels[z]) * pixel_mm2 for z in (0, -1))
    return bool(first > CUT_MM2), bool(last > CUT_MM2)


def _reduced(volume: Volume) -> tuple[HU, Geometry]:
    """Means over blocks of whole voxels, about 2 mm wide."""
    grid = volume.geometry
    fz, fy, fx = (max(1, min(round(GRID_MM / s), n)) for s, n in zip(grid.spacing_zyx, grid.shape, strict=True))
    low = block_means(volume.hu, (fz, fy, fx))
    x, y, z = grid.to_lps(((fz - 1) / 2, (fy - 1) / 2, (fx - 1) / 2))
    spacing = (grid.spacing_zyx[0] * fz, grid.spacing_zyx[1] * fy, grid.spacing_zyx[2] * fx)
    nz, ny, nx = low.shape
    return low, Geometry((nz, ny, nx), spacing, (x, y, z), grid.direction)


def _within_body(low: HU, spacing: Spacing) -> Bool:
    """Voxels with thick tissue both before and behind them: not the room, the table, the blankets.

    Tissue thinner than a centimetre (table tops, tubes, sheets) does not count, nor does the side: a
    tight crop may have no wall there.
    """
    step = [max(1, round(4.0 / s)) for s in spacing[1:]]
    coarse = low[:, :: step[0], :: step[1]] > -300
    thick = (spacing[0], spacing[1] * step[0], spacing[2] * step[1])
    parts = components(opened(coarse, 5.0, thick))
    if not len(parts):
        return np.zeros(low.shape, dtype=bool)
    body = parts.part(1)
    before = np.logical_or.accumulate(body, axis=1)
    behind = np.logical_or.accumulate(body[:, ::-1], axis=1)[:, ::-1]
    out = np.repeat(np.repeat(before & behind, step[0], axis=1), step[1], axis=2)
    return out[:, : low.shape[1], : low.shape[2]]


def _airway(low: HU, air: Bool, spacing: Spacing) -> Bool:
    """Lumen of windpipe and large bronchi; empty where no windpipe is seen.

    Grown from the windpipe at the highest threshold that does not yet leak into the lungs.
    """
    seed = _windpipe(low, air, spacing)
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


def _windpipe(low: HU, air: Bool, spacing: Spacing) -> Bool:
    """The tallest stack of round, empty spots near the middle that reaches into the upper lungs."""
    pixel_mm2 = spacing[1] * spacing[2]
    hollow = air & (low < -850)
    columns = np.flatnonzero(air.any(axis=(0, 1)))
    if not len(columns):
        return np.zeros_like(air)
    middle, reach = (columns[0] + columns[-1]) / 2, 0.22 * (columns[-1] - columns[0] + 1)
    spots = np.zeros_like(air)
    for z, plane in enumerate(hollow):
        parts = components(plane, 4)
        for i in range(len(parts)):
            area = parts.sizes[i] * pixel_mm2
            if area < 50:
                break
            (ys, xs), (_, x) = parts.slices[i], parts.centroids_zyx[i]
            height, width = (ys.stop - ys.start) * spacing[1], (xs.stop - xs.start) * spacing[2]
            round_enough = area > 0.5 * height * width and max(height, width) < 2.5 * min(height, width)
            if area < 900 and round_enough and abs(x - middle) < reach:
                spot = parts.labels[ys, xs] == i + 1
                if np.median(low[z, ys, xs][spot]) < -900:
                    spots[z, ys, xs] |= spot
    stacks = components(spots)
    filling = air.sum(axis=(1, 2)).cumsum()
    upper = int(np.searchsorted(filling, 0.6 * filling[-1]))  # gut is as hollow and as round, but low
    heights = [(where[0].stop - where[0].start) * spacing[0] * (where[0].stop > upper) for where in stacks.slices]
    if not heights or max(heights) < 20:
        return np.zeros_like(air)
    return stacks.part(int(np.argmax(heights)) + 1)


def _aerated(air: Bool, low: HU, grid: Geometry) -> list[Bool]:
    """Parts of the air that are lung, the largest first.

    The smaller ones must be about as dense as the largest and at its height, before and behind no
    farther: air in an armpit, under the back, in the gut is none.

    Raises:
        NoLungs: there are none.
    """
    voxel_ml = grid.voxel_mm3 / 1000
    parts = components(air)
    lungs: list[Bool] = []
    floor, tall, deep = float(GAS_HU), slice(0, air.shape[0]), slice(0, air.shape[1])
    for i in range(len(parts)):
        if parts.sizes[i] * voxel_ml < LEAST_PART_ML:
            break
        where, (z, y, _) = parts.slices[i], parts.centroids_zyx[i]
        part = parts.labels[where] == i + 1
        inner = low[where][distance_mm(part, grid.spacing_zyx) > 1.5 * max(grid.spacing_zyx[1:])]
        density = float(np.median(inner)) if inner.size else -np.inf
        if density < floor or not (tall.start <= z < tall.stop and deep.start <= y < deep.stop):
            continue
        if not lungs:
            floor, tall, deep = max(floor, density - 50), where[0], where[1]
        lungs.append(parts.part(i + 1))
    found = sum(np.count_nonzero(part) for part in lungs) * voxel_ml
    if found < LEAST_ML:
        raise NoLungs(
            f"No lungs in this scan: {found:.0f} ml of air-filled tissue, {LEAST_ML:.0f} ml is the least for a chest. "
            "Choose a series of the chest, in Hounsfield units."
        )
    return lungs


def _sides(parts: list[Bool], low: HU, spacing: Spacing) -> Labels:
    """Left 1, right 2, from the parts of the lungs, the largest first."""
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


def _closed_sides(labels: Labels, grid: Geometry) -> Labels:
    """Each lung closed and its cavities filled; what both would claim is mediastinum.

    Generously at the side and the back, where a dent is a mass on the chest wall; narrowly towards the
    middle, where it is a hilum, the heart or the liver.
    """
    spacing = grid.spacing_zyx
    left, right = (
        filled(closed((labels == side) | _coarsely(partial(_costal_dents, side), labels, grid), CLOSING_MM, spacing))
        for side in (1, 2)
    )
    out = labels.copy()
    out[left & ~right] = 1
    out[right & ~left] = 2
    return out


def _costal_dents(side: int, labels: Labels, spacing: Spacing) -> Bool:
    """The depth of a lung's wide dents that have no lung behind them, or do not lie between the two lungs."""
    has_left = np.logical_or.accumulate((labels == 1)[:, :, ::-1], axis=2)[:, :, ::-1]
    has_right = np.logical_or.accumulate(labels == 2, axis=2)
    solid = opened(labels > 0, 4.0, spacing)  # slivers round a mass are not lung behind it
    has_behind = np.logical_or.accumulate(solid[:, ::-1], axis=1)[:, ::-1]
    own = labels == side
    dents = own | _dents_filled(own, spacing) & ~(has_left & has_right & has_behind)
    return opened(dents, 5.0, spacing) & ~dilated(own, COARSE_MM, spacing)


def _dents_filled(lung: Bool, spacing: Spacing) -> Bool:
    """A lung and the dents that a mass may leave in it."""
    return closed(lung, MASS_MM / 2, spacing)


def _coarsely(work: Callable[[Labels, Spacing], Bool], labels: Labels, grid: Geometry) -> Bool:
    """``work(labels, spacing)`` on every second or so voxel, for balls so wide that it makes no difference."""
    step = [max(1, round(COARSE_MM / s)) for s in grid.spacing_zyx]
    z, y, x = (slice(n // 2, None, n) for n in step)
    coarse = labels[z, y, x]
    dz, dy, dx = (n * s for n, s in zip(step, grid.spacing_zyx, strict=True))
    origin = grid.to_lps([n // 2 for n in step])
    nz, ny, nx = coarse.shape
    place = Geometry((nz, ny, nx), (dz, dy, dx), (origin[0], origin[1], origin[2]), grid.direction)
    done = work(coarse, place.spacing_zyx)
    if not done.any():
        return np.zeros(grid.shape, dtype=bool)
    return np.asarray(resample_array(done.view(np.uint8), place, grid, order=1, fill=0) > 0.5)


def _refined(labels: Labels, low: HU, low_grid: Geometry, volume: Volume) -> Labels:
    """The labels at full size, their edge drawn where the CT crosses half-way to soft tissue.

    The CT may move the interpolated edge by ``PULL`` of a coarse voxel, and noise hardly at all. Where
    the closing took tissue in there is no such crossing: those voxels weigh more, to stand against it.
    """
    from scipy.ndimage import maximum_filter

    out = np.zeros(volume.geometry.shape, dtype=np.uint8)
    inside = labels > 0
    if not inside.any():
        return out
    around = Box.of_mask(inside).grown((1, 1, 1))
    first, last = volume.geometry.to_index(low_grid.to_lps(np.array([around.start, around.stop]) - [[0], [1]]))
    box = Box.between(np.floor(first), np.ceil(last) + 1).clipped(volume.geometry.shape)
    grid = volume.geometry.crop(box)
    weight = np.where(inside, np.where(low < EDGE_HU, 1, 1 + 2 * PULL), 0)
    soft = resample_array(weight, low_grid, grid, order=1, fill=0)
    side = resample_array(np.where(inside, labels, maximum_filter(labels, 3)), low_grid, grid, order=0, fill=0)
    for z, plane in enumerate(volume.hu[box.slices]):
        pull = np.clip((EDGE_HU - plane.astype(np.float32)) / 1000, -PULL, PULL)
        side[z][soft[z] + pull <= 0.5] = 0
    out[box.slices] = side
    return out
