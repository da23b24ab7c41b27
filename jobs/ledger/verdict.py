"""A ledger: figures that were counted at the systems themselves, and the verdict on them."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from jobs.kafka.offsets import HeldBack


class Verdict(IntEnum):
    """The exit code of `ledger`."""

    BALANCED = 0
    LOST_OR_DOUBLED = 1
    ON_ITS_WAY = 2
    CANNOT_BE_TOLD = 3


class Figure(msgspec.Struct, frozen=True):
    """How many there are of something, and the system that they were counted at; parts are indented by two spaces."""

    name: str
    count: int
    system: str


class Ledger(msgspec.Struct, kw_only=True):
    """What the systems hold of a stream; each vertical adds its figures.

    `faults` says in words what does not add up; empty while `balanced`, which is None where nothing can be said.
    `held_back` is what open transactions hold back, and in no figure.
    """

    balanced: bool | None
    faults: list[str] = msgspec.field(default_factory=list)
    held_back: list[HeldBack] = msgspec.field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """What to print, in the order of a message's way."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """Lines to print below the figures."""
        return []

    @property
    def is_on_its_way(self) -> bool:
        """Whether messages are still to be moved."""
        raise NotImplementedError

    @property
    def verdict(self) -> Verdict:
        if self.balanced is None:
            return Verdict.CANNOT_BE_TOLD
        if not self.balanced:
            return Verdict.LOST_OR_DOUBLED
        return Verdict.ON_ITS_WAY if self.is_on_its_way or self.held_back else Verdict.BALANCED

    @property
    def exit_code(self) -> int:
        """0 balanced, 1 lost or doubled, 2 still on its way, 3 cannot be told."""
        return int(self.verdict)
