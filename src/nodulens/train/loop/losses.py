"""The losses of the methods, by name.

Every loss takes float32 logits (N, C, …) and a truth that is one of two kinds: whole numbers (N, …), where each place
is one of C classes and the logits go through a softmax; or 0…1 (N, C, …), where each class is there or not by itself
and the logits go through a sigmoid. ``…`` is nothing for a classifier, rows and columns for a segmenter.
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
from nodulens.stages.slices import BACKGROUND

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A function of logits, truth and class weights (C,) or None."""
SMOOTH = 1.0
"""Pixels added above and below the fraction bar: a class that is nowhere is right at 1 where nothing is predicted."""


def loss_of(
    config: NetworkConfig, weights: Tensor | None = None
) -> Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor]:
    """The loss of the output of a network of ``config``, its second head included.

    Args:
        weights: (C,), see :func:`class_weights`.

    Raises:
        BadOption: there is no such loss, or it is of several classes and there is one; or, when it is computed, there
            is no second head to learn from.
    """
    if config.loss not in LOSSES:
        raise BadOption(f"There is no loss {config.loss!r}; there are {', '.join(LOSSES)}.")
    if config.loss == "cross-entropy" and len(config.classes) == 1:  # its softmax is 1, and its loss 0, for ever
        raise BadOption(f"cross-entropy tells classes apart, and there is {config.classes[0]} alone: take bce.")
    chosen = LOSSES[config.loss]

    def loss(output: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
        logits, *second = output if isinstance(output, tuple) else (output,)
        # 16 bits count no further than a few hundred pixels
        value = chosen(logits.float(), truth, None if weights is None else weights.to(logits.device))
        if config.auxiliary == 0:
            return value
        if not second:
            raise BadOption(f"The network {config.network!r} has no second head; set auxiliary to 0.")
        return value + config.auxiliary * auxiliary(second[0].float(), truth)

    return loss


def check_loss(config: NetworkConfig, *, exclusive: bool) -> None:
    """Check that a network can learn its classes by its loss and balance.

    Args:
        exclusive: whether each place is of one class alone, so that inference takes a softmax; else each class is there
            or not by itself.

    Raises:
        BadOption: there is no such loss; or cross entropy of classes that are not exclusive, or binary of those that
            are; or weights of a loss that counts one class only.
    """
    loss_of(config)
    if config.loss == "cross-entropy" and not exclusive:
        raise BadOption(
            f"cross-entropy is of classes that exclude one another, and {', '.join(config.classes)} do not: take bce."
        )
    if config.loss == "bce" and exclusive:
        raise BadOption(
            f"bce takes each class by itself, and {', '.join(config.classes)} exclude one another: take cross-entropy."
        )
    if config.balance == "weights" and config.loss in OVERLAPS and len(config.classes) - exclusive == 1:
        raise BadOption(
            f"balance=weights would change nothing: {config.loss} counts {config.classes[-1]} alone. Take another "
            "balance, or a loss with an entropy."
        )


def loss_of_one(config: NetworkConfig, index: int) -> Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor]:
    """The loss of a segmenter where all that is known is whether a pixel is of one class: truth 0…1 (N, 1, …).

    Where classes exclude one another, the others are taken together. Entropy becomes that of two classes.

    Args:
        index: of the class.
    """
    names = {"cross-entropy": "bce"}
    loss = loss_of(replace(config, loss=names.get(config.loss, config.loss)))
    exclusive = config.classes[0] == BACKGROUND

    def against_the_rest(logits: Tensor) -> Tensor:
        others = [k for k in range(logits.shape[1]) if k != index]
        own = logits[:, [index]]
        return own - logits[:, others].logsumexp(1, keepdim=True) if exclusive else own

    def alone(output: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
        if not isinstance(output, tuple):
            return loss(against_the_rest(output.float()), truth)
        logits, presence = output  # of the second head each class stands by itself
        return loss((against_the_rest(logits.float()), presence[:, [index]]), truth)

    return alone


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Weights (classes,) that make every class count the same.

    For whole numbers: n / (k · n_c) with k classes present, as scikit-learn's "balanced"; 0 for a class that is not
    there. For 0…1 or true and false: how many there are without a class for one with it, which weighs its presence.
    """
    if truth.is_floating_point() or truth.dtype == torch.bool:
        there = truth.sum([0, *range(2, truth.dim())])
        return (truth.numel() / truth.shape[1] - there) / there.clamp(min=1)
    counts = torch.bincount(truth.flatten(), minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)


def cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of classes that exclude one another; the mean is over the weights."""
    return functional.cross_entropy(logits, truth, weights)


def bce(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy of each class by itself; ``weights`` weigh where a class is there."""
    along = None if weights is None else _along(weights, logits)
    return functional.binary_cross_entropy_with_logits(logits, _each(truth, logits), pos_weight=along)


def weighted(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy in which each class counts the same; without ``weights``, as often as it is in this batch."""
    return _entropy(logits, truth, class_weights(truth, logits.shape[1]) if weights is None else weights)


def focal(logits: Tensor, truth: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Cross entropy times (1 − p)^gamma of the right answer's p: what is certain already counts little.

    MONAI's FocalLoss gives the same numbers, and takes three to ten times as long on a CPU, forth and back: it computes
    every class of every pixel, where one is right.

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
    """1 − TP / (TP + 0.3·FP + 0.7·FN): what is missed costs more than what is too much; see :func:`_overlap`.

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
    """Binary cross entropy of which classes are anywhere in an image.

    Args:
        presence: (N, C) logits.
        truth: of the segmentation.
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
"""Losses that leave out a background, see :func:`_overlap`."""


def _entropy(logits: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    return (bce if truth.is_floating_point() else cross_entropy)(logits, truth, weights)


def _overlap(logits: Tensor, truth: Tensor, weights: Tensor | None, cost: tuple[float, float]) -> Tensor:
    """1 − TP / (TP + a·FP + b·FN), MONAI's Tversky loss, averaged over classes with their weights; (a, b) is ``cost``.

    (½, ½) is Dice, (1, 1) Jaccard. Where classes exclude one another, the first is the background, which says nothing
    of its own, and is left out. Pixels are counted over the whole batch, as nnU-Net does for slices: one false pixel
    on a slice without a nodule costs one pixel, not the slice. Probabilities stand for pixels (soft Dice).
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
    """The truth as 0…1 of each class by itself: (N, C, …)."""
    if truth.is_floating_point():
        return truth
    return functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).float()


def _monai_losses() -> ModuleType:
    """MONAI's losses; importing them takes seconds, so it is done when one is used.

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
