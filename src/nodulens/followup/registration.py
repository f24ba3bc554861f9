"""The lungs of two scans brought to coincide, and how well they do.

Affine first, then B-splines inside the lungs, both by SimpleITK on coarse voxels in which vessels and the chest wall
are bright, the lung is dark, and whatever is not lung is one even tissue: ribs glide along the lungs and must not pull
at them. Last, the places of vessels' forks in both scans are compared, and what is left between them is taken into
the map. Other forks, which took no part in that, judge the result: those of one patient are found again, those
of two patients are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from nodulens.core.geometry import Float, Geometry
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption
from nodulens.ops.deform import Deformation
from nodulens.ops.resample import resample_array

if TYPE_CHECKING:
    import SimpleITK as sitk

Float32 = NDArray[np.float32]

ROUGH_MM, FINE_MM, FORK_MM = 6.0, 3.0, 2.0
"""Voxels for the affine part, for the B-splines, and for the forks of vessels."""
MESH_MM = 32.0
"""From one control point of the last B-splines to the next; of those before, twice that."""
MARGIN_MM = 16.0
"""Around the lungs."""
FIELD_MM = 8.0
"""Voxels of the resulting displacement."""
ROUNDS_AFFINE, ROUNDS_SPLINE = 50, 20
SAMPLES = 16_000
"""Voxels that a step of the B-splines looks at: its time grows with them and with the control points."""
SEED = 20
WORKERS = 4
"""Parts into which SimpleITK divides its work, on every machine: sums, and so results, do not depend on it."""

FORKS, APART_MM, DEEP_MM = 500, 9.0, 4.0
"""Forks that are looked for, how far apart, and how deep in the lung."""
TEMPLATE, REACH = 4, 4
"""Voxels of :data:`FORK_MM` on each side of a fork that are compared, and by which it is looked for."""
UNSEEN = -2.0
ALIKE = 0.6
"""Correlation from which two forks are the same."""
SMOOTH_MM = 18.0
"""How far a fork's own residual reaches."""
NEIGHBOURS, STRAY_MM = 8, 3.0
"""A residual that differs by more from the median of its neighbours is left out."""
LUNG_HU = -850.0
APART = "The scans could not be registered: their lungs do not come to lie on one another. Compare them by eye."


@dataclass(frozen=True)
class Quality:
    """How well two scans were brought to coincide.

    Attributes:
        dice: of the lungs, where both scans have slices, 0…1.
        forks: forks of vessels that were looked for, and took no part in the registration.
        found: share of them that is found again, 0…1.
        residual_mm: median distance of those between where they are and where the map takes them; None without any.
        residual_p95_mm: 95th percentile; None likewise.
        overlap: share of the current lungs that the prior scan shows, 0…1.
    """

    dice: float
    forks: int
    found: float
    residual_mm: float | None
    residual_p95_mm: float | None
    overlap: float


@dataclass(frozen=True, eq=False)
class Registration:
    """A map from the current scan to the prior one.

    Attributes:
        to_prior: takes a place in the current scan to that in the prior one.
        quality: of it.
    """

    to_prior: Deformation
    quality: Quality


@dataclass(frozen=True, eq=False)
class Lungs:
    """What is registered of a scan.

    Attributes:
        volume: canonical orientation.
        lungs: on its grid; 0 is none.
        ignored: LPS mm (x, y, z) and radius in mm of balls in which no fork is looked for: nodules change.
    """

    volume: Volume
    lungs: Mask
    ignored: tuple[tuple[tuple[float, float, float], float], ...] = ()


def register(current: Lungs, prior: Lungs) -> Registration:
    """Bring two scans to coincide.

    Args:
        current, prior: of which the map goes from the first to the second.

    Raises:
        BadOption: nothing of one comes to lie on the other.
    """
    here, back = _Picture.of(current, FINE_MM), _Picture.of(prior, FINE_MM)
    affine = _affine(here, back)
    deformation = _deformation(affine, _splines(here, back, affine), here.grid)
    near, there = _Picture.of(current, FORK_MM), _Picture.of(prior, FORK_MM)
    places = forks(near, current.ignored)
    residual, alike = _residuals(near, there, deformation, places)
    teach, judge = np.arange(len(places)) % 2 == 0, np.arange(len(places)) % 2 == 1
    good = alike >= ALIKE
    refined = _refined(deformation, places[teach & good], residual[teach & good])
    left, alike = _residuals(near, there, refined, places[judge])
    return Registration(refined, _quality(near, there, refined, left, alike))


@dataclass(frozen=True, eq=False)
class _Picture:
    """A scan as it is compared: its lungs and a margin, along the patient's axes.

    Attributes:
        grid: axial.
        seen: (z, y, x) where the scan has voxels.
        lung: 0…1, share of lung.
        value: 0 in the lung, 1 in vessels, the wall and all that is not lung.
    """

    grid: Geometry
    seen: NDArray[np.bool_]
    lung: Float32
    value: Float32

    @classmethod
    def of(cls, scan: Lungs, voxel_mm: float) -> _Picture:
        own = scan.volume.geometry
        inside = np.asarray(scan.lungs.labels > 0)
        lines = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        ends = [(line[0], line[-1]) if line.size else (0, n - 1) for line, n in zip(lines, inside.shape, strict=True)]
        corners = own.to_lps(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
        low, high = corners.min(axis=0) - MARGIN_MM, corners.max(axis=0) + MARGIN_MM
        # beyond the scan there is nothing to compare: the picture ends where the scan does
        box = own.to_lps(np.stack(np.meshgrid(*[(0, n - 1) for n in own.shape], indexing="ij"), axis=-1).reshape(-1, 3))
        low, high = np.maximum(low, box.min(axis=0)), np.minimum(high, box.max(axis=0))
        count = np.maximum(np.ceil((high - low) / voxel_mm).astype(int) + 1, 4)[::-1]
        first = (float(low[0]), float(low[1]), float(low[2]))
        grid = Geometry.axial((int(count[0]), int(count[1]), int(count[2])), (voxel_mm,) * 3, first)
        hu = resample_array(scan.volume.hu, own, grid, fill=-3000.0)
        lung = resample_array(inside.view(np.uint8), own, grid, fill=0.0).astype(np.float32)
        air = float(np.median(hu[lung > 0.95])) if (lung > 0.95).any() else LUNG_HU
        value = np.clip((hu - air) / (-100.0 - air), -0.2, 1.0)
        value = value * lung + (1 - lung)
        return cls(grid, hu > -2000, lung, value.astype(np.float32))


# ---- SimpleITK


def _image(array: NDArray[np.generic], grid: Geometry) -> sitk.Image:
    """An array on an axial grid as SimpleITK's image; LPS is its world."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(float(s) for s in grid.spacing_zyx[::-1]))
    image.SetOrigin(grid.origin_lps)
    return image


def _method() -> sitk.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(WORKERS)
    method.SetNumberOfWorkUnits(WORKERS)
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _affine(current: _Picture, prior: _Picture) -> sitk.AffineTransform:
    """The affine part: from each of several beginnings, the best."""
    import SimpleITK as sitk

    step = round(ROUGH_MM / FINE_MM)
    fixed, moving = (
        sitk.Shrink(sitk.SmoothingRecursiveGaussian(_image(p.value, p.grid), ROUGH_MM / 2), [step] * 3)
        for p in (current, prior)
    )
    near = sitk.Shrink(
        _image((ndimage.maximum_filter(current.lung, 5) > 0.5).astype(np.uint8), current.grid), [step] * 3
    )
    best: tuple[float, sitk.AffineTransform] | None = None
    for start in _beginnings(current, prior):
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(np.diag(start[0]).ravel().tolist())
        transform.SetCenter(start[1].tolist())
        transform.SetTranslation((start[2] - start[1]).tolist())
        method = _method()
        method.SetMetricFixedMask(near)
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.02, ROUNDS_AFFINE, 0.6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, moving)
            value = float(method.GetMetricValue())
        except RuntimeError:  # nothing of one lies on the other
            continue
        if best is None or value < best[0]:
            best = value, transform
    if best is None:
        raise BadOption(APART)
    return best[1]


def _beginnings(current: _Picture, prior: _Picture) -> list[tuple[Float, Float, Float]]:
    """Scales (x, y, z), a place in the current scan, and the one in the prior scan that it may be: the middles of both
    lungs, and where a scan ends within the lungs, their upper and lower ends too."""
    (one, own), (other, theirs) = _extent(current), _extent(prior)
    middle = [(a[0] + a[1]) / 2 for a in (one, other)]
    scale = np.clip((other[1] - other[0]) / np.maximum(one[1] - one[0], 1), 0.7, 1.4)
    found = [(scale, middle[0], middle[1])]
    if own or theirs or not 0.85 < scale[2] < 1.18:
        plain = np.array([scale[0], scale[1], 1.0])
        for end in (0, 1):
            here, there = (np.array([*m[:2], e[end][2]]) for m, e in zip(middle, (one, other), strict=True))
            found.append((plain, here, there))
    return found


def _extent(picture: _Picture) -> tuple[tuple[Float, Float], bool]:
    """Lowest and highest LPS (x, y, z) of the lungs, and whether the scan ends within them."""
    index = np.argwhere(picture.lung > 0.5)
    low, high = (picture.grid.to_lps(np.percentile(index, p, axis=0)) for p in (1, 99))
    filled = (picture.lung > 0.5).sum(axis=(1, 2))
    ends = bool(max(filled[:3].max(), filled[-3:].max()) > 0.25 * filled.max())
    return (np.asarray(low), np.asarray(high)), ends


LEVELS = ((2.0, 2), (1.0, 1))
"""Of the B-splines: distance of control points over :data:`MESH_MM`, voxels over :data:`FINE_MM`."""


def _splines(current: _Picture, prior: _Picture, affine: sitk.AffineTransform) -> sitk.CompositeTransform:
    """B-splines inside the lungs, coarse ones and then finer ones before them."""
    import SimpleITK as sitk

    fixed, moving = (_image(p.value, p.grid) for p in (current, prior))
    near = _image((ndimage.maximum_filter(current.lung, 5) > 0.5).astype(np.uint8), current.grid)
    size = np.array(fixed.GetSize()) * FINE_MM
    seen = _image(prior.seen.astype(np.uint8), prior.grid)
    parts: list[sitk.Transform] = []
    for wide, shrink in LEVELS:
        mesh = [int(n) for n in np.maximum(np.round(size / (wide * MESH_MM)), 2)]
        transform = sitk.BSplineTransformInitializer(fixed, mesh, order=3)
        method = _method()
        method.SetMetricFixedMask(near)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, SAMPLES * shrink**3 / np.prod(current.grid.shape)), SEED)
        method.SetShrinkFactorsPerLevel([shrink])
        method.SetSmoothingSigmasPerLevel([0.5 * shrink])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
        method.SetOptimizerAsLBFGSB(
            gradientConvergenceTolerance=1e-5,
            numberOfIterations=ROUNDS_SPLINE,
            maximumNumberOfFunctionEvaluations=ROUNDS_SPLINE + 10,
        )
        so_far = sitk.CompositeTransform([affine, *parts])
        method.SetMetricMovingMask(sitk.Resample(seen, fixed, so_far, sitk.sitkNearestNeighbor, 0))
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, sitk.Resample(moving, fixed, so_far, sitk.sitkLinear, 1.0))
        except RuntimeError as error:
            raise BadOption(APART) from error
        parts.append(transform)  # the last one is applied first
    return sitk.CompositeTransform(parts)


def _deformation(affine: sitk.AffineTransform, splines: sitk.CompositeTransform, grid: Geometry) -> Deformation:
    """Both parts as one map, on a grid of :data:`FIELD_MM`."""
    import SimpleITK as sitk

    coarse = grid.respaced((FIELD_MM,) * 3)
    size = [int(n) for n in coarse.shape[::-1]]
    field = sitk.TransformToDisplacementField(
        splines, sitk.sitkVectorFloat64, size, coarse.origin_lps, [FIELD_MM] * 3, np.eye(3).ravel().tolist()
    )
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)
    centre, moved = np.array(affine.GetCenter()), np.array(affine.GetTranslation())
    bent = sitk.GetArrayFromImage(field) @ matrix.T
    return Deformation(matrix, centre + moved - matrix @ centre, coarse, bent.astype(np.float32))


# ---- Forks of vessels


def forks(picture: _Picture, ignored: Sequence[tuple[tuple[float, float, float], float]]) -> Float:
    """Places in the lung whose surroundings differ from those of their neighbours in every direction.

    The smallest eigenvalue of the structure tensor says so (Shi and Tomasi 1994).

    Returns:
        LPS mm (x, y, z), (n, 3), the most distinct first, at most :data:`FORKS`.
    """
    slope = np.gradient(ndimage.gaussian_filter(picture.value, 0.7))
    pairs = {(a, b): ndimage.gaussian_filter(slope[a] * slope[b], 1.5) for a in range(3) for b in range(a, 3)}
    deep = ndimage.distance_transform_edt(picture.lung > 0.5, sampling=picture.grid.spacing_zyx) > DEEP_MM
    trace = pairs[0, 0] + pairs[1, 1] + pairs[2, 2]
    index = np.argwhere(deep & (trace >= ndimage.maximum_filter(trace, 3)))
    at = tuple(index.T)
    tensor = np.stack([np.stack([pairs[min(a, b), max(a, b)][at] for b in range(3)], -1) for a in range(3)], -2)
    strength = np.linalg.eigvalsh(tensor)[:, 0]
    places = picture.grid.to_lps(index)[np.argsort(-strength, kind="stable")]
    for centre, radius in ignored:
        places = places[np.linalg.norm(places - centre, axis=1) > radius + TEMPLATE * FORK_MM / 2]
    tree, free = cKDTree(places), np.ones(len(places), dtype=bool)
    kept: list[int] = []
    for i in range(len(places)):
        if free[i]:
            kept.append(i)
            free[tree.query_ball_point(places[i], APART_MM)] = False
            if len(kept) == FORKS:
                break
    return np.asarray(places[kept]).reshape(-1, 3)


def _residuals(current: _Picture, prior: _Picture, to_prior: Deformation, places: Float) -> tuple[Float, Float]:
    """Where each fork is found in the prior scan, less where the map takes it: mm (x, y, z) there, (n, 3); and the
    correlation, :data:`UNSEEN` where a scan shows too little of the surroundings."""
    side = np.arange(-(TEMPLATE + REACH), TEMPLATE + REACH + 1) * FORK_MM
    around = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)[..., ::-1]  # z, y, x → points x, y, z
    width = 2 * TEMPLATE + 1
    inner = (slice(REACH, -REACH),) * 3
    residual, alike = np.zeros((len(places), 3)), np.full(len(places), UNSEEN)
    for number, place in enumerate(places):
        points = place + around
        here = _sampled(current, points[inner])
        # the neighbourhood as the map bends it, so that only the shift is open
        there = _sampled(prior, to_prior.at(points))
        if np.isnan(here).any() or np.isnan(there).mean() > 0.3:
            continue
        field = _correlations(here, np.nan_to_num(there, nan=1.0), width)
        peak = np.unravel_index(field.argmax(), field.shape)
        alike[number] = field[peak]
        shift = (np.array(peak) - REACH + _vertex(field, peak)) * FORK_MM
        residual[number] = to_prior.at(place + shift[::-1]) - to_prior.at(place)
    return residual, alike


def _sampled(picture: _Picture, points: Float) -> Float32:
    """Values at points, NaN outside the picture."""
    index = np.moveaxis(picture.grid.to_index(points), -1, 0)
    return np.asarray(
        ndimage.map_coordinates(picture.value, index, order=1, mode="constant", cval=np.nan, output=np.float32)
    )


def _correlations(template: Float32, image: Float32, width: int) -> Float:
    """Normalised correlation of a template with every window of an image."""
    windows = sliding_window_view(image, (width,) * 3)
    shape = windows.shape[:3]
    rows = windows.reshape(-1, width**3)
    one = template.ravel() - template.mean()
    mean = rows.mean(axis=1)
    spread = np.sqrt(np.maximum((rows**2).mean(axis=1) - mean**2, 1e-8) * rows.shape[1])
    return np.asarray((rows @ one) / (spread * max(float(np.linalg.norm(one)), 1e-6))).reshape(shape).astype(float)


def _vertex(field: Float, peak: Sequence[np.intp]) -> Float:
    """Of a parabola through the peak and its neighbours along each axis: −0.5…0.5."""
    out = np.zeros(3)
    for axis in range(3):
        i = int(peak[axis])
        if 0 < i < field.shape[axis] - 1:
            low, high = (field[tuple(np.array(peak) + np.eye(3, dtype=int)[axis] * s)] for s in (-1, 1))
            bend = low + high - 2 * field[tuple(peak)]
            out[axis] = float(np.clip((low - high) / (2 * bend), -0.5, 0.5)) if bend < -1e-9 else 0.0
    return out


def _refined(deformation: Deformation, places: Float, residual: Float) -> Deformation:
    """The map with the smoothed residuals of forks added; where there are none it stays as it was."""
    if len(places) < NEIGHBOURS:
        return deformation
    near = cKDTree(places).query(places, NEIGHBOURS)[1]
    stray = np.linalg.norm(residual - np.median(residual[near], axis=1), axis=1)
    places, residual = places[stray <= STRAY_MM], residual[stray <= STRAY_MM]
    grid = deformation.grid
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    points = grid.to_lps(index).reshape(-1, 3)
    added = np.zeros((len(points), 3))
    for start in range(0, len(points), 4096):
        part = points[start : start + 4096]
        weight = np.exp(-0.5 * ((part[:, None] - places) ** 2).sum(-1) / SMOOTH_MM**2)
        added[start : start + 4096] = weight @ residual / (weight.sum(axis=1, keepdims=True) + 0.3)
    return replace(
        deformation, displacement=deformation.displacement + added.reshape(*grid.shape, 3).astype(np.float32)
    )


def _quality(current: _Picture, prior: _Picture, to_prior: Deformation, residual: Float, alike: Float) -> Quality:
    grid = current.grid.respaced((2 * FORK_MM,) * 3)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    points = grid.to_lps(index)
    here = _labels(current.lung, current, points)
    moved = to_prior.at(points)
    there, seen = _labels(prior.lung, prior, moved), _labels(prior.seen.astype(np.float32), prior, moved) > 0.5
    # beside the picture, within the heights that the scan has, there is no lung
    own = prior.grid.to_index(moved)[..., 0]
    known = seen | ((own >= 0) & (own <= prior.grid.shape[0] - 1))
    one, other = (here > 0.5) & known, (there > 0.5) & known
    both = int(one.sum() + other.sum())
    judged = alike > UNSEEN  # not where a scan ends
    good = alike >= ALIKE
    length = np.linalg.norm(residual[good], axis=1)
    middle, most = (float(np.percentile(length, p)) for p in (50, 95)) if length.size else (None, None)
    return Quality(
        dice=2 * int((one & other).sum()) / both if both else 0.0,
        forks=int(judged.sum()),
        found=float(good[judged].mean()) if judged.any() else 0.0,
        residual_mm=middle,
        residual_p95_mm=most,
        overlap=float(one.sum() / max(int((here > 0.5).sum()), 1)),
    )


def _labels(values: Float32, picture: _Picture, points: Float) -> Float32:
    index = np.moveaxis(picture.grid.to_index(points), -1, 0)
    return np.asarray(ndimage.map_coordinates(values, index, order=1, mode="constant", cval=0.0, output=np.float32))
