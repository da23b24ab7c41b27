"""Creates documents with ids that their senders choose, so that sending them again changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Event
from typing import Any

import msgspec
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
)

log = logging.getLogger(__name__)

# The client logs a line for every request.
logging.getLogger("elastic_transport.transport").setLevel(logging.WARNING)

# Elasticsearch accepts a bulk request as JSON, too. With this content type the client sends bytes without a copy.
_JSON = "application/vnd.elasticsearch+json; compatible-with=9"
_HEADERS = {"content-type": _JSON, "accept": _JSON}
_REQUEST_TIMEOUT_S = 60
_LONGEST_PAUSE_S = 10
# 409: the document is there already. Statuses in neither set are temporary.
_DONE = {200, 201, 409}
_REFUSED = {400, 404}


class Document(msgspec.Struct, frozen=True):
    """What is stored under an id."""

    index: str
    id: str
    content: dict[str, Any]


class NotStoredError(Exception):
    """Documents were rejected for now, or the sender stops before all were acknowledged."""


def create_documents(client: Elasticsearch, documents: Sequence[Document], stopped: Event) -> dict[int, dict[str, Any]]:
    """Create documents, unless their ids exist. Tries again until Elasticsearch has answered for each of them.

    Returns:
        The answers for those that Elasticsearch refuses for good, by their positions in `documents`.

    Raises:
        NotStoredError: `stopped` was set before.
    """
    client = client.options(max_retries=0, request_timeout=_REQUEST_TIMEOUT_S)
    lines = [_make_lines(document) for document in documents]
    left = list(range(len(documents)))
    refused: dict[int, dict[str, Any]] = {}

    def send() -> None:
        nonlocal left
        if not left:
            return
        body = b"".join(lines[number] for number in left)
        items = client.perform_request("POST", "/_bulk", headers=_HEADERS, body=body).body["items"]
        answers = {number: item["create"] for number, item in zip(left, items, strict=True)}
        refused.update({number: answer for number, answer in answers.items() if answer["status"] in _REFUSED})
        left = [number for number, answer in answers.items() if answer["status"] not in _DONE | _REFUSED]
        if left:
            raise NotStoredError(f"{len(left)} documents were rejected for now, the first: {answers[left[0]]}")

    retrying = Retrying(
        retry=retry_if_exception_type((TransportError, ApiError, NotStoredError)),
        wait=wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_S),
        stop=stop_when_event_set(stopped),
        sleep=sleep_using_event(stopped),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        retrying(send)
    except (TransportError, ApiError) as error:
        raise NotStoredError(f"Stopped before Elasticsearch had all documents: {error}") from error
    return refused


def _make_lines(document: Document) -> bytes:
    action = {"create": {"_index": document.index, "_id": document.id}}
    return msgspec.json.encode(action) + b"\n" + msgspec.json.encode(document.content) + b"\n"
