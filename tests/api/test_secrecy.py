"""What people write, and their keys, never reach the service's log, whatever goes wrong."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx2
import psycopg
import pytest

from tests.conftest import Service

from .support import MODEL, build, import_lines, messages_of, new_thread, ok, post_bytes, refused, tool_use

PATIENCE_SECONDS = 10


@pytest.fixture
def canary() -> str:
    return f"canary{uuid4().hex}"


@pytest.fixture
def failing(database: psycopg.Connection) -> Iterator[None]:
    """A constraint that the code knows nothing of: Postgres quotes the whole row when it is broken."""
    database.execute("ALTER TABLE messages ADD CONSTRAINT trap CHECK (content NOT LIKE '%a sprung trap%') NOT VALID")
    yield
    database.execute("ALTER TABLE messages DROP CONSTRAINT trap")


def test_ordinary_errors(api: httpx2.Client, canary: str, log_of: Callable[[str], list[str]]) -> None:
    thread = new_thread(api, ("user", canary), user_id=canary, instructions=canary, metadata={canary: canary})
    path = f"/v1/threads/{thread['id']}"
    ok(build(api, thread["id"]), 201)
    refused(build(api, thread["id"], max_prompt_tokens=1), 422)
    refused(post_bytes(api, "/v1/threads", f'{{"user_id": "{canary}'.encode()), 400)
    refused(post_bytes(api, "/v1/threads", f'{{"user_id": "{canary}\\u0000"}}'.encode()), 422)
    refused(api.post(f"{path}/messages", json={"role": canary, "content": canary}), 422)
    refused(api.get("/v1/threads", params={"user_id": canary, "after": canary}), 422)
    refused(api.get(f"{path}/search", params={"q": canary, "limit": canary}), 422)
    refused(import_lines(api, [{"type": "thread", "id": canary, canary: canary}]), 422)
    for role, content in (("assistant", [tool_use(canary)]), ("assistant", [tool_use(canary)])):
        api.post(f"{path}/messages", json={"role": role, "content": content})
    refused(api.request(canary, "/v1/threads", params={canary: canary}), 405)
    refused(api.get(f"/{canary}", headers={canary: canary}), 404)
    wrong = httpx2.get(api.base_url.join("/v1/threads"), headers={"authorization": f"Bearer msk_{canary}"})
    refused(wrong, 401)
    log = log_of(wrong.headers["x-request-id"])
    assert canary not in "".join(log).lower()  # a method comes in capitals
    assert api.headers["authorization"].split()[1] not in "".join(log)


@pytest.mark.usefixtures("failing")
def test_an_error_nobody_foresaw(api: httpx2.Client, canary: str, log_of: Callable[[str], list[str]]) -> None:
    """500 in the usual shape, nothing kept, and a log that names the place but not the words."""
    thread = new_thread(api, ("user", "hello"))
    bad = {"role": "user", "content": f"a sprung trap {canary}"}
    path = f"/v1/threads/{thread['id']}"
    lines = [{"type": "thread", "id": "t"}, {"type": "message", **bad}]
    answers = [
        api.post(f"{path}/messages", json=bad, headers={"idempotency-key": canary}),
        api.post("/v1/threads", json={"messages": [bad]}),
        api.patch(f"{path}/messages/{messages_of(api, thread['id'])[0]['id']}", json={"content": bad["content"]}),
        api.post(f"{path}/prompts", json={"model": MODEL, "message": bad}),
        import_lines(api, lines),
    ]
    for answer in answers:
        error = refused(answer, 500, "internal", says="request id")
        assert canary not in str(error)
        log = log_of(answer.headers["x-request-id"])
        assert canary not in "".join(log)
        assert "a sprung trap" not in "".join(log)
        record = next(
            json.loads(line) for line in log if answer.headers["x-request-id"] in line and "unforeseen" in line
        )
        assert record["error"] == "IntegrityError"
        assert any(frame.startswith(("messages.py", "edits.py")) for frame in record["at"])
    assert len(messages_of(api, thread["id"])) == 1
    ok(api.post(f"{path}/messages", json={"role": "user", "content": "fine"}, headers={"idempotency-key": canary}), 201)


def test_what_is_not_even_http(
    service: Service, api: httpx2.Client, canary: str, log_of: Callable[[str], list[str]]
) -> None:
    """The server's own warnings have the form of ours."""
    before = len(service.log)
    with socket.create_connection((api.base_url.host, api.base_url.port), 10) as connection:
        connection.sendall(f"{canary} {canary}\r\n\r\n".encode())
        assert b" 400 " in connection.makefile("rb").readline()
    log = log_of(api.get("/healthz").headers["x-request-id"])[before:]
    assert any("Invalid HTTP" in json.loads(line)["message"] for line in log)
    assert canary not in "".join(log)


def test_a_client_that_goes_away_while_it_sends(
    api: httpx2.Client, canary: str, log_of: Callable[[str], list[str]]
) -> None:
    """Nothing went wrong here, so it is no error of the service's."""
    before = len(log_of(api.get("/healthz").headers["x-request-id"]))
    key = api.headers["authorization"]
    with socket.create_connection((api.base_url.host, api.base_url.port), 10) as connection:
        head = "POST /v1/threads HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n"
        connection.sendall(f'{head}authorization: {key}\r\n\r\n{{"user_id": "{canary}'.encode())
    deadline = time.monotonic() + PATIENCE_SECONDS
    log: list[str] = []
    while not any('"status": 499' in line for line in log):
        assert time.monotonic() < deadline, log
        log = log_of(api.get("/healthz").headers["x-request-id"])[before:]
    assert "unforeseen" not in "".join(log)
    assert canary not in "".join(log)


def test_every_line_is_json(service: Service, api: httpx2.Client, log_of: Callable[[str], list[str]]) -> None:
    answer = api.get("/v1/threads/none")
    for line in log_of(answer.headers["x-request-id"]):
        assert json.loads(line)["level"]
    last = next(json.loads(line) for line in service.log if answer.headers["x-request-id"] in line)
    assert (last["method"], last["route"], last["status"]) == ("GET", "/v1/threads/{thread_id}", 404)
    assert last["time"]
    assert last["level"] == "info"
    assert last["duration_ms"] > 0
    assert isinstance(last["project"], int)
    assert last["key"].startswith("key_")


def test_everything_as_text(database_url: str, api_key: str, canary: str) -> None:
    """For people, and with all that is ever logged: still one line a request, and nothing of what people write."""
    env = {"MEMORY_DATABASE_URL": database_url, "MEMORY_LOG_FORMAT": "text", "MEMORY_LOG_LEVEL": "debug"}
    service = Service.start(env=env)
    try:
        with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {api_key}"}) as client:
            thread = new_thread(client, ("user", canary), user_id=canary)
            ok(build(client, thread["id"]), 201)
            refused(client.get("/v1/threads", params={canary: f"{canary}\n"}), 422)
            answer = client.get(f"/v1/threads/{canary}")
            refused(answer, 404)
            ok(client.delete(f"/v1/users/{canary}"))
    finally:
        assert service.stop() == 0
    assert canary not in "".join(service.log)
    assert api_key not in "".join(service.log)
    (line,) = [line for line in service.log if answer.headers["x-request-id"] in line]
    assert " info    request " in line
    assert " method=GET route=/v1/threads/{thread_id} status=404 duration_ms=" in line
