"""Prompt boxes for comparing prompted networks, and their field of view.

Boxes: around the readers' outline, jittered, or from an annotation's diameter; the detector's is
:func:`nodulens.stages.segment.prompt_of_candidate`. Fields of view: whole slices, the lung, the lobe, or a close crop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box, Point
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, BadPrompt
from nodulens.stages.position import lobe_at, lung_extent, share_along, side_of
from nodulens.stages.prompts import DRAWN, Prompt, PromptKind

ViewName = Literal["slice", "lung", "lobe", "crop"]
View = Callable[[Volume, Prompt], Box]
"""The field of view for a prompt in a volume: a box inside the volume, whole slices of it."""
Outline = Callable[[Volume, Prompt], tuple[Box, NDArray[np.bool_]]]
"""A prompted network, as ``Recipe.prompted`` names one: from a prompt to a box inside the volume and the mask in it."""
PromptedNetwork = Callable[[PromptKind, NDArray[np.bool_] | None], Outline]
"""A prompted network, by the kind of its prompt: a box, the point at its centre, or an earlier mask on the volume's
grid, which is given for "mask" only."""

CROP_SIDES = 3.0
"""Side of the close crop over the larger side of the prompt's box in the plane."""
CROP_LEAST_MM = 24.0
LEAST_SIDE = 0.3
"""A shaken box keeps this much of each side."""


def outlined(outline: Outline, volume: Volume, prompt: Prompt) -> NDArray[np.bool_]:
    """The mask of a network for a prompt, (z, y, x) on the volume's grid; empty if it finds nothing."""
    out = np.zeros(volume.geometry.shape, dtype=bool)
    with suppress(BadPrompt):
        box, mask = outline(volume, prompt)
        out[box.slices] = mask
    return out


def prompt_of_annotation(volume: Volume, centre_lps: Point, diameter_mm: float) -> Prompt:
    """The box that a centre and a diameter give where there is no outline.

    Slices z ± round(d / 2 / spacing) around that of the centre; in the plane the square about the circle of radius
    round(d / 2 / spacing) voxels around the centre, one voxel at least.

    Args:
        volume: canonical orientation.
        centre_lps: LPS mm (x, y, z).
        diameter_mm: as annotated.

    Raises:
        BadPrompt: the diameter is not positive, or the centre is outside the scan.
    """
    if not (np.isfinite(diameter_mm) and diameter_mm > 0):
        raise BadPrompt(f"An annotated diameter must be above 0 mm, got {diameter_mm:g}.")
    if not volume.geometry.contains(centre_lps):
        x, y, z = centre_lps
        raise BadPrompt(f"The annotation at ({x:.1f}, {y:.1f}, {z:.1f}) mm (LPS) is outside the scan.")
    middle = volume.geometry.to_index(centre_lps) + 0.5
    reach = np.round(diameter_mm / 2 / np.asarray(volume.geometry.spacing_zyx))
    reach[1:] = np.maximum(reach[1:], 1)
    middle[0], reach[0] = np.floor(middle[0]) + 0.5, reach[0] + 0.5  # whole slices, the centre's own among them
    start, stop = np.maximum(middle - reach, 0), np.minimum(middle + reach, volume.geometry.shape)
    return Prompt.between(start, stop, DRAWN)


def prompt_of_outline(box: Box) -> Prompt:
    """The tight bounding box of the ground truth: an upper bound, not available in practice."""
    return Prompt.between(box.start, box.stop, DRAWN)


def shaken(prompt: Prompt, rng: np.random.Generator, share: float) -> Prompt:
    """A jittered prompt: every face is off by a normal error, as a person's is.

    Args:
        share: standard deviation of the error over the side; 0.1 is what tables call "shaken by 10 %".
    """
    start, stop = np.asarray(prompt.start), np.asarray(prompt.stop)
    side = stop - start
    start, stop = start + rng.normal(0, share, 3) * side, stop + rng.normal(0, share, 3) * side
    return Prompt.between(start, np.maximum(stop, start + LEAST_SIDE * side), prompt.trust)


def view_of(volume: Volume, prompt: Prompt, part: ViewName = "slice", lungs: Mask | None = None) -> Box:
    """The field of view of a prompted network; ``functools.partial`` of it is a :data:`View`.

    Args:
        volume: canonical orientation.
        prompt: in face indices of the volume.
        part: "slice" is whole slices; "lung" and "lobe" the box around that lung, or the estimate of that lobe, on
            these slices, extended to the prompt's own box; "crop" a square around the prompt.
        lungs: "left lung" and "right lung" on the grid of ``volume``; needed for "lung" and "lobe".

    Returns:
        A box inside the volume, on the slices whose centres are in the prompt (the nearest one if there are none).

    Raises:
        BadPrompt: the prompt is outside the scan.
        BadOption: another part, or no lungs where they are needed.
    """
    touched = _voxels(volume, prompt)
    if part == "slice":
        return _around(touched, np.zeros(2), np.asarray(volume.geometry.shape[1:]))
    if part == "crop":
        return _close_crop(volume, prompt, touched)
    if part not in ("lung", "lobe"):
        raise BadOption(f"The field of view is slice, lung, lobe or crop, not {part!r}.")
    if lungs is None:
        raise BadOption(f"The field of view {part!r} needs the lungs: pass lungs=segment_lungs(volume).")
    side = side_of(touched, lungs)
    value = lungs.value(f"{side} lung")
    rows = slice(touched.start[0], touched.stop[0])
    labelled = lungs.labels[rows] == value
    if part == "lobe":
        height, depth, _ = lung_extent(lungs, side)
        z, y = touched.centre_zyx[:2]
        own = lobe_at(side, *(float(share_along(e, np.asarray(c))) for e, c in ((height, z), (depth, y))))
        heights = share_along(height, np.arange(rows.start, rows.stop, dtype=float))
        depths = share_along(depth, np.arange(labelled.shape[1], dtype=float))
        labelled &= np.array([[lobe_at(side, h, d) == own for d in depths] for h in heights])[..., None]
    if not labelled.any():
        return touched
    found = Box.of_mask(labelled)
    return _around(touched, np.minimum(found.start, touched.start)[1:], np.maximum(found.stop, touched.stop)[1:])


def _voxels(volume: Volume, prompt: Prompt) -> Box:
    """The voxels that a prompt touches in the plane, on the slices whose centres are in it; inside the volume."""
    shape = np.asarray(volume.geometry.shape)
    start, stop = np.asarray(prompt.start), np.asarray(prompt.stop)
    if np.any(stop <= start) or np.any(stop <= 0) or np.any(start >= shape):
        raise BadPrompt(
            f"The box {prompt.start} to {prompt.stop} (z, y, x) is empty or outside the scan, which has "
            f"{volume.geometry.shape} voxels."
        )
    low, high = np.floor(start), np.ceil(stop)
    low[0], high[0] = np.ceil(start[0] - 0.5), np.ceil(stop[0] - 0.5)
    if high[0] <= low[0]:
        low[0] = np.floor((start[0] + stop[0]) / 2)
        high[0] = low[0] + 1
    low = np.clip(low, 0, shape - 1)
    return Box.between(low, np.clip(high, low + 1, shape))


def _close_crop(volume: Volume, prompt: Prompt, touched: Box) -> Box:
    """A square in millimetres on the prompt's slices, clipped to the scan."""
    start, stop = np.asarray(prompt.start)[1:], np.asarray(prompt.stop)[1:]
    spacing = np.asarray(volume.geometry.spacing_zyx)[1:]
    side_mm = max(CROP_SIDES * float(((stop - start) * spacing).max()), CROP_LEAST_MM)
    middle, half = (start + stop) / 2, side_mm / 2 / spacing
    low = np.clip(np.floor(middle - half), 0, touched.start[1:])
    high = np.clip(np.ceil(middle + half), touched.stop[1:], volume.geometry.shape[1:])
    return _around(touched, low, high)


def _around(touched: Box, low: NDArray[np.generic], high: NDArray[np.generic]) -> Box:
    """The slices of ``touched`` from ``low`` to ``high`` in the plane (y, x)."""
    return Box.between((touched.start[0], *low), (touched.stop[0], *high))
