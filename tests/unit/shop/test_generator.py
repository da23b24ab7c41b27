"""What the shop's generator draws."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

import shop_logs
from shop_logs import ApplicationLog
from shop_transactions import (
    CLIENTS,
    PRODUCTS,
    Transaction,
    add_faults,
    draw_history,
    draw_live,
    list_clients,
    list_products,
)

NOW = datetime(2026, 11, 29, 15, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> list[Transaction]:
    return list(draw_history(1, 28, 300, NOW))


def test_a_history_repeats_itself_and_grows(history: list[Transaction]) -> None:
    assert list(draw_history(1, 28, 300, NOW)) == history
    later = list(draw_history(1, 28, 300, NOW + timedelta(hours=5)))
    assert set(history) < set(later)
    assert list(draw_history(2, 28, 300, NOW)) != history


def test_a_history_is_sorted_by_time_and_ends_now(history: list[Transaction]) -> None:
    times = [item.updated_at for item in history]
    assert times == sorted(times)
    assert max(times) <= NOW
    assert min(item.date for item in history).date() == (NOW - timedelta(days=28)).date()


def test_a_transaction_changes_only_from_pending_to_its_outcome(history: list[Transaction]) -> None:
    by_id: dict[str, list[Transaction]] = {}
    for item in history:
        by_id.setdefault(item.transaction_id, []).append(item)
    assert {len(items) for items in by_id.values()} == {1, 2}
    for first, *changes in by_id.values():
        assert first.statut in ("pending", "success", "failed")
        for change in changes:
            assert (first.statut, change.statut in ("success", "failed")) == ("pending", True)
            assert change._replace(statut="pending", updated_at=first.updated_at) == first
            assert change.updated_at > first.updated_at


def test_a_history_has_weekdays_and_hours(history: list[Transaction]) -> None:
    weekdays = Counter(item.date.weekday() for item in history)
    hours = Counter(item.date.hour for item in history)
    assert weekdays[5] > weekdays[0]
    assert hours[20] > 3 * hours[4]


def test_clients_and_products_are_known(history: list[Transaction]) -> None:
    assert {item.client_id for item in history} <= {client.client_id for client in list_clients()}
    prices = {product.produit_id: product.prix for product in list_products()}
    assert all(item.montant in [prices[item.produit_id] * number for number in (1, 2, 3)] for item in history)
    assert (len(list_clients()), len(list_products())) == (CLIENTS, PRODUCTS)


def test_live_transactions_are_of_now_and_some_are_late() -> None:
    items = list(islice(draw_live(7, 0.1), 2000))
    ages = [item.updated_at - item.date for item in items if item.statut != "pending"]
    assert max(ages) > timedelta(hours=1)
    assert len({item.transaction_id for item in items}) < len(items), "some change their status"


def test_shares_of_faults_and_duplicates() -> None:
    items = list(islice(add_faults(draw_live(7, 0), 7, 0.1, 0.05, with_untyped=True), 20_000))
    faults = Counter(item.fault for item in items)
    assert 0.04 < faults["duplicate"] / len(items) < 0.06
    assert 0.08 < (faults.total() - faults[None] - faults["duplicate"]) / len(items) < 0.11
    typed = islice(add_faults(draw_live(7, 0), 7, 0.2, 0, with_untyped=False), 2000)
    assert all(item.is_typed for item in typed)


def test_the_log_is_rotated_by_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop_logs, "_MAX_BYTES", 20_000)
    path = tmp_path / "logs" / "app.log"
    log = ApplicationLog(path, 7, is_incident=False)
    log.write()
    first = path.stat().st_ino
    for _ in range(300):
        log.write()
    log.close()
    rotated = sorted(path.parent.iterdir())
    assert len(rotated) > 2
    assert first in {file.stat().st_ino for file in rotated if file != path}
    lines = [json.loads(line) for file in rotated for line in file.read_text().splitlines()]
    assert len({line["log_id"] for line in lines}) == len(lines) == 301
    assert set(lines[0]) == {"log_id", "timestamp", "level", "message", "response_time", "status_code"}


def test_an_incident_has_more_errors(tmp_path: Path) -> None:
    shares = []
    for is_incident in (False, True):
        path = tmp_path / f"{is_incident}.log"
        log = ApplicationLog(path, 7, is_incident=is_incident)
        for _ in range(500):
            log.write()
        log.close()
        shares.append(path.read_text().count('"ERROR"') / 500)
    assert shares[0] < 0.06
    assert shares[1] > 0.25


def test_faulty_and_repeated_log_lines(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    log = ApplicationLog(path, 7, is_incident=False, faulty=0.1, duplicates=0.1)
    for _ in range(2_000):
        log.write()
    log.close()
    lines = path.read_text().splitlines()
    repeated = len(lines) - len(set(lines))
    assert 150 < repeated < 250
    assert 150 < len(lines) - 2_000 - repeated < 250
    parsed = []
    for line in lines:
        with suppress(ValueError):
            parsed.append(json.loads(line))
    assert len(lines) - len(parsed) > 20, "some are not JSON"
    assert any(isinstance(line, list) for line in parsed)
    events = [line for line in parsed if isinstance(line, dict)]
    assert any("timestamp" not in event for event in events)
    assert any(event["status_code"] == "OK" for event in events)
    assert 150 < sum(event.get("host") == "a" for event in events) < 300
