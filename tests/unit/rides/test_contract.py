"""The contract of rides_raw: every fault of every field, and every accepted form."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from jobs.rides.contract import COMFORTS, Reason, Ride, parse_ride
from jobs.strict_json import JsonReason, RejectedError, normalise_timestamp
from tests.testkit.rides import encode, ride

AMOUNTS = ("duration_min", "price_base", "price_per_km", "price_per_min")
POINTS = ("origin", "destination")
COORDINATES = [(point, axis) for point in POINTS for axis in ("lat", "lon")]
STRINGS = [("ride_id",), ("ts",), ("comfort",)]
NUMBERS = [*COORDINATES, *((amount,) for amount in AMOUNTS)]
OBJECTS = [(point,) for point in POINTS]
PATHS = [*STRINGS, *OBJECTS, *NUMBERS]
HUGE = "9" * 5000


def reason_of(value: bytes | None) -> str:
    with pytest.raises(RejectedError) as caught:
        parse_ride(value)
    assert str(caught.value), "every reject says why"
    return caught.value.reason


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A valid ride with another value at a path."""
    content = deepcopy(ride())
    *above, name = path
    place = content
    for step in above:
        place = place[step]
    place[name] = value
    return content


def literal(path: tuple[str, ...], text: str) -> bytes:
    """A valid ride with raw JSON text at a path, which no encoder would write."""
    return encode(changed(path, "LITERAL")).replace(b'"LITERAL"', text.encode())


def named(path: tuple[str, ...]) -> str:
    return ".".join(path)


# --- Accepted messages ----------------------------------------------------------------------------


def test_a_valid_ride_is_parsed_unchanged() -> None:
    content = ride()
    parsed = parse_ride(encode(content))
    assert isinstance(parsed, Ride)
    assert {name: getattr(parsed, name) for name in content if name not in POINTS} == {
        name: value for name, value in content.items() if name not in POINTS
    }
    for point in POINTS:
        assert (getattr(parsed, point).lat, getattr(parsed, point).lon) == tuple(content[point].values())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("eco", "low"),
        ("comfort", "medium"),
        ("business", "high"),
    ],
)
def test_comfort_aliases_are_normalised(written: str, meant: str) -> None:
    assert parse_ride(encode(ride(comfort=written))).comfort == meant
    assert set(COMFORTS) == {"low", "medium", "high", "eco", "comfort", "business"}


@pytest.mark.parametrize("comfort", ["", "Low", "LOW", "low ", " low", "luxury", "écо", "medium\n"])
def test_comforts_with_other_spelling_are_rejected(comfort: str) -> None:
    assert reason_of(encode(ride(comfort=comfort))) == Reason.UNKNOWN_COMFORT


def test_upper_case_uuids_become_lower_case() -> None:
    content = ride(ride_id="6BA7B810-9DAD-11D1-80B4-00C04FD430C8")
    assert parse_ride(encode(content)).ride_id == "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.mark.parametrize(
    "ride_id",
    [
        "",
        "ride-42",
        "6ba7b8109dad11d180b400c04fd430c8",
        "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
        "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c80",
        "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8\n",
        " 6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "６ba7b810-9dad-11d1-80b4-00c04fd430c8",
    ],
)
def test_invalid_ride_ids_are_rejected(ride_id: str) -> None:
    assert reason_of(encode(ride(ride_id=ride_id))) == Reason.INVALID_RIDE_ID


@pytest.mark.parametrize("edge", [-90, 90, -90.0, 0, -0.0, 1e-320])
@pytest.mark.parametrize("point", POINTS)
def test_latitudes_at_the_limits_are_accepted(point: str, edge: float) -> None:
    assert getattr(parse_ride(encode(changed((point, "lat"), edge))), point).lat == edge


@pytest.mark.parametrize("edge", [-180, 180, 179.99999999999997])
@pytest.mark.parametrize("point", POINTS)
def test_longitudes_at_the_limits_are_accepted(point: str, edge: float) -> None:
    assert getattr(parse_ride(encode(changed((point, "lon"), edge))), point).lon == edge


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(
    "text", ["0", "-0", "-0.0", "0e5", "1E2", "1e-400", "5e-324", "1.7976931348623157e308", "1.0e+308"]
)
def test_all_json_notations_of_amounts_are_accepted(amount: str, text: str) -> None:
    assert getattr(parse_ride(literal((amount,), text)), amount) == float(text)


@pytest.mark.parametrize(
    "extra",
    [1, None, "text", [1, {"a": []}], {"lat": {"lat": 1}}, {"ride_id": "another"}, "é\u0000", "0" * 100_000],
    ids=["number", "null", "string", "array", "object", "known-name", "escapes", "long"],
)
@pytest.mark.parametrize("level", [(), ("origin",), ("destination",)], ids=["top", "origin", "destination"])
def test_unknown_fields_are_dropped_at_every_level(level: tuple[str, ...], extra: Any) -> None:
    content = ride()
    assert parse_ride(encode(changed((*level, "driver"), extra) | {"ride_id": content["ride_id"]})) == parse_ride(
        encode(content)
    )


def test_white_space_and_the_order_of_keys_do_not_matter() -> None:
    content = ride()
    text = json.dumps(dict(reversed(content.items())), indent="\t").replace("\n", "\r\n")
    assert parse_ride(f" \t\r\n{text}\n ".encode()) == parse_ride(encode(content))


def test_json_escapes_are_decoded() -> None:
    content = ride()
    escaped = encode(content).replace(b'"comfort"', b'"\\u0063omfort"').replace(b'"medium"', b'"\\u006Dedium"')
    assert parse_ride(escaped) == parse_ride(encode(content))


# --- Times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2026-01-05T08:15:30Z", "2026-01-05T08:15:30.000000Z"),
        ("2026-01-05T08:15:30.1Z", "2026-01-05T08:15:30.100000Z"),
        ("2026-01-05T08:15:30.123456Z", "2026-01-05T08:15:30.123456Z"),
        ("2026-01-05t08:15:30z", "2026-01-05T08:15:30.000000Z"),
        ("2026-01-05T08:15:30.000001z", "2026-01-05T08:15:30.000001Z"),
        ("2026-01-05T08:15:30+00:00", "2026-01-05T08:15:30.000000Z"),
        ("2026-01-05T08:15:30-00:00", "2026-01-05T08:15:30.000000Z"),
        ("2026-01-05T08:15:30+02:00", "2026-01-05T06:15:30.000000Z"),
        ("2026-01-05T08:15:30-05:30", "2026-01-05T13:45:30.000000Z"),
        ("2026-01-05T08:15:30+23:59", "2026-01-04T08:16:30.000000Z"),
        ("2024-02-29T23:59:59.999999-00:01", "2024-03-01T00:00:59.999999Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000000Z"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("0001-01-01T01:00:00+01:00", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T22:59:59-01:00", "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_timestamps_are_normalised_to_utc_with_microseconds(written: str, canonical: str) -> None:
    assert normalise_timestamp(written) == canonical
    assert parse_ride(encode(ride(ts=written))).ts == canonical
    assert datetime.fromisoformat(canonical).utcoffset() == datetime.now(UTC).utcoffset()


@pytest.mark.parametrize(
    "written",
    [
        "",
        "yesterday",
        "2026-01-05",
        "2026-01-05T08:15Z",
        "2026-01-05 08:15:30Z",
        "2026-01-05T08:15:30",  # no offset
        "2026-01-05T08:15:30.123456789Z",
        "2026-01-05T08:15:30.1234567Z",
        "2026-01-05T08:15:30.Z",
        "2026-01-05T08:15:30,5Z",
        "2026-01-05T08:15:60Z",
        "2016-12-31T23:59:60Z",  # was a leap second
        "2026-01-05T24:00:00Z",
        "2026-01-05T08:60:30Z",
        "2026-02-29T08:15:30Z",
        "2100-02-29T08:15:30Z",
        "2026-04-31T08:15:30Z",
        "2026-13-01T08:15:30Z",
        "2026-00-01T08:15:30Z",
        "2026-01-00T08:15:30Z",
        "2026-01-05T08:15:30+24:00",
        "2026-01-05T08:15:30+0200",
        "2026-01-05T08:15:30+02",
        "2026-01-05T08:15:30+02:00:30",
        "2026-01-05T08:15:30 Z",
        "2026-01-05T08:15:30Z\n",
        " 2026-01-05T08:15:30Z",
        "20260105T081530Z",
        "2026-W02-1T08:15:30Z",
        "2026-005T08:15:30Z",
        "12026-01-05T08:15:30Z",
        "-2026-01-05T08:15:30Z",
        "0000-01-01T00:00:00Z",
        "0000-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+00:01",  # year 0 in UTC
        "9999-12-31T23:59:59-00:01",  # year 10000 in UTC
        "２026-01-05T08:15:30Z",
        "1767600930",
    ],
)
def test_invalid_timestamps_are_rejected(written: str) -> None:
    assert reason_of(encode(ride(ts=written))) == Reason.INVALID_TIMESTAMP


# --- Rejected messages ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_every_field_is_mandatory(path: tuple[str, ...]) -> None:
    content = deepcopy(ride())
    place = content
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    assert reason_of(encode(content)) == Reason.MISSING_FIELD


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_types_are_strict(path: tuple[str, ...]) -> None:
    good_for = str if path in STRINGS else dict if path in OBJECTS else float
    wrong: list[Any] = [None, True, False, [], [1.0]]
    wrong += [] if good_for is str else ["1.5", ""]
    wrong += [] if good_for is float else [0, 1.5]
    wrong += [] if good_for is dict else [{}]
    for value in wrong:
        assert reason_of(encode(changed(path, value))) == Reason.WRONG_TYPE, value


@pytest.mark.parametrize("path", COORDINATES, ids=named)
def test_coordinates_out_of_range_are_rejected(path: tuple[str, ...]) -> None:
    limit = 90 if path[-1] == "lat" else 180
    for sign in (-1, 1):
        for beyond in (limit + 1e-9, limit + 1, 1e300):
            assert reason_of(encode(changed(path, sign * beyond))) == Reason.OUT_OF_RANGE


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("value", [-1, -0.01, -5e-324, -1e308])
def test_negative_amounts_are_rejected(amount: str, value: float) -> None:
    assert reason_of(encode(ride(**{amount: value}))) == Reason.NEGATIVE_AMOUNT


@pytest.mark.parametrize("path", NUMBERS, ids=named)
@pytest.mark.parametrize("text", ["1e999", "-1e999", HUGE, f"-{HUGE}", f"{HUGE}.5"], ids=lambda text: text[:6])
def test_numbers_too_large_for_a_double_are_rejected(path: tuple[str, ...], text: str) -> None:
    assert reason_of(literal(path, text)) == Reason.NOT_FINITE


@pytest.mark.parametrize("path", NUMBERS, ids=named)
@pytest.mark.parametrize("text", ["NaN", "-NaN", "Infinity", "-Infinity", "01", "+1", ".5", "5.", "0x1", "1_0", "١"])
def test_numbers_that_are_not_json_are_rejected(path: tuple[str, ...], text: str) -> None:
    assert reason_of(literal(path, text)) == Reason.INVALID_JSON


def test_nan_is_rejected_in_an_unknown_field_too() -> None:
    assert reason_of(literal(("driver",), "NaN")) == Reason.INVALID_JSON


@pytest.mark.parametrize("value", [None, b""], ids=["null", "empty"])
def test_messages_without_value_are_rejected(value: bytes | None) -> None:
    assert reason_of(value) == Reason.EMPTY_VALUE


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        encode(ride()).replace(b"medium", b"m\xe9dium"),
        encode(ride(driver="X")).replace(b"X", b"\xed\xa0\x80"),  # a surrogate in UTF-8
        encode(ride(driver="X")).replace(b"X", b"\xc0\xaf"),  # an overlong form
        encode(ride()) + b"\xe2\x82",
        json.dumps(ride()).encode("utf-16"),
    ],
)
def test_bytes_that_are_not_utf8_are_rejected(value: bytes) -> None:
    assert reason_of(value) == Reason.INVALID_UTF8


def test_a_byte_order_mark_is_rejected() -> None:
    assert reason_of(b"\xef\xbb\xbf" + encode(ride())) == Reason.BYTE_ORDER_MARK


@pytest.mark.parametrize(
    "value",
    [
        b" ",
        b"{",
        encode(ride())[:-1],
        encode(ride()) + b"x",
        encode(ride()) + b"{}",
        encode(ride()) + b"\x00",
        encode(ride()) + encode(ride()),
        encode(ride())[:-1] + b",}",
        b"/* */" + encode(ride()),
        encode(ride()).replace(b'"', b"'"),
        encode(ride(comfort="X")).replace(b"X", b"lo\nw"),  # a bare control character
        encode(ride(comfort="X")).replace(b"X", b"\\x6cow"),
        encode(ride(driver="X")).replace(b"X", b"\\ud8"),
        b"[" * 200_000,
        b'{"a":' * 200_000,
        encode(ride())[:-1] + b',"deep":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        json.dumps(ride()).encode("utf-16-le"),
    ],
    ids=range(17),
)
def test_text_that_is_not_json_is_rejected(value: bytes) -> None:
    assert reason_of(value) == Reason.INVALID_JSON


@pytest.mark.parametrize("value", [b"null", b"true", b"1", b'"text"', b"[]", b"[{}]", b"-0"])
def test_json_that_is_not_an_object_is_rejected(value: bytes) -> None:
    assert reason_of(value) == Reason.NOT_AN_OBJECT


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"comfort":', b'"comfort": "low", "comfort":'),
        (b'"comfort":', b'"\\u0063omfort": "medium", "comfort":'),
        (b'"ride_id":', b'"ride_id": null, "ride_id":'),
        (b'"origin": {', b'"origin": {"lat": 40.7549, '),
        (b'"destination": {', b'"destination": {"lon": 1, '),
        (b'"destination": {', b'"destination": {}, "destination": {'),
        (b'"ts":', b'"unknown": 1, "unknown": 1, "ts":'),
        (b'"ts":', b'"unknown": [{"deep": {"a": 1, "a": 1}}], "ts":'),
        (b'"origin": {', b'"origin": {"alt": 1, "alt": 2, '),
        (b'"comfort":', b'"price_base": 1.0e+308, "comfort":'),
    ],
)
def test_duplicate_keys_are_rejected(before: bytes, after: bytes) -> None:
    value = encode(ride())
    assert value.count(before) == 1
    assert reason_of(value.replace(before, after)) == Reason.DUPLICATE_KEY


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff", r"\udc00\ud800"])
@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("ride_id", Reason.INVALID_RIDE_ID),
        ("ts", Reason.INVALID_TIMESTAMP),
        ("comfort", Reason.UNKNOWN_COMFORT),
    ],
)
def test_lone_surrogates_in_known_fields_are_rejected(field: str, reason: Reason, escape: str) -> None:
    assert reason_of(literal((field,), f'"{escape}"')) == reason


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\udfff": 1}'])
def test_lone_surrogates_in_unknown_fields_are_ignored(text: str) -> None:
    content = literal(("driver",), text)
    assert parse_ride(content).comfort == "medium"


# --- Precedence of reasons ------------------------------------------------------------------------

# One fault of each reason that can occur with others in a message, in the order of the fields.
FAULT = {
    Reason.INVALID_RIDE_ID: lambda content: content.update(ride_id="ride-42"),
    Reason.INVALID_TIMESTAMP: lambda content: content.update(ts="yesterday"),
    Reason.OUT_OF_RANGE: lambda content: content["origin"].update(lat=91),
    Reason.UNKNOWN_COMFORT: lambda content: content.update(comfort="luxury"),
    Reason.NEGATIVE_AMOUNT: lambda content: content.update(duration_min=-1),
    Reason.WRONG_TYPE: lambda content: content.update(price_per_km="1.5"),
    Reason.MISSING_FIELD: lambda content: content.pop("price_per_min"),
}


@pytest.mark.parametrize(("first", "second"), itertools.combinations(FAULT, 2))
def test_the_first_invalid_field_gives_the_reason(first: Reason, second: Reason) -> None:
    content = ride()
    FAULT[second](content)
    FAULT[first](content)
    assert reason_of(encode(content)) == first


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xef\xbb\xbf" + encode(ride()) + b"\xff", Reason.BYTE_ORDER_MARK),
        (b"\xef\xbb\xbf{", Reason.BYTE_ORDER_MARK),
        (b"\xff{", Reason.INVALID_UTF8),
        (b'{"a":1,"a":2} trailing', Reason.DUPLICATE_KEY),
        (b'{"a":1,"a":2', Reason.INVALID_JSON),
        (b'[{"a":1,"a":2}]', Reason.DUPLICATE_KEY),
        (b'{"a":1,"a":2}', Reason.DUPLICATE_KEY),
    ],
)
def test_faults_of_the_text_take_precedence_over_faults_of_fields(value: bytes, reason: Reason) -> None:
    assert reason_of(value) == reason


def test_reasons_are_ordered_by_precedence() -> None:
    assert [str(reason) for reason in Reason] == [
        *("empty_value", "invalid_utf8", "byte_order_mark", "invalid_json", "duplicate_key", "not_an_object"),
        *("missing_field", "wrong_type", "invalid_ride_id", "invalid_timestamp", "out_of_range", "unknown_comfort"),
        *("negative_amount", "not_finite", "invalid_result", "refused_by_elasticsearch", "unexpected"),
    ]
    assert {*JsonReason} <= {*Reason}


@pytest.mark.parametrize("length", [1_000, 900_000])
def test_reject_messages_are_short(length: int) -> None:
    for field in ("ride_id", "ts", "comfort"):
        with pytest.raises(RejectedError) as caught:
            parse_ride(encode(ride(**{field: "x" * length})))
        assert len(str(caught.value)) < 300
