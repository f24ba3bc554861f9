"""LIDC's outlines as masks.

The convention (Armato et al. 2011): an outline goes through the centres of the first pixels *outside* the nodule. So
the pixels of the outline are not part of the mask, nor are those on lines between points that are not adjacent. The
outline of a hole goes through pixels that are not nodule: it is removed together with the hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box

Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class Contour:
    """One closed line on one slice.

    Attributes:
        z_mm: the slice, as ImagePositionPatient z.
        inclusion: True around nodule, False around a hole in it.
        xy: (n, 2) column and row of each pixel on the line, counted from 0 in the stored image; the first point may be
            repeated at the end.
    """

    z_mm: float
    inclusion: bool
    xy: NDArray[np.int32]


def draw(contours: Sequence[Contour], planes: Sequence[int] | NDArray[np.int_], box: Box) -> Bool:
    """The mask of one reader's outlines: on each slice the union of the inclusions, minus the holes.

    A pixel is inside an outline that winds around its centre; all arithmetic is in integers, so rounding cannot matter.
    A line that touches or crosses itself contains the insides of all its loops. One or two points contain nothing.

    Args:
        contours: n of them, of any slices.
        planes: (n,) index of the slice of each.
        box: the part of the scan that is returned, (z, y, x).

    Returns:
        of the box's shape.
    """
    out = np.zeros(box.shape, dtype=bool)
    xy, outline_of = _every_pixel(contours)
    start = np.maximum(xy.min(0)[::-1], box.start[1:])
    stop = np.minimum(xy.max(0)[::-1] + 1, box.stop[1:])
    if (stop <= start).any():
        return out
    (top, left), (bottom, right) = start, stop
    inner, line = _filled(xy - (left, top), outline_of, (len(contours), bottom - top, right - left))
    frame = out[:, top - box.start[1] : bottom - box.start[1], left - box.start[2] : right - box.start[2]]
    for n in sorted(range(len(contours)), key=lambda n: not contours[n].inclusion):
        plane = planes[n] - box.start[0]
        if not 0 <= plane < len(out):
            continue
        if contours[n].inclusion:
            frame[plane] |= inner[n]
        else:
            frame[plane] &= ~(inner[n] | line[n])
    return out


def _filled(xy: NDArray[np.int64], outline_of: NDArray[np.int_], shape: tuple[int, int, int]) -> tuple[Bool, Bool]:
    """Inside of each outline and the line itself, both (outlines, rows, columns) and without a common pixel."""
    count, height, width = shape
    line = np.zeros(shape, dtype=bool)
    visible = ((xy >= 0) & (xy < (width, height))).all(1)
    line[outline_of[visible], xy[visible, 1], xy[visible, 0]] = True
    # Each edge adds ±1 to the winding number of all pixels to its right on the rows it crosses, from its upper row up
    # to, but not including, its lower one, so that a row through a corner counts one of the two edges there.
    step = xy[_following(outline_of)] - xy
    rise = np.abs(step[:, 1])
    edge = np.repeat(np.arange(len(xy)), rise)
    row = np.minimum(xy[:, 1], xy[:, 1] + step[:, 1])[edge] + _counted(rise)
    down = np.sign(step[edge, 1])
    # Rounded up: a pixel centre on the edge counts as to its right, and is removed with the line anyway.
    column = xy[edge, 0] - (row - xy[edge, 1]) * step[edge, 0] * down // -rise[edge]
    turns = np.zeros((count, height, width + 1), dtype=np.int16)
    visible = (row >= 0) & (row < height)
    np.add.at(
        turns, (outline_of[edge[visible]], row[visible], column[visible].clip(0, width)), down[visible].astype(np.int16)
    )
    return (turns[:, :, :-1].cumsum(2, dtype=np.int16) != 0) & ~line, line


def _every_pixel(contours: Sequence[Contour]) -> tuple[NDArray[np.int64], NDArray[np.int_]]:
    """The closed lines with a point at every pixel centre on them, and the number of each point's line."""
    xy = np.concatenate([c.xy for c in contours]).astype(np.int64)
    outline_of = np.repeat(np.arange(len(contours)), [len(c.xy) for c in contours])
    step = xy[_following(outline_of)] - xy
    parts = np.maximum(np.gcd(step[:, 0], step[:, 1]), 1)
    if parts.max() == 1:
        return xy, outline_of
    edge = np.repeat(np.arange(len(xy)), parts)
    return xy[edge] + step[edge] // parts[edge, None] * _counted(parts)[:, None], outline_of[edge]


def _following(outline_of: NDArray[np.int_]) -> NDArray[np.int_]:
    """Index of the next point on the same closed line; the points of a line are consecutive."""
    after = np.arange(1, len(outline_of) + 1)
    last = np.flatnonzero(np.diff(outline_of, append=-1))
    after[last] = np.r_[0, last[:-1] + 1]
    return after


def _counted(lengths: NDArray[np.int_]) -> NDArray[np.int_]:
    """0, 1, …, n − 1 for each length n, concatenated."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
