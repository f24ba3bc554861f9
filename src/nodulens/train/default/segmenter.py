"""The prompted segmenter: training on the readers' outlines of stacks and cubes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from nodulens.core.geometry import Geometry, ball_diameter_mm
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.folds import may_train
from nodulens.data.material import CUBE_MM, Cubes, Stacks
from nodulens.methods.recipe import Augmentation
from nodulens.ops.intensity import from_unit
from nodulens.ops.patches import Window
from nodulens.stages.candidates import propose
from nodulens.stages.prompted import prompt_of_outline, shaken
from nodulens.stages.prompts import GRID, ROUGH, Click, Prompt
from nodulens.stages.segment import ROOM
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values, thickened
from nodulens.train.loop.fit import Batch, Maker, Task, fit
from nodulens.train.networks.default_method import PromptUNet

TRAINING = DefaultTraining(epochs=16, learning_rate=3e-3, batch=24, examples=None, averaging=0.998)
INVENTED = 0.3
"""Weight of the loss on the synthetic tissue above and below a stack."""
DRAWN_BY_HAND, AT_A_MARK, AGAIN = 0.35, 0.35, 0.3
"""Shares of the prompts: a box drawn by a person, a candidate on the nodule, and the box of an earlier mask, as in the
second round of inference and later ones."""
CORRECTED = 0.2
"""Share of the examples with an earlier mask, most of them with clicks that correct it."""
THICK, THICKEST = 0.1, 5
"""Share of the cubes that are seen as of thicker slices, and how thick at most, in mm: no cube is of such a scan."""
LARGE_MM, FAINT_HU = 15.0, -500.0
"""Nodules larger than the first, or on average less dense than the second, are few, and seen twice as often."""
ON_IT_MM = 1.5
"""A candidate this near to a nodule may be what it is found by."""


@dataclass(frozen=True)
class Example:
    """A nodule with its surroundings.

    Attributes:
        number: of the nodule in its material.
        image: (z, y, x) float32 0…1.
        truth: the same shape, bool: the consensus of half of the readers.
        readers: (R, z, y, x) bool, each reader's own mask.
        weight: (z, y, x) float32 of the loss.
        spacing_zyx: mm.
        real: first scanned slice, and one past the last.
        marks: candidates on it, the strongest first: the index (z, y, x) of the centre, and the diameter in mm.
        in_cube: whether a cube shows the same nodule, and this is its stack.
        rendered: whether it is synthetic, see :mod:`nodulens.train.default.rendered_nodules`.
    """

    patient: str
    number: int
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    readers: NDArray[np.bool_]
    weight: NDArray[np.float32]
    spacing_zyx: tuple[float, float, float]
    real: tuple[int, int]
    marks: tuple[tuple[NDArray[np.float64], float], ...] = ()
    in_cube: bool = False
    rendered: bool = False

    @cached_property
    def votes(self) -> NDArray[np.uint8]:
        """(z, y, x): number of readers whose mask contains the voxel."""
        return self.readers.sum(0, dtype=np.uint8)

    @property
    def is_cube(self) -> bool:
        """Whether it is of a scan, and so is the tissue above and below."""
        return self.real == (0, len(self.image)) and not self.rendered

    @property
    def is_stack(self) -> bool:
        """Whether it is of a scan, and what is above and below is not."""
        return self.real != (0, len(self.image))


def examples(stacks: Stacks, cubes: Cubes) -> list[Example]:
    """Load every nodule with a consensus, first the stacks, then the cubes."""
    shown = set(cubes.stack_nodule.tolist())
    out = [replace(from_stack(stacks, n), in_cube=n in shown) for n in stacks.nodules.tolist()]
    out += [from_cube(cubes, n) for n in cubes.nodules.tolist()]
    return [e for e in out if e.truth.any()]


def from_stack(stacks: Stacks, nodule: int) -> Example:
    """A stack, extended above and below by its end slices with the nodule removed."""
    image, outlined = stacks.unit(nodule), stacks.outlined(nodule)
    slices = len(image)
    extra = max(2, round(0.7 * slices))
    below, above = (_without_nodule(image[end], outlined[end]) for end in (0, -1))
    padded = np.concatenate([np.repeat(below[None], extra, 0), image, np.repeat(above[None], extra, 0)])
    masks = np.pad(stacks.masks(nodule), ((0, 0), (extra, extra), (0, 0), (0, 0)))
    weight = np.full(padded.shape, INVENTED, dtype=np.float32)
    weight[extra : extra + slices] = 1
    return Example(
        stacks.patients[nodule],
        nodule,
        padded,
        masks.mean(0) >= 0.5,
        masks,
        weight,
        stacks.spacing_zyx(nodule),
        (extra, extra + slices),
    )


def from_cube(cubes: Cubes, nodule: int) -> Example:
    """A cube; other nodules in it, and voxels outside the scan, have no weight."""
    masks = cubes.masks(nodule)
    weight = np.zeros(masks.shape[1:], dtype=np.float32)
    weight[cubes.scanned(nodule).slices] = 1
    weight[cubes.other(nodule)] = 0
    truth = masks.mean(0) >= 0.5
    return Example(
        cubes.patients[nodule],
        nodule,
        cubes.unit(nodule),
        truth,
        masks,
        weight,
        cubes.spacing_zyx(nodule),
        (0, masks.shape[1]),
        marks_on(Volume(cubes.hu(nodule), Geometry.axial((CUBE_MM,) * 3)), truth) if truth.any() else (),
    )


def marks_on(volume: Volume, truth: NDArray[np.bool_]) -> tuple[tuple[NDArray[np.float64], float], ...]:
    """The candidates on a nodule: of its own size or not, in its middle or on a knob, as a detector marks it."""
    away = ndimage.distance_transform_edt(~truth, sampling=volume.geometry.spacing_zyx)
    found = [(volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in propose(volume, near(truth))]
    shape = np.asarray(truth.shape) - 1
    return tuple((at, mm) for at, mm in found if away[tuple(np.clip(np.round(at).astype(int), 0, shape))] <= ON_IT_MM)


def near(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The search region for candidates: the box of the ground truth, and as much again around it."""
    box = Box.of_mask(truth)
    z, y, x = box.shape
    out = np.zeros_like(truth)
    out[box.grown((z, y, x)).clipped(truth.shape).slices] = True
    return out


def _without_nodule(plane: NDArray[np.float32], nodule: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Replace the nodule in a plane by a smooth continuation of its surroundings."""
    around = (~ndimage.binary_dilation(nodule, iterations=2)).astype(np.float32)
    total = ndimage.gaussian_filter(around, 5) + 1e-4
    smooth = ndimage.gaussian_filter(plane * around, 5) / total
    return np.where(around > 0, plane, smooth + 0.25 * (plane - ndimage.gaussian_filter(plane, 2)))


def drawn_prompt(box: Box, rng: np.random.Generator, shake: float) -> Prompt:
    """A box as drawn by a person: every face with a normal error of ``shake`` sides."""
    return shaken(prompt_of_outline(box), rng, shake)


def rough_prompt(example: Example, box: Box, rng: np.random.Generator) -> Prompt:
    """A candidate on the nodule as a prompt: half of the time the strongest, else any.

    A nodule of a stack, whose ends are synthetic, has none: there it is a cube in mm, its centre off by an eighth of
    the nodule, its side up to 1.8 times.
    """
    spacing = np.asarray(example.spacing_zyx)
    if example.marks and rng.random() < 0.85:
        centre, diameter = example.marks[0 if rng.random() < 0.5 else rng.integers(len(example.marks))]
        side = ROOM * diameter * np.exp(rng.normal(0, 0.1))
        middle = (centre + 0.5) * spacing + rng.normal(0, 0.5, 3)
    else:
        size = np.asarray(box.shape) * spacing
        side = float(np.cbrt(np.prod(size))) * np.exp(rng.uniform(-np.log(1.6), np.log(1.8)))
        middle = (np.asarray(box.start) + np.asarray(box.stop)) / 2 * spacing + rng.normal(0, 0.125, 3) * size
    return Prompt.between((middle - side / 2) / spacing, (middle + side / 2) / spacing, ROUGH)


def draw(example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sample a training view: input (4, grid), and ground truth, readers' share and weight (3, grid)."""
    box = Box.of_mask(example.truth)
    kind = rng.random()
    if kind < DRAWN_BY_HAND:
        prompt = drawn_prompt(box, rng, 0.0 if rng.random() < 0.3 else rng.uniform(0.02, 0.12))
    elif kind < DRAWN_BY_HAND + AT_A_MARK:
        prompt = rough_prompt(example, box, rng)
    else:
        prompt = replace(drawn_prompt(box, rng, rng.uniform(0.03, 0.25)), trust=ROUGH)
    window = prompt.window
    truth = window.sample(example.truth)
    prior: NDArray[np.float32] | None = None
    clicks: tuple[Click, ...] = ()
    if rng.random() < CORRECTED:
        prior = _earlier(window.sample(example.readers[rng.integers(len(example.readers))]), rng)
        clicks = _clicks(window, truth > 0.5, prior > 0.5, rng)
    image = example.image
    if example.is_cube and rng.random() < THICK:
        image = thickened(image, int(rng.integers(2, THICKEST + 1)), rng)
    x = prompt.channels(window.sample(image), prior, clicks)
    share = window.sample(example.votes) / np.float32(len(example.readers))
    y = np.stack([truth, share, window.sample(example.weight)])
    if rng.random() < 0.5:
        x, y = x.swapaxes(-1, -2), y.swapaxes(-1, -2)
    for axis in (1, 2, 3):
        if rng.random() < 0.5:
            x, y = np.flip(x, axis), np.flip(y, axis)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _earlier(mask: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A mask (grid) 0…1 as a person may want to correct it: wavy, cut off on one side, or with a part too much."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID), indexing="ij"))
    away = rng.normal(0, 1, 3)
    away /= np.linalg.norm(away)
    wobble = ndimage.gaussian_filter(rng.normal(0, 1, GRID), 3).astype(np.float32)
    out = mask + wobble * rng.uniform(0, 12) > 0.5
    kind = rng.random()
    if kind < 0.3:
        out &= np.tensordot(away, grid, 1) < rng.uniform(-0.1, 0.5)
    elif kind < 0.6:
        centre = away * rng.uniform(0.4, 0.8)
        out |= ((grid - centre[:, None, None, None]) ** 2).sum(0) < rng.uniform(0.15, 0.5) ** 2
    return out.astype(np.float32)


def _clicks(
    window: Window, truth: NDArray[np.bool_], prior: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Click, ...]:
    """One or two clicks where an earlier mask is wrong, well inside the wrong parts where they are thick enough."""
    wrong = truth ^ prior
    core = ndimage.binary_erosion(wrong)
    places = np.argwhere(core if core.any() else wrong)
    if not len(places) or rng.random() < 0.25:
        return ()
    chosen = places[rng.integers(len(places), size=rng.integers(1, 3))]
    index = chosen * np.asarray(window.step) + window.first
    return tuple(Click((z, y, x), bool(truth[tuple(at)])) for (z, y, x), at in zip(index.tolist(), chosen, strict=True))


def train(
    material: Sequence[Example], left_out: int | None, run: Path, training: DefaultTraining = TRAINING
) -> nn.Module:
    """Train a network without the patients of the fold ``left_out``."""
    allowed = may_train([e.patient for e in material], left_out)
    rows = np.flatnonzero(allowed)
    draws = np.repeat(rows, [_times(material[i]) for i in rows.tolist()])

    def batches(rng: np.random.Generator) -> list[Maker]:
        order, n = rng.permutation(draws), training.batch
        return [partial(make, order[i : i + n], rng) for i in range(0, len(order) - n + 1, n)]

    def make(chosen: NDArray[np.int_], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pairs = [draw(material[i], rng) for i in chosen]
        x = torch.from_numpy(np.stack([p[0] for p in pairs]))
        x[:, :1] = shake_values(x[:, :1], rng)
        return x, torch.from_numpy(np.stack([p[1] for p in pairs]))

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        return changed(batch, training.augment, rng)

    torch.manual_seed(training.seed)
    task = Task(batches, overlap_loss, augment if training.augment else None)
    return fit(PromptUNet(), task, training, run / f"fold{left_out}.pt")


def _times(example: Example) -> int:
    """How often an epoch shows a nodule: twice in a cube, with all the tissue around it, and rare kinds twice of that;
    twice rendered; else once in a stack."""
    if example.is_stack:
        return 0 if example.in_cube else 1
    if example.rendered:
        return 2
    size = ball_diameter_mm(int(example.truth.sum()))
    return 4 if size > LARGE_MM or from_unit(example.image[example.truth]).mean() < FAINT_HU else 2


def changed(batch: Batch, kinds: Collection[Augmentation], rng: np.random.Generator) -> Batch:
    """Augment a batch of :func:`draw`, see :func:`nodulens.train.loop.augment.augmented`.

    The box channel is not changed, since it is constant at inference. So a zoom or shift amounts to a box that is too
    small, too large, or beside the nodule.

    Args:
        batch: (N, 4, grid) and (N, 3, grid).
    """
    x, y = batch
    image, along = augmented(x[:, :1], torch.cat([x[:, 2:], y], 1), kinds, rng)
    assert along is not None
    return torch.cat([image, x[:, 1:2], along[:, :2]], 1), along[:, 2:]


def overlap_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Weighted cross entropy against the readers' share, plus one minus Dice with their consensus, per example, so that
    small nodules count as large ones do."""
    x, y = batch
    logits = net(x)[:, 0]
    truth, share, weight = y.unbind(1)
    entropy = (functional.binary_cross_entropy_with_logits(logits, share, reduction="none") * weight).mean()
    p = torch.sigmoid(logits)
    both = (p * truth * weight).flatten(1).sum(1)
    either = ((p + truth) * weight).flatten(1).sum(1)
    return entropy + (1 - (2 * both + 1) / (either + 1)).mean()
