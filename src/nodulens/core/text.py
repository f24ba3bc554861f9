"""Safe display of untrusted text on a terminal and in table cells."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

# Controls (Cc), invisible marks and bidirectional overrides (Cf), halves of characters that represent bytes that are
# no UTF-8 (Cs), and the separators that end a line (Zl, Zp).
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What a spreadsheet takes for the start of a formula, in ASCII and as wide forms.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_LAYOUT = "\n  "


def printable(text: str) -> str:
    """The text on one line, each character that a terminal would act upon written as its number, such as ``\\x1b``.

    Controls, invisible characters, bidirectional overrides, line ends, and bytes of file names that are no text.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def printable_message(text: str) -> str:
    """As :func:`printable`, but the lines of a list that a message holds, each indented by two spaces, stay lines."""
    return _LAYOUT.join(map(printable, text.split(_LAYOUT)))


def key_of(name: str) -> str:
    """16 hexadecimal digits in place of a name that is not to be shown, the same for the same name; "" of none."""
    return hashlib.sha256(name.encode()).hexdigest()[:16] if name else ""


def file_name(path: Path) -> str:
    """The name of a file or folder as a message shows it, «NAME»; :func:`without_file_names` finds it again."""
    return f"«{printable(path.name).replace('«', '‹').replace('»', '›')}»"


def without_file_names(text: str) -> str:
    """A message without the names that :func:`file_name` put into it, as in "first «DOE.dcm»" or "«DOE.dcm»: …"."""
    left = re.sub(r"^«[^»]*»: |,? ?(first )?«[^»]*»", "", text)
    return left[:1].upper() + left[1:]


def without_places(word: str) -> str:
    """A word of a command, or a place, with no more of a path than says what it was: ``--set checkpoint=…/sam2``.

    Of a path out of the working folder the last name is left, after ``…``; of the home folder and those above nothing.
    Paths in the working folder become relative to it. Other texts, such as the name of a recipe, are unchanged.
    """
    return "".join(map(_without_place, re.split("([=,])", word)))


def _without_place(text: str) -> str:
    path = Path(text)
    if not (path.is_absolute() or text.startswith("~") or ".." in path.parts):
        return text
    full, here, home = (Path(os.path.abspath(os.path.expanduser(place))) for place in (path, ".", "~"))
    if home.is_relative_to(full):
        return "…"
    if full.is_relative_to(here) and (here == home or not home.is_relative_to(here)):
        return full.relative_to(here).as_posix()
    return f"…/{full.name}"


def csv_cell(value: object, digits: int = 17) -> str:
    """A value as the cell of a table with commas (CSV), quoted where need be; None is an empty cell.

    A text stays on its line, and one that a spreadsheet would take for a formula is prefixed with an apostrophe.
    Numbers, also those that are written as text, stay numbers.

    Args:
        value: a text, a number, a truth value or None.
        digits: significant ones of a float; of 17 those that are needed to read the same number back.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(value)) if digits >= 17 else f"{value:.{digits}g}"
    text = printable(str(value))
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    # Semicolons and tabs divide cells where a spreadsheet's language does not use the comma.
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",;|\t]|^\s|\s$', text) else text


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
