"""Segmentation of lungs and nodules on whole axial slices, of :mod:`nodulens.train.tasks.slice_material`.

Networks trained on rendered nodules are evaluated on a held-out background, and on real slices of whole scans
(:mod:`nodulens.evaluate.slice_networks`).

Training on whole slices is slow on a CPU. A network with a ``window`` is trained on windows cut out of them instead,
and on close-ups of real nodules (:mod:`nodulens.train.tasks.closeups`), on which it is also evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodulens.errors import BadOption
from nodulens.methods.recipe import NetworkConfig
from nodulens.metrics.boxes import Image, match, summary
from nodulens.metrics.segmentation import Overlap
from nodulens.runtime.engine import Model
from nodulens.stages.slices import NODULE, WHOLE_PX, Field
from nodulens.train.loop.augment import augmented
from nodulens.train.loop.fit import Batch, Follow, Maker, Task, fit
from nodulens.train.loop.losses import class_weights, loss_of, loss_of_one
from nodulens.train.loop.tally import Tally, Validation
from nodulens.train.networks.pretrained import started, with_encoder
from nodulens.train.networks.registry import check_window
from nodulens.train.networks.unet_plan import Fingerprint, Slice, fingerprint, plan
from nodulens.train.networks.unets import PlannedUNet
from nodulens.train.tasks.checks import check_config
from nodulens.train.tasks.closeups import CloseUps, nodule_probabilities, random_sheet
from nodulens.train.tasks.protocol import Rows
from nodulens.train.tasks.segmentation_figures import (
    CLOSE_UP,
    SLICE,
    EvaluatedSlices,
    SliceRow,
    nodule_boxes,
    slice_rows,
)
from nodulens.train.tasks.slice_material import Material, Slices, load, multiplied, slices_and_closeups

__all__ = ["evaluate", "field_of", "load", "multiplied", "settled", "train"]

Bool = NDArray[np.bool_]

SLICES_PER_EPOCH, WINDOWS_PER_EPOCH = 240, 480
"""Slices of an epoch, half of them with a nodule; or windows, half of them sheets of close-ups if there are any."""
VALIDATION_SLICES = 24
"""Slices of the validation set that the network is evaluated on after every epoch."""
FINGERPRINT_SLICES = 120
"""Largest number of slices for the fingerprint of a plan."""
EVALUATION_CHUNK, LOADING_CHUNK = 16, 64
"""Slices at a time in inference, and in loading."""


# ---------------------------------------------------------------- training


def field_of(config: NetworkConfig) -> Field:
    """The field of view of a network."""
    return Field(config.size, config.classes, config.pixel_mm)


def settled(config: NetworkConfig, material: Material, rows: Rows) -> NetworkConfig:
    """The config with the classes annotated in the material, and with the network whose encoder ``pretrained`` names;
    for a planned network also with the planned input size and batch, at most those of the config.

    Raises:
        BadOption: no whole slice among the rows, or a class or window that they or the network do not have.
    """
    config = with_encoder(replace(config, classes=material.annotated(config.classes)))
    whole, _ = slices_and_closeups(material, rows)
    if not len(whole):
        raise BadOption("No whole slice is left to train the segmenter on; leave out another fold.")
    material.examples(field_of(config), whole[:1])  # refuses classes that are not annotated
    if config.network == "planned-unet":
        found = plan(_fingerprint(config, material, rows), len(config.classes))
        config = replace(config, size=min(found.size, config.size), batch=min(found.batch, config.batch))
    if config.window is not None:
        check_window(config)
    return config


def _fingerprint(config: NetworkConfig, material: Material, rows: Rows) -> Fingerprint:
    """The fingerprint of whole slices, from some with a nodule."""
    rows, _ = slices_and_closeups(material, rows)
    with_nodule = rows[material.has_nodule[rows]]
    some = with_nodule[:: max(1, len(with_nodule) // FINGERPRINT_SLICES)]
    field = replace(field_of(config), size=WHOLE_PX, pixel_mm=None)

    def slices() -> list[Slice]:
        images, truth = material.examples(field, some)
        pixels = material.pixels_mm(field, some)
        return [(i, t.any(axis=0), (p, p)) for i, t, p in zip(images, truth, pixels, strict=True)]

    return replace(fingerprint(slices()), slices=len(rows))


def train(
    config: NetworkConfig,
    material: Material,
    rows: Rows,
    validation: Rows,
    checkpoint: Path,
    follow: Follow | None = None,
) -> nn.Module:
    """Train a network on slices, half of them with a nodule.

    It is validated by the mean Dice of its classes, with pixels pooled over the slices of the validation set. Average
    precision of the nodules' boxes there is among the figures, where there is a nodule.

    Raises:
        BadOption: see :func:`nodulens.train.tasks.checks.check_config`.
    """
    check_config("segmenter", config)
    net = started(config, "segmenter")
    if isinstance(net, PlannedUNet):
        net.normalize_by(_fingerprint(config, material, rows))
    whole, nodules = slices_and_closeups(material, rows)
    images, truth = _tensors(field_of(config), material, whole)
    weights = class_weights(truth, len(config.classes)) if config.balance == "weights" else None
    number, tally = config.classes.index(NODULE), _tally(config)
    criterion, of_nodule = loss_of(config, weights), loss_of_one(config, number)
    examples = _Examples(config, images, truth, material.has_nodule[whole], _close_ups(material, config, nodules))

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        image, target, nodule = batch
        sheets, nodule = _augmented(image[len(target) :], nodule, config, rng)
        image, target = _augmented(image[: len(target)], target, config, rng)
        return torch.cat([image, sheets]), target, nodule

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        image, target, nodule = batch
        output = net(image)
        logits = output[0] if isinstance(output, tuple) else output
        tally.add(logits[: len(target)], target)
        value = criterion(_rows_of(output, slice(len(target))), target)
        if not len(nodule):
            return value
        tally.add_one(logits[len(target) :], nodule, number)
        of_sheets = of_nodule(_rows_of(output, slice(len(target), None)), nodule)
        return (len(target) * value + len(nodule) * of_sheets) / len(image)

    watch = _validation(config, material, validation, criterion)
    task = Task(examples.batches, loss, augment if config.augment else None, watch, tally)
    return fit(net, task, config, checkpoint, follow)


def _augmented(image: Tensor, truth: Tensor, config: NetworkConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    if not len(image):
        return image, truth
    changed, along = augmented(image, truth, config.augment, rng)
    assert along is not None
    return changed, along


def _rows_of(output: Tensor | tuple[Tensor, ...], rows: slice) -> Tensor | tuple[Tensor, ...]:
    return tuple(part[rows] for part in output) if isinstance(output, tuple) else output[rows]


@dataclass(frozen=True, eq=False)
class _CloseUps:
    """Close-ups of one kind as network input, (M, c, c), and the numbers of those of each nodule."""

    images: NDArray[np.float16]
    truth: Bool
    of_nodule: list[NDArray[np.int_]]


def _close_ups(material: Material, config: NetworkConfig, nodules: NDArray[np.int_]) -> tuple[_CloseUps, ...]:
    """Those of the stacks, and of the cubes; each kind at its own size, as squares cut smaller than those that are
    evaluated teach a network to expect the edges near a nodule."""
    field, found, first = field_of(config), [], 0
    for part in material.near if isinstance(material, Slices) else ():
        own = nodules[(nodules >= first) & (nodules < first + len(part.patients))] - first
        first += len(part.patients)
        if len(own):
            slices = np.flatnonzero(np.isin(part.owner, own))
            image, truth = part.examples(field, slices, part.side(field))
            owner = part.owner[slices]
            found.append(_CloseUps(image.astype(np.float16), truth, [np.flatnonzero(owner == n) for n in own]))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Examples:
    """The training set: whole slices; or windows of them, half at a nodule, and as many sheets of close-ups.

    Every batch has both, so that the statistics of batch norms fit both.

    Attributes:
        images, truth: of the slices, see :func:`_tensors`.
        has_nodule: (N,) which of these show a nodule.
        closeups: of each kind; empty: slices only.
    """

    config: NetworkConfig
    images: Tensor
    truth: Tensor
    has_nodule: Bool
    closeups: tuple[_CloseUps, ...]

    def batches(self, rng: np.random.Generator) -> list[Maker]:
        """An epoch."""
        window, most = self.config.window, self.config.examples
        if window is None:
            rows = _epoch_rows(self.has_nodule, rng, most or SLICES_PER_EPOCH)
            return [partial(self._slices, part) for part in self._batches(rows)]
        most = most or WINDOWS_PER_EPOCH
        if not self.closeups:
            rows = _epoch_rows(self.has_nodule, rng, most)
            return [partial(self._windows, part, _seed(rng)) for part in self._batches(rows)]
        rows = _epoch_rows(self.has_nodule, rng, most // 2)
        return [partial(self._windows_and_sheets, part, _seed(rng)) for part in self._batches(rows, 2)]

    def _batches(self, rows: Rows, kinds: int = 1) -> list[Rows]:
        """Batches of equally many of each kind."""
        return np.array_split(rows, -(-len(rows) * kinds // self.config.batch))

    def _slices(self, rows: Rows) -> Batch:
        return self._batch(self.images[rows], self.truth[rows])

    def _windows(self, rows: Rows, seed: int) -> Batch:
        return self._batch(*self._cut(rows, np.random.default_rng(seed)))

    def _windows_and_sheets(self, rows: Rows, seed: int) -> Batch:
        assert self.config.window is not None
        rng, side = np.random.default_rng(seed), self.config.window
        cut = self._cut(rows, rng)
        kinds = (self.closeups[int(rng.integers(len(self.closeups)))] for _ in rows)
        sheets = [random_sheet(kind.images, kind.truth, kind.of_nodule, side, rng) for kind in kinds]
        return self._batch(*cut, *(torch.from_numpy(np.stack(part))[:, None] for part in zip(*sheets, strict=True)))

    def _batch(self, image: Tensor, truth: Tensor, sheets: Tensor | None = None, nodule: Tensor | None = None) -> Batch:
        """Images and then sheets; the truth of the images; and the nodules' masks on the sheets."""
        target = _target(truth)
        if sheets is None or nodule is None:
            sheets = nodule = image[:0]
        return torch.cat([image, sheets]).float(), target, nodule.float()

    def _cut(self, rows: Rows, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Windows of slices, at a nodule if there is one."""
        side = self.config.window
        assert side is not None
        corners = [self._corner(row, rng) for row in rows]
        images, truth = (
            [whole[row][..., y : y + side, x : x + side] for row, (y, x) in zip(rows, corners, strict=True)]
            for whole in (self.images, self.truth)
        )
        return torch.stack(images), torch.stack(truth)

    def _corner(self, row: int, rng: np.random.Generator) -> NDArray[np.int_]:
        side, index = self.config.window or 0, self.config.classes.index(NODULE)
        most = self.config.size - side
        truth = self.truth[row]
        nodule = (truth == index if truth.dim() == 2 else truth[index]).nonzero().numpy()
        if not len(nodule):
            return rng.integers(0, most + 1, 2)
        offset = rng.integers(-side // 4, side // 4 + 1, 2) - side // 2
        return np.clip(nodule[rng.integers(len(nodule))] + offset, 0, most)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _tensors(field: Field, material: Material, rows: Rows) -> tuple[Tensor, Tensor]:
    """Images (N, 1, size, size) in 16 bits; truth (N, size, size) uint8, or (N, classes, size, size) bool."""
    n, side = len(rows), field.size
    images = np.empty((n, side, side), dtype=np.float16)
    if field.exclusive:
        truth: NDArray[Any] = np.zeros((n, side, side), dtype=np.uint8)
    else:
        truth = np.zeros((n, len(field.classes), side, side), dtype=bool)
    for first in range(0, len(rows), LOADING_CHUNK):
        some = slice(first, first + LOADING_CHUNK)
        images[some], masks = material.examples(field, rows[some])
        truth[some] = _numbered(field, masks)
    return torch.from_numpy(images)[:, None], torch.from_numpy(truth)


def _numbered(field: Field, masks: Bool) -> NDArray[Any]:
    """Masks (N, foreground classes, …) as numbers of classes (N, …) if these are exclusive; else as they are."""
    return (masks * np.arange(1, 1 + masks.shape[1])[:, None, None]).sum(1) if field.exclusive else masks


def _target(truth: Tensor) -> Tensor:
    """Truth as a loss takes it."""
    return truth.float() if truth.dtype == torch.bool else truth.long()


def _tally(config: NetworkConfig) -> Tally:
    return Tally(config.classes, exclusive=field_of(config).exclusive, overlap=True)


def _epoch_rows(has_nodule: Bool, rng: np.random.Generator, most: int) -> Rows:
    """At most ``most`` slices in random order, half with a nodule if there are both kinds."""
    kinds = [rng.permutation(np.flatnonzero(has_nodule == kind)) for kind in (True, False)]
    present = [kind for kind in kinds if len(kind)]
    each = min(most, len(has_nodule)) // len(present)
    return rng.permutation(np.concatenate([np.resize(kind, max(each, 1)) for kind in present]))


def _validation(
    config: NetworkConfig,
    material: Material,
    validation: Rows,
    criterion: Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor],
) -> Callable[[nn.Module], Validation] | None:
    validation, _ = slices_and_closeups(material, validation)
    if not len(validation):
        return None
    field = field_of(config)
    kinds = [validation[material.has_nodule[validation] == kind] for kind in (True, False)]
    some = np.concatenate([kind[:: max(1, -(-2 * len(kind) // VALIDATION_SLICES))] for kind in kinds])
    images, truth = material.examples(field, some)
    inputs = torch.from_numpy(images)[:, None]
    target = _target(torch.from_numpy(np.ascontiguousarray(_numbered(field, truth))))
    nodule = field.foreground.index(NODULE)

    def validate(net: nn.Module) -> Validation:
        place, total, decided = next(net.parameters()).device, 0.0, _tally(config)
        boxes: list[Image] = []
        for first in range(0, len(some), config.batch):
            part = slice(first, first + config.batch)
            output, wanted = net(inputs[part].to(place)), target[part].to(place)
            total += len(wanted) * float(criterion(output, wanted))
            logits = output[0] if isinstance(output, tuple) else output
            decided.add(logits, wanted)
            found = field.probabilities(logits.cpu().numpy())
            boxes += map(nodule_boxes, truth[part, nodule], field.decided(found)[:, nodule], found[:, nodule])
        figures = {"loss": total / len(some), **decided.figures()}
        matches = match(boxes)
        if matches.truths:
            means = summary({NODULE: matches})
            figures |= {"map50": means.map50, "map50_95": means.map50_95}
        return Validation(figures["dice"], figures)

    return validate


# ---------------------------------------------------------------- evaluation


def evaluate(model: Model, config: NetworkConfig, material: Material, rows: Rows) -> EvaluatedSlices:
    """Evaluate masks and nodules' boxes on each slice, on the network's input grid; and masks of close-ups on the
    central slices of the nodules, on their own pixels; not of cubes."""
    field = field_of(config)
    slices, nodules = slices_and_closeups(material, rows)
    if isinstance(material, Slices) and material.cubes is not None:
        nodules = nodules[nodules < len(material.patients) - len(material.has_nodule) - len(material.cubes.patients)]
    found: list[SliceRow] = []
    for first in range(0, len(slices), EVALUATION_CHUNK):
        some = slices[first : first + EVALUATION_CHUNK]
        images, truth = material.examples(field, some)
        patients = [material.patients[row] for row in some]
        places = list(zip(some.tolist(), patients, material.pixels_mm(field, some), strict=True))
        found += slice_rows(places, SLICE, field, truth, field.probabilities(model.run(images[:, None])[0]))
    if len(nodules):
        assert isinstance(material, Slices) and material.closeups is not None
        found += _evaluated_closeups(model, field, material.closeups, nodules, len(material.has_nodule))
    return EvaluatedSlices(tuple(found))


def _evaluated_closeups(
    model: Model, field: Field, closeups: CloseUps, nodules: NDArray[np.int_], first_row: int
) -> list[SliceRow]:
    """Evaluated close-ups of some nodules, whose rows begin at ``first_row``; lungs are not annotated there."""
    central = closeups.central[nodules]
    patients, pixels = [closeups.patients[n] for n in nodules], closeups.pixel_mm[central].tolist()
    places = list(zip((nodules + first_row).tolist(), patients, pixels, strict=True))
    predicted = nodule_probabilities(model, field, closeups, nodules) >= 0.5
    nodule_alone = replace(field, classes=(NODULE,))
    truth = closeups.nodule[central][:, None]
    rows = slice_rows(places, CLOSE_UP, nodule_alone, truth, predicted[:, None].astype(np.float32))
    unknown = dict.fromkeys(field.foreground, Overlap.of_counts(0, 0, 0))
    return [replace(row, overlap={**unknown, **row.overlap}) for row in rows]
