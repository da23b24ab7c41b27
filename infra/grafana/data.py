"""The dashboard Data: how much comes through, how good it is, and whether all of it arrived."""

from __future__ import annotations

from infra.grafana.builder import Dashboard, Panel, Prom, Query, Row, Sql, grown, grown_in_interval, or_zero, per_second
from jobs.shop.series import FAILED_TESTS

_REJECTED = "airflow_datastream_rides_rejected"
_PRICED = "airflow_datastream_rides_priced"
_FLIGHTS = "airflow_datastream_flights"
_COLLECTED, _NOT_COLLECTED = (grown(f"{_FLIGHTS}_{outcome}") for outcome in ("collected", "rejected"))
_RECENT = tuple(grown(counter, window="10m") for counter in (_REJECTED, _PRICED))
_NEWEST = 'kafka_topic_partition_current_offset{topic!~"__.+"}'
_NO_LEDGER = "No ledger has been taken yet: the exporter takes one every OBSERVABILITY_LEDGER_MINUTES."
_NO_MARTS = "No marts: the profile shop is off, or dbt_transform has not run."
_NO_DBT = "dbt has not run. The profile shop is off, or its DAGs are."
_NO_BACKUP = "There is no backup: the profile shop is off, or `make backup` has not run."
_VERDICTS = {
    0: ("balanced", "green"),
    1: ("lost or doubled", "red"),
    2: ("in progress", "blue"),
    3: ("no verdict", "yellow"),
}


def _total(title: str, about: str, *queries: Query, unit: str = "short", warn: float | None = None) -> Panel:
    return Panel(
        kind="stat",
        title=title,
        about=about,
        queries=queries,
        empty="Prometheus does not answer.",
        unit=unit,
        decimals=2 if unit == "percentunit" else 0,
        warn=warn,
        width=4,
        height=4,
    )


def _ledger(title: str, about: str, series: str) -> Panel:
    return Panel(
        kind="stat",
        title=title,
        about=about,
        queries=[Prom(f"max by (vertical) (datastream_ledger_{series})", "{{vertical}}")],
        empty=_NO_LEDGER,
        alarm=1,
        width=4,
        height=5,
    )


DASHBOARD = Dashboard(
    name="data",
    about="Volume, quality, and the ledger: every message counted in every system.",
    rows=(
        Row(
            "In the range of the dashboard",
            (
                _total("Rides priced", "Results on rides_result.", Prom(or_zero(grown(_PRICED)))),
                _total("Rides rejected", "Dead letters of dag_compute_cost.", Prom(or_zero(grown(_REJECTED)))),
                _total(
                    "Share rejected",
                    "Dead letters among the raw rides. The alert on it fires above its threshold.",
                    Prom(or_zero(f"{grown(_REJECTED)} / ({grown(_REJECTED)} + {grown(_PRICED)} > 0)")),
                    unit="percentunit",
                    warn=0.05,
                ),
                _total(
                    "Rides indexed",
                    "Documents written to Elasticsearch. A ride that was sent twice is written twice.",
                    Prom(or_zero(grown("airflow_datastream_rides_indexed"))),
                ),
                _total(
                    "Rides exported",
                    "Rows written to Parquet. Exports wait for a full batch or EXPORT_MAX_AGE_S.",
                    Prom(or_zero(grown("airflow_datastream_rides_exported"))),
                ),
                _total(
                    "Rides refused",
                    "Results that a sink refused. They are dead letters of dag_index_and_export.",
                    Prom(or_zero(grown("airflow_datastream_rides_refused"))),
                    warn=1,
                ),
            ),
        ),
        Row(
            "Volume",
            (
                Panel(
                    title="Offsets written by topic",
                    about="Offsets per second. Each transaction adds one offset to each of its partitions.",
                    queries=[
                        Prom(
                            per_second(_NEWEST, "topic"),
                            "{{topic}}",
                        )
                    ],
                    empty="The exporter of topics does not answer.",
                    unit="cps",
                ),
                Panel(
                    title="Rides through the steps",
                    about="Rides that were priced, indexed and exported in each interval. The areas should be equal.",
                    queries=[
                        Prom(grown_in_interval(f"airflow_datastream_rides_{step}"), step)
                        for step in ("priced", "indexed", "exported")
                    ],
                    empty="No ride was processed in this range.",
                ),
                Panel(
                    title="Offsets stored by topic",
                    about="Newest minus oldest offset. It falls when the retention deletes segments.",
                    queries=[
                        Prom(
                            f"sum by (topic) ({_NEWEST} - kafka_topic_partition_oldest_offset)",
                            "{{topic}}",
                        )
                    ],
                    empty="The exporter of topics does not answer.",
                    decimals=0,
                ),
                Panel(
                    title="Documents in Elasticsearch",
                    about="Documents on all nodes, with those of Kibana. One for each ride_id.",
                    queries=[Prom("sum by (cluster) (elasticsearch_indices_docs)", "documents")],
                    empty="The exporter of Elasticsearch does not answer.",
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Quality",
            (
                Panel(
                    kind="bars",
                    title="Rejected rides by reason",
                    about="One reason in every message: a producer changed its format. `make dlq` shows the messages.",
                    queries=[
                        Prom(grown_in_interval(_REJECTED, "reason"), "{{reason}}"),
                    ],
                    empty="No ride was rejected in this range.",
                ),
                Panel(
                    title="Share of rejected rides",
                    about="Of the raw rides that were processed in 10 minutes.",
                    queries=[
                        Prom(
                            f"{_RECENT[0]} / ({_RECENT[0]} + {_RECENT[1]} > 0)",
                            "rejected",
                        )
                    ],
                    empty="No ride was rejected in this range.",
                    unit="percentunit",
                    warn=0.05,
                ),
                Panel(
                    kind="bars",
                    title="Shop: transactions by outcome",
                    about="What became of the transactions in the warehouse. Refused ones are dead letters.",
                    queries=[
                        *(
                            Prom(grown_in_interval(f"airflow_datastream_shop_{outcome}"), outcome)
                            for outcome in ("inserted", "updated", "repeated", "stale")
                        ),
                        Prom(grown_in_interval("airflow_datastream_shop_refused", "reason"), "refused: {{reason}}"),
                    ],
                    empty="No transaction was loaded in this range. The profile shop is off, or its DAGs are.",
                ),
                Panel(
                    kind="bars",
                    title="Shop: nodes of dbt by status",
                    about="Models and tests of the runs of dbt. A failed test names rows in the schema ops.",
                    queries=[
                        Prom(
                            grown_in_interval("airflow_datastream_dbt_nodes", "status"),
                            "{{status}}",
                            "dbt",
                        )
                    ],
                    empty="dbt has not run in this range. The profile shop is off, or its DAGs are.",
                ),
            ),
        ),
        Row(
            "Warehouse; days are in UTC",
            (
                Panel(
                    kind="stat",
                    title="Age of the newest transaction",
                    about="Time since a row of raw.transactions_raw arrived. WarehouseStale fires after an hour.",
                    queries=[Prom("time() - max(datastream_warehouse_last_ingested_timestamp_seconds)")],
                    empty="The warehouse is empty, or the profile shop is off.",
                    unit="s",
                    warn=600,
                    alarm=3_600,
                    width=6,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Failed tests of dbt",
                    about="In the newest run that tested anything. The table below names them.",
                    queries=[Prom("max(datastream_dbt_failed_tests)", needs="dbt")],
                    empty="dbt has not tested anything yet.",
                    alarm=1,
                    width=6,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Age of the newest backup",
                    about="Time since it was finished. BackupStale fires after 26 hours.",
                    queries=[Sql("select extract(epoch from now() - max(finished_at))::float as age from ops.backups")],
                    empty=_NO_BACKUP,
                    unit="s",
                    alarm=93_600,
                    width=6,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Size of the newest backup",
                    about="Much less than yesterday: look at what is missing.",
                    queries=[Sql("select bytes from ops.backups order by finished_at desc limit 1")],
                    empty=_NO_BACKUP,
                    unit="bytes",
                    width=6,
                    height=4,
                ),
                Panel(
                    kind="bars",
                    title="Transactions by day of arrival",
                    about="Accepted into the marts, rejected by their rules, refused by the load.",
                    queries=[
                        Sql(
                            """
                            select day as time, outcome as metric, sum(transactions) as transactions
                            from marts.mart_data_quality
                            where outcome in ('accepted', 'rejected', 'refused') and $__timeFilter(day)
                            group by day, outcome order by day, outcome
                            """
                        )
                    ],
                    empty=_NO_MARTS,
                    decimals=0,
                    last="30d",
                ),
                Panel(
                    kind="bars",
                    title="Rejected transactions by reason",
                    about="By the day of arrival. marts.rejected_transactions and raw.load_refusals have the rows.",
                    queries=[
                        Sql(
                            """
                            select day as time, reason as metric, sum(transactions) as transactions
                            from marts.mart_data_quality
                            where outcome in ('rejected', 'refused') and $__timeFilter(day)
                            group by day, reason order by day, reason
                            """
                        )
                    ],
                    empty="No transaction was rejected in 30 days, or dbt_transform has not run.",
                    decimals=0,
                    last="30d",
                ),
                Panel(
                    kind="gauges",
                    title="Last run of dbt by status",
                    about="Models, snapshots, tests and sources of the newest run, each with its last result.",
                    queries=[
                        Sql(
                            """
                            select status, count(*) as nodes from (
                                select distinct on (unique_id) status from ops.dbt_results
                                where run_id = (select run_id from ops.dbt_results order by finished_at desc limit 1)
                                order by unique_id, finished_at desc
                            ) as last group by status order by nodes desc
                            """
                        )
                    ],
                    empty=_NO_DBT,
                    decimals=0,
                    width=6,
                ),
                Panel(
                    kind="table",
                    title="Failed tests of dbt and their rows",
                    about="The newest run that tested anything. The table has the rows that fail.",
                    queries=[
                        Sql(
                            "select split_part(unique_id, '.', 3) as test, failures as rows,\n"
                            "    replace(relation, '\"', '') as table, message, finished_at as tested\n"
                            f"from {FAILED_TESTS}\norder by failures desc nulls last, unique_id"
                        )
                    ],
                    empty="No test failed.",
                    width=18,
                ),
            ),
        ),
        Row(
            "Flights",
            (
                _total("Flights: observations", "New flights and weather in the buffer.", Prom(or_zero(_COLLECTED))),
                _total(
                    "Flights: repeats",
                    "Inputs that were in the buffer already. They are only counted.",
                    Prom(or_zero(grown(f"{_FLIGHTS}_repeated"))),
                ),
                _total("Flights: rejects", "Inputs that became dead letters.", Prom(or_zero(_NOT_COLLECTED))),
                _total(
                    "Flights: share rejected",
                    "Rejects among what is new. The alert on dead letters counts Kafka's messages.",
                    Prom(or_zero(f"{_NOT_COLLECTED} / ({_NOT_COLLECTED} + {_COLLECTED} > 0)")),
                    unit="percentunit",
                    warn=0.05,
                ),
                _total(
                    "Flights: rows cleaned",
                    "Rows written to Parquet. The rest waits, or was refused.",
                    Prom(or_zero(grown(f"{_FLIGHTS}_cleaned"))),
                ),
                _total(
                    "Flights: rows loaded",
                    "Rows in raw.flights and raw.weather of the warehouse. 0 without the profile shop.",
                    Prom(or_zero(grown(f"{_FLIGHTS}_loaded"))),
                ),
                Panel(
                    kind="bars",
                    title="Flights: inputs by source",
                    about="New observations and repeats. Only repeats: the source shows nothing new.",
                    queries=[
                        Prom(grown_in_interval(f"{_FLIGHTS}_collected", "source"), "{{source}}"),
                        Prom(grown_in_interval(f"{_FLIGHTS}_repeated", "source"), "{{source}}: repeats"),
                    ],
                    empty="Nothing was collected in this range. The profile flights is off, or its DAGs are.",
                ),
                Panel(
                    kind="bars",
                    title="Flights: rejects by reason",
                    about="One reason in every input: a source changed its format. `python -m jobs dlq flights`.",
                    queries=[
                        Prom(grown_in_interval(f"{_FLIGHTS}_rejected", "source", "reason"), "{{source}}: {{reason}}"),
                        Prom(grown_in_interval(f"{_FLIGHTS}_refused", "table", "reason"), "{{table}}: {{reason}}"),
                    ],
                    empty="Nothing was rejected in this range.",
                ),
            ),
        ),
        Row(
            "Ledger",
            (
                Panel(
                    kind="stat",
                    title="Verdict",
                    about="Of the last ledger of each vertical. Lost or doubled: keep the data, run `make ledger`.",
                    queries=[Prom("max by (vertical) (datastream_ledger_verdict)", "{{vertical}}")],
                    empty=_NO_LEDGER,
                    values=_VERDICTS,
                    width=6,
                    height=5,
                ),
                Panel(
                    kind="stat",
                    title="Age of the ledger",
                    about="Time since the last ledger was taken.",
                    queries=[Prom("time() - max by (vertical) (datastream_ledger_timestamp_seconds)", "{{vertical}}")],
                    empty=_NO_LEDGER,
                    unit="s",
                    warn=1_800,
                    alarm=3_600,
                    width=6,
                    height=5,
                ),
                _ledger("Lost", "Messages that a system misses.", "lost"),
                _ledger("Doubled", "Messages that a system holds once too often.", "doubled"),
                _ledger("Faults", "Differences between the figures. `make ledger` names them.", "faults"),
                Panel(
                    kind="table",
                    title="Figures",
                    about="Counted in every system by the last ledger.",
                    queries=[Prom("max by (vertical, figure) (datastream_ledger_messages)", "messages")],
                    empty=_NO_LEDGER,
                    decimals=0,
                    width=24,
                    height=9,
                ),
            ),
        ),
    ),
)
