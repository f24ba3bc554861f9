"""From the words of a text to a :class:`~nodulens.query.criteria.Query`, by ``grammar.lark``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.lexer import Lexer
from lark.visitors import Interpreter

from nodulens.core.nodule import Side
from nodulens.errors import BadPrompt
from nodulens.query.criteria import Condition, Criterion, Measure, Place, Property, Query, Range, Textured
from nodulens.query.lexicon import Lexicon, Word, load_lexicons, refused
from nodulens.query.meanings import (
    ABOUT_VOLUME,
    AREAS,
    AREAS_ARE_ZONES,
    BOUNDS,
    BOUNDS_AFTER,
    CURRENT,
    DIAMETER,
    LEVELS,
    LOBES,
    MEASURES,
    NAMED,
    NODULES,
    NUMBERS,
    ORDERS,
    ORDINALS,
    PLEURA,
    PROPERTIES,
    SAID,
    SIDES,
    SIZES,
    SORTED,
    TEXTURES,
    UNITS,
    UNMARKED,
)

GRAMMAR = Path(__file__).with_name("grammar.lark")
READING_MM = 0.5
"""A size without "over" or "under" is one in whole millimetres, to which guidelines round (Bankier et al. 2017)."""
HAD = (*NAMED, "SOLID_PART")
"""What a nodule has, as nouns."""
GROWTH = ("GROWING", "SHRINKING", "GROWTH")
UPWARDS, DOWNWARDS = ("ABOVE", "AT_LEAST", "OR_MORE"), ("BELOW", "AT_MOST", "OR_LESS", "WITHIN")
PLACES = ("SIDE", "LEVEL", "AREA", "KIND", "LUNG", "LOBE_NAME")
HINTS = {
    "OR": ": it joins textures, places or properties alone; ask for one size or order at a time",
    "UNIT": ": its number comes before it, in digits, as in 8 mm",
    "ORDER": ": an order cannot be left out; say second largest for what comes after the largest",
}
"""What to say of a word that stands where it cannot."""
Part = Token | Tree[Token]


def parse(text: str, lexicons: Sequence[Lexicon] | None = None, *, compared: bool = False) -> Query:
    """Parse a text query.

    Args:
        text: in any of the languages; all its words are of one.
        lexicons: see :func:`~nodulens.query.lexicon.load_lexicons`; None for the languages that ship.
        compared: whether it asks of a comparison with a prior scan, which tells what is new and what grows.

    Raises:
        BadPrompt: a word that is not understood or cannot be answered, or phrases that contradict each other; the
            message says which.
    """
    lexicons = load_lexicons() if lexicons is None else lexicons
    read = [(lexicon, *lexicon.words(text)) for lexicon in lexicons]
    fitting = [(lexicon, words) for lexicon, words, strange in read if not strange]
    if not fitting:
        # of as many strange pieces, a number in another way of writing is none of another language
        lexicon, words, strange = min(
            read, key=lambda found: (len(found[2]), sum(not piece[0].isdigit() for piece in found[2]))
        )
        said = _not_understood(strange, lexicon, lexicons)
        reasons = [str(error) for word in words if (error := refused(word, compared))]
        raise _error(text, " ".join([said, *reasons]), lexicon.known(compared))
    queries: dict[str, Query] = {}
    errors: list[BadPrompt] = []
    for lexicon, words in fitting:
        try:
            queries[lexicon.name] = _query(words, compared)
        except BadPrompt as error:
            errors.append(_error(text, str(error), lexicon.known(compared)))
    if not queries:
        raise errors[0]
    first, *others = queries.values()
    if any(other != first for other in others):
        raise BadPrompt(f"{text!r} means one thing in {' and another in '.join(queries)}; say which: --language.")
    return first


def _not_understood(strange: Sequence[str], own: Lexicon, lexicons: Sequence[Lexicon]) -> str:
    """What to say of pieces that are no words."""
    said = []
    for piece in dict.fromkeys(strange):
        others = [lexicon.name for lexicon in lexicons if lexicon is not own and not lexicon.words(piece)[1]]
        near = own.near(piece)
        if piece[0].isdigit():
            said.append(f"{piece!r} (the decimal sign in {own.name} is {own.decimal!r}, and thousands have none)")
        elif others:
            said.append(f"{piece!r} (a word of {others[0]}: all words must be of one language, here {own.name})")
        elif near:
            said.append(f"{piece!r} (did you mean {' or '.join(map(repr, near))}?)")
        else:
            said.append(repr(piece))
    return f"I do not understand {', '.join(said)}."


def _query(words: Sequence[Word], compared: bool) -> Query:
    """What words of one language ask for."""
    if not words:
        raise BadPrompt("The query is empty.")
    for word in words:
        if error := refused(word, compared):
            raise error
    for check in (
        _check_joined,
        _check_course,
        _check_named,
        _check_growth,
        _check_denied,
        _check_each,
        _check_first,
        _check_chosen,
        _check_said,
    ):
        check(words)
    try:
        tree = _parser().parse(_with_ends(words))
    except UnexpectedInput as error:
        if isinstance(error, UnexpectedToken) and isinstance(error.token.value, Word):
            word = error.token.value
            raise BadPrompt(f"I do not understand {word.text!r} here{HINTS.get(word.terminal, '')}.") from error
        raise BadPrompt(f"Something is missing after {words[-1].text!r}.") from error
    reader = _Reader()
    reader.visit(tree)
    found = reader.query()
    if not compared or any(word.meaning == "RESOLVED" for word in words):
        return found
    conditions, definitions = (*found.conditions, Condition((CURRENT,))), (*found.definitions, CURRENT.definition)
    return replace(found, conditions=conditions, definitions=definitions)


def _check_joined(words: Sequence[Word]) -> None:
    """Refuse "solid nodules and the largest": an order is for all that is asked for; and "all but", which means except.

    Raises:
        BadPrompt: a conjunction before an order or a count, or "but" where nothing is said before it.
    """
    waiting: Word | None = None
    before = ""
    for word in words:
        if word.meaning == "BUT" and before in ("", "ALL", "NOUN"):
            raise BadPrompt(f"I do not understand {word.text!r} here: say except, or but not")
        if word.meaning != "COMMA":
            before = word.terminal
        if word.meaning in ("AND", "OR"):
            waiting = word
        elif word.terminal in ("ORDER", "ORDINAL", "TH", "ALL", "TOP") and waiting:
            raise BadPrompt(f"I do not understand {waiting.text!r} before {word.text!r}: ask for one thing at a time.")
        elif word.terminal not in ("FILLER", "OF", "COMMA", "NUMBER", "NUMBER_WORD"):
            waiting = None


def _check_course(words: Sequence[Word]) -> None:
    """Refuse "over 8 mm since the last CT".

    Raises:
        BadPrompt: a time, and nothing that became of a nodule in it.
    """
    told = any(isinstance(known := PROPERTIES.get(word.meaning), Property) and known.prior for word in words)
    since = next((word for word in words if word.meaning == "SINCE"), None)
    if since and not told:
        raise BadPrompt(f"{since.text!r} goes with new, growing, shrinking, stable or resolved")


def _check_growth(words: Sequence[Word]) -> None:
    """Refuse "grown by over 2 mm" and "um 2 mm gewachsen": a size is what a nodule has, not what it has gained.

    Raises:
        BadPrompt: growth beside a number, with nothing but fillers between.
    """
    for first, second in _pairs(words):
        growth = first if first.meaning in GROWTH else second
        if (first.meaning in GROWTH and second.terminal in ("BOUND", "BETWEEN", "NUMBER", "MEASURE")) or (
            second.meaning in GROWTH and first.terminal in ("UNIT", "BOUND_AFTER", "SAID")
        ):
            raise BadPrompt(
                f"I do not understand {growth.text!r} beside a number: by how much a nodule has grown is not asked for "
                "here; of its size say growing nodules over 8 mm"
            )


def _check_named(words: Sequence[Word]) -> None:
    """Refuse "new calcification" and "central solid component", but not "new nodules with calcification".

    Raises:
        BadPrompt: a property beside what a nodule has, which would be the property's owner.
    """
    adjacent = set(pairwise(words))
    for first, second in _pairs(words):
        own, other = (first, second) if first.meaning in HAD else (second, first)
        beside = own is first or (first, second) in adjacent  # "central, with calcification" is two things
        if own.meaning in HAD and other.terminal == "PROPERTY" and beside:
            raise BadPrompt(
                f"I do not understand {other.text!r} beside {own.text!r}: it is known of whole nodules alone, as in "
                "new nodules with calcification"
            )


def _check_denied(words: Sequence[Word]) -> None:
    """Refuse "no solid nodules" and "are there no masses?", which ask for none, and "nodule no 5".

    Raises:
        BadPrompt: "no", and what is asked for, or a number, comes after it.
    """
    nouns = [at for at, word in enumerate(words) if word.terminal == "NOUN"]
    for at, word in enumerate(words):
        number = at + 1 < len(words) and words[at + 1].terminal == "NUMBER"
        if word.meaning == "NO" and (number or (nouns and nouns[0] > at)):
            raise BadPrompt(f"I do not understand {word.text!r} before what is asked for: say nodules, no masses")


def _check_each(words: Sequence[Word]) -> None:
    """Refuse "largest nodule in every lung", which asks for several; "the largest of all left lung nodules" does not.

    Raises:
        BadPrompt: "all" before a place that ends the query, after an order.
    """
    ordered = False
    for at, word in enumerate(words):
        ordered |= word.terminal == "ORDER"
        after = [one.terminal for one in words[at + 1 :] if one.terminal != "FILLER"]
        if ordered and word.meaning == "ALL" and "NOUN" not in after and after[:1] and after[0] in PLACES:
            raise BadPrompt(f"I do not understand {word.text!r} before a place: ask for one lung or lobe at a time")


def _check_first(words: Sequence[Word]) -> None:
    """Refuse "smallest second", and "most certain first", which may ask for one or for all.

    Raises:
        BadPrompt: a place in an order right after it.
    """
    for first, second in pairwise(words):
        if first.terminal == "ORDER" and second.terminal == "ORDINAL":
            raise BadPrompt(
                f"I do not understand {second.text!r} after {first.text!r}: say nodules by size, or second largest"
            )


def _check_chosen(words: Sequence[Word]) -> None:
    """Refuse "solid nodules among the three largest" and "is the largest nodule solid?": they choose first, and ask
    then, and the answer would be the largest solid nodule.

    Raises:
        BadPrompt: "of" before an order, or "is" at the start or after what an order has chosen.
    """
    told = "an order is for all that is asked for, as in largest solid nodule"
    chosen = any(word.terminal == "ORDER" for word in words)
    ordered = False
    for at, word in enumerate(words):
        if word.meaning == "AMONG":
            after = [w for w in words[at + 1 :] if w.terminal not in ("FILLER", "TOP", "NUMBER", "NUMBER_WORD")]
            if after and after[0].terminal in ("ORDER", "ORDINAL", "TH"):
                raise BadPrompt(f"I do not understand {word.text!r} before {after[0].text!r}: {told}")
        if word.meaning == "IS" and chosen and (at == 0 or (ordered and words[at - 1].terminal in ("NOUN", "ORDER"))):
            raise BadPrompt(f"I do not understand {word.text!r} here: {told}")
        ordered |= word.terminal == "ORDER"


def _check_said(words: Sequence[Word]) -> None:
    """Refuse "largest solid component over 5 mm", where it is not clear what is largest, and "over 6 mm long axis over
    4 mm", where it is not clear which of the two is the long axis.

    Raises:
        BadPrompt: an order right before what is measured, or that between two sizes.
    """
    for at, word in enumerate(words):
        if word.terminal != "MEASURE" or at == 0:
            continue
        before, after = words[at - 1], words[at + 1].terminal if at + 1 < len(words) else ""
        if before.terminal == "ORDER":
            raise BadPrompt(f"I do not understand {before.text!r} before {word.text!r}: say largest nodule, or a size")
        usual = MEASURES[word.meaning] in UNMARKED.values()
        if not usual and before.terminal in ("UNIT", "BOUND_AFTER") and after in ("BOUND", "BETWEEN", "NUMBER"):
            raise BadPrompt(f"Which of the two is {word.text!r}? Put a comma between the sizes")


def _pairs(words: Sequence[Word]) -> Iterator[tuple[Word, Word]]:
    """Words that follow one another, with nothing but words between that say nothing."""
    said = [word for word in words if word.terminal not in ("FILLER", "OF")]
    return pairwise(said)


def _with_ends(words: Sequence[Word]) -> list[Word]:
    """The words, where "bis" without a number before it is "up to", as in "Herde bis 8 mm"; nothing in "bis maximal
    8 mm", nor is "à" in "à moins de 8 mm". In "GGN nodules" the second noun counts.

    Raises:
        BadPrompt: "from the" after a length, as in "2 cm from the diaphragm".
    """
    out: list[Word] = []
    for at, word in enumerate(words):
        number = bool(out) and out[-1].terminal in ("NUMBER", "UNIT")
        after = words[at + 1] if at + 1 < len(words) else None
        if word.meaning == "FROM" and number:
            raise BadPrompt(f"I do not understand {word.text!r} after a length: say from the pleura")
        bound = after if after and after.terminal == "BOUND" else None
        # "8 mm à moins de 5 mm de la plèvre" is a size and a distance, "6 mm à moins de 8 mm" one range
        distance = bool(out) and out[-1].terminal == "UNIT" and _has(words[at + 2 : at + 5], "FROM_PLEURA")
        if bound and word.meaning == "TO" and bound.text == word.text and (distance or not number):
            continue
        if bound and word.meaning == "UNTIL" and bound.meaning in ("AT_MOST", "BELOW") and not number:
            continue
        acronym = bool(out) and out[-1].terminal == "TEXTURE" and out[-1].text == word.text
        if acronym and word.terminal == "NOUN" and after is not None and after.terminal == "NOUN":
            continue
        out.append(replace(word, meaning="AT_MOST") if word.meaning == "UNTIL" and not number else word)
    return out


def _has(words: Sequence[Word], meaning: str) -> bool:
    return any(word.meaning == meaning for word in words)


class _Words(Lexer):
    """Hands the words of a text to the parser as its terminals."""

    def __init__(self, lexer_conf: object) -> None:
        """Lark gives its configuration, of which nothing is needed."""

    def lex(self, data: Sequence[Word]) -> Iterator[Token]:  # type: ignore[override]  # words in place of a text
        """A token for each word."""
        return (Token(_terminal(data, at), word) for at, word in enumerate(data))


def _terminal(words: Sequence[Word], at: int) -> str:
    """A word's terminal where it stands: what is measured is said before a number, as in "risk over 65 %", or after
    it, as in "over 65 % risk"; and "de diamètre" likewise."""
    word = words[at]
    if word.terminal not in ("MEASURE", "SAID"):
        return word.terminal
    after = next((one.terminal for one in words[at + 1 :] if one.terminal not in ("FILLER", "OF")), "")
    leads = after in ("BOUND", "BETWEEN", "NUMBER")
    ends = at > 0 and words[at - 1].terminal in ("UNIT", "BOUND_AFTER")
    return word.terminal if leads == ends else "MEASURE" if leads else "SAID" if ends else word.terminal


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR.read_text("utf-8"), parser="lalr", lexer=_Words)


def _error(text: str, what: str, known: str) -> BadPrompt:
    return BadPrompt(f"{what.rstrip('.')} (in {text!r}). {known}")


class _Reader(Interpreter[Token, None]):
    """Makes a query of a tree, phrase by phrase; its methods have the names of the grammar's rules."""

    def __init__(self) -> None:
        self.found = Query()
        self.negated = False
        self.excluding = False
        self.nouns: list[Word] = []
        self.several = False
        self.kinds: dict[str, Word] = {}  # kinds of properties that are wanted
        self.shared: Word | None = None  # the "and" between places
        self.lent: dict[int, Tree[Token]] = {}  # of a range without a unit, the amount that has it
        self.inherited: dict[int, Measure] = {}  # of a range, what is measured by the range that it goes on

    def start(self, tree: Tree[Token]) -> None:
        """All phrases; of two ranges that stand together, the one says what the other leaves out."""
        last: Tree[Token] | None = None
        between: list[Word] = []
        for part in tree.children:
            if isinstance(part, Token):
                between += _words(part)
                continue
            if part.data == "range":
                if last and len(between) < 2:
                    self.join(last, part, any(word.meaning == "COMMA" for word in between))
                last, between = part, []
            else:
                last = None
        self.visit_children(tree)

    def join(self, first: Tree[Token], second: Tree[Token], comma: bool) -> None:
        """``over 6 and under 8 mm``, ``solid component over 6 mm and under 8 mm``.

        Args:
            first, second: ranges.
            comma: whether a comma joins them; else it is a conjunction, or nothing.

        Raises:
            BadPrompt: it is not clear what one of them measures.
        """
        amount, unit = _amounts(second)[0], _unit(_amounts(second)[-1])
        own, other = self.said(first), self.said(second)
        alike = (own is None or own.unit != "share") and (other is None or other in UNMARKED.values())
        if unit and alike and _unit(_amounts(first)[0]) is None:
            self.lent[id(first)] = _amounts(second)[-1]
        told = own or other
        if told is None or (own and other) or told in UNMARKED.values():
            return
        if told.unit != (UNITS[unit.meaning][0] if unit else "share"):
            return
        leads = own is not None and isinstance(first.children[0], Token)
        trails = isinstance((first if own else second).children[0], Tree)
        across = {_way(first), _way(second)} == {1, -1}
        if leads and across and not comma and told is not PLEURA:
            self.inherited[id(second)] = told
        elif leads or (trails and across and told is not PLEURA):
            size = " ".join(word.text for word in _words(amount if own else _amounts(first)[0]))
            raise BadPrompt(
                f"{size!r} of what? Say it of each size, as in diameter over 8 mm and solid component over 4 mm"
            )

    def said(self, tree: Tree[Token]) -> Measure | None:
        """What a range measures, where it is said of it, or of the range that it goes on."""
        said = next((word for word in _words(tree) if word.terminal in ("MEASURE", "SAID")), None)
        return {**MEASURES, **SAID}[said.meaning] if said else self.inherited.get(id(tree))

    def query(self) -> Query:
        """All that was read, once nothing is left to read."""
        found = self.found
        if found.place_in_order is not None and found.order is None:
            raise BadPrompt("Which order is counted in? Say second largest, or third most suspicious")
        if found.count is not None and found.order is None:
            count = found.count
            raise BadPrompt(f"Which {count}? Say {count} largest, smallest, most suspicious or most certain")
        places = [condition for condition in found.conditions if isinstance(condition.any_of[0], Place)]
        wanted = [Place()]
        for condition in places:
            if not condition.negated:
                here = [one for one in condition.any_of if isinstance(one, Place)]
                wanted = [b for a in wanted for b in here if a.agrees(b)]
        if not wanted:
            raise BadPrompt("No place in the lungs is in all of the places named; join them with or")
        self.check_ranges()
        singular = not self.several and (bool(self.nouns) or found.order is not None)
        one = found.place_in_order is not None or found.count == 1 or (found.count is None and (singular or found.one))
        if one and found.order and self.shared:
            raise BadPrompt(
                f"{self.shared.text!r} between places has two meanings where one nodule is asked for: say or, or ask "
                "for one place at a time"
            )
        return replace(found, one=one)

    def check_ranges(self) -> None:
        """Refuse "over 10 mm and under 6 mm", which may mean one or the other.

        Raises:
            BadPrompt: no value is in all ranges of a measure.
        """
        held = [one for c in self.found.conditions if not c.negated and len(c.any_of) == 1 for one in c.any_of]
        ranges = [one for one in held if isinstance(one, Range)]
        if any(a.measure is b.measure and not a.meets(b) for a, b in combinations(ranges, 2)):
            raise BadPrompt("No nodule is in all of the ranges named; ask for one range at a time")

    def add(self, any_of: Sequence[Criterion], *definitions: str) -> None:
        """A condition, to what is wanted or to what is excluded."""
        new = Condition(tuple(any_of), self.negated)
        said = tuple(dict.fromkeys((*self.found.definitions, *definitions)))
        if self.excluding:
            self.found = replace(self.found, excluded=(*self.found.excluded, new), definitions=said)
        else:
            self.found = replace(self.found, conditions=(*self.found.conditions, new), definitions=said)

    def textures(self, tree: Tree[Token]) -> None:
        """``solid``, ``solid or part-solid``."""
        words, _ = self.listed(tree)
        held = self.found.excluded if self.excluding else self.found.conditions
        if not self.negated and any(isinstance(c.any_of[0], Textured) and not c.negated for c in held):
            raise BadPrompt("The query has two textures; join them with or")
        self.add([Textured(frozenset().union(*(TEXTURES[word.meaning] for word in words)))])

    def sizes(self, tree: Tree[Token]) -> None:
        """``mass``, ``masses or micronodules``."""
        words, _ = self.listed(tree)
        named = [SIZES[word.meaning] for word in words]
        self.add([size for size, _ in named], *(definition for _, definition in named))

    def properties(self, tree: Tree[Token]) -> None:
        """``calcified``, ``subpleural or calcified``; with "and" all are wanted, and none where it is negated."""
        words, joined = self.listed(tree)
        named = [known for word in words if not isinstance(known := PROPERTIES[word.meaning], str)]
        said = [known.definition for known in named]
        if joined >= {"OR", "AND"}:
            raise BadPrompt("I do not understand 'or' and 'and' in one list")
        if self.excluding and joined and "OR" not in joined and {one.kind for one in named} != {named[0].kind or None}:
            raise BadPrompt(
                f"A list of {words[0].text!r} and {words[1].text!r} in what is left out has two meanings: join them "
                "with or, or leave out the and to mean both at once"
            )
        if self.negated or self.excluding or "OR" in joined:
            self.add(named, *said)
        else:
            for word, one in zip(words, named, strict=True):
                first = self.kinds.setdefault(one.kind, word) if one.kind else word
                if PROPERTIES[first.meaning] is not one:
                    raise BadPrompt(f"No nodule is both {first.text!r} and {word.text!r}; join them with or")
                self.add([one], one.definition)

    def listed(self, tree: Tree[Token]) -> tuple[list[Word], set[str]]:
        """The members of a list without its nouns, and the conjunctions between them.

        Raises:
            BadPrompt: it ends in "or", or what is excluded goes on after it.
        """
        gaps = [_words(child) for child in tree.children if _is(child, "gap")]
        if _is(tree.children[-1], "gap"):
            self.check_end(gaps.pop())
        words = _words(tree)
        nouns = [word for word in words if word.terminal == "NOUN"]
        if nouns:
            self.name(nouns[-1], any(NODULES[noun.meaning] for noun in nouns))
        joined = {word.meaning for gap in gaps for word in gap if word.meaning in ("OR", "AND", "COMMA")}
        if self.negated and gaps and "OR" not in joined and tree.data != "sizes":
            raise BadPrompt(f"{gaps[0][0].text!r} in what is negated has two meanings; say neither … nor, or only one")
        return [word for word in words if word.terminal != "NOUN"], joined

    def check_end(self, gap: Sequence[Word]) -> None:
        """Refuse a list that ends in "or", and in "and" where it is not clear what the next phrase belongs to.

        Raises:
            BadPrompt: it does.
        """
        either = next((word for word in gap if word.meaning == "OR"), None)
        if either:
            raise BadPrompt(f"I do not understand {either.text!r}: it joins textures, places or properties alone")
        if self.excluding:
            raise BadPrompt(f"I do not understand {gap[0].text!r} in what is left out: ask for one thing at a time")

    def order(self, tree: Tree[Token]) -> None:
        """``largest``, ``largest of``."""
        word, *of = _words(tree)
        held, order = self.found.order, ORDERS[word.meaning]
        if held and word.meaning == "BY_VOLUME" and held.measure is DIAMETER:  # "smallest nodule by volume"
            order = replace(order, most=held.most)
        elif held not in (None, order):
            raise BadPrompt(f"{word.text!r} contradicts the order named before")
        self.several |= word.meaning in SORTED and not held and not self.nouns
        self.found = replace(self.found, order=order, one=self.found.one or bool(of))

    def count(self, tree: Tree[Token]) -> None:
        """``three``, ``3``, ``top 3``."""
        word = _words(tree)[-1]
        value = float(NUMBERS[word.meaning]) if word.terminal == "NUMBER_WORD" else float(word.text)
        if self.found.one:
            raise BadPrompt(f"Of which {word.text}? Say how many you want, as in 2 largest solid nodules")
        if value < 1 or not value.is_integer() or self.found.count is not None:
            raise BadPrompt(f"{word.text!r} is no number of nodules")
        self.found = replace(self.found, count=int(value))

    def ordinal(self, tree: Tree[Token]) -> None:
        """``second``, ``2nd``."""
        word = _words(tree)[0]
        value = ORDINALS.get(word.meaning) or float(word.text)
        if value < 1 or not float(value).is_integer() or self.found.place_in_order is not None:
            raise BadPrompt(f"{word.text!r} is no place in an order")
        self.found = replace(self.found, place_in_order=int(value))

    def all(self, tree: Tree[Token]) -> None:
        """``all``, ``any``."""
        self.several = True

    def noun(self, tree: Tree[Token]) -> None:
        """``nodule``, ``lesions``."""
        (word,) = _words(tree)
        self.name(word, NODULES[word.meaning])

    def name(self, noun: Word, several: bool) -> None:
        """What is asked for, once.

        Raises:
            BadPrompt: it was named before, so that two things may be asked for.
        """
        if self.nouns:
            raise BadPrompt(
                f"I do not understand {noun.text!r} after {self.nouns[0].text!r}: ask for one thing at a time"
            )
        self.nouns.append(noun)
        self.several |= several

    def left_out(self, tree: Tree[Token]) -> None:
        """``except masses``: all that follows says what is left out."""
        kept, several, self.nouns = self.nouns, self.several, []
        self.excluding = True
        self.visit_children(tree)
        self.nouns, self.several = kept, several
        if not self.found.excluded:
            raise BadPrompt(f"What is left out after {_words(tree)[0].text!r}?")

    def not_one(self, tree: Tree[Token]) -> None:
        """``not solid``: the group after it alone."""
        word = _words(tree)[0]
        either = [one for gap in tree.find_data("gap") for one in _words(gap) if one.meaning == "OR"]
        if word.meaning == "NON" and either:
            raise BadPrompt(
                f"{either[0].text!r} after {word.text!r} has two meanings; say neither … nor, or ask for one at a time"
            )
        kept, several, self.nouns = self.nouns, self.several, []
        self.negated = True
        self.visit_children(tree)
        self.negated = False
        if kept:  # "nodules, not masses" asks for nodules
            self.nouns, self.several = kept, several

    # ---- ranges

    def range(self, tree: Tree[Token]) -> None:
        """``over 6 mm``, ``6 mm or more``, ``5 to 8 mm``, ``risk over 50 %``."""
        (span,) = (child for child in tree.children if isinstance(child, Tree))
        if span.data == "bounded":
            self.bounded(span, self.said(tree), self.lent.get(id(tree)))
        else:
            read = {"interval": self.interval, "endless": self.endless, "lone_between": self.lone}
            read[span.data](span, self.said(tree))

    def bounded(self, tree: Tree[Token], measured: Measure | None = None, other: Tree[Token] | None = None) -> None:
        """``over 6 mm``, ``6 mm or more``, ``about 6 mm``; an amount without a unit has that of the other."""
        (amount,) = _amounts(tree)
        (bound,) = _words(tree)
        if bound.meaning == "WITHIN" and measured is not PLEURA:
            raise BadPrompt(f"{bound.text!r} what? Say within 10 mm of the pleura; other distances are not known")
        measure, value = self.value(amount, other, measured)
        span = {**BOUNDS, **BOUNDS_AFTER}[bound.meaning](measure, value)
        if bound.meaning == "ABOUT":
            if measure.unit == "share":
                raise BadPrompt(f"{bound.text!r} goes with sizes alone; give a range, as in risk over 50 %")
            margin = f"by {ABOUT_VOLUME:.0%}" if measure.unit == "mm³" else f"to {span.low:g} to {span.high:g} mm"
            self.add(
                [span], f"About {value:g} {measure.unit} is widened {margin}, which readings of one nodule differ by."
            )
        else:
            self.add([span])

    def interval(self, tree: Tree[Token], measured: Measure | None = None) -> None:
        """``5 to 8 mm``, ``between 5 and 8 mm``, ``over 5 to under 8 mm``; one unit serves both ends."""
        low, high = _amounts(tree)
        start, stop = self.value(low, high, measured), self.value(high, low, measured)
        if start[0] != stop[0] or start[1] >= stop[1]:
            raise BadPrompt(f"A range rises: {_number(low):g} to {_number(high):g} does not")
        first, second = start[1], stop[1]
        for at, part in enumerate(tree.children):
            if isinstance(part, Tree) or part.value.terminal != "BOUND":
                continue
            word, last = part.value, at > tree.children.index(low)
            if word.meaning not in (("BELOW", "AT_MOST") if last else ("ABOVE", "AT_LEAST")):
                raise BadPrompt(f"I do not understand {word.text!r} in a range: say over 5 to under 8 mm")
            if word.meaning == "ABOVE":  # the end itself is out: the next number takes its place
                first = math.nextafter(first, math.inf)
            elif word.meaning == "BELOW":
                second = math.nextafter(second, -math.inf)
        self.add([Range(start[0], first, second)])

    def endless(self, tree: Tree[Token], measured: Measure | None = None) -> None:
        """``5 to``."""
        raise BadPrompt("A range has two ends, as in 5 to 8 mm")

    def lone(self, tree: Tree[Token], measured: Measure | None = None) -> None:
        """``6 mm``: a size in whole millimetres."""
        amount = next((child for child in tree.children if isinstance(child, Tree)), tree)
        said = next((word for word in _words(tree) if word.terminal in ("MEASURE", "SAID")), None)
        measured = {**MEASURES, **SAID}[said.meaning] if said else measured
        measure, value = self.value(amount, None, measured)
        if tree.data == "lone_between" or measure.unit != "mm" or measure is PLEURA or not value.is_integer():
            number = " ".join(word.text for word in _words(amount) if word.terminal in ("NUMBER", "UNIT"))
            raise BadPrompt(f"{number} alone is no range: say over, under, about, or 5 to 8")
        low, high = value - READING_MM, value + READING_MM
        self.add([Range(measure, low, high)], f"{value:g} mm is what rounds to it, {low:g} to {high:g} mm.")

    def numberless(self, tree: Tree[Token]) -> None:
        """``over``."""
        said = " ".join(word.text for word in _words(tree))
        raise BadPrompt(f"{said!r} needs a number, as in over 6 mm")

    def value(self, amount: Tree[Token], other: Tree[Token] | None, measured: Measure | None) -> tuple[Measure, float]:
        """What an amount measures, and how much that is in the measure's unit.

        Args:
            amount: a number with its unit.
            other: whose unit holds where the amount has none.
            measured: what is said to be measured; None: the unit says it.
        """
        number = _number(amount)
        unit = _unit(amount) or (other and _unit(other))
        if unit is None and (measured is None or measured.unit != "share"):
            raise BadPrompt(f"{number:g} of what? Give mm, cm, mm3 or ml")
        if unit is None and number == 1:
            raise BadPrompt("1 is 1 % to some, and all to others: give a risk or a confidence in %")
        kind, scale = UNITS[unit.meaning] if unit else ("share", 1.0)
        measure = measured or UNMARKED.get(kind)
        if measure is None or measure.unit != kind:
            raise BadPrompt(
                f"{number:g} {unit.text if unit else ''} does not go with what is measured; say over 6 mm, over 1 ml, "
                "risk over 50 %"
            )
        if kind == "share" and not 0 <= number * scale <= 1:
            raise BadPrompt(f"A risk or a confidence is between 0 and 1, or 0 and 100 %, not {number:g}")
        return measure, number * scale

    # ---- places

    def places(self, tree: Tree[Token]) -> None:
        """``left lung``, ``right upper or middle lobe``, ``RUL or left lower zone``."""
        last = tree.children[-1]
        if _is(last, "gap"):
            self.check_end(_words(last))
        named: list[Place] = []
        said: list[str] = []
        waiting: list[list[Word]] = []  # sides and levels that share a noun
        noun: Word | None = None  # the noun said before them, as in French
        for child in tree.children:
            if _is(child, "gap"):
                continue
            words = _words(child)
            first = words[0].terminal in ("KIND", "LUNG")
            if first or words[0].terminal == "LOBE_NAME":
                named += _places_of(waiting, noun, named)
                waiting, noun = [], None
            if words[0].terminal == "LOBE_NAME":
                place = LOBES[words[0].meaning]
                named.append(place)
                said.append(f"{words[0].text.upper()} is the {place.side} {place.lobe} lobe.")
                continue
            if first:
                noun = words.pop(0)
            after = words.pop() if words[-1].terminal in ("KIND", "LUNG") else None
            waiting.append(words)
            if after:
                named += _places_of(waiting, after, named)
                waiting, noun = [], None
        named += _places_of(waiting, noun, named)
        joined = [word for child in tree.children[:-1] if _is(child, "gap") for word in _words(child)]
        if any(a.agrees(b) for a, b in combinations(named, 2)) and not any(word.meaning == "OR" for word in joined):
            raise BadPrompt(
                f"{joined[0].text!r} between places that overlap has two meanings; say or, or leave it out to mean both"
            )
        if not self.negated and not self.excluding:
            self.shared = next((word for word in joined if word.meaning == "AND"), self.shared)
        areas = any(word.terminal == "AREA" for child in tree.children for word in _words(child))
        self.add(named, *said, *([AREAS_ARE_ZONES] if areas else []))


def _places_of(items: Sequence[Sequence[Word]], noun: Word | None, before: Sequence[Place]) -> list[Place]:
    """Places that share a noun; a side holds until another is named, and not beyond the noun.

    Args:
        items: a side, a level or both, each.
        noun: lobe, zone or lung.
        before: places of the same list, with nouns of their own.

    Raises:
        BadPrompt: there is no such place, or it is not clear where it is.
    """
    side: Side | None = None
    sided: Word | None = None
    bare: Word | None = None
    out = []
    for item in items:
        own = next((word for word in item if word.terminal == "SIDE"), None)
        level = next((word for word in item if word.terminal in ("LEVEL", "AREA")), None)
        kind = "ZONE" if level and level.terminal == "AREA" else noun.meaning if noun else "LUNG"
        if own:
            side, sided = SIDES[own.meaning], own
        elif sided is None:
            bare = level
        held = any(place.side and (place.lobe or place.zone) for place in before)
        one_sided = bare is not None and (bare.meaning, kind) == ("MIDDLE", "LOBE")
        if bare is not None and not one_sided and (own or (level is bare and held)):
            raise BadPrompt(
                f"{bare.text!r} on which side? Name it with each, as in right upper or right lower lobe; or both"
            )
        if level and kind == "LUNG":
            said = level.text
            raise BadPrompt(f"{said!r} what? Say {said} lobe, or {said} zone for a third of the lung's height")
        if level is None and (kind != "LUNG" or (noun is None and own is not None and own.meaning == "BOTH")):
            named = " ".join(word.text for word in (own, noun) if word)
            raise BadPrompt(f"Which part is {named!r}? Say upper, middle or lower lobe or zone, or lung")
        which = {**LEVELS, **AREAS}[level.meaning] if level else None
        if (side, which, kind) == ("left", "middle", "LOBE"):
            raise BadPrompt("The left lung has no middle lobe")
        out.append(Place(side, which if kind == "LOBE" else None, which if kind == "ZONE" else None))
    return out


def _words(part: Part) -> list[Word]:
    """The words right below a part."""
    tokens = [part] if isinstance(part, Token) else [child for child in part.children if isinstance(child, Token)]
    return [token.value for token in tokens]


def _is(part: Part, rule: str) -> bool:
    return isinstance(part, Tree) and part.data == rule


def _amounts(tree: Tree[Token]) -> list[Tree[Token]]:
    """The numbers with their units, in their order."""
    found: list[Tree[Token]] = []
    for part in tree.children:
        if isinstance(part, Tree):
            found += [part] if part.data in ("amount", "measured") else _amounts(part)
    return found


def _way(tree: Tree[Token]) -> int:
    """1 for a range that goes on upwards, -1 downwards, 0 for another."""
    bounds = [word.meaning for part in tree.find_data("bounded") for word in _words(part)]
    return 0 if not bounds else 1 if bounds[0] in UPWARDS else -1 if bounds[0] in DOWNWARDS else 0


def _number(amount: Tree[Token]) -> float:
    return float(_words(amount)[0].text)


def _unit(amount: Tree[Token]) -> Word | None:
    return next((word for word in _words(amount) if word.terminal == "UNIT"), None)
