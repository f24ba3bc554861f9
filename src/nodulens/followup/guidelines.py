"""What the guidelines say of the current examination, with what was compared taken for known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from nodulens.clinical import lung_rads_v2022
from nodulens.clinical.assess import Guidelines
from nodulens.clinical.facts import Answers, NoduleAnswers, Previous
from nodulens.errors import BadOption
from nodulens.followup.change import DAYS_A_MONTH
from nodulens.followup.exam import Exam
from nodulens.followup.record import Track
from nodulens.report.guidelines import categorise

COMPARED = (
    "Comparison, growth, earlier sizes and months are those of this comparison, unless they were stated: new is what "
    "was looked for at its place in the earlier scan and not found; growth is by the mean diameter, as the guideline "
    "defines it."
)
BASELINE = (
    "The category at the prior CT is what its own measurements give if it is taken for the baseline; state "
    "previous_category where it was another."
)
UNKNOWN = "The time between the scans is not known: growth and months are open."
RESOLVED = "Resolved nodules are not among the findings of the current examination."


def followed_up(exams: Sequence[Exam], tracks: Sequence[Track], answers: Answers) -> Guidelines | None:
    """The guidelines of the current examination; None without a context.

    Args:
        exams: in the order of time.
        tracks: of the comparison.
        answers: what a person states, by the number of a nodule in the current examination; it comes first.

    Raises:
        BadOption: an answer that does not go with a comparison, or with another answer.
    """
    patient = answers.patient
    if patient.context is None:
        return None
    if patient.prior == "none":
        raise BadOption("--prior none does not go with a comparison: there is a prior CT. Leave it out.")
    current = exams[-1]
    patient = replace(patient, prior="compared")
    previous = _previous(exams, answers) if patient.context == "screening" else {}
    nodules = {}
    for track in tracks:
        number = track.current.nodule
        if number is not None:
            nodules[number] = NoduleAnswers(**{**_facts(exams, track, previous), **_stated(answers, number, exams)})
    report = categorise(current.report, Answers(patient, nodules, NoduleAnswers(), answers.count))
    found = report.guidelines
    assert found is not None, "there is a context"
    notes = [COMPARED]
    if previous:
        notes.append(BASELINE)
    if current.day is None:
        notes.append(UNKNOWN)
    if any(track.status == "resolved" for track in tracks):
        notes.append(RESOLVED)
    return replace(found, notes=(*found.notes, *notes))


def _stated(answers: Answers, number: int, exams: Sequence[Exam]) -> dict[str, Any]:
    alone = answers.single.given() if len(exams[-1].report.nodules) == 1 else {}
    own = answers.nodules[number].given() if number in answers.nodules else {}
    return {**alone, **own}


def _facts(exams: Sequence[Exam], track: Track, previous: dict[int, Previous]) -> dict[str, Any]:
    """What the comparison says of a nodule of the current examination."""
    if track.status == "new":
        return {"comparison": "new"}
    change, before = track.change, track.compared
    if change is None or before is None:
        return {}
    then = track.sightings[before]
    assert then.measurements is not None, "a change is between two measurements"
    facts: dict[str, Any] = {"previous_mm": then.measurements.mean_diameter_mm}
    if change.days is None:
        return facts
    facts |= {"comparison": change.lung_rads, "months": change.days / DAYS_A_MONTH}
    if change.solid_part is not None:
        facts["solid_part"] = change.solid_part
    first = next(one for one in track.sightings if one.measurements is not None)
    if first.measurements is not None and first is then:  # BTS counts from the first CT
        facts["volume_change"] = change.volume_share
        facts["previous_long_axis_mm"] = first.measurements.long_axis_mm
    category = previous.get(then.nodule or 0) if before == len(exams) - 2 else None
    return facts | ({"previous_category": category} if category is not None else {})


def _previous(exams: Sequence[Exam], answers: Answers) -> dict[int, Previous]:
    """Lung-RADS category of each nodule of the prior examination, taken for the baseline; those that are known.

    Only where there is no examination before it.
    """
    if len(exams) != 2:
        return {}
    patient = replace(answers.patient, prior="none", incomplete=None, no_nodule=None)
    found = categorise(exams[0].report, Answers(patient)).guidelines
    out: dict[int, Previous] = {}
    for one in found.nodules if found is not None else ():
        (category,) = [r.category for r in one.results if r.guideline == lung_rads_v2022.NAME]
        known = {str(name): name for name in get_args(Previous)}
        if category in known:
            out[one.id] = known[category]
    return out
