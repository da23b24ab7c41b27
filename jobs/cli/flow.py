"""How far messages have come: lag, waiting, exporting at once, setting offsets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from jobs import airflow_api
from jobs.cli.app import app, console, progress_bars, show_in
from jobs.clients import make_kafka_config
from jobs.errors import ConfigurationError
from jobs.kafka.open_transactions import describe_held_back
from jobs.settings import Settings, load
from jobs.vertical import Group
from jobs.verticals import find_verticals, merge_settings

if TYPE_CHECKING:
    from jobs.kafka.lag import Lag
    from jobs.kafka.offsets import HeldBack
    from jobs.kafka.set_offsets import Moves


@app.command()
def lag(once: Annotated[bool, typer.Option(help="Print once instead of watching.")] = False) -> None:
    """Show what each group has still to do, live until Ctrl-C."""
    settings = load(merge_settings())
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


def _groups() -> list[Group]:
    return [group for vertical in find_verticals() for group in vertical.groups]


def _lags(settings: Settings) -> dict[str, Lag]:
    """What each group has still to do, read in the order of the flow: what one has passed the next one sees."""
    from jobs.kafka.lag import read_lag

    config = make_kafka_config(settings)
    return {group.id: read_lag(config, getattr(settings, group.topic), group.id) for group in _groups()}


def _held_back(lags: Mapping[str, Lag]) -> list[HeldBack]:
    return list(dict.fromkeys(held for lag in lags.values() for held in lag.held_back))


def _lag_table(settings: Settings) -> Table:
    table = Table("group", "topic", "offsets to do", "held back")
    lags = _lags(settings)
    for group in _groups():
        held = sum(it.count for it in lags[group.id].held_back)
        topic = getattr(settings, group.topic)
        table.add_row(group.id, topic, f"{lags[group.id].offsets:,}", f"{held:,}" if held else "")
    if found := _held_back(lags):
        table.caption = "\n".join(["Held back by an open transaction:", *map(str, found)])
    return table


@app.command()
def export() -> None:
    """Export at once what is only waiting for a full batch, through Airflow's API."""
    settings = load(merge_settings())
    for group in _groups():
        if group.flush is not None:
            airflow_api.trigger(settings, group.flush.dag_id, group.flush.conf)
            console.print(f"Started a run of {group.flush.dag_id}. `make lag` shows when {group.id} has caught up.")


@app.command()
def wait(timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", min=1)] = 600) -> None:
    """Wait until every consumer group has caught up. Exports whatever is only waiting for a full batch."""
    from jobs.kafka.lag import wait_until_done

    settings = load(merge_settings())
    titles = {group.id: f"{vertical.name} {group.done}" for vertical in find_verticals() for group in vertical.groups}
    held: list[HeldBack] = []
    asked: dict[str, int] = {}

    def read_left() -> dict[str, int]:
        lags = _lags(settings)
        held[:] = _held_back(lags)
        return {titles[group]: lag.offsets for group, lag in lags.items()}

    def flush(left: Mapping[str, int]) -> None:
        for vertical in find_verticals():
            if any(left[titles[group.id]] for group in vertical.groups if group.flush is None):
                continue
            for group in vertical.groups:
                count = left[titles[group.id]]
                if group.flush is not None and count and asked.get(group.id) != count:
                    airflow_api.trigger(settings, group.flush.dag_id, group.flush.conf)
                    asked[group.id] = count

    def advise() -> str:
        why = [f"Held back by an open transaction: {'; '.join(describe_held_back(make_kafka_config(settings), held))}."]
        logs = f"Are the DAGs on, and what do their tasks' logs say? http://localhost:{settings.airflow_port}"
        return " ".join([*(why if held else []), logs])

    with progress_bars() as bars:
        wait_until_done(read_left, show_in(bars), timeout_s=timeout, on_move=flush, advise=advise)


@app.command()
def offsets(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="dag_compute_cost, dag_index_and_export, …")],
    to: Annotated[str, typer.Argument(metavar="TO", help="kept, beginning, end, or a time: 2026-01-05T08:00:00Z.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Set the offsets of a consumer group. First says how many messages it would skip or repeat, and asks.

    kept: where this pipeline was, by the copy that it keeps of its offsets.
    """
    from jobs.files import Folder
    from jobs.kafka import set_offsets as work
    from jobs.kafka.topic_ids import TopicIds

    settings = load(merge_settings())
    dag_groups = {it.id: it.topic for it in _groups()}
    command_groups = {name: topic for vertical in find_verticals() for name, topic in vertical.command_groups.items()}
    replay_groups = {it.dead_letters.replay_group: it.dead_letters.topic for it in find_verticals() if it.dead_letters}
    topics = dag_groups | replay_groups | command_groups
    if group not in topics:
        raise ConfigurationError(f"GROUP={group!r}: there are {', '.join(topics)}.")
    if group in command_groups and to != "kept":
        raise ConfigurationError(
            f"GROUP={group}: anything but TO=kept would leave unfinished work behind. Finish it with the command of "
            "that name instead."
        )
    config, topic = make_kafka_config(settings), getattr(settings, topics[group])
    topic_ids = TopicIds(Folder(settings.staging)) if group in dag_groups else None
    with progress_bars() as bars:
        found = work.preview_moves(config, topic, group, to, topic_ids=topic_ids, progress=show_in(bars))
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
