"""Where the function puts a record. The function's own code decides, so that nothing is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic, sleep
from typing import Any, NamedTuple

from jobs.errors import ServiceUnavailableError
from jobs.serverless.aws import make_client, translate_errors
from jobs.serverless.lambda_consumer import KEY, RejectedError, make_item, make_rejects, pad
from jobs.serverless.lambda_consumer import read_shard as read_shard_id
from jobs.serverless.stream import Record, list_shards, read_shard
from jobs.serverless.vertical import HISTORY, REJECTS, ServerlessSettings

BATCH = 100  # keys of one BatchGetItem
POLL_S = 0.25


class Place(NamedTuple):
    """Where a record is expected.

    Attributes:
        sequence: its sequence number, as Kinesis writes it; padded: as the tables have it.
        ville, key: the key of its item in the history; empty if it is a reject.
        parts: the number of its items among the rejects; 1 for a record that only DynamoDB may refuse.
        arrived: seconds since 1970.
    """

    shard: str
    sequence: str
    ville: str
    key: str
    parts: int
    arrived: float

    @property
    def padded(self) -> str:
        return pad(self.sequence)

    @property
    def item_key(self) -> tuple[str, str]:
        return self.ville, self.key

    @property
    def reject_key(self) -> tuple[str, str]:
        """The key of its last item among the rejects."""
        return self.shard, f"{self.padded}#{self.parts - 1:04d}"


def find_place(record: Record) -> Place:
    """Where the function puts a record."""
    kinesis = record["kinesis"]
    shard, sequence = read_shard_id(record), kinesis["sequenceNumber"]
    arrived = kinesis["approximateArrivalTimestamp"]
    try:
        item = make_item(record)
    except RejectedError as error:
        return Place(shard, sequence, "", "", sum(1 for _ in make_rejects(record, error)), arrived)
    return Place(shard, sequence, item["ville"], item[KEY], 1, arrived)


def wait_until_stored(
    settings: ServerlessSettings, timeout_s: float, show: Callable[[int, int], object] = lambda *_: None
) -> int:
    """Wait until each record that is on the stream now is in the history or among the rejects.

    Args:
        show: receives the number of records that are there, and of all.

    Returns:
        The number of records.

    Raises:
        ServiceUnavailableError: one is missing after `timeout_s` seconds.
    """
    deadline = monotonic() + timeout_s
    with translate_errors(settings, "waiting for the function"):
        client = make_client(settings, "dynamodb")
        # The function keeps the order of a shard.
        shards = [list(map(find_place, read_shard(settings, shard))) for shard in list_shards(settings)]
        total = left = sum(map(len, shards))
        while left:
            for places in shards:
                while places and all(_find(client, places[:BATCH])):
                    del places[:BATCH]
            left = sum(map(len, shards))
            show(total - left, total)
            if left and monotonic() > deadline:
                first = next(places[0] for places in shards if places)
                raise ServiceUnavailableError(
                    f"{left:,} of {total:,} records were not stored within {timeout_s:g} s; the first has the sequence "
                    f"number {first.sequence}. The function's log has the reason: make serverless-logs"
                )
            if left:
                sleep(POLL_S)
    return total


def _find(client: Any, places: list[Place]) -> list[bool]:
    """Whether each record is stored."""
    stored = _get(client, HISTORY, ("ville", KEY), {place.item_key for place in places if place.key})
    others = {place.reject_key for place in places if place.item_key not in stored}
    rejected = _get(client, REJECTS, ("shard", "sequence#part"), others)
    return [place.item_key in stored or place.reject_key in rejected for place in places]


def _get(client: Any, table: str, names: tuple[str, str], keys: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these keys a table has."""
    first, second = names
    wanted = [{first: {"S": one}, second: {"S": other}} for one, other in keys]
    request: dict[str, Any] = {}
    if wanted:
        attributes = {"ProjectionExpression": "#1, #2", "ExpressionAttributeNames": {"#1": first, "#2": second}}
        request = {table: {"Keys": wanted, "ConsistentRead": True, **attributes}}
    found = set()
    while request:
        answer = client.batch_get_item(RequestItems=request)
        found |= {(item[first]["S"], item[second]["S"]) for item in answer["Responses"].get(table, [])}
        request = answer.get("UnprocessedKeys") or {}
    return found
