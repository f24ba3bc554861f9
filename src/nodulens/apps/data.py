"""``nodulens data``: the public data sets, and splits of them."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation.")
summary = typer.Typer(no_args_is_help=True, help="What a data set holds, in the tables that papers print.")

app.add_typer(summary, name="summary")


@app.callback()
def data() -> None:
    """LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation."""


@summary.callback()
def summaries() -> None:
    """What a data set holds, in the tables that papers print."""
