"""Grids against SimpleITK as an oracle, on random oblique anisotropic grids of both handednesses."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import SliceRef, Source, Volume
from nodulens.errors import BadGeometry
from nodulens.ops.orient import canonical

SEEDS = range(12)


def random_grid(seed: int) -> tuple[Geometry, sitk.Image]:
    """A random grid, and an image on it whose voxels are all different.

    The image is built from components in SimpleITK's own order (x, y, z), not through the code under test.
    """
    rng = np.random.default_rng(seed)
    size_xyz = [int(n) for n in rng.integers(4, 12, 3)]
    spacing_xyz = [float(s) for s in rng.uniform(0.4, 5, 3)]
    origin = [float(o) for o in rng.uniform(-300, 300, 3)]
    direction_xyz = Rotation.random(rng=rng).as_matrix()
    if seed % 2:
        direction_xyz[:, 2] *= -1
    voxels = rng.permutation(int(np.prod(size_xyz))).astype(np.int16).reshape(size_xyz[::-1])
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin)
    image.SetDirection([float(d) for d in direction_xyz.ravel()])
    geometry = Geometry(
        (size_xyz[2], size_xyz[1], size_xyz[0]),
        (spacing_xyz[2], spacing_xyz[1], spacing_xyz[0]),
        (origin[0], origin[1], origin[2]),
        direction_xyz[:, ::-1],
    )
    return geometry, image


def same_grid(geometry: Geometry, image: sitk.Image) -> None:
    assert geometry.shape == image.GetSize()[::-1]
    np.testing.assert_allclose(geometry.spacing_zyx, image.GetSpacing()[::-1])
    np.testing.assert_allclose(geometry.origin_lps, image.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(geometry.direction[:, ::-1].ravel(), image.GetDirection(), atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_points(seed: int) -> None:
    geometry, image = random_grid(seed)
    indices = np.random.default_rng(seed).uniform(-3, 15, (20, 3))
    expected = [image.TransformContinuousIndexToPhysicalPoint([float(v) for v in i[::-1]]) for i in indices]
    np.testing.assert_allclose(geometry.to_lps(indices), expected, atol=1e-9)
    np.testing.assert_allclose(geometry.to_index(expected), indices, atol=1e-9)
    np.testing.assert_allclose(geometry.to_lps(indices[0]), expected[0], atol=1e-9)
    np.testing.assert_allclose((geometry.affine @ [*indices[0], 1])[:3], expected[0], atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_crop(seed: int) -> None:
    geometry, image = random_grid(seed)
    volume = Volume(sitk.GetArrayFromImage(image), geometry)
    box = Box((1, 0, 2), (3, 4, 4))
    roi = sitk.RegionOfInterest(image, [2, 4, 2], [2, 0, 1])
    same_grid(volume.crop(box).geometry, roi)
    np.testing.assert_array_equal(volume.crop(box).hu, sitk.GetArrayFromImage(roi))

    beyond = Box((-2, -1, -3), tuple(n + 2 for n in geometry.shape))  # type: ignore[arg-type]
    padded = sitk.ConstantPad(image, [3, 1, 2], [2, 2, 2], -1000)
    # ConstantPad keeps the origin and starts its index below zero; the array's corner is that index.
    corner = image.TransformIndexToPhysicalPoint([-3, -1, -2])
    np.testing.assert_allclose(volume.crop(beyond).geometry.origin_lps, corner, atol=1e-9)
    np.testing.assert_array_equal(volume.crop(beyond).hu, sitk.GetArrayFromImage(padded))


@pytest.mark.parametrize("seed", SEEDS)
def test_respacing_keeps_the_outer_corner(seed: int) -> None:
    geometry, image = random_grid(seed)
    wanted = np.random.default_rng(seed).uniform(0.5, 4, 3)
    fine = geometry.respaced(wanted)
    corner = image.TransformContinuousIndexToPhysicalPoint([-0.5, -0.5, -0.5])
    np.testing.assert_allclose(fine.to_lps([-0.5, -0.5, -0.5]), corner, atol=1e-9)
    np.testing.assert_allclose(fine.spacing_zyx, wanted)
    # The far corner moves by at most half a new voxel on each axis, because the size must be whole.
    far = fine.to_index(geometry.to_lps(np.asarray(geometry.shape) - 0.5)) - (np.asarray(fine.shape) - 0.5)
    assert np.abs(far).max() <= 0.5 + 1e-9
    same_grid(geometry.respaced(geometry.spacing_zyx), image)


@pytest.mark.parametrize("seed", SEEDS)
def test_transposing(seed: int) -> None:
    geometry, image = random_grid(seed)
    for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        turned = sitk.PermuteAxes(image, [2 - axes[2], 2 - axes[1], 2 - axes[0]])
        turned = sitk.Flip(turned, [bool(f) for f in flips[::-1]])
        same_grid(geometry.transposed(axes, flips), turned)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_contains(seed: int) -> None:
    geometry, _ = random_grid(seed)
    last = np.asarray(geometry.shape) - 0.5
    assert geometry.contains(geometry.to_lps([-0.49, -0.49, -0.49]))
    assert geometry.contains(geometry.to_lps(last - 0.01))
    assert not geometry.contains(geometry.to_lps([-0.51, 0, 0]))
    assert not geometry.contains(geometry.to_lps([0, 0, last[2] + 0.01]))


@pytest.mark.parametrize("seed", SEEDS)
def test_canonical(seed: int) -> None:
    geometry, image = random_grid(seed)
    voxels = sitk.GetArrayFromImage(image)
    refs = tuple(SliceRef(f"1.2.{z}", z) for z in range(geometry.shape[0]))
    volume, orientation = canonical(Volume(voxels, geometry, Source(slices=refs)))

    # Every voxel keeps its point in the patient.
    lps = volume.geometry.to_lps(np.argwhere(np.ones(volume.geometry.shape)))
    index = np.rint(geometry.to_index(lps)).astype(int)
    np.testing.assert_allclose(geometry.to_index(lps), index, atol=1e-6)
    np.testing.assert_array_equal(volume.hu.ravel(), voxels[tuple(index.T)])

    # Right-handed, and no other right-handed turn of the axes lies nearer the patient's.
    towards_spl = volume.geometry.direction[::-1]
    assert np.linalg.det(towards_spl) > 0
    others = [
        geometry.transposed(axes, flips).direction[::-1]  # type: ignore[arg-type]
        for axes, flips in product(permutations(range(3)), product((False, True), repeat=3))
    ]
    assert np.trace(towards_spl) >= max(np.trace(o) for o in others if np.linalg.det(o) > 0) - 1e-9

    np.testing.assert_array_equal(orientation.invert(volume.hu), voxels)
    np.testing.assert_array_equal(orientation.apply(voxels), volume.hu)
    box = Box((1, 0, 2), (3, 2, 4))
    there = np.zeros(volume.geometry.shape, dtype=bool)
    there[box.slices] = True
    assert orientation.invert_box(box) == Box.of_mask(orientation.invert(there))

    if orientation.axes[0] == 0:
        for z, ref in enumerate(volume.source.slices):
            as_read = orientation.invert_box(Box((z, 0, 0), (z + 1, 1, 1))).start[0]
            assert refs[as_read] == ref
    else:
        assert volume.source.slices == ()


def test_canonical_of_an_axial_scan_is_itself() -> None:
    geometry = Geometry.axial((3, 4, 5), (2.5, 0.7, 0.7), (-10, -20, -30))
    volume, orientation = canonical(Volume(np.zeros((3, 4, 5), dtype=np.int16), geometry))
    assert orientation.axes == (0, 1, 2) and orientation.flips == (False, False, False)
    assert volume.geometry == geometry


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"spacing_zyx": (0.0, 1.0, 1.0)}, "positive and finite"),
        ({"spacing_zyx": (1.0, float("nan"), 1.0)}, "positive and finite"),
        ({"origin_lps": (float("inf"), 0.0, 0.0)}, "not finite"),
        ({"shape": (0, 4, 4)}, "at least one voxel"),
        ({"direction": np.eye(3) + 0.01}, "right angles"),
        ({"direction": np.eye(2)}, "3 × 3"),
    ],
)
def test_impossible_grids(change: dict[str, object], phrase: str) -> None:
    values: dict[str, object] = {
        "shape": (4, 4, 4),
        "spacing_zyx": (1.0, 1.0, 1.0),
        "origin_lps": (0.0, 0.0, 0.0),
        "direction": np.eye(3)[:, ::-1],
    }
    with pytest.raises(BadGeometry, match=phrase):
        Geometry(**(values | change))  # type: ignore[arg-type]
