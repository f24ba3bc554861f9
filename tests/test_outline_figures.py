"""The prompted segmenter's training views, and the figures of its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import made_material
import made_models
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Candidate
from nodulens.core.volume import Mask, Volume
from nodulens.data.folds import fold_of
from nodulens.data.material import CUBE_MM, Background, Cubes, Stacks
from nodulens.data.shapes import Shape
from nodulens.ops.intensity import from_unit
from nodulens.runtime.engine import Model
from nodulens.stages.prompts import DRAWN, GRID, ROUGH
from nodulens.stages.segment import volume_interval
from nodulens.train.default import outline_figures, rendered_nodules, segmenter
from nodulens.train.default.outline_figures import Outlined, evaluate, figures, readers_dice, settings
from nodulens.train.default.segmenter import Example, draw, examples, from_cube
from nodulens.train.loop.augment import thickened

SIDE = 0.5
"""What the network of these tests takes for dense, 0…1."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    made_material.write(folder)
    return folder


def bright(settings: dict[str, object] | None = None) -> Model:
    """A segmenter that takes what is denser than −300 HU."""
    return made_models.model(lambda batch: (20 * (batch[:, :1] - SIDE),), settings)


def ball(radius: float, centre: float = 24.5) -> NDArray[np.bool_]:
    index = np.indices((CUBE_MM,) * 3) - centre
    return np.asarray((index**2).sum(0) < radius**2)


def example(radii: tuple[float, ...], number: int = 0, patient: str = "LIDC-IDRI-0500") -> Example:
    """A ball in lung, whose edge is a ramp of HU; a reader an outline of each radius."""
    away = np.sqrt(((np.indices((CUBE_MM,) * 3) - 24.5) ** 2).sum(0))
    image = np.clip(0.5 + 0.05 * (float(np.median(radii)) - away), 0, 1).astype(np.float32)
    readers = np.stack([ball(r) for r in radii])
    truth = readers.mean(0) >= 0.5
    weight = np.ones(truth.shape, np.float32)
    return Example(patient, number, image, truth, readers, weight, (1.0, 1.0, 1.0), (0, CUBE_MM))


# ---- What it is trained on


def test_a_view_shows_image_truth_and_share_through_one_window() -> None:
    one = example((6.0, 6.0, 8.0))
    kinds = set()
    for seed in range(60):
        x, y = draw(one, np.random.default_rng(seed))
        assert x.shape == (4, *GRID) and y.shape == (3, *GRID) and x.dtype == y.dtype == np.float32
        inside = y[0] > 0.99
        if inside.any():
            assert np.median(x[0][inside]) > 0.52 > np.median(x[0][y[0] < 0.01]), "the ball is where its truth is"
            assert (y[1][inside] > 0.6).all(), "two of three readers at least"
        np.testing.assert_allclose(y[2], 1, atol=1e-5)
        kinds.add((float(x[1].max()), bool(x[2].any()), bool((x[3] > 0.5).any()), bool((x[3] < -0.5).any())))
    assert {trust for trust, *_ in kinds} == {DRAWN, ROUGH}
    assert any(prior and more for _, prior, more, _ in kinds) and any(prior and less for _, prior, _, less in kinds)
    assert not any(more or less for _, prior, more, less in kinds if not prior), "clicks correct an earlier mask"


def test_clicks_say_what_is_wrong_with_the_earlier_mask() -> None:
    one, seen = example((7.0, 7.0, 7.0)), 0
    for seed in range(200):
        x, y = draw(one, np.random.default_rng(seed))
        for sign in (1, -1):
            spots = sign * x[3]
            if spots.max() < 0.98:
                continue
            at = np.unravel_index(int(spots.argmax()), spots.shape)
            assert (y[0][at] > 0.5) == (sign > 0) and (x[2][at] > 0.5) == (sign < 0)
            seen += 1
    assert seen > 20


def test_a_nodule_of_a_cube_is_marked_by_candidates_on_it(data: Path) -> None:
    cubes = Cubes(data)
    one = from_cube(cubes, 0)
    assert one.marks
    for centre, diameter in one.marks:
        z, y, x = np.round(centre).astype(int)
        near = one.truth[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
        assert near.any() and 3 < diameter < 60


def test_a_nodule_is_seen_once_an_epoch_as_a_stack_or_in_its_cube(data: Path) -> None:
    stacks, cubes = Stacks(data), Cubes(data)
    material = examples(stacks, cubes)
    times = {(e.is_cube, e.number): segmenter._times(e) for e in material}
    shown = set(cubes.stack_nodule.tolist())
    assert shown >= {0, 1, 2}
    for (is_cube, number), often in times.items():
        assert often == (0 if number in shown else 1) if not is_cube else often in (2, 4)


def test_rendered_nodules_are_whole_with_their_solid_core(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_nodules, "SCENES", 1)
    monkeypatch.setattr(rendered_nodules, "CORED", 1.0)
    stacks = Stacks(data)
    found = rendered_nodules.rendered_nodules(data, stacks)
    assert {e.patient for e in found} == set(Background.PATIENTS)
    again = rendered_nodules.rendered_nodules(data, stacks)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.rendered and not one.is_cube and segmenter._times(one) == 2
        assert one.image.shape == one.truth.shape == one.weight.shape == one.readers.shape[1:]
        middle = (np.asarray(one.truth.shape) - 1) / 2
        assert one.truth[tuple(middle.astype(int))] and one.weight[one.truth].min() == 1
        assert len(np.unique(one.readers)) == 2 and draw(one, np.random.default_rng(0))[1][0].max() > 0.9
    cored = [e for e in found if np.ptp(from_unit(e.image[e.truth])) > 500]
    assert len(cored) > len(found) / 3, "dense in the core, and glass around it"


def test_outlines_are_rendered_in_lungs_of_their_own_fold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that leaving out a fold leaves out both."""
    seen: list[set[int]] = []

    def scenes(volume: Volume, lungs: Mask, shapes: list[Shape], rng: np.random.Generator) -> tuple[()]:
        seen.append({fold_of(s.patient) for s in shapes})
        return ()

    monkeypatch.setattr(rendered_nodules, "_scenes", scenes)
    assert rendered_nodules.rendered_nodules(data, Stacks(data)) == []
    assert seen == [{fold_of(patient)} for patient in Background.PATIENTS]


@pytest.mark.parametrize("slices", [1, 2, 3, 5])
def test_thick_slices_keep_the_mean_and_lose_the_detail(slices: int) -> None:
    rng = np.random.default_rng(slices)
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32)[:, None, None], (30, 4, 4))
    np.testing.assert_allclose(thickened(ramp, slices, rng)[6:-6], ramp[6:-6], atol=1e-4)
    noise = rng.normal(0, 1, (60, 20, 20)).astype(np.float32)
    # between two slices less is left than within one
    assert 0.7 / np.sqrt(slices) < thickened(noise, slices, rng).std() < 1.05 / np.sqrt(slices)


# ---- What it reaches


def test_every_prompt_leads_a_network_that_sees_the_edge_to_the_ball() -> None:
    one = example((6.0, 6.0, 6.0))
    mark = Candidate((24.5, 24.5, 24.5), 11.0, 0.9)
    found = evaluate(bright(), one, np.random.default_rng(0), mark)
    for kind in outline_figures.PROMPTS:
        assert found.overlap[kind].dice > 0.93, kind
    assert found.overlap["ellipsoid"].dice > 0.93 > found.overlap["ellipsoid_shaken"].dice
    assert len(found.borders) and abs(np.median(found.borders)) < 0.3, "half of each outline's neighbours is inside"
    assert found.overlap["mark_corrected"].dice >= found.overlap["mark"].dice - 0.02
    none = evaluate(bright(), one, np.random.default_rng(0))
    assert "mark" not in none.overlap and not len(none.borders)


def test_nothing_found_counts_as_nothing() -> None:
    blind = made_models.model(lambda batch: (np.full_like(batch[:, :1], -5.0),))
    found = evaluate(blind, example((6.0, 6.0, 6.0)), np.random.default_rng(0))
    assert found.overlap["box"].dice == 0 and found.overlap["box"].truth_voxels == ball(6.0).sum()


def test_one_reader_against_the_others() -> None:
    assert readers_dice(example((6.0, 6.0, 6.0))) == 1
    small, large = ball(5.0).sum(), ball(7.0).sum()
    # each of two against the other
    assert readers_dice(example((5.0, 7.0))) == pytest.approx(2 * small / (small + large))
    assert np.isnan(readers_dice(example((5.0,))))


def outlined(radii: tuple[float, ...], number: int, patient: str) -> Outlined:
    one = example(radii, number, patient)
    return evaluate(bright(), one, np.random.default_rng(number), Candidate((24.5, 24.5, 24.5), 11.0, 0.9))


def test_the_band_holds_as_many_outlines_as_it_says(data: Path) -> None:
    """Readers whose outlines are within 2 mm of one another."""
    rng = np.random.default_rng(0)
    found = [outlined(tuple(rng.uniform(5, 7, 4)), k, f"LIDC-IDRI-{500 + k:04d}") for k in range(12)]
    band = settings(found)["band"]
    assert band["outer"] < 0 < band["inner"] and band["level"] == outline_figures.LEVEL
    held = np.mean([((o.borders > band["outer"]) & (o.borders < band["inner"])).mean() for o in found])
    assert held == pytest.approx(outline_figures.LEVEL, abs=0.06)
    one = found[0].example
    volume = Volume(from_unit(one.image), Geometry.axial((CUBE_MM,) * 3))
    box = Box.of_mask(one.truth)
    mask = one.truth[box.slices]
    low, high = volume_interval(volume, box, mask, 900.0, bright({"band": band})) or (0.0, 0.0)
    assert 0 < low < 900 < high
    assert volume_interval(volume, box, mask, 900.0, bright()) is None, "a card without a band"
    wide = {"band": {**band, "inner": 30.0, "outer": -30.0}}
    assert volume_interval(volume, box, mask, 900.0, bright(wide)) == (0.0, pytest.approx(high, rel=100))


def test_the_card_has_figures_by_prompt_and_by_group(data: Path) -> None:
    cubes = Cubes(data)
    rng = np.random.default_rng(0)
    found = [outlined(tuple(rng.uniform(5, 7, 4)), k, cubes.patients[k]) for k in range(10)]
    flat = [replace(found[0], example=replace(found[0].example, real=(5, 40)))]
    rendered = [replace(o, example=replace(o.example, rendered=True)) for o in found[:3]]
    card = figures([*found, *flat, *rendered], cubes, "somebody")
    assert {kind: part["nodules"] for kind, part in card["rendered"].items()} == dict.fromkeys(
        outline_figures.RENDERED, 3
    )
    assert card["stands_on"].startswith("1 stacks") and "10 cubes" in card["stands_on"] and card["marks"] == "somebody"
    box = card["cubes"]["box"]
    assert box["nodules"] == 10 and box["interval_95"][0] <= box["dice"] <= box["interval_95"][1]
    assert box["volume_ratio"] == pytest.approx(1, abs=0.15) and box["partial"] == box["leaked"] == 0
    assert "mark" in card["cubes"] and "mark" not in card["stacks"]
    assert sum(row[0] for name, row in card["groups"].items() if name.endswith("readers")) <= 10
    assert all(len(row) == 4 for row in card["groups"].values())
    assert 0.4 < card["band"]["held_out_of_fold"] <= 1
