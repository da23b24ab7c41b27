"""The dashboard Kafka: the broker, its topics, and the groups that read them."""

from __future__ import annotations

from infra.grafana.builder import Dashboard, Panel, Prom, Row, Variable, per_second

_NO_JMX = "The broker's JMX agent does not answer."
_NO_EXPORTER = "The exporter of topics and groups does not answer."
_TOPIC = '{topic=~"$topic"}'
_GROUP = '{topic=~"$topic", consumergroup=~"$consumergroup"}'


def _stat(title: str, about: str, expr: str, *, alarm: float, low_is_bad: bool = False, empty: str = _NO_JMX) -> Panel:
    return Panel(
        kind="stat",
        title=title,
        about=about,
        queries=[Prom(expr)],
        empty=empty,
        alarm=alarm,
        low_is_bad=low_is_bad,
        width=3,
        height=4,
    )


DASHBOARD = Dashboard(
    name="kafka",
    about="The broker, its topics, in-sync replicas, lag and open transactions.",
    variables=(
        Variable("topic", "kafka_topic_partition_current_offset"),
        Variable("consumergroup", "kafka_consumergroup_current_offset"),
    ),
    rows=(
        Row(
            "Now",
            (
                _stat(
                    "Brokers",
                    "Brokers in the cluster.",
                    "max(kafka_brokers)",
                    alarm=1,
                    low_is_bad=True,
                    empty=_NO_EXPORTER,
                ),
                _stat(
                    "Active controllers",
                    "Must be 1: without a controller no partition gets a new leader.",
                    "sum(kafka_controller_kafkacontroller_activecontrollercount)",
                    alarm=1,
                    low_is_bad=True,
                ),
                _stat(
                    "Fenced brokers",
                    "Registered brokers whose heartbeats are missing.",
                    "max(kafka_controller_kafkacontroller_fencedbrokercount)",
                    alarm=1,
                ),
                _stat(
                    "Offline partitions",
                    "Partitions without a leader: nobody can write to them or read them.",
                    "sum(kafka_controller_kafkacontroller_offlinepartitionscount)",
                    alarm=1,
                ),
                _stat(
                    "Under-replicated",
                    "Partitions with fewer replicas in sync than declared.",
                    "sum(kafka_server_replicamanager_underreplicatedpartitions)",
                    alarm=1,
                ),
                _stat(
                    "Below min.insync",
                    "Partitions that refuse writes with acks=all.",
                    "sum(kafka_server_replicamanager_underminisrpartitioncount)",
                    alarm=1,
                ),
                _stat(
                    "Metadata errors",
                    "Faults in the controller's log of metadata.",
                    "sum(kafka_controller_kafkacontroller_metadataerrorcount)",
                    alarm=1,
                ),
                _stat(
                    "Held back",
                    "Offsets behind open transactions, which no reader of committed messages sees.",
                    "sum(datastream_topic_partition_held_back)",
                    alarm=10_000,
                    empty=_NO_EXPORTER,
                ),
            ),
        ),
        Row(
            "Broker",
            (
                Panel(
                    title="Bytes in and out",
                    about="Bytes per second that clients write and read.",
                    queries=[
                        Prom(
                            per_second(f"kafka_server_brokertopicmetrics_bytes{way}persec", "instance"),
                            f"{way}: {{{{instance}}}}",
                        )
                        for way in ("in", "out")
                    ],
                    empty=_NO_JMX,
                    unit="Bps",
                ),
                Panel(
                    title="Time of requests",
                    about="Milliseconds from a request to its answer. A fetch waits for data up to 500 ms.",
                    queries=[
                        Prom(
                            f"max by (request) (kafka_network_requestmetrics_totaltimems_{name})",
                            f"{{{{request}}}}: {title}",
                        )
                        for name, title in (("mean", "mean"), ("99thpercentile", "99th percentile"))
                    ],
                    empty=_NO_JMX,
                    unit="ms",
                ),
                Panel(
                    title="Replicas that leave and join the set in sync",
                    about="With one broker always 0. Shrinking without growing again: a broker is down or too slow.",
                    queries=[
                        Prom(per_second(f"kafka_server_replicamanager_isr{name}spersec"), title)
                        for name, title in (("shrink", "leave"), ("expand", "join"))
                    ],
                    empty=_NO_JMX,
                    unit="cps",
                ),
                Panel(
                    title="Messages in",
                    about="Messages per second that the broker appends, all topics.",
                    queries=[
                        Prom(per_second("kafka_server_brokertopicmetrics_messagesinpersec", "instance"), "{{instance}}")
                    ],
                    empty=_NO_JMX,
                    unit="cps",
                ),
            ),
        ),
        Row(
            "Topics",
            (
                Panel(
                    title="Offsets written by topic",
                    about="Offsets per second. Each transaction adds one offset to each of its partitions.",
                    queries=[Prom(per_second(f"kafka_topic_partition_current_offset{_TOPIC}", "topic"), "{{topic}}")],
                    empty=_NO_EXPORTER,
                    unit="cps",
                ),
                Panel(
                    title="Held back by open transactions",
                    about="High watermark minus last stable offset. If it stays, a producer hangs in a transaction.",
                    queries=[Prom(f"sum by (topic) (datastream_topic_partition_held_back{_TOPIC})", "{{topic}}")],
                    empty=_NO_EXPORTER,
                ),
                Panel(
                    kind="table",
                    title="Partitions",
                    about="Stored: newest minus oldest offset.",
                    queries=[
                        Prom(f"max by (topic, partition) (kafka_topic_partition_in_sync_replica{_TOPIC})", "in sync"),
                        Prom(f"max by (topic, partition) (kafka_topic_partition_replicas{_TOPIC})", "replicas"),
                        Prom(f"max by (topic, partition) (kafka_topic_partition_leader{_TOPIC})", "leader"),
                        Prom(
                            f"max by (topic, partition) (kafka_topic_partition_current_offset{_TOPIC} - "
                            f"kafka_topic_partition_oldest_offset{_TOPIC})",
                            "stored",
                        ),
                    ],
                    empty=_NO_EXPORTER,
                    height=10,
                ),
                Panel(
                    title="Under-replicated partitions by topic",
                    about="With one broker always 0.",
                    queries=[
                        Prom(f"sum by (topic) (kafka_topic_partition_under_replicated_partition{_TOPIC})", "{{topic}}")
                    ],
                    empty=_NO_EXPORTER,
                    warn=1,
                    height=10,
                ),
            ),
        ),
        Row(
            "Consumer groups",
            (
                Panel(
                    title="Lag by partition",
                    about="Messages that a group has not read.",
                    queries=[
                        Prom(
                            f"clamp_min(kafka_consumergroup_lag{_GROUP}, 0)",
                            "{{consumergroup}} {{topic}}[{{partition}}]",
                        )
                    ],
                    empty=_NO_EXPORTER,
                ),
                Panel(
                    title="Lag in seconds",
                    about="The age of the oldest message that a group has not read.",
                    queries=[Prom(f"datastream_consumergroup_lag_seconds{_GROUP}", "{{consumergroup}} {{topic}}")],
                    empty=_NO_EXPORTER,
                    unit="s",
                ),
                Panel(
                    title="Offsets committed",
                    about="Offsets per second that a group has passed. The jobs commit once for each run or chunk.",
                    queries=[
                        Prom(
                            f"sum by (consumergroup, topic) (rate(kafka_consumergroup_current_offset{_GROUP}[5m]))",
                            "{{consumergroup}} {{topic}}",
                        )
                    ],
                    empty=_NO_EXPORTER,
                    unit="cps",
                ),
                Panel(
                    title="Members",
                    about="Usually 0: the jobs assign partitions themselves, and commit without being members.",
                    queries=[
                        Prom(
                            'max by (consumergroup) (kafka_consumergroup_members{consumergroup=~"$consumergroup"})',
                            "{{consumergroup}}",
                        )
                    ],
                    empty=_NO_EXPORTER,
                ),
            ),
        ),
    ),
)
