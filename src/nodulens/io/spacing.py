"""Heights of slices, and their regular grid: gaps, uneven steps, and what may be filled."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nodulens.errors import BadGeometry
from nodulens.io.alignment import SPACING_MM

Gaps = Literal["error", "interpolate"]
Float = NDArray[np.float64]

# Scanners round positions to 0.1 mm or so: 0.625 mm apart is stored as 0.6, 0.6, 0.7 …
ROUNDING_MM = 0.1
ROUNDING_SHARE = 0.1
MAX_BRIDGED_MM = 15.0
# More slices than these for each that was given are not filled, they are made up.
MAX_SLICES_EACH = 3
# Two slices this close, as a share of what most are apart, are two images of one place.
NEAR_SHARE = 0.02


def regular_grid(heights: Float, gaps: Gaps) -> tuple[float, NDArray[np.intp], Float, list[str]]:
    """The regular grid of slices.

    Args:
        heights: (n,) rising, mm along the slice normal.
        gaps: what to do about missing slices and uneven spacing: refuse, or fill linearly.

    Returns:
        mm between slices; for each slice of the grid its place, or the one below it, and how far it lies towards
        the next (0…1); and warnings.

    Raises:
        BadGeometry: slices are missing or uneven and may not be filled, or are too close or too far apart.
    """
    steps = np.diff(heights)
    _check_steps(heights, steps)
    typical = float(np.median(steps))
    tolerance = max(ROUNDING_MM, ROUNDING_SHARE * typical)
    counts = np.maximum(np.rint(steps / typical), 1).astype(int)
    index = np.r_[0, np.cumsum(counts)]
    step = float(heights[-1] - heights[0]) / int(index[-1])
    even = bool(np.abs(heights - heights[0] - index * step).max() <= tolerance)
    if even and index[-1] + 1 == len(heights):
        return step, np.arange(len(heights)), np.zeros(len(heights)), []

    what = _gaps_in_words(heights, steps, counts, even)
    if gaps == "error":
        raise BadGeometry(f'{what}; export the whole series, or pass gaps="interpolate".')
    if steps.max() > MAX_BRIDGED_MM:
        raise BadGeometry(
            f"{what}; a hole of {steps.max():.0f} mm is too wide to fill (limit {MAX_BRIDGED_MM:.0f} mm). "
            "Export the whole series."
        )
    if even:
        at = np.interp(np.arange(index[-1] + 1), index, np.arange(len(heights)))
    else:
        step = typical
        # The small excess keeps the last slice where rounding would lose it.
        targets = heights[0] + step * np.arange(int((heights[-1] - heights[0]) / step + 1e-6) + 1)
        at = np.interp(targets, heights, np.arange(len(heights)))
        at = np.where(np.abs(at - np.rint(at)) < 1e-6, np.rint(at), at)
    if len(at) > MAX_SLICES_EACH * len(heights):
        raise BadGeometry(
            f"{what}; filling that would make {len(at):,} slices of {len(heights)} "
            f"(limit {MAX_SLICES_EACH} for each). Export the whole series."
        )
    below = np.minimum(at.astype(np.intp), len(heights) - 1)
    share = at - below
    return step, below, share, [f"{what}; {np.count_nonzero(share)} slices were interpolated from their neighbours."]


def _check_steps(heights: Float, steps: Float) -> None:
    usual = float(np.quantile(steps, 0.75, method="lower"))
    close = np.flatnonzero(steps < max(SPACING_MM[0], NEAR_SHARE * usual))
    if len(close):
        first = heights[close[0]]
        raise BadGeometry(
            f"{len(close)} slices lie hardly apart from another, first two {steps[close[0]]:.2g} mm apart at "
            f"z {first:.2f} mm where most lie {usual:.2f} mm apart: the series holds several images of one place. "
            "Export one of them.".replace("-", "−")
        )
    if usual > SPACING_MM[1]:
        raise BadGeometry(
            f"The slices lie {usual:g} mm apart, more than {SPACING_MM[1]:g} mm: nodules lie between them. "
            "Export the whole series."
        )


def _gaps_in_words(heights: Float, steps: Float, counts: NDArray[np.int_], even: bool) -> str:
    places = [f"{a:.2f} and {b:.2f}" for a, b in zip(heights[:-1][counts > 1], heights[1:][counts > 1], strict=True)]
    where = " and ".join(places[:3]) + (f" and {len(places) - 3} places more" if len(places) > 3 else "")
    total = int(counts.sum()) + 1
    what = (
        f"{total - len(heights)} of {total} slices missing between z {where} mm"
        if even
        else f"The slices lie unevenly, {steps.min():.2f} to {steps.max():.2f} mm apart"
    )
    return what.replace("-", "−")
