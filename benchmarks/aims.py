"""What `make bench` aims at, and what was found."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.table import Column, Table

from benchmarks.freshness import Found
from benchmarks.layouts import COMPACT, LAYOUTS
from benchmarks.poison import Poison
from benchmarks.scale import Scale

# Ours beside each, by part, layout and peer: how many times faster it is to be.
Peer = tuple[str, str, str]
_BESIDE: dict[Peer, float] = {
    **{("price", layout, "relay"): 0.5 for layout in LAYOUTS},
    ("price", COMPACT, "stock-defaults"): 10.0,
    ("price", COMPACT, "stock-haversine"): 10.0,
    ("price", COMPACT, "stock-geopy"): 1.0,
    ("price", COMPACT, "spark"): 1.0,
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


class Aim(msgspec.Struct, frozen=True):
    """A figure that is to be at least `aim`, or at most where `is_most`."""

    name: str
    aim: float
    found: float
    is_most: bool = False

    @property
    def reached(self) -> float:
        """The part of the aim that is reached; 1 or more is all of it."""
        return self.aim / self.found if self.is_most else self.found / self.aim


def of_results(rate: float | None, ratios: Mapping[Peer, float | None]) -> list[Aim]:
    """Aims of the parts that have peers.

    Args:
        rate: rides priced a second, in the producer's layout; None if that was not measured.
        ratios: how many times faster ours is, by part, layout and peer; None where there is no ratio.
    """
    found = [Aim("price: rides a second", _PRICE_PER_S, rate)] if rate else []
    for peer, aim in _BESIDE.items():
        part, layout, name = peer
        if ratio := ratios.get(peer):
            found.append(Aim(f"{part}{layout and f', {layout}'}: times {name}", aim, ratio))
    return found


def of_scale(found: Scale) -> list[Aim]:
    shares = [found.us_more(size) / found.us_more(found.reference) for size in found.passes]
    peaks = {size: found.peak_mib(size) for size in found.passes}
    apart = max(*shares, 1 / min(shares))
    return [
        Aim("scale: time for a ride, most apart from a million's", _TIME_BETWEEN_SIZES, apart, is_most=True),
        Aim("scale: peak MiB", _PEAK_MIB, max(peaks.values()), is_most=True),
        Aim("scale: memory of the largest", _MEMORY_OF_MORE, peaks[max(peaks)] / peaks[found.reference], is_most=True),
    ]


def of_poison(found: Poison) -> list[Aim]:
    return [Aim("poison: speed of bad messages, times good ones", _SPEED_OF_BAD_MESSAGES, found.ratio)]


def of_freshness(found: Found) -> list[Aim]:
    return [Aim("freshness: p95, s", _FRESHNESS_P95_S, found.freshness.p95, is_most=True)]


def show(aims: list[Aim], console: Console) -> None:
    table = Table("aim", *(Column(name, justify="right") for name in ("at least", "at most", "found", "reached")))
    for it in aims:
        bounds = ("", f"{it.aim:,g}") if it.is_most else (f"{it.aim:,g}", "")
        found = f"{it.found:,.0f}" if it.found >= 100 else f"{it.found:.2f}"
        table.add_row(it.name, *bounds, found, "✓" if it.reached >= 1 else f"{it.reached:.2f}")
    console.print(table)
