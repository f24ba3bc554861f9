"""Smooth deformations as between two breaths: two scans of one chest, with exact truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.ops.deform import Deformation

GRID_MM = 10.0
"""Voxels of a deformation."""
WAVE_MM = 35.0
"""Standard deviation of the Gaussian that makes its random part smooth."""


@dataclass(frozen=True)
class Breath:
    """How one scan differs from another.

    Attributes:
        diaphragm_mm: by which the base of the lungs moves; the apex does not.
        chest_mm: by which the front of the chest moves at the base.
        wave_mm: standard deviation of a smooth random motion besides.
        turn_deg, shift_mm: standard deviations of how the patient lies, about and along each axis.
    """

    diaphragm_mm: float = 12.0
    chest_mm: float = 4.0
    wave_mm: float = 2.0
    turn_deg: float = 2.0
    shift_mm: float = 5.0


USUAL = Breath()


def breathing(
    corners_lps: tuple[Sequence[float], Sequence[float]], *, seed: int, breath: Breath = USUAL
) -> Deformation:
    """A smooth map from the later scan to the earlier one, without folds.

    Args:
        corners_lps: lowest and highest LPS mm (x, y, z) of the chest, the base of the lungs first.
        seed: of what is random.
        breath: how much moves.
    """
    rng = np.random.default_rng(seed)
    low, high = (np.asarray(c, dtype=np.float64) for c in corners_lps)
    count = np.ceil((high - low) / GRID_MM).astype(int)[::-1] + 3
    x, y, z = (float(v) for v in low - GRID_MM)
    grid = Geometry.axial((int(count[0]), int(count[1]), int(count[2])), (GRID_MM,) * 3, (x, y, z))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    share = np.clip((grid.to_lps(index) - low) / (high - low), 0, 1)
    moved = np.stack([_wave(grid.shape, rng) * breath.wave_mm for _ in range(3)], axis=-1)
    base = (1 - share[..., 2]) ** 1.5
    moved[..., 2] += breath.diaphragm_mm * base * (1 - np.abs(share[..., 0] - 0.5))
    moved[..., 1] += breath.chest_mm * base * (2 * share[..., 1] - 1)
    turn = _rotation(np.deg2rad(rng.normal(0, breath.turn_deg, 3)))
    middle = (low + high) / 2
    offset = middle - turn @ middle + rng.normal(0, breath.shift_mm, 3)
    return Deformation(turn, offset, grid, moved.astype(np.float32))


def _wave(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    white = ndimage.gaussian_filter(rng.standard_normal(shape), WAVE_MM / GRID_MM, mode="nearest")
    return np.asarray(white / max(float(white.std()), 1e-9))


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """About x, then y, then z, in radians."""
    out = np.eye(3)
    for axis, angle in enumerate(angles.tolist()):
        one, other = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out
