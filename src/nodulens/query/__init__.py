"""Findings by a text query: "largest nodule in the right upper lobe", "ground-glass nodules over 6 mm".

A small language, resolved against findings that have been made. Words are data, a file for each language in ``words/``;
``lexicon.py`` turns words into meanings, and ``meanings.py`` binds each meaning to what a nodule's record has.
``checks.py`` refuses what has two readings, ``syntax.py`` makes a tree of the rest by ``grammar.lark``, which says how
meanings go together, and ``reader.py`` makes a :class:`Query` of that, with ``places.py`` and ``ranges.py``;
``parser.py`` does all of it. ``docs/prompts.md`` explains the language. What is not understood, or is not in the
record, is refused by its name and with the reason: nothing is guessed, for an answer to another query could harm.
"""

from nodulens.query.answer import QueryResult, answer, only, resolve
from nodulens.query.criteria import Condition, Finding, Order, Place, Property, Query, Range, Textured, Tracked
from nodulens.query.lexicon import Lexicon, load_lexicons
from nodulens.query.parser import parse

__all__ = [
    "Condition",
    "Finding",
    "Lexicon",
    "Order",
    "Place",
    "Property",
    "Query",
    "QueryResult",
    "Range",
    "Textured",
    "Tracked",
    "answer",
    "load_lexicons",
    "only",
    "parse",
    "resolve",
]
