"""Reads a list of places in the tree of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lark import Token, Tree

from nodulens.errors import BadPrompt
from nodulens.query.criteria import Place
from nodulens.query.lexicon import Word
from nodulens.query.meanings import AFTER, AREAS, AREAS_ARE_ZONES, LEVELS, LOBES, SIDES
from nodulens.query.parts import first, is_rule, words_of

NOUNS = ("KIND", "LUNG")


def read_places(tree: Tree[Token]) -> tuple[list[Place], list[str]]:
    """``left lung``, ``right upper or middle lobe``, ``RUL or left lower zone``: the places, and definitions of words.

    Raises:
        BadPrompt: there is no such place, or it is not clear where it is.
    """
    listed = _sides_first([words_of(child) for child in tree.children if is_rule(child, "place")])
    places: list[Place] = []
    for items, noun in _by_noun(listed):
        places += _sharing(items, noun, places)
    words = [word for item in listed for word in item]
    names = [word for word in words if word.terminal == "LOBE_NAME"]
    said = [f"{name.text.upper()} is the {(lobe := LOBES[name.meaning]).side} {lobe.lobe} lobe." for name in names]
    return places, [*said, AREAS_ARE_ZONES] if first(words, "AREA") else said


def _sides_first(listed: Sequence[Sequence[Word]]) -> list[Sequence[Word]]:
    """Places with the side first that was said after them: "Ober- und Unterlappen rechts" is of both.

    Raises:
        BadPrompt: a place has two sides.
    """
    out: list[Sequence[Word]] = []
    for words in listed:
        *rest, last = words
        if last.terminal != "SIDE_AFTER":
            out.append(words)
            continue
        if own := first(rest, "SIDE"):
            raise BadPrompt(f"Which side, {own.text!r} or {last.text!r}?")
        side = Word(last.text, last.meaning.removesuffix(AFTER))
        bare = len(out)
        while bare and not first(out[bare - 1], "SIDE", "LOBE_NAME", "LUNG"):
            bare -= 1
        out[bare:] = [_with_side(place, side) for place in (*out[bare:], rest)]
    return out


def _with_side(place: Sequence[Word], side: Word) -> list[Word]:
    noun = place[:1] if place[0].terminal in NOUNS else ()
    return [*noun, side, *place[len(noun) :]]


def _by_noun(listed: Iterable[Sequence[Word]]) -> Iterator[tuple[list[Sequence[Word]], Word | None]]:
    """The sides and levels of a list that share a noun, with that noun, which is said before them or after; the name of
    a lobe is a noun of its own."""
    items: list[Sequence[Word]] = []
    noun: Word | None = None
    for words in listed:
        last = words[-1]
        if words[0].terminal in (*NOUNS, "LOBE_NAME"):
            yield items, noun
            items, noun, words = [], words[0], words[1:]
        if last.terminal in NOUNS:
            noun, words = last, words[:-1]
        if words:
            items.append(words)
        if last.terminal in (*NOUNS, "LOBE_NAME"):
            yield items, noun
            items, noun = [], None
    yield items, noun


def _sharing(items: Sequence[Sequence[Word]], noun: Word | None, earlier: Sequence[Place]) -> list[Place]:
    """Places that share a noun; a side holds until another is named, and not beyond the noun.

    Args:
        items: a side, a level or both, each.
        noun: lobe, zone, lung, or the name of a lobe, which has no items.
        earlier: places of the same list, with nouns of their own.

    Raises:
        BadPrompt: there is no such place, or it is not clear where it is.
    """
    if noun and noun.terminal == "LOBE_NAME":
        return [LOBES[noun.meaning]]
    held = any(place.side and (place.lobe or place.zone) for place in earlier)
    side: Word | None = None
    sideless: Word | None = None  # the last level before any side
    unsided = any(not place.side and (place.lobe, place.zone) != ("middle", None) for place in earlier)
    places = []
    for item in _with_shared_level(items, noun):
        own, level = first(item, "SIDE"), first(item, "LEVEL", "AREA")
        kind = "ZONE" if level and level.terminal == "AREA" else noun.meaning if noun else "LUNG"
        if own and level and unsided and item.index(own) > item.index(level):
            raise BadPrompt(f"Is {own.text!r} the side of all places, or of the last alone? Name it with each; or both")
        if own:
            side = own
        elif side is None:
            sideless = level
        one_sided = sideless and (sideless.meaning, kind) == ("MIDDLE", "LOBE")
        if sideless and not one_sided and (own or (sideless is level and held)):
            raise BadPrompt(
                f"{sideless.text!r} on which side? Name it with each, as in right upper or right lower lobe; or both"
            )
        if level and kind == "LUNG":
            said = level.text
            raise BadPrompt(f"{said!r} what? Say {said} lobe, or {said} zone for a third of the lung's height")
        if level is None and (kind != "LUNG" or (noun is None and own and own.meaning == "BOTH")):
            said = " ".join(word.text for word in (own, noun) if word)
            raise BadPrompt(f"Which part is {said!r}? Say upper, middle or lower lobe or zone, or lung")
        where = SIDES[side.meaning] if side else None
        which = {**LEVELS, **AREAS}[level.meaning] if level else None
        if (where, which, kind) == ("left", "middle", "LOBE"):
            raise BadPrompt("The left lung has no middle lobe")
        places.append(Place(where, which if kind == "LOBE" else None, which if kind == "ZONE" else None))
    return places


def _with_shared_level(items: Sequence[Sequence[Word]], noun: Word | None) -> Sequence[Sequence[Word]]:
    """Left and right with the one level that is said of both, as in "right and left upper lobe"."""
    sides = [side for item in items if (side := first(item, "SIDE"))]
    levels = [level for item in items if (level := first(item, "LEVEL"))]
    both = sorted(side.meaning for side in sides) == ["LEFT", "RIGHT"] and len(items) == 2
    if noun is None or noun.terminal != "KIND" or len(levels) != 1 or not both:
        return items
    return [[side, levels[0]] for side in sides]
