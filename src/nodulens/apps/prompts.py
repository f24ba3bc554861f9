"""Prompts as a person types them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nodulens.errors import BadPrompt
from nodulens.io import read_mask
from nodulens.pipeline import segment_prompt, segment_text
from nodulens.query import load_lexicons
from nodulens.report.record import Report
from nodulens.stages.user_prompts import Space, UserPrompt


def typed_prompt(
    point: str | None,
    box: str | None,
    mask: Path | None,
    space: Space,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    text: str | None = None,
) -> UserPrompt | str:
    """The one prompt among four options, and corrections; a text query as it is.

    Args:
        point: "x,y,z".
        box: "x0,y0,z0,x1,y1,z1".
        mask: image file.
        space: of the numbers.
        include, exclude: points "x,y,z".
        text: text query; it takes no corrections.

    Raises:
        BadPrompt: not exactly one of them, not as many numbers as it takes, or corrections of a text.
        NotFound, UnreadableFile: of the mask.
    """
    if sum(option is not None for option in (point, box, mask, text)) != 1:
        raise BadPrompt("Give exactly one of --point x,y,z, --box x0,y0,z0,x1,y1,z1, --mask FILE and --text QUERY.")
    if text is not None:
        if include or exclude:
            raise BadPrompt("--include and --exclude correct a --point, --box or --mask; --text takes none.")
        return text
    return UserPrompt(
        None if point is None else _numbers(point),
        None if box is None else _numbers(box),
        None if mask is None else read_mask(mask),
        space,
        [_numbers(text) for text in include],
        [_numbers(text) for text in exclude],
    )


def segmenter_of(prompt: UserPrompt | str, language: str | None, words: Sequence[Path]) -> Callable[..., Report]:
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
