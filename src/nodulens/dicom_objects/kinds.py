"""The kinds of objects that there are, to check what was asked for before the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nodulens.errors import BadOption

Kind = Literal["seg", "sr", "sc", "rtstruct"]
KINDS: tuple[Kind, ...] = ("seg", "sr", "sc", "rtstruct")
USUAL: tuple[Kind, ...] = ("seg", "sr", "sc")


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds that there are not, and measurements without the segmentation that they refer to.

    Raises:
        BadOption: as said.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise BadOption(f"DICOM objects are {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}.")
    if "sr" in kinds and "seg" not in kinds:
        raise BadOption("The measurements (sr) refer to the segmentation: write seg and sr, or neither.")
