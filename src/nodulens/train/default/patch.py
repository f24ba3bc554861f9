"""Nodule or non-nodule on axial patches of LUNA16 candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.data.folds import FOLDS, is_left_out, may_train
from nodulens.data.material import CROP_STEPS, PATCH_STEPS, Patches, Stacks
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, rotate_planes, shake_values
from nodulens.train.loop.fit import Batch, Maker, Task, fit, predict
from nodulens.train.networks.default_method import PatchNet

TRAINING = DefaultTraining(epochs=30, learning_rate=3e-3, batch=96, examples=None)
STEPS = (PATCH_STEPS.unit_per_step, CROP_STEPS.unit_per_step)
"""8-bit quantisation steps of the two sources, on 0…1: noise as wide as the coarser hides the source of a plane."""


@dataclass(frozen=True)
class Planes:
    """The training set: LUNA16's patches, and more nodules from the slices of the stacks.

    Attributes:
        image: (N, 64, 64) float16 0…1.
        label: (N,) nodule or not.
        chance: (N,) sampling weight of a nodule's plane: between equal weights by nodule and by plane.
    """

    image: NDArray[np.float16]
    label: NDArray[np.bool_]
    patients: list[str]
    chance: NDArray[np.float64]


def planes(patches: Patches, stacks: Stacks) -> Planes:
    """The patches, then the larger slices of every stack that three readers outlined, as LUNA16 requires."""
    views, patients, chance = [], [], []
    for n in stacks.nodules[stacks.ratings.readers[stacks.nodules] >= 3].tolist():
        image, mask = stacks.unit(n), stacks.truth(n)
        area = mask.sum(axis=(1, 2))
        chosen = np.flatnonzero((area > 0) & (area >= 0.5 * area.max()))
        for z in chosen:
            views.append(_cut(image[z], mask[z]))
            patients.append(stacks.patients[n])
            chance.append(len(chosen) ** -0.5)
    return Planes(
        np.concatenate([patches.unit(np.arange(len(patches))), np.stack(views)]).astype(np.float16),
        np.concatenate([patches.label, np.ones(len(views), dtype=bool)]),
        patches.patients + patients,
        np.concatenate([patches.weight**0.5, chance]),
    )


def _cut(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Crop (64, 64) of a stack's slice, the outline's centre at pixel (32, 32)."""
    y, x = (int(np.round(v.mean())) for v in np.nonzero(mask))
    return np.asarray(np.pad(image, 32, mode="edge")[y : y + 64, x : x + 64])


def train(material: Planes, left_out: int | None, run: Path, training: DefaultTraining = TRAINING) -> nn.Module:
    """Train a network without the patients of the fold ``left_out``."""
    allowed = may_train(material.patients, left_out)
    positive = np.flatnonzero(allowed & material.label)
    negative = np.flatnonzero(allowed & ~material.label)
    chance = material.chance[positive] / material.chance[positive].sum()
    images = torch.from_numpy(material.image)

    def batches(rng: np.random.Generator) -> list[Maker]:
        n = training.batch
        # a third of the rows are nodules; non-nodules are sampled without replacement, about half of them an epoch
        few = rng.choice(positive, len(negative) // 4, p=chance)
        many = rng.permutation(negative)[: len(negative) // 2]
        rows = rng.permutation(np.concatenate([few, many]))
        return [partial(make, rows[i : i + n], rng) for i in range(0, len(rows) - n + 1, n)]

    def make(rows: NDArray[np.int_], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        x = images[torch.from_numpy(rows)].unsqueeze(1).float()
        x += (torch.rand(x.shape) - 0.5) * max(STEPS)
        label = torch.from_numpy(material.label[rows].astype(np.float32))
        return shake_values(rotate_planes(x, rng, shift_px=3), rng), label

    def loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return functional.binary_cross_entropy_with_logits(net(batch[0])[0][:, 0], batch[1] * 0.98 + 0.01)

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        return augmented(batch[0], None, training.augment, rng)[0], batch[1]

    torch.manual_seed(training.seed)
    task = Task(batches, loss, augment if training.augment else None)
    return fit(PatchNet(), task, training, run / f"fold{left_out}.pt")


def evaluate(net: nn.Module, patches: Patches, rows: NDArray[np.int_]) -> NDArray[np.float32]:
    """Logits of patches, with test-time augmentation over the eight symmetries of the square."""
    out = []
    for start in range(0, len(rows), 512):
        planes = torch.from_numpy(patches.unit(rows[start : start + 512])).unsqueeze(1)
        views = [torch.rot90(side, turn, (2, 3)) for side in (planes, planes.flip(2)) for turn in range(4)]
        out.append(torch.stack([predict(net, [v])[:, 0] for v in views]).mean(0))
    return torch.cat(out).numpy()


def cross_validate(
    patches: Patches, material: Planes, run: Path, training: DefaultTraining = TRAINING
) -> NDArray[np.float32]:
    """Out-of-fold logits (N,) of all patches."""
    logits = np.full(len(patches.label), np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        rows = np.flatnonzero(is_left_out(patches.patients, fold))
        logits[rows] = evaluate(train(material, fold, run, training), patches, rows)
    return logits
