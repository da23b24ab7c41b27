"""Hypothesis strategies for messages: rides at the limits of the contract, and invalid messages of all kinds.

Rides are built as JSON text, member by member: an encoder would lose repeated keys, -0, 1e400 and escapes.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.testkit.kafka import Raw

# A member of an object as (text of the key with its quotes, text of the value).
Pairs = list[tuple[str, str]]
Draw = Callable[[st.SearchStrategy[Any]], Any]

PARTITIONS = 3
LARGE = 900_000
AMOUNTS = ("duration_min", "price_base", "price_per_km", "price_per_min")
POINTS = ("origin", "destination")
NAMES = ("ride_id", "ts", *POINTS, "comfort", *AMOUNTS, "lat", "lon")


def quoted(text: str) -> str:
    return json.dumps(text)


def written(pairs: Pairs) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"


# --- Valid rides ----------------------------------------------------------------------------------

amounts = st.one_of(
    *[st.floats(0, 1000).map(repr)] * 3,
    st.floats(0, allow_infinity=False).map(repr),
    st.integers(0, 10**25).map(str),
    st.sampled_from(
        [
            *("0", "-0", "-0.0", "0e0", "1E2", "1e+2", "5e-324", "2.5e-324", "1e-400", "-1e-400", "1e-999999999999"),
            *("1e308", "1e+308", "1.7976931348623157e308"),
            *("0.1", "0." + "3" * 400, "1" + "0" * 300, "9007199254740993"),
        ]
    ),
)
uuids = st.uuids().flatmap(lambda x: st.sampled_from([str(x), str(x).upper(), str(x)[:18].upper() + str(x)[18:]]))
zones = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+23:59", "-23:59", "+05:30", "-08:00"])
fractions = st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=6).map(".".__add__))
moments = st.one_of(
    st.datetimes(),
    st.sampled_from(
        [
            *("0001-01-01T00:00:00", "0001-01-01T23:59:59", "0001-01-02T00:00:00", "9999-12-31T23:59:59"),
            *("9999-12-31T00:00:00", "9999-12-30T23:59:59", "2024-02-29T12:00:00", "1900-02-28T23:59:59"),
            *("1969-12-31T23:59:59", "1582-10-10T00:00:00", "2038-01-19T03:14:08", "2262-04-11T23:47:17"),
        ]
    ),
).map(lambda x: x if isinstance(x, str) else x.replace(microsecond=0).isoformat())
# Near years 1 and 9999 an offset may leave the calendar; the oracle rejects these times.
times = st.builds(
    lambda moment, mark, fraction, zone: moment.replace("T", mark) + fraction + zone,
    moments,
    st.sampled_from("TTTt"),
    fractions,
    zones,
)
comforts = st.sampled_from(["low", "medium", "high", "eco", "comfort", "business"])
latitudes = st.one_of(
    st.floats(-90, 90).map(repr),
    st.sampled_from(["90", "-90", "90.0", "-0.0", "0", "-0", "89.99999999999999", "9e1", "5e-324"]),
)
longitudes = st.one_of(
    st.floats(-180, 180).map(repr),
    st.sampled_from(["180", "-180", "180.0", "-0.0", "0", "179.99999999999997", "-1.8e2"]),
)


@st.composite
def routes(draw: Draw) -> tuple[Pairs, Pairs]:
    """Origin and destination: anywhere, the same place, or at opposite ends of the Earth."""
    lat, lon = draw(latitudes), draw(longitudes)
    kind = draw(st.sampled_from(["any", "any", "same", "antipodes", "across the date line"]))
    if kind == "any":
        to = draw(latitudes), draw(longitudes)
    elif kind == "same":
        to = lat, lon
    elif kind == "antipodes":
        to = repr(-float(lat)), repr(float(lon) + (180 if float(lon) <= 0 else -180))
    else:
        lon, to = "179.9", (lat, "-179.9")
    return [('"lat"', lat), ('"lon"', lon)], [('"lat"', to[0]), ('"lon"', to[1])]


@st.composite
def members(draw: Draw) -> dict[str, Any]:
    """A ride's members by name: the text of each value, for origin and destination their pairs."""
    origin, destination = draw(routes())
    return {
        "ride_id": quoted(draw(uuids)),
        "ts": quoted(draw(times)),
        "origin": origin,
        "destination": destination,
        "comfort": quoted(draw(comforts)),
        **{name: draw(amounts) for name in AMOUNTS},
    }


def as_pairs(ride: dict[str, Any]) -> Pairs:
    return [(quoted(name), written(value) if isinstance(value, list) else value) for name, value in ride.items()]


# Values of unknown fields: any JSON, lone and paired surrogates, names of other fields.
texts = st.one_of(
    st.text(max_size=6).map(quoted),
    st.sampled_from([r'"\ud800"', r'"\udfff\ud800"', r'"\ud83d\ude95"', '"🚕"', r'"\u0000"', '"{\\"a\\":1}"', '":"']),
)
anything = st.recursive(
    st.one_of(texts, amounts, st.sampled_from(["null", "true", "false", "-1", "[]", "{}"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.dictionaries(st.sampled_from([*NAMES, "a", "b"]), inner, max_size=3).map(
            lambda members: written([(quoted(name), value) for name, value in members.items()])
        ),
    ),
    max_leaves=6,
)
unknown = st.tuples(st.sampled_from(['"driver"', '"alt"', '""', r'"\ud800"', '"ride_id "', '"LAT"', '"é"']), anything)


def escaped(text: str, position: int) -> str:
    """The text with the letter at a position written as an escape; unchanged if there is no letter."""
    # true, false, null and exponents are not strings: an escape makes them invalid, and the oracle notices.
    if text[position : position + 1].isalpha() and text[position - 1 : position] != "\\":
        return f"{text[:position]}\\u{ord(text[position]):04X}{text[position + 1 :]}"
    return text


@st.composite
def good(draw: Draw) -> bytes:
    """A valid ride, except for a price too large for a double or a time outside of the calendar."""
    ride = draw(members())
    for point in POINTS:
        if draw(st.booleans()):
            ride[point] = draw(st.permutations([*ride[point], draw(unknown)]))
    pairs = as_pairs(ride)
    if draw(st.booleans()):
        pairs = draw(st.permutations([*pairs, draw(unknown)]))
    text = written(pairs)
    form = draw(st.sampled_from(["plain", "plain", "spaced", "escaped"]))
    if form == "spaced":
        text = f" \t\r\n{text} \n".replace('":', '" \n:')
    elif form == "escaped":
        text = escaped(text, draw(st.integers(0, len(text) - 1)))
    return text.encode()


# --- Invalid rides --------------------------------------------------------------------------------

not_numbers = st.sampled_from(
    [
        *(
            "NaN",
            "-NaN",
            "nan",
            "Infinity",
            "-Infinity",
            "1e400",
            "-1e400",
            "1e999999999999999",
            "9" * 5000,
            "01",
            "+1",
        ),
        *(".5", "5.", "0x10", "1_000", "١", "1e", "--1", '"1.5"', '""', "true", "false", "null", "[]", "{}", "[1.5]"),
        *("-1", "-1e-300", "-5e-324", "1e308", "2e+308", "90.00000000000001", "-180.00000000000003", "181", "91", ""),
    ]
)
not_texts = st.one_of(st.sampled_from(["null", "true", "0", "1.5", "[]", "{}", '""']), texts)
not_times = st.one_of(
    st.builds(
        lambda moment, fraction, zone: quoted(moment + fraction + zone),
        moments,
        st.sampled_from([".", ".1234567", ".123456789", ",5", ".1_2", ".١"]),
        zones,
    ),
    st.builds(
        lambda moment, zone: quoted(moment + zone),
        moments,
        st.sampled_from(["", " Z", "+24:00", "+23:60", "+0200", "+02", "+02:00:30", "UTC", "Z\n", "ZZ", "−01:00"]),
    ),
    st.sampled_from(
        [
            *("2016-12-31T23:59:60Z", "2026-01-05T24:00:00Z", "2026-W02-1T08:15:30Z", "2026-005T08:15:30Z"),
            *("20260105T081530Z", "2026-02-29T00:00:00Z", "2026-01-05 08:15:30Z", "2026-01-05", "-0001-01-01"),
            *("+12026-01-05T08:15:30Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "\ud800"),
            *("0000-01-01T00:00:00Z", "1767600930", "２026-01-05T08:15:30Z", "2026-01-05T08:15:30.000000Z" * 40),
        ]
    ).map(quoted),
)
not_ride_ids = st.one_of(
    st.uuids().flatmap(lambda x: st.sampled_from([x.hex, f"{{{x}}}", f"urn:uuid:{x}", f"{x}\n", f" {x}", f"{x}0"])),
    st.text(string.hexdigits + "-", min_size=36, max_size=36),
).map(quoted)
not_comforts = st.sampled_from(["", "Low", "LOW", "low ", "luxury", "écо", "low\u0000", "\ud800", "x" * 1000]).map(
    quoted
)


@st.composite
def wrong_member(draw: Draw) -> bytes:
    """A ride with a wrong value in one member, nested or not."""
    ride = draw(members())
    wrong = {
        "ride_id": st.one_of(not_ride_ids, not_texts),
        "ts": st.one_of(not_times, not_texts),
        "comfort": st.one_of(not_comforts, not_texts),
        **{name: st.one_of(not_numbers, anything) for name in AMOUNTS},
    }
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(list(ride)))
        if name in wrong:
            ride[name] = draw(wrong[name])
        elif draw(st.booleans()) or not isinstance(ride[name], list):
            ride[name] = draw(anything)
        else:
            position = draw(st.integers(0, 1))
            ride[name] = [*ride[name]]
            ride[name][position] = ride[name][position][0], draw(not_numbers)
    return written(as_pairs(ride)).encode("utf-8", "surrogatepass")


@st.composite
def wrong_keys(draw: Draw) -> bytes:
    """A ride in which one object has an extra, a missing or a differently written key."""
    ride = draw(members())
    level = draw(st.sampled_from(["top", *POINTS, "unknown"]))
    if level == "unknown":
        ride["driver"] = [('"a"', "1"), ('"b"', "[]")]
    pairs: Pairs = as_pairs(ride) if level == "top" else ride[level if level in POINTS else "driver"]
    position = draw(st.integers(0, len(pairs) - 1))
    key, value = pairs[position]
    kind = draw(st.sampled_from(["missing", "twice", "twice, escaped", "twice, else", "renamed"]))
    if kind == "missing":
        changed = pairs[:position] + pairs[position + 1 :]
    elif kind == "renamed":
        changed = [*pairs[:position], (draw(st.sampled_from([key.upper(), f'"{key[1:-1]} "', '""', key[1:-1]])), value)]
        changed += pairs[position + 1 :]
    else:
        again = {"twice": key, "twice, escaped": escaped(key, 1), "twice, else": key}[kind]
        other = draw(anything) if kind == "twice, else" else value
        changed = list(pairs)
        changed.insert(draw(st.integers(0, len(pairs))), (again, other))
    if level == "top":
        return written(changed).encode("utf-8", "surrogatepass")
    ride[level if level in POINTS else "driver"] = changed
    return written(as_pairs(ride)).encode("utf-8", "surrogatepass")


@st.composite
def wrong_text(draw: Draw) -> bytes:  # noqa: PLR0911 (one for each way)
    """A valid ride whose text is truncated, repeated, wrapped, surrounded by other bytes, or changed."""
    value = written(as_pairs(draw(members()))).encode()
    kind = draw(st.sampled_from(["cut", "insert", "replace", "before", "after", "wrapped", "encoded", "quotes"]))
    position = draw(st.integers(0, len(value)))
    if kind == "cut":
        return value[:position] if draw(st.booleans()) else value[position:]
    if kind in {"insert", "replace"}:
        piece = draw(
            st.one_of(
                st.binary(min_size=1, max_size=4),
                # Latin-1, cut short, surrogates, overlong, beyond Unicode, a byte-order mark, NUL, control characters
                st.sampled_from([b"\xe9", b"\xe2\x82", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb2\x95", b"\xc0\xaf"])
                | st.sampled_from([b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x00", b"\x1f", b"\n", b"\\", b'"', b":"]),
            )
        )
        return value[:position] + piece + value[position + (len(piece) if kind == "replace" else 0) :]
    spaces = ["\ufeff", "\u00a0", "\u2028", "\x0b", "\x0c", "\x00", ")]}',\n", "/**/", "\u0085"]
    if kind == "before":
        return draw(st.sampled_from(spaces)).encode() + value
    if kind == "after":
        return value + draw(st.sampled_from([*spaces, "{}", "x", "]", ",", "}", "0", " null"])).encode() + b" "
    if kind == "wrapped":
        before, after = draw(st.sampled_from([("[", "]"), ('{"ride":', "}"), ("callback(", ")"), ("[[", "]]")]))
        return before.encode() + value + after.encode()
    if kind == "encoded":
        text = value.decode()
        return draw(
            st.sampled_from(
                [text.encode(name) for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7")]
                + [json.dumps(text).encode(), value.hex().encode(), text.swapcase().encode()]
            )
        )
    return value.replace(b'"', b"'")


@st.composite
def deep(draw: Draw) -> bytes:
    """A ride with deep nesting, or nothing but nesting."""
    levels = draw(st.sampled_from([2, 50, 150, 150, 100_000, 400_000]))
    before, after = draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")]))
    levels = min(levels, LARGE // len(before + after)) if levels > 1000 else levels
    closed = draw(st.booleans())
    nested = before * levels + "0" + (after * levels if closed else "")
    ride = draw(members())
    place = draw(st.sampled_from(["alone", "unknown", "origin", "ts", "price_base", "in a point"]))
    if place == "alone":
        return nested.encode()
    if place == "unknown":
        ride["driver"] = nested
    elif place == "in a point":
        ride["destination"] = [('"alt"', nested), *ride["destination"]]
    else:
        ride[place] = nested
    return written(as_pairs(ride)).encode()


@st.composite
def large(draw: Draw) -> bytes:
    """A message of about 900 KB, mostly one repeated part."""
    ride = draw(members())
    kind = draw(
        st.sampled_from(["text", "escapes", "digits", "fraction", "spaces", "key", "keys", "twice", "ts", "noise"])
    )
    if kind == "noise":
        return bytes(draw(st.randoms(use_true_random=False)).randbytes(LARGE))
    pairs = as_pairs(ride)
    if kind == "text":
        pairs.append(('"note"', '"' + "ü" * (LARGE // 2) + '"'))
    elif kind == "escapes":
        pairs.append(('"note"', '"' + r"\ud800" * (LARGE // 6) + '"'))
    elif kind == "digits":
        pairs.append((draw(st.sampled_from(['"tip"', '"price_base"'])), "9" * LARGE))
    elif kind == "fraction":
        ride["price_base"] = "0." + "1" * LARGE
        pairs = as_pairs(ride)
    elif kind == "spaces":
        pairs[0] = pairs[0][0], " " * LARGE + pairs[0][1]
    elif kind == "key":
        pairs.append(('"' + "k" * LARGE + '"', "1"))
    elif kind in {"keys", "twice"}:
        pairs += [(f'"{number}"', "1") for number in range(LARGE // 11)]
        pairs += [('"0"', "1")] if kind == "twice" else []
    else:
        ride["ts"] = quoted("2026-01-05T08:15:30." + "0" * LARGE + "Z")
        pairs = as_pairs(ride)
    return written(pairs).encode()


@st.composite
def results(draw: Draw) -> Pairs:
    """The members of a message of rides_result, as PublishKafka writes them."""
    ride = draw(members())
    ride["ride_id"] = ride["ride_id"].lower()
    ride["ts"] = quoted(draw(st.datetimes()).isoformat(timespec="microseconds") + "Z")
    ride["comfort"] = quoted(draw(st.sampled_from(["low", "medium", "high"])))
    return [*as_pairs(ride), ('"distance_km"', draw(amounts)), ('"price_total"', draw(amounts))]


@st.composite
def foreign_results(draw: Draw) -> bytes:
    """A foreign message on rides_result: a result with members and bytes changed, added or removed."""
    pairs = draw(results())
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(pairs) - 1))
        kinds = ["missing", "twice", "else", "number", "beyond", "unknown", "ts", "ride_id", "comfort"]
        kind = draw(st.sampled_from(kinds))
        if kind == "missing":
            pairs = pairs[:position] + pairs[position + 1 :]
        elif kind == "unknown":
            pairs = [*pairs, draw(unknown)]
        elif kind == "beyond":
            pairs[position] = (
                pairs[position][0],
                draw(st.sampled_from(["-1", "-1e-300", "1e400", '{"lat":91,"lon":0}'])),
            )
        elif kind == "twice":
            pairs = [*pairs, (pairs[position][0], draw(st.one_of(st.just(pairs[position][1]), anything)))]
        else:
            other = {"ts": times.map(quoted) | not_times, "ride_id": not_ride_ids, "comfort": comforts.map(quoted)}
            changes = other.get(kind, not_numbers if kind == "number" else anything)
            is_meant = {"ts": '"ts"', "ride_id": '"ride_id"', "comfort": '"comfort"'}.get(kind, pairs[position][0])
            pairs = [(key, draw(changes) if key == is_meant else value) for key, value in pairs]
    value = written(pairs).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        position = draw(st.integers(0, len(value)))
        return value[:position] + draw(st.binary(max_size=3)) + value[position + draw(st.integers(0, 3)) :]
    return value


nothing = st.sampled_from(
    [None, b"", b" ", b"null", b"true", b"0", b"-0", b"1e400", b'""', b"[]", b"{}", b"[{}]", b"{"]
)
values: st.SearchStrategy[bytes | None] = st.one_of(
    good(), wrong_member(), wrong_keys(), wrong_text(), nothing, st.binary(max_size=64)
)
foreign_values: st.SearchStrategy[bytes | None] = st.one_of(
    foreign_results(), foreign_results(), foreign_results(), wrong_text(), nothing, st.binary(max_size=64)
)
extremes: st.SearchStrategy[bytes] = st.one_of(deep(), large())

# --- Messages -------------------------------------------------------------------------------------

header_keys = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
    st.sampled_from(["__connect.errors.topic", "__connect.errors.offset", "datastream.replayed", "datastream.fault"]),
)
headers = st.one_of(st.none(), st.lists(st.tuples(header_keys, st.none() | st.binary(max_size=8)), max_size=4))
keys = st.one_of(st.none(), st.binary(max_size=40), st.uuids().map(lambda x: str(x).encode()))


def messages(values: st.SearchStrategy[bytes | None]) -> st.SearchStrategy[Raw]:
    return st.builds(Raw, values, keys, headers, st.integers(0, PARTITIONS - 1))
