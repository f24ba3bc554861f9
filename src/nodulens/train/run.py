"""A recipe is trained and judged part by part, in a folder that says how to repeat it."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of
from nodulens.data.splits import EVALUATION, Parts, Split, write_split
from nodulens.errors import BadOption, MissingWeights
from nodulens.recipe import DEFAULT, Learner, Recipe
from nodulens.runs import SPLIT, Run, is_run, read_run, write_run
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import card as card_of
from nodulens.runtime.weights import check
from nodulens.train import filtering, grading, outlining, ship
from nodulens.train.curves import draw_curves
from nodulens.train.export import export
from nodulens.train.outlining import CLOSE_UP
from nodulens.train.parts import Material, Outcome, Part, Rows

PARTS: Mapping[str, Part] = {
    "segmenter": cast("Part", outlining),
    "filter": cast("Part", filtering),
    "classifier": cast("Part", grading),
}
"""By the field of a recipe, in the order they work."""
WATCHED = 10
"""One patient in so many of those that train says when a network is best, and never teaches."""


@dataclass(frozen=True)
class Division:
    """Rows of a material that teach, that say when to stop, and that judge."""

    train: Rows
    watched: Rows
    test: Rows


def division(material: Material, parts: Parts) -> Division:
    """The rows of each part of a split.

    Where the split has no patients for validation, one patient in ten of those that train is watched: always the same
    ones, whatever else there is. Where that leaves nobody, as of two or three scans, one row in ten is: these say when
    to stop, and judge nothing. Whole slices and close-ups of other patients' nodules are seen to apart.
    """
    patients = material.patients
    rows = np.arange(len(patients))
    near = np.array([kind == CLOSE_UP for kind in material.strata], dtype=bool)
    train = np.array([p in parts.train for p in patients], dtype=bool)
    test = np.array([p in parts.test for p in patients], dtype=bool)
    if parts.validation:
        watched = np.array([p in parts.validation for p in patients], dtype=bool)
    else:
        chosen = np.array([_hash(p) % WATCHED == 0 for p in patients], dtype=bool)
        watched = np.zeros(len(rows), dtype=bool)
        for kind in (train & ~near, train & near):
            own = kind & chosen
            if not own.any() or own.sum() > 0.3 * kind.sum():
                own = kind & (_rank(kind) % WATCHED == WATCHED - 1)
            watched |= own
    return Division(rows[train & ~watched], rows[watched], rows[test])


def parts_of(patients: Iterable[str], split: Split | None, fold: int | None) -> Parts:
    """Who trains and who judges: by a split, or by the project's own folds.

    Args:
        patients: of the material.
        split: None for :func:`nodulens.data.folds.fold_of`.
        fold: that judges; None: a split into shares, or nobody judges.

    Raises:
        BadOption: no such fold.
    """
    if split is not None:
        return split.parts(fold)
    if fold is not None and not 0 <= fold < FOLDS:
        raise BadOption(f"There are {FOLDS} folds, counted from 0; got {fold}.")
    able = set(patients) - EVALUATION_PATIENTS
    test = frozenset(p for p in able if fold_of(p) == fold)
    return Parts(frozenset(able) - test, test)


def train_recipe(
    recipe: Recipe,
    data: Path,
    folder: Path,
    *,
    command: str,
    split: Split | None = None,
    fold: int | None = None,
) -> Run:
    """Train every network of a recipe into a folder; what is there already is kept, and what was stopped goes on.

    Args:
        recipe: with one network of its own at least.
        data: folder of the material.
        folder: of the run; made where it is not there.
        command: that makes the same again.
        split, fold: see :func:`parts_of`.

    Raises:
        BadOption: the folder holds a run of another recipe, fold or split.
        NotFound: material is not there.
    """
    if not recipe.learners:
        raise BadOption(f"The recipe {recipe.name!r} has no network of its own to train.")
    if is_run(folder):
        _same_run(read_run(folder), recipe, fold, folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, command, fold, software())
    groups: dict[str, str] = {}
    for name, learner in recipe.learners.items():
        part = PARTS[name]
        material = part.load(data, recipe)
        parts = parts_of(material.patients, split, fold)
        rows = division(material, parts)
        learner = part.settled(learner, material, rows.train)
        start = time.monotonic()
        if not _is_done(name, learner, folder):
            net = part.train(learner, material, rows.train, rows.watched, folder / f"{name}.pt")
            _export(name, net, learner, recipe, sorted({material.patients[r] for r in rows.train}), command, folder)
            draw_curves(folder / f"{name}.csv", f"{recipe.name}, {name}")
        seconds = {**run.seconds, name: round(time.monotonic() - start, 1)}
        run = replace(run, recipe=replace(run.recipe, **{name: learner}), seconds=seconds)  # type: ignore[arg-type]
        groups |= {p: _group(p, parts, fold) for p in material.patients}
    write_split(split or _as_split(groups, fold), folder / SPLIT)
    write_run(run, folder)
    return run


def train_default(data: Path, folder: Path, *, command: str, epochs: int | None = None) -> Run:
    """Train the default's four networks on everybody who may, into a folder: another set to analyze with.

    Their figures come from five folds, which ``python -m nodulens.train`` computes.

    Args:
        epochs: of each; None for the number that ships.

    Raises:
        BadOption: the folder holds a run of another recipe.
        NotFound: material is not there.
    """
    if is_run(folder):
        _same_run(read_run(folder), DEFAULT, None, folder)
    makers = {"patch": ship.patch, "volume": ship.volume, "segmenter": ship.segmenter, "malignancy": ship.malignancy}
    seconds = {}
    for name, make in makers.items():
        start = time.monotonic()
        make(data, folder, folder / "checkpoints", epochs, folds=False)
        seconds[name] = round(time.monotonic() - start, 1)
    run = Run(DEFAULT, command, None, software(), seconds)
    write_run(run, folder)
    return run


@dataclass(frozen=True, eq=False)
class Judged:
    """A network of a run, and how it did.

    Attributes:
        outcome: on rows of the material that taught nothing.
        material: all of it, as its part loads it.
    """

    outcome: Outcome
    model: Model
    learner: Learner
    material: Any


def judge_run(folder: Path, data: Path, split: Split | None = None) -> dict[str, Judged]:
    """How each network of a run does on patients that it was not trained on.

    Args:
        split: who judges, where it is not whom the run left out; patients that trained it are refused.

    Raises:
        PatientOverlap: the split would judge on patients that trained.
        BadOption: nobody was left out.
    """
    run = read_run(folder)
    out = {}
    for name, learner in run.recipe.learners.items():
        material = PARTS[name].load(data, run.recipe)
        parts = parts_of(material.patients, split, run.fold if split is None or split.folds else None)
        model = load_model(name, folder=folder)
        taught = frozenset(model.card.trained_on["patients"])
        rows = division(material, Parts(taught, parts.test)).test
        if not len(rows):
            continue
        out[name] = Judged(PARTS[name].judge(model, learner, material, rows), model, learner, material)
    if not out:
        raise BadOption(
            f"{folder} was trained on every patient of its material (fold {run.fold}): there is nobody to judge on. "
            "Train with --fold 0 to 4 that holds some."
        )
    return out


def use_threads(threads: int | None) -> None:
    """How many CPU threads train; None leaves it to PyTorch."""
    if threads:
        torch.set_num_threads(threads)


def software() -> dict[str, str]:
    """Versions of what computes, and what on."""
    versions = {name: version(name) for name in ("nodulens", "torch", "numpy")}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"python": platform.python_version(), **versions, **gpu}


def _export(
    name: str, net: torch.nn.Module, learner: Learner, recipe: Recipe, taught: list[str], command: str, folder: Path
) -> None:
    card = {
        "name": name,
        "command": command,
        "trained_on": {"material": recipe.title, "never": sorted(EVALUATION_PATIENTS), "patients": taught},
        "input": {"shape": f"(N, 1, {learner.size}, {learner.size}) float32, 0…1"},
        "settings": {**asdict(learner), "masked": recipe.masked},
        "figures": {},
    }
    export(net, example_of(learner), folder, card)


def example_of(learner: Learner) -> torch.Tensor:
    """What a network is exported and compared with: noise, and noise in a field of air, as slices are.

    Two and not one: the exporter takes an axis of one example for fixed.
    """
    example = torch.rand(2, 1, learner.size, learner.size)
    example[1, :, learner.size // 3 :] = 0
    return example


def _is_done(name: str, learner: Learner, folder: Path) -> bool:
    """Whether a network is there that was trained as asked."""
    try:
        known = card_of(name, folder)
        check(known)
    except MissingWeights:
        return False
    wanted = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(learner).items()}
    return {key: known.settings.get(key) for key in wanted} == wanted


def _same_run(run: Run, recipe: Recipe, fold: int | None, folder: Path) -> None:
    """Refuse to mix two runs: one folder, one recipe, one fold."""
    if (run.recipe.name, run.fold) != (recipe.name, fold):
        raise BadOption(
            f"{folder} holds a run of {run.recipe.name}, fold {run.fold}; name another folder for {recipe.name}, fold "
            f"{fold}."
        )
    for name in ("labels", "slices"):
        if getattr(run.recipe, name) != getattr(recipe, name):
            raise BadOption(
                f"{folder} holds a run with {name}={getattr(run.recipe, name)}; name another folder for "
                f"{name}={getattr(recipe, name)}."
            )


def _as_split(groups: Mapping[str, str], fold: int | None) -> Split:
    note = "by nodulens.data.folds.fold_of" + ("; nobody is left out" if fold is None else f"; fold {fold} judges")
    return Split(dict(groups), FOLDS, "fixed", notes=(note,))


def _group(patient: str, parts: Parts, fold: int | None) -> str:
    return EVALUATION if patient in EVALUATION_PATIENTS else str(fold_of(patient))


def _hash(patient: str) -> int:
    return int.from_bytes(hashlib.sha256(f"nodulens watched {patient}".encode()).digest()[:8], "big")


def _rank(chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.int_]]:
    """How many are chosen before each place."""
    return np.cumsum(chosen) - chosen
