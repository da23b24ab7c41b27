"""The command line: `python -m jobs --help`. The Makefile's targets call it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from jobs import airflow_api
from jobs import settings as configuration
from jobs.clients import elasticsearch_admin, elasticsearch_client, kafka_config, storage_client
from jobs.errors import CANNOT_BE_TOLD, ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.kafka import topics as kafka_topics
from jobs.kafka.dead_letter import error_text, headers_of, times_replayed
from jobs.kafka.open_transactions import explained
from jobs.settings import ROOT, Settings

# What takes long to load (pyarrow, the clients of the sinks) is imported by the commands that need it.
if TYPE_CHECKING:
    from jobs.kafka.offsets import HeldBack
    from jobs.kafka.set_offsets import Moves
    from jobs.kafka.topic_ids import TopicIds
    from jobs.rides.ops.ledger import Lag, Ledger

app = typer.Typer(
    help="Look after the stack: topics, lag, ledger, dead letters, one ride's way, the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

# Without any progress for so long, something is wrong that waiting does not mend.
_STALLED_S = 180


@app.command()
def topics(
    apply: Annotated[bool, typer.Option("--apply", help="Give existing topics the settings of the file.")] = False,
) -> None:
    """Create the topics of infra/kafka/topics.yml that are missing; report how the others differ."""
    settings = configuration.load()
    names = {"RAW_TOPIC": settings.raw_topic, "RESULT_TOPIC": settings.result_topic, "DLQ_TOPIC": settings.dlq_topic}
    declared = kafka_topics.declared(ROOT / "infra" / "kafka" / "topics.yml", names)
    config = kafka_config(settings)
    created, differences = kafka_topics.apply(config, declared)
    altered = set(differences)
    if apply:
        differences = kafka_topics.alter(config, differences)
    altered -= set(differences)
    table = Table("topic", "partitions", "state")
    for topic in declared:
        unlike = [f"{it.what} is {it.has}, declared {it.declared}" for it in differences if it.topic == topic.name]
        unlike += [f"{it.what} was {it.has}, is {it.declared} now" for it in altered if it.topic == topic.name]
        state = "created" if topic.name in created else "\n".join(unlike) or "as declared"
        table.add_row(topic.name, str(topic.partitions), state)
    console.print(table)
    if any(it.what != kafka_topics.PARTITIONS for it in differences):
        console.print("Nothing that exists was altered. `make topics APPLY=1` gives it the declared settings.")
    if any(it.what == kafka_topics.PARTITIONS for it in differences):
        console.print('Partitions are added by hand: docs/runbook_kafka.md, "More partitions".')


@app.command()
def template() -> None:
    """Apply the Elasticsearch index template of infra/elasticsearch."""
    from jobs.rides.index import TEMPLATE
    from jobs.sinks.elasticsearch import apply_template

    settings = configuration.load()
    apply_template(elasticsearch_admin(settings), settings.rides_index, TEMPLATE)
    console.print(f"Index template {settings.rides_index} is applied.")


@app.command()
def bucket() -> None:
    """Create the emulator's bucket; at Google, see that it is there."""
    from jobs.sinks.parquet import check_bucket, create_bucket

    settings = configuration.load()
    client = storage_client(settings)
    if settings.gcs_endpoint:
        create_bucket(client, settings.bucket)
    check_bucket(client, settings.bucket)
    console.print(f"Bucket {settings.bucket} is there.")


@app.command()
def unpause() -> None:
    """Toggle the DAGs on, through Airflow's API; waits up to a minute for Airflow to know them."""
    settings = configuration.load()
    airflow_api.unpause(settings)
    console.print(f"On: {', '.join(airflow_api.DAGS)}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def produce(context: typer.Context) -> None:
    """Run producer/producer.py with the topic and the broker of the settings; takes its options."""
    settings = configuration.load()
    environment = {"RAW_TOPIC": settings.raw_topic, "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers}
    command = [sys.executable, str(ROOT / "producer" / "producer.py"), *context.args]
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606 (our own program, no shell)


@app.command()
def where() -> None:
    """Tell where to look and how to stop."""
    settings = configuration.load()
    state = settings.datastream_state
    state = state.relative_to(Path.cwd()) if state.is_relative_to(Path.cwd()) else state
    table = Table.grid(padding=(0, 2))
    for what, place in (
        ("Report", f"{state}/report.html"),
        ("Ledger", f"{state}/ledger.json"),
        ("Airflow", f"http://localhost:{settings.airflow_port} (login {settings.airflow_user})"),
        ("Elasticsearch", f"{settings.es_url}/{settings.rides_index}/_search?size=1"),
        ("Kafka", settings.bootstrap_servers),
        ("Logs", f"{state}/logs"),
        ("More rides", "make produce"),
        ("What is left", "make lag"),
        ("Stop", "make local-down (keeps the data); make clean (deletes it)"),
    ):
        table.add_row(what, place)
    console.print(table, soft_wrap=True)


@app.command()
def lag(once: Annotated[bool, typer.Option(help="Print once instead of watching.")] = False) -> None:
    """Show what each group has still to do, live until Ctrl-C."""
    settings = configuration.load()
    if once or not console.is_terminal:
        console.print(_lag_table(settings))
        return
    with Live(_lag_table(settings), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(1)
                live.update(_lag_table(settings), refresh=True)
        except KeyboardInterrupt:
            return


def _lags(settings: Settings) -> dict[str, Lag]:
    """What each group has still to do, read in the order of a ride's way: what one has passed the next one sees."""
    from jobs.rides.ops.ledger import groups
    from jobs.rides.ops.ledger import lag as group_lag

    config = kafka_config(settings)
    return {group: group_lag(config, topic, group) for group, topic in groups(settings).items()}


def _held(lags: dict[str, Lag]) -> list[HeldBack]:
    return list(dict.fromkeys(it for found in lags.values() for it in found.held_back))


def _lag_table(settings: Settings) -> Table:
    from jobs.rides.ops.ledger import groups

    table = Table("group", "topic", "offsets to do", "held back")
    lags = _lags(settings)
    for group, topic in groups(settings).items():
        held = sum(it.count for it in lags[group].held_back)
        table.add_row(group, topic, f"{lags[group].offsets:,}", f"{held:,}" if held else "")
    if found := _held(lags):
        table.caption = "\n".join(["Held back by an open transaction:", *map(str, found)])
    return table


@app.command()
def export() -> None:
    """Export at once what waits for EXPORT_TARGET_RECORDS or EXPORT_MAX_AGE_S, through Airflow's API."""
    airflow_api.export_now(configuration.load())
    console.print("A run of dag_index_and_export exports all that waits. `make lag` shows when it has.")


@app.command()
def wait(timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", min=1)] = 600) -> None:
    """Wait until every consumer group has caught up. Exports whatever is only waiting for a full batch."""
    from jobs.rides.ops.ledger import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP

    settings = configuration.load()
    deadline = time.monotonic() + timeout
    with _progress() as progress:
        titles = {COMPUTE_GROUP: "priced", INDEX_GROUP: "indexed", EXPORT_GROUP: "exported"}
        bars = {group: progress.add_task(title, total=None) for group, title in titles.items()}
        most = dict.fromkeys(bars, 0)
        last, moved, asked = None, time.monotonic(), 0
        while True:
            lags = _lags(settings)
            left = {group: found.offsets for group, found in lags.items()}
            for group, bar in bars.items():
                most[group] = max(most[group], left[group])
                progress.update(bar, total=most[group], completed=most[group] - left[group])
            if not any(left.values()):
                return
            if not (left[COMPUTE_GROUP] or left[INDEX_GROUP]) and left[EXPORT_GROUP] != asked:
                airflow_api.export_now(settings)
                asked = left[EXPORT_GROUP]
            if left != last:
                last, moved = left, time.monotonic()
            stalled = time.monotonic() - moved > _STALLED_S
            if stalled or time.monotonic() > deadline:
                what = ", ".join(f"{group}: {count} offsets" for group, count in left.items())
                held = explained(kafka_config(settings), _held(lags))
                why = [f"Held back by an open transaction: {'; '.join(held)}."] if held else []
                advice = (
                    f"Are both DAGs on, and what do their tasks' logs say? http://localhost:{settings.airflow_port}"
                )
                raise ServiceUnavailableError(" ".join([f"Still to do: {what}.", *why, advice]))
            time.sleep(0.5)


@app.command()
def ledger() -> None:
    """Count every ride at every system. Exit code 0 balanced, 1 lost or doubled, 2 on its way, 3 cannot be told."""
    # Nothing but the verdict may end with 1, as an exception would.
    try:
        exit_code = _ledger()
    except DatastreamError as error:
        _print_error(error)
        exit_code = CANNOT_BE_TOLD
    except Exception:
        Console(stderr=True).print_exception()
        exit_code = CANNOT_BE_TOLD
    except SystemExit:  # so ends a write to a pipe that nobody reads any more
        exit_code = CANNOT_BE_TOLD
    raise typer.Exit(exit_code)


def _ledger() -> int:
    from jobs.rides.ops.ledger import take_ledger

    settings = configuration.load()
    config = kafka_config(settings)
    with _progress() as progress:
        found = take_ledger(
            settings, config, elasticsearch_client(settings), storage_client(settings), _bars(progress, "counting")
        )
    path = settings.datastream_state / "ledger.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    _print_ledger(found, path)
    for line in explained(config, found.held_back):
        console.print(f"held back by an open transaction: {escape(line)}", soft_wrap=True)
    return found.exit_code


def _print_ledger(found: Ledger, path: Path) -> None:
    table = Table("ledger", Column(justify="right"), "counted at")
    for name, count, where in (
        ("raw", found.raw, "Kafka"),
        ("  result", found.result, "Kafka"),
        ("    of these duplicates", found.duplicates, "Kafka"),
        ("  dlq", found.dlq, "Kafka"),
        ("  pending", found.pending, "Kafka"),
        ("refused by the sinks", found.refused, "Kafka"),
        ("replayed", found.replayed, "Kafka"),
        *((("foreign dead letters", found.foreign, "Kafka"),) if found.foreign else ()),
        *((("reprocessed", found.reprocessed, "Kafka"),) if found.reprocessed else ()),
        *((("results superseded by that", found.superseded, "Kafka"),) if found.superseded else ()),
        ("in flight to the sinks", found.in_flight, "Kafka"),
        *((("held back (offsets)", sum(it.count for it in found.held_back), "Kafka"),) if found.held_back else ()),
        ("elasticsearch", found.elasticsearch, "Elasticsearch"),
        ("parquet", found.parquet, "Cloud Storage"),
    ):
        table.add_row(name, f"{count:,}", where)
    console.print(table)
    if found.dlq_by_reason:
        console.print("dlq by reason: " + ", ".join(f"{reason} {n}" for reason, n in found.dlq_by_reason.items()))
    if found.sample_result:
        console.print("a result:", escape(msgspec.json.encode(found.sample_result).decode()), soft_wrap=True)
    if found.sample_dead_letter:
        console.print("a dead letter's headers:", escape(str(found.sample_dead_letter)), soft_wrap=True)
    for fault in found.faults:
        console.print(f"[red]✗[/] {escape(fault)}", soft_wrap=True)
    verdict = {
        0: "[green]✓ balanced[/]: nothing lost, nothing doubled",
        1: "[red]✗ NOT balanced[/]: something is lost or doubled. Please keep the state and report it.",
        2: "[yellow]… on its way[/]: nothing lost or doubled so far. `make lag` shows what is left."
        + (" A reprocessing is not done." if found.is_reprocessing else ""),
        3: "[yellow]? cannot be told[/]",
    }[found.exit_code]
    console.print(f"{verdict}  ({path})", soft_wrap=True)


@app.command()
def reindex() -> None:
    """Rebuild the Elasticsearch index from Parquet, id for id. The DAGs may run meanwhile; harmless to repeat."""
    from jobs.rides.ops.reindex import reindex as rebuild

    settings = configuration.load()
    with _progress() as progress:
        clients = kafka_config(settings), elasticsearch_admin(settings), storage_client(settings)
        done = rebuild(settings, *clients, _bars(progress, "reading"))
    console.print(
        f"Read {done.rows:,} rows of {done.objects:,} objects and {done.results:,} results that wait for their export. "
        f"{settings.rides_index} holds {done.documents:,} rides, each in its latest version.",
        soft_wrap=True,
    )
    if done.expired:
        console.print(f"{done.expired:,} rows are older than {settings.rides_index_retention_days} days: left out.")
    if done.refused:
        console.print(f"{done.refused:,} rows were refused, for example: {escape(done.refusal)}", soft_wrap=True)


@app.command()
def reprocess(
    start: Annotated[str, typer.Argument(metavar="FROM", help="2026-01-05 (midnight, UTC) or 2026-01-05T08:00:00Z.")],
    end: Annotated[str, typer.Argument(metavar="TO", help="The same; not part of the window.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Price the rides with FROM ≤ ts < TO anew, end to end. The same command again goes on where one was ended."""
    from jobs.rides.ops import reprocess as work

    settings = configuration.load()
    wanted = work.window(start, end)
    clients = kafka_config(settings), elasticsearch_admin(settings), storage_client(settings)

    def look() -> work.Work:
        with _progress() as progress:
            return work.look(work.Systems(settings, *clients, _bars(progress)), wanted)

    found = look()
    if not (found.rides or found.earlier.count or found.is_begun):
        console.print(f"{settings.raw_topic} holds no priced ride with {wanted} (any more). Nothing is changed.")
        return
    if found.is_begun:
        console.print(f"Going on with the {len(found.rides):,} rides of {wanted}.")
    elif not found.rides:
        console.print(f"No ride of {wanted} is to be priced anew: what an earlier reprocessing has replaced is purged.")
    elif not yes:
        typer.confirm(f"Price {len(found.rides):,} rides of {wanted} anew, and purge their old prices?", abort=True)
        found = look()  # the question may have stood for hours, and rides have come since
    with _progress() as progress:
        systems = work.Systems(settings, *clients, _bars(progress))
        done = work.reprocess(systems, found, lambda: airflow_api.export_now(settings))
    console.print(
        f"{done.rides:,} rides are priced anew ({done.copies:,} messages). {done.rows:,} rows of old results are out "
        f"of Parquet, {done.rejected:,} rides that are rejected or refused by now out of {settings.rides_index}.",
        soft_wrap=True,
    )
    if done.untouched:
        console.print(
            f"{done.untouched:,} more rides of the window stay as they are: retention has taken their messages from "
            f"{settings.raw_topic}.",
            soft_wrap=True,
        )
    console.print("`make ledger` tells whether all adds up.")


@app.command()
def report() -> None:
    """Write the report page from Elasticsearch's aggregations."""
    from jobs.rides.report import write_report

    settings = configuration.load()
    path = settings.datastream_state / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(elasticsearch_client(settings), settings.rides_index, path)
    console.print(f"Wrote {path}", soft_wrap=True)


@app.command()
def bqml(
    dry_run: Annotated[
        bool, typer.Option(help="Only check the statements and tell the bytes they would read.")
    ] = False,
    scan: Annotated[bool, typer.Option(help="Try k = 4…12 as well.")] = True,
    teardown: Annotated[bool, typer.Option(help="Delete what the playbook made, and nothing else.")] = False,
) -> None:
    """Run infra/bigquery: zones, revenue by zone and comfort. On BigQuery if BIGQUERY_PROJECT is set, else here."""
    from jobs.rides import zones as result
    from jobs.zones import playbook
    from jobs.zones import run as work
    from jobs.zones.show import Printer, revenue_table

    settings = configuration.load()
    values, client = playbook.parameters(settings), storage_client(settings)
    with work.engine_of(settings, client) as engine, closing(Printer(console)) as printer:
        console.print(f"On {engine.title}, gs://{values.bucket}/{values.prefix}", soft_wrap=True)
        if teardown:
            typer.confirm(f"Delete what the playbook made in the dataset {values.dataset}?", abort=True)
            work.run(engine, playbook.steps("teardown"), values, printer)
            return
        steps = [step for step in playbook.steps(*playbook.USUAL) if scan or step.role != "scan"]
        reference = work.prepare(settings, client, values)
        console.print(f"Reference file: {reference}", soft_wrap=True)
        if dry_run or settings.bigquery_project:
            for step in steps:
                for statement in step.statements(values):
                    console.print(f"{step.name}: {escape(engine.estimate(statement))}", soft_wrap=True)
        if dry_run:
            return
        answers = work.run(engine, steps, values, printer)
        found = work.collect(answers, engine.title, str(reference))
    path = settings.datastream_state / result.FILE
    result.write(found, path)
    console.print(revenue_table(found))
    console.print(f"{found.outside:,} of {found.rides:,} rides start outside the trained area.")
    console.print(f"Wrote {path}", soft_wrap=True)
    try:
        report()
    except DatastreamError as error:
        console.print(f"[yellow]The report page stays as it is:[/] {escape(str(error))}", soft_wrap=True)


@app.command()
def trace(ride: Annotated[str, typer.Argument(help="A ride_id.")]) -> None:
    """Show where a ride is: raw, result, dlq, Elasticsearch, Parquet."""
    from jobs.rides.ops.trace import trace as trace_ride

    settings = configuration.load()
    table = Table("place", Column("position", overflow="fold"), Column("content", overflow="fold"), show_lines=True)
    clients = kafka_config(settings), elasticsearch_client(settings), storage_client(settings)
    for sighting in trace_ride(settings, *clients, ride.strip().lower()):
        table.add_row(sighting.place, sighting.position, escape(sighting.content))
    if not table.row_count:
        console.print(f"Ride {ride} is nowhere: not in Kafka (any more), Elasticsearch or Parquet.")
        raise typer.Exit(1)
    console.print(table)


@app.command()
def dlq(count: Annotated[int, typer.Option(help="How many.", min=1)] = 20) -> None:
    """Show the latest dead letters and why they are there."""
    from jobs.kafka.replay import latest

    settings = configuration.load()
    table = Table("source", "reason", "message", "value", "replayed")
    for message in latest(kafka_config(settings), settings.dlq_topic, count):
        headers = headers_of(message)
        source = "{}[{}]@{}".format(*(error_text(headers, name) for name in ("topic", "partition", "offset")))
        value = repr(message.value())[1:] if message.value() is not None else "null"
        table.add_row(
            source,
            error_text(headers, "exception.class.name"),
            escape(error_text(headers, "exception.message")),
            escape(value if len(value) <= 60 else f"{value[:59]}…"),
            str(times_replayed(headers) or ""),
        )
    console.print(table if table.row_count else f"{settings.dlq_topic} is empty.")


@app.command("dlq-replay")
def dlq_replay(
    max_replays: Annotated[int, typer.Option(help="Leave alone what was sent back so often already.", min=1)] = 1,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Send dead letters back to their source topic: each one once, and none for ever."""
    from jobs.kafka.replay import count_replayable, replay
    from jobs.rides.ops.ledger import dead_letter_sources

    settings = configuration.load()
    config, sources = kafka_config(settings), dead_letter_sources(settings)
    if dry_run:
        done = count_replayable(config, settings.dlq_topic, sources, max_replays)
    else:
        done = replay(config, settings.dlq_topic, sources, max_replays)
    verb = "would go" if dry_run else "went"
    for topic, count in done.sent.items():
        console.print(f"{count:,} dead letters {verb} back to {topic}")
    console.print(f"{done.sent.total():,} in all; {done.left:,} left alone, sent back {max_replays}× or more already")
    if done.foreign:
        console.print(f"{done.foreign:,} more were written by others: left alone, too")
    for line in explained(config, done.held):
        console.print(f"held back by an open transaction: {escape(line)}", soft_wrap=True)


@app.command()
def offsets(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="dag_compute_cost, dag_index_and_export, …")],
    to: Annotated[str, typer.Argument(metavar="TO", help="kept, beginning, end, or a time: 2026-01-05T08:00:00Z.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Set the offsets of a consumer group. First says how many messages it would skip or repeat, and asks.

    kept: where this pipeline was, by the copy that it keeps of its offsets.
    """
    from jobs.kafka import set_offsets as work
    from jobs.rides.ops.ledger import all_groups, groups
    from jobs.rides.ops.superseded import GROUP as REPROCESS_GROUP

    settings = configuration.load()
    topics = all_groups(settings)
    if group not in topics:
        raise ConfigurationError(f"GROUP={group!r}: there are {', '.join(topics)}.")
    if group == REPROCESS_GROUP and to != "kept":
        raise ConfigurationError(
            f"GROUP={group}: anything but TO=kept would leave copies of rides behind, half purged. Finish it with "
            "`make reprocess` instead."
        )
    config = kafka_config(settings)
    topic_ids = _topic_ids(settings) if group in groups(settings) else None
    with _progress() as progress:
        found = work.look(config, topics[group], group, to, topic_ids=topic_ids, progress=_bars(progress))
    _print_moves(found)
    if not yes:
        typer.confirm("Set these offsets?", abort=True)
    work.set_offsets(config, found, topic_ids)
    console.print(f"Group {group} goes on from there. `make ledger` tells whether all adds up.")


def _print_moves(found: Moves) -> None:
    table = Table(found.topic, "was", "will be", "skips", "repeats")
    for it in found.moves:
        was, target = ("?" if offset is None else str(offset) for offset in (it.before, it.target.offset))
        table.add_row(str(it.partition), was, target, f"{it.skipped:,}", f"{it.repeated:,}")
    console.print(table)
    most = "" if found.is_certain else " at most (nobody knows where the group was)"
    if found.discarded_plans:
        console.print(
            f"It discards the plan of {found.discarded_plans} partitions; what was planned is counted as repeated."
        )
    console.print(
        f"Group {found.group} would skip {found.skipped:,} messages that it has not read, and repeat "
        f"{found.repeated:,}{most}.",
        soft_wrap=True,
    )


def _topic_ids(settings: Settings) -> TopicIds:
    from jobs.files import Folder
    from jobs.kafka.topic_ids import TopicIds

    return TopicIds(Folder(settings.staging))


def _progress() -> Progress:
    columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def _bars(progress: Progress, doing: str = "") -> Callable[[str, int, int], None]:
    """Shows a bar for each name that it is told of, with how much is done and how much there is."""
    bars: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = progress.add_task(f"{doing} {name}".strip())
        progress.update(bars[name], completed=done, total=total)

    return show


def main() -> None:
    """Run a command; our own errors are printed without a traceback."""
    try:
        app()
    except DatastreamError as error:
        _print_error(error)
        sys.exit(1)


def _print_error(error: DatastreamError) -> None:
    Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)


if __name__ == "__main__":
    main()
