"""Training, evaluation and export of the default method's networks, one function for what is trained together.

The figures are from five folds; the network that ships is trained on all training patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.folds import EVALUATION_PATIENTS, FOLDS, fold_of, is_left_out
from nodulens.data.material import Background, Cubes, Stacks
from nodulens.methods.recipe import DEFAULT, Augmentation
from nodulens.runtime.engine import Model, load_model
from nodulens.runtime.weights import FOLDER, TOGETHER
from nodulens.runtime.weights import card as shipped_card
from nodulens.stages.detect import detect_within, logits, scored
from nodulens.stages.prompted import Outline
from nodulens.stages.prompts import CHANNELS, GRID
from nodulens.stages.segment import segment
from nodulens.stages.views import screen_view
from nodulens.train.default import detector as detector_task
from nodulens.train.default import detector_figures, malignancy_figures, outline_figures, trust_figures, untaught
from nodulens.train.default import malignancy as malignancy_task
from nodulens.train.default import measured as measured_task
from nodulens.train.default import segmenter as segmenter_task
from nodulens.train.default.cube_detection import CubeDetection, match, search_cubes
from nodulens.train.default.own_outlines import own_outlines
from nodulens.train.default.regions import TrainingRegion, backgrounds, cube_regions
from nodulens.train.default.rendered_nodules import outline_material
from nodulens.train.default.taught import Taught, distances_of, out_of_fold
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.export import WithFeatures, export, settle
from nodulens.train.networks.forest import MeasuredForest

PASSING = 0.99
"""Share of the nodules that the candidate stage finds which must pass the screening network, out of fold."""
MOST = 1200
"""Candidates of a scan that may pass, so that no disease takes minutes."""
RENDERED = " --rendered"
"""In the command of what is taught on rendered nodules too."""


@dataclass(frozen=True)
class Trainings:
    """The training settings of the networks; those that ship have the defaults."""

    detector: DefaultTraining = detector_task.TRAINING
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

        return Trainings(one(self.detector), one(self.segmenter), one(self.malignancy))


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
        masses: number inserted into each nodule-free lung, for the detector's figures.
        one_stack_in: the prompted segmenter is evaluated on all cubes, and on one stack in so many: seven prompts a
            nodule take a while, and the mean is precise to a percent.
        rendered: teach the prompted segmenter on rendered nodules too; the one that ships is not.
    """

    data: Path
    out: Path
    run: Path
    folds: bool = True
    trainings: Trainings = SHIPPED
    masses: int = detector_figures.MASSES
    one_stack_in: int = 4
    rendered: bool = False


def patients(data: Path) -> list[str]:
    """The patient of every row of the material, file by file, evaluation patients included."""
    return [*Stacks(data).patients, *Cubes(data).patients, *Background.PATIENTS]


def detector(release: Release) -> Path:
    """Train and export the detector's two networks, with its calibration and its threshold."""
    cubes, stacks = Cubes(release.data), Stacks(release.data)
    free = backgrounds(release.data)
    regions = cube_regions(cubes) + free
    run, training = release.run / "detector", release.trainings.detector
    nets = [detector_task.train(regions, stacks, fold, run, training) for fold in range(FOLDS if release.folds else 0)]
    net = detector_task.train(regions, stacks, None, run, training)
    patients = [r.patient for r in regions] + stacks.patients
    screen_card, volume_card = (_detector_card(name, training, patients) for name in ("screen", "volume"))
    if release.folds:
        models = _fold_detectors(nets, regions, run, training)
        screen_card["settings"] = models[0][0].card.settings
        without = _by_fold(models)
        searched = search_cubes(cubes, range(len(cubes)), without)
        lungs = detector_figures.search_lungs(free, stacks, without, release.masses)

        def by(calibrated: Sequence[float]) -> tuple[CubeDetection, detector_figures.LungDetection]:
            return match(cubes, searched.each(lambda found: found.marks(calibrated))), lungs.marks(calibrated)

        fitted = detector_figures.calibration(*by(detector_figures.UNCALIBRATED))
        found, in_lungs = by(fitted)
        volume_card["settings"] = {"calibration": fitted, **detector_figures.settings(found, in_lungs)}
        threshold = volume_card["settings"]["threshold"]
        volume_card["figures"] = detector_figures.figures(cubes, found, in_lungs, threshold)
        for fold in range(FOLDS):
            settle(run / f"fold{fold}", "volume", volume_card["settings"])
    else:
        screen_card |= _known(screen_card)
        volume_card |= _known(volume_card)
    export(net.screen, torch.rand(3, 1, 16, 16, 16), release.out, screen_card)
    return export(net.volume, torch.rand(3, 1, 32, 32, 32), release.out, volume_card)


def detector_without(
    fold: int, data: Path, run: Path, training: DefaultTraining = detector_task.TRAINING
) -> detector_task.DetectorNets:
    """Train the detector's networks without a fold, into ``run/detector``, where :func:`detector` finds them."""
    regions = cube_regions(Cubes(data)) + backgrounds(data)
    return detector_task.train(regions, Stacks(data), fold, run / "detector", training)


def _fold_detectors(
    nets: Sequence[detector_task.DetectorNets], regions: Sequence[TrainingRegion], run: Path, training: DefaultTraining
) -> list[tuple[Model, Model]]:
    """The networks of the folds, screening and scoring, in ``run/fold0`` …

    All share the least logit of the screening network, which is chosen on nodules that each of them left out.
    """
    threads = torch.get_num_threads()
    patients = [r.patient for r in regions]
    passed = []
    for fold, net in enumerate(nets):
        folder = run / f"fold{fold}"
        screen_card, volume_card = (_detector_card(name, training, patients, fold) for name in ("screen", "volume"))
        export(net.screen, torch.rand(3, 1, 16, 16, 16), folder, screen_card)
        export(net.volume, torch.rand(3, 1, 32, 32, 32), folder, volume_card)
        screen = load_model("screen", threads, folder)
        for r in (r for r in regions if r.centre_zyx is not None and fold_of(r.patient) == fold):
            hits = [c for c, is_nodule in zip(r.candidates, r.is_nodule, strict=True) if is_nodule]
            if hits:
                passed.append(logits(r.volume, hits, screen, screen_view).max())
    least = detector_figures.least_logit(np.array(passed), PASSING)
    for fold in range(len(nets)):
        settle(run / f"fold{fold}", "screen", {"least": round(least, 3), "most": MOST})
    both = ("screen", "volume")
    return [tuple(load_model(name, threads, run / f"fold{fold}") for name in both) for fold in range(len(nets))]  # type: ignore[misc]


def _by_fold(models: Sequence[tuple[Model, Model]]) -> Callable[[str], detector_figures.Search]:
    """Patient → the search by the networks, screening and scoring, of the fold that left the patient out."""

    def without(patient: str) -> detector_figures.Search:
        screen, ball = models[fold_of(patient)]
        return partial(scored, screen=screen, ball=ball)

    return without


def _detector_card(
    name: str, training: DefaultTraining, patients: Sequence[str], fold: int | None = None
) -> dict[str, Any]:
    material = "LIDC-IDRI cubes, nodule-free lungs, stacks inserted into these"
    card = _card(name, training, material, [p for p in patients if fold is None or fold_of(p) != fold])
    card["trained_on"]["schedule"]["then"] = _schedule(detector_task.sharpening(training))
    card["input"] = {
        "screen": {"blocks": "(N, 1, 16, 16, 16) 1 mm voxels (coarser for candidates over 7 mm), −1000…400 HU as 0…1"},
        "volume": {"blocks": "(N, 1, 32, 32, 32) 1 mm voxels (coarser for candidates over 18 mm), −1000…400 HU as 0…1"},
    }[name]
    return card


def segmenter(release: Release) -> Path:
    """Train and export the prompted segmenter, with the edges of the band of the readers' outlines."""
    cubes = Cubes(release.data)
    material = outline_material(release.data, rendered=release.rendered)
    run, training = release.run, release.trainings.segmenter
    models = [segmenter_without(fold, material, run, training) for fold in range(FOLDS if release.folds else 0)]
    own = _segmenter_run(run, release.rendered)
    net = segmenter_task.train(material, None, own, training)
    card = _segmenter_card(training, material, None)
    if release.folds:
        marks, marked_by = _marks(release, cubes)
        found = outlined(material, models, marks, release.one_stack_in)
        card |= {
            "settings": outline_figures.settings(found),
            "figures": outline_figures.figures(found, cubes, marked_by),
        }
        for fold in range(FOLDS):
            settle(own / f"fold{fold}", "segmenter", card["settings"])
    else:
        card |= _known(card)
    return export(net, torch.rand(3, CHANNELS, *GRID), release.out, card)


def segmenter_without(
    fold: int,
    material: Sequence[segmenter_task.Example],
    run: Path,
    training: DefaultTraining = segmenter_task.TRAINING,
) -> Model:
    """Train the prompted segmenter without a fold, into ``run/segmenter/fold0`` … or, with rendered nodules,
    ``run/segmenter-rendered/fold0`` …; its card names its patients.

    It is one of the five networks behind the figures of :func:`segmenter`, and trained if its checkpoint is missing.
    """
    own = _segmenter_run(run, _has_rendered(material))
    folder = own / f"fold{fold}"
    net = segmenter_task.train(material, fold, own, training)
    export(net, torch.rand(3, CHANNELS, *GRID), folder, _segmenter_card(training, material, fold))
    return load_model("segmenter", torch.get_num_threads(), folder)


def _segmenter_run(run: Path, rendered: bool) -> Path:
    """The folder of the checkpoints."""
    return run / ("segmenter-rendered" if rendered else "segmenter")


def _has_rendered(material: Sequence[segmenter_task.Example]) -> bool:
    return any(e.rendered for e in material)


def _segmenter_card(
    training: DefaultTraining, material: Sequence[segmenter_task.Example], fold: int | None
) -> dict[str, Any]:
    patients = [e.patient for e in material if fold is None or fold_of(e.patient) != fold]
    rendered = _has_rendered(material)
    shown = "LIDC-IDRI stacks and cubes" + (", rendered nodules" if rendered else "")
    card = _card("segmenter", training, shown, patients)
    card["command"] += (RENDERED if rendered else "") + ("" if fold is None else f" --fold {fold}")
    card["input"] = {
        "prompts": f"(N, {', '.join(map(str, (CHANNELS, *GRID)))}) image −1000…400 HU as 0…1, box, earlier mask, clicks"
    }
    return card


def malignancy(release: Release) -> Path:
    """Train and export the malignancy network and the forest on measured features, with their combination, its
    calibration and its interval.

    With folds, they are trained on the program's own outlines too, by the segmenters of the folds, which are trained if
    the run has none.
    """
    stacks, cubes, run = Stacks(release.data), Cubes(release.data), release.run / "malignancy"
    training = release.trainings.malignancy
    segmenters = segmenters_of(release) if release.folds else []
    material = rated_material(release, segmenters)
    net, forest = malignancy_task.train(material, None, run, training), measured_task.train(material, None)
    whose = "readers' outlines and the program's" if segmenters else "readers' outlines"
    whose += ", by segmenters taught on rendered nodules too" if segmenters and release.rendered else ""
    shown = f"LIDC-IDRI stacks and cubes, all nodules with a rating, {whose}"
    card = _card("malignancy", training, shown, material.patients)
    card["input"] = {"planes": "(N, 2, 64, 64) axial slice of 0.7 mm pixels, −1000…400 HU as 0…1, and the soft outline"}
    beside = _card("measured", training, shown, material.patients)
    for one in (card, beside):
        one["command"] += RENDERED if segmenters and release.rendered else ""
    beside["trained_on"]["schedule"] = asdict(measured_task.GROWING)
    beside["input"] = {"features": f"(N, {len(material.names)}) {', '.join(material.names)}"}
    if release.folds:
        nets = (malignancy_task.train(material, fold, run, training) for fold in range(FOLDS))
        by_fold = [Taught.of(net, material, fold) for fold, net in enumerate(nets)]
        logits, away = out_of_fold(material, by_fold)
        counted = measured_task.cross_validate(material)
        malignancy_figures.fill(card, beside, material, logits, counted, len(cubes))
        scored = malignancy_figures.scored_nodules(material, malignancy_figures.averaged(logits, counted))
        strange = {
            kind: distances_of(make(), by_fold) for kind, make in _untaught(release, stacks, cubes, segmenters).items()
        }
        trust_figures.fill(card, stacks, scored, away, material.source, strange)
    else:
        card, beside = card | _known(card), beside | _known(beside)
    taught = Taught.of(net, material, None)
    measured = MeasuredForest(forest, taught.measured, measured_task.sizes_of(material.names))
    export(measured, torch.from_numpy(material.features[:3].astype(np.float32)), release.out, beside)
    return export(WithFeatures(net, taught.seen), torch.rand(3, 2, 64, 64), release.out, card)


def rated_material(release: Release, segmenters: Sequence[Model]) -> malignancy_task.Planes:
    """What the malignancy network and the forest are trained on: stacks and cubes on the readers' outlines, and, with
    the segmenters of the folds, cubes on the program's own, each by the one that left its patient out."""
    stacks, cubes, run = Stacks(release.data), Cubes(release.data), release.run / "malignancy"
    own: Mapping[int, NDArray[np.bool_]] = {}
    if segmenters:
        run.mkdir(parents=True, exist_ok=True)
        own = own_outlines(cubes, segmenters, lambda: _marks(release, cubes)[0], run)
    return malignancy_task.planes(stacks, cubes, own)


def segmenters_of(release: Release) -> list[Model]:
    """The prompted segmenters of the folds, those of the run or trained now."""
    folders = [_segmenter_run(release.run, release.rendered) / f"fold{fold}" for fold in range(FOLDS)]
    if all((folder / "segmenter.json").exists() for folder in folders):
        return [load_model("segmenter", torch.get_num_threads(), folder) for folder in folders]
    material = outline_material(release.data, rendered=release.rendered)
    return [segmenter_without(fold, material, release.run, release.trainings.segmenter) for fold in range(FOLDS)]


MAKERS: Mapping[str, Callable[[Release], Path]] = {
    "detector": detector,
    "segmenter": segmenter,
    "malignancy": malignancy,
}
"""Name of a training → function that trains and exports its networks."""


def outlined(
    material: Sequence[segmenter_task.Example], models: Sequence[Model], marks: outline_figures.Marks, one_stack_in: int
) -> list[outline_figures.Outlined]:
    """All cubes and rendered nodules and one stack in so many, each segmented by the network of the fold that left it
    out."""
    found = []
    for fold, model in enumerate(models):
        rng = np.random.default_rng(100 + fold)
        for row in np.flatnonzero(is_left_out([e.patient for e in material], fold)).tolist():
            example = material[row]
            if not example.is_stack or row % one_stack_in == 0:
                mark = marks(example.number) if example.is_cube else None
                found.append(outline_figures.evaluate(model, example, rng, mark))
    return found


def _marks(release: Release, cubes: Cubes) -> tuple[outline_figures.Marks, str]:
    """The detector's marks on the nodules of the cubes, and whose they are: out of fold where the run has the
    detector's folds."""
    models, whose = _detectors(release)
    calibrated = models[0][1].card.settings["calibration"]
    searched = search_cubes(cubes, range(len(cubes)), _by_fold(models))
    hits = match(cubes, searched.each(lambda found: found.marks(calibrated))).hits
    return lambda number: hits[number], whose


def _detectors(release: Release) -> tuple[list[tuple[Model, Model]], str]:
    """The detector's networks, screening and scoring, of each fold where the run has them; and whose they are."""
    threads = torch.get_num_threads()
    folders = [release.run / "detector" / f"fold{fold}" for fold in range(FOLDS)]
    by_fold = all((folder / "volume.onnx").exists() for folder in folders)
    whose = "detectors not trained on them" if by_fold else "an earlier detector, trained on these nodules too"
    places = folders if by_fold else FOLDS * [FOLDER]
    return [(load_model("screen", threads, place), load_model("volume", threads, place)) for place in places], whose


def _untaught(
    release: Release, stacks: Stacks, cubes: Cubes, segmenters: Sequence[Model]
) -> Mapping[str, untaught.Maker]:
    """What the malignancy network was not taught on, marked and outlined by the networks that left the patient out."""
    detectors, _ = _detectors(release)

    def marks(patient: str) -> untaught.Search:
        screen, ball = detectors[fold_of(patient)]
        return partial(detect_within, screen=screen, ball=ball)

    def outlines(patient: str) -> Outline:
        return partial(segment, model=segmenters[fold_of(patient)], rounds=DEFAULT.rounds_detected)

    lungs = {patient: Background.volume(release.data, patient) for patient in Background.PATIENTS}
    return untaught.kinds(cubes, stacks, lungs, marks, outlines)


def _known(card: dict[str, Any]) -> dict[str, Any]:
    """Settings of the card that ships, and its figures if material, epochs, learning rate and seed are the same."""
    shipped = shipped_card(card["name"])
    alike = all(shipped.trained_on[key] == card["trained_on"][key] for key in ("material", "schedule"))
    return {"settings": shipped.settings, "figures": shipped.figures if alike else {}}


def _card(name: str, training: DefaultTraining, material: str, patients: Sequence[str]) -> dict[str, Any]:
    """A card without input, settings and figures."""
    trained_on = sorted(set(patients) - EVALUATION_PATIENTS)
    schedule = _schedule(training)
    option = ""
    if training.augment:
        schedule["augment"] = list(training.augment)
        option = f" --augment {','.join(training.augment)}"
    return {
        "name": name,
        "command": f"python -m nodulens.train {TOGETHER.get(name, name)} --data ../shared/data{option}",
        "trained_on": {
            "material": material,
            "schedule": schedule,
            "never": sorted(EVALUATION_PATIENTS),
            "patients": trained_on,
        },
        "settings": {},
        "figures": {},
    }


def _schedule(training: DefaultTraining) -> dict[str, Any]:
    return {name: getattr(training, name) for name in ("epochs", "learning_rate", "seed")}
