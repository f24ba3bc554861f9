"""From a prompt to a mask, by the prompted network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box, Candidate, Point
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Array, Model
from nodulens.stages.candidates import propose
from nodulens.stages.prompts import DRAWN, ROUGH, Prompt

OFF = -10.0
"""Logit outside the window."""
LEVELS = np.linspace(-3, 3, 25)
"""Logits at which the mask may be cut where a box on one slice gives the nodule's extent."""
LEVEL_COST = 0.03
"""Gain in the IoU of boxes that each logit away from 0 must bring."""
DRAWN_ROUNDS = 1
"""A box or mask drawn by a person takes one round: it gives the nodule's extent."""
ROOM = 1.5
"""Side of the initial box over the blob's diameter."""
POINT_REACH_MM = 20.0
POINT_DIAMETER_MM = 8.0


def segment(
    volume: Volume, prompt: Prompt, model: Model, rounds: int, prior: NDArray[np.bool_] | None = None
) -> tuple[Box, NDArray[np.bool_]]:
    """Segment the nodule at a prompt.

    A box drawn on one slice gives the nodule's extent there, often where the image does not: the mask is cut at the
    logit at which it fills that box best. In three dimensions boxes are too loose for that.

    Args:
        volume: canonical orientation.
        prompt: in face indices of the volume.
        model: (N, 3, 16, 32, 32) → logits.
        rounds: largest number of inferences, until the mask is stable; from the second on, the window follows the
            previous mask.
        prior: an earlier mask on the volume's grid, input of the first round.

    Returns:
        A box inside the volume and the mask in it, in one piece and without holes.

    Raises:
        BadPrompt: nothing there looks like a nodule.
    """
    box, logits = _logits(volume, prompt, model, prior)
    sides = None
    for number in range(1, rounds):
        if not (logits > 0).any():
            break
        found = Box.of_mask(logits > 0)
        if _settled(sides, found.shape, number):
            break
        sides, start = found.shape, np.add(found.start, box.start)
        prompt = Prompt.between(start, start + found.shape, ROUGH)
        box, logits = _logits(volume, prompt, model, None)
    if prompt.flat and prompt.trust == DRAWN and prior is None:
        logits = logits - _filling_level(prompt, box, logits)
    return prompted_component(volume, prompt, box, logits)


def prompted_component(volume: Volume, prompt: Prompt, box: Box, logits: Array) -> tuple[Box, NDArray[np.bool_]]:
    """The connected component of a network's output at a prompt, without holes.

    Args:
        volume: that was segmented.
        prompt: in face indices of the volume.
        box: inside the volume.
        logits: of ``box.shape``; above 0 is nodule.

    Returns:
        The bounding box of the component, and the mask in it.

    Raises:
        BadPrompt: nothing was found.
    """
    piece = _one_piece(logits > 0, _middle(prompt, box))
    if piece is None:
        z, y, x = volume.geometry.to_lps(np.add(prompt.start, prompt.stop) / 2 - 0.5)[::-1]
        raise BadPrompt(
            f"Nothing at ({x:.1f}, {y:.1f}, {z:.1f}) mm looks like a nodule; draw a box around it, or give a mask."
        )
    tight = Box.of_mask(piece)
    start = np.asarray(tight.start) + np.asarray(box.start)
    # plane by plane: a cavity open at one slice is a hole all the same
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in piece[tight.slices]])
    return Box.between(start, start + tight.shape), filled


def prompt_of_candidate(volume: Volume, candidate: Candidate) -> Prompt:
    """A rough cube around a candidate, a little larger than the blob, so that no edge is cut off."""
    return rough_cube(volume, candidate.centre_lps, ROOM * candidate.diameter_mm)


def rough_cube(volume: Volume, centre_lps: Point, side_mm: float) -> Prompt:
    """A cube of ``side_mm`` around a point."""
    middle = volume.geometry.to_index(centre_lps) + 0.5
    half = side_mm / 2 / np.asarray(volume.geometry.spacing_zyx)
    return Prompt.between(middle - half, middle + half, ROUGH)


def prompt_of_point(volume: Volume, point_lps: Point) -> Prompt:
    """A rough cube around a point, as large as the blob there.

    Raises:
        BadPrompt: the point is outside the scan.
    """
    if not volume.geometry.contains(point_lps):
        x, y, z = point_lps
        raise BadPrompt(f"The point ({x:.1f}, {y:.1f}, {z:.1f}) mm is outside the scan; points are LPS mm, x,y,z.")
    half = np.ceil(POINT_REACH_MM / np.asarray(volume.geometry.spacing_zyx)).astype(int)
    around = Box.around(volume.geometry.to_index(point_lps), 2 * half + 1).clipped(volume.geometry.shape)
    near = volume.crop(around)
    blobs = propose(near, np.ones(near.geometry.shape, dtype=bool))
    hits = [b for b in blobs if np.linalg.norm(np.subtract(b.centre_lps, point_lps)) < max(3.0, b.diameter_mm / 2)]
    if hits:
        return prompt_of_candidate(volume, hits[0])
    return rough_cube(volume, point_lps, POINT_DIAMETER_MM)


def prompt_of_box(volume: Volume, start: NDArray[np.float64], stop: NDArray[np.float64]) -> Prompt:
    """A box drawn by a person, in face indices (z, y, x); on one slice, its sides in the plane give the height.

    Raises:
        BadPrompt: empty, or outside the scan.
    """
    if np.any(stop <= start):
        raise BadPrompt("The box is empty: the second corner must exceed the first (x1 > x0, y1 > y0, z1 > z0).")
    if np.any(stop <= 0) or np.any(start >= volume.geometry.shape):
        raise BadPrompt("The box is outside the scan; boxes are LPS mm, x0,y0,z0,x1,y1,z1, or --space voxel.")
    return Prompt.between(start, stop, DRAWN).raised(volume.geometry.spacing_zyx)


def _logits(volume: Volume, prompt: Prompt, model: Model, prior: NDArray[np.bool_] | None) -> tuple[Box, Array]:
    window = prompt.window
    channels = prompt.channels(to_unit(window.sample(volume.hu)), None if prior is None else window.sample(prior))
    return window.project(_mirrored(model, channels), volume.geometry.shape, fill=OFF)


def _mirrored(model: Model, channels: Array) -> Array:
    """Logits (z, y, x) of channels (3, z, y, x): the mean over the four mirror images in the plane."""
    turns = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    logits = model.run(np.stack([channels[..., ::v, ::h] for v, h in turns]))[0][:, 0]
    back = [plane[..., ::v, ::h] for plane, (v, h) in zip(logits, turns, strict=True)]
    return np.asarray(np.mean(back, axis=0), dtype=np.float32)


def _settled(before: tuple[int, int, int] | None, now: tuple[int, int, int], rounds_done: int) -> bool:
    """Whether a mask has stopped growing: by less than a twentieth on every axis, after three inferences at least."""
    return rounds_done >= 3 and before is not None and all(n <= 1.05 * b for n, b in zip(now, before, strict=True))


def _filling_level(prompt: Prompt, box: Box, logits: Array) -> float:
    """The logit at which the box of the mask, on the slice where a box was drawn, agrees best with it (IoU)."""
    start, stop = np.subtract(prompt.start, box.start)[1:], np.subtract(prompt.stop, box.start)[1:]
    z, *middle = _middle(prompt, box)
    plane = logits[int(np.clip(np.round(z), 0, len(logits) - 1))]
    best, chosen = -np.inf, 0.0
    for level in sorted(LEVELS, key=abs):
        piece = _one_piece(plane > level, np.asarray(middle))
        if piece is None:
            continue
        found = Box.of_mask(piece[None])
        low, high = np.array(found.start[1:]), np.array(found.stop[1:])
        both = np.prod(np.clip(np.minimum(stop, high) - np.maximum(start, low), 0, None))
        agreement = both / (np.prod(stop - start) + np.prod(high - low) - both) - LEVEL_COST * abs(level)
        if agreement > best:
            best, chosen = agreement, float(level)
    return chosen


def _middle(prompt: Prompt, box: Box) -> NDArray[np.float64]:
    """The centre of a prompt as an index (z, y, x) in a box."""
    return np.asarray(np.add(prompt.start, prompt.stop) / 2 - 0.5 - box.start)


def _one_piece(mask: NDArray[np.bool_], middle: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """The largest component, nearness to the prompt's centre counting in its favour; None if there is none."""
    parts, count = ndimage.label(mask)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    centre = tuple(np.clip(np.round(middle).astype(int), 0, np.asarray(parts.shape) - 1))
    best = parts[centre] or int(np.argmax(sizes)) + 1
    if sizes[best - 1] < 0.2 * sizes.max():
        best = int(np.argmax(sizes)) + 1
    return np.asarray(parts == best)
