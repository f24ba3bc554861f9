"""The malignancy network, trained on the readers' ratings of nodules in stacks and cubes.

Its targets are the readers' mean malignancy and, as auxiliary tasks, their ratings of surface and texture. It is
trained on every nodule, the indeterminate ones too; the probability is calibrated afterwards on median > 3 against < 3,
out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from nodulens.core.geometry import disc_diameter_mm
from nodulens.data.folds import may_train
from nodulens.data.material import Cubes, NoduleMaterial, Stacks
from nodulens.stages.features import nodule_features
from nodulens.stages.views import plane_view, plane_window, representative_slices, soft_outline
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values, warp_planes
from nodulens.train.loop.fit import Batch, Maker, Task, fit, predict
from nodulens.train.networks.default_method import PooledClassifier, malignancy_net

TARGETS = ("malignancy", "spiculation", "lobulation", "margin", "texture", "sphericity", "calcification")
TRAINING = DefaultTraining(epochs=12, learning_rate=3e-3, batch=64, examples=None, precision="mixed")


STACKS, CUBES, OWN = "stacks", "cubes", "own"
"""Where an entry is from: a stack with the readers' outline, a cube with theirs, a cube with the program's own."""


@dataclass(frozen=True)
class Planes:
    """The central slices and the features of every nodule, as often as it is shown: an entry for each outline of it.

    Attributes:
        image: (M, 2, 64, 64) float16 image and outline.
        nodule: (M,) entry in ``patients``.
        patients: of the N entries.
        source: (N,) :data:`STACKS`, :data:`CUBES` or :data:`OWN`.
        features: (N, features) of :func:`nodulens.stages.features.nodule_features`, named by ``names``.
        target: (N, 7) readers' means on 0…1, in the order of :data:`TARGETS`.
        medians: (N, 7) readers' medians as they rate.
        diameter_mm: (N,) diameter of the disc of the largest axial area of the outline.
        readers: (N,) number of readers.
        share: (N,) of the readers who rated above 3.
        calibration: (N,) code of the largest slice of a stack, 0 of a cube; never an input.
    """

    image: NDArray[np.float16]
    nodule: NDArray[np.int_]
    patients: list[str]
    source: NDArray[np.str_]
    features: NDArray[np.float64]
    names: tuple[str, ...]
    target: NDArray[np.float32]
    medians: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]
    readers: NDArray[np.uint8]
    share: NDArray[np.float32]
    calibration: NDArray[np.uint8]


def planes(stacks: Stacks, cubes: Cubes, own: Mapping[int, NDArray[np.bool_]]) -> Planes:
    """Load the nodules whose consensus (half of the readers) is not empty.

    Args:
        own: number of a cube → the program's own outline of its nodule, see
            :func:`nodulens.train.default.own_outlines.own_outlines`.
    """
    views: list[NDArray[np.float16]] = []
    owner: list[int] = []
    features: list[dict[str, float]] = []
    rated: list[tuple[str, str, NDArray[np.float32], NDArray[np.float32], float]] = []
    measured: list[tuple[float, int, int]] = []
    shown: list[tuple[str, NoduleMaterial, int, NDArray[np.bool_]]] = []
    shown += [(STACKS, stacks, n, stacks.truth(n)) for n in stacks.nodules.tolist()]
    shown += [(CUBES, cubes, n, cubes.truth(n)) for n in cubes.nodules.tolist()]
    shown += [(OWN, cubes, n, mask) for n, mask in own.items()]
    ratings = {material.name: _Rated.of(material) for material in (stacks, cubes)}
    for source, material, n, mask in shown:
        if not mask.any():
            continue
        image, spacing = material.unit(n), material.spacing_zyx(n)
        views.append(nodule_views(image, mask, spacing))
        owner += [len(features)] * len(views[-1])
        features.append(nodule_features(image, mask, spacing))
        area = mask.sum(axis=(1, 2))
        code = int(stacks.calibration(n)[area.argmax()]) if material is stacks else 0
        measured.append((disc_diameter_mm(int(area.max()), spacing[1]), material.readers(n), code))
        r = ratings[material.name]
        rated.append((material.patients[n], source, r.mean[n], r.median[n], float(r.share[n])))
    patients, source_of, means, medians, share = zip(*rated, strict=True)
    diameter, readers, codes = zip(*measured, strict=True)
    scale = np.array([5.0 if name == "calcification" else 4.0 for name in TARGETS], dtype=np.float32)
    return Planes(
        np.concatenate(views),
        np.asarray(owner),
        list(patients),
        np.array(source_of),
        np.array([list(row.values()) for row in features]),
        tuple(features[0]),
        np.clip((np.stack(means) - 1) / scale, 0, 1),
        np.stack(medians),
        np.array(diameter, dtype=np.float32),
        np.array(readers, dtype=np.uint8),
        np.array(share, dtype=np.float32),
        np.array(codes, dtype=np.uint8),
    )


def nodule_views(
    image: NDArray[np.float32], mask: NDArray[np.bool_], spacing_zyx: tuple[float, float, float]
) -> NDArray[np.float16]:
    """Image and outline (n, 2, 64, 64) of a nodule on its most telling slices; the outline is not softened.

    Args:
        image: (z, y, x) 0…1.
        mask: the same shape, not empty.
        spacing_zyx: mm.
    """
    windows = ((z, plane_window(mask[z], spacing_zyx[1:])) for z in representative_slices(mask))
    return np.stack([plane_view(image[z], mask[z], window) for z, window in windows]).astype(np.float16)


@dataclass(frozen=True)
class _Rated:
    """The readers' ratings of a material: means and medians (N, 7), and the share who rated malignancy above 3."""

    mean: NDArray[np.float32]
    median: NDArray[np.float32]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, material: NoduleMaterial) -> _Rated:
        r = material.ratings
        mean, median = (np.stack([pooled(name) for name in TARGETS], 1) for pooled in (r.mean, r.median))
        return cls(mean, median, r.share_above("malignancy", 3))


def train(material: Planes, left_out: int | None, run: Path, training: DefaultTraining = TRAINING) -> PooledClassifier:
    """Train a network without the patients of the fold ``left_out``."""
    allowed = np.flatnonzero(may_train(material.patients, left_out))
    by_nodule = [np.flatnonzero(material.nodule == n) for n in range(len(material.patients))]
    # extreme ratings are rarer and matter most: one more sample for each unit away from the middle
    draws = np.repeat(allowed, np.where(np.abs(material.target[allowed, 0] - 0.5) > 0.3, 2, 1))

    def batches(rng: np.random.Generator) -> list[Maker]:
        order, n = rng.permutation(draws), training.batch
        return [partial(make, order[i : i + n], rng) for i in range(0, len(order) - n + 1, n)]

    def make(nodules: NDArray[np.int_], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = [rng.choice(by_nodule[n]) for n in nodules]
        x = torch.from_numpy(material.image[rows].astype(np.float32))
        # a little zoom only: size is half of what the readers rated by
        x = warp_planes(x, rng, x.shape[-1], zoom=1.06, shift_px=2)
        x[:, :1] = shake_values(x[:, :1], rng)
        # at inference the outline is a network's, so its rim varies
        wobble = ndimage.zoom(rng.normal(0, 0.1, (len(rows), 8, 8)).astype(np.float32), (1, 8, 8), order=1)
        x[:, 1] = torch.from_numpy(soft_outline(x[:, 1].numpy(), wobble))
        weight = torch.from_numpy(np.sqrt(material.readers[nodules]).astype(np.float32))
        return x, torch.from_numpy(material.target[nodules]), weight

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        image, outline = augmented(batch[0][:, :1], batch[0][:, 1:], training.augment, rng)
        assert outline is not None
        return torch.cat([image, outline], 1), *batch[1:]

    torch.manual_seed(training.seed)
    task = Task(batches, rating_loss, augment if training.augment else None)
    return fit(malignancy_net(len(TARGETS)), task, training, run / f"fold{left_out}.pt")


def rating_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Cross entropy against the readers' means; malignancy has half of the weight."""
    x, target, weight = batch
    each = functional.binary_cross_entropy_with_logits(net(x), target, reduction="none") * weight[:, None]
    return (each[:, 0] + each[:, 1:].mean(1)).mean()


def pooled(net: PooledClassifier, image: NDArray[np.float16], owner: NDArray[np.int_]) -> NDArray[np.float32]:
    """Features (n, features) before the last layer: means over the slices of a nodule and four flips, outlines softened
    as in training.

    Args:
        image: (M, 2, 64, 64) views.
        owner: (M,) whose each is, 0…n − 1.
    """
    x = torch.from_numpy(image.astype(np.float32))
    x[:, 1] = torch.from_numpy(soft_outline(x[:, 1].numpy()))
    turns = (x, x.flip(2), x.flip(3), x.flip(2, 3))
    found = torch.stack([predict(Pooled(net), v.split(256)) for v in turns]).mean(0).numpy()
    total = np.zeros((int(owner.max()) + 1, found.shape[1]))
    np.add.at(total, owner, found)
    return np.asarray(total / np.bincount(owner)[:, None], dtype=np.float32)


class Pooled(nn.Module):
    """A classifier up to its last layer."""

    def __init__(self, net: PooledClassifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.pooled(x)
