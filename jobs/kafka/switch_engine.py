"""Change the engine that owns a group: `make engine TO=spark|python`."""

from __future__ import annotations

import msgspec

from jobs.errors import OffsetsError
from jobs.kafka.client import Config, open_consumer, translate_broker_errors
from jobs.kafka.engine import check_engine, check_topic_ids
from jobs.kafka.offsets import Committed, list_partitions, open_group_reader
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.vertical import Engine


def switch_engine(config: Config, topic: str, group: str, to: Engine) -> list[int]:
    """Commit the unchanged offsets of a group with a new owner, with the transactional ids of the old one.

    That fences every worker of the old engine. One that starts later reads the new owner and stops. Spark's ids are for
    one partition each, so its partitions change one after the other; until all have, both engines refuse the group. It
    can be run again at any time, in both directions: a partition that the new engine owns already is left alone.

    Returns:
        The partitions that changed.

    Raises:
        OffsetsError: a partition has no offset, or another client committed with this group id.
        ServiceUnavailableError: a broker is down, or a worker of the old engine started meanwhile. Run it again.
    """
    with translate_broker_errors(config, f"reading {topic}"), open_consumer(config, group) as client:
        partitions = list_partitions(client, topic)
    # Python has one id for all partitions.
    ids: list[int | None] = [None] if to == "spark" else list(partitions)
    offsets: dict[int, Committed] = {}
    for partition in ids:
        # Its init_transactions ends what a killed worker has left open; reading would wait for that.
        with open_group_writer(config, group, topic, 1, partition=partition) as writer:
            offsets |= writer.reader.read_committed()
            check_topic_ids(topic, group, offsets, writer.topic_id)
    if missing := [partition for partition, committed in offsets.items() if committed.offset is None]:
        raise OffsetsError(
            f"Group {group} has no committed offset on {topic}{missing}, so it has no owner there. Nothing was "
            "changed. Let the engine that reads the topic now process a message first."
        )
    switched = [partition for partition, committed in offsets.items() if committed.engine != to]
    if not switched:
        return []
    for partition in ids:
        if partition is None or partition in switched:
            with open_group_writer(config, group, topic, 1, partition=partition) as writer:
                _switch(writer, to)
    with open_group_reader(config, topic, group) as reader:
        check_engine(topic, group, reader.read_committed(), to)
    return switched


def _switch(writer: GroupWriter, to: Engine) -> None:
    # After init_transactions: no worker of the old engine can commit these offsets any more.
    offsets = writer.reader.read_committed()
    theirs = {
        partition: committed
        for partition, committed in offsets.items()
        if committed.offset is not None and committed.engine == writer.engine
    }
    if theirs:
        plans = {partition: plan for partition, committed in theirs.items() if (plan := _read_plan(committed))}
        with writer.transaction({partition: theirs[partition].offset or 0 for partition in theirs}, plans, engine=to):
            pass


def _read_plan(committed: Committed) -> bytes | None:
    plan = committed.decode_plan(msgspec.Raw)
    return None if plan is None else bytes(plan)
