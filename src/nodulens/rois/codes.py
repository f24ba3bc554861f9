"""Codes as files state them, in their older spellings too."""

from __future__ import annotations

from pydicom.dataset import Dataset

from nodulens.io.dicom_header import text

Code = tuple[str, str]
"""Value and coding scheme."""

ANATOMY: frozenset[Code] = frozenset({("123037004", "SCT"), ("T-D000A", "SRT"), ("91723000", "SCT")})
"""Anatomical structure."""
LUNG: frozenset[Code] = frozenset({("39607008", "SCT"), ("T-28000", "SRT")})
DIAMETERS: frozenset[Code] = frozenset(
    {("81827009", "SCT"), ("M-02550", "SRT"), ("103339001", "SCT"), ("G-A185", "SRT")}
)
"""Diameter, and long axis."""

GROUP: Code = ("125007", "DCM")
TRACKING_ID: Code = ("112039", "DCM")
TRACKING_UID: Code = ("112040", "DCM")
FINDING: Code = ("121071", "DCM")
SEGMENT: Code = ("121191", "DCM")
SEGMENT_FRAME: Code = ("121214", "DCM")


def code_of(item: Dataset) -> Code:
    """The value and scheme of a code item; long values and addresses too."""
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return text(value), text(item.get("CodingSchemeDesignator"))


def meaning_of(item: Dataset) -> str:
    """The words of a code item."""
    return text(item.get("CodeMeaning"))
