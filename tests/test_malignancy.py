"""The grade of a nodule, its interval, and the heat map that says what drove it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import made_models
import small_scans
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Nodule, Risk
from nodulens.core.volume import Source, Volume
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Model, compile_model, load_model
from nodulens.runtime.weights import card
from nodulens.stages.classify import evaluate, likely, risk_of
from nodulens.stages.features import measured_view, nodule_features

Batch = NDArray[np.float32]
TABLE = {"upper_edge": [0.2, 0.6], "low": [0.0, 0.25, 0.5], "high": [0.25, 0.75, 1.0]}
TAUGHT = {"distance": 2.0, "slice_mm": 3.0}
SETTINGS = {"combination": [1.0, 0.0], "calibration": [2.0, -1.0], "interval": TABLE, "taught": TAUGHT}
SILENT = made_models.model(lambda batch: (np.zeros((len(batch), 1), np.float32), np.ones((len(batch), 42), np.float32)))
"""A forest that says nothing."""


def made(run: Any) -> Model:
    return made_models.model(run, SETTINGS)


def usual(logits: Batch, maps: Batch) -> tuple[Batch, Batch, Batch]:
    """The outputs of a network for a nodule like those that it was taught on."""
    return logits, maps, np.ones((len(logits), 4), np.float32)


# ---- Probability and interval


@pytest.mark.parametrize(
    ("logit", "interval"),
    [(-2.0, (0.0, 0.25)), (0.4, (0.25, 0.75)), (2.0, (0.5, 1.0))],
)
def test_probability_and_interval_are_those_of_the_card(logit: float, interval: tuple[float, float]) -> None:
    risk = risk_of(logit, made(None))
    assert risk == Risk(pytest.approx(1 / (1 + np.exp(1.0 - 2.0 * logit))), interval, True, "made")


def test_the_interval_holds_the_probability() -> None:
    for logit in np.linspace(-6, 6, 60):
        risk = risk_of(float(logit), made(None))
        assert 0 <= risk.interval[0] <= risk.probability <= risk.interval[1] <= 1


def test_probability_rises_with_the_logit_on_the_shipped_card() -> None:
    model = Model(card("malignancy"), lambda batch: (batch,))
    p = [risk_of(float(logit), model).probability for logit in np.linspace(-5, 5, 40)]
    assert np.all(np.diff(p) > 0)


def test_network_and_forest_count_by_the_weights_of_the_card(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    seen: list[Batch] = []

    def network(batch: Batch) -> tuple[Batch, Batch, Batch]:
        return usual(np.full((len(batch), 1), 2.0, np.float32), np.ones((len(batch), 16, 16), np.float32))

    def forest(batch: Batch) -> tuple[Batch, Batch]:
        seen.append(batch)
        return np.full((len(batch), 1), -3.0, np.float32), np.zeros((len(batch), 42), np.float32)

    model = made_models.model(network, {**SETTINGS, "combination": [0.5, 0.25], "calibration": [1.0, 0.1]})
    volume, box, mask = nodule
    risk, _ = evaluate(volume, box, mask, model, made_models.model(forest))
    assert risk.probability == pytest.approx(1 / (1 + np.exp(-(0.5 * 2 - 0.25 * 3 + 0.1))))
    assert seen[0].shape == (1, len(card("measured").settings["features"]))


def test_what_the_forest_sees_is_what_it_was_trained_on(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    """In a whole scan with a tight box as in a crop around the nodule, by name and value."""
    volume, box, mask = nodule
    whole = np.zeros(volume.geometry.shape, dtype=bool)
    whole[box.slices] = mask
    wanted = nodule_features(to_unit(volume.hu), whole, volume.geometry.spacing_zyx)
    assert list(wanted) == card("measured").settings["features"]
    np.testing.assert_allclose(measured_view(volume, box, mask), list(wanted.values()), rtol=1e-5)
    assert wanted["diameter_3d_mm"] == pytest.approx(18, rel=0.05)


# ---- Trust


FAR = "It does not look like the nodules that the estimate was taught on; it may be a vessel or other tissue."


def graded(volume: Volume, box: Box, mask: NDArray[np.bool_], whitened: float = 1.0, measured: float = 1.0) -> Risk:
    def run(batch: Batch) -> tuple[Batch, Batch, Batch]:
        n = len(batch)
        return np.zeros((n, 1), np.float32), np.ones((n, 16, 16), np.float32), np.full((n, 4), whitened, np.float32)

    def forest(batch: Batch) -> tuple[Batch, Batch]:
        return np.zeros((len(batch), 1), np.float32), np.full((len(batch), 42), measured, np.float32)

    return evaluate(volume, box, mask, made(run), made_models.model(forest))[0]


def test_a_nodule_like_those_that_were_taught_is_trusted(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    risk = graded(*nodule)
    assert risk.trusted and risk.calibrated and risk.doubts == ()


def test_what_is_far_from_what_was_taught_is_not_trusted(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    """By the size of the mean over slices and mirror images, not by the mean of sizes."""
    limit = np.sqrt(2 * 2.0**2 - 1)
    for one in ({"whitened": -limit}, {"measured": limit}):
        assert graded(*nodule, **{k: v * 0.99 for k, v in one.items()}).trusted
        risk = graded(*nodule, **{k: v * 1.01 for k, v in one.items()})
        assert not risk.trusted and not risk.calibrated and risk.probability == graded(*nodule).probability
        assert risk.doubts == (FAR,)
    signs: list[float] = []

    def run(batch: Batch) -> tuple[Batch, Batch, Batch]:
        signs.append(-1.0 if len(signs) % 2 else 1.0)
        logits, maps, whitened = usual(np.zeros((len(batch), 1), np.float32), np.ones((len(batch), 16, 16), np.float32))
        return logits, maps, 9 * signs[-1] * whitened

    assert evaluate(*nodule, made(run), SILENT)[0].trusted and len(signs) == 4


@pytest.mark.parametrize(("spacing_mm", "thickness_mm", "said"), [(3.0, None, ""), (5.0, None, "5"), (2.5, 4.0, "4")])
def test_slices_thicker_than_taught_are_doubted(
    nodule: tuple[Volume, Box, NDArray[np.bool_]], spacing_mm: float, thickness_mm: float | None, said: str
) -> None:
    volume, box, mask = nodule
    geometry = Geometry.axial(volume.geometry.shape, (spacing_mm, 0.8, 0.6))
    risk = graded(Volume(volume.hu, geometry, Source(slice_thickness_mm=thickness_mm)), box, mask)
    doubt = f"Slices of {said} mm: the estimate was taught on slices up to 3 mm."
    assert risk.doubts == ((doubt,) if said else ()) and risk.calibrated == (not said)


def test_a_nodule_longer_than_the_field_is_doubted(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    volume, box, mask = nodule
    wide = Volume(volume.hu, Geometry.axial(volume.geometry.shape, (2.5, 2.4, 1.8)))  # 54 mm
    assert graded(wide, box, mask).doubts == (
        "Longer than 40 mm: larger than any nodule that the estimate was taught on.",
    )


def test_a_mark_that_is_likelier_no_nodule_is_doubted() -> None:
    risk = risk_of(0.0, made(None))
    assert likely(risk, 0.5) == risk and likely(risk, 1.0).trusted
    doubted = likely(risk, 0.31)
    assert not doubted.calibrated and doubted.probability == risk.probability
    assert doubted.doubts == ("A mark with a detection confidence of 0.31 is likelier no nodule than one.",)
    assert len(likely(doubted, 0.2).doubts) == 2, "doubts add up"


# ---- Heat


@pytest.fixture(scope="module")
def nodule() -> tuple[Volume, Box, NDArray[np.bool_]]:
    """A ball of 18 mm off the middle of a scan with pixels that are not square."""
    spacing = (2.5, 0.8, 0.6)
    geometry = Geometry.axial((24, 90, 120), spacing)
    index = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip((24, 90, 120), spacing, strict=True))), -1)
    distance = np.linalg.norm(index.swapaxes(0, 1) - (30.0, 40.0, 30.0), axis=-1)
    ball = distance < 9
    box = Box.of_mask(ball)
    hu = np.where(ball, 20, -850) + np.random.default_rng(0).normal(0, 20, ball.shape)
    return Volume(hu.astype(np.float32), geometry), box, ball[box.slices]


def test_views_go_in_and_all_four_mirror_images_come_back_to_their_place(
    nodule: tuple[Volume, Box, NDArray[np.bool_]],
) -> None:
    """A network that marks the upper left quarter of what it sees: over four mirror images every quarter is marked as
    much, and the logit is the mean of all views."""
    seen: list[Batch] = []

    def run(batch: Batch) -> tuple[Batch, Batch, Batch]:
        seen.append(np.array(batch))
        maps = np.zeros((len(batch), 16, 16), np.float32)
        maps[:, :8, :8] = 1
        return usual(np.full((len(batch), 2), float(len(seen)), np.float32), maps)

    volume, box, mask = nodule
    risk, heat = evaluate(volume, box, mask, made(run), SILENT)
    assert risk == risk_of(2.5, made(None))
    assert len(seen) == 4 and {b.shape[1:] for b in seen} == {(2, 64, 64)}
    np.testing.assert_array_equal(seen[0], seen[1][:, :, ::-1])
    np.testing.assert_array_equal(seen[0], seen[3][:, :, ::-1, ::-1])
    np.testing.assert_allclose(heat, 1.0, atol=1e-6)
    # the outline is the second channel, in the middle, and as large as the ball
    outline = seen[0][:, 1]
    place = (outline * np.indices((64, 64))[:, None]).sum((2, 3)) / outline.sum((1, 2))
    np.testing.assert_allclose(place, 31.5, atol=0.6)
    assert outline.sum((1, 2)).max() * 0.7**2 == pytest.approx(np.pi * 81, rel=0.2)


@pytest.mark.parametrize(("row", "column"), [(6, 6), (6, 9), (9, 6), (9, 9)])
def test_heat_lies_where_the_network_saw_it(
    nodule: tuple[Volume, Box, NDArray[np.bool_]], row: int, column: int
) -> None:
    """A map with one hot cell: the heat's middle is at that cell's place in millimetres."""
    calls: list[int] = []
    turns = ((1, 1), (-1, 1), (1, -1), (-1, -1))

    def run(batch: Batch) -> tuple[Batch, Batch, Batch]:
        v, h = turns[len(calls)]
        calls.append(1)
        one = np.zeros((16, 16), np.float32)
        one[row, column] = 3.0
        return usual(np.zeros((len(batch), 1), np.float32), np.repeat(one[None, ::v, ::h], len(batch), 0))

    volume, box, mask = nodule
    _, heat = evaluate(volume, box, mask, made(run), SILENT)
    assert heat.shape == mask.shape and heat.dtype == np.float32
    assert heat.min() == 0 and heat.max() == 1
    for plane in heat:
        place = (plane * np.indices(plane.shape)).sum((1, 2)) / plane.sum()
        middle_mm = (place - (np.array(plane.shape) - 1) / 2) * (0.8, 0.6)
        expected = (np.array([row, column]) - 7.5) * 4 * 0.7
        np.testing.assert_allclose(middle_mm, expected, atol=0.6)


def test_what_speaks_against_is_not_heat(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    def run(batch: Batch) -> tuple[Batch, Batch, Batch]:
        return usual(np.zeros((len(batch), 1), np.float32), np.full((len(batch), 16, 16), -2.0, np.float32))

    volume, box, mask = nodule
    _, heat = evaluate(volume, box, mask, made(run), SILENT)
    assert not heat.any()


# ---- The network that ships


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load_model("malignancy")


def initializer(network: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found = [tensor for tensor in network.graph.initializer if tensor.name.endswith(name)]
    assert len(found) == 1, f"{name} is one constant of the file"
    return found[0]


def test_the_map_is_the_logit(shipped: Model) -> None:
    """Class activation maps of mean pooling are exact: the mean of the map and the bias are the logit."""
    rng = np.random.default_rng(0)
    batch = rng.random((6, 2, 64, 64), dtype=np.float32)
    batch[3:, 1] = 0
    logits, maps, _ = shipped.run(batch)
    assert maps.shape == (6, 16, 16)
    bias = numpy_helper.to_array(initializer(onnx.load(shipped.card.path), "classify.bias"))[0]
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias, logits[:, 0], atol=2e-4)
    assert maps.std(axis=(1, 2)).min() > 0


def shuffled(tmp_path: Path) -> Model:
    """The shipped network with the classifier's weights in another order; everything before it as it was.

    The exporter folds the weights into the map's branch as well as the logit's: every constant that holds the first
    row is shuffled alike.
    """
    known = card("malignancy")
    network = onnx.load(known.path)
    weight = numpy_helper.to_array(initializer(network, "classify.weight"))
    order = np.random.default_rng(0).permutation(weight.shape[1])
    changed = 0
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape == weight.shape:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight[:, order]), tensor.name))
            changed += 1
        elif values.size == weight.shape[1] and np.array_equal(values.ravel(), weight[0]):
            tensor.CopyFrom(numpy_helper.from_array(weight[0, order].reshape(values.shape), tensor.name))
            changed += 1
    assert changed >= 1
    path = tmp_path / "shuffled.onnx"
    onnx.save(network, path)
    return Model(known, compile_model(path, threads=1))


def test_heat_changes_when_the_classifier_is_shuffled(shipped: Model, tmp_path: Path) -> None:
    """A map that does not depend on what was learnt explains nothing (Adebayo et al. 2018)."""
    ct = small_scans.noisy()
    report = small_scans.noisy_report()
    other = shuffled(tmp_path)
    largest: Nodule = max(report.nodules, key=lambda n: n.measurements.volume_mm3)
    assert largest.mask is not None and largest.heat is not None
    before, heat = evaluate(ct, largest.box, largest.mask, shipped, load_model("measured"))
    after, changed = evaluate(ct, largest.box, largest.mask, other, load_model("measured"))
    np.testing.assert_allclose(heat, largest.heat, atol=1e-4, err_msg="what the report shows is this map")
    assert before.probability != pytest.approx(after.probability, abs=1e-6)
    assert np.abs(heat - changed).mean() > 0.05
    a, b = heat.ravel() - heat.mean(), changed.ravel() - changed.mean()
    alike = float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)
    assert alike < 0.9


def test_the_card_says_how_the_interval_is_made_and_what_it_covers() -> None:
    settings = card("malignancy").settings
    assert settings["calibration"][0] > 0, "a higher logit is a higher probability"
    table = settings["interval"]
    assert len(table["low"]) == len(table["high"]) == len(table["upper_edge"]) + 1
    assert table["upper_edge"] == sorted(table["upper_edge"])
    assert all(0 <= low <= high <= 1 for low, high in zip(table["low"], table["high"], strict=True))
    assert table["coverage_by_readers"].keys() == set("1234")
    held = table["coverage_by_readers"]
    assert min(table["coverage_measured"], held["3"], held["4"]) >= table["level"] == 0.9
    assert table["low"][-1] >= 0.5 and table["high"][0] <= 0.5, "near certainty it says something"
    assert min(settings["combination"]) > 0, "both the network and the forest count"
    assert all(f"{share:.1%} of those of {k} reader" in table["meaning"] for k, share in held.items())
    assert json.dumps(table, allow_nan=False)
