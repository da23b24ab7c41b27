"""What the tests of alerts share. Each module has a stack: the fixture `watched`."""

from __future__ import annotations

import pytest

from infra.local.services.prometheus import describe_missing, find_program
from tests.alerts.arrivals import WITHIN_S
from tests.alerts.scaled import Watch
from tests.testkit.wait import until


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    for program in ("prometheus", "alertmanager"):
        if find_program(program) is None:
            pytest.fail(describe_missing(program))


@pytest.fixture(autouse=True)
def quiet_before(watched: Watch) -> None:
    until(lambda: watched.list_firing() == {"Watchdog"}, "no alert fires", WITHIN_S)
