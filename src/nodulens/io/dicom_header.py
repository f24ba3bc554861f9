"""DICOM headers, read within limits. What no CT needs of them is skipped unread."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydicom.charset import default_encoding, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from nodulens.core.volume import Patient
from nodulens.errors import UnreadableFile
from nodulens.io.dicom_stream import MAX_HEADER_BYTES, DeflatedRestError, DicomStream, opened

PIXEL_DATA = 0x7FE00010
# The records of a DICOMDIR, which may be many and are not read.
DIRECTORY_GROUP = 0x0004
# What follows the header: float, double and integer pixels.
PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))
STUDY_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
"""What objects derived from a series take over from it."""
KEYWORDS = (
    *STUDY_KEYWORDS,
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "SeriesDescription",
    "Manufacturer",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "InstanceNumber",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "FrameContentSequence",
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "CTReconstructionSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
TAGS: list[BaseTag | int] = [tag for tag in map(tag_for_keyword, KEYWORDS) if tag is not None]
# What pydicom raises when a damaged value is looked at.
FAULTS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


class PixelElement(NamedTuple):
    """The element that ends a header; ``length`` is None where it comes in fragments."""

    tag: int
    vr: str
    length: int | None
    at: int
    held: int


@dataclass(frozen=True, eq=False)
class Header:
    """Everything of a file before its pixels that a CT needs.

    Attributes:
        path: the file.
        data: the elements.
        syntax: UID of the transfer syntax; "" where the file does not say.
        deflated_at: offset of a deflated data set in the file; None where none is.
        pixels: the element that follows the header; None where there is none.
        notes: what was put right.
        cut: the file ends within it, in an element or a list.
    """

    path: Path
    data: Dataset
    syntax: str
    deflated_at: int | None
    pixels: PixelElement | None
    notes: tuple[str, ...]
    cut: bool

    @property
    def sop_class(self) -> str:
        """The class of the file: of the media storage directory in a DICOMDIR, else of its object."""
        meta = getattr(self.data, "file_meta", Dataset())
        return text(meta.get("MediaStorageSOPClassUID") or self.data.get("SOPClassUID"))

    @cached_property
    def patient(self) -> Patient:
        """Who was scanned."""
        data = self.data
        birth_date = text(harmless(lambda: data.get("PatientBirthDate")))
        return Patient(text(data.get("PatientName")), text(data.get("PatientID")), birth_date)


class Wanted(NamedTuple):
    """What is read of a header: the tags of its outermost elements, and how many bytes at most."""

    tags: list[BaseTag | int]
    budget: int

    @classmethod
    def more(cls, *keywords: str, budget: int) -> Wanted:
        """What a CT needs, and elements of other objects."""
        return cls.only(*KEYWORDS, *keywords, budget=budget)

    @classmethod
    def only(cls, *keywords: str, budget: int) -> Wanted:
        """These elements alone."""
        return cls([tag for tag in map(tag_for_keyword, keywords) if tag is not None], budget)


OF_CT = Wanted(TAGS, MAX_HEADER_BYTES)


def read_header(path: Path, wanted: Wanted = OF_CT) -> Header | None:
    """The header of a file; None where it is not DICOM.

    Raises:
        UnreadableFile: damaged, or larger than may be.
    """
    try:
        return _parsed(path, wanted, force=False)
    except InvalidDicomError:
        pass
    except UnreadableFile:
        raise
    except Exception as error:  # pydicom lets whatever a damaged header causes through
        raise UnreadableFile(f"{path}: the DICOM header is damaged ({line(error)}); copy it again.") from error
    # Some archives store the data set without its preamble. It then begins with group 0002 or 0008.
    with path.open("rb") as file:
        if file.read(2) not in (b"\x02\x00", b"\x08\x00"):
            return None
    try:
        header = _parsed(path, wanted, force=True)
    except UnreadableFile:
        raise
    except Exception:  # two bytes promised nothing: this is simply another kind of file
        return None
    return header if "SOPClassUID" in header.data else None


def line(error: BaseException) -> str:
    """What an exception says, on one line, without what it quotes from the file: that may name the patient."""
    return re.sub(r"""(["']).*\1""", "…", " ".join(str(error).split())) or type(error).__name__


def text(value: Any) -> str:
    """A header value as text; the parts of a multiple one are separated by slashes."""
    many = isinstance(value, pydicom.multival.MultiValue)
    return "/".join(str(v) for v in value) if many else str(value if value is not None else "").strip()


def harmless(value: Callable[[], Any]) -> Any:
    """A value that is worth knowing but not needed: None where looking at it shows that it is damaged."""
    try:
        return value()
    except FAULTS:
        return None


def groups_of(header: Dataset, frame: int) -> list[Dataset]:
    """Where a frame's attributes may be, the most specific first."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    return [*per_frame[frame : frame + 1], *shared[:1], header]


def group_value(groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    """The first value of an attribute, in a sequence of one of the groups or in the group itself."""
    for group in groups:
        for holder in [*(group.get(sequence) or [])[:1], group]:
            if (value := holder.get(keyword)) not in (None, ""):
                return value
    return None


def _parsed(path: Path, wanted: Wanted, force: bool) -> Header:
    with opened(path, budget=wanted.budget) as stream:
        found: list[PixelElement] = []
        try:
            data = read_partial(stream, _stopper(stream, found), force=force, specific_tags=wanted.tags)
        except DeflatedRestError as deflated:
            return _deflated(path, deflated.at, wanted)
        syntax = text(data.file_meta.get("TransferSyntaxUID"))
    if not syntax:
        _, little = data.original_encoding
        syntax = str(ImplicitVRLittleEndian if little in (True, None) else ExplicitVRBigEndian)
    return Header(path, data, syntax, None, found[0] if found else None, _known_characters(data), stream.cut)


def _deflated(path: Path, at: int, wanted: Wanted) -> Header:
    with opened(path, at, wanted.budget) as stream:
        found: list[PixelElement] = []
        data = read_dataset(stream, False, True, stop_when=_stopper(stream, found), specific_tags=wanted.tags)
    syntax = str(DeflatedExplicitVRLittleEndian)
    return Header(path, data, syntax, at, found[0] if found else None, _known_characters(data), stream.cut)


def _stopper(stream: DicomStream, found: list[PixelElement]) -> Any:
    """A function that tells pydicom where to stop, and records the position."""

    def stops(tag: int, vr: str | None, length: int) -> bool:
        if tag not in PIXELS:
            return tag >> 16 == DIRECTORY_GROUP
        at = stream.tell()
        found.append(PixelElement(int(tag), vr or "OW", None if length == 0xFFFFFFFF else length, at, stream.size - at))
        return True

    return stops


def _known_characters(data: Dataset) -> tuple[str, ...]:
    """Read text as Latin where the header names a character set that DICOM does not know, and say so.

    pydicom takes any of Python's codecs for a character set: some of them are none, and raise when a name is read.
    """
    named = harmless(lambda: data.get("SpecificCharacterSet"))
    names = [str(name) for name in ([named] if isinstance(named, str) else named or [])]
    unknown = [name for name in names if _spelt(name) not in {_spelt(known) for known in python_encoding}]
    if not unknown:
        return ()
    data.set_original_encoding(*data.original_encoding, default_encoding)
    return ("The character set that the header names is unknown; its texts were read as Latin letters.",)


def _spelt(name: str) -> str:
    return name.upper().replace("_", " ").replace("-", " ").strip()
