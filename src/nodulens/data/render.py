"""Synthetic nodules: real outlines and ratings, rendered into real or phantom lungs.

The body is closed between and beyond the slices of the outline (:mod:`nodulens.data.shapes`), filled with what its
ratings imply, blurred by the scanner's point spread and slice thickness, and given the noise of the scan around it. No
pixel of the real nodule is used, and the ground truth is exact: the share of each voxel that the body fills.

A nodule replaces air only. A voxel of HU ``b`` that it fills by ``a`` with tissue of HU ``t`` becomes
``(1 − a) b + a max(t, b)``, so vessels continue through ground glass, and a nodule on the chest wall merges with it.
This weakens the scan's own noise, so noise of the same grain is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, special

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Point
from nodulens.core.volume import AIR_HU, Mask, Volume, crop_array
from nodulens.data.shapes import Shape
from nodulens.errors import BadOption
from nodulens.io.atomic import whole_folder
from nodulens.io.images import write_mask, write_volume
from nodulens.io.records import Format, encode
from nodulens.ops.components import distance_mm
from nodulens.ops.patches import Window

Float = NDArray[np.float32]

LUNG_HU = -850.0
FINE_MM = 0.45
"""Step of the grid on which a body is filled before its voxels are averaged; coarser for large bodies."""
FINE_POINTS = 160_000
BEYOND_MM = 1.0
"""How far bodies extend beyond a lung mask, which ends inside the blurred edge of the lung."""
MARGIN_MM = 3.5
"""Margin around the body for its blurred edge."""


# ---------------------------------------------------------------- the scan


@dataclass(frozen=True, eq=False)
class Scanner:
    """Blur and noise of a scan around a point.

    Attributes:
        blur_mm: standard deviations (z, y, x) of the point spread, without the averaging over a voxel.
        noise_hu: standard deviation of the noise.
        grain: autocorrelation of the noise at lags of −2…2, −4…4, −4…4 voxels; 1 in the middle.
    """

    blur_mm: tuple[float, float, float]
    noise_hu: float
    grain: Float


LAGS = (2, 4, 4)
SMOOTH_PX = 2.0
"""In-plane smoothing that is subtracted to get the noise."""
AROUND_MM, AROUND_SLICES = 24.0, 4
"""Size of the analysed surroundings: mm in the plane, and the most slices."""
USUAL_BLUR_MM = 0.6
LUNG_NOISE = 0.7
"""Noise in soft tissue over the residual of lung without its vessels, as measured on LIDC nodules."""


def scanner_at(volume: Volume, index_zyx: NDArray[np.float64]) -> Scanner:
    """Noise, grain and blur of a scan, estimated around a point.

    Noise is the residual of a smoothing in homogeneous lung, or in soft tissue if there is more of it; its grain is the
    autocorrelation there. In-plane blur (axes y and x) is that of the steepest edges between lung and tissue; along z
    it follows from the slice thickness, if that is known and exceeds the spacing.
    """
    spacing = np.asarray(volume.geometry.spacing_zyx)
    reach = np.ceil(AROUND_MM / spacing).astype(int)
    reach[0] = min(reach[0], AROUND_SLICES)
    middle = np.clip(np.round(index_zyx), 0, np.asarray(volume.geometry.shape) - 1)
    box = Box.around(middle, 2 * reach + 1).clipped(volume.geometry.shape)
    hu = volume.hu[box.slices].astype(np.float32)
    smooth = ndimage.gaussian_filter(hu, (0, SMOOTH_PX, SMOOTH_PX))
    rest = hu - smooth
    lung, tissue = smooth < -700, (smooth > -40) & (smooth < 120)
    chosen, factor = (tissue, 1.0) if tissue.sum() > lung.sum() else (lung, LUNG_NOISE)
    if chosen.sum() < 50:
        chosen = np.ones_like(lung)
    # vessels and edges exceed the noise: leave out residuals beyond three standard deviations
    deviation = 1.4826 * float(np.median(np.abs(rest[chosen])))
    chosen &= np.abs(rest) < 3 * deviation + 1
    noise = float(rest[chosen].std()) * factor
    thickness = volume.source.slice_thickness_mm or 0.0
    along = np.sqrt(max(thickness**2 - spacing[0] ** 2, 0.0) / 12)
    across = _edge_blur(np.clip(hu, -1000, 100), spacing)
    return Scanner((float(along), across, across), noise, _autocorrelation(rest, chosen))


def _edge_blur(hu: Float, spacing: NDArray[np.float64]) -> float:
    """Standard deviation in mm of the Gaussian blur of edges between lung and tissue, without that of the voxels.

    An edge of contrast c blurred by a Gaussian of standard deviation s has the slope c / (s √2π) at its centre.
    """
    slope = np.sqrt(sum(np.square(np.gradient(hu, s, axis=a)) for a, s in ((1, spacing[1]), (2, spacing[2]))
                        if hu.shape[a] > 1))  # fmt: skip
    contrast = ndimage.maximum_filter(hu, (1, 5, 5)) - ndimage.minimum_filter(hu, (1, 5, 5))
    edge = contrast > 600
    if edge.sum() < 40:
        return USUAL_BLUR_MM
    steepest = float(np.percentile(slope[edge] / contrast[edge], 93))
    width = 1 / (steepest * np.sqrt(2 * np.pi))
    # subtract the variances of two boxes, the difference over two voxels and the voxel itself
    pixel = float(spacing[1:].mean())
    return float(np.clip(np.sqrt(max(width**2 - (4 + 1) * pixel**2 / 12, 0.0)), 0.2, 1.2))


def _autocorrelation(rest: Float, where: NDArray[np.bool_]) -> Float:
    """The autocorrelation of a residual inside a mask, at all :data:`LAGS`, tapered to their ends."""
    kept = np.where(where, rest - rest[where].mean(), 0).astype(np.float32)
    size = [fft.next_fast_len(n + lag, real=True) for n, lag in zip(rest.shape, LAGS, strict=True)]
    products, pairs = (fft.irfftn(np.abs(fft.rfftn(a, size)) ** 2, size) for a in (kept, where.astype(np.float32)))
    lags = np.ix_(*(np.arange(-n, n + 1) for n in LAGS))
    found = products[lags] / np.maximum(pairs[lags], 1)
    # too few pairs for an estimate
    found = np.where(pairs[lags] > 30, found, 0) / max(float(found[LAGS]), 1e-6)
    taper = [np.cos(np.linspace(-1, 1, 2 * n + 3)[1:-1] * np.pi / 2) ** 0.5 for n in LAGS]
    found *= taper[0][:, None, None] * taper[1][:, None] * taper[2]
    found[LAGS] = 1
    return np.asarray(found, dtype=np.float32)


def _noise(shape: tuple[int, ...], grain: Float, rng: np.random.Generator) -> Float:
    """Noise with an autocorrelation: white noise filtered by the root of its spectrum.

    The grain was measured on the residual of a smoothing, whose filter is inverted here: the noise has standard
    deviation 1 after the same smoothing is subtracted.
    """
    size = [fft.next_fast_len(max(n, 2 * lag + 1), real=True) for n, lag in zip(shape, LAGS, strict=True)]
    kernel = np.zeros(size, dtype=np.float32)
    kernel[np.ix_(*(np.arange(-n, n + 1) for n in LAGS))] = grain
    spectrum = np.maximum(fft.rfftn(kernel).real, 0)
    deviation = np.sqrt(max(float(fft.irfftn(spectrum, size)[0, 0, 0]), 1e-6))
    y, x = fft.fftfreq(size[1]), fft.rfftfreq(size[2])
    left = 1 - np.exp(-2 * np.pi**2 * SMOOTH_PX**2 * (y[:, None] ** 2 + x**2))
    filtered = np.sqrt(spectrum) / (np.maximum(left, 0.2) * deviation)
    made = fft.irfftn(fft.rfftn(rng.standard_normal(size, dtype=np.float32)) * filtered.astype(np.float32), size)
    return np.asarray(made[tuple(slice(n) for n in shape)], dtype=np.float32)


# ---------------------------------------------------------------- the nodule


@dataclass(frozen=True)
class Appearance:
    """The appearance of a nodule.

    Attributes:
        tissue_hu: of its solid part.
        opacity: of its ground glass: the share of the air that it replaces, 0…1.
        solid: share of its volume that is solid, 0…1.
        margin_mm: standard deviation of the edge's own blur, without the scanner's.
        rough_mm: standard deviation of the surface from the outline.
        mottle: unevenness inside, as a share of the opacity.
        haze: opacity of the lung just outside, fading over :data:`MARGIN_MM`.
        calcification: LIDC's code: 1 popcorn, 2 laminated, 3 solid, 4 non-central, 5 central, 6 none.
        calcium_hu: of its calcified part.
    """

    tissue_hu: float
    opacity: float
    solid: float
    margin_mm: float
    rough_mm: float
    mottle: float
    haze: float
    calcification: int
    calcium_hu: float


def sample_appearance(shape: Shape, rng: np.random.Generator) -> Appearance:
    """Sample the appearance of a nodule from its ratings; missing ones default to the most frequent (solid, sharp, no
    calcification).

    The numbers are fitted to LIDC's nodules of these ratings, see docs/rendering.md.
    """
    size = shape.diameter_mm
    texture, margin, calcification = (
        shape.ratings.get(name) or usual for name, usual in (("texture", 5.0), ("margin", 5.0), ("calcification", 6.0))
    )

    def texture_of(*values: float) -> float:
        return float(np.interp(texture, (1, 2, 3, 4, 5), values))

    def margin_of(*values: float) -> float:
        return float(np.interp(margin, (1, 2, 3, 4, 5), values))

    tissue = float(np.clip(rng.normal(np.interp(size, (4, 8, 12), (22, 35, 55)), 40), -100, 150))
    glass_hu = texture_of(-650, -580, -520, -460, -350) + rng.normal(0, 70)
    solid = texture_of(0, 0.08, 0.25, 0.65, 1)
    uneven = texture_of(0.33, 0.3, 0.22, 0.15, margin_of(0.07, 0.05, 0.035, 0.02, 0.015))
    return Appearance(
        tissue_hu=tissue,
        opacity=float(np.clip((glass_hu - LUNG_HU) / (tissue - LUNG_HU), 0.08, 0.8)),
        solid=float(np.clip(solid + rng.normal(0, 0.1), 0, 1)) if 1 < texture < 5 else solid,
        margin_mm=margin_of(0.7, 0.7, 0.55, 0.35, 0.2) * rng.uniform(0.6, 1.5),
        rough_mm=margin_of(0.6, 0.55, 0.45, 0.35, 0.25) * rng.uniform(0.5, 1.5),
        mottle=uneven * rng.uniform(0.5, 1.5),
        haze=float(abs(rng.normal(0, 0.04)) * min(size / 8, 1)),
        calcification=int(calcification),  # half-way between two codes: the one with more calcium
        calcium_hu=float(rng.uniform(300, 1300)),
    )


@dataclass(frozen=True, eq=False)
class Rendered:
    """A nodule in its surroundings.

    Attributes:
        box: the voxels of the scan that changed.
        piece: the scan there, nodule included, on the scan's grid cut to the box.
        truth: 1, named "nodule", where at least half of a voxel is filled; the fullest voxel where none is.
        share: float32 0…1 of ``box.shape``, share of each voxel that the body fills.
        place: LPS mm (x, y, z) of the body's centroid.
        shape: the outline.
    """

    box: Box
    piece: Volume
    truth: Mask
    share: Float
    place: Point
    shape: Shape


def render(volume: Volume, shape: Shape, centre_lps: Point, *, seed: int, lungs: Mask | None = None) -> Rendered:
    """Render one nodule into a scan.

    Args:
        volume: any grid, at any angle.
        shape: outline and ratings; :meth:`Shape.turned` and a larger ``spacing_zyx`` give variants.
        centre_lps: of the body's centroid, LPS mm.
        seed: of the noise and of values that ratings leave open; the same seed gives the same voxels.
        lungs: on the scan's grid; the body is cut off in the chest wall, as readers' outlines end at the pleura. None:
            not cut off.

    Returns:
        The changed piece of the scan, cropped to the scan.

    Raises:
        BadOption: the point is outside the scan, or the lungs are on another grid.
    """
    if lungs is not None:
        _check_grid(volume, lungs)
    if not volume.geometry.contains(centre_lps):
        x, y, z = (f"{v:.1f}" for v in centre_lps)
        raise BadOption(f"LPS ({x}, {y}, {z}) mm lies outside the scan; give a place inside it.")
    rng = np.random.default_rng(seed)
    appearance = sample_appearance(shape, rng)
    index = volume.geometry.to_index(centre_lps)
    scanner = scanner_at(volume, index)
    spacing = np.asarray(volume.geometry.spacing_zyx)
    reach = np.ceil((shape.reach_mm(volume.geometry.direction) + MARGIN_MM) / spacing).astype(int)
    whole = Box.around(np.round(index), 2 * reach + 1)
    grid = volume.geometry.crop(whole)
    edge = None if lungs is None else _lung_edge(crop_array(lungs.labels, whole) > 0, grid)
    share, filled, added = _filled(shape, appearance, centre_lps, _Canvas.over(grid, rng), edge)

    sigma = np.asarray(scanner.blur_mm) / spacing
    filled, added = (ndimage.gaussian_filter(a, sigma, mode="constant", truncate=3) for a in (filled, added))
    before = crop_array(volume.hu, whole, AIR_HU).astype(np.float32)
    denser = np.maximum(filled * ndimage.gaussian_filter(before, (0, 1, 1)) - added, 0)
    after = before * (1 - filled) + added + denser
    after += _noise(grid.shape, scanner.grain, rng) * scanner.noise_hu * np.sqrt(filled * (2 - filled))

    box = whole.clipped(volume.geometry.shape)
    inner = tuple(slice(a - s, b - s) for a, b, s in zip(box.start, box.stop, whole.start, strict=True))
    values = np.rint(after) if volume.hu.dtype == np.int16 else after
    piece = Volume(values[inner].astype(volume.hu.dtype), volume.geometry.crop(box), volume.source)
    share = np.ascontiguousarray(share[inner])
    inside = (share >= min(0.5, float(share.max()))) & (share > 0)
    truth = Mask(inside.astype(np.uint8), piece.geometry, {1: "nodule"})
    return Rendered(box, piece, truth, share, centre_lps, shape)


def _check_grid(volume: Volume, lungs: Mask) -> None:
    if lungs.geometry != volume.geometry:
        raise BadOption(
            f"The lungs are on a grid of shape {lungs.geometry.shape}, the scan on one of {volume.geometry.shape} "
            "(z, y, x) or of another position; segment this scan."
        )


def _lung_edge(lung: NDArray[np.bool_], grid: Geometry) -> Float:
    """Signed distance in mm to the surface that clips bodies, :data:`BEYOND_MM` outside the lung; negative inside."""
    half = 0.5 * float(np.mean(grid.spacing_zyx))
    outside, inside = (distance_mm(part, grid.spacing_zyx) for part in (~lung, lung))
    return np.where(lung, half - inside, outside - half).clip(-1e3, 1e3).astype(np.float32) - np.float32(BEYOND_MM)


@dataclass(frozen=True, eq=False)
class RenderedScan:
    """A scan with rendered nodules.

    Attributes:
        volume: the scan, nodules included.
        truth: label i, named "nodule i", for the i-th nodule, counted from 1.
        nodules: each with its position and its share of every voxel.
    """

    volume: Volume
    truth: Mask
    nodules: tuple[Rendered, ...]


def render_many(
    volume: Volume, lungs: Mask, shapes: Sequence[Shape], *, seed: int, juxtapleural: float = 0.2
) -> RenderedScan:
    """Render nodules at random positions in the lungs, without overlap.

    Args:
        volume: the scan.
        lungs: on its grid; all labels are lung.
        shapes: the nodules, each rendered once.
        seed: of positions and appearance.
        juxtapleural: share of the nodules at the edge of the lung, 0…1.

    Raises:
        BadOption: the lungs are on another grid, are empty, or have no room left.
    """
    _check_grid(volume, lungs)
    rng = np.random.default_rng(seed)
    hu = volume.hu.copy()
    room = _Room.of(replace(volume, hu=hu), lungs)  # shares hu, so includes the nodules written below
    labels = np.zeros(volume.geometry.shape, dtype=np.uint8 if len(shapes) < 256 else np.uint16)
    nodules: list[Rendered] = []
    for number, shape in enumerate(shapes, 1):
        place = room.place(shape, nodules, rng, at_edge=rng.random() < juxtapleural)
        nodules.append(render(room.volume, shape, place, seed=int(rng.integers(2**31)), lungs=lungs))
        box = nodules[-1].box.slices
        hu[box] = nodules[-1].piece.hu
        labels[box][nodules[-1].truth.labels > 0] = number
    names = {number: f"nodule {number}" for number in range(1, len(shapes) + 1)}
    return RenderedScan(room.volume, Mask(labels, volume.geometry, names), tuple(nodules))


SCHEMA = "nodulens-rendered/1"
FORM = Format(SCHEMA, "rendered scan")


@dataclass(frozen=True)
class NoduleRecord:
    """One rendered nodule, for a file.

    Attributes:
        label: its value in the mask.
        place_lps: of the body's centroid before cropping, LPS mm (x, y, z).
        volume_mm3: of the body, from the share of each voxel.
        outline_of: patient of the outline.
        ratings: LIDC's, medians over the readers.
    """

    label: int
    place_lps: Point
    volume_mm3: float
    outline_of: str
    ratings: dict[str, float]


@dataclass(frozen=True)
class RenderedScanRecord:
    """The nodules rendered into a scan, and the seed that reproduces them."""

    seed: int
    nodules: tuple[NoduleRecord, ...]


def write_rendered_scan(scene: RenderedScan, folder: Path, *, seed: int) -> None:
    """Write scan (ct.nii.gz), labels (nodules.nii.gz) and records of the nodules (nodules.json), all or none.

    Args:
        scene: the rendered scan.
        folder: as for :func:`nodulens.io.atomic.whole_folder`: missing, or empty.
        seed: that reproduces it.

    Raises:
        BadOption, CannotWrite: as :func:`nodulens.io.atomic.whole_folder`.
    """
    voxel = scene.volume.geometry.voxel_mm3
    nodules = tuple(
        NoduleRecord(i, n.place, float(n.share.sum(dtype=float) * voxel), n.shape.patient, dict(n.shape.ratings))
        for i, n in enumerate(scene.nodules, 1)
    )
    with whole_folder(folder) as room:
        write_volume(scene.volume, room / "ct.nii.gz")
        write_mask(scene.truth, room / "nodules.nii.gz", z_reversed=scene.volume.source.z_reversed)
        (room / "nodules.json").write_text(encode(RenderedScanRecord(seed, nodules), FORM), encoding="utf-8")


TRIES = 2000
"""Positions tried for one nodule."""


@dataclass(frozen=True, eq=False)
class _Room:
    """Room for nodules: the lung on the scan's grid, and the box around it."""

    volume: Volume
    lung: NDArray[np.bool_]
    box: Box

    @classmethod
    def of(cls, volume: Volume, lungs: Mask) -> _Room:
        lung = np.asarray(lungs.labels > 0)
        if not lung.any():
            raise BadOption("The lung mask is empty; there is no place for a nodule.")
        return cls(volume, lung, Box.of_mask(lung))

    def place(self, shape: Shape, others: Sequence[Rendered], rng: np.random.Generator, *, at_edge: bool) -> Point:
        """A random position, LPS mm (x, y, z), clear of the other nodules.

        Inside the lung the nodule is all inside and mostly in air; at the edge a tenth to a half of its surface is
        outside.
        """
        grid, radius, ball = self.volume.geometry, shape.diameter_mm / 2, _sphere(48)

        def reach(of: Shape) -> float:
            return float(of.reach_mm(grid.direction).max())

        taken = [(n.place, reach(n.shape) + reach(shape)) for n in others]
        for _ in range(TRIES):
            index = np.floor(rng.uniform(self.box.start, self.box.stop))
            if not self.lung[tuple(index.astype(int))]:
                continue
            if at_edge:
                index = self._edge(index, radius, rng)
            place = grid.to_lps(index)
            if any(np.linalg.norm(place - p) < apart for p, apart in taken):
                continue
            inside, hu = self._at(place + ball * radius)
            core, _ = self._at(place + ball * radius / 2)
            beyond = 1 - float(inside.mean())
            fits = 0.1 <= beyond <= 0.5 if at_edge else beyond == 0
            if fits and float(core.mean()) >= 0.8 and float(hu[inside].mean()) < -650:
                return float(place[0]), float(place[1]), float(place[2])
        raise BadOption(
            f"No room for a nodule of {shape.diameter_mm:.0f} mm {'at the edge of' if at_edge else 'in'} the lungs "
            f"beside {len(others)} others in {TRIES} tries; ask for fewer or smaller ones."
        )

    def _edge(self, index: NDArray[np.float64], radius_mm: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """From a voxel of the lung in a random direction to its edge, and back by about half a radius."""
        ray = rng.normal(size=3)
        step = ray / np.linalg.norm(ray) / np.asarray(self.volume.geometry.spacing_zyx)  # 1 mm
        last = np.asarray(self.lung.shape) - 1
        reached = index
        while bool(((reached >= 0) & (reached <= last)).all()) and self.lung[tuple(reached.astype(int))]:
            reached = reached + step
        return np.asarray(reached - step * radius_mm * rng.uniform(0.3, 0.9))

    def _at(self, points_lps: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether points are in the lung, and the HU there; outside the scan is no lung."""
        index = np.round(self.volume.geometry.to_index(points_lps)).astype(int)
        last = np.asarray(self.lung.shape) - 1
        there = tuple(np.clip(index, 0, last).T)
        return self.lung[there] & ((index >= 0) & (index <= last)).all(axis=1), self.volume.hu[there].astype(float)


def _sphere(count: int) -> NDArray[np.float64]:
    """(count, 3) points spread evenly over the unit sphere, along a spiral."""
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)


# ---------------------------------------------------------------- filling a body


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The voxels to be filled, each divided into finer ones.

    Attributes:
        grid, fine: grids of the voxels, and of the finer ones.
        cuts: fine voxels in a voxel along each axis.
        step_mm: side of a fine voxel.
        rng: generator of the random fields.
    """

    grid: Geometry
    fine: Geometry
    cuts: tuple[int, int, int]
    step_mm: float
    rng: np.random.Generator

    @classmethod
    def over(cls, grid: Geometry, rng: np.random.Generator) -> _Canvas:
        spacing = np.asarray(grid.spacing_zyx)
        step = max(FINE_MM, float(np.cbrt(np.prod(spacing * grid.shape) / FINE_POINTS)))
        z, y, x = (int(max(round(s / step), 1)) for s in spacing)
        fine = grid.respaced((spacing[0] / z, spacing[1] / y, spacing[2] / x))
        return cls(grid, fine, (z, y, x), float(np.cbrt(fine.voxel_mm3)), rng)

    def refined(self, values: Float) -> Float:
        """Values of voxels, interpolated on the fine grid."""
        z, y, x = self.cuts
        first = (0.5 / z - 0.5, 0.5 / y - 0.5, 0.5 / x - 0.5)
        return Window(first, (1 / z, 1 / y, 1 / x), self.fine.shape).sample(values)

    def field(self, length_mm: float) -> Float:
        """A smooth random field of standard deviation 1 on the fine grid, of correlation length ``length_mm``."""
        sigma = length_mm / 2 / np.asarray(self.grid.spacing_zyx)
        white = self.rng.standard_normal(self.grid.shape, dtype=np.float32)
        values = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
        return self.refined(values / max(float(values.std()), 1e-6))

    def pooled(self, values: Float) -> Float:
        """Fine values, averaged over each voxel."""
        (a, b, c), (z, y, x) = self.cuts, self.grid.shape
        return np.asarray(values.reshape(z, a, y, b, x, c).mean(axis=(1, 3, 5)), dtype=np.float32)


def _filled(
    shape: Shape, appearance: Appearance, centre_lps: Point, canvas: _Canvas, lung_edge: Float | None
) -> tuple[Float, Float, Float]:
    """Means over the voxels: the body's share, the share of air that it replaces, and that times its HU."""
    distance = shape.distance_at(centre_lps, canvas.fine)
    distance += min(appearance.rough_mm, 0.04 * shape.diameter_mm) * _roughness(distance, canvas)
    # pixels, caps and roughness have moved the surface a little: restore the volume of the outline
    count = min(max(round(shape.volume_mm3 / canvas.fine.voxel_mm3), 1), distance.size - 1)
    most = float(np.mean(shape.spacing_zyx[1:]))
    distance -= np.float32(np.clip(np.partition(distance, count, axis=None)[count], -most, most))
    if lung_edge is not None:
        distance = np.maximum(distance, canvas.refined(lung_edge))
    body = np.clip(0.5 - distance / canvas.step_mm, 0, 1)
    distance += np.float32(shape.outside_mm)  # from here on, to the visible surface
    # a logistic curve of this steepness approximates a Gaussian's integral
    soft = special.expit(distance * np.float32(-1.702 / np.hypot(appearance.margin_mm, canvas.step_mm / np.sqrt(12))))
    depth = distance / min(float(distance.min()), -1e-3)

    opacity = appearance.opacity + (1 - appearance.opacity) * _solid_part(depth, appearance.solid, canvas)
    opacity = np.clip(opacity * (1 - appearance.mottle * canvas.field(1.5)), 0, 1)
    calcium = _calcified_part(depth, appearance.calcification, canvas)
    taken = soft * np.maximum(opacity, calcium)
    taken = np.maximum(taken, appearance.haze * np.clip(1 - distance / MARGIN_MM, 0, 1))
    hu = appearance.tissue_hu + (appearance.calcium_hu - appearance.tissue_hu) * calcium
    return canvas.pooled(body), canvas.pooled(taken), canvas.pooled(taken * hu)


def _roughness(distance: Float, canvas: _Canvas) -> Float:
    """A field of standard deviation 1, without its mean and slopes over the surface, so the body is not shifted."""
    field = canvas.field(1.5)
    surface = np.abs(distance) < canvas.step_mm
    index = np.argwhere(surface)
    if not len(index):
        return field
    (level, *slopes), *_ = np.linalg.lstsq(np.column_stack([np.ones(len(index)), index]), field[surface], rcond=None)
    z, y, x = (slope * np.arange(n) for slope, n in zip(slopes, field.shape, strict=True))
    return np.asarray(field - (z[:, None, None] + y[:, None] + x + level), dtype=np.float32)


def _solid_part(depth: Float, share: float, canvas: _Canvas) -> Float:
    """0…1 solid share of a part-solid nodule: its deepest part (depth 1 at the core, 0 at the surface), unevenly."""
    if share <= 0 or share >= 1 or not (depth >= 0).any():
        return np.full_like(depth, share)
    uneven = depth + 0.35 * canvas.field(2.5)
    level = float(np.quantile(uneven[depth >= 0], 1 - share))
    return np.asarray(special.expit((uneven - level) / 0.25), dtype=np.float32)


def _calcified_part(depth: Float, code: int, canvas: _Canvas) -> Float:
    """0…1 calcified share of a nodule, by LIDC's code and the depth (1 at the core, 0 at the surface)."""
    rng = canvas.rng
    if code == 1:  # popcorn: lumps
        part = special.expit((canvas.field(2.5) - 0.3) / 0.15) * (depth > 0.1)
    elif code == 2:  # laminated: shells
        part = 0.5 + 0.5 * np.cos(2 * np.pi * depth * rng.uniform(1.5, 2.5))
    elif code == 3:  # solid: all of it
        part = np.clip(1 - 0.2 * np.abs(canvas.field(2.0)), 0, 1)
    elif code == 4:  # non-central: a lump off the centre
        spots = np.argwhere((depth > 0.25) & (depth < 0.6))
        spot = spots[rng.integers(len(spots))] if len(spots) else np.unravel_index(depth.argmax(), depth.shape)
        offset = [(np.arange(n) - s) ** 2 for n, s in zip(depth.shape, spot, strict=True)]
        away = np.sqrt(offset[0][:, None, None] + offset[1][:, None] + offset[2]) * canvas.step_mm
        radius = 0.4 * np.cbrt((depth > 0).sum() * canvas.fine.voxel_mm3)
        part = special.expit((radius * rng.uniform(0.5, 0.8) - away) / 0.3)
    elif code == 5:  # central: the core
        part = special.expit((depth - rng.uniform(0.15, 0.6)) / 0.1)
    else:
        part = np.zeros_like(depth)
    return np.asarray(part, dtype=np.float32)
