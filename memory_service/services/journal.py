"""The events of runs: written to the database as they happen, and told from there to whoever follows a run, in whichever
process it is executed. Who follows it where it is executed is handed what was written, and does not read it again.

One loop does both for all runs of this process: however many replies come in pieces, the database sees some twenty
statements a second that write, as many that read for others, and one more when a reply begins or ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any
from uuid import UUID

from memory_service.core.canonical import dumps
from memory_service.errors import Unavailable
from memory_service.providers.base import Delta
from memory_service.runtime import Runtime
from memory_service.store import run_events
from memory_service.store.run_events import Place, RunEvent
from memory_service.telemetry import logger

_ROUND_SECONDS = 0.05
_AWAY_SECONDS = 0.5
# Pieces that are joined with the one before, when they belong together.
_JOINED = ("text", "thinking", "tool_input")
_MOST_CHARACTERS = 20_000


class RunLog:
    """What happened in a run and is not written yet. Only the process that executes the run has one."""

    def __init__(self, journal: Journal, run_pk: int, last_seq: int) -> None:
        self.run_pk = run_pk
        self._journal = journal
        self.last_seq = last_seq
        self._last_type = ""
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._characters = 0  # of the last piece that waits

    def add(self, type_: str, content: Mapping[str, Any]) -> None:
        self._waiting.append((type_, dict(content)))
        self._journal.note(self, at_once=type_ == "message.delta" and self._last_type != type_)
        self._last_type = type_

    def add_delta(self, message_id: str, piece: Delta) -> None:
        content: dict[str, Any] = {"message_id": message_id, "index": piece.index, "type": piece.type}
        if piece.type == "tool_use":
            content |= {"id": piece.tool_use_id, "name": piece.tool_name}
        elif self._waiting and self._goes_on(self._waiting[-1], content):
            self._waiting[-1][1]["text"].append(piece.text)
            self._characters += len(piece.text)
            return
        else:
            content["text"] = [piece.text]
            self._characters = len(piece.text)
        self.add("message.delta", content)

    def _goes_on(self, last: tuple[str, dict[str, Any]], content: Mapping[str, Any]) -> bool:
        type_, before = last
        if self._characters > _MOST_CHARACTERS:
            return False
        same = all(before.get(key) == content[key] for key in ("message_id", "index", "type"))
        return type_ == "message.delta" and same and content["type"] in _JOINED

    def drain(self) -> list[RunEvent]:
        """What waits, as events that follow those before."""
        events = []
        for type_, content in self._waiting:
            self.last_seq += 1
            if isinstance(content.get("text"), list):
                content["text"] = "".join(content["text"])
            events.append(RunEvent(self.run_pk, self.last_seq, type_, dumps(content)))
        self._waiting.clear()
        return events


class _Reader:
    """Somebody who waits for the events behind a place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.found: asyncio.Future[list[RunEvent]] = asyncio.get_running_loop().create_future()


class Journal:
    """`server` is who writes here, as the runs that it works on name it."""

    def __init__(self, runtime: Runtime, server: UUID) -> None:
        self._runtime = runtime
        self._server = server
        self._logs: dict[int, RunLog] = {}  # those with something to write
        self._unwritten: list[RunEvent] = []
        self._written: dict[int, int] = {}  # the newest event of each run that this process works on
        self._readers: set[_Reader] = set()
        self._wake = asyncio.Event()
        self._at_once = asyncio.Event()
        self._writing = asyncio.Lock()
        self._catching_up = asyncio.Lock()  # one reader at a time: there are few connections
        self._is_stopping = False

    def open(self, run_pk: int, last_seq: int) -> RunLog:
        """For a run that only this process writes events of, from now on until it is closed."""
        self._written[run_pk] = last_seq
        return RunLog(self, run_pk, last_seq)

    def close(self, run_pk: int, events: Sequence[RunEvent]) -> None:
        """`events` are the last of the run, which somebody else wrote. None: it was ended elsewhere or deleted, and whoever
        follows it looks for himself."""
        self._written.pop(run_pk, None)
        self._hand_on(events)
        if not events:
            for reader in [reader for reader in self._readers if reader.place[0] == run_pk]:
                self._answer(reader, [])

    def note(self, log: RunLog, *, at_once: bool) -> None:
        """There is something to write: with the next round, or now, because it is the first that a model says."""
        self._logs[log.run_pk] = log
        self.wake() if at_once else self._wake.set()

    def wake(self) -> None:
        """Somebody waits for what there is to read: a run has ended."""
        self._at_once.set()
        self._wake.set()

    async def next_events(self, run_pk: int, after: int, seconds: float, *, is_behind: bool = False) -> list[RunEvent]:
        """The events of a run after a seq, in order, as soon as there are any; none when there are none for so long.

        With `is_behind` there probably are some: they are read now, and wait for no round. Raises Unavailable when the
        service stops.
        """
        place = (run_pk, after)
        found = await self._next_page(place) if is_behind else []
        found = found or await self._wait(place, seconds)
        if not found and self._is_stopping and not (found := await self._next_page(place)):
            raise Unavailable("The service is stopping; follow the run again.")
        return found

    async def _next_page(self, place: Place) -> list[RunEvent]:
        with suppress(Unavailable):  # a round may find them, later
            async with self._catching_up, self._runtime.worker_db.read_only(None) as session:
                return (await run_events.events_after(session, [place])).get(place, [])
        return []

    async def _wait(self, place: Place, seconds: float) -> list[RunEvent]:
        if self._is_stopping:
            return []
        reader = _Reader(place)
        self._readers.add(reader)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                return await reader.found
        except TimeoutError:
            return []
        finally:
            self._readers.discard(reader)

    def stop(self) -> None:
        """From now on nobody waits here for what is still to come."""
        self._is_stopping = True
        for reader in [*self._readers]:
            self._answer(reader, [])

    async def take(self, log: RunLog) -> list[RunEvent]:
        """What of a run is not written, once all before it is: the caller writes it, in a transaction of its own."""
        async with self._writing:
            taken = [event for event in self._unwritten if event.run_pk == log.run_pk]
            self._unwritten = [event for event in self._unwritten if event.run_pk != log.run_pk]
            self._logs.pop(log.run_pk, None)
            return [*taken, *log.drain()]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._round()
            except Unavailable:
                await asyncio.sleep(_AWAY_SECONDS)  # what is not written waits
            except Exception:
                logger.exception("writing the events of runs failed")
                await asyncio.sleep(_AWAY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self._at_once.wait()
            self._at_once.clear()
            if self._readers or self._logs or self._unwritten:
                self._wake.set()

    async def _round(self) -> None:
        async with self._writing:
            for log in self._logs.values():
                self._unwritten += log.drain()
            self._logs.clear()
            written = await self._write()
        self._hand_on(written)
        if places := self._places():
            async with self._runtime.worker_db.read_only(None) as session:
                found = await run_events.events_after(session, places)
            for reader in [*self._readers]:
                self._give(reader, found.get(reader.place, []))

    async def _write(self) -> list[RunEvent]:
        """What was written. Of a run that is no longer ours nothing is, and all there is is read."""
        if not self._unwritten:
            return []
        ours = await run_events.write_events(self._runtime.worker_db, self._server, self._unwritten)
        unwritten, self._unwritten = self._unwritten, []
        for lost in {event.run_pk for event in unwritten} - ours:
            self._written.pop(lost, None)
        written = [event for event in unwritten if event.run_pk in ours]
        self._written |= {event.run_pk: event.seq for event in written if event.run_pk in self._written}
        return written

    def _places(self) -> list[Place]:
        """From where on events are to be read. Who has all that is written waits for what will be."""
        return list({r.place for r in self._readers if r.place[1] < self._written.get(r.place[0], inf)})

    def _hand_on(self, written: Sequence[RunEvent]) -> None:
        """Give what was just written to those who have all before it; others read it."""
        by_run: dict[int, list[RunEvent]] = {}
        for event in written:
            by_run.setdefault(event.run_pk, []).append(event)
        for reader in [*self._readers]:
            run_pk, after = reader.place
            events = by_run.get(run_pk)
            if events and after + 1 >= events[0].seq:
                self._give(reader, [event for event in events if event.seq > after])

    def _give(self, reader: _Reader, events: list[RunEvent]) -> None:
        if events:
            self._answer(reader, events)

    def _answer(self, reader: _Reader, events: list[RunEvent]) -> None:
        if not reader.found.done():
            reader.found.set_result(events)
            self._readers.discard(reader)
