"""Comparisons of methods: paired figures against independent computations, what is refused, and what is said of it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from conftest import REPOSITORY, Run, refused
from nodulens.errors import BadOption, BadValues, NotFound, PatientOverlap, UnreadableFile
from nodulens.evaluate.comparison import compare
from nodulens.evaluate.entrants import Entrant, entrants_of
from nodulens.evaluate.predictions import Prediction, predictions_text, read_predictions
from nodulens.metrics.classification import auc
from nodulens.metrics.paired import Resampling, paired_auc, paired_decisions, paired_means
from nodulens.metrics.statistics import resamples
from nodulens.presentation.evaluation import from_json

FEW = Resampling(samples=200, seed=3)


def cohort(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), scores of three methods (3, n) with ties, and patients (n,) of one nodule to four."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.round(labels * np.array([[1.0], [0.5], [0.1]]) + rng.normal(0, 1, (3, n)), 1)
    return labels, scores, np.array([f"P{k}" for k in rng.integers(0, n // 2, n)])


def classified(seed: int = 0, shift: float = 0.0, patients: int = 30) -> tuple[Prediction, ...]:
    """Two nodules a patient, scored with noise."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(2 * patients):
        truth = "malignant" if k % 3 == 0 else "benign"
        score = float(rng.normal(shift if k % 3 == 0 else 0.0, 1))
        called = "malignant" if score > 0 else "benign"
        out.append(Prediction("classifier", "", f"nodule {k}", f"P{k // 2}", 1, truth, score, called))
    return tuple(out)


def outlined(seed: int, level: float, items: int = 40) -> tuple[Prediction, ...]:
    rng = np.random.default_rng(seed)
    dice = np.clip(level + rng.normal(0, 0.1, items), 0, 1)
    return tuple(
        Prediction("segmenter", "nodule", f"slice {k}", f"P{k // 4}", 1, "1", dice=float(dice[k])) for k in range(items)
    )


# ---------------------------------------------------------------- figures


def test_auc_is_compared_as_delong_and_a_plain_bootstrap_do() -> None:
    """DeLong's variance by the pairs of its definition; every draw of the bootstrap by hand."""
    labels, scores, patients = cohort()
    found = paired_auc(labels, scores, patients, FEW)
    assert [f.value for f in found.figures] == pytest.approx([auc(labels, s) for s in scores])
    assert [(d.first, d.second) for d in found.differences] == [(0, 1), (0, 2), (1, 2)]
    for one in found.differences:
        pair = scores[[one.first, one.second]]
        draws = []
        for rows in resamples(patients, samples=FEW.samples, seed=FEW.seed):
            a, b = (auc(labels[rows], s[rows]) for s in pair)
            draws.append(a - b)
        assert (one.interval.low, one.interval.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))))
        wins = [
            np.array([[(p > n) + 0.5 * (p == n) for n in s[labels == 0]] for p in s[labels == 1]], float) for s in pair
        ]
        above, below = (np.array([w.mean(axis) for w in wins]) for axis in (1, 0))
        spread = np.cov(above) / above.shape[1] + np.cov(below) / below.shape[1]
        z = (wins[0].mean() - wins[1].mean()) / np.sqrt(spread[0, 0] + spread[1, 1] - 2 * spread[0, 1])
        assert one.details["z"] == pytest.approx(z)
        assert one.p_value == pytest.approx(2 * stats.norm.sf(abs(z))) and one.test == "DeLong"


def test_decisions_are_compared_by_the_cases_that_one_alone_has_right() -> None:
    _, _, patients = cohort()
    right = np.random.default_rng(1).random((2, len(patients))) < [[0.9], [0.6]]
    [one] = paired_decisions(right, patients, FEW).differences
    only = [int((right[k] & ~right[1 - k]).sum()) for k in (0, 1)]
    assert list(one.details.values()) == only and one.interval.value == pytest.approx((only[0] - only[1]) / 60)
    exact = stats.binomtest(only[0], sum(only)).pvalue
    assert one.p_value == pytest.approx(exact - stats.binom.pmf(only[0], sum(only), 0.5)), "mid-p"


def test_means_are_compared_by_the_means_of_patients() -> None:
    _, values, patients = cohort()
    found = paired_means(values, patients, FEW)
    assert [f.value for f in found.figures] == pytest.approx(values.mean(axis=1))
    for one in found.differences:
        gap = values[one.first] - values[one.second]
        by_patient = [
            values[one.first][patients == p].mean() - values[one.second][patients == p].mean()
            for p in np.unique(patients)
        ]
        moved = [g for g in by_patient if g]
        assert one.p_value == pytest.approx(stats.wilcoxon(moved).pvalue)
        draws = [gap[rows].mean() for rows in resamples(patients, samples=FEW.samples, seed=FEW.seed)]
        assert (one.interval.low, one.interval.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))))


def test_one_method_alone_is_no_comparison() -> None:
    with pytest.raises(BadValues, match="two methods"):
        paired_means([[1.0, 2.0]], ["a", "b"])
    with pytest.raises(BadOption, match="two runs or files"):
        compare([Entrant("a", classified())])


# ---------------------------------------------------------------- comparisons


def test_items_of_all_methods_are_compared_and_the_rest_is_counted() -> None:
    a, b = classified(0, 2.0), classified(1, 0.2)
    few = b[10:]
    found = compare([Entrant("a", a), Entrant("b", few)], FEW)
    [part] = found.parts
    assert (part.name, part.items, part.patients) == ("classifier", 50, 25)
    assert part.left_out == {"a": 10, "b": 0}
    figures = {one.name: one for one in part.figures}
    assert list(figures) == ["AUC", "accuracy", "sensitivity", "specificity"]
    labels = [one.truth == "malignant" for one in a[10:]]
    assert figures["AUC"].values["a"].value == round(auc(labels, [one.score for one in a[10:]]), 4)
    right = np.mean([one.called == one.truth for one in few])
    assert figures["accuracy"].values["b"].value == round(float(right), 4)
    assert figures["sensitivity"].items == sum(labels) and figures["specificity"].items == 50 - sum(labels)
    p = [pair.p_value for figure in part.figures for pair in figure.pairs]
    order = np.argsort(p)
    by_hand = np.maximum.accumulate(np.sort(p) * np.arange(4, 0, -1)).clip(max=1)
    assert [part.figures[k].pairs[0].p_holm for k in order] == pytest.approx(list(by_hand))


def test_the_better_one_is_told_from_the_worse_and_like_from_like_is_not() -> None:
    better, worse = Entrant("better", outlined(0, 0.8)), Entrant("worse", outlined(1, 0.6))
    same = Entrant("same", outlined(2, 0.8))
    [part] = compare([better, worse, same], FEW).parts
    pairs = {(one.first, one.second): one for one in part.figures[0].pairs}
    assert part.name == "segmenter: nodule" and part.figures[0].name == "Dice"
    gap = pairs["better", "worse"]
    assert gap.p_holm is not None and gap.p_holm < 0.01 and gap.difference.low is not None and gap.difference.low > 0.1
    alike = pairs["better", "same"].difference
    assert alike.low is not None and alike.high is not None and alike.low < 0 < alike.high


def test_structures_count_where_every_grid_shows_them() -> None:
    a, b = outlined(0, 0.8), outlined(1, 0.8)
    b = (replace(b[0], truth="0", dice=0.0), *b[1:])
    [part] = compare([Entrant("a", a), Entrant("b", b)], FEW).parts
    assert part.items == 39 and part.left_out == {"a": 1, "b": 0}


def test_nobody_is_compared_on_whom_one_has_learnt_from() -> None:
    seen = Entrant("seen", classified(0), trained_on=frozenset({"P3", "P4"}))
    with pytest.raises(PatientOverlap, match=r"2 patients in both the training of seen and the comparison: P3, P4"):
        compare([seen, Entrant("b", classified(1))])
    apart = Entrant("apart", classified(1)[:4], trained_on=frozenset({"P9"}))
    other = Entrant("other", classified(2)[8:], trained_on=frozenset())
    with pytest.raises(PatientOverlap, match="the training of apart and the test of other"):
        compare([apart, other])


def test_what_has_nothing_in_common_is_refused() -> None:
    with pytest.raises(BadValues, match="no item in common"):
        compare([Entrant("a", classified()), Entrant("b", outlined(0, 0.5))])


@pytest.mark.parametrize(("field", "value"), [("truth", "malignant"), ("patient", "P99")])
def test_one_item_has_one_truth_and_one_patient(field: str, value: str) -> None:
    a = classified()
    b = (a[0], replace(a[1], **{field: value}), *a[2:])
    with pytest.raises(BadValues, match=rf"1 of 60 common items differ in their {field}: 'nodule 1' has .* in a, "):
        compare([Entrant("a", a), Entrant("b", b)])


def test_what_is_not_compared_is_said() -> None:
    a = classified() + outlined(0, 0.5)
    b = tuple(replace(one, called=None) for one in classified(1))
    found = compare([Entrant("a", a, frozenset()), Entrant("b", b)], FEW)
    assert [figure.name for figure in found.parts[0].figures] == ["AUC"]
    record, alone, decisions = found.notes
    assert record.startswith("b has no record of its training patients")
    assert alone == "segmenter: nodule is not compared: a alone has it."
    assert "column called is not filled" in decisions


@pytest.mark.parametrize("names", [("Cancer", "Healthy"), ("malignant", "malignant")])
def test_classes_that_are_not_ranked_are_said(names: tuple[str, str]) -> None:
    a, b = (tuple(replace(one, truth=names[one.truth == "benign"]) for one in classified(k)) for k in (0, 1))
    [part], notes = (found := compare([Entrant("a", a), Entrant("b", b)], FEW)).parts, found.notes
    assert "AUC" not in [figure.name for figure in part.figures]
    assert notes[-1].endswith(f"and the truth has {', '.join(dict.fromkeys(names))}.")


def test_three_classes_are_decided_and_two_are_ranked() -> None:
    a, b = (
        tuple(replace(one, truth="indeterminate") if k < 6 else one for k, one in enumerate(classified(s)))
        for s in (0, 1)
    )
    [part] = compare([Entrant("a", a), Entrant("b", b)], FEW).parts
    counted = {figure.name: figure.items for figure in part.figures}
    assert (counted["AUC"], counted["accuracy"]) == (54, 60)


# ---------------------------------------------------------------- files


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    both = classified() + outlined(0, 0.5)
    (tmp_path / "predictions.csv").write_text(predictions_text(both))
    assert read_predictions(tmp_path / "predictions.csv") == both


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("item,patient,score\na,P,1\n", UnreadableFile, "no column truth"),
        ("item,patient,truth,score\n", BadValues, "holds no prediction"),
        ("item,patient,truth,score\na,P,1,0.5\na,P,1,0.7\n", BadValues, "line 3 is about 'a', as line 2 is"),
        ("item,patient,truth,score\na,,1,0.5\n", BadValues, "line 2: patient is empty"),
        ("item,patient,truth,score\na,P,1,nan\n", BadValues, "line 2: score is 'nan'"),
        ("item,patient,truth,score\na,P,1,\n", BadValues, "line 2: a prediction has a score, or the Dice"),
        ("item,patient,truth,dice\na,P,nodule,0.5\n", BadValues, "got 0.5 and 'nodule'"),
        ("item,patient,truth,dice\na,P,1,1.5\n", BadValues, "Dice is from 0 to 1"),
    ],
)
def test_a_file_that_cannot_be_compared_says_where(
    tmp_path: Path, text: str, error: type[Exception], told: str
) -> None:
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(error, match=told):
        read_predictions(tmp_path / "own.csv")


def test_files_are_compared_by_the_command(tmp_path: Path, run: Run) -> None:
    """A file of our own columns, and one of no more than there must be."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "predictions.csv").write_text(predictions_text(classified(0, 2.0)))
    rows = "".join(f"{one.item},{one.patient},{one.truth},{one.score!r},classifier\n" for one in classified(1))
    (tmp_path / "second.csv").write_text(f"item,patient,truth,score,network\n{rows}")
    words = ("evaluate", "compare", tmp_path / "first", tmp_path / "second.csv")
    done = run(*words, "-o", tmp_path / "page", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["methods"] == ["first", "second"] and found["schema"] == "nodulens-comparison/1"
    assert found == json.loads((tmp_path / "page" / "comparison.json").read_text())
    page = from_json((tmp_path / "page" / "evaluation.json").read_text())
    assert page.title == "first against second" and page.drawings[0].title == "ROC, classifier"
    assert page.provenance.inputs.keys() == {"first: predictions.csv", "second: second.csv"} and page.provenance.seeds
    [figure] = found["parts"][0]["figures"]
    shown = run(*words).out
    for told in ("classifier: 60 items of 30 patients", "first − second", "DeLong", "no record of its training"):
        assert told in shown
    assert f"{figure['pairs'][0]['p_holm']:.2g}" in shown
    assert len(shown.splitlines()) <= 40 and max(map(len, shown.splitlines()[:-4])) <= 100


def test_the_example_runs(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of docs/evaluation.md, on pages whose predictions are there."""
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    [words] = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("$ nodulens evaluate compare")]
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("first-page", "second-page")):
        Path(name).mkdir()
        Path(name, "predictions.csv").write_text(predictions_text(classified(number)))
    done = run(*words)
    assert done.code == 0 and done.out.endswith("comparison/evaluation.html\n")


def test_places_that_are_no_method_are_refused(tmp_path: Path, outliners: Path, run: Run) -> None:
    (tmp_path / "a.csv").write_text(predictions_text(classified()))
    refused(run("evaluate", "compare", tmp_path / "a.csv", tmp_path / "b.csv"), "no run of nodulens train", "b.csv")
    refused(run("evaluate", "compare", tmp_path / "a.csv"), "two runs or files of predictions at least, got 1")
    with pytest.raises(BadOption, match="named twice"):
        entrants_of([tmp_path / "a.csv", tmp_path / "." / "a.csv"])
    with pytest.raises(BadOption, match="--data DIR"):
        entrants_of([outliners, tmp_path / "a.csv"])
    with pytest.raises(NotFound):
        entrants_of([tmp_path])


def test_places_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command is run: two methods of one name would be one in every table."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in ("one/page", "two/page", "three/in/page"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "predictions.csv").write_text(predictions_text(classified()))
    (tmp_path / "page.csv").write_text(predictions_text(classified()))
    (tmp_path / "page.txt").write_text(predictions_text(classified()))
    for places, names in (
        (("one/page", "two/page"), ["one/page", "two/page"]),
        (("one/page/predictions.csv", "three/in/page"), ["one/page", "in/page"]),
        (("page.csv", "page.txt"), ["page.csv", "page.txt"]),
        (("one", "page.csv"), ["one", "page"]),
    ):
        if places[0] == "one":
            (tmp_path / "one" / "predictions.csv").write_text(predictions_text(classified()))
        assert [one.name for one in entrants_of([tmp_path / place for place in places])] == names
