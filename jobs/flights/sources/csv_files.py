"""Imports CSV files (RFC 4180) of flights and weather: each file once, resumable by line.

The header decides the kind: it has the names of the fields of FlightContent or of WeatherContent, in any order, at
least the required ones, and no other. An empty value is None.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple, get_args, get_type_hints

import msgspec

from jobs.errors import ConfigurationError
from jobs.flights.contract import (
    CONTENTS,
    MAKERS,
    MAX_TEXT,
    Collected,
    Kind,
    Origin,
    Reason,
    format_time,
    list_required,
    make_reject,
)
from jobs.flights.database import Connection
from jobs.flights.sources.lines import Line, read_lines
from jobs.flights.sources.texts import read_integer, read_number
from jobs.flights.vertical import FlightsSettings
from jobs.strict_json import RejectedError

SOURCE = "csv"
QUIET_S = 2  # a file that was changed within these seconds may still be written
MAX_ROW_LINES = 100  # a quote that does not end within them is a fault of its line, not of the rest of the file
FIRST_ROW = 2  # its line

_BOOLEANS = {"true": True, "false": False}


class Imported(NamedTuple):
    """What an import has done.

    Attributes:
        files: number of files that were finished.
        items: observations and rejects.
        waiting: number of files that are still being written. The next import takes them.
    """

    files: int
    items: int
    waiting: int


def import_files(
    settings: FlightsSettings, connection: Connection, add: Callable[[Iterable[Collected]], object], batch: int = 1000
) -> Imported:
    """Import every new `*.csv` of FLIGHTS_CSV_FOLDER, in the order of their names.

    After each batch, the next line is committed. A crash repeats at most one batch: its event ids are the same again.

    Args:
        connection: as the user WRITER.
        add: takes observations and rejects. They are durable when it returns.
        batch: the number of them in a call.

    Raises:
        ConfigurationError: no folder, an unusable encoding, or an unreadable file. The other files are imported.
    """
    encoding = check_encoding(settings.flights_csv_encoding)
    folder = settings.flights_csv_folder
    if not folder.is_dir():
        raise ConfigurationError(f"FLIGHTS_CSV_FOLDER={folder} is not a folder. Create it, or set another one in .env.")
    files = items = waiting = 0
    unreadable = []
    for path in sorted(folder.glob("*.csv")):
        try:
            stream = path.open("rb")
        except OSError as error:
            unreadable.append(f"{path}: {error.strerror}")
            continue
        with stream:
            digest = _hash_if_complete(stream)
            if digest is None:
                waiting += 1
                continue
            count = _import_file(stream, digest, encoding, connection, add=add, batch=batch)
            files += count is not None
            items += count or 0
    if unreadable:
        raise ConfigurationError(f"Cannot read {'; '.join(unreadable)}. Correct its rights, or remove it.")
    return Imported(files, items, waiting)


def check_encoding(name: str) -> str:
    """The encoding of a setting.

    Raises:
        ConfigurationError: Python has no such encoding, or a comma or a line break is not one byte in it.
    """
    try:
        if codecs.lookup(name).name == "utf-8-sig":  # read_rows tolerates the mark anyway
            return "utf-8"
        if ',"\r\n'.encode(name) == b',"\r\n':
            return name
    except LookupError:
        pass
    raise ConfigurationError(
        f"FLIGHTS_CSV_ENCODING={name}: not an encoding that extends ASCII. Set utf-8, cp1252 or iso-8859-1, for "
        "example, and convert files in UTF-16."
    )


def _hash_if_complete(stream: IO[bytes]) -> str | None:
    """The SHA-256 of a file; None while it is being written."""
    before = os.fstat(stream.fileno())
    if 0 <= time.time() - before.st_mtime < QUIET_S:
        return None
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    after = os.fstat(stream.fileno())
    return digest if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) else None


def _import_file(
    stream: IO[bytes],
    sha256: str,
    encoding: str,
    connection: Connection,
    *,
    add: Callable[[Iterable[Collected]], object],
    batch: int,
) -> int | None:
    """Import the rest of a file; returns the number of items, or None if it was imported before."""
    # A name that is not UTF-8 has surrogates, which MySQL refuses.
    name = os.fsencode(Path(stream.name).name).decode(errors="backslashreplace")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT IGNORE INTO imported_files (sha256, name, next_line) VALUES (%s, %s, %s)", (sha256, name, FIRST_ROW)
        )
        connection.commit()
        # A renamed file keeps the name of its first import: it is part of the event ids of rejects.
        cursor.execute("SELECT name, next_line, finished_at FROM imported_files WHERE sha256 = %s", (sha256,))
        row: dict[str, Any] = cursor.fetchone()
        if row["finished_at"] is not None:
            return None
        stream.seek(0)
        count = 0
        parsed = read_rows(stream, row["name"], encoding, row["next_line"])
        while part := list(islice(parsed, batch)):
            add([item for _, item in part])
            next_line = part[-1][0]
            cursor.execute("UPDATE imported_files SET next_line = %s WHERE sha256 = %s", (next_line, sha256))
            connection.commit()
            count += len(part)
        now = datetime.now(UTC).replace(tzinfo=None)
        cursor.execute("UPDATE imported_files SET finished_at = %s WHERE sha256 = %s", (now, sha256))
        connection.commit()
        return count


def read_rows(
    stream: IO[bytes], name: str, encoding: str, next_line: int = FIRST_ROW
) -> Iterator[tuple[int, Collected]]:
    """The rows of a file from a line on, each with the number of the line after it. A wrong header is one reject.

    `fetched_at` is the time of the file's last change, so that a repeated batch has the same rejects.

    Args:
        stream: the open file, at its start.
        name: the file's name in positions.
        encoding: one that extends ASCII. A byte-order mark before UTF-8 is ignored.
    """
    status = os.fstat(stream.fileno())
    fetched_at = format_time(datetime.fromtimestamp(status.st_mtime, UTC))
    lines = takewhile(lambda line: line.end <= status.st_size, read_lines(stream))
    header = next(lines, Line(1, b"", 0))
    origin = Origin(SOURCE, f"{name}:1", fetched_at)
    kind = Kind.FLIGHT
    try:
        names = _read_header(header, encoding)
        kind = max(CONTENTS, key=lambda each: len({*names} & {*CONTENTS[each].__struct_fields__}))
        _check_header(names, kind)
    except RejectedError as error:
        if next_line == FIRST_ROW:
            yield FIRST_ROW + 1, make_reject(kind, origin, error, _strip(header.value))
        return
    readers = [READERS[kind][column] for column in names]
    rest = (line for line in lines if line.number >= next_line)
    for taken, row in _split_rows(rest, encoding, len(names)):
        origin = Origin(SOURCE, f"{name}:{taken[0].number}", fetched_at)
        item: Collected
        try:
            if isinstance(row, RejectedError):
                raise row
            texts = zip(names, readers, row, strict=True)
            item = MAKERS[kind]({column: read(text) for column, read, text in texts if text}, origin)
        except RejectedError as error:
            item = make_reject(kind, origin, error, _strip(b"".join(line.value for line in taken)))
        yield taken[-1].number + 1, item


def _read_header(header: Line, encoding: str) -> list[str]:
    header.check()
    value = header.value.removeprefix(codecs.BOM_UTF8) if codecs.lookup(encoding).name == "utf-8" else header.value
    if not _strip(value):
        raise RejectedError(Reason.EMPTY_VALUE, "the file has no header")
    return _parse_row([header._replace(value=value)], encoding)


def _check_header(names: list[str], kind: Kind) -> None:
    content = CONTENTS[kind]
    known = f"the names of {content.__name__}"
    if unknown := [name for name in names if name not in content.__struct_fields__]:
        text = ", ".join(map(repr, unknown))[:MAX_TEXT]
        raise RejectedError(Reason.UNKNOWN_FIELD, f"the header has {text}, which is not in {known}")
    if missing := [name for name in list_required(content) if name not in names]:
        raise RejectedError(Reason.MISSING_FIELD, f"the header lacks {', '.join(missing)} of {known}")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise RejectedError(Reason.DUPLICATE_KEY, f"the header has {', '.join(sorted(repeated))} more than once")


def _split_rows(
    lines: Iterator[Line], encoding: str, columns: int
) -> Iterator[tuple[Sequence[Line], list[str] | RejectedError]]:
    """Each row's lines, with its values or its fault. Of several lines that are no row, only the first is rejected."""
    waiting: deque[Line] = deque()

    def take() -> Line | None:
        return waiting.popleft() if waiting else next(lines, None)

    while first := take():
        taken = [first]
        quotes = first.value.count(b'"')
        while quotes % 2 and len(taken) < MAX_ROW_LINES and not taken[-1].is_cut and (following := take()):
            taken.append(following)
            quotes += following.value.count(b'"')
        if len(taken) == 1 and not _strip(first.value):
            continue
        try:
            row = _parse_row(taken, encoding)
            if len(row) != columns:
                raise RejectedError(Reason.TRUNCATED, f"the line has {len(row)} values, the header {columns}")
        except RejectedError as error:
            waiting.extendleft(reversed(taken[1:]))
            yield taken[:1], error
        else:
            yield taken, row


def _parse_row(lines: Sequence[Line], encoding: str) -> list[str]:
    for line in lines:
        line.check()
    try:
        text = _strip(b"".join(line.value for line in lines)).decode(encoding)
    except UnicodeDecodeError as error:
        raise RejectedError(Reason.INVALID_UTF8, f"byte {error.start} is not {encoding}: {error.reason}") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise RejectedError(Reason.TRUNCATED, f"the line is not CSV: {error}") from error
    if len(rows) != 1:
        raise RejectedError(Reason.TRUNCATED, "the line has a carriage return outside of quotes")
    return rows[0]


def _strip(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _read_boolean(text: str) -> bool | str:
    return _BOOLEANS.get(text, text)


_BY_TYPE: dict[type, Callable[[str], object]] = {float: read_number, int: read_integer, bool: _read_boolean}


def _make_readers(content: type[msgspec.Struct]) -> dict[str, Callable[[str], object]]:
    """For each field, what makes a value of a text. The contract rejects a text where it wants a number."""

    def choose(hint: Any) -> Callable[[str], object]:
        return next((_BY_TYPE[each] for each in (hint, *get_args(hint)) if each in _BY_TYPE), str)

    return {name: choose(hint) for name, hint in get_type_hints(content).items()}


READERS = {kind: _make_readers(content) for kind, content in CONTENTS.items()}
