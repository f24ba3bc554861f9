"""Metrics as lines of a figure, tables of a page, and whole evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nodulens.metrics.classification import Confusion, Curve, curve, ranking_draws
from nodulens.metrics.detection import FP_RATES, MAX_MARKS, Froc, FrocInterval, SizeBand, by_size
from nodulens.metrics.statistics import Float, Interval, patient_draws, percentiles
from nodulens.presentation.evaluation import Cell, Drawing, Evaluation, Metric, Provenance, SplitPart, Table
from nodulens.presentation.figures import Basis, Line, froc_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 201
"""Number of false-positive rates in the band of a ROC curve."""


# ---- Lines


def roc_line(
    name: str, labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, samples: int = 1000, seed: int = 0
) -> Line:
    """The ROC curve with a pointwise bootstrap band by patient.

    Args:
        name: of the model.
        labels: (N,) 1 or 0.
        scores: (N,) higher means 1.
        patients: (N,) the patient of each case.
        samples: number of resamples.
        seed: of the resamples.

    Returns:
        the curve with all its points, its band, and AUC with interval in the summary. Resamples without positives or
        without negatives have no curve and are left out of the band; where the AUC has no interval, as of one patient,
        there is no band.

    Raises:
        BadValues: lengths that differ, nothing, NaN, other labels.
    """
    whole = curve(labels, scores)
    x, y = 1 - whole.specificity, whole.sensitivity
    figure = _several(whole.auc, ranking_draws(labels, scores, patients, samples=samples, seed=seed).auc, patients)
    if np.isnan(figure.low):
        return Line(name, x, y, summary=_summary("AUC", figure))
    owner, draws = patient_draws(patients, samples=samples, seed=seed)
    rates = np.linspace(0, 1, STEPS)
    rows = [_sensitivity_at(rates, curve(labels, scores, times[owner])) for times in draws]
    ends = np.nanpercentile(rows, (2.5, 97.5), axis=0)
    low, high = (np.interp(x, rates, end) for end in ends)
    return Line(name, x, y, low, high, _summary("AUC", figure))


def precision_recall_line(
    name: str, labels: ArrayLike, scores: ArrayLike, patients: ArrayLike, samples: int = 1000, seed: int = 0
) -> Line:
    """Precision by recall, with average precision and its interval in the summary; arguments as :func:`roc_line`."""
    points = curve(labels, scores)
    draws = ranking_draws(labels, scores, patients, samples=samples, seed=seed).average_precision
    figure = _several(points.average_precision, draws, patients)
    # without the first point, where there are no predicted positives and so no precision
    return Line(name, points.sensitivity[1:], points.precision[1:], summary=_summary("average precision", figure))


def froc_line(name: str, result: Froc, interval: FrocInterval | None = None) -> Line:
    """The FROC curve of a detector, with its bootstrap band."""
    if interval is None:
        return Line(name, result.fp_rate, result.sensitivity, summary=f"CPM {result.cpm:.3f}")
    at = interval.fp_rate
    summary = _summary("CPM", Interval(result.cpm, *interval.cpm, interval.confidence))
    return Line(name, at, result.sensitivity_at(at), interval.low, interval.high, summary)


def _several(value: float, draws: Float, patients: ArrayLike) -> Interval:
    """A figure with its interval by patient; one patient alone gives none."""
    figure = percentiles(value, draws)
    return figure if len(np.unique(np.asarray(patients))) > 1 else replace(figure, low=np.nan, high=np.nan)


def _sensitivity_at(rates: Float, points: Curve) -> Float:
    """Sensitivity at false-positive rates, the upper end of a step; ``nan`` with one class alone."""
    rate, found = 1 - points.specificity, points.sensitivity
    if np.isnan(rate + found).any():
        return np.full(len(rates), np.nan)
    last = np.append(rate[1:] != rate[:-1], True)
    values: Float = np.interp(rates, rate[last], found[last])
    return values


def _summary(name: str, figure: Interval) -> str:
    ends = "" if np.isnan(figure.low) else f" ({figure.low:.3f} to {figure.high:.3f})"
    return f"{name} {figure.value:.3f}{ends}"


# ---- Tables


def class_table(title: str, found: Confusion, note: str = "") -> Table:
    """The classification report: a row a class, then their mean."""
    rates = {str(name): found.of(name) for name in found.classes} | {"mean": found.macro}
    columns = ("", "cases", "sensitivity", "specificity", "precision", "F1")
    rows: list[tuple[Cell, ...]] = [
        (name, _whole(r.support), *(_defined(v) for v in (r.sensitivity, r.specificity, r.precision, r.f1)))
        for name, r in rates.items()
    ]
    return Table(title, columns, tuple(rows), note)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else float(value)


# ---- Evaluations


def froc_evaluation(
    result: Froc, interval: FrocInterval | None, series: Iterable[str], provenance: Provenance, name: str = "marks"
) -> Evaluation:
    """A detector's FROC as a whole evaluation.

    Args:
        result: of :func:`nodulens.metrics.detection.froc`.
        interval: of its bootstrap, or None.
        series: UIDs of all scans searched, which are listed as the test part unless ``provenance`` has a split.
        provenance: how it was made.
        name: of the detector.

    Raises:
        MissingExtra: Matplotlib is not installed.
    """
    tally = result.tally
    elsewhere = (
        f"{tally.nodules_elsewhere:,} annotated nodules are in series that were not searched; they do not count."
    )
    return Evaluation(
        title=f"Nodule detection: {name}",
        summary=(
            f"In {result.scans:,} scans {result.true_positives:,} of {result.nodules:,} nodules were detected, with "
            f"{result.false_positives / result.scans:.1f} false positives a scan. CPM is {result.cpm:.4f}.",
        ),
        metrics=_froc_metrics(result, interval),
        interval=_means(interval),
        tables=(_size_table(by_size(result)), Table("What became of the marks", ("", "count"), tally_rows(result))),
        drawings=(
            Drawing.of_lines(
                "Free response",
                froc_picture(result, interval, name),
                "Scored as LUNA16 does. Findings that are excluded count neither way.",
            ),
        ),
        warnings=(elsewhere,) if tally.nodules_elsewhere else (),
        provenance=replace(provenance, split=provenance.split or (SplitPart("test", tuple(sorted(series)), "scans"),)),
    )


def tally_rows(result: Froc) -> tuple[tuple[str, int], ...]:
    """Counts of nodules and marks, with their names."""
    tally = result.tally
    return (
        ("nodules found", result.true_positives),
        ("nodules missed", result.false_negatives),
        ("marks given", tally.marks),
        (f"dropped, beyond {MAX_MARKS} in a scan", tally.marks - tally.candidates),
        ("false positives", result.false_positives),
        ("ignored: on a nodule, beside a better mark", tally.ignored_double),
        ("ignored: on an excluded finding", tally.ignored_on_excluded),
    )


def band_name(band: SizeBand) -> str:
    """The name of a size band."""
    return f"{band.lo_mm:g} to {band.hi_mm:g} mm" if band.hi_mm < inf else f"{band.lo_mm:g} mm or more"


def froc_picture(result: Froc, interval: FrocInterval | None, name: str = "marks") -> Figure:
    """The FROC curve of a detector as a figure."""
    means = _means(interval)
    basis = Basis(result.nodules, "nodules", result.scans, note=means and f"band: {means}")
    return froc_figure([froc_line(name, result, interval)], basis)


def _means(interval: FrocInterval | None) -> str:
    return (
        ""
        if interval is None
        else f"{100 * interval.confidence:g} %, {len(interval.cpms):,} bootstraps by {interval.drawn}"
    )


def _froc_metrics(result: Froc, interval: FrocInterval | None) -> tuple[Metric, ...]:
    nan, n = float("nan"), result.nodules
    cpm, ends = (nan, nan), [(nan, nan)] * len(FP_RATES)
    if interval is not None:
        at = np.searchsorted(interval.fp_rate, FP_RATES)
        cpm, ends = interval.cpm, list(zip(interval.low[at].tolist(), interval.high[at].tolist(), strict=True))
    values = result.sensitivity_at(FP_RATES).tolist()
    return (
        Metric("CPM", result.cpm, *cpm, n, note="mean sensitivity at the seven rates below"),
        *(
            Metric(f"Sensitivity at {_rate(rate)} false positives a scan", value, *pair, n)
            for rate, value, pair in zip(FP_RATES, values, ends, strict=True)
        ),
    )


def _size_table(bands: Sequence[SizeBand]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            band_name(band),
            band.froc.nodules,
            band.froc.true_positives,
            *band.froc.sensitivity_at((1, 4)).tolist(),
            band.froc.cpm,
        )
        for band in bands
    )
    columns = ("diameter", "nodules", "marked", "sensitivity at 1", "at 4", "CPM")
    return Table("By size", columns, rows, "Against the false positives of all sizes.")


def _rate(rate: float) -> str:
    return f"1/{1 / rate:g}" if rate < 1 else f"{rate:g}"
