"""Score candidates: a small network screens them, a larger one scores those that pass.

All of it is done in voxels of 1 mm, as in the cubes on which the networks were trained and measured: what slices are
thick or pixels small makes a nodule look like then is what it made those look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import AIR_HU, Mask, Volume
from nodulens.ops.parallel import made_ahead
from nodulens.ops.resample import resample_array
from nodulens.runtime.engine import Model
from nodulens.stages.candidates import propose
from nodulens.stages.lungs import SearchRegion
from nodulens.stages.views import ball_view, screen_view

Float32 = NDArray[np.float32]
View = Callable[[Volume, NDArray[np.float64], float], Float32]
"""The input of a network for a candidate: of a volume, the index of its centre, its diameter in mm."""
AROUND_MM = 20.0
"""Tissue around the lungs that the networks see; farther out its last voxels are repeated."""
APART_MM = 5.0
"""Candidates closer than this are one finding."""
LIKELY = -1.0
"""Candidates with this logit or more are scored a second time, mirrored; of nodules, one in a hundred has less."""
PART = 256
"""Candidates whose views are held at once."""


def detect(volume: Volume, lungs: Mask, screen: Model, ball: Model) -> list[Candidate]:
    """Detections with scores, one a finding, the highest score first; no threshold is applied.

    Args:
        volume: canonical orientation.
        lungs: on the volume's grid.
        screen: the screening network (N, 1, 16, 16, 16) → logits; its card says which pass.
        ball: the scoring network (N, 1, 32, 32, 32) → logits; its card says how they become a score.
    """
    region = SearchRegion.of(lungs, margin_mm=0.0)
    box = region.box()
    if box is None:
        return []
    around = _at_one_mm(volume, box)
    return _scored(around, region.on(around.geometry), screen, ball).marks(ball.card.settings["calibration"])


def detect_within(volume: Volume, region: NDArray[np.bool_], screen: Model, ball: Model) -> list[Candidate]:
    """As :func:`detect`, of what is centred in a region (z, y, x) of the volume."""
    return scored(volume, region, screen, ball).marks(ball.card.settings["calibration"])


@dataclass(frozen=True, eq=False)
class Scored:
    """The candidates that passed the screening network.

    Attributes:
        candidates: N of them.
        logit: (N,) of the scoring network.
    """

    candidates: list[Candidate]
    logit: Float32

    def marks(self, calibration: Sequence[float]) -> list[Candidate]:
        """One detection a finding, the highest score first.

        Args:
            calibration: a constant, a slope for the logit, and one for the logarithm of the diameter in mm. The score
                is the logistic function of their sum: of a large and a small candidate with the same logit, the large
                one is more often a nodule.
        """
        constant, slope, size = calibration
        diameter = np.array([c.diameter_mm for c in self.candidates], dtype=np.float64)
        score = special.expit(constant + slope * self.logit + size * np.log(diameter))
        return distinct([replace(c, score=float(s)) for c, s in zip(self.candidates, score, strict=True)])


def scored(volume: Volume, region: NDArray[np.bool_], screen: Model, ball: Model) -> Scored:
    """Candidates in a region (z, y, x) of the volume, screened and scored."""
    if not region.any():
        return Scored([], np.empty(0, np.float32))
    around = _at_one_mm(volume, Box.of_mask(region))
    labels = region.view(np.uint8)
    inside = resample_array(labels, volume.geometry, around.geometry, order=0, fill=0).view(np.bool_)
    return _scored(around, inside, screen, ball)


def _at_one_mm(volume: Volume, box: Box) -> Volume:
    """The volume around a box of its indices, in voxels of 1 mm."""
    room = np.ceil(AROUND_MM / np.asarray(volume.geometry.spacing_zyx)).astype(int)
    around = box.grown(room.tolist()).clipped(volume.geometry.shape)
    own = volume.geometry.crop(around)
    grid = own.respaced((1.0, 1.0, 1.0))
    return Volume(resample_array(volume.hu[around.slices], own, grid, fill=AIR_HU), grid)


def _scored(volume: Volume, region: NDArray[np.bool_], screen: Model, ball: Model) -> Scored:
    """As :func:`scored`, all of it in voxels of 1 mm."""
    candidates = propose(volume, region)
    rough = logits(volume, candidates, screen, screen_view)
    settings = screen.card.settings
    candidates = [candidates[i] for i in passing(rough, settings["least"], int(settings["most"]))]
    fine = logits(volume, candidates, ball, ball_view)
    likely = np.flatnonzero(fine >= LIKELY)
    fine[likely] = (fine[likely] + logits(volume, [candidates[i] for i in likely], ball, _mirrored)) / 2
    return Scored(candidates, fine)


def passing(rough: Float32, least: float, most: int) -> NDArray[np.int_]:
    """Rows of the candidates whose logit (N,) is ``least`` or more, the highest first; no more than ``most``."""
    order = np.argsort(-rough, kind="stable")[:most]
    return order[rough[order] >= least]


def logits(volume: Volume, candidates: Sequence[Candidate], model: Model, view: View) -> Float32:
    """Logits (N,) of a network for each candidate.

    Args:
        view: the network's input.
    """

    def views(start: int) -> Float32:
        part = candidates[start : start + PART]
        return np.stack([view(volume, volume.geometry.to_index(c.centre_lps), c.diameter_mm) for c in part])[:, None]

    parts = made_ahead(views, range(0, len(candidates), PART))
    return np.concatenate([np.empty(0, np.float32), *(model.run(part)[0][:, 0] for part in parts)])


def _mirrored(volume: Volume, centre_zyx: NDArray[np.float64], diameter_mm: float) -> Float32:
    """The scoring network's input as if left were right."""
    return ball_view(volume, centre_zyx, diameter_mm)[..., ::-1]


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One detection a finding, the highest score first.

    The best candidate takes those within half its diameter, half of theirs, or 5 mm. It lies where they do on average,
    weighted by their odds: one beside a small nodule sees it whole, and may have the highest score.
    """
    ordered = sorted(candidates, key=lambda c: -c.score)
    centre = np.array([c.centre_lps for c in ordered]).reshape(-1, 3)
    reach = np.maximum(2 * APART_MM, [c.diameter_mm for c in ordered]) / 2
    odds = np.exp(special.logit(np.clip([c.score for c in ordered], 1e-12, 1 - 1e-6)))
    free = np.ones(len(ordered), dtype=bool)
    kept = []
    for i, best in enumerate(ordered):
        if not free[i]:
            continue
        own = free & (np.linalg.norm(centre - centre[i], axis=1) <= np.maximum(reach, reach[i]))
        free &= ~own
        x, y, z = np.average(centre[own], axis=0, weights=odds[own])
        kept.append(replace(best, centre_lps=(float(x), float(y), float(z))))
    return kept
