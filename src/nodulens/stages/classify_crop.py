"""The risk of a nodule by a method's classifier, from a crop of the axial slice where the outline is largest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box, Risk
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Model
from nodulens.stages.classify import Grade, risk_of
from nodulens.stages.crops import Crop, crop_view, crop_window
from nodulens.stages.occlusion import covered, heat_map
from nodulens.stages.position import central_slice

SIDES = {"benign": 0, "1": 0, "2": 0, "malignant": 1, "4": 1, "5": 1}
"""Class → 0 benign, 1 malignant; other classes are neither. Numbers are ratings."""
UNCALIBRATED = (
    "How sure the probability is was not measured for these weights: it is the network's own, and the interval is "
    "everything from 0 to 1."
)


def classify(views: NDArray[np.float32], model: Model) -> NDArray[np.float32]:
    """Logits (N, classes) of crops (N, 1, size, size): the mean over four mirror images."""
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    return np.asarray(np.mean([model.run(views[:, :, ::v, ::h])[0] for v, h in turns], axis=0), dtype=np.float32)


def log_odds(logits: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.float64]:
    """Log odds (N,) of malignant against benign, from logits (N, classes): of all classes of a side together, see
    :data:`SIDES`; other classes are ignored."""
    every = np.asarray(logits, dtype=np.float64)
    benign, malignant = (
        np.logaddexp.reduce(every[:, [SIDES.get(name) == side for name in classes]], axis=1) for side in (0, 1)
    )
    return np.asarray(malignant - benign)


def grade(volume: Volume, box: Box, mask: NDArray[np.bool_], model: Model) -> Grade:
    """Risk of a nodule by a method's classifier, and the heat map that explains it.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``, not empty.
        model: (N, 1, size, size) → (N, classes) logits. Its card's settings hold what :meth:`Crop.of` takes and
            ``classes``; with ``calibration`` and ``interval`` too, the risk is calibrated as
            :func:`nodulens.stages.classify.risk_of` says. Without, the probability is the network's own, not
            calibrated, and the interval is all of 0…1, see :data:`UNCALIBRATED`.
    """
    settings = model.card.settings
    crop, classes = Crop.of(settings), settings["classes"]
    z = central_slice(mask)
    plane = np.zeros(volume.geometry.shape[1:], dtype=bool)
    plane[box.slices[1:]] = mask[z]
    pixel_mm = volume.geometry.spacing_zyx[1:]
    view = crop_view(to_unit(volume.hu[box.start[0] + z]), plane, pixel_mm, crop)
    window = crop_window(plane, pixel_mm, crop)
    score = float(log_odds(classify(view[None], model), classes)[0])
    # the heat map needs no mirror images: one view of each cover is enough
    fill = np.array([0 if crop.masked else np.median(view)], dtype=np.float32)
    views = np.concatenate([view[None], covered(view, fill, window, box)])
    odds = log_odds(model.run(views)[0], classes)
    heat = heat_map(odds[0] - odds[1:], box, volume.geometry.shape)
    if "calibration" in settings:
        return Grade(risk_of(score, model), heat)
    p = float(special.expit(float(score)))
    return Grade(Risk(probability=p, interval=(0.0, 1.0), calibrated=False, model=model.card.name), heat)
