"""Makes a tree of the words of a text, by ``grammar.lark``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.lexer import Lexer

from nodulens.errors import BadPrompt
from nodulens.query.lexicon import Word
from nodulens.query.meanings import AFTER
from nodulens.query.parts import EDGE, NUMBERS_BEGIN, NUMBERS_END, SILENT, after, before

GRAMMAR = Path(__file__).with_name("grammar.lark")
HINTS = {
    "OR": ": it joins textures, places or properties alone; ask for one size or order at a time",
    "UNIT": ": its number comes before it, in digits, as in 8 mm",
    "ORDER": ": an order cannot be left out; say second largest for what comes after the largest",
}
"""What to say of a word that stands where it cannot."""
OF_PLACE = ("SIDE", "LEVEL", "AREA")
"""Terminals that say which lobe, zone or lung."""


def parsed(words: Sequence[Word]) -> Tree[Token]:
    """The tree of a text.

    Raises:
        BadPrompt: the grammar has no such row of words.
    """
    try:
        return _parser().parse(_in_context(words))
    except UnexpectedInput as error:
        if isinstance(error, UnexpectedToken) and isinstance(error.token.value, Word):
            word = error.token.value
            raise BadPrompt(f"I do not understand {word.text!r} here{HINTS.get(word.terminal, '')}") from error
        raise BadPrompt(f"Something is missing after {words[-1].text!r}") from error


def _in_context(words: Sequence[Word]) -> list[Word]:
    """The words without those that say nothing where they stand, and "bis" as "up to" where no number comes before
    it, as in "Herde bis 8 mm"."""
    out: list[Word] = []
    for at, word in enumerate(words):
        former, latter = out[-1] if out else EDGE, after(words, at)
        number = former.terminal in ("NUMBER", "UNIT")
        silent = False
        if word.meaning == "TO" and latter.terminal == "BOUND" and latter.text == word.text:  # "à moins de", one piece
            # "8 mm à moins de 5 mm de la plèvre" is a size and a distance, "6 mm à moins de 8 mm" one range
            pleura = any(one.meaning == "FROM_PLEURA" for one in words[at + 2 : at + 5])
            silent = not number or (former.terminal == "UNIT" and pleura)
        elif word.meaning == "UNTIL" and not number:
            silent = latter.meaning in ("AT_MOST", "BELOW")  # "bis maximal 8 mm"
            word = replace(word, meaning="AT_MOST")
        elif word.terminal == "SIDE" and (stop := _place_before(out)) and _ends_place(words, at):
            if len(out) > stop or former.terminal == "KIND":  # "lobe supérieur droit" is one place as it is
                word = replace(word, meaning=word.meaning + AFTER)
            del out[stop:]
        elif word.terminal == "LUNG" and former.terminal == "SIDE_AFTER":
            silent = True  # "upper lobe of the right lung"
        elif word.terminal == "KIND" and before(out, len(out), "FILLER").terminal == "ALL":
            silent = latter.terminal not in OF_PLACE  # "all lobes", but not "tous les lobes supérieurs"
        elif word.terminal == "NOUN" and latter.terminal == "NOUN":
            silent = former.terminal == "TEXTURE" and former.text == word.text  # "GGN nodules"
        if not silent:
            out.append(word)
    return out


def _place_before(words: Sequence[Word]) -> int:
    """How many words end with a level and its lobe or zone, before what says nothing or "of the lung"; 0: they do not
    end so."""
    stop = len(words)
    while stop and words[stop - 1].terminal in (*SILENT, "LUNG"):
        stop -= 1
    named = {word.terminal for word in words[max(stop - 2, 0) : stop]}
    return stop if named == {"LEVEL", "KIND"} else 0


def _ends_place(words: Sequence[Word], at: int) -> bool:
    """Whether a side belongs to a lobe or zone before it: not to one after it, nor to a list of sides, as "right and
    left"."""
    if after(words, at, *SILENT, "LUNG").terminal in (*OF_PLACE, "KIND"):
        return False
    joined = [i for i in range(at + 1, len(words)) if words[i].terminal not in (*SILENT, "LUNG", "AND", "OR", "COMMA")]
    if not joined or words[joined[0]].terminal != "SIDE" or joined[0] == at + 1:
        return True
    return after(words, joined[0], *SILENT).terminal in (*OF_PLACE, "KIND", "LUNG")


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
    terminal = words[at].terminal
    if terminal not in ("MEASURE", "SAID"):
        return terminal
    leads = after(words, at, *SILENT).terminal in NUMBERS_BEGIN
    ends = before(words, at).terminal in NUMBERS_END
    return terminal if leads == ends else "MEASURE" if leads else "SAID"


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR.read_text("utf-8"), parser="lalr", lexer=_Words)
