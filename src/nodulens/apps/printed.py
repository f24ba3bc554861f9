"""Tables and notes on the console, as all commands print them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console

from nodulens.presentation.evaluation import Table
from nodulens.presentation.table_writer import to_console


def print_tables(tables: Iterable[Table], notes: Iterable[str] = (), width: int = 160) -> None:
    """Print tables, then notes.

    Args:
        width: columns where the output is no terminal.
    """
    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(to_console(table))
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
