"""Many at once on one thread, over HTTP: nothing lost, nothing twice, no gap, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from memory_service.services.lifecycle import create_key
from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from tests.conftest import Service
from tests.store.conftest import database

WRITERS = 64
EACH = 5
Client = httpx2.AsyncClient


@pytest.fixture
def no_deadlocks(database_url: str) -> Iterator[None]:
    def count() -> Any:
        with psycopg.connect(database_url) as connection:
            connection.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
            row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            return row.fetchone()

    before = count()
    yield
    assert count() == before


def run(service: Service, api_key: str, body: Callable[[Client], Awaitable[None]]) -> None:
    async def connected() -> None:
        limits = httpx2.Limits(max_connections=2 * WRITERS)
        headers = {"authorization": f"Bearer {api_key}"}
        async with Client(base_url=service.url + "/v1", headers=headers, timeout=60, limits=limits) as client:
            await body(client)

    asyncio.run(connected())


async def everything(client: Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    more = True
    while more:
        after = {"after": found[-1]["id"]} if found else {}
        page = (await client.get(path, params={"limit": 100, **after})).json()
        found += page["data"]
        more = page["has_more"]
    return found


async def send(client: Client, path: str, body: Any, key: str) -> httpx2.Response:
    """As a client with retries does: the same key until there is an answer."""
    while True:
        answer = await client.post(path, json=body, headers={"idempotency-key": key})
        if answer.status_code != 409 or answer.json()["error"]["code"] != "idempotency_in_progress":
            return answer
        assert answer.headers["retry-after"]


def text_of(message: dict[str, Any]) -> str:
    return str(message["content"][0]["text"])


def test_64_writers_on_one_thread(service: Service, api_key: str, no_deadlocks: None) -> None:
    """Every message is sent twice at the same time, under one key."""

    async def body(client: Client) -> None:
        path = f"/threads/{(await client.post('/threads')).json()['id']}/messages"

        async def write(writer: int) -> None:
            for n in range(EACH):
                message = {"role": "user", "content": f"{writer}:{n}"}
                twice = await asyncio.gather(*(send(client, path, message, f"{writer}-{n}") for _ in range(2)))
                assert [answer.status_code for answer in twice] == [201, 201], twice[0].text + twice[1].text
                assert twice[0].content == twice[1].content

        await asyncio.gather(*map(write, range(WRITERS)))
        found = await everything(client, path)
        assert [message["seq"] for message in found] == list(range(1, WRITERS * EACH + 1))
        written = [text_of(message) for message in found]
        assert Counter(written) == Counter(f"{w}:{n}" for w in range(WRITERS) for n in range(EACH))
        for writer in range(WRITERS):
            own = [text for text in written if text.startswith(f"{writer}:")]
            assert own == [f"{writer}:{n}" for n in range(EACH)]

    run(service, api_key, body)


def test_prompts_appends_edits_deletions_and_forks_at_once(service: Service, api_key: str, no_deadlocks: None) -> None:
    spec = {"model": "claude-sonnet-5", "max_prompt_tokens": 4_000, "recall": {"max_tokens": 500}}
    filler = "The boat needs a new coat of paint before the summer, and the oars are in the shed. " * 6

    async def body(client: Client) -> None:
        thread = (await client.post("/threads")).json()["id"]
        path = f"/threads/{thread}"
        first = [{"role": ("user", "assistant")[n % 2], "content": f"first {n}: {filler}"} for n in range(40)]
        old = [m["id"] for m in (await client.post(f"{path}/messages", json={"messages": first})).json()["data"]]
        dice = random.Random(1)
        outcomes: Counter[tuple[str, int, str]] = Counter()
        prompts: list[str] = []
        deleted: set[str] = set()

        def note(what: str, answer: httpx2.Response) -> Any:
            answered = answer.json()
            outcomes[what, answer.status_code, answered.get("error", {}).get("code", "")] += 1
            return answered

        async def build(n: int) -> None:
            for k in range(4):
                message = {"role": "user", "content": f"question {n}:{k}: where are the oars?"}
                both = await asyncio.gather(
                    *(send(client, f"{path}/prompts", {**spec, "message": message}, f"p{n}-{k}") for _ in range(2))
                )
                one, other = (note("build", answer) for answer in both)
                assert one["id"] == other["id"]
                prompts.append(one["id"])
                reply = {"role": "assistant", "content": f"reply {n}:{k}"}
                usage = {"usage": {"input_tokens": one["tokens"]["total"], "output_tokens": 3}, "message": reply}
                note("usage", await send(client, f"{path}/prompts/{one['id']}/usage", usage, f"u{n}-{k}"))

        async def append(n: int) -> None:
            for k in range(6):
                message = {"role": "user", "content": f"append {n}:{k}"}
                note("append", await send(client, f"{path}/messages", message, f"a{n}-{k}"))

        async def edit() -> None:
            for k in range(4):
                where = f"{path}/messages/{dice.choice(old)}"
                note("edit", await client.patch(where, json={"content": f"edited {k}"}))

        async def delete() -> None:
            for _ in range(3):
                id_ = dice.choice(old)
                if "id" in note("delete", await client.delete(f"{path}/messages/{id_}")):
                    deleted.add(id_)

        async def fork(n: int) -> None:
            for k in range(3):
                copy = note("fork", await send(client, f"{path}/fork", {"seq": 30}, f"f{n}-{k}"))
                note("delete fork", await client.delete(f"/threads/{copy['id']}"))

        await asyncio.gather(
            *(build(n) for n in range(4)), *(append(n) for n in range(4)),
            *(edit() for _ in range(2)), *(delete() for _ in range(2)), *(fork(n) for n in range(2)),
        )  # fmt: skip
        documented = {
            *(("build", 201, ""), ("usage", 200, ""), ("append", 201, ""), ("fork", 201, ""), ("delete fork", 200, "")),
            *(("edit", 200, ""), ("edit", 404, "not_found"), ("delete", 200, ""), ("delete", 404, "not_found")),
        }
        assert set(outcomes) <= documented, outcomes
        assert outcomes["build", 201, ""] == 4 * 4 * 2
        assert outcomes["append", 201, ""] == 4 * 6

        assert outcomes["usage", 200, ""] == 4 * 4

        state = (await client.get(path)).json()
        found = await everything(client, f"{path}/messages")
        seqs = [message["seq"] for message in found]
        assert state["last_seq"] == 40 + 16 + 24 + 16 == seqs[-1]
        assert sorted([*seqs, *(old.index(id_) + 1 for id_ in deleted)]) == list(range(1, state["last_seq"] + 1))
        assert state["message_count"] == len(found)

        # The lane is one that the next prompts can go on from, and what was built can be shown.
        for id_ in prompts:
            shown = await client.get(f"{path}/prompts/{id_}")
            assert shown.status_code == 200, shown.text
            assert shown.json()["status"] == "sent"
        question = {"role": "user", "content": "And now?"}
        last = (await client.post(f"{path}/prompts", json={**spec, "message": question})).json()
        assert last["window"]["last_seq"] == state["last_seq"] + 1
        again = (await client.get(f"{path}/prompts/{last['id']}")).json()
        assert again["request"] == last["request"]

    run(service, api_key, body)


@pytest.fixture
def alone(postgres: EmbeddedPostgres) -> Iterator[tuple[Service, str, str]]:
    """A service, a key and a database on which nobody else has connections."""
    with database(postgres) as url:
        migrate(url)
        key = asyncio.run(create_key(url, "alone", "test", datetime.now(UTC)))[1]
        service = Service.start(env={"MEMORY_DATABASE_URL": url})
        try:
            yield service, key, url
        finally:
            service.stop()


def test_clients_that_go_away_leave_nothing_behind(alone: tuple[Service, str, str]) -> None:
    """Two hundred requests whose sender hangs up at once, in every direction a request can go."""
    service, api_key, database_url = alone
    address = (urlsplit(service.url).hostname, urlsplit(service.url).port)
    with httpx2.Client(base_url=service.url + "/v1", headers={"authorization": f"Bearer {api_key}"}) as client:
        thread = client.post("/threads", json={"messages": [{"role": "user", "content": "word " * 2_000}] * 40}).json()[
            "id"
        ]
        body = b'{"role":"user","content":"I am off"}'
        requests = [
            (f"POST /v1/threads/{thread}/messages", body),
            (f"POST /v1/threads/{thread}/prompts", b'{"model":"claude-sonnet-5"}'),
            (f"GET /v1/threads/{thread}/export", b""),
            (f"GET /v1/threads/{thread}/messages", b""),
            (f"POST /v1/threads/{thread}/messages", body[:10]),  # and less than was announced
        ]
        for n in range(200):
            line, sent = requests[n % len(requests)]
            announced = len(body) if sent == body[:10] else len(sent)
            with socket.create_connection(address) as connection:
                headers = f"Host: x\r\nAuthorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
                connection.sendall(f"{line} HTTP/1.1\r\n{headers}Content-Length: {announced}\r\n\r\n".encode() + sent)
        # More requests at once than there are connections: they need every one of them.
        kept = asyncio.run(many(service, api_key, thread))
        assert kept == [201] * 40
    query = (
        "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in%' AND state_change < now() - interval '1 s')"
        " FROM pg_stat_activity WHERE application_name = 'memory-service' AND datname = current_database()"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        # A server process ends a moment after the connection it served. The pools' ten and two stay.
        give_up = time.monotonic() + 10
        while (row := connection.execute(query).fetchone()) and row[0] > 12 and time.monotonic() < give_up:
            pass
    assert row is not None
    assert row[0] <= 12, "connections that no pool counts"
    assert row[1] == 0


async def many(service: Service, api_key: str, thread: str) -> list[int]:
    async with Client(base_url=service.url, headers={"authorization": f"Bearer {api_key}"}, timeout=60) as client:
        path, message = f"/v1/threads/{thread}/messages", {"role": "user", "content": "still here"}
        answers = await asyncio.gather(*(client.post(path, json=message) for _ in range(40)))
    return [answer.status_code for answer in answers]
