"""What a test expects of an alert: that it fires in time, reaches the webhook, and recovers."""

from __future__ import annotations

import sys
import time

from tests.alerts.scaled import SCRAPE_S, Watch, read_holds
from tests.testkit.wait import until

# Windows of rules and of Alertmanager's groups come on top of `for`; and a scrape may be late on a busy machine.
WITHIN_S = 150


def expect(watched: Watch, name: str, cause: float, **labels: str) -> None:
    """Wait until an alert is at the webhook; print how long it took from the cause to the alert, and to the webhook."""
    until(lambda: watched.inbox.find("firing", name, cause, **labels) is not None, f"{name} arrives", WITHIN_S)
    arrived = time.time()
    alert = watched.inbox.find("firing", name, cause, **labels)
    assert alert is not None
    assert alert["annotations"]["runbook"] == f"docs/observability.md#{name.lower()}"
    (state,) = [it for it in watched.list_alerts() if it["labels"].items() >= {"alertname": name, **labels}.items()]
    assert state["state"] == "firing"
    print(f"{name}: at the webhook after {arrived - cause:.1f} s", file=sys.stderr)


def expect_recovery(watched: Watch, name: str, repaired: float) -> None:
    until(lambda: watched.inbox.find("resolved", name, repaired) is not None, f"{name} recovers", WITHIN_S)
    assert name not in watched.list_firing()


def follow(watched: Watch, name: str) -> float:
    """The seconds from the first evaluation that was true until the alert fires; asked for at short intervals."""
    pending: list[float] = []

    def is_firing() -> bool:
        states = {it["state"] for it in watched.list_alerts() if it["labels"]["alertname"] == name}
        if states and not pending:
            pending.append(time.monotonic())
        return "firing" in states

    until(is_firing, f"{name} fires", WITHIN_S, sleep=lambda _: time.sleep(0.1))
    return time.monotonic() - pending[0]


def assert_in_time(watched: Watch, name: str) -> None:
    """It fires within its `for` and two scrapes once its expression is true."""
    assert follow(watched, name) <= read_holds()[name] + 2 * SCRAPE_S + 0.5
