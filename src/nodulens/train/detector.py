"""How two networks make one score, and where the default threshold lies.

Everything here is out of fold: a background, a cube and a nodule set into a background are scored by the networks that
have not seen their patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS, fold_of, is_left_out
from nodulens.stages.candidates import propose
from nodulens.stages.detect import distinct, fuse
from nodulens.stages.views import ball_view, patch_view
from nodulens.train.fit import predict
from nodulens.train.material import Stacks
from nodulens.train.volume import Scene, set_into

KEEP = 300
"""Candidates a scan that reach the three-dimensional network."""
FALSE_PER_SCAN = 2.0
"""Marks a nodule-free scan may keep: where the default threshold is set."""
SIZES_MM = ((3, 5), (5, 8), (8, 12), (12, 20), (20, 40))
SET_IN = 60
"""Nodules set into each background."""


@dataclass(frozen=True)
class Scored:
    """Candidates of one scene with both logits.

    Attributes:
        kind: "background", "cube" or "set in".
        diameter_mm: of the nodule; 0 without one.
        hit: which candidates mark it.
    """

    kind: str
    diameter_mm: float
    candidates: list[Candidate]
    flat: NDArray[np.float32]
    deep: NDArray[np.float32]
    hit: NDArray[np.bool_]


def logits_of(volume: Volume, candidates: list[Candidate], patch: nn.Module, ball: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both logits of each candidate, as :mod:`nodulens.stages.detect` computes them."""
    if not candidates:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    places = [(volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in candidates]
    planes = torch.from_numpy(np.stack([patch_view(volume, p, d) for p, d in places])[:, None])
    balls = torch.from_numpy(np.stack([ball_view(volume, p, d) for p, d in places])[:, None])
    flat = predict(patch, planes.split(256))[:, 0]
    deep = torch.stack([predict(ball, b.split(128))[:, 0] for b in (balls, balls.flip(-1))]).mean(0)
    return flat.numpy(), deep.numpy()


def score_scenes(scenes: list[Scene], stacks: Stacks, patches: list[nn.Module], balls: list[nn.Module]) -> list[Scored]:
    """Out-of-fold logits of backgrounds, cubes and nodules set into backgrounds of their own fold."""
    out = []
    for scene in scenes:
        fold = fold_of(scene.patient)
        flat, deep = logits_of(scene.volume, list(scene.candidates), patches[fold], balls[fold])
        size = 0.0 if scene.nodule is None else float(np.cbrt(6 / np.pi * scene.nodule.sum()))
        kind = "background" if scene.nodule is None else "cube"
        out.append(Scored(kind, size, list(scene.candidates), flat, deep, np.array(scene.is_nodule, dtype=bool)))
        if scene.nodule is None:
            out += _set_in(scene, stacks, patches[fold], balls[fold])
    return out


def _set_in(scene: Scene, stacks: Stacks, patch: nn.Module, ball: nn.Module) -> list[Scored]:
    """Nodules of three readers or more, of the background's own fold, each set in on its own."""
    rng = np.random.default_rng(fold_of(scene.patient))
    usable = is_left_out([stacks.patients[n] for n in stacks.nodules], fold_of(scene.patient))
    nodules = [int(n) for n in stacks.nodules[usable] if stacks.ratings.readers[n] >= 3]
    out = []
    for nodule in rng.permutation(nodules)[:SET_IN]:
        volume, centre, size = set_into(scene, stacks, int(nodule), rng)
        found = propose(volume, volume.hu > -2000)
        place = volume.geometry.to_lps(centre)
        found = [c for c in found if np.linalg.norm(np.subtract(c.centre_lps, place)) < max(size / 2, 2.0)]
        flat, deep = logits_of(volume, found, patch, ball)
        out.append(Scored("set in", size, found, flat, deep, np.ones(len(found), dtype=bool)))
    return out


def settings(scored: list[Scored]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes on the detector's card: (settings, figures)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    inputs = [np.stack([s.flat, s.deep], 1) for s in scored if len(s.candidates)]
    hits = np.concatenate([s.hit for s in scored if len(s.candidates)])
    # every scene's nodule weighs one, however many marks it has; so does every look-alike
    weight = np.concatenate([np.where(s.hit, 1 / max(1, s.hit.sum()), 1.0) for s in scored if len(s.candidates)])
    x = np.concatenate(inputs)
    model = LogisticRegression(C=10.0, class_weight="balanced").fit(x, hits, sample_weight=weight)
    fusion = [float(model.intercept_[0]), float(model.coef_[0, 0]), float(model.coef_[0, 1])]
    marks = {id(s): _marks(s, fusion) for s in scored}
    free = [np.sort([c.score for c in marks[id(s)]])[::-1] for s in scored if s.kind == "background"]
    threshold = _threshold(free)
    sizes, found = [], []
    for s in scored:
        if s.diameter_mm > 0:
            sizes.append(s.diameter_mm)
            scores = fuse(s.flat, s.deep, fusion)[s.hit]
            found.append(bool(len(scores) and scores.max() >= threshold))
    rows = []
    for low, high in SIZES_MM:
        inside = [f for f, d in zip(found, sizes, strict=True) if low <= d < high]
        rows.append([low, high, int(sum(inside)), len(inside)])
    cubes = [f for f, s in zip(found, [s for s in scored if s.diameter_mm > 0], strict=True) if s.kind == "cube"]
    both = {"axial": x[:, 0], "three-dimensional": x[:, 1], "fused": x @ np.array(fusion[1:])}
    figures = {
        "auc_of_candidates_in_scenes": {k: round(float(roc_auc_score(hits, v, sample_weight=weight)), 4) for k, v in both.items()},
        "false_marks_per_background_at_threshold": [int((f >= threshold).sum()) for f in free],
        "cubes_found_at_threshold": [int(sum(cubes)), len(cubes)],
        "stands_on": f"{len(cubes)} real nodules in cubes, {len(sizes) - len(cubes)} set into {len(free)} backgrounds; all out of fold ({FOLDS} folds by patient)",
    }
    return {"keep": KEEP, "fusion": fusion, "threshold": threshold, "sensitivity_by_size": rows}, figures


def _marks(scored: Scored, fusion: list[float]) -> list[Candidate]:
    """Marks of a scene as an analysis would make them: the best by the axial network, fused, one a finding."""
    from dataclasses import replace

    kept = np.argsort(-scored.flat, kind="stable")[:KEEP]
    score = fuse(scored.flat[kept], scored.deep[kept], fusion)
    return distinct([replace(scored.candidates[i], score=float(p)) for i, p in zip(kept, score, strict=True)])


def _threshold(free: list[NDArray[np.float64]]) -> float:
    """The score that leaves :data:`FALSE_PER_SCAN` marks a nodule-free scan on average, half-way to the next."""
    joined = np.sort(np.concatenate(free))[::-1]
    allowed = int(FALSE_PER_SCAN * len(free))
    if len(joined) <= allowed:
        return 0.5
    logit = np.log(joined[allowed - 1 : allowed + 1] / (1 - joined[allowed - 1 : allowed + 1]))
    return float(1 / (1 + np.exp(-logit.mean())))
