"""Changing the embedder: under load, broken off, and with writers who did not know of it yet."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from memory_service.errors import Conflict
from memory_service.runtime import Runtime, new_id, now_utc
from memory_service.services import ingest, switching, threads
from memory_service.services.embedding import EmbeddingLoop
from memory_service.services.search import search_user
from memory_service.services.switching import Candidate, Progress
from tests.conftest import Service
from tests.embedding.conftest import NOW, Home, drafts
from tests.embedding.hashing import HashingEmbedder, likeness
from tests.embedding.server import EmbeddingServer, serving
from tests.embedding.test_queue import TEXTS

SECOND = Candidate("hashing:2", '{"second":2}', 32)
THIRD = Candidate("hashing:3", '{"third":3}', 32)


def embedders() -> tuple[HashingEmbedder, HashingEmbedder, HashingEmbedder]:
    return HashingEmbedder("builtin:1", inline=True), HashingEmbedder("hashing:2", 32), HashingEmbedder("hashing:3", 32)


def ignore(_: Progress) -> None:
    """Nobody looks."""


def statuses(home: Home) -> list[tuple[str, str]]:
    return [(name, status) for name, status in home.rows("SELECT name, status FROM embedders ORDER BY pk")]


def test_a_switch_embeds_everything_then_searches_move(home: Home) -> None:
    first, second, _ = embedders()

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        seen: list[Progress] = []

        def watch(progress: Progress) -> None:
            seen.append(progress)
            assert statuses(home)[0] == ("builtin:1", "active"), "until it is done"

        record = await switching.switch(runtime, home.url, SECOND, watch)
        assert record is not None
        assert [progress.step for progress in seen[:3]] == ["waiting", "queueing", "embedding"]
        assert seen[2].waiting == seen[2].total == len(TEXTS)
        assert statuses(home) == [("builtin:1", "retired"), ("hashing:2", "active")]
        assert home.count(record.table) == len(TEXTS)
        runtime.embedders._read_at -= 60  # some seconds go by
        found = await search_user(runtime, home.project_id, "ada", "lantern 3", 5)
        assert found.ranking.mode == "hybrid"
        assert found.hits[0].hit.vector == pytest.approx(likeness(second, "lantern 3", TEXTS, 3), abs=2e-3)
        assert await switching.switch(runtime, home.url, SECOND, ignore) is None, "it is active already"
        # What it wrote for the first is deleted when nobody reads it any more.
        await EmbeddingLoop(runtime, lambda: now_utc() + timedelta(seconds=30)).round()
        assert home.count("vectors_1") == len(TEXTS)
        await EmbeddingLoop(runtime, lambda: now_utc() + timedelta(seconds=90)).round()
        assert home.count("vectors_1") == 0
        await home.write(runtime, "One more.", thread=thread)
        assert home.rows("SELECT embedder_pk FROM pending_embeddings") == [(record.pk,)]

    home.run(use, first, second)


def test_a_switch_that_was_broken_off_goes_on(home: Home) -> None:
    first, second, third = embedders()

    async def use(runtime: Runtime) -> None:
        texts = [f"{text} {n}" for n in range(30) for text in TEXTS]
        await home.write(runtime, *texts)
        reached = asyncio.Event()

        async def stop_later(_texts: Sequence[str]) -> None:
            if second.asked == 2:
                reached.set()
                await asyncio.Event().wait()

        second.before = stop_later
        switch = asyncio.create_task(switching.switch(runtime, home.url, SECOND, ignore))
        await reached.wait()
        switch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await switch
        done = len(second.embedded)
        assert 0 < done < len(texts)
        assert statuses(home) == [("builtin:1", "active"), ("hashing:2", "building")]
        second.before = None
        record = await switching.switch(runtime, home.url, SECOND, ignore)
        assert record is not None
        assert sorted(second.embedded) == sorted(texts), "nothing is embedded again"
        assert statuses(home) == [("builtin:1", "retired"), ("hashing:2", "active")]
        assert home.count(record.table) == len(texts)

    home.run(use, first, second, third)


def test_another_switch_takes_over_and_the_old_one_can_be_given_up(home: Home) -> None:
    first, second, third = embedders()
    builtin = Candidate("builtin:1", '{"model":"1","provider":"builtin"}', 384)

    async def use(runtime: Runtime) -> None:
        await home.write(runtime, *TEXTS)

        async def meanwhile(_texts: Sequence[str]) -> None:
            second.before = None
            assert await switching.switch(runtime, home.url, THIRD, ignore) is not None

        second.before = meanwhile
        with pytest.raises(Conflict, match="another switch has taken over"):
            await switching.switch(runtime, home.url, SECOND, ignore)
        assert statuses(home) == [("builtin:1", "retired"), ("hashing:2", "retired"), ("hashing:3", "active")]
        assert await switching.switch(runtime, home.url, builtin, ignore) is not None
        assert statuses(home)[-1] == ("builtin:1", "active")

    home.run(use, first, second, third)


def test_messages_of_transactions_that_began_before(home: Home) -> None:
    """Who appended before there was the new embedder could not queue for it; the switch waits, and finds the message."""
    first, second, _ = embedders()

    async def use(runtime: Runtime) -> None:
        new = await ingest.prepare(runtime, drafts(["Written just before."]), NOW)
        waiting = asyncio.Event()

        def watch(progress: Progress) -> None:
            assert progress.step == "waiting" or not open_transaction
            waiting.set()

        open_transaction = True
        async with runtime.db.transaction(home.project_id) as session:
            await threads.create(session, fields={}, metadata={}, messages=new, now=NOW, id=new_id("thread", NOW))
            switch = asyncio.create_task(switching.switch(runtime, home.url, SECOND, watch))
            await waiting.wait()
            assert (await asyncio.wait([switch], timeout=0.5))[1], "it waits"
        open_transaction = False
        assert await switch is not None
        assert second.embedded == ["Written just before."]

    home.run(use, first, second)


@pytest.fixture
def embedding_server() -> Iterator[EmbeddingServer]:
    with serving() as server:
        yield server


class Load:
    """Somebody who appends, searches and builds prompts all the time, and counts what is not as it should be."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)
        self._stop = threading.Event()
        self.rounds = 0
        self.failures: list[str] = []
        self.modes: list[str] = []
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join()
        self._client.close()

    def _run(self) -> None:
        thread = self._ask("POST", "/v1/threads", {"user_id": "ada"})["id"]
        while not self._stop.is_set():
            n = self.rounds
            self._ask("POST", f"/v1/threads/{thread}/messages", {"role": "user", "content": f"The gull {n} sits."})
            for found in (
                self._ask("GET", f"/v1/threads/{thread}/search?q=gull", None),
                self._ask("POST", "/v1/search", {"q": "Where does the gull sit?", "user_id": "ada"}),
            ):
                self.modes.append(found["recall"]["mode"])
                if not found["data"]:
                    self.failures.append("a search without results")
            self.rounds += 1

    def _ask(self, method: str, path: str, body: Any) -> Any:
        answer = self._client.request(method, path, json=body)
        if not answer.is_success:
            self.failures.append(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()


def embedder_command(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_")}
    return subprocess.run(
        [sys.executable, "-m", "memory_service", "embedder", *arguments],
        env={**env, "MEMORY_DATABASE_URL": home.url},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_switch_under_load(home: Home, embedding_server: EmbeddingServer) -> None:
    """By the command, beside a service that serves, to a server of OpenAI's kind: no failed request, no empty search."""
    home.run(lambda runtime: home.write(runtime, *TEXTS * 30), HashingEmbedder())
    service = Service.start(env={"MEMORY_DATABASE_URL": home.url})
    try:
        with Load(service.url, home.key) as load:
            embedding_server.open.clear()
            command = threading.Thread(target=lambda: results.append(run_switch()))
            results: list[subprocess.CompletedProcess[str]] = []

            def run_switch() -> subprocess.CompletedProcess[str]:
                return embedder_command(home, "switch", "openai:hashing", "--base-url", embedding_server.url, "--json")

            command.start()
            assert embedding_server.asked.wait(30), "the command asks whether it is there"
            embedding_server.open.set()
            command.join()
            (done,) = results
            assert done.returncode == 0, done.stderr
            assert done.stderr == "embedding all messages; searches use the old embedder until it is done\n"
            switched = json.loads(done.stdout)
            assert switched["switched"]
            assert switched["embedded"] >= 600
            before, deadline = load.rounds, time.monotonic() + 60
            while (
                load.rounds < before + 3
                or home.rows("SELECT count(*) FROM pending_embeddings") != [(0,)]
                or "Where does the gull sit?" not in embedding_server.embedded  # a service notices within seconds
            ):
                assert load.thread.is_alive()
                assert time.monotonic() < deadline, "queries go to the new embedder"
                threading.Event().wait(0.05)
        assert load.failures == []
        assert "The gull 0 sits." in embedding_server.embedded
        listed = json.loads(embedder_command(home, "list", "--json").stdout)
        assert [(row["name"], row["status"]) for row in listed] == [
            ("builtin:1", "retired"),
            (switched["active"], "active"),
        ]
        again = embedder_command(home, "switch", "openai:hashing", "--base-url", embedding_server.url)
        assert again.stdout == f"{switched['active']} is active already\n"
        assert again.stderr == "", "nothing is embedded then"
    finally:
        service.stop()


def test_an_embedder_that_cannot_be_reached_is_not_switched_to(home: Home) -> None:
    done = embedder_command(home, "switch", "openai:nothing", "--base-url", "http://127.0.0.1:1/v1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert statuses(home) == [("builtin:1", "active")]
