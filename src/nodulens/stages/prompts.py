"""Prompts of the segmenter, and its input window and channels for one.

A prompt is a box in continuous face indices (z, y, x) of an array, with its trust. Training and inference share this
file, so that the network gets the inputs that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nodulens.ops.patches import Window

PromptKind = Literal["box", "point", "mask"]
"""What a network is prompted by: a box, the point at its centre, or an earlier mask."""

GRID = (32, 32, 32)
"""Points of the segmenter's window: it follows the prompt's size, so a small nodule fills it as a large one does."""

CHANNELS = 4
"""Of the segmenter's input: image, box, earlier mask, clicks."""

MARGIN = 1.6
"""Sides of the window over sides of the box."""

DRAWN, ROUGH = 1.0, 0.5
"""Value of the box channel for a box drawn by a person, and for an approximate one."""

ONE_SLICE = 1.001
"""Height in slices up to which a box is on a single slice; corners in millimetres are rounded."""

CLICK_WIDTH = 1.5
"""Standard deviation of a click in its channel, in grid points."""


@dataclass(frozen=True)
class Click:
    """A correction of an outline.

    Attributes:
        index: continuous (z, y, x) of the array.
        inside: whether the nodule contains it.
    """

    index: tuple[float, float, float]
    inside: bool


@dataclass(frozen=True)
class Prompt:
    """A box in which to segment.

    Attributes:
        start, stop: faces of the box, continuous indices (z, y, x): voxel 0 reaches from 0 to 1.
        trust: :data:`DRAWN` or :data:`ROUGH`.
        flat: whether it was given on its central slice alone, as a point is, so that its height is a guess.
    """

    start: tuple[float, float, float]
    stop: tuple[float, float, float]
    trust: float
    flat: bool = False

    @classmethod
    def between(cls, start: ArrayLike, stop: ArrayLike, trust: float) -> Prompt:
        """The prompt from one corner to another, each (3,)."""
        faces = np.asarray([start, stop], dtype=np.float64).tolist()
        (z0, y0, x0), (z1, y1, x1) = faces
        return cls((z0, y0, x0), (z1, y1, x1), trust)

    def on_slice(self, z: int) -> Prompt:
        """The same box on slice ``z`` alone."""
        return replace(self, start=(float(z), *self.start[1:]), stop=(z + 1.0, *self.stop[1:]), flat=False)

    def raised(self, spacing_zyx: ArrayLike) -> Prompt:
        """A box on one slice made as high as its sides are long on average, in mm; a higher box as it is."""
        if self.stop[0] - self.start[0] > ONE_SLICE:
            return self
        start, stop, spacing = (np.asarray(v, dtype=np.float64) for v in (self.start, self.stop, spacing_zyx))
        half = float(np.mean((stop - start)[1:] * spacing[1:]) / spacing[0] / 2)
        middle = (self.start[0] + self.stop[0]) / 2
        return replace(self, start=(middle - half, *self.start[1:]), stop=(middle + half, *self.stop[1:]), flat=True)

    def heightened(self, times: float) -> Prompt:
        """The same box so many times as high, around the same middle."""
        middle, half = (self.start[0] + self.stop[0]) / 2, times * (self.stop[0] - self.start[0]) / 2
        return replace(self, start=(middle - half, *self.start[1:]), stop=(middle + half, *self.stop[1:]))

    @property
    def window(self) -> Window:
        """What the network sees: the box with a margin."""
        start, stop = np.asarray(self.start), np.asarray(self.stop)
        middle, half = (start + stop) / 2, (stop - start) / 2 * MARGIN
        return Window.over(middle - half, middle + half, GRID)

    def channels(
        self, unit: NDArray[np.float32], prior: NDArray[np.float32] | None = None, clicks: Iterable[Click] = ()
    ) -> NDArray[np.float32]:
        """(4, 32, 32, 32): image, box, earlier mask, clicks.

        Args:
            unit: the image through :attr:`window`, 0…1.
            prior: a mask through the same window, 0…1, or None.
            clicks: corrections of that mask.
        """
        out = np.zeros((CHANNELS, *GRID), dtype=np.float32)
        out[0] = unit
        out[1] = box_channel(self)
        if prior is not None:
            out[2] = prior
        out[3] = click_channel(self.window, clicks)
        return out


def click_channel(window: Window, clicks: Iterable[Click]) -> NDArray[np.float32]:
    """A Gaussian at each click on the window's grid: positive inside the nodule, negative outside; 0 without clicks."""
    out = np.zeros(window.shape, dtype=np.float32)
    for click in clicks:
        at = (np.asarray(click.index) - window.first) / window.step
        mark = spot(window.shape, at, np.full(3, CLICK_WIDTH))
        stronger = mark > np.abs(out)
        out[stronger] = mark[stronger] if click.inside else -mark[stronger]
    return out


def spot(shape: Sequence[int], centre: NDArray[np.floating], sigma: NDArray[np.floating]) -> NDArray[np.float32]:
    """A Gaussian on a grid of ``shape``, 1 at its centre; centre and standard deviation in grid points (z, y, x)."""
    away = (np.arange(n) - a for n, a in zip(shape, centre, strict=True))
    z, y, x = (np.exp(-((d / s) ** 2) / 2) for d, s in zip(away, sigma, strict=True))
    return np.asarray(z[:, None, None] * y[:, None] * x, dtype=np.float32)


def box_channel(prompt: Prompt) -> NDArray[np.float32]:
    """(32, 32, 32): the share of each grid voxel that the box covers, times the trust in it.

    The window is the box with a fixed margin, so the same picture every time; it stays a channel so that the network
    can tell a drawn box from a rough one at every place.
    """
    line = [np.abs(np.linspace(-MARGIN, MARGIN, 2 * n + 1)[1::2]) for n in GRID]
    cover = [np.clip((1 - edge) * n / (2 * MARGIN) + 0.5, 0, 1) for edge, n in zip(line, GRID, strict=True)]
    z, y, x = cover
    return np.asarray(prompt.trust * z[:, None, None] * y[:, None] * x, dtype=np.float32)
