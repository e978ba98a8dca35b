"""Bodies that cannot be read: 4xx with the place, the remedy, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from select import select
from typing import Any

import httpx2
import pytest

from .support import MODEL, append, import_lines, new_thread, ok, post_bytes, refused

Unchanged = Callable[[], AbstractContextManager[None]]
MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "line 1, column 2"),
        (b'{"user_id": "a"', "Not valid JSON"),
        (b'{"user_id": "a",}', "Not valid JSON"),
        (b"{'user_id': 1}", "Not valid JSON"),
        (b'{"user_id": "\xff"}', "UTF-8 at byte 13"),
        (b'\xff\xfe{\x00"\x00', "Not valid"),
        (b'{"metadata": {"a": NaN}}', "NaN is not a JSON value"),
        (b'{"metadata": {"a": -Infinity}}', "-Infinity is not a JSON value"),
        (b'{"user_id": "a\nb"}', "control character"),
        (b"[" * 100_000, "Nested too deeply"),
        (b'{"metadata":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
    ],
)
def test_unreadable_json(api: httpx2.Client, unchanged: Unchanged, body: bytes, says: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    paths = ["/v1/threads", "/v1/assistants", "/v1/search", f"/v1/threads/{thread['id']}/messages"]
    with unchanged():
        for path in paths:
            error = refused(post_bytes(api, path, body), 400, says=says)
            assert error["code"] == "invalid_json"
        patched = api.patch(f"/v1/threads/{thread['id']}", content=body, headers={"content-type": "application/json"})
        refused(patched, 400, "invalid_json", says=says)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"user_id": "a", "user_id": "b"}', "user_id"),
        (b'{"metadata": {"k": "v", "l": "v", "k": "v"}}', "k"),
        (b'{"messages": [{"role": "user", "content": [{"type": "new", "a": {"b": 1, "\\u0062": 1}}]}]}', "b"),
        (b'{"\\ud83d": 1, "\\ud83d": 2}', "?"),
    ],
)
def test_a_key_twice_in_one_object(api: httpx2.Client, unchanged: Unchanged, body: bytes, key: str) -> None:
    with unchanged():
        refused(post_bytes(api, "/v1/threads", body), 400, "invalid_json", field=key, says="send each key once")
        line = b'{"type": "thread", "id": "t", ' + body[1:]
        error = refused(import_lines(api, line), 400, "invalid_json", field=key, says="send each key once")
        assert error["details"]["line"] == 1


@pytest.mark.parametrize("value", ["x", 1, None, True, [], [{}]])
def test_a_body_that_is_no_object(api: httpx2.Client, unchanged: Unchanged, value: Any) -> None:
    thread = new_thread(api, ("user", "hello"))
    with unchanged():
        for path in ("/v1/assistants", "/v1/search", f"/v1/threads/{thread['id']}/prompts"):
            refused(
                api.post(path, json=value), 422, "invalid_request", field="body", says="Send a JSON object as the body."
            )


def test_a_body_that_is_missing(api: httpx2.Client, unchanged: Unchanged) -> None:
    thread = new_thread(api)
    with unchanged():
        for path in ("/v1/assistants", "/v1/search", f"/v1/threads/{thread['id']}/messages"):
            refused(api.post(path), 422, "invalid_request", field="body", says="Send a JSON object as the body.")
    ok(api.post("/v1/threads"), 201)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_json_must_be_called_json(api: httpx2.Client, unchanged: Unchanged, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    with unchanged():
        answer = api.post("/v1/threads", content=b'{"user_id": "u"}', headers=headers)
        refused(answer, 415, "unsupported_media_type", field="Content-Type", says="application/json")
    ok(api.post("/v1/threads", content=b"{}", headers={"content-type": "application/json; charset=utf-8"}), 201)


TEXTS = {"U+0000": '"a\\u0000b"', "lone surrogate": '"a\\ud83dz"', "reversed pair": '"\\ude00\\ud83d"'}
PLACES = {
    "user_id": '{"user_id": %s}',
    "instructions": '{"instructions": %s}',
    "metadata.k": '{"metadata": {"k": %s}}',
    "metadata (a key)": '{"metadata": {%s: "v"}}',
    "body (a key)": "{%s: 1}",
    "messages[0].content": '{"messages": [{"role": "user", "content": %s}]}',
    "messages[0].content[0].text": '{"messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}',
    "messages[0].content[0].later.deep[1]": (
        '{"messages": [{"role": "user", "content": [{"type": "new", "later": {"deep": [1, %s]}}]}]}'
    ),
    "tools[0].name": '{"tools": [{"name": %s}]}',
    "documents[0].text": '{"documents": [{"text": %s}]}',
    "messages[0].metadata.k": '{"messages": [{"role": "user", "content": "x", "metadata": {"k": %s}}]}',
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_nobody_can_store(api: httpx2.Client, unchanged: Unchanged, place: str, kind: str) -> None:
    body = (PLACES[place] % TEXTS[kind]).encode()
    with unchanged():
        error = refused(post_bytes(api, "/v1/threads", body), 422, "invalid_text", field=place)
    assert ("U+0000; remove it" if kind == "U+0000" else "surrogate") in error["message"]


def test_a_surrogate_pair_is_a_character(api: httpx2.Client) -> None:
    thread = ok(post_bytes(api, "/v1/threads", b'{"user_id": "\\ud83d\\ude00"}'), 201)
    assert thread["user_id"] == "😀"


@pytest.mark.parametrize("chunked", [False, True])
def test_20_megabytes(api: httpx2.Client, unchanged: Unchanged, chunked: bool) -> None:
    thread = new_thread(api)
    body = json.dumps({"role": "user", "content": "x" * 20 * MEGABYTE}).encode()
    with unchanged():
        for path in (f"/v1/threads/{thread['id']}/messages", "/healthz"):
            answer = post_bytes(api, path, _chunks(body) if chunked else body)  # type: ignore[arg-type]
            if path == "/healthz" and chunked:
                refused(answer, 405)  # nobody reads it, so nobody counts it
            else:
                error = refused(answer, 413, "payload_too_large", says="send less at once")
                assert error["details"] == {"limit_bytes": 10 * MEGABYTE}
    # The connection is fit for the next request.
    append(api, thread["id"], "user", "x")


@pytest.mark.parametrize("chunked", [False, True])
def test_20_megabytes_from_a_client_that_writes_before_it_reads(api: httpx2.Client, chunked: bool) -> None:
    """It must get to the answer, though the connection is to be closed after it."""
    headers = {**api.headers, "connection": "close", "content-type": "application/json"}
    connection = HTTPConnection(api.base_url.host, api.base_url.port, timeout=30)
    body = b" " * 20 * MEGABYTE
    connection.request("POST", "/v1/threads", _chunks(body) if chunked else body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "payload_too_large"
    connection.close()


def _chunks(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), MEGABYTE):
        yield body[at : at + MEGABYTE]


def test_a_line_of_20_megabytes(api: httpx2.Client, unchanged: Unchanged) -> None:
    with unchanged():
        lines = [{"type": "thread", "id": "t"}, {"type": "message", "role": "user", "content": "x" * 20 * MEGABYTE}]
        error = refused(import_lines(api, lines), 413, "payload_too_large")
        assert error["details"]["limit_bytes"] == 10 * MEGABYTE


def test_many_fields_that_nobody_knows(api: httpx2.Client) -> None:
    """To compare each with each would take hours."""
    error = refused(api.post("/v1/search", json={f"field_{i}": i for i in range(100_000)}), 422, field="q")
    assert len(error["details"]["problems"]) == 20


def test_a_body_of_many_values_keeps_nobody_waiting(api: httpx2.Client) -> None:
    """It takes a second to read. Were that done by what answers all others, nobody would be answered before its end."""
    thread = new_thread(api)
    body = b'{"role": "assistant", "content": [[%b]], "role": ""}' % b",".join([b'{"a":1}'] * 600_000)
    with closing(HTTPConnection(api.base_url.host, api.base_url.port or 80, timeout=60)) as connection:
        connection.putrequest("POST", f"/v1/threads/{thread['id']}/messages")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.putheader("authorization", api.headers["authorization"])
        connection.endheaders(body[:-1])
        for _ in range(100):  # by then all but the last byte has arrived
            ok(api.get("/healthz"))
        connection.send(body[-1:])
        for _ in range(5):
            ok(api.get("/healthz"))
        assert select([connection.sock], [], [], 0)[0] == []
        assert b"stands twice" in connection.getresponse().read()


def test_numbers_beyond_all_bounds(api: httpx2.Client, unchanged: Unchanged) -> None:
    """A number is either content, which is kept, or a field, which has bounds."""
    thread = new_thread(api, ("user", "hello"))
    path = f"/v1/threads/{thread['id']}"
    huge = b"9" * 5_000
    with unchanged():
        for field, route in ((b"max_prompt_tokens", "prompts"), (b"max_output_tokens", "prompts"), (b"seq", "fork")):
            for number in (huge, b"1e400", b"-0", b"1.0", b"-1", b"1e2"):
                body = b'{"model": "%b", "%b": %b}' % (MODEL.encode(), field, number)
                body = body if route == "prompts" else b'{"%b": %b}' % (field, number)
                refused(post_bytes(api, f"{path}/{route}", body), 422, "invalid_request", field=field.decode())
    block = b'{"role": "user", "content": [{"type": "new", "n": [%b, 1e400, -0]}]}' % huge
    kept = post_bytes(api, f"{path}/messages", block)
    assert kept.status_code == 201
    assert b'"n":[%b,1e400,-0]' % huge in kept.content
