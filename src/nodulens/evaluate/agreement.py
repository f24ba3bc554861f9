"""How far two readers, or a method and a reader, say the same.

Where the data leave a figure undefined it is ``nan``; data that cannot be used at all are an error.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues

Weights = Literal["linear", "quadratic"]


def cohen_kappa(a: ArrayLike, b: ArrayLike, *, weights: Weights | None = None) -> float:
    """Cohen's kappa of two readers: agreement beyond what their own habits give by chance.

    One minus the disagreement seen over that expected (Cohen 1960, 1968). Unweighted, any two different categories
    disagree by 1; "linear" and "quadratic" take the difference of the *values*, or its square, so that a category that
    nobody used (a rating of 3 among 1, 2, 4, 5) keeps its place.

    Args:
        a: (N,) what one reader said: numbers, or names where no weights are asked for.
        b: (N,) what the other said of the same things.
        weights: None, "linear" or "quadratic".

    Returns:
        −1…1; ``nan`` where chance alone agrees wholly (both said one and the same thing throughout).

    Raises:
        BadValues: lengths that differ, nothing at all, NaN, or names under weights.
        BadOption: other weights.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise BadValues(
            f"Kappa needs two lists of one length, at least 1: got shapes {first.shape} and {second.shape}."
        )
    values, code = np.unique(np.concatenate([first, second]), return_inverse=True)
    if weights is None:
        cost: NDArray[np.float64] = 1.0 - np.eye(len(values))
    elif weights not in ("linear", "quadratic"):
        raise BadOption(f"weights must be None, 'linear' or 'quadratic', got {weights!r}.")
    elif values.dtype.kind not in "buif":
        raise BadValues("Weighted kappa needs numbers: names have no distance. Number the categories.")
    else:
        place = values.astype(np.float64)
        cost = np.abs(place[:, None] - place) ** (1 if weights == "linear" else 2)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadValues("A rating is NaN or infinite: leave out what was not rated by both.")
    n, k = len(first), len(values)
    table = np.bincount(code[:n] * k + code[n:], minlength=k * k).reshape(k, k)
    expected = float((np.outer(table.sum(1), table.sum(0)) * cost).sum()) / n
    return 1.0 - float((table * cost).sum()) / expected if expected > 0 else float("nan")


def fleiss_kappa(counts: NDArray[Any]) -> float:
    """Fleiss' kappa of any number of readers who need not be the same from case to case (Fleiss 1971).

    Args:
        counts: (N, categories) how many readers put each case into each category; every row sums to the same number
            of readers, 2 at least.

    Returns:
        −1…1; ``nan`` where every reader of every case chose one and the same category.

    Raises:
        BadValues: another shape, negative or broken numbers, or rows of different sums.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or not table.size:
        raise BadValues(f"Fleiss' kappa needs a table of cases × categories, got shape {table.shape}.")
    if not (np.isfinite(table).all() and (table >= 0).all() and (table == np.round(table)).all()):
        raise BadValues("Fleiss' kappa counts readers: every entry must be a whole number of 0 or more.")
    table = table.astype(np.float64)
    readers = table[0].sum()
    if readers < 2 or (table.sum(1) != readers).any():
        raise BadValues(
            f"Every case needs the same number of readers, 2 at least: rows sum to {table.sum(1).min():.0f} "
            f"to {table.sum(1).max():.0f}. Take the cases of each number apart."
        )
    agreed = float(((table**2).sum(1) - readers).mean() / (readers * (readers - 1)))
    chance = float((table.mean(0) / readers) @ (table.mean(0) / readers))
    used = int((table.sum(0) > 0).sum())
    return (agreed - chance) / (1 - chance) if used > 1 else float("nan")
