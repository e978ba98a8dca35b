"""Following a run over all connections that it takes: the part that knows events but neither sockets nor sleep.

A shell sends `next_request()` until there is none, waiting `delay()` seconds first, shows what comes to `feed()`, and how a
connection ended to `ended()`.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import _retry
from ._errors import APIConnectionError
from ._request import Request, api_path, get, nothing
from ._sse import EventSplitter, ServerSentEvent
from .runs import Run, RunEvent, RunStopped, run_event


@dataclass(frozen=True)
class Follow:
    """A run to follow until it stops: `first` starts it, or makes it go on, or only looks."""

    first: Request[None]
    thread_id: str
    run_id: str | None = None
    after: int | None = None


def events_request(thread_id: str, run_id: str, after: int | None) -> Request[None]:
    path = api_path("threads/{thread_id}/runs/{run_id}", thread_id=thread_id, run_id=run_id)
    headers = () if after is None else (("Last-Event-ID", str(after)),)
    return replace(get(path, nothing, {"stream": "true"}), headers=headers)


class Following:
    def __init__(self, follow: Follow, max_retries: int) -> None:
        # Sent again under the same key it starts nothing new.
        self._first = replace(follow.first, idempotency_key=follow.first.idempotency_key or uuid.uuid4().hex)
        self._thread_id, self._run_id = follow.thread_id, follow.run_id
        self._max_retries = max_retries
        self._failures = 0
        self._heard = self._stopped = False
        self._splitter = EventSplitter()
        self.last_seq = follow.after
        self.run: Run | None = None

    @property
    def stopped_run(self) -> Run:
        assert self.run is not None, "what stops a run tells of it"
        return self.run

    def next_request(self) -> Request[None] | None:
        """None when the run has stopped, and all was heard."""
        if self._stopped:
            return None
        self._splitter = EventSplitter()
        if not self._heard or self._run_id is None:
            return self._first
        return events_request(self._thread_id, self._run_id, self.last_seq)

    def delay(self) -> float:
        """A stream that breaks off is taken up again at once, and ever later while nothing comes of it."""
        waits = min(_retry.FIRST_DELAY_SECONDS * 2.0 ** (self._failures - 2), _retry.LONGEST_DELAY_SECONDS)
        return waits * (1 - random.random() / 2) if self._failures > 1 else 0.0  # noqa: S311

    def feed(self, chunk: bytes) -> Iterator[RunEvent]:
        """Raises ValueError for what is no event."""
        for sent in self._splitter.feed(chunk):
            event = self._new(sent)
            if event is not None:
                yield event

    def ended(self, error: APIConnectionError | None) -> None:
        """The connection is over: `error` if it broke. Raises when it broke too often without anything new."""
        if self._stopped:
            return
        self._failures += 1
        if self._failures > self._max_retries:
            raise error or APIConnectionError("the stream of events ended before the run")

    def _new(self, sent: ServerSentEvent) -> RunEvent | None:
        seq = int(sent.id) if sent.id else None
        if seq is not None and seq <= (self.last_seq or 0):
            return None
        event = run_event(sent.name, seq, json.loads(sent.data))
        self._heard, self._failures = True, 0
        self.last_seq = seq or self.last_seq
        if event is not None and hasattr(event, "run"):
            self.run, self._run_id = event.run, event.run.id
        # A run is shown as it is now: if it has gone on since it waited for tools, there is more to come.
        self._stopped = isinstance(event, RunStopped) and event.event == f"run.{event.run.status}"
        return event
