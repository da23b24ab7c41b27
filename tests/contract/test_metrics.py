"""Every metric that a task sends is declared by its vertical, and every declared one is sent."""

from __future__ import annotations

import re

import pytest

from infra.local.services import prometheus
from jobs.settings import ROOT
from jobs.verticals import find_verticals

_SENT = re.compile(r'(?:Stats\.\w+\(|_metric=|report_freshness\()f?"(datastream\.[\w.{}]+)"')
DECLARED = {name for vertical in find_verticals() for name in vertical.metrics}


def list_sent() -> set[str]:
    """The names in the operators and DAGs; one with a variable part matches all declared names of that form."""
    sources = [path.read_text() for path in (ROOT / "airflow").rglob("*.py")]
    found = {name for source in sources for name in _SENT.findall(source)}
    return {
        name
        for sent in found
        for name in (
            {declared for declared in DECLARED if re.fullmatch(re.sub(r"\{\w+\}", r"\\w+", sent), declared)} or {sent}
        )
    }


def test_tasks_send_what_verticals_declare() -> None:
    assert list_sent() == DECLARED


@pytest.mark.parametrize("service", ["prometheus", "alertmanager"])
def test_without_its_program_the_remedy_is_named(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (known,) = (it for it in (prometheus.PROMETHEUS, prometheus.ALERTMANAGER) if it.name == service)
    (finding,) = known.check(None)  # type: ignore[arg-type]
    assert not finding.fits
    assert "apt install prometheus prometheus-alertmanager" in finding.text
