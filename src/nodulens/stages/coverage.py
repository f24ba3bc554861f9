"""How much of the lungs was searched: what is missing against the other side and the spine, and what hides nodules.

Lung reaches the chest wall beside the spine, and the two lungs are about alike in volume. Where one holds far less than
the other, or a lung does not reach back to the spine, lung is likely to be there that the mask does not hold. What lies
there instead, gas, fluid or tissue, is told by its density.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.core.coverage import Coverage, Opacity, OpacityKind, SideCoverage
from nodulens.core.nodule import Side
from nodulens.core.volume import Mask, Volume
from nodulens.ops.blocks import block_means
from nodulens.ops.components import dilated, distance_mm, opened
from nodulens.stages.lungs import CUT_MM2, cut_off_ends, lung_volumes_ml
from nodulens.stages.thorax import BONE_HU

Bool = NDArray[np.bool_]
HU = NDArray[np.float32]
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
FLUID_HU = 24.0
"""Pleural fluid lies below, airless lung and tumour above."""
TISSUE_HU = -200.0
"""Lung denser than this is airless."""
DENSE_HU = -700.0
"""Lung denser than this, and less dense than tissue, is dense lung."""
DENSE_SHARE = 0.22
"""Of a lung, a centimetre inside: at most 0.10 in the seven scans."""
SOLID_SHARE = 0.04
"""Airless tissue of a lung from which on it is named; vessels and a mass of 5 cm stay below."""
GAS_HU = -955.0
"""Gas without lung lies below."""


@dataclass(frozen=True)
class _Chest:
    """A coarse chest: HU, lungs by side, spacing, and the column of the spine."""

    hu: HU
    lungs: dict[Side, Bool]
    spacing: Spacing
    middle: float

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000

    def mirrored(self, side: Side) -> Bool:
        """Where the lung of a side would be if it were the other's mirror image."""
        other = self.lungs["right" if side == "left" else "left"]
        columns = np.round(2 * self.middle - np.arange(other.shape[2])).astype(int)
        inside = (columns >= 0) & (columns < other.shape[2])
        return np.where(inside, other[:, :, np.clip(columns, 0, other.shape[2] - 1)], False)


def lung_coverage(volume: Volume, lungs: Mask) -> Coverage:
    """What of the lungs was searched, and what may hide nodules.

    Args:
        volume: canonical CT: axes rise towards superior, posterior, left.
        lungs: "left lung" and "right lung" on the grid of ``volume``, at least one of them present.
    """
    chest = _coarse(volume, lungs)
    bottom, top = cut_off_ends(lungs)
    sides = _cut_off_sides(chest)
    reasons = []
    if bottom or top:
        ends = "top and bottom" if bottom and top else "top" if top else "bottom"
        reasons.append(f"The lungs are cut off at the {ends} of the scan: what lies beyond was not searched.")
    if sides:
        edges = ", ".join(sides)
        reasons.append(f"The field of view ends inside the lungs ({edges}): what lies beyond was not searched.")
    ml = lung_volumes_ml(lungs)
    found: dict[Side, SideCoverage] = {}
    opacities: list[Opacity] = []
    for side in ("right", "left"):
        missing, why, where = _missing(chest, side, ml, UNEVEN_PART if bottom or top or sides else UNEVEN)
        searched = ml[f"{side}_ml"]
        share = missing / (missing + searched) if missing else 0.0
        found[side] = SideCoverage(searched, missing, share)
        whole = missing + searched
        if missing:
            kind = _kind(chest, where)
            opacities.append(Opacity(kind, side, missing, share))
            reasons.append(f"{why} {MEANING[kind]}")
        opacities += [o for o in _opacities(chest, side, whole) if not (missing and o.kind == opacities[-1].kind)]
    return Coverage(not reasons, tuple(reasons), found["left"], found["right"], tuple(opacities))


MEANING: dict[OpacityKind, str] = {
    "solid tissue": "Tissue lies there: consolidation, collapse, a mass, or the lung was removed.",
    "fluid": "It is as dense as fluid: an effusion.",
    "gas": "Gas lies there: a pneumothorax or a large bulla.",
    "dense lung": "Dense lung lies there.",
}


def _coarse(volume: Volume, lungs: Mask) -> _Chest:
    grid = volume.geometry
    step = [max(1, min(round(GRID_MM / s), n)) for s, n in zip(grid.spacing_zyx, grid.shape, strict=True)]
    hu = block_means(volume.hu, step)
    picked = lungs.labels[
        tuple(slice(n // 2 if n <= size // 2 else 0, None, n) for n, size in zip(step, grid.shape, strict=True))
    ]
    full = np.zeros(hu.shape, dtype=np.uint8)
    full[tuple(slice(0, n) for n in picked.shape)] = picked[tuple(slice(0, n) for n in hu.shape)]
    dz, dy, dx = (n * s for n, s in zip(step, grid.spacing_zyx, strict=True))
    columns = (hu > BONE_HU).sum(axis=(0, 1)).cumsum()
    present = np.flatnonzero((full > 0).any(axis=(0, 1)))
    middle = float(np.searchsorted(columns, columns[-1] / 2)) if columns[-1] else float(present.mean())
    return _Chest(hu, {"left": full == 1, "right": full == 2}, (dz, dy, dx), middle)


def _cut_off_sides(chest: _Chest) -> list[str]:
    """Where the field of view ends inside the lungs; padding round a circle has the value of a corner on all slices."""
    lung = chest.lungs["left"] | chest.lungs["right"]
    beyond = np.pad((chest.hu == chest.hu[0, 0, 0]).all(axis=0), 1, constant_values=True)
    edge = (distance_mm(~beyond, chest.spacing[1:]) <= 1.5 * max(chest.spacing[1:]))[1:-1, 1:-1]
    _, y, x = np.nonzero(lung & edge)
    if not len(y):
        return []
    _, sy, sx = chest.spacing
    rows, columns = (np.flatnonzero(lung.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    down, across = (y - rows.mean()) * sy, (x - columns.mean()) * sx
    aside = np.abs(across) > np.abs(down)
    places = {
        "right": aside & (across < 0),
        "left": aside & (across > 0),
        "front": ~aside & (down < 0),
        "back": ~aside & (down > 0),
    }
    return [name for name, there in places.items() if np.count_nonzero(there) * chest.spacing[0] * sy > CUT_MM2]


def _missing(chest: _Chest, side: Side, ml: dict[str, float], uneven: float) -> tuple[float, str, Bool]:
    """How much lung a side is likely to lack, in ml (0: nothing known), a sentence, and where it may be."""
    other: Side = "right" if side == "left" else "left"
    own, expected = ml[f"{side}_ml"], ml[f"{other}_ml"] * SHARES[side] / SHARES[other]
    either = chest.lungs["left"] | chest.lungs["right"]
    mirrored = chest.mirrored(side) & ~dilated(either, GRID_MM, chest.spacing)
    if own < uneven * expected:
        why = (
            f"No {side} lung was found: it was not searched."
            if own < LEAST_ML
            else f"The {side} lung found holds {own:.0f} ml, and {expected:.0f} ml are expected from the {other} one."
        )
        return expected - own, why, opened(mirrored, 6.0, chest.spacing)
    apex = mirrored.copy()
    apex[: _top(chest, side) + 1] = False
    for where, why in (
        (_away_from_spine(chest, side), f"The {side} lung does not reach the chest wall beside the spine."),
        (apex, f"The {side} lung ends lower than the apex of the other."),
    ):
        lacking = np.count_nonzero(where) * chest.voxel_ml
        if lacking > max(LEAST_ML, LEAST_SHARE * own):
            return lacking, why, where
    return 0.0, "", apex


def _top(chest: _Chest, side: Side) -> int:
    """The highest slice with more of a lung than the tip of an apex."""
    areas = chest.lungs[side].sum(axis=(1, 2)) * chest.spacing[1] * chest.spacing[2]
    return int(np.flatnonzero(areas > CUT_MM2).max(initial=-1))


def _away_from_spine(chest: _Chest, side: Side) -> Bool:
    """Between a lung that stays away from the spine and where the pleura should be; nothing where it does not."""
    lung = chest.lungs[side]
    out = np.zeros(lung.shape, dtype=bool)
    heights = np.flatnonzero((chest.lungs["left"] | chest.lungs["right"]).any(axis=(1, 2)))
    if not len(heights) or not lung.any():
        return out
    first, last = (round(heights[0] + share * (heights[-1] - heights[0])) for share in BESIDE_HEIGHT)
    _, sy, sx = chest.spacing
    near = np.abs(np.arange(lung.shape[2]) - chest.middle) * sx < 20
    asked = 0
    for z in range(first, last + 1):
        rows = np.flatnonzero(lung[z].any(axis=1))
        both = np.flatnonzero((chest.lungs["left"][z] | chest.lungs["right"][z]).any(axis=1))
        if not len(both):
            continue
        spine = np.nonzero(chest.hu[z][:, near] > BONE_HU)[0]
        spine = spine[spine > both.mean()]
        if len(spine) < 3:
            continue
        asked += 1
        middle = float(np.median(spine))
        hindmost = rows[-1] if len(rows) else middle - 60 / sy
        if (hindmost - middle) * sy < BESIDE_SPINE_MM:
            columns = np.flatnonzero(lung[z].any(axis=0))
            if len(columns):
                out[z, int(hindmost) + 1 : round(middle + BEHIND_SPINE_MM / sy) + 1, columns[0] : columns[-1] + 1] = (
                    True
                )
    away = int(out.any(axis=(1, 2)).sum())
    return out & (chest.hu > TISSUE_HU) if away > BESIDE_SHARE * asked else np.zeros_like(out)


def _kind(chest: _Chest, where: Bool) -> OpacityKind:
    """What lies where lung is missing, by its median density."""
    if not where.any():
        return "solid tissue"
    density = float(np.median(chest.hu[where]))
    return "gas" if density < GAS_HU + 30 else "fluid" if density < FLUID_HU else "solid tissue"


def _opacities(chest: _Chest, side: Side, whole_ml: float) -> list[Opacity]:
    """What may hide nodules inside a lung, and gas beside it."""
    lung = chest.lungs[side]
    if not lung.any():
        return []
    inner = lung & (distance_mm(lung, chest.spacing) > 8)
    hu, voxel = chest.hu, chest.voxel_ml
    solid = np.count_nonzero(opened(lung & (hu > TISSUE_HU), 5.0, chest.spacing)) * voxel
    dense = np.count_nonzero(inner & (hu > DENSE_HU) & (hu < TISSUE_HU)) / (np.count_nonzero(inner) or 1)
    beside = chest.mirrored(side) & ~lung & (hu < GAS_HU)
    gas = np.count_nonzero(opened(beside, 5.0, chest.spacing)) * voxel
    out = []
    if solid > max(LEAST_ML, SOLID_SHARE * whole_ml):
        out.append(Opacity("solid tissue", side, solid, solid / whole_ml))
    if dense > DENSE_SHARE:
        out.append(Opacity("dense lung", side, dense * np.count_nonzero(lung) * voxel, dense))
    if gas > LEAST_ML:
        out.append(Opacity("gas", side, gas, min(1.0, gas / whole_ml)))
    return out
