# SPDX-License-Identifier: BSD-3-Clause
"""The simulated PyPI as an HTTP server, in a thread of this process; every request noted. What it answers is site's."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.simulator import breakage
from tests.simulator.faults import Fault, Faults
from tests.simulator.history import History
from tests.simulator.site import Site

__all__ = ["Fault", "Request", "Simulator"]

DEADLINE = 20.0  #: seconds for starting and stopping


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered (or was not)."""

    method: str
    path: str
    status: int  #: 0: no answer
    sent: int  #: bytes of the body
    agent: str
    if_none_match: str
    accept: str


class Simulator(History, Faults):
    """A PyPI in a box: ``with Simulator() as pypi: pypi.add_release("alpha"); ... pypi.url``.

    What it is may be changed at any time by these attributes:

    * ``etags``: whether answers carry one;
    * ``json_urls``: absolute, relative or absent, as mirrors differ in that;
    * ``journal_enabled``: False: POST answers 405; ``index_json``: False: index pages are HTML whatever is accepted;
    * ``index_listing``: False: there is none, 404; ``gzip``: whether bodies are packed for those that accept it;
    * ``quarantine_json``: what the JSON of a project in quarantine is: ``missing`` (404) or ``kept``;
    * ``empty_json``: the same of a project without any release; PyPI's is missing, though its index page is there.

    ``legacy``: XML-RPC answers PyPI's old queries too. ``journal_limit``: events of a call at most.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        etags: bool = True,
        json_urls: str = "absolute",
        legacy: bool = False,
        journal_limit: int = 50_000,
        quarantine_json: str = "missing",
        empty_json: str = "kept",
    ) -> None:
        History.__init__(self)
        Faults.__init__(self)
        self.host, self.port = host, port
        self.etags, self.json_urls = etags, json_urls
        self.legacy, self.journal_limit = legacy, journal_limit
        self.quarantine_json, self.empty_json = quarantine_json, empty_json
        self.journal_enabled = self.index_json = self.index_listing = True
        self.gzip = False
        self.requests: list[Request] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @property
    def root(self) -> str:
        """Its address, with a slash at the end."""
        return f"http://{self.host}:{self.port}/"

    @property
    def url(self) -> str:
        """Its simple index: what pip's --index-url and our upstream.simple_url take."""
        return f"{self.root}simple/"

    # What was asked

    def asked(self, path: str = "") -> list[Request]:
        """The requests for paths that contain ``path``."""
        with self.lock:
            return [request for request in self.requests if path in request.path]

    def sent(self) -> int:
        """Bytes of bodies sent so far."""
        return sum(request.sent for request in self.asked())

    def tally(self) -> Counter[int]:
        """How many answers there were of each status."""
        return Counter(request.status for request in self.asked())

    # Running

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen; again on the same port after a stop."""
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="simulator", daemon=True)
        self._thread.start()
        self.port = ready.result(DEADLINE)
        return self

    def stop(self) -> None:
        """Refuse connections from now on; what was added stays."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop = self._thread = None

    def _serve(self, ready: "Future[int]") -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        try:
            port = loop.run_until_complete(self._listen())
        except OSError as error:
            ready.set_exception(error)
            loop.close()
            return
        ready.set_result(port)
        try:
            loop.run_forever()
        finally:
            if self._runner is not None:
                loop.run_until_complete(self._runner.cleanup())
            loop.run_until_complete(_end_tasks(loop))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _listen(self) -> int:
        app = web.Application(middlewares=[self._note, self._misbehave])
        app.add_routes(Site(self).routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        server = site._server
        return int(server.sockets[0].getsockname()[1])  # type: ignore[union-attr]

    # Around every answer

    @web.middleware
    async def _note(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        status, sent = 0, 0
        try:
            response = await handler(request)
            status, sent = response.status, getattr(response, "body_length", 0) or _length(response)
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            headers = request.headers
            entry = Request(
                method=request.method,
                path=request.path,
                status=status,
                sent=sent,
                agent=headers.get("User-Agent", ""),
                if_none_match=headers.get("If-None-Match", ""),
                accept=headers.get("Accept", ""),
            )
            with self.lock:
                self.requests.append(entry)

    @web.middleware
    async def _misbehave(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        planned = self.due_fault(request.path)
        if planned is None:
            return await handler(request)
        if planned.fault is Fault.GAPS:
            self.skip(self.rng.randint(1, 1000))
        return await breakage.answer(request, planned, handler)


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Stalled answers, and connections that nobody closed."""
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _length(response: web.StreamResponse) -> int:
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes | bytearray) else 0
