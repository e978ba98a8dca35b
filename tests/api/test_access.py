"""Who may see what: keys, and projects that know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from memory_service.services.lifecycle import create_key, revoke_key

from .support import TOOL, append, build, import_lines, new_thread, ok, refused

Unchanged = Callable[[], AbstractContextManager[None]]
Operation = tuple[str, str]
# A body that is right for each operation, so that nothing but the id can be wrong.
BODIES: dict[Operation, Any] = {
    ("post", "/v1/threads"): {},
    ("patch", "/v1/threads/{thread_id}"): {"instructions": "x"},
    ("post", "/v1/threads/{thread_id}/fork"): {"seq": 1},
    ("post", "/v1/threads/{thread_id}/messages"): {"role": "user", "content": "x"},
    ("patch", "/v1/threads/{thread_id}/messages/{message_id}"): {"content": "x"},
    ("post", "/v1/threads/{thread_id}/prompts"): {"model": "claude-sonnet-5"},
    ("post", "/v1/threads/{thread_id}/prompts/{prompt_id}/usage"): {"usage": {"input_tokens": 5}},
    ("post", "/v1/threads/{thread_id}/prewarm"): {"model": "x", "provider": "echo"},
    ("post", "/v1/threads/{thread_id}/runs"): {"model": "x", "provider": "echo", "message": "hi"},
    ("post", "/v1/threads/{thread_id}/runs/{run_id}/tool_outputs"): {"tool_outputs": [{"tool_use_id": "x"}]},
    ("post", "/v1/threads/{thread_id}/runs/{run_id}/cancel"): None,
    ("post", "/v1/assistants"): {},
    ("patch", "/v1/assistants/{assistant_id}"): {"instructions": "x"},
    ("post", "/v1/search"): {"q": "hello", "user_id": "u"},
}
OPEN = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture
def operations(api: httpx2.Client) -> list[Operation]:
    paths = ok(api.get("/openapi.json"))["paths"]
    return [(method, path) for path, item in paths.items() for method in item]


def send(client: httpx2.Client, operation: Operation, ids: dict[str, str], **options: Any) -> httpx2.Response:
    method, path = operation
    params = {"q": "hello"} if path.endswith("/search") and method == "get" else None
    return client.request(method.upper(), path.format(**ids), json=BODIES.get(operation), params=params, **options)


@pytest.fixture
def ids(api: httpx2.Client) -> dict[str, str]:
    """One object of each kind."""
    assistant = ok(api.post("/v1/assistants", json={"name": "a", "tools": [TOOL]}), 201)
    thread = new_thread(api, user_id="u", assistant_id=assistant["id"])
    message = append(api, thread["id"], "user", "hello")
    prompt = ok(build(api, thread["id"]), 201)
    asked = {"model": "x", "provider": "echo", "message": "hi", "wait": True}
    run = ok(api.post(f"/v1/threads/{thread['id']}/runs", json=asked), 201)
    return {
        "assistant_id": assistant["id"],
        "thread_id": thread["id"],
        "message_id": message["id"],
        "prompt_id": prompt["id"],
        "run_id": run["id"],
        "user_id": "u",
    }


def test_every_operation_has_a_body(operations: list[Operation]) -> None:
    """A route that is added must be added here."""
    assert BODIES.keys() == {(m, p) for m, p in operations if m in ("post", "patch", "put") and p != "/v1/import"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic bXNrXzE6"},
        {"authorization": "Bearer msk_wrong"},
        {"authorization": "Bearer " + "k" * 10_000},
        {"authorization": b"Bearer \xff\xfe"},
        {"x-api-key": "msk_wrong"},
    ],
)
def test_without_a_good_key(
    api: httpx2.Client,
    operations: list[Operation],
    ids: dict[str, str],
    unchanged: Unchanged,
    headers: dict[str, str],
) -> None:
    with unchanged(), httpx2.Client(base_url=api.base_url, headers=headers) as stranger:
        for operation in operations:
            if operation[1] in OPEN:
                assert send(stranger, operation, ids).status_code == 200
                continue
            error = refused(send(stranger, operation, ids), 401, "unauthenticated")
            assert "memory-service keys create" in error["message"] or "Authorization: Bearer" in error["message"]
            if operation[0] == "post":  # whatever else is wrong, nobody is told before they say who they are
                wrong = stranger.post(operation[1].format(**ids), content=b"{", params={"limit": "x"})
                assert refused(wrong, 401)
                assert wrong.headers["www-authenticate"] == "Bearer"


def test_keys_until_they_are_revoked(api: httpx2.Client, database_url: str) -> None:
    id_, key = asyncio.run(create_key(database_url, "revocation", "test", datetime.now(UTC)))
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
        ok(httpx2.get(f"{api.base_url.join('/v1/threads')}", headers=headers))
    asyncio.run(revoke_key(database_url, id_))
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
        refused(httpx2.get(f"{api.base_url.join('/v1/threads')}", headers=headers), 401, says="unknown or revoked")


def test_ids_of_another_project(
    api: httpx2.Client,
    other_api: httpx2.Client,
    operations: list[Operation],
    ids: dict[str, str],
    unchanged: Unchanged,
) -> None:
    """Every route, with ids that exist elsewhere: 404, as for ids that exist nowhere."""
    tried = 0
    with unchanged():
        for operation in operations:
            if "{" not in operation[1] or "{user_id}" in operation[1]:
                continue  # a user's id is the application's own, and may be the same elsewhere: see test_users
            theirs = refused(send(other_api, operation, ids), 404, "not_found")
            nobodys = {name: f"{value[:-4]}0000" for name, value in ids.items()}
            nowhere = refused(send(api, operation, nobodys), 404, "not_found")
            kind = theirs["details"]["field"]
            assert theirs["message"].replace(ids[kind], "X") == nowhere["message"].replace(nobodys[kind], "X")
            tried += 1
    assert tried >= 15


def test_ids_below_an_own_thread(
    api: httpx2.Client, other_api: httpx2.Client, operations: list[Operation], ids: dict[str, str], unchanged: Unchanged
) -> None:
    """An own thread opens no door to the messages and prompts of another, neither here nor in another project."""
    for client in (api, other_api):
        own = {**ids, "thread_id": new_thread(client, ("user", "mine"))["id"]}
        with unchanged():
            for operation in operations:
                if "{message_id}" in operation[1] or "{prompt_id}" in operation[1]:
                    error = refused(send(client, operation, own), 404, "not_found")
                    assert error["details"]["field"] in ("message_id", "prompt_id")


def test_ids_in_bodies_and_parameters(other_api: httpx2.Client, ids: dict[str, str], unchanged: Unchanged) -> None:
    body = {"assistant_id": ids["assistant_id"]}
    with unchanged():
        thread = new_thread(other_api, ("user", "mine"))
        refused(other_api.post("/v1/threads", json=body), 404, "not_found", field="assistant_id")
        refused(other_api.patch(f"/v1/threads/{thread['id']}", json=body), 404, "not_found", field="assistant_id")
        for route, cursor in (
            ("/v1/threads", "thread_id"),
            ("/v1/assistants", "assistant_id"),
            (f"/v1/threads/{thread['id']}/messages", "message_id"),
            (f"/v1/threads/{thread['id']}/prompts", "prompt_id"),
        ):
            refused(other_api.get(route, params={"after": ids[cursor]}), 422, field="after")


def test_lists_and_searches_stay_at_home(other_api: httpx2.Client, ids: dict[str, str]) -> None:
    for route in ("/v1/threads", "/v1/assistants", "/v1/threads?user_id=u"):
        assert ok(other_api.get(route))["data"] == []
    found = ok(other_api.post("/v1/search", json={"q": "hello", "user_id": "u"}))
    assert (found["data"], found["recall"]) == ([], {"mode": "words", "reason": "nothing_to_search", "pending": 0})


def test_an_import_does_not_reveal_ids_of_others(
    api: httpx2.Client, other_api: httpx2.Client, ids: dict[str, str]
) -> None:
    lines = api.get(f"/v1/threads/{ids['thread_id']}/export").content
    report = ok(import_lines(other_api, lines), 201)
    assert report["renamed"] == {}


def test_one_idempotency_key_in_two_projects(api: httpx2.Client, other_api: httpx2.Client) -> None:
    headers = {"idempotency-key": "same"}
    mine = ok(api.post("/v1/threads", json={"user_id": "a"}, headers=headers), 201)
    theirs = ok(other_api.post("/v1/threads", json={"user_id": "b"}, headers=headers), 201)
    assert mine["id"] != theirs["id"]


@pytest.mark.parametrize(
    "id", ["nope", "thread_", "%00", "a%00b", "%ED%A0%80", "%FF", "x" * 5_000, "..%2F..", "' OR 1=1 --", "%25"]
)
def test_odd_ids_in_paths(api: httpx2.Client, ids: dict[str, str], unchanged: Unchanged, id: str) -> None:
    with unchanged():
        for path in (f"/v1/threads/{id}", f"/v1/assistants/{id}", f"/v1/threads/{ids['thread_id']}/messages/{id}"):
            for method in ("GET", "DELETE"):
                refused(api.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/threads/", "/v1/thread", "/v2/threads", "/v1/threads//messages"]
)
def test_unknown_paths(api: httpx2.Client, path: str) -> None:
    refused(api.get(path), 404, "not_found", says=f"There is no route GET {path}; /openapi.json lists")


def test_methods_that_a_path_does_not_know(api: httpx2.Client) -> None:
    answer = api.put("/v1/threads", json={})
    refused(answer, 405, "method_not_allowed", says="/v1/threads does not take PUT, but ")
    assert answer.headers["allow"]
