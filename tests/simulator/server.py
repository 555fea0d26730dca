# SPDX-License-Identifier: BSD-3-Clause
"""The simulated PyPI as an HTTP server, in a thread of this process; faults on demand; every request noted."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.simulator.history import History, Project

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
DEADLINE = 20.0  #: seconds for starting and stopping


class Fault(Enum):
    """How an answer goes wrong."""

    RATE_LIMIT = "429"
    ERROR = "500"
    UNAVAILABLE = "503"
    MISSING = "404"
    FORBIDDEN = "403"
    STALL = "no answer at all"
    TRUNCATE = "half of the body, then the connection breaks"
    DROP = "the connection breaks at once"
    WRONG_TYPE = "an HTML page that says all is well"
    GARBAGE = "the right type, and rubbish"
    HUGE = "a body without an end"
    LOOP = "a redirect to itself"


@dataclass(slots=True)
class _Planned:
    fault: Fault
    path: str
    times: int | None
    retry_after: str | None


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


class Simulator(History):
    """A PyPI in a box: ``with Simulator() as pypi: pypi.add_release("alpha"); ... pypi.url``.

    ``etags`` False: answers carry none. ``json_urls``: absolute, relative or absent, as mirrors differ in that.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, etags: bool = True, json_urls: str = "absolute"
    ) -> None:
        super().__init__()
        self.host, self.port = host, port
        self.etags, self.json_urls = etags, json_urls
        self.requests: list[Request] = []
        self._faults: list[_Planned] = []
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

    # Faults and what was asked

    def fault(self, fault: Fault, *, path: str = "", times: int | None = 1, retry_after: str | None = None) -> None:
        """Let the next ``times`` answers (None: all) to paths that contain ``path`` go wrong."""
        with self.lock:
            self._faults.append(_Planned(fault, path, times, retry_after))

    def clear_faults(self) -> None:
        """All is well again."""
        with self.lock:
            self._faults.clear()

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

    def _due_fault(self, path: str) -> _Planned | None:
        with self.lock:
            for planned in self._faults:
                if planned.path in path and planned.times != 0:
                    if planned.times is not None:
                        planned.times -= 1
                    return planned
        return None

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
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _listen(self) -> int:
        app = web.Application(middlewares=[self._note, self._misbehave])
        app.add_routes(
            [
                web.get("/simple/", self._index),
                web.get("/simple/{name}/", self._page),
                web.get("/simple/{name}", self._with_slash),
                web.get("/pypi/{name}/json", self._json),
                web.get("/pypi/{name}/{version}/json", self._json),
                web.get("/files/{filename}", self._file),
            ]
        )
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
        planned = self._due_fault(request.path)
        if planned is None:
            return await handler(request)
        statuses = {
            Fault.RATE_LIMIT: 429,
            Fault.ERROR: 500,
            Fault.UNAVAILABLE: 503,
            Fault.MISSING: 404,
            Fault.FORBIDDEN: 403,
        }
        if planned.fault in statuses:
            headers = {"Retry-After": planned.retry_after} if planned.retry_after is not None else {}
            return web.Response(status=statuses[planned.fault], text=planned.fault.value, headers=headers)
        if planned.fault is Fault.LOOP:
            return web.Response(status=302, headers={"Location": str(request.rel_url)})
        if planned.fault is Fault.WRONG_TYPE:
            return web.Response(text="<html>Please log in to this network</html>", content_type="text/html")
        if planned.fault is Fault.GARBAGE:
            kind = "application/json" if "json" in request.path else "text/html"
            return web.Response(body=b'{"info": \x00\xff' * 3, content_type=kind)
        return await self._break(request, planned.fault, handler)

    async def _break(
        self,
        request: web.Request,
        fault: Fault,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Faults of the connection."""
        if fault is Fault.STALL:
            await asyncio.sleep(3600)  # until the client leaves or the server stops
        if fault is Fault.DROP:
            _abort(request)
            return web.Response()
        whole = await handler(request)
        body = whole.body if isinstance(whole, web.Response) else b""
        data = bytes(body) if isinstance(body, bytes | bytearray) else b""
        response = web.StreamResponse(headers={"Content-Type": whole.content_type})
        if fault is Fault.HUGE:
            response.enable_chunked_encoding()
            await response.prepare(request)
            for _ in range(100):
                await response.write(b" " * (1 << 20))
            return response
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        _abort(request)
        return response

    # The answers

    async def _index(self, request: web.Request) -> web.Response:
        with self.lock:
            projects = list(self.projects.values())
        if _prefers_json(request):
            names = [{"name": project.name, "_last-serial": project.serial} for project in projects]
            meta = {"api-version": "1.4", "_last-serial": self.serial}
            return self._reply(request, json.dumps({"meta": meta, "projects": names}), SIMPLE_JSON, self.serial)
        links = "\n".join(f'<a href="/simple/{p.canonical}/">{p.name}</a><br>' for p in projects)
        page = f"<!DOCTYPE html><html><head><title>Simple index</title></head><body>\n{links}\n</body></html>"
        return self._reply(request, page, "text/html", self.serial)

    async def _with_slash(self, request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": f"/simple/{request.match_info['name']}/"})

    async def _page(self, request: web.Request) -> web.Response:
        project = self._project(request)
        if request.match_info["name"] != project.canonical:
            return web.Response(status=301, headers={"Location": f"/simple/{project.canonical}/"})
        files = f"{self.root}files/"
        if _prefers_json(request):
            return self._reply(request, json.dumps(self.detail(project, files_url=files)), SIMPLE_JSON, project.serial)
        return self._reply(request, self.page(project, files_url=files), "text/html", project.serial)

    async def _json(self, request: web.Request) -> web.Response:
        project = self._project(request)
        document = self.json(project, files_url=f"{self.root}files/", urls=self.json_urls)
        if (version := request.match_info.get("version")) is not None:
            if version not in document["releases"]:
                raise web.HTTPNotFound
            document = {**document, "urls": document["releases"][version]}
            del document["releases"]
        return self._reply(request, json.dumps(document), "application/json", project.serial)

    async def _file(self, request: web.Request) -> web.Response:
        with self.lock:
            for project in self.projects.values():
                file = project.files.get(request.match_info["filename"])
                if file is not None:
                    return web.Response(body=file.data, content_type="application/octet-stream")
        raise web.HTTPNotFound

    def _project(self, request: web.Request) -> Project:
        project = self.find(request.match_info["name"])
        if project is None:
            raise web.HTTPNotFound
        return project

    def _reply(self, request: web.Request, text: str, kind: str, serial: int) -> web.Response:
        body = text.encode("utf-8", "surrogatepass")
        headers = {"X-PyPI-Last-Serial": str(serial), "Content-Type": kind, "Vary": "Accept"}
        if self.etags:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)


def _prefers_json(request: web.Request) -> bool:
    return SIMPLE_JSON in request.headers.get("Accept", "")


def _length(response: web.StreamResponse) -> int:
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes | bytearray) else 0


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
