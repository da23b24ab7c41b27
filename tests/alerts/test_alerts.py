"""`make test-alerts`: break the stack, and be told. Alerts reach a webhook, name their runbook section, and recover.

The rules are those of infra/prometheus, with all durations divided by 20.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from jobs import airflow_api
from jobs.inherited import make_environment
from jobs.kafka.topics import apply
from jobs.rides.vertical import COMPUTE_DAG
from jobs.settings import ROOT
from jobs.verticals import load_declared_topics
from tests.alerts.arrivals import assert_in_time, expect, expect_recovery
from tests.alerts.scaled import Watch, watch
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(900)

Run = Callable[..., None]


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    own = isolated_settings(observability_ledger_minutes=0.5)
    with guarded(own.datastream_state):
        local_stack(own).up(["kafka", "elasticsearch", "gcs", "airflow", "exporter"])
        apply({"bootstrap.servers": own.bootstrap_servers}, load_declared_topics(own, own.bootstrap_servers))
        yield own


@pytest.fixture(scope="module")
def run(settings: Any) -> Run:
    """Runs a command of `python -m jobs` on this stack."""

    def call(*arguments: str) -> None:
        command = [sys.executable, "-m", "jobs", *arguments]
        subprocess.run(
            command, cwd=ROOT, env=make_environment(export_settings(settings)), check=True, capture_output=True,
            timeout=300,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def watched(settings: Any, run: Run) -> Iterator[Watch]:
    """Prometheus beside a stack that works and is silent."""
    run("unpause")
    run("produce", "--rate", "0", "--count", "500")
    run("wait")
    with tempfile.TemporaryDirectory() as folder, watch(settings, Path(folder)) as found:
        until(lambda: "Watchdog" in found.list_firing(), "the rules are evaluated")
        yield found


def set_paused(settings: Any, dag: str, is_paused: bool) -> None:
    with airflow_api.sign_in(settings) as (session, url):
        session.patch(f"{url}/{dag}", json={"is_paused": is_paused}, timeout=30).raise_for_status()


def test_a_paused_dag_stalls_its_group(settings: Any, watched: Watch, run: Run) -> None:
    set_paused(settings, COMPUTE_DAG, True)
    cause = time.time()
    run("produce", "--rate", "0", "--count", "1000")
    assert_in_time(watched, "ConsumerStalled")
    expect(watched, "ConsumerStalled", cause, consumergroup=COMPUTE_DAG)
    repaired = time.time()
    set_paused(settings, COMPUTE_DAG, False)
    run("wait")
    expect_recovery(watched, "ConsumerStalled", repaired)


def test_bad_rides_raise_the_share_of_dead_letters(watched: Watch, run: Run) -> None:
    cause = time.time()
    run("produce", "--rate", "50", "--count", "3000", "--faulty", "0.3")
    expect(watched, "DeadLetterShare", cause, vertical="rides")
    repaired = time.time()
    run("wait")
    expect_recovery(watched, "DeadLetterShare", repaired)


def test_an_open_transaction_holds_messages_back(settings: Any, watched: Watch, run: Run) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "transactional.id": "holds-back"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(settings.raw_topic, key="held", value="{}", partition=0)
    producer.flush(30)
    cause = time.time()
    assert_in_time(watched, "MessagesHeldBack")
    expect(watched, "MessagesHeldBack", cause, topic=settings.raw_topic, partition="0")
    repaired = time.time()
    producer.abort_transaction(30)
    expect_recovery(watched, "MessagesHeldBack", repaired)


def test_elasticsearch_is_killed(settings: Any, watched: Watch) -> None:
    cause = time.time()
    os.kill(supervisor.read_states(Paths(settings.datastream_state))["elasticsearch"].pid, signal.SIGKILL)
    expect(watched, "ElasticsearchDown", cause)
    repaired = time.time()  # the supervisor starts it again
    expect_recovery(watched, "ElasticsearchDown", repaired)


def test_the_exporter_is_stopped(settings: Any, watched: Watch) -> None:
    cause = time.time()
    supervisor.stop(Paths(settings.datastream_state), ["exporter"])
    assert_in_time(watched, "TargetDown")
    expect(watched, "TargetDown", cause, job="datastream")
    repaired = time.time()
    local_stack(settings).up(["exporter"])
    expect_recovery(watched, "TargetDown", repaired)


def test_nothing_was_lost_meanwhile(run: Run) -> None:
    run("wait")
    run("ledger")
