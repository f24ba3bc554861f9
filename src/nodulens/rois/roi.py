"""A region of interest, the file it is from, and the choice of one among several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nodulens.core.geometry import Float
from nodulens.core.nodule import Box
from nodulens.core.text import printable
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadGeometry, NotFound, SeveralRois, UnreadableFile
from nodulens.rois.grid import Drawn, Grid

LISTED = 20
"""Regions that a message names."""


class Shape(Protocol):
    """How a region is given."""

    @property
    def outlined(self) -> bool:
        """Whether it has an inside; else it is places alone, such as a point or the ends of a diameter."""

    def on(self, grid: Grid) -> Drawn | None:
        """Its inside on a grid; None where nothing of it is there.

        Raises:
            BadGeometry: it does not fit the grid.
            UnreadableFile: its file is damaged.
        """

    def points(self, grid: Grid) -> Float:
        """(n, 3) LPS mm (x, y, z) of the places that are given.

        Raises:
            BadGeometry: they lie on images that the grid has not.
        """


@dataclass(frozen=True)
class Measured:
    """A number that a report states.

    Attributes:
        code: value and scheme of the concept, such as ("118565006", "SCT").
        name: its meaning.
        value: in ``unit``.
        unit: in UCUM, such as "mm3".
    """

    code: tuple[str, str]
    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Evaluated:
    """A code that a report states of something.

    Attributes:
        code, name: of the concept, as of :class:`Measured`.
        value_code, value: what is stated.
    """

    code: tuple[str, str]
    name: str
    value_code: tuple[str, str]
    value: str


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest.

    Attributes:
        number: of the segment, the ROI, the label or the measurement group.
        name: as the file says; may be empty.
        shape: how it is given.
        kind: what it is in words, such as "Nodule"; may be empty.
        finding: False of a part of the body, such as a lung.
        private: whether its name names the patient, and is not shown.
        tracking_uid: by which objects name the same thing; may be empty.
        frame_of_reference_uid: of its positions; None where the file does not say.
        measured, evaluated: what a report states of it.
    """

    number: int
    name: str
    shape: Shape
    kind: str = ""
    finding: bool = True
    private: bool = False
    tracking_uid: str = ""
    frame_of_reference_uid: str | None = None
    measured: tuple[Measured, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()

    def __str__(self) -> str:
        """Number, name and kind, for a message or a table."""
        name = "" if self.private else self.name
        return printable(" ".join(filter(None, (str(self.number), name, f"({self.kind})" if self.kind else ""))))

    def on(self, grid: Grid) -> Drawn | None:
        """Its mask on a grid; None where nothing of it is there.

        Raises:
            BadGeometry: its positions are of another frame of reference, or it does not fit the grid.
            UnreadableFile: it has no outline, or its file is damaged.
        """
        self.check_space(grid)
        if not self.shape.outlined:
            raise UnreadableFile(f"Region {self} is a place without an outline: there is nothing to fill.")
        return self.shape.on(grid)

    def mask_on(self, ct: Volume) -> Mask:
        """The region on a part of the grid of a scan as read; empty where nothing of it is there.

        Raises:
            BadGeometry, UnreadableFile: as :meth:`on`.
        """
        drawn = self.on(Grid.of(ct))
        if drawn is None:
            box = Box((0, 0, 0), (1, 1, 1))
            return Mask(np.zeros(box.shape, dtype=np.uint8), ct.geometry.crop(box), {})
        return Mask(drawn.mask.astype(np.uint8), ct.geometry.crop(drawn.box), {1: self.name or str(self.number)})

    def points(self, grid: Grid) -> Float:
        """The places that are given, (n, 3) LPS mm (x, y, z).

        Raises:
            BadGeometry: as :meth:`on`.
        """
        self.check_space(grid)
        return self.shape.points(grid)

    def check_space(self, grid: Grid) -> None:
        """Refuse positions that are counted from another origin.

        Raises:
            BadGeometry: both say of which frame of reference they are, and it is not the same.
        """
        own, other = self.frame_of_reference_uid, grid.frame_of_reference_uid
        if own and other and own != other:
            raise BadGeometry(
                f"Region {self} is of frame of reference {printable(own)}, the scan of {printable(other)}: their "
                "positions cannot be compared. Give the scan that it was drawn on, or one of the same examination."
            )


@dataclass(frozen=True, eq=False)
class RoiFile:
    """The regions of a file.

    Attributes:
        path: the file.
        format: "DICOM SEG", "DICOM RTSTRUCT", "DICOM SR", or "metaimage", "nifti", "nrrd".
        rois: its regions; none of a mask that is empty.
        patient: id in the file; empty where it has none.
        grid: its own, where it has one.
        notes: what was noticed.
    """

    path: Path
    format: str
    rois: tuple[Roi, ...]
    patient: str = ""
    grid: Grid | None = None
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Roi, ...]:
        """All but parts of the body."""
        return tuple(roi for roi in self.rois if roi.finding)

    def chosen(self, words: Sequence[str]) -> tuple[Roi, ...]:
        """The regions that are named, in the order of the file; all findings where none is.

        Args:
            words: names, tracking UIDs or numbers; a name counts before a number.

        Raises:
            NotFound: there is none of that name, or no finding.
            SeveralRois: a name that several have.
        """
        if not words:
            if not self.rois:
                raise NotFound(f"{self.path} outlines nothing: every voxel is 0.")
            if not self.findings:
                raise NotFound(
                    f"{self.path} outlines parts of the body alone:\n{self.listed()}\nName the one that is meant."
                )
            return self.findings
        named = [self._named(word) for word in words]
        return tuple(roi for roi in self.rois if any(roi is one for one in named))

    def one(self, word: str | None) -> Roi:
        """The one region that is named, or the one finding there is.

        Raises:
            NotFound: there is none of that name.
            SeveralRois: there are several, and none was named; the message lists them.
        """
        if word is not None:
            return self._named(word)
        found = self.chosen(())
        if len(found) > 1:
            raise SeveralRois(
                f"{self.path} outlines {len(found)} regions; choose one with --roi NAME or NUMBER:\n{self.listed()}",
                tuple(str(roi.number) if roi.private or not roi.name else roi.name for roi in found),
            )
        return found[0]

    def listed(self) -> str:
        """Its regions, a line each."""
        lines = [f"  {roi}" for roi in self.rois[:LISTED]]
        if len(self.rois) > LISTED:
            lines.append(f"  and {len(self.rois) - LISTED} more")
        return "\n".join(lines)

    def _named(self, word: str) -> Roi:
        wanted = word.strip().casefold()
        found = [roi for roi in self.rois if wanted and wanted in (roi.name.casefold(), roi.tracking_uid)]
        found = found or [roi for roi in self.rois if str(roi.number) == wanted]
        if not found:
            raise NotFound(f"{self.path} has no region {word!r}; there are:\n{self.listed()}")
        if len(found) > 1:
            raise SeveralRois(
                f"{self.path} has {len(found)} regions {word!r}; give the number of one:\n{self.listed()}",
                tuple(str(roi.number) for roi in found),
            )
        return found[0]
