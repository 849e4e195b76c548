"""An HTTP proxy before the moto server, which can fall silent, refuse access, or lose the answer to a commit."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["pass", "silent", "denied", "lose commits", "lose commits and fall silent", "drop commits", "refuse writes"]

_KEPT = ("content-length", "transfer-encoding", "connection")


class Proxy:
    """What the requests of a test's store meet."""

    def __init__(self, target: str) -> None:
        self.mode: Mode = "pass"
        #: How many commits were stored and not answered.
        self.lost = 0
        #: How many commits "drop commits" has neither forwarded nor answered; after two, writes are refused.
        self.dropped = 0
        self._target = urlsplit(target).netloc
        self._released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *words: object) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Forward a request and its answer, unless the mode says otherwise."""
        body = _read_body(request)
        if self.mode == "silent":
            self._released.wait()
            request.close_connection = True
            return
        commits = request.command == "PUT" and "/_delta_log/" in request.path and request.path.endswith(".json")
        if commits and self.mode == "drop commits":
            self.dropped += 1
            self.mode = "refuse writes" if self.dropped == 2 else "drop commits"
            request.close_connection = True
            return
        if self.mode == "denied" or (self.mode == "refuse writes" and request.command == "PUT"):
            request.send_response(403)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        connection = http.client.HTTPConnection(self._target, timeout=30)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("transfer-encoding", "expect")}
        connection.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if commits and self.mode.startswith("lose commits") and answer.status == 200:
            self.mode = "pass" if self.mode == "lose commits" else "silent"
            self.lost += 1
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _KEPT:
                request.send_header(name, value)
        request.send_header("Content-Length", answer.headers.get("Content-Length") or str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def close(self) -> None:
        """Stop; waiting requests end without an answer."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


def _read_body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = list[bytes]()
    while size := int(request.rfile.readline().partition(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():
        """Skip the headers after the last chunk."""
    return b"".join(parts)


@contextmanager
def before(target: str) -> Iterator[Proxy]:
    """Run a proxy for the time of a block."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
