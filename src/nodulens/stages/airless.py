"""Lung that holds no air: consolidated or collapsed, it looks like the tissue round it.

Where a lung lacks much of what the chest should hold (:mod:`nodulens.stages.expected`), shapes of whole lungs, fitted
to what is left, to the other lung and to the ribs (:mod:`nodulens.stages.lung_shapes`), say how far the lost part
reached. Fluid is left out by its density, fat and chambers full of contrast likewise; heart, liver and spleen are not,
where they lie inside that shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Side, opposite
from nodulens.ops.components import components, distance_mm, opened
from nodulens.stages.expected import LEAST_ML, TISSUE_HU, Chest, missing_lung
from nodulens.stages.lung_shapes import LungShape, foretold, lung_shapes, outlook

Bool = NDArray[np.bool_]

FLUID_HU, CONTRAST_HU = 24.0, 110.0
"""Pleural fluid lies below the first; airless lung and tumour above it, and below vessels full of contrast."""
FAT_HU = 0.0
"""At the edge of airless lung what is less dense is fat."""
RIBS_MM = 5.0
"""Lung lies at least so far from the ribs."""
DEEP_MM = 8.0
"""So deep in a lung's shape lies no chest wall; its tissue tells lung from fluid."""
RIM_MM = 8.0
"""What lies so near to airless lung and is tissue of the shape belongs to it."""


def airless_lung(chest: Chest, side: Side, shapes: Sequence[LungShape] | None = None) -> Bool:
    """Where airless lung lies: bool on the grid of the chest.

    Nothing where nothing is missing or all of a lung is, and where the other lung lacks a part too: the shape of this
    one would be taken from what is left of that, and reach into the heart.

    Args:
        chest: with what was found of the lungs.
        side: of the lung that may lack a part.
        shapes: of whole lungs; by default those that come with the package.
    """
    nothing = np.zeros(chest.hu.shape, dtype=bool)
    if min(chest.ml("left"), chest.ml("right")) < LEAST_ML or not missing_lung(chest, side).ml:
        return nothing
    if missing_lung(chest, opposite(side)).ml:
        return nothing
    either = chest.lungs["left"] | chest.lungs["right"]
    seen = outlook(chest, side)
    depth = foretold(chest, side, seen, lung_shapes() if shapes is None else shapes)
    smooth = _tissue_density(chest)
    room = (depth > 0) & (seen.to_ribs > RIBS_MM) & ~either
    tissue = room & (chest.hu > TISSUE_HU) & (smooth < CONTRAST_HU)
    deep = tissue & (depth > DEEP_MM) & ~seen.own
    if not deep.any() or np.median(chest.hu[deep]) < FLUID_HU:
        return nothing
    parts = components(opened(tissue & (smooth > FLUID_HU), 6.0, chest.spacing))
    found = np.isin(parts.labels, np.flatnonzero(parts.sizes * chest.voxel_ml > LEAST_ML) + 1)
    if not found.any():
        return found
    return np.asarray((distance_mm(~found, chest.spacing) < RIM_MM) & tissue & (smooth > FAT_HU))


def _tissue_density(chest: Chest) -> NDArray[np.float32]:
    """HU (z, y, x): mean of the tissue among 27 voxels; with the air of open bronchi it would be that of fluid."""
    from scipy.ndimage import uniform_filter

    tissue = chest.hu > TISSUE_HU
    total = uniform_filter(np.where(tissue, np.minimum(chest.hu, 200), 0).astype(np.float32), 3)
    share = uniform_filter(tissue.astype(np.float32), 3)
    return np.asarray(total / np.maximum(share, 1 / 27))
