"""DynamoDB's PutItem in memory, with its limits. A test in integration/serverless compares it with an emulator."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

KEYS = {
    "dataflow_mongo": ("ville",),
    "dataflow_history": ("ville", "observed#event_id"),
    "dataflow_rejects": ("shard", "sequence#part"),
}
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
MAX_ITEM_BYTES = 400 * 1024
MAX_KEY_BYTES = (2048, 1024)
MAX_DEPTH = 32
LARGEST, SMALLEST = Decimal("9.9999999999999999999999999999999999999E+125"), Decimal("1E-130")

Item = dict[str, Any]


def make_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "PutItem")


class FakeDynamoDB:
    """The resource that `boto3.resource("dynamodb")` returns.

    Attributes:
        tables: items by their key.
        before, after: called around each write; may raise.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[Any, ...], Item]] = {name: {} for name in KEYS}
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def Table(self, name: str) -> FakeTable:
        return FakeTable(self, name)


class FakeTable:
    """A table that only takes `put_item`, with the two conditions of the function."""

    def __init__(self, resource: FakeDynamoDB, name: str) -> None:
        self._resource, self._keys, self._items = resource, KEYS[name], resource.tables[name]

    def put_item(
        self,
        *,
        Item: Item,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: dict[str, str] | None = None,
        ExpressionAttributeValues: dict[str, Any] | None = None,
    ) -> None:
        written = TypeSerializer().serialize(Item)["M"]
        self._resource.before()
        _check(written, self._keys)
        item = TypeDeserializer().deserialize({"M": written})
        key = tuple(item[name] for name in self._keys)
        present = self._items.get(key)
        if ConditionExpression == "attribute_not_exists(ville)":
            holds = present is None or "ville" not in present
        elif ConditionExpression == "attribute_not_exists(#key) OR #key < :key":
            assert ExpressionAttributeNames is not None
            assert ExpressionAttributeValues is not None
            old, new = (present or {}).get(ExpressionAttributeNames["#key"]), ExpressionAttributeValues[":key"]
            holds = old is None or old.encode() < new.encode()
        else:
            assert ConditionExpression is None, "a condition that this fake does not know"
            holds = True
        if not holds:
            raise make_error("ConditionalCheckFailedException", "The conditional request failed")
        self._items[key] = item
        self._resource.after()


def _check(item: Item, keys: tuple[str, ...]) -> None:
    for key, limit in zip(keys, MAX_KEY_BYTES, strict=False):
        text = item.get(key, {}).get("S", "")
        if not 0 < len(text.encode()) <= limit:
            raise make_error("ValidationException", f"One or more parameter values are not valid: {key}")
    if sum(len(name.encode()) + _measure(value, 1) for name, value in item.items()) > MAX_ITEM_BYTES:
        raise make_error("ValidationException", "Item size has exceeded the maximum allowed size")


def _measure(value: dict[str, Any], depth: int) -> int:
    """The bytes of an attribute: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html."""
    ((kind, content),) = value.items()
    if kind in ("M", "L"):
        if depth > MAX_DEPTH:
            raise make_error("ValidationException", "Nesting Levels have exceeded supported limits")
        parts = content.items() if kind == "M" else (("", part) for part in content)
        return 3 + sum(1 + len(name.encode()) + _measure(part, depth + 1) for name, part in parts)
    if kind == "N":
        number = abs(Decimal(content))
        if number and not SMALLEST <= number <= LARGEST:
            raise make_error("ValidationException", "Number overflow, or underflow")
        return len(number.as_tuple().digits) // 2 + 2
    if kind == "S":
        return len(content.encode())
    return len(content) if kind == "B" else 1
