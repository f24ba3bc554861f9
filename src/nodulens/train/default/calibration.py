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
from nodulens.metrics.statistics import patient_draws, percentiles

BOOTSTRAPS = 1000
"""Bootstrap resamples of patients for intervals."""
INTERVAL = 0.9
BINS = 12
ALIKE = 40
"""Nodules of a number of readers that an interval is built from, at least."""
PANEL = 3
"""Readers that a nodule needs to be evaluated on."""
BETWEEN_MM = (6.0, 12.0)
"""Range in which the diameter is least informative."""
CUT = 0.5
"""Probability from which on a nodule is called suspicious."""
LEAST = 5
"""Nodules of each class below which no AUC is reported."""


@dataclass(frozen=True, eq=False)
class ScoredNodules:
    """Nodules with out-of-fold scores; all arrays (N,).

    Attributes:
        score: any number; higher is more malignant.
        truth: 1 malignant, 0 benign, −1 neither.
        readers: number who marked it.
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
        auc_interval_95: lower and upper end, by drawing patients; None of one patient, and where more than one draw in
            twenty lacks a class.
        auc_delong_95: the same by DeLong's variance; None where that is undefined.
        diameter_alone: AUC of the diameter.
        gain_interval_95: of the score's AUC less the diameter's, paired; as ``auc_interval_95``.
        gain_p_one_sided: share of the draws with both classes in which the score ranks no better than the diameter.
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
    plain, several, known = delong(y, a), len(set(names)) > 1, ~np.isnan(ours)
    ranking = Ranking(
        auc=round(plain.value, 4),
        auc_interval_95=ends(ours) if several else None,
        auc_delong_95=(round(plain.low, 4), round(plain.high, 4)) if np.isfinite(plain.low) else None,
        diameter_alone=round(auc(y, b), 4),
        gain_interval_95=ends(ours - size) if several else None,
        gain_p_one_sided=round(float(np.mean((ours <= size)[known])), 4) if known.any() else 1.0,
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


@dataclass(frozen=True)
class CutFigures:
    """Decisions at a probability of :data:`CUT`.

    Attributes:
        cut: the probability.
        sensitivity, specificity: shares, with their interval by patient.
    """

    cut: float
    sensitivity: Estimate
    specificity: Estimate


def figures(scored: ScoredNodules, p: NDArray[np.float64]) -> dict[str, Any]:
    """AUC overall and from 6 to 12 mm beside the diameter alone, AUC by calibration code, and calibration and decisions
    at a probability of 0.5, all of nodules of three readers or more.

    Args:
        p: (N,) probabilities, see :func:`cross_fitted`.
    """
    rows = np.flatnonzero(scored.decided & scored.panel)
    found = {
        "three_readers_or_more": beside_diameter(scored, scored.panel),
        "six_to_twelve_mm": beside_diameter(scored, scored.panel & scored.between),
        "by_slice_calibration_code": by_calibration_code(scored),
        "calibration": calibration_figures(scored.truth[rows], p[rows]),
        "at_the_cut": at_the_cut(scored.truth[rows], p[rows], [scored.patients[i] for i in rows.tolist()]),
    }
    return {name: to_plain(one, ARRANGED) for name, one in found.items()}


def at_the_cut(truth: NDArray[np.integer], p: NDArray[np.floating], patients: Sequence[str]) -> CutFigures:
    """Sensitivity and specificity of "malignant" where the probability is at least :data:`CUT`."""
    owner, draws = patient_draws(patients)
    called = p >= CUT

    def share(of: NDArray[np.bool_], right: NDArray[np.bool_]) -> Estimate:
        counts = np.array([np.bincount(owner[k], minlength=draws.shape[1]) for k in (of & right, of)], dtype=np.float64)
        drawn = draws.astype(np.float64) @ counts.T
        with np.errstate(invalid="ignore"):
            found = percentiles(float((of & right).sum() / of.sum()), drawn[:, 0] / drawn[:, 1])
        return Estimate.of(found, patients)

    return CutFigures(CUT, share(truth == 1, called), share(truth == 0, ~called))


def calibration_figures(truth: NDArray[np.integer], p: NDArray[np.floating]) -> CalibrationFigures:
    """Calibration measures of probabilities; undefined ones are None."""
    found = calibration(truth, p)
    brier, ece, slope, intercept = (
        None if np.isnan(value) else round(value, digits)
        for value, digits in ((found.brier, 4), (found.ece, 4), (found.slope, 3), (found.intercept, 3))
    )
    return CalibrationFigures(brier, ece, slope, intercept, len(truth))


def settings(scored: ScoredNodules) -> dict[str, Any]:
    """Settings of a card: logistic calibration, and the interval, which holds the readers' share in nodules of similar
    probability. Needs nodules of all five folds."""
    slope, constant = _calibrate(scored, np.ones(len(scored.patients), dtype=bool))
    p = _probability(scored.score, slope, constant)
    table = _interval_table(p, scored.share, scored.readers)
    inside = _inside(scored)
    by_readers = {str(k): inside[scored.readers == k] for k in np.unique(scored.readers).tolist()}
    held = {k: round(float(v.mean()), 4) for k, v in by_readers.items()}
    told = ", ".join(f"{share:.1%} of those of {k} reader{'s' * (k != '1')}" for k, share in held.items())
    coverage = round(float(inside[scored.panel].mean()), 4)
    table["meaning"] = (
        f"In at least {INTERVAL:.0%} of nodules of three readers or four the share of these readers who rate it "
        f"suspicious (above 3; a 3 counts half) is to lie in this interval, the shortest that held it in left-out "
        f"nodules of like probability. One reader or two agree with it less often. Measured on patients left out of "
        f"building it: {told}."
    )
    table["coverage_measured"] = coverage
    table["coverage_by_readers"] = held
    return {"calibration": [slope, constant], "interval": table}


def _calibrate(scored: ScoredNodules, among: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and constant of the log odds, fitted on the decided nodules of three readers or more among some (N,)."""
    rows = np.flatnonzero(among & scored.decided & scored.panel)
    model = LogisticRegression(C=1e6).fit(scored.score[rows, None], scored.truth[rows])
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _probability(score: NDArray[np.floating], slope: float, constant: float) -> NDArray[np.float64]:
    return np.asarray(special.expit(np.asarray(slope * score + constant, dtype=np.float64)))


def _interval_table(
    p: NDArray[np.float64], share: NDArray[np.floating], readers: NDArray[np.integer]
) -> dict[str, Any]:
    """Edges of bins of similar probability, and in each the shortest interval that holds the share of enough nodules of
    each number of readers from :data:`PANEL` on. For one reader as well it would tell nothing: of nodules near
    certainty more than a tenth of single readers disagree, so that it would reach from 0 to 1.

    Enough is the level of one nodule more than there are, as a new one is to be held (split conformal prediction).
    Where a number of readers has fewer than :data:`ALIKE` nodules in a bin, its most similar ones outside count too.
    """
    order = np.argsort(p, kind="stable")
    groups = [order[readers[order] == k] for k in np.unique(readers) if k >= PANEL]
    shares = np.unique(np.concatenate([[0.0, 1.0], share]))
    lower, upper = (shares[k] for k in np.triu_indices(len(shares)))
    low, high, edges = [], [], []
    for rows in np.array_split(order[readers[order] >= PANEL], BINS):
        fits = np.ones(len(lower), dtype=bool)
        for group in groups:
            away = np.maximum(p[rows].min() - p[group], p[group] - p[rows].max())
            mine = share[group[np.argsort(away, kind="stable")[: max(ALIKE, int((away <= 0).sum()))]]]
            held = (mine[:, None] >= lower) & (mine[:, None] <= upper)
            fits &= held.sum(0) >= INTERVAL * (len(mine) + 1)
        width = np.where(fits, upper - lower, np.inf)
        best = int(width.argmin())
        whole = not fits.any()
        low.append(0.0 if whole else float(lower[best]))
        high.append(1.0 if whole else float(upper[best]))
        edges.append(float(p[rows].max()))
    return {"upper_edge": edges[:-1], "low": low, "high": high, "level": INTERVAL}


def _inside(scored: ScoredNodules) -> NDArray[np.bool_]:
    """Whether the interval of each nodule (N,) holds its readers' share, by a table built from the other folds."""
    inside = np.zeros(len(scored.patients), dtype=bool)
    for fold in range(FOLDS):
        left = is_left_out(scored.patients, fold)
        slope, constant = _calibrate(scored, ~left)
        p = _probability(scored.score, slope, constant)
        table = _interval_table(p[~left], scored.share[~left], scored.readers[~left])
        bins = np.minimum(np.searchsorted(table["upper_edge"], p), len(table["low"]) - 1)
        low, high = np.minimum(np.array(table["low"])[bins], p), np.maximum(np.array(table["high"])[bins], p)
        inside[left] = ((scored.share >= low) & (scored.share <= high))[left]
    return inside


def cross_fitted(scored: ScoredNodules) -> NDArray[np.float64]:
    """Probabilities (N,), each fold calibrated on the other four."""
    p = np.zeros(len(scored.patients))
    for fold in range(FOLDS):
        left = is_left_out(scored.patients, fold)
        p[left] = _probability(scored.score[left], *_calibrate(scored, ~left))
    return p


def ends(draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """Both ends of the 95 % interval of bootstrap samples; None if no sample is defined."""
    interval = percentiles(float("nan"), draws)
    return None if np.isnan(interval.low) else (round(interval.low, 4), round(interval.high, 4))
