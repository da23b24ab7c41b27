"""The findings of the checks before a start, and how they are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from jobs.errors import ConfigurationError


class PreflightError(ConfigurationError):
    """This machine or a setting does not allow a start. Nothing was downloaded and nothing was started."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; a fault's text names the remedy."""

    check: str
    fits: bool
    text: str
    is_advice: bool = False  # it works, but could be better


def distinct_ports(ports: Iterable[tuple[str, int]]) -> list[Finding]:
    """A fault for each port that more than one setting names."""
    by_port = defaultdict(list)
    for setting, port in ports:
        by_port[port].append(setting)
    return [
        Finding("Ports", False, f"{' and '.join(settings)} are both {port}: give each its own in .env.")
        for port, settings in by_port.items()
        if len(settings) > 1
    ]


def demand(findings: Iterable[Finding]) -> None:
    """
    Raises:
        PreflightError: names every fault at once.
    """
    faults = [finding.text for finding in findings if not finding.fits]
    if faults:
        raise PreflightError("\n".join(f"- {fault}" for fault in faults))


def show(findings: Iterable[Finding], console: Console) -> None:
    """A line for each."""
    for finding in findings:
        mark = "[red]✗[/]" if not finding.fits else "[yellow]![/]" if finding.is_advice else "[green]✓[/]"
        console.print(f"{mark} {finding.check}: {escape(finding.text)}", highlight=False, soft_wrap=True)
