"""The generator, the ledger and the page, on real services."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from infra.local.environment import export_settings
from jobs.clients import Systems
from jobs.settings import ROOT
from jobs.shop.database import LOADER, connect
from jobs.shop.forecast import forecast_revenue
from jobs.shop.ledger import Ledger, take_ledger
from jobs.shop.page import write_page
from jobs.shop.transform import run_command
from tests.testkit.kafka import delete_all_records, read_all
from tests.testkit.shop import Loading, transaction
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(240)


def start_generator(loading: Loading, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | export_settings(loading.settings)
    environment |= {"SHOP_TOPIC": loading.source, "SHOP_BROKER": loading.settings.bootstrap_servers}
    command = [sys.executable, "producer/shop/generator.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def generate(loading: Loading, *arguments: str) -> str:
    generator = start_generator(loading, *arguments)
    _, errors = generator.communicate(timeout=DEADLINE_S)
    assert generator.returncode == 0, errors
    return errors


def dbt(loading: Loading, *command: str) -> None:
    target = loading.settings.datastream_state / "dbt"
    run_command(loading.settings, command, "test", logging.getLogger(__name__).info, target).check()


def count(loading: Loading) -> Ledger:
    return take_ledger(Systems(loading.settings))


def execute(loading: Loading, sql: str) -> None:
    with loading.database() as database:
        database.execute(sql)


@pytest.mark.usefixtures("dbt_environment")
def test_everything_that_is_generated_is_in_one_place(loading: Loading) -> None:
    straight = ("--to", "postgres", "--history", "90d", "--per-day", "10", "--faulty", "0.05", "--duplicates", "0.05")
    kafka = ("--to", "kafka", "--rate", "0", "--seed", "5", "--count", "1500", "--faulty", "0.1", "--duplicates", "0.1")
    generate(loading, *straight)
    generate(loading, *kafka)
    ledger = count(loading)
    assert (ledger.exit_code, ledger.waiting, ledger.marts) == (2, 1500, None)
    loading.group = "dag_load_transactions"
    loading.limits = loading.limits.__class__(run_records=100_000, chunk_records=400, chunk_bytes=2**25)
    loading.load(loading.staged())
    ledger = count(loading)
    assert (ledger.exit_code, ledger.waiting, ledger.dlq) == (2, 0, 0)
    assert ledger.unpublished > 50
    loading.publish()
    assert count(loading).exit_code == 2

    dbt(loading, "run")
    ledger = count(loading)
    assert (ledger.exit_code, ledger.faults) == (0, [])
    # Each message says which fault it has.
    sent = Counter(
        (dict(record.headers or []).get("datastream.fault") or b"").decode()
        for record in read_all(loading.config, loading.source)
    )
    assert ledger.messages == sent.total() == 1500
    for reason, number in ledger.dlq_by_reason.items():
        assert number == sent[reason], reason
    assert ledger.marts is not None
    typed = {reason: sent[reason] for reason in ledger.marts.rejected_by_reason}
    assert sum(sent.values()) - sent[""] - sent["duplicate"] == ledger.dlq + sum(typed.values())
    ((faulty_straight_in,),) = loading.query(
        "SELECT count(*) FROM marts.rejected_transactions r JOIN raw.transactions_raw USING (transaction_id) "
        "WHERE kafka_offset IS NULL"
    )
    assert ledger.marts.rejected == sum(typed.values()) + faulty_straight_in
    assert ledger.repeated + ledger.stale >= sent["duplicate"]
    assert ledger.refused_straight_in > 0
    assert ledger.generated == (ledger.raw + ledger.dlq + ledger.duplicates + ledger.refused_straight_in)
    assert ledger.raw == ledger.marts.accepted + ledger.marts.rejected
    assert ledger.marts.raw_sum == ledger.marts.mart_sum == ledger.raw_sum
    # What mart_data_quality counts is what the ledger counts.
    quality = dict(
        loading.query(
            "SELECT outcome || coalesce(nullif(':' || reason, ':'), ''), sum(transactions)::bigint "
            "FROM marts.mart_data_quality GROUP BY 1"
        )
    )
    refused = Counter(ledger.dlq_by_reason) + Counter(conflicting_transaction=ledger.refused_straight_in)
    assert {name.partition(":")[2]: n for name, n in quality.items() if name.startswith("refused")} == refused
    assert {name.partition(":")[2]: n for name, n in quality.items() if name.startswith("rejected")} == (
        ledger.marts.rejected_by_reason
    )

    # A page with all its charts.
    text = write_page(loading.settings).read_text(encoding="utf-8")
    assert text.count("<svg") == 4
    assert text.count("<table") == 2
    assert "There is no forecast yet" in text
    forecast = forecast_revenue(loading.settings)
    text = write_page(loading.settings).read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    assert forecast.score.verdict in text
    assert f"{forecast.days[6].day}: {forecast.days[6].predicted:,.2f}" in text
    assert f"{ledger.marts.accepted:,}" in text
    assert "unknown_client" in text

    # To generate the same again changes nothing.
    before = loading.query("SELECT transaction_id, statut, ingested_at FROM raw.transactions_raw ORDER BY 1")
    generate(loading, *straight, "--count", "500")
    assert loading.query("SELECT transaction_id, statut, ingested_at FROM raw.transactions_raw ORDER BY 1") == before
    assert count(loading).exit_code == 0

    # What is not in the marts yet is pending; what should be is lost.
    loading.send(transaction(client_id=1, montant=77.77))
    assert count(loading).exit_code == 2
    loading.run()
    ledger = count(loading)
    assert (ledger.exit_code, ledger.marts and ledger.marts.pending) == (2, 1)
    execute(
        loading,
        "DELETE FROM marts.fct_transactions WHERE customer_id = (SELECT min(customer_id) FROM marts.fct_transactions)",
    )
    ledger = count(loading)
    assert ledger.exit_code == 1
    assert "rows of raw are in no mart" in ledger.faults[0]


def test_a_transaction_is_found_everywhere(loading: Loading) -> None:
    content = transaction()
    loading.send(content, content | {"montant": 1}, transaction())
    loading.run()
    environment = os.environ | export_settings(loading.settings)
    environment |= {"SHOP_TOPIC": loading.source, "SHOP_DLQ_TOPIC": loading.dlq}
    command = [sys.executable, "-m", "jobs", "shop", "trace", "--json"]

    def trace(transaction_id: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, transaction_id], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip

    traced = trace(content["transaction_id"])
    assert traced.returncode == 0, traced.stderr
    sightings = json.loads(traced.stdout)["sightings"]
    assert [sighting["place"] for sighting in sightings] == [
        loading.source, loading.source, loading.dlq, "raw.transactions_raw",
    ]  # fmt: skip
    assert sightings[2]["error"].startswith("conflicting_transaction: ")
    assert sightings[3]["content"]["montant"] == "12.50"
    assert trace("TXN0").returncode == 1


def test_rows_of_the_sources_insert_are_counted(loading: Loading) -> None:
    with connect(loading.settings, "data_engineer") as database:
        database.execute(
            "INSERT INTO transactions_raw (transaction_id, client_id, produit_id, montant, date, statut) "
            "VALUES ('TXN17001234561234', 7, 7, 12.5, '2026-11-01T10:00:00', 'success')"
        )
    loading.send(transaction())
    loading.run()
    ledger = count(loading)
    assert (ledger.straight_in, ledger.messages, ledger.raw, ledger.faults) == (1, 1, 2, [])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("DELETE FROM raw.transactions_raw WHERE montant = 1", "1 inserted rows are not in raw.transactions_raw"),
        ("DELETE FROM raw.load_batches WHERE refused > 0", "messages of the topic were passed over"),
        ("DELETE FROM raw.load_refusals", "dead letters are of messages that were not refused"),
        ("UPDATE raw.load_batches SET rows = rows + 1, stale = stale + 1", "loaded messages are not in the topic"),
    ],
)
def test_what_is_lost_or_doubled_is_a_fault(loading: Loading, damage: str, fault: str) -> None:
    loading.send(transaction(montant=1), b"bad", transaction(montant=2))
    loading.run()
    execute(loading, damage)
    ledger = count(loading)
    assert ledger.exit_code == 1
    assert any(fault in text for text in ledger.faults), ledger.faults


def test_a_refused_row_without_a_reason_is_a_fault(loading: Loading) -> None:
    generate(loading, "--to", "postgres", "--rate", "0", "--count", "400", "--faulty", "0.3", "--seed", "1")
    assert count(loading).refused_straight_in > 0
    execute(loading, "DELETE FROM raw.load_refusals")
    assert any("refused rows have no reason" in text for text in count(loading).faults)


def test_what_retention_deleted_is_expired(loading: Loading) -> None:
    loading.send(transaction(), transaction())
    loading.run()
    delete_all_records(loading.config, loading.source)
    loading.send(transaction())
    loading.run()
    ledger = count(loading)
    assert (ledger.expired, ledger.messages, ledger.raw, ledger.faults) == (2, 1, 3, [])


def test_the_generator_survives_a_lost_connection_and_ends_with_ctrl_c(loading: Loading) -> None:
    generator = start_generator(loading, "--to", "postgres", "--rate", "50")

    def rows() -> int:
        return len(loading.query("SELECT FROM raw.transactions_raw"))

    until(lambda: rows() > 20, "the first transactions")
    execute(
        loading,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{LOADER}'",
    )
    seen = rows()
    until(lambda: rows() > seen + 20, "transactions over a new connection")
    generator.send_signal(signal.SIGINT)
    _, errors = generator.communicate(timeout=DEADLINE_S)
    assert generator.returncode == 0, errors
    ((loaded,),) = loading.query("SELECT sum(inserted) FROM raw.load_batches")
    assert loaded == rows()
    assert "sent" in errors.splitlines()[-1]


def test_the_generator_needs_no_schema(loading: Loading) -> None:
    """A PostgreSQL of someone else, with any user that may create tables."""
    execute(loading, "DROP DATABASE IF EXISTS another")
    execute(loading, "CREATE DATABASE another")
    server: Any = loading.settings
    password = server.shop_postgres_password
    dsn = f"host=127.0.0.1 port={server.shop_postgres_port} dbname=another user=postgres password={password}"
    generate(loading, "--to", "postgres", "--dsn", dsn, "--rate", "0", "--count", "100")
    generate(loading, "--to", "postgres", "--dsn", dsn, "--rate", "0", "--count", "100")
    with connect(server, "postgres", dbname="another") as database:
        counts = database.execute(
            "SELECT (SELECT count(*) FROM transactions_raw), (SELECT count(*) FROM clients), "
            "(SELECT count(*) FROM produits)"
        ).fetchall()
    assert counts[0][0] > 100
    assert counts[0][1:] == (1000, 100)
