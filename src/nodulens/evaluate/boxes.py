"""Bounding boxes of a detector, scored as COCO does, from CSV files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.errors import BadValues, UnreadableFile
from nodulens.io.tables import read_table
from nodulens.metrics.boxes import Labelled, Matches, Summary, match_boxes, summary
from nodulens.presentation.evaluation import Table

SCHEMA = "nodulens-boxes/1"


@dataclass(frozen=True)
class BoxClass:
    """The figures of one class; None where one is undefined.

    Attributes:
        ap50, ap50_95, average_recall: of all detections, see :mod:`nodulens.metrics.boxes`.
        score: detections of this score or a higher one count for what follows, at IoU 0.5.
        mean_iou: of the true positives.
    """

    ap50: float | None
    ap50_95: float | None
    average_recall: float | None
    score: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    true_positives: int
    false_positives: int
    false_negatives: int

    @classmethod
    def of(cls, matches: Matches, score: float | None = None) -> BoxClass:
        """The figures of a class at a least score; by default where F1 is greatest."""
        point = matches.best() if score is None else matches.at(score)
        return cls(
            ap50=_defined(matches.average_precision[0]),
            ap50_95=_defined(matches.average_precision.mean()),
            average_recall=_defined(matches.recall.mean()),
            score=_defined(point.score),
            precision=_defined(point.precision),
            recall=_defined(point.recall),
            f1=_defined(point.f1),
            mean_iou=_defined(point.mean_iou),
            true_positives=point.true_positives,
            false_positives=point.false_positives,
            false_negatives=point.false_negatives,
        )


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class BoxEvaluation:
    """A detector's boxes against the truth.

    Attributes:
        overall: means over the classes that have a truth.
        images: how many either file names.
        images_without_truth: those of them that hold no true box.
    """

    overall: Summary
    images: int
    images_without_truth: int
    classes: Mapping[str, BoxClass]

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate boxes --json`` prints it."""
        images = {"images": self.images, "images_without_truth": self.images_without_truth}
        classes = {name: asdict(one) for name, one in self.classes.items()}
        return {"schema": SCHEMA, **asdict(self.overall), **images, "classes": classes}

    def summary(self) -> str:
        """The means in a sentence."""
        return (
            f"mAP@0.5 {self.overall.map50:.4f}, mAP@0.5:0.95 {self.overall.map50_95:.4f}, "
            f"average recall {self.overall.average_recall:.4f}; {self.images} images, "
            f"{self.images_without_truth} of them without truth"
        )

    def table(self) -> Table:
        """A column a class."""
        columns = [asdict(one) for one in self.classes.values()]
        rows = tuple((name, *(column[name] for column in columns)) for name in columns[0])
        return Table("", ("", *self.classes), rows)


def evaluate_boxes(truth: Path, predictions: Path, score: float | None = None) -> BoxEvaluation:
    """mAP, average recall, precision, recall and F1 of boxes in files.

    Args:
        truth, predictions: see :func:`read_boxes`.
        score: least score for precision, recall and F1; None: where F1 is greatest.

    Raises:
        InputError: a file that is not there or cannot be read, no truth at all, or no image or class in both files.
    """
    real, found = read_boxes(truth, scored=False), read_boxes(predictions, scored=True)
    for what, true, own in (("image", real.image, found.image), ("label", real.label, found.label)):
        if true and set(true).isdisjoint(own):
            raise BadValues(
                f"No {what} of {predictions}, such as {own[0]!r}, is in {truth}, which has {true[0]!r}: write them "
                "alike (without a column label all boxes are 'nodule')."
            )
    classes = match_boxes(real, found)
    searched = {*real.image, *found.image}
    each = {name: BoxClass.of(matches, score) for name, matches in classes.items()}
    return BoxEvaluation(summary(classes), len(searched), len(searched - {*real.image}), each)


def read_boxes(path: str | Path, *, scored: bool) -> Labelled:
    """Read boxes from a CSV file.

    Args:
        path: columns image, x_min, y_min, x_max, y_max; z_min and z_max for boxes in three dimensions; label where
            there are classes; score where they are detections.
        scored: whether they are.

    Raises:
        InputError: no such file, no such column, a cell that is no number, a box without extent, a repeated row; with
            its line.
    """
    columns = ("image", "x_min", "y_min", "x_max", "y_max", *(("score",) if scored else ()))
    table = read_table(path, columns, optional=("z_min", "z_max", "label"))
    if ("z_min" in table.cells) != ("z_max" in table.cells):
        raise BadValues(f"{path} has one of the columns z_min and z_max; boxes in three dimensions need both.")
    axes = "xyz" if "z_min" in table.cells else "xy"
    low, high = (table.points([f"{axis}_{end}" for axis in axes]) for end in ("min", "max"))
    if scored and not len(table):
        raise UnreadableFile(f"{path} holds a header and no boxes; a detector that finds nothing scores 0 throughout.")
    flat = np.flatnonzero((high <= low).any(axis=1))
    if flat.size:
        raise BadValues(f"{table.at(int(flat[0]))}: the box is empty: on every axis max must lie above min.")
    table.refuse_repeats()
    scores = table.numbers("score") if scored else np.ones(len(table))
    label = table.cells.get("label", ("nodule",) * len(table))
    return Labelled(table.cells["image"], label, np.stack([low, high], axis=1), scores)
