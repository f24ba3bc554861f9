"""What the headers say about each stored image, before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodulens.core.volume import Patient, SliceRef


@dataclass(frozen=True)
class Origin:
    """What all slices of one scan have in common. An empty string is unknown.

    Attributes:
        modality: such as "CT".
        patient: who was scanned.
        study_uid: study instance UID.
        frame_of_reference_uid: the coordinate system of positions.
        kernel: reconstruction kernel.
        acquisition: acquisition number; a scan may have several, one above another.
    """

    modality: str
    patient: Patient = field(repr=False)
    study_uid: str
    frame_of_reference_uid: str
    kernel: str
    acquisition: str


@dataclass(frozen=True)
class PixelLayout:
    """Position of the pixels in a file, and how they are stored.

    Attributes:
        syntax: UID of the transfer syntax.
        at: offset of the pixel data's first byte, counted in the unpacked data set where that is deflated.
        length: bytes; None where the pixels are compressed and come in fragments.
        deflated_at: offset of a deflated data set in the file; None where none is.
        held: bytes of the file, or of the unpacked data set, from ``at`` on.
        frames: images in the file.
        bits_allocated: of each pixel.
        bits_stored: of each pixel.
        signed: whether pixels are two's complement.
        photometric: such as "MONOCHROME2".
        vr: "OB" or "OW".
        offsets: extended offset table and its lengths; None without.
    """

    syntax: str
    at: int
    length: int | None
    deflated_at: int | None
    held: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    vr: str
    offsets: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class Plane:
    """What the header says about one stored image, or one frame of a multi-frame file.

    Attributes:
        path: the file.
        frame: index in a multi-frame file, else None.
        ref: SOP instance UID, and the instance number (the frame number, from 1, in a multi-frame file).
        size: rows, columns.
        position: LPS mm (x, y, z) of the centre of the first pixel; None where the header has none.
        cosines: direction of rising column index, then of rising row index, LPS (x, y, z) each.
        spacing: mm between rows, between columns.
        thickness_mm: nominal; None where unknown or impossible.
        slope: of the rescale to HU; None where the header has none.
        intercept: of the rescale to HU; None where the header has none.
        origin: what it must have in common with the other slices.
        pixels: their position; None if the file has none.
        padding: the stored values of pixels outside the field of view, as a range with both ends; None without.
        aside: why it is no slice of a scan ("localizer", "picture"); empty for slices.
        sop_class: UID of the class of its object.
    """

    path: Path
    frame: int | None
    ref: SliceRef
    size: tuple[int, int]
    position: tuple[float, ...] | None
    cosines: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    origin: Origin
    pixels: PixelLayout | None
    padding: tuple[int, int] | None = None
    aside: str = ""
    sop_class: str = ""

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept, those of values that are HU already where the header has none."""
        return (1.0 if self.slope is None else self.slope), self.intercept or 0.0
