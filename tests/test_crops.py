"""What the methods' classifiers see of a nodule, and the risk and heat that come of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import made_models
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.errors import BadValues
from nodulens.runtime.engine import Model
from nodulens.stages.classify_crop import classify, grade, log_odds
from nodulens.stages.crops import FIELD_PX, Crop, crop_view, crop_window
from nodulens.stages.occlusion import CELLS

Batch = NDArray[np.float32]
BACK, BRIGHT = 0.1, 0.7


def disc(side: int, middle: tuple[float, float], radius: float, pixel: tuple[float, float] = (1, 1)) -> Batch:
    y, x = np.ogrid[:side, :side]
    return ((y - middle[0]) * pixel[0]) ** 2 + ((x - middle[1]) * pixel[1]) ** 2 < radius**2  # type: ignore[no-any-return]


# ---- The view


@pytest.mark.parametrize("pixel", [(0.5, 0.5), (0.7, 0.7), (0.9, 0.6)])
@pytest.mark.parametrize(("size", "pixel_mm"), [(64, 0.7), (124, 0.35), (33, 0.7)])
def test_the_middle_is_the_centroid_and_sizes_are_millimetres(
    pixel: tuple[float, float], size: int, pixel_mm: float
) -> None:
    mask = disc(160, (83.0, 71.0), 7.0, pixel)
    image = np.where(mask, BRIGHT, BACK).astype(np.float32)
    seen = crop_view(image, mask, pixel, Crop(size, pixel_mm))
    assert seen.shape == (1, size, size) and seen.dtype == np.float32
    bright = seen[0] - BACK
    place = (bright * np.indices(bright.shape)).sum((1, 2)) / bright.sum()
    np.testing.assert_allclose(place, (size - 1) / 2, atol=0.3)
    assert bright.sum() / (BRIGHT - BACK) * pixel_mm**2 == pytest.approx(np.pi * 49, rel=0.04)


def test_the_scans_own_pixels_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((96, 96), dtype=np.float32)
    mask = np.zeros((96, 96), bool)
    mask[40:49, 50:59] = True  # an odd side, so that the centroid is a pixel
    seen = crop_view(image, mask, (0.6, 0.6), Crop(31, None))
    np.testing.assert_allclose(seen[0], image[44 - 15 : 44 + 16, 54 - 15 : 54 + 16], atol=1e-6)


def test_masked_means_that_nothing_round_the_outline_is_seen() -> None:
    rng = np.random.default_rng(0)
    mask = disc(96, (47.0, 49.0), 8.0)
    first, second = (np.where(mask, BRIGHT, rng.random((96, 96))).astype(np.float32) for _ in range(2))
    one, other = (crop_view(image, mask, (0.7, 0.7), Crop(64, 0.7, masked=True)) for image in (first, second))
    np.testing.assert_array_equal(one, other)
    assert (one == 0).mean() > 0.9 and one.max() == pytest.approx(BRIGHT, abs=1e-6)
    plain = crop_view(first, mask, (0.7, 0.7), Crop(64, 0.7))
    assert (plain == 0).mean() < 0.01


@pytest.mark.parametrize("middle", [(150.0, 150.0), (10.0, 150.0), (295.0, 4.0)])
def test_use_sees_what_training_saw(middle: tuple[float, float]) -> None:
    """Cut from a stack of 96 pixels round the nodule or from the whole slice, a crop is the same."""
    rng = np.random.default_rng(1)
    image = rng.random((300, 300), dtype=np.float32)
    mask = disc(300, middle, 6.0)
    whole = crop_view(image, mask, (0.5, 0.5), Crop(124, 0.7))
    centre = np.round(np.argwhere(mask).mean(0)).astype(int)
    low = np.maximum(centre - FIELD_PX // 2, 0)
    stack = tuple(slice(a, b) for a, b in zip(low, centre + FIELD_PX // 2, strict=True))
    np.testing.assert_allclose(whole, crop_view(image[stack], mask[stack], (0.5, 0.5), Crop(124, 0.7)), atol=1e-5)


def test_beyond_the_field_the_edge_is_repeated() -> None:
    image = np.full((400, 400), BACK, np.float32)
    mask = disc(400, (200.0, 200.0), 5.0)
    image[:, : 200 - FIELD_PX // 2] = 1  # just outside
    seen = crop_view(image, mask, (0.5, 0.5), Crop(124, 0.7))
    np.testing.assert_allclose(seen, BACK, atol=1e-6)


def test_nothing_outlined() -> None:
    with pytest.raises(BadValues, match="empty outline"):
        crop_window(np.zeros((9, 9), bool), (1, 1), Crop(8, 0.7))


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("radius_mm", [3.0, 9.0])
def test_a_resized_crop_does_not_show_the_size(scale: float, radius_mm: float) -> None:
    """A disc fills the same share of its crop, however large it is and whatever the pixels are."""
    pixel = (0.5, 0.8)
    y, x = np.ogrid[:200, :160]
    mask = ((y - 90.0) * pixel[0]) ** 2 + ((x - 80.0) * pixel[1]) ** 2 < radius_mm**2
    image = np.where(mask, np.float32(1), np.float32(0.2))
    seen = crop_view(image, mask, pixel, Crop(64, 0.35, scale=scale))
    assert seen.shape == (1, 64, 64)
    assert np.mean(seen > 0.6) == pytest.approx(np.pi / 4 / scale**2, abs=0.1)
    middle = np.argwhere(seen[0] > 0.6).mean(0)
    assert middle == pytest.approx([31.5, 31.5], abs=1.0)
    assert Crop.of({"size": 64, "pixel_mm": 0.35, "masked": False}) == Crop(64, 0.35)
    assert Crop.of({"size": 64, "pixel_mm": None, "masked": True, "crop_scale": scale}).scale == scale


def test_odds_are_of_malignant_against_benign() -> None:
    np.testing.assert_allclose(log_odds(np.array([[1.0, 3.0]]), ("benign", "malignant")), 2)
    three = np.array([[9.0, 1.0, 3.0], [0.0, 2.0, -1.0]])
    np.testing.assert_allclose(log_odds(three, ("indeterminate", "benign", "malignant")), [2, -3])
    six = np.log([[0.1, 0.1, 0.2, 0.1, 0.2, 0.3]])  # 0 to 5: 4 and 5 against 1 and 2
    np.testing.assert_allclose(log_odds(six, tuple("012345")), np.log(0.5 / 0.3))


# ---- The risk


@pytest.fixture(scope="module")
def nodule() -> tuple[Volume, Box, NDArray[np.bool_]]:
    """A ball of 16 mm in a scan with pixels that are not square, its lower half denser."""
    spacing = (2.0, 0.8, 0.6)
    places = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip((20, 90, 120), spacing, strict=True))), -1)
    places = places.swapaxes(0, 1)
    ball = np.linalg.norm(places - (20.0, 40.0, 30.0), axis=-1) < 8
    hu = np.where(ball, np.where(places[..., 1] > 40, 100, -300), -860)
    box = Box.of_mask(ball)
    return Volume(hu.astype(np.float32), Geometry.axial((20, 90, 120), spacing)), box, ball[box.slices]


def made(run: Callable[[Batch], tuple[Batch, ...]], masked: bool = False, **more: object) -> Model:
    settings = {"size": 64, "pixel_mm": 0.7, "masked": masked, "classes": ["benign", "malignant"], **more}
    return made_models.model(run, settings, "classifier")


def brightness(batch: Batch) -> tuple[Batch, ...]:
    """Malignant by the light above lung in the lower half of the crop, as the network sees it."""
    light = np.maximum(batch[:, 0, 32:] - 0.15, 0).sum((1, 2)) / 200
    return (np.stack([np.zeros_like(light), light], 1),)


@pytest.mark.parametrize("masked", [False, True])
def test_the_networks_own_probability_is_not_called_calibrated(
    nodule: tuple[Volume, Box, NDArray[np.bool_]], masked: bool
) -> None:
    seen: list[Batch] = []

    def run(batch: Batch) -> tuple[Batch, ...]:
        seen.append(batch.copy())
        return (np.tile(np.float32([[0.5, 2.0]]), (len(batch), 1)),)

    graded = grade(*nodule, made(run, masked))
    risk, heat = graded.risk, graded.heat
    assert risk.probability == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert (risk.interval, risk.calibrated, risk.model) == ((0.0, 1.0), False, "classifier")
    assert not heat.any() and heat.shape == nodule[1].shape
    assert [len(batch) for batch in seen] == [1, 1, 1, 1, 1 + CELLS**2]
    assert ((seen[0] == 0).mean() > 0.5) == masked
    np.testing.assert_array_equal(seen[0], seen[3][:, :, ::-1, ::-1])


def test_mirror_images_are_judged_as_one() -> None:
    rng = np.random.default_rng(0)
    views = rng.random((3, 1, 16, 16), dtype=np.float32)
    weights = rng.random((2, 256), dtype=np.float32)
    model = made(lambda batch: (batch.reshape(len(batch), -1) @ weights.T,))
    np.testing.assert_allclose(classify(views, model), classify(views[:, :, ::-1], model), rtol=1e-5)
    even = (views + views[:, :, ::-1] + views[:, :, :, ::-1] + views[:, :, ::-1, ::-1]) / 4
    np.testing.assert_allclose(classify(views, model), model.run(even)[0], rtol=1e-5)


def test_calibration_on_the_card_is_used(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    table = {"upper_edge": [0.5], "low": [0.0, 0.4], "high": [0.3, 1.0]}
    model = made(lambda b: (np.tile(np.float32([[0, 1]]), (len(b), 1)),), calibration=[2.0, -1.0], interval=table)
    risk = grade(*nodule, model).risk
    assert risk.calibrated and risk.probability == pytest.approx(1 / (1 + np.exp(-1))) and risk.interval == (0.4, 1.0)


def test_a_third_class_takes_no_part(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    model = made(lambda b: (np.tile(np.float32([[7, 1, 1]]), (len(b), 1)),))
    model.card.settings["classes"] = ["indeterminate", "benign", "malignant"]
    assert grade(*nodule, model).risk.probability == pytest.approx(0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_heat_lies_where_covering_it_costs(nodule: tuple[Volume, Box, NDArray[np.bool_]], masked: bool) -> None:
    volume, box, mask = nodule
    heat = grade(volume, box, mask, made(brightness, masked)).heat
    assert heat.shape == mask.shape and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() == pytest.approx(1)
    np.testing.assert_array_equal(heat[0], heat[-1])
    rows = heat[0].mean(1)
    upper, lower = np.array_split(rows, 2)
    assert lower.mean() > 3 * upper.mean()


def test_one_voxel_is_graded(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    box = Box((3, 4, 5), (4, 5, 6))
    graded = grade(nodule[0], box, np.ones((1, 1, 1), bool), made(brightness))
    assert 0 <= graded.risk.probability <= 1 and graded.heat.shape == (1, 1, 1)
