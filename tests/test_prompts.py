"""What a person points at, in any space and orientation, and what the networks then look through."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import made_reports
import small_scans
from nodulens.apps.prompts import typed_prompt, typed_region
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadPrompt
from nodulens.io import write_mask
from nodulens.ops.orient import canonical
from nodulens.ops.patches import Window
from nodulens.stages.prompts import CHANNELS, DRAWN, GRID, MARGIN, ROUGH, Prompt, box_channel
from nodulens.stages.segment import POINT_MM
from nodulens.stages.user_prompts import UserPrompt, misfit
from nodulens.stages.views import (
    BALL_VOXELS,
    FAR_MM,
    PATCH_PX,
    PLANE_MM,
    PLANE_PX,
    WHOLE_MM,
    ball_view,
    patch_view,
    plane_view,
    plane_window,
    representative_slices,
    soft_outline,
)

# ---- Windows


def smooth(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A linear ramp along each axis: interpolation gives it back exactly."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    return z + 10 * y - 3 * x


def test_a_window_on_the_voxels_is_the_array() -> None:
    array = smooth((6, 7, 8))
    window = Window.over(np.zeros(3), np.array([6.0, 7.0, 8.0]), (6, 7, 8))
    np.testing.assert_allclose(window.sample(array), array, atol=1e-5)
    box, back = window.project(array, (6, 7, 8), fill=0.0)
    assert box == Box((0, 0, 0), (6, 7, 8))
    np.testing.assert_allclose(back, array, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_a_window_sees_what_lies_at_its_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = smooth((20, 24, 28))
    start = rng.uniform(2, 6, 3)
    stop = start + rng.uniform(3, 12, 3)
    shape = (int(rng.integers(3, 20)), int(rng.integers(3, 20)), int(rng.integers(3, 20)))
    window = Window.over(start, stop, shape)
    points = [f + s * np.arange(n) for f, s, n in zip(window.first, window.step, shape, strict=True)]
    z, y, x = np.meshgrid(*points, indexing="ij")
    np.testing.assert_allclose(window.sample(array), z + 10 * y - 3 * x, atol=1e-3)
    # the outer faces are the ones asked for: half a step beyond the first and last point
    np.testing.assert_allclose([p[0] + 0.5 - s / 2 for p, s in zip(points, window.step, strict=True)], start)
    np.testing.assert_allclose([p[-1] + 0.5 + s / 2 for p, s in zip(points, window.step, strict=True)], stop)


@pytest.mark.parametrize("seed", range(8))
def test_there_and_back(seed: int) -> None:
    """A ball seen through a window finer than its voxels comes back as itself, in its place."""
    rng = np.random.default_rng(100 + seed)
    shape = (24, 30, 30)
    middle, radius = rng.uniform(11, 13, 3), 6.0
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    ball = ((index - middle) ** 2).sum(-1) < radius**2
    window = Prompt(tuple(middle + 0.5 - radius), tuple(middle + 0.5 + radius), DRAWN).window
    box, values = window.project(window.sample(ball), shape, fill=0.0)
    again = np.zeros(shape, dtype=bool)
    again[box.slices] = values > 0.5
    assert 2 * (again & ball).sum() / (again.sum() + ball.sum()) > 0.93
    np.testing.assert_allclose(np.argwhere(again).mean(0), np.argwhere(ball).mean(0), atol=0.15)


@pytest.mark.parametrize("corner", list(product((-1, 1), repeat=3)))
def test_windows_over_the_edge(corner: tuple[int, int, int]) -> None:
    """Beyond the array its edge values go on, and what is projected lies inside it."""
    shape = (10, 12, 14)
    array = smooth(shape)
    middle = np.where(np.array(corner) < 0, 0, np.array(shape))
    window = Window.over(middle - 4.0, middle + 4.0, (8, 8, 8))
    seen = window.sample(array)
    outermost = tuple(0 if c < 0 else -1 for c in corner)
    assert seen[outermost] == pytest.approx(array[outermost], abs=1e-4)
    box, values = window.project(seen, shape, fill=-10.0)
    assert values.shape == box.shape
    assert min(box.start) >= 0 and all(b <= n for b, n in zip(box.stop, shape, strict=True))
    np.testing.assert_allclose(values[1:-1, 1:-1, 1:-1], array[box.slices][1:-1, 1:-1, 1:-1], atol=1e-3)


@pytest.mark.parametrize("place", [-30.0, 40.0])
def test_a_window_off_the_array_still_gives_a_voxel(place: float) -> None:
    window = Window.over(np.full(3, place), np.full(3, place + 4), (4, 4, 4))
    assert np.isfinite(window.sample(smooth((8, 8, 8)))).all()
    box, values = window.project(np.zeros((4, 4, 4), np.float32), (8, 8, 8), fill=-10.0)
    assert min(box.shape) >= 1 and np.isfinite(values).all()


# ---- Prompts


def test_the_window_is_the_box_with_its_margin() -> None:
    prompt = Prompt((4.0, 10.0, 20.0), (8.0, 20.0, 24.0), DRAWN)
    window = prompt.window
    assert window.shape == GRID
    for start, stop, first, step, n in zip(prompt.start, prompt.stop, window.first, window.step, GRID, strict=True):
        assert step * n == pytest.approx(MARGIN * (stop - start))
        assert first + step * (n - 1) / 2 + 0.5 == pytest.approx((start + stop) / 2)


@pytest.mark.parametrize("trust", [DRAWN, ROUGH])
def test_a_box_on_a_slice_is_raised_to_the_mean_of_its_sides(trust: float) -> None:
    flat = Prompt((1.0, 10.0, 20.0), (9.0, 20.0, 26.0), trust).on_slice(4)
    assert flat == Prompt((4.0, 10.0, 20.0), (5.0, 20.0, 26.0), trust)
    raised = flat.raised((2.0, 0.5, 1.0))
    assert raised == Prompt((4.5 - 5.5 / 4, 10.0, 20.0), (4.5 + 5.5 / 4, 20.0, 26.0), trust, flat=True)


@pytest.mark.parametrize("trust", [DRAWN, ROUGH])
def test_the_box_channel_covers_the_box(trust: float) -> None:
    channel = box_channel(Prompt((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), trust))
    assert channel.shape == GRID
    assert channel.max() == pytest.approx(trust)
    assert channel.sum() / trust == pytest.approx(np.prod(GRID) / MARGIN**3, rel=1e-3)
    for axis in range(3):
        np.testing.assert_allclose(channel, np.flip(channel, axis), atol=1e-6)


def test_channels_are_image_box_and_earlier_mask() -> None:
    prompt = Prompt((0.0, 0.0, 0.0), (4.0, 8.0, 8.0), ROUGH)
    image, prior = np.full(GRID, 0.25, np.float32), np.ones(GRID, np.float32)
    with_prior, without = prompt.channels(image, prior), prompt.channels(image)
    assert with_prior.shape == (CHANNELS, *GRID) and with_prior.dtype == np.float32
    np.testing.assert_array_equal(with_prior[0], image)
    np.testing.assert_array_equal(with_prior[1], box_channel(prompt))
    assert with_prior[2].all() and not without[2].any()


# ---- Prompts as they are typed


def box_of(prompt: Prompt) -> NDArray[np.float64]:
    return np.array([prompt.start, prompt.stop])


def in_voxels(ct: Volume, index_zyx: NDArray[np.float64]) -> str:
    """Indices as read → x,y,z of the stored array, as a person counts them in another viewer."""
    z, y, x = index_zyx
    z = ct.geometry.shape[0] - 1 - z if ct.source.z_reversed else z
    return f"{x:g},{y:g},{z:g}"


WAYS = [((0, 1, 2), (False, False, False)), ((0, 2, 1), (True, False, True)), ((2, 0, 1), (False, True, False))]


def stored(ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool], *, z_reversed: bool) -> Volume:
    """A scan as a file may hold it."""
    turned = small_scans.turned(ct, axes, flips)
    return replace(turned, source=replace(turned.source, z_reversed=z_reversed))


@pytest.mark.parametrize("z_reversed", [False, True])
@pytest.mark.parametrize(("axes", "flips"), WAYS)
def test_a_point_is_the_same_in_both_spaces(
    ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool], z_reversed: bool
) -> None:
    turned = stored(ct, axes, flips, z_reversed=z_reversed)
    volume, _ = canonical(turned)
    centre = np.array(made_reports.NODULES[0][0])
    typed = ",".join(f"{v:g}" for v in centre)
    voxel = in_voxels(turned, turned.geometry.to_index(centre))
    placed = typed_prompt(typed, None, None, "lps").on(volume, turned)
    assert placed.prior is None and not placed.clicks
    a, b = placed.box, typed_prompt(voxel, None, None, "voxel").on(volume, turned).box
    np.testing.assert_allclose(box_of(a), box_of(b), atol=1e-3)
    middle = volume.geometry.to_lps(box_of(a).mean(0) - 0.5)
    np.testing.assert_allclose(middle, centre, atol=1e-3)
    np.testing.assert_allclose((box_of(a)[1] - box_of(a)[0]) * volume.geometry.spacing_zyx, POINT_MM, atol=1e-3)


@pytest.mark.parametrize("z_reversed", [False, True])
@pytest.mark.parametrize(("axes", "flips"), WAYS)
def test_a_box_is_the_same_in_both_spaces(
    ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool], z_reversed: bool
) -> None:
    turned = stored(ct, axes, flips, z_reversed=z_reversed)
    volume, orientation = canonical(turned)
    voxels = Box((21, 70, 120), (28, 84, 135))
    low = volume.geometry.to_lps(np.array(voxels.start) - 0.5)
    high = volume.geometry.to_lps(np.array(voxels.stop) - 0.5)
    typed = ",".join(f"{v:.6f}" for v in (*low, *high))
    as_read = orientation.invert_box(voxels)
    first, last = np.array(as_read.start, float), np.array(as_read.stop, float) - 1  # the last voxel belongs to it
    a = typed_prompt(None, typed, None, "lps").on(volume, turned).box
    corners = f"{in_voxels(turned, first)},{in_voxels(turned, last)}"
    b = typed_prompt(None, corners, None, "voxel").on(volume, turned).box
    for prompt in (a, b):
        np.testing.assert_allclose(box_of(prompt), [voxels.start, voxels.stop], atol=1e-3)
        assert prompt.trust == DRAWN


@pytest.mark.parametrize("space", ["lps", "voxel"])
def test_a_box_on_one_slice_is_as_high_as_it_is_wide(ct: Volume, space: str) -> None:
    low, high = ct.geometry.to_lps((25, 69.5, 119.5)), ct.geometry.to_lps((25, 84.5, 134.5))
    typed = {
        "lps": ",".join(f"{v:.6f}" for v in (*low[:2], low[2], *high[:2], low[2])),
        "voxel": "120,70,25,134,84,25",
    }[space]
    prompt = typed_prompt(None, typed, None, space).on(ct, ct).box  # type: ignore[arg-type]
    assert prompt.trust == DRAWN and prompt.flat
    (z0, y0, x0), (z1, y1, x1) = prompt.start, prompt.stop
    assert (z0 + z1) / 2 == pytest.approx(25.5)
    np.testing.assert_allclose([y0, x0, y1, x1], [70, 120, 85, 135], atol=1e-3)
    assert (z1 - z0) * 2.5 == pytest.approx(15 * 1.5)


def test_a_mask_on_any_grid(ct: Volume, tmp_path: Path) -> None:
    centre, diameter = made_reports.NODULES[0]
    fine = Geometry.axial((40, 60, 60), (1.0, 0.75, 0.75), tuple(np.subtract(centre, (22, 22, 20))))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in fine.shape), indexing="ij"), -1)
    ball = ((fine.to_lps(index) - centre) ** 2).sum(-1) < (diameter / 2) ** 2
    for name, flips in (("plain.nii.gz", (False,) * 3), ("turned.nii", (True, True, False))):
        labels = small_scans.turned_array(ball.astype(np.uint8), (0, 1, 2), flips)  # type: ignore[arg-type]
        grid = fine.transposed((0, 1, 2), flips)  # type: ignore[arg-type]
        write_mask(Mask(labels, grid, {1: "nodule"}), tmp_path / name)
        placed = typed_prompt(None, None, typed_region(tmp_path / name, None), "lps").on(ct, ct)
        prompt, prior = placed.box, placed.prior
        assert prior is not None
        volume = prior.sum() * ct.geometry.voxel_mm3
        assert volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.1)
        np.testing.assert_allclose(ct.geometry.to_lps(np.argwhere(prior).mean(0)), centre, atol=0.6)
        found = Box.of_mask(prior)
        np.testing.assert_allclose(box_of(prompt), [found.start, found.stop])
        assert prompt.trust == DRAWN


@pytest.mark.parametrize(
    ("typed", "phrase"),
    [
        ({"point": "1,2"}, "2 numbers; 3 are needed"),
        ({"point": "1,2,x"}, "not a list of numbers"),
        ({"point": "1,2,nan"}, "not a finite number"),
        ({"point": "1,2,9000"}, "outside the scan"),
        ({"box": "1,2,3"}, "3 numbers; 6 are needed"),
        ({"box": "10,0,0,0,10,10"}, "box is empty"),
        ({"box": "0,0,0,10,0,10"}, "box is empty"),
        ({"box": "900,900,0,910,910,10"}, "outside the scan"),
        ({"point": "0,0,50", "include": "1,2"}, "2 numbers; 3 are needed"),
        ({"point": "0,0,50", "exclude": "1,2,x"}, "not a list of numbers"),
        ({"point": "0,0,50", "include": "1,2,9000"}, "to include is outside the scan"),
        ({"point": "0,0,50", "exclude": "1,2,9000"}, "to exclude is outside the scan"),
    ],
)
def test_bad_prompts_are_named(ct: Volume, typed: dict[str, str], phrase: str) -> None:
    include, exclude = ([typed[kind]] if kind in typed else [] for kind in ("include", "exclude"))
    with pytest.raises(BadPrompt, match=phrase):
        typed_prompt(typed.get("point"), typed.get("box"), None, "lps", include, exclude).on(ct, ct)


@pytest.mark.parametrize("z_reversed", [False, True])
@pytest.mark.parametrize(("axes", "flips"), WAYS)
def test_corrections_are_the_same_in_both_spaces(
    ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool], z_reversed: bool
) -> None:
    turned = stored(ct, axes, flips, z_reversed=z_reversed)
    volume, _ = canonical(turned)
    voxels = ((21.0, 70.0, 120.0), (23.0, 68.0, 121.0))
    places = [volume.geometry.to_lps(voxel) for voxel in voxels]
    typed = [",".join(f"{v:.6f}" for v in place) for place in places]
    index = [in_voxels(turned, turned.geometry.to_index(place)) for place in places]
    for space, (own, other) in (("lps", typed), ("voxel", index)):
        placed = typed_prompt(own, None, None, space, [own], [other]).on(volume, turned)  # type: ignore[arg-type]
        assert [click.inside for click in placed.clicks] == [True, False]
        for click, voxel in zip(placed.clicks, voxels, strict=True):
            np.testing.assert_allclose(click.index, voxel, atol=1e-3)


def test_a_mask_of_nothing_here_is_named(ct: Volume, tmp_path: Path) -> None:
    elsewhere = Geometry.axial((4, 4, 4), (1.0, 1.0, 1.0), (5000.0, 0.0, 0.0))
    write_mask(Mask(np.ones((4, 4, 4), np.uint8), elsewhere, {1: "nodule"}), tmp_path / "off.nii.gz")
    write_mask(Mask(np.zeros(ct.geometry.shape, np.uint8), ct.geometry, {}), tmp_path / "empty.nii.gz")
    for name in ("off.nii.gz", "empty.nii.gz"):
        with pytest.raises(BadPrompt, match="has no voxel inside the scan"):
            typed_prompt(None, None, typed_region(tmp_path / name, None), "lps").on(ct, ct)


def test_a_point_is_not_excluded_where_it_is_the_nodules(ct: Volume) -> None:
    z, y, x = ct.geometry.shape[0] // 2, 70, 120
    own = ",".join(f"{v:.3f}" for v in ct.geometry.to_lps((z, y, x)))
    for include in ([], [own]):
        point = own if not include else ",".join(f"{v:.3f}" for v in ct.geometry.to_lps((z, y, x + 5)))
        with pytest.raises(BadPrompt, match="on the same voxel"):
            typed_prompt(point, None, None, "lps", include, [own]).on(ct, ct)


def two_balls(ct: Volume, apart_mm: float, radius_mm: float = 4.0) -> Mask:
    """A mask of two balls side by side, ``apart_mm`` from surface to surface."""
    middle = ct.geometry.to_lps(np.asarray(ct.geometry.shape) / 2)
    places = ct.geometry.to_lps(np.indices(ct.geometry.shape).reshape(3, -1).T)
    inside = np.zeros(ct.geometry.shape, bool)
    for way in (-1, 1):
        centre = middle + way * np.array([radius_mm + apart_mm / 2, 0.0, 0.0])
        inside |= (np.linalg.norm(places - centre, axis=1) < radius_mm).reshape(inside.shape)
    return Mask(inside.astype(np.uint8), ct.geometry, {1: "nodule"})


def test_a_mask_of_two_nodules_prompts_none(ct: Volume) -> None:
    assert UserPrompt(mask=two_balls(ct, 6.0)).on(ct, ct).prior is not None, "a gap in a nodule"
    with pytest.raises(BadPrompt, match=r"in 2 pieces more than 10 mm apart, at \("):
        UserPrompt(mask=two_balls(ct, 20.0)).on(ct, ct)


def test_an_outline_of_another_place_than_the_prompt_is_told(ct: Volume) -> None:
    x, y, z = ct.geometry.to_lps(np.asarray(ct.geometry.shape) / 2).tolist()

    def notes(centre: tuple[float, float, float], prompt: UserPrompt) -> str:
        places = ct.geometry.to_lps(np.indices(ct.geometry.shape).reshape(3, -1).T)
        inside = (np.linalg.norm(places - np.asarray(centre), axis=1) < 6.0).reshape(ct.geometry.shape)
        box = Box.of_mask(inside)
        return " ".join(misfit(prompt.on(ct, ct), box, inside[box.slices], ct))

    point, flat = UserPrompt(point=(x, y, z)), UserPrompt(box=(x - 6, y - 6, z, x + 6, y + 6, z))
    mask = UserPrompt(mask=two_balls(ct, 0.0))
    for prompt in (point, flat, mask):
        assert notes((x, y, z), prompt) == ""
    assert "The point that was given is 15 mm outside the outline" in notes((x + 20, y, z), point)
    assert "outside the box that was given" in notes((x + 12, y, z), flat)
    assert "hardly overlap" in notes((x + 20, y, z), mask)


@pytest.mark.parametrize("typed", [{"text": "largest nodule"}, {"mask": True}])
def test_a_space_of_no_numbers_is_refused(ct: Volume, tmp_path: Path, typed: dict[str, object]) -> None:
    write_mask(two_balls(ct, 0.0), tmp_path / "rough.nii.gz")
    region = typed_region(tmp_path / "rough.nii.gz", None) if "mask" in typed else None
    with pytest.raises(BadPrompt, match="--space is of the numbers"):
        typed_prompt(None, None, region, "voxel", text=typed.get("text"))  # type: ignore[arg-type]


# ---- Views


@pytest.fixture(scope="module")
def marked() -> Volume:
    """Air with one dense voxel, away from the middle, on anisotropic voxels."""
    hu = np.full((30, 80, 90), -1000, np.int16)
    hu[12, 33, 41] = 400
    return Volume(hu, Geometry.axial((30, 80, 90), (2.0, 0.8, 0.8), (5.0, -10.0, 30.0)))


def test_a_patch_has_its_centre_where_those_of_luna16_have_it(marked: Volume) -> None:
    view = patch_view(marked, np.array([12.2, 33.3, 40.8]), 6.0)
    assert view.shape == (PATCH_PX, PATCH_PX) and view.dtype == np.float32
    assert np.unravel_index(view.argmax(), view.shape) == (32, 32)
    assert view[32, 32] == 1 and view.sum() == 1


def test_a_ball_has_millimetres(marked: Volume) -> None:
    view = ball_view(marked, np.array([12.0, 33.0, 41.0]), 6.0)
    assert view.shape == (BALL_VOXELS,) * 3
    middle = np.array(np.unravel_index(view.argmax(), view.shape))
    np.testing.assert_allclose(middle, (BALL_VOXELS - 1) / 2, atol=0.51)
    offset = np.array([2, 5, -5])  # voxels: 4 mm down, 4 mm each way across
    view = ball_view(marked, np.array([12.0, 33.0, 41.0]) - offset, 6.0)
    place = (view * np.indices(view.shape)).sum(axis=(1, 2, 3)) / view.sum()
    np.testing.assert_allclose(place, (BALL_VOXELS - 1) / 2 + offset * (2.0, 0.8, 0.8), atol=0.1)


def test_large_candidates_are_seen_from_farther_away(marked: Volume) -> None:
    near, far = (ball_view(marked, np.array([12.0, 33.0, 36.0]), diameter) for diameter in (FAR_MM, 2 * FAR_MM))
    where = [(v * np.indices(v.shape)[2]).sum() / v.sum() - (BALL_VOXELS - 1) / 2 for v in (near, far)]
    assert where[0] == pytest.approx(4.0, abs=0.1) and where[1] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("corner", list(product((0, 1), repeat=3)))
def test_views_at_the_edges_of_the_scan(marked: Volume, corner: tuple[int, int, int]) -> None:
    place = np.array(corner) * (np.array(marked.geometry.shape) - 1.0)
    for diameter in (4.0, 45.0):
        for view in (patch_view(marked, place, diameter), ball_view(marked, place, diameter)):
            assert np.isfinite(view).all() and view.min() >= 0 and view.max() <= 1


def test_a_plane_is_as_wide_in_millimetres_whatever_the_pixels() -> None:
    for pixel in ((0.5, 0.5), (0.8, 0.6)):
        y, x = np.meshgrid(*((np.arange(120) - 50) * p for p in pixel), indexing="ij")
        disc = y**2 + x**2 < 8.0**2
        view = plane_view(disc.astype(np.float32), disc, plane_window(disc, pixel))
        assert view.shape == (2, PLANE_PX, PLANE_PX)
        np.testing.assert_allclose(view[0], view[1], atol=1e-6)
        assert view[1].sum() * PLANE_MM**2 == pytest.approx(np.pi * 64, rel=0.04)
        middle = (view[1] * np.indices((PLANE_PX, PLANE_PX))).sum(axis=(1, 2)) / view[1].sum()
        np.testing.assert_allclose(middle, (PLANE_PX - 1) / 2, atol=0.2)


def test_a_mass_is_seen_whole() -> None:
    """55 mm in a field of 45 mm: shown as long as the longest outline that still leaves room round it."""
    mask = np.zeros((120, 120), dtype=bool)
    mask[30:85, 40:70] = True
    view = plane_view(np.zeros(mask.shape, np.float32), mask, plane_window(mask, (1.0, 1.0)))
    rows, columns = (view[1].max(axis=axis) > 0.5 for axis in (1, 0))
    assert rows.sum() * PLANE_MM == pytest.approx(WHOLE_MM, abs=1.5)
    assert rows.sum() / columns.sum() == pytest.approx(55 / 30, rel=0.05)
    assert not rows[0] and not rows[-1]


def test_an_outline_moves_with_its_shift() -> None:
    disc = (np.hypot(*(np.indices((64, 64)) - 31.5)) < 12).astype(np.float32)
    inward, plain, outward = (soft_outline(disc, shift).sum() for shift in (-0.2, 0.0, 0.2))
    assert inward < plain < outward
    assert plain == pytest.approx(disc.sum(), rel=0.15)
    np.testing.assert_allclose(soft_outline(disc[None, None])[0, 0], soft_outline(disc))


def test_slices_that_tell() -> None:
    """At least 0.7 of the largest area, the five nearest it, in order."""
    areas = [1, 60, 80, 72, 100, 71, 69, 90, 75, 2]
    mask = np.zeros((len(areas), 10, 10), dtype=bool)
    for plane, area in zip(mask, areas, strict=True):
        plane.ravel()[:area] = True
    assert representative_slices(mask).tolist() == [2, 3, 4, 5, 7]
    assert representative_slices(mask[:1]).tolist() == [0]
