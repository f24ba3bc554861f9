"""Coarser grids of whole voxels: the cheapest resampling there is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry


def block_means(array: NDArray[np.float32] | NDArray[np.int16], factors: Sequence[int]) -> NDArray[np.float32]:
    """Means over blocks of ``factors`` voxels (z, y, x); the last block of an axis is made full by repeating its edge.

    Block ``i`` of an axis with factor ``f`` has its middle at index ``i · f + (f − 1) / 2``.
    """
    if all(f == 1 for f in factors):
        return array.astype(np.float32, copy=False)
    fz, fy, fx = factors
    nz, ny, nx = array.shape
    out = np.zeros([-(-n // f) for n, f in zip(array.shape, factors, strict=True)], dtype=np.float32)
    for z in range(len(out) * fz):  # slice by slice, as padding the whole array would copy it
        image: NDArray[Any] = array[min(z, nz - 1)]
        if ny % fy or nx % fx:
            image = np.pad(image, [(0, -ny % fy), (0, -nx % fx)], mode="edge")
        for y, x in product(range(fy), range(fx)):
            out[z // fz] += image[y::fy, x::fx]
    out /= np.float32(np.prod(factors))
    return out


def block_grid(grid: Geometry, factors: Sequence[int], shape: Sequence[int]) -> Geometry:
    """The grid of :func:`block_means`: voxel centres in the middle of the blocks.

    Args:
        grid: of the voxels.
        factors: voxels in a block along (z, y, x).
        shape: how many blocks.
    """
    nz, ny, nx = shape
    dz, dy, dx = (factor * spacing for factor, spacing in zip(factors, grid.spacing_zyx, strict=True))
    x, y, z = grid.to_lps([(factor - 1) / 2 for factor in factors])
    return Geometry((nz, ny, nx), (dz, dy, dx), (float(x), float(y), float(z)), grid.direction)
