"""The forecast of the revenue on a real PostgreSQL: what it reads, how it writes, and who may."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.shop.database import ADMIN, DBT, FORECAST, READER, connect
from jobs.shop.forecast import (
    HISTORY_DAYS,
    LOCK,
    Rows,
    TooFewDaysError,
    forecast_revenue,
    make_rows,
    read_history,
    write_rows,
)
from jobs.shop.revenue_model import NEEDED_DAYS
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(200)

# The columns of dbt's mart that the forecast reads.
CREATE = "create table marts.fct_transactions (occurred_on date, revenue numeric(12, 2), ingested_at timestamptz)"
FILL = """
insert into marts.fct_transactions
select current_date - back, 1000 + 100 * extract(dow from current_date - back) + 7 * mod(back, 13), now()
from generate_series(%s, %s, -1) as back
"""


@pytest.fixture
def sales(warehouse: Any) -> Any:
    """A warehouse with a year of sales, and a large partial sale today."""
    with connect(warehouse, DBT) as database:
        database.execute(CREATE)
        database.execute(FILL, [365, 1])
        database.execute("insert into marts.fct_transactions values (current_date, 999999, now())")
    return warehouse


def execute(settings: Any, statement: str) -> None:
    with connect(settings, DBT) as database:
        database.execute(statement)


def query(settings: Any, statement: str) -> Any:
    with connect(settings, READER) as database:
        return database.execute(statement).fetchall()


def read_tables(settings: Any) -> Rows:
    """Both tables, without the time of the training."""
    return Rows(
        query(
            settings,
            "select day, predicted, lower, upper, baseline, trained_until from marts.revenue_forecast order by day",
        ),
        query(settings, "select * from marts.revenue_forecast_evaluation order by trained_until, day"),
    )


def read_today(settings: Any) -> date:
    ((today,),) = query(settings, "select current_date")
    return today  # type: ignore[no-any-return]


def test_the_next_days_and_the_evaluation_are_in_the_marts(sales: Any) -> None:
    today = read_today(sales)
    forecast = forecast_revenue(sales)
    rows = read_tables(sales)
    assert [row[0] for row in rows.forecast] == [today + timedelta(days=ahead) for ahead in range(7)]
    assert {row[-1] for row in rows.forecast} == {today - timedelta(days=1)}
    assert len(rows.evaluation) == forecast.score.forecasts == 196
    assert max(row[1] for row in rows.evaluation) == today - timedelta(days=1)
    # Today's partial revenue is nowhere.
    amounts = [amount for row in (*rows.forecast, *rows.evaluation) for amount in row if isinstance(amount, Decimal)]
    assert max(amounts) < 2000
    # The baseline and the actual revenue are what the mart has.
    revenue = dict(query(sales, "select occurred_on, revenue from marts.fct_transactions"))
    assert all(baseline == revenue[day - timedelta(days=7)] for day, *_, baseline, _ in rows.forecast)
    assert all(actual == revenue[day] for _, day, actual, *_ in rows.evaluation)
    # A second run changes nothing.
    assert forecast_revenue(sales).score == forecast.score
    assert read_tables(sales) == rows


def test_days_without_sales_have_no_revenue_and_the_history_is_limited(sales: Any) -> None:
    execute(
        sales, "delete from marts.fct_transactions where occurred_on between current_date - 20 and current_date - 11"
    )
    execute(sales, "insert into marts.fct_transactions values ('-infinity', 1, now()), ('2001-01-01', 1, now())")
    execute(sales, f"insert into marts.fct_transactions values (current_date - {HISTORY_DAYS}, 5, now())")
    with connect(sales, FORECAST) as database:
        history = read_history(database)
    assert history.first == read_today(sales) - timedelta(days=HISTORY_DAYS)
    assert len(history.revenue) == HISTORY_DAYS
    assert history.revenue[0] == 5
    assert set(history.revenue[1 : HISTORY_DAYS - 365]) == set(history.revenue[-20:-10]) == {Decimal(0)}
    assert all(history.revenue[-10:])


@pytest.mark.parametrize(
    ("newest", "days_ago"),
    [("current_date - 1 + time '23:30'", 1), ("current_date - 1 + time '22:30'", 2), ("now()", 1)],
    ids=["a quiet hour before midnight", "a load that stopped in the evening", "rows of today"],
)
def test_only_complete_days_are_known(sales: Any, newest: str, days_ago: int) -> None:
    execute(sales, f"update marts.fct_transactions set ingested_at = least({newest}, now())")
    with connect(sales, FORECAST) as database:
        history = read_history(database)
    assert history.find_day(len(history.revenue) - 1) == read_today(sales) - timedelta(days=days_ago)


@pytest.mark.parametrize("days", [0, 1, NEEDED_DAYS - 1])
def test_a_short_history_says_how_many_days_are_needed(warehouse: Any, days: int) -> None:
    execute(warehouse, CREATE)
    with connect(warehouse, DBT) as database:
        database.execute(FILL, [days, 0])
    with pytest.raises(
        TooFewDaysError, match=rf"needs {NEEDED_DAYS} complete days of sales, and the marts have {days}\b"
    ):
        forecast_revenue(warehouse)
    with connect(warehouse, DBT) as database:
        database.execute(FILL, [NEEDED_DAYS, days + 1])
    assert len(forecast_revenue(warehouse).days) == 7


def test_without_marts_or_a_server_the_remedy_is_named(warehouse: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r'relation "marts.fct_transactions" does not exist.*make shop-transform'
    ):
        forecast_revenue(warehouse)
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        forecast_revenue(warehouse.model_copy(update={"shop_postgres_port": 1}))


def test_a_second_run_waits_and_readers_see_whole_forecasts(sales: Any) -> None:
    forecast_revenue(sales)
    before = read_tables(sales)
    execute(sales, "update marts.fct_transactions set revenue = revenue * 2")
    with ThreadPoolExecutor() as pool, connect(sales, FORECAST) as first:
        first.execute(LOCK)
        write_rows(first, make_rows(read_history(first)))
        second = pool.submit(forecast_revenue, sales)
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        until(lambda: query(sales, waiting) == [(1,)], "the second run waits")
        assert read_tables(sales) == before
        # What arrives meanwhile is in the second forecast.
        execute(sales, "update marts.fct_transactions set revenue = revenue * 2")
        first.commit()
        assert second.result(DEADLINE_S).score.revenue == pytest.approx(4 * mean_of(before), abs=0.02)
    after = read_tables(sales)
    assert (len(after.forecast), len(after.evaluation)) == (7, 196)
    assert [row[4] for row in after.forecast] == [4 * row[4] for row in before.forecast]


def mean_of(rows: Rows) -> float:
    return float(sum(row[2] for row in rows.evaluation)) / len(rows.evaluation)


def write_and_wait(settings: Any, is_written: Any) -> None:
    with connect(settings, FORECAST) as database:
        database.execute(LOCK)
        write_rows(database, make_rows(read_history(database)))
        is_written.set()
        signal.pause()


def test_a_killed_worker_changes_nothing_and_blocks_nobody(sales: Any) -> None:
    forecast_revenue(sales)
    before = read_tables(sales)
    execute(sales, "update marts.fct_transactions set revenue = revenue * 2")
    # A fork does not import scikit-learn again.
    processes = multiprocessing.get_context("fork")
    is_written = processes.Event()
    worker = processes.Process(target=write_and_wait, args=(sales, is_written), daemon=True)
    worker.start()
    assert is_written.wait(DEADLINE_S)
    worker.kill()
    worker.join()
    assert read_tables(sales) == before
    forecast_revenue(sales)
    assert [row[4] for row in read_tables(sales).forecast] == [2 * row[4] for row in before.forecast]


DAY = "current_date, 1, 1, 1, 1, current_date - 1, now()"
ALLOWED = [
    f"insert into marts.revenue_forecast values ({DAY})",
    "insert into marts.revenue_forecast_evaluation values (current_date - 1, current_date, 1, 1, 1)",
    "delete from marts.revenue_forecast",
    "delete from marts.revenue_forecast_evaluation",
    "select from marts.fct_transactions",
]
FORBIDDEN = [
    "delete from marts.fct_transactions",
    "insert into marts.fct_transactions values (current_date, 1, now())",
    "update marts.revenue_forecast set predicted = 1",
    "truncate marts.revenue_forecast",
    "create table marts.mine (id integer)",
    "create temporary table mine (id integer)",
    "select from raw.transactions_raw",
    "select from ops.dbt_results",
    "set role dbt",
]


@pytest.mark.parametrize("statement", ALLOWED)
def test_the_forecast_may(sales: Any, statement: str) -> None:
    with connect(sales, FORECAST) as database:
        database.execute(statement)
        database.rollback()


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_forecast_may_not(sales: Any, statement: str) -> None:
    with connect(sales, FORECAST) as database, pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute(statement)


@pytest.mark.parametrize(
    "amounts",
    ["'NaN', 1, 1, 1", "1, 'NaN', 1, 1", "1, 1, 'NaN', 1", "1, 1, 1, 'NaN'", "1, 2, 3, 1", "4, 2, 3, 1", "1, -1, 2, 1"],
)
def test_the_mart_refuses_what_is_no_forecast(warehouse: Any, amounts: str) -> None:
    statement = f"insert into marts.revenue_forecast values (current_date, {amounts}, current_date - 1, now())"
    with connect(warehouse, ADMIN) as database, pytest.raises(psycopg.errors.CheckViolation):
        database.execute(statement)
