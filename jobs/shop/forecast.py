"""Forecast the revenue of the next 7 days into marts.revenue_forecast, and say how good such forecasts have been."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psycopg

from jobs.errors import IS_IT_UP, ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.shop.database import FORECAST, connect
from jobs.shop.predictions import Forecast, read_forecast
from jobs.shop.revenue_model import NEEDED_DAYS, Array, evaluate, predict, repeat_last_week
from jobs.shop.vertical import ShopSettings

Connection = psycopg.Connection[Any]

HISTORY_DAYS = 730

# The server ends the transaction of a worker that hangs, because it holds the lock.
_SESSION = "-c timezone=UTC -c idle_in_transaction_session_timeout=300s"

# Of two runs, the second one waits here, and then reads at least what the first one has read.
LOCK = "select pg_advisory_xact_lock(hashtext('revenue_forecast'))"
# A day is complete if newer rows have arrived. The hour is the age at which source_freshness stops dbt_transform: no
# newer row within it is normal. Not from fct_daily_sales: dbt builds it later than the table with the newest row.
_READ_REVENUE = """
with complete as (
    select least(current_date, (max(ingested_at) + interval '1 hour')::date) - 1 as until from marts.fct_transactions
)
select occurred_on, sum(revenue), until
from marts.fct_transactions join complete on occurred_on between until - %s and until
group by occurred_on, until order by occurred_on
"""
_CLEAR = "delete from marts.revenue_forecast; delete from marts.revenue_forecast_evaluation"
_INSERT_FORECAST = """
insert into marts.revenue_forecast (day, predicted, lower, upper, baseline, trained_until, trained_at)
values (%s, %s, %s, %s, %s, %s, now())
"""
_INSERT_EVALUATION = """
insert into marts.revenue_forecast_evaluation (trained_until, day, actual, predicted, baseline)
values (%s, %s, %s, %s, %s)
"""


class TooFewDaysError(DatastreamError):
    """The history is too short. Only time helps."""


class History(msgspec.Struct, frozen=True):
    """The revenue of consecutive days, those without sales included."""

    first: date
    revenue: tuple[Decimal, ...]

    def find_day(self, position: int) -> date:
        return self.first + timedelta(days=int(position))


class Rows(NamedTuple):
    """The rows of marts.revenue_forecast and marts.revenue_forecast_evaluation."""

    forecast: list[tuple[Any, ...]]
    evaluation: list[tuple[Any, ...]]


def forecast_revenue(settings: ShopSettings) -> Forecast:
    """Train on the marts, and replace the forecast and its evaluation. Readers see the ones before or these.

    Raises:
        TooFewDaysError: the history is too short.
        ConfigurationError: the warehouse is not set up, has no marts yet, or rejects the role.
        ServiceUnavailableError: PostgreSQL does not answer, or the connection was lost.
    """
    with _open_transaction(settings) as connection:
        connection.execute(LOCK)
        write_rows(connection, make_rows(read_history(connection)))
        forecast = read_forecast(connection)
    assert forecast is not None  # noqa: S101 (it was just written)
    return forecast


@contextmanager
def _open_transaction(settings: ShopSettings) -> Iterator[Connection]:
    where = f"PostgreSQL at {settings.shop_host}:{settings.shop_postgres_port}"
    try:
        with connect(settings, FORECAST, options=_SESSION) as connection:
            yield connection
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
        raise ConfigurationError(
            f"{where}: {_shorten(error)}. Set up the database again (docker compose --profile shop up -d --wait, or "
            "make local-up VERTICAL=shop), then build the marts: make shop-transform."
        ) from error
    except psycopg.OperationalError as error:
        raise ServiceUnavailableError(
            f"{where}: {_shorten(error)}. The forecast is replaced completely or not at all. {IS_IT_UP}"
        ) from error


def _shorten(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_history(connection: Connection) -> History:
    """Read the revenue of each complete day (UTC).

    Raises:
        TooFewDaysError: there are not enough days.
    """
    rows = connection.execute(_READ_REVENUE, [HISTORY_DAYS - 1]).fetchall()
    revenue: dict[date, Decimal] = {day: amount for day, amount, _ in rows}
    first, until = (rows[0][0], rows[0][2]) if rows else (date.max, date.min)
    count = max(0, (until - first).days + 1)
    if count < NEEDED_DAYS:
        raise TooFewDaysError(
            f"A forecast needs {NEEDED_DAYS} complete days of sales, and the marts have {count}. Wait, or load older "
            f"transactions: python -m jobs shop generate --to postgres --history {NEEDED_DAYS}d, then `make "
            "shop-transform`."
        )
    days = (first + timedelta(days=number) for number in range(count))
    return History(first, tuple(revenue.get(day, Decimal(0)) for day in days))


def make_rows(history: History) -> Rows:
    """Forecast the days after the history, and evaluate forecasts of its last days."""
    revenue = np.array(history.revenue, dtype=np.float64)
    predicted, evaluation = predict(revenue), evaluate(revenue)
    margins = evaluation.measure_margins()
    lower, upper, baseline = np.maximum(0, predicted - margins), predicted + margins, repeat_last_week(revenue)
    until = history.find_day(len(revenue) - 1)
    days = (until + timedelta(days=ahead) for ahead in range(1, len(predicted) + 1))
    amounts = zip(*map(_to_decimals, (predicted, lower, upper, baseline)), strict=True)
    return Rows(
        forecast=[(day, *row, until) for day, row in zip(days, amounts, strict=True)],
        evaluation=[
            (history.find_day(origin), history.find_day(origin + ahead), *row)
            for origin, *series in zip(*evaluation, strict=True)
            for ahead, row in enumerate(zip(*map(_to_decimals, series), strict=True), start=1)
        ],
    )


def _to_decimals(amounts: Array) -> list[Decimal]:
    return [Decimal(f"{amount:.2f}") for amount in amounts]


def write_rows(connection: Connection, rows: Rows) -> None:
    """Replace the rows of both tables, without a commit."""
    with connection.cursor() as cursor:
        cursor.execute(_CLEAR)
        cursor.executemany(_INSERT_FORECAST, rows.forecast)
        cursor.executemany(_INSERT_EVALUATION, rows.evaluation)
