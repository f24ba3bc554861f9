"""The detector's two networks, trained together: one that screens candidates, and one that scores those that pass.

Nodules are the real ones of the cubes, and those of the stacks inserted into nodule-free lungs; non-nodules are other
candidates of both. Both sources have both classes, so that the source does not give the label away.

Nor may the place in a cube. Its nodule is in the middle, and a view of it never ends at a face, where the last voxels
are repeated; views of most other candidates do. A network that learns this finds nearly every nodule of the cubes, and
several times as many false positives in a scan, which has no faces. So nodules are seen as if they were where the
non-nodules are: views of both end at faces equally often, and at the same distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.core.volume import Volume
from nodulens.data.folds import may_train
from nodulens.data.material import Stacks
from nodulens.stages.views import BALL_VOXELS, FAR_MM, SCREEN_MM, SCREEN_VOXELS, block_view, step_mm
from nodulens.train.default.regions import PLACE_MM, TrainingRegion, place_in_lung, set_into
from nodulens.train.default.training import DefaultTraining
from nodulens.train.loop.augment import augmented, shake_values, thickened
from nodulens.train.loop.fit import Batch, Maker, Task, fit
from nodulens.train.networks.default_method import screen_net, volume_net

Float32 = NDArray[np.float32]
Place = tuple[Volume, NDArray[np.float64], float]
"""Where a candidate is: the volume, the index of its centre there, its diameter in mm."""

TRAINING = DefaultTraining(
    epochs=18, learning_rate=2e-3, batch=32, examples=4800, weight_decay=1e-2, averaging=0.998, warm_up=0.1
)
SMOOTHING = 0.02
"""Of the labels, in the first part of a training: some non-nodules are nodules that nobody annotated. It teaches the
same score for all clear nodules, though, so that those of doubt rank among them; hence a second part without."""
SHARPENED = 0.6
"""Epochs of the second part to one of the first."""
INNER, OUTER, IN_BACKGROUND, ELSEWHERE, REAL, SET_IN = range(6)
"""Kinds of examples: non-nodules among the candidates of the cubes, those whose views end at no face first, and of the
nodule-free lungs, and places there that are sampled as coarsely as masses; nodules in their own scan, and inserted into
nodule-free lungs."""
SHARES = (0.16, 0.26, 0.12, 0.04, 0.3, 0.12)
"""The share of each kind among the examples."""
ENDING = SHARES[OUTER] / sum(SHARES[:REAL])
"""Share of the nodules' views that end at faces: that of the non-nodules'."""
INNER_MM = 14.0
"""From a cube's faces to its inner candidates, whose views have two voxels beyond at most."""
PROPOSED = 0.6
"""Share of the real nodules that are seen where the candidate stage found them, not about their centre."""
OFTEN, HARD, DOUBTFUL = 4.0, 0.2, 0.8
"""Non-nodules of scores between these two are sampled so many times as often as the easiest. Above, they are sampled
less often again: among those of the highest scores are nodules that nobody annotated."""
THICK, THICKEST_MM = 0.15, 5.0
"""Share of the examples that are seen as in a scan of thick slices, of 2 mm to so many; no cube is from one."""
ZOOMED, LARGEST_ZOOM = 0.25, 1.2
"""Share of the examples that are seen larger or smaller, up to this factor."""


class DetectorNets(nn.Module):
    """Both networks as one module, as they are trained together.

    Shape:
        screens (N, 1, 16, 16, 16) and balls (N, 1, 32, 32, 32) 0…1; output (N,) logits of each network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.screen = screen_net()
        self.volume = volume_net()

    def forward(self, screens: Tensor, balls: Tensor) -> tuple[Tensor, Tensor]:
        return self.screen(screens)[:, 0], self.volume(balls)[:, 0]


@dataclass(frozen=True, eq=False)
class _Examples:
    """The training set and its sampling.

    Attributes:
        backgrounds: nodule-free lungs.
        nodules: the places where each real nodule may be seen: about its centre, then as the candidate stage found it.
        non_nodules: the other candidates.
        kind: (N,) of each of these: :data:`INNER`, :data:`OUTER` or :data:`IN_BACKGROUND`.
        stacks: nodules to insert.
        inserted: their numbers.
        inserted_mm: diameter of each.
    """

    backgrounds: list[TrainingRegion]
    nodules: list[list[Place]]
    non_nodules: list[Place]
    kind: NDArray[np.int_]
    stacks: Stacks
    inserted: NDArray[np.int_]
    inserted_mm: NDArray[np.float64]

    @classmethod
    def of(cls, regions: Sequence[TrainingRegion], stacks: Stacks, left_out: int | None) -> _Examples:
        """The examples of the training patients outside the fold ``left_out``; of the stacks' nodules those of two
        readers or more."""
        may = may_train([r.patient for r in regions], left_out)
        own = [r for r, ok in zip(regions, may, strict=True) if ok]
        cubes, lungs = ([r for r in own if (r.centre_zyx is None) == free] for free in (False, True))
        numbers = stacks.nodules[may_train([stacks.patients[n] for n in stacks.nodules], left_out)]
        numbers = np.array([n for n in numbers if stacks.truth(n).sum() > 3 and stacks.readers(n) >= 2])
        near = [place for r in cubes for place in _places(r, is_nodule=False)]
        free = [place for r in lungs for place in _places(r, is_nodule=False)]
        kind = [INNER if _is_inner(place) else OUTER for place in near] + len(free) * [IN_BACKGROUND]
        return cls(
            backgrounds=lungs,
            nodules=[[(r.volume, r.centre_zyx, r.diameter_mm), *_places(r, is_nodule=True)] for r in cubes],  # type: ignore[list-item]
            non_nodules=near + free,
            kind=np.array(kind),
            stacks=stacks,
            inserted=numbers,
            inserted_mm=np.array([stacks.diameter_mm(n) for n in numbers]),
        )

    def draw(self, number: int, hardness: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int_]:
        """Draw examples: (number, 3), the kind; of candidates that are no nodules the row; of nodules the row of the
        non-nodule at whose place in a cube they are seen. −1 where there is none.

        Args:
            hardness: (N,) of the non-nodules; of each kind, the harder are drawn the more often.
        """
        kinds = rng.choice(len(SHARES), number, p=SHARES)
        rows, seen_at = np.full((2, number), -1)
        for kind in (INNER, OUTER, IN_BACKGROUND):
            chosen, own = np.flatnonzero(kinds == kind), np.flatnonzero(self.kind == kind)
            chance = hardness[own].astype(np.float64)
            rows[chosen] = rng.choice(own, len(chosen), p=chance / chance.sum())
        ending = np.flatnonzero((kinds >= REAL) & (rng.random(number) < ENDING))
        seen_at[ending] = rng.choice(rows[kinds == OUTER], len(ending))
        return np.stack([kinds, rows, seen_at], 1)

    def batch(self, drawn: NDArray[np.int_], rng: np.random.Generator) -> Batch:
        """Views for both networks, labels, and rows of the non-nodules (−1: another kind).

        Args:
            drawn: (N, 3) of :meth:`draw`.
        """
        screens: list[Float32] = []
        balls: list[Float32] = []
        for kind, row, seen_at in drawn:
            place = self._place(int(kind), int(row), rng)
            faces = None if seen_at < 0 else _to_faces(self.non_nodules[seen_at])
            # not so thick that the small ones vanish
            thick_mm = rng.uniform(2, np.clip(place[2], 2.5, THICKEST_MM)) if rng.random() < THICK else 0.0
            zoom = LARGEST_ZOOM ** rng.uniform(-1, 1) if rng.random() < ZOOMED else 1.0
            for views, fine_mm, voxels in ((screens, SCREEN_MM, SCREEN_VOXELS), (balls, FAR_MM, BALL_VOXELS)):
                volume, centre, diameter = place
                voxel_mm = zoom * step_mm(diameter, fine_mm)
                view = _ended(block_view(volume, centre, voxel_mm, voxels), voxel_mm, faces)
                slices = round(thick_mm / voxel_mm)
                views.append(thickened(view, slices, rng) if slices > 1 else view)
        label = torch.from_numpy((drawn[:, 0] >= REAL).astype(np.float32))
        return _augmented(screens, rng), _augmented(balls, rng), label, torch.from_numpy(drawn[:, 1])

    def _place(self, kind: int, row: int, rng: np.random.Generator) -> Place:
        if kind == REAL:
            own = self.nodules[rng.integers(len(self.nodules))]
            if len(own) > 1 and rng.random() < PROPOSED:
                return _shaken(own[rng.integers(1, len(own))], 0.7, 0.15, rng)
            return _shaken(own[0], min(1.5, 0.15 * own[0][2] + 0.5), 0.25, rng)
        if kind == SET_IN:
            return self._set_in(rng)
        if kind == ELSEWHERE:
            # large non-nodules are few, but any place without a mass is one, the wall in particular
            region = self.backgrounds[rng.integers(len(self.backgrounds))]
            place = place_in_lung(region, at_wall=rng.random() < 0.7, rng=rng)
            return region.volume, place, rng.uniform(FAR_MM, 60)
        return _shaken(self.non_nodules[row], 0.5, 0.1, rng)

    def _set_in(self, rng: np.random.Generator) -> Place:
        pick = rng.integers(len(self.inserted))
        size = self.inserted_mm[pick]
        grow = max(1.0, rng.uniform(20, 65) / size) if size > 9 and rng.random() < 0.5 else 1.0
        background = self.backgrounds[rng.integers(len(self.backgrounds))]
        placed = set_into(background, self.stacks, int(self.inserted[pick]), grow, rng)
        return _shaken(placed, PLACE_MM / 2, 0.2, rng)


def _places(region: TrainingRegion, *, is_nodule: bool) -> list[Place]:
    """Where a region's candidates are that are nodules, or are none."""
    pairs = zip(region.candidates, region.is_nodule, strict=True)
    to_index = region.volume.geometry.to_index
    return [(region.volume, to_index(c.centre_lps), c.diameter_mm) for c, label in pairs if label == is_nodule]


def _shaken(place: Place, shift_mm: float, spread: float, rng: np.random.Generator) -> Place:
    """A place moved at random along each axis, and its diameter changed, by ``spread`` of its logarithm."""
    volume, centre, diameter = place
    shift = rng.normal(0, shift_mm, 3) / volume.geometry.spacing_zyx
    return volume, centre + shift, diameter * float(np.exp(rng.normal(0, spread)))


def _augmented(views: Sequence[Float32], rng: np.random.Generator) -> Tensor:
    """A batch (N, 1, S, S, S) of views turned and shaken at random."""
    return shake_values(torch.from_numpy(np.stack([_turned(v, rng) for v in views]))[:, None], rng)


def _turned(view: Float32, rng: np.random.Generator) -> Float32:
    """A view rotated by multiples of 90° about the body's axis and flipped; now and then its axes are exchanged, though
    the blur of thick slices is along one."""
    if rng.random() < 0.3:
        view = view.transpose(rng.permutation(3))
    view = np.rot90(view, int(rng.integers(4)), (1, 2))
    flipped = tuple(axis for axis in range(3) if rng.random() < 0.5)
    return np.ascontiguousarray(np.flip(view, flipped))


def _to_faces(place: Place) -> NDArray[np.float64]:
    """Distances (2, 3) in mm of a place from the first and from the last voxels of its volume along each axis."""
    volume, centre, _ = place
    return np.stack([centre, np.asarray(volume.geometry.shape) - 1 - centre]) * volume.geometry.spacing_zyx


def _is_inner(place: Place) -> bool:
    """Whether the larger view of a place ends at no face."""
    return bool(_to_faces(place).min() >= INNER_MM * step_mm(place[2], FAR_MM))


def _ended(view: Float32, voxel_mm: float, faces: NDArray[np.float64] | None) -> Float32:
    """A view (S, S, S) as if its volume ended at some distances from its centre: the last voxels are repeated beyond.

    Args:
        voxel_mm: side of its voxels.
        faces: of :func:`_to_faces`; None: as it is.
    """
    if faces is None:
        return view
    last = len(view) - 1
    first, end = np.ceil(last / 2 - faces[0] / voxel_mm), np.floor(last / 2 + faces[1] / voxel_mm)
    return view[np.ix_(*(np.clip(np.arange(len(view)), a, b).astype(int) for a, b in zip(first, end, strict=True)))]


def train(
    regions: Sequence[TrainingRegion],
    stacks: Stacks,
    left_out: int | None,
    run: Path,
    training: DefaultTraining = TRAINING,
) -> DetectorNets:
    """Train both networks without nodules and nodule-free lungs of the fold ``left_out``."""
    examples = _Examples.of(regions, stacks, left_out)
    hardness = torch.ones(len(examples.non_nodules))

    def batches(rng: np.random.Generator) -> list[Maker]:
        assert training.examples is not None
        drawn = examples.draw(training.examples, hardness.numpy(), rng)
        starts = range(0, training.examples - training.batch + 1, training.batch)
        return [partial(examples.batch, drawn[i : i + training.batch], rng) for i in starts]

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        more = [augmented(views, None, training.augment, rng)[0] for views in batch[:2]]
        return (*more, *batch[2:])

    def task(smoothing: float) -> Task:
        def loss(net: nn.Module, batch: Batch) -> Tensor:
            value, logits = nodule_loss(net, batch, smoothing)
            rows = batch[3].cpu()
            known = rows >= 0
            score = logits.detach().sigmoid().float().cpu()[known]
            hardness[rows[known]] = (hardness[rows[known]] + _how_often(score)) / 2
            return value

        return Task(batches, loss, augment if training.augment else None, hardness=hardness)

    torch.manual_seed(training.seed)
    net = fit(DetectorNets(), task(SMOOTHING), training, run / f"fold{left_out}.pt")
    return fit(net, task(0.0), sharpening(training), run / f"fold{left_out}-sharp.pt")


def _how_often(score: Tensor) -> Tensor:
    """How often non-nodules of these scores are sampled, in relation to one of score 0."""
    hard, doubtful = score / HARD, (1 - score) / (1 - DOUBTFUL)
    return 1 + (OFTEN - 1) * torch.minimum(hard, doubtful).clamp(max=1)


def sharpening(training: DefaultTraining) -> DefaultTraining:
    """The second part of a training, in which labels are not smoothed."""
    return replace(
        training,
        epochs=max(1, round(SHARPENED * training.epochs)),
        learning_rate=training.learning_rate / 2,
        seed=training.seed + 1,
    )


def nodule_loss(net: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sum of both networks' binary cross entropies, and the logits (N,) of the second.

    Args:
        smoothing: what the labels 0 and 1 are moved towards each other.
    """
    screens, balls, label = batch[:3]
    screened, logits = net(screens, balls)
    entropy = partial(functional.binary_cross_entropy_with_logits, target=label * (1 - 2 * smoothing) + smoothing)
    return entropy(screened) + entropy(logits), logits
