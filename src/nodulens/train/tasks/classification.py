"""Classification: training and evaluation on the central slice of each nodule of :mod:`.nodule_material`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodulens.data.material import Stacks
from nodulens.data.splits import Split
from nodulens.errors import BadOption
from nodulens.methods.recipe import Augmentation, NetworkConfig, Recipe
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import classify, log_odds
from nodulens.stages.crops import Crop, crop_view
from nodulens.train.loop.augment import augmented, copies_of
from nodulens.train.loop.fit import Follow, Maker, Task, fit, predict
from nodulens.train.loop.losses import class_weights, loss_of
from nodulens.train.loop.tally import Tally, Validation
from nodulens.train.networks.pretrained import started
from nodulens.train.tasks.classification_figures import EvaluatedNodules, NoduleRow
from nodulens.train.tasks.nodule_material import MALIGNANT, TWO, NoduleMaterial, Nodules, load_nodules
from nodulens.train.tasks.protocol import Rows


@dataclass(frozen=True, eq=False)
class Crops(NoduleMaterial):
    """Nodules with their classifier input.

    Attributes:
        image: (N, 1, size, size) float16, 0…1.
    """

    image: NDArray[np.float16]


# ---------------------------------------------------------------- material


def load(data: Path, recipe: Recipe, split: Split | None = None) -> Crops:
    """The central slice of every nodule that has a class.

    Args:
        split: not needed: what is shown is the patient's own.

    Raises:
        NotFound: the folder has no stacks.
        BadOption: the recipe has no classifier of its own, or classes that no reader's rating gives.
    """
    config = recipe.classifier
    if config is None:
        raise BadOption(f"The recipe {recipe.name!r} has no classifier of its own.")
    return crops(*load_nodules(data, config.classes), crop_of(recipe))


def crop_of(recipe: Recipe) -> Crop:
    """The crop of a nodule that is the input of a recipe's classifier."""
    config = recipe.classifier
    assert config is not None
    return Crop(config.size, config.pixel_mm, recipe.masked, config.crop_scale)


def crops(stacks: Stacks, nodules: Nodules, crop: Crop, outlines: NDArray[np.bool_] | None = None) -> Crops:
    """The classifier input for nodules.

    Args:
        outlines: (N, 96, 96) in place of the readers', such as a method's own; an empty one gives a blank crop.
    """
    masks = nodules.outline if outlines is None else outlines
    image = np.zeros((len(nodules.truth), 1, crop.size, crop.size), dtype=np.float16)
    places = zip(nodules.origin.tolist(), nodules.central.tolist(), masks, nodules.pixel_mm.tolist(), strict=True)
    for k, (number, central, mask, pixel) in enumerate(places):
        if mask.any():
            image[k] = crop_view(stacks.unit(number)[central], mask, (pixel, pixel), crop)
    return Crops(nodules, image)


def multiplied(material: Crops, kinds: Sequence[Augmentation], copies: int) -> Crops:
    """See :class:`nodulens.train.tasks.protocol.TaskModule`; rows that share their ``origin`` show the same nodule."""
    plain = torch.from_numpy(material.image.astype(np.float32))
    changed = copies_of(plain, None, kinds, copies, seed=0)[0].flatten(0, 1).numpy().astype(np.float16)
    rows = np.tile(np.arange(len(material.image)), copies + 1)
    return Crops(material.nodules.take(rows), np.concatenate([material.image, changed]))


# ---------------------------------------------------------------- training


def settled(config: NetworkConfig, material: Crops, rows: Rows) -> NetworkConfig:
    """The config unchanged: nothing depends on the rows."""
    return config


def train(
    config: NetworkConfig,
    material: Crops,
    rows: Rows,
    validation: Rows,
    checkpoint: Path,
    follow: Follow | None = None,
) -> nn.Module:
    """Train a network on ``rows``, validated by its loss on ``validation`` if there are any."""
    truth = torch.from_numpy(material.nodules.truth)
    weights = class_weights(truth[rows], len(config.classes)) if config.balance == "weights" else None
    loss = loss_of(config, weights)
    image = torch.from_numpy(material.image)
    tally = _tally(config)

    def batches(rng: np.random.Generator) -> list[Maker]:
        order = _epoch_rows(config, material.nodules.truth, rows, rng)
        parts = [order[i : i + config.batch] for i in range(0, len(order), config.batch)]
        # batch norm has no statistics of a single example
        return [partial(make, r) for r in parts if len(r) > 1 or len(parts) == 1]

    def make(some: Rows) -> tuple[Tensor, Tensor]:
        return image[some].float(), truth[some]

    def compute(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        output = net(batch[0])
        tally.add(output, batch[1])
        return loss(output, batch[1])

    def augment(batch: tuple[Tensor, ...], rng: np.random.Generator) -> tuple[Tensor, ...]:
        return augmented(batch[0], None, config.augment, rng)[0], batch[1]

    def validate(net: nn.Module) -> Validation:
        logits = predict(net, (image[r].float() for r in np.array_split(validation, -(-len(validation) // 64))))
        value, decided = float(loss(logits, truth[validation])), _tally(config)
        decided.add(logits, truth[validation])
        return Validation(-value, {"loss": value, **decided.figures()})

    task = Task(batches, compute, augment, validate if len(validation) else None, tally)
    return fit(started(config, "classifier"), task, config, checkpoint, follow)


def _tally(config: NetworkConfig) -> Tally:
    """Precision and recall are those of malignant where there are two classes, else means over all."""
    two = set(config.classes) == TWO
    return Tally(config.classes, exclusive=True, reported=[config.classes.index(MALIGNANT)] if two else None)


def _epoch_rows(config: NetworkConfig, truth: NDArray[np.int_], rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows of an epoch in random order; with balance by sampling, equally many of each class."""
    if config.balance != "sampling":
        return rng.permutation(rows)
    groups = [rows[truth[rows] == k] for k in np.unique(truth[rows])]
    each = max(len(rows) // len(groups), 1)
    return rng.permutation(np.concatenate([np.resize(rng.permutation(g), each) for g in groups]))


# ---------------------------------------------------------------- evaluation


def evaluate(model: Model, config: NetworkConfig, material: Crops, rows: Rows) -> EvaluatedNodules:
    """Evaluate the exported network on ``rows``."""
    logits = classify(material.image[rows].astype(np.float32), model)
    return evaluated(material.nodules, rows, logits)


def evaluated(nodules: Nodules, rows: Rows, logits: NDArray[np.floating]) -> EvaluatedNodules:
    """Evaluated rows from the logits of any classifier.

    Args:
        logits: (rows, classes).
    """
    chosen = nodules.take(rows)
    found = zip(
        rows.tolist(),
        chosen.patients,
        chosen.strata,
        log_odds(logits, nodules.classes).tolist(),
        chosen.diameter_mm.tolist(),
        chosen.readers.tolist(),
        chosen.share.tolist(),
        chosen.calibration.tolist(),
        [dict(zip(nodules.classes, one, strict=True)) for one in logits.astype(float).tolist()],
        strict=True,
    )
    return EvaluatedNodules(tuple(NoduleRow(*row) for row in found))
