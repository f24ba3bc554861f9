"""Score candidates: an axial network pre-selects them, a three-dimensional one scores the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Mask, Volume
from nodulens.runtime.engine import Model
from nodulens.stages.candidates import propose
from nodulens.stages.lungs import search_region
from nodulens.stages.views import FAR_MM, ball_view, patch_view


def detect(volume: Volume, lungs: Mask, patch: Model, ball: Model) -> list[Candidate]:
    """Detections with scores, one a finding, the highest score first; no threshold is applied.

    Args:
        volume: canonical orientation.
        lungs: on the volume's grid.
        patch: the axial network (N, 1, 64, 64) → logits.
        ball: the three-dimensional network (N, 1, 32, 32, 32) → logits; its card says how many candidates reach it and
            how the two logits make a score.
    """
    candidates = propose(volume, search_region(lungs, margin_mm=0.0))
    if not candidates:
        return []
    settings = ball.card.settings
    flat = patch_logits(volume, candidates, patch)
    kept = sift(candidates, flat, int(settings["keep"]))
    candidates, flat = [candidates[i] for i in kept], flat[kept]
    deep = ball_logits(volume, candidates, ball)
    score = fuse(candidates, flat, deep, settings)
    return distinct([replace(c, score=float(s)) for c, s in zip(candidates, score, strict=True)])


def sift(candidates: list[Candidate], flat: NDArray[np.float32], keep: int) -> NDArray[np.int_]:
    """Rows of the ``keep`` best by the axial network, and of all large ones, which it was not trained on."""
    order = np.argsort(np.where(is_large(candidates), -np.inf, -flat), kind="stable")
    return order[: keep + int(is_large(candidates).sum())]


def is_large(candidates: list[Candidate]) -> NDArray[np.bool_]:
    """Whether each candidate (N,) is sampled with a coarser pixel; see :mod:`nodulens.stages.views`."""
    return np.array([c.diameter_mm > FAR_MM for c in candidates], dtype=bool)


def patch_logits(volume: Volume, candidates: list[Candidate], model: Model) -> NDArray[np.float32]:
    """Logits (N,) of the axial slice through each candidate."""
    views = [patch_view(volume, volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in candidates]
    return np.asarray(model.run(np.stack(views)[:, None])[0][:, 0])


def ball_logits(volume: Volume, candidates: list[Candidate], model: Model) -> NDArray[np.float32]:
    """Logits (N,) of the tissue around each candidate: the mean over two views mirrored left to right."""
    views = [ball_view(volume, volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in candidates]
    batch = np.stack(views)[:, None]
    both = [model.run(view)[0][:, 0] for view in (batch, np.ascontiguousarray(batch[..., ::-1]))]
    return np.asarray((both[0] + both[1]) / 2)


def fuse(
    candidates: list[Candidate], flat: NDArray[np.float32], deep: NDArray[np.float32], settings: dict[str, Any]
) -> NDArray[np.float64]:
    """Scores 0…1 by the logistic regressions on the card.

    Args:
        candidates: N of them.
        flat, deep: (N,) logits.
        settings: "fusion" (constant, axial, three-dimensional), and "fusion_large" (constant, three-dimensional) for
            candidates too large for the axial network.
    """
    constant, axial, spatial = settings["fusion"]
    large_constant, large_spatial = settings["fusion_large"]
    small = constant + axial * flat + spatial * deep
    logit = np.where(is_large(candidates), large_constant + large_spatial * deep, small)
    return np.asarray(special.expit(logit), dtype=np.float64)


def distinct(candidates: list[Candidate]) -> list[Candidate]:
    """The best detection of every finding: one within half the diameter of a better one, or 5 mm, is removed."""
    kept: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: -c.score):
        reach = [max(5.0, k.diameter_mm / 2, c.diameter_mm / 2) for k in kept]
        apart = [np.linalg.norm(np.subtract(c.centre_lps, k.centre_lps)) for k in kept]
        if all(a > r for a, r in zip(apart, reach, strict=True)):
            kept.append(c)
    return kept
