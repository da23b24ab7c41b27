"""Series of the warehouse for alerts: its newest row, its newest backup, dbt's failed tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.shop.database import READER, connect
from jobs.shop.vertical import ShopSettings

TIMEOUT_S = 3

# The tests that failed in the newest run of dbt that tested anything. Grafana lists them.
FAILED_TESTS = """ops.dbt_results
where unique_id like 'test.%' and status in ('fail', 'error') and invocation_id = (
    select invocation_id from ops.dbt_results where unique_id like 'test.%' order by finished_at desc limit 1
)"""
# The BRIN index finds recent rows; only a stale warehouse is read as a whole.
_NEWEST_ROW = """
coalesce(
    (select max(ingested_at) from raw.transactions_raw where ingested_at > now() - interval '2 hours'),
    (select max(ingested_at) from raw.transactions_raw)
)"""
_READ = f"""
select
    extract(epoch from {_NEWEST_ROW})::float,
    (select extract(epoch from min(loaded_at))::float from raw.load_batches),
    (select extract(epoch from max(finished_at))::float from ops.backups),
    case when exists (select from ops.dbt_results where unique_id like 'test.%')
        then (select count(*) from {FAILED_TESTS}) end
"""  # noqa: S608
_SERIES = (
    ("datastream_warehouse_last_ingested_timestamp_seconds", "When the newest transaction arrived"),
    ("datastream_warehouse_first_loaded_timestamp_seconds", "When the first load wrote transactions"),
    ("datastream_warehouse_last_backup_timestamp_seconds", "When the newest backup was finished"),
    ("datastream_dbt_failed_tests", "Tests that failed in dbt's newest run with tests"),
)


def read_series(settings: ShopSettings) -> Iterator[Metric]:
    """The series now. What does not exist yet has no sample.

    Raises:
        DatastreamError, psycopg.Error: no answer, or no right.
    """
    options = f"-c timezone=UTC -c statement_timeout={TIMEOUT_S * 1000}"
    with closing(connect(settings, READER, connect_timeout=TIMEOUT_S, options=options)) as database:
        values = database.execute(_READ).fetchone() or ()
    interval = settings.shop_backup_hours * 3_600
    yield GaugeMetricFamily("datastream_warehouse_backup_interval_seconds", "SHOP_BACKUP_HOURS", value=interval)
    for (name, text), value in zip(_SERIES, values, strict=True):
        family = GaugeMetricFamily(name, text)
        if value is not None:
            family.add_metric([], value)
        yield family
