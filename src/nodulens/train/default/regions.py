"""Regions of lung with their ground truth: cubes, nodule-free lungs, and nodules inserted into these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry, ball_diameter_mm
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.material import CUBE_MM, Background, Cubes, Stacks
from nodulens.ops.intensity import from_unit
from nodulens.ops.patches import Window
from nodulens.stages.candidates import LARGEST_MM, propose
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.stages.views import BALL_VOXELS, FAR_MM
from nodulens.train.default.cube_detection import searched

RIM = 4
"""Empty slices added at each end of a nodule's mask before it is inserted into a background."""
PLACE_MM = 2.0
"""Typical distance of a candidate from the centre of its nodule."""


@dataclass(frozen=True)
class TrainingRegion:
    """A region of lung with its ground truth.

    Attributes:
        volume: HU.
        candidates: of the candidate stage.
        is_nodule: label of each candidate; ambiguous ones are left out beforehand.
        lung: (z, y, x), the search region.
        centre_zyx: index of the middle of the consensus; None without a nodule.
        diameter_mm: of the ball of its volume; 0 without a nodule.
    """

    patient: str
    volume: Volume
    candidates: tuple[Candidate, ...]
    is_nodule: tuple[bool, ...]
    lung: NDArray[np.bool_]
    centre_zyx: NDArray[np.float64] | None = None
    diameter_mm: float = 0.0


def backgrounds(data: Path) -> list[TrainingRegion]:
    """The three nodule-free lungs; every candidate is a non-nodule, except near structures that were not annotated."""
    out = []
    for patient in Background.PATIENTS:
        volume = Background.volume(data, patient)
        lungs = segment_lungs(volume)
        lung = lungs.labels > 0
        found = _up_to_40_mm(propose(volume, search_region(lungs, margin_mm=0.0)))
        found = [c for c in found if not Background.is_unannotated(patient, c.centre_lps)]
        out.append(TrainingRegion(patient, volume, tuple(found), (False,) * len(found), lung))
    return out


def cube_regions(cubes: Cubes, done: Callable[[float], None] = lambda share: None) -> list[TrainingRegion]:
    """The cubes. A candidate near the centre of the consensus, and of about its size, is the nodule; one well away from
    every outline and every finding that LUNA16 excludes is a non-nodule; the rest are left out.

    Args:
        done: called with the share that is read.
    """
    out = []
    for n in cubes.nodules.tolist():
        hu = cubes.hu(n)
        volume = Volume(hu, Geometry.axial((CUBE_MM,) * 3))
        lung, away = searched(cubes, n, hu), cubes.negative(n)
        truth = cubes.truth(n)
        truth = truth if truth.any() else cubes.outlined(n)
        middle, size = np.asarray(ndimage.center_of_mass(truth)), ball_diameter_mm(int(truth.sum()))
        candidates, label = [], []
        for c in _up_to_40_mm(propose(volume, lung)):
            index = volume.geometry.to_index(c.centre_lps)
            z, y, x = np.clip(np.round(index).astype(int), 0, CUBE_MM - 1)
            marks = float(np.linalg.norm(index - middle)) < max(2.5, 0.25 * size) and 0.5 < c.diameter_mm / size < 2
            if marks or away[z, y, x]:
                candidates.append(c)
                label.append(marks)
        out.append(TrainingRegion(cubes.patients[n], volume, tuple(candidates), tuple(label), lung, middle, size))
        done((n + 1) / len(cubes))
    return out


def _up_to_40_mm(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates without masses: no cube holds one whole, and of the lungs other places are drawn of that size."""
    return [c for c in candidates if c.diameter_mm <= LARGEST_MM]


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
    reach = max(20.0, diameter * BALL_VOXELS / 2 / FAR_MM) + 2 * PLACE_MM + 4
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
