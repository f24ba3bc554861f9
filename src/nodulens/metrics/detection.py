"""Detection as LUNA16 scores it: FROC, sensitivity at 1/8…8 false positives a scan, and CPM.

Its terms are those of the challenge: a *mark* is a detection as submitted. The rules are those of its script,
``noduleCADEvaluationLUNA16.py`` (Setio et al., Medical Image Analysis 42, 2017), down to its rounding:

- In a scan with more than 100 marks, those with a score strictly above that of the 101st count.
- A mark hits a finding if it is closer to the centre than half the diameter; a negative diameter means 10 mm.
- A nodule takes the highest score of its marks. Further marks on it are ignored, and so are marks that hit an excluded
  finding and no nodule. A mark that hits two nodules detects both. All other marks are false positives.
- The curve starts at (0, 0), has a point where the score changes, is linear between points and flat after the last:
  a nodule without a mark is never detected.
- All scans of the list count, with marks or without. CPM is the mean sensitivity at the seven rates.
- Intervals are by bootstrap over scans, or over patients where these are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues

Float = NDArray[np.float64]
Int = NDArray[np.intp]

FP_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a scan at which LUNA16 reports sensitivity."""
MAX_MARKS = 100
"""Largest number of marks of a scan that count."""
UNSIZED_MM = 10.0
"""Diameter of a finding without one, which is given as negative."""
SIZE_EDGES_MM = (0.0, 6.0, 8.0, 15.0, math.inf)
"""Size bands: the 6 and 8 mm of the guidelines, and 15 mm."""
# Sixteen steps an octave from 1/8 to 8, exact in binary, so that the seven rates are among them.
GRID: Float = 2.0 ** np.linspace(-3.0, 3.0, 97)


@dataclass(frozen=True, eq=False)
class Findings:
    """Ground truth findings in the scans.

    Args:
        series: (n) the series UID of each.
        centre_lps: (n, 3) LPS mm (x, y, z).
        diameter_mm: (n); negative where none was measured.

    Raises:
        BadValues: other shapes, or a number that is not finite.
    """

    series: tuple[str, ...]
    centre_lps: Float
    diameter_mm: Float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre_lps", _checked(self.centre_lps, (len(self.series), 3), "centre_lps"))
        object.__setattr__(self, "diameter_mm", _checked(self.diameter_mm, (len(self.series),), "diameter_mm"))


@dataclass(frozen=True, eq=False)
class Marks:
    """A detector's output.

    Args:
        series: (n) the series UID of each.
        centre_lps: (n, 3) LPS mm (x, y, z).
        score: (n); higher is more confident.

    Raises:
        BadValues: other shapes, or a number that is not finite.
    """

    series: tuple[str, ...]
    centre_lps: Float
    score: Float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre_lps", _checked(self.centre_lps, (len(self.series), 3), "centre_lps"))
        object.__setattr__(self, "score", _checked(self.score, (len(self.series),), "score"))


@dataclass(frozen=True)
class Tally:
    """Counts of marks.

    Attributes:
        marks: all.
        candidates: those that count, at most 100 a scan.
        ignored_on_excluded: on an excluded finding and no nodule.
        ignored_double: on a nodule that has a better one.
        nodules_elsewhere: nodules annotated in series that are not evaluated.
    """

    marks: int
    candidates: int
    ignored_on_excluded: int
    ignored_double: int
    nodules_elsewhere: int


@dataclass(frozen=True, eq=False)
class Froc:
    """A detector's marks matched to the ground truth, and the FROC curve.

    Attributes:
        scans: number of scans searched.
        nodule_scan: (nodules) index of each one's scan, 0…scans − 1.
        nodule_mm: (nodules) diameter as annotated.
        nodule_score: (nodules) score of the best mark on each; −inf without one.
        false_scan: (false positives) index of each one's scan.
        false_score: (false positives) score of each.
        tally: counts of marks.
    """

    scans: int
    nodule_scan: Int
    nodule_mm: Float
    nodule_score: Float
    false_scan: Int
    false_score: Float
    tally: Tally

    @property
    def nodules(self) -> int:
        """Number of nodules."""
        return len(self.nodule_score)

    @property
    def true_positives(self) -> int:
        """Number of nodules with a mark."""
        return int(np.isfinite(self.nodule_score).sum())

    @property
    def false_negatives(self) -> int:
        """Number of nodules without a mark."""
        return self.nodules - self.true_positives

    @property
    def false_positives(self) -> int:
        """Number of false positive marks."""
        return len(self.false_score)

    @property
    def fp_rate(self) -> Float:
        """False positives a scan (points), ascending from 0."""
        return self._curve[0]

    @property
    def sensitivity(self) -> Float:
        """Sensitivity (points), ascending from 0."""
        return self._curve[1]

    @cached_property
    def thresholds(self) -> Float:
        """Least score of the marks that count (points), descending from +inf."""
        _, _, score, ends = self._events
        return np.concatenate([[np.inf], score[ends]])

    def sensitivity_at(self, fp_rates: ArrayLike) -> Float:
        """Sensitivity at rates of false positives a scan, interpolated linearly."""
        return np.interp(np.asarray(fp_rates, dtype=np.float64), self.fp_rate, self.sensitivity)

    @property
    def cpm(self) -> float:
        """Competition performance metric: mean sensitivity at :data:`FP_RATES`."""
        return float(self.sensitivity_at(FP_RATES).mean())

    def among(self, chosen: NDArray[np.bool_]) -> Froc:
        """Restrict the nodules, for example to a size or texture, with the same false positives.

        Args:
            chosen: (nodules) bool, in the order of the annotations.

        Raises:
            BadValues: none is chosen, or the length differs.
        """
        if np.shape(chosen) != (self.nodules,) or not np.any(chosen):
            raise BadValues(f"Choose at least one of the {self.nodules} nodules by a value of true or false for each.")
        return replace(
            self,
            nodule_scan=self.nodule_scan[chosen],
            nodule_mm=self.nodule_mm[chosen],
            nodule_score=self.nodule_score[chosen],
        )

    @cached_property
    def _events(self) -> tuple[Int, NDArray[np.bool_], Float, Int]:
        """Scan, hit or not, and score of all that counts, in descending score; and the ends of runs of equal score."""
        found = np.isfinite(self.nodule_score)
        scan = np.concatenate([self.nodule_scan[found], self.false_scan])
        score = np.concatenate([self.nodule_score[found], self.false_score])
        order = np.argsort(-score, kind="stable")
        score = score[order]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
        return scan[order], order < found.sum(), score, ends

    @cached_property
    def _curve(self) -> tuple[Float, Float]:
        return self.weighted(np.ones(self.scans))

    def weighted(self, times: Float) -> tuple[Float, Float]:
        """The curve with a weight for each scan, as of a bootstrap.

        Args:
            times: (scans) how often each is drawn.

        Returns:
            False positives a scan and sensitivity (points), ascending.
        """
        scan, hit, _, ends = self._events
        weight = times[scan]
        tp = np.concatenate([[0.0], np.cumsum(weight * hit)[ends]])
        fp = np.concatenate([[0.0], np.cumsum(weight * ~hit)[ends]])
        # Shares first, then counts, as the challenge's script does: at a rate that k false positives reach exactly,
        # rounding decides between the two ends of a step.
        fp_rate = fp / max(fp[-1], 1.0) * fp[-1] / times.sum()
        sensitivity = tp / max(tp[-1], 1.0) * tp[-1] / times[self.nodule_scan].sum()
        return fp_rate, sensitivity


@dataclass(frozen=True)
class SizeBand:
    """Nodules of ``lo_mm <= diameter < hi_mm``, against the false positives of all."""

    lo_mm: float
    hi_mm: float
    froc: Froc


@dataclass(frozen=True, eq=False)
class FrocInterval:
    """FROC by bootstrap.

    Attributes:
        confidence: share of the resamples between low and high.
        fp_rate: (97) 1/8…8, sixteen an octave.
        mean, low, high: (97) sensitivity at these rates.
        cpms: (resamples) CPM of each. Two detectors on the same scans with the same seed share the resamples, so their
            difference is paired.
        drawn: what is drawn, "scan" or "patient".
    """

    confidence: float
    fp_rate: Float
    mean: Float
    low: Float
    high: Float
    cpms: Float
    drawn: str = "scan"

    @property
    def cpm(self) -> tuple[float, float]:
        """Lower and upper end of the interval of CPM."""
        low, high = _ends(self.cpms[:, None], self.confidence)
        return float(low[0]), float(high[0])


def froc(annotations: Findings, excluded: Findings | None, series: Sequence[str], predictions: Marks) -> Froc:
    """Match marks to the ground truth by the rules of LUNA16.

    Args:
        annotations: the nodules. Those in other series are left out and counted.
        excluded: findings that count neither way.
        series: UIDs of all scans searched, with or without nodules and marks.
        predictions: all marks; without marks the sensitivity is 0.

    Raises:
        BadValues: marks in a series that is not listed, no series, a repeated one, or no nodule in them.
    """
    number = {uid: place for place, uid in enumerate(series)}
    if not number or len(number) < len(series):
        raise BadValues("The list of series is empty or names one twice: list every scan searched once.")
    mark_scan = _numbers(predictions.series, number)
    strangers = sorted({predictions.series[i] for i in np.flatnonzero(mark_scan < 0)})
    if strangers:
        raise BadValues(f"Marks in {named(strangers)} not listed: list all series searched, or leave those marks out.")
    nodule_scan = _numbers(annotations.series, number)
    here = nodule_scan >= 0
    if not here.any():
        raise BadValues("No nodule is annotated in the listed series, so there is no sensitivity. Are the UIDs right?")

    kept = _surest(mark_scan, predictions.score, len(number))
    mark_scan, point, score = mark_scan[kept], predictions.centre_lps[kept], predictions.score[kept]
    nodule_scan = nodule_scan[here]
    nodules = Findings(
        tuple(np.array(annotations.series, dtype=object)[here]),
        annotations.centre_lps[here],
        annotations.diameter_mm[here],
    )
    mark, nodule = _hits(mark_scan, point, nodule_scan, nodules)
    best = np.full(len(nodule_scan), -np.inf)
    np.maximum.at(best, nodule, score[mark])
    on_nodule = np.zeros(len(score), dtype=bool)
    on_nodule[mark] = True
    on_excluded = np.zeros(len(score), dtype=bool)
    if excluded is not None:
        on_excluded[_hits(mark_scan, point, _numbers(excluded.series, number), excluded)[0]] = True
    false = ~on_nodule & ~on_excluded
    tally = Tally(
        marks=len(predictions.series),
        candidates=len(score),
        ignored_on_excluded=int((on_excluded & ~on_nodule).sum()),
        ignored_double=len(mark) - int(np.isfinite(best).sum()),
        nodules_elsewhere=int((~here).sum()),
    )
    return Froc(len(number), nodule_scan, nodules.diameter_mm, best, mark_scan[false], score[false], tally)


@dataclass(frozen=True, eq=False)
class ScanHits:
    """The marks of one scan matched to its findings.

    Attributes:
        score: (marks); higher is more confident.
        on_nodule: (marks, nodules) which marks hit which nodules.
        distance_mm: (marks, nodules) from the mark to the nodule's centre.
        on_excluded: (marks) which marks hit an excluded finding.
    """

    score: Float
    on_nodule: NDArray[np.bool_]
    distance_mm: Float
    on_excluded: NDArray[np.bool_]

    @property
    def best(self) -> tuple[float | None, ...]:
        """Score of the best mark on each nodule, (nodules); None without one."""
        return tuple(float(self.score[on].max()) if on.any() else None for on in self.on_nodule.T)

    @property
    def nearest(self) -> tuple[int | None, ...]:
        """Index of the nodule that each mark hits, of several the nearest, (marks); None if it hits none."""
        if not self.on_nodule.shape[1]:
            return (None,) * len(self.score)
        away = np.where(self.on_nodule, self.distance_mm, np.inf)
        return tuple(int(row.argmin()) if np.isfinite(row.min()) else None for row in away)

    @property
    def false(self) -> NDArray[np.bool_]:
        """Which marks (marks) are false positives: on no nodule and on no excluded finding."""
        return self.false_strict & ~self.on_excluded

    @property
    def false_strict(self) -> NDArray[np.bool_]:
        """Which marks (marks) are on no nodule, on excluded findings or not."""
        return np.asarray(~self.on_nodule.any(axis=1))


def match_scan(marks: Marks, nodules: Findings, excluded: Findings | None = None) -> ScanHits:
    """Match the marks of one scan to its findings, by the hit rule of LUNA16.

    Unlike :func:`froc` it takes a scan without nodules, and all marks count.

    Args:
        marks, nodules, excluded: of the same scan; their series are not compared.
    """
    offset = nodules.centre_lps[None] - marks.centre_lps[:, None]
    on_excluded: NDArray[np.bool_] = np.zeros(len(marks.score), dtype=bool)
    if excluded is not None:
        away = excluded.centre_lps[None] - marks.centre_lps[:, None]
        on_excluded = np.asarray(_inside(away, excluded.diameter_mm).any(axis=1))
    distance = np.linalg.norm(offset, axis=2)
    return ScanHits(marks.score, _inside(offset, nodules.diameter_mm), distance, on_excluded)


def by_size(result: Froc, edges_mm: Sequence[float] = SIZE_EDGES_MM) -> tuple[SizeBand, ...]:
    """The curve by size of nodule; bands without a nodule, and nodules without a diameter, are left out.

    Args:
        result: of :func:`froc`.
        edges_mm: ascending; a band includes its lower edge but not its upper.

    Raises:
        BadOption: edges that do not rise.
    """
    if len(edges_mm) < 2 or any(low >= high for low, high in pairwise(edges_mm)):
        raise BadOption(f"Size bands need two edges or more, each above the one before: got {list(edges_mm)} mm.")
    bands = []
    for low, high in pairwise(edges_mm):
        inside = (result.nodule_mm >= low) & (result.nodule_mm < high)
        if inside.any():
            bands.append(SizeBand(low, high, result.among(inside)))
    return tuple(bands)


def bootstrap(
    result: Froc,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    patients: Sequence[str] | None = None,
) -> FrocInterval:
    """Bootstrap over scans, which is LUNA16's interval, or over patients with all their scans.

    Its ends are the script's: of N sorted figures those with index ⌊N · (1 − confidence) / 2⌋ and
    ⌊N · (1 + confidence) / 2⌋. A resample without nodules has no sensitivity and is drawn again.

    Args:
        result: of :func:`froc`.
        samples: number of resamples; the challenge uses 1,000.
        seed: of the resamples.
        confidence: above 0, below 1.
        patients: (scans) whose each is; None: over scans. The draws are the same where each patient has one scan.

    Raises:
        BadOption: no samples, or a confidence outside 0…1.
        BadValues: not one patient a scan.
    """
    if patients is not None and len(patients) != result.scans:
        raise BadValues(f"{result.scans} scans need a patient each, got {len(patients)}.")
    owner = np.arange(result.scans)
    if patients is not None:
        number = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
        owner = _numbers(patients, number)
    units = int(owner.max()) + 1
    if samples < 1 or not 0 < confidence < 1:
        raise BadOption(f"Give at least one sample and a confidence between 0 and 1, got {samples} and {confidence}.")
    random = np.random.default_rng(seed)
    curves = np.empty((samples, len(GRID)))
    for curve in curves:
        while True:
            times = np.bincount(random.integers(units, size=units), minlength=units)[owner]
            if times[result.nodule_scan].any():
                break
        curve[:] = np.interp(GRID, *result.weighted(times.astype(np.float64)))
    low, high = _ends(curves, confidence)
    cpms = curves[:, np.isin(GRID, FP_RATES)].mean(axis=1)
    drawn = "scan" if patients is None else "patient"
    return FrocInterval(confidence, GRID, curves.mean(axis=0), low, high, cpms, drawn)


def _checked(values: ArrayLike, shape: tuple[int, ...], name: str) -> Float:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise BadValues(f"{name} has shape {array.shape}; with {shape[0]} series it must have {shape}.")
    if not np.isfinite(array).all():
        raise BadValues(f"{name} holds NaN or infinity, first in row {np.argwhere(~np.isfinite(array))[0][0]}.")
    return array


def _numbers(uids: Sequence[str], number: dict[str, int]) -> Int:
    """Index of each series, −1 if it is not listed."""
    return np.fromiter((number.get(uid, -1) for uid in uids), dtype=np.intp, count=len(uids))


def named(uids: Sequence[str]) -> str:
    """Name series in an error: the first by its UID, and the number of others."""
    return f"series {uids[0]}" + (f" and {len(uids) - 1} more" if len(uids) > 1 else "")


def _surest(scan: Int, score: Float, scans: int) -> NDArray[np.bool_]:
    """Marks that count: if a scan has more than 100, those strictly above the 101st."""
    order = np.lexsort((-score, scan))
    first = np.searchsorted(scan[order], np.arange(scans))
    crowded = np.flatnonzero(np.bincount(scan, minlength=scans) > MAX_MARKS)
    limit = np.full(scans, -np.inf)
    limit[crowded] = score[order[first[crowded] + MAX_MARKS]]
    return score > limit[scan]


def _hits(mark_scan: Int, point: Float, finding_scan: Int, findings: Findings) -> tuple[Int, Int]:
    """All pairs (mark, finding) of the same scan with the mark inside the finding's ball."""
    order = np.argsort(finding_scan, kind="stable")
    placed = finding_scan[order]
    start, stop = np.searchsorted(placed, mark_scan), np.searchsorted(placed, mark_scan, side="right")
    count = stop - start
    mark = np.repeat(np.arange(len(mark_scan)), count)
    finding = order[np.arange(len(mark)) + np.repeat(start - (np.cumsum(count) - count), count)]
    inside = _inside(findings.centre_lps[finding] - point[mark], findings.diameter_mm[finding])
    return mark[inside], finding[inside]


def _inside(offset_mm: Float, diameter_mm: Float) -> NDArray[np.bool_]:
    """LUNA16's hit rule, for offsets (…, 3) of marks from the centres of findings with diameters (…)."""
    # the square of the radius and the sum in this order: a mark exactly on the edge rounds as in the script
    square = np.square(offset_mm)
    diameter = np.where(diameter_mm < 0, UNSIZED_MM, diameter_mm)
    return np.asarray(square[..., 0] + square[..., 1] + square[..., 2] < np.square(diameter / 2))


def _ends(values: Float, confidence: float) -> tuple[Float, Float]:
    """Lower and upper end of each column, as in the challenge's script."""
    ranked = np.sort(values, axis=0)
    tail = (1.0 - confidence) / 2.0
    low, high = math.floor(tail * len(ranked)), math.floor((1.0 - tail) * len(ranked))
    return ranked[low], ranked[min(high, len(ranked) - 1)]
