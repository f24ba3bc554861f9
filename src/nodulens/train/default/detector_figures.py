"""Calibration of the detector's score, its default threshold, and the figures on its card.

Everything here is out of fold: a cube, a nodule-free lung and a mass inserted into it are searched by networks that
were not trained on their patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from nodulens.core.nodule import Candidate
from nodulens.data.folds import fold_of, is_left_out
from nodulens.data.material import Background, Cubes, Stacks
from nodulens.metrics.detection import FP_RATES
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.train.default.cube_detection import LITRES, SIZE_EDGES_MM, CubeDetection, Detect, cube_lung
from nodulens.train.default.regions import TrainingRegion, set_into

NODULES_A_SCAN = 1186 / 888
"""In LUNA16: as many are counted among five litres of lung when the score is calibrated, though cubes hold more."""
FALSE_PER_SCAN = 1.0
"""False positives that the default threshold allows, in five litres of the cubes' lung and in a nodule-free lung: the
cubes have little of the hila and the great vessels."""
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
MASSES = 20
"""Nodules enlarged to masses of 20 to 65 mm and inserted into each nodule-free lung: cubes cannot hold any."""


@dataclass(frozen=True, eq=False)
class SearchedLungs:
    """Detections in nodule-free lungs, and in masses inserted into them.

    Attributes:
        litres: lung that was searched in each.
        false_score: scores of the detections in each, all of them false.
        mass_score: the best score on each mass; −inf where nothing marks it.
    """

    litres: tuple[float, ...]
    false_score: tuple[NDArray[np.float64], ...]
    mass_score: NDArray[np.float64]


def search_lungs(
    regions: Sequence[TrainingRegion], stacks: Stacks, detector: Callable[[str], Detect], masses: int = MASSES
) -> SearchedLungs:
    """Search the nodule-free lungs.

    Args:
        regions: these.
        stacks: nodules to enlarge; of three readers or more, and of the lungs' own folds.
        detector: patient → a detector that was not trained on the patient.
        masses: to insert into each.
    """
    litres, false, best = [], [], []
    for region in regions:
        detect, volume = detector(region.patient), region.volume
        lungs = segment_lungs(volume)
        litres.append(np.count_nonzero(lungs.labels) * volume.geometry.voxel_mm3 / 1e6)
        marks = [
            c for c in detect(volume, search_region(lungs, margin_mm=0.0)) if not _is_unannotated(region.patient, c)
        ]
        false.append(np.array([c.score for c in marks], dtype=np.float64))
        best += _on_masses(region, stacks, detect, masses)
    return SearchedLungs(tuple(litres), tuple(false), np.array(best))


def _is_unannotated(patient: str, mark: Candidate) -> bool:
    """Whether a mark lies on a finding of a nodule-free lung that was not annotated."""
    if patient not in Background.PLEURAL_MASS:
        return False
    centre, radius = Background.PLEURAL_MASS[patient]
    return bool(np.linalg.norm(np.subtract(mark.centre_lps, centre)) <= radius)


def _on_masses(region: TrainingRegion, stacks: Stacks, detect: Detect, masses: int) -> list[float]:
    fold = fold_of(region.patient)
    rng = np.random.default_rng(fold)
    usable = stacks.nodules[is_left_out([stacks.patients[n] for n in stacks.nodules], fold)]
    large = [int(n) for n in usable if stacks.readers(n) >= 3 and stacks.diameter_mm(n) > 9]
    out = []
    for nodule in rng.choice(large, masses):
        grow = rng.uniform(20, 65) / stacks.diameter_mm(nodule)
        volume, centre, size = set_into(region, stacks, int(nodule), grow, rng)
        everywhere = np.ones(volume.geometry.shape, dtype=bool)
        place = volume.geometry.to_lps(centre)
        marks = [c for c in detect(volume, everywhere) if np.linalg.norm(np.subtract(c.centre_lps, place)) < size / 2]
        out.append(max((c.score for c in marks), default=-np.inf))
    return out


# ---------------------------------------------------------------- the card


def settings(cubes: CubeDetection, lungs: SearchedLungs) -> dict[str, Any]:
    """Settings for the scoring network's card: the calibration, the threshold, the sensitivity by size.

    Args:
        cubes, lungs: searched with scores that are plain sigmoids of the logit.
    """
    constant, slope = _calibrated(cubes, lungs)
    in_lungs = np.sort(np.concatenate(lungs.false_score))[::-1]
    allowed = int(FALSE_PER_SCAN * len(lungs.litres))
    ends = special.logit(in_lungs[allowed - 1 : allowed + 1])  # of the last that counts, and the first that does not
    free = special.expit(ends.mean()) if len(ends) == 2 else 0.0
    threshold = max(cubes.threshold_at(FALSE_PER_SCAN), float(free))
    found = cubes.froc.nodule_score > threshold
    size = cubes.froc.nodule_mm
    bands = [(low, high, (size >= low) & (size < high)) for low, high in pairwise(SIZE_EDGES_MM)]
    return {
        "calibration": [constant, slope],
        "threshold": round(float(special.expit(constant + slope * special.logit(threshold))), 3),
        "sensitivity_by_size": [[low, high, int(found[own].sum()), int(own.sum())] for low, high, own in bands],
    }


def _calibrated(cubes: CubeDetection, lungs: SearchedLungs) -> tuple[float, float]:
    """Constant and slope that turn a logit into the chance that a mark is a nodule, where they are as frequent as in
    LUNA16."""
    from sklearn.linear_model import LogisticRegression

    logit, is_nodule, weight = _marks(cubes, lungs)
    model = LogisticRegression(C=1e6).fit(logit[:, None], is_nodule, sample_weight=weight)
    return float(model.intercept_[0]), float(model.coef_[0, 0])


def _marks(
    cubes: CubeDetection, lungs: SearchedLungs
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """All marks (N,): logit, whether a nodule, and a weight with which nodules are as frequent as in LUNA16."""
    hit = cubes.froc.nodule_score[cubes.proposed]
    false = np.concatenate([cubes.froc.false_score, *lungs.false_score])
    each = NODULES_A_SCAN * (cubes.litres.sum() + sum(lungs.litres)) / LITRES / cubes.froc.nodules
    logit = special.logit(np.clip(np.concatenate([hit, false]), 1e-9, 1 - 1e-9))
    weight = np.concatenate([np.full(len(hit), each), np.ones(len(false))])
    return logit, np.arange(len(logit)) < len(hit), weight


def figures(cubes: Cubes, found: CubeDetection, lungs: SearchedLungs, made: dict[str, Any]) -> dict[str, Any]:
    """Figures for the card.

    Args:
        found, lungs: as :func:`settings` takes them.
        made: the settings.
    """
    constant, slope = made["calibration"]
    # a score that rounds to the threshold is not below it
    threshold = special.expit((special.logit(made["threshold"] - 5e-4) - constant) / slope)
    groups = {"all": np.ones(len(found.cubes), dtype=bool)} | strata(cubes, found)
    return {
        "cpm": round(found.cpm, 4),
        "cpm_interval_95": [round(v, 4) for v in found.interval()],
        "proposed": round(float(found.proposed.mean()), 4),
        "fp_rates_in_five_litres": list(FP_RATES),
        "sensitivity": {
            name: [int(own.sum()), *(round(float(v), 3) for v in found.among(own).sensitivity_at())]
            for name, own in groups.items()
            if own.any()
        },
        "at_threshold": {
            "sensitivity": round(float(np.mean(found.froc.nodule_score >= threshold)), 4),
            "false_positives_in_five_litres": round(
                float(np.sum(found.froc.false_score >= threshold) * LITRES / found.litres.sum()), 3
            ),
            "false_positives_in_nodule_free_lungs": [int(np.sum(f >= threshold)) for f in lungs.false_score],
            "masses_found": [int(np.sum(lungs.mass_score >= threshold)), len(lungs.mass_score)],
        },
        "reliability": _reliability(found, lungs, constant, slope),
        "stands_on": f"{found.froc.nodules} nodules in cubes with {found.litres.sum():.0f} litres of lung, "
        f"{len(lungs.litres)} nodule-free lungs with {sum(lungs.litres):.0f} litres, and masses set into these, five "
        "folds by patient",
    }


def _reliability(found: CubeDetection, lungs: SearchedLungs, constant: float, slope: float) -> list[list[float]]:
    """By quarter of the score: its bounds, and the share of marks that are nodules, where these are as frequent as in
    LUNA16. There are too few false positives for finer steps."""
    logit, is_nodule, weight = _marks(found, lungs)
    p = special.expit(constant + slope * logit)
    every, hits = (np.histogram(p, QUARTERS, weights=w)[0] for w in (weight, weight * is_nodule))
    share = hits / np.maximum(every, 1e-9)
    return [[low, high, round(float(s), 3)] for (low, high), s in zip(pairwise(QUARTERS), share, strict=True)]


def strata(cubes: Cubes, found: CubeDetection) -> dict[str, NDArray[np.bool_]]:
    """Groups of nodules: name → which of those searched (N,)."""
    size, numbers = found.froc.nodule_mm, found.cubes
    out = {f"{low:g} to {high:g} mm": (size >= low) & (size < high) for low, high in pairwise(SIZE_EDGES_MM)}
    texture = cubes.ratings.median("texture")[numbers]
    out |= {"ground glass": texture <= 2, "part-solid": (texture > 2) & (texture < 4.5), "solid": texture >= 4.5}
    readers = cubes.ratings.readers[numbers]
    out |= {f"{n} readers": readers == n for n in (3, 4)}
    looks = [_at_wall_and_noise(cubes, int(n)) for n in numbers]
    wall, noise = np.array([wall for wall, _ in looks]), np.array([noise for _, noise in looks])
    out |= {"at the wall": wall, "within the lung": ~wall}
    thickness = cubes.thickness_mm[numbers]
    out |= {"slices up to 1.25 mm": thickness <= 1.25, "thicker slices": thickness > 1.25}
    # the cubes do not name their kernel: a sharp one and a low dose show as noise
    level = float(np.median(noise))
    return out | {f"noise up to {level:.0f} HU": noise <= level, f"noise over {level:.0f} HU": noise > level}


def _at_wall_and_noise(cubes: Cubes, nodule: int) -> tuple[bool, float]:
    """Whether a nodule is within 2 mm of what is not lung, and the noise of its cube's lung in HU."""
    hu = cubes.hu(nodule)
    lung = cube_lung(hu)
    near = ndimage.binary_dilation(cubes.outlined(nodule), iterations=2)
    steps = np.abs(np.diff(hu, axis=2))[(hu[:, :, 1:] < -750) & lung[:, :, 1:]]
    return bool((near & ~lung).any()), float(np.median(steps)) / 0.954 if len(steps) else float("nan")


def least_logit(logits: NDArray[np.floating], share: float) -> float:
    """The logit that a share of the nodules reaches."""
    return float(np.quantile(logits, 1 - share, method="lower"))
