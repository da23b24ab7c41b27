"""Servers that fail in ways that pytest-httpserver cannot, and answers of the documented shapes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[str]:
    """A server that sends these bytes to each request; None: it never answers. Yields its URL."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(65536)
                    if answer is None:
                        held.append(connection.dup())
                    else:
                        connection.sendall(answer)

        held: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://{HOST}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


def make_self_signed(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def weather_body(**changes: Any) -> dict[str, Any]:
    """An answer of /data/2.5/weather in Boston, in calm weather."""
    return {
        "coord": {"lon": -71.0096, "lat": 42.3656},
        "weather": [{"id": 800, "main": "Clear", "description": "clear sky", "icon": "01d"}],
        "main": {"temp": 20.5, "feels_like": 20, "temp_min": 19, "temp_max": 22, "pressure": 1015, "humidity": 60},
        "visibility": 10000,
        "wind": {"speed": 3.6, "deg": 180},
        "clouds": {"all": 5},
        "dt": 1_767_614_400,  # 2026-01-05T12:00:00Z
        "sys": {"country": "US", "sunrise": 1_767_614_000, "sunset": 1_767_650_000},
        "timezone": -18000,
        "id": 1,
        "name": "Boston",
        "cod": 200,
        **changes,
    }


def air_body(**changes: Any) -> dict[str, Any]:
    """An answer of /data/2.5/air_pollution."""
    components = {"co": 200, "no": 0.1, "no2": 5.5, "o3": 40, "so2": 1, "pm2_5": 7.25, "pm10": 9, "nh3": 0.2}
    entry = {"main": {"aqi": 2}, "components": components, "dt": 1_767_610_800, **changes}
    return {"coord": {"lon": -71.0096, "lat": 42.3656}, "list": [entry]}


def flight_row(
    scheduled: str = "2026-01-05T10:00:00+00:00", *, departure: Any = None, arrival: Any = None, **changes: Any
) -> dict[str, Any]:
    """A row of /v1/flights: AF333 from Boston to Paris."""
    empty = dict.fromkeys(("terminal", "gate", "delay", "estimated", "actual", "estimated_runway", "actual_runway"))
    leaves = {**empty, "airport": "Logan", "timezone": "America/New_York", "iata": "BOS", "icao": "KBOS"}
    lands = {**empty, "airport": "Roissy", "timezone": "Europe/Paris", "iata": "CDG", "icao": "LFPG", "baggage": None}
    return {
        "flight_date": "2026-01-05",
        "flight_status": "scheduled",
        "departure": {**leaves, "scheduled": scheduled, **(departure or {})},
        "arrival": {**lands, "scheduled": "2026-01-05T23:00:00+00:00", **(arrival or {})},
        "airline": {"name": "Air France", "iata": "AF", "icao": "AFR"},
        "flight": {"number": "333", "iata": "AF333", "icao": "AFR333", "codeshared": None},
        "aircraft": None,
        "live": None,
        **changes,
    }


def shared_row(number: str, **changes: Any) -> dict[str, Any]:
    """The row of AF333 under the number of Delta."""
    shared = {
        "airline_name": "air france", "airline_iata": "af", "airline_icao": "afr",
        "flight_number": "333", "flight_iata": "af333", "flight_icao": "afr333",
    }  # fmt: skip
    flight = {"number": number, "iata": f"DL{number}", "icao": f"DAL{number}", "codeshared": shared}
    return flight_row(airline={"name": "Delta", "iata": "DL", "icao": "DAL"}, flight=flight, **changes)


def page_body(rows: list[Any], offset: int = 0, total: int | None = None) -> dict[str, Any]:
    """An answer of /v1/flights."""
    count = len(rows)
    pagination = {"limit": 100, "offset": offset, "count": count, "total": count if total is None else total}
    return {"pagination": pagination, "data": rows}
