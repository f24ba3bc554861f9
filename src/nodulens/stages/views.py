"""Inputs of the classifiers for a candidate or a nodule. Training and inference share this file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.ops.patches import Window

PATCH_PX = 64
SCREEN_VOXELS, SCREEN_MM = 16, 7.0
"""The screening network's field, and the size of candidate beyond which it is sampled more coarsely."""
BALL_VOXELS = 32
FAR_MM = 18.0
"""Candidates larger than this are sampled more coarsely, so that the edge of one of 40 mm is in the field."""
PLANE_PX, PLANE_MM = 64, 0.7
"""The malignancy network's field: 45 mm, the same for every nodule, so that its size stays visible."""
WHOLE_MM = 40.0
"""An outline longer than this would fill that field; three of LIDC's two thousand are."""


def step_mm(diameter_mm: float, fine_mm: float) -> float:
    """Voxel of a field that is sampled at 1 mm for candidates up to ``fine_mm``, and more coarsely for larger ones."""
    return max(1.0, diameter_mm / fine_mm)


def patch_view(volume: Volume, centre_zyx: NDArray[np.float64], diameter_mm: float) -> NDArray[np.float32]:
    """Patch (64, 64) 0…1 of the axial slice nearest the centre, at the scan's pixel size, as in LUNA16's patches."""
    step = step_mm(diameter_mm, FAR_MM)
    z = int(np.clip(np.round(centre_zyx[0]), 0, volume.geometry.shape[0] - 1))
    middle = np.round(centre_zyx[1:]) if step == 1 else centre_zyx[1:]
    first = middle - step * PATCH_PX / 2  # the centre is pixel (32, 32)
    window = Window((0.0, first[0], first[1]), (1.0, step, step), (1, PATCH_PX, PATCH_PX))
    return to_unit(window.sample(volume.hu[z : z + 1])[0])


def screen_view(volume: Volume, centre_zyx: NDArray[np.float64], diameter_mm: float) -> NDArray[np.float32]:
    """Block (16, 16, 16) 0…1 of 1 mm voxels around the centre, coarser for candidates over 7 mm."""
    return block_view(volume, centre_zyx, step_mm(diameter_mm, SCREEN_MM), SCREEN_VOXELS)


def ball_view(volume: Volume, centre_zyx: NDArray[np.float64], diameter_mm: float) -> NDArray[np.float32]:
    """Block (32, 32, 32) 0…1 of 1 mm voxels around the centre, coarser for candidates over 18 mm."""
    return block_view(volume, centre_zyx, step_mm(diameter_mm, FAR_MM), BALL_VOXELS)


def block_view(volume: Volume, centre_zyx: NDArray[np.float64], voxel_mm: float, voxels: int) -> NDArray[np.float32]:
    """Block (S, S, S) 0…1 of so many voxels a side, of ``voxel_mm`` each."""
    step = voxel_mm / np.asarray(volume.geometry.spacing_zyx)
    first = centre_zyx - step * (voxels - 1) / 2
    # where the steps are equal, the scan's own voxels: interpolation between them would blur small nodules
    own = np.abs(step - 1) < 0.01
    step, first = np.where(own, 1.0, step), np.where(own, np.round(first), first)
    window = Window((first[0], first[1], first[2]), (step[0], step[1], step[2]), (voxels,) * 3)
    return to_unit(window.sample(volume.hu))


def plane_window(mask: NDArray[np.bool_], pixel_mm: tuple[float, float]) -> Window:
    """The malignancy network's field on an axial slice, centred on the outline's box.

    A mass that would fill the field is sampled more coarsely, so that its edge and surroundings are in it.

    Args:
        mask: (y, x) bool, not empty.
        pixel_mm: along y and x.
    """
    box = Box.of_mask(mask[None])
    middle = np.asarray(box.centre_zyx[1:])
    largest = float(np.max(np.asarray(box.shape[1:]) * pixel_mm))
    step = PLANE_MM * max(1.0, largest / WHOLE_MM) / np.asarray(pixel_mm)
    first = middle - step * (PLANE_PX - 1) / 2
    return Window((0.0, first[0], first[1]), (1.0, step[0], step[1]), (1, PLANE_PX, PLANE_PX))


def plane_view(image: NDArray[np.float32], mask: NDArray[np.bool_], window: Window) -> NDArray[np.float32]:
    """Input (2, 64, 64): an axial slice (y, x), 0…1, and the outline on it, sampled by :func:`plane_window`."""
    return np.stack([window.sample(image[None])[0], window.sample(mask[None])[0]])


def soft_outline(outline: NDArray[np.float32], shift: NDArray[np.float32] | float = 0.0) -> NDArray[np.float32]:
    """Outlines (…, y, x) 0…1 with a soft rim; a positive ``shift`` moves the rim outwards, as readers differ."""
    size = (1,) * (outline.ndim - 2) + (3, 3)
    level = ndimage.uniform_filter(outline, size, mode="constant") - np.float32(0.5) + shift
    # Not by scipy's expit, which rounds the last bit otherwise: probabilities of the network that ships would move.
    return np.asarray(1 / (1 + np.exp(-8 * level)), dtype=np.float32)


def representative_slices(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Indices z of the slices that are evaluated: those with at least 0.7 of the largest area, five at most."""
    area = mask.sum(axis=(1, 2))
    rows = np.flatnonzero(area >= 0.7 * area.max())
    largest = int(area.argmax())
    return np.sort(rows[np.argsort(np.abs(rows - largest), kind="stable")][:5])
