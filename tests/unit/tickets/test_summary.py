"""What the stream reports of a batch."""

from __future__ import annotations

import logging
import socket

import pytest

from jobs.tickets.summary import Summary
from tests.testkit.tickets import make_run

SUMMARY = Summary(make_run("stream-7"), 5, {"invalid_json": 2, "empty_value": 1}, 1.25)


def test_the_log_has_one_line_of_names_and_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ticket_processor"):
        SUMMARY.write_log(lag=4)
    assert caplog.messages == ["run=stream-7 in=8 tickets=5 rejects=3 empty_value=1 invalid_json=2 lag=4 seconds=1.2"]


def test_metrics_go_to_a_statsd_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        SUMMARY.send_metrics(f"127.0.0.1:{server.getsockname()[1]}", lag=4)
        lines = {server.recv(1000).decode() for _ in range(5)}
    assert lines == {
        "datastream.tickets.processed:5|c",
        "datastream.tickets.rejected,reason=invalid_json:2|c",
        "datastream.tickets.rejected,reason=empty_value:1|c",
        "datastream.tickets.lag:4|g",
        "datastream.tickets.batch_seconds:1250|ms",
    }


def test_a_statsd_server_that_is_not_there_does_no_harm() -> None:
    SUMMARY.send_metrics("no-such-host.invalid:9125", lag=0)
