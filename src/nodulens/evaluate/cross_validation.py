"""The runs of a cross-validation on all patients together, each evaluated by the run that left it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nodulens.errors import BadOption, NoTestPatients
from nodulens.evaluate.folds import read_folds
from nodulens.evaluate.headline import headline_table, metrics_of
from nodulens.evaluate.networks import evaluate_networks
from nodulens.evaluate.options import DEFAULTS, EvaluateOptions
from nodulens.evaluate.predictions import Prediction, predictions_of
from nodulens.methods.load import load_networks
from nodulens.methods.run_record import method_named
from nodulens.pipeline import Progress
from nodulens.presentation.evaluation import Cell, Table
from nodulens.report.record import WeightRef
from nodulens.train.run import use_threads
from nodulens.train.tasks.protocol import Evaluated

SCHEMA = "nodulens-folds/1"


@dataclass(frozen=True, eq=False)
class PooledNetwork:
    """A network of every run.

    Attributes:
        folds: number of a fold → the network that left it out, evaluated on its patients.
    """

    folds: Mapping[int, Evaluated]

    @cached_property
    def evaluated(self) -> Evaluated:
        """The rows of all folds together."""
        parts: Sequence[Any] = tuple(self.folds.values())
        pooled: Evaluated = type(parts[0])(tuple(row for part in parts for row in part.rows))
        return pooled

    def by_fold(self, title: str) -> Table:
        """Main figures of each fold, without intervals."""
        found = {k: {metric.name: metric.value for metric in metrics_of(one)} for k, one in self.folds.items()}
        names = [metric.name for metric in metrics_of(self.evaluated)]
        rows: list[tuple[Cell, ...]] = [(name, *(own.get(name) for own in found.values())) for name in names]
        return Table(title, ("", *(f"fold {k}" for k in found)), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Figures of all, figures of each fold, and rows, which name the fold."""
        parts: Mapping[int, Any] = self.folds
        folds = [k for k, one in parts.items() for _ in one.rows]
        return {
            "figures": self.evaluated.figures.to_json(),
            "folds": {str(k): one.figures.to_json() for k, one in self.folds.items()},
            "rows": {"fold": folds, **self.evaluated.to_json()},
        }


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The evaluation of a folder of runs.

    Attributes:
        recipe: name of that of all runs.
        runs: their folders, by fold.
        networks: by the field of the recipe.
        predictions: of all test patients.
        weights: of all networks of all runs.
        notes: what limits the figures, or was left out; sentences.
    """

    recipe: str
    runs: tuple[Path, ...]
    networks: Mapping[str, PooledNetwork]
    predictions: tuple[Prediction, ...]
    weights: tuple[WeightRef, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate RUNS --json`` prints it."""
        return {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "runs": len(self.runs),
            "networks": {part: one.to_json() for part, one in self.networks.items()},
            "notes": list(self.notes),
        }

    def tables(self) -> tuple[Table, ...]:
        """The main figures as a table that fits a screen; the page and the JSON have all."""
        metrics = [(part, metric) for part, one in self.networks.items() for metric in metrics_of(one.evaluated)]
        spread = [cells for one in self.networks.values() for _, *cells in one.by_fold("").rows]
        table = headline_table(f"{self.recipe}, {len(self.runs)} folds together", metrics)
        rows = tuple((*row, _range(cells)) for row, cells in zip(table.rows, spread, strict=True))
        return (replace(table, columns=(*table.columns, "single folds"), rows=rows),)


def cross_validate(folder: str | Path, data: str | Path, options: EvaluateOptions = DEFAULTS) -> CrossValidation:
    """Evaluate the networks of a run for every fold, each on the patients that it left out, and all of these together.

    Whole scans are a cohort: :func:`nodulens.evaluate.cohort.run_cohort` takes such a folder too.

    >>> cross_validate("runs", "data").networks["classifier"].evaluated.figures  # doctest: +SKIP

    Args:
        folder: of the runs, by ``nodulens train --every-fold``.
        data: folder of the material.
        options: threads and progress; the test patients are those of the folds.

    Raises:
        BadOption: a fold has no run, see :func:`nodulens.evaluate.folds.read_folds`; or a split or a prompted
            network is given.
        NoTestPatients: the material holds no patient of any fold.
    """
    runs = read_folds(Path(folder))
    if runs is None:
        raise BadOption(f"{folder} holds no run for every fold; nodulens train RECIPE --every-fold leaves them.")
    if options.split is not None or options.prompted is not None:
        raise BadOption("A run for every fold is evaluated on its own patients: leave out --split and --prompted.")
    use_threads(options.threads)
    networks: dict[str, dict[int, Evaluated]] = {}
    predictions, weights, notes = list[Prediction](), list[WeightRef](), list[str]()
    for fold, place in enumerate(runs.folders):
        recipe, _ = method_named(str(place))
        own = load_networks(recipe, place, options.threads).own
        try:
            found = evaluate_networks(place, own, Path(data), progress=partial(_show, options.progress, fold))
        except NoTestPatients:
            notes.append(f"The material holds no patient of fold {fold}.")
            continue
        notes += [f"The material of the {part} holds no patient of fold {fold}." for part in own if part not in found]
        predictions += predictions_of(found)
        for part, one in found.items():
            networks.setdefault(part, {})[fold] = one.evaluated
            weights.append(WeightRef(f"fold {fold}: {one.model.card.name}", one.model.card.sha256))
    if not networks:
        raise NoTestPatients(f"{data} holds no patient of any fold of the runs in {folder}.")
    return CrossValidation(
        recipe=recipe.name,
        runs=runs.folders,
        networks={part: PooledNetwork(folds) for part, folds in networks.items()},
        predictions=tuple(predictions),
        weights=tuple(weights),
        notes=(*recipe.caveats, *notes),
    )


def _show(progress: Progress, fold: int, part: str, done: float) -> None:
    progress(f"fold {fold}: {part}", done)


def _range(cells: Sequence[Cell]) -> str:
    """The lowest and the highest figure."""
    known = [cell for cell in cells if isinstance(cell, float)]
    return f"{min(known):.3f} to {max(known):.3f}" if known else "–"
