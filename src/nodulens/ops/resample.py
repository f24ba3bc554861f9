"""From one grid to another.

Linear interpolation is a product of three small matrices, one an axis. A coarser target is averaged
over its own voxels rather than picked out, so that noise falls as a scanner's would and nothing
aliases; a finer one is plainly trilinear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.errors import BadOption

Float = NDArray[np.float64]
PLANES = 64
"""Planes of a linear resampling that are computed at a time."""


def resample_array(
    array: NDArray[Any],
    source: Geometry,
    target: Geometry,
    *,
    order: int = 1,
    fill: float,
) -> NDArray[Any]:
    """The values of ``array`` at the voxel centres of another grid.

    Args:
        array: (z, y, x) on ``source``.
        source: the grid of the array.
        target: the wanted grid, anywhere and at any angle to the source.
        order: 0 for the nearest voxel (labels), 1 for linear, averaging where the target is coarser
            and parallel to the source.
        fill: value of target voxels with centres outside the outer faces of the source.

    Returns:
        (z, y, x) of ``target.shape``; float32 for order 1, the array's own type for order 0.

    Raises:
        BadOption: another order.
    """
    if order not in (0, 1):
        raise BadOption(f"Resampling is by nearest voxel (order 0) or linear (order 1), not order {order}.")
    if np.abs(source.direction - target.direction).max() > 1e-6:
        return _oblique(array, source, target, order, fill)
    if order == 0:
        return _nearest(array, _places(source, target)[0], fill)
    out = np.empty(target.shape, dtype=np.float32)
    for rows, planes in linear_planes(array, source, target, fill=fill):
        out[rows] = planes
    return out


def linear_planes(
    array: NDArray[Any], source: Geometry, target: Geometry, *, fill: float
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """What :func:`resample_array` gives by order 1, some planes at a time, for what need not be held whole as float32.

    Args:
        array, source, target, fill: as there; the axes of both grids must be parallel.

    Yields:
        which planes, in order, and their values, float32 (z, y, x).
    """
    from scipy.sparse import csr_array

    places, steps = _places(source, target)
    wz, wy, wx = (axis_weights(p, s, 0, n) for p, s, n in zip(places, steps, array.shape, strict=True))
    rows, columns = csr_array(wy), csr_array(wx)
    for first in range(0, len(wz), PLANES):
        weights = wz[first : first + PLANES]
        used = np.flatnonzero(weights.any(axis=0))
        band = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        own = np.empty((band.stop - band.start, *target.shape[1:]), dtype=np.float32)
        for plane, image in zip(own, array[band], strict=True):
            plane[:] = (columns @ (rows @ (image.astype(np.float32) - np.float32(fill))).T).T
        out = csr_array(weights[:, band]) @ own.reshape(len(own), -1)
        out += np.float32(fill)
        yield slice(first, first + len(weights)), out.reshape(len(weights), *target.shape[1:])


def _places(source: Geometry, target: Geometry) -> tuple[list[Float], Float]:
    """Indices of the target's voxels along the axes of a parallel source, and the steps between them."""
    first = source.to_index(target.origin_lps)
    steps = np.asarray(target.spacing_zyx) / np.asarray(source.spacing_zyx)
    return [f + s * np.arange(n) for f, s, n in zip(first, steps, target.shape, strict=True)], steps


def _blur(step: float) -> float:
    """Width, in source voxels, to average over so that source voxels end as wide as the target's.

    Variances add: a box of width √(step² − 1) after one of width 1. Nothing where the target is finer.
    """
    return float(np.sqrt(max(step * step - 1, 0)))


def axis_weights(place: Float, step: float, lo: int, hi: int, size: int | None = None) -> NDArray[np.float32]:
    """(len(place), hi − lo): what the source voxels lo…hi − 1 of an axis of ``size`` give each place.

    Rows add up to one, or to nothing for places outside the axis' outer faces. The linear interpolant
    is integrated exactly over the blur, so ramps stay ramps.
    """
    size = hi if size is None else size
    inside = (place >= -0.5) & (place <= size - 0.5)
    offset = np.clip(place, 0, size - 1)[:, None] - np.arange(lo, hi)
    width = _blur(step)
    if width == 0:
        weight = np.maximum(1 - np.abs(offset), 0)
    else:
        weight = _hat_integral(offset + width / 2) - _hat_integral(offset - width / 2)
    total = weight.sum(axis=1, keepdims=True)
    usable = inside[:, None] & (total > 0)
    return np.where(usable, weight / np.where(total > 0, total, 1), 0).astype(np.float32)


def _hat_integral(t: Float) -> Float:
    """∫ max(1 − |u|, 0) du up to t."""
    t = np.clip(t, -1, 1)
    return 0.5 + t - np.sign(t) * t * t / 2


def _nearest(array: NDArray, places: Sequence[Float], fill: float) -> NDArray:  # type: ignore[type-arg]
    index = [np.floor(p + 0.5).astype(int) for p in places]
    out = array
    for axis, (i, n) in enumerate(zip(index, array.shape, strict=True)):
        out = np.take(out, np.clip(i, 0, n - 1), axis=axis)
        away = (i < 0) | (i >= n)
        if away.any():
            out[(slice(None),) * axis + (away,)] = fill
    return out


def _oblique(array: NDArray, source: Geometry, target: Geometry, order: int, fill: float) -> NDArray:  # type: ignore[type-arg]
    """Resample slice by slice, so that only one slice's coordinates are in memory."""
    from scipy.ndimage import map_coordinates

    matrix = np.linalg.inv(source.affine) @ target.affine
    y, x = np.mgrid[: target.shape[1], : target.shape[2]]
    last = np.asarray(source.shape)[:, None, None] - 0.5
    out = np.empty(target.shape, dtype=array.dtype if order == 0 else np.float32)
    for z in range(target.shape[0]):
        place = np.tensordot(matrix[:3, 1:3], np.stack([y, x]), axes=1)
        place += (matrix[:3, 0] * z + matrix[:3, 3])[:, None, None]
        values = map_coordinates(array, place, output=out.dtype, order=order, mode="nearest")
        out[z] = np.where(((place >= -0.5) & (place <= last)).all(axis=0), values, fill)
    return out
