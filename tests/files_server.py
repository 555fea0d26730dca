# SPDX-License-Identifier: BSD-3-Clause
"""A small HTTP server for tests: serves files of a directory, and answers made to be wrong."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serve(directory: Path, answers: dict[str, Answer] | None = None) -> Iterator[str]:
    """Serve ``directory`` at the address that is yielded; paths in ``answers`` are answered by those."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 20

        def do_GET(self) -> None:
            if answers and self.path in answers:
                answers[self.path](self)
                return
            path = directory / self.path.lstrip("/")
            data = path.read_bytes() if path.is_file() else b"not here"
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

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
