"""A real HTTP server that plays a script: it gives the answers it was told to, and notes what it got."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class Answer:
    json: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    after_seconds: float = 0.0


@dataclass(frozen=True)
class Drop:
    """Close the connection: without a word, or after the first bytes of a longer body."""

    after: bytes | None = None
    status: int = 200


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


def error(
    status: int,
    code: str = "some_code",
    message: str = "Some message.",
    *,
    details: Any = None,
    **headers: str,
) -> Answer:
    body = {"error": {"code": code, "message": message, "details": details or {}}, "request_id": "req_1"}
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


class Peer:
    def __init__(self) -> None:
        self.url = ""
        self.received: list[Received] = []
        self._script: deque[Answer | Drop] = deque()

    def plays(self, *script: Answer | Drop) -> None:
        self.received.clear()
        self._script = deque(script)

    @property
    def only_request(self) -> Received:
        (request,) = self.received
        return request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.received.append(await _written_down(request))
        answer = self._script.popleft() if self._script else error(418, "script_is_over")
        if isinstance(answer, Drop):
            await self._drop(answer, scope, receive, send)
        else:
            await asyncio.sleep(answer.after_seconds)
            await _response(answer)(scope, receive, send)

    async def _drop(self, drop: Drop, scope: Scope, receive: Receive, send: Send) -> None:
        if drop.after is not None:
            headers = [(b"content-length", str(len(drop.after) + 100).encode())]
            await send({"type": "http.response.start", "status": drop.status, "headers": headers})
            await send({"type": "http.response.body", "body": drop.after, "more_body": True})
            await asyncio.sleep(0.02)
        scope["state"]["transport"].abort()
        await asyncio.sleep(0.02)  # lets the server notice, else it would complain of a missing answer


async def _written_down(request: Request) -> Received:
    query = list(request.query_params.multi_items())
    path = request.scope["raw_path"].decode()
    body = await request.body()
    return Received(request.method, path, query, dict(request.headers), body, time.monotonic())


def _response(answer: Answer) -> Response:
    if answer.body is not None:
        return StreamingResponse(_in_small_pieces(answer.body), answer.status, answer.headers)
    content = b"" if answer.json is None else json.dumps(answer.json).encode()
    return Response(content, answer.status, answer.headers, "application/json")


async def _in_small_pieces(body: bytes) -> Any:
    for start in range(0, len(body), 7):
        yield body[start : start + 7]


class _Protocol(H11Protocol):
    """Lets the script reach the connection, to cut it."""

    def connection_made(self, transport: Any) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


@contextmanager
def running_peer() -> Iterator[Peer]:
    peer = Peer()
    config = uvicorn.Config(peer, http=_Protocol, ws="none", lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # with proto 0 asyncio would not set TCP_NODELAY
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        peer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield peer
        finally:
            server.should_exit = True
            thread.join()
