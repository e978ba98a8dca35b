"""Whose a run is: only who works on it writes its events, and nobody is taken for dead who could not say otherwise."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx2
import psutil
import psycopg
import pytest

from memory_service.services.lifecycle import create_key
from memory_service.store import run_events
from memory_service.store import runs as store
from memory_service.store.db import Database
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from memory_service.store.run_events import RunEvent
from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider, ok
from tests.runs.conftest import Runs, events, settings_of

DEAD_AFTER_SECONDS = 6.0
T = TypeVar("T")


def as_worker(database_url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = Database(database_url, role="memory_worker", pool_size=1)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def give(owner: psycopg.Connection[Any], run: dict[str, Any], server: UUID) -> int:
    """As if another server worked on it, which will not be taken for dead. Returns the run's pk."""
    owner.execute("INSERT INTO memory.servers (id, beat_at) VALUES (%s, now() + interval '1 hour')", [server])
    given = owner.execute(
        "UPDATE memory.runs SET status = 'in_progress', owner = %s, ended_at = NULL WHERE id = %s RETURNING pk",
        [server, run["id"]],
    ).fetchone()
    assert given
    return int(given[0])


def test_only_who_has_a_run_writes_its_events(thread: Runs, database_url: str) -> None:
    run, server = thread.run(wait=True), uuid4()

    async def write(database: Database, by: UUID, seq: int) -> None:
        await run_events.write_events(database, by, [RunEvent(pk, seq, "message.delta", "{}")])

    async def write_all(database: Database) -> None:
        await write(database, uuid4(), 1001)
        await write(database, server, 1002)
        owner.execute("UPDATE memory.servers SET beat_at = now() - interval '1 hour' WHERE id = %s", [server])
        async with database.transaction(None) as session:
            await store.take_from_dead(session, DEAD_AFTER_SECONDS)
        await write(database, server, 1003)

    with psycopg.connect(database_url, autocommit=True) as owner:
        pk = give(owner, run, server)
        as_worker(database_url, write_all)
        told = owner.execute(
            "SELECT seq, type FROM memory.run_events WHERE run_pk = %s AND seq > 1000 ORDER BY seq", [pk]
        ).fetchall()
        assert [seq for seq, type_ in told if type_ == "message.delta"] == [1002]
        owner.execute("DELETE FROM memory.servers WHERE id = %s", [server])
    assert thread.until(run, "failed")["last_error"]["code"] == "server_lost"


def test_a_beat_says_how_long_there_was_none(database_url: str) -> None:
    server = uuid4()

    async def beats(database: Database) -> list[float]:
        paused = []
        for _ in range(2):
            async with database.transaction(None) as session:
                paused.append(await store.beat(session, server))
            owner.execute("UPDATE memory.servers SET beat_at = now() - interval '1 hour' WHERE id = %s", [server])
        async with database.transaction(None) as session:
            await store.leave(session, server)
        return paused

    with psycopg.connect(database_url, autocommit=True) as owner:
        first, second = as_worker(database_url, beats)
    assert first == 0
    assert second >= 3600


def test_what_is_read_at_once_is_bounded_for_each_reader(thread: Runs, database_url: str) -> None:
    run = thread.run(wait=True)
    content, longest = json.dumps({"text": "x" * 50_000}), 1020

    async def read(database: Database) -> dict[run_events.Place, list[RunEvent]]:
        async with database.read_only(None) as session:
            return await run_events.events_after(session, [(pk, 1000), (pk, longest), (pk, 1018), (pk, 5)])

    with psycopg.connect(database_url, autocommit=True) as owner:
        (pk,) = owner.execute("SELECT pk FROM memory.runs WHERE id = %s", [run["id"]]).fetchone() or (0,)
        with owner.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO memory.run_events (run_pk, seq, project_id, type, content)"
                " SELECT pk, %s, project_id, 'message.delta', %s FROM memory.runs WHERE pk = %s",
                [(seq, content, pk) for seq in range(1001, longest + 1)],
            )
    found = as_worker(database_url, read)
    assert [event.seq for event in found[pk, 1000]] == [1001, 1002, 1003, 1004]
    assert [event.seq for event in found[pk, 1018]] == [1019, 1020]
    assert (pk, longest) not in found
    assert [run_events.fills_page(found[pk, after]) for after in (1000, 1018)] == [True, False]
    assert [event.seq for event in thread_events(thread, run)][-1] == longest


def thread_events(thread: Runs, run: dict[str, Any]) -> list[RunEvent]:
    return [RunEvent(0, id_, type_, "") for id_, type_, _ in thread.follow(run) if id_]


@pytest.fixture
def frozen() -> Iterator[Callable[[psutil.Process], None]]:
    """Stop a process, and those it started, until the test ends or they are thawed."""
    stopped: list[psutil.Process] = []

    def freeze(process: psutil.Process) -> None:
        for one in (process, *process.children(recursive=True)):
            one.send_signal(signal.SIGSTOP)
            stopped.append(one)

    yield freeze
    thaw(*stopped)


def thaw(*processes: psutil.Process) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_server_that_froze_tells_nothing_behind_the_end(
    thread: Runs,
    api_key: str,
    provider: ScriptedProvider,
    database_url: str,
    frozen: Callable[[psutil.Process], None],
) -> None:
    provider.respond = lambda asked: ok("word " * 600, delay=0.02)
    served = Service.start(env=settings_of(database_url, provider))
    try:
        process, headers = psutil.Process(served.process.pid), {"authorization": f"Bearer {api_key}"}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=30) as there:
            run = there.post(f"{thread.path}/runs", json={"model": thread.model, "message": "Tell me."}).json()
        with thread.api.stream("GET", f"{thread.path}/runs/{run['id']}?stream=true") as answer:
            heard = events(answer)
            assert next(type_ for _, type_, _ in heard if type_ == "message.delta")
            frozen(process)
            told = [*heard]
        assert told[-1][1] == "run.failed"
        thaw(process)
        provider.wait_until(lambda: provider.left == 1)  # it has noticed that the run is no longer its own
    finally:
        assert served.stop() == 0
    again = thread.follow(run)
    assert again[-1][:2] == told[-1][:2]
    said = "".join(data["text"] for _, type_, data in again if type_ == "message.delta")
    assert thread.texts()[1:] == [("assistant", said, "incomplete")]


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_a_database_that_was_away_makes_no_server_dead(
    temporary_dir: Path, provider: ScriptedProvider, frozen: Callable[[psutil.Process], None], ends: bool
) -> None:
    """Frozen, or ended: longer than a server may be silent."""
    provider.respond = lambda asked: ok("word " * 600, delay=0.02)
    data_dir = temporary_dir / f"away-{ends}"
    postgres = EmbeddedPostgres.start(data_dir)
    served: list[Service] = []
    try:
        migrate(postgres.uri)
        key = asyncio.run(create_key(postgres.uri, "away", "test", datetime.now(UTC)))[1]
        served += [Service.start(env=settings_of(postgres.uri, provider)) for _ in range(2)]
        threads = [Runs(client(one, key)) for one in served for _ in range(4)]
        begun = [one.run() for one in threads]
        provider.wait_until(lambda: len(provider.asked) == len(threads))
        database = next(one for one in psutil.Process().children() if str(data_dir) in " ".join(one.cmdline()))
        if ends:
            database.kill()
            postgres.wait()
        else:
            frozen(database)
        time.sleep(DEAD_AFTER_SECONDS + 3)  # what is tested is that it takes this long
        if ends:
            postgres.restart()
        else:
            thaw(database, *database.children(recursive=True))
        for one, run in zip(threads, begun, strict=True):
            assert one.until(run, "completed", "failed")["last_error"] is None
            one.api.close()
    finally:
        for service in served:
            service.stop()
        postgres.stop()


@pytest.mark.slow
def test_a_service_stops_though_its_database_is_away(temporary_dir: Path, provider: ScriptedProvider) -> None:
    provider.respond = lambda asked: ok("word " * 600, delay=0.1)
    postgres = EmbeddedPostgres.start(temporary_dir / "gone")
    try:
        migrate(postgres.uri)
        key = asyncio.run(create_key(postgres.uri, "gone", "test", datetime.now(UTC)))[1]
        served = Service.start(env=settings_of(postgres.uri, provider) | {"MEMORY_DRAIN_SECONDS": "0.1"})
        with client(served, key) as api, Runs(api).stream() as told:
            assert next(type_ for _, type_, _ in told if type_ == "message.delta")
            next(one for one in psutil.Process().children() if "/gone" in " ".join(one.cmdline())).kill()
            postgres.wait()
            assert served.stop() == 0
            assert all(type_ == "message.delta" for _, type_, _ in told), (
                "it is let go, and not told an end that is none"
            )
    finally:
        postgres.stop()
    assert not [line for line in served.log if '"error"' in line]


def client(served: Service, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}, timeout=60)
