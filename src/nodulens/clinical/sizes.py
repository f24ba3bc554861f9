"""Sizes as guidelines round and compare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

from nodulens.errors import BadOption


def rounded(value: float, decimals: int = 0) -> float:
    """Half away from zero, as a person rounds: 5.5 to 6, 5.95 to 6.0; Python rounds 6.5 to 6.

    The shortest decimal that means the same float is what is rounded, so 5.95 is not taken for 5.9500000000000002.
    """
    return float(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def volume_doubling_time(before_mm3: float, after_mm3: float, days: float) -> float:
    """Days in which the volume doubles, ``days · ln 2 / ln(after / before)``; negative while it shrinks.

    Infinite where the volume did not change.

    Raises:
        BadOption: a volume or the time between is not above 0.
    """
    if not all(math.isfinite(value) and value > 0 for value in (before_mm3, after_mm3, days)):
        raise BadOption("A volume doubling time needs two volumes and a number of days above 0.")
    growth = math.log(after_mm3 / before_mm3)
    return days * math.log(2) / growth if growth else math.inf


def volume_change(before_mm3: float, after_mm3: float) -> float:
    """Share by which the volume changed: 0.25 for a quarter more.

    Raises:
        BadOption: the first volume is not above 0.
    """
    if not before_mm3 > 0:
        raise BadOption("The change of a volume needs an earlier volume above 0.")
    return after_mm3 / before_mm3 - 1


def span(low: float, high: float, unit: str = "mm") -> str:
    """A row of a table in words: "< 6 mm", "≥ 6 to < 8 mm", "≥ 15 mm"."""
    if low <= 0 and math.isinf(high):
        return "any size"
    if low <= 0:
        return f"< {high:g} {unit}"
    return f"≥ {low:g} {unit}" if math.isinf(high) else f"≥ {low:g} to < {high:g} {unit}"


def spans(bounds: Sequence[float], largest: float = math.inf, unit: str = "mm") -> tuple[tuple[str, float], ...]:
    """The rows between some bounds, each with a size within it.

    Args:
        bounds: rising, in the unit; the first row is below the first, the last from the last.
        largest: rows that begin above it are left out.
    """
    ends = [0.0, *bounds, math.inf]
    rows = [(low, high) for low, high in pairwise(ends) if low <= largest]
    middles = [(low + min(high, largest, 2 * low + 1)) / 2 for low, high in rows]
    return tuple((span(low, high, unit), middle) for (low, high), middle in zip(rows, middles, strict=True))
