"""The three-dimensional candidate network: nodule or non-nodule in a block.

Nodules are the real ones of the cubes, and those of the stacks inserted into the backgrounds' lungs; non-nodules are
other candidates in the backgrounds and cubes. Both sources have both classes, so that the source does not give the
label away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from nodulens.data.material import CUBE_MM, Background, Cubes, Stacks
from nodulens.ops.intensity import from_unit
from nodulens.ops.patches import Window
from nodulens.stages.candidates import propose
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.stages.views import BALL_VOXELS, FAR_MM, ball_view
from nodulens.train.default.cube_detection import searched
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values
from nodulens.train.loop.fit import Batch, Maker, Task, fit
from nodulens.train.networks.default_method import volume_net

TRAINING = DefaultTraining(epochs=8, learning_rate=3e-3, batch=48, examples=2400)
NON_NODULE, REAL, SET_IN = range(3)
"""Kinds of examples: non-nodule, nodule in its own scan, and nodule inserted into a background."""
SHARES = (0.55, 0.2, 0.25)
"""The share of each kind among the examples."""
LARGE = 0.2
"""Share of the non-nodules that are sampled as coarsely as masses."""
RIM = 4
"""Empty slices added at each end of a nodule's mask before it is inserted into a background."""
VIEW_SHIFT_MM = 2.0
"""Typical distance of a candidate from the centre of its nodule."""


@dataclass(frozen=True)
class TrainingRegion:
    """A region of lung with its ground truth.

    Attributes:
        volume: HU.
        nodule: the consensus, if there is a nodule.
        candidates: of the candidate stage.
        is_nodule: label of each candidate; ambiguous ones are left out beforehand.
        lung: (z, y, x), the search region.
    """

    patient: str
    volume: Volume
    nodule: NDArray[np.bool_] | None
    candidates: tuple[Candidate, ...]
    is_nodule: tuple[bool, ...]
    lung: NDArray[np.bool_]


def backgrounds(data: Path) -> list[TrainingRegion]:
    """The three nodule-free lungs; every candidate is a non-nodule, except near structures that were not annotated."""
    out = []
    for patient in Background.PATIENTS:
        volume = Background.volume(data, patient)
        lungs = segment_lungs(volume)
        lung = lungs.labels > 0
        found = propose(volume, search_region(lungs, margin_mm=0.0))
        if patient in Background.PLEURAL_MASS:
            centre, radius = Background.PLEURAL_MASS[patient]
            found = [c for c in found if np.linalg.norm(np.subtract(c.centre_lps, centre)) > radius]
        out.append(TrainingRegion(patient, volume, None, tuple(found), (False,) * len(found), lung))
    return out


def cube_regions(cubes: Cubes) -> list[TrainingRegion]:
    """The cubes. A candidate near the centre of the consensus is the nodule; one well away from every outline and every
    finding that LUNA16 excludes is a non-nodule; the rest are left out."""
    out = []
    for n in cubes.nodules.tolist():
        hu = cubes.hu(n)
        volume = Volume(hu, Geometry.axial((CUBE_MM,) * 3))
        truth = cubes.truth(n)
        lung = searched(cubes, n, hu)
        middle = np.asarray(ndimage.center_of_mass(truth))
        size = cubes.diameter_mm(n)
        away = cubes.negative(n)
        # 12 mm from the faces, so that hardly any of the view is beyond them
        inner = np.zeros_like(truth)
        ends = zip(cubes.scanned(n).start, cubes.scanned(n).stop, strict=True)
        inner[tuple(slice(a + 12, max(a, b - 12)) for a, b in ends)] = True
        candidates, label = [], []
        for c in propose(volume, lung):
            index = volume.geometry.to_index(c.centre_lps)
            z, y, x = np.clip(np.round(index).astype(int), 0, CUBE_MM - 1)
            marks = float(np.linalg.norm(index - middle)) < max(2.5, 0.25 * size) and 0.5 < c.diameter_mm / size < 2
            if marks or (away[z, y, x] and inner[z, y, x]):
                candidates.append(c)
                label.append(marks)
        out.append(TrainingRegion(cubes.patients[n], volume, truth, tuple(candidates), tuple(label), lung))
    return out


def set_into(
    background: TrainingRegion, stacks: Stacks, nodule: int, grow: float, rng: np.random.Generator
) -> tuple[Volume, NDArray[np.float64], float]:
    """Insert a nodule of a stack at a random place of a background, ``grow`` times as large.

    Denser tissue of the background is kept, so that a nodule at the wall grows out of it. LIDC has nothing over 30 mm,
    so masses are made by enlarging nodules, and inserted mostly at the wall, where masses occur.

    Returns:
        The region of lung around it, the index of its centre there, and its diameter in mm.
    """
    mask = stacks.truth(nodule)
    spacing = np.asarray(background.volume.geometry.spacing_zyx)
    own = np.array(stacks.spacing_zyx(nodule)) * grow
    diameter = ball_diameter_mm(mask.sum(), float(np.prod(own)))
    reach = max(20.0, diameter * BALL_VOXELS / 2 / FAR_MM) + 2 * VIEW_SHIFT_MM + 4
    half = np.ceil(reach / spacing).astype(int)
    place = place_in_lung(background, at_wall=grow > 1 and rng.random() < 0.8, rng=rng)
    piece = background.volume.crop(Box.around(place, 2 * half + 1), fill=-1000)
    grid = np.asarray(piece.geometry.shape)
    step = spacing / own * rng.choice([-1, 1], 3)
    first = np.asarray(Box.of_mask(mask).centre_zyx) - step * (grid - 1) / 2
    image = _mirrored(stacks.unit(nodule), first, step, grid)
    # the mask must end with the stack, not be repeated beyond it
    alpha = _mirrored(np.pad(_softened(mask), ((RIM, RIM), (0, 0), (0, 0))), first, step, grid, RIM)
    blended = alpha * from_unit(image) + (1 - alpha) * piece.hu
    mixed = np.where((alpha > 0) & (piece.hu < -500), blended, np.maximum(piece.hu, blended))
    return replace(piece, hu=np.where(alpha > 0, mixed, piece.hu).astype(np.float32)), (grid - 1) / 2, diameter


def _softened(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A mask 0…1 with a soft edge in the plane."""
    wider = ndimage.binary_dilation(mask, structure=np.ones((1, 3, 3)))
    return np.clip(ndimage.gaussian_filter(wider.astype(np.float32), (0, 1, 1)) * 1.6, 0, 1)


def _mirrored(
    values: NDArray[np.float32],
    first: NDArray[np.float64],
    step: NDArray[np.float64],
    grid: NDArray[np.int_],
    rim: int = 0,
) -> NDArray[np.float32]:
    """Resample values to a grid of another spacing, mirrored along axes with a negative step.

    Args:
        first: index (z, y, x) of the grid's first point, not counting the rim.
        step: indices from one of its points to the next.
        grid: its shape.
        rim: slices added at each end.
    """
    shape = (int(grid[0]), int(grid[1]), int(grid[2]))
    start = np.where(step < 0, first + step * (grid - 1), first)
    window = Window((start[0] + rim, start[1], start[2]), (abs(step[0]), abs(step[1]), abs(step[2])), shape)
    return window.sample(values)[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in step)]


def place_in_lung(region: TrainingRegion, *, at_wall: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random voxel of the lung, or the point where a straight line from it leaves the lung."""
    shape = np.asarray(region.lung.shape)
    while True:
        index = rng.random(3) * shape
        if region.lung[tuple(index.astype(int))]:
            break
    if not at_wall:
        return np.asarray(np.floor(index))
    ray = rng.normal(0, 1, 3) * (0.3, 1, 1)
    ray /= np.linalg.norm(ray) * np.asarray(region.volume.geometry.spacing_zyx)
    while np.all((index >= 0) & (index < shape)) and region.lung[tuple(index.astype(int))]:
        index = index + ray
    return np.asarray(np.clip(np.floor(index), 0, shape - 1))


@dataclass(frozen=True, eq=False)
class _Examples:
    """The training set and its sampling.

    Attributes:
        backgrounds: nodule-free lungs.
        real: candidates that are nodules, each with its region.
        non_nodules: the other candidates.
        stacks: nodules to insert.
        nodules: their numbers.
        diameter_mm: of each.
    """

    backgrounds: list[TrainingRegion]
    real: list[tuple[TrainingRegion, Candidate]]
    non_nodules: list[tuple[TrainingRegion, Candidate]]
    stacks: Stacks
    nodules: NDArray[np.int_]
    diameter_mm: NDArray[np.float64]

    @classmethod
    def of(cls, regions: Sequence[TrainingRegion], stacks: Stacks, left_out: int | None) -> _Examples:
        """The examples of the training patients outside the fold ``left_out``; nodules of two readers or more."""
        may = may_train([r.patient for r in regions], left_out)
        own = [r for r, ok in zip(regions, may, strict=True) if ok]
        pairs = [(r, c, n) for r in own for c, n in zip(r.candidates, r.is_nodule, strict=True)]
        nodules = stacks.nodules[may_train([stacks.patients[n] for n in stacks.nodules], left_out)]
        nodules = np.array([n for n in nodules if stacks.truth(n).sum() > 3 and stacks.readers(n) >= 2])
        return cls(
            backgrounds=[r for r in own if r.nodule is None],
            real=[(r, c) for r, c, is_nodule in pairs if is_nodule],
            non_nodules=[(r, c) for r, c, is_nodule in pairs if not is_nodule],
            stacks=stacks,
            nodules=nodules,
            diameter_mm=np.array([stacks.diameter_mm(n) for n in nodules]),
        )

    def batch(self, kinds: NDArray[np.int_], rng: np.random.Generator) -> Batch:
        """Sample views (N, 1, 32, 32, 32) of some kinds, and their labels."""
        views = [self._view(int(kind), rng) for kind in kinds]
        x = torch.from_numpy(np.stack([rotated_ball(v, rng) for v in views]))[:, None]
        return shake_values(x, rng), torch.from_numpy((kinds != NON_NODULE).astype(np.float32))

    def _view(self, kind: int, rng: np.random.Generator) -> NDArray[np.float32]:
        if kind == SET_IN:
            return self._set_in(rng)
        if kind == REAL:
            region, candidate = self.real[rng.integers(len(self.real))]
            return ball_of(region, candidate, rng)
        if rng.random() < LARGE:
            # large non-nodules are few, but any place without a mass is one, the wall in particular
            region = self.backgrounds[rng.integers(len(self.backgrounds))]
            place = place_in_lung(region, at_wall=rng.random() < 0.7, rng=rng)
            return ball_view(region.volume, place, rng.uniform(FAR_MM, 60))
        region, candidate = self.non_nodules[rng.integers(len(self.non_nodules))]
        return ball_of(region, candidate, None)

    def _set_in(self, rng: np.random.Generator) -> NDArray[np.float32]:
        pick = rng.integers(len(self.nodules))
        size = self.diameter_mm[pick]
        grow = max(1.0, rng.uniform(20, 65) / size) if size > 9 and rng.random() < 0.5 else 1.0
        background = self.backgrounds[rng.integers(len(self.backgrounds))]
        volume, centre, diameter = set_into(background, self.stacks, int(self.nodules[pick]), grow, rng)
        shift = rng.normal(0, VIEW_SHIFT_MM / 2, 3) / volume.geometry.spacing_zyx
        return ball_view(volume, centre + shift, diameter * np.exp(rng.normal(0, 0.2)))


def train(
    regions: Sequence[TrainingRegion],
    stacks: Stacks,
    left_out: int | None,
    run: Path,
    training: DefaultTraining = TRAINING,
) -> nn.Module:
    """Train a network without nodules and backgrounds of the fold ``left_out``."""
    examples = _Examples.of(regions, stacks, left_out)

    def batches(rng: np.random.Generator) -> list[Maker]:
        assert training.examples is not None
        kinds = rng.choice(len(SHARES), training.examples, p=SHARES)
        starts = range(0, training.examples - training.batch + 1, training.batch)
        return [partial(examples.batch, kinds[i : i + training.batch], rng) for i in starts]

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        return augmented(batch[0], None, training.augment, rng)[0], batch[1]

    torch.manual_seed(training.seed)
    task = Task(batches, nodule_loss, augment if training.augment else None)
    return fit(volume_net(), task, training, run / f"fold{left_out}.pt")


def nodule_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Binary cross entropy with smoothed labels."""
    return functional.binary_cross_entropy_with_logits(net(batch[0])[0][:, 0], batch[1] * 0.96 + 0.02)


def ball_of(region: TrainingRegion, candidate: Candidate, rng: np.random.Generator | None) -> NDArray[np.float32]:
    """The network's view of a candidate, its position and size varied at random if a generator is given."""
    centre = region.volume.geometry.to_index(candidate.centre_lps)
    diameter = candidate.diameter_mm
    if rng is not None:
        centre = centre + rng.normal(0, VIEW_SHIFT_MM / 2, 3) / region.volume.geometry.spacing_zyx
        diameter *= np.exp(rng.normal(0, 0.2))
    return ball_view(region.volume, centre, diameter)


def rotated_ball(view: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """One of the sixteen rotations by 90° and flips that keep the body's axis an axis, at random."""
    view = np.rot90(view, int(rng.integers(4)), (1, 2))
    for axis in (0, 2):
        if rng.random() < 0.5:
            view = np.flip(view, axis)
    return np.ascontiguousarray(view.reshape((BALL_VOXELS,) * 3))
