"""Fusion of two networks' logits into one score, and the default threshold.

Everything here is out of fold: a background, a cube and a nodule inserted into a background are scored by networks that
were not trained on their patients.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from nodulens.train.default.volume import TrainingRegion, place_in_lung, set_into
from nodulens.train.loop.fit import predict

KEEP = 300
"""Candidates a scan that reach the three-dimensional network."""
FALSE_PER_SCAN = 2.0
"""False positives a scan that the default threshold allows in nodule-free lungs."""
SIZES_MM = ((3, 5), (5, 8), (8, 12), (12, 20), (20, 40))


@dataclass(frozen=True)
class Trials:
    """The samples in each background for the threshold and the figures, beside the background itself.

    Attributes:
        nodules: number inserted in their own size.
        masses: number of nodules enlarged and inserted.
        places: number of places without a mass, sampled as coarsely as masses.
    """

    nodules: int = 60
    masses: int = 20
    places: int = 200


TRIALS = Trials()


@dataclass(frozen=True)
class Detector:
    """The two networks that score a candidate, in evaluation mode.

    Attributes:
        patch: takes an axial patch.
        volume: takes a block.
    """

    patch: nn.Module
    volume: nn.Module

    def logits(self, scan: Volume, found: Sequence[Candidate]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (N,) of each network for every candidate, as :mod:`nodulens.stages.detect` computes them."""
        if not found:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        places = [(scan.geometry.to_index(c.centre_lps), c.diameter_mm) for c in found]
        planes = torch.from_numpy(np.stack([patch_view(scan, p, d) for p, d in places])[:, None])
        balls = torch.from_numpy(np.stack([ball_view(scan, p, d) for p, d in places])[:, None])
        flat = predict(self.patch, planes.split(256))[:, 0]
        deep = torch.stack([predict(self.volume, b.split(128))[:, 0] for b in (balls, balls.flip(-1))]).mean(0)
        return flat.numpy(), deep.numpy()


@dataclass(frozen=True)
class Scored:
    """Candidates of one region with both logits.

    Attributes:
        kind: "background", "cube", "set in", "mass" or "elsewhere".
        diameter_mm: of the nodule; 0 without one.
        flat, deep: (N,) logits of the axial and of the three-dimensional network.
        hit: (N,) which candidates are on the nodule.
    """

    kind: str
    diameter_mm: float
    candidates: list[Candidate]
    flat: NDArray[np.float32]
    deep: NDArray[np.float32]
    hit: NDArray[np.bool_]


def score_regions(
    regions: Sequence[TrainingRegion], stacks: Stacks, detector: Detector, trials: Trials = TRIALS
) -> list[Scored]:
    """Score backgrounds, cubes, and nodules inserted into the backgrounds, of one fold that both networks left out."""
    out = []
    for region in regions:
        flat, deep = detector.logits(region.volume, region.candidates)
        size = 0.0 if region.nodule is None else ball_diameter_mm(region.nodule.sum())
        kind = "background" if region.nodule is None else "cube"
        hit = np.array(region.is_nodule, dtype=bool)
        out.append(Scored(kind, size, list(region.candidates), flat, deep, hit))
        if region.nodule is None:
            out += _set_in(region, stacks, detector, trials)
            out.append(_elsewhere(region, detector, trials.places))
    return out


def _set_in(background: TrainingRegion, stacks: Stacks, detector: Detector, trials: Trials) -> list[Scored]:
    """Insert nodules of three readers or more, of the background's own fold, one at a time; some enlarged to masses."""
    fold = fold_of(background.patient)
    rng = np.random.default_rng(fold)
    usable = is_left_out([stacks.patients[n] for n in stacks.nodules], fold)
    nodules = [int(n) for n in stacks.nodules[usable] if stacks.readers(n) >= 3]
    large = [n for n in nodules if stacks.diameter_mm(n) > 9]
    wanted = [(int(n), 1.0, "set in") for n in rng.permutation(nodules)[: trials.nodules]]
    wanted += [(n, rng.uniform(20, 65) / stacks.diameter_mm(n), "mass") for n in rng.choice(large, trials.masses)]
    out = []
    for nodule, grow, kind in wanted:
        volume, centre, size = set_into(background, stacks, nodule, max(grow, 1.0), rng)
        found = propose(volume, np.ones(volume.geometry.shape, dtype=bool))
        place = volume.geometry.to_lps(centre)
        found = [c for c in found if np.linalg.norm(np.subtract(c.centre_lps, place)) < max(size / 2, 2.0)]
        out.append(Scored(kind, size, found, *detector.logits(volume, found), np.ones(len(found), dtype=bool)))
    return out


def _elsewhere(background: TrainingRegion, detector: Detector, places: int) -> Scored:
    """Score places without a mass, sampled as coarsely as masses."""
    rng = np.random.default_rng(fold_of(background.patient) + FOLDS)
    candidates = []
    for _ in range(places):
        index = place_in_lung(background, at_wall=rng.random() < 0.7, rng=rng)
        x, y, z = background.volume.geometry.to_lps(index)
        candidates.append(Candidate((float(x), float(y), float(z)), float(rng.uniform(FAR_MM, 60))))
    logits = detector.logits(background.volume, candidates)
    return Scored("elsewhere", 0.0, candidates, *logits, np.zeros(len(candidates), dtype=bool))


# ---------------------------------------------------------------- the card


def settings(scored: Sequence[Scored]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and figures for the detector's card, from candidates scored out of fold.

    The default threshold is a score of one half.
    """
    table = _Table.of(scored)
    made: dict[str, Any] = {"keep": KEEP, "fusion": table.logistic(~table.large, [0, 1])}
    made["fusion_large"] = table.logistic(table.large, [1])
    free = [np.sort([c.score for c in _detections(s, made)])[::-1] for s in scored if s.kind == "background"]
    # the constants are moved so that the default threshold is a score of one half
    shift = _threshold_logit(free)
    made["fusion"][0] -= shift
    made["fusion_large"][0] -= shift
    made["threshold"] = 0.5
    free = [special.expit(special.logit(f) - shift) for f in free]
    found = [(s, _is_found(s, made)) for s in scored if s.diameter_mm > 0]
    made["sensitivity_by_size"] = [[low, high, *_share(found, low, high)] for low, high in SIZES_MM]
    return made, _figures(table, made, free, found)


@dataclass(frozen=True, eq=False)
class _Table:
    """All candidates, one a row.

    Attributes:
        logits: (N, 2) axial and three-dimensional.
        large: (N,) those scored by the three-dimensional network alone.
        hit: (N,) those on a nodule.
        weight: (N,) a region's nodule has a total weight of one, however many candidates are on it; every non-nodule
            has one.
    """

    logits: NDArray[np.float32]
    large: NDArray[np.bool_]
    hit: NDArray[np.bool_]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> _Table:
        """Collect the candidates of some regions."""
        some = [s for s in scored if s.candidates]
        return cls(
            logits=np.concatenate([np.stack([s.flat, s.deep], 1) for s in some]),
            large=np.concatenate([is_large(s.candidates) for s in some]),
            hit=np.concatenate([s.hit for s in some]),
            weight=np.concatenate([np.where(s.hit, 1 / max(1, s.hit.sum()), 1.0) for s in some]),
        )

    def logistic(self, rows: NDArray[np.bool_], columns: list[int]) -> list[float]:
        """Fit a logistic regression of some rows on some of the logits: constant, then slopes."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=10.0, class_weight="balanced")
        model.fit(self.logits[rows][:, columns], self.hit[rows], sample_weight=self.weight[rows])
        return [float(model.intercept_[0]), *(float(v) for v in model.coef_[0])]

    def auc(self, rows: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
        """Area under the ROC curve of some rows by a score (N,) of all."""
        return round(auc(self.hit[rows], score[rows], self.weight[rows]), 4)


def _is_found(scored: Scored, made: dict[str, Any]) -> bool:
    """Whether the best candidate on a nodule reaches the threshold."""
    score = fuse(scored.candidates, scored.flat, scored.deep, made)
    return bool(score[scored.hit].max(initial=0.0) >= made["threshold"])


def _share(found: Sequence[tuple[Scored, bool]], low: float, high: float) -> tuple[int, int]:
    """Number of nodules from ``low`` to ``high`` mm found, and in all."""
    inside = [is_found for scored, is_found in found if low <= scored.diameter_mm < high]
    return sum(inside), len(inside)


def _figures(
    table: _Table,
    made: dict[str, Any],
    free: Sequence[NDArray[np.float64]],
    found: Sequence[tuple[Scored, bool]],
) -> dict[str, Any]:
    """Figures of the detector.

    Args:
        free: scores of the detections in each background.
        found: nodules, and whether each is found at the threshold.
    """
    x = table.logits
    small = {"axial": x[:, 0], "three_dimensional": x[:, 1], "fused": x @ np.array(made["fusion"][1:])}
    figures: dict[str, Any] = {
        "auc_of_candidates_in_scenes": {name: table.auc(~table.large, score) for name, score in small.items()},
        "auc_of_large_candidates": table.auc(table.large, x[:, 1]),
        "false_marks_per_background_at_threshold": [int((f >= made["threshold"]).sum()) for f in free],
    }
    for kind in ("cube", "set in", "mass"):
        chosen = [is_found for scored, is_found in found if scored.kind == kind]
        figures[f"found_at_threshold_{kind.replace(' ', '_')}"] = [sum(chosen), len(chosen)]
    figures["stands_on"] = (
        f"real nodules in cubes; nodules of three readers or more set into {len(free)} nodule-free lungs, as they are "
        f"and grown to masses of 20 to 65 mm; all out of fold (by patient, the folds that hold a nodule-free lung)"
    )
    return figures


def _detections(scored: Scored, made: dict[str, Any]) -> list[Candidate]:
    """The detections of a region, as in an analysis."""
    kept = sift(scored.candidates, scored.flat, KEEP)
    candidates = [scored.candidates[i] for i in kept]
    score = fuse(candidates, scored.flat[kept], scored.deep[kept], made)
    return distinct([replace(c, score=float(p)) for c, p in zip(candidates, score, strict=True)])


def _threshold_logit(free: Sequence[NDArray[np.float64]]) -> float:
    """The logit with :data:`FALSE_PER_SCAN` false positives a nodule-free scan on average, half-way to the next score.

    Args:
        free: scores of the detections in each scan.
    """
    joined = np.sort(np.concatenate(free))[::-1]
    allowed = int(FALSE_PER_SCAN * len(free))
    if len(joined) <= allowed:
        return 0.0
    ends = joined[allowed - 1 : allowed + 1]
    return float(np.log(ends / (1 - ends)).mean())
