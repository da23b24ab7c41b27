"""CommitOffsets' work: commit the offsets of a claim after the sinks have written it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from jobs.errors import OffsetsError
from jobs.files import read_batches
from jobs.kafka.client import Config
from jobs.kafka.dead_letter import Origin
from jobs.kafka.publish import PIECE_RECORDS, send_dead_letters
from jobs.kafka.staged import Manifest
from jobs.kafka.transaction import open_group_writer
from jobs.settings import check_distinct


class Rejects(msgspec.Struct, frozen=True):
    """The rejects of one task. `stage` is the task's stage in the terms of Kafka Connect."""

    manifest: Manifest
    task_id: str
    stage: str


def commit_offsets(
    config: Config, manifest: Manifest, rejects: Sequence[Rejects] = (), dlq_topic: str = "", dag_id: str = ""
) -> Counter[str]:
    """Publish the rejects as dead letters and commit the claim's ends, in one transaction.

    Args:
        rejects: the rejects of each task. Without them, dlq_topic and dag_id are not needed.

    Returns:
        The number of rejects by reason; empty if another worker has already committed this claim.

    Raises:
        OffsetsError: the committed offsets are neither the claim's start nor past its end, another client committed
            with this group id, or the topic was recreated.
        ServiceUnavailableError: a broker is down, or a newer worker has taken over; nothing was committed.
    """
    counts: Counter[str] = Counter()
    count = sum(rejected.manifest.rejects for rejected in rejects)
    # All rejects are in one transaction. After a kill, the group waits until the transaction times out.
    with open_group_writer(
        config, manifest.group, manifest.topic, count, transaction_timeout_s=min(20 + count // 5_000, 900)
    ) as writer:
        if rejects:
            check_distinct(manifest.topic, dlq_topic)
            writer.check_topics(dlq_topic)
        manifest.check_topic(writer.topic_id)
        offsets = writer.read_offsets()
        if manifest.is_passed_by(offsets):
            return counts
        for claim in manifest.claims:
            if offsets[claim.partition] not in (None, claim.start):
                raise OffsetsError(
                    f"{manifest.topic}[{claim.partition}]: group {manifest.group} is at {offsets[claim.partition]}, "
                    f"not at {claim.start} where this run's claim starts. Nothing was committed. Clear the run from "
                    "ConsumeKafka on."
                )
        with writer.transaction(manifest.ends):
            for rejected in rejects:
                origins = {
                    claim.partition: Origin(manifest.topic, claim.partition, dag_id, rejected.task_id, rejected.stage)
                    for claim in manifest.claims
                }
                for batch in read_batches(rejected.manifest.rejects_url) if rejected.manifest.rejects_url else ():
                    for start in range(0, len(batch), PIECE_RECORDS):
                        piece = batch.slice(start, PIECE_RECORDS)
                        row_origins = map(origins.__getitem__, piece["partition"].to_pylist())
                        send_dead_letters(writer, dlq_topic, piece, row_origins)
                        writer.free_delivered()
                        counts.update(piece["reason"].to_pylist())
    return counts
