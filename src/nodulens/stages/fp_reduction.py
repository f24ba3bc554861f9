"""False positive reduction on axial patches: a small network filters regions, or searches the lungs by itself.

A patch is 64 × 64 of the scan's own pixels, the centre at pixel (32, 32), as LUNA16's patches are cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.ops.components import components
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Model
from nodulens.stages.findings import Finding
from nodulens.stages.views import PATCH_PX, patch_view

STRIDE_PX = 8
"""Every pixel is then within 4 pixels of a patch centre: as far as patches are shifted in training."""
STRIDE_MM = 2.5
"""Distance between the slices that are searched."""


def keep_scores(volume: Volume, findings: list[Finding], model: Model) -> NDArray[np.float64]:
    """Probability (N,) 0…1 that each finding is a nodule, from the patch around the centre of its mask."""
    if not findings:
        return np.empty(0)
    middles = [np.argwhere(f.mask).mean(axis=0) + f.box.start for f in findings]
    views = np.stack([patch_view(volume, middle, 0.0) for middle in middles])
    return np.asarray(special.expit(patch_logits(model, views[:, None])), dtype=np.float64)


def patch_logits(model: Model, patches: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (N,) of patches (N, 1, 64, 64), with test-time augmentation over the eight symmetries of a square.

    Args:
        model: the patch network.
    """
    sides = (patches, patches[..., ::-1])
    views = [np.ascontiguousarray(np.rot90(side, turn, (2, 3))) for side in sides for turn in range(4)]
    return np.asarray(np.mean([model.run(view)[0][:, 0] for view in views], axis=0), dtype=np.float64)


def kept(volume: Volume, findings: list[Finding], model: Model, threshold: float = 0.5) -> list[Finding]:
    """The findings that the network keeps, with its scores, the highest first."""
    scored = [
        replace(finding, score=float(score))
        for finding, score in zip(findings, keep_scores(volume, findings, model), strict=True)
        if score >= threshold
    ]
    return sorted(scored, key=lambda finding: -finding.score)


def sliding_window(
    volume: Volume,
    lungs: Mask,
    model: Model,
    *,
    stride_px: int = STRIDE_PX,
    threshold: float = 0.5,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Finding]:
    """Search the lungs with the network alone; adjacent positives form a finding.

    There are thousands of patches, so there is no test-time augmentation as in :func:`keep_scores`.
    Findings are located, not outlined: each consists of cells of ``stride_px`` pixels and :data:`STRIDE_MM` where the
    network responds, and its score is the highest of them.

    Args:
        volume: canonical orientation.
        lungs: on the volume's grid.
        model: the patch network.
        stride_px: pixels from one patch centre to the next.
        threshold: least score of a patch.
        progress: called with the share of the slices that are done.

    Returns:
        Findings, the highest score first.
    """
    shape = np.asarray(volume.geometry.shape)
    cell = np.array([max(1, int(STRIDE_MM / volume.geometry.spacing_zyx[0])), stride_px, stride_px])
    z, y, x = (np.minimum(np.arange(0, n, c) + c // 2, n - 1) for n, c in zip(shape, cell, strict=True))
    scores = np.zeros((len(z), len(y), len(x)))
    for number, height in enumerate(z):
        progress(number / len(z))
        rows, columns = np.nonzero(lungs.labels[height][np.ix_(y, x)])
        if len(rows):
            padded = np.pad(to_unit(volume.hu[height]), PATCH_PX // 2, mode="edge")
            views = sliding_window_view(padded, (PATCH_PX, PATCH_PX))[y[rows], x[columns]]
            scores[number, rows, columns] = special.expit(model.run(views[:, None])[0][:, 0])
    parts = components(scores >= threshold, 26)
    out = []
    for number, where in enumerate(parts.slices, start=1):
        start = np.array([s.start for s in where]) * cell
        stop = np.minimum(np.array([s.stop for s in where]) * cell, shape)
        cells = parts.labels[where] == number
        mask = cells.repeat(cell[0], 0).repeat(cell[1], 1).repeat(cell[2], 2)
        box = Box.between(start, stop)
        a, b, c = box.shape
        out.append(Finding(float(scores[where][cells].max()), box, mask[:a, :b, :c]))
    return sorted(out, key=lambda finding: -finding.score)
