"""Reads the stream, each record in the form in which the function gets it."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

from jobs.serverless.aws import make_client
from jobs.serverless.vertical import STREAM, ServerlessSettings

Record = dict[str, Any]
LIMIT = 1_000  # records of a call: at most 10 MB, as all calls of a shard
# AWS allows five calls a second for each shard.
PAUSE_S = 0.25


def list_shards(settings: ServerlessSettings) -> list[str]:
    """The ids of the shards, closed ones too, parents first."""
    pages = make_client(settings, "kinesis").get_paginator("list_shards").paginate(StreamName=STREAM)
    return sorted(shard["ShardId"] for page in pages for shard in page["Shards"])


def read_shard(
    settings: ServerlessSettings, shard: str, *, first: str | None = None, after: str | None = None
) -> Iterator[Record]:
    """Read a shard up to what is there now.

    Args:
        first: the sequence number to start at.
        after: the sequence number to start behind. Without both, the start is the oldest record.
    """
    client = make_client(settings, "kinesis")
    if first or after:
        kind = "AT_SEQUENCE_NUMBER" if first else "AFTER_SEQUENCE_NUMBER"
        start = {"ShardIteratorType": kind, "StartingSequenceNumber": first or after}
    else:
        start = {"ShardIteratorType": "TRIM_HORIZON"}
    iterator = client.get_shard_iterator(StreamName=STREAM, ShardId=shard, **start)["ShardIterator"]
    while iterator:
        answer = client.get_records(ShardIterator=iterator, Limit=LIMIT)
        for record in answer["Records"]:
            yield make_event_record(shard, record)
        # AWS also answers without records where there are more.
        if not answer["Records"]:
            if not answer.get("MillisBehindLatest"):
                return
            time.sleep(PAUSE_S)
        iterator = answer.get("NextShardIterator")


def make_event_record(shard: str, record: dict[str, Any]) -> Record:
    """A record of `get_records` as Lambda passes it to the function."""
    return {
        "eventID": f"{shard}:{record['SequenceNumber']}",
        "eventSource": "aws:kinesis",
        "kinesis": {
            "data": base64.b64encode(record["Data"]).decode(),
            "partitionKey": record["PartitionKey"],
            "sequenceNumber": record["SequenceNumber"],
            "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
        },
    }
