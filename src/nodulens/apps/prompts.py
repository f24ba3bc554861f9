"""Prompts as a person types them, in LPS millimetres or voxels of the stored array."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Float
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt
from nodulens.io import read_mask
from nodulens.ops.resample import resample_array
from nodulens.stages.prompts import Prompt
from nodulens.stages.segment import prompt_of_box, prompt_of_point

Maker = Callable[[Volume], tuple[Prompt, NDArray[np.bool_] | None]]


def prompt_from(
    ct: Volume, *, point: str | None, box: str | None, mask: Path | None, space: Literal["lps", "voxel"]
) -> Maker:
    """What :func:`nodulens.analyze_prompt` needs, from the one option that is given.

    Args:
        ct: the scan as read.
        point: "x,y,z".
        box: "x0,y0,z0,x1,y1,z1", two corners; on one slice where z0 = z1.
        mask: image file on the scan's grid, or any other grid in the same patient space.
        space: of the numbers: LPS mm, or indices from 0 in the stored array. Voxel corners are inclusive.

    Raises:
        BadPrompt: not the right count of numbers, or an empty mask.
    """
    if point is not None:
        x, y, z = _to_lps(ct, _numbers(point, 3, "--point x,y,z"), space)
        return lambda volume: (prompt_of_point(volume, (x, y, z)), None)
    if box is not None:
        corners = _numbers(box, 6, "--box x0,y0,z0,x1,y1,z1")
        return lambda volume: (_box(volume, ct, corners, space), None)
    assert mask is not None
    return lambda volume: _mask(volume, ct, mask)


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError as error:
        raise BadPrompt(f"{text!r} is not a list of numbers; the form is {form}.") from error
    if len(values) != count:
        raise BadPrompt(f"{text!r} holds {len(values)} numbers, {count} are needed: {form}.")
    if not np.isfinite(values).all():
        raise BadPrompt(f"{text!r} holds what is not a number of millimetres or voxels; the form is {form}.")
    return values


def _to_lps(ct: Volume, xyz: list[float], space: str) -> Float:
    if space == "lps":
        return np.asarray(xyz)
    x, y, z = xyz
    return ct.geometry.to_lps((ct.geometry.shape[0] - 1 - z if ct.source.z_reversed else z, y, x))


def _box(volume: Volume, ct: Volume, corners: list[float], space: str) -> Prompt:
    """The box in the volume's axes around all eight corners of the one that was drawn."""
    low, high = np.array(corners[:3]), np.array(corners[3:])
    if space == "voxel":  # the corners are voxels, and the last one belongs to the box
        low, high = np.minimum(low, high) - 0.5, np.maximum(low, high) + 0.5
    elif np.any(high < low) or np.any(high[:2] == low[:2]):
        raise BadPrompt("The box is empty: every second corner must lie beyond the first (x1 > x0, y1 > y0, z1 ≥ z0).")
    eight = product(*zip(low, high, strict=True))
    index = volume.geometry.to_index(np.array([_to_lps(ct, list(corner), space) for corner in eight])) + 0.5
    start, stop = index.min(axis=0), index.max(axis=0)
    if stop[0] - start[0] < 1:  # drawn on one slice, as z0 = z1 says
        middle = (start[0] + stop[0]) / 2
        start[0], stop[0] = middle - 0.5, middle + 0.5
    return prompt_of_box(volume, start, stop)


def _mask(volume: Volume, ct: Volume, path: Path) -> tuple[Prompt, NDArray[np.bool_]]:
    given = read_mask(path)
    on_grid = resample_array(given.labels, given.geometry, volume.geometry, order=0, fill=0) > 0
    if not on_grid.any():
        raise BadPrompt(f"{path} marks nothing inside the scan: the mask is empty or lies elsewhere in the patient.")
    box = Box.of_mask(on_grid)
    prompt = prompt_of_box(volume, np.asarray(box.start, dtype=float), np.asarray(box.stop, dtype=float))
    return prompt, on_grid
