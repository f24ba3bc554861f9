"""Figures as results keep them: to four digits, with their interval by patient where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nodulens.metrics.statistics import Interval


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval by patient, to four digits.

    Attributes:
        value: None where it is undefined.
        low, high: None where there is no interval, as of one patient alone.
    """

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, figure: Interval, patients: Sequence[str]) -> Estimate:
        """A figure of rows of these patients; one patient alone gives no interval."""
        low, high = (figure.low, figure.high) if len(set(patients)) > 1 else (math.nan, math.nan)
        return cls(rounded(figure.value), rounded(low), rounded(high))

    def __str__(self) -> str:
        """As tables print it: the figure, and its interval where there is one."""
        if self.value is None:
            return "–"
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


def rounded(value: float) -> float | None:
    """To four digits; None where it is NaN or infinite, which JSON cannot hold."""
    return round(float(value), 4) if math.isfinite(value) else None
