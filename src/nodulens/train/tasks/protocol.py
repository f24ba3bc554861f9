"""The interface through which each network of a recipe is trained and evaluated: one module for each field.

A task's module loads its material, trains on some rows of it and evaluates on others. A row is one example, and all
rows of a patient stand or fall together in an honest split; which rows are which is decided by whoever calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.runtime.engine import Model

Rows = NDArray[np.int_]


class Material(Protocol):
    """Examples to train or to evaluate on."""

    @property
    def patients(self) -> Sequence[str]:
        """(N,) patient of every row."""

    @property
    def strata(self) -> Sequence[str]:
        """(N,) what a split should spread evenly, such as the class of a row."""


class Figures(Protocol):
    """Figures of evaluated rows, a frozen dataclass; those of several rows come with intervals by patient."""

    def to_json(self) -> dict[str, Any]:
        """Name → value or nested figures, as JSON holds them."""


class Evaluated(Protocol):
    """A network evaluated on rows that it was not trained on; rows of several folds together are one too."""

    @property
    def figures(self) -> Figures:
        """Figures of all rows."""

    def to_json(self) -> dict[str, list[Any]]:
        """Name of a column → its values, one an evaluated row; "row" and "patient" are always there."""


def median_ms(jobs: Iterable[Callable[[], object]]) -> float:
    """Milliseconds that a job takes, the median of some."""
    times = []
    for job in jobs:
        start = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


class TaskModule(Protocol):
    """A module that trains and evaluates the network of one field of a recipe."""

    def load(self, data: Path, recipe: Recipe) -> Material:
        """The examples in a data folder.

        Raises:
            NotFound: what is needed does not lie there; the message says what and where from.
        """

    def multiplied(self, material: Any, kinds: Sequence[Augmentation], copies: int) -> Material:
        """The material as it is, then ``copies`` of it, every row changed at random in ways of
        :func:`nodulens.train.loop.augment.augmented`: what nobody should do before a split, where copies of a test row
        are trained on."""

    def settled(self, config: NetworkConfig, material: Any, rows: Rows) -> NetworkConfig:
        """The config with what the training rows decide, such as the size of the input, filled in."""

    def train(self, config: NetworkConfig, material: Any, rows: Rows, validation: Rows, checkpoint: Path) -> nn.Module:
        """A network trained on ``rows``; ``validation`` says when it is best. Resumes ``checkpoint``."""

    def evaluate(self, model: Model, config: NetworkConfig, material: Any, rows: Rows) -> Evaluated:
        """Evaluate the exported network on ``rows``."""
