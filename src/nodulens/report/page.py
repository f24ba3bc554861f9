"""The report as one HTML file that needs nothing else: no network, no other file, no server.

Markup lives in ``templates/page.html`` as named fragments, and what :mod:`nodulens.io.html` puts
into them is escaped where it is not markup itself, so that no text of a scan's header can become part of
the page. The page's policy allows its own script and style alone, by their hashes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import numpy as np

from nodulens.core.nodule import Nodule
from nodulens.core.volume import Volume
from nodulens.io.html import Markup, Template, policy_hash, resource
from nodulens.report.json import fingerprint
from nodulens.report.pictures import GREY_HU, UNITS_PER_MM, DisplayScan, Plane, Slice
from nodulens.report.record import Report

MEASUREMENTS: tuple[tuple[str, str, str, int], ...] = (
    ("long_axis_mm", "Long axis, axial", "mm", 1),
    ("short_axis_mm", "Short axis, axial", "mm", 1),
    ("mean_diameter_mm", "Mean diameter", "mm", 1),
    ("max_diameter_3d_mm", "Largest diameter, 3-D", "mm", 1),
    ("volume_mm3", "Volume", "mm³", 0),
    ("equivalent_diameter_mm", "Diameter of the equal ball", "mm", 1),
    ("surface_mm2", "Surface", "mm²", 0),
    ("sphericity", "Sphericity", "", 2),
    ("mean_hu", "Mean density", "HU", 0),
    ("std_hu", "Spread of density", "HU", 0),
    ("p5_hu", "5th percentile", "HU", 0),
    ("p50_hu", "Median density", "HU", 0),
    ("p95_hu", "95th percentile", "HU", 0),
    ("solid_share", "Solid share", "%", 0),
    ("solid_diameter_mm", "Solid part, diameter", "mm", 1),
    ("distance_to_pleura_mm", "Distance to the pleura", "mm", 1),
)
"""Field of :class:`~nodulens.core.nodule.Measurements`, its words, unit and decimals."""


_TEMPLATE = Template(("page.html",))
_fill, _each, _pairs = _TEMPLATE.fill, _TEMPLATE.each, _TEMPLATE.pairs


def render_page(report: Report, ct: Volume) -> str:
    """The whole report as one HTML document.

    Args:
        report: with masks (and heat maps); a nodule without a mask is shown by its box.
        ct: the volume as read, the one that was analysed, in any orientation.

    Returns:
        HTML that makes no request. It names the patient only where ``report.patient`` is set.
    """
    scene = DisplayScan(ct, report.nodules, report.lung_mask)
    stack = scene.stack()
    _, height, width = scene.size_mm
    style, script = resource("page.css"), resource("page.js")
    every = scene.volume.geometry.shape[0] > len(stack)
    note = f"{len(stack)} of {scene.volume.geometry.shape[0]} slices are shown here." if every else ""
    return _fill(
        "page",
        {
            "style_hash": policy_hash(style),
            "script_hash": policy_hash(script),
            "style": Markup(style),
            "script": Markup(script),
            "software": report.software,
            "title": " · ".join(filter(None, ["Chest CT nodules", report.case])),
            "who": _who(report),
            "headline": _headline(report),
            "lead": _each("lead", ({"text": text} for text in _lead(report))),
            "facts": _pairs("fact", _facts(report)),
            "map": _map(report, scene),
            "warnings": _warnings(report),
            "missed_first": "" if report.nodules else _missed(report),
            "missed_last": _missed(report) if report.nodules else "",
            "findings": _findings(report, scene),
            "review": _fill("review", {"empty": "" if report.nodules else "There is no finding to accept or reject."}),
            "heat_control": _fill("heat_control", {}) if any(n.heat is not None for n in report.nodules) else "",
            "stack_width": round(width * UNITS_PER_MM),
            "stack_height": round(height * UNITS_PER_MM),
            "stack_note": note,
            "provenance": _pairs("pair", _provenance(report)),
            "timing": _timing(report),
            "data": _script_data(_data(report, scene, stack)),
        },
    ).removeprefix("\n")


def _script_data(document: object) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


# ---- Words


def _number(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return text.replace("-", "\u2212") if float(f"{value:.{decimals}f}") else text.replace("-", "")


def _percent(share: float) -> str:
    """Whole per cent; the ends of the scale are only for what lies there exactly."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def _size(nodule: Nodule) -> str:
    m = nodule.measurements
    return f"{_number(m.long_axis_mm, 1)} × {_number(m.short_axis_mm, 1)} mm"


def _place(nodule: Nodule) -> str:
    return f"{nodule.position.side} lung, {nodule.position.zone} zone"


def _who(report: Report) -> str:
    known = report.patient
    patient = [known.name.replace("^", " ").strip(), known.patient_id, known.birth_date] if known else []
    return " · ".join(filter(None, [*patient, report.case, report.scan.description]))


def _headline(report: Report) -> str:
    count = len(report.nodules)
    if report.prompted:
        return "One nodule, where you pointed" if count == 1 else f"{count} nodules, where you pointed"
    words = {0: "No nodule found", 1: "One nodule found"}
    return words.get(count, f"{count} nodules found")


def _lead(report: Report) -> list[str]:
    """The summary: what was found, in a sentence or two."""
    if not report.nodules:
        return [
            f"Nothing in this scan scored {_number(report.threshold, 2)} or more, from which on a finding is reported. "
            "This does not rule nodules out: the table below says how many such an analysis finds, and misses."
            if report.sensitivity
            else f"Nothing in this scan scored {_number(report.threshold, 2)} or more, from which on a finding is "
            "reported. This does not rule nodules out; how many are missed has not been measured at this threshold."
        ]
    largest = max(report.nodules, key=lambda n: n.measurements.mean_diameter_mm)
    graded = [n for n in report.nodules if n.risk is not None]
    worst = max(graded, key=lambda n: n.risk.probability if n.risk else 0.0, default=None)
    if worst is largest or worst is None:
        subject = "It is" if len(report.nodules) == 1 else "The largest"
        if len(report.nodules) > 1 and worst is not None:
            subject = "The largest is also the most suspicious"
        return [f"{subject}{_described(largest, subject)}"]
    return [f"The largest{_described(largest, '')}", f"The most suspicious{_described(worst, '')}"]


def _described(nodule: Nodule, subject: str) -> str:
    verb = " " if subject == "It is" else f": nodule {nodule.id}, "
    risk = ""
    if nodule.risk is not None:
        risk = f" Its malignancy estimate is {_percent(nodule.risk.probability)} ({_interval(nodule.risk.interval)})."
    return f"{verb}{nodule.texture}, {_size(nodule)}, in the {_place(nodule)}.{risk}"


def _interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


def _facts(report: Report) -> list[tuple[str, object]]:
    scan = report.scan
    z, y, x = scan.spacing_zyx
    thick = "" if scan.slice_thickness_mm is None else f", {_number(scan.slice_thickness_mm, 2)} mm thick"
    contrast = {True: "with contrast", False: "without contrast", None: ""}[scan.contrast]
    made = ", ".join(filter(None, [scan.manufacturer, scan.kernel and f"kernel {scan.kernel}", contrast]))
    lungs = report.lungs
    facts: list[tuple[str, object]] = [
        ("Scan", f"{scan.slices} slices{thick}"),
        ("Voxel", f"{_number(x, 2)} × {_number(y, 2)} × {_number(z, 2)} mm"),
        ("Lungs", f"right {_number(lungs.right_ml / 1000, 2)} l, left {_number(lungs.left_ml / 1000, 2)} l"),
    ]
    return [*facts, ("Acquisition", made)] if made else facts


def _provenance(report: Report) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("Software", report.software), ("Method", report.recipe)]
    if not report.prompted:
        rows.append(("Reported from a score of", _number(report.threshold, 2)))
    if report.series_uid is not None:
        rows.append(("Series", _fill("copy", {"target": "series-uid", "text": report.series_uid})))
    if report.input_sha256 is not None:
        rows.append(("Input, sha256", _fill("code", {"text": report.input_sha256})))
    rows += [(f"Weights {w.name}, sha256", _fill("code", {"text": w.sha256})) for w in report.weights]
    rows.append(("This report, sha256", _fill("code", {"text": fingerprint(report)})))
    return rows


# ---- Parts of the page


def _bar(share: float, words: str, interval: tuple[float, float] | None = None) -> Markup:
    """A scale from 0 to 1 with a mark at ``share``, and a band where there is an interval."""
    thick = 1.6
    if interval is None:
        band = _fill("band", {"x": 0, "width": f"{100 * share:.2f}"})
    else:
        low, high = (100 * end for end in interval)
        band = _fill("band", {"x": f"{low:.2f}", "width": f"{max(0.0, high - low):.2f}"})
    x = min(max(100 * share - thick / 2, 0), 100 - thick)
    return _fill("bar", {"words": words, "band": band, "x": f"{x:.2f}", "thick": thick})


def _map(report: Report, scene: DisplayScan) -> Markup:
    lungs = scene.silhouette()
    if not any(outline.path for outline in lungs):
        return Markup("")
    points = [(scene.silhouette_place(n), n) for n in report.nodules]
    left, top, right, bottom = _lung_frame(scene)
    dots = []
    for (x_mm, y_mm), nodule in points:
        r = max(4.5, min(nodule.measurements.mean_diameter_mm / 2, 20)) * UNITS_PER_MM
        x, y = x_mm * UNITS_PER_MM, y_mm * UNITS_PER_MM
        label_x = x + (r + 38) * (1 if x < (left + right) / 2 else -1)
        numbers = {"x": x, "y": y, "r": r, "reach": r + 30, "text_x": label_x, "text_y": y + 20}
        dots.append({"id": nodule.id, **{name: round(value) for name, value in numbers.items()}})
    return _fill(
        "map",
        {
            "view": f"{left - 90} {top - 30} {right - left + 180} {bottom - top + 60}",
            "lungs": _each("map_lung", ({"path": outline.path} for outline in lungs)),
            "dots": _each("map_dot", dots),
            "left_x": left - 50,
            "right_x": right + 50,
            "letter_y": top + 60,
        },
    )


def _lung_frame(scene: DisplayScan) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the lungs on the silhouette, in outline units."""
    assert scene.lungs is not None
    height, _, _ = scene.size_mm
    sz, _, sx = scene.volume.geometry.spacing_zyx
    shadow = np.argwhere((scene.lungs > 0).any(axis=1))
    (first, start), (last, stop) = shadow.min(axis=0), shadow.max(axis=0)
    ends = (start * sx, height - (last + 1) * sz, (stop + 1) * sx, height - first * sz)
    a, b, c, d = (round(float(end) * UNITS_PER_MM) for end in ends)
    return a, b, c, d


def _warnings(report: Report) -> Markup:
    items = _each("item", ({"text": text} for text in report.warnings))
    return _fill("warnings", {"items": items}) if report.warnings else Markup("")


def _missed(report: Report) -> Markup:
    """How many nodules of each size are found, as measured."""
    if report.prompted:
        return Markup("")
    if not report.sensitivity:
        body = _fill("lead", {"text": "The sensitivity was not measured at the threshold of this report."})
        return _fill("missed", {"body": body})
    rows = []
    for size in report.sensitivity:
        share = size.found / size.total if size.total else 0.0
        span = f"{size.lo_mm:g} to {size.hi_mm:g} mm" if math.isfinite(size.hi_mm) else f"over {size.lo_mm:g} mm"
        words = f"{size.found} of {size.total} nodules of {span}"
        text = _percent(share) if size.total else "not measured"
        rows.append({"size": span, "found": size.found, "total": size.total, "share": text, "bar": _bar(share, words)})
    body = _fill("sensitivity", {"threshold": _number(report.threshold, 2), "rows": _each("sensitivity_row", rows)})
    return _fill("missed", {"body": body})


def _findings(report: Report, scene: DisplayScan) -> Markup:
    if not report.nodules:
        return Markup("")
    rows = _each("row", (_row(nodule) for nodule in report.nodules))
    return _fill("findings", {"rows": rows, "cards": _each("card", (_card(n, report, scene) for n in report.nodules))})


def _row(nodule: Nodule) -> dict[str, object]:
    risk, m = nodule.risk, nodule.measurements
    return {
        "id": nodule.id,
        "place": f"{nodule.position.side} {nodule.position.zone}".capitalize(),
        "texture": nodule.texture,
        "diameter": f"{m.mean_diameter_mm:.1f}",
        "volume": f"{m.volume_mm3:.3f}",
        "volume_text": _number(m.volume_mm3, 0),
        "risk": "-1" if risk is None else risk.probability,
        "risk_text": "–" if risk is None else _percent(risk.probability),
        "risk_bar": "" if risk is None else _bar(risk.probability, _interval(risk.interval), risk.interval),
        "score": f"{nodule.score:.2f}",
    }


def _card(nodule: Nodule, report: Report, scene: DisplayScan) -> dict[str, object]:
    m, position = nodule.measurements, nodule.position
    where: list[tuple[str, object]] = [
        ("Side and zone", _place(nodule)),
        ("Lobe, an estimate", position.lobe_estimate),
        ("Centre, LPS", " / ".join(_number(v, 1) for v in nodule.centre_lps) + " mm"),
    ]
    if position.instance_number is not None:
        where.append(("Central slice, instance", position.instance_number))
    if position.sop_instance_uid is not None:
        uid = _fill("copy", {"target": f"sop-{nodule.id}", "text": position.sop_instance_uid})
        where.append(("SOP instance", uid))
    else:
        where.append(("Central slice, index", position.central_slice))
    side = scene.side_mm(nodule)
    warned = _each("item", ({"text": text} for text in nodule.warnings))
    return {
        "id": nodule.id,
        "title": _place(nodule).capitalize(),
        "size": f"{nodule.texture.capitalize()} · {_size(nodule)} · {_number(m.volume_mm3, 0)} mm³",
        "planes": _each("plane", (_plane(plane, nodule, side) for plane in scene.planes(nodule))),
        "heat_legend": "" if nodule.heat is None else _fill("heat_legend", {}),
        "warnings": Markup(f'<ul class="notice-small">{warned}</ul>') if nodule.warnings else "",
        "sure": _sure(nodule, report),
        "where": _pairs("pair", where),
        "measurements": _pairs("pair", _measured(nodule)),
    }


def _measured(nodule: Nodule) -> Iterable[tuple[str, object]]:
    for field, words, unit, decimals in MEASUREMENTS:
        value = getattr(nodule.measurements, field) * (100 if unit == "%" else 1)
        yield words, f"{_number(value, decimals)} {unit}".strip()


def _plane(plane: Plane, nodule: Nodule, side_mm: float) -> dict[str, object]:
    units, scale = round(side_mm * UNITS_PER_MM), 10 * UNITS_PER_MM
    margin = round(units * 0.04)
    return {
        "image": Markup(plane.image),
        "alt": f"Nodule {nodule.id}, {plane.name} plane, {side_mm:.0f} mm across",
        "heat": "" if plane.heat is None else _fill("heat", {"image": Markup(plane.heat)}),
        "outline": plane.outline,
        "units": units,
        "scale": scale,
        "scale_x": units - margin - scale,
        "scale_y": units - margin // 2,
        **dict(zip(("up", "right", "down", "left"), plane.letters, strict=True)),
        "name": plane.name.capitalize(),
    }


def _sure(nodule: Nodule, report: Report) -> Markup:
    if report.prompted:
        score = Markup("")
    else:
        start = _number(report.threshold, 2)
        words = f"How strongly the detector takes this for a nodule, 0 to 1; reported from {start}."
        bar = _bar(nodule.score, f"Score {nodule.score:.2f} of 1")
        score = _fill("score", {"score": f"{nodule.score:.2f}", "bar": bar, "words": words})
    risk = nodule.risk
    if risk is None:
        return Markup(_fill("lead", {"text": "No malignancy estimate was made."}) + score)
    meaning = report.interval_meaning or f"How it is made is written on the card of the weights {risk.model}."
    standing = (
        "The probability that expert readers rate it suspicious rather than not, calibrated on patients left out."
        if risk.calibrated
        else "Not calibrated: it ranks nodules, but is no probability."
    )
    words = f"{standing} Interval {_interval(risk.interval)}. {meaning}"
    text = f"{_percent(risk.probability)}, interval {_interval(risk.interval)}"
    bar = _bar(risk.probability, text, risk.interval)
    return Markup(_fill("risk", {"probability": _percent(risk.probability), "bar": bar, "words": words}) + score)


def _timing(report: Report) -> Markup:
    total = report.timing_s["total"] or 1.0
    return _each(
        "timing",
        (
            {
                "stage": stage,
                "seconds": f"{seconds:.1f}",
                "bar": _bar(min(1.0, seconds / total), f"{seconds:.1f} s"),
            }
            for stage, seconds in report.timing_s.items()
        ),
    )


def _data(report: Report, scene: DisplayScan, stack: list[Slice]) -> dict[str, object]:
    """What the page's script works on."""
    places = {n.id: round(float(scene.place(n)[0])) for n in report.nodules}
    nearest = {number: min(range(len(stack)), key=lambda i: abs(stack[i].index - z)) for number, z in places.items()}
    first = max(report.nodules, key=lambda n: n.risk.probability if n.risk else -1 + n.score / 2, default=None)
    return {
        "report_sha256": fingerprint(report),
        "series_uid": report.series_uid,
        "input_sha256": report.input_sha256,
        "case": report.case,
        "grey_hu": GREY_HU,
        "start": None if first is None else first.id,
        "nodules": [{"id": number, "slice": i} for number, i in nearest.items()],
        "stack": [
            {
                "image": slice_.image,
                "label": _slice_label(scene, slice_.index),
                "lungs": [outline.path for outline in slice_.lungs],
                "nodules": [[outline.label, outline.path] for outline in slice_.nodules],
            }
            for slice_ in stack
        ],
    }


def _slice_label(scene: DisplayScan, z: int) -> str:
    count = scene.volume.geometry.shape[0]
    stored = scene.volume.source.slices
    instance = stored[z].instance_number if stored else None
    height = float(scene.volume.geometry.to_lps((z, 0, 0))[2])
    lines = [f"Slice {z + 1} of {count}", "" if instance is None else f"Instance {instance}"]
    return "\n".join(filter(None, [*lines, f"z {_number(height, 1)} mm"]))
