"""Random views of a batch, all of it at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def warp_planes(planes: Tensor, rng: np.random.Generator, size: int, *, zoom: float, shift_px: float) -> Tensor:
    """Random rotation, flip, zoom and shift of square planes.

    Args:
        planes: (N, C, S, S) float.
        size: side of what comes out, taken from the middle.
        zoom: the largest factor, its inverse the smallest.
        shift_px: the largest shift along each axis, in pixels.

    Returns:
        (N, C, size, size).
    """
    n, _, side, _ = planes.shape
    angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, n).astype(np.float32))
    scale = torch.from_numpy(np.exp(rng.uniform(-1, 1, n) * np.log(zoom)).astype(np.float32)) * size / side
    flip = torch.from_numpy(rng.choice([-1.0, 1.0], n).astype(np.float32))
    shift = torch.from_numpy(rng.uniform(-1, 1, (n, 2)).astype(np.float32)) * (2 * shift_px / side)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.cos(angle) * scale * flip
    theta[:, 0, 1] = -torch.sin(angle) * scale
    theta[:, 1, 0] = torch.sin(angle) * scale * flip
    theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, [n, planes.shape[1], size, size], align_corners=False)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def turn_planes(planes: Tensor, rng: np.random.Generator, shift_px: int) -> Tensor:
    """One of the eight turns and flips of a square for every plane, and a shift by whole pixels.

    Nothing is interpolated, so that noise keeps the grain it has in use.

    Args:
        planes: (N, C, S, S).
        shift_px: the largest shift; edges are repeated.
    """
    side = planes.shape[-1]
    padded = functional.pad(planes, (shift_px,) * 4, mode="replicate")
    out = torch.empty_like(planes)
    for i, (dy, dx) in enumerate(rng.integers(0, 2 * shift_px + 1, (len(planes), 2))):
        view = torch.rot90(padded[i, :, dy : dy + side, dx : dx + side], int(rng.integers(4)), (1, 2))
        out[i] = view.flip(2) if rng.random() < 0.5 else view
    return out


def shake_values(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random contrast, offset and noise on 0…1 images (N, …), kept in range.

    A tenth of a window in contrast, about 30 HU in offset and noise: what kernels and scanners differ by.
    """
    n = images.shape[0]
    shape = (n,) + (1,) * (images.dim() - 1)
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, n).astype(np.float32)).view(shape)
    offset = torch.from_numpy(rng.normal(0, 0.02, n).astype(np.float32)).view(shape)
    noise = torch.from_numpy(np.abs(rng.normal(0, 0.015, n)).astype(np.float32)).view(shape)
    return (images * gain + offset + torch.randn(images.shape) * noise).clamp_(0, 1)
