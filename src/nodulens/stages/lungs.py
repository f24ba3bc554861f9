"""Where the lungs are: left and right, airways out, what grows on the pleura in.

Found on a grid of about 2 mm, where a ball of a centimetre is cheap and noise is averaged away; only
the edge is drawn at full size. The steps are those of any radiologist's eye: air that is not round the
body, not in the windpipe and not in the gut; two halves; dents in the surface belong to the lung.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Side
from nodulens.core.volume import Mask, Volume
from nodulens.ops.blocks import block_grid
from nodulens.ops.components import closed, dilated, filled, opened
from nodulens.ops.resample import linear_planes, nearest_index, nearest_planes, picked
from nodulens.stages.airless import airless_lung
from nodulens.stages.airway import airway_lumen
from nodulens.stages.expected import coarse_chest
from nodulens.stages.lung_air import gas_beside_lungs, lung_parts, sides
from nodulens.stages.lung_shapes import LungShape
from nodulens.stages.thorax import CUT_MM2, EDGE_HU, air_within_body, reduced

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]

NAMES = {1: "left lung", 2: "right lung"}

COARSE_MM = 3.5
"""The same, for balls of several centimetres."""
WALL_MM = 40.0
"""What is farther from all air in the body is no chest wall."""
PULL = 0.4
"""How far, in voxels of the working grid, full-size detail may move the edge."""
CLOSING_MM = 12.0
"""Radius of the ball that cannot enter a dent that is filled anywhere on the lung."""
MASS_MM = 50.0
"""Dents narrower than this are filled at the chest wall and searched everywhere; a ball of 40 mm on the
pleura leaves one of about that."""


def segment_lungs(volume: Volume, shapes: Sequence[LungShape] | None = None) -> Mask:
    """Left and right lung of a chest CT.

    Vessels, nodules and dents of the surface are inside (24 mm wide anywhere, 50 mm at the side and the
    back, where they are masses on the chest wall), windpipe and main bronchi outside.

    Args:
        volume: in canonical orientation: z, y, x rise towards superior, posterior, left.
        shapes: of whole lungs, for what of a lung holds no air; by default those that come with the package.

    Returns:
        uint8 labels on the volume's grid, named "left lung" (1) and "right lung" (2). A lung
        without air is absent.

    Raises:
        NoLungs: less than 60 ml of aerated lung in the scan.
    """
    low, grid = reduced(volume)
    spacing = grid.spacing_zyx
    air = air_within_body(low, spacing)
    if air.any():
        near = _near(air, spacing)
        low, air, grid = low[near.slices], air[near.slices], grid.crop(near)
    airway = airway_lumen(low, air, spacing)
    lung = air & ~dilated(airway, 2.5, spacing) if airway.any() else air
    labels = sides(lung_parts(lung, low, grid), low, spacing)
    gas = gas_beside_lungs(labels, low, spacing)
    labels[gas] = 0
    _add_airless(labels, low, grid, shapes)
    labels = _closed_sides(labels, grid)
    labels[gas] = 0
    if airway.any():
        trunk = opened(airway, 3.5, spacing)
        labels[dilated(trunk, 2.0, spacing)] = 0
    return Mask(_refined(labels, low, grid, volume), volume.geometry, NAMES)


@dataclass(frozen=True, eq=False)
class SearchRegion:
    """Where a nodule's middle may lie: the lungs, dents that a mass of 40 mm leaves in them, and a margin.

    Most of the mediastinum is outside. It is given slice by slice, or on a coarser grid: as an array on the grid of a
    long scan it would be half as large as the scan.

    Attributes:
        lungs: as :func:`segment_lungs` gives them.
        coarse: bool (z, y, x), the lungs with their dents and the margin in voxels of about ``COARSE_MM``.
        place: the grid of that.
    """

    lungs: Mask
    coarse: Bool
    place: Geometry

    @classmethod
    def of(cls, lungs: Mask, margin_mm: float) -> SearchRegion:
        """The region of some lungs; ``margin_mm`` is how far into chest wall, diaphragm and mediastinum to look."""
        coarse, place = _thinned(np.asarray(lungs.labels, dtype=np.uint8), lungs.geometry)
        both = _dents_filled(coarse == 1, place.spacing_zyx) | _dents_filled(coarse == 2, place.spacing_zyx)
        return cls(lungs, dilated(both, margin_mm, place.spacing_zyx), place)

    def planes(self, rows: Sequence[int]) -> Iterator[Bool]:
        """bool (y, x): the slices ``rows`` of the lungs' grid, which rise."""
        for row, plane in zip(rows, _planes(self.coarse, self.place, self.lungs.geometry, rows), strict=True):
            plane |= self.lungs.labels[row] > 0
            yield plane

    def box(self) -> Box | None:
        """The smallest box around the region, in indices of the lungs' grid; None where there are no lungs."""
        count, height, width = self.lungs.geometry.shape
        sides = [np.zeros(n, dtype=bool) for n in (count, height, width)]
        for z, plane in enumerate(self.planes(range(count))):
            lines = plane.any(axis=1)
            sides[0][z] = lines.any()
            sides[1] |= lines
            sides[2] |= plane.any(axis=0)
        if not sides[0].any():
            return None
        ends = [np.flatnonzero(side)[[0, -1]] for side in sides]
        return Box.between([first for first, _ in ends], [last + 1 for _, last in ends])

    def on(self, grid: Geometry) -> Bool:
        """The region at the voxels of a parallel grid, bool (z, y, x): that of the nearest voxel of the lungs' grid."""
        z, y, x = nearest_index(self.lungs.geometry, grid)
        out = np.zeros(grid.shape, dtype=bool)
        rows = np.unique(z[z >= 0]).tolist()
        for row, plane in zip(rows, self.planes(rows), strict=True):
            out[z == row] = picked(plane, y, x, False)
        return out


def search_region(lungs: Mask, margin_mm: float = 3.0) -> Bool:
    """:class:`SearchRegion` as an array, bool (z, y, x) on the mask's grid."""
    return SearchRegion.of(lungs, margin_mm).on(lungs.geometry)


def lung_volumes_ml(lungs: Mask) -> dict[str, float]:
    """``{"left_ml": …, "right_ml": …}``: volume inside each mask, tissue included."""
    voxel_ml = lungs.geometry.voxel_mm3 / 1000
    value = {side: lungs.value(f"{side} lung") for side in ("left", "right")}
    # slice by slice, so that no mask of the whole scan is made
    voxels = {side: sum(np.count_nonzero(plane == own) for plane in lungs.labels) for side, own in value.items()}
    return {f"{side}_ml": float(n * voxel_ml) for side, n in voxels.items()}


def cut_off_ends(lungs: Mask, side: Side | None = None) -> tuple[bool, bool]:
    """Whether the scan ends inside the lungs, or that of a side: (at the first slice, at the last), inferior first."""
    pixel_mm2 = lungs.geometry.spacing_zyx[1] * lungs.geometry.spacing_zyx[2]
    ends = lungs.labels[[0, -1]]
    own = ends > 0 if side is None else ends == lungs.value(f"{side} lung")
    first, last = np.count_nonzero(own, axis=(1, 2)) * pixel_mm2
    return bool(first > CUT_MM2), bool(last > CUT_MM2)


def _near(air: Bool, spacing: Spacing) -> Box:
    """All slices, and the rows and columns of the chest with its wall."""
    box = Box.of_mask(air).grown([0, *(round(WALL_MM / s) for s in spacing[1:])]).clipped(air.shape)
    return Box((0, *box.start[1:]), (len(air), *box.stop[1:]))


def _add_airless(labels: Labels, low: HU, grid: Geometry, shapes: Sequence[LungShape] | None) -> None:
    """Give consolidated and collapsed lung the label of its side."""
    chest = coarse_chest(low, labels, grid.spacing_zyx)
    blocks = [round(a / b) for a, b in zip(chest.spacing, grid.spacing_zyx, strict=True)]
    place = block_grid(grid, blocks, chest.hu.shape)
    both: tuple[tuple[int, Side], ...] = ((1, "left"), (2, "right"))
    for label, side in both:
        airless = airless_lung(chest, side, shapes)
        if airless.any():
            labels[_on_grid(airless, place, grid) & (labels == 0) & (low > EDGE_HU)] = label


def _shape(array: NDArray[np.generic]) -> tuple[int, int, int]:
    nz, ny, nx = array.shape
    return nz, ny, nx


def _closed_sides(labels: Labels, grid: Geometry) -> Labels:
    """Each lung closed and its cavities filled; what both would claim is mediastinum.

    Generously at the side and the back, where a dent is a mass on the chest wall; narrowly towards the
    middle, where it is a hilum, the heart or the liver.
    """
    coarse, place = _thinned(labels, grid)
    between = _between_lungs(coarse, place.spacing_zyx)
    left, right = (
        filled(
            closed(
                (labels == side) | _on_grid(_costal_dents(coarse == side, between, place.spacing_zyx), place, grid),
                CLOSING_MM,
                grid.spacing_zyx,
            )
        )
        for side in (1, 2)
    )
    out = labels.copy()
    out[left & ~right] = 1
    out[right & ~left] = 2
    return out


def _between_lungs(labels: Labels, spacing: Spacing) -> Bool:
    """What lies between the two lungs and has lung behind it: the mediastinum."""
    left, right, x = labels == 1, labels == 2, np.arange(labels.shape[2])
    start = np.where(right.any(axis=2), right.argmax(axis=2), len(x))
    stop = np.where(left.any(axis=2), len(x) - left[:, :, ::-1].argmax(axis=2), 0)
    solid = opened(labels > 0, 4.0, spacing)  # slivers round a mass are not lung behind it
    behind = np.logical_or.accumulate(solid[:, ::-1], axis=1)[:, ::-1]
    return (x >= start[..., None]) & (x < stop[..., None]) & behind


def _costal_dents(lung: Bool, between: Bool, spacing: Spacing) -> Bool:
    """The depth of a lung's wide dents outside the mediastinum."""
    dents = lung | _dents_filled(lung, spacing) & ~between
    return opened(dents, 5.0, spacing) & ~dilated(lung, COARSE_MM, spacing)


def _dents_filled(lung: Bool, spacing: Spacing) -> Bool:
    """A lung and the dents that a mass may leave in it."""
    return closed(lung, MASS_MM / 2, spacing)


def _thinned(labels: Labels, grid: Geometry) -> tuple[Labels, Geometry]:
    """Every second or so voxel, for balls so wide that it makes no difference."""
    step = [max(1, round(COARSE_MM / s)) for s in grid.spacing_zyx]
    z, y, x = (slice(n // 2, None, n) for n in step)
    coarse = labels[z, y, x]
    dz, dy, dx = (n * s for n, s in zip(step, grid.spacing_zyx, strict=True))
    origin = grid.to_lps([n // 2 for n in step])
    return coarse, Geometry(_shape(coarse), (dz, dy, dx), (origin[0], origin[1], origin[2]), grid.direction)


def _on_grid(mask: Bool, place: Geometry, grid: Geometry) -> Bool:
    """A mask on a finer grid that is parallel to its own."""
    out = np.zeros(grid.shape, dtype=bool)
    for target, plane in zip(out, _planes(mask, place, grid, range(len(out))), strict=True):
        target[:] = plane
    return out


def _planes(mask: Bool, place: Geometry, grid: Geometry, rows: Sequence[int]) -> Iterator[Bool]:
    """Slices (y, x) of a mask on a finer grid that is parallel to its own: those numbered ``rows``, which rise."""
    if not mask.any():
        yield from (np.zeros(grid.shape[1:], dtype=bool) for _ in rows)
        return
    source, target = _boxes(mask, place, grid)
    within = range(target.start[0], target.stop[0])
    own = [within.index(row) for row in rows if row in within]
    values = linear_planes(mask[source.slices].view(np.uint8), place.crop(source), grid.crop(target), fill=0, rows=own)
    for row in rows:
        plane = np.zeros(grid.shape[1:], dtype=bool)
        if row in within:
            np.greater(next(values), 0.5, out=plane[target.slices[1:]])
        yield plane


def _boxes(mask: Bool, place: Geometry, grid: Geometry) -> tuple[Box, Box]:
    """The box of a mask with a margin of a voxel, and the same on a finer grid."""
    box = Box.of_mask(mask).grown((1, 1, 1))
    first, last = grid.to_index(place.to_lps(np.array([box.start, box.stop]) - [[0], [1]]))
    return box.clipped(mask.shape), Box.between(np.floor(first), np.ceil(last) + 1).clipped(grid.shape)


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
    around, box = _boxes(inside, low_grid, volume.geometry)
    labels, low, inside = labels[around.slices], low[around.slices], inside[around.slices]
    low_grid, grid = low_grid.crop(around), volume.geometry.crop(box)
    weight = np.where(inside, np.where(low < EDGE_HU, 1, 1 + 2 * PULL), 0)
    side = nearest_planes(np.where(inside, labels, maximum_filter(labels, 3)), low_grid, grid, fill=0)
    soft = linear_planes(weight, low_grid, grid, fill=0)
    for target, nearest, weights, hu in zip(out[box.slices], side, soft, volume.hu[box.slices], strict=True):
        pull = np.subtract(EDGE_HU, hu, dtype=np.float32)
        pull /= 1000
        np.clip(pull, -PULL, PULL, out=pull)
        pull += weights
        np.multiply(nearest, pull > 0.5, out=target)
    return out
