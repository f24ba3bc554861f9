"""Losses against values worked by hand and against their limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nodulens.errors import BadOption
from nodulens.methods.catalogue import RECIPES, RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.train.loop.losses import LOSSES, auxiliary, class_weights, focal, loss_of

SURE = 60.0
OVERLAPS = ("dice", "iou", "tversky")


def certain(truth: Tensor, classes: int) -> Tensor:
    """Logits that are sure of the truth."""
    if truth.is_floating_point():
        return SURE * (2 * truth - 1)
    return SURE * (2 * functional.one_hot(truth, classes).movedim(-1, 1).float() - 1)


def two_by_two(predicted: list[int], truth: list[int]) -> tuple[Tensor, Tensor]:
    """Background and nodule on four pixels: sure logits of the one, the other."""
    return certain(torch.tensor(predicted).view(1, 2, 2), 2), torch.tensor(truth).view(1, 2, 2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in LOSSES
        for kind in ("one of four", "each by itself", "classifier")
        if (name, kind) != ("cross-entropy", "each by itself")  # which no recipe may ask for
    ],
)
def test_what_is_right_costs_nothing(name: str, kind: str) -> None:
    torch.manual_seed(0)
    truth = {
        "one of four": torch.randint(4, (3, 8, 8)),
        "each by itself": torch.randint(2, (3, 4, 8, 8)).float(),
        "classifier": torch.randint(4, (5,)),
    }[kind]
    assert LOSSES[name](certain(truth, 4), truth, None).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](certain(truth, 4), truth, torch.rand(4) + 0.5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_against_the_gradient_helps(name: str) -> None:
    torch.manual_seed(0)
    truths = [torch.randint(3, (2, 8, 8)), torch.randint(2, (2, 3, 8, 8)).float()]
    for truth in truths[: 1 if name == "cross-entropy" else 2]:
        logits = torch.randn(2, 3, 8, 8, requires_grad=True)
        before = LOSSES[name](logits, truth, None)
        (slope,) = torch.autograd.grad(before, logits)
        assert torch.isfinite(slope).all()
        assert LOSSES[name](logits - 0.1 * slope / slope.norm(), truth, None) < before


def test_overlaps_by_hand() -> None:
    """One pixel right, one too much, none missed; one pixel is added above and below."""
    logits, truth = two_by_two([1, 1, 0, 0], [1, 0, 0, 0])
    assert LOSSES["dice"](logits, truth, None).item() == pytest.approx(1 - 2 / 2.5)
    assert LOSSES["iou"](logits, truth, None).item() == pytest.approx(1 - 2 / 3)
    assert LOSSES["tversky"](logits, truth, None).item() == pytest.approx(1 - 2 / 2.3)


def test_tversky_minds_what_is_missed_more() -> None:
    too_much = LOSSES["tversky"](*two_by_two([1, 1, 0, 0], [1, 0, 0, 0]), None)
    missed = LOSSES["tversky"](*two_by_two([1, 0, 0, 0], [1, 1, 0, 0]), None)
    assert missed.item() == pytest.approx(1 - 2 / 2.7)
    assert missed > too_much


def closed_form(name: str, logits: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    """The overlaps as they were computed before MONAI's losses took their place."""
    a, b = {"dice": (0.5, 0.5), "iou": (1.0, 1.0), "tversky": (0.3, 0.7)}[name]
    exclusive = not truth.is_floating_point()
    y = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).float() if exclusive else truth
    p = logits.softmax(1) if exclusive else logits.sigmoid()
    p, y = p.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1)
    both = (p * y).sum(1)
    lost = 1 - (both + 1) / (both + a * (p * (1 - y)).sum(1) + b * ((1 - p) * y).sum(1) + 1)
    share = torch.ones_like(lost) if weights is None else weights
    lost, share = (lost[1:], share[1:]) if exclusive else (lost, share)
    return (share * lost).sum() / share.sum()


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("kind", ["one of four", "each by itself", "classifier"])
@pytest.mark.parametrize("name", OVERLAPS)
def test_monais_overlaps_are_the_closed_form(name: str, kind: str, weighed: bool) -> None:
    torch.manual_seed(0)
    truth = {
        "one of four": torch.randint(4, (3, 9, 7)),
        "each by itself": torch.randint(2, (3, 4, 9, 7)).float(),
        "classifier": torch.randint(4, (5,)),
    }[kind]
    pixels = truth.shape[2 if truth.is_floating_point() else 1 :]
    logits = (3 * torch.randn(truth.shape[0], 4, *pixels)).requires_grad_()
    weights = torch.rand(4) + 0.5 if weighed else None
    ours, known = LOSSES[name](logits, truth, weights), closed_form(name, logits, truth, weights)
    assert ours.item() == pytest.approx(known.item(), abs=1e-6)
    slopes = [torch.autograd.grad(value, logits)[0] for value in (ours, known)]
    assert torch.allclose(*slopes, atol=1e-7)


@pytest.mark.parametrize("weighed", [False, True])
def test_sums_and_focal_losses_are_monais(weighed: bool) -> None:
    """Those that are not MONAI's code, for speed or for weights, give its numbers."""
    from monai.losses import DiceCELoss, FocalLoss

    torch.manual_seed(0)
    logits, truth, several = 3 * torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8)), torch.rand(2, 3, 8, 8).round()
    weights = torch.rand(3) if weighed else None
    focal_loss = FocalLoss(use_softmax=True, to_onehot_y=True, alpha=weights, reduction="none")
    assert torch.isclose(focal(logits, truth, weights), focal_loss(logits, truth[:, None]).sum(1).mean())
    assert torch.isclose(focal(logits, several, weights), FocalLoss(alpha=weights)(logits, several))
    if not weighed:
        smooth = {"smooth_nr": 2, "smooth_dr": 2}  # of twice the pixels
        both = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, **smooth)
        assert torch.isclose(LOSSES["dice+cross-entropy"](logits, truth, None), both(logits, truth[:, None]))


@pytest.mark.parametrize("name", OVERLAPS)
def test_a_class_that_is_nowhere(name: str) -> None:
    """Nothing predicted costs nothing; a false pixel costs, and says which way to go."""
    logits, truth = two_by_two([0, 0, 0, 0], [0, 0, 0, 0])
    assert LOSSES[name](logits, truth, None).item() == pytest.approx(0, abs=1e-6)
    logits, truth = two_by_two([1, 0, 0, 0], [0, 0, 0, 0])
    assert LOSSES[name](logits, truth, None).item() > 0.2
    unsure = torch.zeros(1, 2, 2, 2, requires_grad=True)
    LOSSES[name](unsure, truth, None).backward()
    assert unsure.grad is not None and (unsure.grad[:, 1] > 0).all()


@pytest.mark.parametrize(("name", "lost"), [("dice", 1 - 1 / 1.5), ("iou", 0.5), ("tversky", 1 - 1 / 1.7)])
def test_one_pixel_missed_on_a_large_slice(name: str, lost: float) -> None:
    truth = torch.zeros(1, 64, 64, dtype=torch.long)
    truth[0, 30, 40] = 1
    assert LOSSES[name](certain(torch.zeros_like(truth), 2), truth, None).item() == pytest.approx(lost)


def test_overlaps_count_over_the_batch_and_leave_out_the_background() -> None:
    """A false pixel on a slice without a nodule counts one pixel; how much background there is counts nothing."""
    logits, truth = two_by_two([1, 1, 0, 0], [1, 0, 0, 0])
    padded = functional.pad(logits[:, :1], (0, 9), value=SURE), functional.pad(logits[:, 1:], (0, 9), value=-SURE)
    larger = LOSSES["dice"](torch.cat(padded, 1), functional.pad(truth, (0, 9)), None)
    assert larger.item() == pytest.approx(LOSSES["dice"](logits, truth, None).item())
    split = logits.view(1, 2, 2, 2).movedim(2, 0).reshape(2, 2, 1, 2), truth.view(2, 1, 2)
    assert LOSSES["dice"](*split, None).item() == pytest.approx(larger.item())


def test_entropies_by_hand() -> None:
    logits, truth = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])  # p: 3/4 and 1/2
    each = (-math.log(0.75), -math.log(0.5))
    assert LOSSES["cross-entropy"](logits, truth, None).item() == pytest.approx(sum(each) / 2)
    weights = torch.tensor([1.0, 3.0])
    assert LOSSES["cross-entropy"](logits, truth, weights).item() == pytest.approx((each[0] + 3 * each[1]) / 4)
    assert focal(logits, truth).item() == pytest.approx((each[0] * 0.25**2 + each[1] * 0.5**2) / 2)
    one = torch.tensor([[math.log(3)]])
    assert LOSSES["bce"](one, torch.ones(1, 1), None).item() == pytest.approx(-math.log(0.75))
    assert LOSSES["bce"](one, torch.zeros(1, 1), None).item() == pytest.approx(-math.log(0.25))
    assert focal(one, torch.zeros(1, 1)).item() == pytest.approx(-math.log(0.25) * 0.75**2)


def test_focal_without_focus_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    assert focal(logits, truth, None, 0).item() == pytest.approx(LOSSES["cross-entropy"](logits, truth, None).item())
    several = torch.randint(2, (4, 3, 5, 5)).float()
    weights = torch.tensor([1.0, 2.0, 5.0])
    assert focal(logits, several, weights, 0).item() == pytest.approx(LOSSES["bce"](logits, several, weights).item())


def test_sums_are_of_their_parts() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 4, 6, 6), torch.randint(4, (2, 6, 6))
    parts = {name: LOSSES[name](logits, truth, None) for name in LOSSES}
    assert torch.isclose(parts["hybrid"], parts["cross-entropy"] + parts["iou"])
    assert torch.isclose(parts["dice+cross-entropy"], parts["cross-entropy"] + parts["dice"])
    several = torch.randint(2, (2, 4, 6, 6)).float()
    both = LOSSES["bce"](logits, several, None) + LOSSES["dice"](logits, several, None)
    assert torch.isclose(LOSSES["dice+cross-entropy"](logits, several, None), both)


def test_weights_make_classes_count_the_same() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    truth = torch.tensor([0] * 90 + [1] * 9 + [3])
    weights = class_weights(truth, 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=truth.numpy())
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[[2, 4]].tolist() == [0, 0]
    each = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 0.0]] * 6)
    assert class_weights(each, 2).tolist() == class_weights(each > 0, 2).tolist() == [3, 8]
    pixels = torch.zeros(2, 2, 4, 5, dtype=torch.bool)
    pixels[0, 0], pixels[1, 1, 0, 0] = True, True
    assert class_weights(pixels, 2).tolist() == class_weights(pixels.float(), 2).tolist() == [1, 39]


def test_weighted_is_the_mean_of_the_classes_there_are() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(1, 3, 10, 10), torch.zeros(1, 10, 10, dtype=torch.long)
    truth[0, 4, 4] = 2  # one pixel of class 2, none of class 1
    each = functional.cross_entropy(logits, truth, reduction="none")
    expected = (each[truth == 0].mean() + each[truth == 2].mean()) / 2
    assert torch.isclose(LOSSES["weighted"](logits, truth, None), expected)


@pytest.mark.parametrize("name", ["cross-entropy", "weighted", "focal", "dice", "iou", "tversky"])
def test_a_class_without_weight_teaches_nothing(name: str) -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.long)
    truth[0, 0], truth[0, 1, :2] = 1, 2
    missed = certain(torch.where(truth == 2, 0, truth), 3)
    assert LOSSES[name](missed, truth, torch.tensor([1.0, 1.0, 0.0])).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](missed, truth, torch.tensor([1.0, 1.0, 0.1])).item() > 0.01


def test_what_is_there_by_hand() -> None:
    """Two images: one with classes 0 and 2, one with background alone."""
    truth = torch.zeros(2, 3, 3, dtype=torch.long)
    truth[0, 1, 1] = 2
    logits = torch.tensor([[SURE, -SURE, 0.0], [SURE, -SURE, -SURE]])
    assert auxiliary(logits, truth).item() == pytest.approx(math.log(2) / 6)
    several = functional.one_hot(truth, 3).movedim(-1, 1).float()
    assert torch.equal(auxiliary(logits, several), auxiliary(logits, truth))


def test_the_second_head_counts_by_its_weight() -> None:
    config = SE_AUX_UNET.segmenter
    assert config is not None
    torch.manual_seed(0)
    logits, presence, truth = torch.randn(2, 4, 8, 8), torch.randn(2, 4), torch.randint(4, (2, 8, 8))
    outline = LOSSES[config.loss](logits, truth, None)
    both = loss_of(config)((logits, presence), truth)
    assert torch.isclose(both, outline + config.auxiliary * auxiliary(presence, truth))
    assert torch.equal(loss_of(replace(config, auxiliary=0))(logits, truth), outline)
    with pytest.raises(BadOption, match="second head"):
        loss_of(config)(logits, truth)


def test_every_recipe_names_a_loss_that_there_is() -> None:
    for recipe in RECIPES.values():
        for config in recipe.networks.values():
            loss_of(config)
    filter_ = RESNET_UNET_PATCH_CNN.filter
    assert filter_ is not None
    with pytest.raises(BadOption, match=r"tverski.*tversky"):
        loss_of(replace(filter_, loss="tverski"))
    weighed = loss_of(filter_, torch.tensor([4.0]))(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))
    assert weighed.item() == pytest.approx(math.log(2) * 5 / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_counts_every_pixel(name: str) -> None:
    """320 × 320 pixels are more than 16 bits count to; weights stay what they are."""
    assert RESNET_UNET_PATCH_CNN.filter is not None
    config = replace(RESNET_UNET_PATCH_CNN.filter, classes=("other", "nodule"))
    loss = loss_of(replace(config, loss=name), torch.ones(2))
    truth = torch.zeros(1, 320, 320, dtype=torch.long)
    truth[0, :160] = 1
    assert loss(certain(truth, 2).bfloat16(), truth).item() == pytest.approx(0, abs=1e-6)
    missed = certain(torch.zeros_like(truth), 2)
    assert loss(missed.bfloat16(), truth).item() == pytest.approx(loss(missed, truth).item(), rel=1e-6)
