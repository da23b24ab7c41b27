"""What a task logs about its claim can be found again by the position of a message."""

from __future__ import annotations

import pytest

from jobs.kafka.claim import describe_claims, is_claimed
from jobs.kafka.scan import Claim

CLAIMS = [Claim(0, 0, 500), Claim(1, 7, 7), Claim(11, 3, 4)]


def test_text() -> None:
    assert describe_claims("rides_raw", CLAIMS) == "Claimed rides_raw[0] 0 to 499, rides_raw[11] 3 to 3"


@pytest.mark.parametrize(
    ("topic", "partition", "offset", "is_in"),
    [
        ("rides_raw", 0, 0, True), ("rides_raw", 0, 499, True), ("rides_raw", 0, 500, False),
        ("rides_raw", 1, 7, False), ("rides_raw", 11, 3, True), ("raw", 0, 3, False), ("rides.raw", 0, 3, False),
    ],
)  # fmt: skip
def test_covers(topic: str, partition: int, offset: int, is_in: bool) -> None:
    assert is_claimed(describe_claims("rides_raw", CLAIMS), topic, partition, offset) is is_in


def test_other_lines_cover_nothing() -> None:
    assert not is_claimed("Staged rides_raw[0] 0 to 499", "rides_raw", 0, 3)
