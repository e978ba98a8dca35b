from __future__ import annotations

from memory_client._request import Request, api_path, get, nothing
from memory_client.objects import ErasedUser, User


def get_(user_id: str) -> Request[User]:
    """How much is held of an end user; zeros for one of whom nothing is."""
    return get(api_path("users/{user_id}", user_id=user_id), User.from_json)


def export(user_id: str) -> Request[None]:
    """All that is held of an end user, as NDJSON. Iterate the result for its lines, or call `write_to(path)` on it."""
    return get(api_path("users/{user_id}", user_id=user_id), nothing, {"format": "ndjson"})


def delete_(user_id: str) -> Request[ErasedUser]:
    """Erase an end user: threads, messages, prompts, and the name in the ledger. Safe to repeat. Returns how much was
    deleted."""
    return Request("DELETE", api_path("users/{user_id}", user_id=user_id), ErasedUser.from_json)
