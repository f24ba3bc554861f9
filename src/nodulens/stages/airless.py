"""Lung that holds no air: consolidated or collapsed, it looks like the tissue round it.

Where a lung lacks much of what the chest should hold (:mod:`nodulens.stages.expected`), the other lung's mirror image,
moved to where it fits what is left and stays clear of bone, says how far the lost part reached. Fluid is left out by
its density, chambers full of contrast likewise; heart, liver and spleen are not, where they lie in the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box, Side
from nodulens.ops.components import closed, components, distance_mm, opened
from nodulens.stages.expected import LEAST_ML, TISSUE_HU, Chest, missing_lung
from nodulens.stages.thorax import BONE_HU

Bool = NDArray[np.bool_]

FLUID_HU, CONTRAST_HU = 24.0, 110.0
"""Pleural fluid lies below the first; airless lung and tumour above it, and below vessels full of contrast."""
BETWEEN_RIBS_MM = 20.0
"""A ball of this radius does not pass between two ribs."""
GAP_MM = 20.0
"""How far airless lung found by the mirror image may stay away from the ribs."""
PLEURA_MM = 7.0
"""Between ribs and lung."""
REACH_MM = 24.0
"""How far the mirror image is moved at most, along each axis."""


def airless_lung(chest: Chest, side: Side) -> Bool:
    """Where airless lung lies: bool on the grid of the chest; nothing where nothing is missing, or all of the lung."""
    nothing = np.zeros(chest.hu.shape, dtype=bool)
    if chest.ml(side) < LEAST_ML or not missing_lung(chest, side).ml:
        return nothing
    from scipy.ndimage import uniform_filter

    either = chest.lungs["left"] | chest.lungs["right"]
    room = _moved(chest.mirrored(side), *_shift(chest, side)) & ~either
    smooth = uniform_filter(np.clip(chest.hu, -200, 200), 3)
    tissue = room & (chest.hu > TISSUE_HU) & (smooth < CONTRAST_HU)
    if not tissue.any() or np.median(smooth[tissue]) < FLUID_HU:
        return nothing
    parts = components(opened(tissue & (smooth > FLUID_HU), 6.0, chest.spacing))
    large = np.flatnonzero(parts.sizes * chest.voxel_ml > LEAST_ML) + 1
    found = np.isin(parts.labels, large)
    return found | _up_to_the_ribs(found, chest) & ~either if found.any() else found


def _up_to_the_ribs(found: Bool, chest: Chest) -> Bool:
    """What of a narrow gap between airless lung and the ribs or the spine is no bone."""
    box = Box.of_mask(found).grown([int(np.ceil(2 * GAP_MM / s)) for s in chest.spacing]).clipped(found.shape).slices
    shell = closed(chest.hu[box] > BONE_HU, BETWEEN_RIBS_MM, chest.spacing)
    out = np.zeros_like(found)
    to_shell = distance_mm(~shell, chest.spacing)
    gap = distance_mm(~found[box], chest.spacing) + to_shell < GAP_MM
    out[box] = gap & (to_shell > PLEURA_MM) & (chest.hu[box] > TISSUE_HU)
    return out


def _shift(chest: Chest, side: Side) -> tuple[int, int, int]:
    """How far to move the mirror image, in voxels: over what is left of the lung, off bone."""
    worth = np.where(chest.lungs[side], 1.0, 0.0) - (chest.hu > BONE_HU)
    image = chest.mirrored(side)
    shape = [n + int(2 * REACH_MM / s) for n, s in zip(worth.shape, chest.spacing, strict=True)]
    axes = (0, 1, 2)
    product = np.fft.rfftn(worth, shape, axes) * np.conj(np.fft.rfftn(image, shape, axes))
    agreement = np.fft.irfftn(product, shape, axes)
    reach = [int(REACH_MM / s) for s in chest.spacing]
    near = np.roll(agreement, reach, axis=axes)[tuple(slice(0, 2 * r + 1) for r in reach)]
    z, y, x = np.unravel_index(int(near.argmax()), near.shape)
    return int(z) - reach[0], int(y) - reach[1], int(x) - reach[2]


def _moved(mask: Bool, *by: int) -> Bool:
    out = np.roll(mask, by, axis=(0, 1, 2))
    for axis, n in enumerate(by):
        line = np.moveaxis(out, axis, 0)
        if n:
            line[slice(0, n) if n > 0 else slice(n, None)] = False
    return out
