"""The Brock (PanCan) model: the probability that a nodule found on a first screening CT is malignant.

McWilliams et al., N Engl J Med 2013;369:910, doi:10.1056/NEJMoa1214726: the full models without (2a) and with
spiculation (2b). The nodule's size is its longest diameter. Without a reader's word on spiculation, 2a is the model.
"""

from __future__ import annotations

from collections.abc import Mapping

from nodulens.clinical.enquiry import YES_NO, Question, estimate, probability_of
from nodulens.clinical.facts import Case, NoduleFacts, PatientFacts
from nodulens.clinical.record import Estimate, Missing

NAME = "Brock 2013"
WITHOUT_SPICULATION: Mapping[str, float] = {
    "constant": -6.8071,
    "age": 0.0321,
    "female": 0.5635,
    "family_history": 0.3013,
    "emphysema": 0.3462,
    "size": -5.6693,
    "part-solid": 0.3395,
    "ground-glass": -0.3055,
    "upper_lobe": 0.7116,
    "count": -0.0803,
    "spiculated": 0.0,
}
WITH_SPICULATION: Mapping[str, float] = {
    "constant": -6.7892,
    "age": 0.0287,
    "female": 0.6011,
    "family_history": 0.2961,
    "emphysema": 0.2953,
    "size": -5.3854,
    "part-solid": 0.3770,
    "ground-glass": -0.1276,
    "upper_lobe": 0.6581,
    "count": -0.0824,
    "spiculated": 0.7729,
}
"""Coefficients; age counts from 62, the number of nodules from 4, and the size as (mm / 10) ** -0.5 − 1.58113883."""


def probability(nodule: NoduleFacts, patient: PatientFacts) -> float:
    """Of malignancy, 0…1. Everything but spiculation must be known; where that is None, by the model without it."""
    assert nodule.long_axis_mm is not None and patient.age is not None and nodule.count is not None
    c = WITHOUT_SPICULATION if nodule.spiculated is None else WITH_SPICULATION
    x = (
        c["constant"]
        + c["age"] * (patient.age - 62)
        + c["female"] * (patient.sex == "female")
        + c["family_history"] * bool(patient.family_history)
        + c["emphysema"] * bool(patient.emphysema)
        + c["size"] * ((nodule.long_axis_mm / 10) ** -0.5 - 1.58113883)
        + c.get(nodule.kind, 0.0)
        + c["upper_lobe"] * bool(nodule.upper_lobe)
        + c["count"] * (nodule.count - 4)
        + c["spiculated"] * bool(nodule.spiculated)
    )
    return probability_of(x)


def not_estimated(model: str, nodule: NoduleFacts) -> Estimate | None:
    """What a model says that goes by the longest diameter of a nodule, where it cannot; None where it can."""
    if nodule.kind in ("airway", "cyst"):
        return Estimate(model, None, None, None, notes=(f"The model is not for an {nodule.kind} finding.",))
    return Estimate(model, None, None, None, (LONG_AXIS,)) if nodule.long_axis_mm is None else None


def estimated(nodule: NoduleFacts, patient: PatientFacts) -> Estimate:
    """The probability, or its range over what is not known."""
    if (none := not_estimated(NAME, nodule)) is not None:
        return none
    word = "without" if nodule.spiculated is None else "with"
    notes = (f"The full model {word} spiculation; longest diameter of {nodule.long_axis_mm:.1f} mm.",)
    case = Case(nodule, patient)
    return estimate(NAME, lambda one: probability(one.nodule, one.patient), case, QUESTIONS, notes)


LONG_AXIS = Missing("long_axis_mm", "longest diameter (--long-axis)", True, ())
AGE = Question("age", "age (--age)", tuple((f"{age} years", age) for age in (20, 30, 40, 50, 60, 70, 80, 90, 100)))
SPICULATED = Question("spiculated", "spiculated (--spiculation yes|no)", YES_NO, unstated=None)
UPPER_LOBE = Question("upper_lobe", "in an upper lobe (--upper-lobe)", YES_NO)
QUESTIONS = (
    AGE,
    Question("sex", "sex (--sex)", (("female", "female"), ("male", "male"))),
    Question("family_history", "lung cancer in the family (--family-history)", YES_NO),
    Question("emphysema", "emphysema on CT (--emphysema)", YES_NO),
    UPPER_LOBE,
    Question("count", "number of nodules (--nodules)", tuple((str(n), n) for n in (1, 2, 3, 4, 6, 10))),
    SPICULATED,
)
