"""The risk of a nodule by a method's classifier, from a crop of the axial slice where the outline is largest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box, Risk
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.ops.patches import Window
from nodulens.runtime.engine import Model
from nodulens.stages.classify import Heat, risk_of
from nodulens.stages.crops import Crop, crop_view, crop_window
from nodulens.stages.position import central_slice

CELLS = 6
"""Cells of a nodule's heat map along each side of its box."""
UNCALIBRATED = (
    "How sure the probability is was not measured for these weights: it is the network's own, and the interval is "
    "everything from 0 to 1."
)


def classify(views: NDArray[np.float32], model: Model) -> NDArray[np.float32]:
    """Logits (N, classes) of crops (N, 1, size, size): the mean over four mirror images."""
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    return np.asarray(np.mean([model.run(views[:, :, ::v, ::h])[0] for v, h in turns], axis=0), dtype=np.float32)


def log_odds(logits: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.float64]:
    """Log odds (N,) of malignant against benign, from logits (N, classes); other classes are ignored."""
    both = np.asarray(logits, dtype=np.float64)
    return np.asarray(both[:, classes.index("malignant")] - both[:, classes.index("benign")])


def grade(volume: Volume, box: Box, mask: NDArray[np.bool_], model: Model) -> tuple[Risk, Heat]:
    """Risk of a nodule by a method's classifier, and an occlusion map that explains it.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``, not empty.
        model: (N, 1, size, size) → (N, classes) logits. Its card's settings hold ``size``, ``pixel_mm``, ``masked`` and
            ``classes``; with ``calibration`` and ``interval`` too, the risk is calibrated as
            :func:`nodulens.stages.classify.risk_of` says. Without, the probability is the network's own, not
            calibrated, and the interval is all of 0…1, see :data:`UNCALIBRATED`.

    Returns:
        The risk, and a heat map (z, y, x) 0…1 of ``box.shape``: how far the log odds fall when a part of the nodule is
        covered, 1 where they fall most. It is computed on the largest slice and repeated on the others.
    """
    settings = model.card.settings
    crop, classes = Crop(settings["size"], settings["pixel_mm"], settings["masked"]), settings["classes"]
    z = central_slice(mask)
    plane = np.zeros(volume.geometry.shape[1:], dtype=bool)
    plane[box.slices[1:]] = mask[z]
    pixel_mm = volume.geometry.spacing_zyx[1:]
    view = crop_view(to_unit(volume.hu[box.start[0] + z]), plane, pixel_mm, crop)
    window = crop_window(plane, pixel_mm, crop)
    score = float(log_odds(classify(view[None], model), classes)[0])
    # the heat map needs no mirror images: one view of each cover is enough
    covered = log_odds(model.run(np.concatenate([view[None], _covered(view[0], box, window, crop)]))[0], classes)
    heat = _heat(covered[0] - covered[1:], box, volume.geometry.shape)
    if "calibration" in settings:
        return risk_of(score, model), heat
    p = float(special.expit(float(score)))
    return Risk(probability=p, interval=(0.0, 1.0), calibrated=False, model=model.card.name), heat


def _cells(box: Box) -> Window:
    """The grid of the heat map on a slice: the nodule's box in equal cells."""
    start, stop = (np.array([z, *edge[1:]], dtype=np.float64) for z, edge in ((0, box.start), (1, box.stop)))
    return Window.over(start, stop, (1, CELLS, CELLS))


def _covered(view: NDArray[np.float32], box: Box, window: Window, crop: Crop) -> NDArray[np.float32]:
    """Crops (CELLS², 1, size, size), each with another part of the nodule's box covered.

    The cover is two cells wide (Zeiler and Fergus 2014), and as dark as the surroundings of the nodule.
    """
    cells = _cells(box)
    inside = []
    for axis in (1, 2):
        place = window.first[axis] + window.step[axis] * np.arange(crop.size)
        middle = cells.first[axis] + cells.step[axis] * np.arange(CELLS)
        reach = max(cells.step[axis], window.step[axis])
        inside.append(np.abs(place - middle[:, None]) <= reach)
    where = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    fill = np.float32(0) if crop.masked else np.median(view)
    return np.asarray(np.where(where.reshape(-1, 1, *view.shape), fill, view), dtype=np.float32)


def _heat(falls: NDArray[np.float64], box: Box, shape: tuple[int, int, int]) -> Heat:
    """The fall of the log odds under each cover, on the voxels of the box."""
    values = np.maximum(falls, 0).reshape(1, CELLS, CELLS).astype(np.float32)
    _, plane = _cells(box).project(values, (1, *shape[1:]), fill=0.0)
    top = float(plane.max())
    plane = plane / np.float32(top) if top > 0 else plane
    return np.ascontiguousarray(np.broadcast_to(plane, box.shape), dtype=np.float32)
