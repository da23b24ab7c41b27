"""ConsumeKafka of the shop: claims the messages that the database has not loaded."""

from __future__ import annotations

from jobs.kafka.claim import Claimed, Limits
from jobs.kafka.offsets import GroupReader
from jobs.shop.vertical import ShopSettings
from operators.consume_kafka_operator import ConsumeKafkaOperator


class ConsumeTransactionsOperator(ConsumeKafkaOperator):
    """Stages the messages after the positions in raw.load_offsets. First repairs what a killed run left undone."""

    def make_claim(self, reader: GroupReader, settings: ShopSettings) -> Claimed:
        from jobs.shop.dead_letters import is_behind, publish_refusals
        from jobs.shop.load import claim_messages, open_loader

        with open_loader(settings) as connection:
            if is_behind(self.kafka, reader, connection):
                repaired = publish_refusals(
                    self.kafka,
                    connection,
                    topic=self.topic,
                    group=self.group,
                    dlq_topic=self.dlq_topic,
                    dag_id=self.dag_id,
                    is_repair=True,
                )
                self.log.warning(
                    "Set group %s to the database's positions %s, published %d dead letters: a run was killed, or the "
                    "group was reset",
                    self.group,
                    repaired.offsets,
                    repaired.refused.total(),
                )
            return claim_messages(self.kafka, reader, connection, Limits.from_settings(settings), settings.poll_wait_s)
