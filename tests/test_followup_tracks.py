"""Nodules through several examinations, and the page of them, without registration and networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

import made_reports
from browser import Browser
from nodulens.clinical.facts import Answers, PatientFacts
from nodulens.core.nodule import NO_OUTLINE, Nodule
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption
from nodulens.followup import compare as comparing
from nodulens.followup.compare import Compared, Options, compare
from nodulens.followup.csv import to_csv
from nodulens.followup.exam import Exam
from nodulens.followup.json import from_json, to_json
from nodulens.followup.page import growth_curve, headline, render_page
from nodulens.followup.record import Status, Track
from nodulens.followup.registration import Quality, Registration
from nodulens.ops.deform import Deformation
from nodulens.report.record import Report

GOOD = Quality(0.97, 100, 0.9, 0.6, 1.8, 1.0)
LATER: Any = SimpleNamespace(
    recipe=SimpleNamespace(name="default", detects=False), weights=(), outline=lambda lungs: None
)
"""A method that prompts nothing, so nothing is looked for."""


@pytest.fixture(autouse=True)
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scans lie on one another."""
    monkeypatch.setattr(comparing, "register", lambda *_: Registration(Deformation.identity(), GOOD))


def exam(ct: Volume, report: Report, day: float | None, sizes: dict[int, float]) -> Exam:
    """An examination with the nodules of these numbers, each of a diameter in mm; numbered anew."""
    kept = [resized(n, sizes[n.id], number) for number, n in enumerate(
        (one for one in report.nodules if one.id in sizes), start=1)]  # fmt: skip
    return Exam(ct, replace(report, nodules=tuple(kept)), day)


def resized(nodule: Nodule, diameter: float, number: int) -> Nodule:
    m = replace(
        nodule.measurements, mean_diameter_mm=diameter, long_axis_mm=diameter, short_axis_mm=diameter,
        volume_mm3=np.pi / 6 * diameter**3, equivalent_diameter_mm=diameter, solid_diameter_mm=0.9 * diameter,
    )  # fmt: skip
    return replace(nodule, id=number, measurements=m)


@pytest.fixture(scope="module")
def three(ct: Volume, report: Report) -> tuple[Exam, ...]:
    """Growing; resolved; and one that comes between, grows and has other numbers."""
    return (
        exam(ct, report, 0.0, {1: 12.0, 2: 9.0}),
        exam(ct, report, 200.0, {1: 14.0, 2: 9.0, 3: 5.0}),
        exam(ct, report, 400.0, {1: 16.5, 3: 8.0}),
    )


def made(exams: Sequence[Exam], **options: Any) -> Compared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "register", lambda *_: Registration(Deformation.identity(), GOOD))
        return compare(exams, LATER, Options(**options))


def by_place(compared: Compared, number: int) -> Track:
    centre = made_reports.NODULES[number - 1][0]
    tracks = compared.comparison.tracks
    return min(tracks, key=lambda t: float(np.linalg.norm(np.subtract(t.current.place_lps, centre))))


def test_tracks_through_three_examinations(three: tuple[Exam, ...]) -> None:
    compared = made(three)
    first, second, third = (by_place(compared, n) for n in (1, 2, 3))
    assert [t.status for t in (first, second, third)] == ["growing", "resolved", "growing"]
    assert [s.presence for s in second.sightings] == ["found", "found", "absent"]
    assert [s.presence for s in third.sightings] == ["absent", "found", "found"]
    assert first.change is not None and first.change.days == 200.0 and first.compared == 1
    assert first.change.lung_rads == "growing"
    assert first.change.volume_share == pytest.approx((16.5 / 14) ** 3 - 1)
    assert [t.id for t in compared.comparison.tracks] == [1, 2, 3]


def test_new_and_returned(ct: Volume, report: Report) -> None:
    with_two, with_one = {1: 12.0, 2: 9.0}, {1: 12.0}
    new = made([exam(ct, report, 0.0, with_one), exam(ct, report, 90.0, with_two)])
    assert by_place(new, 2).status == "new" and by_place(new, 1).status == "stable"
    days = (0.0, 90.0, 180.0)
    back = made([exam(ct, report, d, s) for d, s in zip(days, (with_two, with_one, with_two), strict=True)])
    track = by_place(back, 2)
    assert track.status == "returned" and track.compared == 0 and track.change is not None


def test_what_the_other_scan_does_not_show_is_not_compared(ct: Volume, report: Report) -> None:
    from nodulens.core.nodule import Box

    upper = Box((20, 0, 0), ct.geometry.shape)  # nodule 2 lies below
    cut = ct.crop(upper)
    assert report.lung_mask is not None
    lungs = Mask(report.lung_mask.labels[upper.slices], cut.geometry, report.lung_mask.names)
    half = Exam(cut, replace(report, nodules=(), lung_mask=lungs), 0.0)
    compared = made([half, exam(ct, report, 90.0, {1: 12.0, 2: 9.0})])
    assert by_place(compared, 2).status == "not comparable"
    assert by_place(compared, 1).status == "new"
    assert "No earlier scan shows its place." in by_place(compared, 2).notes


@pytest.mark.parametrize("bare", [0, 1])
def test_what_has_no_outline_is_not_compared(ct: Volume, report: Report, bare: int) -> None:
    exams = [exam(ct, report, day, {1: size, 2: 9.0}) for day, size in ((0.0, 8.0), (90.0, 16.0))]
    first, *others = exams[bare].report.nodules
    marked = (replace(first, warnings=(NO_OUTLINE,)), *others)
    exams[bare] = replace(exams[bare], report=replace(exams[bare].report, nodules=marked))
    track = by_place(made(exams), 1)
    assert (track.status, track.change) == ("not comparable", None) and "no outline" in track.notes[0]
    assert by_place(made(exams), 2).status == "stable"


def test_parts_count_together_where_nodules_merge(ct: Volume, report: Report) -> None:
    whole = exam(ct, report, 90.0, {1: 16.0}).report.nodules[0]
    parts = [
        replace(resized(whole, 11.0, n), id=n, centre_lps=(whole.centre_lps[0] + dx, *whole.centre_lps[1:]))
        for n, dx in ((1, -3.0), (2, 6.0))
    ]
    before = Exam(ct, replace(report, nodules=tuple(parts)), 0.0)
    compared = made([before, Exam(ct, replace(report, nodules=(whole,)), 90.0)])
    (merged,) = [t for t in compared.comparison.tracks if t.status == "merged"]
    (other,) = [t for t in compared.comparison.tracks if t is not merged]
    assert merged.related == (other.id,) and other.related == (merged.id,)
    assert other.change is not None
    assert other.change.volume_share == pytest.approx(16.0**3 / (2 * 11.0**3) - 1)
    split = made([Exam(ct, replace(report, nodules=(whole,)), 0.0), replace(before, day=90.0)])
    assert sorted(t.status for t in split.comparison.tracks) == ["shrinking", "split"], "less than the whole"


@dataclass(frozen=True)
class Bad:
    quality: Quality
    words: str


BAD = (
    Bad(replace(GOOD, found=0.2), "different"),
    Bad(replace(GOOD, dice=0.6), "Dice of 0.60"),
    Bad(replace(GOOD, overlap=0.1), "too little"),
    Bad(replace(GOOD, forks=5), "cannot be checked"),
)


@pytest.mark.parametrize("bad", BAD, ids=lambda one: one.words)
def test_a_bad_match_is_refused_with_the_reason(
    three: tuple[Exam, ...], monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    monkeypatch.setattr(comparing, "register", lambda *_: Registration(Deformation.identity(), bad.quality))
    with pytest.raises(BadOption, match=bad.words):
        compare(three[:2], LATER)


def test_one_scan_is_refused(three: tuple[Exam, ...]) -> None:
    with pytest.raises(BadOption, match="two scans"):
        compare(three[:1], LATER)


def test_guidelines_take_what_was_compared(ct: Volume, report: Report) -> None:
    exams = [exam(ct, report, 0.0, {1: 7.0}), exam(ct, report, 180.0, {1: 9.0})]
    stated = Answers(PatientFacts(context="screening", age=63))
    found = made(exams, answers=stated).comparison.guidelines
    assert found is not None
    (lung_rads,) = [one for one in found.examination if one.guideline.startswith("Lung-RADS")]
    assert lung_rads.category == "4B", "growing, 8 mm or more"
    with pytest.raises(BadOption, match="prior"):
        made(exams, answers=Answers(PatientFacts(context="screening", prior="none")))
    assert made(exams).comparison.guidelines is None, "without a context nothing is categorised"
    undated = [replace(one, day=None) for one in exams]
    found = made(undated, answers=stated).comparison.guidelines
    assert found is not None and found.examination[0].category is None, "growth is open without the time"


def test_json_and_csv(three: tuple[Exam, ...]) -> None:
    comparison = made(three).comparison
    assert from_json(to_json(comparison)) == comparison
    assert to_csv(comparison).count("\n") == 4


def test_a_growth_curve_needs_three_measurements(three: tuple[Exam, ...]) -> None:
    compared = made(three)
    curve = growth_curve(by_place(compared, 1), compared.exams)
    assert curve is not None and len(curve["dots"]) == 3  # type: ignore[arg-type]
    assert growth_curve(by_place(compared, 3), compared.exams) is None


@pytest.fixture(scope="module")
def page(three: tuple[Exam, ...]) -> str:
    return render_page(made(three, case="CASE-7"))


def test_the_page_says_what_changed(page: str) -> None:
    assert "3 nodules: 2 growing, 1 resolved" in page
    assert "CASE-7" in page and "DOE" not in page
    assert page.count('class="curve"') == 1


def test_a_status_has_one_name(three: tuple[Exam, ...]) -> None:
    comparison = made(three).comparison
    for status in get_args(Status):
        tracks = (replace(comparison.tracks[0], status=status),)
        assert headline(replace(comparison, tracks=tracks)) == f"One nodule: 1 {status}"


@pytest.fixture
def beside(opened: Browser) -> Iterator[Browser]:
    yield opened


def test_the_scans_scroll_together(beside: Browser) -> None:
    def label(side: str) -> str:
        return str(beside.run(f"document.getElementById('{side}-label').textContent"))

    assert label("current") and label("prior")
    beside.run("document.querySelector('#table tbody tr:nth-child(2)').click()")
    before = label("current"), label("prior")
    beside.run(
        "document.getElementById('slice').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}))"
    )
    after = label("current"), label("prior")
    assert all(a != b for a, b in zip(before, after, strict=True)), "both move"
    wheel = "document.getElementById('{}').dispatchEvent(new WheelEvent('wheel', {{deltaMode: 1, deltaY: {}}}))"
    beside.run(wheel.format("prior", 1))
    assert (label("current"), label("prior")) == before, "the wheel over one moves both, and back"
    beside.run("document.getElementById('linked').click()")
    beside.run(wheel.format("prior", -1))
    assert label("current") == before[0] and label("prior") == after[1], "without the link each alone"
    beside.run("document.getElementById('prior').dispatchEvent(new MouseEvent('dblclick'))")
    assert beside.run("document.querySelectorAll('#prior .zoomed').length") == 1
    beside.run("document.getElementById('earlier').value = '0'")
    beside.run("document.getElementById('earlier').dispatchEvent(new Event('change'))")
    assert label("prior")
