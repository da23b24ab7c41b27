"""Prometheus and Alertmanager with the stack's own rules, all durations divided, so that alerts fire in seconds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import requests
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from infra.alertmanager import make_configuration
from infra.local.runner import ports
from infra.local.services.prometheus import RULES, find_program, make_prometheus_configuration
from jobs.clients import make_local_session
from jobs.inherited import make_environment
from tests.testkit.wait import until

FACTOR = 20
SCRAPE_S = 15 / FACTOR
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"(\d+)([smhd])"


def scale(duration: str) -> str:
    """A duration of Prometheus, divided by FACTOR: `5m` is `15000ms`."""
    number, unit = re.fullmatch(_DURATION, duration).groups()
    return f"{int(number) * _UNITS_MS[unit] // FACTOR}ms"


def scale_rules(rules: dict[str, Any]) -> dict[str, Any]:
    """A rule file whose windows, offsets and `for` are divided by FACTOR."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            pattern = rf"(?<=\[){_DURATION}(?=\])|(?<=offset ){_DURATION}"
            rule["expr"] = re.sub(pattern, lambda found: scale(found[0]), rule["expr"])
            if "for" in rule:
                rule["for"] = scale(rule["for"])
    return rules


def read_holds() -> dict[str, float]:
    """The scaled `for` of each alert in seconds."""
    rules = [rule for file in RULES.glob("*.yml") for group in _load(file)["groups"] for rule in group["rules"]]
    return {
        rule["alert"]: int(scale(rule.get("for", "0s")).removesuffix("ms")) / 1000 for rule in rules if "alert" in rule
    }


def _load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@dataclass
class Inbox:
    """The alerts that a webhook has received, by name: when each was first seen firing, and last seen resolved."""

    received: list[dict[str, Any]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def take(self, request: Request) -> Response:
        with self.lock:
            self.received += request.get_json()["alerts"]
        return Response(status=200)

    def find(self, status: str, name: str, after: float, **labels: str) -> dict[str, Any] | None:
        """The first alert with that status that changed to it after a time."""
        key = "startsAt" if status == "firing" else "endsAt"
        with self.lock:
            return next(
                (
                    alert
                    for alert in self.received
                    if alert["status"] == status
                    and alert["labels"].items() >= {"alertname": name, **labels}.items()
                    and _parse(alert[key]) > after
                ),
                None,
            )


def _parse(text: str) -> float:
    return datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", text)).timestamp()


@dataclass(frozen=True)
class Watch:
    """A running Prometheus, and the inbox of its Alertmanager's webhook."""

    url: str
    inbox: Inbox

    def list_alerts(self) -> list[dict[str, Any]]:
        return make_local_session().get(f"{self.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]

    def list_firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.list_alerts() if alert["state"] == "firing"}


@contextmanager
def watch(settings: Any, folder: Path) -> Iterator[Watch]:
    """Run both beside a stack with these settings."""
    inbox = Inbox()
    with ExitStack() as stack:
        server = stack.enter_context(HTTPServer(host="127.0.0.1"))
        server.expect_request("/alerts").respond_with_handler(inbox.take)
        receivers = folder / "receivers.yml"
        receivers.write_text(
            yaml.safe_dump({"webhook_configs": [{"url": server.url_for("/alerts"), "send_resolved": True}]})
        )
        prometheus, alertmanager = ports.find_free(2)
        settings = settings.model_copy(
            update={
                "observability_prometheus_port": prometheus,
                "observability_alertmanager_port": alertmanager,
                "observability_receivers": str(receivers),
            }
        )
        routing = yaml.safe_load(make_configuration(settings))
        for name in ("group_wait", "group_interval", "repeat_interval"):
            routing["route"][name] = scale(routing["route"][name])
        routes = folder / "alertmanager.yml"
        routes.write_text(yaml.safe_dump(routing))
        rules = folder / "rules"
        rules.mkdir()
        for file in RULES.glob("*.yml"):
            (rules / file.name).write_text(yaml.safe_dump(scale_rules(_load(file))))
        configuration = folder / "prometheus.yml"
        configuration.write_text(make_prometheus_configuration(settings, rules, f"{round(SCRAPE_S * 1000)}ms"))
        stack.enter_context(
            _run(
                find_program("alertmanager"), f"--config.file={routes}", f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=",
                log=folder / "alertmanager.log",
            )
        )  # fmt: skip
        stack.enter_context(
            _run(
                find_program("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{prometheus}", log=folder / "prometheus.log",
            )
        )  # fmt: skip
        for port in (prometheus, alertmanager):
            until(lambda port=port: _is_ready(port), f"port {port} is ready")
        yield Watch(f"http://127.0.0.1:{prometheus}", inbox)


@contextmanager
def _run(program: str, *arguments: str, log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen([program, *arguments], env=make_environment(), stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _is_ready(port: int) -> bool:
    try:
        return make_local_session().get(f"http://127.0.0.1:{port}/-/ready", timeout=2).ok
    except requests.RequestException:
        return False
