"""Redis and MySQL without Docker: what they keep when they are killed, and who may do what."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local.isolation import isolated_settings
from infra.local.runner import supervisor
from infra.local.runner.health import find_fault
from infra.local.runner.paths import Paths
from infra.local.services import mysql as mysql_service
from infra.local.services import redis as redis_service
from infra.local.services.catalog import local_stack
from infra.mysql import set_up
from jobs.errors import ConfigurationError
from jobs.flights.airports import AIRPORTS
from jobs.flights.database import ADMIN, READER, WRITER, connect
from tests.testkit.stack import guarded

NAMES = ("redis", "mysql")


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    """The settings of a running Redis and MySQL."""
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(NAMES)
        yield settings


def read_pid(settings: Any, name: str) -> int:
    return supervisor.read_states(Paths(settings.datastream_state))[name].pid


def kill(settings: Any, name: str) -> None:
    """SIGKILL a server; returns when it has ended."""
    process = psutil.Process(read_pid(settings, name))
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def redis_client(settings: Any) -> redis.Redis:
    return redis.Redis(
        port=settings.flights_redis_port, password=settings.flights_redis_password, decode_responses=True
    )


def fill(client: redis.Redis) -> None:
    """Write more than Redis may keep."""
    for _ in range(200):
        client.xadd("full", {"value": "x" * 1_000_000})


def test_redis_keeps_what_it_has_acknowledged(settings: Any) -> None:
    with redis_client(settings) as client:
        for number in range(500):
            client.xadd("kept", {"number": str(number)})
    kill(settings, "redis")
    local_stack(settings).up(["redis"])
    with redis_client(settings) as client:
        assert [fields["number"] for _, fields in client.xrange("kept")] == [str(number) for number in range(500)]


def test_a_full_redis_refuses_instead_of_evicting(settings: Any) -> None:
    with redis_client(settings) as client:
        client.xadd("first", {"name": "kept"})
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill(client)
        assert client.xlen("first") == 1
        client.delete("full")


def test_redis_wants_a_password(settings: Any) -> None:
    no_retry = Retry(NoBackoff(), 0)
    with (
        redis.Redis(port=settings.flights_redis_port, retry=no_retry) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    configuration = Paths(settings.datastream_state).secrets / "redis.conf"
    assert configuration.stat().st_mode & 0o777 == 0o600
    assert settings.flights_redis_password not in " ".join(psutil.Process(read_pid(settings, "redis")).cmdline())


def test_mysql_keeps_what_it_has_committed(settings: Any) -> None:
    insert = "INSERT INTO airlines (iata, first_seen_at) VALUES (%s, '2026-01-05 08:00:00.123456')"
    with connect(settings, WRITER) as database:
        database.cursor().executemany(insert, [f"K{number}" for number in range(10)])
        database.commit()
        database.cursor().execute(insert, ["XX"])  # not committed
        kill(settings, "mysql")
    local_stack(settings).up(["mysql"])
    with connect(settings, READER) as database, database.cursor() as cursor:
        cursor.execute("SELECT iata, first_seen_at FROM airlines ORDER BY iata")
        rows = cursor.fetchall()
    assert [row["iata"] for row in rows] == [f"K{number}" for number in range(10)]
    assert {row["first_seen_at"].isoformat() for row in rows} == {"2026-01-05T08:00:00.123456"}


def test_another_server_on_the_port_is_a_fault(settings: Any, tmp_path: Path) -> None:
    """Servers of another checkout, with the same passwords and with others."""
    other = isolated_settings(
        tmp_path, flights_redis_port=settings.flights_redis_port, flights_mysql_port=settings.flights_mysql_port
    )
    for service in (redis_service.SERVICE, mysql_service.SERVICE):
        assert find_fault(service, settings) is None
        assert "belongs to another server" in (find_fault(service, other) or "")
    stranger = other.model_copy(update={"flights_redis_password": "other", "flights_mysql_root_password": "other"})
    for service in (redis_service.SERVICE, mysql_service.SERVICE):
        assert "belongs to another server" in (find_fault(service, stranger) or "")
    absent = isolated_settings(tmp_path)
    for service in (redis_service.SERVICE, mysql_service.SERVICE):
        assert "does not answer" in (find_fault(service, absent) or "")


def test_the_set_up_can_be_repeated(settings: Any) -> None:
    with connect(settings, ADMIN) as database:
        database.cursor().execute("UPDATE airports SET city = 'Nowhere' WHERE iata = 'DSS'")
        database.commit()
    for _ in range(2):
        set_up(settings)
    with connect(settings, READER) as database, database.cursor() as cursor:
        cursor.execute("SELECT iata, city, timezone FROM airports ORDER BY iata")
        rows = {row["iata"]: (row["city"], row["timezone"]) for row in cursor.fetchall()}
    assert rows == {airport.iata: (airport.city, airport.timezone) for airport in AIRPORTS.values()}


def test_the_set_up_changes_passwords(settings: Any) -> None:
    changed = settings.model_copy(update={"flights_mysql_password": "chang'd %s \\"})
    try:
        set_up(changed)
        with connect(changed, WRITER):
            pass
        with (
            pytest.raises(ConfigurationError, match=r"rejects flights: .*Set FLIGHTS_MYSQL_PASSWORD in \.env"),
            connect(settings, WRITER),
        ):
            pass
    finally:
        set_up(settings)


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        (WRITER, "DELETE FROM airlines"),
        (WRITER, "DROP TABLE airlines"),
        (WRITER, "TRUNCATE airlines"),
        (WRITER, "CREATE TABLE others (id INT)"),
        (WRITER, "SELECT * FROM mysql.user"),
        (WRITER, "SELECT 1 INTO OUTFILE 'result'"),
        (READER, "UPDATE airlines SET iata = 'XX'"),
        (READER, "INSERT INTO airlines (iata, first_seen_at) VALUES ('XX', NOW())"),
    ],
)
def test_users_have_no_other_rights(settings: Any, user: str, statement: str) -> None:
    with connect(settings, user) as database, pytest.raises(pymysql.Error, match="denied"):
        database.cursor().execute(statement)


def test_the_administrator_of_mysql_cannot_read_files(settings: Any) -> None:
    with connect(settings, ADMIN) as database, database.cursor() as cursor:
        cursor.execute("SELECT LOAD_FILE('/etc/hostname') AS content")
        assert cursor.fetchone() == {"content": None}


def test_an_empty_password_is_rejected(settings: Any) -> None:
    for user in ("root", ""):
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            pymysql.connect(host="127.0.0.1", port=settings.flights_mysql_port, user=user, password="")
