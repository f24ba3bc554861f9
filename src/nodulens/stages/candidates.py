"""Places in the lungs that could be nodules: bright blobs of 3 to 40 mm, at every scale.

A Laplacian of Gaussian responds most strongly to a ball that matches its scale. A vessel responds with two thirds of
that, so hardly a nodule is lost, and a few hundred non-nodules are left for the networks to reject.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.ops.blocks import block_means

LUNG_HU = -860.0
"""Value given to everything outside the search region, so that the chest wall is no blob."""
CEILING_HU = 150.0
"""Brighter is no more suspicious: calcium, contrast and metal must not outshine soft tissue."""
SCALES = ((1.4, 700), (2.0, 600), (2.8, 400), (4.0, 200), (5.6, 80), (8.0, 30), (11.0, 12))
"""Sigma in mm, and how many of the strongest responses to keep. A ball of diameter d responds most strongly at
d / (2 √3), and noise only at the smallest scale, so a quota for each scale keeps large and faint blobs."""
STEP = 1.26
"""Ratio of the two Gaussians whose difference approximates the Laplacian."""
LEAST_HU = 40.0
"""Least response, in HU, of the scale-normalised difference; for a ball of contrast c it is about c / 4."""


Blob = tuple[float, float, NDArray[np.float64]]
"""Response, diameter in mm, continuous index (z, y, x)."""


def propose(volume: Volume, region: NDArray[np.bool_]) -> list[Candidate]:
    """Blobs centred in ``region``, the strongest first; scores are NaN.

    Args:
        volume: canonical orientation (z, y, x rise towards superior, posterior, left).
        region: the search region, (z, y, x) of the volume.
    """
    if not region.any():
        return []
    box = Box.of_mask(region)
    grid = volume.geometry.crop(box)
    allowed = region[box.slices]
    clipped = np.where(allowed, np.clip(volume.hu[box.slices], -1000, CEILING_HU), LUNG_HU).astype(np.float32)
    # the filters release the interpreter's lock, and the finest scale takes as long as all others together
    with ThreadPoolExecutor(2) as pool:
        scales = pool.map(lambda scale: _blobs(clipped, allowed, grid, *scale), SCALES)
        found = [blob for blobs in scales for blob in blobs]
    found.sort(key=lambda blob: -blob[0])
    return _distinct(found, grid)


def _blobs(
    image: NDArray[np.float32], allowed: NDArray[np.bool_], grid: Geometry, sigma_mm: float, quota: int
) -> list[Blob]:
    """The strongest local maxima of one scale, in indices of ``grid``."""
    # voxels of two thirds of a sigma are fine enough for a Gaussian, and coarser work is cheaper work
    factors = [max(1, int(sigma_mm / 1.5 / s)) for s in grid.spacing_zyx]
    small = block_means(image, factors)
    spacing = np.asarray(grid.spacing_zyx)
    # averaging over blocks has blurred already: variances add up
    done = (np.square(factors) - 1) / 12 * spacing**2
    narrow, wide = (
        ndimage.gaussian_filter(small, np.sqrt(np.maximum(s * s - done, 0.01)) / (spacing * factors), truncate=3)
        for s in (sigma_mm, sigma_mm * STEP)
    )
    answer = (narrow - wide) * np.float32(0.5 / (STEP - 1))
    strong = np.flatnonzero(answer > LEAST_HU)
    peak = ndimage.maximum_filter(answer, 3).ravel()[strong] == answer.ravel()[strong]
    places = np.stack(np.unravel_index(strong[peak], answer.shape), axis=1)
    index = places * factors + (np.asarray(factors) - 1) / 2
    nearest = np.minimum(np.round(index).astype(int), np.asarray(grid.shape) - 1)
    inside = allowed[tuple(nearest.T)]
    values = answer[tuple(places.T)]
    order = np.flatnonzero(inside)[np.argsort(-values[inside], kind="stable")][:quota]
    return [(float(values[i]), 2 * np.sqrt(3) * sigma_mm, index[i]) for i in order]


def _distinct(found: list[Blob], grid: Geometry) -> list[Candidate]:
    """The strongest blob of every group within a third of its diameter."""
    kept: list[Candidate] = []
    centres = np.empty((len(found), 3))
    reach = np.empty(len(found))
    for _, diameter, index in found:
        point = grid.to_lps(index)
        n = len(kept)
        if np.any(np.linalg.norm(centres[:n] - point, axis=1) < np.maximum(reach[:n], diameter / 3)):
            continue
        centres[n], reach[n] = point, diameter / 3
        kept.append(Candidate((float(point[0]), float(point[1]), float(point[2])), diameter))
    return kept
