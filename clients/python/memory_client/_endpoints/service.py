from __future__ import annotations

from memory_client._ndjson import NDJSONSource, read_source
from memory_client._request import Request, api_path, get, post
from memory_client.objects import Health, ImportReport, SearchHits, search_hits


def search(
    q: str, user_id: str, limit: int | None = None, *, idempotency_key: str | None = None
) -> Request[SearchHits]:
    """The messages most relevant to `q` across all threads of one user, best first."""
    body = {"q": q, "user_id": user_id, "limit": limit}
    return post(api_path("search"), search_hits, body, idempotency_key)


def import_ndjson(source: NDJSONSource, *, idempotency_key: str | None = None) -> Request[ImportReport]:
    """Import what `threads.export` gave: bytes, lines, or the path of a file. Returns the counts."""
    return Request(
        "POST",
        api_path("import"),
        ImportReport.from_json,
        body=read_source(source),
        content_type="application/x-ndjson",
        idempotency_key=idempotency_key,
    )


def health() -> Request[Health]:
    """Whether the server is up."""
    return get("/healthz", Health.from_json)
