"""The Lambda function under the rules of AWS's event source mapping, and under MiniStack's, with random faults."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.serverless import lambda_consumer
from jobs.serverless.lambda_consumer import KEY, BatchFailedError, RejectedError, lambda_handler, make_item
from tests.testkit.dynamodb import FakeDynamoDB, make_error
from tests.testkit.kinesis import (
    AwsMapping,
    FunctionError,
    MiniStackMapping,
    Record,
    list_range,
    make_content,
    make_record,
    read_sequence,
)

EXAMPLES = 100
MAX_AGE_S = 3_600


class Fault(Enum):
    """What happens at a write, or before a record."""

    NONE = "none"
    THROTTLED = "throttled"
    LOST_ANSWER = "the write is done, and the answer is lost"
    KILLED = "the process is killed before the write"
    KILLED_AFTER = "the process is killed after the write"
    TIMED_OUT = "the mapping gives the call up and delivers again while the first call goes on"
    NO_TIME = "little time is left"


class Killed(BaseException):
    """Ends the function as SIGKILL does: nothing catches it."""


class Machine:
    """Runs the function, and lets faults happen to it in the given order. Then everything works."""

    def __init__(self, faults: list[Fault]) -> None:
        self.database = FakeDynamoDB()
        self.database.before, self.database.after = self._before, self._after
        self._faults = deque(faults)
        self._after_write: BaseException | None = None
        self._batches: list[list[Record]] = []
        self._has_timed_out: list[bool] = []

    def call(self, batch: list[Record]) -> Any:
        """Call the function as a mapping does.

        Raises:
            FunctionError: it failed, timed out, or was killed.
        """
        self._batches.append(batch)
        self._has_timed_out.append(False)
        try:
            answer = lambda_handler({"Records": batch}, self)
        except (BatchFailedError, Killed) as error:
            raise FunctionError from error
        finally:
            self._batches.pop()
            has_timed_out = self._has_timed_out.pop()
        if has_timed_out:
            raise FunctionError
        return answer

    def get_remaining_time_in_millis(self) -> int:
        return 0 if self._take(Fault.NO_TIME) else 60_000

    def _take(self, *wanted: Fault) -> Fault | None:
        if self._faults and (self._faults[0] is Fault.NONE or self._faults[0] in wanted):
            fault = self._faults.popleft()
            return fault if fault in wanted else None
        return None

    def _before(self) -> None:
        fault = self._take(*(set(Fault) - {Fault.NO_TIME, Fault.NONE}))
        if fault is Fault.THROTTLED:
            raise make_error("ProvisionedThroughputExceededException")
        if fault is Fault.KILLED:
            raise Killed
        if fault is Fault.TIMED_OUT:
            self._has_timed_out[-1] = True
            with suppress(FunctionError):  # the mapping delivers once more
                self.call(self._batches[-1])
        elif fault is Fault.LOST_ANSWER:
            self._after_write = ReadTimeoutError(endpoint_url="http://dynamodb")
        elif fault is Fault.KILLED_AFTER:
            self._after_write = Killed()

    def _after(self) -> None:
        error, self._after_write = self._after_write, None
        if error is not None:
            raise error


contents = st.one_of(
    st.builds(
        lambda city, form, minute, event_id: make_content(
            unicodedata.normalize(form, city), 1_731_400_000 + 60 * minute, **event_id
        ),
        st.sampled_from(["Dakar", "Thiès", "São Paulo"]),
        st.sampled_from(["NFC", "NFD"]),
        st.integers(0, 3),
        st.sampled_from([{}, {"event_id": "a"}, {"event_id": "b"}]),
    ),
    st.sampled_from(
        [b"{", b"\xff", "%%%", make_content(temp=float("nan")), b"x" * 300_001, make_content(timestamp=-1)]
    ),
    st.just(make_content(temp=1e126)),  # DynamoDB refuses it
)
shards = st.lists(contents, max_size=12).map(
    lambda values: [make_record(value, number) for number, value in enumerate(values, 1)]
)
faults = st.lists(st.sampled_from(Fault), max_size=40)


@contextmanager
def run(machine: Machine, partial_batch: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_consumer.Tables, "_resource", machine.database)
        patch.setenv("PARTIAL_BATCH", partial_batch)
        for name, table in (("LATEST", "mongo"), ("HISTORY", "history"), ("REJECTS", "rejects")):
            patch.setenv(f"TABLE_{name}", f"dataflow_{table}")
        yield


def check(database: FakeDynamoDB, shard: list[Record]) -> None:
    """Each record is in the one place where it belongs, and the latest are the newest."""
    clean = Machine([])
    with run(clean, "false"):
        for record in reversed(shard):  # in any order
            clean.call([record])
    history, rejects = database.tables["dataflow_history"], database.tables["dataflow_rejects"]
    assert history.keys() == clean.database.tables["dataflow_history"].keys()
    assert rejects == clean.database.tables["dataflow_rejects"]
    newest: dict[str, str] = {}
    for ville, key in history:
        newest[ville] = max(key, newest.get(ville, ""))
    latest = database.tables["dataflow_mongo"].values()
    assert {item["ville"]: item[KEY] for item in latest} == newest
    stored = {item["sequence"] for item in history.values()}
    assert not stored & {part["sequence#part"].partition("#")[0] for part in rejects.values()}


def find_key(record: Record) -> tuple[str, str] | None:
    try:
        item = make_item(record)
    except RejectedError:
        return None
    return item["ville"], item[KEY]


@settings(max_examples=EXAMPLES, deadline=None)
@given(shards, faults, st.integers(1, 5), st.integers(0, 6), st.booleans(), st.lists(st.sampled_from([0, 7_200])))
def test_nothing_is_lost_doubled_or_blocked_under_the_rules_of_aws(
    shard: list[Record], faults: list[Fault], batch: int, retries: int, is_bisecting: bool, ages: list[int]
) -> None:
    machine, passing = Machine(faults), deque(ages)
    mapping = AwsMapping(
        machine.call, batch, retries, MAX_AGE_S, is_bisecting, lambda _: passing.popleft() if passing else 0
    )
    with run(machine, "true"):
        mapping.run(shard)
        for first, last in mapping.destination:
            # What the mapping gives up is named in the queue. `redrive` delivers it, as often as it takes.
            redrive = MiniStackMapping(partial(call_again, machine))
            redrive.run(list(list_range(shard, first, last)))
    check(machine.database, shard)


def call_again(machine: Machine, batch: list[Record]) -> None:
    if machine.call(batch)["batchItemFailures"]:
        raise FunctionError


@settings(max_examples=EXAMPLES, deadline=None)
@given(shards, faults, st.integers(1, 5))
def test_nothing_is_lost_doubled_or_blocked_under_the_weakest_rules(
    shard: list[Record], faults: list[Fault], batch: int
) -> None:
    machine = Machine(faults)
    with run(machine, "false"):
        MiniStackMapping(machine.call, batch).run(shard)
    check(machine.database, shard)


@settings(max_examples=EXAMPLES, deadline=None)
@given(shards, faults)
def test_what_the_mapping_delivers_is_stored_or_named_in_the_queue(shard: list[Record], faults: list[Fault]) -> None:
    machine = Machine(faults)
    mapping = AwsMapping(machine.call, 3, retries=1)
    with run(machine, "true"):
        mapping.run(shard)
    named = {read_sequence(record) for ends in mapping.destination for record in list_range(shard, *ends)}
    numbers = {key.partition("#")[0] for _, key in machine.database.tables["dataflow_rejects"]}
    history = machine.database.tables["dataflow_history"]
    for record in shard:
        sequence = read_sequence(record)
        assert find_key(record) in history or sequence in numbers or sequence in named


# --- The model itself -----------------------------------------------------------------------------


def make_shard(count: int) -> list[Record]:
    return [make_record(make_content(timestamp=number), number) for number in range(1, count + 1)]


def numbers(batch: list[Record]) -> list[int]:
    return [int(read_sequence(record)[2:]) for record in batch]


def answer(*failed: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": one} for one in failed]}


def script(*answers: Any) -> tuple[Callable[[list[Record]], Any], list[list[int]]]:
    """A function that gives these answers in turn, then success; and the batches that it gets."""
    waiting, batches = deque(answers), []

    def call(batch: list[Record]) -> Any:
        batches.append(numbers(batch))
        given_answer = waiting.popleft() if waiting else None
        if given_answer is FunctionError:
            raise FunctionError
        return given_answer

    return call, batches


def test_partial_responses_without_their_record_are_skipped_by_ministack() -> None:
    """Why PARTIAL_BATCH is false there."""
    shard, machine = make_shard(2), Machine([Fault.THROTTLED])
    with run(machine, "true"):
        MiniStackMapping(machine.call).run(shard)
    assert len(machine.database.tables["dataflow_history"]) == 0


def test_the_model_retries_from_the_lowest_reported_record() -> None:
    shard = make_shard(4)
    function, batches = script(answer(read_sequence(shard[2]), read_sequence(shard[1])))
    AwsMapping(function).run(shard)
    assert batches == [[1, 2, 3, 4], [2, 3, 4]]


@pytest.mark.parametrize("reported", ["unknown", "", None])
def test_the_model_fails_the_whole_batch_for_an_unknown_record(reported: str | None) -> None:
    function, batches = script(answer(reported))
    AwsMapping(function, is_bisecting=False).run(make_shard(2))
    assert batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("success", [None, {}, {"batchItemFailures": None}, {"batchItemFailures": []}])
def test_the_model_takes_a_null_or_empty_answer_for_success(success: Any) -> None:
    function, batches = script(success)
    AwsMapping(function).run(make_shard(2))
    assert batches == [[1, 2]]


def test_the_model_bisects_without_using_up_retries_then_gives_up() -> None:
    function, batches = script(*[FunctionError] * 4)
    mapping = AwsMapping(function, retries=1)
    mapping.run(make_shard(3))
    assert batches == [[1, 2, 3], [1], [1], [2, 3], [2], [3]]
    assert [(int(first[2:]), int(last[2:])) for first, last in mapping.destination] == [(1, 1)]


def test_the_model_gives_up_what_is_too_old() -> None:
    function, batches = script()
    mapping = AwsMapping(function, 1, find_age=lambda record: 7_200 if numbers([record]) == [1] else 0)
    mapping.run(make_shard(2))
    assert batches == [[2]]
    assert len(mapping.destination) == 1
