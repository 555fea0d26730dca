# SPDX-License-Identifier: BSD-3-Clause
"""The addresses of the simulated PyPI and what each answers: index, JSON, files, feeds, XML-RPC, redirects of old.

Owns HTTP's side of the answers; their contents are documents' and rpc's, altered by twist's faults.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web
from packaging.utils import canonicalize_name

from tests.simulator import documents, twist
from tests.simulator.breakage import ELSEWHERE, FAULT
from tests.simulator.negotiation import HTML, SIMPLE_JSON, choose
from tests.simulator.rpc import Rpc
from tests.simulator.things import Project

if TYPE_CHECKING:
    from tests.simulator.server import Simulator

FEEDS = {"rss": "/rss/updates.xml", "packages_rss": "/rss/packages.xml"}  #: by ``:action`` of the old address


class Site:
    """One simulator's answers."""

    def __init__(self, simulator: "Simulator") -> None:
        self.pypi = simulator

    def routes(self) -> list[web.RouteDef]:
        """What is answered by which method."""
        return [
            web.get("/simple/", self._listing),
            web.get("/simple/{name}/", self._page),
            web.get("/simple/{name}", self._with_slash),
            web.get("/pypi/{name}/json", self._json),
            web.get("/pypi/{name}/{version}/json", self._release_json),
            web.get("/files/{filename}", self._file),
            web.get("/packages/{python}/{initial}/{name}/{filename}", self._conveyor),
            web.get("/project/{name}/", self._project_page),
            web.get("/rss/{feed}.xml", self._feed),
            web.get(ELSEWHERE, self._elsewhere),
            web.get("/p/{name}/", self._to_project),
            *(web.post(path, self._rpc) for path in ("/pypi", "/pypi/")),
            *(web.get(path, self._old_feed) for path in ("/pypi", "/pypi/")),
            *(web.get(path, self._to_project) for path in ("/pypi/{name}", "/pypi/{name}/")),
        ]

    # The index

    async def _listing(self, request: web.Request) -> web.Response:
        if not self.pypi.index_listing:
            raise web.HTTPNotFound
        kind = self._kind(request)
        serial, rows = twist.listing(self.pypi, FAULT.get(), self.pypi.rng)
        if kind == SIMPLE_JSON:
            text = json.dumps(documents.listing_json(((row.name, row.serial) for row in rows), serial=serial))
        else:
            text = documents.listing_html((row.name, row.canonical) for row in rows)
        return self._reply(request, text, kind, serial)

    async def _page(self, request: web.Request) -> web.Response:
        kind = self._kind(request)
        project = self._project(request)
        if request.match_info["name"] != project.canonical:
            return _moved(f"/simple/{project.canonical}/")
        files = f"{self.pypi.root}files/"
        if kind == SIMPLE_JSON:
            detail = twist.document(documents.detail(project, files_url=files), FAULT.get())
            return self._reply(request, json.dumps(detail), kind, project.serial)
        return self._reply(request, documents.page(project, files_url=files), kind, project.serial)

    async def _with_slash(self, request: web.Request) -> web.Response:
        return _moved(f"/simple/{quote(request.match_info['name'])}/")

    def _kind(self, request: web.Request) -> str:
        """The type of an index page. Raises HTTPNotAcceptable."""
        kind = choose(request.headers.get("Accept", "")) if self.pypi.index_json else HTML
        if kind is None:
            raise web.HTTPNotAcceptable
        return kind

    # The JSON API

    async def _json(self, request: web.Request) -> web.Response:
        project = self._visible(request)
        document = documents.project_json(project, files_url=f"{self.pypi.root}files/", urls=self.pypi.json_urls)
        return self._reply_json(request, document, project)

    async def _release_json(self, request: web.Request) -> web.Response:
        project, version = self._visible(request), request.match_info["version"]
        files = f"{self.pypi.root}files/"
        document = documents.release_json(project, version, files_url=files, urls=self.pypi.json_urls)
        if document is None:
            raise web.HTTPNotFound
        return self._reply_json(request, document, project)

    def _visible(self, request: web.Request) -> Project:
        """A project whose JSON is to be had. Raises HTTPNotFound."""
        project = self._project(request)
        quarantined = project.status == "quarantined" and self.pypi.quarantine_json == "missing"
        empty = not project.versions and project.document is None and self.pypi.empty_json == "missing"
        if quarantined or empty:
            raise web.HTTPNotFound
        return project

    def _reply_json(self, request: web.Request, document: Any, project: Project) -> web.Response:
        text = json.dumps(twist.document(document, FAULT.get()))
        return self._reply(request, text, "application/json", project.serial)

    # Files

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["filename"]
        file = self.pypi.find_file(name)
        if file is not None:
            return web.Response(body=file.data, content_type="application/octet-stream")
        wheel = self.pypi.find_file(name.removesuffix(".metadata"))
        if wheel is None or wheel.metadata is None:
            raise web.HTTPNotFound
        return web.Response(body=wheel.metadata, content_type="application/octet-stream")

    async def _conveyor(self, request: web.Request) -> web.Response:
        """The predictable address of a file: ``/packages/source/v/virtualenv/virtualenv-15.2.0.tar.gz``."""
        want = request.match_info
        file, project = self.pypi.find_file(want["filename"]), self.pypi.find(want["name"])
        if file is None or project is None or file.filename not in project.files:
            raise web.HTTPNotFound
        if file.python_version != want["python"] or not want["name"].startswith(want["initial"]):
            raise web.HTTPNotFound
        return web.Response(status=302, headers={"Location": f"{self.pypi.root}files/{file.filename}"})

    # XML-RPC

    async def _rpc(self, request: web.Request) -> web.Response:
        if not self.pypi.journal_enabled:
            raise web.HTTPMethodNotAllowed("POST", ["GET"])
        body = await request.read()
        rpc = Rpc(self.pypi, root=self.pypi.root, legacy=self.pypi.legacy, limit=self.pypi.journal_limit)
        answer = rpc.answer(body, FAULT.get(), self.pypi.rng)
        return self._packed(request, web.Response(body=answer, content_type="text/xml", charset="utf-8"))

    async def _old_feed(self, request: web.Request) -> web.Response:
        """``/pypi?:action=rss``; anything else here is XML-RPC's, which is never asked with GET."""
        feed = FEEDS.get(request.query.get(":action", ""))
        if feed is None:
            raise web.HTTPMethodNotAllowed("GET", ["POST"])
        return _moved(feed)

    # For people

    async def _feed(self, request: web.Request) -> web.Response:
        with self.pypi.lock:
            projects, events = list(self.pypi.projects.values()), list(self.pypi.events)
        makers = {
            "updates": lambda: documents.updates_rss(projects, events, root=self.pypi.root),
            "packages": lambda: documents.packages_rss(projects, root=self.pypi.root),
        }
        make = makers.get(request.match_info["feed"])
        if make is None:
            raise web.HTTPNotFound
        return web.Response(text=make(), content_type="text/xml", charset="utf-8")

    async def _project_page(self, request: web.Request) -> web.Response:
        return web.Response(text=documents.project_html(self._project(request)), content_type=HTML)

    async def _to_project(self, request: web.Request) -> web.Response:
        return _moved(f"/project/{quote(request.match_info['name'])}/")

    async def _elsewhere(self, request: web.Request) -> web.Response:
        return web.Response(text=twist.HTML, content_type=HTML)

    # All of them

    def _project(self, request: web.Request) -> Project:
        name = str(canonicalize_name(request.match_info["name"]))
        project = twist.project(self.pypi, name, FAULT.get())
        if project is None:
            raise web.HTTPNotFound
        return project

    def _reply(self, request: web.Request, text: str, kind: str, serial: int) -> web.Response:
        body = text.encode("utf-8", "surrogatepass")
        headers = {"X-PyPI-Last-Serial": str(serial), "Content-Type": kind, "Vary": "Accept"}
        if self.pypi.etags:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
        return self._packed(request, web.Response(body=body, headers=headers))

    def _packed(self, request: web.Request, response: web.Response) -> web.Response:
        if self.pypi.gzip and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response


def _moved(path: str) -> web.Response:
    return web.Response(status=301, headers={"Location": path})
