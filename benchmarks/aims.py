"""The aims of `make bench`, compared with the measured figures."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.table import Column, Table

from benchmarks.freshness import Freshness
from benchmarks.layouts import COMPACT, LAYOUTS
from benchmarks.marts import Marts
from benchmarks.poison import Poison
from benchmarks.scale import Scale
from benchmarks.warehouse import Warehouse
from benchmarks.watching import Watching

# Part, layout and peer, with the least speed of Datastream relative to it.
Peer = tuple[str, str, str]
_BESIDE: dict[Peer, float] = {
    **{("price", layout, "relay"): 0.5 for layout in LAYOUTS},
    ("price", COMPACT, "stock-defaults"): 10.0,
    ("price", COMPACT, "stock-haversine"): 10.0,
    ("price", COMPACT, "stock-geopy"): 1.0,
    ("price", COMPACT, "spark-functions-2"): 1.0,
    ("price", COMPACT, "quix"): 1.0,
    ("index", "", "bare client"): 0.9,
    ("export", "", "pyarrow, its defaults, local file"): 0.8,
    ("export", "", "pyarrow, our options, local file"): 0.8,
}
_PRICE_PER_S = 150_000
_FRESHNESS_P95_S = 10
_TIME_BETWEEN_SIZES = 1.2
_PEAK_MIB = 1024
_MEMORY_OF_MORE = 1.1
_SPEED_OF_BAD_MESSAGES = 0.4
_LOAD_PER_S = 50_000
_SPEED_OF_LOAD = 0.2
_BUILD_S = 60
_SPEED_WHEN_WATCHED = 0.97
_NEXT_BUILD_S = 25


class Aim(msgspec.Struct, frozen=True):
    """A figure and its least value, or its greatest one if `is_most`."""

    name: str
    aim: float
    found: float
    is_most: bool = False

    @property
    def reached(self) -> float:
        """The figure as a share of the aim; 1 or more means reached."""
        return self.aim / self.found if self.is_most else self.found / self.aim


def make_result_aims(rate: float | None, ratios: Mapping[Peer, float | None]) -> list[Aim]:
    """Aims of the parts that have peers.

    Args:
        rate: rides priced per second in the producer's layout; None if not measured.
        ratios: speed of Datastream relative to each peer, by part, layout and peer; None without a ratio.
    """
    aims = [Aim("price: rides per second", _PRICE_PER_S, rate)] if rate else []
    for peer, aim in _BESIDE.items():
        part, layout, name = peer
        if ratio := ratios.get(peer):
            aims.append(Aim(f"{part}{layout and f', {layout}'}: speed relative to {name}", aim, ratio))
    return aims


def make_scale_aims(scale: Scale) -> list[Aim]:
    shares = [scale.us_more(size) / scale.us_more(scale.reference) for size in scale.passes]
    peaks = {size: scale.peak_mib(size) for size in scale.passes}
    apart = max(*shares, 1 / min(shares))
    reference = f"{scale.reference:,} rides"
    return [
        Aim(f"scale: time per ride, largest ratio to {reference}", _TIME_BETWEEN_SIZES, apart, is_most=True),
        Aim("scale: peak MiB", _PEAK_MIB, max(peaks.values()), is_most=True),
        Aim(
            f"scale: peak memory, ratio of the largest to {reference}",
            _MEMORY_OF_MORE,
            peaks[max(peaks)] / peaks[scale.reference],
            is_most=True,
        ),
    ]


def make_poison_aims(poison: Poison) -> list[Aim]:
    return [Aim("poison: speed of bad messages relative to good ones", _SPEED_OF_BAD_MESSAGES, poison.ratio)]


def make_watching_aims(watching: Watching) -> list[Aim]:
    return [Aim("watching: speed of pricing when watched relative to alone", _SPEED_WHEN_WATCHED, watching.ratio)]


def make_warehouse_aims(warehouse: Warehouse) -> list[Aim]:
    return [
        Aim("load: transactions per second into PostgreSQL", _LOAD_PER_S, warehouse.rate),
        Aim("load: speed relative to a bare COPY", _SPEED_OF_LOAD, warehouse.ratio),
    ]


def make_marts_aims(marts: Marts) -> list[Aim]:
    return [
        Aim("dbt: build of all transactions, s", _BUILD_S, marts.first_s, is_most=True),
        Aim("dbt: build after new ones, s", _NEXT_BUILD_S, marts.next_s, is_most=True),
    ]


def make_freshness_aims(freshness: Freshness) -> list[Aim]:
    return [Aim("freshness: p95, s", _FRESHNESS_P95_S, freshness.freshness.p95, is_most=True)]


def show(aims: list[Aim], console: Console) -> None:
    table = Table("aim", *(Column(name, justify="right") for name in ("at least", "at most", "measured", "reached")))
    for aim in aims:
        bounds = ("", f"{aim.aim:,g}") if aim.is_most else (f"{aim.aim:,g}", "")
        figure = f"{aim.found:,.0f}" if aim.found >= 100 else f"{aim.found:.2f}"
        table.add_row(aim.name, *bounds, figure, "✓" if aim.reached >= 1 else f"{aim.reached:.2f}")
    console.print(table)
