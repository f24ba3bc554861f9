"""Prompts as a person types them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nodulens.core.volume import Volume
from nodulens.errors import BadPrompt
from nodulens.pipeline import segment_prompt, segment_text
from nodulens.query import load_lexicons
from nodulens.report.record import Report
from nodulens.rois.grid import Grid
from nodulens.rois.read import read_rois
from nodulens.rois.roi import Roi
from nodulens.stages.user_prompts import NOTHING, GivenPrompt, PlacedPrompt, Space, UserPrompt


@dataclass(frozen=True)
class RegionPrompt:
    """A region of a file as a prompt: its mask, or, where it has no outline, its point or the box round its places.

    Attributes:
        roi: the region.
        space: of the corrections.
        include, exclude: as of :class:`UserPrompt`.
    """

    roi: Roi
    space: Space = "lps"
    include: Sequence[Sequence[float]] = ()
    exclude: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        self._corrections()  # what is wrong with them is said before a long scan has been read

    def on(self, volume: Volume, ct: Volume) -> PlacedPrompt:
        """See :class:`GivenPrompt`.

        Raises:
            BadGeometry: the region does not fit the scan, or is of another frame of reference.
        """
        clicks = self._corrections().clicks_on(volume, ct)
        return replace(self._given(ct).on(volume, ct), clicks=clicks)

    def _corrections(self) -> UserPrompt:
        return UserPrompt((0.0, 0.0, 0.0), space=self.space, include=self.include, exclude=self.exclude)

    def _given(self, ct: Volume) -> UserPrompt:
        """Without corrections, in LPS mm."""
        if self.roi.shape.outlined:
            return UserPrompt(mask=self.roi.mask_on(ct))
        places = self.roi.points(Grid.of(ct))
        low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        return UserPrompt(point=low) if low == high else UserPrompt(box=(*low, *high))


def typed_region(mask: Path | None, roi: str | None) -> Roi | None:
    """The region that prompts.

    Args:
        mask: a DICOM SEG, RTSTRUCT or SR, or an image file; None: no region does.
        roi: name or number of one of its regions.

    Raises:
        BadPrompt: a region without a file, or the mask is empty.
        SeveralRois: there are several, and none is named.
        NotFound, UnreadableFile, BadGeometry, BadValues: of the file.
    """
    if mask is None:
        if roi is not None:
            raise BadPrompt("--roi names a region of --mask FILE; add the file.")
        return None
    file = read_rois(mask)
    if not file.rois:
        raise BadPrompt(NOTHING)
    return file.one(roi)


def typed_prompt(
    point: str | None,
    box: str | None,
    region: Roi | None,
    space: Space,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    text: str | None = None,
) -> GivenPrompt | str:
    """The one prompt among four options, and corrections; a text query as it is.

    Args:
        point: "x,y,z".
        box: "x0,y0,z0,x1,y1,z1".
        region: of a file.
        space: of the numbers.
        include, exclude: points "x,y,z".
        text: text query; it takes no corrections.

    Raises:
        BadPrompt: not exactly one of them, not as many numbers as it takes, corrections of a text, or a space of no
            numbers.
    """
    if sum(option is not None for option in (point, box, region, text)) != 1:
        raise BadPrompt("Give exactly one of --point x,y,z, --box x0,y0,z0,x1,y1,z1, --mask FILE and --text QUERY.")
    if text is not None and (include or exclude):
        raise BadPrompt("--include and --exclude correct a --point, --box or --mask; --text takes none.")
    if space == "voxel" and (text is not None or (region is not None and not include and not exclude)):
        raise BadPrompt("--space is of the numbers of --point, --box, --include and --exclude, and there are none.")
    if text is not None:
        return text
    corrections = [_numbers(text) for text in include], [_numbers(text) for text in exclude]
    if region is not None:
        return RegionPrompt(region, space, *corrections)
    corner = None if box is None else _numbers(box)
    return UserPrompt(None if point is None else _numbers(point), corner, None, space, *corrections)


def segmenter_of(prompt: GivenPrompt | str, language: str | None, words: Sequence[Path]) -> Callable[..., Report]:
    """What segments at a prompt, called with a scan, ``method`` and ``progress``.

    Args:
        prompt: of :func:`typed_prompt`.
        language: of a text; None: the one that has all its words.
        words: word files of the user's own.

    Raises:
        BadPrompt: a language or words without a text.
        BadOption, NotFound: there is no such language, or a word file is none.
    """
    if isinstance(prompt, str):
        return partial(segment_text, text=prompt, lexicons=load_lexicons(language, words))
    if language or words:
        raise BadPrompt("--language and --words go with --text.")
    return partial(segment_prompt, prompt=prompt)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise BadPrompt(f"{text!r} is not a list of numbers with commas between them.") from error
