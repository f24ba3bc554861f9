"""Crops around real nodules and non-nodules: slice stacks, cubes, patches, nodule-free lungs; and whole slices.

They are the files of public crops that the project's networks learn from, and what :mod:`nodulens.data.prepare` makes
of a user's own LIDC-IDRI or LUNA16. Every record carries its patient, so that :mod:`nodulens.data.folds` can keep
patients apart; evaluation patients are left out. HU come back from the 8-bit files by the formula of each file;
coordinates, calibration codes and stack lengths stay out of every input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box
from nodulens.core.volume import AIR_HU
from nodulens.data.dataset import Item, Sample
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.jpegls import Streams, tiles_of
from nodulens.data.lidc_ct import LABELS
from nodulens.data.luna16 import ANNOTATIONS, EXCLUDED, UNSIZED_MM, read_findings
from nodulens.data.outlines import consensus
from nodulens.data.ratings import Malignancy, Ratings
from nodulens.errors import NotFound, UnreadableFile

HU_PER_STEP = 8.0
"""Of the stacks, cubes and backgrounds: HU = 8 · value − 1000."""
PATCH_HU_PER_STEP = 5.49
UNIT_PER_STEP = HU_PER_STEP / 1400
"""One step of the stacks, cubes and backgrounds on the networks' 0…1 scale."""
STACKS, CUBES, PATCHES = (
    "lidc/lidc_nodule_stacks.npz", "lidc/luna16_cubes_50mm.npz", "luna16/luna16_axial_patches_64.npz",
)  # fmt: skip
SCANS, MANIFEST = "scans", "prepared.json"
"""Where :mod:`nodulens.data.prepare` leaves a file a scan, and the list of those that belong together."""
MOST_READERS = 4
"""So many have ratings and a bit each; the files may count more."""
SLACK_MM = 0.5
"""So far outside a finding's ball a patch still shows it: centres were rounded."""
CUBE_MM, CUBE_TILES = 50, (10, 5)
"""Voxels of 1 mm along each side of a cube, and its slices as rows and columns of one picture."""
PATCH_PX, PATCH_TILES = 64, (8, 8)
TOP_STEP = 175
"""400 HU, the end of what is kept: cubes are stored near-losslessly, one step off at most, and so may lie above."""
NEGATIVE_MM = 5.0
"""What lies farther from all that anybody marked is no nodule."""


class Stacks:
    """Nodules as axial slices at native pixel size; those without any outline are left out.

    As a :class:`nodulens.data.dataset.Dataset` an item is a nodule, its stratum and label the class of its median
    malignancy (1 malignant, 0 benign, None between). A stack ends where the nodule ends: its length gives the label
    away, and must not reach an input.
    """

    name: ClassVar[str] = "stacks"

    def __init__(self, data: Path) -> None:
        raw = _read_pictures(data / STACKS)
        self._streams = Streams(raw["hu_jls"], raw["hu_offset"])
        self.bits: NDArray[np.uint8] = raw["reader_bits"]
        self.patients: list[str] = [str(p) for p in raw["patient_id"]]
        self.pixel_mm: NDArray[np.float32] = raw["pixel_spacing_mm"]
        self.slice_mm: NDArray[np.float32] = raw["slice_spacing_mm"]
        self.ratings = Ratings(np.minimum(raw["readers"], MOST_READERS), raw["ratings"])
        self.calibration: NDArray[np.uint8] = raw["slice_calibration"]
        if (np.diff(raw["slice_nodule"]) < 0).any() or len(self._streams) != len(self.patients):
            raise UnreadableFile(f"{data / STACKS}: its slices must stand nodule by nodule, as its pictures do.")
        order = np.lexsort((raw["slice_z_mm"], raw["slice_nodule"]))
        ends = np.searchsorted(raw["slice_nodule"][order], np.arange(1, len(self.patients)))
        self.rows = np.split(order, ends)
        drawn = np.array([self.bits[r].any() for r in self.rows], dtype=bool)
        self.nodules: NDArray[np.int_] = np.flatnonzero(drawn & ~np.isin(self.patients, list(EVALUATION_PATIENTS)))

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """(slices of all nodules, 96, 96), HU = 8 · value − 1000; decoded when it is first asked for."""
        pixels = self.bits.shape[1:]
        out = np.empty(self.bits.shape, dtype=np.uint8)
        first = 0
        for number, rows in enumerate(self.rows):
            out[first : first + len(rows)] = self._streams.picture(number).reshape(-1, *pixels)
            first += len(rows)
        return out

    def share(self, nodule: int) -> NDArray[np.float32]:
        """(slices, 96, 96): share of the readers whose outline holds each pixel."""
        return reader_share(self.bits[self.rows[nodule]], int(self.ratings.readers[nodule]))

    def items(self) -> tuple[Item, ...]:
        """One a nodule, keyed by its number in the file."""
        return _rated_items(self.nodules, self.patients, self.ratings)

    def load(self, item: Item) -> Sample:
        """Every slice that a reader marked, in HU, from low to high."""
        n = int(item.key)
        spacing = (float(self.slice_mm[n]), float(self.pixel_mm[n]), float(self.pixel_mm[n]))
        bits = self.bits[self.rows[n]]
        masks = _masks(bits, int(self.ratings.readers[n]))
        hu = self.image[self.rows[n]].astype(np.float32) * np.float32(HU_PER_STEP) + AIR_HU
        return _rated_sample(item, hu, masks, self.ratings, spacing)


class Cubes:
    """Nodules as 50³ voxels of 1 mm with the tissue all around; z, y, x rise towards superior, posterior and left.

    A nodule lies in the middle of its cube, but where the scan ends near it: what learns from cubes must see them
    cropped or shifted at random. As a :class:`nodulens.data.dataset.Dataset` its items, strata and labels are those of
    :class:`Stacks`.

    Attributes:
        patients: of each cube.
        ratings: of each cube's nodule.
        diameter_mm: (N,) LUNA16's; −1 where the nodule is none of LUNA16's.
    """

    name: ClassVar[str] = "cubes"

    def __init__(self, data: Path) -> None:
        raw = _read_pictures(data / CUBES)
        drawn = raw["reader_bits"].any(axis=(1, 2, 3))
        keep = drawn & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        self._number = np.flatnonzero(keep)
        self._streams = Streams(raw["hu_jls"], raw["hu_offset"])
        self._bits: NDArray[np.uint8] = raw["reader_bits"]
        self._other: NDArray[np.uint8] = raw["other"]
        self._size, self._sign = raw["size"], raw["sign"]
        self._excluded = {name: raw[f"excluded_{name}"] for name in ("cube", "zyx", "diameter_mm")}
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.diameter_mm: NDArray[np.float32] = raw["diameter_mm"][keep]
        self.ratings = Ratings(np.minimum(raw["readers"][keep], MOST_READERS), raw["ratings"][keep])

    def __len__(self) -> int:
        return len(self.patients)

    def hu(self, nodule: int) -> NDArray[np.float32]:
        """(50, 50, 50) HU within −1000…400, right within 12; decoded each time (3 ms)."""
        return self._steps(nodule).astype(np.float32) * np.float32(HU_PER_STEP) + AIR_HU

    def unit(self, nodule: int) -> NDArray[np.float32]:
        """(50, 50, 50): HU −1000…400 as 0…1, what networks see."""
        return self._steps(nodule).astype(np.float32) * np.float32(UNIT_PER_STEP)

    def masks(self, nodule: int) -> NDArray[np.bool_]:
        """(readers, 50, 50, 50): what each reader outlined."""
        bits = self._rising(nodule, self._bits[self._number[nodule]])
        return _masks(bits, int(self.ratings.readers[nodule]))

    def share(self, nodule: int) -> NDArray[np.float32]:
        """(50, 50, 50): share of the readers whose mask holds each voxel."""
        bits = self._rising(nodule, self._bits[self._number[nodule]])
        return reader_share(bits, int(self.ratings.readers[nodule]))

    def other(self, nodule: int) -> NDArray[np.bool_]:
        """(50, 50, 50): any other outlined nodule, which is neither target nor background."""
        packed = self._other[self._number[nodule]]
        return np.asarray(self._rising(nodule, np.unpackbits(packed, axis=-1, count=CUBE_MM)) > 0)

    def scanned(self, nodule: int) -> Box:
        """The voxels inside the scan; a nodule at its end leaves others of no meaning."""
        size = self._size[self._number[nodule]]
        flipped = (False, *(bool(s < 0) for s in self._sign[self._number[nodule]][::-1]))
        start = tuple(CUBE_MM - int(n) if back else 0 for n, back in zip(size, flipped, strict=True))
        (z, y, x), (deep, low, right) = start, (int(a + n) for a, n in zip(start, size, strict=True))
        return Box((z, y, x), (deep, low, right))

    def negative(self, nodule: int) -> NDArray[np.bool_]:
        """(50, 50, 50): what is certainly no nodule, :data:`NEGATIVE_MM` from every outline of any nodule and from
        every finding that LUNA16 excludes (10 mm wide where it has no size), and inside the scan."""
        marked = self.masks(nodule).any(axis=0) | self.other(nodule)
        away = np.asarray(ndimage.distance_transform_edt(~marked) > NEGATIVE_MM)
        number = self._number[nodule]
        own = self._excluded["cube"] == number
        places, sizes = self._excluded["zyx"][own], self._excluded["diameter_mm"][own]
        grid = np.indices(marked.shape, dtype=np.float32)
        for place, size in zip(places, np.where(sizes > 0, sizes, UNSIZED_MM), strict=True):
            stored = np.linalg.norm(grid - place[:, None, None, None], axis=0) > size / 2 + NEGATIVE_MM
            away &= self._rising(nodule, stored)
        inside = np.zeros_like(away)
        inside[self.scanned(nodule).slices] = True
        return np.asarray(away & inside, dtype=bool)

    def items(self) -> tuple[Item, ...]:
        """One a nodule, keyed by its row among those kept."""
        return _rated_items(np.arange(len(self.patients)), self.patients, self.ratings)

    def load(self, item: Item) -> Sample:
        """A cube in HU."""
        n = int(item.key)
        return _rated_sample(item, self.hu(n), self.masks(n), self.ratings, (1.0, 1.0, 1.0))

    def _steps(self, nodule: int) -> NDArray[np.uint8]:
        tiles = tiles_of(self._streams.picture(int(self._number[nodule])), *CUBE_TILES)
        return np.asarray(np.minimum(self._rising(nodule, tiles), TOP_STEP), dtype=np.uint8)

    def _rising(self, nodule: int, stored: NDArray[Any]) -> NDArray[Any]:
        """An array (z, y, x) of a cube turned so that y and x rise: a scan may be stored the other way round."""
        x, y = (slice(None, None, int(s)) for s in self._sign[self._number[nodule]])
        return stored[:, y, x]


class Patches:
    """LUNA16 candidates as axial 64 × 64 patches.

    Negatives inside a finding that LUNA16 excludes are left out. ``weight`` is 1 for a negative and one over the number
    of patches of its nodule for a positive. As a :class:`nodulens.data.dataset.Dataset` an item is a patch, its stratum
    and label whether it shows a nodule (1) or a non-nodule (0).
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
        self.label: NDArray[np.bool_] = positive[keep]
        self.diameter_mm: NDArray[np.float32] = raw["nodule_diameter_mm"][keep]
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.nodule: NDArray[np.int_] = np.where(self.label, nodule[keep], -1)
        alone = -2 - np.arange(len(self.nodule))  # a negative is a group of its own
        groups = np.where(self.nodule >= 0, self.nodule, alone)
        _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
        self.weight: NDArray[np.float64] = 1.0 / count[group]

    UNIT_PER_STEP = PATCH_HU_PER_STEP / 1400

    @cached_property
    def unit(self) -> NDArray[np.uint8]:
        """(N, 64, 64), HU = 5.49 · value − 1000; decoded when it is first asked for."""
        pictures = [tiles_of(self._streams.picture(k), *PATCH_TILES) for k in range(len(self._streams))]
        return np.concatenate([np.zeros((0, PATCH_PX, PATCH_PX), dtype=np.uint8), *pictures])[self._keep]

    def items(self) -> tuple[Item, ...]:
        """One a patch, keyed by its row among those kept."""
        kinds = np.where(self.label, "nodule", "non-nodule").tolist()
        return tuple(Item(str(k), *of) for k, of in enumerate(zip(self.patients, kinds, strict=True)))

    def load(self, item: Item) -> Sample:
        """A patch in HU, (1, 64, 64), the candidate's centre at pixel (32, 32); nothing says where it lies."""
        n = int(item.key)
        hu = self.unit[n : n + 1].astype(np.float32) * PATCH_HU_PER_STEP + AIR_HU
        return Sample(item, hu, "hu", label=int(self.label[n]))


@dataclass(frozen=True, eq=False)
class SlicedScan:
    """Whole axial slices of one scan, from low to high; their pixels stay in the file until they are asked for.

    Attributes:
        path: of the file.
        series_uid, patient: whose they are.
        spacing_zyx: mm; of the scan's slices, not of those that are here.
        shape: (y, x) of a slice.
        middle: (n,) whether it has the largest cross-section of the lungs.
        central: (n,) whether it is the one with the most of a nodule.
        nodule_px, airway_px: (n,) pixels.
        airways_known: whether the lungs come from LUNA16's masks, which hold the airways.
    """

    path: Path
    series_uid: str
    patient: str
    spacing_zyx: tuple[float, float, float]
    shape: tuple[int, int]
    middle: NDArray[np.bool_]
    central: NDArray[np.bool_]
    nodule_px: NDArray[np.int32]
    airway_px: NDArray[np.int32]
    airways_known: bool

    def read(self, rows: NDArray[np.int_]) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.bool_]]:
        """Some of its slices.

        Returns:
            (len(rows), y, x) each: HU; lungs, 1 left, 2 right and 3 airways where they are known; and nodules by the
            consensus of half of the readers. Rows rise towards posterior, columns towards left.
        """
        with np.load(self.path, allow_pickle=False) as archive:
            steps, lungs, nodule = (archive[f"slices.{name}"][rows] for name in ("hu_u8", "lungs", "nodule"))
        return steps.astype(np.int16) * int(HU_PER_STEP) + AIR_HU, lungs, nodule


class WholeSlices:
    """Whole axial slices of LIDC-IDRI or LUNA16, as :mod:`nodulens.data.prepare` cuts them.

    As a :class:`nodulens.data.dataset.Dataset` an item is a slice, keyed by series UID and its number there, its
    stratum "nodule" or "no nodule".

    Attributes:
        scans: in order of series UID; empty where the folder holds none.

    Raises:
        NotFound: preparing was stopped before its end, or a file is gone.
        UnreadableFile: the list of scans is broken.
    """

    name: ClassVar[str] = "whole slices"

    def __init__(self, data: Path) -> None:
        found = (_sliced(path, uid) for uid, path in _prepared(data).items())
        self.scans = tuple(scan for scan in found if scan is not None and scan.patient not in EVALUATION_PATIENTS)

    def items(self) -> tuple[Item, ...]:
        """One a slice; nothing is read."""
        return tuple(
            Item(f"{scan.series_uid}/{n}", scan.patient, "nodule" if px else "no nodule")
            for scan in self.scans
            for n, px in enumerate(scan.nodule_px)
        )

    def load(self, item: Item) -> Sample:
        """A slice in HU, (1, y, x), with the nodules on it."""
        uid, _, number = item.key.partition("/")
        (scan,) = (scan for scan in self.scans if scan.series_uid == uid)
        hu, _, nodule = scan.read(np.array([int(number)]))
        return Sample(item, hu.astype(np.float32), "hu", scan.spacing_zyx, mask=nodule)


class Background:
    """The three nodule-free lungs, as the files hold them."""

    PATIENTS = ("LIDC-IDRI-0293", "LIDC-IDRI-0295", "LIDC-IDRI-0306")
    PLEURAL_MASS: ClassVar = {"LIDC-IDRI-0295": ((-92.0, 45.0, -207.0), 35.0)}
    """Patient → LPS centre and radius in mm of a finding that is not annotated: no negatives from there."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file of crops.

    Raises:
        NotFound: the file is not there.
    """
    if not path.exists():
        raise NotFound(f"{path} is not there: --data must name the folder that holds lidc/, luna16/ and background/.")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_pictures(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file of crops whose pictures are JPEG-LS streams.

    Raises:
        NotFound: the file is not there.
        UnreadableFile: it holds them as files did before.
    """
    raw = read_arrays(path)
    if "hu_jls" not in raw or "hu_offset" not in raw:
        raise UnreadableFile(
            f"{path} holds no pictures as JPEG-LS (hu_jls, hu_offset), as files do now: run nodulens data prepare "
            "again, or get the present file."
        )
    return raw


def _prepared(data: Path) -> dict[str, Path]:
    """Series UID → file of every scan that the last whole run of ``nodulens data prepare`` counts; none without one."""
    manifest = data / MANIFEST
    if not any((data / SCANS).glob("*.npz")):
        return {}
    if not manifest.is_file():
        raise NotFound(
            f"{data} holds {SCANS}/ and no {MANIFEST}: preparing was stopped. Run nodulens data prepare again: it "
            "goes on."
        )
    try:
        listed: dict[str, str] = json.loads(manifest.read_text("utf-8"))["scans"]
    except (ValueError, KeyError) as error:
        raise UnreadableFile(f"{manifest} cannot be read ({error}): run nodulens data prepare again.") from error
    return {uid: data / SCANS / f"{uid}.{mark}.npz" for uid, mark in sorted(listed.items())}


def _sliced(path: Path, uid: str) -> SlicedScan | None:
    """What a scan's file says of its whole slices; None where it holds none.

    Raises:
        NotFound: the file is gone.
    """
    if not path.is_file():
        raise NotFound(f"{path} is gone, and {MANIFEST} names it: run nodulens data prepare again.")
    names = ("patient_id", "slice_spacing_mm", "pixel_spacing_mm", "shape_px", "airways_known")
    with np.load(path, allow_pickle=False) as archive:
        if "slices.patient_id" not in archive or not len(archive["slices.patient_id"]):
            return None
        patient, slice_mm, pixel_mm, shape, known = (archive[f"slices.{name}"][0] for name in names)
        middle, central, nodule_px, airway_px = (
            archive[f"slices.{name}"] for name in ("middle", "central", "nodule_px", "airway_px")
        )
    return SlicedScan(
        path,
        uid,
        str(patient),
        (float(slice_mm), float(pixel_mm[0]), float(pixel_mm[1])),
        (int(shape[0]), int(shape[1])),
        middle,
        central,
        nodule_px,
        airway_px,
        bool(known),
    )


def reader_share(bits: NDArray[np.uint8], readers: int) -> NDArray[np.float32]:
    """Reader bits, any shape → share of ``readers`` whose mask holds each voxel."""
    count = sum(((bits >> j) & 1).astype(np.float32) for j in range(MOST_READERS))
    return np.asarray(count / readers, dtype=np.float32)


def _masks(bits: NDArray[np.uint8], readers: int) -> NDArray[np.bool_]:
    """Reader bits, any shape → (readers, …)."""
    return np.asarray(np.stack([(bits >> j) & 1 > 0 for j in range(readers)]), dtype=bool)


def _rated_items(nodules: NDArray[np.int_], patients: list[str], ratings: Ratings) -> tuple[Item, ...]:
    classes = ratings.malignancy()
    return tuple(Item(str(n), patients[n], Malignancy(classes[n]).name.lower()) for n in nodules.tolist())


def _rated_sample(
    item: Item,
    hu: NDArray[np.float32],
    masks: NDArray[np.bool_],
    ratings: Ratings,
    spacing_zyx: tuple[float, float, float],
) -> Sample:
    n = int(item.key)
    held = consensus(masks)
    return Sample(
        item,
        hu,
        "hu",
        spacing_zyx,
        reader_masks=masks,
        mask=held,
        boxes=(Box.of_mask(held),) if held.any() else (),
        label=LABELS.get(Malignancy[item.stratum.upper()]),
        ratings=ratings.values[n, : len(masks)],
    )


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
