"""The comparison as one self-contained HTML file: no network, no other file, no server.

The scans stand side by side and scroll together: each slice of the current one beside the slice of the earlier one that
shows most of the same lung. A nodule that is chosen is shown in both at its own place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nodulens.clinical.assess import ASK
from nodulens.core.nodule import Box, Nodule
from nodulens.followup.change import Change, mass_mg
from nodulens.followup.compare import Compared
from nodulens.followup.exam import Exam
from nodulens.followup.json import fingerprint
from nodulens.followup.record import Comparison, Sighting, Status, Track
from nodulens.followup.registration import Registration
from nodulens.followup.repeatability import SURE, spread_of
from nodulens.report.guideline_words import Line, line_of_result
from nodulens.report.html import Entry, number, script_data, source, templates
from nodulens.report.pictures import GREY_HU, UNITS_PER_MM, DisplayScan

Values = dict[str, object]
CURVE_WIDTH, CURVE_HEIGHT, CURVE_MARGIN = 300.0, 120.0, 34.0
ORDER: tuple[Status, ...] = (
    "growing", "new", "returned", "merged", "split", "stable", "shrinking", "resolved", "not comparable",
)  # fmt: skip
RISING: tuple[Status, ...] = ("growing", "new", "returned", "merged", "split")

MEANING = {
    "Status": (
        "Growing: the volume is larger by a quarter or more, and by more than two measurements of one unchanged nodule "
        "differ. Shrinking: the reverse. Stable: neither. New: the place was searched in the earlier scan and nothing "
        "was there. Resolved: the reverse. Below the threshold: the search did not report it in one scan, and it was "
        "found there at the place that the other gives."
    ),
    "Interval of a change": (
        "In 95 of 100 unchanged nodules of this size and slice thickness the measured change lies within the interval, "
        "moved to no change; it is the repeatability of this program's measurement, on rendered nodules, and does not "
        "hold what a reader would outline otherwise (docs/followup.md)."
    ),
    "Doubling time": (
        "Days in which the volume doubles if it grows as it did between the two scans; the interval follows from that "
        "of the change. «Or more» is without an upper end: the volume may not grow at all."
    ),
    "Mass": "Volume times density, with air at 0 and water at 1 mg/mm³; it follows ground glass that gets denser.",
    "Registration": (
        "The lungs of the earlier scan were bent to coincide with the current ones. How well they do is measured at "
        "forks of vessels that took no part in it."
    ),
}


def render_page(compared: Compared) -> str:
    """The comparison as one HTML document.

    Args:
        compared: with scans and masks.

    Returns:
        HTML that makes no request. It names the patient only if ``comparison.patient`` is set.
    """
    comparison = compared.comparison
    scenes = [_scene(exam, comparison.tracks, i) for i, exam in enumerate(compared.exams)]
    environment = templates("nodulens.followup", "nodulens.report")
    last = len(compared.exams) - 1
    names = exam_names(comparison)
    return environment.get_template("comparison.html").render(
        style=source(environment, "page.css", "comparison.css"),
        script=source(environment, "scans.js", "comparison.js"),
        software=comparison.software,
        title=" · ".join(filter(None, ["Chest CT follow-up", comparison.case])),
        who=_who(comparison),
        headline=headline(comparison),
        lead=_lead(comparison),
        facts=_facts(comparison),
        warnings=comparison.warnings,
        guidelines=_guidelines(comparison),
        rows=[_row(track) for track in comparison.tracks],
        cards=[_card(track, compared, scenes) for track in comparison.tracks],
        guide=[*(Entry(name, text) for name, text in MEANING.items()), _context(comparison)],
        exams=[{"index": i, "name": name} for i, name in enumerate(names)],
        last=last,
        provenance=_provenance(comparison),
        timing=[Entry(name, f"{seconds:.1f} s") for name, seconds in comparison.timing_s.items()],
        data=script_data(_data(compared, scenes)),
    )


# ---- Words


def percent(share: float) -> str:
    """A change as a share, with its sign."""
    return f"{number(100 * share, 0, sign=True)} %"


def exam_names(comparison: Comparison) -> list[str]:
    """What the examinations are called: "prior" and "current", or by their number; with date or day if known."""
    count = len(comparison.exams)
    out = []
    for i, exam in enumerate(comparison.exams):
        name = "Current" if i == count - 1 else "Prior" if count == 2 else f"Scan {i + 1}"
        when = exam.date or ("" if exam.day is None else f"day {exam.day:.0f}")
        out.append(f"{name}, {when}" if when else name)
    return out


def headline(comparison: Comparison) -> str:
    """What changed, in one line."""
    counts = {status: sum(t.status == status for t in comparison.tracks) for status in ORDER}
    parts = [f"{n} {status}" for status, n in counts.items() if n]
    if not comparison.tracks:
        return "No nodule found in any of the scans"
    some = "One nodule" if len(comparison.tracks) == 1 else f"{len(comparison.tracks)} nodules"
    return f"{some}: {', '.join(parts)}"


def _lead(comparison: Comparison) -> Iterator[str]:
    days = comparison.exams[-1].day
    before = comparison.exams[-2].day
    if days is not None and before is not None:
        yield f"The scans compared last are {days - before:.0f} days apart."
    for track in comparison.tracks:
        if track.status == "growing" and track.change is not None:
            yield f"Nodule {track.id} grew: {_sentence(track)}"
        elif track.status in ("new", "returned"):
            yield f"Nodule {track.id} {'is new' if track.status == 'new' else 'has returned'}: {_size(track.current)}."
        elif track.status in ("merged", "split"):
            whole = ", ".join(map(str, track.related))
            yield f"Nodule {track.id} {'merged with' if track.status == 'merged' else 'was part of'} nodule {whole}."


def _sentence(track: Track) -> str:
    change = track.change
    assert change is not None
    low, high = change.volume_share_interval
    text = f"volume {percent(change.volume_share)} ({percent(low)} to {percent(high)})"
    doubling = doubling_words(change)
    return f"{text}{', doubling time ' + doubling if doubling else ''}."


def doubling_words(change: Change) -> str:
    """Doubling time with its interval; empty where the time is not known or the volume cannot have grown."""
    ends = change.doubling_interval_days
    if ends is None or change.doubling_days is None:
        return ""
    range_ = f"{number(ends[0], 0)} or more" if ends[1] is None else f"{number(ends[0], 0)} to {number(ends[1], 0)}"
    return f"{number(change.doubling_days, 0)} days ({range_})" if change.doubling_days > 0 else f"none ({range_})"


def _size(sighting: Sighting) -> str:
    m = sighting.measurements
    if m is None:
        return {"absent": "not there", "outside": "not shown"}.get(sighting.presence, "–")
    return f"{sighting.texture}, {number(m.mean_diameter_mm, 1)} mm, {number(m.volume_mm3, 0)} mm³"


def place_words(track: Track) -> str:
    """Side and zone, of the latest scan that has it."""
    seen = [one.position for one in track.sightings if one.position is not None]
    position = seen[-1]
    return f"{position.side} lung" + ("" if position.zone == "unknown" else f", {position.zone} zone")


def _who(comparison: Comparison) -> str:
    known = comparison.patient
    patient = [known.name.replace("^", " ").strip(), known.patient_id, known.birth_date] if known else []
    return " · ".join(filter(None, [*patient, comparison.case]))


def _facts(comparison: Comparison) -> Iterator[Entry]:
    for name, exam in zip(exam_names(comparison), comparison.exams, strict=True):
        z = exam.scan.spacing_zyx[0]
        thick = exam.scan.slice_thickness_mm or z
        litres = (exam.lungs.left_ml + exam.lungs.right_ml) / 1000
        yield Entry(name, f"{exam.scan.slices} slices of {thick:g} mm, lungs {number(litres, 1)} l")
    for i, quality in enumerate(comparison.registrations):
        which = "Registration" if len(comparison.registrations) == 1 else f"Registration of scan {i + 1}"
        if quality.residual_mm is None:
            continue
        residual = f"{number(quality.residual_mm, 1)} mm (95 %: {number(quality.residual_p95_mm or 0, 1)} mm)"
        yield Entry(which, f"vessels within {residual}; lungs' Dice {number(quality.dice, 3)}")


def _context(comparison: Comparison) -> Entry:
    text = ASK if comparison.guidelines is None else " ".join(comparison.guidelines.notes)
    return Entry("Guidelines", text)


def _guidelines(comparison: Comparison) -> list[Line]:
    found = comparison.guidelines
    return [] if found is None else [line_of_result(one) for one in found.examination]


def _of_nodule(track: Track, comparison: Comparison) -> list[Line]:
    found, own = comparison.guidelines, track.current.nodule
    if found is None or own is None:
        return []
    return [line_of_result(one) for nodule in found.nodules if nodule.id == own for one in nodule.results]


def _row(track: Track) -> Values:
    change = track.change
    before = track.sightings[track.compared] if track.compared is not None else _latest_before(track)
    return {
        "id": track.id,
        "place": place_words(track),
        "status": track.status,
        "rising": track.status in RISING,
        "below": any(one.presence == "looked for" for one in track.sightings),
        "before": _diameter(before),
        "after": _diameter(track.current),
        "change": "–" if change is None else number(change.mean_diameter_mm, 1, sign=True),
        "volume": "–" if change is None else percent(change.volume_share),
        "interval": "" if change is None else " to ".join(map(percent, change.volume_share_interval)),
        "doubling": "–" if change is None else doubling_words(change) or "–",
    }


def _latest_before(track: Track) -> Sighting:
    seen = [one for one in track.sightings[:-1] if one.present]
    return seen[-1] if seen else track.sightings[-2]


def _diameter(sighting: Sighting) -> str:
    if sighting.measurements is None:
        return {"absent": "not there", "outside": "not shown"}[sighting.presence]
    return f"{number(sighting.measurements.mean_diameter_mm, 1)} mm"


# ---- Nodules


def _card(track: Track, compared: Compared, scenes: Sequence[DisplayScan]) -> Values:
    names = exam_names(compared.comparison)
    return {
        "id": track.id,
        "title": f"{track.status}, {place_words(track)}",
        "rising": track.status in RISING,
        "notes": track.notes,
        "pictures": [_picture(track, i, names[i], compared.exams[i], scenes[i]) for i in range(len(compared.exams))],
        "changes": list(_changes(track)),
        "table": _table(track, names),
        "curve": growth_curve(track, compared.exams),
        "guidelines": _of_nodule(track, compared.comparison),
    }


def _picture(track: Track, i: int, name: str, exam: Exam, scene: DisplayScan) -> Values:
    sighting = track.sightings[i]
    if sighting.presence == "outside":
        return {"name": name, "image": "", "words": "The scan does not show its place."}
    shown = _shown(track, i, exam)
    plane = scene.planes(shown)[0]
    units = round(scene.side_mm(shown) * UNITS_PER_MM)
    return {
        "name": name,
        "image": plane.image,
        "outline": plane.outline if sighting.present else "",
        "units": units,
        "scale": 10 * UNITS_PER_MM,
        "words": _size(sighting) if sighting.present else "Not there: the same place.",
    }


def _table(track: Track, names: Sequence[str]) -> list[Values]:
    """A row an examination."""
    return [
        {
            "name": name,
            "cells": ["–"] * 6
            if (m := one.measurements) is None
            else [
                f"{number(m.long_axis_mm, 1)} × {number(m.short_axis_mm, 1)}",
                number(m.mean_diameter_mm, 1),
                number(m.volume_mm3, 0),
                number(mass_mg(m), 0),
                number(m.mean_hu, 0),
                {"found": "found", "looked for": "below the threshold"}[one.presence],
            ],
            "absent": {"absent": "not there", "outside": "not shown"}.get(one.presence, ""),
        }
        for name, one in zip(names, track.sightings, strict=True)
    ]


def _changes(track: Track) -> Iterator[Entry]:
    change = track.change
    if change is None:
        return
    low, high = change.volume_share_interval
    yield Entry("Volume", f"{percent(change.volume_share)} ({percent(low)} to {percent(high)})")
    yield Entry("Mean diameter", f"{number(change.mean_diameter_mm, 1, sign=True)} mm")
    if change.mass_share is not None:
        yield Entry("Mass", percent(change.mass_share))
    yield Entry("Mean density", f"{number(change.mean_hu, 0, sign=True)} HU")
    if track.current.texture == "part-solid":
        yield Entry("Solid part", f"{number(change.solid_diameter_mm, 1, sign=True)} mm")
    if change.days is not None:
        yield Entry("Doubling time", doubling_words(change) or "none: the volume did not grow")
        yield Entry("By Lung-RADS", str(change.lung_rads))
    else:
        yield Entry("Doubling time", "open: the time between the scans is not known")
    yield Entry("By Fleischner", "growth of 2 mm or more" if change.fleischner_growth else "no growth of 2 mm or more")
    if change.nelson is not None and change.trend == "growing":
        yield Entry("By NELSON", change.nelson)


def growth_curve(track: Track, exams: Sequence[Exam]) -> Values | None:
    """Volume over time where a nodule was measured in three examinations or more whose days are known: a curve on a
    logarithmic scale, on which steady growth is a straight line, with the interval of each point."""
    points = []
    for exam, one in zip(exams, track.sightings, strict=True):
        if one.measurements is None or exam.day is None:
            continue
        volume = one.measurements.volume_mm3
        half = SURE * spread_of(one.measurements.equivalent_diameter_mm, exam.slice_mm)
        points.append((exam.day, volume, volume * math.exp(-half), volume * math.exp(half)))
    if len(points) < 3:
        return None
    days, low, high = points[-1][0], min(p[2] for p in points), max(p[3] for p in points)
    first = points[0][0]
    inner = (CURVE_WIDTH - 2 * CURVE_MARGIN, CURVE_HEIGHT - 2 * 16)

    def x(day: float) -> float:
        return CURVE_MARGIN + inner[0] * (day - first) / max(days - first, 1e-9)

    def y(volume: float) -> float:
        return 16 + inner[1] * (1 - math.log(volume / low) / max(math.log(high / low), 1e-9))

    dots = [
        {"x": f"{x(d):.1f}", "y": f"{y(v):.1f}", "low": f"{y(a):.1f}", "high": f"{y(b):.1f}",
         "volume": number(v, 0), "day": f"{d:.0f}"}
        for d, v, a, b in points
    ]  # fmt: skip
    return {
        "width": CURVE_WIDTH,
        "height": CURVE_HEIGHT,
        "line": " ".join(f"{dot['x']},{dot['y']}" for dot in dots),
        "dots": dots,
        "words": "Volume over time: " + ", ".join(f"day {dot['day']} {dot['volume']} mm³" for dot in dots),
    }


# ---- Pictures


def _shown(track: Track, i: int, exam: Exam) -> Nodule:
    """The nodule in an examination under its number in the comparison; where it is not, its place, with an empty mask
    of the size that it has elsewhere."""
    sighting = track.sightings[i]
    if sighting.nodule is not None:
        return replace(exam.nodule(sighting.nodule), id=track.id)
    seen = next(one for one in reversed(track.sightings) if one.present)
    assert seen.measurements is not None and seen.position is not None
    index = exam.ct.geometry.to_index(sighting.place_lps)
    size = np.ceil(seen.measurements.max_diameter_3d_mm / np.asarray(exam.ct.geometry.spacing_zyx)).astype(int)
    middle = np.clip(np.rint(index), 0, np.asarray(exam.ct.geometry.shape) - 1)
    box = Box.around(middle, np.maximum(size, 1))
    return Nodule(
        id=track.id,
        score=0.0,
        centre_lps=sighting.place_lps,
        box=box,
        texture=seen.texture or "solid",
        position=replace(seen.position, central_slice=int(middle[0])),
        measurements=seen.measurements,
        risk=None,
        mask=np.zeros(box.shape, dtype=bool),
    )


def _scene(exam: Exam, tracks: Sequence[Track], i: int) -> DisplayScan:
    nodules = [_shown(t, i, exam) for t in tracks if t.sightings[i].presence != "outside"]
    return DisplayScan(exam.ct, nodules, exam.report.lung_mask)


def _data(compared: Compared, scenes: Sequence[DisplayScan]) -> Values:
    tracks, last = compared.comparison.tracks, len(scenes) - 1
    return {
        "grey_hu": GREY_HU,
        "last": last,
        "frames": [scene.frame for scene in scenes],
        "tracks": [
            {"id": t.id, "places": [_on_picture(scene, t, i) for i, scene in enumerate(scenes)]} for t in tracks
        ],
        "exams": [
            {
                "stack": [
                    {
                        "image": s.image,
                        "lungs": [o.path for o in s.lungs],
                        "nodules": [[o.label, o.path] for o in s.nodules],
                    }
                    for s in scene.stack()
                ],
                "z": [round(float(scene.volume.geometry.to_lps((z, 0, 0))[2]), 1) for z in range(_slices(scene))],
                "link": None if i == last else links(scenes[last], scene, compared.registrations[i]),
            }
            for i, scene in enumerate(scenes)
        ],
        "comparison_sha256": fingerprint(compared.comparison),
    }


def _slices(scene: DisplayScan) -> int:
    return scene.volume.geometry.shape[0]


def _on_picture(scene: DisplayScan, track: Track, i: int) -> list[float] | None:
    """Slice, and x and y in units of the picture, of a track's place; None where the scan does not show it."""
    sighting = track.sightings[i]
    if sighting.presence == "outside":
        return None
    z, y, x = scene.volume.geometry.to_index(sighting.place_lps)
    _, sy, sx = scene.volume.geometry.spacing_zyx
    last = _slices(scene) - 1
    return [
        int(np.clip(round(float(z)), 0, last)),
        round(float((x + 0.5) * sx * UNITS_PER_MM)),
        round(float((y + 0.5) * sy * UNITS_PER_MM)),
    ]


def links(current: DisplayScan, prior: DisplayScan, registration: Registration) -> list[int]:
    """For each slice of the current scan the slice of the prior one that shows most of the same lung: the median over
    the lung on it; where it has none, that of its middle."""
    geometry, there = current.volume.geometry, prior.volume.geometry
    out = []
    for z in range(geometry.shape[0]):
        lung = np.argwhere(current.lungs[z, ::8, ::8] > 0) * 8 if current.lungs is not None else np.empty((0, 2), int)
        rows = lung if len(lung) else np.array([[geometry.shape[1] // 2, geometry.shape[2] // 2]])
        points = geometry.to_lps(np.column_stack([np.full(len(rows), z), rows]))
        places = there.to_index(registration.to_prior.at(points))[:, 0]
        out.append(int(np.clip(round(float(np.median(places))), 0, there.shape[0] - 1)))
    return out


def _provenance(comparison: Comparison) -> Iterator[Entry]:
    yield Entry("Software", comparison.software)
    yield Entry("Method", comparison.recipe)
    for name, exam in zip(exam_names(comparison), comparison.exams, strict=True):
        if exam.series_uid is not None:
            yield Entry(f"Series, {name}", exam.series_uid, code=True)
        if exam.input_sha256 is not None:
            yield Entry(f"Input, {name}, sha256", exam.input_sha256, code=True)
    for weights in comparison.weights:
        yield Entry(f"Weights {weights.name}, sha256", weights.sha256, code=True)
    yield Entry("This comparison, sha256", fingerprint(comparison), code=True)
