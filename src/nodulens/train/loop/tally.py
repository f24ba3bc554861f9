"""Figures of an epoch, counted batch by batch: accuracy, Dice, IoU, precision, recall."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nodulens.stages.slices import BACKGROUNDS, NODULE


@dataclass(frozen=True)
class Validation:
    """What an evaluation on the validation set gives after an epoch.

    Attributes:
        score: by which epochs are compared, higher is better.
        figures: name → value, such as "loss" and those of a :class:`Tally`.
    """

    score: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Tally:
    """Counts of right and wrong decisions for each class; the unit is an example, or a pixel of it.

    Args:
        classes: their names.
        exclusive: whether a unit has exactly one of them; else each is decided separately.
        reported: numbers of the classes whose figures are averaged; None: all but the background.
        overlap: whether Dice and IoU are figures, as of masks.

    Attributes:
        counts: (classes, 3) float64: true positives, false positives, false negatives.
        decisions: (2,) float64: the right ones, and all.
    """

    def __init__(
        self, classes: Sequence[str], *, exclusive: bool, reported: Sequence[int] | None = None, overlap: bool = False
    ) -> None:
        self.classes, self.exclusive, self.overlap = tuple(classes), exclusive, overlap
        foreground = [k for k, name in enumerate(classes) if name not in BACKGROUNDS]
        self.reported = foreground if reported is None else list(reported)
        self.counts = torch.zeros(len(classes), 3, dtype=torch.float64)
        self.decisions = torch.zeros(2, dtype=torch.float64)

    @torch.no_grad()
    def add(self, logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: (N, classes, …).
            truth: (N, …) whole numbers where classes are exclusive, else 0…1 or bool (N, classes, …).
            weights: (N,) of the examples; None: 1 each.
        """
        decided = self._decided(logits)
        actual = self._each(truth) if self.exclusive else truth > 0.5
        self._count(decided, actual, slice(None), weights)
        # of exclusive classes one is decided, so agreement on a class that is neither says nothing
        right = decided & actual if self.exclusive else decided == actual
        per_row = _units(right).sum(1)
        each = decided[0].numel() / (len(self.classes) if self.exclusive else 1)
        known = torch.ones_like(per_row) if weights is None else weights.to(per_row)
        self.decisions += torch.stack([(known * per_row).sum(), each * known.sum()])

    @torch.no_grad()
    def add_one(self, logits: Tensor, truth: Tensor, index: int) -> None:
        """Count a batch on which a single class is annotated; it is not part of the accuracy.

        Args:
            logits: (N, classes, …).
            truth: (N, 1, …) 0…1 or bool.
            index: of that class.
        """
        self._count(self._decided(logits)[:, [index]], truth > 0.5, slice(index, index + 1), None)

    def clear(self) -> None:
        """Begin again at 0."""
        self.counts.zero_()
        self.decisions.zero_()

    def figures(self) -> dict[str, float]:
        """Accuracy, precision and recall, with Dice and IoU if there is overlap: means over the reported classes; of
        masks of several classes also the nodule's Dice.

        Accuracy is the share of right decisions. Dice and IoU count one unit more in numerator and denominator, so that
        an absent class that is not predicted has an overlap of 1. NaN where no class was predicted (precision), or
        there (recall).
        """
        right, false, missed = self.counts.cpu().unbind(1)
        out = {"accuracy": _mean([self.decisions[0].item()], [self.decisions[1].item()])}
        if self.overlap:
            dice = (2 * right + 1) / (2 * right + false + missed + 1)
            out["dice"] = float(dice[self.reported].mean())
            out["iou"] = float(((right + 1) / (right + false + missed + 1))[self.reported].mean())
            if len(self.reported) > 1 and NODULE in self.classes:
                out["nodule_dice"] = float(dice[self.classes.index(NODULE)])
        for name, wrong in (("precision", false), ("recall", missed)):
            out[name] = _mean(right[self.reported].tolist(), (right + wrong)[self.reported].tolist())
        return out

    def _decided(self, logits: Tensor) -> Tensor:
        """(N, classes, …) bool: the most probable class, or all of at least even odds."""
        return self._each(logits.argmax(1)) if self.exclusive else logits >= 0

    def _each(self, numbers: Tensor) -> Tensor:
        """Numbers of classes (N, …) as (N, classes, …) bool."""
        classes = torch.arange(len(self.classes), device=numbers.device)
        return numbers[:, None] == classes.view(-1, *[1] * (numbers.dim() - 1))

    def _count(self, decided: Tensor, actual: Tensor, rows: slice, weights: Tensor | None) -> None:
        if self.counts.device != decided.device:  # so that a GPU is not waited for
            self.counts, self.decisions = self.counts.to(decided.device), self.decisions.to(decided.device)
        sums = torch.stack([_units(part) for part in (decided & actual, decided, actual)], dim=2)
        if weights is not None:
            sums = sums * weights.to(sums)[:, None, None]
        right, found, there = sums.sum(0).unbind(1)
        self.counts[rows] += torch.stack([right, found - right, there - right], dim=1)


def _units(chosen: Tensor) -> Tensor:
    """How many units of each example and class, (N, C, …) bool → (N, C) float64."""
    return chosen.reshape(*chosen.shape[:2], -1).count_nonzero(2).double()


def _mean(parts: Iterable[float], wholes: Iterable[float]) -> float:
    """The mean of parts / wholes over those that are not empty."""
    shares = [part / whole for part, whole in zip(parts, wholes, strict=True) if whole > 0]
    return sum(shares) / len(shares) if shares else math.nan
