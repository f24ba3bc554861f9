"""Rendered nodules: closed bodies on any grid, exact truth, looks that follow the ratings, the scan's own grain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from nodulens import io
from nodulens.apps.cli import app
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Point
from nodulens.core.volume import Mask, Source, Volume
from nodulens.data.folds import EVALUATION_PATIENTS, fold_of
from nodulens.data.material import Stacks
from nodulens.data.phantom import phantom_ct
from nodulens.data.render import Rendered, render, render_many, scanner_at
from nodulens.data.shapes import Shape, check_allowed, stack_shapes
from nodulens.errors import BadOption
from nodulens.stages.lungs import segment_lungs

MIDDLE = (30, 45, 45)


def ball(diameter: float = 12.0, spacing: Point = (1.25, 0.7, 0.7), **ratings: float) -> Shape:
    """A ball as a reader would draw it, slice by slice."""
    axes = [(np.arange(n) - n // 2) * s for n, s in zip((41, 48, 48), spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return Shape((z**2 + y**2 + x**2 < diameter**2 / 4).astype(np.float32), spacing, ratings, "")


def lump(rng: np.random.Generator) -> Shape:
    """An ellipsoid with lobes, turned, on a grid of its own."""
    spacing = (float(rng.choice([0.625, 1.25, 2.5])), *[float(rng.uniform(0.5, 0.9))] * 2)
    axes = [(np.arange(n) - n // 2) * s for n, s in zip((33, 40, 40), spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ Rotation.random(random_state=rng).as_matrix()
    body = np.square(points / rng.uniform(2.5, 6, 3)).sum(-1) < 1
    body |= np.square((points - rng.uniform(-4, 4, 3)) / rng.uniform(2.5, 4)).sum(-1) < 1
    return Shape(body.astype(np.float32), spacing, {}, "")


def lung(geometry: Geometry, noise: float = 25.0, grain_px: float = 0.0) -> Volume:
    """Nothing but lung, with noise of a deviation and a grain within the slices."""
    white = np.random.default_rng(7).standard_normal(geometry.shape, dtype=np.float32)
    made = ndimage.gaussian_filter(white, (0, grain_px, grain_px))
    return Volume((made / made.std() * noise - 850).astype(np.float32), geometry)


def plain(noise: float = 25.0, grain_px: float = 0.0) -> Volume:
    return lung(Geometry.axial((60, 90, 90), (1.25, 0.7, 0.7), (-30.0, 10.0, -200.0)), noise, grain_px)


def middle_of(volume: Volume) -> Point:
    x, y, z = (float(v) for v in volume.geometry.to_lps(MIDDLE))
    return x, y, z


def half_contrast_dice(made: Rendered) -> float:
    """Against the connected part above the mean of the nodule's and its surroundings' medians."""
    truth, hu = made.truth.labels > 0, made.piece.hu
    labels, _ = ndimage.label(hu > (np.median(hu[truth]) + np.median(hu[made.share == 0])) / 2)
    found = labels == np.bincount(labels[truth], minlength=2)[1:].argmax() + 1
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


# ---- bodies


@pytest.mark.parametrize("seed", range(8))
def test_any_grid_shows_the_same_body_in_the_same_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = lump(rng)
    direction = Rotation.random(random_state=rng).as_matrix() if seed % 2 else np.eye(3)[:, ::-1]
    spacing = tuple(float(v) for v in rng.uniform(0.5, 1.0, 3) * (rng.choice([1, 2.5]), 1, 1))
    origin = tuple(float(v) for v in rng.uniform(-100, 100, 3))
    volume = lung(Geometry((60, 70, 70), spacing, origin, direction))  # type: ignore[arg-type]
    x, y, z = (float(v) for v in volume.geometry.to_lps(rng.uniform(-0.5, 0.5, 3) + np.array([30, 35, 35])))
    made = render(volume, shape, (x, y, z), seed=seed)

    asked = made.piece.geometry.to_index((x, y, z))
    assert np.abs(np.subtract(ndimage.center_of_mass(made.share), asked)).max() < 0.5
    assert np.abs(np.subtract(ndimage.center_of_mass(made.truth.labels), asked)).max() < 0.6
    assert made.share.sum() * volume.geometry.voxel_mm3 == pytest.approx(shape.volume_mm3, rel=0.05)
    assert made.piece.geometry == volume.geometry.crop(made.box)


def test_a_body_lies_the_way_it_was_drawn() -> None:
    """More of it towards superior, posterior and left stays there, on a grid whose axes run otherwise."""
    share = np.zeros((9, 40, 40), np.float32)
    share[2:7, 10:30, 18:22] = 1  # a bar along y …
    share[5:7, 26:30, 10:30] = 1  # … with a foot at its upper posterior end …
    share[5:7, 26:30, 22:34] = 1  # … longer towards the left
    shape = Shape(share, (1.0, 0.7, 0.7), {}, "")
    grid = Geometry((70, 60, 50), (0.8, 0.6, 0.7), (20.0, 30.0, 40.0), np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]]).T)
    x, y, z = (float(v) for v in grid.to_lps((35, 30, 25)))
    made = render(lung(grid), shape, (x, y, z), seed=0)
    there = grid.crop(made.box).to_lps(np.argwhere(made.share > 0.5)) - (x, y, z)
    index = (np.argwhere(share > 0.5) - ndimage.center_of_mass(share)) * shape.spacing_zyx
    skew, wanted = (np.mean(p**3, axis=0) for p in (there, index[:, ::-1]))
    assert np.sign(skew).tolist() == np.sign(wanted).tolist()
    assert skew == pytest.approx(wanted, rel=0.35, abs=5)


def test_between_slices_the_outline_moves_and_beyond_them_it_closes() -> None:
    y, x = np.mgrid[:40, :40] - 20.0
    share = np.stack([np.hypot(y, x) < r for r in (10, 6)]).astype(np.float32)
    shape = Shape(share, (4.0, 0.5, 0.5), {}, "")
    grid = Geometry.axial((81, 41, 41), (0.2, 0.5, 0.5), (-10.0, -10.0, -8.0))
    inside = shape.distance_at((0, 0, 0), grid) < 0
    radius = np.sqrt(inside.sum((1, 2)) / np.pi) * 0.5
    height = np.arange(81) * 0.2 - 8
    filled = np.flatnonzero(inside.any((1, 2)))
    # from three quarters of a spacing below the first slice to as much above the second
    assert height[filled[-1]] - height[filled[0]] == pytest.approx(4 * 2.5, abs=0.5)
    first = height[filled[0]] + 3.0
    at = lambda z: float(np.interp(z, height, radius))  # noqa: E731
    assert (at(first), at(first + 2), at(first + 4)) == pytest.approx((5, 4, 3), abs=0.25)
    assert inside.sum() * 0.05 == pytest.approx(shape.volume_mm3, rel=0.06)


def test_one_slice_and_one_pixel_are_bodies_too() -> None:
    for size in (1, 4):
        share = np.zeros((1, 12, 12), np.float32)
        share[0, 5 : 5 + size, 5 : 5 + size] = 1
        shape = Shape(share, (2.5, 0.7, 0.7), {}, "")
        made = render(plain(), shape, middle_of(plain()), seed=1)
        assert made.truth.labels.any()
        assert made.share.sum() * plain().geometry.voxel_mm3 == pytest.approx(shape.volume_mm3, rel=0.25)


def test_turning_keeps_the_volume_and_the_spacing_of_each_axis() -> None:
    shape = Shape(np.ones((2, 3, 5), np.float32), (2.0, 0.5, 0.8), {}, "")
    for seed in range(8):
        turned = shape.turned(np.random.default_rng(seed))
        extent = [n * s for n, s in zip(turned.share.shape, turned.spacing_zyx, strict=True)]
        assert sorted(extent) == pytest.approx([1.5, 4.0, 4.0]) and turned.volume_mm3 == shape.volume_mm3


# ---- what is written


def test_the_seed_decides_and_nothing_else_does() -> None:
    volume, shape = plain(), ball(texture=3, margin=2)
    first, again, other = (render(volume, shape, middle_of(volume), seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.piece.hu, again.piece.hu) and np.array_equal(first.share, again.share)
    assert not np.array_equal(first.piece.hu, other.piece.hu)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_scan_keeps_its_type_and_what_is_far_stays(dtype: type) -> None:
    volume = replace(plain(), hu=plain().hu.astype(dtype))
    made = render(volume, ball(6), middle_of(volume), seed=0)
    assert made.piece.hu.dtype == dtype
    before = volume.hu[made.box.slices]
    assert made.piece.hu[0, 0, 0] == pytest.approx(before[0, 0, 0], abs=2)
    assert float(np.abs(made.piece.hu - before)[made.truth.labels > 0].mean()) > 400


def test_a_nodule_at_the_rim_of_the_scan_is_cut_off() -> None:
    volume = plain()
    x, y, z = (float(v) for v in volume.geometry.to_lps((0, 0, 89)))
    made = render(volume, ball(10), (x, y, z), seed=0)
    assert made.box.start[:2] == (0, 0) and made.box.stop[2] == 90
    eighth = made.share.sum() * volume.geometry.voxel_mm3 / ball(10).volume_mm3
    assert 0.1 < eighth < 0.25
    with pytest.raises(BadOption, match="outside the scan"):
        render(volume, ball(10), (x + 5, y, z), seed=0)


def test_half_contrast_finds_the_truth_again() -> None:
    for diameter in (6, 10, 20):
        dice = [half_contrast_dice(render(plain(), ball(diameter), middle_of(plain()), seed=s)) for s in range(4)]
        assert np.mean(dice) > 0.88


def test_real_outlines_of_solid_nodules_are_found_again(shared: Path) -> None:
    shapes = [s for s in stack_shapes(Stacks(shared)).values() if s.diameter_mm >= 6 and s.ratings["texture"] >= 4.5]
    volume = lung(Geometry.axial((70, 120, 120), (1.25, 0.7, 0.7)))
    centre = volume.geometry.to_lps((35, 60, 60))
    some = [shapes[i] for i in np.random.default_rng(0).choice(len(shapes), 25, replace=False)]
    dice = [half_contrast_dice(render(volume, s, tuple(centre), seed=0)) for s in some]
    assert np.mean(dice) > 0.85


# ---- looks


def inner(made: Rendered, depth_mm: float = 1.5) -> NDArray[np.bool_]:
    deep = ndimage.distance_transform_edt(made.truth.labels, sampling=made.piece.geometry.spacing_zyx)
    return np.asarray(deep > depth_mm)


def test_texture_goes_from_ground_glass_to_solid() -> None:
    means = []
    for texture in (1, 3, 5):
        made = [render(plain(), ball(14, texture=texture), middle_of(plain()), seed=s) for s in range(4)]
        means.append(np.mean([m.piece.hu[inner(m)].mean() for m in made]))
    assert -750 < means[0] < -500 < means[1] < -100 < means[2] < 100


def test_a_part_solid_nodule_has_both_parts() -> None:
    made = render(plain(), ball(18, texture=3), middle_of(plain()), seed=2)
    smooth = ndimage.gaussian_filter(made.piece.hu, 1)[inner(made)]
    assert (smooth > -200).mean() > 0.08 and (smooth < -350).mean() > 0.3


def test_a_poor_margin_is_softer() -> None:
    def edge_mm(margin: float) -> float:
        made = render(plain(0.1), ball(16, texture=5, margin=margin), middle_of(plain()), seed=5)
        hu = made.piece.hu
        return float(((hu > -650) & (hu < -150)).sum() / (made.share > 0).sum())

    assert edge_mm(1) > 1.2 * edge_mm(5)


@pytest.mark.parametrize(("code", "least"), [(1, 0.05), (2, 0.2), (3, 0.95), (4, 0.02), (5, 0.1)])
def test_every_kind_of_calcification_shows(code: int, least: float) -> None:
    made = [render(plain(), ball(14, calcification=code), middle_of(plain()), seed=s) for s in range(3)]
    assert np.mean([(m.piece.hu[inner(m)] > 200).mean() for m in made]) > least
    soft = render(plain(), ball(14, calcification=6), middle_of(plain()), seed=1)
    assert (soft.piece.hu[inner(soft)] > 250).mean() < 0.01


def test_calcium_is_central_or_aside_as_rated() -> None:
    def off_centre(code: int) -> float:
        made = render(plain(), ball(16, calcification=code), middle_of(plain()), seed=3)
        bright = ndimage.gaussian_filter(made.piece.hu, 0.7) > 200
        asked = made.piece.geometry.to_index(made.place)
        return float(np.linalg.norm((ndimage.center_of_mass(bright) - asked) * made.piece.geometry.spacing_zyx))

    assert off_centre(5) < 0.7 < off_centre(4)


def test_vessels_run_on_through_ground_glass_and_bone_is_not_thinned() -> None:
    volume = plain()
    hu = volume.hu.copy()
    hu[28:33, 44:48] = 40  # a vessel along x
    hu[:, :38] = 700  # bone beside it
    made = render(replace(volume, hu=hu), ball(14, texture=1), middle_of(volume), seed=0)
    after = hu.copy()
    after[made.box.slices] = made.piece.hu
    assert after[30, 45:47, 40:50].mean() == pytest.approx(40, abs=30)
    assert (after - hu)[:, :36].min() > -120 and (after - hu)[:, :36].mean() > -5


# ---- the scan


@pytest.mark.parametrize("grain_px", [0.0, 0.8])
def test_the_noise_inside_is_that_around(grain_px: float) -> None:
    volume = plain(40.0, grain_px)
    made = render(volume, ball(26, texture=5), middle_of(volume), seed=0)
    core = made.piece.hu - ndimage.gaussian_filter(made.piece.hu, (0, 2, 2))
    around = volume.hu - ndimage.gaussian_filter(volume.hu, (0, 2, 2))
    deep = inner(made, 4.0)
    assert core[deep].std() == pytest.approx(0.85 * around.std(), rel=0.2)

    def beside(values: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
        pair = where[..., 1:] & where[..., :-1]
        return float((values[..., 1:] * values[..., :-1])[pair].mean() / values[where].var())

    assert beside(core, deep) == pytest.approx(beside(around, np.ones_like(around, dtype=bool)), abs=0.15)


@pytest.mark.parametrize("blur_mm", [0.5, 0.9])
def test_the_blur_is_read_off_the_edges(blur_mm: float) -> None:
    hu = np.full((9, 80 * 8, 80 * 8), -850, np.float32)[:1]
    hu[:, :, 300:] = 40
    y, x = np.mgrid[: 80 * 8, : 80 * 8]
    hu[0][np.hypot(y - 320, x - 150) < 60] = 40
    fine = ndimage.gaussian_filter(hu[0], blur_mm / 0.7 * 8)
    image = fine.reshape(80, 8, 80, 8).mean((1, 3))
    volume = Volume(np.repeat(image[None], 9, axis=0), Geometry.axial((9, 80, 80), (2.5, 0.7, 0.7)))
    found = scanner_at(volume, np.array([4.0, 40.0, 36.0]))
    assert found.blur_mm[1] == pytest.approx(blur_mm, rel=0.3)
    assert found.blur_mm[0] == 0
    thick = replace(volume, source=Source(slice_thickness_mm=5.0))
    assert scanner_at(thick, np.array([4.0, 40.0, 36.0])).blur_mm[0] == pytest.approx(np.sqrt((25 - 6.25) / 12))


# ---- many


@pytest.fixture(scope="module")
def chest() -> tuple[Volume, Mask]:
    volume, _ = phantom_ct(0, (4.0, 1.6, 1.6))
    return volume, segment_lungs(volume)


def test_many_nodules_lie_in_the_lungs_and_apart(chest: tuple[Volume, Mask]) -> None:
    volume, lungs = chest
    shapes = [ball(d, texture=t) for d, t in ((5, 5), (8, 3), (12, 1), (16, 5), (9, 5), (7, 5))]
    made = render_many(volume, lungs, shapes, seed=1, juxtapleural=0)
    assert np.array_equal(np.unique(made.truth.labels), np.arange(7))
    assert (lungs.labels[made.truth.labels > 0] > 0).mean() > 0.98
    merged, count = ndimage.label(made.truth.labels > 0)
    assert count == 6 and merged.max() == 6
    for number, (nodule, shape) in enumerate(zip(made.nodules, shapes, strict=True), 1):
        assert nodule.shape is shape
        assert (made.truth.of(f"nodule {number}")[nodule.box.slices] == (nodule.truth.labels > 0)).all()
    changed = made.volume.hu != volume.hu
    boxes = np.zeros_like(changed)
    for nodule in made.nodules:
        boxes[nodule.box.slices] = True
    assert not (changed & ~boxes).any() and made.volume.hu.dtype == volume.hu.dtype
    again = render_many(volume, lungs, shapes, seed=1, juxtapleural=0)
    assert np.array_equal(made.volume.hu, again.volume.hu)


def test_at_the_edge_of_the_lung_the_body_ends_with_the_lung(chest: tuple[Volume, Mask]) -> None:
    volume, lungs = chest
    made = render_many(volume, lungs, [ball(14)] * 4, seed=0, juxtapleural=1)
    lung = lungs.labels > 0
    away = ndimage.distance_transform_edt(~lung, sampling=volume.geometry.spacing_zyx)
    spacing = max(volume.geometry.spacing_zyx)
    for number in range(1, 5):
        body = made.truth.labels == number
        assert away[body].max() <= 1.0 + spacing
        rim = ndimage.binary_dilation(body, iterations=2)
        assert (~lung[rim]).any()


def test_what_cannot_be_placed_is_refused(chest: tuple[Volume, Mask]) -> None:
    volume, lungs = chest
    with pytest.raises(BadOption, match="No room"):
        render_many(volume, lungs, [ball(60, (2.5, 1.5, 1.5))] * 40, seed=0)
    with pytest.raises(BadOption, match="on a grid of shape"):
        render_many(plain(), lungs, [ball()], seed=0)
    with pytest.raises(BadOption, match="empty"):
        render_many(volume, Mask(np.zeros_like(lungs.labels), lungs.geometry, {}), [ball()], seed=0)


# ---- whose outlines


def test_evaluation_patients_are_never_rendered() -> None:
    for patient in EVALUATION_PATIENTS:
        with pytest.raises(BadOption, match=f"{patient}.*evaluation"):
            replace(ball(), patient=patient)
        with pytest.raises(BadOption, match=f"{patient}.*evaluation"):
            check_allowed([patient], {patient})


def test_only_known_patients_of_other_folds_are_allowed() -> None:
    known = {"LIDC-IDRI-0100", "LIDC-IDRI-0101"}
    check_allowed(known, known)
    with pytest.raises(BadOption, match="LIDC-IDRI-0999 is not among the patients"):
        check_allowed(["LIDC-IDRI-0100", "LIDC-IDRI-0999"], known)
    fold = fold_of("LIDC-IDRI-0100")
    with pytest.raises(BadOption, match=f"LIDC-IDRI-0100 belongs to fold {fold}, which is left out"):
        check_allowed(["LIDC-IDRI-0100"], known, left_out=fold)
    check_allowed(["LIDC-IDRI-0100"], known, left_out=(fold + 1) % 5)


def test_outlines_of_the_stacks_leave_out_whom_they_must(data: Path) -> None:
    stacks = Stacks(data)
    shapes = stack_shapes(stacks, left_out=2)
    assert shapes and all(fold_of(s.patient) != 2 and s.patient not in EVALUATION_PATIENTS for s in shapes.values())
    number, shape = next(iter(shapes.items()))
    assert np.array_equal(shape.share, stacks.share(number)) and shape.spacing_zyx == pytest.approx((2.0, 0.7, 0.7))
    assert shape.ratings["malignancy"] == stacks.ratings.median("malignancy")[number]


def test_an_empty_outline_is_no_shape() -> None:
    with pytest.raises(BadOption, match="holds nothing"):
        Shape(np.full((3, 4, 4), 0.4, np.float32), (1.0, 1.0, 1.0), {}, "LIDC-IDRI-0100")


# ---- the command


def test_render_command(chest: tuple[Volume, Mask], data: Path, tmp_path: Path) -> None:
    io.write_volume(chest[0], tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    line = ["data", "render", str(tmp_path / "scan.nii.gz"), "-o", str(out), "--data", str(data)]
    line += ["--nodules", "3", "--seed", "1", "--between-mm", "6", "14"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    listed = json.loads((out / "nodules.json").read_text("utf-8"))
    labels = io.read_mask(out / "nodules.nii.gz")
    assert listed["schema"] == "nodulens-rendered/1" and [n["label"] for n in listed["nodules"]] == [1, 2, 3]
    for nodule in listed["nodules"]:
        there = np.argwhere(labels.labels == nodule["label"])
        assert np.linalg.norm(labels.geometry.to_lps(there.mean(0)) - nodule["place_lps"]) < 4
        assert nodule["outline_of"] not in EVALUATION_PATIENTS
    assert not np.array_equal(io.read(out / "ct.nii.gz").hu, chest[0].hu)
    assert isinstance(CliRunner().invoke(app, line).exception, BadOption)  # never into a folder that holds something
