"""Lung-RADS v2022: lung cancer screening.

American College of Radiology, Lung-RADS v2022, November 2022; Christensen et al., J Am Coll Radiol 2024;21:473,
doi:10.1016/j.jacr.2023.09.009. Recommendations are in our words.

Sizes are mean diameters in mm with one decimal. The categories 0, 1 and 4X and the modifier S are a person's: they are
given only where a person has stated what they rest on.

Where the table has no cell or two cells, this is how it is read; each such result says so:

- a new part-solid nodule under 6 mm with a solid part of 4 mm or more is in the cells of 3 and of 4B: 4B;
- a growing part-solid nodule whose solid part does not grow is categorised by its size, as at first detection;
- a ground-glass nodule that grows to 30 mm or more crosses a size threshold: 3, as at first detection;
- a new airway nodule is treated as one at baseline, and so is a new cyst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from nodulens.clinical.enquiry import YES_NO, Decision, Question, decide
from nodulens.clinical.facts import Case, Comparison, Cyst, CystChange, NoduleFacts, PatientFacts, check_prior
from nodulens.clinical.record import Missing, Outcome, Result
from nodulens.clinical.sizes import rounded, span, spans
from nodulens.errors import BadOption

NAME = "Lung-RADS v2022"
ORDER = ("0", "1", "2", "3", "4A", "4B", "4X")
"""The categories, the least suspicious first; 0 is none of suspicion."""
NOT_CATEGORISED = "not categorised"
GROWTH_MM = 1.5
"""Growth is a mean diameter larger by more than this within 12 months."""

PET = "PET-CT may be considered if a solid nodule or part measures 8 mm or more"
MANAGEMENT: Mapping[str, tuple[str, tuple[int, int] | None]] = {
    "1": ("Continue annual screening: low-dose CT in 12 months.", (12, 12)),
    "2": ("Continue annual screening: low-dose CT in 12 months.", (12, 12)),
    "3": ("Low-dose CT in 6 months.", (6, 6)),
    "4A": (f"Low-dose CT in 3 months. {PET}.", (3, 3)),
    "4B": (
        "Refer for clinical evaluation: diagnostic chest CT with or without contrast, PET-CT or tissue sampling, by "
        f"the probability of malignancy, the clinical findings and the patient's preference. {PET}.",
        None,
    ),
}
"""Category → the recommendation, and the months until the next CT."""
MANAGEMENT = {**MANAGEMENT, "4X": MANAGEMENT["4B"]}
INCOMPLETE: Mapping[str, tuple[str, tuple[int, int] | None]] = {
    "prior awaited": ("Compare with the prior chest CT when it is there, then categorise.", None),
    "lungs not wholly seen": ("More images of the lungs are needed to categorise.", None),
    "signs of infection": ("Low-dose CT in 1 to 3 months, then categorise.", (1, 3)),
}
"""Reason for category 0 → the recommendation, and the months until the next CT."""

Row = tuple[tuple[float, str], ...]
"""Cells of rising size: the diameter in mm below which each holds, and its category."""
SOLID: Mapping[str, Row] = {
    "baseline": ((6, "2"), (8, "3"), (15, "4A"), (math.inf, "4B")),
    "new": ((4, "2"), (6, "3"), (8, "4A"), (math.inf, "4B")),
    "growing": ((8, "4A"), (math.inf, "4B")),
}
"""By mean diameter."""
PART_SOLID_FROM = 6.0
"""Total mean diameter from which the solid part counts at baseline."""
PART_SOLID: Mapping[str, Row] = {
    "baseline": ((6, "3"), (8, "4A"), (math.inf, "4B")),
    "new or growing": ((4, "4A"), (math.inf, "4B")),
}
"""By mean diameter of the solid part."""
GROUND_GLASS_FROM = 30.0
JUXTAPLEURAL_BELOW = 10.0
AIRWAY: Mapping[tuple[str, str], str | None] = {
    ("subsegmental", "baseline"): "2",
    ("subsegmental", "new"): "2",
    ("subsegmental", "stable"): "2",
    ("subsegmental", "growing"): None,
    ("subsegmental", "slowly growing"): None,
    ("segmental", "baseline"): "4A",
    ("segmental", "new"): "4A",
    ("segmental", "stable"): "4B",
    ("segmental", "growing"): "4B",
    ("segmental", "slowly growing"): "4B",
}
"""Level and comparison → category; None: the source has no rule."""
CYST: Mapping[tuple[Cyst, CystChange], str | None] = {
    ("thick-walled", "cyst growing"): "3",
    ("thick-walled", "wall growing"): "4B",
    ("thick-walled", "now multilocular"): "4A",
    ("thick-walled", "more loculation or opacity"): None,
    ("thin-walled", "cyst growing"): None,
    ("thin-walled", "wall growing"): None,
    ("thin-walled", "now multilocular"): "4A",
    ("thin-walled", "more loculation or opacity"): None,
    ("multilocular", "cyst growing"): "4B",
    ("multilocular", "wall growing"): None,
    ("multilocular", "now multilocular"): "4A",
    ("multilocular", "more loculation or opacity"): "4B",
}
"""Kind of cyst at the prior examination and its change → category; None: the source has no rule."""


def mean_diameter(long_axis_mm: float, short_axis_mm: float) -> float:
    """The mean of the axes, each with one decimal, with one decimal."""
    return rounded((rounded(long_axis_mm, 1) + rounded(short_axis_mm, 1)) / 2, 1)


def change(exams: Sequence[tuple[float, float]]) -> Comparison:
    """How a nodule compares with prior examinations, by its mean diameters.

    Growing: larger by more than 1.5 mm than within the last 12 months; if no prior examination is so recent, more than
    1.5 mm a year since the last. Slowly growing: larger by more than 1.5 mm over three examinations or more, of which
    each shows growth and none enough. Otherwise stable, which includes smaller.

    Args:
        exams: (months, mean diameter in mm), rising in time, the current one last.

    Raises:
        BadOption: less than two examinations, or times that do not rise.
    """
    times = [month for month, _ in exams]
    if len(exams) < 2 or any(b <= a for a, b in pairwise(times)):
        raise BadOption("A comparison needs two examinations or more, in the order of time.")
    sizes = [rounded(mm, 1) for _, mm in exams]
    *before, now = zip(times, sizes, strict=True)
    recent = [(month, mm) for month, mm in before if now[0] - month <= 12]
    if recent:
        fast = any(_above(now[1] - mm, GROWTH_MM) for _, mm in recent)
    else:
        month, mm = before[-1]
        fast = _above((now[1] - mm) * 12 / (now[0] - month), GROWTH_MM)
    if fast:
        return "growing"
    rising = all(b > a for a, b in pairwise(sizes))
    return "slowly growing" if len(exams) > 2 and rising and _above(sizes[-1] - sizes[0], GROWTH_MM) else "stable"


def _above(value: float, limit: float) -> bool:
    """Greater, for differences of numbers with one decimal."""
    return rounded(value, 6) > limit


def categorise(nodule: NoduleFacts, patient: PatientFacts) -> Result:
    """The category of one nodule, with the recommendation if it were the worst of the examination.

    Raises:
        BadOption: a nodule of the parenchyma without a mean diameter, or a comparison without a prior CT.
    """
    check_prior(patient, nodule.comparison)
    if nodule.mean_diameter_mm is None and nodule.kind in ("solid", "part-solid", "ground-glass"):
        raise BadOption("Lung-RADS needs the mean diameter of a nodule: --diameter.")
    if patient.prior == "none":
        nodule = replace(nodule, comparison="baseline")
    return decide(
        NAME, lambda case: (_category(case),), Case(nodule, patient), _QUESTIONS, ORDER, tuple(_notes(nodule))
    )


def examination(results: Sequence[Result], patient: PatientFacts) -> Result:
    """The category of an examination: that of its worst nodule.

    Args:
        results: of :func:`categorise`, for every nodule.
        patient: what a person states of the examination: 0, 1 and S.
    """
    if patient.incomplete is not None:
        text, months = INCOMPLETE[patient.incomplete]
        return _with_modifier(Result(NAME, "0", ("0",), text, months, "incomplete", patient.incomplete), patient)
    findings = [one for one in results if one.rule != NOT_CATEGORISED]
    if not findings:
        return _with_modifier(_no_nodules(patient), patient)
    if any(not one.possible for one in findings):
        unknown = "A finding has no category: a radiologist decides."
        return Result(NAME, None, (), unknown, None, "worst nodule", "open")
    rank = ORDER.index
    least = max(rank(one.possible[0]) for one in findings)
    seen = {name for one in findings for name in one.possible}
    possible = tuple(name for name in ORDER if name in seen and rank(name) >= least)
    if len(possible) > 1:
        text = "Open, as the categories of nodules are."
        return _with_modifier(Result(NAME, None, possible, text, None, "worst nodule", "open"), patient)
    worst = next(one for one in findings if possible[0] in one.possible)
    text, months = MANAGEMENT[possible[0]]
    result = Result(NAME, possible[0], possible, text, months, "worst nodule", f"{worst.rule}: {worst.cell}")
    return _with_modifier(result, patient)


def _no_nodules(patient: PatientFacts) -> Result:
    if patient.no_nodule:
        return Result(NAME, "1", ("1",), *MANAGEMENT["1"], "no nodule", "as a reader confirms")
    outcomes = (Outcome("yes", ("1",)), Outcome("no", ORDER[2:]))
    ask = Missing(
        "no_nodule", "a reader's word that there is no nodule (no_nodule in the file of --patient)", True, outcomes
    )
    text = "Open. The program found nothing, which is not category 1: that is for a reader."
    return Result(NAME, None, ("1",), text, None, "no nodule", "open", (ask,))


def _with_modifier(result: Result, patient: PatientFacts) -> Result:
    if not patient.other_finding:
        return result
    note = "Modifier S, as stated: another finding that is or may be clinically significant; manage it by its nature."
    category = None if result.category is None else f"{result.category}S"
    possible = tuple(f"{name}S" for name in result.possible)
    return Result(
        result.guideline, category, possible, result.recommendation, result.next_ct_months, result.rule, result.cell,
        result.missing, (*result.notes, note),
    )  # fmt: skip


# ---- The rule for a case that is known in full


def _category(case: Case) -> Decision:
    nodule = case.nodule
    if nodule.benign:
        return _decision("1", "benign features", "typical calcification or fat")
    if nodule.proven_benign:
        return _decision("2", "proven benign", "by a diagnostic work-up")
    if nodule.comparison == "resolved":
        return _decision("2", "resolved on follow-up", "resolved")
    decision = _BY_KIND[nodule.kind](nodule)
    if nodule.suspicious and decision.category in ("3", "4A", "4B"):
        cell = f"{decision.rule}: {decision.cell}"
        return _decision("4X", f"category {decision.category} with more suspicious features", cell)
    return decision


def _decision(category: str | None, rule: str, cell: str) -> Decision:
    if category is None:
        return Decision(None, "The source has no rule for this: a radiologist decides.", None, rule, cell)
    text, months = MANAGEMENT[category]
    return Decision(category, text, months, rule, cell)


def _solid(nodule: NoduleFacts) -> Decision:
    size, comparison = _size(nodule), nodule.comparison
    if nodule.juxtapleural and size < JUXTAPLEURAL_BELOW and comparison in ("baseline", "new"):
        return _decision("2", "juxtapleural nodule at baseline or new", f"< {JUXTAPLEURAL_BELOW:g} mm")
    if comparison == "slowly growing":
        return _decision("4B", "slowly growing solid or part-solid nodule", "growth over several examinations")
    if comparison == "stable":
        return _stepped(nodule, _by_size("solid nodule by size", SOLID["baseline"], size))
    assert comparison is not None
    where = "at baseline" if comparison == "baseline" else comparison
    return _by_size(f"solid nodule, {where}", SOLID[comparison], size)


def _part_solid(nodule: NoduleFacts) -> Decision:
    size, comparison, solid = _size(nodule), nodule.comparison, rounded(nodule.solid_mm or 0.0, 1)
    if comparison == "slowly growing":
        return _decision("4B", "slowly growing solid or part-solid nodule", "growth over several examinations")
    if comparison == "new":
        if size < PART_SOLID_FROM and solid < 4:
            return _decision("3", "part-solid nodule, new", f"< {PART_SOLID_FROM:g} mm in total")
        return _by_size("part-solid nodule, new; solid part", PART_SOLID["new or growing"], solid)
    if comparison != "baseline" and nodule.solid_part in ("new", "growing"):
        rule = f"part-solid nodule, solid part {nodule.solid_part}"
        return _by_size(rule, PART_SOLID["new or growing"], solid)
    at_size = _part_solid_by_size(size, solid, "at baseline" if comparison == "baseline" else "by size")
    return _stepped(nodule, at_size) if comparison == "stable" else at_size


def _part_solid_by_size(size: float, solid: float, where: str) -> Decision:
    if size < PART_SOLID_FROM:
        return _decision("2", f"part-solid nodule, {where}", f"< {PART_SOLID_FROM:g} mm in total")
    found = _by_size(f"part-solid nodule, {where}", PART_SOLID["baseline"], solid)
    return _decision(found.category, found.rule, f"≥ {PART_SOLID_FROM:g} mm in total, solid part {found.cell}")


def _ground_glass(nodule: NoduleFacts) -> Decision:
    comparison = nodule.comparison
    if _size(nodule) < GROUND_GLASS_FROM:
        return _decision("2", "ground-glass nodule", f"< {GROUND_GLASS_FROM:g} mm")
    cell = f"≥ {GROUND_GLASS_FROM:g} mm"
    if comparison in ("stable", "slowly growing"):
        return _decision("2", "ground-glass nodule, stable or slowly growing", cell)
    where = "at baseline" if comparison == "baseline" else comparison
    return _decision("3", f"ground-glass nodule, {where}", cell)


def _airway(nodule: NoduleFacts) -> Decision:
    assert nodule.airway is not None and nodule.comparison is not None
    level = "segmental or more proximal" if nodule.airway == "segmental" else nodule.airway
    where = "at baseline" if nodule.comparison == "baseline" else nodule.comparison
    return _decision(AIRWAY[nodule.airway, nodule.comparison], f"airway nodule, {level}", where)


def _cyst(nodule: NoduleFacts) -> Decision:
    kind, change_ = nodule.cyst, nodule.cyst_change
    assert kind is not None
    first = nodule.comparison in ("baseline", "new")
    if first or change_ == "none":
        if kind == "thin-walled":
            text = "A thin-walled cyst is taken for benign; it is no finding of Lung-RADS."
            return Decision(None, text, None, NOT_CATEGORISED, kind)
        found = _decision("4A", "atypical cyst, at baseline", kind)
        return found if first else _stepped(nodule, found)
    assert change_ is not None
    return _decision(CYST[kind, change_], "atypical cyst", f"{kind}, {change_}")


def _size(nodule: NoduleFacts) -> float:
    if nodule.long_axis_mm is not None and nodule.short_axis_mm is not None:
        return mean_diameter(nodule.long_axis_mm, nodule.short_axis_mm)
    assert nodule.mean_diameter_mm is not None
    return rounded(nodule.mean_diameter_mm, 1)


def _by_size(rule: str, row: Row, size: float) -> Decision:
    low = 0.0
    for high, category in row:
        if size < high:
            return _decision(category, rule, span(low, high))
        low = high
    raise AssertionError("the last cell of a row has no upper end")


def _stepped(nodule: NoduleFacts, at_size: Decision) -> Decision:
    """A nodule that is stable or smaller: one category down at its planned follow-up.

    One that crossed a size threshold since the prior examination is categorised by size.
    """
    previous, months = nodule.previous_category, nodule.months or 0.0
    assert previous is not None
    if nodule.previous_mm is not None and nodule.mean_diameter_mm is not None:
        before = _BY_KIND[nodule.kind](_earlier(nodule))
        if _rank(at_size.category) > _rank(before.category):
            return Decision(
                at_size.category, at_size.recommendation, at_size.next_ct_months,
                f"{at_size.rule}, a size threshold crossed", at_size.cell,
            )  # fmt: skip
    rule = "stable or smaller"
    if previous == "3":
        return _decision("2" if months >= 6 else "3", rule, _step("3", months, 6))
    if previous == "4A":
        return _decision("3" if months >= 3 else "4A", rule, _step("4A", months, 3))
    return _decision(previous, rule, f"category {previous} before")


def _step(previous: str, months: float, needed: int) -> str:
    return f"category {previous} before, {'at' if months >= needed else 'before'} {needed} months"


def _earlier(nodule: NoduleFacts) -> NoduleFacts:
    """The nodule as it would be categorised by its earlier size, at first detection."""
    size, solid = nodule.previous_mm, nodule.solid_mm
    if solid is not None and size is not None:
        solid = min(solid, size)
    return replace(nodule, mean_diameter_mm=size, short_axis_mm=None, solid_mm=solid, comparison="baseline")


def _rank(category: str | None) -> int:
    return -1 if category is None else ORDER.index(category)


_BY_KIND = {
    "solid": _solid,
    "part-solid": _part_solid,
    "ground-glass": _ground_glass,
    "airway": _airway,
    "cyst": _cyst,
}


# ---- What has to be known


def _compared(case: Case) -> bool:
    return case.nodule.comparison not in (None, "baseline", "new", "resolved")


def _step_counts(case: Case) -> bool:
    """Whether the category at the prior examination decides."""
    nodule = case.nodule
    if nodule.kind == "cyst":
        return _compared(case) and nodule.cyst_change == "none" and nodule.cyst != "thin-walled"
    stable = nodule.comparison == "stable" and nodule.solid_part in (None, "stable")
    return stable and nodule.kind in ("solid", "part-solid")


_QUESTIONS = (
    Question(
        "solid_mm",
        "diameter of the solid part (--solid)",
        lambda case: spans((4, 6, 8), case.nodule.mean_diameter_mm or math.inf),
        lambda case: case.nodule.kind == "part-solid",
    ),
    Question(
        "comparison",
        "comparison with prior CT (--comparison, or --prior none)",
        (("baseline", "baseline"), ("new", "new"), ("growing", "growing"), ("slowly growing", "slowly growing"),
         ("stable or smaller", "stable")),
    ),
    Question("airway", "level in the airways (--airway)", (("subsegmental", "subsegmental"),
             ("segmental or more proximal", "segmental")), lambda case: case.nodule.kind == "airway"),
    Question("cyst", "kind of cyst (--cyst)", (("thin-walled", "thin-walled"), ("thick-walled", "thick-walled"),
             ("multilocular", "multilocular")), lambda case: case.nodule.kind == "cyst"),
    Question("cyst_change", "change of the cyst (--cyst-change)", (("none", "none"), ("cyst growing", "cyst growing"),
             ("wall growing", "wall growing"), ("now multilocular", "now multilocular"),
             ("more loculation or opacity", "more loculation or opacity")),
             lambda case: case.nodule.kind == "cyst" and _compared(case)),
    Question("solid_part", "solid part compared with prior CT (--solid-part)", (("new", "new"), ("growing", "growing"),
             ("stable", "stable")),
             lambda case: case.nodule.kind == "part-solid" and case.nodule.comparison in ("growing", "stable")),
    Question("previous_category", "category at the prior CT (--previous-category)",
             (("2", "2"), ("3", "3"), ("4A", "4A"), ("4B", "4B")), _step_counts),
    Question("months", "months since the prior CT (--months)",
             (("under 3", 1.0), ("3 to under 6", 3.0), ("6 or more", 6.0)),
             lambda case: _step_counts(case) and case.nodule.previous_category in ("3", "4A")),
    Question("juxtapleural", "smooth, oval, lentiform or triangular, at the pleura or a fissure (--juxtapleural)",
             YES_NO, lambda case: case.nodule.kind == "solid", False),
    Question("benign", "typical benign calcification or fat (--benign)", YES_NO, unstated=False),
    Question("suspicious", "more features of lung cancer, for 4X (--suspicious)", YES_NO,
             unstated=False),
    Question("proven_benign", "proven benign by a work-up (--proven-benign)", YES_NO, unstated=False),
)  # fmt: skip


def _notes(nodule: NoduleFacts) -> list[str]:
    notes = []
    size = None if nodule.mean_diameter_mm is None else _size(nodule)
    if size is not None:
        notes.append(f"Mean diameter of {size:.1f} mm, with one decimal.")
    if nodule.kind == "part-solid" and nodule.solid_mm is not None:
        solid = rounded(nodule.solid_mm, 1)
        notes.append(f"Solid part of {solid:.1f} mm.")
        if nodule.comparison == "new" and size is not None and size < PART_SOLID_FROM and solid >= 4:
            notes.append(
                "New, under 6 mm, with a solid part of 4 mm or more: in the cells of 3 and of 4B; 4B is given."
            )
        if nodule.comparison == "growing" and nodule.solid_part == "stable":
            notes.append("Growth outside the solid part has no cell of its own: categorised by size.")
    if nodule.kind == "ground-glass" and nodule.comparison == "growing" and (size or 0) >= GROUND_GLASS_FROM:
        notes.append("Growing at 30 mm or more has no cell of its own: categorised by size.")
    if nodule.comparison == "new" and nodule.kind in ("airway", "cyst"):
        notes.append(f"A new {nodule.kind} finding is categorised as one at baseline.")
    return notes
