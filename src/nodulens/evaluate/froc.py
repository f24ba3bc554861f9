"""The marks of a detector on many scans, scored as LUNA16 does: from files, or from the reports of an analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.data.luna16 import AXES, read_findings_table, read_series
from nodulens.errors import BadOption, BadValues, NotFound, UnreadableFile
from nodulens.io.tables import read_table
from nodulens.metrics.detection import FP_RATES, MAX_MARKS, Froc, FrocInterval, Marks, bootstrap, by_size, froc, named
from nodulens.presentation.evaluation import Evaluation, Provenance, Table
from nodulens.presentation.tables import band_name, froc_evaluation, tally_rows
from nodulens.report.json import from_json
from nodulens.report.record import Report

SCHEMA = "nodulens-froc/1"


@dataclass(frozen=True)
class FrocFiles:
    """The files of a detector's evaluation, in the columns of LUNA16.

    Attributes:
        annotations: CSV of the nodules.
        series: the series that were searched, one UID a line.
        predictions: CSV of the marks, or a folder of nodulens reports.
        excluded: CSV of the findings that count neither way.
    """

    annotations: Path
    series: Path
    predictions: Path
    excluded: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The given files, in the order of the page."""
        paths = (self.annotations, self.excluded, self.series, self.predictions)
        return [path for path in paths if path is not None and path.is_file()]


@dataclass(frozen=True, eq=False)
class FrocEvaluation:
    """A detector's curve.

    Attributes:
        interval: bootstrap over scans; None if not requested.
        seed: of the draws.
        series: UIDs of all scans that were searched.
    """

    result: Froc
    interval: FrocInterval | None
    seed: int
    series: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate froc --json`` prints it."""
        result, tally = self.result, self.result.tally
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "fp_per_scan": FP_RATES,
            "sensitivity": result.sensitivity_at(FP_RATES).tolist(),
            "cpm": result.cpm,
            "scans": result.scans,
            "nodules": result.nodules,
            "true_positives": result.true_positives,
            "false_negatives": result.false_negatives,
            "false_positives": result.false_positives,
            "marks": tally.marks,
            "max_marks_per_scan": MAX_MARKS,
            "candidates": tally.candidates,
            "ignored_on_excluded": tally.ignored_on_excluded,
            "ignored_double": tally.ignored_double,
            "nodules_elsewhere": tally.nodules_elsewhere,
            "by_size": [
                {
                    "lo_mm": band.lo_mm,
                    "hi_mm": band.hi_mm if band.hi_mm < math.inf else None,
                    "nodules": band.froc.nodules,
                    "true_positives": band.froc.true_positives,
                    "sensitivity": band.froc.sensitivity_at(FP_RATES).tolist(),
                    "cpm": band.froc.cpm,
                }
                for band in by_size(result)
            ],
        }
        if self.interval:
            document["bootstrap"] = _bootstrap_json(self.interval, self.seed)
        return document

    def tables(self) -> tuple[Table, Table]:
        """Sensitivity by false positives a scan, and counts of the marks."""
        rows = [_row("all", self.result)]
        if self.interval:
            one = self.interval
            at = [one.fp_rate.tolist().index(rate) for rate in FP_RATES]
            for name, values, cpm in zip(("from", "to"), (one.low, one.high), one.cpm, strict=True):
                rows.append((f"  {one.confidence:.0%} {name}", None, None, *_digits([*values[at], cpm])))
        rows += [_row(band_name(band), band.froc) for band in by_size(self.result)]
        head = ("", "nodules", "found", *(f"{rate:g}" for rate in FP_RATES), "CPM")
        tally = self.result.tally
        counts = (
            ("scans", self.result.scans),
            *tally_rows(self.result),
            ("nodules in series that are not listed", tally.nodules_elsewhere),
        )
        return (
            Table("Sensitivity by false positives a scan", head, tuple(rows)),
            Table("What became of the marks", ("", "count"), counts),
        )

    def evaluation(self, provenance: Provenance) -> Evaluation:
        """As a page.

        Raises:
            MissingExtra: Matplotlib is not installed.
        """
        return froc_evaluation(self.result, self.interval, self.series, provenance)


def evaluate_detector(files: FrocFiles, samples: int = 0, seed: int = 0) -> FrocEvaluation:
    """FROC, CPM and sensitivity at 1/8 to 8 false positives a scan, as LUNA16 scores them.

    Args:
        samples: draws of scans for the interval; 0 for none.
        seed: of the draws.

    Raises:
        InputError: a file that is not there or cannot be read, or marks that do not fit the series; with the line.
        BadOption: an interval of one scan.
    """
    series = read_series(files.series)
    if samples and len(series) == 1:
        raise BadOption("All draws of one scan are the same: there is no interval; leave --bootstrap out.")
    result = froc(
        read_findings_table(files.annotations),
        read_findings_table(files.excluded, unique=False) if files.excluded else None,
        series,
        read_predictions(files.predictions, series),
    )
    return FrocEvaluation(result, bootstrap(result, samples, seed) if samples else None, seed, series)


def _row(name: str, one: Froc) -> tuple[str | int | None, ...]:
    return name, one.nodules, one.true_positives, *_digits([*one.sensitivity_at(FP_RATES), one.cpm])


def _digits(figures: Iterable[float]) -> Iterator[str]:
    return (f"{figure:.3f}" for figure in figures)


def _bootstrap_json(interval: FrocInterval, seed: int) -> dict[str, Any]:
    at = [interval.fp_rate.tolist().index(rate) for rate in FP_RATES]
    return {
        "samples": len(interval.cpms),
        "seed": seed,
        "confidence": interval.confidence,
        "cpm": interval.cpm,
        "cpm_mean": float(interval.cpms.mean()),
        "sensitivity_mean": interval.mean[at].tolist(),
        "sensitivity_low": interval.low[at].tolist(),
        "sensitivity_high": interval.high[at].tolist(),
        "curve": {
            "fp_per_scan": interval.fp_rate.tolist(),
            "mean": interval.mean.tolist(),
            "low": interval.low.tolist(),
            "high": interval.high.tolist(),
        },
    }


# ---------------------------------------------------------------- marks


def marks_of(reports: Iterable[Report]) -> Marks:
    """The findings of nodulens reports as marks; analyse with a threshold of 0, or the curve ends early.

    Raises:
        BadValues: a report without series UID, one of a scan that another is about too, or one where a person prompted
            at the nodules.
    """
    series: list[str] = []
    points: list[tuple[float, float, float]] = []
    scores: list[float] = []
    known_uids: set[str] = set()
    for report in reports:
        uid = report.series_uid
        if uid is None or uid in known_uids:
            raise BadValues(f"Two reports on series {uid}; keep one." if uid else "A report names no series UID.")
        if report.prompted:
            raise BadValues(
                f"The report on series {uid} is of a nodule that a person pointed at: no detector was asked."
            )
        known_uids.add(uid)
        for nodule in report.nodules:
            series.append(uid)
            points.append(nodule.centre_lps)
            scores.append(nodule.score)
    return Marks(tuple(series), np.array(points, dtype=np.float64).reshape(-1, 3), np.array(scores, dtype=np.float64))


def read_predictions(path: str | Path, series: Sequence[str]) -> Marks:
    """Read marks: a CSV file as LUNA16 takes it, or a folder of nodulens reports.

    Args:
        path: a file with the columns seriesuid, coordX, coordY, coordZ, probability; or a folder that holds a
            ``report.json`` for every series, at any depth.
        series: all that were searched.

    Raises:
        InputError: no such file, no such column, a cell that is no number, a series that is not listed, with
            its line; a report that cannot be read or is missing.
    """
    path = Path(path)
    known = frozenset(series)
    if path.is_dir():
        return _read_reports(path, known)
    table = read_table(path, ("seriesuid", *AXES, "probability"))
    uids = table.cells["seriesuid"]
    strange = [row for row, uid in enumerate(uids) if uid not in known]
    if strange:
        raise BadValues(
            f"{table.at(strange[0])}: series {uids[strange[0]]} is not listed; {len(strange)} rows are of such series. "
            "Add them to the list of series, or take their marks out: they would be counted nowhere."
        )
    # repeated marks and none at all are scored, as the official script does: as second hits, and as 0 throughout
    return Marks(uids, table.points(AXES), table.numbers("probability"))


def _read_reports(folder: Path, known: frozenset[str]) -> Marks:
    reports = {}
    for path in sorted(folder.rglob("report.json")):
        try:
            report = from_json(path.read_text("utf-8"))
        except (UnreadableFile, UnicodeDecodeError) as error:
            raise UnreadableFile(f"{path}: {error}") from error
        if report.series_uid not in known:
            raise BadValues(f"{path}: series {report.series_uid} is not in the list of series; add it or move it away.")
        reports[path] = report
    missing = sorted(known - {report.series_uid for report in reports.values()})
    if missing:
        raise NotFound(
            f"{folder} holds no report.json of {named(missing)}: analyse every scan, also those in which nothing is "
            "found, or take it off the list."
        )
    return marks_of(reports.values())
