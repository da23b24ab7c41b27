"""Invalid messages of `rides_raw`: a valid ride with one fault.

The labels are the project's reasons: dead-letter headers and the ledger use the same strings. Each message has exactly
one fault.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from ride_generator import Ride

# Returns the message value of a ride with a fault; None for a Kafka null. Does not change the ride.
Fault = Callable[[Ride], bytes | None]

AMOUNTS = ("duration_min", "price_base", "price_per_km", "price_per_min")
POINTS = ("origin", "destination")
FIELDS = ("ride_id", "ts", *POINTS, "comfort", *AMOUNTS)
COORDINATES = tuple((point, axis) for point in POINTS for axis in ("lat", "lon"))
# The path of every field of the contract, including nested ones.
PATHS: tuple[tuple[str, ...], ...] = (*((field,) for field in FIELDS), *COORDINATES)
NUMBERS = (*((amount,) for amount in AMOUNTS), *COORDINATES)

encode_text = json.JSONEncoder(separators=(",", ":")).encode


def encode(ride: Ride) -> bytes:
    """A ride as JSON, UTF-8, without white space."""
    return encode_text(ride).encode()


def draw_faults(rng: random.Random) -> Iterator[tuple[str, Fault]]:
    """Endless pairs of label and fault: each round has every label once, in random order, with a random fault."""
    labels = list(FAULTS)
    while True:
        rng.shuffle(labels)
        for label in labels:
            yield label, rng.choice(FAULTS[label])


def _set(path: tuple[str, ...], value: Any) -> Fault:
    """The ride with another value at a path."""
    return lambda ride: encode(_replace(ride, path, value))


def _replace(ride: Ride, path: tuple[str, ...], value: Any) -> Ride:
    head, *rest = path
    return {**ride, head: _replace(ride[head], tuple(rest), value) if rest else value}


def _get(ride: Ride, path: tuple[str, ...]) -> Any:
    return ride[path[0]] if len(path) == 1 else _get(ride[path[0]], path[1:])


def _remove(path: tuple[str, ...]) -> Fault:
    def remove(ride: Ride, path: tuple[str, ...]) -> Ride:
        head, *rest = path
        if rest:
            return {**ride, head: remove(ride[head], tuple(rest))}
        return {field: value for field, value in ride.items() if field != head}

    return lambda ride: encode(remove(ride, path))


def _write_literal(path: tuple[str, ...], literal: str) -> Fault:
    """The ride with a number in a form that the encoder never writes."""
    return lambda ride: encode(_replace(ride, path, "LITERAL")).replace(b'"LITERAL"', literal.encode())


def _quote(path: tuple[str, ...]) -> Fault:
    return lambda ride: encode(_replace(ride, path, str(_get(ride, path))))


def _change_text(change: Callable[[str], str]) -> Fault:
    """The ride's JSON text, changed."""
    return lambda ride: change(encode_text(ride)).encode()


def _write_bytes(field: str, raw: bytes) -> Fault:
    """The ride with raw bytes between the quotes of a field, which may be unknown to the contract."""
    return lambda ride: encode({**ride, field: "RAW"}).replace(b'"RAW"', b'"' + raw + b'"')


def _change_ride_id(change: Callable[[str], str]) -> Fault:
    return lambda ride: encode({**ride, "ride_id": change(ride["ride_id"])})


def _change_ts(change: Callable[[str], str]) -> Fault:
    return lambda ride: encode({**ride, "ts": change(ride["ts"])})


def _negate(amount: str) -> Fault:
    return lambda ride: encode({**ride, amount: -ride[amount] - 0.01})


def _overflow(**amounts: float) -> Fault:
    """The ride with finite amounts whose price is infinite."""
    return lambda ride: encode({**ride, **amounts})


FAULTS: dict[str, list[Fault]] = {
    "empty_value": [
        lambda _: None,
        lambda _: b"",
    ],
    "invalid_utf8": [
        _write_bytes("comfort", b"m\xe9dium"),  # Latin-1
        _write_bytes("comfort", b"medium\xe2\x82"),  # a character cut short
        _write_bytes("driver", b"\xed\xa0\x80"),  # a surrogate, in an unknown field
        _write_bytes("driver", b"\xc0\xaf"),  # an overlong form
        lambda ride: b"\xff" + encode(ride),
    ],
    "byte_order_mark": [
        lambda ride: b"\xef\xbb\xbf" + encode(ride),
    ],
    "invalid_json": [
        _change_text(lambda text: text[: len(text) // 2]),
        _change_text(lambda text: text[:-1]),
        _change_text(lambda text: f"{text} and more"),
        _change_text(lambda text: f"{text}{text}"),
        _change_text(lambda text: f"{text}]"),
        _change_text(lambda text: text.replace('"', "'")),
        _change_text(lambda text: f"{text[:-1]},}}"),
        _change_text(lambda text: text.replace('"comfort":', '"comfort"')),
        *(_write_literal((amount,), "NaN") for amount in AMOUNTS),
        _write_literal(("price_base",), "Infinity"),
        _write_literal(("origin", "lat"), "-Infinity"),
        _write_literal(("price_per_km",), "01.20"),
    ],
    "duplicate_key": [
        _change_text(lambda text: f'{text[:-1]},"price_base":0}}'),
        _change_text(lambda text: text.replace('"comfort":', '"comfort":"low","comfort":')),
        _change_text(lambda text: text.replace('"origin":{', '"origin":{"lat":0,')),
        _change_text(lambda text: text.replace('"destination":{', '"destination":{"lon":0,')),
        # The same key, written with an escape.
        _change_text(lambda text: text.replace('"comfort":', '"\\u0063omfort":"low","comfort":')),
    ],
    "not_an_object": [
        _change_text(lambda text: f"[{text}]"),
        _change_text(encode_text),  # encoded twice: a string that holds JSON
        lambda _: b"[]",
        lambda _: b"42",
        lambda _: b"null",
        lambda _: b"true",
    ],
    "missing_field": [_remove(path) for path in PATHS],
    "wrong_type": [
        *(_set(path, None) for path in PATHS),
        *(_quote(path) for path in NUMBERS),
        *(_set(path, True) for path in NUMBERS),
        *(_set((point,), "40.7549,-73.9840") for point in POINTS),
        *(_set((point,), [40.7549, -73.9840]) for point in POINTS),
        _set(("ride_id",), 42),
        _set(("ts",), 1_767_225_600),
        _set(("comfort",), 2),
    ],
    "invalid_ride_id": [
        _change_ride_id(lambda _: ""),
        _change_ride_id(lambda _: "ride-42"),
        _change_ride_id(lambda ride_id: ride_id[:-1]),
        _change_ride_id(lambda ride_id: f"{ride_id}0"),
        _change_ride_id(lambda ride_id: f"{ride_id[:-1]}g"),
    ],
    "invalid_timestamp": [
        _change_ts(lambda _: ""),
        _change_ts(lambda _: "yesterday"),
        _change_ts(lambda ts: ts[:10]),
        _change_ts(lambda ts: ts.removesuffix("Z")),  # no offset
        _change_ts(lambda ts: ts.replace("Z", "999Z")),  # nine digits
        _change_ts(lambda ts: f"{ts[:4]}-02-30{ts[10:]}"),
        _change_ts(lambda ts: f"{ts[:4]}-13-01{ts[10:]}"),
        _change_ts(lambda ts: f"0000{ts[4:]}"),
        _change_ts(lambda ts: f"{ts[:11]}25{ts[13:]}"),
        _change_ts(lambda ts: f"{ts[:17]}60{ts[19:]}"),  # a leap second
        _change_ts(lambda _: "0001-01-01T00:00:00+01:00"),  # year 0 in UTC
        _change_ts(lambda _: "9999-12-31T23:59:59-01:00"),  # year 10000 in UTC
    ],
    "out_of_range": [
        *(_set((point, "lat"), lat) for point in POINTS for lat in (91, -90.000001)),
        *(_set((point, "lon"), lon) for point in POINTS for lon in (-181, 180.000001)),
    ],
    "unknown_comfort": [
        _set(("comfort",), ""),
        _set(("comfort",), "luxury"),
        _set(("comfort",), "premium"),
    ],
    "negative_amount": [_negate(amount) for amount in AMOUNTS],
    "not_finite": [
        *(_write_literal((amount,), "1e999") for amount in AMOUNTS),
        _overflow(duration_min=1e308, price_per_min=1e308),
        _overflow(duration_min=1.0, price_base=1.7e308, price_per_min=1.7e308),
    ],
}
