"""What the SR says in codes and sentences, beside measurements: coverage of the lungs, guidelines, reservations."""

from __future__ import annotations

from collections.abc import Iterator

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    Measurement,
    RelationshipTypeValues,
    TextContentItem,
)
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from nodulens.clinical import lung_rads_v2022
from nodulens.clinical.assess import NoduleGuidelines
from nodulens.clinical.record import Result
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.tid1500 import rounded
from nodulens.report.guideline_words import basis, chance, questions, said
from nodulens.report.page import cautions
from nodulens.report.record import Report

NOT_A_DEVICE = "For research; not a medical device."
POINTED = "Nothing was searched for: a person pointed at what is measured."
INCOMPLETE = "Lung was not searched"
LONGEST = 64
"""Characters that the description of completeness may have."""


def state(report: Report, made: Dataset) -> None:
    """Say in an SR what holds for the whole examination.

    What was not searched comes first: in the header, and in the content before the measurements. What guidelines say
    and what makes the result less certain comes last, as the template has it.

    Args:
        report: of an analysis.
        made: the SR, with the measurements in it; is changed.
    """
    unsearched = report.coverage.headline
    if unsearched:
        made.CompletionFlag = "PARTIAL"
        made.CompletionFlagDescription = unsearched if len(unsearched) <= LONGEST else INCOMPLETE
    evaluations = ContainerContentItem(
        CodedConcept.from_code(codes.EVALUATIONS),
        is_content_continuous=False,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    evaluations.ContentSequence = list(_examination(report))
    before = [_text(codes.COVERAGE, words) for words in _coverage(report)]
    content = list(made.ContentSequence)
    first = next(n for n, item in enumerate(content) if item.ValueType == "CONTAINER")
    made.ContentSequence = [*content[:first], *before, *content[first:], evaluations]


def categories(guidelines: NoduleGuidelines) -> Iterator[Dataset]:
    """Items on what guidelines and risk models say of a nodule."""
    for result in guidelines.results:
        yield from _result(result)
    for estimate in guidelines.estimates:
        lines = [f"{chance(estimate)} probability of malignancy.", *estimate.notes, *questions(estimate.missing)]
        yield _text(codes.MODELS[estimate.model], " ".join(lines))


def probabilities(guidelines: NoduleGuidelines) -> Iterator[Measurement]:
    """The probabilities of the risk models that are known."""
    for estimate in guidelines.estimates:
        share = estimate.probability
        if share is not None:
            yield Measurement(codes.MODELS[estimate.model], rounded(100 * share), codes.PERCENT)


def comment(words: str) -> Dataset:
    """A sentence beside measurements."""
    return _text(codes.COMMENT, words)


def _coverage(report: Report) -> Iterator[str]:
    if report.coverage.headline:
        yield f"{report.coverage.headline}."
    yield from cautions(report)
    if report.prompted:
        yield POINTED


def _examination(report: Report) -> Iterator[Dataset]:
    found = report.guidelines
    if found is not None:
        for result in found.examination:
            yield from _result(result)
        yield from map(comment, found.notes)
    yield from map(comment, report.warnings)
    yield comment(NOT_A_DEVICE)


def _result(result: Result) -> Iterator[Dataset]:
    """The category as a code where the source names it, and all that is said as text."""
    name = codes.GUIDELINES[result.guideline]
    if result.guideline == lung_rads_v2022.NAME and result.category is not None:
        code = codes.lung_rads(result.category)
        if code is not None:
            yield CodeContentItem(
                CodedConcept.from_code(codes.LUNG_RADS), CodedConcept.from_code(code), RelationshipTypeValues.CONTAINS
            )
    yield _text(name, " ".join([said(result), *basis(result), *questions(result.missing)]))


def _text(name: Code, words: str) -> Dataset:
    return TextContentItem(CodedConcept.from_code(name), words, RelationshipTypeValues.CONTAINS)
