"""Whole scans with known nodules: what is found, what else is marked, how well it is outlined.

The scans are those of :data:`nodulens.data.folds.EVALUATION_PATIENTS`, which never train or tune anything. "Other"
marks are counted as LUNA16 counts false positives: a mark on a finding of annotations_excluded.csv (10 mm where it has
no diameter) counts neither way; the strict count, which forgives nothing, stands beside it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Nodule
from nodulens.core.volume import Volume
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.lidc import cluster
from nodulens.data.lidc_ct import consensus_on
from nodulens.data.lidc_xml import read_xml, scan_of
from nodulens.data.luna16 import UNSIZED_MM, read_findings
from nodulens.errors import NotFound
from nodulens.io import read
from nodulens.metrics.segmentation import compare
from nodulens.report.record import Report

Ball = tuple[NDArray[np.float64], float]
"""LPS centre and radius in mm."""
BOXES = "{}-boxes"
"""Folder beside a scan with a radiologist's boxes, one XML a slice, where there are no outlines."""


def evaluate_scans(data: Path, analyze: Callable[[Volume], tuple[Report, Report]]) -> list[dict[str, Any]]:
    """Every mark of the evaluation scans, and how it counts at the threshold.

    Args:
        data: folder with ct/, luna16/ and lidc/xml.
        analyze: a scan → its report, and one with as many marks as are wanted for a curve (or the same).

    Returns:
        A record a scan: how many nodules are known, found, how many other marks; each nodule's diameter and the score
        it was found with; its Dice where there are outlines; every mark of the second report with its score.

    Raises:
        NotFound: none of the scans is there.
    """
    names = scans_in(data)
    if not names:
        raise NotFound(f"{data}/ct holds none of {', '.join(sorted(EVALUATION_PATIENTS))}.")
    return [_judge(data, name, analyze) for name in names]


def scans_in(data: Path) -> list[str]:
    """Names of the evaluation scans that lie in a folder."""
    return [name for name in sorted(EVALUATION_PATIENTS) if (data / "ct" / name).is_dir()]


def response_curve(scans: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Free-response curve over the scans: at each score how many nodules are found, and other marks a scan."""
    marks = [m for s in scans for m in s["marks"]]
    total = sum(s["nodules"] for s in scans)
    curve = []
    for level in sorted({m["score"] for m in marks}, reverse=True):
        kept = [(s["name"], m) for s in scans for m in s["marks"] if m["score"] >= level]
        hit = {(name, m["hit"]) for name, m in kept if m["hit"] is not None}
        other = sum(m["hit"] is None and not m["excluded"] for _, m in kept)
        curve.append(
            {"threshold": round(level, 4), "found": len(hit), "of": total, "other_per_scan": other / len(scans)}
        )
    return curve


def _judge(data: Path, name: str, analyze: Callable[[Volume], tuple[Report, Report]]) -> dict[str, Any]:
    ct = read(data / "ct" / name)
    report, full = analyze(ct)
    uid = ct.source.series_uid or ""
    boxed = (data / "ct" / BOXES.format(name)).is_dir()
    known = _boxed(data / "ct", name, ct) if boxed else _findings(data / "luna16" / "annotations.csv", uid)
    excluded = _findings(data / "luna16" / "annotations_excluded.csv", uid)
    marks = [
        {"score": n.score, "hit": _inside(n, known), "excluded": _inside(n, excluded) is not None} for n in full.nodules
    ]
    shown = [(_inside(n, known), _inside(n, excluded) is not None) for n in report.nodules]
    best = [
        max((n.score for n, (hit, _) in zip(report.nodules, shown, strict=True) if hit == k), default=None)
        for k in range(len(known))
    ]
    out: dict[str, Any] = {
        "name": name,
        "threshold": report.threshold,
        "nodules": len(known),
        "found": sum(score is not None for score in best),
        "other": sum(hit is None and not forgiven for hit, forgiven in shown),
        "other_strict": sum(hit is None for hit, _ in shown),
        "known": [{"diameter_mm": round(2 * r, 1), "score": score} for (_, r), score in zip(known, best, strict=True)],
        "marks": marks,
    }
    outlines = data / "lidc" / "xml" / f"{name}.xml"
    if outlines.is_file() and known:
        out["outlines"] = _outlined(ct, report, known, outlines)
    return out


def _outlined(ct: Volume, report: Report, known: list[Ball], outlines: Path) -> list[dict[str, Any]]:
    """3-D Dice and distance of centres for every known nodule, 0 where it was not found."""
    clusters = cluster(scan_of(read_xml(outlines), ct))
    out = []
    for number, (centre, _) in enumerate(known):
        masks = [consensus_on((c,), ct.geometry) for c in clusters]
        middles = [ct.geometry.to_lps(np.argwhere(m).mean(0)) if m.any() else np.full(3, np.inf) for m in masks]
        nearest = int(np.argmin([np.linalg.norm(m - centre) for m in middles]))
        hits = [n for n in report.nodules if _inside(n, known) == number]
        dice = [compare(masks[nearest], _on_the_scan(n, ct), ct.geometry.spacing_zyx).dice for n in hits]
        off = [float(np.linalg.norm(n.centre_lps - centre)) for n in hits]
        best = int(np.argmax(dice)) if hits else None
        out.append(
            {
                "readers": len(clusters[nearest].readings),
                "dice_3d": 0.0 if best is None else round(dice[best], 4),
                "centre_off_mm": None if best is None else round(off[best], 2),
            }
        )
    return out


def _findings(path: Path, uid: str) -> list[Ball]:
    """A series' rows of a LUNA16 table."""
    rows = read_findings(path).get(uid, ())
    return [(np.asarray(f.centre_lps), (f.diameter_mm or UNSIZED_MM) / 2) for f in rows]


def _boxed(folder: Path, name: str, ct: Volume) -> list[Ball]:
    """The one nodule that the boxes beside a scan go round, as the ball that they inscribe."""
    place = {s.sop_instance_uid: z for z, s in enumerate(ct.source.slices)}
    corners = []
    # of Lung_Dx-A0001 half of the boxes are of another series of the same scan
    paths = (folder / BOXES.format(name)).glob("*.xml")
    for path in (p for p in paths if p.stem in place):
        box = {k: float(ElementTree.parse(path).findtext(f".//{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax")}
        z = place[path.stem]
        corners += [(z - 0.5, box["ymin"], box["xmin"]), (z + 0.5, box["ymax"], box["xmax"])]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size = (high - low) * ct.geometry.spacing_zyx
    return [(ct.geometry.to_lps((low + high) / 2), float(size.min() / 2))]


def _inside(nodule: Nodule, known: list[Ball]) -> int | None:
    """Which finding a mark lies in, the nearest of several."""
    apart = [float(np.linalg.norm(centre - nodule.centre_lps)) for centre, _ in known]
    hits = [(d, i) for i, (d, (_, radius)) in enumerate(zip(apart, known, strict=True)) if d <= radius]
    return min(hits)[1] if hits else None


def _on_the_scan(nodule: Nodule, ct: Volume) -> NDArray[np.bool_]:
    """A nodule's mask on the scan's grid."""
    assert nodule.mask is not None
    mask = np.zeros(ct.geometry.shape, dtype=bool)
    mask[nodule.box.slices] = nodule.mask
    return mask
