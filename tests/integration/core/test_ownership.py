"""Foreign commits in a group, recreated topics and lost offsets do not lose rides."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local.environment import export_settings
from jobs.errors import ConfigurationError, OffsetsError
from jobs.kafka.claim import Plan
from jobs.kafka.lag import read_lag
from jobs.kafka.offsets import name_kept_group, open_group_reader, read_committed_offsets, read_group_offsets
from jobs.kafka.set_offsets import preview_moves, set_offsets
from jobs.settings import ROOT
from tests.testkit.flow import Exporting, Flow, Pipeline, Pricing
from tests.testkit.kafka import Raw, commit, produce
from tests.testkit.rides import keyed, result, ride
from tests.testkit.wait import DEADLINE_S, until

pytestmark = pytest.mark.timeout(120)


def rides(count: int, partition: int = -1) -> list[Raw]:
    return [keyed(ride())._replace(partition=partition) for _ in range(count)]


def commit_as_foreign_client(flow: Flow, offsets: dict[int, int]) -> None:
    """Commit with the group's id, as a copied connector or a console consumer does."""
    commit(flow.config, flow.group, flow.source, offsets)


def forget(flow: Flow, *groups: str) -> None:
    """Delete groups, as expiry does."""
    admin = AdminClient(flow.config)  # must live until the answers are there
    for answer in admin.delete_consumer_groups(list(groups)).values():
        answer.result(DEADLINE_S)


def make_again(flow: Flow, topic: str, partitions: int = 6) -> None:
    """Delete a topic and create it again."""
    admin = AdminClient(flow.config)
    admin.delete_topics([topic])[topic].result(DEADLINE_S)

    def is_made() -> bool:
        # The broker may still be deleting the old one.
        answer = admin.create_topics([NewTopic(topic, partitions, 1)])[topic]
        return answer.exception(DEADLINE_S) is None

    until(is_made, f"topic {topic}")
    until(lambda: len(admin.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions) == partitions, topic)


def run_on(pricing: Pricing) -> int:
    """Price all messages; returns the number of results."""
    total = 0
    while (staged := pricing.stage()) is not None:
        total += pricing.publish(pricing.compute(staged)).results
    return total


# --- Foreign commits ------------------------------------------------------------------------------


def test_a_foreign_commit_is_rejected_and_can_be_reset(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(10, partition=2))
    pricing.run()
    produce(pricing.config, pricing.source, rides(40, partition=2))
    commit_as_foreign_client(pricing, {2: 50})
    refusal = rf"{pricing.source}\[2\]: group {pricing.group} is at 50, but this pipeline committed 10"
    with pytest.raises(OffsetsError, match=rf"{refusal}.*make offsets GROUP={pricing.group} TO=kept"):
        pricing.stage()
    with pytest.raises(OffsetsError, match=refusal):
        read_lag(pricing.config, pricing.source, pricing.group)
    assert len(pricing.results()) == 10

    wanted = preview_moves(pricing.config, pricing.source, pricing.group, "kept", topic_ids=pricing.topic_ids)
    assert (wanted.skipped, wanted.repeated, wanted.is_certain) == (0, 0, True)
    set_offsets(pricing.config, wanted, pricing.topic_ids)
    assert pricing.offsets()[2] == 10
    assert run_on(pricing) == 40
    assert len(pricing.results()) == 50


def test_a_foreign_commit_during_a_run_skips_nothing(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(10, partition=2))
    pricing.run()
    produce(pricing.config, pricing.source, rides(40, partition=2))
    computed = pricing.computed()
    commit_as_foreign_client(pricing, {2: 50})
    with pytest.raises(OffsetsError, match="another client commits with this group id"):
        pricing.publish(computed)
    assert len(pricing.results()) == 10
    pricing.set_offsets("kept")
    assert pricing.publish(computed).results == 40


def test_a_foreign_commit_in_the_first_run_of_a_new_group_skips_nothing(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(40, partition=2))
    computed = pricing.computed()
    commit_as_foreign_client(pricing, {2: 20})
    with pytest.raises(OffsetsError, match=r"is at 20, but this pipeline committed no offset.*TO=beginning"):
        pricing.publish(computed)
    pricing.set_offsets("beginning")
    assert pricing.publish(computed).results == 40


def test_a_foreign_commit_in_a_new_group_is_not_adopted(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(40, partition=2))
    assert pricing.stage() is not None
    commit_as_foreign_client(pricing, {2: 40})
    with pytest.raises(OffsetsError, match=r"is at 40, but this pipeline committed no offset.*TO=beginning"):
        pricing.stage()
    end = preview_moves(pricing.config, pricing.source, pricing.group, "end", topic_ids=pricing.topic_ids)
    assert (end.skipped, end.is_certain) == (40, False), "the foreign position proves nothing"
    pricing.set_offsets("beginning")
    assert run_on(pricing) == 40


def test_a_foreign_commit_of_the_same_offset_does_not_lose_the_plan(exporting: Exporting) -> None:
    """Without the plan, chunks would have other borders, and Parquet would hold rows under two names."""
    produce(exporting.config, exporting.source, [keyed(result())._replace(partition=1) for _ in range(35)])
    first = exporting.staged()
    produce(exporting.config, exporting.source, [keyed(result())._replace(partition=1) for _ in range(35)])
    commit_as_foreign_client(exporting, {1: 0})
    with pytest.raises(OffsetsError, match=r"\[1\]: group .* is at 0, but its metadata is not"):
        exporting.stage()
    exporting.set_offsets("kept")
    assert exporting.staged().claims == first.claims


def test_every_commit_is_kept_with_its_writer_topic_and_plan(exporting: Exporting) -> None:
    produce(exporting.config, exporting.source, [keyed(result())._replace(partition=1) for _ in range(35)])
    staged = exporting.staged()
    with open_group_reader(exporting.config, exporting.source, exporting.group) as reader:
        committed_offsets = reader.read_unchecked()
        assert committed_offsets == reader.read_kept()
        metadata = msgspec.json.decode(committed_offsets[1].metadata)
        assert (metadata["v"], metadata["writer"], metadata["topic_id"]) == (1, "datastream", staged.topic_id)
        assert committed_offsets[1].decode_plan(Plan) == Plan(
            35, exporting.limits.chunk_records, exporting.limits.chunk_bytes
        )
    exporting.commit(staged)
    with open_group_reader(exporting.config, exporting.source, exporting.group) as reader:
        committed_offsets = reader.read_unchecked()
        assert committed_offsets == reader.read_kept()
        assert (committed_offsets[1].offset, committed_offsets[1].decode_plan(Plan)) == (35, None)
    assert not exporting.backlog().is_begun


# --- Offsets of earlier versions ------------------------------------------------------------------


def test_offsets_of_an_earlier_version_are_adopted_once(pricing: Pricing, caplog: pytest.LogCaptureFixture) -> None:
    produce(pricing.config, pricing.source, rides(40, partition=2))
    commit_as_foreign_client(pricing, {2: 30})
    with caplog.at_level(logging.WARNING):
        assert run_on(pricing) == 10
    assert caplog.text.count("Adopted the offsets of group") == 1
    assert "{2: 30}" in caplog.text
    assert read_group_offsets(pricing.config, pricing.source, name_kept_group(pricing.group))[2] == 40


def test_a_plan_of_an_earlier_version_is_resumed(exporting: Exporting) -> None:
    produce(exporting.config, exporting.source, [keyed(result())._replace(partition=1) for _ in range(35)])
    client = Consumer({**exporting.config, "group.id": exporting.group, "enable.auto.commit": False})
    plan = '{"end":20,"chunk_records":7,"chunk_bytes":1000000}'
    client.commit(offsets=[TopicPartition(exporting.source, 1, 0, metadata=plan)], asynchronous=False)
    client.close()
    staged = exporting.staged()
    assert (staged.ends, staged.chunk_records) == ({1: 20}, 7)
    exporting.commit(staged)
    assert exporting.offsets()[1] == 20


def test_metadata_of_another_tool_is_never_adopted(exporting: Exporting) -> None:
    produce(exporting.config, exporting.source, [keyed(result())])
    client = Consumer({**exporting.config, "group.id": exporting.group, "enable.auto.commit": False})
    offsets = [TopicPartition(exporting.source, 1, 0, metadata="by hand")]
    client.commit(offsets=offsets, asynchronous=False)
    with pytest.raises(OffsetsError, match=r"Another tool wrote the metadata.*'by hand'"):
        exporting.stage()
    assert read_committed_offsets(client, exporting.source, [1])[1].metadata == "by hand"
    client.close()


# --- Lost topics and offsets ----------------------------------------------------------------------


def test_a_recreated_topic_is_distinguished_from_expired_offsets(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(50))
    pricing.run()
    pricing.has_output = True
    make_again(pricing, pricing.source)
    produce(pricing.config, pricing.source, rides(200))
    remade = rf"{pricing.source} was deleted and recreated since group {pricing.group} read it"
    with pytest.raises(OffsetsError, match=rf"{remade}.*make offsets GROUP={pricing.group} TO=beginning"):
        pricing.stage()
    beginning, end = (
        preview_moves(pricing.config, pricing.source, pricing.group, to, topic_ids=pricing.topic_ids)
        for to in ("beginning", "end")
    )
    assert (beginning.skipped, beginning.repeated, beginning.is_certain) == (0, 0, True)
    assert (end.skipped, end.repeated) == (200, 0), "the old remedy left these out"
    with pytest.raises(OffsetsError, match="There is no copy of the offsets"):
        preview_moves(pricing.config, pricing.source, pricing.group, "kept", topic_ids=pricing.topic_ids)
    set_offsets(pricing.config, beginning, pricing.topic_ids)
    assert run_on(pricing) == 200


def test_a_topic_recreated_during_a_run_is_rejected(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(50))
    computed = pricing.computed()
    make_again(pricing, pricing.source)
    with pytest.raises(OffsetsError, match="was deleted and recreated since this run's claim"):
        pricing.publish(computed)
    assert pricing.results() == []
    assert set(pricing.offsets().values()) == {None}


def test_deleted_offsets_are_restored_from_their_copy(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(50, partition=2))
    pricing.run()
    produce(pricing.config, pricing.source, rides(7, partition=2))
    pricing.has_output = True
    forget(pricing, pricing.group)
    with pytest.raises(OffsetsError, match=r"is at no offset, but this pipeline committed \d+.*deleted.*TO=kept"):
        pricing.stage()
    pricing.set_offsets("kept")
    assert run_on(pricing) == 7


def test_a_deleted_copy_is_recreated(pricing: Pricing, caplog: pytest.LogCaptureFixture) -> None:
    """The copy may look like garbage in Kafka-UI."""
    produce(pricing.config, pricing.source, rides(50, partition=2))
    pricing.run()
    produce(pricing.config, pricing.source, rides(7, partition=2))
    forget(pricing, name_kept_group(pricing.group))
    with caplog.at_level(logging.WARNING):
        assert run_on(pricing) == 7
    assert "Adopted the offsets" in caplog.text
    assert read_group_offsets(pricing.config, pricing.source, name_kept_group(pricing.group))[2] is not None


def test_a_lost_topic_id_is_stored_again(pricing: Pricing) -> None:
    """STAGING_URL was emptied, or it is now a folder with the ids of another stack."""
    produce(pricing.config, pricing.source, rides(50))
    pricing.run()
    produce(pricing.config, pricing.source, rides(7))
    pricing.topic_ids.remember(pricing.group, pricing.source, "of-another-stack")
    assert run_on(pricing) == 7
    assert pricing.topic_ids.read(pricing.group, pricing.source) != "of-another-stack"


def test_expired_offsets_with_an_expired_copy_are_an_error(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(50))
    pricing.run()
    pricing.has_output = True
    forget(pricing, pricing.group, name_kept_group(pricing.group))
    with pytest.raises(OffsetsError, match=r"expired or were deleted with their copy"):
        pricing.stage()
    end = preview_moves(pricing.config, pricing.source, pricing.group, "end", topic_ids=pricing.topic_ids)
    assert (end.skipped, end.is_certain) == (50, False)
    set_offsets(pricing.config, end, pricing.topic_ids)
    assert pricing.stage() is None


# --- make offsets ---------------------------------------------------------------------------------


def test_skipped_and_repeated_messages_are_counted(pricing: Pricing) -> None:
    produce(pricing.config, pricing.source, rides(20, partition=2))
    pricing.run()
    produce(pricing.config, pricing.source, rides(5, partition=4))

    def moved(to: str) -> tuple[int, int, bool]:
        change = preview_moves(pricing.config, pricing.source, pricing.group, to, topic_ids=pricing.topic_ids)
        return change.skipped, change.repeated, change.is_certain

    assert moved("kept") == (0, 0, True)
    assert moved("beginning") == (0, 20, True)
    assert moved("end") == (5, 0, True)
    assert moved("2000-01-01T00:00:00Z") == (0, 20, True)
    assert moved("2100-01-01T00:00:00+01:00") == (5, 0, True)
    for wrong in ("", "start", "12", "2026-01-05", "2026-01-05T08:00:00"):
        with pytest.raises(ConfigurationError, match="use kept, beginning, end, or a time with an offset"):
            moved(wrong)


def test_a_group_that_has_moved_since_the_check_is_not_changed(pricing: Pricing) -> None:
    """Hours may pass between the question and the answer."""
    produce(pricing.config, pricing.source, rides(20))
    beginning = preview_moves(pricing.config, pricing.source, pricing.group, "beginning", topic_ids=pricing.topic_ids)
    assert beginning.repeated == 20
    pricing.run()
    with pytest.raises(OffsetsError, match="has moved, since these messages were counted"):
        set_offsets(pricing.config, beginning, pricing.topic_ids)
    assert run_on(pricing) == 0


def test_a_discarded_plan_counts_as_repeated(exporting: Exporting) -> None:
    """Its objects may exist already, and other chunk borders would give them other names."""
    produce(exporting.config, exporting.source, [keyed(result())._replace(partition=1) for _ in range(35)])
    exporting.staged()
    beginning, kept = (
        preview_moves(exporting.config, exporting.source, exporting.group, to, topic_ids=exporting.topic_ids)
        for to in ("beginning", "kept")
    )
    assert (beginning.repeated, beginning.discarded_plans) == (35, 6)
    assert (kept.repeated, kept.discarded_plans) == (0, 0)


def test_counted_results_exclude_markers(exporting: Exporting, pricing: Pricing) -> None:
    """Offsets would count the marker of each transaction as a message."""
    pricing = replace(pricing, result=exporting.source)
    for _ in range(3):
        produce(pricing.config, pricing.source, rides(5))
        pricing.run()
    exporting.run()
    beginning = preview_moves(
        exporting.config, exporting.source, exporting.group, "beginning", topic_ids=exporting.topic_ids
    )
    assert beginning.repeated == 15


@pytest.fixture
def command(pipeline: Pipeline) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m jobs` on the topics of the pipeline."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        settings = pipeline.settings.model_copy(update={"staging_url": pipeline.pricing.folder.url})
        variables = {**os.environ, **export_settings(settings), "COLUMNS": "200"} | changes
        return subprocess.run(
            [sys.executable, "-m", "jobs", *arguments],
            cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=100, input="n\n",
        )  # fmt: skip

    return run


def test_the_offsets_command_shows_what_it_would_skip_and_asks(
    pipeline: Pipeline, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pipeline.send(good=12)
    pipeline.pricing.run()
    pipeline.send(good=7)
    asked = command("offsets", "dag_compute_cost", "end")
    assert "would skip 7 messages that it has not read, and repeat 0" in asked.stdout
    assert asked.returncode == 1
    assert read_lag(pipeline.stack.kafka, pipeline.pricing.source, "dag_compute_cost").offsets == 7, "the answer was no"

    commit_as_foreign_client(pipeline.pricing, dict.fromkeys(range(6), 3))
    refused = command("lag", "--once")
    assert refused.returncode == 3
    assert "make offsets GROUP=dag_compute_cost TO=kept" in refused.stderr
    verdict = command("ledger")
    assert (verdict.returncode, "another client commits" in verdict.stderr) == (3, True)

    done = command("offsets", "dag_compute_cost", "kept", "--yes")
    assert done.returncode == 0, done.stderr
    assert "would skip 0 messages that it has not read, and repeat 0" in done.stdout
    assert read_lag(pipeline.stack.kafka, pipeline.pricing.source, "dag_compute_cost").offsets == 7
    abandoned = command("offsets", "reprocess", "end")
    assert (abandoned.returncode, "accepts only TO=kept" in abandoned.stderr) == (3, True)
    copy = command("offsets", "dag_load_transactions", "end")
    assert (copy.returncode, "only follows a position in another system" in copy.stderr) == (3, True)
    unknown = command("offsets", "nobody", "end")
    assert unknown.returncode == 3
    assert "dag_index_and_export, dag_index_and_export.PutGCP, dag_clean_flights" in unknown.stderr
