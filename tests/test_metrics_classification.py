"""Classification metrics, against scikit-learn, plain loops over all pairs and published worked examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from conftest import REPOSITORY
from nodulens.errors import BadOption, BadValues
from nodulens.metrics.classification import (
    Confusion,
    auc,
    auc_by_group,
    average_precision,
    calibration,
    confusion,
    curve,
    delong,
    delong_test,
    macro_auc,
    matched_auc,
    ranking_draws,
)
from nodulens.metrics.statistics import Groups, Interval, bootstrap, percentiles

Case = tuple[NDArray, NDArray, NDArray | None]


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(2)
    y = rng.random(150) < 0.3
    s = rng.normal(y * 1.0, 1)
    return {
        "plain": (y, s, None),
        "ties": (y, np.round(s), None),
        "weights": (y, s, rng.random(150)),
        "ties and weights, some zero": (y, np.round(s), rng.integers(0, 3, 150).astype(float)),
        "perfect": (y, y + 0.0, None),
        "reversed": (y, -s, None),
        "constant": (y, np.ones(150), None),
        "one of each": (np.array([True, False]), np.array([0.3, 0.7]), None),
    }


@pytest.fixture(params=cases().values(), ids=cases().keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# ---------------------------------------------------------------- ranking


def test_ranking_is_scikit_learns(case: Case) -> None:
    y, s, w = case
    assert auc(y, s, w) == pytest.approx(metrics.roc_auc_score(y, s, sample_weight=w), abs=1e-12)
    expected = metrics.average_precision_score(y, s, sample_weight=w)
    assert average_precision(y, s, w) == pytest.approx(expected, abs=1e-12)


def test_the_curve_is_scikit_learns(case: Case) -> None:
    y, s, w = case
    found = curve(y, s, w)
    fpr, tpr, thresholds = metrics.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    assert found.thresholds == pytest.approx(thresholds)
    assert found.sensitivity == pytest.approx(tpr) and 1 - found.specificity == pytest.approx(fpr)
    if w is None:
        precision, recall, _ = metrics.precision_recall_curve(y, s)
        assert found.precision[:0:-1] == pytest.approx(precision[:-1])
        assert found.sensitivity[::-1] == pytest.approx(recall)


def test_a_weight_is_so_many_cases() -> None:
    y, s, w = cases()["ties and weights, some zero"]
    rows = np.repeat(np.arange(150), w.astype(int))
    assert auc(y, s, w) == pytest.approx(auc(y[rows], s[rows]))
    assert average_precision(y, s, w) == pytest.approx(average_precision(y[rows], s[rows]))


def test_one_class_alone_has_no_ranking() -> None:
    for y in ([1, 1, 1], [0, 0, 0]):
        found = curve(y, [1, 2, 3])
        assert np.isnan([found.auc, found.youden().threshold, delong(y, [1, 2, 3]).value]).all()
    assert average_precision([1, 1], [1, 2]) == 1 and np.isnan(average_precision([0, 0], [1, 2]))
    assert np.isnan(curve([0, 0], [1, 2]).at_sensitivity(0.5).threshold)


def test_macro_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 100)
    p = rng.dirichlet([1, 1, 1], 100) + np.eye(3)[y] * 0.3
    p /= p.sum(1, keepdims=True)
    assert macro_auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p, multi_class="ovr"))
    assert np.isnan(macro_auc([1, 1], np.eye(2))) and macro_auc([0, 2], np.eye(3)[[0, 2]]) == 1
    with pytest.raises(BadValues, match="N × K"):
        macro_auc([0, 2], np.eye(2))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fast_bootstrap_is_the_slow_one(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodulens.metrics.classification.CHUNK", 150 * 7)
    y, s, w = cases()["ties and weights, some zero" if weighted else "ties"]
    weights = np.ones(150) if w is None else w
    patients = np.random.default_rng(1).integers(0, 50, 150)
    draws = ranking_draws(y, s, patients, weights=w, samples=100)
    for figure, fast in ((auc, draws.auc), (average_precision, draws.average_precision)):
        slow = bootstrap(lambda r, f=figure: f(y[r], s[r], weights[r]), patients, samples=100)
        quick = percentiles(figure(y, s, w), fast)
        assert (quick.value, *ends(quick)) == pytest.approx((slow.value, *ends(slow)))


def test_operating_points_are_the_best_that_keep_the_promise(case: Case) -> None:
    y, s, w = case
    w = np.ones(len(y)) if w is None else w

    def at(threshold: float) -> tuple[float, float]:
        called = s >= threshold
        return float(w[called & y].sum() / w[y].sum()), float(w[~called & ~y].sum() / w[~y].sum())

    everywhere = [at(t) for t in (np.inf, *np.unique(s))]
    for promise in (0.0, 0.5, 0.9, 1.0):
        found = curve(y, s, w).at_sensitivity(promise)
        assert (found.sensitivity, found.specificity) == pytest.approx(at(found.threshold))
        assert found.specificity == pytest.approx(max(b for a, b in everywhere if a >= promise - 1e-9))
        found = curve(y, s, w).at_specificity(promise)
        assert (found.sensitivity, found.specificity) == pytest.approx(at(found.threshold))
        assert found.sensitivity == pytest.approx(max(a for a, b in everywhere if b >= promise - 1e-9))
    best = curve(y, s, w).youden()
    assert best.sensitivity + best.specificity == pytest.approx(max(a + b for a, b in everywhere))


# ---------------------------------------------------------------- DeLong


def slow_delong(y: NDArray, *scores: NDArray) -> tuple[NDArray, NDArray]:
    """Areas and covariance from all pairs, as the paper writes them."""
    psi = [np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in s[~y]] for a in s[y]]) for s in scores]
    s10 = np.cov([p.mean(1) for p in psi]).reshape(len(scores), -1)
    s01 = np.cov([p.mean(0) for p in psi]).reshape(len(scores), -1)
    return np.array([p.mean() for p in psi]), s10 / y.sum() + s01 / (~y).sum()


@pytest.mark.parametrize("name", ["plain", "ties", "reversed", "constant", "perfect"])
def test_delong_is_the_papers(name: str) -> None:
    y, s, _ = cases()[name]
    areas, covariance = slow_delong(y, s)
    found = delong(y, s, level=0.9)
    half = 1.6448536 * np.sqrt(covariance[0, 0])
    assert found.value == pytest.approx(areas[0])
    assert ends(found) == pytest.approx((max(areas[0] - half, 0), min(areas[0] + half, 1)))


def test_two_models_are_compared_as_the_paper_does() -> None:
    y, s, _ = cases()["plain"]
    other = np.round(s + np.random.default_rng(9).normal(0, 1, 150), 1)
    areas, covariance = slow_delong(y, s, other)
    found = delong_test(y, s, other)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.difference.value == pytest.approx(areas[0] - areas[1])
    assert found.z == pytest.approx((areas[0] - areas[1]) / error)
    assert ends(found.difference) == pytest.approx(tuple(areas[0] - areas[1] + 1.959964 * error * np.array([-1, 1])))
    assert found.first == delong(y, s) and found.second == delong(y, other)
    back = delong_test(y, other, s)
    assert (back.p_value, back.z) == pytest.approx((found.p_value, -found.z))
    paired = (
        ranking_draws(y, s, np.arange(150), samples=4000).auc
        - ranking_draws(y, other, np.arange(150), samples=4000).auc
    )
    assert paired.std() == pytest.approx(error, rel=0.08)


def test_models_that_rank_alike_do_not_differ() -> None:
    y, s, _ = cases()["plain"]
    found = delong_test(y, s, np.exp(s))
    assert (found.p_value, found.difference.value) == (1, 0) and np.isnan(found.z)
    assert np.isnan(delong_test(y, y + 0.0, np.zeros(150)).p_value)


def test_two_cases_have_no_variance() -> None:
    found = delong([0, 1], [0.1, 0.2])
    assert found.value == 1 and np.isnan(ends(found)).all()


def test_delong_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    true = 0.7602499  # Φ(1/√2): two unit normals one apart
    held = []
    for _ in range(400):
        found = delong(np.arange(120) < 40, np.r_[rng.normal(1, 1, 40), rng.normal(0, 1, 80)])
        held.append(found.low <= true <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


# ---------------------------------------------------------------- like with like


def test_matched_pairs_are_all_pairs_of_like_size() -> None:
    rng = np.random.default_rng(7)
    y, s, d = rng.random(80) < 0.4, np.round(rng.normal(size=80), 1), np.round(rng.uniform(3, 20, 80), 1)
    for within in (0.0, 0.5, 3.0, 100.0):
        pairs = [(i, j) for i in np.flatnonzero(y) for j in np.flatnonzero(~y) if abs(d[i] - d[j]) <= within + 1e-9]
        found = matched_auc(y, s, d, within=within + 1e-9)
        assert found.pairs == len(pairs)
        assert (found.positives, found.negatives) == tuple(len({p[k] for p in pairs}) for k in (0, 1))
        wins = [1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for i, j in pairs]
        assert found.auc == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)
    assert matched_auc(y, s, d, within=100).auc == pytest.approx(auc(y, s))


def test_size_alone_is_worth_little_among_like_sizes() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(600) < 0.5
    d = rng.uniform(4, 14, 600) + 5 * y
    assert auc(y, d) > 0.85
    assert matched_auc(y, d, d, within=0.25).auc == pytest.approx(0.5, abs=0.05)
    assert np.isnan(matched_auc([1, 0], [1, 2], [3, 30], within=1).auc)
    with pytest.raises(BadOption, match="0 or more"):
        matched_auc(y, d, d, within=-1)


def test_within_bands_and_textures() -> None:
    rng = np.random.default_rng(3)
    y, s, d = rng.random(90) < 0.4, rng.normal(size=90), rng.uniform(3, 20, 90)
    d[0], y[0] = 40, True
    found = auc_by_group(y, s, Groups.bands(d, (6, 12, 30)))
    assert list(found) == ["< 6 mm", "6–12 mm", "12–30 mm", "≥ 30 mm"]
    middle = (d >= 6) & (d < 12)
    assert found["6–12 mm"].auc == delong(y[middle], s[middle])
    assert (found["6–12 mm"].positives, found["6–12 mm"].negatives) == (y[middle].sum(), (~y)[middle].sum())
    assert (found["≥ 30 mm"].positives, found["≥ 30 mm"].negatives) == (1, 0) and np.isnan(found["≥ 30 mm"].auc.value)
    with pytest.raises(BadValues, match="one each"):
        auc_by_group(y, s, Groups.of(["solid"]))


# ---------------------------------------------------------------- decisions


def test_a_published_matrix() -> None:
    # 174/55/28/168, published with accuracy 80 %, sensitivity 86 %, specificity 76 %, precision 75 %
    found = Confusion((0, 1), np.array([[174.0, 55], [28, 168]]))
    rates = found.positive
    figures = (found.accuracy, rates.sensitivity, rates.specificity, rates.precision)
    assert [round(f, 2) for f in figures] == [0.80, 0.86, 0.76, 0.75]
    assert rates.negative_predictive_value == pytest.approx(174 / 202) and rates.f1 == pytest.approx(336 / 419)
    assert found.of(0).sensitivity == rates.specificity and found.of(0).precision == rates.negative_predictive_value


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_decisions_are_scikit_learns(classes: int, weighted: bool) -> None:
    rng = np.random.default_rng(classes)
    y, p = rng.integers(0, classes, (2, 80))
    w = rng.random(80) if weighted else None
    p[p == classes - 1] = 0  # one class is never called
    found = confusion(y, p, weights=w)
    expected = metrics.classification_report(y, p, sample_weight=w, output_dict=True, zero_division=0)
    assert found.counts == pytest.approx(metrics.confusion_matrix(y, p, sample_weight=w))
    assert found.accuracy == pytest.approx(expected["accuracy"])
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, p, sample_weight=w))
    theirs = {c: expected[str(c)] for c in range(classes)}
    pairs = [(found.of(c), theirs[c]) for c in theirs]
    pairs += [(found.macro, expected["macro avg"]), (found.weighted, expected["weighted avg"])]
    for ours, other in pairs:
        figures = [np.nan_to_num(v) for v in (ours.sensitivity, ours.precision, ours.f1, ours.support)]
        assert figures == pytest.approx([other[k] for k in ("recall", "precision", "f1-score", "support")])
    assert np.isnan(found.of(classes - 1).precision)


def test_classes_have_names_and_an_order() -> None:
    found = confusion(["malignant", "benign", "benign"], ["malignant"] * 3, classes=("malignant", "benign"))
    assert found.counts.tolist() == [[1, 0], [2, 0]] and found.positive.sensitivity == 0
    assert confusion([True, False], [True, True]).classes == (False, True)
    absent = confusion([0, 1], [0, 1], classes=(0, 1, 2))
    assert absent.macro.f1 == 1 and absent.balanced_accuracy == 1 and np.isnan(absent.of(2).f1)
    with pytest.raises(BadOption, match="no positive"):
        absent.positive  # noqa: B018
    with pytest.raises(BadOption, match="No class 7"):
        absent.of(7)


def test_the_report_can_be_kept_and_read() -> None:
    found = confusion([0, 1, 1], [0, 0, 0])
    report = json.loads(json.dumps(found.report(), allow_nan=False))
    assert report["classes"]["1"]["precision"] is None and report["confusion"] == [[1, 0], [2, 0]]
    assert report["macro"]["f1"] == pytest.approx(0.25)
    assert found.text().splitlines() == [
        "               sensitivity  specificity    precision           f1      support",
        "0                   1.0000       0.0000       0.3333       0.5000            1",
        "1                   0.0000       1.0000            –       0.0000            2",
        "macro mean          0.5000       0.5000       0.1667       0.2500            3",
        "weighted mean       0.3333       0.6667       0.1111       0.1667            3",
        "accuracy 0.3333 of 3, balanced 0.5000",
    ]


# ---------------------------------------------------------------- probabilities


@pytest.fixture(scope="module")
def forecast() -> tuple[NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(8)
    logit = rng.normal(-0.5, 2, 600)
    y = rng.random(600) < 1 / (1 + np.exp(-(0.6 * logit + 0.4)))
    return y, 1 / (1 + np.exp(-logit)), rng.random(600)


@pytest.mark.parametrize("equal", ["width", "mass"])
@pytest.mark.parametrize("bins", [1, 5, 10, 37])
def test_the_brier_score_falls_into_its_parts(forecast: tuple[NDArray, ...], equal: str, bins: int) -> None:
    y, p, w = forecast
    for weights in (None, w):
        found = calibration(y, p, bins=bins, equal=equal, weights=weights)
        assert found.brier == pytest.approx(metrics.brier_score_loss(y, p, sample_weight=weights))
        assert found.brier == pytest.approx(found.reliability - found.resolution + found.uncertainty, abs=1e-12)
        assert found.weight.sum() == pytest.approx(600 if weights is None else w.sum())


def test_murphys_parts_where_forecasts_are_few() -> None:
    # Murphy 1973: with one value a bin his three parts are ours
    rng = np.random.default_rng(0)
    p = rng.choice([0.05, 0.25, 0.65, 0.95], 300)
    y = rng.random(300) < p**2
    found = calibration(y, p)
    share = {v: y[p == v].mean() for v in np.unique(p)}
    count = {v: (p == v).mean() for v in np.unique(p)}
    assert found.reliability == pytest.approx(sum(count[v] * (v - share[v]) ** 2 for v in share))
    assert found.resolution == pytest.approx(sum(count[v] * (share[v] - y.mean()) ** 2 for v in share))
    assert found.ece == pytest.approx(sum(count[v] * abs(v - share[v]) for v in share))


@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_reliability_curve_is_scikit_learns(forecast: tuple[NDArray, ...], equal: str, strategy: str) -> None:
    y, p, _ = forecast
    found = calibration(y, p, equal=equal)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy=strategy)
    assert found.observed == pytest.approx(observed, abs=0.02 if equal == "mass" else 1e-12)
    assert found.predicted == pytest.approx(predicted, abs=0.01 if equal == "mass" else 1e-12)
    if equal == "mass":
        assert (found.weight == 60).all()
        in_order = np.argsort(p).reshape(10, 60)
        assert found.observed == pytest.approx(y[in_order].mean(1))
    assert found.ece == pytest.approx(found.weight @ abs(found.observed - found.predicted) / 600)


@pytest.mark.parametrize("weighted", [False, True])
def test_slope_and_intercept_are_logistic_regressions(forecast: tuple[NDArray, ...], weighted: bool) -> None:
    y, p, w = forecast
    weights = w if weighted else None
    x = np.log(p / (1 - p))[:, None]
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(x, y, sample_weight=weights)
    found = calibration(y, p, weights=weights)
    assert found.slope == pytest.approx(model.coef_[0, 0], rel=1e-4)
    # slope held at 1: the shift that makes the mean probability right
    shifted = 1 / (1 + np.exp(-(x[:, 0] + found.intercept)))
    assert np.average(shifted, weights=weights) == pytest.approx(np.average(y, weights=weights), abs=1e-9)


def test_probabilities_at_their_ends() -> None:
    whole = calibration([0, 1, 1], [0.0, 1.0, 1.0])
    assert (whole.brier, whole.ece, whole.resolution) == (0, 0, pytest.approx(2 / 9)) and np.isnan(whole.slope)
    wrong = calibration([1, 0], [0.0, 1.0])
    assert (wrong.brier, wrong.ece) == (1, 1)
    one = calibration([1], [0.8])
    assert one.ece == pytest.approx(0.2) and np.isnan([one.slope, one.intercept]).all()
    alike = calibration([0, 1, 1, 1], [0.5] * 4, equal="mass")
    assert len(alike.weight) == 1 and alike.ece == pytest.approx(0.25) and np.isnan(alike.slope)
    assert alike.intercept == pytest.approx(np.log(3))


def test_like_probabilities_share_a_bin() -> None:
    p = np.r_[np.full(50, 0.1), np.full(30, 0.4), np.linspace(0.5, 0.9, 20)]
    found = calibration(np.arange(100) % 2, p, equal="mass", bins=10)
    assert found.weight[0] == 50 and found.predicted[0] == pytest.approx(0.1)
    assert 30 in found.weight and found.weight.sum() == 100


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize("figure", [auc, average_precision, curve, delong, calibration])
@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([], [], "at least 1"),
        ([0, 1], [0.5], "one length"),
        ([0, 1], [0.5, np.nan], "NaN"),
        ([0, np.nan], [0.5, 0.5], "NaN"),
        ([1, 2], [0.5, 0.5], "0 or 1, got 2"),
        ([[0, 1]], [[0.5, 0.5]], "lists"),
    ],
)
def test_cases_that_cannot_be_used(
    figure: Callable[..., object], labels: ArrayLike, scores: ArrayLike, says: str
) -> None:
    with pytest.raises(BadValues, match=says):
        figure(labels, scores)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, np.nan]])
def test_weights_that_cannot_be_used(weights: ArrayLike) -> None:
    for figure in (lambda: auc([0, 1], [0, 1], weights), lambda: confusion([0, 1], [0, 1], weights=weights)):
        with pytest.raises(BadValues, match="weights"):
            figure()


def test_other_input_that_cannot_be_used() -> None:
    with pytest.raises(BadValues, match="logistic"):
        calibration([0, 1], [-2.0, 3.0])
    with pytest.raises(BadOption, match="one bin or more"):
        calibration([0, 1], [0, 1], bins=0)
    with pytest.raises(BadOption, match="'depth'"):
        calibration([0, 1], [0, 1], equal="depth")
    with pytest.raises(BadOption, match="level"):
        delong([0, 1], [0, 1], level=95)
    with pytest.raises(BadValues, match="one each"):
        ranking_draws([0, 1], [0, 1], ["a"])
    with pytest.raises(BadValues, match="2 is not among the classes 0, 1"):
        confusion([0, 2], [0, 1], classes=(0, 1))
    with pytest.raises(BadValues, match="NaN"):
        confusion([0, np.nan], [0, 1])
    with pytest.raises(BadValues, match="one length"):
        confusion([0], [0, 1])


# ---------------------------------------------------------------- the page


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    ours = page[page.index("## Segmentation") : page.index("## Figures")]
    code = re.findall(r"^```python\n(.*?)^```$", ours, re.DOTALL | re.MULTILINE)
    rng = np.random.default_rng(0)
    y = rng.random(200) < 0.4
    p = rng.beta(2 + 2 * y, 4 - 2 * y)
    truths = [rng.random((3, 8, 8)) < 0.4 for _ in range(4)]
    names = {
        "truths": truths, "masks": truths[::-1], "spacings": [(2.5, 0.7, 0.7)] * 4, "y": y, "s": np.log(p / (1 - p)),
        "p": p, "y_tune": y, "s_tune": p, "diameter_mm": rng.uniform(3, 20, 200), "texture": rng.integers(1, 6, 200),
    }  # fmt: skip
    for block, patients in zip(code, (list("abcd"), rng.integers(0, 60, 200)), strict=True):
        exec(block, names | {"patients": patients, "Groups": Groups})
    assert "accuracy" in capsys.readouterr().out


def test_calibration_of_probabilities_that_are_surely_wrong() -> None:
    """All next to 0 where half are positive: what to add is found, however far it is."""
    found = calibration(np.arange(40) % 2, np.full(40, 1e-9))
    assert found.intercept == pytest.approx(np.log((1 - 1e-6) / 1e-6)) and np.isnan(found.slope)
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 40), np.where(rng.random(40) < 0.5, 1e-300, 1.0)
    found = calibration(labels, p)
    assert np.isfinite([found.intercept, found.slope]).all() and abs(found.slope) < 0.1
    alike = 0.3 + rng.normal(0, 1e-12, 40)
    assert np.isnan(calibration(labels, alike).slope)
