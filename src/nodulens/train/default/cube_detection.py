"""Detection in the cubes around LUNA16's nodules: sensitivity against false positives in five litres of lung.

A detector searches each whole cube, in which a nodule is at the centre, and its marks are counted by LUNA16's rules.
Lungs hold about five litres, so the rate of false positives compares with one a scan. It differs from a whole scan's in
three ways: lung around nodules is not all lung (the hila are rarely in a cube, the pleura often); no quota of
candidates a scan is reached; and lung is found by closing air, as a cube is too small for the lung stage, with every
outlined nodule inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.material import CUBE_MM, Cubes
from nodulens.metrics.detection import FP_RATES, Findings, Froc, Marks, froc

Float = NDArray[np.float64]
Found = TypeVar("Found", covariant=True)
Other = TypeVar("Other")
GRID = Geometry.axial((CUBE_MM,) * 3)

LITRES = 5.0
"""Of lung, to which false positives refer: about those of a scan."""
SIZE_EDGES_MM = (3.0, 5.0, 8.0, 12.0, 20.0, 40.0)
"""Bands of LUNA16's diameter, whose largest is 33 mm."""
CLOSED_MM = 8.0
"""Radius of the ball that closes the air of a cube to lung."""


@dataclass(frozen=True, eq=False)
class CubeDetection:
    """Marks in cubes, matched to LUNA16's nodules.

    Attributes:
        cubes: numbers (N,) of those that were searched.
        patients: (N,) patient of each.
        litres: (N,) lung that was searched in each.
        froc: each cube is a scan with one nodule, in the order of ``cubes``.
        hits: (N,) the best mark on each nodule; None without one.
        false: all false positives.
    """

    cubes: NDArray[np.int_]
    patients: tuple[str, ...]
    litres: Float
    froc: Froc
    hits: tuple[Candidate | None, ...]
    false: tuple[Candidate, ...]

    @property
    def proposed(self) -> NDArray[np.bool_]:
        """(N,) whether a mark of any score hits the nodule."""
        return np.isfinite(self.froc.nodule_score)

    def sensitivity_at(self, rates: Sequence[float] = FP_RATES) -> Float:
        """Sensitivity at rates of false positives in five litres of lung, interpolated linearly."""
        return self._at(self.froc, np.ones(len(self.cubes)), rates)

    @property
    def cpm(self) -> float:
        """Mean sensitivity at LUNA16's seven rates, in five litres of lung."""
        return float(self.sensitivity_at().mean())

    def threshold_at(self, rate: float) -> float:
        """Score from which on at most ``rate`` marks in five litres are false."""
        allowed = int(rate * self.litres.sum() / LITRES)
        ranked = np.sort(self.froc.false_score)[::-1]
        return float(ranked[allowed]) if allowed < len(ranked) else -np.inf

    def among(self, chosen: NDArray[np.bool_]) -> CubeDetection:
        """The nodules of some cubes (N,), against the false positives of all.

        Raises:
            BadValues: none is chosen.
        """
        return replace(self, froc=self.froc.among(chosen))

    def interval(self, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval of CPM by bootstrap over patients."""
        _, owner = np.unique(self.patients, return_inverse=True)
        number = int(owner.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(samples):
            times = np.bincount(rng.integers(number, size=number), minlength=number)[owner].astype(np.float64)
            if times[self.froc.nodule_scan].any():
                drawn.append(self._at(self.froc, times, FP_RATES).mean())
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)

    def _at(self, curve: Froc, times: Float, rates: Sequence[float]) -> Float:
        # the curve counts by cube that is drawn
        fp_rate, sensitivity = curve.weighted(times)
        litres = float(times @ self.litres)
        return np.asarray(np.interp(np.asarray(rates) * litres / LITRES / times.sum(), fp_rate, sensitivity))


@dataclass(frozen=True, eq=False)
class SearchedCubes(Generic[Found]):
    """What a detector gives for whole cubes.

    Attributes:
        cubes: numbers (N,).
        litres: (N,) lung that was searched in each.
        found: (N,) what it gave.
    """

    cubes: NDArray[np.int_]
    litres: Float
    found: Sequence[Found]

    def each(self, function: Callable[[Found], Other]) -> SearchedCubes[Other]:
        """A function of what it gave for each."""
        return SearchedCubes(self.cubes, self.litres, [function(found) for found in self.found])


def search_cubes(
    cubes: Cubes,
    numbers: Sequence[int],
    detector: Callable[[str], Callable[[Volume, NDArray[np.bool_]], Found]],
    done: Callable[[float], None] = lambda share: None,
) -> SearchedCubes[Found]:
    """Search whole cubes.

    Args:
        cubes: the material.
        numbers: cubes to search.
        detector: patient → a function of a volume and a region of it, which was not trained on the patient.
        done: called with the share that is searched.
    """
    litres, found = [], []
    for place, n in enumerate(numbers):
        hu = cubes.hu(n)
        region = searched(cubes, n, hu)
        litres.append(np.count_nonzero(region) / 1e6)
        found.append(detector(cubes.patients[n])(Volume(hu, GRID), region))
        done((place + 1) / len(numbers))
    return SearchedCubes(np.array(numbers), np.array(litres), found)


def match(cubes: Cubes, search: SearchedCubes[Sequence[Candidate]]) -> CubeDetection:
    """Match the marks in cubes to their nodules.

    Raises:
        BadValues: no cubes.
    """
    numbers = search.cubes.tolist()
    diameter = np.array([cubes.size_mm(n) for n in numbers])
    marks, hits, false = [], [], []
    for n, found, radius in zip(numbers, search.found, diameter / 2, strict=True):
        negative, centre = cubes.negative(n), cubes.centre_zyx(n)
        best = None
        for mark in found:
            index = GRID.to_index(mark.centre_lps)
            z, y, x = np.clip(np.round(index).astype(int), 0, CUBE_MM - 1)
            if np.linalg.norm(index - centre) < radius:
                best = mark if best is None or mark.score > best.score else best
            elif negative[z, y, x]:
                false.append(mark)
            else:  # on another nodule or a finding that LUNA16 excludes
                continue
            marks.append((str(n), mark))
        hits.append(best)
    series = [str(n) for n in numbers]
    nodules = Findings(tuple(series), np.array([GRID.to_lps(cubes.centre_zyx(n)) for n in numbers]), diameter)
    points = np.array([mark.centre_lps for _, mark in marks]).reshape(-1, 3)
    submitted = Marks(tuple(uid for uid, _ in marks), points, np.array([mark.score for _, mark in marks]))
    return CubeDetection(
        cubes=search.cubes,
        patients=tuple(cubes.patients[n] for n in numbers),
        litres=search.litres,
        froc=froc(nodules, None, series, submitted),
        hits=tuple(hits),
        false=tuple(false),
    )


def searched(cubes: Cubes, nodule: int, hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(50, 50, 50): the lung of a cube of these HU, with what readers outlined and 2 mm around it, inside the scan."""
    outlined = cubes.outlined(nodule) | cubes.other(nodule)
    region = cube_lung(hu) | ndimage.binary_dilation(outlined, iterations=2)
    inside = np.zeros_like(region)
    inside[cubes.scanned(nodule).slices] = True
    return np.asarray(region & inside)


def cube_lung(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Lung in a cube too small for the lung stage: air, closed by 8 mm."""
    air = np.pad(ndimage.gaussian_filter(hu, 1) < -500, 9, mode="edge")
    grown = ndimage.distance_transform_edt(~air) <= CLOSED_MM
    return np.asarray((ndimage.distance_transform_edt(grown) > CLOSED_MM)[9:-9, 9:-9, 9:-9])
