"""The folder of outputs: one part file for each, replaced so that a reader never sees half of one, or none.

    OUTPUT_PATH/metrics/part-00000-metrics.parquet
                       /_SUCCESS                      which run wrote it, as JSON

A part file keeps its name, and the next one is renamed over it: whoever has listed the folder can still open the file.
`_SUCCESS` is removed before and written after. So if it is the same before and after a read, the part is of its run.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from jobs.errors import ConfigurationError, ServiceUnavailableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

T = TypeVar("T")
Format = Literal["parquet", "json"]
FORMATS: tuple[Format, ...] = ("parquet", "json")
NAMES = (
    "tickets_with_assignment",
    "high_priority_tickets",
    "rejects",
    "tickets_by_type",
    "tickets_by_priority",
    "metrics",
)
READ_S = 30.0
_MARK = "_SUCCESS"
_STAGING = ".staging"
# Spark's default format of times in JSON has milliseconds.
_OPTIONS = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "ignoreNullFields": "false"}


class Run(msgspec.Struct, frozen=True):
    """The run that wrote an output.

    Attributes:
        ends: the offsets up to which it has read the topic (exclusive), by partition.
        finished_at: RFC 3339, UTC.
    """

    id: str
    mode: Literal["batch", "stream"]
    topic: str
    ends: dict[int, int]
    finished_at: str


def write_outputs(folder: Path, outputs: Mapping[str, DataFrame], fmt: Format, run: Run) -> None:
    """Write data frames of one partition each, then replace the outputs of these names. Waits for other writers."""
    with _lock(folder):
        staging = folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        for name, rows in outputs.items():
            rows.write.options(**_OPTIONS).format(fmt).save(str(staging / name))
        for name in outputs:
            replace_output(staging / name, folder / name, fmt, run)
        shutil.rmtree(staging)


def replace_output(written: Path, target: Path, fmt: Format, run: Run) -> None:
    """Replace an output by the one part file that Spark has written into a folder on the same file system."""
    (part,) = written.glob("part-*")
    whole = written / "whole"
    whole.mkdir()
    name = f"part-00000-{target.name}.{fmt}"
    part.rename(whole / name)
    (whole / _MARK).write_bytes(msgspec.json.encode(run) + b"\n")
    if not target.exists():
        whole.rename(target)
        return
    (target / _MARK).unlink(missing_ok=True)
    (whole / name).replace(target / name)
    for other in target.glob("part-*"):
        if other.name != name:
            other.unlink()
    (whole / _MARK).replace(target / _MARK)


def make_time() -> str:
    """The time as `Run.finished_at` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_output(folder: Path, name: str, read: Callable[[Path, Format], T]) -> tuple[Run, T]:
    """Read an output, and which run wrote it. Waits while it is replaced.

    Args:
        read: reads the part file.

    Raises:
        ConfigurationError: the output does not exist.
        ServiceUnavailableError: it is incomplete: its writer was killed.
    """
    target = folder / name
    if not target.is_dir():
        raise ConfigurationError(f"There is no {target}. Run the processor first, or correct OUTPUT_PATH.")
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        before = _read_mark(target)
        parts = [(path, fmt) for fmt in FORMATS for path in target.glob(f"part-*.{fmt}")]
        if before is not None and len(parts) == 1:
            content = read(*parts[0])
            if _read_mark(target) == before:
                return msgspec.json.decode(before, type=Run), content
        time.sleep(0.05)
    raise ServiceUnavailableError(f"{target} is incomplete: its writer has ended. Run the processor again.")


def _read_mark(target: Path) -> bytes | None:
    try:
        return (target / _MARK).read_bytes()
    except FileNotFoundError:
        return None
