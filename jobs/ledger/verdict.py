"""A ledger: figures that were counted in each system, and the verdict on them."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from jobs.kafka.offsets import HeldBack


class Verdict(IntEnum):
    """The exit code of `ledger`."""

    BALANCED = 0
    LOST_OR_DOUBLED = 1
    IN_PROGRESS = 2
    NO_VERDICT = 3


class Figure(msgspec.Struct, frozen=True):
    """A count and the system that it was taken from. The name of a part is indented by two spaces."""

    name: str
    count: int
    system: str


class Ledger(msgspec.Struct, kw_only=True):
    """The figures of one vertical; each vertical adds its own fields.

    `balanced` is None if there is no verdict. `faults` are the differences between the figures. `lost` and `doubled`
    are the messages that a system misses, or holds once too often, added up over the systems. `held_back` are offsets
    behind open transactions; no figure includes them.
    """

    balanced: bool | None
    faults: list[str] = msgspec.field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    held_back: list[HeldBack] = msgspec.field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """The figures to print, upstream first."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """Lines to print below the figures."""
        return []

    @property
    def is_in_progress(self) -> bool:
        """Whether tasks still have messages to process."""
        raise NotImplementedError

    @property
    def verdict(self) -> Verdict:
        if self.balanced is None:
            return Verdict.NO_VERDICT
        if not self.balanced:
            return Verdict.LOST_OR_DOUBLED
        return Verdict.IN_PROGRESS if self.is_in_progress or self.held_back else Verdict.BALANCED

    @property
    def exit_code(self) -> int:
        """0 balanced, 1 lost or doubled, 2 in progress, 3 no verdict."""
        return int(self.verdict)
