"""What the blocking client returns that asks the server again: lists, exports, streams of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from ._following import Follow, Following
from ._ndjson import LineSplitter, complete_or_absent
from ._pages import next_page_request
from ._request import Request
from .objects import Listing
from .runs import MessageDelta, Run, RunEvent

if TYPE_CHECKING:
    from ._sync import MemoryClient

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page(Listing[T], Generic[T]):
    """One page of a list. Iterating it goes on to the next pages; `data` is this page alone."""

    _client: MemoryClient = field(repr=False, compare=False)
    _request: Request[Listing[T]] = field(repr=False, compare=False)

    def next_page(self) -> Page[T] | None:
        request = next_page_request(self._request, self)
        return self._client._list(request) if request else None

    def __iter__(self) -> Iterator[T]:
        page: Page[T] | None = self
        while page is not None:
            yield from page.data
            page = page.next_page()


@dataclass(frozen=True)
class Export:
    """A thread, or all of a user, as NDJSON. Nothing is asked of the server until it is iterated or written."""

    _client: MemoryClient = field(repr=False)
    _request: Request[None] = field(repr=False)

    def __iter__(self) -> Iterator[bytes]:
        """Lines, with their line ends; joined, they are the exact bytes of the export."""
        splitter = LineSplitter()
        with closing(self._client._stream(self._request)) as chunks:
            for chunk in chunks:
                yield from splitter.feed(chunk)
        yield from splitter.flush()

    def write_to(self, path: str | os.PathLike[str]) -> None:
        """Write the file, which replaces an older one only once it is complete."""
        with complete_or_absent(path) as file, closing(self._client._stream(self._request)) as chunks:
            for chunk in chunks:
                file.write(chunk)


class RunStream:
    """What is heard of a run, until it stops. A connection that breaks is made again, behind the last event.

    Nothing is asked of the server until it is iterated. Leaving the `with` block, or `close()`, closes the
    connection; it does not end the run.
    """

    def __init__(self, client: MemoryClient, follow: Follow) -> None:
        self._following = Following(follow, client._config.max_retries)
        self._events = client._follow(self._following)

    def __iter__(self) -> Iterator[RunEvent]:
        return self._events

    @property
    def text_deltas(self) -> Iterator[str]:
        """The text of the replies alone, as it comes."""
        return (event.text for event in self if isinstance(event, MessageDelta) and event.type == "text")

    def until_done(self) -> Run:
        """Hear all that is left; returns the run as it stopped."""
        for _ in self:
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

    def close(self) -> None:
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
