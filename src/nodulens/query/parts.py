"""Where a word stands: its neighbours in a text, and its place in the tree that the grammar makes of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

from lark import Token, Tree

from nodulens.query.lexicon import Word

Part = Token | Tree[Token]

EDGE = Word("", "")
"""What stands before the first word and after the last."""
SILENT = ("FILLER", "OF")
"""Terminals that say nothing."""
NUMBERS_BEGIN = ("BOUND", "BETWEEN", "NUMBER")
"""Terminals that a range begins with, if what is measured is not said first."""
NUMBERS_END = ("UNIT", "BOUND_AFTER")
"""Terminals that a range ends with, if what is measured is not said last."""


def before(words: Sequence[Word], at: int, *skipped: str) -> Word:
    """The nearest word before another; those of the terminals ``skipped`` do not count."""
    return next((words[i] for i in range(at - 1, -1, -1) if words[i].terminal not in skipped), EDGE)


def after(words: Sequence[Word], at: int, *skipped: str) -> Word:
    """The nearest word after another; those of the terminals ``skipped`` do not count."""
    return next((words[i] for i in range(at + 1, len(words)) if words[i].terminal not in skipped), EDGE)


def first(words: Iterable[Word], *terminals: str) -> Word | None:
    """The first word of one of these terminals."""
    return next((word for word in words if word.terminal in terminals), None)


def words_of(part: Part) -> list[Word]:
    """The words right below a part."""
    tokens = [part] if isinstance(part, Token) else [child for child in part.children if isinstance(child, Token)]
    return [token.value for token in tokens]


def is_rule(part: Part, rule: str) -> TypeGuard[Tree[Token]]:
    """Whether a part is what a rule of the grammar has made."""
    return isinstance(part, Tree) and part.data == rule
