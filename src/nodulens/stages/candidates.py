"""Places in the lungs that could be nodules: bright blobs of 3 to 40 mm, at every scale.

A Laplacian of Gaussian responds most strongly to a ball that matches its scale, and to a vessel with two thirds of
that: by the response alone thousands of vessels come before a nodule of 4 mm. So the least curvature of the smoothed
image decides, which along a vessel is nothing: with λ₁ ≤ λ₂ ≤ λ₃ the negated second derivatives along its principal
axes, λ₁² / λ₃ as in Li, Sone and Doi (Medical Physics 30, 2003). Some hundred candidates a litre are left for the
networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.ops.blocks import block_means
from nodulens.ops.gaussian import TRUNCATE, gaussian_filter
from nodulens.ops.parallel import on_all_cores

LUNG_HU = -860.0
"""Value given to everything outside the search region, so that the chest wall is no blob."""
CEILING_HU = 150.0
"""Brighter is no more suspicious: calcium, contrast and metal must not outshine soft tissue."""
SCALES_MM = (1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0)
"""Sigmas; a ball of diameter d responds most strongly at d / (2 √3)."""
MASS_SCALES_MM = (16.0, 22.0)
"""Sigmas for masses of 55 and 76 mm, of which smaller scales show but the edges."""
STEP = 1.26
"""Ratio of the two Gaussians whose difference approximates the Laplacian."""
FINE = 1.5
"""Sigmas to a voxel: finer voxels would cost more and show no more of a Gaussian."""
SLAB = 48
"""Coarser voxels along z that are filtered at once."""
LEAST_HU = 40.0
"""Least response, in HU, of the scale-normalised difference; for a ball of contrast c it is about c / 4."""
MASS_HU = 150.0
"""Least response of a mass: hila and vessels that come together reach 140, a mass of 60 mm 250."""
LEAST_ROUND_HU = 8.0
"""Least λ₁² / λ₃ in HU, scale-normalised too. In the cubes of LUNA16's nodules 99.6 % of these reach it."""
MOST = 6000
"""The roundest that are kept, twice as many as a scan of healthy lungs has, so that no disease takes minutes."""
LARGEST_MM = 40.0
"""What fits a larger ball is a mass."""
WIDTH = 1.6
"""Squared width of a smoothed ball of the scale that fits it, in squared sigmas."""


@dataclass(frozen=True)
class Blob:
    """A local maximum of the response at one scale.

    Attributes:
        response: in HU.
        round_hu: λ₁² / λ₃ in HU.
        diameter_mm: of the ball that fits the scale.
        index: continuous (z, y, x).
    """

    response: float
    round_hu: float
    diameter_mm: float
    index: NDArray[np.float64]


def propose(volume: Volume, region: NDArray[np.bool_]) -> list[Candidate]:
    """Blobs centred in ``region``, the strongest first, and masses after them; scores are NaN.

    Args:
        volume: canonical orientation (z, y, x rise towards superior, posterior, left).
        region: the search region, (z, y, x) of the volume.
    """
    if not region.any():
        return []
    box = Box.of_mask(region)
    grid = volume.geometry.crop(box)
    allowed = region[box.slices]
    clipped = np.full(box.shape, LUNG_HU, dtype=np.float32)
    for image, hu, inside in zip(clipped, volume.hu[box.slices], allowed, strict=True):
        np.clip(hu, -1000, CEILING_HU, out=image, where=inside)
    scales = [_Scale.of(s, grid, LEAST_HU) for s in SCALES_MM] + [_Scale.of(s, grid, MASS_HU) for s in MASS_SCALES_MM]
    parts = [part for scale in scales for part in scale.parts(allowed)]
    found = [blob for blobs in on_all_cores(partial(_blobs, clipped, allowed), parts) for blob in blobs]
    masses = [blob for blob in found if blob.diameter_mm > LARGEST_MM]
    others = [blob for blob in found if blob.diameter_mm <= LARGEST_MM]
    others = sorted(others, key=lambda blob: -blob.round_hu)[:MOST]
    # apart, so that what is in a mass or beside it is there as without it
    return [c for group in (others, masses) for c in _distinct(sorted(group, key=lambda b: -b.response), grid)]


@dataclass(frozen=True)
class _Scale:
    """One scale of the search.

    Attributes:
        sigma_mm: of the narrower Gaussian.
        factors: voxels along (z, y, x) that are averaged to one.
        spacing: of these coarser voxels, in mm.
        least_hu: response of a blob.
    """

    sigma_mm: float
    factors: NDArray[np.int_]
    spacing: NDArray[np.float64]
    least_hu: float

    @classmethod
    def of(cls, sigma_mm: float, grid: Geometry, least_hu: float) -> _Scale:
        own = np.asarray(grid.spacing_zyx)
        factors = np.maximum(1, (sigma_mm / FINE / own + 1e-6).astype(int))
        return cls(sigma_mm, factors, own * factors, least_hu)

    @property
    def diameter_mm(self) -> float:
        """Of the ball that fits."""
        return float(2 * np.sqrt(3) * self.sigma_mm)

    def sigmas(self, sigma_mm: float) -> NDArray[np.float64]:
        """A Gaussian's sigmas in coarser voxels, less what averaging has blurred already: variances add up."""
        done = (1 - 1 / self.factors**2) / 12
        return np.asarray(np.sqrt(np.maximum((sigma_mm / self.spacing) ** 2 - done, 0.01)))

    def parts(self, allowed: NDArray[np.bool_]) -> Iterator[tuple[_Scale, Box, Box]]:
        """The region in slabs that the processor's cache holds, at this scale: the box of coarser voxels of each, and
        what its filters see."""
        shape = (-(-np.asarray(allowed.shape) // self.factors)).tolist()
        reach = (TRUNCATE * self.sigmas(self.sigma_mm * STEP)).astype(int) + 2
        thick = SLAB * int(self.factors[0])
        for z in range(0, len(allowed), thick):
            if allowed[z : z + thick].any():
                inner = Box.of_mask(allowed[z : z + thick])
                start, stop = np.add(inner.start, (z, 0, 0)), np.add(inner.stop, (z, 0, 0))
                own = Box.between(start // self.factors, -(-stop // self.factors))
                yield self, own, own.grown(reach.tolist()).clipped(shape)


def _blobs(image: NDArray[np.float32], allowed: NDArray[np.bool_], part: tuple[_Scale, Box, Box]) -> list[Blob]:
    """The round local maxima of one scale in a part of the image, in indices of that."""
    scale, own, around = part
    offset = np.asarray(around.start)
    fine = Box.between(offset * scale.factors, np.asarray(around.stop) * scale.factors).clipped(image.shape)
    small = block_means(image[fine.slices], scale.factors.tolist())
    narrow, wide = (gaussian_filter(small, scale.sigmas(s)) for s in (scale.sigma_mm, scale.sigma_mm * STEP))
    answer = np.subtract(narrow, wide, out=wide)
    answer *= np.float32(0.5 / (STEP - 1))
    places = _peaks(answer, scale.least_hu)
    index = (places + offset) * scale.factors + (scale.factors - 1) / 2
    nearest = np.minimum(np.round(index).astype(int), np.asarray(image.shape) - 1)
    mine = (places[:, 0] + offset[0] >= own.start[0]) & (places[:, 0] + offset[0] < own.stop[0])
    inside = mine & allowed[tuple(nearest.T)]
    places, index = places[inside], index[inside]
    roundness = _roundness(narrow, places, scale.spacing / scale.sigma_mm)
    values = answer[tuple(places.T)]
    kept = np.flatnonzero(roundness >= LEAST_ROUND_HU)
    return [Blob(float(values[i]), float(roundness[i]), scale.diameter_mm, index[i]) for i in kept]


def _peaks(answer: NDArray[np.float32], least: float) -> NDArray[np.int_]:
    """Voxels (N, 3) above ``least`` that none of their 26 neighbours exceeds.

    Few voxels are, and most of these fall to their first neighbours: a maximum filter would look at all.
    """
    padded = np.pad(answer, 1, constant_values=-np.inf)
    flat = padded.ravel()
    steps = np.array([1, padded.shape[2], padded.shape[1] * padded.shape[2]])
    offsets = [z * steps[2] + y * steps[1] + x * steps[0] for z, y, x in product((-1, 0, 1), repeat=3)]
    left = np.flatnonzero(flat > least)
    for offset in sorted(offsets, key=abs):
        left = left[flat[left] >= flat[left + offset]]
    return np.stack(np.unravel_index(left, padded.shape), axis=1) - 1


def _roundness(smooth: NDArray[np.float32], places: NDArray[np.int_], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """λ₁² / λ₃ (N,) in HU at voxels (N, 3), scale-normalised; 0 where not all curve downwards.

    Args:
        smooth: HU smoothed by a Gaussian.
        step: sigmas from voxel to voxel along each axis.
    """
    padded, centre = np.pad(smooth, 1, mode="edge"), places + 1
    side = np.eye(3, dtype=int)
    # differences over steps as wide as the blob are less than its curvature: scaled as for one of its width
    scale = np.sqrt(2 * WIDTH * -np.expm1(-(step**2) / (2 * WIDTH)))

    def at(offset: NDArray[np.int_]) -> NDArray[np.float64]:
        return np.asarray(padded[tuple((centre + offset).T)], dtype=np.float64)

    curved = np.empty((len(places), 3, 3))
    middle = at(0 * side[0])
    for a in range(3):
        curved[:, a, a] = (2 * middle - at(side[a]) - at(-side[a])) / scale[a] ** 2
        for b in range(a):
            along, across = side[a] + side[b], side[a] - side[b]
            mixed = (at(across) + at(-across) - at(along) - at(-along)) / (4 * scale[a] * scale[b])
            curved[:, a, b] = curved[:, b, a] = mixed
    low, _, high = np.linalg.eigvalsh(curved).T
    return np.asarray(np.where(low > 0, low**2 / np.maximum(high, 1e-6), 0.0))


def _distinct(found: Sequence[Blob], grid: Geometry) -> list[Candidate]:
    """The first blob of every group: one within a third of its diameter, or of an earlier one's if that is smaller, is
    removed. So no vessel, which is a strong blob of any size, takes the small nodule beside it."""
    if not found:
        return []
    points = grid.to_lps(np.stack([blob.index for blob in found]))
    diameter = np.array([blob.diameter_mm for blob in found])
    beside: list[list[int]] = [[] for _ in found]
    for size in np.unique(diameter):
        own, no_smaller = np.flatnonzero(diameter == size), np.flatnonzero(diameter >= size)
        for i, near in zip(
            own.tolist(), cKDTree(points[no_smaller]).query_ball_point(points[own], size / 3), strict=True
        ):
            for j in no_smaller[near].tolist():
                beside[i].append(j)
                beside[j].append(i)
    free, kept = [True] * len(found), []
    for i, (x, y, z) in enumerate(points.tolist()):
        if free[i]:
            kept.append(Candidate((x, y, z), float(diameter[i])))
            for j in beside[i]:
                free[j] = False
    return kept
