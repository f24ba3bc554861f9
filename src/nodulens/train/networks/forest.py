"""A forest of regression trees as a network, so that it is exported and run as the others are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor, nn

from nodulens.train.networks.whitening import Whitening

Float = NDArray[np.float32]
ALWAYS = float(np.finfo(np.float32).max)
"""Threshold that every value is below."""
LEAST = 1e-6
"""Smallest size whose logarithm is taken."""


class Forest(nn.Module):
    """Trees of one depth, each a complete binary tree in one row: the children of node i are 2 i + 1 and 2 i + 2.

    A value goes left if it is at most the threshold. Where a fitted tree ends early, all go left down to its depth.

    Args:
        feature: (trees, 2^depth − 1) index of the feature that a node looks at.
        threshold: the same shape.
        value: (trees, 2^depth) share of malignancy, 0…1, at the ends.

    Shape:
        input (N, features), output (N, 1) log odds of the trees' mean.
    """

    feature: Tensor
    threshold: Tensor
    value: Tensor
    first: Tensor
    first_end: Tensor

    def __init__(self, feature: NDArray[np.int64], threshold: Float, value: Float) -> None:
        super().__init__()
        trees, nodes = feature.shape
        self.depth = int(np.log2(nodes + 1))
        self.register_buffer("feature", torch.from_numpy(feature.ravel()))
        self.register_buffer("threshold", torch.from_numpy(threshold.ravel()))
        self.register_buffer("value", torch.from_numpy(value.ravel()))
        self.register_buffer("first", torch.arange(trees)[None] * nodes)
        self.register_buffer("first_end", torch.arange(trees)[None] * (nodes + 1) - nodes)

    def forward(self, x: Tensor) -> Tensor:
        node = torch.zeros_like(x[:, :1], dtype=torch.int64) + torch.zeros_like(self.first)
        for _ in range(self.depth):
            at = self.first + node
            right = x.gather(1, self.feature[at]) > self.threshold[at]
            node = 2 * node + 1 + right.to(torch.int64)
        mean = self.value[self.first_end + node].mean(1, keepdim=True).clamp(1e-3, 1 - 1e-3)
        return torch.log(mean / (1 - mean))


class MeasuredForest(nn.Module):
    """A forest with the features that it looks at, whitened.

    Args:
        logarithmic: features that are whitened by their logarithm.

    Shape:
        input (N, features), output (N, 1) log odds and (N, features).
    """

    by_logarithm: Tensor

    def __init__(self, forest: Forest, whitening: Whitening, logarithmic: Sequence[int]) -> None:
        super().__init__()
        self.forest, self.whitening = forest, whitening
        size = len(whitening.mean)
        self.register_buffer("by_logarithm", torch.isin(torch.arange(size), torch.tensor(logarithmic)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logarithm = x.clamp(min=LEAST).log()
        return self.forest(x), self.whitening(torch.where(self.by_logarithm, logarithm, x))


def forest_of(fitted: ExtraTreesRegressor, logarithmic: Sequence[int] = ()) -> Forest:
    """A fitted forest with a limited depth, of one output in 0…1.

    Args:
        logarithmic: features that it was fitted to the logarithm of; the network takes them as they are.
    """
    trees = [one.tree_ for one in fitted.estimators_]
    depth = max(1, *(tree.max_depth for tree in trees))
    feature = np.zeros((len(trees), 2**depth - 1), dtype=np.int64)
    threshold = np.full(feature.shape, ALWAYS, dtype=np.float32)
    value = np.zeros((len(trees), 2**depth), dtype=np.float32)
    for row, tree in enumerate(trees):
        level = {0: 0}  # place in the row → node of the fitted tree
        for _ in range(depth):
            below = {}
            for place, node in level.items():
                left, right = int(tree.children_left[node]), int(tree.children_right[node])
                if left < 0:
                    below[2 * place + 1] = node
                    continue
                index, cut = int(tree.feature[node]), float(tree.threshold[node])
                feature[row, place] = index
                threshold[row, place] = _rounded_down(np.exp(cut) if index in logarithmic else cut)
                below |= {2 * place + 1: left, 2 * place + 2: right}
            level = below
        for place, node in level.items():
            value[row, place - feature.shape[1]] = tree.value[node].item()
    return Forest(feature, threshold, value)


def _rounded_down(cut: float) -> np.float32:
    """The largest float32 that is not above: the same float32 are at most either."""
    near = np.float32(cut)
    return near if near <= cut else np.nextafter(near, np.float32(-np.inf))
