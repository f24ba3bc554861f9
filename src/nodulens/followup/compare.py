"""Examinations of one patient compared: registered, nodules paired, looked for where they were not found, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nodulens import __version__
from nodulens.clinical.facts import Answers
from nodulens.core.geometry import Float
from nodulens.core.nodule import Candidate, Nodule, Point
from nodulens.errors import BadOption, BadPrompt
from nodulens.followup.change import Change, Measured, changed
from nodulens.followup.exam import Exam
from nodulens.followup.guidelines import followed_up
from nodulens.followup.pairing import Mark, pair
from nodulens.followup.record import Comparison, ExamSummary, Sighting, Status, Track
from nodulens.followup.registration import Lungs, Quality, Registration, register
from nodulens.methods.method import Method
from nodulens.pipeline import Progress, StageTimes, silent, with_findings
from nodulens.report.record import LungVolumes
from nodulens.stages.detect import detect_within
from nodulens.stages.findings import Finding
from nodulens.stages.segment import ROOM, prompt_of_candidate, rough_cube

LEAST_DICE, LEAST_FOUND, LEAST_FORKS, LEAST_OVERLAP = 0.80, 0.30, 15, 0.15
"""Below these two scans are not compared: the lungs do not coincide, the vessels are not those of one patient, or the
scans have too little of the lungs in common. To the share of forks one over the root of their number is added: of few,
many are found again by chance. Measured by ``benchmarks/followup.py registration``."""
LEAST_SCORE = 0.03
"""Detection confidence from which a mark is tried where another examination has a nodule."""
ALIKE = 0.35
"""Dice of a mask with that of the other examination, moved to its place, from which it is the nodule although the
detector has no mark there."""
DENSE, STILL_DENSE, LUNG_HU = 0.6, 0.25, -850.0
"""Prompted in lung without a nodule, the segmenter may outline some all the same. So of the voxels outlined, and of
those that the nodule has in the other examination, these shares must be denser than half-way from lung to it."""
LOOK_MM = 6.0
"""How far from its place, and half its diameter, a nodule is looked for."""
LARGEST_MM = 40.0
"""Radius around a nodule in which no fork is looked for, at most: an outline that leaked would leave none."""
INSIDE_MM = 1.0
"""A nodule is part of another if its place is that near to the mask."""


@dataclass(frozen=True, eq=False)
class Compared:
    """A comparison with what it was made of.

    Attributes:
        comparison: the result.
        exams: in the order of time; their reports also hold the nodules that were found by looking for them.
        registrations: of each earlier one with the last.
    """

    comparison: Comparison
    exams: tuple[Exam, ...]
    registrations: tuple[Registration, ...]


@dataclass(frozen=True)
class Options:
    """What a person states.

    Attributes:
        answers: for the clinical guidelines.
        case: a pseudonym.
        identify: put patient and dates into the result.
        notes: sentences for the warnings.
        dates: of the studies, in the order of time, as text; empty where not to be written.
    """

    answers: Answers = field(default_factory=Answers)
    case: str | None = None
    identify: bool = False
    notes: tuple[str, ...] = ()
    dates: tuple[str | None, ...] = ()


def compare(
    exams: Sequence[Exam], method: Method, options: Options | None = None, progress: Progress = silent
) -> Compared:
    """Compare examinations of one patient.

    Args:
        exams: two or more, in the order of time, each with its report.
        method: what segments and grades a nodule that is looked for.
        options: None for none.
        progress: called with each stage and how much of it is done.

    Raises:
        BadOption: less than two, or two scans do not match: the message says how, and what to do.
    """
    options = options or Options()
    if len(exams) < 2:
        raise BadOption("A comparison needs two scans or more, such as nodulens compare PRIOR CURRENT -o OUT.")
    times = StageTimes(progress)
    *earlier, current = exams
    registrations = []
    with times.stage("register"):
        here = _lungs(current)
        for number, one in enumerate(earlier):
            registrations.append(register(here, _lungs(one)))
            _check(registrations[-1].quality, number + 1, len(exams))
            progress("register", (number + 1) / len(earlier))
    frames = [*registrations, None]
    threads = _threads(exams, frames)
    found = [frozenset(nodule.id for nodule in exam.report.nodules) for exam in exams]
    with times.stage("look"):
        exams, threads = _looked(list(exams), frames, threads, method, lambda done: progress("look", done))
    tracks = _ordered(_tracks(exams, frames, threads, found))
    comparison = Comparison(
        software=f"nodulens {__version__}",
        recipe=method.recipe.name,
        weights=method.weights,
        case=options.case,
        patient=current.ct.source.patient if options.identify else None,
        exams=tuple(
            _summary(exam, options.dates[i] if options.identify and options.dates else None, before)
            for i, (exam, before) in enumerate(zip(exams, (*earlier, current), strict=True))
        ),
        registrations=tuple(one.quality for one in registrations),
        tracks=tracks,
        guidelines=followed_up(exams, tracks, options.answers),
        warnings=(*options.notes, *_warnings(exams, registrations)),
        timing_s={**times.seconds, "total": sum(times.seconds.values())},
    )
    return Compared(comparison, tuple(exams), tuple(registrations))


def _lungs(exam: Exam) -> Lungs:
    nodules = tuple((n.centre_lps, min(n.measurements.max_diameter_3d_mm / 2, LARGEST_MM)) for n in exam.report.nodules)
    return Lungs(exam.volume, exam.lungs, nodules)


def _check(quality: Quality, number: int, count: int) -> None:
    """Refuse a bad match.

    Raises:
        BadOption: with the reason.
    """
    which = "The scans" if count == 2 else f"Scan {number} and the last one"
    if quality.overlap < LEAST_OVERLAP:
        raise BadOption(
            f"{which} show too little of the same lung to be compared: {100 * quality.overlap:.0f} % of the current "
            "lungs. Give scans of the same region."
        )
    if quality.forks < LEAST_FORKS:
        raise BadOption(
            f"{which} cannot be checked to match: they have {quality.forks} forks of vessels where both show lung, and "
            f"{LEAST_FORKS} are needed. Give scans that share more of the lungs, or compare them by eye."
        )
    measured = f"{100 * quality.found:.0f} % of {quality.forks} forks of vessels are found again"
    least = LEAST_FOUND + quality.forks**-0.5
    if quality.found < least:
        raise BadOption(
            f"{which} do not match: {measured}, and {100 * least:.0f} % are needed. They may be of different "
            "patients, or the lungs have changed too much to be registered. Compare them by eye."
        )
    if quality.dice < LEAST_DICE:
        raise BadOption(
            f"{which} could not be registered: the lungs overlap with a Dice of {quality.dice:.2f}, and "
            f"{LEAST_DICE:.2f} is needed. Compare them by eye."
        )


# ---- Threads: which nodules of the examinations are one


@dataclass(frozen=True)
class _Thread:
    """One nodule: its number in each examination; None where it has none (yet)."""

    numbers: tuple[int | None, ...]

    def with_number(self, exam: int, number: int) -> _Thread:
        return replace(self, numbers=(*self.numbers[:exam], number, *self.numbers[exam + 1 :]))

    @property
    def latest(self) -> int:
        """The last examination in which it is."""
        return max(i for i, number in enumerate(self.numbers) if number is not None)


def to_current(place: Point, frame: Registration | None) -> Point:
    """A place in an examination as one of the current scan; None is the current one's own frame."""
    return place if frame is None else _point(frame.to_prior.inverse_at(place))


def from_current(place: Point, frame: Registration | None) -> Point:
    """A place of the current scan as one of an examination."""
    return place if frame is None else _point(frame.to_prior.at(place))


def _point(place: Float) -> Point:
    x, y, z = (float(v) for v in place)
    return x, y, z


def _mark(nodule: Nodule, frame: Registration | None) -> Mark:
    return Mark(to_current(nodule.centre_lps, frame), nodule.measurements.equivalent_diameter_mm)


def _threads(exams: Sequence[Exam], frames: Sequence[Registration | None]) -> list[_Thread]:
    """The nodules of the current examination; then those of the others, the latest first, paired to them."""
    last = len(exams) - 1
    empty: tuple[int | None, ...] = (None,) * len(exams)
    threads: list[_Thread] = []
    for i in range(last, -1, -1):
        nodules = exams[i].report.nodules
        known = [exams[t.latest].nodule(t.numbers[t.latest] or 0) for t in threads]
        marks = [_mark(n, frames[t.latest]) for n, t in zip(known, threads, strict=True)]
        pairs = dict(pair([_mark(n, frames[i]) for n in nodules], marks))
        for j, nodule in enumerate(nodules):
            if j in pairs:
                threads[pairs[j]] = threads[pairs[j]].with_number(i, nodule.id)
            else:
                threads.append(_Thread(empty).with_number(i, nodule.id))
    return threads


# ---- Looking for a nodule where it was not found


def _looked(
    exams: list[Exam],
    frames: Sequence[Registration | None],
    threads: list[_Thread],
    method: Method,
    done: Callable[[float], None],
) -> tuple[list[Exam], list[_Thread]]:
    """The examinations and threads with what is found at the place that another examination gives."""
    for i in range(len(exams)):
        found: list[tuple[int, Finding]] = []
        for number, thread in enumerate(threads):
            done((i + number / max(len(threads), 1)) / len(exams))
            if thread.numbers[i] is None:
                finding = _look(exams[i], frames[i], exams[thread.latest], thread, frames, method)
                if finding is not None and not any(_same(finding, other) for _, other in found):
                    found.append((number, finding))
        before = len(exams[i].report.nodules)
        report = with_findings(exams[i].report, exams[i].ct, [finding for _, finding in found], method)
        exams[i] = replace(exams[i], report=report)
        for (number, _), nodule in zip(found, report.nodules[before:], strict=True):
            threads[number] = threads[number].with_number(i, nodule.id)
    return exams, threads


def _look(
    exam: Exam,
    frame: Registration | None,
    other: Exam,
    thread: _Thread,
    frames: Sequence[Registration | None],
    method: Method,
) -> Finding | None:
    """What of a nodule of another examination is at its place in this one; None where nothing is."""
    known = other.nodule(thread.numbers[thread.latest] or 0)
    place = from_current(to_current(known.centre_lps, frames[thread.latest]), frame)
    volume, diameter = exam.volume, known.measurements.equivalent_diameter_mm
    if not _shown(exam, place):
        return None
    outline = method.outline(exam.lungs)
    if outline is None:
        return None
    reach = LOOK_MM + diameter / 2
    moved = _moved(exam, frame, other, known, frames[thread.latest])
    level = (LUNG_HU + known.measurements.p50_hu) / 2
    if _dense(exam, moved, level) < STILL_DENSE:
        return None
    prompts = [(c.score, prompt_of_candidate(volume, c)) for c in _marks(exam, place, reach, method)]
    prompts.append((0.0, rough_cube(volume, place, ROOM * diameter)))
    for score, prompt in prompts:
        try:
            box, mask = outline(volume, prompt)
        except BadPrompt:
            continue
        finding = Finding(score, box, mask)
        own = volume.geometry.to_lps(np.argwhere(mask) + np.asarray(box.start))
        far = np.linalg.norm(own.mean(axis=0) - place) > reach
        if far or _dense(exam, own, level) < DENSE or _known(finding, exam):
            continue
        if score >= LEAST_SCORE or _likeness(exam, own, other, moved) >= ALIKE:
            return finding
    return None


def _shown(exam: Exam, place: Point) -> bool:
    """Whether an examination has slices at a place."""
    return exam.ct.geometry.contains(place)


def _marks(exam: Exam, place: Point, reach_mm: float, method: Method) -> list[Candidate]:
    """What the detector marks near a place, also far below its threshold, the nearest first."""
    if not method.recipe.detects:
        return []
    geometry = exam.volume.geometry
    region = np.zeros(geometry.shape, dtype=bool)
    middle, half = geometry.to_index(place), reach_mm / np.asarray(geometry.spacing_zyx)
    low = np.maximum(np.floor(middle - half), 0).astype(int)
    high = np.minimum(np.ceil(middle + half) + 1, geometry.shape).astype(int)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij")
    away = np.linalg.norm(geometry.to_lps(np.stack(axes, axis=-1)) - np.asarray(place), axis=-1)
    region[cut] = away <= reach_mm
    found = detect_within(exam.volume, region, method.models.screen, method.models.volume)
    near = [c for c in found if c.score >= LEAST_SCORE]
    return sorted(near, key=lambda c: float(np.linalg.norm(np.subtract(c.centre_lps, place))))


def _same(one: Finding, other: Finding) -> bool:
    """Whether two findings on one grid share more than half of the smaller."""
    return _shared(one, other) > 0.5 * min(int(one.mask.sum()), int(other.mask.sum()))


def _shared(one: Finding, other: Finding) -> int:
    low = np.maximum(one.box.start, other.box.start)
    high = np.minimum(one.box.stop, other.box.stop)
    if np.any(high <= low):
        return 0
    parts = [
        f.mask[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, f.box.start, strict=True))] for f in (one, other)
    ]
    return int((parts[0] & parts[1]).sum())


def _known(finding: Finding, exam: Exam) -> bool:
    """Whether the examination has this nodule already: then it is one of its own, and not the one looked for."""
    points = exam.volume.geometry.to_lps(np.argwhere(finding.mask) + np.asarray(finding.box.start))
    index = np.rint(exam.ct.geometry.to_index(points)).astype(int)
    for nodule in exam.report.nodules:
        if nodule.mask is None:
            continue
        at = index - np.asarray(nodule.box.start)
        inside = ((at >= 0) & (at < nodule.mask.shape)).all(axis=1)
        both = int(nodule.mask[tuple(at[inside].T)].sum())
        if both > 0.3 * min(len(index), int(nodule.mask.sum())):
            return True
    return False


def _moved(exam: Exam, frame: Registration | None, other: Exam, known: Nodule, theirs: Registration | None) -> Float:
    """The voxels of a nodule of another examination where they are in this one: LPS mm, (n, 3)."""
    assert known.mask is not None
    points = other.ct.geometry.to_lps(np.argwhere(known.mask) + np.asarray(known.box.start))
    points = points if theirs is None else theirs.to_prior.inverse_at(points)
    return points if frame is None else frame.to_prior.at(points)


def _dense(exam: Exam, points: Float, level_hu: float) -> float:
    """Share of points, LPS mm (n, 3), where a scan is denser than a level."""
    geometry = exam.volume.geometry
    index = np.rint(geometry.to_index(points)).astype(int)
    inside = ((index >= 0) & (index < geometry.shape)).all(axis=1)
    if not inside.any():
        return 0.0
    return float((exam.volume.hu[tuple(index[inside].T)] > level_hu).mean())


def _likeness(exam: Exam, own: Float, other: Exam, moved: Float) -> float:
    """Dice of two sets of voxels, brought 3 mm nearer to one another at most, as far as the registration may err."""
    shift = own.mean(axis=0) - moved.mean(axis=0)
    moved = moved + shift * min(1.0, 3.0 / max(float(np.linalg.norm(shift)), 1e-6))
    step = max(*exam.volume.geometry.spacing_zyx, *other.ct.geometry.spacing_zyx)
    cells = [_cells(p, step) for p in (own, moved)]
    return 2 * len(cells[0] & cells[1]) / max(len(cells[0]) + len(cells[1]), 1)


def _cells(points: NDArray[np.float64], step_mm: float) -> set[tuple[int, ...]]:
    return set(map(tuple, np.floor(points / step_mm).astype(int).tolist()))


# ---- What came of it


def _tracks(
    exams: Sequence[Exam],
    frames: Sequence[Registration | None],
    threads: Sequence[_Thread],
    found: Sequence[frozenset[int]],
) -> list[Track]:
    """Every thread with what changed; ``found`` are the nodules of each examination's own search."""
    parts = {number: _part_of(exams, frames, threads, number) for number in range(len(threads))}
    out = []
    for number, thread in enumerate(threads):
        sightings = tuple(_sighting(exams, frames, thread, found, i) for i in range(len(exams)))
        whole = parts[number]
        absorbed = [other for other, into in parts.items() if into == number]
        status, change, compared, notes = _judged(exams, thread, sightings)
        related: tuple[int, ...] = ()
        if whole is not None:
            status = "merged" if thread.numbers[-1] is None else "split"
            change, compared, related = None, None, (whole,)
        elif absorbed:
            related = tuple(absorbed)
            change, status = _with_parts(exams, threads, thread, absorbed, (status, change))
            notes = (*notes, "Its volume is compared with that of all its parts together.")
        out.append(Track(number + 1, status, sightings, change, compared, related, notes))
    return out


def _sighting(
    exams: Sequence[Exam],
    frames: Sequence[Registration | None],
    thread: _Thread,
    found: Sequence[frozenset[int]],
    i: int,
) -> Sighting:
    number = thread.numbers[i]
    if number is None:
        latest = thread.latest
        known = exams[latest].nodule(thread.numbers[latest] or 0)
        place = from_current(to_current(known.centre_lps, frames[latest]), frames[i])
        return Sighting("absent" if _shown(exams[i], place) else "outside", None, place)
    nodule = exams[i].nodule(number)
    return Sighting(
        "found" if number in found[i] else "looked for",
        number,
        nodule.centre_lps,
        nodule.score,
        nodule.texture,
        nodule.position,
        nodule.measurements,
        nodule.risk,
        nodule.attributes,
    )


def _history(exams: Sequence[Exam], thread: _Thread) -> list[Measured]:
    return [exams[i].measured(exams[i].nodule(number)) for i, number in enumerate(thread.numbers) if number is not None]


def _judged(
    exams: Sequence[Exam], thread: _Thread, sightings: Sequence[Sighting]
) -> tuple[Status, Change | None, int | None, tuple[str, ...]]:
    """Status, change, the examination compared with, and notes."""
    current, before = sightings[-1], list(sightings[:-1])
    seen = [i for i, one in enumerate(before) if one.present]
    if not current.present:
        if current.presence == "outside":
            return "not comparable", None, None, ("The current scan does not show its place.",)
        return "resolved", None, seen[-1], ()
    shown = [i for i, one in enumerate(before) if one.presence != "outside"]
    if not shown:
        return "not comparable", None, None, ("No earlier scan shows its place.",)
    if not seen:
        return "new", None, None, ()
    if not all(exams[i].nodule(thread.numbers[i] or 0).outlined for i in (seen[-1], -1)):
        return "not comparable", None, None, ("One of the two scans has no outline of it, and so no size.",)
    change = changed(tuple(_history(exams, thread)))
    notes: tuple[str, ...] = ()
    if seen[-1] != shown[-1]:
        return "returned", change, seen[-1], ("It was not there in the examination before.",)
    if before[seen[-1]].presence == "looked for":
        notes = ("Below the threshold in the earlier scan: found there by looking for it at its place.",)
    if current.presence == "looked for":
        notes = (*notes, "Below the threshold in the current scan: found by looking for it at its place.")
    return change.trend, change, seen[-1], notes


def _part_of(
    exams: Sequence[Exam], frames: Sequence[Registration | None], threads: Sequence[_Thread], number: int
) -> int | None:
    """Of a nodule that is in one of the last two examinations alone, the thread into whose nodule it merged, or from
    whose it split: its place is inside that nodule's mask in the other one."""
    before, now = len(exams) - 2, len(exams) - 1
    thread = threads[number]
    pairs = (before, now) if thread.numbers[now] is None else (now, before)
    own, other = pairs
    if thread.numbers[own] is None or thread.numbers[other] is not None:
        return None
    nodule = exams[own].nodule(thread.numbers[own] or 0)
    place = from_current(to_current(nodule.centre_lps, frames[own]), frames[other])
    for second, candidate in enumerate(threads):
        there, here = candidate.numbers[other], candidate.numbers[own]
        if there is None or here is None:
            continue
        if exams[other].holds(exams[other].nodule(there), place, INSIDE_MM):
            return second
    return None


def _with_parts(
    exams: Sequence[Exam],
    threads: Sequence[_Thread],
    thread: _Thread,
    parts: Sequence[int],
    known: tuple[Status, Change | None],
) -> tuple[Change | None, Status]:
    """The change where the parts of a nodule count together, in the examination that has them apart."""
    status, change = known
    last = len(exams) - 1
    history = _history(exams, thread)
    if change is None or len(history) < 2:
        return change, status
    for part in parts:
        numbers = threads[part].numbers
        i = last - 1 if numbers[last] is None else last
        own = exams[i].nodule(numbers[i] or 0).measurements.volume_mm3
        at = -2 if i == last - 1 else -1
        m = history[at].measurements
        total = m.volume_mm3 + own
        ball = float(np.cbrt(6 * total / np.pi))
        history[at] = replace(history[at], measurements=replace(m, volume_mm3=total, equivalent_diameter_mm=ball))
    change = changed(tuple(history))
    return change, change.trend


URGENCY: tuple[Status, ...] = (
    "growing", "new", "returned", "merged", "split", "not comparable", "stable", "shrinking", "resolved",
)  # fmt: skip


def _ordered(tracks: Sequence[Track]) -> tuple[Track, ...]:
    """The most suspicious change first, of one status the largest nodule; numbered anew."""

    def size(track: Track) -> float:
        return max((s.measurements.mean_diameter_mm for s in track.sightings if s.measurements), default=0.0)

    order = sorted(tracks, key=lambda t: (URGENCY.index(t.status), -size(t)))
    number = {track.id - 1: i for i, track in enumerate(order, start=1)}
    return tuple(
        replace(track, id=i, related=tuple(sorted(number[one] for one in track.related)))
        for i, track in enumerate(order, start=1)
    )


def _summary(exam: Exam, date: str | None, found: Exam) -> ExamSummary:
    report = exam.report
    return ExamSummary(
        report.series_uid, report.input_sha256, report.scan, exam.day, date, report.lungs, report.threshold,
        len(found.report.nodules), report.warnings,
    )  # fmt: skip


def _warnings(exams: Sequence[Exam], registrations: Sequence[Registration]) -> list[str]:
    notes = []
    *earlier, current = exams
    for number, (exam, registration) in enumerate(zip(earlier, registrations, strict=True), start=1):
        which = "The scans" if len(exams) == 2 else f"Scan {number} and the last one"
        quality, name = registration.quality, f"scan {number}" if len(exams) > 2 else "the prior scan"
        if quality.overlap < 0.9:
            notes.append(
                f"Of the current lungs, {name} shows {100 * quality.overlap:.0f} %: nodules beyond it are not compared."
            )
        if (quality.residual_p95_mm or 0.0) > LOOK_MM:
            notes.append(
                f"One in twenty places in {name} is off by {quality.residual_p95_mm:.0f} mm or more: check the pairs."
            )
        ratio = _litres(current.report.lungs) / max(_litres(exam.report.lungs), 1e-6)
        if quality.overlap >= 0.9 and not 0.85 <= ratio <= 1.18:
            notes.append(
                f"The lungs hold {100 * (ratio - 1):+.0f} % against {name}: a breath of another depth changes density, "
                "and a little the size."
            )
        notes += [f"{which} differ in {text}" for text in _unlike(exam, current)]
    return notes


def _litres(lungs: LungVolumes) -> float:
    return (lungs.left_ml + lungs.right_ml) / 1000


def _unlike(one: Exam, other: Exam) -> list[str]:
    """In what two scans differ that bears on volumes."""
    a, b = one.report.scan, other.report.scan
    found = []
    if abs(one.slice_mm - other.slice_mm) > 0.3:
        found.append(f"slices ({one.slice_mm:g} and {other.slice_mm:g} mm): volumes are less comparable.")
    if a.kernel is not None and b.kernel is not None and a.kernel != b.kernel:
        found.append(f"kernel ({a.kernel} and {b.kernel}): volumes and densities are less comparable.")
    if a.contrast is not None and b.contrast is not None and a.contrast != b.contrast:
        found.append("contrast agent: densities are not comparable.")
    return found
