"""Reads what the function has left: items and log lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from boto3.dynamodb.types import Binary

from jobs.serverless.aws import make_client, make_table, translate_errors
from jobs.serverless.vertical import LOG_GROUP, ServerlessSettings

DAY_MS = 86_400_000


def scan_items(settings: ServerlessSettings, name: str, attributes: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """The items of a table, page by page.

    Args:
        attributes: only these; default: all.
    """
    table = make_table(settings, name)
    request: dict[str, Any] = {"ConsistentRead": True}
    if attributes:
        names = {f"#{number}": attribute for number, attribute in enumerate(attributes)}
        request |= {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
    while True:
        page = table.scan(**request)
        yield from page["Items"]
        if "LastEvaluatedKey" not in page:
            return
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def show_items(settings: ServerlessSettings, name: str, count: int) -> list[str]:
    """The first items of a table, each as one line of JSON."""
    with translate_errors(settings, f"reading the table {name}"):
        return [_show(item) for item in islice(scan_items(settings, name), count)]


def _show(item: dict[str, Any]) -> str:
    return json.dumps(item, ensure_ascii=False, sort_keys=True, default=_convert)


def _convert(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Binary):
        return value.value.decode("utf-8", "backslashreplace")[:200]
    raise TypeError(f"cannot show a {type(value).__name__}")


def read_log(settings: ServerlessSettings, count: int) -> list[str]:
    """The function's last log lines of its last day with any."""
    with translate_errors(settings, "reading the function's log"):
        logs = make_client(settings, "logs")
        streams = logs.describe_log_streams(logGroupName=LOG_GROUP, orderBy="LastEventTime", descending=True, limit=1)[
            "logStreams"
        ]
        if not streams:
            return []
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=LOG_GROUP, startTime=streams[0].get("lastEventTimestamp", DAY_MS) - DAY_MS
        )
        events = [(event["timestamp"], event["message"].rstrip()) for page in pages for event in page["events"]]
    return [message for _, message in sorted(events, key=lambda event: event[0])[-count:]]
