"""Features by hand, against shapes and textures whose figures are known, and the classifiers on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import made_material
from nodulens.data.folds import EVALUATION_PATIENTS, is_left_out
from nodulens.data.jpegls import Streams
from nodulens.data.material import Stacks, read_arrays
from nodulens.errors import BadOption
from nodulens.stages import features
from nodulens.train.tasks import handcrafted
from nodulens.train.tasks.nodule_material import nodules_of

PIXEL = features.PIXEL_MM


@pytest.fixture(scope="session")
def material(data: Path) -> handcrafted.Features:
    return handcrafted.load(data)


def ellipse(long: float, short: float, turn: float = 0.0, side: int = 96) -> np.ndarray:
    """Semi-axes in pixels."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (u / long) ** 2 + (v / short) ** 2 <= 1  # type: ignore[no-any-return]


# ---- Shape


@pytest.mark.parametrize("turn", [0.0, 0.3, np.pi / 4, 1.2])
def test_shape_of_an_ellipse(turn: float) -> None:
    a, b = 30.0, 18.0
    found = features.shape_features(ellipse(a, b, turn))
    h = ((a - b) / (a + b)) ** 2
    ramanujan = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))) * PIXEL
    assert found["area_mm2"] == pytest.approx(np.pi * a * b * PIXEL**2, rel=0.01)
    assert found["perimeter_mm"] == pytest.approx(ramanujan, rel=0.03)
    assert found["long_axis_mm"] == pytest.approx(2 * a * PIXEL, rel=0.02)
    assert found["short_axis_mm"] == pytest.approx(2 * b * PIXEL, rel=0.02)
    assert found["elongation"] == pytest.approx(a / b, rel=0.02)
    assert found["longest_mm"] == pytest.approx(2 * a * PIXEL, rel=0.03)
    assert found["solidity"] > 0.95 and found["spiky_share"] < 0.01


@pytest.mark.parametrize("radius", [3, 6, 12, 30])
def test_a_disc_is_round_at_any_size(radius: float) -> None:
    found = features.shape_features(ellipse(radius, radius))
    assert found["circularity"] == pytest.approx(1, abs=0.12)
    assert found["elongation"] == pytest.approx(1, abs=0.02) and found["radius_variation"] < 0.12


def test_spikes_are_seen() -> None:
    disc = ellipse(15, 15)
    spiky = disc.copy()
    spiky[46:49, 10:86] = spiky[10:86, 46:49] = True
    plain, found = features.shape_features(disc), features.shape_features(spiky)
    assert found["circularity"] < plain["circularity"] / 2 and found["solidity"] < 0.6
    assert found["spiky_share"] > 0.1 > plain["spiky_share"]
    assert found["radius_variation"] > 4 * plain["radius_variation"]


def test_one_pixel_has_figures() -> None:
    mask = np.zeros((96, 96), bool)
    mask[40, 50] = True
    found = features.slice_features(np.full((96, 96), 0.3, np.float32), mask, (0.7, 0.7))
    assert np.isfinite(list(found.values())).all()
    assert found["area_mm2"] == pytest.approx(0.49, abs=0.6)


# ---- Density and texture


def test_density_by_hand() -> None:
    rng = np.random.default_rng(0)
    mask = ellipse(20, 14)
    image = np.where(mask, 0.8, 0.2) + rng.normal(0, 0.02, mask.shape)
    found = features.density_features(image, mask)
    assert found["inside_mean"] == pytest.approx(image[mask].mean()) and found["inside_p50"] == np.median(image[mask])
    assert found["contrast"] == pytest.approx(0.6, abs=0.01) and found["ring_std"] == pytest.approx(0.02, rel=0.2)
    skewed = np.where(mask, rng.gamma(2, 0.1, mask.shape), image)
    found_skewed = features.density_features(skewed, mask)
    assert found_skewed["inside_skewness"] == pytest.approx(stats.skew(skewed[mask])) and stats.skew(skewed[mask]) > 1
    assert found_skewed["inside_kurtosis"] == pytest.approx(stats.kurtosis(skewed[mask]))
    blurred = features.density_features(np.where(ellipse(24, 18), 0.5, image), mask)
    assert blurred["rim_gradient"] < found["rim_gradient"]


def test_texture_of_stripes_and_noise() -> None:
    everywhere = np.ones((64, 64), bool)
    flat = features.texture_features(np.full((64, 64), 0.5), everywhere)
    assert (flat["texture_0.5mm_energy"], flat["texture_0.5mm_entropy"], flat["texture_0.5mm_contrast"]) == (1, 0, 0)
    # stripes of one pixel: half of the directions step across, where all pairs differ
    stripes = np.tile([0.0, 0.999], (64, 32))
    found = features.texture_features(stripes, everywhere)
    across = (63 * 64 + 2 * 63 * 63) / (2 * 63 * 64 + 2 * 63 * 63)
    assert found["texture_0.5mm_contrast"] == pytest.approx(across * 15**2)
    assert found["texture_2mm_contrast"] == 0 and found["texture_2mm_correlation"] == pytest.approx(1)
    noise = features.texture_features(np.random.default_rng(0).random((64, 64)), everywhere)
    assert abs(noise["texture_0.5mm_correlation"]) < 0.05
    assert noise["texture_0.5mm_entropy"] == pytest.approx(8, abs=0.05)  # 16 × 16 pairs alike


def test_texture_stays_inside_the_outline() -> None:
    rng = np.random.default_rng(0)
    mask = ellipse(12, 9)
    first, second = (np.where(mask, 0.5, rng.random(mask.shape)) for _ in range(2))
    assert features.texture_features(first, mask) == features.texture_features(second, mask)


def test_the_pixel_of_the_scan_is_no_feature() -> None:
    """The same nodule, scanned with pixels of 0.5 and 0.8 mm."""
    found = []
    for pixel in (0.5, 0.8):
        y, x = (np.mgrid[:96, :96] - 47.5) * pixel
        away = np.hypot(y, x * 1.4)
        image = (0.15 + 0.6 / (1 + np.exp((away - 9) / 0.8))).astype(np.float32)
        found.append(features.slice_features(image, away < 9, (pixel, pixel)))
    for name in ("diameter_mm", "perimeter_mm", "elongation", "inside_mean", "contrast", "rim_gradient"):
        assert found[0][name] == pytest.approx(found[1][name], rel=0.06), name


# ---- Classifiers


def test_the_length_of_the_stack_is_no_feature(data: Path, material: handcrafted.Features, tmp_path: Path) -> None:
    """Empty slices at a stack's end, which a reader of one slice more would bring, change nothing."""
    raw = read_arrays(data / "lidc" / "lidc_nodule_stacks.npz")
    n = len(raw["patient_id"])
    more = {
        "reader_bits": np.zeros((n, 96, 96), np.uint8), "slice_nodule": np.arange(n), "slice_z_mm": np.full(n, 99.0),
        "slice_calibration": np.ones(n, np.uint8),
    }  # fmt: skip
    (tmp_path / "lidc").mkdir()
    ends = np.flatnonzero(np.diff(raw["slice_nodule"], append=n)) + 1
    longer = raw | {name: np.insert(raw[name], ends, values, axis=0) for name, values in more.items()}
    streams, empty = Streams(raw["hu_jls"], raw["hu_offset"]), np.full((96, 96), 20, np.uint8)
    pictures = [np.concatenate([streams.picture(k), empty]) for k in range(n)]
    longer |= made_material.encoded(pictures, longer["reader_bits"].shape)
    np.savez(tmp_path / "lidc" / "lidc_nodule_stacks.npz", **longer)
    again = handcrafted.load(tmp_path)
    assert Stacks(tmp_path).slices(0) == Stacks(data).slices(0) + 1
    np.testing.assert_array_equal(again.values, material.values)


@pytest.mark.parametrize("kind", ["svm", "forest"])
def test_both_learn_repeat_and_keep_patients_apart(material: handcrafted.Features, kind: handcrafted.Kind) -> None:
    assert not set(material.patients) & EVALUATION_PATIENTS
    left = is_left_out(material.patients, 0)
    train, test = np.flatnonzero(~left), np.flatnonzero(left)
    found = handcrafted.evaluate(kind, material, train, test, trees=30)
    assert found.figures.all_readers.beside_diameter.ranking.auc > 0.8  # malignancy goes by size here
    assert [row.patient for row in found.rows] == [material.patients[r] for r in test]
    # the test rows' labels and features do not teach
    truth = np.where(left, 1 - material.nodules.truth, material.nodules.truth)
    other = replace(material, nodules=replace(material.nodules, truth=truth))
    again = handcrafted.evaluate(kind, other, train, test, trees=30)
    assert [row.score for row in again.rows] == [row.score for row in found.rows]
    taught = handcrafted.evaluate(kind, material, train, train, trees=30).figures.all_readers
    assert taught.beside_diameter.ranking.auc > 0.9


def test_another_kind(material: handcrafted.Features) -> None:
    with pytest.raises(BadOption, match="svm, forest"):
        handcrafted.evaluate("tree", material, np.arange(4), np.arange(4))  # type: ignore[arg-type]


def test_the_real_nodules_have_figures(shared: Path) -> None:
    """A few; the whole takes a quarter of a minute."""
    stacks = Stacks(shared)
    nodules = nodules_of(stacks, ("benign", "malignant")).take(np.arange(0, 1300, 60))
    for k, (number, central) in enumerate(zip(nodules.origin.tolist(), nodules.central.tolist(), strict=True)):
        image = stacks.unit(number)[central]
        found = features.slice_features(image, nodules.outline[k], (float(nodules.pixel_mm[k]),) * 2)
        assert np.isfinite(list(found.values())).all()
        assert found["diameter_mm"] == pytest.approx(nodules.diameter_mm[k], rel=0.1)
