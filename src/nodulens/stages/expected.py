"""How much lung a chest should hold: against the other lung, the spine and the other's apex.

Lung reaches the chest wall beside the spine, and the two lungs are about alike in volume and height. Where one holds
far less than the other, stays away from the spine or ends lower, lung is likely to be there that is not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Side, opposite
from nodulens.ops.blocks import block_means
from nodulens.ops.components import dilated, distance_mm, opened
from nodulens.stages.thorax import BONE_HU, CUT_MM2

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
Labels = NDArray[np.uint8]
Spacing = tuple[float, float, float]

GRID_MM = 4.0
"""Voxel size to work at, roughly."""
SHARES: dict[Side, float] = {"left": 0.464, "right": 0.536}
"""Of the volume of both lungs, in 32 healthy supine adults (Yamada et al. 2020, doi:10.1159/000507265)."""
UNEVEN = 0.72
"""A lung with less than this of what the other lets expect lacks something; in the seven scans at hand all have 0.79
or more."""
UNEVEN_PART = 0.5
"""The same where the scan ends inside the lungs: domes and apices differ in height."""
BESIDE_SPINE_MM = -8.0
"""A lung's hindmost point lies at least so far behind the middle of the vertebra: −4 to 49 mm in the seven scans."""
BEHIND_SPINE_MM = 20.0
"""Where the pleura lies behind the middle of the vertebra, on average."""
BESIDE_HEIGHT = (0.15, 0.8)
"""Shares of the lungs' height between which that is asked."""
BESIDE_SHARE = 0.2
"""On more of these slices than this a lung must stay away from the spine."""
LEAST_ML, LEAST_SHARE = 60.0, 0.08
"""Smaller amounts, or shares of a lung, are within what healthy chests differ by."""
LEAST_ROLL = np.radians(8)
"""Smaller angles are within what the bones of a chest differ by from side to side."""
LEAST_RATIO = 1.7
"""Bones are spread wider than deep by so much in variance (1.9 to 4.2 in the seven scans), or are cut off at a side
and tell no angle."""
TISSUE_HU = -200.0
"""Lung denser than this is airless."""


@dataclass(frozen=True)
class Chest:
    """A chest in voxels of about 4 mm.

    Attributes:
        hu: (z, y, x) float32, canonical.
        lungs: bool (z, y, x) by side.
        spacing: millimetres (z, y, x).
        middle: (row, column) of the middle of its bones.
        roll: radians by which the patient is turned about the long axis, the left side towards the back.
    """

    hu: HU
    lungs: dict[Side, Bool]
    spacing: Spacing
    middle: tuple[float, float]
    roll: float

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000

    def ml(self, side: Side) -> float:
        """Volume of a lung."""
        return float(np.count_nonzero(self.lungs[side])) * self.voxel_ml

    def across(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(y, x) each: millimetres to the left of the plane that halves the chest, and towards its back."""
        _, ny, nx = self.hu.shape
        _, sy, sx = self.spacing
        y, x = np.mgrid[:ny, :nx]
        down, aside = (y - self.middle[0]) * sy, (x - self.middle[1]) * sx
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return aside * cos + down * sin, down * cos - aside * sin

    def beyond(self) -> Bool:
        """(y, x): padding beyond a round field of view has a corner's value on all slices."""
        return np.asarray((self.hu == self.hu[0, 0, 0]).all(axis=0))

    def mirrored(self, side: Side) -> Bool:
        """Where the lung of a side would be if it were the other's mirror image."""
        other = self.lungs[opposite(side)]
        aside, _ = self.across()
        _, sy, sx = self.spacing
        y, x = np.mgrid[: other.shape[1], : other.shape[2]]
        rows = np.rint(y - 2 * aside * np.sin(self.roll) / sy).astype(int)
        columns = np.rint(x - 2 * aside * np.cos(self.roll) / sx).astype(int)
        inside = (rows >= 0) & (rows < other.shape[1]) & (columns >= 0) & (columns < other.shape[2])
        return np.asarray(other[:, np.where(inside, rows, 0), np.where(inside, columns, 0)] & inside)

    def cut_off_ends(self) -> tuple[bool, bool]:
        """Whether the scan ends inside the lungs: (at the first slice, at the last), inferior first."""
        lung = self.lungs["left"] | self.lungs["right"]
        first, last = (np.count_nonzero(lung[z]) * self.spacing[1] * self.spacing[2] for z in (0, -1))
        return bool(first > CUT_MM2), bool(last > CUT_MM2)

    def cut_off_sides(self) -> list[str]:
        """Where the field of view ends inside the lungs."""
        lung = self.lungs["left"] | self.lungs["right"]
        beyond = np.pad(self.beyond(), 1, constant_values=True)
        edge = (distance_mm(~beyond, self.spacing[1:]) <= 1.5 * max(self.spacing[1:]))[1:-1, 1:-1]
        _, y, x = np.nonzero(lung & edge)
        if not len(y):
            return []
        _, sy, sx = self.spacing
        rows, columns = (np.flatnonzero(lung.any(axis=axes)) for axes in ((0, 2), (0, 1)))
        down, across = (y - rows.mean()) * sy, (x - columns.mean()) * sx
        aside = np.abs(across) > np.abs(down)
        places = {
            "right": aside & (across < 0),
            "left": aside & (across > 0),
            "front": ~aside & (down < 0),
            "back": ~aside & (down > 0),
        }
        return [name for name, there in places.items() if np.count_nonzero(there) * self.spacing[0] * sy > CUT_MM2]


@dataclass(frozen=True)
class Missing:
    """Lung that a side is likely to lack.

    Attributes:
        ml: an estimate; 0 where nothing is known to be missing.
        reason: a sentence; empty likewise.
        where: bool (z, y, x) on the grid of the chest: where it may be, roughly.
    """

    ml: float
    reason: str
    where: Bool


def coarse_chest(hu: NDArray[np.float32] | NDArray[np.int16], labels: Labels, spacing: Spacing) -> Chest:
    """A chest in voxels of about 4 mm.

    Args:
        hu: (z, y, x), canonical.
        labels: on the same grid: 1 left lung, 2 right lung.
        spacing: millimetres (z, y, x).
    """
    step = [max(1, min(round(GRID_MM / s), n)) for s, n in zip(spacing, hu.shape, strict=True)]
    low = block_means(hu, step)
    middles = [
        np.minimum(np.arange(n) * f + f // 2, size - 1) for n, f, size in zip(low.shape, step, hu.shape, strict=True)
    ]
    picked = labels[np.ix_(*middles)]
    dz, dy, dx = (n * s for n, s in zip(step, spacing, strict=True))
    bones = np.argwhere(low > BONE_HU)[:, 1:]
    if not len(bones):
        bones = np.argwhere(picked > 0)[:, 1:]
    centre = bones.mean(axis=0)
    down, aside = ((bones - centre) * (dy, dx)).T
    wide, deep, both = (aside * aside).mean(), (down * down).mean(), (aside * down).mean()
    half, spread = (wide + deep) / 2, float(np.hypot((wide - deep) / 2, both))
    roll = 0.5 * float(np.arctan2(2 * both, wide - deep))
    roll = roll if abs(roll) > LEAST_ROLL and half + spread > LEAST_RATIO * (half - spread) else 0.0
    off = float(np.median(aside * np.cos(roll) + down * np.sin(roll)))
    middle = float(centre[0]) + off * np.sin(roll) / dy, float(centre[1]) + off * np.cos(roll) / dx
    return Chest(low, {"left": picked == 1, "right": picked == 2}, (dz, dy, dx), middle, roll)


def missing_lung(chest: Chest, side: Side) -> Missing:
    """What a side lacks against the other, the spine and the other's apex."""
    other = opposite(side)
    own, expected = chest.ml(side), chest.ml(other) * SHARES[side] / SHARES[other]
    uneven = UNEVEN_PART if any(chest.cut_off_ends()) or chest.cut_off_sides() else UNEVEN
    either = chest.lungs["left"] | chest.lungs["right"]
    mirrored = chest.mirrored(side) & ~dilated(either, GRID_MM, chest.spacing)
    if own < uneven * expected:
        why = (
            f"No {side} lung was found: it was not searched."
            if own < LEAST_ML
            else f"The {side} lung found holds {own:.0f} ml, and {expected:.0f} ml are expected from the {other} one."
        )
        return Missing(expected - own, why, opened(mirrored, 6.0, chest.spacing))
    apex = mirrored.copy()
    apex[: _top(chest, side) + 1] = False
    for where, why in (
        (_away_from_spine(chest, side), f"The {side} lung does not reach the chest wall beside the spine."),
        (apex, f"The {side} lung ends lower than the apex of the other."),
    ):
        lacking = float(np.count_nonzero(where)) * chest.voxel_ml
        if lacking > max(LEAST_ML, LEAST_SHARE * own):
            return Missing(lacking, why, where)
    return Missing(0.0, "", np.zeros_like(apex))


def _top(chest: Chest, side: Side) -> int:
    """The highest slice with more of a lung than the tip of an apex."""
    areas = chest.lungs[side].sum(axis=(1, 2)) * chest.spacing[1] * chest.spacing[2]
    return int(np.flatnonzero(areas > CUT_MM2).max(initial=-1))


def _away_from_spine(chest: Chest, side: Side) -> Bool:
    """Between a lung that stays away from the spine and where the pleura should be; nothing where it does not."""
    lung = chest.lungs[side]
    out = np.zeros(lung.shape, dtype=bool)
    heights = np.flatnonzero((chest.lungs["left"] | chest.lungs["right"]).any(axis=(1, 2)))
    if not len(heights) or not lung.any():
        return out
    first, last = (round(heights[0] + share * (heights[-1] - heights[0])) for share in BESIDE_HEIGHT)
    aside, down = chest.across()
    asked = 0
    for z in range(first, last + 1):
        both = down[chest.lungs["left"][z] | chest.lungs["right"][z]]
        spine = down[(chest.hu[z] > BONE_HU) & (np.abs(aside) < 20)]
        spine = spine[spine > both.mean()] if both.size else spine[:0]
        if len(spine) < 3:
            continue
        asked += 1
        middle = float(np.median(spine))
        hindmost = float(down[lung[z]].max(initial=-np.inf))
        if lung[z].any() and hindmost - middle < BESIDE_SPINE_MM:
            own = aside[lung[z]]
            gap = (down > hindmost) & (down < middle + BEHIND_SPINE_MM) & (aside >= own.min()) & (aside <= own.max())
            out[z] = gap & (chest.hu[z] > TISSUE_HU)
    away = int(out.any(axis=(1, 2)).sum())
    return out if away > BESIDE_SHARE * asked else np.zeros_like(out)
