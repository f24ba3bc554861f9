"""Content of files for a terminal: no markup, no control characters, finite numbers only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from nodulens.core.text import printable

if TYPE_CHECKING:
    from nodulens.presentation.evaluation import Table


def plain(value: object) -> Text:
    """A value as text on one line, brackets and all."""
    return Text(printable(str(value)))


def print_tables(tables: Iterable[Table], notes: Iterable[str] = (), width: int = 160) -> None:
    """Print tables, then notes.

    Args:
        width: columns where the output is no terminal.
    """
    from nodulens.presentation.table_writer import to_console  # brings numpy

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(to_console(table))
    for note in notes:
        console.print(plain(note), highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print a document as indented JSON in ASCII; NaN and infinities, which JSON cannot hold, are null."""
    print(json.dumps(_finite(document), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
