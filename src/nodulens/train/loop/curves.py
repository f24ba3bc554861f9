"""Learning curves of one network as a picture, from the table that training writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nodulens.io.atomic import whole_file
from nodulens.presentation.figures import Basis, Course, Line, learning_figure, to_png
from nodulens.train.loop.fit import VALIDATION, Row

TRAINING, VALIDATED = "training", "validation"
FIGURES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "dice": "Dice",
    "nodule_dice": "Nodule Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "average_precision": "Average precision",
    "map50": "mAP@0.5",
    "map50_95": "mAP@0.5:0.95",
}
"""Figures of an epoch and their panels, each with the training and the validation set where both have it."""
SINGLE = {"watched": "Watched", "learning_rate": "Learning rate", "memory_mb": "Memory, MB"}


def read_curves(table: Path) -> list[Row]:
    """Rows of a table of curves, one an epoch; NaN where a cell is empty."""
    with table.open(newline="", encoding="utf-8") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def curves_figure(table: Path, title: str) -> Figure:
    """Training and validation set in one panel for each figure, learning rate and memory by epoch, as far as the table
    has them. The validation score has a panel if it is none of the figures.

    Args:
        table: the CSV that :func:`nodulens.train.loop.fit.fit` writes beside its checkpoint, or a framework's.
        title: what was trained.
    """
    rows = read_curves(table)
    kept = [row["epoch"] for row in rows if row.get("kept") == 1]
    return learning_figure(list(_courses(rows)), Basis(len(rows), "epochs", note=title), kept[0] if kept else None)


def folds_figure(tables: Mapping[str, Path], title: str) -> Figure:
    """The validation set of several trainings of one network, a line for each, in one panel for each figure.

    Args:
        tables: name of a training, such as "fold 0" → its table of curves.
        title: what was trained.
    """
    trainings = {name: read_curves(table) for name, table in tables.items()}
    courses = []
    for name, words in FIGURES.items():
        column = VALIDATION + name
        lines = tuple(
            Line(fold, np.array([row["epoch"] for row in rows]), np.array([row[column] for row in rows]))
            for fold, rows in trainings.items()
            if all(column in row for row in rows)
        )
        if lines:
            courses.append(Course(f"{words}, {VALIDATED}", lines))
    return learning_figure(courses, Basis(len(tables), "trainings", note=title))


def _courses(rows: list[Row]) -> Iterator[Course]:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name, words in FIGURES.items():
        sets = {TRAINING: name, VALIDATED: VALIDATION + name}
        lines = tuple(Line(s, columns["epoch"], columns[column]) for s, column in sets.items() if column in columns)
        if lines:
            yield Course(words, lines)
    for name, words in SINGLE.items():
        if name in columns and not (name == "watched" and _is_shown(rows)):
            yield Course(words, (Line("", columns["epoch"], columns[name]),), logarithmic=name == "learning_rate")


def _is_shown(rows: list[Row]) -> bool:
    """Whether the validation score is a figure of the validation set, or one's negative, as of the loss."""
    names = [name for name in rows[0] if name.startswith(VALIDATION) or name == "loss"]
    return any(all(math.isclose(abs(row[name]), abs(row["watched"])) for row in rows) for name in names)


def draw_curves(table: Path, title: str) -> Path:
    """Write :func:`curves_figure` as a PNG beside the table, and return its path."""
    figure = curves_figure(table, title)
    picture = table.with_suffix(".png")
    with whole_file(picture) as part:
        part.write_bytes(to_png(figure))
    return picture
