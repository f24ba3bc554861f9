"""The grid that regions are drawn on, and what is drawn there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import MAX_SIDE, Float, Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Study, Volume, crop_array
from nodulens.errors import BadGeometry

Bool = NDArray[np.bool_]

MOST_VOXELS = 2**31
"""In a mask of one region: more than the largest scan has."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in a patient.

    Attributes:
        geometry: of the lattice.
        frame_of_reference_uid: of its positions; None where the file does not say.
        study: of a scan read from DICOM, for regions on one of its images.
        ends: whether there is nothing beyond the shape of ``geometry``, as of a scan.
    """

    geometry: Geometry
    frame_of_reference_uid: str | None = None
    study: Study | None = None
    ends: bool = False

    @classmethod
    def of(cls, ct: Volume) -> Grid:
        """The grid of a scan as read."""
        return cls(ct.geometry, ct.source.frame_of_reference_uid, ct.source.study, ends=True)

    def within(self, low: Sequence[int] | Float, high: Sequence[int] | Float) -> Box | None:
        """The box of whole indices (z, y, x) from ``low`` to ``high``, both included; None where none of it is there.

        Raises:
            BadGeometry: it is larger than any region.
        """
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise BadGeometry("A position is not finite.")
        if self.ends:
            low, high = np.maximum(low, 0), np.minimum(high, np.asarray(self.geometry.shape) - 1)
        start, stop = np.ceil(low), np.floor(high) + 1
        if (stop <= start).any():
            return None
        if max(np.abs(start).max(), np.abs(stop).max()) > MAX_SIDE or math.prod((stop - start).tolist()) > MOST_VOXELS:
            raise BadGeometry("A region is larger, or farther away, than any scan reaches.")
        return Box.between(start.astype(int), stop.astype(int))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A region on a grid.

    Attributes:
        box: around it, (z, y, x) in indices of the grid; it may reach beyond the shape of one that does not end.
        mask: bool of ``box.shape``; some of it is true on every side.
    """

    box: Box
    mask: Bool

    @classmethod
    def cropped(cls, box: Box, mask: Bool) -> Drawn | None:
        """What is true of a mask; None where nothing is."""
        if not mask.any():
            return None
        own = Box.of_mask(mask)
        return cls(
            Box.between(np.add(box.start, own.start), np.add(box.start, own.stop)),
            np.ascontiguousarray(mask[own.slices]),
        )

    @property
    def voxels(self) -> int:
        """How many it has."""
        return int(np.count_nonzero(self.mask))

    def on(self, box: Box) -> Bool:
        """Its mask in another box of the same grid."""
        return crop_array(
            self.mask, Box.between(np.subtract(box.start, self.box.start), np.subtract(box.stop, self.box.start))
        )

    def centre(self, geometry: Geometry) -> Float:
        """Centroid in LPS mm (x, y, z)."""
        return geometry.to_lps(np.argwhere(self.mask).mean(axis=0) + self.box.start)


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box around several."""
    return Box.between(np.min([box.start for box in boxes], axis=0), np.max([box.stop for box in boxes], axis=0))


def joined(parts: Sequence[Drawn]) -> Drawn | None:
    """The union of regions on one grid; None of none."""
    if not parts:
        return None
    box = around([part.box for part in parts])
    out = np.zeros(box.shape, dtype=bool)
    for part in parts:
        out[tuple(slice(a - o, b - o) for a, b, o in zip(part.box.start, part.box.stop, box.start, strict=True))] |= (
            part.mask
        )
    return Drawn(box, out)
