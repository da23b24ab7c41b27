"""Detect recreated topics: a topic that was deleted and recreated has the same name, another id and no offsets.

Kafka deletes a topic's committed offsets and their metadata together with the topic. So a file under STAGING_URL stores
the topic id of each group.
"""

from __future__ import annotations

from jobs.errors import OffsetsError
from jobs.files import Folder

_FOLDER = "topic-ids"


class TopicIds:
    """The ids of the topics that groups have read, in one file for each group and topic.

    Args:
        staging: the folder at STAGING_URL.
    """

    def __init__(self, staging: Folder) -> None:
        self._folder = staging.child(_FOLDER)

    def read(self, group: str, topic: str) -> str | None:
        """The stored id; None if the group is new."""
        return self._folder.child(group).read_text(topic) or None

    def remember(self, group: str, topic: str, topic_id: str) -> None:
        self._folder.child(group).write_text(topic, topic_id)

    def check(self, group: str, topic: str, topic_id: str) -> None:
        """Raise OffsetsError if the topic had another id when the group last read it."""
        remembered = self.read(group, topic)
        if remembered not in (None, topic_id):
            raise OffsetsError(
                f"{topic} was deleted and recreated since group {group} read it (id {remembered}, now {topic_id}), or "
                "this is another cluster. The group's offsets were deleted with the old topic. To start with the new "
                f"one: `make offsets GROUP={group} TO=beginning`."
            )
