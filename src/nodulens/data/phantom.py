"""A phantom chest CT with nodules of known place and size, for demonstrations and tests.

It is of no patient: a body of fat, muscle and bone, lungs with a volume-filling tree of vessels and airways, heart and
great vessels, on a table, with the noise of a scanner. Anatomy is defined in millimetres (LPS, origin at the centre of
the chest), so it is the same on any grid; the seed varies shape, trees and nodules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Point, Texture
from nodulens.core.volume import AIR_HU, Source, Volume
from nodulens.data.follow_up import breathing
from nodulens.io.atomic import whole_folder

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

Float = NDArray[np.float32]
Triple = tuple[float, float, float]
Path3 = Sequence[Point]

EXTENT_ZYX_MM = (300.0, 384.0, 384.0)
COARSE_MM = 3.0
EDGE_MM = 1.2
"""Width of the edge between two tissues: the blur of a scanner."""

FAT, MUSCLE, BLOOD, SKIN, CARTILAGE, SPONGY, CORTEX, LUMEN = -105, 52, 42, 20, 95, 190, 620, -985
LUNG_HU = -862
GROUND_GLASS_HU, SOLID_HU = -620, 35


@dataclass(frozen=True)
class PhantomNodule:
    """A ball in the phantom, exactly known.

    Attributes:
        centre_lps: LPS mm (x, y, z).
        diameter_mm: of the ball.
        texture: "solid", "ground-glass", or "part-solid" with a solid ball at its centre.
        solid_diameter_mm: of the solid ball; the whole diameter if solid, 0 if ground-glass.
        juxtapleural: whether the ball touches the chest wall and sinks into it.
    """

    centre_lps: Point
    diameter_mm: float
    texture: Texture
    solid_diameter_mm: float
    juxtapleural: bool = False


@dataclass(frozen=True)
class _Wanted:
    """A nodule to be placed: its lung (+1 left, −1 right) and range of heights in mm."""

    texture: Texture
    diameter: float
    solid: float
    side: int
    heights: tuple[float, float]
    juxtapleural: bool = False


WANTED = (
    _Wanted("solid", 12.0, 12.0, -1, (35, 80)),
    _Wanted("solid", 6.0, 6.0, 1, (-70, -20)),
    _Wanted("part-solid", 17.0, 8.0, 1, (20, 70)),
    _Wanted("ground-glass", 14.0, 0.0, -1, (-70, 0)),
    _Wanted("solid", 9.0, 9.0, -1, (-60, 10), juxtapleural=True),
)


@dataclass(frozen=True)
class _Tube:
    """A cone with round ends between two LPS points, of one HU."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    radius_a: float
    radius_b: float
    hu: float


@dataclass(frozen=True)
class _Shape:
    """Signed distance in mm to a smooth surface on the coarse grid (negative inside), and the HU inside."""

    distance: Float
    hu: float


def phantom_ct(
    seed: int = 0, spacing_zyx: Triple = (2.5, 0.75, 0.75), noise_hu: float = 22.0
) -> tuple[Volume, tuple[PhantomNodule, ...]]:
    """Make a phantom chest CT.

    Args:
        seed: of shape, trees, nodules and noise.
        spacing_zyx: mm; the field is always 300 × 384 × 384 mm (z, y, x), 120 × 512 × 512 voxels by default.
        noise_hu: standard deviation of the noise; 0 for none.

    Returns:
        An int16 volume whose axes rise towards superior, posterior, left, and the nodules in it.
    """
    rng = np.random.default_rng(seed)
    geometry = _grid(spacing_zyx)
    canvas, chest, tubes = _chest_on(geometry, rng)
    nodules = _place(chest, tubes, rng, WANTED)
    for nodule in nodules:
        canvas.nodule(nodule)
    canvas.noise(noise_hu, rng)
    hu = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    return Volume(hu, geometry, Source(description=f"nodulens phantom {seed}")), nodules


def _grid(spacing_zyx: Triple) -> Geometry:
    shape = tuple(round(e / s) for e, s in zip(EXTENT_ZYX_MM, spacing_zyx, strict=True))
    origin = [-s * (n - 1) / 2 for n, s in zip(shape, spacing_zyx, strict=True)][::-1]
    return Geometry.axial((shape[0], shape[1], shape[2]), spacing_zyx, (origin[0], origin[1], origin[2]))


def _chest_on(geometry: Geometry, rng: np.random.Generator) -> tuple[_Canvas, _Chest, list[_Tube]]:
    """The chest without nodules and noise, its organs, and the vessels and airways of its lungs."""
    canvas = _Canvas.blank(geometry)
    chest = _Chest.grow(rng)
    chest.paint(canvas)
    _paint_spine(canvas)
    canvas.tubes(_skeleton())
    vessels = [tube for side in (-1, 1) for tube in _vessels(chest, side, rng)]
    airways = _airways(chest, rng)
    canvas.tubes([*_great_vessels(), *vessels, *airways])
    return canvas, chest, [*vessels, *airways]


@dataclass(frozen=True)
class Followed:
    """A nodule of the phantom and of its follow-up.

    Attributes:
        before, after: in each; None where it is not there. Places are those of its own scan.
    """

    before: PhantomNodule | None
    after: PhantomNodule | None


LATER: tuple[tuple[float, float] | None, ...] = ((14.5, 14.5), (6.0, 6.0), (18.5, 10.5), (14.0, 0.0), None)
"""Diameter, and that of the solid part, which each of :data:`WANTED` has a year later; None: resolved."""
NEW = _Wanted("solid", 7.0, 7.0, 1, (-20, 60))
"""What is new then."""


def follow_up_ct(
    seed: int = 0, spacing_zyx: Triple = (2.5, 0.75, 0.75), noise_hu: float = 22.0
) -> tuple[Volume, tuple[Followed, ...]]:
    """The phantom of :func:`phantom_ct` a year later: another breath, moved on the table, nodules grown, new and gone.

    Args:
        seed, spacing_zyx, noise_hu: as there.

    Returns:
        The volume, and every nodule of either scan.
    """
    rng = np.random.default_rng(seed)
    geometry = _grid(spacing_zyx)
    canvas, chest, tubes = _chest_on(geometry, rng)
    known = _place(chest, tubes, rng, (*WANTED, NEW))
    half = [e / 2 for e in EXTENT_ZYX_MM[::-1]]
    to_before = breathing(([-h for h in half], half), seed=seed + 1)
    hu = np.stack(list(to_before.planes(canvas.hu, geometry, geometry, order=1, fill=AIR_HU)))
    later = _Canvas(hu, geometry, canvas.z, canvas.y, canvas.x)
    pairs: list[Followed] = []
    for one, size in zip(known, (*LATER, (NEW.diameter, NEW.solid)), strict=True):
        x, y, z = (float(v) for v in to_before.inverse_at(one.centre_lps))
        after = (
            None if size is None else replace(one, centre_lps=(x, y, z), diameter_mm=size[0], solid_diameter_mm=size[1])
        )
        pairs.append(Followed(one if len(pairs) < len(WANTED) else None, after))
        if after is not None:
            later.nodule(after)
    later.noise(noise_hu, np.random.default_rng((seed, 1)))
    values = np.clip(np.rint(later.hu), -1024, 3071).astype(np.int16)
    return Volume(values, geometry, Source(description=f"nodulens phantom {seed}, a year later")), tuple(pairs)


def write_phantom_dicom(
    folder: Path, seed: int = 0, spacing_zyx: Triple = (2.5, 0.75, 0.75)
) -> tuple[PhantomNodule, ...]:
    """Write the phantom as a DICOM CT series, an uncompressed explicit little-endian file for each slice; all or none.

    The same seed and spacing give the same bytes, UIDs included.

    Args:
        folder: as for :func:`nodulens.io.atomic.whole_folder`: missing, or empty.
        seed, spacing_zyx: as for :func:`phantom_ct`.

    Raises:
        BadOption, CannotWrite: as :func:`nodulens.io.atomic.whole_folder`.
    """
    with whole_folder(folder) as room:
        volume, nodules = phantom_ct(seed, spacing_zyx)
        _write_slices(volume, room, seed, "20000101")
    return nodules


def write_follow_up_dicom(folder: Path, seed: int = 0, spacing_zyx: Triple = (2.5, 0.75, 0.75)) -> tuple[Followed, ...]:
    """Write :func:`follow_up_ct` as a DICOM CT series of the same patient, a year after that of
    :func:`write_phantom_dicom`; all or none."""
    with whole_folder(folder) as room:
        volume, nodules = follow_up_ct(seed, spacing_zyx)
        _write_slices(volume, room, seed, "20010101")
    return nodules


def _write_slices(volume: Volume, room: Path, seed: int, date: str) -> None:
    for z in range(volume.geometry.shape[0]):
        file = BytesIO()  # pydicom would not say which error of the system it met
        _dicom_slice(volume, z, seed, date).save_as(file, enforce_file_format=True)
        (room / f"{z + 1:04d}.dcm").write_bytes(file.getvalue())


def _dicom_slice(volume: Volume, z: int, seed: int, date: str) -> FileDataset:
    """One slice as a pydicom data set with every attribute that CT Image Storage requires."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    depth, row, column = volume.geometry.spacing_zyx
    name = f"nodulens phantom {seed} {volume.geometry.shape} {volume.geometry.spacing_zyx}"
    name += "" if date == "20000101" else f" {date}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, "image", str(z)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[name, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[name, "series"])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[name, "frame"])
    ds.PatientName, ds.PatientID, ds.PatientSex = "Made^Up", f"MADE-UP-{seed}", "O"
    ds.PatientBirthDate = ds.ReferringPhysicianName = ds.AccessionNumber = ds.PositionReferenceIndicator = ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = date
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 1, 1, volume.hu.shape[0] - z
    ds.StudyDescription, ds.SeriesDescription = "Phantom chest CT", f"Phantom {depth:g} mm"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "nodulens", "phantom", "1"
    ds.Modality, ds.BodyPartExamined, ds.PatientPosition = "CT", "CHEST", "HFS"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.BurnedInAnnotation = "NO"
    ds.KVP, ds.ConvolutionKernel, ds.SliceThickness = "120", "STANDARD", f"{depth:g}"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [f"{v:g}" for v in volume.geometry.to_lps((z, 0, 0))]
    ds.PixelSpacing = [f"{row:g}", f"{column:g}"]
    ds.Rows, ds.Columns = volume.hu.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
    ds.WindowCenter, ds.WindowWidth = "-600", "1500"
    ds.PixelData = (volume.hu[z].astype(np.int32) + 1024).astype("<u2").tobytes()
    return ds


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A float32 volume to paint on, with the LPS mm of its axes."""

    hu: Float
    geometry: Geometry
    z: Float
    y: Float
    x: Float

    @classmethod
    def blank(cls, geometry: Geometry) -> _Canvas:
        z, y, x = (
            (np.arange(n) * s + o).astype(np.float32)
            for n, s, o in zip(geometry.shape, geometry.spacing_zyx, geometry.origin_lps[::-1], strict=True)
        )
        return cls(np.full(geometry.shape, AIR_HU, dtype=np.float32), geometry, z, y, x)

    def window(self, low_xyz: ArrayLike, high_xyz: ArrayLike) -> tuple[slice, slice, slice]:
        """The voxels between two LPS corners."""
        first, last = self.geometry.to_index(low_xyz), self.geometry.to_index(high_xyz)
        start = np.maximum(np.ceil(first), 0).astype(int)
        stop = np.maximum(np.floor(last) + 1, start).astype(int)
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])

    def tubes(self, tubes: Iterable[_Tube]) -> None:
        """Paint tubes one over the other, averaged over the thickness of a slice."""
        half = self.geometry.spacing_zyx[0] / 2
        for tube in tubes:
            reach = max(tube.radius_a, tube.radius_b) + EDGE_MM
            low, high = np.minimum(tube.a, tube.b) - reach, np.maximum(tube.a, tube.b) + reach
            low[2] -= half
            high[2] += half
            cut = self.window(low, high)
            part = self.hu[cut]
            if not part.size:
                continue
            v = (tube.b - tube.a).astype(np.float32)
            z = (self.z[cut[0], None] + np.array([-half / 2, half / 2], np.float32)).reshape(-1, 1, 1) - tube.a[2]
            y = self.y[cut[1]][:, None] - np.float32(tube.a[1])
            x = self.x[cut[2]] - np.float32(tube.a[0])
            z = z.astype(np.float32)
            t = np.clip((z * v[2] + (y * v[1] + x * v[0])) / max(float(v @ v), 1e-6), 0, 1)
            distance = np.sqrt((z - t * v[2]) ** 2 + (y - t * v[1]) ** 2 + (x - t * v[0]) ** 2)
            distance -= tube.radius_a + (tube.radius_b - tube.radius_a) * t
            filled = np.clip(0.5 - distance / EDGE_MM, 0, 1)
            filled = (filled[::2] + filled[1::2]) / 2
            part += filled * (tube.hu - part)

    def nodule(self, nodule: PhantomNodule) -> None:
        """Paint the balls of a nodule, each voxel filled by the share of it that is inside."""
        for diameter, hu in (
            (nodule.diameter_mm, SOLID_HU if nodule.texture == "solid" else GROUND_GLASS_HU),
            (nodule.solid_diameter_mm if nodule.texture == "part-solid" else 0.0, SOLID_HU),
        ):
            reach = diameter / 2 + max(self.geometry.spacing_zyx)
            centre = np.asarray(nodule.centre_lps)
            cut = self.window(centre - reach, centre + reach)
            fine = 6
            steps = (np.arange(fine) + 0.5) / fine - 0.5
            z, y, x = (
                (axis[c, None] + steps * s).ravel() - o
                for axis, c, s, o in zip(
                    (self.z, self.y, self.x), cut, self.geometry.spacing_zyx, centre[::-1], strict=True
                )
            )
            inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < (diameter / 2) ** 2
            part = self.hu[cut]
            blocks = inside.reshape(part.shape[0], fine, part.shape[1], fine, part.shape[2], fine)
            part += blocks.mean(axis=(1, 3, 5), dtype=np.float32) * (hu - part)

    def noise(self, hu: float, rng: np.random.Generator) -> None:
        """Add noise with the grain of a soft kernel, stronger through the shoulders."""
        if hu == 0:
            return
        for image, height in zip(self.hu, self.z, strict=True):
            grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.7)
            image += grain * (hu * (1 + 0.5 / (1 + np.exp((90 - height) / 10))) / float(grain.std()))


# ---------------------------------------------------------------- the chest


def _smooth_step(value: NDArray[np.float32], middle: float, width: float) -> Float:
    """A logistic step. Not by scipy's expit, whose last bit differs: some voxels of the phantom, whose figures are
    published, would have another HU."""
    return np.asarray(1 / (1 + np.exp((middle - value) / width)), dtype=np.float32)


def _cavity_scale(z: float) -> float:
    """Relative width of the chest cavity at a height, 1 at the base, 0 at the apex."""
    t = min(max((z + 140) / 262, 0.0), 1.0)
    return float((1 - t**3.6) ** (1 / 2.3))


CAVITY_X_MM, CAVITY_Y_MM, CAVITY_POWER = 130.0, 86.0, 2.3


def _cavity_middle(z: float) -> float:
    """LPS y of the cavity's centre: the apex leans back."""
    return 8 + 18 * max((z + 140) / 262, 0.0) ** 2


def _distance(field: Float) -> Float:
    """An implicit field on the coarse grid, negative inside, as distance in mm to its surface, corners rounded."""
    smooth = ndimage.gaussian_filter(np.asarray(field, dtype=np.float32), 0.8)
    steepness = np.sqrt(sum(np.square(g) for g in np.gradient(smooth, COARSE_MM)))
    return np.asarray(smooth / np.maximum(steepness, 0.25), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Chest:
    """The smooth organs on a coarse grid."""

    z: Float
    y: Float
    x: Float
    shapes: tuple[_Shape, ...]
    lungs: dict[int, Float]
    cavity: Float
    texture: Float

    @classmethod
    def grow(cls, rng: np.random.Generator) -> _Chest:
        """Lay out body, cavity, diaphragm, mediastinum, heart and lungs, each a little irregular."""
        axes = [(np.arange(round(e / COARSE_MM) + 3) * COARSE_MM - e / 2 - COARSE_MM) for e in EXTENT_ZYX_MM]
        z, y, x = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)
        shape = tuple(len(a) for a in axes)

        def wobble(amplitude: float, size_mm: float) -> Float:
            field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), size_mm / COARSE_MM)
            return np.asarray(field * (amplitude / float(field.std())), dtype=np.float32)

        size = float(rng.uniform(0.96, 1.02))
        shoulders = _smooth_step(z, 70, 15)
        body = _superellipse(x / (166 + 16 * shoulders), (y - 8) / (113 - 14 * shoulders), 2.5) * 113
        t = (z + 140) / 262
        middle = 8 + 18 * np.maximum(t, 0) ** 2
        radial = (np.abs(x) / (CAVITY_X_MM * size)) ** CAVITY_POWER
        radial = radial + (np.abs(y - middle) / (CAVITY_Y_MM * size)) ** CAVITY_POWER
        cavity = ((radial + np.maximum(t, 0) ** 3.6) ** (1 / CAVITY_POWER) - 1) * CAVITY_Y_MM + wobble(1.2, 12)

        dome_right = -60 - 68 * (((x + 68) / 76) ** 2 + ((y - 2) / 88) ** 2)
        dome_left = -73 - 60 * (((x - 70) / 74) ** 2 + ((y - 8) / 88) ** 2)
        diaphragm = np.maximum(dome_right, dome_left) - 0.22 * y + wobble(2.0, 20)

        lean = x - 22 + 0.38 * (z + 60)
        heart = (np.sqrt((lean / 51) ** 2 + ((y + 25) / 43) ** 2 + ((z + 58) / 58) ** 2) - 1) * 50 + wobble(1.5, 14)
        spread = 4 + 20 * _smooth_step(y, -38, 7) + 4 * _smooth_step(z, 60, 12)
        slab = np.abs(x - 2) - spread - 7 * np.exp(-(((z - 5) / 32) ** 2) - ((y - 8) / 30) ** 2)
        column = np.hypot(x, y - 72) - 27
        mediastinum = np.minimum(np.minimum(heart - 3, slab), column) + wobble(1.5, 9)

        cavity_distance = _distance(cavity)
        body_distance = _distance(body)
        lungs = {
            side: _distance(
                np.maximum(np.maximum(cavity_distance + 1.5, diaphragm - z), np.maximum(-mediastinum, -side * x))
            )
            for side in (-1, 1)
        }
        fat = 14 + 8 * _smooth_step(np.abs(x), 90, 20) - 8 * _smooth_step(y, 45, 12) + wobble(2.0, 25)
        wall = 13 + 24 * _smooth_step(y, 45, 12) + 34 * shoulders
        planes = 6 * np.maximum(wobble(1.0, 3.5) - 1.1, 0) * (cavity_distance > 5)
        muscle = np.maximum(body_distance + fat, cavity_distance - wall) + planes * 3
        below = np.maximum(cavity_distance + 3, z - diaphragm + 3)
        liver = np.maximum(below, x - 30 - 0.5 * y)
        spleen = np.sqrt(((x - 88) / 32) ** 2 + ((y - 42) / 42) ** 2 + ((z + 118) / 40) ** 2) * 32 - 32
        stomach = np.sqrt(((x - 62) / 44) ** 2 + ((y + 18) / 44) ** 2 + ((z + 125) / 38) ** 2) * 38 - 38
        gas = np.maximum(stomach + 5, y + 30)
        shapes = (
            _Shape(body_distance, SKIN),
            _Shape(body_distance + 2, FAT),
            _Shape(_distance(muscle), MUSCLE),
            _Shape(cavity_distance - 2.5, MUSCLE),
            _Shape(cavity_distance, FAT + 10),
            _Shape(_distance(liver), 58),
            _Shape(_distance(np.maximum(below, spleen)), 50),
            _Shape(_distance(np.maximum(below, stomach)), 35),
            _Shape(_distance(np.maximum(below, gas)), LUMEN),
            _Shape(_distance(heart), BLOOD),
        )
        z, y, x = (a.ravel() for a in (z, y, x))
        return cls(z, y, x, shapes, lungs, cavity_distance, wobble(9.0, 6) + wobble(6.0, 3))

    def paint(self, canvas: _Canvas) -> None:
        """Organs, lungs and the table, slice by slice from the coarse distances."""
        rows, columns, heights = (
            _between(coarse, fine) for coarse, fine in ((self.y, canvas.y), (self.x, canvas.x), (self.z, canvas.z))
        )
        sag = 131 - canvas.x**2 / 900
        off_table = np.abs(canvas.y[:, None] - sag) - 1.2 + 20 * (np.abs(canvas.x) > 175)
        table = np.clip(0.5 - off_table / EDGE_MM, 0, 1) * 700
        gravity = 0.32 * canvas.y[:, None]
        for image, first, share in zip(canvas.hu, *heights, strict=True):

            def fine(field: Float, first: int = first, share: float = share) -> Float:
                plane = field[first] * (1 - share) + field[first + 1] * share
                plane = _lerp(plane, rows[0], rows[1][:, None], 0)
                return _lerp(plane, columns[0], columns[1], 1)

            image += table
            for shape in self.shapes:
                nearest = shape.distance[first : first + 2].min()
                if nearest < EDGE_MM:
                    image += np.clip(0.5 - fine(shape.distance) / EDGE_MM, 0, 1) * (shape.hu - image)
            parenchyma = LUNG_HU + gravity + fine(self.texture)
            for lung in self.lungs.values():
                if lung[first : first + 2].min() < EDGE_MM:
                    image += np.clip(0.5 - fine(lung) / EDGE_MM, 0, 1) * (parenchyma - image)

    def points(self, side: int, depth_mm: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``count`` random LPS points in a lung, at least ``depth_mm`` below its surface."""
        index = np.argwhere(self.lungs[side] < -depth_mm)
        chosen = index[rng.choice(len(index), count, replace=len(index) < count)]
        places = np.stack([self.x[chosen[:, 2]], self.y[chosen[:, 1]], self.z[chosen[:, 0]]], axis=1)
        return np.asarray(places + rng.uniform(-COARSE_MM / 2, COARSE_MM / 2, places.shape))


def _superellipse(u: Float, v: Float, power: float) -> Float:
    return np.asarray((np.abs(u) ** power + np.abs(v) ** power) ** (1 / power) - 1)


def _between(coarse: Float, fine: Float) -> tuple[NDArray[np.intp], Float]:
    """For every fine place the coarse one below it, and the share of the way to the next."""
    place = np.clip((fine - coarse[0]) / COARSE_MM, 0, len(coarse) - 1.001)
    low = place.astype(np.intp)
    return low, (place - low).astype(np.float32)


def _lerp(plane: Float, low: NDArray[np.intp], share: Float, axis: int) -> Float:
    # by indexing: a matrix product of this size spends more on its threads than on arithmetic
    return np.asarray(np.take(plane, low, axis) * (1 - share) + np.take(plane, low + 1, axis) * share)


# ---------------------------------------------------------------- bones


def _polyline(points: Path3 | NDArray[np.float64], radii: tuple[float, float], hu: float) -> list[_Tube]:
    """Tubes through points, the radius running from the first to the second of ``radii``."""
    places = np.asarray(points, dtype=np.float64)
    radius = np.linspace(radii[0], radii[1], len(places))
    return [
        _Tube(a, b, float(r), float(s), hu) for a, b, r, s in zip(places, places[1:], radius, radius[1:], strict=False)
    ]


def _skeleton() -> list[_Tube]:
    """Ribs with their cartilage, sternum, shoulder blades and collar bones, cortex first, marrow in it."""
    bones: list[_Tube] = []
    for side in (-1, 1):
        for number in range(12):
            bones += _rib(side, number)
        clavicle = ((side * 14, -56, 86), (side * 70, -62, 104), (side * 140, -18, 116))
        bones += _polyline(clavicle, (6.5, 5.5), CORTEX) + _polyline(clavicle, (4.0, 3.5), SPONGY)
        for share in np.linspace(0, 1, 22):
            medial = (side * (84 - 8 * share), 99 + 4 * share, 112 - 85 * share)
            lateral = (side * (140 - 38 * share), 70 + 22 * share, 108 - 92 * share)
            bones += _polyline((medial, lateral), (2.5, 4.0 if share < 0.3 else 2.5), 420)
    for x in (-11, -5.5, 0, 5.5, 11):
        bones += _polyline(((x * 1.5, -63, 78), (x, -79, 20), (x * 0.9, -90, -52)), (5.5, 5.0), 430)
    for x in (-8, 0, 8):
        bones += _polyline(((x * 1.5, -63, 76), (x, -79, 20), (x * 0.9, -90, -50)), (3.6, 3.2), 140)
    return bones


def _rib(side: int, number: int) -> list[_Tube]:
    """One rib around the cavity, descending towards the front; the first seven reach the sternum by cartilage."""
    back = 122 - 21.5 * number
    last = 0.86 if number < 7 else 0.86 - 0.1 * (number - 6)
    turn = np.linspace(0.1, last, 30) * np.pi
    height = back - (62 - 3 * abs(number - 5)) * (1 - np.cos(turn)) / 2
    scale = np.array([_cavity_scale(h) for h in height])
    middle = np.array([_cavity_middle(h) for h in height])
    x = side * (CAVITY_X_MM * scale + 6) * np.sin(turn) ** (2 / CAVITY_POWER)
    y = middle + (CAVITY_Y_MM * scale + 6) * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / CAVITY_POWER)
    path = np.stack([x, y, height], axis=1)
    rib: list[_Tube] = []
    for radius, hu in ((3.9, CORTEX), (2.3, SPONGY)):
        for offset in (-3.0, 0.0, 3.0):
            rib += _polyline(path + np.array([0, 0, offset]), (radius, radius), hu)
    if 0 < number < 7:
        rib += _polyline((tuple(path[-1]), (side * 17, y[-1] - 2, height[-1] + 6)), (4.5, 4.5), CARTILAGE)
    return rib


def _paint_spine(canvas: _Canvas) -> None:
    """Vertebral bodies with discs, the arch, spinous and transverse processes, the canal."""
    cut = canvas.window((-24, 46, -1e3), (24, 92, 1e3))
    z, y, x = canvas.z[cut[0], None, None], canvas.y[cut[1]][:, None], canvas.x[cut[2]]
    level = np.abs((z + 6) / 23 - np.round((z + 6) / 23)) * 23
    waist = 1 - 0.10 * np.cos(np.pi * level / 11.5)
    body = (np.hypot(x / (17 * waist), (y - 66) / (14.5 * waist)) - 1) * 15
    part = canvas.hu[cut]
    end = np.clip((level - 9) / 1.5, 0, 1)
    for inward, hu in ((0.0, 420.0), (1.8, 175.0)):
        part += np.clip(0.5 - (body + inward) / EDGE_MM, 0, 1) * (hu - part)
    part += end * np.clip(0.5 - body / EDGE_MM, 0, 1) * (80 - part)
    for height in np.arange(-167, 167, 23.0):
        arch: list[_Tube] = []
        for side in (-1, 1):
            arch += _polyline(((side * 11, 76, height), (side * 12, 88, height - 2)), (4.5, 4.0), 380)
            arch += _polyline(((side * 12, 88, height), (side * 34, 98, height + 3)), (4.0, 3.5), 350)
            arch += _polyline(((side * 12, 88, height - 2), (0, 99, height - 8)), (3.5, 3.5), 400)
        arch += _polyline(((0, 99, height - 8), (0, 112, height - 18)), (3.5, 2.5), 360)
        canvas.tubes(arch)
    canvas.tubes(_polyline(((0, 85, -170), (0, 85, 170)), (7.5, 7.5), 30))


# ---------------------------------------------------------------- vessels and airways

HILUM = {-1: (-37.0, 8.0, 6.0), 1: (38.0, 12.0, 12.0)}
VEIN = {-1: (-30.0, -2.0, -16.0), 1: (32.0, 4.0, -14.0)}
CARINA = (-2.0, 24.0, 26.0)
BRONCHUS = {-1: (-33.0, 17.0, 6.0), 1: (37.0, 22.0, 0.0)}


def _great_vessels() -> list[_Tube]:
    """Aorta and its branches, caval veins, pulmonary trunk, pulmonary veins, oesophagus."""
    aorta = ((-8, -30, -14), (-18, -34, 30), (-10, -18, 54), (8, 10, 62), (19, 36, 50), (21, 47, 24), (19, 50, -60))
    tubes = _polyline(aorta, (14.5, 12), BLOOD) + _polyline(((19, 50, -60), (10, 46, -160)), (12, 11), BLOOD)
    for start, end in (((-10, -16, 58), (-26, -2, 160)), ((2, 0, 62), (14, 4, 160)), ((10, 12, 62), (26, 16, 160))):
        tubes += _polyline((start, end), (6.5, 4.5), BLOOD)
    tubes += _polyline(((-24, -10, 90), (-24, -14, 40), (-22, -16, -10)), (8.5, 9.5), BLOOD)
    tubes += _polyline(((-24, -10, 90), (-40, -6, 160)), (8, 6), BLOOD)
    tubes += _polyline(((-24, -12, 80), (10, -34, 98), (40, -20, 160)), (7, 6), BLOOD)
    tubes += _polyline(((-24, 6, -70), (-20, 10, -160)), (11, 11), BLOOD)
    tubes += _polyline(((18, -42, -8), (16, -22, 16), (8, -4, 16)), (14, 11), BLOOD)
    tubes += _polyline(((8, -4, 16), (-14, 4, 12), HILUM[-1]), (11, 8), BLOOD)
    tubes += _polyline(((14, -16, 18), (28, 4, 22), HILUM[1]), (11, 8), BLOOD)
    for side in (-1, 1):
        tubes += _polyline(((2, 12, -24), VEIN[side]), (10, 6.5), BLOOD)
    return tubes + _polyline(((6, 38, 160), (4, 40, 20), (8, 36, -120)), (6.5, 6.5), 34)


def _tree(root: Point, targets: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[NDArray[np.float64], int]]:
    """A tree that fills a region: (the three points of a bent branch, number of targets it feeds).

    Every branch runs two fifths of the way to the centre of its targets, which are then split across their widest
    spread at right angles to it (after Tawhai, Pullan and Hunter 2000, Ann Biomed Eng 28:793).
    """
    branches = []
    todo = [(np.asarray(root), targets)]
    while todo:
        start, reach = todo.pop()
        way = reach.mean(axis=0) - start
        end = start + way * (0.9 if len(reach) == 1 else 0.4)
        length = float(np.linalg.norm(end - start))
        bend = (start + end) / 2 + rng.normal(0, 0.06, 3) * length
        branches.append((np.stack([start, bend, end]), len(reach)))
        if len(reach) > 1:
            spread = reach - reach.mean(axis=0)
            spread = spread - np.outer(spread @ way, way) / max(float(way @ way), 1e-9)
            across = np.linalg.eigh(spread.T @ spread)[1][:, -1]
            order = np.argsort(spread @ across)
            cut = round(len(reach) * rng.uniform(0.35, 0.65))
            cut = min(max(cut, 1), len(reach) - 1)
            todo += [(end, reach[order[:cut]]), (end, reach[order[cut:]])]
    return branches


def _vessels(chest: _Chest, side: int, rng: np.random.Generator) -> list[_Tube]:
    """Arteries and veins of one lung; the thickness of a branch follows from the number of targets it feeds."""
    tubes = []
    for root, count in ((HILUM[side], 750), (VEIN[side], 550)):
        for path, fed in _tree(root, chest.points(side, 5.0, count, rng), rng):
            radius = min(0.46 * fed**0.38, 5.5)
            tubes += _polyline(path, (radius, 0.9 * radius), BLOOD)
    return tubes


def _airways(chest: _Chest, rng: np.random.Generator) -> list[_Tube]:
    """Trachea, main bronchi and their branches as far as visible on CT: all walls, then all lumens."""
    paths: list[tuple[Path3 | NDArray[np.float64], float]] = [(((0, 14, 170), CARINA), 9.0)]
    for side in (-1, 1):
        paths.append(((CARINA, BRONCHUS[side]), 6.8))
        for path, fed in _tree(BRONCHUS[side], chest.points(side, 12.0, 60, rng), rng):
            if fed > 3:
                paths.append((path, 0.55 * fed**0.48))
    walls = [tube for path, r in paths for tube in _polyline(path, (0.5 + 1.08 * r,) * 2, 20)]
    return walls + [tube for path, r in paths for tube in _polyline(path, (r, r), LUMEN)]


# ---------------------------------------------------------------- nodules


def _place(
    chest: _Chest, tubes: Sequence[_Tube], rng: np.random.Generator, all_wanted: Sequence[_Wanted]
) -> tuple[PhantomNodule, ...]:
    """Place every nodule where it is farthest from vessels, airways and the others."""
    middles = np.array([(t.a + t.b) / 2 for t in tubes])
    radii = np.array([t.radius_a + np.linalg.norm(t.b - t.a) / 2 for t in tubes])
    placed: list[PhantomNodule] = []
    for wanted in all_wanted:
        candidates = _candidates(chest, wanted, rng)
        room = (cdist(candidates, middles) - radii).min(axis=1)
        for other in placed:
            room[np.linalg.norm(candidates - np.asarray(other.centre_lps), axis=1) < 40] = -np.inf
        x, y, z = (float(v) for v in np.round(candidates[room.argmax()], 2))
        placed.append(PhantomNodule((x, y, z), wanted.diameter, wanted.texture, wanted.solid, wanted.juxtapleural))
    return tuple(placed)


def _candidates(chest: _Chest, wanted: _Wanted, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random LPS positions for a nodule: inside the lung, or sunk by a fifth into the wall of the cavity."""
    lung = chest.lungs[wanted.side]
    radius = wanted.diameter / 2
    if wanted.juxtapleural:
        # the lung ends 1.5 mm inside the cavity
        fits = (np.abs(chest.cavity + 1.5 + 0.6 * radius) < 0.4) & (np.abs(lung + 0.6 * radius) < 1.0)
        fits &= wanted.side * chest.x > 60
    else:
        # in a corner the field underestimates the distance to the surface
        fits = ndimage.distance_transform_edt(lung < 0, sampling=COARSE_MM) > radius + 6
    fits &= ((chest.z > wanted.heights[0]) & (chest.z < wanted.heights[1]))[:, None, None]
    index = np.argwhere(fits)
    index = index[rng.permutation(len(index))[:300]]
    return np.stack([chest.x[index[:, 2]], chest.y[index[:, 1]], chest.z[index[:, 0]]], axis=1).astype(np.float64)
