"""The interface by which the networks of a recipe are trained and evaluated, one module for each field.

A task's module loads its material, trains on some rows of it and evaluates on others. A row is one example; the caller
chooses the rows, and must keep all rows of a patient on one side of a split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nodulens.data.splits import Split
from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.runtime.engine import Model
from nodulens.train.loop.fit import Follow

Rows = NDArray[np.int_]


class Material(Protocol):
    """Examples for training or evaluation."""

    @property
    def patients(self) -> Sequence[str]:
        """(N,) patient of each row."""

    @property
    def strata(self) -> Sequence[str]:
        """(N,) what a split should spread evenly, such as the class of a row."""

    @property
    def items(self) -> Sequence[str]:
        """(N,) name of what each row shows, the same in the material of every recipe that shows it."""

    def shown(self, rows: Rows) -> set[str]:
        """The patients of some rows, and those whose nodules are shown in them: of most material nobody else's."""
        return {self.patients[row] for row in rows}


class Figures(Protocol):
    """Figures of evaluated rows, a frozen dataclass; means have intervals by patient."""

    def to_json(self) -> dict[str, Any]:
        """Name → value or nested figures, as in JSON."""


class Evaluated(Protocol):
    """A network evaluated on rows that it was not trained on, or the rows of several folds pooled."""

    @property
    def figures(self) -> Figures:
        """Figures of all rows."""

    def to_json(self) -> dict[str, list[Any]]:
        """Name of a column → its values, one for each row; "row" and "patient" are always there."""


def median_ms(jobs: Iterable[Callable[[], object]]) -> float:
    """Median time of jobs in milliseconds."""
    times = []
    for job in jobs:
        start = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


class TaskModule(Protocol):
    """A module that trains and evaluates the network of one field of a recipe."""

    def load(self, data: Path, recipe: Recipe, split: Split | None = None) -> Material:
        """The examples in a data folder.

        Args:
            split: by which they will be divided, which matters where the nodules of one patient are shown in the scan
                of another; None: the project's own folds.

        Raises:
            NotFound: a file is missing; the message says which and where to get it.
        """

    def multiplied(self, material: Any, kinds: Sequence[Augmentation], copies: int) -> Material:
        """The material, then ``copies`` of it, every row augmented at random, see
        :func:`nodulens.train.loop.augment.augmented`. Never to be done before a split, except to measure the leakage:
        copies of test rows would be trained on."""

    def settled(self, config: NetworkConfig, material: Any, rows: Rows) -> NetworkConfig:
        """The config with the values that depend on the training rows, such as the size of the input, filled in."""

    def train(
        self,
        config: NetworkConfig,
        material: Any,
        rows: Rows,
        validation: Rows,
        checkpoint: Path,
        follow: Follow | None = None,
    ) -> nn.Module:
        """Train a network on ``rows``, keeping the weights that are best on ``validation``. Resumes ``checkpoint``.

        Args:
            follow: see :func:`nodulens.train.loop.fit.fit`.
        """

    def evaluate(self, model: Model, config: NetworkConfig, material: Any, rows: Rows) -> Evaluated:
        """Evaluate the exported network on ``rows``."""
