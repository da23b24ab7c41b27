"""A broker whose transaction markers are delayed by a proxy.

The transaction coordinator writes markers through the inter-broker listener, even to itself. The advertised address is
that of the proxy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.local.isolation import isolated_settings
from infra.local.runner import ports
from infra.local.services import kafka
from infra.local.services.catalog import local_stack
from jobs.kafka import transaction
from jobs.settings import LOOPBACK, Settings


class DelayingProxy:
    """Forwards TCP to a port of the loopback. Data to it waits `delay_s` seconds, and until the proxy is open."""

    def __init__(self, port: int, upstream: int) -> None:
        self.delay_s = 0.0
        self._port, self._upstream = port, upstream
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Event()
        self._gate.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="delaying-proxy", daemon=True)

    def __enter__(self) -> DelayingProxy:
        self._thread.start()
        serving = asyncio.start_server(self._serve, LOOPBACK, self._port)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def close(self) -> None:
        """Hold all data until `open`."""
        self._loop.call_soon_threadsafe(self._gate.clear)

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._gate.set)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(LOOPBACK, self._upstream)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, there[1], is_delayed=True), self._pass(there[0], writer))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_delayed: bool = False
    ) -> None:
        try:
            while data := await reader.read(2**16):
                if is_delayed:
                    await asyncio.sleep(self.delay_s)
                    await self._gate.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other side has closed the connection
        finally:
            writer.close()


@contextmanager
def held_markers(proxy: DelayingProxy, release_after_s: float | None = None) -> Iterator[None]:
    """From the next commit on, hold markers until the end of the block or for `release_after_s` seconds."""
    answered = transaction._call_with_timeout

    def closing(call: Callable[..., object], *arguments: Any) -> None:
        # Close it only now: before, the broker has to query the coordinator about the transaction.
        if call.__name__ == "commit_transaction":
            proxy.close()
            if release_after_s is not None:
                timer = threading.Timer(release_after_s, proxy.open)
                timer.daemon = True
                timer.start()
        answered(call, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "_call_with_timeout", closing)
        try:
            yield
        finally:
            proxy.open()


@contextmanager
def broker_with_proxy() -> Iterator[tuple[Settings, DelayingProxy]]:
    """A Kafka whose markers the proxy can delay. It checks for expired records and transactions twice a second."""
    wanted = isolated_settings()
    inter_broker, advertised = ports.find_free(2)
    properties = kafka._properties

    def with_proxy(settings: Settings) -> str:
        text = properties(settings)
        lines = dict(line.split("=", 1) for line in text.splitlines())
        name = "INTERNAL"
        return text + "".join(
            f"{key}={value}\n"
            for key, value in {
                "listeners": f"{lines['listeners']},{name}://{LOOPBACK}:{inter_broker}",
                "advertised.listeners": f"{lines['advertised.listeners']},{name}://{LOOPBACK}:{advertised}",
                "listener.security.protocol.map": f"{lines['listener.security.protocol.map']},{name}:PLAINTEXT",
                "inter.broker.listener.name": name,
                "log.retention.check.interval.ms": 500,
                "log.initial.task.delay.ms": 500,
                "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
            }.items()
        )

    with pytest.MonkeyPatch.context() as patch, DelayingProxy(advertised, inter_broker) as proxy:
        patch.setattr(kafka, "_properties", with_proxy)
        try:
            local_stack(wanted).up([kafka.NAME])
            yield wanted, proxy
        finally:
            local_stack(wanted).clean()
