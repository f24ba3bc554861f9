"""Tables for a console and in Markdown; for a page see :mod:`nodulens.presentation.page`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodulens.presentation.evaluation import Cell, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def to_console(table: Table) -> RichTable:
    """The table for a terminal: numbers aligned right, with four digits; names without markup."""
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    from nodulens.core.text import printable

    columns = (
        Column(Text(printable(name)), justify="right" if number else "left")
        for name, number in zip(table.columns, table.numeric, strict=True)
    )
    # Text, not plain strings: a file may name a class "[red]"
    out = RichTable(
        *columns, title=Text(printable(table.title)), title_justify="left", caption=Text(printable(table.note)) or None
    )
    for row in table.rows:
        out.add_row(*(Text(printable(_short(value))) for value in row))
    return out


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, without title and note; cells are not escaped."""
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
