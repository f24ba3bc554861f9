"""The page of a report: its words, its pictures, and its working in a real browser."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from itertools import permutations, product
from pathlib import Path

import contourpy
import numpy as np
import pytest
from PIL import Image

import made_reports
from browser import Browser
from nodulens.clinical.facts import Answers, PatientFacts
from nodulens.core.coverage import Coverage, Opacity, SideCoverage
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Measurements
from nodulens.core.volume import Volume
from nodulens.io import read
from nodulens.report.guidelines import categorise
from nodulens.report.json import fingerprint
from nodulens.report.page import (
    DETECTION_CONFIDENCE,
    HEAT_MAP,
    LOBE,
    LOOK,
    MALIGNANCY_ESTIMATE,
    MEAN_DIAMETER,
    MEASUREMENTS,
    VOLUME_RANGE,
    render_page,
)
from nodulens.report.pictures import GREY_HU, UNITS_PER_MM, DisplayScan, contours
from nodulens.report.record import Report
from page_reader import PageReader


@pytest.fixture(scope="module")
def page(ct: Volume, report: Report) -> str:
    return render_page(report, ct)


def _picture(uri: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))))


# ---- What it says


def test_page_says_what_was_found(page: str, report: Report) -> None:
    read = PageReader(page)
    for words in (
        "3 nodules found",
        "mean diameter 16.0 mm (16.8 × 15.2 mm)",
        "Left lung, middle zone",
        "80 %",
        "55 to 93 %",
        "Nine of ten such intervals held the answer",
        "calibrated on held-out patients",
        "Malignancy estimate none",
        "Slices are 2.5 mm apart.",
        "Touches the pleura.",
        "CASE-7",
        "30 of 60",
        "For research. Not a medical device.",
        fingerprint(report),
        *(weights.sha256 for weights in report.weights),
        *(str(nodule.position.sop_instance_uid) for nodule in report.nodules),
        *(f"Central slice, instance {nodule.position.instance_number}" for nodule in report.nodules),
    ):
        assert words in read.text, words


def test_every_measurement_is_shown(page: str) -> None:
    assert [row[0] for row in MEASUREMENTS] == list(Measurements.__dataclass_fields__)
    text = PageReader(page).text
    assert all(text.count(words) >= 3 for _, words, _, _ in MEASUREMENTS)


def test_what_was_not_searched_is_the_first_thing_said(ct: Volume, report: Report) -> None:
    left, right = SideCoverage(1000.0, 0.0, 0.0), SideCoverage(600.0, 400.0, 0.4)
    hidden = (Opacity("fluid", "right", 400.0, 0.4),)
    coverage = Coverage(False, ("It is as dense as fluid: an effusion.",), left, right, hidden)
    for nodules, words in (
        ((), "no nodule found in the rest"),
        (report.nodules, f"{len(report.nodules)} nodules found in the rest"),
    ):
        text = PageReader(render_page(replace(report, nodules=nodules, coverage=coverage), ct)).text
        first = f"About 40 % of the right lung was not searched; {words}"
        assert first in text and "No nodule found" not in text
        summary = text[text.index(first) :]
        assert summary.index("effusion") < summary.index("Nodules may be hidden. Fluid in the right lung: about 400 ml")
    cut = Coverage(False, ("Cut off.",), left, replace(right, unsearched_ml=0.0, unsearched_share=0.0), ())
    assert "The scan ends inside the lungs" in PageReader(render_page(replace(report, coverage=cut), ct)).text
    gone = Coverage(False, ("Gone.",), replace(left, unsearched_share=1.0), replace(right, unsearched_share=0.0), ())
    assert gone.headline == "All of the left lung was not searched"


@pytest.mark.parametrize(("given", "words"), [(True, "with contrast"), (False, "without contrast"), (None, "unknown")])
def test_contrast_is_said_or_said_to_be_unknown(ct: Volume, report: Report, given: bool | None, words: str) -> None:
    text = PageReader(render_page(replace(report, scan=replace(report.scan, contrast=given)), ct)).text
    assert words in text[text.index("Acquisition") :]


def test_nothing_found_is_said_in_words_with_what_was_measured(ct: Volume, report: Report) -> None:
    none = replace(report, nodules=())
    text = PageReader(render_page(none, ct)).text
    assert "No nodule found" in text and "does not rule nodules out" in text
    assert "3 to 6 mm 30 of 60 50 %" in text and "6 to 30 mm 95 of 100 95 %" in text
    text = PageReader(render_page(replace(none, sensitivity=()), ct)).text
    assert "not been measured" in text and "was not measured at the threshold" in text


def test_what_barely_passes_the_threshold_never_leads(ct: Volume, report: Report) -> None:
    """The largest and most suspicious finding, at 0.51, is named last; alone it is named as uncertain."""
    first, second, third = report.nodules
    assert first.risk is not None
    doubtful = replace(first, score=0.51, risk=replace(first.risk, probability=0.99))
    likely = replace(second, score=0.9, risk=replace(first.risk, probability=0.2))
    made = replace(report, threshold=0.5, nodules=(doubtful, likely, replace(third, score=0.6)))
    read = PageReader(render_page(made, ct)).text
    lead = read[: read.index("Findings")]
    assert "The most certain: nodule 2, part-solid" in lead and "most suspicious" not in lead
    assert lead.index("nodule 2") < lead.index(
        "Nodules 1, 3: less certain; a mark with a detection confidence below 0.75 may"
    )
    alone = PageReader(render_page(replace(made, nodules=(doubtful,)), ct)).text
    assert "No finding is certain: a mark with a detection confidence below 0.75" in alone
    assert "The most certain, with a confidence of 0.51: nodule 1" in alone
    small = replace(made, nodules=(doubtful, likely, replace(third, score=0.9)))
    assert "Leaving out what is less certain, the largest" in PageReader(render_page(small, ct)).text
    both = replace(made, nodules=(replace(doubtful, score=0.8), likely))
    assert "most suspicious: nodule 1" in PageReader(render_page(both, ct)).text


def test_a_prompted_report_says_so(ct: Volume, report: Report) -> None:
    text = PageReader(render_page(replace(report, nodules=report.nodules[:1], prompted=True), ct)).text
    assert "One nodule, where you pointed" in text
    assert "Detection confidence" not in text[text.index("How sure") :] and "such an analysis finds" not in text


def test_an_uncalibrated_estimate_says_so(ct: Volume, report: Report) -> None:
    (first, *_) = report.nodules
    assert first.risk is not None
    nodule = replace(first, risk=replace(first.risk, calibrated=False))
    one = replace(report, nodules=(nodule,), interval_meaning="")
    text = PageReader(render_page(one, ct)).text
    assert "Interval 55 to 93 %; not calibrated" in text and "Not calibrated: it ranks nodules" in text
    assert "card of the weights malignancy" in text
    both = replace(report, nodules=(nodule, replace(first, id=2)))
    text = PageReader(render_page(both, ct)).text
    assert text.count("not calibrated") == 2 and "Interval 55 to 93 % How to read this" in text
    assert "calibrated on held-out patients; one marked as not calibrated ranks" in text


def test_a_doubted_estimate_is_shown_in_grey_with_its_reason(ct: Volume, report: Report) -> None:
    (first, *_) = report.nodules
    assert first.risk is not None
    nodule = replace(first, risk=first.risk.doubted("Slices of 5 mm."))
    page = render_page(replace(report, nodules=(nodule,)), ct)
    text = PageReader(page).text
    assert "80 %" in text and "Interval 55 to 93 %; not calibrated Not to be relied on. Slices of 5 mm." in text
    assert "(55 to 93 %), not to be relied on." in text and text.count("not to be relied on") == 2
    assert page.count('class="measure doubted"') == 1 == page.count('class="number doubted"')
    plain = render_page(report, ct)
    assert "relied" not in PageReader(plain).text and 'doubted"' not in plain


def test_what_is_the_same_for_every_finding_is_said_once(page: str) -> None:
    """Cards hold no sentence; what explains their numbers stands in one place, which each of them links to."""
    cards = re.findall(r'<article class="card".*?</article>', page, re.DOTALL)
    assert len(cards) == 3 and all('<a href="#guide">' in card for card in cards)
    texts = [PageReader(card).text.replace("Touches the pleura.", "") for card in cards]
    assert not [text for text in texts if re.search(r"[a-z]{2}\. ", text)]
    text = PageReader(page).text
    for words in (DETECTION_CONFIDENCE, MEAN_DIAMETER, VOLUME_RANGE, MALIGNANCY_ESTIMATE, LOOK, HEAT_MAP, LOBE):
        assert text.count(words) == 1 and text.index(words) > text.index("How to read this")
    assert text.count("Nine of ten such intervals") == text.count("calibrated on held-out patients") == 1
    assert text.count("Findings are reported from 0.42.") == 1


def test_the_look_stands_on_the_card_and_how_well_it_is_predicted_once(page: str, ct: Volume, report: Report) -> None:
    cards = re.findall(r'<article class="card".*?</article>', page, re.DOTALL)
    look = "Looks spiculated and sharply defined, as readers would rate it; 16.0 mm, −12 HU on average"
    assert [PageReader(card).text.count(look) for card in cards] == [1, 0, 0]
    assert PageReader(page).text.count("with an AUC of: spiculation 0.86, margin 0.90.") == 1
    first = report.nodules[0]
    one = replace(report, nodules=(replace(first, attributes=first.attributes[:1]),))
    assert "Looks spiculated, as readers" in PageReader(render_page(one, ct)).text
    none = replace(report, nodules=(replace(first, attributes=()),), attribute_auc={})
    assert "would rate it" not in PageReader(render_page(none, ct)).text


def test_a_volume_has_its_range_where_there_is_one(ct: Volume, report: Report) -> None:
    ranges = [nodule.volume_interval_mm3 for nodule in report.nodules]
    assert ranges[0] is not None and ranges[2] is None
    low, high = ranges[0]
    texts = [PageReader(render_page(replace(report, nodules=(n,)), ct)).text for n in report.nodules]
    assert re.search(rf"Volume range {low:,.0f} to {high:,.0f} mm³".replace(",", "."), texts[0])
    assert "Volume range" not in texts[2]


def test_confidence_size_and_malignancy_have_one_name_each(page: str) -> None:
    text = PageReader(page).text
    card = text[text.index("How sure") : text.index("Where")]
    assert card == "How sure Detection confidence 0.75 Malignancy estimate 80 % Interval 55 to 93 % How to read this "
    table = text[text.index("Findings") : text.index("Left middle")]
    for name in ("Detection confidence", "Malignancy estimate", "Mean diameter"):
        assert name in table and name in text[text.rindex("How to read this") :]
    assert not re.search(r"\b[Ss]core\b", text)


def test_numbers_of_many_findings_are_drawn_together(ct: Volume, report: Report) -> None:
    first, *_ = report.nodules
    certain = {1, 2, 9}
    many = tuple(replace(first, id=n, score=0.9 if n in certain else 0.5) for n in range(1, 14))
    text = PageReader(render_page(replace(report, nodules=many), ct)).text
    assert "Nodules 3 to 8, 10 to 13: less certain" in text
    some = tuple(n for n in many if n.id not in (4, 5, 12))
    text = PageReader(render_page(replace(report, nodules=some), ct)).text
    assert "Nodules 3, 6 to 8, 10, 11, 13: less certain" in text


def test_identity_is_shown_only_where_asked_for(ct: Volume, page: str, report: Report) -> None:
    assert "DOE" not in page and made_reports.PATIENT.patient_id not in page and "19500229" not in page
    assert "DOE JANE" in PageReader(render_page(replace(report, patient=made_reports.PATIENT), ct)).text


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{data}}"


def test_no_text_becomes_part_of_the_page(ct: Volume, report: Report) -> None:
    (first, *_) = report.nodules
    position = replace(first.position, sop_instance_uid=HOSTILE, lobe_estimate=HOSTILE)
    hostile = replace(
        report,
        software=HOSTILE, recipe=HOSTILE, case=HOSTILE, series_uid=HOSTILE, input_sha256=HOSTILE,
        warnings=(HOSTILE,), interval_meaning=HOSTILE, timing_s={HOSTILE: 1.0, "total": 1.0},
        scan=replace(report.scan, description=HOSTILE, manufacturer=HOSTILE, kernel=HOSTILE),
        patient=replace(made_reports.PATIENT, name=HOSTILE),
        nodules=(replace(first, position=position, warnings=(HOSTILE,)),),
    )  # fmt: skip
    read, plain = (PageReader(render_page(one, ct)) for one in (hostile, replace(report, nodules=(first,))))
    count = [sum(tag == "script" for tag, _ in one.tags) for one in (read, plain)]
    assert count == [2, 2]
    assert not [tag for tag in read.tags if any(name.startswith("on") for name in tag[1])]
    assert read.data["series_uid"] == HOSTILE and HOSTILE in read.text
    assert {tag for tag, _ in read.tags} == {tag for tag, _ in plain.tags}


def test_page_refers_to_nothing_outside_itself(page: str) -> None:
    for tag, attributes in PageReader(page).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "url(" not in page and "@import" not in page and 'http-equiv="Content-Security-Policy"' in page
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(("slices", "side"), [(44, 512), (500, 323), (2000, 256)])
def test_every_slice_is_there_and_those_of_a_long_scan_are_smaller(slices: int, side: int) -> None:
    long = made_reports.scan((slices, 8, 12))
    one = made_reports.report(made_reports.scan((44, 40, 90)), 0)
    page = PageReader(render_page(replace(one, lung_mask=None), long))
    stack = page.data["stack"]
    assert [slice_["label"].split("\n")[0] for slice_ in stack] == [f"Slice {z + 1} of {slices}" for z in range(slices)]
    assert {_picture(slice_["image"]).shape for slice_ in stack} == {(round(side * 8 / 12), side)}
    assert f"All {slices} slices, in pictures of {side} × {round(side * 8 / 12)} pixels." in page.text


def test_commands_that_make_no_page_load_no_templates() -> None:
    code = (
        "import sys, nodulens\nfrom nodulens.apps import cli\nsys.argv = ['nodulens', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print({'jinja2', 'markupsafe', 'contourpy', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


# ---- Pictures


def test_contours_of_a_disc_have_its_radius_and_area() -> None:
    y, x = np.mgrid[:60, :80] + 0.5
    image = np.clip(17.5 - np.hypot(x - 33.25, y - 30.5), 0, 1).astype(np.float32)
    (curve,) = contours(image)
    assert np.abs(np.hypot(curve[:, 0] - 33.25, curve[:, 1] - 30.5) - 17).max() < 0.1
    px, py = curve.T
    area = 0.5 * abs(np.dot(px, np.roll(py, 1)) - np.dot(py, np.roll(px, 1)))
    assert area == pytest.approx(np.pi * 17**2, rel=0.01)


def test_contours_close_whatever_the_picture() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        image = random.random((9, 12)).astype(np.float32)
        for curve in contours(image):
            steps = np.abs(np.diff(curve, axis=0, append=curve[:1]))
            assert len(curve) >= 3 and steps.max() <= 1 + 1e-6
    assert contours(np.zeros((5, 5), np.float32)) == []
    assert len(contours(np.eye(2, dtype=np.float32))) == 2
    ring = np.pad(np.pad(np.zeros((1, 1), np.float32), 1, constant_values=1), 1)
    assert len(contours(ring)) == 2


def _whole(curve: np.ndarray) -> list[list[float]]:  # type: ignore[type-arg]
    """A closed curve from its least point on."""
    first = np.lexsort(curve.T)[0]
    return np.round(np.roll(curve, -first, axis=0), 4).tolist()  # type: ignore[no-any-return]


def test_contours_are_those_of_contourpy() -> None:
    random = np.random.default_rng(5)
    y, x = np.mgrid[:30, :40]
    smooth = np.exp(-((x - 11.3) ** 2 + (y - 14.2) ** 2) / 60) + np.exp(-((x - 29.6) ** 2 + (y - 17.9) ** 2) / 40)
    for image in (smooth.astype(np.float32), *(random.random((10, 24, 31)) < 0.4).astype(np.float32)):
        lines = contourpy.contour_generator(z=np.pad(image, 1), name="serial").lines(0.5)
        assert len(lines) > 1
        assert sorted(map(_whole, contours(image))) == sorted(_whole(line[:-1] - 0.5) for line in lines)


def _turned(ct: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same scan stored along other axes."""
    steps = tuple(slice(None, None, -1 if flip else None) for flip in flips)
    geometry = ct.geometry.transposed(axes, flips)
    return Volume(ct.hu.transpose(axes)[steps], geometry, replace(ct.source, slices=()))


def _middle(path: str) -> np.ndarray:  # type: ignore[type-arg]
    """Middle of the bounding box of an outline's path, in millimetres."""
    points = []
    for curve in path.split("z")[:-1]:
        start, steps = curve[1:].split("l")
        first = np.array(start.split(), float)
        points.append(first + np.r_[[[0, 0]], np.cumsum(np.array(steps.split(), float).reshape(-1, 2), axis=0)])
    every = np.concatenate(points)
    return (every.min(axis=0) + every.max(axis=0)) / 2 / UNITS_PER_MM


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_pictures_are_radiological_however_the_scan_was_stored(axes: tuple[int, int, int]) -> None:
    """The bright ball and its outline stand in the middle of all planes; left is on the right of the picture."""
    plain = made_reports.scan((36, 60, 90))
    low, high = GREY_HU
    for flips in list(product((False, True), repeat=3))[:: 2 if axes[0] else 1]:
        ct = _turned(plain, axes, flips)
        one = made_reports.report(ct, 2)
        scene = DisplayScan(ct, one.nodules, one.lung_mask)
        for nodule in one.nodules:
            for plane in scene.planes(nodule):
                assert _middle(plane.outline) == pytest.approx([25, 25], abs=1.5)
                grey = _picture(plane.image)
                middle = grey[len(grey) // 2 - 3 : len(grey) // 2 + 3, len(grey) // 2 - 3 : len(grey) // 2 + 3].mean()
                assert middle == pytest.approx(255 * (40 - low) / (high - low), abs=12)
        x, _ = scene.silhouette_place(one.nodules[0])
        assert x == pytest.approx(scene.size_mm[2] / 2 + 55, abs=1.5)
        z = round(float(scene.place(one.nodules[0])[0]))
        slices = scene.stack()
        outline = next(o for o in slices[z].nodules if o.label == 1)
        centre = np.array([scene.size_mm[2] / 2 + 55, scene.size_mm[1] / 2 + 10])
        assert _middle(outline.path) == pytest.approx(centre, abs=1.5)
        left, right = (_middle(o.path)[0] for o in sorted(slices[z].lungs, key=lambda o: o.label))
        assert right < scene.size_mm[2] / 2 < left


def test_planes_put_the_head_on_top_and_the_front_to_the_left_of_sagittal_views() -> None:
    ct = made_reports.scan((44, 100, 120))
    one = made_reports.report(ct, 1)
    hu = np.full(ct.geometry.shape, -850, np.int16)
    z, y, x = (round(v) for v in ct.geometry.to_index(one.nodules[0].centre_lps))
    hu[z + 4 : z + 8], hu[:, : y - 8], hu[:, :, x + 8 :] = -400, -400, -400
    scene = DisplayScan(Volume(hu, ct.geometry, ct.source), one.nodules, None)
    axial, coronal, sagittal = (_picture(plane.image).astype(int) for plane in scene.planes(one.nodules[0]))
    n = len(axial)
    edge, half = n // 10, slice(n // 2 - 5, n // 2 + 5)
    assert axial[edge, n // 4] > axial[-edge, n // 4] + 40  # front on top
    assert axial[-edge, -edge] > axial[-edge, edge] + 40  # left on the right
    assert coronal[half, -edge].mean() > coronal[half, edge].mean() + 40
    assert coronal[n // 4 : n // 2, half].max() > coronal[n // 2 :, half].max() + 40  # head on top
    assert sagittal[half, edge].mean() > sagittal[half, -edge].mean() + 40  # front to the left


def test_heat_map_is_clear_where_nothing_drove_the_score(ct: Volume, report: Report) -> None:
    axial, *_ = DisplayScan(ct, report.nodules, None).planes(report.nodules[0])
    assert axial.heat is not None
    heat = np.asarray(Image.open(BytesIO(base64.b64decode(axial.heat.partition(",")[2]))).convert("RGBA"))
    assert heat[0, 0, 3] == 0 and heat[..., 3].max() > 100


# ---- In a browser


def _press(browser: Browser, key: str) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key)


def _label(browser: Browser) -> str:
    return str(browser.run("document.querySelector('#stack-label').textContent"))


def test_page_opens_on_the_most_suspicious_nodule(opened: Browser, report: Report) -> None:
    first = report.nodules[0].position
    assert f"Slice {first.central_slice + 1} of 44\nInstance {first.instance_number}" in _label(opened)
    assert opened.run("document.querySelector('#stack-image').decode().then(() => true)")
    size = opened.run("[document.querySelector('#stack-image').naturalWidth, innerWidth]")
    assert size[0] > 100
    image = "document.querySelector('#stack-image').{0}Width / document.querySelector('#stack-image').{0}Height"
    assert opened.run(image.format("client")) == pytest.approx(opened.run(image.format("natural")), rel=0.02)
    assert opened.run("document.querySelectorAll('#stack-overlay .outline').length") == 1
    assert opened.run("document.querySelectorAll('#stack-overlay .lungline').length") == 2
    assert opened.run("document.querySelector('tr[aria-current]').dataset.id") == "1"


def test_clicking_a_finding_moves_the_scan(opened: Browser, report: Report) -> None:
    for nodule in reversed(report.nodules):
        opened.run(f"document.querySelector('#table tr[data-id=\"{nodule.id}\"] td').click()")
        assert f"Slice {nodule.position.central_slice + 1} of 44" in _label(opened)
        assert opened.run("document.querySelector('#stack-cuts').textContent") == f"Nodule {nodule.id}"
        assert opened.run("document.querySelector('.card[aria-current]').id") == f"nodule-{nodule.id}"


def test_a_card_leads_to_its_slice_and_the_keyboard_goes_on_from_there(opened: Browser, report: Report) -> None:
    for nodule in reversed(report.nodules):
        opened.run(f"document.querySelector('#nodule-{nodule.id} [data-show]').click()")
        assert f"Slice {nodule.position.central_slice + 1} of 44" in _label(opened)
        _press(opened, "ArrowUp")
        assert f"Slice {nodule.position.central_slice + 2} of 44" in _label(opened)
    assert opened.run("document.querySelectorAll('#stack img').length") == 1  # the others are not decoded
    opened.run("document.querySelector('#nodule-1 a[href=\"#guide\"]').click()")
    assert opened.run("document.querySelector('#guide').getBoundingClientRect().top < innerHeight")


def test_scan_answers_to_keys_slider_and_wheel(opened: Browser) -> None:
    opened.run("document.querySelector('#slice').focus()")
    for key, slice_ in (("Home", 1), ("ArrowUp", 2), ("PageUp", 12), ("ArrowLeft", 11), ("End", 44), ("ArrowUp", 44)):
        _press(opened, key)
        assert f"Slice {slice_} of 44" in _label(opened), key
    opened.run("{const s = document.querySelector('#slice'); s.value = 9; s.dispatchEvent(new Event('input'))}")
    assert "Slice 10 of 44" in _label(opened)
    place = opened.run(
        "(() => {const s = document.querySelector('#stack'); s.scrollIntoView();"
        "const r = s.getBoundingClientRect(); return [r.x + 100, r.y + 200]})()"
    )
    before = opened.run("scrollY")
    wheel = {"type": "mouseWheel", "x": place[0], "y": place[1], "deltaX": 0, "deltaY": -120}
    opened.call("Input.dispatchMouseEvent", **wheel)
    assert "Slice 13 of 44" in _label(opened)
    assert opened.run("scrollY") == before


def test_outlines_heat_and_window_can_be_changed(opened: Browser) -> None:
    style = "getComputedStyle(document.querySelector('{}')).{}"
    assert opened.run(style.format(".plane .outline", "display")) != "none"
    opened.run("document.querySelector('#show-outlines').click()")
    assert opened.run(style.format(".plane .outline", "display")) == "none"
    opened.run("{const s = document.querySelector('#heat'); s.value = 80; s.dispatchEvent(new Event('input'))}")
    assert opened.run(style.format("img.heat", "opacity")) == "0.8"
    choose = "{const s = document.querySelector('#window'); s.selectedIndex = 1; s.dispatchEvent(new Event('change'))}"
    opened.run(choose)
    brightness, contrast = map(float, re.findall(r"[\d.]+", opened.run(style.format("img.ct", "filter"))))
    low, high = GREY_HU
    for hu, wanted in ((-160, 0.0), (40, 0.5), (240, 1.0)):
        grey = (hu - low) / (high - low)
        assert (grey * brightness - 0.5) * contrast + 0.5 == pytest.approx(wanted, abs=0.01)


def test_numbers_at_outlines_keep_apart(ct: Volume, report: Report, browser: Browser, tmp_path: Path) -> None:
    first, *_ = report.nodules
    path = tmp_path / "close.html"
    path.write_text(render_page(replace(report, nodules=tuple(replace(first, id=n) for n in (1, 2, 3))), ct), "utf-8")
    browser.open(path)
    boxes = browser.run(
        "[...document.querySelectorAll('#stack-overlay .tag')].map(t => t.getBBox()).map(b => [b.y, b.height])"
    )
    (a, high), (b, _), (c, _) = boxes
    assert b - a == pytest.approx(high, rel=0.25) and c - b == pytest.approx(high, rel=0.25)
    assert browser.run("document.querySelector('#stack-cuts').textContent") == "Nodules 1, 2, 3"


def test_table_sorts_by_any_column(opened: Browser) -> None:
    order = "[...document.querySelectorAll('#table tbody tr')].map(row => row.dataset.id).join('')"
    head = "document.querySelectorAll('#table thead button')[{}].click()"
    assert opened.run(order) == "123"
    for column, up in ((2, "321"), (1, "132"), (6, "321")):
        opened.run(head.format(column))
        assert opened.run(order) == up, column
    opened.run(head.format(2))
    opened.run(head.format(2))
    assert opened.run(order) == "123"
    assert opened.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_review_is_saved_kept_and_loaded(opened: Browser, report: Report, tmp_path: Path) -> None:
    opened.run("localStorage.clear()")
    opened.downloads_to(tmp_path)
    write = "{{const t = document.querySelector('{}'); t.value = {}; t.dispatchEvent(new Event('input'))}}"
    opened.run("document.querySelector('#nodule-1 [data-decision=accepted]').click()")
    opened.run("document.querySelector('#nodule-2 [data-decision=rejected]').click()")
    opened.run("document.querySelector('#nodule-3 [data-decision=rejected]').click()")
    opened.run("document.querySelector('#nodule-3 [data-decision=rejected]').click()")
    opened.run(write.format("#nodule-2 textarea", json.dumps("a vessel </script>")))
    opened.run(write.format("#reader", json.dumps("Reader 4")))
    assert opened.run("document.querySelector('#review-count').textContent") == "2 of 3 findings reviewed."
    opened.run("document.querySelector('#save').click()")
    saved = tmp_path / "review.json"
    opened.run("new Promise(done => setTimeout(done, 500))")
    review = json.loads(saved.read_text("utf-8"))
    assert review["schema"] == "nodulens-review/1" and review["report_sha256"] == fingerprint(report)
    assert review["series_uid"] == report.series_uid and review["case"] == "CASE-7"
    assert review["reader"] == "Reader 4"
    assert review["decisions"] == [
        {"id": 1, "decision": "accepted", "note": ""},
        {"id": 2, "decision": "rejected", "note": "a vessel </script>"},
        {"id": 3, "decision": None, "note": ""},
    ]

    marks = "[...document.querySelectorAll('#table .mark')].map(mark => mark.textContent)"
    opened.open(tmp_path / "page.html")
    opened.requests.pop()
    assert opened.run(marks) == ["✓ accepted", "✕ rejected", "–"]  # kept by the browser

    opened.run("localStorage.clear()")
    opened.open(tmp_path / "page.html")
    opened.requests.pop()
    assert opened.run(marks) == ["–", "–", "–"]
    _load(opened, saved)
    assert opened.run("document.querySelector('#status').textContent") == "Review loaded from review.json."
    assert opened.run(marks) == ["✓ accepted", "✕ rejected", "–"]
    assert opened.run("document.querySelector('#nodule-2 textarea').value") == "a vessel </script>"
    opened.run("localStorage.clear()")


def _load(browser: Browser, path: Path) -> None:
    browser.choose_file("#load", path)
    browser.run("new Promise(done => setTimeout(done, 300))")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a saved review"),
        ('{"schema": "nodulens-report/1"}', "not a saved review"),
        ('{"schema": "nodulens-review/1", "report_sha256": "0"}', "belongs to another report"),
        ('{"schema": "nodulens-review/1", "report_sha256": "SHA"}', "names findings or decisions"),
        ('{"schema": "nodulens-review/1", "report_sha256": "SHA", "decisions": [{"id": 9}]}', "names findings"),
        ('{"schema": "nodulens-review/1", "report_sha256": "SHA", "decisions": [{"id": 1, "decision": 3}]}', "names"),
    ],
)
def test_a_wrong_review_is_refused(opened: Browser, report: Report, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text.replace("SHA", fingerprint(report)))
    _load(opened, path)
    assert message in opened.run("document.querySelector('#status.problem').textContent")
    assert opened.run("document.querySelector('#review-count').textContent") == "0 of 3 findings reviewed."


def test_hostile_texts_do_nothing_in_a_browser(ct: Volume, report: Report, browser: Browser, tmp_path: Path) -> None:
    hostile = replace(report, warnings=(HOSTILE,), case=HOSTILE, scan=replace(report.scan, description=HOSTILE))
    path = tmp_path / "hostile.html"
    path.write_bytes(render_page(hostile, ct).encode())
    browser.problems.clear()
    browser.open(path)
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert HOSTILE in browser.run("document.querySelector('.notice').textContent")
    # Even a script that did get in would not run: the page's policy allows its own alone.
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'pwned = 1'}))")
    assert browser.run("typeof window.pwned") == "undefined"
    assert any("Content Security Policy" in problem for problem in browser.problems)


@pytest.mark.parametrize("stated", [None, PatientFacts(context="screening", prior="none", age=63)])
def test_scan_and_findings_are_on_the_first_screen(
    ct: Volume, report: Report, browser: Browser, tmp_path: Path, stated: PatientFacts | None
) -> None:
    whole = report if stated is None else categorise(report, Answers(stated))
    path = tmp_path / "first.html"
    path.write_bytes(render_page(whole, ct).encode())
    browser.size(1280, 800)
    browser.open(path)
    bottom = "document.querySelector('{}').getBoundingClientRect().bottom"
    assert 0 < browser.run(bottom.format("#slice")) < 800 and 0 < browser.run(bottom.format("#table tbody tr")) < 800
    reasons = "[...document.querySelectorAll('.source ul')].map(list => list.checkVisibility())"
    assert set(browser.run(reasons)) <= {False}, "for who opens them"
    browser.run("document.querySelectorAll('.source summary').forEach(summary => summary.click())")
    assert set(browser.run(reasons)) <= {True} and bool(browser.run(reasons)) == (stated is not None)
    browser.size(1440, 900)


@pytest.mark.parametrize(("width", "mobile"), [(390, True), (820, False), (1440, False)])
def test_page_fits_every_width(opened: Browser, width: int, mobile: bool) -> None:
    opened.size(width, 900, mobile=mobile)
    assert opened.run("document.documentElement.scrollWidth") <= width
    opened.size(1440, 900)


def test_page_prints(opened: Browser, tmp_path: Path) -> None:
    opened.pdf(tmp_path / "report.pdf")
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") >= 2


def test_controls_have_names(opened: Browser) -> None:
    """Every control says what it is to a screen reader."""
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "slider", "checkbox", "combobox", "textbox", "image"}
    found = [n for n in tree if not n.get("ignored") and n.get("role", {}).get("value") in roles]
    assert len(found) > 20
    nameless = [(n["role"]["value"], n.get("backendDOMNodeId")) for n in found if not n.get("name", {}).get("value")]
    assert nameless == []


def test_page_of_a_real_scan(shared: Path, browser: Browser, tmp_path: Path) -> None:
    ct = read(shared / "ct" / "LIDC-IDRI-0028")
    empty = made_reports.report(made_reports.scan((2, 8, 8)), 0)
    page = render_page(replace(empty, lung_mask=None), ct)
    assert len(page) < 8e6
    path = tmp_path / "real.html"
    path.write_bytes(page.encode())
    browser.problems.clear()
    browser.open(path)
    assert "of 141" in _label(browser)
    assert browser.problems == []


def test_page_of_a_long_real_scan_is_not_heavy(shared: Path) -> None:
    ct = read(shared / "ct" / "LIDC-IDRI-0028")
    z, y, x = ct.geometry.spacing_zyx
    thin = Geometry.axial((500, *ct.geometry.shape[1:]), (z * 141 / 500, y, x), ct.geometry.origin_lps)
    scene = DisplayScan(Volume(ct.hu[np.arange(500) * 141 // 500], thin), (), None)
    assert 4e6 < sum(len(slice_.image) for slice_ in scene.stack()) < 10e6
