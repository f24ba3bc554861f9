"""Prompts as a person types them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nodulens.errors import BadPrompt
from nodulens.io import read_mask
from nodulens.stages.user_prompts import Space, UserPrompt


def typed_prompt(
    point: str | None,
    box: str | None,
    mask: Path | None,
    space: Space,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> UserPrompt:
    """The one prompt among three options, and corrections.

    Args:
        point: "x,y,z".
        box: "x0,y0,z0,x1,y1,z1".
        mask: image file.
        space: of the numbers.
        include, exclude: points "x,y,z".

    Raises:
        BadPrompt: not exactly one of them, or not as many numbers as it takes.
        NotFound, UnreadableFile: of the mask.
    """
    if sum(option is not None for option in (point, box, mask)) != 1:
        raise BadPrompt("Give exactly one of --point x,y,z, --box x0,y0,z0,x1,y1,z1 and --mask FILE.")
    return UserPrompt(
        None if point is None else _numbers(point),
        None if box is None else _numbers(box),
        None if mask is None else read_mask(mask),
        space,
        [_numbers(text) for text in include],
        [_numbers(text) for text in exclude],
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise BadPrompt(f"{text!r} is not a list of numbers with commas between them.") from error
