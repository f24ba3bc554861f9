"""From a CT to a report: the whole path, one call a stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from nodulens import __version__
from nodulens.core.coverage import Coverage
from nodulens.core.nodule import NO_OUTLINE, OUTSIDE, Box, Nodule
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption
from nodulens.io import sharp_kernel
from nodulens.io.deidentify import released
from nodulens.methods.load import load_method
from nodulens.methods.method import Method
from nodulens.methods.recipe import Recipe
from nodulens.ops.orient import Reorientation, canonical
from nodulens.report.record import LungVolumes, Report, ScanSummary, SizeSensitivity
from nodulens.stages.attributes import predictable
from nodulens.stages.classify import likely
from nodulens.stages.classify_crop import UNCALIBRATED
from nodulens.stages.coverage import lung_coverage
from nodulens.stages.detect import detect
from nodulens.stages.findings import Finding, outline_all, refined
from nodulens.stages.fp_reduction import kept, sliding_window
from nodulens.stages.lungs import lung_volumes_ml, segment_lungs
from nodulens.stages.measure import measure, texture
from nodulens.stages.position import central_slice, locate
from nodulens.stages.slices import Field, find_regions, segment_slices
from nodulens.stages.thorax import Body
from nodulens.stages.user_prompts import GivenPrompt, PromptFields, UserPrompt, misfit

if TYPE_CHECKING:
    from nodulens.query import Lexicon

AnyMethod = Method | Recipe | str | Path
"""A method, or what :func:`nodulens.load_method` takes: the name of a recipe, the folder of a run, or a recipe."""
Progress = Callable[[str, float], None]
"""Called with a stage and how much of it is done, 0…1."""


@dataclass
class StageTimes:
    """Seconds by stage; calls ``progress`` when one starts and ends."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside, and add it to what the stage has taken before."""
        self.progress(name, 0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.progress(name, 1.0)


def silent(stage: str, done: float) -> None:
    """No progress is shown."""


def analyze(ct: Volume, *, method: AnyMethod = "default", progress: Progress = silent) -> Report:
    """Find, segment, measure and classify the nodules of a chest CT.

    >>> import nodulens as nl
    >>> report = nl.analyze(nl.read("scan"), method=nl.Recipe(threshold=0.3))  # doctest: +SKIP

    Args:
        ct: as :func:`nodulens.read` gives it, in any orientation.
        method: by its name, as the folder of a run, as a recipe, or loaded before by :func:`nodulens.load_method`.
        progress: called with each stage and how much of it is done.

    Returns:
        The findings, the most certain first, with masks and heat maps on the grid of ``ct``.

    Raises:
        NoLungs: this is no chest CT.
        BadOption: there is no such method.
        MissingWeights, CorruptWeights: the networks are not in order.
        MissingExtra: the method needs packages that are not installed.
    """
    times = StageTimes(progress)
    method = _loaded(method, times)
    scan = _prepared(ct, times)
    return _report(scan, _found(scan, method, times), method, times)


def segment(ct: Volume, *, method: AnyMethod = "default", **prompt: Unpack[PromptFields]) -> Report:
    """Segment, measure and classify the one nodule that a point, a box or a rough mask prompts.

    >>> import nodulens as nl
    >>> report = nl.segment(nl.read("scan"), point=(-84, 42, 54))  # doctest: +SKIP

    Args:
        ct: as :func:`nodulens.read` gives it, in any orientation.
        point: (x, y, z) in the nodule.
        box: (x0, y0, z0, x1, y1, z1), two corners; on one slice where z0 = z1.
        mask: a rough mask, such as :func:`nodulens.read_mask` gives; on any grid in the same patient space.
        space: of the numbers: "lps", millimetres; or "voxel", indices from 0 in the array as the file stores it.
        include, exclude: lists of points (x, y, z) that the outline must contain, and must not: they correct the
            outline that the prompt gives.
        method: its prompted network and classifier are used; see :func:`analyze`.

    Returns:
        One finding, with its mask and heat map on the grid of ``ct``.

    Raises:
        BadPrompt: not exactly one prompt, it is empty or outside the scan, or nothing there looks like a nodule.
        BadOption: the method has no prompted network, or there is no such method.
        NoLungs, MissingWeights, CorruptWeights, MissingExtra: as :func:`analyze`.
    """
    return segment_prompt(ct, UserPrompt(**prompt), method=method)


def segment_prompt(
    ct: Volume, prompt: GivenPrompt, *, method: AnyMethod = "default", progress: Progress = silent
) -> Report:
    """The same as :func:`segment` for a prompt as a value, with progress."""
    times = StageTimes(progress)
    method = _loaded(method, times)
    placed = prompt.on(canonical(ct)[0], ct)  # what is wrong with it is said before the lungs are looked for
    scan = _prepared(ct, times)
    with times.stage("segment"):
        finding = Finding(1.0, *method.outline_given(scan.volume, scan.lungs, placed))
    report = _report(scan, _described(scan, [finding], method, times), method, times)
    notes = misfit(placed, finding.box, finding.mask, scan.volume)
    return replace(report, prompted=True, warnings=(*report.warnings, *notes))


def segment_text(
    ct: Volume,
    text: str,
    *,
    method: AnyMethod = "default",
    lexicons: Sequence[Lexicon] | None = None,
    progress: Progress = silent,
) -> Report:
    """Find the nodules of a chest CT, and segment again the one that a text means, from its box.

    >>> import nodulens as nl
    >>> report = nl.segment_text(nl.read("scan"), "largest solid nodule")  # doctest: +SKIP

    Args:
        ct: as :func:`nodulens.read` gives it, in any orientation.
        text: a text query that one finding fits, see :mod:`nodulens.query`.
        method: finds the nodules, and its prompted network outlines the one; see :func:`analyze`. SAM is prompted for
            that one alone: the findings are outlined by our own network, or are the regions of the recipe's own
            segmenter.
        lexicons: the words, see :func:`nodulens.query.load_lexicons`; None for the languages that ship.
        progress: called with each stage and how much of it is done.

    Returns:
        One finding, as :func:`segment`; what must be said of the query's answer is among the warnings.

    Raises:
        BadPrompt: the text is not understood, no finding fits it, or several do.
        BadOption, NoLungs, MissingWeights, CorruptWeights, MissingExtra: as :func:`segment`.
    """
    from nodulens.query import only, parse  # lark is loaded where a text is parsed

    query = parse(text, lexicons)
    times = StageTimes(progress)
    method = _loaded(method, times)
    method.check_prompted()
    scan = _prepared(ct, times)
    finder = method.finder
    found = _found(scan, finder, times)
    nodule, notes = only(query, found)
    with times.stage("segment"):
        prompt = method.prompt_of(scan.volume, nodule.box)
        finding = Finding(nodule.score, *method.outline_given(scan.volume, scan.lungs, prompt))
    report = _report(scan, _described(scan, [finding], method, times), method, times)
    which = f"This is number {nodule.id} of {len(found)} findings, prompted by its box, which fits {text!r}."
    weights = tuple(dict.fromkeys((*finder.weights, *method.weights)))
    return replace(report, prompted=True, weights=weights, warnings=(*report.warnings, which, *notes))


def with_findings(report: Report, ct: Volume, findings: Sequence[Finding], method: Method) -> Report:
    """A report with further findings, measured and graded as its own are, with numbers after theirs.

    Args:
        report: of an analysis, with its lung mask.
        ct: the volume as read, the one that was analysed.
        findings: on the canonical orientation of ``ct``.
        method: what grades them.

    Raises:
        BadOption: the report has no lung mask, as one read from JSON.
    """
    if report.lung_mask is None:
        raise BadOption("The report has no lung mask: one read from JSON takes no further findings.")
    volume, orientation = canonical(ct)
    lungs = Mask(orientation.apply(report.lung_mask.labels), volume.geometry, report.lung_mask.names)
    scan = _Scan(ct, volume, orientation, lungs, report.coverage)
    first = max((nodule.id for nodule in report.nodules), default=0)
    added = [
        replace(_as_read(nodule, ct, orientation), id=first + nodule.id)
        for nodule in _described(scan, list(findings), method, StageTimes(silent))
    ]
    return replace(report, nodules=(*report.nodules, *added))


def _loaded(method: AnyMethod, times: StageTimes) -> Method:
    with times.stage("models"):
        return method if isinstance(method, Method) else load_method(method)


@dataclass(frozen=True)
class _Scan:
    """A CT as read, and what the stages work on.

    Attributes:
        ct: as read.
        volume: the same in canonical orientation.
        orientation: the way back.
        lungs: on the grid of ``volume``.
        coverage: how much of them was found.
    """

    ct: Volume
    volume: Volume
    orientation: Reorientation
    lungs: Mask
    coverage: Coverage


def _prepared(ct: Volume, times: StageTimes) -> _Scan:
    volume, orientation = canonical(ct)
    with times.stage("lungs"):
        lungs = segment_lungs(volume)
        return _Scan(ct, volume, orientation, lungs, lung_coverage(volume, lungs))


def _found(scan: _Scan, method: Method, times: StageTimes) -> list[Nodule]:
    """The nodules of a scan, the most certain first."""
    find = _from_candidates if method.recipe.detects else _from_slices
    return _described(scan, find(scan, method, times), method, times)


def _from_candidates(scan: _Scan, method: Method, times: StageTimes) -> list[Finding]:
    """What the default's detector finds, segmented by a prompted network."""
    models = method.models
    with times.stage("detect"):
        candidates = detect(scan.volume, scan.lungs, models.screen, models.volume)
    with times.stage("segment"):
        outline = method.outline(scan.lungs)
        assert outline is not None, "a recipe without a segmenter prompts one"
        done = partial(times.progress, "segment")
        return outline_all(scan.volume, candidates, method.threshold, method.recipe.max_findings, outline, done)


def _from_slices(scan: _Scan, method: Method, times: StageTimes) -> list[Finding]:
    """The findings of a network of whole slices, filtered by a second and refined by a third if one is set; or those of
    the second as a sliding window."""
    own, recipe = method.models.own, method.recipe
    with times.stage("detect"):
        done = partial(times.progress, "detect")
        if recipe.sliding_window:
            found = sliding_window(scan.volume, scan.lungs, own["filter"], threshold=method.threshold, progress=done)
        else:
            model = own["segmenter"]
            field, body = Field.of(model.card.settings), Body.of(scan.volume)
            found = find_regions(segment_slices(scan.volume, model, field, body, done), scan.lungs)
            if recipe.filter:
                found = kept(scan.volume, found, own["filter"], method.threshold)
        found = [f for f in found if f.score >= method.threshold][: recipe.max_findings]
    with times.stage("segment"):
        outline = method.outline(scan.lungs)
        if outline is None:
            return found
        return refined(scan.volume, found, recipe.box_scale, outline, partial(times.progress, "segment"))


def _described(scan: _Scan, findings: list[Finding], method: Method, times: StageTimes) -> list[Nodule]:
    """Measurements, place and risk of every finding, on the canonical volume."""
    volume, lungs = scan.volume, scan.lungs
    nodules = []
    for number, finding in enumerate(findings, start=1):
        box, mask = finding.box, finding.mask
        with times.stage("measure"):
            measurements = measure(volume, box, mask, lungs)
            position = locate(volume, box, mask, lungs)
            interval = method.volume_interval(volume, box, mask, measurements.volume_mm3) if finding.outlined else None
        with times.stage("malignancy"):
            grade = method.grade(volume, box, mask)
            risk = likely(grade.risk, finding.score) if method.recipe.detects else grade.risk
            outside = _outside(box, mask, lungs)
            risk = risk.doubted(*([] if finding.outlined else [NO_OUTLINE]), *outside)
        z, y, x = (float(v.mean()) for v in np.nonzero(mask))
        centre = volume.geometry.to_lps(np.array([z, y, x]) + box.start)
        nodules.append(
            Nodule(
                id=number,
                score=finding.score,
                centre_lps=(float(centre[0]), float(centre[1]), float(centre[2])),
                box=box,
                texture=texture(measurements),
                position=position,
                measurements=measurements,
                risk=risk,
                attributes=grade.attributes,
                volume_interval_mm3=interval,
                warnings=(() if finding.outlined else (NO_OUTLINE,))
                + outside
                + _nodule_warnings(volume, box, measurements.mean_diameter_mm),
                mask=mask,
                heat=grade.heat,
            )
        )
    return nodules


def _outside(box: Box, mask: NDArray[np.bool_], lungs: Mask) -> tuple[str, ...]:
    """What an outline is that is not in the lungs, as one pointed at by a wrong sign may be."""
    inside = np.count_nonzero(lungs.labels[box.slices][mask])
    return () if 2 * inside >= np.count_nonzero(mask) else (OUTSIDE,)


def _nodule_warnings(volume: Volume, box: Box, diameter_mm: float) -> tuple[str, ...]:
    notes = []
    if box.shape[0] < 3:
        notes.append(f"Seen on {box.shape[0]} slice{'s' * (box.shape[0] > 1)} only: volume and height are rough.")
    if any(a == 0 or b == n for a, b, n in zip(box.start, box.stop, volume.geometry.shape, strict=True)):
        notes.append("Reaches the edge of the scan: it may be larger than measured.")
    if diameter_mm > 40 or diameter_mm < 3:
        notes.append(f"A diameter of {diameter_mm:.1f} mm is outside the 3 to 40 mm that the models were trained on.")
    return tuple(notes)


def _report(scan: _Scan, nodules: list[Nodule], method: Method, times: StageTimes) -> Report:
    """Everything back on the grid of the scan as read, with its provenance."""
    ct, lungs = replace(scan.ct, source=released(scan.ct.source)), scan.lungs
    volumes = lung_volumes_ml(lungs)
    measured = method.models.volume.card.settings["sensitivity_by_size"] if method.recipe.detects else []
    return Report(
        software=f"nodulens {__version__}",
        recipe=method.recipe.name,
        weights=method.weights,
        series_uid=ct.source.series_uid,
        input_sha256=ct.source.input_sha256,
        scan=ScanSummary.of(ct),
        case=None,
        patient=None,
        warnings=method.recipe.caveats + ct.source.warnings + quality_warnings(scan.ct, lungs),
        timing_s={**times.seconds, "total": sum(times.seconds.values())},
        lungs=LungVolumes(volumes["left_ml"], volumes["right_ml"]),
        coverage=scan.coverage,
        threshold=method.threshold,
        nodules=tuple(_as_read(n, ct, scan.orientation) for n in nodules),
        sensitivity=tuple(SizeSensitivity(*row) for row in measured),
        attribute_auc=predictable(method.classifier.card),
        interval_meaning=str(method.classifier.card.settings.get("interval", {}).get("meaning", UNCALIBRATED)),
        lung_mask=Mask(scan.orientation.invert(lungs.labels), ct.geometry, lungs.names),
    )


def _as_read(nodule: Nodule, ct: Volume, orientation: Reorientation) -> Nodule:
    """A nodule of the canonical volume in indices of the volume as read."""
    slices = ct.source.slices
    assert nodule.mask is not None
    assert nodule.heat is not None
    mask = np.ascontiguousarray(orientation.invert(nodule.mask))
    box = orientation.invert_box(nodule.box)
    z = box.start[0] + central_slice(mask)
    known = slices[z] if slices else None
    position = replace(
        nodule.position,
        central_slice=z,
        instance_number=known.instance_number if known else None,
        sop_instance_uid=(known.sop_instance_uid or None) if known else None,
    )
    return replace(
        nodule, box=box, mask=mask, heat=np.ascontiguousarray(orientation.invert(nodule.heat)), position=position
    )


def quality_warnings(ct: Volume, lungs: Mask) -> tuple[str, ...]:
    """What about this scan makes the findings less sure, as sentences.

    Args:
        ct: as read.
        lungs: of its canonical orientation.
    """
    notes = []
    source, spacing = ct.source, lungs.geometry.spacing_zyx
    thickness = max(spacing[0], source.slice_thickness_mm or 0.0)
    if thickness > 2.5:
        small = 2 * thickness
        notes.append(f"Slices of {thickness:g} mm: nodules under {small:g} mm may be missed, and volumes are rough.")
    if sharp_kernel(source.kernel):
        kernel = released(source).kernel
        named = f" {kernel}" if kernel else ""
        notes.append(f"Sharp kernel{named}: noise resembles small nodules; densities and textures are less reliable.")
    if not 0.45 <= min(spacing[1:]) <= max(spacing[1:]) <= 1.0 or not 0.5 <= spacing[0] <= 5.0:
        notes.append(
            f"Voxels of {spacing[0]:.2f} × {spacing[1]:.2f} × {spacing[2]:.2f} mm (z, y, x): the models saw slices of "
            "0.5 to 5 mm and pixels of 0.46 to 0.98 mm."
        )
    inside = ct.hu if ct.hu.size < 4_000_000 else ct.hu[:: max(1, ct.hu.shape[0] // 16)]
    if float(np.max(inside)) < 100:
        notes.append("Nothing in this scan is denser than 100 HU: its values may not be Hounsfield units.")
    return tuple(notes)
