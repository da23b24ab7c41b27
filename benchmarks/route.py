"""The topics of one measured pass. Peers import this module, so it has no dependencies."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Route:
    """Move `count` messages from `source` to `target`. `folder` is for the files of this pass."""

    bootstrap_servers: str
    source: str
    target: str
    count: int
    folder: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Route:
        return cls(**json.loads(text))


def name_dead_letters(target: str) -> str:
    """The dead-letter topic of a target."""
    return f"{target}-dlq"


def name_warm_up(target: str) -> str:
    """The topic for the results of a pass that warms up."""
    return f"{target}-warm-up"
