"""The shape of a lung of which only part is seen: shapes of whole lungs, fitted to what is left and to the ribs.

A few chests with whole lungs (three of LIDC-IDRI's, each as a mask in voxels of 4 mm) are brought onto a chest by an
affine map that puts the healthy lung on the healthy one, the surface that is left of the other on its like, and its
wall on the ribs. Diaphragms differ most: one that is higher in front is tried as well. A Gaussian process then bends
the mean of the fitted shapes to what is seen: what is found at the heart's flank or in front on the diaphragm holds, in
lessening degree, for its surroundings that nothing is seen of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Side, opposite
from nodulens.ops.components import closed, distance_mm, filled
from nodulens.stages.expected import Chest
from nodulens.stages.thorax import BONE_HU

Bool = NDArray[np.bool_]
Float = NDArray[np.float32]
Real = NDArray[np.float64]
Spacing = tuple[float, float, float]

BETWEEN_RIBS_MM = 20.0
"""A ball of this radius does not pass between two ribs."""
PLEURA_MM = 7.0
"""Between ribs and lung, where the healthy side does not tell."""
MOST_PLEURA_MM, LEAST_VOXELS = 14.0, 50
"""What lies farther from the ribs is not the wall; fewer voxels of the wall do not tell."""
FAR_FROM_RIBS_MM = 1000.0
"""Said to be the distance where no bone is seen at all."""
CLOSING_MM = 12.0
"""Vessels and hila narrower than twice this belong to a lung's shape."""
MARGIN_MM = 60.0
"""Round a stored lung, where the distance to it is known voxel by voxel."""
THIN = 4
"""Of a block of so many voxels along each axis one point of a surface is used."""
AGREE = 0.75
"""Least cosine between the normals of a surface seen and a surface foretold that are taken for the same."""
STEP_MM = 4.0
"""For derivatives."""

REACHES_MM = (45.0, 35.0, 25.0, 25.0, 20.0, 20.0)
"""How far apart the two may lie, in rounds of the affine fit."""
WEIGHTS = {"other": 1.33, "own": 2.22, "wall": 1.56}
"""Of the surface of the healthy lung, of what is left of the other, and of its ribs."""
OUTLIER_MM = 8.0
"""A point so far off counts half."""
SCALE_SD, SHEAR_SD = 0.15, 0.03
"""How far a chest's proportions differ from those of the healthy lung's box."""
RAISED_MM = (0.0, 15.0, 30.0, 45.0, 60.0)
"""A diaphragm is tried so much higher in front than the shapes have it, and not at all behind."""
RAISED_TO = 0.6
"""Share of a lung's height above which that changes nothing."""

NEAR_MM, FAR_MM = 25.0, 35.0
"""How far the mean may lie off a surface that it is bent to; off one that is level, the second."""
AGAIN_MM = 18.0
"""The same once it is bent."""
SHIFT_SD_MM = (15.0, 5.0, 5.0)
"""How far the mean lies off as a whole, along (z, y, x)."""
LOCAL_SD_MM, LOCAL_MM = 7.0, 45.0
"""How far it lies off from place to place, and how far apart two places are that differ."""
SEEN_SD_MM = 4.0
"""How far a surface seen lies off."""
FIELD_MM = 50.0
"""Farther from its surface the mean is not bent."""
FILE = "lung_shapes.npz"


@dataclass(frozen=True, eq=False)
class LungShape:
    """The whole lungs of one chest.

    Attributes:
        patient: whose they are.
        labels: uint8 (z, y, x), canonical: 1 left lung, 2 right lung, filled.
        spacing: millimetres (z, y, x).
    """

    patient: str
    labels: NDArray[np.uint8]
    spacing: Spacing

    @cached_property
    def surfaces(self) -> dict[Side, Float]:
        """Signed distance to each lung, mm, positive inside; with a margin."""
        margin = [int(MARGIN_MM / s) for s in self.spacing]
        wide = np.pad(self.labels, [(n, n) for n in margin])
        return {"left": signed_distance(wide == 1, self.spacing), "right": signed_distance(wide == 2, self.spacing)}

    def at(self, side: Side, points: Real) -> Real:
        """Signed distance to a lung at points (n, 3), mm from the first voxel of ``surfaces``."""
        from scipy.ndimage import map_coordinates

        surface = self.surfaces[side]
        index = points.T / np.array(self.spacing)[:, None]
        inside = np.clip(index, 0, np.array(surface.shape)[:, None] - 1)
        beyond = np.linalg.norm((index - inside).T * self.spacing, axis=1)
        return np.asarray(map_coordinates(surface, inside, order=1, output=np.float64) - beyond)


@lru_cache(maxsize=1)
def lung_shapes() -> tuple[LungShape, ...]:
    """The shapes that come with the package."""
    with files("nodulens.stages").joinpath(FILE).open("rb") as stream, np.load(stream) as stored:
        return tuple(
            LungShape(str(name), stored[f"labels_{i}"], (float(dz), float(dy), float(dx)))
            for i, (name, (dz, dy, dx)) in enumerate(zip(stored["patients"], stored["spacing"], strict=True))
        )


def whole(lung: Bool, spacing: Spacing) -> Bool:
    """A lung with its vessels."""
    return filled(closed(lung, CLOSING_MM, spacing))


def signed_distance(mask: Bool, spacing: Spacing) -> Float:
    """To the surface of a mask, mm, positive inside."""
    half = spacing[1] / 2
    return np.where(mask, distance_mm(mask, spacing) - half, half - distance_mm(~mask, spacing)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Points (n, 3) mm on a surface that is seen, the signed distance there (n,), and normals (n, 3) inwards."""

    points: Real
    distances: Real
    normals: Real


@dataclass(frozen=True, eq=False)
class Outlook:
    """What a chest shows of a lung that is there in part.

    Attributes:
        own: bool (z, y, x): what is left of it, with its vessels.
        to_ribs: mm (z, y, x): from each voxel to the ribs, the gaps between them closed.
    """

    own: Bool
    to_ribs: Float
    _seen: dict[str, _Seen]
    _other: Bool


def outlook(chest: Chest, side: Side) -> Outlook:
    """What a chest shows of a lung."""
    own, other = whole(chest.lungs[side], chest.spacing), whole(chest.lungs[opposite(side)], chest.spacing)
    shell = closed(chest.hu > BONE_HU, BETWEEN_RIBS_MM, chest.spacing)
    to_ribs = np.minimum(distance_mm(~shell, chest.spacing), np.float32(FAR_FROM_RIBS_MM))
    to_own, to_other = signed_distance(own, chest.spacing), signed_distance(other, chest.spacing)
    aside, _ = chest.across()
    mine = np.broadcast_to(aside > 0 if side == "left" else aside < 0, own.shape)
    seen = {
        "own": _points(to_own, chest.spacing, np.ones_like(own)),
        "other": _points(to_other, chest.spacing, np.ones_like(own)),
        "wall": _points(
            to_ribs - _pleura_mm(to_ribs, to_other, chest.spacing), chest.spacing, mine & (np.abs(to_own) > 8)
        ),
    }
    return Outlook(own, to_ribs, seen, other)


def foretold(chest: Chest, side: Side, seen: Outlook, shapes: Sequence[LungShape]) -> Float:
    """Signed distance to the lung of a side as it should be, mm (z, y, x), positive inside.

    Args:
        chest: both lungs hold air, the other lung is whole.
        side: of the lung that is there in part.
        seen: what the chest shows of it.
        shapes: of whole lungs; at least one.
    """
    from scipy.ndimage import map_coordinates

    mean = _Mean(chest, side, seen, shapes)
    step = 2
    axes = [np.arange(0, n + step - 1, step) for n in chest.hu.shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    points = grid.reshape(-1, 3) * np.array(chest.spacing)
    bent = mean.bent(points).reshape(grid.shape[:3])
    index = np.indices(chest.hu.shape) / step
    return np.asarray(map_coordinates(bent, index, order=1, mode="nearest"), dtype=np.float32)


def _normals(field: Float | Real, spacing: Spacing) -> Real:
    """(3, z, y, x): unit vectors along which a field rises."""
    from scipy.ndimage import gaussian_filter

    slope = np.stack(np.gradient(gaussian_filter(field, 1.2), *spacing)).astype(np.float64)
    return np.asarray(slope / np.maximum(np.linalg.norm(slope, axis=0), 1e-3))


def _points(field: Float | Real, spacing: Spacing, where: Bool) -> _Seen:
    """Points where a field of distances is about 0, not on the outermost slices: lung may go on beyond."""
    edge = (np.abs(field) < 0.7 * max(spacing)) & where
    edge[[0, -1]] = False
    index = np.argwhere(edge)
    index = index[np.unique(index // THIN, axis=0, return_index=True)[1]]
    z, y, x = index.T
    normals = _normals(field, spacing)[:, z, y, x].T
    return _Seen(index * np.array(spacing), field[z, y, x].astype(np.float64), normals)


def _pleura_mm(to_ribs: Float, to_other: Float, spacing: Spacing) -> float:
    """How far from the ribs the healthy lung lies at its wall."""
    along = (_normals(to_ribs, spacing) * _normals(to_other, spacing)).sum(axis=0)
    wall = (np.abs(to_other) < 0.7 * max(spacing)) & (to_ribs > 0) & (to_ribs < MOST_PLEURA_MM) & (along > 0.85)
    return float(np.median((to_ribs - to_other)[wall])) if np.count_nonzero(wall) > LEAST_VOXELS else PLEURA_MM


class _Fitted:
    """A shape brought onto a chest: affine, and its diaphragm raised in front."""

    def __init__(self, shape: LungShape, side: Side, chest: Chest, seen: Outlook) -> None:
        self.shape, self.side, self.raised_mm = shape, side, 0.0
        lung = np.argwhere(shape.surfaces[opposite(side)] > 0) * np.array(shape.spacing)
        own = np.argwhere(shape.surfaces[side] > 0) * np.array(shape.spacing)
        self.low, self.high = own.min(axis=0), own.max(axis=0)
        cos, sin = np.cos(chest.roll), np.sin(chest.roll)
        turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        points = np.argwhere(seen._other) * np.array(chest.spacing) @ turn.T
        start, stop = points.min(axis=0), points.max(axis=0)
        first, last = lung.min(axis=0), lung.max(axis=0)
        scale, middle, own_middle = (last - first) / (stop - start), (start + stop) / 2, (first + last) / 2
        cut_below, cut_above = chest.cut_off_ends()
        if cut_below or cut_above:  # as much larger in height as in depth, from the end that is seen
            scale[0] = scale[1]
            middle[0], own_middle[0] = (start[0], first[0]) if not cut_below else (stop[0], last[0])
        self.centre, self.matrix, self.offset = turn.T @ middle, np.diag(scale) @ turn, own_middle
        self._fit(seen)

    def _fit(self, seen: Outlook) -> None:
        """Gauss–Newton on the distances of the three surfaces, each time of what lies near by and faces alike."""
        start = self.matrix
        spread = np.full((3, 3), SHEAR_SD) + np.eye(3) * (SCALE_SD - SHEAR_SD)
        precision = np.concatenate([np.full(3, 1e-6), 1 / np.square(spread).ravel()])
        for reach in REACHES_MM:
            left = np.diag(precision)
            right = np.concatenate([np.zeros(3), (start - self.matrix).ravel()]) * precision
            for name, surface in seen._seen.items():
                side = opposite(self.side) if name == "other" else self.side
                inner = surface.points - self.centre
                points = inner @ self.matrix.T + self.offset
                distance = self.shape.at(side, points)
                slope = _slope(partial(self.shape.at, side), points)
                near = (np.abs(distance) < reach) & (_cosines(slope @ self.matrix, surface.normals) > AGREE)
                error = surface.distances[near] - distance[near]
                weight = WEIGHTS[name] / (1 + (error / OUTLIER_MM) ** 2) / np.sqrt(len(error) + 50)
                terms = slope[near][:, :, None] * inner[near][:, None, :]
                rows = np.concatenate([slope[near], terms.reshape(-1, 9)], axis=1)
                left += (rows * weight[:, None]).T @ rows
                right += (rows * weight[:, None]).T @ error
            change = np.linalg.solve(left, right)
            self.offset, self.matrix = self.offset + change[:3], self.matrix + change[3:].reshape(3, 3)

    def at(self, points: Real) -> Real:
        """Signed distance to the lung, mm of the chest, at points (n, 3) of the chest."""
        there = (points - self.centre) @ self.matrix.T + self.offset
        size = self.high - self.low
        base = 1 - np.clip((there[:, 0] - self.low[0]) / size[0] / RAISED_TO, 0, 1)
        front = np.clip((self.high[1] - there[:, 1]) / size[1], 0, 1)
        there[:, 0] -= base * front * self.raised_mm
        return np.asarray(self.shape.at(self.side, there) / np.cbrt(abs(np.linalg.det(self.matrix))))

    def agreement(self, surface: _Seen) -> float:
        """0…1: how much of a surface lies on the shape's and faces alike."""
        off = surface.distances - self.at(surface.points)
        alike = np.clip(_cosines(_slope(self.at, surface.points), surface.normals), 0, 1)
        return float(np.mean(np.exp(-(off**2) / (2 * OUTLIER_MM**2)) * alike**2))


class _Mean:
    """The mean of the fitted shapes, bent to what is seen."""

    def __init__(self, chest: Chest, side: Side, seen: Outlook, shapes: Sequence[LungShape]) -> None:
        self.fitted = [_Fitted(shape, side, chest, seen) for shape in shapes]
        best = -1.0
        for raised in RAISED_MM:
            for fitted in self.fitted:
                fitted.raised_mm = raised
            agreement = float(np.mean([fitted.agreement(seen._seen["own"]) for fitted in self.fitted]))
            if agreement > best:
                best, chosen = agreement, raised
        for fitted in self.fitted:
            fitted.raised_mm = chosen
        self._bend([seen._seen["own"], seen._seen["wall"]])

    def _all(self, points: Real) -> Real:
        """(shapes, n)."""
        return np.stack([fitted.at(points) for fitted in self.fitted])

    def _mean(self, points: Real) -> Real:
        return np.asarray(self._all(points).mean(axis=0))

    def _bend(self, surfaces: list[_Seen]) -> None:
        """Weights of the points seen; twice, as the bent mean tells better which of them are the lung's own surface."""
        points = np.concatenate([s.points for s in surfaces])
        normals = np.concatenate([s.normals for s in surfaces])
        distances = np.concatenate([s.distances for s in surfaces])
        level = np.concatenate([(np.abs(s.normals[:, 0]) > 0.7) & (i == 0) for i, s in enumerate(surfaces)])
        every = self._all(points)
        mean, slope = every.mean(axis=0), _slope(self._mean, points)
        alike = _cosines(slope, normals) > AGREE
        used = alike & (np.abs(mean) < np.where(level, FAR_MM, NEAR_MM))
        for _ in range(2):
            self.points, self.slope, self.spread = points[used], slope[used], (every - mean)[:, used]
            own = self._covariance(self.points, self.slope, self.spread)
            error = (distances - mean)[used]
            self.weights = np.linalg.solve(own + SEEN_SD_MM**2 * np.eye(len(error)), error)
            now = mean + self._covariance(points, slope, every - mean) @ self.weights
            used = alike & (np.abs(now) < AGAIN_MM)

    def bent(self, points: Real) -> Real:
        """Signed distance at points (n, 3)."""
        every = self._all(points)
        out = every.mean(axis=0)
        near = np.abs(out) < FIELD_MM
        slope = _slope(self._mean, points[near])
        out[near] += self._covariance(points[near], slope, (every - out)[:, near]) @ self.weights
        return np.asarray(out)

    def _covariance(self, points: Real, slope: Real, spread: Real) -> Real:
        """Of the error of the mean at points with that at the points used: as vectors, and as the shapes differ."""
        squared = (points**2).sum(axis=1)[:, None] + (self.points**2).sum(axis=1) - 2 * points @ self.points.T
        near = LOCAL_SD_MM**2 * np.exp(-squared / (2 * LOCAL_MM**2))
        along = (slope * np.square(SHIFT_SD_MM)) @ self.slope.T + (slope @ self.slope.T) * near
        return np.asarray(along + spread.T @ self.spread / len(self.fitted))


def _slope(field: Callable[[Real], Real], points: Real) -> Real:
    """(n, 3): the gradient of a field at points."""
    steps = np.eye(3) * STEP_MM
    return np.stack([(field(points + step) - field(points - step)) / (2 * STEP_MM) for step in steps], axis=1)


def _cosines(slope: Real, normals: Real) -> Real:
    """Between slopes and unit normals, (n, 3) each; nearly 0 where a field has no slope."""
    return np.asarray((slope * normals).sum(axis=1) / np.maximum(np.linalg.norm(slope, axis=1), 0.2))
