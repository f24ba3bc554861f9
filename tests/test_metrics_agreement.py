"""Agreement, against scikit-learn, scipy, worked examples of the papers, and on data that leave no room for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import cohen_kappa_score

from nodulens.errors import BadOption, BadValues
from nodulens.evaluate.agreement import Weights, cohen_kappa, fleiss_kappa


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
