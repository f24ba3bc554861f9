"""What changed between two measurements of one nodule, and what it means: pure functions of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nodulens.clinical import fleischner_2017, lung_rads_v2022, nelson_2009
from nodulens.clinical.facts import Comparison as LungRads
from nodulens.clinical.facts import SolidPart
from nodulens.clinical.sizes import rounded, volume_doubling_time
from nodulens.core.nodule import Measurements, Texture
from nodulens.followup.repeatability import log_interval, spread_of

Trend = Literal["growing", "stable", "shrinking"]
GROWTH = nelson_2009.GROWTH
"""A volume larger by this share or more has grown, if the measurement can tell; one smaller by as much, in reverse, has
shrunk."""
DAYS_A_MONTH = 365.2425 / 12


@dataclass(frozen=True)
class Measured:
    """A nodule in one examination.

    Attributes:
        measurements: of it.
        texture: of it.
        slice_mm: thickness of the slices, or their spacing where that is more.
        day: since the first examination; None where nobody knows.
    """

    measurements: Measurements
    texture: Texture
    slice_mm: float
    day: float | None


@dataclass(frozen=True)
class Change:
    """From one examination to a later one.

    Attributes:
        days: between them; None where nobody knows.
        long_axis_mm, short_axis_mm, mean_diameter_mm: differences.
        solid_diameter_mm: difference of the solid part's.
        volume_mm3: difference.
        volume_share: of the earlier volume; 0.25 for a quarter more.
        volume_share_interval: in 95 of 100, by the repeatability of the measurement.
        mean_hu: difference of the mean density.
        mass_mg, mass_share: of volume times density, with tissue of 0 HU at 1 mg / mm³; difference, and share.
        trend: of the volume.
        beyond_repeatability: the interval does not hold an unchanged volume.
        doubling_days: in which the volume doubles; negative while it shrinks; None where it does not change or the time
            is not known.
        doubling_interval_days: the shortest and the longest doubling time in 95 of 100; the second is None where the
            volume may not grow at all. None where the time is not known, or growth is out of the question.
        lung_rads: by Lung-RADS' definition; None without the time in between.
        fleischner_growth: a mean diameter larger by 2 mm or more, by Fleischner's definition.
        nelson: NELSON's category of growth; None without the time in between.
        solid_part: of a part-solid nodule, by Lung-RADS' definition; None of others, or without the time.
    """

    days: float | None
    long_axis_mm: float
    short_axis_mm: float
    mean_diameter_mm: float
    solid_diameter_mm: float
    volume_mm3: float
    volume_share: float
    volume_share_interval: tuple[float, float]
    mean_hu: float
    mass_mg: float
    mass_share: float | None
    trend: Trend
    beyond_repeatability: bool
    doubling_days: float | None
    doubling_interval_days: tuple[float, float | None] | None
    lung_rads: LungRads | None
    fleischner_growth: bool
    nelson: str | None
    solid_part: SolidPart | None


def mass_mg(measurements: Measurements) -> float:
    """Volume times density; −1000 HU has none, and 0 HU 1 mg / mm³ (de Hoop et al., Radiology 2010;255:199)."""
    return measurements.volume_mm3 * (measurements.mean_hu + 1000) / 1000


def changed(history: tuple[Measured, ...]) -> Change:
    """The change from the last but one measurement to the last.

    Args:
        history: two or more, in the order of time; those before count for Lung-RADS' slow growth.
    """
    before, after = history[-2:]
    one, other = before.measurements, after.measurements
    ratio = other.volume_mm3 / one.volume_mm3
    days = None if before.day is None or after.day is None else after.day - before.day
    spreads = [spread_of(m.measurements.equivalent_diameter_mm, m.slice_mm) for m in (before, after)]
    low, high = log_interval(ratio, *spreads)
    beyond = not low <= 0 <= high
    trend: Trend = "stable"
    if beyond and ratio >= 1 + GROWTH:
        trend = "growing"
    elif beyond and ratio <= 1 / (1 + GROWTH):
        trend = "shrinking"
    masses = mass_mg(one), mass_mg(other)
    return Change(
        days=days,
        long_axis_mm=other.long_axis_mm - one.long_axis_mm,
        short_axis_mm=other.short_axis_mm - one.short_axis_mm,
        mean_diameter_mm=other.mean_diameter_mm - one.mean_diameter_mm,
        solid_diameter_mm=other.solid_diameter_mm - one.solid_diameter_mm,
        volume_mm3=other.volume_mm3 - one.volume_mm3,
        volume_share=ratio - 1,
        volume_share_interval=(math.expm1(low), math.expm1(high)),
        mean_hu=other.mean_hu - one.mean_hu,
        mass_mg=masses[1] - masses[0],
        mass_share=masses[1] / masses[0] - 1 if masses[0] > 0 else None,
        trend=trend,
        beyond_repeatability=beyond,
        doubling_days=_doubling(one.volume_mm3, other.volume_mm3, days),
        doubling_interval_days=None if days is None else _doubling_interval(low, high, days),
        lung_rads=_lung_rads(history),
        fleischner_growth=rounded(other.mean_diameter_mm - one.mean_diameter_mm, 1) >= fleischner_2017.GROWTH_MM,
        nelson=None if days is None else nelson_2009.growth(one.volume_mm3, other.volume_mm3, days).category,
        solid_part=_solid_part(history),
    )


def _doubling(before_mm3: float, after_mm3: float, days: float | None) -> float | None:
    if days is None:
        return None
    found = volume_doubling_time(before_mm3, after_mm3, days)
    return found if math.isfinite(found) else None


def _doubling_interval(low: float, high: float, days: float) -> tuple[float, float | None] | None:
    """Shortest and longest doubling time for logarithms of the ratio of volumes; None where even ``high`` shrinks."""
    if high <= 0:
        return None
    return days * math.log(2) / high, days * math.log(2) / low if low > 0 else None


def _lung_rads(history: tuple[Measured, ...]) -> LungRads | None:
    days = [one.day for one in history]
    known = [day for day in days if day is not None]
    if len(known) < len(days):
        return None
    exams = [
        (day / DAYS_A_MONTH, lung_rads_v2022.mean_diameter(m.long_axis_mm, m.short_axis_mm))
        for day, m in zip(known, (one.measurements for one in history), strict=True)
    ]
    return lung_rads_v2022.change(exams)


def _solid_part(history: tuple[Measured, ...]) -> SolidPart | None:
    before, after = history[-2:]
    if after.texture != "part-solid" or before.day is None or after.day is None:
        return None
    if before.texture == "ground-glass" or before.measurements.solid_diameter_mm == 0:
        return "new"
    exams = [((one.day or 0.0) / DAYS_A_MONTH, one.measurements.solid_diameter_mm) for one in (before, after)]
    return "growing" if lung_rads_v2022.change(exams) == "growing" else "stable"
