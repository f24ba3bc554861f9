"""From a prompt to a mask, by the prompted network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box, Candidate, Point
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt, NoEnd
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Array, Model
from nodulens.stages.prompts import DRAWN, ROUGH, Click, Prompt, spot

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
CLICK_SHARE = 8.0
"""Sides of a mask over the standard deviation of what a click against the network changes around it."""
SURE = 1.0
"""Logit of a voxel that a person has clicked."""
MOST_MM = 150.0
"""Largest side of what is outlined from a rough prompt: lung tumours of this size are rarities, and a window that
follows a wall or an airless lobe has no end of its own."""
REACH_MM = 50.0
"""How far from an outline a point may be that it must contain: beyond it is another nodule."""
POINT_MM = 10.0
"""Side of the cube around a point. The strongest candidate there is worse: a vessel beside the nodule may be it."""


def segment(
    volume: Volume,
    prompt: Prompt,
    model: Model,
    rounds: int,
    prior: NDArray[np.bool_] | None = None,
    clicks: Sequence[Click] = (),
) -> tuple[Box, NDArray[np.bool_]]:
    """Segment the nodule at a prompt.

    A box drawn on one slice gives the nodule's extent there, often where the image does not: the mask is cut at the
    logit at which it fills that box best. In three dimensions boxes are too loose for that.

    Args:
        volume: canonical orientation.
        prompt: in face indices of the volume.
        model: (N, 4, 32, 32, 32) → logits.
        rounds: largest number of inferences, until the mask is stable; from the second on, the window follows the
            previous mask.
        prior: an earlier mask on the volume's grid, input of the first round.
        clicks: corrections of the mask, in indices of the volume: one more round sees both. A voxel clicked is inside
            the result, or outside, as the person says.

    Returns:
        A box inside the volume and the mask in it, in one piece and without holes.

    Raises:
        BadPrompt: nothing there looks like a nodule, or a click that it must contain is far from it.
        NoEnd: the rounds lead to what is larger than any nodule.
    """
    box, logits = _logits(volume, prompt, model, prior)
    sides, given = None, prompt
    for number in range(1, rounds):
        if not (logits > 0).any():
            break
        found = Box.of_mask(logits > 0)
        _check_end(volume, given, found)
        if _settled(sides, found.shape, number):
            break
        sides, start = found.shape, np.add(found.start, box.start)
        prompt = Prompt.between(start, start + found.shape, ROUGH)
        box, logits = _logits(volume, prompt, model, None)
    if prompt.flat and prompt.trust == DRAWN and prior is None:
        logits = logits - _filling_level(prompt, box, logits)
    if clicks and not (logits > 0).any():  # the clicks alone must do
        return _corrected(volume, prompt, model, (box, logits > 0), clicks)
    outlined = prompted_component(volume, prompt, box, logits)
    if rounds > 1:
        _check_end(volume, given, outlined[0])
    return _corrected(volume, prompt, model, outlined, clicks) if clicks else outlined


def settled_logits(volume: Volume, found: Box, model: Model) -> tuple[Box, Array]:
    """The network's logits where it has found a nodule, as in the last round: a box in the volume, and those in it."""
    return _logits(volume, Prompt.between(found.start, found.stop, ROUGH), model, None)


def volume_interval(
    volume: Volume, box: Box, mask: NDArray[np.bool_], volume_mm3: float, model: Model
) -> tuple[float, float] | None:
    """Volumes in mm³ inside the inner and the outer edge of the band that holds most readers' outlines; the share is on
    the model's card. None if its card has no band.

    Args:
        box: around the nodule, inside the volume.
        mask: of ``box.shape``.
        volume_mm3: of the nodule as measured, which the edges are in proportion to.
    """
    band = model.card.settings.get("band")
    if band is None:
        return None
    around, logits = settled_logits(volume, box, model)
    own = np.zeros(around.shape, dtype=bool)
    own[Box.between(np.subtract(box.start, around.start), np.subtract(box.stop, around.start)).slices] = mask
    inner = own & (logits > band["inner"])
    parts, _ = ndimage.label(own | (logits > band["outer"]))
    outer = np.isin(parts, np.unique(parts[own]))
    low, high = (volume_mm3 * np.count_nonzero(edge) / np.count_nonzero(own) for edge in (inner, outer))
    return float(low), float(high)


def _corrected(
    volume: Volume, prompt: Prompt, model: Model, found: tuple[Box, NDArray[np.bool_]], clicks: Sequence[Click]
) -> tuple[Box, NDArray[np.bool_]]:
    """A mask in its box after one more round that sees it and the clicks; the mask may be empty.

    Raises:
        BadPrompt: a point to include is far from the mask, or nothing is found.
    """
    shape = volume.geometry.shape
    earlier = np.zeros(shape, dtype=bool)
    earlier[found[0].slices] = found[1]
    voxels = [np.clip(np.round(c.index).astype(int), 0, np.asarray(shape) - 1) for c in clicks]
    wanted = [voxel for click, voxel in zip(clicks, voxels, strict=True) if click.inside]
    for voxel in wanted:
        beyond = np.maximum(np.subtract(found[0].start, voxel), np.subtract(voxel + 1, found[0].stop))
        away = float(np.linalg.norm(np.maximum(beyond, 0) * volume.geometry.spacing_zyx))
        if away > REACH_MM:
            raise BadPrompt(
                f"A point to include is {away:.0f} mm from the outline at {_place(volume, prompt)} mm: it is of "
                "another nodule; prompt that by itself."
            )
    start = np.min([found[0].start, *wanted], axis=0)
    stop = np.max([found[0].stop, *(voxel + 1 for voxel in wanted)], axis=0)
    again = Prompt.between(start, stop, ROUGH)
    box, logits = _logits(volume, again, model, earlier, clicks)
    sigma = np.asarray(found[0].shape) / CLICK_SHARE
    for click, voxel in zip(clicks, voxels, strict=True):
        at = voxel - box.start
        if np.any(at < 0) or np.any(at >= box.shape):
            continue  # far from the nodule, and so outside
        sign = 1 if click.inside else -1
        lacking = SURE - sign * float(logits[tuple(at)])
        if lacking > 0:  # what a person says is true: there in full, and less and less around
            logits = logits + np.float32(sign * lacking) * spot(box.shape, at, sigma)
    unwanted = [voxel for click, voxel in zip(clicks, voxels, strict=True) if not click.inside]
    return prompted_component(volume, prompt, box, logits, wanted, unwanted)


def prompted_component(
    volume: Volume,
    prompt: Prompt,
    box: Box,
    logits: Array,
    wanted: Sequence[NDArray[np.int_]] = (),
    unwanted: Sequence[NDArray[np.int_]] = (),
) -> tuple[Box, NDArray[np.bool_]]:
    """The connected component of a network's output at a prompt, without holes.

    Args:
        volume: that was segmented.
        prompt: in face indices of the volume.
        box: inside the volume.
        logits: of ``box.shape``; above 0 is nodule.
        wanted: voxels (z, y, x) of the volume whose components belong to the nodule too.
        unwanted: voxels whose holes are none to be filled.

    Returns:
        The bounding box of the component, and the mask in it.

    Raises:
        BadPrompt: nothing was found.
    """
    piece = one_piece(logits > 0, _middle(prompt, box))
    if piece is None:
        raise BadPrompt(
            f"Nothing at {_place(volume, prompt)} mm looks like a nodule; draw a box around it, or give a mask."
        )
    if wanted:
        parts, _ = ndimage.label(logits > 0)
        piece |= np.isin(parts, [parts[tuple(voxel - box.start)] for voxel in wanted]) & (parts > 0)
    tight = Box.of_mask(piece)
    start = np.asarray(tight.start) + np.asarray(box.start)
    piece = piece[tight.slices]
    # plane by plane: a cavity open at one slice is a hole all the same
    holes = np.stack([ndimage.binary_fill_holes(plane) for plane in piece]) & ~piece
    if unwanted:
        parts, _ = ndimage.label(holes)
        for at in (voxel - start for voxel in unwanted):
            if np.all(at >= 0) and np.all(at < tight.shape) and parts[tuple(at)]:
                holes[parts == parts[tuple(at)]] = False
    return Box.between(start, start + tight.shape), piece | holes


def prompt_of_candidate(volume: Volume, candidate: Candidate) -> Prompt:
    """A rough cube around a candidate, a little larger than the blob, so that no edge is cut off."""
    return rough_cube(volume, candidate.centre_lps, ROOM * candidate.diameter_mm)


def rough_cube(volume: Volume, centre_lps: Point, side_mm: float) -> Prompt:
    """A cube of ``side_mm`` around a point."""
    middle = volume.geometry.to_index(centre_lps) + 0.5
    half = side_mm / 2 / np.asarray(volume.geometry.spacing_zyx)
    return Prompt.between(middle - half, middle + half, ROUGH)


def prompt_of_point(volume: Volume, point_lps: Point) -> Prompt:
    """A rough cube of 10 mm around a point, from which the rounds of :func:`segment` find the nodule's own size.

    Its height is a guess, and it says so (:attr:`Prompt.flat`).

    Raises:
        BadPrompt: the point is outside the scan.
    """
    if not volume.geometry.contains(point_lps):
        x, y, z = point_lps
        raise BadPrompt(f"The point ({x:.1f}, {y:.1f}, {z:.1f}) mm is outside the scan; points are LPS mm, x,y,z.")
    return replace(rough_cube(volume, point_lps, POINT_MM), flat=True)


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


def _logits(
    volume: Volume, prompt: Prompt, model: Model, prior: NDArray[np.bool_] | None, clicks: Sequence[Click] = ()
) -> tuple[Box, Array]:
    window = prompt.window
    earlier = None if prior is None else window.sample(prior)
    channels = prompt.channels(to_unit(window.sample(volume.hu)), earlier, clicks)
    return window.project(_mirrored(model, channels), volume.geometry.shape, fill=OFF)


def _mirrored(model: Model, channels: Array) -> Array:
    """Logits (z, y, x) of channels (4, z, y, x): the mean over the four mirror images in the plane."""
    turns = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    logits = model.run(np.stack([channels[..., ::v, ::h] for v, h in turns]))[0][:, 0]
    back = [plane[..., ::v, ::h] for plane, (v, h) in zip(logits, turns, strict=True)]
    return np.asarray(np.mean(back, axis=0), dtype=np.float32)


def _check_end(volume: Volume, prompt: Prompt, found: Box) -> None:
    """Refuse what is larger than any nodule.

    Raises:
        NoEnd: it is.
    """
    size = float(np.max(np.asarray(found.shape) * volume.geometry.spacing_zyx))
    if size > MOST_MM:
        raise NoEnd(
            f"The outline at {_place(volume, prompt)} mm has no end of its own: it grew to {size:.0f} mm, and at most "
            f"{MOST_MM:.0f} mm are a nodule or mass. Draw a box around it, or give a mask."
        )


def _place(volume: Volume, prompt: Prompt) -> str:
    """The centre of a prompt, such as "(-84.0, 42.0, 54.0)", LPS mm."""
    x, y, z = volume.geometry.to_lps(np.add(prompt.start, prompt.stop) / 2 - 0.5)
    return f"({x:.1f}, {y:.1f}, {z:.1f})"


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
        piece = one_piece(plane > level, np.asarray(middle))
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


def one_piece(mask: NDArray[np.bool_], middle: NDArray[np.float64]) -> NDArray[np.bool_] | None:
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
