"""How far a nodule is from those that the malignancy network and the forest were trained on, in their features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nodulens.data.folds import fold_of, may_train
from nodulens.stages.classify import distance
from nodulens.stages.features import nodule_features
from nodulens.train.default.malignancy import Planes, nodule_views, pooled
from nodulens.train.default.measured import logged
from nodulens.train.default.untaught import Shown
from nodulens.train.networks.default_method import PooledClassifier
from nodulens.train.networks.whitening import Whitening

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Taught:
    """A network and what the features of its training set are like.

    Attributes:
        seen: whitens its pooled features.
        measured: whitens the measured ones, sizes by their logarithm.
    """

    net: PooledClassifier
    seen: Whitening
    measured: Whitening

    @classmethod
    def of(cls, net: PooledClassifier, material: Planes, left_out: int | None) -> Taught:
        """By the entries that the network was trained on."""
        own = may_train(material.patients, left_out)
        measured = logged(material.features[own], material.names)
        return cls(net, Whitening.fitted(pooled(net, *views_of(material, own))), Whitening.fitted(measured))

    @torch.inference_mode()
    def distances(self, features: NDArray[np.floating], measured: NDArray[np.floating]) -> Float:
        """Of nodules (n,), see :func:`nodulens.stages.classify.distance`.

        Args:
            features: (n, features) pooled.
            measured: (n, features) as :func:`nodulens.train.default.measured.logged` gives them.
        """
        both = ((self.seen, features), (self.measured, measured))
        return distance(*(w(torch.from_numpy(x.astype(np.float32))).numpy() for w, x in both))


def views_of(material: Planes, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float16], NDArray[np.int_]]:
    """The views of some entries (N,), and whose each is, counted among those."""
    rows = chosen[material.nodule]
    return material.image[rows], (np.cumsum(chosen) - 1)[material.nodule[rows]]


@torch.inference_mode()
def out_of_fold(material: Planes, by_fold: Sequence[Taught]) -> tuple[NDArray[np.float32], Float]:
    """Logits (N, ratings) and distances (N,) of all entries, each by the network that left its patient out."""
    fold = np.array([fold_of(patient) for patient in material.patients])
    logits, away = np.zeros(material.target.shape, dtype=np.float32), np.zeros(len(fold))
    for number, taught in enumerate(by_fold):
        own = fold == number
        features = pooled(taught.net, *views_of(material, own))
        logits[own] = taught.net.classify(torch.from_numpy(features)).numpy()
        away[own] = taught.distances(features, logged(material.features[own], material.names))
    return logits, away


def distances_of(shown: Iterable[Shown], by_fold: Sequence[Taught]) -> Float:
    """Distances (n,) of what is shown, each by the network that left its patient out."""
    away = []
    for one in shown:
        taught = by_fold[fold_of(one.patient)]
        views = nodule_views(one.image, one.mask, one.spacing_zyx)
        measured = nodule_features(one.image, one.mask, one.spacing_zyx)
        values = logged(np.array([list(measured.values())]), tuple(measured))
        away.append(taught.distances(pooled(taught.net, views, np.zeros(len(views), dtype=int)), values)[0])
    return np.array(away)
