"""What has been kept long enough is deleted, by any replica, and what is still needed is not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from memory_service.config import Settings
from memory_service.services.lifecycle import OpenDatabase, create_key, open_runtime
from memory_service.services.retention import sweep
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from tests.api.support import build, new_thread, ok
from tests.conftest import Service
from tests.e2e.test_draining import until
from tests.store.conftest import database

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=40)


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> Iterator[str]:
    with database(postgres) as url:
        migrate(url)
        yield url


@contextmanager
def serving(url: str) -> Iterator[tuple[Service, httpx2.Client]]:
    key = asyncio.run(create_key(url, "retention", "", NOW))[1]
    service = Service.start(env={"MEMORY_DATABASE_URL": url, "MEMORY_CLOCK": "request"})
    try:
        with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            yield service, client
    finally:
        service.stop()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx2.Client]:
    with serving(url) as (_, client):
        yield client


@pytest.fixture(autouse=True)
def nothing_left_over(url: str) -> None:
    swept(url)


def at(client: httpx2.Client, moment: datetime) -> httpx2.Client:
    client.headers["x-memory-now"] = str(moment.timestamp())
    return client


def swept(url: str, now: datetime = NOW, days: int = 30, rows_at_once: int = 500) -> Counter[str]:
    async def run() -> Counter[str]:
        settings = Settings(prompt_retention_days=days)
        runtime = open_runtime(settings, OpenDatabase(url, embedded=False, described=""))
        try:
            return await sweep(runtime, now, rows_at_once=rows_at_once)
        finally:
            await runtime.close()

    return asyncio.run(run())


def kept(client: httpx2.Client, thread_id: str) -> list[str]:
    return [
        prompt["id"] for prompt in ok(client.get(f"/v1/threads/{thread_id}/prompts", params={"limit": 100}))["data"]
    ]


def report(client: httpx2.Client, thread_id: str, prompt_id: str) -> None:
    usage = {"usage": {"input_tokens": 9}, "message": {"role": "assistant", "content": "so"}}
    ok(client.post(f"/v1/threads/{thread_id}/prompts/{prompt_id}/usage", json=usage))


def conversation(client: httpx2.Client, turns: int) -> tuple[str, list[str]]:
    """A thread with a prompt a turn, each of them sent."""
    thread = new_thread(client, instructions="first")["id"]
    prompts = []
    for n in range(turns):
        prompts.append(ok(build(client, thread, message={"role": "user", "content": f"{n}"}), 201)["id"])
        report(client, thread, prompts[-1])
    return thread, prompts


def held(url: str, table: str, thread_id: str) -> int:
    with psycopg.connect(url) as connection:
        query = f"SELECT count(*) FROM memory.{table} x JOIN memory.threads t ON t.pk = x.thread_pk WHERE t.id = %s"
        row = connection.execute(query.encode(), [thread_id]).fetchone()
        assert row
        return int(row[0])


def test_old_prompts_but_for_what_a_lane_needs(url: str, client: httpx2.Client) -> None:
    at(client, LONG_AGO)
    thread, prompts = conversation(client, 3)
    ok(client.patch(f"/v1/threads/{thread}", json={"instructions": "second"}))
    sent = ok(build(client, thread, message={"role": "user", "content": "?"}), 201)["id"]
    report(client, thread, sent)
    waiting = [ok(build(client, thread, message={"role": "user", "content": "??"}), 201)["id"] for _ in range(2)]
    other_lane = ok(build(client, thread, model="gpt-5.6"), 201)["id"]
    assert held(url, "stable_texts", thread) == 2
    assert swept(url, LONG_AGO + timedelta(days=29)) == {}
    assert swept(url, days=0) == {}, "0 keeps all"
    assert len(kept(client, thread)) == 7

    assert swept(url) == {"prompts": 4, "stable_texts": 1}
    assert set(kept(client, thread)) == {sent, waiting[1], other_lane}
    assert held(url, "stable_texts", thread) == 1
    assert swept(url) == {}
    # What is left can be shown and reported, and the thread goes on as if nothing had happened.
    for id_ in (sent, waiting[1], other_lane):
        assert ok(client.get(f"/v1/threads/{thread}/prompts/{id_}"))["request"]
    at(client, NOW)
    report(client, thread, waiting[1])
    ok(build(client, thread, message={"role": "user", "content": "on"}), 201)
    assert prompts[0] not in kept(client, thread)


def test_new_prompts_stay(url: str, client: httpx2.Client) -> None:
    thread, prompts = conversation(at(client, LONG_AGO), 2)
    at(client, NOW)
    prompts += [ok(build(client, thread, message={"role": "user", "content": "?"}), 201)["id"] for _ in range(3)]
    assert swept(url) == {"prompts": 1}
    assert kept(client, thread) == prompts[:0:-1]


def test_earlier_versions_of_messages_go_with_the_prompts_that_showed_them(url: str, client: httpx2.Client) -> None:
    thread, _ = conversation(at(client, LONG_AGO), 2)
    path = f"/v1/threads/{thread}/messages"
    first = ok(client.get(path))["data"][0]["id"]
    ok(client.patch(f"{path}/{first}", json={"content": "before the third prompt"}))
    ok(build(client, thread, message={"role": "user", "content": "?"}), 201)
    ok(client.patch(f"{path}/{first}", json={"content": "after it"}))
    assert held(url, "message_revisions", thread) == 2
    newest_sent, waiting = kept(client, thread)[1], kept(client, thread)[0]
    assert swept(url)["prompts"] == 1
    assert held(url, "message_revisions", thread) == 2, "the newest that was sent shows the first"
    report(client, thread, waiting)
    assert swept(url) == {"prompts": 1, "message_revisions": 1}
    assert newest_sent not in kept(client, thread)
    assert ok(client.get(f"/v1/threads/{thread}/prompts/{waiting}"))["request"]


def test_replicas_share(url: str, client: httpx2.Client) -> None:
    """What somebody holds is left for the next time, and nobody waits."""
    at(client, LONG_AGO)
    (busy, _), (free, _) = conversation(client, 3), conversation(client, 3)
    with psycopg.connect(url) as holder:
        holder.execute("SELECT FROM memory.threads WHERE id = %s FOR UPDATE", [busy])
        assert swept(url) == {"prompts": 2}
        assert (len(kept(client, busy)), len(kept(client, free))) == (3, 1)
    assert swept(url) == {"prompts": 2}
    assert len(kept(client, busy)) == 1


def test_page_by_page(url: str, client: httpx2.Client) -> None:
    thread, _ = conversation(at(client, LONG_AGO), 9)
    for n in range(7):
        ok(client.post("/v1/threads", headers={"idempotency-key": f"many {n}"}), 201)
    assert swept(url, rows_at_once=3) == {"prompts": 8, "idempotency_records": 7}
    assert len(kept(client, thread)) == 1


def test_answers_for_retries(url: str, client: httpx2.Client) -> None:
    def stored() -> list[Any]:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT key FROM memory.idempotency_records ORDER BY key").fetchall()

    for key, moment in (("a", NOW - timedelta(hours=25)), ("b", NOW - timedelta(hours=23))):
        ok(at(client, moment).post("/v1/threads", headers={"idempotency-key": key}), 201)
    with psycopg.connect(url) as holder:
        holder.execute("SELECT FROM memory.idempotency_records WHERE key = 'a' FOR UPDATE")
        assert swept(url) == {}, "somebody has it"
    assert swept(url) == {"idempotency_records": 1}
    assert stored() == [("b",)]


def test_the_service_does_it_and_says_so(url: str, client: httpx2.Client) -> None:
    thread, _ = conversation(at(client, LONG_AGO), 3)
    with serving(url) as (service, other):
        until(lambda: len(kept(other, thread)) == 1)
        said = until(lambda: [json.loads(line) for line in service.log if '"prompts": 2' in line])
        assert (said[0]["level"], said[0]["message"]) == ("info", "kept long enough, and deleted")


def test_events_of_runs_that_ended_a_day_ago(url: str, client: httpx2.Client) -> None:
    """Only of those, whatever order they were begun in."""
    thread = new_thread(client)["id"]
    ended = [NOW - timedelta(hours=hours) for hours in (25, 1, 30, 2)]
    runs = [
        ok(
            at(client, when).post(
                f"/v1/threads/{thread}/runs", json={"provider": "echo", "model": "echo", "message": "?", "wait": True}
            ),
            201,
        )["id"]
        for when in ended
    ]
    before = [_events(url, run) for run in runs]
    assert all(before)
    assert swept(url, rows_at_once=1) == {"run_events": before[0] + before[2]}
    assert [_events(url, run) for run in runs] == [0, before[1], 0, before[3]]


def _events(url: str, run_id: str) -> int:
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM memory.run_events JOIN memory.runs ON pk = run_pk WHERE id = %s"
        row = connection.execute(query, [run_id]).fetchone()
        assert row
        return int(row[0])
