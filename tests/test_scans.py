"""Whole scans with known nodules: what counts as found, what else is marked, and what a table says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import made_reports
import small_scans
from nodulens import io
from nodulens.core.nodule import Nodule
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.errors import NotFound
from nodulens.evaluate.scans import evaluate_scans, response_curve, scan_tables
from nodulens.report.record import Report

NAME = min(EVALUATION_PATIENTS)
HEAD = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up scan, whose first two balls are nodules and whose third is on the list of those that do not count."""
    folder = tmp_path_factory.mktemp("data")
    small_scans.dicom(folder / "ct" / NAME)
    uid = io.read(folder / "ct" / NAME).source.series_uid
    rows = [f"{uid},{x},{y},{z},{diameter}\n" for (x, y, z), diameter in made_reports.NODULES]
    (folder / "luna16").mkdir()
    (folder / "luna16" / "annotations.csv").write_text(f"{HEAD}{rows[0]}{rows[1]}other,0,0,0,9\n")
    (folder / "luna16" / "annotations_excluded.csv").write_text(HEAD + rows[2])
    return folder


def marks(*points: tuple[float, float, float, float]) -> tuple[Nodule, ...]:
    """Findings at points (x, y, z) with a score."""
    one = made_reports.report(made_reports.scan()).nodules[0]
    return tuple(replace(one, id=k, centre_lps=tuple(p), score=score) for k, (*p, score) in enumerate(points, 1))


def reported(*points: tuple[float, float, float, float]) -> Report:
    return replace(made_reports.report(made_reports.scan()), nodules=marks(*points))


FIRST, SECOND, THIRD = (centre for centre, _ in made_reports.NODULES)
AIR = (0.0, 0.0, -60.0)


def test_what_is_found_and_what_else_is_marked(scored: Path) -> None:
    shown = ((*FIRST, 0.6), (FIRST[0] + 7.9, *FIRST[1:], 0.9), (*THIRD, 0.5), (*AIR, 0.7))
    more = (*shown, (SECOND[0] + 4.6, *SECOND[1:], 0.2), (SECOND[0], SECOND[1] + 4.4, SECOND[2], 0.1))
    [scan] = evaluate_scans(scored, lambda ct: (reported(*shown), reported(*more)))
    found = scan.to_json()
    assert (found["name"], found["nodules"], found["found"]) == (NAME, 2, 1), "two marks in one nodule find one"
    assert (found["other"], found["other_strict"]) == (1, 2), "on what does not count it is forgiven, or not"
    assert found["known"] == [{"diameter_mm": 16.0, "score": 0.9}, {"diameter_mm": 9.0, "score": None}]
    assert [(m["score"], m["hit"], m["excluded"]) for m in found["marks"]] == [
        (0.6, 0, False), (0.9, 0, False), (0.5, None, True), (0.7, None, False), (0.2, None, False), (0.1, 1, False)
    ]  # fmt: skip
    assert "outlines" not in found, "there is no XML"
    curve = {c.threshold: (c.found, c.other_per_scan) for c in response_curve([scan])}
    assert curve == {0.9: (1, 0), 0.7: (1, 1), 0.6: (1, 1), 0.5: (1, 1), 0.2: (1, 2), 0.1: (2, 2)}


def test_tables_lay_two_arms_side_by_side(scored: Path) -> None:
    whole = evaluate_scans(scored, lambda ct: (reported((*FIRST, 0.6)),) * 2)
    alone = evaluate_scans(scored, lambda ct: (reported((*SECOND, 0.8), (*AIR, 0.7)),) * 2)
    scans, nodules = scan_tables(whole, alone)
    assert scans.rows == ((NAME, 2, 1, 0, 0), (f"{NAME}, filter alone", 2, 1, 1, 1))
    assert [(row[1], row[2], row[-1]) for row in nodules.rows] == [(16.0, 0.6, None), (9.0, None, 0.8)]
    assert nodules.columns[-1] == "score, filter alone"
    assert scan_tables(whole)[1].columns[-1] == "centre off, mm" and scan_tables([]) == ()


def test_outlines_are_judged_where_readers_drew(shared: Path, tmp_path: Path) -> None:
    """Of a real scan the tables with nothing found: each nodule with its size, Dice 0, and who drew it."""
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "LIDC-IDRI-0003").symlink_to(shared / "ct" / "LIDC-IDRI-0003", target_is_directory=True)
    for part in ("luna16", "lidc"):
        (tmp_path / part).symlink_to(shared / part, target_is_directory=True)
    found = evaluate_scans(tmp_path, lambda ct: (reported(),) * 2)
    nodules = scan_tables(found)[1]
    assert [row[1] for row in nodules.rows] == [21.5, 8.8, 12.8]
    assert all(row[2:] == (None, 4, 0.0, None) for row in nodules.rows)


def test_no_scan_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=rf"holds none of {NAME}"):
        evaluate_scans(tmp_path, lambda ct: (reported(),) * 2)
