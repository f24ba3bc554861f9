"""Figures of segmentation on slices: overlap class by class, nodules' boxes, and Dice by the nodule's diameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.metrics.agreement import bland_altman, pearson
from nodulens.metrics.boxes import Image, box_iou, match, summary
from nodulens.metrics.segmentation import NAN, Overlap, overlaps, summarise
from nodulens.ops.components import components
from nodulens.stages.slices import NODULE, Field
from nodulens.train.tasks.protocol import rounded, with_interval
from nodulens.train.tasks.slice_material import CLOSE_UP

Bool = NDArray[np.bool_]

SLICE = "slice"
DIAMETERS_MM = (0, 3, 5, 8, 12)
"""Nodules on slices by the disc of their area there, from so many millimetres of diameter on."""


def slice_counts(field: Field, truth: Bool, seen: NDArray[np.float32]) -> dict[str, list[Any]]:
    """Pixels and boxes of slices, predicted against true.

    Args:
        truth: (N, drawn, y, x).
        seen: probabilities of the same shape.

    Returns:
        Columns: "pixels" and how many of them are "right" in every class; of each class its pixels in truth, as
        predicted and in common; of the nodules' boxes (connected parts) the "scores" of those found (mean probability),
        how many "truths" there are, and their "iou", found × truths.
    """
    found = field.decided(seen)
    out: dict[str, list[Any]] = {"pixels": [found[0, 0].size] * len(found)}
    out["right"] = (found == truth).all(axis=1).sum(axis=(1, 2)).tolist()
    for k, name in enumerate(field.drawn):
        for what, mask in (("truth", truth[:, k]), ("predicted", found[:, k]), ("common", truth[:, k] & found[:, k])):
            out[f"{name} {what}"] = mask.sum(axis=(1, 2)).tolist()
    nodule = field.drawn.index(NODULE)
    out |= {"scores": [], "truths": [], "iou": []}
    for true, drawn, sure in zip(truth[:, nodule], found[:, nodule], seen[:, nodule], strict=True):
        real, marks = components(true, 8), components(drawn, 8)
        scores = [float(sure[w][marks.labels[w] == n].mean()) for n, w in enumerate(marks.slices, start=1)]
        out["scores"].append(scores)
        out["truths"].append(len(real))
        out["iou"].append(box_iou(_corners(marks.slices), _corners(real.slices)).tolist())
    return out


def _corners(slices: Sequence[tuple[slice, ...]]) -> NDArray[np.float64]:
    """(n, 2, 2) lower and upper corner of boxes."""
    ends = [[[s.start for s in where], [s.stop for s in where]] for where in slices]
    return np.array(ends, dtype=np.float64).reshape(-1, 2, 2)


def figures(columns: Mapping[str, Sequence[Any]], field: Field) -> dict[str, Any]:
    """Figures of evaluated slices, of one fold or of several.

    Dice, IoU, sensitivity and precision are means over the slices whose truth has the class (a missed one counts 0),
    with intervals by patient. Slices whose truth lacks it are counted apart: "both_empty" where none is predicted
    either, "invented" where one is. "dice_pooled" counts pixels over all slices, and "dice_all" is the mean over all
    slices with 1 for both empty and 0 for invented: the two ways in which small things vanish behind large ones.

    Args:
        columns: of :class:`~nodulens.train.tasks.protocol.Outcome` rows. Close-ups are summed up apart.
    """
    columns, near = of_slices(columns), of_slices(columns, CLOSE_UP)
    patients = columns["patient"]
    means = ("dice", "iou", "sensitivity", "precision", "dice_all")
    classes, areas = {}, {}
    for name in field.drawn:
        cases = overlaps(columns, name)
        told = summarise(cases, patients)
        areas[name] = np.array([(c.truth_voxels, c.predicted_voxels) for c in cases], dtype=float)
        classes[name] = {
            **{key: with_interval(getattr(told, key), patients) for key in means},
            **{key: getattr(told, key) for key in ("cases", "both_empty", "invented", "missed")},
            "dice_pooled": rounded(_pooled_dice(cases)),
            "areas_px": _agreement(areas[name]),
        }
    shown = np.array(columns[f"{NODULE} truth"]) > 0
    out: dict[str, Any] = {
        "slices": len(patients),
        "with_nodule": int(shown.sum()),
        "accuracy": rounded(sum(columns["right"]) / max(sum(columns["pixels"]), 1)),
        "classes": classes,
        "boxes": _boxes(columns),
        "dice_by_size": _dice_by_size(columns),
    }
    lungs = [name for name in field.drawn if name != NODULE]
    if lungs and shown.sum() > 2:
        lung, nodule = dice_by_slice(columns, lungs)[shown], dice_by_slice(columns, [NODULE])[shown]
        out["pearson_of_nodule_and_lung_dice"] = rounded(pearson(lung, nodule).r.value)
    if near["row"]:
        told = summarise(overlaps(near, NODULE), near["patient"])
        rates = {key: with_interval(getattr(told, key), near["patient"]) for key in ("dice", "iou", "sensitivity")}
        out["close_ups"] = {"nodules": told.cases, "missed": told.missed, **rates}
    return out


def of_slices(columns: Mapping[str, Sequence[Any]], kind: str = SLICE) -> dict[str, list[Any]]:
    """The columns of evaluated rows, those of one kind."""
    own = [k for k, name in enumerate(columns["kind"]) if name == kind]
    return {name: [values[k] for k in own] for name, values in columns.items()}


def _dice_by_size(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float | None]]:
    """Mean Dice of the nodule on the slices that show so much of it, and how many slices those are."""
    pixels, dice = np.array(columns[f"{NODULE} truth"]), dice_by_slice(columns, [NODULE])
    wide = 2 * np.sqrt(pixels / np.pi) * np.array(columns["pixel_mm"])
    out = {}
    for low, high in pairwise((*DIAMETERS_MM, np.inf)):
        own = dice[(pixels > 0) & (wide >= low) & (wide < high)]
        band = f"from {low} mm" if high == np.inf else f"{low}–{high} mm" if low else f"under {high} mm"
        out[band] = {"slices": len(own), "dice": rounded(own.mean()) if len(own) else None}
    return out


def _pooled_dice(cases: Sequence[Overlap]) -> float:
    total = sum(c.truth_voxels + c.predicted_voxels for c in cases)
    return 2 * sum(c.common_voxels for c in cases) / total if total else NAN


def dice_by_slice(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """(N,) Dice of some classes together; 1 where they are nowhere."""
    truth, predicted, common = (
        np.sum([columns[f"{name} {what}"] for name in names], axis=0) for what in ("truth", "predicted", "common")
    )
    either = truth + predicted
    return np.where(either > 0, 2 * common / np.maximum(either, 1), 1.0)


def _agreement(areas: NDArray[np.float64]) -> dict[str, Any] | None:
    """Bland–Altman of areas in pixels, predicted less true, over the slices where there is either."""
    some = areas[areas.any(axis=1)]
    if len(some) < 2:
        return None
    found = bland_altman(some[:, 1], some[:, 0])
    limits = {"difference": found.difference, "lower": found.lower, "upper": found.upper}
    return {"slices": found.count, **{key: rounded(limit.value) for key, limit in limits.items()}}


def _boxes(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """COCO's figures of the nodules' boxes; precision and recall of all predicted ones, at an IoU of 0.5."""
    if not sum(columns["truths"]):
        return None
    rows = zip(columns["scores"], columns["iou"], columns["truths"], strict=True)
    matches = match([Image(np.array(s), np.reshape(iou, (len(s), n))) for s, iou, n in rows])
    at, means = matches.at(0.0), summary({NODULE: matches})
    told = {"precision": at.precision, "recall": at.recall, "f1": at.f1, "mean_iou": at.mean_iou, **asdict(means)}
    return {"truths": matches.truths, "found": at.true_positives, **{key: rounded(v) for key, v in told.items()}}
