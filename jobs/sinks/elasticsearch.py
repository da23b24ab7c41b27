"""Bulk indexing that can be repeated: `_id` is the business key, the version is the offset, the newest one stays."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from elastic_transport import TransportError
from elasticsearch import ApiError, BadRequestError, Elasticsearch, NotFoundError
from elasticsearch.helpers import scan, streaming_bulk
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from jobs.errors import IS_IT_UP, ConfigurationError, ServiceUnavailableError
from jobs.parallel import prefetched

T = TypeVar("T")

# Requests of so many documents, two at a time: half a bulk queue, and no gain beyond it on 2 cores.
_DOCUMENTS_PER_REQUEST = 5_000
_PARALLEL_REQUESTS = 2
_REQUEST_TIMEOUT_S = 60
# What is refused for now is sent again for so long inside the task; then Airflow's retries take over.
RETRY_FOR_S = 60

_JSON = "application/vnd.elasticsearch+json; compatible-with=9"
# Elasticsearch takes a bulk request as JSON, too, and as such the client sends bytes as they are; NDJSON it copies.
_BULK_HEADERS = {"content-type": _JSON, "accept": _JSON}
_RESULT_OF_EACH = "items.index.status,items.index.error.type,items.index.error.reason"
# One line for every request is too much for a log that people read.
logging.getLogger("elastic_transport.transport").setLevel(logging.WARNING)

# What is wrong with the document itself. Other faults are the cluster's (a closed index, a limit on shards) and pass.
_DOCUMENT_FAULTS = {
    "strict_dynamic_mapping_exception",
    "mapper_parsing_exception",
    "document_parsing_exception",
    "illegal_argument_exception",
    "action_request_validation_exception",
}
# What an illegal_argument_exception says where not the document is at fault: a full index, an alias set up wrong.
_CLUSTER_FAULTS = ("can't exceed", "no write index", "pipeline with id")
_VERSION_CONFLICT = 409  # a newer version is there already
_GONE = 404
_FORBIDDEN = 403
# Right after a node's start also the answer to a right password: its own index of users is not there yet.
_UNKNOWN_USER = 401
_APPLY = "Apply it: `make template`."


class _RefusedForNowError(Exception):
    """Elasticsearch asks to try again: too many requests, a shard that is away, a disk over its flood stage."""


def apply_template(client: Elasticsearch, index: str, path: Path) -> None:
    """Apply the index template of a file to an index; it changes nothing where the cluster holds the same one.

    A template acts when an index is made, so an index that is there gets the mapping's new fields as well.

    Raises:
        ConfigurationError: the index cannot take the mapping, or is an alias that cannot be written to.
        ServiceUnavailableError: it could not be applied.
    """
    template = json.loads(path.read_text())
    with explained(client, f"applying the template of index {index}"):
        client.indices.put_index_template(name=index, body={**template, "index_patterns": [index]})
        if not client.indices.exists(index=index):
            return
        _held(client, index)
        try:
            client.indices.put_mapping(index=index, **template["template"]["mappings"])
        except BadRequestError as error:
            raise ConfigurationError(
                f"Index {index} holds another mapping than {path.name} and cannot take it ({error.message}: "
                f"{error.info['error']['reason']}). Delete the index or rebuild it under another RIDES_INDEX."
            ) from error


def create_index(client: Elasticsearch, index: str) -> None:
    """Create an empty index from its template, unless an index or an alias has that name.

    Kibana shows an error for a data view that matches no index, but "No results" for an empty index. It is safe to run
    in several processes at the same time.

    Raises:
        ServiceUnavailableError: it could not be created.
    """
    with explained(client, f"creating index {index}"):
        if client.indices.exists(index=index):
            return
        try:
            client.indices.create(index=index)
        except BadRequestError as error:
            if error.message != "resource_already_exists_exception":
                raise


def verify_template(client: Elasticsearch, index: str, path: Path) -> None:
    """See that an index, or the template that will make it, has the mapping of a file. Needs no right to change either.

    Raises:
        ConfigurationError: there is none, or fields are missing or of another type.
        ServiceUnavailableError: it could not be read.
    """
    wanted = json.loads(path.read_text())["template"]["mappings"]
    with explained(client, f"reading the mapping of index {index}"):
        try:
            if client.indices.exists(index=index):
                # Of an alias, the newest of its indices.
                held = max(_held(client, index).items())[1]["mappings"]
            else:
                (template,) = client.indices.get_index_template(name=index)["index_templates"]
                held = template["index_template"]["template"]["mappings"]
        except NotFoundError as error:
            raise ConfigurationError(f"Index {index} has no template. {_APPLY}") from error
    properties = held.get("properties", {})
    unlike = [
        f"{field} is {properties[field].get('type', 'object') if field in properties else 'missing'}"
        for field, declared in wanted["properties"].items()
        if properties.get(field, {}).get("type") != declared["type"]
    ]
    dynamic = str(held.get("dynamic", True)).lower()
    if dynamic != wanted["dynamic"]:
        unlike.append(f"dynamic is {dynamic}")
    if unlike:
        raise ConfigurationError(f"The mapping of index {index} is not {path.name}'s: {', '.join(unlike)}. {_APPLY}")


def _held(client: Elasticsearch, index: str) -> dict[str, Any]:
    """The index, or the indices of an alias, by name.

    Raises:
        ConfigurationError: it is an alias that cannot be written to.
    """
    held: dict[str, Any] = client.indices.get(index=index).body
    if len(held) > 1 and not any(found["aliases"].get(index, {}).get("is_write_index") for found in held.values()):
        raise ConfigurationError(f"{index} is an alias of several indices and none of them is its write index.")
    return held


def actions(ids: pa.StringArray, versions: pa.Int64Array, documents: pa.StringArray) -> pa.StringArray:
    """The two lines of each document in a bulk request."""
    return pc.binary_join_element_wise(
        '{"index":{"_id":"',
        _escape(ids),
        '","version":',
        versions.cast(pa.string()),
        ',"version_type":"external_gte"}}\n',
        documents,
        "\n",
        "",
    )


def _escape(texts: pa.StringArray) -> pa.StringArray:
    """Texts as they stand between the quotes of a JSON string."""
    is_unsafe = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
    if not is_unsafe.true_count:
        return texts
    escaped = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts.filter(is_unsafe).to_pylist()]
    return pc.replace_with_mask(texts, is_unsafe, pa.array(escaped, pa.string()))


def bulk(
    client: Elasticsearch, index: str, batches: Iterable[tuple[T, pa.StringArray]]
) -> Iterator[tuple[T, dict[int, str]]]:
    """Index batches of documents (rows of `actions`), the next one's first requests beside the last ones of a batch.

    Args:
        batches: each with whatever tells the caller which one it is.

    Yields:
        That, with what Elasticsearch said of each document that it will never take as it is, by row of the batch.

    Raises:
        ServiceUnavailableError: not all were taken within RETRY_FOR_S; sending them again is harmless.
        ConfigurationError: the client may not write to the index.
    """
    client = client.options(max_retries=0, request_timeout=_REQUEST_TIMEOUT_S)

    def requests() -> Iterator[tuple[T, int, pa.StringArray, bool]]:
        for batch, lines in batches:
            starts = range(0, len(lines), _DOCUMENTS_PER_REQUEST) or [0]
            for start in starts:
                yield batch, start, lines.slice(start, _DOCUMENTS_PER_REQUEST), start == starts[-1]

    refusals: dict[int, str] = {}
    with explained(client, f"indexing into {index}"):
        sent = prefetched(lambda request: _send(client, index, request[2]), requests(), ahead=_PARALLEL_REQUESTS)
        for (batch, start, _, is_last), refused in sent:
            refusals.update({start + row: message for row, message in refused.items()})
            if is_last:
                yield batch, refusals
                refusals = {}


def delete_where(client: Elasticsearch, index: str, query: dict[str, Any]) -> int:
    """Delete the documents that a query finds and that nobody changes meanwhile; how many those were.

    (Not by _delete_by_query, which the node without Docker does not have.)

    Raises:
        ConfigurationError: the client may not delete from the index.
        ServiceUnavailableError: not all were deleted; doing it again is harmless.
    """
    with explained(client, f"deleting from {index}"):
        client.indices.refresh(index=index, ignore_unavailable=True)
        found = scan(
            client,
            {"query": query, "_source": False, "seq_no_primary_term": True},
            index=index,
            size=_DOCUMENTS_PER_REQUEST,
            ignore_unavailable=True,
        )
        deletions = (
            {
                "_op_type": "delete",
                "_index": hit["_index"],
                "_id": hit["_id"],
                "if_seq_no": hit["_seq_no"],
                "if_primary_term": hit["_primary_term"],
            }
            for hit in found
        )
        deleted = 0
        answers = streaming_bulk(client, deletions, chunk_size=_DOCUMENTS_PER_REQUEST, raise_on_error=False)
        for is_deleted, answer in answers:
            deleted += is_deleted
            if not is_deleted and answer["delete"]["status"] not in (_VERSION_CONFLICT, _GONE):
                raise _RefusedForNowError(str(answer["delete"]))
    return deleted


def _send(client: Elasticsearch, index: str, lines: pa.StringArray) -> dict[int, str]:
    """Send one request, and its documents that are refused for now again, with backoff and jitter."""
    refusals: dict[int, str] = {}
    if not len(lines):
        return refusals
    left = np.arange(len(lines))
    for attempt in Retrying(
        retry=retry_if_exception_type((_RefusedForNowError, TransportError)),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_after_delay(RETRY_FOR_S),
        reraise=True,
    ):
        with attempt:
            rest = lines if len(left) == len(lines) else lines.take(pa.array(left))
            if not _request(client, index, rest, "errors")["errors"]:
                return refusals
            # Sending them once more to hear which changes nothing. An answer for each would cost more, every time.
            items = _request(client, index, rest, _RESULT_OF_EACH)["items"]
            again = []
            for row, item in zip(left.tolist(), items, strict=True):
                result = item["index"]
                if _is_fault_of_document(result.get("error", {})):
                    refusals[row] = _describe(result["error"])
                elif result["status"] == _FORBIDDEN and result["error"]["type"] != "cluster_block_exception":
                    raise ConfigurationError(f"Elasticsearch forbids writing to {index}: {_describe(result['error'])}")
                elif result["status"] >= 300 and result["status"] != _VERSION_CONFLICT:
                    again.append((row, _describe(result["error"])))
            if again:
                left = np.array([row for row, _ in again])
                raise _RefusedForNowError(f"{len(again)} documents: {again[0][1]}")
    return refusals


def _request(client: Elasticsearch, index: str, lines: pa.StringArray, wanted: str) -> dict[str, Any]:
    """Send a bulk request; of the answer what is wanted (a filter_path)."""
    _, offsets, data = lines.buffers()
    begin, end = np.frombuffer(offsets, np.int32)[[lines.offset, lines.offset + len(lines)]].tolist()
    try:
        response = client.perform_request(
            "POST",
            f"/{index}/_bulk",
            params={"filter_path": wanted},
            headers=_BULK_HEADERS,
            body=data.slice(begin, end - begin).to_pybytes(),
        )
    except ApiError as error:
        if error.status_code in (_UNKNOWN_USER, 429) or error.status_code >= 500:
            raise _RefusedForNowError(str(error)) from error
        raise
    answer: dict[str, Any] = response.body
    return answer


def _is_fault_of_document(error: dict[str, Any]) -> bool:
    reason = error.get("reason") or ""
    return error.get("type") in _DOCUMENT_FAULTS and not any(text in reason for text in _CLUSTER_FAULTS)


def _describe(error: dict[str, Any]) -> str:
    return f"{error['type']}: {error.get('reason', '')}"


@contextmanager
def explained(client: Elasticsearch, doing: str) -> Iterator[None]:
    """Turn the client's errors into ours, which name the address and the remedy."""
    where = ", ".join(str(node.base_url) for node in client.transport.node_pool.all())
    try:
        yield
    except (TransportError, _RefusedForNowError) as error:
        raise ServiceUnavailableError(
            f"Elasticsearch at {where}: {doing} failed: {error}. It is safe to try again. {IS_IT_UP}"
        ) from error
    except ApiError as error:
        if error.status_code == _FORBIDDEN:
            raise ConfigurationError(
                f"Elasticsearch at {where}: {doing}: not allowed. Check the roles of the user: in a task that of the "
                "connection es_local."
            ) from error
        if error.status_code == _UNKNOWN_USER:
            raise ServiceUnavailableError(
                f"Elasticsearch at {where}: {doing}: the password is not taken (401). Right after its start that "
                "passes; else it is not the one that Elasticsearch was set up with: see docs/troubleshooting.md."
            ) from error
        raise ServiceUnavailableError(f"Elasticsearch at {where}: {doing} failed: {error}") from error
