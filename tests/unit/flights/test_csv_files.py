"""CSV files without a database: headers, rows, line numbers, encodings."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ConfigurationError
from jobs.flights.contract import Flight, Kind, Reject, Weather
from jobs.flights.sources.csv_files import MAX_ROW_LINES, check_encoding, read_rows
from jobs.flights.sources.lines import MAX_LINE

HEADER = "observed_at,place_id,lat,lon,units,temperature,aqi,description"
ROW = "2026-11-28T12:00:00Z,CDG,49.0,2.5,metric,7.5,3,light rain"
FLIGHT_HEADER = (
    "status,observed_at,airline,number,flight_date,departure_airport,arrival_airport,scheduled_departure,"
    "scheduled_arrival,departure_delay_min,is_ambiguous"
)
FLIGHT_ROW = "active,2026-11-28T12:00:00Z,AF,718,2026-11-28,CDG,DSS,2026-11-28T11:30:00Z,2026-11-28T17:20:00Z,12,{}"


@pytest.fixture
def parse(tmp_path: Path) -> Any:
    def parse(content: str | bytes, encoding: str = "utf-8", next_line: int = 2) -> list[tuple[int, Any]]:
        path = tmp_path / "file.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.utime(path, (1_790_000_000, 1_790_000_000))
        with path.open("rb") as stream:
            return list(read_rows(stream, path.name, encoding, next_line))

    return parse


def describe(item: Any) -> tuple[str, str]:
    """The position, and the reason or "ok"."""
    return (
        (item.origin.position, item.reason)
        if isinstance(item, Reject)
        else (item.position, "ok")
    )  # fmt: skip


def test_rows_have_the_types_of_their_fields(parse: Any) -> None:
    [(next_line, item)] = parse(f"{HEADER}\n{ROW}\n")
    assert isinstance(item, Weather)
    assert (item.temperature, item.aqi, item.description, item.pm10) == (7.5, 3, "light rain", None)
    assert (item.source, item.position, next_line) == ("csv", "file.csv:2", 3)
    [(_, flight)] = parse(f"{FLIGHT_HEADER}\n{FLIGHT_ROW.format('true')}")
    assert isinstance(flight, Flight)
    assert (flight.number, flight.departure_delay_min, flight.is_ambiguous) == ("718", 12.0, True)
    [(_, flight)] = parse(f"{FLIGHT_HEADER}\n{FLIGHT_ROW.format('')}")
    assert flight.is_ambiguous is False


@pytest.mark.parametrize(
    ("header", "reason", "kind"),
    [
        (f"{HEADER},colour", "unknown_field", Kind.WEATHER),
        (HEADER.replace("units", "unit"), "unknown_field", Kind.WEATHER),
        (HEADER.replace("observed_at,", ""), "missing_field", Kind.WEATHER),
        (HEADER.replace("description", "lat"), "duplicate_key", Kind.WEATHER),
        (HEADER.replace(",", ";"), "unknown_field", Kind.FLIGHT),
        (FLIGHT_HEADER.replace("status,", ""), "missing_field", Kind.FLIGHT),
        ("<!doctype html>", "unknown_field", Kind.FLIGHT),
        ('"observed_at', "truncated", Kind.FLIGHT),
        ("", "empty_value", Kind.FLIGHT),
        ("x" * (2 * MAX_LINE), "truncated", Kind.FLIGHT),
    ],
)
def test_a_wrong_header_is_the_only_reject_of_its_file(parse: Any, header: str, reason: str, kind: Kind) -> None:
    content = f"{header}\n{ROW}\n{ROW}\n"
    [(next_line, reject)] = parse(content)
    assert isinstance(reject, Reject)
    assert (reject.kind, reject.reason, reject.origin.position) == (kind, reason, "file.csv:1")
    assert reject.value == header.encode()[:MAX_LINE]
    assert parse(content, next_line=next_line) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (ROW.rpartition(",")[0], "truncated"),
        (ROW + ",1", "truncated"),
        (ROW.replace("7.5", '"7.5'), "truncated"),
        (ROW.replace("7.5", '"7"5'), "truncated"),
        (ROW.replace("rain", "rain\r2026"), "truncated"),
        (ROW.replace("rain", "x" * MAX_LINE), "truncated"),
        (ROW.replace("rain", "x" * 150_000), "truncated"),  # more than csv takes as one value
        (ROW.replace("7.5", "7,5"), "truncated"),
        (ROW.replace("7.5", '"7,5"'), "wrong_type"),
        (ROW.replace("7.5", "nan"), "wrong_type"),
        (ROW.replace("7.5", "1_0"), "wrong_type"),
        (ROW.replace("7.5", "9" * 400), "wrong_type"),
        (ROW.replace("7.5", "280.65"), "wrong_units"),
        (ROW.replace("metric", "celsius"), "wrong_units"),
        (ROW.replace("49.0", "149.0"), "impossible_coordinates"),
        (ROW.replace("11-28", "02-30"), "invalid_timestamp"),
        (ROW.replace("CDG", "QQ1"), "unknown_airport"),
        (ROW.replace("CDG", ""), "missing_field"),
        (ROW.replace("light rain", "\0"), "invalid_text"),
    ],
)
def test_a_bad_row_is_one_reject_and_the_rows_around_it_are_read(parse: Any, line: str, reason: str) -> None:
    items = [item for _, item in parse(f"{HEADER}\n{ROW}\n{line}\n{ROW}\n\n{ROW}")]
    assert [describe(item) for item in items] == [
        ("file.csv:2", "ok"), ("file.csv:3", reason), ("file.csv:4", "ok"), ("file.csv:6", "ok"),
    ]  # fmt: skip
    assert items[1].value == line.encode()[:MAX_LINE]


def test_the_last_line_of_a_truncated_file_is_a_reject(parse: Any) -> None:
    for cut in ("2026-11-28T12:0", "2026-11-28T12:00:00Z,CDG", ROW.replace("light", '"light')):
        items = [item for _, item in parse(f"{HEADER}\n{ROW}\n{cut}")]
        assert [describe(item) for item in items] == [("file.csv:2", "ok"), ("file.csv:3", "truncated")]


def test_line_numbers_count_line_breaks_inside_of_quotes(parse: Any) -> None:
    quoted = ROW.replace("light rain", '"light\r\nrain, ""heavy""\nlater"')
    parsed = parse(f"{HEADER}\r\n{ROW}\r\n{quoted}\r\n{ROW}\r\n")
    # The contract has no texts with line breaks.
    assert [describe(item) for _, item in parsed] == [
        ("file.csv:2", "ok"), ("file.csv:3", "invalid_text"), ("file.csv:6", "ok"),
    ]  # fmt: skip
    assert [next_line for next_line, _ in parsed] == [3, 6, 7]
    assert parsed[1][1].value == quoted.encode()


def test_quotes_that_do_not_end_take_no_row_with_them(parse: Any) -> None:
    open_quote = ROW.replace("7.5", '"7.5')
    content = [HEADER, ROW, open_quote, *[ROW] * (2 * MAX_ROW_LINES), open_quote, ROW, open_quote, ROW]
    parsed = parse("\n".join(content))
    assert [describe(item)[1] for _, item in parsed] == ["truncated" if '"' in line else "ok" for line in content[1:]]
    assert [describe(item)[0] for _, item in parsed] == [f"file.csv:{number}" for number in range(2, len(content) + 1)]


def test_an_import_resumes_at_any_line(parse: Any) -> None:
    quoted = ROW.replace("light rain", '"light\nrain"')
    content = "\n".join([HEADER, ROW, quoted, "", ROW.replace("7.5", '"7.5'), ROW, quoted, "x"])
    parsed = parse(content)
    assert len(parsed) == 6
    for done, (next_line, _) in enumerate(parsed, 1):
        assert parse(content, next_line=next_line) == parsed[done:]


def test_the_rejects_of_a_repeated_batch_have_the_same_ids(parse: Any) -> None:
    content = f"{HEADER}\nx\nx\n{ROW}\n"
    ids = [item.event_id for _, item in parse(content)]
    assert len(set(ids)) == 3
    assert [item.event_id for _, item in parse(content)] == ids


def test_encodings(parse: Any) -> None:
    row = ROW.replace("light rain", "bruine légère")
    assert parse(b"\xef\xbb\xbf" + f"{HEADER}\n{row}".encode())[0][1].description == "bruine légère"
    assert parse(f"{HEADER}\n{row}".encode("cp1252"), "cp1252")[0][1].description == "bruine légère"
    items = [item for _, item in parse(f"{HEADER}\n{row}\n{ROW}".encode("cp1252"))]
    assert [describe(item)[1] for item in items] == ["invalid_utf8", "ok"]
    assert items[0].value == row.encode("cp1252")
    assert check_encoding("utf-8-sig") == "utf-8"
    for name in ("utf-16", "klingon", "base64", "cp037"):
        with pytest.raises(ConfigurationError, match=f"FLIGHTS_CSV_ENCODING={name}"):
            check_encoding(name)


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        for _ in range(100):
            file.write(f"{ROW}\n" * 100 + "y" * 2**20 + "\n")

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    with path.open("rb") as stream:
        rows = read_rows(stream, path.name, "utf-8")
        next(rows)
        before = peak()
        assert sum(1 for _ in rows) == 100 * 101 - 1
    assert peak() - before < 30_000
