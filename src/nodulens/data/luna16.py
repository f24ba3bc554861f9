"""LUNA16: 888 scans of LIDC-IDRI as MetaImage, in ten subsets, with findings, candidates and lung masks.

The layout is the challenge's own::

    ROOT/subset0 … subset9/<series UID>.mhd and .raw
    ROOT/annotations.csv, annotations_excluded.csv, candidates.csv, candidates_V2.csv, seriesuids.csv
    ROOT/seg-lungs-LUNA16/<series UID>.mhd and .zraw

Any part may be missing; using it is then an error. LUNA16 names no patients; they, and the readers' outlines and
ratings, come from the LIDC database by series UID.

Points of the tables are LPS millimetres. Some scans are stored with x and y reversed (``TransformMatrix = -1 0 0 0 -1 0
0 0 1``): the ``world − origin / spacing`` of most published code mirrors their nodules; :class:`Geometry` does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Point
from nodulens.core.volume import Mask, Volume
from nodulens.data.dataset import Item, Sample
from nodulens.data.lidc import LidcNodule, LidcScan, cluster
from nodulens.data.lidc_ct import count_stratum, middle_on, scan_sample
from nodulens.data.splits import Split, of_groups
from nodulens.errors import BadGeometry, BadOption, NotFound
from nodulens.io import read
from nodulens.io.images import read_header, read_mask
from nodulens.io.tables import read_lines, read_table
from nodulens.metrics.detection import UNSIZED_MM as UNSIZED_MM
from nodulens.metrics.detection import Findings
from nodulens.ops.orient import canonical

SUBSETS = 10
AXES = ("coordX", "coordY", "coordZ")
ANNOTATIONS, EXCLUDED = "annotations.csv", "annotations_excluded.csv"
SERIES, CANDIDATES = "seriesuids.csv", ("candidates.csv", "candidates_V2.csv")
LUNGS = "seg-lungs-LUNA16"
LUNG_VALUES, AIRWAY_VALUE = (3, 4), 5
LUNG_NAMES = {1: "left lung", 2: "right lung", 3: "airways"}
SIDES, AIRWAYS = (1, 2), 3
READERS = 3
"""LUNA16's nodules are those of three readers or more."""
ALIKE_MM = 0.01
"""Grids that differ by less, in origin or from voxel to voxel, are one."""
BANDS_MM = (4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True)
class Finding:
    """A row of ``annotations.csv`` or ``annotations_excluded.csv``.

    Attributes:
        centre_lps: LPS mm (x, y, z).
        diameter_mm: None where the table has −1: an annotation without an outline.
    """

    centre_lps: Point
    diameter_mm: float | None

    def nearest(self, nodules: Sequence[LidcNodule], middles_lps: NDArray[np.float64]) -> LidcNodule | None:
        """The nodule with the nearest centre (N, 3), LPS mm, inside the ball, which has 10 mm without a diameter."""
        away = np.linalg.norm(middles_lps - self.centre_lps, axis=1)
        if not len(away) or away.min() >= (self.diameter_mm or UNSIZED_MM) / 2:
            return None
        return nodules[int(away.argmin())]

    def box(self, geometry: Geometry) -> Box:
        """The box around the ball, in indices of a grid; at least the voxel of the centre, cut at the grid's edge.

        Raises:
            BadOption: the ball is outside the grid.
        """
        centre = geometry.to_index(self.centre_lps)
        reach = (self.diameter_mm or 0) / 2 / np.asarray(geometry.spacing_zyx)
        z, y, x = np.floor(centre - reach + 0.5).astype(int)
        deep, low, right = np.floor(centre + reach + 0.5).astype(int) + 1
        return Box((z, y, x), (deep, low, right)).clipped(geometry.shape)


@dataclass(frozen=True, eq=False)
class Candidates:
    """A table of candidates for false positive reduction.

    Attributes:
        series_uids: (N,) text.
        centres_lps: (N, 3) LPS mm (x, y, z).
        labels: (N,) true on a nodule.
    """

    series_uids: NDArray[np.str_]
    centres_lps: NDArray[np.float64]
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class Luna16:
    """LUNA16 on disk: a :class:`nodulens.data.dataset.Dataset` of whole scans.

    An item is a scan, its stratum how many nodules it holds (0, 1, 2, 3+). A sample's boxes are those of
    ``annotations.csv``, its mask the consensus of half of the readers on the nodules of three readers or more; it has
    no label and no ratings, for those belong to nodules: see :meth:`nodules`.

    Attributes:
        root: the folder.
        files: series UID → MetaImage header, in order of UID.
        subset: series UID → 0…9; only for scans that lie in a subset's folder.
        annotations: series UID → nodules.
        excluded: series UID → what scoring leaves out.
        scans: series UID → what the LIDC database knows, for all 888.
    """

    name: ClassVar[str] = "luna16"

    root: Path
    files: Mapping[str, Path]
    subset: Mapping[str, int]
    annotations: Mapping[str, tuple[Finding, ...]]
    excluded: Mapping[str, tuple[Finding, ...]]
    scans: Mapping[str, LidcScan]

    def items(self) -> tuple[Item, ...]:
        """The available scans."""
        return tuple(self._item(uid) for uid in self.files)

    def _item(self, uid: str) -> Item:
        return Item(uid, self.scan(uid).patient_id, count_stratum(len(self.annotations.get(uid, ()))))

    def scan(self, uid: str) -> LidcScan:
        """What the LIDC database knows of a scan.

        Raises:
            NotFound: not a series of LIDC-IDRI: its patient is unknown, so it cannot be kept out of anything.
        """
        if uid not in self.scans:
            raise NotFound(
                f"Series {uid} is not in the LIDC database, so its patient is unknown; LUNA16 has no such scan."
            )
        return self.scans[uid]

    def volume(self, uid: str) -> Volume:
        """The scan as stored, but for z rising along the slice normal.

        Raises:
            NotFound: the scan is not among the files.
            UnreadableFile, BadGeometry, BadValues: as :func:`nodulens.io.read`.
        """
        if uid not in self.files:
            raise NotFound(f"No {uid}.mhd in a subset of {self.root}; download and unpack its subset.")
        return read(self.files[uid])

    def lungs(self, uid: str) -> Mask:
        """The lung mask on the grid of :meth:`volume`, as "left lung" (1), "right lung" (2) and "airways" (3).

        The files hold 3 and 4 for the lungs and 5 for trachea and airways; none of these is a nodule. Which of 3 and 4
        is left is decided by position (LPS x rises to the left), not by its number.

        Raises:
            NotFound: there is no lung mask of this scan.
            BadGeometry: it is not on the grid of the scan.
        """
        path = self.lungs_file(uid)
        if not path.is_file():
            raise NotFound(f"There is no {path}; download and unpack {LUNGS}.")
        return read_lungs(path, read_header(self.files[uid], "metaimage").geometry if uid in self.files else None)

    def lungs_file(self, uid: str) -> Path:
        """The path of the lung mask of a scan, which may not exist."""
        return self.root / LUNGS / f"{uid}.mhd"

    def nodules(self, uid: str, geometry: Geometry) -> tuple[tuple[Finding, LidcNodule | None], ...]:
        """The annotations of a scan, each with the readers' outlines and ratings of the same nodule.

        Args:
            uid: of the series.
            geometry: of :meth:`volume`: the database knows pixels, not millimetres, across.

        Returns:
            each finding with the nearest nodule of the database whose centre is in the finding's ball, or None.
        """
        return with_outlines(self.annotations.get(uid, ()), self.scan(uid), geometry)

    def load(self, item: Item) -> Sample:
        """A scan in HU, turned so that its axes rise towards superior, posterior and left.

        Raises:
            NotFound, UnreadableFile, BadGeometry, BadValues: as :meth:`volume`.
        """
        volume = self.volume(item.key)
        agreed = [n for n in cluster(self.scan(item.key)) if len(n.readings) >= READERS]
        grid = canonical(volume)[0].geometry
        boxes = [finding.box(grid) for finding in self.annotations.get(item.key, ())]
        return scan_sample(item, volume, agreed, boxes)

    def subset_split(self) -> Split:
        """LUNA16's own ten folds. One patient has two scans (LIDC-IDRI-0332): both go to the first of their folds.

        Raises:
            BadOption: a scan lies in no subset, or the ten are not all there: a fold would be empty.
        """
        missing = sorted(set(range(SUBSETS)) - set(self.subset.values()))
        if missing:
            listed = ", ".join(f"subset{k}" for k in missing)
            raise BadOption(f"{self.root} holds no scans in {listed}; the challenge's folds need all ten.")
        return of_groups(self.items(), self.subset, self.name)

    def candidates(self, table: str = "candidates_V2.csv") -> Candidates:
        """The challenge's candidates: ``candidates_V2.csv`` (754,975) or the first version's ``candidates.csv``.

        Raises:
            NotFound, UnreadableFile, BadValues: as :func:`nodulens.io.tables.read_table`.
        """
        rows = read_table(self.root / table, ("seriesuid", *AXES, "class"))
        return Candidates(np.array(rows.cells["seriesuid"]), rows.points(AXES), rows.numbers("class") > 0)


def with_outlines(
    findings: Sequence[Finding], scan: LidcScan, geometry: Geometry
) -> tuple[tuple[Finding, LidcNodule | None], ...]:
    """Findings of a scan, each with the readers' nodule: the nearest whose centre is in the finding's ball, or None.

    Args:
        findings: rows of ``annotations.csv``.
        scan: the readers' annotations.
        geometry: of the scan as stored: the readers' outlines are in pixels across, not millimetres.
    """
    known = cluster(scan)
    middles = np.array([middle_on(n, geometry) for n in known]).reshape(-1, 3)
    return tuple((finding, finding.nearest(known, middles)) for finding in findings)


def open_luna16(root: str | Path, scans: Iterable[LidcScan]) -> Luna16:
    """Open the available parts of LUNA16 in a folder, joined with LIDC.

    Args:
        root: laid out as in the module's docstring; scans may be in subset folders or in the folder itself.
        scans: what :func:`nodulens.data.lidc.read_database` gives.

    Raises:
        NotFound: no such folder, or neither scans nor tables in it.
        BadOption: one scan in two places.
        UnreadableFile, BadValues: a table that cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}.")
    files: dict[str, Path] = {}
    subset: dict[str, int] = {}
    for path in sorted([*root.glob("*.mhd"), *root.glob("subset[0-9]*/*.mhd")]):
        uid = path.stem
        if uid in files:
            raise BadOption(f"Series {uid} lies in both {files[uid].parent} and {path.parent}; keep one of them.")
        files[uid] = path
        number = re.fullmatch(r"subset(\d)", path.parent.name)
        if number:
            subset[uid] = int(number[1])
    tables = [root / name for name in (ANNOTATIONS, EXCLUDED)]
    if not files and not any(table.is_file() for table in tables):
        raise NotFound(f"{root} holds neither scans (subset0/*.mhd …) nor {ANNOTATIONS}: is it LUNA16?")
    annotations, excluded = (read_findings(table) if table.is_file() else {} for table in tables)
    known = {scan.series_uid: scan for scan in scans}
    return Luna16(root, dict(sorted(files.items())), subset, annotations, excluded, known)


@dataclass(frozen=True)
class Luna16Summary:
    """LUNA16 in figures.

    Attributes:
        scans, patients: of the challenge where ``seriesuids.csv`` is there, else those in the folder.
        scans_here: in the folder; ``subsets`` says in which.
        nodules, scans_with_nodules, nodules_per_scan: of ``annotations.csv``.
        diameter_mm: min, median, mean, max.
        diameter_bands: nodules in bands of mm, each from its lower edge up to below the next.
        lidc_nodules: those that three readers or more outlined on the same scans, clustered from the LIDC database.
        excluded, excluded_with_diameter: findings of ``annotations_excluded.csv``.
        candidates: table → candidates on nodules, and non-nodules.
        slice_thickness_mm: thickness → scans.
    """

    scans: int
    patients: int
    scans_here: int
    subsets: dict[str, int]
    nodules: int
    scans_with_nodules: int
    nodules_per_scan: dict[str, int]
    diameter_mm: dict[str, float]
    diameter_bands: dict[str, int]
    lidc_nodules: int
    excluded: int
    excluded_with_diameter: int
    candidates: dict[str, tuple[int, int]]
    slice_thickness_mm: dict[str, int]


def summarize(luna: Luna16) -> Luna16Summary:
    """Count the available parts.

    Raises:
        NotFound: a series that the LIDC database does not know.
        UnreadableFile, BadValues: a table that cannot be read.
    """
    listed = luna.root / SERIES
    series = read_series(listed) if listed.is_file() else tuple(luna.files)
    scans = [luna.scan(uid) for uid in series]
    nodules = [finding for findings in luna.annotations.values() for finding in findings]
    excluded = [finding for findings in luna.excluded.values() for finding in findings]
    per_scan = Counter(len(luna.annotations.get(uid, ())) for uid in series)
    sizes = np.array([f.diameter_mm for f in nodules if f.diameter_mm])
    edges = (0.0, *BANDS_MM, np.inf)
    names = (f"< {BANDS_MM[0]:g}", *(f"{a:g}–{b:g}" for a, b in pairwise(BANDS_MM)), f"≥ {BANDS_MM[-1]:g}")
    tables = {name: luna.candidates(name).labels for name in CANDIDATES if (luna.root / name).is_file()}
    return Luna16Summary(
        scans=len(series),
        patients=len({scan.patient_id for scan in scans}),
        scans_here=len(luna.files),
        subsets={str(k): n for k, n in sorted(Counter(luna.subset.values()).items())},
        nodules=len(nodules),
        scans_with_nodules=len(luna.annotations),
        nodules_per_scan={str(k): n for k, n in sorted(per_scan.items())},
        diameter_mm={f.__name__: float(f(sizes)) for f in (np.min, np.median, np.mean, np.max)} if len(sizes) else {},
        diameter_bands=dict(zip(names, np.histogram(sizes, edges)[0].tolist(), strict=True)),
        lidc_nodules=sum(len(n.readings) >= READERS for scan in scans for n in cluster(scan)),
        excluded=len(excluded),
        excluded_with_diameter=sum(f.diameter_mm is not None for f in excluded),
        candidates={name: (int(on.sum()), int((~on).sum())) for name, on in tables.items()},
        slice_thickness_mm={f"{t:g}": n for t, n in sorted(Counter(s.slice_thickness_mm for s in scans).items())},
    )


def read_findings_table(path: str | Path, *, unique: bool = True) -> Findings:
    """``annotations.csv`` or ``annotations_excluded.csv``, row by row; a diameter that was not measured is negative.

    Args:
        path: columns seriesuid, coordX, coordY, coordZ, diameter_mm.
        unique: refuse rows that say the same. LUNA16's excluded findings repeat, to no effect.

    Raises:
        InputError: no such file, no such column, a cell that is no number, a repeated row; with its line.
    """
    table = read_table(path, ("seriesuid", *AXES, "diameter_mm"))
    if unique:
        table.refuse_repeats()
    return Findings(table.cells["seriesuid"], table.points(AXES), table.numbers("diameter_mm"))


def read_findings(path: str | Path) -> dict[str, tuple[Finding, ...]]:
    """The same file by scan: series UID → its findings.

    Raises:
        InputError: as :func:`read_findings_table`; rows may repeat.
    """
    table = read_findings_table(path, unique=False)
    found: dict[str, list[Finding]] = {}
    rows = zip(table.series, table.centre_lps.tolist(), table.diameter_mm.tolist(), strict=True)
    for uid, (x, y, z), diameter in rows:
        found.setdefault(uid, []).append(Finding((x, y, z), diameter if diameter > 0 else None))
    return {uid: tuple(findings) for uid, findings in found.items()}


def read_series(path: str | Path) -> tuple[str, ...]:
    """Read LUNA16's ``seriesuids.csv``: a series UID a line, with the header ``seriesuid`` or without.

    Raises:
        InputError: no such file, empty, more than one column, a UID twice; with its line.
    """
    table = read_lines(path, "seriesuid")
    table.refuse_repeats()
    return table.cells["seriesuid"]


def read_lungs(path: Path, grid: Geometry | None = None) -> Mask:
    """One of LUNA16's lung masks, labelled by :func:`lungs_by_side`.

    Args:
        path: its MetaImage header.
        grid: of the scan as read; None: not compared.

    Raises:
        BadGeometry: it is not on that grid.
        UnreadableFile: it cannot be read.
    """
    stored = read_mask(path)
    own = stored.geometry
    if grid is not None and (grid.shape != own.shape or np.abs(grid.affine - own.affine).max() > ALIKE_MM):
        raise BadGeometry(f"{path} does not lie on the grid of its scan; download both again.")
    return lungs_by_side(stored)


def lungs_by_side(stored: Mask) -> Mask:
    """LUNA16's lung labels as "left lung" (1), "right lung" (2) and "airways" (3).

    Of the values 3 and 4 the one whose centre is farther to the left of the patient is the left lung; a single one is
    compared with the centre of the grid.
    """
    labels = np.zeros(stored.labels.shape, dtype=np.uint8)
    labels[stored.labels == AIRWAY_VALUE] = AIRWAYS
    there = {value: mask for value in LUNG_VALUES if (mask := stored.labels == value).any()}
    x = {v: float(stored.geometry.to_lps(ndimage.center_of_mass(mask))[0]) for v, mask in there.items()}
    middle = float(stored.geometry.to_lps((np.asarray(stored.labels.shape) - 1) / 2)[0])
    border = sum(x.values()) / 2 if len(x) == 2 else middle
    for value, place in x.items():
        labels[there[value]] = 1 if place > border else 2
    return Mask(labels, stored.geometry, LUNG_NAMES)
