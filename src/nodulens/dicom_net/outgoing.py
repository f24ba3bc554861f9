"""Files that can be sent, and what became of each."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

NOT_SENT = "not sent: the connection ended"
UNREADABLE = (ValueError, KeyError, AttributeError, NotImplementedError, TypeError, InvalidDicomError)
"""What pydicom raises of a damaged file, beside errors of the system."""

_MARK_AT, _MARK = 128, b"DICM"


@dataclass(frozen=True)
class Outgoing:
    """A DICOM file as its own header (PS3.10, group 0002) says.

    Attributes:
        path: where it lies.
        sop_class, sop_instance: UIDs of kind and instance.
        transfer_syntax: UID of how it is encoded.
    """

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str


@dataclass(frozen=True)
class Sent:
    """What became of a file.

    Attributes:
        path: of the file.
        stored: the archive says that it has it.
        words: why it has not, or what it warns of; empty where all is well.
    """

    path: Path
    stored: bool
    words: str = ""


def sorted_out(files: Iterable[Path]) -> tuple[list[Outgoing], list[Path]]:
    """The files that can be sent, and those that are no DICOM files with a header, in order."""
    found, others = [], []
    for path in files:
        one = outgoing(path)
        if one is None:
            others.append(path)
        else:
            found.append(one)
    return found, others


def outgoing(path: Path) -> Outgoing | None:
    """A file, by its header alone; None where it is no DICOM file, or a directory of a medium (DICOMDIR)."""
    try:
        with path.open("rb") as file:
            if file.read(_MARK_AT + len(_MARK))[_MARK_AT:] != _MARK:
                return None
        header = read_file_meta_info(path)
    except (*UNREADABLE, OSError, EOFError, struct.error):
        return None
    keywords = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
    kind, instance, syntax = (str(header.get(keyword) or "") for keyword in keywords)
    if not (kind and instance and syntax) or kind == MediaStorageDirectoryStorage:
        return None
    return Outgoing(path, kind, instance, syntax)


def unread(error: Exception) -> str:
    """Why a file could not be sent; without the message, which may repeat what the file says of a patient."""
    return f"not sent: it cannot be read ({type(error).__name__})"
