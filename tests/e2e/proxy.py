"""A way to Postgres that breaks at a commit: before Postgres hears of it, or before its answer is heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import make_url

Break = Literal["before", "after"]
_COMMIT = b"COMMIT"
_INSERT = b"INSERT INTO "


class _Client:
    """What is executed on a connection. Most statements are named once and then only called by their names."""

    def __init__(self) -> None:
        self._unread = b""
        self._has_begun = False  # the first message has no type
        self._named: dict[bytes, bytes] = {}

    def says(self, received: bytes) -> Iterator[bytes]:
        self._unread += received
        while len(self._unread) >= 5:
            start = 1 if self._has_begun else 0
            end = start + int.from_bytes(self._unread[start : start + 4])
            if len(self._unread) < end:
                return
            type_, body = self._unread[:start], self._unread[start + 4 : end]
            self._unread, self._has_begun = self._unread[end:], True
            if type_ == b"P":
                name, statement, _ = body.split(b"\0", 2)
                self._named[name] = statement
            elif type_ == b"B":
                yield self._named[body.split(b"\0", 2)[1]]
            elif type_ == b"Q":
                yield body.rstrip(b"\0")


class Proxy:
    """Passes bytes between clients and the server's socket. `broken` counts the commits, of inserts, that it broke."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self._upstream = upstream
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen(100)
        self._break_next: Break | None = None
        self._lock = threading.Lock()
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def break_next_commit(self, when: Break) -> None:
        with self._lock:
            self._break_next = when

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._upstream)
                deaf = threading.Event()
                threading.Thread(target=self._to_server, args=(client, server, deaf), daemon=True).start()
                threading.Thread(target=self._to_client, args=(client, server, deaf), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        inserts, heard = False, _Client()
        with suppress(OSError):
            while received := client.recv(65536):
                when = None
                for statement in heard.says(received):
                    # Others commit too: what is only read, and what runs in the background.
                    inserts |= _INSERT in statement
                    if statement == _COMMIT:
                        when = (self._taken() if inserts else None) or when
                        inserts = False
                if when == "before":
                    break
                if when == "after":
                    deaf.set()
                server.sendall(received)
        if not deaf.is_set():
            _end(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while received := server.recv(65536):
                if deaf.is_set():  # the commit is done, and this would say so
                    break
                client.sendall(received)
        _end(client, server)

    def _taken(self) -> Break | None:
        with self._lock:
            when, self._break_next = self._break_next, None
            self.broken += when is not None
            return when


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def proxied(url: str, directory: Path) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the server of `url`, and the URL that leads through it."""
    parsed = make_url(url)
    upstream = Path(str(parsed.query["host"])) / ".s.PGSQL.5432"
    directory.mkdir(exist_ok=True)
    proxy = Proxy(directory, str(upstream))
    try:
        through = parsed.update_query_dict({"host": str(directory)})
        yield proxy, through.render_as_string(hide_password=False)
    finally:
        proxy.close()
