"""What the client for asyncio returns that asks the server again: lists, exports, streams of runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ._following import Follow, Following
from ._ndjson import LineSplitter, complete_or_absent
from ._pages import next_page_request
from ._request import Request
from .objects import Listing
from .runs import MessageDelta, Run, RunEvent

if TYPE_CHECKING:
    from ._async import AsyncMemoryClient

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AsyncPage(Listing[T], Generic[T]):
    """One page of a list. Iterating it goes on to the next pages; `data` is this page alone."""

    _client: AsyncMemoryClient = field(repr=False, compare=False)
    _request: Request[Listing[T]] = field(repr=False, compare=False)

    async def next_page(self) -> AsyncPage[T] | None:
        request = next_page_request(self._request, self)
        return await self._client._list(request) if request else None

    async def __aiter__(self) -> AsyncIterator[T]:
        page: AsyncPage[T] | None = self
        while page is not None:
            for item in page.data:
                yield item
            page = await page.next_page()


@dataclass(frozen=True)
class AsyncPaginator(Generic[T]):
    """Await it for the first page, or iterate it (`async for`) over the items of all pages."""

    _client: AsyncMemoryClient = field(repr=False)
    _request: Request[Listing[T]] = field(repr=False)

    def __await__(self) -> Generator[Any, None, AsyncPage[T]]:
        return self._client._list(self._request).__await__()

    async def __aiter__(self) -> AsyncIterator[T]:
        async for item in await self:
            yield item


@dataclass(frozen=True)
class AsyncExport:
    """A thread, or all of a user, as NDJSON. Nothing is asked of the server until it is iterated or written."""

    _client: AsyncMemoryClient = field(repr=False)
    _request: Request[None] = field(repr=False)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Lines, with their line ends; joined, they are the exact bytes of the export."""
        splitter = LineSplitter()
        async with aclosing(self._client._stream(self._request)) as chunks:
            async for chunk in chunks:
                for line in splitter.feed(chunk):
                    yield line
        for line in splitter.flush():
            yield line

    async def write_to(self, path: str | os.PathLike[str]) -> None:
        """Write the file, which replaces an older one only once it is complete."""
        with complete_or_absent(path) as file:
            async with aclosing(self._client._stream(self._request)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)


class AsyncRunStream:
    """What is heard of a run, until it stops. A connection that breaks is made again, behind the last event.

    Nothing is asked of the server until it is iterated. Leaving the `async with` block, or `close()`, closes the
    connection; it does not end the run.
    """

    def __init__(self, client: AsyncMemoryClient, follow: Follow) -> None:
        self._following = Following(follow, client._config.max_retries)
        self._events = client._follow(self._following)

    def __aiter__(self) -> AsyncIterator[RunEvent]:
        return self._events

    @property
    def text_deltas(self) -> AsyncIterator[str]:
        """The text of the replies alone, as it comes."""
        return (event.text async for event in self if isinstance(event, MessageDelta) and event.type == "text")

    async def until_done(self) -> Run:
        """Hear all that is left; returns the run as it stopped."""
        async for _ in self:
            pass
        return self._following.stopped_run

    @property
    def run(self) -> Run | None:
        """The run as the newest event that told of it showed it."""
        return self._following.run

    @property
    def last_seq(self) -> int | None:
        """That of the newest event, for `resume(…, after=…)`."""
        return self._following.last_seq

    async def close(self) -> None:
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
