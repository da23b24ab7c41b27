"""Find one transaction in the topics, in raw data and in the marts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg.rows import dict_row

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import SETTLE_S, list_partitions, read_bounds
from jobs.kafka.scan import claim_all, scan
from jobs.shop.database import READER, connect
from jobs.shop.vertical import ShopSettings
from jobs.tracing import Sighting, make_sighting

TABLES = ("raw.transactions_raw", "marts.fct_transactions", "marts.rejected_transactions")


def trace(systems: Systems[ShopSettings], transaction_id: str) -> Iterator[Sighting]:
    """Yield each place that holds the transaction, upstream first. Reads whole topics.

    Raises:
        ServiceUnavailableError: a service does not answer.
    """
    settings, config, wanted = systems.settings, systems.config, transaction_id.encode()
    with translate_broker_errors(config, "tracing a transaction"), open_consumer(config, "trace") as client:
        for topic in (settings.shop_topic, settings.shop_dlq_topic):
            ranges = claim_all(read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S))
            for messages in scan(client, topic, ranges, systems.progress, "reading"):
                for message in messages:
                    if message.key() != wanted and b'"%b"' % wanted not in (message.value() or b""):
                        continue
                    yield make_sighting(message)
    with connect(settings, READER, row_factory=dict_row) as database:
        for table in TABLES:
            row: Any = database.execute("SELECT to_regclass(%s) IS NOT NULL AS exists", (table,)).fetchone()
            if not row["exists"]:  # dbt makes it
                continue
            for found in database.execute(f"SELECT * FROM {table} WHERE transaction_id = %s", (transaction_id,)):  # noqa: S608
                yield Sighting(table, {}, dict(found))
