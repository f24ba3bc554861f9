"""Statistics: intervals by patient, paired tests, correction for multiple tests.

Nodules of one patient are correlated, so every bootstrap here resamples patients, never nodules. A figure that the data
leave undefined is ``nan``; data that cannot be used at all are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues

Float = NDArray[np.float64]
Rows = NDArray[np.intp]
Statistic = Callable[[Rows], float]

UNDEFINED = 0.05
"""If a figure is undefined in more than this share of the resamples, its interval is undefined too."""


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval.

    Attributes:
        value: the figure itself, from all data.
        low, high: ends of the interval; ``nan`` if there are too few data.
        level: confidence level, 0…1.
    """

    value: float
    low: float
    high: float
    level: float = 0.95


# ---------------------------------------------------------------- intervals


def resamples(patients: ArrayLike, *, samples: int = 1000, seed: int = 0) -> Iterator[Rows]:
    """Bootstrap samples of patients, as rows.

    Args:
        patients: (N,) the patient of each row.
        samples: number of resamples.
        seed: of the resamples. The same patients and seed give the same ones, so two figures that are computed over
            them, or over :func:`patient_draws`, are paired.

    Yields:
        the rows of as many patients as there are, sampled with replacement; a patient sampled twice has its rows twice.

    Raises:
        BadValues: no patients.
        BadOption: no samples.
    """
    owner, draws = patient_draws(patients, samples=samples, seed=seed)
    rows = np.arange(len(owner))
    for times in draws:
        yield np.repeat(rows, times[owner])


def patient_draws(patients: ArrayLike, *, samples: int = 1000, seed: int = 0) -> tuple[Rows, NDArray[np.int64]]:
    """The samples of :func:`resamples` as counts of patients, for weighted figures.

    Returns:
        (N,) the index of each row's patient, and (samples, patients) the count of each. The weights of the rows in
        sample s are ``draws[s][owner]``.
    """
    names = np.asarray(patients)
    if names.ndim != 1 or not names.size:
        raise BadValues(f"A bootstrap needs a list of the rows' patients, got shape {names.shape}.")
    if samples < 1:
        raise BadOption(f"A bootstrap needs at least one sample, got {samples}.")
    unique, owner = np.unique(names, return_inverse=True)
    n = len(unique)
    rng = np.random.default_rng(seed)
    return owner, rng.multinomial(n, np.full(n, 1 / n), size=samples)


def percentiles(value: float, draws: ArrayLike, *, level: float = 0.95) -> Interval:
    """A figure with the percentile interval of its bootstrap.

    Args:
        value: the figure from all data.
        draws: (samples,) the figure in each resample. Undefined ones (``nan``: one class alone) are left out; if they
            are more than :data:`UNDEFINED`, the ends are ``nan``.
        level: 0…1.
    """
    return _ends(value, np.asarray(draws, dtype=np.float64), np.array([(1 - level) / 2, (1 + level) / 2]), level)


def bootstrap(
    statistic: Statistic,
    patients: ArrayLike,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """A figure with its bootstrap interval by patient.

    To compare two methods on the same rows, take the difference as the statistic, so that it is paired:
    ``bootstrap(lambda rows: auc(y[rows], a[rows]) - auc(y[rows], b[rows]), patients)``.

    Args:
        statistic: rows → figure; ``nan`` where it is undefined.
        patients: (N,) the patient of each row.
        samples: number of resamples. Percentile ends are stable from 1,000 on, BCa's from 2,000.
        level: 0…1.
        seed: of the resamples.
        method: "percentile", or "bca": corrected for bias and skewness (Efron 1987), which calls ``statistic`` once
            more for each patient, leaving it out.

    Raises:
        BadValues: no patients.
        BadOption: no samples, a level outside 0…1, another method.
    """
    if method not in ("percentile", "bca"):
        raise BadOption(f"method must be 'percentile' or 'bca', got {method!r}.")
    value = float(statistic(np.arange(np.size(patients))))
    draws = np.array([statistic(rows) for rows in resamples(patients, samples=samples, seed=seed)], dtype=np.float64)
    if method == "percentile":
        return percentiles(value, draws, level=level)
    owner = np.unique(np.asarray(patients), return_inverse=True)[1]
    without = np.array([statistic(np.flatnonzero(owner != p)) for p in range(owner.max() + 1)] if owner.any() else [])
    return _ends(value, draws, _bca_tails(value, draws, without, level), level)


def bootstrap_difference(
    first: tuple[Statistic, ArrayLike],
    second: tuple[Statistic, ArrayLike],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """First minus second for two groups of different patients, resampled independently (unpaired).

    Args:
        first: statistic and (N,) patients of one group.
        second: those of the other. A patient in both would make the groups paired: use :func:`bootstrap` there.

    Raises:
        BadValues: no patients, or one that is in both groups.
    """
    both = np.intersect1d(first[1], second[1])
    if both.size:
        raise BadValues(f"{both.size} patients are in both groups ({both[0]} …): compare the groups paired.")
    draws = [
        np.array([statistic(rows) for rows in resamples(patients, samples=samples, seed=seed + k)], dtype=np.float64)
        for k, (statistic, patients) in enumerate((first, second))
    ]
    values = [float(statistic(np.arange(np.size(patients)))) for statistic, patients in (first, second)]
    return percentiles(values[0] - values[1], draws[0] - draws[1], level=level)


def bootstrap_means(
    values: ArrayLike, patients: ArrayLike, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[Interval, ...]:
    """Mean over rows with its bootstrap interval, for many columns at once.

    Args:
        values: (N, columns); ``nan`` where a row has no value, which its column's mean leaves out.
        patients: (N,) the patient of each row.

    Returns:
        one interval a column; all ``nan`` for a column without values.
    """
    table = np.asarray(values, dtype=np.float64)
    owner, draws = patient_draws(patients, samples=samples, seed=seed)
    if table.ndim != 2 or len(table) != len(owner):
        raise BadValues(f"{len(owner)} rows have patients, the table of values has the shape {table.shape}.")
    known = ~np.isnan(table)
    sums, counts = np.zeros((2, draws.shape[1], table.shape[1]))
    np.add.at(sums, owner, np.where(known, table, 0))
    np.add.at(counts, owner, known)
    resampled = ratio(draws @ sums, draws @ counts)
    means = ratio(sums.sum(0), counts.sum(0))
    return tuple(percentiles(float(m), resampled[:, k], level=level) for k, m in enumerate(means))


def proportion(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """A proportion of independent cases with Wilson's interval (1927); with several nodules a patient use a bootstrap.

    Raises:
        BadValues: not 0 ≤ successes ≤ total.
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= total:
        raise BadValues(f"A share needs 0 ≤ successes ≤ total, got {successes} of {total}.")
    check_level(level)
    if not total:
        return Interval(np.nan, np.nan, np.nan, level)
    ends = binomtest(successes, total).proportion_ci(level, method="wilson")
    return Interval(successes / total, float(ends.low), float(ends.high), level)


# ---------------------------------------------------------------- paired tests


@dataclass(frozen=True)
class Wilcoxon:
    """Wilcoxon's signed-rank test of paired values.

    Attributes:
        statistic: the smaller of the positive and negative rank sums.
        p_value: two-sided.
        rank_biserial: −1…1, the effect size: positive minus negative rank sum, over their total (Kerby 2014); 1 if
            every difference is positive. ``nan`` if all are 0.
        median_difference: over all pairs.
        pairs: number of pairs.
        zeros: number of pairs without a difference, which the ranks leave out (Wilcoxon 1945).
    """

    statistic: float
    p_value: float
    rank_biserial: float
    median_difference: float
    pairs: int
    zeros: int


def wilcoxon(first: ArrayLike, second: ArrayLike) -> Wilcoxon:
    """Test whether paired values differ, first minus second.

    Exact up to 50 differences without ties, else by the normal distribution with correction for ties (scipy's
    choice). Pairs must be independent: with several nodules a patient, give each patient's mean.

    Args:
        first: (N,) one value a pair.
        second: (N,) the other.

    Raises:
        BadValues: lengths that differ, nothing, NaN.
    """
    from scipy import stats

    a, b = columns("The paired values", first, second)
    difference = a - b
    moved = difference[difference != 0]
    middle, pairs, zeros = float(np.median(difference)), len(a), len(a) - len(moved)
    if not len(moved):
        return Wilcoxon(0.0, 1.0, float("nan"), middle, pairs, zeros)
    ranks = stats.rankdata(np.abs(moved))
    above, below = float(ranks[moved > 0].sum()), float(ranks[moved < 0].sum())
    p = float(stats.wilcoxon(moved).pvalue)
    return Wilcoxon(min(above, below), p, (above - below) / (above + below), middle, pairs, zeros)


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two methods' error rates on the same cases.

    Attributes:
        only_first, only_second: number of cases that only one of them has right.
        exact: two-sided binomial p-value; conservative.
        mid_p: the exact one minus half the probability of the observation: the one to report (Fagerland et al. 2013).
        corrected: by chi² with Edwards' correction, as in older papers.
    """

    only_first: int
    only_second: int
    exact: float
    mid_p: float
    corrected: float


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Compare two classifiers on the same independent cases.

    Args:
        first_right: (N,) whether one was right.
        second_right: (N,) whether the other was.

    Raises:
        BadValues: lengths that differ, nothing, or other values than 0 and 1.
    """
    from scipy import stats

    a, b = columns("What was right", first_right, second_right)
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise BadValues("McNemar's test takes right and wrong, 1 and 0: compare predictions with the truth first.")
    only_first, only_second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    if not n:
        return McNemar(0, 0, 1.0, 1.0, 1.0)
    observed = float(stats.binom.pmf(k, n, 0.5))
    one_sided = float(stats.binom.cdf(k, n, 0.5))
    chi2 = max(abs(only_first - only_second) - 1, 0) ** 2 / n
    exact, mid_p = min(1.0, 2 * one_sided), min(1.0, 2 * one_sided - observed)
    return McNemar(only_first, only_second, exact, mid_p, float(stats.chi2.sf(chi2, 1)))


# ---------------------------------------------------------------- many tests at once


def holm(p_values: ArrayLike) -> Float:
    """P-values adjusted for the family-wise error rate (Holm 1979).

    Args:
        p_values: (N,) of all tests, in any order.

    Returns:
        (N,) in the same order.

    Raises:
        BadValues: nothing, NaN, or not 0…1.
    """
    p = _probabilities(p_values)
    order = np.argsort(p)
    out = np.empty_like(p)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return out


def benjamini_hochberg(p_values: ArrayLike) -> Float:
    """P-values adjusted for the false discovery rate (Benjamini and Hochberg 1995).

    For tests that are independent or positively dependent. Arguments, result and errors as :func:`holm`.
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(_probabilities(p_values)))


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, eq=False)
class Groups:
    """A grouping of rows by size band, texture or class.

    Attributes:
        code: (N,) index of each row's group.
        names: of the groups, in display order; a group may be empty.
    """

    code: Rows
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.code.ndim != 1 or (self.code.size and not 0 <= self.code.min() <= self.code.max() < len(self.names)):
            raise BadValues(f"Group numbers must be a list of 0…{len(self.names) - 1}, one a row.")

    @classmethod
    def of(cls, values: ArrayLike) -> Groups:
        """One group for every value that occurs, in ascending order; NaN is an error."""
        array = np.asarray(values)
        if array.ndim != 1 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise BadValues("Groups need a list without NaN: give unknown values a name.")
        unique, code = np.unique(array, return_inverse=True)
        return cls(code, tuple(str(u) for u in unique))

    @classmethod
    def bands(cls, values: ArrayLike, edges: Sequence[float], unit: str = "mm") -> Groups:
        """Bands of a measure, each including its lower edge; the outer two are open.

        ``Groups.bands(d, (6, 12)).names`` is ``("< 6 mm", "6–12 mm", "≥ 12 mm")``.

        Raises:
            BadValues: NaN.
            BadOption: no edges, or edges that do not rise.
        """
        (array,) = columns("The measure", values)
        if not len(edges) or not np.all(np.diff(edges) > 0):
            raise BadOption(f"The edges of bands must rise, got {tuple(edges)}.")
        inner = (f"{a:g}–{b:g} {unit}" for a, b in pairwise(edges))
        names = (f"< {edges[0]:g} {unit}", *inner, f"≥ {edges[-1]:g} {unit}")
        return cls(np.digitize(array, edges), names)

    def rows(self) -> Iterator[tuple[str, Rows]]:
        """Name and rows of each group that is not empty."""
        for number, name in enumerate(self.names):
            rows = np.flatnonzero(self.code == number)
            if rows.size:
                yield name, rows


# ---------------------------------------------------------------- what all metrics share


def columns(what: str, *arrays: ArrayLike) -> tuple[Float, ...]:
    """Check lists of finite numbers of one length, at least 1; ``what`` names them in the error.

    Raises:
        BadValues: anything else.
    """
    try:
        out = tuple(np.asarray(a, dtype=np.float64) for a in arrays)
    except (TypeError, ValueError) as error:
        raise BadValues(f"{what} must be numbers: {error}.") from error
    shapes = [a.shape for a in out]
    if any(len(s) != 1 or s != shapes[0] or not s[0] for s in shapes):
        raise BadValues(f"{what} must be lists of one length, at least 1: got {', '.join(map(str, shapes))}.")
    bad = sum(int((~np.isfinite(a)).sum()) for a in out)
    if bad:
        raise BadValues(f"{what}: {bad} are NaN or infinite. Leave those cases out, and report their number.")
    return out


def ratio(above: ArrayLike, below: ArrayLike) -> Float:
    """``above / below``, ``nan`` if below is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    return np.asarray(np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0))


def check_level(level: float) -> None:
    """Refuse a confidence level that is not between 0 and 1 (BadOption)."""
    if not 0 < level < 1:
        raise BadOption(f"A confidence level must be between 0 and 1, got {level}.")


def _ends(value: float, draws: Float, tails: Float, level: float) -> Interval:
    check_level(level)
    known = draws[~np.isnan(draws)]
    if not np.isfinite(tails).all() or len(known) < (1 - UNDEFINED) * len(draws) or not len(known):
        return Interval(value, np.nan, np.nan, level)
    low, high = np.quantile(known, tails)
    return Interval(value, float(low), float(high), level)


def _bca_tails(value: float, draws: Float, without: Float, level: float) -> Float:
    """BCa's quantiles (2,); ``nan`` where undefined (all resamples on one side, one patient)."""
    from scipy.special import ndtr, ndtri

    check_level(level)
    known = draws[~np.isnan(draws)]
    # half of the resamples equal to the figure count as below it, as in scipy
    below = ((known < value).sum() + (known <= value).sum()) / 2
    if not len(without) or not 0 < below < len(known):
        return np.full(2, np.nan)
    bias = ndtri(below / len(known))
    spread = without.mean() - without
    skew = ratio((spread**3).sum(), 6 * (spread**2).sum() ** 1.5)
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    return np.asarray(ndtr(bias + z / (1 - skew * z)), dtype=np.float64)


def _probabilities(values: Any) -> Float:
    (p,) = columns("The p-values", values)
    if p.min() < 0 or p.max() > 1:
        raise BadValues(f"P-values must be in 0…1, got {p.min():g}…{p.max():g}.")
    return p
