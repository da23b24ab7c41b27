"""A stream continues only where it was, with the job that it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ConfigurationError, OffsetsError
from jobs.spark.checkpoint import check_position, is_locked, open_checkpoint, read_ends

JOB = {"topic": "client_tickets", "contract": 1}


def begin(checkpoint: Path, batch: int, ends: str, *, is_committed: bool = True) -> None:
    """Write what Spark writes of a batch."""
    for folder in ("offsets", "commits"):
        (checkpoint / folder).mkdir(parents=True, exist_ok=True)
    (checkpoint / "offsets" / str(batch)).write_text(f'v1\n{{"batchWatermarkMs":0}}\n{{"client_tickets":{ends}}}')
    if is_committed:
        (checkpoint / "commits" / str(batch)).touch()


def test_only_one_stream_uses_a_folder(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with open_checkpoint(tmp_path, JOB):
        assert is_locked(tmp_path)
        with pytest.raises(ConfigurationError, match="Another stream uses"), open_checkpoint(tmp_path, JOB):
            pass
    assert not is_locked(tmp_path)


def test_another_job_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    with open_checkpoint(tmp_path, JOB) as checkpoint:
        assert checkpoint == tmp_path / "checkpoint"
    text = rf"contract was 1 and is 2. To continue it, set that back. .* rm -r {tmp_path}"
    with pytest.raises(ConfigurationError, match=text), open_checkpoint(tmp_path, {**JOB, "contract": 2}):
        pass
    with open_checkpoint(tmp_path, JOB):
        pass


def test_the_ends_of_a_batch_are_read(tmp_path: Path) -> None:
    begin(tmp_path, 3, '{"1":20,"0":10}')
    assert read_ends(tmp_path, 3, "client_tickets") == {0: 10, 1: 20}


def test_a_position_that_the_topic_has_is_accepted(tmp_path: Path) -> None:
    check_position(tmp_path, "client_tickets", {0: 5}, {0: 9})
    begin(tmp_path, 0, '{"0":7}')
    for first, end in ((0, 7), (7, 7), (7, 20)):
        check_position(tmp_path, "client_tickets", {0: first}, {0: end})


@pytest.mark.parametrize(
    ("first", "end", "text"),
    [
        (9, 20, r"client_tickets\[0\]: .* offset 7, but the topic begins at 9 now: retention has deleted 2 .* rm -r"),
        (0, 6, r"the partition ends at 6: the topic was recreated"),
    ],
)
def test_a_position_that_the_topic_lost_is_refused(tmp_path: Path, first: int, end: int, text: str) -> None:
    begin(tmp_path, 0, '{"0":7}')
    begin(tmp_path, 1, '{"0":9}', is_committed=False)
    with pytest.raises(OffsetsError, match=text):
        check_position(tmp_path, "client_tickets", {0: first}, {0: end})
