"""The dashboard Pipeline: do the DAGs run, and do rides get through in time?"""

from __future__ import annotations

from infra.grafana.builder import (
    Dashboard,
    Panel,
    Prom,
    Row,
    Variable,
    grown,
    grown_in_interval,
    mean,
    or_zero,
    per_second,
    quantile,
)

_DAG = '{dag_id=~"$dag_id"}'
_FAILED_TASKS = 'airflow_ti_finish{state=~"failed|up_for_retry", dag_id=~"$dag_id"}'
_FRESHNESS = "airflow_datastream_rides_freshness"
_FLIGHTS = "airflow_datastream_flights"
_NO_RELAY = "The relay of the flights does not run. It runs with the profile flights."
_FIRING = 'ALERTS{alertstate="firing", alertname!="Watchdog"}'
_SUCCEEDED, _FAILED = (grown(f"airflow_dagrun_duration_{state}_count{_DAG}") for state in ("success", "failed"))

DASHBOARD = Dashboard(
    name="pipeline",
    about="DAG runs and tasks, freshness, lag, dead letters by reason, firing alerts.",
    variables=(Variable("dag_id", "airflow_task_duration_count"),),
    rows=(
        Row(
            "Now",
            (
                Panel(
                    kind="stat",
                    title="Firing alerts",
                    about="Alerts that fire now. docs/observability.md has a section for each, with what to do.",
                    queries=[Prom(or_zero(f"count({_FIRING})"))],
                    empty="Prometheus does not answer.",
                    warn=1,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Runs that succeeded",
                    about="Share of the DAG runs that ended in the range of the dashboard.",
                    queries=[Prom(f"{_SUCCEEDED} / ({_SUCCEEDED} + ({or_zero(_FAILED)}))")],
                    empty="No run has succeeded in this range.",
                    unit="percentunit",
                    warn=1,
                    alarm=0.9,
                    low_is_bad=True,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Failed tries of tasks",
                    about="A failed try is retried twice; a run fails when the last try has failed.",
                    queries=[Prom(or_zero(grown(_FAILED_TASKS)))],
                    empty="Prometheus does not answer.",
                    decimals=0,
                    warn=1,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Freshness, 95th percentile",
                    about="Seconds from producing a ride until it can be searched: the sum of both DAGs.",
                    queries=[Prom(f"sum({quantile(0.95, _FRESHNESS, 'dag_id', window='$__range')})")],
                    empty="No ride was indexed in this range.",
                    unit="s",
                    warn=60,
                    alarm=300,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Unread messages",
                    about="The lag of all consumer groups. Transactions leave up to one offset in each partition.",
                    queries=[Prom("sum(datastream:consumer_lag:messages)")],
                    empty="The exporter of consumer groups does not answer.",
                    decimals=0,
                    warn=10_000,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Import errors",
                    about="DAG files that Airflow cannot import. The start page of Airflow shows the error.",
                    queries=[Prom("max(airflow_dag_processing_import_errors)")],
                    empty="Airflow's DAG processor sends no metrics.",
                    alarm=1,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="table",
                    title="Alerts",
                    about="Pending alerts fire when their condition has lasted long enough.",
                    queries=[
                        Prom(
                            "max by (alertname, alertstate, severity, service, dag_id, consumergroup, topic) "
                            '(ALERTS{alertname!="Watchdog"})',
                            "state",
                        )
                    ],
                    empty="No alert is pending or firing.",
                    height=7,
                ),
                Panel(
                    kind="table",
                    title="Failed tries by task",
                    about="The logs are in Airflow: DAG, run, task, Logs.",
                    queries=[Prom(f"{grown(_FAILED_TASKS, 'dag_id', 'task_id')} > 0", "failed tries")],
                    empty="No task has failed in this range.",
                    decimals=0,
                    height=7,
                ),
            ),
        ),
        Row(
            "From Kafka to the sinks",
            (
                Panel(
                    title="Freshness by DAG, 95th percentile",
                    about="Seconds from a message's arrival on a DAG's topic until the run is done.",
                    queries=[Prom(quantile(0.95, _FRESHNESS, "dag_id", window="10m"), "{{dag_id}}")],
                    empty="No ride was indexed in this range.",
                    unit="s",
                    warn=60,
                    alarm=300,
                ),
                Panel(
                    title="Lag in seconds",
                    about="The age of the oldest message that a group has not read.",
                    queries=[
                        Prom(
                            "max by (consumergroup, topic) (datastream_consumergroup_lag_seconds)", "{{consumergroup}}"
                        )
                    ],
                    empty="The exporter of consumer groups does not answer.",
                    unit="s",
                    warn=300,
                ),
                Panel(
                    title="Lag in messages",
                    about="Messages that a group has not read. A line that only rises: the group does not read at all.",
                    queries=[Prom("datastream:consumer_lag:messages", "{{consumergroup}}")],
                    empty="The exporter of consumer groups does not answer.",
                    decimals=0,
                ),
                Panel(
                    kind="gauges",
                    title="Dead letters by reason",
                    about="Messages that could not be processed, in the range of the dashboard: `python -m jobs dlq`.",
                    queries=[
                        Prom(f"{grown('airflow_datastream_rides_rejected', 'reason')} > 0", "rides: {{reason}}"),
                        Prom(f"{grown('airflow_datastream_rides_refused', 'reason')} > 0", "sinks: {{reason}}"),
                        Prom(f"{grown('airflow_datastream_shop_refused', 'reason')} > 0", "shop: {{reason}}"),
                        Prom(f"{grown(f'{_FLIGHTS}_rejected', 'reason')} > 0", "flights: {{reason}}"),
                        Prom(f"{grown(f'{_FLIGHTS}_refused', 'reason')} > 0", "cleaning flights: {{reason}}"),
                    ],
                    empty="No message became a dead letter in this range.",
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Flights",
            (
                Panel(
                    kind="bars",
                    title="Flights: collected by source",
                    about="New observations, and inputs that became dead letters. A source without bars is silent.",
                    queries=[
                        Prom(grown_in_interval(f"{_FLIGHTS}_collected", "source"), "{{source}}"),
                        Prom(grown_in_interval(f"{_FLIGHTS}_rejected", "source"), "{{source}}: rejected"),
                    ],
                    empty="Nothing was collected in this range. The profile flights is off, or its DAGs are.",
                ),
                Panel(
                    kind="gauges",
                    title="Flights: requests left",
                    about="Requests that the plan of each API has left. `make quota` names the date of the next ones.",
                    queries=[Prom(f"min by (api, period) ({_FLIGHTS}_quota_left)", "{{api}}: {{period}}")],
                    empty="No collector has run since the start of the exporter.",
                    decimals=0,
                    warn=10,
                    alarm=1,
                    low_is_bad=True,
                ),
                Panel(
                    title="Flights: waiting for the relay",
                    about="Observations and rejects in the buffer. A line that only rises: a store does not answer.",
                    queries=[Prom("max by (kind) (datastream_flights_waiting)", "{{kind}}")],
                    empty=_NO_RELAY,
                    decimals=0,
                ),
                Panel(
                    title="Flights: oldest in the buffer",
                    about="Age of the oldest entry that waits for the relay.",
                    queries=[Prom("max by (kind) (datastream_flights_oldest_seconds)", "{{kind}}")],
                    empty=_NO_RELAY,
                    unit="s",
                    warn=60,
                    alarm=300,
                ),
                Panel(
                    title="Flights: relayed",
                    about="Entries of the buffer per second that the relay wrote to the stores and to Kafka.",
                    queries=[Prom(per_second("datastream_flights_relayed_total", "kind"), "{{kind}}")],
                    empty=_NO_RELAY,
                    unit="cps",
                ),
                Panel(
                    kind="bars",
                    title="Flights: clean rows",
                    about="Rows that dag_clean_flights wrote to Parquet, and messages that it refused.",
                    queries=[
                        Prom(grown_in_interval(f"{_FLIGHTS}_cleaned", "table"), "{{table}}"),
                        Prom(grown_in_interval(f"{_FLIGHTS}_refused", "table"), "{{table}}: refused"),
                    ],
                    empty="Nothing was cleaned in this range. The profile flights is off, or dag_clean_flights is.",
                ),
            ),
        ),
        Row(
            "Airflow",
            (
                Panel(
                    kind="bars",
                    title="Runs by DAG and result",
                    about="Runs that ended.",
                    queries=[
                        Prom(
                            grown_in_interval(f"airflow_dagrun_duration_{state}_count{_DAG}", "dag_id"),
                            f"{{{{dag_id}}}}: {title}",
                        )
                        for state, title in (("success", "succeeded"), ("failed", "failed"))
                    ],
                    empty="No run has ended in this range.",
                ),
                Panel(
                    title="Duration of runs, 95th percentile",
                    about="Of the runs that succeeded in an hour. dag_compute_cost waits up to POLL_WAIT_S for rides.",
                    queries=[
                        Prom(
                            quantile(0.95, f"airflow_dagrun_duration_success{_DAG}", "dag_id", window="1h"),
                            "{{dag_id}}",
                        )
                    ],
                    empty="No run has succeeded in the last hour.",
                    unit="s",
                ),
                Panel(
                    title="Duration of tasks, mean",
                    about="Of the tries that ended in the last hour.",
                    queries=[
                        Prom(
                            mean(f"airflow_task_duration{_DAG}", "dag_id", "task_id", window="1h"),
                            "{{dag_id}}.{{task_id}}",
                        )
                    ],
                    empty="No task has ended in the last hour.",
                    unit="s",
                ),
                Panel(
                    title="Delay of scheduled runs, mean",
                    about="Seconds from when a run was due to its start. It grows when Airflow lacks CPU or slots.",
                    queries=[Prom(mean(f"airflow_dagrun_schedule_delay{_DAG}", "dag_id", window="1h"), "{{dag_id}}")],
                    empty="No scheduled run has started in the last hour.",
                    unit="s",
                    warn=60,
                ),
                Panel(
                    title="Heartbeats",
                    about="Heartbeats per second of the processes of Airflow. 0: the process hangs or is dead.",
                    queries=[
                        Prom(per_second(f"airflow_{name}_heartbeat"), name)
                        for name in ("scheduler", "dag_processor", "triggerer")
                    ],
                    empty="Airflow sends no metrics. Check its settings AIRFLOW__METRICS__*.",
                    unit="cps",
                ),
                Panel(
                    title="Slots of the pools",
                    about="Tasks wait when no slot is open. More slots: Airflow, Admin, Pools.",
                    queries=[
                        Prom(f"max by (pool_name) (airflow_pool_{state}_slots)", f"{{{{pool_name}}}}: {state}")
                        for state in ("open", "running", "queued", "scheduled", "deferred")
                    ],
                    empty="Airflow's scheduler sends no metrics.",
                ),
            ),
        ),
    ),
)
