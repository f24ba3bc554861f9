"""Detection as LUNA16 scores it: FROC, sensitivity at 1/8…8 false positives a scan, and CPM.

The rules are those of the challenge's script, ``noduleCADEvaluationLUNA16.py`` (Setio et al., Medical Image Analysis
42, 2017), down to its rounding:

- Of a scan with more than 100 marks those count whose score is strictly above that of the 101st.
- A mark hits a finding when it lies closer to the centre than half the diameter; a negative diameter stands for 10 mm.
- A nodule takes the score of its best mark. Further marks on it are ignored, and so are marks that hit an excluded
  finding and no nodule. A mark that hits two nodules finds both. All other marks are false positives.
- The curve starts at (0, 0), has a point where the score changes, is straight between points and flat after the last:
  a nodule without a mark is never found.
- All scans of the list count, with marks or without. CPM is the mean sensitivity at the seven rates.
- An interval comes of drawing scans with replacement.
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
"""False positives a scan at which LUNA16 reads its curve."""
MAX_MARKS = 100
"""Marks of one scan that count."""
UNSIZED_MM = 10.0
"""Diameter of a finding whose own is given as negative."""
SIZE_EDGES_MM = (0.0, 6.0, 8.0, 15.0, math.inf)
"""Size bands: the 6 and 8 mm of the guidelines, and 15 mm."""
# Sixteen steps an octave from 1/8 to 8, exact in binary, so that the seven rates are among them.
GRID: Float = 2.0 ** np.linspace(-3.0, 3.0, 97)


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known to be in the scans.

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
    """What a detector says.

    Args:
        series: (n) the series UID of each.
        centre_lps: (n, 3) LPS mm (x, y, z).
        score: (n); a higher one is surer.

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
    """What became of the marks.

    Attributes:
        marks: given.
        candidates: left of them where a scan had more than 100.
        ignored_on_excluded: on an excluded finding and no nodule.
        ignored_double: beside a better one on the same nodule.
        nodules_elsewhere: annotated in series that are not evaluated.
    """

    marks: int
    candidates: int
    ignored_on_excluded: int
    ignored_double: int
    nodules_elsewhere: int


@dataclass(frozen=True, eq=False)
class Froc:
    """A detector's marks held against the truth, and the curve that follows.

    Attributes:
        scans: how many were searched.
        nodule_scan: (nodules) which scan each lies in, 0…scans − 1.
        nodule_mm: (nodules) diameter as annotated.
        nodule_score: (nodules) score of the best mark on each; −inf where there is none.
        false_scan: (false positives) which scan each lies in.
        false_score: (false positives).
        tally: what became of the marks.
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
        """How many there are to find."""
        return len(self.nodule_score)

    @property
    def true_positives(self) -> int:
        """Nodules with a mark."""
        return int(np.isfinite(self.nodule_score).sum())

    @property
    def false_negatives(self) -> int:
        """Nodules without one."""
        return self.nodules - self.true_positives

    @property
    def false_positives(self) -> int:
        """Marks on nothing."""
        return len(self.false_score)

    @property
    def fp_rate(self) -> Float:
        """(points) false positives a scan, rising from 0."""
        return self._curve[0]

    @property
    def sensitivity(self) -> Float:
        """(points) share of the nodules found, rising from 0."""
        return self._curve[1]

    @cached_property
    def thresholds(self) -> Float:
        """(points) marks with this score or a higher one are counted; +inf at the first point, falling."""
        _, _, score, ends = self._events
        return np.concatenate([[np.inf], score[ends]])

    def sensitivity_at(self, fp_rates: ArrayLike) -> Float:
        """Sensitivity at rates of false positives a scan, read off the straight lines between points."""
        return np.interp(np.asarray(fp_rates, dtype=np.float64), self.fp_rate, self.sensitivity)

    @property
    def cpm(self) -> float:
        """Competition performance metric: mean sensitivity at :data:`FP_RATES`."""
        return float(self.sensitivity_at(FP_RATES).mean())

    def among(self, chosen: NDArray[np.bool_]) -> Froc:
        """The same false positives with some of the nodules: those of a size, a texture, a number of readers.

        Args:
            chosen: (nodules), in the order of the annotations.

        Raises:
            BadValues: none is chosen, or the length is another.
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
        """Scan, hit or not, and score of all that counts, surest first; where each run of one score ends."""
        found = np.isfinite(self.nodule_score)
        scan = np.concatenate([self.nodule_scan[found], self.false_scan])
        score = np.concatenate([self.nodule_score[found], self.false_score])
        order = np.argsort(-score, kind="stable")
        score = score[order]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
        return scan[order], order < found.sum(), score, ends

    @cached_property
    def _curve(self) -> tuple[Float, Float]:
        return self._weighted(np.ones(self.scans))

    def _weighted(self, times: Float) -> tuple[Float, Float]:
        """The curve (false positives a scan, sensitivity) where each scan counts a number of times, all of them N."""
        scan, hit, _, ends = self._events
        weight = times[scan]
        tp = np.concatenate([[0.0], np.cumsum(weight * hit)[ends]])
        fp = np.concatenate([[0.0], np.cumsum(weight * ~hit)[ends]])
        # Shares first, counts again after: at a rate that k false positives reach exactly, rounding decides between
        # the foot and the top of a step, and this is how the challenge's script rounds.
        fp_rate = fp / max(fp[-1], 1.0) * fp[-1] / self.scans
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
    """What drawing the scans again and again gives.

    Attributes:
        confidence: share of the resamples between low and high.
        fp_rate: (97) 1/8…8, sixteen an octave.
        mean, low, high: (97) sensitivity there.
        cpms: (resamples) CPM of each. Two detectors on the same scans with the same seed share the draws, so the
            difference of theirs is paired.
    """

    confidence: float
    fp_rate: Float
    mean: Float
    low: Float
    high: Float
    cpms: Float

    @property
    def cpm(self) -> tuple[float, float]:
        """Lower and upper end of CPM."""
        low, high = _ends(self.cpms[:, None], self.confidence)
        return float(low[0]), float(high[0])


def froc(annotations: Findings, excluded: Findings | None, series: Sequence[str], predictions: Marks) -> Froc:
    """Hold marks against the truth by the rules of LUNA16.

    Args:
        annotations: the nodules to find. Those in other series are left out and counted.
        excluded: findings that count neither way.
        series: UIDs of all scans that were searched, whether they hold nodules and marks or not.
        predictions: all marks; no marks at all give sensitivity 0.

    Raises:
        BadValues: marks in a series that is not listed, no series, one listed twice, or no nodule in them.
    """
    number = {uid: place for place, uid in enumerate(series)}
    if not number or len(number) < len(series):
        raise BadValues("The list of series is empty or names one twice: each scan is searched and counted once.")
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
    """The marks of one scan held against what is known to be in it.

    Attributes:
        score: (marks); a higher one is surer.
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
        """(nodules) score of the best mark on each; None where there is none."""
        return tuple(float(self.score[on].max()) if on.any() else None for on in self.on_nodule.T)

    @property
    def nearest(self) -> tuple[int | None, ...]:
        """(marks) the nodule that each hits, of several the nearest; None where it hits none."""
        if not self.on_nodule.shape[1]:
            return (None,) * len(self.score)
        away = np.where(self.on_nodule, self.distance_mm, np.inf)
        return tuple(int(row.argmin()) if np.isfinite(row.min()) else None for row in away)

    @property
    def false(self) -> NDArray[np.bool_]:
        """(marks) the false positives: those on no nodule and on no excluded finding."""
        return self.false_strict & ~self.on_excluded

    @property
    def false_strict(self) -> NDArray[np.bool_]:
        """(marks) those on no nodule, excluded findings or not."""
        return np.asarray(~self.on_nodule.any(axis=1))


def hold_scan(marks: Marks, nodules: Findings, excluded: Findings | None = None) -> ScanHits:
    """Hold the marks of one scan against what is known of it, by the hit rule of LUNA16.

    Unlike :func:`froc` it takes a scan without nodules, and all marks count, however many they are.

    Args:
        marks, nodules, excluded: of one and the same scan; their series are not compared.
    """
    offset = nodules.centre_lps[None] - marks.centre_lps[:, None]
    on_excluded: NDArray[np.bool_] = np.zeros(len(marks.score), dtype=bool)
    if excluded is not None:
        away = excluded.centre_lps[None] - marks.centre_lps[:, None]
        on_excluded = np.asarray(_inside(away, excluded.diameter_mm).any(axis=1))
    distance = np.linalg.norm(offset, axis=2)
    return ScanHits(marks.score, _inside(offset, nodules.diameter_mm), distance, on_excluded)


def by_size(result: Froc, edges_mm: Sequence[float] = SIZE_EDGES_MM) -> tuple[SizeBand, ...]:
    """The curve for nodules of each size; bands without a nodule are left out, and nodules without a diameter.

    Args:
        result: of :func:`froc`.
        edges_mm: rising; a band holds its lower edge and not its upper.

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


def bootstrap(result: Froc, samples: int = 1000, seed: int = 0, confidence: float = 0.95) -> FrocInterval:
    """Draw as many scans as there are, with replacement, and score each draw: LUNA16's interval.

    Ends are the script's: of N sorted figures the one with number ⌊N · (1 − confidence) / 2⌋ from below, counted
    from 0, and number ⌊N · (1 + confidence) / 2⌋. A draw without any nodule has no sensitivity and is drawn again.

    Args:
        result: of :func:`froc`.
        samples: draws; the challenge makes 1,000.
        seed: of the draws.
        confidence: above 0, below 1.

    Raises:
        BadOption: no samples, or a confidence outside 0…1.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise BadOption(f"Give at least one sample and a confidence between 0 and 1, got {samples} and {confidence}.")
    random = np.random.default_rng(seed)
    curves = np.empty((samples, len(GRID)))
    for curve in curves:
        while True:
            times = np.bincount(random.integers(result.scans, size=result.scans), minlength=result.scans)
            if times[result.nodule_scan].any():
                break
        curve[:] = np.interp(GRID, *result._weighted(times.astype(np.float64)))
    low, high = _ends(curves, confidence)
    return FrocInterval(
        confidence, GRID, curves.mean(axis=0), low, high, curves[:, np.isin(GRID, FP_RATES)].mean(axis=1)
    )


def _checked(values: ArrayLike, shape: tuple[int, ...], name: str) -> Float:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise BadValues(f"{name} has shape {array.shape}; with {shape[0]} series it must have {shape}.")
    if not np.isfinite(array).all():
        raise BadValues(f"{name} holds NaN or infinity, first in row {np.argwhere(~np.isfinite(array))[0][0]}.")
    return array


def _numbers(uids: Sequence[str], number: dict[str, int]) -> Int:
    """The number of each series, −1 where it is not listed."""
    return np.fromiter((number.get(uid, -1) for uid in uids), dtype=np.intp, count=len(uids))


def named(uids: Sequence[str]) -> str:
    """Series for an error: the first by its UID, and how many more there are."""
    return f"series {uids[0]}" + (f" and {len(uids) - 1} more" if len(uids) > 1 else "")


def _surest(scan: Int, score: Float, scans: int) -> NDArray[np.bool_]:
    """Marks that count: where a scan has more than 100, those above the 101st; ties with it go."""
    order = np.lexsort((-score, scan))
    first = np.searchsorted(scan[order], np.arange(scans))
    crowded = np.flatnonzero(np.bincount(scan, minlength=scans) > MAX_MARKS)
    limit = np.full(scans, -np.inf)
    limit[crowded] = score[order[first[crowded] + MAX_MARKS]]
    return score > limit[scan]


def _hits(mark_scan: Int, point: Float, finding_scan: Int, findings: Findings) -> tuple[Int, Int]:
    """All pairs (mark, finding) of one scan where the mark lies inside the finding's ball."""
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
    # The radius squared and the sum in this order: a mark on the very edge falls as it does in the script.
    square = np.square(offset_mm)
    diameter = np.where(diameter_mm < 0, UNSIZED_MM, diameter_mm)
    return np.asarray(square[..., 0] + square[..., 1] + square[..., 2] < np.square(diameter / 2))


def _ends(values: Float, confidence: float) -> tuple[Float, Float]:
    """Lower and upper end of each column, as the challenge's script picks them."""
    ranked = np.sort(values, axis=0)
    tail = (1.0 - confidence) / 2.0
    low, high = math.floor(tail * len(ranked)), math.floor((1.0 - tail) * len(ranked))
    return ranked[low], ranked[min(high, len(ranked) - 1)]
