"""Average precision and recall of boxes and masks against COCO's rules in plain loops, and cases worked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Done, Run
from nodulens.errors import BadOption, BadValues
from nodulens.metrics.boxes import (
    IOUS,
    Image,
    Labelled,
    box_iou,
    label_iou,
    mask_iou,
    match,
    match_boxes,
    summary,
)

Array = NDArray[np.float64]


# The reference: one image, one threshold, one detection at a time.


def slow_pairs(image: Image, iou: float) -> list[tuple[float, bool]]:
    """(score, found something) of the 100 surest detections of one image."""
    free = set(range(image.iou.shape[1]))
    out = []
    for d in sorted(range(len(image.scores)), key=lambda d: -image.scores[d])[:100]:
        best, most = None, min(iou, 1 - 1e-10)
        for t in sorted(free):
            if image.iou[d, t] >= most:
                best, most = t, image.iou[d, t]
        free.discard(best)  # type: ignore[arg-type]
        out.append((float(image.scores[d]), best is not None))
    return out


def slow_ap_and_recall(images: list[Image], iou: float) -> tuple[float, float]:
    pairs = sorted((p for image in images for p in slow_pairs(image, iou)), key=lambda p: -p[0])
    truths = sum(image.iou.shape[1] for image in images)
    points, found = [], 0
    for count, (_, hit) in enumerate(pairs, 1):
        found += hit
        points.append((found / truths, found / count))
    read = [max((p for r, p in points if r >= at), default=0.0) for at in np.linspace(0, 1, 101)]
    return sum(read) / 101, found / truths


def random_images(seed: int, dims: int) -> list[Image]:
    """Images with boxes on a lattice, near copies of the truth, ties, crowds, and none of either."""
    random = np.random.default_rng(seed)

    def boxes(n: int) -> Array:
        start = random.integers(0, 8, (n, dims))
        return np.stack([start, start + random.integers(1, 7, (n, dims))], axis=1).astype(float)

    images = [Image(np.zeros(0), np.zeros((0, 1)))]
    for _ in range(int(random.integers(1, 8))):
        truth = boxes(int(random.choice([0, 1, 3, 9])))
        near = truth[random.random(len(truth)) < 0.8] + random.choice([0.0, 0.1, 0.5], (1, 2, dims))
        twice = truth[random.random(len(truth)) < 0.3]
        found = np.concatenate([near, twice, boxes(int(random.choice([0, 2, 120])))])
        found[:, 1] = np.maximum(found[:, 1], found[:, 0] + 0.1)
        images.append(Image(random.integers(0, 12, len(found)) / 12, box_iou(found, truth)))
    return images


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_the_rules_in_plain_loops(seed: int, dims: int) -> None:
    images = random_images(seed, dims)
    matches = match(images)
    truth = np.array([slow_ap_and_recall(images, float(iou)) for iou in IOUS])
    np.testing.assert_allclose(matches.average_precision, truth[:, 0], atol=1e-12)
    np.testing.assert_allclose(matches.recall, truth[:, 1], atol=1e-12)
    pairs = [p for image in images for p in slow_pairs(image, 0.5)]

    def f1(score: float) -> float:
        kept = [hit for s, hit in pairs if s >= score]
        return 2 * sum(kept) / (len(kept) + matches.truths)

    for score in (0.0, 0.5, 2.0):
        kept, point = [hit for s, hit in pairs if s >= score], matches.at(score)
        assert (point.true_positives, point.false_positives) == (sum(kept), len(kept) - sum(kept))
        assert point.f1 == pytest.approx(f1(score))
    best = matches.best()
    assert best.f1 == pytest.approx(max((f1(s) for s, _ in pairs), default=0.0))
    assert all(f1(s) < best.f1 for s, _ in pairs if s > best.score)


# By hand.


def test_boxes_by_hand() -> None:
    found = [[[0, 0], [2, 2]], [[1, 1], [3, 3]], [[2, 0], [4, 2]], [[0, 0], [4, 1]]]
    np.testing.assert_allclose(box_iou(found, [[[0, 0], [2, 2]]])[:, 0], [1, 1 / 7, 0, 2 / 6])
    np.testing.assert_allclose(box_iou([[[0, 0, 0], [2, 2, 2]]], [[[1, 1, 1], [3, 3, 3]]]), [[1 / 15]])
    assert box_iou(np.zeros((0, 2, 3)), [[[0, 0, 0], [1, 1, 1]]]).shape == (0, 1)
    # Touching shares nothing; units and a shift change nothing.
    assert box_iou([[[0.0], [1.0]]], [[[1.0], [2.0]]]) == 0
    np.testing.assert_allclose(box_iou(np.array(found) * 0.7 - 40, np.array(found) * 0.7 - 40), box_iou(found, found))


@pytest.mark.parametrize("wrong", [[[0, 0], [2, 2]], [[[0, 0], [0, 2]]], [[[1, 1], [0, 2]]], [[[0, 0], [math.nan, 2]]]])
def test_boxes_that_are_none_are_refused(wrong: list[object]) -> None:
    with pytest.raises(BadValues):
        box_iou(wrong, [[[0, 0], [2, 2]]])


def test_boxes_of_different_dimensions_are_refused() -> None:
    with pytest.raises(BadValues, match="2 and of 3 dimensions"):
        box_iou([[[0, 0], [2, 2]]], [[[0, 0, 0], [2, 2, 2]]])


def test_masks_and_labels_give_the_iou_of_the_boxes_they_fill() -> None:
    random = np.random.default_rng(0)
    start = random.integers(0, 6, (5, 3))
    boxes = np.stack([start, start + random.integers(1, 6, (5, 3))], axis=1)
    masks = np.zeros((5, 12, 12, 12), dtype=bool)
    for mask, (a, b) in zip(masks, boxes, strict=True):
        mask[tuple(slice(*pair) for pair in zip(a, b, strict=True))] = True
    np.testing.assert_allclose(mask_iou(masks[:3], masks), box_iou(boxes[:3], boxes), atol=1e-15)
    for one in range(5):
        for other in range(5):
            iou = label_iou(masks[one].astype(np.uint8) * 7, masks[other])
            np.testing.assert_allclose(iou, box_iou(boxes[[one]], boxes[[other]]), atol=1e-15)


def test_labels_by_hand() -> None:
    detected = np.array([[0, 9, 9, 0], [2, 2, 0, 0]])
    truth = np.array([[0, 1, 1, 1], [1, 0, 0, 5]])
    # Labels 2 and 9 against 1 and 5, in that order.
    np.testing.assert_allclose(label_iou(detected, truth), [[1 / 5, 0], [2 / 4, 0]])
    assert label_iou(np.zeros((3, 3), int), truth[:, :3].repeat(2, 0)[:3]).shape == (0, 1)
    assert label_iou(np.zeros((2, 2), int), np.zeros((2, 2), int)).shape == (0, 0)
    with pytest.raises(BadValues, match="whole numbers on one grid"):
        label_iou(detected, truth[:1])
    with pytest.raises(BadValues, match="whole numbers on one grid"):
        label_iou(detected.astype(float), truth)


def test_empty_masks_share_nothing() -> None:
    empty, full = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    assert mask_iou(empty, empty) == mask_iou(empty, full) == 0
    assert mask_iou(full, full) == 1
    assert mask_iou(np.zeros((0, 2, 2), bool), full).shape == (0, 1)
    with pytest.raises(BadValues, match="one grid"):
        mask_iou(full, np.ones((1, 2, 3), bool))


def test_average_precision_by_hand() -> None:
    """Two truths; detections right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    images = [Image(np.array([0.9, 0.8, 0.7]), np.array([[0.6, 0], [0, 0.3], [0, 1.0]]))]
    matches = match(images)
    assert matches.average_precision[0] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert matches.average_precision[-1] == pytest.approx(51 * (1 / 3) / 101)  # only the third is that exact
    np.testing.assert_array_equal(matches.recall, [1, 1, 1, *[0.5] * 7])
    assert summary({"nodule": matches}).average_recall == pytest.approx(0.65)
    point = matches.at(0.7)
    assert (point.precision, point.recall, point.f1, point.mean_iou) == (2 / 3, 1.0, 0.8, 0.8)


def test_a_second_detection_is_false_and_a_free_truth_is_taken_instead() -> None:
    twice = match([Image(np.array([0.9, 0.8]), np.array([[0.9], [1.0]]))])
    assert (twice.at(0).true_positives, twice.at(0).false_positives) == (1, 1)
    assert twice.overlap[0].tolist() == [0.9, 0.0]  # the surer one takes it, not the closer one
    other = match([Image(np.array([0.9, 0.8]), np.array([[0.9, 0.6], [0.8, 0.7]]))])
    assert other.overlap[0].tolist() == [0.9, 0.7]


def test_an_image_without_truth_costs_precision_and_one_without_detections_recall() -> None:
    right = Image(np.array([0.5]), np.array([[1.0]]))
    surer, less_sure = (Image(np.array([s]), np.zeros((1, 0))) for s in (0.6, 0.4))
    assert match([right]).average_precision[0] == 1
    assert match([right, surer]).average_precision[0] == pytest.approx(0.5)
    assert match([right, less_sure]).average_precision[0] == 1  # behind the last truth
    missed = match([right, Image(np.zeros(0), np.zeros((0, 1)))])
    assert missed.average_precision[0] == pytest.approx(51 / 101) and missed.recall[0] == 0.5


def test_equal_scores_stand_or_fall_together_at_a_threshold() -> None:
    matches = match([Image(np.array([0.5, 0.5, 0.5]), np.array([[1.0], [0.0], [0.0]]))])
    assert matches.best().false_positives == 2 and matches.best().score == 0.5


def test_nothing_at_all_is_undefined_not_wrong() -> None:
    nothing = match([])
    assert np.isnan(nothing.average_precision).all() and np.isnan(nothing.recall).all()
    assert math.isnan(nothing.best().f1) and math.isnan(nothing.at(0.5).mean_iou)
    silent = match([Image(np.zeros(0), np.zeros((0, 2)))])
    assert silent.average_precision.max() == 0 and silent.best().f1 == 0 and math.isnan(silent.best().precision)
    with pytest.raises(BadValues, match="has a true box"):
        summary({"nodule": nothing})


def test_options_are_checked() -> None:
    with pytest.raises(BadOption, match="IoUs"):
        match([], [0.0])
    with pytest.raises(BadOption, match="limit"):
        match([], limit=0)
    with pytest.raises(BadOption, match=r"No matches at IoU 0\.42"):
        match([]).at(0.5, iou=0.42)
    with pytest.raises(BadValues, match="a row for each score"):
        Image(np.zeros(2), np.zeros((1, 3)))
    with pytest.raises(BadValues, match="NaN"):
        Image(np.array([np.nan]), np.zeros((1, 3)))


def test_a_hundred_detections_of_an_image_count() -> None:
    scores = np.append(np.linspace(1, 0.5, 100), 0.1)
    image = Image(scores, np.eye(101)[:, 100:])  # the truth lies under the 101st
    assert match([image]).recall[0] == 0 and match([image], limit=101).recall[0] == 1


def test_classes_are_matched_apart_and_averaged_where_they_have_truths() -> None:
    box = np.array([[[0.0, 0.0], [2.0, 2.0]]])
    truth = Labelled(("a", "b"), ("solid", "ground-glass"), box.repeat(2, 0), np.ones(2))
    found = Labelled(("a", "b", "c"), ("solid", "solid", "vessel"), box.repeat(3, 0), np.array([0.9, 0.95, 0.5]))
    classes = match_boxes(truth, found)
    assert list(classes) == ["ground-glass", "solid", "vessel"]
    assert [m.truths for m in classes.values()] == [1, 1, 0]
    assert summary(classes).map50 == pytest.approx((0 + 0.5) / 2)


# The command.

Ask = Callable[..., Done]
TRUTH = "image,x_min,y_min,x_max,y_max\na,0,0,2,2\nb,0,0,2,2\n"
FOUND = "image,x_min,y_min,x_max,y_max,score\na,0,0,2,2,0.9\na,5,5,6,6,0.3\nc,0,0,2,2,0.2\n"


@pytest.fixture
def ask(run: Run, tmp_path: Path) -> Ask:
    """``nodulens evaluate boxes`` on two texts."""

    def call(truth: str, found: str, *words: str) -> Done:
        (tmp_path / "truth.csv").write_text(truth, "utf-8")
        (tmp_path / "found.csv").write_text(found, "utf-8")
        files = ("--truth", tmp_path / "truth.csv", "--predictions", tmp_path / "found.csv")
        return run("evaluate", "boxes", *files, *words)

    return call


def test_the_command(ask: Ask) -> None:
    code, out, err = ask(TRUTH, FOUND)
    assert (code, err) == (0, "") and "mAP@0.5 0.5050" in out and "3 images" in out
    named = "image,label,x_min,y_min,x_max,y_max\na,[red],0,0,2,2\n"
    assert "[red]" in ask(named, named.replace("y_max", "y_max,score").replace("2,2", "2,2,0.5"))[1]
    found = json.loads(ask(TRUTH, FOUND, "--json")[1])
    assert (found["map50"], found["map50_95"]) == pytest.approx((51 / 101, 51 / 101))
    assert (found["images"], found["images_without_truth"], found["average_recall"]) == (3, 1, 0.5)
    row = found["classes"]["nodule"]
    assert (row["score"], row["precision"], row["recall"], row["true_positives"]) == (0.9, 1.0, 0.5, 1)
    row = json.loads(ask(TRUTH, FOUND, "--score", "0.25", "--json")[1])["classes"]["nodule"]
    assert (row["precision"], row["recall"], row["false_positives"], row["mean_iou"]) == (0.5, 0.5, 1, 1.0)
    none = json.loads(ask(TRUTH, FOUND, "--score", "2", "--json")[1])["classes"]["nodule"]
    assert none["precision"] is None and none["recall"] == 0


def test_the_command_in_three_dimensions_with_classes(ask: Ask) -> None:
    truth = "image,label,x_min,y_min,z_min,x_max,y_max,z_max\na,solid,0,0,0,2,2,2\nb,solid,0,0,0,2,2,2\n"
    found = (
        "image,label,x_min,y_min,z_min,x_max,y_max,z_max,score\na,solid,0,0,0,2,2,1,0.9\nb,calcified,0,0,0,2,2,2,0.9\n"
    )
    out = json.loads(ask(truth, found, "--json")[1])
    assert out["map50"] == pytest.approx(51 / 101)  # half of the volume is an IoU of 0.5
    assert out["map50_95"] == pytest.approx(51 / 101 / 10)
    assert out["classes"]["calcified"]["ap50"] is None and out["classes"]["calcified"]["false_positives"] == 1


@pytest.mark.parametrize(("truth", "found", "message"), [
    (TRUTH.replace("x_max", "right"), FOUND, "no column x_max"),
    (TRUTH, FOUND.split("\n")[0], "holds a header and no boxes"),
    (TRUTH.split("\n")[0], FOUND, "No image has a true box"),
    (TRUTH, FOUND.replace("5,5,6,6", "5,5,5,6"), "found.csv, line 3: the box is empty"),
    (TRUTH, FOUND.replace("0.9", "sure"), "found.csv, line 2: score is 'sure'"),
    (TRUTH + "a,0,0,2,2\n", FOUND, "truth.csv, line 4 repeats line 2"),
    (TRUTH.replace("y_max", "y_max,z_min").replace("2\n", "2,0\n"), FOUND, "one of the columns z_min and z_max"),
    (
        "image,x_min,y_min,z_min,x_max,y_max,z_max\na,0,0,0,2,2,2\n",
        FOUND,
        "Boxes of 2 and of 3 dimensions",
    ),
    (TRUTH.replace("a,", "a.png,").replace("b,", "b.png,"), FOUND, "found.csv, such as 'a', is in"),
    (TRUTH, FOUND.replace("score", "score,label").replace("9\n", "9,lesion\n").replace("3\n", "3,lesion\n")
     .replace("0.2\n", "0.2,lesion\n"), "No label of"),
])  # fmt: skip
def test_a_wrong_file_is_named(truth: str, found: str, message: str, ask: Ask) -> None:
    code, out, err = ask(truth, found)
    assert (code, out) == (2, "") and message in err
