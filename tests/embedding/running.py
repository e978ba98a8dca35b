"""Runs that begin, and end, without a model."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from memory_service.providers.base import Reply
from memory_service.runtime import Runtime, new_id
from memory_service.services import runs
from memory_service.services.calling import Ending, Job, Left
from memory_service.services.ending import Ended, end
from memory_service.services.execution import Runner
from memory_service.services.ingest import Draft
from memory_service.services.planning import PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.services.runs import ShownRun
from memory_service.store.threads import ThreadRecord
from tests.embedding.conftest import NOW, Home

SPEC = PromptSpec(model="claude-sonnet-5", max_prompt_tokens=300)
ASKED = "Where is the lantern?"
AT = NOW + timedelta(minutes=1)
USAGE = {"input_tokens": 90, "output_tokens": 5, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}


class Server(Runner):
    """One that works on nothing, and keeps what it is to begin with."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime, nullcontext, lambda: False)
        self.begun: list[Left | None] = []

    def start(self, *_arguments: Any, **_options: Any) -> None:
        self.begun.append(_arguments[-1])

    async def ready(self) -> None: ...


async def run_of(
    home: Home, runtime: Runtime, thread: ThreadRecord, message: str | None = ASKED, server: Server | None = None
) -> tuple[ShownRun, Left | None]:
    """A run that begins on a thread, and what it leaves when its prompt was stored with it."""
    server = server or Server(runtime)
    draft, spec = Draft("user", message, "message.", {}) if message else None, RunSpec(SPEC)
    run = await runs.create(runtime, server, home.project_id, thread.id, spec, draft, {}, "refuse", AT, None)
    return run, server.begun[-1]


def job_of(home: Home, server: Server, run: ShownRun, left: Left, *, known: bool = True) -> Job:
    log = server.journal.open(run.record.pk, 2)
    id, spec, left_or_read = new_id("msg", AT), RunSpec(SPEC), left if known else None
    return Job(
        home.project_id, run.thread_id, run.record, spec, log, lambda: AT, id, left=left_or_read, prompt=left.shown
    )


async def end_of(runtime: Runtime, server: Server, job: Job, status: str = "completed", **block: Any) -> Ended | None:
    content = block or {"type": "text", "text": "In the boat."}
    ending = Ending(status, Reply([content], "tool_use" if block else "end_turn", USAGE, id="msg_theirs"))
    return await end(runtime, server.server, job, ending, [])
