"""Idempotent bulk indexing: `_id` is the business key, the version is the offset, and the newest version stays."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from elastic_transport import TransportError
from elasticsearch import ApiError, BadRequestError, Elasticsearch
from elasticsearch.helpers import scan, streaming_bulk
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from jobs.errors import IS_IT_UP, ConfigurationError, ServiceUnavailableError
from jobs.parallel import prefetch

T = TypeVar("T")

# Two requests of 5,000 documents at a time: larger values are not faster on 2 cores.
_DOCUMENTS_PER_REQUEST = 5_000
_PARALLEL_REQUESTS = 2
_REQUEST_TIMEOUT_S = 60
# The task retries temporary errors for this time; after that, Airflow retries the task.
RETRY_FOR_S = 60

_JSON = "application/vnd.elasticsearch+json; compatible-with=9"
# Elasticsearch accepts a bulk request as JSON, too. With this content type the client sends bytes without a copy.
_BULK_HEADERS = {"content-type": _JSON, "accept": _JSON}
_RESULT_OF_EACH = "items.index.status,items.index.error.type,items.index.error.reason"
# The client logs a line for every request.
logging.getLogger("elastic_transport.transport").setLevel(logging.WARNING)

# Errors of the document itself. All others are errors of the cluster (a closed index, a limit on shards) and temporary.
_DOCUMENT_FAULTS = {
    "strict_dynamic_mapping_exception",
    "mapper_parsing_exception",
    "document_parsing_exception",
    "illegal_argument_exception",
    "action_request_validation_exception",
}
# Texts of an illegal_argument_exception that is an error of the cluster: a full index, an alias without write index.
_CLUSTER_FAULTS = ("can't exceed", "no write index", "pipeline with id")
_LIFECYCLE = "index.lifecycle.name"
_VERSION_CONFLICT = 409  # the index already has a newer version
_GONE = 404
_FORBIDDEN = 403
# Just after the start of a node also the answer to a correct password: the index of users is not available yet.
_UNKNOWN_USER = 401


class _RefusedForNowError(Exception):
    """A temporary error: too many requests, a shard that is not available, a disk above the flood stage."""


def set_up_index(client: Elasticsearch, index: str, path: Path) -> None:
    """Apply an index template, create the index if it is missing, and verify it.

    A name with an asterisk stands for indices that are created by their first document.

    Raises:
        ConfigurationError, ServiceUnavailableError: as for `apply_template`, `create_index` and `verify_index`.
    """
    apply_template(client, index, path)
    if "*" not in index:
        create_index(client, index, path)
        verify_index(client, index, path)


def apply_template(client: Elasticsearch, index: str, path: Path) -> None:
    """Apply the index template in a file, and add new fields to the mapping of the index if it exists.

    Raises:
        ConfigurationError: the mapping conflicts with the index, the index is an alias without a write index, or
            another template of the same priority covers the index.
        ServiceUnavailableError: the template could not be applied.
    """
    template = json.loads(path.read_text())
    with translate_errors(client, f"applying the template of index {index}"):
        _apply_lifecycle(client, template["template"]["settings"], path)
        name = index.removesuffix("-*")  # a name cannot have an asterisk
        try:
            client.indices.put_index_template(name=name, body={**template, "index_patterns": [index]})
        except BadRequestError as error:
            raise ConfigurationError(
                f"Elasticsearch rejects {path.name}: {_get_reason(error)}. If it names another template, change "
                f"`priority` in {path.name}."
            ) from error
        if not client.indices.get(index=index, ignore_unavailable=True):
            return
        if "*" not in index:
            _read_index(client, index)
        try:
            client.indices.put_mapping(index=index, **template["template"]["mappings"])
        except BadRequestError as error:
            raise ConfigurationError(
                f"The mapping of index {index} conflicts with {path.name} ({error.message}: {_get_reason(error)})."
                f"{_describe_other_template(client, index)} Delete the index or rebuild it under another RIDES_INDEX."
            ) from error


def _apply_lifecycle(client: Elasticsearch, index_settings: dict[str, Any], path: Path) -> None:
    """Put the lifecycle policy that a template names. Removes the name where the node has no lifecycle management."""
    name = index_settings.get(_LIFECYCLE)
    if name is None:
        return
    if has_lifecycles(client):
        client.ilm.put_lifecycle(name=name, policy=_read_lifecycle(name, path))
    else:
        # The node without Docker: `make cleanup` deletes old indices instead.
        del index_settings[_LIFECYCLE]


def has_lifecycles(client: Elasticsearch) -> bool:
    """Whether the node deletes old indices itself. The module that does is in no published artifact."""
    try:
        client.ilm.get_lifecycle(filter_path="_")
    except BadRequestError as error:
        if "no handler found" not in str(error.info):
            raise
        return False
    return True


def read_retention(path: Path) -> timedelta:
    """How long the lifecycle policy of a template keeps an index."""
    name = json.loads(path.read_text())["template"]["settings"][_LIFECYCLE]
    age: str = _read_lifecycle(name, path)["phases"]["delete"]["min_age"]
    return timedelta(days=int(age.removesuffix("d")))


def _read_lifecycle(name: str, path: Path) -> dict[str, Any]:
    """The lifecycle policy of that name, in the folder of the template at `path`."""
    policy: dict[str, Any] = json.loads((path.parent / "lifecycles" / f"{name}.json").read_text())
    return policy


def create_index(client: Elasticsearch, index: str, path: Path) -> None:
    """Create an empty index, unless an index or an alias has that name.

    The request has the mapping and settings of the template, which override those of any other template. It works also
    with `action.auto_create_index: false`. It is safe to run in several processes at the same time.

    Kibana shows an error for a data view that matches no index, but "No results" for an empty index.

    Raises:
        ConfigurationError: Elasticsearch rejects it, for example because another template makes it a data stream.
        ServiceUnavailableError: it could not be created.
    """
    with translate_errors(client, f"creating index {index}"):
        if client.indices.exists(index=index):
            return
        try:
            client.indices.create(index=index, **json.loads(path.read_text())["template"])
        except BadRequestError as error:
            if error.message != "resource_already_exists_exception":
                raise ConfigurationError(
                    f"Elasticsearch cannot create index {index}: {_get_reason(error)}."
                    f"{_describe_other_template(client, index)}"
                ) from error


def verify_index(client: Elasticsearch, index: str, path: Path) -> None:
    """Check that an index has the mapping in a file, and nothing else that changes or refuses documents.

    Needs the privileges `view_index_metadata` and `monitor`.

    Raises:
        ConfigurationError: fields are missing or have other parameters, or another template's settings are in effect.
        ServiceUnavailableError: the mapping could not be read.
    """
    declared = json.loads(path.read_text())["template"]["mappings"]
    with translate_errors(client, f"reading the mapping of index {index}"):
        # For an alias, the newest of its indices.
        held = max(_read_index(client, index).items())[1]
        if faults := [*_compare_mappings(held["mappings"], declared), *_list_pipelines(held["settings"]["index"])]:
            raise ConfigurationError(
                f"The mapping of index {index} differs from {path.name}: {', '.join(faults)}."
                f"{_describe_other_template(client, index)} Run `make template`. If it says the same, delete the index "
                "and run `make reindex`."
            )


def _compare_mappings(held: dict[str, Any], declared: dict[str, Any]) -> Iterator[str]:
    """Describe what of a declared mapping is missing or different, and what refuses or loses documents besides."""
    properties = held.get("properties", {})
    for name, parameters in declared["properties"].items():
        if name not in properties:
            yield f"{name} is missing"
            continue
        field = {"type": "object", **properties[name]}
        yield from (f"{name}.{key} is {field.get(key)}" for key, value in parameters.items() if field.get(key) != value)
    dynamic = str(held.get("dynamic", True)).lower()
    if dynamic != declared["dynamic"]:
        yield f"dynamic is {dynamic}"
    if held.get("_source", {}).get("enabled", "true") not in (True, "true"):
        yield "_source is disabled"
    if held.get("_routing", {}).get("required", "false") not in (False, "false"):
        yield "_routing is required"


def _list_pipelines(settings: dict[str, Any]) -> Iterator[str]:
    for name in ("default_pipeline", "final_pipeline"):
        if (pipeline := settings.get(name, "_none")) != "_none":
            yield f"{name} is {pipeline}"


def _describe_other_template(client: Elasticsearch, index: str) -> str:
    """Name the template with the highest priority that covers an index, if it is not ours; begins with a space."""
    templates = [
        (template["index_template"].get("priority", 0), template["name"], template["index_template"]["index_patterns"])
        for template in client.indices.get_index_template()["index_templates"]
    ]
    covering = [template for template in templates if any(fnmatchcase(index, pattern) for pattern in template[2])]
    priority, name, patterns = max(covering, default=(0, index, []))
    if name == index:
        return ""
    return (
        f" The index template {name} (patterns {', '.join(patterns)}, priority {priority}) outranks ours: raise "
        f"`priority` in our template above {priority}, or exclude {index} from it."
    )


def _get_reason(error: BadRequestError) -> str:
    reason: str = error.info["error"]["reason"]
    return reason.rstrip(".")


def _read_index(client: Elasticsearch, index: str) -> dict[str, Any]:
    """The index, or the indices of an alias, by name.

    Raises:
        ConfigurationError: the alias has no write index.
    """
    held: dict[str, Any] = client.indices.get(index=index).body
    if len(held) > 1 and not any(found["aliases"].get(index, {}).get("is_write_index") for found in held.values()):
        raise ConfigurationError(f"{index} is an alias of several indices without a write index. Set is_write_index.")
    return held


def make_bulk_lines(ids: pa.StringArray, versions: pa.Int64Array, documents: pa.StringArray) -> pa.StringArray:
    """The two lines of a bulk request for each document."""
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
    """Escape texts for JSON strings."""
    is_unsafe = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
    if not is_unsafe.true_count:
        return texts
    escaped = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts.filter(is_unsafe).to_pylist()]
    return pc.replace_with_mask(texts, is_unsafe, pa.array(escaped, pa.string()))


def index_batches(
    client: Elasticsearch, index: str, batches: Iterable[tuple[T, pa.StringArray]]
) -> Iterator[tuple[T, dict[int, str]]]:
    """Index batches of documents (rows of `make_bulk_lines`). Requests of consecutive batches run in parallel.

    Args:
        batches: each batch with a value that identifies it to the caller.

    Yields:
        The identifying value, and the error text of each document that Elasticsearch rejects for good, by row of the
        batch.

    Raises:
        ServiceUnavailableError: not all documents were indexed within RETRY_FOR_S; it is safe to try again.
        ConfigurationError: the client may not write to the index.
    """
    client = client.options(max_retries=0, request_timeout=_REQUEST_TIMEOUT_S)

    def requests() -> Iterator[tuple[T, int, pa.StringArray, bool]]:
        for batch, lines in batches:
            starts = range(0, len(lines), _DOCUMENTS_PER_REQUEST) or [0]
            for start in starts:
                yield batch, start, lines.slice(start, _DOCUMENTS_PER_REQUEST), start == starts[-1]

    refusals: dict[int, str] = {}
    with translate_errors(client, f"indexing into {index}"):
        sent = prefetch(lambda request: _send(client, index, request[2]), requests(), ahead=_PARALLEL_REQUESTS)
        for (batch, start, _, is_last), refused in sent:
            refusals.update({start + row: message for row, message in refused.items()})
            if is_last:
                yield batch, refusals
                refusals = {}


def delete_where(client: Elasticsearch, index: str, query: dict[str, Any]) -> int:
    """Delete the documents that match a query, unless they change meanwhile. Returns how many were deleted.

    It does not use _delete_by_query, which the node without Docker lacks.

    Raises:
        ConfigurationError: the client may not delete from the index.
        ServiceUnavailableError: not all documents were deleted; it is safe to try again.
    """
    with translate_errors(client, f"deleting from {index}"):
        client.indices.refresh(index=index, ignore_unavailable=True)
        hits = scan(
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
            for hit in hits
        )
        deleted = 0
        answers = streaming_bulk(client, deletions, chunk_size=_DOCUMENTS_PER_REQUEST, raise_on_error=False)
        for is_deleted, answer in answers:
            deleted += is_deleted
            if not is_deleted and answer["delete"]["status"] not in (_VERSION_CONFLICT, _GONE):
                raise _RefusedForNowError(str(answer["delete"]))
    return deleted


def _send(client: Elasticsearch, index: str, lines: pa.StringArray) -> dict[int, str]:
    """Send one request; send documents with temporary errors again, with backoff and jitter."""
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
            if not _post_bulk(client, index, rest, "errors")["errors"]:
                return refusals
            # Send the same documents again, which changes nothing, and ask for the result of each. To ask every time
            # would cost more.
            items = _post_bulk(client, index, rest, _RESULT_OF_EACH)["items"]
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


def _post_bulk(client: Elasticsearch, index: str, lines: pa.StringArray, wanted: str) -> dict[str, Any]:
    """Send a bulk request; returns the part of the answer that `wanted` (a filter_path) selects."""
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
def translate_errors(client: Elasticsearch, doing: str) -> Iterator[None]:
    """Turn the client's errors into ones with the address and what to do."""
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
                f"Elasticsearch at {where}: {doing}: not allowed. Check the roles of the user; a task uses the one in "
                "the connection es_local."
            ) from error
        if error.status_code == _UNKNOWN_USER:
            raise ServiceUnavailableError(
                f"Elasticsearch at {where}: {doing}: Elasticsearch rejected the password (401). Just after its start, "
                "try again. Otherwise the password was changed after the first start: see docs/troubleshooting.md."
            ) from error
        raise ServiceUnavailableError(f"Elasticsearch at {where}: {doing} failed: {error}") from error
