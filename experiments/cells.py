"""Cells of the table of results, and what their files hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from nodulens.errors import UnreadableFile
from nodulens.evaluate.slice_networks import SliceNetworkFigures
from nodulens.io.records import Columns, Format, from_plain
from nodulens.methods.recipe import NetworkConfig

SCHEMA = "nodulens-cell/1"
PATIENTS, RANDOM, AUGMENTED, SCANS = "patients", "random", "augmented", "scans"
"""Splits: by patient; of the rows, stratified by class, whoever's they are; of rows and their changed copies; and
everybody who may train against the four whole scans."""


@dataclass(frozen=True)
class Cell:
    """One network, one split, one fold.

    Attributes:
        settings: what differs from the recipe, see :func:`nodulens.methods.recipe.changed`.
    """

    recipe: str
    part: str
    split: str
    fold: int
    settings: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        """Cells of one row of the table differ in split and fold alone."""
        return ".".join((self.recipe, self.part, *self.settings))

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.row}.{self.split}-{self.fold}"


@dataclass(frozen=True)
class ComputedCell(Cell):
    """A cell as its file holds it.

    Attributes:
        software: names → versions, and the GPU where one trained.
        learner: config of the network; None of handcrafted features, and of several networks together.
        rows_trained: rows of the training set.
        epochs: of the default's prompted network.
        epochs_run: None if it was not recorded.
        train_seconds: of the training.
        cpu_ms: milliseconds of an input; None of several networks together.
        random_sheets: whether close-ups were learnt on sheets cut at random, of a refined cell by the first stage;
            False also of networks without them.
        scans: figures of whole scans. Those of all other cells come from their rows.
        rows: column by column, as a task's ``to_json`` gives them.
        graded: of a refined cell, the rows of its classifier.
    """

    software: Mapping[str, str] = field(default_factory=dict)
    learner: NetworkConfig | None = None
    rows_trained: int | None = None
    epochs: int | None = None
    epochs_run: int | None = None
    train_seconds: float = 0.0
    cpu_ms: float | None = None
    random_sheets: bool = False
    scans: SliceNetworkFigures | None = field(default=None, compare=False)
    rows: Columns = field(default_factory=dict, compare=False)
    graded: Columns = field(default_factory=dict, compare=False)

    @property
    def may_know_places(self) -> bool:
        """Whether a network learnt close-ups with each nodule in the middle of its square, and may look there."""
        windows = self.part == "segmenter" and self.learner is not None and self.learner.window is not None
        return (windows or self.part == "refined") and not self.random_sheets


FORM = Format(SCHEMA, "cell", defaults=True)


def read_cell(path: Path) -> ComputedCell:
    """The cell in a file.

    Raises:
        UnreadableFile: JSON of something else; the message says what.
    """
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.pop("schema", None) != FORM.schema or not {"figures", "rows"} <= found.keys():
        raise UnreadableFile(f"{path} is no cell of schema {FORM.schema!r} with figures and rows.")
    figures, rows, graded = found.pop("figures"), found.pop("rows"), found.pop("graded", {})
    cell = cast("ComputedCell", from_plain(ComputedCell, found, path.stem, FORM))
    scans = SliceNetworkFigures.from_json(figures) if cell.split == SCANS else None
    return replace(cell, scans=scans, rows=rows, graded=graded)


def joined(columns: Iterable[Columns]) -> Columns:
    """The rows of several folds, column by column."""
    out: dict[str, list[Any]] = {}
    for one in columns:
        for name, values in one.items():
            out.setdefault(name, []).extend(values)
    return out
