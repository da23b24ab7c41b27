"""Columnar pricing gives each message the outcome of the contract, independent of its neighbours."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jobs.kafka.staged import OUTCOME_SCHEMA
from jobs.rides import pricing
from jobs.rides.contract import COMFORTS, Reason, Ride, parse_ride
from jobs.rides.distance import Distance, geodesic, haversine
from jobs.rides.pricing import price
from jobs.settings import ROOT
from jobs.strict_json import RejectedError
from tests.testkit.rides import encode, messages, ride
from tests.unit.rides.mutations import UNKNOWN, layouts, mutations

SCHEMAS = ROOT / "infra" / "kafka" / "schemas"
RAW = Draft202012Validator(json.loads((SCHEMAS / "rides_raw.schema.json").read_text()))
RESULT = Draft202012Validator(json.loads((SCHEMAS / "rides_result.schema.json").read_text()))

MUTATED = 20_000

often = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- A second implementation ----------------------------------------------------------------------


def plain(value: bytes | None, distance: Distance) -> tuple[str | None, dict[str, Any] | None]:
    """Reason or result of one message by parse_ride and a formula in plain Python."""
    try:
        return None, priced_alone(parse_ride(value), distance)
    except RejectedError as error:
        return error.reason, None


def priced_alone(parsed: Ride, distance: Distance) -> dict[str, Any]:
    """The result of one normalised ride."""
    ends = (parsed.origin.lat, parsed.origin.lon, parsed.destination.lat, parsed.destination.lon)
    (kilometres,) = distance(*(np.array([degrees]) for degrees in ends)).tolist()
    total = parsed.price_base + kilometres * parsed.price_per_km + parsed.duration_min * parsed.price_per_min
    if not math.isfinite(total):
        raise RejectedError(Reason.NOT_FINITE, "price_total is too large a number")
    return {
        "ride_id": parsed.ride_id,
        "ts": parsed.ts,
        "origin": {"lat": parsed.origin.lat, "lon": parsed.origin.lon},
        "destination": {"lat": parsed.destination.lat, "lon": parsed.destination.lon},
        "comfort": parsed.comfort,
        "duration_min": parsed.duration_min,
        "price_base": parsed.price_base,
        "price_per_km": parsed.price_per_km,
        "price_per_min": parsed.price_per_min,
        "distance_km": kilometres,
        "price_total": total,
    }


def bits(content: Any) -> Any:
    """The same content with the 64 bits of each number; −0 counts as 0."""
    if isinstance(content, dict):
        return {name: bits(member) for name, member in content.items()}
    return struct.pack(">d", content + 0.0) if isinstance(content, int | float) else content


def read(value: bytes) -> Any:
    """JSON whose numbers are doubles: Python would take -0 for the integer 0."""
    return json.loads(value, parse_int=float)


def outcome(row: dict[str, Any], value: bytes | None) -> tuple[str | None, dict[str, Any] | None]:
    """Reason or result of one row of `priced`, after checks of all rows; `value` is that of its message."""
    assert row["headers"] is None
    if row["reason"] is None:
        assert row["message"] is row["stacktrace"] is None
        content = read(row["value"])
        assert row["key"] == content["ride_id"].encode()
        RESULT.validate(content)
        return None, content
    assert (row["key"], row["value"]) == (b"key", value)
    assert row["message"]
    assert (row["stacktrace"] is not None) == (row["reason"] == Reason.UNEXPECTED)
    return Reason(row["reason"]), None


def priced(values: list[bytes | None], distance: Distance = haversine) -> list[dict[str, Any]]:
    """The outcomes of messages with these values, without offsets."""
    return outcomes(messages(values), distance)


def outcomes(batch: pa.RecordBatch, distance: Distance = haversine) -> list[dict[str, Any]]:
    made = price(batch, distance)
    assert made.schema == OUTCOME_SCHEMA
    made.validate(full=True)
    assert made.column("offset").equals(batch.column("offset"))
    return made.drop_columns(["offset"]).to_pylist()


# --- Messages -------------------------------------------------------------------------------------

amounts = st.one_of(
    st.floats(0, allow_infinity=False),
    st.floats(0, 1000),
    st.integers(0, 10**20),
    st.sampled_from([-0.0, 0, 5e-324, 1.7976931348623157e308, 1e16, 0.1, 123456789012345680]),
)
points = st.fixed_dictionaries(
    {
        "lat": st.one_of(st.floats(-90, 90), st.sampled_from([-90, 0, -0.0, 90])),
        "lon": st.one_of(st.floats(-180, 180), st.sampled_from([-180, 180, 1])),
    }
)
digits = st.integers(0, 999_999)
times = st.builds(
    lambda moment, fraction, offset: moment.strftime(f"{moment.year:04d}-%m-%dT%H:%M:%S") + fraction + offset,
    st.datetimes(),
    st.one_of(st.just(""), digits.map(lambda n: f".{n:06d}"), digits.map(lambda n: f".{n}"), st.just(".1234567")),
    st.sampled_from(["Z", "Z", "z", "+00:00", "-05:30", "+23:59", ""]),
)
uuids = st.one_of(st.uuids().map(str), st.uuids().map(lambda u: str(u).upper()), st.uuids().map(lambda u: u.hex))
rides = st.fixed_dictionaries(
    {
        "ride_id": uuids,
        "ts": times,
        "origin": points,
        "destination": points,
        "comfort": st.sampled_from([*COMFORTS, "Low"]),
        "duration_min": amounts,
        "price_base": amounts,
        "price_per_km": amounts,
        "price_per_min": amounts,
    }
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([":", "\\", "\u003a"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6) | st.just("lat"), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def written(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """A ride in any valid notation: order, white space, escapes."""
    content = draw(rides)
    content = dict(draw(st.permutations(list(content.items()))))
    text = json.dumps(
        content,
        indent=draw(st.sampled_from([None, 0, 1, "\t"])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", " : ")])),
    )
    if draw(st.booleans()):
        position = draw(st.integers(0, len(text) - 1))
        if text[position].isalpha() and text[position - 1] != "\\" and text[position] not in "eE":
            text = f"{text[:position]}\\u{ord(text[position]):04x}{text[position + 1 :]}"
    return text.encode()


@st.composite
def as_json_writers_do(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """A ride in the contract's order, without spaces, its numbers rounded: most are canonical."""
    amount = st.floats(0, 1000).map(lambda number: round(number, 2)) | st.sampled_from([0, -0.0, 7, 15.0])
    degrees = st.floats(-95, 95).map(lambda number: round(number, 6)) | st.sampled_from([0, -0.0, -90, 73.0])
    point = st.fixed_dictionaries({"lat": degrees, "lon": degrees})
    names = ("duration_min", "price_base", "price_per_km", "price_per_min")
    content = {
        "ride_id": str(draw(st.uuids())),
        "ts": f"{draw(st.datetimes()).isoformat(timespec='microseconds')}Z",
        "origin": draw(point),
        "destination": draw(point),
        "comfort": draw(st.sampled_from(["low", "medium", "high"])),
        **{name: draw(amount) for name in names},
    }
    return json.dumps(content, separators=(",", ":")).encode()


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes | None:
    """A ride with a part changed, added, removed or repeated."""
    content = draw(rides)
    kind = draw(st.sampled_from(["member", "nested", "extra", "drop", "double", "bytes", "cut", "literal", "none"]))
    name = draw(st.sampled_from(list(content)))
    point = draw(st.sampled_from(["origin", "destination"]))
    if kind == "member":
        content[name] = draw(anything)
    elif kind == "nested":
        content[point] = {**content[point], draw(st.sampled_from(["lat", "lon", "alt"])): draw(anything)}
    elif kind == "extra":
        content[draw(st.text(max_size=8))] = draw(anything)
    elif kind == "drop":
        del content[name]
    value = json.dumps(content, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if kind == "double":
        again = f'"{name}": {json.dumps(content[name])}, '.encode()
        value = value.replace(b"{", b"{" + again, 1)
    elif kind == "bytes":
        position = draw(st.integers(0, len(value)))
        value = value[:position] + draw(st.binary(max_size=4)) + value[position + draw(st.integers(0, 4)) :]
    elif kind == "cut":
        value = value[: draw(st.integers(0, len(value)))]
    elif kind == "literal":
        number = draw(st.sampled_from(["NaN", "1e999", "-1e999", "-0", "01", "1E5", "9" * 400, "1.0e-400", "true"]))
        value = value.replace(json.dumps(content["price_base"]).encode(), number.encode())
    return None if kind == "none" else value


# --- Properties -----------------------------------------------------------------------------------


@often
@given(st.lists(st.one_of(written(), as_json_writers_do(), mutated(), st.binary(max_size=12)), max_size=6))
@example([encode(ride()).replace(b"2.55", b"-0")])
@example([b'{"ride_id":"\\ud800"}', encode(ride(ride_id="X")).replace(b"X", b"\\ud800")])
def test_columnar_pricing_matches_the_contract(values: list[bytes | None]) -> None:
    rows = priced(values)
    assert len(rows) == len(values)
    for value, row in zip(values, rows, strict=True):
        reason, content = outcome(row, value)
        wanted_reason, wanted = plain(value, haversine)
        assert reason == wanted_reason
        assert bits(content) == bits(wanted)


def test_mutated_messages_have_the_same_outcome_as_parse_ride() -> None:
    """Reason, text, key and value are equal to those of parse_ride and the formula, to the byte."""
    values = [*islice(mutations(seed=1), MUTATED)]
    kinds: Counter[str | None] = Counter()
    for value, row in zip(values, priced([*values]), strict=True):
        kinds[row["reason"]] += 1
        assert (row["reason"], row["message"], row["key"], row["value"]) == alone(value)
    assert min(kinds[None], kinds[Reason.DUPLICATE_KEY]) > MUTATED // 20


def alone(value: bytes) -> tuple[str | None, str | None, bytes, bytes]:
    try:
        content = priced_alone(parse_ride(value), haversine)
    except RejectedError as error:
        return error.reason, str(error), b"key", value
    return None, None, content["ride_id"].encode(), compact(content)


def compact(content: dict[str, Any]) -> bytes:
    """JSON in the members' order without spaces, each number with the fewest digits of its double."""
    members = (
        f'"{name}":{compact(member).decode() if isinstance(member, dict) else number(member)}'
        for name, member in content.items()
    )
    return f"{{{','.join(members)}}}".encode()


def number(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else pc.cast(pa.scalar(value), pa.string()).as_py()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """The messages that parse_ride parses."""
    seen: list[bytes | None] = []

    def parse(value: bytes | None) -> Ride:
        seen.append(value)
        return parse_ride(value)

    monkeypatch.setattr(pricing, "parse_ride", parse)
    return seen


def test_the_layout_of_a_message_does_not_matter(parsed: list[bytes | None]) -> None:
    content = ride(comfort="eco", ts="2026-01-05T10:15:30+02:00", ride_id="6BA7B810-9DAD-11D1-80B4-00C04FD430C8")
    more = [json.dumps(content | unknown).encode() for unknown in UNKNOWN]
    spaced = json.dumps(content | UNKNOWN[0], separators=(" , ", " : "), indent=1).encode()
    rows = priced([*layouts(content), *more, spaced])
    assert {(row["reason"], row["key"]) for row in rows} == {(None, b"6ba7b810-9dad-11d1-80b4-00c04fd430c8")}
    assert len({row["value"] for row in rows}) == 1
    # Only here a string that is not a key looks like one.
    assert parsed == [value for value in more if b'\\":' in value]


@pytest.mark.parametrize(
    "doubtful",
    [
        lambda text: text.replace(b'"comfort"', b'"comfort":"low","comfort"'),
        lambda text: text.replace(b'"comfort"', b'"\\u0063omfort":"low","comfort"'),
        lambda text: text.replace(b'"lat"', b'"lat":1,"lat"', 1),
        lambda text: text.replace(b'"ts"', b'"note":{"a":1,"a":2},"ts"'),
        lambda text: text.replace(b'"ts"', b'"note":{"a":1,"\\u0061":2},"ts"'),
        lambda text: text.replace(b'"ts"', b'"note":{"a" :1,"a" :2},"ts"'),
        lambda text: text.replace(b'"ts"', b'"note":[{"a\\"b":1,"a\\u0022b":2}],"ts"'),
        lambda text: text.replace(b'"ts"', b'"note":"\\ud800","ts"'),
        lambda text: text.replace(b'"ts"', b'"note":"\xff","ts"'),
        lambda text: text.replace(b"31.5", b'"31.5"'),
        lambda text: text.replace(b"31.5", b"-1"),
        lambda text: text.replace(b"40.7549", b"90.1"),
        lambda text: text.replace(b"medium", b"Medium"),
        lambda text: text.replace(b"08:15", b"24:15"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text + b"{}",
        lambda _: b"",
        lambda _: None,
    ],
)
def test_ambiguous_messages_are_parsed_by_parse_ride(
    doubtful: Callable[[bytes], bytes | None], parsed: list[bytes | None]
) -> None:
    good = encode(ride())
    value = doubtful(good)
    assert value != good
    priced([good, value])
    assert parsed == [value]


@pytest.mark.parametrize("zero", ["-0.0", "-0", "-0e1"])
@pytest.mark.parametrize("number", ["2.55", "40.7549", "-73.984"])
def test_a_negative_zero_is_the_same_on_both_paths(number: str, zero: str) -> None:
    value = json.dumps(ride(), separators=(",", ":")).replace(number, zero).encode()
    escaped = value.replace(b'"ts"', b'"\\u0074s"')
    fast, slow = priced([value, escaped])
    assert fast["value"] == slow["value"]


@settings(often, max_examples=60)
@given(
    st.lists(st.one_of(written(), as_json_writers_do(), mutated()), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_outcome_of_a_message_is_independent_of_its_neighbours(
    values: list[bytes | None], rng: random.Random
) -> None:
    order = rng.sample(range(len(values)), len(values))
    alone = [priced([value])[0] for value in values]
    assert priced(values) == alone
    assert priced([values[number] for number in order]) == [alone[number] for number in order]
    assert outcomes(messages([b"in front", None, *values, b"behind"]).slice(2, len(values))) == alone


@often
@given(st.one_of(written(), mutated()))
def test_code_and_schema_accept_the_same_messages(value: bytes | None) -> None:
    """Except for rules that a schema cannot express; its description names them."""
    reason, _ = plain(value, haversine)
    beyond_a_schema = {
        *(Reason.EMPTY_VALUE, Reason.INVALID_UTF8, Reason.BYTE_ORDER_MARK, Reason.INVALID_JSON, Reason.DUPLICATE_KEY),
        *(Reason.NOT_FINITE, Reason.INVALID_TIMESTAMP),
    }
    if reason is None:
        RAW.validate(json.loads(value or b""))
    elif reason not in beyond_a_schema:
        assert not RAW.is_valid(json.loads(value or b""))


@pytest.mark.parametrize(
    "content",
    [
        ride(comfort="luxury"),
        ride(ride_id="42"),
        ride(ride_id=None),
        ride(ts="2026-01-05T08:15:30"),
        ride(ts="2026-01-05 08:15:30Z"),
        ride(ts="2026-01-05T08:15:60Z"),
        ride(ts="2026-01-05T08:15:30.1234567Z"),
        ride(origin={"lat": 90.5, "lon": 0}),
        ride(origin={"lat": 0}),
        ride(destination={"lat": 0, "lon": -180.5}),
        ride(destination=[0, 0]),
        ride(price_base=-1),
        ride(price_per_km="1"),
        ride(price_per_min=True),
        {name: member for name, member in ride().items() if name != "duration_min"},
        [],
    ],
)
def test_the_schema_rejects_what_the_code_rejects(content: Any) -> None:
    assert not RAW.is_valid(content)
    assert priced([encode(content)])[0]["reason"] is not None


@pytest.mark.parametrize("alias", COMFORTS)
def test_the_schema_accepts_every_comfort(alias: str) -> None:
    RAW.validate(ride(comfort=alias))
    RESULT.validate(json.loads(priced([encode(ride(comfort=alias))])[0]["value"]))


@pytest.mark.parametrize("distance", [haversine, geodesic])
def test_the_price_follows_the_formula(distance: Distance) -> None:
    content = ride(price_base=2.5, price_per_km=1.25, price_per_min=0.5, duration_min=20)
    priced_ride = json.loads(priced([encode(content)], distance)[0]["value"])
    assert 20 < priced_ride["distance_km"] < 23
    assert priced_ride["price_total"] == 2.5 + priced_ride["distance_km"] * 1.25 + 20 * 0.5
    assert {name: priced_ride[name] for name in content} == content


@often
@given(st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=20))
def test_every_double_is_written_with_full_precision(numbers: list[float]) -> None:
    rows = priced([encode(ride(duration_min=number, price_per_min=0)) for number in numbers])
    assert [bits(read(row["value"])["duration_min"]) for row in rows] == list(map(bits, numbers))


@pytest.mark.parametrize(
    "amounts",
    [
        {"duration_min": 1e308, "price_per_min": 1e308},
        {"price_base": 1.7e308, "duration_min": 1.0, "price_per_min": 1.7e308},
        {"price_per_km": 1e308, "duration_min": 1e308, "price_per_min": 10},
    ],
)
def test_a_price_too_large_for_a_double_is_rejected(amounts: dict[str, float]) -> None:
    rows = priced([encode(ride(**amounts)), encode(ride())])
    assert [row["reason"] for row in rows] == [Reason.NOT_FINITE, None]


def test_one_unexpected_error_does_not_stop_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(value: bytes) -> None:
        raise ValueError("about \ud800")

    monkeypatch.setattr(pricing, "parse_ride", parse)
    rows = priced([encode(ride()), b"bad", encode(ride())])
    assert [row["reason"] for row in rows] == [None, Reason.UNEXPECTED, None]
    assert rows[1]["message"] == "ValueError: about \\ud800"
    assert "Traceback" in rows[1]["stacktrace"]


def test_an_empty_batch_is_priced() -> None:
    assert priced([]) == []
    assert [row["reason"] for row in priced([None, None])] == [Reason.EMPTY_VALUE] * 2


def test_a_large_mixed_batch_keeps_its_order() -> None:
    values = [encode(ride(ride_id=str(UUID(int=n)))) if n % 7 else b"bad %d" % n for n in range(5000)]
    rows = priced(values)
    assert [row["key"] for row in rows] == [str(UUID(int=n)).encode() if n % 7 else b"key" for n in range(5000)]
