"""The newest forecast of the revenue, and how good earlier ones would have been, as the marts have them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row

_READ_FORECAST = """
select day, predicted, lower, upper, baseline, trained_until, trained_at from marts.revenue_forecast order by day
"""
_READ_SCORE = """
select count(*) as forecasts, count(distinct day) as days, avg(actual)::float8 as revenue,
    avg(abs(actual - predicted))::float8 as model_error, avg(abs(actual - baseline))::float8 as baseline_error
from marts.revenue_forecast_evaluation
"""


class Day(msgspec.Struct, frozen=True):
    """The forecast of a day: what the model predicts, with an interval, and what last week's same weekday had."""

    day: date
    predicted: Decimal
    lower: Decimal
    upper: Decimal
    baseline: Decimal
    trained_until: date
    trained_at: datetime


class Score(msgspec.Struct, frozen=True):
    """How good earlier forecasts would have been.

    Attributes:
        forecasts: how many were compared. A day has several, from different days before it.
        days: the days that were forecast.
        revenue: their mean revenue.
        model_error: mean absolute error of the model.
        baseline_error: mean absolute error of the baseline, the same weekday of the last known week.
    """

    forecasts: int
    days: int
    revenue: float
    model_error: float
    baseline_error: float

    @property
    def is_better(self) -> bool:
        """Whether the model beats the baseline."""
        return self.model_error < self.baseline_error

    @property
    def errors(self) -> str:
        """Both errors, as an amount and as a share of the revenue."""
        return (
            f"Mean absolute error of {self.forecasts} forecasts for the last {self.days} days: model "
            f"{self._show(self.model_error)}, same weekday of the week before {self._show(self.baseline_error)}."
        )

    @property
    def verdict(self) -> str:
        if not self.is_better:
            return "The model does not beat the same weekday of the week before: use that baseline instead."
        gain = 1 - self.model_error / self.baseline_error
        return f"The model beats the same weekday of the week before by {gain:.1%}."

    def _show(self, error: float) -> str:
        return f"{error:,.2f} ({error / self.revenue:.1%} of the revenue)" if self.revenue else f"{error:,.2f}"


class Forecast(msgspec.Struct, frozen=True):
    """The forecast of the next days, and how good earlier ones would have been."""

    days: tuple[Day, ...]
    score: Score


def read_forecast(connection: psycopg.Connection[Any]) -> Forecast | None:
    """Read the newest forecast; None if there is none yet."""
    days = connection.cursor(row_factory=class_row(Day)).execute(_READ_FORECAST)
    forecast = tuple(days.fetchall())
    score = connection.cursor(row_factory=class_row(Score)).execute(_READ_SCORE).fetchone()
    return Forecast(forecast, score) if forecast and score else None
