"""Refinement on central slices: boxes of pieces, what comes back, the paired comparison, and graded crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import made_models
import made_sam
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.material import Stacks
from nodulens.errors import BadPrompt, BadValues
from nodulens.evaluate import refinement
from nodulens.evaluate.central_slices import close_up, own
from nodulens.evaluate.refinement import ClassifiedMasks, Comparison, SecondStep
from nodulens.methods.catalogue import NNUNET_SAM
from nodulens.methods.recipe import changed
from nodulens.metrics.boxes import Image, mask_iou, match
from nodulens.metrics.segmentation import compare
from nodulens.ops.components import components
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.prompts import ROUGH, Prompt
from nodulens.stages.sam import Sam, load_sam
from nodulens.train.default.outline_figures import inscribed
from nodulens.train.tasks import classification
from nodulens.train.tasks.classification import crop_of
from nodulens.train.tasks.nodule_material import Nodules, nodules_of

pytestmark = pytest.mark.training

Bool = NDArray[np.bool_]
FIELD = (96, 96)
CLASSES = ("indeterminate", "benign", "malignant")


@pytest.fixture(scope="module")
def stacks(data: Path) -> Stacks:
    return Stacks(data)


@pytest.fixture(scope="module")
def nodules(stacks: Stacks) -> Nodules:
    """Some balls, their central slices discs round pixel (48, 48)."""
    return nodules_of(stacks, CLASSES).take(np.arange(12))


def drawn(*corners: tuple[int, int, int, int]) -> Bool:
    out = np.zeros(FIELD, dtype=bool)
    for top, left, bottom, right in corners:
        out[top:bottom, left:right] = True
    return out


def squares(nodules: Nodules) -> Bool:
    """The tight boxes of the outlines, filled."""
    out = np.zeros_like(nodules.outline)
    for k, mask in enumerate(nodules.outline):
        box = Box.of_mask(mask[None])
        out[k][box.slices[1:]] = True
    return out


# ---------------------------------------------------------------- boxes and what comes back


def test_every_piece_is_prompted_by_its_grown_box_on_its_slice(stacks: Stacks, nodules: Nodules) -> None:
    first = np.zeros_like(nodules.outline)
    first[0] = drawn((40, 40, 50, 60), (70, 10, 74, 20))
    first[0][50, 60] = True  # touches by a corner: the same piece
    asked: list[tuple[Volume, Prompt]] = []

    def noting(volume: Volume, prompt: Prompt) -> tuple[Box, Bool]:
        asked.append((volume, prompt))
        return inscribed(volume, prompt)

    again = refinement.refine(stacks, nodules, first, SecondStep(noting, 1.2))
    assert len(asked) == 2, "nothing is asked where nothing was drawn"
    (volume, one), (_, other) = asked
    assert np.allclose(one.start[1:], (45.5 - 1.1 * 6, 50.5 - 2.1 * 6)) and np.allclose(one.stop[1:], (52.1, 63.1))
    assert np.allclose(other.start[1:], (69.6, 9)) and np.allclose(other.stop[1:], (74.4, 21))
    assert one.trust == ROUGH and one.stop[0] - one.start[0] == 1
    shown = stacks.hu(int(nodules.origin[0]))[nodules.central[0]]
    assert np.allclose(volume.hu[int(one.start[0])], shown, atol=0.01), "it is the central slice that is pointed at"
    parts = [inscribed(volume, prompt) for prompt in (one, other)]
    expected = np.zeros(FIELD, dtype=bool)
    for box, mask in parts:
        expected[box.slices[1:]] |= mask[0]
    assert np.array_equal(again[0], expected) and not again[1:].any()


def test_the_ellipse_in_the_box_of_a_disc_is_the_disc(stacks: Stacks, nodules: Nodules) -> None:
    again = refinement.refine(stacks, nodules, squares(nodules), SecondStep(inscribed, 1.0))
    told = refinement.evaluate(nodules, squares(nodules), again).figures
    assert told.refined.dice.value > 0.97 > 0.9 > told.first.dice.value
    assert told.first.sensitivity.value == 1
    assert told.gain.dice.low > 0.05 and told.dice.by_nodule.p_value < 0.001


def test_where_nothing_is_found_the_piece_stands(stacks: Stacks, nodules: Nodules) -> None:
    first = squares(nodules)
    first[0] |= drawn((2, 2, 6, 6))

    def shy(volume: Volume, prompt: Prompt) -> tuple[Box, Bool]:
        """Knows nothing outside the middle of the field."""
        if prompt.start[1] < 10:
            raise BadPrompt("nothing")
        return inscribed(volume, prompt)

    again = refinement.refine(stacks, nodules, first, SecondStep(shy, 1.0))
    assert np.array_equal(again[0][:10], first[0][:10]), "that piece stands"
    assert again[0].sum() < first[0].sum(), "the other is drawn anew"


def test_our_own_network_mends_what_is_too_small(stacks: Stacks, nodules: Nodules) -> None:
    some = nodules.take(np.arange(4))
    first = np.stack([_inner(mask) for mask in some.outline])
    again = refinement.refine(stacks, some, first, SecondStep(own(load_model("segmenter", 1))("box", None), 1.4))
    told = refinement.evaluate(some, first, again).figures
    assert told.refined.dice.value > told.first.dice.value + 0.05


def _inner(mask: Bool) -> Bool:
    """Less two pixels all round."""
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(mask, iterations=2)) if mask.sum() > 60 else mask


def test_sam_sees_a_crop_and_draws_its_box(stacks: Stacks, nodules: Nodules) -> None:
    some = nodules.take(np.arange(3))
    again = refinement.refine(
        stacks, some, squares(some), SecondStep(close_up(Sam(made_sam.Drawn(square=True)))("box", None), 1.0)
    )
    assert refinement.evaluate(some, squares(some), again).figures.refined.sensitivity.value > 0.97
    for found, square in zip(again, squares(some), strict=True):
        assert abs(int(found.sum()) - int(square.sum())) < 0.15 * square.sum()


def test_random_sam_from_files_fits_the_slot(stacks: Stacks, nodules: Nodules, sams: Path) -> None:
    sam = load_sam(sams / "sam", "sam")
    some = nodules.take(np.arange(2))
    again = refinement.refine(stacks, some, squares(some), SecondStep(close_up(sam)("box", None), 1.2))
    assert again.shape == (2, *FIELD) and again.any(axis=(1, 2)).all()


# ---------------------------------------------------------------- with and without, by hand


def made(outline: Bool, patients: list[str]) -> Nodules:
    """Nodules that are nothing but their outlines."""
    n = len(patients)
    zeros, ones = np.zeros(n, dtype=int), np.ones(n, dtype=np.float32)
    readers = np.full(n, 3, np.uint8)
    return Nodules(
        CLASSES, zeros, np.array(patients), np.arange(n), zeros, outline, ones, ones, readers, ones, readers
    )  # fmt: skip


TRUTH = drawn((20, 20, 40, 60))
"""40 columns of 20 pixels: the first c of them have IoU c / 40 and Dice 2c / (40 + c)."""


def columns(*counts: int) -> Bool:
    return np.stack([drawn((20, 20, 40, 20 + c)) for c in counts])


def test_the_comparison_is_that_worked_by_hand() -> None:
    """Of six pairs the one with the smallest difference falls: W = 1, and of the 2⁶ signs 2 give so little or less."""
    first, refined = columns(21, 19, 25, 10, 31, 30), columns(31, 33, 27, 34, 30, 40)
    nodules = made(np.stack([TRUTH] * 6), ["A", "B", "C", "D", "E", "F"])
    told = refinement.evaluate(nodules, first, refined).figures
    iou = np.array([[21, 19, 25, 10, 31, 30], [31, 33, 27, 34, 30, 40]]) / 40
    for step, stage in zip((told.first, told.refined), iou, strict=True):
        assert step.iou.value == round(float(stage.mean()), 4)
        assert step.dice.value == round(float((2 * stage / (1 + stage)).mean()), 4)
        assert step.sensitivity.value == round(float(stage.mean()), 4)
        assert step.missed == 0
    # IoU .525 passes one threshold of ten, .475 and .25 none, .625 three, .775 and .75 six, …
    assert told.first.average_recall.value == round((1 + 0 + 3 + 0 + 6 + 6) / 60, 4)
    assert told.refined.average_recall.value == round((6 + 7 + 4 + 8 + 6 + 10) / 60, 4)
    for tests in (told.dice, told.iou):
        found = tests.by_nodule
        assert (found.statistic, found.p_value, found.pairs) == (1, 4 / 64, 6)
        assert found.rank_biserial == pytest.approx((20 - 1) / 21)
        assert tests.by_patient == found
    assert told.to_json()["wilcoxon"]["dice"]["by_nodule"]["rank_biserial"] == round((20 - 1) / 21, 4)
    assert told.gain.iou.value == round(float((iou[1] - iou[0]).mean()), 4)


def test_a_patient_counts_once_in_the_second_test() -> None:
    nodules = made(np.stack([TRUTH] * 4), ["A", "A", "B", "C"])
    told = refinement.evaluate(nodules, columns(20, 30, 20, 20), columns(30, 20, 24, 28)).figures.iou
    assert told.by_nodule.pairs == 4 and told.by_patient.pairs == 3
    assert told.by_patient.zeros == 1, "the gain of one nodule of A is the loss of the other"


def test_what_is_missed_counts_nothing_and_pieces_are_detections() -> None:
    nodules = made(np.stack([TRUTH] * 3), ["A", "B", "C"])
    nothing, elsewhere = drawn(), drawn((70, 70, 80, 80))
    torn = drawn((20, 20, 40, 45), (20, 50, 40, 60))  # 25 and 10 columns: IoU .625 and .25
    told = refinement.evaluate(nodules, np.stack([nothing, elsewhere, torn]), columns(40, 40, 40))
    assert [one.dice for one in told.first] == [0, 0, 2 * 35 / 75] and told.figures.first.missed == 2
    assert [one.average_recall for one in told.first] == [0, 0, 0.3]
    assert told.figures.refined.average_recall.value == 1


def test_average_recall_is_that_of_coco(nodules: Nodules) -> None:
    rng = np.random.default_rng(1)
    shifted = np.stack([np.roll(m, rng.integers(-2, 3, 2), (0, 1)) for m in nodules.outline])
    shifted |= rng.random(shifted.shape) < 0.001
    told = refinement.evaluate(nodules, shifted, shifted).figures.first.average_recall.value
    images = []
    for mask, truth in zip(shifted, nodules.outline, strict=True):
        parts = components(mask, 8)
        pieces = np.stack([parts.part(k + 1) for k in range(len(parts))])
        images.append(Image(parts.sizes.astype(float), mask_iou(pieces, truth[None])))
    assert told == round(float(match(images).recall.mean()), 4)


def test_rows_of_folds_pool(nodules: Nodules) -> None:
    first, refined = squares(nodules), np.roll(nodules.outline, 1, axis=1)
    whole = refinement.evaluate(nodules, first, refined)
    parts = [
        refinement.evaluate(nodules.take(rows), first[rows], refined[rows]).to_json()
        for rows in np.split(np.arange(len(first)), [5])
    ]
    pooled = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    assert pooled == whole.to_json() and Comparison.from_json(pooled).figures == whole.figures
    case = compare(nodules.outline[3], first[3], (0.7, 0.7))
    assert whole.first[3].dice == case.dice


def test_masks_of_another_shape_are_refused(stacks: Stacks, nodules: Nodules) -> None:
    for wrong in (squares(nodules)[1:], squares(nodules).astype(float)):
        with pytest.raises(BadValues, match="one a central slice"):
            refinement.refine(stacks, nodules, wrong, SecondStep(inscribed, 1.2))
        with pytest.raises(BadValues, match="one a central slice"):
            refinement.evaluate(nodules, squares(nodules), wrong)


# ---------------------------------------------------------------- graded


def by_area() -> Model:
    """Calls large crops malignant, small ones benign, blank ones indeterminate."""

    def run(views: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        area = (views > 0.2).sum(axis=(1, 2, 3)).astype(np.float32)
        return (np.stack([np.where(area > 0, -9, 9), 150 - area, area - 150], axis=1).astype(np.float32),)

    return made_models.model(run)


def test_crops_masked_three_ways_are_graded(stacks: Stacks) -> None:
    recipe = NNUNET_SAM
    nodules = nodules_of(stacks, CLASSES)
    nothing = squares(nodules)
    nothing[:7] = False
    masks = {"readers": nodules.outline, "first": squares(nodules), "refined": nothing}
    found = refinement.grade(by_area(), stacks, nodules, crop_of(recipe), masks)
    assert list(found.figures) == list(masks)
    assert [found.figures[name].blank for name in masks] == [0, 0, 7]

    material = classification.crops(stacks, nodules, crop_of(recipe))
    assert recipe.classifier is not None
    every = np.arange(len(nodules.truth))
    alone = classification.evaluate(by_area(), recipe.classifier, material, every)
    own = found.by_mask["readers"]
    assert [(row.score, row.truth) for row in own.rows] == [(row.score, row.truth) for row in alone.rows]
    assert [row.row for row in own.rows] == nodules.origin.tolist()
    assert found.figures["readers"].of == alone.figures
    accuracy = {name: found.figures[name].of.all_readers.decisions.rates.accuracy.value for name in masks}
    assert accuracy["refined"] < accuracy["first"], "what was not found is not graded right"


def test_graded_rows_pool(stacks: Stacks) -> None:
    nodules = nodules_of(stacks, CLASSES)
    masks = {"readers": nodules.outline, "first": squares(nodules)}

    def grade(rows: NDArray[np.int_]) -> ClassifiedMasks:
        own = {name: mask[rows] for name, mask in masks.items()}
        return refinement.grade(by_area(), stacks, nodules.take(rows), crop_of(NNUNET_SAM), own)

    every = np.arange(len(nodules.truth))
    one, other, whole = grade(every[:20]), grade(every[20:]), grade(every)
    first, second = one.to_json(), other.to_json()
    pooled = {name: first[name] + second[name] for name in first}
    assert pooled == whole.to_json()
    assert ClassifiedMasks.from_json(pooled, nodules.classes, tuple(masks)).figures == whole.figures


# ---------------------------------------------------------------- of a run


def draws_what_is_dense() -> Model:
    """A first stage for a recipe of two classes: what is brighter than −300 HU is a nodule."""

    def run(seen: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        nodule = 40 * (seen[:, 0] - 0.5)
        return (np.stack([-nodule, nodule], axis=1).astype(np.float32),)

    return made_models.model(run)


def test_the_steps_of_a_run_are_judged_on_those_who_judge(stacks: Stacks) -> None:
    recipe = changed(NNUNET_SAM, ["segmenter.size=256", "box_scale=1.0"])
    networks = {"segmenter": draws_what_is_dense(), "classifier": by_area()}
    judges = set(stacks.patients[10:30])
    told: list[float] = []
    steps = refinement.of_run(recipe, networks, stacks, judges, inscribed, told.append)
    assert steps is not None and steps.graded is not None
    every = nodules_of(stacks, CLASSES)
    own = [k for k, p in enumerate(every.patients) if p in judges]
    graded = [row.row for row in steps.graded.by_mask["refined"].rows]
    assert list(steps.compared.row) == graded == every.origin[own].tolist()
    assert steps.compared.figures.first.dice.value > 0.7, "it sees every second pixel of a ball"
    assert steps.compared.figures.first.missed == 0
    assert told[0] == 0 and told == sorted(told) and len(told) == len(own) and told[-1] < 1
    alone = refinement.of_run(replace(recipe, classifier=None), networks, stacks, judges, inscribed)
    assert alone is not None and alone.graded is None and alone.compared == steps.compared
    blind = refinement.of_run(replace(recipe, masked=False), networks, stacks, judges, inscribed)
    assert blind is not None and blind.graded is None, "a classifier that does not see the outline says nothing of it"
    assert refinement.of_run(recipe, networks, stacks, {"nobody"}, inscribed) is None


def test_tables_say_what_figures_do(stacks: Stacks, nodules: Nodules) -> None:
    same = refinement.compared(
        stacks, nodules, nodules.outline, SecondStep(inscribed, 1.0), (by_area(), crop_of(NNUNET_SAM))
    )
    assert same.graded is not None
    one, other = refinement.tables(same.compared.figures, same.graded.figures)
    assert [row[0] for row in one.rows] == ["first step alone", "refined", "gain"]
    assert one.rows[0][1] == "1.000 (1.000 to 1.000)" and one.rows[0][-1] == 0
    assert "12 nodules" in one.note and "by patient" in one.note
    assert [row[0] for row in other.rows] == ["the readers", "first step alone", "refined"]
    perfect = refinement.evaluate(nodules, nodules.outline, nodules.outline)
    assert "p = 1 by nodule, 1 by patient" in refinement.tables(perfect.figures, None)[0].note


# ---------------------------------------------------------------- pictures


def test_best_and_worst_are_drawn(stacks: Stacks, nodules: Nodules, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs pip install 'nodulens[evaluate]'")
    first = squares(nodules)
    refined = np.stack([np.roll(mask, k // 2, axis=0) for k, mask in enumerate(nodules.outline)])
    steps = refinement.Steps(stacks, nodules, first, refined, refinement.evaluate(nodules, first, refined), None)
    files = refinement.write_pictures(steps, tmp_path / "out", count=2)
    assert [f.name for f in files] == ["cases.png", "best-1.png", "best-2.png", "worst-1.png", "worst-2.png"]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------- real nodules


def test_real_nodules_are_refined(shared: Path) -> None:
    stacks = Stacks(shared)
    nodules = nodules_of(stacks, CLASSES)
    nodules = nodules.take(np.arange(0, len(nodules.truth), len(nodules.truth) // 12)[:12])
    first = squares(nodules)
    again = refinement.refine(stacks, nodules, first, SecondStep(own(load_model("segmenter", 1))("box", None), 1.0))
    told = refinement.evaluate(nodules, first, again).figures
    assert told.first.sensitivity.value == 1
    assert told.refined.dice.value > max(0.85, told.first.dice.value + 0.02)
