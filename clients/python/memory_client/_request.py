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
    headers: tuple[tuple[str, str], ...] = ()


def get(path: str, parse: Callable[[Any], T], query: Mapping[str, str | int | None] | None = None) -> Request[T]:
    return Request("GET", path, parse, query=_pairs(query or {}))


def post(path: str, parse: Callable[[Any], T], body: Mapping[str, object], idempotency_key: str | None) -> Request[T]:
    """Fields that are None are left out: where something is made, absent and null mean the same."""
    given = {name: value for name, value in body.items() if value is not None}
    return Request("POST", path, parse, body=encode(given), idempotency_key=idempotency_key)


def post_changes(
    path: str, parse: Callable[[Any], T], changes: Mapping[str, object], idempotency_key: str | None
) -> Request[T]:
    """Fields that are NOT_GIVEN are left out; None is sent as null."""
    return Request("POST", path, parse, body=_encoded_changes(changes), idempotency_key=idempotency_key)


def patch(path: str, parse: Callable[[Any], T], changes: Mapping[str, object]) -> Request[T]:
    """Fields that are NOT_GIVEN are left out; None is sent as null."""
    return Request("PATCH", path, parse, body=_encoded_changes(changes))


def delete(path: str, query: Mapping[str, str] | None = None) -> Request[None]:
    return Request("DELETE", path, nothing, query=_pairs(query or {}))


def _pairs(query: Mapping[str, str | int | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in query.items() if value is not None)


def _encoded_changes(changes: Mapping[str, object]) -> bytes:
    return encode({name: value for name, value in changes.items() if value is not NOT_GIVEN})


def nothing(_: Any) -> None:
    return None


def api_path(template: str, **ids: str) -> str:
    """`/v1/…` with the ids, by the names of the caller's arguments, each quoted.

    An empty id would address the whole list: refused.
    """
    for name, id_ in ids.items():
        if not isinstance(id_, str):
            raise TypeError(f"{name} is a string, not {type(id_).__name__}")
        if id_.strip(". ") == "":
            raise ValueError(f"{name}: {id_!r} is not an id")
    return "/v1/" + template.format_map({name: quote(id_, safe="") for name, id_ in ids.items()})
