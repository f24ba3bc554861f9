"""The losses of the methods, by name.

Every loss takes float32 logits (N, C, …) and a ground truth of one of two kinds: integers (N, …) of mutually exclusive
classes, for which the logits go through a softmax; or 0…1 (N, C, …) of independent classes, for which they go through a
sigmoid. ``…`` is empty for a classifier, rows and columns for a segmenter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from nodulens.errors import BadOption, MissingExtra
from nodulens.methods.recipe import NetworkConfig
from nodulens.stages.slices import BACKGROUNDS

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A function of logits, truth and class weights (C,) or None."""
SMOOTH = 1.0
"""Pixels added to numerator and denominator: an absent class that is not predicted has an overlap of 1."""


def loss_of(
    config: NetworkConfig, weights: Tensor | None = None
) -> Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor]:
    """The loss for a network of ``config``, its second head included.

    Args:
        weights: (C,), see :func:`class_weights`.

    Raises:
        BadOption: there is no such loss, or it needs several classes and there is one; or, when it is computed, the
            network has no second head.
    """
    if config.loss not in LOSSES:
        raise BadOption(f"There is no loss {config.loss!r}; there are {', '.join(LOSSES)}.")
    if config.loss == "cross-entropy" and len(config.classes) == 1:  # its softmax is always 1, and its loss 0
        raise BadOption(f"cross-entropy needs two classes, and there is only {config.classes[0]}: take bce.")
    chosen = LOSSES[config.loss]

    def loss(output: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
        logits, *second = output if isinstance(output, tuple) else (output,)
        # sums over pixels overflow the precision of 16 bits
        value = chosen(logits.float(), truth, None if weights is None else weights.to(logits.device))
        if config.auxiliary == 0:
            return value
        if not second:
            raise BadOption(f"The network {config.network!r} has no second head; set auxiliary to 0.")
        return value + config.auxiliary * auxiliary(second[0].float(), truth)

    return loss


def check_loss(config: NetworkConfig, *, exclusive: bool) -> None:
    """Check that a network's loss and balance fit its classes.

    Args:
        exclusive: whether classes are mutually exclusive, so that inference takes a softmax; else they are independent.

    Raises:
        BadOption: there is no such loss; or cross entropy for classes that are not exclusive, or binary for those that
            are; or class weights for a loss of a single class.
    """
    loss_of(config)
    if config.loss == "cross-entropy" and not exclusive:
        raise BadOption(
            f"cross-entropy needs mutually exclusive classes, and {', '.join(config.classes)} are not: take bce."
        )
    if config.loss == "bce" and exclusive:
        raise BadOption(
            f"bce needs independent classes, and {', '.join(config.classes)} are exclusive: take cross-entropy."
        )
    if config.balance == "weights" and config.loss in OVERLAPS and len(config.classes) - exclusive == 1:
        raise BadOption(
            f"balance=weights has no effect: {config.loss} counts {config.classes[-1]} alone. Take another balance, or "
            "a loss with cross entropy."
        )


def loss_of_one(config: NetworkConfig, index: int) -> Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor]:
    """The loss of a segmenter for a ground truth of a single class: 0…1 (N, 1, …).

    Where classes are exclusive, the others are merged, and cross entropy becomes that of two classes.

    Args:
        index: of the class.
    """
    names = {"cross-entropy": "bce"}
    loss = loss_of(replace(config, loss=names.get(config.loss, config.loss)))
    exclusive = config.classes[0] in BACKGROUNDS

    def against_the_rest(logits: Tensor) -> Tensor:
        others = [k for k in range(logits.shape[1]) if k != index]
        own = logits[:, [index]]
        return own - logits[:, others].logsumexp(1, keepdim=True) if exclusive else own

    def alone(output: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
        if not isinstance(output, tuple):
            return loss(against_the_rest(output.float()), truth)
        logits, presence = output  # the second head's classes are independent
        return loss((against_the_rest(logits.float()), presence[:, [index]]), truth)

    return alone


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Class weights (classes,) that balance the classes.

    For integers: n / (k · n_c) with k classes present, as scikit-learn's "balanced"; 0 for an absent class. For 0…1 or
    booleans: the ratio of negatives to positives of each class, which weights its positives.
    """
    if truth.is_floating_point() or truth.dtype == torch.bool:
        there = truth.sum([0, *range(2, truth.dim())])
        return (truth.numel() / truth.shape[1] - there) / there.clamp(min=1)
    counts = torch.bincount(truth.flatten(), minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)


def cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of exclusive classes; the mean is weighted."""
    return functional.cross_entropy(logits, truth, weights)


def bce(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy of independent classes; ``weights`` are those of positives."""
    along = None if weights is None else _along(weights, logits)
    return functional.binary_cross_entropy_with_logits(logits, _each(truth, logits), pos_weight=along)


def weighted(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy with balanced classes; without ``weights``, balanced over this batch."""
    return _entropy(logits, truth, class_weights(truth, logits.shape[1]) if weights is None else weights)


def focal(logits: Tensor, truth: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Focal loss: cross entropy times (1 − p)^gamma, p the probability of the true class.

    MONAI's FocalLoss gives the same values and takes three to ten times as long on a CPU, forward and backward: it
    computes every class of every pixel.

    Source: Lin et al., Focal loss for dense object detection, 2017; its α is ``weights``.
    """
    if truth.is_floating_point():
        each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        scale = torch.ones_like(each) if weights is None else 1 + (_along(weights, logits) - 1) * truth
    else:
        each = functional.cross_entropy(logits, truth, reduction="none")
        scale = torch.ones_like(each) if weights is None else weights[truth]
    return (scale * (1 - torch.exp(-each)) ** gamma * each).mean()


def dice(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 − 2·TP / (2·TP + FP + FN); see :func:`_overlap`."""
    return _overlap(logits, truth, weights, (0.5, 0.5))


def iou(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 − TP / (TP + FP + FN), the Jaccard distance; see :func:`_overlap`."""
    return _overlap(logits, truth, weights, (1.0, 1.0))


def tversky(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 − TP / (TP + 0.3·FP + 0.7·FN): false negatives cost more than false positives; see :func:`_overlap`.

    Source: Salehi et al., Tversky loss function for image segmentation, 2017.
    """
    return _overlap(logits, truth, weights, (0.3, 0.7))


def hybrid(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy plus the IoU loss."""
    return _entropy(logits, truth, weights) + iou(logits, truth, weights)


def dice_and_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy plus the Dice loss, as in nnU-Net."""
    return _entropy(logits, truth, weights) + dice(logits, truth, weights)


def auxiliary(presence: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy of the presence of each class in an image.

    Args:
        presence: (N, C) logits.
        truth: ground truth of the segmentation.
    """
    there = _each(truth, presence).flatten(2).amax(2)
    return functional.binary_cross_entropy_with_logits(presence, there)


LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "bce": bce,
    "weighted": weighted,
    "focal": focal,
    "dice": dice,
    "iou": iou,
    "tversky": tversky,
    "hybrid": hybrid,
    "dice+cross-entropy": dice_and_entropy,
}
OVERLAPS = ("dice", "iou", "tversky")
"""Losses that exclude the background, see :func:`_overlap`."""


def _entropy(logits: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    return (bce if truth.is_floating_point() else cross_entropy)(logits, truth, weights)


def _overlap(logits: Tensor, truth: Tensor, weights: Tensor | None, cost: tuple[float, float]) -> Tensor:
    """1 − TP / (TP + a·FP + b·FN), MONAI's Tversky loss, averaged over classes with their weights; (a, b) is ``cost``.

    (½, ½) is Dice, (1, 1) Jaccard. Where classes are exclusive, the first is the background, which is left out. Pixels
    are counted over the whole batch, as nnU-Net does for slices: a false pixel on a slice without a nodule costs one
    pixel, not the slice. Counts are sums of probabilities (soft Dice).
    """
    exclusive = not truth.is_floating_point()
    loss = _monai_losses().TverskyLoss(
        include_background=not exclusive,
        softmax=exclusive,
        sigmoid=not exclusive,
        alpha=cost[0],
        beta=cost[1],
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
        batch=True,
        reduction="none",
    )
    lost: Tensor = loss(logits, _each(truth, logits))
    share = torch.ones(logits.shape[1], device=logits.device) if weights is None else weights
    share = share[1:] if exclusive else share
    return (share * lost).sum() / share.sum()


def _each(truth: Tensor, logits: Tensor) -> Tensor:
    """The ground truth as one channel 0…1 a class: (N, C, …)."""
    if truth.is_floating_point():
        return truth
    return functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).float()


def _monai_losses() -> ModuleType:
    """MONAI's losses, imported on first use, since that takes seconds.

    Raises:
        MissingExtra: MONAI is not installed.
    """
    try:
        return import_module("monai.losses")
    except ImportError as error:
        raise MissingExtra("train", "monai") from error


def _along(weights: Tensor, logits: Tensor) -> Tensor:
    """Class weights that broadcast over (N, C, …)."""
    return weights.view(-1, *[1] * (logits.dim() - 2))
