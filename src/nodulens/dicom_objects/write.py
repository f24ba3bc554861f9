"""Writing the objects of an analysis into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from nodulens.core.volume import Volume
from nodulens.dicom_objects.kinds import USUAL, check_kinds
from nodulens.dicom_objects.study import Context, context_of
from nodulens.errors import BadOption
from nodulens.io.atomic import whole_folder, write_whole
from nodulens.report.record import Report


def write_dicom(
    report: Report,
    ct: Volume,
    folder: str | Path,
    *,
    kinds: Sequence[str] = USUAL,
    pseudonym: str | None = None,
) -> Path:
    """Write a report as DICOM objects that belong to the study of the scan, all or none.

    They say who was scanned, as the scan does, unless a pseudonym is given.

    Args:
        report: of an analysis, with masks.
        ct: the volume as read from DICOM, the one that was analysed.
        folder: as for :func:`nodulens.io.atomic.whole_folder`: missing, or empty.
        kinds: "seg", segmentation; "sr", measurements, which refer to the segmentation; "sc", secondary captures;
            "rtstruct", contours.
        pseudonym: name and id of the patient in place of those of the scan; other data of patient and study are left
            out then, but for the UIDs.

    Returns:
        the folder, absolute.

    Raises:
        BadOption: the scan names no study, an unknown kind, "sr" without "seg", or the report has no masks.
        BadOption, CannotWrite: as :func:`nodulens.io.atomic.whole_folder`.
    """
    context = context_of(ct, datetime.now(), pseudonym)
    if isinstance(context, str):
        raise BadOption(f"No DICOM objects can be made: {context}.")
    check_kinds(kinds)
    with whole_folder(Path(folder)) as room:
        write_objects(report, context, kinds, room)
    return Path(folder).absolute()


def write_objects(report: Report, context: Context, kinds: Sequence[str], folder: Path) -> None:
    """Write objects into an existing folder, each under the name of its kind.

    Raises:
        BadOption: the report has no masks.
    """
    for name, made in _objects(report, context, kinds):
        write_object(made, folder / f"{name}.dcm")


def write_object(made: Dataset, path: Path) -> None:
    """Write an object into a file of its own, whole or not at all."""
    file = BytesIO()  # pydicom would not say which error of the system it met
    made.save_as(file, enforce_file_format=True)
    write_whole(path, file.getvalue())


def _objects(report: Report, context: Context, kinds: Sequence[str]) -> Iterator[tuple[str, Dataset]]:
    from nodulens.dicom_objects.captures import captures
    from nodulens.dicom_objects.measurements import measurement_report
    from nodulens.dicom_objects.segmentation import segmentation, segments_of
    from nodulens.dicom_objects.structures import structure_set

    if any(nodule.mask is None for nodule in report.nodules):
        raise BadOption("The report has no masks: one read from JSON cannot be written out.")
    segments = segments_of(report, context)
    shown = [segment for segment in segments if segment.masks]
    if shown and "seg" in kinds:
        seg = segmentation(shown, report, context)
        yield "seg", seg
        if "sr" in kinds:
            yield "sr", measurement_report(segments, seg, report, context)
    if shown and "rtstruct" in kinds:
        yield "rtstruct", structure_set(shown, report, context)
    if "sc" in kinds:
        for number, made in enumerate(captures(report, context), start=1):
            yield f"sc-{number:03d}", made
