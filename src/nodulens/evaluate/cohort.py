"""A method on the whole scans of a cohort, in processes, resumably: a scan that is done is not done again.

The output folder holds ``cohort.json``, the settings, and in ``scans/`` a file for every scan that is done. Other
settings, weights or annotations are refused there. A scan that fails is tried again by the next run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from glob import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodulens import io
from nodulens.core.nodule import Box, Nodule
from nodulens.core.private import own_folder
from nodulens.core.text import key_of
from nodulens.core.volume import Volume
from nodulens.errors import BadOption, UnreadableFile
from nodulens.evaluate.folds import FoldRuns, read_folds
from nodulens.evaluate.scans import KnownNodule, ScanTruth, evaluate_scan
from nodulens.evaluate.truths import Cohort, CohortScan, TableTruths, Truths, patient_of
from nodulens.io.atomic import whole_file
from nodulens.io.records import Format, decode, encode
from nodulens.methods.load import load_method
from nodulens.methods.method import Method
from nodulens.methods.recipe import ARRANGEMENT, Recipe
from nodulens.metrics.boxes import box_iou
from nodulens.metrics.detection import MAX_MARKS
from nodulens.ops.processes import in_processes
from nodulens.pipeline import Progress, analyze, silent
from nodulens.presentation.evaluation import hashed
from nodulens.report.record import Report, ScanSummary, WeightRef

SETTINGS, SCANS = "cohort.json", "scans"
LEAST = 0.02
"""Marks below this score are not outlined: the curve ends there."""


# ---------------------------------------------------------------- records


@dataclass(frozen=True)
class CohortSettings:
    """What a folder's scans were done with.

    Attributes:
        recipe: with what was set; of several folds that of the first run.
        weights: of its networks; of several folds those of all runs.
        least: score below which there are no marks.
    """

    recipe: Recipe
    weights: tuple[WeightRef, ...]
    least: float


@dataclass(frozen=True)
class KnownRecord:
    """A nodule to find, or a finding that counts neither way.

    Attributes:
        diameter_mm: negative where there is none.
        texture: "" where it is unknown.
        score: of the best mark at the method's threshold; None where it was missed.
        dice: of the best outline there, 0…1; None without a known outline.
    """

    centre_lps: tuple[float, float, float]
    diameter_mm: float
    texture: str = ""
    score: float | None = None
    dice: float | None = None


@dataclass(frozen=True)
class MarkRecord:
    """A mark.

    Attributes:
        box_iou: of its box with that of each nodule, 0 for those without an outline.
    """

    centre_lps: tuple[float, float, float]
    score: float
    box_iou: tuple[float, ...]


@dataclass(frozen=True)
class ScanRecord:
    """A scan that is done.

    Attributes:
        name: in the cohort.
        series_uid: or the name of the file where it has none.
        kernel: "" where it is unknown.
        thickness_mm: of the slices; of files that do not tell, their spacing.
        threshold: of the method.
        other, other_strict: false positives at that threshold, see :class:`nodulens.evaluate.scans.ScanEvaluation`.
        nodules: to be found.
        excluded: findings that count neither way.
        marks: at whatever score.
        outlined: whether its nodules have outlines.
        truth: file of its annotations → hash.
        trained_on: whether a network that finds or outlines was trained on this patient, as far as the file or LIDC's
            database tells.
        fold: whose run analyzed it; None without folds.
        files: hash of the names and sizes of its files; "" where an earlier version did not record them.
        patient: hash of the patient's id, the same for all scans of one; "" where neither the file nor LIDC's database
            tells, or an earlier version did not record it.
    """

    name: str
    series_uid: str
    kernel: str
    thickness_mm: float
    threshold: float
    other: int
    other_strict: int
    nodules: tuple[KnownRecord, ...]
    excluded: tuple[KnownRecord, ...]
    marks: tuple[MarkRecord, ...]
    outlined: bool
    truth: dict[str, str]
    trained_on: bool
    fold: int | None = None
    files: str = ""
    patient: str = ""


SETTINGS_FORM = Format("nodulens-cohort/1", "cohort", defaults=True, arranged={Recipe: ARRANGEMENT})
SCAN_FORM = Format("nodulens-cohort-scan/1", "scan", defaults=True)


# ---------------------------------------------------------------- the cohort


@dataclass(frozen=True)
class CohortPlan:
    """How a cohort is evaluated.

    Attributes:
        method: name of a recipe, folder of a run, or one with a run for every fold: then each patient is analyzed by
            the run that left it out.
        settings: ``name=value``, see :func:`nodulens.methods.recipe.changed_in_use`.
        truths: what is known of the scans.
        workers: number of processes; None for one on every second core.
        patients: name of a scan → patient, where the scan itself does not tell.
        unseen: leave out scans of patients on whom a network that finds or outlines was trained.
    """

    method: str
    truths: Truths
    settings: tuple[str, ...] = ()
    workers: int | None = None
    patients: Mapping[str, str] = field(default_factory=dict)
    unseen: bool = False


@dataclass(frozen=True)
class CohortRun:
    """A cohort that was evaluated.

    Attributes:
        settings: of all scans.
        scans: those that are done.
        failed: name → reason of the others.
        left_out: scans of patients on whom a network was trained, which were asked to be left out.
        elsewhere: annotations of a table that are of no scan of the cohort.
    """

    settings: CohortSettings
    scans: tuple[ScanRecord, ...]
    failed: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    elsewhere: int = 0


def run_cohort(cohort: Cohort, plan: CohortPlan, out: Path, progress: Progress = silent) -> CohortRun:
    """Analyze every scan of a cohort that is not done yet.

    Args:
        cohort: its scans.
        plan: the method, and what is known of the scans.
        out: folder of the results; created if it does not exist.
        progress: called with the share of the scans that is done.

    Raises:
        BadOption: the folder holds results of another method, other settings, annotations or files of a scan; a fold
            has no run; or no scan is left.
        CannotWrite: nothing can be written there, or another run is writing there.
        MissingWeights, CorruptWeights, MissingExtra: see :func:`nodulens.methods.load.load_method`.
    """
    folds = read_folds(Path(plan.method))
    settings, taught = _loaded(plan, folds)
    left_out = tuple(s.name for s in cohort.scans if plan.unseen and plan.patients.get(s.name) in taught)
    scans = [scan for scan in cohort.scans if scan.name not in left_out]
    if not scans:
        raise BadOption(f"A network of {plan.method} was trained on the patients of all {len(left_out)} scans.")
    cores = os.cpu_count() or 1
    workers = plan.workers or max(1, cores // 2)
    with own_folder(out) as staging:
        _begin(settings, out, staging)
        targets = {scan.name: out / SCANS / f"{key_of(scan.name)}.json" for scan in scans}
        threads = max(1, cores // workers)
        jobs = {
            scan.name: (scan, plan, folds, threads, targets[scan.name], staging)
            for scan in scans
            if not targets[scan.name].is_file()
        }
        _same_input([scan for scan in scans if scan.name not in jobs], targets, plan.truths)
        failed, done = dict(cohort.unusable), len(scans) - len(jobs)
        progress("scans", done / len(scans))
        for name, problem in in_processes(_work, jobs, workers):
            if problem:
                failed[name] = problem
            done += 1
            progress("scans", done / len(scans))
    records = [_read(path) for name, path in targets.items() if name not in failed]
    names = {name for scan in cohort.scans for name in scan.names} | {record.series_uid for record in records}
    elsewhere = plan.truths.elsewhere(names) if isinstance(plan.truths, TableTruths) else 0
    return CohortRun(settings, tuple(records), failed, left_out, elsewhere)


def _loaded(plan: CohortPlan, folds: FoldRuns | None) -> tuple[CohortSettings, frozenset[str]]:
    """The settings, and the patients on whom every run was trained; each method is loaded to see that it can be."""
    recipe, weights, taught = None, dict[WeightRef, None](), []
    for name in map(str, folds.folders) if folds else (plan.method,):
        method = load_method(name, settings=plan.settings)
        recipe = recipe or method.recipe
        weights.update(dict.fromkeys(method.weights))
        taught.append(_taught(method))
    assert recipe is not None
    return CohortSettings(recipe, tuple(weights), LEAST), frozenset.intersection(*taught)


def _begin(settings: CohortSettings, out: Path, staging: Path) -> None:
    """Write the settings, or compare them with those of the folder."""
    path = out / SETTINGS
    if path.is_file():
        known = decode(CohortSettings, path.read_text("utf-8"), SETTINGS_FORM)
        differing = [f.name for f in fields(known) if getattr(known, f.name) != getattr(settings, f.name)]
        if differing:
            raise BadOption(
                f"{out} holds scans that were done with another {' and '.join(differing)}; name another folder, or "
                "repeat the command that it was begun with."
            )
        return
    (out / SCANS).mkdir(exist_ok=True)
    with whole_file(path, staging) as part:
        part.write_text(encode(settings, SETTINGS_FORM), encoding="utf-8")


def _same_input(scans: Sequence[CohortScan], targets: Mapping[str, Path], truths: Truths) -> None:
    """Refuse scans that were done with other annotations, or whose files are others."""
    records = {scan.name: _read(targets[scan.name]) for scan in scans}
    annotated = [scan.name for scan in scans if records[scan.name].truth != hashed(*truths.files(scan))]
    replaced = [scan.name for scan in scans if records[scan.name].files not in ("", _files(scan))]
    for changed, what in ((annotated, "annotations"), (replaced, "files of the scan")):
        if changed:
            raise BadOption(
                f"{len(changed)} scans, first {changed[0]}, were done with other {what}; name another folder, or "
                f"delete {targets[changed[0]]} to do it again."
            )


def _files(scan: CohortScan) -> str:
    """16 hexadecimal digits that change with the names and sizes of a scan's files, wherever they lie."""
    folder, pattern = (scan.path, "*") if scan.path.is_dir() else (scan.path.parent, f"{escape(scan.stem)}.*")
    found = folder.rglob(pattern) if scan.path.is_dir() else folder.glob(pattern)
    facts = sorted((path.name, path.stat().st_size) for path in found if path.is_file())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> ScanRecord:
    try:
        return decode(ScanRecord, path.read_text("utf-8"), SCAN_FORM)
    except UnreadableFile as error:
        raise UnreadableFile(f"{path}: {error} Delete it, and the scan is done again.") from error


# ---------------------------------------------------------------- one scan


def _work(
    scan: CohortScan, plan: CohortPlan, folds: FoldRuns | None, threads: int, target: Path, staging: Path
) -> None:
    """Analyze and match one scan, and write its record."""
    files = _files(scan)
    ct = io.read(scan.path, series=scan.series)
    patient = patient_of(scan, ct, plan.patients)
    if folds and not patient:
        raise BadOption("Its patient is unknown, so there is no telling which fold's run was not trained on it.")
    fold = folds.fold(patient) if folds else None
    name = plan.method if folds is None or fold is None else str(folds.folders[fold])
    method = _method(name, plan.settings, threads)
    record = scan_record(scan, ct, method, plan.truths)
    taught = patient in _taught(method)
    record = replace(record, trained_on=taught, fold=fold, files=files, patient=key_of(patient))
    with whole_file(target, staging) as part:
        part.write_text(encode(record, SCAN_FORM), encoding="utf-8")


@lru_cache(maxsize=2)
def _method(name: str, settings: tuple[str, ...], threads: int) -> Method:
    """The method of a process: scans of a fold mostly follow one another, and not all folds fit the memory."""
    return load_method(name, threads=threads, settings=settings)


def _taught(method: Method) -> frozenset[str]:
    """Patients in the training or validation set of a network that finds or outlines."""
    return frozenset(patient for model in method.finders for patient in model.card.patients)


def scan_record(scan: CohortScan, ct: Volume, method: Method, truths: Truths) -> ScanRecord:
    """A method on one scan.

    Raises:
        InputError: the scan cannot be analyzed, or nothing is known of it.
    """
    truth = truths.of(scan, ct)
    low = replace(
        method.recipe,
        threshold=min(method.threshold, LEAST),
        max_findings=max(method.recipe.max_findings, MAX_MARKS),
    )
    full = analyze(ct, method=replace(method, recipe=low))
    kept = tuple(n for n in full.nodules if n.score >= method.threshold)[: method.recipe.max_findings]
    report = replace(full, threshold=method.threshold, nodules=kept)
    return replace(_record(scan, ct, truth, report, full), truth=hashed(*truths.files(scan)))


def _record(scan: CohortScan, ct: Volume, truth: ScanTruth, report: Report, full: Report) -> ScanRecord:
    found = evaluate_scan(scan.name, ct, truth, report, full)
    summary = ScanSummary.of(ct)
    return ScanRecord(
        name=scan.name,
        series_uid=full.series_uid or scan.stem,
        kernel=summary.kernel or "",
        thickness_mm=float(summary.slice_thickness_mm or summary.spacing_zyx[0]),
        threshold=found.threshold,
        other=found.other,
        other_strict=found.other_strict,
        nodules=tuple(
            KnownRecord(
                _point(centre), float(diameter), texture, one.score, one.outline.dice_3d if one.outline else None
            )
            for centre, diameter, texture, one in zip(
                truth.known.centre_lps, truth.known.diameter_mm, truth.textures, found.nodules, strict=True
            )
        ),
        excluded=tuple(
            KnownRecord(_point(centre), float(diameter))
            for centre, diameter in zip(truth.excluded.centre_lps, truth.excluded.diameter_mm, strict=True)
        ),
        marks=tuple(
            MarkRecord(_point(nodule.centre_lps), float(nodule.score), tuple(map(float, ious)))
            for nodule, ious in zip(full.nodules, _box_iou(full.nodules, truth.outlines), strict=True)
        ),
        outlined=any(outline is not None for outline in truth.outlines),
        truth={},
        trained_on=False,
    )


def _box_iou(nodules: Sequence[Nodule], outlines: Sequence[KnownNodule | None]) -> NDArray[np.float64]:
    """(marks, nodules) IoU of boxes; 0 for nodules without an outline."""
    out = np.zeros((len(nodules), len(outlines)))
    known = [k for k, outline in enumerate(outlines) if outline is not None]
    if nodules and known:
        boxes = [outline.box for outline in outlines if outline is not None]
        out[:, known] = box_iou(_corners([n.box for n in nodules]), _corners(boxes))
    return out


def _corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """(n, 2, 3)."""
    return np.array([(box.start, box.stop) for box in boxes], dtype=np.float64)


def _point(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
