"""Lines of a binary stream, with a limit on their length, so that memory stays flat whatever the stream holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

from jobs.flights.contract import Reason
from jobs.strict_json import RejectedError

MAX_LINE = 2**18  # bytes, without the line break


class Line(NamedTuple):
    """A line, numbered from 1. `value` has its line break, and only the first MAX_LINE bytes of a line that is longer.

    Attributes:
        end: the number of bytes of the stream up to the end of the line.
    """

    number: int
    value: bytes
    end: int
    is_cut: bool = False

    def check(self) -> None:
        """
        Raises:
            RejectedError: the line is too long.
        """
        if self.is_cut:
            raise RejectedError(Reason.TRUNCATED, f"the line has more than {MAX_LINE:,} bytes; the value is its start")


def read_lines(stream: IO[bytes]) -> Iterator[Line]:
    """The lines of a stream, as they arrive."""
    end = number = 0
    while value := stream.readline(MAX_LINE):
        number += 1
        end += len(value)
        is_cut, part = False, value
        while not part.endswith(b"\n") and (part := stream.readline(MAX_LINE)):
            is_cut = is_cut or part != b"\n"
            end += len(part)
        yield Line(number, value, end, is_cut)
