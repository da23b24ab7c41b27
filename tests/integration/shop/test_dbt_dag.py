"""The DAGs dbt_transform and dag_forecast_revenue, run by a real Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.shop.database import LOADER, READER, connect
from jobs.shop.vertical import FORECAST_DAG, TRANSFORM_DAG
from tests.testkit.dags import Run, run_dag

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("dbt_environment")]

TASKS = ["source_freshness", "dbt_run", "dbt_test"]


def test_the_dag_transforms_and_names_what_fails(warehouse: Any) -> None:
    with connect(warehouse, LOADER) as database:
        database.execute("insert into raw.clients values (1, 'Ada', 'Lyon', '2025-01-01')")
        database.execute("insert into raw.produits values (1, 'Tea', 'drinks', 4.99)")
        database.execute(
            "insert into raw.transactions_raw (transaction_id, client_id, produit_id, montant, date, statut) "
            "values ('a', 1, 1, 1, now(), 'success'), ('b', 1, 1, 0, now(), 'success')"
        )
    too_old = "update raw.transactions_raw set ingested_at = ingested_at - interval '61 minutes'"
    off_run = Run(variables={"SHOP_POSTGRES_PORT": "1"})
    order, schedule, (good, old, off), log = run_dag(
        warehouse, TRANSFORM_DAG, Run(), Run(too_old), off_run, timeout_s=350
    )

    assert (order, schedule) == (TASKS, "0 0 * * *")
    assert good.tasks == {task: ["success", 1] for task in TASKS}
    assert good.metrics["datastream.dbt.nodes.success"] >= 10
    assert good.metrics["datastream.dbt.nodes.pass"] >= 30
    with connect(warehouse, READER) as database:
        assert database.execute("select transaction_id from marts.fct_transactions").fetchall() == [("a",)]
        statement = "select command, count(distinct invocation_id) from ops.dbt_results group by command, run_id"
        commands = sorted((command.split()[0], count) for command, count in database.execute(statement))
    assert commands == [("build", 1), ("source", 1), ("source", 1), ("test", 1)]

    # A failed check names itself and is not tried again; nothing is transformed.
    assert old.tasks["source_freshness"] == ["failed", 1]
    assert [old.tasks[task][0] for task in TASKS[1:]] == ["upstream_failed", "upstream_failed"]
    assert old.metrics["datastream.dbt.nodes.error"] == 1
    assert "1 of 1 failed: shop.transactions_raw: the newest row is" in log

    # A database that does not answer is tried again, and the profile is named.
    assert off.tasks["source_freshness"] == ["failed", 3]
    assert "127.0.0.1:1 does not answer" in log
    assert "docker compose --profile shop up" in log


FILL = """
drop table if exists marts.fct_transactions;
create table marts.fct_transactions as
select current_date - back as occurred_on, 1000.0 + back % 5 as revenue, now() as ingested_at
from generate_series(120, 1, -1) as back;
grant select on marts.fct_transactions to shop_forecast
"""


def test_the_forecast_is_made_or_waits_for_more_days(warehouse: Any) -> None:
    too_few = "delete from marts.fct_transactions where occurred_on < current_date - 50"
    order, schedule, (made, short), log = run_dag(warehouse, FORECAST_DAG, Run(FILL), Run(too_few))
    assert (order, schedule) == (["ForecastRevenue"], None)
    assert made.tasks == {"ForecastRevenue": ["success", 1]}
    assert "Mean absolute error of 196 forecasts for the last 34 days: model" in log
    assert short.tasks == {"ForecastRevenue": ["skipped", 1]}
    assert "needs 84 complete days of sales, and the marts have 50." in log
    # The last forecast stays.
    with connect(warehouse, READER) as database:
        assert database.execute("select count(*) from marts.revenue_forecast").fetchall() == [(7,)]
