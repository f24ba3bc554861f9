"""Labels in an image file as regions, one a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodulens.core.geometry import Float, Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask
from nodulens.io.images import read_mask
from nodulens.ops.resample import resample_array
from nodulens.rois.grid import Bool, Drawn, Grid
from nodulens.rois.roi import Roi, RoiFile

SAME_MM = 0.005
"""Grids whose corners lie within this are one."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A mask on a grid of its own.

    Attributes:
        geometry: of ``mask``.
        mask: (z, y, x) bool.
    """

    geometry: Geometry
    mask: Bool

    @property
    def outlined(self) -> bool:
        """It has an inside."""
        return True

    def on(self, grid: Grid) -> Drawn | None:
        """By the nearest voxel, as :func:`nodulens.ops.resample.resample_array`."""
        box = grid.within(*reach(self.geometry, grid.geometry))
        if box is None:
            return None
        target = grid.geometry.crop(box)
        if matches(self.geometry, target):
            return Drawn.cropped(box, self.mask)
        return Drawn.cropped(
            box, resample_array(self.mask.astype(np.uint8), self.geometry, target, order=0, fill=0) > 0
        )

    def points(self, grid: Grid) -> Float:
        """None: it has an inside."""
        return np.empty((0, 3))


def reach(source: Geometry, target: Geometry) -> tuple[Float, Float]:
    """Lowest and highest index (z, y, x) of a grid whose voxel may lie on another."""
    ends = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in source.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    corners = target.to_index(source.to_lps(ends))
    return np.ceil(corners.min(axis=0) - 1e-6), np.floor(corners.max(axis=0) + 1e-6)


def matches(first: Geometry, second: Geometry) -> bool:
    """Whether two grids are one, but for rounding in their headers."""
    if first.shape != second.shape:
        return False
    ends = np.array([(0, 0, 0), np.subtract(first.shape, 1)])
    apart = np.abs(first.to_lps(ends) - second.to_lps(ends)).max()
    return bool(apart < SAME_MM and np.abs(first.direction - second.direction).max() < 1e-4)


def labels_of(path: Path, format: str) -> RoiFile:
    """Each value above 0 as a region.

    Raises:
        NotFound: there is no such file.
        UnreadableFile, BadGeometry, BadValues: as :func:`nodulens.io.read_mask`.
    """
    mask = read_mask(path)
    from scipy.ndimage import find_objects

    boxes = find_objects(np.asarray(mask.labels))
    rois = tuple(Roi(value, name, _cut(mask, value, boxes[value - 1])) for value, name in mask.names.items())
    return RoiFile(path, format, rois, grid=Grid(mask.geometry))


def _cut(mask: Mask, value: int, where: tuple[slice, slice, slice]) -> Cut:
    box = Box.between([s.start for s in where], [s.stop for s in where])
    return Cut(mask.geometry.crop(box), np.asarray(mask.labels[where] == value))
