"""From a prompt to a mask: the stage with a network made of numpy, the shipped network on balls and on readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import made_models
import made_reports
import real_scans
import small_scans
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt, NoEnd
from nodulens.methods.recipe import DEFAULT
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.prompts import DRAWN, ROUGH, Click, Prompt
from nodulens.stages.segment import (
    DRAWN_ROUNDS,
    POINT_MM,
    prompt_of_box,
    prompt_of_point,
    rough_cube,
    segment,
)
from nodulens.stages.user_prompts import UserPrompt

Batch = NDArray[np.float32]


class Brightness:
    """A segmenter that takes what is denser than −300 HU, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    @property
    def model(self) -> Model:
        return made_models.model(self)

    def __call__(self, batch: Batch) -> tuple[Batch]:
        self.seen.append(batch.copy())
        return (20 * (batch[:, :1] - 0.5),)


def volume_of(dense: NDArray[np.bool_], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.where(dense, 50, -850).astype(np.int16), Geometry.axial(dense.shape, spacing))


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.asarray(((index - np.array(centre)) ** 2).sum(-1) < radius**2)


SHAPE = (30, 40, 40)


def outlined(volume: Volume, prompt: Prompt, rounds: int = 1) -> NDArray[np.bool_]:
    box, mask = segment(volume, prompt, Brightness().model, rounds)
    assert mask.shape == box.shape and mask.any()
    assert Box.of_mask(mask) == Box((0, 0, 0), box.shape), "the box is tight"
    out = np.zeros(volume.geometry.shape, dtype=bool)
    out[box.slices] = mask
    return out


def test_the_mask_lies_on_what_was_pointed_at() -> None:
    dense = ball(SHAPE, (14, 20, 22), 6)
    mask = outlined(volume_of(dense), Prompt((8.0, 14.0, 16.0), (21.0, 27.0, 29.0), DRAWN))
    assert real_scans.dice(mask, dense) > 0.95


def test_a_second_look_follows_what_the_first_one_found() -> None:
    """A mark two thirds off and too small: one look cuts the ball, two hold all of it."""
    dense = ball(SHAPE, (14, 20, 22), 7)
    rough = Prompt((13.0, 21.0, 23.0), (21.0, 29.0, 31.0), ROUGH)
    first, second = (outlined(volume_of(dense), rough, rounds) for rounds in (1, 3))
    assert real_scans.dice(first, dense) < 0.6 < 0.9 < real_scans.dice(second, dense)


WIDE = (50, 60, 60)
"""Of voxels of 4 mm: 200 mm high, 240 mm wide."""


def airless(kind: str) -> NDArray[np.bool_]:
    """What a false mark may lie on: a chest wall along the lung, a collapsed lobe, a lung that is consolidated."""
    if kind == "wall":
        return np.broadcast_to(np.arange(60)[:, None] >= 40, WIDE)
    if kind == "lobe":
        return ball(WIDE, (25, 40, 30), 21) & (np.arange(60)[:, None] >= 34)
    return np.broadcast_to(np.arange(60) >= 28, WIDE)


@pytest.mark.parametrize("kind", ["wall", "lobe", "lung"])
@pytest.mark.parametrize("side", [3, 6])
def test_an_outline_without_an_end_is_refused(kind: str, side: int) -> None:
    volume = volume_of(airless(kind), (4.0, 4.0, 4.0))
    middle = np.array([25.0, 41.0, 32.0])
    rough = Prompt.between(middle - side / 2, middle + side / 2, ROUGH)
    with pytest.raises(NoEnd, match=r"at \(126\.0, 162\.0, 98\.0\) mm has no end .* at most 150 mm .* Draw a box"):
        segment(volume, rough, Brightness().model, DEFAULT.rounds_detected)
    drawn = Prompt.between(middle - side / 2, middle + side / 2, DRAWN)
    box, _ = segment(volume, drawn, Brightness().model, DRAWN_ROUNDS)
    assert max(box.shape) <= 2 * side, "a box that a person draws is an end"


def test_a_mass_is_outlined_whole_from_a_small_mark_on_it() -> None:
    dense = ball(WIDE, (25, 30, 30), 17.5)  # 140 mm across
    volume = volume_of(dense, (4.0, 4.0, 4.0))
    rough = Prompt((24.0, 30.0, 30.0), (29.0, 35.0, 35.0), ROUGH)
    box, mask = segment(volume, rough, Brightness().model, DEFAULT.rounds_detected)
    whole = np.zeros(WIDE, dtype=bool)
    whole[box.slices] = mask
    assert real_scans.dice(whole, dense) > 0.9


def test_each_look_is_told_how_far_to_trust_the_box_and_the_first_sees_the_mask() -> None:
    dense = ball(SHAPE, (14, 20, 22), 6)
    network = Brightness()
    segment(volume_of(dense), Prompt((8.0, 14.0, 16.0), (21.0, 27.0, 29.0), DRAWN), network.model, 2, dense)
    first, second = network.seen
    assert first.shape == second.shape == (4, 4, 32, 32, 32)
    assert first[0, 1].max() == DRAWN and second[0, 1].max() == ROUGH
    assert first[0, 2].max() == 1 and second[0, 2].max() == 0
    assert ((first[0, 2] > 0.5) == (first[0, 0] > 0.5)).mean() > 0.99, "the mask through the same window"


@pytest.mark.parametrize("half", [4.0, 6.0, 8.0])
def test_a_box_on_one_slice_says_how_far_the_outline_reaches(half: float) -> None:
    """A blob without an edge: 4, 6 and 8 are as good as one another, but for the box."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    away = np.sqrt(((index - np.array((14, 20, 20))) ** 2).sum(-1))
    volume = Volume((100 - 65 * away).clip(-1000).astype(np.int16), Geometry.axial(SHAPE, (1.0, 1.0, 1.0)))
    start, stop = np.full(3, 20.5 - half), np.full(3, 20.5 + half)
    start[0], stop[0] = 14, 15
    for prior, reaches in ((None, 2 * half), (away < 3, 12.5)):  # where there is a mask already, the network decides
        box, _ = segment(volume, prompt_of_box(volume, start, stop), Brightness().model, 1, prior)
        assert abs(box.shape[1] - reaches) <= 1.5 and abs(box.shape[2] - reaches) <= 1.5
        assert abs(box.start[1] + box.stop[1] - 41) <= 1


def test_only_the_piece_in_the_middle_stays_and_its_holes_are_filled() -> None:
    dense = ball(SHAPE, (14, 20, 20), 6) & ~ball(SHAPE, (14, 20, 20), 2)
    debris = ball(SHAPE, (14, 20, 29), 1.5)
    mask = outlined(volume_of(dense | debris), Prompt((7.0, 12.0, 10.0), (22.0, 29.0, 31.0), DRAWN))
    assert not mask[14, 20, 29]
    assert mask[14, 20, 20], "the cavity belongs to it"
    assert real_scans.dice(mask, ball(SHAPE, (14, 20, 20), 6)) > 0.93


def test_a_speck_in_the_middle_does_not_win_over_the_nodule_beside_it() -> None:
    dense = ball(SHAPE, (14, 20, 12), 5) | ball(SHAPE, (14, 20, 21), 1.2)
    mask = outlined(volume_of(dense), Prompt((9.0, 15.0, 13.0), (20.0, 26.0, 30.0), DRAWN))
    assert mask[14, 20, 14] and not mask[14, 20, 21]


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (29.0, 39.0, 39.0), (0.0, 39.0, 20.0)])
def test_a_nodule_at_the_edge_of_the_scan(centre: tuple[float, float, float]) -> None:
    dense = ball(SHAPE, centre, 6)
    middle = np.array(centre) + 0.5
    mask = outlined(volume_of(dense), Prompt(tuple(middle - 6.5), tuple(middle + 6.5), DRAWN), rounds=2)
    assert real_scans.dice(mask, dense) > 0.85


def test_a_second_click_takes_in_what_was_left_out_and_leaves_out_what_was_taken_in() -> None:
    """Two balls that touch are one to this network; a third stands apart."""
    first, second, apart = (ball(SHAPE, (14, 20, x), r) for x, r in ((12, 5), (20, 4), (30, 4)))
    volume = volume_of(first | second | apart)
    prompt = Prompt((9.0, 15.0, 7.0), (20.0, 26.0, 25.0), DRAWN)

    def corrected(*clicks: Click) -> NDArray[np.bool_]:
        box, mask = segment(volume, prompt, Brightness().model, 1, clicks=clicks)
        out = np.zeros(SHAPE, dtype=bool)
        out[box.slices] = mask
        return out

    plain = corrected()
    assert plain[14, 20, 20] and not plain[14, 20, 30]
    more = corrected(Click((14.0, 20.0, 30.0), inside=True))
    assert more[14, 20, 30] and real_scans.dice(more, first | second | apart) > 0.9
    less = corrected(Click((14.0, 20.0, 21.0), inside=False))
    assert not less[14, 20, 21] and less[14, 20, 12] and less.sum() < plain.sum()
    both = corrected(Click((14.0, 20.0, 30.0), inside=True), Click((14.0, 20.0, 21.0), inside=False))
    assert both[14, 20, 30] and not both[14, 20, 21]


def test_a_click_on_another_nodule_is_refused() -> None:
    first, second = ball((28, 36, 140), (14, 20, 12), 5), ball((28, 36, 140), (14, 20, 100), 4)
    prompt = Prompt((9.0, 15.0, 7.0), (20.0, 26.0, 18.0), DRAWN)
    with pytest.raises(BadPrompt, match=r"A point to include is 8[0-9] mm from the outline"):
        segment(
            volume_of(first | second), prompt, Brightness().model, 1, clicks=(Click((14.0, 20.0, 100.0), inside=True),)
        )


def test_a_click_finds_what_the_network_does_not_see() -> None:
    volume = volume_of(np.zeros(SHAPE, dtype=bool))
    prompt, there = rough_cube(volume, (20.0, 15.0, 10.0), 8.0), (10.0, 15.0, 20.0)
    box, mask = segment(volume, prompt, Brightness().model, 2, clicks=(Click(there, inside=True),))
    assert mask[tuple(np.subtract(there, box.start).astype(int))] and mask.sum() < 200
    with pytest.raises(BadPrompt, match="Nothing at"):
        segment(volume, prompt, Brightness().model, 2, clicks=(Click(there, inside=False),))


def test_the_network_sees_the_mask_and_the_clicks_that_correct_it() -> None:
    network = Brightness()
    clicks = (Click((14.0, 20.0, 22.0), inside=True), Click((14.0, 27.0, 22.0), inside=False))
    segment(
        volume_of(ball(SHAPE, (14, 20, 22), 6)),
        Prompt((8.0, 14.0, 16.0), (21.0, 27.0, 29.0), DRAWN),
        network.model,
        1,
        clicks=clicks,
    )
    first, second = network.seen
    assert not first[:, 2:].any()
    assert second[0, 2].max() == 1 and second[0, 3].max() > 0.8 and second[0, 3].min() < -0.8
    at = np.unravel_index(second[0, 3].argmax(), second[0, 3].shape)
    np.testing.assert_allclose(at, 15.5, atol=1.0)


def test_nothing_there_says_so_and_where() -> None:
    volume = volume_of(np.zeros(SHAPE, dtype=bool))
    with pytest.raises(BadPrompt, match=r"Nothing at \(20.0, 15.0, 10.0\) mm looks like a nodule"):
        segment(volume, rough_cube(volume, (20.0, 15.0, 10.0), 8.0), Brightness().model, 2)


def test_a_point_outside_and_boxes_outside_or_empty() -> None:
    volume = volume_of(np.zeros(SHAPE, dtype=bool))
    with pytest.raises(BadPrompt, match="outside the scan"):
        prompt_of_point(volume, (20.0, 15.0, 31.0))
    with pytest.raises(BadPrompt, match="outside the scan"):
        prompt_of_box(volume, np.array([31.0, 0.0, 0.0]), np.array([35.0, 5.0, 5.0]))
    with pytest.raises(BadPrompt, match="empty"):
        prompt_of_box(volume, np.array([5.0, 5.0, 5.0]), np.array([9.0, 5.0, 9.0]))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7)])
def test_cubes_are_cubes_in_millimetres(spacing: tuple[float, float, float]) -> None:
    volume = volume_of(np.zeros(SHAPE, dtype=bool), spacing)
    place = (11.0, 12.0, 13.0)
    for prompt, side in ((rough_cube(volume, place, 10.0), 10.0), (prompt_of_point(volume, place), POINT_MM)):
        start, stop = np.array(prompt.start), np.array(prompt.stop)
        np.testing.assert_allclose((stop - start) * spacing, side)
        np.testing.assert_allclose(volume.geometry.to_lps((start + stop) / 2 - 0.5), place)
        assert prompt.trust == ROUGH


def test_a_point_anywhere_in_a_nodule_gives_all_of_it() -> None:
    dense = ball((60, 60, 60), (30, 30, 30), 9)
    for place in ((33.0, 28.0, 31.0), (30.0, 30.0, 37.0)):
        volume = volume_of(dense)
        box, mask = segment(volume, prompt_of_point(volume, place), Brightness().model, 12)
        out = np.zeros_like(dense)
        out[box.slices] = mask
        assert real_scans.dice(out, dense) > 0.93


# ---- The network that ships


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load_model("segmenter")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("how", ["point", "box"])
def test_the_shipped_network_outlines_balls(shipped: Model, number: int, how: str) -> None:
    ct = small_scans.noisy()
    centre, diameter = made_reports.NODULES[number]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in ct.geometry.shape), indexing="ij"), -1)
    truth = ((ct.geometry.to_lps(index) - centre) ** 2).sum(-1) < (diameter / 2) ** 2
    tight = Box.of_mask(truth)
    drawn = Prompt(tuple(map(float, tight.start)), tuple(map(float, tight.stop)), DRAWN)  # type: ignore[arg-type]
    prompt, rounds = (prompt_of_point(ct, centre), DEFAULT.rounds_detected) if how == "point" else (drawn, 1)
    box, mask = segment(ct, prompt, shipped, rounds)
    out = np.zeros(truth.shape, dtype=bool)
    out[box.slices] = mask
    assert real_scans.dice(out, truth) > 0.75


@pytest.mark.parametrize("how", ["point", "box", "flat box", "mask"])
def test_the_shipped_network_agrees_with_readers_however_it_is_told(shared: Path, shipped: Model, how: str) -> None:
    """LIDC-IDRI-0001, 23 mm, never trained on: 3-D Dice with what at least half of the four readers outlined."""
    ct, _ = real_scans.analysed(shared, "LIDC-IDRI-0001")
    truth = real_scans.readers(shared).mean(axis=0) >= 0.5
    tight = Box.of_mask(truth)
    low, high = (ct.geometry.to_lps(np.array(end) - 0.5) for end in (tight.start, tight.stop))
    centre = ct.geometry.to_lps(np.argwhere(truth).mean(0))
    middle = float(centre[2])
    typed = {
        "point": (*centre,),
        "box": (*low, *high),
        "flat box": (*low[:2], middle, *high[:2], middle),
    }.get(how, ())
    if how == "mask":
        prompt = prompt_of_box(ct, np.array(tight.start, float), np.array(tight.stop, float))
        prior = real_scans.readers(shared)[0]
    else:
        given = UserPrompt(point=typed) if how == "point" else UserPrompt(box=typed)
        placed = given.on(ct, ct)
        prompt, prior = placed.box, placed.prior
        assert prior is None
    rounds = DEFAULT.rounds_detected if how == "point" else DRAWN_ROUNDS
    found, mask = segment(ct, prompt, shipped, rounds, prior)
    out = np.zeros(truth.shape, dtype=bool)
    out[found.slices] = mask
    assert real_scans.dice(out, truth) >= 0.75
