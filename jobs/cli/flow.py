"""Consumer groups: their lag, waiting for them, exporting immediately, setting offsets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table

from jobs import airflow_api
from jobs.cli.app import AsJson, app, console, progress_bars, show_in
from jobs.clients import make_kafka_config
from jobs.errors import ConfigurationError
from jobs.kafka.open_transactions import describe_held_back
from jobs.settings import Settings, load
from jobs.terminal import escape, fit_table, print_json, wrap_words
from jobs.vertical import Group as ConsumerGroup
from jobs.vertical import Vertical
from jobs.verticals import find_vertical, find_verticals, merge_settings

if TYPE_CHECKING:
    from jobs.kafka.lag import Lag
    from jobs.kafka.offsets import HeldBack
    from jobs.kafka.set_offsets import Moves


class GroupLag(msgspec.Struct, frozen=True):
    """The lag of a consumer group on a topic."""

    group: str
    topic: str
    lag: Lag


@app.command()
def lag(
    vertical: Annotated[str, typer.Argument(help="Only its groups, on its broker. Default: all on the stack's.")] = "",
    once: Annotated[bool, typer.Option(help="Print once instead of watching.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the lag of each consumer group, live until Ctrl-C; once if stdout is not a terminal.

    JSON: groups: group, topic, offsets (the lag), held_back (by transactions).
    """
    settings = load(merge_settings())
    if vertical:
        verticals = [find_vertical(vertical)]
    else:
        verticals = [one for one in find_verticals() if getattr(settings, one.broker) == settings.bootstrap_servers]
    if as_json:
        print_json(describe_lags(_read_lags(settings, verticals)))
        return

    def show() -> RenderableType:
        return show_lags(console, _read_lags(settings, verticals))

    if once or not console.is_terminal:
        console.print(show())
        return
    with Live(show(), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(1)
                live.update(show(), refresh=True)
        except KeyboardInterrupt:
            return


def _list_groups() -> list[ConsumerGroup]:
    return [group for vertical in find_verticals() for group in vertical.groups]


def _read_lags(settings: Settings, verticals: Iterable[Vertical]) -> list[GroupLag]:
    """Read the lag of the groups of DAGs, then of streams, on the broker of each vertical."""
    from jobs.kafka.lag import read_lag

    lags = []
    for vertical in verticals:
        config = make_kafka_config(settings) | {"bootstrap.servers": getattr(settings, vertical.broker)}
        for group in (*vertical.groups, *vertical.streams):
            topic = getattr(settings, group.topic)
            lags.append(
                GroupLag(group.id, topic, read_lag(config, topic, group.id, is_stream=group in vertical.streams))
            )
    return lags


def _list_held_back(lags: Iterable[Lag]) -> list[HeldBack]:
    return list(dict.fromkeys(held for lag in lags for held in lag.held_back))


def describe_lags(lags: Iterable[GroupLag]) -> dict[str, Any]:
    """Describe the lags for `print_json`."""
    return {
        "groups": [
            {"group": row.group, "topic": row.topic, "offsets": row.lag.offsets, "held_back": row.lag.held_back}
            for row in lags
        ]
    }


def show_lags(console: Console, lags: Sequence[GroupLag]) -> RenderableType:
    """Build a table of the lags, and a line for each partition that an open transaction holds back."""
    table = Table("group", "topic", Column("lag (offsets)", justify="right"), Column("held back", justify="right"))
    for row in lags:
        held = sum(partition.count for partition in row.lag.held_back)
        table.add_row(row.group, row.topic, f"{row.lag.offsets:,}", f"{held:,}" if held else "")
    all_held = _list_held_back(row.lag for row in lags)
    lines = [wrap_words(f"held back by an open transaction: {escape(str(held))}") for held in all_held]
    return Group(fit_table(console, table), *lines)


@app.command()
def export() -> None:
    """Export immediately what is only waiting for a full batch, through Airflow's API."""
    settings = load(merge_settings())
    for group in _list_groups():
        if group.flush is not None:
            airflow_api.trigger(settings, group.flush.dag_id, group.flush.conf)
            console.print(f"Started a run of {group.flush.dag_id}. `make lag` shows when {group.id} has caught up.")


@app.command()
def wait(
    vertical: Annotated[str, typer.Argument(help="The vertical whose DAGs to wait for.")] = "rides",
    timeout: Annotated[float, typer.Option(help="The maximum time to wait, in seconds.", min=1)] = 600,
) -> None:
    """Wait until the consumer groups of a vertical have caught up. Exports whatever only waits for a full batch."""
    from jobs.kafka.lag import wait_until_done

    settings = load(merge_settings())
    declared = find_vertical(vertical)
    titles = {group.id: f"{vertical} {group.done}" for group in declared.groups}
    held: list[HeldBack] = []
    asked: dict[str, int] = {}

    def read_left() -> dict[str, int]:
        lags = [row for row in _read_lags(settings, [declared]) if row.group in titles]
        held[:] = _list_held_back(row.lag for row in lags)
        return {titles[row.group]: row.lag.offsets for row in lags}

    def flush(left: Mapping[str, int]) -> None:
        if any(left[titles[group.id]] for group in declared.groups if group.flush is None):
            return
        for group in declared.groups:
            count = left[titles[group.id]]
            if group.flush is not None and count and asked.get(group.id) != count:
                airflow_api.trigger(settings, group.flush.dag_id, group.flush.conf)
                asked[group.id] = count

    def advise() -> str:
        reasons = [
            f"Held back by an open transaction: {'; '.join(describe_held_back(make_kafka_config(settings), held))}."
        ]
        logs = f"Check that the DAGs are on, and read the logs of their tasks: http://localhost:{settings.airflow_port}"
        return " ".join([*(reasons if held else []), logs])

    with progress_bars() as bars:
        wait_until_done(read_left, show_in(bars), timeout_s=timeout, on_move=flush, advise=advise)


@app.command()
def offsets(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="dag_compute_cost, dag_index_and_export, …")],
    to: Annotated[str, typer.Argument(metavar="TO", help="kept, beginning, end, or a time: 2026-01-05T08:00:00Z.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Set the offsets of a consumer group. First prints how many messages it would skip or repeat, and asks.

    TO=kept restores the offsets that this pipeline committed, from the copy that it keeps.
    """
    from jobs.files import Folder
    from jobs.kafka import set_offsets as work
    from jobs.kafka.topic_ids import TopicIds

    settings = load(merge_settings())
    dag_groups = {declared.id: declared.topic for declared in _list_groups() if not declared.is_copy}
    command_groups = {name: topic for vertical in find_verticals() for name, topic in vertical.command_groups.items()}
    letters = [vertical.dead_letters for vertical in find_verticals() if vertical.dead_letters]
    replay_groups = {declared.replay_group: declared.topic for declared in letters}
    topics = dag_groups | replay_groups | command_groups
    if group in {declared.id for declared in _list_groups() if declared.is_copy}:
        raise ConfigurationError(
            f"GROUP={group} only follows a position in another system, which its DAG writes. Its next run sets it."
        )
    if group not in topics:
        raise ConfigurationError(f"GROUP={group!r} is unknown. The groups are: {', '.join(topics)}.")
    if group in command_groups and to != "kept":
        raise ConfigurationError(
            f"GROUP={group} accepts only TO=kept, because other offsets would leave its work unfinished. Finish it "
            "with the command of that name instead."
        )
    config, topic = make_kafka_config(settings), getattr(settings, topics[group])
    topic_ids = TopicIds(Folder(settings.staging)) if group in dag_groups else None
    engines = {one.id: one.engine for vertical in find_verticals() for one in vertical.groups}
    with progress_bars() as bars:
        moves = work.preview_moves(
            config, topic, group, to, topic_ids=topic_ids, engine=engines.get(group, "python"), progress=show_in(bars)
        )
    print_moves(console, moves)
    if not yes:
        typer.confirm("Set these offsets?", abort=True)
    work.set_offsets(config, moves, topic_ids)
    console.print(f"Group {group} resumes from these offsets. `make ledger` checks that the figures add up.")


def print_moves(console: Console, moves: Moves) -> None:
    """Print the offsets of each partition before and after, and how many messages are skipped or repeated."""
    table = Table(moves.topic, *(Column(title, justify="right") for title in ("was", "will be", "skips", "repeats")))
    for move in moves.moves:
        was, target = ("?" if offset is None else str(offset) for offset in (move.before, move.target.offset))
        table.add_row(str(move.partition), was, target, f"{move.skipped:,}", f"{move.repeated:,}")
    console.print(fit_table(console, table))
    limit = "" if moves.is_certain else " at most (the group's earlier offsets are unknown)"
    if moves.discarded_plans:
        console.print(
            f"This discards the plan of {moves.discarded_plans} partitions; planned messages count as repeated."
        )
    console.print(
        f"Group {moves.group} would skip {moves.skipped:,} messages that it has not read, and repeat "
        f"{moves.repeated:,}{limit}."
    )
