"""The geometry of a voxel grid in the patient.

Two orders exist and never mix: array indices are ``(z, y, x)``, points are LPS millimetres
``(x, y, z)`` (Left, Posterior, Superior rise). This module and :mod:`nodulens.io` are the only places
where one order is turned into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.core.nodule import Box
from nodulens.errors import BadGeometry

Float = NDArray[np.float64]

MAX_SIDE = 65_535
"""Voxels along an axis: what DICOM's 16 bits can say."""
SPACING_MM = (1e-3, 1e3)
"""From electron microscopy to more than the width of a patient; CT and resampled grids are well inside."""
MAX_POSITION_MM = 1e5
"""A hundred metres from the scanner's origin, where single precision still resolves a hundredth of a millimetre."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular grid in the patient.

    Args:
        shape: voxels along the array axes (z, y, x), each at least 1.
        spacing_zyx: millimetres between voxel centres along the array axes.
        origin_lps: LPS point (x, y, z) in mm of the centre of voxel (0, 0, 0).
        direction: 3 × 3; column k is the LPS unit vector in which array axis k rises.

    Raises:
        BadGeometry: non-finite numbers, shape, spacing or origin beyond :data:`MAX_SIDE`, :data:`SPACING_MM` and
            :data:`MAX_POSITION_MM`, or columns that are not orthonormal within 1e-4.
    """

    shape: tuple[int, int, int]
    spacing_zyx: tuple[float, float, float]
    origin_lps: tuple[float, float, float]
    direction: Float

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        spacing = tuple(float(s) for s in self.spacing_zyx)
        origin = tuple(float(o) for o in self.origin_lps)
        direction = np.array(self.direction, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise BadGeometry(f"A volume needs three axes of at least one voxel, got shape {shape}.")
        if max(shape) > MAX_SIDE:
            raise BadGeometry(f"A volume of {shape} voxels (z, y, x) is larger than any scan ({MAX_SIDE:,} an axis).")
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise BadGeometry(f"Voxel spacing must be positive and finite, got {spacing} mm (z, y, x).")
        if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in spacing):
            raise BadGeometry(f"Voxels of {spacing} mm (z, y, x) are impossible: too small or too large.")
        if len(origin) != 3 or not np.all(np.isfinite(origin)):
            raise BadGeometry(f"The position of the first voxel is not finite: {origin}.")
        if max(map(abs, origin)) > MAX_POSITION_MM:
            raise BadGeometry(f"The first voxel lies at {origin} mm (x, y, z), beyond {MAX_POSITION_MM:g} mm.")
        if direction.shape != (3, 3) or not np.all(np.isfinite(direction)):
            raise BadGeometry("The direction matrix must be 3 × 3 and finite.")
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
            raise BadGeometry("The image axes are not at right angles to one another (sheared or tilted grid).")
        direction.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing_zyx", spacing)
        object.__setattr__(self, "origin_lps", origin)
        object.__setattr__(self, "direction", direction)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Geometry)
            and self.shape == other.shape
            and self.spacing_zyx == other.spacing_zyx
            and self.origin_lps == other.origin_lps
            and bool(np.array_equal(self.direction, other.direction))
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.spacing_zyx, self.origin_lps))

    @classmethod
    def axial(
        cls,
        shape: tuple[int, int, int],
        spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin_lps: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """A grid in canonical orientation: axes rise towards superior, posterior and left."""
        return cls(shape, spacing_zyx, origin_lps, np.eye(3)[:, ::-1])

    @cached_property
    def affine(self) -> Float:
        """4 × 4: (z, y, x, 1) index → (x, y, z, 1) LPS mm. The last axis order change there is."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing_zyx)
        matrix[:3, 3] = self.origin_lps
        matrix.setflags(write=False)
        return matrix

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(np.prod(self.spacing_zyx))

    def to_lps(self, index_zyx: ArrayLike) -> Float:
        """Continuous (z, y, x) indices, shape (..., 3) → LPS mm (x, y, z). Voxel centres are whole numbers."""
        index = np.asarray(index_zyx, dtype=np.float64)
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, point_lps: ArrayLike) -> Float:
        """LPS mm (x, y, z), shape (..., 3) → continuous (z, y, x) indices."""
        point = np.asarray(point_lps, dtype=np.float64) - self.affine[:3, 3]
        return np.asarray(point @ self.direction / np.asarray(self.spacing_zyx))

    def contains(self, point_lps: ArrayLike) -> bool:
        """Whether a point is inside the outer faces of the grid."""
        index = self.to_index(point_lps)
        return bool(np.all(index >= -0.5) and np.all(index <= np.asarray(self.shape) - 0.5))

    def crop(self, box: Box) -> Geometry:
        """The grid of ``array[box.slices]``; the box may reach beyond the grid."""
        origin = self.to_lps(box.start)
        return Geometry(box.shape, self.spacing_zyx, (origin[0], origin[1], origin[2]), self.direction)

    def respaced(self, spacing_zyx: Sequence[float]) -> Geometry:
        """The same extent with other voxels: the outer corner of voxel (0, 0, 0) stays where it is."""
        old = np.asarray(self.spacing_zyx)
        new = np.asarray(spacing_zyx, dtype=np.float64)
        if new.shape != (3,) or not np.all(np.isfinite(new)) or np.any(new <= 0):
            raise BadGeometry(f"Voxel spacing must be positive and finite, got {tuple(spacing_zyx)} mm (z, y, x).")
        shape = np.maximum(1, np.round(np.asarray(self.shape) * old / new)).astype(int)
        origin = self.to_lps(0.5 * new / old - 0.5)
        return Geometry(
            (int(shape[0]), int(shape[1]), int(shape[2])),
            (float(new[0]), float(new[1]), float(new[2])),
            (origin[0], origin[1], origin[2]),
            self.direction,
        )

    def transposed(self, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Geometry:
        """The grid of ``array.transpose(axes)`` with new axis k reversed where ``flips[k]``."""
        shape = tuple(self.shape[a] for a in axes)
        spacing = tuple(self.spacing_zyx[a] for a in axes)
        signs = np.where(flips, -1.0, 1.0)
        first = np.zeros(3)
        for new, old in enumerate(axes):
            if flips[new]:
                first[old] = self.shape[old] - 1
        origin = self.to_lps(first)
        return Geometry(
            (shape[0], shape[1], shape[2]),
            (spacing[0], spacing[1], spacing[2]),
            (origin[0], origin[1], origin[2]),
            self.direction[:, list(axes)] * signs,
        )


def ball_diameter_mm(voxels: float, voxel_mm3: float = 1.0) -> float:
    """Diameter of the ball as large as so many voxels, in mm.

    Args:
        voxels: how many; or a volume in mm³, where ``voxel_mm3`` is left out.
        voxel_mm3: volume of a voxel.
    """
    return float(np.cbrt(6 / np.pi * voxels * voxel_mm3))


def disc_diameter_mm(pixels: float, pixel_mm: float = 1.0) -> float:
    """Diameter of the disc as large as so many square pixels, in mm.

    Args:
        pixels: how many; or an area in mm², where ``pixel_mm`` is left out.
        pixel_mm: side of a pixel.
    """
    return float(2 * np.sqrt(pixels / np.pi) * pixel_mm)
