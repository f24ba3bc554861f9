"""Comparing examinations: what is known of numbers alone, without a scan."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import made_reports
from nodulens.core.geometry import Geometry
from nodulens.core.volume import Study, Volume
from nodulens.data.follow_up import breathing
from nodulens.errors import BadOption
from nodulens.followup.change import Measured, changed
from nodulens.followup.exam import check_distinct, check_patients, in_time, study_date
from nodulens.followup.pairing import Mark, pair
from nodulens.followup.repeatability import LEAST, SPREADS, SURE, log_interval, spread_of
from nodulens.ops.deform import Deformation

# ---- Deformations


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_inverse_of_a_breath_leads_back(seed: int) -> None:
    breath = breathing(((-150.0, -100.0, -120.0), (150.0, 100.0, 140.0)), seed=seed)
    points = np.random.default_rng(seed).uniform((-150, -100, -120), (150, 100, 140), (50, 3))
    assert np.abs(breath.at(breath.inverse_at(points)) - points).max() < 0.05
    assert np.abs(breath.inverse_at(breath.at(points)) - points).max() < 0.05
    moved = [(breath.at(points + e) - breath.at(points - e)) / 4 for e in 2 * np.eye(3)]
    assert (np.linalg.det(np.stack(moved, axis=-1)) > 0.3).all(), "nothing folds"


def test_a_deformation_takes_labels_where_it_takes_points() -> None:
    grid = Geometry.axial((20, 24, 28), (2.0, 1.5, 1.5), (-20.0, -17.0, -19.0))
    image = np.zeros(grid.shape, np.uint8)
    image[12, 15, 9] = 1
    moved = Deformation(np.eye(3), np.array([3.0, 0.0, -4.0]), grid, np.zeros((*grid.shape, 3), np.float32))
    (there,) = np.argwhere(moved.warped(image, grid, grid, order=0, fill=0))
    assert np.allclose(moved.at(grid.to_lps(there)), grid.to_lps((12, 15, 9)))


def test_a_deformation_is_checked() -> None:
    grid = Geometry.axial((2, 2, 2))
    with pytest.raises(BadOption, match="three numbers"):
        Deformation(np.eye(3), np.zeros(3), grid, np.zeros((2, 2, 2), np.float32))
    with pytest.raises(BadOption, match="invertible"):
        Deformation(np.zeros((3, 3)), np.zeros(3), grid, np.zeros((2, 2, 2, 3), np.float32))


# ---- Pairs


def marks(*rows: tuple[float, float, float, float]) -> list[Mark]:
    return [Mark((x, y, z), d) for x, y, z, d in rows]


def test_pairs_are_those_that_cost_least_together() -> None:
    # the nearest neighbour alone would take the middle one for both
    before = marks((0, 0, 0, 6), (8, 0, 0, 6))
    after = marks((5, 0, 0, 6), (12, 0, 0, 6))
    assert pair(before, after) == [(0, 0), (1, 1)]


def test_size_decides_between_equal_places() -> None:
    assert pair(marks((0, 0, 0, 10)), marks((2, 0, 0, 4), (-2, 0, 0, 11))) == [(0, 1)]


def test_far_nodules_stay_alone() -> None:
    assert pair(marks((0, 0, 0, 6)), marks((30, 0, 0, 6))) == []
    assert pair([], marks((0, 0, 0, 6))) == []


@given(st.permutations(range(5)))
def test_the_order_of_nodules_does_not_matter(order: list[int]) -> None:
    before = marks(*((20.0 * i, 0.0, 5.0 * i, 5.0 + i) for i in range(5)))
    after = [replace(before[i], diameter_mm=before[i].diameter_mm * 1.1) for i in order]
    assert pair(before, after) == [(i, order.index(i)) for i in range(5)]


# ---- Change


def ball(diameter: float, day: float | None = 0.0, slice_mm: float = 1.0, hu: float = 20.0) -> Measured:
    nodule = made_reports.report(made_reports.scan(), 1).nodules[0]
    m = replace(
        nodule.measurements, long_axis_mm=diameter, short_axis_mm=diameter, mean_diameter_mm=diameter, mean_hu=hu,
        volume_mm3=math.pi / 6 * diameter**3, equivalent_diameter_mm=diameter, solid_diameter_mm=diameter,
    )  # fmt: skip
    return Measured(m, "solid", slice_mm, day)


def test_a_volume_that_doubles_in_a_year() -> None:
    change = changed((ball(8.0), ball(8.0 * 2 ** (1 / 3), 365.0)))
    assert change.volume_share == pytest.approx(1)
    assert change.doubling_days == pytest.approx(365)
    assert change.trend == "growing" and change.beyond_repeatability
    low, high = change.doubling_interval_days or (0.0, 0.0)
    assert low < 365 < (high or math.inf)
    assert change.lung_rads == "growing" and change.fleischner_growth and change.mass_share == pytest.approx(1)
    assert change.nelson == "growth, doubling in less than 400 days"


def test_what_the_measurement_cannot_tell_is_stable() -> None:
    change = changed((ball(4.0, slice_mm=2.5), ball(4.35, 100.0, 2.5)))
    assert change.volume_share > 0.25
    assert change.trend == "stable" and not change.beyond_repeatability
    assert change.doubling_interval_days is not None
    assert change.doubling_interval_days[1] is None, "it may not grow at all"


def test_shrinking_is_growing_in_reverse() -> None:
    change = changed((ball(12.0), ball(10.0, 90.0)))
    assert change.trend == "shrinking" and change.doubling_days is not None and change.doubling_days < 0
    assert change.lung_rads == "stable", "which includes smaller"
    assert change.doubling_interval_days is None


def test_without_dates_there_is_no_doubling_time() -> None:
    change = changed((ball(8.0, None), ball(12.0, None)))
    assert change.trend == "growing"
    assert (change.days, change.doubling_days, change.doubling_interval_days) == (None, None, None)
    assert (change.lung_rads, change.nelson) == (None, None)


def test_slow_growth_needs_three_examinations() -> None:
    history = (ball(6.0, 0.0), ball(7.0, 400.0), ball(8.0, 800.0))
    assert changed(history[1:]).lung_rads == "stable"
    assert changed(history).lung_rads == "slowly growing"


def test_a_solid_part_that_is_new() -> None:
    glass = replace(ball(12.0, hu=-600.0), texture="ground-glass")
    part = replace(ball(12.0, 200.0, hu=-400.0), texture="part-solid")
    assert changed((glass, part)).solid_part == "new"
    assert changed((ball(12.0), ball(12.0, 200.0))).solid_part is None


def test_an_unchanged_volume_lies_in_its_interval() -> None:
    for row in SPREADS:
        for spread in (row.thin, row.thick):
            low, high = log_interval(1.0, spread, spread)
            assert low == -high and math.isclose(high, 1.96 * spread * math.sqrt(2))
    assert spread_of(4.0, 1.0) < spread_of(4.0, 2.5)
    assert spread_of(20.0, 1.0) == LEAST, "no better than two scans of a patient"
    half = math.sqrt(2) * SURE * LEAST
    assert math.exp(half) == pytest.approx(1.27, abs=0.005)


# ---- When


def test_examinations_are_ordered_by_date() -> None:
    when = in_time([date(2024, 3, 1), date(2023, 3, 1)])
    assert when.order == (1, 0) and when.days == (0.0, 366.0)
    assert "another order" in when.notes[0]


@pytest.mark.parametrize("dates", [[None, None], [date(2024, 1, 1), None], [date(2024, 1, 1)] * 2])
def test_dates_that_do_not_tell_leave_the_time_open(dates: list[date | None]) -> None:
    when = in_time(dates)
    assert when.order == (0, 1) and when.days == (None, None)
    assert "no doubling time" in when.notes[0]
    assert in_time(dates, [90]).days == (0.0, 90.0)


def test_a_typed_time_does_not_overrule_dates() -> None:
    dates = [date(2023, 1, 1), date(2024, 1, 1)]
    assert in_time(dates, [365]).days == (0.0, 365.0)
    with pytest.raises(BadOption, match="contradicts"):
        in_time(dates, [90])
    with pytest.raises(BadOption, match="as often"):
        in_time(dates, [90, 90])
    with pytest.raises(BadOption, match="above 0"):
        in_time([None, None], [0])


def headed(ct: Volume, **elements: str) -> Volume:
    return replace(ct, source=replace(ct.source, series_uid=None, study=Study(tuple(elements.items()))))


def test_headers_of_two_patients_are_refused(ct: Volume) -> None:
    one = headed(ct, PatientID="A-1", PatientBirthDate="19500101", PatientSex="F", StudyDate="20240229")
    assert study_date(one) == date(2024, 2, 29)
    assert study_date(headed(ct, StudyDate="20240230")) is None
    check_patients([one, headed(ct, PatientID="a-1 ", PatientSex="F")])
    check_patients([one, headed(ct, PatientID="", PatientSex="O")])
    for name, value in (("PatientID", "A-2"), ("PatientBirthDate", "19500102"), ("PatientSex", "M")):
        with pytest.raises(BadOption, match="different patients") as error:
            check_patients([one, headed(ct, **{name: value})])
        assert value not in str(error.value), "a message says no identity"


def test_the_same_scan_twice_is_refused(ct: Volume) -> None:
    with pytest.raises(BadOption, match="same scan"):
        check_distinct([ct, replace(ct, hu=ct.hu + 1)])  # one series
    copied = headed(ct)
    with pytest.raises(BadOption, match="same scan"):
        check_distinct([copied, replace(copied, hu=copied.hu.copy())])  # the same voxels under another name
    check_distinct([copied, replace(copied, hu=copied.hu + 1)])
