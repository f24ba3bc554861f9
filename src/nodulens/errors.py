"""The errors that nodulens raises on purpose.

Every one says what is wrong, where, and what to do next; the command line prints the message alone
and exits with 2 (bad input) for anything below :class:`InputError`, with 1 for the rest::

    NodulensError
    ├── InputError                 something the user gave cannot be used
    │   ├── NotFound               no such file or folder
    │   ├── UnreadableFile         truncated, wrong suffix, not an image, header and data disagree
    │   ├── UnsafeArchive          a zip member that leaves its folder, is a link, or unpacks too large
    │   ├── NoSeries               nothing in here is a CT series
    │   ├── SeveralSeries          more than one CT series and no choice made
    │   ├── SeveralRois            more than one region of interest and no choice made
    │   ├── NotCT                  another modality, or a localizer
    │   ├── BadGeometry            gaps, duplicates, one slice, impossible spacing or position
    │   │   └── MixedSeries        slices of several scans, reconstructions or patients under one series UID
    │   ├── BadValues              NaN, infinities, or numbers that cannot be Hounsfield units
    │   ├── NoLungs                no lungs found in the scan
    │   ├── BadPrompt              a point, box or mask outside the scan, or empty
    │   │   └── NoEnd              an outline that grows beyond what a nodule can be
    │   ├── BadOption              an option value that is not allowed, or an output that is in the way
    │   │   └── CannotWrite        a folder that is read-only, full or in use by another run, or too long a name
    │   ├── TooLarge               more memory is needed than there is
    │   └── PatientOverlap         a patient in both training and test set
    ├── CannotSend                 an archive does not answer, or lets nothing be stored
    ├── MissingExtra               an optional dependency is not installed
    ├── MissingWeights             a model file is missing
    └── CorruptWeights             a model file does not match its card
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NodulensError(Exception):
    """Base of every error raised on purpose. ``str(error)`` is a sentence for a person."""


class InputError(NodulensError):
    """Something the user gave cannot be used; the command line exits with 2."""


class NotFound(InputError):
    """No such file or folder."""


class UnreadableFile(InputError):
    """A file is truncated, has the wrong suffix, is no image, or its header and data disagree."""


class UnsafeArchive(InputError):
    """A zip member leaves its folder, is a link, or would unpack beyond the limit."""


class NoSeries(InputError):
    """Nothing in the given place is a CT series."""


class SeveralSeries(InputError):
    """More than one CT series and no choice made.

    Attributes:
        choices: the series UIDs to choose from, the recommended one first.
    """

    def __init__(self, message: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.choices = choices


class SeveralRois(InputError):
    """A file outlines more than one region of interest and no choice was made.

    Attributes:
        choices: names, or numbers, to choose from.
    """

    def __init__(self, message: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.choices = choices


class NotCT(InputError):
    """The image is of another modality, or is a localizer."""


class BadGeometry(InputError):
    """Gaps, duplicates, a single slice, or impossible spacing or position."""


class MixedSeries(BadGeometry):
    """Slices of several scans, reconstructions or patients carry one series UID; the message lists the groups."""


class BadValues(InputError):
    """NaN, infinities, or numbers that cannot be Hounsfield units."""


class NoLungs(InputError):
    """No lungs could be found in the scan."""


class BadPrompt(InputError):
    """A point, box or mask prompt is outside the scan or empty."""


class NoEnd(BadPrompt):
    """At a prompt an outline grows beyond what a nodule can be: it leaks into what is no nodule."""


class BadOption(InputError):
    """An option value is not allowed, or an output is in the way."""


class CannotWrite(BadOption):
    """An output cannot be written: its folder is read-only, full or in use by another run, or its name is too long."""


class TooLarge(InputError):
    """What was given needs more memory than there is."""


class NoTestPatients(BadOption):
    """A run has no test patients in a material, so its networks cannot be evaluated on it."""


class PatientOverlap(InputError):
    """A patient is in both the training and the test set.

    Attributes:
        patients: all of them, sorted; the message names the first few.
    """

    def __init__(self, message: str, patients: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.patients = patients


class CannotSend(NodulensError):
    """An archive does not answer, rejects the association, or lets nothing be stored."""


class MissingExtra(NodulensError):
    """An optional dependency is not installed.

    Args:
        extra: the name of the extra, as in ``pip install 'nodulens[extra]'``.
        package: the package that could not be imported.
    """

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'nodulens[{extra}]'")
        self.extra = extra


class MissingWeights(NodulensError):
    """A model file is missing; the message has the command that trains it."""


class CorruptWeights(NodulensError):
    """A model file does not match the hash on its card."""


_PACKAGE = Path(__file__).resolve().parent
# What the system says of a place that was named, rather than of a fault in a program. Not every system has them all.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_PLACE_NAMES = (
    "EACCES EPERM EISDIR EEXIST ENOTEMPTY ELOOP ENAMETOOLONG EINVAL EIO ENXIO ENODEV EBUSY ETXTBSY EXDEV ESTALE"
)
_PLACES = frozenset(getattr(errno, name, None) for name in _PLACE_NAMES.split())
_FULL = frozenset(getattr(errno, name, None) for name in ("EROFS", "ENOSPC", "EDQUOT", "EFBIG"))
# Damaged, truncated or nested beyond measure, as the standard library says it.
_DAMAGED = (UnicodeError, json.JSONDecodeError, RecursionError, EOFError, struct.error, zlib.error)


def as_input_error(error: BaseException, *, writing: Path | None = None) -> InputError | None:
    """The one place that decides which errors of others are the input's: those, as one of ours; else None.

    Args:
        error: what was raised.
        writing: the place that was written to, where that is known.
    """
    match error:
        case InputError():
            return error
        case MemoryError():
            return TooLarge("More memory is needed than there is; give a smaller scan, or use a larger machine.")
        case OSError():
            return _of_system(error, writing)
        case _ if isinstance(error, _DAMAGED):
            return UnreadableFile(f"A file is damaged, or no text in UTF-8 where one is expected ({_kind(error)}).")
        case _:
            return None


@contextmanager
def training_installed() -> Iterator[None]:
    """Around imports of what the extra "train" brings.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra("train", error.name or "torch") from error


@contextmanager
def input_errors(writing: Path | None = None) -> Iterator[None]:
    """Raise what :func:`as_input_error` says in place of the errors of others that are the input's.

    Args:
        writing: where the block writes: only what the system says of it is taken for the input's.
    """
    try:
        yield
    except NodulensError:
        raise
    except Exception as error:
        ours = as_input_error(error, writing=writing)
        if ours is None or (writing is not None and not isinstance(ours, CannotWrite)):
            raise
        raise ours from error


def _of_system(error: OSError, writing: Path | None) -> InputError | None:
    if error.errno is None or error.errno not in (*_ABSENT, *_PLACES, *_FULL):
        return None
    named = error.filename if isinstance(error.filename, str | bytes) else None
    place = Path(os.fsdecode(named)) if named is not None else writing
    if place is not None and place.is_absolute() and place.is_relative_to(_PACKAGE):
        return None  # the package itself is broken
    sentence = f"{place or 'The output'}: {os.strerror(error.errno)}"
    written = writing is not None and (place is None or place.is_relative_to(writing) or writing.is_relative_to(place))
    if written or error.errno in _FULL:
        return CannotWrite(
            f"{place or 'The output'} cannot be written: {os.strerror(error.errno)}. Choose another place."
        )
    if error.errno in _ABSENT:
        return NotFound(f"{sentence}. Check the path.")
    return UnreadableFile(f"{sentence}. Check the path and who may read it.")


def _kind(error: BaseException) -> str:
    """The kind of the error; its message may repeat content of the file."""
    return type(error).__name__
