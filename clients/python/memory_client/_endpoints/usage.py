from __future__ import annotations

from datetime import datetime
from typing import Literal

from memory_client._endpoints._paging import Order, page_query
from memory_client._request import Request, api_path, get
from memory_client.usage import Usage


def get_(
    *,
    group_by: Literal["day", "model", "thread", "user"] | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    model: str | None = None,
    thread_id: str | None = None,
    user_id: str | None = None,
    limit: int | None = None,
    after: str | None = None,
    before: str | None = None,
    order: Order | None = None,
) -> Request[Usage]:
    """What calls of models read, wrote and cost, against no caching and against what was predicted.

    Calls from `since` on and before `until` (times with an offset). Without `group_by` there are totals only; days come in
    their order, other groups by what they cost.
    """
    query: dict[str, str | int | None] = {
        "group_by": group_by,
        "since": _moment(since, "since"),
        "until": _moment(until, "until"),
        "model": model,
        "thread_id": thread_id,
        "user_id": user_id,
    }
    return get(api_path("usage"), Usage.from_json, query | page_query(limit, after, before, order))


def _moment(value: datetime | str | None, name: str) -> str | None:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone: {value!r}")
    return value.isoformat()
