"""LIDC-IDRI as TCIA ships it: folders of DICOM with an XML file of the readers' annotations.

Beyond the database, the XML has the reader of each outline, nodules below 3 mm and non-nodules. Pixel size, thickness
and slices come from the CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nodulens.core.volume import Volume
from nodulens.data.lidc import LidcScan, NonNodule, Reading, SmallNodule, slice_index
from nodulens.data.outlines import Contour
from nodulens.data.ratings import RATINGS
from nodulens.errors import BadGeometry, NotFound, UnreadableFile
from nodulens.io.places import folders_below

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT = "LidcReadMessage"
SNIFFED_BYTES = 1024
LARGEST_INDEX = 2**15
"""The largest row or column of a pixel."""


@dataclass(frozen=True, eq=False)
class LidcXml:
    """One XML file.

    Attributes:
        series_uid, study_uid: of the CT it belongs to.
        readers: how many reading sessions it holds, those without a finding included.
        readings: nodules of 3 mm or more, reader by reader.
        small_nodules, non_nodules: points, reader by reader.
    """

    series_uid: str
    study_uid: str
    readers: int
    readings: tuple[Reading, ...]
    small_nodules: tuple[SmallNodule, ...]
    non_nodules: tuple[NonNodule, ...]


def read_xml(path: str | Path) -> LidcXml:
    """Read the annotations of one scan.

    A finding with ratings, or with an outline of more than one point, is a nodule of 3 mm or more; a single point
    without ratings is a nodule below 3 mm.

    Raises:
        NotFound: there is no such file.
        UnreadableFile: no XML, not LIDC's, or with parts missing or out of range.
    """
    from xml.etree import ElementTree

    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    try:
        return _message(ElementTree.parse(path).getroot())
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        message = f"{path} cannot be read as annotations of LIDC: {error}. Download it again from TCIA."
        raise UnreadableFile(message) from error


def read_folder(folder: str | Path, *, series: str | None = None) -> tuple[Volume, LidcScan]:
    """Read a scan as TCIA ships it, with its readers' annotations.

    Args:
        folder: of the DICOM files. The XML is looked for in it, below it and beside it.
        series: as for :func:`nodulens.io.read`, where there are several.

    Returns:
        the CT, and the scan; indices of the one are indices of the other.

    Raises:
        NotFound: no XML there is of this series.
        UnreadableFile: an XML of LIDC is broken.
        Others: as :func:`nodulens.io.read` and :func:`scan_of`.
    """
    from nodulens.io import read

    volume = read(folder, series=series)
    folder = Path(folder)
    files = [*xml_below(folder), *filter(_is_of_lidc, sorted(folder.resolve().parent.iterdir()))]
    found = {xml.series_uid: xml for xml in map(read_xml, files)}
    uid = volume.source.series_uid
    if uid not in found:
        others = f" (but of {', '.join(sorted(found))})" if found else ""
        raise NotFound(f"No XML of LIDC in, below or beside {folder} is of series {uid}{others}; put it there.")
    return volume, scan_of(found[uid], volume)


def scan_of(xml: LidcXml, volume: Volume) -> LidcScan:
    """Join the annotations of an XML with their CT.

    Raises:
        BadGeometry: the CT is no axial stack with square pixels that rises along z, or is of another series, or an
            outline lies on none of its slices.
    """
    geometry, source = volume.geometry, volume.source
    if source.series_uid != xml.series_uid:
        raise BadGeometry(f"The XML is of series {xml.series_uid}, the CT of {source.series_uid}; take a pair.")
    slice_mm, row_mm, column_mm = geometry.spacing_zyx
    if geometry.direction[2, 0] < 0.999 or abs(row_mm - column_mm) > 1e-3:
        raise BadGeometry("Outlines of LIDC are of axial slices with square pixels, rising along z; this CT is none.")
    z_mm = geometry.origin_lps[2] + np.arange(geometry.shape[0]) * slice_mm * geometry.direction[2, 0]
    marks = (*xml.small_nodules, *xml.non_nodules)
    marked = [c.z_mm for r in xml.readings for c in r.contours] + [m.z_mm for m in marks]
    if marked:
        slice_index(marked, z_mm)
    return LidcScan(
        series_uid=xml.series_uid,
        study_uid=xml.study_uid,
        patient_id=source.patient.patient_id if source.patient else "",
        pixel_mm=column_mm,
        slice_thickness_mm=source.slice_thickness_mm or slice_mm,
        z_mm=tuple(z_mm.tolist()),
        contrast=source.contrast,
        readings=xml.readings,
        small_nodules=xml.small_nodules,
        non_nodules=xml.non_nodules,
    )


def xml_below(folder: Path) -> list[Path]:
    """The XML files of LIDC's CT in a folder and below, in order of path, links followed and hidden ones passed over.

    Other XML, such as that of radiographs, is passed over, too.
    """
    return sorted(path for _, files in folders_below(folder) for path in files if _is_of_lidc(path))


def _is_of_lidc(file: Path) -> bool:
    """Whether a file starts as LIDC's XML of CT does; that of radiographs starts otherwise."""
    if file.suffix.lower() != ".xml" or not file.is_file():
        return False
    with file.open("rb") as opened:
        return f"<{ROOT}".encode() in opened.read(SNIFFED_BYTES)


def _message(root: Element) -> LidcXml:
    for element in root.iter():  # sites differ in case, and the namespace says nothing
        element.tag = element.tag.rpartition("}")[2].lower()
    if root.tag != ROOT.lower():
        raise ValueError(f"it is a {root.tag}, not a {ROOT}")
    header = root.find("responseheader")
    if header is None:
        raise ValueError("it has no ResponseHeader")
    sessions = root.findall("readingsession")
    readings: list[Reading] = []
    small: list[SmallNodule] = []
    none: list[NonNodule] = []
    for reader, session in enumerate(sessions):
        for finding in session.findall("unblindedreadnodule"):
            reading = _reading(finding, reader)
            points = np.concatenate([c.xy for c in reading.contours])
            if reading.ratings.any() or len(points) > 1:
                readings.append(reading)
            else:
                (x, y), z = points[0].tolist(), reading.contours[0].z_mm
                small.append(SmallNodule(reader, reading.id, z, (x, y)))
        for finding in session.findall("nonnodule"):
            ((x, y),) = _pixels(finding, "locus").tolist()
            none.append(NonNodule(reader, _text(finding, "nonnoduleid"), _z(finding), (x, y)))
    uids = _text(header, "seriesinstanceuid"), _text(header, "studyinstanceuid")
    return LidcXml(*uids, len(sessions), tuple(readings), tuple(small), tuple(none))


def _reading(finding: Element, reader: int) -> Reading:
    ratings = np.zeros(len(RATINGS), dtype=np.uint8)
    characteristics = finding.find("characteristics")
    if characteristics is not None and len(characteristics):  # some sites write it, and leave it empty, below 3 mm
        ratings[:] = [int(_text(characteristics, name.lower())) for name in RATINGS]
    contours = tuple(
        Contour(_z(roi), _text(roi, "inclusion").upper() == "TRUE", _pixels(roi, "edgemap"))
        for roi in finding.findall("roi")
    )
    if not contours:
        raise ValueError(f"the nodule {_text(finding, 'noduleid')!r} has no outline")
    return Reading(_text(finding, "noduleid"), ratings, contours, reader)


def _pixels(parent: Element, name: str) -> NDArray[np.int32]:
    """(n, 2) column and row of the points below an element, one at least."""
    xy = np.array([(int(_text(p, "xcoord")), int(_text(p, "ycoord"))) for p in parent.findall(name)])
    if not xy.size or np.abs(xy).max() > LARGEST_INDEX:
        raise ValueError(f"a {parent.tag} at z {_z(parent):g} mm has no points, or points that are no pixels")
    xy = xy.astype(np.int32)
    xy.setflags(write=False)
    return xy


def _z(parent: Element) -> float:
    z = float(_text(parent, "imagezposition"))
    if not np.isfinite(z):
        raise ValueError(f"a {parent.tag} lies at z {z}")
    return z


def _text(parent: Element, name: str) -> str:
    text = parent.findtext(name)
    if text is None:
        raise ValueError(f"a {parent.tag} has no {name}")
    return text.strip()
