"""Evaluation on whole scans with known nodules: detections, false positives, and agreement of outlines.

Every evaluation of a whole scan goes through :func:`nodulens.metrics.detection.match_scan`, LUNA16's hit rule: a mark
hits where it is closer to the centre of a nodule than half its diameter. :func:`evaluate_scan` takes any scan, as those
of a cohort (:mod:`nodulens.evaluate.cohort`); :func:`evaluate_scans` those of
:data:`nodulens.data.folds.EVALUATION_PATIENTS`, which never train or tune anything. "Other" marks are counted as LUNA16
counts false positives: a mark on a finding of annotations_excluded.csv (10 mm where it has no diameter) counts neither
way; the strict count, without these exceptions, is also given.

Networks of whole slices, before a method makes findings of them, are in :mod:`nodulens.evaluate.slice_networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodulens import io
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box, Nodule, Point
from nodulens.core.volume import Mask, Volume
from nodulens.data import luna16
from nodulens.data.folders import boxes_of_voc
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.lidc import LidcNodule, cluster
from nodulens.data.lidc_ct import consensus_on
from nodulens.data.lidc_xml import read_xml, scan_of
from nodulens.errors import NotFound
from nodulens.metrics.detection import UNSIZED_MM, Findings, Marks, ScanHits, match_scan
from nodulens.metrics.segmentation import compare
from nodulens.ops.orient import Reorientation, canonical
from nodulens.presentation.evaluation import Cell, Table
from nodulens.report.record import Report
from nodulens.stages.lungs import segment_lungs

UNMEASURED = -1.0
"""Diameter of a finding that has none, as LUNA16's tables write it."""

Bool = NDArray[np.bool_]
Points = Sequence[Sequence[float]] | NDArray[np.float64]
Analyze = Callable[[Volume], tuple[Report, Report]]
"""A scan → its report, and a report with more marks for the curve (or the same)."""


# ---------------------------------------------------------------- what is known


@dataclass(frozen=True, eq=False)
class KnownNodule:
    """A ground truth nodule in a scan, with an outline or only a bounding box.

    Attributes:
        box: on the grid that is evaluated on.
        mask: of ``box.shape``; None where only the box is known.
        readers: number who outlined it; 0 if unknown.
        annotated: centre (LPS mm) and diameter in mm of its row in a table, where it is from one.
    """

    box: Box
    mask: Bool | None
    readers: int
    annotated: tuple[Point, float] | None = None

    def ball(self, geometry: Geometry) -> tuple[NDArray[np.float64], float]:
        """Centre (LPS mm) and diameter in mm of the ball of LUNA16's hit rule.

        It has the centre and the volume of the outline; if only the box is known it is the largest ball
        that the box holds.
        """
        if self.mask is None:
            sides = np.asarray(self.box.shape) * geometry.spacing_zyx
            return geometry.to_lps(self.box.centre_zyx), float(sides.min())
        middle = np.argwhere(self.mask).mean(axis=0) + self.box.start
        return geometry.to_lps(middle), compare(self.mask, self.mask, geometry.spacing_zyx).truth_diameter_mm


@dataclass(frozen=True, eq=False)
class ScanTruth:
    """What is known of a scan, on its grid as read.

    Attributes:
        known: the nodules to find, as the balls of LUNA16's hit rule.
        excluded: findings that count neither way.
        outlines: of each nodule to find; None where there is none.
        textures: of each, such as "solid"; "" where it is unknown.
    """

    known: Findings
    excluded: Findings
    outlines: tuple[KnownNodule | None, ...]
    textures: tuple[str, ...]

    @classmethod
    def of_balls(cls, known: Findings, excluded: Findings) -> ScanTruth:
        """Of places and diameters alone."""
        count = len(known.series)
        return cls(known, excluded, (None,) * count, ("",) * count)


@dataclass(frozen=True, eq=False)
class EvaluationScan:
    """A scan with its ground truth.

    Attributes:
        volume: canonical orientation.
        lungs: by our own lung stage.
        nodules: boxes and masks are on the canonical volume.
        unoutlined: number of further nodules, of which no outline is known.
        patient: of the scan, by a name that goes into no output; "" where nothing tells it.
    """

    name: str
    volume: Volume
    lungs: Mask
    nodules: tuple[KnownNodule, ...]
    unoutlined: int = 0
    patient: str = ""


def read_scan(data: Path, name: str) -> EvaluationScan:
    """A scan of ``ct/``, named by its patient, with the nodules of its readers' XML and the bounding boxes beside it.

    Raises:
        NotFound: there is no such scan.
    """
    ct = io.read(data / "ct" / name)
    volume, orientation = canonical(ct)
    nodules = known_nodules(data, name, ct, orientation)
    return EvaluationScan(name, volume, segment_lungs(volume), nodules, patient=name)


def outlined_scan(name: str, ct: Volume, truth: ScanTruth) -> EvaluationScan:
    """A scan of a cohort with those of its known nodules that have an outline.

    Args:
        name: of the scan.
        ct: as read.
        truth: on its grid.
    """
    volume, orientation = canonical(ct)
    nodules = []
    for known in truth.outlines:
        if known is None or known.mask is None:
            continue
        mask = np.zeros(ct.geometry.shape, dtype=bool)
        mask[known.box.slices] = known.mask
        mask = orientation.apply(mask)
        box = Box.of_mask(mask)
        nodules.append(replace(known, box=box, mask=np.ascontiguousarray(mask[box.slices])))
    bare = len(truth.outlines) - len(nodules)
    return EvaluationScan(name, volume, segment_lungs(volume), tuple(nodules), bare)


def known_nodules(data: Path, name: str, ct: Volume, orientation: Reorientation) -> tuple[KnownNodule, ...]:
    """The nodules of a scan, by outlines and by bounding boxes, on its canonical volume.

    Args:
        ct: as read.
        orientation: to the canonical volume.
    """
    out: list[KnownNodule] = []
    for nodule in _clusters(data, name, ct):
        mask = orientation.apply(consensus_on([nodule], ct.geometry))
        if mask.any():
            box = Box.of_mask(mask)
            out.append(KnownNodule(box, np.ascontiguousarray(mask[box.slices]), len(nodule.readings)))
    boxes = _boxes(data, name)
    if boxes.is_dir():
        out.append(KnownNodule(Box.of_mask(orientation.apply(_boxed(ct, boxes))), None, 0))
    return tuple(out)


def scans_in(data: Path) -> list[str]:
    """Names of the evaluation scans in a folder."""
    return [name for name in sorted(EVALUATION_PATIENTS) if (data / "ct" / name).is_dir()]


def _boxes(data: Path, name: str) -> Path:
    """Folder beside a scan with a radiologist's boxes, one Pascal VOC file a slice, where there are no outlines."""
    return data / "ct" / f"{name}-boxes"


def _boxed(ct: Volume, folder: Path) -> Bool:
    """The voxels inside the boxes of a scan's slices.

    Of Lung_Dx-A0001 half of the boxes are of another series of the same patient; they are left out.

    Raises:
        NotFound: none of the files belongs to a slice of this scan.
    """
    out = np.zeros(ct.geometry.shape, dtype=bool)
    place = {ref.sop_instance_uid: z for z, ref in enumerate(ct.source.slices)}
    for path in sorted(folder.glob("*.xml")):
        if path.stem in place:
            for box in boxes_of_voc(path):
                out[place[path.stem]][box.slices[1:]] = True
    if not out.any():
        raise NotFound(f"{folder} holds no box of a slice of this scan: its files are named SOP-INSTANCE-UID.xml.")
    return out


def _clusters(data: Path, name: str, ct: Volume) -> tuple[LidcNodule, ...]:
    """The nodules that the readers of a scan outlined; none where there is no XML of it."""
    xml = data / "lidc" / "xml" / f"{name}.xml"
    return tuple(cluster(scan_of(read_xml(xml), ct))) if xml.is_file() else ()


# ---------------------------------------------------------------- marks against it


def balls(nodules: Sequence[KnownNodule], geometry: Geometry) -> Findings:
    """Input of :func:`match_findings` for nodules, see :meth:`KnownNodule.ball`."""
    return findings([nodule.ball(geometry) for nodule in nodules])


def match_findings(points_lps: Points, scores: Sequence[float], known: Findings, excluded: Findings) -> ScanHits:
    """Match the marks of one scan to its ground truth; see :func:`nodulens.metrics.detection.match_scan`.

    Args:
        points_lps: (N, 3) LPS mm (x, y, z).
        scores: (N) of each.
        known: nodules to find.
        excluded: findings that count neither way.
    """
    points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
    return match_scan(Marks(("",) * len(points), points, np.asarray(scores, dtype=np.float64)), known, excluded)


NOTHING = Findings((), np.empty((0, 3)), np.empty(0))
"""No finding."""


def findings(found: Sequence[tuple[Sequence[float] | NDArray[np.float64], float]]) -> Findings:
    """Places (LPS mm) and diameters in mm, negative where there is none, of one scan."""
    centres = np.array([centre for centre, _ in found], dtype=np.float64).reshape(-1, 3)
    return Findings(("",) * len(found), centres, np.array([diameter for _, diameter in found], dtype=np.float64))


def listed(path: Path, *uids: str) -> Findings:
    """The rows of a scan in a table of LUNA16, by its series UID or other names."""
    table = luna16.read_findings(path)
    rows = [finding for uid in uids for finding in table.get(uid, ())]
    return findings([(f.centre_lps, f.diameter_mm or UNMEASURED) for f in rows])


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class OutlineAgreement:
    """Agreement of a method's outline with that of the readers.

    Attributes:
        readers: number who outlined it.
        dice_3d: of the best of the outlines whose mark hits it, 0…1; 0 if none does.
        centre_off_mm: between the centre of that outline and the annotated one; None where it was not found.
    """

    readers: int
    dice_3d: float
    centre_off_mm: float | None


@dataclass(frozen=True)
class EvaluatedNodule:
    """The result for a ground truth nodule.

    Attributes:
        diameter_mm: as annotated.
        score: of the best mark that hits it at the method's threshold; None where it was missed.
        outline: None without a reader's outline.
    """

    diameter_mm: float
    score: float | None
    outline: OutlineAgreement | None = None


@dataclass(frozen=True)
class EvaluatedMark:
    """A mark of a scan, at whatever score.

    Attributes:
        hit: number of the nodule that it hits, the nearest of several; None where it hits none.
        hits: numbers of all nodules that it hits.
        excluded: whether it hits a finding that counts neither way.
    """

    score: float
    hit: int | None
    hits: tuple[int, ...]
    excluded: bool


@dataclass(frozen=True)
class ScanEvaluation:
    """The result of a method for one scan.

    Attributes:
        name: of the scan.
        threshold: score at which nodules and other marks are counted.
        nodules: those that are known to be there.
        other: false positives as LUNA16 counts them.
        other_strict: marks that hit no nodule, whatever else they are on.
        marks: for a curve, also those below the threshold.
    """

    name: str
    threshold: float
    nodules: tuple[EvaluatedNodule, ...]
    other: int
    other_strict: int
    marks: tuple[EvaluatedMark, ...]

    @property
    def found(self) -> int:
        """Nodules with a mark."""
        return sum(nodule.score is not None for nodule in self.nodules)

    def to_json(self) -> dict[str, Any]:
        """As docs/scans.json and ``nodulens evaluate --json`` hold it."""
        outlines = [asdict(nodule.outline) for nodule in self.nodules if nodule.outline is not None]
        return {
            "name": self.name,
            "threshold": self.threshold,
            "nodules": len(self.nodules),
            "found": self.found,
            "other": self.other,
            "other_strict": self.other_strict,
            "known": [{"diameter_mm": n.diameter_mm, "score": n.score} for n in self.nodules],
            "marks": [{"score": m.score, "hit": m.hit, "excluded": m.excluded} for m in self.marks],
            **({"outlines": outlines} if outlines else {}),
        }


def evaluate_scans(data: Path, analyze: Analyze) -> tuple[ScanEvaluation, ...]:
    """A method on the evaluation scans of a folder.

    Args:
        data: folder with ct/, luna16/ and lidc/xml.
        analyze: the method.

    Raises:
        NotFound: none of the scans is there.
    """
    names = scans_in(data)
    if not names:
        raise NotFound(f"{data}/ct holds none of {', '.join(sorted(EVALUATION_PATIENTS))}.")
    out = []
    for name in names:
        ct = io.read(data / "ct" / name)
        out.append(evaluate_scan(name, ct, _truth(data, name, ct), *analyze(ct)))
    return tuple(out)


def evaluate_scan(name: str, ct: Volume, truth: ScanTruth, report: Report, full: Report) -> ScanEvaluation:
    """The reports of a method on a scan against what is known of it.

    Args:
        name: of the scan.
        ct: as read.
        truth: on its grid.
        report: at the method's threshold.
        full: with more marks for the curve, or the same.
    """
    at_threshold, all_marks = (
        match_findings([n.centre_lps for n in one.nodules], [n.score for n in one.nodules], truth.known, truth.excluded)
        for one in (report, full)
    )
    diameters = np.where(truth.known.diameter_mm < 0, UNSIZED_MM, truth.known.diameter_mm)
    agreements = (
        None if outline is None else _agreement(outline, ct.geometry, report, at_threshold, number)
        for number, outline in enumerate(truth.outlines)
    )
    return ScanEvaluation(
        name=name,
        threshold=report.threshold,
        nodules=tuple(
            EvaluatedNodule(round(float(diameter), 1), score, agreement)
            for diameter, score, agreement in zip(diameters, at_threshold.best, agreements, strict=True)
        ),
        other=int(at_threshold.false.sum()),
        other_strict=int(at_threshold.false_strict.sum()),
        marks=tuple(
            EvaluatedMark(nodule.score, hit, tuple(np.flatnonzero(on).tolist()), bool(off))
            for nodule, hit, on, off in zip(
                full.nodules, all_marks.nearest, all_marks.on_nodule, all_marks.on_excluded, strict=True
            )
        ),
    )


def _truth(data: Path, name: str, ct: Volume) -> ScanTruth:
    """LUNA16's findings of an evaluation scan, each with the nearest outline of its readers; or its boxes."""
    uid = ct.source.series_uid or ""
    excluded = listed(data / "luna16" / luna16.EXCLUDED, uid)
    if _boxes(data, name).is_dir():
        box = KnownNodule(Box.of_mask(_boxed(ct, _boxes(data, name))), None, 0)
        return ScanTruth.of_balls(balls([box], ct.geometry), excluded)
    truth = ScanTruth.of_balls(listed(data / "luna16" / luna16.ANNOTATIONS, uid), excluded)
    outlined = [known for c in _clusters(data, name, ct) if (known := outlined_by(c, ct.geometry))]
    if not outlined:
        return truth
    middles = [known.ball(ct.geometry)[0] for known in outlined]
    nearest = [int(np.argmin([np.linalg.norm(m - centre) for m in middles])) for centre in truth.known.centre_lps]
    return replace(truth, outlines=tuple(outlined[k] for k in nearest))


def outlined_by(nodule: LidcNodule, geometry: Geometry) -> KnownNodule | None:
    """A nodule by the consensus of half of its readers, on the grid as read; None if that is empty."""
    mask = consensus_on([nodule], geometry)
    if not mask.any():
        return None
    box = Box.of_mask(mask)
    return KnownNodule(box, np.ascontiguousarray(mask[box.slices]), len(nodule.readings))


def _agreement(
    outline: KnownNodule, geometry: Geometry, report: Report, hits: ScanHits, number: int
) -> OutlineAgreement:
    """The best outline of the method whose mark hits nodule ``number``, against that which is known."""
    own = np.flatnonzero(hits.on_nodule[:, number]).tolist()
    dice = [_dice(outline, report.nodules[k], geometry) for k in own]
    best = int(np.argmax(dice)) if own else None
    return OutlineAgreement(
        readers=outline.readers,
        dice_3d=0.0 if best is None else round(dice[best], 4),
        centre_off_mm=None if best is None else round(float(hits.distance_mm[own[best], number]), 2),
    )


def _dice(outline: KnownNodule, nodule: Nodule, geometry: Geometry) -> float:
    """Dice of a nodule's mask with a known outline."""
    assert nodule.mask is not None
    true, found = joined(outline, [(nodule.box, nodule.mask)])
    return compare(true, found, geometry.spacing_zyx).dice


def joined(known: KnownNodule, masks: Sequence[tuple[Box, Bool]]) -> tuple[Bool, Bool]:
    """An outline and the union of other masks, in the smallest box that holds them all."""
    assert known.mask is not None
    boxes = [known.box, *(box for box, _ in masks)]
    start, stop = np.min([b.start for b in boxes], axis=0), np.max([b.stop for b in boxes], axis=0)
    out = np.zeros((2, *(stop - start)), dtype=bool)
    for number, (box, mask) in enumerate([(known.box, known.mask), *masks]):
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(box.start, box.stop, start, strict=True))
        out[min(number, 1)][inside] |= mask
    return out[0], out[1]


# ---------------------------------------------------------------- many scans


@dataclass(frozen=True)
class ResponsePoint:
    """A point of the free-response curve.

    Attributes:
        threshold: marks of this score or a higher one count.
        found: nodules that are hit.
        of: nodules that there are.
        other_per_scan: false positives a scan.
    """

    threshold: float
    found: int
    of: int
    other_per_scan: float


def response_curve(scans: Sequence[ScanEvaluation]) -> tuple[ResponsePoint, ...]:
    """Free-response curve over the scans: at each score how many nodules are found, and other marks a scan."""
    total = sum(len(s.nodules) for s in scans)
    marks = [(s.name, m) for s in scans for m in s.marks]
    curve = []
    for level in sorted({m.score for _, m in marks}, reverse=True):
        kept = [(name, m) for name, m in marks if m.score >= level]
        hit = {(name, number) for name, m in kept for number in m.hits}
        other = sum(not m.hits and not m.excluded for _, m in kept)
        curve.append(ResponsePoint(round(level, 4), len(hit), total, other / len(scans)))
    return tuple(curve)


def scan_tables(scans: Sequence[ScanEvaluation], slid: Sequence[ScanEvaluation] = ()) -> tuple[Table, ...]:
    """Tables of the scans and of their nodules; none without a scan.

    Args:
        scans: by a method.
        slid: the same scans by a method's second arm, its filter alone as a sliding window over the lungs.
    """
    if not scans:
        return ()
    named = [(s.name, s) for s in scans] + [(f"{s.name}, filter alone", s) for s in slid]
    rows = tuple((name, len(s.nodules), s.found, s.other, s.other_strict) for name, s in named)
    head = ("", "nodules", "found", "other marks", "other, strict")
    note = "False positives as LUNA16 counts them; strict also counts those on findings of annotations_excluded.csv."
    nodules: list[tuple[Cell, ...]] = []
    for k, scan in enumerate(scans):
        for number, nodule in enumerate(scan.nodules):
            outline = nodule.outline
            agreement = (outline.readers, outline.dice_3d, outline.centre_off_mm) if outline else (None, None, None)
            alone = (slid[k].nodules[number].score,) if slid else ()
            nodules.append((scan.name, nodule.diameter_mm, nodule.score, *agreement, *alone))
    columns = ("", "mm", "score", "readers", "3-D Dice", "centre off, mm", *(("score, filter alone",) if slid else ()))
    missed = "No score: not found."
    return Table("Whole scans", head, rows, note), Table("Nodules of whole scans", columns, tuple(nodules), missed)
