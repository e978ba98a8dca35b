"""The served OpenAPI document is kept to: what schemathesis makes of it meets no 5xx and no undocumented answer."""

from __future__ import annotations

import re

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.schemas import BaseSchema

from .support import TOOL, append, build, new_thread, ok

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
EXAMPLES = 15


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_: schemathesis.SerializationContext, value: object) -> bytes:
    return str(value).encode(errors="surrogatepass")


@pytest.fixture
def served_schema(api: httpx2.Client) -> BaseSchema:
    return schemathesis.openapi.from_dict(ok(api.get("/openapi.json")))


@pytest.fixture
def ids(api: httpx2.Client) -> dict[str, str]:
    """Objects that exist, since a made-up id only ever finds a 404."""
    assistant = ok(api.post("/v1/assistants", json={"tools": [TOOL]}), 201)
    thread = new_thread(api, ("user", "hi"), ("assistant", "hello"), user_id="u")
    message = append(api, thread["id"], "user", "more")
    prompt = ok(build(api, thread["id"]), 201)
    asked = {"model": "x", "provider": "echo", "message": "hi", "wait": True}
    run = ok(api.post(f"/v1/threads/{thread['id']}/runs", json=asked), 201)
    return {
        "thread_id": thread["id"],
        "run_id": run["id"],
        "message_id": message["id"],
        "prompt_id": prompt["id"],
        "assistant_id": assistant["id"],
        "user_id": "u",
    }


def test_the_document_is_kept_to(served_schema: BaseSchema, api: httpx2.Client, ids: dict[str, str]) -> None:
    """Every operation, with what the document allows and with what it does not."""
    operations = [result.ok() for result in served_schema.get_all_operations()]
    assert len(operations) >= 24
    # Deletions last, and the deepest first: the others need what is deleted.
    for operation in sorted(operations, key=lambda operation: (operation.method == "delete", -len(operation.path))):
        cases = st.one_of(operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))
        check(cases, api, ids)


def check(cases: st.SearchStrategy[Case], api: httpx2.Client, ids: dict[str, str]) -> None:
    @given(case=cases, real=st.booleans())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Case, real: bool) -> None:
        if real:
            case.path_parameters = {name: ids[name] for name in case.path_parameters}
        headers = {"authorization": api.headers["authorization"]}
        answer = case.call(base_url=str(api.base_url).rstrip("/"), headers=headers)
        case.validate_response(answer, checks=CHECKS.get_by_names(CHECKED))
        assert answer.headers["x-request-id"]

    run()


def test_what_the_document_says(api: httpx2.Client) -> None:
    """Names that generators of clients accept, the header that every POST takes, and the errors of each route."""
    document = ok(api.get("/openapi.json"))
    for kind, components in document["components"].items():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in components), kind
    named = set(document["components"]["securitySchemes"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert {name for scheme in operation.get("security", []) for name in scheme} <= named
            headers = {p["name"] for p in operation.get("parameters", []) if p["in"] == "header"} - {"last-event-id"}
            assert headers == ({"Idempotency-Key"} if method == "post" else set()), where
            if path.startswith("/v1"):
                assert operation["security"], where
                expected = {"401", "422", "503"} | ({"404"} if "{" in path else set())
                expected |= {"400", "408", "409", "413", "415"} if method in ("post", "patch") else set()
                assert expected <= operation["responses"].keys(), where


def test_good_answers(served_schema: BaseSchema, api: httpx2.Client, ids: dict[str, str]) -> None:
    """What chance hardly ever gets right."""
    seen = 0
    thread, message, prompt = "/v1/threads/{thread_id}", "/{message_id}", "/{prompt_id}"
    content = [
        {"type": "document", "title": "D", "source": {"type": "text", "media_type": "text/plain", "data": "zebra"}},
        {"type": "text", "text": "zebra"},
    ]
    user = {"role": "user", "content": content, "metadata": {"k": "v"}}
    full = {
        "model": "claude-sonnet-5",
        "message": user,
        "tools": [TOOL],
        "recall": {"max_tokens": 100, "query": "q"},
        "context": [{"type": "text", "text": "now"}],
        "cache": {"ttl": "1h"},
        "truncation_strategy": {"type": "last_messages", "last_messages": 2},
    }
    for method, path, body, status in (
        ("POST", f"{thread}/prompts{prompt}/usage", {"usage": {"input_tokens": 9}, "message": {"content": "so"}}, 200),
        ("POST", f"{thread}/messages", {"messages": [user, user]}, 201),
        ("PATCH", f"{thread}/messages{message}", {"content": content, "metadata": {"a": "b"}}, 200),
        ("POST", f"{thread}/prompts", {**full, "dry_run": True}, 200),
        ("POST", f"{thread}/prompts", {"model": "unheard-of", "cache": False}, 201),
        ("POST", f"{thread}/prompts", full, 201),
        ("GET", f"{thread}/prompts", None, 200),
        ("GET", f"{thread}/prompts{prompt}", None, 200),
        ("GET", f"{thread}/search?q=zebra", None, 200),
        ("POST", "/v1/search", {"q": "zebra", "user_id": "u"}, 200),
        ("POST", f"{thread}/fork", {"seq": 3}, 201),
        ("GET", "/v1/estimates", None, 200),
        ("GET", "/v1/usage?group_by=model&since=2026-01-01T00:00:00Z", None, 200),
        ("POST", f"{thread}/runs", {"model": "x", "provider": "echo", "message": "hi", "wait": True}, 201),
        ("GET", f"{thread}/runs", None, 200),
        ("POST", f"{thread}/prewarm", {"model": "claude-sonnet-5"}, 200),
        ("GET", f"{thread}/runs/{{run_id}}", None, 200),
        ("GET", "/v1/threads?user_id=u&metadata[k]=v&limit=1&order=asc", None, 200),
    ):
        answer = api.request(method, path.format(**ids), json=body)
        ok(answer, status)
        operation = served_schema[path.partition("?")[0]][method]
        assert str(status) in operation.definition.raw["responses"]
        operation.validate_response(answer)
        seen += 1
    assert seen == 18


def test_an_undocumented_answer_is_noticed(served_schema: BaseSchema, api: httpx2.Client, ids: dict[str, str]) -> None:
    answer = api.get(f"/v1/threads/{ids['thread_id']}/messages/{ids['message_id']}")
    with pytest.raises(BaseExceptionGroup):
        served_schema["/v1/threads"]["GET"].validate_response(answer)
