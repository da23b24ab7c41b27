"""Check before a claim that the topic is still the same one, and that this pipeline committed the group's offsets."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from jobs.errors import OffsetsError
from jobs.kafka.client import Config
from jobs.kafka.engine import check_engine
from jobs.kafka.offsets import Committed, GroupReader, check_kept, is_without_copy, read_topic_id
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import open_group_writer

log = logging.getLogger(__name__)


def check_ownership(config: Config, reader: GroupReader, topic_ids: TopicIds | None = None) -> str:
    """Reject a recreated topic, and offsets that another client committed. Returns the topic's id.

    Offsets without a copy are adopted, that is, committed again with a copy. An earlier version committed them, or the
    copy was deleted.

    Args:
        topic_ids: the ids of the topics that groups have read; None for a group that may start again on a recreated
            topic.

    Raises:
        ConfigurationError: the topic does not exist, or Spark owns the group.
        OffsetsError: the check failed; nothing was committed.
    """
    topic, group = reader.topic, reader.group
    own, kept = reader.read_unchecked(), reader.read_kept()  # raises for a topic that does not exist
    check_engine(topic, group, own, "python")
    topic_id = read_topic_id(config, topic)
    is_known = topic_ids is not None and topic_ids.read(group, topic) == topic_id
    if topic_ids is not None and not is_known and not is_ours(kept, topic_id):
        topic_ids.check(group, topic, topic_id)
    if is_without_copy(own, kept):
        if is_known and not is_ours(own, topic_id):
            check_kept(topic, group, own, kept)  # this version has not committed yet, so another client has
        _adopt(config, reader, topic_id)
    if topic_ids is not None and not is_known:
        # After the adoption: if the task is killed in between, the next try finds the copy and remembers the topic.
        topic_ids.remember(group, topic, topic_id)
    return topic_id


def is_ours(offsets: Mapping[int, Committed], topic_id: str) -> bool:
    """Whether this pipeline has committed all the offsets for the topic with this id."""
    ids = {committed.topic_id for committed in offsets.values() if committed.offset is not None}
    return ids == {topic_id}


def _adopt(config: Config, reader: GroupReader, topic_id: str) -> None:
    with open_group_writer(config, reader.group, reader.topic, 1) as writer:
        own = reader.read_unchecked()
        writer.check_engine(own)
        if not is_without_copy(own, reader.read_kept()):
            return  # another worker has adopted them
        if writer.topic_id != topic_id:
            raise OffsetsError(f"{reader.topic} was recreated just now. Nothing was committed; the next try checks it.")
        offsets = {partition: committed.offset for partition, committed in own.items() if committed.offset is not None}
        decoded = {partition: own[partition].decode_plan(msgspec.Raw) for partition in offsets}
        plans = {partition: bytes(plan) for partition, plan in decoded.items() if plan is not None}
        with writer.transaction(offsets, plans):
            pass
    log.warning(
        "Adopted the offsets of group %s on %s, which had no copy (an earlier version wrote them, or the copy was "
        "deleted): %s",
        reader.group, reader.topic, offsets,
    )  # fmt: skip
