"""DICOM: finding series among files, and decoding one into Hounsfield units."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import MediaStorageDirectoryStorage

from nodulens.core.volume import AIR_HU, SliceRef, Source, StoredImage, Study, Volume
from nodulens.errors import BadGeometry, BadValues, NotCT, UnreadableFile
from nodulens.io.deidentify import shown_modality, shown_quantity
from nodulens.io.dicom_header import (
    FAULTS,
    STUDY_KEYWORDS,
    Header,
    group_value,
    groups_of,
    harmless,
    line,
    read_header,
    text,
)
from nodulens.io.dicom_planes import planes_of
from nodulens.io.pixels import check_pixels, stored_images
from nodulens.io.plane import Plane
from nodulens.io.same_scan import check_same_scan
from nodulens.io.spacing import Gaps
from nodulens.io.stack import Stack, Voxels, arrange, assemble, decoded, room_for
from nodulens.io.values import BEYOND_HU, check_hounsfield, outside_to_air

Progress = Callable[[int, int], None]

HOUNSFIELD_TYPES = ("", "HU", "US", "HU_MOD")
HOUNSFIELD_WORDS = ("HOUNSFIELD", "HOUNSFIELDUNIT", "HOUNSFIELDUNITS")
ALIKE = 0.8
NO_CONTRAST = ("NO", "NONE", "N", "0")
# CT has 1, or some hundredths where writers spread HU over 16 bits; and −1024, −8192 or −33,792.
MAX_SLOPE, MAX_INTERCEPT = 100.0, 100_000.0
INT16 = (-32768, 32767)


@dataclass(frozen=True)
class DicomSeries:
    """One series as its headers tell it.

    Attributes:
        planes: its images, in the order of the files; empty where it holds none (reports, outlines).
        source: what a volume read from it will say about itself, but for slices and warnings.
        notes: what was put right in its headers.
    """

    uid: str
    modality: str
    rescale_type: str
    planes: tuple[Plane, ...]
    source: Source
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """The slices of a series after all that headers can tell was checked.

    Attributes:
        planes: without localizers and pictures.
        stack: their order and grid.
        warnings: what was noticed and put right.
    """

    planes: tuple[Plane, ...]
    stack: Stack
    warnings: tuple[str, ...]


def find_series(files: Iterable[Path]) -> tuple[tuple[DicomSeries, ...], tuple[Path, ...]]:
    """Read the headers of files and sort them into series.

    Returns:
        the series, in the order they were met, and the files that are not DICOM.

    Raises:
        UnreadableFile: a DICOM file whose header is damaged or ends early.
    """
    series: dict[str, DicomSeries] = {}
    planes: dict[str, list[Plane]] = {}
    others: list[Path] = []
    for path in files:
        header = read_header(path)
        if header is None:
            others.append(path)
            continue
        try:
            if header.sop_class == MediaStorageDirectoryStorage:
                continue
            uid = str(header.data.SeriesInstanceUID)
            own = list(planes_of(header))
            known = planes.setdefault(uid, [])
            # The scan's attributes are those of a slice, not of a localizer beside it.
            if uid not in series or (all(p.aside for p in known) and not all(p.aside for p in own)):
                series[uid] = _series(uid, header, own)
            series[uid] = _noted(series[uid], header.notes)
        except FAULTS as error:
            raise UnreadableFile(
                f"{path}: the DICOM header is damaged or ends early ({line(error)}); export or copy it again."
            ) from error
        known += own
    return tuple(_complete(one, planes[uid]) for uid, one in series.items()), tuple(others)


def read_series(series: DicomSeries, gaps: Gaps = "error", progress: Progress | None = None) -> Volume:
    """Decode one series.

    Args:
        series: of modality CT.
        gaps: what to do about missing slices, as in :func:`nodulens.io.stack.arrange`.
        progress: called with files or frames done and their number.

    Raises:
        NotCT: another modality, or localizers and pictures only.
        MixedSeries: slices of several scans, see :func:`nodulens.io.same_scan.check_same_scan`.
        BadGeometry: see :func:`nodulens.io.stack.arrange`; also two different images in one place.
        BadValues: no usable rescale, or values that cannot be HU.
        UnreadableFile: pixel data are truncated or cannot be decoded.
    """
    scan = check_scan(series, gaps)
    stack = scan.stack
    room, doubles = _decoded(stack, progress)
    slices = decoded(stack, room)
    notes = [*scan.warnings]
    if doubles:
        notes.append(f"{doubles} images were stored twice; the copies were dropped.")
    notes += check_hounsfield(slices, f"Series {series.uid}", stack.geometry.spacing_zyx)
    outside_to_air(slices)
    # A slice made between two others points at the nearer one.
    nearest = np.rint(stack.below + stack.share).astype(int)
    refs: tuple[SliceRef, ...] = tuple(stack.places[i][0].ref for i in nearest)
    source = replace(series.source, slices=refs, study=_with_images(series.source.study, stack), warnings=tuple(notes))
    return Volume(assemble(stack, room), stack.geometry, source)


def slice_readers(series: DicomSeries) -> tuple[Callable[[], Volume], ...]:
    """A function for each slice in order of position, that decodes it as a volume of one slice.

    Of slices at one position the first is used; gaps are left and a tilt is not undone.

    Raises:
        NotCT, BadGeometry, BadValues, UnreadableFile: as :func:`read_series`, but for what pixels alone can tell.
    """
    planes, _ = _slices(series)
    stack = arrange(planes, "interpolate")

    def read_slice(plane: Plane) -> Volume:
        hu = _hounsfield(next(stored_images([plane])), plane)
        outside_to_air(hu[None])
        x, y, z = plane.position or (0.0, 0.0, 0.0)
        grid = replace(stack.geometry, shape=(1, *plane.size), origin_lps=(x, y, z))
        return Volume(_held(hu)[None], grid, replace(series.source, slices=(plane.ref,)))

    return tuple(partial(read_slice, place[0]) for place in stack.places)


def check_scan(series: DicomSeries, gaps: Gaps) -> Scan:
    """Check all that headers alone can tell of a series, in the order in which a person would ask.

    Raises:
        as :func:`read_series`, but for what pixels alone can tell.
    """
    planes, notes = _slices(series)
    check_pixels(planes)
    stack = arrange(planes, gaps)
    return Scan(planes, stack, (*notes, *stack.warnings))


def _slices(series: DicomSeries) -> tuple[tuple[Plane, ...], tuple[str, ...]]:
    """The planes of one scan in Hounsfield units, and what was noticed."""
    planes, left_out = scan_planes(series)
    return planes, (*series.notes, *left_out, *check_same_scan(planes), *check_rescale(series, planes))


def scan_planes(series: DicomSeries) -> tuple[tuple[Plane, ...], tuple[str, ...]]:
    """The planes without the localizers and pictures among them, and a warning where there were some.

    Raises:
        NotCT: another modality, or nothing is left.
    """
    if series.modality != "CT":
        modality = shown_modality(series.modality)
        raise NotCT(f"Series {series.uid} is of modality {modality}; nodulens reads chest CT only.")
    planes = tuple(plane for plane in series.planes if not plane.aside)
    others = Counter(plane.aside for plane in series.planes if plane.aside)
    listed = " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in others.items())
    if not planes:
        raise NotCT(f"Series {series.uid} holds nothing but {listed or 'no images'}; choose the scan itself.")
    return planes, (f"{listed} in the series left out.",) if listed else ()


def check_rescale(series: DicomSeries, planes: Sequence[Plane]) -> tuple[str, ...]:
    """A warning where rescale is missing.

    Raises:
        BadValues: it is missing in part, impossible, or leads to something other than HU.
    """
    if not _hounsfield_type(series.rescale_type):
        quantity = shown_quantity(series.rescale_type)
        raise BadValues(f"Series {series.uid} holds {quantity}, not HU; choose the CT reconstruction.")
    half = [plane for plane in planes if (plane.slope is None) != (plane.intercept is None)]
    missing = sum(plane.slope is None and plane.intercept is None for plane in planes)
    if half:
        there, lost = ("intercept", "slope") if half[0].slope is None else ("slope", "intercept")
        raise BadValues(
            f"{len(half)} of {len(planes)} images, first {half[0].path.name}, have a rescale {there} but no {lost}; "
            "export them again."
        )
    if 0 < missing < len(planes):
        raise BadValues(f"{missing} of {len(planes)} images have no rescale slope and intercept; export them again.")
    for plane in planes:
        slope, intercept = plane.rescale
        # Written so that NaN fails as well.
        if not (0 < abs(slope) <= MAX_SLOPE and abs(intercept) <= MAX_INTERCEPT):
            raise BadValues(f"{plane.path.name} has an impossible rescale, {slope:g}, {intercept:g}; export it again.")
    return ("Rescale slope and intercept are missing; stored values were taken as HU.",) if missing else ()


def _hounsfield_type(kind: str) -> bool:
    """Whether a rescale type means HU, as many ways as there are to spell it."""
    word = "".join(letter for letter in kind if letter.isalpha())
    return kind in HOUNSFIELD_TYPES or bool(difflib.get_close_matches(word, HOUNSFIELD_WORDS, cutoff=ALIKE))


def _complete(series: DicomSeries, planes: Sequence[Plane]) -> DicomSeries:
    """With its planes. Where they are of several modalities, CT among them, reading it as CT says so."""
    scanned = any(plane.origin.modality == "CT" and not plane.aside for plane in planes)
    return replace(series, planes=tuple(planes), modality="CT" if scanned else series.modality)


def _noted(series: DicomSeries, notes: tuple[str, ...]) -> DicomSeries:
    new = tuple(note for note in notes if note not in series.notes)
    return replace(series, notes=series.notes + new) if new else series


def _series(uid: str, header: Header, planes: Sequence[Plane]) -> DicomSeries:
    data, groups = header.data, groups_of(header.data, 0)
    origin = planes[0].origin if planes else None
    source = Source(
        format="dicom",
        series_uid=uid,
        study_uid=text(data.get("StudyInstanceUID")) or None,
        frame_of_reference_uid=text(data.get("FrameOfReferenceUID")) or None,
        description=text(harmless(lambda: data.get("SeriesDescription"))),
        manufacturer=text(harmless(lambda: data.get("Manufacturer"))),
        kernel=(origin.kernel or None) if origin else None,
        slice_thickness_mm=planes[0].thickness_mm if planes else None,
        contrast=_contrast(header),
        patient=header.patient,
        study=Study(tuple((word, text(harmless(partial(data.get, word)))) for word in STUDY_KEYWORDS)),
    )
    rescale_type = text(harmless(lambda: group_value(groups, "PixelValueTransformationSequence", "RescaleType")))
    return DicomSeries(uid, text(data.get("Modality")), rescale_type.upper(), (), source)


def _with_images(study: Study | None, stack: Stack) -> Study | None:
    """The study with the images that a stack was made of; of those in one place the first."""
    if study is None:
        return None
    planes = [place[0] for place in stack.places]
    first = planes[0]
    images = []
    for plane in planes:
        x, y, z = plane.position or (0.0, 0.0, 0.0)
        frame = None if plane.frame is None else plane.frame + 1
        images.append(StoredImage(plane.sop_class, plane.ref.sop_instance_uid, frame, (x, y, z)))
    return replace(
        study, images=tuple(images), size=first.size, cosines=first.cosines or (), spacing=first.spacing or ()
    )


def _contrast(header: Header) -> bool | None:
    """Whether contrast agent was given; None where the header does not say."""
    if harmless(lambda: header.data.get("ContrastBolusAgentSequence")):
        return True
    agent = text(harmless(lambda: header.data.get("ContrastBolusAgent"))).upper()
    return agent not in NO_CONTRAST if agent else None


def _decoded(stack: Stack, progress: Progress | None) -> tuple[Voxels, int]:
    """HU in the room of the stack, and how many copies were found among the places."""
    planes = [plane for place in stack.places for plane in place]
    whole = all(_whole(plane) for plane in planes)
    images = (_hounsfield(stored, plane) for stored, plane in zip(stored_images(planes), planes, strict=True))
    room: Voxels = np.empty(0, dtype=np.int16)
    done = 0
    for z, place in enumerate(stack.places):
        image = next(images)
        if not all([np.array_equal(image, next(images)) for _ in place[1:]]):
            files = ", ".join(plane.path.name for plane in place[:3])
            raise BadGeometry(
                f"{len(place)} different images lie in one place ({files}): the series holds several acquisitions. "
                "Export one of them."
            )
        if z == 0:
            # Memory is allocated once an image has confirmed the header's size.
            room = room_for(stack, whole=whole)
        decoded(stack, room)[z] = _held(image) if whole else image
        done += len(place)
        if progress:
            progress(done, len(planes))
    return room, len(planes) - len(stack.places)


def _whole(plane: Plane) -> bool:
    """Whether HU are whole numbers where stored values are."""
    return all(value == int(value) for value in plane.rescale)


def _held(hu: NDArray[Any]) -> Voxels:
    """HU as a volume holds them: float32 as they are, whole numbers in 16 bits."""
    return hu if hu.dtype in (np.int16, np.float32) else np.clip(hu, *INT16).astype(np.int16)


def _hounsfield(stored: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """One image in HU, float32 or integers (rows, columns), int16 if they fit; padding is air.

    Raises:
        BadValues: numbers that no scanner gives.
    """
    slope, intercept = plane.rescale
    if _whole(plane):
        ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
        fits = INT16[0] <= min(ends) <= max(ends) <= INT16[1]
        # 16 bits and the largest slope fit into 32. What fits in the end may overflow on the way, and is right.
        hu: NDArray[Any] = stored.astype(np.int16 if fits else np.int32 if stored.dtype.itemsize <= 2 else np.int64)
        if slope != 1:
            hu *= np.int64(slope).astype(hu.dtype)
        hu += np.int64(intercept).astype(hu.dtype)
    else:
        hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    # Anonymisers leave a padding value of 0 where 0 is water: a value that tissue has is no padding.
    if plane.padding and not any(-900 < v * slope + intercept < 3071 for v in plane.padding):
        low, high = plane.padding
        padded = stored == low if low == high else (stored >= low) & (stored <= high)
        np.copyto(hu, AIR_HU, where=padded)
    if float(np.iinfo(stored.dtype).max) * abs(slope) + abs(intercept) > BEYOND_HU and hu.max() > BEYOND_HU:
        raise BadValues(
            f"{plane.path.name}: up to {float(hu.max()):g} HU are beyond what any scanner gives; its rescale "
            f"({slope:g}, {intercept:g}) or its pixels are wrong. Export it again."
        )
    return hu
