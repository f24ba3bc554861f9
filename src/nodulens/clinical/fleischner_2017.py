"""The Fleischner Society's guidelines of 2017: nodules found incidentally on CT.

MacMahon et al., Radiology 2017;284:228, doi:10.1148/radiol.2017161659. Recommendations are in our words.

For adults of 35 years or more without known cancer or immunosuppression, and not for screening. Sizes are the mean of
long and short axis in whole mm, so 5.5 mm counts as 6 and 8.4 mm as 8. Where only a volume is known, the table's
volumes stand for them: under 100 mm³, 100 to 250 mm³, over 250 mm³. Several nodules are those of one class, solid or
subsolid; the most suspicious of them guides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nodulens.clinical.enquiry import YES_NO, Decision, Question, decide
from nodulens.clinical.facts import FOLLOWED, Case, NoduleFacts, PatientFacts
from nodulens.clinical.record import Result
from nodulens.clinical.sizes import rounded
from nodulens.errors import BadOption

NAME = "Fleischner 2017"
LEAST_AGE = 35
GROWTH_MM = 2.0
"""Growth is a diameter larger by this or more."""

NOT_APPLICABLE = "not applicable"
NONE = "no routine follow-up"
OPTIONAL = "optional CT at 12 months"
LATE = "CT at 6 to 12 months"
LATE_LOW = "CT at 6 to 12 months, later one optional"
GROUND_GLASS = "CT at 6 to 12 months, then every 2 years"
MANY = "CT at 3 to 6 months"
MANY_LOW = "CT at 3 to 6 months, later one optional"
MANY_SUBSOLID_SMALL = "CT at 3 to 6 months, then at 2 and 4 years"
MANY_SUBSOLID = "CT at 3 to 6 months, then by the most suspicious"
PART_SOLID = "CT at 3 to 6 months, then yearly"
PART_SOLID_LARGE = "CT at 3 to 6 months, highly suspicious if it persists"
SOON = "CT at 3 months, PET-CT or tissue sampling"
ORDER = (
    NOT_APPLICABLE, NONE, OPTIONAL, LATE_LOW, LATE, GROUND_GLASS, MANY_LOW, MANY, MANY_SUBSOLID_SMALL, MANY_SUBSOLID,
    PART_SOLID, PART_SOLID_LARGE, SOON,
)  # fmt: skip
"""What the table asks for, the least urgent first."""

MANAGEMENT: Mapping[str, tuple[str, tuple[int, int] | None]] = {
    NONE: ("No routine follow-up.", None),
    OPTIONAL: ("CT at 12 months is optional.", (12, 12)),
    LATE: ("CT at 6 to 12 months, then at 18 to 24 months.", (6, 12)),
    LATE_LOW: ("CT at 6 to 12 months; then consider CT at 18 to 24 months.", (6, 12)),
    SOON: ("Consider CT at 3 months, PET-CT or tissue sampling.", (3, 3)),
    MANY: ("CT at 3 to 6 months, then at 18 to 24 months.", (3, 6)),
    MANY_LOW: ("CT at 3 to 6 months; then consider CT at 18 to 24 months.", (3, 6)),
    GROUND_GLASS: ("CT at 6 to 12 months to confirm that it persists, then every 2 years until 5 years.", (6, 12)),
    PART_SOLID: (
        "CT at 3 to 6 months to confirm that it persists; if it does not change and the solid part stays below 6 mm, "
        "yearly CT for 5 years.",
        (3, 6),
    ),
    PART_SOLID_LARGE: (
        "CT at 3 to 6 months to confirm that it persists. With a solid part of 6 mm or more it is then highly "
        "suspicious: consider PET-CT, biopsy or resection.",
        (3, 6),
    ),
    MANY_SUBSOLID_SMALL: ("CT at 3 to 6 months; if stable, consider CT at 2 and 4 years.", (3, 6)),
    MANY_SUBSOLID: ("CT at 3 to 6 months, then by the most suspicious nodule.", (3, 6)),
}
"""What the table asks for → the recommendation, and the months until the next CT."""

SIZES = ("< 6 mm", "6 to 8 mm", "> 8 mm")
SOLID: Mapping[tuple[str, str, str], str] = {
    ("single", "< 6 mm", "low"): NONE,
    ("single", "< 6 mm", "high"): OPTIONAL,
    ("single", "6 to 8 mm", "low"): LATE_LOW,
    ("single", "6 to 8 mm", "high"): LATE,
    ("single", "> 8 mm", "low"): SOON,
    ("single", "> 8 mm", "high"): SOON,
    ("several", "< 6 mm", "low"): NONE,
    ("several", "< 6 mm", "high"): OPTIONAL,
    ("several", "6 to 8 mm", "low"): MANY_LOW,
    ("several", "6 to 8 mm", "high"): MANY,
    ("several", "> 8 mm", "low"): MANY_LOW,
    ("several", "> 8 mm", "high"): MANY,
}
"""Number, size and risk → what the table asks for."""
SUBSOLID: Mapping[tuple[str, str], str] = {
    ("ground-glass", "< 6 mm"): NONE,
    ("ground-glass", "≥ 6 mm"): GROUND_GLASS,
    ("part-solid", "< 6 mm"): NONE,
    ("part-solid", "≥ 6 mm"): PART_SOLID,
    ("several", "< 6 mm"): MANY_SUBSOLID_SMALL,
    ("several", "≥ 6 mm"): MANY_SUBSOLID,
}
"""Type or number, and size → what the table asks for."""


def size_class(nodule: NoduleFacts) -> str:
    """One of :data:`SIZES`, by the mean diameter in whole mm; by the volume where that alone is known.

    Raises:
        BadOption: neither is known.
    """
    if nodule.mean_diameter_mm is not None:
        size = rounded(nodule.mean_diameter_mm)
        return SIZES[0] if size < 6 else SIZES[1] if size <= 8 else SIZES[2]
    if nodule.volume_mm3 is None:
        raise BadOption("Fleischner's table needs the mean diameter of a nodule, or its volume.")
    return _by_volume(nodule.volume_mm3)


def _by_volume(volume_mm3: float) -> str:
    return SIZES[0] if volume_mm3 < 100 else SIZES[1] if volume_mm3 <= 250 else SIZES[2]


def recommend(nodule: NoduleFacts, patient: PatientFacts) -> Result:
    """What the table asks for, for one nodule among those of its class.

    Raises:
        BadOption: neither diameter nor volume is known.
    """
    notes = []
    if nodule.mean_diameter_mm is not None:
        notes.append(f"Mean diameter of {rounded(nodule.mean_diameter_mm):.0f} mm, in whole mm.")
        if nodule.volume_mm3 is not None and _by_volume(nodule.volume_mm3) != size_class(nodule):
            volume = {"< 6 mm": "< 100 mm³", "6 to 8 mm": "100 to 250 mm³", "> 8 mm": "> 250 mm³"}
            notes.append(f"By its volume it is in another row ({volume[_by_volume(nodule.volume_mm3)]}).")
    if nodule.comparison in FOLLOWED:
        notes.append("The table is for the CT that first shows a nodule; later ones follow the plan made then.")
    if nodule.kind in ("airway", "cyst"):
        text = "The source has no rule for this: a radiologist decides."
        return Result(NAME, None, (), text, None, f"{nodule.kind} finding", "none")
    return decide(NAME, lambda case: (_row(case),), Case(nodule, patient), _QUESTIONS, ORDER, notes)


def examination(results: Sequence[Result]) -> Result | None:
    """The most urgent of the recommendations for several nodules; None without nodules."""
    return worst(results, ORDER)


def worst(results: Sequence[Result], order: Sequence[str]) -> Result | None:
    """The result whose possible categories reach farthest in an order; the first of equals."""
    known = [one for one in results if one.possible]
    return max(known, key=lambda one: [order.index(name) for name in reversed(one.possible)], default=None)


def excluded(patient: PatientFacts) -> str | None:
    """Why the table is not for this patient, or None."""
    if patient.context == "screening":
        return "lung cancer screening"
    if patient.age is not None and patient.age < LEAST_AGE:
        return f"younger than {LEAST_AGE}"
    if patient.extrathoracic_cancer:
        return "known cancer"
    return "immunosuppression" if patient.immunosuppressed else None


def _row(case: Case) -> Decision:
    nodule, patient = case.nodule, case.patient
    reason = excluded(patient)
    if reason is not None:
        text = f"Fleischner's table is not for this patient ({reason}): a clinician decides."
        return Decision(NOT_APPLICABLE, text, None, "whom the table is for", reason)
    size = size_class(nodule)
    number = "single" if nodule.count_of_class == 1 else "several"
    if not nodule.subsolid:
        assert patient.risk is not None
        found = SOLID[number, size, patient.risk]
        return _decision(found, f"solid, {number}", f"{size}, {patient.risk} risk" if found != SOON else size)
    size = "< 6 mm" if size == SIZES[0] else "≥ 6 mm"
    kind = nodule.kind if number == "single" else number
    found = SUBSOLID[kind, size]
    if found == PART_SOLID:
        solid = rounded(nodule.solid_mm or 0.0)
        part = "≥ 6 mm" if solid >= 6 else "< 6 mm"
        return _decision(
            PART_SOLID_LARGE if solid >= 6 else PART_SOLID, "part-solid, single", f"{size}, solid part {part}"
        )
    return _decision(found, f"subsolid, {kind}" if number == "several" else f"{kind}, single", size)


def _decision(found: str, rule: str, cell: str) -> Decision:
    text, months = MANAGEMENT[found]
    return Decision(found, text, months, rule, cell)


def _applies(needed: Callable[[Case], bool]) -> Callable[[Case], bool]:
    return lambda case: excluded(case.patient) is None and needed(case)


_QUESTIONS = (
    Question(
        "count_of_class",
        "number of nodules of its class, solid or subsolid (--nodules)",
        (("one", 1), ("several", 2)),
        _applies(lambda case: True),
    ),
    Question(
        "risk",
        "risk as a clinician judges it, low, or intermediate to high (--risk low|high)",
        (("low", "low"), ("high", "high")),
        _applies(lambda case: case.nodule.kind == "solid"),
    ),
    Question(
        "solid_mm",
        "diameter of the solid part (--solid)",
        lambda case: tuple(
            (word, value)
            for word, value in (("< 6 mm", 0.0), ("≥ 6 mm", 6.0))
            if value <= (case.nodule.mean_diameter_mm or value)
        ),
        _applies(lambda case: case.nodule.kind == "part-solid" and case.nodule.count_of_class == 1),
    ),
    Question("age", "age (--age)", ((f"under {LEAST_AGE}", LEAST_AGE - 1), (f"{LEAST_AGE} or more", LEAST_AGE)),
             _applies(lambda case: True), LEAST_AGE),
    Question("extrathoracic_cancer", "cancer elsewhere, now or in the past (--extrathoracic-cancer)", YES_NO,
             _applies(lambda case: True), False),
    Question("immunosuppressed", "immunosuppressed (--immunosuppressed)", YES_NO,
             _applies(lambda case: True), False),
)  # fmt: skip
