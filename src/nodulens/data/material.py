"""Nodules as crops of CT with the readers' annotations, and patches of nodules and non-nodules.

The files are the public crops that the project's networks are trained on, or those that :mod:`nodulens.data.prepare`
makes from a user's own LIDC-IDRI or LUNA16. Their common interface is :class:`NoduleMaterial`: HU, each reader's mask,
the ground truth, voxel size, diameter and central slice of a nodule. Every record has its patient, for
:mod:`nodulens.data.folds`; evaluation patients are left out. Coordinates, calibration codes and the number of slices
must not be an input of any network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from nodulens.core.geometry import ball_diameter_mm, disc_diameter_mm
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data.dataset import Item, Sample
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.jpegls import Streams, tiles_of
from nodulens.data.lidc_ct import LABELS
from nodulens.data.luna16 import ANNOTATIONS, EXCLUDED, UNSIZED_MM, read_findings
from nodulens.data.ratings import Malignancy, Ratings
from nodulens.errors import NotFound, UnreadableFile
from nodulens.io.images import read_mask
from nodulens.metrics.segmentation import consensus
from nodulens.ops.intensity import Quantization

STACKS, CUBES, PATCHES = (
    "lidc/lidc_nodule_stacks.npz", "lidc/luna16_cubes_50mm.npz", "luna16/luna16_axial_patches_64.npz",
)  # fmt: skip
CROP_STEPS, PATCH_STEPS = Quantization(8.0), Quantization(5.49)
"""Quantization of HU to 8 bits in stacks, cubes, whole slices and backgrounds, and in patches."""
MOST_READERS = 4
"""Number of readers with ratings and a mask; the files may count more."""
STACK_PX, PATCH_PX = 96, 64
CUBE_MM, CUBE_TILES, PATCH_TILES = 50, (10, 5), (8, 8)
"""Voxels of 1 mm along each side of a cube; its slices, and 64 patches, as rows and columns of one picture."""
NEGATIVE_MM = 5.0
"""Distance from all annotations beyond which there is no nodule."""
SLACK_MM = 0.5
"""Tolerance around a finding's ball for the centre of its patches, which were rounded."""

Bool = NDArray[np.bool_]
Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CentralSlice:
    """The slice on which a nodule's ground truth is largest.

    Attributes:
        index: of the slice in the nodule's crop of CT.
        truth: (y, x) the ground truth there.
        diameter_mm: of the disc of its area.
    """

    index: int
    truth: Bool
    diameter_mm: float


class NoduleMaterial(ABC):
    """Nodules of LIDC-IDRI by number, each in its own crop of CT (z, y, x).

    As a :class:`nodulens.data.dataset.Dataset` an item is a nodule, keyed by its number, its stratum and label the
    class of its median malignancy (1 malignant, 0 benign, None between).

    Attributes:
        patients: of every number.
        ratings: of every number.
        nodules: (N,) the numbers that may be used: those with an outline, without evaluation patients.
    """

    name: ClassVar[str]
    patients: list[str]
    ratings: Ratings
    nodules: NDArray[np.int_]

    @abstractmethod
    def spacing_zyx(self, nodule: int) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row and column to column."""

    @abstractmethod
    def _steps(self, nodule: int) -> Bytes:
        """(z, y, x) HU in 8 bits, as :data:`CROP_STEPS`."""

    @abstractmethod
    def _bits(self, nodule: int) -> Bytes:
        """(z, y, x) bit j set where reader j's mask is."""

    def hu(self, nodule: int) -> Float:
        """(z, y, x) HU, −1000…400; decoded at every call, which takes 1 ms for a stack and 3 ms for a cube."""
        return CROP_STEPS.hu(self._steps(nodule))

    def unit(self, nodule: int) -> Float:
        """(z, y, x): HU −1000…400 as 0…1, the input of networks."""
        return CROP_STEPS.unit(self._steps(nodule))

    def readers(self, nodule: int) -> int:
        """Number of readers who marked it, at most 4."""
        return int(self.ratings.readers[nodule])

    def masks(self, nodule: int) -> Bool:
        """(readers, z, y, x): mask of each reader."""
        bits = self._bits(nodule)
        return np.asarray(np.stack([(bits >> j) & 1 > 0 for j in range(self.readers(nodule))]), dtype=bool)

    def outlined(self, nodule: int) -> Bool:
        """(z, y, x): union of the readers' masks."""
        return np.asarray(self._bits(nodule) > 0)

    def share(self, nodule: int) -> Float:
        """(z, y, x): share of the readers whose mask contains the voxel."""
        bits = self._bits(nodule)
        count = sum(((bits >> j) & 1).astype(np.float32) for j in range(MOST_READERS))
        return np.asarray(count / self.readers(nodule), dtype=np.float32)

    def truth(self, nodule: int) -> Bool:
        """(z, y, x): consensus of at least half of the readers; may be empty."""
        return np.asarray(self.share(nodule) >= 0.5)

    def diameter_mm(self, nodule: int) -> float:
        """Diameter in mm of the ball of the ground truth's volume: area times slice spacing, never thickness."""
        z, y, x = self.spacing_zyx(nodule)
        return ball_diameter_mm(int(self.truth(nodule).sum()), z * (y * x))

    def central(self, nodule: int) -> CentralSlice | None:
        """The slice on which the ground truth is largest; None if it is empty."""
        truth = self.truth(nodule)
        area = truth.sum(axis=(1, 2))
        if not area.any():
            return None
        z = int(area.argmax())
        return CentralSlice(z, truth[z], disc_diameter_mm(int(area[z]), self.spacing_zyx(nodule)[1]))

    def items(self) -> tuple[Item, ...]:
        """One item for each nodule; nothing is decoded."""
        classes = self.ratings.malignancy()
        return tuple(Item(str(n), self.patients[n], Malignancy(classes[n]).name.lower()) for n in self.nodules.tolist())

    def load(self, item: Item) -> Sample:
        """A nodule in HU with each reader's mask, the consensus of half of them, its box, and the readers' ratings."""
        n = int(item.key)
        masks = self.masks(n)
        agreed = consensus(masks)
        return Sample(
            item,
            self.hu(n),
            "hu",
            self.spacing_zyx(n),
            reader_masks=masks,
            mask=agreed,
            boxes=(Box.of_mask(agreed),) if agreed.any() else (),
            label=LABELS.get(Malignancy[item.stratum.upper()]),
            ratings=self.ratings.values[n, : len(masks)],
        )


class Stacks(NoduleMaterial):
    """Nodules as the axial slices that any reader marked, from low to high, 96 × 96 at native pixel size.

    A stack ends where the nodule ends: its length leaks the label, and must not be an input. Numbers are those of the
    file.
    """

    name: ClassVar[str] = "stacks"

    def __init__(self, data: Path) -> None:
        raw = _read_pictures(data / STACKS)
        self.patients = [str(p) for p in raw["patient_id"]]
        self.ratings = Ratings(np.minimum(raw["readers"], MOST_READERS), raw["ratings"])
        self._streams = Streams(raw["hu_jls"], raw["hu_offset"])
        self._reader_bits: Bytes = raw["reader_bits"]
        self._calibration: Bytes = raw["slice_calibration"]
        self._spacing = np.stack([raw[f"{name}_spacing_mm"] for name in ("slice", "pixel", "pixel")], axis=1)
        self._thickness_mm: Float = raw["slice_thickness_mm"]
        owner = raw["slice_nodule"]
        if (np.diff(owner) < 0).any() or len(self._streams) != len(self.patients):
            raise UnreadableFile(f"{data / STACKS}: its slices must be in the order of the nodules, as the images are.")
        ends = np.searchsorted(owner, np.arange(1, len(self.patients)))
        self._rows = np.split(np.lexsort((raw["slice_z_mm"], owner)), ends)
        outlined = np.array([self._reader_bits[r].any() for r in self._rows], dtype=bool)
        self.nodules = np.flatnonzero(outlined & ~np.isin(self.patients, list(EVALUATION_PATIENTS)))

    def slices(self, nodule: int) -> int:
        """Number of slices of its stack; never an input."""
        return len(self._rows[nodule])

    def spacing_zyx(self, nodule: int) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row and column to column."""
        z, y, x = self._spacing[nodule].tolist()
        return z, y, x

    def thickness_mm(self, nodule: int) -> float:
        """Thickness of its slices, which may exceed their spacing."""
        return float(self._thickness_mm[nodule])

    def calibration(self, nodule: int) -> Bytes:
        """(slices,) code of how HU were recovered, for figures by code; never an input."""
        return self._calibration[self._rows[nodule]]

    def _steps(self, nodule: int) -> Bytes:
        rows = self._rows[nodule]
        stored = self._streams.picture(nodule).reshape(len(rows), *self._reader_bits.shape[1:])
        return np.asarray(stored[rows - rows.min()])

    def _bits(self, nodule: int) -> Bytes:
        return self._reader_bits[self._rows[nodule]]


class Cubes(NoduleMaterial):
    """Nodules as 50³ voxels of 1 mm with the tissue all around; z, y, x rise towards superior, posterior and left.

    A nodule is at the centre of its cube, except near an end of the scan, so training must crop or shift cubes at
    random. HU are accurate to 12. Numbers count the cubes that may be used.

    Attributes:
        annotated_mm: (N,) LUNA16's diameter; −1 if the nodule is not in LUNA16.
        thickness_mm: (N,) slice thickness of the scan; a stratum of figures, never an input.
        stack_nodule: (N,) number of the same nodule among the stacks; −1 if it is not there.
    """

    name: ClassVar[str] = "cubes"

    def __init__(self, data: Path) -> None:
        raw = _read_pictures(data / CUBES)
        outlined = raw["reader_bits"].any(axis=(1, 2, 3))
        keep = outlined & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        self._row = np.flatnonzero(keep)
        self._streams = Streams(raw["hu_jls"], raw["hu_offset"])
        self._reader_bits: Bytes = raw["reader_bits"]
        self._other: Bytes = raw["other"]
        self._size, self._sign = raw["size"], raw["sign"]
        self._excluded = {name: raw[f"excluded_{name}"] for name in ("cube", "zyx", "diameter_mm")}
        self.nodules = np.arange(len(self._row))
        self.patients = [str(p) for p in raw["patient_id"][keep]]
        self.ratings = Ratings(np.minimum(raw["readers"][keep], MOST_READERS), raw["ratings"][keep])
        self.annotated_mm: Float = raw["diameter_mm"][keep]
        self.thickness_mm: Float = raw["slice_thickness_mm"][keep]
        self.stack_nodule: NDArray[np.int_] = raw["stack_nodule"][keep]
        self._from_origin: NDArray[np.float64] = (raw["centre_lps"] - raw["origin_lps"])[keep]

    def __len__(self) -> int:
        return len(self.nodules)

    def spacing_zyx(self, nodule: int) -> tuple[float, float, float]:
        """1 mm along each axis."""
        return 1.0, 1.0, 1.0

    def centre_zyx(self, nodule: int) -> NDArray[np.float64]:
        """(3,) index (z, y, x) of LUNA16's place of the nodule, not rounded."""
        x, y, z = self._from_origin[nodule]
        sign_x, sign_y = self._sign[self._row[nodule]]
        # a cube whose rows or columns fall in LPS is flipped, see _rising
        along_y, along_x = (v if s > 0 else CUBE_MM - 1 + v for v, s in ((y, sign_y), (x, sign_x)))
        return np.array([z, along_y, along_x], dtype=np.float64)

    def size_mm(self, nodule: int) -> float:
        """LUNA16's diameter in mm; that of the consensus where it has none."""
        annotated = float(self.annotated_mm[nodule])
        return annotated if annotated > 0 else self.diameter_mm(nodule)

    def other(self, nodule: int) -> Bool:
        """(50, 50, 50): any other outlined nodule, which is neither target nor background."""
        packed = self._other[self._row[nodule]]
        return np.asarray(self._rising(nodule, np.unpackbits(packed, axis=-1, count=CUBE_MM)) > 0)

    def scanned(self, nodule: int) -> Box:
        """The voxels inside the scan; those outside have no meaning."""
        size = self._size[self._row[nodule]]
        flipped = (False, *(bool(s < 0) for s in self._sign[self._row[nodule]][::-1]))
        z, y, x = (CUBE_MM - int(n) if back else 0 for n, back in zip(size, flipped, strict=True))
        return Box((z, y, x), (z + int(size[0]), y + int(size[1]), x + int(size[2])))

    def negative(self, nodule: int) -> Bool:
        """(50, 50, 50): the certain background, inside the scan and :data:`NEGATIVE_MM` away from every outline of any
        nodule and every finding that LUNA16 excludes (10 mm wide if it has no size)."""
        marked = self.outlined(nodule) | self.other(nodule)
        away = np.asarray(ndimage.distance_transform_edt(~marked) > NEGATIVE_MM)
        own = self._excluded["cube"] == self._row[nodule]
        places, sizes = self._excluded["zyx"][own], self._excluded["diameter_mm"][own]
        grid = np.indices(marked.shape, dtype=np.float32)
        for place, size in zip(places, np.where(sizes > 0, sizes, UNSIZED_MM), strict=True):
            stored = np.linalg.norm(grid - place[:, None, None, None], axis=0) > size / 2 + NEGATIVE_MM
            away &= self._rising(nodule, stored)
        inside = np.zeros_like(away)
        inside[self.scanned(nodule).slices] = True
        return np.asarray(away & inside, dtype=bool)

    def _steps(self, nodule: int) -> Bytes:
        tiles = tiles_of(self._streams.picture(int(self._row[nodule])), *CUBE_TILES)
        # near-lossless: off by at most one step, so 400 HU may be decoded as 408
        return np.asarray(np.minimum(self._rising(nodule, tiles), CROP_STEPS.top), dtype=np.uint8)

    def _bits(self, nodule: int) -> Bytes:
        return np.asarray(self._rising(nodule, self._reader_bits[self._row[nodule]]))

    def _rising(self, nodule: int, stored: NDArray[Any]) -> NDArray[Any]:
        """An array (z, y, x) of a cube flipped so that y and x rise, as scans may be stored in reverse."""
        x, y = (slice(None, None, int(s)) for s in self._sign[self._row[nodule]])
        return stored[:, y, x]


class PatchMaterial(ABC):
    """Axial patches of nodules and non-nodules, 64 × 64 of the scan's own pixels; all (N,).

    Attributes:
        label: whether it shows a nodule.
        diameter_mm: of the nodule; 0 for a non-nodule.
        patients: of the patches.
        nodule: number of the nodule; −1 for a non-nodule. Rows that share it show the same one.
        weight: 1 for a non-nodule, one over the number of patches of its nodule for a nodule.
    """

    label: Bool
    diameter_mm: Float
    patients: list[str]
    nodule: NDArray[np.int_]
    weight: NDArray[np.float64]

    @property
    @abstractmethod
    def _steps(self) -> Bytes:
        """(N, 64, 64) HU in 8 bits, as :data:`PATCH_STEPS`."""

    def __len__(self) -> int:
        return len(self.label)

    def hu(self, rows: NDArray[np.int_]) -> Float:
        """(rows, 64, 64) HU, −1000…400."""
        return PATCH_STEPS.hu(self._steps[rows])

    def unit(self, rows: NDArray[np.int_]) -> Float:
        """(rows, 64, 64): HU −1000…400 as 0…1, the input of networks."""
        return PATCH_STEPS.unit(self._steps[rows])

    def joined(self, other: PatchMaterial) -> PatchMaterial:
        """These, then other ones without a nodule."""
        return MadePatches(
            np.concatenate([self._steps, other._steps]),
            np.concatenate([self.label, other.label]),
            np.concatenate([self.diameter_mm, other.diameter_mm]),
            self.patients + other.patients,
            np.concatenate([self.nodule, other.nodule]),
            np.concatenate([self.weight, other.weight]),
        )

    def with_copies(self, changed: Bytes) -> PatchMaterial:
        """These, then copies of all of them, each of the same patient and nodule.

        Args:
            changed: (copies, N, 64, 64) pixels of the copies, as :data:`PATCH_STEPS`.
        """
        times = len(changed) + 1
        return MadePatches(
            np.concatenate([self._steps, *changed]),
            np.tile(self.label, times),
            np.tile(self.diameter_mm, times),
            self.patients * times,
            np.tile(self.nodule, times),
            np.tile(self.weight, times),
        )


class MadePatches(PatchMaterial):
    """Patches in memory, from any source.

    Args:
        steps: (N, 64, 64), as :data:`PATCH_STEPS`.
        label, diameter_mm, patients, nodule, weight: see :class:`PatchMaterial`.
    """

    def __init__(  # the columns of a table
        self,
        steps: Bytes,
        label: Bool,
        diameter_mm: Float,
        patients: list[str],
        nodule: NDArray[np.int_],
        weight: NDArray[np.float64],
    ) -> None:
        self._own = steps
        self.label, self.diameter_mm, self.patients = label, diameter_mm, patients
        self.nodule, self.weight = nodule, weight

    @property
    def _steps(self) -> Bytes:
        return self._own


class Patches(PatchMaterial):
    """LUNA16 candidates as axial patches; negatives inside a finding that LUNA16 excludes are left out.

    As a :class:`nodulens.data.dataset.Dataset` an item is a patch, its stratum and label whether it shows a nodule (1)
    or a non-nodule (0).
    """

    name: ClassVar[str] = "patches"

    def __init__(self, data: Path) -> None:
        raw = _read_pictures(data / PATCHES)
        centres, series = raw["world_xyz_mm"], raw["series_uid"]
        positive = raw["nodule_diameter_mm"] > 0
        inside = _finding_at(data / "luna16" / EXCLUDED, series, centres)
        keep = (positive | (inside < 0)) & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        nodule = _finding_at(data / "luna16" / ANNOTATIONS, series, centres)
        self._streams = Streams(raw["hu_jls"], raw["hu_offset"])
        self._keep = np.flatnonzero(keep)
        self.label = positive[keep]
        self.diameter_mm = raw["nodule_diameter_mm"][keep]
        self.patients = [str(p) for p in raw["patient_id"][keep]]
        self.nodule = np.where(self.label, nodule[keep], -1)
        alone = -2 - np.arange(len(self.nodule))  # a negative is a group of its own
        groups = np.where(self.nodule >= 0, self.nodule, alone)
        _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
        self.weight = 1.0 / count[group]

    @cached_property
    def _steps(self) -> Bytes:
        pictures = [tiles_of(self._streams.picture(k), *PATCH_TILES) for k in range(len(self._streams))]
        return np.concatenate([np.zeros((0, PATCH_PX, PATCH_PX), dtype=np.uint8), *pictures])[self._keep]

    def items(self) -> tuple[Item, ...]:
        """One item for each patch, keyed by its row among those kept."""
        kinds = np.where(self.label, "nodule", "non-nodule").tolist()
        return tuple(Item(str(k), *of) for k, of in enumerate(zip(self.patients, kinds, strict=True)))

    def load(self, item: Item) -> Sample:
        """A patch in HU, (1, 64, 64), the candidate's centre at pixel (32, 32), without its position in the scan."""
        n = int(item.key)
        return Sample(item, self.hu(np.array([n])), "hu", label=int(self.label[n]))


class Background:
    """The three nodule-free lungs."""

    PATIENTS = ("LIDC-IDRI-0293", "LIDC-IDRI-0295", "LIDC-IDRI-0306")
    PLEURAL_MASS: ClassVar = {"LIDC-IDRI-0295": ((-92.0, 45.0, -207.0), 35.0)}
    """Patient → LPS centre and radius in mm of a finding that is not annotated: no negatives from there."""

    @classmethod
    def is_unannotated(cls, patient: str, place_lps: ArrayLike) -> bool:
        """Whether a point, LPS mm (x, y, z), lies on a finding that is not annotated."""
        if patient not in cls.PLEURAL_MASS:
            return False
        centre, radius_mm = cls.PLEURAL_MASS[patient]
        return bool(np.linalg.norm(np.subtract(place_lps, centre)) <= radius_mm)

    @staticmethod
    def volume(data: Path, patient: str) -> Volume:
        """One of them in HU, quantized and clipped as in its file of 8 bits."""
        stored = read_mask(data / "background" / f"{patient}.nii.gz")
        return Volume(CROP_STEPS.hu(stored.labels), stored.geometry)


@dataclass(frozen=True, eq=False)
class PatchPlaces:
    """Positions of all patches, evaluation patients included: for reports on leakage, never an input.

    Attributes:
        centre_lps: (N, 3) LPS mm.
        label: (N,) whether a patch shows a nodule.
        patients: (N,).
    """

    centre_lps: NDArray[np.float64]
    label: Bool
    patients: NDArray[np.str_]


def patch_places(data: Path) -> PatchPlaces:
    """Read the positions of the patches.

    Raises:
        NotFound: the file does not exist.
    """
    raw = read_arrays(data / PATCHES)
    return PatchPlaces(raw["world_xyz_mm"].astype(np.float64), raw["nodule_diameter_mm"] > 0, raw["patient_id"])


# ---------------------------------------------------------------- files


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file of crops.

    Raises:
        NotFound: the file does not exist.
    """
    if not path.exists():
        raise NotFound(f"{path} is not there: --data must name the folder that holds lidc/, luna16/ and background/.")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_pictures(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file of crops whose pictures are JPEG-LS streams.

    Raises:
        NotFound: the file does not exist.
        UnreadableFile: it has them in the former format.
    """
    raw = read_arrays(path)
    if "hu_jls" not in raw or "hu_offset" not in raw:
        raise UnreadableFile(
            f"{path} has no JPEG-LS images (hu_jls, hu_offset), so it is of a former format: run nodulens data prepare "
            "again, or get the current file."
        )
    return raw


def _finding_at(path: Path, series: NDArray[np.str_], centres: NDArray[np.floating]) -> NDArray[np.int_]:
    """(N,) number of the finding of a LUNA16 table in which each centre lies, the nearest of several, or −1."""
    findings = read_findings(path)
    first = dict(zip(findings, np.cumsum([0, *map(len, findings.values())]).tolist(), strict=False))
    out = np.full(len(series), -1)
    names, owner = np.unique(series, return_inverse=True)
    for k, uid in enumerate(names.tolist()):
        if uid in findings:
            rows = np.flatnonzero(owner == k)
            away = np.linalg.norm(centres[rows, None] - np.array([f.centre_lps for f in findings[uid]]), axis=2)
            away[away > [(f.diameter_mm or UNSIZED_MM) / 2 + SLACK_MM for f in findings[uid]]] = np.inf
            hit = np.isfinite(away.min(axis=1))
            out[rows[hit]] = first[uid] + away[hit].argmin(axis=1)
    return out
