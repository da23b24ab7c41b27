"""The application's log files: their lines, and how far they were shipped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

_HEAD_BYTES = 1024
_BATCH_LINES = 500
_BATCH_BYTES = 2**22
_KEPT_POSITIONS = 100  # more than there are files


class Position(msgspec.Struct, frozen=True):
    """How far a file was shipped.

    Attributes:
        offset: of the next byte to read.
        head: a digest of the first bytes up to the offset, by which another content is recognised.
    """

    offset: int
    head: str

    @classmethod
    def take(cls, file: BinaryIO, offset: int) -> Self:
        return cls(offset, _digest_head(file, offset))

    def is_in(self, file: BinaryIO) -> bool:
        """Whether the file still has the content that was shipped."""
        return os.fstat(file.fileno()).st_size >= self.offset and _digest_head(file, self.offset) == self.head


def _digest_head(file: BinaryIO, offset: int) -> str:
    file.seek(0)
    return hashlib.sha256(file.read(min(offset, _HEAD_BYTES))).hexdigest()


class _Entry(msgspec.Struct, frozen=True):
    device: int
    inode: int
    position: Position


def read_sincedb(path: Path) -> dict[tuple[int, int], Position]:
    """The positions by device and inode; none if nothing was shipped yet."""
    if not path.exists():
        return {}
    entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    return {(entry.device, entry.inode): entry.position for entry in entries}


def write_sincedb(path: Path, positions: Mapping[tuple[int, int], Position]) -> None:
    """Replace the positions. Atomic: a kill or a full disk leaves the old ones."""
    entries = [_Entry(device, inode, position) for (device, inode), position in positions.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(msgspec.json.encode(entries))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def list_files(pattern: Path) -> list[Path]:
    """The files whose names match the last part of a path, the one that was written to last at the end."""
    found = []
    for path in pattern.parent.glob(pattern.name):
        try:
            found.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:  # rotated away meanwhile
            continue
    return [path for _, path in sorted(found)]


def read_lines(file: BinaryIO, offset: int) -> Iterator[bytes]:
    """Whole lines from an offset. An unfinished last line waits for its end."""
    file.seek(offset)
    while (line := file.readline()).endswith(b"\n"):
        yield line


def decode_line(line: bytes) -> str:
    """The text of a line. With invalid UTF-8 it is not JSON, as in Logstash, which escapes such a line."""
    try:
        return line.rstrip(b"\n").decode()
    except UnicodeDecodeError:
        return line.rstrip(b"\n").decode(errors="backslashreplace").replace('"', '\\"')


def find_offset(file: BinaryIO, positions: Mapping[tuple[int, int], Position]) -> int:
    """How far an open file was shipped. 0 for another content: a truncated file, or a new one with an old inode."""
    status = os.fstat(file.fileno())
    position = positions.get((status.st_dev, status.st_ino))
    return position.offset if position is not None and position.is_in(file) else 0


def has_unshipped_lines(pattern: Path, sincedb: Path) -> bool:
    """Whether a file has a whole line behind the position up to which it was shipped."""
    positions = read_sincedb(sincedb)
    for path in list_files(pattern):
        with suppress(FileNotFoundError), path.open("rb") as file:  # rotated away meanwhile
            if next(read_lines(file, find_offset(file, positions)), None) is not None:
                return True
    return False


class Tail:
    """Reads new lines of files that are rotated by rename: a file is known by its inode.

    Args:
        sincedb: the file that keeps the positions.
    """

    def __init__(self, pattern: Path, sincedb: Path) -> None:
        self._pattern = pattern
        self._sincedb = sincedb
        self._committed = self._reached = read_sincedb(sincedb)

    def read(self) -> list[tuple[Path, bytes]]:
        """The next lines with their files, some at a time. They come again until they are committed."""
        found: list[tuple[Path, bytes]] = []
        size = 0
        # Not only those of the files that are seen: one may be about to be renamed.
        reached = dict(self._committed)
        for path in list_files(self._pattern):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with file:
                offset = find_offset(file, self._committed)
                for line in read_lines(file, offset):
                    if len(found) == _BATCH_LINES or size > _BATCH_BYTES:
                        break
                    found.append((path, line))
                    size += len(line)
                    offset += len(line)
                status = os.fstat(file.fileno())
                inode = status.st_dev, status.st_ino
                reached.pop(inode, None)  # to the end
                reached[inode] = Position.take(file, offset)
        self._reached = dict(list(reached.items())[-_KEPT_POSITIONS:])
        return found

    def commit(self) -> None:
        """Keep the position after the lines of the last `read`."""
        if self._reached != self._committed:
            write_sincedb(self._sincedb, self._reached)
            self._committed = self._reached
