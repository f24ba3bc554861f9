"""Figures counted batch by batch, against scikit-learn's of all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from nodulens.train.loop.tally import Tally

RNG = np.random.default_rng(0)


def logits_of(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("classes", [2, 3])
def test_of_classes(classes: int) -> None:
    """Precision and recall of the last of two, or the mean over three."""
    logits, truth = logits_of(50, classes), torch.from_numpy(RNG.integers(classes, size=50))
    tally = Tally("abc"[:classes], exclusive=True, reported=[1] if classes == 2 else None)
    for part in (slice(0, 20), slice(20, 50)):
        tally.add(logits[part], truth[part])
    found, average = logits.argmax(1), "binary" if classes == 2 else "macro"
    assert tally.figures() == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, found),
            "precision": metrics.precision_score(truth, found, average=average),
            "recall": metrics.recall_score(truth, found, average=average),
        }
    )


def test_of_weighted_patches() -> None:
    logits, truth = logits_of(60, 1), torch.from_numpy(RNG.integers(2, size=(60, 1)).astype(np.float32))
    weights = torch.from_numpy(RNG.uniform(0.2, 1, 60))
    tally = Tally(("nodule",), exclusive=False)
    tally.add(logits, truth, weights)
    given = truth[:, 0], logits[:, 0] >= 0
    assert tally.figures() == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(*given, sample_weight=weights),
            "precision": metrics.precision_score(*given, sample_weight=weights),
            "recall": metrics.recall_score(*given, sample_weight=weights),
        }
    )


@pytest.mark.parametrize("exclusive", [True, False])
def test_of_masks(exclusive: bool) -> None:
    """Over all pixels of all batches, the mean over lung and nodule."""
    classes = ("background", "lung", "nodule") if exclusive else ("lung", "nodule")
    logits = logits_of(6, len(classes), 9, 7)
    if exclusive:
        truth = torch.from_numpy(RNG.integers(3, size=(6, 9, 7)))
        found = [(logits.argmax(1) == k, truth == k) for k in (1, 2)]
        accuracy = float((logits.argmax(1) == truth).float().mean())
    else:
        truth = torch.from_numpy(RNG.integers(2, size=(6, 2, 9, 7)).astype(np.float32))
        found = [(logits[:, k] >= 0, truth[:, k] == 1) for k in (0, 1)]
        accuracy = float(((logits >= 0) == (truth == 1)).float().mean())
    tally = Tally(classes, exclusive=exclusive, overlap=True)
    for part in (slice(0, 4), slice(4, 6)):
        tally.add(logits[part], truth[part])
    both, first, second = ([int(f(a, b).sum()) for a, b in found] for f in (lambda a, b: a & b, _first, _second))
    parts = list(zip(both, first, second, strict=True))
    assert tally.figures() == pytest.approx(
        {
            "accuracy": accuracy,
            "dice": np.mean([(2 * t + 1) / (p + a + 1) for t, p, a in parts]),
            "iou": np.mean([(t + 1) / (p + a - t + 1) for t, p, a in parts]),
            "nodule_dice": (2 * both[1] + 1) / (first[1] + second[1] + 1),
            "precision": np.mean([t / p for t, p, _ in parts]),
            "recall": np.mean([t / a for t, _, a in parts]),
        }
    )


def _first(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a


def _second(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return b


def test_of_masks_on_which_only_nodules_are_annotated() -> None:
    """They count for the nodule, and not for the accuracy or another class."""
    tally = Tally(("background", "lung", "nodule"), exclusive=True, overlap=True)
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2, 0] = 1.0  # the upper row is called nodule, and one pixel of it is
    truth = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    tally.add_one(logits, truth, 2)
    assert tally.counts.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    found = tally.figures()
    assert math.isnan(found["accuracy"]) and found["nodule_dice"] == pytest.approx(3 / 4)
    assert (found["precision"], found["recall"]) == (0.5, 1.0), "of the one class that is there"


def test_nothing_there_and_nothing_found() -> None:
    tally = Tally(("nodule",), exclusive=False, overlap=True)
    tally.add(torch.full((2, 1, 3, 3), -1.0), torch.zeros(2, 1, 3, 3))
    found = tally.figures()
    assert (found["accuracy"], found["dice"], found["iou"]) == (1, 1, 1)
    assert math.isnan(found["precision"]) and math.isnan(found["recall"])
    tally.clear()
    assert math.isnan(tally.figures()["accuracy"])
