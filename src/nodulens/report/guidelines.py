"""A report with what the clinical guidelines say of its findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from nodulens.clinical.assess import Guidelines, assess
from nodulens.clinical.facts import Answers, NoduleAnswers, NoduleFacts
from nodulens.core.nodule import Nodule
from nodulens.report.record import Report

VOLUMETRY_MM = 1.25
"""Slices up to this thickness are taken to be thin enough for the volumes of BTS' guideline."""

FILE = "What is asked for of a nodule is stated in the file of --patient, by its number."
UPPER_LOBE = "Whether a nodule is in an upper lobe is estimated from its position, without fissures."
SPICULATION = (
    "Spiculation is not taken from the image. The network's rating of it ranks nodules with an AUC of {auc:.2f} in "
    "patients left out, rated above 3 by readers against below; a limit between yes and no was not measured. State it."
)


def categorise(report: Report, answers: Answers) -> Report:
    """The report with :attr:`~Report.guidelines`; without a context in the answers unchanged.

    >>> import nodulens as nl
    >>> from nodulens.clinical.facts import Answers, PatientFacts
    >>> stated = Answers(PatientFacts(context="screening", prior="none", age=63, sex="female"))
    >>> nl.categorise(report, stated).guidelines.examination  # doctest: +SKIP

    Args:
        report: of an analysis.
        answers: what a person states; nothing else is taken for known but what was measured.

    Raises:
        BadOption: an answer does not go with what was measured, or with another answer.
    """
    if answers.patient.context is None:
        return report
    return replace(report, guidelines=_guidelines(report, answers))


def _guidelines(report: Report, answers: Answers) -> Guidelines:
    nodules = {one.id: _facts(one, report, answers) for one in report.nodules}
    return assess(answers.patient, nodules, tuple(_notes(report, answers)))


def _facts(nodule: Nodule, report: Report, answers: Answers) -> NoduleFacts:
    """What is measured and stated of a finding."""
    m, stated = nodule.measurements, {**_single(report, answers).given()}
    if nodule.id in answers.nodules:
        stated |= answers.nodules[nodule.id].given()
    kind = stated.pop("kind", nodule.texture)
    found = None if report.prompted else Counter(_class(one) for one in report.nodules)
    count = answers.count or (len(report.nodules) if found else None)
    lobe = nodule.position.lobe_estimate
    facts = NoduleFacts(
        kind=kind,
        mean_diameter_mm=m.mean_diameter_mm,
        long_axis_mm=m.long_axis_mm,
        short_axis_mm=m.short_axis_mm,
        volume_mm3=m.volume_mm3 if _thin(report) else None,
        solid_mm=min(m.solid_diameter_mm, m.mean_diameter_mm) if kind == "part-solid" else None,
        upper_lobe=None if lobe == "unknown" else "upper" in lobe,
        count=count,
        count_of_class=1 if count == 1 else min(found[_class(nodule)], count or 0) if found else None,
    )
    return replace(facts, **stated)


def _class(nodule: Nodule) -> str:
    return "solid" if nodule.texture == "solid" else "subsolid"


def _thin(report: Report) -> bool:
    return max(report.scan.slice_thickness_mm or 0.0, report.scan.spacing_zyx[0]) <= VOLUMETRY_MM


def _single(report: Report, answers: Answers) -> NoduleAnswers:
    return answers.single if len(report.nodules) == 1 else NoduleAnswers()


def _notes(report: Report, answers: Answers) -> list[str]:
    """How the inputs were taken, in sentences."""
    notes = []
    if report.nodules:
        if not report.prompted:
            notes.append("Every finding of this report counts as a nodule, also one that a reader would reject.")
        bare = [str(one.id) for one in report.nodules if not one.outlined]
        if bare:
            notes.append(f"Without an outline: nodule {', '.join(bare)}. The size is that of the detector's mark.")
        notes += [UPPER_LOBE, FILE]
        auc = report.attribute_auc.get("spiculation")
        if auc is not None:
            notes.append(SPICULATION.format(auc=auc))
        if not _thin(report):
            notes.append(f"Slices are over {VOLUMETRY_MM:g} mm: BTS' guideline is applied by diameter, not by volume.")
    elif answers.patient.context == "incidental":
        notes.append("Nothing was found, so there is nothing that Fleischner's and BTS' guidelines are applied to.")
    if answers.single.given() and len(report.nodules) != 1:
        notes.append(
            f"What was stated without a nodule's number was not used, as there are {len(report.nodules)} findings: "
            "give the number, such as --spiculation 2=yes."
        )
    lost = sorted(answers.nodules.keys() - {one.id for one in report.nodules})
    if lost:
        notes.append(f"There is no finding {', '.join(map(str, lost))}: what was stated of it was not used.")
    if not report.coverage.complete:
        notes.append("Lung was not searched: whether the examination is incomplete (Lung-RADS 0) is for a reader.")
    return notes
