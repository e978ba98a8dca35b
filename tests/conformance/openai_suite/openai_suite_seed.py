"""A plugin for the pytest that runs OpenAI's own tests: puts the objects that they name into the project before each test,
and writes down how each test ended. It writes to the database itself; the service has no route for it.

Loaded by name (`-p openai_suite_seed`), since the suite has a package `tests` of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from memory_service.core.canonical import dumps
from memory_service.providers.tokenizers import O200kCounter
from memory_service.runtime import new_id
from memory_service.services import ingest, threads
from memory_service.services.ingest import Draft
from memory_service.services.planning import PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.store import projects
from memory_service.store import runs as run_store
from memory_service.store import threads as thread_store
from memory_service.store.db import Database, Session

#: The key that is written in the suite.
API_KEY = "My API Key"
PROJECT = "openai-suite"
MODEL = "gpt-4.1"
_CALL = {"type": "tool_use", "id": "tool_call_id", "name": "look", "input": {}}


@dataclass(frozen=True)
class Run:
    """A run that the suite names, on a thread with the messages it names. The reply of `run_id` is the step `step_id`."""

    id: str
    thread_id: str
    reply_id: str
    message_id: str | None = None


_THREAD_RUN = Run("run_id", "thread_id", "msg_id", "message_id")
_RESPONSES = (
    Run("resp_677efb5139a88190b512bc3fef8e535d", "thread_1", "msg_1"),
    Run("response_id", "thread_2", "msg_2"),
    Run("previous_response_id", "thread_3", "msg_3"),
    Run("resp_123", "thread_4", "msg_4"),
)


class Seeder:
    """Makes the project, and whatever it holds anew for each test."""

    def __init__(self, database_url: str) -> None:
        self._runner = asyncio.Runner()
        self._counter = O200kCounter()
        self._worker = Database(database_url, role="memory_worker", pool_size=1)
        self._db = Database(database_url, pool_size=1)
        self._project_id = self._runner.run(self._prepare())

    def seed(self, test: str) -> None:
        self._runner.run(self._seed(test))

    def close(self) -> None:
        self._runner.run(self._db.close())
        self._runner.run(self._worker.close())
        self._runner.close()

    async def _prepare(self) -> int:
        now = datetime.now(UTC)
        async with self._worker.transaction(None) as session:
            project_id = await projects.ensure_project(session, PROJECT, now)
            if not await projects.key_exists(session, API_KEY):
                await projects.add_key(
                    session, project_id=project_id, id=new_id("key", now), name=PROJECT, key=API_KEY, now=now
                )
        return project_id

    async def _seed(self, test: str) -> None:
        async with self._worker.transaction(None) as session:
            server = await session.scalar(text("SELECT id FROM servers ORDER BY beat_at DESC LIMIT 1"))
        async with self._db.transaction(self._project_id) as session:
            for table in ("threads", "assistants"):
                await session.execute(text(f"DELETE FROM {table}"))
            await self._write(session, test, server)

    async def _write(self, session: Session, test: str, server: UUID) -> None:
        now = datetime.now(UTC)
        if "/beta/" in test:
            await self._assistant(session, now)
            await self._run(session, _THREAD_RUN, test, server, now)
        elif "conversations" in test:
            await self._thread(session, "conv_123", [Draft("user", "Hello?", "", {}, id="msg_abc")], now)
        else:
            await self._thread(session, "string", [], now)
            for run in _RESPONSES:
                await self._run(session, run, test, server, now)

    async def _assistant(self, session: Session, now: datetime) -> None:
        fields = {"name": "Assistant", "model": MODEL, "instructions": "Be brief."}
        await thread_store.create_assistant(session, id="assistant_id", now=now, metadata={}, fields=fields)

    async def _thread(self, session: Session, id: str, drafts: list[Draft], now: datetime) -> Any:
        prepared = [ingest.prepare_one(self._counter, draft, now) for draft in drafts]
        return await threads.create(session, fields={}, metadata={}, messages=prepared, now=now, id=id)

    async def _run(self, session: Session, run: Run, test: str, server: UUID, now: datetime) -> None:
        """In the state that the test is about: whether it cancels the run, answers its tools, or reads it."""
        status = "requires_action" if "submit_tool" in test else "in_progress" if "cancel" in test else "completed"
        reply = [_CALL] if status == "requires_action" else "Hello."
        drafts = [
            Draft("user", "Hello?", "", {}, id=run.message_id),
            Draft("assistant", reply, "", {}, id=run.reply_id, run_id=run.id),
        ]
        thread = await self._thread(session, run.thread_id, drafts[:1] if status == "in_progress" else drafts, now)
        waits = status == "requires_action"
        record = await run_store.add_run(
            session,
            thread.pk,
            id=run.id,
            status="in_progress",
            provider="openai",
            model=MODEL,
            spec=RunSpec(PromptSpec(assistant_id="assistant_id")).to_json(),
            waiting_message=None,
            owner=server,
            metadata={},
            now=now,
        )
        if status != "in_progress":
            await run_store.update(
                session,
                record,
                status=status,
                owner=None,
                required_action=dumps([{"id": _CALL["id"], "name": "look", "input": {}}]) if waits else None,
                ended_at=None if waits else now,
                message_ids=[run.reply_id],
            )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = Seeder(os.environ["OPENAI_SUITE_DATABASE_URL"])


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_KEY].close()


_KEY = pytest.StashKey[Seeder]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    if "path_params" not in item.name:  # those ask nobody
        item.config.stash[_KEY].seed(item.nodeid)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.failed:
        told = {"id": report.nodeid, "outcome": report.outcome, "why": str(report.longrepr or "")[-600:]}
        with Path(os.environ["OPENAI_SUITE_OUTCOMES"]).open("a") as outcomes:
            outcomes.write(json.dumps(told) + "\n")
