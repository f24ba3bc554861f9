"""LIDC-IDRI's outlines on the CT that they were drawn on: whole scans and single nodules as data sets.

The annotations count stored rows and columns, and millimetres along z; a CT as read keeps both. So masks are drawn on
the grid as read, whether it comes from DICOM or is one of LUNA16's MetaImages, flipped ones included, and turned
afterwards together with the voxels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Point
from nodulens.core.volume import Volume
from nodulens.data.dataset import Item, Sample
from nodulens.data.lidc import LidcNodule, LidcScan, cluster, ratings_of, slice_index
from nodulens.data.ratings import Malignancy
from nodulens.errors import BadGeometry, InputError, NotFound
from nodulens.io import read
from nodulens.io.dicom import find_series
from nodulens.io.files import open_regular
from nodulens.io.places import folders_below
from nodulens.metrics.segmentation import consensus
from nodulens.ops.orient import canonical

Bool = NDArray[np.bool_]

MARGIN_MM = 10.0
"""Margin of a nodule's sample around its outlines."""
LABELS = {Malignancy.BENIGN: 0, Malignancy.MALIGNANT: 1}
HEAD_BYTES, SERIES_TAG = 16_384, b"\x20\x00\x0e\x00"
"""Within these a DICOM file of a CT slice has the element SeriesInstanceUID, in little-endian order; where it does not,
its header is parsed."""


# ---------------------------------------------------------------- outlines on a grid


def slices_mm(geometry: Geometry) -> NDArray[np.float64]:
    """(slices,) LPS z of each slice of a CT as read.

    Raises:
        BadGeometry: the slices are not axial, so it is not the stored scan.
    """
    if abs(geometry.direction[2, 0]) < 0.99:
        raise BadGeometry("LIDC's outlines were drawn on axial slices; give the scan as it is stored, not turned.")
    index = np.zeros((geometry.shape[0], 3))
    index[:, 0] = np.arange(geometry.shape[0])
    return geometry.to_lps(index)[:, 2]


def box_on(nodule: LidcNodule, geometry: Geometry) -> Box:
    """Around all outlines of a nodule, (z, y, x) in indices of the grid as read.

    Raises:
        BadGeometry: an outline lies on none of the slices: another series, or slices are missing.
    """
    heights = slice_index([c.z_mm for r in nodule.readings for c in r.contours], slices_mm(geometry))
    own = nodule.box
    return Box(
        (int(heights.min()), *own.start[1:]),
        (int(heights.max()) + 1, *own.stop[1:]),
    )


def masks_on(nodule: LidcNodule, geometry: Geometry, box: Box) -> Bool:
    """(readers, z, y, x) each reader's mask in a box of the grid as read.

    Raises:
        BadGeometry: as :func:`box_on`.
    """
    heights = slices_mm(geometry)
    return np.stack([reading.mask(heights, box) for reading in nodule.readings])


def middle_on(nodule: LidcNodule, geometry: Geometry) -> Point:
    """Centroid, LPS mm (x, y, z), of the consensus of half of the readers; of all outlines if that is empty.

    Raises:
        BadGeometry: as :func:`box_on`.
    """
    box = box_on(nodule, geometry)
    agreed = consensus(masks_on(nodule, geometry, box))
    inside = np.argwhere(agreed).mean(axis=0) if agreed.any() else (np.asarray(box.shape) - 1) / 2
    x, y, z = (float(v) for v in geometry.to_lps(inside + box.start))
    return x, y, z


def consensus_on(nodules: Iterable[LidcNodule], geometry: Geometry) -> Bool:
    """The consensus of half of the readers of each nodule, on the whole grid as read."""
    out = np.zeros(geometry.shape, dtype=bool)
    for nodule in nodules:
        box = box_on(nodule, geometry).clipped(geometry.shape)
        out[box.slices] |= consensus(masks_on(nodule, geometry, box))
    return out


# ---------------------------------------------------------------- data sets


@dataclass(frozen=True, eq=False)
class LidcScans:
    """Whole scans: a :class:`nodulens.data.dataset.Dataset`.

    An item is a scan, keyed by series UID, its stratum the number of nodules (0, 1, 2, 3+). A sample's mask is the
    consensus of half of the readers, its boxes are around the outlines; label and ratings belong to nodules, so there
    are none.

    Attributes:
        scans: what :func:`nodulens.data.lidc.read_database` gives, or a part of it.
        folders: series UID → where its CT lies, as :func:`find_scans` finds it; items need none.
    """

    name: ClassVar[str] = "lidc-scans"

    scans: Sequence[LidcScan]
    folders: Mapping[str, Path]

    @cached_property
    def _nodules(self) -> dict[str, tuple[LidcNodule, ...]]:
        return {scan.series_uid: cluster(scan) for scan in self.scans}

    def items(self) -> tuple[Item, ...]:
        """One a scan; no CT is needed."""
        counts = [len(self._nodules[scan.series_uid]) for scan in self.scans]
        return tuple(
            Item(s.series_uid, s.patient_id, count_stratum(n)) for s, n in zip(self.scans, counts, strict=True)
        )

    def load(self, item: Item) -> Sample:
        """The scan in HU, turned so that its axes rise towards superior, posterior and left.

        Raises:
            NotFound: its CT is not among the folders.
            BadGeometry: outlines that lie on no slice, and as :func:`nodulens.io.read`.
        """
        volume = _read(self.folders, item.key)
        return scan_sample(item, volume, self._nodules[item.key])


@dataclass(frozen=True, eq=False)
class LidcNodules:
    """Single nodules with the tissue around them: a :class:`nodulens.data.dataset.Dataset`.

    An item is a nodule, keyed by series UID and its number in the scan from low to high, its stratum the class of its
    median malignancy. A sample shows its outlines and 10 mm more; its label is 1 for malignant (median above 3), 0
    for benign (below 3), None between. Loading reads the whole scan: to train, prepare crops once
    (:mod:`nodulens.data.prepare`).

    Attributes:
        scans, folders: as for :class:`LidcScans`.
    """

    name: ClassVar[str] = "lidc-nodules"

    scans: Sequence[LidcScan]
    folders: Mapping[str, Path]

    @cached_property
    def nodules(self) -> dict[str, LidcNodule]:
        """Key → nodule."""
        return {f"{s.series_uid}/{k}": nodule for s in self.scans for k, nodule in enumerate(cluster(s))}

    @cached_property
    def _classes(self) -> dict[str, Malignancy]:
        classes = ratings_of(list(self.nodules.values())).malignancy()
        return {key: Malignancy(value) for key, value in zip(self.nodules, classes, strict=True)}

    def items(self) -> tuple[Item, ...]:
        """One a nodule; no CT is needed."""
        return tuple(Item(k, n.scan.patient_id, self._classes[k].name.lower()) for k, n in self.nodules.items())

    def load(self, item: Item) -> Sample:
        """The nodule in HU, turned as :meth:`LidcScans.load`; other nodules in the crop are not in the mask.

        Raises:
            NotFound, BadGeometry: as :meth:`LidcScans.load`.
        """
        nodule = self.nodules[item.key]
        volume = _read(self.folders, nodule.scan.series_uid)
        margin = [int(np.ceil(MARGIN_MM / s)) for s in volume.geometry.spacing_zyx]
        box = box_on(nodule, volume.geometry).grown(margin).clipped(volume.geometry.shape)
        crop, orientation = canonical(volume.crop(box))
        masks = np.stack([orientation.apply(mask) for mask in masks_on(nodule, volume.geometry, box)])
        agreed = consensus(masks)
        return Sample(
            item,
            crop.hu.astype(np.float32),
            "hu",
            crop.geometry.spacing_zyx,
            crop.geometry,
            reader_masks=masks,
            mask=agreed,
            boxes=(Box.of_mask(agreed),) if agreed.any() else (),
            label=LABELS.get(self._classes[item.key]),
            ratings=nodule.ratings,
        )


def count_stratum(nodules: int) -> str:
    """What scans are balanced by: "0", "1", "2" or "3+" nodules."""
    return str(nodules) if nodules < 3 else "3+"


def scan_sample(
    item: Item, volume: Volume, nodules: Sequence[LidcNodule], boxes: Sequence[Box] | None = None
) -> Sample:
    """A whole scan with the consensus of its nodules.

    Args:
        item: of the scan.
        volume: as read.
        nodules: to draw.
        boxes: on the turned grid; None for those around the consensus of each nodule that has any.
    """
    turned, orientation = canonical(volume)
    mask = np.zeros(volume.geometry.shape, dtype=bool)
    found = []
    for nodule in nodules:
        box = box_on(nodule, volume.geometry).clipped(mask.shape)
        agreed = consensus(masks_on(nodule, volume.geometry, box))
        mask[box.slices] |= agreed
        if agreed.any():
            own = Box.of_mask(agreed)
            ends = np.array([own.start, np.subtract(own.stop, 1)]) + box.start
            found.append(_box_of(turned.geometry.to_index(volume.geometry.to_lps(ends))))
    return Sample(
        item,
        turned.hu.astype(np.float32),
        "hu",
        turned.geometry.spacing_zyx,
        turned.geometry,
        mask=orientation.apply(mask),
        boxes=tuple(found if boxes is None else boxes),
    )


def _box_of(corners: NDArray[np.float64]) -> Box:
    """The box whose first and last voxel, in either order, are given, (2, 3)."""
    z, y, x = np.rint(corners.min(axis=0)).astype(int)
    deep, low, right = np.rint(corners.max(axis=0)).astype(int) + 1
    return Box((z, y, x), (deep, low, right))


# ---------------------------------------------------------------- folders of DICOM


def find_scans(root: str | Path) -> tuple[dict[str, Path], dict[Path, str]]:
    """The CT series below ``root``, in folders of one, as TCIA ships them, or of several.

    Of a series the header of one file is read. Radiographs, localizers, XML and whatever else are passed over.

    Args:
        root: searched as by :func:`nodulens.io.places.folders_below`.

    Returns:
        series UID → folder, in order of folder, and folder → what is wrong with it; a folder may hold series that are
        found beside one that is wrong.

    Raises:
        NotFound: no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}.")
    found: dict[str, Path] = {}
    wrong: dict[Path, str] = {}
    for folder, files in folders_below(root):
        try:
            here = _cts_in(files)
        except InputError as error:
            wrong[folder] = str(error)
            continue
        again = [f"Series {uid} lies in {found[uid]} as well; keep one of them." for uid in here if uid in found]
        if again:
            wrong[folder] = " ".join(again)
        found |= {uid: folder for uid in here if uid not in found}
    return found, wrong


def _cts_in(files: Iterable[Path]) -> list[str]:
    """The UIDs of the CT series of a folder's DICOM files, without those of localizers and pictures alone.

    A single image beside larger series is a sample or a reference, as for :func:`nodulens.io.read`.
    """
    images: Counter[str] = Counter()
    for file in files:
        if file.suffix.lower() in (".xml", ".csv", ".txt", ".json", ".pdf") or not file.is_file():
            continue
        named = _named_series(file)
        if named is not None and named in images:
            images[named] += 1
            continue
        for series in find_series([file])[0]:
            if series.modality == "CT" and any(not plane.aside for plane in series.planes):
                images[series.uid] += len(series.planes)
    return [uid for uid, count in images.items() if count > 1] or list(images)


def _named_series(file: Path) -> str | None:
    """The UID in the only element SeriesInstanceUID near the beginning of a file, whose header is not parsed: of a
    hundred thousand slices that would take minutes. None without one, or with those of referenced series."""
    with open_regular(file) as stream:
        _, _, after = stream.read(HEAD_BYTES).partition(SERIES_TAG)
    if not after or SERIES_TAG in after:
        return None
    length = int.from_bytes(after[2:4] if after.startswith(b"UI") else after[:4], "little")
    return after[4 : 4 + length].rstrip(b"\0 ").decode("latin-1")


def _read(folders: Mapping[str, Path], uid: str) -> Volume:
    if uid not in folders:
        raise NotFound(f"The CT of series {uid} is not among the folders; download it, or leave its items out.")
    return read(folders[uid], series=uid)
