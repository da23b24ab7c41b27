"""Random transactions of a shop: its clients, its products, status changes, late, repeated and faulty ones.

The labels of the faults are the project's reasons: dead letters and `rejected_transactions` use the same strings.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple

CLIENTS, PRODUCTS = 1000, 100
REMEMBERED = 1000  # transactions from which repeated and conflicting ones are drawn

_CITIES = ("Paris", "Lyon", "Marseille", "Toulouse", "Nantes", "Lille", "Bordeaux", "Strasbourg", "Rennes", "Grenoble")
_CATEGORIES = ("Books", "Electronics", "Fashion", "Garden", "Home", "Music", "Sports", "Toys")
# Weights: orders by hour (UTC) and by weekday from Monday on. Orders grow by 0.1 % a day.
_HOURS = (2, 1, 1, 1, 1, 2, 4, 6, 8, 10, 11, 13, 15, 13, 11, 10, 10, 12, 14, 17, 18, 14, 9, 5)
_WEEKDAYS = (0.85, 0.85, 0.9, 0.95, 1.15, 1.3, 1.0)
_GROWTH, _GROWTH_SINCE = 1.001, date(2026, 1, 1)
# Of 100 transactions, 30 start as pending, of which 27 change to success or failed.
_PENDING, _RESOLVED, _FAILED = 0.30, 0.90, 0.12


class Client(NamedTuple):
    client_id: int
    nom: str
    ville: str
    inscrit_le: date


class Product(NamedTuple):
    produit_id: int
    nom: str
    categorie: str
    prix: Decimal


class Transaction(NamedTuple):
    """A transaction in one status. `date` is the time of the order, `updated_at` that of the status."""

    transaction_id: str
    client_id: int
    produit_id: int
    montant: Decimal
    date: datetime
    statut: str
    updated_at: datetime


class Item(NamedTuple):
    """What to send: a transaction, and for a faulty one the reason and the bytes of its message.

    A fault without `value` has the right types, so that every target can take it.
    """

    transaction: Transaction
    fault: str | None = None
    value: bytes | None = None
    is_typed: bool = True

    def encode(self) -> bytes | None:
        """The value of the message."""
        return encode(self.transaction) if self.is_typed else self.value


def list_clients() -> list[Client]:
    return [
        Client(
            number, f"Client {number}", _CITIES[number % len(_CITIES)], date(2024, 1, 1) + timedelta(days=number // 2)
        )
        for number in range(1, CLIENTS + 1)
    ]


def list_products() -> list[Product]:
    rng = random.Random("products")
    return [
        Product(number, f"Product {number}", rng.choice(_CATEGORIES), Decimal(round(rng.uniform(5, 250) * 100)) / 100)
        for number in range(1, PRODUCTS + 1)
    ]


_PRICES = [product.prix for product in list_products()]
# Few products and clients have most of the orders.
_PRODUCT_WEIGHTS = list(accumulate(1 / (number + 4) for number in range(PRODUCTS)))
_CLIENT_WEIGHTS = list(accumulate(1 / (number + 40) for number in range(CLIENTS)))
_HOUR_WEIGHTS = list(accumulate(_HOURS))


def encode(transaction: Transaction) -> bytes:
    """The message of a transaction. The amount is a JSON number with two digits, written without a float."""
    return (
        f'{{"transaction_id": "{transaction.transaction_id}", "client_id": {transaction.client_id}, '
        f'"produit_id": {transaction.produit_id}, "montant": {transaction.montant:.2f}, '
        f'"date": "{format_time(transaction.date)}", "statut": "{transaction.statut}", '
        f'"updated_at": "{format_time(transaction.updated_at)}"}}'
    ).encode()


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def draw_live(seed: int, late: float) -> Iterator[Transaction]:
    """Endless transactions of now. A share `late` was ordered up to three days ago."""
    rng = random.Random(seed)
    waiting: list[tuple[int, str, Transaction]] = []  # pending ones, by the number of the item that changes them
    number = 0
    while True:
        number += 1
        now = datetime.now(UTC)
        if waiting and waiting[0][0] <= number:
            yield _resolve(rng, heapq.heappop(waiting)[2], now)
            continue
        ordered = now - timedelta(seconds=rng.uniform(3600, 3 * 86400)) if rng.random() < late else now
        transaction = _draw(rng, ordered, now)
        if transaction.statut == "pending" and rng.random() < _RESOLVED:
            heapq.heappush(waiting, (number + rng.randint(5, 100), transaction.transaction_id, transaction))
        yield transaction


def draw_history(seed: int, days: int, per_day: int, now: datetime) -> Iterator[Transaction]:
    """The transactions of the last `days` days until `now`, by time.

    A day depends only on the seed and its date, so a second back-fill repeats the first one.
    """
    waiting: list[tuple[datetime, Transaction]] = []
    for back in range(days, -1, -1):
        day = (now - timedelta(days=back)).date()
        rng = random.Random(f"{seed}/{day}")
        for ordered in sorted(_draw_times(rng, day, per_day)):
            transaction = _draw(rng, ordered, ordered)
            is_resolved, delay = rng.random() < _RESOLVED, timedelta(minutes=rng.expovariate(1 / 60) + 1)
            # Drawn for each one, whatever the time is now.
            resolved = _resolve(rng, transaction, ordered + delay)
            if ordered > now:
                continue
            while waiting and waiting[0][0] <= ordered:
                yield heapq.heappop(waiting)[1]
            yield transaction
            if transaction.statut == "pending" and is_resolved and resolved.updated_at <= now:
                heapq.heappush(waiting, (resolved.updated_at, resolved))
    while waiting:
        yield heapq.heappop(waiting)[1]


def _draw_times(rng: random.Random, day: date, per_day: int) -> list[datetime]:
    growth = _GROWTH ** (day - _GROWTH_SINCE).days
    count = round(per_day * _WEEKDAYS[day.weekday()] * growth * rng.uniform(0.9, 1.1))
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    hours = rng.choices(range(24), cum_weights=_HOUR_WEIGHTS, k=count)
    return [midnight + timedelta(hours=hour, microseconds=rng.randrange(3_600_000_000)) for hour in hours]


def _draw(rng: random.Random, ordered: datetime, updated_at: datetime) -> Transaction:
    product = rng.choices(range(PRODUCTS), cum_weights=_PRODUCT_WEIGHTS)[0]
    # Each client buys for 200 days and then pauses for 160, so that some are new and some have lapsed at any time.
    client = 0
    while client == 0 or (client * 97 + ordered.toordinal()) % 360 >= 200:
        client = rng.choices(range(1, CLIENTS + 1), cum_weights=_CLIENT_WEIGHTS)[0]
    status = "pending" if rng.random() < _PENDING else _draw_outcome(rng)
    amount = _PRICES[product] * rng.choices((1, 2, 3), (80, 15, 5))[0]
    return Transaction(_make_id(rng, ordered), client, product + 1, amount, ordered, status, updated_at)


def _draw_outcome(rng: random.Random) -> str:
    return "failed" if rng.random() < _FAILED else "success"


def _resolve(rng: random.Random, transaction: Transaction, updated_at: datetime) -> Transaction:
    return transaction._replace(statut=_draw_outcome(rng), updated_at=updated_at)


def _make_id(rng: random.Random, moment: datetime) -> str:
    """TXN and a UUIDv7 (RFC 9562): it sorts by time, so the index of the table grows at its end."""
    milliseconds = math.floor(moment.timestamp() * 1000)
    bits = milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)
    return f"TXN{bits:032x}"


def add_faults(
    transactions: Iterator[Transaction], seed: int, faulty: float, duplicates: float, *, with_untyped: bool
) -> Iterator[Item]:
    """The transactions, among which a share `faulty` has a fault and a share `duplicates` repeats earlier ones.

    Args:
        with_untyped: whether the target takes messages that are not typed, as Kafka does and a table does not.
    """
    rng = random.Random(f"{seed}/faults")
    labels = _draw_labels(rng, with_untyped=with_untyped)
    remembered: list[Transaction] = []
    for transaction in transactions:
        chance = rng.random()
        if remembered and chance < duplicates:
            yield Item(rng.choice(remembered), "duplicate")
        elif remembered and chance < duplicates + faulty:
            label = next(labels)
            # A new id, so that the fault does not change a transaction that is sent, too.
            faulty_one = _draw(rng, transaction.updated_at, transaction.updated_at)
            if label in UNTYPED_FAULTS:
                yield Item(faulty_one, label.partition("/")[0], UNTYPED_FAULTS[label](faulty_one), is_typed=False)
            elif label == CONFLICT:
                earlier = rng.choice(remembered)
                yield Item(earlier._replace(montant=earlier.montant + 1), label)
            else:
                yield Item(TYPED_FAULTS[label](faulty_one), label.partition("/")[0])
        yield Item(transaction)
        if duplicates or faulty:
            if len(remembered) == REMEMBERED:
                remembered.pop(rng.randrange(REMEMBERED))
            remembered.append(transaction)


def _draw_labels(rng: random.Random, *, with_untyped: bool) -> Iterator[str]:
    """Endless labels: each round has every label once, in random order."""
    labels = [CONFLICT, *TYPED_FAULTS, *(UNTYPED_FAULTS if with_untyped else ())]
    while True:
        yield from rng.sample(labels, len(labels))


def _change(**fields: object) -> Callable[[Transaction], bytes]:
    return lambda transaction: json.dumps(_decode(transaction) | fields).encode()


def _decode(transaction: Transaction) -> dict[str, object]:
    members: dict[str, object] = json.loads(encode(transaction))
    return members


def _omit(name: str) -> Callable[[Transaction], bytes]:
    return lambda transaction: json.dumps(
        {key: value for key, value in _decode(transaction).items() if key != name}
    ).encode()


CONFLICT = "conflicting_transaction"

# The part after a slash only tells apart several faults with the same reason.
TYPED_FAULTS: dict[str, Callable[[Transaction], Transaction]] = {
    "nonpositive_amount/negative": lambda transaction: transaction._replace(montant=-transaction.montant),
    "nonpositive_amount/zero": lambda transaction: transaction._replace(montant=Decimal(0)),
    "unknown_status": lambda transaction: transaction._replace(statut="refunded"),
    "future_date": lambda transaction: transaction._replace(date=transaction.date + timedelta(days=3650)),
    "unknown_client": lambda transaction: transaction._replace(client_id=999_999),
}

UNTYPED_FAULTS: dict[str, Callable[[Transaction], bytes | None]] = {
    "empty_value": lambda _: None,
    "invalid_utf8": lambda transaction: encode(transaction).replace(b'"statut": "', b'"statut": "\xe9'),
    "byte_order_mark": lambda transaction: b"\xef\xbb\xbf" + encode(transaction),
    "invalid_json": lambda transaction: encode(transaction)[:-1],
    "invalid_json/comma": lambda transaction: encode(transaction).replace(
        f'"montant": {transaction.montant:.2f}'.encode(),
        f'"montant": {transaction.montant:.2f}'.replace(".", ",").encode(),
    ),
    "invalid_amount/comma": lambda transaction: _change(montant=f"{transaction.montant:.2f}".replace(".", ","))(
        transaction
    ),
    "invalid_amount/digits": _change(montant="12.345"),
    "duplicate_key": lambda transaction: encode(transaction)[:-1] + b', "statut": "success"}',
    "not_an_object": lambda transaction: b"[" + encode(transaction) + b"]",
    "missing_field": _omit("montant"),
    "wrong_type": _change(client_id="42"),
    "out_of_range": _change(produit_id=2**31),
    "invalid_transaction_id": _change(transaction_id="TXN 1"),
    "invalid_timestamp": lambda transaction: _change(date=format_time(transaction.date).removesuffix("Z"))(transaction),
    "invalid_text": _change(statut="\ud800"),
}
