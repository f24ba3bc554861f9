"""The page of a run, or of one for every fold: figures by class and size, curves, pictures of results, explanations.

All of it is of test patients. Pictures are not chosen by hand: they run from the best case to the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.splits import read_split
from nodulens.evaluate import refinement
from nodulens.evaluate.cross_validation import CrossValidation
from nodulens.evaluate.explain import grad_cam, shap_values
from nodulens.evaluate.headline import metrics_of, metrics_of_steps
from nodulens.evaluate.networks import NetworkEvaluation
from nodulens.evaluate.refinement import Steps
from nodulens.evaluate.runs import MethodEvaluation
from nodulens.evaluate.scans import ScanEvaluation, scan_tables
from nodulens.methods.run_record import SPLIT, read_run
from nodulens.metrics.classification import confusion
from nodulens.ops.intensity import NETWORK_WINDOW
from nodulens.presentation import evaluation
from nodulens.presentation.evaluation import DataSet, Drawing, Evaluation, Metric, Provenance, Table
from nodulens.presentation.figures import (
    Basis,
    Pairs,
    bland_altman_figure,
    confusion_figure,
    precision_recall_figure,
    roc_figure,
    scatter_figure,
)
from nodulens.presentation.panels import Explained, LabelledSlice, class_figure, explained_figure
from nodulens.presentation.tables import class_table, precision_recall_line, roc_line
from nodulens.report.record import WeightRef
from nodulens.stages.classify_crop import SIDES
from nodulens.stages.slices import NODULE
from nodulens.train.loop.curves import curves_figure, folds_figure
from nodulens.train.networks.registry import build
from nodulens.train.tasks import segmentation
from nodulens.train.tasks.classification_figures import EvaluatedNodules, NoduleRow
from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches
from nodulens.train.tasks.protocol import Evaluated
from nodulens.train.tasks.segmentation_figures import EvaluatedSlices, SliceRow
from nodulens.train.tasks.slice_material import Slices

INTERVAL = "95 %, by drawing patients"
SLICES = 5
"""Slices shown, evenly from the best to the worst."""
BACKGROUND, SAMPLES = 32, 64
"""Background images of SHAP values, and samples on the lines from them."""


def page_of(found: MethodEvaluation, command: str) -> Evaluation:
    """The evaluation of a run, as a page and its JSON.

    Args:
        found: of a run.
        command: as typed.
    """
    assert found.run is not None
    folder, run = found.run, read_run(found.run)
    evaluated_on = (
        "whole scans" if not found.networks else "whom its split leaves out" if run.fold is None else f"fold {run.fold}"
    )
    sections = [_network(name, one, folder) for name, one in found.networks.items()]
    if found.second_step is not None:
        sections.append(_steps(found.second_step))
    return Evaluation(
        title=f"{run.recipe.name}: {run.recipe.title}",
        summary=(f"Evaluated on {evaluated_on}, patients that none of its networks was trained on.",),
        metrics=tuple(metric for section in sections for metric in section.metrics),
        interval=INTERVAL,
        tables=(
            *(table for section in sections for table in section.tables),
            *scan_tables(found.scans, found.sliding_window),
        ),
        drawings=tuple(drawing for section in sections for drawing in section.drawings),
        warnings=found.notes,
        provenance=replace(_provenance(found.weights, folder, command), data=sources_of(found.scans)),
    )


def page_of_folds(found: CrossValidation, command: str) -> Evaluation:
    """The evaluation of a run for every fold, as a page and its JSON.

    Args:
        command: as typed.
    """
    run = read_run(found.runs[0])
    sections = {part: _of_rows(one.evaluated) for part, one in found.networks.items()}
    return Evaluation(
        title=f"{run.recipe.name}: {run.recipe.title}",
        summary=(f"Cross-validation: {len(found.runs)} runs, each patient evaluated by the run that left it out.",),
        metrics=tuple(metric for section in sections.values() for metric in section.metrics),
        interval=INTERVAL,
        tables=tuple(
            table
            for part, section in sections.items()
            for table in (found.networks[part].by_fold(f"Fold by fold, {part}"), *section.tables)
        ),
        drawings=tuple(
            drawing for part, section in sections.items() for drawing in (*section.drawings, *_learnt(part, found.runs))
        ),
        warnings=found.notes,
        provenance=_provenance(found.weights, found.runs[0], command),
    )


def _learnt(part: str, runs: Sequence[Path]) -> Iterator[Drawing]:
    """The learning curves of every fold on one sheet, as far as they were kept."""
    tables = {f"fold {fold}": run / f"{part}.csv" for fold, run in enumerate(runs) if (run / f"{part}.csv").exists()}
    if tables:
        yield Drawing.of_lines(f"Learning curves by fold, {part}", folds_figure(tables, part))


def _provenance(weights: Sequence[WeightRef], run: Path, command: str) -> Provenance:
    return Provenance(
        command=command,
        weights=tuple(weights),
        split=evaluation.split_parts(read_split(run / SPLIT)),
        software=evaluation.software(),
        data=sources_of(()),
    )


def sources_of(scans: Sequence[ScanEvaluation]) -> tuple[DataSet, ...]:
    """The data sets to cite: those that networks learn from, and that of the whole scan that comes from elsewhere."""
    elsewhere = any(scan.name.startswith("Lung_Dx") for scan in scans)
    return (evaluation.LIDC_IDRI, evaluation.LUNA16, *([evaluation.LUNG_PET_CT_DX] if elsewhere else ()))


@dataclass(frozen=True)
class PageSection:
    """The page's part on one network, or on a comparison."""

    metrics: Sequence[Metric]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]


def _network(name: str, one: NetworkEvaluation, folder: Path) -> PageSection:
    """A network of a run: what its rows tell, what is drawn with the network, and its learning curves if they were
    kept."""
    section = _of_rows(one.evaluated)
    drawings = list(section.drawings)
    match one.evaluated:
        case EvaluatedSlices(slices=slices):
            drawings = [*_pictures(one, slices), *drawings, *_bias(one, slices)]
        case EvaluatedNodules(rows) if (folder / f"{name}.pt").exists():
            drawings.append(_explained(one, rows, folder / f"{name}.pt"))
    curves = folder / f"{name}.csv"
    if curves.exists():
        drawings.append(Drawing.of_lines(f"Learning curves, {name}", curves_figure(curves, name)))
    return replace(section, drawings=drawings)


def _of_rows(evaluated: Evaluated) -> PageSection:
    """What the rows of a network tell, of one run or of several."""
    match evaluated:
        case EvaluatedSlices():
            return _slices(evaluated)
        case EvaluatedPatches():
            return _patches(evaluated)
        case EvaluatedNodules():
            return _nodules(evaluated)
    raise TypeError(f"No page is known of {type(evaluated).__name__}.")


# ---------------------------------------------------------------- whole slices


def _slices(evaluated: EvaluatedSlices) -> PageSection:
    figures, slices = evaluated.figures, evaluated.slices
    rows = []
    for name, found in figures.classes.items():
        values = (mean.value for mean in (found.dice, found.iou, found.sensitivity, found.precision))
        rows.append((name, found.with_class, *values, found.dice_pooled, found.missed, found.invented))
    head = ("", "slices", "Dice", "IoU", "sensitivity", "precision", "Dice of all pixels", "missed", "invented")
    note = "Invented: segmented on a slice without it. Lungs are compared with our lung stage, unless masks were given."
    tables = [Table("By class", head, tuple(rows), note)]
    sizes = tuple((band, mean.slices, mean.dice) for band, mean in figures.dice_by_size.items() if mean.slices)
    if sizes:
        tables.append(Table("Nodule Dice by its diameter on the slice", ("", "slices", "Dice"), sizes))
    if figures.boxes is not None:
        boxes = tuple(asdict(figures.boxes).items())
        tables.append(Table("Boxes of nodules on slices, as COCO scores them", ("", "value"), boxes))
    return PageSection(metrics_of(evaluated), tables, list(_agreement(slices, tuple(figures.classes))))


def _agreement(slices: Sequence[SliceRow], classes: Sequence[str]) -> Iterator[Drawing]:
    """Predicted area against true area, and Dice of the nodule against Dice of the lungs."""
    areas = []
    for name in classes:
        cases = [row.overlap[name] for row in slices]
        true, predicted = np.array([(one.truth_voxels, one.predicted_voxels) for one in cases], float).reshape(-1, 2).T
        if (either := (true + predicted) > 0).sum() > 2:
            areas.append(Pairs(name, predicted[either], true[either]))
    basis = Basis(len(slices), "slices")
    if areas:
        figure = bland_altman_figure(areas, "Area", "pixels", basis)
        yield Drawing.of_lines("Bland–Altman of areas on slices, predicted less true", figure)
    lungs = [name for name in classes if name != NODULE]
    with_nodule = [row for row in slices if row.overlap[NODULE].truth_voxels]
    if lungs and len(with_nodule) > 2:
        lung, nodule = (np.array([row.dice(*names) for row in with_nodule]) for names in (lungs, [NODULE]))
        labels = ("Dice of the lungs", "Dice of the nodule")
        yield Drawing.of_lines(
            "Nodule and lungs", scatter_figure(Pairs("", lung, nodule), labels, Basis(len(with_nodule), "slices"))
        )


def _bias(one: NetworkEvaluation, slices: Sequence[SliceRow]) -> Iterator[Drawing]:
    """Error of the nodule's area against what method B's publication explains it by."""
    with_nodule = [row for row in slices if row.overlap[NODULE].truth_voxels]
    if not isinstance(one.material, Slices) or len(with_nodule) < 3:
        return
    basis = Basis(len(with_nodule), "slices with a nodule")
    for pairs in bias_sources(one.material, with_nodule):
        labels = (pairs.name, "Nodule's area, predicted less true, mm²")
        yield Drawing.of_lines(f"Bias by {pairs.name}", scatter_figure(pairs, labels, basis))


def bias_sources(material: Slices, rows: Sequence[SliceRow]) -> list[Pairs]:
    """Error of the nodule's area in mm² (``second``) by the publication's three: slice thickness, nodules on the slice,
    and volume of the lungs; and by the spacing of slices and the area of the lungs on a slice, which are always known.
    What is unknown, or the same for all, is left out.

    Args:
        rows: slices with a nodule.
    """
    pixel_mm2 = np.array([row.pixel_mm**2 for row in rows])
    nodule = [row.overlap[NODULE] for row in rows]
    error = pixel_mm2 * [float(found.predicted_voxels - found.truth_voxels) for found in nodule]
    lungs = [sum(found.truth_voxels for name, found in row.overlap.items() if name != NODULE) for row in rows]
    facts = material.facts(np.array([row.row for row in rows]))
    sources = {
        "slice thickness, mm": [one.thickness_mm for one in facts],
        "spacing of slices, mm": [one.spacing_mm for one in facts],
        "nodules on the slice": [row.truths for row in rows],
        "lungs, ml": [one.lungs_ml for one in facts],
        "lungs on the slice, cm²": pixel_mm2 * lungs / 100,
    }
    pairs = [Pairs(name, np.array(values, dtype=np.float64), error) for name, values in sources.items()]
    return [one for one in pairs if np.isfinite(one.first).all() and np.ptp(one.first) > 0]


def _pictures(one: NetworkEvaluation, slices: Sequence[SliceRow]) -> Iterator[Drawing]:
    """Some slices with a nodule, evenly from the best to the worst."""
    ranked = sorted((row for row in slices if row.overlap[NODULE].truth_voxels), key=lambda row: -row.dice(NODULE))
    if not ranked:
        return
    field = segmentation.field_of(one.config)
    chosen = [ranked[k] for k in np.unique(np.linspace(0, len(ranked) - 1, SLICES).astype(int))]
    images, truth = one.material.examples(field, np.array([row.row for row in chosen]))
    found = field.decided(field.probabilities(one.model.run(images[:, None])[0]))
    low, high = NETWORK_WINDOW
    shown = [
        LabelledSlice(f"Dice {row.dice(NODULE):.2f}", image * (high - low) + low, _labels(true), _labels(predicted))
        for row, image, true, predicted in zip(chosen, images, truth, found, strict=True)
    ]
    basis = Basis(len(slices), "slices", note="slices with a nodule, from the best to the worst")
    figure = class_figure(shown, dict(enumerate(field.foreground, start=1)), basis)
    yield Drawing.of_pixels("Input, truth, prediction, overlay", figure)


def _labels(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(foreground classes, y, x) → 0 for background, else the number of the class; the later one where they overlap."""
    out = np.zeros(masks.shape[1:], dtype=np.uint8)
    for number, mask in enumerate(masks, start=1):
        out[mask] = number
    return out


# ---------------------------------------------------------------- patches


def _patches(evaluated: EvaluatedPatches) -> PageSection:
    figures, rows = evaluated.figures, evaluated.rows
    counts = ("patches", figures.patches), ("on_nodules", figures.on_nodules), ("nodules", figures.nodules)
    tables = [Table("Patches", ("", "value"), counts)]
    kept = figures.kept
    if kept is None:
        return PageSection([], tables, [])
    tables.append(Table("Recall by diameter", ("", "recall"), tuple(kept.recall_by_size.items())))
    truth, score, patients = [row.truth for row in rows], [row.score for row in rows], [row.patient for row in rows]
    basis = Basis(len(rows), "patches", patients=len(set(patients)), note="patches have equal weight")
    drawings = [
        Drawing.of_lines("ROC", roc_figure([roc_line("", truth, score, patients)], basis)),
        Drawing.of_lines(
            "Precision and recall",
            precision_recall_figure([precision_recall_line("", truth, score, patients)], basis, float(np.mean(truth))),
        ),
    ]
    return PageSection(metrics_of(evaluated), tables, drawings)


# ---------------------------------------------------------------- crops


def _nodules(evaluated: EvaluatedNodules) -> PageSection:
    figures, rows = evaluated.figures, evaluated.rows
    truth, called = _classes(rows)
    found = confusion(truth, called, classes=tuple(rows[0].logits))
    ranked = ((words, group.beside_diameter) for words, group in figures.groups.items())
    lines = tuple(
        (words, beside.nodules, beside.ranking.auc, beside.ranking.diameter_alone)
        for words, beside in ranked
        if beside.ranking is not None
    )
    tables = [
        class_table("By class, any number of readers", found),
        Table("Malignant or benign", ("", "nodules", "AUC", "diameter alone"), lines),
    ]
    drawings = [Drawing.of_lines("Confusion", confusion_figure(found, Basis(len(truth))))]
    side = evaluated.scored.truth
    two = side >= 0
    if len(set(side[two])) == 2:
        some = list(compress(rows, two))
        patients = [row.patient for row in some]
        scores = {"network": [row.score for row in some], "diameter alone": [row.diameter_mm for row in some]}
        curves = [roc_line(words, side[two] == 1, score, patients) for words, score in scores.items()]
        drawings.append(Drawing.of_lines("ROC", roc_figure(curves, Basis(int(two.sum()), patients=len(set(patients))))))
    return PageSection(metrics_of(evaluated), tables, drawings)


def _classes(rows: Sequence[NoduleRow]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """(N,) true and predicted class."""
    called = [max(row.logits, key=row.logits.__getitem__) for row in rows]
    return np.array([row.truth for row in rows]), np.array(called)


def _explained(one: NetworkEvaluation, evaluated: Sequence[NoduleRow], checkpoint: Path) -> Drawing:
    """Evidence for malignancy: the most confident correct and wrong prediction of each class."""
    net = build(one.config)
    net.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["kept"])
    truth, called = _classes(evaluated)
    score = np.abs([row.score for row in evaluated])
    chosen = []
    sides = np.array([SIDES.get(name, -1) for name in truth])
    for side in (1, 0):
        for right in (True, False):
            some = np.flatnonzero((sides == side) & ((called == truth) == right))
            chosen += [int(some[score[some].argmax()])] if len(some) else []
    rows = np.array([row.row for row in evaluated])
    others = np.setdiff1d(np.arange(len(one.material.image)), rows)
    reference = others[:: max(1, len(others) // BACKGROUND)][:BACKGROUND]
    images, background = (torch.from_numpy(one.material.image[some]).float() for some in (rows[chosen], reference))
    target = max(k for k, name in enumerate(one.config.classes) if SIDES.get(name) == 1)
    heat = grad_cam(net, images, target)
    shares = shap_values(net, images, target, background, SAMPLES)
    cases = [
        Explained(f"{truth[k]}, called {called[k]}", image[0].numpy(), warm, share)
        for k, image, warm, share in zip(chosen, images, heat, shares, strict=True)
    ]
    note = "the most confident correct and wrong prediction of each class; evidence for malignancy"
    return Drawing.of_pixels("Explanations", explained_figure(cases, Basis(len(truth), note=note)))


# ---------------------------------------------------------------- the second step


def _steps(steps: Steps) -> PageSection:
    titles = {"cases": "Refined: best and worst", "best-1": "Both steps, the best", "worst-1": "Both steps, the worst"}
    pictures = refinement.pictures(steps)
    drawings = [Drawing.of_pixels(title, pictures[name]) for name, title in titles.items() if name in pictures]
    return PageSection(metrics_of_steps(steps), steps.tables(), drawings)
