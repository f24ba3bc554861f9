"""Prompts as a person types them."""

from __future__ import annotations

from pathlib import Path

from nodulens.errors import BadPrompt
from nodulens.io import read_mask
from nodulens.stages.user_prompts import Space, UserPrompt


def typed_prompt(point: str | None, box: str | None, mask: Path | None, space: Space) -> UserPrompt:
    """The one prompt among three options.

    Args:
        point: "x,y,z".
        box: "x0,y0,z0,x1,y1,z1".
        mask: image file.
        space: of the numbers.

    Raises:
        BadPrompt: not exactly one of them, or not as many numbers as it takes.
        NotFound, UnreadableFile: of the mask.
    """
    if sum(option is not None for option in (point, box, mask)) != 1:
        raise BadPrompt("Give exactly one of --point x,y,z, --box x0,y0,z0,x1,y1,z1 and --mask FILE.")
    return UserPrompt(_numbers(point), _numbers(box), None if mask is None else read_mask(mask), space)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise BadPrompt(f"{text!r} is not a list of numbers with commas between them.") from error
