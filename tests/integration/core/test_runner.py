"""The runner with two services that it does not know: a service is a value, and nothing in the runner names it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from infra.local.runner import ports, processes
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.local.runner.stack import Stack
from jobs.settings import LOOPBACK, Settings

# Answers every GET with JSON; on SIGTERM it waits, writes the file `stopped` and ends.
SERVER = """
import http.server, json, pathlib, signal, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"motto": pathlib.Path("motto.txt").read_text()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def stop(*_):
    time.sleep(0.3)
    pathlib.Path("stopped").touch()
    sys.exit()

signal.signal(signal.SIGTERM, stop)
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class StoreSettings(Settings):
    store_port: int = 0
    shop_port: int = 0
    motto: str = "open"


def _service(name: str, *after: str, code: str = SERVER) -> Service:
    def build(settings: Settings) -> tuple[Process]:
        folder = Paths(settings.datastream_state).service(name)
        command = [sys.executable, "-c", code, str(getattr(settings, f"{name}_port"))]
        return (Process(name, command, {}, folder, {folder / "motto.txt": settings.motto}),)

    def url(settings: Settings) -> str:
        return f"http://{LOOPBACK}:{getattr(settings, f'{name}_port')}"

    def find_fault(settings: Settings) -> str | None:
        return None if get_json(url(settings))["motto"] == settings.motto else "another motto"

    return Service(
        name=name,
        title=name.title(),
        setting=f"{name.upper()}_PORT",
        memory_mib=20,
        url=url,
        expected_at=url,
        build=build,
        find_fault=find_fault,
        after=after,
        stop_s=5,
    )


SERVICES = (_service("shop", "store"), _service("store"))


@pytest.fixture
def settings() -> Iterator[Settings]:
    store, shop = ports.find_free(2)
    state = Path(tempfile.mkdtemp(prefix="ds-runner-")).resolve()
    chosen = StoreSettings(_env_file=None, datastream_state=state, store_port=store, shop_port=shop)
    try:
        yield chosen
    finally:
        Stack(chosen, SERVICES).clean()
    assert not state.exists()


def _up(settings: Settings, *names: str, services: tuple[Service, ...] = SERVICES) -> list[str]:
    """What it prints, without seconds."""
    printed = StringIO()
    Stack(settings, services, Console(file=printed, width=200)).up(names, ready_s=20)
    return [line.partition(" at ")[0] for line in printed.getvalue().splitlines()]


def _states(settings: Settings) -> dict[str, bool]:
    return {entry.state.name: entry.healthy for entry in Stack(settings, SERVICES).status()}


def test_services_start_in_order_and_stop_in_the_opposite_order(settings: Settings) -> None:
    assert _up(settings, "shop", "store") == ["✓ Store is ready", "✓ Shop is ready"]
    assert _states(settings) == {"shop": True, "store": True}
    assert _up(settings, "shop", "store") == ["✓ Store is already running", "✓ Shop is already running"]
    assert Stack(settings, SERVICES).down() is True
    folders = [Paths(settings.datastream_state).service(name) / "stopped" for name in ("shop", "store")]
    shop, store = (file.stat().st_mtime for file in folders)
    assert store - shop > 0.25
    assert not processes.find_all(Paths(settings.datastream_state))


def test_a_service_that_was_not_started_has_no_status(settings: Settings) -> None:
    _up(settings, "store")
    assert _states(settings) == {"store": True}


def test_a_changed_setting_restarts_its_service(settings: Settings) -> None:
    _up(settings, "store")
    changed = settings.model_copy(update={"motto": "closed"})
    assert _up(changed, "store") == ["✓ Store is ready"]
    assert get_json(SERVICES[1].url(changed)) == {"motto": "closed"}


def test_a_service_that_fails_is_named_with_its_log_and_the_others_are_stopped(settings: Settings) -> None:
    broken = (SERVICES[1], _service("shop", "store", code="print('no bread today'); raise SystemExit(7)"))
    with pytest.raises(ServiceFailedError, match=r"(?s)Shop \(shop\): it ended \(exit status 7.*no bread today"):
        _up(settings, "store", "shop", services=broken)
    assert _states(settings) == {}
    assert not processes.find_all(Paths(settings.datastream_state))


def test_a_killed_supervisor_leaves_no_orphans(settings: Settings) -> None:
    _up(settings, "store")
    paths = Paths(settings.datastream_state)
    (store,) = (entry.state.pid for entry in Stack(settings, SERVICES).status())
    psutil.Process(int((paths.run / "supervisord.pid").read_text())).kill()
    stack = Stack(settings, SERVICES)
    assert stack.find_orphans() == 1
    assert stack.status() == []
    assert stack.down() is True
    assert not psutil.pid_exists(store)
