"""Agreement, against scikit-learn, scipy, worked examples of the papers, and on data that leave no room for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from nodulens.errors import BadOption, BadValues
from nodulens.metrics.agreement import Weights, bland_altman, cohen_kappa, fleiss_kappa, pearson
from nodulens.metrics.statistics import Interval


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(5))
def test_cohen_is_scikit_learns(weights: Weights | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 6, 80)
    b = np.clip(a + rng.integers(-1, 2, 80), 1, 5)
    expected = cohen_kappa_score(a, b, weights=weights, labels=[1, 2, 3, 4, 5])
    assert cohen_kappa(a, b, weights=weights) == pytest.approx(expected, abs=1e-12)
    assert cohen_kappa(b, a, weights=weights) == pytest.approx(expected, abs=1e-12)


def test_an_unused_category_keeps_its_place() -> None:
    a, b = [1, 2, 4, 5, 4, 1], [2, 2, 5, 4, 2, 1]
    expected = cohen_kappa_score(a, b, weights="quadratic", labels=[1, 2, 3, 4, 5])
    assert cohen_kappa(a, b, weights="quadratic") == pytest.approx(expected)
    assert expected != pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))


def test_cohen_at_its_ends() -> None:
    assert cohen_kappa(["benign", "malignant"] * 3, ["benign", "malignant"] * 3) == 1
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]) == -1
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert cohen_kappa([3], [4]) == 0
    assert np.isnan(cohen_kappa([3, 3], [3, 3]))
    assert np.isnan(cohen_kappa([3], [3], weights="linear"))


def test_fleiss_gives_the_example_of_the_textbooks() -> None:
    # Ten subjects, fourteen raters, five categories; 0.210.
    table = np.array(
        [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
         [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    )  # fmt: skip
    assert fleiss_kappa(table) == pytest.approx(0.20993, abs=1e-5)
    assert fleiss_kappa(np.insert(table, 2, 0, axis=1)) == pytest.approx(fleiss_kappa(table))


def test_fleiss_at_its_ends() -> None:
    assert fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1
    assert np.isnan(fleiss_kappa(np.array([[4, 0], [4, 0]])))


def test_fleiss_of_two_is_scotts_pi() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 60))
    share = np.bincount(np.concatenate([a, b]), minlength=4) / 120
    pi = ((a == b).mean() - share @ share) / (1 - share @ share)
    assert fleiss_kappa(np.eye(4)[a] + np.eye(4)[b]) == pytest.approx(pi)


@pytest.mark.parametrize(
    ("a", "b", "weights", "says"),
    [
        ([], [], None, "at least 1"),
        ([1, 2], [1], None, "one length"),
        ([1.0, np.nan], [1.0, 2.0], None, "NaN"),
        (["a", "b"], ["a", "b"], "linear", "no distance"),
    ],
)
def test_cohen_says_what_is_wrong(a: ArrayLike, b: ArrayLike, weights: Weights | None, says: str) -> None:
    with pytest.raises(BadValues, match=says):
        cohen_kappa(a, b, weights=weights)


def test_other_weights_are_refused() -> None:
    with pytest.raises(BadOption, match="cubic"):
        cohen_kappa([1, 2], [1, 2], weights="cubic")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (np.zeros((0, 3)), "cases × categories"),
        (np.array([2, 1]), "cases × categories"),
        (np.array([[2, 0], [2, 1]]), "same number of readers"),
        (np.array([[1, 0], [0, 1]]), "2 at least"),
        (np.array([[2, -1], [1, 0]]), "whole number"),
        (np.array([[1.5, 0.5]]), "whole number"),
        (np.array([[np.nan, 2]]), "whole number"),
    ],
)
def test_fleiss_says_what_is_wrong(table: NDArray, says: str) -> None:
    with pytest.raises(BadValues, match=says):
        fleiss_kappa(table)


# ---------------------------------------------------------------- measurements


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_bland_and_altmans_own_example() -> None:
    # Peak expiratory flow by two meters, l/min (Lancet 1986;i:307): −2.1, sd 38.8, limits −79.7 and 75.5 by two sd.
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = bland_altman(wright, mini)
    assert (found.difference.value, found.sd, found.count) == (
        pytest.approx(-2.1, abs=0.05),
        pytest.approx(38.8, abs=0.05),
        17,
    )
    assert ends(found.difference) == pytest.approx((-22.0, 17.8), abs=0.15)
    # they took the variance of a limit for 3 sd² / n: −114.3 to −45.1, and 40.9 to 110.1, about limits two sd away
    assert ends(found.lower) == pytest.approx((-114.3 + 1.6, -45.1 + 1.6), abs=1.0)
    assert ends(found.upper) == pytest.approx((40.9 - 1.6, 110.1 - 1.6), abs=1.0)
    assert found.slope.low < 0 < found.slope.high


def test_the_limits_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(800):
        found = bland_altman(rng.normal(1, 2, 20), np.zeros(20))
        held.append(
            (found.upper.low <= 1 + 1.96 * 2 <= found.upper.high, found.difference.low <= 1 <= found.difference.high)
        )
    assert np.mean(held, axis=0) == pytest.approx([0.95, 0.95], abs=0.025)


def test_a_difference_that_grows_with_size_is_seen() -> None:
    truth = np.linspace(5, 50, 30)
    found = bland_altman(1.2 * truth + np.sin(truth), truth)
    assert found.slope.low > 0.1
    line = stats.linregress((2.2 * truth + np.sin(truth)) / 2, 0.2 * truth + np.sin(truth))
    assert found.slope.value == pytest.approx(line.slope)


def test_measurements_without_spread() -> None:
    same = bland_altman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.lower.low, same.difference.value, same.upper.high, same.slope.value) == (0, 0, 0, 0)
    one = bland_altman([3.0], [1.0])
    assert one.difference.value == 2 and np.isnan([one.sd, one.lower.value, one.slope.value]).all()
    assert np.isnan(bland_altman([2.0, 1.0, 0.0], [0.0, 1.0, 2.0]).slope.value)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_pearson_is_scipys_and_fishers(level: float) -> None:
    a, b = np.random.default_rng(6).multivariate_normal([0, 5], [[1, 0.6], [0.6, 1]], 60).T
    found = pearson(a, b, level=level)
    assert found.r.value == pytest.approx(np.corrcoef(a, b)[0, 1])
    half = stats.norm.ppf((1 + level) / 2) / np.sqrt(57)
    assert ends(found.r) == pytest.approx(tuple(np.tanh(np.arctanh(found.r.value) + np.array([-half, half]))))
    t = found.r.value * np.sqrt(58 / (1 - found.r.value**2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 58))


def test_pearson_of_little() -> None:
    assert np.isnan([pearson([1.0, 1.0], [1.0, 2.0]).r.value, pearson([1.0], [1.0]).r.value]).all()
    two = pearson([1.0, 2.0], [5.0, 3.0])
    assert two.r.value == pytest.approx(-1) and np.isnan([two.p_value, *ends(two.r)]).all()
    whole = pearson([1.0, 2, 3, 4], [2.0, 4, 6, 8])
    assert (whole.r.value, *ends(whole.r)) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("measure", [bland_altman, pearson])
def test_measurements_that_cannot_be_used(measure: Callable[..., object]) -> None:
    with pytest.raises(BadValues, match="NaN"):
        measure([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(BadValues, match="one length"):
        measure([1.0], [1.0, 2.0])
    with pytest.raises(BadOption, match="level"):
        measure([1.0], [1.0], level=95)
