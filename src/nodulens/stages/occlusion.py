"""Occlusion maps: how far a network's score falls when a part of a nodule is covered (Zeiler and Fergus 2014)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.ops.patches import Window

Heat = NDArray[np.float32]

CELLS = 6
"""Parts of a nodule's box along each side."""
SOFTNESS = 0.75
"""Standard deviation of a cover in cells. A cover with a hard edge is itself a shape that the network answers to:
maps by hard covers of two cells rank the pixels of a nodule worse (``benchmarks/heat_maps.py``)."""


def covered(view: NDArray[np.float32], fill: NDArray[np.float32], window: Window, box: Box) -> NDArray[np.float32]:
    """Views of a nodule, each with another part of it covered.

    Args:
        view: (channels, rows, columns) of an axial slice, sampled by ``window``.
        fill: (channels,) the value of a cover in each channel.
        window: of the view.
        box: around the nodule.

    Returns:
        (CELLS², channels, rows, columns): parts in the order of rows, then columns.
    """
    cells, weights = _cells(box), []
    for axis in (1, 2):
        place = window.first[axis] + window.step[axis] * np.arange(window.shape[axis])
        middle = cells.first[axis] + cells.step[axis] * np.arange(CELLS)
        width = max(SOFTNESS * cells.step[axis], window.step[axis] / 2)
        weights.append(np.exp(-(((place - middle[:, None]) / width) ** 2) / 2))
    cover = (weights[0][:, None, :, None] * weights[1][None, :, None, :]).reshape(-1, 1, *view.shape[1:])
    return np.asarray(view + cover * (fill[:, None, None] - view), dtype=np.float32)


def heat_map(falls: NDArray[np.floating], box: Box, shape: tuple[int, int, int]) -> Heat:
    """The falls of the score (CELLS²,) on the voxels of a nodule, the same on every slice.

    Args:
        falls: in the order of :func:`covered`; a rise counts as 0.
        box: around the nodule.
        shape: of the volume.

    Returns:
        (z, y, x) 0…1 of ``box.shape``, 1 where the score falls most; all 0 if it falls nowhere.
    """
    values = np.maximum(falls, 0).reshape(1, CELLS, CELLS).astype(np.float32)
    _, plane = _cells(box).project(values, (1, *shape[1:]), fill=0.0)
    top = float(plane.max())
    plane = plane / np.float32(top) if top > 0 else plane
    return np.ascontiguousarray(np.broadcast_to(plane, box.shape), dtype=np.float32)


def _cells(box: Box) -> Window:
    """The grid of the parts on a slice: the nodule's box in equal cells."""
    start, stop = (np.array([z, *edge[1:]], dtype=np.float64) for z, edge in ((0, box.start), (1, box.stop)))
    return Window.over(start, stop, (1, CELLS, CELLS))
