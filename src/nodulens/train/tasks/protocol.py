"""The interface through which each network of a recipe is trained and evaluated: one module for each field.

A task's module loads its material, trains on some rows of it and evaluates on others. A row is one example, and all
rows of a patient stand or fall together in an honest split; which rows are which is decided by whoever calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.metrics.statistics import Interval
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


@dataclass(frozen=True)
class Outcome:
    """The evaluation of a network on rows that it was not trained on.

    Attributes:
        figures: name → value or nested figures; JSON can hold them.
        rows: name of a column → its values, one an evaluated row; enough to pool folds and draw intervals by patient.
            "row" and "patient" are always there.
    """

    figures: dict[str, Any]
    rows: dict[str, list[Any]] = field(default_factory=dict)


def with_interval(figure: Interval, patients: Sequence[str]) -> dict[str, float | None]:
    """A figure and its interval by patient for JSON; one patient alone gives none."""
    low, high = (figure.low, figure.high) if len(set(patients)) > 1 else (math.nan, math.nan)
    return {"value": rounded(figure.value), "low": rounded(low), "high": rounded(high)}


def median_ms(jobs: Iterable[Callable[[], object]]) -> float:
    """Milliseconds that a job takes, the median of some."""
    times = []
    for job in jobs:
        start = time.perf_counter()
        job()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def rounded(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return round(float(value), 4) if np.isfinite(value) else None


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

    def evaluate(self, model: Model, config: NetworkConfig, material: Any, rows: Rows) -> Outcome:
        """Evaluate the exported network on ``rows``."""
