"""Fields that are wrong: 4xx that names the field and what to do, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest

from .support import MODEL, TOOL, UNKNOWN_ID, build, messages_of, new_thread, ok, refused, text

Unchanged = Callable[[], AbstractContextManager[None]]
PAIRS_17 = {str(i): "v" for i in range(17)}

COMMON: list[tuple[dict[str, Any], str, str]] = [
    ({"metadata": PAIRS_17}, "metadata", "at most 16"),
    ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 64}", "at most 64"),
    ({"metadata": {"": "v"}}, "metadata.", "at least 1"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "at most 512"),
    ({"metadata": {"k": 1}}, "metadata.k", "string"),
    ({"metadata": [["k", "v"]]}, "metadata", "must be an object"),
    ({"instructions": ""}, "instructions", "at least 1"),
    ({"instructions": " \n"}, "instructions", "must not be blank"),
    ({"instructions": 7}, "instructions", "string"),
    ({"tools": {}}, "tools", "list"),
    ({"tools": [1]}, "tools[0]", "must be an object"),
    ({"tools": [{}]}, "tools[0].name", "non-empty string"),
    ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools[0].name", "Anthropic's format"),
    ({"tools": [{"name": ""}]}, "tools[0].name", "non-empty"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema", "JSON schema"),
    ({"tools": [{"name": "a", "input_schema": []}]}, "tools[0].input_schema", "JSON schema"),
    ({"tools": [{**TOOL, "description": 1}]}, "tools[0].description", "string"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name", "used twice"),
    ({"tools": [TOOL] * 129}, "tools", "at most 128"),
    ({"documents": [{"title": "t"}]}, "documents[0].text", "required"),
    ({"documents": [{"text": ""}]}, "documents[0].text", "at least 1"),
    ({"documents": [{"text": " \n"}]}, "documents[0].text", "must not be blank"),
    ({"documents": [{"text": "x", "title": "t" * 513}]}, "documents[0].title", "at most 512"),
    ({"documents": [{"text": "x", "url": "u"}]}, "documents[0].url", "check its spelling"),
    ({"documents": [{"text": "x"}] * 101}, "documents", "at most 100"),
    ({"unknown": 1}, "unknown", "check its spelling"),
]
THREAD = [
    *COMMON,
    ({"user_id": ""}, "user_id", "at least 1"),
    ({"user_id": "u" * 257}, "user_id", "at most 256"),
    ({"user_id": 7}, "user_id", "string"),
    ({"user_id": "a\nb"}, "user_id", "no control characters"),
    ({"user_id": "a\x7f"}, "user_id", "no control characters"),
    ({"user_id": "a\u2028"}, "user_id", "no control characters"),
    ({"assistant_id": "a\tb"}, "assistant_id", "no control characters"),
    ({"assistant_id": "a" * 257}, "assistant_id", "at most 256"),
    ({"truncation_strategy": "auto"}, "truncation_strategy", "must be an object"),
    ({"truncation_strategy": {}}, "truncation_strategy.type", "required"),
    ({"truncation_strategy": {"type": "oldest"}}, "truncation_strategy.type", "'sliding'"),
    ({"truncation_strategy": {"type": "last_messages"}}, "truncation_strategy", "goes with type last_messages"),
    ({"truncation_strategy": {"type": "auto", "last_messages": 4}}, "truncation_strategy", "only with it"),
    ({"truncation_strategy": {"type": "last_messages", "last_messages": 0}}, "truncation_strategy.last_messages", "1"),
    ({"truncation_strategy": {"type": "auto", "x": 1}}, "truncation_strategy.x", "check its spelling"),
]
ASSISTANT = [
    *COMMON,
    ({"name": "n" * 257}, "name", "at most 256"),
    ({"model": ""}, "model", "at least 1"),
    ({"model": "m" * 257}, "model", "at most 256"),
    ({"provider": "acme"}, "provider", "'anthropic'"),
    ({"defaults": {"max_prompt_tokens": 0}}, "defaults.max_prompt_tokens", "at least 1"),
    ({"defaults": {"max_prompt_tokens": "9"}}, "defaults.max_prompt_tokens", "integer"),
    ({"defaults": {"max_output_tokens": True}}, "defaults.max_output_tokens", "integer"),
    ({"defaults": {"recall": "yes"}}, "defaults.recall", "must be an object"),
    ({"defaults": {"recall": {"max_tokens": -1}}}, "defaults.recall.max_tokens", "at least 0"),
    ({"defaults": {"truncation_strategy": {"type": "x"}}}, "defaults.truncation_strategy.type", "'auto'"),
    ({"defaults": {"temperature": 1}}, "defaults.temperature", "check its spelling"),
]
PROMPT: list[tuple[dict[str, Any], str, str]] = [
    ({"model": 1}, "model", "string"),
    ({"provider": "x"}, "provider", "'openai'"),
    ({"max_prompt_tokens": 0}, "max_prompt_tokens", "1"),
    ({"max_prompt_tokens": 10**9}, "max_prompt_tokens", "100000000"),
    ({"max_prompt_tokens": 10**8}, "max_prompt_tokens", "tokens at most"),
    ({"recall": {"max_tokens": "1"}}, "recall.max_tokens", "integer"),
    ({"recall": {"top_k": 1}}, "recall.top_k", "check its spelling"),
    ({"recall": "no"}, "recall", "must be an object"),
    ({"cache": 1}, "cache", "must be an object"),
    ({"max_output_tokens": 10**8}, "max_output_tokens", "(100000000) leaves no room for a prompt"),
    ({"max_prompt_tokens": 999_000, "max_output_tokens": 1_001}, "max_prompt_tokens", "are 1000001 together"),
    ({"max_tokens": 100}, "max_tokens", "`max_output_tokens`"),
    ({"system": "Be brief."}, "system", "`instructions`"),
    ({"message": 5}, "message", "must be an object"),
    ({"cache": {"ttl": "2h"}}, "cache.ttl", "'1h'"),
    ({"context": "now"}, "context", "list"),
    ({"context": [{"type": "image"}]}, "context[0].type", "'text'"),
    ({"context": [text("")]}, "context[0].text", "at least 1"),
    ({"context": [text(" ")]}, "context[0].text", "must not be blank"),
    ({"context": [text("x")] * 101}, "context", "at most 100"),
    ({"dry_run": "yes"}, "dry_run", "boolean"),
    ({"refresh": 1}, "refresh", "boolean"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema", "JSON schema"),
    ({"message": {"role": "assistant", "content": "x"}}, "message.role", "'user'"),
    ({"message": {"role": "user"}}, "message.content", "required"),
    ({"message": {"role": "user", "content": ""}}, "message.content[0].text", "is empty"),
    ({"message": {"role": "user", "content": "x", "metadata": PAIRS_17}}, "message.metadata", "at most 16"),
    ({"truncation_strategy": {"type": "last_messages"}}, "truncation_strategy", "goes with"),
    ({"strategy": "auto"}, "strategy", "`truncation_strategy`"),
]


def test_every_route_knows_its_parameters(api: httpx2.Client, unchanged: Unchanged) -> None:
    """A misspelt filter would filter nothing."""
    routes = ok(api.get("/openapi.json"))["paths"]
    with unchanged():
        for path, operations in routes.items():
            for method, operation in operations.items():
                url = path.replace("{", "").replace("}", "")
                answer = api.request(method.upper(), url, params={"user-id": "u"})
                error = refused(answer, 422, "invalid_request", field="user-id")
                declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
                assert {name.partition("[")[0] for name in error["details"]["known"]} == declared
    assert sum(len(operations) for operations in routes.values()) >= 25
    error = refused(api.get("/v1/threads?user-id=u"), 422, says="did you mean `user_id`?")
    assert error["message"].endswith(
        "`user_id`? Known here: `after`, `before`, `limit`, `metadata[key]`, `order`, `user_id`."
    )
    refused(api.get("/healthz?x=1"), 422, says="of this route. Known here: none.")
    refused(api.get("/v1/threads?metadatas[k]=v"), 422, field="metadatas[k]")


def test_the_largest_prompt_that_a_model_takes(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "hello"))
    ok(build(api, thread["id"], max_prompt_tokens=999_000, max_output_tokens=1_000), 201)


def test_true_is_the_default(api: httpx2.Client) -> None:
    """`recall: true` and `cache: true` say what leaving them out says; an assistant may say otherwise."""
    assistant = ok(api.post("/v1/assistants", json={"defaults": {"recall": True}}), 201)
    assert assistant["defaults"] == {"recall": {}}
    thread = new_thread(api, ("user", "hello"), assistant_id=assistant["id"])
    plain, asked = (
        ok(build(api, thread["id"], dry_run=True, **body)) for body in ({}, {"recall": True, "cache": True})
    )
    assert plain["request"] == asked["request"]


def test_a_message_that_is_a_string(api: httpx2.Client) -> None:
    thread = new_thread(api)
    prompt = ok(build(api, thread["id"], message="hello"), 201)
    assert prompt["request"]["messages"][0]["role"] == "user"
    assert messages_of(api, thread["id"])[0]["content"] == [text("hello")]
    refused(build(api, thread["id"], message=" "), 422, "invalid_message", field="message.content[0].text")


@pytest.mark.parametrize(("body", "field", "says"), THREAD)
def test_threads(api: httpx2.Client, unchanged: Unchanged, body: dict[str, Any], field: str, says: str) -> None:
    thread = new_thread(api, user_id="u")
    with unchanged():
        refused(api.post("/v1/threads", json=body), 422, "invalid_request", field=field, says=says)
        patched = api.patch(f"/v1/threads/{thread['id']}", json=body)
        if body == {"metadata": PAIRS_17}:
            says = "at most 16"
        refused(patched, 422, "invalid_request", field=field, says=says)


@pytest.mark.parametrize(("body", "field", "says"), ASSISTANT)
def test_assistants(api: httpx2.Client, unchanged: Unchanged, body: dict[str, Any], field: str, says: str) -> None:
    assistant = ok(api.post("/v1/assistants", json={}), 201)
    with unchanged():
        refused(api.post("/v1/assistants", json=body), 422, "invalid_request", field=field, says=says)
        patched = api.patch(f"/v1/assistants/{assistant['id']}", json=body)
        refused(patched, 422, "invalid_request", field=field, says=says)


@pytest.mark.parametrize(("body", "field", "says"), PROMPT)
def test_prompts(api: httpx2.Client, unchanged: Unchanged, body: dict[str, Any], field: str, says: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    with unchanged():
        refused(build(api, thread["id"], **body), 422, field=field, says=says)


def test_a_prompt_without_a_model(api: httpx2.Client, unchanged: Unchanged) -> None:
    thread = new_thread(api, ("user", "hello"))
    with unchanged():
        refused(api.post(f"/v1/threads/{thread['id']}/prompts", json={}), 422, field="model", says="name a model")


@pytest.mark.parametrize("seq", [-1, 2, 2**31, "1", None, 1.5])
def test_forks(api: httpx2.Client, unchanged: Unchanged, seq: Any) -> None:
    thread = new_thread(api, ("user", "hello"))
    with unchanged():
        refused(api.post(f"/v1/threads/{thread['id']}/fork", json={"seq": seq}), 422, "invalid_request", field="seq")


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "q", "required"),
        ({"q": "", "user_id": "u"}, "q", "at least 1 character."),
        ({"query": "x", "user_id": "u"}, "query", "did you mean `q`? That one is required."),
        ({"user-id": "u", "q": "x"}, "user-id", "did you mean `user_id`?"),
        ({"nonsense": "x", "user_id": "u"}, "q", "required"),
        ({"q": "x" * 10_001, "user_id": "u"}, "q", "at most 10000"),
        ({"q": "x"}, "user_id", "required"),
        ({"q": "x", "user_id": "u", "limit": 0}, "limit", "1"),
        ({"q": "x", "user_id": "u", "limit": 101}, "limit", "100"),
        ({"q": "x", "user_id": "u", "limit": "5"}, "limit", "integer"),
    ],
)
def test_searches(api: httpx2.Client, body: dict[str, Any], field: str, says: str) -> None:
    refused(api.post("/v1/search", json=body), 422, "invalid_request", field=field, says=says)


def test_metadata_that_grows_too_large(api: httpx2.Client, unchanged: Unchanged) -> None:
    """A patch adds to what is there, so that is where the count is taken."""
    sixteen = {str(i): "v" for i in range(16)}
    thread = new_thread(api, ("user", "hello"), metadata=sixteen)
    path = f"/v1/threads/{thread['id']}"
    message = ok(api.get(f"{path}/messages"))["data"][0]
    message_path = f"{path}/messages/{message['id']}"
    ok(api.patch(message_path, json={"metadata": sixteen}))
    assistant = ok(api.post("/v1/assistants", json={"metadata": sixteen}), 201)
    for where in (path, message_path, f"/v1/assistants/{assistant['id']}"):
        with unchanged():
            refused(
                api.patch(where, json={"metadata": {"16": "v"}}), 422, field="metadata", says="Remove some with null"
            )
        swapped = ok(api.patch(where, json={"metadata": {"16": "v", "0": None}}))
        assert swapped["metadata"].keys() == {str(i) for i in range(1, 17)}


USAGES: list[tuple[Any, str, str]] = [
    ({}, "usage", "neither `input_tokens`"),
    ({"tokens": 5}, "usage", "as it is"),
    ({"input_tokens": -1}, "usage.input_tokens", "number of tokens"),
    ({"input_tokens": "5"}, "usage.input_tokens", "number of tokens"),
    ({"input_tokens": True}, "usage.input_tokens", "number of tokens"),
    ({"input_tokens": 1.5}, "usage.input_tokens", "number of tokens"),
    ({"input_tokens": 2**31}, "usage.input_tokens", "number of tokens"),
    ({"input_tokens": 5, "cache_read_input_tokens": []}, "usage.cache_read_input_tokens", "number of tokens"),
    ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": "x"}}, "usage.cached_tokens", "number"),
    ([], "usage", "must be an object"),
    (None, "usage", "must be an object"),
]


@pytest.mark.parametrize(("usage", "field", "says"), USAGES)
def test_usage(api: httpx2.Client, unchanged: Unchanged, usage: Any, field: str, says: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    prompt = ok(build(api, thread["id"]), 201)
    with unchanged():
        body = {"usage": usage, "message": {"role": "assistant", "content": "hi"}}
        answer = api.post(f"/v1/threads/{thread['id']}/prompts/{prompt['id']}/usage", json=body)
        refused(answer, 422, "invalid_request", field=field, says=says)


OPENAI_USAGE = {"prompt_tokens": 500, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}
RESPONSES_USAGE = {"input_tokens": 500, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 9}}
ANTHROPIC_USAGE = {"input_tokens": 500, "cache_read_input_tokens": 9, "output_tokens": 3}


@pytest.mark.parametrize(
    ("provider", "usage", "whose"),
    [
        ("anthropic", OPENAI_USAGE, "OpenAI's"),
        ("anthropic", RESPONSES_USAGE, "OpenAI's"),
        ("openai", ANTHROPIC_USAGE, "Anthropic's"),
    ],
)
def test_usage_of_another_provider(
    api: httpx2.Client, unchanged: Unchanged, provider: str, usage: dict[str, Any], whose: str
) -> None:
    """Nothing is learnt from it: read in the wrong form, cached tokens would count twice or not at all."""
    thread = new_thread(api, ("user", "hello"))
    prompt = ok(build(api, thread["id"], model="unheard-of", provider=provider), 201)
    path = f"/v1/threads/{thread['id']}/prompts/{prompt['id']}/usage"
    with unchanged():
        refused(
            api.post(path, json={"usage": usage}), 422, "invalid_request", field="usage", says=f"`usage` is {whose}"
        )
    own = ANTHROPIC_USAGE if provider == "anthropic" else OPENAI_USAGE
    ok(api.post(path, json={"usage": own}))


def _call(arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [{**call, **fields}]}


ARGUMENTS = "message.tool_calls[0].function.arguments"
BAD_REPLIES: list[tuple[Any, str, str]] = [
    ({"role": "user", "content": "x"}, "message.role", "'assistant'"),
    ({"content": [{"type": "text"}]}, "message.content[0].text", "must be a string"),
    ({"role": "assistant", "output": []}, "message", "send the reply's `content`"),
    (_call('{"city": '), ARGUMENTS, "is not JSON, so this call cannot be replayed: Not valid JSON: Expecting value"),
    (_call('{"n": NaN}'), ARGUMENTS, "NaN"),
    (_call("[1]"), ARGUMENTS, "must be a JSON object"),
    (_call('{"a": "\\u0000"}'), "message.content[0].input.a", "U+0000"),
    (_call(id=""), "message.tool_calls[0].id", "non-empty"),
    (_call(function={"arguments": "{}"}), "message.tool_calls[0].function.name", "non-empty"),
    (_call(type="custom", function=None, custom={}), "message.tool_calls[0].function", "only calls of functions"),
    ({"content": None, "function_call": {"name": "f"}}, "message.function_call", "`tool_calls`"),
    ({"content": None, "audio": {"transcript": "hi"}}, "message.audio", "transcript"),
    ({"choices": []}, "message.choices", "must be a list of one"),
    ({"choices": [{"message": {}}] * 2}, "message.choices", "the message you go on with"),
    ({"choices": [{"delta": {}}]}, "message.choices[0].message", "of a stream"),
    ({"choices": [{"message": {"role": "user", "content": "x"}}]}, "message.choices[0].message.role", "'assistant'"),
    ({"choices": [{"message": {"content": 1}}]}, "message.choices[0].message.content", "a string, a list"),
    ({"choices": [{"message": {"tool_calls": {}}}]}, "message.choices[0].message.tool_calls", "must be a list"),
]


def test_usage_with_a_bad_reply(api: httpx2.Client, unchanged: Unchanged) -> None:
    thread = new_thread(api, ("user", "hello"))
    prompt = ok(build(api, thread["id"]), 201)
    path = f"/v1/threads/{thread['id']}/prompts/{prompt['id']}/usage"
    usage = {"input_tokens": 10, "output_tokens": 1}
    with unchanged():
        for reply, field, says in BAD_REPLIES:
            refused(api.post(path, json={"usage": usage, "message": reply}), 422, field=field, says=says)
    # A number that nobody asked for is kept as it is spelled.
    body = b'{"usage": {"input_tokens": 10, "extra": %b}}' % (b"9" * 5_000)
    reported = api.post(path, content=body, headers={"content-type": "application/json"})
    assert reported.status_code == 200
    assert b'"extra":' + b"9" * 5_000 in reported.content
    assert api.get(f"/v1/threads/{thread['id']}/prompts").status_code == 200


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "abc"}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": UNKNOWN_ID}, "after"),
        ({"before": UNKNOWN_ID}, "before"),
        ({"after": ""}, "after"),
        ({"after": "a" * 257}, "after"),
        ({"after": "a\0b"}, "after"),
        ({"after": "a", "before": "b"}, "before"),
    ],
)
def test_pages(api: httpx2.Client, params: dict[str, str], field: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    path = f"/v1/threads/{thread['id']}"
    for route in ("/v1/threads", "/v1/assistants", f"{path}/messages", f"{path}/prompts"):
        refused(api.get(route, params=params), 422, field=field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("user_id=%00", "user_id"),
        ("user_id=" + "u" * 257, "user_id"),
        ("metadata[k]=%00", "metadata[k]"),
        ("metadata[%00]=v", "query"),
        ("metadata=v", "metadata"),
        ("metadata[]=v", "metadata"),
        ("metadata[k]=v&metadata[k]=w", "metadata"),
        ("metadata[" + "k" * 65 + "]=v", "metadata"),
    ],
)
def test_filters(api: httpx2.Client, query: str, field: str) -> None:
    refused(api.get(f"/v1/threads?{query}"), 422, field=field)


@pytest.mark.parametrize("query", ["", "q=", "q=%00", "q=" + "x" * 10_001, "q=x&limit=0", "q=x&limit=101"])
def test_search_parameters(api: httpx2.Client, query: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    refused(api.get(f"/v1/threads/{thread['id']}/search?{query}"), 422)


@pytest.mark.parametrize("now", ["", "soon", "nan", "inf", "-1", "-62135596800", "253402300800", "1e300"])
def test_a_time_that_cannot_be(api: httpx2.Client, unchanged: Unchanged, now: str) -> None:
    with unchanged():
        answer = api.post("/v1/threads", json={}, headers={"x-memory-now": now, "idempotency-key": "k"})
        refused(answer, 400, "invalid_header", field="x-memory-now")


@pytest.mark.parametrize("now", ["0", "1e9", "253370764800"])
def test_a_time_at_the_edge(api: httpx2.Client, now: str) -> None:
    headers = {"x-memory-now": now, "idempotency-key": "k"}
    for _ in range(2):
        thread = ok(
            api.post("/v1/threads", json={"messages": [{"role": "user", "content": "x"}]}, headers=headers), 201
        )
    answer = api.post(f"/v1/threads/{thread['id']}/prompts", json={"model": MODEL}, headers={"x-memory-now": now})
    ok(answer, 201)


@pytest.mark.parametrize(
    ("model", "provider", "owner"), [("gpt-5.5", "anthropic", "openai"), (MODEL, "openai", "anthropic")]
)
def test_a_model_of_another_provider(api: httpx2.Client, model: str, provider: str, owner: str) -> None:
    thread = new_thread(api, ("user", "hi"))
    error = refused(build(api, thread["id"], model=model, provider=provider), 422, field="provider", says=owner)
    assert error["details"]["providers"] == [owner]
    assistant = ok(api.post("/v1/assistants", json={"model": model, "provider": provider}), 201)
    theirs = new_thread(api, ("user", "hi"), assistant_id=assistant["id"])
    path = f"/v1/threads/{theirs['id']}/prompts"
    refused(api.post(path, json={}), 422, field="provider", says=owner)
    ok(build(api, thread["id"], model=f"{model}-own", provider=provider), 201)
    ok(build(api, thread["id"], model=model, provider="echo"), 201)


def test_a_long_id_is_not_repeated_whole(api: httpx2.Client) -> None:
    path = f"/v1/threads/{'x' * 5_000}"
    assert len(refused(api.get(path), 404)["message"]) < 120
    thread = f"/v1/threads/{new_thread(api)['id']}"
    assert len(refused(api.get("/v1/" + "x" * 5_000), 404)["message"]) < 300
    for kind in ("messages", "prompts"):
        assert len(refused(api.get(f"{thread}/{kind}/{'x' * 5_000}"), 404)["message"]) < 120
