"""Clinical guidelines: every cell of every table, boundaries from both sides, and what happens to what is not known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulens.clinical import brock_2013 as brock
from nodulens.clinical import bts_2015 as bts
from nodulens.clinical import fleischner_2017 as fleischner
from nodulens.clinical import herder_2005 as herder
from nodulens.clinical import lung_rads_v2022 as lung_rads
from nodulens.clinical import mayo_1997 as mayo
from nodulens.clinical import nelson_2009 as nelson
from nodulens.clinical.assess import ASK, assess
from nodulens.clinical.enquiry import ranges
from nodulens.clinical.facts import Answers, Case, NoduleAnswers, NoduleFacts, PatientFacts
from nodulens.clinical.record import Result
from nodulens.clinical.sizes import rounded, span, spans, volume_change, volume_doubling_time
from nodulens.errors import BadOption

SCREENED = PatientFacts(context="screening", age=63, sex="female", prior="compared")
ADULT = PatientFacts(
    context="incidental", age=63, sex="male", smoker=True, family_history=False, emphysema=False,
    extrathoracic_cancer=False, immunosuppressed=False, risk="low",
)  # fmt: skip


def lung(kind: str, size: float | None = None, solid: float | None = None, **stated: object) -> Result:
    nodule = NoduleFacts(kind, mean_diameter_mm=size, solid_mm=solid, **stated)  # type: ignore[arg-type]
    return lung_rads.categorise(nodule, SCREENED)


# ---- Sizes


@pytest.mark.parametrize(
    ("value", "decimals", "there"),
    [(5.5, 0, 6), (6.5, 0, 7), (5.4999, 0, 5), (5.95, 1, 6.0), (5.949, 1, 5.9), (8.45, 1, 8.5), (7.75, 1, 7.8)],
)
def test_rounding_is_half_up(value: float, decimals: int, there: float) -> None:
    assert rounded(value, decimals) == there


@pytest.mark.parametrize(
    ("before", "after", "days", "doubling"),
    [(100, 200, 90, 90), (100, 400, 90, 45), (200, 100, 90, -90), (100, 100, 90, math.inf), (100, 125, 100, 310.63)],
)
def test_volume_doubling_time(before: float, after: float, days: float, doubling: float) -> None:
    assert volume_doubling_time(before, after, days) == pytest.approx(doubling, abs=0.01)


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 2, 0), (1, math.nan, 1), (1, math.inf, 1), (1, 2, -3)])
def test_a_doubling_time_needs_what_it_is_made_of(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(BadOption, match="above 0"):
        volume_doubling_time(*wrong)


def test_words_of_spans() -> None:
    assert [span(0, 6), span(6, 8), span(15, math.inf), span(0, math.inf)] == [
        "< 6 mm", "≥ 6 to < 8 mm", "≥ 15 mm", "any size",
    ]  # fmt: skip
    assert [word for word, _ in spans((4, 6, 8))] == ["< 4 mm", "≥ 4 to < 6 mm", "≥ 6 to < 8 mm", "≥ 8 mm"]
    assert [word for word, _ in spans((4, 6, 8), largest=5)] == ["< 4 mm", "≥ 4 to < 6 mm"]
    assert all(value <= 6 for _, value in spans((4, 6, 8), largest=6))
    assert volume_change(100, 125) == 0.25


# ---- Lung-RADS: the table, both sides of each boundary

LUNG_RADS = [
    # kind, mean diameter, solid part, comparison, category
    ("solid", 0.1, None, "baseline", "2"), ("solid", 5.9, None, "baseline", "2"),
    ("solid", 5.94, None, "baseline", "2"), ("solid", 5.95, None, "baseline", "3"),
    ("solid", 6.0, None, "baseline", "3"), ("solid", 7.9, None, "baseline", "3"),
    ("solid", 8.0, None, "baseline", "4A"), ("solid", 14.9, None, "baseline", "4A"),
    ("solid", 15.0, None, "baseline", "4B"), ("solid", 60.0, None, "baseline", "4B"),
    ("solid", 3.9, None, "new", "2"), ("solid", 4.0, None, "new", "3"), ("solid", 5.9, None, "new", "3"),
    ("solid", 6.0, None, "new", "4A"), ("solid", 7.9, None, "new", "4A"), ("solid", 8.0, None, "new", "4B"),
    ("solid", 3.0, None, "growing", "4A"), ("solid", 7.9, None, "growing", "4A"), ("solid", 8.0, None, "growing", "4B"),
    ("solid", 4.0, None, "slowly growing", "4B"), ("solid", 20.0, None, "slowly growing", "4B"),
    ("solid", 9.0, None, "resolved", "2"),
    ("part-solid", 5.9, 5.9, "baseline", "2"), ("part-solid", 5.9, 0.0, "baseline", "2"),
    ("part-solid", 6.0, 5.9, "baseline", "3"), ("part-solid", 40.0, 0.0, "baseline", "3"),
    ("part-solid", 6.0, 6.0, "baseline", "4A"), ("part-solid", 20.0, 7.9, "baseline", "4A"),
    ("part-solid", 20.0, 8.0, "baseline", "4B"),
    ("part-solid", 5.9, 3.9, "new", "3"), ("part-solid", 6.0, 3.9, "new", "4A"), ("part-solid", 6.0, 4.0, "new", "4B"),
    ("part-solid", 5.9, 4.0, "new", "4B"), ("part-solid", 20.0, 0.0, "new", "4A"),
    ("part-solid", 9.0, 2.0, "slowly growing", "4B"), ("part-solid", 9.0, 2.0, "resolved", "2"),
    ("ground-glass", 29.9, None, "baseline", "2"), ("ground-glass", 30.0, None, "baseline", "3"),
    ("ground-glass", 29.9, None, "new", "2"), ("ground-glass", 30.0, None, "new", "3"),
    ("ground-glass", 29.9, None, "growing", "2"), ("ground-glass", 30.0, None, "growing", "3"),
    ("ground-glass", 29.9, None, "stable", "2"), ("ground-glass", 30.0, None, "stable", "2"),
    ("ground-glass", 29.9, None, "slowly growing", "2"), ("ground-glass", 30.0, None, "slowly growing", "2"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "solid", "comparison", "category"), LUNG_RADS)
def test_lung_rads_table(kind: str, size: float, solid: float | None, comparison: str, category: str) -> None:
    result = lung(kind, size, solid, comparison=comparison)
    assert (result.category, result.possible) == (category, (category,))
    assert (result.recommendation, result.next_ct_months) == lung_rads.MANAGEMENT[category]
    assert result.rule and result.cell and not [one for one in result.missing if one.decisive]


@pytest.mark.parametrize(("solid", "category"), [(0.0, "4A"), (3.9, "4A"), (3.95, "4B"), (4.0, "4B"), (12.0, "4B")])
@pytest.mark.parametrize("part", ["new", "growing"])
@pytest.mark.parametrize("comparison", ["growing", "stable"])
def test_new_or_growing_solid_part(solid: float, category: str, part: str, comparison: str) -> None:
    assert lung("part-solid", 12.0, solid, comparison=comparison, solid_part=part).category == category


def test_growth_outside_the_solid_part_goes_by_size() -> None:
    result = lung("part-solid", 12.0, 6.5, comparison="growing", solid_part="stable")
    assert result.category == "4A" and "no cell of its own" in " ".join(result.notes)


@pytest.mark.parametrize(
    ("comparison", "size", "category"),
    [("baseline", 9.9, "2"), ("new", 9.9, "2"), ("new", 5.0, "2"), ("baseline", 10.0, "4A"), ("new", 10.0, "4B"),
     ("growing", 7.0, "4A"), ("slowly growing", 7.0, "4B")],
)  # fmt: skip
def test_juxtapleural(comparison: str, size: float, category: str) -> None:
    assert lung("solid", size, comparison=comparison, juxtapleural=True).category == category


AIRWAY = [
    ("subsegmental", "baseline", "2"), ("subsegmental", "new", "2"), ("subsegmental", "stable", "2"),
    ("subsegmental", "growing", None), ("subsegmental", "slowly growing", None),
    ("segmental", "baseline", "4A"), ("segmental", "new", "4A"), ("segmental", "stable", "4B"),
    ("segmental", "growing", "4B"), ("segmental", "slowly growing", "4B"),
]  # fmt: skip


@pytest.mark.parametrize(("level", "comparison", "category"), AIRWAY)
def test_airway(level: str, comparison: str, category: str | None) -> None:
    stated = {"previous_category": "4A", "months": 3.0} if comparison == "stable" else {}
    result = lung("airway", comparison=comparison, airway=level, **stated)
    assert result.category == category, "and no stepping down"
    assert (category is None) == (result.possible == ()) == ("no rule" in result.recommendation)


CYST = [
    ("thick-walled", "cyst growing", "3"), ("thick-walled", "wall growing", "4B"),
    ("thick-walled", "now multilocular", "4A"), ("thick-walled", "more loculation or opacity", None),
    ("thin-walled", "cyst growing", None), ("thin-walled", "wall growing", None),
    ("thin-walled", "now multilocular", "4A"), ("thin-walled", "more loculation or opacity", None),
    ("multilocular", "cyst growing", "4B"), ("multilocular", "wall growing", None),
    ("multilocular", "now multilocular", "4A"), ("multilocular", "more loculation or opacity", "4B"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "category"), CYST)
@pytest.mark.parametrize("comparison", ["growing", "slowly growing"])
def test_cysts_that_changed(kind: str, change: str, category: str | None, comparison: str) -> None:
    assert lung("cyst", comparison=comparison, cyst=kind, cyst_change=change).category == category


@pytest.mark.parametrize("comparison", ["baseline", "new"])
def test_cysts_at_first_sight(comparison: str) -> None:
    assert lung("cyst", comparison=comparison, cyst="thick-walled").category == "4A"
    assert lung("cyst", comparison=comparison, cyst="multilocular").category == "4A"
    thin = lung("cyst", comparison=comparison, cyst="thin-walled")
    assert (thin.category, thin.rule) == (None, lung_rads.NOT_CATEGORISED)


STEPS = [
    ("3", 5.9, "3"), ("3", 6.0, "2"), ("3", 12.0, "2"), ("4A", 2.9, "4A"), ("4A", 3.0, "3"), ("4A", 12.0, "3"),
    ("4B", 12.0, "4B"), ("2", 12.0, "2"),
]  # fmt: skip


@pytest.mark.parametrize(("previous", "months", "category"), STEPS)
@pytest.mark.parametrize(
    "nodule",
    [("solid", 9.0, None, {}), ("part-solid", 9.0, 7.0, {"solid_part": "stable"}),
     ("cyst", None, None, {"cyst": "thick-walled", "cyst_change": "none"})],
)  # fmt: skip
def test_stepped_management(previous: str, months: float, category: str, nodule: tuple) -> None:  # type: ignore[type-arg]
    kind, size, solid, stated = nodule
    result = lung(kind, size, solid, comparison="stable", previous_category=previous, months=months, **stated)
    assert result.category == category


@pytest.mark.parametrize(
    ("before", "now", "category"),
    [(5.8, 5.9, "2"), (5.8, 6.0, "3"), (6.2, 7.4, "2"), (7.9, 8.1, "4A"), (8.1, 7.0, "2")],
)
def test_a_size_threshold_crossed_without_growth(before: float, now: float, category: str) -> None:
    stated = {"previous_category": "2", "months": 12.0, "previous_mm": before}
    assert lung("solid", now, comparison="stable", **stated).category == category


def test_what_only_a_person_says() -> None:
    assert lung("solid", 20.0, comparison="growing", benign=True).category == "1"
    assert lung("solid", 20.0, comparison="growing", proven_benign=True).category == "2"
    assert lung("solid", 5.0, comparison="baseline", suspicious=True).category == "2", "4X is for 3 and 4"
    for size in (7.0, 9.0, 15.0):
        result = lung("solid", size, comparison="baseline", suspicious=True)
        assert result.category == "4X" and result.recommendation == lung_rads.MANAGEMENT["4B"][0]
    unstated = [c for size in (5.0, 7.0, 9.0, 16.0) for c in lung("solid", size).possible]
    assert not {"0", "1", "4X"} & set(unstated)


@pytest.mark.parametrize(
    ("long_axis", "short_axis", "mean"), [(8.04, 7.94, 8.0), (6.05, 5.85, 6.0), (5.94, 5.85, 5.9), (12.0, 9.1, 10.6)]
)
def test_mean_diameter_has_one_decimal(long_axis: float, short_axis: float, mean: float) -> None:
    """8.04 and 7.94 become 8.0 and 7.9, whose mean of 7.95 rounds up; floats must not round it down."""
    assert lung_rads.mean_diameter(long_axis, short_axis) == mean
    nodule = NoduleFacts("solid", 1.0, long_axis, short_axis_mm=short_axis)
    assert f"{mean:.1f} mm" in lung_rads.categorise(nodule, SCREENED).notes[0], "the axes count where they are known"


CHANGES = [
    ([(0, 6.0), (12, 7.5)], "stable"), ([(0, 6.0), (12, 7.6)], "growing"), ([(0, 6.0), (3, 7.6)], "growing"),
    ([(0, 6.0), (24, 7.6)], "stable"), ([(0, 6.0), (24, 9.0)], "stable"), ([(0, 6.0), (24, 9.1)], "growing"),
    ([(0, 8.0), (6, 5.0)], "stable"), ([(0, 5.0), (12, 6.0), (24, 7.0)], "slowly growing"),
    ([(0, 5.0), (12, 5.7), (24, 6.4)], "stable"), ([(0, 5.0), (12, 7.0), (24, 7.0)], "stable"),
    ([(0, 5.0), (6, 6.0), (12, 6.6)], "growing"), ([(0, 5.0), (12, 5.8), (24, 6.6)], "slowly growing"),
]  # fmt: skip


@pytest.mark.parametrize(("exams", "there"), CHANGES)
def test_growth_by_lung_rads(exams: list[tuple[float, float]], there: str) -> None:
    assert lung_rads.change(exams) == there


@pytest.mark.parametrize("wrong", [[], [(0, 5.0)], [(0, 5.0), (0, 6.0)], [(3, 5.0), (0, 6.0)]])
def test_a_comparison_needs_two_times(wrong: list[tuple[float, float]]) -> None:
    with pytest.raises(BadOption, match="order of time"):
        lung_rads.change(wrong)


# ---- Lung-RADS: what is open, and the examination


def test_every_value_of_what_is_missing_is_listed() -> None:
    result = lung("solid", 7.0)
    assert result.category is None and result.possible == ("2", "3", "4A", "4B") and result.next_ct_months is None
    asked = {one.input: one for one in result.missing}
    assert asked["comparison"].decisive and "--prior none" in asked["comparison"].ask
    assert {o.value: o.categories for o in asked["comparison"].outcomes} == {
        "baseline": ("3",), "new": ("4A",), "growing": ("4A",), "slowly growing": ("4B",),
        "stable or smaller": ("2", "3", "4A", "4B"),
    }  # fmt: skip
    assert not asked["benign"].decisive


def test_no_prior_ct_is_baseline() -> None:
    result = lung_rads.categorise(NoduleFacts("solid", 7.0), replace(SCREENED, prior="none"))
    assert result.category == "3"
    assert {one.input: {o.value: o.categories for o in one.outcomes} for one in result.missing} == {
        "juxtapleural": {"yes": ("2",), "no": ("3",)},
        "benign": {"yes": ("1",), "no": ("3",)},
        "suspicious": {"yes": ("4X",), "no": ("3",)},
        "proven_benign": {"yes": ("2",), "no": ("3",)},
    }


def test_without_a_prior_ct_nothing_is_compared() -> None:
    for comparison in ("new", "growing", "slowly growing", "stable", "resolved"):
        with pytest.raises(BadOption, match="at baseline"):
            lung_rads.categorise(NoduleFacts("solid", 7.0, comparison=comparison), replace(SCREENED, prior="none"))  # type: ignore[arg-type]
        with pytest.raises(BadOption, match="at baseline"):
            Answers(PatientFacts(prior="none"), {2: NoduleAnswers(comparison=comparison)})  # type: ignore[arg-type]


def test_the_solid_part_is_asked_for_within_its_nodule() -> None:
    small, large = lung("part-solid", 5.0, comparison="new"), lung("part-solid", 7.0, comparison="baseline")
    assert small.possible == ("3", "4B")
    assert [o.value for o in small.missing[0].outcomes] == ["< 4 mm", "≥ 4 to < 6 mm"]
    assert large.possible == ("3", "4A")
    assert lung("part-solid", 5.0, comparison="baseline").category == "2", "and not where it changes nothing"


def test_lung_rads_needs_a_size() -> None:
    with pytest.raises(BadOption, match="--diameter"):
        lung("solid")


NODULES = {category: lung("solid", size, comparison="baseline") for category, size in
           {"2": 5.0, "3": 7.0, "4A": 9.0, "4B": 16.0}.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "worst"), [("2", "2"), ("2 3", "3"), ("4A 3 2", "4A"), ("3 4B 4A", "4B"), ("3 3", "3")]
)
def test_the_worst_nodule_counts(inside: str, worst: str) -> None:
    result = lung_rads.examination([NODULES[name] for name in inside.split()], SCREENED)
    assert result.category == worst and result.next_ct_months == lung_rads.MANAGEMENT[worst][1]
    assert result.cell == f"{NODULES[worst].rule}: {NODULES[worst].cell}"


def test_an_examination_with_an_open_nodule() -> None:
    open_ = lung("solid", 7.0)
    assert lung_rads.examination([open_, NODULES["2"]], SCREENED).possible == ("2", "3", "4A", "4B")
    assert lung_rads.examination([open_, NODULES["4A"]], SCREENED).possible == ("4A", "4B")
    decided = lung_rads.examination([open_, NODULES["4B"]], SCREENED)
    assert decided.category == "4B", "whatever the open one is"


def test_an_examination_without_nodules_is_1_only_by_a_person() -> None:
    nothing = lung_rads.examination([], SCREENED)
    assert nothing.category is None and "for a reader" in nothing.recommendation
    assert lung_rads.examination([], replace(SCREENED, no_nodule=True)).category == "1"
    thin = lung("cyst", comparison="baseline", cyst="thin-walled")
    assert lung_rads.examination([thin, NODULES["3"]], SCREENED).category == "3"
    assert lung_rads.examination([thin], SCREENED).category is None


@pytest.mark.parametrize("reason", lung_rads.INCOMPLETE)
def test_category_0_is_stated(reason: str) -> None:
    result = lung_rads.examination([NODULES["4B"]], replace(SCREENED, incomplete=reason))  # type: ignore[arg-type]
    assert result.category == "0" and result.cell == reason
    assert result.next_ct_months == ((1, 3) if reason == "signs of infection" else None)


def test_modifier_s() -> None:
    stated = replace(SCREENED, other_finding=True)
    assert lung_rads.examination([NODULES["3"]], stated).category == "3S"
    assert lung_rads.examination([lung("solid", 7.0)], stated).possible == ("2S", "3S", "4AS", "4BS")


# ---- Fleischner

SOLID = [
    # size, nodules, low risk, high risk
    (5.4, 1, fleischner.NONE, fleischner.OPTIONAL), (5.5, 1, fleischner.LATE_LOW, fleischner.LATE),
    (8.4, 1, fleischner.LATE_LOW, fleischner.LATE), (8.5, 1, fleischner.SOON, fleischner.SOON),
    (5.4, 2, fleischner.NONE, fleischner.OPTIONAL), (5.5, 2, fleischner.MANY_LOW, fleischner.MANY),
    (8.4, 2, fleischner.MANY_LOW, fleischner.MANY), (8.5, 5, fleischner.MANY_LOW, fleischner.MANY),
]  # fmt: skip


@pytest.mark.parametrize(("size", "count", "low", "high"), SOLID)
def test_fleischner_solid(size: float, count: int, low: str, high: str) -> None:
    nodule = NoduleFacts("solid", size, count=count, count_of_class=count)
    for risk, category in (("low", low), ("high", high)):
        result = fleischner.recommend(nodule, replace(ADULT, risk=risk))  # type: ignore[arg-type]
        assert result.category == category
        assert (result.recommendation, result.next_ct_months) == fleischner.MANAGEMENT[category]
    unknown = fleischner.recommend(nodule, replace(ADULT, risk=None))
    assert unknown.possible == tuple(sorted({low, high}, key=fleischner.ORDER.index))
    assert ("risk" in {one.input for one in unknown.missing}) == (low != high)


SUBSOLID = [
    ("ground-glass", 5.4, None, 1, fleischner.NONE), ("ground-glass", 5.5, None, 1, fleischner.GROUND_GLASS),
    ("ground-glass", 40.0, None, 1, fleischner.GROUND_GLASS),
    ("part-solid", 5.4, 5.0, 1, fleischner.NONE), ("part-solid", 5.5, 5.4, 1, fleischner.PART_SOLID),
    ("part-solid", 20.0, 5.4, 1, fleischner.PART_SOLID), ("part-solid", 20.0, 5.5, 1, fleischner.PART_SOLID_LARGE),
    ("ground-glass", 5.4, None, 2, fleischner.MANY_SUBSOLID_SMALL),
    ("ground-glass", 5.5, None, 2, fleischner.MANY_SUBSOLID),
    ("part-solid", 5.4, 2.0, 3, fleischner.MANY_SUBSOLID_SMALL), ("part-solid", 5.5, 2.0, 3, fleischner.MANY_SUBSOLID),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "solid", "count", "category"), SUBSOLID)
def test_fleischner_subsolid(kind: str, size: float, solid: float | None, count: int, category: str) -> None:
    nodule = NoduleFacts(kind, size, solid_mm=solid, count=count, count_of_class=count)  # type: ignore[arg-type]
    result = fleischner.recommend(nodule, replace(ADULT, risk=None))
    assert result.category == category
    assert (result.recommendation, result.next_ct_months) == fleischner.MANAGEMENT[category]


@pytest.mark.parametrize(
    ("volume", "row"), [(99.9, "< 6 mm"), (100.0, "6 to 8 mm"), (250.0, "6 to 8 mm"), (250.1, "> 8 mm")]
)
def test_fleischner_by_volume(volume: float, row: str) -> None:
    assert fleischner.size_class(NoduleFacts("solid", volume_mm3=volume)) == row
    both = fleischner.recommend(NoduleFacts("solid", 7.0, volume_mm3=volume, count_of_class=1), ADULT)
    assert ("another row" in " ".join(both.notes)) == (row != "6 to 8 mm")


@pytest.mark.parametrize(
    ("stated", "reason"),
    [({"age": 34}, "younger"), ({"age": 35}, None), ({"extrathoracic_cancer": True}, "cancer"),
     ({"immunosuppressed": True}, "immuno"), ({"context": "screening"}, "screening")],
)  # fmt: skip
def test_whom_fleischner_is_for(stated: dict[str, object], reason: str | None) -> None:
    result = fleischner.recommend(NoduleFacts("solid", 7.0, count_of_class=1), replace(ADULT, **stated))  # type: ignore[arg-type]
    assert (result.category == fleischner.NOT_APPLICABLE) == (reason is not None)
    assert reason is None or reason in result.cell


def test_fleischner_says_what_was_not_stated() -> None:
    result = fleischner.recommend(NoduleFacts("solid", 7.0), PatientFacts(context="incidental"))
    assert set(result.possible) == {fleischner.LATE_LOW, fleischner.LATE, fleischner.MANY_LOW, fleischner.MANY}
    asked = {one.input: one.decisive for one in result.missing}
    assert asked == {
        "count_of_class": True, "risk": True, "age": False, "extrathoracic_cancer": False, "immunosuppressed": False,
    }  # fmt: skip


# ---- BTS

BTS_SOLID = [
    (4.9, None, bts.DISCHARGE), (5.0, None, bts.ONE_YEAR), (5.9, None, bts.ONE_YEAR), (6.0, None, bts.THREE_MONTHS),
    (7.9, None, bts.THREE_MONTHS), (20.0, 79.9, bts.DISCHARGE), (4.0, 80.0, bts.THREE_MONTHS),
    (4.0, 299.9, bts.THREE_MONTHS),
]  # fmt: skip


@pytest.mark.parametrize(("diameter", "volume", "category"), BTS_SOLID)
def test_bts_small_solid(diameter: float, volume: float | None, category: str) -> None:
    result = bts.recommend(NoduleFacts("solid", long_axis_mm=diameter, volume_mm3=volume), PatientFacts())
    assert result.category == category
    assert (result.recommendation, result.next_ct_months) == bts.MANAGEMENT[category]


@pytest.mark.parametrize("volume", [None, 300.0])
@pytest.mark.parametrize(
    ("brock_risk", "herder_risk", "uptake", "category"),
    [
        (0.0999, 0.9, None, bts.THREE_MONTHS), (0.10, 0.9, None, bts.PET), (0.5, 0.0999, "faint", bts.THREE_MONTHS),
        (0.5, 0.10, "faint", bts.BIOPSY), (0.5, 0.70, "faint", bts.BIOPSY), (0.5, 0.7001, "faint", bts.TREAT),
        (0.0999, 0.9, "intense", bts.THREE_MONTHS),
    ],
)  # fmt: skip
def test_bts_by_risk(
    monkeypatch: pytest.MonkeyPatch, volume: float | None, brock_risk: float, herder_risk: float, uptake: str | None,
    category: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(brock, "probability", lambda *_: brock_risk)
    monkeypatch.setattr(herder, "after_pet", lambda *_: herder_risk)
    nodule = NoduleFacts(
        "solid", long_axis_mm=8.0, volume_mm3=volume, upper_lobe=True, count=1, spiculated=True,
        fdg_uptake=uptake,  # type: ignore[arg-type]
    )  # fmt: skip
    assert bts.recommend(nodule, ADULT).category == category


def test_bts_risk_starts_at_its_size() -> None:
    known = {"upper_lobe": True, "count": 1}
    assert "Brock" not in bts.recommend(NoduleFacts("solid", long_axis_mm=7.9, **known), ADULT).cell  # type: ignore[arg-type]
    assert "Brock" in bts.recommend(NoduleFacts("solid", long_axis_mm=8.0, **known), ADULT).cell  # type: ignore[arg-type]


def test_bts_asks_for_what_the_models_take() -> None:
    result = bts.recommend(NoduleFacts("solid", long_axis_mm=10.0), PatientFacts())
    assert result.possible == (bts.THREE_MONTHS, bts.PET)
    decisive = {one.input for one in result.missing if one.decisive}
    assert decisive == {"age", "sex", "family_history", "emphysema", "upper_lobe", "count"}
    after = bts.recommend(NoduleFacts("solid", long_axis_mm=10.0, fdg_uptake="intense"), PatientFacts())
    assert {one.input for one in after.missing if one.decisive} == decisive | {
        "smoker", "extrathoracic_cancer", "spiculated",
    }  # fmt: skip
    assert bts.TREAT in after.possible and bts.PET not in after.possible
    tiny = bts.recommend(NoduleFacts("solid", long_axis_mm=4.0), PatientFacts())
    assert tiny.category == bts.DISCHARGE and not tiny.missing


MONTH = bts.DAYS_A_MONTH
SURVEILLANCE = [
    # months, volume change, earlier diameter (now 10 mm), category
    (3, 0.249, None, bts.ONE_YEAR), (12, 0.249, None, bts.DISCHARGE), (11.9, 0.0, None, bts.ONE_YEAR),
    (3, None, 8.1, bts.ONE_YEAR), (12, None, 8.1, bts.TWO_YEARS), (23.9, None, 8.1, bts.TWO_YEARS),
    (24, None, 8.1, bts.DISCHARGE), (12, None, 12.0, bts.TWO_YEARS), (12, None, 8.0, bts.WORK_UP),
    (12, 2 ** (12 * MONTH / 400) - 1, None, bts.WORK_UP), (12, 2 ** (12 * MONTH / 401) - 1, None, bts.BIOPSY_OR_CT),
    (12, 2 ** (12 * MONTH / 599) - 1, None, bts.BIOPSY_OR_CT),
    (12, 2 ** (12 * MONTH / 601) - 1, None, bts.DISCHARGE_OR_CT),
    (3, 0.25, None, bts.WORK_UP), (6, 2 ** (6 * MONTH / 500) - 1, None, bts.ONE_YEAR),
    (11, 2 ** (11 * MONTH / 700) - 1, None, bts.ONE_YEAR),
]  # fmt: skip


@pytest.mark.parametrize(("months", "change", "before", "category"), SURVEILLANCE)
def test_bts_solid_surveillance(months: float, change: float | None, before: float | None, category: str) -> None:
    nodule = NoduleFacts("solid", long_axis_mm=10.0, months=months, volume_change=change, previous_long_axis_mm=before)
    assert bts.recommend(nodule, ADULT).category == category


BTS_SUBSOLID = [
    (None, None, None, 4.9, bts.DISCHARGE), (None, None, None, 5.0, bts.THREE_MONTHS),
    (2.9, 10.0, "stable", 10.0, bts.THREE_MONTHS), (3, 8.1, "new", 10.0, bts.TREAT),
    (3, 8.1, "growing", 10.0, bts.TREAT), (3, 8.0, "stable", 10.0, bts.TREAT), (3, 8.1, "stable", 10.0, "risk"),
    (47.9, 10.0, "stable", 10.0, "risk"), (48, 10.0, "stable", 10.0, bts.DISCHARGE),
]  # fmt: skip


@pytest.mark.parametrize(("months", "before", "part", "now", "category"), BTS_SUBSOLID)
@pytest.mark.parametrize("risk", [0.0999, 0.10])
def test_bts_subsolid(
    monkeypatch: pytest.MonkeyPatch, months: float | None, before: float | None, part: str | None, now: float,
    category: str, risk: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(brock, "probability", lambda *_: risk)
    nodule = NoduleFacts(
        "part-solid", long_axis_mm=now, months=months, previous_long_axis_mm=before, solid_part=part,  # type: ignore[arg-type]
        upper_lobe=False, count=1,
    )  # fmt: skip
    there = {0.0999: bts.FOUR_YEARS, 0.10: bts.OPTIONS}[risk] if category == "risk" else category
    assert bts.recommend(nodule, ADULT).category == there


def test_a_nodule_that_was_there_before_is_not_silently_a_first_one() -> None:
    nodule = NoduleFacts("solid", 7.0, 7.5, comparison="stable", count_of_class=1)
    assert "Taken as on the first CT" in bts.recommend(nodule, ADULT).notes[-1]
    assert "first shows a nodule" in fleischner.recommend(nodule, ADULT).notes[-1]
    known = replace(nodule, months=12.0, previous_long_axis_mm=7.0)
    assert not any("first CT" in note for note in bts.recommend(known, ADULT).notes)


def test_bts_exceptions() -> None:
    for stated in ({"benign": True}, {"comparison": "resolved"}):
        assert bts.recommend(NoduleFacts("solid", long_axis_mm=20.0, **stated), ADULT).category == bts.DISCHARGE  # type: ignore[arg-type]
    near = {"juxtapleural": True, "upper_lobe": True, "count": 1}
    assert bts.recommend(NoduleFacts("solid", long_axis_mm=9.9, **near), ADULT).category == bts.DISCHARGE  # type: ignore[arg-type]
    assert bts.recommend(NoduleFacts("solid", long_axis_mm=10.0, **near), ADULT).category != bts.DISCHARGE  # type: ignore[arg-type]
    assert bts.recommend(NoduleFacts("solid", 7.0), ADULT).possible == ()
    with pytest.raises(BadOption, match="--months"):
        bts.recommend(NoduleFacts("solid", long_axis_mm=7.0, volume_change=0.3), ADULT)


# ---- Models


def test_brock_of_the_published_calculator() -> None:
    """Vectors of the calculator that goes with the paper: 0.1919 and 0.0011."""
    woman = NoduleFacts("solid", long_axis_mm=10.0, upper_lobe=True, count=1, spiculated=True)
    facts = {"family_history": False, "emphysema": False}
    assert brock.probability(woman, PatientFacts(age=60, sex="female", **facts)) == pytest.approx(0.1919, abs=5e-5)
    man = NoduleFacts("solid", long_axis_mm=4.0, upper_lobe=False, count=4, spiculated=False)
    assert brock.probability(man, PatientFacts(age=62, sex="male", **facts)) == pytest.approx(0.0011, abs=5e-5)


BROCK = {
    "constant": (-6.8071, -6.7892), "age": (0.0321, 0.0287), "female": (0.5635, 0.6011), "history": (0.3013, 0.2961),
    "emphysema": (0.3462, 0.2953), "size": (-5.6693, -5.3854), "part-solid": (0.3395, 0.3770),
    "ground-glass": (-0.3055, -0.1276), "upper": (0.7116, 0.6581), "count": (-0.0803, -0.0824), "spic": (0, 0.7729),
}  # fmt: skip
"""The published coefficients again, without and with spiculation, for a second implementation."""


@given(
    st.integers(18, 100), st.floats(3, 40), st.integers(1, 20), st.lists(st.booleans(), min_size=4, max_size=4),
    st.sampled_from(["solid", "part-solid", "ground-glass"]), st.sampled_from([None, False, True]),
)  # fmt: skip
@settings(deadline=None)
def test_brock_again(age: int, size: float, count: int, flags: list[bool], kind: str, spiculated: bool | None) -> None:
    female, history, emphysema, upper = flags
    c = {name: pair[spiculated is not None] for name, pair in BROCK.items()}
    x = c["constant"] + c["age"] * (age - 62) + c["size"] * (math.sqrt(10 / size) - math.sqrt(10 / 4))
    x += c["female"] * female + c["history"] * history + c["emphysema"] * emphysema + c["upper"] * upper
    x += c["count"] * (count - 4) + (c[kind] if kind != "solid" else 0) + c["spic"] * bool(spiculated)
    nodule = NoduleFacts(kind, long_axis_mm=size, upper_lobe=upper, count=count, spiculated=spiculated)  # type: ignore[arg-type]
    patient = PatientFacts(age=age, sex="female" if female else "male", family_history=history, emphysema=emphysema)
    assert brock.probability(nodule, patient) == pytest.approx(math.exp(x) / (1 + math.exp(x)), rel=1e-6)
    assert brock.estimated(nodule, patient).probability == brock.probability(nodule, patient)


@pytest.mark.parametrize(
    ("age", "smoker", "cancer", "size", "spiculated", "upper", "there"),
    [
        (63, True, False, 15.0, False, True, -6.8272 + 0.0391 * 63 + 0.7917 + 0.1274 * 15 + 0.7838),
        (50, False, True, 8.0, True, False, -6.8272 + 0.0391 * 50 + 1.3388 + 0.1274 * 8 + 1.0407),
        (70, False, False, 4.0, False, False, -6.8272 + 0.0391 * 70 + 0.1274 * 4),
    ],
)
def test_mayo(age: int, smoker: bool, cancer: bool, size: float, spiculated: bool, upper: bool, there: float) -> None:
    nodule = NoduleFacts("solid", long_axis_mm=size, spiculated=spiculated, upper_lobe=upper)
    patient = PatientFacts(age=age, smoker=smoker, extrathoracic_cancer=cancer)
    assert mayo.probability(nodule, patient) == pytest.approx(math.exp(there) / (1 + math.exp(there)))


@pytest.mark.parametrize(("uptake", "term"), [("absent", 0), ("faint", 2.322), ("moderate", 4.617), ("intense", 4.771)])
def test_herder(uptake: str, term: float) -> None:
    nodule = NoduleFacts("solid", long_axis_mm=15.0, spiculated=True, upper_lobe=True, fdg_uptake=uptake)  # type: ignore[arg-type]
    x = -4.739 + 3.691 * mayo.probability(nodule, ADULT) + term
    assert herder.estimated(nodule, ADULT).probability == pytest.approx(math.exp(x) / (1 + math.exp(x)))


def test_herder_over_every_uptake() -> None:
    nodule = NoduleFacts("solid", long_axis_mm=15.0, spiculated=True, upper_lobe=True)
    found = herder.estimated(nodule, ADULT)
    assert found.probability is None and [one.input for one in found.missing] == ["fdg_uptake"]
    ends = [o.probability for o in found.missing[0].outcomes]
    assert (found.lowest, found.highest) == (ends[0][0], ends[-1][1])  # type: ignore[index]


FACTS = {
    "age": [None, 20, 63, 100], "sex": [None, "female", "male"], "family_history": [None, True],
    "emphysema": [None, False],
}  # fmt: skip


@pytest.mark.parametrize("values", list(product(*FACTS.values())))
@pytest.mark.parametrize("spiculated", [None, True])
def test_ranges_are_those_of_all_values(values: tuple, spiculated: bool | None) -> None:  # type: ignore[type-arg]
    """The short cut over log odds against every combination."""
    patient = PatientFacts(**dict(zip(FACTS, values, strict=True)))
    nodule = NoduleFacts("part-solid", long_axis_mm=12.0, count=2, spiculated=spiculated)
    found = brock.estimated(nodule, patient)
    ages = [20, 100] if patient.age is None else [patient.age]
    every = [
        brock.probability(
            replace(nodule, upper_lobe=upper),
            replace(patient, age=age, sex=sex, family_history=history, emphysema=emphysema),  # type: ignore[arg-type]
        )
        for age, sex, history, emphysema, upper in product(
            ages,
            ["female", "male"] if patient.sex is None else [patient.sex],
            [True, False] if patient.family_history is None else [patient.family_history],
            [True, False] if patient.emphysema is None else [patient.emphysema],
            [True, False],
        )
    ]
    assert (found.lowest, found.highest) == (pytest.approx(min(every)), pytest.approx(max(every)))
    asked = {one.input: one for one in found.missing}
    assert [o.value for o in asked["upper_lobe"].outcomes] == ["yes", "no"]
    assert max(o.probability[1] for o in asked["upper_lobe"].outcomes) == pytest.approx(max(every))  # type: ignore[index]
    assert ("spiculated" in asked) == (spiculated is None)


def test_a_model_without_its_size_is_open() -> None:
    for model in (brock.estimated, mayo.estimated, herder.estimated):
        found = model(NoduleFacts("solid", 9.0), ADULT)
        assert found.probability is found.lowest is None and found.missing[0].input == "long_axis_mm"
        assert not model(NoduleFacts("airway"), ADULT).missing
    case = Case(NoduleFacts("solid", long_axis_mm=9.0, upper_lobe=True, count=1), ADULT)
    assert ranges(lambda one: brock.probability(one.nodule, one.patient), case, brock.QUESTIONS)[1] == {}


@pytest.mark.parametrize(
    ("after", "days", "category"),
    [
        (124.9, 90, nelson.NO_GROWTH), (90.0, 90, nelson.NO_GROWTH), (125.0, 90, nelson.FAST),
        (200.0, 399.9, nelson.FAST), (200.0, 400.0, nelson.INTERMEDIATE), (200.0, 600.0, nelson.INTERMEDIATE),
        (200.0, 600.1, nelson.SLOW),
    ],
)  # fmt: skip
def test_nelson(after: float, days: float, category: str) -> None:
    result = nelson.growth(100.0, after, days)
    assert result.category == category and result.recommendation == nelson.MANAGEMENT[category]


# ---- All of them


def test_the_context_chooses_the_guidelines() -> None:
    nodules = {1: NoduleFacts("solid", 7.0, 7.5, count=2, count_of_class=1), 2: NoduleFacts("ground-glass", 9.0, 9.5)}
    screening = assess(replace(SCREENED, prior="none"), nodules)
    assert [one.guideline for one in screening.examination] == [lung_rads.NAME, bts.NAME]
    assert screening.examination[0].category == "3" and screening.examination[0].notes == ("By nodule 1.",)
    assert screening.examination[1].notes[0] == "By nodule 1." and not screening.examination[1].missing
    other = assess(replace(SCREENED, prior="none", other_finding=True), nodules).examination[0]
    assert other.category == "3S" and other.notes[0] == "By nodule 1."
    assert [one.model for one in screening.nodules[0].estimates] == [brock.NAME]
    incidental = assess(ADULT, nodules)
    assert [one.guideline for one in incidental.nodules[1].results] == [fleischner.NAME, bts.NAME]
    assert [one.model for one in incidental.nodules[1].estimates] == [brock.NAME, mayo.NAME]
    with_pet = assess(ADULT, {1: replace(nodules[1], fdg_uptake="faint")})
    assert [one.model for one in with_pet.nodules[0].estimates] == [brock.NAME, mayo.NAME, herder.NAME]
    with pytest.raises(BadOption, match="--context screening"):
        assess(PatientFacts(), nodules)
    assert "--context incidental" in ASK


def test_no_nodules() -> None:
    assert [one.category for one in assess(SCREENED, {}).examination] == [None]
    assert assess(ADULT, {}).examination == ()


@pytest.mark.parametrize(
    "wrong",
    [{"mean_diameter_mm": 0.0}, {"long_axis_mm": math.nan}, {"volume_mm3": -1.0}, {"months": -1.0}, {"count": 0},
     {"solid_mm": 3.0}, {"count": 2, "count_of_class": 3}, {"volume_change": -1.0}],
)  # fmt: skip
def test_facts_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption):
        NoduleFacts("solid", **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="larger than its nodule"):
        NoduleFacts("part-solid", 6.0, solid_mm=6.1)
    with pytest.raises(BadOption, match="0 to 120"):
        PatientFacts(age=121)


@given(
    st.sampled_from(["solid", "part-solid", "ground-glass"]), st.floats(1, 60), st.floats(0, 1),
    st.sampled_from(["baseline", "new", "growing", "slowly growing", "stable", "resolved", None]),
)  # fmt: skip
@settings(deadline=None)
def test_every_nodule_gets_a_result_or_a_question(kind: str, size: float, share: float, comparison: str | None) -> None:
    solid = size * share if kind == "part-solid" else None
    nodule = NoduleFacts(kind, size, size, solid_mm=solid, comparison=comparison)  # type: ignore[arg-type]
    for result in (
        lung_rads.categorise(nodule, SCREENED),
        fleischner.recommend(nodule, ADULT),
        bts.recommend(nodule, ADULT),
    ):
        decisive = [one for one in result.missing if one.decisive]
        assert (result.category is None) == (len(result.possible) > 1)
        assert result.category is not None or decisive
        assert result.category is None or result.possible == (result.category,)
