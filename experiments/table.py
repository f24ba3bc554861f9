"""The table of results: every method's networks under three splits, each cell trained once and kept as JSON.

    python -m experiments.table --data ../shared/data            what is missing, then docs/results.md
    python -m experiments.table --data ../shared/data --only conv3-classifier

A cell is one network of one recipe, one split and one fold. It is trained within :mod:`experiments.budgets` instead
of as long as the recipe says, which the page shows: on one CPU core whole slices take one to three hours a cell (of
resnet50-unet 20 minutes), patches half an hour, the rest minutes; on a GPU all take minutes. A cell that was stopped
resumes from its checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer

from experiments import results
from experiments.budgets import BUDGET, SHIPPED, Budget
from experiments.cells import AUGMENTED, PATIENTS, RANDOM, SCANS, SCHEMA, Cell, ComputedCell
from nodulens.data.folds import FOLDS, fold_of, may_train
from nodulens.data.material import Background, Stacks
from nodulens.data.splits import Parts
from nodulens.evaluate import central_slices, refinement, slice_networks
from nodulens.io.atomic import whole_file
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.recipe import DEFAULT, NetworkConfig, Recipe, changed
from nodulens.runtime.engine import BATCH, Array, Model, load_model
from nodulens.train.conditions import software
from nodulens.train.default import release, segmenter
from nodulens.train.default.rendered_nodules import outline_material
from nodulens.train.default.segmenter import Example
from nodulens.train.loop.curves import read_curves
from nodulens.train.loop.export import export
from nodulens.train.networks.pretrained import with_encoder
from nodulens.train.networks.registry import build
from nodulens.train.run import PARTS, Division, division, example_of
from nodulens.train.tasks import classification, handcrafted
from nodulens.train.tasks.protocol import Evaluated, Material, median_ms

HANDCRAFTED = ("svm", "forest")
"""Classifiers on handcrafted features, which take the place of a recipe."""


@dataclass(frozen=True)
class Bench:
    """What cells are computed from, where their checkpoints go, and how long their networks are trained.

    Attributes:
        data: folder with ``lidc/``, ``luna16/``, ``background/`` and ``ct/``.
        run: folder of the checkpoints.
    """

    data: Path
    run: Path
    budget: Budget = BUDGET


LOSSES = ("cross-entropy", "iou", "weighted", "tversky")
VIT = ("classifier.network=vit", "classifier.learning_rate=0.0003")
LITE, CUBES, TILES = "segmenter.pretrained=efficientnet-lite0", ("cubes=true",), ("negatives=both",)
AS_PUBLISHED = (
    "segmenter.epochs=50", "segmenter.batch=16", "segmenter.learning_rate=0.0001", "segmenter.schedule=constant",
    "segmenter.patience=none",
)  # fmt: skip
"""How method D's publication trains its segmenter, where the budget does otherwise."""
VARIANTS: Mapping[tuple[str, str], Sequence[tuple[str, ...]]] = {
    ("conv3-classifier", "classifier"): (
        ("classifier.seed=1",),
        ("classifier.seed=2",),
        ("classifier.crop_scale=1.5",),
        ("classifier.network=conv3-attention",),
        VIT,
    ),
    ("se-aux-unet", "segmenter"): (
        *((f"segmenter.loss={loss}",) for loss in LOSSES),
        ("segmenter.auxiliary=0",),
        ("segmenter.seed=1",),
        ("segmenter.seed=2",),
        CUBES,
    ),
    ("resnet-unet-patch-cnn", "segmenter"): (
        ("segmenter.loss=hybrid",),
        ("segmenter.epochs=16", "segmenter.patience=16"),
        (LITE,),
        (LITE, "segmenter.epochs=24"),
        (LITE, "segmenter.loss=hybrid"),
        (LITE, *AS_PUBLISHED),
        (*CUBES, *SHIPPED["resnet-unet-patch-cnn.segmenter"]),
    ),
    ("resnet-unet-patch-cnn", "filter"): (TILES,),
    ("nnunet-sam", "segmenter"): ((LITE,), CUBES),
    ("nnunet-sam", "classifier"): (
        ("classifier.network=conv3",),
        ("classifier.pixel_mm=0.5",),
        ("classifier.classes=0,1,2,3,4,5",),
        VIT,
    ),
    ("nnunet-sam", "refined"): (("box_scale=1.0",), ("box_scale=1.5",), ("box_scale=2.0",)),
}
"""Rows besides the unchanged recipe, on one fold."""
COPIED: Mapping[str, tuple[str, ...]] = {"planned-unet": ("segmenter.window=128", "segmenter.epochs=24")}
"""Settings of a network after augmentation, where a CPU would take hours; for comparison it is also split at random
with the same settings."""
BACKGROUND_FOLDS = sorted({fold_of(patient) for patient in Background.PATIENTS})
VARIANT_FOLD = 1
"""One that holds a background."""


def cells() -> Iterator[Cell]:
    """The whole table: five folds by patient (of whole slices those that hold a background), also of what ships in a
    recipe's place, and one of the other splits; then the variants, one fold each."""
    own = [(recipe.name, *config) for recipe in RECIPES.values() for config in recipe.networks.items()]
    for name, part, config in own:
        folds = BACKGROUND_FOLDS if part == "segmenter" else range(FOLDS)
        yield from (Cell(name, part, PATIENTS, fold) for fold in folds)
        if ships := SHIPPED.get(f"{name}.{part}"):
            yield from (Cell(name, part, PATIENTS, fold, ships) for fold in folds)
            if part == "segmenter":
                yield Cell(name, part, SCANS, 0, ships)
        settings = COPIED.get(config.network, ())
        yield Cell(name, part, RANDOM, 0)
        if settings:
            yield Cell(name, part, RANDOM, 0, settings)
        if config.augment:  # else there are no copies to make
            yield Cell(name, part, AUGMENTED, 0, settings)
        if part in ("segmenter", "filter"):
            yield Cell(name, part, SCANS, 0)
        if part == "filter":
            yield Cell(name, part, SCANS, 0, TILES)
    yield from (Cell(DEFAULT.name, "prompted", PATIENTS, fold) for fold in range(FOLDS))
    yield from (Cell("nnunet-sam", "refined", PATIENTS, fold) for fold in BACKGROUND_FOLDS)
    for kind in HANDCRAFTED:
        yield from (Cell(kind, "handcrafted", PATIENTS, fold) for fold in range(FOLDS))
        yield Cell(kind, "handcrafted", RANDOM, 0)
    for (name, part), variants in VARIANTS.items():
        yield from (Cell(name, part, PATIENTS, VARIANT_FOLD, settings) for settings in variants)


def compute(cell: Cell, material: Any, bench: Bench) -> dict[str, Any]:
    """Train and evaluate a network in a cell."""
    part, config, copies = PARTS[cell.part], recipe_of(cell, bench).networks[cell.part], bench.budget.copies
    if cell.split == AUGMENTED:
        material = part.multiplied(material, config.augment, copies)
        if cell.part != "segmenter":  # as many steps as without copies; a segmenter's epoch is as long as ever
            config = replace(config, epochs=-(-config.epochs // (copies + 1)))
    rows = _rows(cell, material)
    config = part.settled(config, material, rows.train)
    folder = bench.run / cell.name
    model = _trained(cell.part, config, material, rows, folder)
    found: Evaluated
    if cell.split == SCANS and cell.part == "filter":
        found = slice_networks.evaluate_sliding_window(model, bench.data)  # alone, the method's second arm
    elif cell.split == SCANS:
        found = slice_networks.evaluate_network(model, config, bench.data, _filter(cell, bench))
    else:
        found = part.evaluate(model, config, material, rows.test)
    return {
        **_head(cell),
        "learner": asdict(config),
        "rows_trained": len(rows.train),
        "epochs_run": len(read_curves(folder / f"{cell.part}.csv")),
        "train_seconds": _seconds(folder / f"{cell.part}.csv"),
        "cpu_ms": _milliseconds(load_model(cell.part, folder=folder), config),
        "random_sheets": config.window is not None,
        **_results(cell, found, config),
    }


def compute_handcrafted(cell: Cell, material: handcrafted.Features, data: Path) -> dict[str, Any]:
    """The same for a classifier on handcrafted features, which needs no validation set."""
    rows = _rows(cell, material)
    train = np.sort(np.concatenate([rows.train, rows.validation]))
    start = time.monotonic()
    found = handcrafted.evaluate(_kind(cell), material, train, rows.test)
    spent = {"rows_trained": len(train), "train_seconds": round(time.monotonic() - start, 1)}
    spent["cpu_ms"] = round(handcrafted.milliseconds(_kind(cell), material, data), 2)
    return {**_head(cell), **spent, **_results(cell, found)}


def compute_prompted(cell: Cell, material: list[Example], run: Path) -> dict[str, Any]:
    """The default's prompted network on central slices, by prompt."""
    model = release.segmenter_without(cell.fold, material, run)
    spent = {"epochs": segmenter.TRAINING.epochs, "train_seconds": _seconds(run / "segmenter" / f"fold{cell.fold}.csv")}
    found = central_slices.evaluate(model, material, central_slices.rows_of(material, cell.fold))
    spent["cpu_ms"] = round(central_slices.milliseconds(model, material), 2)
    return {**_head(cell), **spent, **_results(cell, found)}


def compute_refined(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Method C's first stage on close-ups of a fold, refined by the default's prompted network from grown boxes; and
    its classifier on crops masked by the readers, by the first stage, and by both steps.

    All three networks are of the same fold, and trained unless the table has trained them.
    """
    recipe, data, run = changed(RECIPES[cell.recipe], cell.settings), bench.data, bench.run
    first_stage, config, slices, _ = _network(replace(cell, part="segmenter", settings=()), bench)
    classifier, _, crops, rows = _network(replace(cell, part="classifier", settings=()), bench)
    prompted = central_slices.own(release.segmenter_without(cell.fold, outline_material(data), run))("box", None)
    spent = {"train_seconds": _seconds(run / "segmenter" / f"fold{cell.fold}.csv")}
    spent["random_sheets"] = config.window is not None
    nodules = crops.nodules.take(rows.test)
    first = refinement.first_masks(first_stage, config, slices.closeups, nodules)
    graded_by = classifier, classification.crop_of(recipe)
    second = refinement.SecondStep(prompted, recipe.box_scale)
    steps = refinement.compared(Stacks(data), nodules, first, second, graded_by)
    refinement.write_pictures(steps, run / cell.name)
    assert steps.graded is not None
    figures = {"compared": steps.compared.figures.to_json()}
    figures["graded"] = {mask: one.to_json() for mask, one in steps.graded.figures.items()}
    columns = {"rows": _rounded(steps.compared.to_json()), "graded": _rounded(steps.graded.to_json())}
    return {**_head(cell), **spent, "figures": figures, **columns}


def _results(cell: Cell, found: Evaluated, learner: NetworkConfig | None = None) -> dict[str, Any]:
    """Figures and rows as in the file: the figures are of its rows, whose last digits decide between equals."""
    rows = _rounded(found.to_json())
    if cell.split != SCANS and cell.part in results.POOLED:
        found = results.POOLED[cell.part]([ComputedCell(**vars(cell), learner=learner, rows=rows)])
    return {"figures": found.figures.to_json(), "rows": rows}


def _seconds(curves: Path) -> float:
    """What a training took, over all runs of it."""
    return round(float(read_curves(curves)[-1]["seconds"]), 1)


def _head(cell: Cell) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(cell), "software": software()}


def _rows(cell: Cell, material: Material) -> Division:
    patients = material.patients
    if cell.split in (PATIENTS, SCANS):
        able = {p for p, may in zip(patients, may_train(patients, None), strict=True) if may}
        test = frozenset(p for p in able if fold_of(p) == cell.fold and cell.split == PATIENTS)
        return division(material, Parts(frozenset(able) - test, test))
    # as if every row were of another patient: what the split by patient prevents
    able_rows = np.flatnonzero(may_train(patients, None))
    rng, strata = np.random.default_rng(cell.fold), np.array(material.strata)
    kinds = [rng.permutation(able_rows[strata[able_rows] == kind]) for kind in np.unique(strata)]
    dealt = [np.split(rows, [len(rows) // FOLDS, len(rows) // FOLDS + len(rows) // 10]) for rows in kinds]
    test_rows, validation, train = (np.sort(np.concatenate(part)) for part in zip(*dealt, strict=True))
    return Division(train, validation, test_rows)


def _filter(cell: Cell, bench: Bench) -> Model | None:
    """The network that keeps or rejects what a method outlines, trained on the same patients; None without one."""
    if RECIPES[cell.recipe].filter is None:
        return None
    return _network(replace(cell, part="filter", settings=()), bench)[0]


def _network(cell: Cell, bench: Bench) -> tuple[Model, NetworkConfig, Any, Division]:
    """The network of a cell with its material and rows, trained where the table has not trained it yet."""
    material = _loaded(cell, bench)
    rows = _rows(cell, material)
    config = PARTS[cell.part].settled(recipe_of(cell, bench).networks[cell.part], material, rows.train)
    return _trained(cell.part, config, material, rows, bench.run / cell.name), config, material, rows


def _trained(name: str, config: NetworkConfig, material: Any, rows: Division, folder: Path) -> Model:
    """The network of a cell, trained unless its checkpoint is there."""
    net = PARTS[name].train(config, material, rows.train, rows.validation, folder / f"{name}.pt")
    return _exported(name, net, config, folder)


def _exported(name: str, net: torch.nn.Module, config: NetworkConfig, folder: Path) -> Model:
    card = {"name": name, "command": "python -m experiments.table", "trained_on": {"patients": []}}
    settings = {**asdict(config), "masked": False}
    card |= {"input": {"size": config.size}, "settings": settings, "figures": {}}
    place = next(net.parameters()).device
    export(net, example_of(config), folder, card)
    exported = load_model(name, folder=folder)
    return exported if place.type == "cpu" else replace(exported, run=_computed(net.to(place)))


def _computed(net: torch.nn.Module) -> Callable[[Array], tuple[Array, ...]]:
    """A network where it is: on a GPU judging takes seconds, where its exported file on the CPU takes minutes."""
    place = next(net.parameters()).device

    @torch.inference_mode()
    def run(batch: Array) -> tuple[Array, ...]:
        whole = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
        parts = [net(part.to(place)) for part in whole.split(BATCH)]
        each = zip(*(part if isinstance(part, tuple) else (part,) for part in parts), strict=True)
        return tuple(torch.cat(pieces).float().cpu().numpy() for pieces in each)

    return run


def _milliseconds(exported: Model, config: NetworkConfig) -> float:
    """Milliseconds of one input on the CPU as a method runs, the median of ten."""
    example = np.random.default_rng(0).random((1, 1, config.size, config.size), dtype=np.float32)
    exported.run(example)
    return round(median_ms([partial(exported.run, example)] * 10), 2)


def _rounded(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns as they go into the file: five digits tell more than there is to know."""
    return json.loads(json.dumps(rows), parse_float=lambda text: float(f"{float(text):.5g}"))  # type: ignore[no-any-return]


# ---------------------------------------------------------------- the command


def main(
    data: Annotated[Path, typer.Option(help="Folder with lidc/, luna16/, background/ and ct/.")],
    out: Annotated[Path, typer.Option(help="Where the cells are kept.")] = Path("docs/cells"),
    run: Annotated[Path, typer.Option(help="Checkpoints.")] = Path("runs/table"),
    page: Annotated[Path, typer.Option(help="Page whose tables are filled in.")] = Path("docs/results.md"),
    only: Annotated[str, typer.Option(help="Only cells whose name holds this.")] = "",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Compute nothing; measure what an input costs anew, on a quiet machine.")
    ] = False,
) -> None:
    """Compute the cells that are missing, then fill in the page."""
    if threads:
        torch.set_num_threads(threads)
    bench = Bench(data, run)
    if times:
        time_anew(bench, out, only)
    else:
        fill(bench, out, only, typer.echo)
    results.write(out, page)


def fill(bench: Bench, out: Path, only: str = "", tell: Callable[[str], object] = lambda line: None) -> None:
    """Compute the cells that are missing.

    Args:
        out: folder of the cells.
        only: computes those alone whose name holds this.
        tell: is called with a line for each cell.
    """
    out.mkdir(parents=True, exist_ok=True)
    loaded: dict[str, Any] = {}
    for cell in cells():
        path = out / f"{cell.name}.json"
        if only not in cell.name or path.exists():
            continue
        shaping = (setting for setting in cell.settings if not setting.startswith(f"{cell.part}."))
        source = ".".join((cell.recipe, cell.part, *shaping))
        if source not in loaded and cell.part != "refined":  # one at a time: slices fill gigabytes
            loaded = {source: _loaded(cell, bench)}
        if cell.part == "handcrafted":
            found = compute_handcrafted(cell, loaded[source], bench.data)
        elif cell.part == "prompted":
            found = compute_prompted(cell, loaded[source], bench.run)
        elif cell.part == "refined":
            found = compute_refined(cell, bench)
        else:
            found = compute(cell, loaded[source], bench)
        with whole_file(path) as file:
            file.write_text(json.dumps(found) + "\n", encoding="utf-8")
        tell(f"{cell.name}: {found['train_seconds']:.0f} s")


def time_anew(bench: Bench, out: Path, only: str = "") -> None:
    """Measure again what an input costs, for the cells that are there."""
    timed: dict[str, float] = {}
    for cell in cells():
        path = out / f"{cell.name}.json"
        if only in cell.name and path.exists():
            _time_anew(cell, path, bench, timed)


def _time_anew(cell: Cell, path: Path, bench: Bench, timed: dict[str, float]) -> None:
    """Time an input again and put it into a cell; nothing in ``timed`` is timed twice.

    The network is untrained, or the one that ships: training does not change its cost, and the cell's checkpoint may
    be elsewhere.
    """
    if cell.part == "refined":
        return  # the cells of its networks have their costs
    config = with_encoder(recipe_of(cell, bench).networks[cell.part]) if cell.part in PARTS else None
    name = f"{config.network} {config.size}" if config else cell.recipe
    if name not in timed:
        if config:
            with TemporaryDirectory() as folder:
                timed[name] = _milliseconds(_exported(cell.part, build(config), config, Path(folder)), config)
        elif cell.part == "prompted":
            timed[name] = central_slices.milliseconds(
                load_model("segmenter", torch.get_num_threads()), _loaded(cell, bench)
            )
        else:
            timed[name] = handcrafted.milliseconds(_kind(cell), _loaded(cell, bench), bench.data)
    found = json.loads(path.read_text(encoding="utf-8"))  # other keys are unchanged and in their order
    found["cpu_ms"] = round(timed[name], 2)
    with whole_file(path) as file:
        file.write_text(json.dumps(found) + "\n", encoding="utf-8")


def _kind(cell: Cell) -> handcrafted.Kind:
    return "svm" if cell.recipe == "svm" else "forest"


def _loaded(cell: Cell, bench: Bench) -> Any:
    if cell.part == "handcrafted":
        return handcrafted.load(bench.data)
    if cell.part == "prompted":
        return outline_material(bench.data)
    return PARTS[cell.part].load(bench.data, recipe_of(cell, bench))


def recipe_of(cell: Cell, bench: Bench) -> Recipe:
    """The recipe of a cell with its settings, within the budget."""
    recipe, budget = RECIPES[cell.recipe], bench.budget
    own = budget.networks[recipe.networks[cell.part].network]
    if budget.renderings is not None:
        recipe = replace(recipe, renderings=budget.renderings)
    every = () if budget.epochs is None else (f"{cell.part}.epochs={budget.epochs}",)
    return changed(recipe, (*(f"{cell.part}.{name}={value}" for name, value in own.items()), *cell.settings, *every))


if __name__ == "__main__":
    typer.run(main)
