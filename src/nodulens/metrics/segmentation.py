"""Metrics of segmentation: overlap, surface distance, volume; and agreement between readers.

Arrays are (z, y, x), or (y, x) for a single plane: read mm² for mm³ and pixel for voxel there. Empty masks follow one
rule:

===============  ================  ====  ===========  =========  =========  ============
truth            prediction        Dice  sensitivity  precision  distances  volume error
===============  ================  ====  ===========  =========  =========  ============
empty            empty             1     –            –          –          0 mm³, – %
empty            not ("invented")  0     –            0          –          + mm³, – %
not ("missed")   empty             0     0            –          –          −100 %
===============  ================  ====  ===========  =========  =========  ============

where – is ``nan`` and IoU is as Dice. A :class:`Summary` averages over the cases with a truth, missed ones included,
and counts the other two kinds separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.core.geometry import ball_diameter_mm
from nodulens.core.volume import Mask
from nodulens.errors import BadGeometry, BadOption, BadValues
from nodulens.metrics.statistics import Float, Groups, Interval, bootstrap_means

Bool = NDArray[np.bool_]
NAN = float("nan")
PERCENTILE = 95
Rule = Literal["at least", "more than"]
COUNTS = {"truth": "truth_voxels", "predicted": "predicted_voxels", "common": "common_voxels"}
"""Column of counted voxels → field of :class:`Overlap`."""


@dataclass(frozen=True)
class Overlap:
    """One mask against the ground truth.

    Attributes:
        truth_voxels, predicted_voxels, common_voxels: number of voxels in each mask and in both.
        voxel_mm3: volume of a voxel.
        hd95_mm: the larger of the two 95th percentiles of the distances from one surface to the other (as in
            MONAI and Metrics Reloaded; pooling both ways first, as some tools do, gives less).
        surface_mm: average symmetric surface distance: the mean of all those distances, both ways pooled
            (Heimann et al. 2009).
    """

    truth_voxels: int
    predicted_voxels: int
    common_voxels: int
    voxel_mm3: float
    hd95_mm: float
    surface_mm: float

    @classmethod
    def of_counts(cls, truth: int, predicted: int, common: int) -> Overlap:
        """Voxels that were counted and nothing else: each counts 1 mm³, and distances are not defined."""
        return cls(truth, predicted, common, 1.0, NAN, NAN)

    @property
    def dice(self) -> float:
        """2 |A ∩ B| / (|A| + |B|), 0…1; 1 where both are empty."""
        total = self.truth_voxels + self.predicted_voxels
        return 2 * self.common_voxels / total if total else 1.0

    @property
    def iou(self) -> float:
        """|A ∩ B| / |A ∪ B|, 0…1; 1 where both are empty."""
        union = self.truth_voxels + self.predicted_voxels - self.common_voxels
        return self.common_voxels / union if union else 1.0

    @property
    def sensitivity(self) -> float:
        """Share of the ground truth that is segmented, 0…1."""
        return self.common_voxels / self.truth_voxels if self.truth_voxels else NAN

    @property
    def precision(self) -> float:
        """Share of the prediction that is true, 0…1."""
        return self.common_voxels / self.predicted_voxels if self.predicted_voxels else NAN

    @property
    def truth_mm3(self) -> float:
        """Volume of the truth."""
        return self.truth_voxels * self.voxel_mm3

    @property
    def predicted_mm3(self) -> float:
        """Volume of the prediction."""
        return self.predicted_voxels * self.voxel_mm3

    @property
    def truth_diameter_mm(self) -> float:
        """Diameter of the ball of the truth's volume; for (z, y, x) masks only."""
        return ball_diameter_mm(self.truth_mm3)

    @property
    def volume_error_mm3(self) -> float:
        """Prediction minus ground truth: positive where it is too large."""
        return self.predicted_mm3 - self.truth_mm3

    @property
    def volume_error_percent(self) -> float:
        """:attr:`volume_error_mm3` in per cent of the ground truth."""
        return 100 * self.volume_error_mm3 / self.truth_mm3 if self.truth_voxels else NAN


# ---------------------------------------------------------------- one case


def compare(truth: Bool, predicted: Bool, spacing_zyx: Sequence[float]) -> Overlap:
    """Compare a mask with the ground truth.

    Args:
        truth: (z, y, x) or (y, x) bool.
        predicted: the same shape.
        spacing_zyx: mm between voxel centres along the axes.

    Raises:
        BadGeometry: shapes that differ, or a spacing that does not fit them or is not positive.
        BadValues: masks that are not bool.
    """
    a, b = _cropped(truth, predicted, spacing_zyx)
    there, back = _distances(a, b, spacing_zyx)
    hd95 = surface = NAN
    if there.size:
        hd95 = max(float(np.percentile(there, PERCENTILE)), float(np.percentile(back, PERCENTILE)))
        surface = float((there.sum() + back.sum()) / (there.size + back.size))
    return Overlap(int(a.sum()), int(b.sum()), int((a & b).sum()), float(np.prod(spacing_zyx)), hd95, surface)


def surface_distances(first: Bool, second: Bool, spacing_zyx: Sequence[float]) -> tuple[Float, Float]:
    """Distance of each surface voxel of one mask to the nearest of the other, and vice versa.

    The surface is every voxel of a mask with a face neighbour (6 in space, 4 in a plane) outside it; beyond the array
    all is outside. Distances are between voxel centres and every surface voxel counts one, whatever its area.

    Args:
        first: (z, y, x) or (y, x) bool.
        second: the same shape.
        spacing_zyx: mm between voxel centres along the axes.

    Returns:
        mm, for each surface voxel of the first and of the second; both empty if a mask is.

    Raises:
        BadGeometry, BadValues: as :func:`compare`.
    """
    return _distances(*_cropped(first, second, spacing_zyx), spacing_zyx)


def compare_labels(truth: Mask, predicted: Mask) -> dict[str, Overlap]:
    """Compare labelled masks class by class, matched by name.

    Args:
        truth: labels with names.
        predicted: labels on the same grid; the numbers of the names may differ.

    Returns:
        name → overlap, for every name of either in the order of the truth's; a class missing from one is empty there.

    Raises:
        BadGeometry: other grids.
    """
    if truth.geometry != predicted.geometry:
        raise BadGeometry("The two masks are on different grids: resample one onto the other's first.")
    none = np.zeros(truth.geometry.shape, dtype=bool)
    out = {}
    for name in dict.fromkeys([*truth.names.values(), *predicted.names.values()]):
        a, b = (mask.of(name) if name in mask.names.values() else none for mask in (truth, predicted))
        out[name] = compare(a, b, truth.geometry.spacing_zyx)
    return out


# ---------------------------------------------------------------- readers among themselves


def consensus(masks: Bool, share: float = 0.5, rule: Rule = "at least") -> Bool:
    """The consensus of readers.

    Args:
        masks: (readers, …) bool.
        share: of the readers, 0…1.
        rule: "at least" or "more than" that share. With two or four readers they differ: half of four is two readers
            by the first, three by the second.

    Returns:
        bool (…); may be empty where readers do not overlap.

    Raises:
        BadOption: a share that everything or nothing reaches, or another rule.
        BadValues: no readers, or masks that are not bool.
    """
    if masks.dtype != np.bool_ or masks.ndim < 1 or not len(masks):
        raise BadValues(f"Readers' masks are bool (readers, …), 1 at least: got {masks.dtype} {masks.shape}.")
    if rule not in ("at least", "more than"):
        raise BadOption(f'Consensus is "at least" or "more than" a share of the readers, not {rule!r}.')
    if not (0 < share <= 1 if rule == "at least" else 0 <= share < 1):
        reach = "above 0 and up to 1" if rule == "at least" else "from 0 and below 1"
        raise BadOption(f"{rule} {share:g} of the readers: the share must be {reach}.")
    votes, wanted = masks.sum(axis=0), share * len(masks)
    # 1e-9: a third of three readers is one of them, despite rounding
    return np.asarray(votes >= wanted - 1e-9 if rule == "at least" else votes > wanted + 1e-9)


def reader_pairs(masks: Bool, spacing_zyx: Sequence[float]) -> tuple[Overlap, ...]:
    """Every pair of readers, the earlier one as the ground truth.

    Args:
        masks: (readers, z, y, x) or (readers, y, x) bool, two readers at least.
        spacing_zyx: mm between voxel centres along the axes.

    Raises:
        BadValues: fewer than two readers, or masks that are not bool.
        BadGeometry: a spacing that does not fit.
    """
    _check_readers(masks, 2)
    return tuple(compare(a, b, spacing_zyx) for a, b in combinations(masks, 2))


def readers_left_out(masks: Bool, spacing_zyx: Sequence[float], share: float = 0.5) -> tuple[Overlap, ...]:
    """Each reader against the consensus of the others: a reference for methods.

    With two readers this is the pair; with three, the consensus of the other two is their union.

    Args:
        masks: (readers, z, y, x) or (readers, y, x) bool, two readers at least.
        spacing_zyx: mm between voxel centres along the axes.
        share: as in :func:`consensus`.

    Returns:
        one overlap a reader, with the others as the ground truth.

    Raises:
        BadValues, BadGeometry, BadOption: as :func:`consensus` and :func:`reader_pairs`.
    """
    _check_readers(masks, 2)
    others = (consensus(np.delete(masks, k, axis=0), share) for k in range(len(masks)))
    return tuple(compare(truth, mask, spacing_zyx) for truth, mask in zip(others, masks, strict=True))


# ---------------------------------------------------------------- several nodules


def matched(dice: Float) -> tuple[tuple[int, int], ...]:
    """Which prediction is of which truth: one to one, so that their Dice adds up to the most.

    Args:
        dice: (truths, predictions) of each pair, 0…1.

    Returns:
        index of the truth and of the prediction of each pair that overlaps, in the order of the truths; what is in
        none is missed, or invented.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(dice, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return tuple((row, column) for row, column in pairs if dice[row, column] > 0)


# ---------------------------------------------------------------- many cases


@dataclass(frozen=True)
class Summary:
    """Means over cases, with bootstrap intervals by patient; a case is a nodule (or a class of an image).

    Attributes:
        cases: number of all.
        both_empty: without truth and without prediction.
        invented: a prediction without truth.
        missed: a truth without prediction.
        dice, iou, sensitivity: over the cases with a truth, the missed ones as 0.
        dice_all: over all cases, both empty as 1 and invented as 0: what tools that count empty cases call Dice.
        precision, hd95_mm, surface_mm: over the cases with truth and prediction.
        volume_error_mm3, volume_error_percent: signed, over the cases with a truth; a missed one is −100 %.
        absolute_volume_error_percent: unsigned, so that errors do not cancel.
    """

    cases: int
    both_empty: int
    invented: int
    missed: int
    dice: Interval
    iou: Interval
    sensitivity: Interval
    dice_all: Interval
    precision: Interval
    hd95_mm: Interval
    surface_mm: Interval
    volume_error_mm3: Interval
    volume_error_percent: Interval
    absolute_volume_error_percent: Interval

    @property
    def without_distance(self) -> int:
        """Number of cases with an empty mask, which mean distances leave out."""
        return self.both_empty + self.invented + self.missed


def overlaps(columns: Mapping[str, Sequence[int]], name: str) -> tuple[Overlap, ...]:
    """Cases of which voxels were counted: one for each row of "NAME truth", "NAME predicted", "NAME common"."""
    counts = zip(*(columns[f"{name} {what}"] for what in COUNTS), strict=True)
    return tuple(Overlap.of_counts(*row) for row in counts)


def overlap_columns(cases: Sequence[Overlap], name: str) -> dict[str, list[int]]:
    """The columns that :func:`overlaps` reads."""
    return {f"{name} {what}": [getattr(case, field) for case in cases] for what, field in COUNTS.items()}


def summarise(
    cases: Sequence[Overlap], patients: ArrayLike, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> Summary:
    """Average over cases.

    Args:
        cases: one a nodule.
        patients: (N,) the patient of each.
        samples: bootstrap samples of patients.
        level: of the intervals.
        seed: of the draws.

    Raises:
        BadValues: no cases, or another number of patients.
    """
    both = np.array([bool(c.truth_voxels and c.predicted_voxels) for c in cases], dtype=bool)
    truth = np.array([c.truth_voxels > 0 for c in cases], dtype=bool)
    empty = np.array([not c.truth_voxels and not c.predicted_voxels for c in cases], dtype=bool)
    dice, percent = (np.array([getattr(c, k) for c in cases]) for k in ("dice", "volume_error_percent"))

    def of(name: str, where: Bool) -> Float:
        return np.where(where, [getattr(c, name) for c in cases], np.nan)

    columns = [
        *(of(name, truth) for name in ("dice", "iou", "sensitivity")),
        dice,
        *(of(name, both) for name in ("precision", "hd95_mm", "surface_mm")),
        of("volume_error_mm3", truth),
        percent,
        np.abs(percent),
    ]
    means = bootstrap_means(np.stack(columns, axis=1), patients, samples=samples, level=level, seed=seed)
    counts = (len(cases), int(empty.sum()), int((~truth & ~empty).sum()), int((truth & ~both).sum()))
    return Summary(*counts, *means)


def summarise_by(
    cases: Sequence[Overlap], patients: ArrayLike, groups: Groups, *, samples: int = 1000, seed: int = 0
) -> dict[str, Summary]:
    """Average within size bands, textures or classes.

    ``Groups.bands([c.truth_diameter_mm for c in cases], (6, 8, 15))`` groups the nodules by true size; a case without
    truth is in the smallest band, where it is counted as invented or empty.

    Args:
        cases: one a nodule.
        patients: (N,) the patient of each.
        groups: (N,) of the cases.
        samples: bootstrap samples of patients.
        seed: of the draws.

    Returns:
        name → means, for groups with a case.

    Raises:
        BadValues: as :func:`summarise`, or another number of groups.
    """
    names = np.asarray(patients)
    if len(groups.code) != len(cases) or names.shape != (len(cases),):
        raise BadValues(f"{len(cases)} cases have {len(groups.code)} groups and {names.size} patients: give one each.")
    return {
        name: summarise([cases[k] for k in rows], names[rows], samples=samples, seed=seed)
        for name, rows in groups.rows()
    }


# ---------------------------------------------------------------- parts


def _cropped(first: Bool, second: Bool, spacing_zyx: Sequence[float]) -> tuple[Bool, Bool]:
    """Crop both masks to their common bounding box."""
    from scipy.ndimage import find_objects

    if first.dtype != np.bool_ or second.dtype != np.bool_:
        raise BadValues(
            f"Masks are bool arrays, got {first.dtype} and {second.dtype}: apply a threshold, or pick a label."
        )
    spacing = np.asarray(spacing_zyx, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise BadGeometry(f"Masks must share one shape of two or three axes, got {first.shape} and {second.shape}.")
    if spacing.shape != (first.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise BadGeometry(
            f"A mask of {first.ndim} axes needs as many positive spacings in mm, got {tuple(spacing_zyx)}."
        )
    found = find_objects((first | second).view(np.uint8))
    box = found[0] if found else (slice(0, 0),) * first.ndim
    return first[box], second[box]


def _distances(a: Bool, b: Bool, spacing_zyx: Sequence[float]) -> tuple[Float, Float]:
    from scipy.ndimage import binary_erosion
    from scipy.spatial import KDTree

    # a k-d tree of surface voxels is exact, and faster than a distance map of the box, for nodules and lungs alike
    on_a, on_b = (np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing_zyx) for mask in (a, b))
    if not (len(on_a) and len(on_b)):
        return np.empty(0), np.empty(0)
    return KDTree(on_b).query(on_a)[0], KDTree(on_a).query(on_b)[0]


def _check_readers(masks: Bool, least: int) -> None:
    if masks.dtype != np.bool_ or masks.ndim not in (3, 4) or len(masks) < least:
        raise BadValues(
            f"Readers' masks are bool (readers, z, y, x), {least} at least: got {masks.dtype} {masks.shape}."
        )
