"""Shapes of whole lungs, fitted to lungs of which a part is gone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from made_disease import dice
from nodulens.core.nodule import Side
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.ops.components import dilated
from nodulens.stages.airless import airless_lung
from nodulens.stages.expected import Chest, coarse_chest
from nodulens.stages.lung_shapes import foretold, lung_shapes, outlook, signed_distance

Bool = NDArray[np.bool_]
SIDES: tuple[tuple[int, Side], ...] = ((1, "left"), (2, "right"))


def chest_of(number: int, gone: int, below: float, *, ribs: bool = True, fill: float = 45) -> tuple[Chest, Bool]:
    """A made chest with the lungs of a stored shape, those of a side airless below a share of their height behind."""
    shape = lung_shapes()[number]
    labels = np.pad(shape.labels, [(10, 5), (8, 8), (8, 8)])
    lung = labels == gone
    nz, ny, _ = shape.labels.shape
    z, y, _ = np.ogrid[tuple(slice(n) for n in labels.shape)]
    airless = lung & (z < 10 + below * nz) & (y > 8 + 0.35 * ny)
    hu = np.full(labels.shape, 50, dtype=np.float32)
    if ribs:
        y_first = np.argwhere(labels > 0)[:, 1].min()
        shell = dilated(labels > 0, 14, shape.spacing) & ~dilated(labels > 0, 8, shape.spacing)
        shell[: 10 + nz // 6] = False
        shell[:, : y_first + 4] = False
        hu[shell & (z % 4 < 2)] = 400
    hu[labels > 0] = -850
    hu[airless] = fill
    found = np.where(airless, 0, labels).astype(np.uint8)
    return coarse_chest(hu, found, shape.spacing), lung


def test_the_shapes_are_of_no_evaluation_patient_and_have_two_lungs() -> None:
    shapes = lung_shapes()
    assert len({shape.patient for shape in shapes}) == 3
    assert not {shape.patient for shape in shapes} & set(EVALUATION_PATIENTS)
    for shape in shapes:
        left, right = (float(np.mean(np.argwhere(shape.labels == value)[:, 2])) for value, _ in SIDES)
        assert left > right
        litres = [np.count_nonzero(shape.labels == value) * np.prod(shape.spacing) / 1e6 for value, _ in SIDES]
        assert all(1.5 < each < 3.5 for each in litres)


def test_a_signed_distance_is_zero_between_voxels_of_either_side() -> None:
    mask = np.zeros((1, 1, 8), dtype=bool)
    mask[..., 4:] = True
    line = signed_distance(mask, (4.0, 4.0, 4.0))[0, 0]
    assert line[3] == -2 and line[4] == 2 and np.all(np.diff(line) > 0)


@pytest.mark.parametrize(("value", "side"), SIDES)
def test_a_lung_half_gone_has_the_shape_of_others(value: int, side: Side) -> None:
    chest, lung = chest_of(0, value, 0.5)
    own = [lung_shapes()[0]]
    depth = foretold(chest, side, outlook(chest, side), own)
    assert dice((depth > 0).astype(np.uint8), lung.astype(np.uint8)) > 0.96
    depth = foretold(chest, side, outlook(chest, side), lung_shapes()[1:])
    assert dice((depth > 0).astype(np.uint8), lung.astype(np.uint8)) > 0.9


def test_where_no_bone_is_seen_the_rest_still_tells() -> None:
    chest, lung = chest_of(0, 2, 0.5, ribs=False)
    depth = foretold(chest, "right", outlook(chest, "right"), lung_shapes()[:1])
    assert dice((depth > 0).astype(np.uint8), lung.astype(np.uint8)) > 0.9


def test_open_bronchi_do_not_make_airless_lung_fluid() -> None:
    chest, lung = chest_of(0, 2, 0.7)
    gone = lung & ~chest.lungs["right"]
    hu = chest.hu.copy()
    bronchi = np.zeros_like(gone)
    bronchi[::2, ::2, ::2] = gone[::2, ::2, ::2]
    hu[bronchi] = -950
    aired = Chest(hu, chest.lungs, chest.spacing, chest.middle, chest.roll)
    airless = airless_lung(aired, "right", lung_shapes()[1:])
    assert np.count_nonzero(airless & gone) > 0.8 * np.count_nonzero(gone)


def test_airless_lung_is_not_looked_for_without_a_whole_lung_to_go_by() -> None:
    chest, _ = chest_of(0, 2, 0.7)
    both = chest.lungs["right"].copy()
    left = chest.lungs["left"].copy()
    left[:, chest.hu.shape[1] // 2 :] = False
    hu = np.where(chest.lungs["left"] & ~left, 45, chest.hu).astype(np.float32)
    less = Chest(hu, {"left": left, "right": both}, chest.spacing, chest.middle, chest.roll)
    for _, side in SIDES:
        assert not airless_lung(less, side, lung_shapes()[1:]).any()


def test_tissue_in_the_shape_is_lung_and_fluid_is_not() -> None:
    chest, lung = chest_of(0, 2, 0.7)
    airless = airless_lung(chest, "right", lung_shapes()[1:])
    gone = lung & ~chest.lungs["right"]
    assert np.count_nonzero(airless & gone) > 0.8 * np.count_nonzero(gone)
    assert not airless_lung(chest, "left", lung_shapes()[1:]).any()
    fluid, _ = chest_of(0, 2, 0.7, fill=8)
    hu = np.where(fluid.hu == 50, 8, fluid.hu).astype(np.float32)
    wet = Chest(hu, fluid.lungs, fluid.spacing, fluid.middle, fluid.roll)
    assert not airless_lung(wet, "right", lung_shapes()[1:]).any()
