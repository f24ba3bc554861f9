"""Turning a volume so that its axes rise towards superior, posterior and left, and results back again.

Only axes are exchanged and reversed, nothing is interpolated: an oblique scan stays oblique, within
45 degrees or so of the patient's axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume

Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Reorientation:
    """The way from an array as read to the canonical one, and back.

    Attributes:
        axes: canonical axis k is axis ``axes[k]`` of the array as read.
        flips: whether canonical axis k runs against it.
        shape: of the canonical array (z, y, x).
    """

    axes: Axes
    flips: Flips
    shape: tuple[int, int, int]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array as read, with canonical axes."""
        return array.transpose(self.axes)[self._steps]

    def invert(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of a canonical array, with the axes as read."""
        return array[self._steps].transpose(np.argsort(self.axes))

    def invert_box(self, box: Box) -> Box:
        """The same voxels as a box of the canonical array, in indices as read."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for k, axis in enumerate(self.axes):
            ends = (box.start[k], box.stop[k])
            start[axis], stop[axis] = (self.shape[k] - ends[1], self.shape[k] - ends[0]) if self.flips[k] else ends
        return Box.between(start, stop)

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        a, b, c = (slice(None, None, -1 if flip else None) for flip in self.flips)
        return a, b, c


def canonical(volume: Volume) -> tuple[Volume, Reorientation]:
    """The volume with z, y, x rising as nearly as they can towards superior, posterior, left.

    Args:
        volume: in any orientation.

    Returns:
        The turned volume (a view of the same voxels, axes right-handed in the order x, y, z) and the way
        back. ``source.slices`` follows a reversed z and is empty where z is another axis than as read.
    """
    axes, flips = _closest(volume.geometry)
    geometry = volume.geometry.transposed(axes, flips)
    orientation = Reorientation(axes, flips, geometry.shape)
    slices = volume.source.slices if axes[0] == 0 else ()
    source = replace(volume.source, slices=slices[::-1] if flips[0] else slices)
    return Volume(orientation.apply(volume.hu), geometry, source), orientation


def _closest(geometry: Geometry) -> tuple[Axes, Flips]:
    """The right-handed permutation and flips that leave the smallest rotation over."""
    # Rows L, P, S → S, P, L: the diagonal of the permuted matrix is then what each axis keeps.
    towards = geometry.direction[::-1]
    handedness = np.linalg.det(towards)
    best: tuple[float, Axes, Flips] | None = None
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        parity = float(np.linalg.det(np.eye(3)[:, list(axes)] * signs))
        kept = float(sum(towards[k, axis] * sign for k, (axis, sign) in enumerate(zip(axes, signs, strict=True))))
        if parity * handedness > 0 and (best is None or kept > best[0] + 1e-9):
            best = kept, (axes[0], axes[1], axes[2]), (signs[0] < 0, signs[1] < 0, signs[2] < 0)
    assert best is not None
    return best[1], best[2]
