"""Networks of whole slices on the real scans that nothing learns from: nodules one by one, lungs against our own.

What a whole method finds there, LUNA16's way of counting included, is :mod:`nodulens.evaluate.scans`; this is what a
network draws before anything is made of it, and what the patch network finds alone.

The scans lie in ``ct/`` of a data folder. Nodules are the consensus of half of the readers where there is their XML;
of Lung_Dx-A0001 there are boxes alone. Of LIDC-IDRI-0028 it is known that it has none of 3 mm or more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens import io
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.data.folders import boxes_of_voc
from nodulens.data.lidc import cluster
from nodulens.data.lidc_ct import consensus_on
from nodulens.data.lidc_xml import read_xml, scan_of
from nodulens.methods.recipe import NetworkConfig
from nodulens.metrics.boxes import Image, box_iou, match, summary
from nodulens.metrics.segmentation import compare
from nodulens.ops.orient import Reorientation, canonical
from nodulens.runtime.engine import Model
from nodulens.stages.findings import Finding
from nodulens.stages.fp_reduction import kept, sliding_window
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.slices import NODULE, Outlined, find_regions, segment_slices
from nodulens.train.tasks.protocol import Outcome, rounded
from nodulens.train.tasks.segmentation import field_of

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")


@dataclass(frozen=True, eq=False)
class Known:
    """A nodule in a scan.

    Attributes:
        box: on the canonical volume.
        mask: of ``box.shape``; None where only the box is known.
        readers: who marked it; 0 where nobody says.
    """

    box: Box
    mask: NDArray[np.bool_] | None
    readers: int


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan and what is known of it.

    Attributes:
        volume: canonical orientation.
        lungs: by our own lung stage.
    """

    name: str
    volume: Volume
    lungs: Mask
    nodules: tuple[Known, ...]


def read_scan(data: Path, name: str) -> Scan:
    """A scan of ``ct/``.

    Raises:
        NotFound: it does not lie there.
    """
    ct = io.read(data / "ct" / name)
    volume, orientation = canonical(ct)
    return Scan(name, volume, segment_lungs(volume), known_nodules(data, name, ct, orientation))


def known_nodules(data: Path, name: str, ct: Volume, orientation: Reorientation) -> tuple[Known, ...]:
    """The nodules of a scan, by outlines and by boxes, on its canonical volume.

    Args:
        ct: as read.
        orientation: to the canonical volume.
    """
    out: list[Known] = []
    xml = data / "lidc" / "xml" / f"{name}.xml"
    if xml.exists():
        for nodule in cluster(scan_of(read_xml(xml), ct)):
            held = orientation.apply(consensus_on([nodule], ct.geometry))
            if held.any():
                box = Box.of_mask(held)
                out.append(Known(box, np.ascontiguousarray(held[box.slices]), len(nodule.readings)))
    boxes = data / "ct" / f"{name}-boxes"
    if boxes.is_dir():
        out.append(Known(Box.of_mask(orientation.apply(_marked(ct, boxes))), None, 0))
    return tuple(out)


def _marked(ct: Volume, folder: Path) -> NDArray[np.bool_]:
    """What the boxes of the slices of this scan hold; others of the folder are of another series."""
    out = np.zeros(ct.geometry.shape, dtype=bool)
    place = {ref.sop_instance_uid: z for z, ref in enumerate(ct.source.slices)}
    for path in sorted(folder.glob("*.xml")):
        if path.stem in place:
            for box in boxes_of_voc(path):
                out[place[path.stem]][box.slices[1:]] = True
    return out


def evaluate_scans(
    model: Model, config: NetworkConfig, data: Path, patch: Model | None = None, names: Sequence[str] = SCANS
) -> Outcome:
    """A network of whole slices on real scans, the regions filtered where there is a network for it.

    Args:
        model: the exported network.
        config: whose it is.
        data: folder with ``ct/`` and ``lidc/xml/``.
        patch: keeps or rejects its regions, and gives them their scores.
        names: of the scans.

    Returns:
        A row a nodule; figures of each scan and of all together, see :func:`judged`.
    """
    field = field_of(config)
    scans, columns, images = {}, _none(), []
    for name in names:
        scan = read_scan(data, name)
        start = time.perf_counter()
        outlined = segment_slices(scan.volume, model, field)
        findings = find_regions(outlined, scan.lungs)
        regions = len(findings)
        if patch is not None:
            findings = kept(scan.volume, findings, patch)
        seconds = time.perf_counter() - start
        told, image = judged(scan, findings, columns)
        lungs = _lung_agreement(outlined, scan.lungs)
        pace = round(1000 * seconds / scan.volume.geometry.shape[0], 1)
        scans[name] = {**told, "regions": regions, "lung_agreement": lungs, "ms_per_slice": pace}
        images.append(image)
    return Outcome({"scans": scans, **_together(scans, images)}, columns)


def evaluate_sliding_window(patch: Model, data: Path, names: Sequence[str] = SCANS, stride_px: int = 8) -> Outcome:
    """The patch network alone, slid over the lungs of real scans; figures as of :func:`judge_scans`.

    It finds and does not outline: a Dice of its cells would say nothing, and is not given.
    """
    scans, columns, images = {}, _none(), []
    for name in names:
        scan = read_scan(data, name)
        start = time.perf_counter()
        findings = sliding_window(scan.volume, scan.lungs, patch, stride_px=stride_px)
        seconds = time.perf_counter() - start
        told, image = judged(scan, findings, columns, outlined=False)
        scans[name] = {**told, "ms_per_slice": round(1000 * seconds / scan.volume.geometry.shape[0], 1)}
        images.append(image)
    return Outcome({"scans": scans, **_together(scans, images)}, columns)


def _none() -> dict[str, list[Any]]:
    names = ("row", "patient", "diameter_mm", "readers", "hit", "score", "box_iou", "dice", "iou", "sensitivity")
    return {name: [] for name in names}


def judged(
    scan: Scan, findings: Sequence[Finding], columns: dict[str, list[Any]], *, outlined: bool = True
) -> tuple[dict[str, Any], Image]:
    """Hold findings against what is known of a scan.

    A nodule is hit where the middle of a finding lies in its box. Its outline is all findings that share a voxel with
    it, and nothing of one that does not: Dice is 0 where none does.

    Args:
        columns: a row is added to them for every nodule.
        outlined: whether findings are outlines; else Dice, IoU and sensitivity are None.

    Returns:
        Nodules, those hit, findings, and those of them that hit none; and the boxes in three dimensions.
    """
    geometry = scan.volume.geometry
    middles = [np.argwhere(f.mask).mean(axis=0) + f.box.start for f in findings]
    overlap = box_iou(_corners([f.box for f in findings]), _corners([k.box for k in scan.nodules]))
    for number, known in enumerate(scan.nodules):
        hits = [f.score for f, m in zip(findings, middles, strict=True) if _inside(m, known.box)]
        mask = known.mask
        size = np.asarray(known.box.shape) * geometry.spacing_zyx
        whole = None if mask is None else compare(mask, mask, geometry.spacing_zyx)
        drawn = compare(*_joined(known, findings), geometry.spacing_zyx) if outlined and whole else None
        row = {
            "row": len(columns["row"]),
            "patient": scan.name,
            "diameter_mm": round(whole.truth_diameter_mm if whole else float(size[1:].mean()), 1),
            "readers": known.readers,
            "hit": bool(hits),
            "score": rounded(max(hits)) if hits else None,
            "box_iou": rounded(overlap[:, number].max(initial=0)),
            "dice": rounded(drawn.dice) if drawn else None,
            "iou": rounded(drawn.iou) if drawn else None,
            "sensitivity": rounded(drawn.sensitivity) if drawn else None,
        }
        for key, value in row.items():
            columns[key].append(value)
    inside = np.array([[_inside(m, k.box) for k in scan.nodules] for m in middles], dtype=bool)
    inside = inside.reshape(len(findings), len(scan.nodules))
    told = {
        "nodules": len(scan.nodules),
        "hit": int(inside.any(axis=0).sum()),
        "findings": len(findings),
        "other": int((~inside.any(axis=1)).sum()),
    }
    return told, Image(np.array([f.score for f in findings]), overlap)


def _inside(point: NDArray[np.float64], box: Box) -> bool:
    return bool(np.all(point >= np.asarray(box.start) - 0.5) and np.all(point <= np.asarray(box.stop) - 0.5))


def _corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """(n, 2, 3)."""
    return np.array([(box.start, box.stop) for box in boxes], dtype=np.float64).reshape(-1, 2, 3)


def _joined(known: Known, findings: Sequence[Finding]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A nodule and the findings that touch it, in the smallest box that holds them all."""
    assert known.mask is not None
    touching = [f for f in findings if _share(known, f)]
    boxes = [known.box, *(f.box for f in touching)]
    start, stop = np.min([b.start for b in boxes], axis=0), np.max([b.stop for b in boxes], axis=0)
    out = np.zeros((2, *(stop - start)), dtype=bool)
    for number, (box, mask) in enumerate([(known.box, known.mask), *((f.box, f.mask) for f in touching)]):
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(box.start, box.stop, start, strict=True))
        out[min(number, 1)][inside] |= mask
    return out[0], out[1]


def _share(known: Known, finding: Finding) -> bool:
    """Whether they have a voxel in common."""
    start = np.maximum(known.box.start, finding.box.start)
    stop = np.minimum(known.box.stop, finding.box.stop)
    if np.any(stop <= start) or known.mask is None:
        return False
    one, other = (
        mask[tuple(slice(a - s, b - s) for a, b, s in zip(start, stop, box.start, strict=True))]
        for box, mask in ((known.box, known.mask), (finding.box, finding.mask))
    )
    return bool((one & other).any())


def _lung_agreement(outlined: Outlined, lungs: Mask) -> dict[str, float | None]:
    """Dice with our lung stage, nodules counted as lung; of each side where the network tells them apart."""

    def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float | None:
        total = np.count_nonzero(a) + np.count_nonzero(b)
        return rounded(2 * np.count_nonzero(a & b) / total) if total else None

    names = [name for name in outlined.labels.names.values() if name != NODULE]
    sides = [name for name in names if name in lungs.names.values()]
    out = {name: dice(outlined.labels.of(name), lungs.of(name)) for name in sides}
    return {"lung": dice(outlined.labels.labels > 0, lungs.labels > 0), **out} if names else out


def _together(scans: dict[str, dict[str, Any]], images: Sequence[Image]) -> dict[str, Any]:
    """Counts over all scans; COCO's figures of boxes in three dimensions."""
    totals = {key: sum(scan[key] for scan in scans.values()) for key in ("nodules", "hit", "findings", "other")}
    if not totals["nodules"]:
        return totals
    matches = match(images)
    return {**totals, "boxes": {key: rounded(v) for key, v in asdict(summary({NODULE: matches})).items()}}
