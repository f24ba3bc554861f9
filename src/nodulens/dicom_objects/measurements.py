"""A structured report of the measurements: TID 1500 in a Comprehensive 3D SR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForMeasurement,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.uid import UID
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary

from nodulens import __version__
from nodulens.clinical.assess import NoduleGuidelines
from nodulens.core.nodule import Nodule, Risk
from nodulens.core.volume import StoredImage
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.segmentation import Segment, lobe
from nodulens.dicom_objects.statements import NOT_A_DEVICE, categories, comment, probabilities, state
from nodulens.dicom_objects.study import MAKER, Context, corners, equip
from nodulens.report.page import MALIGNANCY_ESTIMATE
from nodulens.report.record import Report

SERIES_NUMBER = 9802
DEVICE_UID = "2.25.238471950317263946120385736420198374652"
"""Names the program, whatever its version, as the observer."""


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
    observer = ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID, name=MAKER, manufacturer_name=MAKER, model_name=MAKER, serial_number=__version__
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.CHEST_CT,
        imaging_measurements=groups,
    )
    made = Comprehensive3DSR(
        evidence=[*_evidence(context), seg],
        content=content[0],
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
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
            source_images=None
            if lung
            else [SourceImageForSegmentation(*_whole(r)) for r in context.references(images)],
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
    return [Measurement(codes.VOLUME, _rounded(ml * 1000), codes.MM3)]


def _measured(nodule: Nodule, context: Context) -> Iterator[Measurement]:
    """The numbers of a nodule; those of its central slice refer to that image."""
    m, image = nodule.measurements, _central(nodule, context)
    where = None if image is None else [SourceImageForMeasurement(*_whole(r)) for r in context.references([image])]
    yield Measurement(codes.LONG_AXIS, _rounded(m.long_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(codes.SHORT_AXIS, _rounded(m.short_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(
        codes.DIAMETER, _rounded(m.mean_diameter_mm), codes.MM, derivation=codes.MEAN, referenced_images=where
    )
    yield Measurement(codes.VOLUME, _rounded(m.volume_mm3), codes.MM3)
    yield Measurement(codes.ATTENUATION, _rounded(m.mean_hu), codes.HU, derivation=codes.MEAN)
    yield Measurement(codes.SOLID_DIAMETER, _rounded(m.solid_diameter_mm), codes.MM)
    yield Measurement(codes.SOLID_SHARE, _rounded(100 * m.solid_share), codes.PERCENT)
    yield Measurement(codes.CERTAINTY, _rounded(100 * nodule.score), codes.PERCENT)
    if nodule.risk is not None:
        low, high = nodule.risk.interval
        for concept, share in (
            (codes.SUSPICION, nodule.risk.probability),
            (codes.SUSPICION_LOW, low),
            (codes.SUSPICION_HIGH, high),
        ):
            yield Measurement(concept, _rounded(100 * share), codes.PERCENT)


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


def _central(nodule: Nodule, context: Context) -> StoredImage | None:
    """The stored image of a nodule's central slice; None where that slice was made between two others."""
    z = corners(context.ct.geometry, context.images)[:, 0]
    found = [
        image for image, place in zip(context.images, z.tolist(), strict=True) if place == nodule.position.central_slice
    ]
    return found[0] if found else None


def _evidence(context: Context) -> list[Dataset]:
    """A header of each instance of the scan."""
    one = {image.sop_instance_uid: image for image in context.images}
    return [context.header(image) for image in one.values()]


def _whole(reference: Dataset) -> tuple[str, str, Sequence[int] | None]:
    frames = reference.get("ReferencedFrameNumber")
    numbers = None if frames is None else [int(frames)] if isinstance(frames, int | str) else [int(n) for n in frames]
    return reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID, numbers


def _rounded(value: float) -> float:
    """Six digits: more than was measured, fewer than a decimal string holds."""
    return float(f"{value:.6g}")
