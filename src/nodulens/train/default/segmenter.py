"""The prompted segmenter: training and evaluation on the readers' outlines of stacks and cubes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from nodulens.core.geometry import Geometry, ball_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import may_train
from nodulens.data.material import Cubes, Stacks
from nodulens.errors import BadPrompt
from nodulens.methods.recipe import DEFAULT, Augmentation
from nodulens.metrics.segmentation import compare
from nodulens.ops.intensity import from_unit
from nodulens.runtime.engine import Model
from nodulens.stages.candidates import propose
from nodulens.stages.prompted import prompt_of_outline, shaken
from nodulens.stages.prompts import GRID, ROUGH, Prompt
from nodulens.stages.segment import DRAWN_ROUNDS, prompt_of_candidate, prompt_of_point, rough_cube, segment
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values
from nodulens.train.loop.fit import Batch, Maker, Task, fit
from nodulens.train.networks.default_method import PromptUNet

TRAINING = DefaultTraining(epochs=18, learning_rate=3e-3, batch=24, examples=None)
INVENTED = 0.3
"""Weight of the loss on the synthetic tissue above and below a stack."""


@dataclass(frozen=True)
class Example:
    """A nodule with its surroundings.

    Attributes:
        image: (z, y, x) float32 0…1.
        truth: the same shape, bool: the consensus of half of the readers.
        readers: (R, z, y, x) bool, each reader's own mask.
        weight: (z, y, x) float32 of the loss.
        spacing_zyx: mm.
        real: first scanned slice, and one past the last.
    """

    patient: str
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    readers: NDArray[np.bool_]
    weight: NDArray[np.float32]
    spacing_zyx: tuple[float, float, float]
    real: tuple[int, int]

    @property
    def is_cube(self) -> bool:
        """Whether the tissue above and below is real."""
        return self.real == (0, len(self.image))


def examples(stacks: Stacks, cubes: Cubes) -> list[Example]:
    """Load every nodule with a consensus, first the stacks, then the cubes."""
    out = [from_stack(stacks, int(n)) for n in stacks.nodules]
    out += [from_cube(cubes, int(n)) for n in cubes.nodules]
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
    return Example(
        cubes.patients[nodule],
        cubes.unit(nodule),
        masks.mean(0) >= 0.5,
        masks,
        weight,
        cubes.spacing_zyx(nodule),
        (0, masks.shape[1]),
    )


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
    """A detection as a prompt: a cube in mm, its centre off by an eighth of the nodule, its side up to 1.8 times."""
    spacing = np.asarray(example.spacing_zyx)
    size = np.asarray(box.shape) * spacing
    side = float(np.cbrt(np.prod(size))) * np.exp(rng.uniform(-np.log(1.6), np.log(1.8)))
    middle = (np.asarray(box.start) + np.asarray(box.stop)) / 2 * spacing + rng.normal(0, 0.125, 3) * size
    return Prompt.between((middle - side / 2) / spacing, (middle + side / 2) / spacing, ROUGH)


def draw(example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sample a training view: input (3, grid), and ground truth and weight (2, grid)."""
    box = Box.of_mask(example.truth)
    kind = rng.random()
    if kind < 0.5:
        prompt = drawn_prompt(box, rng, 0.0 if rng.random() < 0.3 else rng.uniform(0.02, 0.12))
    else:
        prompt = rough_prompt(example, box, rng)
    window = prompt.window
    prior = None
    if rng.random() < 0.15:
        reader = example.readers[rng.integers(len(example.readers))]
        wobble = ndimage.gaussian_filter(rng.normal(0, 1, GRID), (1.5, 3, 3)).astype(np.float32)
        prior = (window.sample(reader) + wobble * rng.uniform(0, 6) > 0.5).astype(np.float32)
    x = prompt.channels(window.sample(example.image), prior)
    y = np.stack([window.sample(example.truth), window.sample(example.weight)])
    if rng.random() < 0.5:
        x, y = x.swapaxes(-1, -2), y.swapaxes(-1, -2)
    for axis in (1, 2, 3):
        if rng.random() < 0.5:
            x, y = np.flip(x, axis), np.flip(y, axis)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def train(
    material: Sequence[Example], left_out: int | None, run: Path, training: DefaultTraining = TRAINING
) -> nn.Module:
    """Train a network without the patients of the fold ``left_out``."""
    allowed = may_train([e.patient for e in material], left_out)
    rows = np.flatnonzero(allowed)

    def batches(rng: np.random.Generator) -> list[Maker]:
        order, n = rng.permutation(rows), training.batch
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


def changed(batch: Batch, kinds: Collection[Augmentation], rng: np.random.Generator) -> Batch:
    """Augment a batch of :func:`draw`, see :func:`nodulens.train.loop.augment.augmented`.

    The box channel is not changed, since it is constant at inference. So a zoom or shift amounts to a box that is too
    small, too large, or beside the nodule.

    Args:
        batch: (N, 3, grid) and (N, 2, grid).
    """
    x, y = batch
    image, along = augmented(x[:, :1], torch.cat([x[:, 2:], y], 1), kinds, rng)
    assert along is not None
    return torch.cat([image, x[:, 1:2], along[:, :1]], 1), along[:, 1:]


def overlap_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Weighted cross entropy plus one minus Dice, per example, so that small nodules count as large ones do."""
    x, y = batch
    logits = net(x)[:, 0]
    truth, weight = y[:, 0], y[:, 1]
    entropy = (functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight).mean()
    p = torch.sigmoid(logits)
    both = (p * truth * weight).flatten(1).sum(1)
    either = ((p + truth) * weight).flatten(1).sum(1)
    return entropy + (1 - (2 * both + 1) / (either + 1)).mean()


def evaluate(model: Model, example: Example, rng: np.random.Generator) -> dict[str, float]:
    """Dice of a held-out nodule by kind of prompt; 0 where nothing is found.

    "box" is the true one, "box_shaken" has a normal error of a tenth of the side on every face; "ellipsoid" is
    inscribed in the same boxes. "detector" is the strongest candidate of the candidate stage on the nodule,
    "ball_detector" that candidate as a ball; "point" is 1 mm off the centre.

    The candidate stage runs on the stack extended by end slices without the nodule, so that the nodule ends as in the
    patient. Segmentation runs on repeated end slices, so that nothing shows the network where to stop; mask and ground
    truth do not count there.
    """
    first, last = example.real
    image = without_ends(example)
    box = Box.of_mask(example.truth)
    counts = np.zeros(image.shape, dtype=bool)
    counts[first:last] = example.weight[first:last] > 0
    true, shaken = drawn_prompt(box, rng, 0.0), drawn_prompt(box, rng, 0.1)
    grid = Geometry.axial(_shape(image), example.spacing_zyx)
    patient, repeated = (Volume(from_unit(unit), grid) for unit in (example.image, image))
    x, y, z = (float(v) for v in grid.to_lps(ndimage.center_of_mass(example.truth)) + rng.normal(0, 1, 3))
    candidate = strongest_candidate(patient, example.truth)
    prompts = {
        "box": (true, DRAWN_ROUNDS),
        "box_shaken": (shaken, DRAWN_ROUNDS),
        "point": (prompt_of_point(patient, (x, y, z)), DEFAULT.rounds_detected),
    }
    if candidate is not None:
        prompts["detector"] = (prompt_of_candidate(patient, candidate), DEFAULT.rounds_detected)
    masks = {kind: np.zeros_like(counts) for kind in (*prompts, "detector")}
    for kind, (prompt, rounds) in prompts.items():
        with suppress(BadPrompt):  # nothing found: the mask is empty, and its Dice 0
            found, mask = segment(repeated, prompt, model, rounds)
            masks[kind][found.slices] = mask
    masks["ellipsoid"], masks["ellipsoid_shaken"] = (ellipsoid(p, image.shape) for p in (true, shaken))
    masks["ball_detector"] = np.zeros_like(counts)
    if candidate is not None:
        blob = rough_cube(patient, candidate.centre_lps, candidate.diameter_mm)
        masks["ball_detector"] = ellipsoid(blob, image.shape)
    truth = example.truth & counts
    return {kind: compare(truth, mask & counts, example.spacing_zyx).dice for kind, mask in masks.items()}


def strongest_candidate(volume: Volume, truth: NDArray[np.bool_]) -> Candidate | None:
    """The strongest candidate of the candidate stage on a nodule; None if there is none."""
    size = ball_diameter_mm(truth.sum(), volume.geometry.voxel_mm3)
    return first_on(propose(volume, _near(truth)), volume.geometry.to_lps(ndimage.center_of_mass(truth)), size)


def first_on(candidates: Iterable[Candidate], middle_lps: NDArray[np.float64], diameter_mm: float) -> Candidate | None:
    """The first candidate on a nodule: within half its diameter of the centre, 2.5 mm at least.

    Args:
        candidates: the best first.
        middle_lps: centre of the nodule, LPS mm (x, y, z).
        diameter_mm: of the ball of its volume.
    """
    reach = max(diameter_mm / 2, 2.5)
    return next((c for c in candidates if float(np.linalg.norm(middle_lps - c.centre_lps)) <= reach), None)


def without_ends(example: Example) -> NDArray[np.float32]:
    """The image with the scanned end slices repeated beyond, so that nothing shows where the nodule ends."""
    first, last = example.real
    image = example.image.copy()
    image[:first], image[last:] = image[first], image[last - 1]
    return image


def _shape(image: NDArray[np.float32]) -> tuple[int, int, int]:
    z, y, x = image.shape
    return z, y, x


def _near(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The search region for candidates: the box of the ground truth, and as much again around it."""
    box = Box.of_mask(truth)
    z, y, x = box.shape
    out = np.zeros_like(truth)
    out[box.grown((z, y, x)).clipped(truth.shape).slices] = True
    return out


def ellipsoid(prompt: Prompt, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of the ellipsoid inscribed in a prompt's box."""
    start, stop = np.asarray(prompt.start), np.asarray(prompt.stop)
    axes = [
        ((np.arange(n) + 0.5 - m) / max(r, 1e-6)) ** 2
        for n, m, r in zip(shape, (start + stop) / 2, (stop - start) / 2, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1)


def inscribed(volume: Volume, prompt: Prompt) -> tuple[Box, NDArray[np.bool_]]:
    """The ellipsoid inscribed in a prompt's box, in the form of a prompted network's output: the baseline for one.

    Raises:
        BadPrompt: it contains no voxel of the volume.
    """
    start, stop, shape = np.asarray(prompt.start), np.asarray(prompt.stop), np.asarray(volume.geometry.shape)
    low = np.clip(np.floor(start), 0, shape - 1)
    box = Box.between(low, np.clip(np.ceil(stop), low + 1, shape))
    mask = ellipsoid(Prompt.between(start - low, stop - low, prompt.trust), box.shape)
    if not mask.any():
        raise BadPrompt(f"The ellipsoid in {prompt.start} to {prompt.stop} (z, y, x) contains no voxel of the scan.")
    return box, mask
