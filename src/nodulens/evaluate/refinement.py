"""Method C's second step on the stacks: what a first stage outlined on a nodule's central slice, outlined again.

As the method has it: the contours of the first stage's mask give boxes, grown by the recipe's factor; a prompted
network outlines what each box points at, SAM on a crop round it; and what it draws is pasted back. Then the two masks
are compared, paired, and the recipe's classifier is judged on crops masked by the readers, by the first stage, and by
the whole method. Any network fits either slot::

    nodules = classification.nodules_of(stacks, config.classes).take(rows)       # of one fold
    first = first_masks(model, config, CloseUps.of(stacks), nodules)      # (N, 96, 96) bool, by who has not seen them
    steps = compared(stacks, nodules, first, own(prompted)("box", None), recipe.grow, (classifier, crop_of(recipe)))
    steps.compared.figures, steps.graded.figures                           # figures() and grades() pool rows of folds
    write_pictures(steps, folder)

``own`` and ``close_up`` (SAM) are of :mod:`nodulens.evaluate.central_slices`;
:func:`nodulens.train.default.release.segmenter_without` gives a network of our own that has not seen a
fold. What has seen a nodule may not outline it here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.data.material import Stacks
from nodulens.errors import BadValues
from nodulens.evaluate.central_slices import Bool, outlined, repeated
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.metrics.boxes import IOUS, label_iou
from nodulens.metrics.segmentation import compare
from nodulens.metrics.statistics import bootstrap_means, wilcoxon
from nodulens.ops.components import components
from nodulens.presentation.evaluation import Table
from nodulens.presentation.figures import Basis, save_figure
from nodulens.presentation.panels import Case, best_and_worst, cases_figure, difference_figure
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import Crop, classify
from nodulens.stages.findings import grown
from nodulens.stages.prompted import Outline
from nodulens.stages.prompts import ROUGH
from nodulens.train.default.segmenter import from_stack
from nodulens.train.tasks import classification, closeups
from nodulens.train.tasks.classification import Nodules
from nodulens.train.tasks.closeups import CloseUps
from nodulens.train.tasks.protocol import Outcome, with_interval
from nodulens.train.tasks.segmentation import field_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("first", "refined")
SCORES = ("dice", "iou", "sensitivity", "average_recall")
COMMON = ("row", "patient", "truth", "diameter_mm", "readers", "share", "calibration")
"""Columns of graded nodules that do not hang on the mask."""


@dataclass(frozen=True, eq=False)
class Steps:
    """Nodules outlined by the first step and by both, and how the two compare.

    Attributes:
        first, refined: (N, 96, 96) on the central slices.
        compared: see :func:`judge`.
        graded: see :func:`grade`; None without a classifier that sees the outline.
    """

    stacks: Stacks
    nodules: Nodules
    first: Bool
    refined: Bool
    compared: Outcome
    graded: Outcome | None


def compared(
    stacks: Stacks,
    nodules: Nodules,
    first: Bool,
    outline: Outline,
    box_scale: float,
    classifier: tuple[Model, Crop] | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> Steps:
    """With and without the second step: :func:`refine`, :func:`judge` and :func:`grade` on the same nodules.

    Args:
        classifier: exported, of other patients, and how it sees a nodule.
        progress: told the share of the nodules that are outlined again.
    """
    refined = refine(stacks, nodules, first, outline, box_scale, progress)
    graded = None
    if classifier is not None:
        masks = {"readers": nodules.outline, "first": first, "refined": refined}
        graded = grade(classifier[0], stacks, nodules, classifier[1], masks)
    return Steps(stacks, nodules, first, refined, evaluate(nodules, first, refined), graded)


def first_masks(model: Model, config: NetworkConfig, near: CloseUps, nodules: Nodules) -> Bool:
    """(N, 96, 96) what a network of whole slices draws on the central slices of nodules.

    Args:
        model: exported, of ``config``.
        near: of the stacks that the nodules are of.
    """
    places = np.searchsorted(near.origin, nodules.origin)
    return closeups.outlined(model, field_of(config), near, places) >= 0.5


def refine(
    stacks: Stacks,
    nodules: Nodules,
    first: Bool,
    outline: Outline,
    box_scale: float,
    progress: Callable[[float], None] = lambda done: None,
) -> Bool:
    """Every piece of a first stage's masks, outlined again from its box; where nothing is found, the piece stands.

    Args:
        stacks: the nodules' own.
        nodules: N of them.
        first: (N, 96, 96) on their central slices.
        outline: the prompted network. It is told a rough box on the central slice, in the stack, whose
            end slices go on beyond it; what it draws on other slices does not count.
        box_scale: sides of the box over those of the piece.
        progress: told the share of the nodules that are done.

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
        pieces = components(first[k], 8)
        for part, (rows, columns) in enumerate(pieces.slices, 1):
            box = Box((z, rows.start, columns.start), (z + 1, rows.stop, columns.stop))
            found = outlined(outline, volume, grown(box, box_scale, ROUGH).on_slice(z))[z]
            out[k] |= found if found.any() else pieces.part(part)
    return out


# ---------------------------------------------------------------- with and without


def evaluate(nodules: Nodules, first: Bool, refined: Bool) -> Outcome:
    """The two masks against the readers', nodule by nodule; a nodule that nothing is drawn for counts 0.

    Args:
        nodules: N of them, none without an outline.
        first, refined: (N, 96, 96).
    """
    for masks in (first, refined):
        _check(nodules, masks)
    columns: dict[str, list[Any]] = {"row": nodules.origin.tolist(), "patient": list(nodules.patients)}
    for stage, masks in zip(STAGES, (first, refined), strict=True):
        told = [_scores(*pair) for pair in zip(nodules.outline, masks, nodules.pixel_mm.tolist(), strict=True)]
        columns |= {f"{stage} {name}": [one[name] for one in told] for name in SCORES}
    return Outcome(figures(columns), columns)


def figures(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Of judged rows, of one fold or several.

    Average recall is COCO's: pieces of a mask are the detections, the readers' outline of the nodule is the one truth
    of its slice, and recall is averaged over IoU 0.5, 0.55 … 0.95. Wilcoxon's test takes refined less first, by nodule
    as the publication does, and by patient, whose nodules are not independent.

    Returns:
        "nodules"; for "first" and "refined" the figures with intervals by patient, and "missed", nodules that are not
        touched; "gain": refined less first, paired; "wilcoxon": Dice and IoU.
    """
    patients = np.asarray(rows["patient"])
    table = {stage: np.array([rows[f"{stage} {name}"] for name in SCORES], dtype=np.float64).T for stage in STAGES}
    out: dict[str, Any] = {"nodules": len(patients)}
    for stage, values in table.items():
        out[stage] = {**_means(values, patients), "missed": int((values[:, 0] == 0).sum())}
    out["gain"] = _means(table["refined"] - table["first"], patients)
    owner = np.unique(patients, return_inverse=True)[1]
    share = np.bincount(owner)
    out["wilcoxon"] = {}
    for k, name in enumerate(SCORES[:2]):
        refined, first = (table[stage][:, k] for stage in ("refined", "first"))
        by_patient = [np.bincount(owner, values) / share for values in (refined, first)]
        out["wilcoxon"][name] = {
            "by_nodule": _defined(asdict(wilcoxon(refined, first))),
            "by_patient": _defined(asdict(wilcoxon(*by_patient))),
        }
    return out


def _scores(truth: Bool, mask: Bool, pixel_mm: float) -> dict[str, float]:
    case = compare(truth, mask, (pixel_mm, pixel_mm))
    best = label_iou(components(mask, 8).labels, truth.astype(np.uint32)).max(initial=0.0)
    recall = float(np.mean(best >= np.asarray(IOUS)))
    return {"dice": case.dice, "iou": case.iou, "sensitivity": case.sensitivity, "average_recall": recall}


# ---------------------------------------------------------------- what a classifier makes of it


def grade(model: Model, stacks: Stacks, nodules: Nodules, crop: Crop, masks: Mapping[str, Bool]) -> Outcome:
    """The recipe's classifier on crops of the same nodules masked in several ways.

    Args:
        model: exported, of another fold's patients.
        stacks: the nodules' own.
        nodules: N of them.
        crop: see :func:`nodulens.train.tasks.classification.crop_of`.
        masks: name → (N, 96, 96); where one is empty nothing was found, and the crop is blank.

    Returns:
        A row a nodule; figures by mask, see :func:`grades`.
    """
    every = np.arange(len(nodules.truth))
    table: dict[str, list[Any]] = {}
    for name, drawn in masks.items():
        _check(nodules, drawn)
        seen = classification.crops(stacks, nodules, crop, drawn)
        judged = classification.outcome(nodules, every, classify(seen.image.astype(np.float32), model)).rows
        table |= {column: judged.pop(column) for column in COMMON}
        table |= {f"{name} {column}": values for column, values in judged.items()}
        table[f"{name} blank"] = [not mask.any() for mask in drawn]
    table["row"] = nodules.origin.tolist()
    return Outcome(grades(table), table)


def grades(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Of graded rows, of one fold or several: by mask, in the order in which they were graded.

    Returns:
        mask → "blank", how many crops were, and the figures of :func:`nodulens.train.tasks.classification.figures`.
    """
    masks = [column.removesuffix(" blank") for column in rows if column.endswith(" blank")]
    out = {}
    for name in masks:
        own = {c.removeprefix(f"{name} "): v for c, v in rows.items() if c.startswith(f"{name} ")}
        blank = own.pop("blank")
        table = {**{column: rows[column] for column in COMMON}, **own}
        out[name] = {"blank": int(np.sum(blank)), **classification.figures(table)}
    return out


# ---------------------------------------------------------------- of a run


def of_run(
    recipe: Recipe,
    networks: Mapping[str, Model],
    stacks: Stacks,
    judges: Collection[str],
    outline: Outline,
    progress: Callable[[float], None] = lambda done: None,
) -> Steps | None:
    """With and without the second step of a run: :func:`compared` on the nodules of some patients.

    Args:
        recipe: with a segmenter; a classifier of its own that is shown the nodule alone is judged on both masks.
        networks: the run's own, by their part.
        judges: patients whom neither these nor ``outline`` have seen.
        outline: see :func:`refine`.

    Returns:
        None: these patients have no nodule with a class.
    """
    assert recipe.segmenter is not None
    classifier = recipe.classifier if recipe.masked else None
    nodules = classification.nodules_of(
        stacks, classifier.classes if classifier else tuple(sorted(classification.THREE))
    )
    nodules = nodules.take(np.flatnonzero([patient in judges for patient in nodules.patients]))
    if not len(nodules.truth):
        return None
    first = first_masks(networks["segmenter"], recipe.segmenter, CloseUps.of(stacks), nodules)
    graded_by = (networks["classifier"], classification.crop_of(recipe)) if classifier else None
    return compared(stacks, nodules, first, outline, recipe.box_scale, graded_by, progress)


def tables(compared: Mapping[str, Any], graded: Mapping[str, Any] | None) -> list[Table]:
    """Of :func:`figures` and :func:`grades`, for people."""
    words = {"first": "first step alone", "refined": "outlined again", "gain": "gain", "readers": "the readers"}
    rows = []
    for stage in (*STAGES, "gain"):
        held = compared[stage]
        rows.append((words[stage], *(_cell(held[name]) for name in SCORES), held.get("missed")))
    at = compared["wilcoxon"]["dice"]
    p = ", ".join(f"{at[f'by_{who}']['p_value']:.2g} by {who}" for who in ("nodule", "patient"))
    note = f"{compared['nodules']} nodules, central slices. Wilcoxon signed-rank, Dice: p = {p}."
    head = ("", "Dice (95 %)", "IoU", "sensitivity", "average recall", "missed")
    out = [Table("With and without the second step", head, tuple(rows), note)]
    if graded is not None:
        lines = []
        for mask, held in graded.items():
            some = held["three_readers_or_more"]
            cells = (some.get(name) for name in ("auc", "macro_auc", "accuracy", "macro_f1"))
            lines.append((words[mask], held["blank"], *cells))
        head = ("crops masked by", "blank", "AUC, malignant or benign", "AUC, mean of classes", "accuracy", "F1, mean")
        out.append(Table("The classifier on what was outlined", head, tuple(lines), "Three readers or more."))
    return out


def _cell(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure[end] for end in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


# ---------------------------------------------------------------- pictures


def write_pictures(steps: Steps, folder: Path, count: int = 3) -> tuple[Path, ...]:
    """:func:`pictures` as PNG.

    Args:
        folder: made where it is not there.
        count: of the best, and of the worst.

    Returns:
        ``cases.png``, ``best-1.png`` …, ``worst-1.png`` …
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures(steps, count)
    return tuple(save_figure(figure, folder / f"{name}.png") for name, figure in drawn.items())


def pictures(steps: Steps, count: int = 3) -> dict[str, Figure]:
    """The best and the worst cases of the whole method, and for each of them who covers which pixels.

    Truth alone is red, the first stage alone green, the refined mask alone yellow.

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
        case = Case(name, hu, nodules.outline[k], refined[k], score(refined[k])["dice"], (pixel, pixel))
        cases[name] = k, case
    best, worst = best_and_worst([case for _, case in cases.values()], count)
    basis = Basis(len(cases), patients=len(set(nodules.patients)), note="central slices; result: the refined mask")
    out = {"cases": cases_figure([case for _, case in cases.values()], basis, count=count)}
    for rank, some in (("best", best), ("worst", worst)):
        for place, case in enumerate(some, 1):
            k = cases[case.name][0]
            before = compare(case.truth, first[k], case.pixel_mm).dice
            told = Case(f"{case.name}: first stage {before:.3f}, refined", case.hu, case.truth, first[k], case.dice,
                        case.pixel_mm)  # fmt: skip
            out[f"{rank}-{place}"] = difference_figure(told, ("first stage", "refined"), refined[k])
    return out


# ---------------------------------------------------------------- parts


def _check(nodules: Nodules, masks: NDArray[Any]) -> None:
    if masks.dtype != np.bool_ or masks.shape != nodules.outline.shape:
        raise BadValues(f"{len(nodules.truth)} nodules need bool masks {nodules.outline.shape}, one a central slice; "
                        f"got {masks.dtype} {masks.shape}.")  # fmt: skip


def _means(values: NDArray[np.float64], patients: NDArray[np.str_]) -> dict[str, Any]:
    owners = patients.tolist()
    return {
        name: with_interval(one, owners) for name, one in zip(SCORES, bootstrap_means(values, patients), strict=True)
    }


def _defined(values: Mapping[str, float]) -> dict[str, Any]:
    """For JSON, which has no NaN; p-values keep their size."""
    return {k: None if np.isnan(v) else v if k == "p_value" else round(v, 4) for k, v in values.items()}
