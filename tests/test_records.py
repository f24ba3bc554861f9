"""Frozen dataclasses as JSON and back: what is written, and what is refused, by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pytest

from nodulens.errors import BadOption, NodulensError, UnreadableFile
from nodulens.io.records import (
    Arrangement,
    Format,
    columns_of,
    decode,
    encode,
    from_plain,
    inlined,
    omitting,
    records_of,
    to_plain,
    wording,
)


@dataclass(frozen=True)
class Part:
    name: str
    side: Literal["left", "right"] | None = None
    sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise BadOption("Nobody has no part.")


@dataclass(frozen=True)
class Whole:
    n: int
    share: float
    flag: bool
    pair: tuple[int, str]
    part: Part | None
    parts: tuple[Part, ...]
    named: dict[str, int | float | str | None]
    pixels: tuple[int, ...] = field(default=(), compare=False)


FORM = Format("test/1", "whole")
WHOLE = Whole(
    3, 1.0, True, (1, "ä"), None, (Part("a"), Part("b", "left", (1.5, 2.0))), {"i": 1, "f": 1.0, "s": "1", "none": None}
)


def test_records_come_back_equal_with_their_types() -> None:
    text = encode(WHOLE, FORM)
    again = decode(Whole, text, FORM)
    assert again == WHOLE and encode(again, FORM) == text and text.endswith("}\n") and "ä" in text
    assert [type(v) for v in again.named.values()] == [int, float, str, type(None)]
    assert type(decode(Whole, text.replace('"share": 1.0', '"share": 1'), FORM).share) is float


def test_formats_say_how_it_is_laid_out() -> None:
    text = encode(WHOLE, replace(FORM, escaped=True, indent=3))
    assert "\\u00e4" in text and '\n   "n": 3' in text and decode(Whole, text, FORM) == WHOLE
    short = {"name": "a"}
    with pytest.raises(UnreadableFile, match=r"lacks \['side', 'sizes'\]"):
        from_plain(Part, short, "part", FORM)
    assert from_plain(Part, short, "part", replace(FORM, defaults=True)) == Part("a")
    upper = Arrangement(
        lambda row: {key.upper(): value for key, value in row.items()},
        lambda row, where: {key.lower(): value for key, value in row.items()},
    )
    arranged = replace(FORM, arranged={Part: upper})
    assert '"NAME": "a"' in encode(WHOLE, arranged)
    assert decode(Whole, encode(WHOLE, arranged), arranged) == WHOLE


def test_records_stand_side_by_side_as_columns() -> None:
    parts = (Part("a"), Part("b", "left", (1.5, 2.0)))
    columns = columns_of(Part, parts)
    assert columns == {"name": ["a", "b"], "side": [None, "left"], "sizes": [(), (1.5, 2.0)]}
    assert records_of(Part, {"other": [1, 2], **columns}) == parts
    with pytest.raises(ValueError, match="longer"):
        records_of(Part, {**columns, "name": ["a"]})


@dataclass(frozen=True)
class Group:
    count: int
    part: Part | None
    named: Mapping[str, Part]


def test_what_is_none_may_be_left_out_and_what_is_nested_may_stand_beside() -> None:
    group = Group(1, None, {"x": Part("a")})
    form = replace(FORM, arranged={Part: omitting("side"), Group: omitting("part")})
    plain = to_plain(group, form.arranged)
    assert plain == {"count": 1, "named": {"x": {"name": "a", "sizes": []}}}
    assert from_plain(Group, plain, "group", form) == group
    beside = {Group: inlined("part")}
    assert list(to_plain(replace(group, part=Part("b")), beside)) == ["count", "name", "side", "sizes", "named"]
    assert list(to_plain(group, beside)) == ["count", "named"]


def test_arrays_stay_out_and_numpy_numbers_are_numbers() -> None:
    assert "pixels" not in to_plain(replace(WHOLE, pixels=(1, 2)))
    assert encode(replace(WHOLE, n=np.int64(3), share=np.float32(1)), FORM) == encode(WHOLE, FORM)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float64("nan")])
def test_what_json_cannot_hold_is_named(value: float) -> None:
    with pytest.raises(NodulensError, match=r"Not a finite number: whole\.parts\.0\.sizes\.1\."):
        encode(replace(WHOLE, parts=(Part("a", None, (1.0, value)),)), FORM)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"n": 3', '"n": true', r"whole\.n should be int, is true"),
        ('"n": 3', '"n": 3.0', r"whole\.n should be int, is 3\.0"),
        ('"n": 3', '"n": 3, "n": 3', "stands twice"),
        ('"share": 1.0', '"share": NaN', "NaN is no finite number"),
        ('"share": 1.0', '"share": 1e999', "1e999 is no finite number"),
        ('"share": 1.0', '"share": 1' + "0" * 400, r"whole\.share should be a number below 1e308"),
        ('"share": 1.0', '"share": 1' + "0" * 5000, "too many digits"),
        ('"share": 1.0', '"share": ' + "[" * 100_000, "nested too deeply"),
        ('"part": null', '"part": 3', r"whole\.part should be an object, is 3"),
        ('"side": "left"', '"side": "top"', r"parts\[1\]\.side should be 'left' or 'right', is \"top\""),
        ('"none": null', '"none": []', r"named\.none should be int or float or str or null, is \[\]"),
        ('"name": "a"', '"name": "nobody"', r"whole\.parts\[0\]: Nobody has no part"),
        ('"name": "a"', '"name": "a", "game": 1', r"parts\[0\] has unknown keys \['game'\] and lacks \[\]"),
        ('"test/1"', '"test/2"', r"Not a valid whole: schema 'test/2', expected 'test/1'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(old: str, new: str, message: str) -> None:
    text = encode(WHOLE, FORM)
    assert text.count(old) == 1
    with pytest.raises(UnreadableFile, match=message):
        decode(Whole, text.replace(old, new), FORM)


def test_types_in_words() -> None:
    assert [wording(kind) for kind in (int | None, Literal["a", "b"], tuple[int, ...], Part)] == [
        "int or null", "'a' or 'b'", "a list", "an object"
    ]  # fmt: skip
