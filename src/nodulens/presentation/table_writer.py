"""A table on a console and in Markdown; on a page :mod:`nodulens.presentation.page` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodulens.presentation.evaluation import Cell, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def to_console(table: Table) -> RichTable:
    """The table for a terminal: numbers to the right, with four digits; names are printed as they stand."""
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    from nodulens.core.text import printable

    columns = (
        Column(Text(printable(name)), justify="right" if number else "left")
        for name, number in zip(table.columns, table.numeric, strict=True)
    )
    # Text, and no plain strings: a file may name a class "[red]"
    out = RichTable(
        *columns, title=Text(printable(table.title)), title_justify="left", caption=Text(printable(table.note)) or None
    )
    for row in table.rows:
        out.add_row(*(Text(printable(_short(value))) for value in row))
    return out


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, without its title and note; its cells are written as they stand."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _short(value: Cell) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return value
