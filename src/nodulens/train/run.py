"""Training of a recipe's networks into a run folder, which records how to reproduce it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nodulens.core.text import without_places
from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of
from nodulens.data.splits import EVALUATION, FIXED, Parts, Split, read_split, write_split
from nodulens.errors import BadOption, MissingWeights
from nodulens.methods.recipe import DEFAULT, NetworkConfig, Recipe
from nodulens.methods.run_record import SPLIT, Extension, Run, is_run, read_run, write_run
from nodulens.runtime.weights import card as card_of
from nodulens.runtime.weights import check
from nodulens.train.conditions import conditions
from nodulens.train.default import release
from nodulens.train.loop.curves import draw_curves, read_curves
from nodulens.train.loop.distributed import Ranks
from nodulens.train.loop.export import export
from nodulens.train.loop.fit import Follow, epochs_done, extend
from nodulens.train.loop.tracking import Tracker, connect
from nodulens.train.networks.pretrained import started
from nodulens.train.networks.registry import APART
from nodulens.train.tasks import classification, fp_reduction, segmentation
from nodulens.train.tasks.checks import check_config
from nodulens.train.tasks.protocol import Material, Rows, TaskModule
from nodulens.train.tasks.segmentation_figures import CLOSE_UP

PARTS: Mapping[str, TaskModule] = {
    "segmenter": cast("TaskModule", segmentation),
    "filter": cast("TaskModule", fp_reduction),
    "classifier": cast("TaskModule", classification),
}
"""Field of a recipe → the module that trains and evaluates its network, in the order in which they are used."""
TRAINING_FIELDS = ("labels", "slices", "cubes", "renderings", "negatives", "masked")
"""Fields of a recipe, beside its networks, that determine their training data."""
VALIDATED = 10
"""One training patient in so many is moved to the validation set if a split has none."""


@dataclass(frozen=True)
class Division:
    """Rows of a material by their use: training, validation and test set."""

    train: Rows
    validation: Rows
    test: Rows


def division(material: Material, parts: Parts) -> Division:
    """The rows of each part of a split.

    If the split has no validation patients, one training patient in ten is moved there, chosen by a hash of its name.
    If that gives none, as with two or three scans, one row in ten is moved. Whole slices and close-ups of other
    patients' nodules are divided separately.
    """
    patients = material.patients
    rows = np.arange(len(patients))
    closeup = np.array([kind == CLOSE_UP for kind in material.strata], dtype=bool)
    train = np.array([p in parts.train for p in patients], dtype=bool)
    test = np.array([p in parts.test for p in patients], dtype=bool)
    if parts.validation:
        validation = np.array([p in parts.validation for p in patients], dtype=bool)
    else:
        chosen = np.array([_hash(p) % VALIDATED == 0 for p in patients], dtype=bool)
        validation = np.zeros(len(rows), dtype=bool)
        for kind in (train & ~closeup, train & closeup):
            own = kind & chosen
            if not own.any() or own.sum() > 0.3 * kind.sum():
                own = kind & (_rank(kind) % VALIDATED == VALIDATED - 1)
            validation |= own
    return Division(rows[train & ~validation], rows[validation], rows[test])


def parts_of(patients: Iterable[str], split: Split | None, fold: int | None) -> Parts:
    """The training, validation and test patients by a split, or by the project's own folds.

    Args:
        patients: of the material.
        split: None for :func:`nodulens.data.folds.fold_of`.
        fold: the test fold; None: a split into shares, or no test patients.

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


@dataclass(frozen=True)
class RunSpec:
    """The material, folder and test patients of a run.

    Attributes:
        data: folder of the material.
        folder: of the run; created if it does not exist.
        command: that reproduces the run.
        split, fold: see :func:`parts_of`.
        mlflow: URI of an MLflow server, or of another place that its client knows, which gets the curves; None: none.
    """

    data: Path
    folder: Path
    command: str
    split: Split | None = None
    fold: int | None = None
    mlflow: str | None = None


def train_recipe(recipe: Recipe, spec: RunSpec, only: Collection[str] | None = None) -> Run:
    """Train every network of a recipe into a folder; finished networks are kept, an interrupted one is resumed.

    Every network's settings and material are checked before the first is trained. In distributed training
    (:mod:`nodulens.train.loop.distributed`) the first process writes.

    Args:
        recipe: with at least one network of its own.
        only: the networks to train; None: all.

    Raises:
        BadOption: the folder holds a run of another recipe, fold, split or material, no patient is left to train on or
            in the test fold, a network cannot be trained with its settings, or MLflow cannot be reached.
        NotFound: there is no such material.
        MissingExtra: MLflow's client is not installed.
    """
    if not recipe.networks:
        raise BadOption(f"The recipe {recipe.name!r} has no network of its own to train.")
    client = connect(spec.mlflow) if spec.mlflow is not None and Ranks.joined().first else None
    prepared = prepare(recipe, spec, recipe.networks if only is None else only)
    check_fold([part.material for part in prepared], spec)
    run = open_run(recipe, spec)
    with nullcontext() if client is None else Tracker.opened(client, run) as tracker:
        if tracker is not None and tracker.run_id != run.mlflow:
            run = replace(run, mlflow=tracker.run_id)
        while prepared:  # each material is let go once its network is trained
            name = prepared[0].name
            run = _with_network(prepared.pop(0), run, spec, tracker.follow(name) if tracker else None)
            if tracker is not None and (spec.folder / f"{name}.csv").exists():
                tracker.follow(name)(read_curves(spec.folder / f"{name}.csv"))  # what an earlier run has not logged
        _write(run, spec.folder)
    return run


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network of a recipe that can be trained.

    Attributes:
        name: its field of the recipe.
        config: with the values that depend on the material.
        rows: of the material.
    """

    name: str
    config: NetworkConfig
    material: Material
    rows: Division


def prepare(recipe: Recipe, spec: RunSpec, names: Collection[str]) -> list[Prepared]:
    """Load the material of some networks of a recipe, and check that all can be trained; nothing is written.

    Raises:
        BadOption, NotFound: see :func:`train_recipe`.
    """
    for name in names:
        check_config(name, recipe.networks[name])
    found = []
    for name in names:
        material = PARTS[name].load(spec.data, recipe, spec.split)
        rows = division(material, parts_of(material.patients, spec.split, spec.fold))
        if not len(rows.train):
            raise BadOption(
                f"No patient in {spec.data} is left to train {name} on; take a split that was made for this data."
            )
        config = PARTS[name].settled(recipe.networks[name], material, rows.train)
        check_config(name, config)
        if (config.pretrained is not None or config.network in APART) and not _is_done(name, config, spec.folder):
            started(config, name)  # refuses an encoder that does not fit, and networks that others train
        found.append(Prepared(name, config, material, rows))
    return found


def check_fold(materials: Sequence[Material], spec: RunSpec) -> None:
    """Refuse a test fold that holds no patient of the material: nothing could be evaluated.

    Raises:
        BadOption: the message says which folds hold patients.
    """
    known = {p for material in materials for p in material.patients}
    if spec.fold is None or not materials or known & parts_of(known, spec.split, spec.fold).test:
        return
    patients = known - EVALUATION_PATIENTS
    fold = spec.split.groups.get if spec.split else lambda p: str(fold_of(p))
    counts = Counter(group for group in map(fold, patients) if group is not None and group.isdigit())
    filled = ", ".join(f"{group} ({counts[group]})" for group in sorted(counts, key=int))
    raise BadOption(
        f"Fold {spec.fold} holds no patient of {spec.data}, so the run could not be evaluated. Folds with patients: "
        f"{filled or 'none'}. Name one by --fold, or train on all patients by --everybody."
    )


def check_every_fold(recipe: Recipe, specs: Sequence[RunSpec]) -> None:
    """Check the networks of a recipe, and the folds of all runs, before the first is trained; nothing is written.

    Args:
        specs: of the runs, which differ by fold and folder.

    Raises:
        BadOption, NotFound: see :func:`train_recipe`.
    """
    materials = [part.material for part in prepare(recipe, specs[0], recipe.networks)]
    for spec in specs:
        check_fold(materials, spec)


def _with_network(part: Prepared, run: Run, spec: RunSpec, follow: Follow | None) -> Run:
    """Add a network to the run, trained and exported unless it is there."""
    name, config, material, rows, folder = part.name, part.config, part.material, part.rows, spec.folder
    run = record_training(run, name, config, digest(material, rows.train, rows.validation), folder)
    if spec.split is None:
        _add_to_split(material.patients, spec.fold, folder)
    curves = folder / f"{name}.csv"
    if _is_done(name, config, folder):
        # interrupted just after the export, or trained by an external framework
        return run if name in run.seconds else replace(run, seconds={**run.seconds, name: _trained_s(curves)})
    net = PARTS[name].train(config, material, rows.train, rows.validation, folder / f"{name}.pt", follow)
    if Ranks.joined().first:
        draw_curves(curves, f"{run.recipe.name}, {name}")
    _export(name, net, config, run, _owners(material, rows), folder)  # the card is written last
    run = replace(run, seconds={**run.seconds, name: _trained_s(curves)})
    _write(run, folder)
    return run


def _trained_s(table: Path) -> float:
    """Seconds that a network was trained for, also before it was resumed or extended, by its curves; 0 without any."""
    rows = read_curves(table) if table.exists() else []
    return round(rows[-1].get("seconds", 0.0), 3) if rows else 0.0


def extend_recipe(spec: RunSpec, epochs: int) -> Run:
    """Let every network of a finished run go on for some epochs, or resume an interrupted extension.

    The learning rate goes on as that of a training of all epochs has it from there; patience, epochs of the plateau
    schedule and minutes count anew.
    The result is not that of a training which was as long from the start, and the record says so.

    Args:
        spec: its split and fold are those of the run.

    Raises:
        BadOption: the folder holds no finished run, one of networks that our loop does not train, or an extension by
            another number of epochs is not finished; or see :func:`train_recipe`.
    """
    ranks, folder = Ranks.joined(), spec.folder
    run = read_run(folder)
    going_on = bool(run.extended and run.untrained)
    if run.untrained and not going_on:
        raise BadOption(f"{folder} holds a run that is not finished; resume it first: {run.commands[-1]}")
    if going_on and run.extended[-1].epochs != epochs:
        raise BadOption(
            f"{folder} is being extended by {run.extended[-1].epochs} epochs; finish that first: {run.commands[-1]}"
        )
    if not going_on:
        for name in run.recipe.networks:
            if not (folder / f"{name}.pt").exists():
                raise BadOption(f"{folder} has no checkpoint {name}.pt, so {name} cannot be extended.")
        after = {name: epochs_done(folder / f"{name}.pt") for name in run.recipe.networks}
        longer = {name: replace(c, epochs=after[name] + epochs) for name, c in run.recipe.networks.items()}
        recipe = replace(run.recipe, **longer)  # type: ignore[arg-type]
        extended = (*run.extended, Extension(epochs, after, spec.command))
        run = replace(run, recipe=recipe, seconds={}, extended=extended)
        for part in prepare(recipe, spec, recipe.networks):  # what cannot go on is refused before the record says so
            rows = digest(part.material, part.rows.train, part.rows.validation)
            record_training(run, part.name, part.config, rows, folder)
        ranks.wait()  # until all have read what the first overwrites
        _write(run, folder)
    if ranks.first:
        for name, config in run.recipe.networks.items():
            if extend(folder / f"{name}.pt", run.extended[-1].after[name], config.epochs):
                # one that stopped early may have been set to as many epochs: its card would say that it is done
                (folder / f"{name}.json").unlink(missing_ok=True)
    ranks.wait()
    return train_recipe(run.recipe, replace(spec, command=run.command))


def train_default(
    data: Path,
    folder: Path,
    *,
    command: str,
    epochs: int | None = None,
    trainings: release.Trainings = release.SHIPPED,
) -> Run:
    """Train the default method's four networks on all training patients into a run folder.

    Their figures are from five folds, see ``python -m nodulens.train``.

    Args:
        data: folder of the material.
        folder: of the run; created if it does not exist.
        command: that reproduces the run.
        epochs: of each; None for those of ``trainings``.
        trainings: settings of each network.

    Raises:
        BadOption: the folder holds a run of another recipe or material.
        NotFound: there is no such material.
    """
    ranks = Ranks.joined()
    run = open_run(DEFAULT, RunSpec(data, folder, command))
    patients = release.patients(data)
    trained_on = _digest([patients])
    for name in release.MAKERS:
        run = record_training(run, name, None, trained_on, folder)
    _add_to_split(patients, None, folder)
    job = release.Release(data, folder, folder / "checkpoints", False, trainings.changed(epochs))
    for name, make in release.MAKERS.items():
        make(job)
        tables = sorted((folder / "checkpoints" / name).glob("foldNone*.csv"))
        if ranks.first:
            for table in tables:
                draw_curves(table, f"{DEFAULT.name}, {name}")
        run = replace(run, seconds={**run.seconds, name: round(sum(map(_trained_s, tables)), 3)})
        _write(run, folder)
    return run


def open_run(recipe: Recipe, spec: RunSpec) -> Run:
    """Load the run of a folder, or write the record of a new one.

    A run that has trained nothing yet, such as one whose fold does not exist, is replaced.

    Raises:
        BadOption: the folder holds another run; the message says what differs.
    """
    ranks, folder = Ranks.joined(), spec.folder
    now = conditions()
    run = Run(recipe, spec.command, spec.fold, now.software, commit=now.commit, hardware=now.hardware)
    known = read_run(folder) if is_run(folder) else run
    ranks.wait()  # until all have read what the first may overwrite
    begun = {**known.seconds, **known.taught}
    if begun:
        _same_run(known, run, folder)
        _same_split(spec.split, folder)
        kept = {name: config for name, config in known.recipe.networks.items() if name in begun}
        run = replace(known, recipe=replace(recipe, **kept), command=spec.command)  # type: ignore[arg-type]
        same = (known.commit, known.hardware) == (now.commit, now.hardware)
        if not known.untrained or (same and {**known.software, **now.software} == known.software):
            return run
        past = (*known.earlier, known.conditions)
        return replace(run, commit=now.commit, software=now.software, hardware=now.hardware, earlier=past)
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPLIT).unlink(missing_ok=True)
        if spec.split is not None:
            write_split(spec.split, folder / SPLIT)
    _write(run, folder)
    return run


def record_training(run: Run, name: str, config: NetworkConfig | None, trained_on: str, folder: Path) -> Run:
    """Record what a network is trained on, before it is trained.

    Args:
        name: of the network, or of an external framework that trains it.
        config: None if it is no network of the recipe.
        trained_on: :func:`digest` of its rows.

    Raises:
        BadOption: the folder holds a network trained on other rows, or without a record of them.
    """
    if name not in run.taught:
        checkpoint = folder / f"{name}.pt" if config else folder / "checkpoints" / name / "foldNone.pt"
        if checkpoint.exists():
            raise BadOption(
                f"{checkpoint} exists, but {folder} does not record its training patients, so it cannot be resumed. "
                "Name another folder."
            )
        recipe = run.recipe if config is None else replace(run.recipe, **{name: config})  # type: ignore[arg-type]
        run = replace(run, recipe=recipe, taught={**run.taught, name: trained_on})
        _write(run, folder)
        return run
    if config is not None:
        same_settings(vars(run.recipe.networks[name]), vars(config), f"{name}.", folder)
    if run.taught[name] != trained_on:
        raise BadOption(
            f"{folder} holds a run whose {name} was trained on other rows or patients than --data has now. Give the "
            "data that it was started with, or name another folder."
        )
    return run


def digest(material: Material, *groups: Rows) -> str:
    """A hash of rows of a material: their numbers, patients and strata, group by group."""
    patients, strata = material.patients, material.strata
    return _digest([[(int(r), patients[r], strata[r]) for r in rows] for rows in groups])


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads for training; None leaves it to PyTorch."""
    if threads:
        torch.set_num_threads(threads)


def _export(
    name: str, net: torch.nn.Module, config: NetworkConfig, run: Run, owners: dict[str, list[str]], folder: Path
) -> None:
    card = {
        "name": name,
        "command": "; ".join(run.commands),
        "trained_on": {"material": run.recipe.title, "never": sorted(EVALUATION_PATIENTS), **owners},
        "input": {"shape": f"(N, 1, {config.size}, {config.size}) float32, 0…1"},
        "settings": {**settings_of(config), "masked": run.recipe.masked},
        "figures": {},
    }
    export(net, example_of(config), folder, card)


def settings_of(config: NetworkConfig) -> dict[str, Any]:
    """The values of a config for a card, which travels with its network: weights to start from without their place."""
    return {name: without_places(v) if name == "pretrained" and v else v for name, v in asdict(config).items()}


def example_of(config: NetworkConfig) -> torch.Tensor:
    """The input for comparing an exported network: noise, and noise in a field of air, like a slice.

    There are two, since the exporter takes a batch axis of length one as fixed.
    """
    example = torch.rand(2, 1, config.size, config.size)
    example[1, :, config.size // 3 :] = 0
    return example


def _is_done(name: str, config: NetworkConfig, folder: Path) -> bool:
    """Whether the folder has a network trained with this config."""
    try:
        known = card_of(name, folder)
        check(known)
    except MissingWeights:
        return False
    wanted = {key: list(v) if isinstance(v, tuple) else v for key, v in settings_of(config).items()}
    return {key: known.settings.get(key) for key in wanted} == wanted


def _owners(material: Material, rows: Division) -> dict[str, list[str]]:
    """The patients of the training and the validation set, for the card, those of rendered nodules among them."""
    parts = {"patients": rows.train, "watched": rows.validation}
    return {name: sorted(material.shown(part)) for name, part in parts.items()}


def _same_run(known: Run, run: Run, folder: Path) -> None:
    """Refuse to mix runs of different recipes or folds in a folder."""
    if (known.recipe.name, known.fold) != (run.recipe.name, run.fold):
        raise BadOption(
            f"{folder} holds a run of {known.recipe.name}, fold {known.fold}; name another folder for "
            f"{run.recipe.name}, fold {run.fold}."
        )
    same_settings({name: getattr(known.recipe, name) for name in TRAINING_FIELDS}, vars(run.recipe), "", folder)


def same_settings(known: Mapping[str, Any], wanted: Mapping[str, Any], before: str, folder: Path) -> None:
    """Refuse other settings than those of a run.

    Args:
        known: name → value, as the run was begun.
        before: of each name, such as "segmenter.", for the message.

    Raises:
        BadOption: the message names the first that differs.
    """
    for name, value in known.items():
        if value != wanted[name]:
            raise BadOption(
                f"{folder} holds a run with {before}{name}={_typed(value)}; name another folder for "
                f"{before}{name}={_typed(wanted[name])}."
            )


def _typed(value: Any) -> str:
    """Format a value for ``--set``."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _same_split(split: Split | None, folder: Path) -> None:
    """Refuse another split than the run was started with."""
    if not (folder / SPLIT).exists():  # interrupted before its material was read: nothing was trained
        return
    known = read_split(folder / SPLIT)
    wanted = split or _as_split({p: _group(p) for p in known.groups}, None)
    moved = sorted(p for p in known.groups.keys() | wanted.groups.keys() if known.groups.get(p) != wanted.groups.get(p))
    if moved or known.folds != wanted.folds:
        raise BadOption(
            f"{folder} holds a run by the split {folder / SPLIT}, and {'--split' if split else 'the fixed folds'} "
            f"would be another ({len(moved)} patients, {', '.join(moved[:3])} …, are in other parts). Give the split "
            "that it was started with, or name another folder."
        )


def _write(run: Run, folder: Path) -> None:
    """Write a run, by the first process."""
    ranks = Ranks.joined()
    if ranks.first:
        write_run(run, folder)
    ranks.wait()


def _add_to_split(patients: Iterable[str], fold: int | None, folder: Path) -> None:
    """Add patients of the material to the run's file of the fixed folds, by the first process."""
    ranks = Ranks.joined()
    if ranks.first:
        path = folder / SPLIT
        known = read_split(path).groups if path.exists() else {}
        write_split(_as_split({**known, **{p: _group(p) for p in patients}}, fold), path)
    ranks.wait()


def _as_split(groups: Mapping[str, str], fold: int | None) -> Split:
    note = "by nodulens.data.folds.fold_of" + ("; nobody is left out" if fold is None else f"; fold {fold} judges")
    return Split(groups, FOLDS, FIXED, notes=(note,))


def _group(patient: str) -> str:
    return EVALUATION if patient in EVALUATION_PATIENTS else str(fold_of(patient))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _hash(patient: str) -> int:
    return int.from_bytes(hashlib.sha256(f"nodulens watched {patient}".encode()).digest()[:8], "big")


def _rank(chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.int_]]:
    """The number of chosen elements before each."""
    return np.cumsum(chosen) - chosen
