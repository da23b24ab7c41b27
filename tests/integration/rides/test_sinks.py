"""rides_result → Elasticsearch and Parquet: retries write the same content; rejected results are dead letters."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from elasticsearch import Elasticsearch
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.kafka.claim import Limits
from jobs.rides.transform import SINK_SCHEMA
from jobs.rides.vertical import TEMPLATE
from jobs.sinks import elasticsearch as elasticsearch_sink
from jobs.sinks import parquet as parquet_sink
from jobs.sinks.elasticsearch import apply_template, create_index, index_batches, make_bulk_lines, set_up_index
from jobs.sinks.parquet import holds_objects
from tests.testkit.flow import Exporting, Flow, Sinking, held_when_forgotten
from tests.testkit.kafka import Raw, produce
from tests.testkit.rides import encode, keyed, result
from tests.testkit.stack import Stack
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(120)


def results(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [result(**changes) for _ in range(count)]


def send(flow: Flow, contents: list[dict[str, Any]]) -> None:
    produce(flow.config, flow.source, map(keyed, contents))


def rows_of(objects: dict[str, bytes]) -> list[dict[str, Any]]:
    return [row for content in objects.values() for row in pq.read_table(io.BytesIO(content)).to_pylist()]


# --- Without failures -----------------------------------------------------------------------------


def test_both_sinks_hold_every_ride(sinking: Sinking, exporting: Exporting) -> None:
    hours = ["2026-01-05T08:15:30.123456Z", "2026-01-05T09:00:00.000000Z", "0001-01-01T00:00:00.000000Z"]
    contents = [content for hour in hours for content in results(20, ts=hour)]
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    send(sinking, contents)
    after = datetime.now(UTC)
    assert sinking.run() == {}
    exporting.run()
    documents, objects = sinking.documents(), exporting.objects()
    rows = {row["ride_id"]: row for row in rows_of(objects)}
    assert set(documents) == set(rows) == {content["ride_id"] for content in contents}
    assert len(rows_of(objects)) == len(contents)
    for content in contents:
        document, row = documents[content["ride_id"]], rows[content["ride_id"]]
        assert {name: document[name] for name in content} == content
        assert row["ts"].isoformat(timespec="microseconds").replace("+00:00", "Z") == content["ts"]
        stamp = row["agent_timestamp"].isoformat(timespec="microseconds").replace("+00:00", "Z")
        assert stamp == document["agent_timestamp"], "stamped once, the same in both sinks"
        assert before <= row["agent_timestamp"] <= after
        assert (row["origin_lat"], row["destination_lon"]) == (content["origin"]["lat"], content["destination"]["lon"])
        assert all(row[name] == document[name] for name in ("price_total", "kafka_partition", "kafka_offset"))
        assert document["_version"] == document["kafka_offset"]
    for name, content in objects.items():
        folder, hour = name.removeprefix(exporting.prefix).rsplit("/", 1)[0], hours
        assert folder in {"2026/01/05/08", "2026/01/05/09", "0001/01/01/00"}, hour
        assert pq.read_schema(io.BytesIO(content)).equals(SINK_SCHEMA)
        assert "//" not in name
    assert sinking.stage() is None
    assert exporting.stage() is None


def test_origins_can_be_searched_by_distance(sinking: Sinking) -> None:
    near, far = result(), result(origin={"lat": 48.85, "lon": 2.35})
    send(sinking, [near, far])
    sinking.run()
    sinking.elasticsearch.indices.refresh(index=sinking.index)
    query = {"geo_distance": {"distance": "5km", "origin": {"lat": 48.86, "lon": 2.35}}}
    hits = sinking.elasticsearch.search(index=sinking.index, query=query)["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == [far["ride_id"]]
    mapping = sinking.elasticsearch.indices.get_mapping(index=sinking.index)[sinking.index]["mappings"]
    assert mapping["dynamic"] == "strict"
    assert mapping["properties"]["price_total"] == {"type": "double"}


# --- Replays --------------------------------------------------------------------------------------


def test_ids_with_special_characters_are_indexed(sinking: Sinking) -> None:
    ids = ['a "quoted" ticket', "back\\slash", "two\nlines", "\x00", "ümlaut", "plain"]
    lines = pa.array([json.dumps({"ride_id": name}) for name in ids], pa.string())
    batch = make_bulk_lines(pa.array(ids, pa.string()), pa.array([7] * len(ids), pa.int64()), lines)
    assert list(index_batches(sinking.elasticsearch, sinking.index, [("batch", batch)])) == [("batch", {})]
    documents = sinking.documents()
    assert {key: (document["ride_id"], document["_version"]) for key, document in documents.items()} == {
        name: (name, 7) for name in ids
    }


def test_a_replay_writes_the_same_documents(sinking: Sinking) -> None:
    send(sinking, results(120))
    sinking.write()
    documents = sinking.documents()
    send(sinking, results(33))  # the topic grows while the run fails
    assert sinking.run() == {}
    assert len(sinking.documents()) == 153
    assert documents.items() <= sinking.documents().items()


def test_a_replay_writes_the_same_objects(exporting: Exporting) -> None:
    send(exporting, results(120))
    exporting.write(exporting.staged())
    objects = exporting.objects()
    assert len(objects) > 10
    send(exporting, results(33))  # the topic grows while the run fails
    staged = exporting.staged()
    exporting.write(staged)
    assert exporting.objects() == objects, "the same names, the same bytes"
    exporting.commit(staged)
    exporting.run()
    assert len(rows_of(exporting.objects())) == 153
    assert all(exporting.objects()[name] == content for name, content in objects.items())


def test_the_export_waits_for_size_or_age(exporting: Exporting) -> None:
    assert not exporting.backlog(max_age_s=0).is_due(1)
    send(exporting, results(20))
    backlog = exporting.backlog()
    assert (backlog.offsets, backlog.is_begun, backlog.is_old) == (20, False, False)
    assert backlog.is_due(20)
    assert not backlog.is_due(21)
    until(lambda: exporting.backlog(max_age_s=0.5).is_due(21), "the first ride has waited for half a second")
    exporting.staged()
    assert exporting.backlog().is_due(21), "what is begun is brought to its end"
    exporting.run()
    backlog = exporting.backlog(max_age_s=0)
    assert (backlog.offsets, backlog.is_begun, backlog.is_old) == (0, False, False)
    # The age is that of the first waiting ride of all partitions.
    send(exporting, results(1))
    until(lambda: exporting.backlog(max_age_s=0.5).is_old, "one ride has waited for half a second")
    send(exporting, results(30))
    assert exporting.backlog(max_age_s=0.5).is_old


def test_duplicates_are_one_document_and_two_rows(sinking: Sinking, exporting: Exporting) -> None:
    content = result()
    others = results(20)
    send(sinking, [content, *others, content | {"price_total": 99.5}])
    sinking.run()
    exporting.run()
    document = sinking.documents()[content["ride_id"]]
    assert document["price_total"] == 99.5
    assert len(sinking.documents()) == 21
    assert len(rows_of(exporting.objects())) == 22


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_the_newest_offset_wins_in_any_order(sinking: Sinking, order: tuple[int, ...]) -> None:
    content = result()
    sinking.limits = Limits(run_records=100, chunk_records=1, chunk_bytes=2**20)
    send(sinking, [content | {"price_total": float(number)} for number in range(3)])
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    import msgspec

    for number in order:
        one = msgspec.structs.replace(transformed, chunks=(transformed.chunks[number],))
        assert sinking.index_rides(staged, one).rejects == 0
    (document,) = sinking.documents().values()
    assert (document["price_total"], document["_version"]) == (2.0, 2)


def test_concurrent_workers_write_the_same_content(sinking: Sinking, exporting: Exporting) -> None:
    send(sinking, results(200))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(sinking.index_rides, staged, transformed) for _ in range(4)]
        assert [future.result().rejects for future in futures] == [0] * 4
        exported = exporting.staged()
        assert len({tuple(names) for names in pool.map(lambda _: exporting.write(exported), range(4))}) == 1
    assert len(sinking.documents()) == len(rows_of(exporting.objects())) == 200


# --- Rejected results -----------------------------------------------------------------------------


def test_documents_rejected_by_elasticsearch_are_dead_letters(sinking: Sinking, exporting: Exporting) -> None:
    # Elasticsearch rejects values that do not fit the small field; the mapping still accepts the template's fields.
    properties = {"price_base": {"type": "double", "fields": {"small": {"type": "byte"}}}}
    sinking.elasticsearch.indices.create(index=sinking.index, mappings={"properties": properties})
    good, bad = results(15, price_base=2.0), results(7, price_base=5000.0)
    contents = [*good, *bad]
    random.Random(7).shuffle(contents)
    headers = [("trace", b"\x00\xff")]
    produce(sinking.config, sinking.source, [keyed(content)._replace(headers=headers) for content in contents])
    transformed, indexed = sinking.write()
    assert indexed.rejects == 7
    assert sinking.commit(transformed, indexed) == {"refused_by_elasticsearch": 7}

    dead = sinking.dead_letters()
    assert Counter(letter.key for letter in dead) == Counter(content["ride_id"].encode() for content in bad)
    by_id = {content["ride_id"].encode(): encode(content) for content in bad}
    for letter in dead:
        assert letter.value == by_id[letter.key or b""]
        assert (letter.headers or [])[:1] == headers
        error = letter.error
        assert (error["topic"], error["stage"]) == (sinking.source, "TASK_PUT")
        assert (error["connector.name"], error["task.id"]) == ("dag_index_and_export", "PutElasticSearch")
        assert error["exception.class.name"] == "refused_by_elasticsearch"
        assert "price_base" in error["exception.message"]
    assert set(sinking.documents()) == {content["ride_id"] for content in good}
    exporting.run()
    assert len(rows_of(exporting.objects())) == 22, "Parquet holds them all"


def test_an_index_with_another_mapping_fails_before_writing(sinking: Sinking) -> None:
    sinking.elasticsearch.indices.create(index=sinking.index, mappings={"properties": {"comfort": {"type": "long"}}})
    send(sinking, results(3))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    with pytest.raises(ConfigurationError, match=rf"{sinking.index}.*comfort"):
        sinking.index_rides(staged, transformed)
    assert sinking.documents() == {}


def test_apply_template_adds_new_fields_to_an_existing_index(
    sinking: Sinking, fresh_name: Callable[[str], str]
) -> None:
    """The mapping is from before a field was added. The template is applied to the existing index, too."""
    sinking.index = fresh_name("rides")
    properties = {"ride_id": {"type": "keyword"}}
    sinking.elasticsearch.indices.create(index=sinking.index, mappings={"dynamic": "strict", "properties": properties})
    send(sinking, results(3))
    with pytest.raises(ConfigurationError, match=rf"{sinking.index}.*ts is missing.*make template"):
        sinking.write()
    apply_template(sinking.elasticsearch, sinking.index, TEMPLATE)
    assert sinking.run() == {}
    assert len(sinking.documents()) == 3


def test_several_processes_create_one_empty_index(sinking: Sinking) -> None:
    """Before the first ride, Kibana's panels say "No results" only if the index exists."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: create_index(sinking.elasticsearch, sinking.index, TEMPLATE), range(4)))
    (held,) = sinking.elasticsearch.indices.get(index=sinking.index).values()
    assert held["mappings"] == json.loads(TEMPLATE.read_text())["template"]["mappings"]
    assert sinking.documents() == {}
    send(sinking, results(3))
    assert sinking.run() == {}
    assert len(sinking.documents()) == 3


def test_an_alias_counts_as_an_index(sinking: Sinking) -> None:
    indices = sinking.elasticsearch.indices
    indices.create(index=f"{sinking.index}-1", aliases={sinking.index: {}})
    create_index(sinking.elasticsearch, sinking.index, TEMPLATE)
    assert list(indices.get(index=sinking.index)) == [f"{sinking.index}-1"]


def test_the_index_is_created_although_auto_create_index_is_off(
    sinking: Sinking, fresh_name: Callable[[str], str]
) -> None:
    sinking.index = fresh_name("rides")  # without a template
    cluster = sinking.elasticsearch.cluster
    send(sinking, results(3))
    cluster.put_settings(persistent={"action.auto_create_index": False})
    try:
        assert sinking.run() == {}
    finally:
        cluster.put_settings(persistent={"action.auto_create_index": None})
    assert len(sinking.documents()) == 3
    (held,) = sinking.elasticsearch.indices.get(index=sinking.index).values()
    assert held["mappings"] == json.loads(TEMPLATE.read_text())["template"]["mappings"]


# --- Templates of other teams ---------------------------------------------------------------------


@contextmanager
def catch_all_template(client: Elasticsearch, *, priority: int = 500, **template: Any) -> Iterator[str]:
    """A template of another team that covers every index; yields its name."""
    name = f"theirs-{uuid4().hex[:8]}"
    client.indices.put_index_template(name=name, index_patterns=["*"], priority=priority, template=template)
    try:
        yield name
    finally:
        client.indices.delete_index_template(name=name)


DYNAMIC = {"dynamic": True, "properties": {"comfort": {"type": "text"}, "host": {"type": "keyword"}}}


def test_a_catch_all_template_does_not_change_the_index(sinking: Sinking) -> None:
    send(sinking, results(3))
    with catch_all_template(sinking.elasticsearch, mappings=DYNAMIC, settings={"index.refresh_interval": "1h"}):
        assert sinking.run() == {}
    (held,) = sinking.elasticsearch.indices.get(index=sinking.index).values()
    wanted = json.loads(TEMPLATE.read_text())["template"]
    assert held["mappings"]["dynamic"] == "strict"
    assert held["mappings"]["properties"].items() >= wanted["mappings"]["properties"].items()
    assert held["settings"]["index"]["refresh_interval"] == wanted["settings"]["index.refresh_interval"]
    assert len(sinking.documents()) == 3


def test_an_index_made_by_another_template_is_reported_before_writing(sinking: Sinking) -> None:
    client = sinking.elasticsearch
    send(sinking, results(3))
    with catch_all_template(client, mappings=DYNAMIC) as name:
        client.index(index=sinking.index, id="theirs", document={"a": 1})
        other = rf"{name} \(patterns \*, priority 500\) outranks ours: raise `priority`"
        with pytest.raises(ConfigurationError, match=rf"{sinking.index} differs.*comfort.type is text.*{other}"):
            sinking.write()
        with pytest.raises(ConfigurationError, match=rf"conflicts with rides-template\.json.*comfort.*{other}.*Delete"):
            set_up_index(client, sinking.index, TEMPLATE)
    assert set(sinking.documents()) == {"theirs"}
    assert set(sinking.offsets().values()) <= {0, None}, "only the plan is committed"
    client.indices.delete(index=sinking.index)
    assert sinking.run() == {}
    assert len(sinking.documents()) == 3


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ({"settings": {"index.default_pipeline": "theirs"}}, "default_pipeline is theirs"),
        ({"settings": {"index.final_pipeline": "theirs"}}, "final_pipeline is theirs"),
        ({"mappings": {"_source": {"enabled": False}}}, "_source is disabled"),
        ({"mappings": {"_routing": {"required": True}}}, "_routing is required"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_of_another_template_that_change_documents_are_reported(
    sinking: Sinking, template: dict[str, Any], fault: str
) -> None:
    send(sinking, results(3))
    with catch_all_template(sinking.elasticsearch, **template) as name:
        with pytest.raises(ConfigurationError, match=rf"{sinking.index} differs.*{fault}.*{name}.*priority 500"):
            sinking.write()
        with pytest.raises(ConfigurationError, match=fault):
            set_up_index(sinking.elasticsearch, sinking.index, TEMPLATE)
    assert sinking.elasticsearch.count(index=sinking.index)["count"] == 0


@pytest.mark.usefixtures("index")
def test_another_template_of_the_same_priority_is_reported(stack: Stack, fresh_name: Callable[[str], str]) -> None:
    priority, client = json.loads(TEMPLATE.read_text())["priority"], stack.elasticsearch
    client.indices.delete_index_template(name="rides*")  # those of other tests would refuse this one
    with (
        catch_all_template(client, priority=priority) as name,
        pytest.raises(ConfigurationError, match=rf"rejects rides-template\.json: .*{name}.*change `priority`"),
    ):
        apply_template(client, fresh_name("rides"), TEMPLATE)


def test_invalid_results_are_dead_letters(sinking: Sinking, exporting: Exporting) -> None:
    good = results(5)
    bad = [None, b"", b"\xff", b"{}", encode(result(price_total=-1)), encode(result(comfort="eco"))]
    produce(sinking.config, sinking.source, [*map(keyed, good), *(Raw(value, b"k") for value in bad)])
    assert sinking.run() == {"invalid_result": 6}
    dead = sinking.dead_letters()
    assert Counter(letter.value for letter in dead) == Counter(bad)
    for letter in dead:
        error = letter.error
        assert (error["topic"], error["stage"], error["task.id"]) == (
            sinking.source,
            "VALUE_CONVERTER",
            "TransformJSON",
        )
    exporting.run()
    assert len(sinking.documents()) == len(rows_of(exporting.objects())) == 5


def test_acknowledged_dead_letters_are_freed(sinking: Sinking, monkeypatch: pytest.MonkeyPatch) -> None:
    held = held_when_forgotten(monkeypatch)
    monkeypatch.setattr("jobs.kafka.commit.PIECE_RECORDS", 4)
    bad = [b"%d" % number for number in range(10)]
    produce(sinking.config, sinking.source, [Raw(value, b"k", partition=0) for value in bad])
    assert sinking.run() == {"invalid_result": 10}
    assert held == [4, 4, 2]
    assert Counter(letter.value for letter in sinking.dead_letters()) == Counter(bad)


def test_a_missing_bucket_stops_before_writing(exporting: Exporting) -> None:
    send(exporting, results(5))
    staged = exporting.staged()
    exporting.bucket = "no-such-bucket"
    with pytest.raises(ConfigurationError, match=r"no bucket 'no-such-bucket' at http://127\.0\.0\.1:.*GCS_BUCKET"):
        exporting.write(staged)
    with pytest.raises(ConfigurationError, match="no-such-bucket"):
        holds_objects(exporting.gcs, "no-such-bucket", exporting.prefix)
    assert "no-such-bucket" not in {bucket.name for bucket in exporting.gcs.list_buckets()}


def test_objects_under_a_prefix_are_found(exporting: Exporting) -> None:
    assert not holds_objects(exporting.gcs, exporting.bucket, exporting.prefix)
    neighbour = exporting.prefix.rstrip("/") + "-other/x.parquet"
    exporting.gcs.bucket(exporting.bucket).blob(neighbour).upload_from_string(b"x")
    assert not holds_objects(exporting.gcs, exporting.bucket, exporting.prefix)
    send(exporting, results(1))
    exporting.run()
    assert holds_objects(exporting.gcs, exporting.bucket, exporting.prefix)
    assert holds_objects(exporting.gcs, exporting.bucket, f"/{exporting.prefix}/")


# --- Temporary errors of Elasticsearch (a fake gateway in front of the real node) -----------------


class FakeGateway:
    """Forwards requests to Elasticsearch after failing the next bulk requests as `failures` says."""

    def __init__(self, server: HTTPServer, target: str) -> None:
        self.url = f"http://{server.host}:{server.port}"
        self.failures: list[int | str] = []
        self.bulk_requests = 0
        self._target = target
        server.expect_request(re.compile("")).respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        if not request.path.endswith("/_bulk"):
            return self.forward(request)
        self.bulk_requests += 1
        match self.failures.pop(0) if self.failures else None:
            case None:
                return self.forward(request)
            case "hang up":
                request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return Response()
            case "first document":
                return self.reject_first_document(request)
            case status:
                return self.reply(int(status), {"error": {"type": "fake", "reason": "not now"}, "status": status})

    def reject_first_document(self, request: Request) -> Response:
        if request.args.get("filter_path") == "errors":  # the client asks again for the items
            self.failures.insert(0, "first document")
            return self.reply(200, {"errors": True})
        rest = b"".join(request.get_data().splitlines(keepends=True)[2:])
        accepted = json.loads(self.forward(request, rest).get_data())["items"] if rest else []
        error = {"type": "es_rejected_execution_exception", "reason": "-"}
        return self.reply(200, {"items": [{"index": {"status": 429, "error": error}}, *accepted]})

    def forward(self, request: Request, body: bytes | None = None) -> Response:
        headers = {name: value for name, value in request.headers if name.lower() not in ("host", "content-length")}
        url = self._target + request.full_path
        answer = requests.request(request.method, url, data=body or request.get_data(), headers=headers, timeout=30)
        return self.reply(answer.status_code, answer.content)

    @staticmethod
    def reply(status: int, content: Any) -> Response:
        body = content if isinstance(content, bytes) else json.dumps(content)
        kind = "application/vnd.elasticsearch+json;compatible-with=9"
        return Response(body, status, {"x-elastic-product": "Elasticsearch"}, content_type=kind)


@pytest.fixture
def gateway(httpserver: HTTPServer, stack: Stack) -> FakeGateway:
    return FakeGateway(httpserver, stack.settings.es_url)


@pytest.mark.parametrize(
    "failures", [[429], [503, 502], ["hang up"], ["first document"], [429, "first document", "hang up"]], ids=str
)
def test_temporary_errors_of_a_fake_gateway_are_retried(
    sinking: Sinking, gateway: FakeGateway, failures: list[int | str]
) -> None:
    contents = results(25)
    send(sinking, contents)
    real = sinking.elasticsearch
    sinking.elasticsearch = Elasticsearch(gateway.url)
    gateway.failures = list(failures)
    sinking.limits = Limits(run_records=100, chunk_records=100, chunk_bytes=2**20)
    assert sinking.run() == {}
    assert gateway.failures == []
    sinking.elasticsearch = real
    assert set(sinking.documents()) == {content["ride_id"] for content in contents}


@pytest.mark.parametrize("failure", [401, 429, 503, "first document"])
def test_lasting_errors_of_a_fake_gateway_fail_the_task(
    sinking: Sinking, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, failure: int | str
) -> None:
    monkeypatch.setattr(elasticsearch_sink, "RETRY_FOR_S", 1)
    produce(sinking.config, sinking.source, [keyed(content)._replace(partition=0) for content in results(5)])
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    real = sinking.elasticsearch
    sinking.elasticsearch = Elasticsearch(gateway.url)
    gateway.failures = [failure] * 1000
    with pytest.raises(ServiceUnavailableError, match=f"Elasticsearch at {gateway.url}.*make local-status"):
        sinking.index_rides(staged, transformed)
    assert gateway.bulk_requests > 1
    assert sinking.offsets()[0] is None, "nothing is committed"
    gateway.failures = []
    indexed = sinking.index_rides(staged, transformed)
    sinking.commit(transformed, indexed)
    sinking.elasticsearch = real
    assert len(sinking.documents()) == 5


def test_a_forbidden_response_of_a_fake_gateway_fails_the_task_at_once(sinking: Sinking, gateway: FakeGateway) -> None:
    send(sinking, results(1))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    sinking.elasticsearch = Elasticsearch(gateway.url)
    gateway.failures = [403] * 1000
    with pytest.raises(ConfigurationError, match="Elasticsearch at"):
        sinking.index_rides(staged, transformed)
    assert gateway.bulk_requests == 1


def test_a_write_block_on_the_index_is_retried(sinking: Sinking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lasting write block, as on a full disk, is retried, then fails the task without dead letters."""
    monkeypatch.setattr(elasticsearch_sink, "RETRY_FOR_S", 1)
    send(sinking, results(5))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    sinking.elasticsearch.indices.create(index=sinking.index)
    block = "index.blocks.write"
    sinking.elasticsearch.indices.put_settings(index=sinking.index, settings={block: True})
    with pytest.raises(ServiceUnavailableError, match="cluster_block_exception"):
        sinking.index_rides(staged, transformed)
    sinking.elasticsearch.indices.put_settings(index=sinking.index, settings={block: None})
    assert sinking.index_rides(staged, transformed).rejects == 0
    assert len(sinking.documents()) == 5


def test_an_alias_without_a_write_index_writes_no_dead_letters(
    sinking: Sinking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elasticsearch reports it with the same error type as invalid documents."""
    monkeypatch.setattr(elasticsearch_sink, "RETRY_FOR_S", 1)
    send(sinking, results(5))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    indices = sinking.elasticsearch.indices
    mappings = json.loads(TEMPLATE.read_text())["template"]["mappings"]
    for number in (1, 2):
        indices.create(index=f"{sinking.index}-{number}", aliases={sinking.index: {}}, mappings=mappings)
    with pytest.raises(ConfigurationError, match="without a write index"):
        sinking.index_rides(staged, transformed)
    line = make_bulk_lines(pa.array(["a"]), pa.array([1], pa.int64()), pa.array(["{}"]))
    with pytest.raises(ServiceUnavailableError, match="no write index"):
        list(elasticsearch_sink.index_batches(sinking.elasticsearch, sinking.index, [(None, line)]))
    indices.update_aliases(
        actions=[{"add": {"index": f"{sinking.index}-2", "alias": sinking.index, "is_write_index": True}}]
    )
    assert sinking.index_rides(staged, transformed).rejects == 0
    assert len(sinking.documents()) == 5


# --- Protected objects (a fake bucket with a retention policy in front of the emulator) -----------

RETAINED = "is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until 2036"
HELD = "is under active Temporary hold and cannot be deleted, overwritten or archived until hold is removed."
NO_RIGHT = "does not have storage.objects.delete access"
REASONS = {RETAINED: "retentionPolicyNotMet", HELD: "forbidden", NO_RIGHT: "forbidden"}


class FakeProtection:
    """Forwards requests to the emulator, but refuses to overwrite or delete objects, in the words of Cloud Storage."""

    def __init__(self, server: HTTPServer, target: str) -> None:
        self.message = RETAINED
        self.refused: list[str] = []
        self._target = target
        server.expect_request(re.compile("")).respond_with_handler(self.respond)
        self.client = connect_storage(f"http://{server.host}:{server.port}")

    def respond(self, request: Request) -> Response:
        body, path = request.get_data(), request.environ["RAW_URI"]
        bucket = re.search(r"/b/([^/?]+)", path)
        if name := self.find_written(request.method, path, body):
            assert bucket is not None
            if request.method == "DELETE" or connect_storage(self._target).bucket(bucket[1]).get_blob(name):
                self.refused.append(name)
                text = f"Object '{bucket[1]}/{name}' {self.message}"
                error = {"message": text, "domain": "global", "reason": REASONS[self.message]}
                return Response(json.dumps({"error": {"code": 403, "message": text, "errors": [error]}}), 403)
        headers = {key: value for key, value in request.headers if key.lower() not in ("host", "content-length")}
        answer = requests.request(request.method, self._target + path, data=body, headers=headers, timeout=30)
        hops = ("content-length", "transfer-encoding", "connection", "content-encoding", "date", "server")
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in hops}
        return Response(answer.content, answer.status_code, kept)

    @staticmethod
    def find_written(method: str, path: str, body: bytes) -> str | None:
        """The name of the object that a request writes or deletes."""
        if method == "DELETE":
            return unquote(path.partition("/o/")[2].partition("?")[0])
        match = re.search(rb'"name": ?"([^"]+)"', body) if path.startswith("/upload/") else None
        return match and match[1].decode()


def connect_storage(url: str) -> storage.Client:
    return storage.Client(project="local", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})


@pytest.fixture
def protection(httpserver: HTTPServer, stack: Stack) -> FakeProtection:
    assert stack.settings.gcs_endpoint is not None
    return FakeProtection(httpserver, stack.settings.gcs_endpoint)


def rewrite(exporting: Exporting, change: Callable[[pa.Table], pa.Table] = lambda table: table) -> None:
    """Write each object again with other bytes, as another version of pyarrow would."""
    for name, content in exporting.objects().items():
        buffer = io.BytesIO()
        pq.write_table(change(pq.read_table(io.BytesIO(content))), buffer, compression="gzip")
        exporting.gcs.bucket(exporting.bucket).blob(name).upload_from_string(buffer.getvalue())


@pytest.mark.parametrize("message", REASONS, ids=REASONS.get)
@pytest.mark.parametrize("is_upgraded", [False, True], ids=["same bytes", "same rows"])
def test_a_retry_over_the_protected_objects_of_a_fake_bucket_succeeds(
    exporting: Exporting, protection: FakeProtection, message: str, is_upgraded: bool
) -> None:
    send(exporting, results(30))
    staged = exporting.staged()
    exporting.write(staged)
    if is_upgraded:
        rewrite(exporting)
    objects, emulator = exporting.objects(), exporting.gcs
    exporting.gcs, protection.message = protection.client, message
    exporting.run()
    assert sorted(protection.refused) == sorted(objects)
    exporting.gcs = emulator
    assert exporting.objects() == objects
    assert exporting.stage() is None, "the offsets are committed"


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (RETAINED, "retention policy or object retention .* until 2036. Try again after that.*docs/gcp.md"),
        (HELD, "under active Temporary hold .*lift the protection.*docs/gcp.md"),
        (NO_RIGHT, "not allowed. Check the key .*storage.objects.delete"),
    ],
    ids=list(REASONS.values()),
)
def test_other_content_in_a_fake_protected_bucket_is_reported(
    exporting: Exporting, protection: FakeProtection, message: str, remedy: str
) -> None:
    send(exporting, results(3))
    staged = exporting.staged()
    exporting.write(staged)
    rewrite(exporting, lambda table: table.set_column(3, table.schema.field(3), pa.array(["high"] * len(table))))
    exporting.gcs, protection.message = protection.client, message
    with pytest.raises(ConfigurationError, match=f"(?s){remedy}"):
        exporting.write(staged)
    blob = protection.client.bucket(exporting.bucket).blob(protection.refused[0])
    everything = lambda rows: np.ones(len(rows), dtype=bool)  # noqa: E731
    with pytest.raises(ConfigurationError, match=f"(?s)gs://{exporting.bucket}/{blob.name}.*{remedy}"):
        parquet_sink.delete_rows(blob, SINK_SCHEMA, (), everything)


# --- Unreachable services -------------------------------------------------------------------------


def _closed_port() -> int:
    import socket

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_an_unreachable_elasticsearch_is_reported(sinking: Sinking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elasticsearch_sink, "RETRY_FOR_S", 1)
    send(sinking, results(5))
    staged = sinking.staged()
    transformed = sinking.transform(staged)
    address = f"http://127.0.0.1:{_closed_port()}"
    sinking.elasticsearch = Elasticsearch(address)
    with pytest.raises(ServiceUnavailableError, match=f"Elasticsearch at {address}"):
        sinking.index_rides(staged, transformed)


def test_an_unreachable_cloud_storage_is_reported(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_sink, "_RETRY", parquet_sink._RETRY.with_timeout(1))
    send(exporting, results(5))
    staged = exporting.staged()
    address = f"http://127.0.0.1:{_closed_port()}"
    exporting.gcs = connect_storage(address)
    with pytest.raises(ServiceUnavailableError, match=f"Cloud Storage at {address}"):
        exporting.write(staged)
    with pytest.raises(ServiceUnavailableError, match=f"Cloud Storage at {address}"):
        holds_objects(exporting.gcs, exporting.bucket, exporting.prefix)
    assert exporting.offsets()[0] == 0
