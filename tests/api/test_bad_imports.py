"""Imports: each kind of broken line is named, and nothing at all is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest

from .support import import_lines, ndjson, refused, tool_use
from .test_bad_fields import ASSISTANT, PAIRS_17, THREAD

Unchanged = Callable[[], AbstractContextManager[None]]
THREAD_LINE = {"type": "thread", "id": "thread_x"}
RUN_LINE = {"type": "run", "id": "run_x", "status": "completed", "provider": "openai", "model": "m"}
MESSAGE_LINE = {"type": "message", "role": "user", "content": "hello"}
UNREADABLE: list[tuple[bytes, str, str]] = [
    (b"{", "invalid_json", "Not valid JSON"),
    (b"\xff", "invalid_json", "UTF-8"),
    (b'{"type": "thread", "id": NaN}', "invalid_json", "NaN"),
    (b'{"type":' * 10_000, "invalid_json", "Nested too deeply"),
    (b"[]", "invalid_request", "must be an object"),
    (b"null", "invalid_request", "must be an object"),
    (b'"thread"', "invalid_request", "must be an object"),
    (b"{}", "invalid_request", "assistant, thread, run or message"),
    (b'{"type": "runs"}', "invalid_request", "assistant, thread, run or message"),
    (b'{"type": ["thread"]}', "invalid_request", "assistant, thread, run or message"),
    (b'{"type": "thread", "id": "a\\u0000"}', "invalid_text", "`id` contains U+0000"),
    (b'{"type": "thread", "id": "a\\ud800"}', "invalid_text", "`id` contains a lone surrogate"),
    (b'{"type": "thread", "id": "a", "\\u0000": 1}', "invalid_text", "U+0000"),
    (b'{"type": "message", "role": "user", "content": "a\\udfff"}', "invalid_text", "lone surrogate"),
]
WRONG_IDS: list[tuple[Any, str]] = [
    (None, "string"),
    (7, "string"),
    ("", "at least 1"),
    ("i" * 257, "at most 256"),
    ("a/b", "no slash"),
    ("..", "no slash"),
    ("a\nb", "printable"),
]
TIMES: list[tuple[Any, str]] = [
    ("yesterday", "RFC 3339"),
    (1_700_000_000, "RFC 3339"),
    ("2026-01-01T00:00:00", "offset"),
    ("0001-01-01T00:00:00+14:00", "after 1970"),
    ("9999-12-31T23:59:59-14:00", "before 9999"),
    ("2026-13-01T00:00:00Z", "RFC 3339"),
]


def check(
    api: httpx2.Client, unchanged: Unchanged, *lines: Any, code: str, says: str, field: str | None = None
) -> None:
    """The last line is the bad one."""
    with unchanged():
        status = 400 if code == "invalid_json" else 422
        error = refused(import_lines(api, lines), status, code, says=says, field=field)
        assert error["message"].startswith(f"Line {len(lines)}: ")
        assert error["details"]["line"] == len(lines)


@pytest.mark.parametrize(("line", "code", "says"), UNREADABLE)
def test_unreadable_lines(api: httpx2.Client, unchanged: Unchanged, line: bytes, code: str, says: str) -> None:
    check(api, unchanged, THREAD_LINE, MESSAGE_LINE, line, code=code, says=says)


def test_a_user_id_with_a_line_feed(api: httpx2.Client, unchanged: Unchanged) -> None:
    line = {"type": "thread", "id": "b", "user_id": "a\nb"}
    check(api, unchanged, THREAD_LINE, line, code="invalid_request", says="no control characters", field="user_id")


@pytest.mark.parametrize("kind", ["thread", "assistant"])
@pytest.mark.parametrize(("id", "says"), WRONG_IDS)
def test_ids(api: httpx2.Client, unchanged: Unchanged, kind: str, id: Any, says: str) -> None:
    check(api, unchanged, {"type": kind, "id": id}, code="invalid_request", says=says, field="id")


@pytest.mark.parametrize(("time", "says"), TIMES)
def test_times(api: httpx2.Client, unchanged: Unchanged, time: Any, says: str) -> None:
    for line in (THREAD_LINE, MESSAGE_LINE, {"type": "assistant", "id": "asst_x"}):
        lines = [THREAD_LINE] if line is MESSAGE_LINE else []
        bad = {**line, "created_at": time}
        check(api, unchanged, *lines, bad, code="invalid_request", says=says, field="created_at")


@pytest.mark.parametrize(("fields", "field", "says"), THREAD)
def test_threads(api: httpx2.Client, unchanged: Unchanged, fields: dict[str, Any], field: str, says: str) -> None:
    """A line is held to what a request is held to."""
    check(api, unchanged, {**THREAD_LINE, **fields}, code="invalid_request", says=says, field=field)


@pytest.mark.parametrize(("fields", "field", "says"), ASSISTANT)
def test_assistants(api: httpx2.Client, unchanged: Unchanged, fields: dict[str, Any], field: str, says: str) -> None:
    line = {"type": "assistant", "id": "asst_x", **fields}
    check(api, unchanged, THREAD_LINE, MESSAGE_LINE, line, code="invalid_request", says=says, field=field)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"status": "in_progress"}, "status", "'completed'"),
        ({"status": "queued"}, "status", "'completed'"),
        ({"provider": "acme"}, "provider", "'openai'"),
        ({"model": ""}, "model", "at least 1"),
        ({"id": "a/b"}, "id", "no slash"),
        ({"thread_id": "thread_y"}, "thread_id", "not the thread of the lines before"),
        ({"usage": {"output_tokens": -1}}, "usage.output_tokens", "at least 0"),
        ({"usage": {"calls": "1"}}, "usage.calls", "integer"),
        ({"last_error": "x"}, "last_error", "object"),
        ({"ended_at": 5}, "ended_at", "RFC 3339"),
        ({"owner": "me"}, "owner", "not"),
        ({"metadata": {"k": 1}}, "metadata.k", "string"),
        ({"openai": {"tools": ["x"]}}, "openai.tools[0]", "object"),
        ({"openai": {"input": [1]}}, "openai.input", "at least 2"),
        ({"openai": {"step": "s"}}, "openai.step", "object"),
    ],
)
def test_runs(api: httpx2.Client, unchanged: Unchanged, fields: dict[str, Any], field: str, says: str) -> None:
    check(api, unchanged, THREAD_LINE, {**RUN_LINE, **fields}, code="invalid_request", says=says, field=field)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"role": "system"}, "role", "'user'"),
        ({"role": None}, "role", "'user'"),
        ({"content": None}, "content", "a string or a list"),
        ({"content": 5}, "content", "a string or a list"),
        ({"content": ["x"]}, "content[0]", "must be an object"),
        ({"id": "m" * 257}, "id", "at most 256"),
        ({"id": "a/b"}, "id", "no slash"),
        ({"run_id": ""}, "run_id", "at least 1"),
        ({"seq": 0}, "seq", "at least 1"),
        ({"seq": 1}, "seq", "the message before has 1"),
        ({"seq": 2**31}, "seq", "at most"),
        ({"seq": 2**31 - 1}, "seq", "at most"),
        ({"seq": "3"}, "seq", "integer"),
        ({"seq": True}, "seq", "integer"),
        ({"seq": 1.0}, "seq", "integer"),
        ({"status": "queued"}, "status", "'incomplete'"),
        ({"metadata": PAIRS_17}, "metadata", "at most 16"),
        ({"metadata": {"k": 1}}, "metadata.k", "string"),
        ({"thread_id": "thread_y"}, "thread_id", "not the thread of the lines before"),
        ({"token_count": 3}, "token_count", "check its spelling"),
    ],
)
def test_messages(api: httpx2.Client, unchanged: Unchanged, fields: dict[str, Any], field: str, says: str) -> None:
    line = {**MESSAGE_LINE, **fields}
    check(api, unchanged, THREAD_LINE, MESSAGE_LINE, line, code="invalid_request", says=says, field=field)


def test_lines_in_the_wrong_place(api: httpx2.Client, unchanged: Unchanged) -> None:
    check(api, unchanged, MESSAGE_LINE, code="invalid_request", says="after the line of its thread")
    assistant = {"type": "assistant", "id": "asst_x"}
    lacking = {**THREAD_LINE, "assistant_id": "asst_y"}
    check(api, unchanged, assistant, lacking, code="not_found", says="no assistant 'asst_y'")


def test_a_bad_line_far_down(api: httpx2.Client, unchanged: Unchanged) -> None:
    """Batches that were written before are taken back, and the line is named all the same."""
    good = [THREAD_LINE, *([MESSAGE_LINE] * 1_100)]
    check(api, unchanged, *good, {**MESSAGE_LINE, "content": ""}, code="invalid_message", says="is empty")
    calls = {"type": "message", "role": "assistant", "content": [tool_use("a")]}
    check(api, unchanged, THREAD_LINE, calls, *good[1:], calls, code="duplicate_tool_use", says="an id of its own")


def test_parameters(api: httpx2.Client, unchanged: Unchanged) -> None:
    with unchanged():
        refused(import_lines(api, [THREAD_LINE], ids="new"), 422, "invalid_request", field="ids", says="'fresh'")


def test_empty_imports(api: httpx2.Client, unchanged: Unchanged) -> None:
    with unchanged():
        for body in (b"", b"\n\n", b"  \n"):
            refused(import_lines(api, body), 422, "invalid_request", field="body", says="a line for each")


def test_blank_lines_count_as_lines(api: httpx2.Client, unchanged: Unchanged) -> None:
    with unchanged():
        error = refused(import_lines(api, b"\n\n" + ndjson({"type": "x"})), 422)
        assert error["details"]["line"] == 3
