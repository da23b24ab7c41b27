"""The metrics of a scoring."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics.validators import stat_name_default_handler

from jobs.rides.zones import Revenue
from operators import zones_operator

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/,=")


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], float]:
    """The gauges that were sent, by name, zone and comfort."""
    sent: dict[tuple[str, str, str], float] = {}

    class FakeStats:
        @staticmethod
        def gauge(name: str, value: float, *, tags: dict[str, str]) -> None:
            sent[name, tags["zone"], tags["comfort"]] = value

    monkeypatch.setattr(zones_operator, "Stats", FakeStats)
    return sent


def revenue(label: str, comfort: str, amount: float) -> Revenue:
    return Revenue(centroid_id=1, label=label, comfort=comfort, revenue=amount, rides=1, outside=0)


def test_revenue_is_sent_by_zone_and_comfort_with_the_time_of_the_scoring(
    gauges: dict[Any, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_767_600_000.75)
    zones_operator.send_revenue([revenue("Midtown", "low", 12.5), revenue("Midtown", "high", 3.0)])
    assert gauges == {
        ("datastream.zones.revenue", "Midtown", "low"): 12.5,
        ("datastream.zones.revenue", "Midtown", "high"): 3.0,
        ("datastream.zones.scored_timestamp_seconds", "Midtown", "low"): 1_767_600_000,
        ("datastream.zones.scored_timestamp_seconds", "Midtown", "high"): 1_767_600_000,
    }


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        ("John F. Kennedy Airport", "John_F._Kennedy_Airport"),
        ("Châtelet 2", "Chatelet_2"),
        ("Champs-Élysées", "Champs-Elysees"),
        ("40.713, -74.006", "40.713_-74.006"),
    ],
)
def test_airflow_accepts_the_name_of_every_zone(gauges: dict[Any, float], label: str, tag: str) -> None:
    """Airflow drops a metric whose name or tags have other characters."""
    zones_operator.send_revenue([revenue(label, "medium", 1.0)])
    assert {zone for _, zone, _ in gauges} == {tag}
    for name, zone, comfort in gauges:
        assert stat_name_default_handler(f"{name},zone={zone},comfort={comfort}", allowed_chars=ALLOWED)
