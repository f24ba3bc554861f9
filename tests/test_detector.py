"""The detector's training set, and what its scores mean: sampling, calibration, the default threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Volume
from nodulens.data.folds import fold_of
from nodulens.data.material import Background, Cubes, Stacks
from nodulens.metrics.detection import Froc, Tally
from nodulens.stages.detect import Scored
from nodulens.stages.views import ball_view, screen_view
from nodulens.train.default import detector
from nodulens.train.default.cube_detection import LITRES, CubeDetection
from nodulens.train.default.detector_figures import (
    FALSE_PER_SCAN,
    NODULES_A_SCAN,
    UNCALIBRATED,
    LungDetection,
    SearchedLungs,
    calibration,
    figures,
    least_logit,
    settings,
    strata,
)
from nodulens.train.default.regions import TrainingRegion, backgrounds, cube_regions

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def regions(data: Path) -> list[TrainingRegion]:
    return [*cube_regions(Cubes(data)), *backgrounds(data)]


@pytest.fixture(scope="module")
def examples(data: Path, regions: list[TrainingRegion]) -> detector._Examples:
    return detector._Examples.of(regions, Stacks(data), None)


# ---- The training set


def test_examples_come_from_the_kinds_and_rows_they_say(examples: detector._Examples) -> None:
    total = len(examples.non_nodules)
    assert total == len(examples.kind) and examples.nodules and len(examples.inserted)
    drawn = examples.draw(4000, np.ones(total, np.float32), np.random.default_rng(0))
    share = np.bincount(drawn[:, 0], minlength=len(detector.SHARES)) / len(drawn)
    np.testing.assert_allclose(share, detector.SHARES, atol=0.04)
    for kind in range(len(detector.SHARES)):
        rows = drawn[drawn[:, 0] == kind, 1]
        wanted = {kind} if kind <= detector.IN_BACKGROUND else set()
        assert {int(k) for k in examples.kind[rows[rows >= 0]]} == wanted


def test_what_is_hard_is_drawn_more_often(examples: detector._Examples) -> None:
    hardness = np.full(len(examples.non_nodules), 0.15, np.float32)
    outer = np.flatnonzero(examples.kind == detector.OUTER)
    hardness[outer[0]] = 3.0
    drawn = examples.draw(4000, hardness, np.random.default_rng(1))
    rows = drawn[drawn[:, 0] == detector.OUTER, 1]
    expected = 3.0 / (3.0 + 0.15 * (len(outer) - 1))
    assert np.mean(rows == outer[0]) == pytest.approx(expected, abs=0.05)


def test_what_may_be_an_unannotated_nodule_is_not_drawn_most() -> None:
    scores = torch.tensor([0.0, 0.1, detector.HARD, 0.5, detector.DOUBTFUL, 0.9, 1.0])
    often = detector._how_often(scores).tolist()
    assert often == pytest.approx([1, 2.5, 4, 4, 4, 2.5, 1])


def test_thick_and_zoomed_views_are_made_alike_of_both_classes(
    examples: detector._Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of thick slices a view changes little from slice to slice, whatever it shows; zoomed it is another one."""
    row = int(np.flatnonzero(examples.kind == detector.OUTER)[0])
    drawn = np.array([(detector.OUTER, row, -1), (detector.REAL, -1, -1)])

    def balls(thick: float, zoomed: float) -> NDArray[np.float32]:
        monkeypatch.setattr(detector, "THICK", thick)
        monkeypatch.setattr(detector, "ZOOMED", zoomed)
        monkeypatch.setattr(detector, "_turned", lambda view, rng: view)
        monkeypatch.setattr(detector, "shake_values", lambda views, rng: views)
        return np.stack([examples.batch(drawn, np.random.default_rng(n))[1].numpy()[:, 0] for n in range(8)], 1)

    plain, thick, zoomed = balls(0, 0), balls(1, 0), balls(0, 1)

    def rough(views: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.abs(np.diff(views, 2, axis=2)).mean((1, 2, 3, 4))

    assert (rough(thick) < 0.7 * rough(plain)).all()
    assert (np.abs(zoomed - plain).mean((1, 2, 3, 4)) > 0.005).all()


def test_a_batch_has_both_views_the_label_and_the_row(examples: detector._Examples) -> None:
    rng = np.random.default_rng(2)
    row = [int(np.flatnonzero(examples.kind == kind)[0]) for kind in range(3)]
    others = [(kind, row[kind], -1) for kind in range(3)] + [(detector.ELSEWHERE, -1, -1)]
    drawn = np.array([*others, (detector.REAL, -1, -1), (detector.SET_IN, -1, row[detector.OUTER])])
    screens, balls, label, rows = examples.batch(drawn, rng)
    assert screens.shape == (6, 1, 16, 16, 16) and balls.shape == (6, 1, 32, 32, 32)
    assert label.tolist() == [0, 0, 0, 0, 1, 1] and rows.tolist() == drawn[:, 1].tolist()
    assert float(balls.min()) >= 0 and float(balls.max()) <= 1
    assert float(balls[4, 0, 12:20, 12:20, 12:20].mean()) > float(balls[4].mean()), "a nodule is denser than the lung"


def test_where_a_cube_ends_does_not_tell_a_nodule(examples: detector._Examples) -> None:
    """Views of nodules end at faces as often as those of non-nodules, and as near: the place in a cube is no clue."""
    hardness = np.random.default_rng(3).random(len(examples.non_nodules)).astype(np.float32) + 0.1
    drawn = examples.draw(20_000, hardness, np.random.default_rng(4))
    nodule = drawn[:, 0] >= detector.REAL
    ends = np.where(nodule, drawn[:, 2] >= 0, drawn[:, 0] == detector.OUTER)
    assert np.mean(ends[nodule]) == pytest.approx(np.mean(ends[~nodule]), abs=0.02)
    assert 0.3 < np.mean(ends) < 0.7, "and both kinds are seen whole, as in a scan"
    near = np.array([detector._to_faces(place).min() for place in examples.non_nodules])
    seen, own = near[drawn[nodule & ends, 2]], near[drawn[~nodule & ends, 1]]
    np.testing.assert_allclose(np.quantile(seen, [0.1, 0.5, 0.9]), np.quantile(own, [0.1, 0.5, 0.9]), atol=1.0)
    inner = near[examples.kind == detector.INNER]
    assert len(inner) and inner.min() >= detector.INNER_MM


def test_a_view_ends_where_its_volume_would() -> None:
    """As a view of the cropped volume does, which repeats its last voxels."""
    rng = np.random.default_rng(5)
    volume = Volume(rng.normal(-700, 200, (60, 60, 60)).astype(np.float32), Geometry.axial((60, 60, 60)))
    centre = np.array([30.5, 30.5, 30.5])
    piece = volume.crop(Box((23, 12, 18), (60, 37, 43)))
    inside = centre - (23, 12, 18)
    faces = np.stack([inside, np.asarray(piece.geometry.shape) - 1 - inside])
    for view in (screen_view, ball_view):
        whole = view(volume, centre, 5.0)
        assert np.array_equal(detector._ended(whole, 1.0, faces), view(piece, inside, 5.0))
        assert not np.array_equal(whole, view(piece, inside, 5.0)) and detector._ended(whole, 1.0, None) is whole


def test_a_turned_view_has_the_same_voxels(examples: detector._Examples) -> None:
    rng = np.random.default_rng(4)
    view = rng.random((16, 16, 16), dtype=np.float32)
    turned = [detector._turned(view, rng) for _ in range(20)]
    assert all(np.array_equal(np.sort(t, axis=None), np.sort(view, axis=None)) for t in turned)
    assert len({t.tobytes() for t in turned}) > 10


# ---- What a score means


def marked(logit: float, diameter_mm: float) -> Candidate:
    return Candidate((0.0, 0.0, 0.0), diameter_mm, float(special.expit(logit)))


def searched(cubes: int = 400, seed: int = 5) -> tuple[CubeDetection, LungDetection]:
    """Cubes with a tenth of a litre each, and one lung: nodules' logits about 3 and diameters about 9 mm, those of
    false marks about −3 and 5 mm."""
    rng = np.random.default_rng(seed)
    size = np.clip(np.exp(rng.normal(2.2, 0.4, cubes)), 3, 39)
    hits = tuple(None if n < 8 else marked(rng.normal(3, 2), size[n]) for n in range(cubes))
    false = tuple(marked(logit, float(np.exp(rng.normal(1.6, 0.4)))) for logit in rng.normal(-3, 2, 6 * cubes))
    scan = rng.integers(cubes, size=len(false))
    hit_score, false_score = (np.array([-np.inf if m is None else m.score for m in marks]) for marks in (hits, false))
    froc = Froc(cubes, np.arange(cubes), size, hit_score, scan, false_score, Tally(0, 0, 0, 0, 0))
    patients = tuple(f"p{n // 2}" for n in range(cubes))
    found = CubeDetection(np.arange(cubes), patients, np.full(cubes, 0.1), froc, hits, false)
    lung = tuple(marked(logit, float(np.exp(rng.normal(1.6, 0.4)))) for logit in rng.normal(-3, 2, 300))
    return found, LungDetection((5.0,), (lung,), np.array([0.99, 0.5, -np.inf]))


def test_of_marks_with_a_score_of_a_half_half_are_nodules() -> None:
    found, lungs = searched(20_000)
    constant, slope, size = calibration(found, lungs)
    assert slope > 0 and size > 0, "the larger, the likelier"
    each = NODULES_A_SCAN * (found.litres.sum() + 5) / LITRES / len(found.cubes)

    def near_half(marks: Sequence[Candidate | None], low: float, high: float) -> float:
        own = [m for m in marks if m is not None and low <= m.diameter_mm < high]
        p = [special.expit(constant + slope * special.logit(m.score) + size * np.log(m.diameter_mm)) for m in own]
        return float(np.sum((np.array(p) > 0.4) & (np.array(p) < 0.6)))

    for band in ((2.0, 6.5), (6.5, 30.0)):
        hits, false = each * near_half(found.hits, *band), near_half([*found.false, *lungs.false[0]], *band)
        assert hits / (hits + false) == pytest.approx(0.5, abs=0.15)


def test_the_threshold_allows_what_it_says() -> None:
    found, lungs = searched()
    made, tight = settings(found, lungs), False
    for false, scans in ((found.froc.false_score, found.litres.sum() / LITRES), (lungs.false_score[0], 1)):
        assert np.sum(false >= made["threshold"]) <= FALSE_PER_SCAN * scans
        tight = tight or np.sum(false >= made["threshold"] - 1e-3) > int(FALSE_PER_SCAN * scans)
    assert tight, "no higher than either asks for"
    rows = made["sensitivity_by_size"]
    assert sum(row[3] for row in rows) == len(found.cubes) and all(0 < row[2] <= row[3] for row in rows)


def test_figures_are_of_the_same_marks(data: Path) -> None:
    cubes = Cubes(data)
    found, lungs = searched(len(cubes), seed=6)
    made = settings(found, lungs)
    card = figures(cubes, found, lungs, made["threshold"])
    assert card["proposed"] == pytest.approx(np.isfinite(found.froc.nodule_score).mean(), abs=1e-4)
    everything, at = card["sensitivity"]["all"], card["at_threshold"]
    assert everything[0] == len(cubes) and everything[1:] == sorted(everything[1:])
    assert np.mean(everything[1:]) == pytest.approx(card["cpm"], abs=1e-3)
    assert at["sensitivity"] == pytest.approx(sum(row[2] for row in made["sensitivity_by_size"]) / len(cubes), abs=1e-4)
    assert at["masses_found"][1] == 3 and len(at["false_positives_in_nodule_free_lungs"]) == 1
    assert [low for low, _, _ in card["reliability"]] == [0, 0.25, 0.5, 0.75]
    groups = strata(cubes, found.cubes, found.froc.nodule_mm)
    for several in (("at the wall", "within the lung"), ("slices up to 1.25 mm", "thicker slices")):
        assert np.sum([groups[name] for name in several], axis=0).tolist() == [1] * len(cubes)


def test_marks_in_lungs_and_on_masses_follow_the_calibration() -> None:
    """A mass counts as found where a mark lies in it; the unannotated mass of a nodule-free lung is no false mark."""
    (patient, (place, radius)), *_ = Background.PLEURAL_MASS.items()
    on_it, beside = place, tuple(np.add(place, (radius + 9, 0, 0)))
    lung = Scored([Candidate(on_it, 20.0), Candidate(beside, 5.0)], np.float32([4, 1]))
    mass = Scored([Candidate((0.0, 0.0, 9.0), 30.0), Candidate((0.0, 0.0, 40.0), 9.0)], np.float32([0, 5]))
    search = SearchedLungs((patient,), (5.0,), (lung,), (mass,), np.zeros((1, 3)), np.array([40.0]))
    plain = search.marks(UNCALIBRATED)
    assert [m.score for m in plain.false[0]] == pytest.approx([special.expit(1)])
    assert plain.mass_score == pytest.approx([0.5])
    larger = search.marks((-1.0, 2.0, 0.5))
    assert larger.mass_score == pytest.approx([special.expit(-1 + 0.5 * np.log(30))])
    assert larger.false_score[0] == pytest.approx([special.expit(-1 + 2 + 0.5 * np.log(5))])


def test_the_screen_passes_the_share_it_is_told() -> None:
    logits = np.random.default_rng(7).normal(size=1000)
    least = least_logit(logits, 0.997)
    assert np.mean(logits >= least) >= 0.997 and np.mean(logits > least) < 0.9975


def test_networks_of_a_fold_see_none_of_its_patients(data: Path, regions: list[TrainingRegion]) -> None:
    for fold in (0, 3):
        inside = detector._Examples.of(regions, Stacks(data), fold)
        held = [r.volume for r in regions if fold_of(r.patient) == fold]
        used = [place[0] for places in inside.nodules for place in places] + [p[0] for p in inside.non_nodules]
        assert held and used and not any(volume is own for own in held for volume in used)
        assert all(fold_of(Stacks(data).patients[n]) != fold for n in inside.inserted)
