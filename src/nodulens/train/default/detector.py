"""How two networks make one score, and where the default threshold lies.

Everything here is out of fold: a background, a cube and a nodule set into a background are scored by the networks that
have not seen their patients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import nn

from nodulens.core.geometry import ball_diameter_mm
from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import FOLDS, fold_of, is_left_out
from nodulens.data.material import Stacks
from nodulens.metrics.classification import auc
from nodulens.stages.candidates import propose
from nodulens.stages.detect import distinct, fuse, is_large, sift
from nodulens.stages.views import FAR_MM, ball_view, patch_view
from nodulens.train.default.volume import TrainingRegion, scene_place, set_into
from nodulens.train.loop.fit import predict

KEEP = 300
"""Candidates a scan that reach the three-dimensional network."""
FALSE_PER_SCAN = 2.0
"""Marks a nodule-free scan may keep: where the default threshold is set."""
SIZES_MM = ((3, 5), (5, 8), (8, 12), (12, 20), (20, 40))
SET_IN, MASSES, ELSEWHERE = 60, 20, 200
"""Nodules and masses set into each background, and places without a mass looked at."""


@dataclass(frozen=True)
class Scored:
    """Candidates of one scene with both logits.

    Attributes:
        kind: "background", "cube", "set in", "mass" or "elsewhere".
        diameter_mm: of the nodule; 0 without one.
        hit: which candidates mark it.
    """

    kind: str
    diameter_mm: float
    candidates: list[Candidate]
    flat: NDArray[np.float32]
    deep: NDArray[np.float32]
    hit: NDArray[np.bool_]


def logits_of(
    volume: Volume, candidates: list[Candidate], patch: nn.Module, ball: nn.Module
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both logits of each candidate, as :mod:`nodulens.stages.detect` computes them."""
    if not candidates:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    places = [(volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in candidates]
    planes = torch.from_numpy(np.stack([patch_view(volume, p, d) for p, d in places])[:, None])
    balls = torch.from_numpy(np.stack([ball_view(volume, p, d) for p, d in places])[:, None])
    flat = predict(patch, planes.split(256))[:, 0]
    deep = torch.stack([predict(ball, b.split(128))[:, 0] for b in (balls, balls.flip(-1))]).mean(0)
    return flat.numpy(), deep.numpy()


def score_scenes(scenes: list[TrainingRegion], stacks: Stacks, patch: nn.Module, ball: nn.Module) -> list[Scored]:
    """Logits of backgrounds, cubes, and nodules set into the backgrounds, of one fold that both networks left out."""
    out = []
    for scene in scenes:
        flat, deep = logits_of(scene.volume, list(scene.candidates), patch, ball)
        size = 0.0 if scene.nodule is None else ball_diameter_mm(scene.nodule.sum())
        kind = "background" if scene.nodule is None else "cube"
        out.append(Scored(kind, size, list(scene.candidates), flat, deep, np.array(scene.is_nodule, dtype=bool)))
        if scene.nodule is None:
            out += _set_in(scene, stacks, patch, ball)
            out.append(_elsewhere(scene, patch, ball))
    return out


def _set_in(scene: TrainingRegion, stacks: Stacks, patch: nn.Module, ball: nn.Module) -> list[Scored]:
    """Nodules of three readers or more, of the background's own fold, each set in on its own; some grown to masses."""
    rng = np.random.default_rng(fold_of(scene.patient))
    usable = is_left_out([stacks.patients[n] for n in stacks.nodules], fold_of(scene.patient))
    nodules = [int(n) for n in stacks.nodules[usable] if stacks.readers(n) >= 3]
    large = [n for n in nodules if stacks.diameter_mm(n) > 9]
    wanted = [(int(n), 1.0, "set in") for n in rng.permutation(nodules)[:SET_IN]]
    wanted += [(n, rng.uniform(20, 65) / stacks.diameter_mm(n), "mass") for n in rng.choice(large, MASSES)]
    out = []
    for nodule, grow, kind in wanted:
        volume, centre, size = set_into(scene, stacks, nodule, max(grow, 1.0), rng)
        found = propose(volume, np.ones(volume.geometry.shape, dtype=bool))
        place = volume.geometry.to_lps(centre)
        found = [c for c in found if np.linalg.norm(np.subtract(c.centre_lps, place)) < max(size / 2, 2.0)]
        flat, deep = logits_of(volume, found, patch, ball)
        out.append(Scored(kind, size, found, flat, deep, np.ones(len(found), dtype=bool)))
    return out


def _elsewhere(scene: TrainingRegion, patch: nn.Module, ball: nn.Module) -> Scored:
    """Places without a mass, seen from as far as masses are."""
    rng = np.random.default_rng(fold_of(scene.patient) + FOLDS)
    candidates = []
    for _ in range(ELSEWHERE):
        x, y, z = scene.volume.geometry.to_lps(scene_place(scene, at_wall=rng.random() < 0.7, rng=rng))
        candidates.append(Candidate((float(x), float(y), float(z)), float(rng.uniform(FAR_MM, 60))))
    flat, deep = logits_of(scene.volume, candidates, patch, ball)
    return Scored("elsewhere", 0.0, candidates, flat, deep, np.zeros(len(candidates), dtype=bool))


def settings(scored: list[Scored]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes on the detector's card: (settings, figures)."""
    from sklearn.linear_model import LogisticRegression

    seen = [s for s in scored if s.candidates]
    large = np.concatenate([is_large(s.candidates) for s in seen])
    hits = np.concatenate([s.hit for s in seen])
    # every scene's nodule weighs one, however many marks it has; so does every non-nodule
    weight = np.concatenate([np.where(s.hit, 1 / max(1, s.hit.sum()), 1.0) for s in seen])
    x = np.concatenate([np.stack([s.flat, s.deep], 1) for s in seen])

    def logistic(rows: NDArray[np.bool_], columns: list[int]) -> list[float]:
        model = LogisticRegression(C=10.0, class_weight="balanced")
        model.fit(x[rows][:, columns], hits[rows], sample_weight=weight[rows])
        return [float(model.intercept_[0]), *(float(v) for v in model.coef_[0])]

    made: dict[str, Any] = {"keep": KEEP, "fusion": logistic(~large, [0, 1]), "fusion_large": logistic(large, [1])}
    free = [np.sort([c.score for c in _marks(s, made)])[::-1] for s in scored if s.kind == "background"]
    # the constants are moved so that the default threshold is a score of one half
    shift = _threshold_logit(free)
    made["fusion"][0] -= shift
    made["fusion_large"][0] -= shift
    made["threshold"] = threshold = 0.5
    free = [special.expit(special.logit(f) - shift) for f in free]
    known = [s for s in scored if s.diameter_mm > 0]
    found = [bool(fuse(s.candidates, s.flat, s.deep, made)[s.hit].max(initial=0.0) >= threshold) for s in known]
    rows = []
    for low, high in SIZES_MM:
        inside = [f for f, s in zip(found, known, strict=True) if low <= s.diameter_mm < high]
        rows.append([low, high, int(sum(inside)), len(inside)])
    made["sensitivity_by_size"] = rows
    small = {"axial": x[:, 0], "three_dimensional": x[:, 1], "fused": x @ np.array(made["fusion"][1:])}
    figures: dict[str, Any] = {
        "auc_of_candidates_in_scenes": {
            k: round(auc(hits[~large], v[~large], weight[~large]), 4) for k, v in small.items()
        },
        "auc_of_large_candidates": round(auc(hits[large], x[large, 1], weight[large]), 4),
        "false_marks_per_background_at_threshold": [int((f >= threshold).sum()) for f in free],
    }
    for kind in ("cube", "set in", "mass"):
        chosen = [f for f, s in zip(found, known, strict=True) if s.kind == kind]
        figures[f"found_at_threshold_{kind.replace(' ', '_')}"] = [int(sum(chosen)), len(chosen)]
    figures["stands_on"] = (
        f"real nodules in cubes; nodules of three readers or more set into {len(free)} nodule-free lungs, as they are "
        f"and grown to masses of 20 to 65 mm; all out of fold (by patient, the folds that hold a nodule-free lung)"
    )
    return made, figures


def _marks(scored: Scored, made: dict[str, Any]) -> list[Candidate]:
    """Marks of a scene as an analysis would make them."""
    kept = sift(scored.candidates, scored.flat, KEEP)
    candidates = [scored.candidates[i] for i in kept]
    score = fuse(candidates, scored.flat[kept], scored.deep[kept], made)
    return distinct([replace(c, score=float(p)) for c, p in zip(candidates, score, strict=True)])


def _threshold_logit(free: list[NDArray[np.float64]]) -> float:
    """The logit that leaves :data:`FALSE_PER_SCAN` marks a nodule-free scan on average, half-way to the next."""
    joined = np.sort(np.concatenate(free))[::-1]
    allowed = int(FALSE_PER_SCAN * len(free))
    if len(joined) <= allowed:
        return 0.0
    ends = joined[allowed - 1 : allowed + 1]
    return float(np.log(ends / (1 - ends)).mean())
