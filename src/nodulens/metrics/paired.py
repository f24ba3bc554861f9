"""Several methods on the same cases: their figures, and the difference of every two, paired.

A figure and a difference have the interval of a bootstrap by patient, whose draws all methods share. The p-value is of
the test that suits the figure: DeLong's for AUC, McNemar's for the share of right decisions, Wilcoxon's signed-rank
test for means. The first two take cases as independent; the third is given one value a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from nodulens.errors import BadValues
from nodulens.metrics.classification import auc, delong_test, ranking_draws
from nodulens.metrics.statistics import (
    Float,
    Interval,
    bootstrap_means,
    columns,
    mcnemar,
    percentiles,
    wilcoxon,
)


@dataclass(frozen=True)
class Difference:
    """Two of several methods.

    Attributes:
        first, second: their numbers.
        interval: the figure of the first minus that of the second, with the bootstrap's interval by patient.
        test: name of the test.
        p_value: two-sided; ``nan`` where it is undefined.
        details: what else the test gives, by name.
    """

    first: int
    second: int
    interval: Interval
    test: str
    p_value: float
    details: Mapping[str, float]


@dataclass(frozen=True)
class Paired:
    """A figure of M methods on the same cases.

    Attributes:
        figures: (M,) each with its interval by patient.
        differences: of every two methods, in order.
    """

    figures: tuple[Interval, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Resampling:
    """The bootstrap by patient: number of samples, and seed."""

    samples: int = 1000
    seed: int = 0


USUAL = Resampling()


def paired_auc(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, resampling: Resampling = USUAL) -> Paired:
    """AUC of methods, and DeLong's test of every two.

    Args:
        labels: (N,) 1 or 0.
        scores: (M, N) of each method; their scales may differ.
        patients: (N,) the patient of each case.
        resampling: the bootstrap.

    Raises:
        BadValues: lengths that differ, nothing, NaN, other labels.
    """
    table = _table(scores)
    values = [auc(labels, row) for row in table]
    draws = [ranking_draws(labels, row, patients, **asdict(resampling)).auc for row in table]
    differences = []
    for a, b in combinations(range(len(table)), 2):
        found = delong_test(labels, table[a], table[b])
        interval = percentiles(values[a] - values[b], draws[a] - draws[b])
        differences.append(Difference(a, b, interval, "DeLong", found.p_value, {"z": found.z}))
    return Paired(tuple(map(percentiles, values, draws)), tuple(differences))


def paired_decisions(right: ArrayLike, patients: ArrayLike, resampling: Resampling = USUAL) -> Paired:
    """Share of right decisions of methods, and McNemar's test of every two (mid-p).

    Args:
        right: (M, N) whether each method was right, 1 or 0.
        patients: (N,) the patient of each case.
        resampling: the bootstrap.

    Raises:
        BadValues: lengths that differ, nothing, or other values than 0 and 1.
    """
    table = _table(right)
    figures, gaps = _means(table, patients, resampling)
    differences = []
    for (a, b), interval in gaps.items():
        found = mcnemar(table[a], table[b])
        details = {"only_first": found.only_first, "only_second": found.only_second}
        differences.append(Difference(a, b, interval, "McNemar", found.mid_p, details))
    return Paired(figures, tuple(differences))


def paired_means(values: ArrayLike, patients: ArrayLike, resampling: Resampling = USUAL) -> Paired:
    """Mean of a value, such as Dice, of methods, and Wilcoxon's signed-rank test of every two on the patients' means.

    Args:
        values: (M, N) of each method.
        patients: (N,) the patient of each case.
        resampling: the bootstrap.

    Raises:
        BadValues: lengths that differ, nothing, NaN.
    """
    table = _table(values)
    figures, gaps = _means(table, patients, resampling)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    by_patient = [np.bincount(owner, row) / np.bincount(owner) for row in table]
    differences = []
    for (a, b), interval in gaps.items():
        found = wilcoxon(by_patient[a], by_patient[b])
        details = {"rank_biserial": found.rank_biserial, "pairs": found.pairs}
        differences.append(Difference(a, b, interval, "Wilcoxon", found.p_value, details))
    return Paired(figures, tuple(differences))


def _means(
    table: Float, patients: ArrayLike, resampling: Resampling
) -> tuple[tuple[Interval, ...], dict[tuple[int, int], Interval]]:
    """The mean of each method, and the difference of every two, each with its interval by patient."""
    pairs = list(combinations(range(len(table)), 2))
    gaps = [table[a] - table[b] for a, b in pairs]
    found = bootstrap_means(np.array([*table, *gaps]).T, patients, **asdict(resampling))
    return found[: len(table)], dict(zip(pairs, found[len(table) :], strict=True))


def _table(values: ArrayLike) -> Float:
    """(M, N) finite numbers of at least two methods."""
    rows = list(np.asarray(values, dtype=np.float64))
    if len(rows) < 2:
        raise BadValues(f"A comparison needs two methods at least, got {len(rows)}.")
    return np.stack(columns("The values of the methods", *rows))
