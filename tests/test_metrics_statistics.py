"""Intervals, tests and corrections, against scipy, worked examples and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from nodulens.errors import BadOption, BadValues
from nodulens.metrics.statistics import (
    Groups,
    Interval,
    benjamini_hochberg,
    bootstrap,
    bootstrap_difference,
    bootstrap_means,
    columns,
    holm,
    mcnemar,
    patient_draws,
    percentiles,
    proportion,
    ratio,
    resamples,
    wilcoxon,
)

RNG = np.random.default_rng(5)
PATIENTS = np.array([f"P{k}" for k in RNG.integers(0, 40, 120)])
VALUES = RNG.gamma(2.0, size=120) + (np.unique(PATIENTS, return_inverse=True)[1] % 7)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# ---------------------------------------------------------------- bootstrap


def test_patients_are_drawn_whole() -> None:
    sizes = {p: int((p == PATIENTS).sum()) for p in PATIENTS}
    for rows in resamples(PATIENTS, samples=20):
        drawn, counts = np.unique(PATIENTS[rows], return_counts=True)
        times = [c / sizes[p] for p, c in zip(drawn, counts, strict=True)]
        assert sum(times) == len(sizes) and all(t == int(t) for t in times)


def test_rows_and_weights_are_the_same_draws() -> None:
    owner, draws = patient_draws(PATIENTS, samples=10, seed=3)
    for rows, times in zip(resamples(PATIENTS, samples=10, seed=3), draws, strict=True):
        assert (np.bincount(rows, minlength=120) == times[owner]).all()


def test_means_are_what_the_plain_bootstrap_gives() -> None:
    table = np.stack([VALUES, np.where(VALUES > 4, np.nan, VALUES), np.full(120, np.nan)], axis=1)
    first, second, none = bootstrap_means(table, PATIENTS, samples=200)
    for column, found in ((0, first), (1, second)):
        plain = bootstrap(lambda rows, c=column: float(np.nanmean(table[rows, c])), PATIENTS, samples=200)
        assert (found.value, *ends(found)) == pytest.approx((plain.value, *ends(plain)))
    assert np.isnan([none.value, *ends(none)]).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_one_row_a_patient_is_scipys_bootstrap(method: str) -> None:
    values = VALUES[:50] ** 2
    ours = bootstrap(lambda r: float(values[r].mean()), np.arange(50), samples=10_000, level=0.9, method=method)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, confidence_level=0.9, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ends(ours) == pytest.approx(tuple(theirs), rel=0.015)


def test_nodules_of_one_patient_do_not_count_as_many() -> None:
    owner = np.unique(PATIENTS, return_inverse=True)[1]
    alike = owner.astype(float)
    clustered = bootstrap(lambda r: float(alike[r].mean()), PATIENTS)
    as_if_apart = bootstrap(lambda r: float(alike[r].mean()), np.arange(120))
    assert np.diff(ends(clustered)) > 1.3 * np.diff(ends(as_if_apart))


def test_a_paired_difference_is_narrower_than_two_groups() -> None:
    better = VALUES + 0.1
    paired = bootstrap(lambda r: float(better[r].mean() - VALUES[r].mean()), PATIENTS)
    assert (paired.value, *ends(paired)) == pytest.approx((0.1, 0.1, 0.1))
    others = np.char.add("Q", PATIENTS)
    apart = bootstrap_difference(
        (lambda r: float(better[r].mean()), PATIENTS), (lambda r: float(VALUES[r].mean()), others)
    )
    assert apart.value == pytest.approx(0.1) and apart.low < -0.2 and apart.high > 0.4


def test_groups_that_share_patients_are_not_unpaired() -> None:
    with pytest.raises(BadValues, match="both groups"):
        bootstrap_difference((lambda r: 0.0, ["a", "b"]), (lambda r: 0.0, ["b", "c"]))


def test_the_unpaired_interval_holds_what_theory_says() -> None:
    a, b = RNG.normal(1, 1, 400), RNG.normal(0, 2, 300)
    found = bootstrap_difference(
        (lambda r: float(a[r].mean()), np.arange(400)),
        (lambda r: float(b[r].mean()), -1 - np.arange(300)),
        samples=4000,
    )
    half = 1.96 * np.sqrt(a.var() / 400 + b.var() / 300)
    assert ends(found) == pytest.approx((found.value - half, found.value + half), abs=0.03)


def test_draws_without_a_figure_are_left_out_until_they_are_many() -> None:
    draws = np.r_[np.linspace(0, 1, 96), np.full(4, np.nan)]
    assert ends(percentiles(0.5, draws)) == pytest.approx(tuple(np.quantile(draws[:96], (0.025, 0.975))))
    assert np.isnan(ends(percentiles(0.5, np.r_[draws, np.nan, np.nan]))).all()
    assert np.isnan(ends(percentiles(np.nan, [np.nan]))).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_one_patient_and_a_constant(method: str) -> None:
    one = bootstrap(lambda r: float(VALUES[r].mean()), ["P"] * 120, samples=50, method=method)
    same = bootstrap(lambda r: 3.0, PATIENTS, samples=50, method=method)
    for found, value in ((one, VALUES.mean()), (same, 3.0)):
        assert found.value == pytest.approx(value)
        # nothing varies: the percentile interval is a point, BCa has none
        assert np.isnan(ends(found)).all() if method == "bca" else ends(found) == pytest.approx((value, value))


def test_the_seed_is_the_draw() -> None:
    def made(seed: int) -> Interval:
        return bootstrap(lambda r: float(VALUES[r].mean()), PATIENTS, samples=50, seed=seed)

    assert made(1) == made(1) != made(2)


def test_wilson() -> None:
    # Newcombe 1998 (Stat Med 17:857), table I: 81 of 263.
    found = proportion(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert proportion(0, 20).low == 0 and proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert np.isnan(proportion(0, 0).value)
    with pytest.raises(BadValues, match="5 of 4"):
        proportion(5, 4)


# ---------------------------------------------------------------- paired tests


@pytest.mark.parametrize(("count", "step"), [(12, 1e-9), (40, 0.25), (200, 0.25), (200, 1e-9)])
def test_wilcoxon_is_scipys(count: int, step: float) -> None:
    a, b = np.round(RNG.normal(0.3, 1, (2, count)) / step) * step
    found, expected = wilcoxon(a, b), stats.wilcoxon(a, b)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    moved = (a - b)[a != b]
    ranks = stats.rankdata(abs(moved))
    assert found.rank_biserial == pytest.approx((ranks * np.sign(moved)).sum() / ranks.sum())
    assert (found.pairs, found.zeros) == (count, int((a == b).sum()))


def test_wilcoxon_by_hand() -> None:
    # 1, 2, 3 for, 4 against: four of the sixteen sign patterns give a smaller sum of at most 4, on either side 7 of 16
    found = wilcoxon([1.0, 2, 3, 0, 7], [0.0, 0, 0, 4, 7])
    assert (found.statistic, found.zeros, found.pairs) == (4, 1, 5)
    assert found.rank_biserial == pytest.approx((6 - 4) / 10)
    assert wilcoxon([1.0, 2, 3, 0], [0.0, 0, 0, 4]).p_value == pytest.approx(14 / 16)


def test_wilcoxon_where_nothing_differs() -> None:
    found = wilcoxon([1.0, 2.0], [1.0, 2.0])
    assert (found.p_value, found.zeros, found.median_difference) == (1.0, 2, 0.0) and np.isnan(found.rank_biserial)
    assert wilcoxon([2.0], [1.0]).p_value == 1.0 and wilcoxon([2.0], [1.0]).rank_biserial == 1


def test_mcnemar_gives_the_example_of_fagerland() -> None:
    # Fagerland, Lydersen and Laake 2013 (BMC Med Res Methodol 13:91), table 1: 1 against 7 of 21 pairs.
    first = np.r_[np.ones(1), np.zeros(7), np.ones(1), np.zeros(12)]
    second = np.r_[np.zeros(1), np.ones(7), np.ones(1), np.zeros(12)]
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 7)
    assert (found.exact, found.mid_p, found.corrected) == pytest.approx((0.0703, 0.0391, 0.0771), abs=5e-5)
    assert found.exact == pytest.approx(stats.binomtest(1, 8).pvalue)


def test_mcnemar_where_both_err_alike() -> None:
    assert mcnemar([True, False], [True, False]).exact == 1
    even = mcnemar([1, 1, 0, 0], [0, 0, 1, 1])
    assert (even.exact, even.corrected) == (1, 1) and even.mid_p == pytest.approx(1.0)


# ---------------------------------------------------------------- corrections


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1]) and holm([0.2]) == pytest.approx([0.2])


@pytest.mark.parametrize("seed", range(3))
def test_holm_rejects_step_by_step(seed: int) -> None:
    p = np.round(np.random.default_rng(seed).beta(0.4, 2, 25), 3)
    for level in (0.01, 0.05, 0.2):
        rejected = np.zeros(25, dtype=bool)
        for step, k in enumerate(np.argsort(p, kind="stable")):
            if p[k] > level / (25 - step):
                break
            rejected[k] = True
        assert ((holm(p) <= level + 1e-12) == rejected).all()


@pytest.mark.parametrize("seed", range(3))
def test_benjamini_hochberg_is_that_of_its_definition(seed: int) -> None:
    """Of N sorted p-values the first k are called, k the largest with p(k) ≤ k / N · level."""
    p = np.round(np.random.default_rng(seed).beta(0.4, 2, 25), 3)
    for level in (0.01, 0.05, 0.2):
        order = np.argsort(p, kind="stable")
        below = [k for k in range(1, 26) if p[order[k - 1]] <= k / 25 * level]
        called = np.zeros(25, dtype=bool)
        called[order[: max(below, default=0)]] = True
        assert ((benjamini_hochberg(p) <= level + 1e-12) == called).all()


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


# ---------------------------------------------------------------- groups and wrong input


def test_bands_are_closed_below() -> None:
    bands = Groups.bands([3.0, 6.0, 11.9, 12.0], (6, 12, 20))
    assert bands.names == ("< 6 mm", "6–12 mm", "12–20 mm", "≥ 20 mm")
    assert {name: rows.tolist() for name, rows in bands.rows()} == {"< 6 mm": [0], "6–12 mm": [1, 2], "12–20 mm": [3]}


def test_groups_of_names() -> None:
    groups = Groups.of(["solid", "ground-glass", "solid"])
    assert groups.names == ("ground-glass", "solid") and groups.code.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([], [], "at least 1"),
        ([1, 2], [1], "one length"),
        ([[1]], [[1]], "lists"),
        ([1, np.nan], [1, 2], "1 are NaN"),
        ([1, 2], [np.inf, -np.inf], "2 are NaN or infinite"),
        (["a"], [1], "must be numbers"),
    ],
)
def test_lists_that_cannot_be_used(first: ArrayLike, second: ArrayLike, says: str) -> None:
    for test in (wilcoxon, mcnemar):
        with pytest.raises(BadValues, match=says):
            test(first, second)


def test_other_input_that_cannot_be_used() -> None:
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(BadValues, match=r"0…1"):
            correct([0.1, 1.2])
        with pytest.raises(BadValues, match="NaN"):
            correct([np.nan])
    with pytest.raises(BadValues, match="right and wrong"):
        mcnemar([2, 1], [0, 1])
    with pytest.raises(BadValues, match="patients"):
        bootstrap(lambda r: 0.0, [])
    with pytest.raises(BadOption, match="at least one sample"):
        bootstrap(lambda r: 0.0, ["a"], samples=0)
    with pytest.raises(BadOption, match="level"):
        bootstrap(lambda r: 0.0, ["a"], level=95)
    with pytest.raises(BadOption, match="'bca'"):
        bootstrap(lambda r: 0.0, ["a"], method="normal")
    with pytest.raises(BadValues, match="3 rows have patients"):
        bootstrap_means(np.zeros((2, 1)), ["a", "b", "c"])
    with pytest.raises(BadOption, match="rise"):
        Groups.bands([1.0], (6, 6))
    with pytest.raises(BadValues, match="NaN"):
        Groups.of([1.0, np.nan])
    with pytest.raises(BadValues, match="Group numbers"):
        Groups(np.array([0, 2]), ("a", "b"))


def test_small_parts() -> None:
    assert ratio([1, 0, 0], [2, 0, 3]) == pytest.approx([0.5, np.nan, 0], nan_ok=True)
    (only,) = columns("x", [True, False])
    assert only.tolist() == [1.0, 0.0]
