"""From data to a file and its card, one function a network: five folds for the figures, everybody for what ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nodulens.data.crops import Cubes, Patches, Stacks
from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of, is_left_out
from nodulens.evaluate.classification import auc, calibration, curve, ranking_draws
from nodulens.evaluate.statistics import percentiles
from nodulens.recipe import Training
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import card as shipped_card
from nodulens.stages.prompt import GRID
from nodulens.train import detector
from nodulens.train import malignancy as malignancy_task
from nodulens.train import patch as patch_task
from nodulens.train import segmenter as segmenter_task
from nodulens.train import volume as volume_task
from nodulens.train.export import Logits, LogitsAndActivation, export

BOOTSTRAPS = 1000
ONE_STACK_IN = 4
"""Of the stacks every fourth is judged: six prompts a nodule take a while, and the mean is sure to a percent."""


def patch(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True) -> Path:
    """The axial candidate network."""
    patches = Patches(data)
    material = patch_task.planes(patches, Stacks(data))
    training = _shortened(patch_task.TRAINING, epochs)
    net = patch_task.train(material, None, run / "patch", training)
    card = _card("patch", training, "LUNA16 candidate patches, LIDC-IDRI stacks", material.patients)
    card["input"] = {
        "patches": "(N, 1, 64, 64) axial, the scan's own pixels, −1000…400 HU as 0…1, candidate at pixel (32, 32)"
    }
    if folds:
        card["figures"] = patch_figures(patches, patch_task.cross_validate(patches, material, run / "patch", training))
    else:
        card |= _known(card)
    return export(Logits(net), torch.rand(3, 1, 64, 64), out, card)


def volume(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True) -> Path:
    """The three-dimensional candidate network, with the settings of the whole detector. Needs the axial one's run."""
    stacks = Stacks(data)
    scenes = volume_task.cube_scenes(Cubes(data)) + volume_task.backgrounds(data)
    training = _shortened(volume_task.TRAINING, epochs)
    net = volume_task.train(scenes, stacks, None, run / "volume", training)
    patients = [s.patient for s in scenes] + stacks.patients
    card = _card("volume", training, "LIDC-IDRI cubes, stacks set into backgrounds, backgrounds", patients)
    card["input"] = {"balls": "(N, 1, 32, 32, 32) 1 mm voxels (coarser for candidates over 18 mm), −1000…400 HU as 0…1"}
    if folds:
        card["settings"], card["figures"] = detector.settings(_scored(data, scenes, stacks, run, epochs))
    else:
        card |= _known(card)
    return export(Logits(net), torch.rand(3, 1, 32, 32, 32), out, card)


def segmenter(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True) -> Path:
    """The prompted segmenter."""
    material = segmenter_task.examples(Stacks(data), Cubes(data))
    training = _shortened(segmenter_task.TRAINING, epochs)
    card = _card("segmenter", training, "LIDC-IDRI stacks and cubes", [e.patient for e in material])
    card["input"] = {"prompts": f"(N, 3, {', '.join(map(str, GRID))}) image −1000…400 HU as 0…1, box, earlier mask"}
    example = torch.rand(3, 3, *GRID)
    models = []
    for fold in range(FOLDS if folds else 0):
        folder = run / "segmenter" / f"fold{fold}"
        export(segmenter_task.train(material, fold, run / "segmenter", training), example, folder, card)
        models.append(load_model("segmenter", torch.get_num_threads(), folder))
    net = segmenter_task.train(material, None, run / "segmenter", training)
    card |= {"figures": segmenter_figures(material, models)} if folds else _known(card)
    return export(net, example, out, card)


def malignancy(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True) -> Path:
    """The malignancy network, its calibration and its interval."""
    material = malignancy_task.planes(Stacks(data))
    training = _shortened(malignancy_task.TRAINING, epochs)
    net = malignancy_task.train(material, None, run / "malignancy", training)
    card = _card("malignancy", training, "LIDC-IDRI stacks, all nodules with a rating", material.patients)
    card["input"] = {"planes": "(N, 2, 64, 64) axial slice of 0.7 mm pixels, −1000…400 HU as 0…1, and the soft outline"}
    if folds:
        logits = malignancy_task.cross_validate(material, run / "malignancy", training)
        card |= {"settings": malignancy_settings(material, logits), "figures": malignancy_figures(material, logits)}
    else:
        card |= _known(card)
    return export(LogitsAndActivation(net), torch.rand(3, 2, 64, 64), out, card)


def _scored(
    data: Path, scenes: list[volume_task.Scene], stacks: Stacks, run: Path, epochs: int | None
) -> list[detector.Scored]:
    """Every scene by the networks that have not seen its patient."""
    training = _shortened(volume_task.TRAINING, epochs)
    material = patch_task.planes(Patches(data), stacks)
    patch_training = _shortened(patch_task.TRAINING, epochs)
    scored = []
    # only a fold with a background can say how many marks a scan without nodules keeps
    for fold in sorted({fold_of(s.patient) for s in scenes if s.nodule is None}):
        ball = volume_task.train(scenes, stacks, fold, run / "volume", training)
        patch = patch_task.train(material, fold, run / "patch", patch_training)
        left_out = [s for s in scenes if fold_of(s.patient) == fold]
        scored += detector.score_scenes(left_out, stacks, patch, ball)
    return scored


def patch_figures(material: Patches, logits: NDArray[np.float32]) -> dict[str, Any]:
    """AUC and average precision, weighted by nodule, over all folds, with intervals by patient."""
    y, w = material.label, material.weight
    whole = curve(y, logits, w)
    drawn = ranking_draws(y, logits, material.patients, weights=w, samples=BOOTSTRAPS)
    folds = [np.flatnonzero(is_left_out(material.patients, f)) for f in range(FOLDS)]
    by_fold = [curve(y[rows], logits[rows], w[rows]) for rows in folds]
    return {
        "auc": round(whole.auc, 4),
        "auc_interval_95": _ends(drawn.auc),
        "average_precision": round(whole.average_precision, 4),
        "average_precision_interval_95": _ends(drawn.average_precision),
        "auc_by_fold": [round(c.auc, 4) for c in by_fold],
        "average_precision_by_fold": [round(c.average_precision, 4) for c in by_fold],
        "stands_on": f"{int(y.sum())} patches of {len(set(material.nodule[y]))} nodules against {int((~y).sum())} "
        "candidates, five folds by patient, weighted by nodule, mean over eight turns and flips",
    }


def segmenter_figures(material: list[segmenter_task.Example], models: Sequence[Model]) -> dict[str, Any]:
    """Mean 3-D Dice against the consensus by kind of prompt, stacks and cubes apart, beside the inscribed ellipsoid."""
    found: dict[str, dict[str, list[float]]] = {"stacks": {}, "cubes": {}}
    for fold, model in enumerate(models):
        rng = np.random.default_rng(100 + fold)
        for row in np.flatnonzero(is_left_out([e.patient for e in material], fold)):
            example = material[row]
            if not example.is_cube and row % ONE_STACK_IN:
                continue
            where = found["cubes" if example.is_cube else "stacks"]
            for kind, dice in segmenter_task.judge(model, example, rng).items():
                where.setdefault(kind, []).append(dice)
    return {
        **{name: {k: round(float(np.mean(v)), 4) for k, v in kinds.items()} for name, kinds in found.items()},
        "stands_on": f"{len(found['stacks']['box'])} stacks (judged within their slices) and "
        f"{len(found['cubes']['box'])} cubes, five folds by patient",
    }


def malignancy_settings(material: malignancy_task.Planes, logits: NDArray[np.float32]) -> dict[str, Any]:
    """Logistic calibration, and the interval: quantiles of the readers' share among nodules of like probability."""
    rows = np.flatnonzero(_decided(material))
    slope, constant = _calibrate(logits[rows], material.median[rows] > 3)
    panel = np.flatnonzero(material.readers >= 3)
    p = _sigmoid(slope * logits[panel] + constant)
    table = _interval_table(p, material.share[panel])
    coverage = _coverage(material, logits)
    table["meaning"] = (
        f"In {INTERVAL:.0%} of nodules the share of readers who rate it suspicious (above 3; a 3 counts half) lies in "
        f"this interval. Built from quantiles of that share among left-out nodules of like probability (three readers "
        f"or more); measured on patients left out of building it: {coverage:.1%}."
    )
    table["coverage_measured"] = round(coverage, 4)
    return {"calibration": [slope, constant], "interval": table, "outputs": list(malignancy_task.TARGETS)}


def malignancy_figures(material: malignancy_task.Planes, logits: NDArray[np.float32]) -> dict[str, Any]:
    """AUC beside axial diameter alone, overall and from 6 to 12 mm, with paired bootstrap over patients."""
    decided = _decided(material) & (material.readers >= 3)
    middle = decided & (material.diameter_mm >= 6) & (material.diameter_mm < 12)
    out: dict[str, Any] = {}
    for name, chosen in (("three_readers_or_more", decided), ("six_to_twelve_mm", middle)):
        rows = np.flatnonzero(chosen)
        y, a, b = material.median[rows] > 3, logits[rows], material.diameter_mm[rows]
        names = [material.patients[i] for i in rows]
        ours, size = (ranking_draws(y, v, names, samples=BOOTSTRAPS).auc for v in (a, b))
        out[name] = {
            "auc": round(auc(y, a), 4),
            "auc_interval_95": _ends(ours),
            "diameter_alone": round(auc(y, b), 4),
            "gain_interval_95": _ends(ours - size),
            "gain_p_one_sided": round(float(np.nanmean(ours <= size)), 4),
            "nodules": len(rows),
            "malignant": int(y.sum()),
        }
    codes = {}
    for code in np.unique(material.calibration[decided]):
        rows = np.flatnonzero(decided & (material.calibration == code))
        y = material.median[rows] > 3
        if 5 <= y.sum() <= len(y) - 5:
            codes[str(int(code))] = {"auc": round(auc(y, logits[rows]), 4), "nodules": len(rows)}
    out["by_slice_calibration_code"] = codes
    rows = np.flatnonzero(_decided(material))
    p = _cross_fitted(material, logits, rows)
    y = material.median[rows] > 3
    judged = calibration(y, p)
    out["calibration"] = {
        "brier": round(judged.brier, 4),
        "ece_10_bins": round(judged.ece, 4),
        "slope": round(judged.slope, 3),
        "intercept": round(judged.intercept, 3),
        "nodules": len(rows),
    }
    out["stands_on"] = "LIDC-IDRI stacks, readers' outlines, median > 3 against < 3, five folds by patient"
    return out


INTERVAL = 0.9
BINS = 12


def _decided(material: malignancy_task.Planes) -> NDArray[np.bool_]:
    return np.asarray(material.median != 3)


def _calibrate(logits: NDArray[np.float32], y: NDArray[np.bool_]) -> tuple[float, float]:
    model = LogisticRegression(C=1e6).fit(logits[:, None], y)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _interval_table(p: NDArray[np.float64], share: NDArray[np.float32]) -> dict[str, Any]:
    """Edges of bins of like probability; in each the quantiles of the share, corrected for the number in the bin."""
    order = np.argsort(p)
    low, high, edges = [], [], []
    for rows in np.array_split(order, BINS):
        n = len(rows)
        tail = max(0.0, (1 - INTERVAL) / 2 - 0.5 / n)
        values = np.sort(share[rows])
        low.append(float(np.quantile(values, tail, method="lower")))
        high.append(float(np.quantile(values, 1 - tail, method="higher")))
        edges.append(float(p[rows].max()))
    return {"upper_edge": edges[:-1], "low": low, "high": high, "level": INTERVAL}


def _coverage(material: malignancy_task.Planes, logits: NDArray[np.float32]) -> float:
    """How often the interval holds the readers' share, each fold by a table built from the other four."""
    inside: list[NDArray[np.bool_]] = []
    for fold in range(FOLDS):
        left = is_left_out(material.patients, fold)
        fit_rows = np.flatnonzero(_decided(material) & ~left)
        slope, constant = _calibrate(logits[fit_rows], material.median[fit_rows] > 3)
        panel = material.readers >= 3
        build, test = np.flatnonzero(panel & ~left), np.flatnonzero(panel & left)
        table = _interval_table(_sigmoid(slope * logits[build] + constant), material.share[build])
        p = _sigmoid(slope * logits[test] + constant)
        bins = np.minimum(np.searchsorted(table["upper_edge"], p), len(table["low"]) - 1)
        low = np.minimum(np.array(table["low"])[bins], p)
        high = np.maximum(np.array(table["high"])[bins], p)
        inside.append((material.share[test] >= low) & (material.share[test] <= high))
    return float(np.concatenate(inside).mean())


def _cross_fitted(
    material: malignancy_task.Planes, logits: NDArray[np.float32], rows: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Probabilities of ``rows``, each fold calibrated on the other four."""
    p = np.zeros(len(rows))
    left = np.array([is_left_out([material.patients[i] for i in rows], f) for f in range(FOLDS)])
    for fold in range(FOLDS):
        slope, constant = _calibrate(logits[rows[~left[fold]]], material.median[rows[~left[fold]]] > 3)
        p[left[fold]] = _sigmoid(slope * logits[rows[left[fold]]] + constant)
    return p


def _sigmoid(x: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x, dtype=np.float64))))


def _ends(draws: NDArray[np.float64]) -> list[float]:
    """Of the 95 % interval."""
    interval = percentiles(float("nan"), draws)
    return [round(interval.low, 4), round(interval.high, 4)]


def _shortened(default: Training, epochs: int | None) -> Training:
    return default if epochs is None else replace(default, epochs=epochs)


def _known(card: dict[str, Any]) -> dict[str, Any]:
    """Settings of the card that ships, and its figures where it was trained alike: the same seed, the same weights."""
    shipped = shipped_card(card["name"])
    alike = shipped.trained_on["schedule"] == card["trained_on"]["schedule"]
    return {"settings": shipped.settings, "figures": shipped.figures if alike else {}}


def _card(name: str, training: Training, material: str, patients: Sequence[str]) -> dict[str, Any]:
    taught = sorted(set(patients) - EVALUATION_PATIENTS)
    return {
        "name": name,
        "command": f"python -m nodulens.train {name} --data ../shared/data",
        "trained_on": {
            "material": material,
            "schedule": {"epochs": training.epochs, "learning_rate": training.learning_rate, "seed": training.seed},
            "never": sorted(EVALUATION_PATIENTS),
            "patients": taught,
        },
        "settings": {},
        "figures": {},
    }
