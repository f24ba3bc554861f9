"""A U-Net's configuration from its data: nnU-Net's rules for slices, scaled down.

Source: Isensee et al., nnU-Net, 2021, and its default planner of version 2. Ours differs in three ways: patches are
square, every stage is half as wide, and the memory of a batch is halved too, so that batch sizes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadValues

LEAST_EDGE = 4
FIRST_WIDTH, MOST_WIDTH = 16, 256
FEATURES = 85e6 / 2
"""Values in all feature maps of a network that trains within 8 GB at 12 slices a batch (nnU-Net: 85e6)."""
REFERENCE_BATCH, LEAST_BATCH, MOST_COVERED = 12, 2, 0.05
VALUES_OF_A_SLICE = 10_000

Slice = tuple[NDArray[np.float32], NDArray[np.bool_], tuple[float, float]]
"""Image (y, x) 0…1, foreground (y, x), and spacing (y, x) in mm."""


@dataclass(frozen=True)
class Fingerprint:
    """The properties of a data set that determine the plan.

    Attributes:
        slices: number of slices.
        spacing_mm: median (y, x).
        size: median (rows, columns) at that spacing.
        low, high: 0.5 and 99.5 percentiles of the values in the foreground, 0…1.
        mean, std: of these values.
    """

    slices: int
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class Plan:
    """The input size, depth and batch size of a network.

    Attributes:
        size: side of the square input in pixels.
        pixel_mm: of that input.
        widths: channels of each stage, from fine to coarse.
        batch: batch size in slices.
    """

    size: int
    pixel_mm: float
    widths: tuple[int, ...]
    batch: int


def fingerprint(slices: Iterable[Slice]) -> Fingerprint:
    """Compute the fingerprint of slices, each read once.

    Raises:
        BadValues: no slice has a foreground.
    """
    spacings, extents, values = [], [], [np.empty(0, np.float32)]
    for image, foreground, spacing in slices:
        spacings.append(spacing)
        extents.append(np.multiply(image.shape, spacing))
        inside = image[foreground]
        values.append(inside[:: len(inside) // VALUES_OF_A_SLICE + 1])
    inside = np.concatenate(values)
    if not len(inside):
        raise BadValues(f"None of {len(spacings)} slices has a foreground to learn from.")
    spacing_mm = np.median(spacings, axis=0)
    rows, columns = np.round(np.median(extents / spacing_mm, axis=0)).astype(int).tolist()
    low, high = np.percentile(inside, (0.5, 99.5)).tolist()
    return Fingerprint(
        slices=len(spacings),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1])),
        size=(rows, columns),
        low=low,
        high=high,
        mean=float(inside.mean(dtype=np.float64)),
        std=max(float(inside.std(dtype=np.float64)), 1e-8),
    )


def plan(found: Fingerprint, classes: int = 2, memory_gb: float = 8.0) -> Plan:
    """Plan input size, depth, widths and batch size for a data set.

    - The pixel size is the median, and the input holds the whole median slice.
    - Stages halve the input until it would be under 4 pixels; it is rounded up to a multiple. Widths double from 16 to
      256 at most.
    - Where two slices do not fit in memory, the input shrinks, and the network with it.
    - The batch fills the memory, but has no more than 5 % of the data set's pixels, and two slices at least.

    Args:
        classes: number of classes, background included.
        memory_gb: of the machine that trains.
    """
    budget = FEATURES * REFERENCE_BATCH * memory_gb / 8
    size = _divisible(max(found.size))
    while LEAST_BATCH * feature_values(size, classes) > budget and size > 2 * LEAST_EDGE:
        size -= 2 ** (len(widths_for(size)) - 1)
    covered = MOST_COVERED * found.slices * found.size[0] * found.size[1] / size**2
    batch = max(min(round(budget / feature_values(size, classes)), round(covered)), LEAST_BATCH)
    return Plan(size, float(np.mean(found.spacing_mm)), widths_for(size), batch)


def widths_for(size: int) -> tuple[int, ...]:
    """Channels of each stage of a network with an input of this side."""
    halvings = max(int(np.log2(size / LEAST_EDGE)), 0)
    return tuple(min(FIRST_WIDTH * 2**stage, MOST_WIDTH) for stage in range(halvings + 1))


def feature_values(size: int, classes: int) -> int:
    """Values in all feature maps of the network for one slice, which determine its memory."""
    widths = widths_for(size)
    maps = [width * (size >> stage) ** 2 for stage, width in enumerate(widths)]
    # two convolutions a stage in the encoder; two and a transposed one in the decoder
    return 2 * sum(maps) + 3 * sum(maps[:-1]) + classes * size**2


def _divisible(size: int) -> int:
    """The side, rounded up to a multiple that can be halved as often as the network does."""
    step = 2 ** (len(widths_for(size)) - 1)
    return -(-size // step) * step
