"""Where one measured pass reads and writes. Peers use this too: no dependencies."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Route:
    """`count` messages of `source` become as many in `target`; files that a pass needs are in its own `folder`."""

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


def dead_letters(target: str) -> str:
    """The topic beside a target for what cannot be priced."""
    return f"{target}-dlq"
