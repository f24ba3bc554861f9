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
    │   ├── NotCT                  another modality, or a localizer
    │   ├── BadGeometry            gaps, duplicates, one slice, impossible spacing or position
    │   │   └── MixedSeries        slices of several scans, reconstructions or patients under one series UID
    │   ├── BadValues              NaN, infinities, or numbers that cannot be Hounsfield units
    │   ├── NoLungs                no lungs found in the scan
    │   ├── BadPrompt              a point, box or mask outside the scan, or empty
    │   ├── BadOption              an option value that is not allowed, or an output that is in the way
    │   └── PatientOverlap         a patient would both teach a model and judge it
    ├── MissingExtra               an optional dependency is not installed
    ├── MissingWeights             a model file is not there
    └── CorruptWeights             a model file does not match its card
"""

from __future__ import annotations


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
    """A point, box or mask prompt lies outside the scan or is empty."""


class BadOption(InputError):
    """An option value is not allowed, or an output is in the way."""


class NoTestPatients(BadOption):
    """A run left out nobody of a material: its networks cannot be judged on it."""


class PatientOverlap(InputError):
    """A patient would both teach a model and judge it.

    Attributes:
        patients: all of them, sorted; the message names the first few.
    """

    def __init__(self, message: str, patients: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.patients = patients


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
    """A model file is not there; the message holds the line that makes it."""


class CorruptWeights(NodulensError):
    """A model file does not match the hash on its card."""
