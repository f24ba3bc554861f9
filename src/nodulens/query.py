"""Nodules asked for in words: "largest nodule in the right upper lobe", "ground-glass nodules over 6 mm".

A small language, all of it in ``docs/prompts.md``, resolved against findings that have been made. A word that is not
in it is an error that names the word: nothing is guessed, for an answer to another question could harm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TypeVar

from nodulens.core.nodule import Nodule, Side, Texture
from nodulens.errors import BadPrompt

Found = TypeVar("Found")

LOBES_ESTIMATED = (
    "Lobes are estimated from position alone, fissures are not looked for: "
    "near one, the neighbouring lobe may be meant."
)
KNOWN = (
    "Known are: largest, smallest, most or least suspicious, most or least certain; how many of them; solid, "
    "part-solid, ground-glass, subsolid; left or right lung; upper, middle or lower lobe or zone; over, under, "
    "at least, at most, 5 to 8, in mm, cm, mm3, ml; risk over 50 %. docs/prompts.md has it all."
)


@dataclass(frozen=True)
class Place:
    """Where in the lungs; None: anywhere."""

    side: Side | None = None
    lobe: str | None = None
    zone: str | None = None

    def within(self, other: Place) -> Place | None:
        """Where both are; None where they exclude each other."""
        if any(a and b and a != b for a, b in zip(astuple(self), astuple(other), strict=True)):
            return None
        return Place(self.side or other.side, self.lobe or other.lobe, self.zone or other.zone)

    def holds(self, nodule: Nodule) -> bool:
        """Whether a nodule lies there; by lobe, as estimated."""
        found = nodule.position
        return (
            self.side in (None, found.side)
            and self.zone in (None, found.zone)
            and (self.lobe is None or found.lobe_estimate.split()[1] == self.lobe)
        )


@dataclass(frozen=True)
class Range:
    """Values of one measure that are asked for.

    Attributes:
        measure: "diameter_mm" (the mean of the axial axes), "volume_mm3" or "risk".
        low, high: ends.
        open: whether the ends themselves are out.
    """

    measure: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, nodule: Nodule) -> bool:
        """Whether a nodule's value is known and inside."""
        value = MEASURES[self.measure](nodule)
        return value is not None and (self.low < value < self.high if self.open else self.low <= value <= self.high)


@dataclass(frozen=True)
class Order:
    """What comes first: the most, or the least, of a measure."""

    measure: str
    most: bool


@dataclass(frozen=True)
class Question:
    """What a text asks for: nodules that fit every group that is not empty, any one of a group.

    Attributes:
        one: whether a single nodule is asked for.
        count: how many of the order's first; None: all that fit.
        place_in_order: 2 for "second largest".
    """

    textures: frozenset[Texture] = frozenset()
    places: tuple[Place, ...] = ()
    ranges: tuple[Range, ...] = ()
    order: Order | None = None
    one: bool = False
    count: int | None = None
    place_in_order: int | None = None


@dataclass(frozen=True)
class Answer:
    """The nodules asked for, and what to know about that, sentence by sentence."""

    nodules: tuple[Nodule, ...]
    notes: tuple[str, ...] = field(default=())


MEASURES: dict[str, Callable[[Nodule], float | None]] = {
    "diameter_mm": lambda nodule: nodule.measurements.mean_diameter_mm,
    "volume_mm3": lambda nodule: nodule.measurements.volume_mm3,
    "risk": lambda nodule: None if nodule.risk is None else nodule.risk.probability,
    "score": lambda nodule: nodule.score,
}


def resolve(text: str, nodules: Sequence[Nodule]) -> Answer:
    """The nodules that a text asks for, in the order it asks for; by detector's score where it names none.

    Raises:
        BadPrompt: a word that is not understood, or a question that contradicts itself.
    """
    question = parse(text)
    fits = [n for n in nodules if _fits(question, n)]
    order = question.order or Order("score", most=True)
    value = MEASURES[order.measure]
    known = sorted(
        (n for n in fits if value(n) is not None),
        key=lambda n: (-(value(n) or 0.0) if order.most else (value(n) or 0.0), n.id),
    )
    first = (question.place_in_order or 1) - 1
    wanted = 1 if question.one and question.order else question.count
    found = known[first:] if wanted is None else known[first : first + wanted]
    notes = _notes(question, nodules, known)
    if (
        wanted is not None
        and found
        and len(known) > first + wanted
        and value(known[first + wanted]) == value(found[-1])
    ):
        notes.append(f"Nodule {known[first + wanted].id} comes next with the very same value.")
    if len(found) < (wanted or 1):
        notes.insert(0, f"{len(known)} of {_nodules(len(nodules))} fit; you asked for {_wanted(question)}.")
    return Answer(tuple(found), tuple(notes))


def parse(text: str) -> Question:
    """What a text asks for.

    Raises:
        BadPrompt: a word that is not understood, or a question that contradicts itself; the message says which.
    """
    return _Parser(text).question()


def _fits(question: Question, nodule: Nodule) -> bool:
    return (
        (not question.textures or nodule.texture in question.textures)
        and (not question.places or any(place.holds(nodule) for place in question.places))
        and all(span.holds(nodule) for span in question.ranges)
    )


def _notes(question: Question, nodules: Sequence[Nodule], known: list[Nodule]) -> list[str]:
    notes = []
    if any(place.lobe for place in question.places):
        notes.append(LOBES_ESTIMATED)
    graded = tuple(span for span in question.ranges if span.measure == "risk")
    if graded or question.order in (ORDERS["most suspicious"], ORDERS["least suspicious"]):
        rest = replace(question, ranges=tuple(span for span in question.ranges if span not in graded))
        ungraded = [n for n in nodules if n.risk is None and _fits(rest, n)]
    else:
        ungraded = []
    if ungraded:
        numbers = ", ".join(str(n.id) for n in ungraded)
        notes.append(f"Left out because no risk is known: nodule{'s' * (len(ungraded) > 1)} {numbers}.")
    if question.one and not question.order and len(known) > 1:
        notes.append(f"You asked for one and {len(known)} fit: all of them are given, for none is singled out.")
    return notes


def _nodules(count: int) -> str:
    return f"{count} nodule{'s' * (count != 1)}"


def _wanted(question: Question) -> str:
    if question.place_in_order:
        return f"number {question.place_in_order}"
    return "one" if question.one else str(question.count) if question.count else "all that do"


# ---------------------------------------------------------------- the language

TEXTURES: dict[str, frozenset[Texture]] = {
    "part solid": frozenset({"part-solid"}),
    "subsolid": frozenset({"part-solid", "ground-glass"}),
    "sub solid": frozenset({"part-solid", "ground-glass"}),
    "ground glass": frozenset({"ground-glass"}),
    "nonsolid": frozenset({"ground-glass"}),
    "non solid": frozenset({"ground-glass"}),
    **dict.fromkeys(("ggo", "ggos", "ggn", "ggns"), frozenset({"ground-glass"})),
    "solid": frozenset({"solid"}),
}
ORDERS = {
    "largest": Order("diameter_mm", most=True),
    "biggest": Order("diameter_mm", most=True),
    "smallest": Order("diameter_mm", most=False),
    "most suspicious": Order("risk", most=True),
    "least suspicious": Order("risk", most=False),
    "most certain": Order("score", most=True),
    "least certain": Order("score", most=False),
}
ABOVE, FROM, BELOW, UP_TO = "above", "from", "below", "up to"
BOUNDS = {
    **dict.fromkeys(("over", "above", "more than", "larger than", "bigger than", "greater than", ">"), ABOVE),
    **dict.fromkeys(("under", "below", "less than", "smaller than", "<"), BELOW),
    **dict.fromkeys(("at least", "not less than", ">=", "≥"), FROM),
    **dict.fromkeys(("at most", "up to", "not more than", "<=", "≤"), UP_TO),
}
AFTER = {
    **dict.fromkeys(("or more", "and more", "or larger", "and larger", "or over", "and over"), FROM),
    **dict.fromkeys(("or less", "and less", "or smaller", "and smaller", "or under", "and under"), UP_TO),
}
UNITS = {
    "mm": ("diameter_mm", 1.0),
    "millimetres": ("diameter_mm", 1.0),
    "millimeters": ("diameter_mm", 1.0),
    "cm": ("diameter_mm", 10.0),
    "mm3": ("volume_mm3", 1.0),
    "mm³": ("volume_mm3", 1.0),
    "ml": ("volume_mm3", 1000.0),
    "cm3": ("volume_mm3", 1000.0),
    "cm³": ("volume_mm3", 1000.0),
    "%": ("risk", 0.01),
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
SIDES: dict[str, Side] = {"left": "left", "right": "right", "left sided": "left", "right sided": "right"}
LEVELS = ("upper", "middle", "lower")
LOBES = {
    "rul": Place("right", "upper"),
    "rml": Place("right", "middle"),
    "rll": Place("right", "lower"),
    "lul": Place("left", "upper"),
    "lll": Place("left", "lower"),
}
KINDS = {
    **dict.fromkeys(("lobe", "lobes"), "lobe"),
    **dict.fromkeys(("zone", "zones", "third", "thirds"), "zone"),
    **dict.fromkeys(("lung", "lungs"), "lung"),
}
SINGULAR, PLURAL = ("nodule", "lesion", "finding", "opacity"), ("nodules", "lesions", "findings", "opacities")
RISKS = ("risk", "risk of", "malignancy risk", "risk of malignancy", "probability", "probability of malignancy")
MEASURED = {"diameter": "diameter_mm", "size": "diameter_mm", "volume": "volume_mm3", **dict.fromkeys(RISKS, "risk")}
SAID_AFTER = {"in diameter": "diameter_mm", "in size": "diameter_mm", "in volume": "volume_mm3"}
JOINERS = ("or", "and", ",")
SILENT = ("the", "a", "an", "all", "of", "in", "with", "and", "that", "which", "is", "are", "has", "have", ",")
OPENERS = ("show me", "show", "find", "give me", "list")
PIECES = re.compile(r"\d+(?:\.\d+)?|mm[3³]|cm[3³]|[^\W\d_]+|>=|<=|\S")


class _Parser:
    """Reads a text from left to right, taking the longest phrase that is known at each place."""

    def __init__(self, text: str) -> None:
        self.text = text
        plain = re.sub(r"(?<=[^\W\d_])[-‐‑](?=[^\W\d_])", " ", text.strip().rstrip("?.!").lower())
        self.words = PIECES.findall(plain)
        self.at = 0
        self.textures: frozenset[Texture] = frozenset()
        self.places: list[Place] = []
        self.ranges: list[Range] = []
        self.order: Order | None = None
        self.count: int | None = None
        self.ordinal: int | None = None
        self.one: bool | None = None

    def question(self) -> Question:
        if not self.words:
            raise BadPrompt(f"Nothing is asked for. {KNOWN}")
        self.take(OPENERS)
        rules = (self.texture, self.ordering, self.range, self.place, self.number, self.noun, self.silent)
        while self.at < len(self.words):
            if not any(rule() for rule in rules):
                raise self.error(f"I do not understand {self.words[self.at]!r}")
        if self.ordinal is not None and self.order is None:
            raise self.error("Which order is counted in? Say second largest, or third most suspicious")
        if self.count is not None and self.order is None:
            raise self.error(f"Which {self.count}? Say {self.count} largest, smallest, most suspicious or most certain")
        singular = self.order is not None if self.one is None else self.one
        one = self.ordinal is not None or self.count == 1 or (self.count is None and singular)
        return Question(
            self.textures, tuple(self.places), tuple(self.ranges), self.order, one, self.count, self.ordinal
        )

    def texture(self) -> bool:
        """``solid``, ``solid or part-solid``."""
        phrase = self.take(TEXTURES)
        if phrase is None:
            return False
        found = TEXTURES[phrase]
        while (phrase := self.joined(lambda: self.take(TEXTURES))) is not None:
            found |= TEXTURES[phrase]
        if self.textures:
            raise self.error("Two textures are asked for at once; join them with or")
        self.textures = found
        return True

    def ordering(self) -> bool:
        phrase = self.take(ORDERS)
        if phrase:
            if self.order not in (None, ORDERS[phrase]):
                raise self.error(f"{phrase!r} contradicts the order named before")
            self.order = ORDERS[phrase]
        return bool(phrase)

    def range(self) -> bool:
        """``over 6 mm``, ``6 mm or more``, ``5 to 8 mm``, ``between 5 and 8 mm``, ``risk over 50 %``."""
        start = self.at
        measured = self.take(MEASURED)
        between = self.take(("between", "from"))
        bound = None if between else self.take(BOUNDS)
        value = self.value()
        if value is None:
            if measured or between or bound:
                raise self.error(f"{' '.join(self.words[start : self.at])!r} needs a number, as in over 6 mm")
            return False
        unit = self.take(UNITS)
        if bound is None and self.take(("and", "to", "-", "–") if between else ("to", "-", "–")):
            top = self.value()
            if top is None:
                raise self.error("A range has two ends, as in 5 to 8 mm")
            top_unit = self.take(UNITS)
            ends = self.amount(measured, value, unit or top_unit), self.amount(measured, top, top_unit or unit)
            if ends[0].measure != ends[1].measure or ends[0].low >= ends[1].low:
                raise self.error(f"A range rises: {value:g} to {top:g} does not")
            self.ranges.append(Range(ends[0].measure, ends[0].low, ends[1].low))
            return True
        after = None if bound or between else self.take(AFTER)
        if bound is None and after is None:
            if measured or unit or between:
                raise self.error(f"{value:g}{f' {unit}' if unit else ''} alone is no range: say over, under, or 5 to 8")
            self.at = start
            return False
        edge = BOUNDS[bound] if bound else AFTER[after or ""]
        exact = self.amount(measured, value, unit)
        low, high = (-math.inf, exact.low) if edge in (BELOW, UP_TO) else (exact.low, math.inf)
        self.ranges.append(Range(exact.measure, low, high, open=edge in (ABOVE, BELOW)))
        return True

    def amount(self, measured: str | None, value: float, unit: str | None) -> Range:
        """A number with its unit, as the range that begins there."""
        named = MEASURED[measured] if measured else SAID_AFTER.get(self.take(SAID_AFTER) or "")
        if unit is None and named != "risk":
            raise self.error(f"{value:g} of what? Give mm, cm, mm3 or ml")
        measure, scale = UNITS[unit] if unit else ("risk", 1.0)
        if (named or "diameter_mm") != measure and (named or measure == "risk"):
            raise self.error(
                f"{value:g} {unit or ''} does not go with what is measured; say over 6 mm, over 1 ml, risk over 50 %"
            )
        if measure == "risk" and not 0 <= value * scale <= 1:
            raise self.error(f"A risk lies between 0 and 1, or 0 and 100 %, not at {value:g}")
        return Range(measure, value * scale)

    def value(self) -> float | None:
        if self.at < len(self.words) and self.words[self.at][0].isdigit():
            self.at += 1
            return float(self.words[self.at - 1])
        return None

    def place(self) -> bool:
        """``left lung``, ``right upper lobe``, ``upper or middle lobes``, ``RUL or left lower zone``."""
        found = self.places_named()
        if not found:
            return False
        while more := self.joined(self.places_named):
            found += more
        both = [where for a in self.places or [Place()] for b in found if (where := a.within(b)) is not None]
        if not both:
            raise self.error("No place in the lungs is in all of the places named; join them with or")
        self.places = both
        return True

    def places_named(self) -> list[Place]:
        """Places up to their one noun, which all share; a side holds until another is named."""
        short = self.take(LOBES)
        if short:
            return [LOBES[short]]
        found: list[tuple[Side | None, str | None]] = []
        side: Side | None = None
        while (item := self.joined(self.item) if found else self.item()) is not None:
            side = item[0] or side
            found.append((side, item[1]))
        if not found:
            return []
        noun = self.take(KINDS)
        kind = KINDS[noun] if noun else "lung"
        out = []
        for side, level in found:
            if level and kind == "lung":
                raise self.error(f"{level!r} what? Say {level} lobe, or {level} zone for a third of the lung's height")
            if level is None and kind != "lung":
                raise self.error(f"Which {noun} of the {side} lung? Say upper, middle or lower")
            if (side, level, kind) == ("left", "middle", "lobe"):
                raise self.error("The left lung has no middle lobe")
            out.append(Place(side, level if kind == "lobe" else None, level if kind == "zone" else None))
        return out

    def item(self) -> tuple[Side | None, str | None] | None:
        """A side, a level, or both, in either order; None where neither stands here."""
        side = self.take(SIDES)
        level = self.take(LEVELS)
        side = side or (self.take(SIDES) if level else None)
        return None if side is None and level is None else (SIDES[side] if side else None, level)

    def joined(self, rule: Callable[[], Found | None]) -> Found | None:
        """What a rule reads after "or", "and" or a comma; where it reads nothing, those stay unread too."""
        start = self.at
        if self.take(JOINERS):
            self.take(("in the", "in", "the"))
            found = rule()
            if found:
                return found
        self.at = start
        return None

    def number(self) -> bool:
        """``three``, ``3``, ``second``, ``2nd``."""
        start = self.at
        ordinal = self.take(ORDINALS)
        word = self.take(NUMBERS)
        value = self.value()
        if value is not None and self.take(("st", "nd", "rd", "th")):
            ordinal, value = str(int(value)), None
        if ordinal:
            self.ordinal = ORDINALS.get(ordinal) or int(ordinal)
            return True
        if word is None and value is None:
            self.at = start
            return False
        count = NUMBERS[word] if word else value
        if count is None or count < 1 or count != int(count) or self.count is not None:
            raise self.error(f"{self.words[start]!r} is no number of nodules")
        self.count = int(count)
        return True

    def noun(self) -> bool:
        phrase = self.take((*SINGULAR, *PLURAL))
        if phrase:
            self.one = phrase in SINGULAR
        return bool(phrase)

    def silent(self) -> bool:
        return self.take(SILENT) is not None

    def take(self, phrases: Iterable[str]) -> str | None:
        """The longest of some phrases that stands here, and past it; None where none does."""
        for phrase in sorted(phrases, key=lambda p: -len(p.split())):
            parts = phrase.split()
            if self.words[self.at : self.at + len(parts)] == parts:
                self.at += len(parts)
                return phrase
        return None

    def error(self, what: str) -> BadPrompt:
        return BadPrompt(f"{what} (in {self.text!r}). {KNOWN}")
