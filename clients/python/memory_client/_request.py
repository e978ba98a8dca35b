"""A call before it is sent: a value that says what goes out and how the answer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote

from ._encode import encode

T = TypeVar("T")


class NotGiven(Enum):
    """The type of `NOT_GIVEN`: an argument left out, which None is not (None sets a field to null)."""

    NOT_GIVEN = "NOT_GIVEN"

    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __bool__(self) -> Literal[False]:
        return False


NOT_GIVEN: Final = NotGiven.NOT_GIVEN


@dataclass(frozen=True)
class Request(Generic[T]):
    method: str
    path: str
    parse: Callable[[Any], T]
    """From the JSON of a successful answer (None where it has no body); ValueError when it does not fit."""
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    idempotency_key: str | None = None
    """The caller's own; a POST without one gets a fresh one when it is sent."""


def get(path: str, parse: Callable[[Any], T], query: Mapping[str, str | int | None] | None = None) -> Request[T]:
    pairs = tuple((name, str(value)) for name, value in (query or {}).items() if value is not None)
    return Request("GET", path, parse, query=pairs)


def post(path: str, parse: Callable[[Any], T], body: Mapping[str, object], idempotency_key: str | None) -> Request[T]:
    """Fields that are None are left out: on POST, absent and null mean the same."""
    given = {name: value for name, value in body.items() if value is not None}
    return Request("POST", path, parse, body=encode(given), idempotency_key=idempotency_key)


def patch(path: str, parse: Callable[[Any], T], changes: Mapping[str, object]) -> Request[T]:
    """Fields that are NOT_GIVEN are left out; None is sent as null."""
    given = {name: value for name, value in changes.items() if value is not NOT_GIVEN}
    return Request("PATCH", path, parse, body=encode(given))


def delete(path: str) -> Request[None]:
    return Request("DELETE", path, nothing)


def nothing(_: Any) -> None:
    return None


def api_path(*segments: str) -> str:
    """`/v1/…` of segments, each quoted. An empty id would address the whole list: refused."""
    for segment in segments:
        if not isinstance(segment, str):
            raise TypeError(f"an id is a string, not {type(segment).__name__}")
        if segment.strip(". ") == "":
            raise ValueError(f"{segment!r} is not an id")
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
