"""A whole evaluation as one self-contained HTML file: no network, no other file, no script."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nodulens.core.private import own_folder
from nodulens.errors import UnreadableFile, input_errors
from nodulens.io.atomic import write_whole
from nodulens.presentation.evaluation import (
    Cell,
    Drawing,
    Evaluation,
    Metric,
    Provenance,
    SplitPart,
    Table,
    shared,
    to_json,
)
from nodulens.presentation.inline_svg import inline_svg
from nodulens.report.html import Bar, Entry, bar, source, templates

_LONG_NAME = 24
NAMED = 8
"""Number of patients in two parts of the split that the page names."""
Values = dict[str, object]
"""Name in the template → value."""


def evaluation_page(evaluation: Evaluation) -> str:
    """The evaluation as one HTML document.

    Args:
        evaluation: the original, or read from its JSON.

    Returns:
        HTML that makes no request and runs no script.

    Raises:
        UnreadableFile: a drawing that is no SVG or PNG.
    """
    provenance = evaluation.provenance
    environment = templates("nodulens.report", "nodulens.presentation")
    return environment.get_template("evaluation.html").render(
        style=source(environment, "page.css", "evaluation.css"),
        software=" ".join(filter(None, ["nodulens", provenance.software.get("nodulens")])),
        title=evaluation.title,
        summary=evaluation.summary,
        facts=_facts(provenance),
        warnings=evaluation.warnings,
        metrics=[_metric(metric) for metric in evaluation.metrics],
        interval=evaluation.interval,
        tables=[_table(table) for table in evaluation.tables],
        drawings=[_drawing(number, drawing) for number, drawing in enumerate(evaluation.drawings)],
        split=_split(provenance) if provenance.split else None,
        command=provenance.command,
        provenance=_made_with(provenance),
        data=provenance.data,
    )


def write_evaluation(evaluation: Evaluation, folder: str | Path, more: Mapping[str, bytes] | None = None) -> Path:
    """Write ``evaluation.html``, further files and, last, ``evaluation.json``, which marks the output as complete.

    Args:
        evaluation: to write.
        more: further files by name.
        folder: created with its parents; other files in it are not changed.

    Returns:
        the page.

    Raises:
        BadOption, CannotWrite: see :func:`nodulens.core.private.own_folder`.
        UnreadableFile: a drawing that is no SVG or PNG.
    """
    folder = Path(folder)
    last = "evaluation.json"
    page, record = evaluation_page(evaluation).encode(), to_json(evaluation).encode()
    files = {"evaluation.html": page, **(more or {}), last: record}
    with own_folder(folder) as staging, input_errors(writing=folder.absolute()):
        for name, data in files.items():
            write_whole(staging / name, data)
        (folder / last).unlink(missing_ok=True)
        for name in files:
            os.replace(staging / name, folder / name)
    return folder / "evaluation.html"


def _facts(provenance: Provenance) -> Iterator[Entry]:
    for part in provenance.split:
        yield Entry(_capitalised(part.name), f"{len(part.members):,} {part.unit}")
    if provenance.data:
        yield Entry("Data", ", ".join(one.name for one in provenance.data))
    if provenance.made:
        yield Entry("Made", provenance.made)


# ---- Words and numbers


def _capitalised(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def _decimals(*values: float | None) -> int:
    """Decimals by the largest value: three below ten, one below a thousand."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 3 if largest < 10 else 1 if largest < 1000 else 0


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}".replace("-", "\u2212")


def _words(value: Cell) -> str:
    match value:
        case str():
            return value
        case int():
            return f"{value:,}"
        case _:
            return _number(value, _decimals(value))


def _metric(metric: Metric) -> Values:
    unit = f" {metric.unit}" if metric.unit else ""
    decimals = _decimals(metric.value, metric.low, metric.high)
    low, high = (_number(end, decimals) for end in (metric.low, metric.high))
    return {
        "name": metric.name,
        "note": metric.note,
        "value": _number(metric.value, decimals) + (unit if metric.value is not None else ""),
        "interval": "" if metric.low is None else f"{low} to {high}{unit}",
        "bar": _scale(metric),
        "n": "" if metric.n is None else f"{metric.n:,}",
    }


def _scale(metric: Metric) -> Bar | None:
    """A scale from 0 to 1 with the value and its interval; None for values outside it."""
    if metric.unit or metric.value is None or not 0 <= metric.value <= 1:
        return None
    low, high = (metric.value if end is None else min(max(end, 0.0), 1.0) for end in (metric.low, metric.high))
    return bar(metric.value, f"{metric.name} {metric.value:.3f} on a scale from 0 to 1", (low, high))


def _table(table: Table) -> Values:
    """A table with text aligned left and numbers aligned right."""
    kinds = ["number" if number else "text" for number in table.numeric]
    return {
        "title": table.title,
        "columns": _cells(kinds, table.columns),
        "rows": [(_words(row[0]), _cells(kinds[1:], row[1:])) for row in table.rows],
        "note": table.note,
    }


def _cells(kinds: Iterable[str], values: Iterable[Cell]) -> list[Values]:
    return [{"kind": kind, "text": _words(value)} for kind, value in zip(kinds, values, strict=True)]


# ---- Drawings


def _drawing(number: int, drawing: Drawing) -> Values:
    return {
        "kind": "lines" if drawing.svg else "pixels",
        "title": drawing.title,
        "caption": drawing.caption,
        "svg": inline_svg(drawing.svg, f"d{number}-", drawing.title) if drawing.svg else None,
        "source": None if drawing.svg else f"data:image/png;base64,{_png(drawing)}",
    }


def _png(drawing: Drawing) -> str:
    try:
        data = base64.b64decode(drawing.png, validate=True)
    except binascii.Error as error:
        raise UnreadableFile(f"The drawing {drawing.title!r} is not base64: {error}.") from error
    if not data.startswith(b"\x89PNG\r\n"):
        raise UnreadableFile(f"The drawing {drawing.title!r} is not a PNG.")
    return drawing.png


# ---- How it came about


def _split(provenance: Provenance) -> Values:
    both = shared(provenance.split)
    return {
        "method": provenance.split_method,
        "overlap": _overlap(both) if len(provenance.split) > 1 else "",
        "problem": bool(both),
        "parts": [_part(part) for part in provenance.split],
    }


def _overlap(both: Sequence[str]) -> str:
    """A sentence on patients in more than one part."""
    if not both:
        return "No patient is in more than one part."
    more = f" and {len(both) - NAMED:,} more" if len(both) > NAMED else ""
    text = f"{len(both):,} are in more than one part, so the figures are optimistic: {', '.join(both[:NAMED])}"
    return f"{text}{more}."


def _part(part: SplitPart) -> Values:
    long = any(len(member) > _LONG_NAME for member in part.members)
    return {
        "name": _capitalised(part.name),
        "count": f"{len(part.members):,}",
        "unit": part.unit,
        "width": "members long" if long else "members",
        "members": part.members,
    }


def _made_with(provenance: Provenance) -> Iterator[Entry]:
    for what, seed in provenance.seeds.items():
        yield Entry(f"Seed, {what}", seed)
    for name, digest in provenance.inputs.items():
        yield Entry(f"{name}, sha256", digest, code=True)
    for one in provenance.weights:
        yield Entry(f"Weights {one.name}, sha256", one.sha256, code=True)
    for name, version in provenance.software.items():
        yield Entry(name, version)
