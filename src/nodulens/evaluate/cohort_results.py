"""Figures of a cohort of whole scans: FROC and CPM by size, texture, kernel and slice thickness; Dice and boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from nodulens.errors import NotFound
from nodulens.evaluate.cohort import CohortRun, KnownRecord, ScanRecord
from nodulens.io.tables import table_text
from nodulens.metrics.boxes import Image, Summary, match, summary
from nodulens.metrics.detection import Findings, Froc, FrocInterval, Marks, bootstrap, froc
from nodulens.metrics.estimates import Estimate
from nodulens.metrics.statistics import Groups, Interval, bootstrap_means
from nodulens.presentation.evaluation import Evaluation, Provenance, Table, software
from nodulens.presentation.tables import froc_evaluation

SIZES_MM = (6.0, 8.0, 15.0)
THICKNESSES_MM = (1.5, 2.5)
"""Edges of the bands of diameter and of slice thickness."""
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")


@dataclass(frozen=True)
class GroupFigures:
    """Detection of a group of nodules, or in a group of scans.

    Attributes:
        kind, name: such as "texture" and "solid".
        scans, nodules, found: how many; found at the method's threshold.
        cpm: with its interval by patient.
        sensitivity_at_1, sensitivity_at_4: false positives a scan.
    """

    kind: str
    name: str
    scans: int
    nodules: int
    found: int
    cpm: Estimate
    sensitivity_at_1: float
    sensitivity_at_4: float


@dataclass(frozen=True)
class OutlineFigures:
    """Dice of nodules with an outline, a missed one as 0, with the interval by patient."""

    name: str
    nodules: int
    missed: int
    dice: Estimate


@dataclass(frozen=True, eq=False)
class CohortEvaluation:
    """The figures of a cohort.

    Attributes:
        run: the scans.
        seed: of the bootstrap.
    """

    run: CohortRun
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(scan.nodules for scan in self.run.scans):
            reasons = "".join(f" {name}: {reason}" for name, reason in list(self.run.failed.items())[:3])
            if self.run.elsewhere:
                reasons = f" {self._elsewhere}{reasons}"
            raise NotFound(
                f"{len(self.run.scans)} scans are done and {len(self.run.failed)} failed; none has a known nodule, so "
                f"there is no sensitivity.{reasons}"
            )

    @property
    def _threshold(self) -> float:
        """The method's, which all scans share."""
        return self.run.scans[0].threshold

    @property
    def _other(self) -> float:
        """False positives a scan at that threshold."""
        return sum(scan.other for scan in self.run.scans) / len(self.run.scans)

    @property
    def _elsewhere(self) -> str:
        return f"{self.run.elsewhere} annotations are of no scan of the cohort."

    @cached_property
    def series(self) -> tuple[str, ...]:
        """What each scan is called in ``predictions.csv``: its series, or its name where another is called so too."""
        count = Counter(scan.series_uid for scan in self.run.scans)
        return tuple(scan.series_uid if count[scan.series_uid] == 1 else scan.name for scan in self.run.scans)

    @cached_property
    def froc(self) -> Froc:
        """All scans."""
        return _froc(self.run.scans)

    @cached_property
    def interval(self) -> FrocInterval | None:
        """Of the curve and its CPM; None of one patient alone."""
        return self._interval(self.froc, self.run.scans)

    @property
    def unit(self) -> str:
        """What intervals are by: "patient", or "scan" where the patient of none is known."""
        return "patient" if any(scan.patient for scan in self.run.scans) else "scan"

    def _interval(self, result: Froc, scans: Sequence[ScanRecord]) -> FrocInterval | None:
        """Of a curve; scans of unknown patients are drawn by themselves."""
        owners = list(map(_owner, scans)) if self.unit == "patient" else None
        several = len(set(map(_owner, scans))) > 1
        return bootstrap(result, seed=self.seed, patients=owners) if several else None

    @cached_property
    def groups(self) -> tuple[GroupFigures, ...]:
        """All; by size and texture of the nodules; by slice thickness, fold and kernel of the scans."""
        return tuple(self._groups())

    def _groups(self) -> Iterator[GroupFigures]:
        scans = self.run.scans
        nodules = [nodule for scan in scans for nodule in scan.nodules]
        found = np.array([nodule.score is not None for nodule in nodules])
        yield self._figures(("", "all"), self.froc, scans, int(found.sum()))
        for kind, groups in _by_nodule(nodules).items():
            for name, rows in groups.rows():
                chosen = np.zeros(len(nodules), dtype=bool)
                chosen[rows] = True
                yield self._figures((kind, name), self.froc.among(chosen), scans, int(found[rows].sum()))
        for kind, groups in _by_scan(scans).items():
            for name, rows in groups.rows():
                some = [scans[k] for k in rows]
                if any(scan.nodules for scan in some):
                    marked = sum(nodule.score is not None for scan in some for nodule in scan.nodules)
                    yield self._figures((kind, name), _froc(some), some, marked)

    def _figures(self, group: tuple[str, str], result: Froc, scans: Sequence[ScanRecord], found: int) -> GroupFigures:
        interval = self._interval(result, scans)
        low, high = interval.cpm if interval else (float("nan"), float("nan"))
        cpm = Estimate.of(Interval(result.cpm, low, high), list(map(_owner, scans)))
        at_1, at_4 = result.sensitivity_at((1, 4)).round(4).tolist()
        return GroupFigures(*group, result.scans, result.nodules, found, cpm, at_1, at_4)

    @cached_property
    def outlines(self) -> tuple[OutlineFigures, ...]:
        """Dice of all nodules with an outline, and by size."""
        rows = [(_owner(scan), n) for scan in self.run.scans for n in scan.nodules if n.dice is not None]
        if not rows:
            return ()
        sizes = Groups.bands([n.diameter_mm for _, n in rows], SIZES_MM)
        groups = [("all", np.arange(len(rows))), *sizes.rows()]
        out = []
        for name, chosen in groups:
            own = [rows[k] for k in chosen]
            owners = [owner for owner, _ in own]
            [mean] = bootstrap_means([[n.dice] for _, n in own], owners, seed=self.seed)
            missed = sum(n.score is None for _, n in own)
            out.append(OutlineFigures(name, len(own), missed, Estimate.of(mean, owners)))
        return tuple(out)

    @cached_property
    def boxes(self) -> Summary | None:
        """COCO's figures of boxes in space, over the scans whose nodules have outlines; None without one."""
        images = [
            Image(
                np.array([mark.score for mark in scan.marks]),
                np.array([mark.box_iou for mark in scan.marks]).reshape(len(scan.marks), len(scan.nodules)),
            )
            for scan in self.run.scans
            if scan.outlined
        ]
        return summary({"nodule": match(images)}) if images else None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What limits the figures."""
        seen = [scan.name for scan in self.run.scans if scan.trained_on]
        failed = self.run.failed
        out = []
        if failed:
            out.append(f"{len(failed)} scans failed and are not in the figures; they are tried again by the next run.")
        if self.run.elsewhere:
            out.append(self._elsewhere)
        if self.run.left_out:
            out.append(f"{len(self.run.left_out)} scans of patients on whom a network was trained were left out.")
        if seen:
            out.append(f"A network was trained on the patients of {len(seen)} scans ({seen[0]} …): too good to report.")
        if unknown := [scan.name for scan in self.run.scans if not scan.patient]:
            out.append(
                f"The patients of {len(unknown)} scans ({unknown[0]} …) are not known: each scan counts as a "
                "patient, and whether a network was trained on it was not checked."
            )
        return tuple(out)

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate METHOD --scans --json`` prints it."""
        scans = self.run.scans
        return {
            "schema": "nodulens-cohort-figures/1",
            "recipe": self.run.settings.recipe.name,
            "scans": len(scans),
            "intervals_by": self.unit,
            "failed": dict(self.run.failed),
            "left_out": list(self.run.left_out),
            "false_positives_per_scan": self._other,
            "groups": [asdict(one) for one in self.groups],
            "outlines": [asdict(one) for one in self.outlines],
            "boxes": None if self.boxes is None else asdict(self.boxes),
            "notes": list(self.notes),
        }

    def tables(self) -> tuple[Table, ...]:
        """Detection by group, outlines, boxes, and the scans that failed."""
        rows = tuple(
            (
                f"{one.kind}: {one.name}" if one.kind else one.name,
                one.scans,
                one.nodules,
                one.found,
                str(one.cpm),
                one.sensitivity_at_1,
                one.sensitivity_at_4,
            )
            for one in self.groups
        )
        note = f"Found: at the method's threshold, {self._threshold:g}, with {self._other:.2f} false positives a scan."
        out = [
            Table(
                "Detection", ("", "scans", "nodules", "found", f"CPM (95 % by {self.unit})", "at 1", "at 4"), rows, note
            )
        ]
        if self.outlines:
            dice = tuple((one.name, one.nodules, one.missed, str(one.dice)) for one in self.outlines)
            out.append(
                Table(
                    "Outlines", ("", "nodules", "missed", f"Dice (95 % by {self.unit})"), dice, "Missed ones count 0."
                )
            )
        if self.boxes is not None:
            out.append(Table("Boxes, as COCO scores them", ("", "value"), tuple(asdict(self.boxes).items())))
        if self.run.failed:
            out.append(Table("Scans that failed", ("", "why"), tuple(self.run.failed.items())))
        return tuple(out)

    def evaluation(self, command: str) -> Evaluation:
        """As a page.

        Raises:
            MissingExtra: Matplotlib is not installed.
        """
        settings = self.run.settings
        provenance = Provenance(
            command=command, seeds={"bootstrap": self.seed}, weights=settings.weights, software=software()
        )
        page = froc_evaluation(self.froc, self.interval, self.series, provenance, settings.recipe.name)
        counts = page.tables[1:]  # the first, by size, is among ours
        every = self.groups[0]
        found = (
            f"That counts marks down to a score of {settings.least:g}. At the method's threshold, {self._threshold:g}, "
            f"{every.found:,} are found, with {self._other:.2f} false positives a scan."
        )
        tables, notes = (*self.tables(), *counts), (*self.notes, *page.warnings)
        return replace(page, summary=(*page.summary, found), tables=tables, warnings=notes)

    def predictions(self) -> str:
        """All marks in LUNA16's form, a row a mark."""
        rows = (
            dict(zip(COLUMNS, (series, *mark.centre_lps, mark.score), strict=True))
            for series, scan in zip(self.series, self.run.scans, strict=True)
            for mark in scan.marks
        )
        return table_text(COLUMNS, rows)


def _froc(scans: Sequence[ScanRecord]) -> Froc:
    """The marks of scans against what is known of them."""
    nodules = _findings([(scan.name, nodule) for scan in scans for nodule in scan.nodules])
    excluded = _findings([(scan.name, finding) for scan in scans for finding in scan.excluded])
    marks = [(scan.name, mark) for scan in scans for mark in scan.marks]
    places = np.array([mark.centre_lps for _, mark in marks], dtype=np.float64).reshape(-1, 3)
    scores = np.array([mark.score for _, mark in marks], dtype=np.float64)
    found = Marks(tuple(name for name, _ in marks), places, scores)
    return froc(nodules, excluded, [scan.name for scan in scans], found)


def _findings(rows: Sequence[tuple[str, KnownRecord]]) -> Findings:
    places = np.array([one.centre_lps for _, one in rows], dtype=np.float64).reshape(-1, 3)
    sizes = np.array([one.diameter_mm for _, one in rows], dtype=np.float64)
    return Findings(tuple(name for name, _ in rows), places, sizes)


def _by_nodule(nodules: Sequence[KnownRecord]) -> Mapping[str, Groups]:
    groups = {"size": _by_size([nodule.diameter_mm for nodule in nodules])}
    if any(nodule.texture for nodule in nodules):
        groups["texture"] = Groups.of([nodule.texture or "unknown" for nodule in nodules])
    return groups


def _by_size(diameters_mm: Sequence[float]) -> Groups:
    """Bands of diameter; those without one, which is negative, apart."""
    bands = Groups.bands(diameters_mm, SIZES_MM)
    return Groups(np.where(np.array(diameters_mm) < 0, len(bands.names), bands.code), (*bands.names, "unknown"))


def _owner(scan: ScanRecord) -> str:
    """The patient; of an unknown one the scan."""
    return scan.patient or f"scan {scan.name}"


def _by_scan(scans: Sequence[ScanRecord]) -> Mapping[str, Groups]:
    groups = {"slices": Groups.bands([scan.thickness_mm for scan in scans], THICKNESSES_MM)}
    if any(scan.fold is not None for scan in scans):
        groups["fold"] = Groups.of([str(scan.fold) for scan in scans])
    if any(scan.kernel for scan in scans):
        groups["kernel"] = Groups.of([scan.kernel or "unknown" for scan in scans])
    return groups
