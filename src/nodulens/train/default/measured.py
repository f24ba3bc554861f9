"""The forest on handcrafted features, trained on the readers' mean malignancy beside the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from nodulens.data.folds import FOLDS, is_left_out, may_train
from nodulens.train.default.malignancy import Planes
from nodulens.train.networks.forest import Forest, forest_of


@dataclass(frozen=True)
class Growing:
    """How the trees are grown.

    Attributes:
        trees: number.
        depth: of each at most.
        least: nodules at an end.
        share: of the features that are tried at each split.
    """

    trees: int = 200
    depth: int = 8
    least: int = 3
    share: float = 0.5
    seed: int = 0


GROWING = Growing()


def train(material: Planes, left_out: int | None, growing: Growing = GROWING) -> Forest:
    """Fit a forest without the patients of the fold ``left_out``; lengths, areas and volumes count by their logarithm,
    nodules by the square root of the number of their readers."""
    rows = np.flatnonzero(may_train(material.patients, left_out))
    values = logged(material.features[rows], material.names)
    fitted = ExtraTreesRegressor(
        growing.trees,
        max_depth=growing.depth,
        min_samples_leaf=growing.least,
        max_features=growing.share,
        random_state=growing.seed,
    ).fit(values, material.target[rows, 0], np.sqrt(material.readers[rows]))
    return forest_of(fitted, sizes_of(material.names))


def sizes_of(names: Sequence[str]) -> list[int]:
    """Which features are lengths, areas or volumes."""
    return [k for k, name in enumerate(names) if name.endswith(("_mm", "_mm2", "_mm3"))]


def logged(features: NDArray[np.floating], names: Sequence[str]) -> NDArray[np.float32]:
    """Features (N, features), sizes by their logarithm."""
    values, sizes = features.astype(np.float32), sizes_of(names)
    values[:, sizes] = np.log(values[:, sizes])
    return values


@torch.inference_mode()
def evaluate(forest: Forest, material: Planes, nodules: NDArray[np.int_]) -> NDArray[np.float32]:
    """Malignancy logits (n,) of entries."""
    return np.asarray(forest(torch.from_numpy(material.features[nodules].astype(np.float32)))[:, 0].numpy())


def cross_validate(material: Planes, growing: Growing = GROWING) -> NDArray[np.float32]:
    """Out-of-fold logits (N,) of all entries."""
    logits = np.full(len(material.patients), np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        rows = np.flatnonzero(is_left_out(material.patients, fold))
        logits[rows] = evaluate(train(material, fold, growing), material, rows)
    return logits
