from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory_client._encode import JSONObject
from memory_client._endpoints._paging import Order, page_query
from memory_client._request import NOT_GIVEN, NotGiven, Request, api_path, delete, get, patch, post
from memory_client.objects import Assistant, Listing, listing_of


def create(
    *,
    model: str | None = None,
    provider: str | None = None,
    name: str | None = None,
    instructions: str | None = None,
    tools: Sequence[JSONObject] | None = None,
    documents: Sequence[JSONObject] | None = None,
    defaults: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Request[Assistant]:
    """Create an assistant: the part of a prompt that threads share. Returns the Assistant."""
    body = {
        "model": model,
        "provider": provider,
        "name": name,
        "instructions": instructions,
        "tools": tools,
        "documents": documents,
        "defaults": defaults,
        "metadata": metadata,
    }
    return post(api_path("assistants"), Assistant.from_json, body, idempotency_key)


def list_(
    *,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Listing[Assistant]]:
    """List assistants, newest first. Returns a page; iterating it walks all."""
    return get(api_path("assistants"), listing_of(Assistant), page_query(limit, after, before, order))


def get_(assistant_id: str) -> Request[Assistant]:
    return get(api_path("assistants/{assistant_id}", assistant_id=assistant_id), Assistant.from_json)


def update(
    assistant_id: str,
    *,
    model: str | NotGiven | None = NOT_GIVEN,
    provider: str | NotGiven | None = NOT_GIVEN,
    name: str | NotGiven | None = NOT_GIVEN,
    instructions: str | NotGiven | None = NOT_GIVEN,
    tools: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    documents: Sequence[JSONObject] | NotGiven | None = NOT_GIVEN,
    defaults: Mapping[str, Any] | NotGiven | None = NOT_GIVEN,
    metadata: Mapping[str, str | None] | NotGiven = NOT_GIVEN,
) -> Request[Assistant]:
    """Change what is given: None clears a field. `metadata` is merged, and a None in it removes that key."""
    changes = {
        "model": model,
        "provider": provider,
        "name": name,
        "instructions": instructions,
        "tools": tools,
        "documents": documents,
        "defaults": defaults,
        "metadata": metadata,
    }
    return patch(api_path("assistants/{assistant_id}", assistant_id=assistant_id), Assistant.from_json, changes)


def delete_(assistant_id: str) -> Request[None]:
    return delete(api_path("assistants/{assistant_id}", assistant_id=assistant_id))
