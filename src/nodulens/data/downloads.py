"""What the official downloads of LIDC-IDRI and LUNA16 hold and where they are, and what a check of a copy says.

Nothing here is fetched. No list of hashes is published that this program could carry: Zenodo prints an MD5 beside each
file of a record, and TCIA's NBIA Data Retriever verifies checksums where that is chosen in it. So a check rests on
lengths, on the checksums within zip files, and on the LIDC database.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nodulens.data.luna16 import ANNOTATIONS, CANDIDATES, EXCLUDED, LUNGS, SERIES
from nodulens.io.archive import BROKEN

SCHEMA = "nodulens-data-check/1"
Kind = Literal["missing", "broken", "misplaced", "repeated", "unknown", "note"]
DataSet = Literal["lidc", "luna16"]
TITLES: Mapping[DataSet, str] = {"lidc": "LIDC-IDRI", "luna16": "LUNA16"}
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
"""Ends of the names of downloads that are not done."""
SUBSET_SCANS = (89,) * 8 + (88,) * 2
"""Scans in subset0 … subset9 of LUNA16; 888 in all."""
TABLE_ROWS: Mapping[str, int] = {
    ANNOTATIONS: 1186,
    EXCLUDED: 35192,
    SERIES: 888,
    **dict(zip(CANDIDATES, (551065, 754975), strict=True)),
}
"""Rows of LUNA16's tables, without headers."""
SLICE_BYTES = 512 * 512 * 2
"""Of one slice of either data set, unpacked."""


@dataclass(frozen=True)
class Download:
    """A file, or a page that leads to files.

    Attributes:
        name: of the file; of a page what it offers.
        url: of the file or page.
        holds: what is in it.
        page: ``url`` is a page for a person or a program of the archive, not a file.
    """

    name: str
    url: str
    holds: str
    page: bool = False

    @property
    def how(self) -> str:
        """What to type, or the page to open."""
        return self.url if self.page else f"curl -L -C - -o {self.name} {self.url}"


def _zenodo(record: int, name: str, holds: str) -> Download:
    return Download(name, f"https://zenodo.org/records/{record}/files/{name}", holds)


SCRIPT, MASKS, LONG_TABLE = "evaluationScript.zip", f"{LUNGS}.zip", "candidates_V2.zip"
FIRST, SECOND = 3723295, 4121926
"""Records of LUNA16 on Zenodo: the tables and subsets 0 to 6, and subsets 7 to 9."""
DOWNLOADS: Mapping[DataSet, tuple[Download, ...]] = {
    "luna16": (
        *(_zenodo(FIRST, f"subset{k}.zip", f"{SUBSET_SCANS[k]} scans") for k in range(7)),
        *(_zenodo(SECOND, f"subset{k}.zip", f"{SUBSET_SCANS[k]} scans") for k in range(7, 10)),
        _zenodo(FIRST, ANNOTATIONS, "the nodules"),
        _zenodo(FIRST, SCRIPT, f"{EXCLUDED} and {SERIES}, among others"),
        _zenodo(FIRST, LONG_TABLE, "candidates for the reduction of false positives"),
        _zenodo(FIRST, CANDIDATES[0], "the first version of these"),
        _zenodo(FIRST, MASKS, "masks of lungs and airways"),
    ),
    "lidc": (
        Download(
            "LIDC-IDRI",
            "https://www.cancerimagingarchive.net/collection/lidc-idri/",
            "CT with the readers' XML, by a manifest for the NBIA Data Retriever; the XML alone as LIDC-XML-only",
            page=True,
        ),
    ),
}
TERMS: Mapping[DataSet, str] = {
    "lidc": "CC BY 3.0. Cite Armato et al., Medical Physics 38:915, 2011, and doi.org/10.7937/K9/TCIA.2015.LO9QL9SX.",
    "luna16": "CC BY 4.0, from LIDC-IDRI. Cite Setio et al., Medical Image Analysis 42:1, 2017. Described on "
    "https://luna16.grand-challenge.org/Data/.",
}


@dataclass(frozen=True)
class Part:
    """A row of what is there.

    Attributes:
        here: usable.
        whole: in the official download.
        broken: there, but not usable; not in ``here``.
        gigabytes: on this disk, 10⁹ bytes.
    """

    name: str
    here: int
    whole: int
    broken: int = 0
    gigabytes: float = 0.0


@dataclass(frozen=True)
class Problem:
    """What is wrong with some files, and what to do.

    Attributes:
        kind: "note" for what does not make a copy incomplete.
        what: of all of them, as a sentence without its full stop.
        remedy: a sentence.
        places: file, folder or series → what is wrong with this one; "" where ``what`` says all.
    """

    kind: Kind
    what: str
    remedy: str
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataCheck:
    """A copy of a data set beside the official download.

    Attributes:
        data_set: which.
        scans, whole: usable scans here, and those of the official download.
        parts: table of what is there.
        problems: those that matter first.
        downloads: what brings the missing parts.
        missing_gigabytes: size of the missing scans once unpacked, 10⁹ bytes; None where it is not known which.
    """

    data_set: DataSet
    scans: int
    whole: int
    parts: tuple[Part, ...]
    problems: tuple[Problem, ...]
    downloads: tuple[Download, ...] = ()
    missing_gigabytes: float | None = None

    @property
    def complete(self) -> bool:
        """Whether all is there and usable."""
        return all(problem.kind == "note" for problem in self.problems)

    @property
    def share(self) -> float:
        """Usable scans of those of the official download, 0…1."""
        return self.scans / self.whole

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "share": round(self.share, 4),
            **asdict(self),
            "downloads": [{**asdict(one), "how": one.how} for one in self.downloads],
        }


# ---------------------------------------------------------------- archives


@dataclass(frozen=True)
class Archive:
    """A zip file.

    Attributes:
        files: name of a member without its folders → its unpacked size.
        problem: why it cannot be unpacked; "" if it can, as far as was checked.
    """

    path: Path
    files: Mapping[str, int]
    problem: str = ""


def archives(root: Path, thorough: bool) -> dict[str, Archive]:
    """The zip files of a folder by name. One that was cut lacks the list of members at its end.

    Args:
        thorough: also unpack each in memory and compare its checksums, which takes minutes for each.
    """
    return {path.name: _archive(path, thorough) for path in sorted(root.glob("*.zip")) if path.is_file()}


def _archive(path: Path, thorough: bool) -> Archive:
    try:
        with zipfile.ZipFile(path) as archive:
            files = {Path(m.filename).name: m.file_size for m in archive.infolist() if not m.is_dir()}
            damaged = archive.testzip() if thorough else None
    except NotImplementedError:
        return Archive(path, files)  # packed by a method that is not checked here
    except BROKEN as error:
        size = path.stat().st_size
        return Archive(path, {}, f"{size / 1e9:.2f} GB, {str(error) or type(error).__name__}")
    return Archive(path, files, f"{damaged} does not match its checksum" if damaged else "")


def archive_problems(found: Mapping[str, Archive], root: Path) -> Iterator[Problem]:
    """What is wrong with archives, and downloads that are not done."""
    if bad := {name: one.problem for name, one in found.items() if one.problem}:
        yield Problem("broken", "Archives are cut short or damaged", "Download them again.", bad)
    left = sorted(p.name for p in root.iterdir() if p.is_file() and p.name.endswith(UNFINISHED))
    if left:
        yield Problem("missing", "Downloads are not done", "Let them go on, or delete them.", dict.fromkeys(left, ""))


def in_order(problems: Iterator[Problem]) -> tuple[Problem, ...]:
    """Notes last, else in their order."""
    return tuple(sorted(problems, key=lambda problem: problem.kind == "note"))


def inside(path: Path, root: Path) -> str:
    """A path from the folder of the data, for people."""
    return path.relative_to(root).as_posix()
