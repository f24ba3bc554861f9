"""The Mayo Clinic model: the probability that a solitary nodule found incidentally is malignant.

Swensen et al., Arch Intern Med 1997;157:849: nodules of 4 to 30 mm on a chest radiograph, in patients without cancer
in the last five years. The size is the longest diameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nodulens.clinical import brock_2013
from nodulens.clinical.brock_2013 import AGE, UPPER_LOBE, not_estimated
from nodulens.clinical.enquiry import OPEN, YES_NO, Question, estimate, probability_of
from nodulens.clinical.facts import Case, NoduleFacts, PatientFacts
from nodulens.clinical.record import Estimate

NAME = "Mayo 1997"
COEFFICIENTS: Mapping[str, float] = {
    "constant": -6.8272,
    "age": 0.0391,
    "smoker": 0.7917,
    "extrathoracic_cancer": 1.3388,
    "diameter": 0.1274,
    "spiculated": 1.0407,
    "upper_lobe": 0.7838,
}
SIZES_MM = (4.0, 30.0)


def probability(nodule: NoduleFacts, patient: PatientFacts) -> float:
    """Of malignancy, 0…1. Everything must be known."""
    assert nodule.long_axis_mm is not None and patient.age is not None
    c = COEFFICIENTS
    x = (
        c["constant"]
        + c["age"] * patient.age
        + c["smoker"] * bool(patient.smoker)
        + c["extrathoracic_cancer"] * bool(patient.extrathoracic_cancer)
        + c["diameter"] * nodule.long_axis_mm
        + c["spiculated"] * bool(nodule.spiculated)
        + c["upper_lobe"] * bool(nodule.upper_lobe)
    )
    return probability_of(x)


def estimated(nodule: NoduleFacts, patient: PatientFacts) -> Estimate:
    """The probability, or its range over what is not known."""
    if (none := not_estimated(NAME, nodule)) is not None:
        return none
    case = Case(nodule, patient)
    return estimate(NAME, lambda one: probability(one.nodule, one.patient), case, QUESTIONS, tuple(notes(nodule)))


def notes(nodule: NoduleFacts) -> list[str]:
    """What is outside the patients that the model was made of."""
    found = []
    if nodule.long_axis_mm is not None and not SIZES_MM[0] <= nodule.long_axis_mm <= SIZES_MM[1]:
        found.append("The model was made of nodules of 4 to 30 mm.")
    if nodule.count is not None and nodule.count > 1:
        found.append("The model was made of solitary nodules.")
    return found


SPICULATED = replace(brock_2013.SPICULATED, unstated=OPEN)
QUESTIONS = (
    AGE,
    Question("smoker", "smokes or has smoked (--smoker)", YES_NO),
    Question(
        "extrathoracic_cancer",
        "cancer elsewhere, diagnosed more than five years ago (--extrathoracic-cancer)",
        YES_NO,
    ),
    UPPER_LOBE,
    SPICULATED,
)
