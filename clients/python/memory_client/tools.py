"""Plain functions as a model's tools: described from their type hints and docstrings, called with what the model sends."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ._encode import JSONObject, plain
from .runs import ToolCall

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Toolbox:
    """Functions by name.

    Parameters may be `str`, `int`, `float`, `bool`, `list[…]`, `dict[str, …]`, `Literal[…]`, an `Enum`, `… | None`, `Any`,
    or one of them as `Annotated[…, "what it is"]`; anything else is a TypeError.

    Definitions (dicts) may stand among the functions; they are told to the model and not called from here.
    """

    def __init__(self, tools: Sequence[Callable[..., Any] | JSONObject]) -> None:
        self._functions = {_name(tool): tool for tool in tools if callable(tool)}
        self.definitions: list[JSONObject] = [definition(tool) if callable(tool) else tool for tool in tools]
        if len(self._functions) < sum(callable(tool) for tool in tools):
            raise TypeError("two tools have the same name")

    @property
    def has_functions(self) -> bool:
        return bool(self._functions)

    def check_blocking(self) -> None:
        for name, function in self._functions.items():
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{name} is a coroutine function: AsyncMemoryClient can call it, MemoryClient cannot")

    def outputs(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """Call the functions in order; what they return or raise, as `submit_tool_outputs` takes it."""
        return [self._output(call) for call in calls]

    async def outputs_async(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """Call them side by side: coroutine functions here, plain ones in threads."""
        return list(await asyncio.gather(*(self._output_async(call) for call in calls)))

    def _output(self, call: ToolCall) -> dict[str, Any]:
        try:
            function = self._function(call)
            return _returned(call, function(**_arguments(function, call.input)))
        except Exception as error:
            return _raised(call, error)

    async def _output_async(self, call: ToolCall) -> dict[str, Any]:
        try:
            function = self._function(call)
            arguments = _arguments(function, call.input)
            if inspect.iscoroutinefunction(function):
                return _returned(call, await function(**arguments))
            return _returned(call, await asyncio.to_thread(function, **arguments))
        except Exception as error:
            return _raised(call, error)

    def _function(self, call: ToolCall) -> Callable[..., Any]:
        if call.name not in self._functions:
            raise LookupError(f"there is no tool {call.name!r}")
        return self._functions[call.name]


def definition(function: Callable[..., Any]) -> dict[str, Any]:
    """The function as a tool in Anthropic's format."""
    name, parameters = _name(function), _parameters(function)
    properties = {key: _schema(hint, f"{name}({key})") for key, (hint, _) in parameters.items()}
    schema = {
        "type": "object",
        "properties": properties,
        "required": [key for key, (_, required) in parameters.items() if required],
        "additionalProperties": False,
    }
    described = inspect.getdoc(function)
    return {"name": name, **({"description": described} if described else {}), "input_schema": schema}


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if not inspect.isroutine(function) or not _NAME.fullmatch(name):
        raise TypeError(f"a tool is a function or method with a name of its own, not {function!r}")
    return name


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """By name, the hint, and whether it must be given."""
    hints, found = typing.get_type_hints(function, include_extras=True), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{_name(function)}({parameter}): a model gives arguments by name only")
        if name not in hints:
            raise TypeError(f"{_name(function)}({name}) needs a type hint")
        found[name] = hints[name], parameter.default is parameter.empty
    return found


def _schema(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [text for text in arguments[1:] if isinstance(text, str)]
        return {**_schema(arguments[0], where), **({"description": texts[0]} if texts else {})}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(argument, where) for argument in arguments]}
    if hint is Any:
        return {}
    if hint is types.NoneType:
        return {"type": "null"}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if _choices(hint) is not None:
        return {"enum": [value for value, _ in _choices(hint) or ()]}
    if (origin or hint) is list:
        return {"type": "array", "items": _schema(arguments[0], where) if arguments else {}}
    if (origin or hint) is dict and arguments[:1] in ((), (str,)):
        return {"type": "object", "additionalProperties": _schema(arguments[1], where) if arguments else {}}
    raise TypeError(f"{where}: a tool cannot take {hint!r}")


def _choices(hint: Any) -> list[tuple[Any, Any]] | None:
    """Of a Literal or an Enum: what the model sends, and what the function gets for it."""
    if typing.get_origin(hint) is Literal:
        return [(value, value) for value in typing.get_args(hint)]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [(member.value, member) for member in hint]
    return None


def _arguments(function: Callable[..., Any], sent: dict[str, Any]) -> dict[str, Any]:
    """Raises TypeError for what the function does not take; the model is told so, and may call again."""
    parameters = _parameters(function)
    inspect.signature(function).bind(**sent)
    return {key: _read(parameters[key][0], value, key) for key, value in sent.items()}


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _read(arguments[0], value, where)
    if origin in (types.UnionType, typing.Union):
        return _first_that_fits(arguments, value, where)
    if hint is Any:
        return value
    choices = _choices(hint)
    if choices is not None:
        return _chosen(choices, value, where)
    if (origin or hint) is list and isinstance(value, list):
        return [_read(arguments[0], item, where) for item in value] if arguments else value
    if (origin or hint) is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, where) for key, item in value.items()} if arguments else value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError(f"{where}: {value!r:.80} is not of type {getattr(hint, '__name__', hint)}")
    return value


def _first_that_fits(hints: Sequence[Any], value: Any, where: str) -> Any:
    for hint in hints:
        try:
            return _read(hint, value, where)
        except TypeError:
            continue
    raise TypeError(f"{where}: {value!r:.80} does not fit")


def _chosen(choices: Sequence[tuple[Any, Any]], value: Any, where: str) -> Any:
    for sent, meant in choices:
        if type(sent) is type(value) and sent == value:
            return meant
    raise TypeError(f"{where}: {value!r:.80} is none of {', '.join(repr(sent) for sent, _ in choices)}")


def _returned(call: ToolCall, value: Any) -> dict[str, Any]:
    content = _content(value)
    if isinstance(content, str):
        content.encode()  # half a character cannot be sent
    return {"tool_use_id": call.id, "content": content}


def _raised(call: ToolCall, error: Exception) -> dict[str, Any]:
    return {"tool_use_id": call.id, "content": _sendable(f"{type(error).__name__}: {error}"), "is_error": True}


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\0", "?")


def _content(value: Any) -> Any:
    """Text as it is, content blocks as they are, anything else as JSON."""
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    value = plain(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) and "type" in item for item in value):
        return value
    return json.dumps(value, ensure_ascii=False)
