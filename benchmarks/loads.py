"""Runs the load of transactions or its peer: `python -m benchmarks.loads WORK SETTINGS FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

# Not used here, but every task imports it: it is part of the memory.
import airflow.sdk  # noqa: F401
import msgspec

from benchmarks.measured import answer, measured
from jobs.clients import make_kafka_config
from jobs.files import Folder
from jobs.kafka.claim import Limits
from jobs.kafka.offsets import open_group_reader
from jobs.kafka.stage import stage
from jobs.settings import Settings
from jobs.shop.database import ADMIN, connect
from jobs.shop.dead_letters import publish_refusals
from jobs.shop.load import claim_messages, load, open_loader
from jobs.shop.vertical import LOAD_DAG, LOAD_GROUP, ShopSettings

COLUMNS = "transaction_id, client_id, produit_id, montant, date, statut, updated_at, kafka_partition, kafka_offset"


def load_topic(settings: ShopSettings, folder: Path) -> int:
    """The three tasks of dag_load_transactions: from the claim to the commit in Kafka. Returns the messages."""
    config, topic = make_kafka_config(settings), settings.shop_topic
    defaults = Settings.model_construct()
    limits = Limits(sys.maxsize, defaults.chunk_records, defaults.chunk_bytes)
    with measured(), open_loader(settings) as database:
        with open_group_reader(config, topic, LOAD_GROUP) as reader:
            claimed = claim_messages(config, reader, database, limits, 0)
            _, manifest = stage(config, reader, claimed, Folder(folder.as_uri()))
        loaded = load(settings, manifest)
        publish_refusals(
            config, database, topic=topic, group=LOAD_GROUP, dlq_topic=settings.shop_dlq_topic, dag_id=LOAD_DAG
        )
    return loaded.count


def copy_bare(settings: ShopSettings, _: Path) -> int:
    """COPY the loaded rows into a table with the same columns and indexes, in one transaction. Returns the rows."""
    with connect(settings, ADMIN) as database, database.cursor() as cursor:
        with cursor.copy(f"COPY raw.transactions_raw ({COLUMNS}) TO STDOUT") as copy:
            text = b"".join(map(bytes, copy))
        cursor.execute("DROP TABLE IF EXISTS raw.bare")
        cursor.execute("CREATE TABLE raw.bare (LIKE raw.transactions_raw INCLUDING ALL)")
        database.commit()
        with measured():
            with cursor.copy(f"COPY raw.bare ({COLUMNS}) FROM STDIN") as copy:
                copy.write(text)
            database.commit()
        return cursor.rowcount


WORKS = {"load": load_topic, "copy": copy_bare}

if __name__ == "__main__":
    work, given, path = sys.argv[1:]
    answer(WORKS[work](ShopSettings(_env_file=None, **msgspec.json.decode(given)), Path(path)))
