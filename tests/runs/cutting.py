"""A way to the service that breaks: each connection is cut after so many bytes of what comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx2


class Cutter:
    """`cuts` says for one connection after the other how many bytes of answers pass; later ones pass whole.

    `open` is how many connections there are now.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = httpx2.URL(upstream)
        self.url = ""
        self.cuts: list[int] = []
        self.open = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()

    def wait_until_open(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.open == count, 30), self.open

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    def run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        connections = set[asyncio.Task[None]]()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.ensure_future(self._connection(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopped.wait()
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        ends, both = [writer], []
        try:
            theirs, upstream = await asyncio.open_connection(self._upstream.host, self._upstream.port)
            ends.append(upstream)
            left = self.cuts.pop(0) if self.cuts else None
            both += [
                asyncio.ensure_future(_pass(reader, upstream, None)),
                asyncio.ensure_future(_pass(theirs, writer, left)),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.close()  # before anything is waited for: who stops waits for nothing
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for end in ends:
                with suppress(OSError):
                    await end.wait_closed()
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self.open += change
            self._changed.notify_all()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
    with suppress(OSError):
        while left != 0 and (received := await reader.read(65536 if left is None else left)):
            writer.write(received)
            await writer.drain()
            left = None if left is None else left - len(received)


@contextmanager
def cutting(upstream: str) -> Iterator[Cutter]:
    cutter, started = Cutter(upstream), threading.Event()
    thread = threading.Thread(target=cutter.run, args=(started,))
    thread.start()
    started.wait()
    try:
        yield cutter
    finally:
        cutter.stop()
        thread.join()
