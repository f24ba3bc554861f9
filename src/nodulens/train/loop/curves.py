"""Learning curves of one network as a picture, from the table that training writes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nodulens.io.atomic import whole_file
from nodulens.presentation.figures import Basis, Course, Line, learning_figure, to_png

COURSES = {"loss": "Training loss", "watched": "Watched", "learning_rate": "Learning rate", "memory_mb": "Memory, MB"}


def read_curves(table: Path) -> list[dict[str, float]]:
    """Rows of a table of curves, one an epoch."""
    with table.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def curves_figure(table: Path, title: str) -> Figure:
    """Loss, validation score, learning rate and memory by epoch, as far as the table has them.

    Args:
        table: the CSV that :func:`nodulens.train.loop.fit.fit` writes beside its checkpoint, or a framework's.
        title: what was trained.
    """
    rows = read_curves(table)
    epochs = np.array([row["epoch"] for row in rows])
    courses = [
        Course(words, (Line("", epochs, np.array([row[name] for row in rows])),), logarithmic=name == "learning_rate")
        for name, words in COURSES.items()
        if name in rows[0]
    ]
    best = max(rows, key=lambda row: row["watched"])["epoch"]
    return learning_figure(courses, Basis(len(rows), "epochs", note=title), chosen=best)


def draw_curves(table: Path, title: str) -> Path:
    """Write :func:`curves_figure` as a PNG beside the table, and return its path."""
    figure = curves_figure(table, title)
    picture = table.with_suffix(".png")
    with whole_file(picture) as part:
        part.write_bytes(to_png(figure))
    return picture
