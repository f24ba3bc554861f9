"""A comparison as a DICOM structured report: TID 1500, one group of measurements a nodule and examination.

The groups of one nodule share their tracking identifier, and each says by its time point which examination it is of;
its numbers refer to the image of that examination. What changed stands in the group of the current one. The report
belongs to the study of the current examination and names the images of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path

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
    RelationshipTypeValues,
    SourceImageForMeasurement,
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from highdicom.uid import UID
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from nodulens import __version__
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.measurements import DEVICE_UID
from nodulens.dicom_objects.segmentation import lobe
from nodulens.dicom_objects.study import MAKER, Context, context_of, corners, equip
from nodulens.followup.change import Change, mass_mg
from nodulens.followup.compare import Compared
from nodulens.followup.record import Sighting, Track
from nodulens.io.atomic import write_whole

SERIES_NUMBER = 9805
FILE = "sr.dcm"
MILLIGRAM, DAY = Code("mg", "UCUM", "milligram"), Code("d", "UCUM", "day")
STATUS = Code("CHANGE", codes.SCHEME, "Change since the prior examination")
STATUSES = {
    status: Code(status.upper().replace(" ", "-"), codes.SCHEME, status[:1].upper() + status[1:])
    for status in (
        "new", "returned", "resolved", "growing", "stable", "shrinking", "merged", "split", "not comparable",
    )
}  # fmt: skip
MASS = Code("MASS", codes.SCHEME, "Mass, from volume and density")
VOLUME_CHANGE = Code("VOLUME-CHANGE", codes.SCHEME, "Change of the volume, share of the earlier one")
VOLUME_CHANGE_LOW = Code("VOLUME-CHANGE-LOW", codes.SCHEME, "Lower end of the interval of that change")
VOLUME_CHANGE_HIGH = Code("VOLUME-CHANGE-HIGH", codes.SCHEME, "Upper end of the interval of that change")
DIAMETER_CHANGE = Code("DIAMETER-CHANGE", codes.SCHEME, "Change of the mean diameter")
DOUBLING = Code("VOLUME-DOUBLING-TIME", codes.SCHEME, "Time in which the volume doubles")


def contexts_of(compared: Compared, pseudonym: str | None = None) -> list[Context] | str:
    """The context of each examination; or, as a sentence, why there can be no report.

    Args:
        compared: with its scans.
        pseudonym: in place of who was scanned.
    """
    if not compared.comparison.tracks:
        return "there is no nodule in any of the scans"
    made = datetime.now()
    found: list[Context] = []
    for exam in compared.exams:
        context = context_of(exam.ct, made, pseudonym)
        if isinstance(context, str):
            return context
        found.append(context)
    return found


def write_report(compared: Compared, contexts: Sequence[Context], folder: Path) -> None:
    """Write :data:`FILE` into an existing folder."""
    file = BytesIO()
    followup_report(compared, contexts).save_as(file, enforce_file_format=True)
    write_whole(folder / FILE, file.getvalue())


def followup_report(compared: Compared, contexts: Sequence[Context]) -> Dataset:
    """The report.

    Args:
        compared: with its scans.
        contexts: of each examination, in the order of time.
    """
    groups = []
    for track in compared.comparison.tracks:
        uid = UID()
        groups += [_group(track, i, compared, contexts[i], uid) for i, one in enumerate(track.sightings) if one.present]
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
        evidence=[header for context in reversed(contexts) for header in _headers(context)],
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
    equip(made, contexts[-1], "nodulens: follow-up of nodules (structured report)")
    return made


def _headers(context: Context) -> list[Dataset]:
    """A header of each instance of a scan."""
    return [context.header(one) for one in {image.sop_instance_uid: image for image in context.images}.values()]


def _group(
    track: Track, i: int, compared: Compared, context: Context, uid: UID
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 of a nodule in one examination."""
    sighting, comparison, last = track.sightings[i], compared.comparison, len(track.sightings) - 1
    assert sighting.position is not None and sighting.texture is not None, "it was measured"
    when = "current" if i == last else "prior" if last == 1 else f"scan {i + 1}"
    evaluations = [QualitativeEvaluation(codes.TEXTURE, codes.TEXTURES[sighting.texture])]
    measured = list(_measured(sighting, context))
    if i == _stated_at(track):
        evaluations.append(QualitativeEvaluation(STATUS, STATUSES[track.status]))
    if i == last and track.change is not None:
        measured += list(_changes(track.change))
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=f"Nodule {track.id}"),
        finding_type=codes.NODULE,
        finding_category=codes.ABNORMALITY,
        algorithm_id=AlgorithmIdentification(name=f"{MAKER} {comparison.recipe}", version=__version__),
        finding_sites=[FindingSite(lobe(sighting.position), laterality=codes.SIDES[sighting.position.side])],
        time_point_context=TimePointContext(time_point=when, time_point_order=i + 1),
        measurements=measured,
        qualitative_evaluations=evaluations,
    )
    group[0].ContentSequence.extend(
        TextContentItem(CodedConcept.from_code(codes.COMMENT), words, RelationshipTypeValues.CONTAINS)
        for words in (*track.notes, "For research; not a medical device.")
    )
    return group


def _stated_at(track: Track) -> int:
    """The examination whose group says what changed: the last one that has the nodule."""
    return max(i for i, one in enumerate(track.sightings) if one.present)


def _measured(sighting: Sighting, context: Context) -> Iterator[Measurement]:
    m, position = sighting.measurements, sighting.position
    assert m is not None and position is not None
    rows = corners(context.ct.geometry, context.images)[:, 0].tolist()
    on = [image for image, z in zip(context.images, rows, strict=True) if z == position.central_slice]
    where = None
    if on:
        (reference,) = context.references(on[:1])
        frame = reference.get("ReferencedFrameNumber")
        frames = None if frame is None else [int(frame)]
        where = [SourceImageForMeasurement(reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID, frames)]
    yield Measurement(codes.LONG_AXIS, _rounded(m.long_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(codes.SHORT_AXIS, _rounded(m.short_axis_mm), codes.MM, referenced_images=where)
    yield Measurement(
        codes.DIAMETER, _rounded(m.mean_diameter_mm), codes.MM, derivation=codes.MEAN, referenced_images=where
    )
    yield Measurement(codes.VOLUME, _rounded(m.volume_mm3), codes.MM3)
    yield Measurement(codes.ATTENUATION, _rounded(m.mean_hu), codes.HU, derivation=codes.MEAN)
    yield Measurement(MASS, _rounded(mass_mg(m)), MILLIGRAM)


def _changes(change: Change) -> Iterator[Measurement]:
    low, high = change.volume_share_interval
    for concept, share in ((VOLUME_CHANGE, change.volume_share), (VOLUME_CHANGE_LOW, low), (VOLUME_CHANGE_HIGH, high)):
        yield Measurement(concept, _rounded(100 * share), codes.PERCENT)
    yield Measurement(DIAMETER_CHANGE, _rounded(change.mean_diameter_mm), codes.MM)
    if change.doubling_days is not None:
        yield Measurement(DOUBLING, _rounded(change.doubling_days), DAY)


def _rounded(value: float) -> float:
    """Six digits: more than was measured, fewer than a decimal string holds."""
    return float(f"{value:.6g}")
