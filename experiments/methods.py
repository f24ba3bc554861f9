"""Train, judge and store the networks of the published methods: what the distribution ``nodulens-methods`` holds.

    python -m experiments.methods --data ../shared/data
    python -m experiments.methods --data ../shared/data --only resnet-unet-patch-cnn.filter --threads 1

Each network is trained on every patient that may train, with the settings of :mod:`experiments.budgets` but without
their limit of time, and resumes from its checkpoint. Its figures are those of the table of results, from networks of
the same settings that left each patient out; where the table has none of these settings, the folds are trained here.
It is stored in 8 or 16 bits, whose loss is measured, and a method goes into the distribution when all its networks are
there. So several processes can share one ``--run``, each with an ``--only`` of its own.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer

from experiments import results, table
from experiments.budgets import BUDGET, SHIPPED, Budget
from experiments.cells import PATIENTS, SCANS, Cell, ComputedCell, read_cell
from experiments.table import Bench, recipe_of
from nodulens.data.splits import Split, read_split, write_split
from nodulens.errors import BadOption, NodulensError
from nodulens.evaluate.headline import metrics_of
from nodulens.io.atomic import whole_folder
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import SPLIT, Run, read_run, write_run
from nodulens.methods.shipped import IN_CLONE
from nodulens.runtime.engine import Array, Model, load_model
from nodulens.runtime.weights import Card, card, checked
from nodulens.train.loop.curves import read_curves
from nodulens.train.loop.export import write_model
from nodulens.train.loop.storage import Bits, in_fewer_bits
from nodulens.train.networks.registry import cost
from nodulens.train.run import PARTS, RunSpec, division, parts_of, train_recipe
from nodulens.train.tasks.protocol import Evaluated

LARGE = 4_000_000
"""Parameters beyond which a network is stored in 8 bits: in 16 the five methods would exceed :data:`MOST_BYTES`."""
MOST_BYTES = 60_000_000
"""Of the distribution, as a wheel."""
LOST = 0.002
"""What AUC, average precision and Dice may change by storing weights in fewer bits: "nothing", in three digits."""
COMPARED = ("AUC", "Average precision", "Dice")
"""Beginnings of the names of figures that no threshold turns into steps."""
UNTIMED = Budget({name: {**limits, "minutes": "none"} for name, limits in BUDGET.networks.items()})
"""The budget of the table without its limit of time, which would make a network of the machine's load."""


@dataclass(frozen=True)
class Release:
    """Folders and settings of a release.

    Attributes:
        data: folder with ``lidc/``, ``luna16/`` and ``background/``.
        run: of the checkpoints, a folder for each network.
        out: of the package ``nodulens_methods``.
        cells: of the table of results.
        budget: what the networks are trained with.
        bits: of every network's weights; None: by size, see :data:`LARGE`.
        folds: train the folds that the table does not have; without them a network has no figures.
        command: that trains the same, for cards; ``--only`` is added.
    """

    data: Path
    run: Path
    out: Path = IN_CLONE
    cells: Path = Path("docs/cells")
    budget: Budget = UNTIMED
    bits: Bits | None = None
    folds: bool = True
    command: str = "python -m experiments.methods --data ../shared/data"


def networks(only: str = "") -> list[tuple[Recipe, str]]:
    """Recipes and the names of their networks; those alone whose ``RECIPE.NETWORK`` holds ``only``.

    Raises:
        BadOption: there is none.
    """
    every = [(recipe, part) for recipe in RECIPES.values() for part in recipe.networks]
    found = [(recipe, part) for recipe, part in every if only in _name(recipe, part)]
    if not found:
        raise BadOption(f"No network has {only!r} in its name; there are {', '.join(_name(*one) for one in every)}.")
    return found


def release(work: Release, only: str = "", tell: Callable[[str], object] = lambda line: None) -> None:
    """Train, judge and store networks, and place the methods that have all of theirs.

    Args:
        only: see :func:`networks`.
        tell: called with a line for each network and each method.

    Raises:
        BadOption: no such network, or a folder of the run holds another training.
        NotFound: a file of the material is missing.
        NodulensError: a network loses something even in 16 bits.
    """
    chosen = networks(only)
    for recipe, part in chosen:
        run = _trained(work, recipe, part)
        tell(f"{_name(recipe, part)}: trained, {run.seconds[part]:.0f} s")
        figures = _figures(work, recipe, part, run.recipe.networks[part])
        known = _stored(work, recipe, part, run, figures)
        size = known.path.stat().st_size / 1e6
        tell(f"{_name(recipe, part)}: stored in {known.figures['stored']['bits']} bits, {size:.1f} MB")
    for recipe in {recipe.name: recipe for recipe, _ in chosen}.values():
        missing = [part for part in recipe.networks if not _is_stored(work, recipe, part)]
        if missing:
            tell(f"{recipe.name}: waits for its {' and '.join(missing)}")
        else:
            tell(f"{_placed(work, recipe)}: {packed_size(work.out) / 1e6:.1f} MB of the distribution's 60")


def packed_size(folder: Path) -> int:
    """Bytes of a folder's files as a wheel packs them."""
    return sum(len(zlib.compress(path.read_bytes())) for path in folder.rglob("*") if path.is_file())


def _name(recipe: Recipe, part: str) -> str:
    return f"{recipe.name}.{part}"


def _cell(recipe: Recipe, part: str, split: str, fold: int) -> Cell:
    """A cell of the table with the settings that ship."""
    return Cell(recipe.name, part, split, fold, SHIPPED.get(_name(recipe, part), ()))


# ---------------------------------------------------------------- training


def _trained(work: Release, recipe: Recipe, part: str) -> Run:
    """Train a network on everybody who may train, into a run folder of its own."""
    within = recipe_of(_cell(recipe, part, SCANS, 0), Bench(work.data, work.run, work.budget))
    spec = RunSpec(work.data, work.run / _name(recipe, part), f"{work.command} --only {_name(recipe, part)}")
    return train_recipe(within, spec, (part,))


# ---------------------------------------------------------------- figures


def _figures(work: Release, recipe: Recipe, part: str, config: NetworkConfig) -> dict[str, Any]:
    """Figures for the card: of networks of the same settings that left each patient out."""
    cells = _cells(work, recipe, part, config)
    if not cells:
        return {}
    figures: dict[str, Any] = {
        "stands_on": f"{len(cells)} folds by patient, networks of the same settings that left the patients out",
        "by_patient": _values(results.POOLED[part](cells)),
    }
    whole = work.cells / f"{_cell(recipe, part, SCANS, 0).name}.json"
    if whole.is_file() and _same((cell := read_cell(whole)).learner, config) and cell.scans is not None:
        figures["whole_scans"] = {
            "nodules": cell.scans.nodules,
            "hit": cell.scans.hit,
            "on_no_nodule": cell.scans.other,
        }
    return figures


def _cells(work: Release, recipe: Recipe, part: str, config: NetworkConfig) -> list[ComputedCell]:
    """The cells by patient of a network with these settings: of the table, or trained here; none without folds."""
    wanted = [c for c in table.cells() if c == _cell(recipe, part, PATIENTS, c.fold)]
    own = work.run / "cells"
    for place in (work.cells, own):
        found = _read(place, wanted)
        if len(found) == len(wanted) and all(_same(cell.learner, config) for cell in found):
            return found
    if not work.folds:
        return []
    row = _cell(recipe, part, PATIENTS, 0).row
    table.fill(Bench(work.data, work.run / "folds", work.budget), own, f"{row}.{PATIENTS}-")
    found = _read(own, wanted)
    if not all(_same(cell.learner, config) for cell in found):
        raise BadOption(f"{own} holds cells of {_name(recipe, part)} with other settings; name another folder.")
    return found


def _read(folder: Path, wanted: Sequence[Cell]) -> list[ComputedCell]:
    paths = [folder / f"{cell.name}.json" for cell in wanted]
    return [read_cell(path) for path in paths if path.is_file()]


def _same(learner: NetworkConfig | None, config: NetworkConfig) -> bool:
    """Whether a cell's network was trained with these settings; a limit of time is none of them."""
    return learner is not None and replace(learner, minutes=None) == replace(config, minutes=None)


def _values(evaluated: Evaluated) -> dict[str, dict[str, float | None]]:
    """Name of a main figure → value, ends of its interval by patient, and number of cases."""
    rows = {metric.name: (metric.value, metric.low, metric.high, metric.n) for metric in metrics_of(evaluated)}
    keys = ("value", "low", "high", "n")
    return {name: {k: _rounded(v) for k, v in zip(keys, row, strict=True)} for name, row in rows.items()}


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value


# ---------------------------------------------------------------- storage


def _stored(work: Release, recipe: Recipe, part: str, run: Run, figures: Mapping[str, Any]) -> Card:
    """Store a trained network in as few bits as are wanted and lose nothing."""
    folder = work.run / _name(recipe, part)
    single, config = load_model(part, folder=folder), run.recipe.networks[part]
    material = PARTS[part].load(work.data, run.recipe)
    rows = division(material, parts_of(material.patients, None, None)).validation

    def judged(model: Model) -> dict[str, float]:
        every = _values(PARTS[part].evaluate(model, config, material, rows))
        return {name: row["value"] for name, row in every.items() if row["value"] is not None}

    before = judged(single)
    for bits in _bits(work, config):
        model = load_model(part, folder=_written(folder, single.card, bits, {}))
        beside, difference = _beside(single, model)
        after = judged(beside)
        lost = max((abs(after[name] - before[name]) for name in before if name.startswith(COMPARED)), default=0.0)
        if lost <= LOST:
            epochs = len(read_curves(folder / f"{part}.csv"))
            measured = {
                "bits": bits,
                "judged_on": f"{len(rows)} rows of the validation patients",
                "in_32_bits": before,
                "as_stored": after,
                "largest_difference_of_outputs": round(difference(), 5),
            }
            return card(part, _written(folder, single.card, bits, {"epochs": epochs, **figures, "stored": measured}))
    raise NodulensError(f"{_name(recipe, part)} loses {lost:.4f} in {bits} bits; it cannot be stored so.")


def _bits(work: Release, config: NetworkConfig) -> tuple[Bits, ...]:
    """Bits to try, the fewest first."""
    if work.bits is not None:
        return (work.bits,)
    return (8, 16) if cost(config).parameters > LARGE else (16,)


def _written(folder: Path, known: Card, bits: Bits, figures: Mapping[str, Any]) -> Path:
    """A network in fewer bits with its card, in a folder of its own."""
    target = folder / "stored"
    target.mkdir(exist_ok=True)
    fields = {name: value for name, value in asdict(known).items() if name not in ("path", "sha256")}
    content = in_fewer_bits(checked(known.path, known.sha256), bits)
    write_model(content, target, {**fields, "figures": dict(figures)})
    return target


def _beside(single: Model, stored: Model) -> tuple[Model, Callable[[], float]]:
    """The stored network, and how far its outputs have been from the other's on what it has seen so far."""
    largest = 0.0

    def run(batch: Array) -> tuple[Array, ...]:
        nonlocal largest
        found = stored.run(batch)
        off = (float(np.abs(a - b).max()) for a, b in zip(found, single.run(batch), strict=True) if a.size)
        largest = max(largest, *off)
        return found

    return replace(stored, run=run), lambda: largest


def _is_stored(work: Release, recipe: Recipe, part: str) -> bool:
    """Whether a network is trained, and stored with its figures."""
    folder = work.run / _name(recipe, part) / "stored"
    return (folder / f"{part}.json").is_file() and "stored" in card(part, folder).figures


# ---------------------------------------------------------------- the distribution


def _placed(work: Release, recipe: Recipe) -> Path:
    """Put a method, all of whose networks are stored, into the distribution, in place of an earlier one."""
    folders = {part: work.run / _name(recipe, part) for part in recipe.networks}
    runs = {part: read_run(folder) for part, folder in folders.items()}
    first = next(iter(runs.values()))  # of the segmenter if there is one, whose material is the recipe's
    merged = replace(
        first,
        recipe=replace(first.recipe, **{part: run.recipe.networks[part] for part, run in runs.items()}),  # type: ignore[arg-type]
        command=f"{work.command} --only {recipe.name}",
        seconds={part: run.seconds[part] for part, run in runs.items()},
        taught={part: run.taught[part] for part, run in runs.items()},
    )
    target = work.out / recipe.name
    if target.exists():
        shutil.rmtree(target)
    with whole_folder(target) as made:
        for part, folder in folders.items():
            for path in sorted((folder / "stored").glob(f"{part}.*")):
                shutil.copyfile(path, made / path.name)
        write_split(_joined(read_split(folder / SPLIT) for folder in folders.values()), made / SPLIT)
        write_run(merged, made)
    return target


def _joined(splits: Iterator[Split]) -> Split:
    """Splits by the same fixed folds as one."""
    first, *others = splits
    return replace(first, groups={**first.groups, **{p: g for split in others for p, g in split.groups.items()}})


# ---------------------------------------------------------------- the command


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/, luna16/ and background/.")],
    run: Annotated[Path, typer.Option(help="Checkpoints, a folder for each network.")] = Path("runs/methods"),
    out: Annotated[Path, typer.Option(help="The package that is filled.")] = IN_CLONE,
    cells: Annotated[Path, typer.Option(help="Cells of the table of results.")] = Path("docs/cells"),
    only: Annotated[str, typer.Option(help="Only networks whose RECIPE.NETWORK holds this.")] = "",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each network, in place of the table's.")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16, of every network; default: 8 of large ones.")] = None,
    folds: Annotated[
        bool, typer.Option(help="Train the folds that the table lacks; without them a network has no figures.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train the networks of the published methods on all patients that may train, and fill the distribution."""
    if bits not in (None, 8, 16):
        raise typer.BadParameter("8 or 16", param_hint="--bits")
    if threads:
        torch.set_num_threads(threads)
    work = Release(data, run, out, cells, bits=cast("Bits | None", bits), folds=folds)
    if epochs is not None:
        work = replace(work, budget=replace(UNTIMED, epochs=epochs), command=f"{work.command} --epochs {epochs}")
    release(work, only, typer.echo)


if __name__ == "__main__":
    typer.run(main)
