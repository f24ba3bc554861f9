"""``nodulens ask``: which nodules of a report a text means."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nodulens.apps.show import plain, print_json
from nodulens.errors import NotFound
from nodulens.query import Lexicon, QueryResult, resolve
from nodulens.report.json import from_json

SCHEMA = "nodulens-answer/1"


def ask(report: Path, text: str, lexicons: Sequence[Lexicon], as_json: bool) -> None:
    """Print the matching nodules: a table and its notes, or JSON with the nodules as in the report."""
    file = report / "report.json" if report.is_dir() else report
    if not file.is_file():
        raise NotFound(f"There is no {file}; name a report.json, or the folder that nodulens analyze wrote.")
    stored = file.read_text("utf-8")
    answer = resolve(text, from_json(stored).nodules, lexicons)
    if as_json:
        wanted = [nodule.id for nodule in answer.nodules]
        rows = {row["id"]: row for row in json.loads(stored)["nodules"]}
        found = {"schema": SCHEMA, "question": text, "nodules": [rows[n] for n in wanted], "notes": answer.notes}
        print_json(found)
    else:
        _show(answer)


def _show(answer: QueryResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if answer.nodules:
        table = Table(
            "nodule", "lobe (estimate)", "zone", "texture", "mean diameter", "volume", "malignancy", "confidence"
        )
        for n in answer.nodules:
            cells = (
                n.id,
                n.position.lobe_estimate,
                n.position.zone,
                n.texture,
                f"{n.measurements.mean_diameter_mm:.1f} mm",
                f"{n.measurements.volume_mm3:.0f} mm³",
                "–" if n.risk is None else f"{n.risk.probability:.0%}",
                f"{n.score:.2f}",
            )
            table.add_row(*map(plain, cells))
        console.print(table)
    for note in answer.notes:
        console.print(plain(note))
