"""The British Thoracic Society's guideline of 2015: nodules however they are found.

Callister et al., Thorax 2015;70(Suppl 2):ii1, doi:10.1136/thoraxjnl-2015-207168: algorithms 1 (solid, first CT), 2
(solid, surveillance) and 3 (subsolid). Recommendations are in our words.

The size is the volume where volumetry can be relied on, otherwise the longest diameter. Growth is 25 % or more in
volume. By diameter alone it is taken as 2 mm or more, the source's limit for subsolid nodules, and the doubling time
is that of balls of these diameters. Fitness for treatment is not asked: the source discharges patients who are unfit
for any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nodulens.clinical import brock_2013, herder_2005, mayo_1997
from nodulens.clinical.enquiry import OPEN, RANGED, YES_NO, Decision, Question, Range, decide, ranges
from nodulens.clinical.facts import FOLLOWED, Case, NoduleFacts, PatientFacts
from nodulens.clinical.fleischner_2017 import worst
from nodulens.clinical.record import Result
from nodulens.clinical.sizes import span, volume_doubling_time
from nodulens.errors import BadOption

NAME = "BTS 2015"
GROWTH = 0.25
GROWTH_MM = 2.0
DAYS_A_MONTH = 365.25 / 12
JUXTAPLEURAL_BELOW = 10.0
BROCK_FROM, HERDER_FROM, HERDER_ABOVE = 0.10, 0.10, 0.70
FAST_DAYS, SLOW_DAYS = 400.0, 600.0

DISCHARGE = "discharge"
FOUR_YEARS = "CT at 1, 2 and 4 years"
TWO_YEARS = "CT at 2 years"
ONE_YEAR = "CT at 1 year"
DISCHARGE_OR_CT = "discharge or further CT"
THREE_MONTHS = "CT at 3 months"
BIOPSY_OR_CT = "biopsy or further CT"
PET = "PET-CT"
OPTIONS = "CT, biopsy or resection"
BIOPSY = "consider image-guided biopsy"
WORK_UP = "work-up and definitive management"
TREAT = "consider excision or non-surgical treatment"
ORDER = (
    DISCHARGE, FOUR_YEARS, TWO_YEARS, ONE_YEAR, DISCHARGE_OR_CT, THREE_MONTHS, BIOPSY_OR_CT, PET, OPTIONS, BIOPSY,
    WORK_UP, TREAT,
)  # fmt: skip
"""What the algorithms end in, the least urgent first."""
MANAGEMENT: Mapping[str, tuple[str, tuple[int, int] | None]] = {
    DISCHARGE: ("Discharge: no follow-up of this nodule.", None),
    FOUR_YEARS: ("Low risk: thin-section CT at 1, 2 and 4 years from the first CT.", (12, 12)),
    TWO_YEARS: ("CT at 2 years from the first CT.", (24, 24)),
    ONE_YEAR: ("CT at 1 year from the first CT.", (12, 12)),
    DISCHARGE_OR_CT: ("Consider discharge, or CT surveillance if the patient prefers it.", None),
    THREE_MONTHS: ("CT at 3 months from the first CT.", (3, 3)),
    BIOPSY_OR_CT: ("Consider biopsy, or CT surveillance if the patient prefers it.", None),
    PET: ("PET-CT if the nodule is above its limit of detection, then the risk by the Herder model.", None),
    OPTIONS: (
        "Discuss observation by CT, image-guided biopsy, and resection or non-surgical treatment, with the morphology "
        "in mind.",
        None,
    ),
    BIOPSY: (
        "Consider image-guided biopsy; excision biopsy or CT surveillance by the individual risk and preference.",
        None,
    ),
    WORK_UP: ("Further work-up; consider definitive management.", None),
    TREAT: ("Consider excision or non-surgical treatment, with or without image-guided biopsy.", None),
}
"""What an algorithm ends in → the recommendation, and months from the first CT to the next."""


Row = tuple[tuple[float, str], ...]
BY_VOLUME: Row = ((80.0, DISCHARGE), (300.0, THREE_MONTHS))
"""Of solid nodules on the first CT: the volume in mm³ below which a cell holds, and its end; above, by risk."""
BY_DIAMETER: Row = ((5.0, DISCHARGE), (6.0, ONE_YEAR), (8.0, THREE_MONTHS))
"""Likewise by the longest diameter in mm."""


def recommend(nodule: NoduleFacts, patient: PatientFacts) -> Result:
    """What the algorithms end in for one nodule.

    It is taken for one under surveillance where ``months``, and an earlier diameter or the change of volume, are known.

    Raises:
        BadOption: no size is known, or a change without the months in which it came about.
    """
    if nodule.kind in ("airway", "cyst"):
        text = "The source has no rule for this: a radiologist decides."
        return Result(NAME, None, (), text, None, f"{nodule.kind} finding", "none")
    if nodule.long_axis_mm is None and (nodule.volume_mm3 is None or nodule.subsolid):
        asked = brock_2013.LONG_AXIS
        text = f"Open. Not stated: {asked.ask}."
        return Result(NAME, None, (), text, None, "size", "open", (asked,), ("The source takes the longest diameter.",))
    if _followed(nodule) and not nodule.months:
        raise BadOption("A change needs the months since the first CT: --months.")
    return decide(NAME, _ends, Case(nodule, patient), _QUESTIONS, ORDER, tuple(_notes(nodule)))


def examination(results: Sequence[Result]) -> Result | None:
    """The most urgent of the recommendations for several nodules; None without nodules."""
    return worst(results, ORDER)


def _followed(nodule: NoduleFacts) -> bool:
    return nodule.volume_change is not None or nodule.previous_long_axis_mm is not None


def _ends(case: Case) -> tuple[Decision, ...]:
    """Where the algorithms may end: in several places where the risk is open."""
    nodule = case.nodule
    if nodule.benign:
        return (_decision(DISCHARGE, "benign features", "typical calcification or fat"),)
    if nodule.comparison == "resolved":
        return (_decision(DISCHARGE, "resolved on follow-up", "resolved"),)
    if nodule.subsolid:
        return _subsolid_followed(case) if _followed(nodule) else (_subsolid(nodule),)
    return (_solid_followed(nodule),) if _followed(nodule) else _solid(case)


def _solid(case: Case) -> tuple[Decision, ...]:
    nodule, rule = case.nodule, "solid nodule, first CT"
    if nodule.juxtapleural and (nodule.long_axis_mm or 0.0) < JUXTAPLEURAL_BELOW:
        return (_decision(DISCHARGE, rule, "perifissural or subpleural, < 10 mm"),)
    if nodule.volume_mm3 is not None:
        row, size, unit = BY_VOLUME, nodule.volume_mm3, "mm³"
    else:
        assert nodule.long_axis_mm is not None
        row, size, unit = BY_DIAMETER, nodule.long_axis_mm, "mm"
    low = 0.0
    for high, end in row:
        if size < high:
            return (_decision(end, rule, span(low, high, unit)),)
        low = high
    return _by_risk(case, rule, span(low, math.inf, unit))


def _by_risk(case: Case, rule: str, size: str) -> tuple[Decision, ...]:
    low, high = _brock(case)
    found = []
    if low < BROCK_FROM:
        found.append(_decision(THREE_MONTHS, rule, f"{size}, Brock < 10 %"))
    if high < BROCK_FROM:
        return tuple(found)
    cell = f"{size}, Brock ≥ 10 %"
    if case.nodule.fdg_uptake is None:
        return (*found, _decision(PET, rule, cell))
    after = herder_2005.estimated(case.nodule, case.patient)
    assert after.lowest is not None and after.highest is not None
    if after.lowest < HERDER_FROM:
        found.append(_decision(THREE_MONTHS, rule, f"{cell}, Herder < 10 %"))
    if after.lowest <= HERDER_ABOVE and after.highest >= HERDER_FROM:
        found.append(_decision(BIOPSY, rule, f"{cell}, Herder 10 to 70 %"))
    if after.highest > HERDER_ABOVE:
        found.append(_decision(TREAT, rule, f"{cell}, Herder > 70 %"))
    return tuple(found)


def _brock(case: Case) -> Range:
    """Lowest and highest probability by the Brock model.

    Raises:
        BadOption: the longest diameter is not known.
    """
    if case.nodule.long_axis_mm is None:
        raise BadOption("The risk by the Brock model needs the longest diameter: --long-axis.")
    return ranges(lambda one: brock_2013.probability(one.nodule, one.patient), case, brock_2013.QUESTIONS)[0]


def _solid_followed(nodule: NoduleFacts) -> Decision:
    rule, months = "solid nodule, surveillance", nodule.months or 0.0
    by_volume = nodule.volume_change is not None
    when = "before 1 year" if months < 12 else "at 1 year" if months < 24 else "at 2 years"
    if not grown(nodule):
        if months < 12:
            return _decision(ONE_YEAR, rule, f"stable, {when}")
        if by_volume:
            return _decision(DISCHARGE, rule, f"stable by volume, {when}")
        end = DISCHARGE if months >= 24 else TWO_YEARS
        return _decision(end, rule, f"stable by diameter, {when}")
    days = doubling_days(nodule)
    if days <= FAST_DAYS:
        return _decision(WORK_UP, rule, "doubling time ≤ 400 days")
    cell = "doubling time > 400 to 600 days" if days <= SLOW_DAYS else "doubling time > 600 days"
    if months < 12:
        return _decision(ONE_YEAR, rule, f"{cell}, {when}")
    return _decision(BIOPSY_OR_CT if days <= SLOW_DAYS else DISCHARGE_OR_CT, rule, f"{cell}, {when}")


def grown(nodule: NoduleFacts) -> bool:
    """Whether a nodule grew: by its volume, or where that is not known by its longest diameter."""
    if nodule.volume_change is not None and not nodule.subsolid:
        return nodule.volume_change >= GROWTH
    before, now = nodule.previous_long_axis_mm, nodule.long_axis_mm
    return before is not None and now is not None and round(now - before, 6) >= GROWTH_MM


def doubling_days(nodule: NoduleFacts) -> float:
    """Volume doubling time since the first CT, by the volume, or that of balls of the diameters."""
    days = (nodule.months or 0.0) * DAYS_A_MONTH
    if nodule.volume_change is not None:
        return volume_doubling_time(1.0, 1.0 + nodule.volume_change, days)
    assert nodule.previous_long_axis_mm is not None and nodule.long_axis_mm is not None
    return volume_doubling_time(nodule.previous_long_axis_mm**3, nodule.long_axis_mm**3, days)


def _subsolid(nodule: NoduleFacts) -> Decision:
    assert nodule.long_axis_mm is not None
    rule = "subsolid nodule, first CT"
    if nodule.long_axis_mm < 5:
        return _decision(DISCHARGE, rule, "< 5 mm")
    return _decision(THREE_MONTHS, rule, "≥ 5 mm")


def _subsolid_followed(case: Case) -> tuple[Decision, ...]:
    nodule, rule = case.nodule, "subsolid nodule, surveillance"
    if grown(nodule) or nodule.solid_part in ("new", "growing"):
        return (_decision(TREAT, rule, "growth, or a new or growing solid part"),)
    months = nodule.months or 0.0
    if months < 3:
        return (_decision(THREE_MONTHS, rule, "stable, before 3 months"),)
    if months >= 48:
        return (_decision(DISCHARGE, rule, "stable for 4 years"),)
    low, high = _brock(case)
    found = [
        (low < BROCK_FROM, FOUR_YEARS, "stable, Brock < 10 %"),
        (high >= BROCK_FROM, OPTIONS, "stable, Brock ≥ 10 %"),
    ]
    return tuple(_decision(end, rule, cell) for holds, end, cell in found if holds)


def _decision(end: str, rule: str, cell: str) -> Decision:
    text, months = MANAGEMENT[end]
    return Decision(end, text, months, rule, cell)


def _notes(nodule: NoduleFacts) -> Iterator[str]:
    if nodule.volume_mm3 is not None and not nodule.subsolid:
        yield f"By the volume of {nodule.volume_mm3:.0f} mm³."
    else:
        yield f"By the longest diameter of {nodule.long_axis_mm:.1f} mm."
    if nodule.comparison in FOLLOWED and not _followed(nodule):
        yield (
            "Taken as on the first CT: surveillance needs the months since then, and the longest diameter of that time "
            "(previous_long_axis_mm) or the change of volume (volume_change)."
        )


# ---- What has to be known


def _risk_counts(case: Case) -> bool:
    """Whether the Brock model decides."""
    nodule = case.nodule
    if nodule.benign or nodule.long_axis_mm is None or nodule.comparison == "resolved":
        return False
    if nodule.subsolid:
        stable = not grown(nodule) and nodule.solid_part not in ("new", "growing")
        return _followed(nodule) and stable and 3 <= (nodule.months or 0.0) < 48
    large = nodule.long_axis_mm >= 8 if nodule.volume_mm3 is None else nodule.volume_mm3 >= 300
    return large and not _followed(nodule)


def _ranged(question: Question, counts: Callable[[Case], bool]) -> Question:
    """A question of a model, where the model counts."""
    return replace(question, applies=counts, unstated=RANGED if question.unstated is OPEN else question.unstated)


def _pet_counts(case: Case) -> bool:
    return _risk_counts(case) and not case.nodule.subsolid


def _pet_done(case: Case) -> bool:
    return _pet_counts(case) and case.nodule.fdg_uptake is not None


_QUESTIONS = (
    *(_ranged(one, _risk_counts) for one in brock_2013.QUESTIONS if one.name != "spiculated"),
    *(_ranged(one, _pet_done) for one in mayo_1997.QUESTIONS if one.name in ("smoker", "extrathoracic_cancer")),
    _ranged(mayo_1997.SPICULATED, _pet_done),
    _ranged(brock_2013.SPICULATED, lambda case: _risk_counts(case) and not _pet_done(case)),
    Question("fdg_uptake", herder_2005.FDG_UPTAKE.ask, herder_2005.FDG_UPTAKE.values, _pet_counts, None),
    Question("juxtapleural", "smooth, lentiform or triangular, within 1 cm of the pleura or a fissure (--juxtapleural)",
             YES_NO, lambda case: case.nodule.kind == "solid", False),
    Question("benign", "typical benign calcification or fat (--benign)", YES_NO, unstated=False),
    Question("solid_part", "solid part compared with prior CT (--solid-part)", (("new", "new"), ("growing", "growing"),
             ("stable", "stable")), lambda case: case.nodule.subsolid and _followed(case.nodule), "stable"),
)  # fmt: skip
