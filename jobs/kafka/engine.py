"""Which engine owns a group: Python (a DAG's tasks) or Spark (the tasks of its stream).

The transactional ids of one engine never fence the other. So each offset names its owner, and each engine reads that
after init_transactions and refuses the other's group. `switch_engine` changes the owner.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.errors import ConfigurationError, OffsetsError
from jobs.kafka.offsets import Committed
from jobs.vertical import Engine

TITLES: dict[Engine, str] = {"python": "the DAG", "spark": "Spark"}


def name_transactional_id(group: str, partition: int | None) -> str:
    """The transactional id of a worker: the group's id, or that of Spark's worker for one partition.

    It is the same for every try, so that a new worker fences every older one.
    """
    return group if partition is None else f"{group}.spark.{partition}"


def check_engine(topic: str, group: str, offsets: Mapping[int, Committed], engine: Engine) -> None:
    """Check that an engine owns a group. A group without offsets has no owner.

    Raises:
        ConfigurationError: the other engine owns it, or a switch of the engine was interrupted.
    """
    engines = {partition: committed.engine for partition, committed in offsets.items() if committed.offset is not None}
    others = [partition for partition, owner in engines.items() if owner != engine]
    if not others:
        return
    if len(others) < len(engines):
        raise ConfigurationError(
            f"Group {group} on {topic}: `make engine` was interrupted, so that its partitions have different owners: "
            f"{describe_engines(engines)}. Nothing was done. Run it again: `make engine TO={engine} GROUP={group}`."
        )
    raise ConfigurationError(
        f"Group {group} on {topic} belongs to {TITLES[engines[others[0]]]}, not to {TITLES[engine]}. Nothing was done. "
        f"To change that: stop the other one, then `make engine TO={engine} GROUP={group}`."
    )


def check_topic_ids(topic: str, group: str, offsets: Mapping[int, Committed], topic_id: str) -> None:
    """Check that a group's offsets are of this topic, not of an earlier one with the same name.

    Raises:
        OffsetsError: a slow worker committed them after the topic was recreated.
    """
    for partition, committed in offsets.items():
        if committed.offset is not None and committed.topic_id not in (None, topic_id):
            raise OffsetsError(
                f"{topic}[{partition}]: group {group} is at {committed.offset} of an earlier topic with this name "
                f"(id {committed.topic_id}, now {topic_id}). Nothing was done. To start with the first message: "
                f"`make offsets GROUP={group} TO=beginning`."
            )


def describe_engines(engines: Mapping[int, Engine]) -> str:
    """For example `spark 0 2, python 1`."""
    owners = sorted(set(engines.values()))
    return ", ".join(
        f"{owner} {' '.join(str(partition) for partition in sorted(engines) if engines[partition] == owner)}"
        for owner in owners
    )
