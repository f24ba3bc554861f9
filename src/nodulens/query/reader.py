"""Makes a query of the tree of a text, phrase by phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from lark import Token, Tree
from lark.visitors import Interpreter

from nodulens.errors import BadPrompt
from nodulens.query.checks import check_query
from nodulens.query.criteria import Condition, Criterion, Property, Query, Textured
from nodulens.query.lexicon import Word
from nodulens.query.meanings import DIAMETER, NODULES, NUMBERS, ORDERS, ORDINALS, PROPERTIES, SIZES, SORTED, TEXTURES
from nodulens.query.parts import SILENT, Part, first, is_rule, words_of
from nodulens.query.places import read_places
from nodulens.query.ranges import Lent, lent_among, read_range


def read(tree: Tree[Token]) -> Query:
    """What a text asks for.

    Raises:
        BadPrompt: its phrases contradict each other, or have two meanings.
    """
    reader = _Reader()
    reader.visit(tree)
    return reader.query()


class _Reader(Interpreter[Token, None]):
    """Reads phrases into ``found``; a method that takes a tree alone, and returns none, has the name of its rule."""

    def __init__(self) -> None:
        self.found = Query()
        self.negated = False
        self.excluding = False
        self.asked: Word | None = None  # the noun for what is asked for
        self.several = False
        self.kinds: dict[str, Word] = {}  # kinds of properties that are wanted
        self.both: Word | None = None  # the "and" between places
        self.lent = Lent()

    def start(self, tree: Tree[Token]) -> None:
        """All phrases."""
        self.lent = lent_among(tree.children)
        _check_negated_places(tree.children)
        self.visit_children(tree)

    def query(self) -> Query:
        """All that was read, once nothing is left to read."""
        found = self.found
        check_query(found)
        singular = not self.several and (self.asked is not None or found.order is not None)
        one = found.place_in_order is not None or found.count == 1 or (found.count is None and (singular or found.one))
        if one and found.order and self.both:
            raise BadPrompt(
                f"{self.both.text!r} between places has two meanings where one nodule is asked for: say or, or ask "
                "for one place at a time"
            )
        return replace(found, one=one)

    def add(self, any_of: Sequence[Criterion], definitions: Sequence[str] = ()) -> None:
        """A condition, to what is wanted or to what is excluded."""
        new = Condition(tuple(any_of), self.negated)
        said = tuple(dict.fromkeys((*self.found.definitions, *definitions)))
        if self.excluding:
            self.found = replace(self.found, excluded=(*self.found.excluded, new), definitions=said)
        else:
            self.found = replace(self.found, conditions=(*self.found.conditions, new), definitions=said)

    # ---- lists

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
        self.add([size for size, _ in named], [definition for _, definition in named])

    def properties(self, tree: Tree[Token]) -> None:
        """``calcified``, ``subpleural or calcified``; with "and" all are wanted, and none where it is negated."""
        words, joined = self.listed(tree)
        named = [known for word in words if isinstance(known := PROPERTIES[word.meaning], Property)]
        if joined >= {"OR", "AND"}:
            raise BadPrompt("I do not understand 'or' and 'and' in one list")
        exclusive = named[0].kind != "" and len({one.kind for one in named}) == 1  # so that "and" can only mean "or"
        if self.excluding and joined and "OR" not in joined and not exclusive:
            raise BadPrompt(
                f"A list of {words[0].text!r} and {words[1].text!r} in what is left out has two meanings: join them "
                "with or, or leave out the and to mean both at once"
            )
        if self.negated or self.excluding or "OR" in joined:
            self.add(named, [one.definition for one in named])
            return
        for word, one in zip(words, named, strict=True):
            other = self.kinds.setdefault(one.kind, word) if one.kind else word
            if PROPERTIES[other.meaning] is not one:
                raise BadPrompt(f"No nodule is both {other.text!r} and {word.text!r}; join them with or")
            self.add([one], [one.definition])

    def places(self, tree: Tree[Token]) -> None:
        """``left lung``, ``right upper or middle lobe``, ``RUL or left lower zone``."""
        joints = [word for joint in self.joints(tree) for word in joint]
        places, definitions = read_places(tree)
        if any(a.agrees(b) for a, b in combinations(places, 2)) and not first(joints, "OR"):
            raise BadPrompt(
                f"{joints[0].text!r} between places that overlap has two meanings; say or, or leave it out to mean both"
            )
        if not self.negated and not self.excluding:
            self.both = first(joints, "AND") or self.both
        self.add(places, definitions)

    def listed(self, tree: Tree[Token]) -> tuple[list[Word], set[str]]:
        """The members of a list without its nouns, and the conjunctions between them.

        Raises:
            BadPrompt: it is not clear what the list is.
        """
        joints = self.joints(tree)
        words = words_of(tree)
        nouns = [word for word in words if word.terminal == "NOUN"]
        if nouns:
            self.ask(nouns[-1], several=any(NODULES[noun.meaning] for noun in nouns))
        joined = {word.terminal for joint in joints for word in joint} & {"OR", "AND", "COMMA"}
        if self.negated and joints and "OR" not in joined and tree.data != "sizes":
            raise BadPrompt(
                f"{joints[0][0].text!r} in what is negated has two meanings; say neither … nor, or only one"
            )
        return [word for word in words if word.terminal != "NOUN"], joined

    def joints(self, tree: Tree[Token]) -> list[list[Word]]:
        """The words between the members of a list.

        Raises:
            BadPrompt: the list ends in "or", or in "and" where it is not clear what the next phrase belongs to.
        """
        joints = [words_of(child) for child in tree.children if is_rule(child, "gap")]
        if is_rule(tree.children[-1], "gap"):
            last = joints.pop()
            either = first(last, "OR")
            if either:
                raise BadPrompt(f"I do not understand {either.text!r}: it joins textures, places or properties alone")
            if self.excluding:
                raise BadPrompt(
                    f"I do not understand {last[0].text!r} in what is left out: ask for one thing at a time"
                )
        return joints

    # ---- order, how many, what is asked for

    def order(self, tree: Tree[Token]) -> None:
        """``largest``, ``largest of``."""
        word, *of = words_of(tree)
        held, order = self.found.order, ORDERS[word.meaning]
        if held and word.meaning == "BY_VOLUME" and held.measure is DIAMETER:  # "smallest nodule by volume"
            order = replace(order, most=held.most)
        elif held not in (None, order):
            raise BadPrompt(f"{word.text!r} contradicts the order named before")
        self.several |= word.meaning in SORTED and not held and not self.asked
        self.found = replace(self.found, order=order, one=self.found.one or bool(of))

    def count(self, tree: Tree[Token]) -> None:
        """``three``, ``3``, ``top 3``."""
        word = words_of(tree)[-1]
        if self.found.one:
            raise BadPrompt(f"Of which {word.text}? Say how many you want, as in 2 largest solid nodules")
        count = _whole(word, NUMBERS)
        if count is None or self.found.count is not None:
            raise BadPrompt(f"{word.text!r} is no number of nodules")
        self.found = replace(self.found, count=count)

    def ordinal(self, tree: Tree[Token]) -> None:
        """``second``, ``2nd``."""
        word = words_of(tree)[0]
        place = _whole(word, ORDINALS)
        if place is None or self.found.place_in_order is not None:
            raise BadPrompt(f"{word.text!r} is no place in an order")
        self.found = replace(self.found, place_in_order=place)

    def all(self, tree: Tree[Token]) -> None:
        """``all``, ``any``."""
        self.several = True

    def noun(self, tree: Tree[Token]) -> None:
        """``nodule``, ``lesions``."""
        (word,) = words_of(tree)
        self.ask(word, several=NODULES[word.meaning])

    def ask(self, noun: Word, several: bool) -> None:
        """What is asked for, once.

        Raises:
            BadPrompt: it was named before, so that two things may be asked for.
        """
        if self.asked:
            raise BadPrompt(f"I do not understand {noun.text!r} after {self.asked.text!r}: ask for one thing at a time")
        self.asked = noun
        self.several |= several

    # ---- what is left out

    def left_out(self, tree: Tree[Token]) -> None:
        """``except masses``: all that follows says what is left out."""
        asked, several, self.asked = self.asked, self.several, None
        self.excluding = True
        _check_negated_places(tree.children)
        self.visit_children(tree)
        self.asked, self.several = asked, several
        if not self.found.excluded:
            raise BadPrompt(f"What is left out after {words_of(tree)[0].text!r}?")

    def not_one(self, tree: Tree[Token]) -> None:
        """``not solid``: the group after it alone."""
        word = words_of(tree)[0]
        either = first((one for gap in tree.find_data("gap") for one in words_of(gap)), "OR")
        if word.meaning == "NON" and either:
            raise BadPrompt(
                f"{either.text!r} after {word.text!r} has two meanings; say neither … nor, or ask for one at a time"
            )
        asked, several, self.asked = self.asked, self.several, None
        self.negated = True
        self.visit_children(tree)
        self.negated = False
        if asked:  # "nodules, not masses" asks for nodules
            self.asked, self.several = asked, several

    # ---- ranges

    def range(self, tree: Tree[Token]) -> None:
        """``over 6 mm``, ``6 mm or more``, ``5 to 8 mm``, ``risk over 50 %``."""
        span, definitions = read_range(tree, self.lent)
        self.add([span], definitions)

    lone = numberless = range


def _check_negated_places(parts: Sequence[Part]) -> None:
    """Refuse "not in the left lung upper lobe", whose second place may be part of what is not meant.

    Raises:
        BadPrompt: a place follows one that is negated.
    """
    said = [part for part in parts if isinstance(part, Tree) or part.value.terminal not in (*SILENT, "LUNG")]
    for former, latter in pairwise(said):
        denied = is_rule(former, "not_one") and is_rule(former.children[-1], "places")
        if denied and is_rule(latter, "places"):
            text = next(latter.scan_values(lambda token: True)).value.text
            raise BadPrompt(f"Is {text!r} part of what is not meant? Say one place, as in not in the right upper lobe")


def _whole(word: Word, named: Mapping[str, int]) -> int | None:
    """A whole number from one on, in digits or as a word; None for another."""
    value = float(named.get(word.meaning) or word.text)
    return int(value) if value >= 1 and value.is_integer() else None
