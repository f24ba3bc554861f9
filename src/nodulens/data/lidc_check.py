"""A copy of LIDC-IDRI, as TCIA ships it, beside its annotation database: every slice's header, and the readers' XML."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nodulens.data.downloads import (
    DOWNLOADS,
    SLICE_BYTES,
    DataCheck,
    Part,
    Problem,
    archive_problems,
    archives,
    in_order,
    inside,
)
from nodulens.data.lidc import LidcScan
from nodulens.data.lidc_ct import find_scans
from nodulens.data.lidc_xml import read_xml, xml_below
from nodulens.errors import BadGeometry, InputError, UnreadableFile
from nodulens.io.dicom import check_scan, find_series
from nodulens.io.pixels import check_ends
from nodulens.ops.processes import in_processes

FEWER, UNUSUAL = "fewer: ", "unusual: "
"""How a job begins the reason why a scan is not whole, or is whole but unusual."""
Progress = Callable[[int, int], None]


def check_lidc(
    root: Path,
    scans: Sequence[LidcScan],
    *,
    thorough: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Compare a folder with the annotation database.

    The header of every slice is read, and the length of its pixels compared, in parallel processes: a millisecond or
    two of a core for a slice.

    Args:
        root: folder of the DICOM folders, one series a folder, XML anywhere in it.
        scans: what :func:`nodulens.data.lidc.read_database` gives.
        thorough: also compare the checksums in zip files.
        workers: number of processes; None for one on each core.
        progress: called with the number of scans done and of all.

    Raises:
        NotFound: there is no such folder.
    """
    folders, wrong = find_scans(root)
    known = {scan.series_uid: scan for scan in scans}
    jobs = {uid: (folder, uid, len(known[uid].z_mm)) for uid, folder in folders.items() if uid in known}
    reasons: dict[str, str] = {}
    for uid, reason in in_processes(check_series, jobs, workers or os.cpu_count() or 1):
        reasons[uid] = reason
        if progress:
            progress(len(reasons), len(jobs))
    annotated, unreadable = _annotations(root)
    copy = _Copy(root, known, folders, wrong, reasons, annotated, unreadable)
    zips = archives(root, thorough)
    return DataCheck(
        "lidc",
        len(copy.usable),
        len(known),
        tuple(copy.parts()),
        in_order(iter([*archive_problems(zips, root), *copy.problems()])),
        () if copy.usable.keys() == known.keys() and known.keys() <= annotated.keys() else DOWNLOADS["lidc"],
        round(sum(len(s.z_mm) for uid, s in known.items() if uid not in copy.usable) * SLICE_BYTES / 1e9, 1),
    )


def check_series(folder: Path, uid: str, slices: int) -> None:
    """Check all slices of a series by their headers and lengths.

    Raises:
        UnreadableFile: a file is damaged or cut short; or there are fewer slices than the database knows.
        BadGeometry: all are there, but they are no even stack.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    series = next(one for one in find_series(files)[0] if one.uid == uid)
    here = sum(not plane.aside for plane in series.planes)
    check_ends(series.planes)
    if here < slices:
        raise UnreadableFile(f"{FEWER}{here} of {slices} slices")
    try:
        check_scan(series, "error")
    except BadGeometry as error:
        raise BadGeometry(f"{UNUSUAL}{error}") from error


def _annotations(root: Path) -> tuple[dict[str, Path], dict[Path, str]]:
    """Series UID → XML of its readers, and XML of readers that cannot be read → why."""
    found, wrong = {}, {}
    for path in xml_below(root):
        try:
            found[read_xml(path).series_uid] = path
        except InputError as error:
            wrong[path] = str(error)
    return found, wrong


@dataclass(frozen=True, eq=False)
class _Copy:
    """What has been found."""

    root: Path
    known: Mapping[str, LidcScan]
    folders: Mapping[str, Path]
    wrong: Mapping[Path, str]
    reasons: Mapping[str, str]
    annotated: Mapping[str, Path]
    unreadable: Mapping[Path, str]

    @property
    def usable(self) -> dict[str, Path]:
        """Series → folder of those with all slices."""
        return {u: self.folders[u] for u, why in self.reasons.items() if not why or why.startswith(UNUSUAL)}

    def parts(self) -> Iterator[Part]:
        """Rows of the table."""
        usable = self.usable
        folders = set(usable.values())
        size = sum(file.stat().st_size for folder in folders for file in folder.iterdir() if file.is_file())
        broken = len(self.reasons) - len(usable)
        yield Part("CT scans", len(usable), len(self.known), broken, round(size / 1e9, 3))
        patients = {self.known[uid].patient_id for uid in usable}
        yield Part("patients", len(patients), len({scan.patient_id for scan in self.known.values()}))
        slices = sum(len(self.known[uid].z_mm) for uid in usable)
        yield Part("slices", slices, sum(len(scan.z_mm) for scan in self.known.values()))
        read = len(self.annotated.keys() & self.known.keys())
        yield Part("readers' XML", read, len(self.known), len(self.unreadable))

    def problems(self) -> Iterator[Problem]:
        """All of them."""
        again = "Download these series again."
        fewer = {u: why for u, why in self.reasons.items() if why.startswith(FEWER)}
        broken = {u: why for u, why in self.reasons.items() if why and not why.startswith((FEWER, UNUSUAL))}
        if broken:
            places = self._named(broken, "")
            yield Problem("broken", "Scans have damaged or truncated slices", again, places)
        if fewer:
            yield Problem("missing", "Scans lack slices", again, self._named(fewer, FEWER))
        repeated = {p: why for p, why in self.wrong.items() if "as well; keep one" in why}
        if repeated:
            places = {inside(path, self.root): why for path, why in repeated.items()}
            yield Problem("repeated", "Series lie in several folders", "Keep one of each.", places)
        if other := {p: why for p, why in self.wrong.items() if p not in repeated}:
            places = {inside(path, self.root): why for path, why in other.items()}
            yield Problem("broken", "Folders hold DICOM that cannot be read", again, places)
        absent = [scan for uid, scan in self.known.items() if uid not in self.folders]
        if absent:
            places = {f"{scan.patient_id} {scan.series_uid}": "" for scan in absent}
            remedy = "Download the collection, or these patients alone. All else works with the scans that are there."
            yield Problem("missing", "Scans are not there", remedy, places)
        strange = {self._place(uid): uid for uid in self.folders if uid not in self.known}
        if strange:
            remedy = "They are left out by the other commands, unless --outlines xml is chosen."
            yield Problem("unknown", "CT is of no series in LIDC's database", remedy, strange)
        yield from self._xml()
        if unusual := {u: why for u, why in self.reasons.items() if why.startswith(UNUSUAL)}:
            remedy = "All slices are there, so it is published like this; data prepare names the scan and goes on."
            yield Problem("note", "Scans are no even stack of slices", remedy, self._named(unusual, UNUSUAL))

    def _xml(self) -> Iterator[Problem]:
        if self.unreadable:
            places = {inside(path, self.root): why for path, why in self.unreadable.items()}
            yield Problem("broken", "Annotations cannot be read", "Download LIDC-XML-only again.", places)
        lacking = [uid for uid in self.usable if uid not in self.annotated]
        if lacking:
            places = {self._place(uid): "" for uid in lacking}
            remedy = (
                "Unpack LIDC-XML-only anywhere in DIR. Only --outlines xml and --truth lidc need it; all else takes "
                "outlines from LIDC's database."
            )
            yield Problem("missing", "Scans have no XML of their readers", remedy, places)

    def _named(self, reasons: Mapping[str, str], begin: str) -> dict[str, str]:
        folders = self.folders
        # messages name files by their whole path: here the folder stands before them
        return {
            self._place(uid): why.removeprefix(begin).replace(f"{folders[uid]}{os.sep}", "")
            for uid, why in reasons.items()
        }

    def _place(self, uid: str) -> str:
        """The folder of a series, and its UID where others are there too."""
        folder = inside(self.folders[uid], self.root)
        return f"{folder}/{uid}" if self.shared[self.folders[uid]] > 1 else folder

    @cached_property
    def shared(self) -> Counter[Path]:
        """Folder → number of series in it."""
        return Counter(self.folders.values())
