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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services.catalog import local_stack
from infra.local.services.prometheus import describe_missing, find_program
from jobs import airflow_api
from jobs.inherited import make_environment
from jobs.kafka.topics import apply
from jobs.rides.vertical import COMPUTE_DAG
from jobs.settings import ROOT
from jobs.shop.database import ADMIN, BACKUP, LOADER, connect
from jobs.shop.transform import Node, Results, record_results
from jobs.verticals import load_declared_topics
from tests.alerts.scaled import SCRAPE_S, Watch, read_holds, watch
from tests.testkit.stack import guarded
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(900)

# Windows of rules and of Alertmanager's groups come on top of `for`; and a scrape may be late on a busy machine.
WITHIN_S = 150

Run = Callable[..., None]


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    for program in ("prometheus", "alertmanager"):
        if find_program(program) is None:
            pytest.fail(describe_missing(program))
    own = isolated_settings(observability_ledger_minutes=0.5)
    with guarded(own.datastream_state):
        local_stack(own).up(["kafka", "elasticsearch", "gcs", "postgres", "airflow", "exporter"])
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


@pytest.fixture(autouse=True)
def quiet_before(watched: Watch) -> None:
    until(lambda: watched.list_firing() == {"Watchdog"}, "no alert fires", WITHIN_S)


def expect(watched: Watch, name: str, cause: float, **labels: str) -> None:
    """Wait until an alert is at the webhook; print how long it took from the cause to the alert, and to the webhook."""
    until(lambda: watched.inbox.find("firing", name, cause, **labels) is not None, f"{name} arrives", WITHIN_S)
    arrived = time.time()
    alert = watched.inbox.find("firing", name, cause, **labels)
    assert alert is not None
    assert alert["annotations"]["runbook"] == f"docs/observability.md#{name.lower()}"
    (state,) = [it for it in watched.list_alerts() if it["labels"].items() >= {"alertname": name, **labels}.items()]
    assert state["state"] == "firing"
    print(f"{name}: at the webhook after {arrived - cause:.1f} s", file=sys.stderr)


def expect_recovery(watched: Watch, name: str, repaired: float) -> None:
    until(lambda: watched.inbox.find("resolved", name, repaired) is not None, f"{name} recovers", WITHIN_S)
    assert name not in watched.list_firing()


def follow(watched: Watch, name: str) -> float:
    """The seconds from the first evaluation that was true until the alert fires; asked for at short intervals."""
    pending: list[float] = []

    def is_firing() -> bool:
        states = {it["state"] for it in watched.list_alerts() if it["labels"]["alertname"] == name}
        if states and not pending:
            pending.append(time.monotonic())
        return "firing" in states

    until(is_firing, f"{name} fires", WITHIN_S, sleep=lambda _: time.sleep(0.1))
    return time.monotonic() - pending[0]


def set_paused(settings: Any, dag: str, is_paused: bool) -> None:
    with airflow_api.sign_in(settings) as (session, url):
        session.patch(f"{url}/{dag}", json={"is_paused": is_paused}, timeout=30).raise_for_status()


def assert_in_time(watched: Watch, name: str) -> None:
    """It fires within its `for` and two scrapes once its expression is true."""
    assert follow(watched, name) <= read_holds()[name] + 2 * SCRAPE_S + 0.5


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


def change(settings: Any, role: str, *statements: str) -> None:
    """Write into the warehouse, whose ages Prometheus does not scale."""
    with connect(settings, role) as database:
        for statement in statements:
            database.execute(statement)


def test_no_transaction_arrives_any_more(settings: Any, watched: Watch) -> None:
    transaction = (
        "insert into raw.transactions_raw (transaction_id, client_id, produit_id, montant, date, statut, ingested_at) "
        "values ('{}', 1, 1, 1, now(), 'success', now() - interval '{}')"
    )
    cause = time.time()
    change(settings, ADMIN, transaction.format("old", "61 minutes"))
    assert_in_time(watched, "WarehouseStale")
    expect(watched, "WarehouseStale", cause)
    repaired = time.time()
    change(settings, LOADER, transaction.format("new", "0 s"))
    expect_recovery(watched, "WarehouseStale", repaired)


def test_a_test_of_dbt_fails(settings: Any, watched: Watch) -> None:
    def record(status: str) -> None:
        node = Node(f"test.shop.{status}", status, 0.1, datetime.now(UTC), failures=1)
        record_results(settings, Results("test", uuid4().hex, (node,)), "run")

    cause = time.time()
    record("fail")
    assert_in_time(watched, "DbtTestsFailed")
    expect(watched, "DbtTestsFailed", cause)
    repaired = time.time()
    record("pass")
    expect_recovery(watched, "DbtTestsFailed", repaired)


def test_no_backup_is_made(settings: Any, watched: Watch) -> None:
    batch = (
        "insert into raw.load_batches (loaded_at, rows, inserted, updated, repeated, stale, refused) "
        "values (now() - interval '27 hours', 1, 1, 0, 0, 0, 0)"
    )
    cause = time.time()
    change(settings, ADMIN, batch)
    assert_in_time(watched, "BackupStale")
    expect(watched, "BackupStale", cause)
    repaired = time.time()
    change(settings, BACKUP, "insert into ops.backups values ('new.dump', now(), now(), 1, 1)")
    expect_recovery(watched, "BackupStale", repaired)


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
