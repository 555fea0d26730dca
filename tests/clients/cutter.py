# SPDX-License-Identifier: BSD-3-Clause
"""A line to the shop that breaks off once in the middle of a wheel, as lines do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

AFTER = 1_000_000  #: bytes of a wheel that come through the first time
PASSED_ON = ("Accept", "Accept-Encoding", "Range", "If-Range", "If-None-Match", "User-Agent")


@contextmanager
def cutting(host: str, port: int) -> Iterator[str]:
    """The address of a line to ``host``."""
    cut = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            connection = HTTPConnection(host, port, timeout=20)
            try:
                headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            finally:
                connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if len(body) > AFTER and not cut.is_set():
                cut.set()
                self.wfile.write(body[:AFTER])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)
