"""A copy of LUNA16 beside the official download: every header, the length of every voxel file, tables, archives.

Headers are read and voxel files measured, not read: 888 scans take seconds. Voxel files carry no checksum; archives do,
which a thorough check compares.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nodulens.data.downloads import (
    DOWNLOADS,
    LONG_TABLE,
    MASKS,
    SCRIPT,
    SLICE_BYTES,
    SUBSET_SCANS,
    TABLE_ROWS,
    Archive,
    DataCheck,
    Download,
    Part,
    Problem,
    archive_problems,
    archives,
    in_order,
    inside,
)
from nodulens.data.lidc import LidcScan
from nodulens.data.luna16 import ANNOTATIONS, CANDIDATES, EXCLUDED, LUNGS, SERIES, read_findings_table, read_series
from nodulens.errors import InputError, NotFound
from nodulens.io.images import read_header
from nodulens.io.places import folders_below

PIXEL_TOLERANCE = 0.01
"""Relative difference of pixel sizes that rounding explains."""
SOURCE_OF = {
    ANNOTATIONS: ANNOTATIONS,
    EXCLUDED: SCRIPT,
    SERIES: SCRIPT,
    CANDIDATES[0]: CANDIDATES[0],
    CANDIDATES[1]: LONG_TABLE,
}
"""Table → the download that holds it."""
USE_OF = {
    EXCLUDED: "without it false positives are counted too often",
    SERIES: "without it missing scans cannot be named",
    CANDIDATES[0]: "only candidates_V2.csv or this one is used",
    CANDIDATES[1]: "without it patches are cut at nodules alone, and no filter can be trained",
}
NEEDED = (ANNOTATIONS, EXCLUDED)
NESTED = 4
"""Folders below the data's own in which misplaced files are looked for."""
Progress = Callable[[int, int], None]


def check_luna16(
    root: Path, scans: Iterable[LidcScan], *, thorough: bool = False, progress: Progress | None = None
) -> DataCheck:
    """Compare a folder with the official download.

    Args:
        root: laid out as :mod:`nodulens.data.luna16` says; any part may be missing.
        scans: what :func:`nodulens.data.lidc.read_database` gives.
        thorough: also compare the checksums in zip files.
        progress: called with the number of headers read and of all.

    Raises:
        NotFound: there is no such folder.
    """
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}.")
    files = sorted(path for _, here in folders_below(root) for path in here)
    images = [path for path in files if path.suffix == ".mhd" and path.is_file()]
    voxels = tuple(path for path in files if path.suffix == ".raw")
    known = {scan.series_uid: scan for scan in scans}
    copy = _Copy(root, known, _listed(root / SERIES), archives(root, thorough), voxels)
    for done, path in enumerate(images):
        copy.add(path)
        if progress:
            progress(done + 1, len(images))
    return DataCheck(
        "luna16",
        len(copy.usable),
        sum(SUBSET_SCANS),
        tuple(copy.parts()),
        in_order(copy.problems()),
        copy.downloads,
        copy.missing_gigabytes,
    )


def _listed(path: Path) -> frozenset[str] | None:
    """The challenge's series, where their list is there and whole."""
    try:
        found = frozenset(read_series(path))
    except InputError:
        return None
    return found if len(found) == TABLE_ROWS[SERIES] else None


@dataclass(eq=False)
class _Copy:
    """What has been seen of a copy so far."""

    root: Path
    known: Mapping[str, LidcScan]
    listed: frozenset[str] | None
    zips: Mapping[str, Archive]
    voxels: tuple[Path, ...]
    places: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    broken: dict[Path, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    broken_masks: dict[Path, str] = field(default_factory=dict)
    bytes: dict[Path, int] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Read a header and measure its voxels."""
        mask = LUNGS in path.relative_to(self.root).parts
        try:
            header = read_header(path, "metaimage")
            self.bytes[path] = sum(part.path.stat().st_size for part in header.stored.parts)
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            (self.broken_masks if mask else self.broken)[path] = reason
            header = None
        if mask:
            self.masks.setdefault(path.stem, path)
            return
        self.places[path.stem].append(path)
        scan = self.known.get(path.stem)
        if header is None or scan is None:
            return
        slices, rows, columns = header.geometry.shape
        pixel = header.geometry.spacing_zyx[2]
        if slices != len(scan.z_mm) or abs(pixel / scan.pixel_mm - 1) > PIXEL_TOLERANCE:
            self.odd[inside(path, self.root)] = (
                f"{slices} slices of {rows} × {columns}, {pixel:.3f} mm; {len(scan.z_mm)} of {scan.pixel_mm:.3f} mm"
            )

    # ---- what is there

    @cached_property
    def usable(self) -> dict[str, Path]:
        """Series → the place where the other commands find it, if its files are whole and it is of the challenge."""
        out = {}
        for uid, paths in self.places.items():
            (path, *more) = paths
            if not more and path not in self.broken and self.placed(path) and self.is_ours(uid):
                out[uid] = path
        return out

    def placed(self, path: Path) -> bool:
        """Whether a scan lies where it is looked for: in the folder itself or in one of its subsets."""
        return path.parent == self.root or (path.parent.parent == self.root and _subset(path) is not None)

    def is_ours(self, uid: str) -> bool:
        """Whether a series is of the challenge, as far as can be told."""
        return uid in (self.known if self.listed is None else self.listed)

    def of_subset(self, number: int | None, paths: Iterable[Path]) -> list[Path]:
        """Those of a subset; None: those in none."""
        return [path for path in paths if _subset(path) == number]

    def parts(self) -> Iterator[Part]:
        """Rows of the table."""
        for number, whole in enumerate(SUBSET_SCANS):
            yield self._subset_part(f"subset{number}", number, whole)
        if self.of_subset(None, self.usable.values()):
            yield self._subset_part("in no subset", None, 0)
        masks = {uid: path for uid, path in self.masks.items() if path not in self.broken_masks}
        size = sum(self.bytes.get(path, 0) for path in masks.values()) / 1e9
        yield Part(LUNGS, len(masks), sum(SUBSET_SCANS), len(self.broken_masks), round(size, 3))
        for name, whole in TABLE_ROWS.items():
            yield Part(f"{name}, rows", self.rows.get(name, 0), whole)

    def _subset_part(self, name: str, number: int | None, whole: int) -> Part:
        here = self.of_subset(number, self.usable.values())
        size = sum(self.bytes[path] for path in here) / 1e9
        return Part(name, len(here), whole, len(self.of_subset(number, self.broken)), round(size, 3))

    @cached_property
    def rows(self) -> dict[str, int]:
        """Table → rows, for those that are there."""
        return {name: _rows(self.root / name) for name in TABLE_ROWS if (self.root / name).is_file()}

    # ---- what is wrong

    @cached_property
    def short(self) -> dict[int, str]:
        """Subset → how many of its scans there are, in whatever folder, for those that are not whole."""
        whole = {uid: paths[0] for uid, paths in self.places.items() if self.is_ours(uid) and self.whole(paths)}
        if len(whole) == sum(SUBSET_SCANS):
            return {}
        here = {k: len(self.of_subset(k, whole.values())) for k in range(len(SUBSET_SCANS))}
        return {k: f"{here[k]} of {n} scans" for k, n in enumerate(SUBSET_SCANS) if here[k] < n}

    def whole(self, paths: Iterable[Path]) -> bool:
        """Whether one of several places holds whole files."""
        return any(path not in self.broken for path in paths)

    @cached_property
    def strayed(self) -> dict[str, Path]:
        """Table → where it lies, of those that are in a folder below."""
        found = {name: _below(self.root, name) for name in TABLE_ROWS if name not in self.rows}
        return {name: path for name, path in found.items() if path is not None}

    @cached_property
    def missing(self) -> frozenset[str]:
        """Series that are not usable, where the list of all is there."""
        return frozenset() if self.listed is None else self.listed - self.usable.keys()

    @property
    def missing_gigabytes(self) -> float | None:
        """Size of the voxels of the missing scans."""
        if self.listed is None:
            return None
        slices = sum(len(self.known[uid].z_mm) for uid in self.missing if uid in self.known)
        return round(slices * SLICE_BYTES / 1e9, 1)

    @property
    def downloads(self) -> tuple[Download, ...]:
        """The files to download: those of missing parts whose archive is not there, whole."""
        wanted = {f"subset{k}.zip" for k in self.short}
        wanted |= {
            SOURCE_OF[name]
            for name, whole in TABLE_ROWS.items()
            if name not in self.strayed and self.rows.get(name) != whole
        }
        if len(self.masks) - len(self.broken_masks) < sum(SUBSET_SCANS):
            wanted.add(MASKS)
        whole = {name for name, archive in self.zips.items() if not archive.problem}
        return tuple(one for one in DOWNLOADS["luna16"] if one.name in wanted - whole)

    def problems(self) -> Iterator[Problem]:
        """All of them."""
        yield from archive_problems(self.zips, self.root)
        yield from self._missing()
        yield from self._wrong()
        yield from self._tables()
        yield from self._masks()
        if self.odd:
            yield Problem(
                "note",
                "Scans have another number of slices or another pixel size than in LIDC's database",
                "If these are not the challenge's own files, download their subsets again.",
                self.odd,
            )
        done = [f"subset{k}.zip" for k in range(len(SUBSET_SCANS)) if k not in self.short]
        spare = [name for name in done if name in self.zips and not self.zips[name].problem]
        if spare:
            size = sum(self.zips[name].path.stat().st_size for name in spare) / 1e9
            remedy = f"They may be deleted ({size:.1f} GB)."
            yield Problem("note", "Archives are unpacked and needed no more", remedy, dict.fromkeys(spare, ""))

    def _missing(self) -> Iterator[Problem]:
        whole = {name for name, archive in self.zips.items() if not archive.problem}
        packed = {f"subset{k}.zip": text for k, text in self.short.items() if f"subset{k}.zip" in whole}
        absent = {f"subset{k}": text for k, text in self.short.items() if f"subset{k}.zip" not in whole}
        if packed:
            first = next(iter(packed))
            remedy = f"Unpack them here: 7z x {first} (some programs do not unpack archives of this size)."
            yield Problem("missing", "Archives are not unpacked, or not all of it", remedy, packed)
        if absent:
            remedy = "Download their archives and unpack them here. All else works with the subsets that are whole."
            yield Problem("missing", "Subsets are missing, or not whole", remedy, absent)
        if self.missing and self.usable:
            remedy = "--json names them all."
            places = dict.fromkeys(sorted(self.missing), "")
            yield Problem("note", "Series of the challenge are not usable here", remedy, places)
        loose = self.of_subset(None, self.usable.values())
        if loose:
            places = {inside(path, self.root): "" for path in loose}
            remedy = "Move them into DIR/subset0 … DIR/subset9 for the challenge's folds; all else works as it is."
            yield Problem("note", "Scans lie in no subset", remedy, places)

    def _wrong(self) -> Iterator[Problem]:
        if self.broken:
            places = {inside(path, self.root): reason for path, reason in self.broken.items()}
            remedy = "Unpack their subsets again; if that does not help, download them again."
            yield Problem("broken", "Scans cannot be read", remedy, places)
        orphans = {inside(raw, self.root): "" for raw in self.voxels if not raw.with_suffix(".mhd").exists()}
        if orphans:
            remedy = "Unpack their subsets again: the header (.mhd) belongs beside the voxels."
            yield Problem("broken", "Voxel files have no header", remedy, orphans)
        wanted = [(uid, path) for uid, paths in self.places.items() for path in paths]
        elsewhere = {inside(path, self.root): "" for _, path in wanted if not self.placed(path)}
        if elsewhere:
            remedy = "Move .mhd and .raw together into DIR/subset0 … DIR/subset9; deeper folders are not searched."
            yield Problem("misplaced", "Scans lie where the other commands do not look", remedy, elsewhere)
        twice = {
            uid: ", ".join(inside(path.parent, self.root) for path in paths)
            for uid, paths in self.places.items()
            if len(paths) > 1
        }
        if twice:
            yield Problem("repeated", "Series lie in several folders", "Keep one of each.", twice)
        strange = {inside(path, self.root): "" for uid, path in wanted if uid not in self.known}
        if strange:
            remedy = "Move them elsewhere: their patients are unknown, so they cannot be kept out of training."
            yield Problem("unknown", "Scans are of no series in LIDC's database", remedy, strange)
        other = {inside(path, self.root): "" for uid, path in wanted if uid in self.known and not self.is_ours(uid)}
        if other:
            yield Problem("unknown", f"Scans of LIDC are not in {SERIES}", "Move them elsewhere.", other)

    def _tables(self) -> Iterator[Problem]:
        absent, optional = {}, {}
        for name, whole in TABLE_ROWS.items():
            if name not in self.rows:
                if name in self.strayed:
                    continue
                if name in NEEDED:
                    absent[name] = f"in {SOURCE_OF[name]}"
                elif name != CANDIDATES[0] or CANDIDATES[1] not in self.rows:
                    optional[name] = f"in {SOURCE_OF[name]}; {USE_OF[name]}"
            elif self.rows[name] != whole or (reason := self._unreadable(name)):
                reason = f"{self.rows[name]:,} of {whole:,} rows" if self.rows[name] != whole else reason
                yield Problem("broken", "A table is not the challenge's", "Download it again.", {name: reason})
        if self.strayed:
            remedy = "Copy them into DIR itself."
            places = {inside(path, self.root): "" for path in self.strayed.values()}
            yield Problem("misplaced", "Tables lie where the other commands do not look", remedy, places)
        if absent:
            yield Problem("missing", "Tables are missing", "Download them into DIR itself.", absent)
        if optional:
            yield Problem("note", "Tables that not everything needs are missing", "Download them.", optional)

    def _unreadable(self, name: str) -> str:
        """Why a table of findings or series cannot be read, "" if it can. Candidates are counted alone."""
        try:
            if name in NEEDED:
                read_findings_table(self.root / name, unique=False)
            elif name == SERIES:
                read_series(self.root / name)
        except InputError as error:
            return str(error)
        return ""

    def _masks(self) -> Iterator[Problem]:
        whole, strayed = sum(SUBSET_SCANS), [p for p in self.masks.values() if p.parent != self.root / LUNGS]
        if strayed:
            yield Problem(
                "misplaced",
                "Lung masks lie where the other commands do not look",
                f"Move .mhd and .zraw into DIR/{LUNGS}.",
                {inside(path, self.root): "" for path in strayed},
            )
        if self.broken_masks:
            places = {inside(path, self.root): reason for path, reason in self.broken_masks.items()}
            yield Problem("broken", "Lung masks cannot be read", f"Unpack {MASKS} again.", places)
        if not self.masks:
            remedy = f"Download {MASKS}, or leave it: then the lungs are found by the program, in seconds a scan."
            yield Problem("note", "There are no lung masks", remedy)
        elif len(self.masks) < whole:
            remedy = f"Unpack {MASKS} again."
            yield Problem("missing", "Lung masks are missing", remedy, {LUNGS: f"{len(self.masks)} of {whole}"})


def _subset(path: Path) -> int | None:
    """The number of the subset whose folder holds a scan."""
    number = re.fullmatch(r"subset(\d)", path.parent.name)
    return int(number[1]) if number else None


def _rows(path: Path) -> int:
    """Lines of a table, without its header, if it has one, and without empty lines."""
    with path.open("rb") as file:
        first = file.readline()
        header = b"seriesuid" in first.lower()
        return sum(1 for line in file if line.strip()) + (0 if header or not first.strip() else 1)


def _below(root: Path, name: str) -> Path | None:
    """A table in a folder below."""
    patterns = ("*/" * depth + name for depth in range(1, NESTED))
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)
