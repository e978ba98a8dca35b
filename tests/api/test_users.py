"""All that is held of an end user: counted, exported, erased."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2
import psycopg
import pytest
from memory_client import MemoryClient
from psycopg import sql

from memory_service.store import users
from memory_service.store.db import Database
from tests.conftest import Service
from tests.e2e.test_draining import until

from .support import MODEL, append, build, import_lines, messages_of, new_thread, ok, refused, text

ODD_IDS = ["ada", "org/ada", "a b?#%25é", "ada/export", "한국", '"', "ada/../eve"]


@pytest.fixture
def canary() -> str:
    return f"canary{uuid4().hex}"


def fill(api: httpx2.Client, user_id: str, word: str) -> list[str]:
    """One of everything that can be held of a user, with `word` in every text of it. Returns thread ids."""
    key = {"idempotency-key": uuid4().hex}
    body = {
        "user_id": user_id,
        "instructions": word,
        "metadata": {word: word},
        "documents": [{"title": word, "text": word}],
        "tools": [{"name": "look", "description": word, "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": f"answer {word}"}],
    }
    thread = ok(api.post("/v1/threads", json=body, headers=key), 201)["id"]
    path = f"/v1/threads/{thread}"
    call = [{"type": "tool_use", "id": f"call_{word}", "name": "look", "input": {"q": word}}]
    ok(api.post(f"{path}/messages", json={"role": "user", "content": word}, headers={"idempotency-key": word}), 201)
    append(api, thread, "assistant", call)
    result = [{"type": "tool_result", "tool_use_id": f"call_{word}", "content": word}, text(word)]
    edited = append(api, thread, "user", result)
    ok(api.patch(f"{path}/messages/{edited['id']}", json={"metadata": {"k": word}}))
    first = messages_of(api, thread)[0]["id"]
    ok(api.patch(f"{path}/messages/{first}", json={"content": f"{word} edited"}))
    prompt = ok(
        api.post(
            f"{path}/prompts",
            json={"model": MODEL, "context": [text(word)], "message": {"role": "user", "content": f"{word}?"}},
            headers={"idempotency-key": f"prompt {word}"},
        ),
        201,
    )
    report = {"usage": {"input_tokens": 9, "note": word}, "message": {"role": "assistant", "content": f"so {word}"}}
    ok(api.post(f"{path}/prompts/{prompt['id']}/usage", json=report, headers={"idempotency-key": f"usage {word}"}))
    fork = ok(api.post(f"{path}/fork", json={"seq": 3}, headers={"idempotency-key": uuid4().hex}), 201)["id"]
    return [thread, fork]


def every_text(database: psycopg.Connection, word: str) -> list[str]:
    """Where a word stands in any table, in whatever type of column."""
    tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'memory'").fetchall()
    found = []
    for (table,) in tables:
        query = sql.SQL("SELECT row_to_json(t)::text FROM {} t WHERE t::text LIKE %s OR t::text LIKE %s")
        # A bytea is shown in hexadecimal.
        rows = database.execute(
            query.format(sql.Identifier(table)), [f"%{word}%", f"%{word.encode().hex()}%"]
        ).fetchall()
        found += [f"{table}: {row[0][:300]}" for row in rows]
    return found


def rows_of_threads(database: psycopg.Connection, pks: list[int]) -> list[str]:
    tables = database.execute(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'memory' AND column_name = 'thread_pk'"
    ).fetchall()
    assert len(tables) >= 7
    return [
        table
        for (table,) in tables
        if database.execute(
            sql.SQL("SELECT 1 FROM {} WHERE thread_pk = ANY (%s) LIMIT 1").format(sql.Identifier(table)), [pks]
        ).fetchone()
    ]


def test_erasure_leaves_nothing(
    api: httpx2.Client, other_api: httpx2.Client, database: psycopg.Connection, canary: str
) -> None:
    user, others = f"user {canary}", f"kept{uuid4().hex}"
    fill(other_api, user, others)  # a user of the same name, of another project
    foreign = every_text(database, canary)
    threads = fill(api, user, canary)
    fill(api, "another", others)
    # An import whose ids were taken says so in its answer; a thread that was handed over was created with the other name.
    lines = [{"type": "thread", "id": threads[0], "user_id": user}, {"type": "message", "id": canary, "role": "user",
                                                                    "content": canary}]  # fmt: skip
    for _ in range(2):
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        headers = {"content-type": "application/x-ndjson", "idempotency-key": uuid4().hex}
        ok(api.post("/v1/import", content=body, headers=headers), 201)
    handed = ok(api.post("/v1/threads", json={"user_id": user}, headers={"idempotency-key": "handed"}), 201)["id"]
    ok(api.patch(f"/v1/threads/{handed}", json={"user_id": "another"}))
    pks = [
        row[0]
        for row in database.execute("SELECT pk FROM threads WHERE user_id = %s AND id = ANY (%s)", [user, threads])
    ]
    assert len(pks) == 2
    assert len(every_text(database, canary)) > len(foreign) + 20
    assert len(rows_of_threads(database, pks)) >= 7, "there is something to erase in every table"
    before = len(every_text(database, others))

    held = ok(api.get(f"/v1/users/{user}"))
    assert (held["thread_count"], held["message_count"], held["prompt_count"]) == (4, 12, 1)
    erased = ok(api.delete(f"/v1/users/{user}"))
    assert (erased["id"], erased["deleted"]) == (user, True)
    assert (erased["thread_count"], erased["message_count"], erased["prompt_count"]) == (4, 12, 1)

    assert every_text(database, canary) == foreign
    assert rows_of_threads(database, pks) == []
    assert len(every_text(database, others)) == before
    nothing = ok(api.get(f"/v1/users/{user}"))
    assert (nothing["thread_count"], nothing["first_thread_at"]) == (0, None)
    assert ok(api.delete(f"/v1/users/{user}"))["thread_count"] == 0, "safe to repeat"


def test_a_deleted_message_is_held_no_more(api: httpx2.Client) -> None:
    """Its place is kept until the user is erased, and counts neither before nor then."""
    thread = new_thread(api, ("user", "hi"), ("assistant", "hello"), ("user", "bye"), user_id="ada")["id"]
    newest = messages_of(api, thread)[-1]["id"]
    ok(api.delete(f"/v1/threads/{thread}/messages/{newest}"))
    assert ok(api.get("/v1/users/ada"))["message_count"] == 2
    assert ok(api.delete("/v1/users/ada"))["message_count"] == 2


def test_a_retry_does_not_bring_back_what_was_erased(api: httpx2.Client) -> None:
    body, key = {"user_id": "ada", "instructions": "x"}, {"idempotency-key": "create"}
    ok(api.post("/v1/threads", json=body, headers=key), 201)
    ok(api.delete("/v1/users/ada"))
    refused(api.post("/v1/threads", json=body, headers=key), 409, "idempotency_answer_erased")
    assert ok(api.get("/v1/users/ada"))["thread_count"] == 0


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_odd_ids(service: Service, api: httpx2.Client, api_key: str, user_id: str) -> None:
    for name in (user_id, f"{user_id}x"):
        new_thread(api, ("user", "hello"), user_id=name)
    with MemoryClient(service.url, api_key) as client:
        assert (client.users.get(user_id).id, client.users.get(user_id).message_count) == (user_id, 1)
        assert len(list(client.users.export(user_id))) == 2
        assert client.users.delete(user_id).thread_count == 1
        assert client.users.get(user_id).thread_count == 0
        assert client.users.get(f"{user_id}x").thread_count == 1


@pytest.mark.parametrize("old_id", ["a\nb", "\n", "a\n", "org/\r\nada"])
def test_ids_with_line_feeds_are_still_erased(api: httpx2.Client, database: psycopg.Connection, old_id: str) -> None:
    """Such ids are refused by now, and may be stored from before."""
    thread = new_thread(api, ("user", "hello"), user_id="new")
    database.execute("UPDATE threads SET user_id = %s WHERE id = %s", [old_id, thread["id"]])
    path = "/v1/users/" + quote(old_id, safe="")
    assert ok(api.get(path))["thread_count"] == 1
    assert ok(api.get("/v1/threads", params={"user_id": old_id}))["data"][0]["id"] == thread["id"]
    assert len(api.get(path, params={"format": "ndjson"}).text.splitlines()) == 2
    assert ok(api.delete(path))["thread_count"] == 1
    assert ok(api.get(path))["thread_count"] == 0


def test_ids_that_are_none(api: httpx2.Client) -> None:
    refused(api.get("/v1/users/"), 422)
    refused(api.get("/v1/users/" + "x" * 257), 422)
    refused(api.get("/v1/users/%00"), 404)
    refused(api.get("/v1/users/ada", params={"format": "xml"}), 422, field="format")


def test_export(api: httpx2.Client, other_api: httpx2.Client, canary: str) -> None:
    assistant = ok(api.post("/v1/assistants", json={"name": "shared"}), 201)["id"]
    threads = fill(api, "ada", canary)
    ok(api.patch(f"/v1/threads/{threads[0]}", json={"assistant_id": assistant}))
    new_thread(api, ("user", "hi"), user_id="ada", assistant_id=assistant)
    fill(api, "eve", "unrelated")
    exported = api.get("/v1/users/ada", params={"format": "ndjson"})
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    lines: list[dict[str, Any]] = [json.loads(line) for line in exported.content.splitlines()]
    kinds = [line["type"] for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "assistant": 1, "thread": 3, "message": 11, "message_revision": 1, "prompt": 1, "usage_entry": 1}  # fmt: skip
    assert "unrelated" not in exported.text
    revision = next(line for line in lines if line["type"] == "message_revision")
    assert revision["content"] == [text(canary)]
    prompt = next(line for line in lines if line["type"] == "prompt")
    assert (prompt["thread_id"], prompt["status"], prompt["usage"]["note"]) == (threads[0], "sent", canary)
    assert canary in json.dumps(prompt["volatile"])
    entry = next(line for line in lines if line["type"] == "usage_entry")
    assert (entry["thread_id"], entry["prompt_id"], entry["uncached_tokens"]) == (threads[0], prompt["id"], 9)
    assert entry["cost_usd"] == pytest.approx(9 * 2 / 1e6)
    # Another project takes it in, and gives the same messages.
    report = ok(import_lines(other_api, exported.content), 201)
    assert (report["assistants"], report["threads"], report["messages"]) == (1, 3, 11)
    again = other_api.get("/v1/users/ada", params={"format": "ndjson"}).content.splitlines()
    kept = [line for line in exported.content.splitlines() if json.loads(line)["type"] in ("thread", "message")]
    assert [line for line in again if json.loads(line)["type"] != "assistant"] == kept


def test_in_steps(database_url: str, api: httpx2.Client, database: psycopg.Connection) -> None:
    """Each is a transaction of its own, no longer than its limit, and the next goes on where it ended."""
    words = [("user", f"word {n}") for n in range(25)]
    threads = [new_thread(api, *words, user_id="ada") for _ in range(3)]
    for thread in threads:
        for _ in range(4):
            ok(build(api, thread["id"]), 201)
    found = database.execute("SELECT project_id FROM threads WHERE id = %s", [threads[0]["id"]]).fetchone()
    assert found

    async def erase() -> list[users.Erased]:
        db = Database(database_url, pool_size=1)
        steps: list[users.Erased] = []
        try:
            while not steps or not steps[-1].done:
                async with db.transaction(found[0]) as session:
                    steps.append(await users.erase_some(session, "ada", 10))
        finally:
            await db.close()
        return steps

    steps = asyncio.run(erase())
    assert [(step.messages, step.prompts) for step in steps] == [(10, 0)] * 7 + [(5, 5), (0, 7)]
    assert [step.threads for step in steps] == [0] * 8 + [3]
    assert ok(api.get("/v1/users/ada"))["message_count"] == 0


def test_nobody_is_locked_out_meanwhile(api: httpx2.Client, database: psycopg.Connection, database_url: str) -> None:
    """The erasure waits for whoever writes to a thread of the user's; nobody else's writes wait for it."""
    first, second = (new_thread(api, ("user", "hello"), user_id="ada")["id"] for _ in range(2))
    others = new_thread(api, user_id="eve")["id"]
    with psycopg.connect(database_url) as holder, ThreadPoolExecutor() as pool:
        holder.execute("SELECT FROM memory.threads WHERE id = %s FOR UPDATE", [second])
        erasing = pool.submit(api.delete, "/v1/users/ada")
        pid = holder.info.backend_pid
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        until(lambda: database.execute(blocked, [pid]).fetchone() == (1,))
        append(api, others, "user", "is not in the way")
        holder.rollback()
        assert ok(erasing.result())["thread_count"] == 2
    refused(api.get(f"/v1/threads/{first}"), 404)
