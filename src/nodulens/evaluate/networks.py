"""Evaluation of each network of a run on patients that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodulens.data.splits import Parts, Split, read_split
from nodulens.errors import NoTestPatients
from nodulens.methods.recipe import NetworkConfig
from nodulens.methods.run_record import SPLIT, Run, read_run
from nodulens.pipeline import Progress, silent
from nodulens.runtime.engine import Model
from nodulens.train.run import PARTS, division, parts_of
from nodulens.train.tasks.protocol import Evaluated


@dataclass(frozen=True, eq=False)
class NetworkEvaluation:
    """A network of a run, evaluated on rows of its material that it was not trained on.

    Attributes:
        evaluated: rows, and figures of them.
        model: the exported network.
        material: all of it, as its task loads it.
        fold: the test fold of the split; None for a split into shares.
    """

    evaluated: Evaluated
    model: Model
    config: NetworkConfig
    material: Any
    fold: int | None


def evaluate_networks(
    folder: Path,
    networks: Mapping[str, Model],
    data: Path,
    split: Split | None = None,
    progress: Progress = silent,
) -> dict[str, NetworkEvaluation]:
    """Evaluate each network of a run on its test patients.

    Args:
        folder: of the run.
        networks: the run's own, by their field of the recipe.
        data: folder of the material.
        split: of the test patients; None: the run's own. Patients of its training and validation sets are refused.
        progress: called with the name of the network and the share of it that is done.

    Returns:
        Networks whose material holds a test patient.

    Raises:
        PatientOverlap: a test patient of the split is in the run's training or validation set.
        NoTestPatients: there is no test patient.
    """
    run = read_run(folder)
    chosen = _test_split(folder, run, split)
    out = {}
    for name, config in run.recipe.networks.items():
        material = PARTS[name].load(data, run.recipe, chosen[0])
        model = networks[name]
        trained = frozenset(model.card.trained_on["patients"])
        validation = frozenset(model.card.trained_on.get("watched", ())) - trained
        rows = division(material, Parts(trained, parts_of(material.patients, *chosen).test, validation)).test
        if not len(rows):
            continue
        progress(name, 0.0)
        evaluated = PARTS[name].evaluate(model, config, material, rows)
        out[name] = NetworkEvaluation(evaluated, model, config, material, chosen[1])
        progress(name, 1.0)
    if not out:
        raise _nobody(folder, run)
    return out


def unseen_patients(
    folder: Path, patients: Iterable[str], models: Iterable[Model], split: Split | None = None
) -> frozenset[str]:
    """Test patients of a run that are in the training or validation set of none of some networks.

    Args:
        folder: of the run.
        patients: of a material.
        models: networks, of the run or others; their cards name the patients.
        split: see :func:`evaluate_networks`.

    Raises:
        NoTestPatients: the run has no test patients.
    """
    return parts_of(patients, *_test_split(folder, read_run(folder), split)).test - trained_on(models)


def trained_on(models: Iterable[Model]) -> frozenset[str]:
    """Patients in the training or validation set of any of some networks, by their cards."""
    return frozenset(p for model in models for p in model.card.patients)


def _test_split(folder: Path, run: Run, split: Split | None) -> tuple[Split | None, int | None]:
    """The split and fold of :func:`nodulens.train.run.parts_of` that name the test patients of a run.

    Raises:
        NoTestPatients: the run has none.
    """
    if split is None:
        own = read_split(folder / SPLIT)
        split = own if own.names_all else None
        if own.folds and run.fold is None:
            raise _nobody(folder, run)
    return split, run.fold if split is None or split.folds else None


def _nobody(folder: Path, run: Run) -> NoTestPatients:
    return NoTestPatients(
        f"{folder} left out no patient of this material (fold {run.fold}): there are no test patients. Train with a "
        "--fold that holds some, or name a --split of patients that it was not trained on."
    )
