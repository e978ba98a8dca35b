"""A server that counts tokens as Anthropic's API does: one for each byte of text, or whatever a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def text_bytes(value: Any) -> int:
    """Of all that is text in a request, but for the names of things."""
    if isinstance(value, dict):
        return sum(text_bytes(held) for key, held in value.items() if key not in ("type", "role", "model"))
    if isinstance(value, list):
        return sum(map(text_bytes, value))
    return len(value.encode()) if isinstance(value, str) else 0


class CountingServer(ThreadingHTTPServer):
    """`answer` gives status and body for a request, None to leave it waiting. `asked` is what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        self.answer: Callable[[dict[str, Any]], tuple[int, Any] | None] = counted

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def counted(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"input_tokens": text_bytes(body)}


class _Handler(BaseHTTPRequestHandler):
    server: CountingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.paths.append(self.path)
        answer = self.server.answer(body)
        if answer is None:
            self.server.closing.wait()
            return
        status, said = answer
        content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@contextmanager
def counting() -> Iterator[CountingServer]:
    with CountingServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
