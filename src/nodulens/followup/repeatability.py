"""How far volumes of the same, unchanged nodule lie apart when it is measured twice, and so what a change means.

The table is measured by ``benchmarks/followup.py repeatability``: rendered solid nodules, each measured on several
scans that differ in grid, kernel and dose, with prompts that are shaken, as detection's are. Patients who are scanned
twice differ in more: breath, position, the heart. So no spread is taken to be below that of two such scans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SURE = 1.96
"""Standard deviations on either side of an interval that holds in 95 of 100."""


@dataclass(frozen=True)
class Spread:
    """Of nodules of ``lo_mm <= diameter < hi_mm``.

    Attributes:
        lo_mm, hi_mm: diameter of the ball of their volume.
        thin, thick: standard deviation of the logarithm of the volume, slices up to :data:`THIN_MM` and thicker.
    """

    lo_mm: float
    hi_mm: float
    thin: float
    thick: float


THIN_MM = 1.5
"""Slices up to this thickness are thin."""
SPREADS = (
    Spread(0.0, 5.0, 0.053, 0.136),
    Spread(5.0, 8.0, 0.038, 0.040),
    Spread(8.0, 12.0, 0.018, 0.016),
    Spread(12.0, math.inf, 0.006, 0.005),
)
"""As measured, of slices of 1 and 2.5 mm; see docs/followup.md."""


LEAST = 0.086
"""Of patients scanned again after three months, in 95 of 100 nodules that did not change the volumes differed by no
more than 27 % (233 solid nodules of 5 mm or more; Marchianò et al., Pulmonary Nodules: Volume Repeatability at
Multidetector CT Lung Cancer Screening, Radiology 2009): ln 1.27 over 1.96 and the root of two."""


def spread_of(diameter_mm: float, slice_mm: float) -> float:
    """Standard deviation of the logarithm of one measured volume.

    Args:
        diameter_mm: of the ball of the volume.
        slice_mm: thickness of the slices, or their spacing where that is more.
    """
    row = next(one for one in SPREADS if diameter_mm < one.hi_mm)
    return max(row.thin if slice_mm <= THIN_MM else row.thick, LEAST)


def log_interval(ratio: float, *spreads: float) -> tuple[float, float]:
    """Logarithms between which that of a ratio of two volumes lies in 95 of 100, by the spread of each."""
    half = SURE * math.hypot(*spreads)
    return math.log(ratio) - half, math.log(ratio) + half
