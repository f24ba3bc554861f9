"""Data augmentation: random changes of a whole batch at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nodulens.errors import BadValues
from nodulens.methods.recipe import Augmentation

LARGEST_TURN = np.deg2rad(15)
LARGEST_ZOOM = 1.2
LARGEST_SHIFT = 1 / 16
"""Share of the side."""
VALUES: tuple[Augmentation, ...] = ("contrast", "brightness", "noise")


def augmented(
    images: Tensor, labels: Tensor | None, kinds: Collection[Augmentation], rng: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Augment a batch of square images, or of blocks of square slices, together with its labels.

    - "flip" along each axis; "turn" by multiples of 90°, and flip.
    - "rotate" by up to 15 degrees, "zoom" by up to 1.2, "shift" by up to a sixteenth of each side, in whole pixels.
    - "contrast", "brightness" and "noise" as in :func:`shake_values`.

    Blocks are rotated in the axial plane alone, and zoomed by one factor along all axes. So their spacing need not be
    known, and slices may be farther apart than pixels, as in the prompted segmenter's windows; and the blur of thick
    slices, which cubes of 1 mm keep, is not rotated into the plane. Pixels of a slice count as square: where they are
    not, because a window follows a box that is longer than wide, a rotation shears.

    Edges are repeated. Without "rotate" and "zoom" no value is interpolated, so that noise keeps its texture.

    Args:
        images: (N, C, S, S) or (N, C, D, S, S) float, 0…1, on any device.
        labels: (N, …, S, S) whole numbers or (N, K, …, S, S) float, of as many dimensions; None where the images have
            no outlines. They are warped by nearest neighbour.

    Raises:
        BadValues: slices that are not square.
    """
    n, sides = len(images), images.shape[2:]
    if sides[-1] != sides[-2]:
        raise BadValues(f"Only square slices can be rotated; got {sides[-2]} × {sides[-1]} pixels.")
    axes, lengths = len(sides), np.array(sides[::-1])  # affines are in x, y, z order
    both = "flip" in kinds or "turn" in kinds
    flip = rng.choice([-1.0, 1.0], (n, axes)) if both else np.ones((n, axes))
    angle = rng.integers(4, size=n) * (np.pi / 2) if "turn" in kinds else np.zeros(n)
    angle = angle + (rng.uniform(-LARGEST_TURN, LARGEST_TURN, n) if "rotate" in kinds else 0)
    scale = np.exp(rng.uniform(-1, 1, n) * np.log(LARGEST_ZOOM)) if "zoom" in kinds else np.ones(n)
    far = (lengths * LARGEST_SHIFT).astype(int) if "shift" in kinds else 0 * lengths
    if not {"flip", "turn", "rotate", "zoom", "shift"}.isdisjoint(kinds):
        theta = np.zeros((n, axes, axes + 1))
        theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle), -np.sin(angle)
        theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle), np.cos(angle)
        theta[:, 2:, 2:axes] = 1
        theta[:, :, :axes] *= (flip * scale[:, None])[:, None]
        theta[:, :, axes] = rng.integers(-far, far + 1, (n, axes)) * (2 / lengths)
        images = _warped(images, theta, sides)
        if labels is not None:
            planes = labels.reshape(n, -1, *sides).float()
            labels = _warped(planes, theta, sides, "nearest").to(labels.dtype).reshape(labels.shape)
    if not set(VALUES).isdisjoint(kinds):
        images = shake_values(images, rng, kinds)
    return images, labels


def copies_of(
    images: Tensor, labels: Tensor | None, kinds: Collection[Augmentation], copies: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Several augmented copies of a batch, the same in every call.

    Args:
        images, labels, kinds: see :func:`augmented`.

    Returns:
        Images, labels and so on, (copies, N, …) each.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [augmented(images, labels, kinds, rng) for _ in range(copies)]
    along = [label for _, label in made if label is not None]
    return torch.stack([image for image, _ in made]), torch.stack(along) if along else None


def warp_planes(planes: Tensor, rng: np.random.Generator, size: int, *, zoom: float, shift_px: float) -> Tensor:
    """Random rotation, flip, zoom and shift of square planes.

    Args:
        planes: (N, C, S, S) float.
        size: side of the output, the central crop.
        zoom: the largest factor, its inverse the smallest.
        shift_px: the largest shift along each axis, in pixels.

    Returns:
        (N, C, size, size).
    """
    n, _, side, _ = planes.shape
    angle = rng.uniform(0, 2 * np.pi, n)
    scale = np.exp(rng.uniform(-1, 1, n) * np.log(zoom)) * size / side
    flip = rng.choice([-1.0, 1.0], n)
    theta = np.zeros((n, 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * flip, -np.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * flip, np.cos(angle)
    theta[:, :, :2] *= scale[:, None, None]
    theta[:, :, 2] = rng.uniform(-1, 1, (n, 2)) * (2 * shift_px / side)
    return _warped(planes, theta, (size, size))


def shake_values(images: Tensor, rng: np.random.Generator, kinds: Collection[Augmentation] = VALUES) -> Tensor:
    """Random contrast, offset and noise on 0…1 images (N, …), kept in range.

    A tenth of a window in contrast, about 30 HU in offset and noise: the differences between kernels and scanners.
    """
    n = images.shape[0]

    def each(values: NDArray[np.float64], kind: Augmentation, neutral: float) -> Tensor:
        values = values if kind in kinds else np.full(n, neutral)
        return torch.from_numpy(values.astype(np.float32)).to(images.device).view((n,) + (1,) * (images.dim() - 1))

    gain = each(rng.uniform(0.9, 1.1, n), "contrast", 1.0)
    offset = each(rng.normal(0, 0.02, n), "brightness", 0.0)
    noise = each(np.abs(rng.normal(0, 0.015, n)), "noise", 0.0)
    return (images * gain + offset + torch.randn_like(images) * noise).clamp_(0, 1)


def thickened(image: NDArray[np.float32], slices: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """An image (z, y, x) as of a scan whose slices are so many of its own thick, interpolated between them."""
    before = int(rng.integers(slices))
    after = -(before + len(image)) % slices
    thick = np.pad(image, ((before, after), (0, 0), (0, 0)), mode="edge").reshape(-1, slices, *image.shape[1:]).mean(1)
    at = np.clip((np.arange(len(image)) + before - (slices - 1) / 2) / slices, 0, len(thick) - 1)
    lower = np.floor(at).astype(int)
    share = (at - lower).astype(np.float32)[:, None, None]
    upper = np.minimum(lower + 1, len(thick) - 1)
    return np.asarray(thick[lower] * (1 - share) + thick[upper] * share, dtype=np.float32)


def _warped(planes: Tensor, theta: NDArray[np.float64], sides: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Planes (N, C, S, S) or blocks (N, C, D, S, S) resampled by affines (N, 2, 3) or (N, 3, 4) from output to input
    in −1…1 coordinates; edges are repeated."""
    matrix = torch.from_numpy(theta.astype(np.float32)).to(planes.device)
    grid = functional.affine_grid(matrix, [len(planes), planes.shape[1], *sides], align_corners=False)
    return functional.grid_sample(planes, grid, mode=mode, padding_mode="border", align_corners=False)
