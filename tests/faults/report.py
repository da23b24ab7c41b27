"""What a campaign comes to: for each target how often it was hit at work, and how long the flow took to get over it."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
from rich.table import Column, Table

from tests.faults.campaign import Hit, Round
from tests.faults.faults import TARGETS
from tests.faults.tasks import FILE_TOO_LARGE

HEADINGS = ("target", "faults", "hit at work", "recovery p50, s", "recovery max, s")
ZOMBIES = ("zombie", "frozen", "wakes", "then it", "its retry", "times")
# What the log of a task says, and what that means; the first one that it says counts.
OUTCOMES = {
    "a newer worker has taken over": "was fenced",
    "fenced by a newer instance": "was fenced",
    "Timed out": "gave up: its call to Kafka had timed out",
    "within the API timeout": "gave up: its call to Kafka had timed out",
    "othing is left to do": "found nothing to do",
    "No such file": "found its files gone",
    "Skipping task": "found nothing to do",
    "Published 0 results": "found nothing to do",
    "Another worker of group": "stood back",
    "Published ": "published what was left",
    "Wrote ": "wrote the same objects",
    "Indexed ": "wrote the same documents",
    "Staged ": "staged, for nobody",
    "Left the messages for Spark": "claimed, for nobody",
    "Processed ": "processed, for nobody",
    "Committed ": "committed",
    "Task killed!": "was ended by Airflow",
}


class Summary(msgspec.Struct):
    """All hits of one target; seconds from the fault until the flow was over it."""

    target: str
    faults: int
    at_work: int
    p50_s: float
    max_s: float


def summaries(rounds: Sequence[Round]) -> list[Summary]:
    hits: defaultdict[str, list[Hit]] = defaultdict(list)
    for played in rounds:
        for hit in played.hits:
            hits[hit.target].append(hit)
    return [
        Summary(
            target,
            len(all_),
            sum(map(was_at_work, all_)),
            statistics.median(hit.recovered_s for hit in all_),
            max(hit.recovered_s for hit in all_),
        )
        for target, all_ in sorted(hits.items(), key=lambda played: [*TARGETS].index(played[0]))
    ]


def was_at_work(hit: Hit) -> bool:
    """Whether the fault met a task whose own code was running: as it looked then, or by the error that it logged."""
    met_full_disk = any(FILE_TOO_LARGE in line for lines in hit.logs.values() for line in lines)
    return met_full_disk or any(glimpse.is_at_work for glimpse in hit.glimpses)


def zombies(rounds: Sequence[Round]) -> Counter[tuple[str, ...]]:
    """Target, where it froze, when it woke up, what it did then, what its retry did; how often."""
    counts: Counter[tuple[str, ...]] = Counter()
    for hit in (hit for played in rounds for hit in played.hits if "wakes" in hit.details):
        zombie, retry = (_outcome("\n".join(log)) for log in hit.logs.values())
        counts[hit.target, hit.details["frozen"], hit.details["wakes"], zombie, retry] += 1
    return counts


def _outcome(log: str) -> str:
    return next((meaning for said, meaning in OUTCOMES.items() if said in log), "ended without a word")


def _cells(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for summary in summaries(rounds):
        at_work = str(summary.at_work) if summary.target != "none" else "–"
        cells.append((summary.target, str(summary.faults), at_work, f"{summary.p50_s:.0f}", f"{summary.max_s:.0f}"))
    return cells


def table(rounds: Sequence[Round]) -> Table:
    first, *rest = HEADINGS
    made = Table(first, *(Column(heading, justify="right") for heading in rest))
    for cells in _cells(rounds):
        made.add_row(*cells)
    return made


def markdown(rounds: Sequence[Round]) -> str:
    text = _rows([HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *_cells(rounds)])
    woken = [(*what, str(count)) for what, count in sorted(zombies(rounds).items())]
    text += "\n" + _rows([ZOMBIES, (*["---"] * (len(ZOMBIES) - 1), "---:"), *woken])
    faults = [hit for played in rounds for hit in played.hits if hit.target != "none"]
    return text + (
        f"\n{len(faults)} faults in {len(rounds)} rounds, {sum(map(was_at_work, faults))} of them proven to have hit a "
        f"task at work; {sum(played.sent for played in rounds):,} messages sent; "
        f"{sum(len(played.differences) for played in rounds)} differences.\n"
    )


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
