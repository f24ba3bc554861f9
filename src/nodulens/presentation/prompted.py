"""Panels of one nodule that was prompted: input, ground truth where it is known, and result, slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Nodule
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadValues
from nodulens.metrics.segmentation import compare
from nodulens.ops.components import components
from nodulens.ops.orient import canonical
from nodulens.presentation.figures import TEXT, Basis
from nodulens.presentation.panels import Panel, panels_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bool = NDArray[np.bool_]
Faces = tuple[tuple[float, float], ...]
"""A prompt on a slice: the corners (row, column) of its box, or one point; nothing where it is not on it."""
SLICES = 5
"""Slices shown at most: both ends of result and truth, the prompted or largest one, and those between."""
CONNECTIVITY = 26


def nodule_figure(
    ct: Volume, nodule: Nodule, truth: Mask | None = None, prompt: Callable[[int], Faces] = lambda z: ()
) -> Figure:
    """A nodule on some of its slices, the highest on top.

    Args:
        ct: as read.
        nodule: with its mask, in indices of ``ct``.
        truth: a ground truth on the grid of ``ct``; of its components those count that touch the nodule, or the nearest
            one if none does.
        prompt: from a slice of ``ct`` in canonical orientation to the prompt on it, in faces of its pixels.

    Raises:
        BadValues: the nodule has no mask, or the ground truth is empty.
        MissingExtra: Matplotlib is not installed.
    """
    if nodule.mask is None:
        raise BadValues("The nodule has no mask: one of a report read from JSON cannot be shown.")
    volume, orientation = canonical(ct)
    result = np.zeros(ct.geometry.shape, dtype=bool)
    result[nodule.box.slices] = nodule.mask
    result = orientation.apply(result)
    known = None if truth is None else _of_nodule(orientation.apply(truth.labels) > 0, result)
    spacing = volume.geometry.spacing_zyx
    panels = []
    for z in _slices(result if known is None else result | known, prompt):
        name = f"z {volume.geometry.to_lps((z, 0, 0))[2]:.1f} mm"
        if known is not None:
            name += f"\nDice {compare(known[z], result[z], spacing[1:]).dice:.3f}"
        flat = None if known is None else known[z]
        panels.append(Panel(name, volume.hu[z], result[z], flat, prompt(z), spacing[1:]))
    figure = panels_figure(panels, Basis(len(panels), "slices", note="of one nodule"), together=True)
    if known is not None:
        dice = compare(known, result, spacing).dice
        figure.suptitle(f"Dice {dice:.3f} in three dimensions", x=0.01, ha="left", fontsize=TEXT)
    return figure


def _of_nodule(truth: Bool, result: Bool) -> Bool:
    """The components of a ground truth that touch a result, or else the nearest one."""
    parts = components(truth, CONNECTIVITY)
    if not len(parts):
        raise BadValues("The ground truth has no voxel in this scan.")
    touched = np.unique(parts.labels[result & truth])
    if not len(touched):
        away = np.linalg.norm(parts.centroids_zyx - np.argwhere(result).mean(axis=0), axis=1)
        touched = np.array([1 + int(away.argmin())])
    return np.isin(parts.labels, touched) & truth


def _slices(covered: Bool, prompt: Callable[[int], Faces]) -> list[int]:
    """The slices to show, from the highest down: the one that alone is prompted, or else the largest, and others."""
    area = covered.sum(axis=(1, 2))
    rows = np.flatnonzero(area).tolist()
    prompted = [z for z in rows if prompt(z)]
    main = prompted[0] if len(prompted) == 1 else int(area.argmax())
    some = np.linspace(rows[0], rows[-1], SLICES - 1).round().astype(int)
    return sorted({*some.tolist(), main} & set(rows), reverse=True)
