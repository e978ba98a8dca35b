"""JSON whose bytes never move: the form in which content is stored and sent.

A provider's prompt cache compares bytes. So content is brought into one form when it is written, and that text is what
every later prompt repeats: no spaces, keys in the order they came, characters unescaped, and numbers exactly as the
caller spelled them (a float would turn 1.10 into 1.1).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from json.encoder import encode_basestring
from typing import Any, NoReturn, Self

from memory_service.errors import InvalidInput

MAX_DEPTH = 64
_MAX_FIELD_CHARACTERS = 200


class Number(float):
    """A JSON number that remembers its spelling."""

    literal: str

    def __new__(cls, literal: str) -> Self:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


class Raw(str):
    """Text that is canonical JSON already; `dumps` writes it as it stands."""


def loads(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """Parse JSON, keeping the spelling of numbers. With `unique_keys` an object may have each key once.

    Raises InvalidInput (`invalid_json`) with the position for anything that is not JSON in UTF-8.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return (_STRICT if unique_keys else _PLAIN).decode(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"Not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            code="invalid_json",
            position=error.pos,
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"Not valid UTF-8 at byte {error.start}; send JSON encoded as UTF-8.",
            code="invalid_json",
            position=error.start,
        ) from None
    except RecursionError:
        raise InvalidInput(
            f"Nested too deeply; at most {MAX_DEPTH} levels are accepted.", code="invalid_json"
        ) from None


def dumps(value: Any) -> str:
    """Write canonical JSON. Equal input gives equal text. A dataclass is written as an object of its fields."""
    write = _WRITERS.get(type(value))
    return write(value) if write else _dumps_other(value)


def dumps_own(value: Any) -> str:
    """As `dumps`, several times as fast, of what is our own: no Number, no Raw and no mapping but a dict is in it."""
    return _OWN.encode(value)


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


_OWN = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_fields_of
)


def _dumps_object(value: Mapping[str, Any]) -> str:
    # Strings, which are most of what there is, without another call.
    return (
        "{"
        + ",".join(
            [f"{encode_basestring(k)}:{encode_basestring(v) if type(v) is str else dumps(v)}" for k, v in value.items()]
        )
        + "}"
    )


def _dumps_array(value: Sequence[Any]) -> str:
    return "[" + ",".join([dumps(item) for item in value]) + "]"


def _dumps_other(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, Mapping):
        return _dumps_object(value)
    if isinstance(value, list | tuple):
        return _dumps_array(value)
    if is_dataclass(value):
        return _dumps_object(_fields_of(value))
    return json.dumps(value, allow_nan=False)


# By exact type: a prompt's blocks and plan are thousands of values.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    Raw: str.__str__,
    dict: _dumps_object,
    list: _dumps_array,
    tuple: _dumps_array,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    Number: lambda value: value.literal,
}


def check_text(value: Any, field: str) -> None:
    """Refuse what neither Postgres nor a provider can carry, naming the field. An empty `field` is the whole body.

    Raises InvalidInput (`invalid_text`) for U+0000, lone surrogates and nesting over MAX_DEPTH.
    """
    if not _is_clean(value, MAX_DEPTH):  # nearly always it is, and names of fields need not be put together
        _check(value, field, MAX_DEPTH)


def _is_clean(value: Any, depth: int) -> bool:
    if depth == 0:
        return False
    if type(value) is str:
        return "\0" not in value and (value.isascii() or _is_encodable(value))
    if type(value) is dict:
        return all(_is_clean(key, depth) and _is_clean(item, depth - 1) for key, item in value.items())
    if type(value) is list:
        return all(_is_clean(item, depth - 1) for item in value)
    return not isinstance(value, str | Mapping | list)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(value: Any, field: str, depth: int) -> None:
    if depth == 0:
        raise InvalidInput(
            f"`{field[:_MAX_FIELD_CHARACTERS]}` is nested too deeply; at most {MAX_DEPTH} levels are accepted.",
            code="invalid_json",
        )
    if isinstance(value, str):
        _check_string(value, field)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_string(key, f"{field or 'body'} (a key)")
            _check(item, f"{field}.{key}" if field else key, depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{field}[{index}]", depth - 1)


def _check_string(text: str, field: str) -> None:
    field = (field or "body")[:_MAX_FIELD_CHARACTERS]
    if "\0" in text:
        raise InvalidInput(f"`{field}` contains U+0000; remove it.", code="invalid_text", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"`{field}` contains a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}; "
            "send whole characters (a surrogate pair or UTF-8).",
            code="invalid_text",
            field=field,
        ) from None


def _parse_int(literal: str) -> int | Number:
    # "-0" is not 0 to a byte-wise reader, and int() refuses to parse thousands of digits.
    return Number(literal) if literal == "-0" or len(literal) > 18 else int(literal)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        shown = repeated[:_MAX_FIELD_CHARACTERS].encode(errors="replace").decode()
        raise InvalidInput(
            f"`{shown}` stands twice in one object; send each key once.", code="invalid_json", field=shown
        )
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInput(f"Not valid JSON: {name} is not a JSON value.", code="invalid_json")


# Made once: json.loads makes one for each text.
_PLAIN, _STRICT = (
    json.JSONDecoder(
        parse_float=Number, parse_int=_parse_int, parse_constant=_refuse_constant, object_pairs_hook=pairs_hook
    )
    for pairs_hook in (None, _unique)
)
