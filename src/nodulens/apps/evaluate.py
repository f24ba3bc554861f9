"""``nodulens evaluate``: figures of the field, each as its source defines it."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Figures of the field, each as its source defines it.")


@app.callback()
def evaluate() -> None:
    """Figures of the field, each as its source defines it."""
