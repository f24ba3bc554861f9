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
Float32 = NDArray[np.float32]


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
    out = np.empty(target.shape, dtype=array.dtype if order == 0 else np.float32)
    planes = nearest_planes if order == 0 else linear_planes
    for z, plane in enumerate(planes(array, source, target, fill=fill)):
        out[z] = plane
    return out


def nearest_planes(array: NDArray[Any], source: Geometry, target: Geometry, *, fill: float) -> Iterator[NDArray[Any]]:
    """The slices of :func:`resample_array` with order 0, one at a time, so that not all are in memory.

    Args:
        array: (z, y, x) on ``source``.
        source: the grid of the array.
        target: the wanted grid, parallel to the source.
        fill: as there.

    Yields:
        (y, x) of ``target.shape``, from the first slice to the last, of the array's own type; not to be changed, as
        neighbours may be the same array.
    """
    rows, y, x = nearest_index(source, target)
    beyond, plane = np.full(target.shape[1:], fill, dtype=array.dtype), None
    last = -1
    for z in rows.tolist():
        if z >= 0 and z != last:
            plane, last = picked(array[z], y, x, fill), z
        yield beyond if z < 0 or plane is None else plane


def nearest_index(source: Geometry, target: Geometry) -> list[NDArray[np.int_]]:
    """For each axis (z, y, x) and voxel of the target along it, the index of the nearest voxel of a parallel grid.

    It is −1 outside the outer faces of the source, as :func:`picked` takes it.
    """
    index = [np.floor(place + 0.5).astype(int) for place in _places(source, target)[0]]
    return [np.where((i < 0) | (i >= n), -1, i) for i, n in zip(index, source.shape, strict=True)]


def picked(image: NDArray[Any], y: NDArray[np.int_], x: NDArray[np.int_], fill: float) -> NDArray[Any]:
    """The rows ``y`` and columns ``x`` of an image (y, x), ``fill`` where one of them is negative."""
    out = image.take(y, axis=0, mode="clip").take(x, axis=1, mode="clip")
    out[y < 0] = fill
    out[:, x < 0] = fill
    return out


def linear_planes(
    array: NDArray[Any], source: Geometry, target: Geometry, *, fill: float, rows: Sequence[int] | None = None
) -> Iterator[Float32]:
    """The slices of :func:`resample_array` with order 1, one at a time, so that not all are in memory.

    Args:
        array: (z, y, x) on ``source``.
        source: the grid of the array.
        target: the wanted grid, parallel to the source.
        fill: as there.
        rows: the slices that are wanted, rising; None: all.

    Yields:
        float32 (y, x) of ``target.shape``, from the first slice to the last.
    """
    from scipy.sparse import csr_array

    places, step = _places(source, target)
    wz, wy, wx = (axis_weights(p, s, 0, n) for p, s, n in zip(places, step, array.shape, strict=True))
    down, across, below = csr_array(wy), csr_array(wx), np.float32(fill)

    def image(z: int) -> Float32:
        return np.ascontiguousarray((across @ (down @ (array[z].astype(np.float32) - below)).T).T)

    images: dict[int, Float32] = {}  # the slices of the source that this one needs
    for weights in wz if rows is None else wz[rows]:
        used = np.flatnonzero(weights).tolist()
        images = {z: images[z] if z in images else image(z) for z in used}
        plane = weights[used[0]] * images[used[0]] if used else np.zeros(target.shape[1:], dtype=np.float32)
        for z in used[1:]:
            plane += weights[z] * images[z]
        if fill:
            plane += below
        yield plane


def _places(source: Geometry, target: Geometry) -> tuple[list[Float], Float]:
    """Of parallel grids, for each axis: the target's voxels as indices of the source, and from one to the next."""
    first = source.to_index(target.origin_lps)
    step = np.asarray(target.spacing_zyx) / np.asarray(source.spacing_zyx)
    return [f + s * np.arange(n) for f, s, n in zip(first, step, target.shape, strict=True)], step


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
