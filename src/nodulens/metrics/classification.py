"""Metrics of classification: ranking, decisions, probabilities.

Labels are 1 (positive: malignant, a nodule) or 0; a higher score means 1; a case is predicted positive if its score is
*at least* the threshold. A figure that the data leave undefined (one class alone) is ``nan``; data that cannot be used
at all are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues
from nodulens.metrics.statistics import Float, Groups, Interval, check_level, columns, patient_draws, ratio

NAN = float("nan")
LEAP = 4.0
"""Largest change of a case's log odds in one step of a logistic regression."""
CHUNK = 2_000_000
"""Numbers in an array while bootstrapping: 16 MB."""


# ---------------------------------------------------------------- ranking


@dataclass(frozen=True)
class Cut:
    """A classifier at a threshold.

    It is optimistic if chosen and reported on the same cases: choose it on others, and report
    ``confusion(y, s >= threshold)``.

    Attributes:
        threshold: least score of a predicted positive; infinite where there is none.
        sensitivity, specificity, precision: at the threshold, 0…1.
    """

    threshold: float
    sensitivity: float
    specificity: float
    precision: float


@dataclass(frozen=True, eq=False)
class Curve:
    """True and false positives at every threshold: the ROC and the precision–recall curve.

    Attributes:
        thresholds: (T,) infinity, then the distinct scores, descending.
        true_positives: (T,) weight of the positives at or above each threshold; 0 first, all last.
        false_positives: (T,) that of the negatives.
    """

    thresholds: Float
    true_positives: Float
    false_positives: Float

    @cached_property
    def sensitivity(self) -> Float:
        """Sensitivity (recall) at each threshold, (T,)."""
        return ratio(self.true_positives, self.true_positives[-1])

    @cached_property
    def specificity(self) -> Float:
        """Specificity at each threshold, (T,)."""
        return 1 - ratio(self.false_positives, self.false_positives[-1])

    @cached_property
    def precision(self) -> Float:
        """Precision at each threshold, (T,); ``nan`` without predicted positives."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def auc(self) -> float:
        """Area under the ROC curve: the probability that a positive outranks a negative, ties counting half."""
        return float(_auc(self.true_positives, self.false_positives))

    @property
    def average_precision(self) -> float:
        """Mean precision over the positives, each at its own score, without (optimistic) interpolation."""
        return float(_average_precision(self.true_positives, self.false_positives))

    def at_sensitivity(self, least: float) -> Cut:
        """The highest threshold of at least this sensitivity."""
        return self._cut(np.flatnonzero(self.sensitivity >= least - 1e-12)[:1])

    def at_specificity(self, least: float) -> Cut:
        """The lowest threshold of at least this specificity."""
        return self._cut(np.flatnonzero(self.specificity >= least - 1e-12)[-1:])

    def youden(self) -> Cut:
        """The threshold of the largest sensitivity + specificity − 1 (Youden 1950); of several the highest."""
        j = self.sensitivity + self.specificity
        return self._cut(np.flatnonzero(j >= j.max() - 1e-12)[:1])

    def _cut(self, at: NDArray[np.intp]) -> Cut:
        if not at.size:
            return Cut(NAN, NAN, NAN, NAN)
        k = int(at[0])
        return Cut(*(float(v[k]) for v in (self.thresholds, self.sensitivity, self.specificity, self.precision)))


def curve(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> Curve:
    """The ROC and precision–recall curve.

    Args:
        labels: (N,) 1 or 0.
        scores: (N,) any finite numbers.
        weights: (N,) 0 or more, such as one over the number of patches of a nodule; None counts cases.

    Raises:
        BadValues: lengths that differ, nothing, NaN, other labels, negative weights or none above 0.
    """
    y, s, w = _cases(labels, scores, weights)
    order, ends = _ranks(s)
    tp, fp = (np.concatenate([[0.0], np.cumsum((w * of)[order])[ends]]) for of in (y, 1 - y))
    return Curve(np.concatenate([[np.inf], s[order][ends]]), tp, fp)


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve, 0…1; arguments and errors as :func:`curve`. ``nan`` with one class alone."""
    return curve(labels, scores, weights).auc


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Average precision, 0…1; arguments and errors as :func:`curve`. ``nan`` without positives."""
    return curve(labels, scores, weights).average_precision


def macro_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean over classes of the AUC of each against all others.

    Args:
        labels: (N,) number of the class, 0…K − 1.
        scores: (N, K) one score a class.

    Returns:
        0…1, over the classes that occur; ``nan`` where fewer than two do.

    Raises:
        BadValues: shapes that do not fit, NaN, a class without a column.
    """
    (y,) = columns("The labels", labels)
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(y) or not np.isin(y, np.arange(table.shape[1])).all():
        raise BadValues(f"{len(y)} labels of 0…K − 1 need a table of N × K scores, got shape {table.shape}.")
    found = np.unique(y).astype(int)
    return float(np.mean([auc(y == k, table[:, k]) for k in found])) if len(found) > 1 else NAN


@dataclass(frozen=True, eq=False)
class RankingDraws:
    """AUC and average precision in bootstrap samples of patients, (samples,) each."""

    auc: Float
    average_precision: Float


def ranking_draws(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> RankingDraws:
    """Bootstrap AUC and average precision by patient; the cases are sorted once.

    ``percentiles(auc(y, s), ranking_draws(y, s, patients).auc)`` is the interval. Two models on the same cases share
    their draws, so the difference of theirs is paired.

    Args:
        labels: (N,) 1 or 0.
        scores: (N,) any finite numbers.
        patients: (N,) the patient of each case.
        weights: (N,) as in :func:`curve`.
        samples: number of resamples.
        seed: of the resamples, as in :func:`nodulens.metrics.statistics.resamples`.

    Raises:
        BadValues: as :func:`curve`, or another number of patients.
    """
    y, s, w = _cases(labels, scores, weights)
    owner, draws = patient_draws(patients, samples=samples, seed=seed)
    if len(owner) != len(y):
        raise BadValues(f"{len(y)} cases have {len(owner)} patients: give one each.")
    order, ends = _ranks(s)
    owner, y, w = owner[order], y[order], w[order]
    out = np.empty((2, samples))
    step = max(1, CHUNK // len(y))
    for first in range(0, samples, step):
        weights = draws[first : first + step][:, owner] * w
        tp, fp = (np.cumsum(weights * of, axis=1)[:, ends] for of in (y, 1 - y))
        start = np.zeros((len(weights), 1))
        tp, fp = np.hstack([start, tp]), np.hstack([start, fp])
        out[:, first : first + step] = _auc(tp, fp), _average_precision(tp, fp)
    return RankingDraws(*out)


# ---------------------------------------------------------------- DeLong


def delong(labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95) -> Interval:
    """AUC with the interval of DeLong, DeLong and Clarke-Pearson (1988), clipped to 0…1.

    Computed from ranks in O(N log N) (Sun and Xu 2014). It assumes independent cases; with several nodules a patient
    use :func:`ranking_draws`. Where the classes do not overlap, the variance and so the width is 0, a limitation of the
    method.

    Args:
        labels: (N,) 1 or 0.
        scores: (N,) any finite numbers.
        level: 0…1.

    Returns:
        the AUC, ``nan`` with one class alone; the ends are ``nan`` with fewer than two cases of a class.

    Raises:
        BadValues: as :func:`curve`.
        BadOption: a level outside 0…1.
    """
    areas, covariance = _delong(labels, scores)
    return _wald(float(areas[0]), float(covariance[0, 0]), level, (0.0, 1.0))


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs on the same cases.

    Attributes:
        first, second: each with its DeLong interval.
        difference: first less second, with its interval.
        z: difference over its standard error; ``nan`` where that is 0.
        p_value: two-sided; 1 where the two rank equally, ``nan`` where it is undefined.
    """

    first: Interval
    second: Interval
    difference: Interval
    z: float
    p_value: float


def delong_test(labels: ArrayLike, first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> AucComparison:
    """Compare two models on the same independent cases (DeLong 1988, paired).

    Args:
        labels: (N,) 1 or 0.
        first: (N,) scores of one model.
        second: (N,) scores of the other; the scales may differ.
        level: 0…1, of all intervals.

    Raises:
        BadValues: as :func:`curve`.
        BadOption: a level outside 0…1.
    """
    from scipy.special import ndtr

    areas, covariance = _delong(labels, first, second)
    gap = float(areas[0] - areas[1])
    # rounding leaves a small variance where both rank equally
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    variance = 0.0 if variance < 1e-15 else variance
    z = gap / variance**0.5 if variance != 0 else NAN
    p_value = 1.0 if variance == 0 and abs(gap) < 1e-12 else float(2 * ndtr(-abs(z)))
    one, two = (_wald(float(areas[k]), float(covariance[k, k]), level, (0.0, 1.0)) for k in (0, 1))
    return AucComparison(one, two, _wald(gap, variance, level, (-1.0, 1.0)), z, p_value)


# ---------------------------------------------------------------- like with like


@dataclass(frozen=True)
class GroupAuc:
    """AUC within a group with DeLong's interval, and its number of cases."""

    auc: Interval
    positives: int
    negatives: int


def auc_by_group(labels: ArrayLike, scores: ArrayLike, groups: Groups, *, level: float = 0.95) -> dict[str, GroupAuc]:
    """AUC within size bands, textures and so on, so that the group itself does not contribute.

    Args:
        labels: (N,) 1 or 0.
        scores: (N,) any finite numbers.
        groups: of the N cases, as ``Groups.bands(diameter_mm, (6, 12))`` or ``Groups.of(texture)``.
        level: 0…1.

    Returns:
        name → AUC, for groups with a case; ``nan`` for groups of one class.

    Raises:
        BadValues: as :func:`curve`, or another number of groups.
        BadOption: a level outside 0…1.
    """
    y, s, _ = _cases(labels, scores, None)
    if len(groups.code) != len(y):
        raise BadValues(f"{len(y)} cases have {len(groups.code)} groups: give one each.")
    out = {}
    for name, rows in groups.rows():
        positives = int(y[rows].sum())
        out[name] = GroupAuc(delong(y[rows], s[rows], level=level), positives, len(rows) - positives)
    return out


@dataclass(frozen=True)
class MatchedAuc:
    """AUC over size-matched pairs.

    Attributes:
        auc: share of the pairs in which the positive scores higher, ties counting half; ``nan`` without pairs.
        pairs: number of pairs of a positive and a negative.
        positives, negatives: number of cases in a pair.
    """

    auc: float
    pairs: int
    positives: int
    negatives: int


def matched_auc(labels: ArrayLike, scores: ArrayLike, sizes: ArrayLike, *, within: float) -> MatchedAuc:
    """AUC over all pairs of a positive and a negative of similar size, for which size itself has about one half.

    For an interval: ``bootstrap(lambda r: matched_auc(y[r], s[r], d[r], within=1).auc, patients)``.

    Args:
        labels: (N,) 1 or 0.
        scores: (N,) any finite numbers.
        sizes: (N,) such as diameters in mm.
        within: largest difference of the sizes of a pair, in the same unit.

    Raises:
        BadValues: as :func:`curve`.
        BadOption: ``within`` below 0.
    """
    y, s, _ = _cases(labels, scores, None)
    _, size = columns("Scores and sizes", s, sizes)
    if not within >= 0:
        raise BadOption(f"Sizes within {within} of one another: give 0 or more.")
    positive = np.flatnonzero(y == 1)
    negative = np.flatnonzero(y == 0)
    negative = negative[np.argsort(size[negative], kind="stable")]
    low = np.searchsorted(size[negative], size[positive] - within, side="left")
    count = np.searchsorted(size[negative], size[positive] + within, side="right") - low
    total = int(count.sum())
    # the partners of each positive are consecutive in the sorted negatives
    partner = np.arange(total) + np.repeat(low - np.cumsum(count) + count, count)
    gap = np.repeat(s[positive], count) - s[negative[partner]]
    area = float(np.mean((gap > 0) + 0.5 * (gap == 0))) if total else NAN
    return MatchedAuc(area, total, int((count > 0).sum()), len(np.unique(partner)))


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Rates:
    """Rates of one class, or their mean. Each 0…1, ``nan`` where undefined.

    Attributes:
        sensitivity: tp / (tp + fn), recall.
        specificity: tn / (tn + fp).
        precision: tp / (tp + fp), positive predictive value.
        negative_predictive_value: tn / (tn + fn).
        f1: 2 tp / (2 tp + fp + fn).
        support: number (or weight) of the cases of the class.
    """

    sensitivity: float
    specificity: float
    precision: float
    negative_predictive_value: float
    f1: float
    support: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix.

    Attributes:
        classes: in order; of two, the last is the positive one.
        counts: (K, K) cases (or weight), rows the ground truth, columns the prediction.
    """

    classes: tuple[Any, ...]
    counts: Float

    @property
    def accuracy(self) -> float:
        """Share of the cases that are predicted correctly."""
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def balanced_accuracy(self) -> float:
        """Mean sensitivity of the classes that occur."""
        return float(np.nanmean(ratio(np.diag(self.counts), self.counts.sum(1))))

    @property
    def positive(self) -> Rates:
        """The rates of the positive class, the last of two.

        Raises:
            BadOption: not two classes.
        """
        if len(self.classes) != 2:
            raise BadOption(f"{len(self.classes)} classes have no positive one: use .of(class) or .macro.")
        return self.of(self.classes[1])

    @property
    def macro(self) -> Rates:
        """Mean over the classes in ground truth or prediction; undefined rates count 0, as in scikit-learn."""
        return self._mean(np.ones(len(self.classes)))

    @property
    def weighted(self) -> Rates:
        """Mean over classes weighted by support; undefined rates count 0, as in scikit-learn."""
        return self._mean(self.counts.sum(1))

    def of(self, name: Any) -> Rates:
        """The rates of one class against all others.

        Raises:
            BadOption: no such class.
        """
        if name not in self.classes:
            raise BadOption(f"No class {name!r}; there are {', '.join(map(repr, self.classes))}.")
        return Rates(*(float(v) for v in self._table[self.classes.index(name)]))

    def report(self) -> dict[str, Any]:
        """All figures for JSON; undefined ones are None."""
        rows = {str(name): asdict(self.of(name)) for name in self.classes}
        rows |= {"macro": asdict(self.macro), "weighted": asdict(self.weighted)}
        rows = {name: {k: None if np.isnan(v) else v for k, v in rates.items()} for name, rates in rows.items()}
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro": rows.pop("macro"),
            "weighted": rows.pop("weighted"),
            "classes": rows,
            "confusion": self.counts.tolist(),
        }

    def text(self) -> str:
        """The report as text: one line a class, then the means; – where undefined."""
        heads = ("sensitivity", "specificity", "precision", "f1", "support")
        lines = [(str(name), self.of(name)) for name in self.classes]
        lines += [("macro mean", self.macro), ("weighted mean", self.weighted)]
        width = max(len(name) for name, _ in lines)
        rows = ["  ".join([" " * width, *(f"{h:>11}" for h in heads)])]
        for name, rates in lines:
            values = [getattr(rates, h) for h in heads]
            cells = ["–" if np.isnan(v) else f"{v:.4f}" for v in values[:-1]] + [f"{values[-1]:g}"]
            rows.append("  ".join([f"{name:<{width}}", *(f"{c:>11}" for c in cells)]))
        total = self.counts.sum()
        return "\n".join([*rows, f"accuracy {self.accuracy:.4f} of {total:g}, balanced {self.balanced_accuracy:.4f}"])

    @cached_property
    def _table(self) -> Float:
        """Rates of all classes (K, 6), in the order of :class:`Rates`."""
        c = self.counts
        tp, support, called, total = np.diag(c), c.sum(1), c.sum(0), c.sum()
        fp, fn = called - tp, support - tp
        tn = total - tp - fp - fn
        parts = ((tp, support), (tn, tn + fp), (tp, called), (tn, tn + fn), (2 * tp, 2 * tp + fp + fn))
        return np.stack([*(ratio(part, whole) for part, whole in parts), support], axis=1)

    def _mean(self, weights: Float) -> Rates:
        occurs = (self.counts.sum(0) + self.counts.sum(1)) > 0
        means = np.average(np.nan_to_num(self._table[occurs, :5]), axis=0, weights=weights[occurs])
        return Rates(*(float(v) for v in (*means, self.counts.sum())))


def confusion(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    weights: ArrayLike | None = None,
) -> Confusion:
    """Count predictions by true class.

    Args:
        truth: (N,) classes: numbers, bools or names.
        predicted: (N,) predicted classes.
        classes: all classes in order, of two the positive one last; None: those that occur, sorted.
        weights: (N,) 0 or more; None counts cases.

    Raises:
        BadValues: lengths that differ, nothing, NaN, a class that is not among ``classes``, bad weights.
    """
    a, b = np.asarray(truth), np.asarray(predicted)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise BadValues(f"Truth and prediction must be lists of one length, at least 1: got {a.shape} and {b.shape}.")
    w = _weights(weights, len(a))
    values, code = np.unique(np.concatenate([a, b]), return_inverse=True)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadValues("A class is NaN or infinite: leave out cases that have none, and report their number.")
    names = tuple(values.tolist()) if classes is None else tuple(classes)
    strange = [v for v in values.tolist() if v not in names]
    if strange:
        raise BadValues(f"{strange[0]!r} is not among the classes {', '.join(map(repr, names))}.")
    code = np.array([names.index(v) for v in values.tolist()])[code]
    n, k = len(a), len(names)
    counts = np.bincount(code[:n] * k + code[n:], w, k * k).reshape(k, k)
    return Confusion(names, np.asarray(counts, dtype=np.float64))


# ---------------------------------------------------------------- probabilities


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of probabilities.

    Attributes:
        predicted: (B,) mean probability of each bin with a case: x of the reliability curve.
        observed: (B,) share of positives in each bin: y of the curve.
        weight: (B,) number (or weight) of cases in each bin.
        ece: expected calibration error, the weighted mean of |observed − predicted|.
        brier: mean squared error of the probabilities; it is reliability − resolution + uncertainty.
        reliability: weighted mean of (observed − predicted)², best 0.
        resolution: variance of the bins' shares, with the terms within bins (Stephenson, Coelho and Jolliffe 2008), so
            that the sum is exact.
        uncertainty: variance of the labels: the Brier score of predicting the prevalence.
        slope: calibration slope on the log odds; 1 is ideal, below 1 is overconfident. ``nan`` where the classes do not
            overlap or all probabilities are equal.
        intercept: calibration in the large, with the slope fixed at 1; 0 is ideal, above 0 the probabilities are too
            low.
    """

    predicted: Float
    observed: Float
    weight: Float
    ece: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    slope: float
    intercept: float


def calibration(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 10,
    equal: Literal["width", "mass"] = "width",
    weights: ArrayLike | None = None,
) -> Calibration:
    """Calibration of probabilities; for several classes pass whether the predicted one is right, and its probability.

    Slope and intercept are logistic regressions on the log odds (Cox 1958; Van Calster et al. 2019) of probabilities
    clipped to 1e-6 and 1 − 1e-6.

    Args:
        labels: (N,) 1 or 0.
        probabilities: (N,) of 1, 0…1.
        bins: number of bins, 1 at least.
        equal: bins of equal "width" over 0…1, each with its lower edge and the last with 1; or of equal "mass", where
            equal probabilities share a bin.
        weights: (N,) 0 or more; None counts cases.

    Raises:
        BadValues: as :func:`curve`, or not 0…1.
        BadOption: no bins, or an unknown kind.
    """
    y, p, w = _cases(labels, probabilities, weights)
    if p.min() < 0 or p.max() > 1:
        raise BadValues(
            f"Probabilities are in 0…1, got {p.min():g}…{p.max():g}: apply the logistic function to logits."
        )
    if bins < 1 or equal not in ("width", "mass"):
        raise BadOption(f"Calibration needs one bin or more of equal 'width' or 'mass', got {bins} of {equal!r}.")
    total = float(w.sum())
    if equal == "width":
        place = p * bins
    else:
        _, owner = np.unique(p, return_inverse=True)
        mass = np.bincount(owner, w)
        place = ((np.cumsum(mass) - mass / 2) * bins / total)[owner]
    bin_of = np.minimum(place.astype(int), bins - 1)
    sums: Float = np.stack([np.bincount(bin_of, v, bins) for v in (w, w * p, w * y)]).astype(np.float64)
    weight, predicted, observed = sums[:, sums[0] > 0]
    predicted, observed = predicted / weight, observed / weight
    base, gap = float(w @ y) / total, observed - predicted
    brier, reliability = float(w @ (p - y) ** 2) / total, float(weight @ gap**2) / total
    uncertainty = base * (1 - base)
    slope, intercept = _recalibration(y, p, w)
    return Calibration(
        predicted=predicted, observed=observed, weight=weight, ece=float(weight @ np.abs(gap)) / total, brier=brier,
        reliability=reliability, resolution=reliability + uncertainty - brier, uncertainty=uncertainty,
        slope=slope, intercept=intercept,
    )  # fmt: skip


# ---------------------------------------------------------------- parts


def _cases(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[Float, Float, Float]:
    y, s = columns("Labels and scores", labels, scores)
    if not np.isin(y, (0, 1)).all():
        raise BadValues(f"Labels are 0 or 1, got {y[~np.isin(y, (0, 1))][0]:g}: say which classes are positive.")
    return y, s, _weights(weights, len(y))


def _weights(weights: ArrayLike | None, count: int) -> Float:
    if weights is None:
        return np.ones(count)
    (w,) = columns("The weights", weights)
    if len(w) != count or w.min() < 0 or w.sum() <= 0:
        raise BadValues(f"{count} cases need {count} weights of 0 or more, not all 0.")
    return w


def _ranks(scores: Float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows by descending score, and the positions in that order where a run of equal scores ends."""
    order = np.argsort(-scores, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)


def _auc(tp: Float, fp: Float) -> Float:
    """Area by trapezoids under (..., T) counts that begin at 0."""
    return ratio((np.diff(fp) * (tp[..., 1:] + tp[..., :-1])).sum(-1), 2 * tp[..., -1] * fp[..., -1])


def _average_precision(tp: Float, fp: Float) -> Float:
    precision = np.nan_to_num(ratio(tp, tp + fp))
    return ratio((np.diff(tp) * precision[..., 1:]).sum(-1), tp[..., -1])


def _delong(labels: ArrayLike, *scores: ArrayLike) -> tuple[Float, Float]:
    """Areas (M,) of M models and their covariance (M, M)."""
    from scipy.stats import rankdata

    y = _cases(labels, scores[0], None)[0]
    table = np.stack([_cases(labels, s, None)[1] for s in scores])
    positive = y == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return np.full(len(table), NAN), np.full((len(table),) * 2, NAN)
    among_all = rankdata(table, axis=1)
    # structural components: the share of the other class that each case outranks
    above = (among_all[:, positive] - rankdata(table[:, positive], axis=1)) / n
    below = 1 - (among_all[:, ~positive] - rankdata(table[:, ~positive], axis=1)) / m
    areas = above.mean(axis=1)
    if m < 2 or n < 2:
        return areas, np.full((len(table),) * 2, NAN)
    return areas, np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n


def _wald(value: float, variance: float, level: float, bounds: tuple[float, float]) -> Interval:
    from scipy.special import ndtri

    check_level(level)
    half = float(ndtri((1 + level) / 2)) * variance**0.5
    low, high = np.clip([value - half, value + half], *bounds)
    return Interval(value, float(low), float(high), level)


def _recalibration(y: Float, p: Float, w: Float) -> tuple[float, float]:
    """Slope of the joint fit, and intercept with the slope fixed at 1."""
    x = np.clip(p, 1e-6, 1 - 1e-6)
    x = np.log(x) - np.log1p(-x)
    one, none = x[(y == 1) & (w > 0)], x[(y == 0) & (w > 0)]
    if not one.size or not none.size:
        return NAN, NAN
    intercept = float(_logistic(np.ones((len(x), 1)), y, w, x)[0])
    unclear = one.min() >= none.max() or none.min() >= one.max() or np.ptp(x) < 1e-6
    slope = NAN if unclear else float(_logistic(np.stack([np.ones_like(x), x], 1), y, w, np.zeros_like(x))[1])
    return slope, intercept


def _logistic(x: Float, y: Float, w: Float, offset: Float) -> Float:
    """Weighted logistic regression by Newton's method with step halving; the classes must overlap."""
    from scipy.special import expit

    def loss(beta: Float) -> float:
        return float(w @ (np.logaddexp(0, x @ beta + offset) - y * (x @ beta + offset)))

    beta = np.zeros(x.shape[1])
    for _ in range(100):
        q = expit(x @ beta + offset)
        step = np.linalg.solve((x.T * (w * q * (1 - q))) @ x, x.T @ (w * (y - q)))
        # a large step could end where every q is 0 or 1, with zero gradient
        now, size = loss(beta), LEAP / max(float(np.abs(x @ step).max()), LEAP)
        while size > 1e-6 and loss(beta + size * step) > now:
            size /= 2
        beta = beta + size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return beta
