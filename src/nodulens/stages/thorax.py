"""The body and its air, without the room, the table and the blankets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.ops.blocks import block_grid, block_means
from nodulens.ops.components import components, dilated, distance_mm, opened, touching
from nodulens.ops.intensity import NETWORK_WINDOW
from nodulens.ops.resample import nearest_planes

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Spacing = tuple[float, float, float]

GRID_MM = 2.1
"""Voxel size to work at, roughly: whole voxels are put together."""
SKIN_MM = 5.0
"""What thinner parts of the body there may be around its thick ones."""
EDGE_HU = -400
"""Half-way between lung and soft tissue."""
ROOM_HU = -965
"""Air of the room lies below, lung above, once three voxels of noise are averaged."""
STRIP_MM = 80.0
"""How far from the edge of a round field of view lung may have no chest wall before or behind it."""
LARGE_ML = 100.0
"""Air that goes on in such a strip is no smaller."""
BONE_HU = 180
"""Above muscle and cartilage, below ribs, in voxels of 4 mm."""
CUT_MM2 = 300.0
"""Lung on the outermost slice: less is the tip of an apex or of a sinus, and nothing is missing."""


def reduced(volume: Volume) -> tuple[HU, Geometry]:
    """Means over blocks of whole voxels, about 2 mm wide, and their grid."""
    grid = volume.geometry
    fz, fy, fx = (max(1, min(round(GRID_MM / s), n)) for s, n in zip(grid.spacing_zyx, grid.shape, strict=True))
    low = block_means(volume.hu, (fz, fy, fx))
    return low, block_grid(grid, (fz, fy, fx), low.shape)


@dataclass(frozen=True, eq=False)
class Body:
    """The body of a scan with the air in it.

    Attributes:
        inside: bool (z, y, x) in voxels of about 2 mm.
        place: the grid of that.
    """

    inside: Bool
    place: Geometry

    @classmethod
    def of(cls, volume: Volume) -> Body:
        """The body in a scan of canonical orientation; everything where no tissue is thick enough to be one."""
        low, place = reduced(volume)
        within = _within_body(low, place.spacing_zyx)
        if not within.any():
            return cls(np.ones(low.shape, dtype=bool), place)
        inside = within | _air(low, within, place.spacing_zyx)
        return cls(dilated(inside, SKIN_MM, place.spacing_zyx), place)

    def alone(self, volume: Volume, box: Box) -> NDArray[np.generic]:
        """HU of a box of the scan, with air in place of the room, the table and the blankets."""
        hu = volume.hu[box.slices].copy()
        planes = nearest_planes(self.inside, self.place, volume.geometry.crop(box), fill=False)
        for image, inside in zip(hu, planes, strict=True):
            image[~inside] = NETWORK_WINDOW[0]
        return hu


def air_within_body(low: HU, spacing: Spacing) -> Bool:
    """Air of lungs, airways and bowel, also where the field of view ends inside the chest.

    Args:
        low: HU (z, y, x) in voxels of about 2 mm, canonical.
        spacing: millimetres (z, y, x).
    """
    return _air(low, _within_body(low, spacing), spacing)


def _air(low: HU, within: Bool, spacing: Spacing) -> Bool:
    """The same, of a body that is known, see :func:`_within_body`."""
    from scipy.ndimage import uniform_filter

    air = low < EDGE_HU
    inside = air & within
    beyond = (low == low[0, 0, 0]).all(axis=0)  # padding round a circle of reconstruction
    if not beyond.any() or beyond.all():
        return inside
    step = _steps(spacing)
    thin = (slice(None), slice(None, None, step[0]), slice(None, None, step[1]))
    wide = (spacing[0], spacing[1] * step[0], spacing[2] * step[1])
    strip = (distance_mm(~beyond[thin[1:]], wide[1:]) < STRIP_MM) & ~beyond[thin[1:]]
    lunglike = air[thin] & strip & (uniform_filter(low[thin], (3, 2, 2)) > ROOM_HU)
    thick = opened(lunglike, 6.0, wide)  # no rims of half-filled voxels
    pockets = components(inside[thin])
    large = np.flatnonzero(pockets.sizes > LARGE_ML * 1000 / float(np.prod(wide))) + 1
    more = dilated(touching(thick, thick & np.isin(pockets.labels, large)), 6.0, wide) & lunglike
    return inside | air & _repeated(more, step, low.shape)


def _within_body(low: HU, spacing: Spacing) -> Bool:
    """Voxels with thick tissue both before and behind them: not the room, the table, the blankets.

    Tissue thinner than a centimetre (table tops, tubes, sheets) does not count, nor does the side: a
    tight crop may have no wall there.
    """
    step = _steps(spacing)
    coarse = low[:, :: step[0], :: step[1]] > -300
    thick = (spacing[0], spacing[1] * step[0], spacing[2] * step[1])
    parts = components(opened(coarse, 5.0, thick))
    if not len(parts):
        return np.zeros(low.shape, dtype=bool)
    body = parts.part(1)
    before = np.logical_or.accumulate(body, axis=1)
    behind = np.logical_or.accumulate(body[:, ::-1], axis=1)[:, ::-1]
    return _repeated(before & behind, step, low.shape)


def _steps(spacing: Spacing) -> tuple[int, int]:
    """Rows and columns to a step of about 4 mm."""
    return max(1, round(4.0 / spacing[1])), max(1, round(4.0 / spacing[2]))


def _repeated(mask: Bool, step: tuple[int, int], shape: tuple[int, ...]) -> Bool:
    """A mask of every so-many-th row and column at full size."""
    return np.repeat(np.repeat(mask, step[0], axis=1), step[1], axis=2)[:, : shape[1], : shape[2]]
