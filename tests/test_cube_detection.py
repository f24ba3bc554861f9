"""Detection in cubes: places, what counts, and rates in litres of lung."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.data.material import Cubes
from nodulens.metrics.detection import FP_RATES
from nodulens.train.default.cube_detection import GRID, LITRES, CubeDetection, match, search_cubes, searched


@pytest.fixture(scope="module")
def cubes(data: Path) -> Cubes:
    return Cubes(data)


def mark(zyx: Sequence[float], score: float) -> Candidate:
    x, y, z = GRID.to_lps(np.asarray(zyx, float))
    return Candidate((float(x), float(y), float(z)), 5.0, score)


def found(cubes: Cubes, marks: dict[int, list[Candidate]]) -> CubeDetection:
    """What a detector that gives these marks reaches on all cubes."""
    numbers = iter(range(len(cubes)))

    def detect(volume: Volume, region: NDArray[np.bool_]) -> list[Candidate]:
        n = next(numbers)
        hu = cubes.hu(n)
        assert np.array_equal(volume.hu, hu) and np.array_equal(region, searched(cubes, n, hu))
        return marks.get(n, [])

    return match(cubes, search_cubes(cubes, range(len(cubes)), lambda patient: detect))


def test_the_place_is_the_middle_of_the_outline_also_of_turned_cubes(cubes: Cubes) -> None:
    for n in cubes.nodules.tolist():
        middle = np.argwhere(cubes.truth(n)).mean(axis=0)
        assert np.linalg.norm(cubes.centre_zyx(n) - middle) < 0.6, n


def test_a_mark_on_every_nodule_is_all_there_is_to_find(cubes: Cubes) -> None:
    made = found(cubes, {n: [mark(cubes.centre_zyx(n), 0.9)] for n in cubes.nodules.tolist()})
    assert made.proposed.all() and made.cpm == 1 and made.froc.false_positives == 0
    assert made.interval(samples=20) == (1, 1)
    assert made.litres.sum() == pytest.approx(sum(searched(cubes, n, cubes.hu(n)).sum() for n in cubes.nodules) / 1e6)


def test_false_positives_count_by_litres_of_lung(cubes: Cubes) -> None:
    """Half of the nodules score above all false positives, one in nearly every cube, and half below."""
    count, half = len(cubes), len(cubes) // 2
    corner = (45, 5, 45)
    marks = {n: [mark(cubes.centre_zyx(n), 0.9 if n < half else 0.1)] for n in range(count)}
    far = [n for n in range(count) if cubes.negative(n)[corner]]
    for k, n in enumerate(far):
        marks[n].append(mark(corner, 0.5 + k / 1000))
    made = found(cubes, marks)
    assert made.froc.false_positives == len(far) > 3
    rate = len(far) * LITRES / made.litres.sum()
    assert made.sensitivity_at([rate * 0.5])[0] == pytest.approx(half / count)
    assert made.sensitivity_at([rate * 1.01])[0] == 1
    assert made.threshold_at(rate * 0.5) == pytest.approx(0.5 + (len(far) - 1 - int(len(far) / 2)) / 1000)
    below = made.among(np.arange(count) >= half)
    assert below.sensitivity_at([rate * 0.5])[0] == 0 and below.cpm <= made.cpm
    low, high = made.interval(samples=200)
    assert low <= made.cpm <= high and made.sensitivity_at(FP_RATES).shape == (7,)


def test_marks_on_other_findings_count_neither_way(cubes: Cubes) -> None:
    """The first cube shows a finding that LUNA16 excludes at (14, 14, 14), the fifth another nodule at (37, 37, 37)."""
    shown = [n for n in cubes.nodules.tolist() if cubes.other(n).any()]
    assert len(shown) == 1
    made = found(cubes, {0: [mark((14, 14, 14), 0.9)], shown[0]: [mark((37, 37, 37), 0.9)]})
    assert made.froc.false_positives == 0 and not made.proposed.any() and made.cpm == 0
