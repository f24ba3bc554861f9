"""``nodulens guideline``: what the clinical guidelines say of a nodule that is typed in, without a scan."""

from __future__ import annotations

from dataclasses import asdict, replace

from nodulens.apps.show import print_json
from nodulens.clinical.assess import ASK, Guidelines, assess
from nodulens.clinical.facts import Answers, NoduleFacts
from nodulens.errors import BadOption
from nodulens.report import guideline_words as words

SCHEMA = "nodulens-guidelines/1"


def guideline(nodule: NoduleFacts, answers: Answers, as_json: bool) -> None:
    """Print what the guidelines of the context say, as lines or as JSON laid out as in a report.

    Raises:
        BadOption: no context, or answers about other nodules than the one.
    """
    print_guidelines(answered(nodule, answers), as_json)


def answered(nodule: NoduleFacts, answers: Answers) -> Guidelines:
    """The guidelines of one nodule with number 1."""
    if answers.patient.context is None:
        raise BadOption(ASK)
    if answers.nodules.keys() - {1}:
        raise BadOption("There is one nodule here, number 1; leave the others out.")
    if answers.count is not None:
        nodule = replace(nodule, count=answers.count, count_of_class=nodule.count_of_class or answers.count)
    stated = {**answers.single.given(), **(answers.nodules[1].given() if 1 in answers.nodules else {})}
    return assess(answers.patient, {1: replace(nodule, **stated)})


def print_guidelines(found: Guidelines, as_json: bool) -> None:
    """Print every result of the nodules, with what it rests on and what would change it."""
    if as_json:
        print_json({"schema": SCHEMA, **asdict(found)})
        return
    for nodule in found.nodules:
        for result in nodule.results:
            print(f"{result.guideline}: {words.said(result)}")
            for line in (*words.basis(result), *words.questions(result.missing)):
                print(f"  {line}")
        for estimate in nodule.estimates:
            print(f"{estimate.model}: {words.chance(estimate)} probability of malignancy")
            for line in (*estimate.notes, *words.questions(estimate.missing)):
                print(f"  {line}")
    for result in found.examination:
        if result.guideline.startswith("Lung-RADS"):
            print(f"Examination, {result.guideline}: {words.said(result)}")
            for line in result.notes:
                print(f"  {line}")
    for line in found.notes:
        print(line)
