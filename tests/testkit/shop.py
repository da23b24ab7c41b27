"""Transactions of a shop, and the steps of dag_load_transactions without Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

from jobs.files import Folder
from jobs.kafka.claim import Claimed, Limits
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.stage import stage
from jobs.kafka.staged import Manifest
from jobs.shop.database import ADMIN, connect
from jobs.shop.dead_letters import Followed, is_behind, publish_refusals
from jobs.shop.load import Loaded, claim_messages, load, open_loader
from tests.testkit.kafka import Config, Raw, Record, produce, read_all

SMALL = Limits(run_records=100_000, chunk_records=10, chunk_bytes=2**25)


def transaction(**changes: Any) -> dict[str, Any]:
    """A valid transaction with a new id."""
    return {
        "transaction_id": f"TXN{uuid4().hex}",
        "client_id": 7,
        "produit_id": 3,
        "montant": 12.5,
        "date": "2026-11-01T10:00:00Z",
        "statut": "success",
        "updated_at": "2026-11-01T10:05:00Z",
    } | changes


def keyed(content: dict[str, Any]) -> Raw:
    return Raw(json.dumps(content).encode(), str(content["transaction_id"]).encode())


@dataclass
class Loading:
    """One group that loads one topic."""

    settings: Any
    group: str
    source: str
    dlq: str
    folder: Folder
    limits: Limits = SMALL
    tries: Any = field(default_factory=count)

    @property
    def config(self) -> Config:
        return {"bootstrap.servers": self.settings.bootstrap_servers}

    def send(self, *contents: dict[str, Any] | Raw | bytes | None) -> None:
        produce(self.config, self.source, [keyed(item) if isinstance(item, dict) else item for item in contents])

    def claim(self, wait_s: float = 0) -> Claimed:
        """Repair, then claim, as ConsumeKafka does."""
        with open_group_reader(self.config, self.source, self.group) as reader, open_loader(self.settings) as database:
            if is_behind(self.config, reader, database):
                self.publish(is_repair=True)
            return claim_messages(self.config, reader, database, self.limits, wait_s)

    def stage(self) -> Manifest | None:
        claimed = self.claim()
        if claimed.is_empty:
            return None
        with open_group_reader(self.config, self.source, self.group) as reader:
            return stage(self.config, reader, claimed, self.folder.child("run", str(next(self.tries))))[1]

    def staged(self) -> Manifest:
        manifest = self.stage()
        assert manifest is not None, f"nothing new on {self.source}"
        return manifest

    def load(self, manifest: Manifest) -> Loaded:
        return load(self.settings, manifest)

    def publish(self, *, is_repair: bool = False) -> Followed:
        with open_loader(self.settings) as database:
            return publish_refusals(
                self.config,
                database,
                topic=self.source,
                group=self.group,
                dlq_topic=self.dlq,
                dag_id="dag_load_transactions",
                is_repair=is_repair,
            )

    def run(self) -> Loaded:
        loaded = self.load(self.staged())
        self.publish()
        return loaded

    def dead_letters(self) -> list[Record]:
        return read_all(self.config, self.dlq)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.database() as database:
            return database.execute(sql).fetchall()

    @contextmanager
    def database(self) -> Iterator[Any]:
        """As the administrator."""
        with closing(connect(self.settings, ADMIN, autocommit=True)) as database:
            yield database

    def group_offsets(self) -> dict[int, int | None]:
        """The offsets that any Kafka tool shows."""
        with open_group_reader(self.config, self.source, self.group) as reader:
            return {partition: committed.offset for partition, committed in reader.read_unchecked().items()}

    def positions(self) -> dict[int, int]:
        return dict(self.query("SELECT partition, next_offset FROM raw.load_offsets"))
