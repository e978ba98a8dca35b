"""The events of runs: written to the database as they happen, and read from there by whoever follows a run, in whichever
process it is executed.

One loop does both for all runs of this process, in one transaction a round: however many replies come in pieces, the
database sees some twenty transactions a second, and one more when a reply begins or ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any

from memory_service.core.canonical import dumps
from memory_service.errors import Unavailable
from memory_service.providers.base import Delta
from memory_service.runtime import Runtime
from memory_service.store import runs as store
from memory_service.store.runs import RunEvent
from memory_service.telemetry import logger

_ROUND_SECONDS = 0.05
_AWAY_SECONDS = 0.5
# Pieces that are joined with the one before, when they belong together.
_JOINED = ("text", "thinking", "tool_input")


class RunLog:
    """What happened in a run and is not written yet. Only the process that executes the run has one."""

    def __init__(self, journal: Journal, run_pk: int, last_seq: int) -> None:
        self.run_pk = run_pk
        self._journal = journal
        self.last_seq = last_seq
        self._last_type = ""
        self._waiting: list[tuple[str, dict[str, Any]]] = []

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
            return
        else:
            content["text"] = [piece.text]
        self.add("message.delta", content)

    @staticmethod
    def _goes_on(last: tuple[str, dict[str, Any]], content: Mapping[str, Any]) -> bool:
        type_, before = last
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
    """Somebody who waits for the events of a run after `after`."""

    def __init__(self, run_pk: int, after: int) -> None:
        self.run_pk = run_pk
        self.after = after
        self.found: asyncio.Future[list[RunEvent]] = asyncio.get_running_loop().create_future()


class Journal:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._logs: dict[int, RunLog] = {}  # those with something to write
        self._unwritten: list[RunEvent] = []
        self._written: dict[int, int] = {}  # the newest event of each run that this process works on
        self._readers: set[_Reader] = set()
        self._wake = asyncio.Event()
        self._at_once = asyncio.Event()
        self._writing = asyncio.Lock()

    def open(self, run_pk: int, last_seq: int) -> RunLog:
        """For a run that only this process writes events of, from now on until it is closed."""
        self._written[run_pk] = last_seq
        return RunLog(self, run_pk, last_seq)

    def close(self, run_pk: int, events: Sequence[RunEvent]) -> None:
        """`events` are the last of the run, which somebody else wrote; all there are when none."""
        self._written.pop(run_pk, None)
        self._hand_on(events)
        if not events:
            self.wake()

    def note(self, log: RunLog, *, at_once: bool) -> None:
        """There is something to write: with the next round, or now, because it is the first that a model says."""
        self._logs[log.run_pk] = log
        self.wake() if at_once else self._wake.set()

    def wake(self) -> None:
        """Somebody waits for what there is to read: a run has ended."""
        self._at_once.set()
        self._wake.set()

    async def next_events(self, run_pk: int, after: int, seconds: float) -> list[RunEvent]:
        """The events of a run after a seq, in order, as soon as there are any; none when there are none for so long."""
        reader = _Reader(run_pk, after)
        self._readers.add(reader)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                return await reader.found
        except TimeoutError:
            return []
        finally:
            self._readers.discard(reader)

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
            places = self._places()
            if not self._unwritten and not places:
                return
            async with self._runtime.worker_db.transaction(None) as session:
                if self._unwritten:
                    await store.add_events(session, self._unwritten)
                found = await store.events_after(session, places) if places else []
            written, self._unwritten = self._unwritten, []
            self._written |= {event.run_pk: event.seq for event in written if event.run_pk in self._written}
        self._hand_out(found)
        self._hand_on(written)

    def _places(self) -> dict[int, int]:
        """From where on the events of which runs are to be read. Who has all that is written waits for what will be."""
        places: dict[int, int] = {}
        for reader in self._readers:
            if reader.after < self._written.get(reader.run_pk, reader.after + 1):
                places[reader.run_pk] = min(reader.after, places.get(reader.run_pk, reader.after))
        return places

    def _hand_on(self, written: Sequence[RunEvent]) -> None:
        """Give what was just written to those who have all before it; others read it."""
        firsts: dict[int, int] = {}
        for event in written:
            firsts.setdefault(event.run_pk, event.seq)
        self._hand_out(
            written, {reader for reader in self._readers if reader.after + 1 >= firsts.get(reader.run_pk, inf)}
        )

    def _hand_out(self, found: Sequence[RunEvent], readers: Collection[_Reader] | None = None) -> None:
        by_run: dict[int, list[RunEvent]] = {}
        for event in found:
            by_run.setdefault(event.run_pk, []).append(event)
        for reader in [*(self._readers if readers is None else readers)]:
            events = [event for event in by_run.get(reader.run_pk, ()) if event.seq > reader.after]
            if events and not reader.found.done():
                reader.found.set_result(events)
                self._readers.discard(reader)
