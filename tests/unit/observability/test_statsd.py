"""The StatsD receiver of the run without Docker serves what statsd_exporter would."""

from __future__ import annotations

import socket

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from statsd import StatsClient

from jobs.observability.probes import Probe, ProbeCollector
from jobs.observability.statsd import Sample, StatsdReader, parse, receive
from tests.testkit.wait import until


def expose(reader: StatsdReader) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProbeCollector([Probe("statsd", reader.read)]))
    return generate_latest(registry).decode().splitlines()


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("ti.finish,dag_id=d,state=ok:2|c", Sample("ti_finish", (("dag_id", "d"), ("state", "ok")), "c", 2)),
        ("a.b:3|c|@0.5", Sample("a_b", (), "c", 6)),
        ("a-b,x.y=1:1500|ms", Sample("a_b", (("x_y", "1"),), "ms", 1.5)),
        ("lag:7|g", Sample("lag", (), "g", 7)),
        ("lag:-2|g", Sample("lag", (), "g", -2, is_change=True)),
    ],
)  # fmt: skip
def test_parse(line: str, sample: Sample) -> None:
    assert parse(line) == sample


@pytest.mark.parametrize("line", ["", "a", "a:1", "a:x|c", "a:1|s", ":|c", "lag,run=a:b:1|g"])
def test_other_lines_are_counted(line: str) -> None:
    reader = StatsdReader([1])
    reader.add(line.encode() or b"\n")
    reader.add(b"good:1|c")
    assert "good 1.0" in expose(reader)
    assert 'statsd_exporter_sample_errors_total{reason="malformed_line"} 1.0' in expose(reader)


def test_what_a_client_sends_is_served() -> None:
    reader = StatsdReader([1, 10])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receive(reader, "127.0.0.1", port)
    client = StatsClient("127.0.0.1", port, prefix="airflow")
    client.incr("priced,dag_id=d", 5)
    client.incr("priced,dag_id=d", 2)
    client.gauge("slots", 8)
    client.gauge("slots", -3, delta=True)
    for milliseconds in (500, 1_000, 4_000, 60_000):
        client.timing("duration,dag_id=d", milliseconds)
    until(lambda: 'airflow_duration_count{dag_id="d"} 4.0' in expose(reader), "all packets arrive")
    lines = expose(reader)
    assert 'airflow_priced{dag_id="d"} 7.0' in lines
    assert "airflow_slots 5.0" in lines
    assert [line for line in lines if line.startswith("airflow_duration")] == [
        'airflow_duration_bucket{dag_id="d",le="1"} 2.0',
        'airflow_duration_bucket{dag_id="d",le="10"} 3.0',
        'airflow_duration_bucket{dag_id="d",le="+Inf"} 4.0',
        'airflow_duration_sum{dag_id="d"} 65.5',
        'airflow_duration_count{dag_id="d"} 4.0',
    ]
    assert 'datastream_probe_success{probe="statsd"} 1.0' in lines


def test_a_source_that_fails_leaves_the_others() -> None:
    def fail() -> list[object]:
        raise OSError("down")

    reader = StatsdReader([1])
    reader.add(b"good:1|c")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProbeCollector([Probe("broken", fail), Probe("statsd", reader.read)]))  # type: ignore[arg-type]
    lines = generate_latest(registry).decode().splitlines()
    assert 'datastream_probe_success{probe="broken"} 0.0' in lines
    assert 'datastream_probe_success{probe="statsd"} 1.0' in lines
    assert "good 1.0" in lines
