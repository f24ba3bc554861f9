"""Text queries for nodules: "largest nodule in the right upper lobe", "ground-glass nodules over 6 mm".

A small language, resolved against findings that have been made: ``query.lark`` holds its grammar and every word of it,
``docs/prompts.md`` explains it. A word that is not in it is an error that names the word: nothing is guessed, for an
answer to another query could harm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput
from lark.visitors import Interpreter

from nodulens.core.nodule import Nodule, Side, Texture
from nodulens.errors import BadPrompt

GRAMMAR = Path(__file__).with_suffix(".lark")
LOBES_ESTIMATED = (
    "Lobes are estimated from position alone, without fissures: near one, the neighbouring lobe may be meant."
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
        """Whether a nodule is there; lobes are estimated."""
        found = nodule.position
        return (
            self.side in (None, found.side)
            and self.zone in (None, found.zone)
            and (self.lobe is None or found.lobe_estimate == f"{found.side} {self.lobe} lobe")
        )


@dataclass(frozen=True)
class Range:
    """A range of one measure.

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
class Query:
    """A query: nodules that match at least one member of every group that is not empty.

    Attributes:
        one: whether the query is for a single nodule.
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
class QueryResult:
    """The nodules that fit a query in its order, and notes on them, each a sentence."""

    nodules: tuple[Nodule, ...]
    notes: tuple[str, ...] = field(default=())


MEASURES: dict[str, Callable[[Nodule], float | None]] = {
    "diameter_mm": lambda nodule: nodule.measurements.mean_diameter_mm,
    "volume_mm3": lambda nodule: nodule.measurements.volume_mm3,
    "risk": lambda nodule: None if nodule.risk is None else nodule.risk.probability,
    "score": lambda nodule: nodule.score,
}


def resolve(text: str, nodules: Sequence[Nodule]) -> QueryResult:
    """The nodules that match a text query, in its order; by detection confidence if it has none.

    Raises:
        BadPrompt: a word that is not understood, or phrases that contradict each other.
    """
    query = parse(text)
    fits = [n for n in nodules if _fits(query, n)]
    order = query.order or Order("score", most=True)
    value = MEASURES[order.measure]
    known = sorted(
        (n for n in fits if value(n) is not None),
        key=lambda n: (-(value(n) or 0.0) if order.most else (value(n) or 0.0), n.id),
    )
    first = (query.place_in_order or 1) - 1
    wanted = 1 if query.one and query.order else query.count
    found = known[first:] if wanted is None else known[first : first + wanted]
    notes = _notes(query, nodules, known)
    if (
        wanted is not None
        and found
        and len(known) > first + wanted
        and value(known[first + wanted]) == value(found[-1])
    ):
        notes.append(f"Nodule {known[first + wanted].id} comes next with the very same value.")
    if len(found) < (wanted or 1):
        notes.insert(0, f"{len(known)} of {_nodules(len(nodules))} fit; you asked for {_wanted(query)}.")
    return QueryResult(tuple(found), tuple(notes))


def parse(text: str) -> Query:
    """Parse a text query.

    Raises:
        BadPrompt: a word that is not understood, or phrases that contradict each other; the message says which.
    """
    plain = re.sub(r"(?<=[^\W\d_])[-‐‑](?=[^\W\d_])", " ", text.strip().rstrip("?.!").lower())
    words = " ".join(PIECES.findall(plain))
    if not words:
        raise BadPrompt(f"The query is empty. {KNOWN}")
    try:
        tree = _parser().parse(words)
    except UnexpectedInput as error:
        strange = words[error.pos_in_stream or 0 :].split(" ", 1)[0]
        raise _error(text, f"I do not understand {strange!r}") from error
    reader = _Reader(text)
    reader.visit(tree)
    return reader.query()


def _fits(query: Query, nodule: Nodule) -> bool:
    return (
        (not query.textures or nodule.texture in query.textures)
        and (not query.places or any(place.holds(nodule) for place in query.places))
        and all(span.holds(nodule) for span in query.ranges)
    )


def _notes(query: Query, nodules: Sequence[Nodule], known: list[Nodule]) -> list[str]:
    notes = []
    if any(place.lobe for place in query.places):
        notes.append(LOBES_ESTIMATED)
    unplaced = _unplaced(query, nodules)
    if unplaced:
        notes.append(f"Left out because the scan shows too little of the lung to say where: {_numbered(unplaced)}.")
    graded = tuple(span for span in query.ranges if span.measure == "risk")
    if graded or query.order in (ORDERS["MOST_SUSPICIOUS"], ORDERS["LEAST_SUSPICIOUS"]):
        rest = replace(query, ranges=tuple(span for span in query.ranges if span not in graded))
        ungraded = [n for n in nodules if n.risk is None and _fits(rest, n)]
    else:
        ungraded = []
    if ungraded:
        notes.append(f"Left out because no risk is known: {_numbered(ungraded)}.")
    if query.one and not query.order and len(known) > 1:
        notes.append(f"You asked for one and {len(known)} fit: all of them are given, for none is singled out.")
    return notes


def _unplaced(query: Query, nodules: Sequence[Nodule]) -> list[Nodule]:
    """Those that would fit, were their lobe or zone known."""
    anywhere = replace(query, places=tuple(Place(side=place.side) for place in query.places))
    return [
        nodule
        for nodule in nodules
        if _fits(anywhere, nodule)
        and any(
            (place.lobe is not None and nodule.position.lobe_estimate == "unknown")
            or (place.zone is not None and nodule.position.zone == "unknown")
            for place in query.places
        )
    ]


def _numbered(nodules: Sequence[Nodule]) -> str:
    return f"nodule{'s' * (len(nodules) > 1)} {', '.join(str(nodule.id) for nodule in nodules)}"


def _nodules(count: int) -> str:
    return f"{count} nodule{'s' * (count != 1)}"


def _wanted(query: Query) -> str:
    if query.place_in_order:
        return f"number {query.place_in_order}"
    return "one" if query.one else str(query.count) if query.count else "all that do"


# ---------------------------------------------------------------- what the terminals of the grammar mean

TEXTURES: dict[str, frozenset[Texture]] = {
    "SOLID": frozenset({"solid"}),
    "PART_SOLID": frozenset({"part-solid"}),
    "SUBSOLID": frozenset({"part-solid", "ground-glass"}),
    "GROUND_GLASS": frozenset({"ground-glass"}),
}
ORDERS = {
    "LARGEST": Order("diameter_mm", most=True),
    "SMALLEST": Order("diameter_mm", most=False),
    "MOST_SUSPICIOUS": Order("risk", most=True),
    "LEAST_SUSPICIOUS": Order("risk", most=False),
    "MOST_CERTAIN": Order("score", most=True),
    "LEAST_CERTAIN": Order("score", most=False),
}
BOUNDS: dict[str, Callable[[str, float], Range]] = {
    "ABOVE": lambda measure, value: Range(measure, low=value, open=True),
    "AT_LEAST": lambda measure, value: Range(measure, low=value),
    "OR_MORE": lambda measure, value: Range(measure, low=value),
    "BELOW": lambda measure, value: Range(measure, high=value, open=True),
    "AT_MOST": lambda measure, value: Range(measure, high=value),
    "OR_LESS": lambda measure, value: Range(measure, high=value),
}
MEASURED = {
    "DIAMETER": "diameter_mm",
    "VOLUME": "volume_mm3",
    "RISK": "risk",
    "IN_DIAMETER": "diameter_mm",
    "IN_VOLUME": "volume_mm3",
}
UNITS = {
    "MM": ("diameter_mm", 1.0),
    "CM": ("diameter_mm", 10.0),
    "MM3": ("volume_mm3", 1.0),
    "ML": ("volume_mm3", 1000.0),
    "PERCENT": ("risk", 0.01),
}
SIDES: dict[str, Side] = {"LEFT": "left", "RIGHT": "right"}
LEVELS = {"UPPER": "upper", "MIDDLE": "middle", "LOWER": "lower"}
LOBES = {
    "RUL": Place("right", "upper"),
    "RML": Place("right", "middle"),
    "RLL": Place("right", "lower"),
    "LUL": Place("left", "upper"),
    "LLL": Place("left", "lower"),
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
PIECES = re.compile(r"\d+(?:\.\d+)?|mm[3³]|cm[3³]|[^\W\d_]+|>=|<=|\S")

Part = Token | Tree[Token]


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR.read_text("utf-8"), parser="lalr")


def _error(text: str, what: str) -> BadPrompt:
    return BadPrompt(f"{what} (in {text!r}). {KNOWN}")


class _Reader(Interpreter[Token, None]):
    """Makes a query of a tree, phrase by phrase; its methods have the names of the grammar's rules."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found = Query()
        self.singular: bool | None = None

    def query(self) -> Query:
        """All that was read, once nothing is left to read."""
        found = self.found
        if found.place_in_order is not None and found.order is None:
            raise self.error("Which order is counted in? Say second largest, or third most suspicious")
        if found.count is not None and found.order is None:
            count = found.count
            raise self.error(f"Which {count}? Say {count} largest, smallest, most suspicious or most certain")
        singular = found.order is not None if self.singular is None else self.singular
        one = found.place_in_order is not None or found.count == 1 or (found.count is None and singular)
        return replace(found, one=one)

    def textures(self, tree: Tree[Token]) -> None:
        """``solid``, ``solid or part-solid``."""
        if self.found.textures:
            raise self.error("The query has two textures; join them with or")
        named = [TEXTURES[token.type] for token in self.joined(tree) if isinstance(token, Token)]
        self.found = replace(self.found, textures=frozenset[Texture]().union(*named))

    def order(self, tree: Tree[Token]) -> None:
        """``largest``."""
        (token,) = _tokens(tree)
        if self.found.order not in (None, ORDERS[token.type]):
            raise self.error(f"{str(token)!r} contradicts the order named before")
        self.found = replace(self.found, order=ORDERS[token.type])

    def count(self, tree: Tree[Token]) -> None:
        """``three``, ``3``."""
        (token,) = _tokens(tree)
        value = NUMBERS[token] if token.type == "NUMBER_WORD" else float(token)
        if value < 1 or not float(value).is_integer() or self.found.count is not None:
            raise self.error(f"{str(token)!r} is no number of nodules")
        self.found = replace(self.found, count=int(value))

    def ordinal(self, tree: Tree[Token]) -> None:
        """``second``, ``2nd``."""
        (token,) = _tokens(tree)
        self.found = replace(self.found, place_in_order=ORDINALS.get(token) or int(float(token)))

    def noun(self, tree: Tree[Token]) -> None:
        """``nodule``, ``lesions``."""
        (token,) = _tokens(tree)
        self.singular = token.type == "NODULE"

    def range(self, tree: Tree[Token]) -> None:
        """``over 6 mm``, ``6 mm or more``, ``5 to 8 mm``, ``risk over 50 %``."""
        measured = [MEASURED[token.type] for token in _tokens(tree)]
        (span,) = (child for child in tree.children if isinstance(child, Tree))
        read = {"bounded": self.bounded, "interval": self.interval, "endless": self.endless, "lone_between": self.lone}
        self.found = replace(self.found, ranges=(*self.found.ranges, read[span.data](span, *measured)))

    def bounded(self, tree: Tree[Token], measured: str | None = None) -> Range:
        """``over 6 mm``, ``6 mm or more``."""
        (amount,) = (child for child in tree.children if isinstance(child, Tree))
        (bound,) = _tokens(tree)
        return BOUNDS[bound.type](*self.value(amount, None, measured))

    def interval(self, tree: Tree[Token], measured: str | None = None) -> Range:
        """``5 to 8 mm``, ``between 5 and 8 mm``; one unit serves both ends."""
        low, high = (child for child in tree.children if isinstance(child, Tree))
        start, stop = self.value(low, high, measured), self.value(high, low, measured)
        if start[0] != stop[0] or start[1] >= stop[1]:
            raise self.error(f"A range rises: {_number(low):g} to {_number(high):g} does not")
        return Range(start[0], start[1], stop[1])

    def endless(self, tree: Tree[Token], measured: str | None = None) -> Range:
        """``5 to``."""
        raise self.error("A range has two ends, as in 5 to 8 mm")

    def lone(self, tree: Tree[Token], measured: str | None = None) -> Range:
        """``6 mm``."""
        amount = next((child for child in tree.children if isinstance(child, Tree)), tree)
        number = " ".join(token for token in _tokens(amount) if token.type in ("NUMBER", *UNITS))
        raise self.error(f"{number} alone is no range: say over, under, or 5 to 8")

    def numberless(self, tree: Tree[Token]) -> None:
        """``over``."""
        raise self.error(f"{' '.join(_tokens(tree))!r} needs a number, as in over 6 mm")

    def value(self, amount: Tree[Token], other: Tree[Token] | None, measured: str | None) -> tuple[str, float]:
        """What an amount measures, and how much that is in the report's unit.

        Args:
            amount: a number with its unit.
            other: whose unit holds where the amount has none.
            measured: what is said to be measured; None: the unit says it.
        """
        number = _number(amount)
        unit = _unit(amount) or (other and _unit(other))
        if unit is None and measured != "risk":
            raise self.error(f"{number:g} of what? Give mm, cm, mm3 or ml")
        measure, scale = UNITS[unit.type] if unit else ("risk", 1.0)
        if measured != measure and (measured or measure == "risk"):
            raise self.error(
                f"{number:g} {unit or ''} does not go with what is measured; say over 6 mm, over 1 ml, risk over 50 %"
            )
        if measure == "risk" and not 0 <= number * scale <= 1:
            raise self.error(f"A risk is between 0 and 1, or 0 and 100 %, not {number:g}")
        return measure, number * scale

    def places(self, tree: Tree[Token]) -> None:
        """``left lung``, ``right upper lobe``, ``upper or middle lobes``, ``RUL or left lower zone``."""
        named: list[Place] = []
        waiting: list[list[Token]] = []  # sides and levels that share the next noun
        for place in self.joined(tree):
            words = _tokens(place)
            if words[0].type in LOBES:
                named += [*self.places_of(waiting, None), LOBES[words[0].type]]
                waiting = []
                continue
            noun = words.pop() if words[-1].type in ("LOBE", "ZONE", "LUNG") else None
            waiting.append(words)
            if noun:
                named += self.places_of(waiting, noun)
                waiting = []
        named += self.places_of(waiting, None)
        before = self.found.places or (Place(),)
        both = [where for a in before for b in named if (where := a.within(b)) is not None]
        if not both:
            raise self.error("No place in the lungs is in all of the places named; join them with or")
        self.found = replace(self.found, places=tuple(both))

    def places_of(self, items: list[list[Token]], noun: Token | None) -> list[Place]:
        """Places that share a noun; a side holds until another is named."""
        kind = noun.type if noun else "LUNG"
        side: Side | None = None
        out = []
        for item in items:
            side = next((SIDES[word.type] for word in item if word.type in SIDES), side)
            level = next((LEVELS[word.type] for word in item if word.type in LEVELS), None)
            if level and kind == "LUNG":
                raise self.error(f"{level!r} what? Say {level} lobe, or {level} zone for a third of the lung's height")
            if level is None and kind != "LUNG":
                raise self.error(f"Which {noun} of the {side} lung? Say upper, middle or lower")
            if (side, level, kind) == ("left", "middle", "LOBE"):
                raise self.error("The left lung has no middle lobe")
            out.append(Place(side, level if kind == "LOBE" else None, level if kind == "ZONE" else None))
        return out

    def joined(self, tree: Tree[Token]) -> list[Part]:
        """The members of a list, without conjunctions. It may end in "and" or a comma."""
        last = tree.children[-1]
        if _is_gap(last) and _tokens(last):
            raise self.error("I do not understand 'or'")
        return [child for child in tree.children if not _is_gap(child)]

    def error(self, what: str) -> BadPrompt:
        return _error(self.text, what)


def _tokens(part: Part) -> list[Token]:
    return [part] if isinstance(part, Token) else [child for child in part.children if isinstance(child, Token)]


def _is_gap(part: Part) -> bool:
    return isinstance(part, Tree) and part.data == "gap"


def _number(amount: Tree[Token]) -> float:
    return float(_tokens(amount)[0])


def _unit(amount: Tree[Token]) -> Token | None:
    return next((token for token in _tokens(amount) if token.type in UNITS), None)
