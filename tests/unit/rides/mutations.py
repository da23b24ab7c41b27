"""Messages of rides_raw in the layouts of different senders, and mutations of them that a seed determines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.testkit.rides import ride

NUMBERS = (
    *("0", "-0", "-0.0", "7.0", "1E5", "5e-324", "1e-400", "1.7976931348623157e+308", "1e308", "1e999", "-1"),
    *("90", "90.00000000000001", "-180", "181", "01", "1.", ".5", "NaN", "null", "true", '"1.5"', "[]", "{}"),
    *("9007199254740993", "18446744073709551616", "9" * 400, "0." + "3" * 200),
)
TEXTS = (
    *('""', '"eco"', '"LOW"', r'"\u006cow"', r'"lo\w"', r'"\ud800"', r'"\ud83d\ude95"', r'"\u12"', '"\x01"', '"é"'),
    *(r'"a\"b"', r'"a\":b"', r'"a\\"', r'"a\\\":1"', '":"', r'"x\u0022:"', '"2026-01-05T10:15:30.5+02:00"'),
    *('"2026-02-29T00:00:00Z"', '"0001-01-01T00:00:00+00:01"', '"6BA7B810-9DAD-11D1-80B4-00C04FD430C8"'),
)
KEYS = (
    *('"id"', '"name"', '"lat"', '"lon"', '"ride_id"', '"ts"', '"origin"', '"price_base"', '""', '"é"', '"b"', '":"'),
    *(r'"l\u0061t"', r'"i\u0064"', r'"\u0062"', r'"a\"b"', r'"a\u0022b"', r'"x\":b"', r'"\ud800"', r'"\\"'),
)
BYTES = (
    *(b'"', b"\\", b":", b",", b"{", b"}", b" ", b"\n", b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"),
    *(b"\xef\xbb\xbf", b'\\"', b"\\u0041", b'":"', b"e+308", b"\xc2\xa0"),
)
COLONS = (":", ": ", " : ", "\n:")
UNKNOWN: tuple[dict[str, Any], ...] = (
    {"driver": {"id": 7, "name": "Zoë"}},
    {"driver": {"id": 7, "name": "Zoë"}, "car": {"id": 1}},
    {"stops": [{"lat": 1, "lon": 2}, {"lat": 3, "lon": 4}]},
    {"driver": {"note": 'say "hi": ok'}},
    {str(number): number for number in range(70)},
)


def layouts(content: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    """A ride as this project's producer writes it, with spaces, and in another order with unknown fields."""
    others = dict(reversed(content.items())) | UNKNOWN[0]
    return tuple(  # type: ignore[return-value]
        text.encode() for text in (json.dumps(content, separators=(",", ":")), json.dumps(content), json.dumps(others))
    )


def mutations(seed: int) -> Iterator[bytes]:
    """Endless mutations of rides, some of them still valid."""
    rng = random.Random(seed)
    mutator = _Mutator(rng)
    while True:
        comfort = rng.choice(["low", "eco", "business"])
        content = ride(ride_id=f"{rng.getrandbits(128):032x}", comfort=comfort, duration_min=rng.random() * 100)
        content["ride_id"] = "-".join(
            content["ride_id"][begin:end] for begin, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
        )
        value = rng.choice(layouts(content))
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            value = rng.choice(mutator.all)(value) or b"{}"
        yield value


class _Mutator:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.all: tuple[Callable[[bytes], bytes], ...] = (
            *(self.replace, self.delete, self.insert, self.add_space, self.add_member, self.add_unknown),
            *(self.repeat_member, self.change_value, self.change_value, self.escape, self.cut),
        )

    def replace(self, value: bytes) -> bytes:
        changed = bytearray(value)
        changed[self._rng.randrange(len(value))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def delete(self, value: bytes) -> bytes:
        begin = self._rng.randrange(len(value))
        return value[:begin] + value[begin + self._rng.randint(1, 4) :]

    def insert(self, value: bytes) -> bytes:
        return self._put(value, self._rng.randint(0, len(value)), self._rng.choice(BYTES))

    def add_space(self, value: bytes) -> bytes:
        position = self._position(value, b'{}:,"') + self._rng.randint(0, 1)
        return self._put(value, position, self._rng.choice([b" ", b"\t", b"\r\n", b"\x0b"]))

    def add_member(self, value: bytes) -> bytes:
        member = f"{self._rng.choice(KEYS)}{self._rng.choice(COLONS)}{self._value()},"
        return self._put(value, self._position(value, b"{") + 1, member.encode("utf-8", "surrogatepass"))

    def add_unknown(self, value: bytes) -> bytes:
        separators = self._rng.choice([(",", ":"), (", ", ": "), (", ", " : ")])
        text = json.dumps(self._rng.choice(UNKNOWN), separators=separators, ensure_ascii=self._rng.random() < 0.5)
        if self._rng.random() < 0.3:
            text = text.replace('"id"', '"name"').replace('"69"', '"68"')
        return self._put(value, 1, f"{text[1:-1]},".encode())

    def repeat_member(self, value: bytes) -> bytes:
        content = self._content(value)
        if not content:
            return self.replace(value)
        name = self._rng.choice(list(content))
        key = self.escape(json.dumps(name).encode()) if self._rng.random() < 0.5 else json.dumps(name).encode()
        again = self._rng.choice([content[name], 1, "x", None, {}])
        return self._put(value, value.find(b"{") + 1, key + b":" + json.dumps(again).encode() + b",")

    def change_value(self, value: bytes) -> bytes:
        content = self._content(value)
        if not content:
            return self.replace(value)
        place, name = content, self._rng.choice(list(content))
        if isinstance(content[name], dict) and content[name]:
            place = content[name]
            name = self._rng.choice(list(place))
        place[name] = "@"
        text = json.dumps(content, indent=self._rng.choice([None, None, 1])).replace('"@"', self._value())
        return text.encode("utf-8", "surrogatepass")

    def escape(self, value: bytes) -> bytes:
        """One letter as an escape, in a string or not."""
        letters = [
            position
            for position, byte in enumerate(value)
            if chr(byte).isalpha() and value[position - 1 : position] != b"\\"
        ]
        if not letters:
            return value
        position = self._rng.choice(letters)
        return value[:position] + b"\\u%04x" % value[position] + value[position + 1 :]

    def cut(self, value: bytes) -> bytes:
        return value[: self._rng.randint(0, len(value))] + self._rng.choice([b"", b"}", b" ", b"{}"])

    def _value(self, depth: int = 0) -> str:
        kind = self._rng.random()
        if kind < 0.4 or depth > 2:
            return self._rng.choice(NUMBERS)
        if kind < 0.7:
            return self._rng.choice(TEXTS)
        inner = [self._value(depth + 1) for _ in range(self._rng.randrange(4))]
        if kind < 0.8:
            return f"[{','.join(inner)}]"
        return "{" + ",".join(f"{self._rng.choice(KEYS)}{self._rng.choice(COLONS)}{value}" for value in inner) + "}"

    def _content(self, value: bytes) -> dict[str, Any]:
        try:
            content = json.loads(value)
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _position(self, value: bytes, signs: bytes) -> int:
        return self._rng.choice([position for position, byte in enumerate(value) if byte in signs] or [0])

    @staticmethod
    def _put(value: bytes, position: int, inserted: bytes) -> bytes:
        return value[:position] + inserted + value[position:]
