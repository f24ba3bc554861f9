"""Places in the lungs that could be nodules: bright blobs of 3 to 40 mm, at every scale.

A ball answers most strongly to a Laplacian of Gaussian of the scale that fits it; a vessel answers with two thirds of
that, so hardly a nodule is lost and a few hundred look-alikes come along for the networks to reject.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.ops.patches import Window

LUNG_HU = -860.0
"""What everything outside the search region is set to, so that the chest wall is no blob."""
CEILING_HU = 150.0
"""Brighter is no more suspicious: calcium, contrast and metal must not outshine soft tissue."""
SCALES = ((1.4, 700), (2.0, 600), (2.8, 400), (4.0, 200), (5.6, 80), (8.0, 30), (11.0, 12))
"""Sigma in mm, and how many of the strongest answers to keep: a ball of diameter d answers most strongly at d / (2 √3),
and noise only at the smallest, so a quota for each keeps the large and the faint in."""
STEP = 1.26
"""Ratio of the two Gaussians whose difference stands in for the Laplacian."""
LEAST_HU = 40.0
"""Least answer, in HU, of the scale-normalised difference; a ball of contrast c answers with about c / 4."""


def propose(volume: Volume, region: NDArray[np.bool_]) -> list[Candidate]:
    """Blobs whose middle lies in ``region``, the strongest first; scores are NaN.

    Args:
        volume: canonical orientation (z, y, x rise towards superior, posterior, left).
        region: where to look, (z, y, x) of the volume.
    """
    if not region.any():
        return []
    box = Box.of_mask(region)
    grid = volume.geometry.crop(box)
    seen = np.clip(volume.hu[box.slices].astype(np.float32), -1000, CEILING_HU)
    allowed = region[box.slices]
    seen = np.where(allowed, seen, np.float32(LUNG_HU))
    found: list[tuple[float, float, NDArray[np.float64]]] = []
    for sigma, quota in SCALES:
        found += sorted(_blobs(seen, allowed, grid, sigma), key=lambda blob: -blob[0])[:quota]
    found.sort(key=lambda blob: -blob[0])
    return _distinct(found, grid)


def _blobs(
    image: NDArray[np.float32], allowed: NDArray[np.bool_], grid: Geometry, sigma_mm: float
) -> list[tuple[float, float, NDArray[np.float64]]]:
    """(answer, diameter in mm, continuous index in ``grid``) of the local maxima of one scale."""
    # voxels of two thirds of a sigma are fine enough for a Gaussian; coarser work is cheaper work
    spacing = np.maximum(grid.spacing_zyx, sigma_mm / 1.5)
    shape = tuple(max(1, round(n * s / t)) for n, s, t in zip(grid.shape, grid.spacing_zyx, spacing, strict=True))
    window = Window.over(np.zeros(3), np.asarray(grid.shape, float), (shape[0], shape[1], shape[2]))
    small = window.look(image)
    spacing = np.asarray(window.step) * grid.spacing_zyx
    # the averaging into coarser voxels has already blurred: variances add up
    done = np.maximum(np.asarray(window.step) ** 2 - 1, 0) / 12 * np.asarray(grid.spacing_zyx) ** 2
    narrow, wide = (
        ndimage.gaussian_filter(small, np.sqrt(np.maximum(s * s - done, 0.01)) / spacing, truncate=3)
        for s in (sigma_mm, sigma_mm * STEP)
    )
    answer = (narrow - wide) / np.float32(STEP - 1)
    answer *= np.float32(0.5)
    peak = ndimage.maximum_filter(answer, 3)
    places = np.argwhere((answer == peak) & (answer > LEAST_HU))
    out = []
    for place in places:
        index = np.asarray(window.first) + place * np.asarray(window.step)
        nearest = tuple(np.clip(np.round(index).astype(int), 0, np.asarray(grid.shape) - 1))
        if allowed[nearest]:
            out.append((float(answer[tuple(place)]), 2 * np.sqrt(3) * sigma_mm, index))
    return out


def _distinct(found: list[tuple[float, float, NDArray[np.float64]]], grid: Geometry) -> list[Candidate]:
    """The strongest of every group that lies within a third of its diameter."""
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
