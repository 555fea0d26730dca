# SPDX-License-Identifier: BSD-3-Clause
"""The faults that concern an answer as a whole (faults.py): its status, its type, its connection, where it sends to.

Faults of content are left to whoever makes the content: they find theirs in FAULT.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar

from aiohttp import web

from tests.simulator import twist
from tests.simulator.faults import STATUSES, Fault, Planned
from tests.simulator.negotiation import HTML, choose

FAULT: ContextVar[Fault | None] = ContextVar("FAULT", default=None)
ELSEWHERE = "/elsewhere/"
HUGE_CHUNKS = 100  #: of a megabyte

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answer(request: web.Request, planned: Planned, handler: Handler) -> web.StreamResponse:
    """The answer as the fault makes it."""
    fault = planned.fault
    if fault in STATUSES or (fault is Fault.RPC_LIMIT and not is_rpc(request)):
        headers = {"Retry-After": planned.retry_after} if planned.retry_after is not None else {}
        return web.Response(status=STATUSES.get(fault, 429), text=fault.value, headers=headers)
    if fault is Fault.LOOP:
        return web.Response(status=302, headers={"Location": str(request.rel_url)})
    if fault is Fault.REDIRECT:
        return web.Response(status=302, headers={"Location": ELSEWHERE})
    body = _other_body(request, fault)
    if body is not None:
        return web.Response(body=body, content_type=HTML if fault is Fault.WRONG_TYPE else due_type(request))
    if fault in (Fault.STALL, Fault.DROP, Fault.TRUNCATE, Fault.HUGE):
        return await _break(request, fault, handler)
    token = FAULT.set(fault)
    try:
        return await handler(request)
    finally:
        FAULT.reset(token)


def is_rpc(request: web.Request) -> bool:
    """Whether this is a call of XML-RPC."""
    return request.method == "POST" and request.path.rstrip("/") == "/pypi"


def due_type(request: web.Request) -> str:
    """The type that the right answer would have."""
    path = request.path
    if is_rpc(request) or path.endswith(".xml"):
        return "text/xml"
    if path.startswith("/files/"):
        return "application/octet-stream"
    if path.startswith("/simple/"):
        return choose(request.headers.get("Accept", "")) or HTML
    return "application/json" if path.endswith("/json") else HTML


def _other_body(request: web.Request, fault: Fault) -> bytes | None:
    if fault in (Fault.WRONG_TYPE, Fault.HTML):
        return twist.HTML.encode()
    if fault is Fault.GARBAGE:
        return b'{"info": \x00\xff' * 3
    return twist.bomb(due_type(request)) if fault is Fault.XML_BOMB else None


async def _break(request: web.Request, fault: Fault, handler: Handler) -> web.StreamResponse:
    """Faults of the connection."""
    if fault is Fault.STALL:
        await asyncio.sleep(3600)  # until the client leaves or the server stops
    if fault is Fault.DROP:
        _abort(request)
        return web.Response()
    whole = await handler(request)
    response = web.StreamResponse(headers={"Content-Type": whole.content_type})
    if fault is Fault.HUGE:
        return await _endless(request, response)
    body = whole.body if isinstance(whole, web.Response) else b""
    data = bytes(body) if isinstance(body, bytes | bytearray) else b""
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    _abort(request)
    return response


async def _endless(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    response.enable_chunked_encoding()
    await response.prepare(request)
    with suppress(ConnectionError):  # clients are meant to leave
        for _ in range(HUGE_CHUNKS):
            await response.write(b" " * (1 << 20))
    return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
