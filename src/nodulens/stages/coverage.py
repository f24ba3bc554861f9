"""How much of the lungs was searched: what is missing against the other side and the spine, and what hides nodules.

What is missing is judged by :mod:`nodulens.stages.expected`; what lies there instead, gas, fluid or tissue, is told by
its density.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.coverage import Coverage, Opacity, OpacityKind, SideCoverage
from nodulens.core.nodule import Side
from nodulens.core.volume import Mask, Volume
from nodulens.ops.components import dilated, eroded, opened
from nodulens.stages.airless import FLUID_HU
from nodulens.stages.expected import LEAST_ML, TISSUE_HU, Chest, coarse_chest, missing_lung
from nodulens.stages.lung_air import GAS_HU
from nodulens.stages.lungs import cut_off_ends, lung_volumes_ml

Bool = NDArray[np.bool_]

DENSE_HU = -700.0
"""Lung denser than this, and less dense than tissue, is dense lung."""
DENSE_SHARE = 0.22
"""Of a lung, a centimetre inside: at most 0.10 in the seven scans."""
SOLID_SHARE = 0.04
"""Airless tissue of a lung from which on it is named; vessels and a mass of 5 cm stay below."""
LEAST_GAS_ML = 100.0
"""Less may be a bubble of the stomach under the dome."""
CENTRAL_MM = 25.0
"""Gas nearer to the middle is that of the airways."""

MEANING: dict[OpacityKind, str] = {
    "solid tissue": "Tissue lies there: consolidation, collapse, a mass, or the lung was removed.",
    "fluid": "It is as dense as fluid: an effusion.",
    "gas": "Gas lies there: a pneumothorax or a large bulla.",
    "dense lung": "Dense lung lies there.",
}


def lung_coverage(volume: Volume, lungs: Mask) -> Coverage:
    """What of the lungs was searched, and what may hide nodules.

    Args:
        volume: canonical CT: axes rise towards superior, posterior, left.
        lungs: "left lung" and "right lung" on the grid of ``volume``, at least one of them present.
    """
    chest = coarse_chest(volume.hu, np.asarray(lungs.labels, dtype=np.uint8), volume.geometry.spacing_zyx)
    bottom, top = cut_off_ends(lungs)
    sides = chest.cut_off_sides()
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
        missing, searched = missing_lung(chest, side), ml[f"{side}_ml"]
        whole = missing.ml + searched
        share = missing.ml / whole if missing.ml else 0.0
        found[side] = SideCoverage(searched, missing.ml, share)
        inside = _opacities(chest, side, whole)
        if missing.ml:
            kind = _kind(chest, missing.where)
            reasons.append(f"{missing.reason} {MEANING[kind]}")
            inside = [Opacity(kind, side, missing.ml, share), *(o for o in inside if o.kind != kind)]
        opacities += inside
    return Coverage(not reasons, tuple(reasons), found["left"], found["right"], tuple(opacities))


def _kind(chest: Chest, where: Bool) -> OpacityKind:
    """What lies where lung is missing, by its median density."""
    if not where.any():
        return "solid tissue"
    density = float(np.median(chest.hu[where]))
    return "gas" if density < GAS_HU + 30 else "fluid" if density < FLUID_HU else "solid tissue"


def _opacities(chest: Chest, side: Side, whole_ml: float) -> list[Opacity]:
    """What may hide nodules inside a lung, and gas beside it."""
    lung = chest.lungs[side]
    if not lung.any():
        return []
    inner = eroded(lung, 8.0, chest.spacing)
    hu, voxel = chest.hu, chest.voxel_ml
    solid = np.count_nonzero(opened(lung & (hu > TISSUE_HU), 5.0, chest.spacing)) * voxel
    dense = np.count_nonzero(inner & (hu > DENSE_HU) & (hu < TISSUE_HU)) / (np.count_nonzero(inner) or 1)
    reach = dilated(chest.mirrored(side), 8.0, chest.spacing) & (np.abs(chest.across()[0]) > CENTRAL_MM)
    beside = reach & ~lung & ~chest.beyond() & (hu < GAS_HU)
    gas = np.count_nonzero(opened(beside, 5.0, chest.spacing)) * voxel
    out = []
    if solid > max(LEAST_ML, SOLID_SHARE * whole_ml):
        out.append(Opacity("solid tissue", side, float(solid), float(solid / whole_ml)))
    if dense > DENSE_SHARE:
        out.append(Opacity("dense lung", side, float(dense * chest.ml(side)), float(dense)))
    if gas > LEAST_GAS_ML:
        out.append(Opacity("gas", side, float(gas), float(min(1.0, gas / whole_ml))))
    return out
