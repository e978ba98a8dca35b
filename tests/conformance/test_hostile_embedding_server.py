"""What the embedder for OpenAI-compatible servers makes of a server that fails, lies or stalls."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Vectors
from memory_service.providers.embeddings.openai import OPENAI_URL, Endpoint
from memory_service.providers.embeddings.registry import EmbedderAccess, EmbedderSpec, probe
from memory_service.providers.responses import retry_after
from tests.conformance.embedder import run

KEY = "sk-only-for-this-test"
SECRET = "the blue door opens with 4711"
PATIENT = EmbedderAccess(api_key=SecretStr(KEY), query_timeout_seconds=60)
Respond = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """It answers as it is told to, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.respond: Respond = vectors
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def inputs(self) -> list[list[str]]:
        return [body["input"] for _, _, body in self.requests]

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some of the tests want."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, self.body))
        self.server.respond(self)

    def answer(self, status: int, body: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None: ...


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, -2.0, 0.5]


def items(texts: list[str]) -> list[dict[str, Any]]:
    return [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]


def vectors(handler: Handler) -> None:
    handler.answer(200, json.dumps({"data": items(handler.body["input"])}))


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Respond:
    return lambda handler: handler.answer(200, json.dumps({"data": change(items(handler.body["input"]))}))


def always(status: int, body: str = "{}", **headers: str) -> Respond:
    return lambda handler: handler.answer(status, body, **headers)


def error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def spec(server: Server) -> EmbedderSpec:
    return EmbedderSpec.parse("openai:some-model", base_url=server.url)


def passages(spec: EmbedderSpec, texts: list[str], access: EmbedderAccess = PATIENT) -> Vectors:
    return run(spec, lambda embedder: embedder.embed_passages(texts), access, dimensions=4)


def failure(
    spec: EmbedderSpec, texts: list[str] | None = None, access: EmbedderAccess = PATIENT
) -> EmbedderUnavailable:
    with pytest.raises(EmbedderUnavailable) as caught:
        passages(spec, texts or ["one", "two"], access)
    return caught.value


def test_what_is_sent(server: Server, spec: EmbedderSpec) -> None:
    rows = passages(spec, ["one", "three"])
    expected = np.array([vector("one"), vector("three")])
    assert rows == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True))
    ((path, headers, body),) = server.requests
    assert path == "/v1/embeddings"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": "some-model", "input": ["one", "three"]}


def test_a_server_without_a_key_gets_none(server: Server, spec: EmbedderSpec) -> None:
    passages(spec, ["one"], EmbedderAccess(query_timeout_seconds=60))
    assert "authorization" not in server.requests[0][1]


def test_options_are_sent_only_when_asked_for(server: Server) -> None:
    spec = EmbedderSpec.parse(
        "openai:e5", base_url=server.url, dimensions=4, query_prefix="query: ", passage_prefix="passage: "
    )
    run(spec, lambda embedder: embedder.embed_query("where?"), PATIENT)
    run(spec, lambda embedder: embedder.embed_passages(["here", " "]), PATIENT)
    assert server.inputs == [["query: where?"], ["passage: here"]]
    assert [body["dimensions"] for _, _, body in server.requests] == [4, 4]


def test_dimensions_are_asked_for_when_nobody_knows_them(server: Server, spec: EmbedderSpec) -> None:
    async def dimensions(embedder: Any) -> int:
        return int(embedder.dimensions)

    assert run(spec, dimensions, PATIENT) == 4
    assert len(server.requests) == 1
    assert run(spec, dimensions, PATIENT, dimensions=7) == 7
    assert len(server.requests) == 1, "what is known is not asked for"


def test_batches_by_number_and_by_characters(server: Server, spec: EmbedderSpec) -> None:
    assert passages(spec, ["x"] * 70).shape == (70, 4)
    assert [len(texts) for texts in server.inputs] == [32, 32, 6]
    server.requests.clear()
    passages(spec, ["y" * 30_000] * 7)
    assert [len(texts) for texts in server.inputs] == [3, 3, 1]


def test_no_text_is_sent_that_no_model_reads(server: Server, spec: EmbedderSpec) -> None:
    passages(spec, ["z" * 100_000])
    assert [len(text) for (text,) in server.inputs] == [32_000]


def test_vectors_are_put_in_order(server: Server, spec: EmbedderSpec) -> None:
    texts = ["x" * length for length in range(1, 9)]
    straight = passages(spec, texts)
    server.respond = changed(lambda data: [data[at] for at in (3, 0, 7, 1, 6, 2, 5, 4)])
    assert (passages(spec, texts) == straight).all()


@pytest.mark.parametrize(
    ("what", "respond"),
    {
        "no JSON": always(200, "<html>Welcome</html>"),
        "cut off": always(200, '{"data": [{"index": 0, "embedding": [0.1,'),
        "no vectors": always(200, '{"object": "list"}'),
        "a list": always(200, "[1, 2]"),
        "not text": lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe"),
        "deep": always(200, "[" * 100_000),
        "fewer": changed(lambda data: data[1:]),
        "more": changed(lambda data: [*data, {"index": 2, "embedding": vector("")}]),
        "one of them twice": changed(lambda data: [*data, data[0]]),
        "the same index twice": changed(lambda data: [data[0], {**data[1], "index": 0}]),
        "no index": changed(lambda data: [{"embedding": item["embedding"]} for item in data]),
        "NaN": changed(lambda data: [data[0], {**data[1], "embedding": [1.0, float("nan"), 0.0, 0.0]}]),
        "infinite": changed(lambda data: [data[0], {**data[1], "embedding": [1.0, 1e999, 0.0, 0.0]}]),
        "null": changed(lambda data: [data[0], {**data[1], "embedding": None}]),
        "words": changed(lambda data: [data[0], {**data[1], "embedding": [SECRET] * 4}]),
        "empty": changed(lambda data: [{**item, "embedding": []} for item in data]),
        "ragged": changed(lambda data: [data[0], {**data[1], "embedding": [1.0]}]),
        "closed": lambda handler: handler.wfile.close(),
        "not HTTP": lambda handler: handler.wfile.write(b"220 mail.example ESMTP\r\n"),
        "bad gzip": always(200, "no gzip", content_encoding="gzip"),
    }.items(),
)
def test_an_answer_that_is_none_may_be_one_later(
    server: Server, spec: EmbedderSpec, what: str, respond: Respond
) -> None:
    server.respond = respond
    caught = failure(spec)
    assert caught.is_retryable, what
    assert SECRET not in caught.message


def test_another_number_of_dimensions_will_not_mend_itself(server: Server, spec: EmbedderSpec) -> None:
    server.respond = changed(lambda data: [{**item, "embedding": [1.0, 2.0]} for item in data])
    caught = failure(spec)
    assert "2 dimensions instead of 4" in caught.message
    assert not caught.is_retryable


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_failures_that_pass(server: Server, spec: EmbedderSpec, status: int) -> None:
    server.respond = always(status, error("try later"))
    caught = failure(spec)
    assert caught.is_retryable
    assert f"{status}: try later" in caught.message
    assert caught.retry_after_seconds is None


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_failures_that_last_carry_the_servers_words(server: Server, spec: EmbedderSpec, status: int) -> None:
    server.respond = always(status, error("The model `some-model` does not exist"), location="http://127.0.0.1:1/")
    caught = failure(spec)
    assert not caught.is_retryable
    assert caught.message == f"{spec.name} answered {status}: The model `some-model` does not exist"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "no such model"}',
        '{"message": "no such model"}',
        '{"detail": "no such model"}',
        '{"detail": [{"loc": ["body"], "msg": "no such model", "input": "' + SECRET + '"}]}',
    ],
)
def test_servers_put_their_words_in_different_places(server: Server, spec: EmbedderSpec, body: str) -> None:
    server.respond = always(404, body)
    assert failure(spec, [SECRET]).message.endswith("404: no such model")


@pytest.mark.parametrize(
    "body",
    [
        error(f"Cannot embed '{SECRET}'"),
        error(f"Cannot embed '{SECRET[:20]}…'"),
        error(f"Incorrect API key provided: {KEY}"),
        error("Cannot embed 'short'"),
        f"Cannot embed {SECRET}",
        "[" * 100_000,
        json.dumps({"input": [SECRET]}),
    ],
)
def test_neither_texts_nor_the_key_get_into_a_message(server: Server, spec: EmbedderSpec, body: str) -> None:
    server.respond = always(400, body)
    assert failure(spec, [SECRET, "short"]).message == f"{spec.name} answered 400"


def test_retry_after_in_seconds_or_as_a_date(server: Server, spec: EmbedderSpec) -> None:
    server.respond = always(429, error("slow down"), retry_after="17.5")
    assert failure(spec).retry_after_seconds == 17.5
    server.respond = always(503, retry_after=format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True))
    seconds = failure(spec).retry_after_seconds
    assert seconds is not None
    assert 3600 < seconds <= 7200
    now = datetime(2026, 11, 2, 9, tzinfo=UTC)
    assert retry_after("Mon, 02 Nov 2026 09:01:00 GMT", now=now.timestamp()) == 60
    assert retry_after("Mon, 02 Nov 2026 08:00:00 GMT", now=now.timestamp()) == 0
    for unreadable in (None, "", "soon", "nan", "inf"):
        assert retry_after(unreadable, now=0) is None


def stall(handler: Handler) -> None:
    handler.server.released.wait()


def drip(handler: Handler) -> None:
    """A byte now and then, so that no single read takes long."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not handler.server.released.wait(0.01):
        handler.wfile.write(b" ")


@pytest.mark.parametrize("respond", [stall, drip])
def test_queries_and_passages_have_their_own_patience(server: Server, spec: EmbedderSpec, respond: Respond) -> None:
    server.respond = respond
    hasty = EmbedderAccess(query_timeout_seconds=0.1, passages_timeout_seconds=0.2)
    with pytest.raises(EmbedderUnavailable, match=r"did not answer within 0\.1 s") as caught:
        run(spec, lambda embedder: embedder.embed_query("where?"), hasty, dimensions=4)
    assert caught.value.is_retryable
    late = failure(spec, access=hasty)
    assert late.is_retryable
    assert "within 0.2 s" in late.message


def test_nobody_there(server: Server, spec: EmbedderSpec) -> None:
    nobody = EmbedderSpec.parse("openai:some-model", base_url="http://127.0.0.1:1")
    caught = failure(nobody)
    assert caught.is_retryable
    assert "cannot be reached at http://127.0.0.1:1/v1 (ConnectError)" in caught.message


def refuse_longer_than(characters: int, status: int, body: str, *, texts: int = 32) -> Respond:
    def respond(handler: Handler) -> None:
        sent = handler.body["input"]
        if len(sent) > texts or max(map(len, sent)) > characters:
            handler.answer(status, body)
        else:
            vectors(handler)

    return respond


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "This model's maximum context length is 8192 tokens, however you requested 10001 tokens."),
        (400, "Invalid 'input[0]': maximum input length is 8192 tokens."),
        (400, "the input length exceeds the context length"),
        (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 3000"),
        (422, "Input validation error: `inputs` must have less than 512 tokens. Given: 3000"),
        (500, "input (2000 tokens) is too large to process. increase the physical batch size"),
    ],
)
def test_a_text_that_is_too_long_is_cut(server: Server, spec: EmbedderSpec, status: int, message: str) -> None:
    server.respond = refuse_longer_than(1_000, status, error(message))
    rows = passages(spec, ["one", "x" * 6_000, "two", "three"])
    server.respond = vectors
    assert (rows == passages(spec, ["one", "x" * 750, "two", "three"])).all()


def test_a_text_that_no_cut_makes_short_enough_is_refused(server: Server, spec: EmbedderSpec) -> None:
    server.respond = always(400, error("maximum context length is 0 tokens"))
    assert not failure(spec, ["x" * 1_000, "y"]).is_retryable
    assert len(server.requests) < 10


def test_a_batch_that_is_too_large_is_halved(server: Server, spec: EmbedderSpec) -> None:
    server.respond = refuse_longer_than(99, 422, error("batch size 32 > maximum allowed batch size 8"), texts=8)
    assert passages(spec, ["x"] * 32).shape == (32, 4)
    assert [len(texts) for texts in server.inputs] == [32, 16, 8, 8, 16, 8, 8]


def test_a_vector_of_zeros_is_not_divided_by_nothing(server: Server, spec: EmbedderSpec) -> None:
    server.respond = changed(lambda data: [{**item, "embedding": [0, 0, 0, 0]} for item in data])
    assert not passages(spec, ["one"]).any()
    with pytest.raises(EmbedderUnavailable, match="unit vector"):
        run(spec, probe, PATIENT, dimensions=4)


class TestEndpoint:
    def of(self, environ: dict[str, str], *, key: str | None = None, base_url: str | None = None) -> Endpoint:
        spec = EmbedderSpec.parse("openai:m", base_url=base_url)
        return Endpoint.of(spec, EmbedderAccess(api_key=SecretStr(key) if key else None), environ)

    def test_openai_itself_needs_a_key(self) -> None:
        with pytest.raises(EmbedderUnavailable, match="set OPENAI_API_KEY or MEMORY_EMBEDDER_API_KEY") as caught:
            self.of({})
        assert not caught.value.is_retryable
        assert self.of({"OPENAI_API_KEY": " k\n"}) == Endpoint(OPENAI_URL, "k")
        with pytest.raises(EmbedderUnavailable, match="not ASCII"):
            self.of({"OPENAI_API_KEY": "ké"})

    def test_the_address_of_the_spec_wins(self) -> None:
        environ = {"OPENAI_BASE_URL": "http://one.example/v1/"}
        assert self.of(environ).url == "http://one.example/v1"
        assert self.of(environ, base_url="http://two.example").url == "http://two.example/v1"

    def test_a_key_goes_only_where_it_is_meant_to_go(self) -> None:
        environ = {"OPENAI_BASE_URL": "http://one.example/v1", "OPENAI_API_KEY": "openai"}
        assert self.of(environ).key == "openai"
        assert self.of(environ, base_url="http://other.example/v1").key is None
        assert self.of(environ, base_url="http://other.example/v1", key="own").key == "own"
        assert self.of(environ, key="own").key == "own"

    def test_the_key_is_not_shown(self) -> None:
        assert "secret" not in repr(self.of({}, key="secret"))
