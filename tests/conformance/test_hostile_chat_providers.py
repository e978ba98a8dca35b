"""What the providers of models make of servers that fail, lie, stall and hang up."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from memory_service.errors import ProviderError
from memory_service.providers.base import ChatProvider, Delta, ModelCall
from memory_service.providers.chat.anthropic import AnthropicChat
from memory_service.providers.chat.failures import Called, not_opened
from memory_service.providers.chat.openai import OpenAIChat
from tests.conformance.chat import KEY, Outcome, hear, request, with_provider
from tests.providers.scripted import (
    Behaviour,
    Raw,
    ScriptedProvider,
    Status,
    cut,
    early,
    malformed,
    ok,
    scripted,
    stall,
    status,
    stream_error,
)

PATIENT_SECONDS = 60.0
HASTY_SECONDS = 0.2
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
Open = Callable[..., ChatProvider]


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedProvider]:
    with scripted() as running:
        yield running


@pytest.fixture(params=["anthropic", "openai"])
def opener(request: pytest.FixtureRequest, server: ScriptedProvider) -> Open:
    """Opens one of the two, at the server or elsewhere."""
    server.wait_until(lambda: server.connections == 0)
    server.asked.clear()

    def open_provider(idle_seconds: float = PATIENT_SECONDS, url: str = server.url, key: str = KEY) -> ChatProvider:
        if request.param == "anthropic":
            return AnthropicChat(idle_seconds, base_url=url, api_key=key)
        return OpenAIChat(idle_seconds, base_url=f"{url}/v1", api_key=key)

    return open_provider


def call_of(provider: ChatProvider) -> ModelCall:
    return ModelCall(request(provider.name, "Hello?"))


def heard(opened: ChatProvider) -> Outcome:
    return with_provider(opened, lambda provider: hear(provider, call_of(provider)))


def failure(opened: ChatProvider) -> ProviderError:
    error = heard(opened).error
    assert error
    assert error.details["provider"] == opened.name
    assert error.details["model"] == "scripted"
    assert error.details["is_retryable"] == error.is_retryable
    assert KEY not in error.message
    return error


@pytest.mark.parametrize(
    ("code", "expected", "is_retryable"),
    [
        (400, "provider_refused", False),
        (401, "provider_unauthorized", False),
        (402, "provider_unauthorized", False),
        (403, "provider_unauthorized", False),
        (404, "provider_model_unknown", False),
        (408, "provider_failed", True),
        (409, "provider_failed", True),
        (413, "provider_request_too_large", False),
        (418, "provider_refused", False),
        (422, "provider_refused", False),
        (429, "provider_rate_limited", True),
        (500, "provider_failed", True),
        (502, "provider_failed", True),
        (503, "provider_overloaded", True),
        (504, "provider_failed", True),
        (529, "provider_overloaded", True),
        (599, "provider_failed", True),
    ],
)
def test_each_status_is_one_error(
    server: ScriptedProvider, opener: Open, code: int, expected: str, is_retryable: bool
) -> None:
    server.script(status(code, message="Not today.", request_id="req_of_theirs"))
    error = failure(opener())
    assert (error.code, error.is_retryable) == (expected, is_retryable)
    assert error.message == f"{error.details['provider']} answered {code}: Not today."
    assert error.details["status"] == code
    assert error.details["provider_request_id"] == "req_of_theirs"
    assert len(server.asked) == 1, "it tries once"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>" + b"Bad gateway " * 1000,
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'"no"',
        b'{"error": null}',
        b"[]",
        b'{"error": 5}',
    ],
    ids=["html", "nothing", "bytes", "deep", "a string", "null", "a list", "a number"],
)
def test_an_error_page_is_not_quoted(server: ScriptedProvider, opener: Open, body: bytes) -> None:
    server.script(Status(502, body))
    error = failure(opener())
    assert error.code == "provider_failed"
    assert error.message == f"{error.details['provider']} answered 502."


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210000 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
        "the request exceeds the available context size, try increasing it",
    ],
)
def test_a_prompt_over_the_context_is_told_from_other_refusals(
    server: ScriptedProvider, opener: Open, message: str
) -> None:
    server.script(status(400, message=message))
    error = failure(opener())
    assert (error.code, error.is_retryable) == ("provider_request_too_large", False)


def test_a_code_of_the_context_is_enough(server: ScriptedProvider, opener: Open) -> None:
    body = {"error": {"message": "No.", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    server.script(Status(400, json.dumps(body).encode()))
    assert failure(opener()).code == "provider_request_too_large"


def test_waiting_does_not_fill_an_account(server: ScriptedProvider, opener: Open) -> None:
    server.script(status(429, kind="insufficient_quota", message="You exceeded your current quota."))
    error = failure(opener())
    assert (error.code, error.is_retryable) == ("provider_rate_limited", False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17.5"}, 17.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "86400"}, 3600),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, 0),
        ({}, None),
    ],
)
def test_when_to_come_back(
    server: ScriptedProvider, opener: Open, headers: dict[str, str], seconds: float | None
) -> None:
    server.script(Status(429, b"{}", headers))
    assert failure(opener()).retry_after_seconds == seconds


def test_when_to_come_back_as_a_date(server: ScriptedProvider, opener: Open) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)
    server.script(Status(503, b"{}", {"retry-after": date}))
    seconds = failure(opener()).retry_after_seconds
    assert seconds is not None
    assert 900 < seconds <= 1800


def test_keys_are_struck_out_of_what_a_provider_says(server: ScriptedProvider, opener: Open) -> None:
    told = f"Incorrect API key provided: {KEY}. sk-ant-api03-abc_DEF*****xyz is none either. " + "x" * 470 + KEY
    server.script(status(401, message=told))
    error = failure(opener())
    assert "Incorrect API key provided: …. … is none either." in error.message
    assert len(error.message) <= 500
    assert KEY[:6] not in error.message, "not cut in the middle of one either"


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Raw([]), "provider_unreachable"),
        (Raw([b"220 mail.example ESMTP\r\n"]), "provider_unreachable"),
        (Raw([HEAD]), "provider_stream_broken"),
        (Raw([HEAD, b": nothing but a comment\n\n"]), "provider_stream_broken"),
        (Raw([HEAD, b"data: [DONE]\n\n"]), "provider_stream_broken"),
        (Raw([HEAD, b"data: [1, 2]\n\n"]), "provider_stream_broken"),
        (Raw([HEAD, b"data: " + b"[" * 100_000 + b"\n\n"]), "provider_stream_broken"),
        (Raw([HEAD, b'data: {"type": "message_stop", "choices": 5}\n\n']), "provider_stream_broken"),
        (Raw([HEAD, b"data: \xff\xfe\n\n"]), "provider_stream_broken"),
        (Raw([HEAD, b"x" * 17_000_000]), "provider_stream_broken"),
        (Raw([HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"), b"no gzip"]), "provider_stream_broken"),
        (Status(200, b'{"id": "msg_1", "content": [], "choices": []}'), "provider_stream_broken"),
        (Status(200, b"<html>Welcome</html>"), "provider_stream_broken"),
        (cut(after=0), "provider_stream_broken"),
        (cut(after=2), "provider_stream_broken"),
        (early(after=2), "provider_stream_broken"),
        (malformed(after=2), "provider_stream_broken"),
        (stream_error("overloaded_error", after=2), "provider_overloaded"),
        (stream_error("rate_limit_error", after=2), "provider_rate_limited"),
        (stream_error("api_error", after=0), "provider_failed"),
        (stream_error("server_error", after=2), "provider_failed"),
        (stream_error("whatever comes next", after=2), "provider_failed"),
    ],
)
def test_what_is_no_reply_may_be_one_later(
    server: ScriptedProvider, opener: Open, behaviour: Behaviour, expected: str
) -> None:
    server.script(behaviour)
    error = failure(opener())
    assert (error.code, error.is_retryable) == (expected, True)


@pytest.mark.parametrize("block", [{"type": "text", "text": 5}, {"type": "thinking", "thinking": ["so"]}])
def test_a_block_that_begins_with_no_text(server: ScriptedProvider, block: dict[str, object]) -> None:
    event = {"type": "content_block_start", "index": 0, "content_block": block}
    server.script(Raw([HEAD, f"data: {json.dumps(event)}\n\n".encode()]))
    outcome = heard(AnthropicChat(PATIENT_SECONDS, base_url=server.url, api_key=KEY))
    assert outcome.error
    assert (outcome.error.code, outcome.deltas) == ("provider_stream_broken", [])


def test_what_was_said_before_an_error_was_heard(server: ScriptedProvider, opener: Open) -> None:
    server.script(stream_error("overloaded_error", "Busy.", after=2, text="One two three."))
    outcome = heard(opener())
    assert outcome.of("text") == "One two"
    assert outcome.error
    assert outcome.error.message.endswith("answered 529: Busy.")
    assert outcome.error.details["provider_request_id"] == "req_1"


def test_an_error_in_a_stream_may_bring_its_status(server: ScriptedProvider, opener: Open) -> None:
    for code in (400, "400", "4" * 10):
        event = json.dumps({"error": {"message": "No.", "type": "BadRequestError", "code": code}}).encode()
        server.script(Raw([HEAD, b"data: " + event + b"\n\n"]))
        error = failure(opener())
        expected = ("provider_refused", False) if len(str(code)) == 3 else ("provider_failed", True)
        assert (error.code, error.is_retryable) == expected


@pytest.mark.parametrize(
    "behaviour",
    [
        Raw([], stays_open=True),
        Raw([b"HTTP/1.1 500 Oh\r\ncontent-length: 100\r\n\r\nno"], stays_open=True),
        stall(after=0),
        stall(after=2),
    ],
    ids=["mute", "error", "head", "words"],
)
def test_a_provider_that_falls_silent_is_given_up(server: ScriptedProvider, opener: Open, behaviour: Behaviour) -> None:
    server.script(behaviour)
    error = failure(opener(HASTY_SECONDS))
    assert (error.code, error.is_retryable) == ("provider_timeout", True)


def test_nobody_there(opener: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure(opener(url=f"http://127.0.0.1:{port}"))
    assert (error.code, error.is_retryable) == ("provider_unreachable", True)
    assert f"at 127.0.0.1:{port} " in error.message


def test_a_password_in_an_address_is_not_told(opener: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "secret-word" not in failure(opener(url=f"http://user:secret-word@127.0.0.1:{port}")).message


def test_no_connection_in_time_is_nobody_there() -> None:
    error = not_opened(Called("anthropic", "m"), httpx2.ConnectTimeout("no"))
    assert (error.code, error.is_retryable) == ("provider_unreachable", True)


def test_a_key_that_cannot_be_sent(opener: Open) -> None:
    error = failure(opener(key="no\nheader"))
    assert (error.code, error.is_retryable) == ("provider_failed", False)
    assert "header" not in error.message


def test_an_address_that_is_none(opener: Open) -> None:
    error = failure(opener(url="not-an-address"))
    assert (error.code, error.is_retryable) == ("provider_failed", False)


@pytest.mark.parametrize("code", [301, 307, 308])
def test_nobody_is_followed_elsewhere(server: ScriptedProvider, opener: Open, code: int) -> None:
    server.script(status(code, message="Over there.", location=f"{server.url}/v1/messages"))
    error = failure(opener())
    assert (error.code, error.is_retryable) == ("provider_refused", False)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "behaviour", [status(429, retry_after="2"), Status(200, b"<html>"), Raw([]), Status(200, b"[]")]
)
def test_prewarming_fails_in_the_same_ways(server: ScriptedProvider, opener: Open, behaviour: Behaviour) -> None:
    server.script(behaviour)
    with pytest.raises(ProviderError) as caught:
        with_provider(opener(), lambda provider: provider.prewarm(call_of(provider)))
    assert caught.value.is_retryable


def test_a_connection_is_used_again(server: ScriptedProvider, opener: Open) -> None:
    before = server.accepted

    async def thrice(provider: ChatProvider) -> None:
        for _ in range(3):
            assert (await hear(provider, call_of(provider))).reply

    with_provider(opener(), thrice)
    assert server.accepted == before + 1


def test_a_reply_does_not_wait_for_a_server_that_stays(server: ScriptedProvider, opener: Open) -> None:
    """All is said; whether the connection ends does not matter to anyone."""
    provider = opener()
    end = b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}\n\ndata: {"type": "message_stop"}\n\n'
    if provider.name == "openai":
        end = b'data: {"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    server.script(Raw([HEAD, end], stays_open=True))
    assert heard(provider).reply


def test_leaving_early_closes_the_connection_at_once(server: ScriptedProvider, opener: Open) -> None:
    left = server.left

    async def leave(provider: ChatProvider) -> None:
        pieces = provider.stream(call_of(provider))
        assert isinstance(await anext(pieces), Delta)
        await pieces.aclose()
        await asyncio.to_thread(server.wait_until, lambda: server.left == left + 1 and server.connections == 0)

    server.script(stall(after=2))
    with_provider(opener(), leave)


@pytest.mark.parametrize(
    "behaviour", [Raw([], stays_open=True), stall(after=2)], ids=["before it answers", "while it talks"]
)
def test_a_cancelled_call_closes_the_connection_at_once(
    server: ScriptedProvider, opener: Open, behaviour: Behaviour
) -> None:
    left = server.left

    async def cancel(provider: ChatProvider) -> None:
        task = asyncio.create_task(hear(provider, call_of(provider)))
        await asyncio.to_thread(server.wait_until, lambda: len(server.asked) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_until, lambda: server.left == left + 1 and server.connections == 0)

    server.script(behaviour)
    with_provider(opener(), cancel)


HOSTILE: list[Behaviour] = [
    status(400),
    status(429, retry_after="1"),
    status(500),
    status(529),
    malformed(after=1),
    cut(after=1),
    early(after=1),
    stream_error("overloaded_error", after=1),
    Raw([]),
    Raw([HEAD]),
]


def test_a_thousand_failures_leave_nothing_behind(server: ScriptedProvider, opener: Open) -> None:
    async def fail(provider: ChatProvider, times: int) -> None:
        for _ in range(times // len(HOSTILE)):
            server.script(*HOSTILE)
            outcomes = [hear(provider, call_of(provider)) for _ in HOSTILE]
            assert all(outcome.error for outcome in await asyncio.gather(*outcomes))
        server.asked.clear()

    async def fail_a_lot(provider: ChatProvider) -> None:
        await fail(provider, 100)
        gc.collect()
        before = len(gc.get_objects())
        await fail(provider, 1_000)
        gc.collect()
        grown = len(gc.get_objects()) - before
        assert grown < 500, "not an object for each"
        assert len(asyncio.all_tasks()) == 1
        assert server.connections <= len(HOSTILE), "those that may be used again"

    with_provider(opener(), fail_a_lot)
    server.wait_until(lambda: server.connections == 0)


def test_after_all_that_it_answers(server: ScriptedProvider, opener: Open) -> None:
    async def once_more(provider: ChatProvider) -> Outcome:
        server.script(*HOSTILE, ok("Here I am."))
        for _ in HOSTILE:
            assert (await hear(provider, call_of(provider))).error
        return await hear(provider, call_of(provider))

    assert with_provider(opener(), once_more).of("text") == "Here I am."
