"""Evaluation of a malignancy score beside the diameter alone, and its calibration to a probability with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.linear_model import LogisticRegression

from nodulens.data.folds import FOLDS, is_left_out
from nodulens.io.records import Arrangement, inlined, to_plain
from nodulens.metrics.classification import auc, calibration, delong, ranking_draws
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.statistics import percentiles

BOOTSTRAPS = 1000
"""Bootstrap resamples of patients for intervals."""
INTERVAL = 0.9
BINS = 12
PANEL = 3
"""Readers that a nodule needs to be evaluated on."""
BETWEEN_MM = (6.0, 12.0)
"""Range in which the diameter is least informative."""
LEAST = 5
"""Nodules of each class below which no AUC is reported."""


@dataclass(frozen=True, eq=False)
class ScoredNodules:
    """Nodules with out-of-fold scores; all arrays (N,).

    Attributes:
        score: any number; higher is more malignant.
        truth: 1 malignant, 0 benign, −1 neither.
        share: of the readers who rated malignancy above 3.
        diameter_mm: of the disc of the largest axial area.
        calibration: code of that slice; never an input.
    """

    patients: Sequence[str]
    score: NDArray[np.floating]
    truth: NDArray[np.integer]
    readers: NDArray[np.integer]
    share: NDArray[np.floating]
    diameter_mm: NDArray[np.floating]
    calibration: NDArray[np.integer]

    @property
    def decided(self) -> NDArray[np.bool_]:
        """Which nodules (N,) are benign or malignant."""
        return np.asarray(self.truth >= 0)

    @property
    def panel(self) -> NDArray[np.bool_]:
        """Which nodules (N,) have enough readers."""
        return np.asarray(self.readers >= PANEL)

    @property
    def between(self) -> NDArray[np.bool_]:
        """Which nodules (N,) are of 6 to 12 mm."""
        low, high = BETWEEN_MM
        return np.asarray((self.diameter_mm >= low) & (self.diameter_mm < high))


@dataclass(frozen=True)
class Ranking:
    """How well a score separates malignant from benign nodules, compared with their diameter alone.

    Attributes:
        auc: of the score.
        auc_interval_95: lower and upper end, by drawing patients; None where no draw has both classes.
        auc_delong_95: the same by DeLong's variance; None where that is undefined.
        diameter_alone: AUC of the diameter.
        gain_interval_95: of the score's AUC less the diameter's, paired; as ``auc_interval_95``.
        gain_p_one_sided: share of the draws in which the score ranks no better than the diameter.
    """

    auc: float
    auc_interval_95: tuple[float, float] | None
    auc_delong_95: tuple[float, float] | None
    diameter_alone: float
    gain_interval_95: tuple[float, float] | None
    gain_p_one_sided: float

    @property
    def auc_estimate(self) -> Estimate:
        """AUC with its interval by patient."""
        return Estimate(self.auc, *(self.auc_interval_95 or (None, None)))


@dataclass(frozen=True)
class BesideDiameter:
    """The ranking of some nodules that are benign or malignant.

    Attributes:
        ranking: None of nodules of one class alone.
        nodules: how many.
        malignant: of them.
    """

    ranking: Ranking | None
    nodules: int
    malignant: int


@dataclass(frozen=True)
class CodeFigures:
    """AUC of the nodules whose slices share a calibration code."""

    auc: float
    nodules: int


@dataclass(frozen=True)
class CalibrationFigures:
    """How well probabilities are calibrated; what is undefined is None.

    Attributes:
        brier: mean squared error.
        ece_10_bins: expected calibration error.
        slope, intercept: of the logistic recalibration; 1 and 0 are perfect.
        nodules: how many.
    """

    brier: float | None
    ece_10_bins: float | None
    slope: float | None
    intercept: float | None
    nodules: int


ARRANGED: Mapping[type, Arrangement] = {
    BesideDiameter: inlined("ranking"),
}
"""In JSON a ranking is in one object with the counts of its nodules."""


def beside_diameter(scored: ScoredNodules, chosen: NDArray[np.bool_]) -> BesideDiameter:
    """AUC of chosen nodules beside that of the diameter alone, with intervals of both and of the gain from paired
    bootstraps over patients."""
    rows = np.flatnonzero(chosen & scored.decided)
    y, a, b = scored.truth[rows], scored.score[rows], scored.diameter_mm[rows]
    malignant = int(y.sum())
    if not 0 < malignant < len(rows):
        return BesideDiameter(None, len(rows), malignant)
    names = [scored.patients[i] for i in rows.tolist()]
    ours, size = (ranking_draws(y, v, names, samples=BOOTSTRAPS).auc for v in (a, b))
    plain = delong(y, a)
    ranking = Ranking(
        auc=round(plain.value, 4),
        auc_interval_95=ends(ours),
        auc_delong_95=(round(plain.low, 4), round(plain.high, 4)) if np.isfinite(plain.low) else None,
        diameter_alone=round(auc(y, b), 4),
        gain_interval_95=ends(ours - size),
        gain_p_one_sided=round(float(np.nanmean(ours <= size)), 4),
    )
    return BesideDiameter(ranking, len(rows), malignant)


def by_calibration_code(scored: ScoredNodules) -> dict[str, CodeFigures]:
    """AUC within each calibration code: a network that only recognises how a slice was stored would be at chance."""
    codes = {}
    decided = scored.decided & scored.panel
    for code in np.unique(scored.calibration[decided]):
        rows = np.flatnonzero(decided & (scored.calibration == code))
        y = scored.truth[rows]
        if LEAST <= y.sum() <= len(y) - LEAST:
            codes[str(int(code))] = CodeFigures(round(auc(y, scored.score[rows]), 4), len(rows))
    return codes


def figures(scored: ScoredNodules) -> dict[str, Any]:
    """AUC overall and from 6 to 12 mm beside the diameter alone, AUC by calibration code, and calibration.

    Needs nodules of all five folds.
    """
    rows = np.flatnonzero(scored.decided)
    found = {
        "three_readers_or_more": beside_diameter(scored, scored.panel),
        "six_to_twelve_mm": beside_diameter(scored, scored.panel & scored.between),
        "by_slice_calibration_code": by_calibration_code(scored),
        "calibration": calibration_figures(scored.truth[rows], _cross_fitted(scored, rows)),
    }
    return {name: to_plain(one, ARRANGED) for name, one in found.items()}


def calibration_figures(truth: NDArray[np.integer], p: NDArray[np.floating]) -> CalibrationFigures:
    """Calibration measures of probabilities; undefined ones are None."""
    found = calibration(truth, p)
    brier, ece, slope, intercept = (
        None if np.isnan(value) else round(value, digits)
        for value, digits in ((found.brier, 4), (found.ece, 4), (found.slope, 3), (found.intercept, 3))
    )
    return CalibrationFigures(brier, ece, slope, intercept, len(truth))


def settings(scored: ScoredNodules) -> dict[str, Any]:
    """Settings of a card: logistic calibration, and the interval, quantiles of the readers' share among nodules of
    similar probability. Needs nodules of all five folds."""
    rows = np.flatnonzero(scored.decided)
    slope, constant = _calibrate(scored.score[rows], scored.truth[rows])
    panel = np.flatnonzero(scored.panel)
    p = _probability(scored.score[panel], slope, constant)
    table = _interval_table(p, scored.share[panel])
    coverage = _coverage(scored)
    table["meaning"] = (
        f"In {INTERVAL:.0%} of nodules the share of readers who rate it suspicious (above 3; a 3 counts half) lies in "
        f"this interval. Built from quantiles of that share among left-out nodules of like probability (three readers "
        f"or more); measured on patients left out of building it: {coverage:.1%}."
    )
    table["coverage_measured"] = round(coverage, 4)
    return {"calibration": [slope, constant], "interval": table}


def _calibrate(score: NDArray[np.floating], y: NDArray[Any]) -> tuple[float, float]:
    model = LogisticRegression(C=1e6).fit(score[:, None], y)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _probability(score: NDArray[np.floating], slope: float, constant: float) -> NDArray[np.float64]:
    return np.asarray(special.expit(np.asarray(slope * score + constant, dtype=np.float64)))


def _interval_table(p: NDArray[np.float64], share: NDArray[np.floating]) -> dict[str, Any]:
    """Edges of bins of similar probability, and in each the quantiles of the share, corrected for the bin's count."""
    order = np.argsort(p)
    low, high, edges = [], [], []
    for rows in np.array_split(order, BINS):
        n = len(rows)
        tail = max(0.0, (1 - INTERVAL) / 2 - 0.5 / n)
        values = np.sort(share[rows])
        low.append(float(np.quantile(values, tail, method="lower")))
        high.append(float(np.quantile(values, 1 - tail, method="higher")))
        edges.append(float(p[rows].max()))
    return {"upper_edge": edges[:-1], "low": low, "high": high, "level": INTERVAL}


def _coverage(scored: ScoredNodules) -> float:
    """Coverage of the intervals by cross-validation: each fold by a table built from the other four."""
    inside: list[NDArray[np.bool_]] = []
    for fold in range(FOLDS):
        left = is_left_out(scored.patients, fold)
        fit_rows = np.flatnonzero(scored.decided & ~left)
        slope, constant = _calibrate(scored.score[fit_rows], scored.truth[fit_rows])
        build, test = np.flatnonzero(scored.panel & ~left), np.flatnonzero(scored.panel & left)
        table = _interval_table(_probability(scored.score[build], slope, constant), scored.share[build])
        p = _probability(scored.score[test], slope, constant)
        bins = np.minimum(np.searchsorted(table["upper_edge"], p), len(table["low"]) - 1)
        low = np.minimum(np.array(table["low"])[bins], p)
        high = np.maximum(np.array(table["high"])[bins], p)
        inside.append((scored.share[test] >= low) & (scored.share[test] <= high))
    return float(np.concatenate(inside).mean())


def _cross_fitted(scored: ScoredNodules, rows: NDArray[np.int_]) -> NDArray[np.float64]:
    """Probabilities of ``rows``, each fold calibrated on the other four."""
    p = np.zeros(len(rows))
    left = np.array([is_left_out([scored.patients[i] for i in rows], f) for f in range(FOLDS)])
    for fold in range(FOLDS):
        others = rows[~left[fold]]
        slope, constant = _calibrate(scored.score[others], scored.truth[others])
        p[left[fold]] = _probability(scored.score[rows[left[fold]]], slope, constant)
    return p


def ends(draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """Both ends of the 95 % interval of bootstrap samples; None if no sample is defined."""
    interval = percentiles(float("nan"), draws)
    return None if np.isnan(interval.low) else (round(interval.low, 4), round(interval.high, 4))
