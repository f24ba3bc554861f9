"""A structured report of the measurements: TID 1500 in a Comprehensive 3D SR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForRegion,
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
from nodulens.dicom_objects.structures import area, closed_curves, unpacked
from nodulens.dicom_objects.study import MAKER, Context, equip
from nodulens.dicom_objects.tid1500 import central_image, headers, rounded, sizes, structured_report, whole
from nodulens.report.page import MALIGNANCY_ESTIMATE
from nodulens.report.record import Report

SERIES_NUMBER = 9802


def measurement_report(segments: Sequence[Segment], seg: Dataset, report: Report, context: Context) -> Dataset:
    """The SR of what was measured of each segment, with its outline on one image.

    Args:
        segments: at least one; those with masks are the segments of ``seg`` in this order.
        seg: the SEG that holds them.
        report: what was measured.
        context: of the scan.
    """
    numbers = iter(range(1, len(segments) + 1))
    referenced = [_Referenced(next(numbers) if s.masks else None, s, seg) for s in segments]
    groups: list[Group] = []
    for one in sorted(referenced, key=lambda one: one.segment.nodule is None):  # viewers open at the first
        region = _outline(one.segment, context)
        groups.append(_group(one, report, context))
        groups += [] if region is None else [_planar(one.segment, region, report)]
    made = structured_report(groups, [*headers(context), seg], SERIES_NUMBER)
    equip(made, context, "nodulens: nodule measurements (structured report)")
    state(report, made)
    return made


Group: TypeAlias = (
    VolumetricROIMeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | MeasurementsAndQualitativeEvaluations
)


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
    make: Any = MeasurementsAndQualitativeEvaluations
    if region is not None:
        make = partial(VolumetricROIMeasurementsAndQualitativeEvaluations, referenced_segment=region)
    group: Group = make(
        **_identity(segment, report),
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


def _planar(segment: Segment, region: ImageRegion, report: Report) -> Group:
    """TID 1410 of the same finding: where it is on an image. Its measurements stand in the group of the segment."""
    return PlanarROIMeasurementsAndQualitativeEvaluations(**_identity(segment, report), referenced_region=region)


def _identity(segment: Segment, report: Report) -> dict[str, Any]:
    """What the groups of one finding have in common."""
    nodule = segment.nodule
    site = codes.LUNG if nodule is None else lobe(nodule.position)
    return {
        "tracking_identifier": TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.label),
        "finding_type": codes.LUNG if nodule is None else codes.NODULE,
        "finding_category": codes.ANATOMY if nodule is None else codes.ABNORMALITY,
        "algorithm_id": AlgorithmIdentification(name=f"{MAKER} {report.recipe}", version=__version__),
        "finding_sites": [FindingSite(site, laterality=codes.SIDES[segment.side])],
    }


def _outline(segment: Segment, context: Context) -> ImageRegion | None:
    """The outline of a nodule on its central slice, of a lung where it is largest: of several parts there the largest.
    None where the segment has no mask there.

    A segment has no coordinates of its own, and viewers that do not read the SEG show what has.
    """
    masks = dict(segment.masks)
    if segment.nodule is None:
        shown = max(masks, key=lambda index: np.unpackbits(masks[index]).sum(), default=None)
    else:
        central = central_image(segment.nodule.position.central_slice, context)
        shown = next((index for index in masks if context.images[index] is central), None)
    if shown is None:
        return None
    curve = max(closed_curves(unpacked(masks[shown], context)), key=area)
    corners = np.concatenate([curve, curve[:1]]) + 0.5  # of an SCOORD 0 is the first pixel's corner
    (reference,) = context.references([context.images[shown]])
    return ImageRegion(GraphicTypeValues.POLYLINE, corners, SourceImageForRegion(*whole(reference)))


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
