from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_client._encode import JSONObject, MessageInput, message
from memory_client._endpoints._paging import Order, page_query
from memory_client._request import (
    NOT_GIVEN,
    NotGiven,
    Request,
    api_path,
    delete,
    get,
    nothing,
    patch,
    post,
    post_changes,
)
from memory_client.objects import Listing, SearchHits, Thread, listing_of, search_hits


def create(
    *,
    user_id: str | None = None,
    assistant_id: str | None = None,
    instructions: str | None = None,
    tools: Sequence[JSONObject] | None = None,
    documents: Sequence[JSONObject] | None = None,
    metadata: Mapping[str, str] | None = None,
    truncation_strategy: Mapping[str, Any] | None = None,
    messages: Sequence[MessageInput] | None = None,
    idempotency_key: str | None = None,
) -> Request[Thread]:
    """Create a thread, with its first messages if there are any. Returns the Thread."""
    body = {
        "user_id": user_id,
        "assistant_id": assistant_id,
        "instructions": instructions,
        "tools": tools,
        "documents": documents,
        "metadata": metadata,
        "truncation_strategy": truncation_strategy,
        "messages": None if messages is None else [message(item) for item in messages],
    }
    return post(api_path("threads"), Thread.from_json, body, idempotency_key)


def list_(
    *,
    user_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Listing[Thread]]:
    """List threads, newest first unless `order="asc"`. Returns a page; iterating it walks all."""
    query: dict[str, str | int | None] = {"user_id": user_id}
    query |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
    query |= page_query(limit, after, before, order)
    return get(api_path("threads"), listing_of(Thread), query)


def get_(thread_id: str) -> Request[Thread]:
    return get(api_path("threads/{thread_id}", thread_id=thread_id), Thread.from_json)


def update(
    thread_id: str,
    *,
    user_id: str | NotGiven | None = NOT_GIVEN,
    assistant_id: str | NotGiven | None = NOT_GIVEN,
    instructions: str | NotGiven | None = NOT_GIVEN,
    tools: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    documents: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    metadata: Mapping[str, str | None] | NotGiven = NOT_GIVEN,
    truncation_strategy: Mapping[str, Any] | NotGiven | None = NOT_GIVEN,
) -> Request[Thread]:
    """Change what is given: None clears a field. `metadata` is merged, and a None in it removes that key."""
    changes = {
        "user_id": user_id,
        "assistant_id": assistant_id,
        "instructions": instructions,
        "tools": tools,
        "documents": documents,
        "metadata": metadata,
        "truncation_strategy": truncation_strategy,
    }
    return patch(api_path("threads/{thread_id}", thread_id=thread_id), Thread.from_json, changes)


def delete_(thread_id: str) -> Request[None]:
    """Delete a thread and all it holds."""
    return delete(api_path("threads/{thread_id}", thread_id=thread_id))


def fork(
    thread_id: str,
    seq: int,
    *,
    user_id: str | NotGiven | None = NOT_GIVEN,
    assistant_id: str | NotGiven | None = NOT_GIVEN,
    instructions: str | NotGiven | None = NOT_GIVEN,
    tools: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    documents: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    metadata: Mapping[str, str] | NotGiven | None = NOT_GIVEN,
    truncation_strategy: Mapping[str, Any] | NotGiven | None = NOT_GIVEN,
    idempotency_key: str | None = None,
) -> Request[Thread]:
    """A new thread with a copy of the history up to and including `seq`.

    What is given is the copy's own, None leaves a field out, and all else is copied.
    """
    body = {
        "seq": seq,
        "user_id": user_id,
        "assistant_id": assistant_id,
        "instructions": instructions,
        "tools": tools,
        "documents": documents,
        "metadata": metadata,
        "truncation_strategy": truncation_strategy,
    }
    path = api_path("threads/{thread_id}/fork", thread_id=thread_id)
    return post_changes(path, Thread.from_json, body, idempotency_key)


def search(thread_id: str, q: str, *, limit: int | None = None) -> Request[SearchHits]:
    """The messages of this thread most relevant to `q`, best first."""
    return get(api_path("threads/{thread_id}/search", thread_id=thread_id), search_hits, {"q": q, "limit": limit})


def export(thread_id: str) -> Request[None]:
    """The thread as NDJSON. Iterate the result for its lines, or call `write_to(path)` on it."""
    return get(api_path("threads/{thread_id}/export", thread_id=thread_id), nothing)
