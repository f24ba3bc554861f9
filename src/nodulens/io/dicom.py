"""DICOM: finding series among files, and decoding one into Hounsfield units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from nodulens.core.volume import AIR_HU, Patient, SliceRef, Source, Volume
from nodulens.errors import BadGeometry, BadValues, NotCT, UnreadableFile
from nodulens.io.stack import Gaps, Plane, Stack, arrange, assemble
from nodulens.io.values import check_hounsfield, outside_to_air

Progress = Callable[[int, int], None]

# Faster than gdcm on the same bytes, and stricter about truncated ones; gdcm decodes JPEG itself.
PREFERRED_DECODERS = ("pyjpegls", "pylibjpeg")
HOUNSFIELD_TYPES = ("", "HU", "US", "HU_MOD")
NO_CONTRAST = ("", "NO", "NONE", "N", "0")
# Secondary Capture and its multi-frame kin: screenshots and dose reports.
PICTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"
MAX_RESCALE = 1e6
# What pydicom raises when a damaged value is looked at.
HEADER_FAULTS = (
    AttributeError,
    BytesLengthException,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class DicomSeries:
    """One series as its headers tell it.

    Attributes:
        planes: its images, in the order of the files; empty where it holds none (reports, outlines).
        source: what a volume read from it will say about itself, but for slices and warnings.
    """

    uid: str
    modality: str
    rescale_type: str
    planes: tuple[Plane, ...]
    source: Source


def find_series(files: Iterable[Path]) -> tuple[tuple[DicomSeries, ...], tuple[Path, ...]]:
    """Read the headers of files and sort them into series.

    Returns:
        the series, in the order they were met, and the files that are not DICOM.

    Raises:
        UnreadableFile: a DICOM file whose header is damaged or ends early.
    """
    series: dict[str, DicomSeries] = {}
    others: list[Path] = []
    for path in files:
        header = _header(path)
        if header is None:
            others.append(path)
            continue
        try:
            if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                continue
            uid = str(header.SeriesInstanceUID)
            planes = tuple(_planes(path, header))
            known = series.get(uid) or _series(uid, header, planes)
        except HEADER_FAULTS as error:
            raise UnreadableFile(
                f"{path}: the DICOM header is damaged or ends early ({_line(error)}); export or copy it again."
            ) from error
        series[uid] = replace(known, planes=known.planes + planes)
    return tuple(series.values()), tuple(others)


def read_series(series: DicomSeries, gaps: Gaps = "error", progress: Progress | None = None) -> Volume:
    """Decode one series.

    Args:
        series: of modality CT.
        gaps: what to do about missing slices, as in :func:`nodulens.io.stack.arrange`.
        progress: called with files or frames done and their number.

    Raises:
        NotCT: another modality, or localizers and pictures only.
        BadGeometry: see :func:`nodulens.io.stack.arrange`; also two different images in one place.
        BadValues: no usable rescale, or values that cannot be HU.
        UnreadableFile: pixel data are truncated or cannot be decoded.
    """
    planes, left_out = scan_planes(series)
    warnings = list(left_out)
    stack = arrange(planes, gaps)
    warnings += stack.warnings
    warnings += check_rescale(series, planes)
    slices, doubles = _decode(stack, progress)
    if doubles:
        warnings.append(f"{doubles} images were stored twice; the copies were dropped.")
    hu = assemble(stack, slices)
    check_hounsfield(hu, f"Series {series.uid}")
    # A slice made between two others points at the nearer one.
    nearest = np.rint(stack.below + stack.share).astype(int)
    refs = tuple(stack.places[i][0].ref for i in nearest)
    return Volume(hu, stack.geometry, replace(series.source, slices=refs, warnings=tuple(warnings)))


def slice_readers(series: DicomSeries) -> tuple[Callable[[], Volume], ...]:
    """A function for each slice in order of position, that decodes it as a volume of one slice.

    Of slices that lie in one place the first stands for all; gaps are left and a tilt is not undone.

    Raises:
        NotCT, BadGeometry, BadValues: as :func:`read_series`, but for what pixels alone can tell.
    """
    planes, _ = scan_planes(series)
    check_rescale(series, planes)
    stack = arrange(planes, "interpolate")

    def read_slice(plane: Plane) -> Volume:
        hu = _hounsfield(_dataset(plane.path), plane)
        x, y, z = plane.position or (0.0, 0.0, 0.0)
        grid = replace(stack.geometry, shape=(1, *plane.size), origin_lps=(x, y, z))
        held = hu.astype(np.float32) if hu.dtype.kind == "f" else np.clip(hu, -32768, 32767).astype(np.int16)
        return Volume(held[None], grid, replace(series.source, slices=(plane.ref,)))

    return tuple(partial(read_slice, place[0]) for place in stack.places)


def scan_planes(series: DicomSeries) -> tuple[tuple[Plane, ...], tuple[str, ...]]:
    """The planes without the localizers and pictures among them, and a warning where there were some.

    Raises:
        NotCT: another modality, or nothing is left.
    """
    if series.modality != "CT":
        raise NotCT(f"Series {series.uid} is of modality {series.modality or 'unknown'}; nodulens reads chest CT only.")
    planes = tuple(plane for plane in series.planes if not plane.aside)
    others = Counter(plane.aside for plane in series.planes if plane.aside)
    listed = " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in others.items())
    if not planes:
        raise NotCT(f"Series {series.uid} holds nothing but {listed or 'no images'}; choose the scan itself.")
    return planes, (f"{listed} in the series left out.",) if listed else ()


def check_rescale(series: DicomSeries, planes: Sequence[Plane]) -> tuple[str, ...]:
    """A warning where rescale is missing.

    Raises:
        BadValues: it is missing in some images only, impossible, or leads to something other than HU.
    """
    if series.rescale_type not in HOUNSFIELD_TYPES:
        raise BadValues(f"Series {series.uid} holds {series.rescale_type}, not HU; choose the CT reconstruction.")
    missing = sum(plane.rescale is None for plane in planes)
    if 0 < missing < len(planes):
        raise BadValues(f"{missing} of {len(planes)} images have no rescale slope and intercept; export them again.")
    for plane in planes:
        slope, intercept = plane.rescale or (1.0, 0.0)
        # Written so that NaN fails as well.
        if not (0 < abs(slope) < MAX_RESCALE and abs(intercept) < MAX_RESCALE):
            raise BadValues(f"{plane.path.name} has an impossible rescale, {slope:g}, {intercept:g}; export it again.")
    return ("Rescale slope and intercept are missing; stored values were taken as HU.",) if missing else ()


def _header(path: Path) -> Dataset | None:
    """Everything before the pixels; None where the file is not DICOM."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        pass
    except Exception as error:  # pydicom lets whatever a damaged header causes through
        raise UnreadableFile(f"{path}: the DICOM header is damaged ({_line(error)}); copy it again.") from error
    # Some archives store the data set without its preamble. It then begins with group 0002 or 0008.
    with path.open("rb") as file:
        if file.read(2) not in (b"\x02\x00", b"\x08\x00"):
            return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception:  # two bytes promised nothing: this is simply another kind of file
        return None
    return header if "SOPClassUID" in header else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _series(uid: str, header: Dataset, planes: Sequence[Plane]) -> DicomSeries:
    kernel = header.get("ConvolutionKernel") or _group_value([header], "CTReconstructionSequence", "ConvolutionKernel")
    agent = header.get("ContrastBolusAgent")
    contrast = None if agent is None else str(agent).strip().upper() not in NO_CONTRAST
    source = Source(
        format="dicom",
        series_uid=uid,
        study_uid=_text(header.get("StudyInstanceUID")) or None,
        frame_of_reference_uid=_text(header.get("FrameOfReferenceUID")) or None,
        description=_text(header.get("SeriesDescription")),
        manufacturer=_text(header.get("Manufacturer")),
        kernel=_text(kernel) or None,
        slice_thickness_mm=planes[0].thickness_mm if planes else None,
        contrast=True if "ContrastBolusAgentSequence" in header else contrast,
        patient=Patient(
            _text(header.get("PatientName")), _text(header.get("PatientID")), _text(header.get("PatientBirthDate"))
        ),
    )
    rescale_type = _text(
        header.get("RescaleType") or _group_value(_groups(header, 0), "PixelValueTransformationSequence", "RescaleType")
    )
    return DicomSeries(uid, _text(header.get("Modality")), rescale_type.upper(), (), source)


def _text(value: Any) -> str:
    """A header value in words; the parts of a multiple one stand between slashes."""
    many = isinstance(value, pydicom.multival.MultiValue)
    return "/".join(str(v) for v in value) if many else str(value if value is not None else "").strip()


def _planes(path: Path, header: Dataset) -> Iterator[Plane]:
    """The images of one file, from plain attributes or from the functional groups of a multi-frame one."""
    if "Rows" not in header:
        return
    multi = int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header
    # Frames without a word each on where they lie are a film: one plane stands for them.
    places = len(header.get("PerFrameFunctionalGroupsSequence") or [])
    film = multi and places != int(header.get("NumberOfFrames") or 1)
    colour = int(header.get("SamplesPerPixel", 1)) != 1
    captured = str(header.get("SOPClassUID", "")).startswith(PICTURE_CLASSES)
    localizer = "LOCALIZER" in (header.get("ImageType") or [])
    aside = "localizer" if localizer else "picture" if film or colour or captured else ""
    uid, number = str(header.get("SOPInstanceUID", "")), header.get("InstanceNumber")
    for frame in range(places if multi and not film else 1):
        groups = _groups(header, frame)
        slope = _group_value(groups, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = _group_value(groups, "PixelValueTransformationSequence", "RescaleIntercept")
        thickness = _group_value(groups, "PixelMeasuresSequence", "SliceThickness")
        yield Plane(
            path=path,
            frame=frame if multi else None,
            ref=SliceRef(uid, frame + 1 if multi else None if number is None else int(number)),
            size=(int(header.Rows), int(header.Columns)),
            position=_numbers(_group_value(groups, "PlanePositionSequence", "ImagePositionPatient"), 3),
            cosines=_numbers(_group_value(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            spacing=_numbers(_group_value(groups, "PixelMeasuresSequence", "PixelSpacing"), 2),
            thickness_mm=None if thickness is None else float(thickness),
            rescale=None if slope is None or intercept is None else (float(slope), float(intercept)),
            padding=None if aside else _padding(header),
            aside=aside,
        )


def _groups(header: Dataset, frame: int) -> list[Dataset]:
    """Where a frame's attributes may stand, the nearest first."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    return [*per_frame[frame : frame + 1], *shared[:1], header]


def _group_value(groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    """The first value of an attribute, in a sequence of one of the groups or in the group itself."""
    for group in groups:
        for holder in [*(group.get(sequence) or [])[:1], group]:
            if holder.get(keyword) not in (None, ""):
                return holder.get(keyword)
    return None


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count:
        raise ValueError(f"{count} numbers expected, {len(numbers)} found")
    return numbers


def _decode(stack: Stack, progress: Progress | None) -> tuple[NDArray[np.float32] | NDArray[np.int16], int]:
    """HU (places, rows, columns), and how many copies were found among the places."""
    planes = [plane for place in stack.places for plane in place]
    whole = all(p.rescale is None or all(v == int(v) for v in p.rescale) for p in planes)
    shape = (len(stack.places), *planes[0].size)
    opened: dict[Path, Dataset] = {}

    def decoded(plane: Plane) -> NDArray[Any]:
        data = opened.get(plane.path) or _dataset(plane.path)
        if plane.frame is not None:
            opened[plane.path] = data
        return _hounsfield(data, plane)

    done = 0
    slices: NDArray[np.float32] | NDArray[np.int16] = np.empty(0, dtype=np.int16)
    for z, place in enumerate(stack.places):
        images = [decoded(plane) for plane in place]
        done += len(place)
        if any(not np.array_equal(images[0], other) for other in images[1:]):
            files = ", ".join(plane.path.name for plane in place[:3])
            raise BadGeometry(
                f"{len(place)} different images lie in one place ({files}): the series holds several acquisitions. "
                "Export one of them."
            )
        if z == 0:
            # Memory is asked for once an image has shown that the header's size is no lie.
            slices = np.empty(shape, dtype=np.int16) if whole else np.empty(shape, dtype=np.float32)
        slices[z] = np.clip(images[0], -32768, 32767) if whole else images[0]
        if progress:
            progress(done, len(planes))
    return slices, len(planes) - len(stack.places)


def _dataset(path: Path) -> Dataset:
    try:
        data = pydicom.dcmread(path, force=True)
        data.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
        return data
    except Exception as error:  # as in _header
        raise UnreadableFile(f"{path} cannot be read ({_line(error)}); copy it again.") from error


def _hounsfield(data: Dataset, plane: Plane) -> NDArray[Any]:
    """One image in HU, int32 or float32 (rows, columns); what the scanner did not see is air."""
    stored = _stored(data, plane)
    slope, intercept = plane.rescale or (1.0, 0.0)
    if slope == int(slope) and intercept == int(intercept):
        hu: NDArray[Any] = stored.astype(np.int32)
        hu *= int(slope)
        hu += int(intercept)
    else:
        hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    # Anonymisers leave a padding value of 0 where 0 is water: what tissue has too cannot mean "not seen".
    if plane.padding and not any(-900 < v * slope + intercept < 3071 for v in plane.padding):
        low, high = plane.padding
        np.putmask(hu, (stored >= low) & (stored <= high), AIR_HU)
    outside_to_air(hu)
    return hu


def _padding(header: Dataset) -> tuple[int, int] | None:
    """The stored values that mean "not seen", as a range with both ends."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return None
    bits = int(header.BitsAllocated)
    signed = int(header.PixelRepresentation) == 1
    ends = []
    for value in (first, header.get("PixelPaddingRangeLimit", first)):
        # Some writers store −2000 as 63536 and the other way round: only the bits count.
        bare = int(value) % 2**bits
        ends.append(bare - 2**bits if signed and bare >= 2 ** (bits - 1) else bare)
    return min(ends), max(ends)


def _stored(data: Dataset, plane: Plane) -> NDArray[Any]:
    try:
        decoder = get_decoder(data.file_meta.TransferSyntaxUID)
        plugin = next((p for p in PREFERRED_DECODERS if p in decoder.available_plugins), "")
        image: NDArray[Any]
        image, _ = decoder.as_array(data, index=plane.frame or 0, raw=True, decoding_plugin=plugin)
    except Exception as error:  # each decoder has its own kinds
        raise UnreadableFile(
            f"{plane.path}: the pixel data are truncated or damaged ({_line(error)}); copy or export it again."
        ) from error
    if image.shape != plane.size:
        raise UnreadableFile(f"{plane.path}: {plane.size} pixels announced, {image.shape} found; export it again.")
    return image
