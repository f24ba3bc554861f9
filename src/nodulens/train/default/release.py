"""From data to a file and its card, one function a network: five folds for the figures, everybody for what ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of, is_left_out
from nodulens.data.material import Background, Cubes, Patches, Stacks
from nodulens.methods.recipe import Augmentation, Training
from nodulens.metrics.classification import curve, ranking_draws
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import card as shipped_card
from nodulens.stages.prompts import GRID
from nodulens.train.default import calibration, detector
from nodulens.train.default import malignancy as malignancy_task
from nodulens.train.default import patch as patch_task
from nodulens.train.default import segmenter as segmenter_task
from nodulens.train.default import volume as volume_task
from nodulens.train.loop.export import Logits, LogitsAndActivation, export

Kinds = tuple[Augmentation, ...]
"""What more is done to examples at random than what ships was trained with; see :mod:`nodulens.train.loop.augment`."""
ONE_STACK_IN = 4
"""Of the stacks every fourth is judged: six prompts a nodule take a while, and the mean is sure to a percent."""


def patients(data: Path) -> list[str]:
    """The patient of every row of the material, file by file, those for evaluation only among them."""
    return [*Patches(data).patients, *Stacks(data).patients, *Cubes(data).patients, *Background.PATIENTS]


def patch(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True, augment: Kinds = ()) -> Path:
    """The axial candidate network."""
    patches = Patches(data)
    material = patch_task.planes(patches, Stacks(data))
    training = _asked(patch_task.TRAINING, epochs, augment)
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


def volume(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True, augment: Kinds = ()) -> Path:
    """The three-dimensional candidate network, with the settings of the whole detector. Needs the axial one's run."""
    stacks = Stacks(data)
    scenes = volume_task.cube_scenes(Cubes(data)) + volume_task.backgrounds(data)
    training = _asked(volume_task.TRAINING, epochs, augment)
    net = volume_task.train(scenes, stacks, None, run / "volume", training)
    patients = [s.patient for s in scenes] + stacks.patients
    card = _card("volume", training, "LIDC-IDRI cubes, stacks set into backgrounds, backgrounds", patients)
    card["input"] = {"balls": "(N, 1, 32, 32, 32) 1 mm voxels (coarser for candidates over 18 mm), −1000…400 HU as 0…1"}
    if folds:
        card["settings"], card["figures"] = detector.settings(_scored(data, scenes, stacks, run, epochs, augment))
    else:
        card |= _known(card)
    return export(Logits(net), torch.rand(3, 1, 32, 32, 32), out, card)


def segmenter(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True, augment: Kinds = ()) -> Path:
    """The prompted segmenter."""
    material = segmenter_task.examples(Stacks(data), Cubes(data))
    training = _asked(segmenter_task.TRAINING, epochs, augment)
    models = [segmenter_without(fold, material, run, epochs, augment) for fold in range(FOLDS if folds else 0)]
    net = segmenter_task.train(material, None, run / "segmenter", training)
    card = _segmenter_card(training, material, None)
    card |= {"figures": segmenter_figures(material, models)} if folds else _known(card)
    return export(net, torch.rand(3, 3, *GRID), out, card)


def segmenter_without(
    fold: int, material: list[segmenter_task.Example], run: Path, epochs: int | None = None, augment: Kinds = ()
) -> Model:
    """The prompted segmenter that has not seen a fold, in ``run/segmenter/fold0`` …; its card names whom it has seen.

    It is one of the five that :func:`segmenter` takes its figures from, and trained where its checkpoint is not there.
    """
    training = _asked(segmenter_task.TRAINING, epochs, augment)
    folder = run / "segmenter" / f"fold{fold}"
    net = segmenter_task.train(material, fold, run / "segmenter", training)
    export(net, torch.rand(3, 3, *GRID), folder, _segmenter_card(training, material, fold))
    return load_model("segmenter", torch.get_num_threads(), folder)


def _segmenter_card(training: Training, material: list[segmenter_task.Example], fold: int | None) -> dict[str, Any]:
    patients = [e.patient for e in material if fold is None or fold_of(e.patient) != fold]
    card = _card("segmenter", training, "LIDC-IDRI stacks and cubes", patients)
    card["command"] += "" if fold is None else f" --fold {fold}"
    card["input"] = {"prompts": f"(N, 3, {', '.join(map(str, GRID))}) image −1000…400 HU as 0…1, box, earlier mask"}
    return card


def malignancy(data: Path, out: Path, run: Path, epochs: int | None, folds: bool = True, augment: Kinds = ()) -> Path:
    """The malignancy network, its calibration and its interval."""
    material = malignancy_task.planes(Stacks(data))
    training = _asked(malignancy_task.TRAINING, epochs, augment)
    net = malignancy_task.train(material, None, run / "malignancy", training)
    card = _card("malignancy", training, "LIDC-IDRI stacks, all nodules with a rating", material.patients)
    card["input"] = {"planes": "(N, 2, 64, 64) axial slice of 0.7 mm pixels, −1000…400 HU as 0…1, and the soft outline"}
    if folds:
        logits = malignancy_task.cross_validate(material, run / "malignancy", training)
        known = judged(material, logits)
        card["settings"] = {**calibration.settings(known), "outputs": list(malignancy_task.TARGETS)}
        card["figures"] = {
            **calibration.figures(known),
            "stands_on": "LIDC-IDRI stacks, readers' outlines, median > 3 against < 3, five folds by patient",
        }
    else:
        card |= _known(card)
    return export(LogitsAndActivation(net), torch.rand(3, 2, 64, 64), out, card)


def _scored(
    data: Path, scenes: list[volume_task.TrainingRegion], stacks: Stacks, run: Path, epochs: int | None, augment: Kinds
) -> list[detector.Scored]:
    """Every scene by the networks that have not seen its patient."""
    training = _asked(volume_task.TRAINING, epochs, augment)
    material = patch_task.planes(Patches(data), stacks)
    patch_training = _asked(patch_task.TRAINING, epochs, augment)
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
    drawn = ranking_draws(y, logits, material.patients, weights=w, samples=calibration.BOOTSTRAPS)
    folds = [np.flatnonzero(is_left_out(material.patients, f)) for f in range(FOLDS)]
    by_fold = [curve(y[rows], logits[rows], w[rows]) for rows in folds]
    return {
        "auc": round(whole.auc, 4),
        "auc_interval_95": calibration.ends(drawn.auc),
        "average_precision": round(whole.average_precision, 4),
        "average_precision_interval_95": calibration.ends(drawn.average_precision),
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
            for kind, dice in segmenter_task.evaluate(model, example, rng).items():
                where.setdefault(kind, []).append(dice)
    return {
        **{name: {k: round(float(np.mean(v)), 4) for k, v in kinds.items()} for name, kinds in found.items()},
        "stands_on": f"{len(found['stacks']['box'])} stacks (judged within their slices) and "
        f"{len(found['cubes']['box'])} cubes, five folds by patient",
    }


def judged(material: malignancy_task.Planes, logits: NDArray[np.float32]) -> calibration.ScoredNodules:
    """The nodules with what the networks that have not seen their patients say of them."""
    return calibration.ScoredNodules(
        patients=material.patients,
        score=logits,
        truth=np.where(material.median == 3, -1, material.median > 3),
        readers=material.readers,
        share=material.share,
        diameter_mm=material.diameter_mm,
        calibration=material.calibration,
    )


def _asked(default: Training, epochs: int | None, augment: Kinds) -> Training:
    return replace(default, epochs=default.epochs if epochs is None else epochs, augment=augment or default.augment)


def _known(card: dict[str, Any]) -> dict[str, Any]:
    """Settings of the card that ships, and its figures where it was trained alike: the same seed, the same weights."""
    shipped = shipped_card(card["name"])
    alike = shipped.trained_on["schedule"] == card["trained_on"]["schedule"]
    return {"settings": shipped.settings, "figures": shipped.figures if alike else {}}


def _card(name: str, training: Training, material: str, patients: Sequence[str]) -> dict[str, Any]:
    taught = sorted(set(patients) - EVALUATION_PATIENTS)
    schedule = {name: getattr(training, name) for name in ("epochs", "learning_rate", "seed")}
    option = ""
    if training.augment:
        schedule["augment"] = list(training.augment)
        option = f" --augment {','.join(training.augment)}"
    return {
        "name": name,
        "command": f"python -m nodulens.train {name} --data ../shared/data{option}",
        "trained_on": {
            "material": material,
            "schedule": schedule,
            "never": sorted(EVALUATION_PATIENTS),
            "patients": taught,
        },
        "settings": {},
        "figures": {},
    }
