"""Cassandra without Docker: what it keeps when it is killed, and its tables."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from cassandra import Unauthorized

from infra.cassandra import set_up
from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.environment import make_base
from infra.local.runner.health import find_fault
from infra.local.runner.paths import Paths, make_private_folder
from infra.local.runner.ports import find_free
from infra.local.services.cassandra import SERVICE
from infra.local.services.catalog import local_stack
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.cassandra import ADMIN, WRITER, connect
from jobs.flights.contract import FlightContent, WeatherContent
from jobs.settings import ROOT
from tests.testkit.stack import guarded
from tests.testkit.wait import until

DAY = date(2026, 1, 5)
OBSERVED = datetime(2026, 1, 5, 8, tzinfo=UTC)
INSERT = (
    "INSERT INTO weather_by_place_day (place_id, day, observed_at, event_id, temperature) VALUES (%s, %s, %s, %s, %s)"
)


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    """The settings of a running Cassandra."""
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up([SERVICE.name])
        yield settings


def read(settings: Any, place: str) -> dict[UUID, float]:
    """The temperatures of a place by event id."""
    with connect(settings) as session:
        rows = session.execute(
            "SELECT event_id, temperature FROM weather_by_place_day WHERE place_id = %s AND day = %s", [place, DAY]
        )
        return {row.event_id: row.temperature for row in rows}


def test_it_keeps_what_it_has_acknowledged(settings: Any) -> None:
    events = {uuid4(): float(number) for number in range(200)}
    with connect(settings) as session:
        for event, temperature in events.items():
            session.execute(INSERT, ["DSS", DAY, OBSERVED, event, temperature])
        server = psutil.Process(supervisor.read_states(Paths(settings.datastream_state))[SERVICE.name].pid)
        server.send_signal(signal.SIGKILL)
        server.wait(10)
    local_stack(settings).up([SERVICE.name])
    assert read(settings, "DSS") == events


def test_the_set_up_can_be_repeated(settings: Any) -> None:
    event = uuid4()
    with connect(settings) as session:
        session.execute(INSERT, ["LHR", DAY, OBSERVED, event, 4.5])
    for _ in range(2):
        set_up(settings)
    assert read(settings, "LHR") == {event: 4.5}


def test_repeated_writes_are_one_row_and_the_newest_comes_first(settings: Any) -> None:
    events = {hour: uuid4() for hour in (8, 9, 10)}
    with connect(settings) as session:
        for hour in (9, 8, 10, 9, 9):
            session.execute(INSERT, ["CDG", DAY, OBSERVED.replace(hour=hour), events[hour], float(hour)])
    assert list(read(settings, "CDG").items()) == [(events[hour], float(hour)) for hour in (10, 9, 8)]


def test_tables_have_every_field_of_an_observation(settings: Any) -> None:
    with connect(settings) as session:
        tables = session.cluster.metadata.keyspaces["flights"].tables
        weather, flights, latest = (
            tables[name] for name in ("weather_by_place_day", "flight_events_by_airport_day", "latest_by_place")
        )
    added = {"day", "event_id", "source"}
    assert set(weather.columns) == set(WeatherContent.__struct_fields__) | added
    content = set(FlightContent.__struct_fields__) - {"scheduled_departure"}
    assert set(flights.columns) == content | added | {"airport", "scheduled", "flight_id"}
    assert set(latest.columns) < set(weather.columns)
    for table in (weather, flights):
        assert table.options["default_time_to_live"] == 90 * 24 * 3600
        assert "TimeWindowCompactionStrategy" in table.options["compaction"]["class"]
    assert latest.options["default_time_to_live"] == 0


def test_another_server_on_the_port_is_a_fault(settings: Any, tmp_path: Path) -> None:
    other = isolated_settings(tmp_path, flights_cassandra_port=settings.flights_cassandra_port)
    assert find_fault(SERVICE, settings) is None
    assert "belongs to another server" in (find_fault(SERVICE, other) or "")


def test_only_the_native_port_and_the_storage_port_are_open(settings: Any) -> None:
    server = psutil.Process(supervisor.read_states(Paths(settings.datastream_state))[SERVICE.name].pid)
    listening = [it.laddr for it in server.net_connections("tcp") if it.status == psutil.CONN_LISTEN]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert settings.flights_cassandra_port in {address.port for address in listening}
    assert len(listening) == 2


def test_errors_name_the_address_and_the_remedy(settings: Any, tmp_path: Path) -> None:
    address = f"127.0.0.1:{settings.flights_cassandra_port}"
    with (
        pytest.raises(ConfigurationError, match=f"{address} has no keyspace absent"),
        connect(settings, keyspace="absent"),
    ):
        pass
    absent = isolated_settings(tmp_path)
    address = f"127.0.0.1:{absent.flights_cassandra_port}"
    with pytest.raises(ServiceUnavailableError, match=f"{address} does not answer: .*profile flights"), connect(absent):
        pass


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The settings of a Cassandra that has the configuration of Docker, where it asks for passwords."""
    passwords = {"flights_cassandra_admin_password": "it's", "flights_cassandra_password": "own"}
    settings = isolated_settings(**passwords)
    paths = Paths(settings.datastream_state)
    for folder in (paths.run, paths.tmp):
        make_private_folder(folder)
    (process,) = SERVICE.build(settings)
    process.folder.mkdir()
    supervisor.write_files(process)
    port, storage_port = find_free(2)
    *options, name = process.command
    command = [
        *(option for option in options if not option.startswith("-Dcassandra.config=")),
        f"-Dcassandra.config=file://{ROOT / 'infra' / 'cassandra' / 'cassandra.yaml'}",
        f"-Dcassandra.native_transport_port={port}", f"-Dcassandra.storage_port={storage_port}",
        "-Dcassandra.superuser_setup_delay_ms=0", name,
    ]  # fmt: skip
    environment = {**make_base(paths), **process.environment}
    with guarded(settings.datastream_state), (tmp_path_factory.mktemp("log") / "cassandra.log").open("w") as log:
        server = subprocess.Popen(command, cwd=process.folder, env=environment, stdout=log, stderr=log)
        try:
            # Not the address that it announces, as in Docker.
            wanted = {"flights_cassandra_host": "127.0.0.2", "flights_cassandra_port": port}
            yield settings.model_copy(update=wanted)
        finally:
            server.kill()
            server.wait()


def test_the_configuration_of_docker_asks_for_passwords(secured: Any) -> None:
    """On a new server, repeated, and after a change of the passwords."""
    until(lambda: can_sign_in(secured, ADMIN, "cassandra"), "Cassandra", 120)
    for _ in range(2):
        set_up(secured)
    for role, password in ((ADMIN, "cassandra"), (WRITER, "wrong"), (WRITER, "")):
        assert not can_sign_in(secured, role, password)
    changed = secured.model_copy(update={"flights_cassandra_password": "other"})
    set_up(changed)
    set_up(changed)
    with connect(changed) as session:
        session.execute(INSERT, ["DSS", DAY, OBSERVED, uuid4(), 30.5])
        for statement in (
            "DROP TABLE weather_by_place_day",
            "CREATE TABLE others (id int PRIMARY KEY)",
            "ALTER TABLE latest_by_place ADD more text",
            "CREATE ROLE others",
        ):
            with pytest.raises(Unauthorized):
                session.execute(statement)
    with pytest.raises(ConfigurationError, match=r"rejects flights: .*FLIGHTS_CASSANDRA_PASSWORD"), connect(secured):
        pass


def can_sign_in(settings: Any, role: str, password: str) -> bool:
    try:
        with connect(settings, role, keyspace=None, password=password):
            return True
    except (ConfigurationError, ServiceUnavailableError):
        return False
