"""Before a group claims anything: is the topic still the one that it worked on, and are its offsets its own?"""

from __future__ import annotations

import logging

from jobs.errors import OffsetsError
from jobs.kafka.client import Config
from jobs.kafka.offsets import GroupReader, check_kept, is_older, read_topic_id
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import group_writer

log = logging.getLogger(__name__)


def check_ownership(config: Config, reader: GroupReader, topic_ids: TopicIds) -> str:
    """Refuse a topic that was made again and offsets that somebody else has committed; the topic's id.

    Offsets of versions that kept no copy are adopted, once: they are committed again, with a copy.

    Raises:
        OffsetsError: names the cause and the remedy; nothing was committed.
    """
    topic, group = reader.topic, reader.group
    reader.partitions()  # a topic that does not exist is a wrong setting
    topic_id = read_topic_id(config, topic)
    is_known = topic_ids.check(group, topic, topic_id)
    own, kept = reader.unchecked(), reader.kept()
    if is_older(own, kept):
        if is_known:
            check_kept(topic, group, own, kept)  # this version has committed nothing yet, so it was somebody else
        _adopt(config, reader, topic_id)
    if not is_known:
        # After the adoption: killed in between, the next try finds the copy and remembers the topic.
        topic_ids.remember(group, topic, topic_id)
    return topic_id


def _adopt(config: Config, reader: GroupReader, topic_id: str) -> None:
    with group_writer(config, reader.group, reader.topic, 1) as writer:
        own = reader.unchecked()
        if not is_older(own, reader.kept()):
            return  # another worker was faster
        if writer.topic_id != topic_id:
            raise OffsetsError(f"{reader.topic} was made again just now. Nothing was committed; the next try looks.")
        offsets = {partition: found.offset for partition, found in own.items() if found.offset is not None}
        plans = {it: own[it].metadata.encode() for it in offsets if own[it].metadata}
        for found in own.values():
            found.plan(dict)  # refuses the metadata of another tool
        with writer.transaction(offsets, plans):
            pass
    log.warning(
        "Adopted the offsets of group %s on %s, which an earlier version has committed: %s",
        reader.group, reader.topic, offsets,
    )  # fmt: skip
