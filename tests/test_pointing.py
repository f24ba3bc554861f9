"""Boxes that a nodule is pointed at with, and the part of the scan it is shown in, against what is worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, BadPrompt
from nodulens.stages.position import locate
from nodulens.stages.prompted import prompt_of_annotation, prompt_of_outline, shaken, view_of
from nodulens.stages.prompts import DRAWN, Prompt

SHAPE, SPACING = (40, 100, 120), (2.5, 0.8, 0.8)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return Volume(np.full(SHAPE, -850, dtype=np.int16), Geometry.axial(SHAPE, SPACING, (-48.0, -40.0, -50.0)))


@pytest.fixture(scope="module")
def lungs(volume: Volume) -> Mask:
    """Two blocks, right (2) at low x, left (1) at high x."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:38, 10:90, 8:52] = 2
    labels[2:38, 10:90, 68:112] = 1
    return Mask(labels, volume.geometry, {1: "left lung", 2: "right lung"})


def test_an_annotation_gives_the_box_of_its_circle(volume: Volume) -> None:
    # Index (20, 50, 30); 12 mm: 12/2/2.5 = 2.4 → two slices up and down; 12/2/0.8 = 7.5 → 8 voxels all round.
    centre = tuple(volume.geometry.to_lps((20, 50, 30)))
    assert prompt_of_annotation(volume, centre, 12.0) == Prompt((18.0, 42.5, 22.5), (23.0, 58.5, 38.5), DRAWN)
    # Between slices the nearer one counts, in the plane the place as it is; a tiny one keeps one voxel all round.
    centre = tuple(volume.geometry.to_lps((20.4, 50.25, 30)))
    tiny = prompt_of_annotation(volume, centre, 0.5)
    assert np.allclose((tiny.start, tiny.stop), ((20, 49.75, 29.5), (21, 51.75, 31.5)))
    centre = tuple(volume.geometry.to_lps((1, 50, 118)))  # cut off where the scan ends
    edge = prompt_of_annotation(volume, centre, 20.0)
    assert edge.start[0] == 0 and edge.stop[2] == SHAPE[2]


def test_an_annotation_follows_the_direction_of_the_scan() -> None:
    direction = np.eye(3)[:, ::-1] * [1, 1, -1]  # columns rise towards the right
    volume = Volume(np.zeros(SHAPE, dtype=np.int16), Geometry(SHAPE, SPACING, (60.0, -40.0, -50.0), direction))
    prompt = prompt_of_annotation(volume, (60.0 - 0.8 * 30, 0.0, 0.0), 8.0)
    assert np.allclose((prompt.start, prompt.stop), ((18, 45.5, 25.5), (23, 55.5, 35.5)))


def test_an_annotation_that_is_none_is_refused(volume: Volume) -> None:
    for diameter in (0.0, -3.0, float("nan")):
        with pytest.raises(BadPrompt, match="diameter"):
            prompt_of_annotation(volume, (0.0, 0.0, 0.0), diameter)
    with pytest.raises(BadPrompt, match="outside the scan"):
        prompt_of_annotation(volume, (500.0, 0.0, 0.0), 8.0)


def test_shaking_moves_every_face_by_its_share_and_keeps_a_box() -> None:
    true = prompt_of_outline(Box((10, 20, 30), (20, 40, 40)))
    assert (true.start, true.stop) == ((10.0, 20.0, 30.0), (20.0, 40.0, 40.0))
    rng = np.random.default_rng(0)
    many = [shaken(true, rng, 0.1) for _ in range(2000)]
    off = np.array([np.subtract(p.start, true.start) for p in many])
    assert np.allclose(off.std(axis=0), [1.0, 2.0, 1.0], rtol=0.08) and np.allclose(off.mean(axis=0), 0, atol=0.15)
    wild = [shaken(true, rng, 3.0) for _ in range(200)]
    assert all(np.all(np.subtract(p.stop, p.start) >= np.multiply(0.3, (10, 20, 10)) - 1e-9) for p in wild)
    assert shaken(true, rng, 0.0) == true


def test_whole_slices_and_crops(volume: Volume) -> None:
    prompt = Prompt((10.0, 45.5, 20.25), (15.0, 55.5, 30.25), DRAWN)
    assert view_of(volume, prompt) == Box((10, 0, 0), (15, 100, 120))
    # 10 voxels of 0.8 mm: three times that is 24 mm, 15 voxels to each side of (50.5, 25.25).
    assert view_of(volume, prompt, "crop") == Box((10, 35, 10), (15, 66, 41))
    assert view_of(volume, Prompt((10.0, 2.0, 2.0), (15.0, 6.0, 6.0), DRAWN), "crop") == Box((10, 0, 0), (15, 19, 19))
    assert view_of(volume, Prompt((-3.0, -9.0, 90.0), (2.0, 9.0, 400.0), DRAWN)) == Box((0, 0, 0), (2, 100, 120))


@pytest.mark.parametrize(
    ("start", "stop", "slices"),
    [(9.5, 10.5, (9, 9)), (9.6, 10.4, (10, 10)), (9.4, 10.6, (9, 10)), (9.9, 10.2, (10, 10)), (3.0, 5.0, (3, 4))],
)
def test_the_slices_are_those_whose_middle_is_held(
    volume: Volume, start: float, stop: float, slices: tuple[int, int]
) -> None:
    shown = view_of(volume, Prompt((start, 10.0, 10.0), (stop, 20.0, 20.0), DRAWN))
    assert (shown.start[0], shown.stop[0] - 1) == slices


def test_the_lung_of_the_nodule_is_shown(volume: Volume, lungs: Mask) -> None:
    right = Prompt((10.0, 45.0, 20.0), (15.0, 55.0, 30.0), DRAWN)
    left = Prompt((10.0, 45.0, 105.0), (15.0, 55.0, 116.0), DRAWN)  # reaches out of the lung
    assert view_of(volume, right, "lung", lungs) == Box((10, 10, 8), (15, 90, 52))
    assert view_of(volume, left, "lung", lungs) == Box((10, 10, 68), (15, 90, 116))


@pytest.mark.parametrize("middle", [(30, 30, 30), (20, 25, 30), (8, 70, 30), (25, 75, 90), (30, 30, 90)])
def test_the_lobe_shown_is_the_lobe_reported(volume: Volume, lungs: Mask, middle: tuple[int, int, int]) -> None:
    held = Box.around(middle, (5, 7, 7))
    shown = view_of(volume, prompt_of_outline(held), "lobe", lungs)
    assert all(a <= b for a, b in zip(shown.start, held.start, strict=True))
    assert all(a >= b for a, b in zip(shown.stop, held.stop, strict=True))
    one = np.ones((1, 1, 1), dtype=bool)
    own = locate(volume, Box.around(middle, (1, 1, 1)), one, lungs).lobe_estimate
    labels, z = lungs.labels, held.start[0]
    rows = [
        y
        for y in range(10, 90)
        if locate(volume, Box.around((z, y, middle[2]), (1, 1, 1)), one, lungs).lobe_estimate == own
    ]
    assert labels[z, rows[0], middle[2]] and shown.start[1] <= rows[0] and shown.stop[1] > rows[-1]
    assert shown.shape[1] < 80 + 1 and shown.start[2] == (8 if middle[2] < 60 else 68)


def test_what_cannot_be_shown_is_refused(volume: Volume, lungs: Mask) -> None:
    prompt = Prompt((10.0, 45.0, 20.0), (15.0, 55.0, 30.0), DRAWN)
    with pytest.raises(BadOption, match="needs the lungs"):
        view_of(volume, prompt, "lobe")
    with pytest.raises(BadOption, match="'chest'"):
        view_of(volume, prompt, "chest", lungs)  # type: ignore[arg-type]
    for start, stop in (((50, 0, 0), (60, 9, 9)), ((5, 5, 5), (5, 9, 9)), ((-9, 0, 0), (-1, 9, 9))):
        with pytest.raises(BadPrompt, match="empty or outside"):
            view_of(volume, Prompt(start, stop, DRAWN))
    none = Mask(np.zeros(SHAPE, dtype=np.uint8), volume.geometry, lungs.names)
    assert view_of(volume, prompt, "lung", none) == Box((10, 45, 20), (15, 55, 30))
