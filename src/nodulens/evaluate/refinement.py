"""Method C's second step on the stacks: masks of a first step on central slices, refined by a prompted network.

As published: each component of the first step's mask gives a box, grown by the recipe's factor; a prompted network
segments it again, SAM on a crop around it; and its mask is pasted back. The two masks are compared in pairs, and the
recipe's classifier is evaluated on crops masked by the readers, by the first step, and by both steps. Any networks can
be combined::

    nodules = nodules_of(stacks, config.classes).take(rows)               # of one fold
    first = first_masks(model, config, CloseUps.of(stacks), nodules)      # (N, 96, 96) bool, by a network without them
    second = SecondStep(own(prompted)("box", None), recipe.box_scale)
    steps = compared(stacks, nodules, first, second, (classifier, crop_of(recipe)))
    steps.compared.figures, steps.graded.figures       # Comparison.from_json and ClassifiedMasks.from_json pool folds
    write_pictures(steps, folder)

``own`` and ``close_up`` (SAM) are of :mod:`nodulens.evaluate.central_slices`;
:func:`nodulens.train.default.release.segmenter_without` gives a network of our own that was not trained on a fold. No
network may segment a nodule here that it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.data.material import Stacks
from nodulens.errors import BadValues
from nodulens.evaluate.central_slices import Bool, repeated
from nodulens.io.records import Columns, columns_of, records_of
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.metrics.boxes import IOUS, label_iou
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.segmentation import compare
from nodulens.metrics.statistics import Wilcoxon, bootstrap_means, wilcoxon
from nodulens.ops.components import components
from nodulens.presentation.evaluation import Table
from nodulens.presentation.figures import Basis, save_figure
from nodulens.presentation.panels import Case, best_and_worst, cases_figure, difference_figure
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import classify
from nodulens.stages.crops import Crop
from nodulens.stages.findings import grown
from nodulens.stages.prompted import Outline, outlined
from nodulens.stages.prompts import ROUGH
from nodulens.train.default.segmenter import from_stack
from nodulens.train.tasks import classification, closeups
from nodulens.train.tasks.classification_figures import ClassificationFigures, EvaluatedNodules
from nodulens.train.tasks.closeups import CloseUps
from nodulens.train.tasks.nodule_material import THREE, Nodules, nodules_of
from nodulens.train.tasks.segmentation import field_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("dice", "iou", "sensitivity", "average_recall")
COMMON = ("row", "patient", "truth", "diameter_mm", "readers", "share", "calibration")
"""Columns of classified nodules that do not depend on the mask."""
MASKS = ("readers", "first", "refined")
"""Masks of a nodule: the readers', the first step's alone, and both steps'."""
WORDS = {"first": "first step alone", "refined": "refined", "gain": "gain", "readers": "the readers"}


# ---------------------------------------------------------------- results


@dataclass(frozen=True)
class MaskScores:
    """Scores of a mask on the central slice of a nodule against the readers' mask, 0…1; 0 for an empty mask.

    Attributes:
        average_recall: COCO's. Components of the mask are the detections, the readers' mask is the one object of its
            slice, and recall is averaged over IoU 0.5, 0.55 … 0.95.
    """

    dice: float
    iou: float
    sensitivity: float
    average_recall: float


@dataclass(frozen=True)
class StepFigures:
    """Means of :class:`MaskScores` over nodules.

    Attributes:
        missed: number of nodules with Dice 0; None for the difference of two steps.
    """

    dice: Estimate
    iou: Estimate
    sensitivity: Estimate
    average_recall: Estimate
    missed: int | None

    def to_json(self) -> dict[str, Any]:
        """Without the values that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class PairedTests:
    """Wilcoxon's test of refined minus first: by nodule as published, and by patient, as the nodules of one patient are
    not independent."""

    by_nodule: Wilcoxon
    by_patient: Wilcoxon

    def to_json(self) -> dict[str, Any]:
        """NaN as None; p-values are not rounded."""
        return {name: _defined(values) for name, values in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.by_nodule.p_value:.2g} by nodule, {self.by_patient.p_value:.2g} by patient"


@dataclass(frozen=True)
class ComparisonFigures:
    """The two steps on some nodules.

    Attributes:
        nodules: how many.
        first, refined: of the first step alone, and of both.
        gain: refined minus first, paired.
        dice, iou: tests of the gain.
    """

    nodules: int
    first: StepFigures
    refined: StepFigures
    gain: StepFigures
    dice: PairedTests
    iou: PairedTests

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results."""
        steps = {name: getattr(self, name).to_json() for name in ("first", "refined", "gain")}
        tests = {"dice": self.dice.to_json(), "iou": self.iou.to_json()}
        return {"nodules": self.nodules, **steps, "wilcoxon": tests}


@dataclass(frozen=True)
class Comparison:
    """Scores of each nodule with and without the second step.

    Attributes:
        row: (N,) number of the nodule in the stacks.
        patient: (N,).
        first, refined: (N,) scores of the first step alone, and of both.
    """

    row: tuple[int, ...]
    patient: tuple[str, ...]
    first: tuple[MaskScores, ...]
    refined: tuple[MaskScores, ...]

    @cached_property
    def figures(self) -> ComparisonFigures:
        """Means with intervals by patient, and tests."""
        patients = np.asarray(self.patient)
        first, refined = (
            np.array([astuple(one) for one in step], dtype=np.float64) for step in (self.first, self.refined)
        )
        owner = np.unique(patients, return_inverse=True)[1]
        share = np.bincount(owner)

        def tests(k: int) -> PairedTests:
            by_patient = [np.bincount(owner, values[:, k]) / share for values in (refined, first)]
            return PairedTests(wilcoxon(refined[:, k], first[:, k]), wilcoxon(*by_patient))

        return ComparisonFigures(
            nodules=len(patients),
            first=StepFigures(**_means(first, patients), missed=int((first[:, 0] == 0).sum())),
            refined=StepFigures(**_means(refined, patients), missed=int((refined[:, 0] == 0).sum())),
            gain=StepFigures(**_means(refined - first, patients), missed=None),
            dice=tests(SCORES.index("dice")),
            iou=tests(SCORES.index("iou")),
        )

    def to_json(self) -> dict[str, list[Any]]:
        """As columns, the form of rows in a cell of the table of results."""
        scores = {
            f"{step} {name}": values
            for step, rows in (("first", self.first), ("refined", self.refined))
            for name, values in columns_of(MaskScores, rows).items()
        }
        return {"row": list(self.row), "patient": list(self.patient), **scores}

    @classmethod
    def from_json(cls, columns: Columns) -> Comparison:
        """From the columns of :meth:`to_json`, of one fold or several."""
        first, refined = (
            records_of(MaskScores, {name: columns[f"{step} {name}"] for name in SCORES})
            for step in ("first", "refined")
        )
        return cls(tuple(columns["row"]), tuple(columns["patient"]), first, refined)


@dataclass(frozen=True)
class ClassifiedMasks:
    """A classifier on crops of the same nodules masked in several ways.

    Attributes:
        by_mask: name of a mask → the classified nodules; their rows are numbers in the stacks.
        blank: the same → (N,) whether the mask is empty, so that the crop is blank.
    """

    by_mask: Mapping[str, EvaluatedNodules]
    blank: Mapping[str, Sequence[bool]]

    @cached_property
    def figures(self) -> dict[str, ClassifierFigures]:
        """Mask → figures, in the order of classification."""
        return {
            name: ClassifierFigures(int(np.sum(self.blank[name])), found.figures)
            for name, found in self.by_mask.items()
        }

    def to_json(self) -> dict[str, list[Any]]:
        """As columns, the form of rows in a cell of the table of results; those that depend on no mask come once."""
        out: dict[str, list[Any]] = {}
        for mask, found in self.by_mask.items():
            columns = found.to_json()
            out = out or {name: columns[name] for name in COMMON}
            out |= {f"{mask} {name}": values for name, values in columns.items() if name not in COMMON}
            out[f"{mask} blank"] = list(self.blank[mask])
        return out

    @classmethod
    def from_json(cls, columns: Columns, classes: Sequence[str], masks: Sequence[str] = MASKS) -> ClassifiedMasks:
        """From the columns of :meth:`to_json`, of one fold or several.

        Args:
            classes: of the classifier.
            masks: their names.
        """
        common = {name: columns[name] for name in COMMON}
        own = ("score", *(f"logit_{name}" for name in classes))
        by_mask = {
            mask: EvaluatedNodules.from_json({**common, **{name: columns[f"{mask} {name}"] for name in own}}, classes)
            for mask in masks
        }
        return cls(by_mask, {mask: columns[f"{mask} blank"] for mask in masks})


@dataclass(frozen=True)
class ClassifierFigures:
    """A classifier on crops masked in one way.

    Attributes:
        blank: number of blank crops.
        of: figures of the classifier.
    """

    blank: int
    of: ClassificationFigures

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results."""
        return {"blank": self.blank, **self.of.to_json()}


@dataclass(frozen=True, eq=False)
class Steps:
    """Nodules segmented by the first step and by both, and the comparison of the two.

    Attributes:
        first, refined: (N, 96, 96) on the central slices.
        compared: see :func:`evaluate`.
        graded: see :func:`grade`; None without a classifier whose input is masked.
    """

    stacks: Stacks
    nodules: Nodules
    first: Bool
    refined: Bool
    compared: Comparison
    graded: ClassifiedMasks | None

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate RUN --json`` prints it."""
        graded = None
        if self.graded is not None:
            figures = {mask: one.to_json() for mask, one in self.graded.figures.items()}
            graded = {"figures": figures, "rows": self.graded.to_json()}
        compared = {"figures": self.compared.figures.to_json(), "rows": self.compared.to_json()}
        return {"compared": compared, "graded": graded}

    def tables(self) -> tuple[Table, ...]:
        """Figures with and without the second step, and of the classifier on both masks."""
        return tuple(tables(self.compared.figures, None if self.graded is None else self.graded.figures))


# ---------------------------------------------------------------- both steps


@dataclass(frozen=True)
class SecondStep:
    """A prompted network that refines the masks of a first step.

    Attributes:
        outline: the network. It is prompted by a rough box on the central slice of the stack, whose end slices are
            repeated beyond it; its mask on other slices is ignored.
        box_scale: sides of the box over those of the component.
    """

    outline: Outline
    box_scale: float


def compared(
    stacks: Stacks,
    nodules: Nodules,
    first: Bool,
    second: SecondStep,
    classifier: tuple[Model, Crop] | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Steps:
    """Compare with and without the second step: :func:`refine`, :func:`evaluate` and :func:`grade` on the same nodules.

    Args:
        classifier: exported, trained on other patients, and the crop that is its input.
        progress: called with the share of the nodules that are refined.
    """
    refined = refine(stacks, nodules, first, second, progress)
    graded = None
    if classifier is not None:
        masks = {"readers": nodules.outline, "first": first, "refined": refined}
        graded = grade(classifier[0], stacks, nodules, classifier[1], masks)
    return Steps(stacks, nodules, first, refined, evaluate(nodules, first, refined), graded)


def first_masks(model: Model, config: NetworkConfig, close_ups: CloseUps, nodules: Nodules) -> Bool:
    """(N, 96, 96) masks by a network of whole slices on the central slices of nodules.

    Args:
        model: exported, of ``config``.
        close_ups: of the stacks of the nodules.
    """
    places = np.searchsorted(close_ups.origin, nodules.origin)
    return closeups.nodule_probabilities(model, field_of(config), close_ups, places) >= 0.5


def refine(
    stacks: Stacks,
    nodules: Nodules,
    first: Bool,
    second: SecondStep,
    progress: Callable[[float], None] = lambda done: None,
) -> Bool:
    """Segment each component of the first step's masks again from its box; if that finds nothing, it is kept.

    Args:
        stacks: of the nodules.
        nodules: N of them.
        first: (N, 96, 96) on their central slices.
        progress: called with the share of the nodules that are done.

    Returns:
        (N, 96, 96).

    Raises:
        BadValues: masks of another shape.
    """
    _check(nodules, first)
    out = np.zeros_like(first)
    for k, (number, central) in enumerate(zip(nodules.origin.tolist(), nodules.central.tolist(), strict=True)):
        progress(k / len(first))
        if not first[k].any():
            continue
        example = from_stack(stacks, number)
        volume = repeated(example)
        z = example.real[0] + central
        parts = components(first[k], 8)
        for part, (rows, columns) in enumerate(parts.slices, 1):
            box = Box((z, rows.start, columns.start), (z + 1, rows.stop, columns.stop))
            found = outlined(second.outline, volume, grown(box, second.box_scale, ROUGH).on_slice(z))[z]
            out[k] |= found if found.any() else parts.part(part)
    return out


# ---------------------------------------------------------------- with and without


def evaluate(nodules: Nodules, first: Bool, refined: Bool) -> Comparison:
    """Compare both masks of each nodule with the readers' mask; an empty mask counts 0.

    Args:
        nodules: N of them, none without an outline.
        first, refined: (N, 96, 96).
    """
    for masks in (first, refined):
        _check(nodules, masks)
    scores = (
        tuple(_scores(*one) for one in zip(nodules.outline, masks, nodules.pixel_mm.tolist(), strict=True))
        for masks in (first, refined)
    )
    return Comparison(tuple(nodules.origin.tolist()), tuple(nodules.patients), *scores)


def _scores(truth: Bool, mask: Bool, pixel_mm: float) -> MaskScores:
    case = compare(truth, mask, (pixel_mm, pixel_mm))
    best = label_iou(components(mask, 8).labels, truth.astype(np.uint32)).max(initial=0.0)
    recall = float(np.mean(best >= np.asarray(IOUS)))
    return MaskScores(case.dice, case.iou, case.sensitivity, recall)


# ---------------------------------------------------------------- the classifier on both masks


def grade(model: Model, stacks: Stacks, nodules: Nodules, crop: Crop, masks: Mapping[str, Bool]) -> ClassifiedMasks:
    """The recipe's classifier on crops of the same nodules masked in several ways.

    Args:
        model: exported, trained on other patients.
        stacks: of the nodules.
        nodules: N of them.
        crop: see :func:`nodulens.train.tasks.classification.crop_of`.
        masks: name → (N, 96, 96); an empty one gives a blank crop.
    """
    every = np.arange(len(nodules.truth))
    by_mask = {}
    for name, outlines in masks.items():
        _check(nodules, outlines)
        crops = classification.crops(stacks, nodules, crop, outlines)
        found = classification.evaluated(nodules, every, classify(crops.image.astype(np.float32), model))
        rows = zip(found.rows, nodules.origin.tolist(), strict=True)
        by_mask[name] = EvaluatedNodules(tuple(replace(row, row=number) for row, number in rows))
    return ClassifiedMasks(by_mask, {name: [not mask.any() for mask in some] for name, some in masks.items()})


# ---------------------------------------------------------------- of a run


def of_run(
    recipe: Recipe,
    networks: Mapping[str, Model],
    stacks: Stacks,
    test: Collection[str],
    outline: Outline,
    progress: Callable[[float], None] = lambda done: None,
) -> Steps | None:
    """:func:`compared` for a run, on the nodules of some patients.

    Args:
        recipe: with a segmenter; a classifier of its own whose input is the nodule alone is evaluated on both masks.
        networks: the run's own, by their field of the recipe.
        test: patients that neither these nor ``outline`` were trained on.
        outline: the prompted network, see :class:`SecondStep`.

    Returns:
        None: these patients have no nodule with a class.
    """
    assert recipe.segmenter is not None
    classifier = recipe.classifier if recipe.masked else None
    nodules = nodules_of(stacks, classifier.classes if classifier else tuple(sorted(THREE)))
    nodules = nodules.take(np.flatnonzero([patient in test for patient in nodules.patients]))
    if not len(nodules.truth):
        return None
    first = first_masks(networks["segmenter"], recipe.segmenter, CloseUps.of(stacks), nodules)
    graded_by = (networks["classifier"], classification.crop_of(recipe)) if classifier else None
    return compared(stacks, nodules, first, SecondStep(outline, recipe.box_scale), graded_by, progress)


def tables(compared: ComparisonFigures, graded: Mapping[str, ClassifierFigures] | None) -> list[Table]:
    """The figures as tables."""
    steps = {"first": compared.first, "refined": compared.refined, "gain": compared.gain}
    rows = [(WORDS[name], *(str(getattr(one, score)) for score in SCORES), one.missed) for name, one in steps.items()]
    note = f"{compared.nodules} nodules, central slices. Wilcoxon signed-rank, Dice: p = {compared.dice}."
    head = ("", "Dice (95 %)", "IoU", "sensitivity", "average recall", "missed")
    out = [Table("With and without the second step", head, tuple(rows), note)]
    if graded is not None:
        lines = []
        for mask, found in graded.items():
            some = found.of.three_readers_or_more
            ranking = some.beside_diameter.ranking
            rates = some.decisions and some.decisions.rates
            means = (rates.macro_auc, rates.accuracy, rates.macro_f1) if rates else (None, None, None)
            cells = (None if mean is None else mean.value for mean in means)
            lines.append((WORDS[mask], found.blank, ranking.auc if ranking else None, *cells))
        head = ("crops masked by", "blank", "AUC, malignant or benign", "AUC, mean of classes", "accuracy", "F1, mean")
        out.append(Table("The classifier by mask", head, tuple(lines), "Three readers or more."))
    return out


# ---------------------------------------------------------------- pictures


def write_pictures(steps: Steps, folder: Path, count: int = 3) -> tuple[Path, ...]:
    """:func:`pictures` as PNG.

    Args:
        folder: created if it does not exist.
        count: of the best, and of the worst.

    Returns:
        ``cases.png``, ``best-1.png`` …, ``worst-1.png`` …
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = pictures(steps, count)
    return tuple(save_figure(figure, folder / f"{name}.png") for name, figure in figures.items())


def pictures(steps: Steps, count: int = 3) -> dict[str, Figure]:
    """The best and the worst cases of both steps, and for each of them which mask covers which pixels.

    Truth alone is red, the first step alone green, the refined mask alone yellow.

    Args:
        count: of the best, and of the worst.

    Returns:
        ``cases``, ``best-1`` …, ``worst-1`` …

    Raises:
        BadValues: no nodule.
        MissingExtra: Matplotlib is not installed.
    """
    stacks, nodules, first, refined = steps.stacks, steps.nodules, steps.first, steps.refined
    cases: dict[str, tuple[int, Case]] = {}
    for k, (number, central) in enumerate(zip(nodules.origin.tolist(), nodules.central.tolist(), strict=True)):
        pixel = float(nodules.pixel_mm[k])
        score = partial(_scores, nodules.outline[k], pixel_mm=pixel)
        name = f"{nodules.patient[k]}, nodule {number}"
        hu = stacks.hu(number)[central]
        case = Case(name, hu, nodules.outline[k], refined[k], score(refined[k]).dice, (pixel, pixel))
        cases[name] = k, case
    best, worst = best_and_worst([case for _, case in cases.values()], count)
    basis = Basis(len(cases), patients=len(set(nodules.patients)), note="central slices; result: the refined mask")
    out = {"cases": cases_figure([case for _, case in cases.values()], basis, count=count)}
    for rank, some in (("best", best), ("worst", worst)):
        for place, case in enumerate(some, 1):
            k = cases[case.name][0]
            before = compare(case.truth, first[k], case.pixel_mm).dice
            both = Case(f"{case.name}: first step {before:.3f}, refined", case.hu, case.truth, first[k], case.dice,
                        case.pixel_mm)  # fmt: skip
            out[f"{rank}-{place}"] = difference_figure(both, ("first step", "refined"), refined[k])
    return out


# ---------------------------------------------------------------- parts


def _check(nodules: Nodules, masks: NDArray[Any]) -> None:
    if masks.dtype != np.bool_ or masks.shape != nodules.outline.shape:
        raise BadValues(f"{len(nodules.truth)} nodules need bool masks {nodules.outline.shape}, one a central slice; "
                        f"got {masks.dtype} {masks.shape}.")  # fmt: skip


def _means(values: NDArray[np.float64], patients: NDArray[np.str_]) -> dict[str, Estimate]:
    """Mean of each column of scores."""
    means = bootstrap_means(values, patients)
    return {name: Estimate.of(one, patients.tolist()) for name, one in zip(SCORES, means, strict=True)}


def _defined(values: Mapping[str, float]) -> dict[str, Any]:
    """For JSON, which has no NaN; p-values are not rounded."""
    return {k: None if np.isnan(v) else v if k == "p_value" else round(v, 4) for k, v in values.items()}
