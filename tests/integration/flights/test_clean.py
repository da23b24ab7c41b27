"""Cleaning: Parquet and rejects exactly once, and the warehouse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from jobs.clients import make_storage_client
from jobs.errors import OffsetsError, ServiceUnavailableError
from jobs.files import Folder
from jobs.flights import clean
from jobs.flights.clean import FLIGHTS, WEATHER, Cleaned, Table, Target, clean_topic
from jobs.flights.contract import Collected
from jobs.flights.vertical import CLEAN_DAG
from jobs.flights.warehouse import load_objects
from jobs.kafka.topic_ids import TopicIds
from jobs.shop.database import ADMIN, LOADER, READER, connect
from jobs.sinks.parquet import create_bucket, list_objects, read_rows
from tests.testkit.flights import flight, weather
from tests.testkit.kafka import Raw, produce, read_all


class Cleaning:
    """One group that cleans one topic."""

    def __init__(self, settings: Any, table: Table, folder: Path) -> None:
        self.settings = settings
        self.table = table
        self.config = {"bootstrap.servers": settings.bootstrap_servers}
        self.client = make_storage_client(settings)
        self.folder = Folder(folder.as_uri())
        topic = settings.flights_topic if table is FLIGHTS else settings.flights_weather_topic
        self.target = Target(
            topic, f"clean-{uuid4().hex[:8]}", "Clean", settings.flights_dlq_topic, settings.bucket,
            f"clean/{uuid4().hex[:8]}", table,
        )  # fmt: skip
        create_bucket(self.client, settings.bucket)

    def send(self, *messages: Collected | bytes | None) -> None:
        raws = [
            it if it is None or isinstance(it, bytes) else Raw(msgspec.json.encode(it), it.key.encode())  # type: ignore[union-attr]
            for it in messages
        ]
        produce(self.config, self.target.topic, raws)

    def run(self) -> Cleaned | None:
        return clean_topic(
            self.config,
            self.client,
            self.target,
            self.settings,
            folder=self.folder.child(uuid4().hex),
            topic_ids=TopicIds(self.folder),
        )

    def rows(self) -> list[dict[str, Any]]:
        objects = list_objects(self.client, self.target.bucket, f"{self.target.prefix}/{self.table.name}")
        return [row for blob in objects for row in read_rows(blob, self.table.schema).to_pylist()]

    def letters(self) -> list[tuple[bytes | None, str]]:
        letters = read_all(self.config, self.target.dlq_topic)
        assert all(letter.error["connector.name"] == CLEAN_DAG for letter in letters)
        return [(letter.value, letter.error["exception.class.name"]) for letter in letters]


@pytest.fixture
def cleaning_weather(flights: Any, tmp_path: Path) -> Cleaning:
    return Cleaning(flights, WEATHER, tmp_path)


@pytest.fixture
def cleaning_flights(flights: Any, tmp_path: Path) -> Cleaning:
    return Cleaning(flights, FLIGHTS, tmp_path)


def test_weather_has_one_unit_for_each_quantity(cleaning_weather: Cleaning) -> None:
    cleaning_weather.send(
        weather("DSS", temperature=300.15, wind_speed=10, units="standard"),
        weather("CDG", temperature=20, wind_speed=10, wind_gust=12, rain_1h_mm=0.5),
        weather("JFK", temperature=50, feels_like=41, wind_speed=10, units="imperial"),
    )
    done = cleaning_weather.run()
    assert done is not None
    assert done.rows == 3
    rows = {row["place_id"]: row for row in cleaning_weather.rows()}
    assert [rows[place]["temperature_c"] for place in ("DSS", "CDG", "JFK")] == pytest.approx([27, 20, 10])
    assert rows["JFK"]["feels_like_c"] == pytest.approx(5)
    assert [rows[place]["wind_speed_ms"] for place in ("DSS", "CDG", "JFK")] == pytest.approx([10, 10, 4.4704])
    assert (rows["CDG"]["wind_gust_ms"], rows["CDG"]["rain_1h_mm"], rows["DSS"]["rain_1h_mm"]) == (12, 0.5, None)
    assert rows["DSS"]["ts"] == datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert cleaning_weather.run() is None


def test_delays_are_filled_in_and_implausible_flights_rejected(cleaning_flights: Cleaning) -> None:
    late = flight(1, status="active", actual_departure="2026-01-05T15:20:00Z")
    told = flight(2, departure_delay_min=7, estimated_departure="2026-01-05T16:00:00Z")
    backwards = flight(3, scheduled_arrival="2026-01-05T14:00:00Z")
    unknown = flight(4, status="landed")
    foreign, empty = b"{}", None
    strange = msgspec.json.encode(msgspec.structs.replace(late, scheduled_arrival="soon"))
    cleaning_flights.send(late, backwards, told, unknown, foreign, empty, strange)

    done = cleaning_flights.run()
    assert done is not None
    rows = {row["flight_id"]: row for row in cleaning_flights.rows()}
    assert {name: row["departure_delay_min"] for name, row in rows.items()} == {late.flight_id: 20, told.flight_id: 7}
    assert Counter(cleaning_flights.letters()) == Counter(
        [
            (msgspec.json.encode(backwards), "implausible"),
            (msgspec.json.encode(unknown), "missing_value"),
            (foreign, "invalid_message"),
            (empty, "invalid_message"),
            (strange, "invalid_message"),
        ]
    )
    assert done.rejects == {"implausible": 1, "missing_value": 1, "invalid_message": 3}


def test_a_run_that_ends_between_export_and_commit_is_repeated_without_doubles(
    cleaning_flights: Cleaning, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaning_flights.send(*(flight(number) for number in range(50)), b"bad")

    def fail(*_: Any) -> None:
        raise ServiceUnavailableError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(clean, "commit_offsets", fail)
        with pytest.raises(ServiceUnavailableError, match="killed here"):
            cleaning_flights.run()
    assert len(cleaning_flights.rows()) == 50
    # More messages must not change the objects of the first try.
    cleaning_flights.send(*(flight(number) for number in range(50, 60)))
    assert cleaning_flights.run() is not None
    cleaning_flights.run()
    assert Counter(row["number"] for row in cleaning_flights.rows()) == Counter(str(number) for number in range(60))
    assert cleaning_flights.letters() == [(b"bad", "invalid_message")]


def test_a_group_without_offsets_does_not_export_everything_again(cleaning_flights: Cleaning) -> None:
    cleaning_flights.send(flight(1))
    cleaning_flights.run()
    cleaning_flights.target = msgspec.structs.replace(cleaning_flights.target, group=f"clean-{uuid4().hex[:8]}")
    with pytest.raises(OffsetsError):
        cleaning_flights.run()


@pytest.fixture
def warehouse(flights: Any) -> Iterator[Any]:
    with connect(flights, ADMIN) as database:
        database.execute("TRUNCATE raw.flights, raw.weather, raw.flights_objects")
    with connect(flights, LOADER) as database:
        yield database


def test_the_warehouse_gets_each_object_once(cleaning_flights: Cleaning, warehouse: Any) -> None:
    def load() -> dict[str, int]:
        target = cleaning_flights.target
        return load_objects(warehouse, cleaning_flights.client, target.bucket, target.prefix)

    cleaning_flights.send(*(flight(number) for number in range(20)))
    cleaning_flights.run()
    assert load() == {"flights": 20, "weather": 0}
    assert load() == {"flights": 0, "weather": 0}
    cleaning_flights.send(flight(20, marketing_number="DL8520", departure_delay_min=3.5))
    cleaning_flights.run()
    assert load() == {"flights": 1, "weather": 0}

    with connect(cleaning_flights.settings, READER) as database:
        rows = database.execute("SELECT number, scheduled_departure, departure_delay_min FROM raw.flights").fetchall()
    assert Counter(number for number, _, _ in rows) == Counter(str(number) for number in range(21))
    assert ("20", datetime(2026, 1, 5, 15, tzinfo=UTC), 3.5) in rows


def test_a_load_that_fails_leaves_nothing(cleaning_flights: Cleaning, warehouse: Any) -> None:
    cleaning_flights.send(*(flight(number) for number in range(5)))
    cleaning_flights.run()
    with connect(cleaning_flights.settings, ADMIN) as database:
        database.execute("ALTER TABLE raw.flights ADD CONSTRAINT broken CHECK (number <> '3')")
    target = cleaning_flights.target
    try:
        with pytest.raises(Exception, match="broken"):
            load_objects(warehouse, cleaning_flights.client, target.bucket, target.prefix)
    finally:
        with connect(cleaning_flights.settings, ADMIN) as database:
            database.execute("ALTER TABLE raw.flights DROP CONSTRAINT broken")
    loaded = load_objects(warehouse, cleaning_flights.client, target.bucket, target.prefix)
    with connect(cleaning_flights.settings, READER) as database:
        ((count,),) = database.execute("SELECT count(*) FROM raw.flights").fetchall()
    assert count == 5
    assert sum(loaded.values()) <= 5
