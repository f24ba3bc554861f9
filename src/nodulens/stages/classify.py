"""Malignancy risk of a nodule, its uncertainty, and its explanation: how readers would rate it, and a heat map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Attribute, Box, Risk
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.ops.patches import Window
from nodulens.runtime.engine import Model
from nodulens.stages.attributes import predicted
from nodulens.stages.features import measured_view
from nodulens.stages.occlusion import Heat, covered, heat_map
from nodulens.stages.position import central_slice
from nodulens.stages.views import PLANE_MM, plane_view, plane_window, representative_slices, soft_outline


@dataclass(frozen=True, eq=False)
class Grade:
    """The malignancy risk of a nodule and its explanation.

    Attributes:
        heat: (z, y, x) 0…1 of the shape of the nodule's box: how far the network's log odds fall when that part of the
            nodule is covered, 1 where they fall most. Computed on the largest slice and repeated on the others.
        attributes: how readers would rate its look; empty if the network does not predict that.
    """

    risk: Risk
    heat: Heat
    attributes: tuple[Attribute, ...] = ()


def evaluate(volume: Volume, box: Box, mask: NDArray[np.bool_], model: Model, measured: Model) -> Grade:
    """Risk of a nodule by the network and the forest together, with the network's explanation; the forest's part has
    none.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``.
        model: (N, 2, 64, 64) → (N, ratings) logits, malignancy first. Its card's ``combination`` holds the weights of
            both logits, and ``outputs`` the names of the ratings.
        measured: (N, features) → (N, 1) logits of the features of :func:`nodulens.stages.features.measured_view`.

    Returns:
        The grade; its risk is calibrated unless the nodule is longer than any the network was trained on.
    """
    rows = representative_slices(mask)
    seen = [slice_view(volume, box, mask, int(z)) for z in rows]
    batch = np.stack([view for view, _ in seen])
    # calibration was fitted to the mean over mirror images
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    logits = np.stack([model.run(batch[:, :, ::v, ::h])[0] for v, h in turns])
    pooled = logits.mean(axis=(0, 1))
    counted = float(measured.run(measured_view(volume, box, mask)[None])[0][0, 0])
    risk = risk_of(float(np.dot(model.card.settings["combination"], (float(pooled[0]), counted))), model)
    fits = max(window.step[1] * volume.geometry.spacing_zyx[1] for _, window in seen) <= PLANE_MM * 1.001
    largest = int(np.flatnonzero(rows == central_slice(mask))[0])
    covers = covered(batch[largest], without_nodule(batch[largest]), seen[largest][1], box)
    falls = logits[0, largest, 0] - model.run(covers)[0][:, 0]
    heat = heat_map(falls, box, volume.geometry.shape)
    return Grade(replace(risk, calibrated=fits), heat, predicted(pooled, model.card))


def slice_view(volume: Volume, box: Box, mask: NDArray[np.bool_], z: int) -> tuple[NDArray[np.float32], Window]:
    """The network's input (2, 64, 64) for a slice of the box, and its window on the volume's slices."""
    plane = np.zeros(volume.geometry.shape[1:], dtype=bool)
    plane[box.slices[1:]] = mask[z]
    window = plane_window(plane, volume.geometry.spacing_zyx[1:])
    view = plane_view(to_unit(volume.hu[box.start[0] + z]), plane, window)
    view[1] = soft_outline(view[1])
    return view, window


def without_nodule(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (2,) of a view (2, 64, 64) where there is no nodule: the density of its surroundings, and no outline."""
    return np.array([np.median(view[0]), view[1].min()], dtype=np.float32)


def risk_of(logit: float, model: Model) -> Risk:
    """Calibrated probability and interval of a logit, by the tables on the model's card.

    The probability is a logistic function fitted on held-out patients. The interval contains the share of a nodule's
    readers who rate it above 3, in the fraction of nodules that the card states: its ends are quantiles of that share
    among held-out nodules of similar probability.
    """
    settings = model.card.settings
    slope, constant = settings["calibration"]
    p = float(special.expit(float(slope * logit + constant)))
    table = settings["interval"]
    row = int(np.searchsorted(table["upper_edge"], p))
    row = min(row, len(table["low"]) - 1)
    low, high = min(float(table["low"][row]), p), max(float(table["high"][row]), p)
    return Risk(probability=p, interval=(low, high), calibrated=True, model=model.card.name)
