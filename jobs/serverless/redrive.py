"""Gives the function the records that the mapping gave up.

After five tries or an hour, the mapping sends only the positions of the records to the queue; the stream has them for a
day. https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html describes the message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.errors import ServiceUnavailableError
from jobs.serverless.aws import make_client, translate_errors
from jobs.serverless.deploy import MAPPING, call_function
from jobs.serverless.stream import Record, read_shard
from jobs.serverless.vertical import QUEUE, ServerlessSettings

HIDDEN_S = 300  # while a message is worked on
MAX_PAYLOAD_BYTES = 5_000_000  # of 6 MB that a call of a function takes


def redrive(settings: ServerlessSettings) -> tuple[int, int]:
    """Call the function with the records of each message in the queue. Repeats change nothing.

    Returns:
        The number of messages and of records.

    Raises:
        ServiceUnavailableError: the function failed again, or records have expired. The message stays in the queue.
    """
    messages = records = 0
    with translate_errors(settings, f"redriving {QUEUE}"):
        sqs = make_client(settings, "sqs")
        url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        while received := sqs.receive_message(QueueUrl=url, VisibilityTimeout=HIDDEN_S).get("Messages"):
            for message in received:
                records += _redrive(settings, json.loads(message["Body"])["KinesisBatchInfo"])
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                messages += 1
    return messages, records


def _redrive(settings: ServerlessSettings, batch: dict[str, Any]) -> int:
    """Call the function with the records of one message; returns their number."""
    count = 0
    for records in _cut(_read(settings, batch)):
        failures = call_function(settings, records).get("batchItemFailures")
        if failures:
            raise ServiceUnavailableError(
                f"The function failed again for {failures}. Its log has the reason: make serverless-logs"
            )
        count += len(records)
    if count < batch["batchSize"]:
        raise ServiceUnavailableError(
            f"{batch['batchSize'] - count} of {batch['batchSize']} records of {batch['shardId']} from "
            f"{batch['startSequenceNumber']} on are gone: the stream keeps them for a day."
        )
    return count


def _read(settings: ServerlessSettings, batch: dict[str, Any]) -> Iterator[Record]:
    last = int(batch["endSequenceNumber"])
    for record in read_shard(settings, batch["shardId"], first=batch["startSequenceNumber"]):
        if int(record["kinesis"]["sequenceNumber"]) > last:
            return
        yield record


def _cut(records: Iterator[Record]) -> Iterator[list[Record]]:
    """The records in batches that a call takes."""
    batch: list[Record] = []
    size = 0
    for record in records:
        length = len(record["kinesis"]["data"]) + 1_000
        if batch and (len(batch) == MAPPING["BatchSize"] or size + length > MAX_PAYLOAD_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield batch
