"""The nodules of ``phrases.toml``, as a report has them, and the phrases."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import made_reports
from nodulens.core.nodule import Attribute, Nodule, Rating, Risk
from nodulens.query import Tracked

PHRASES = Path(__file__).with_name("phrases.toml")
LOOKS: tuple[Rating, ...] = ("spiculation", "lobulation", "margin")


@dataclass(frozen=True)
class Phrase:
    """What is typed, of a report or a comparison; and the nodules that are right in order, or the words to refuse."""

    language: str
    text: str
    ids: list[int] | None = None
    refused: str | None = None
    compared: bool = False


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(PHRASES.read_text("utf-8"))


def phrases(*languages: str) -> list[Phrase]:
    """The phrases of some languages; without any, of all."""
    return [Phrase(name, **row) for name in languages or ("en", "de", "fr") for row in _read()[name]]


@cache
def nodules() -> tuple[Nodule, ...]:
    """The twelve nodules."""
    return tuple(map(_nodule, _read()["nodules"]))


@cache
def tracked() -> tuple[Tracked, ...]:
    """The same in a comparison with a prior scan."""
    statuses = [row["status"] for row in _read()["nodules"]]
    return tuple(
        Tracked(
            n.id, status, status not in ("resolved", "merged"), n.score, n.texture, n.position, n.measurements, n.risk,
            n.attributes,
        )
        for n, status in zip(nodules(), statuses, strict=True)
    )  # fmt: skip


def _nodule(row: dict[str, Any]) -> Nodule:
    made = made_reports.report(made_reports.scan(), 1).nodules[0]
    lobe = "unknown" if "unknown" in row["lobe"] else f"{row['lobe']} lobe"
    position = replace(
        made.position,
        side=row["lobe"].split()[0],
        zone=row["zone"],
        lobe_estimate=lobe,
        hilum_to_edge_estimate=row.get("hilum"),
    )
    measured = replace(
        made.measurements,
        mean_diameter_mm=row["mm"],
        volume_mm3=np.pi / 6 * row["mm"] ** 3,
        distance_to_pleura_mm=row["pleura"],
        p95_hu=row["p95"],
        solid_diameter_mm=row["solid"],
    )
    risk = Risk(row["risk"], (0, 1), True, "malignancy") if "risk" in row else None
    return replace(
        made,
        id=row["id"],
        position=position,
        texture=row["texture"],
        measurements=measured,
        risk=risk,
        score=row["score"],
        attributes=tuple(Attribute(name, row[name], f"{name} {row[name]:g}") for name in LOOKS if name in row),
    )
