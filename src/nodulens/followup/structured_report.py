"""A comparison as a DICOM structured report: TID 1500, one group of measurements a nodule and examination.

The groups of one nodule share their tracking identifier, and each says by its time point which examination it is of;
its numbers refer to the image of that examination. What changed stands in the group of the current one. The report
belongs to the study of the current examination and names the images of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    TimePointContext,
    TrackingIdentifier,
)
from highdicom.uid import UID
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from nodulens import __version__
from nodulens.dicom_objects import codes
from nodulens.dicom_objects.segmentation import lobe
from nodulens.dicom_objects.statements import NOT_A_DEVICE, comment
from nodulens.dicom_objects.study import MAKER, Context, context_of, equip
from nodulens.dicom_objects.tid1500 import headers, rounded, sizes, structured_report
from nodulens.dicom_objects.write import write_object
from nodulens.followup.change import Change, mass_mg
from nodulens.followup.compare import Compared
from nodulens.followup.record import Sighting, Track

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
    write_object(followup_report(compared, contexts), folder / FILE)


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
    evidence = [header for context in reversed(contexts) for header in headers(context)]
    made = structured_report(groups, evidence, SERIES_NUMBER)
    equip(made, contexts[-1], "nodulens: follow-up of nodules (structured report)")
    return made


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
    group[0].ContentSequence.extend(map(comment, (*track.notes, NOT_A_DEVICE)))
    return group


def _stated_at(track: Track) -> int:
    """The examination whose group says what changed: the last one that has the nodule."""
    return max(i for i, one in enumerate(track.sightings) if one.present)


def _measured(sighting: Sighting, context: Context) -> Iterator[Measurement]:
    m, position = sighting.measurements, sighting.position
    assert m is not None and position is not None
    yield from sizes(m, position.central_slice, context)
    yield Measurement(MASS, rounded(mass_mg(m)), MILLIGRAM)


def _changes(change: Change) -> Iterator[Measurement]:
    low, high = change.volume_share_interval
    for concept, share in ((VOLUME_CHANGE, change.volume_share), (VOLUME_CHANGE_LOW, low), (VOLUME_CHANGE_HIGH, high)):
        yield Measurement(concept, rounded(100 * share), codes.PERCENT)
    yield Measurement(DIAMETER_CHANGE, rounded(change.mean_diameter_mm), codes.MM)
    if change.doubling_days is not None:
        yield Measurement(DOUBLING, rounded(change.doubling_days), DAY)
