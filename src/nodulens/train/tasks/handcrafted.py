"""Baselines without networks: handcrafted features of a nodule, and a support vector machine or random forest on them.

The features are those of :mod:`nodulens.stages.features`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nodulens.data.material import Stacks
from nodulens.errors import BadOption
from nodulens.stages.features import depth_features, slice_features
from nodulens.train.tasks.classification import evaluated
from nodulens.train.tasks.classification_figures import EvaluatedNodules
from nodulens.train.tasks.nodule_material import NoduleMaterial, Nodules, load_nodules
from nodulens.train.tasks.protocol import Rows, median_ms

Float = NDArray[np.float64]
Kind = Literal["svm", "forest"]

CLASSES = ("benign", "malignant")

TREES = 500


@dataclass(frozen=True, eq=False)
class Features(NoduleMaterial):
    """Benign and malignant nodules with their features.

    Attributes:
        names: of the features.
        values: (N, features).
    """

    names: tuple[str, ...]
    values: Float


def load(data: Path) -> Features:
    """Every nodule whose median malignancy is not 3.

    Raises:
        NotFound: the folder has no stacks.
    """
    stacks, nodules = load_nodules(data, CLASSES)
    rows = [_features(stacks, nodules, k) for k in range(len(nodules.truth))]
    return Features(nodules, tuple(rows[0]), np.array([list(r.values()) for r in rows]))


def _features(stacks: Stacks, nodules: Nodules, k: int) -> dict[str, float]:
    """The features of one nodule."""
    n, pixel = int(nodules.origin[k]), float(nodules.pixel_mm[k])
    image, spacing = stacks.unit(n), stacks.spacing_zyx(n)
    of_slice = slice_features(image[nodules.central[k]], nodules.outline[k], (pixel, pixel))
    return of_slice | depth_features(image[stacks.truth(n)], pixel**2 * spacing[0])


def evaluate(
    kind: Kind, material: Features, rows: Rows, test: Rows, *, seed: int = 0, trees: int = TREES
) -> EvaluatedNodules:
    """Train a classifier on ``rows`` and evaluate it on ``test``; figures as for the networks.

    Args:
        trees: number in the forest.

    Raises:
        BadOption: another kind.
    """
    if kind not in get_args(Kind):
        raise BadOption(f"There is no classifier {kind!r}; there are {', '.join(get_args(Kind))}.")
    score = _trained(kind, material, rows, seed, trees)(material.values[test])
    return evaluated(material.nodules, test, np.stack([np.zeros_like(score), score], axis=1))


def milliseconds(kind: Kind, material: Features, data: Path, count: int = 10) -> float:
    """Time of features and classification of a nodule on the CPU, median over nodules spread evenly over all."""
    stacks, nodules = Stacks(data), material.nodules
    score = _trained(kind, material, np.arange(len(nodules.truth)))

    def grade(k: int) -> None:
        score(np.array([list(_features(stacks, nodules, k).values())]))

    return median_ms(partial(grade, k) for k in np.linspace(0, len(nodules.truth) - 1, count).astype(int).tolist())


def _trained(kind: Kind, material: Features, rows: Rows, seed: int = 0, trees: int = TREES) -> Callable[[Float], Float]:
    values, truth = material.values[rows], material.nodules.truth[rows]
    return _svm(values, truth, seed) if kind == "svm" else _forest(values, truth, seed, trees)


def _svm(values: Float, truth: NDArray[np.int_], seed: int) -> Callable[[Float], Float]:
    """A support vector machine with radial basis functions on standardised features; the score is its decision
    function."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    model = make_pipeline(StandardScaler(), SVC(class_weight="balanced", random_state=seed)).fit(values, truth)
    return model.decision_function


def _forest(values: Float, truth: NDArray[np.int_], seed: int, trees: int) -> Callable[[Float], Float]:
    """A random forest; the score is the log odds of its trees' mean probability."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(trees, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    model.fit(values, truth)

    def score(features: Float) -> Float:
        p = np.clip(model.predict_proba(features)[:, 1], 0.5 / trees, 1 - 0.5 / trees)
        return np.log(p / (1 - p))

    return score
