"""The malignancy network, trained on the readers' ratings.

Its targets are the readers' mean malignancy and, as auxiliary tasks, their ratings of surface and texture. It is
trained on every nodule, the indeterminate ones too; the probability is calibrated afterwards on median > 3 against < 3,
out of fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from nodulens.data.folds import FOLDS, is_left_out, may_train
from nodulens.data.material import Stacks
from nodulens.stages.views import plane_view, plane_window, representative_slices, soft_outline
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values, warp_planes
from nodulens.train.loop.fit import Batch, Maker, Task, fit, predict
from nodulens.train.networks.default_method import MapClassifier, malignancy_net

TARGETS = ("malignancy", "spiculation", "lobulation", "margin", "texture", "sphericity", "calcification")
TRAINING = DefaultTraining(epochs=12, learning_rate=3e-3, batch=64, examples=None)


@dataclass(frozen=True)
class Planes:
    """The central slices of every nodule.

    Attributes:
        image: (M, 2, 64, 64) float16 image and consensus outline.
        nodule: (M,) row of the nodule in ``patients``.
        target: (N, 7) readers' means on 0…1, in the order of :data:`TARGETS`.
        diameter_mm: (N,) diameter of the disc of the largest axial area of the consensus.
        median: (N,) of malignancy.
        readers: (N,) number of readers.
        share: (N,) of the readers who rated above 3.
        calibration: (N,) code of the largest slice; never an input.
    """

    image: NDArray[np.float16]
    nodule: NDArray[np.int_]
    patients: list[str]
    target: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]
    median: NDArray[np.float32]
    readers: NDArray[np.uint8]
    share: NDArray[np.float32]
    calibration: NDArray[np.uint8]


def planes(stacks: Stacks) -> Planes:
    """Load the slices of nodules whose consensus (half of the readers) is not empty."""
    views, owner, diameter, code = [], [], [], []
    kept: list[int] = []
    for n in stacks.nodules.tolist():
        central = stacks.central(n)
        if central is None:
            continue
        image, mask, pixel = stacks.unit(n), stacks.truth(n), stacks.spacing_zyx(n)[1]
        for z in representative_slices(mask):
            views.append(plane_view(image[z], mask[z], plane_window(mask[z], (pixel, pixel))).astype(np.float16))
            owner.append(len(kept))
        diameter.append(central.diameter_mm)
        code.append(stacks.calibration(n)[central.index])
        kept.append(n)
    r = stacks.ratings
    scale = np.array([5.0 if name == "calcification" else 4.0 for name in TARGETS], dtype=np.float32)
    target = (np.stack([r.mean(name) for name in TARGETS], 1)[kept] - 1) / scale
    return Planes(
        np.stack(views),
        np.asarray(owner),
        [stacks.patients[k] for k in kept],
        np.clip(target, 0, 1),
        np.asarray(diameter, dtype=np.float32),
        r.median("malignancy")[kept],
        r.readers[kept],
        r.share_above("malignancy", 3)[kept],
        np.asarray(code),
    )


def train(material: Planes, left_out: int | None, run: Path, training: DefaultTraining = TRAINING) -> MapClassifier:
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
    each = functional.binary_cross_entropy_with_logits(net(x)[0], target, reduction="none") * weight[:, None]
    return (each[:, 0] + each[:, 1:].mean(1)).mean()


def evaluate(net: nn.Module, material: Planes, nodules: NDArray[np.int_]) -> NDArray[np.float32]:
    """Malignancy logits of nodules: means over their slices and four flips, outlines softened as in training."""
    rows = np.flatnonzero(np.isin(material.nodule, nodules))
    x = torch.from_numpy(material.image[rows].astype(np.float32))
    x[:, 1] = torch.from_numpy(soft_outline(x[:, 1].numpy()))
    turns = (x, x.flip(2), x.flip(3), x.flip(2, 3))
    logits = torch.stack([predict(net, v.split(256))[:, 0] for v in turns]).mean(0).numpy()
    total = np.bincount(material.nodule[rows], logits, len(material.patients))
    slices = np.bincount(material.nodule[rows], minlength=len(material.patients))
    return np.asarray((total / np.maximum(slices, 1))[nodules], dtype=np.float32)


def cross_validate(material: Planes, run: Path, training: DefaultTraining = TRAINING) -> NDArray[np.float32]:
    """Out-of-fold logits (N,) of all nodules."""
    logits = np.full(len(material.patients), np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        rows = np.flatnonzero(is_left_out(material.patients, fold))
        logits[rows] = evaluate(train(material, fold, run, training), material, rows)
    return logits
