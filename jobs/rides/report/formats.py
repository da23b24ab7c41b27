"""Text for the numbers and times in the report."""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_number(value: float | None) -> str:
    """Format a number: thousands are grouped, billions shortened, and 1e12 or more written as a power of ten."""
    if value is None:
        return "–"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} bn"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1_000 else f"{value:,.2f}"


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: 5025 → `1 h 23 min`."""
    remainder = round(seconds)
    parts = []
    for size, unit in _UNITS:
        count, remainder = divmod(remainder, size)
        parts.append((count, unit))
    start = next((position for position, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count:,} {unit}" for count, unit in parts[start : start + 2] if count) or "0 s"


def format_interval(seconds: int) -> str:
    """Format an interval in the largest unit that divides it: 300 → `5 min`."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{seconds // size} {unit}"
