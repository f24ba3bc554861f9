"""The result of comparing examinations, as a value; :mod:`nodulens.followup.json` is its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nodulens.clinical.assess import Guidelines
from nodulens.core.nodule import Attribute, Measurements, Point, Position, Risk, Texture
from nodulens.core.volume import Patient
from nodulens.errors import NodulensError
from nodulens.followup.change import Change
from nodulens.followup.registration import Quality
from nodulens.report.record import LungVolumes, ScanSummary, WeightRef

Presence = Literal["found", "looked for", "absent", "outside"]
"""Of a nodule in an examination: found by the search; below its threshold, and found where another examination has it;
looked for and not there; or the examination does not show its place."""
Status = Literal["new", "returned", "resolved", "growing", "stable", "shrinking", "merged", "split", "not comparable"]
"""The current examination against the one before: "returned" is absent there, and present earlier; "merged" is now
part of another nodule, "split" was part of one; "not comparable" has no measurement to compare with."""


@dataclass(frozen=True)
class ExamSummary:
    """An examination of a comparison.

    Attributes:
        series_uid, input_sha256: which scan; see :class:`~nodulens.report.record.Report`.
        scan: properties of it.
        day: since the first examination; None where nobody knows.
        date: of the study, only where the output is to identify the patient.
        lungs: their volumes: how deep the breath was.
        threshold: detection confidence from which a nodule is found by the search.
        nodules: so many were found by the search.
        warnings: sentences.
    """

    series_uid: str | None
    input_sha256: str | None
    scan: ScanSummary
    day: float | None
    date: str | None
    lungs: LungVolumes
    threshold: float
    nodules: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Sighting:
    """A nodule in one examination.

    Attributes:
        presence: see :data:`Presence`.
        nodule: its number in that examination; None where it is not there.
        place_lps: its centre in that scan, or where it would be, LPS mm (x, y, z).
        score: detection confidence, 0…1; None where it is not there.
        texture, position, measurements: None likewise.
        risk, attributes: of the nodule there, as in its report.
    """

    presence: Presence
    nodule: int | None
    place_lps: Point
    score: float | None = None
    texture: Texture | None = None
    position: Position | None = None
    measurements: Measurements | None = None
    risk: Risk | None = None
    attributes: tuple[Attribute, ...] = ()

    @property
    def present(self) -> bool:
        """Whether the nodule is there and measured."""
        return self.measurements is not None


@dataclass(frozen=True)
class Track:
    """One nodule through all examinations.

    Attributes:
        id: 1, 2, …; the most suspicious change first.
        status: see :data:`Status`.
        sightings: one an examination, in the order of time.
        change: to the current examination from the latest before it in which the nodule was measured; None where there
            is none.
        compared: index of that earlier examination.
        related: the tracks with which it merged or from which it split.
        notes: sentences.
    """

    id: int
    status: Status
    sightings: tuple[Sighting, ...]
    change: Change | None
    compared: int | None
    related: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def current(self) -> Sighting:
        """In the latest examination."""
        return self.sightings[-1]


@dataclass(frozen=True)
class Comparison:
    """What changed between examinations of one patient.

    Attributes:
        software, recipe, weights: what was used.
        case: a pseudonym, as given by the user.
        patient: None unless the output is to identify the patient.
        exams: in the order of time, the current one last.
        registrations: of each earlier examination with the current one, in that order.
        tracks: every nodule of any examination.
        guidelines: of the current examination, with what was compared; None where nobody stated a context.
        warnings: sentences on what makes the whole result less certain.
        timing_s: seconds per stage, and ``total``.

    Raises:
        NodulensError: less than two examinations, or records that do not go with them.
    """

    software: str
    recipe: str
    weights: tuple[WeightRef, ...]
    case: str | None
    patient: Patient | None
    exams: tuple[ExamSummary, ...]
    registrations: tuple[Quality, ...]
    tracks: tuple[Track, ...]
    guidelines: Guidelines | None
    warnings: tuple[str, ...]
    timing_s: dict[str, float]

    def __post_init__(self) -> None:
        if len(self.exams) < 2 or len(self.registrations) != len(self.exams) - 1:
            raise NodulensError("A comparison has two examinations or more, each earlier one registered.")
        if [one.id for one in self.tracks] != list(range(1, len(self.tracks) + 1)):
            raise NodulensError("Tracks are numbered from 1.")
        if any(len(one.sightings) != len(self.exams) for one in self.tracks):
            raise NodulensError("A track has one sighting for each examination.")
        if "total" not in self.timing_s:
            raise NodulensError("The timing of a comparison needs the key 'total'.")
