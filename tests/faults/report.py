"""The table of a campaign: for each target how often it was hit, and how long the flow took to get over it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from rich.table import Column, Table

from tests.faults.campaign import Round

HEADINGS = ("target", "hits", "recovery p50, s", "recovery max, s")


def lines(rounds: Sequence[Round]) -> list[tuple[str, str, str, str]]:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for found in rounds:
        for hit in found.hits:
            seconds[hit.target].append(hit.recovered_s)
    return [
        (target, str(len(all_)), f"{statistics.median(all_):.0f}", f"{max(all_):.0f}")
        for target, all_ in sorted(seconds.items())
    ]


def table(rounds: Sequence[Round]) -> Table:
    first, *rest = HEADINGS
    found = Table(first, *(Column(heading, justify="right") for heading in rest))
    for line in lines(rounds):
        found.add_row(*line)
    return found


def markdown(rounds: Sequence[Round]) -> str:
    rows = [HEADINGS, ("---", "---:", "---:", "---:"), *lines(rounds)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
