"""A reverse proxy before a service: it tells when a task writes, can hold a request, and refuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
from aiohttp import web
from yarl import URL

from jobs.settings import LOOPBACK

HOLD_S = 30
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"}

IsWrite = Callable[[str, str], bool]


@dataclass
class Trap:
    """Holds the `count`-th write from now on, before or after the service has done it, until `release`.

    Its caller then loses the connection without an answer.
    """

    count: int
    after: bool
    request: str = ""
    caught: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self._released.set()

    def hold(self) -> None:
        self.caught.set()
        self._released.wait(HOLD_S)


@dataclass
class Refusal:
    """From the write behind the first `skip` ones on, answers everything with a status.

    Where `after`, the service has done it nevertheless.
    """

    status: int
    body: str
    after: bool
    skip: int
    count: int = 0
    writes: int = 0
    began: threading.Event = field(default_factory=threading.Event)

    def takes(self, *, is_write: bool) -> bool:
        """Whether this request is refused; counts it."""
        if not self.began.is_set():
            if not is_write:
                return False
            if self.skip:
                self.skip -= 1
                return False
            self.began.set()
        self.count += 1
        self.writes += is_write
        return True


class Gateway:
    """Hands requests on to a port of the loopback; listens on one that the system chooses."""

    def __init__(self, upstream_port: int, is_write: IsWrite) -> None:
        self.url = ""
        self.trap: Trap | None = None
        self.refusal: Refusal | None = None
        self._upstream = f"http://{LOOPBACK}:{upstream_port}"
        self._is_write = is_write
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"gateway-{upstream_port}", daemon=True)

    def __enter__(self) -> Gateway:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.trap:
            self.trap.release()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(HOLD_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        # The emulator serves one connection at a time, and a killed service leaves dead ones behind.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_write = self._is_write(request.method, request.path_qs)
        trap, refusal = self.trap, self.refusal
        if trap and is_write and not trap.request:
            trap.count -= 1
            if trap.count < 1:
                return await self._trapped(trap, request, body)
        if refusal and refusal.takes(is_write=is_write):
            if refusal.after:
                await self._forward(request, body)
            return web.Response(status=refusal.status, text=refusal.body, content_type="application/json")
        answer = await self._forward(request, body)
        return answer if answer is not None else _hang_up(request)

    async def _trapped(self, trap: Trap, request: web.Request, body: bytes) -> web.StreamResponse:
        # Before anything is awaited, so that no second request falls into it.
        trap.request = f"{request.method} {request.path_qs}"
        if trap.after:
            await self._forward(request, body)
        await asyncio.to_thread(trap.hold)
        return _hang_up(request)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response | None:
        """The service's answer; None if it is away."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = URL(f"{self._upstream}{request.raw_path}", encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return None
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
        return web.Response(status=answer.status, body=content, headers=dict(kept))


def _hang_up(request: web.Request) -> web.Response:
    """Lose the connection, as a service does that is killed."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


def is_bulk(method: str, path: str) -> bool:
    return method == "POST" and path.partition("?")[0].endswith("/_bulk")


def is_upload(method: str, path: str) -> bool:
    return method == "POST" and path.startswith("/upload/")
