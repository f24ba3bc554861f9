"""Whole-slice networks in use: what they see, what comes back, regions in the lungs, and the patches that keep them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

import made_models
from nodulens import pipeline
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, BadValues
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Array, Model
from nodulens.stages.classical import BINS, clahe, classic_steps, otsu
from nodulens.stages.findings import Finding
from nodulens.stages.fp_reduction import keep_scores, kept, sliding_window
from nodulens.stages.slices import Field, Outlined, find_regions, segment_slices
from nodulens.stages.thorax import Body
from nodulens.stages.views import patch_view

SIDES = ("background", "left lung", "right lung", "nodule")
EACH = ("lung", "nodule")
SPACING = (2.0, 0.8, 0.8)
SHAPE = (20, 70, 90)


def ball(shape: tuple[int, int, int], spacing: tuple[float, ...], centre: tuple[float, ...], mm: float) -> NDArray:  # type: ignore[type-arg]
    """The voxels within ``mm`` of a continuous index."""
    index = np.indices(shape).reshape(3, -1).T
    away = np.linalg.norm((index - centre) * np.asarray(spacing), axis=1)
    return (away <= mm).reshape(shape)


def chest(*balls: tuple[tuple[float, ...], float]) -> tuple[Volume, Mask]:
    """Two boxes of lung in tissue, and dense balls (index, radius in mm)."""
    lungs = np.zeros(SHAPE, dtype=np.uint8)
    lungs[2:18, 12:58, 50:80] = 1
    lungs[2:18, 12:58, 10:40] = 2
    hu = np.where(lungs > 0, -850, 40).astype(np.int16)
    for centre, mm in balls:
        hu[ball(SHAPE, SPACING, centre, mm)] = 100
    grid = Geometry.axial(SHAPE, SPACING)
    return Volume(hu, grid), Mask(lungs, grid, {1: "left lung", 2: "right lung"})


def outliner(field: Field) -> Model:
    """Calls what is denser than tissue a nodule and what is dark lung, the left half of the picture being right."""
    middle = field.size // 2

    def run(batch: Array) -> tuple[Array, ...]:
        assert batch.dtype == np.float32
        assert batch.shape[1:] == (1, field.size, field.size)
        image = batch[:, 0]
        dense, dark = 400 * (image - to_unit(np.array([70.0]))[0]), 400 * (0.4 - image)
        half = np.where(np.arange(field.size) >= middle, 0.0, -800.0).astype(np.float32)
        named = {
            "background": np.zeros_like(image),
            "nodule": dense,
            "lung": dark,
            "left lung": dark + half,
            "right lung": dark - 800 - half,
        }
        return (np.stack([named[name] for name in field.classes], axis=1),)

    return made_models.model(run)


# ---- What is seen


def test_a_slice_that_fits_is_neither_mixed_nor_moved() -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 400, (3, 41, 30)).astype(np.int16)
    grid = Geometry.axial((3, 41, 30), (2.5, 0.7, 0.7), (5, -3, 8))
    seen = Field(48, EACH).input(hu, grid)
    assert seen.dtype == np.float32
    assert seen.shape == (3, 48, 48)
    rows, columns = slice(4, 45), slice(9, 39)
    assert np.array_equal(seen[:, rows, columns], to_unit(hu))
    seen[:, rows, columns] = 0
    assert not seen.any()


@pytest.mark.parametrize("shape", [(2, 128, 128), (2, 100, 128), (1, 128, 60), (3, 31, 17)])
@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (3.0, 0.5, 1.0), (2.0, 1.4, 0.8)])
def test_outlines_go_there_and_back(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """And a disc in the patient is a disc on the network's grid, of the area it has."""
    grid = Geometry.axial(shape, spacing, (11, 7, 5))
    sides = np.multiply(shape[1:], spacing[1:])
    radius = 0.32 * sides.min()
    middle = (shape[1] * 0.48, shape[2] * 0.53)
    y, x = np.indices(shape[1:])
    disc = np.hypot((y - middle[0]) * spacing[1], (x - middle[1]) * spacing[2]) <= radius
    masks = np.repeat(disc[None], shape[0], axis=0)
    field = Field(64, EACH)
    seen = field.outlines(masks, grid)
    there = field.grid(grid)
    assert there.spacing_zyx[1] == pytest.approx(there.spacing_zyx[2])
    assert seen[0].sum() * there.spacing_zyx[1] ** 2 == pytest.approx(np.pi * radius**2, rel=0.12)
    rows, columns = (np.ptp(np.flatnonzero(seen[0].any(axis=a))) for a in (1, 0))
    assert abs(int(rows) - int(columns)) <= 2
    back = field.invert(seen.astype(np.float32), grid) >= 0.5
    assert back.shape == shape
    assert 2 * (back & masks).sum() / (back.sum() + masks.sum()) > 0.93
    # what lies in one place lies there after it as well
    y0, x0 = ndimage.center_of_mass(seen[0])
    assert there.to_lps((0, y0, x0)) == pytest.approx(grid.to_lps((0, *middle)), abs=there.spacing_zyx[1] / 2)


def test_a_fixed_pixel_cuts_what_lies_beyond() -> None:
    grid = Geometry.axial((1, 60, 60), (1.0, 1.0, 1.0))
    hu = np.full((1, 60, 60), -1000, dtype=np.int16)
    hu[0, 29:31, 29:31] = 400
    seen = Field(20, EACH, pixel_mm=0.5).input(hu, grid)[0]
    assert seen.sum() == pytest.approx(16, rel=0.01)
    assert ndimage.center_of_mass(seen) == pytest.approx((9.5, 9.5))


def test_probabilities_are_decided_alone_or_against_one_another() -> None:
    logits = np.log(np.array([[[0.4], [0.35], [0.15], [0.1]], [[0.2], [0.3], [0.1], [0.4]]], dtype=np.float32))
    field = Field(8, SIDES)
    assert field.foreground == ("left lung", "right lung", "nodule")
    p = field.probabilities(logits)
    assert p == pytest.approx(np.exp(logits[:, 1:]))
    assert field.decided(p)[..., 0].tolist() == [[False, False, False], [False, False, True]]
    both = Field(8, EACH)
    p = both.probabilities(np.array([[[0.0], [3.0]], [[-0.1], [0.1]]], dtype=np.float32))
    assert p[0, 0, 0] == 0.5
    assert both.decided(p)[..., 0].tolist() == [[True, True], [False, True]]


def test_a_field_is_what_a_card_says_and_holds_nodules() -> None:
    field = Field(320, SIDES, 0.7)
    assert Field.of(field.settings | {"epochs": 3}) == field
    with pytest.raises(BadOption, match="'nodule'"):
        Field(320, ("background", "lung"))


# ---- From slices to findings


@pytest.mark.parametrize("classes", [SIDES, EACH, ("background", "nodule")])
@pytest.mark.parametrize("size", [64, 128])
def test_nodules_and_lungs_are_drawn_on_the_scan(classes: tuple[str, ...], size: int) -> None:
    """More slices than are taken at a time, fewer pixels than the scan has, or more."""
    volume, lungs = chest(((9.0, 30.0, 66.0), 5.0))
    field = Field(size, classes)
    told: list[float] = []
    outlined = segment_slices(volume, outliner(field), field, progress=told.append)
    assert told[0] == 0
    assert told == sorted(told)
    assert len(told) > 1
    assert outlined.labels.geometry == volume.geometry
    truth = ball(SHAPE, SPACING, (9.0, 30.0, 66.0), 5.0)
    found = outlined.labels.of("nodule")
    # where the network's pixels are larger, those of the edge are part lung and not dense enough for it
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > (0.8 if size == 64 else 0.85)
    assert outlined.nodule[truth].mean() > 0.7
    for name in set(classes) & set(lungs.names.values()):
        mine, theirs = outlined.labels.of(name), lungs.of(name) & ~truth
        assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.9
    findings = find_regions(outlined, lungs)
    assert len(findings) == 1
    assert findings[0].box.centre_zyx == pytest.approx((9, 30, 66), abs=1)
    assert findings[0].mask.sum() == found.sum()
    assert 0.5 < findings[0].score <= 1


def test_nothing_is_found_in_air_and_in_healthy_lungs() -> None:
    field = Field(64, SIDES)
    volume, lungs = chest()
    assert find_regions(segment_slices(volume, outliner(field), field), lungs) == []
    air = Volume(np.full((1, 5, 9), -1000, dtype=np.float32), Geometry.axial((1, 5, 9)))
    outlined = segment_slices(air, outliner(field), field)
    nowhere = Mask(np.zeros((1, 5, 9), dtype=np.uint8), air.geometry, lungs.names)
    assert not outlined.nodule.any()
    assert find_regions(outlined, nowhere) == []


def test_networks_of_slices_see_the_body_alone() -> None:
    """A table behind the back, clothes, and the room are air; the body, its lungs and its skin are not changed."""
    shape, spacing = (24, 90, 100), (2.0, 4.0, 4.0)
    grid = Geometry.axial(shape, spacing)
    y, x = np.indices(shape[1:])
    ellipse = ((y - 40) / 28) ** 2 + ((x - 50) / 40) ** 2
    body, lungs = ellipse <= 1, (((y - 40) / 17) ** 2 + ((np.abs(x - 50) - 18) / 13) ** 2) <= 1
    table, shirt = (y >= 74) & (y < 76), (ellipse > 1.3) & (ellipse < 1.35)
    slices = np.where(lungs, -850, np.where(body, 40, np.where(table, 200, np.where(shirt, -300, -990))))
    volume = Volume(np.repeat(slices[None], shape[0], axis=0).astype(np.int16), grid)
    found = Body.of(volume)
    box = Box((5, 0, 0), (9, *shape[1:]))
    alone = found.alone(volume, box)
    assert alone.dtype == np.int16 and alone.shape == box.shape
    assert (alone[:, body] == volume.hu[5:9, body]).all()
    assert (alone[:, table | shirt] == -1000).all() and (alone[:, ellipse > 1.5] == -1000).all()
    assert (volume.hu[:, table] == 200).all()  # the scan itself is as it was
    field = Field(128, ("background", "nodule"))
    with_table, without = (segment_slices(volume, outliner(field), field, part).labels.labels for part in (None, found))
    assert with_table[:, table].mean() > 0.9 and not without.any()
    model = outliner(field)
    model = replace(model, card=replace(model.card, settings=field.settings))
    method: Any = SimpleNamespace(
        models=SimpleNamespace(own={"segmenter": model}),
        recipe=SimpleNamespace(sliding_window=False, filter=None, max_findings=9),
        threshold=0.0,
        outline=lambda lungs: None,
    )
    everywhere = Mask(np.ones(shape, dtype=np.uint8), grid, {1: "left lung"})
    scan: Any = SimpleNamespace(volume=volume, lungs=everywhere)
    assert pipeline._from_slices(scan, method, pipeline.StageTimes(lambda stage, done: None)) == []


@pytest.mark.parametrize("hu", [-850, 40])
def test_where_there_is_no_body_nothing_is_replaced(hu: int) -> None:
    """A part of a lung alone, or of tissue alone."""
    volume = Volume(np.full((6, 20, 30), hu, dtype=np.float32), Geometry.axial((6, 20, 30)))
    whole = Box((0, 0, 0), (6, 20, 30))
    assert (Body.of(volume).alone(volume, whole) == volume.hu).all()


def test_a_lung_that_the_field_of_view_cuts_off_stays() -> None:
    """In a small round field of view lung reaches its edge at one side, with no chest wall there."""
    shape = (40, 120, 120)
    grid = Geometry.axial(shape, (2.0, 2.0, 2.0))
    y, x = np.indices(shape[1:])
    middle = np.hypot(y - 60, x - 60)
    circle, wall = middle < 58, (middle > 48) & ((y > 60) | (x < 85))
    slices = np.where(~circle, -2000, np.where(wall, 40, -850))
    volume = Volume(np.repeat(slices[None], shape[0], axis=0).astype(np.int16), grid)
    alone = Body.of(volume).alone(volume, Box((0, 0, 0), shape))
    before_it = circle & (x > 90) & (y < 60)
    assert (alone[:, circle] == volume.hu[:, circle]).mean() > 0.99
    assert (alone[:, before_it] == -850).mean() > 0.95


def drawn(*masks: tuple[NDArray, float]) -> Outlined:  # type: ignore[type-arg]
    """Masks with a probability each."""
    labels, nodule = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.float16)
    for mask, probability in masks:
        labels[mask], nodule[mask] = 2, probability
    return Outlined(Mask(labels, Geometry.axial(SHAPE, SPACING), {1: "lung", 2: "nodule"}), nodule)


def test_regions_in_and_at_the_lungs_are_findings() -> None:
    _, lungs = chest()
    inside = ball(SHAPE, SPACING, (9, 30, 66), 4.0)
    at_wall = ball(SHAPE, SPACING, (9, 58, 25), 3.0)  # half in the wall, within its reach
    far_out = ball(SHAPE, SPACING, (9, 66, 45), 3.0)
    speck = ball(SHAPE, SPACING, (5, 20, 20), 1.0)
    outlined = drawn((inside, 0.625), (at_wall, 0.75), (far_out, 1.0), (speck, 1.0))
    found = find_regions(outlined, lungs)
    assert [f.score for f in found] == [0.75, 0.625]
    assert [f.box for f in found] == [Box.of_mask(at_wall), Box.of_mask(inside)]
    assert np.array_equal(found[1].mask, inside[found[1].box.slices])
    assert len(find_regions(outlined, lungs, least_mm=0.5)) == 3


def test_parts_that_touch_by_a_corner_are_one() -> None:
    _, lungs = chest()
    mask = np.zeros(SHAPE, dtype=bool)
    mask[8:10, 20:24, 60:64] = mask[10:12, 24:28, 64:68] = True
    assert len(find_regions(drawn((mask, 0.5)), lungs)) == 1
    mask[10:12, 24, :] = mask[10:12, :, 64] = False
    assert len(find_regions(drawn((mask, 0.5)), lungs)) == 2


# ---- Patches


def patcher() -> Model:
    """Logit by the darkest of the four pixels in the middle: a dense one is a nodule."""

    def run(batch: Array) -> tuple[Array, ...]:
        assert batch.shape[1:] == (1, 64, 64)
        return ((batch[:, :, 31:33, 31:33].min(axis=(2, 3)) - 0.5) * 20,)

    return made_models.model(run)


def test_regions_are_kept_by_the_patch_round_them() -> None:
    volume, _ = chest(((9, 30, 66), 5.0), ((6, 40, 20), 4.0))
    dense, other, nothing = (ball(SHAPE, SPACING, c, 3.0) for c in ((9, 30, 66), (6, 40, 20), (12, 20, 30)))
    findings = [Finding(0.9, Box.of_mask(m), m[Box.of_mask(m).slices]) for m in (nothing, dense, other)]
    scores = keep_scores(volume, findings, patcher())
    view = patch_view(volume, np.array([6.0, 40.0, 20.0]), 0.0)
    assert scores[2] == pytest.approx(1 / (1 + np.exp(-20 * (view[31:33, 31:33].min() - 0.5))))
    assert (scores > 0.5).tolist() == [False, True, True]
    chosen = kept(volume, findings, patcher())
    assert [f.box for f in chosen] in ([findings[1].box, findings[2].box], [findings[2].box, findings[1].box])
    assert [f.score for f in chosen] == sorted(scores[1:], reverse=True)
    assert kept(volume, findings, patcher(), threshold=1.0) == []
    assert kept(volume, [], patcher()) == []


def test_a_slid_network_sees_what_a_patch_shows() -> None:
    rng = np.random.default_rng(1)
    volume, lungs = chest()
    noisy = Volume((volume.hu + rng.normal(0, 200, SHAPE)).astype(np.float32), volume.geometry)
    seen: list[Array] = []

    def run(batch: Array) -> tuple[Array, ...]:
        seen.append(np.array(batch[:, 0]))
        return (np.zeros((len(batch), 1), dtype=np.float32) - 9,)

    assert sliding_window(noisy, lungs, made_models.model(run), stride_px=16) == []
    y, x = np.arange(8, 70, 16), np.arange(8, 90, 16)
    rows, columns = np.nonzero(lungs.labels[2][np.ix_(y, x)])
    # slices of 2 mm: every one of them is looked at, those with lung from the third on
    theirs = [patch_view(noisy, np.array([2.0, y[r], x[c]]), 0.0) for r, c in zip(rows, columns, strict=True)]
    assert len(seen) == 16
    assert np.allclose(seen[0], np.stack(theirs), atol=1e-6)


def test_a_slid_network_finds_what_it_answers_to() -> None:
    volume, lungs = chest(((9, 30, 66), 6.0), ((9, 66, 45), 3.0))
    found = sliding_window(volume, lungs, patcher(), stride_px=4)
    assert len(found) == 1
    finding = found[0]
    assert finding.score > 0.9
    assert finding.mask.shape == finding.box.shape
    assert finding.box.centre_zyx == pytest.approx((9, 30, 66), abs=2)
    truth = ball(SHAPE, SPACING, (9, 30, 66), 6.0)
    cells = np.zeros(SHAPE, dtype=bool)
    cells[finding.box.slices] = finding.mask
    assert (cells & truth).sum() > 0.6 * truth.sum()


# ---- The classic steps


def test_the_classic_steps_end_with_the_lungs_and_what_is_in_them() -> None:
    hu = np.full((100, 120), -1000.0)
    y, x = np.indices(hu.shape)
    hu[np.hypot((y - 50) / 44, (x - 60) / 55) < 1] = 40
    lung = (np.hypot((y - 50) / 30, (x - 35) / 18) < 1) | (np.hypot((y - 50) / 30, (x - 85) / 18) < 1)
    hu[lung] = -850
    hu[np.hypot(y - 50, x - 85) < 4] = 50
    hu[80:81, 60] = -900
    steps = classic_steps(to_unit(hu + np.random.default_rng(0).normal(0, 10, hu.shape)))
    assert list(steps) == ["slice", "contrast", "binarized", "denoised", "filled"]
    assert all(p.dtype == np.float32 and p.shape == hu.shape and 0 <= p.min() <= p.max() <= 1 for p in steps.values())
    assert not steps["denoised"][50, 85]
    found = steps["filled"] > 0
    assert found[50, 85]
    assert not found[80, 60]
    assert 2 * (found & lung).sum() / (found.sum() + lung.sum()) > 0.97


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_the_classic_steps_of_an_empty_picture(value: float) -> None:
    steps = classic_steps(np.full((30, 41), value, dtype=np.float32))
    assert all(np.isfinite(p).all() for p in steps.values())
    assert not steps["filled"].any()


def test_the_classic_steps_refuse_what_is_no_picture() -> None:
    with pytest.raises(BadValues, match="from 0 to 1"):
        classic_steps(np.full((4, 4), -3.0, dtype=np.float32))
    with pytest.raises(BadValues, match="shape"):
        classic_steps(np.zeros((2, 4, 4), dtype=np.float32))


def test_otsu_parts_two_kinds_as_trying_every_threshold_does() -> None:
    rng = np.random.default_rng(2)
    image = np.clip(np.append(rng.normal(0.2, 0.05, 700), rng.normal(0.7, 0.08, 300)), 0, 1).reshape(40, 25)

    def between(t: float) -> float:
        low, high = image[image < t], image[image >= t]
        return float(low.size * high.size * (low.mean() - high.mean()) ** 2)

    tried = np.arange(1, BINS) / BINS
    tried = tried[(tried > image.min()) & (tried <= image.max())]
    assert otsu(image.astype(np.float32)) == pytest.approx(max(tried, key=between), abs=2 / BINS)


def test_otsu_is_simpleitks_where_a_picture_reaches_black_and_white() -> None:
    rng = np.random.default_rng(3)
    image = np.append(rng.normal(0.3, 0.1, 1598).clip(0, 1), [0, 1]).reshape(40, 40).astype(np.float32)
    library = sitk.OtsuThresholdImageFilter()
    library.SetNumberOfHistogramBins(BINS)
    library.Execute(sitk.GetImageFromArray(image))
    assert otsu(image) == pytest.approx(library.GetThreshold(), abs=1e-4)


def test_contrast_is_equalised_tile_by_tile_as_one_pixel_after_the_other() -> None:
    rng = np.random.default_rng(3)
    image = np.clip(rng.random((24, 30)) ** 2, 0, 1).astype(np.float32)
    tiles, clip = 3, 1.5
    maps = np.empty((tiles, tiles, BINS))
    for i in range(tiles):
        for j in range(tiles):
            part = image[8 * i : 8 * i + 8, 10 * j : 10 * j + 10]
            counts = np.histogram(part, BINS, (0, 1))[0].astype(float)
            most = clip * part.size / BINS
            excess = np.clip(counts - most, 0, None).sum()
            maps[i, j] = np.cumsum(np.minimum(counts, most) + excess / BINS) / part.size
    for y, x in ((0, 0), (11, 14), (12, 22), (23, 29), (5, 9)):
        level = min(int(image[y, x] * BINS), BINS - 1)
        place = [np.clip((v + 0.5) / n - 0.5, 0, tiles - 1) for v, n in ((y, 8), (x, 10))]
        value = ndimage.map_coordinates(maps[..., level], [[place[0]], [place[1]]], order=1)[0]
        assert clahe(image, tiles, clip)[y, x] == pytest.approx(value, abs=1e-5)
