"""Lung segmentation by classical image processing, step by step, as pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.errors import BadValues
from nodulens.ops.components import components

Float32 = NDArray[np.float32]

TILES, BINS, CLIP = 8, 256, 2.0
NOISE_PX = 2
LEAST_SHARE = 0.002
"""Share of the picture below which a part is noise."""


def classic_steps(image: Float32) -> dict[str, Float32]:
    """Segment the lungs on an axial slice, step by step.

    1. "contrast": CLAHE.
    2. "binarized": darker than Otsu's threshold, without the air around the body.
    3. "denoised": opened by 2 pixels; parts under 0.2 % of the picture are removed.
    4. "filled": holes, such as vessels and nodules, are filled.

    Args:
        image: (y, x) 0…1.

    Returns:
        Name → picture of the same shape, 0…1: first the slice itself as "slice", then the steps in this order.

    Raises:
        BadValues: not two axes, or values outside 0…1.
    """
    if image.ndim != 2 or not (np.min(image) >= 0 and np.max(image) <= 1):
        raise BadValues(f"A picture (y, x) holds values from 0 to 1; got shape {image.shape}.")
    contrast = clahe(image)
    dark = image < otsu(image)
    around = components(np.pad(dark, 1, constant_values=True), 4)
    outside = around.labels == around.labels[0, 0]  # joined to the rim that was laid round the picture
    binarized = dark & ~outside[1:-1, 1:-1]
    cross = ndimage.generate_binary_structure(2, 1)
    parts = components(ndimage.binary_opening(binarized, cross, iterations=NOISE_PX), 8)
    kept = int((parts.sizes >= LEAST_SHARE * image.size).sum())
    denoised = (parts.labels > 0) & (parts.labels <= kept)
    steps = {"contrast": contrast, "binarized": binarized, "denoised": denoised,
             "filled": ndimage.binary_fill_holes(denoised)}  # fmt: skip
    return {"slice": image} | {name: np.asarray(step, dtype=np.float32) for name, step in steps.items()}


def otsu(image: Float32) -> float:
    """The threshold that splits a picture 0…1 into two classes with the largest variance between them (Otsu 1979).

    SimpleITK's is not used: its bins span a picture's own range, so on a picture that does not reach both black and
    white it is off by up to a bin, and its edges are not those of 8-bit steps.
    """
    counts, edges = np.histogram(image, BINS, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * middles)
    above = image.size - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][np.argmax(np.nan_to_num(between))])


def clahe(image: Float32, tiles: int = TILES, clip: float = CLIP) -> Float32:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994).

    Args:
        image: (y, x) 0…1.
        tiles: number along each axis; each tile has its own equalisation, interpolated between tile centres.
        clip: limit of a histogram over its mean; the excess is spread evenly, so that noise in flat regions is not
            amplified.

    Returns:
        (y, x) 0…1.
    """
    level = np.minimum((image * BINS).astype(int), BINS - 1)
    own, low, part = zip(*(_tiled(n, tiles) for n in image.shape), strict=True)
    tile = own[0][:, None] * tiles + own[1]
    counts = np.bincount((tile * BINS + level).ravel(), minlength=tiles * tiles * BINS).reshape(-1, BINS).astype(float)
    most = clip * counts.mean(axis=1, keepdims=True)
    excess = np.maximum(counts - most, 0).sum(axis=1, keepdims=True)
    heights = np.cumsum(np.minimum(counts, most) + excess / BINS, axis=1)
    maps = (heights / np.maximum(heights[:, -1:], 1)).reshape(tiles, tiles, BINS)
    wy, wx = part[0][:, None], part[1]
    out = np.zeros(image.shape)
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = np.minimum(low[0] + dy, tiles - 1)[:, None], np.minimum(low[1] + dx, tiles - 1)
            out += (wy if dy else 1 - wy) * (wx if dx else 1 - wx) * maps[y, x, level]
    return np.clip(out, 0, 1).astype(np.float32)


def _tiled(length: int, tiles: int) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """For each pixel of an axis: its tile, the tile whose centre precedes it, and the fraction to the next centre."""
    place = (np.arange(length) + 0.5) * tiles / length
    from_middle = np.clip(place - 0.5, 0, tiles - 1)
    low = np.floor(from_middle).astype(int)
    return place.astype(int), low, from_middle - low
