"""Networks of whole slices on the evaluation scans: each nodule, and the lungs compared with our lung stage.

:mod:`nodulens.evaluate.scans` evaluates whole methods there, and has the annotations and LUNA16's hit rule. This module
evaluates the network's own output, and the patch network alone as a sliding window.

Nodules are the consensus of half of the readers where their XML is there; Lung_Dx-A0001 has boxes only, and
LIDC-IDRI-0028 has no nodule of 3 mm or more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nodulens.core.nodule import Box
from nodulens.core.volume import Mask
from nodulens.evaluate.scans import NOTHING, EvaluationScan, KnownNodule, balls, joined, match_findings, read_scan
from nodulens.io.records import Format, columns_of, from_plain, omitting, to_plain
from nodulens.methods.recipe import NetworkConfig
from nodulens.metrics.boxes import Image, box_iou, match, summary
from nodulens.metrics.estimates import rounded
from nodulens.metrics.segmentation import compare
from nodulens.runtime.engine import Model
from nodulens.stages.findings import Finding
from nodulens.stages.fp_reduction import kept, sliding_window
from nodulens.stages.slices import NODULE, Outlined, find_regions, segment_slices
from nodulens.stages.thorax import Body
from nodulens.train.tasks.segmentation import field_of

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")


@dataclass(frozen=True)
class NoduleResult:
    """The result of a network for one annotated nodule.

    Attributes:
        patient: the scan.
        diameter_mm: of the ball of its outline's volume; of a box the mean of its in-plane sides.
        readers: number of readers who outlined it; 0 if unknown.
        hit: whether a finding hits it.
        score: of the best such finding.
        box_iou: the largest IoU of a finding's box with its own, in three dimensions.
        dice, iou, sensitivity: of all findings together that share a voxel with it; 0 if none does, None without an
            annotated outline or a segmenting network.
    """

    patient: str
    diameter_mm: float
    readers: int
    hit: bool
    score: float | None
    box_iou: float | None
    dice: float | None
    iou: float | None
    sensitivity: float | None


@dataclass(frozen=True, eq=False)
class ScanResult:
    """The result of a network for one scan.

    Attributes:
        nodules: the annotated ones.
        findings: number of regions that were kept.
        other: findings that hit none of the nodules.
        image: scores of the findings, and the IoU of their boxes with those of the nodules.
    """

    name: str
    nodules: tuple[NoduleResult, ...]
    findings: int
    other: int
    image: Image

    @property
    def hit(self) -> int:
        """Nodules that a finding hits."""
        return sum(nodule.hit for nodule in self.nodules)


@dataclass(frozen=True)
class ScanDetails:
    """Further measurements on a scan.

    Attributes:
        regions: number segmented, before any was rejected; None without a segmenting network.
        lung_agreement: class → Dice with our own lung stage; None without a segmenting network.
        ms_per_slice: milliseconds.
    """

    regions: int | None
    lung_agreement: Mapping[str, float | None] | None
    ms_per_slice: float


@dataclass(frozen=True)
class ScanFigures:
    """Counts and further measurements of one scan, see :class:`ScanResult` and :class:`ScanDetails`."""

    nodules: int
    hit: int
    findings: int
    other: int
    regions: int | None
    lung_agreement: Mapping[str, float | None] | None
    ms_per_slice: float


@dataclass(frozen=True)
class ScanBoxFigures:
    """COCO's figures of boxes in three dimensions, see :class:`nodulens.metrics.boxes.Summary`."""

    map50: float | None
    map50_95: float | None
    average_recall: float | None


@dataclass(frozen=True)
class SliceNetworkFigures:
    """Counts of several scans: each, and all together.

    Attributes:
        scans: by their name.
        boxes: None without a nodule.
    """

    scans: Mapping[str, ScanFigures]
    nodules: int
    hit: int
    findings: int
    other: int
    boxes: ScanBoxFigures | None

    def to_json(self) -> dict[str, Any]:
        """As in a cell of the table of results."""
        out: dict[str, Any] = to_plain(self, FORM.arranged)
        return out

    @classmethod
    def from_json(cls, figures: Mapping[str, Any]) -> SliceNetworkFigures:
        """From the result of :meth:`to_json`.

        Raises:
            UnreadableFile: not of that form.
        """
        return cast("SliceNetworkFigures", from_plain(cls, figures, FORM.name, FORM))


FORM = Format(
    "",
    "figures",
    arranged={ScanFigures: omitting("regions", "lung_agreement"), SliceNetworkFigures: omitting("boxes")},
)


@dataclass(frozen=True, eq=False)
class SliceNetworkResult:
    """The result of a network for several scans.

    Attributes:
        scans: result of each.
        details: further measurements of each.
    """

    scans: tuple[ScanResult, ...]
    details: tuple[ScanDetails, ...]

    @cached_property
    def figures(self) -> SliceNetworkFigures:
        """Counts of each scan and of all, and COCO's figures of boxes."""
        each = {
            scan.name: ScanFigures(len(scan.nodules), scan.hit, scan.findings, scan.other, **vars(more))
            for scan, more in zip(self.scans, self.details, strict=True)
        }
        nodules = sum(len(scan.nodules) for scan in self.scans)
        boxes = None
        if nodules:
            found = asdict(summary({NODULE: match([scan.image for scan in self.scans])}))
            boxes = ScanBoxFigures(**{name: rounded(value) for name, value in found.items()})
        return SliceNetworkFigures(
            scans=each,
            nodules=nodules,
            hit=sum(scan.hit for scan in self.scans),
            findings=sum(scan.findings for scan in self.scans),
            other=sum(scan.other for scan in self.scans),
            boxes=boxes,
        )

    @property
    def nodules(self) -> tuple[NoduleResult, ...]:
        """Those of all scans."""
        return tuple(nodule for scan in self.scans for nodule in scan.nodules)

    def to_json(self) -> dict[str, list[Any]]:
        """A row for each nodule, as columns, the form of rows in a cell of the table of results."""
        return {"row": list(range(len(self.nodules))), **columns_of(NoduleResult, self.nodules)}


def evaluate_network(
    model: Model, config: NetworkConfig, data: Path, patch: Model | None = None, names: Sequence[str] = SCANS
) -> SliceNetworkResult:
    """Evaluate a network of whole slices on real scans, with a patch network as filter if there is one.

    Args:
        model: the exported network.
        config: its config.
        data: folder with ``ct/`` and ``lidc/xml/``.
        patch: keeps or rejects its regions, and scores them.
        names: of the scans.
    """
    field = field_of(config)
    scans, details = [], []
    for name in names:
        scan = read_scan(data, name)
        start = time.perf_counter()
        outlined = segment_slices(scan.volume, model, field, Body.of(scan.volume))
        findings = find_regions(outlined, scan.lungs)
        regions = len(findings)
        if patch is not None:
            findings = kept(scan.volume, findings, patch)
        seconds = time.perf_counter() - start
        scans.append(evaluate_findings(scan, findings))
        lungs = _lung_agreement(outlined, scan.lungs)
        details.append(ScanDetails(regions, lungs, _pace(scan, seconds)))
    return SliceNetworkResult(tuple(scans), tuple(details))


def evaluate_sliding_window(
    patch: Model, data: Path, names: Sequence[str] = SCANS, stride_px: int = 8
) -> SliceNetworkResult:
    """Evaluate the patch network alone, as a sliding window over the lungs of real scans.

    It detects without outlines, so there is no Dice.
    """
    scans, details = [], []
    for name in names:
        scan = read_scan(data, name)
        start = time.perf_counter()
        findings = sliding_window(scan.volume, scan.lungs, patch, stride_px=stride_px)
        seconds = time.perf_counter() - start
        scans.append(evaluate_findings(scan, findings, outlined=False))
        details.append(ScanDetails(None, None, _pace(scan, seconds)))
    return SliceNetworkResult(tuple(scans), tuple(details))


def evaluate_findings(scan: EvaluationScan, findings: Sequence[Finding], *, outlined: bool = True) -> ScanResult:
    """Evaluate findings against the annotations of a scan.

    A nodule is hit by LUNA16's rule: the centre of a finding is closer to its centre than half its diameter, see
    :meth:`nodulens.evaluate.scans.KnownNodule.ball`.

    Args:
        outlined: whether findings are outlines; else Dice, IoU and sensitivity are None.
    """
    geometry = scan.volume.geometry
    middles = [geometry.to_lps(np.argwhere(f.mask).mean(axis=0) + f.box.start) for f in findings]
    hits = match_findings(np.array(middles), [f.score for f in findings], balls(scan.nodules, geometry), NOTHING)
    overlap = box_iou(_corners([f.box for f in findings]), _corners([k.box for k in scan.nodules]))
    nodules = []
    for number, (known, score) in enumerate(zip(scan.nodules, hits.best, strict=True)):
        mask = known.mask
        size = np.asarray(known.box.shape) * geometry.spacing_zyx
        whole = None if mask is None else compare(mask, mask, geometry.spacing_zyx)
        overlap_3d = compare(*_joined(known, findings), geometry.spacing_zyx) if outlined and whole else None
        nodules.append(
            NoduleResult(
                patient=scan.name,
                diameter_mm=round(whole.truth_diameter_mm if whole else float(size[1:].mean()), 1),
                readers=known.readers,
                hit=score is not None,
                score=None if score is None else rounded(score),
                box_iou=rounded(overlap[:, number].max(initial=0)),
                dice=rounded(overlap_3d.dice) if overlap_3d else None,
                iou=rounded(overlap_3d.iou) if overlap_3d else None,
                sensitivity=rounded(overlap_3d.sensitivity) if overlap_3d else None,
            )
        )
    image = Image(np.array([f.score for f in findings]), overlap)
    return ScanResult(scan.name, tuple(nodules), len(findings), int(hits.false.sum()), image)


def _pace(scan: EvaluationScan, seconds: float) -> float:
    """Milliseconds a slice."""
    return round(1000 * seconds / scan.volume.geometry.shape[0], 1)


def _corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """(n, 2, 3)."""
    return np.array([(box.start, box.stop) for box in boxes], dtype=np.float64).reshape(-1, 2, 3)


def _joined(known: KnownNodule, findings: Sequence[Finding]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A nodule and the findings that touch it."""
    return joined(known, [(f.box, f.mask) for f in findings if _share(known, f)])


def _share(known: KnownNodule, finding: Finding) -> bool:
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
    """Dice with our lung stage, nodules counted as lung; also of each side if the network has both as classes."""

    def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float | None:
        total = np.count_nonzero(a) + np.count_nonzero(b)
        return rounded(2 * np.count_nonzero(a & b) / total) if total else None

    names = [name for name in outlined.labels.names.values() if name != NODULE]
    sides = [name for name in names if name in lungs.names.values()]
    out = {name: dice(outlined.labels.of(name), lungs.of(name)) for name in sides}
    return {"lung": dice(outlined.labels.labels > 0, lungs.labels > 0), **out} if names else out
