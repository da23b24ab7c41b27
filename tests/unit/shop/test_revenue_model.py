"""The forecast of the revenue, on arrays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.shop.forecast import History, make_rows
from jobs.shop.predictions import Score
from jobs.shop.revenue_model import HORIZON, NEEDED_DAYS, ORIGINS, Array, evaluate, predict, repeat_last_week

DAYS = NEEDED_DAYS + 5  # not a whole number of weeks
WEEK = np.array([0.0, 100.0, 110.0, 90.0, 150.0, 200.0, 130.0])


def seasonal(days: int = DAYS, noise: float = 0.1, growth: float = 0.0) -> Array:
    """A weekly pattern with a trend and noise."""
    day = np.arange(days)
    pattern = WEEK[day % 7] * (1 + growth * day)
    drawn: Array = pattern * np.random.default_rng(3).uniform(1 - noise, 1 + noise, days)
    return drawn


def measure_errors(revenue: Array) -> tuple[float, float]:
    """Mean absolute error of the model and of the baseline."""
    evaluation = evaluate(revenue)
    return (
        float(np.abs(evaluation.actual - evaluation.predicted).mean()),
        float(np.abs(evaluation.actual - evaluation.baseline).mean()),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda day: 0.0 * day,
        lambda day: 1e9 + 0.0 * day,
        lambda day: WEEK[day % 7],
        lambda day: 1000 + 3.0 * day,
        lambda day: WEEK[day % 7] + 0.5 * day,
    ],
    ids=["no revenue", "constant", "weekly pattern", "trend", "weekly pattern with a trend"],
)
def test_a_series_without_noise_is_forecast_exactly(make: Callable[[npt.NDArray[np.int64]], Array]) -> None:
    series = make(np.arange(DAYS + HORIZON))
    known, future = series[:-HORIZON], series[-HORIZON:]
    assert predict(known) == pytest.approx(future, rel=1e-6, abs=1e-6)
    evaluation = evaluate(known)
    assert evaluation.predicted == pytest.approx(evaluation.actual, rel=1e-6, abs=1e-6)
    assert evaluation.measure_margins() == pytest.approx(np.zeros(HORIZON), abs=1e-3)


def test_the_model_beats_the_baseline_on_a_weekly_pattern_with_noise() -> None:
    model, baseline = measure_errors(seasonal(365, growth=0.001))
    assert 0 < model < 0.9 * baseline


def test_the_model_does_not_beat_the_baseline_where_the_last_week_says_all() -> None:
    """The revenue of a weekday changes at random from week to week, and never comes back."""
    walk = np.cumsum(np.random.default_rng(1).normal(0, 1, (30, 7)), axis=0)
    model, baseline = measure_errors(1000 + walk.ravel())
    assert model > 0.95 * baseline


def test_an_outlier_costs_the_model_no_more_than_the_baseline() -> None:
    revenue = seasonal()
    revenue[len(revenue) - 20] *= 100
    model, baseline = measure_errors(revenue)
    assert model < 1.05 * baseline
    # What is learned from it does not reach days that do not see it.
    old = seasonal()
    old[10] *= 100
    assert predict(old) == pytest.approx(predict(seasonal()), rel=0.1, abs=5)


def test_days_without_sales_do_not_break_the_forecast() -> None:
    revenue = seasonal()
    revenue[30:41] = 0
    assert predict(revenue) == pytest.approx(predict(seasonal()), rel=0.1, abs=5)


def test_a_forecast_knows_only_its_past() -> None:
    revenue = seasonal()
    evaluation = evaluate(revenue)
    for number in (0, 5, ORIGINS - 1):
        other, origin = revenue.copy(), evaluation.origins[number]
        other[origin + 1 :] = np.random.default_rng(1).uniform(1e3, 1e6, len(other) - origin - 1)
        again = evaluate(other)
        assert (again.predicted[: number + 1] == evaluation.predicted[: number + 1]).all()
        assert (again.baseline[: number + 1] == evaluation.baseline[: number + 1]).all()
        assert (again.actual[number] != evaluation.actual[number]).all()
    # The last known day counts.
    other = revenue.copy()
    other[evaluation.origins[5]] *= 2
    again = evaluate(other)
    assert (again.predicted[:5] == evaluation.predicted[:5]).all()
    assert (again.predicted[5] != evaluation.predicted[5]).any()


def test_model_and_baseline_are_compared_over_the_same_days() -> None:
    revenue = seasonal()
    evaluation = evaluate(revenue)
    assert evaluation.actual.shape == evaluation.predicted.shape == evaluation.baseline.shape == (ORIGINS, HORIZON)
    assert evaluation.origins[-1] + HORIZON == len(revenue) - 1
    for origin, actual, baseline in zip(evaluation.origins, evaluation.actual, evaluation.baseline, strict=True):
        for ahead in range(1, HORIZON + 1):
            assert actual[ahead - 1] == revenue[origin + ahead]
            assert baseline[ahead - 1] == revenue[origin + ahead - 7]
    assert (repeat_last_week(revenue) == revenue[-7:]).all()


def test_the_interval_holds_80_percent_of_the_evaluated_days() -> None:
    evaluation = evaluate(seasonal(noise=0.5))
    inside = np.abs(evaluation.actual - evaluation.predicted) <= evaluation.measure_margins()
    assert (inside.mean(axis=0) >= 0.8).all()
    assert (inside.mean(axis=0) < 0.9).all()


def test_the_shortest_history_is_enough() -> None:
    assert np.isfinite(evaluate(seasonal(NEEDED_DAYS)).predicted).all()


def history(revenue: Array) -> History:
    return History(date(2026, 1, 1), tuple(Decimal(f"{amount:.2f}") for amount in revenue))


def test_the_same_history_gives_the_same_rows() -> None:
    rows = make_rows(history(seasonal()))
    assert rows == make_rows(history(seasonal()))
    until = date(2026, 1, 1) + timedelta(days=DAYS - 1)
    assert [(row[0], row[-1]) for row in rows.forecast] == [
        (until + timedelta(days=ahead), until) for ahead in range(1, HORIZON + 1)
    ]
    assert max(row[1] for row in rows.evaluation) == until
    assert len({row[:2] for row in rows.evaluation}) == ORIGINS * HORIZON


amounts = st.one_of(st.just(0.0), st.floats(0, 1e10), st.floats(0, 1), st.sampled_from([1.0, 5.0, 1e9]))


@settings(max_examples=6, deadline=None)
@given(st.lists(amounts, min_size=NEEDED_DAYS, max_size=NEEDED_DAYS + 3))
def test_rows_are_finite_and_intervals_are_ordered(revenue: list[float]) -> None:
    rows = make_rows(history(np.array(revenue)))
    for _, predicted, lower, upper, baseline, _ in rows.forecast:
        assert 0 <= lower <= predicted <= upper < Decimal("1e12")
        assert baseline >= 0
    for trained_until, day, *others in rows.evaluation:
        assert trained_until < day
        assert all(0 <= amount < Decimal("1e12") for amount in others)


@pytest.mark.parametrize(
    ("model", "baseline", "verdict"),
    [
        (90.0, 100.0, "The model beats the same weekday of the week before by 10.0%."),
        (100.0, 100.0, "The model does not beat the same weekday of the week before: use that baseline instead."),
        (0.0, 0.0, "The model does not beat the same weekday of the week before: use that baseline instead."),
        (101.0, 100.0, "The model does not beat the same weekday of the week before: use that baseline instead."),
    ],
)
def test_the_verdict_says_whether_the_model_is_better(model: float, baseline: float, verdict: str) -> None:
    assert Score(196, 34, 1000.0, model, baseline).verdict == verdict


def test_errors_are_shares_of_the_revenue_if_there_is_any() -> None:
    assert "model 90.00 (9.0% of the revenue)" in Score(196, 34, 1000.0, 90.0, 100.0).errors
    assert "model 0.00, same" in Score(196, 34, 0.0, 0.0, 0.0).errors
