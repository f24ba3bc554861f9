"""Growth as the NELSON trial of lung cancer screening defines it: by volume and its doubling time.

van Klaveren et al., N Engl J Med 2009;361:2221, doi:10.1056/NEJMoa0906085. For solid nodules, and the solid part of
part-solid ones.
"""

from __future__ import annotations

from nodulens.clinical.record import Result
from nodulens.clinical.sizes import volume_change, volume_doubling_time

NAME = "NELSON 2009"
GROWTH = 0.25
"""A nodule grows if its volume is larger by this share or more."""
FAST_DAYS, SLOW_DAYS = 400.0, 600.0

NO_GROWTH, SLOW, INTERMEDIATE, FAST = (
    "no growth", "growth, doubling in more than 600 days", "growth, doubling in 400 to 600 days",
    "growth, doubling in less than 400 days",
)  # fmt: skip
ORDER = (NO_GROWTH, SLOW, INTERMEDIATE, FAST)
MANAGEMENT = {
    NO_GROWTH: "Negative: the next regular round of screening.",
    SLOW: "Negative: repeat CT in the next round (growth category A).",
    INTERMEDIATE: "Indeterminate: repeat CT after a year (growth category B).",
    FAST: "Positive: refer for work-up (growth category C).",
}


def growth(before_mm3: float, after_mm3: float, days: float) -> Result:
    """The category of growth between two examinations.

    Args:
        before_mm3, after_mm3: volumes.
        days: between them.

    Raises:
        BadOption: a volume or the time between is not above 0.
    """
    doubling = volume_doubling_time(before_mm3, after_mm3, days)
    change = volume_change(before_mm3, after_mm3)
    if change < GROWTH:
        category, cell = NO_GROWTH, "volume larger by less than 25 %"
    elif doubling < FAST_DAYS:
        category, cell = FAST, "doubling time < 400 days"
    elif doubling <= SLOW_DAYS:
        category, cell = INTERMEDIATE, "doubling time of 400 to 600 days"
    else:
        category, cell = SLOW, "doubling time > 600 days"
    notes = [f"Volume changed by {100 * change:+.0f} %."]
    if change > 0:
        notes.append(f"Doubling time of {doubling:.0f} days.")
    return Result(NAME, category, (category,), MANAGEMENT[category], None, "growth", cell, (), tuple(notes))
