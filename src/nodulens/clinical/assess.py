"""Every guideline and model that goes with the context of an examination, for all of its nodules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nodulens.clinical import brock_2013, bts_2015, fleischner_2017, herder_2005, lung_rads_v2022, mayo_1997
from nodulens.clinical.facts import NoduleFacts, PatientFacts
from nodulens.clinical.record import Estimate, Result
from nodulens.errors import BadOption

ASK = (
    "Nothing is categorised without knowing why the CT was made: add --context screening (Lung-RADS, BTS) or --context "
    "incidental (Fleischner, BTS)."
)


@dataclass(frozen=True)
class NoduleGuidelines:
    """What the guidelines and models say of one nodule.

    Attributes:
        id: its number.
        results: of guidelines.
        estimates: of risk models.
    """

    id: int
    results: tuple[Result, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Guidelines:
    """What the guidelines say of an examination.

    Attributes:
        patient: what was stated of the patient and the examination; ``context`` is set.
        examination: a result for each guideline: by its worst nodule.
        nodules: by number.
        notes: sentences on how the inputs were taken.
    """

    patient: PatientFacts
    examination: tuple[Result, ...]
    nodules: tuple[NoduleGuidelines, ...]
    notes: tuple[str, ...] = ()


def assess(patient: PatientFacts, nodules: Mapping[int, NoduleFacts], notes: tuple[str, ...] = ()) -> Guidelines:
    """Screening: Lung-RADS, BTS, Brock. Incidental: Fleischner, BTS, Brock, Mayo. Herder where FDG uptake is stated.

    Args:
        patient: with a context.
        nodules: by number.
        notes: sentences on how the inputs were taken.

    Raises:
        BadOption: there is no context, or a nodule lacks its size.
    """
    if patient.context is None:
        raise BadOption(ASK)
    found = tuple(
        NoduleGuidelines(number, _results(nodule, patient), _estimates(nodule, patient))
        for number, nodule in nodules.items()
    )
    first, second = ([one.results[n] for one in found] for n in range(2))
    if patient.context == "screening":
        examination = [lung_rads_v2022.examination(first, patient), bts_2015.examination(second)]
    else:
        examination = [fleischner_2017.examination(first), bts_2015.examination(second)]
    named = (_named(one, found) for one in examination if one is not None)
    return Guidelines(patient, tuple(named), found, notes)


def _named(result: Result, nodules: Sequence[NoduleGuidelines]) -> Result:
    """The result for an examination with the number of the nodule that it comes from; its questions stay there."""
    category = None if result.category is None else result.category.removesuffix("S")
    for nodule in nodules:
        for one in nodule.results:
            same = (one.guideline, one.category, one.possible) == (result.guideline, category, result.possible)
            if same or (one.guideline == result.guideline and category is not None and one.category == category):
                return replace(result, missing=(), notes=(f"By nodule {nodule.id}.", *result.notes))
    return result


def _results(nodule: NoduleFacts, patient: PatientFacts) -> tuple[Result, ...]:
    screening = patient.context == "screening"
    first = lung_rads_v2022.categorise if screening else fleischner_2017.recommend
    return first(nodule, patient), bts_2015.recommend(nodule, patient)


def _estimates(nodule: NoduleFacts, patient: PatientFacts) -> tuple[Estimate, ...]:
    if nodule.kind in ("airway", "cyst"):
        return ()
    models = [brock_2013.estimated]
    if patient.context == "incidental":
        models.append(mayo_1997.estimated)
    if nodule.fdg_uptake is not None:
        models.append(herder_2005.estimated)
    return tuple(model(nodule, patient) for model in models)
