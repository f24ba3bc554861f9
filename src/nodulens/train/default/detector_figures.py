"""Calibration of the detector's score, its default threshold, and the figures on its card.

Everything here is out of fold: a cube, a nodule-free lung and a mass inserted into it are searched by networks that
were not trained on their patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of, is_left_out
from nodulens.data.material import Background, Cubes, Stacks
from nodulens.metrics.detection import FP_RATES
from nodulens.stages.detect import Scored
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.train.default.cube_detection import LITRES, SIZE_EDGES_MM, CubeDetection, cube_lung
from nodulens.train.default.regions import TrainingRegion, set_into

Search = Callable[[Volume, NDArray[np.bool_]], Scored]
"""Candidates centred in a region of a volume, screened and scored."""
UNCALIBRATED = (0.0, 1.0, 0.0)
"""The calibration by which the score is the logistic function of the logit."""
NODULES_A_SCAN = 1186 / 888
"""In LUNA16: as many are counted among five litres of lung when the score is calibrated, though cubes hold more."""
FALSE_PER_SCAN = 0.5
"""False positives that the default threshold allows, in five litres of the cubes' lung and in a nodule-free lung. A
whole scan has more: cubes show little of the hila and the great vessels."""
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
MASSES = 20
"""Nodules enlarged to masses of 20 to 65 mm and inserted into each nodule-free lung: cubes cannot hold any."""


@dataclass(frozen=True, eq=False)
class SearchedLungs:
    """Nodule-free lungs, and masses inserted into them, as the detector's networks see them.

    Attributes:
        patients: of each lung.
        litres: that were searched in each.
        lungs: candidates of each.
        masses: candidates around each mass.
        mass_lps: (masses, 3) its centre.
        mass_mm: (masses) its diameter.
    """

    patients: tuple[str, ...]
    litres: tuple[float, ...]
    lungs: tuple[Scored, ...]
    masses: tuple[Scored, ...]
    mass_lps: NDArray[np.float64]
    mass_mm: NDArray[np.float64]

    def marks(self, calibration: Sequence[float]) -> LungDetection:
        """The marks by a calibration, see :meth:`Scored.marks`."""
        false = [
            [m for m in lung.marks(calibration) if not Background.is_unannotated(patient, m.centre_lps)]
            for patient, lung in zip(self.patients, self.lungs, strict=True)
        ]
        best = [
            max((m.score for m in mass.marks(calibration) if _within(m, place, size / 2)), default=-np.inf)
            for mass, place, size in zip(self.masses, self.mass_lps, self.mass_mm, strict=True)
        ]
        return LungDetection(self.litres, tuple(map(tuple, false)), np.array(best))


@dataclass(frozen=True, eq=False)
class LungDetection:
    """Marks in nodule-free lungs, and in masses inserted into them.

    Attributes:
        litres: lung that was searched in each.
        false: the marks in each, all of them false.
        mass_score: the best score on each mass; −inf where nothing marks it.
    """

    litres: tuple[float, ...]
    false: tuple[tuple[Candidate, ...], ...]
    mass_score: NDArray[np.float64]

    @property
    def false_score(self) -> list[NDArray[np.float64]]:
        """Scores of the marks in each lung."""
        return [np.array([m.score for m in marks], dtype=np.float64) for marks in self.false]


def search_lungs(
    regions: Sequence[TrainingRegion], stacks: Stacks, detector: Callable[[str], Search], masses: int = MASSES
) -> SearchedLungs:
    """Search the nodule-free lungs.

    Args:
        regions: these.
        stacks: nodules to enlarge; of three readers or more, and of the lungs' own folds.
        detector: patient → networks that were not trained on the patient.
        masses: to insert into each.
    """
    litres, lungs, inserted, places, sizes = [], [], [], [], []
    for region in regions:
        search, volume = detector(region.patient), region.volume
        mask = segment_lungs(volume)
        litres.append(np.count_nonzero(mask.labels) * volume.geometry.voxel_mm3 / 1e6)
        lungs.append(search(volume, search_region(mask, margin_mm=0.0)))
        for piece, centre, size in _with_masses(region, stacks, masses):
            inserted.append(search(piece, np.ones(piece.geometry.shape, dtype=bool)))
            places.append(piece.geometry.to_lps(centre))
            sizes.append(size)
    patients = tuple(r.patient for r in regions)
    return SearchedLungs(patients, tuple(litres), tuple(lungs), tuple(inserted), np.array(places), np.array(sizes))


def _within(mark: Candidate, place: ArrayLike, radius_mm: float) -> bool:
    return bool(np.linalg.norm(np.subtract(mark.centre_lps, place)) <= radius_mm)


def _with_masses(
    region: TrainingRegion, stacks: Stacks, masses: int
) -> Iterator[tuple[Volume, NDArray[np.float64], float]]:
    """Pieces of a lung with a mass inserted, see :func:`set_into`."""
    fold = fold_of(region.patient)
    rng = np.random.default_rng(fold)
    usable = stacks.nodules[is_left_out([stacks.patients[n] for n in stacks.nodules], fold)]
    large = [int(n) for n in usable if stacks.readers(n) >= 3 and stacks.diameter_mm(n) > 9]
    for nodule in rng.choice(large, masses):
        grow = rng.uniform(20, 65) / stacks.diameter_mm(nodule)
        yield set_into(region, stacks, int(nodule), grow, rng)


# ---------------------------------------------------------------- the card


def calibration(cubes: CubeDetection, lungs: LungDetection) -> list[float]:
    """Constant, slope of the logit and slope of the logarithm of the diameter, with which the score is the chance that
    a mark is a nodule, where nodules are as frequent as in LUNA16.

    Args:
        cubes, lungs: by the calibration :data:`UNCALIBRATED`.
    """
    from sklearn.linear_model import LogisticRegression

    marks, is_nodule, weight = _weighted(cubes, lungs)
    logit = special.logit(np.clip([m.score for m in marks], 1e-12, 1 - 1e-12))
    known = np.stack([logit, np.log([m.diameter_mm for m in marks])], 1)
    model = LogisticRegression(C=1e6).fit(known, is_nodule, sample_weight=weight)
    return [round(float(v), 4) for v in (*model.intercept_, *model.coef_[0])]


def _weighted(
    cubes: CubeDetection, lungs: LungDetection
) -> tuple[list[Candidate], NDArray[np.bool_], NDArray[np.float64]]:
    """All marks (N), whether each is a nodule, and a weight with which nodules are as frequent as in LUNA16."""
    hits = [mark for mark in cubes.hits if mark is not None]
    false = [*cubes.false, *(mark for marks in lungs.false for mark in marks)]
    each = NODULES_A_SCAN * (cubes.litres.sum() + sum(lungs.litres)) / LITRES / len(cubes.hits)
    weight = np.concatenate([np.full(len(hits), each), np.ones(len(false))])
    return hits + false, np.arange(len(weight)) < len(hits), weight


def settings(cubes: CubeDetection, lungs: LungDetection) -> dict[str, Any]:
    """Settings for the scoring network's card: the threshold, and the sensitivity by size there.

    Args:
        cubes, lungs: by the calibration on the card.
    """
    in_lungs = np.sort(np.concatenate(lungs.false_score))[::-1]
    allowed = int(FALSE_PER_SCAN * len(lungs.litres))
    highest = max(cubes.threshold_at(FALSE_PER_SCAN), *in_lungs[allowed : allowed + 1], 0.0)  # of those not allowed
    threshold = round((np.floor(highest * 1000) + 1) / 1000, 3)
    found, size = cubes.froc.nodule_score >= threshold, cubes.froc.nodule_mm
    bands = [(low, high, (size >= low) & (size < high)) for low, high in pairwise(SIZE_EDGES_MM)]
    return {
        "threshold": threshold,
        "sensitivity_by_size": [[low, high, int(found[own].sum()), int(own.sum())] for low, high, own in bands],
    }


def figures(cubes: Cubes, found: CubeDetection, lungs: LungDetection, threshold: float) -> dict[str, Any]:
    """Figures for the card.

    Args:
        found, lungs: by the calibration on the card.
        threshold: on the card.
    """
    groups = {"all": np.ones(len(found.cubes), dtype=bool)} | strata(cubes, found.cubes, found.froc.nodule_mm)
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
            "sensitivity": round(float((found.froc.nodule_score >= threshold).mean()), 4),
            "false_positives_in_five_litres": round(
                float((found.froc.false_score >= threshold).sum() * LITRES / found.litres.sum()), 3
            ),
            "false_positives_in_nodule_free_lungs": [int((f >= threshold).sum()) for f in lungs.false_score],
            "masses_found": [int((lungs.mass_score >= threshold).sum()), len(lungs.mass_score)],
        },
        "reliability": _reliability(found, lungs),
        "stands_on": f"{found.froc.nodules} nodules in cubes with {found.litres.sum():.0f} litres of lung, "
        f"{len(lungs.litres)} nodule-free lungs with {sum(lungs.litres):.0f} litres, and masses set into these, five "
        "folds by patient",
    }


def _reliability(found: CubeDetection, lungs: LungDetection) -> list[list[float]]:
    """By quarter of the score: its bounds, and the share of marks that are nodules, where these are as frequent as in
    LUNA16. There are too few false positives for finer steps."""
    marks, is_nodule, weight = _weighted(found, lungs)
    score = [mark.score for mark in marks]
    every, hits = (np.histogram(score, QUARTERS, weights=w)[0] for w in (weight, weight * is_nodule))
    share = hits / np.maximum(every, 1e-9)
    return [[low, high, round(float(s), 3)] for (low, high), s in zip(pairwise(QUARTERS), share, strict=True)]


def strata(cubes: Cubes, numbers: NDArray[np.int_], size: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    """Groups of nodules: name → which of them (N,).

    Args:
        numbers: (N,) of the cubes.
        size: (N,) diameter in mm.
    """
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
