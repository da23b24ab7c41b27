"""Flights from AviationStack. Format: https://aviationstack.com/documentation, "Flights".

It has three traps. Times are local, but with the offset +00:00 (https://github.com/apilayer/aviationstack/issues/1). An
aeroplane is listed under the number of each airline that sells it. Errors come in two shapes, also with status 200.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import available_timezones

import httpx
import msgspec

from jobs.errors import ConfigurationError
from jobs.flights.airports import AIRPORTS, convert_local
from jobs.flights.contract import (
    MAX_TEXT,
    Collected,
    Flight,
    Kind,
    Origin,
    Reason,
    format_time,
    make_flight,
    make_reject,
)
from jobs.flights.quota import Plan, list_aviationstack_plans
from jobs.flights.sources.http import STAND_IN_KEY, Api, ApiClient, parse_body, read_path
from jobs.flights.vertical import FlightsSettings
from jobs.strict_json import RejectedError, normalise_timestamp

logger = logging.getLogger(__name__)

URL = "https://api.aviationstack.com"
FLIGHTS = "/v1/flights"
PAGE_ROWS = 100  # the most that a page can have

USED_UP = "usage_limit_reached"
TEMPORARY = {"rate_limit_reached", "internal_error"}
_KEY_REMEDY = "Set FLIGHTS_AVIATIONSTACK_KEY in .env to the key on your account's dashboard"
# Errors that stay, and what to do.
FATAL = {
    "invalid_access_key": _KEY_REMEDY,
    "missing_access_key": _KEY_REMEDY,
    "inactive_user": "The account is inactive: activate it at aviationstack.com",
    "function_access_restricted": "The account's plan does not have /v1/flights: choose a plan that does",
    "https_access_restricted": (
        "The account's plan does not have https. Over http, everyone on the way could read the key, so this collector "
        "never uses it: choose a plan that has https"
    ),
}
# The errors of the second shape by their numbers, for types that we do not know.
NUMBERS = {101: "invalid_access_key", 102: "inactive_user", 104: USED_UP, 106: "rate_limit_reached"}

_OFFSET = re.compile(r"(?:[Zz]|[+-]\d\d:\d\d)$", re.ASCII)


class _Row(NamedTuple):
    """A valid row of a page."""

    flight: Flight
    content: dict[str, Any]
    origin: Origin
    raw: bytes


class _Time(NamedTuple):
    """A time of a row.

    Attributes:
        utc: RFC 3339.
        local: at the airport, without an offset.
        is_corrected: whether the source's offset was wrong.
        is_ambiguous: whether the local time occurs twice.
    """

    utc: str
    local: datetime
    is_corrected: bool
    is_ambiguous: bool


def collect(settings: FlightsSettings, observed_at: datetime) -> Iterator[Collected]:
    """The flights of at most FLIGHTS_AVIATIONSTACK_PAGES pages. Without a key, from the stand-in.

    A page makes one request. A page that cannot be used is one reject, and collection goes on with the next page.

    Args:
        observed_at: when the flights were in the state that the pages show, with a time zone: the time of the run.

    Raises:
        ConfigurationError: AviationStack rejects the key or the account.
        QuotaUsedUpError: the month has no request left.
        ServiceUnavailableError: AviationStack does not answer, or answers with an error that may go away.
    """
    api = _describe(settings)
    first_rows: set[bytes] = set()
    offset = 0
    with ApiClient(settings, api) as client:
        for _ in range(settings.flights_aviationstack_pages):
            answer = client.get(FLIGHTS, {"limit": PAGE_ROWS, "offset": offset})
            origin = Origin(api.source, str(answer.request.url), format_time(datetime.now(UTC)))
            try:
                rows, total = _judge(answer)
            except RejectedError as error:
                yield make_reject(Kind.FLIGHT, origin, error, answer.content)
                offset += PAGE_ROWS
                continue
            if not rows:
                return
            if bytes(rows[0]) in first_rows:
                logger.warning("%s repeats a page at offset %d. Stopped.", api.source, offset)
                return
            first_rows.add(bytes(rows[0]))
            yield from _read_page(rows, origin, format_time(observed_at))
            offset += len(rows)
            if total is not None and offset >= total:
                return


def _describe(settings: FlightsSettings) -> Api:
    key = settings.flights_aviationstack_key
    (month,) = plans = list_aviationstack_plans(settings)

    def find_used_up(response: httpx.Response) -> Plan | None:
        return month if _find_error(response) == USED_UP else None

    return Api(
        source=month.source,
        url=URL if key else settings.flights_apis,
        key_name="access_key",
        key=key or STAND_IN_KEY,
        plans=plans,
        find_used_up=find_used_up,
        is_temporary=lambda response: _find_error(response) in TEMPORARY,
    )


def _find_error(response: httpx.Response) -> str | None:
    """The name of the error in a body, in one of both shapes; None if the body has none."""
    try:
        body = parse_body(response)
    except RejectedError:
        return None  # not for us to judge: `_judge` rejects it
    error = body.get("error")
    if error is None:
        return None if body.get("success", True) else "success is false"
    if not isinstance(error, dict):
        return str(error)[:MAX_TEXT]
    names = [error.get("type"), error.get("code")]
    names += [NUMBERS[name] for name in names if isinstance(name, int) and name in NUMBERS]
    known = [
        name for name in names if isinstance(name, str) and (name in FATAL or name in TEMPORARY or name == USED_UP)
    ]
    return known[0] if known else str(next((name for name in names if name is not None), "error"))[:MAX_TEXT]


def _judge(answer: httpx.Response) -> tuple[list[msgspec.Raw], int | None]:
    """The rows of a page, and the number of rows of all pages if the page says it.

    Raises:
        ConfigurationError: the key or the account is rejected.
        RejectedError: the body has an error or no data.
    """
    error = _find_error(answer)
    is_denied = answer.status_code == httpx.codes.UNAUTHORIZED
    if error in FATAL or is_denied:
        remedy = FATAL.get(error or "", _KEY_REMEDY)
        raise ConfigurationError(
            f"AviationStack answers {error or answer.status_code}: {answer.text[:MAX_TEXT]}. {remedy}, or leave "
            "FLIGHTS_AVIATIONSTACK_KEY empty to use the stand-in."
        )
    body = parse_body(answer)
    if error is not None:
        raise RejectedError(Reason.ERROR_IN_BODY, error)
    if answer.status_code != httpx.codes.OK:
        raise RejectedError(Reason.HTTP_ERROR, f"status {answer.status_code}")
    if not isinstance(body.get("data"), list):
        raise RejectedError(Reason.MISSING_DATA, "the body has no array data")
    total = read_path(body, "pagination", "total")
    rows = msgspec.json.decode(answer.content, type=_Page).data
    return rows, total if type(total) is int else None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]


def _read_page(rows: list[msgspec.Raw], page: Origin, observed_at: str) -> Iterator[Collected]:
    """The flights of a page. The rows of one operating flight are one observation."""
    flights: dict[str, list[_Row]] = {}
    for number, raw in enumerate(rows, start=1):
        origin = msgspec.structs.replace(page, position=f"{page.position} row {number}")
        try:
            content = _read_row(raw, observed_at)
            flight = make_flight(content, origin)
        except RejectedError as error:
            yield make_reject(Kind.FLIGHT, origin, error, bytes(raw))
        else:
            flights.setdefault(flight.flight_id, []).append(_Row(flight, content, origin, bytes(raw)))
    for listed in flights.values():
        # The operating carrier's own row first.
        first = min(listed, key=lambda row: row.flight.marketing_number or "")
        numbers = sorted({row.flight.marketing_number for row in listed if row.flight.marketing_number})
        try:
            yield make_flight({**first.content, "marketing_number": ",".join(numbers) or None}, first.origin)
        except RejectedError as error:  # more numbers than the contract allows
            yield make_reject(Kind.FLIGHT, first.origin, error, first.raw)


def _read_row(raw: msgspec.Raw, observed_at: str) -> dict[str, Any]:
    """The content of an observation.

    Raises:
        RejectedError: the row is not an object, or a time or a time zone is wrong.
    """
    row = msgspec.json.decode(raw)
    if not isinstance(row, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, f"the row is a {type(row).__name__}, not an object")
    times = {
        f"{name}_{end}": _read_time(row, end, name)
        for end in ("departure", "arrival")
        for name in ("scheduled", "estimated", "actual")
    }
    departure = times["scheduled_departure"]
    is_shared = read_path(row, "flight", "codeshared") is not None
    operating = "flight", "codeshared"
    return {
        "observed_at": observed_at,
        # AviationStack writes the operating flight in lower case.
        "airline": _upper(
            read_path(row, *operating, "airline_iata") if is_shared else read_path(row, "airline", "iata")
        ),
        "number": _upper(
            read_path(row, *operating, "flight_number") if is_shared else read_path(row, "flight", "number")
        ),
        "marketing_number": read_path(row, "flight", "iata") if is_shared else None,
        "flight_date": departure.local.date().isoformat() if departure else None,
        "departure_airport": read_path(row, "departure", "iata"),
        "arrival_airport": read_path(row, "arrival", "iata"),
        "status": row.get("flight_status"),
        **{name: time.utc if time else None for name, time in times.items()},
        "departure_delay_min": read_path(row, "departure", "delay"),
        "arrival_delay_min": read_path(row, "arrival", "delay"),
        "departure_local": read_path(row, "departure", "scheduled") if departure and departure.is_corrected else None,
        "is_ambiguous": any(time.is_ambiguous for time in times.values() if time),
    }


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _read_time(row: dict[str, Any], end: str, name: str) -> _Time | None:
    """A time of a row. An offset of zero is wrong: the time is local. Any other offset counts."""
    text = read_path(row, end, name)
    if text is None:
        return None
    path = f"{end}.{name}"
    if not isinstance(text, str):
        raise RejectedError(Reason.WRONG_TYPE, f"{path} is a {type(text).__name__}, not a string")
    checked = text if _OFFSET.search(text) else f"{text}Z"
    normalise_timestamp(checked, path)
    moment = datetime.fromisoformat(checked.upper())
    local = moment.replace(tzinfo=None)
    if moment.utcoffset():
        return _Time(format_time(moment), local, is_corrected=False, is_ambiguous=False)
    try:
        utc, is_ambiguous = convert_local(local, _find_zone(row, end))
    except OverflowError as error:
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"{path} {text!r}: {error}") from error
    return _Time(format_time(utc), local, is_corrected=True, is_ambiguous=is_ambiguous)


def _find_zone(row: dict[str, Any], end: str) -> str:
    """The time zone of an airport: the source's, if it exists, else ours."""
    zone = read_path(row, end, "timezone")
    if isinstance(zone, str) and zone in _list_zones():
        return zone
    code = read_path(row, end, "iata")
    if isinstance(code, str) and code in AIRPORTS:
        return AIRPORTS[code].timezone
    raise RejectedError(
        Reason.UNKNOWN_AIRPORT, f"{end}.timezone {zone!r:.40} is unknown, and so is the airport {code!r:.40}"
    )


@cache
def _list_zones() -> frozenset[str]:
    return frozenset(available_timezones())
