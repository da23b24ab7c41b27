"""The steps of the DAGs without Airflow. Each step has a new folder, like each try of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from threading import Event
from typing import Any

import msgspec
import pytest

from jobs.clients import Systems
from jobs.files import Folder
from jobs.kafka.claim import Limits, claim
from jobs.kafka.commit import Rejects, commit_offsets
from jobs.kafka.offsets import SETTLE_S, Committed, open_group_reader, read_group_offsets
from jobs.kafka.publish import Outlet, Published, publish
from jobs.kafka.set_offsets import Move, preview_moves, set_offsets
from jobs.kafka.stage import stage
from jobs.kafka.staged import Manifest
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import GroupWriter
from jobs.rides.compute import compute
from jobs.rides.distance import haversine
from jobs.rides.export import Backlog, put_gcs, read_backlog
from jobs.rides.index import put_elasticsearch
from jobs.rides.ops.ledger import Ledger, take_ledger
from jobs.rides.transform import transform
from jobs.rides.vertical import RidesSettings
from tests.testkit.kafka import Config, Raw, Record, produce, read_all
from tests.testkit.rides import keyed, ride
from tests.testkit.stack import Stack
from tests.testkit.wait import until

SMALL = Limits(run_records=1_000_000, chunk_records=10, chunk_bytes=2**25)


def move(config: Config, topic: str, group: str, to: str | dict[int, int], topic_ids: TopicIds) -> None:
    """Set a group's offsets as `make offsets` does, or to offsets by partition."""
    wanted = preview_moves(config, topic, group, "beginning" if isinstance(to, dict) else to, topic_ids=topic_ids)
    if isinstance(to, dict):
        moves = [Move(partition, None, Committed(offset), 0, 0) for partition, offset in to.items()]
        wanted = msgspec.structs.replace(wanted, moves=moves)
    set_offsets(config, wanted, topic_ids)


@dataclass
class Flow:
    """One group that reads one topic."""

    config: dict[str, Any]
    group: str
    source: str
    dlq: str
    folder: Folder
    limits: Limits = SMALL
    has_output: bool = False
    settle_s: float = SETTLE_S  # the default of the sinks
    tries: Any = field(default_factory=count)

    def next_folder(self) -> Folder:
        return self.folder.child("run", "Task", str(next(self.tries)))

    @property
    def topic_ids(self) -> TopicIds:
        return TopicIds(self.folder)

    def set_offsets(self, to: str | dict[int, int]) -> None:
        move(self.config, self.source, self.group, to, self.topic_ids)

    def offsets(self) -> dict[int, int | None]:
        return read_group_offsets(self.config, self.source, self.group)

    def dead_letters(self) -> list[Record]:
        return read_all(self.config, self.dlq)

    def stage(self, wait_s: float = 0, *, settle_s: float | None = None, is_planned: bool = False) -> Manifest | None:
        with open_group_reader(self.config, self.source, self.group) as reader:
            claimed = claim(
                self.config,
                reader,
                self.limits,
                topic_ids=self.topic_ids,
                wait_s=wait_s,
                settle_s=self.settle_s if settle_s is None else settle_s,
                is_planned=is_planned,
                has_output=lambda _: self.has_output,
            )
            return None if claimed.is_empty else stage(self.config, reader, claimed, self.next_folder())[1]

    def staged(self) -> Manifest:
        manifest = self.stage()
        assert manifest is not None, f"nothing new on {self.source}"
        return manifest


def held_when_forgotten(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of messages that the client holds each time before it frees acknowledged ones."""
    held: list[int] = []
    free_delivered = GroupWriter.free_delivered

    def counting(writer: GroupWriter) -> None:
        held.append(len(writer._producer))

        def is_empty() -> bool:
            free_delivered(writer)
            return len(writer._producer) == 0

        until(is_empty, "forgetting what was delivered")

    monkeypatch.setattr(GroupWriter, "free_delivered", counting)
    return held


@dataclass
class Pricing(Flow):
    """dag_compute_cost."""

    result: str = ""
    settle_s: float = 0

    @property
    def outlet(self) -> Outlet:
        return Outlet(self.result, self.dlq, "dag_compute_cost", "ComputeCostTravel", "TRANSFORMATION")

    def compute(self, manifest: Manifest) -> Manifest:
        return compute(manifest, haversine, self.next_folder())[1]

    def computed(self) -> Manifest:
        return self.compute(self.staged())

    def publish(self, computed: Manifest) -> Published:
        return publish(self.config, computed, self.outlet)

    def run(self) -> Published:
        return self.publish(self.computed())

    def results(self) -> list[Record]:
        return read_all(self.config, self.result)


@dataclass
class Exporting(Flow):
    """PutGCP of dag_index_and_export."""

    settle_s: float = 0
    gcs: Any = None
    bucket: str = ""
    prefix: str = ""

    def stage(self, wait_s: float = 0, *, settle_s: float | None = None, is_planned: bool = True) -> Manifest | None:
        return super().stage(wait_s, settle_s=settle_s, is_planned=is_planned)

    def write(self, staged: Manifest) -> list[str]:
        return put_gcs(self.gcs, self.bucket, self.prefix, staged)

    def commit(self, staged: Manifest) -> None:
        commit_offsets(self.config, staged)

    def run(self) -> None:
        staged = self.staged()
        self.write(staged)
        self.commit(staged)

    def backlog(self, max_age_s: float = 300, *, settle_s: float = 0) -> Backlog:
        return read_backlog(self.config, self.source, self.group, max_age_s, settle_s=settle_s)

    def objects(self) -> dict[str, bytes]:
        """The objects under the prefix by name."""
        return {blob.name: blob.download_as_bytes() for blob in self.gcs.list_blobs(self.bucket, prefix=self.prefix)}


@dataclass
class Sinking(Flow):
    """dag_index_and_export without PutGCP."""

    elasticsearch: Any = None
    index: str = ""

    def transform(self, manifest: Manifest) -> Manifest:
        return transform(manifest, self.next_folder())[1]

    def index_rides(self, staged: Manifest, transformed: Manifest) -> Manifest:
        return put_elasticsearch(self.elasticsearch, self.index, staged, transformed, self.next_folder())[1]

    def commit(self, transformed: Manifest, indexed: Manifest) -> Counter[str]:
        rejects = [
            Rejects(transformed, "TransformJSON", "VALUE_CONVERTER"),
            Rejects(indexed, "PutElasticSearch", "TASK_PUT"),
        ]
        return commit_offsets(self.config, transformed, rejects, self.dlq, "dag_index_and_export")

    def write(self) -> tuple[Manifest, Manifest]:
        """Run all steps except the commit; returns the transformed and the indexed manifest."""
        staged = self.staged()
        transformed = self.transform(staged)
        indexed = self.index_rides(staged, transformed)
        return transformed, indexed

    def run(self) -> Counter[str]:
        return self.commit(*self.write())

    def documents(self) -> dict[str, dict[str, Any]]:
        """The index by _id, each document with its _version."""
        self.elasticsearch.indices.refresh(index=self.index)
        hits = self.elasticsearch.search(index=self.index, size=10_000, version=True)["hits"]["hits"]
        return {hit["_id"]: {**hit["_source"], "_version": hit["_version"]} for hit in hits}


@dataclass
class Pipeline:
    """Both flows on new topics, with the group ids that the ledger reads."""

    stack: Stack
    pricing: Pricing
    sinking: Sinking
    exporting: Exporting

    @property
    def names(self) -> dict[str, str]:
        """The settings with their names."""
        return {
            "raw_topic": self.pricing.source,
            "result_topic": self.pricing.result,
            "dlq_topic": self.pricing.dlq,
            "rides_index": self.sinking.index,
            "gcs_bucket": self.exporting.bucket,
            "gcs_prefix": self.exporting.prefix,
        }

    @property
    def settings(self) -> RidesSettings:
        return self.stack.settings.model_copy(update=self.names)

    @property
    def systems(self) -> Systems:
        return Systems(self.settings, may_write=True)

    def ledger(self) -> Ledger:
        return take_ledger(Systems(self.settings))

    def send(self, good: int, bad: int = 0, twice: int = 0) -> None:
        rides = [keyed(ride()) for _ in range(good)]
        produce(self.stack.kafka, self.pricing.source, [*rides, *rides[:twice], *[Raw(b"bad", b"k")] * bad])

    def run(self) -> None:
        self.pricing.run()
        self.sinking.run()
        self.exporting.run()


@contextmanager
def run_continuously(pipeline: Pipeline, is_export_due: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Run both DAGs in a thread, as Airflow does: each flow runs when it has something to do."""
    ended = Event()

    def work() -> None:
        while not ended.is_set():
            for flow in (pipeline.pricing, pipeline.sinking, pipeline.exporting):
                if (flow is not pipeline.exporting or is_export_due()) and flow.stage() is not None:
                    flow.run()
            ended.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            ended.set()
        working.result()
