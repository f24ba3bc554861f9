"""Masks against a truth: SEG, RTSTRUCT, SR and image files, nodule by nodule.

Both are drawn on one grid: that of the scan, if it is named; else the truth's own, or the predictions' where the truth
has none. A prediction is of the nodule that it overlaps, one to one, so that Dice adds up to the most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nodulens.core.geometry import Geometry
from nodulens.errors import BadGeometry, BadOption, NotFound
from nodulens.io.series import read
from nodulens.io.tables import read_table
from nodulens.metrics.estimates import Estimate, rounded
from nodulens.metrics.segmentation import Overlap, compare, matched
from nodulens.metrics.statistics import Interval, bootstrap_means
from nodulens.pipeline import Progress, silent
from nodulens.presentation.evaluation import Evaluation, Metric, Provenance, Table, hashed, software
from nodulens.rois.grid import Drawn, Grid, around
from nodulens.rois.read import read_rois
from nodulens.rois.roi import Roi, RoiFile
from nodulens.stages.measure import section_axes
from nodulens.stages.position import central_slice

SCHEMA = "nodulens-masks/1"
SAMPLES = 1000


@dataclass(frozen=True)
class MaskFiles:
    """The masks of one scan.

    Attributes:
        name: of the scan, in tables.
        patient: whom intervals count as one; empty: as the truth's file says, else a patient of its own.
        truth, predictions: files of regions; None: there is no nodule.
        scan: on whose grid they are compared; None: on the truth's.
    """

    name: str
    patient: str
    truth: Path | None
    predictions: Path | None
    scan: Path | None = None


@dataclass(frozen=True)
class MaskOptions:
    """What counts of the files.

    Attributes:
        truth_rois, predicted_rois: names or numbers of regions; none: all but parts of the body.
        progress: called with each stage and the share of it that is done, 0…1.
    """

    truth_rois: tuple[str, ...] = ()
    predicted_rois: tuple[str, ...] = ()
    progress: Progress = silent


ALL = MaskOptions()


@dataclass(frozen=True)
class Size:
    """How large a mask is.

    Attributes:
        volume_mm3: of its voxels.
        mean_mm: mean of its long axis, on the slice where it is largest, and of the longest chord at right angles.
    """

    volume_mm3: float
    mean_mm: float

    @classmethod
    def of(cls, drawn: Drawn, geometry: Geometry) -> Size:
        """The size of a mask on a grid."""
        z = central_slice(drawn.mask)
        section = np.pad(drawn.mask[z], 2).astype(np.float32)
        axes = section_axes(section, np.asarray(geometry.spacing_zyx[1:]))
        return cls(drawn.voxels * geometry.voxel_mm3, sum(axes) / 2)


@dataclass(frozen=True)
class MaskRow:
    """A nodule of the truth, a prediction, or both.

    Attributes:
        scan: its name.
        patient: number of the patient, from 0.
        truth, prediction: number and name of the regions; None where there is none.
        true, predicted: their sizes.
        overlap: of the two; None of one alone.
    """

    scan: str
    patient: int
    truth: str | None
    prediction: str | None
    true: Size | None
    predicted: Size | None
    overlap: Overlap | None

    @property
    def volume_error_mm3(self) -> float | None:
        """Prediction minus truth."""
        return None if self.overlap is None else self.overlap.volume_error_mm3

    @property
    def volume_error_percent(self) -> float | None:
        """The same, of the truth."""
        return None if self.overlap is None else self.overlap.volume_error_percent

    @property
    def diameter_error_mm(self) -> float | None:
        """Prediction minus truth, of the mean diameters."""
        return None if self.true is None or self.predicted is None else self.predicted.mean_mm - self.true.mean_mm

    def to_json(self) -> dict[str, Any]:
        """To four digits."""
        found = self.overlap
        return {
            "scan": self.scan,
            "patient": self.patient,
            "truth": self.truth,
            "prediction": self.prediction,
            "true": None if self.true is None else asdict(self.true),
            "predicted": None if self.predicted is None else asdict(self.predicted),
            "dice": None if found is None else rounded(found.dice),
            "iou": None if found is None else rounded(found.iou),
            "hd95_mm": None if found is None else rounded(found.hd95_mm),
            "surface_mm": None if found is None else rounded(found.surface_mm),
            "volume_error_mm3": _maybe(self.volume_error_mm3),
            "volume_error_percent": _maybe(self.volume_error_percent),
            "diameter_error_mm": _maybe(self.diameter_error_mm),
        }


FIGURES = {
    "found": ("share of nodules that a prediction overlaps", ""),
    "dice": ("Dice, missed nodules as 0", ""),
    "dice_found": ("Dice of those found", ""),
    "hd95_mm": ("95th percentile Hausdorff distance", "mm"),
    "surface_mm": ("mean surface distance", "mm"),
    "volume_error_percent": ("volume error", "%"),
    "absolute_volume_error_percent": ("volume error, unsigned", "%"),
    "diameter_error_mm": ("error of the mean diameter", "mm"),
    "absolute_diameter_error_mm": ("error of the mean diameter, unsigned", "mm"),
}
"""Name of a figure → its words and unit. All but the first two are of the nodules that were found."""


@dataclass(frozen=True, eq=False)
class MaskEvaluation:
    """Masks against a truth.

    Attributes:
        scans: how many, of how many patients.
        rows: the nodules of the truth in order, then predictions of none, scan by scan.
        figures: name, of :data:`FIGURES` → mean over the nodules of the truth.
        inputs: input file → sha256.
        notes: sentences.
        made: when, ISO 8601.
    """

    scans: int
    patients: int
    rows: tuple[MaskRow, ...]
    figures: dict[str, Interval]
    inputs: dict[str, str]
    notes: tuple[str, ...]
    made: str

    @property
    def counts(self) -> dict[str, int]:
        """Nodules of the truth, those found and missed, and predictions that overlap none or a nodule of another."""
        true = [row for row in self.rows if row.truth is not None]
        found = sum(row.prediction is not None for row in true)
        return {
            "nodules": len(true),
            "found": found,
            "missed": len(true) - found,
            "other_predictions": len(self.rows) - len(true),
        }

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate masks --json`` prints it."""
        return {
            "schema": SCHEMA,
            "scans": self.scans,
            "patients": self.patients,
            **self.counts,
            "figures": {name: asdict(self._estimate(name)) for name in FIGURES},
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "inputs": self.inputs,
        }

    def tables(self) -> Iterator[Table]:
        """The means, and every nodule."""
        named = {"nodules": "nodules of the truth", "other_predictions": "other predictions"}
        counts = tuple((named.get(name, name), str(value)) for name, value in self.counts.items())
        means = tuple(
            (f"{words}, {unit}" if unit else words, str(self._estimate(name)))
            for name, (words, unit) in FIGURES.items()
        )
        title = f"Masks of {_counted(self.scans, 'scan')}, {_counted(self.patients, 'patient')}"
        yield Table(title, ("", "value"), counts + means, self._interval)
        head = ("scan", "truth", "prediction", "Dice", "HD95 mm", "volume mm³", "error %", "diameter mm", "error mm")
        rows = tuple(
            (
                row.scan,
                row.truth or "–",
                row.prediction or "–",
                None if row.overlap is None else rounded(row.overlap.dice),
                None if row.overlap is None else rounded(row.overlap.hd95_mm),
                None if (size := row.true or row.predicted) is None else rounded(size.volume_mm3),
                _maybe(row.volume_error_percent),
                None if size is None else rounded(size.mean_mm),
                _maybe(row.diameter_error_mm),
            )
            for row in self.rows
        )
        yield Table("Every nodule", head, rows, "Volume and diameter are the truth's, of other predictions their own.")

    def evaluation(self, command: str) -> Evaluation:
        """As a page."""
        counts = self.counts
        return Evaluation(
            title="Masks against a truth",
            summary=(
                f"{counts['found']} of {counts['nodules']} nodules are overlapped by a prediction; "
                f"{counts['other_predictions']} predictions are of none.",
                "A prediction is of the nodule that it overlaps, one to one, so that Dice adds up to the most. "
                "Distances and errors are of those pairs; errors are prediction minus truth. The mean diameter is that "
                "of the long axis, on the slice where the mask is largest, and of the longest chord at right angles.",
            ),
            metrics=tuple(self._metric(name) for name in FIGURES),
            interval=self._interval,
            tables=tuple(self.tables())[1:],
            warnings=self.notes,
            provenance=Provenance(
                command=command, made=self.made, seeds={"bootstrap": 0}, inputs=self.inputs, software=software()
            ),
        )

    @property
    def _interval(self) -> str:
        return f"95 %, {SAMPLES:,} bootstraps by patient" if len(set(self._owners)) > 1 else ""

    @property
    def _owners(self) -> list[str]:
        """The patient of each nodule of the truth, which the figures are of."""
        return [str(row.patient) for row in self.rows if row.truth is not None]

    def _estimate(self, name: str) -> Estimate:
        return Estimate.of(self.figures[name], self._owners)

    def _metric(self, name: str) -> Metric:
        title, unit = FIGURES[name]
        found, counts = self._estimate(name), self.counts
        n = counts["nodules"] if name in ("found", "dice") else counts["found"]
        return Metric(title, found.value, found.low, found.high, n, unit)


def evaluate_masks(files: Sequence[MaskFiles], options: MaskOptions = ALL) -> MaskEvaluation:
    """Compare masks with a truth, nodule by nodule.

    Args:
        files: of each scan.
        options: what counts.

    Raises:
        NotFound: no truth has a nodule, there is no such file, or no region of a name.
        UnreadableFile, BadGeometry, BadValues: of a file; regions without an outline, or of another frame of reference.
    """
    rows: list[MaskRow] = []
    notes: dict[str, None] = {}
    patients: dict[str, int] = {}
    unknown = 0
    for number, one in enumerate(files):
        options.progress("masks", number / len(files))
        truth = None if one.truth is None else read_rois(one.truth)
        predictions = None if one.predictions is None else read_rois(one.predictions)
        known = one.patient or (truth.patient if truth else "")
        unknown += not known
        patient = patients.setdefault(known or f"\0{number}", len(patients))
        for file in (truth, predictions):
            notes |= dict.fromkeys(file.notes if file is not None else ())
        grid = _grid(one, truth, predictions)
        true, left_out = _drawn(truth, options.truth_rois, grid)
        predicted, also = _drawn(predictions, options.predicted_rois, grid)
        notes |= dict.fromkeys((*left_out, *also))
        rows += _rows(one.name, patient, true, predicted, grid.geometry)
    options.progress("masks", 1.0)
    if unknown and len(files) > 1:
        notes[
            f"{_counted(unknown, 'scan')} of no known patient: each counts as one; the column patient names them."
        ] = None
    known_rows = [row for row in rows if row.truth is not None]
    if not known_rows:
        raise NotFound(
            "The truth outlines no nodule, so there is nothing to compare with; name its regions by --truth-roi."
        )
    means = bootstrap_means([_values(row) for row in known_rows], [row.patient for row in known_rows], samples=SAMPLES)
    return MaskEvaluation(
        scans=len(files),
        patients=len(patients),
        rows=tuple(rows),
        figures=dict(zip(FIGURES, means, strict=True)),
        inputs=_inputs(files),
        notes=tuple(notes),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def listed_files(table: Path) -> tuple[MaskFiles, ...]:
    """The files of several scans, from a CSV.

    Args:
        table: with the columns truth and predictions, and perhaps scan, name and patient. Paths are from the folder of
            the CSV; an empty cell says that there is no nodule.

    Raises:
        NotFound, UnreadableFile: no such file, or no such columns.
        BadOption: no rows, or one that names neither truth nor predictions, or what another row names.
    """
    found = read_table(table, ("truth", "predictions"), optional=("scan", "name", "patient"))
    if not len(found):
        raise BadOption(f"{table} has no rows; write one for each scan.")
    empty = ("",) * len(found)
    columns = [found.cells.get(name, empty) for name in ("name", "patient", "truth", "predictions", "scan")]
    files = []
    lines: dict[str | Path, int] = {}
    for row, (name, patient, *paths) in enumerate(zip(*columns, strict=True)):
        truth, predictions, scan = (table.parent / cell if cell else None for cell in paths)
        if truth is None and predictions is None:
            raise BadOption(f"{found.at(row)} names neither truth nor predictions.")
        name = name or str(row + 1)
        for what in (name, truth or predictions):
            assert what is not None
            line = lines.setdefault(what.resolve() if isinstance(what, Path) else what, found.lines[row])
            if line != found.lines[row]:
                raise BadOption(f"{found.at(row)} names {what}, as line {line} does; write one row for each scan.")
        files.append(MaskFiles(name, patient, truth, predictions, scan))
    return tuple(files)


def _grid(one: MaskFiles, truth: RoiFile | None, predictions: RoiFile | None) -> Grid:
    """The grid on which both are drawn."""
    if one.scan is not None:
        return Grid.of(read(one.scan))
    grids = [file.grid for file in (truth, predictions) if file is not None and file.grid is not None]
    if not grids:
        raise BadGeometry(f"Contours have no grid of their own to be compared on ({one.name}): name the scan.")
    return grids[0]


def _drawn(file: RoiFile | None, names: Sequence[str], grid: Grid) -> tuple[list[tuple[Roi, Drawn]], list[str]]:
    """The regions that count, on a grid, and notes on what does not."""
    if file is None:
        return [], []
    rois = file.chosen(names) if names else file.findings
    notes = []
    body = [str(roi) for roi in file.rois if not roi.finding]
    if body and not names:
        notes.append(f"{file.path.name}: parts of the body are no nodules: {', '.join(body[:5])}.")
    drawn = []
    for roi in rois:
        mask = roi.on(grid)
        if mask is None:
            notes.append(f"{file.path.name}: region {roi} has nothing on the grid.")
        else:
            drawn.append((roi, mask))
    return drawn, notes


def _rows(
    scan: str, patient: int, true: list[tuple[Roi, Drawn]], predicted: list[tuple[Roi, Drawn]], geometry: Geometry
) -> Iterator[MaskRow]:
    dice = np.array([[_dice(a, b) for _, b in predicted] for _, a in true]).reshape(len(true), len(predicted))
    partner = dict(matched(dice))
    sizes = [[Size.of(drawn, geometry) for _, drawn in part] for part in (true, predicted)]
    for k, (roi, drawn) in enumerate(true):
        if k not in partner:
            yield MaskRow(scan, patient, str(roi), None, sizes[0][k], None, None)
            continue
        other, found = predicted[partner[k]]
        box = around([drawn.box, found.box])
        overlap = compare(drawn.on(box), found.on(box), geometry.spacing_zyx)
        yield MaskRow(scan, patient, str(roi), str(other), sizes[0][k], sizes[1][partner[k]], overlap)
    for k, (roi, _) in enumerate(predicted):
        if k not in partner.values():
            yield MaskRow(scan, patient, None, str(roi), None, sizes[1][k], None)


def _dice(first: Drawn, second: Drawn) -> float:
    common = int(np.count_nonzero(first.mask & second.on(first.box)))
    return Overlap.of_counts(first.voxels, second.voxels, common).dice


def _values(row: MaskRow) -> list[float]:
    """The figures of a nodule of the truth, in the order of :data:`FIGURES`."""
    nan, found = float("nan"), row.overlap
    if found is None:
        return [0.0, 0.0, *[nan] * (len(FIGURES) - 2)]
    volume, diameter = found.volume_error_percent, row.diameter_error_mm
    assert diameter is not None, "there are two masks"
    return [1.0, found.dice, found.dice, found.hd95_mm, found.surface_mm, volume, abs(volume), diameter, abs(diameter)]


def _inputs(files: Sequence[MaskFiles]) -> dict[str, str]:
    """Scan, role and name of each file → sha256: files of several scans often have one name."""
    roles = ((f"{one.name}: {role}", getattr(one, role)) for one in files for role in ("truth", "predictions"))
    return {
        f"{words}, {name}": digest for words, path in roles if path is not None for name, digest in hashed(path).items()
    }


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _maybe(value: float | None) -> float | None:
    return None if value is None else rounded(value)
