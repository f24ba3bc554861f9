"""FROC and CPM against LUNA16's own figures, a plain transcription of its rules, and cases worked by hand."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from conftest import REPOSITORY, Run, refused
from nodulens.data.luna16 import read_findings_table, read_series
from nodulens.errors import BadOption, BadValues, InputError, NotFound, UnreadableFile
from nodulens.evaluate.froc import marks_of, read_predictions
from nodulens.metrics.detection import (
    FP_RATES,
    GRID,
    Findings,
    Froc,
    Marks,
    bootstrap,
    by_size,
    froc,
)
from nodulens.report.json import to_json
from nodulens.report.record import Report

Point = tuple[float, float, float]


# The reference: one scan, one finding, one mark at a time.


@dataclass
class Sample:
    """A line of the script's list: a nodule with its best mark or without one, or a false positive."""

    scan: str
    is_nodule: bool
    score: float
    marked: bool


@dataclass
class Scored:
    samples: list[Sample]
    candidates: int = 0
    on_excluded: int = 0
    double: int = 0


def slow(annotations: Findings, excluded: Findings, series: Sequence[str], predictions: Marks) -> Scored:
    """LUNA16's rules in plain loops."""

    def rows(of: Findings | Marks, values: np.ndarray, uid: str) -> list[tuple[Point, float]]:  # type: ignore[type-arg]
        return [
            (tuple(c), float(v))  # type: ignore[misc]
            for s, c, v in zip(of.series, of.centre_lps, values, strict=True)
            if s == uid
        ]

    out = Scored([])
    for uid in series:
        marks = rows(predictions, predictions.score, uid)
        if len(marks) > 100:
            limit = sorted((score for _, score in marks), reverse=True)[100]
            marks = [mark for mark in marks if mark[1] > limit]
        out.candidates += len(marks)
        remaining = set(range(len(marks)))

        def near(centre: Point, diameter: float, marks: list[tuple[Point, float]] = marks) -> list[int]:
            radius = (10.0 if diameter < 0 else diameter) / 2
            return [
                i
                for i, (point, _) in enumerate(marks)
                if sum((a - b) ** 2 for a, b in zip(centre, point, strict=True)) < radius**2
            ]

        for centre, diameter in rows(annotations, annotations.diameter_mm, uid):
            hits = near(centre, diameter)
            remaining -= set(hits)
            if hits:
                out.double += len(hits) - 1
                out.samples.append(Sample(uid, True, max(marks[i][1] for i in hits), True))
            else:
                out.samples.append(Sample(uid, True, -1e9, False))
        for centre, diameter in rows(excluded, excluded.diameter_mm, uid):
            ignored = remaining & set(near(centre, diameter))
            out.on_excluded += len(ignored)
            remaining -= ignored
        out.samples += [Sample(uid, False, marks[i][1], True) for i in sorted(remaining)]
    return out


def slow_curve(samples: list[Sample], scans: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """False positives a scan and sensitivity, by scikit-learn's ROC of what was marked, as the script does it."""
    marked = [s for s in samples if s.marked]
    nodules = sum(s.is_nodule for s in samples)
    found = sum(s.is_nodule for s in marked)
    if found in (0, len(marked)):  # no hits: the script divides by zero; no false positives: its curve is a point
        return np.zeros(1), np.array([found / nodules])
    fpr, tpr, _ = roc_curve([s.is_nodule for s in marked], [s.score for s in marked])
    return fpr * (len(marked) - found) / scans, tpr * found / nodules


def random_case(seed: int) -> tuple[Findings, Findings, list[str], Marks]:
    """Scans with everything that is hard: ties, crowds, doubles, overlapping nodules, marks on edges, empty scans."""
    random = np.random.default_rng(seed)
    series = [f"1.2.{k}" for k in random.permutation(int(random.integers(1, 30)))]
    some = series[: max(1, len(series) // 2)]  # half of the scans hold nothing known

    def place(n: int) -> np.ndarray:  # type: ignore[type-arg]
        return random.integers(0, 30, (n, 3)).astype(float)  # on a lattice, so that distances equal radii

    def findings(n: int, where: list[str]) -> Findings:
        diameter = random.choice([-1.0, 0.0, 4.0, 6.0, 10.0, 12.5], n)
        return Findings(tuple(random.choice(where, n)), place(n), diameter)

    annotations = findings(int(random.integers(1, 40)), [*some, "elsewhere"])
    annotations = Findings((some[0], *annotations.series[1:]), annotations.centre_lps, annotations.diameter_mm)
    excluded = findings(int(random.integers(0, 60)), [*series, "elsewhere"])
    spread = place(int(random.integers(0, 200)))
    near = annotations.centre_lps.repeat(2, axis=0) + random.integers(-3, 4, (2 * len(annotations.series), 3))
    at = [uid for uid in np.repeat(annotations.series, 2)]
    known = [i for i, uid in enumerate(at) if uid != "elsewhere"]
    crowd = place(int(random.choice([0, 100, 101, 150])))  # all in one scan
    uids = (*random.choice(series, len(spread)), *(at[i] for i in known), *([series[-1]] * len(crowd)))
    levels = int(random.choice([2, 5, 1000]))
    return annotations, excluded, series, Marks(
        tuple(map(str, uids)),
        np.concatenate([spread, near[known], crowd]),
        random.integers(0, levels, len(uids)) / levels,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_agrees_with_the_rules_in_plain_loops(seed: int) -> None:
    case = random_case(seed)
    result, truth = froc(*case), slow(*case)
    nodules = [s for s in truth.samples if s.is_nodule]
    assert (result.nodules, result.true_positives) == (len(nodules), sum(s.marked for s in nodules))
    assert result.false_negatives == sum(not s.marked for s in nodules)
    assert result.false_positives == sum(not s.is_nodule for s in truth.samples)
    assert result.tally.candidates == truth.candidates
    assert result.tally.ignored_double == truth.double
    assert result.tally.ignored_on_excluded == truth.on_excluded
    fp_rate, sensitivity = slow_curve(truth.samples, len(case[2]))
    rates = np.concatenate([FP_RATES, GRID, np.arange(300) / len(case[2])])  # where k false positives fall exactly
    np.testing.assert_allclose(result.sensitivity_at(rates), np.interp(rates, fp_rate, sensitivity), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_resamples_agree_with_lists_of_scans(seed: int) -> None:
    annotations, excluded, series, marks = random_case(seed)
    result, truth = froc(annotations, excluded, series, marks), slow(annotations, excluded, series, marks)
    interval = bootstrap(result, samples=64, seed=seed, confidence=0.75)
    random, curves = np.random.default_rng(seed), []
    while len(curves) < 64:
        drawn = [series[k] for k in random.integers(len(series), size=len(series))]
        samples = [s for uid in drawn for s in truth.samples if s.scan == uid]
        if any(s.is_nodule for s in samples):
            curves.append(np.interp(GRID, *slow_curve(samples, len(series))))
    ranked = np.sort(curves, axis=0)
    np.testing.assert_allclose(interval.mean, ranked.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(interval.low, ranked[8], atol=1e-12)
    np.testing.assert_allclose(interval.high, ranked[56], atol=1e-12)
    np.testing.assert_allclose(interval.cpms, [np.interp(FP_RATES, GRID, c).mean() for c in curves], atol=1e-12)
    assert interval.cpm[0] <= interval.cpms.mean() <= interval.cpm[1]


# LUNA16's own example.


@pytest.fixture(scope="module")
def luna16(shared: Path) -> Path:
    return shared / "luna16"


@pytest.fixture(scope="module")
def example(luna16: Path) -> Froc:
    series = read_series(luna16 / "seriesuids.csv")
    return froc(
        read_findings_table(luna16 / "annotations.csv"),
        read_findings_table(luna16 / "annotations_excluded.csv", unique=False),
        series,
        read_predictions(luna16 / "example_predictions.csv", series),
    )


def test_every_figure_of_the_official_script_is_met(luna16: Path, run: Run) -> None:
    expected = json.loads((luna16 / "example_expected.json").read_text())
    names = {"annotations": "annotations", "excluded": "annotations_excluded", "series": "seriesuids"}
    options = [f for o, name in names.items() for f in (f"--{o}", luna16 / f"{name}.csv")]
    code, out, err = run("evaluate", "froc", *options, "--predictions", luna16 / "example_predictions.csv", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-9, err_msg=key)
    assert found["candidates"] == sum(
        found[k] for k in ("true_positives", "false_positives", "ignored_on_excluded", "ignored_double")
    )
    assert found["marks"] == 13062 and "bootstrap" not in found


def test_the_interval_of_the_example_holds_its_figure_and_repeats(example: Froc) -> None:
    one, again, other = bootstrap(example, 200), bootstrap(example, 200), bootstrap(example, 200, seed=1)
    assert one.cpm == again.cpm != other.cpm
    low, high = one.cpm
    assert low < example.cpm < high and 0.03 < high - low < 0.08
    assert np.all(one.low <= one.mean) and np.all(one.mean <= one.high)
    assert np.all(np.abs(one.mean - example.sensitivity_at(GRID)) < 0.01)


def test_bands_of_size_share_the_false_positives_and_add_up(example: Froc) -> None:
    bands = by_size(example)
    assert sum(band.froc.nodules for band in bands) == example.nodules
    assert sum(band.froc.true_positives for band in bands) == example.true_positives
    assert {band.froc.false_positives for band in bands} == {example.false_positives}
    # The curve of all is, at each score, the nodules found in all bands together.
    found = sum(band.froc.sensitivity_at(FP_RATES[3]) * band.froc.nodules for band in bands)
    assert found / example.nodules == pytest.approx(float(example.sensitivity_at(FP_RATES[3])), abs=2e-3)
    with pytest.raises(BadOption, match="each above the one before"):
        by_size(example, (8, 6))
    assert [(b.lo_mm, b.hi_mm) for b in by_size(example, (0, 1, 100))] == [(1, 100)]  # nothing below 1 mm


def test_the_curve_is_what_the_thresholds_give(example: Froc) -> None:
    assert example.thresholds[0] == np.inf and np.all(np.diff(example.thresholds) < 0)
    assert np.all(np.diff(example.fp_rate) >= 0) and np.all(np.diff(example.sensitivity) >= 0)
    for point in (0, 1, 500, len(example.thresholds) - 1):
        threshold = example.thresholds[point]
        assert example.fp_rate[point] == pytest.approx(np.sum(example.false_score >= threshold) / example.scans)
        assert example.sensitivity[point] == pytest.approx(np.sum(example.nodule_score >= threshold) / example.nodules)


# Cases worked by hand.


def findings(*rows: tuple[str, float, float]) -> Findings:
    """(series, x, diameter), on the x axis."""
    return Findings(tuple(r[0] for r in rows), on_axis([r[1] for r in rows]), np.array([r[2] for r in rows], float))


def marks(*rows: tuple[str, float, float]) -> Marks:
    """(series, x, score), on the x axis."""
    return Marks(tuple(r[0] for r in rows), on_axis([r[1] for r in rows]), np.array([r[2] for r in rows], float))


def on_axis(x: Sequence[float]) -> np.ndarray:  # type: ignore[type-arg]
    return np.stack([np.asarray(x, float), np.zeros(len(x)), np.zeros(len(x))], axis=1)


def test_by_hand() -> None:
    """Two scans, three nodules: found at 0.9 and 0.5, missed; false positives at 0.7 and 0.5."""
    result = froc(
        findings(("a", 0, 10), ("a", 100, 10), ("b", 0, 10)),
        findings(("b", 50, -1)),
        ["a", "b"],
        marks(("a", 1, 0.9), ("a", 2, 0.8), ("a", 50, 0.7), ("b", 1, 0.5), ("b", 90, 0.5), ("b", 54, 0.99)),
    )
    assert (result.true_positives, result.false_negatives, result.false_positives) == (2, 1, 2)
    assert (result.tally.ignored_double, result.tally.ignored_on_excluded) == (1, 1)
    np.testing.assert_array_equal(result.thresholds, [np.inf, 0.9, 0.7, 0.5])
    np.testing.assert_allclose(result.fp_rate, [0, 0, 0.5, 1])
    np.testing.assert_allclose(result.sensitivity, [0, 1 / 3, 1 / 3, 2 / 3])
    # At 1/8, 1/4 and 1/2 one third, then two thirds, flat past the last false positive.
    np.testing.assert_allclose(result.sensitivity_at([0.125, 0.75, 1, 8]), [1 / 3, 1 / 2, 2 / 3, 2 / 3])
    assert result.cpm == pytest.approx((3 / 3 + 4 * 2 / 3) / 7)


@pytest.mark.parametrize(("x", "found"), [(4.999999, 1), (5.0, 0), (-5.0, 0)])
def test_a_mark_on_the_very_edge_misses(x: float, found: int) -> None:
    assert froc(findings(("a", 0, 10)), None, ["a"], marks(("a", x, 1))).true_positives == found


@pytest.mark.parametrize(("x", "ignored"), [(4.9, 1), (5.0, 0)])
def test_an_excluded_finding_without_a_diameter_counts_with_ten_millimetres(x: float, ignored: int) -> None:
    result = froc(findings(("a", 99, 10)), findings(("a", 0, -1)), ["a"], marks(("a", x, 1)))
    assert result.tally.ignored_on_excluded == ignored
    assert result.false_positives == 1 - ignored


def test_a_nodule_goes_before_an_excluded_finding() -> None:
    result = froc(findings(("a", 0, 10)), findings(("a", 0, 10)), ["a"], marks(("a", 0, 0.5)))
    assert (result.true_positives, result.tally.ignored_on_excluded) == (1, 0)


def test_one_mark_can_find_two_nodules() -> None:
    result = froc(findings(("a", 0, 10), ("a", 4, 10)), None, ["a"], marks(("a", 2, 0.5)))
    assert (result.true_positives, result.false_positives, result.tally.ignored_double) == (2, 0, 0)


@pytest.mark.parametrize(("scores", "kept"), [
    (np.arange(100), 100),
    (np.arange(150), 100),
    (np.where(np.arange(150) < 60, 2.0, 1.0), 60),  # the 101st ties with 90 others: all of them go
    (np.ones(101), 0),
    (np.ones(100), 100),
])  # fmt: skip
def test_of_a_crowd_those_above_the_101st_are_kept(scores: np.ndarray, kept: int) -> None:  # type: ignore[type-arg]
    crowd = Marks(("a",) * len(scores), on_axis(1000 + 100 * np.arange(len(scores))), scores)
    result = froc(findings(("a", 0, 10)), None, ["a", "b"], crowd)
    assert result.false_positives == result.tally.candidates == kept
    assert result.tally.marks == len(scores)


def test_no_marks_and_no_hits_give_nothing_and_no_false_positives_all() -> None:
    nodule = findings(("a", 0, 10), ("b", 0, 10))
    nothing = froc(nodule, None, ["a", "b"], marks())
    assert nothing.cpm == 0 and nothing.false_negatives == 2
    np.testing.assert_array_equal(nothing.thresholds, [np.inf])
    assert bootstrap(nothing, 10).cpm == (0, 0)
    assert froc(nodule, None, ["a", "b"], marks(("a", 50, 1))).cpm == 0
    half = froc(nodule, None, ["a", "b"], marks(("a", 0, 1)))
    assert half.cpm == 0.5 and half.fp_rate[-1] == 0


def test_scans_without_anything_count() -> None:
    few = froc(findings(("a", 0, 10)), None, ["a"], marks(("a", 0, 0.5), ("a", 50, 0.9)))
    many = froc(findings(("a", 0, 10)), None, ["a", *map(str, range(7))], marks(("a", 0, 0.5), ("a", 50, 0.9)))
    assert few.fp_rate[-1] == 1 and many.fp_rate[-1] == 0.125
    assert many.cpm == 1 and few.cpm == pytest.approx(4 / 7)


def test_nodules_in_other_series_are_counted_and_left_out() -> None:
    result = froc(findings(("a", 0, 10), ("z", 0, 10)), findings(("z", 0, 10)), ["a"], marks(("a", 0, 0.5)))
    assert (result.nodules, result.tally.nodules_elsewhere, result.cpm) == (1, 1, 1.0)


def test_what_cannot_be_scored_is_an_error() -> None:
    nodule = findings(("a", 0, 10))
    with pytest.raises(BadValues, match="series x and 1 more"):
        froc(nodule, None, ["a"], marks(("x", 0, 1), ("y", 0, 1)))
    with pytest.raises(BadValues, match="names one twice"):
        froc(nodule, None, ["a", "a"], marks())
    with pytest.raises(BadValues, match="No nodule"):
        froc(nodule, None, ["b"], marks())
    with pytest.raises(BadValues, match="score holds NaN or infinity, first in row 1"):
        marks(("a", 0, 1), ("a", 0, np.nan))
    with pytest.raises(BadValues, match="shape"):
        Findings(("a",), np.zeros((1, 2)), np.zeros(1))
    result = froc(nodule, None, ["a"], marks())
    with pytest.raises(BadOption, match="confidence"):
        bootstrap(result, confidence=1.0)
    with pytest.raises(BadValues, match="at least one of the 1 nodules"):
        result.among(np.array([False]))


# Files and the command.

TRUTH = "seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,10\n"
FOUND = "seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,0.5\nb,50,2,3,0.25\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = {"annotations": TRUTH, "series": "a\nb\n", "predictions": FOUND}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text, "utf-8")
    return {name: tmp_path / f"{name}.csv" for name in texts}


def options(files: dict[str, Path]) -> list[str | Path]:
    return [word for name, path in files.items() for word in (f"--{name}", path)]


def test_the_command_prints_a_table_and_json(files: dict[str, Path], run: Run) -> None:
    code, out, err = run("evaluate", "froc", *options(files), "--bootstrap", 20, "--seed", 3)
    assert (code, err) == (0, "") and "CPM" in out and "false positives" in out and "95% from" in out
    code, out, _ = run("evaluate", "froc", *options(files), "--bootstrap", 20, "--seed", 3, "--json")
    found = json.loads(out)
    assert found["sensitivity"] == [1.0] * 7 and found["false_positives"] == 1 and found["scans"] == 2
    assert found["bootstrap"]["cpm"] == [1.0, 1.0] and found["bootstrap"]["seed"] == 3
    assert len(found["bootstrap"]["sensitivity_low"]) == 7 and len(found["bootstrap"]["curve"]["fp_per_scan"]) == len(
        GRID
    )
    assert found["by_size"][0] == {
        "lo_mm": 8.0, "hi_mm": 15.0, "nodules": 1, "true_positives": 1, "sensitivity": [1.0] * 7, "cpm": 1.0,
    }  # fmt: skip


def test_one_scan_has_no_interval(files: dict[str, Path], run: Run) -> None:
    files["series"].write_text("a\n")
    files["predictions"].write_text(FOUND.partition("b,")[0])
    refused(run("evaluate", "froc", *options(files), "--bootstrap", 20), "no interval; leave --bootstrap out")
    assert run("evaluate", "froc", *options(files)).code == 0


@pytest.mark.parametrize(("name", "text"), [
    ("predictions", "\ufeff" + FOUND),  # as Excel saves it
    ("predictions", FOUND.replace("\n", "\r\n")),
    ("predictions", FOUND.replace("seriesuid,coordX", "SeriesUID, CoordX")),
    ("predictions", FOUND + "\n\n"),
    ("predictions", "id,probability,seriesuid,coordZ,coordY,coordX\n7,0.5,a,3,2,1\n8,0.25,b,3,2,50\n"),
    ("predictions", FOUND.replace("0.5", "5e-1").replace("a,", '"a",')),
    ("series", "seriesuid\na\nb\n"),
    ("series", "\ufeffa\nb"),
])  # fmt: skip
def test_harmless_differences_change_nothing(name: str, text: str, files: dict[str, Path], run: Run) -> None:
    _, before, _ = run("evaluate", "froc", *options(files), "--json")
    files[name].write_bytes(text.encode())
    assert run("evaluate", "froc", *options(files), "--json") == (0, before, "")


@pytest.mark.parametrize(("name", "text", "message"), [
    ("predictions", "", "predictions.csv is empty; it needs a header with the columns seriesuid, coordX"),
    ("predictions", FOUND.replace("probability", "score"), "predictions.csv, line 1: no column probability in"),
    ("predictions", FOUND.replace(",", ";"), "divided by ';'; divide them by commas"),
    ("predictions", FOUND.replace(",", "\t"), "divided by '\\t'; divide them by commas"),
    ("predictions", FOUND.replace("coordY", "coordx"), "no column coordY"),
    ("predictions", FOUND.replace("\n", ",radius\n", 1), "line 2: 5 cells where the header has 6"),
    ("predictions", FOUND.replace("50,2", "nan,2"), "line 3: coordX is 'nan', which is no finite number"),
    ("predictions", FOUND.replace("0.25", "inf"), "line 3: probability is 'inf'"),
    ("predictions", FOUND.replace("0.25", ""), "line 3: probability is ''"),
    ("predictions", FOUND.replace("0.5", '"0,5"'), "line 2: probability is '0,5'"),
    ("predictions", FOUND.replace("0.5", "0.5,9"), "line 2: 6 cells where the header has 5"),
    ("predictions", FOUND.replace("a,", '"a,'), "unexpected end of data"),
    ("predictions", FOUND + "c,1,2,3,0.5\n", "line 4: series c is not listed; 1 rows"),
    ("predictions", "coordX,coordX,coordY,coordZ,seriesuid,probability\n", "the column coordX stands there twice"),
    ("annotations", TRUTH.replace("10", "ten"), "annotations.csv, line 2: diameter_mm is 'ten'"),
    ("annotations", TRUTH + "a,1,2,3,10\n", "annotations.csv, line 3 repeats line 2"),
    ("annotations", TRUTH.replace("a,1", "z,1"), "No nodule is annotated in the listed series"),
    ("series", "", "series.csv is empty"),
    ("series", "seriesuid\n", "series.csv is empty"),
    ("series", "a\nb\na\n", "series.csv, line 3 repeats line 1"),
    ("series", "a,1\nb,2\n", "line 1: 2 cells where one is expected"),
])  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(
    name: str, text: str, message: str, files: dict[str, Path], run: Run
) -> None:
    files[name].write_text(text, "utf-8")
    code, out, err = run("evaluate", "froc", *options(files), "--json")
    assert (code, out) == (2, "")
    assert message in err and "fault" not in err


def test_a_missing_file_and_one_that_is_no_text(files: dict[str, Path], run: Run) -> None:
    files["annotations"].write_bytes(TRUTH.encode("utf-16"))
    code, _, err = run("evaluate", "froc", *options(files))
    assert code == 2 and "no text in UTF-8" in err
    files["annotations"].unlink()
    code, _, err = run("evaluate", "froc", *options(files))
    assert code == 2 and "There is no file" in err


def test_a_file_without_marks_scores_nothing(files: dict[str, Path], run: Run) -> None:
    files["predictions"].write_text(FOUND.split("\n")[0] + "\n", "utf-8")
    code, out, _ = run("evaluate", "froc", *options(files), "--json")
    assert code == 0
    scored = json.loads(out)
    assert scored["cpm"] == 0 and scored["sensitivity"] == [0] * 7


def test_a_repeated_mark_is_a_second_hit(files: dict[str, Path], run: Run) -> None:
    _, before, _ = run("evaluate", "froc", *options(files), "--json")
    files["predictions"].write_text(FOUND + "a,1,2,3,0.5\n", "utf-8")
    code, out, _ = run("evaluate", "froc", *options(files), "--json")
    assert code == 0
    assert json.loads(out)["sensitivity"] == json.loads(before)["sensitivity"]


def test_the_excluded_findings_may_repeat_themselves(files: dict[str, Path], run: Run) -> None:
    _, before, _ = run("evaluate", "froc", *options(files), "--json")
    files["excluded"] = files["series"].with_name("excluded.csv")
    files["excluded"].write_text(TRUTH.replace("a,1", "b,48") + "b,48,2,3,10\n", "utf-8")
    _, out, _ = run("evaluate", "froc", *options(files), "--json")
    assert json.loads(before)["false_positives"] == 1
    assert json.loads(out)["false_positives"] == 0 and json.loads(out)["ignored_on_excluded"] == 1


# Reports of nodulens.


def test_reports_are_marks(report: Report, tmp_path: Path) -> None:
    one, empty = replace(report, series_uid="a"), replace(report, series_uid="b", nodules=())
    found = marks_of([one, empty])
    assert found.series == ("a",) * len(one.nodules)
    np.testing.assert_array_equal(found.centre_lps, [n.centre_lps for n in one.nodules])
    np.testing.assert_array_equal(found.score, [n.score for n in one.nodules])
    for each in (one, empty):
        (tmp_path / str(each.series_uid)).mkdir()
        (tmp_path / str(each.series_uid) / "report.json").write_text(to_json(each), "utf-8")
    read = read_predictions(tmp_path, ["a", "b"])
    assert read.series == found.series and np.array_equal(read.centre_lps, found.centre_lps)
    truth = Findings(("a",), np.array([one.nodules[0].centre_lps]), np.array([8.0]))
    assert froc(truth, None, ["a", "b"], read).true_positives == 1
    with pytest.raises(NotFound, match=r"no report\.json of series c"):  # a scan never analysed is no empty scan
        read_predictions(tmp_path, ["a", "b", "c"])
    with pytest.raises(BadValues, match="series b is not in the list"):
        read_predictions(tmp_path, ["a"])
    (tmp_path / "b" / "report.json").write_text("{}", "utf-8")
    with pytest.raises(UnreadableFile, match=r"report\.json: Not a valid report"):
        read_predictions(tmp_path, ["a", "b"])


@pytest.mark.parametrize(("changes", "message"), [
    ({"series_uid": None, "input_sha256": "0"}, "names no series UID"),
    ({"series_uid": "a", "prompted": True}, "a person pointed at"),
    ({"series_uid": "b"}, "Two reports on series b"),
])  # fmt: skip
def test_reports_that_are_no_detection_are_refused(changes: dict[str, object], message: str, report: Report) -> None:
    with pytest.raises(InputError, match=message):
        marks_of([replace(report, series_uid="b"), replace(report, **changes)])


def test_the_marks_of_the_example_are_read_as_they_stand(luna16: Path) -> None:
    path = luna16 / "example_predictions.csv"
    read = read_predictions(path, read_series(luna16 / "seriesuids.csv"))
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["probability"]) for row in rows] == read.score.tolist()
    assert [float(row["coordZ"]) for row in rows] == read.centre_lps[:, 2].tolist()


def test_the_page_says_what_is_so(
    luna16: Path, example: Froc, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(from nodulens\.data\.luna16 .*?)^```$", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(luna16)
    exec(compile(code, "evaluation.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0.75415562515056")
    figures = f"{example.nodules:,} nodules, {example.true_positives:,} found, {example.false_positives:,} false"
    assert figures in page and f"CPM {example.cpm:.5f}" in page
