"""Square crops of a nodule on its axial slice, for classifiers and features. Training and inference share this file.

Classifiers are trained on stacks of 96 × 96 of the scan's own pixels, so inference uses 96 × 96 pixels around the
outline too; a crop that reaches beyond them repeats the edge. How much is repeated depends on the scan's pixel size
alone, which says next to nothing about malignancy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadValues
from nodulens.ops.patches import Window

FIELD_PX = 96
"""Side of the input region, in the scan's own pixels."""


@dataclass(frozen=True)
class Crop:
    """The crop of a nodule that a classifier takes as input.

    Attributes:
        size: side in pixels.
        pixel_mm: pixel size; None for the scan's own.
        masked: whether everything outside the outline is set to the darkest value, without a margin.
        scale: side of the crop over the longer side of the outline's bounding box: the crop is resized to ``size``,
            whatever ``pixel_mm`` is, and a nodule's size is not seen; None: all crops have the same field.
    """

    size: int
    pixel_mm: float | None
    masked: bool = False
    scale: float | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Crop:
        """From the settings on a model's card; older ones name no scale."""
        return cls(settings["size"], settings["pixel_mm"], settings["masked"], settings.get("crop_scale"))


def crop_window(mask: NDArray[np.bool_], pixel_mm: tuple[float, float], crop: Crop) -> Window:
    """The window of a crop on its axial slice, centred on the centroid of the outline; with a scale, on the middle of
    its bounding box.

    Args:
        mask: (y, x), not empty.
        pixel_mm: along y and x.

    Raises:
        BadValues: the mask is empty.
    """
    if not mask.any():
        raise BadValues("An empty outline has no centre to crop around.")
    places, own = np.argwhere(mask), np.asarray(pixel_mm)
    if crop.scale is not None:
        low, high = places.min(0), places.max(0)
        middle, step = (low + high) / 2, crop.scale * float(((high - low + 1) * own).max()) / crop.size / own
    else:
        middle = places.mean(0)
        step = np.ones(2) if crop.pixel_mm is None else crop.pixel_mm / own
    first = middle - step * (crop.size - 1) / 2
    return Window((0.0, first[0], first[1]), (1.0, step[0], step[1]), (1, crop.size, crop.size))


def crop_view(
    image: NDArray[np.float32], mask: NDArray[np.bool_], pixel_mm: tuple[float, float], crop: Crop
) -> NDArray[np.float32]:
    """(1, size, size) 0…1 of an axial slice.

    Args:
        image: (y, x) 0…1, see :func:`nodulens.ops.intensity.to_unit`.
        mask: (y, x) the outline on it, not empty.
        pixel_mm: along y and x.
    """
    window = crop_window(mask, pixel_mm, crop)
    source = np.where(mask, image, np.float32(0)) if crop.masked else image
    middle = np.round(np.argwhere(mask).mean(0)).astype(int)
    low = np.maximum(middle - FIELD_PX // 2, 0)
    high = middle + FIELD_PX // 2
    field = source[low[0] : high[0], low[1] : high[1]]
    moved = Window((0.0, window.first[1] - low[0], window.first[2] - low[1]), window.step, window.shape)
    return moved.sample(field[None])
