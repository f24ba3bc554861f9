"""``nodulens compare``: examinations of one patient, read, analysed where they were not, and compared."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nodulens.apps.bars import Bars, bars
from nodulens.clinical.facts import Answers
from nodulens.core.text import printable
from nodulens.core.volume import Volume
from nodulens.errors import BadOption
from nodulens.report.record import Report

if TYPE_CHECKING:
    from nodulens.followup.compare import Compared
    from nodulens.followup.exam import Exam
    from nodulens.followup.record import Comparison
    from nodulens.methods.method import Method


@dataclass(frozen=True)
class Typed:
    """What was typed.

    Attributes:
        scans: or folders of analyses.
        output: folder.
        answers: for the guidelines.
        voxels: scans of the folders of analyses.
        series: UIDs, one a scan in the order of the scans; empty: none is chosen.
        interval_days: from each examination to the next.
        same_patient: whatever the headers say.
        gaps: what to do about missing slices.
        case, identify: as for an analysis.
        dicom: whether to write a structured report.
        deidentified: it is for the pseudonym ``case``.
        threshold: None for the method's.
    """

    scans: tuple[Path, ...]
    output: Path
    answers: Answers
    voxels: tuple[Path, ...] = ()
    series: tuple[str, ...] = ()
    interval_days: tuple[float, ...] = ()
    same_patient: bool = False
    gaps: Literal["error", "interpolate"] = "error"
    case: str | None = None
    identify: bool = False
    dicom: bool = True
    deidentified: bool = False
    threshold: float | None = None


def compare(typed: Typed, load: Callable[[], Method], as_json: bool) -> None:
    """Compare and write; print the page's place, or the comparison as JSON.

    Raises:
        BadOption: less than two scans, scans that are the same, of two patients, or that do not match.
    """
    from nodulens.followup.compare import Options
    from nodulens.followup.compare import compare as run
    from nodulens.followup.exam import check_distinct, check_patients, in_time, study_date
    from nodulens.followup.json import to_json
    from nodulens.followup.outputs import claimed, write_comparison

    if typed.deidentified and typed.case is None:
        raise BadOption("--deidentified needs the pseudonym that the report is for: --case NAME.")
    if len(typed.scans) < 2:
        raise BadOption("A comparison needs two scans or more: nodulens compare PRIOR CURRENT -o OUT.")
    if typed.series and len(typed.series) != len(typed.scans):
        raise BadOption("--series is given once for each scan, in their order, or not at all.")
    with claimed(typed.output, (*typed.scans, *typed.voxels)) as room, bars() as show:
        start = time.perf_counter()
        given = _read_all(typed, show)
        scans = [ct for ct, _ in given]
        check_distinct(scans)
        if not typed.same_patient:
            check_patients(scans)
        dates = [study_date(ct) for ct in scans]
        when = in_time(dates, typed.interval_days)
        method = load()
        if typed.threshold is not None:
            method = replace(method, recipe=replace(method.recipe, threshold=typed.threshold))
        read_s = time.perf_counter() - start
        exams = [
            _examined(*given[i], day, method, partial(_part, show, number, len(given)))
            for number, (i, day) in enumerate(zip(when.order, when.days, strict=True))
        ]
        texts = tuple(None if (one := dates[i]) is None else one.isoformat() for i in when.order)
        options = Options(typed.answers, typed.case, typed.identify, when.notes, texts)
        compared = run(exams, method, options, show)
        analysed_s = time.perf_counter() - start
        timing = {"read": read_s, **compared.comparison.timing_s, "total": analysed_s}
        compared = replace(compared, comparison=replace(compared.comparison, timing_s=timing))
        show("report", 0.0)
        folder = write_comparison(room, compared, _objects(typed, compared))
        show("report", 1.0)
    if as_json:
        sys.stdout.buffer.write(to_json(compared.comparison).encode())
    else:
        print(printable(str(folder / "comparison.html")))
    _say(compared.comparison)


def _objects(typed: Typed, compared: Compared) -> Callable[[Path], None] | None:
    """What writes the structured report; None where there is none, and a line then says why not."""
    if not typed.dicom:
        return None
    from nodulens.followup.structured_report import contexts_of, write_report

    contexts = contexts_of(compared, typed.case if typed.deidentified else None)
    if isinstance(contexts, str):
        print(f"nodulens: no structured report: {contexts}.", file=sys.stderr)
        return None
    return partial(write_report, compared, contexts)


def _say(comparison: Comparison) -> None:
    """What changed, and what the guidelines say, on standard error."""
    from nodulens.followup.page import headline
    from nodulens.report.guideline_words import said

    print(headline(comparison), file=sys.stderr)
    for result in comparison.guidelines.examination if comparison.guidelines is not None else ():
        print(f"{result.guideline}: {said(result)}", file=sys.stderr)


def _part(show: Bars, number: int, count: int, stage: str, done: float) -> None:
    show(f"{stage} {number + 1} of {count}", done)


def _read_all(typed: Typed, show: Bars) -> list[tuple[Volume, Report | None]]:
    """Each scan, and the report of those that were analysed before."""
    from nodulens.followup.exam import matches, read_report
    from nodulens.io import read

    def scan(path: Path, series: str | None) -> Volume:
        done = lambda a, b: show("read", a / max(b, 1))  # noqa: E731
        return read(path, series=series, gaps=typed.gaps, progress=done)

    pool = [scan(path, None) for path in typed.voxels]
    out: list[tuple[Volume, Report | None]] = []
    for number, path in enumerate(typed.scans):
        if not (path / "report.json").is_file():
            out.append((scan(path, typed.series[number] if typed.series else None), None))
            continue
        report = read_report(path)
        found = [ct for ct in pool if matches(report, ct)]
        if not found:
            raise BadOption(
                f"{path} holds an analysis without the scan, whose voxels a comparison needs: name the scan as well, "
                "with --scan FOLDER, or give the scan in place of the analysis."
            )
        out.append((found[0], report))
    return out


def _examined(
    ct: Volume, report: Report | None, day: float | None, method: Method, show: Callable[[str, float], None]
) -> Exam:
    """An examination, analysed where it was not."""
    from nodulens.followup.exam import Exam
    from nodulens.pipeline import analyze

    return Exam(ct, analyze(ct, method=method, progress=show) if report is None else report, day)
