"""The page about the flights reads back what the stores hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import pytest

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.errors import ConfigurationError
from jobs.flights.airports import AIRPORTS
from jobs.flights.contract import Observation
from jobs.flights.figures import Delays, Latest, read_figures
from jobs.flights.page import write_page
from jobs.flights.stores import open_stores
from tests.testkit.flights import flight, weather
from tests.testkit.stack import guarded

MIDNIGHT = {"scheduled_departure": "2026-01-06T00:10:00Z", "scheduled_arrival": "2026-01-06T05:00:00Z"}


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    """The settings of running, empty stores."""
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["mysql", "cassandra"])
        yield settings


def fake(observation: Observation, source: str) -> Observation:
    return msgspec.structs.replace(observation, source=source)


def test_the_page_shows_what_the_stores_hold(settings: Any) -> None:
    with pytest.raises(ConfigurationError, match="make flights-demo"):
        write_page(settings)
    assert not settings.flights_page.exists()

    # The flights depart from Paris at 15:00 UTC, in Dakar ten minutes after midnight.
    observations: list[Observation] = [
        flight(1, departure_delay_min=99.0),
        flight(1, minute=30, status="active", departure_delay_min=20.0),
        flight(2, status="active", actual_departure="2026-01-05T15:10:00Z"),
        fake(flight(3, status="cancelled", estimated_departure="2026-01-05T20:00:00Z"), "fake:aviationstack"),
        fake(flight(4, departure_airport="DSS", arrival_airport="CDG", departure_delay_min=45, **MIDNIGHT), "faker"),
        weather("CDG", observed_at="2026-01-05T13:40:00Z", wind_speed=1),
        weather("CDG", observed_at="2026-01-05T15:20:00Z", wind_speed=10, units="imperial", temperature=50, aqi=2),
        weather("CDG", observed_at="2026-01-07T15:00:00Z", wind_speed=None, condition="Rain"),
        fake(weather(observed_at="2026-01-05T23:50:00Z", wind_speed=12, units="standard", temperature=300), "faker"),
        weather(observed_at="2026-01-06T02:00:00Z", wind_speed=1),
        weather("SIN", observed_at="2026-01-09T00:00:00Z", wind_speed=10, units="imperial", temperature=86, aqi=3),
    ]
    with open_stores(settings) as stores:
        for store in stores:
            store.write(observations)

    figures = read_figures(settings)
    assert figures.delays == Delays(flights=4, known=3, late=2, mean_min=25)
    assert figures.by_airport == {AIRPORTS["CDG"]: Delays(3, 2, 1, 15), AIRPORTS["DSS"]: Delays(1, 1, 1, 45)}
    assert figures.statuses == {"active": 2, "cancelled": 1, "scheduled": 1}
    # 10 miles per hour are 4.5 m/s.
    assert figures.by_wind == {1: Delays(2, 2, 1, 15), 4: Delays(1, 1, 1, 45)}
    assert (figures.first, figures.last) == (datetime(2026, 1, 5, 15), datetime(2026, 1, 6, 0, 10))
    assert (figures.observations, figures.fake_flights, figures.fake_observations) == (6, 2, 1)
    assert [it.airport.iata for it in figures.latest] == ["CDG", "DSS", "SIN"]
    assert figures.latest[0].condition == "Rain"
    assert figures.latest[2] == Latest(
        AIRPORTS["SIN"], datetime(2026, 1, 9), pytest.approx(30), pytest.approx(4.4704), None, 3
    )  # fmt: skip

    path = write_page(settings)
    assert path == settings.flights_page
    text = path.read_text(encoding="utf-8")
    assert "CDG Charles de Gaulle, Paris: 15 min, 50% late, 3 flights" in text
    assert "Fake data: 2 of 4 flights and 1 of 6 weather observations" in text
    assert not path.with_suffix(".part").exists()
