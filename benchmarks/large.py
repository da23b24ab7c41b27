"""Measures the memory of Spark with large messages: `python -m benchmarks.large`.

The peak must not depend on the number of messages, because batches of Arrow are limited by bytes, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.table import Column, Table

from benchmarks.candidates import Candidate, compete, make_spark_runner, name_both
from benchmarks.data import create, fill, read_messages
from benchmarks.measure import FailedError
from benchmarks.stacks import make_console, start_stack
from jobs.clients import make_kafka_config
from jobs.kafka.client import QUIET, Config
from jobs.rides.vertical import RidesSettings

ENGINES = ("arrow", "exactly-once")
_TIMEOUT_S = 60
_RIDES = 1000
# The most messages that the producer holds.
_QUEUED = 50

console = make_console()


def main(
    *,
    messages: Annotated[
        int, typer.Option(help="Messages of the larger topic; the other has a tenth.", min=10)
    ] = 10_000,
    size: Annotated[int, typer.Option(help="Bytes of a message.", min=1_000, max=1_000_000)] = 1_000_000,
    noise: Annotated[
        bool, typer.Option("--noise", help="Fill the messages with random text, which does not compress.")
    ] = False,
    engine: Annotated[list[str] | None, typer.Option(help=f"Repeatable: {', '.join(ENGINES)}. Default: all.")] = None,
    cores: Annotated[int, typer.Option(help="Cores of Spark.", min=1)] = 2,
    memory: Annotated[str, typer.Option(help="Heap of Java.")] = "1g",
) -> None:
    """Price large rides with Spark, and print the peak memory of Java and the Python workers.

    With --noise, the topics need the disk space of all messages. Without, they need next to nothing, but one answer of
    the broker holds hundreds of messages.
    """
    engines = engine or ENGINES
    if unknown := sorted(set(engines) - set(ENGINES)):
        raise typer.BadParameter(f"unknown: {', '.join(unknown)}; use {', '.join(ENGINES)}")
    table = Table("engine", *(Column(name, justify="right") for name in ("messages", "peak MiB", "ratio")))
    with start_stack(["kafka"], console) as settings:
        config = make_kafka_config(settings)
        fill(settings, _RIDES, faulty=0)
        lists = read_messages(config, settings.raw_topic)
        rides = [message.value() or b"" for batch in lists for message in batch]
        sources = {count: f"large-{count}" for count in (messages // 10, messages)}
        for count, source in sources.items():
            send(config, source, make_large_messages(rides, count, size, is_noise=noise))
        for name in engines:
            # The peak of a process that has not priced the topic before.
            work = make_spark_runner(name, cores, "--memory", memory, "--cold")
            candidate = Candidate(f"spark-{name}-{cores}", "", work, targets=name_both)
            peaks = [_measure_peak(settings, candidate, source, count) for count, source in sources.items()]
            for count, peak in zip(sources, peaks, strict=True):
                table.add_row(candidate.name, f"{count:,}", f"{peak:,.0f}", f"{peak / peaks[0]:.2f}")
    console.print(table)
    console.print(f"Messages of {size:,} bytes, {'random' if noise else 'repetitive'}; Java's heap: {memory}")


def _measure_peak(settings: RidesSettings, candidate: Candidate, source: str, count: int) -> float:
    """The peak in MiB.

    Raises:
        FailedError: the candidate failed, or the number of messages differs.
    """
    made = compete(settings, candidate, source, count, f"{source}-{candidate.name}", keep=False)
    if made.messages != count:
        raise FailedError(f"{candidate.name}: {count} messages went in, {made.messages} messages came out")
    return made.peak_mib


def send(config: Config, topic: str, messages: Iterable[bytes]) -> None:
    """Create a topic and send messages of at most 1 MB.

    Raises:
        KafkaException: a message was not delivered.
    """
    create(config, [topic])
    producer = Producer(
        {
            **QUIET,
            **config,
            "compression.type": "lz4",
            "message.max.bytes": 2 * 2**20,
        }
    )

    def check(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            raise KafkaException(error)

    for value in messages:
        while len(producer) >= _QUEUED:
            producer.poll(1)
        producer.produce(topic, value, on_delivery=check)
        producer.poll(0)
    if producer.flush(_TIMEOUT_S):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic}: not all messages were delivered"))


def make_large_messages(rides: list[bytes], count: int, size: int, *, is_noise: bool) -> Iterator[bytes]:
    """Rides with an unknown field, so that each is about `size` bytes long."""
    rng = random.Random(1)
    for ride in islice(cycle(rides), count):
        left = size - len(ride)
        text = rng.randbytes(left // 2).hex().encode() if is_noise else b"-" * left
        yield ride[:-1] + b',"note":"' + text + b'"}'


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
