"""Malignancy risk of a nodule, its uncertainty, and its explanation: how readers would rate it, and a heat map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
from nodulens.stages.views import PLANE_MM, WHOLE_MM, plane_view, plane_window, representative_slices, soft_outline

LIKELIER = 0.5
"""Detection confidence, a calibrated chance, below which a mark is likelier no nodule than one."""


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
        model: (N, 2, 64, 64) → (N, ratings) logits, malignancy first, and (N, features) whitened features.
            Its card's ``combination`` holds the weights of both logits, ``outputs``
            the names of the ratings, ``taught`` what it was taught on.
        measured: (N, features) of :func:`nodulens.stages.features.measured_view` → (N, 1) logits, and the features
            whitened.

    Returns:
        The grade; its risk has doubts where the nodule is unlike those that the estimate was taught on.
    """
    rows = representative_slices(mask)
    seen = [slice_view(volume, box, mask, int(z)) for z in rows]
    batch = np.stack([view for view, _ in seen])
    # calibration was fitted to the mean over mirror images
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    runs = [model.run(batch[:, :, ::v, ::h]) for v, h in turns]
    logits = np.stack([ratings for ratings, _ in runs])
    pooled = logits.mean(axis=(0, 1))
    (counted,), (shape,) = measured.run(measured_view(volume, box, mask)[None])
    risk = risk_of(float(np.dot(model.card.settings["combination"], (float(pooled[0]), float(counted[0])))), model)
    fits = max(window.step[1] * volume.geometry.spacing_zyx[1] for _, window in seen) <= PLANE_MM * 1.001
    away = float(distance(np.concatenate([whitened for _, whitened in runs]).mean(0), shape))
    doubts = _doubts(volume, fits, away, model.card.settings["taught"])
    largest = int(np.flatnonzero(rows == central_slice(mask))[0])
    covers = covered(batch[largest], without_nodule(batch[largest]), seen[largest][1], box)
    falls = logits[0, largest, 0] - model.run(covers)[0][:, 0]
    heat = heat_map(falls, box, volume.geometry.shape)
    return Grade(risk.doubted(*doubts), heat, predicted(pooled, model.card))


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
