"""Servers that are killed or stopped while runs are worked on, and streams read from another one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx2
import psycopg
import pytest

from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider, ok, stall, tool_use
from tests.runs.conftest import Runs, events, settings_of

THREADS = 6
BUSY_SECONDS = 10.0
TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]


@pytest.fixture
def another(database_url: str, scripted_provider: ScriptedProvider) -> Iterator[Callable[..., Service]]:
    """Start one more service on the same database."""
    started: list[Service] = []

    def start(**env: str) -> Service:
        started.append(Service.start(env=settings_of(database_url, scripted_provider) | env))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.stop()


def client(served: Service, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def test_a_stream_is_read_from_another_server(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service]
) -> None:
    provider.respond = lambda asked: ok("One two three four five six seven.", delay=0.1)
    thread = Runs(api)
    with client(another(), api_key) as elsewhere, thread.stream() as here:
        run = next(here)[2]["run"]
        with elsewhere.stream("GET", f"{thread.path}/runs/{run['id']}?stream=true") as answer:
            there = [(id_, type_) for id_, type_, _ in events(answer)]
        assert there == [(1, "run.created"), *((id_, type_) for id_, type_, _ in here)]


def test_cancelled_from_another_server(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service]
) -> None:
    provider.respond = lambda asked: ok("word " * 400, delay=0.1)
    thread = Runs(api)
    with client(another(), api_key) as elsewhere:
        run = thread.run()
        provider.wait_until(lambda: len(provider.asked) == 1)
        assert elsewhere.post(f"{thread.path}/runs/{run['id']}/cancel").json()["status"] == "cancelling"
        thread.until(run, "cancelled")
    provider.wait_until(lambda: provider.left > 0)


def test_a_server_that_is_stopped_ends_its_runs(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service]
) -> None:
    provider.respond = lambda asked: ok("word " * 400, delay=0.1)
    thread, waiting, followed, served = Runs(api), Runs(api), Runs(api), another(MEMORY_DRAIN_SECONDS="1")
    not_its_own = followed.run()
    with client(served, api_key) as elsewhere, ThreadPoolExecutor(1) as pool:
        body = {"model": thread.model, "message": "Tell me."}
        answer = pool.submit(elsewhere.post, f"{waiting.path}/runs", json={**body, "wait": True})
        path = f"{followed.path}/runs/{not_its_own['id']}"
        with (
            elsewhere.stream("POST", f"{thread.path}/runs", json={**body, "stream": True}) as stream,
            elsewhere.stream("GET", f"{path}?stream=true") as other,
        ):
            heard, let_go = events(stream), events(other)
            run = next(heard)[2]["run"]
            assert next(let_go)[1] == "run.created"
            provider.wait_until(lambda: len(provider.asked) == 3)
            assert served.stop() == 0
            told = [*heard][-1]
            assert [*let_go][-1][1] == "message.delta"
    # Whoever waits hears how it ended, and nothing went wrong.
    assert told[1] == "run.failed"
    for ended in (thread.get(run), told[2]["run"], answer.result().json()):
        assert (ended["status"], ended["last_error"]["code"]) == ("failed", "server_stopping")
        assert ended["reply"]["status"] == "incomplete"
    assert not [line for line in served.log if "CancelledError" in line or "Cancel " in line]
    followed.cancel(not_its_own)


_HOLD_THE_FIRST_BEAT = """
CREATE FUNCTION memory.hold_the_first_beat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NOT EXISTS (SELECT FROM memory.servers WHERE id = new.id) THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN new;
END $$;
GRANT EXECUTE ON FUNCTION memory.hold_the_first_beat TO memory_worker;
CREATE TRIGGER hold_the_first_beat BEFORE INSERT ON memory.servers
FOR EACH ROW EXECUTE FUNCTION memory.hold_the_first_beat()"""


def test_a_server_of_which_nobody_has_heard_yet(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service], database_url: str
) -> None:
    """Nobody takes the first runs of a new server from it, however late its first beat comes."""
    provider.script(stall(after=1))
    thread = Runs(api)
    with psycopg.connect(database_url, autocommit=True) as owner, ThreadPoolExecutor(1) as pool:
        owner.execute("SELECT pg_advisory_lock(1)")
        owner.execute(_HOLD_THE_FIRST_BEAT)
        try:
            with client(another(), api_key) as elsewhere:
                assert elsewhere.get(thread.path).is_success  # what comes next is fast
                asked = pool.submit(
                    elsewhere.post, f"{thread.path}/runs", json={"model": thread.model, "message": "Tell me."}
                )
                _wait_for_beats(owner, 2)  # of those that might take it
                owner.execute("SELECT pg_advisory_unlock(1)")
                run = asked.result().json()
        finally:
            owner.execute("DROP FUNCTION memory.hold_the_first_beat CASCADE")
    provider.wait_until(lambda: len(provider.asked) == 1)
    assert thread.get(run)["status"] == "in_progress"
    thread.cancel(run)
    thread.until(run, "cancelled")


def _wait_for_beats(owner: psycopg.Connection[Any], count: int) -> None:
    beat = "SELECT max(beat_at) FROM memory.servers"
    for _ in range(count):
        before = owner.execute(beat).fetchone()
        while owner.execute(beat).fetchone() == before:
            time.sleep(0.05)


def test_a_run_that_is_nearly_done_is_waited_for(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service]
) -> None:
    provider.respond = lambda asked: ok("One two three four.", delay=0.2)
    thread, served = Runs(api), another()
    with client(served, api_key) as elsewhere:
        run = elsewhere.post(f"{thread.path}/runs", json={"model": thread.model, "message": "Tell me."}).json()
        provider.wait_until(lambda: len(provider.asked) == 1)
        assert served.stop() == 0
    assert thread.get(run)["status"] == "completed"


def test_a_server_that_is_stopped_leaves_what_is_queued(
    api: httpx2.Client, api_key: str, provider: ScriptedProvider, another: Callable[..., Service]
) -> None:
    provider.script(ok("word " * 400, delay=0.1))
    thread, served = Runs(api), another(MEMORY_DRAIN_SECONDS="1")
    with client(served, api_key) as elsewhere:
        body = {"model": thread.model, "message": "Tell me.", "on_busy": "queue"}
        first, *waiting = [elsewhere.post(f"{thread.path}/runs", json=body).json() for _ in range(3)]
        provider.wait_until(lambda: len(provider.asked) == 1)
        assert served.stop() == 0
    assert thread.get(first)["last_error"]["code"] == "server_stopping"
    for run in waiting:
        assert thread.until(run, "completed", "failed")["last_error"] is None


def test_a_run_that_its_server_has_lost(api: httpx2.Client, provider: ScriptedProvider, database_url: str) -> None:
    """The commit that began it went through, but its connection broke before that was heard; and one like it in a state
    that nobody can end."""
    broken, thread = Runs(api), Runs(api)
    with psycopg.connect(database_url, autocommit=True) as owner:
        runs = []
        for one in (broken, thread):
            provider.script(stall(after=1))
            runs.append(one.run())
        provider.wait_until(lambda: len(provider.asked) == 2)
        (server,) = owner.execute("SELECT owner FROM memory.runs WHERE id = %s", [runs[0]["id"]]).fetchone() or (None,)
        for one, run in zip((broken, thread), runs, strict=True):
            one.cancel(run)
            one.until(run, "cancelled")
        owner.execute(
            "INSERT INTO memory.run_events (run_pk, seq, project_id, type, content)"
            " SELECT pk, 1000, project_id, 'message.delta', 'no JSON' FROM memory.runs WHERE id = %s",
            [runs[0]["id"]],
        )
        with owner.transaction():
            for run in runs:
                owner.execute(
                    "WITH begun AS (UPDATE memory.runs SET status = 'in_progress', owner = %s, ended_at = NULL"
                    " WHERE id = %s RETURNING *) UPDATE memory.threads t SET active_run_id = begun.id FROM begun"
                    " WHERE t.pk = begun.thread_pk",
                    [server, run["id"]],
                )
    assert thread.until(runs[1], "failed")["last_error"]["code"] == "server_lost"
    assert thread.run("Again?", wait=True)["status"] == "completed"
    broken.ask("DELETE", broken.path)


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_servers_are_killed(
    service: Service,
    api: httpx2.Client,
    api_key: str,
    provider: ScriptedProvider,
    another: Callable[..., Service],
    database_url: str,
    rounds: int,
) -> None:
    """Each acknowledged message is there, no thread stays busy, and no reply stands twice."""
    assert service.process.poll() is None  # it is this one that sees to what the others leave
    chance = random.Random(rounds)
    provider.respond = lambda asked: (
        tool_use("look", {}, call_id=f"call_{chance.getrandbits(64)}")
        if chance.random() < 0.3
        else ok("One two three four five six.", delay=0.05)
    )
    threads = [Runs(api) for _ in range(THREADS)]
    said: list[list[str]] = [[] for _ in threads]
    for number in range(rounds):
        victim = another()
        provider.asked.clear()
        with ThreadPoolExecutor(THREADS) as pool:
            talking = [
                pool.submit(_talk, victim, api_key, runs, told) for runs, told in zip(threads, said, strict=True)
            ]
            provider.wait_until(lambda: len(provider.asked) >= THREADS)  # it has begun
            time.sleep(chance.uniform(0.0, 1.5))
            victim.kill()
            killed = time.monotonic()
            for future in talking:
                _finished(future)
        for runs in threads:
            _until_free(runs, killed)
        for runs, told in zip(threads, said, strict=True):
            _check(runs, told, f"round {number}")
    with psycopg.connect(database_url) as owner:
        (twice,) = owner.execute(
            "SELECT count(*) FROM (SELECT FROM memory.messages m JOIN memory.threads t ON t.pk = m.thread_pk"
            " WHERE t.id = ANY (%s) AND m.role = 'assistant' AND m.run_id IS NOT NULL AND content NOT LIKE '%%tool_use%%'"
            " GROUP BY m.run_id HAVING count(*) > 1) AS repeated",
            [[runs.path.rpartition("/")[2] for runs in threads]],
        ).fetchone() or (0,)
    assert twice == 0
    for runs in threads:
        provider.respond = lambda asked: ok("Still here.")
        assert runs.run("Are you still there?", wait=True, tools=TOOLS)["status"] == "completed"


def _talk(victim: Service, key: str, thread: Runs, told: list[str]) -> None:
    """Turn after turn, until the server is gone. What was acknowledged is noted."""
    with client(victim, key) as talk:
        for turn in range(1_000):
            text = f"{victim.process.pid}/{turn}"
            body: dict[str, Any] = {"model": thread.model, "message": text, "tools": TOOLS, "wait": True}
            # `wait` acknowledges late; the first of two answers is the one that counts.
            begun = talk.post(f"{thread.path}/runs", json={**body, "wait": False})
            assert begun.status_code == 201, begun.text
            told.append(text)
            run = begun.json()
            while run["status"] not in ("completed", "failed"):
                if run["status"] == "requires_action":
                    outputs = [{"tool_use_id": c["id"], "content": "x"} for c in run["required_action"]["tool_calls"]]
                    answered = talk.post(
                        f"{thread.path}/runs/{run['id']}/tool_outputs", json={"tool_outputs": outputs, "wait": True}
                    )
                    assert answered.status_code == 200, answered.text
                time.sleep(0.02)
                run = talk.get(f"{thread.path}/runs/{run['id']}").json()


def _finished(future: Future[None]) -> None:
    with suppress(httpx2.TransportError):  # how every conversation ends
        future.result()


def _until_free(thread: Runs, killed: float) -> None:
    """A run that waits for tools waits for its caller, who gives up."""
    while run_id := thread.ask("GET", thread.path)["active_run_id"]:
        run = thread.ask("GET", f"{thread.path}/runs/{run_id}")
        if run["status"] == "requires_action":
            thread.cancel(run)
        assert time.monotonic() - killed < BUSY_SECONDS, run
        time.sleep(0.05)


def _check(thread: Runs, told: list[str], when: str) -> None:
    messages = thread.ask("GET", f"{thread.path}/messages?limit=100&order=desc")["data"]
    kept = [m["content"][0]["text"] for m in messages if m["role"] == "user" and m["content"][0]["type"] == "text"]
    for text in told[-3:]:
        assert kept.count(text) == 1, f"{when}: {text}"
    seqs = [m["seq"] for m in messages]
    assert all(first == second + 1 for first, second in pairwise(seqs)), when
    run_ids = {m["run_id"] for m in messages if m["role"] == "assistant"}
    for run in thread.ask("GET", f"{thread.path}/runs?limit=20")["data"]:
        assert run["status"] in ("completed", "failed", "cancelled"), (when, run)
        assert (run["id"] in run_ids) or run["status"] != "completed" or run["usage"]["calls"] == 0, (when, run)
