"""Checkpoints of streaming queries: one folder for each query, which no other job may continue."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import ConfigurationError, OffsetsError

Ends = dict[int, int]


@contextmanager
def open_checkpoint(folder: Path, job: Mapping[str, object]) -> Iterator[Path]:
    """Lock a folder for a query, and check that the query is the one that it belongs to.

    Args:
        job: what must be the same for the query to continue: the topic, the contract's version.

    Yields:
        The path for Spark's `checkpointLocation`.

    Raises:
        ConfigurationError: another process uses the folder, or it belongs to another job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"Another stream uses {folder}. Stop it first.") from error
        _check_job(folder, job)
        yield folder / "checkpoint"


def is_locked(folder: Path) -> bool:
    """Whether a stream uses a folder now."""
    file = folder / "lock"
    if not file.exists():
        return False
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _check_job(folder: Path, job: Mapping[str, object]) -> None:
    file = folder / "job.json"
    if not file.exists():
        temporary = file.with_suffix(".part")
        temporary.write_text(json.dumps(job, indent=2) + "\n")
        temporary.replace(file)
        return
    known = json.loads(file.read_text())
    changes = [
        f"{name} was {known.get(name)!r} and is {job.get(name)!r}"
        for name in sorted({*known, *job})
        if known.get(name) != job.get(name)
    ]
    if changes:
        raise ConfigurationError(
            f"The stream in {folder} is another one: {', '.join(changes)}. To continue it, set that back. To start "
            f"a new one, delete the folder: rm -r {folder}"
        )


def read_ends(checkpoint: Path, batch: int, topic: str) -> Ends:
    """The offsets at which a batch ends (exclusive), by partition."""
    *_, last = (checkpoint / "offsets" / str(batch)).read_text().splitlines()
    return {int(partition): offset for partition, offset in json.loads(last)[topic].items()}


def read_first_offsets(checkpoint: Path, topic: str) -> Ends:
    """The offsets at which the first batch begins, by partition.

    Spark writes them before the first batch (KafkaSourceInitialOffsetWriter): a zero byte, the version, then JSON.
    """
    text = (checkpoint / "sources" / "0" / "0").read_text()
    return {int(partition): offset for partition, offset in json.loads(text[text.index("{") :])[topic].items()}


def find_last_batch(checkpoint: Path) -> int | None:
    """The last batch that Spark has begun; None for a new query."""
    return max((int(path.name) for path in (checkpoint / "offsets").glob("[0-9]*")), default=None)


def check_position(checkpoint: Path, topic: str, first: Ends, ends: Ends, remedy: str = "") -> None:
    """Check that the topic still has the messages that the query reads next.

    Args:
        first, ends: the first and the next offset of each partition of the topic.
        remedy: what to do. Default: delete the folder, and so start with what the topic holds.

    Raises:
        OffsetsError: retention has deleted them, or the topic was recreated.
    """
    if (batch := find_last_batch(checkpoint)) is None:
        return
    is_committed = (checkpoint / "commits" / str(batch)).exists()
    if not is_committed and batch == 0:
        return
    for partition, offset in read_ends(checkpoint, batch if is_committed else batch - 1, topic).items():
        low, high = first.get(partition, 0), ends.get(partition, 0)
        if low <= offset <= high:
            continue
        what = (
            f"the topic begins at {low} now: retention has deleted {low - offset} messages after it"
            if offset < low
            else f"the partition ends at {high}: the topic was recreated"
        )
        advice = remedy or (
            f"To start again with what the topic holds, delete the stream's folder: rm -r {checkpoint.parent}"
        )
        raise OffsetsError(f"{topic}[{partition}]: the stream would continue at offset {offset}, but {what}. {advice}")
