"""Which page comes after this one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ._request import Request
from .objects import Listing

T = TypeVar("T")


def next_page_request(request: Request[Listing[T]], page: Listing[T]) -> Request[Listing[T]] | None:
    """The same request with the cursor moved; None at the end. What began with `before` goes on backwards."""
    if not page.has_more or not page.data:
        return None
    backwards = "before" in dict(request.query)
    cursor = ("before", page.first_id) if backwards else ("after", page.last_id)
    if cursor[1] is None:
        return None
    others = tuple(pair for pair in request.query if pair[0] not in ("after", "before"))
    return replace(request, query=(*others, (cursor[0], cursor[1])))
