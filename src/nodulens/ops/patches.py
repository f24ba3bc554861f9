"""Resampled windows of an array and their inverse, for the input and output of networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.ops.resample import axis_weights

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A regular grid laid over an array, in the array's own continuous indices (z, y, x).

    Attributes:
        first: index of the first grid point.
        step: array voxels from one grid point to the next.
        shape: grid points.
    """

    first: tuple[float, float, float]
    step: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, start: NDArray[np.float64], stop: NDArray[np.float64], shape: tuple[int, int, int]) -> Window:
        """The grid whose outer faces are ``start`` and ``stop``: continuous indices of faces, half-open, so
        that voxel 0 reaches from 0 to 1."""
        step = (stop - start) / np.asarray(shape)
        first = start + step / 2 - 0.5
        return cls((first[0], first[1], first[2]), (step[0], step[1], step[2]), shape)

    def sample(self, array: NDArray) -> Float32:  # type: ignore[type-arg]
        """``array`` (z, y, x) at the grid points: linear, averaged where the grid is coarser, edge values beyond."""
        if set(self.step) == {1.0} and all(f == int(f) for f in self.first):  # the array's own voxels
            ends = [(int(f), int(f) + n) for f, n in zip(self.first, self.shape, strict=True)]
            if all(a >= 0 and b <= size for (a, b), size in zip(ends, array.shape, strict=True)):
                return array[tuple(slice(a, b) for a, b in ends)].astype(np.float32)
            near = (np.clip(np.arange(a, b), 0, size - 1) for (a, b), size in zip(ends, array.shape, strict=True))
            return np.asarray(array[np.ix_(*near)], dtype=np.float32)
        weights, slices = [], []
        for first, step, n, size in zip(self.first, self.step, self.shape, array.shape, strict=True):
            place = np.clip(first + step * np.arange(n), 0, size - 1)
            reach = 1 + step / 2
            lo = int(np.clip(np.floor(place[0] - reach), 0, size - 1))
            hi = int(np.clip(np.ceil(place[-1] + reach) + 1, lo + 1, size))
            weights.append(axis_weights(place, step, lo, hi, size))
            slices.append(slice(lo, hi))
        wz, wy, wx = weights
        crop = array[slices[0], slices[1], slices[2]].astype(np.float32)
        return np.asarray(np.tensordot(wz, wy @ (crop @ wx.T), axes=1), dtype=np.float32)

    def project(self, values: Float32, shape: tuple[int, int, int], fill: float) -> tuple[Box, Float32]:
        """Grid values back at the array's voxels.

        Args:
            values: of ``self.shape``.
            shape: of the array.
            fill: for voxels of the box beyond the grid's outer faces (there are none but at its rim).

        Returns:
            The box of array voxels whose centres the grid covers (at least one on each axis), and the values there.
        """
        start, stop, weights = [], [], []
        for first, step, n, size in zip(self.first, self.step, self.shape, shape, strict=True):
            lo = int(np.clip(np.ceil(first - step / 2), 0, size - 1))
            hi = int(np.clip(np.floor(first + step * (n - 0.5)) + 1, lo + 1, size))
            place = np.asarray((np.arange(lo, hi) - first) / step, dtype=np.float64)
            weights.append(axis_weights(place, 1.0, 0, n))
            start.append(lo)
            stop.append(hi)
        wz, wy, wx = weights
        out = np.tensordot(wz, wy @ ((values - np.float32(fill)) @ wx.T), axes=1) + np.float32(fill)
        return Box.between(start, stop), np.asarray(out, dtype=np.float32)
