"""Grad-CAM and SHAP values: exact where the network is simple, and of what was learnt."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodulens.errors import BadOption, BadValues
from nodulens.evaluate.explain import Faithfulness, faithfulness, grad_cam, shap_values
from nodulens.methods.catalogue import CONV3_CLASSIFIER, NNUNET_SAM, SAM2_DENSENET
from nodulens.methods.recipe import NetworkConfig
from nodulens.presentation.figures import Basis, to_png
from nodulens.presentation.panels import Explained, explained_figure
from nodulens.train.networks.registry import build

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32


class Corner(nn.Module):
    """Class 1 by the light in the upper left quarter of what one convolution lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.features.weight)

    def forward(self, x: Tensor) -> Tensor:
        light = self.features(x)[:, 0, : SIDE // 2, : SIDE // 2].sum((1, 2))
        return torch.stack([torch.zeros_like(light), light], 1)


class Linear(nn.Module):
    """Logits by a weighted sum of pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(SIDE * SIDE, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1))  # type: ignore[no-any-return]


def learnt() -> tuple[nn.Module, Tensor]:
    """A network that tells where a bright spot lies: class 1 on the left, 0 on the right; and pictures of both."""
    assert CONV3_CLASSIFIER.classifier is not None
    torch.manual_seed(0)
    net = build(replace(CONV3_CLASSIFIER.classifier, size=SIDE))
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(0.2, 0.05, (64, 1, SIDE, SIDE)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 2, 64))
    for image, left in zip(x, y, strict=True):
        row, column = rng.integers(6, 22), rng.integers(3, 7) + (0 if left else 18)
        image[0, row : row + 4, column : column + 4] += 0.7
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode():
        assert float((net(x).argmax(1) == y).float().mean()) > 0.95
    return net, torch.cat([x[y == 1][:4], x[y == 0][:4]])


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    torch.set_num_threads(1)
    return learnt()


def shuffled(net: nn.Module) -> nn.Module:
    """The same weights in another order, layer by layer."""
    assert CONV3_CLASSIFIER.classifier is not None
    other = build(replace(CONV3_CLASSIFIER.classifier, size=SIDE))
    other.load_state_dict(net.state_dict())
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in other.parameters():
            weights.copy_(weights.flatten()[torch.randperm(weights.numel())].view_as(weights))
    return other.eval()


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation over pixels, mean over images."""
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]))


# ---- Grad-CAM


def test_a_map_by_hand() -> None:
    """With one feature the map is the feature, where it speaks for the class; against it, nothing."""
    x = torch.rand(3, 1, SIDE, SIDE)
    np.testing.assert_allclose(grad_cam(Corner(), x, 1), (x / x.amax((2, 3), keepdim=True))[:, 0], atol=1e-5)
    assert not grad_cam(Corner(), x, 0).any()


def test_the_map_lies_where_the_network_was_taught_to_look(trained: tuple[nn.Module, Tensor]) -> None:
    net, x = trained
    heat = grad_cam(net, x[:4], 1, cells=2)
    assert heat.shape == (4, SIDE, SIDE) and heat.dtype == np.float32
    np.testing.assert_allclose(heat.max((1, 2)), 1, atol=1e-5)
    assert heat[:, :, : SIDE // 2].sum() > heat[:, :, SIDE // 2 :].sum()


def test_the_map_changes_when_the_weights_are_shuffled(trained: tuple[nn.Module, Tensor]) -> None:
    """A map that does not depend on what was learnt explains nothing (Adebayo et al. 2018)."""
    net, x = trained
    other = shuffled(net)
    before, after = (grad_cam(n, x[:4], 1) for n in (net, other))
    # the spot is what any convolution answers to, so the maps stay alike in part
    assert np.abs(before - after).mean() > 0.2 and alike(before, after) < 0.95
    one, two = (shap_values(n, x[:2], 1, x, samples=40) for n in (net, other))
    assert alike(one, two) < 0.5


@pytest.mark.parametrize("config", [CONV3_CLASSIFIER.classifier, SAM2_DENSENET.classifier, NNUNET_SAM.classifier],
                         ids=["conv3", "densenet121", "efficientnet-b0"])  # fmt: skip
def test_every_classifier_of_the_recipes_can_be_explained(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    net = build(replace(config, size=64))
    modes = [m.training for m in net.modules()]
    x = torch.rand(2, 1, 64, 64)
    for maps in (grad_cam(net, x, 1), shap_values(net, x, 1, torch.zeros(1, 1, 64, 64), samples=4)):
        assert maps.shape == (2, 64, 64) and np.isfinite(maps).all()
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_what_cannot_be_explained() -> None:
    x = torch.rand(1, 1, SIDE, SIDE)
    with pytest.raises(BadOption, match="no map of 4 × 4"):
        grad_cam(Linear(), x, 1)
    with pytest.raises(BadOption, match="no number 2"):
        grad_cam(Corner(), x, 2)
    with pytest.raises(BadOption, match="background"):
        shap_values(Linear(), x, 1, x[:0])


# ---- SHAP


def test_values_of_a_linear_network_are_exact() -> None:
    """Weight times the pixel less its mean over the background, whichever points were drawn."""
    net, x, background = Linear(), torch.rand(2, 1, SIDE, SIDE), torch.rand(5, 1, SIDE, SIDE)
    weight = (net.dense.weight[1] - net.dense.weight[0]).view(SIDE, SIDE)
    expected = (weight * (x - background.mean(0))[:, 0]).detach().numpy()
    np.testing.assert_allclose(shap_values(net, x, 1, background, samples=10), expected, atol=1e-6)


def test_values_add_up_to_the_answer(trained: tuple[nn.Module, Tensor]) -> None:
    net, x = trained
    background = x[4:]
    values = shap_values(net, x[:4], 1, background, samples=400)
    with torch.inference_mode():
        odds, base = ((v[:, 1] - v[:, 0]).numpy() for v in (net(x[:4]), net(background)))
    gap = odds - base.mean()
    np.testing.assert_allclose(values.sum((1, 2)), gap, rtol=0.15)
    # what speaks for the left lies on the left, or is the missing spot on the right
    spot = x[:4, 0].numpy() > 0.6
    assert values[spot].sum() > 0.2 * gap.sum()


def test_values_against_shapley_by_definition() -> None:
    """Four players, all orders counted, one background: a product of pairs is shared half and half."""

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            a, b, c, d = x.flatten(1).unbind(1)
            value = self.scale * (2 * a * b - 3 * c * d + a)
            return torch.stack([torch.zeros_like(value), value], 1)

    net, x, base = Pairs(), torch.tensor([[[[0.9, 0.4], [0.3, 0.8]]]]), torch.zeros(1, 1, 2, 2)

    def worth(players: set[int]) -> float:
        there = torch.tensor([k in players for k in range(4)]).view(1, 1, 2, 2)
        return float(net(torch.where(there, x, base))[0, 1].detach())

    shapley = np.zeros(4)
    for order in permutations(range(4)):
        for k, player in enumerate(order):
            shapley[player] += (worth(set(order[: k + 1])) - worth(set(order[:k]))) / 24
    found = shap_values(net, x, 1, base, samples=2000)
    np.testing.assert_allclose(found.ravel(), shapley, atol=2e-3)


def test_the_same_seed_the_same_values(trained: tuple[nn.Module, Tensor]) -> None:
    net, x = trained
    one, same, other = (shap_values(net, x[:1], 1, x, samples=20, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


# ---- How well a map explains


def test_deletion_and_insertion_by_hand() -> None:
    """Four pixels of 4, 2, 1 and 0 replaced by 0, and one beside them that stays: sums of what is left."""
    image = np.float32([[[4, 2, 1, 0, 8]]])

    def total(images: np.ndarray) -> np.ndarray:
        return images.sum((1, 2, 3))

    best = faithfulness(total, image, np.zeros_like(image), np.array([0, 1, 2, 3]), steps=4)
    # deletion passes 15, 11, 9, 8, 8; insertion 8, 12, 14, 15, 15
    assert best == Faithfulness(pytest.approx(9.875), pytest.approx(13.125))
    worst = faithfulness(total, image, np.zeros_like(image), np.array([3, 2, 1, 0]), steps=4)
    assert worst == Faithfulness(pytest.approx(13.125), pytest.approx(9.875))
    with pytest.raises(BadOption, match="needs pixels and steps"):
        faithfulness(total, image, image, np.array([], int))


# ---- The figure


def test_the_figure() -> None:
    rng = np.random.default_rng(0)
    cases = [
        Explained(f"malignant, p {p}", rng.random((24, 24)), rng.random((24, 24)), rng.normal(size=(24, 24)))
        for p in (0.9, 0.2)
    ]
    figure = explained_figure(cases, Basis(2, note="conv3, malignant"))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["input", "Grad-CAM", "SHAP"] and len(figure.axes) == 6
    assert to_png(figure)[:4] == b"\x89PNG"
    with pytest.raises(BadValues, match="no case"):
        explained_figure([], Basis(0))
    with pytest.raises(BadValues, match="one shape"):
        replace(cases[0], heat=np.zeros((3, 3)))


def test_the_colours_of_the_figure() -> None:
    zeros: np.ndarray[Any, Any] = np.zeros((24, 24))
    heat, shares = zeros.copy(), zeros.copy()
    heat[0, 0], shares[4:7, 4:7], shares[14:17, 14:17] = 1, 2, -1
    figure = explained_figure([Explained("x", zeros + 0.5, heat, shares)], Basis(1))
    plain, cam, shap = (axes.get_images()[0].get_array() for axes in figure.axes)
    assert (cam != plain).any(-1).sum() == 1 and cam[0, 0, 0] > cam[0, 0, 2]
    assert shap[5, 5, 0] > shap[5, 5, 2] + 50 and shap[15, 15, 2] > shap[15, 15, 0] + 20
    assert shap[5, 20].tolist() == [64, 64, 64]
