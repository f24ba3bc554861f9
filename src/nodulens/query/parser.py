"""From a text to a :class:`~nodulens.query.criteria.Query`: its language, its words, and what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nodulens.errors import BadPrompt
from nodulens.query.checks import check_words
from nodulens.query.criteria import Condition, Query
from nodulens.query.lexicon import Lexicon, Word, load_lexicons, refused
from nodulens.query.meanings import CURRENT
from nodulens.query.reader import read
from nodulens.query.syntax import parsed


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
    tried = [(lexicon, *lexicon.words(text)) for lexicon in lexicons]
    fitting = [(lexicon, words) for lexicon, words, strange in tried if not strange]
    if not fitting:
        # of as many strange pieces, a number in another way of writing is none of another language
        lexicon, words, strange = min(
            tried, key=lambda found: (len(found[2]), sum(not piece[0].isdigit() for piece in found[2]))
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
    check_words(words)
    found = read(parsed(words))
    if not compared or any(word.meaning == "RESOLVED" for word in words):
        return found
    conditions, definitions = (*found.conditions, Condition((CURRENT,))), (*found.definitions, CURRENT.definition)
    return replace(found, conditions=conditions, definitions=definitions)


def _error(text: str, what: str, known: str) -> BadPrompt:
    return BadPrompt(f"{what.rstrip('.')} (in {text!r}). {known}")
