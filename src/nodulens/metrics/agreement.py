"""Agreement of two readers, or of a method and a reader.

A figure that the data leave undefined is ``nan``; data that cannot be used at all are an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues
from nodulens.metrics.statistics import Interval, check_level, columns

Weights = Literal["linear", "quadratic"]


def cohen_kappa(a: ArrayLike, b: ArrayLike, *, weights: Weights | None = None) -> float:
    """Cohen's kappa of two readers: agreement beyond chance.

    One minus observed over expected disagreement (Cohen 1960, 1968). Unweighted, any two different categories
    disagree by 1; "linear" and "quadratic" take the difference of the *values*, or its square, so that a category that
    nobody used (a rating of 3 among 1, 2, 4, 5) keeps its place.

    Args:
        a: (N,) one reader's ratings: numbers, or names if unweighted.
        b: (N,) the other's ratings of the same cases.
        weights: None, "linear" or "quadratic".

    Returns:
        −1…1; ``nan`` where chance agreement is complete (both used one and the same category throughout).

    Raises:
        BadValues: lengths that differ, no ratings, NaN, or names with weights.
        BadOption: unknown weights.
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
        raise BadValues("A rating is NaN or infinite: leave out cases that were not rated by both.")
    n, k = len(first), len(values)
    table = np.bincount(code[:n] * k + code[n:], minlength=k * k).reshape(k, k)
    expected = float((np.outer(table.sum(1), table.sum(0)) * cost).sum()) / n
    return 1.0 - float((table * cost).sum()) / expected if expected > 0 else float("nan")


def fleiss_kappa(counts: NDArray[Any]) -> float:
    """Fleiss' kappa of any number of readers, who may differ from case to case (Fleiss 1971).

    Args:
        counts: (N, categories) how many readers put each case into each category; every row sums to the same number
            of readers, 2 at least.

    Returns:
        −1…1; ``nan`` where all ratings are of one category.

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
            f"to {table.sum(1).max():.0f}. Compute kappa for each number of readers separately."
        )
    agreed = float(((table**2).sum(1) - readers).mean() / (readers * (readers - 1)))
    chance = float((table.mean(0) / readers) @ (table.mean(0) / readers))
    used = int((table.sum(0) > 0).sum())
    return (agreed - chance) / (1 - chance) if used > 1 else float("nan")


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same quantity, in its unit.

    Attributes:
        difference: mean of first less second, with its interval.
        lower: limit below which 2.5 % of the differences are (at level 0.95), with its interval.
        upper: limit above which 2.5 % are.
        sd: standard deviation of the differences.
        slope: change of the difference per unit of the mean of the two; where its interval excludes 0 the limits hold
            only in the middle of the range: compare ratios (logarithms) instead.
        count: number of pairs.
    """

    difference: Interval
    lower: Interval
    upper: Interval
    sd: float
    slope: Interval
    count: int


def bland_altman(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> BlandAltman:
    """Mean difference and limits of agreement (Bland and Altman 1986; intervals of the limits after theirs of 1999).

    The limits are mean ± z · sd with z = 1.96 at level 0.95; the variance of a limit is
    sd² (1 / n + z² / (2 (n − 1))), its interval by Student's t with n − 1 degrees of freedom. Pairs must be
    independent: several nodules of a patient make the intervals too narrow.

    Args:
        first: (N,) one measurement, or the method.
        second: (N,) the other, or the reference.
        level: 0…1, of limits and intervals alike.

    Returns:
        the figures; with fewer than two pairs sd and limits are ``nan``, with fewer than three or all means equal the
        slope is.

    Raises:
        BadValues: lengths that differ, nothing, NaN.
        BadOption: a level outside 0…1.
    """
    from scipy import stats

    a, b = columns("The measurements", first, second)
    check_level(level)
    n, d, m = len(a), a - b, (a + b) / 2
    nan = float("nan")
    none = Interval(nan, nan, nan, level)
    mean = float(d.mean())
    if n < 2:
        return BlandAltman(Interval(mean, nan, nan, level), none, none, nan, none, n)
    sd, z = float(d.std(ddof=1)), float(stats.norm.ppf((1 + level) / 2))
    t = float(stats.t.ppf((1 + level) / 2, n - 1))

    def around(value: float, error: float, t: float) -> Interval:
        return Interval(value, value - t * error, value + t * error, level)

    error = sd * float(np.sqrt(1 / n + z**2 / (2 * (n - 1))))
    slope = none
    if n > 2 and np.ptp(m) > 0:
        line = stats.linregress(m, d)
        slope = around(float(line.slope), float(line.stderr), float(stats.t.ppf((1 + level) / 2, n - 2)))
    return BlandAltman(
        around(mean, sd / n**0.5, t), around(mean - z * sd, error, t), around(mean + z * sd, error, t), sd, slope, n
    )


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its interval, its two-sided p-value, and the number of pairs."""

    r: Interval
    p_value: float
    count: int


def pearson(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> Correlation:
    """Pearson's correlation; its interval by Fisher's transform. High correlation is not agreement.

    Args:
        first: (N,) numbers.
        second: (N,) numbers.
        level: 0…1.

    Returns:
        the figures; r is ``nan`` where either list is constant or has one number, the p-value under three pairs, the
        ends under four.

    Raises:
        BadValues: lengths that differ, nothing, NaN.
        BadOption: a level outside 0…1.
    """
    from scipy import stats

    a, b = columns("The measurements", first, second)
    check_level(level)
    n, nan = len(a), float("nan")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(Interval(nan, nan, nan, level), nan, n)
    found = stats.pearsonr(a, b)
    p_value = float(found.pvalue) if n > 2 else nan
    ends = found.confidence_interval(level) if n > 3 else (nan, nan)
    return Correlation(Interval(float(found.statistic), float(ends[0]), float(ends[1]), level), p_value, n)
