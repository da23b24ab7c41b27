"""The identity of topics: a topic that was deleted and made again has its old name, another id and no offsets.

Kafka deletes a topic's committed offsets with it, metadata included. So each group's topic id is remembered in a file
under STAGING_URL.
"""

from __future__ import annotations

from jobs.errors import OffsetsError
from jobs.files import Folder

_FOLDER = "topic-ids"


class TopicIds:
    """The topic ids that groups have worked with, a file for each.

    Args:
        staging: the folder at STAGING_URL.
    """

    def __init__(self, staging: Folder) -> None:
        self._folder = staging.child(_FOLDER)

    def read(self, group: str, topic: str) -> str | None:
        """The id that was remembered; None if the group is new."""
        return self._folder.child(group).read_text(topic) or None

    def remember(self, group: str, topic: str, topic_id: str) -> None:
        self._folder.child(group).write_text(topic, topic_id)

    def check(self, group: str, topic: str, topic_id: str) -> None:
        """Raises OffsetsError if the topic of this name was another one when the group worked on it."""
        remembered = self.read(group, topic)
        if remembered not in (None, topic_id):
            raise OffsetsError(
                f"{topic} was deleted and made again since group {group} worked on it (id {remembered}, now "
                f"{topic_id}), or this is another cluster. The group's offsets went with the old topic, and nothing of "
                f"the new one is done. To start with it: `make offsets GROUP={group} TO=beginning`."
            )
