"""What Prometheus reads: counted, of few series, and naming nobody."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import psycopg
import pytest

from memory_service.store.embedded import EmbeddedPostgres
from memory_service.store.migrate import migrate
from tests.conftest import Service
from tests.e2e.test_draining import appends, until
from tests.store.conftest import database as made_database

from .support import append, build, import_lines, new_thread, ok, refused

ELSEWHERE = {"x-forwarded-for": "203.0.113.7"}  # as a proxy on this machine says it
Sample = Callable[[str], float]


def read(url: str) -> dict[str, float]:
    answer = httpx2.get(f"{url}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def added(service: Service) -> Callable[[], Sample]:
    """What a sample has grown by since the fixture was made."""
    before = read(service.url)

    def look() -> Sample:
        now = read(service.url)
        return lambda name: now.get(name, 0) - before.get(name, 0)

    return look


def test_requests(api: httpx2.Client, added: Callable[[], Sample]) -> None:
    thread = new_thread(api)
    for _ in range(3):
        ok(api.get(f"/v1/threads/{thread['id']}"))
    refused(api.get("/v1/threads/none"), 404)
    refused(api.get("/nothing/here"), 404)
    refused(api.request("BREW", "/v1/threads"), 405)
    ok(api.get("/v1/users/some/one"))
    ok(api.get("/openapi.json"))
    grown = added()
    one = 'route="/v1/threads/{thread_id}"'
    assert grown(f'memory_http_requests_total{{method="GET",{one},status="200"}}') == 3
    assert grown(f'memory_http_requests_total{{method="GET",{one},status="404"}}') == 1
    assert grown('memory_http_requests_total{method="GET",route="none",status="404"}') == 1
    assert grown('memory_http_requests_total{method="GET",route="/v1/users/{user_id}",status="200"}') == 1
    assert grown('memory_http_requests_total{method="GET",route="/openapi.json",status="200"}') == 1
    assert grown('memory_http_requests_total{method="other",route="/v1/threads",status="405"}') == 1
    assert grown(f'memory_http_request_duration_seconds_count{{method="GET",{one}}}') == 4
    assert grown(f'memory_http_request_duration_seconds_bucket{{le="+Inf",method="GET",{one}}}') == 4
    assert grown(f'memory_http_request_duration_seconds_sum{{method="GET",{one}}}') > 0


def test_messages_and_prompts(api: httpx2.Client, added: Callable[[], Sample]) -> None:
    thread = new_thread(api, ("user", "hello there"), instructions="Be brief.")
    refused(api.post(f"/v1/threads/{thread['id']}/messages", json={"role": "user"}), 422)
    append(api, thread["id"], "user", "and again")
    ok(import_lines(api, [{"type": "thread", "id": "t"}, {"type": "message", "role": "user", "content": "hi"}]), 201)
    ok(build(api, thread["id"], dry_run=True))
    prompt = ok(build(api, thread["id"], provider="anthropic"), 201)
    usage = {"input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}
    for _ in range(2):  # the second time it changes nothing
        ok(api.post(f"/v1/threads/{thread['id']}/prompts/{prompt['id']}/usage", json={"usage": usage}))
    grown = added()
    assert grown("memory_messages_appended_total") == 3
    assert 3 <= grown("memory_message_tokens_appended_total") <= 10
    assert grown('memory_prompts_built_total{provider="anthropic"}') == 1
    sections = {name: count for name, count in prompt["tokens"].items() if name not in ("total", "limit")}
    assert {name: grown(f'memory_prompt_tokens_total{{section="{name}"}}') for name in sections} == sections
    for kind, field in (("read", "cache_read"), ("written", "cache_write"), ("uncached", "uncached")):
        name = f'memory_prompt_cache_tokens_total{{kind="{kind}",source="predicted"}}'
        assert grown(name) == prompt["prediction"][f"{field}_tokens"]
    for kind, tokens in (("read", 60), ("written", 10), ("uncached", 30)):
        assert grown(f'memory_prompt_cache_tokens_total{{kind="{kind}",source="reported"}}') == tokens


def test_pending_embeddings(api: httpx2.Client, service: Service, database: psycopg.Connection) -> None:
    thread = new_thread(api, ("user", "hello"), ("assistant", "hi"))
    before = read(service.url)["memory_pending_embeddings"]
    database.execute(
        "INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id, not_before)"
        " SELECT m.thread_pk, m.seq, e.pk, m.project_id, now() + interval '1 day' FROM messages m"
        " JOIN threads t ON t.pk = m.thread_pk, embedders e WHERE t.id = %s AND e.status = 'active'",
        [thread["id"]],
    )
    assert read(service.url)["memory_pending_embeddings"] == before + 2
    ok(api.delete(f"/v1/threads/{thread['id']}"))
    assert read(service.url)["memory_pending_embeddings"] == before


def test_cache_read_ratio(api: httpx2.Client, service: Service) -> None:
    thread = new_thread(api, ("user", "hello"))
    prompt = ok(build(api, thread["id"]), 201)
    usage = {"input_tokens": 1_000, "cache_read_input_tokens": 3_000}
    ok(api.post(f"/v1/threads/{thread['id']}/prompts/{prompt['id']}/usage", json={"usage": usage}))
    now = read(service.url)
    reported = {k: now[f'memory_prompt_cache_tokens_total{{kind="{k}",source="reported"}}'] for k in KINDS}
    assert now['memory_prompt_cache_read_ratio{source="reported"}'] == pytest.approx(
        reported["read"] / sum(reported.values())
    )


KINDS = ("read", "written", "uncached")


def test_what_was_rolled_back_is_not_counted(
    api: httpx2.Client, added: Callable[[], Sample], database: psycopg.Connection
) -> None:
    thread = new_thread(api)
    body = {"role": "user", "content": "trap"}
    # Postgres refuses at the commit, after all that the service did.
    database.execute(
        "CREATE FUNCTION memory.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.content LIKE '%%trap%%' THEN RAISE 'no'; END IF; RETURN NULL; END$$"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON memory.messages DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION memory.refuse()"
    )
    try:
        refused(api.post(f"/v1/threads/{thread['id']}/messages", json=body), 500)
    finally:
        database.execute("DROP FUNCTION memory.refuse CASCADE")
    assert added()("memory_messages_appended_total") == 0


def test_labels_name_nobody(api: httpx2.Client, service: Service) -> None:
    name = f"canary{uuid4().hex}"
    thread = new_thread(api, ("user", name), user_id=name, metadata={name: name})
    ok(build(api, thread["id"], model=name), 201)
    api.request(name, f"/{name}", params={name: name})
    text = httpx2.get(f"{service.url}/metrics").text
    for secret in (name, name.upper(), thread["id"], api.headers["authorization"].split()[1]):
        assert secret not in text
    labels = set(re.findall(r'[{,](\w+)="', text))
    assert labels <= {"route", "method", "status", "le", "provider", "section", "source", "kind", "pool", "reason"}


def test_who_may_read_them(api: httpx2.Client, service: Service) -> None:
    url = f"{service.url}/metrics"
    assert httpx2.get(url).status_code == 200
    refused(httpx2.get(url, headers=ELSEWHERE), 401, "unauthenticated")
    refused(httpx2.get(url, headers={**ELSEWHERE, "authorization": "Bearer msk_wrong"}), 401, "unauthenticated")
    assert api.get("/metrics", headers=ELSEWHERE).status_code == 200


def test_connections(database_url: str, api_key: str) -> None:
    service = Service.start(env={"MEMORY_DATABASE_URL": database_url, "MEMORY_DATABASE_CONNECTIONS": "2"})
    try:
        assert read(service.url)['memory_database_connections{pool="app"}'] == 2
        assert read(service.url)["memory_http_requests_in_flight"] == 0
        with appends(service, api_key, database_url, "one", "two") as waiting:
            waiting.add("three", "four", "five")
            until(lambda: read(service.url)['memory_database_connections_waiting{pool="app"}'] == 3)
            now = read(service.url)
            assert now['memory_database_connections_in_use{pool="app"}'] == 2
            assert now["memory_http_requests_in_flight"] == 5
            assert httpx2.get(f"{service.url}/readyz").status_code == 200, "it is busy, and ready"
            waiting.let_go()
        now = read(service.url)
        assert now['memory_database_connections_in_use{pool="app"}'] == 0
        assert now['memory_database_connections_waiting{pool="app"}'] == 0
    finally:
        service.stop()


def test_a_database_that_is_gone(postgres: EmbeddedPostgres) -> None:
    with made_database(postgres) as url:
        migrate(url)
        service = Service.start(env={"MEMORY_DATABASE_URL": url})
        assert read(service.url)["memory_database_up"] == 1
        ok(httpx2.get(f"{service.url}/readyz"))
    try:
        assert read(service.url)["memory_database_up"] == 0
        error = refused(httpx2.get(f"{service.url}/readyz"), 503, "database_not_ready", says="(refused)")
        assert error["details"] == {"reason": "refused"}
        assert urlsplit(url).path.strip("/") not in str(error), "anybody may ask, and is told no names"
        ok(httpx2.get(f"{service.url}/healthz"))
    finally:
        service.stop()
    assert "does not exist" in "".join(service.log)
