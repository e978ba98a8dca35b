"""From JSON to typed objects: dataclasses declare the fields, one decoder reads them.

Fields the server adds later are kept in `raw`; a field it leaves out takes its default, if it has one.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Model:
    raw: dict[str, Any] = field(repr=False, compare=False)
    """The server's JSON, with whatever this version of the client has no name for."""

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ValueError where `value` is not of this shape."""
        if not isinstance(value, dict):
            raise ValueError(f"{cls.__name__}: expected an object, got {type(value).__name__}")
        read: dict[str, Any] = {"raw": value}
        for name, hint, required in _readable_fields(cls):  # type: ignore[arg-type] # a class is hashable
            if value.get(name) is not None:
                read[name] = _decoded(hint, value[name], f"{cls.__name__}.{name}")
            elif required:
                raise ValueError(f"{cls.__name__}.{name} is missing")
        return cls(**read)


@cache
def _readable_fields(cls: type[Model]) -> list[tuple[str, Any, bool]]:
    hints = typing.get_type_hints(cls)
    return [
        (f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
        if f.name != "raw"
    ]


def _decoded(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # X | None, and None never gets here
        return _decoded(arguments[0], value, where)
    if origin is list and isinstance(value, list):
        return [_decoded(arguments[0], item, where) for item in value]
    if isinstance(hint, type) and issubclass(hint, Model):
        return hint.from_json(value)
    return _scalar(origin or hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    try:
        if hint is datetime:
            return _aware(datetime.fromisoformat(value))
        if hint is float and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {value!r:.80} is not a {hint.__name__}") from None
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
