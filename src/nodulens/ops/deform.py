"""Smooth maps of points from one scan to another: an affine part, and a displacement on a coarse grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from nodulens.core.geometry import Float, Geometry
from nodulens.errors import BadOption

ROUNDS = 30
"""Largest number of steps towards the inverse."""
CLOSE_MM = 0.01
"""The inverse is that exact."""


@dataclass(frozen=True, eq=False)
class Deformation:
    """A map of points, ``p → matrix · p + offset + displacement(p)``, smooth and without folds.

    Args:
        matrix: 3 × 3, of LPS millimetres (x, y, z).
        offset: (x, y, z) in mm.
        grid: of the displacement; beyond it the displacement is that of its nearest voxel.
        displacement: (z, y, x, 3) float32 on ``grid``, each a vector (x, y, z) in mm; made read-only.

    Raises:
        BadOption: other shapes, or a matrix that cannot be inverted.
    """

    matrix: Float
    offset: Float
    grid: Geometry
    displacement: NDArray[np.float32]

    def __post_init__(self) -> None:
        matrix, offset = np.array(self.matrix, dtype=np.float64), np.array(self.offset, dtype=np.float64)
        if matrix.shape != (3, 3) or offset.shape != (3,) or abs(float(np.linalg.det(matrix))) < 1e-6:
            raise BadOption("A deformation has an invertible matrix of 3 × 3 and an offset of 3.")
        if self.displacement.shape != (*self.grid.shape, 3):
            raise BadOption(f"A displacement on {self.grid.shape} voxels has three numbers each.")
        view = np.ascontiguousarray(self.displacement, dtype=np.float32)
        view.setflags(write=False)
        for name, value in (("matrix", matrix), ("offset", offset), ("displacement", view)):
            object.__setattr__(self, name, value)

    @classmethod
    def identity(cls) -> Deformation:
        """Every point stays where it is."""
        return cls(np.eye(3), np.zeros(3), Geometry.axial((1, 1, 1)), np.zeros((1, 1, 1, 3), np.float32))

    def at(self, points_lps: ArrayLike) -> Float:
        """Where points go: LPS mm, (..., 3) → (..., 3)."""
        points = np.asarray(points_lps, dtype=np.float64)
        return np.asarray(points @ self.matrix.T + self.offset + self._displaced(points))

    def inverse_at(self, points_lps: ArrayLike) -> Float:
        """Where points come from: LPS mm, (..., 3) → (..., 3), within :data:`CLOSE_MM` where nothing folds."""
        points = np.asarray(points_lps, dtype=np.float64)
        back = np.linalg.inv(self.matrix).T
        found = (points - self.offset) @ back
        for _ in range(ROUNDS):
            step = (points - self.at(found)) @ back
            found = found + step
            if not step.size or float(np.abs(step).max()) < CLOSE_MM:
                break
        return np.asarray(found)

    def planes(
        self, array: NDArray[Any], source: Geometry, target: Geometry, *, order: int, fill: float
    ) -> Iterator[NDArray[Any]]:
        """Slices of ``array`` as seen from a target grid, whose points this map takes to where they are in the source.

        Args:
            array: (z, y, x) on ``source``.
            source: its grid.
            target: the wanted grid.
            order: 0 for labels, 1 for values.
            fill: beyond the source.

        Yields:
            (y, x) of ``target.shape``, from the first slice to the last; float32 for order 1.
        """
        kind = np.float32 if order else array.dtype
        y, x = np.mgrid[: target.shape[1], : target.shape[2]]
        for z in range(target.shape[0]):
            points = target.to_lps(np.stack([np.full(y.shape, z), y, x], axis=-1))
            index = np.moveaxis(source.to_index(self.at(points)), -1, 0)
            yield ndimage.map_coordinates(array, index, output=kind, order=order, mode="constant", cval=fill)

    def warped(
        self, array: NDArray[Any], source: Geometry, target: Geometry, *, order: int = 1, fill: float = 0.0
    ) -> NDArray[Any]:
        """All of :meth:`planes` as one array."""
        return np.stack(list(self.planes(array, source, target, order=order, fill=fill)))

    def _displaced(self, points: Float) -> Float:
        index = self.grid.to_index(points).reshape(-1, 3).T
        parts = [ndimage.map_coordinates(self.displacement[..., k], index, order=1, mode="nearest") for k in range(3)]
        return np.stack(parts, axis=-1).reshape(points.shape).astype(np.float64)
