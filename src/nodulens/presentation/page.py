"""A whole evaluation as one HTML file that needs nothing else: no network, no other file, no script."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from pathlib import Path

from nodulens.core.private import own_folder
from nodulens.errors import UnreadableFile
from nodulens.io.atomic import write_whole
from nodulens.io.html import Markup, Template, policy_hash, resource
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

_TEMPLATE = Template(("page.html", "evaluation.html"))
_LONG_NAME = 24
NAMED = 8
"""So many who stand in two parts the page names."""


def evaluation_page(evaluation: Evaluation) -> str:
    """The evaluation as one HTML document.

    Args:
        evaluation: as made, or read back from its JSON.

    Returns:
        HTML that makes no request and runs no script.

    Raises:
        UnreadableFile: a drawing that is no SVG or PNG.
    """
    provenance = evaluation.provenance
    style = resource("page.css") + resource("evaluation.css")
    nodulens = provenance.software.get("nodulens")
    return _TEMPLATE.fill(
        "evaluation",
        {
            "style_hash": policy_hash(style),
            "style": Markup(style),
            "software": " ".join(filter(None, ["nodulens", nodulens])),
            "title": evaluation.title,
            "summary": _TEMPLATE.each("lead", ({"text": text} for text in evaluation.summary)),
            "facts": _TEMPLATE.pairs("fact", _facts(provenance)),
            "warnings": _warnings(evaluation.warnings),
            "metrics": _metrics(evaluation),
            "tables": _TEMPLATE.each("table", (_table(i, table) for i, table in enumerate(evaluation.tables))),
            "drawings": _drawings(evaluation.drawings),
            "split": _split(provenance),
            "command": _TEMPLATE.fill("command", {"text": provenance.command}) if provenance.command else "",
            "provenance": _TEMPLATE.pairs("pair", _made_with(provenance)),
            "data": _data(provenance),
        },
    )


def write_evaluation(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write ``evaluation.html`` and, last, ``evaluation.json``: where that is, the page is too.

    Args:
        evaluation: what is written.
        folder: made with its parents where it is not there; other files in it are left alone.

    Returns:
        the page.

    Raises:
        BadOption, CannotWrite: see :func:`nodulens.core.private.own_folder`.
        UnreadableFile: a drawing that is no SVG or PNG.
    """
    folder = Path(folder)
    files = {"evaluation.html": evaluation_page(evaluation), "evaluation.json": to_json(evaluation)}
    with own_folder(folder):
        for name, text in files.items():
            write_whole(folder / name, text.encode())
    return folder / "evaluation.html"


def _facts(provenance: Provenance) -> Iterator[tuple[str, object]]:
    for part in provenance.split:
        yield _begun(part.name), f"{len(part.members):,} {part.unit}"
    if provenance.data:
        yield "Data", ", ".join(one.name for one in provenance.data)
    if provenance.made:
        yield "Made", provenance.made


def _warnings(warnings: Iterable[str]) -> Markup:
    items = _TEMPLATE.each("item", ({"text": text} for text in warnings))
    return _TEMPLATE.fill("warnings", {"items": items}) if items else Markup("")


# ---- Words and numbers


def _begun(text: str) -> str:
    """With a capital first; all others stay as they are."""
    return text[:1].upper() + text[1:]


def _decimals(*values: float | None) -> int:
    """How many are read: three below ten, one below a thousand, by the largest."""
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


def _metrics(evaluation: Evaluation) -> Markup:
    if not evaluation.metrics:
        return Markup("")
    means = f"Interval: {evaluation.interval}." if evaluation.interval else ""
    rows = _TEMPLATE.each("metric", map(_metric, evaluation.metrics))
    return _TEMPLATE.fill("metrics", {"rows": rows, "interval": means})


def _metric(metric: Metric) -> dict[str, object]:
    unit = f" {metric.unit}" if metric.unit else ""
    decimals = _decimals(metric.value, metric.low, metric.high)
    low, high = (_number(end, decimals) for end in (metric.low, metric.high))
    return {
        "name": metric.name,
        "note": _TEMPLATE.fill("metric_note", {"text": metric.note}) if metric.note else "",
        "value": _number(metric.value, decimals) + (unit if metric.value is not None else ""),
        "interval": "" if metric.low is None else f"{low} to {high}{unit}",
        "bar": _bar(metric),
        "n": "" if metric.n is None else f"{metric.n:,}",
    }


def _bar(metric: Metric) -> Markup:
    """A scale from 0 to 1 with the value and its interval, for what lies there."""
    if metric.unit or metric.value is None or not 0 <= metric.value <= 1:
        return Markup("")
    low, high = (metric.value if end is None else min(max(end, 0.0), 1.0) for end in (metric.low, metric.high))
    thick = 1.6
    x = min(max(100 * metric.value - thick / 2, 0), 100 - thick)
    band = _TEMPLATE.fill("band", {"x": f"{100 * low:.2f}", "width": f"{100 * (high - low):.2f}"})
    words = f"{metric.name} {metric.value:.3f} on a scale from 0 to 1"
    return _TEMPLATE.fill("bar", {"words": words, "band": band, "x": f"{x:.2f}", "thick": thick})


def _table(number: int, table: Table) -> dict[str, object]:
    """A column of words is set to the left, one of numbers to the right."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    kinds = ["text" if i == 0 or any(type(v) is str for v in c) else "number" for i, c in enumerate(columns)]
    heads = ({"kind": kind, "text": text} for kind, text in zip(kinds, table.columns, strict=True))
    rows = (
        {
            "name": _words(row[0]),
            "cells": _TEMPLATE.each(
                "cell",
                ({"kind": kind, "text": _words(v)} for kind, v in zip(kinds[1:], row[1:], strict=True)),
            ),
        }
        for row in table.rows
    )
    return {
        "id": number,
        "title": table.title,
        "columns": _TEMPLATE.each("head", heads),
        "rows": _TEMPLATE.each("table_row", rows),
        "note": _TEMPLATE.fill("explain", {"text": table.note}) if table.note else "",
    }


# ---- Drawings


def _drawings(drawings: Iterable[Drawing]) -> Markup:
    each = _TEMPLATE.each("drawing", (_drawing(i, drawing) for i, drawing in enumerate(drawings)))
    return _TEMPLATE.fill("drawings", {"each": each}) if each else Markup("")


def _drawing(number: int, drawing: Drawing) -> dict[str, object]:
    if drawing.svg:
        picture = inline_svg(drawing.svg, f"d{number}-", drawing.title)
    else:
        source = f"data:image/png;base64,{_png(drawing)}"
        picture = _TEMPLATE.fill("picture", {"source": source, "title": drawing.title})
    return {
        "kind": "lines" if drawing.svg else "pixels",
        "title": drawing.title,
        "caption": _TEMPLATE.fill("explain", {"text": drawing.caption}) if drawing.caption else "",
        "picture": picture,
    }


def _png(drawing: Drawing) -> str:
    try:
        data = base64.b64decode(drawing.png, validate=True)
    except binascii.Error as error:
        raise UnreadableFile(f"The drawing {drawing.title!r} is no base64: {error}.") from error
    if not data.startswith(b"\x89PNG\r\n"):
        raise UnreadableFile(f"The drawing {drawing.title!r} is no PNG.")
    return drawing.png


# ---- How it came about


def _split(provenance: Provenance) -> Markup:
    if not provenance.split:
        return Markup("")
    method = provenance.split_method
    return _TEMPLATE.fill(
        "split",
        {
            "method": _TEMPLATE.fill("explain", {"text": method}) if method else "",
            "overlap": _overlap(provenance.split),
            "parts": _TEMPLATE.each("part", map(_part, provenance.split)),
        },
    )


def _overlap(parts: tuple[SplitPart, ...]) -> Markup:
    if len(parts) < 2:
        return Markup("")
    both = shared(parts)
    if not both:
        return _TEMPLATE.fill("overlap", {"text": "Nobody stands in more than one part."})
    more = f" and {len(both) - NAMED:,} more" if len(both) > NAMED else ""
    text = f"{len(both):,} stand in more than one part, so the figures claim too much: {', '.join(both[:NAMED])}"
    return _TEMPLATE.fill("overlap_problem", {"text": f"{text}{more}."})


def _part(part: SplitPart) -> dict[str, object]:
    long = any(len(member) > _LONG_NAME for member in part.members)
    return {
        "name": _begun(part.name),
        "count": f"{len(part.members):,}",
        "unit": part.unit,
        "width": "members long" if long else "members",
        "members": _TEMPLATE.each("item", ({"text": member} for member in part.members)),
    }


def _made_with(provenance: Provenance) -> Iterator[tuple[str, object]]:
    for what, seed in provenance.seeds.items():
        yield f"Seed, {what}", seed
    for name, digest in provenance.inputs.items():
        yield f"{name}, sha256", _TEMPLATE.fill("code", {"text": digest})
    for one in provenance.weights:
        yield f"Weights {one.name}, sha256", _TEMPLATE.fill("code", {"text": one.sha256})
    yield from provenance.software.items()


def _data(provenance: Provenance) -> Markup:
    if not provenance.data:
        return Markup("")
    each = _TEMPLATE.each(
        "data_set",
        (
            {"name": one.name, "licence": one.licence, "citation": one.citation, "note": one.note}
            for one in provenance.data
        ),
    )
    return _TEMPLATE.fill("data", {"each": each})
