"""The report as one self-contained HTML file: no network, no other file, no server.

This module provides the content, ``templates/report.html`` the layout. Text of a scan's header is always escaped, and
the page's policy allows only its own script and style, by their hashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from nodulens.clinical.assess import ASK
from nodulens.core.coverage import OpacityKind
from nodulens.core.nodule import Nodule, Rating, Risk
from nodulens.core.volume import Volume
from nodulens.report.guideline_words import Line, line_of_estimate, line_of_result
from nodulens.report.html import Entry, bar, number, script_data, source, templates
from nodulens.report.json import fingerprint
from nodulens.report.lung_map import lung_map
from nodulens.report.pictures import GREY_HU, UNITS_PER_MM, DisplayScan, Plane, Slice
from nodulens.report.record import Report

Values = dict[str, object]
"""Name in the template → value."""
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
"""Field of :class:`~nodulens.core.nodule.Measurements`, its name, unit and decimals."""

HIDING: dict[OpacityKind, str] = {
    "solid tissue": "Airless tissue (consolidation, collapse or a large mass)",
    "fluid": "Fluid",
    "gas": "Gas without the structure of lung (a pneumothorax or a large bulla)",
    "dense lung": "Dense lung (fibrosis, oedema or ground glass)",
}

DETECTION_CONFIDENCE = (
    "How sure the detector is that a mark is a nodule at all, from 0 to 1. It ranks marks, the likelier nodules first."
)
CALIBRATED = (
    "In cross-validation, with nodules as frequent as in LUNA16's scans, about half of the marks at 0.5 were nodules. "
    "That was not measured in disease such as pneumonia or fibrosis, nor in slices over 3 mm."
)
UNCALIBRATED = "It is not a calibrated probability."
MEAN_DIAMETER = (
    "The mean of the long and the short axis, in brackets beside it, on the axial slice where the nodule is largest."
)
VOLUME_RANGE = (
    "Readers outline a nodule more widely or more narrowly. Four in five of their outlines would lie between two whose "
    "volumes these are; in a follow-up a change within the range may be one of the outline."
)
MALIGNANCY_ESTIMATE = (
    "How likely expert readers, such as those of LIDC-IDRI, are to rate the nodule suspicious rather than not. It says "
    "what readers would rate, not what pathology would find, and takes for granted that the mark is a nodule."
)
LOOK = (
    "How readers such as those of LIDC-IDRI would rate it, predicted by the network that also takes part in the "
    "malignancy estimate. It describes the nodule beside the estimate and is not its cause; size and density are "
    "measured and count on their own. Each word stands for the mean rating to expect from several readers, on LIDC's "
    "scales from 1 to 5; only how well these ratings rank nodules was measured."
)
HEAT_MAP = (
    "Over the close-ups: how far the malignancy estimate of the network falls when that part of the nodule is covered, "
    "from little to much. It compares the parts of one nodule, on the axial slice where it is largest, and explains "
    "the network alone: not what measured features such as the diameter add."
)
GUIDELINES = (
    "Published tables and models, applied to what was measured and to what a person stated; nothing else was taken for "
    "known. A category is what the source gives for these inputs, not a diagnosis: a radiologist decides. Sources and "
    "how each is read: docs/guidelines.md."
)
LOBE = "Estimated from the position in the lung alone, without fissures."
HILUM = "How far the nodule is on the way from the hilum to the edge of the lung; the hilum is put at its mean place."


def render_page(report: Report, ct: Volume) -> str:
    """The whole report as one HTML document.

    Args:
        report: with masks (and heat maps); for a nodule without a mask its box is shown.
        ct: the volume as read, the one that was analysed, in any orientation.

    Returns:
        HTML that makes no request. It names the patient only if ``report.patient`` is set.
    """
    scene = DisplayScan(ct, report.nodules, report.lung_mask)
    stack = scene.stack()
    picture_width, picture_height = scene.stack_size
    environment = templates("nodulens.report")
    return environment.get_template("report.html").render(
        style=source(environment, "page.css"),
        script=source(environment, "scans.js", "report.js"),
        software=report.software,
        title=" · ".join(filter(None, ["Chest CT nodules", report.case])),
        who=_who(report),
        headline=_headline(report),
        cautions=cautions(report),
        lead=_found(report),
        facts=_facts(report),
        guidelines=_examination(report),
        map=lung_map(scene, report.nodules, [_named(nodule) for nodule in report.nodules]),
        warnings=report.warnings,
        sensitivity=_sensitivity(report),
        findings=[_row(nodule) for nodule in report.nodules],
        cards=[_card(nodule, report, scene) for nodule in report.nodules],
        guide=list(_guide(report)),
        heat=HEAT_MAP if any(nodule.heat is not None for nodule in report.nodules) else "",
        stack_note=f"All {len(stack)} slices, in pictures of {picture_width} × {picture_height} pixels.",
        provenance=_provenance(report),
        timing=_timing(report),
        data=script_data(_data(report, scene, stack)),
    )


# ---- Words


def _percent(share: float) -> str:
    """Whole per cent; 0 and 100 % only for exactly these values."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def _size(nodule: Nodule) -> str:
    m = nodule.measurements
    axes = f"{number(m.long_axis_mm, 1)} × {number(m.short_axis_mm, 1)} mm"
    return f"mean diameter {number(m.mean_diameter_mm, 1)} mm ({axes})"


def _place(nodule: Nodule) -> str:
    zone = nodule.position.zone
    return f"{nodule.position.side} lung" + (", zone unknown" if zone == "unknown" else f", {zone} zone")


def _named(nodule: Nodule) -> str:
    return f"Nodule {nodule.id}, {_place(nodule)}, {number(nodule.measurements.mean_diameter_mm, 1)} mm"


def _who(report: Report) -> str:
    known = report.patient
    patient = [known.name.replace("^", " ").strip(), known.patient_id, known.birth_date] if known else []
    return " · ".join(filter(None, [*patient, report.case, report.scan.description]))


def _headline(report: Report) -> str:
    count = len(report.nodules)
    if report.prompted:
        return "One nodule, where you pointed" if count == 1 else f"{count} nodules, where you pointed"
    found = {0: "No nodule found", 1: "One nodule found"}.get(count, f"{count} nodules found")
    missing = report.coverage.headline
    return f"{missing}; {found[:1].lower()}{found[1:]} in the rest" if missing else found


def cautions(report: Report) -> Iterator[str]:
    """What was not searched, and what may hide nodules."""
    if report.coverage.reasons:
        yield " ".join(report.coverage.reasons)
    hiding = [
        f"{HIDING[o.kind]} in the {o.side} lung: about {number(o.ml, 0)} ml, {_percent(o.share)} of it"
        for o in report.coverage.opacities
    ]
    if hiding:
        yield f"Nodules may be hidden. {'; '.join(hiding)}."


def _found(report: Report) -> list[str]:
    """What was found, in a sentence or two."""
    if not report.nodules:
        where = "this scan" if report.coverage.complete else "what was searched"
        least = number(report.threshold, 2)
        known = (
            ": the table below gives the measured sensitivity"
            if report.sensitivity
            else "; the sensitivity at this threshold has not been measured"
        )
        return [
            f"Nothing in {where} reached the detection confidence of {least} from which findings are reported. This "
            f"does not rule nodules out{known}."
        ]
    certain = _certain(report)
    others = [nodule for nodule in report.nodules if nodule.id not in {n.id for n in certain}]
    least = number(_certain_from(report), 2)
    below = f"a mark with a detection confidence below {least} may be a vessel, a scar or other tissue."
    if not certain:
        first = max(others, key=lambda n: n.score)
        best = f"The most certain, with a confidence of {number(first.score, 2)}{_described(first, '')}"
        return [f"No finding is certain: {below} {best}"]
    lead = _leading(certain, "The most certain" if others else "It is")
    if not others:
        return lead
    if len(certain) > 1:  # one that is left out may be larger, or more suspicious
        lead = [f"Leaving out what is less certain, {line[:1].lower()}{line[1:]}" for line in lead]
    return [*lead, f"Nodule{'s' * (len(others) > 1)} {_numbers([n.id for n in others])}: less certain; {below}"]


def _numbers(ids: list[int]) -> str:
    """Such as "2, 5 to 8, 11"; runs of three or more are drawn together."""
    runs: list[list[int]] = []
    for id_ in sorted(ids):
        if runs and id_ == runs[-1][-1] + 1:
            runs[-1].append(id_)
        else:
            runs.append([id_])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _certain_from(report: Report) -> float:
    """The score half-way between the threshold and 1."""
    return (1 + report.threshold) / 2


def _certain(report: Report) -> list[Nodule]:
    """Findings that may lead the report; one that barely passes the threshold does not, however large or suspicious."""
    return [nodule for nodule in report.nodules if report.prompted or nodule.score >= _certain_from(report)]


def _leading(nodules: list[Nodule], alone: str) -> list[str]:
    """The largest of some findings, and the one with the highest malignancy estimate.

    Args:
        nodules: one or more.
        alone: what one is called.
    """
    largest = max(nodules, key=lambda n: n.measurements.mean_diameter_mm)
    graded = [n for n in nodules if n.risk is not None]
    worst = max(graded, key=lambda n: n.risk.probability if n.risk else 0.0, default=None)
    if worst is largest or worst is None:
        subject = alone if len(nodules) == 1 else "The largest"
        if len(nodules) > 1 and worst is not None:
            subject = "The largest is also the most suspicious"
        return [f"{subject}{_described(largest, subject)}"]
    return [f"The largest{_described(largest, '')}", f"The most suspicious{_described(worst, '')}"]


def _described(nodule: Nodule, subject: str) -> str:
    verb = " " if subject == "It is" else f": nodule {nodule.id}, "
    risk = ""
    if nodule.risk is not None:
        hedge = "" if nodule.risk.trusted else ", not to be relied on"
        estimate = f"{_percent(nodule.risk.probability)} ({_interval(nodule.risk.interval)})"
        risk = f" Its malignancy estimate is {estimate}{hedge}."
    return f"{verb}{nodule.texture}, {_size(nodule)}, in the {_place(nodule)}.{risk}"


def _interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


def _facts(report: Report) -> Iterator[Entry]:
    scan, lungs = report.scan, report.lungs
    z, y, x = scan.spacing_zyx
    thick = "" if scan.slice_thickness_mm is None else f", {number(scan.slice_thickness_mm, 2)} mm thick"
    contrast = {True: "with contrast", False: "without contrast", None: "contrast unknown"}[scan.contrast]
    made = ", ".join(filter(None, [scan.manufacturer, scan.kernel and f"kernel {scan.kernel}", contrast]))
    yield Entry("Scan", f"{scan.slices} slices{thick}")
    yield Entry("Voxel", f"{number(x, 2)} × {number(y, 2)} × {number(z, 2)} mm")
    yield Entry("Lungs", f"right {number(lungs.right_ml / 1000, 2)} l, left {number(lungs.left_ml / 1000, 2)} l")
    if made:
        yield Entry("Acquisition", made)


def _provenance(report: Report) -> Iterator[Entry]:
    yield Entry("Software", report.software)
    yield Entry("Method", report.recipe)
    if not report.prompted:
        yield Entry("Reported from a detection confidence of", number(report.threshold, 2))
    if report.series_uid is not None:
        yield Entry("Series", report.series_uid, copied="series-uid")
    if report.input_sha256 is not None:
        yield Entry("Input, sha256", report.input_sha256, code=True)
    for weights in report.weights:
        yield Entry(f"Weights {weights.name}, sha256", weights.sha256, code=True)
    yield Entry("This report, sha256", fingerprint(report), code=True)


# ---- Guidelines


def _examination(report: Report) -> list[Line]:
    """What the guidelines say of the examination, then what was stated and how it was taken; none without a context."""
    found = report.guidelines
    if found is None:
        return []
    stated = [
        f"{name.replace('_', ' ')}: {_answer(value)}"
        for name, value in vars(found.patient).items()
        if value is not None and name != "context"
    ]
    context = {"screening": "lung cancer screening", "incidental": "found incidentally"}[str(found.patient.context)]
    return [*map(line_of_result, found.examination), Line("Stated:", "; ".join([context, *stated]), found.notes)]


def _answer(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _guidelines(nodule: Nodule, report: Report) -> list[Line]:
    said = report.guidelines.nodules if report.guidelines is not None else ()
    for one in said:
        if one.id == nodule.id:
            return [*map(line_of_result, one.results), *map(line_of_estimate, one.estimates)]
    return []


# ---- Parts of the page


def _sensitivity(report: Report) -> Values | None:
    """Measured sensitivity by size; None if nothing was searched for."""
    if report.prompted:
        return None
    rows: list[Values] = []
    for size in report.sensitivity:
        share = size.found / size.total if size.total else 0.0
        span = f"{size.lo_mm:g} to {size.hi_mm:g} mm" if math.isfinite(size.hi_mm) else f"over {size.lo_mm:g} mm"
        words = f"{size.found} of {size.total} nodules of {span}"
        text = _percent(share) if size.total else "not measured"
        rows.append(
            {"size": span, "found": size.found, "total": size.total, "share": text, "bar": bar(share, words)},
        )
    return {"threshold": number(report.threshold, 2), "rows": rows}


def _row(nodule: Nodule) -> Values:
    risk, m = nodule.risk, nodule.measurements
    return {
        "id": nodule.id,
        "place": f"{nodule.position.side} {nodule.position.zone}".capitalize().replace("unknown", "lung"),
        "texture": nodule.texture,
        "diameter": f"{m.mean_diameter_mm:.1f}",
        "volume": f"{m.volume_mm3:.3f}",
        "volume_text": number(m.volume_mm3, 0),
        "risk": "-1" if risk is None else risk.probability,
        "risk_text": "–" if risk is None else _percent(risk.probability),
        "doubted": risk is not None and not risk.trusted,
        "risk_bar": None if risk is None else bar(risk.probability, _interval(risk.interval), risk.interval),
        "score": f"{nodule.score:.2f}",
    }


def _card(nodule: Nodule, report: Report, scene: DisplayScan) -> Values:
    side = scene.side_mm(nodule)
    return {
        "id": nodule.id,
        "title": _place(nodule).capitalize(),
        "size": f"{nodule.texture.capitalize()} · {_size(nodule)} · {number(nodule.measurements.volume_mm3, 0)} mm³",
        "planes": [_plane(plane, nodule, side) for plane in scene.planes(nodule)],
        "look": _look(nodule),
        "warnings": nodule.warnings,
        "guidelines": _guidelines(nodule, report),
        "risk": None if nodule.risk is None else _estimate(nodule.risk),
        "confidence": None if report.prompted else _confidence(nodule.score),
        "where": _where(nodule),
        "measurements": _measured(nodule),
    }


def _look(nodule: Nodule) -> str:
    """How readers would rate the nodule, with the size and density that count beside it; empty without ratings."""
    if not nodule.attributes:
        return ""
    *words, last = (one.words for one in nodule.attributes)
    rated = f"{', '.join(words)} and {last}" if words else last
    m = nodule.measurements
    measured = f"{number(m.mean_diameter_mm, 1)} mm, {number(m.mean_hu, 0)} HU on average"
    return f"Looks {rated}, as readers would rate it; {measured}"


def _where(nodule: Nodule) -> Iterator[Entry]:
    position = nodule.position
    yield Entry("Side and zone", _place(nodule))
    yield Entry("Lobe, estimated", position.lobe_estimate)
    if position.hilum_to_edge_estimate is not None:
        yield Entry("From the hilum to the edge, estimated", f"{number(100 * position.hilum_to_edge_estimate, 0)} %")
    yield Entry("Centre, LPS", " / ".join(number(v, 1) for v in nodule.centre_lps) + " mm")
    if position.instance_number is not None:
        yield Entry("Central slice, instance", position.instance_number)
    if position.sop_instance_uid is not None:
        yield Entry("SOP instance", position.sop_instance_uid, copied=f"sop-{nodule.id}")
    else:
        yield Entry("Central slice, index", position.central_slice)


def _measured(nodule: Nodule) -> Iterator[Entry]:
    for field, words, unit, decimals in MEASUREMENTS:
        value = getattr(nodule.measurements, field) * (100 if unit == "%" else 1)
        yield Entry(words, f"{number(value, decimals)} {unit}".strip())
        if field == "volume_mm3" and nodule.volume_interval_mm3 is not None:
            low, high = nodule.volume_interval_mm3
            yield Entry("Volume range", f"{number(low, 0)} to {number(high, 0)} mm³")


def _plane(plane: Plane, nodule: Nodule, side_mm: float) -> Values:
    units, scale = round(side_mm * UNITS_PER_MM), 10 * UNITS_PER_MM
    margin = round(units * 0.04)
    return {
        "image": plane.image,
        "alt": f"Nodule {nodule.id}, {plane.name} plane, {side_mm:.0f} mm across",
        "heat": plane.heat,
        "outline": plane.outline,
        "units": units,
        "scale": scale,
        "scale_x": units - margin - scale,
        "scale_y": units - margin // 2,
        **dict(zip(("up", "right", "down", "left"), plane.letters, strict=True)),
        "name": plane.name.capitalize(),
    }


def _estimate(risk: Risk) -> Values:
    probability, interval = _percent(risk.probability), _interval(risk.interval)
    return {
        "text": probability,
        "bar": bar(risk.probability, f"{probability}, interval {interval}", risk.interval),
        "words": f"Interval {interval}{'' if risk.calibrated else '; not calibrated'}",
        "doubts": risk.doubts,
    }


def _confidence(score: float) -> Values:
    return {
        "text": f"{score:.2f}",
        "bar": bar(score, f"Detection confidence {score:.2f} of 1"),
        "words": "",
        "doubts": (),
    }


def _guide(report: Report) -> Iterator[Entry]:
    """What is the same for every finding, said once."""
    if not report.prompted:
        start = number(report.threshold, 2)
        meaning = CALIBRATED if report.sensitivity else UNCALIBRATED  # of the default's detector alone
        yield Entry("Detection confidence", f"{DETECTION_CONFIDENCE} {meaning} Findings are reported from {start}.")
    if report.nodules:
        yield Entry("Mean diameter", MEAN_DIAMETER)
    if any(nodule.volume_interval_mm3 is not None for nodule in report.nodules):
        yield Entry("Volume range", VOLUME_RANGE)
    risks = [nodule.risk for nodule in report.nodules if nodule.risk is not None]
    if risks:
        yield Entry("Malignancy estimate", f"{MALIGNANCY_ESTIMATE} {_calibration(risks)}")
        meaning = report.interval_meaning or f"For its definition see the card of the weights {risks[0].model}."
        yield Entry("Interval of the estimate", meaning)
    if report.attribute_auc:
        yield Entry("Look", f"{LOOK} {_predictability(report.attribute_auc)}")
    if report.nodules:
        yield Entry("Lobe", LOBE)
        yield Entry("From the hilum to the edge", HILUM)
    yield Entry("Guidelines", ASK if report.guidelines is None else GUIDELINES)


def _predictability(attribute_auc: dict[Rating, float]) -> str:
    each = ", ".join(f"{name} {number(auc, 2)}" for name, auc in attribute_auc.items())
    return f"Nodules rated above 3 were told from those below, in patients left out, with an AUC of: {each}."


def _calibration(risks: list[Risk]) -> str:
    calibrated = {risk.calibrated for risk in risks}
    if calibrated == {True}:
        return "It was calibrated on held-out patients."
    if calibrated == {False}:
        return "Not calibrated: it ranks nodules, but is not a probability."
    return (
        "It was calibrated on held-out patients; one marked as not calibrated ranks the nodule, but is no probability."
    )


def _timing(report: Report) -> Iterator[Values]:
    total = report.timing_s["total"] or 1.0
    for stage, seconds in report.timing_s.items():
        text = f"{seconds:.1f}"
        yield {"name": stage, "seconds": text, "bar": bar(min(1.0, seconds / total), f"{text} s")}


def _data(report: Report, scene: DisplayScan, stack: list[Slice]) -> Values:
    """The data of the page's script."""
    leading = _certain(report) or report.nodules
    first = max(leading, key=lambda n: n.risk.probability if n.risk else -1 + n.score / 2, default=None)
    return {
        "report_sha256": fingerprint(report),
        "series_uid": report.series_uid,
        "input_sha256": report.input_sha256,
        "case": report.case,
        "grey_hu": GREY_HU,
        "frame": scene.frame,
        "start": None if first is None else first.id,
        "nodules": [{"id": n.id, "slice": round(float(scene.place(n)[0]))} for n in report.nodules],
        "stack": [
            {
                "image": slice_.image,
                "label": _slice_label(scene, z),
                "lungs": [outline.path for outline in slice_.lungs],
                "nodules": [[outline.label, outline.path] for outline in slice_.nodules],
            }
            for z, slice_ in enumerate(stack)
        ],
    }


def _slice_label(scene: DisplayScan, z: int) -> str:
    count = scene.volume.geometry.shape[0]
    stored = scene.volume.source.slices
    instance = stored[z].instance_number if stored else None
    height = float(scene.volume.geometry.to_lps((z, 0, 0))[2])
    lines = [f"Slice {z + 1} of {count}", "" if instance is None else f"Instance {instance}"]
    return "\n".join(filter(None, [*lines, f"z {number(height, 1)} mm"]))
