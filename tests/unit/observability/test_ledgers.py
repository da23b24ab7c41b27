"""What the exporter keeps of a ledger."""

from __future__ import annotations

from jobs.clients import Systems
from jobs.errors import ServiceUnavailableError
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure
from jobs.observability.ledgers import Taken, take
from jobs.settings import Settings


class Ledger(verdict.Ledger):
    is_in_progress = False

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure("flights", 3, "Redis"),
            Figure("  waiting", 1, "Redis"),
            Figure("weather", 7, "Redis"),
            Figure("  waiting", 5, "Redis"),
            Figure("rows", 9, "MySQL"),
        ]


def take_ledger(_: Systems[Settings]) -> verdict.Ledger:
    return Ledger(balanced=True)


def find_no_service(_: Systems[Settings]) -> verdict.Ledger:
    raise ServiceUnavailableError("Redis does not answer.")


def test_equal_parts_of_two_figures_are_both_kept() -> None:
    taken = take(f"{__name__}:take_ledger", Settings)
    assert isinstance(taken, Taken)
    assert taken.figures == {"flights": 3, "flights, waiting": 1, "weather": 7, "weather, waiting": 5, "rows": 9}


def test_a_system_that_does_not_answer_gives_no_ledger() -> None:
    assert take(f"{__name__}:find_no_service", Settings) == "Redis does not answer."
