"""``nodulens data``: the public data sets, and splits of them."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation.")


@app.callback()
def data() -> None:
    """LIDC-IDRI, LUNA16 and folders of slices: summaries, splits, preparation."""
