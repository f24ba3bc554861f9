"""False-positive reduction: the network that keeps or rejects regions by the patch around them.

It is trained on LUNA16's candidates, or on a folder of pictures; its non-nodules may be tiles of lung as well or
instead (:mod:`nodulens.train.tasks.lung_tiles`), which are never evaluated, so that figures are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn

from nodulens.data.material import PATCH_PX, PATCH_STEPS, Patches, PatchMaterial
from nodulens.data.splits import Split
from nodulens.errors import BadOption
from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.metrics.classification import average_precision
from nodulens.runtime.engine import Model
from nodulens.stages.fp_reduction import patch_logits
from nodulens.stages.slices import NODULE, NON_NODULE
from nodulens.train.loop.augment import augmented, copies_of
from nodulens.train.loop.fit import Batch, Follow, Maker, Task, fit, predict
from nodulens.train.loop.losses import class_weights, loss_of
from nodulens.train.loop.tally import Tally, Validation
from nodulens.train.networks.pretrained import started
from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches, PatchRow
from nodulens.train.tasks.lung_tiles import lung_tiles
from nodulens.train.tasks.picture_folders import is_pictures, load_patches
from nodulens.train.tasks.protocol import Material, Rows

Bool = NDArray[np.bool_]

TILE = "tile"
"""Stratum of tiles of lung."""
SHARE = 4
"""With balance by sampling, an epoch has one in so many of the non-nodules, and equally many nodules."""
CHUNK = 1024
"""Patches augmented at a time."""


@dataclass(frozen=True, eq=False)
class Candidates(Material):
    """Patches of LUNA16, or of pictures, then tiles of lung; a row is a patch or a tile.

    Attributes:
        tile: (N,) whether it is a tile.
        alone: whether tiles replace the other non-nodules in training.
    """

    patches: PatchMaterial
    tile: Bool
    alone: bool

    @property
    def patients(self) -> list[str]:
        """(N,) patient of each patch."""
        return self.patches.patients

    @property
    def strata(self) -> list[str]:
        """(N,) :data:`NODULE`, :data:`NON_NODULE` or :data:`TILE`."""
        return np.where(self.tile, TILE, np.where(self.patches.label, NODULE, NON_NODULE)).tolist()

    @property
    def items(self) -> list[str]:
        """(N,) number of each patch among those that may be used."""
        return [f"patch {k}" for k in range(len(self.patches))]

    def images(self, rows: Rows) -> NDArray[np.float32]:
        """(N, 1, 64, 64) 0…1."""
        return self.patches.unit(rows)[:, None]

    def trained(self, rows: Rows) -> Rows:
        """Those of some rows that a network is trained on."""
        return rows[self.patches.label[rows] | self.tile[rows]] if self.alone else rows

    def evaluated(self, rows: Rows) -> Rows:
        """Those of some rows that it is validated and evaluated on."""
        return rows[~self.tile[rows]]


def load(data: Path, recipe: Recipe, split: Split | None = None) -> Candidates:
    """The patches; negatives inside findings that LUNA16 excludes, and evaluation patients, are left out.

    Args:
        split: not needed: what is shown is the patient's own.

    Raises:
        NotFound: the folder has none, or the recipe wants tiles and there are none.
        NotFound, BadOption: see :func:`nodulens.train.tasks.picture_folders.find_pictures`.
    """
    patches: PatchMaterial = load_patches(data) if is_pictures(data) else Patches(data)
    tile = np.zeros(len(patches), dtype=bool)
    if recipe.negatives != "candidates":
        tiles = lung_tiles(data)
        patches, tile = patches.joined(tiles), np.append(tile, np.ones(len(tiles), dtype=bool))
    return Candidates(patches, tile, alone=recipe.negatives == "tiles")


def multiplied(material: Candidates, kinds: Sequence[Augmentation], copies: int) -> Candidates:
    """See :class:`nodulens.train.tasks.protocol.TaskModule`; rows that share their ``nodule`` show the same one."""
    patches = material.patches
    parts = np.array_split(np.arange(len(patches)), -(-len(patches) // CHUNK))
    steps = np.empty((copies, len(patches), PATCH_PX, PATCH_PX), dtype=np.uint8)
    for number, rows in enumerate(parts):
        changed = copies_of(torch.from_numpy(material.images(rows)), None, kinds, copies, seed=number)[0]
        steps[:, rows] = PATCH_STEPS.steps_of_unit(changed[:, :, 0].numpy())
    return replace(material, patches=patches.with_copies(steps), tile=np.tile(material.tile, copies + 1))


def settled(config: NetworkConfig, material: Candidates, rows: Rows) -> NetworkConfig:
    """The config unchanged: nothing depends on the rows.

    Raises:
        BadOption: not one class, or another size than the patches'; or tiles, and none of a patient to train on.
    """
    if material.tile.any() and not material.tile[rows].any():
        raise BadOption("No tile of lung is of a patient to train on; take negatives=candidates or another fold.")
    if len(config.classes) != 1 or config.size != PATCH_PX or config.pixel_mm is not None:
        raise BadOption(
            f"A filter has one class and an input of {PATCH_PX} × {PATCH_PX} of the scan's own pixels; this one has "
            f"{', '.join(config.classes)} and {config.size} × {config.size} pixels, "
            f"{f'{config.pixel_mm} mm' if config.pixel_mm else 'the own ones'}."
        )
    return config


def train(
    config: NetworkConfig,
    material: Candidates,
    rows: Rows,
    validation: Rows,
    checkpoint: Path,
    follow: Follow | None = None,
) -> nn.Module:
    """Train a network on patches, validated by average precision with equal weight for each nodule."""
    net = started(config, "filter")
    patches = material.patches
    rows, validation = material.trained(rows), material.evaluated(validation)
    positive, negative = (rows[patches.label[rows] == kind] for kind in (True, False))
    chance = patches.weight[positive] / max(patches.weight[positive].sum(), 1e-9)
    truth = torch.from_numpy(patches.label.astype(np.float32))[:, None]
    weights = class_weights(truth[rows], 1) if config.balance == "weights" else None
    criterion, tally = loss_of(config, weights), Tally(config.classes, exclusive=False)

    def batches(rng: np.random.Generator) -> list[Maker]:
        chosen = rows
        if config.balance == "sampling" and len(positive) and len(negative):
            few = rng.permutation(negative)[: max(1, len(negative) // SHARE)]
            chosen = np.concatenate([few, rng.choice(positive, len(few), p=chance)])
        chosen = rng.permutation(chosen)
        return [partial(make, part) for part in np.array_split(chosen, -(-len(chosen) // config.batch))]

    def make(chosen: Rows) -> Batch:
        return torch.from_numpy(material.images(chosen)), truth[chosen]

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        return augmented(batch[0], None, config.augment, rng)[0], batch[1]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        output = net(batch[0])
        tally.add(output, batch[1])
        return criterion(output, batch[1])

    def validate(net: nn.Module) -> Validation:
        parts = (
            torch.from_numpy(material.images(part)) for part in np.array_split(validation, -(-len(validation) // 256))
        )
        logits, weight = predict(net, parts), patches.weight[validation]
        decided = Tally(config.classes, exclusive=False)
        decided.add(logits, truth[validation], torch.from_numpy(weight))
        value = float(criterion(logits, truth[validation]))
        score = average_precision(patches.label[validation], logits[:, 0].numpy(), weight)
        return Validation(score, {"loss": value, **decided.figures(), "average_precision": score})

    watch = validate if patches.label[validation].any() else None
    return fit(net, Task(batches, loss, augment if config.augment else None, watch, tally), config, checkpoint, follow)


def evaluate(model: Model, config: NetworkConfig, material: Candidates, rows: Rows) -> EvaluatedPatches:
    """Evaluate ranking and decisions on patches, by the same input as in inference; not on tiles."""
    patches, rows = material.patches, material.evaluated(rows)
    parts = np.array_split(rows, -(-len(rows) // 256))
    logits = np.concatenate([patch_logits(model, material.images(part)) for part in parts])
    found = zip(
        rows.tolist(),
        [material.patients[row] for row in rows],
        patches.label[rows].astype(int).tolist(),
        special.expit(logits).tolist(),
        patches.weight[rows].tolist(),
        patches.nodule[rows].tolist(),
        patches.diameter_mm[rows].tolist(),
        strict=True,
    )
    return EvaluatedPatches(tuple(PatchRow(*row) for row in found))
