"""Which nodule of one examination is which of another: an assignment of least cost.

Nothing here looks at a scan: it takes places in one frame, and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from nodulens.core.geometry import Float
from nodulens.core.nodule import Point

NEAR_MM = 6.0
"""Two nodules farther apart than this and half the larger diameter are not the same, whatever their sizes."""
PER_FOLD = 0.25
"""Cost of each doubling or halving of the volume, as a share of the greatest distance: places count first."""
ALONE = 1.0
"""Cost of a nodule without a partner; a pair costs at most this much for each of its two."""


@dataclass(frozen=True)
class Mark:
    """A nodule as it is paired.

    Attributes:
        place_lps: in the frame of both examinations, LPS mm (x, y, z).
        diameter_mm: of the ball of its volume.
    """

    place_lps: Point
    diameter_mm: float


def reach_mm(one: Mark, other: Mark) -> float:
    """Greatest distance of a pair."""
    return NEAR_MM + max(one.diameter_mm, other.diameter_mm) / 2


def costs(before: Sequence[Mark], after: Sequence[Mark]) -> Float:
    """Cost of every pair, (len(before), len(after)): the distance over its greatest, and the change of volume; infinite
    beyond that distance."""
    out = np.full((len(before), len(after)), np.inf)
    for i, one in enumerate(before):
        for j, other in enumerate(after):
            apart = float(np.linalg.norm(np.subtract(one.place_lps, other.place_lps))) / reach_mm(one, other)
            folds = 3 * abs(float(np.log2(other.diameter_mm / one.diameter_mm)))
            if apart <= 1:
                out[i, j] = apart + PER_FOLD * folds
    return out


def pair(before: Sequence[Mark], after: Sequence[Mark]) -> list[tuple[int, int]]:
    """Pairs of indices, rising in the first, that cost least together; each nodule is in one pair at most.

    >>> here, there = Mark((0, 0, 0), 6), Mark((30, 0, 0), 8)
    >>> pair([here, there], [Mark((29, 1, 0), 9), Mark((1, 0, 1), 6)])
    [(0, 1), (1, 0)]
    """
    if not before or not after:
        return []
    n, m = len(before), len(after)
    # every nodule may also stay alone: a row or a column of its own for it
    table = np.full((n + m, n + m), np.inf)
    table[:n, :m] = costs(before, after)
    table[:n, m:][np.diag_indices(n)] = ALONE
    table[n:, :m][np.diag_indices(m)] = ALONE
    table[n:, m:] = 0.0
    rows, columns = linear_sum_assignment(np.where(np.isinf(table), 1e6, table))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if i < n and j < m and table[i, j] < np.inf]
