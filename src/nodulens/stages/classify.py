"""Malignancy risk of a nodule, its uncertainty, and a heat map that explains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box, Risk
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.ops.patches import Window
from nodulens.runtime.engine import Model
from nodulens.stages.features import measured_view
from nodulens.stages.views import PLANE_MM, plane_view, plane_window, representative_slices, soft_outline

Heat = NDArray[np.float32]


def evaluate(volume: Volume, box: Box, mask: NDArray[np.bool_], model: Model, measured: Model) -> tuple[Risk, Heat]:
    """Risk of a nodule by the network and the forest together, and the heat map that explains the network's part.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``.
        model: (N, 2, 64, 64) → (N, ratings) logits and (N, 16, 16) class activation maps of the first. Its card's
            ``combination`` holds the weights of both logits.
        measured: (N, features) → (N, 1) logits of the features of :func:`nodulens.stages.features.measured_view`.

    Returns:
        The risk, calibrated unless the nodule is longer than any the network was trained on; and a heat map (z, y, x)
        0…1 of ``box.shape``: evidence for malignancy, 1 where it is strongest.
    """
    rows = representative_slices(mask)
    views, windows = [], []
    for z in rows:
        at = box.start[0] + int(z)
        plane = np.zeros(volume.geometry.shape[1:], dtype=bool)
        plane[box.slices[1:]] = mask[z]
        windows.append(plane_window(plane, volume.geometry.spacing_zyx[1:]))
        views.append(plane_view(to_unit(volume.hu[at]), plane, windows[-1]))
    batch = np.stack(views)
    batch[:, 1] = soft_outline(batch[:, 1])
    # calibration was fitted to the mean over mirror images
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    runs = [model.run(batch[:, :, ::v, ::h]) for v, h in turns]
    seen = float(np.mean([logits[:, 0] for logits, _ in runs]))
    counted = float(measured.run(measured_view(volume, box, mask)[None])[0][0, 0])
    logit = float(np.dot(model.card.settings["combination"], (seen, counted)))
    maps = np.mean([maps[:, ::v, ::h] for (_, maps), (v, h) in zip(runs, turns, strict=True)], axis=0)
    heat = _heat([m for m in maps], windows, rows, volume.geometry.shape, box)
    risk = risk_of(logit, model)
    fits = max(w.step[1] * volume.geometry.spacing_zyx[1] for w in windows) <= PLANE_MM * 1.001
    return replace(risk, calibrated=fits), heat


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


def _heat(
    maps: list[Heat], windows: list[Window], rows: NDArray[np.int_], shape: tuple[int, int, int], box: Box
) -> Heat:
    """Class activation maps (16, 16) of the evaluated slices on the nodule's voxels; other slices take the nearest."""
    planes = []
    for activation, window in zip(maps, windows, strict=True):
        factor = window.shape[1] / activation.shape[0]
        coarse = Window(
            (0.0, *(f + (factor - 1) / 2 * s for f, s in zip(window.first[1:], window.step[1:], strict=True))),
            (1.0, window.step[1] * factor, window.step[2] * factor),
            (1, *activation.shape),
        )
        where, values = coarse.project(np.maximum(activation, 0)[None], (1, *shape[1:]), fill=0.0)
        plane = np.zeros(shape[1:], dtype=np.float32)
        plane[where.slices[1:]] = values[0]
        planes.append(plane[box.slices[1:]])
    nearest = [int(np.argmin(np.abs(rows - z))) for z in range(box.shape[0])]
    heat = np.stack([planes[n] for n in nearest])
    top = float(heat.max())
    return np.asarray(heat / np.float32(top) if top > 0 else heat, dtype=np.float32)
