"""An examination that takes part in a comparison: a scan with what was found in it, and when it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np

from nodulens.core.nodule import Nodule, Point
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, BadOption, UnreadableFile
from nodulens.followup.change import Measured
from nodulens.io import read_mask
from nodulens.ops.orient import Reorientation, canonical
from nodulens.report.json import from_json
from nodulens.report.record import Report

SAME = "PatientID", "PatientBirthDate", "PatientSex"
"""What two examinations of one patient have in common, where both state it."""
WORDS = {"PatientID": "patient id", "PatientBirthDate": "birth date", "PatientSex": "sex"}


@dataclass(frozen=True, eq=False)
class Exam:
    """A scan with its report.

    Attributes:
        ct: as read.
        report: of it, with masks.
        day: since the first examination; None where nobody knows.
    """

    ct: Volume
    report: Report
    day: float | None = None

    @cached_property
    def _canonical(self) -> tuple[Volume, Reorientation]:
        return canonical(self.ct)

    @property
    def volume(self) -> Volume:
        """In canonical orientation."""
        return self._canonical[0]

    @cached_property
    def lungs(self) -> Mask:
        """On the grid of :attr:`volume`.

        Raises:
            BadOption: the report has no lung mask.
        """
        mask = self.report.lung_mask
        if mask is None:
            raise BadOption("The report has no lung mask; give the folder that the analysis left, or the scan.")
        if mask.geometry != self.ct.geometry:
            raise BadGeometry("The lung mask is on another grid than the scan: it is of another scan.")
        return Mask(self._canonical[1].apply(mask.labels), self.volume.geometry, mask.names)

    @property
    def slice_mm(self) -> float:
        """Thickness of the slices, or their spacing where that is more."""
        scan = self.report.scan
        return max(scan.slice_thickness_mm or 0.0, scan.spacing_zyx[0])

    def nodule(self, number: int) -> Nodule:
        """The nodule of a number."""
        return next(one for one in self.report.nodules if one.id == number)

    def measured(self, nodule: Nodule) -> Measured:
        """What of a nodule is compared."""
        return Measured(nodule.measurements, nodule.texture, self.slice_mm, self.day)

    def holds(self, nodule: Nodule, place_lps: Point, margin_mm: float = 0.0) -> bool:
        """Whether a place is inside the mask of a nodule, or that near to it."""
        if nodule.mask is None:
            return False
        points = self.ct.geometry.to_lps(np.argwhere(nodule.mask) + np.asarray(nodule.box.start))
        nearest = float(np.linalg.norm(points - np.asarray(place_lps), axis=1).min())
        return nearest <= margin_mm + max(self.ct.geometry.spacing_zyx) / 2


def study_date(ct: Volume) -> date | None:
    """The date of a scan's study; None where its format or its header has none, or no valid one."""
    text = _header(ct).get("StudyDate", "")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 and text.isdigit() else None
    except ValueError:
        return None


def _header(ct: Volume) -> dict[str, str]:
    return dict(ct.source.study.elements) if ct.source.study is not None else {}


def check_patients(scans: Sequence[Volume]) -> None:
    """Refuse scans whose headers name different patients.

    Raises:
        BadOption: they do; the message says by which element, not its values.
    """
    for name in SAME:
        stated = {value.strip().upper() for ct in scans if (value := _header(ct).get(name, "").strip())}
        stated.discard("O")  # of a sex, "other" says nothing against another
        if len(stated) > 1:
            raise BadOption(
                f"The scans name different patients: their {WORDS[name]} differs. Compare scans of one patient; if "
                "they are, and one header is wrong or from another hospital, add --same-patient."
            )


def check_distinct(scans: Sequence[Volume]) -> None:
    """Refuse the same scan twice.

    Raises:
        BadOption: two are one series, one file, or have the same voxels.
    """
    for number, one in enumerate(scans):
        for second, other in enumerate(scans[:number]):
            by_name = any(
                a is not None and a == b
                for a, b in (
                    (one.source.series_uid, other.source.series_uid),
                    (one.source.input_sha256, other.source.input_sha256),
                )
            )
            if by_name or (one.hu.shape == other.hu.shape and np.array_equal(one.hu, other.hu)):
                raise BadOption(
                    f"Scans {second + 1} and {number + 1} are the same scan: nothing can have changed. Give two "
                    "examinations."
                )


@dataclass(frozen=True)
class Order:
    """The examinations in time.

    Attributes:
        order: indices into what was given, the earliest first.
        days: since the first, in that order; None where nobody knows.
        notes: sentences on how they came about.
    """

    order: tuple[int, ...]
    days: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


def in_time(dates: Sequence[date | None], interval_days: Sequence[float] = ()) -> Order:
    """Order examinations by the dates of their studies, or as given where these do not say.

    >>> in_time([date(2024, 5, 1), date(2023, 5, 2)]).order
    (1, 0)

    Args:
        dates: of the studies; None where unknown.
        interval_days: typed: days from each examination to the next, in the order given.

    Raises:
        BadOption: a number of days that is not above 0, another count of them, or one that the dates contradict.
    """
    count = len(dates)
    if interval_days and len(interval_days) != count - 1:
        raise BadOption(f"{count} examinations have {count - 1} intervals: give --interval-days as often.")
    if any(not (np.isfinite(days) and days > 0) for days in interval_days):
        raise BadOption("--interval-days is the number of days from one examination to the next, above 0.")
    known = [one for one in dates if one is not None]
    if len(set(known)) == count:
        order = tuple(sorted(range(count), key=lambda i: known[i]))
        days = tuple(float((known[i] - known[order[0]]).days) for i in order)
        if interval_days:
            typed = [float(n) for n in np.cumsum([0.0, *interval_days])]
            if order != tuple(range(count)) or any(abs(a - b) > 1 for a, b in zip(typed, days, strict=True)):
                raise BadOption(
                    "--interval-days contradicts the dates of the studies, which are known and differ; leave it out."
                )
        swapped = order != tuple(range(count))
        note = ("The scans were given in another order than that of their dates; they are compared by date.",)
        return Order(order, days, note if swapped else ())
    if interval_days:
        total = np.cumsum([0.0, *interval_days]).tolist()
        return Order(tuple(range(count)), tuple(total), ("The time between the scans is as it was typed.",))
    why = "do not all differ" if len(known) == count else "are not all known"
    note = (
        f"The dates of the studies {why}: the scans are taken in the order given, and there is no doubling time. "
        "State the days between with --interval-days.",
    )
    return Order(tuple(range(count)), (None,) * count, note)


def read_report(folder: Path) -> Report:
    """The report in a folder that an analysis left, with its masks.

    Raises:
        BadOption: there is no report, or its masks are not there.
        UnreadableFile, BadGeometry: of the files.
    """
    path = folder / "report.json"
    lungs, nodules = folder / "lungs.nii.gz", folder / "nodules.nii.gz"
    if not (path.is_file() and lungs.is_file() and nodules.is_file()):
        raise BadOption(f"{folder} holds no outputs of an analysis: report.json, lungs.nii.gz and nodules.nii.gz.")
    report, labels = from_json(path.read_text("utf-8")), read_mask(nodules)
    found = []
    for one in report.nodules:
        if any(stop > n for stop, n in zip(one.box.stop, labels.geometry.shape, strict=True)):
            raise UnreadableFile(f"{nodules} is not the mask of {path}: nodule {one.id} lies outside it.")
        found.append(replace(one, mask=np.asarray(labels.labels[one.box.slices] == one.id)))
    mask = read_mask(lungs)
    named = Mask(mask.labels, mask.geometry, {1: "left lung", 2: "right lung"})
    return replace(report, nodules=tuple(found), lung_mask=named)


def matches(report: Report, ct: Volume) -> bool:
    """Whether a report is of a scan, by series UID or by the hash of its file."""
    own, other = report.series_uid or report.input_sha256, ct.source.series_uid or ct.source.input_sha256
    return own is not None and own == other
