"""Candidates and their scores: which blobs are proposed, which pass the screen, and how there is one mark a finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import made_models
import made_reports
import real_scans
import small_scans
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Candidate
from nodulens.core.volume import Volume
from nodulens.runtime.engine import Model
from nodulens.stages.candidates import LARGEST_MM, propose
from nodulens.stages.detect import LIKELY, PART, Scored, detect, distinct, logits, passing
from nodulens.stages.lungs import search_region, segment_lungs
from nodulens.stages.views import ball_view, screen_view

SETTINGS = {"least": -1.0, "most": 300, "calibration": [-1.0, 2.0, 0.0]}


def model(answer: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Model:
    """A network of one logit, made of numpy."""
    return made_models.model(lambda batch: (answer(batch)[:, None].astype(np.float32),), SETTINGS)


def ball_in_lung(
    diameter_mm: float, spacing: tuple[float, float, float], hu: float = 30.0, side_mm: float = 70.0
) -> Volume:
    """A ball in lung with 30 HU of noise, its middle at LPS (0.4, −0.3, 0.2)."""
    n = [round(side_mm / s) for s in spacing]
    origin = tuple(-(k - 1) / 2 * s for k, s in zip(n[::-1], spacing[::-1], strict=True))
    geometry = Geometry.axial((n[0], n[1], n[2]), spacing, (origin[0], origin[1], origin[2]))
    index = np.stack(np.meshgrid(*(np.arange(k) for k in n), indexing="ij"), -1)
    distance = np.linalg.norm(geometry.to_lps(index) - (0.4, -0.3, 0.2), axis=-1)
    share = np.clip((diameter_mm / 2 - distance) / max(spacing) + 0.5, 0, 1)
    values = -850 + share * (hu + 850) + np.random.default_rng(0).normal(0, 30, distance.shape)
    return Volume(values.astype(np.float32), geometry)


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (2.5, 0.7, 0.7), (5.0, 0.9, 0.9)])
@pytest.mark.parametrize("diameter", [5.0, 9.0, 16.0, 30.0, 40.0])
def test_a_ball_of_any_size_is_proposed(diameter: float, spacing: tuple[float, float, float]) -> None:
    volume = ball_in_lung(diameter, spacing)
    found = propose(volume, np.ones(volume.geometry.shape, dtype=bool))
    best = found[0]
    assert np.linalg.norm(np.subtract(best.centre_lps, (0.4, -0.3, 0.2))) < max(1.0, diameter / 6, spacing[0] / 2)
    assert 0.55 < best.diameter_mm / diameter < 2.2
    assert all(np.isnan(c.score) for c in found)


@pytest.mark.parametrize("diameter", [55.0, 75.0])
def test_a_mass_is_one_candidate_of_its_size(diameter: float) -> None:
    """Beside those at its edges, which are there without it too."""
    volume = ball_in_lung(diameter, (2.5, 1.0, 1.0), side_mm=160.0)
    found = propose(volume, np.ones(volume.geometry.shape, dtype=bool))
    (mass,) = [c for c in found if c.diameter_mm > LARGEST_MM]
    assert np.linalg.norm(np.subtract(mass.centre_lps, (0.4, -0.3, 0.2))) < diameter / 5
    assert 0.7 < mass.diameter_mm / diameter < 1.4


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    ct = small_scans.noisy()
    region = search_region(segment_lungs(ct))
    whole = propose(ct, region)
    monkeypatch.setattr("nodulens.stages.candidates.SLAB", 5)
    slabs = propose(ct, region)
    assert len(slabs) == len(whole) > 20
    for a, b in zip(slabs, whole, strict=True):
        assert a == b


def test_a_faint_ground_glass_ball_is_proposed() -> None:
    volume = ball_in_lung(12.0, (1.25, 0.7, 0.7), hu=-600.0)
    found = propose(volume, np.ones(volume.geometry.shape, dtype=bool))
    assert min(float(np.linalg.norm(np.subtract(c.centre_lps, (0.4, -0.3, 0.2)))) for c in found) < 2


def test_marks_lie_in_the_region_and_nowhere_else() -> None:
    volume = ball_in_lung(9.0, (2.5, 0.7, 0.7))
    region = np.zeros(volume.geometry.shape, dtype=bool)
    assert propose(volume, region) == []
    region[:10] = True
    for c in propose(volume, region):
        assert region[tuple(np.round(volume.geometry.to_index(c.centre_lps)).astype(int))]


def test_a_wall_is_no_blob() -> None:
    """What lies outside the region is lung to the stage, so that the chest wall beside it does not answer."""
    volume = ball_in_lung(6.0, (2.5, 0.7, 0.7))
    hu = np.array(volume.hu)
    hu[:, :, 60:] = 100.0
    region = np.ones(hu.shape, dtype=bool)
    region[:, :, 60:] = False
    found = propose(replace(volume, hu=hu), region)
    x = [float(volume.geometry.to_index(c.centre_lps)[2]) for c in found[:3]]
    assert np.linalg.norm(np.subtract(found[0].centre_lps, (0.4, -0.3, 0.2))) < 1.5
    assert max(x) < 57


def test_the_small_scan_is_proposed_whole() -> None:
    ct = small_scans.noisy()
    found = propose(ct, search_region(segment_lungs(ct), margin_mm=0.0))
    for centre, diameter in made_reports.NODULES:
        apart = [float(np.linalg.norm(np.subtract(c.centre_lps, centre))) for c in found]
        assert min(apart) < diameter / 3


def test_every_nodule_of_the_scans_is_proposed(shared: Path) -> None:
    """The four nodules of LUNA16 in LIDC-IDRI-0001 and -0003: what is not proposed can never be found."""
    for name, known in (("LIDC-IDRI-0001", 1), ("LIDC-IDRI-0003", 3)):
        ct, report = real_scans.analysed(shared, name)
        assert report.lung_mask is not None  # an axial scan is read in the orientation that stages work in
        found = propose(ct, search_region(report.lung_mask, margin_mm=0.0))
        nodules = real_scans.findings(shared, "annotations", ct.source.series_uid or "")
        assert len(nodules) == known
        for centre, radius in nodules:
            apart = min(float(np.linalg.norm(np.subtract(c.centre_lps, centre))) for c in found)
            assert apart < max(radius / 2, 3.0)
        assert len(found) < 5000


# ---- Scores


def at(x: float, diameter: float = 6.0, score: float = float("nan")) -> Candidate:
    return Candidate((x, 0.0, 0.0), diameter, score)


def test_the_screen_passes_the_highest_of_those_that_are_high_enough() -> None:
    rough = np.array([0.1, -9, 0.5, 0.3, -5, -1], np.float32)
    assert passing(rough, -1.0, 99).tolist() == [2, 3, 0, 5]
    assert passing(rough, -1.0, 2).tolist() == [2, 3]
    assert passing(rough, 1.0, 99).size == 0 and passing(rough[:0], -1.0, 99).size == 0


def test_one_mark_a_finding() -> None:
    marks = [at(0, 6, 0.5), at(4.9, 6, 0.9), at(11.0, 6, 0.3), at(40, 30, 0.8), at(54, 6, 0.7), at(60, 6, 0.1)]
    found = distinct(marks)
    assert [c.score for c in found] == [0.9, 0.8, 0.3, 0.1]
    assert [c.diameter_mm for c in found] == [6, 30, 6, 6]
    assert found[0].centre_lps[0] == pytest.approx((4.9 * 9 + 0 * 1) / 10), "where both lie, by their odds of 9 and 1"
    assert found[1].centre_lps[0] == pytest.approx((40 * 4 + 54 * 7 / 3) / (4 + 7 / 3))
    assert [c.centre_lps[0] for c in found[2:]] == pytest.approx([11, 60])
    assert distinct([]) == []


def test_the_score_is_by_the_calibration_and_knows_the_size() -> None:
    found = Scored([Candidate((0.0, 0.0, 0.0), 5.0), Candidate((50.0, 0.0, 0.0), 20.0)], np.float32([1.5, 1.5]))
    assert [m.score for m in found.marks((-2.0, 3.0, 0.0))] == pytest.approx([1 / (1 + np.exp(-2.5))] * 2)
    large, small = found.marks((-5.0, 3.0, 1.0))
    assert (large.diameter_mm, small.diameter_mm) == (20, 5)
    assert large.score == pytest.approx(1 / (1 + np.exp(5 - 4.5 - np.log(20))))
    assert Scored([], np.empty(0, np.float32)).marks((-5.0, 3.0, 1.0)) == []


def test_candidates_beside_a_nodule_agree_on_its_place() -> None:
    """The highest score may be of a candidate on one side; those round it lie about the middle."""
    ring = [Candidate((3.0 * np.cos(t), 3.0 * np.sin(t), 0.0), 4.8, 0.9) for t in np.linspace(0, 2 * np.pi, 8)[:-1]]
    (one,) = distinct([*ring, Candidate((2.0, 0.0, 0.0), 4.8, 0.92)])
    assert one.score == 0.92 and np.linalg.norm(one.centre_lps) < 0.5


def test_logits_come_from_the_views_they_say() -> None:
    ct = small_scans.noisy()
    (a, size), (b, _), _ = made_reports.NODULES
    candidates = [Candidate(a, size), Candidate(b, 9.0)]
    middle = logits(ct, candidates, model(lambda v: v[:, 0, 8, 8, 8]), screen_view)
    assert middle.shape == (2,) and np.all(middle > 0.6), "soft tissue in the middle of both"
    one_side = model(lambda v: v[:, 0, :, :, :8].mean(axis=(1, 2, 3)))
    other_side = model(lambda v: v[:, 0, :, :, -8:].mean(axis=(1, 2, 3)))
    assert not np.allclose(logits(ct, candidates, one_side, ball_view), logits(ct, candidates, other_side, ball_view))


def test_likely_candidates_are_also_seen_mirrored() -> None:
    ct = small_scans.noisy()
    lungs, passed = segment_lungs(ct), model(lambda v: np.ones(len(v)))
    one, other = (model(lambda v, s=s: v[:, 0, :, :, s].mean(axis=(1, 2, 3))) for s in (slice(16), slice(16, None)))  # type: ignore[misc]
    marks = [detect(ct, lungs, passed, side) for side in (one, other)]
    assert len(marks[0]) == len(marks[1]) > 9
    for a, b in zip(*marks, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-4)
        assert a.centre_lps == pytest.approx(b.centre_lps, abs=1e-2)
    views: list[int] = []
    unlikely = model(lambda v: views.append(len(v)) or np.full(len(v), LIKELY - 0.1))  # type: ignore[func-returns-value]
    detect(ct, lungs, passed, unlikely)
    detect(ct, lungs, passed, model(lambda v: views.append(len(v)) or np.full(len(v), LIKELY)))  # type: ignore[func-returns-value]
    assert views[0] > 0 and views[1:] == 2 * views[:1]


def test_logits_of_many_candidates_are_those_of_each() -> None:
    ct = small_scans.noisy()
    candidates = [Candidate((float(x), float(x % 7), -float(x % 5)), 6.0) for x in range(PART + 3)]
    middle = model(lambda v: v[:, 0, 8, 8, 8])
    together = logits(ct, candidates, middle, screen_view)
    assert together.shape == (PART + 3,) and len(set(together.tolist())) > 9
    assert np.array_equal(together[-2:], logits(ct, candidates[-2:], middle, screen_view))
    assert logits(ct, [], middle, screen_view).shape == (0,)


def test_detection_marks_the_balls_and_nothing_else() -> None:
    """With networks that look at the brightness in the middle. A large ball may keep several small marks in it: they
    are one finding once they are outlined."""
    ct = small_scans.noisy()
    screen = model(lambda v: 20 * (v[:, 0, 6:10, 6:10, 6:10].mean((1, 2, 3)) - 0.4))
    ball = model(lambda v: 20 * (v[:, 0, 14:18, 14:18, 14:18].mean((1, 2, 3)) - 0.45))
    marks = detect(ct, segment_lungs(ct), screen, ball)
    scores = [c.score for c in marks]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= min(scores) <= max(scores) <= 1
    sure = [c for c in marks if c.score > 0.5]
    for centre, diameter in made_reports.NODULES:
        assert min(np.linalg.norm(np.subtract(c.centre_lps, centre)) for c in sure) < diameter / 3
    for c in sure:
        assert any(np.linalg.norm(np.subtract(c.centre_lps, m)) < d / 2 for m, d in made_reports.NODULES)
