"""Detection by overlap: average precision, average recall, precision, recall and F1 of boxes and masks.

Matching and interpolation are COCO's (``cocoeval.py``, Lin et al. 2014): per image and class the 100 detections of the
highest scores, in descending order, are each matched to the unmatched true box that they overlap most, if by the least
IoU or more; a second detection of a true box is a false positive, and so is any in an image without one. Precision is
made monotonic and sampled at recall 0, 0.01 … 1. Detections of equal score keep their order: image after image, in each
as given.

All of this needs only IoUs: :func:`box_iou`, :func:`mask_iou` and :func:`label_iou` compute them for boxes in two or
three dimensions and for masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.errors import BadOption, BadValues

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

IOUS: Float = np.linspace(0.5, 0.95, 10)
"""The IoUs that COCO averages over."""
RECALLS: Float = np.linspace(0.0, 1.0, 101)
"""Recalls at which precision is sampled."""
MAX_DETECTIONS = 100
"""Detections of one image and class that count."""


def box_iou(detected: ArrayLike, truth: ArrayLike) -> Float:
    """Pairwise intersection over union of boxes.

    Args:
        detected: (n, 2, dims): the lower corner and the upper one, half-open or continuous: a side is stop − start.
        truth: (m, 2, dims) in the same axes and units.

    Returns:
        (n, m), 0…1.

    Raises:
        BadValues: other shapes, a number that is not finite, or a box without extent.
    """
    a, b = _boxes(detected), _boxes(truth)
    if a.shape[2] != b.shape[2]:
        raise BadValues(f"Boxes of {a.shape[2]} and of {b.shape[2]} dimensions cannot be compared.")
    start, stop = np.maximum(a[:, None, 0], b[:, 0]), np.minimum(a[:, None, 1], b[:, 1])
    shared = np.prod(np.clip(stop - start, 0.0, None), axis=2)
    size_a, size_b = np.prod(a[:, 1] - a[:, 0], axis=1), np.prod(b[:, 1] - b[:, 0], axis=1)
    return np.asarray(shared / (size_a[:, None] + size_b - shared))


def mask_iou(detected: NDArray[Any], truth: NDArray[Any]) -> Float:
    """Pairwise intersection over union of masks, which may overlap one another.

    Args:
        detected: (n, …) masks, true inside.
        truth: (m, …) on the same grid.

    Returns:
        (n, m), 0…1; 0 for two empty masks.

    Raises:
        BadValues: other grids.
    """
    if detected.ndim < 2 or detected.shape[1:] != truth.shape[1:]:
        raise BadValues(f"Masks must be on one grid: got {detected.shape[1:]} and {truth.shape[1:]}.")
    # Only inside any mask; counted by BLAS, in floats that are exact up to 2^53 voxels.
    marked = np.any(detected, axis=0) | np.any(truth, axis=0)
    a, b = ((mask[:, marked] != 0).astype(np.float64) for mask in (detected, truth))
    return _ratio(a @ b.T, a.sum(axis=1), b.sum(axis=1))


def label_iou(detected: NDArray[Any], truth: NDArray[Any]) -> Float:
    """Pairwise intersection over union of labelled regions.

    Args:
        detected: (…) integer labels, 0 outside, as in ``nodules.nii.gz``.
        truth: the same, on the same grid.

    Returns:
        (n, m), 0…1, in the order of the labels that occur.

    Raises:
        BadValues: different grids, or labels that are not integers.
    """
    if detected.shape != truth.shape or detected.dtype.kind not in "bui" or truth.dtype.kind not in "bui":
        raise BadValues(
            f"Labels must be whole numbers on one grid: got {detected.dtype} {detected.shape}, "
            f"{truth.dtype} {truth.shape}."
        )
    marked = (detected != 0) | (truth != 0)
    labels_a, a = np.unique(np.append(detected[marked], 0), return_inverse=True)
    labels_b, b = np.unique(np.append(truth[marked], 0), return_inverse=True)
    shared = np.zeros((len(labels_a), len(labels_b)))
    np.add.at(shared, (a[:-1], b[:-1]), 1.0)
    ratio = _ratio(shared, shared.sum(axis=1), shared.sum(axis=0))
    return np.asarray(ratio[labels_a != 0][:, labels_b != 0])


@dataclass(frozen=True, eq=False)
class Image:
    """The detections of one class in one image or scan, against its ground truth.

    Args:
        scores: (detections); higher is more confident.
        iou: (detections, true boxes), 0…1.

    Raises:
        BadValues: shapes that do not fit, or a number that is not finite.
    """

    scores: Float
    iou: Float

    def __post_init__(self) -> None:
        scores, iou = np.asarray(self.scores, dtype=np.float64), np.asarray(self.iou, dtype=np.float64)
        if scores.ndim != 1 or iou.ndim != 2 or len(iou) != len(scores):
            raise BadValues(f"IoU needs a row for each score: got {iou.shape} for scores of shape {scores.shape}.")
        if not (np.isfinite(scores).all() and np.isfinite(iou).all()):
            raise BadValues("A score or an IoU is NaN or infinite.")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "iou", iou)


@dataclass(frozen=True)
class OperatingPoint:
    """A detector at a score threshold.

    Attributes:
        score: detections with this score or a higher one count.
        iou: from which a true box counts as found.
        true_positives, false_positives, false_negatives: counts.
        mean_iou: of the true positives; NaN without any.
    """

    score: float
    iou: float
    true_positives: int
    false_positives: int
    false_negatives: int
    mean_iou: float

    @property
    def precision(self) -> float:
        """Share of the detections that are true positives; NaN without any."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the true boxes that are found; NaN without any."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two: 2 TP / (2 TP + FP + FN)."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections of one class in all images, the highest score first, matched at each IoU.

    Attributes:
        scores: (detections), descending.
        overlap: (ious, detections) IoU with the matched true box; 0 without a match.
        truths: number of true boxes.
        ious: from which a true box counts as found.
    """

    scores: Float
    overlap: Float
    truths: int
    ious: tuple[float, ...]

    @cached_property
    def average_precision(self) -> Float:
        """Mean interpolated precision (ious) at 101 recalls, 0…1; NaN without true boxes."""
        return np.asarray(self.precision.mean(axis=1))

    @cached_property
    def precision(self) -> Float:
        """Interpolated precision (ious, 101) at :data:`RECALLS`, 0 beyond the last recall; NaN without true boxes."""
        if not self.truths:
            return np.full((len(self.ious), len(RECALLS)), np.nan)
        tp = np.cumsum(self.overlap > 0, axis=1)
        recall = tp / self.truths
        precision = tp / np.arange(1, len(self.scores) + 1)
        # a column of 0 after the last detection gives the precision beyond the largest recall
        falling = np.pad(np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
        return np.stack([f[np.searchsorted(r, RECALLS)] for r, f in zip(recall, falling, strict=True)])

    @cached_property
    def recall(self) -> Float:
        """Share (ious) of the true boxes found by all detections together; NaN without true boxes."""
        if not self.truths:
            return np.full(len(self.ious), np.nan)
        return np.asarray(np.sum(self.overlap > 0, axis=1) / self.truths)

    def at(self, score: float, *, iou: float = 0.5) -> OperatingPoint:
        """Precision, recall and F1 of the detections with at least a score.

        Raises:
            BadOption: an IoU that was not used for matching.
        """
        overlap = self.overlap[self._row(iou), self.scores >= score]
        found = overlap[overlap > 0]
        mean = float(found.mean()) if found.size else float("nan")
        return OperatingPoint(float(score), iou, found.size, overlap.size - found.size, self.truths - found.size, mean)

    def best(self, *, iou: float = 0.5) -> OperatingPoint:
        """The operating point of the largest F1; of several the one with the highest score.

        It is optimistic on the data it was chosen on: choose the score on other data, and use :meth:`at`.
        """
        found = np.cumsum(self.overlap[self._row(iou)] > 0)
        # only where the score changes: detections of equal score belong together
        ends = np.flatnonzero(np.append(self.scores[1:] != self.scores[:-1], True)[: len(self.scores)])
        if not ends.size:
            return self.at(float("inf"), iou=iou)
        f1 = 2 * found[ends] / (ends + 1 + self.truths)
        return self.at(float(self.scores[ends[np.argmax(f1)]]), iou=iou)

    def _row(self, iou: float) -> int:
        equal = np.flatnonzero(np.isclose(self.ious, iou, rtol=0.0, atol=1e-9))
        if not equal.size:
            raise BadOption(f"No matches at IoU {iou}; there are {', '.join(f'{v:g}' for v in self.ious)}.")
        return int(equal[0])


def match(images: Sequence[Image], ious: ArrayLike = IOUS, *, limit: int = MAX_DETECTIONS) -> Matches:
    """Match detections to true boxes, the highest score first.

    Args:
        images: all that were searched, including those without true boxes or detections.
        ious: from which a true box counts as found, each above 0, at most 1.
        limit: detections of an image that count, those of the highest scores.

    Raises:
        BadOption: an IoU outside 0…1, or a limit below 1.
    """
    wanted = np.atleast_1d(np.asarray(ious, dtype=np.float64))
    if not ((wanted > 0) & (wanted <= 1)).all() or limit < 1:
        raise BadOption(f"IoUs must be above 0 and up to 1, and a limit 1 or more: got {wanted.tolist()} and {limit}.")
    scores: list[Float] = [np.zeros(0)]
    overlap: list[Float] = [np.zeros((len(wanted), 0))]
    for image in images:
        order = np.argsort(-image.scores, kind="stable")[:limit]
        scores.append(image.scores[order])
        overlap.append(_taken(image.iou[order], wanted))
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    truths = sum(image.iou.shape[1] for image in images)
    return Matches(score[order], np.concatenate(overlap, axis=1)[:, order], truths, tuple(wanted.tolist()))


@dataclass(frozen=True, eq=False)
class Labelled:
    """Boxes with a class, in images.

    Args:
        image: (n) name of the image or scan of each.
        label: (n) class of each.
        boxes: (n, 2, dims) lower and upper corner.
        scores: (n); all 1 for the ground truth.
    """

    image: tuple[str, ...]
    label: tuple[str, ...]
    boxes: Float
    scores: Float


def match_boxes(truth: Labelled, detected: Labelled) -> dict[str, Matches]:
    """Match boxes class by class; class → matches. Classes, and the images of each, come in alphabetical order.

    An image is searched where either names it, and a class exists where either names it.

    Raises:
        BadValues: boxes of different dimensions, a number that is not finite, or a box without extent.
    """
    places = [_places(truth), _places(detected)]
    names = sorted({*truth.image, *detected.image})
    labels = sorted({*truth.label, *detected.label})
    images: dict[str, list[Image]] = {label: [] for label in labels}
    for label, name in product(labels, names):
        real, found = (place.get((name, label), []) for place in places)
        if real or found:
            images[label].append(Image(detected.scores[found], box_iou(detected.boxes[found], truth.boxes[real])))
    return {label: match(images[label]) for label in labels}


@dataclass(frozen=True)
class Summary:
    """Means over the classes that have true boxes.

    Attributes:
        map50, map50_95: mean average precision at IoU 0.5, and over 0.5, 0.55 … 0.95.
        average_recall: recall over the same IoUs, with up to 100 detections an image.
    """

    map50: float
    map50_95: float
    average_recall: float


def summary(classes: Mapping[str, Matches]) -> Summary:
    """mAP and AR of classes matched at :data:`IOUS`.

    Raises:
        BadValues: no class has a true box.
    """
    defined = [matches for matches in classes.values() if matches.truths]
    if not defined:
        raise BadValues("No image has a true box: neither precision nor recall is defined.")
    precision = np.mean([matches.average_precision for matches in defined], axis=0)
    recall = np.mean([matches.recall for matches in defined], axis=0)
    return Summary(float(precision[0]), float(precision.mean()), float(recall.mean()))


def _boxes(values: ArrayLike) -> Float:
    boxes = np.asarray(values, dtype=np.float64)
    if boxes.ndim != 3 or boxes.shape[1] != 2:
        raise BadValues(f"Boxes have the shape (boxes, 2, dimensions), a lower and an upper corner: got {boxes.shape}.")
    if not np.isfinite(boxes).all() or (boxes[:, 1] <= boxes[:, 0]).any():
        raise BadValues("A box is empty or not finite: on every axis the upper corner must be above the lower one.")
    return boxes


def _ratio(shared: Float, size_a: Float, size_b: Float) -> Float:
    return np.asarray(shared / np.maximum(size_a[:, None] + size_b - shared, 1.0))


def _taken(iou: Float, wanted: Float) -> Float:
    """IoU (ious, detections) of each detection, in descending score, with its matched true box; else 0."""
    taken = np.zeros((len(wanted), len(iou)))
    free = np.ones((len(wanted), iou.shape[1]), dtype=bool)
    # COCO's tolerance, so that an IoU of 1 can be required; of equal overlaps it takes the last
    least = np.minimum(wanted, 1.0 - 1e-10)
    rows = np.arange(len(wanted))
    for detection in np.flatnonzero((iou >= least.min()).any(axis=1)):
        open_to = np.where(free, iou[detection], -1.0)
        best = iou.shape[1] - 1 - np.argmax(open_to[:, ::-1], axis=1)
        got = open_to[rows, best] >= least
        taken[got, detection] = open_to[rows, best][got]
        free[rows[got], best[got]] = False
    return taken


def _places(boxes: Labelled) -> dict[tuple[str, str], list[int]]:
    """(image, class) → the boxes there, in their order."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(zip(boxes.image, boxes.label, strict=True)):
        places.setdefault(key, []).append(place)
    return places


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
