"""The Herder model: the Mayo model's probability, and the uptake of FDG on PET.

Herder et al., Chest 2005;128:2490, doi:10.1378/chest.128.4.2490.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nodulens.clinical import mayo_1997
from nodulens.clinical.enquiry import Question, Range, probability_of
from nodulens.clinical.facts import NoduleFacts, PatientFacts, Uptake
from nodulens.clinical.record import Estimate, Missing, Outcome

NAME = "Herder 2005"
CONSTANT, PRETEST = -4.739, 3.691
UPTAKE: Mapping[Uptake, float] = {"absent": 0.0, "faint": 2.322, "moderate": 4.617, "intense": 4.771}


def after_pet(pretest: float, uptake: Uptake) -> float:
    """Probability of malignancy, 0…1, from the one by the Mayo model and the uptake."""
    return probability_of(CONSTANT + PRETEST * pretest + UPTAKE[uptake])


def estimated(nodule: NoduleFacts, patient: PatientFacts) -> Estimate:
    """The probability, or its range over what is not known."""
    before = mayo_1997.estimated(nodule, patient)
    if before.lowest is None or before.highest is None:
        return replace(before, model=NAME)
    low, high = probability((before.lowest, before.highest), nodule.fdg_uptake)
    missing = [
        replace(one, outcomes=tuple(_after(outcome, nodule.fdg_uptake) for outcome in one.outcomes))
        for one in before.missing
    ]
    if nodule.fdg_uptake is None:
        outcomes = tuple(Outcome(uptake, (), probability((before.lowest, before.highest), uptake)) for uptake in UPTAKE)
        missing.append(Missing(FDG_UPTAKE.name, FDG_UPTAKE.ask, True, outcomes))
    return Estimate(NAME, low if low == high else None, low, high, tuple(missing), before.notes)


def probability(pretest: Range, uptake: Uptake | None) -> Range:
    """Lowest and highest probability of malignancy, from those by the Mayo model; None: over every uptake."""
    least, most = (uptake, uptake) if uptake is not None else ("absent", "intense")
    return after_pet(pretest[0], least), after_pet(pretest[1], most)


def _after(outcome: Outcome, uptake: Uptake | None) -> Outcome:
    assert outcome.probability is not None
    return replace(outcome, probability=probability(outcome.probability, uptake))


FDG_UPTAKE = Question(
    "fdg_uptake",
    "uptake of FDG on PET (--fdg-uptake)",
    tuple((uptake, uptake) for uptake in UPTAKE),
)
