"""Statistics of runs: rliable's numbers on the same resampling, and intervals that cover as often as they say.

rliable itself needs libraries of its own; the oracle is its formulas in slow float64 loops, SciPy where it uses SciPy.
"""

import numpy as np
import pytest
import scipy.stats

from polyak.show import statistics
from polyak.show.statistics import (
    chance_of_a_sweep,
    improvement,
    improvement_interval,
    iqm_interval,
    percentiles,
    profile,
    resampled_improvement,
    resampled_iqm,
    resampling,
    share_interval,
    widening,
)

EXACT = {"rtol": 0, "atol": 1e-12}


def scores(seed=0, seeds=5, environments=3, shift=0.0):
    """[S] for each environment, some of them equal."""
    generator = np.random.default_rng(seed)
    return [np.round(generator.normal(shift, size=seeds), 1) for _ in range(environments)]


# ---- rliable's, from the paper's definitions: scores are a matrix [runs, tasks]


def slow_iqm(matrix):
    """`scipy.stats.trim_mean(scores, proportiontocut=0.25, axis=None)`."""
    return scipy.stats.trim_mean(matrix, proportiontocut=0.25, axis=None)


def slow_profile(matrix, thresholds):
    """The fraction of runs with x > tau, over all runs and tasks."""
    flat = [x for row in matrix for x in row]
    return [sum(1.0 for x in flat if x > tau) / len(flat) for tau in thresholds]


def slow_improvement(x, y):
    """Mann-Whitney U of each task divided by the number of pairs, mean over tasks; one half where all is equal."""
    total = 0.0
    for task in range(x.shape[1]):
        a, b = x[:, task], y[:, task]
        if np.array_equal(a, b):
            total += 0.5
        else:
            u, _ = scipy.stats.mannwhitneyu(a, b, alternative="greater")
            total += u / (len(a) * len(b))
    return total / x.shape[1]


def slow_resamples(strata, indices, resample):
    """The matrix of one resample, entry by entry."""
    matrix = np.zeros((len(strata[0]), len(strata)))
    for task, values in enumerate(strata):
        for run in range(len(values)):
            matrix[run, task] = values[indices[task][resample][run]]
    return matrix


@pytest.mark.parametrize(("seeds", "environments"), [(3, 1), (5, 3), (10, 2)])
def test_statistics_are_rliables_on_the_same_resampling_indices(seeds, environments):
    x, y = scores(1, seeds, environments, 0.5), scores(2, seeds, environments)
    first, second = resampling([seeds] * environments, 3), resampling([seeds] * environments, 4)
    first, second = ([rows[:200] for rows in one] for one in (first, second))
    thresholds = np.linspace(-2, 2, 21)
    fast = (
        resampled_iqm(x, first),
        [profile([a[rows[b]] for a, rows in zip(x, first, strict=True)], thresholds) for b in range(200)],
        resampled_improvement(x, y, first, second),
    )
    slow = []
    for resample in range(200):
        drawn_x, drawn_y = slow_resamples(x, first, resample), slow_resamples(y, second, resample)
        slow.append(
            (slow_iqm(drawn_x), slow_profile(drawn_x, thresholds), slow_improvement(drawn_x, drawn_y))
        )
    for ours, theirs in zip(fast, zip(*slow, strict=True), strict=True):
        np.testing.assert_allclose(ours, theirs, **EXACT)
        want = np.percentile(np.array(theirs), 2.5, axis=0), np.percentile(np.array(theirs), 97.5, axis=0)
        np.testing.assert_allclose(percentiles(np.asarray(ours)), want, **EXACT)


def test_the_interval_of_a_curve_is_the_bootstraps_of_each_point_widened():
    generator = np.random.default_rng(0)
    curves = [generator.normal(size=(6, 4)) + np.arange(4), generator.normal(size=(6, 4))]
    middle, low, high = iqm_interval(curves)
    indices = resampling([6, 6])
    for point in range(4):
        column = [each[:, point] for each in curves]
        from_, to = percentiles(resampled_iqm(column, indices))
        centre = slow_iqm(np.stack(column, axis=1))
        factor = np.sqrt(6 / 5) * scipy.stats.t.ppf(0.975, 10) / scipy.stats.norm.ppf(0.975)
        np.testing.assert_allclose(middle[point], centre, **EXACT)
        np.testing.assert_allclose(low[point], centre - factor * (centre - from_), rtol=1e-12)
        np.testing.assert_allclose(high[point], centre + factor * (to - centre), rtol=1e-12)


def test_a_long_curve_is_done_in_parts_that_change_nothing(monkeypatch):
    curves = [np.random.default_rng(0).normal(size=(5, 7))]
    whole = iqm_interval(curves)
    monkeypatch.setattr(statistics, "MOST_AT_ONCE", 2 * 5 * statistics.RESAMPLES)
    np.testing.assert_array_equal(iqm_interval(curves), whole)


def test_two_seeds_have_a_middle_and_no_interval_and_many_seeds_need_no_widening():
    middle, low, high = iqm_interval([np.array([[1.0], [3.0]])])
    assert (middle[0], np.isnan(low[0]), np.isnan(high[0])) == (2.0, True, True)
    assert widening([1]) == np.inf
    assert widening([3]) == pytest.approx(np.sqrt(1.5) * 4.302653 / 1.959964, rel=1e-6)
    assert widening([10_000]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("draw", ["normal", "skewed"])
@pytest.mark.parametrize(("seeds", "environments"), [(3, 1), (5, 1), (10, 1), (4, 3)])
def test_the_interval_of_the_interquartile_mean_covers_it(seeds, environments, draw, monkeypatch):
    """Of 2,000 simulated points; 95 % is known to 0.5 %. The percentiles alone covered 72 to 94 %."""
    generator = np.random.default_rng(seeds)
    size = seeds, 2_000 // environments
    normal = [generator.normal(size=size) for _ in range(environments)]
    sets, truth = normal, 0.0
    if draw == "skewed":
        sets = [np.exp(each) for each in normal]
        truth = np.exp(scipy.stats.norm.ppf(np.linspace(0.25, 0.75, 10_001))).mean()
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    _, low, high = iqm_interval(sets)
    assert 0.925 < np.mean((low < truth) & (truth < high)) < 0.985


@pytest.mark.parametrize(("n", "m", "environments"), [(4, 4, 1), (5, 10, 1), (10, 10, 1), (5, 5, 4)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_interval_of_the_probability_of_improvement_covers_it(n, m, environments, shift):
    """Also where it is nearly one, where rliable's percentiles cover it in 16 % of cases with 4 seeds each."""
    generator = np.random.default_rng(n)
    truth = scipy.stats.norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(400):
        x = [generator.normal(shift, size=n) for _ in range(environments)]
        y = [generator.normal(size=m) for _ in range(environments)]
        low, high = improvement_interval(x, y)
        assert low - 1e-12 <= improvement(x, y) <= high + 1e-12
        covered += low <= truth <= high
    assert covered / 400 > 0.92


def test_an_end_of_newcombes_interval_is_z_deviations_from_the_estimate():
    x, y = [np.array([3.0, 5, 6, 8])], [np.array([1.0, 2, 4, 7, 5])]
    estimate = improvement(x, y)
    assert estimate == pytest.approx((2 + 3.5 + 4 + 5) / 20)
    for end in improvement_interval(x, y):
        spread = 1 + (4.5 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        deviation = np.sqrt(end * (1 - end) * spread / 20)
        assert abs(end - estimate) == pytest.approx(scipy.stats.norm.ppf(0.975) * deviation, rel=1e-9)
    low, high = improvement_interval([np.arange(4.0) + 9], [np.arange(4.0)])
    assert high == 1
    assert 0.5 < low < 0.9  # four seeds that all win do not prove that all would
    assert improvement_interval(y, x) == pytest.approx([1 - e for e in reversed(improvement_interval(x, y))])


def test_wilsons_interval_is_scipys():
    for won, runs in ((0, 5), (3, 10), (10, 10)):
        want = scipy.stats.binomtest(won, runs).proportion_ci(0.95, "wilson")
        assert share_interval(np.array(won / runs), runs) == pytest.approx((want.low, want.high), abs=1e-12)


def test_three_seeds_each_can_sweep_by_chance_and_four_hardly():
    assert chance_of_a_sweep([3], [3]) == pytest.approx(0.1)
    assert chance_of_a_sweep([4], [4]) == pytest.approx(2 / 70)
    assert chance_of_a_sweep([1], [1]) == 1
    assert chance_of_a_sweep([3, 3], [3, 3]) == pytest.approx(2 / 400)


def test_every_page_draws_the_same_resamples_and_no_more_than_a_machine_can_bear():
    np.testing.assert_array_equal(resampling([4, 5])[1], resampling([4, 5])[1])
    assert [rows.shape for rows in resampling([4, 5])] == [(2_000, 4), (2_000, 5)]
    assert resampling([10_000])[0].shape == (200, 10_000)
