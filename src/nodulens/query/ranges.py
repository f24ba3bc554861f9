"""Reads ranges of sizes, risks and confidences in the tree of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from lark import Token, Tree

from nodulens.errors import BadPrompt
from nodulens.query.criteria import Measure, Range
from nodulens.query.lexicon import Word
from nodulens.query.meanings import ABOUT_VOLUME, BOUNDS, BOUNDS_AFTER, MEASURES, PLEURA, SAID, UNITS, UNMARKED
from nodulens.query.parts import Part, first, words_of

READING_MM = 0.5
"""A size without "over" or "under" is one in whole millimetres, to which guidelines round (Bankier et al. 2017)."""
LOW_ENDS, HIGH_ENDS = ("ABOVE", "AT_LEAST"), ("BELOW", "AT_MOST")
UPWARDS, DOWNWARDS = (*LOW_ENDS, "OR_MORE"), (*HIGH_ENDS, "OR_LESS", "WITHIN")
Reading = tuple[Range, list[str]]
"""A range, and definitions of how it is read."""


@dataclass(frozen=True)
class Lent:
    """What ranges leave out and those beside them say, by the ``id`` of the tree of the one that leaves it out.

    Attributes:
        units: of their numbers.
        measures: what they measure.
    """

    units: dict[int, Word] = field(default_factory=dict)
    measures: dict[int, Measure] = field(default_factory=dict)

    def lend(self, former: Tree[Token], latter: Tree[Token], comma: bool) -> None:
        """``over 6 and under 8 mm``, ``solid component over 6 mm and under 8 mm``.

        Args:
            former, latter: ranges.
            comma: whether a comma joins them; else it is a conjunction, or nothing.

        Raises:
            BadPrompt: it is not clear what one of them measures.
        """
        unit = _unit(_amounts(latter)[-1])
        own, other = self.measure(former), self.measure(latter)
        usual = UNMARKED.values()  # what a bare number measures, and so is no measure of another number
        sizes = (own is None or own.unit != "share") and (other is None or other in usual)
        if unit and sizes and _unit(_amounts(former)[0]) is None:
            self.units[id(former)] = unit
        measure = own or other
        if measure is None or (own and other) or measure in usual or measure.unit != _scale(unit)[0]:
            return
        said_last = isinstance((former if own else latter).children[0], Tree)
        both_ends = {_way(former), _way(latter)} == {1, -1} and measure is not PLEURA
        if own and not said_last and both_ends and not comma:
            self.measures[id(latter)] = measure
        elif both_ends if said_last else own:
            size = _text(_amounts(latter if own else former)[0])
            raise BadPrompt(
                f"{size!r} of what? Say it of each size, as in diameter over 8 mm and solid component over 4 mm"
            )

    def measure(self, tree: Tree[Token]) -> Measure | None:
        """What a range measures, where it is said of it, or of the range that it goes on."""
        return _said(tree) or self.measures.get(id(tree))


def lent_among(phrases: Iterable[Part]) -> Lent:
    """What ranges that stand together lend one another.

    Raises:
        BadPrompt: it is not clear what one of them measures.
    """
    found = Lent()
    last: Tree[Token] | None = None
    between: list[Word] = []
    for part in phrases:
        if isinstance(part, Token):
            between += words_of(part)
        elif part.data == "range":
            if last and len(between) < 2:
                found.lend(last, part, comma=first(between, "COMMA") is not None)
            last, between = part, []
        else:
            last = None
    return found


def read_range(tree: Tree[Token], lent: Lent) -> Reading:
    """``over 6 mm``, ``6 mm or more``, ``5 to 8 mm``, ``risk over 50 %``, ``6 mm``.

    Args:
        tree: of the rule ``range``, or of another of its names.
        lent: what the range leaves out.

    Raises:
        BadPrompt: it is none, or not clear.
    """
    measured = lent.measure(tree)
    if tree.data == "numberless":
        said = " ".join(word.text for word in words_of(tree))
        raise BadPrompt(f"{said!r} needs a number, as in over 6 mm")
    if tree.data == "lone":
        (amount,) = _trees(tree) or [tree]
        return _lone(amount, measured)
    (span,) = _trees(tree)
    if span.data == "bounded":
        return _bounded(span, measured, lent.units.get(id(tree)))
    if span.data == "interval":
        return _interval(span, measured), []
    if span.data == "endless":
        raise BadPrompt("A range has two ends, as in 5 to 8 mm")
    (amount,) = _amounts(span)  # "between 5 mm"
    _value(amount, None, measured)
    raise _no_range(amount)


def _bounded(tree: Tree[Token], measured: Measure | None, lent: Word | None) -> Reading:
    """``over 6 mm``, ``6 mm or more``, ``about 6 mm``; a number without a unit has the one lent."""
    (amount,) = _amounts(tree)
    (bound,) = words_of(tree)
    if bound.meaning == "WITHIN" and measured is not PLEURA:
        raise BadPrompt(f"{bound.text!r} what? Say within 10 mm of the pleura; other distances are not known")
    measure, value = _value(amount, lent, measured)
    span = {**BOUNDS, **BOUNDS_AFTER}[bound.meaning](measure, value)
    if bound.meaning != "ABOUT":
        return span, []
    if measure.unit == "share":
        raise BadPrompt(f"{bound.text!r} goes with sizes alone; give a range, as in risk over 50 %")
    margin = f"by {ABOUT_VOLUME:.0%}" if measure.unit == "mm³" else f"to {span.low:g} to {span.high:g} mm"
    return span, [f"About {value:g} {measure.unit} is widened {margin}, which readings of one nodule differ by."]


def _interval(tree: Tree[Token], measured: Measure | None) -> Range:
    """``5 to 8 mm``, ``between 5 and 8 mm``, ``over 5 to under 8 mm``; one unit serves both ends."""
    start, stop = _amounts(tree)
    measure, low = _value(start, _unit(stop), measured)
    other, high = _value(stop, _unit(start), measured)
    if measure != other or low >= high:
        raise BadPrompt(f"A range rises: {_number(start):g} to {_number(stop):g} does not")
    at = tree.children.index(start)
    low_bound, high_bound = _bound(tree.children[:at]), _bound(tree.children[at:])
    for bound, meanings in ((low_bound, LOW_ENDS), (high_bound, HIGH_ENDS)):
        if bound and bound.meaning not in meanings:
            raise BadPrompt(f"I do not understand {bound.text!r} in a range: say over 5 to under 8 mm")
    # where an end itself is out, the next number takes its place
    if low_bound and low_bound.meaning == "ABOVE":
        low = math.nextafter(low, math.inf)
    if high_bound and high_bound.meaning == "BELOW":
        high = math.nextafter(high, -math.inf)
    return Range(measure, low, high)


def _lone(amount: Tree[Token], measured: Measure | None) -> Reading:
    """``6 mm``: a size in whole millimetres."""
    measure, value = _value(amount, None, measured)
    if measure.unit != "mm" or measure is PLEURA or not value.is_integer():
        raise _no_range(amount)
    low, high = value - READING_MM, value + READING_MM
    return Range(measure, low, high), [f"{value:g} mm is what rounds to it, {low:g} to {high:g} mm."]


def _no_range(amount: Tree[Token]) -> BadPrompt:
    return BadPrompt(f"{_text(amount)} alone is no range: say over, under, about, or 5 to 8")


def _value(amount: Tree[Token], lent: Word | None, measured: Measure | None) -> tuple[Measure, float]:
    """What an amount measures, and how much that is in the measure's unit.

    Args:
        amount: a number with its unit.
        lent: the unit that holds where the amount has none.
        measured: what is said to be measured; None: the unit says it.

    Raises:
        BadPrompt: there is no such measure, or its unit is not clear.
    """
    number, unit = _number(amount), _unit(amount) or lent
    if unit is None and (measured is None or measured.unit != "share"):
        raise BadPrompt(f"{number:g} of what? Give mm, cm, mm3 or ml")
    if unit is None and number == 1:
        raise BadPrompt("1 is 1 % to some, and all to others: give a risk or a confidence in %")
    kind, scale = _scale(unit)
    measure = measured or UNMARKED.get(kind)
    if measure is None or measure.unit != kind:
        raise BadPrompt(
            f"{number:g} {unit.text if unit else ''} does not go with what is measured; say over 6 mm, over 1 ml, "
            "risk over 50 %"
        )
    if kind == "share" and not 0 <= number * scale <= 1:
        raise BadPrompt(f"A risk or a confidence is between 0 and 1, or 0 and 100 %, not {number:g}")
    return measure, number * scale


def _scale(unit: Word | None) -> tuple[str, float]:
    """Unit of a measure, and how much of it is one of the unit said; without any, a share from 0 to 1."""
    return UNITS[unit.meaning] if unit else ("share", 1.0)


def _said(tree: Tree[Token]) -> Measure | None:
    """What is said to be measured, before the number or after it."""
    said = first(words_of(tree), "MEASURE", "SAID")
    return {**MEASURES, **SAID}[said.meaning] if said else None


def _way(tree: Tree[Token]) -> int:
    """1 for a range that goes on upwards, -1 downwards, 0 for another."""
    (span,) = _trees(tree)
    bound = words_of(span)[0].meaning if span.data == "bounded" else ""
    return (bound in UPWARDS) - (bound in DOWNWARDS)


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    return [part for part in tree.children if isinstance(part, Tree)]


def _amounts(tree: Tree[Token]) -> list[Tree[Token]]:
    """The numbers with their units, in their order."""
    parts = _trees(tree)
    return [one for part in parts for one in ([part] if part.data in ("amount", "measured") else _amounts(part))]


def _bound(parts: Iterable[Part]) -> Word | None:
    return first((part.value for part in parts if isinstance(part, Token)), "BOUND")


def _number(amount: Tree[Token]) -> float:
    return float(words_of(amount)[0].text)


def _unit(amount: Tree[Token]) -> Word | None:
    return first(words_of(amount), "UNIT")


def _text(amount: Tree[Token]) -> str:
    return " ".join(word.text for word in words_of(amount) if word.terminal in ("NUMBER", "UNIT"))
