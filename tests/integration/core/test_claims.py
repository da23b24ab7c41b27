"""Claims: offsets outside of the topic, plans that later runs resume, late planners, and commits."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka import claim
from jobs.kafka.claim import Limits, holds_dead_letters, holds_results
from jobs.kafka.client import open_consumer
from jobs.kafka.transaction import GroupWriter
from tests.testkit.flow import Exporting, Pricing, Sinking
from tests.testkit.kafka import Raw, aborted, produce
from tests.testkit.rides import encode, keyed, result, ride
from tests.testkit.wait import DEADLINE_S

pytestmark = pytest.mark.timeout(120)


def rides(count: int, partition: int = -1) -> list[Raw]:
    return [keyed(ride())._replace(partition=partition) for _ in range(count)]


def results(count: int) -> list[Raw]:
    return [keyed(result()) for _ in range(count)]


def delete_up_to(pricing: Pricing, partition: int, offset: int) -> None:
    """Delete records, as retention does."""
    admin = AdminClient(pricing.config)
    for future in admin.delete_records([TopicPartition(pricing.source, partition, offset)]).values():
        future.result(DEADLINE_S)


# --- Offsets outside of the topic -----------------------------------------------------------------


def test_missing_offsets_with_existing_results_are_an_error(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(5))
    pricing.has_output = True
    with pytest.raises(OffsetsError, match=rf"{pricing.group} has no committed offsets on {pricing.source}"):
        pricing.stage()
    assert set(pricing.offsets().values()) == {None}
    pricing.set_offsets("beginning")
    assert pricing.run().results == 5


def test_output_is_not_checked_when_offsets_exist(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(5))
    pricing.run()
    pricing.has_output = True
    produce(pricing.config, pricing.source, rides(5))
    assert pricing.run().results == 5


def test_results_and_dead_letters_count_as_output(pricing: Pricing) -> None:
    def holds(topic: str) -> bool:
        with open_consumer(pricing.config, "looker") as client:
            return holds_results(pricing.config, client, topic)

    def holds_dead(source: str, dag_id: str = "dag_compute_cost") -> bool:
        with open_consumer(pricing.config, "looker") as client:
            return holds_dead_letters(pricing.config, client, pricing.dlq, source, dag_id)

    assert not holds(pricing.result)
    produce(pricing.config, pricing.source, [*rides(3), Raw(b"bad", b"k")])
    pricing.run()
    assert holds(pricing.result)
    assert holds_dead(pricing.source)
    assert not holds_dead(pricing.result), "a dead letter of rides_raw is nothing that came of rides_result"
    assert not holds_dead(pricing.source, "somebody_elses_connector")
    with pytest.raises(ConfigurationError, match=r"There is no topic 'nowhere'.*make topics"):
        holds("nowhere")


def test_aborted_messages_do_not_count_as_output(pricing: Pricing) -> None:
    """A killed first publish must not stop the next run with "its output exists"."""
    aborted(pricing.config, pricing.result, rides(5))
    with open_consumer(pricing.config, "looker") as client:
        assert not holds_results(pricing.config, client, pricing.result)


def test_the_number_of_messages_deleted_by_retention_is_reported(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(30, partition=2))
    pricing.set_offsets(dict.fromkeys(range(6), 0) | {2: 4})
    delete_up_to(pricing, 2, 17)
    with pytest.raises(OffsetsError, match=r"\[2\]: group .* committed offset 4, .*deleted the 13 messages up to 17"):
        pricing.stage()
    assert pricing.offsets()[2] == 4
    pricing.set_offsets("beginning")
    assert pricing.run().results == 13


def test_a_new_group_starts_at_the_first_kept_message(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(30, partition=2))
    delete_up_to(pricing, 2, 17)
    assert pricing.run().results == 13


def test_an_offset_after_the_end_of_the_topic_stops_the_run(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(3, partition=1))
    pricing.set_offsets({1: 4})
    with pytest.raises(OffsetsError, match=r"\[1\]: group .* committed or planned offset 4, but the topic ends at 3"):
        pricing.stage()
    assert pricing.offsets()[1] == 4


def test_a_missing_topic_stops_the_run(pricing: Pricing) -> None:
    pricing.source = "nowhere"
    with pytest.raises(ConfigurationError, match=r"There is no topic 'nowhere'"):
        pricing.stage()


@pytest.mark.parametrize("name", ["", "rides raw"])
def test_an_invalid_topic_name_is_a_configuration_error(pricing: Pricing, name: str) -> None:
    """An empty RESULT_TOPIC reaches this code through the operator, which retries it twice."""
    pricing.source = name
    with pytest.raises(ConfigurationError):
        pricing.stage()


@pytest.mark.parametrize("missing", ["result", "dlq"])
def test_a_missing_output_topic_stops_before_publishing(pricing: Pricing, missing: str) -> None:
    produce(pricing.config, pricing.source, [*rides(5), Raw(b"bad", b"k")])
    computed = pricing.computed()
    real = getattr(pricing, missing)
    setattr(pricing, missing, "nowhere")
    with pytest.raises(ConfigurationError, match="nowhere"):
        pricing.publish(computed)
    setattr(pricing, missing, real)
    assert pricing.results() == pricing.dead_letters() == []
    assert set(pricing.offsets().values()) == {None}
    assert pricing.publish(computed).results == 5


# --- Plans ----------------------------------------------------------------------------------------


def cut(manifest: Any) -> list[tuple[int, int, int, int]]:
    return [(chunk.partition, chunk.first, chunk.last, chunk.records) for chunk in manifest.chunks]


def test_a_plan_is_resumed_after_the_topic_has_grown(exporting: Exporting) -> None:
    produce(exporting.config, exporting.source, results(95))
    first = exporting.staged()
    at_plan = exporting.offsets()
    produce(exporting.config, exporting.source, results(70))
    exporting.limits = Limits(run_records=7, chunk_records=3, chunk_bytes=50)  # changed settings
    again = exporting.staged()
    assert (cut(again), again.claims) == (cut(first), first.claims)
    assert exporting.offsets() == at_plan == dict.fromkeys(range(6), 0), "the plan is committed with unchanged offsets"

    exporting.commit(again)
    assert exporting.offsets() == first.ends
    rest = exporting.staged()
    assert all(claim.start == first.ends[claim.partition] for claim in rest.claims)
    assert sum(claim.end - claim.start for claim in rest.claims) == 7


def test_chunk_borders_by_bytes_are_planned_too(exporting: Exporting) -> None:
    produce(exporting.config, exporting.source, [raw._replace(partition=3) for raw in results(40)])
    exporting.limits = Limits(run_records=1000, chunk_records=1000, chunk_bytes=2000)
    first = exporting.staged()
    assert len(first.chunks) > 3
    produce(exporting.config, exporting.source, [raw._replace(partition=3) for raw in results(40)])
    exporting.limits = Limits(run_records=1000, chunk_records=1000, chunk_bytes=10_000)
    assert cut(exporting.staged()) == cut(first)


def test_no_new_messages_make_no_plan(exporting: Exporting) -> None:
    assert exporting.stage() is None
    assert set(exporting.offsets().values()) == {None}


def test_a_planned_claim_of_markers_commits_its_end(exporting: Exporting) -> None:
    aborted(exporting.config, exporting.source, [Raw(b"x", partition=5)])
    staged = exporting.staged()
    assert staged.records == 0
    assert exporting.write(staged) == []
    exporting.commit(staged)
    assert exporting.offsets()[5] == 2
    assert exporting.stage() is None


def _before_planning(monkeypatch: pytest.MonkeyPatch, other: Any) -> None:
    """Let another worker act after a planner has read the topic and before it commits its plan."""
    real = claim.open_group_writer

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(claim, "open_group_writer", real)
        other()
        return real(*arguments)

    monkeypatch.setattr(claim, "open_group_writer", late)


def test_a_zombie_planner_cannot_move_offsets_back(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    produce(exporting.config, exporting.source, results(40))
    _before_planning(monkeypatch, exporting.run)
    with pytest.raises(OffsetsError, match=f"Another worker of group {exporting.group}"):
        exporting.stage()
    assert sum(offset or 0 for offset in exporting.offsets().values()) == 40
    assert exporting.stage() is None


def test_a_zombie_planner_adopts_the_newer_plan(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    produce(exporting.config, exporting.source, results(40))
    newer = []

    def other() -> None:
        produce(exporting.config, exporting.source, results(40))
        newer.append(exporting.staged())

    _before_planning(monkeypatch, other)
    late = exporting.staged()
    assert cut(late) == cut(newer[0])
    assert late.records == 80


def test_a_zombie_planner_in_its_transaction_is_fenced(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    produce(exporting.config, exporting.source, results(40))
    committed = GroupWriter.read_committed

    def asleep(writer: GroupWriter) -> Any:
        offsets = committed(writer)
        monkeypatch.setattr(GroupWriter, "read_committed", committed)
        exporting.run()
        return offsets

    monkeypatch.setattr(GroupWriter, "read_committed", asleep)
    with pytest.raises(ServiceUnavailableError, match="newer worker"):
        exporting.stage()
    assert sum(offset or 0 for offset in exporting.offsets().values()) == 40


# --- CommitOffsets --------------------------------------------------------------------------------


def test_offsets_move_only_from_the_start_of_the_claim(sinking: Sinking) -> None:
    produce(sinking.config, sinking.source, [Raw(encode(result()), b"k", partition=1) for _ in range(20)])
    written = sinking.write()
    sinking.set_offsets({1: 7})
    with pytest.raises(OffsetsError, match=r"\[1\]: group .* is at 7, not at 0 where this run's claim starts"):
        sinking.commit(*written)
    assert sinking.offsets()[1] == 7


def test_a_late_commit_has_no_effect(sinking: Sinking) -> None:
    produce(sinking.config, sinking.source, [Raw(b"no result", b"k", partition=1)] * 3)
    late = sinking.write()
    assert sinking.commit(*sinking.write()) == {"invalid_result": 3}
    produce(sinking.config, sinking.source, [Raw(b"no result", b"k", partition=1)] * 2)
    assert sinking.run() == {"invalid_result": 2}
    assert sinking.offsets()[1] == 5
    assert sinking.commit(*late) == {}
    assert sinking.offsets()[1] == 5
    assert len(sinking.dead_letters()) == 5


def test_a_fenced_commit_writes_no_dead_letters(sinking: Sinking, monkeypatch: pytest.MonkeyPatch) -> None:
    produce(sinking.config, sinking.source, [Raw(b"no result", b"k", partition=1)] * 3)
    zombie = sinking.write()
    send = GroupWriter.send

    def asleep(writer: GroupWriter, *arguments: Any) -> None:
        monkeypatch.setattr(GroupWriter, "send", send)
        sinking.commit(*zombie)
        send(writer, *arguments)

    monkeypatch.setattr(GroupWriter, "send", asleep)
    with pytest.raises(ServiceUnavailableError, match="newer worker"):
        sinking.commit(*zombie)
    assert len(sinking.dead_letters()) == 3
    assert sinking.offsets()[1] == 3
