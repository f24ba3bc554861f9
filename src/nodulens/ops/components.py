"""Connected parts of masks, and growing and shrinking them by millimetres.

Distances are Euclidean in the patient, so a ball is a ball on 5 mm slices too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box

Bool = NDArray[np.bool_]
Words = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Components:
    """The connected parts of a mask, the largest first.

    Attributes:
        labels: (z, y, x) uint32; 0 outside, 1 for the largest part, 2 for the next, …
        sizes: voxels of each part, falling.
        slices: the box of each part, to index an array with.
        centroids_zyx: mean index of each part, (n, 3).
    """

    labels: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    slices: tuple[tuple[slice, ...], ...]
    centroids_zyx: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sizes)

    def part(self, number: int) -> Bool:
        """The mask of part ``number``, counted from 1."""
        return np.asarray(self.labels == number)


def components(mask: Bool, connectivity: int = 6) -> Components:
    """Connected parts of a mask.

    Args:
        mask: (z, y, x) or (y, x); the result has as many axes.
        connectivity: 6, 18 or 26 in space; 4 or 8 in a plane.
    """
    import cc3d

    labels = cc3d.connected_components(mask, connectivity=connectivity, out_dtype=np.uint32)
    facts = cc3d.statistics(labels)
    sizes = np.asarray(facts["voxel_counts"], dtype=np.int64)[1:]
    order = np.argsort(-sizes, kind="stable")
    renumber = np.zeros(len(sizes) + 1, dtype=np.uint32)
    renumber[order + 1] = np.arange(1, len(sizes) + 1)
    return Components(
        renumber[labels],
        sizes[order],
        tuple(facts["bounding_boxes"][i + 1] for i in order),
        np.asarray(facts["centroids"], dtype=np.float64)[order + 1],
    )


def touching(mask: Bool, seed: Bool) -> Bool:
    """The connected parts (6 neighbours) of ``mask`` that hold a voxel of ``seed``."""
    import cc3d

    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    keep = np.zeros(count + 1, dtype=bool)
    keep[np.unique(labels[seed])] = True
    keep[0] = False
    return np.asarray(keep[labels])


def distance_mm(mask: Bool, spacing_zyx: Sequence[float]) -> NDArray[np.float32]:
    """From each true voxel to the centre of the nearest false one, float32 mm; 0 outside.

    The array's edge is no boundary: infinite where nothing is false.
    """
    import edt

    mask = np.ascontiguousarray(mask)
    return np.asarray(edt.edt(mask, anisotropy=tuple(spacing_zyx), black_border=False, parallel=2))


def dilated(mask: Bool, radius_mm: float, spacing_zyx: Sequence[float]) -> Bool:
    """All voxels within ``radius_mm`` of the mask."""
    out = mask.copy()
    if mask.any():
        where = _around(mask, radius_mm, spacing_zyx)
        out[where] = _reached(mask[where], radius_mm, spacing_zyx)
    return out


def eroded(mask: Bool, radius_mm: float, spacing_zyx: Sequence[float]) -> Bool:
    """The voxels farther than ``radius_mm`` from everything outside the mask, the array's edge apart."""
    out = mask.copy()
    if mask.any():
        where = _around(mask, max(spacing_zyx), spacing_zyx)
        out[where] = ~_reached(~mask[where], radius_mm, spacing_zyx)
    return out


def opened(mask: Bool, radius_mm: float, spacing_zyx: Sequence[float]) -> Bool:
    """What of the mask a ball of ``radius_mm`` inside it can reach."""
    return dilated(eroded(mask, radius_mm, spacing_zyx), radius_mm, spacing_zyx) & mask


def closed(mask: Bool, radius_mm: float, spacing_zyx: Sequence[float]) -> Bool:
    """Dents and gaps that a ball of ``radius_mm`` cannot enter are filled.

    Beyond the first and last slice the mask is taken to continue unchanged (an organ cut off by the end of
    the scan), at the sides to end.
    """
    if not mask.any():
        return mask.copy()
    pad = [int(np.ceil(radius_mm / s)) + 1 for s in spacing_zyx]
    where = _around(mask, 0, spacing_zyx)
    grown = np.pad(mask[where], [(p, p) for p in pad])
    for end, inner, touches in (
        (slice(None, pad[0]), pad[0], where[0].start == 0),
        (slice(-pad[0], None), -pad[0] - 1, where[0].stop == mask.shape[0]),
    ):
        if touches:
            grown[end] = grown[inner]
    grown = eroded(dilated(grown, radius_mm, spacing_zyx), radius_mm, spacing_zyx)
    out = mask.copy()
    out[where] = grown[tuple(slice(p, -p) for p in pad)]
    return out


def _reached(mask: Bool, radius_mm: float, spacing_zyx: Sequence[float]) -> Bool:
    """Dilation by a ball: the voxels of the array within ``radius_mm`` of the mask, those at just that distance too.

    The union of the mask moved by every row of the ball, with 64 voxels of a row in a word. For a ball of ten voxels
    or so that is many times faster than a threshold of the distance transform, and gives the same.
    """
    nz, ny, nx = mask.shape
    sz, sy, sx = spacing_zyx
    square = radius_mm * radius_mm * (1 + 1e-6)  # rounding must not leave out voxels at just that distance
    packed = np.packbits(mask, axis=2, bitorder="little")
    padded = np.pad(packed, ((0, 0), (0, 0), (0, -packed.shape[2] % 8)))
    rows = np.ascontiguousarray(padded).view("<u8")  # of a transposed mask it is not
    widened = [rows]  # by 0, 1, 2, … voxels at both ends
    for _ in range(min(int(square**0.5 / sx), nx)):
        widened.append(_wider(widened[-1]))
    out = np.zeros_like(rows)
    for z in range(min(int(square**0.5 / sz) + 1, nz)):
        disc, beside = np.zeros_like(rows), square - (z * sz) ** 2
        for y in range(min(int(beside**0.5 / sy) + 1, ny)):
            row = widened[min(int((beside - (y * sy) ** 2) ** 0.5 / sx), nx)]
            disc[:, y:] |= row[:, : ny - y]
            disc[:, : ny - y] |= row[:, y:]
        out[z:] |= disc[: nz - z]
        out[: nz - z] |= disc[z:]
    return np.unpackbits(out.view(np.uint8), axis=2, count=nx, bitorder="little").view(np.bool_)


def _wider(rows: Words) -> Words:
    """Rows (z, y, word), dilated by one voxel along x; a word holds 64 voxels, the first in its lowest bit."""
    one, last = np.uint64(1), np.uint64(63)
    out: Words = rows | rows << one | rows >> one
    out[..., 1:] |= rows[..., :-1] >> last
    out[..., :-1] |= rows[..., 1:] << last
    return out


def _around(mask: Bool, margin_mm: float, spacing_zyx: Sequence[float]) -> tuple[slice, slice, slice]:
    """The box of a mask and a margin, inside the array."""
    box = Box.of_mask(mask).grown([int(np.ceil(margin_mm / s)) for s in spacing_zyx])
    return box.clipped(mask.shape).slices


def filled(mask: Bool) -> Bool:
    """The mask with its cavities: background that is not joined to the array's faces."""
    import fill_voids

    out = mask.copy()
    if mask.any():
        where = _around(mask, 0, (1, 1, 1))  # a cavity of the mask lies in its box
        out[where] = fill_voids.fill(mask[where])
    return out
