"""``nodulens ask``: which nodules of a report, or of a comparison, a text means."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodulens.apps.show import plain, print_json
from nodulens.errors import NotFound
from nodulens.query import Finding, Lexicon, QueryResult, Tracked, resolve
from nodulens.report import json as report

SCHEMA = "nodulens-answer/1"
COLUMNS = ("lobe (estimate)", "zone", "texture", "mean diameter", "volume", "malignancy", "confidence")
FILES = ("report.json", "comparison.json")
TRACKS = "tracks"
HEAD = 200
"""Characters of a file in which its schema stands."""


def ask(path: Path, text: str, lexicons: Sequence[Lexicon], as_json: bool) -> None:
    """Print the matching nodules: a table and its notes, or JSON with the nodules as in the file."""
    file = _file(path)
    stored = file.read_text("utf-8")
    nodules, key = _nodules(stored)
    answer: QueryResult[Any] = resolve(text, nodules, lexicons, compared=key == TRACKS)
    if as_json:
        by_id = {row["id"]: row for row in json.loads(stored)[key]}
        found = [by_id[nodule.id] for nodule in answer.nodules]
        print_json({"schema": SCHEMA, "question": text, "nodules": found, "of": len(nodules), "notes": answer.notes})
    else:
        _show(answer, len(nodules))


def _file(path: Path) -> Path:
    """The report or comparison that is meant."""
    named = [path / name for name in FILES] if path.is_dir() else [path]
    for file in named:
        if file.is_file():
            return file
    raise NotFound(
        f"There is no {' and no '.join(map(str, named))}; name a report.json, or the folder that nodulens analyze or "
        "nodulens compare wrote."
    )


def _nodules(stored: str) -> tuple[Sequence[Finding], str]:
    """All nodules of a report or comparison, and their key in the file."""
    if report.SCHEMA not in stored[:HEAD]:
        from nodulens.followup import json as comparison
        from nodulens.followup.findings import tracked

        if comparison.SCHEMA in stored[:HEAD]:
            return tuple(tracked(comparison.from_json(stored))), TRACKS
    return report.from_json(stored).nodules, "nodules"


def _show(answer: QueryResult[Finding], of: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if answer.nodules:
        compared = any(isinstance(nodule, Tracked) for nodule in answer.nodules)
        table = Table("nodule", *(["status"] if compared else []), *COLUMNS)
        for n in answer.nodules:
            cells = (
                n.id,
                *([n.status] if isinstance(n, Tracked) else []),
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
        console.print(f"{len(answer.nodules)} of {of} nodules")
    for note in answer.notes:
        console.print(plain(note))
