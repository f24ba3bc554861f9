"""A structured report of the measurements: TID 1500 in a Comprehensive 3D SR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from nodulens import __version__
from nodulens.clinical.assess import NoduleGuidelines
from nodulens.core.nodule import Nodule, Risk
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.segmentation import Segment, lobe
from nodulens.dicom_objects.statements import NOT_A_DEVICE, categories, comment, probabilities, state
from nodulens.dicom_objects.study import MAKER, Context, equip
from nodulens.dicom_objects.tid1500 import headers, rounded, sizes, structured_report, whole
from nodulens.report.page import MALIGNANCY_ESTIMATE
from nodulens.report.record import Report

SERIES_NUMBER = 9802


def measurement_report(segments: Sequence[Segment], seg: Dataset, report: Report, context: Context) -> Dataset:
    """The SR of what was measured of each segment.

    Args:
        segments: at least one; those with masks are the segments of ``seg`` in this order.
        seg: the SEG that holds them.
        report: what was measured.
        context: of the scan.
    """
    numbers = iter(range(1, len(segments) + 1))
    groups = [_group(_Referenced(next(numbers) if s.masks else None, s, seg), report, context) for s in segments]
    made = structured_report(groups, [*headers(context), seg], SERIES_NUMBER)
    equip(made, context, "nodulens: nodule measurements (structured report)")
    state(report, made)
    return made


Group: TypeAlias = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


class _Referenced:
    """A segment, and how the SR refers to it.

    Args:
        number: of the segment in the SEG; None where the SEG does not hold it.
        segment: itself.
        seg: the SEG.
    """

    def __init__(self, number: int | None, segment: Segment, seg: Dataset) -> None:
        self.segment = segment
        self._number, self._seg = number, seg

    def item(self, context: Context) -> ReferencedSegment | None:
        """The reference: to all images of a nodule, to the series of a lung; None without a number."""
        if self._number is None:
            return None
        images = [context.images[index] for index, _ in self.segment.masks]
        lung = self.segment.nodule is None
        return ReferencedSegment(
            sop_class_uid=self._seg.SOPClassUID,
            sop_instance_uid=self._seg.SOPInstanceUID,
            segment_number=self._number,
            source_images=None if lung else [SourceImageForSegmentation(*whole(r)) for r in context.references(images)],
            source_series=SourceSeriesForSegmentation(str(context.ct.source.series_uid)) if lung else None,
        )


def _group(referenced: _Referenced, report: Report, context: Context) -> Group:
    """TID 1411 of a segment, or TID 1501 of a nodule without one."""
    segment, region = referenced.segment, referenced.item(context)
    nodule = segment.nodule
    guidelines = None if nodule is None else _guidelines(nodule, report)
    site = codes.LUNG if nodule is None else lobe(nodule.position)
    make: Any = MeasurementsAndQualitativeEvaluations
    if region is not None:
        make = partial(VolumetricROIMeasurementsAndQualitativeEvaluations, referenced_segment=region)
    group: Group = make(
        tracking_identifier=TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.label),
        finding_type=codes.LUNG if nodule is None else codes.NODULE,
        finding_category=codes.ANATOMY if nodule is None else codes.ABNORMALITY,
        algorithm_id=AlgorithmIdentification(name=f"{MAKER} {report.recipe}", version=__version__),
        finding_sites=[FindingSite(site, laterality=codes.SIDES[segment.side])],
        measurements=_lung(segment, report)
        if nodule is None
        else [*_measured(nodule, context), *(probabilities(guidelines) if guidelines is not None else ())],
        qualitative_evaluations=None
        if nodule is None
        else [QualitativeEvaluation(codes.TEXTURE, codes.TEXTURES[nodule.texture])],
    )
    group[0].ContentSequence.extend(categories(guidelines) if guidelines is not None else ())
    group[0].ContentSequence.extend(map(comment, _comments(nodule, report) if nodule is not None else ()))
    return group


def _guidelines(nodule: Nodule, report: Report) -> NoduleGuidelines | None:
    """What guidelines say of a nodule; None where nobody stated why the CT was made."""
    found = report.guidelines.nodules if report.guidelines is not None else ()
    return next((one for one in found if one.id == nodule.id), None)


def _lung(segment: Segment, report: Report) -> list[Measurement]:
    ml = report.lungs.left_ml if segment.side == "left" else report.lungs.right_ml
    return [Measurement(codes.VOLUME, rounded(ml * 1000), codes.MM3)]


def _measured(nodule: Nodule, context: Context) -> Iterator[Measurement]:
    """The numbers of a nodule; those of its central slice refer to that image."""
    m = nodule.measurements
    yield from sizes(m, nodule.position.central_slice, context)
    yield Measurement(codes.SOLID_DIAMETER, rounded(m.solid_diameter_mm), codes.MM)
    yield Measurement(codes.SOLID_SHARE, rounded(100 * m.solid_share), codes.PERCENT)
    yield Measurement(codes.CERTAINTY, rounded(100 * nodule.score), codes.PERCENT)
    if nodule.risk is not None:
        low, high = nodule.risk.interval
        for concept, share in (
            (codes.SUSPICION, nodule.risk.probability),
            (codes.SUSPICION_LOW, low),
            (codes.SUSPICION_HIGH, high),
        ):
            yield Measurement(concept, rounded(100 * share), codes.PERCENT)


def _comments(nodule: Nodule, report: Report) -> Iterator[str]:
    """What the codes cannot say, in words."""
    if nodule.risk is not None:
        yield f"Malignancy estimate: {_in_words(nodule.risk)} {MALIGNANCY_ESTIMATE} {report.interval_meaning}".strip()
        yield from nodule.risk.doubts
    yield f"The lobe is estimated from the position alone, without fissures: {nodule.position.lobe_estimate}."
    yield from nodule.warnings
    yield NOT_A_DEVICE


def _in_words(risk: Risk) -> str:
    low, high = risk.interval
    kind = "calibrated" if risk.calibrated else "not calibrated"
    return f"{100 * risk.probability:.0f} % ({100 * low:.0f} to {100 * high:.0f} %), {kind}."
