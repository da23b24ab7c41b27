"""The import of CSV files with a real MySQL: each file once, resumed after a crash, never while it is being written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.errors import ConfigurationError
from jobs.flights.contract import Collected, Reject
from jobs.flights.database import ADMIN, WRITER, connect
from jobs.flights.sources.csv_files import QUIET_S, Imported, import_files
from tests.testkit.stack import guarded
from tests.testkit.wait import until

HEADER = "place_id,observed_at,lat,lon,units,temperature"
PAST = time.time() - 3600


class StoppedError(Exception):
    """The process was killed."""


@dataclass
class Sink:
    """Where the import adds to: like the buffer, it drops event ids that it has.

    Attributes:
        stop_at: number of the call that fails, after it has stored its items.
    """

    stored: dict[str, Collected] = field(default_factory=dict)
    repeated: int = 0
    calls: int = 0
    stop_at: int = 0

    def add(self, items: Iterable[Collected]) -> None:
        self.calls += 1
        for item in items:
            self.repeated += item.event_id in self.stored
            self.stored[item.event_id] = item
        if self.calls == self.stop_at:
            raise StoppedError


@dataclass(frozen=True)
class Import:
    """A folder of files, and a database that knows none of them."""

    settings: Any
    folder: Path

    def run(self, sink: Sink, batch: int = 1000) -> Imported:
        with connect(self.settings, WRITER) as connection:
            return import_files(self.settings, connection, sink.add, batch)

    def write(self, name: str, lines: Iterable[str], header: str = HEADER) -> Path:
        path = self.folder / name
        path.write_text("\n".join([header, *lines]) + "\n")
        os.utime(path, (PAST, PAST))
        return path

    def state(self) -> list[tuple[str, int, bool]]:
        with connect(self.settings, WRITER) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name, next_line, finished_at FROM imported_files ORDER BY name")
            return [(row["name"], row["next_line"], row["finished_at"] is not None) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    settings = isolated_settings()
    with guarded(settings.datastream_state):
        local_stack(settings).up(["mysql"])
        yield settings


@pytest.fixture
def files(running: Any, tmp_path: Path) -> Import:
    forget_files(running)
    return Import(running.model_copy(update={"flights_csv_folder": tmp_path}), tmp_path)


def forget_files(settings: Any) -> None:
    with connect(settings, ADMIN) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE imported_files")


def make_rows(count: int, first: int = 0) -> list[str]:
    """Every fifth row is faulty."""
    return [
        f"CDG,2026-11-28T12:{number // 60:02}:{number % 60:02}Z,49.0,2.5,{'metric' if number % 5 else 'K'},7.5"
        for number in range(first, first + count)
    ]


def test_a_file_is_imported_once_whatever_its_name(files: Import) -> None:
    files.write("b.csv", make_rows(20))
    files.write("a.csv", make_rows(10, first=100), header=HEADER.replace("units", "unit"))
    (files.folder / "c.txt").write_text("not for the import")
    sink = Sink()
    assert files.run(sink, batch=7) == Imported(files=2, items=21, waiting=0)
    rejects = [item for item in sink.stored.values() if isinstance(item, Reject)]
    assert [(reject.origin.position, reject.reason) for reject in rejects] == [
        ("a.csv:1", "unknown_field"),
        *[(f"b.csv:{line}", "wrong_units") for line in (2, 7, 12, 17)],
    ]
    assert files.state() == [("a.csv", 3, True), ("b.csv", 22, True)]

    (files.folder / "b.csv").rename(files.folder / "renamed.csv")
    os.utime(files.folder / "renamed.csv", (PAST - 60, PAST - 60))
    assert files.run(sink) == Imported(files=0, items=0, waiting=0)
    assert sink.repeated == 0

    # A file of a later time: its observations are known, its rejects are new.
    os.utime(files.write("b.csv", make_rows(21)), (PAST + 60, PAST + 60))
    assert files.run(sink) == Imported(files=1, items=21, waiting=0)
    assert sink.repeated == 20 - 4


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_crash_repeats_at_most_one_batch_and_doubles_nothing(files: Import, stop_at: int) -> None:
    files.write("a.csv", make_rows(25))
    expected = Sink()
    sink = Sink(stop_at=stop_at)
    with pytest.raises(StoppedError):
        files.run(sink, batch=10)
    assert files.state() == [("a.csv", 2 + 10 * (stop_at - 1), False)]
    before = len(sink.stored)
    imported = files.run(sink, batch=10)
    assert imported.items == 25 - 10 * (stop_at - 1)
    assert sink.repeated == before - 10 * (stop_at - 1) <= 10
    assert files.state() == [("a.csv", 27, True)]
    # The same as without a crash, rejects included.
    forget_files(files.settings)
    files.run(expected)
    assert sink.stored.keys() == expected.stored.keys()
    assert len(sink.stored) == 25


def test_a_file_that_is_being_written_waits(files: Import) -> None:
    files.write("a.csv", make_rows(3))
    growing = files.write("b.csv", make_rows(3, first=50))
    os.utime(growing)
    sink = Sink()
    assert files.run(sink) == Imported(files=1, items=3, waiting=1)
    until(lambda: time.time() - growing.stat().st_mtime > QUIET_S, "the file to be quiet")
    assert files.run(sink) == Imported(files=1, items=3, waiting=0)


def test_an_unreadable_file_does_not_hold_up_the_others(files: Import) -> None:
    (files.folder / "a.csv").mkdir()
    files.write("b.csv", make_rows(3))
    sink = Sink()
    with pytest.raises(ConfigurationError, match=r"Cannot read .*a\.csv: Is a directory"):
        files.run(sink)
    assert len(sink.stored) == 3
    missing = files.settings.model_copy(update={"flights_csv_folder": files.folder / "missing"})
    with pytest.raises(ConfigurationError, match=r"FLIGHTS_CSV_FOLDER=.*missing is not a folder"):
        Import(missing, files.folder).run(sink)
