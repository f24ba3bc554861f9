"""Crops around real nodules and non-nodules: slice stacks, cubes, patches, nodule-free lungs; and whole slices.

They are the files of public crops that the project's networks learn from, and what :mod:`nodulens.data.prepare` makes
of a user's own LIDC-IDRI or LUNA16. Every record carries its patient, so that :mod:`nodulens.data.folds` can keep
patients apart; evaluation patients are left out. HU come back from the 8-bit files by the formula of each file;
coordinates, calibration codes and stack lengths stay out of every input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.core.volume import AIR_HU
from nodulens.data.dataset import Item, Sample
from nodulens.data.folds import EVALUATION_PATIENTS
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
    "lidc/lidc_nodule_stacks.npz", "lidc/lidc_cubes_51mm.npz", "luna16/luna16_axial_patches_64.npz",
)  # fmt: skip
SCANS, MANIFEST = "scans", "prepared.json"
"""Where :mod:`nodulens.data.prepare` leaves a file a scan, and the list of those that belong together."""
MOST_READERS = 4
"""So many have ratings and a bit each; the files may count more."""
SLACK_MM = 0.5
"""So far outside a finding's ball a patch still shows it: centres were rounded."""


class Stacks:
    """Nodules as axial slices at native pixel size; those without any outline are left out.

    As a :class:`nodulens.data.dataset.Dataset` an item is a nodule, its stratum and label the class of its median
    malignancy (1 malignant, 0 benign, None between). A stack ends where the nodule ends: its length gives the label
    away, and must not reach an input.
    """

    name: ClassVar[str] = "stacks"

    def __init__(self, data: Path) -> None:
        raw = read_arrays(data / STACKS)
        self.image: NDArray[np.uint8] = raw["hu_u8"]
        self.bits: NDArray[np.uint8] = raw["reader_bits"]
        self.patients: list[str] = [str(p) for p in raw["patient_id"]]
        self.pixel_mm: NDArray[np.float32] = raw["pixel_spacing_mm"]
        self.slice_mm: NDArray[np.float32] = raw["slice_spacing_mm"]
        self.ratings = Ratings(np.minimum(raw["readers"], MOST_READERS), raw["ratings"])
        self.calibration: NDArray[np.uint8] = raw["slice_calibration"]
        order = np.lexsort((raw["slice_z_mm"], raw["slice_nodule"]))
        ends = np.searchsorted(raw["slice_nodule"][order], np.arange(1, len(self.patients)))
        self.rows = np.split(order, ends)
        drawn = np.array([self.bits[r].any() for r in self.rows], dtype=bool)
        self.nodules: NDArray[np.int_] = np.flatnonzero(drawn & ~np.isin(self.patients, list(EVALUATION_PATIENTS)))

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
        return _rated_sample(item, self.image[self.rows[n]], self.bits[self.rows[n]], self.ratings, spacing)


class Cubes:
    """Nodules as 51³ voxels of 1 mm with the tissue all around.

    As a :class:`nodulens.data.dataset.Dataset` its items, strata and labels are those of :class:`Stacks`.
    """

    name: ClassVar[str] = "cubes"

    def __init__(self, data: Path) -> None:
        raw = read_arrays(data / CUBES)
        drawn = raw["reader_bits"].any(axis=(1, 2, 3))
        keep = drawn & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        self.image: NDArray[np.uint8] = raw["hu_u8"][keep]
        self.bits: NDArray[np.uint8] = raw["reader_bits"][keep]
        self.other: NDArray[np.bool_] = raw["other_nodule"][keep]
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.ratings = Ratings(np.minimum(raw["readers"][keep], MOST_READERS), raw["ratings"][keep])

    def share(self, nodule: int) -> NDArray[np.float32]:
        """(51, 51, 51): share of the readers whose mask holds each voxel."""
        return reader_share(self.bits[nodule], int(self.ratings.readers[nodule]))

    def items(self) -> tuple[Item, ...]:
        """One a nodule, keyed by its row among those kept."""
        return _rated_items(np.arange(len(self.patients)), self.patients, self.ratings)

    def load(self, item: Item) -> Sample:
        """A cube in HU; z, y, x rise towards superior, posterior and left."""
        n = int(item.key)
        return _rated_sample(item, self.image[n], self.bits[n], self.ratings, (1.0, 1.0, 1.0))


class Patches:
    """LUNA16 candidates as axial 64 × 64 patches.

    Negatives inside a finding that LUNA16 excludes are left out. ``weight`` is 1 for a negative and one over the number
    of patches of its nodule for a positive. As a :class:`nodulens.data.dataset.Dataset` an item is a patch, its stratum
    and label whether it shows a nodule (1) or a non-nodule (0).
    """

    name: ClassVar[str] = "patches"

    def __init__(self, data: Path) -> None:
        raw = read_arrays(data / PATCHES)
        centres, series = raw["world_xyz_mm"], raw["series_uid"]
        positive = raw["nodule_diameter_mm"] > 0
        inside = _finding_at(data / "luna16" / EXCLUDED, series, centres)
        keep = (positive | (inside < 0)) & ~np.isin(raw["patient_id"], list(EVALUATION_PATIENTS))
        nodule = _finding_at(data / "luna16" / ANNOTATIONS, series, centres)
        self.unit: NDArray[np.uint8] = raw["hu_u8"][keep]
        self.label: NDArray[np.bool_] = positive[keep]
        self.diameter_mm: NDArray[np.float32] = raw["nodule_diameter_mm"][keep]
        self.patients: list[str] = [str(p) for p in raw["patient_id"][keep]]
        self.nodule: NDArray[np.int_] = np.where(self.label, nodule[keep], -1)
        alone = -2 - np.arange(len(self.nodule))  # a negative is a group of its own
        groups = np.where(self.nodule >= 0, self.nodule, alone)
        _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
        self.weight: NDArray[np.float64] = 1.0 / count[group]

    UNIT_PER_STEP = PATCH_HU_PER_STEP / 1400

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


def _rated_items(nodules: NDArray[np.int_], patients: list[str], ratings: Ratings) -> tuple[Item, ...]:
    classes = ratings.malignancy()
    return tuple(Item(str(n), patients[n], Malignancy(classes[n]).name.lower()) for n in nodules.tolist())


def _rated_sample(
    item: Item,
    image: NDArray[np.uint8],
    bits: NDArray[np.uint8],
    ratings: Ratings,
    spacing_zyx: tuple[float, float, float],
) -> Sample:
    n = int(item.key)
    readers = int(ratings.readers[n])
    masks = np.stack([(bits >> j) & 1 > 0 for j in range(readers)])
    held = consensus(masks)
    return Sample(
        item,
        image.astype(np.float32) * np.float32(HU_PER_STEP) + AIR_HU,
        "hu",
        spacing_zyx,
        reader_masks=masks,
        mask=held,
        boxes=(Box.of_mask(held),) if held.any() else (),
        label=LABELS.get(Malignancy[item.stratum.upper()]),
        ratings=ratings.values[n, :readers],
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
