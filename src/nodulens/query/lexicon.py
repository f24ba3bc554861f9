"""Word files: the words of a language, each with its meaning.

A word file is TOML. ``words`` has a key for each meaning, or for several in a row (``"GROUND_GLASS NODULE"``), with the
spellings that have it; the meanings are those of :mod:`nodulens.query.meanings`. Case, accents and hyphens do not
matter. A star in a spelling stands for each of ``endings``: with ``["", "e", "en"]``, ``solid*`` is solid, solide and
soliden. A file for a language that ships adds words to it; another file is another language.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from nodulens.errors import BadOption, BadPrompt, input_errors
from nodulens.query.meanings import PRIOR, PROPERTIES, TERMINALS

SHIPPED = Path(__file__).parent / "words"
KEYS = {"language": str, "name": str, "decimal": str, "endings": list, "words": dict}
SILENT = frozenset("!?;:…()[]{}\"'‘’‚“”„«»")
"""Signs that say nothing."""
SIGNS = {",": "COMMA", "-": "TO", ".": "TH"}
"""Signs that mean the same in every language."""
# A number with whatever follows it, a unit with its power, a word, a sign.
_PIECES = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[cm]m[3³]|[^\W\d_]+|>=|<=|\S")
_JOINING = re.compile(r"[-‐‑–—](?!\s*[0-9])")
"""A dash that is no "to": only one before a number is."""
LISTED = ("ORDER", "TEXTURE", "SIZE", "PROPERTY", "SIDE", "LEVEL", "KIND", "AREA", "BOUND", "BETWEEN", "MEASURE", "NOT")
"""What a message lists of the words that are known."""


@dataclass(frozen=True)
class Word:
    """One meaning in a text.

    Attributes:
        text: as it was typed, in small letters.
        meaning: of :mod:`nodulens.query.meanings`, or "NUMBER" or "COMMA".
    """

    text: str
    meaning: str

    @property
    def terminal(self) -> str:
        """Of the grammar."""
        return TERMINALS.get(self.meaning, self.meaning)


@dataclass(frozen=True)
class Lexicon:
    """The words of one language.

    Attributes:
        language: its code, as "en".
        name: in English.
        decimal: the sign before decimals, "." or ",".
        meanings: folded pieces of a spelling → meanings in a row.
        spellings: the same pieces → the spelling as in the file, in its order.
    """

    language: str
    name: str
    decimal: str
    meanings: Mapping[tuple[str, ...], tuple[str, ...]]
    spellings: Mapping[tuple[str, ...], str]

    def words(self, text: str) -> tuple[list[Word], list[str]]:
        """The meanings of a text, and the pieces of it that have none.

        The longest spelling counts: "ground glass nodule" is one, and "ground" alone is none.
        """
        pieces = pieces_of(text)
        folded = [fold(piece) for piece in pieces]
        found: list[Word] = []
        strange: list[str] = []
        at = 0
        while at < len(pieces):
            stop = self._end(folded, at)
            if stop:
                said = " ".join(pieces[at:stop])
                found += [Word(said, meaning) for meaning in self.meanings[tuple(folded[at:stop])]]
            elif self._is_number(pieces[at]):
                found.append(Word(pieces[at].replace(self.decimal, "."), "NUMBER"))
            elif pieces[at] in SIGNS:
                found.append(Word(pieces[at], SIGNS[pieces[at]]))
            else:
                strange.append(pieces[at])
            at = max(stop, at + 1)
        return found, strange

    def near(self, word: str) -> list[str]:
        """Spellings that a word may have been meant for: those with a word that is much like it."""
        alike = get_close_matches(fold(word), self._parts, n=3, cutoff=0.75)
        return list(dict.fromkeys(self._parts[part] for part in alike))

    def known(self, compared: bool = False) -> str:
        """The words that count, the first spelling of each meaning, as a sentence."""
        first: dict[str, str] = {}
        for pieces, meanings in self.meanings.items():
            if len(meanings) == 1 and _reason(meanings[0], compared) is None:
                first.setdefault(meanings[0], self.spellings[pieces])
        ranked = sorted(
            (meaning for meaning in first if TERMINALS[meaning] in LISTED),
            key=lambda meaning: LISTED.index(TERMINALS[meaning]),
        )
        return f"Known are: {', '.join(first[meaning] for meaning in ranked)}; docs/prompts.md has it all."

    def with_words(self, other: Lexicon) -> Lexicon:
        """With the words of another file for the same language; what it says otherwise is checked before."""
        return replace(
            self, meanings={**self.meanings, **other.meanings}, spellings={**self.spellings, **other.spellings}
        )

    def _end(self, folded: Sequence[str], at: int) -> int:
        """Where the longest spelling from a piece on ends; 0 where there is none."""
        for stop in range(min(at + self._longest, len(folded)), at, -1):
            row = self.meanings.get(tuple(folded[at:stop]), ())
            # "and over" is one bound in "6 mm and over", and two words in "solid and over 6 mm"
            ahead = bool(row) and TERMINALS[row[0]] == "BOUND_AFTER" and folded[stop : stop + 1]
            if row and not (ahead and ahead[0][0].isdigit()):
                return stop
        return 0

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.meanings), default=1)

    @cached_property
    def _parts(self) -> dict[str, str]:
        """Folded word → the shortest spelling that has it; words that say nothing are left out."""
        said = (pieces for pieces in self.spellings if any(TERMINALS[m] != "FILLER" for m in self.meanings[pieces]))
        short = sorted(said, key=len, reverse=True)
        return {piece: self.spellings[pieces] for pieces in short for piece in pieces if len(piece) > 2}

    def _is_number(self, piece: str) -> bool:
        """Three digits after the sign may be thousands, and are no number in any language; not so after 0."""
        sign = re.escape(self.decimal)
        return re.fullmatch(rf"[0-9]+({sign}([0-9]{{1,2}}|[0-9]{{4,}}))?|0{sign}[0-9]+", piece) is not None


def pieces_of(text: str) -> list[str]:
    """Words, numbers and signs of a text, in small letters; a full stop counts after a number alone, as in "2."."""
    plain = _JOINING.sub(" ", unicodedata.normalize("NFC", text).lower()).rstrip(" .,\t\n")
    plain = "".join(" " if sign in SILENT else "-" if sign in "‐‑–—" else sign for sign in plain)
    plain = re.sub(r"(?<=[cm]m)\^(?=3)", "", plain)  # mm^3
    plain = re.sub(r"(?<=[0-9])\s*\+\s*([cm]m[3³]?|ml)\b", r" \1 +", plain)  # 6+ mm
    return _PIECES.findall(re.sub(r"(?<![0-9])\.(?=\s)", " ", plain))


def fold(piece: str) -> str:
    """What a piece is looked up by: without accents, so that "superieur" is "supérieur"."""
    return "".join(unicodedata.normalize("NFD", sign)[0] if sign.isalpha() else sign for sign in piece.casefold())


def load_lexicons(language: str | None = None, files: Sequence[Path] = ()) -> tuple[Lexicon, ...]:
    """The languages that ship, English first, with the words of further files.

    Args:
        language: the only one to be read; None: whichever has all words of a text.
        files: word files of one's own, see this module.

    Raises:
        BadOption: there is no such language, or a file is no word file; the message has the line.
        NotFound: there is no such file.
    """
    known = {lexicon.language: lexicon for lexicon in _shipped()}
    for path in files:
        with input_errors():
            text = path.read_text("utf-8")
        added = _Reader(path.name, text).lexicon(known)
        there = known.get(added.language)
        known[added.language] = there.with_words(added) if there else added
    if language is None:
        return tuple(known.values())
    if language not in known:
        raise BadOption(f"There is no language {language!r}; there are {', '.join(known)}. Add one by a word file.")
    return (known[language],)


@cache
def _shipped() -> tuple[Lexicon, ...]:
    names = sorted((path.name for path in SHIPPED.glob("*.toml")), key=lambda name: (name != "en.toml", name))
    return tuple(_Reader(name, (SHIPPED / name).read_text("utf-8")).lexicon({}) for name in names)


def refused(word: Word, compared: bool = False) -> BadPrompt | None:
    """Why a word that is known cannot be answered; None where it can.

    Args:
        word: of a text.
        compared: whether the text asks of a comparison.
    """
    reason = _reason(word.meaning, compared)
    return None if reason is None else BadPrompt(f"{word.text!r} cannot be answered: {reason}.")


def _reason(meaning: str, compared: bool) -> str | None:
    known = PROPERTIES.get(meaning)
    if isinstance(known, str):
        return known
    return PRIOR if known and known.prior and not compared else None


class _Reader:
    """Reads a word file; every error has the line."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.splitlines()
        try:
            self.found: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadOption(f"The word file {name} is no TOML: {error}.") from error

    def lexicon(self, known: Mapping[str, Lexicon]) -> Lexicon:
        """What the file says; ``known`` are the languages that it may add to, and must not contradict."""
        for key, value in self.found.items():
            if key not in KEYS or not isinstance(value, KEYS[key]):
                raise self.error(key, f"{key!r} does not belong here; a word file has {', '.join(KEYS)}")
        language = self.found.get("language", "")
        base = known.get(language)
        decimal = self.found.get("decimal", base.decimal if base else ".")
        if not language or "words" not in self.found:
            raise self.error("", 'it lacks language = "…" or [words]')
        if decimal not in (".", ",") or (base and decimal != base.decimal):
            raise self.error("decimal", "the decimal sign is a point or a comma, one for a language")
        meanings: dict[tuple[str, ...], tuple[str, ...]] = {}
        spellings: dict[tuple[str, ...], str] = {}
        for key, listed in self.found["words"].items():
            row = tuple(key.split())
            unknown = [meaning for meaning in row if meaning not in TERMINALS]
            if unknown or not row:
                raise self.error(key, f"there is no meaning {(unknown or [key])[0]!r}{_like(unknown)}")
            for written, spelling in self.spelled(key, listed):
                pieces = tuple(map(fold, pieces_of(spelling)))
                other = meanings.get(pieces) or (base.meanings.get(pieces) if base else None)
                if not pieces or any(piece[0].isdigit() or piece in SIGNS for piece in pieces):
                    raise self.error(f'"{written}"', f"{spelling!r} is no word")
                if other not in (None, row):
                    why = f"{spelling!r} already means {' '.join(other or ())}, not {key}"
                    raise self.error(f'"{written}"', why, last=True)
                meanings[pieces] = row
                spellings.setdefault(pieces, spelling)
        name = self.found.get("name", base.name if base else language)
        return Lexicon(language, name, decimal, meanings, spellings)

    def spelled(self, key: str, listed: object) -> Iterator[tuple[str, str]]:
        """The spellings of a meaning as written, and with an ending in place of each star."""
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise self.error(key, f'{key} has no list of words, as in ["one", "two"]')
        endings = self.found.get("endings", [])
        for spelling in listed:
            if "*" in spelling and not endings:
                raise self.error(f'"{spelling}"', f"{spelling!r} has a star, and the file has no endings")
            yield from ((spelling, form) for form in _with_endings(spelling, endings))

    def error(self, what: str, why: str, *, last: bool = False) -> BadOption:
        """The error, at the line that has ``what``; the last such line, where an earlier one is right."""
        at = [number for number, line in enumerate(self.lines, start=1) if what and what in line] or [1]
        return BadOption(f"The word file {self.name}, line {at[-1 if last else 0]}: {why}.")


def _with_endings(spelling: str, endings: Sequence[str]) -> Iterator[str]:
    if "*" not in spelling:
        yield spelling
        return
    for ending in endings:
        yield from _with_endings(spelling.replace("*", ending, 1), endings)


def _like(unknown: Sequence[str]) -> str:
    near = get_close_matches(unknown[0], TERMINALS, n=1) if unknown else []
    return f"; is {near[0]} meant?" if near else f"; there are {', '.join(TERMINALS)}"
