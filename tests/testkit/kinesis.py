"""Records of weather_stream as Lambda passes them on, and a model of the mapping that passes them on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

NOW = 1_795_000_000.0  # when records arrive
SHARD = "shardId-000000000000"
MAX_CALLS = 200  # more than there are faults

Record = dict[str, Any]


def make_content(ville: str = "Dakar", timestamp: object = 1_731_400_000, **data: Any) -> bytes:
    """The source's record."""
    content = {
        "ville": ville,
        "pays": "Sénégal",
        "aeroport": "DSS",
        "data": {"temp": 30, "pm2_5": 12, **data},
        "timestamp": timestamp,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def make_record(content: bytes | str, number: int = 1, shard: str = SHARD) -> Record:
    """A record of an event.

    Args:
        content: bytes are encoded as base64; a text is not.
        number: its place in the shard.
    """
    data = base64.b64encode(content).decode() if isinstance(content, bytes) else content
    sequence = f"49{number:054d}"
    return {
        "eventID": f"{shard}:{sequence}",
        "kinesis": {
            "data": data,
            "partitionKey": "1",
            "sequenceNumber": sequence,
            "approximateArrivalTimestamp": NOW + number / 1_000,
        },
    }


def read_sequence(record: Record) -> str:
    sequence: str = record["kinesis"]["sequenceNumber"]
    return sequence


class FunctionError(Exception):
    """The function raised an error, timed out, or its process was killed."""


Function = Callable[[list[Record]], Any]


@dataclass
class AwsMapping:
    """An event source mapping with the rules of AWS, for one shard at a time.

    https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html and its neighbours have the rules:

    - A batch that fails comes again; later records of its shard wait.
    - With bisection, a batch that fails is cut in two, which uses up no retry.
    - After the retries, or when it is too old, a batch goes to the destination by its positions.
    - `batchItemFailures`: null or empty is success, an unknown or empty identifier is failure of the whole batch. Else
      the lowest sequence number is the checkpoint: it and all later records come again, including good ones.

    Args:
        function: gets a batch; raises FunctionError.
        find_age: the age of a record at the next call, in seconds.
    """

    function: Function
    batch_size: int = 100
    retries: int = 5
    max_age_s: float = 3_600
    is_bisecting: bool = True
    find_age: Callable[[Record], float] = lambda _: 0
    destination: list[tuple[str, str]] = field(default_factory=list)

    def run(self, shard: list[Record]) -> None:
        """Pass all records of a shard on."""
        for start in range(0, len(shard), self.batch_size):
            self._pass_on(shard[start : start + self.batch_size], self.retries)

    def _pass_on(self, batch: list[Record], retries: int) -> None:
        while batch:
            if self.find_age(batch[0]) > self.max_age_s:
                self.destination.append((read_sequence(batch[0]), read_sequence(batch[-1])))
                return
            remaining = self._call(batch)
            if not remaining:
                return
            if len(remaining) == len(batch) > 1 and self.is_bisecting:
                middle = len(batch) // 2
                self._pass_on(batch[:middle], retries)
                batch = batch[middle:]
                continue
            batch = remaining
            if retries == 0:
                self.destination.append((read_sequence(batch[0]), read_sequence(batch[-1])))
                return
            retries -= 1

    def _call(self, batch: list[Record]) -> list[Record]:
        """Call the function; returns what has to come again."""
        try:
            answer = self.function(batch)
        except FunctionError:
            return batch
        failures = (answer or {}).get("batchItemFailures") or []
        known = {read_sequence(record): index for index, record in enumerate(batch)}
        failed = [known.get(failure.get("itemIdentifier"), 0) for failure in failures]
        return batch[min(failed) :] if failed else []


@dataclass
class MiniStackMapping:
    """An event source mapping with the rules of MiniStack: an error repeats the batch, an answer is ignored."""

    function: Function
    batch_size: int = 100

    def run(self, shard: list[Record]) -> None:
        """Pass all records of a shard on."""
        for start in range(0, len(shard), self.batch_size):
            for _ in range(MAX_CALLS):
                with suppress(FunctionError):
                    self.function(shard[start : start + self.batch_size])
                    break
            else:
                raise AssertionError("a batch blocks its shard")


def list_range(shard: list[Record], first: str, last: str) -> Iterator[Record]:
    """The records that a message in the destination names."""
    return (record for record in shard if int(first) <= int(read_sequence(record)) <= int(last))
