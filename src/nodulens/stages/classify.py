"""Malignancy risk of a nodule, its uncertainty, and a heat map that explains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box, Risk
from nodulens.core.volume import Volume
from nodulens.ops.intensity import to_unit
from nodulens.ops.patches import Window
from nodulens.runtime.engine import Model
from nodulens.stages.features import measured_view
from nodulens.stages.views import PLANE_MM, WHOLE_MM, plane_view, plane_window, representative_slices, soft_outline

Heat = NDArray[np.float32]
LIKELIER = 0.5
"""Detection confidence, a calibrated chance, below which a mark is likelier no nodule than one."""


def evaluate(volume: Volume, box: Box, mask: NDArray[np.bool_], model: Model, measured: Model) -> tuple[Risk, Heat]:
    """Risk of a nodule by the network and the forest together, and the heat map that explains the network's part.

    Args:
        volume: canonical orientation.
        box: around the nodule.
        mask: of ``box.shape``.
        model: (N, 2, 64, 64) → (N, ratings) logits, (N, 16, 16) class activation maps of the first, and (N, features)
            whitened features. Its card's ``combination`` holds the weights of both logits, ``taught`` what it was
            taught on.
        measured: (N, features) of :func:`nodulens.stages.features.measured_view` → (N, 1) logits, and the features
            whitened.

    Returns:
        The risk, with its doubts; and a heat map (z, y, x) 0…1 of ``box.shape``: evidence for malignancy, 1 where it is
        strongest.
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
    seen = float(np.mean([logits[:, 0] for logits, _, _ in runs]))
    (counted,), (shape,) = measured.run(measured_view(volume, box, mask)[None])
    logit = float(np.dot(model.card.settings["combination"], (seen, float(counted[0]))))
    maps = np.mean([maps[:, ::v, ::h] for (_, maps, _), (v, h) in zip(runs, turns, strict=True)], axis=0)
    heat = _heat([m for m in maps], windows, rows, volume.geometry.shape, box)
    fits = max(w.step[1] * volume.geometry.spacing_zyx[1] for w in windows) <= PLANE_MM * 1.001
    away = float(distance(np.concatenate([whitened for _, _, whitened in runs]).mean(0), shape))
    return risk_of(logit, model).doubted(*_doubts(volume, fits, away, model.card.settings["taught"])), heat


def distance(seen: NDArray[np.floating], measured: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far nodules are from those that the estimate was taught on, most of which are within 1: Mahalanobis distance
    in the network's features and in the measured ones, each kind counting the same however many there are.

    Args:
        seen: (…, features) the network's, whitened, means over slices and mirror images.
        measured: (…, features) the forest's, whitened.
    """
    squares = (np.square(whitened, dtype=np.float64).mean(-1) for whitened in (seen, measured))
    return np.asarray(np.sqrt(sum(squares) / 2))


def likely(risk: Risk, score: float) -> Risk:
    """A risk that is doubted if the mark is likelier no nodule than one, which the estimate takes for granted.

    Args:
        score: detection confidence, 0…1.
    """
    if score >= LIKELIER:
        return risk
    return risk.doubted(f"A mark with a detection confidence of {score:.2f} is likelier no nodule than one.")


def _doubts(volume: Volume, fits: bool, away: float, taught: dict[str, Any]) -> Iterator[str]:
    """Why the estimate must not be trusted.

    Args:
        fits: whether the nodule is no longer than the field.
        away: see :func:`distance`.
        taught: the largest ``distance`` and ``slice_mm`` of the nodules that the network was taught on, but for some.
    """
    slice_mm = max(volume.geometry.spacing_zyx[0], volume.source.slice_thickness_mm or 0.0)
    if slice_mm > taught["slice_mm"] * 1.01:
        yield f"Slices of {slice_mm:g} mm: the estimate was taught on slices up to {taught['slice_mm']:g} mm."
    if not fits:
        yield f"Longer than {WHOLE_MM:g} mm: larger than any nodule that the estimate was taught on."
    if away > taught["distance"]:
        yield "It does not look like the nodules that the estimate was taught on; it may be a vessel or other tissue."


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
