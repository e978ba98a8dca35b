"""Short words for what most tests of the API do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import httpx2

MODEL = "claude-sonnet-5"
# Words of the library that validates, which say nothing to a caller.
JARGON = re.compile(
    r"after validation|Input should|should (be|have|match)|Value error|unable to parse|pydantic|valid \w+ type"
)
UNKNOWN_ID = "thread_00000000000000000000000000"
TOOL = {"name": "search", "description": "Find", "input_schema": {"type": "object"}}


def refused(
    answer: httpx2.Response, status: int, code: str | None = None, *, field: str | None = None, says: str = ""
) -> dict[str, Any]:
    """The error of an answer that must be one, in the one shape that errors have."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == answer.headers["x-request-id"] != ""
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"code", "message", "details"}
    assert isinstance(error["details"], dict)
    assert error["message"].endswith(".")
    if code is not None:
        assert error["code"] == code, error
    if field is not None:
        assert error["details"]["field"] == field, error
        assert status == 404 or field in error["message"], error
    assert says in error["message"], error
    assert not JARGON.search(answer.text), error
    return error


def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["x-request-id"]
    return answer.json()


def new_thread(api: httpx2.Client, *messages: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    body = {**fields, "messages": [{"role": role, "content": content} for role, content in messages]}
    thread: dict[str, Any] = ok(api.post("/v1/threads", json=body), 201)
    return thread


def append(api: httpx2.Client, thread_id: str, role: str, content: Any) -> dict[str, Any]:
    body = {"role": role, "content": content}
    message: dict[str, Any] = ok(api.post(f"/v1/threads/{thread_id}/messages", json=body), 201)["data"][0]
    return message


def messages_of(api: httpx2.Client, thread_id: str) -> list[dict[str, Any]]:
    page: dict[str, Any] = ok(api.get(f"/v1/threads/{thread_id}/messages", params={"limit": 100}))
    assert not page["has_more"]
    found: list[dict[str, Any]] = page["data"]
    return found


def build(api: httpx2.Client, thread_id: str, **body: Any) -> httpx2.Response:
    return api.post(f"/v1/threads/{thread_id}/prompts", json={"model": MODEL, **body})


def tool_use(id: str, name: str = "search", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def tool_result(id: str, content: Any = "found") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def ndjson(*lines: Any) -> bytes:
    """Lines as they would be in a file; text and bytes as they are, all else as JSON."""
    return b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n"


def import_lines(api: httpx2.Client, content: bytes | Sequence[Any], **params: str) -> httpx2.Response:
    body = content if isinstance(content, bytes) else ndjson(*content)
    headers = {"content-type": "application/x-ndjson"}
    return api.post("/v1/import", content=body, params=params, headers=headers)


def post_bytes(api: httpx2.Client, path: str, body: bytes, **headers: str) -> httpx2.Response:
    return api.post(path, content=body, headers={"content-type": "application/json", **headers})
