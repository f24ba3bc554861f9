"""Disease and mishaps painted into a chest CT whose lungs are known: what a lung mask must survive.

Each case takes a CT in canonical orientation (z, y, x rise towards superior, posterior, left) and its lungs, and
gives the altered CT with what of it is still lung: air-filled, consolidated or collapsed lung and masses are; fluid
and gas of the pleura, stomach and bowel are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import AIR_HU, Mask, Volume, crop_array
from nodulens.ops.components import dilated, distance_mm
from nodulens.stages.position import lobe_at

Bool = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Point = tuple[float, float, float]
LEFT, RIGHT = 1, 2


@dataclass(frozen=True, eq=False)
class Made:
    """An altered CT.

    Attributes:
        volume: the CT.
        lung: uint8 on its grid: 1 left, 2 right, as in a lung mask; what of the lungs is still lung.
        lost: uint8 likewise: where lung was, and fluid or gas is now.
    """

    volume: Volume
    lung: Labels
    lost: Labels


Case = Callable[[Volume, Mask], Made]


def _made(hu: NDArray[np.float32], volume: Volume, lungs: Mask, gone: Bool | None = None) -> Made:
    labels = np.asarray(lungs.labels, dtype=np.uint8)
    gone = np.zeros(labels.shape, dtype=bool) if gone is None else gone
    hu = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Made(Volume(hu, volume.geometry), np.where(gone, 0, labels), np.where(gone, labels, 0))


def _noise(where: Bool, spread: float, seed: int = 0) -> NDArray[np.float32]:
    """Correlated over a voxel or so, as a scanner's is."""
    noise = np.random.default_rng(seed).normal(0, 2.5 * spread, int(where.sum()) * 2).astype(np.float32)
    return np.asarray(ndimage.uniform_filter1d(noise, 6)[: int(where.sum())])


def _hu(volume: Volume) -> NDArray[np.float32]:
    return np.array(volume.hu, dtype=np.float32)


def _frame(lung: Bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height (z, 1, 1) and depth (1, y, 1) in the frame of a lung, 0…1 from base to apex and from front to back."""
    box = Box.of_mask(lung)
    z, y = (np.clip((np.arange(n) - a) / max(b - a - 1, 1), 0, 1) for n, a, b in zip(
        lung.shape[:2], box.start[:2], box.stop[:2], strict=True))  # fmt: skip
    return z[:, None, None], y[None, :, None]


def _ball(grid: Geometry, centre_zyx: Point, radii_mm: Point) -> Bool:
    index = np.ogrid[tuple(slice(n) for n in grid.shape)]
    terms = (((i - c) * s / r) ** 2 for i, c, s, r in zip(index, centre_zyx, grid.spacing_zyx, radii_mm, strict=True))
    return np.asarray(sum(terms) <= 1)


# --- lungs that hold more air, or less


def emphysema(volume: Volume, lungs: Mask, side: int, emptier: float) -> Made:
    """One lung so many HU emptier than it was."""
    hu = _hu(volume)
    hu[lungs.labels == side] -= emptier
    return _made(hu, volume, lungs)


def _solid(hu: NDArray[np.float32], where: Bool, mean: float, airways: bool) -> None:
    """Paint tissue; larger bronchi stay open in it where asked."""
    where = where & (ndimage.uniform_filter(hu, 3) > -960) if airways else where
    hu[where] = mean + _noise(where, 15)


def consolidation(volume: Volume, lungs: Mask, side: int, share: float) -> Made:
    """The lowest and hindmost part of the lower lobe airless, bronchi open; ``share`` 1 is the whole lobe."""
    lung = lungs.labels == side
    height, depth = _frame(lung)
    name = "left" if side == LEFT else "right"
    lobe = np.array([[lobe_at(name, h, d) == "lower" for d in depth.ravel()] for h in height.ravel()])[..., None]
    part = lung & lobe & (depth > 1 - share * 1.01)
    hu = _hu(volume)
    _solid(hu, part, 45, airways=True)
    return _made(hu, volume, lungs)


def upper_consolidation(volume: Volume, lungs: Mask, side: int) -> Made:
    """The upper quarter of a lung airless."""
    lung = lungs.labels == side
    hu = _hu(volume)
    _solid(hu, lung & (_frame(lung)[0] > 0.75), 45, airways=True)
    return _made(hu, volume, lungs)


def atelectasis(volume: Volume, lungs: Mask, side: int) -> Made:
    """A wedge along the spine, of the lowest third, collapsed."""
    lung = lungs.labels == side
    height, depth = _frame(lung)
    columns = np.flatnonzero(lung.any(axis=(0, 1)))
    x = (np.arange(lung.shape[2]) - columns[0]) / (columns[-1] - columns[0])
    inward = 1 - x if side == LEFT else x
    hu = _hu(volume)
    _solid(hu, lung & (height < 0.4) & (depth > 0.5) & (inward > 0.6), 60, airways=False)
    return _made(hu, volume, lungs)


def fibrosis(volume: Volume, lungs: Mask) -> Made:
    """Dense, coarse lung below the pleura, thicker towards the base, honeycombs in it."""
    hu = _hu(volume)
    for side in (LEFT, RIGHT):
        lung = lungs.labels == side
        rim = lung & (distance_mm(lung, volume.geometry.spacing_zyx) < 8 + 20 * (1 - _frame(lung)[0]))
        holes = ndimage.gaussian_filter(
            np.random.default_rng(side).normal(size=lung.shape).astype(np.float32),
            [1.5 / s for s in volume.geometry.spacing_zyx],
        )
        hu[rim] = -420 + 180 * (holes[rim] / holes.std()).clip(-2, 2)
    return _made(hu, volume, lungs)


def mass(volume: Volume, lungs: Mask, side: int, diameter_mm: float = 70) -> Made:
    """A ball of tissue on the chest wall, two thirds of it in the lung."""
    lung = lungs.labels == side
    z = int(np.argmax(lung.sum(axis=(1, 2))))
    where = np.argwhere(lung[z])
    y = int(np.median(where[:, 0]))
    row = np.flatnonzero(lung[z, y])
    inward = diameter_mm / 6 / volume.geometry.spacing_zyx[2]
    x = row[-1] - inward if side == LEFT else row[0] + inward
    radius = diameter_mm / 2
    hu = _hu(volume)
    _solid(hu, lung & _ball(volume.geometry, (z, y, x), (radius,) * 3), 40, airways=False)
    return _made(hu, volume, lungs)


# --- the pleura


def effusion(volume: Volume, lungs: Mask, side: int, depth_share: float) -> Made:
    """Fluid that lies level behind, up to a share of the lung's depth, under three quarters of its height."""
    lung = lungs.labels == side
    height, depth = _frame(lung)
    fluid = lung & (depth > 1 - depth_share) & (height < 0.75)
    hu = _hu(volume)
    hu[fluid] = 8 + _noise(fluid, 12)
    return _made(hu, volume, lungs, fluid)


def pneumothorax(volume: Volume, lungs: Mask, side: int) -> Made:
    """Gas before the lung and over its apex, a fine pleural line between."""
    lung = lungs.labels == side
    height, depth = _frame(lung)
    gas = lung & (depth < 0.22 + 0.25 * (height - 0.5))
    hu = _hu(volume)
    line = lung & ~gas & dilated(gas, 1.5, volume.geometry.spacing_zyx)
    hu[gas] = -995 + _noise(gas, 12)
    hu[line] = np.maximum(hu[line], -500)
    return _made(hu, volume, lungs, gas)


def white_lung(volume: Volume, lungs: Mask, side: int, fill: float = 35) -> Made:
    """No air on one side: collapsed, removed or drowned."""
    gone = lungs.labels == side
    hu = _hu(volume)
    hu[gone] = fill + _noise(gone, 15)
    return _made(hu, volume, lungs, gone)


# --- gas that is no lung, and lungs that are joined


def stomach(volume: Volume, lungs: Mask, side: int = LEFT) -> Made:
    """A bubble of gas under the dome of the diaphragm, joined to the lung through a hole of 12 mm."""
    lung = lungs.labels == side
    grid = volume.geometry
    columns = np.argwhere(lung.any(axis=0))
    lowest = np.argmax(lung, axis=0)
    inner = distance_mm(lung.any(axis=0), grid.spacing_zyx[1:]) > 35
    dome = np.where(inner, lowest, -1)
    y, x = np.unravel_index(int(np.argmax(dome)), dome.shape) if inner.any() else columns[len(columns) // 2]
    z = float(dome[y, x])
    centre = (z - 26 / grid.spacing_zyx[0], float(y), float(x))
    bubble = _ball(grid, centre, (22, 38, 42)) & ~dilated(lung, 2.5, grid.spacing_zyx)
    hole = _ball(grid, (z - 3 / grid.spacing_zyx[0], float(y), float(x)), (8, 6, 6)) & ~lung
    hu = _hu(volume)
    hu[bubble | hole] = -995 + _noise(bubble | hole, 12)
    return _made(hu, volume, lungs)


def joined_by_airways(volume: Volume, lungs: Mask) -> Made:
    """An air-filled bridge from lung to lung through the windpipe's level, as thin as a bronchus is wide."""
    labels = lungs.labels
    reach = np.minimum((labels == LEFT).sum(axis=(1, 2)), (labels == RIGHT).sum(axis=(1, 2)))
    z = int(np.argmax(reach))
    left, right = (np.argwhere(labels[z] == side) for side in (LEFT, RIGHT))
    row = int(np.median(left[:, 0]))
    a, b = int(right[right[:, 0] == row, 1].max()), int(left[left[:, 0] == row, 1].min())
    hu = _hu(volume)
    sz, sy, _ = volume.geometry.spacing_zyx
    zs, ys = (slice(max(0, k - round(6 / s)), k + round(6 / s) + 1) for k, s in ((z, sz), (row, sy)))
    tube = np.zeros(labels.shape, dtype=bool)
    tube[zs, ys, a : b + 1] = True
    tube &= labels == 0
    hu[tube] = -930 + _noise(tube, 15)
    return _made(hu, volume, lungs)


# --- what lies round the patient


def _padded(volume: Volume, lungs: Mask, margin_mm: float) -> tuple[Volume, Mask]:
    """Air round the scan, to draw in; before, behind and at the sides."""
    _, sy, sx = volume.geometry.spacing_zyx
    box = Box((0, 0, 0), volume.geometry.shape).grown((0, round(margin_mm / sy), round(margin_mm / sx)))
    wide = volume.crop(box, fill=AIR_HU)
    return wide, Mask(crop_array(lungs.labels, box), wide.geometry, lungs.names)


def arms(volume: Volume, lungs: Mask) -> Made:
    """Two arms of tissue and bone beside the chest, folded linen between."""
    volume, lungs = _padded(volume, lungs, 130)
    hu = _hu(volume)
    _, ny, nx = hu.shape
    _, sy, sx = volume.geometry.spacing_zyx
    y, x = np.ogrid[:ny, :nx]
    for middle in (60 / sx, nx - 60 / sx):
        far = np.hypot((y - ny * 0.55) * sy, (x - middle) * sx)
        hu[:, (far < 72) & (hu[0] < -900)] = -700
        hu[:, far < 48] = 30
        hu[:, far < 13] = 900
        hu[:, far < 7] = -40
    return _made(hu, volume, lungs)


def table(volume: Volume, lungs: Mask, where: Literal["behind", "before", "beside"]) -> Made:
    """A hard shell filled with foam, and a mattress; before the patient where prone, beside where on the side."""
    volume, lungs = _padded(volume, lungs, 90)
    hu = _hu(volume)
    view = {"behind": hu, "before": hu[:, ::-1], "beside": hu.transpose(0, 2, 1)}[where]
    mm = volume.geometry.spacing_zyx[2 if where == "beside" else 1]
    for start, stop, value in ((85, 65, -850), (65, 60, -150), (60, 20, -900), (20, 15, -150)):
        view[:, -round(start / mm) : -round(stop / mm)] = value
    return _made(hu, volume, lungs)


def metal(volume: Volume, lungs: Mask) -> Made:
    """A pacemaker before the left lung, with streaks over a few centimetres of height."""
    lung = lungs.labels == LEFT
    box = Box.of_mask(lung)
    z, y, x = box.start[0] + 0.75 * box.shape[0], float(box.start[1]), box.centre_zyx[2]
    sz, sy, sx = volume.geometry.spacing_zyx
    hu = _hu(volume)
    planes = range(max(0, int(z - 18 / sz)), min(len(hu), int(z + 18 / sz)))
    ys, xs = np.ogrid[: hu.shape[1], : hu.shape[2]]
    far = np.hypot((ys - y) * sy, (xs - x) * sx)
    streak = np.cos(24 * np.arctan2((ys - y) * sy, (xs - x) * sx)) ** 9 * 500 * np.exp(-far / 70)
    for plane in planes:
        hu[plane] += streak
    device = _ball(volume.geometry, (z, y, x), (18, 5, 22)) & (lungs.labels == 0)
    hu[device] = 3000
    return _made(hu, volume, lungs)


def rolled(volume: Volume, lungs: Mask, degrees: float) -> Made:
    """The patient turned on the table about the long axis; what was not scanned is air."""
    volume, lungs = _padded(volume, lungs, 40)
    sy, sx = volume.geometry.spacing_zyx[1:]
    assert abs(sy - sx) < 1e-6
    turn = partial(ndimage.rotate, angle=degrees, axes=(1, 2), reshape=False)
    hu = turn(_hu(volume), order=1, cval=AIR_HU)
    labels = np.asarray(turn(np.asarray(lungs.labels, dtype=np.uint8), order=0))
    return _made(hu, volume, Mask(labels, volume.geometry, lungs.names))


# --- scans that end inside the lungs


def _cut(volume: Volume, lungs: Mask, box: Box) -> Made:
    part = volume.crop(box)
    labels = np.ascontiguousarray(np.asarray(lungs.labels, dtype=np.uint8)[box.slices])
    return _made(_hu(part), part, Mask(labels, part.geometry, lungs.names))


def truncated(volume: Volume, lungs: Mask, low: float, high: float) -> Made:
    """The slices between two shares of the lungs' height."""
    box = Box.of_mask(lungs.labels > 0)
    start, stop = (round(box.start[0] + share * box.shape[0]) for share in (low, high))
    start, stop = (0 if low == 0 else start), (len(volume.hu) if high == 1 else stop)
    _, ny, nx = volume.geometry.shape
    return _cut(volume, lungs, Box((start, 0, 0), (stop, ny, nx)))


def narrow(volume: Volume, lungs: Mask, lost_mm: float) -> Made:
    """A field of view that leaves out so much of both lungs at the sides."""
    box = Box.of_mask(lungs.labels > 0)
    lost = round(lost_mm / volume.geometry.spacing_zyx[2])
    nz, ny, _ = volume.geometry.shape
    return _cut(volume, lungs, Box((0, 0, box.start[2] + lost), (nz, ny, box.stop[2] - lost)))


def round_field(volume: Volume, lungs: Mask, lost_mm: float) -> Made:
    """A circle of reconstruction that leaves out so much of both lungs at the sides; padding beyond."""
    box = Box.of_mask(lungs.labels > 0)
    _, sy, sx = volume.geometry.spacing_zyx
    _, ny, nx = volume.geometry.shape
    y, x = np.ogrid[:ny, :nx]
    _, cy, cx = box.centre_zyx
    beyond = np.hypot((y - cy) * sy, (x - cx) * sx) > box.shape[2] * sx / 2 - lost_mm
    hu = _hu(volume)
    hu[:, beyond] = AIR_HU
    labels = np.where(beyond, 0, lungs.labels).astype(np.uint8)
    return _made(hu, volume, Mask(labels, volume.geometry, lungs.names))


# --- lungs of one value


def uniform(volume: Volume, lungs: Mask, value: float = -988) -> Made:
    """As in a phantom: nothing in the lungs but air of one value."""
    hu = _hu(volume)
    inside = (lungs.labels > 0) & (hu < -300)
    hu[ndimage.binary_closing(inside, iterations=4) & (lungs.labels > 0)] = value
    return _made(hu, volume, lungs)


CASES: dict[str, Case] = {
    **{
        f"{name} lung {emptier} HU emptier": partial(emphysema, side=side, emptier=emptier)
        for name, side in (("left", LEFT), ("right", RIGHT))
        for emptier in (50, 115, 200)
    },
    "consolidation, half a lower lobe, right": partial(consolidation, side=RIGHT, share=0.35),
    "consolidation, lower lobe, right": partial(consolidation, side=RIGHT, share=1.0),
    "consolidation, lower lobe, left": partial(consolidation, side=LEFT, share=1.0),
    "consolidation, upper quarter, left": partial(upper_consolidation, side=LEFT),
    "atelectasis along the spine, right": partial(atelectasis, side=RIGHT),
    "fibrosis": fibrosis,
    "mass of 70 mm at the wall, left": partial(mass, side=LEFT),
    "mass of 70 mm at the wall, right": partial(mass, side=RIGHT),
    "effusion, a quarter deep, right": partial(effusion, side=RIGHT, depth_share=0.25),
    "effusion, half deep, left": partial(effusion, side=LEFT, depth_share=0.5),
    "pneumothorax, right": partial(pneumothorax, side=RIGHT),
    "no air on the left": partial(white_lung, side=LEFT),
    "no air on the right": partial(white_lung, side=RIGHT),
    "stomach joined to the left lung": stomach,
    "bowel joined to the right lung": partial(stomach, side=RIGHT),
    "lungs joined by an airway": joined_by_airways,
    "arms": arms,
    "table": partial(table, where="behind"),
    "prone": partial(table, where="before"),
    "decubitus": partial(table, where="beside"),
    "rolled by 30°": partial(rolled, degrees=30),
    "metal": metal,
    "upper half missing": partial(truncated, low=0, high=0.5),
    "lower half missing": partial(truncated, low=0.5, high=1),
    "middle third only": partial(truncated, low=0.33, high=0.67),
    "narrow field, 20 mm lost": partial(narrow, lost_mm=20),
    "round field, 20 mm lost": partial(round_field, lost_mm=20),
    "air of -988 HU": uniform,
}
"""What a lung mask is measured on, by name."""


def dice(found: Labels, lung: Labels) -> float:
    """Of both sides, each with its label right: twice the overlap over the sum."""
    agreed = np.count_nonzero((found == lung) & (lung > 0))
    return 2 * agreed / max(1, np.count_nonzero(found) + np.count_nonzero(lung))
