"""A lost index is rebuilt from Parquet, id for id."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.clients import Systems
from jobs.errors import ConfigurationError
from jobs.rides.ops import reindex as module
from jobs.rides.ops.reindex import Reindexed, reindex
from jobs.rides.vertical import EXPORT_GROUP, INDEX_GROUP
from jobs.settings import ROOT
from tests.testkit.flow import Exporting, Sinking
from tests.testkit.kafka import delete_all_records, produce
from tests.testkit.rides import keyed, result
from tests.testkit.stack import Stack
from tests.testkit.wait import until

pytestmark = pytest.mark.timeout(120)


def rows_of(objects: dict[str, bytes]) -> list[dict[str, Any]]:
    return [row for content in objects.values() for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def stamp(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass
class Sinks:
    """Both sinks of one topic, under the groups that a reindex looks at."""

    stack: Stack
    sinking: Sinking
    exporting: Exporting
    raw_topic: str

    @property
    def names(self) -> dict[str, str]:
        """The settings with their names."""
        return {
            "rides_index": self.sinking.index,
            "raw_topic": self.raw_topic,
            "result_topic": self.sinking.source,
            "gcs_bucket": self.exporting.bucket,
            "gcs_prefix": self.exporting.prefix,
        }

    def send(self, rides: Iterable[dict[str, Any]]) -> None:
        produce(self.stack.kafka, self.sinking.source, map(keyed, rides))

    def run(self) -> None:
        self.sinking.run()
        self.exporting.run()

    def fill(self) -> None:
        """Rides of several hours, some of them sent twice, and some once more with another price."""
        hours = ["2026-01-05T08:15:30.123456Z", "2026-01-05T09:00:00.000000Z", "0001-01-01T00:00:00.000000Z"]
        rides = [result(ts=hour) for hour in hours for _ in range(20)]
        self.send([*rides, *rides[::3]])
        self.run()
        self.send(ride | {"price_total": 99.25} for ride in rides[::4])
        self.run()

    def lose_index(self) -> None:
        self.stack.elasticsearch.indices.delete(index=self.sinking.index)

    def reindex(self, **changes: Any) -> Reindexed:
        settings = self.stack.settings.model_copy(update=self.names | changes)
        return reindex(Systems(settings, may_write=True))


@pytest.fixture
def sinks(stack: Stack, sinking: Sinking, exporting: Exporting, topic_factory: Callable[..., str]) -> Sinks:
    flows = replace(sinking, group=INDEX_GROUP), replace(exporting, group=EXPORT_GROUP)
    return Sinks(stack, *flows, topic_factory("raw"))


def test_a_lost_index_is_rebuilt_unchanged(sinks: Sinks) -> None:
    sinks.fill()
    indices = sinks.stack.elasticsearch.indices
    before, mapping = sinks.sinking.documents(), indices.get_mapping(index=sinks.sinking.index).body
    assert len(before) == 60
    assert sum(document["price_total"] == 99.25 for document in before.values()) == 15
    sinks.lose_index()
    indices.delete_index_template(name=sinks.sinking.index)

    done = sinks.reindex()
    assert (done.objects, done.rows, done.results) == (len(sinks.exporting.objects()), 95, 0)
    assert (done.expired, done.refused, done.documents) == (0, 0, 60)
    assert sinks.sinking.documents() == before
    assert indices.get_mapping(index=sinks.sinking.index).body == mapping
    assert sinks.reindex().documents == 60
    assert sinks.sinking.documents() == before


def test_rides_waiting_for_their_export_are_reindexed_too(sinks: Sinks) -> None:
    sinks.fill()
    more = [result() for _ in range(30)]
    sinks.send(more)
    produce(sinks.stack.kafka, sinks.sinking.source, [b"no result"])
    sinks.sinking.run()
    before = sinks.sinking.documents()
    assert len(before) == 90
    sinks.send([result()])  # neither indexed nor exported
    sinks.lose_index()
    done = sinks.reindex()
    assert (done.rows, done.results) == (95, 30)
    assert sinks.sinking.documents() == before


def test_newer_documents_in_the_index_are_kept(sinks: Sinks) -> None:
    """dag_index_and_export is ahead of what a reindex reads."""
    ride = result()
    sinks.send([ride])
    sinks.run()
    sinks.send([ride | {"price_total": 99.25}])
    sinks.sinking.write()
    assert sinks.reindex().results == 0
    (document,) = sinks.sinking.documents().values()
    assert document["price_total"] == 99.25


def test_expired_rides_are_not_reindexed(sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> None:
    sinks.fill()
    sinks.lose_index()
    latest = max(row["agent_timestamp"] for row in rows_of(sinks.exporting.objects()))
    monkeypatch.setattr(module, "compute_expiry", lambda _: latest)
    done = sinks.reindex()
    assert (done.rows, done.expired, done.documents) == (95, 0, 60), "Kafka holds them: the ledger would call them lost"
    sinks.lose_index()
    delete_all_records(sinks.stack.kafka, sinks.sinking.source)
    done = sinks.reindex()
    assert done.rows == 95
    assert 0 < done.rows - done.expired < 95
    documents = sinks.sinking.documents().values()
    assert {document["agent_timestamp"] for document in documents} == {stamp(latest)}


def test_rows_rejected_by_elasticsearch_are_counted(sinks: Sinks) -> None:
    sinks.send(result(price_base=price) for price in (2.0, 2.0, 5000.0))
    sinks.run()
    sinks.lose_index()
    properties = {"price_base": {"type": "double", "fields": {"small": {"type": "byte"}}}}
    sinks.stack.elasticsearch.indices.create(index=sinks.sinking.index, mappings={"properties": properties})
    done = sinks.reindex()
    assert (done.rows, done.refused, done.documents) == (3, 1, 2)
    assert "price_base" in done.refusal


def of_others() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "fault"), [(b"no parquet", "is not a Parquet file"), (of_others(), "it has other columns")]
)
def test_a_foreign_object_is_reported_by_name(sinks: Sinks, content: bytes, fault: str) -> None:
    name = f"{sinks.exporting.prefix}mine.parquet"
    sinks.stack.gcs.bucket(sinks.exporting.bucket).blob(name).upload_from_string(content)
    with pytest.raises(ConfigurationError, match=rf"gs://{sinks.exporting.bucket}/{name} .*{fault}"):
        sinks.reindex()


KILLED = """
    import sys, time
    from pathlib import Path
    from jobs import __main__ as command_line
    from jobs.rides.ops import reindex as module

    calls, actions = 0, module.actions

    def blocking(*arguments):
        global calls
        calls += 1
        if calls == 4:  # now the first one is indexed
            Path(sys.argv[1]).touch()
            time.sleep(600)
        return actions(*arguments)

    module.actions, module._BULK_ROWS = blocking, 10
    command_line.app(["reindex"])
"""


def test_a_killed_reindex_can_be_run_again(sinks: Sinks, tmp_path: Path) -> None:
    sinks.fill()
    before = sinks.sinking.documents()
    sinks.lose_index()
    mark = tmp_path / "blocked"
    names = {name.upper(): value for name, value in sinks.names.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(mark)], cwd=ROOT, env={**os.environ, **names}
    )
    try:
        until(lambda: mark.exists() or process.poll() is not None, "it is at its fourth bulk")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert 0 < len(sinks.sinking.documents()) < 60
    sinks.reindex()
    assert sinks.sinking.documents() == before
