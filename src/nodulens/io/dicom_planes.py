"""What a DICOM header says of each image of its file, as planes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataset import Dataset

from nodulens.core.volume import SliceRef
from nodulens.errors import UnreadableFile
from nodulens.io.dicom_header import PIXEL_DATA, Header, group_value, groups_of, harmless, text
from nodulens.io.plane import Origin, PixelLayout, Plane

CT_IMAGES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
# Secondary Capture and its multi-frame kin: screenshots and dose reports.
PICTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"
MAX_THICKNESS_MM = 100.0


def planes_of(header: Header) -> Iterator[Plane]:
    """The images of one file, from plain attributes or from the functional groups of a multi-frame one.

    Raises:
        UnreadableFile: a CT image without a size.
        one of :data:`nodulens.io.dicom_header.FAULTS`: a value that is needed is damaged.
    """
    path, data = header.path, header.data
    if "Rows" not in data or "Columns" not in data:
        if header.pixels or (data.get("Modality") == "CT" and header.sop_class in CT_IMAGES):
            raise UnreadableFile(f"{path} is an image whose header lacks Rows or Columns; export or copy it again.")
        return
    frames = int(data.get("NumberOfFrames") or 1)
    multi = frames > 1 or "PerFrameFunctionalGroupsSequence" in data
    # Frames without positions of their own are a film, which is one plane here.
    places = len(data.get("PerFrameFunctionalGroupsSequence") or [])
    film = multi and places != frames
    colour = int(data.get("SamplesPerPixel") or 1) != 1
    kind = text(data.get("SOPClassUID"))
    captured = kind.startswith(PICTURE_CLASSES)
    localizer = "LOCALIZER" in (data.get("ImageType") or [])
    aside = "localizer" if localizer else "picture" if film or colour or captured else ""
    uid, number = text(data.get("SOPInstanceUID")), _instance_number(data)
    pixels = None if aside else _layout(header, frames)
    for frame in range(places if multi and not film else 1):
        groups = groups_of(data, frame)
        yield Plane(
            path=path,
            frame=frame if multi else None,
            ref=SliceRef(uid, frame + 1 if multi else number),
            size=(int(data.Rows), int(data.Columns)),
            position=_numbers(group_value(groups, "PlanePositionSequence", "ImagePositionPatient"), 3),
            cosines=_numbers(group_value(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            spacing=_numbers(group_value(groups, "PixelMeasuresSequence", "PixelSpacing"), 2),
            thickness_mm=_thickness(groups),
            slope=_number(group_value(groups, "PixelValueTransformationSequence", "RescaleSlope")),
            intercept=_number(group_value(groups, "PixelValueTransformationSequence", "RescaleIntercept")),
            origin=_origin(header, groups),
            pixels=pixels,
            padding=None if aside else _padding(data),
            aside=aside,
            sop_class=kind,
        )


def _origin(header: Header, groups: Sequence[Dataset]) -> Origin:
    data = header.data
    acquisition = harmless(lambda: group_value(groups, "FrameContentSequence", "FrameAcquisitionNumber"))
    if acquisition is None:
        acquisition = harmless(lambda: data.get("AcquisitionNumber"))
    return Origin(
        modality=text(data.get("Modality")),
        patient=header.patient,
        study_uid=text(data.get("StudyInstanceUID")),
        frame_of_reference_uid=text(data.get("FrameOfReferenceUID")),
        kernel=text(harmless(lambda: group_value(groups, "CTReconstructionSequence", "ConvolutionKernel"))),
        acquisition=text(acquisition),
    )


def _layout(header: Header, frames: int) -> PixelLayout | None:
    data, element = header.data, header.pixels
    if element is None or element.tag != PIXEL_DATA:
        return None
    tables = [data.get(key) for key in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    return PixelLayout(
        syntax=header.syntax,
        at=element.at,
        length=element.length,
        deflated_at=header.deflated_at,
        held=element.held,
        frames=frames,
        bits_allocated=int(data.BitsAllocated),
        bits_stored=int(data.get("BitsStored") or data.BitsAllocated),
        signed=int(data.PixelRepresentation) == 1,
        photometric=text(data.get("PhotometricInterpretation")),
        vr=element.vr,
        offsets=(tables[0], tables[1]) if all(isinstance(table, bytes) for table in tables) else None,
    )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count:
        raise ValueError(f"{count} numbers expected, {len(numbers)} found")
    return numbers


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _instance_number(data: Dataset) -> int | None:
    number = harmless(lambda: int(data.InstanceNumber))
    return number if number is not None and abs(number) < 2**31 else None


def _thickness(groups: Sequence[Dataset]) -> float | None:
    """Nominal slice thickness in mm; None where it is missing, no number, or impossible."""
    value = harmless(lambda: _number(group_value(groups, "PixelMeasuresSequence", "SliceThickness")))
    return value if value is not None and math.isfinite(value) and 0 < value <= MAX_THICKNESS_MM else None


def _padding(data: Dataset) -> tuple[int, int] | None:
    """The stored values of pixels outside the field of view, as a range with both ends."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return None
    bits = int(data.BitsAllocated)
    signed = int(data.PixelRepresentation) == 1
    ends = []
    for value in (first, data.get("PixelPaddingRangeLimit", first)):
        # Some writers store −2000 as 63536 and the other way round: only the bits count.
        bare = int(value) % 2**bits
        ends.append(bare - 2**bits if signed and bare >= 2 ** (bits - 1) else bare)
    return min(ends), max(ends)
