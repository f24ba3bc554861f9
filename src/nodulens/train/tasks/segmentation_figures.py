"""Evaluated slices, and figures of them: overlap by class, nodules' boxes, and Dice by the nodule's diameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.io.records import Arrangement, Columns, columns_of, omitting, records_of, to_plain
from nodulens.metrics.agreement import bland_altman, pearson
from nodulens.metrics.boxes import Image, box_iou, match, summary
from nodulens.metrics.estimates import Estimate, rounded
from nodulens.metrics.segmentation import NAN, Overlap, overlap_columns, overlaps, summarise
from nodulens.ops.components import components
from nodulens.stages.slices import NODULE, Field

Bool = NDArray[np.bool_]

SLICE, CLOSE_UP = "slice", "close-up"
DIAMETERS_MM = (0, 3, 5, 8, 12)
"""Lower ends of the bands of diameter, that of the disc of a nodule's area on the slice."""


# ---------------------------------------------------------------- figures


@dataclass(frozen=True)
class AreaAgreement:
    """Bland–Altman of areas in pixels, predicted minus true, over the slices with either.

    Attributes:
        slices: number of these.
        difference: mean.
        lower, upper: limits of agreement.
    """

    slices: int
    difference: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class ClassFigures:
    """One class on slices, each 0…1; see :class:`nodulens.metrics.segmentation.Summary`.

    Dice, IoU, sensitivity and precision are means over the slices whose truth has the class (a missed one counts 0).
    Slices without it are counted separately.

    Attributes:
        dice_all: mean Dice over all slices, with 1 for both empty and 0 for invented.
        both_empty: slices where neither truth nor prediction has it.
        invented: slices where only the prediction has it.
        missed: slices where only the truth has it.
        dice_pooled: Dice of the pooled pixels of all slices. In this and ``dice_all`` small objects hardly count.
        areas_px: None if fewer than two slices have either.
    """

    dice: Estimate
    iou: Estimate
    sensitivity: Estimate
    precision: Estimate
    dice_all: Estimate
    cases: int
    both_empty: int
    invented: int
    missed: int
    dice_pooled: float | None
    areas_px: AreaAgreement | None

    @property
    def with_class(self) -> int:
        """Slices whose truth has the class."""
        return self.cases - self.both_empty - self.invented


@dataclass(frozen=True)
class BoxFigures:
    """COCO's figures of the nodules' boxes on slices.

    Attributes:
        truths, found: number of true boxes, and of those found at an IoU of 0.5.
        precision, recall, f1, mean_iou: of all predicted boxes, at that IoU.
        map50, map50_95, average_recall: see :class:`nodulens.metrics.boxes.Summary`.
    """

    truths: int
    found: int
    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    map50: float | None
    map50_95: float | None
    average_recall: float | None


@dataclass(frozen=True)
class DiameterBand:
    """Number of slices in a band of the nodule's diameter, and mean Dice of the nodule on them."""

    slices: int
    dice: float | None


@dataclass(frozen=True)
class CloseUpFigures:
    """Close-ups of real nodules, means over nodules."""

    nodules: int
    missed: int
    dice: Estimate
    iou: Estimate
    sensitivity: Estimate


@dataclass(frozen=True)
class SegmentationFigures:
    """Figures of evaluated slices, of one fold or of several, with intervals by patient.

    Attributes:
        slices, with_nodule: whole slices, and how many of them show a nodule.
        accuracy: share of pixels that are correct in every class; None without a whole slice.
        classes: figures of each foreground class; none without a whole slice.
        boxes: None without a true box.
        dice_by_size: Dice of the nodule by its diameter on the slice: name of the band → figures.
        pearson_of_nodule_and_lung_dice: over the slices with a nodule; None if there are fewer than three or no lungs,
            or if it is undefined.
        close_ups: summarised separately; None without any.
    """

    slices: int
    with_nodule: int
    accuracy: float | None
    classes: Mapping[str, ClassFigures]
    boxes: BoxFigures | None
    dice_by_size: Mapping[str, DiameterBand]
    pearson_of_nodule_and_lung_dice: float | None
    close_ups: CloseUpFigures | None

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results and in ``nodulens evaluate RUN --json``."""
        out: dict[str, Any] = to_plain(self, ARRANGED)
        if not self.relates_nodule_and_lung:
            del out["pearson_of_nodule_and_lung_dice"]
        return out

    @property
    def relates_nodule_and_lung(self) -> bool:
        """Whether there are lungs, and enough nodules for a correlation."""
        return len(self.classes) > 1 and self.with_nodule > 2


ARRANGED: Mapping[type, Arrangement] = {SegmentationFigures: omitting("close_ups")}


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class SliceRow:
    """An evaluated slice, or the close-up of a nodule.

    Attributes:
        row: of the material.
        kind: :data:`SLICE` or :data:`CLOSE_UP`.
        pixel_mm: of the network's input.
        pixels: number in the slice.
        right: number that are correct in every class.
        overlap: of each class, in pixels; in a close-up only the nodule is annotated.
        scores: mean probability in each predicted box of a nodule (connected component).
        truths: number of true boxes.
        iou: of boxes, predicted × true.
    """

    row: int
    patient: str
    kind: str
    pixel_mm: float
    pixels: int
    right: int
    overlap: Mapping[str, Overlap]
    scores: Sequence[float]
    truths: int
    iou: Sequence[Sequence[float]]

    @property
    def boxes(self) -> Image:
        """The nodules' boxes."""
        return Image(np.array(self.scores), np.reshape(self.iou, (len(self.scores), self.truths)))

    def dice(self, *names: str) -> float:
        """Dice of some classes together, 0…1; 1 if neither truth nor prediction has them."""
        own = [self.overlap[name] for name in names]
        counts = [(one.truth_voxels, one.predicted_voxels, one.common_voxels) for one in own]
        return Overlap.of_counts(*map(sum, zip(*counts, strict=True))).dice


@dataclass(frozen=True)
class EvaluatedSlices:
    """A segmenter evaluated on slices, and on close-ups if there are any."""

    rows: tuple[SliceRow, ...]

    @property
    def slices(self) -> tuple[SliceRow, ...]:
        """The whole slices."""
        return tuple(row for row in self.rows if row.kind == SLICE)

    @property
    def close_ups(self) -> tuple[SliceRow, ...]:
        """The close-ups."""
        return tuple(row for row in self.rows if row.kind == CLOSE_UP)

    @cached_property
    def figures(self) -> SegmentationFigures:
        """Means with intervals by patient, of whole slices and of close-ups."""
        rows = self.slices
        classes = tuple(rows[0].overlap) if rows else ()
        with_nodule = [row for row in rows if row.overlap[NODULE].truth_voxels]
        lungs = [name for name in classes if name != NODULE]
        correlation = None
        if lungs and len(with_nodule) > 2:
            dice = (np.array([row.dice(*names) for row in with_nodule]) for names in (lungs, [NODULE]))
            correlation = rounded(pearson(*dice).r.value)
        return SegmentationFigures(
            slices=len(rows),
            with_nodule=len(with_nodule),
            accuracy=rounded(sum(row.right for row in rows) / sum(row.pixels for row in rows)) if rows else None,
            classes={name: _class_figures(rows, name) for name in classes},
            boxes=_box_figures([row.boxes for row in rows]),
            dice_by_size=_dice_by_size(with_nodule),
            pearson_of_nodule_and_lung_dice=correlation,
            close_ups=_close_up_figures(self.close_ups) if self.close_ups else None,
        )

    def to_json(self) -> dict[str, list[Any]]:
        """As columns, the form of rows in a cell of the table of results."""
        columns: dict[str, list[Any]] = {}
        for name, values in columns_of(SliceRow, self.rows).items():
            if name == "overlap":
                for one in values[0]:
                    columns |= overlap_columns([cases[one] for cases in values], one)
            else:
                columns[name] = values
        return columns

    @classmethod
    def from_json(cls, columns: Columns, classes: Sequence[str]) -> EvaluatedSlices:
        """From the columns of :meth:`to_json`, of one fold or several.

        Args:
            classes: foreground classes of the network.
        """
        cases = zip(*(overlaps(columns, name) for name in classes), strict=True)
        overlap = [dict(zip(classes, row, strict=True)) for row in cases]
        return cls(records_of(SliceRow, {**columns, "overlap": overlap}))


def slice_rows(
    places: Sequence[tuple[int, str, float]], kind: str, field: Field, truth: Bool, probabilities: NDArray[np.float32]
) -> list[SliceRow]:
    """Compare prediction and truth of slices.

    Args:
        places: (N,) row, patient and pixel.
        kind: :data:`SLICE` or :data:`CLOSE_UP`.
        truth: (N, foreground classes, y, x).
        probabilities: of the same shape.
    """
    predicted, nodule = field.decided(probabilities), field.foreground.index(NODULE)
    rows = []
    for (row, patient, pixel_mm), true, found, probability in zip(places, truth, predicted, probabilities, strict=True):
        boxes = nodule_boxes(true[nodule], found[nodule], probability[nodule])
        counts = (
            Overlap.of_counts(int(a.sum()), int(b.sum()), int((a & b).sum())) for a, b in zip(true, found, strict=True)
        )
        overlap = dict(zip(field.foreground, counts, strict=True))
        right = int((found == true).all(axis=0).sum())
        columns = boxes.scores.tolist(), boxes.iou.shape[1], boxes.iou.tolist()
        rows.append(SliceRow(row, patient, kind, pixel_mm, found[0].size, right, overlap, *columns))
    return rows


def nodule_boxes(true: Bool, found: Bool, probability: NDArray[np.float32]) -> Image:
    """Boxes around the nodules of a slice, predicted against true, each a connected component of 8 neighbours.

    Args:
        true, found, probability: (y, x); the score of a predicted box is the mean probability in its component.
    """
    real, marks = components(true, 8), components(found, 8)
    sums = np.bincount(marks.labels[found], probability[found], len(marks) + 1)[1:]
    return Image(sums / marks.sizes, box_iou(_corners(marks.slices), _corners(real.slices)))


def _corners(slices: Sequence[tuple[slice, ...]]) -> NDArray[np.float64]:
    """(n, 2, 2) lower and upper corner of boxes."""
    ends = [[[s.start for s in where], [s.stop for s in where]] for where in slices]
    return np.array(ends, dtype=np.float64).reshape(-1, 2, 2)


# ---------------------------------------------------------------- parts of the figures


def _class_figures(rows: Sequence[SliceRow], name: str) -> ClassFigures:
    cases, patients = [row.overlap[name] for row in rows], [row.patient for row in rows]
    found = summarise(cases, patients)
    return ClassFigures(
        dice=Estimate.of(found.dice, patients),
        iou=Estimate.of(found.iou, patients),
        sensitivity=Estimate.of(found.sensitivity, patients),
        precision=Estimate.of(found.precision, patients),
        dice_all=Estimate.of(found.dice_all, patients),
        cases=found.cases,
        both_empty=found.both_empty,
        invented=found.invented,
        missed=found.missed,
        dice_pooled=rounded(_pooled_dice(cases)),
        areas_px=_area_agreement(cases),
    )


def _close_up_figures(rows: Sequence[SliceRow]) -> CloseUpFigures:
    patients = [row.patient for row in rows]
    found = summarise([row.overlap[NODULE] for row in rows], patients)
    means = (Estimate.of(one, patients) for one in (found.dice, found.iou, found.sensitivity))
    return CloseUpFigures(found.cases, found.missed, *means)


def _dice_by_size(rows: Sequence[SliceRow]) -> dict[str, DiameterBand]:
    """Dice of slices with a nodule, by the diameter of the disc of its area there."""
    dice = np.array([row.dice(NODULE) for row in rows])
    pixels = np.array([row.overlap[NODULE].truth_voxels for row in rows])
    diameter = 2 * np.sqrt(pixels / np.pi) * np.array([row.pixel_mm for row in rows])
    out = {}
    for low, high in pairwise((*DIAMETERS_MM, np.inf)):
        own = dice[(diameter >= low) & (diameter < high)]
        band = f"from {low} mm" if high == np.inf else f"{low}–{high} mm" if low else f"under {high} mm"
        out[band] = DiameterBand(len(own), rounded(own.mean()) if len(own) else None)
    return out


def _pooled_dice(cases: Sequence[Overlap]) -> float:
    total = sum(c.truth_voxels + c.predicted_voxels for c in cases)
    return 2 * sum(c.common_voxels for c in cases) / total if total else NAN


def _area_agreement(cases: Sequence[Overlap]) -> AreaAgreement | None:
    areas = np.array([(c.truth_voxels, c.predicted_voxels) for c in cases], dtype=float)
    some = areas[areas.any(axis=1)]
    if len(some) < 2:
        return None
    found = bland_altman(some[:, 1], some[:, 0])
    return AreaAgreement(found.count, *(rounded(one.value) for one in (found.difference, found.lower, found.upper)))


def _box_figures(slices: Sequence[Image]) -> BoxFigures | None:
    matches = match(slices)
    if not matches.truths:
        return None
    at, means = matches.at(0.0), asdict(summary({NODULE: matches}))
    point = (rounded(value) for value in (at.precision, at.recall, at.f1, at.mean_iou))
    return BoxFigures(matches.truths, at.true_positives, *point, **{name: rounded(v) for name, v in means.items()})
