"""Reading regions of interest from any file that has them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nodulens.errors import NotFound, UnreadableFile, input_errors
from nodulens.io import images
from nodulens.io.deidentify import shown_modality
from nodulens.io.dicom_header import FAULTS, Header, Wanted, line, read_header, text
from nodulens.io.files import check_regular
from nodulens.rois import contours, reports, segments
from nodulens.rois.masks import labels_of
from nodulens.rois.roi import RoiFile

KINDS = "a DICOM SEG, RTSTRUCT or SR, or a mask as MetaImage, NIfTI or NRRD"
KIND = Wanted.only("SOPClassUID", "SOPInstanceUID", "Modality", budget=512 * 2**20)
BESIDE = 500
"""Files beside a report among which its segmentation is looked for."""


@input_errors()
def read_rois(path: str | Path) -> RoiFile:
    """Read the regions of a DICOM SEG, RTSTRUCT or SR (TID 1500), or of a mask in MetaImage, NIfTI or NRRD.

    A report's segmentation is looked for beside it.

    Raises:
        NotFound: there is no such file, no region in it, or no segmentation beside the report.
        UnreadableFile: another kind of file, or a damaged one.
        BadGeometry: frames or voxels without a possible place.
        BadValues: a mask whose values are no labels.
    """
    path = Path(path)
    check_regular(path)
    format = images.sniff(path)
    if format is not None:
        return labels_of(path, format)
    kind, modality = _kind(path)
    if kind in segments.SOP_CLASSES:
        return segments.segments_of(_header(path, segments.WANTED))
    if kind == contours.SOP_CLASS:
        return contours.structures_of(_header(path, contours.WANTED))
    if kind.startswith(reports.SOP_CLASSES):
        return reports.reports_of(_header(path, reports.WANTED), cache(lambda uid: _segmentation(path, uid)))
    raise UnreadableFile(
        f"{path} is DICOM of modality {shown_modality(modality)}, which outlines nothing; give {KINDS}."
    )


def _kind(path: Path) -> tuple[str, str]:
    """SOP class and modality of a DICOM file.

    Raises:
        UnreadableFile: it is none, or damaged.
    """
    header = _header(path, KIND)
    try:
        return header.sop_class, text(header.data.get("Modality"))
    except FAULTS as error:
        raise UnreadableFile(f"{path}: the DICOM header is damaged ({line(error)}); copy it again.") from error


def _header(path: Path, wanted: Wanted) -> Header:
    """The header of a file that is there to its end.

    Raises:
        UnreadableFile: it is no DICOM, damaged, or was cut short, of which pydicom reads what is there.
    """
    header = read_header(path, wanted)
    if header is None:
        raise UnreadableFile(f"{path} is neither DICOM nor an image file; give {KINDS}.")
    if header.cut:
        raise UnreadableFile(f"{path}: the file ends early; copy or export it again.")
    return header


def _segmentation(report: Path, uid: str) -> RoiFile:
    """The segmentation of a UID among the files beside a report."""
    for path in sorted(report.parent.iterdir())[:BESIDE]:
        if path == report or not path.is_file() or path.name.startswith("."):
            continue
        try:
            known = text(_header(path, KIND).data.get("SOPInstanceUID")) == uid
        except (UnreadableFile, *FAULTS):
            continue  # what is damaged, or another kind of file, does not matter
        if known:
            return segments.segments_of(_header(path, segments.WANTED))
    raise NotFound(f"{report} refers to segmentation {uid}, which is not beside it; put both into one folder.")
