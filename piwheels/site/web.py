# SPDX-License-Identifier: BSD-3-Clause
"""``piw-web``: a web server for the published tree, for farms without nginx or Apache.

It owns the HTTP shell around :mod:`piwheels.site.serving`; aiohttp does HTTP itself (ranges, conditional requests,
sendfile). It must not know the database or the master: the site is served whether or not anything else runs.
"""

import argparse
import asyncio
import contextlib
import errno
import functools
import logging
import signal
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path, PurePosixPath

from aiohttp import web

from piwheels import commands
from piwheels.errors import ExitCode, UnavailableError
from piwheels.settings import Settings
from piwheels.site import serving
from piwheels.site.access_log import LineWriter, access_log_class
from piwheels.site.serving import Kind, Wanted

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 2.0
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    # Any page may read any other: everything here is public, and programs in browsers use the JSON API.
    "Access-Control-Allow-Origin": "*",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """Answers requests from one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever its path."""
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"}, text="Only GET and HEAD are served.\n")
        split = serving.segments(request.rel_url.raw_path)
        if split is None:
            return self.not_found()
        names, slash = split
        want = serving.wanted(names)
        loop = asyncio.get_running_loop()
        find = functools.partial(self.find, want, request)
        found = await loop.run_in_executor(None, find)
        if found is None or (slash and found[0].kind is Kind.FILE):
            return self.not_found()
        want, path = found
        if not serving.is_canonical(want, names, slash=slash):
            return self.redirect(request, want)
        return await self.send(request, want, path)

    def find(self, want: Wanted, request: web.Request) -> tuple[Wanted, Path] | None:
        """The file that answers, and what is wanted after a look at the disk; None when there is none."""
        if want.kind is Kind.FILE and (self.root / want.path).is_dir():
            want = Wanted(Kind.PAGE, want.path, want.canonical + "/")
        for name in self.candidates(want, request):
            path = self.root / name
            with contextlib.suppress(OSError):
                # Symbolic links must not lead out of the tree; only regular files are sent.
                real = path.resolve(strict=True)
                if real.is_relative_to(self.root) and real.is_file():
                    return want, path
        return None

    def candidates(self, want: Wanted, request: web.Request) -> tuple[PurePosixPath, ...]:
        """Files, below the root, that can answer; best first."""
        match want.kind:
            case Kind.INDEX:
                return tuple(want.path / name for name in _representation(request).files)
            case Kind.PAGE:
                return (want.path / "index.html",)
            case Kind.JSON:
                return (want.path / "index.json",)
            case Kind.FILE:
                return (want.path,)

    def redirect(self, request: web.Request, want: Wanted) -> web.Response:
        """Send the client to the one spelling that is served."""
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        headers = {"Location": want.canonical + query, "Cache-Control": f"public, max-age={serving.PAGE_SECONDS}"}
        return web.Response(status=301, headers=headers, text=f"Moved to {want.canonical}\n")

    async def send(self, request: web.Request, want: Wanted, path: Path) -> web.StreamResponse:
        """Send a file with the headers that belong to it."""
        media_type, encoding = serving.content_type(path.name)
        headers = {"Cache-Control": serving.cache_control(want.path)}
        vary = ""
        if want.kind is Kind.INDEX:
            representation = _representation(request)
            charset = "; charset=utf-8" if representation is serving.Representation.LEGACY else ""
            media_type = representation + charset
            vary = "Accept"
        headers["Content-Type"] = media_type
        twin = await asyncio.get_running_loop().run_in_executor(None, _packed, path)
        if twin is not None:
            vary = f"{vary}, Accept-Encoding" if vary else "Accept-Encoding"
            if serving.takes(request.headers.get("Accept-Encoding", ""), "zstd"):
                return _File(twin, headers=headers | {"Content-Encoding": "zstd"}, vary=vary)
        if encoding:
            vary = "Accept-Encoding"
            if encoding not in request.headers.get("Accept-Encoding", "").lower():
                return await _send_unpacked(request, path, headers | {"Vary": vary})
            headers["Content-Encoding"] = encoding
        return _File(path, headers=headers, vary=vary)

    def not_found(self) -> web.Response:
        """The site's own 404 page, or a plain one before it is published."""
        headers = {"Cache-Control": f"public, max-age={serving.PAGE_SECONDS}"}
        try:
            body = (self.root / "404.html").read_bytes()
        except OSError:
            return web.Response(status=404, headers=headers, text="There is nothing here.\n")
        return web.Response(status=404, headers=headers, body=body, content_type="text/html", charset="utf-8")


class _File(web.FileResponse):
    """A file that is one of several representations of its URL (aiohttp's sets Vary anew when it sends a .gz)."""

    def __init__(self, path: Path, *, headers: dict[str, str], vary: str) -> None:
        super().__init__(path, headers=headers)
        self.vary = vary


def _packed(path: Path) -> Path | None:
    """The twin that publish wrote beside a page, for clients that take zstd; of gzip's aiohttp knows by itself."""
    twin = path.with_name(f"{path.name}.zst")
    return twin if twin.is_file() and not twin.is_symlink() else None


def _representation(request: web.Request) -> serving.Representation:
    # PEP 691: ?format= is an alternative to Accept that a server may offer.
    return serving.negotiate(request.query.get("format") or ", ".join(request.headers.getall("Accept", ())))


async def _send_unpacked(request: web.Request, path: Path, headers: dict[str, str]) -> web.StreamResponse:
    """Send the content of a gzip file to a client that did not say it can unpack."""
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if request.method == "GET":
        async with contextlib.aclosing(_unpacked(path)) as parts:
            async for part in parts:
                await response.write(part)
    await response.write_eof()
    return response


async def _unpacked(path: Path) -> AsyncGenerator[bytes, None]:
    """The content of a gzip file, in parts of bounded size."""
    loop = asyncio.get_running_loop()
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    with path.open("rb") as file:
        while packed := await loop.run_in_executor(None, file.read, 1 << 16):
            while packed:
                part = unpacker.decompress(packed, 1 << 18)
                if part:
                    yield part
                packed = unpacker.unconsumed_tail
    if rest := unpacker.flush():
        yield rest


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer carries; runs last, after aiohttp has set its own headers."""
    for name, value in SECURITY_HEADERS.items():
        response.headers[name] = value
    response.headers["Server"] = "piw-web"
    if response.status >= 400:
        # A file that vanished between the look and the sending must not be remembered for ever as missing.
        response.headers["Cache-Control"] = f"public, max-age={serving.PAGE_SECONDS}"
    said = f"{response.vary if isinstance(response, _File) else ''}, {response.headers.get('Vary', '')}"
    vary = {word.strip() for word in said.split(",")} - {""}
    if vary:
        response.headers["Vary"] = ", ".join(sorted(vary))


def application(root: Path) -> web.Application:
    """The server's application, for the command and for tests."""
    app = web.Application(client_max_size=1024)
    app.router.add_route("*", r"/{path:[\s\S]*}", Site(root).handle)
    app.on_response_prepare.append(_finish_headers)
    return app


async def serve(root: Path, *, host: str, port: int, access_log: LineWriter | None, stop: asyncio.Event) -> None:
    """Serve until told to stop. Raises UnavailableError when the address cannot be had."""
    writer_class = access_log_class(access_log) if access_log else None
    options = {"access_log_class": writer_class} if writer_class else {"access_log": None}
    runner = web.AppRunner(application(root), shutdown_timeout=SHUTDOWN_SECONDS, keepalive_timeout=30, **options)
    await runner.setup()
    try:
        await _listen(runner, host=host, port=port)
        log.info("serving %s on http://%s:%d/", root, host, port)
        await stop.wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, *, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} on {host} is in use by another program; choose another with --port"
        else:
            text = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise UnavailableError(text) from error


async def _run(root: Path, *, host: str, port: int, access_log: LineWriter | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(root, host=host, port=port, access_log=access_log, stop=stop)


def work(options: argparse.Namespace, settings: Settings) -> int:
    """Serve until a signal ends it."""
    root = options.root or settings.paths.output
    if not root.is_dir():
        raise UnavailableError(f"{root} is not a directory; nothing is published there yet, or --root is wrong")
    writer = LineWriter.standard_output() if options.access_log == "-" else None
    try:
        asyncio.run(_run(root, host=options.host, port=options.port, access_log=writer))
    finally:
        if writer is not None:
            writer.close(timeout=SHUTDOWN_SECONDS)
    return ExitCode.OK


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(prog="piw-web", description="Serve the published tree over HTTP.")
    result.add_argument("--root", type=Path, help="the published tree (default: the setting paths.output)")
    result.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    result.add_argument("--port", type=_port, default=8080, help="port to listen on (default: %(default)s)")
    result.add_argument(
        "--access-log", choices=("-", "none"), default="none", help="-: combined log lines to standard output"
    )
    commands.add_common_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return commands.run(work, parser(), argv, "piw-web")


if __name__ == "__main__":
    raise SystemExit(main())
