"""Positions in log files: renames, truncation, unfinished lines, inodes that are used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.shop import log_files
from jobs.shop.log_files import Position, Tail, decode_line, has_unshipped_lines, read_sincedb, write_sincedb


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "app.log"


@pytest.fixture
def tail(log: Path) -> Tail:
    log.parent.mkdir()
    return reopen(log)


def reopen(log: Path) -> Tail:
    return Tail(log.with_name("app.log*"), log.parent.parent / "sincedb")


def take(tail: Tail) -> list[bytes]:
    lines = [line for _, line in tail.read()]
    tail.commit()
    return lines


def test_lines_come_again_until_they_are_committed(log: Path, tail: Tail) -> None:
    log.write_bytes(b"a\nb\n")
    assert tail.read() == tail.read() == reopen(log).read() == [(log, b"a\n"), (log, b"b\n")]
    tail.commit()
    assert tail.read() == reopen(log).read() == []


def test_an_unfinished_line_waits(log: Path, tail: Tail) -> None:
    log.write_bytes(b"a\nhal")
    assert take(tail) == [b"a\n"]
    log.write_bytes(b"a\nhalf\n")
    assert take(tail) == [b"half\n"]


def test_a_renamed_file_is_finished_first(log: Path, tail: Tail) -> None:
    log.write_bytes(b"a\n")
    take(tail)
    log.write_bytes(b"a\nb\n")
    rotated = log.rename(log.with_name("app.log.1"))
    log.write_bytes(b"c\n")
    assert tail.read() == [(rotated, b"b\n"), (log, b"c\n")]
    tail.commit()
    assert take(reopen(log)) == []


def test_a_file_that_is_not_seen_for_a_moment_keeps_its_position(log: Path, tail: Tail) -> None:
    log.write_bytes(b"a\n")
    take(tail)
    hidden = log.rename(log.with_name("hidden"))
    assert take(tail) == []
    hidden.rename(log)
    assert take(tail) == []


@pytest.mark.parametrize("content", [b"x\n", b"x\ny\nz\n"])
def test_a_truncated_file_starts_again(log: Path, tail: Tail, content: bytes) -> None:
    log.write_bytes(b"a\nb\n")
    take(tail)
    log.write_bytes(content)
    assert b"".join(take(tail)) == content


def test_batches_are_limited(log: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(b"".join(b"%d\n" % number for number in range(10)))
    monkeypatch.setattr(log_files, "_BATCH_LINES", 4)
    assert [len(take(tail)) for _ in range(4)] == [4, 4, 2, 0]


def test_lines_are_unshipped_until_their_position_is_kept(log: Path, tail: Tail) -> None:
    sincedb = log.parent.parent / "sincedb"
    assert not has_unshipped_lines(log, sincedb)
    log.write_bytes(b"a\nhalf")
    assert has_unshipped_lines(log, sincedb)
    tail.read()
    assert has_unshipped_lines(log, sincedb)
    tail.commit()
    assert not has_unshipped_lines(log, sincedb), "half a line waits for its end"


def test_no_file_and_no_position(log: Path, tail: Tail) -> None:
    assert take(tail) == []
    assert read_sincedb(log.parent.parent / "sincedb") == {}


def test_positions_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sincedb"
    write_sincedb(path, {(1, 2): Position(3, "a")})

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(log_files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_sincedb(path, {(1, 2): Position(9, "b")})
    assert read_sincedb(path) == {(1, 2): Position(3, "a")}


def test_invalid_utf8_is_no_json() -> None:
    assert decode_line(b'{"a": "\xe9"}\n') == r"{\"a\": \"\xe9\"}"
    assert decode_line('{"a": "é"}\n'.encode()) == '{"a": "é"}'
