"""The grade of a nodule, its interval, and the heat map that says what drove it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import made_models
import small_scans
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Attribute, Box, Nodule, Rating, Risk
from nodulens.core.volume import Source, Volume
from nodulens.evaluate.explain import faithfulness
from nodulens.ops.intensity import to_unit
from nodulens.runtime.engine import Model, compile_model, load_model
from nodulens.runtime.weights import Card, card
from nodulens.stages.attributes import SCALES, predictable, predicted
from nodulens.stages.classify import evaluate, likely, risk_of, slice_view, without_nodule
from nodulens.stages.features import measured_view, nodule_features
from nodulens.stages.occlusion import CELLS
from nodulens.stages.position import central_slice

Batch = NDArray[np.float32]
TABLE = {"upper_edge": [0.2, 0.6], "low": [0.0, 0.25, 0.5], "high": [0.25, 0.75, 1.0]}
TAUGHT = {"distance": 2.0, "slice_mm": 3.0}
SETTINGS = {"combination": [1.0, 0.0], "calibration": [2.0, -1.0], "interval": TABLE, "taught": TAUGHT}
SILENT = made_models.model(lambda batch: (np.zeros((len(batch), 1), np.float32), np.ones((len(batch), 42), np.float32)))
"""A forest that says nothing."""


def made(run: Any) -> Model:
    return made_models.model(run, SETTINGS)


def usual(logits: Batch, whitened: float = 1.0) -> tuple[Batch, Batch]:
    """The outputs of a network; as they are, for a nodule like those that it was taught on."""
    n = len(logits)
    return logits, np.full((n, 4), whitened, np.float32)


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

    def network(batch: Batch) -> tuple[Batch, Batch]:
        return usual(np.full((len(batch), 1), 2.0, np.float32))

    def forest(batch: Batch) -> tuple[Batch, Batch]:
        seen.append(batch)
        return np.full((len(batch), 1), -3.0, np.float32), np.zeros((len(batch), 42), np.float32)

    model = made_models.model(network, {**SETTINGS, "combination": [0.5, 0.25], "calibration": [1.0, 0.1]})
    volume, box, mask = nodule
    risk = evaluate(volume, box, mask, model, made_models.model(forest)).risk
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
    def run(batch: Batch) -> tuple[Batch, Batch]:
        return usual(np.zeros((len(batch), 1), np.float32), whitened)

    def forest(batch: Batch) -> tuple[Batch, Batch]:
        return np.zeros((len(batch), 1), np.float32), np.full((len(batch), 42), measured, np.float32)

    return evaluate(volume, box, mask, made(run), made_models.model(forest)).risk


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

    def run(batch: Batch) -> tuple[Batch, Batch]:
        signs.append(-1.0 if len(signs) % 2 else 1.0)
        return usual(np.zeros((len(batch), 1), np.float32), 9 * signs[-1])

    assert evaluate(*nodule, made(run), SILENT).risk.trusted and len(signs) == 5


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


def test_the_logit_is_the_mean_over_slices_and_mirror_images(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    seen: list[Batch] = []

    def run(batch: Batch) -> tuple[Batch, ...]:
        seen.append(np.array(batch))
        return usual(np.full((len(batch), 2), float(len(seen)), np.float32))

    volume, box, mask = nodule
    assert evaluate(volume, box, mask, made(run), SILENT).risk == risk_of(2.5, made(None))
    *turns, covers = seen
    assert len(turns) == 4 and len(covers) == CELLS**2 and {b.shape[1:] for b in seen} == {(2, 64, 64)}
    np.testing.assert_array_equal(turns[0], turns[1][:, :, ::-1])
    np.testing.assert_array_equal(turns[0], turns[3][:, :, ::-1, ::-1])
    # the outline is the second channel, in the middle, and as large as the ball
    outline = turns[0][:, 1]
    place = (outline * np.indices((64, 64))[:, None]).sum((2, 3)) / outline.sum((1, 2))
    np.testing.assert_allclose(place, 31.5, atol=0.6)
    assert outline.sum((1, 2)).max() * 0.7**2 == pytest.approx(np.pi * 81, rel=0.2)


def light_at(row: int, column: int, sign: float = 1.0) -> Any:
    """A network whose logit is the light in 3 × 3 pixels of what it sees, times a sign."""

    def run(batch: Batch) -> tuple[Batch, ...]:
        light = batch[:, 0, row - 1 : row + 2, column - 1 : column + 2].mean((1, 2))
        return usual(np.float32(sign) * light[:, None])

    return run


@pytest.mark.parametrize(("row", "column"), [(26, 26), (26, 37), (37, 26), (37, 37)])
def test_heat_lies_where_the_network_looked(
    nodule: tuple[Volume, Box, NDArray[np.bool_]], row: int, column: int
) -> None:
    volume, box, mask = nodule
    heat = evaluate(volume, box, mask, made(light_at(row, column)), SILENT).heat
    assert heat.shape == mask.shape and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() == 1
    np.testing.assert_array_equal(heat, np.broadcast_to(heat[0], heat.shape))
    place = (heat[0] * np.indices(heat[0].shape)).sum((1, 2)) / heat[0].sum()
    middle_mm = (place - (np.array(heat[0].shape) - 1) / 2) * (0.8, 0.6)
    np.testing.assert_allclose(middle_mm, (np.array([row, column]) - 31.5) * 0.7, atol=1.0)


def test_what_speaks_against_is_not_heat(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    volume, box, mask = nodule
    assert not evaluate(volume, box, mask, made(light_at(32, 32, -1.0)), SILENT).heat.any()


def test_the_map_ranks_pixels_better_than_chance(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    """A network with a known cause: its logit falls first where the map says, and comes back first there."""
    volume, box, mask = nodule
    model = made(light_at(27, 36))
    heat = evaluate(volume, box, mask, model, SILENT).heat
    view, window = slice_view(volume, box, mask, central_slice(mask))
    plane = np.zeros(volume.geometry.shape[1:], np.float32)
    plane[box.slices[1:]] = heat[0]
    without = np.broadcast_to(without_nodule(view)[:, None, None], view.shape)
    inside = np.flatnonzero(view[1] > 0.5)

    def score(views: Batch) -> Batch:
        return model.run(views)[0][:, 0]

    by_map = faithfulness(score, view, without, inside[np.argsort(-window.sample(plane[None])[0].ravel()[inside])])
    rng = np.random.default_rng(0)
    chance = [faithfulness(score, view, without, rng.permutation(inside)) for _ in range(20)]
    assert by_map.deletion < min(one.deletion for one in chance) - 0.1
    assert by_map.insertion > max(one.insertion for one in chance) + 0.1


# ---- The look, as readers would rate it


def rating_card(**auc: float | None) -> Card:
    outputs = ["malignancy", *auc]
    figures = {"attributes": {name: {"auc": value, "nodules": 100, "above_3": 50} for name, value in auc.items()}}
    return replace(made_models.model(None, {**SETTINGS, "outputs": outputs}).card, figures=figures)  # type: ignore[arg-type]


def test_ratings_that_were_predicted_well_are_given_on_lidcs_scales() -> None:
    known = rating_card(spiculation=0.85, sphericity=0.79, texture=0.8, calcification=0.9, margin=None)
    assert predictable(known) == {"spiculation": 0.85, "texture": 0.8, "calcification": 0.9}
    logits = np.log(np.array([1, 3, 1, 1e-6, 1e6, 1]))
    assert predicted(logits, known) == (
        Attribute("spiculation", pytest.approx(4.0), "spiculated"),
        Attribute("texture", pytest.approx(1, abs=1e-4), "non-solid"),
        Attribute("calcification", pytest.approx(6, abs=1e-4), "not calcified"),
    )


def test_a_network_without_ratings_says_nothing_of_the_look() -> None:
    assert predictable(made(None).card) == {} and predicted(np.zeros(1), made(None).card) == ()


def test_every_scale_has_a_word_for_every_rating() -> None:
    assert set(SCALES) == set(get_args(Rating))
    for name, scale in SCALES.items():
        assert scale.top == (6 if name == "calcification" else 5) == scale.words[-1][0]
        words = [scale.word(rating) for rating in np.linspace(1, scale.top, 200)]
        assert list(dict.fromkeys(words)) == [word for _, word in scale.words]


def test_the_grade_holds_the_ratings_of_all_views(nodule: tuple[Volume, Box, NDArray[np.bool_]]) -> None:
    known = rating_card(margin=0.9)
    calls: list[int] = []

    def run(batch: Batch) -> tuple[Batch, ...]:
        calls.append(1)
        return usual(np.tile(np.float32([0, len(calls) - 2.5]), (len(batch), 1)))

    (margin,) = evaluate(*nodule, Model(known, run), SILENT).attributes
    assert margin == Attribute("margin", pytest.approx(3.0), "rather ill-defined")


# ---- The network that ships


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load_model("malignancy")


def initializer(network: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found = [tensor for tensor in network.graph.initializer if tensor.name.endswith(name)]
    assert len(found) == 1, f"{name} is one constant of the file"
    return found[0]


def shuffled(tmp_path: Path) -> Model:
    """The shipped network with the classifier's weights in another order; everything before it as it was."""
    known = card("malignancy")
    network = onnx.load(known.path)
    tensor = initializer(network, "classify.weight")
    weight = numpy_helper.to_array(tensor)
    order = np.random.default_rng(0).permutation(weight.shape[1])
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight[:, order]), tensor.name))
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
    first, second = (evaluate(ct, largest.box, largest.mask, m, load_model("measured")) for m in (shipped, other))
    (before, heat), (after, changed) = ((one.risk, one.heat) for one in (first, second))
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
    assert table["low"][-1] > 0.3 and table["high"][0] <= 0.5, "near certainty it says something"
    assert min(settings["combination"]) > 0, "both the network and the forest count"
    assert all(f"{share:.1%} of those of {k} reader" in table["meaning"] for k, share in held.items())
    assert json.dumps(table, allow_nan=False)
