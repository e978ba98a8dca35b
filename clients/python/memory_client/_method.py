"""How a signature is written once and serves both clients.

An endpoint is a function from arguments to a `Request`. `Method` makes a method that builds the request and
hands it to the client it hangs on; what that returns (a value, an awaitable, a page) is up to `perform`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, overload

P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")


class BelongsToClient(Protocol):
    @property
    def _client(self) -> Any: ...


class Method(Generic[P, R]):
    def __init__(self, build: Callable[P, Q], perform: Callable[[Any, Q], R]) -> None:
        def call(owner: BelongsToClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return perform(owner._client, build(*args, **kwargs))

        functools.update_wrapper(call, build)
        call.__signature__ = _with_self(inspect.signature(build))  # type: ignore[attr-defined]
        self._call = call
        self.__doc__ = build.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._call.__name__ = name
        self._call.__qualname__ = f"{owner.__qualname__}.{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: BelongsToClient, owner: type) -> Callable[P, R]: ...

    def __get__(self, instance: BelongsToClient | None, owner: type) -> Self | Callable[P, R]:
        return self if instance is None else MethodType(self._call, instance)


def _with_self(signature: inspect.Signature) -> inspect.Signature:
    """The builder's return annotation, a Request, would mislead in help(): it is left out."""
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(
        parameters=[this, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
