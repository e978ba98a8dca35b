"""A provider of models that does as it is told: it speaks Anthropic's protocol and OpenAI's, well or badly.

    with scripted() as provider:
        provider.script(status(429, retry_after="2"), ok("Hello."))       # one after the other, then `respond`
        AsyncAnthropic(base_url=provider.url), AsyncOpenAI(base_url=f"{provider.url}/v1")

A behaviour is said once for both protocols, in Anthropic's blocks. A client that asks for no stream gets one object.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tests.providers.spoken import AnthropicStream, OpenAIStream, Say, anthropic_message, openai_completion

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """A request as it came. `raw` is its body to the byte."""

    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def is_anthropic(self) -> bool:
        return self.path.endswith("/messages")


@dataclass(frozen=True)
class Status:
    """An answer that is no reply."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """These very bytes, head and all, each as a piece of its own; then the connection is closed, or stays open."""

    pieces: Sequence[bytes]
    stays_open: bool = False


Behaviour = Say | Status | Raw


def ok(text: str = "Hello there.", *, delay: float = 0.0, **other: Any) -> Say:
    """`delay` seconds before each word."""
    return Say(({"type": "text", "text": text},), delay_seconds=delay, **other)


def blocks(*content: Mapping[str, Any], **other: Any) -> Say:
    """`input` of a tool_use may be its JSON text, which is then sent as it stands."""
    return Say(content, **other)


def tool_use(name: str, arguments: Mapping[str, Any] | str, *, call_id: str = "toolu_1", **other: Any) -> Say:
    return blocks({"type": "tool_use", "id": call_id, "name": name, "input": arguments}, **other)


def stall(text: str = "One two three.", *, after: int = 0) -> Say:
    """Nothing more comes after so many words. With 0 the head of the answer comes, and nothing else."""
    return replace(ok(text), ends="stall", after=after)


def cut(text: str = "One two three.", *, after: int = 0) -> Say:
    """The connection is closed in the middle."""
    return replace(ok(text), ends="cut", after=after)


def early(text: str = "One two three.", *, after: int = 0) -> Say:
    """The stream ends in good order, but for the end of the reply."""
    return replace(ok(text), ends="early", after=after)


def malformed(text: str = "One two three.", *, after: int = 0) -> Say:
    return replace(ok(text), ends="malformed", after=after)


def stream_error(kind: str, message: str = "Overloaded", *, after: int = 0, text: str = "One two three.") -> Say:
    """An error event in a stream that began with 200."""
    return replace(ok(text), ends="error", after=after, error={"type": kind, "message": message})


def status(
    code: int, *, message: str = "no", kind: str = "error", retry_after: str | None = None, **headers: str
) -> Status:
    told = {"retry-after": retry_after} if retry_after is not None else {}
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    return Status(code, body, {**told, **{name.replace("_", "-"): value for name, value in headers.items()}})


class ScriptedProvider:
    """`asked` are the requests so far, `connections` those open now, `left` how many clients hung up on an answer."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.connections = 0
        self.accepted = 0
        self.left = 0
        self.respond: Callable[[Asked], Behaviour] = lambda asked: ok()
        self._script: deque[Behaviour] = deque()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()

    def script(self, *behaviours: Behaviour) -> None:
        self._script.extend(behaviours)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """For conditions on what is counted here."""
        with self._changed:
            held = self._changed.wait_for(holds, _PATIENCE_SECONDS)
            assert held, f"{len(self.asked)} asked, {self.connections} connected, {self.left} left"

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    def run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = loop.create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(_Reader(), accept)

        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopped.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        with self.changing():
            self.connections += 1
            self.accepted += 1
        try:
            while (asked := await _read_request(reader)) is not None:
                with self.changing():
                    self.asked.append(asked)
                    behaviour = self._script.popleft() if self._script else self.respond(asked)
                if not await self._answer(asked, behaviour, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if reader.left.is_set() else writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            with self.changing():
                self.connections -= 1

    async def _answer(self, asked: Asked, behaviour: Behaviour, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        answering = asyncio.ensure_future(_answer(asked, behaviour, writer))
        leaving = asyncio.ensure_future(reader.left.wait())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and not isinstance(answering.exception(), ConnectionError):
                return answering.result()
            with self.changing():
                self.left += 1
            return False
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


class _Reader(asyncio.StreamReader):
    """Knows when the other side has gone, without reading."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.left.set()

    def set_exception(self, exc: BaseException | type[BaseException]) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self.left.set()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split()[1].split("?")[0], headers, raw)


async def _answer(asked: Asked, behaviour: Behaviour, writer: asyncio.StreamWriter) -> bool:
    match behaviour:
        case Raw():
            for piece in behaviour.pieces:
                writer.write(piece)
                await writer.drain()
            if behaviour.stays_open:
                await asyncio.Event().wait()
            return False
        case Status():
            await _whole(writer, behaviour.status, behaviour.body, behaviour.headers)
            return True
        case Say() if asked.body.get("stream"):
            return await _stream(asked, behaviour, writer)
        case Say():
            message = anthropic_message(behaviour) if asked.is_anthropic else openai_completion(behaviour)
            await _whole(writer, 200, json.dumps(message).encode(), {})
            return True


async def _whole(writer: asyncio.StreamWriter, code: int, body: bytes, headers: Mapping[str, str]) -> None:
    told = {"content-type": "application/json", "content-length": str(len(body)), "request-id": "req_1", **headers}
    lines = [f"HTTP/1.1 {code} Scripted", *(f"{name}: {value}" for name, value in told.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def _stream(asked: Asked, say: Say, writer: asyncio.StreamWriter) -> bool:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    writer.write(head)
    form = AnthropicStream(say) if asked.is_anthropic else OpenAIStream(say)
    for event in form.before():
        _chunk(writer, event)
    for number, (event, is_content) in enumerate(form.content()):
        if say.ends != "whole" and form.shown(number) >= say.after:
            break
        if is_content and say.delay_seconds:
            await writer.drain()
            await asyncio.sleep(say.delay_seconds)
        _chunk(writer, event)
    match say.ends:
        case "stall":
            await writer.drain()
            await asyncio.Event().wait()
        case "malformed":
            _chunk(writer, b'data: {"type": "content_block_delta", "choi\n\n')
        case "error":
            _chunk(writer, form.error())
        case "whole":
            for event in form.after():
                _chunk(writer, event)
    if say.ends != "cut":
        _chunk(writer, b"")
    await writer.drain()
    return say.ends != "cut"


def _chunk(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


@contextmanager
def scripted() -> Iterator[ScriptedProvider]:
    provider, started = ScriptedProvider(), threading.Event()
    thread = threading.Thread(target=provider.run, args=(started,), name="scripted provider")
    thread.start()
    started.wait()
    try:
        yield provider
    finally:
        provider.stop()
        thread.join()
