"""AviationStack's answers, good and bad."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.contract import Collected, Flight, Reject
from jobs.flights.quota import QuotaUsedUpError
from jobs.flights.sources import aviationstack
from jobs.flights.sources.aviationstack import FLIGHTS, collect
from jobs.flights.sources.http import TRIES
from jobs.flights.vertical import FlightsSettings
from tests.testkit.apis import flight_row, page_body, shared_row
from tests.unit.flights.apis.conftest import FakeQuota

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def collect_body(httpserver: HTTPServer, settings: FlightsSettings, body: Any, status: int = 200) -> list[Collected]:
    data = body if isinstance(body, bytes) else json.dumps(body)
    httpserver.expect_request(FLIGHTS).respond_with_data(data, status=status)
    return list(collect(settings, NOW))


def collect_row(httpserver: HTTPServer, settings: FlightsSettings, row: Any) -> Collected:
    (item,) = collect_body(httpserver, settings, page_body([row]))
    return item


def collect_flight(httpserver: HTTPServer, settings: FlightsSettings, row: Any) -> Flight:
    flight = collect_row(httpserver, settings, row)
    assert isinstance(flight, Flight), flight
    return flight


def test_a_row_is_an_observation(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    row = flight_row(
        flight_status="landed",
        departure={"delay": 12, "estimated": "2026-01-05T10:10:00+00:00", "actual": "2026-01-05T10:12:00+00:00"},
        arrival={"delay": 5, "actual": "2026-01-05T23:05:00+00:00"},
    )
    flight = collect_flight(httpserver, settings, row)
    assert flight.flight_id == "AF333/2026-01-05/BOS"
    assert flight.source == "fake:aviationstack"
    assert flight.position == httpserver.url_for(f"{FLIGHTS}?limit=100&offset=0 row 1")
    assert flight.observed_at == "2026-01-05T12:00:00.000000Z"
    assert (flight.status, flight.departure_airport, flight.arrival_airport) == ("landed", "BOS", "CDG")
    assert (flight.departure_delay_min, flight.arrival_delay_min, flight.marketing_number) == (12, 5, None)
    # Boston is 5 hours behind UTC, Paris 1 hour before it.
    assert flight.scheduled_departure == "2026-01-05T15:00:00.000000Z"
    assert flight.estimated_departure == "2026-01-05T15:10:00.000000Z"
    assert flight.actual_departure == "2026-01-05T15:12:00.000000Z"
    assert flight.scheduled_arrival == "2026-01-05T22:00:00.000000Z"
    assert flight.estimated_arrival is None
    assert flight.actual_arrival == "2026-01-05T22:05:00.000000Z"
    assert flight.departure_local == "2026-01-05T10:00:00+00:00"
    assert not flight.is_ambiguous


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        (("SIN", "Asia/Singapore"), "2026-01-05T01:30:00+00:00", "2026-01-04T17:30:00.000000Z"),
        (("LHR", "Europe/London"), "2026-06-05T00:30:00+00:00", "2026-06-04T23:30:00.000000Z"),
        (("LHR", "Europe/London"), "2026-01-05T10:00:00Z", "2026-01-05T10:00:00.000000Z"),
        (("BOS", "America/New_York"), "2026-07-05T22:00:00", "2026-07-06T02:00:00.000000Z"),
        # Without a time zone that exists, that of our airport counts.
        (("SIN", None), "2026-01-05T10:00:00+00:00", "2026-01-05T02:00:00.000000Z"),
        (("SIN", "Asia/Atlantis"), "2026-01-05T10:00:00+00:00", "2026-01-05T02:00:00.000000Z"),
        (("SIN", "../etc"), "2026-01-05T10:00:00+00:00", "2026-01-05T02:00:00.000000Z"),
        (("SIN", 8), "2026-01-05T10:00:00+00:00", "2026-01-05T02:00:00.000000Z"),
        # An offset that is not zero is right.
        (("SIN", "Asia/Singapore"), "2026-01-05T10:00:00+08:00", "2026-01-05T02:00:00.000000Z"),
    ],
)
def test_local_times_become_utc(
    httpserver: HTTPServer, settings: FlightsSettings, zone: tuple[str, Any], local: str, utc: str
) -> None:
    flight = collect_flight(
        httpserver,
        settings,
        flight_row(local, departure={"iata": zone[0], "timezone": zone[1]}, flight_date="1999-01-01"),
    )
    assert flight.scheduled_departure == utc
    assert flight.flight_date == local[:10]
    assert flight.departure_local == (None if local.endswith("+08:00") else local)


def test_of_an_hour_that_occurs_twice_the_first_counts(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    flight = collect_flight(httpserver, settings, flight_row("2026-11-01T01:30:00+00:00"))
    assert flight.scheduled_departure == "2026-11-01T05:30:00.000000Z"  # still summer time
    assert flight.is_ambiguous


def test_a_code_share_is_its_operating_flight(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    flight = collect_flight(httpserver, settings, shared_row("8000"))
    assert flight.flight_id == "AF333/2026-01-05/BOS"
    assert (flight.airline, flight.number, flight.marketing_number) == ("AF", "333", "DL8000")


def test_the_rows_of_an_operating_flight_are_one_observation(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    other = flight_row(flight={"number": "007", "iata": "AF007", "icao": "AFR007", "codeshared": None})
    rows = [shared_row("9000", flight_status="active"), other, flight_row(), shared_row("8000"), shared_row("8000")]
    first, second = collect_body(httpserver, settings, page_body(rows))
    assert isinstance(first, Flight)
    assert isinstance(second, Flight)
    assert (first.flight_id, first.marketing_number) == ("AF333/2026-01-05/BOS", "DL8000,DL9000")
    assert first.status == "scheduled"  # the operating carrier's own row
    assert first.position.endswith(" row 3")
    assert (second.flight_id, second.marketing_number) == ("AF7/2026-01-05/BOS", None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "not_an_object"),
        (flight_row() | {"departure": []}, "wrong_type"),
        (flight_row(flight=None), "missing_field"),
        (flight_row(airline={"iata": None}), "missing_field"),
        (flight_row(airline={"iata": "AFR"}), "invalid_text"),
        (flight_row("2026-02-30T10:00:00+00:00"), "invalid_timestamp"),
        (flight_row("20260105"), "invalid_timestamp"),
        (flight_row("9999-12-31T23:00:00+00:00"), "invalid_timestamp"),
        (flight_row(departure={"scheduled": 5}), "wrong_type"),
        (flight_row(departure={"scheduled": None}), "missing_field"),
        (flight_row(flight_status="lost"), "wrong_type"),
        (flight_row(departure={"delay": "12"}), "wrong_type"),
        (flight_row(departure={"delay": 99_999}), "out_of_range"),
        (flight_row(departure={"iata": "ZZ1"}), "unknown_airport"),
        (flight_row(departure={"iata": "ZZZ", "timezone": None}), "unknown_airport"),
    ],
)
def test_a_bad_row_does_not_stop_the_next(
    httpserver: HTTPServer, settings: FlightsSettings, row: Any, reason: str
) -> None:
    reject, flight = collect_body(httpserver, settings, page_body([row, flight_row()]))
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert json.loads(reject.value) == row
    assert reject.origin.position.endswith("offset=0 row 1")
    assert isinstance(flight, Flight)


def number_rows(start: int, count: int) -> list[dict[str, Any]]:
    """Rows of flights with distinct numbers."""
    return [
        flight_row(flight={"number": str(number), "iata": f"AF{number}", "icao": None, "codeshared": None})
        for number in range(start, start + count)
    ]


def serve_pages(httpserver: HTTPServer, rows: list[Any], total: int | None, most: int = 100) -> list[int]:
    """Serve rows by pages of at most `most`; returns the offsets that are asked for."""
    offsets: list[int] = []

    def respond(request: Request) -> Response:
        offset = int(request.args["offset"])
        offsets.append(offset)
        body = page_body(rows[offset : offset + most], offset, total)
        if total is None:
            del body["pagination"]
        return Response(json.dumps(body))

    httpserver.expect_request(FLIGHTS).respond_with_handler(respond)
    return offsets


@pytest.mark.parametrize(
    ("pages", "total", "offsets"),
    [
        ((250, 100), 250, [0, 100, 200]),
        ((200, 100), 200, [0, 100]),  # no request for an empty page
        ((200, 100), None, [0, 100, 200]),  # ends at the empty page
        ((150, 50), 150, [0, 50, 100]),  # the plan has smaller pages
        ((900, 100), 900, [0, 100, 200, 300, 400]),  # the page budget
        ((120, 100), 10_000, [0, 100, 120]),  # a total that is too high
        ((0, 100), 0, [0]),
    ],
)
def test_paging_ends(
    httpserver: HTTPServer, settings: FlightsSettings, pages: tuple[int, int], total: int | None, offsets: list[int]
) -> None:
    count, most = pages
    asked = serve_pages(httpserver, number_rows(1, count), total, most)
    flights = [item for item in collect(settings, NOW) if isinstance(item, Flight)]
    assert asked == offsets
    expected = [str(number) for number in range(1, count + 1)][: most * settings.flights_aviationstack_pages]
    assert [flight.number for flight in flights] == expected


def test_a_repeated_page_ends_the_paging(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    flights = collect_body(httpserver, settings, page_body(number_rows(1, 3), total=1_000))
    assert len(flights) == 3
    assert len(httpserver.log) == 2


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"<html>", 200, "invalid_json"),
        (b"<html>", 403, "http_error"),
        (b'{"data": [{"flight', 200, "invalid_json"),
        (b"[]", 200, "not_an_object"),
        ({"pagination": {}}, 200, "missing_data"),
        ({"data": None}, 200, "missing_data"),
        ({"data": {}}, 200, "missing_data"),
        ({"data": []}, 404, "http_error"),
        ({"success": False}, 200, "error_in_body"),
        ({"error": "odd"}, 200, "error_in_body"),
        ({"error": {}}, 200, "error_in_body"),
        ({"error": {"code": "validation_error", "message": "…"}}, 422, "error_in_body"),
        ({"success": False, "error": {"code": 103, "type": "invalid_api_function", "info": "…"}}, 200, "error_in_body"),
    ],
)
def test_a_bad_page_is_one_reject_and_the_next_page_follows(
    httpserver: HTTPServer, settings: FlightsSettings, body: Any, status: int, reason: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    httpserver.expect_ordered_request(
        FLIGHTS, query_string={"access_key": "stand-in-key", "limit": "100", "offset": "0"}
    ).respond_with_data(data, status=status)
    httpserver.expect_ordered_request(FLIGHTS).respond_with_json(page_body([flight_row()], 100, 101))
    reject, flight = collect(settings, NOW)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.value) == (reason, data)
    assert reject.origin.position.endswith("offset=0")
    assert isinstance(flight, Flight)
    assert httpserver.log[1][0].args["offset"] == "100"


def first_shape(name: str) -> dict[str, Any]:
    return {"error": {"code": name, "message": "the text"}}


def second_shape(number: int, name: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": number, "type": name, "info": "the text"}}


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (first_shape("invalid_access_key"), "invalid_access_key: .*the text.* Set FLIGHTS_AVIATIONSTACK_KEY"),
        (second_shape(101, "missing_access_key"), "missing_access_key: .* Set FLIGHTS_AVIATIONSTACK_KEY"),
        (second_shape(101, "new_name"), "invalid_access_key: .* Set FLIGHTS_AVIATIONSTACK_KEY"),
        (first_shape("inactive_user"), "inactive_user: .*activate it"),
        (second_shape(102, "inactive_user"), "inactive_user: .*activate it"),
        (first_shape("function_access_restricted"), "choose a plan that does"),
        (second_shape(105, "function_access_restricted"), "choose a plan that does"),
        (second_shape(105, "https_access_restricted"), "Over http, everyone on the way could read the key"),
    ],
)
def test_an_error_that_stays_stops_the_run(
    httpserver: HTTPServer, settings: FlightsSettings, body: Any, text: str, status: int
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        collect_body(httpserver, settings, body, status)
    assert len(httpserver.log) == 1


def test_a_401_without_json_stops_the_run(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    with pytest.raises(ConfigurationError, match="answers 401: <html>"):
        collect_body(httpserver, settings, b"<html>", 401)


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("body", [first_shape("usage_limit_reached"), second_shape(104, "monthly_limit_reached")])
def test_a_used_up_account_uses_up_the_month(
    httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota, body: Any, status: int
) -> None:
    with pytest.raises(
        QuotaUsedUpError, match=r"used up until 2026-12-01 00:00 UTC.*AVIATIONSTACK_PER_MONTH"
    ) as caught:
        collect_body(httpserver, settings, body, status)
    assert caught.value.resets_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert fake_quota.marked == ["month"]
    assert fake_quota.charges == 1


@pytest.mark.parametrize("status", [200, 429, 500])
@pytest.mark.parametrize(
    "body",
    [first_shape("rate_limit_reached"), second_shape(106, "rate_limit_reached"), first_shape("internal_error")],
)
def test_an_error_that_goes_away_is_tried_again(
    httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota, body: Any, status: int
) -> None:
    httpserver.expect_ordered_request(FLIGHTS).respond_with_json(body, status=status)
    (flight,) = collect_body_after(httpserver, settings)
    assert isinstance(flight, Flight)
    assert fake_quota.charges == 2
    assert fake_quota.marked == []


def collect_body_after(httpserver: HTTPServer, settings: FlightsSettings) -> list[Collected]:
    httpserver.expect_ordered_request(FLIGHTS).respond_with_json(page_body([flight_row()]))
    return list(collect(settings, NOW))


def test_an_error_that_does_not_go_away_is_an_outage(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    with pytest.raises(ServiceUnavailableError, match=rf"after {TRIES} tries: .*rate_limit_reached"):
        collect_body(httpserver, settings, first_shape("rate_limit_reached"))


def test_only_https_is_used_with_a_key(settings: FlightsSettings) -> None:
    api = aviationstack._describe(settings.model_copy(update={"flights_aviationstack_key": "k"}))
    assert (api.url, api.source) == ("https://api.aviationstack.com", "aviationstack")
    assert " key=" not in repr(api)
