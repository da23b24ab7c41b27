"""What `status` reads from the exporter, Prometheus and Airflow. The services are fakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from jobs import airflow_api
from jobs.airflow_api import Dag, LastRun
from jobs.errors import ServiceUnavailableError
from jobs.observability import status
from jobs.observability.status import (
    Alert,
    DeadLetterState,
    GroupState,
    Held,
    Part,
    Series,
    WarehouseState,
    read_status,
)
from jobs.observability.vertical import ObservabilitySettings

EXPORTER = """\
# TYPE datastream_probe_success gauge
datastream_probe_success{probe="kafka"} 1.0
datastream_probe_success{probe="elasticsearch"} 0.0
datastream_process_running{process="airflow-scheduler"} 1.0
kafka_consumergroup_lag{consumergroup="dag_compute_cost",topic="rides_raw",partition="0"} 40.0
kafka_consumergroup_lag{consumergroup="dag_compute_cost",topic="rides_raw",partition="1"} 2.0
kafka_consumergroup_lag{consumergroup="dag_compute_cost",topic="rides_raw",partition="2"} -1.0
datastream_consumergroup_lag_seconds{consumergroup="dag_compute_cost",topic="rides_raw"} 12.5
datastream_topic_partition_held_back{topic="rides_raw",partition="0"} 3.0
datastream_topic_partition_held_back{topic="rides_result",partition="0"} 0.0
# TYPE airflow_datastream_rides_freshness histogram
airflow_datastream_rides_freshness_bucket{dag_id="dag_compute_cost",le="5.0"} 94
airflow_datastream_rides_freshness_bucket{dag_id="dag_compute_cost",le="10.0"} 95
airflow_datastream_rides_freshness_bucket{dag_id="dag_compute_cost",le="+Inf"} 100
airflow_datastream_rides_freshness_bucket{dag_id="dag_index_and_export",le="900.0"} 1
airflow_datastream_rides_freshness_bucket{dag_id="dag_index_and_export",le="+Inf"} 2
datastream_dead_letters_info{vertical="rides",topic="rides_dlq",source="rides_raw"} 1.0
datastream_dead_letters_info{vertical="rides",topic="rides_dlq",source="rides_result"} 1.0
kafka_topic_partition_current_offset{topic="rides_dlq",partition="0"} 110.0
kafka_topic_partition_oldest_offset{topic="rides_dlq",partition="0"} 10.0
airflow_datastream_rides_rejected{reason="invalid_json"} 3
airflow_datastream_rides_rejected{reason="missing_field"} 90
airflow_datastream_rides_refused{reason="invalid_json"} 1
datastream_ledger_verdict{vertical="rides"} 1.0
datastream_ledger_timestamp_seconds{vertical="rides"} 1000.0
datastream_ledger_lost{vertical="rides"} 7.0
datastream_ledger_doubled{vertical="rides"} 0.0
datastream_ledger_faults{vertical="rides"} 1.0
datastream_warehouse_last_ingested_timestamp_seconds 1060.0
datastream_dbt_failed_tests 2.0
"""
# As in Docker, where other exporters serve it.
FEDERATED = """\
# TYPE kafka_consumergroup_lag untyped
kafka_consumergroup_lag{consumergroup="ticket_processor",topic="client_tickets",partition="0",job="kafka-exporter"} 5 1
"""
LAST_RUN = LastRun("run", "failed", "2026-01-05T08:00:00+00:00", 4.5)


def make_alert(name: str, state: str, severity: str) -> dict[str, Any]:
    annotations = {"summary": f"{name} happens", "runbook": f"docs/observability.md#{name.lower()}"}
    labels = {"alertname": name, "severity": severity}
    return {"labels": labels, "annotations": annotations, "state": state, "activeAt": "2026-01-05T08:00:00Z"}


@pytest.fixture
def settings(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> ObservabilitySettings:
    """The exporter and Prometheus are one fake server; Airflow's API is replaced."""
    monkeypatch.setattr(airflow_api, "read_last_runs", lambda _: [Dag("dag_compute_cost", False, LAST_RUN)])
    monkeypatch.setattr("time.time", lambda: 1090.0)
    return ObservabilitySettings(
        _env_file=None,
        observability_exporter_port=httpserver.port,
        observability_prometheus_port=httpserver.port,
    )


def serve_prometheus(server: HTTPServer, job: str = "datastream") -> None:
    targets = [{"labels": {"job": name}, "health": health} for name, health in ((job, "up"), ("kafka", "down"))]
    server.expect_request("/api/v1/targets").respond_with_json({"data": {"activeTargets": targets}})
    server.expect_request("/federate").respond_with_data(FEDERATED)
    alerts = [
        make_alert("Watchdog", "firing", "none"),
        make_alert("LagGrowing", "pending", "critical"),
        make_alert("DagLate", "firing", "warning"),
    ]
    server.expect_request("/api/v1/alerts").respond_with_json({"data": {"alerts": alerts}})


def test_the_exporter_is_enough(httpserver: HTTPServer, settings: ObservabilitySettings) -> None:
    httpserver.expect_request("/metrics").respond_with_data(EXPORTER)
    now = read_status(settings)
    assert now.parts == [
        Part("kafka", True, "exporter"),
        Part("elasticsearch", False, "exporter"),
        Part("airflow-scheduler", True, "supervisor"),
    ]
    assert now.groups == [GroupState("dag_compute_cost", "rides_raw", 42, 12.5)]
    assert now.held_back == [Held("rides_raw", 3)]
    assert now.dead_letters == [
        DeadLetterState("rides", "rides_dlq", 100, {"missing_field": 90, "invalid_json": 4}),
    ]
    (ledger,) = now.ledgers
    assert (ledger.verdict, ledger.age_s, ledger.lost, ledger.doubled, ledger.faults) == (
        "lost_or_doubled",
        90,
        7,
        0,
        1,
    )
    assert now.warehouse == WarehouseState(row_age_s=30, backup_age_s=None, failed_tests=2)
    assert now.alerts is None
    (note,) = now.notes
    assert "alerts are unknown" in note


def test_freshness_is_the_bound_that_95_percent_of_the_runs_keep(
    httpserver: HTTPServer, settings: ObservabilitySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("dag_compute_cost", "dag_index_and_export", "dag_zones_score")
    monkeypatch.setattr(airflow_api, "read_last_runs", lambda _: [Dag(name, True, None) for name in names])
    httpserver.expect_request("/metrics").respond_with_data(EXPORTER)
    assert {dag.dag_id: dag.fresh_within_s for dag in read_status(settings).dags or []} == {
        "dag_compute_cost": 10,
        "dag_index_and_export": math.inf,
        "dag_zones_score": None,
    }


def test_prometheus_adds_alerts_targets_and_what_other_exporters_serve(
    httpserver: HTTPServer, settings: ObservabilitySettings
) -> None:
    text = "\n".join(line for line in EXPORTER.splitlines() if "kafka_consumergroup_lag" not in line) + "\n"
    httpserver.expect_request("/metrics").respond_with_data(text)
    serve_prometheus(httpserver)
    now = read_status(settings)
    assert [(part.name, part.is_up) for part in now.parts if part.seen_by == "Prometheus"] == [
        ("datastream", True),
        ("kafka", False),
    ]
    assert GroupState("ticket_processor", "client_tickets", 5, None) in now.groups
    assert GroupState("dag_compute_cost", "rides_raw", None, 12.5) in now.groups
    assert now.alerts == [
        Alert(name, state, severity, f"{name} happens", f"docs/observability.md#{name.lower()}", "2026-01-05T08:00:00Z")
        for name, state, severity in (("DagLate", "firing", "warning"), ("LagGrowing", "pending", "critical"))
    ]
    assert now.notes == []


def test_another_prometheus_on_the_port_is_left_alone(httpserver: HTTPServer, settings: ObservabilitySettings) -> None:
    httpserver.expect_request("/metrics").respond_with_data(EXPORTER)
    serve_prometheus(httpserver, job="node")
    now = read_status(settings)
    assert now.alerts is None
    assert "Prometheus" not in {part.seen_by for part in now.parts}


def test_airflow_may_be_down(
    httpserver: HTTPServer, settings: ObservabilitySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> list[Dag]:
        raise ServiceUnavailableError("Airflow does not answer.")

    monkeypatch.setattr(airflow_api, "read_last_runs", fail)
    httpserver.expect_request("/metrics").respond_with_data(EXPORTER)
    now = read_status(settings)
    assert now.dags is None
    assert "Airflow does not answer." in now.notes


def test_without_the_exporter_the_remedy_is_named(
    httpserver: HTTPServer, settings: ObservabilitySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/metrics").respond_with_data("up 1\n")
    with pytest.raises(ServiceUnavailableError, match="OBSERVABILITY_EXPORTER_PORT"):
        read_status(settings)
    monkeypatch.setattr(status, "_TIMEOUT_S", 1)
    nobody = settings.model_copy(update={"observability_exporter_port": 1})
    with pytest.raises(ServiceUnavailableError, match="make observe"):
        read_status(nobody)


def test_series_of_the_first_text_win() -> None:
    series = Series('a{x="1"} 1\n', 'a{x="2"} 2\nb 3\n')
    assert list(series.read("a")) == [({"x": "1"}, 1.0)]
    assert list(series.read("b")) == [({}, 3.0)]
