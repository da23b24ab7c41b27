"""Numbers and times as the report writes them."""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def number(value: float | None) -> str:
    """A figure for people: at least three digits, thousands grouped, a power of ten where it would be endless."""
    if value is None:
        return "–"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} bn"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1_000 else f"{value:,.2f}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 5025 → `1 h 23 min`."""
    left = round(seconds)
    parts = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        parts.append((count, unit))
    start = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count:,} {unit}" for count, unit in parts[start : start + 2] if count) or "0 s"


def interval_name(seconds: int) -> str:
    """An interval as people write it: 300 → `5 min`."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{seconds // size} {unit}"
