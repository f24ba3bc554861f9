"""The four whole scans that never trained anything: what is found, what else is marked, how well it is outlined.

    python benchmarks/scans.py --data ../shared/data

Writes docs/scans.json. "Other" marks are counted as LUNA16 counts false positives: a mark on a finding of
annotations_excluded.csv (10 mm where it has no diameter) counts neither way; the strict count, which forgives nothing,
stands beside it.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import nodulens as nl
from nodulens.core.nodule import Nodule
from nodulens.data.lidc import cluster
from nodulens.data.lidc_ct import consensus_on
from nodulens.data.lidc_xml import read_xml, scan_of
from nodulens.data.luna16 import UNSIZED_MM, read_findings
from nodulens.evaluate.segmentation import compare
from nodulens.recipe import DEFAULT

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
LEAST = 0.02
"""Marks below this score are not outlined: the curve ends there."""

Ball = tuple[NDArray[np.float64], float]
"""LPS centre and radius in mm."""


def main(
    data: Annotated[Path, typer.Option(help="Folder with ct/ and luna16/.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="JSON to write.")] = Path("docs/scans.json"),
) -> None:
    """Analyze the four scans and write the figures."""
    scans = [scan(data, name) for name in SCANS]
    threshold = scans[0].pop("threshold")
    for s in scans[1:]:
        s.pop("threshold")
    marks = [m for s in scans for m in s["marks"]]
    total = sum(s["nodules"] for s in scans)
    curve = []
    for level in sorted({m["score"] for m in marks}, reverse=True):
        kept = [(s["name"], m) for s in scans for m in s["marks"] if m["score"] >= level]
        hit = {(name, m["hit"]) for name, m in kept if m["hit"] is not None}
        other = sum(m["hit"] is None and not m["excluded"] for _, m in kept)
        point = {"threshold": round(level, 4), "found": len(hit), "of": total, "other_per_scan": other / len(scans)}
        curve.append(point)
    command = "python benchmarks/scans.py --data ../shared/data"
    result = {"command": command, "threshold": threshold, "scans": scans, "curve": curve}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for s in scans:
        print({k: v for k, v in s.items() if k != "marks"})


def scan(data: Path, name: str) -> dict[str, Any]:
    """Every mark of one scan, and how it counts at the default threshold."""
    ct = nl.read(data / "ct" / name)
    full = nl.analyze(ct, recipe=replace(DEFAULT, threshold=LEAST, most_findings=200))
    report = nl.analyze(ct)
    uid = ct.source.series_uid or ""
    known = mass(data, ct) if name == "Lung_Dx-A0001" else findings(data / "luna16" / "annotations.csv", uid)
    excluded = findings(data / "luna16" / "annotations_excluded.csv", uid)
    marks = [
        {"score": n.score, "hit": inside(n, known), "excluded": inside(n, excluded) is not None} for n in full.nodules
    ]
    shown = [m for m in marks if m["score"] >= report.threshold]
    out: dict[str, Any] = {
        "name": name,
        "threshold": report.threshold,
        "nodules": len(known),
        "found": len({m["hit"] for m in shown if m["hit"] is not None}),
        "other": sum(m["hit"] is None and not m["excluded"] for m in shown),
        "other_strict": sum(m["hit"] is None for m in shown),
        "marks": marks,
    }
    if name == "LIDC-IDRI-0001":
        read = scan_of(read_xml(data / "lidc" / "xml" / f"{name}.xml"), ct)
        truth = consensus_on(cluster(read), ct.geometry)
        hits = [n for n in report.nodules if inside(n, known) is not None]
        masks = [on_the_scan(n, truth.shape) for n in hits]
        out["dice_3d"] = round(compare(truth, masks[0], ct.geometry.spacing_zyx).dice, 4) if hits else 0.0
        out["centre_off_mm"] = round(float(np.linalg.norm(hits[0].centre_lps - known[0][0])), 2) if hits else None
    return out


def findings(path: Path, uid: str) -> list[Ball]:
    """A series' rows of a LUNA16 table."""
    rows = read_findings(path).get(uid, ())
    return [(np.asarray(f.centre_lps), (f.diameter_mm or UNSIZED_MM) / 2) for f in rows]


def mass(data: Path, ct: nl.Volume) -> list[Ball]:
    """The mass of Lung_Dx-A0001, as the ball that its boxes inscribe."""
    place = {s.sop_instance_uid: z for z, s in enumerate(ct.source.slices)}
    corners = []
    # half of the boxes are of another series of the same scan
    paths = (data / "ct" / "Lung_Dx-A0001-boxes").glob("*.xml")
    for path in (p for p in paths if p.stem in place):
        box = {k: float(ElementTree.parse(path).findtext(f".//{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax")}
        z = place[path.stem]
        corners += [(z - 0.5, box["ymin"], box["xmin"]), (z + 0.5, box["ymax"], box["xmax"])]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size = (high - low) * ct.geometry.spacing_zyx
    return [(ct.geometry.to_lps((low + high) / 2), float(size.min() / 2))]


def inside(nodule: Nodule, known: list[Ball]) -> int | None:
    """Which finding a mark lies in, the nearest of several."""
    apart = [float(np.linalg.norm(centre - nodule.centre_lps)) for centre, _ in known]
    hits = [(d, i) for i, (d, (_, radius)) in enumerate(zip(apart, known, strict=True)) if d <= radius]
    return min(hits)[1] if hits else None


def on_the_scan(nodule: Nodule, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A nodule's mask on the scan's grid."""
    assert nodule.mask is not None
    mask = np.zeros(shape, dtype=bool)
    mask[nodule.box.slices] = nodule.mask
    return mask


if __name__ == "__main__":
    typer.run(main)
