"""The process that executes runs, and sees to those that another one left.

A run belongs to the process that works on it. Each process writes a beat; what a dead one left is ended by any other
within seconds. What is queued for a thread is started by whoever ended the run before it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from memory_service.core.canonical import loads
from memory_service.errors import Conflict, InvalidInput, MemoryServiceError, NotFound, NoUserMessage, Unavailable
from memory_service.runtime import Runtime, new_id, now_utc
from memory_service.services import ingest
from memory_service.services.calling import Ending, Job, Left, call_model, error_of
from memory_service.services.ending import Ended, end, end_idle, end_stray
from memory_service.services.journal import Journal
from memory_service.services.run_spec import RunSpec
from memory_service.store import run_events
from memory_service.store import runs as store
from memory_service.store.messages import NewMessage
from memory_service.store.run_events import RunEvent
from memory_service.store.runs import RunRecord, Stray
from memory_service.store.threads import get_thread
from memory_service.telemetry import logger

_BEAT_SECONDS = 1.0
# A server that wrote no beat for so long is taken for dead.
_DEAD_AFTER_SECONDS = 6.0
# After a longer pause than this between two beats it may be the database that was away, for the others too.
_LONGEST_PAUSE_SECONDS = 3.0
_END_PAUSE_SECONDS = 0.5
_STOP_SECONDS = 5.0
_READY_SECONDS = 10.0
_STOPPING = {
    "code": "server_stopping",
    "message": "The service was stopped while it worked on this run; what the model had said is kept. Start another run.",
    "details": {},
}


@dataclass(slots=True)
class _Work:
    """A job that is being done. `interruptible` while it waits for the model; `stop`: why, when not for its caller."""

    job: Job
    task: asyncio.Task[None] | None = None
    interruptible: bool = False
    stop: Mapping[str, Any] | None = None


class Runner:
    """Executes the runs of this process, and follows all. `busy` is held while a run is worked on, so that a service
    which stops waits for it; from when `is_stopping` no queued run is begun."""

    def __init__(
        self,
        runtime: Runtime,
        busy: Callable[[], AbstractContextManager[None]],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._busy = busy
        self._is_stopping = is_stopping
        self._works: dict[int, _Work] = {}
        self._unknown: frozenset[int] = frozenset()
        self.server: UUID = uuid4()
        self.journal = Journal(runtime, self.server)
        self._has_stopped = False
        self._has_beaten = asyncio.Event()
        self._steady_since = -math.inf  # since when a beat comes soon after the other

    async def run(self) -> None:
        """Until cancelled; then what is still worked on is ended as it stands."""
        following = asyncio.create_task(self.journal.run())
        # Beside the beat: a server that has much to see to is not dead.
        rescuing = asyncio.create_task(_forever(self._rescue_all))
        try:
            await _forever(self._beat)
        finally:
            rescuing.cancel()
            await asyncio.gather(rescuing, return_exceptions=True)
            await self._stop()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def ready(self) -> None:
        """Before a run begins here: of a server that wrote no beat yet it would be taken, as of a dead one. Raises
        Unavailable."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._has_beaten.wait()
        except TimeoutError:
            raise Unavailable("The service is still starting; try again.") from None

    def start(
        self,
        project_id: int,
        thread_id: str,
        run: RunRecord,
        now: datetime,
        last_event_seq: int,
        left: Left | None = None,
    ) -> None:
        """Work on a run that this server owns. `now` is the time of the request that asked for it; `left` is how what
        began it left the thread, where its prompt was stored then, and told of."""
        began = time.monotonic()

        def clock() -> datetime:
            return now + timedelta(seconds=time.monotonic() - began)

        log = self.journal.open(run.pk, last_event_seq)
        spec = RunSpec.from_json(run.spec)
        prompt = left.shown if left else None
        work = _Work(Job(project_id, thread_id, run, spec, log, clock, new_id("msg", now), left=left, prompt=prompt))
        self._works[run.pk] = work
        work.task = asyncio.create_task(self._work(work))

    def cancel(self, run_pk: int) -> None:
        """Stop a run that this process works on, if it waits for the model; one that is being ended is ended."""
        work = self._works.get(run_pk)
        if work and work.interruptible and work.task:
            work.interruptible = False  # once: a second time would disturb how the first is seen to
            work.task.cancel()

    async def _work(self, work: _Work) -> None:
        job = work.job
        ended: Ended | None = None
        try:
            with self._busy():
                ended = await self._end(job, await self._ending(work))
        except Exception:
            logger.exception("a run could not be ended", extra={"fields": {"run": job.run.id}})
        finally:
            if self._works.get(job.run.pk) is work:  # else the run goes on already: the connection broke at the commit
                del self._works[job.run.pk]
                self.journal.close(job.run.pk, ended.events if ended else ())
        if ended is None or ended.is_waited_for:
            await self.start_next(job.project_id, job.thread_id)

    async def _ending(self, work: _Work) -> Ending:
        job = work.job
        if work.stop:
            return Ending("failed", error=work.stop)
        left = job.spec.timeout_seconds - job.spent.seconds
        work.interruptible = True
        try:
            async with asyncio.timeout(max(left, 0.0)):
                return await call_model(self._runtime, job)
        except TimeoutError:
            return Ending("failed", error=_timed_out(job.spec))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            return Ending("failed", error=work.stop) if work.stop else Ending("cancelled")
        except MemoryServiceError as error:
            return Ending("failed", error=error_of(error))
        except Exception:
            logger.exception("a run failed", extra={"fields": {"run": job.run.id}})
            return Ending("failed", error=error_of(MemoryServiceError("Something unforeseen went wrong.")))
        finally:
            work.interruptible = False

    async def _end(self, job: Job, ending: Ending) -> Ended | None:
        """As soon as the database lets us; a reply that cannot be kept as it is, by its text."""
        events: list[RunEvent] = []
        while True:
            events += await self.journal.take(job.log)
            try:
                return await end(self._runtime, self.server, job, ending, events)
            except Unavailable:
                await asyncio.sleep(_END_PAUSE_SECONDS)
            except Exception as error:
                if ending.reply is None and not job.heard:
                    raise
                ending = _without(ending, job, error)

    async def start_next(self, project_id: int, thread_id: str) -> None:
        """Start the run that has waited longest for this thread, if the thread is free. A service that stops leaves it to
        others, or to the next start."""
        try:
            while not self._is_stopping() and (waiting := await self._next(project_id, thread_id)) is not None:
                await self._start_waiting(project_id, thread_id, waiting)
        except (NotFound, Unavailable):
            pass  # the thread is gone; or a later beat finds the run
        except Exception:
            logger.exception("a queued run could not be started", extra={"fields": {"thread": thread_id}})

    async def _next(self, project_id: int, thread_id: str) -> RunRecord | None:
        async with self._runtime.db.read_only(project_id) as session:
            thread = await get_thread(session, thread_id)
            return None if thread.active_run_id else await store.next_queued(session, thread.pk)

    async def _start_waiting(self, project_id: int, thread_id: str, waiting: RunRecord) -> None:
        """Append its message and start it, if it is still the next; end it if its message is not valid any more."""
        await self.ready()
        now = now_utc()
        message = loads(waiting.waiting_message) if waiting.waiting_message else None
        drafts = [ingest.Draft("user", message["content"], "message.", message["metadata"])] if message else []
        prepared, refused = await self._prepared(drafts, now)
        async with self._runtime.db.transaction(project_id) as session:
            thread, found = await session.together(
                asyncio.gather(get_thread(session, thread_id, lock=True), store.next_queued(session, waiting.thread_pk))
            )
            if thread.active_run_id or found is None or found.id != waiting.id:
                return
            run = found
            try:
                if refused:
                    raise refused
                if not prepared and thread.last_role != "user":
                    raise NoUserMessage("The thread does not end with a user message any more.")
                starting = store.update(
                    session, run, status="in_progress", owner=self.server, started_at=now, waiting_message=None
                )
                _, run, _ = await session.together(
                    asyncio.gather(
                        ingest.append(session, thread, prepared, ["message."] * len(prepared)),
                        starting,
                        run_events.add_first_events(session, run.id),
                    ),
                    commit=True,
                )
            except InvalidInput as error:
                refused = error
                await end_idle(self._runtime, session, thread_id, run, "failed", now, error_of(error))
        if refused is None:
            self.start(project_id, thread_id, run, now, run_events.first_events(run)[-1].seq)
        else:
            self.journal.wake()

    async def _prepared(
        self, drafts: Sequence[ingest.Draft], now: datetime
    ) -> tuple[list[NewMessage], InvalidInput | None]:
        """Or why not: what was accepted when it was queued may not be by the version that starts it."""
        try:
            return await ingest.prepare(self._runtime, drafts, now), None
        except InvalidInput as error:
            return [], error

    async def _beat(self) -> None:
        known = set(self._works)
        async with self._runtime.worker_db.transaction(None) as session:
            paused = await store.beat(session, self.server)
            owned = await store.owned(session, self.server)
            unknown = owned.keys() - self._works.keys()
            # One that was committed this moment is known by the next beat. Of others nobody here knows: the connection
            # broke when they were committed, or ending them failed.
            await store.disown(session, self.server, self._unknown & unknown)
            if self._can_tell_the_dead(paused):
                await store.take_from_dead(session, _DEAD_AFTER_SECONDS)
        self._has_beaten.set()
        self._unknown = frozenset(unknown)
        for run_pk in known:  # of what was taken away, nobody keeps what the model still says
            if owned.get(run_pk) != "in_progress":
                self.cancel(run_pk)

    def _can_tell_the_dead(self, paused_seconds: float) -> bool:
        """Not while others may have had no chance of a beat, as we had none: the database was away, say."""
        now = time.monotonic()
        if paused_seconds > _LONGEST_PAUSE_SECONDS:
            self._steady_since = now
        return now - self._steady_since > _DEAD_AFTER_SECONDS

    async def _rescue_all(self) -> None:
        async with self._runtime.worker_db.read_only(None) as session:
            strays = await store.strays(session)
        for stray in strays:
            try:
                with suppress(Unavailable):  # a later round finds it
                    await self._rescue(stray)
            except Exception:  # the others can be helped all the same
                logger.exception("a run that was left could not be ended", extra={"fields": {"run": stray.run_id}})

    async def _rescue(self, stray: Stray) -> None:
        with suppress(NotFound):  # deleted meanwhile
            async with self._runtime.db.read_only(stray.project_id) as session:
                thread = await get_thread(session, stray.thread_id)
                run = await store.get_run(session, thread.pk, stray.run_id)
                said = await run_events.unfinished_text(session, run.pk)
            if run.status != "queued":
                await end_stray(self._runtime, stray, said, now_utc())
                self.journal.wake()
        await self.start_next(stray.project_id, stray.thread_id)

    async def stop(self) -> None:
        """End what is worked on as it stands, as far as the database lets us in a few seconds; others end the rest. Whoever
        follows any other run is let go."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while works := list(self._works.values()):
                    for work in works:
                        work.stop = _STOPPING
                        self.cancel(work.job.run.pk)
                    await asyncio.wait([work.task for work in works if work.task])
        self.journal.stop()
        self._has_stopped = True

    async def _stop(self) -> None:
        if not self._has_stopped:  # else the database had its few seconds
            await self.stop()
        for work in list(self._works.values()):
            if work.task:
                work.task.cancel()
        with suppress(MemoryServiceError):  # nobody misses a row that is not renewed
            async with self._runtime.worker_db.transaction(None) as session:
                await store.leave(session, self.server)


async def _forever(look_after: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await look_after()
        except Unavailable:
            pass  # /readyz reports a database that is away
        except Exception:
            logger.exception("looking after runs failed")
        await asyncio.sleep(_BEAT_SECONDS)


def _without(ending: Ending, job: Job, error: Exception) -> Ending:
    """For an end that could not be written: without what most likely stood in the way, so that the run does end."""
    if ending.reply is None:
        job.heard.clear()
    if isinstance(error, (InvalidInput, Conflict)):
        return Ending("failed", error=error_of(error))
    logger.exception("a reply could not be kept", extra={"fields": {"run": job.run.id}}, exc_info=error)
    return Ending("failed", error=error_of(MemoryServiceError("The reply could not be kept; the log says more.")))


def _timed_out(spec: RunSpec) -> dict[str, Any]:
    return {
        "code": "run_timeout",
        "message": f"The run had not finished after {spec.timeout_seconds:g} seconds; raise `timeout_seconds`, or lower "
        "`max_output_tokens`.",
        "details": {"timeout_seconds": spec.timeout_seconds},
    }
