"""Training, evaluation and export of the default method's four networks, one function each.

The figures are from five folds; the network that ships is trained on all training patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of, is_left_out
from nodulens.data.material import Background, Cubes, Patches, Stacks
from nodulens.methods.recipe import Augmentation
from nodulens.metrics.classification import curve, ranking_draws
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import card as shipped_card
from nodulens.stages.prompts import GRID
from nodulens.train.default import calibration, detector
from nodulens.train.default import malignancy as malignancy_task
from nodulens.train.default import patch as patch_task
from nodulens.train.default import segmenter as segmenter_task
from nodulens.train.default import volume as volume_task
from nodulens.train.default.training import DefaultTraining
from nodulens.train.default.volume import TrainingRegion
from nodulens.train.loop.export import Logits, LogitsAndActivation, export


@dataclass(frozen=True)
class Trainings:
    """The training settings of the four networks; those that ship have the defaults."""

    patch: DefaultTraining = patch_task.TRAINING
    volume: DefaultTraining = volume_task.TRAINING
    segmenter: DefaultTraining = segmenter_task.TRAINING
    malignancy: DefaultTraining = malignancy_task.TRAINING

    def changed(self, epochs: int | None = None, augment: tuple[Augmentation, ...] = ()) -> Trainings:
        """Change the number of epochs or the augmentation.

        Args:
            epochs: of each network; None: unchanged.
            augment: added to each network's own; see :mod:`nodulens.train.loop.augment`.
        """

        def one(training: DefaultTraining) -> DefaultTraining:
            own = training.epochs if epochs is None else epochs
            return replace(training, epochs=own, augment=augment or training.augment)

        return Trainings(one(self.patch), one(self.volume), one(self.segmenter), one(self.malignancy))


SHIPPED = Trainings()


@dataclass(frozen=True)
class Release:
    """Data, folders and settings of a release.

    Attributes:
        data: folder with ``lidc/``, ``luna16/`` and ``background/``.
        out: folder of the ONNX files and their cards.
        run: folder of the checkpoints; training resumes from those there.
        folds: cross-validate too, for the figures on the cards; without it those of the cards that ship are kept.
        trainings: settings of each network.
        trials: samples for the detector's threshold.
        one_stack_in: the prompted segmenter is evaluated on one stack in so many: six prompts a nodule take a while,
            and the mean is precise to a percent.
    """

    data: Path
    out: Path
    run: Path
    folds: bool = True
    trainings: Trainings = SHIPPED
    trials: detector.Trials = detector.TRIALS
    one_stack_in: int = 4


def patients(data: Path) -> list[str]:
    """The patient of every row of the material, file by file, evaluation patients included."""
    return [*Patches(data).patients, *Stacks(data).patients, *Cubes(data).patients, *Background.PATIENTS]


def patch(release: Release) -> Path:
    """Train and export the axial candidate network."""
    patches, run, training = Patches(release.data), release.run / "patch", release.trainings.patch
    material = patch_task.planes(patches, Stacks(release.data))
    net = patch_task.train(material, None, run, training)
    card = _card("patch", training, "LUNA16 candidate patches, LIDC-IDRI stacks", material.patients)
    card["input"] = {
        "patches": "(N, 1, 64, 64) axial, the scan's own pixels, −1000…400 HU as 0…1, candidate at pixel (32, 32)"
    }
    if release.folds:
        card["figures"] = patch_figures(patches, patch_task.cross_validate(patches, material, run, training))
    else:
        card |= _known(card)
    return export(Logits(net), torch.rand(3, 1, 64, 64), release.out, card)


def volume(release: Release) -> Path:
    """Train and export the three-dimensional candidate network, with the settings of the whole detector.

    These need the axial network of the same folds, which is trained if its checkpoints are missing.
    """
    stacks, training = Stacks(release.data), release.trainings.volume
    regions = volume_task.cube_regions(Cubes(release.data)) + volume_task.backgrounds(release.data)
    net = volume_task.train(regions, stacks, None, release.run / "volume", training)
    patients = [r.patient for r in regions] + stacks.patients
    card = _card("volume", training, "LIDC-IDRI cubes, stacks set into backgrounds, backgrounds", patients)
    card["input"] = {"balls": "(N, 1, 32, 32, 32) 1 mm voxels (coarser for candidates over 18 mm), −1000…400 HU as 0…1"}
    if release.folds:
        card["settings"], card["figures"] = detector.settings(_scored(release, regions, stacks))
    else:
        card |= _known(card)
    return export(Logits(net), torch.rand(3, 1, 32, 32, 32), release.out, card)


def segmenter(release: Release) -> Path:
    """Train and export the prompted segmenter."""
    material = segmenter_task.examples(Stacks(release.data), Cubes(release.data))
    run, training = release.run, release.trainings.segmenter
    models = [segmenter_without(fold, material, run, training) for fold in range(FOLDS if release.folds else 0)]
    net = segmenter_task.train(material, None, run / "segmenter", training)
    card = _segmenter_card(training, material, None)
    card |= {"figures": segmenter_figures(material, models, release.one_stack_in)} if release.folds else _known(card)
    return export(net, torch.rand(3, 3, *GRID), release.out, card)


def segmenter_without(
    fold: int,
    material: Sequence[segmenter_task.Example],
    run: Path,
    training: DefaultTraining = segmenter_task.TRAINING,
) -> Model:
    """Train the prompted segmenter without a fold, into ``run/segmenter/fold0`` …; its card names its patients.

    It is one of the five networks behind the figures of :func:`segmenter`, and trained if its checkpoint is missing.
    """
    folder = run / "segmenter" / f"fold{fold}"
    net = segmenter_task.train(material, fold, run / "segmenter", training)
    export(net, torch.rand(3, 3, *GRID), folder, _segmenter_card(training, material, fold))
    return load_model("segmenter", torch.get_num_threads(), folder)


def _segmenter_card(
    training: DefaultTraining, material: Sequence[segmenter_task.Example], fold: int | None
) -> dict[str, Any]:
    patients = [e.patient for e in material if fold is None or fold_of(e.patient) != fold]
    card = _card("segmenter", training, "LIDC-IDRI stacks and cubes", patients)
    card["command"] += "" if fold is None else f" --fold {fold}"
    card["input"] = {"prompts": f"(N, 3, {', '.join(map(str, GRID))}) image −1000…400 HU as 0…1, box, earlier mask"}
    return card


def malignancy(release: Release) -> Path:
    """Train and export the malignancy network, with its calibration and its interval."""
    material, run = malignancy_task.planes(Stacks(release.data)), release.run / "malignancy"
    training = release.trainings.malignancy
    net = malignancy_task.train(material, None, run, training)
    card = _card("malignancy", training, "LIDC-IDRI stacks, all nodules with a rating", material.patients)
    card["input"] = {"planes": "(N, 2, 64, 64) axial slice of 0.7 mm pixels, −1000…400 HU as 0…1, and the soft outline"}
    if release.folds:
        scored = scored_nodules(material, malignancy_task.cross_validate(material, run, training))
        card["settings"] = {**calibration.settings(scored), "outputs": list(malignancy_task.TARGETS)}
        card["figures"] = {
            **calibration.figures(scored),
            "stands_on": "LIDC-IDRI stacks, readers' outlines, median > 3 against < 3, five folds by patient",
        }
    else:
        card |= _known(card)
    return export(LogitsAndActivation(net), torch.rand(3, 2, 64, 64), release.out, card)


MAKERS: Mapping[str, Callable[[Release], Path]] = {
    "patch": patch,
    "volume": volume,
    "segmenter": segmenter,
    "malignancy": malignancy,
}
"""Name of a network → function that trains and exports it, in order of dependence: "volume" needs "patch"."""


def _scored(release: Release, regions: Sequence[TrainingRegion], stacks: Stacks) -> list[detector.Scored]:
    """Score every region out of fold."""
    material, trainings = patch_task.planes(Patches(release.data), stacks), release.trainings
    scored = []
    # only a fold with a background gives false positives on a nodule-free scan
    for fold in sorted({fold_of(r.patient) for r in regions if r.nodule is None}):
        ball = volume_task.train(regions, stacks, fold, release.run / "volume", trainings.volume)
        plane = patch_task.train(material, fold, release.run / "patch", trainings.patch)
        left_out = [r for r in regions if fold_of(r.patient) == fold]
        scored += detector.score_regions(left_out, stacks, detector.Detector(plane, ball), release.trials)
    return scored


def patch_figures(material: Patches, logits: NDArray[np.float32]) -> dict[str, Any]:
    """AUC and average precision over all folds, weighted by nodule, with intervals by patient."""
    y, w = material.label, material.weight
    whole = curve(y, logits, w)
    samples = ranking_draws(y, logits, material.patients, weights=w, samples=calibration.BOOTSTRAPS)
    folds = [np.flatnonzero(is_left_out(material.patients, f)) for f in range(FOLDS)]
    by_fold = [curve(y[rows], logits[rows], w[rows]) for rows in folds]
    return {
        "auc": round(whole.auc, 4),
        "auc_interval_95": calibration.ends(samples.auc),
        "average_precision": round(whole.average_precision, 4),
        "average_precision_interval_95": calibration.ends(samples.average_precision),
        "auc_by_fold": [round(c.auc, 4) for c in by_fold],
        "average_precision_by_fold": [round(c.average_precision, 4) for c in by_fold],
        "stands_on": f"{int(y.sum())} patches of {len(set(material.nodule[y]))} nodules against {int((~y).sum())} "
        "candidates, five folds by patient, weighted by nodule, mean over eight turns and flips",
    }


def segmenter_figures(
    material: Sequence[segmenter_task.Example], models: Sequence[Model], one_stack_in: int = 1
) -> dict[str, Any]:
    """Mean 3-D Dice against the consensus by kind of prompt, for stacks and cubes, beside the inscribed ellipsoid."""
    found: dict[str, dict[str, list[float]]] = {"stacks": {}, "cubes": {}}
    for fold, model in enumerate(models):
        rng = np.random.default_rng(100 + fold)
        for row in np.flatnonzero(is_left_out([e.patient for e in material], fold)).tolist():
            example = material[row]
            if not example.is_cube and row % one_stack_in:
                continue
            where = found["cubes" if example.is_cube else "stacks"]
            for kind, dice in segmenter_task.evaluate(model, example, rng).items():
                where.setdefault(kind, []).append(dice)
    return {
        **{name: {k: round(float(np.mean(v)), 4) for k, v in kinds.items()} for name, kinds in found.items()},
        "stands_on": f"{len(found['stacks']['box'])} stacks (judged within their slices) and "
        f"{len(found['cubes']['box'])} cubes, five folds by patient",
    }


def scored_nodules(material: malignancy_task.Planes, logits: NDArray[np.float32]) -> calibration.ScoredNodules:
    """The nodules with their out-of-fold logits."""
    return calibration.ScoredNodules(
        patients=material.patients,
        score=logits,
        truth=np.where(material.median == 3, -1, material.median > 3),
        readers=material.readers,
        share=material.share,
        diameter_mm=material.diameter_mm,
        calibration=material.calibration,
    )


def _known(card: dict[str, Any]) -> dict[str, Any]:
    """Settings of the card that ships, and its figures if epochs, learning rate and seed are the same."""
    shipped = shipped_card(card["name"])
    alike = shipped.trained_on["schedule"] == card["trained_on"]["schedule"]
    return {"settings": shipped.settings, "figures": shipped.figures if alike else {}}


def _card(name: str, training: DefaultTraining, material: str, patients: Sequence[str]) -> dict[str, Any]:
    trained_on = sorted(set(patients) - EVALUATION_PATIENTS)
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
            "patients": trained_on,
        },
        "settings": {},
        "figures": {},
    }
