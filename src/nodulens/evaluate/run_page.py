"""The page of a run: figures by class and size, curves, and pictures of what its networks did and looked at.

All of it is of test patients. The pictures show cases from the best to the worst, and not chosen ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.splits import read_split
from nodulens.evaluate import refinement
from nodulens.evaluate.explain import grad_cam, shap_values
from nodulens.evaluate.networks import NetworkEvaluation
from nodulens.evaluate.refinement import Steps
from nodulens.evaluate.runs import MethodEvaluation
from nodulens.evaluate.scans import scan_tables
from nodulens.methods.run_record import SPLIT, read_run
from nodulens.metrics.classification import confusion
from nodulens.ops.intensity import NETWORK_WINDOW
from nodulens.presentation import evaluation
from nodulens.presentation.evaluation import Drawing, Evaluation, Metric, Provenance, Table
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
from nodulens.stages.slices import NODULE, Field
from nodulens.train.loop.curves import curves_figure
from nodulens.train.networks.registry import build
from nodulens.train.tasks import segmentation, segmentation_figures

SLICES = 5
"""Slices shown, evenly from the best to the worst."""
BACKGROUND, SAMPLES = 32, 64
"""Images that SHAP values are held against, and points on the ways from them."""

Columns = Mapping[str, Sequence[Any]]


def page_of(found: MethodEvaluation, command: str) -> Evaluation:
    """The evaluation of a run, as a page and its JSON.

    Args:
        found: of a run.
        command: the line that was typed.
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
        interval="95 %, by drawing patients",
        tables=(
            *(table for section in sections for table in section.tables),
            *scan_tables(found.scans, found.sliding_window),
        ),
        drawings=tuple(drawing for section in sections for drawing in section.drawings),
        warnings=found.notes,
        provenance=Provenance(
            command=command,
            weights=found.weights,
            split=evaluation.split_parts(read_split(folder / SPLIT)),
            software=evaluation.software(),
            data=(evaluation.LIDC_IDRI, evaluation.LUNA16),
        ),
    )


@dataclass(frozen=True)
class PageSection:
    """What the page shows of one network, or of a comparison."""

    metrics: Sequence[Metric]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]


def _network(name: str, one: NetworkEvaluation, folder: Path) -> PageSection:
    """A network of a run, with its learning curves where they are kept."""
    draw = {"segmenter": _segmenter, "filter": _filter, "classifier": _classifier}
    section = draw[name](one, folder / f"{name}.pt")
    curves = folder / f"{name}.csv"
    if not curves.exists():
        return section
    lines = Drawing.of_lines(f"Learning curves, {name}", curves_figure(curves, name))
    return replace(section, drawings=(*section.drawings, lines))


# ---------------------------------------------------------------- whole slices


def _segmenter(one: NetworkEvaluation, checkpoint: Path) -> PageSection:
    figures, field = one.outcome.figures, segmentation.field_of(one.config)
    columns = segmentation_figures.of_slices(one.outcome.rows)
    metrics = []
    if "close_ups" in figures:
        near = figures["close_ups"]
        metrics.append(_metric("Dice, close-ups of real nodules", near["dice"], near["nodules"]))
    rows = []
    for name, found in figures["classes"].items():
        shown = found["cases"] - found["both_empty"] - found["invented"]
        metrics.append(_metric(f"Dice, {name}", found["dice"], shown, "mean over the slices that show it"))
        values = (found[key]["value"] for key in ("dice", "iou", "sensitivity", "precision"))
        rows.append((name, shown, *values, found["dice_pooled"], found["missed"], found["invented"]))
    head = ("", "slices", "Dice", "IoU", "sensitivity", "precision", "Dice of all pixels", "missed", "invented")
    note = "Invented: drawn on a slice that does not show it. Lungs are held against our own lung stage, if no others."
    tables = [Table("By class", head, tuple(rows), note)]
    sizes = tuple((band, *held.values()) for band, held in figures["dice_by_size"].items() if held["slices"])
    if sizes:
        tables.append(Table("Nodule Dice by its diameter on the slice", ("", "slices", "Dice"), sizes))
    if figures["boxes"]:
        boxes = tuple((name, value) for name, value in figures["boxes"].items())
        tables.append(Table("Boxes of nodules on slices, as COCO scores them", ("", "value"), boxes))
    drawings = list(_agreement(columns, field))
    pictures = _pictures(one, columns, field)
    if pictures:
        basis = Basis(len(columns["row"]), "slices", note="from the best to the worst of those with a nodule")
        figure = class_figure(pictures, dict(enumerate(field.drawn, start=1)), basis)
        drawings.insert(0, Drawing.of_pixels("Input, truth, prediction, overlay", figure))
    return PageSection(metrics, tables, drawings)


def _agreement(columns: Columns, field: Field) -> Iterator[Drawing]:
    """Areas against the truth's, and the nodule's Dice against that of the lungs."""
    areas = [
        Pairs(name, predicted[either], true[either])
        for name in field.drawn
        for true, predicted in [(np.array(columns[f"{name} {w}"], float) for w in ("truth", "predicted"))]
        if (either := (true + predicted) > 0).sum() > 2
    ]
    basis = Basis(len(columns["row"]), "slices")
    if areas:
        figure = bland_altman_figure(areas, "Area", "pixels", basis)
        yield Drawing.of_lines("Bland–Altman of areas on slices, predicted less true", figure)
    lungs = [name for name in field.drawn if name != NODULE]
    shown = np.array(columns[f"{NODULE} truth"]) > 0
    if lungs and shown.sum() > 2:
        lung, nodule = (segmentation_figures.dice_by_slice(columns, names)[shown] for names in (lungs, [NODULE]))
        labels = ("Dice of the lungs", "Dice of the nodule")
        yield Drawing.of_lines(
            "Nodule and lungs", scatter_figure(Pairs("", lung, nodule), labels, Basis(int(shown.sum()), "slices"))
        )


def _pictures(one: NetworkEvaluation, columns: Columns, field: Field) -> list[LabelledSlice]:
    """Some slices with a nodule, evenly from the best to the worst."""
    shown = np.flatnonzero(np.array(columns[f"{NODULE} truth"]) > 0)
    if not len(shown):
        return []
    dice = segmentation_figures.dice_by_slice(columns, [NODULE])[shown]
    ranked = shown[np.argsort(-dice, kind="stable")]
    chosen = ranked[np.unique(np.linspace(0, len(ranked) - 1, SLICES).astype(int))]
    rows = np.array(columns["row"])[chosen]
    images, truth = one.material.examples(field, rows)
    found = field.decided(field.probabilities(one.model.run(images[:, None])[0]))
    low, high = NETWORK_WINDOW
    return [
        LabelledSlice(f"Dice {value:.2f}", image * (high - low) + low, _labels(true), _labels(drawn))
        for image, true, drawn, value in zip(
            images, truth, found, segmentation_figures.dice_by_slice(columns, [NODULE])[chosen], strict=True
        )
    ]


def _labels(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(drawn, y, x) → 0 and the number of the class; where classes overlap, the later one."""
    out = np.zeros(masks.shape[1:], dtype=np.uint8)
    for number, mask in enumerate(masks, start=1):
        out[mask] = number
    return out


# ---------------------------------------------------------------- patches


def _filter(one: NetworkEvaluation, checkpoint: Path) -> PageSection:
    figures, rows = one.outcome.figures, one.outcome.rows
    tables = [Table("Patches", ("", "value"), tuple((k, v) for k, v in figures.items() if isinstance(v, (int, float))))]
    if "auc" not in figures:
        return PageSection([], tables, [])
    words = {
        "auc": "AUC, nodule against non-nodule",
        "average_precision": "Average precision",
        "precision": "Precision, nodules among what is kept",
        "recall": "Recall, nodules kept",
        "specificity": "Specificity, non-nodules rejected",
    }
    metrics = [_metric(text, figures[k], figures["patches"], "nodules weigh alike") for k, text in words.items()]
    sizes = tuple(figures["recall_by_size"].items())
    tables.append(Table("Recall by diameter", ("", "recall"), sizes))
    drawn = rows["truth"], rows["score"], rows["patient"]
    basis = Basis(len(rows["truth"]), "patches", patients=len(set(rows["patient"])), note="every patch weighs one")
    drawings = [
        Drawing.of_lines("ROC", roc_figure([roc_line("", *drawn)], basis)),
        Drawing.of_lines(
            "Precision and recall",
            precision_recall_figure([precision_recall_line("", *drawn)], basis, float(np.mean(rows["truth"]))),
        ),
    ]
    return PageSection(metrics, tables, drawings)


# ---------------------------------------------------------------- crops


def _classifier(one: NetworkEvaluation, checkpoint: Path) -> PageSection:
    figures, rows = one.outcome.figures, one.outcome.rows
    logits = np.array([rows[f"logit_{name}"] for name in one.config.classes]).T
    truth, called = np.array(rows["truth"]), np.array(one.config.classes)[logits.argmax(1)]
    found = confusion(truth, called, classes=one.config.classes)
    names = {
        "three_readers_or_more": "three readers or more",
        "six_to_twelve_mm": "6 to 12 mm",
        "all_readers": "any number of readers",
    }
    metrics, lines = [], []
    for group, words in names.items():
        held = figures[group]
        if held.get("auc") is not None:
            low, high = held.get("auc_interval_95") or (None, None)
            metrics.append(Metric(f"AUC, {words}", held["auc"], low, high, held["nodules"]))
            lines.append((words, held["nodules"], held["auc"], held["diameter_alone"]))
        for name in ("accuracy", "sensitivity", "specificity") if held.get("judged") else ():
            metrics.append(_metric(f"{name.title()}, {words}", held["intervals"][name], held["judged"], "all classes"))
    tables = [
        class_table("By class, any number of readers", found),
        Table("Malignant or benign", ("", "nodules", "AUC", "diameter alone"), tuple(lines)),
    ]
    drawings = [Drawing.of_lines("Confusion", confusion_figure(found, Basis(len(truth))))]
    two = np.isin(truth, ("benign", "malignant"))
    if len(set(truth[two])) == 2:
        patients = np.array(rows["patient"])[two]
        curves = [
            roc_line(words, truth[two] == "malignant", np.array(rows[column], float)[two], patients)
            for words, column in (("network", "score"), ("diameter alone", "diameter_mm"))
        ]
        drawings.append(Drawing.of_lines("ROC", roc_figure(curves, Basis(int(two.sum()), patients=len(set(patients))))))
    if checkpoint.exists():
        drawings.append(_explained(one, checkpoint, truth, called))
    return PageSection(metrics, tables, drawings)


def _explained(one: NetworkEvaluation, checkpoint: Path, truth: NDArray[np.str_], called: NDArray[np.str_]) -> Drawing:
    """What speaks for malignant: the surest nodule of each class, called right and called wrong."""
    net = build(one.config)
    net.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["kept"])
    score = np.abs(np.array(one.outcome.rows["score"]))
    chosen = []
    for name in ("malignant", "benign"):
        for right in (True, False):
            some = np.flatnonzero((truth == name) & ((called == truth) == right))
            chosen += [int(some[score[some].argmax()])] if len(some) else []
    rows = np.array(one.outcome.rows["row"])
    others = np.setdiff1d(np.arange(len(one.material.image)), rows)
    taught = others[:: max(1, len(others) // BACKGROUND)][:BACKGROUND]
    images, background = (torch.from_numpy(one.material.image[some]).float() for some in (rows[chosen], taught))
    target = one.config.classes.index("malignant")
    heat = grad_cam(net, images, target)
    shares = shap_values(net, images, target, background, SAMPLES)
    cases = [
        Explained(f"{truth[k]}, called {called[k]}", image[0].numpy(), warm, share)
        for k, image, warm, share in zip(chosen, images, heat, shares, strict=True)
    ]
    basis = Basis(len(truth), note="the surest of each class, called right and called wrong; what speaks for malignant")
    return Drawing.of_pixels("What it looked at", explained_figure(cases, basis))


# ---------------------------------------------------------------- the second step


def _steps(steps: Steps) -> PageSection:
    figures = steps.compared.figures
    words = {
        "first step alone": figures.first,
        "outlined again": figures.refined,
        "outlined again less first step": figures.gain,
    }
    metrics = [_metric(f"Dice, {text}", asdict(one.dice), figures.nodules) for text, one in words.items()]
    titles = {"cases": "Outlined again: best and worst", "best-1": "Both steps, the best", "worst-1": "The worst"}
    drawn = refinement.pictures(steps)
    drawings = [Drawing.of_pixels(title, drawn[name]) for name, title in titles.items() if name in drawn]
    return PageSection(metrics, steps.tables(), drawings)


# ---------------------------------------------------------------- parts


def _metric(name: str, figure: Mapping[str, float | None], n: int, note: str = "") -> Metric:
    return Metric(name, figure["value"], figure["low"], figure["high"], n, note=note)
