"""Nodule or look-alike on axial patches of LUNA16 candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.data.folds import FOLDS, is_left_out, may_train
from nodulens.train.augment import shake_values, turn_planes
from nodulens.train.fit import Schedule, fit, predict
from nodulens.train.material import Patches
from nodulens.train.nets import patch_net

BATCH = 96
SCHEDULE = Schedule(epochs=12, learning_rate=3e-3)


def train(patches: Patches, left_out: int | None, run: Path, schedule: Schedule = SCHEDULE) -> nn.Module:
    """A network that has seen no patient of the fold ``left_out``."""
    allowed = may_train(patches.patients, left_out)
    positive = np.flatnonzero(allowed & patches.label)
    negative = np.flatnonzero(allowed & ~patches.label)
    chance = patches.weight[positive] ** 0.5  # between one draw a nodule and one draw a patch
    images = torch.from_numpy(patches.unit)

    def batches(rng: np.random.Generator):  # type: ignore[no-untyped-def]
        # a third of the rows are nodules; look-alikes are drawn without return, about half of them an epoch
        few = rng.choice(positive, len(negative) // 4, p=chance / chance.sum())
        many = rng.permutation(negative)[: len(negative) // 2]
        rows = rng.permutation(np.concatenate([few, many]))
        return [lambda r=rows[i : i + BATCH]: make(r, rng) for i in range(0, len(rows) - BATCH + 1, BATCH)]

    def make(rows: NDArray[np.int_], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        planes = images[torch.from_numpy(rows)].unsqueeze(1).float() * Patches.UNIT_PER_STEP
        planes = shake_values(turn_planes(planes, rng, shift_px=3), rng)
        return planes, torch.from_numpy(patches.label[rows].astype(np.float32))

    def loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return functional.binary_cross_entropy_with_logits(net(batch[0])[0][:, 0], batch[1] * 0.98 + 0.01)

    torch.manual_seed(schedule.seed)
    return fit(patch_net(), batches, loss, schedule, run / f"fold{left_out}.pt")


def judge(net: nn.Module, patches: Patches, rows: NDArray[np.int_]) -> NDArray[np.float32]:
    """Logits of patches, mean over four views (flips)."""
    out = []
    for start in range(0, len(rows), 512):
        planes = torch.from_numpy(patches.unit[rows[start : start + 512]]).unsqueeze(1).float() * Patches.UNIT_PER_STEP
        views = [planes, planes.flip(2), planes.flip(3), planes.flip(2, 3)]
        out.append(torch.stack([predict(net, [v])[:, 0] for v in views]).mean(0))
    return torch.cat(out).numpy()


def cross_validate(patches: Patches, run: Path, schedule: Schedule = SCHEDULE) -> NDArray[np.float32]:
    """(N,) logit of every patch by the network that has not seen its patient."""
    logits = np.full(len(patches.label), np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        rows = np.flatnonzero(is_left_out(patches.patients, fold))
        logits[rows] = judge(train(patches, fold, run, schedule), patches, rows)
    return logits
